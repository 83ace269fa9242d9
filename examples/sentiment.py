"""Sentiment of film reviews (many-to-one): is a review positive?

To classify texts of your own, copy `Reader`, and `loss_fn` and `metric_fn` in `train`. `plot` shows
how to predict for new texts.

The data are 10,605 sentences of film reviews, each rated from -4 to 4 by at least twenty people
(Hutto, Gilbert 2014), from the source archive of vaderSentiment. A sentence is positive if its mean
rating is above 0. The script also reads whole reviews of IMDB (Maas et al. 2011): --data aclImdb or
--tfds imdb_reviews.

    python -m examples.sentiment --say "Not a bad film, but nothing I would watch again."
    python -m examples.sentiment --data aclImdb --preset tutorial --out out/tutorial

A hash of the words selects a tenth of the sentences for the test and a tenth for choosing the
epoch. The three parts are the same for every seed, and equal sentences are in the same part.
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
    """Options of the sentiment example."""

    data: Path = reviews.DEFAULT
    """The source archive of vaderSentiment 3.3.2, a folder that contains it, or the folder aclImdb.
    With --tfds, the folder of the prepared sets."""
    tfds: str | None = None
    """A set of tensorflow-datasets with the fields text and label, such as imdb_reviews, in place
    of --data."""
    preset: Literal["strong", "tutorial"] = "strong"
    """The preset "tutorial" is the SimpleRNN of a Keras tutorial. It changes the default values of
    other options. An option that you set to its usual default counts as not set."""
    say: tuple[str, ...] = (
        "Not a bad film, but nothing I would watch again.",
        "What begins as a dull and predictable story becomes a moving and wonderful film.",
    )
    """Texts for which the plot shows the prediction after each word."""
    cell: str = "gru"
    """Name of a cell in seqjax.CELLS."""
    bidirectional: bool = True
    """Read the text in both directions."""
    pooling: Literal["mean_max", "last"] = "mean_max"
    """Pooling of the outputs: their mean and maximum over the words, or the last output."""
    hidden_size: int = 64
    """Number of units in each direction."""
    embed_size: int = 64
    """Size of a word's embedding."""
    vocabulary_size: int = 20_000
    """Maximum number of words in the vocabulary."""
    max_words: int = 500
    """Maximum number of words of a text. If a text is longer, its last words are read."""
    dropout: float = 0.5
    """Dropout rate on the embeddings and before the logit."""
    word_dropout: float = 0.3
    """Share of the words that training replaces by the unknown word."""
    learning_rate: float = 3e-3
    """Maximum learning rate of Adam; with the preset "tutorial", the constant learning rate of
    RMSprop."""
    patience: int = 5
    """Number of epochs without improvement after which training stops."""
    out: Path = Path("out/sentiment")
    """Folder for checkpoints, the model, results, the vocabulary and prefixes.png."""
    after_training: ClassVar[tuple[str, ...]] = ("say",)
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")


TUTORIAL: dict[str, Any] = {
    "cell": "elman", "bidirectional": False, "pooling": "last", "hidden_size": 32, "embed_size": 32,
    "vocabulary_size": 10_000, "dropout": 0.0, "word_dropout": 0.0, "learning_rate": 1e-3,
}  # fmt: skip


def sizes(config: Config, vocabulary: int) -> dict[str, Any]:
    """Return the arguments of `Reader`, which `save_model` writes."""
    names = ("cell", "bidirectional", "pooling", "embed_size", "hidden_size", "dropout", "dtype")
    return {"vocabulary": vocabulary} | {name: getattr(config, name) for name in names}


