"""A reader of the ARPA format of n-gram models."""

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

__all__ = ["Row", "read_arpa"]

BLANKS = " \t\r\n"
"""The characters that separate words. Other spaces of Unicode may be part of a word."""

Row: TypeAlias = tuple[tuple[str, ...], float, float]
"""The words of an n-gram, and its log p and log backoff in nats."""


def read_arpa(source: str | Path | Iterable[str]) -> Iterator[Row]:
    r"""Yield a row for each n-gram of an ARPA file.

    Args:
      source: the path of the file, which may be compressed (`.gz`), or its lines.

    Raises:
      OSError: the file cannot be read.
      ValueError: a line is not valid, a section has another number of n-grams than the header
        says, an n-gram has a word that is not among the 1-grams, an n-gram is listed twice, or the
        file has no end, is damaged or is not in UTF-8.

    Example:
      >>> lines = ["\\data\\", "ngram 1=1", "\\1-grams:", "-1\ta", "\\end\\"]
      >>> [(words, round(log_p, 4), backoff) for words, log_p, backoff in read_arpa(lines)]
      [(('a',), -2.3026, 0.0)]
    """
    promised: dict[int, int] = {}
    found: dict[int, int] = {}
    section: int | None = None  # None before the header, 0 in the header, n in the n-grams
    known: set[tuple[str, ...]] = set()
    for number, line in enumerate(_lines(source), start=1):
        text = line.strip(BLANKS)
        if not text:
            continue
        if text == "\\end\\":
            if section is None:
                raise ValueError("source: expected a line \\data\\ before the n-grams, got none")
            if found != promised:
                raise ValueError(f"source: expected {promised} n-grams by length, got {found}")
            return
        if text == "\\data\\":
            section = 0
        elif section is None:
            continue  # a comment before the header
        elif matched := re.fullmatch(r"\\(\d+)-grams:", text):
            section = int(matched[1])
            if section not in promised:
                raise ValueError(f"source: line {number} begins {text}, which the header lacks")
            found[section] = 0
        elif section == 0:
            counted = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", text)
            if counted is None:
                raise ValueError(f"source: line {number}: expected 'ngram N=COUNT', got {text!r}")
            promised[int(counted[1])] = int(counted[2])
        else:
            row = _entry(text, section, number)
            if row[0] in known:
                raise ValueError(f"source: line {number}: expected each n-gram once, got {text!r}")
            for word in row[0] if section > 1 and 1 in found else ():
                if (word,) not in known:
                    raise ValueError(
                        f"source: line {number}: expected words of the 1-grams, got {word!r} in "
                        f"{text!r}"
                    )
            known.add(row[0])
            yield row
            found[section] += 1
    raise ValueError("source: expected an ARPA file, which ends with \\end\\, got no such line")


def _lines(source: str | Path | Iterable[str]) -> Iterator[str]:
    if not isinstance(source, (str, Path)):
        yield from source
        return
    path = Path(source)
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:  # with or without a byte order mark
            yield from file
    except (UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(
            "source: expected text in UTF-8, or such text compressed by gzip in a file whose name "
            f"ends in .gz, got {path}: {error}"
        ) from error


def _entry(text: str, order: int, number: int) -> Row:
    fields = re.split(f"[{BLANKS}]+", text)
    try:
        log_p = float(fields[0])
        backoff = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
    except ValueError:
        log_p, backoff = math.nan, math.nan
    fits = order + 1 <= len(fields) <= order + 2
    if not fits or not log_p <= 0 or math.isnan(backoff) or backoff == math.inf:
        raise ValueError(
            f"source: line {number}: expected log10 p of at most 0, {order} words and at most one "
            f"backoff weight, got {text!r}"
        )
    return tuple(fields[1 : order + 1]), log_p * math.log(10), backoff * math.log(10)
