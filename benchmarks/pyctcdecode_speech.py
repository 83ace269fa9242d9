"""Beam searches of seqjax and of pyctcdecode on the same scores of a CTC model of examples.speech.

pyctcdecode and KenLM are not among the dependencies: pip install kenlm; pip install --no-deps
pyctcdecode pygtrie hypothesis sortedcontainers (pyctcdecode 0.5 asks for NumPy 1, but runs with 2).

The folder --out has a trained model, and the other options are those of its training. Both
libraries read the same bigram model of words, which is counted from the training transcripts and
written to words.arpa. Its weight and the bonus for a word are the defaults of pyctcdecode, and
nothing is chosen on the test set. The seconds are processor time for the whole test set, without
the time for compiling.

    python -m benchmarks.pyctcdecode_speech --data an4.npz --hidden-size 160 --batch-size 16 \
        --learning-rate 2e-3 --epochs 36 --out out/an4
"""

import dataclasses
import functools
import itertools
import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx

from examples import speech
from examples.shipped import spoken_digits
from seqjax._machine import description
from seqjax.ctc import ctc_beam_search
from seqjax.data import Vocabulary, batches
from seqjax.decoding import LogLinear, WordNGram


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(speech.Config):
    """Options of the comparison, and those of the training."""

    widths: tuple[int, ...] = (16, 64)
    """Beam widths."""
    alpha: float = 0.5
    """Weight of the language model."""
    beta: float = 1.5
    """Bonus for each word."""
    offset: float = -10.0
    """Added to log10 p of a word that the model does not list."""
    prune: bool = True
    """Let pyctcdecode leave out improbable letters and prefixes, as it does by default."""
    resume: bool = True


def main(config: Config) -> list[dict[str, Any]]:
    """Decode the test set with both libraries; print and return the error rates."""
    import pyctcdecode

    logging.disable(logging.WARNING)
    config.prepare()
    sets = spoken_digits.load(config.data, words=5)
    said, right = ([text for _, text in sets[split]] for split in ("train", "test"))
    tokens = Vocabulary.build(said)
    model = speech.train(config, sets, tokens).model
    letters = tokens.tokens[len(tokens.special) :]
    fields = speech.examples(config, sets["test"], tokens)
    say = nnx.jit(lambda model, batch: model(batch["frames"], batch["frame_lengths"]))
    parts = []
    for batch in batches(fields, batch_size=32, sequence_keys=speech.KEYS):
        # Only the blank and the letters: the other special tokens are not used.
        logits = say(model, batch)[..., np.r_[0, len(tokens.special) : len(tokens)]]
        log_probs = jax.nn.log_softmax(logits)[batch["weights"]]
        parts.append((log_probs, batch["frame_lengths"][batch["weights"]]))
    arpa = config.out / "words.arpa"
    unknown = write_bigrams(arpa, said)
    space = 1 + letters.index(" ")
    words = WordNGram.from_arpa(
        arpa, [None, *letters], space=space, end=0,
        unknown=math.log(10) * (unknown + config.offset), bonus=config.beta / config.alpha,
    )  # fmt: skip
    plain = pyctcdecode.build_ctcdecoder(["", *letters])
    with_words = pyctcdecode.build_ctcdecoder(
        ["", *letters], str(arpa), unigrams=sorted({w for text in said for w in text.split()}),
        alpha=config.alpha, beta=config.beta, unk_score_offset=config.offset,
    )  # fmt: skip
    options: Any = {} if config.prune else {"beam_prune_logp": -1e4, "token_min_logp": -1e4}
    rows: list[dict[str, Any]] = []
    print(description(("pyctcdecode", "kenlm")))

    def add(name: str, language: bool, width: int, texts: list[str], seconds: float) -> None:
        split = [text.split() for text in right]
        rows.append({
            "decoder": name, "language_model": language, "width": width,
            "word_error_rate": spoken_digits.error_rate(split, [x.split() for x in texts]),
            "letter_error_rate": spoken_digits.error_rate(right, texts), "seconds": seconds,
        })  # fmt: skip
        print("  ".join(f"{k} {x:.4g}" if k != "decoder" else x for k, x in rows[-1].items()))

    for width in config.widths:
        for language, theirs in ((False, plain), (True, with_words)):
            find = jax.jit(functools.partial(search, config, width, words if language else None))
            for log_probs, lengths in parts:
                jax.block_until_ready(find(log_probs, lengths))  # compiles
            began, texts = time.process_time(), []
            for log_probs, lengths in parts:
                for row in np.asarray(find(log_probs, lengths)):
                    texts.append("".join(letters[x - 1] for x in row if x))
            add("seqjax", language, width, texts, time.process_time() - began)
            began, texts = time.process_time(), []
            for log_probs, lengths in parts:
                for row, length in zip(np.asarray(log_probs), lengths, strict=True):
                    texts.append(theirs.decode(row[:length], beam_width=width, **options))
            add("pyctcdecode", language, width, texts, time.process_time() - began)
    return rows


def search(
    config: Config, width: int, words: WordNGram | None, log_probs: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Return the best letters of each utterance, [B, T], followed by zeros."""
    options: Any = {"lengths": lengths, "beam_width": width}
    if words is not None:
        options |= {"fusion": LogLinear([words], [config.alpha]), "end": 0}
        options["fusion_state"] = (words.initial_state(len(log_probs)),)
    return ctc_beam_search(log_probs, **options).tokens[:, 0]


def write_bigrams(path: Path, said: list[str]) -> float:
    """Write a bigram model of words, smoothed as `NGram.fit`; return log10 p of other words."""
    read = [["<s>", *text.split(), "</s>"] for text in said]
    pairs = Counter(pair for row in read for pair in itertools.pairwise(row))
    count: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for (first, second), number in pairs.items():
        count[second] += number
        after[first] += 1
    before = Counter(w for row in read for w in row[:-1])
    kinds, total = len(count), count.total()
    other = kinds / (total + kinds) / (kinds + 1)
    p = {word: number / (total + kinds) + other for word, number in count.items()}
    weight = {word: after[word] / (before[word] + after[word]) for word in before}

    def line(value: float, *words: str) -> str:
        backed = (
            f"\t{math.log10(weight[words[0]]):.6f}" if words[0] in weight and not words[1:] else ""
        )
        return f"{math.log10(value):.6f}\t{' '.join(words)}{backed}"

    ones = [line(other, "<unk>"), f"-99\t<s>\t{math.log10(weight['<s>']):.6f}"]
    ones += [line(value, word) for word, value in sorted(p.items())]
    twos = [
        line(number / (before[a] + after[a]) + weight[a] * p[b], a, b)
        for (a, b), number in sorted(pairs.items())
    ]
    head = ["\\data\\", f"ngram 1={len(ones)}", f"ngram 2={len(twos)}", "", "\\1-grams:"]
    lines = [*head, *ones, "", "\\2-grams:", *twos, "", "\\end\\"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return math.log10(other)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.pyctcdecode_speech", description=__doc__))
