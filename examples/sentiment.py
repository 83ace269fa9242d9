"""Does a review like the film? Sentiment, many-to-one: many words in, one number out.

The data is 10,605 sentences of film reviews, each rated from -4 to 4 by twenty people or more
(Hutto, Gilbert 2014), from the source archive of vaderSentiment; positive is what they rated above
0 in the mean. Or whole reviews of IMDB (Maas et al. 2011): --data aclImdb or --tfds imdb_reviews.

    python -m examples.sentiment --say "Not a bad film, but nothing I would watch again."
    python -m examples.sentiment --data aclImdb --preset tutorial --out out/tutorial

A tenth of the sentences is for the test and a tenth for choosing the epoch, by a hash of the words:
the same ones for every seed, and equal sentences on one side.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import baselines, reviews
from seqjax import cells, losses, metrics, nn, sequences, training
from seqjax.data import Vocabulary, batches, pad


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Trains a recurrent reader and a bag of words; draws how the reader's mind changes."""

    data: Path = reviews.DEFAULT
    """The source archive of vaderSentiment 3.3.2, or its folder; or the folder aclImdb; with
    --tfds, the folder of prepared sets."""
    tfds: str | None = None
    """A set of tensorflow-datasets with fields text and label instead, such as imdb_reviews."""
    preset: Literal["strong", "tutorial"] = "strong"
    """tutorial is the SimpleRNN of a Keras tutorial: it changes the options left as they are."""
    say: tuple[str, ...] = (
        "Not a bad film, but nothing I would watch again.",
        "What begins as a dull and predictable story becomes a moving and wonderful film.",
    )
    """Texts for which the plot shows the prediction after each word."""
    cell: str = "gru"
    """A name of seqjax.CELLS."""
    bidirectional: bool = True
    """Whether the text is read from both ends."""
    pooling: Literal["mean_max", "last"] = "mean_max"
    """What is kept of the outputs: their mean and maximum over the words, or the last one."""
    hidden_size: int = 64
    """Units of each direction."""
    embed_size: int = 64
    """Features of a word."""
    vocabulary_size: int = 20_000
    """Words that are known at most."""
    max_words: int = 500
    """Of a longer text the last so many words are read."""
    dropout: float = 0.5
    """Rate on the features of words, and before the logit."""
    word_dropout: float = 0.3
    """Share of the words that training replaces by the unknown word."""
    learning_rate: float = 3e-3
    """Adam's at its highest; the tutorial's is RMSprop's and stays as it is."""
    patience: int = 5
    """After how many epochs without a better one training ends."""
    out: Path = Path("out/sentiment")
    """Folder for checkpoints, figures and prefixes.png."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")


TUTORIAL: dict[str, Any] = {
    "cell": "elman", "bidirectional": False, "pooling": "last", "hidden_size": 32, "embed_size": 32,
    "vocabulary_size": 10_000, "dropout": 0.0, "word_dropout": 0.0, "learning_rate": 1e-3,
}  # fmt: skip


class Reader(nnx.Module):
    """Embedded words, a recurrent layer, what is kept of its outputs, one logit."""

    def __init__(self, config: Config, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        with script.blaming("cell"):
            cell = cells.make_cell(config.cell, config.embed_size, config.hidden_size)
        self.embedding = nnx.Embed(vocabulary, config.embed_size, rngs=rngs)
        self.recurrent = nn.Recurrent(cell, bidirectional=config.bidirectional, rngs=rngs)
        self.pools = config.pooling == "mean_max"
        width = self.recurrent.output_size * (2 if self.pools else 1)
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B] of words [B, T]; training needs `rngs` for dropout."""
        xs = self.dropout(self.embedding(words), rngs=rngs)
        kept = self.recurrent(xs, lengths=lengths, return_sequences=self.pools).outputs
        if self.pools:
            mean = sequences.mean_pool(kept, lengths=lengths)
            kept = jnp.concatenate([mean, sequences.max_pool(kept, lengths=lengths)], axis=-1)
        return self.head(self.dropout(kept, rngs=rngs))[..., 0]


