"""Rewrite dates in ISO 8601 by an encoder-decoder: "Sunday, 3 May 1998" as "1998-05-03".

Copy the whole file. For pairs of your own, replace `make_pairs` and the two alphabets. The decoder
looks at the source with the attention of Bahdanau, Cho and Bengio (2015), the default of `Seq2Seq`.
The file needs only seqjax, flax and optax.

    python -m examples.quickstarts.transliterate
"""

import datetime
import string

import numpy as np
import optax
from flax import nnx

import seqjax

FORMATS = ["%d %B %Y", "%B %d, %Y", "%A, %d %b %Y", "%a %d/%m/%Y", "%d.%m.%Y", "%b %d %Y"]
SOURCE = " ,./" + string.digits + string.ascii_letters
TARGET = "^$-" + string.digits  # ^ begins a target, $ ends it
STEPS, BATCH, UPDATES = 24, 128, 200


def make_pairs(rng, days):
    """Return sources [N, S] padded with zeros, their lengths [N] and targets [N, 12]."""
    dates = [datetime.date.fromordinal(int(day)) for day in days]
    texts = [date.strftime(rng.choice(FORMATS)) for date in dates]
    sources = [[SOURCE.index(letter) for letter in text] for text in texts]
    sources_padded = np.array([ids + [0] * (STEPS - len(ids)) for ids in sources])
    targets = [[TARGET.index(letter) for letter in f"^{date.isoformat()}$"] for date in dates]
    return sources_padded, np.array([len(ids) for ids in sources]), np.array(targets)


@nnx.jit
def train_step(model, optimizer, sources, lengths, targets):
    """Update the model by one batch, with the correct letters as the decoder's inputs."""

    def loss_fn(model):
        logits = model(sources, targets[:, :-1], lengths=lengths)
        return seqjax.losses.cross_entropy(logits, targets[:, 1:])

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def rewrite(model, sources, lengths):
    """Decode a target for each source: at each step, take the most probable letter."""
    step, state = model.decoding(model.encoder(sources, lengths=lengths))
    begin, end = TARGET.index("^"), TARGET.index("$")
    return seqjax.decoding.greedy(step, state, begin=begin, end=end, max_length=11).tokens[:, 0]


def main():
    """Train, and return the share of held-out dates that are rewritten without an error."""
    rng, first = np.random.default_rng(0), datetime.date(1950, 1, 1).toordinal()
    days = first + rng.permutation(36525)  # a century, each day once
    train, (sources, lengths, targets) = make_pairs(rng, days[500:]), make_pairs(rng, days[:500])
    model = seqjax.seq2seq.Seq2Seq(
        source_vocabulary=len(SOURCE),
        target_vocabulary=len(TARGET),
        embed_size=32,
        hidden_size=64,
        cell="gru",
        attention="additive",
        rngs=nnx.Rngs(0),
    )
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    for update in range(UPDATES):
        rows = rng.integers(len(train[0]), size=BATCH)
        loss = train_step(model, optimizer, *(array[rows] for array in train))
        if update % 40 == 39:
            right = np.all(rewrite(model, sources, lengths) == targets[:, 1:], axis=1)
            print(f"update {update + 1}  loss {loss:.3f}  held-out exact match {right.mean():.3f}")
    for row, written in enumerate(rewrite(model, sources, lengths)[:3]):
        source = "".join(SOURCE[i] for i in sources[row, : lengths[row]])
        print(source, "->", "".join(TARGET[i] for i in written[:-1]))
    return float(right.mean())


if __name__ == "__main__":
    main()
