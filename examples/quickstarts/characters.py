"""Learn a text letter by letter, and write verses like it.

Copy the whole file. For your own text, replace `TEXT`, for example by `open("my.txt").read()`. The
loss is measured on the training text. If your text is long, hold out a part and measure the loss on
that part. The file needs only seqjax, flax and optax.

    python -m examples.quickstarts.characters
"""

import jax
import numpy as np
import optax
from flax import nnx

import seqjax

# After a nursery rhyme of 1755, in which each verse puts one more line before the others.
LINES = """lay in the house that Jack built|ate the malt that|killed the rat that
worried the cat that|tossed the dog that|milked the cow with the crumpled horn that
kissed the maiden all forlorn that|married the man all tattered and torn that
waked the priest all shaven and shorn that|kept the cock that crowed in the morn that"""
PARTS = LINES.replace("\n", "|").split("|")
NOUNS = ["malt", "rat", "cat", "dog", "cow", "maiden", "man", "priest", "cock", "farmer"]
VERSES = [f"This is the {noun} that {' '.join(PARTS[i::-1])}." for i, noun in enumerate(NOUNS)]
TEXT = "\n" + "\n".join(VERSES) + "\n"
LETTERS = sorted(set(TEXT))
WINDOW, BATCH, UPDATES = 64, 32, 400


class LanguageModel(nnx.Module):
    """An LSTM that reads letters and returns, for each letter, the logits of the next letter."""

    def __init__(self, rngs):
        self.embedding = nnx.Embed(len(LETTERS), 32, rngs=rngs)
        self.recurrent = seqjax.nn.LSTM(32, 128, rngs=rngs)
        self.readout = nnx.Linear(128, len(LETTERS), rngs=rngs)

    def __call__(self, letters):
        return self.readout(self.recurrent(self.embedding(letters)).outputs)

    def step(self, letter, state):
        output, state = self.recurrent.step(self.embedding(letter), state)
        return self.readout(output), state


@nnx.jit
def train_step(model, optimizer, windows):
    """Update the model with a batch of windows [B, T + 1] of the text, and return the loss."""

    def loss_fn(model):
        return seqjax.losses.cross_entropy(model(windows[:, :-1]), windows[:, 1:])

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def write(model, key):
    """Sample letters from the model until a line ends."""
    line_end, state = LETTERS.index("\n"), model.recurrent.initial_state([1])
    return seqjax.decoding.sample(
        model.step, state, key, begin=line_end, end=line_end, max_length=400, temperature=0.7
    )


def main():
    """Train, print three verses, and return the last loss and the verses."""
    rng, ids = np.random.default_rng(0), np.array([LETTERS.index(letter) for letter in TEXT])
    model = LanguageModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    for update in range(UPDATES):
        starts = rng.integers(len(ids) - WINDOW, size=BATCH)
        loss = train_step(model, optimizer, ids[starts[:, None] + np.arange(WINDOW + 1)])
        if update % 100 == 0 or update == UPDATES - 1:
            print(f"update {update + 1}  loss {loss:.3f} nats a letter")
    drawn = [write(model, jax.random.key(seed)).tokens[0, 0] for seed in range(3)]
    verses = ["".join(LETTERS[i] for i in tokens).partition("\n")[0] for tokens in drawn]
    print(*verses, sep="\n")
    return float(loss), verses


if __name__ == "__main__":
    main()
