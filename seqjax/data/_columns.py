"""Conversion of table columns to numbers, dates or text. An ambiguous column raises an error."""

import functools
import re
import string
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from seqjax.data._rows import SPACES, Text

__all__ = ["Doubt", "column", "columns_with_codes", "filled"]

DIGITS = b"0123456789"
CODE = re.compile(
    r"\s*(?:[-+]?0[0-9]+(?:[.,][0-9]*)?(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][0-9]+|\+[0-9]+)\s*"
)
"""Pattern of fields that may be codes.

Such a field has leading zeros, a plus sign, or an exponent without a sign or decimal point.
"""
BLOCK = 100_000
"""The number of bytes that are searched at a time, small enough for the cache of a core."""
INFINITY = re.compile(r"\s*[-+]?inf(inity)?\s*", re.IGNORECASE)
INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*")
SEPARATED = re.compile(
    r"\s*[-+]?(?:[0-9]{1,3}(?:[,' \u00a0\u2009\u202f][0-9]{3})+(?:[.,][0-9]+)?"
    r"|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]+,[0-9]+)\s*"
)
"""Pattern of numbers with a thousands separator or a decimal comma."""
ISO = re.compile(r"\s*[0-9](?![0-9]*\.[0-9]*\s*$)")
"""Pattern of the beginning of dates in ISO 8601. pandas would also convert "now" and 2024.5."""
PRESENT = re.compile(r"\s*(?:now|today)\s*", re.IGNORECASE)
"""Pattern of the words that pandas would convert to the present time in any format."""
ZONE = re.compile(r".*[0-9][T ][0-9:.]+ ?(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?)\s*")
"""Pattern of dates in ISO 8601 that have a time zone."""


Reread: TypeAlias = Callable[[], np.ndarray]  # returns a column's fields as written, [N] of `str`


class Doubt(Exception):
    """An error in one field of a row. The caller adds the column, file and line to the message."""

    def __init__(self, row: Any, message: str) -> None:
        super().__init__(message)
        self.row = int(row)


def columns_with_codes(text: Text, names: list[str]) -> set[str]:
    """Return the columns that may contain codes such as 007.

    The bytes are searched for the beginnings of codes, because a regular expression over all fields
    takes ten times as long. If the column of a code cannot be found by counting separators, all
    columns are returned.
    """
    if not names:
        return set()
    data, sep = text.data, b" \t" if text.sep == SPACES else text.options["sep"].encode()
    quote, spaces = text.quote.encode(), bytes(set(b" \t\v\f") - set(sep))
    start, spaces, leading, sign, exponent = (
        bytes(byte for byte in kind if byte == 10 or data.find(bytes([byte])) >= 0)
        for kind in (b"\r\n" + sep + quote, spaces, b"0+", b"-+", b"eE")
    )
    patterns = [(start, leading, DIGITS), (start, sign, b"0", DIGITS), (DIGITS, exponent, DIGITS),
                (start, spaces)]  # fmt: skip
    patterns = [pattern for pattern in patterns if all(pattern)]
    values = np.frombuffer(data, np.uint8)
    places = [_search(values, begin, patterns) for begin in range(0, len(data), BLOCK)]
    at_start = _search(np.frombuffer(b"\n" + data[:3], np.uint8), 0, patterns) - 1
    hits = np.concatenate([at_start, *places])
    clear = len(sep) == 1 and not text.options["comment"] and (not quote or quote not in start)
    if not hits.size or not clear or b"\r" in data[:].replace(b"\r\n", b"\n"):
        return set(names) if hits.size else set()
    fields = np.searchsorted(np.flatnonzero(_among(values, sep + b"\n")), hits, side="right")
    return {names[column] for column in np.unique(fields % len(names))}


def _search(values: np.ndarray, begin: int, patterns: list[tuple[bytes, ...]]) -> np.ndarray:
    """Return the positions in a block at which a pattern begins.

    A pattern is a sequence of sets of bytes, one set for each position.
    """
    values = values[begin : begin + BLOCK + 3]
    found = {kind: _among(values, kind) for pattern in patterns for kind in pattern}
    hits = np.zeros(len(values), bool)
    for pattern in patterns:
        size = max(len(values) - len(pattern) + 1, 0)
        hit = found[pattern[0]][:size]
        for place, kind in enumerate(pattern[1:], 1):
            hit = hit & found[kind][place : place + size]
        hits[:size] |= hit
    return begin + np.flatnonzero(hits) if hits.any() else np.zeros(0, int)


def _among(values: np.ndarray, kind: bytes) -> np.ndarray:
    """Return a mask of the bytes that belong to a set of bytes."""
    if kind == DIGITS:
        return values - ord("0") < len(DIGITS)  # unsigned: smaller bytes wrap to large numbers
    return functools.reduce(np.logical_or, [values == byte for byte in kind])


