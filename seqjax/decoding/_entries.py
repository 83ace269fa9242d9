"""The n-grams of a model as a table of token ids, from the rows of an ARPA file."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from seqjax import checks
from seqjax.decoding._arpa import Row

__all__ = [
    "Entries",
    "checked_id",
    "checked_unknown",
    "entries_of",
    "require_end",
    "with_histories",
]

Entries: TypeAlias = dict[tuple[int, ...], tuple[float, float]]
"""For each n-gram of tokens, log p of its last token and the log of its backoff weight."""

SPECIAL = ("<s>", "</s>", "<unk>")
"""The entries of ARPA files that are no words."""


def with_histories(entries: Entries, unknown: float) -> Entries:
    """Return the n-grams with all their histories, which files of pruned models may lack.

    A history that is not listed has the probability that follows from shorter n-grams, and no
    backoff weight.
    """
    every = dict(entries)

    def log_p(gram: tuple[int, ...]) -> float:
        if gram in every:
            return every[gram][0]
        if len(gram) == 1:
            return unknown
        backoff = every[gram[:-1]][1] if gram[:-1] in every else 0.0
        return backoff + log_p(gram[1:])

    for gram in sorted(entries, key=len):
        for length in range(1, len(gram)):
            if gram[:length] not in every:
                every[gram[:length]] = log_p(gram[:length]), 0.0
    return every


def checked_id(name: str, value: Any, size: int) -> int:
    """Return an id, or raise if it is not below V."""
    number: int = checks.require_integer(name, value, least=0)
    if number >= size:
        raise ValueError(f"{name}: expected an id below V={size}, got {number}")
    return number


def checked_unknown(unknown: Any) -> float:
    """Return the score of what a model does not list, or raise if it is not at most 0."""
    number = checks.require_number("unknown", unknown, finite=False)
    if number > 0:
        raise ValueError(f"unknown: expected at most 0, got {unknown}")
    return number


def require_end(end: int | None, own: int | None, model: str) -> None:
    """Raise if a search asks for the score of an end that the model does not have."""
    if end is not None and end != own:
        raise ValueError(
            f"end: expected {own}, the end of the {model}, got {end}; pass the same `end` when you "
            "make the model"
        )


def entries_of(
    rows: Iterable[Row],
    tokens: Sequence[str | None],
    begin: int,
    end: int | None,
    unknown: float | None,
) -> tuple[Entries, float]:
    """Return the n-grams of tokens in an ARPA file, and log p of a token that it does not list.

    Args:
      rows: the n-grams of the file, as `read_arpa` returns them.
      tokens: as for `NGram.from_arpa`, which also explains the errors.
      begin: the checked id that stands for `<s>`.
      end: the checked id that stands for `</s>`, or None.
      unknown: as for `NGram.from_arpa`.
    """
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if token is not None and ids.setdefault(token, number) != number:
            raise ValueError(f"tokens: expected different tokens, got {token!r} twice")
    ids["<s>"] = begin
    reads = ids if end is None else ids | {"</s>": end}
    entries: Entries = {}
    other, strange = unknown, list[str]()
    ended = end is None
    for words, log_p, backoff in rows:
        ended |= words == ("</s>",)
        word = ids.get(words[0], -1) if len(words) == 1 and words[0] not in SPECIAL else -1
        if word in (begin, end):
            name = "begin" if word == begin else "end"
            raise ValueError(
                f"{name}: expected an id of no word of the file, got {word}, the id of {words[0]!r}"
            )
        if words == ("<unk>",) and "<unk>" not in ids and other is None:
            other = log_p
        if words == ("<s>",):  # its own probability is a placeholder, never asked for
            entries.setdefault((begin,), (-math.inf, backoff))
            entries[begin,] = entries[begin,][0], backoff
        elif all(word in reads for word in words) and "<s>" not in words[1:]:
            gram = tuple(reads[word] for word in words)
            kept = entries[gram][1] if gram == (begin,) and gram in entries else backoff
            entries[gram] = log_p, kept
        elif len(words) == 1 and words[0] not in ("</s>", "<unk>") and len(strange) < 5:
            strange.append(words[0])
    if not ended:
        raise ValueError("end: expected a file with </s>, got one without it; pass end=None")
    needed = [(n, t) for n, t in enumerate(tokens) if t is not None and n != begin]
    missing = [token for n, token in needed if (n,) not in entries]
    most = len(needed) - 1 if unknown is not None else 0 if other is None else len(needed) // 2
    if len(missing) > max(most, 0):
        raise ValueError(
            f"tokens: expected tokens that the file lists, or `unknown`, got {len(missing)} of "
            f"{len(needed)} that it does not list, such as {missing[:5]}; the file has words "
            f"such as {strange}. If they are words and the tokens are letters, use WordNGram"
        )
    return entries, -math.inf if other is None else other
