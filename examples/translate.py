"""Translation from one language to another, learned from pairs of sentences.

To train on pairs of sequences of your own, pass --data FOLDER, or start from the shorter program in
docs/seq2seq.md. `main` shows how to build vocabularies and how to compute BLEU.

The model is an encoder-decoder with or without attention (Bahdanau et al. 2015) over words or
subwords. Data are a folder of parallel text with one sentence a line: train.en, train.ja, dev.en,
dev.ja, test.en and test.ja, each plain or as .gz; or a tensorflow-datasets set that was prepared as
array_record.

    python -m examples.translate --data FOLDER --source ja --target en --say "私 は 学生 で す 。"

The model of the epoch with the lowest perplexity on the dev set is used. The test set is not used
for any choice. --resume continues a run that was stopped.
"""

import dataclasses
import functools
import math
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import tyro
from flax import nnx

from examples import script
from examples.shipped import parallel_text
from seqjax import seq2seq, viz
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the translation example."""

    data: Path | None = None
    """Folder of parallel text: train, dev and test, each with the languages as endings."""
    tfds: str | None = None
    """A set of tensorflow-datasets, such as ted_hrlr_translate/pt_to_en. --data is then the folder
    of prepared sets; by default, the folder is that of tensorflow-datasets."""
    source: str = "ja"
    """The source language: the ending of its files, or its field in the tfds set."""
    target: str = "en"
    """The target language."""
    say: tuple[str, ...] = ()
    """Sentences to translate at the end, in addition to three of the test set."""
    vocabulary: Literal["words", "subwords"] = "words"
    """Words between spaces, or subwords by byte pair encoding."""
    vocabulary_size: int = 8000
    """Maximum number of entries in the vocabulary of each language."""
    least: int = 2
    """Minimum number of occurrences of a word in the vocabulary."""
    cell: str = "gru"
    """Cell of encoder and decoder: its name in seqjax.CELLS."""
    attention: str = "additive"
    """Name in seqjax.attention.ATTENTIONS, or none for a fixed context vector."""
    input_feeding: bool = False
    """Make the last attentional vector an input of the decoder (Luong et al. 2015)."""
    hidden_size: int = 256
    """Number of units of the decoder; each direction of the encoder has half as many."""
    embed_size: int = 256
    """Size of an embedding."""
    num_layers: int = 1
    """Number of layers of the encoder and of the decoder."""
    dropout: float = 0.3
    """Dropout rate on embeddings, between layers and before the softmax."""
    epochs: int = 10
    """Number of passes through the training pairs."""
    batch_size: int = 128
    """Number of pairs in a batch."""
    learning_rate: float = 2e-3
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over the vocabulary."""
    max_words: int = 80
    """Maximum number of words or subwords on a side of a training pair; longer pairs are left
    out."""
    beam_width: int = 5
    """Number of hypotheses of the beam search."""
    length_penalty: float = 1.0
    """Length penalty of the beam search (Wu et al. 2016); higher values favour longer sentences."""
    out: Path = Path("out/translate")
    """Folder for vocabularies, checkpoints, translations.txt and plots."""
    after_training: ClassVar[tuple[str, ...]] = ("say", "beam_width", "length_penalty")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "label_smoothing")


def check(config: Config) -> None:
    """Exit with a message if options are out of range, before anything is read or written."""
    if config.hidden_size % 2:
        raise SystemExit(f"--hidden-size: expected an even number, got {config.hidden_size}")
    if config.length_penalty < 0:
        raise SystemExit(f"--length-penalty: expected at least 0, got {config.length_penalty}")
    if config.data is None and config.tfds is None:
        raise SystemExit("--data, --tfds: expected one of them")