class Reader(nnx.Module):
    """A classifier with embedded words, a recurrent layer, pooling, and one logit."""

    def __init__(
        self,
        vocabulary: int,
        *,
        cell: str,
        bidirectional: bool,
        pooling: str,
        embed_size: int,
        hidden_size: int,
        dropout: float,
        dtype: str = "float32",
        rngs: nnx.Rngs,
    ) -> None:
        with script.blaming("cell"):
            made = cells.make_cell(cell, embed_size, hidden_size)
        self.embedding = nnx.Embed(vocabulary, embed_size, rngs=rngs)
        self.recurrent = nn.Recurrent(made, bidirectional=bidirectional, dtype=dtype, rngs=rngs)
        self.pools = pooling == "mean_max"
        width = self.recurrent.output_size * (2 if self.pools else 1)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(width, 1, rngs=rngs)

    def __call__(self, words: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B] for words [B, T]; training needs `rngs` for dropout."""
        xs = self.dropout(self.embedding(words), rngs=rngs)
        kept = self.recurrent(xs, lengths=lengths, return_sequences=self.pools).outputs
        kept = kept.astype(xs.dtype)
        if self.pools:
            mean = sequences.mean_pool(kept, lengths=lengths)
            kept = jnp.concatenate([mean, sequences.max_pool(kept, lengths=lengths)], axis=-1)
        return self.head(self.dropout(kept, rngs=rngs))[..., 0]


def train(
    config: Config, model: nnx.Module, sets: dict[str, dict[str, Any]]
) -> tuple[training.FitResult, dict[str, float]]:
    """Train the recurrent model or the baseline, and evaluate it on the test set."""

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
    if config.preset == "tutorial":  # the tutorial uses the last epoch
        optimizer = training.optimizer(config.learning_rate, name="rmsprop")
        how |= {"monitor": None, "optimizer": optimizer}
    else:
        how |= {"monitor": "eval_accuracy", "mode": "max", "patience": config.patience}
    result = config.fit(model, loss_fn, source, **how)
    return result, script.measure(result.model, metric_fn, test)


def plot(config: Config, model: Any, vocabulary: Vocabulary) -> None:
    """Print the prediction for each text of `say`, and plot the prediction after each word."""
    said = [words[-config.max_words :] for words in map(reviews.words_of, config.say) if words]
    if not said:
        return
    prefixes, lengths = pad([vocabulary.encode(w[: n + 1]) for w in said for n in range(len(w))])
    read = jax.jit(lambda model, *inputs: jax.nn.sigmoid(model(*inputs)))
    ends = np.cumsum([len(words) for words in said])
    rows = np.split(np.asarray(read(model, prefixes, lengths)), ends[:-1])
    for words, probabilities in zip(said, rows, strict=True):
        print(f"  {probabilities[-1]:.0%} positive: {' '.join(words)}")
    config.save_figure(reviews.plot(said, rows), "prefixes.png")


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and plot; return the metrics of the test set."""
    if config.preset == "tutorial":
        config = config.with_defaults(**TUTORIAL)
    config.prepare()
    parts = 5 if config.preset == "tutorial" else 9
    with script.blaming("data" if config.tfds is None else "tfds"):
        texts = reviews.load(config.data, config.tfds, parts)
    vocabulary = Vocabulary.build(
        (reviews.words_of(text) for text, _ in texts["train"]), size=config.vocabulary_size
    )
    config.keep("vocabulary.json", vocabulary.save)
    sets = {
        split: reviews.fields(some, vocabulary, config.max_words, sure=split != "train")
        for split, some in texts.items()
    }
    counts = ", ".join(f"{len(texts[split]):,} {split}" for split in texts)
    print(f"texts: {counts}; {len(vocabulary):,} words")
    # The baseline chooses its epoch by validation, whatever the preset.
    bag = dataclasses.replace(
        config, out=config.out / "bag_of_words", preset="strong", learning_rate=5e-3
    )
    _, baseline = train(bag, baselines.BagOfWords(len(vocabulary), rngs=nnx.Rngs(0)), sets)
    chosen = sizes(config, len(vocabulary))
    result, found = train(config, Reader(**chosen, rngs=nnx.Rngs(config.seed)), sets)
    training.save_model(result.model, config.out, config=chosen, overwrite=True)
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
