"""The columns of a table: numbers, dates or text. An ambiguous column is an error."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from seqjax.data._rows import SPACES, Text

__all__ = ["Doubt", "column", "filled", "may_hold_codes"]

DIGITS = b"0123456789"
CODE = re.compile(
    r"\s*(?:[-+]?0[0-9]+(?:[.,][0-9]*)?(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][0-9]+|\+[0-9]+)\s*"
)
"""Leading zeros; an exponent without a point or a sign; digits after a plus."""
BLOCK = 1 << 18
"""Bytes that stay in a core's cache."""
INFINITY = re.compile(r"\s*[-+]?inf(inity)?\s*", re.IGNORECASE)
INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*")
SEPARATED = re.compile(
    r"\s*[-+]?(?:[0-9]{1,3}(?:[,' \u00a0\u2009\u202f][0-9]{3})+(?:[.,][0-9]+)?"
    r"|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]+,[0-9]+)\s*"
)
"""Numbers with a separator of thousands or with a decimal comma."""


Reread: TypeAlias = Callable[[], np.ndarray]  # the fields as they are written, [N] of `str`


class Doubt(Exception):
    """An ambiguous field: its row and the reason."""

    def __init__(self, row: Any, message: str) -> None:
        super().__init__(message)
        self.row = int(row)


def may_hold_codes(text: Text) -> bool:
    """Return whether the characters of a code, such as 007, occur next to each other anywhere.

    A regular expression over all bytes takes ten times as long.
    """
    sep = b" \t" if text.sep == SPACES else text.options["sep"].encode()
    start = b"\r\n" + sep + text.quote.encode()
    spaces = bytes(set(b" \t\v\f") - set(sep))
    patterns = ((start, b"0+", DIGITS), (start, b"-+", b"0", DIGITS), (DIGITS, b"eE", DIGITS),
                (start, spaces))  # fmt: skip
    # Bit k of table i is set if a byte may be at position i of pattern k.
    bits = [[[(i >= len(p) or byte in p[i]) << k for k, p in enumerate(patterns)]
             for byte in range(256)] for i in range(4)]  # fmt: skip
    tables = [bytes(map(sum, table)) for table in bits]
    data = b"\n" + text.data + b"\n\n\n"
    for begin in range(0, len(data), BLOCK):
        block = data[begin : begin + BLOCK + 3]
        a, b, c, d = (np.frombuffer(block.translate(table), np.uint8) for table in tables)
        if (a[:-3] & b[1:-2] & c[2:-1] & d[3:]).any():
            return True
    return False