def main(config: Config) -> dict[str, float]:
    """Train, evaluate, plot and translate; return BLEU and perplexity of the test set."""
    check(config)
    config.prepare()
    with script.blaming("data" if config.tfds is None else "tfds"):
        pairs = parallel_text.load(config.data, config.tfds, config.source, config.target)
    reader, writer = (
        parallel_text.learn_vocabulary(config.vocabulary, x, config.vocabulary_size, config.least)
        for x in zip(*pairs["train"], strict=True)
    )

    def examples(split: str, longest: float = math.inf) -> dict[str, Any]:
        ids = [(reader.encode(a), writer.encode(b)) for a, b in pairs[split]]
        kept = [pair for pair in ids if max(map(len, pair)) <= longest]
        if not kept:
            raise SystemExit(f"--max-words: expected {split} pairs up to {longest} words, got none")
        sources, targets = zip(*kept, strict=True)
        return seq2seq.pair_examples(sources, targets, begin=writer.begin, end=writer.end)

    sets = {"train": examples("train", config.max_words)}
    sets |= {split: examples(split) for split in ("dev", "test")}
    print(
        f"{len(sets['train']['source']):,} training pairs, {len(pairs['dev']):,} dev, "
        f"{len(pairs['test']):,} test; {len(reader):,} {config.source} and {len(writer):,} "
        f"{config.target} {config.vocabulary}"
    )
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(reader), target_vocabulary=len(writer),
        embed_size=config.embed_size, cell=config.cell,
        hidden_size=config.hidden_size // 2, decoder_size=config.hidden_size,
        num_layers=config.num_layers, dropout=config.dropout, input_feeding=config.input_feeding,
        attention=None if config.attention == "none" else config.attention,
        dtype=config.dtype, rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    config.keep(f"vocabulary.{config.source}.json", reader.save)
    config.keep(f"vocabulary.{config.target}.json", writer.save)
    options: dict[str, Any] = {"sequence_keys": seq2seq.PAIR_KEYS}
    result = config.fit(
        model, functools.partial(seq2seq.pair_loss, label_smoothing=config.label_smoothing),
        config.batches(sets["train"], boundaries=4, **options), metric_fn=seq2seq.pair_metrics,
        eval_batches=batches(sets["dev"], batch_size=config.batch_size, **options),
    )  # fmt: skip
    test_batches = batches(sets["test"], batch_size=64, **options)
    nats = script.measure(result.model, seq2seq.pair_metrics, test_batches)["loss"]
    rates = {"perplexity": math.exp(nats)}
    say = [text for text in config.say if text.strip()]
    references = [target for _, target in pairs["test"]]
    search: Any = {"begin": writer.begin, "end": writer.end}
    search |= {"length_penalty": config.length_penalty}
    for name, width in (("greedy", 1), (f"beam_{config.beam_width}", config.beam_width)):
        start = time.perf_counter()
        sources = [*sets["test"]["source"], *map(reader.encode, say)]
        found = seq2seq.generate(result.model, sources, beam_width=width, **search)
        speed = len(sources) / (time.perf_counter() - start)
        texts = [parallel_text.written(writer, output.tokens) for output in found]
        rates[f"{name}_BLEU"] = parallel_text.bleu(texts[: len(references)], references)
        print(f"{name}: {speed:,.0f} sentences/s with compilation")
    rates["source_as_it_is_BLEU"] = parallel_text.bleu([a for a, _ in pairs["test"]], references)

    (config.out / "translations.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    said = [*pairs["test"], *((text, "") for text in say)]
    shown = [*range(min(3, len(references))), *range(len(references), len(said))]
    missing: list[Any] = []  # matplotlib's warnings, replaced by one line of output
    for number, index in enumerate(shown):
        text, reference = said[index]
        print(f"\n  {text}\n  → {texts[index]}" + (f"\n  = {reference}" if reference else ""))
        output = found[index]
        if output.attention is not None and len(output.tokens):
            rows = [*writer.pieces(output.tokens), *(["end"] if output.finished else [])]
            figure = viz.attention(output.attention, reader.pieces(sources[index]), rows)
            with warnings.catch_warnings(record=True) as found_missing:
                config.save_figure(figure, f"attention_{number + 1}.png")
            missing += found_missing
    if missing:
        print("\nThe plots need a font with these characters, such as Noto Sans CJK.")
    return config.report(result, **rates)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.translate", description=__doc__))
