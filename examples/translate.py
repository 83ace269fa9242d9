"""Translation from one language to another, learned from pairs of sentences.

An encoder-decoder with or without attention (Bahdanau et al. 2015) over words or subwords. Data is
a folder of parallel text, one sentence a line: train.en, train.ja, dev.en, dev.ja, test.en and
test.ja, each as it is or as .gz; or a tensorflow-datasets set that was prepared as array_record.

    python examples/translate.py --data FOLDER --source ja --target en --say "私 は 学生 で す 。"

The model of the epoch with the lowest perplexity on the dev set is taken; the test set decides
nothing. A run that was stopped goes on with --resume.
"""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import sacrebleu
import tyro
from flax import nnx

from seqjax import seq2seq, training, viz
from seqjax.data import (
    Subwords,
    Vocabulary,
    batches,
    bucket_boundaries,
    read_lines,
    tfds_source,
)  # fmt: skip

# The text is as it is split in the data: nothing is split further, nor put together.
AS_IT_IS: Any = {"tokenize": "none", "force": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a model, prints BLEU and perplexity, draws attention maps and translates."""

    data: Path | None = None
    """Folder of parallel text: train, dev and test, each with the languages as endings."""
    tfds: str | None = None
    """A set of tensorflow-datasets instead, such as ted_hrlr_translate/pt_to_en; --data is then the
    folder of prepared sets, if it is not tensorflow-datasets' own."""
    source: str = "ja"
    """The language to read: the ending of its files, or its field in the tfds set."""
    target: str = "en"
    """The language to write."""
    say: tuple[str, ...] = ()
    """Sentences to translate at the end, beside three of the test set."""
    vocabulary: Literal["words", "subwords"] = "words"
    """Words between spaces, or subwords by byte pair encoding."""
    vocabulary_size: int = 8000
    """Entries of each language's vocabulary at most."""
    least: int = 2
    """How often a word has to occur to be in the vocabulary."""
    cell: str = "gru"
    """Of encoder and decoder: a name of seqjax.CELLS."""
    attention: str = "additive"
    """A name of seqjax.attention.ATTENTIONS, or none for a fixed context vector."""
    input_feeding: bool = False
    """Whether the decoder sees its last context (Luong et al. 2015)."""
    hidden_size: int = 256
    """Units of the decoder; each direction of the encoder has half as many."""
    embed_size: int = 256
    """Features of an embedding."""
    num_layers: int = 1
    """Layers of the encoder and of the decoder."""
    dropout: float = 0.3
    """Rate on embeddings, between layers and before the softmax."""
    epochs: int = 10
    """How many times to go through the training pairs."""
    batch_size: int = 128
    """Pairs in a step."""
    learning_rate: float = 2e-3
    """Adam's at its highest; it rises for half an epoch and falls to zero along a cosine."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over the vocabulary."""
    max_words: int = 80
    """Training pairs with more words or subwords on a side are left out."""
    beam_width: int = 5
    """Hypotheses that the beam search keeps."""
    length_penalty: float = 1.0
    """Of the beam search (Wu et al. 2016): more favours longer sentences."""
    out: Path = Path("out/translate")
    """Folder for vocabularies, checkpoints, translations.txt and plots."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "label_smoothing")


class Words(Vocabulary):
    """A vocabulary of the words between spaces, used like `Subwords`."""

    def encode(self, text: Any) -> np.ndarray:
        """The ids of a sentence's words."""
        return super().encode(text.split())


def read_side(folder: Path, split: str, language: str) -> list[str]:
    """The lines of one file, or an exit that names it."""
    names = ("dev", "valid", "validation", "val") if split == "dev" else (split,)
    places = [folder / f"{name}.{language}{end}" for name in names for end in ("", ".gz")]
    for place in places:
        if place.is_file():
            with training.blaming("data"):
                return read_lines(place)
    raise SystemExit(f"--data: none of {', '.join(place.name for place in places)} in {folder}")


def check(config: Config) -> None:
    """Leaves with a message if the options make no sense, before anything is read or written."""
    if config.hidden_size % 2:
        raise SystemExit(f"--hidden-size: expected an even number, got {config.hidden_size}")
    if config.length_penalty < 0:
        raise SystemExit(f"--length-penalty: expected at least 0, got {config.length_penalty}")


def load(config: Config) -> dict[str, list[tuple[str, str]]]:
    """Pairs of sentences for "train", "dev" and "test"."""
    if config.data is None and config.tfds is None:
        raise SystemExit("--data, --tfds: expected one of them")
    found: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", "dev", "test"):
        sides: list[list[str]] = []
        if config.tfds is not None:
            name = "validation" if split == "dev" else split
            with training.blaming("tfds"):
                rows = list(tfds_source(config.tfds, split=name, data_dir=config.data))
            for language in (config.source, config.target):
                if language not in rows[0]:
                    raise SystemExit(f"--tfds: expected {language!r} among {', '.join(rows[0])}")
                lines = (row[language] for row in rows)
                sides.append([x.decode() if isinstance(x, bytes) else x for x in lines])
        elif config.data is not None:
            sides = [read_side(config.data, split, x) for x in (config.source, config.target)]
        if len(sides[0]) != len(sides[1]):
            raise SystemExit(
                f"--data: expected as many lines on both sides of {split}, got "
                f"{len(sides[0])} and {len(sides[1])}"
            )
        # A line without words is no sentence; leaving it out of a test would flatter nobody.
        found[split] = [pair for pair in zip(*sides, strict=True) if all(map(str.strip, pair))]
        if not found[split]:
            raise SystemExit(f"--data: expected at least one pair in {split}, got none")
    return found


def learn_vocabulary(config: Config, texts: Sequence[str]) -> Words | Subwords:
    """The vocabulary of one language."""
    if config.vocabulary == "subwords":
        return Subwords.train(texts, size=config.vocabulary_size)
    words = (text.split() for text in texts)
    return Words(
        Vocabulary.build(words, size=config.vocabulary_size, least=config.least).tokens[4:]
    )


def main(config: Config) -> dict[str, float]:
    """Trains, measures, plots and translates; returns BLEU and perplexity of the test set."""
    check(config)
    config.prepare()
    pairs = load(config)
    sides = list(zip(*pairs["train"], strict=True))
    reader, writer = (learn_vocabulary(config, side) for side in sides)

    def examples(split: str, longest: float = math.inf) -> dict[str, Any]:
        ids = [(reader.encode(a), writer.encode(b)) for a, b in pairs[split]]
        kept = [pair for pair in ids if max(map(len, pair)) <= longest]
        if not kept:
            raise SystemExit(f"--max-words: no pair in {split} is as short as {longest}")
        sources, targets = zip(*kept, strict=True)
        return seq2seq.pair_examples(sources, targets, begin=writer.begin, end=writer.end)

    sets = {"train": examples("train", config.max_words)}
    sets |= {split: examples(split) for split in ("dev", "test")}
    print(
        f"{len(sets['train']['source']):,} pairs to learn, {len(pairs['dev']):,} dev, "
        f"{len(pairs['test']):,} test; {len(reader):,} {config.source} and {len(writer):,} "
        f"{config.target} {config.vocabulary}"
    )
    model = seq2seq.Seq2Seq(
        len(writer), len(reader), embed_size=config.embed_size, cell=config.cell,
        hidden_size=config.hidden_size // 2, decoder_size=config.hidden_size,
        num_layers=config.num_layers, dropout=config.dropout, input_feeding=config.input_feeding,
        attention=None if config.attention == "none" else config.attention,
        rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    reader.save(config.out / f"vocabulary.{config.source}.json")
    writer.save(config.out / f"vocabulary.{config.target}.json")
    options: dict[str, Any] = {"sequence_keys": seq2seq.PAIR_KEYS}
    sides = [sets["train"]["source"], sets["train"]["labels"]]
    lengths = [(len(a), len(b)) for a, b in zip(*sides, strict=True)]
    result = config.fit(
        model,
        functools.partial(seq2seq.pair_loss, label_smoothing=config.label_smoothing),
        config.batches(sets["train"], boundaries=bucket_boundaries(lengths, 4), **options),
        eval_batches=batches(sets["dev"], batch_size=config.batch_size, **options),
        metric_fn=seq2seq.pair_metrics,
    )
    test_batches = batches(sets["test"], batch_size=64, **options)
    nats = training.measure(result.model, seq2seq.pair_metrics, test_batches)["loss"]
    rates = {"perplexity": math.exp(nats)}
    say = [text for text in config.say if text.strip()]
    references = [target for _, target in pairs["test"]]
    search: Any = {
        "begin": writer.begin,
        "end": writer.end,
        "length_penalty": config.length_penalty,
    }
    for name, width in (("greedy", 1), (f"beam_{config.beam_width}", config.beam_width)):
        start = time.perf_counter()
        sources = [*sets["test"]["source"], *map(reader.encode, say)]
        found = seq2seq.generate(result.model, sources, beam_width=width, **search)
        speed = len(sources) / (time.perf_counter() - start)
        texts = [written(writer, output.tokens) for output in found]
        bleu = sacrebleu.corpus_bleu(texts[: len(references)], [references], **AS_IT_IS)
        rates[f"{name}_BLEU"] = bleu.score
        print(f"{name}: {speed:,.0f} sentences/s with compilation")
    copied = sacrebleu.corpus_bleu([a for a, _ in pairs["test"]], [references], **AS_IT_IS)
    rates["source_as_it_is_BLEU"] = copied.score

    (config.out / "translations.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    said = [*pairs["test"], *((text, "") for text in say)]
    shown = [*range(min(3, len(references))), *range(len(references), len(said))]
    missing: list[Any] = []  # what matplotlib warns of: one line is enough
    for number, index in enumerate(shown):
        text, reference = said[index]
        print(f"\n  {text}\n  → {texts[index]}" + (f"\n  = {reference}" if reference else ""))
        output = found[index]
        if output.attention is not None and len(output.tokens):
            rows = [*writer.pieces(output.tokens), *(["end"] if output.finished else [])]
            figure = viz.attention(output.attention, reader.pieces(sources[index]), rows)
            with warnings.catch_warnings(record=True) as found_missing:
                figure.savefig(config.out / f"attention_{number + 1}.png", dpi=150)
            missing += found_missing
    if missing:
        print("\n(The plots need a font with these characters, such as Noto Sans CJK.)")
    return config.report(result, **rates)


def written(writer: Words | Subwords, ids: Any) -> str:
    """The text of some ids."""
    text = writer.decode(ids)
    return text if isinstance(text, str) else " ".join(text)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