def column(
    pandas: Any, text: Text, series: Any, reread: Reread, kind: Any, coded: Callable[[], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of a column that pandas has read, and which of them are gaps.

    Its `kind` is "date", `str`, a dtype of NumPy, or None to infer it. `coded` says whether the
    file may hold codes; it reads the whole file, so it is called only for a column of numbers.
    """
    gap, infer = series.isna().to_numpy(), pandas.api.types.infer_dtype
    if kind == "date":
        return _dates(pandas, series, gap, reread, text.options.get("date_format")), gap
    if series.dtype.kind in "biuf" or (kind is None and not len(series)):
        values = series.to_numpy() if len(series) else np.zeros(0, kind)
        if kind is not None:
            wide, values = values, values.astype(kind)
            wrapped = (wide != values) | (values.dtype == np.uint64) & (values >= 2**63)
            for row in np.flatnonzero(wrapped & (values.dtype.kind in "iu")):
                if "-" in (field := reread()[row]) or wide[row] != values[row]:
                    raise Doubt(row, f"expected {kind}, got {field!r}")
        else:
            _require_clear_numbers(series.name, values, gap, reread, coded)
        for row in np.flatnonzero(np.isinf(values)):
            if not INFINITY.fullmatch(field := reread()[row]):
                raise Doubt(row, f"expected a number that {values.dtype} can hold, got {field!r}")
        return values, gap
    if kind is None and infer(series, skipna=True) == "boolean":
        return series.to_numpy() == True, gap  # noqa: E712
    # pandas reads some texts as gaps, and some as numbers.
    whole = infer(series, skipna=False) == "string" and text.sep == text.options["sep"]
    fields = series.to_numpy(object) if whole and not gap.any() else reread()
    if kind is None:
        _require_clear_text(pandas, text, series.name, fields, gap)
    return fields, np.zeros(len(fields), bool)


def _require_clear_numbers(
    name: str, values: np.ndarray, gap: np.ndarray, reread: Reread, coded: Callable[[], bool]
) -> None:
    number = "float" if values.dtype.kind == "f" else "int"
    hint = f"pass dtype={{{name!r}: str}} or dtype={{{name!r}: {number}}}"
    if gap.any() and gap.all():
        for row in np.flatnonzero(reread() != "").tolist():
            raise Doubt(row, f"ambiguous, {reread()[row]!r} may be a gap or text; {hint}")
    if number == "float":
        for row in np.flatnonzero(np.abs(values) >= 2**53).tolist():
            if INTEGER.fullmatch(field := reread()[row]):
                why = "an integer that float64 cannot hold, and gaps and fractions need float64"
                raise Doubt(row, f"ambiguous, {field!r} is {why}; {hint}")
    for row, field in enumerate(reread()) if values.dtype.kind != "b" and coded() else ():
        if CODE.fullmatch(field) and not gap[row]:
            raise Doubt(row, f"ambiguous, {field!r} may be a number or a code; {hint}")


def _require_clear_text(
    pandas: Any, text: Text, name: str, fields: np.ndarray, gap: np.ndarray
) -> None:
    plain = pandas.Series(fields, dtype=object)
    for mark, point in ((text.options.get("thousands"), ""), (text.options.get("decimal"), ".")):
        plain = plain.str.replace(mark, point, regex=False) if mark else plain
    number = pandas.to_numeric(plain, errors="coerce").notna().to_numpy() & ~gap
    other = np.flatnonzero(~number & ~gap).tolist()
    count, quote = number.sum(), text.quote
    for row in other:
        field = fields[row]
        count += SEPARATED.fullmatch(field) is not None
        if quote and field.lstrip(" \t")[:1] == quote != field[0]:
            why = "has a space before its quote; pass skipinitialspace=True"
            raise Doubt(row, f"ambiguous, {field!r} {why} or dtype={{{name!r}: str}}")
    alike = number.any() and len(set(fields[other])) == 1
    if not count or not (alike or 2 * count >= (~gap).sum()):
        return
    row = other[0] if other else max(range(len(fields)), key=lambda row: len(fields[row]))
    field, why = fields[row], "is no number, but other fields are"
    if not other:
        why, hint = "is an integer beyond 64 bits", f"dtype={{{name!r}: float}}"
    elif SEPARATED.fullmatch(field):
        why, hint = "may be a number with a separator", "thousands=',' or decimal=','"
    else:
        hint = f"na_values=[{field!r}]"
    raise Doubt(row, f"ambiguous, {field!r} {why}; pass {hint} or dtype={{{name!r}: str}}")


def _dates(pandas: Any, series: Any, gap: np.ndarray, reread: Reread, form: Any) -> np.ndarray:
    form = form.get(series.name) if isinstance(form, dict) else form
    texts = series.astype(object)
    if not form:
        form, texts = "ISO8601", texts.where(series.str.match("[0-9]", na=False))  # not "now"
    try:
        dates = pandas.to_datetime(texts, format=form, errors="coerce", utc=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"date_format: expected a format of dates, got {error}") from None
    for row in np.flatnonzero(dates.isna() & ~gap):
        got = f"got {reread()[row]!r}; pass another date_format, such as '%d/%m/%Y %H:%M'"
        raise Doubt(row, f"expected a date in format {form}, {got}")
    return dates.dt.tz_localize(None).to_numpy()


def filled(values: np.ndarray, gap: np.ndarray, gaps: str, reread: Reread) -> np.ndarray:
    """Return the values with their gaps filled, or raise if there are gaps that cannot be."""
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
