"""Which part of speech is each word? Tagging, synchronised many-to-many: a tag for every word.

A bidirectional LSTM reads the characters of each word, another one the words: each as its embedding
(none if it is rare) beside what its characters gave. A softmax, or with --crf a conditional random
field over neighbouring tags, gives the tags. Named entities work the same way.

By default the Hong Kong Cantonese Corpus (Luke, Wong 2015), conversations tagged by hand, which the
package pycantonese ships; every tenth conversation is for the test, another tenth chooses the
epoch. Or any corpus in columns, such as a treebank of Universal Dependencies:

    python -m examples.tagging --say "我 想 飲 凍 檸茶 呀 !"
    python -m examples.tagging --data UD_English-EWT --say "A word nobody ever saw : blorptastic ."
    python -m examples.tagging --data conll2003 --tag-column 3 --crf --out out/entities
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import tagged_words
from seqjax import crf, metrics, nn, sequences, viz
from seqjax.data import Vocabulary, batches, bucket_boundaries


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Trains a tagger, measures it beside each word's most frequent tag, and tags sentences."""

    data: Path | None = None
    """Folder with one file each of names with train, dev (or valid) and test: CoNLL-U, or other
    columns, also .gz; by default the corpus in the installed package pycantonese."""
    word_column: int | None = None
    """Column of the words, counted from 0; 1 in .conllu files, else 0."""
    tag_column: int | None = None
    """Column of the tags; 3 in .conllu files, else 1."""
    say: tuple[str, ...] = ()
    """Sentences to tag at the end, words parted by spaces."""
    crf: bool = False
    """A conditional random field in place of the softmax."""
    hidden_size: int = 100
    """Units of each direction that reads words."""
    num_layers: int = 1
    """Layers that read words."""
    embed_size: int = 64
    """Features of a word's embedding."""
    char_size: int = 32
    """Features of a character's, and units of each direction that reads characters."""
    max_chars: int = 12
    """Of a longer word its first and last half as many characters are read."""
    dropout: float = 0.5
    """Rate on what the word layers read, between them, and before the softmax."""
    word_dropout: float = 0.3
    """Share of the words whose embedding training replaces by that of unknown words."""
    epochs: int = 5
    """How many times to go through the training sentences."""
    learning_rate: float = 5e-3
    average: float = 0.99
    """Decay of a running average of the weights, which is then the model; 0 keeps none."""
    out: Path = Path("out/tagging")
    """Folder for checkpoints, figures and confusion.png."""
    may_be_zero: ClassVar[tuple[str, ...]] = ("seed", "word_column", "tag_column")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "word_dropout")