def column(
    pandas: Any, text: Text, series: Any, reread: Reread, kind: Any, coded: set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column that pandas has read, and a mask of its missing values.

    `kind` is "date", `str`, a NumPy dtype, or None to infer it. `coded` contains the names of the
    columns that may contain codes.
    """
    gap, infer = series.isna().to_numpy(), pandas.api.types.infer_dtype
    if kind == "date":
        return _dates(pandas, series, gap, reread, text.options.get("date_format")), gap
    if series.dtype.kind in "biuf" or (kind is None and not len(series)):
        values = series.to_numpy() if len(series) else np.zeros(0, kind)
        if kind is not None:
            wide, values = values, values.astype(kind)
            wrapped = (wide != values) & (values.dtype.kind in "iu")
            if values.dtype == np.uint64:
                wrapped |= values >= 2**63
            for row in np.flatnonzero(wrapped):
                if "-" in (field := reread()[row]) or wide[row] != values[row]:
                    raise Doubt(row, f"expected {kind}, got {field!r}")
        else:
            _require_clear_numbers(text, series.name, values, gap, reread, coded)
        for row in np.flatnonzero(np.isinf(values)):
            if not INFINITY.fullmatch(field := reread()[row]):
                raise Doubt(row, f"expected a number that {values.dtype} can hold, got {field!r}")
        return values, gap
    if kind is None and infer(series, skipna=True) == "boolean":
        return series.to_numpy() == True, gap  # noqa: E712
    # pandas reads some texts as gaps or numbers, so the original text of the fields is read again.
    whole = infer(series, skipna=False) == "string" and text.sep == text.options["sep"]
    whole = whole and not gap.any()
    fields = series.to_numpy(object) if whole else reread()
    if kind is None:
        series = series if whole else pandas.Series(fields, dtype="str", name=series.name)
        _require_clear_text(pandas, text, series, fields, gap)
    return fields, np.zeros(len(fields), bool)


def _grouped(text: Text) -> re.Pattern[str]:
    """Return the pattern of a number with thousands separators."""
    mark, point = (re.escape(text.options.get(name) or ".") for name in ("thousands", "decimal"))
    number = rf"[-+]?[1-9][0-9]{{0,2}}(?:{mark}[0-9]{{3}})+(?:{point}[0-9]*)?(?:[eE][-+]?[0-9]+)?"
    return re.compile(rf"\s*{number}\s*")


def _require_clear_numbers(
    text: Text,
    name: str,
    values: np.ndarray,
    gap: np.ndarray,
    reread: Reread,
    coded: set[str],
) -> None:
    number = "float" if values.dtype.kind == "f" else "int"
    hint = f"pass dtype={{{name!r}: str}} or dtype={{{name!r}: {number}}}"
    if gap.any() and gap.all():
        for row in np.flatnonzero(reread() != "").tolist():
            raise Doubt(row, f"ambiguous, {reread()[row]!r} may be a gap or text; {hint}")
    mark = text.options.get("thousands") or ""
    if mark and text.has(mark):  # pandas ignores the mark anywhere, such as in 01.02.2024
        pattern = _grouped(text)
        for row, field in enumerate(reread()):
            if mark in field.strip() and not gap[row] and not pattern.fullmatch(field):
                why = f"contains thousands={mark!r} in a place where numbers do not have it"
                way = f"pass dtype={{{name!r}: str}} or parse_dates and date_format"
                raise Doubt(row, f"ambiguous, {field!r} {why}; {way}")
    if number == "float":
        for row in np.flatnonzero(np.abs(values) >= 2**53).tolist():
            if INTEGER.fullmatch((field := reread()[row]).replace(mark, "")):
                why = "an integer that float64 cannot hold, and gaps and fractions need float64"
                raise Doubt(row, f"ambiguous, {field!r} is {why}; {hint}")
    for row, field in enumerate(reread()) if values.dtype.kind != "b" and name in coded else ():
        if CODE.fullmatch(field.replace(mark, "")) and not gap[row]:
            raise Doubt(row, f"ambiguous, {field!r} may be a number or a code; {hint}")


def _require_clear_text(
    pandas: Any, text: Text, series: Any, fields: np.ndarray, gap: np.ndarray
) -> None:
    marks = [text.options.get("thousands"), text.options.get("decimal")]
    letters = {*string.ascii_letters, *"-+:/"}.difference(filter(None, marks))
    first, inside = ("".join(sorted(letters - set(some))) for some in ("-+iInN", "eE"))
    # Words, dates and times cannot be numbers and do not have a space before a quote.
    words = rf"^[{re.escape(first)}]|^[^ \t].*[0-9][{re.escape(inside)}]"
    rows = np.flatnonzero(~series.str.contains(words).to_numpy(bool) & ~gap)
    name, plain, quote = series.name, series.iloc[rows].astype(object), text.quote
    if rows.size and marks[0]:
        plain = plain.where(
            ~plain.str.contains(marks[0], regex=False) | plain.str.fullmatch(_grouped(text))
        )
    for mark, point in zip(marks, ("", "."), strict=True):
        plain = plain.str.replace(mark, point, regex=False) if mark and rows.size else plain
    number = np.zeros(len(fields), bool)
    number[rows] = pandas.to_numeric(plain, errors="coerce").notna()
    count = number.sum()
    for row in rows[~number[rows]].tolist():
        field = fields[row]
        count += SEPARATED.fullmatch(field) is not None
        if quote and field.lstrip(" \t")[:1] == quote != field[0]:
            why = "has a space before its quote; pass skipinitialspace=True"
            raise Doubt(row, f"ambiguous, {field!r} {why} or dtype={{{name!r}: str}}")
    other = np.flatnonzero(~number & ~gap).tolist() if count else []
    alike = number.any() and len(set(fields[other])) == 1
    if not count or not (alike or 2 * count >= (~gap).sum()):
        return
    row = other[0] if other else max(range(len(fields)), key=lambda row: len(fields[row]))
    field, why = fields[row], "is not a number, but other fields are"
    if not other:
        point = marks[1] or "."
        points = [row for row in range(len(fields)) if "." in fields[row]]
        if points and "." not in (point, marks[0]):
            row, field = points[0], fields[points[0]]
            why, hint = f"does not fit decimal={point!r}", "decimal='.' or "
        elif INTEGER.fullmatch(field.replace(marks[0] or "", "")):
            why, hint = "is an integer beyond 64 bits", f"dtype={{{name!r}: float}} or "
        else:
            why, hint = "may be a number or text", ""
    elif SEPARATED.fullmatch(field):
        why, hint = "may be a number with a separator", _separators(field)
    else:
        hint = f"na_values=[{field!r}] or "
    raise Doubt(row, f"ambiguous, {field!r} {why}; pass {hint}dtype={{{name!r}: str}}")


def _separators(field: str) -> str:
    """Return the pandas options that read a number with separators, or "" if no option does."""
    number = field.strip().lstrip("+-")
    marks, ways = re.findall("[^0-9]", number), []
    group = re.escape(marks[0])
    grouped = rf"[0-9]{{1,3}}(?:{group}[0-9]{{3}})+(?:(?!{group})[.,][0-9]+)?"
    if marks[0].isascii() and re.fullmatch(grouped, number):
        decimal = " and decimal=','" if marks[-1] == "," != marks[0] else ""
        ways.append(f"thousands={marks[0]!r}{decimal} or ")
    if marks == [","]:
        ways.append("decimal=',' or ")
    return "".join(ways)


def _dates(pandas: Any, series: Any, gap: np.ndarray, reread: Reread, form: Any) -> np.ndarray:
    form = (form.get(series.name) if isinstance(form, dict) else form) or "ISO8601"
    if form == "mixed":
        hint = "'mixed' guesses the order of day and month; pass a format, such as '%d/%m/%Y %H:%M'"
        raise ValueError(f"date_format: expected one format for all dates, got 'mixed'; {hint}")
    fields, iso = series.to_numpy(object), form == "ISO8601"
    known = [
        not missing and bool(ISO.match(field) if iso else not PRESENT.fullmatch(field))
        for field, missing in zip(fields, gap, strict=True)
    ]
    texts = series.astype(object).where(known)
    try:
        dates = pandas.to_datetime(texts, format=form, errors="coerce", utc=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"date_format: expected a format of dates, got error: {error}") from None
    for row in np.flatnonzero(dates.isna() & ~gap):
        got = f"got {reread()[row]!r}; pass another date_format, such as '%d/%m/%Y %H:%M'"
        raise Doubt(row, f"expected a date in format {form}, {got}")
    rows = np.flatnonzero(~gap)
    zoned = np.array([iso and bool(ZONE.fullmatch(field)) for field in fields[rows]], bool)
    for row in rows[zoned != zoned[:1]]:
        got = f"got {reread()[row]!r} after {reread()[rows[0]]!r}"
        raise Doubt(row, f"expected dates that all have a time zone, or none of them, {got}")
    found: np.ndarray = dates.dt.tz_localize(None).to_numpy()
    return found


def filled(values: np.ndarray, gap: np.ndarray, gaps: str, reread: Reread) -> np.ndarray:
    """Return the values with their gaps filled, or raise if a gap cannot be filled."""
    if not gap.any():
        return values
    kind, *ways = {
        "b": ("True or False", "previous"), "M": ("a date", "previous", "nan"),
    }.get(values.dtype.kind, ("a number", "interpolate", "previous", "nan"))  # fmt: skip
    if gaps not in ways:
        first, hint = gap.argmax(), f"gaps={' or '.join(map(repr, ways))} fills gaps"
        hint += ", dtype=str keeps text" if reread()[first].strip() else ""
        raise Doubt(first, f"expected {kind}, got {reread()[first]!r}; {hint}")
    rows = np.arange(len(values))
    if gaps == "nan":
        return values
    if gap.all() or (gaps == "previous" and gap[0]):
        raise Doubt(0, f"expected {kind} to fill gaps with, got {reread()[0]!r}")
    if gaps == "previous":
        return values[np.maximum.accumulate(np.where(gap, 0, rows))]
    values = values.copy()  # pandas' arrays may be read-only
    values[gap] = np.interp(rows[gap], rows[~gap], values[~gap])
    return values