def train(
    config: Config, model: nnx.Module, sets: dict[str, dict[str, Any]]
) -> tuple[training.FitResult, dict[str, float]]:
    """Trains the reader or the baseline, and measures what came out on the test set."""

    def scores(model: Any, words: Any, batch: Any, rngs: Any = None) -> dict[str, Any]:
        logits = model(words, batch["lengths"], rngs)
        return {"logits": logits, "labels": batch["label"], "mask": batch["weights"]}

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        forgotten = jax.random.bernoulli(rngs.words(), config.word_dropout, batch["words"].shape)
        words = jnp.where(forgotten, Vocabulary.unknown, batch["words"])
        found = scores(model, words, batch, rngs)
        return losses.binary_cross_entropy(**found), {"accuracy": metrics.binary_accuracy(**found)}

    def metric_fn(model: Any, batch: Any) -> dict[str, metrics.Mean]:
        found = scores(model, batch["words"], batch)
        loss, accuracy = metrics.binary_cross_entropy(**found), metrics.binary_accuracy(**found)
        return {"loss": loss, "accuracy": accuracy}

    options: dict[str, Any] = {"sequence_keys": ("words",)}
    dev, test = (batches(sets[split], batch_size=256, **options) for split in ("dev", "test"))
    source = config.batches(sets["train"], boundaries=4, **options)
    how: dict[str, Any] = {"eval_batches": dev, "metric_fn": metric_fn}
    if config.preset == "tutorial":  # it takes the last epoch
        optimizer = training.optimizer(config.learning_rate, name="rmsprop")
        how |= {"monitor": None, "optimizer": optimizer}
    else:
        how |= {"monitor": "eval_accuracy", "mode": "max", "patience": config.patience}
    result = config.fit(model, loss_fn, source, **how)
    return result, script.measure(result.model, metric_fn, test)


def plot(config: Config, model: Any, vocabulary: Vocabulary) -> None:
    """Prints what the model says of `say`, and draws it for the beginning up to each word."""
    said = [words[-config.max_words :] for words in map(reviews.words_of, config.say) if words]
    if not said:
        return
    prefixes, lengths = pad([vocabulary.encode(w[: n + 1]) for w in said for n in range(len(w))])
    read = jax.jit(lambda model, *inputs: jax.nn.sigmoid(model(*inputs)))
    ends = np.cumsum([len(words) for words in said])
    rows = np.split(np.asarray(read(model, prefixes, lengths)), ends[:-1])
    for words, probabilities in zip(said, rows, strict=True):
        print(f"  {probabilities[-1]:.0%} positive: {' '.join(words)}")
    reviews.plot(said, rows).savefig(config.out / "prefixes.png", dpi=150)


def main(config: Config) -> dict[str, float]:
    """Trains, measures and draws; returns the figures of the test set."""
    if config.preset == "tutorial":
        config = config.with_defaults(**TUTORIAL)
    config.prepare()
    parts = 5 if config.preset == "tutorial" else 9
    with script.blaming("data" if config.tfds is None else "tfds"):
        texts = reviews.load(config.data, config.tfds, parts)
    vocabulary = Vocabulary.build(
        (reviews.words_of(text) for text, _ in texts["train"]), size=config.vocabulary_size
    )
    vocabulary.save(config.out / "vocabulary.json")
    sets = {
        split: reviews.fields(some, vocabulary, config.max_words, sure=split != "train")
        for split, some in texts.items()
    }
    sizes = ", ".join(f"{len(texts[split]):,} {split}" for split in texts)
    print(f"texts: {sizes}; {len(vocabulary):,} words")
    # The baseline chooses its epoch like the reader, whatever the preset.
    bag = dataclasses.replace(
        config, out=config.out / "bag_of_words", preset="strong", learning_rate=5e-3
    )
    _, baseline = train(bag, baselines.BagOfWords(len(vocabulary), rngs=nnx.Rngs(0)), sets)
    result, found = train(config, Reader(config, len(vocabulary), rngs=nnx.Rngs(config.seed)), sets)
    majority = float(sets["train"]["label"].mean() > 0.5)
    plot(config, result.model, vocabulary)
    return config.report(
        result,
        majority_accuracy=float((sets["test"]["label"] == majority).mean()),
        bag_of_words_accuracy=baseline["accuracy"],
        accuracy=found["accuracy"],
        loss=found["loss"],
    )


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.sentiment", description=__doc__))