class Tagger(nnx.Module):
    """Characters to words, words to a score of each tag at each word."""

    def __init__(self, config: Config, words: int, chars: int, tags: int, rngs: nnx.Rngs) -> None:
        size, width = config.char_size, config.embed_size + 2 * config.char_size
        self.word_dropout, self.dropout = config.word_dropout, nnx.Dropout(config.dropout)
        self.words = nnx.Embed(words, config.embed_size, rngs=rngs)
        self.chars = nnx.Embed(chars, size, rngs=rngs)
        self.spelling = nn.LSTM(size, size, bidirectional=True, rngs=rngs)
        self.context = nn.LSTM(
            width, config.hidden_size, num_layers=config.num_layers, bidirectional=True,
            dropout=config.dropout, rngs=rngs,
        )  # fmt: skip
        self.head = nnx.Linear(self.context.output_size, tags, rngs=rngs)
        self.chain = crf.CRF(tags) if config.crf else None

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Scores [B, T, tags]; training needs `rngs`."""
        words, chars = batch["words"], batch["chars"]  # [B, T], [B, T, L]
        if rngs is not None:
            lost = jax.random.bernoulli(rngs.dropout(), self.word_dropout, words.shape)
            words = jnp.where(lost, Vocabulary.unknown, words)
        letters = (chars != Vocabulary.padding).sum(-1)
        spelt = self.spelling(self.chars(chars), lengths=letters, return_sequences=False).outputs
        xs = self.dropout(jnp.concatenate([self.words(words), spelt], axis=-1), rngs=rngs)
        outputs = self.context(xs, lengths=batch["lengths"], rngs=rngs).outputs
        return self.head(self.dropout(outputs, rngs=rngs))

    def loss(self, scores: jax.Array, batch: Any) -> metrics.Mean:
        """-log p of the right tags, a word."""
        lengths, tags = batch["lengths"], batch["tags"]
        if self.chain is None:
            mask = sequences.lengths_to_mask(lengths, tags.shape[1])
            return metrics.cross_entropy(scores, tags, mask=mask)
        nats = self.chain.loss(scores, tags, lengths=lengths, per_sequence=True)
        return metrics.Mean(nats.sum(), lengths.sum())

    def best(self, scores: jax.Array, batch: Any) -> jax.Array:
        """The tags found, int [B, T]."""
        if self.chain is None:
            return scores.argmax(axis=-1)
        return self.chain.decode(scores, lengths=batch["lengths"]).tags


say = nnx.jit(lambda model, batch: model.best(model(batch), batch))


def predict(
    model: Tagger, encoder: tagged_words.Encoder, texts: Sequence[Sequence[str]]
) -> list[list[str]]:
    """A tag for each word, seen in training or not."""
    if not texts:
        return []
    examples = encoder([(list(words), encoder.tags[:1] * len(words)) for words in texts])
    keys, found = ("words", "chars", "tags"), []
    for batch in batches(examples, batch_size=min(len(texts), 128), sequence_keys=keys):
        ids = np.asarray(say(model, batch))
        found += [row[:length] for row, length in zip(ids, batch["lengths"], strict=True)]
    return [[encoder.tags[index] for index in row] for row in found[: len(texts)]]


def main(config: Config) -> dict[str, float]:
    """Trains, measures, plots and tags; returns the figures of the test sentences."""
    config.prepare()
    with script.blaming("data"):
        data = tagged_words.load(config.data, config.word_column, config.tag_column)
    train, dev, test = data["train"], data["dev"], data["test"]
    tags = sorted({tag for side in data.values() for _, tags in side for tag in tags})
    encoder = tagged_words.Encoder(train, tags, config.max_chars)
    for name, side in data.items():
        print(f"{name}: {len(side):,} sentences, {sum(len(words) for words, _ in side):,} words")
    model = Tagger(config, len(encoder.words), len(encoder.chars), len(tags), nnx.Rngs(config.seed))

    def loss_fn(model: Tagger, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, Any]:
        return model.loss(model(batch, rngs), batch).value(), {}

    def metric_fn(model: Tagger, batch: Any) -> dict[str, metrics.Mean]:
        scores = model(batch)
        right = metrics.Mean.of(
            model.best(scores, batch) == batch["tags"], lengths=batch["lengths"]
        )
        return {"loss": model.loss(scores, batch), "accuracy": right}

    lengths = [len(words) for words, _ in train + dev]
    options: dict[str, Any] = {
        "sequence_keys": ("words", "chars", "tags"),
        # Of each length as often as it has words: buckets with about equally many words each.
        "boundaries": bucket_boundaries(np.repeat(lengths, lengths), 4),
    }
    result = config.fit(
        model, loss_fn, config.batches(encoder(train), **options), metric_fn=metric_fn,
        eval_batches=list(batches(encoder(dev), batch_size=config.batch_size, **options)),
        monitor="eval_accuracy", mode="max",
    )  # fmt: skip

    found = predict(result.model, encoder, [words for words, _ in test])
    tags_of = ([tag for tags in side for tag in tags] for side in ((t for _, t in test), found))
    viz.confusion(*tags_of).savefig(config.out / "confusion.png", dpi=150)
    said = [words for words in map(str.split, config.say) if words]
    for words, guesses in zip(said, predict(result.model, encoder, said), strict=True):
        print("  " + " ".join(f"{word}/{tag}" for word, tag in zip(words, guesses, strict=True)))
    return config.report(result, **tagged_words.figures(train, test, found))


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.tagging", description=__doc__))
