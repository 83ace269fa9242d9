"""The columns of a table: numbers, dates or text, and what is done about gaps."""

import functools
import re
import warnings
from typing import Any, Literal, TypeAlias

import numpy as np

from seqjax.data._codes import find_code
from seqjax.data._table import Table

__all__ = ["Gaps", "array"]

Gaps: TypeAlias = Literal["error", "interpolate", "previous", "nan"]

INFINITY = re.compile(r"\s*[-+]?inf(inity)?\s*", re.IGNORECASE)
INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*")
SEPARATED = re.compile(
    r"^\s*[-+]?(?:[0-9]{1,3}(?:[,' \u00a0\u2009\u202f][0-9]{3})+(?:[.,][0-9]+)?"
    r"|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]+,[0-9]+)\s*$",
    re.MULTILINE,
)
"""Numbers with a separator of thousands or with a decimal comma."""
QUOTE_AFTER_SPACE = re.compile(r'^[ \t]+"', re.MULTILINE)
YEAR = re.compile(r"[0-9]{4}")
DAY_OR_MONTH = re.compile(r"\s*[0-9]{1,2}([-/.])[0-9]{1,2}\1[0-9]{2,4}\b")


class Column:
    """A column by its name, for its fields as they are written and for messages."""

    def __init__(self, table: Table, name: str) -> None:
        self.table = table
        self.name = name

    @functools.cached_property
    def texts(self) -> np.ndarray:
        """The fields as they are written, [N] of `str`."""
        return self.table.texts(self.name)

    def error(self, row: int, expected: str, hint: str) -> ValueError:
        """The error that a field is not what it should be."""
        return ValueError(
            f"path: column {self.name!r} of {self.table.path}: expected {expected} in line "
            f"{self.table.line(row)}, got {self.texts[row]!r}; {hint}"
        )

    def ambiguous(self, row: int, why: str, hint: str) -> ValueError:
        """The error that a column may be of numbers or of text."""
        return ValueError(
            f"path: column {self.name!r} of {self.table.path} is ambiguous: {self.texts[row]!r} in "
            f"line {self.table.line(row)} {why}; pass {hint}"
        )

    def dtype(self, kind: str) -> str:
        """The option that decides for a kind of values."""
        return f"dtype={{{self.name!r}: {kind}}}"


def array(table: Table, name: str, series: Any, gaps: Gaps) -> np.ndarray:
    """Return the values of a column that pandas has read."""
    column, dtype = Column(table, name), table.dtypes.get(name)
    if name in table.dates:
        values = _dates(column, series.isna().to_numpy())
        return _filled(column, values, np.isnat(values), gaps)
    if dtype is str:
        return _as_written(column, series)
    if dtype is not None or not len(series):
        values = series.to_numpy(dtype=dtype or np.float64)
        return _filled(column, values, np.isnan(values), gaps)
    if series.dtype.kind in "biuf":
        values = series.to_numpy()
        gap = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        if values.dtype.kind != "b":
            _require_numbers(column, values, gap)
        return _filled(column, values, gap, gaps)
    gap = series.isna().to_numpy()
    if table.pandas.api.types.infer_dtype(series, skipna=True) == "boolean":
        return _filled(column, series.to_numpy() == True, gap, gaps)  # noqa: E712
    texts = _as_written(column, series)
    _require_text(column, texts, gap)
    return texts


def _as_written(column: Column, series: Any) -> np.ndarray:
    """A column of text. pandas takes some texts for gaps, and then the text is read once more."""
    whole = column.table.pandas.api.types.infer_dtype(series, skipna=False) == "string"
    if not len(series) or (whole and not series.isna().any()):
        return column.table.restored(series.to_numpy(dtype=object))
    return column.texts


def _require_numbers(column: Column, values: np.ndarray, gap: np.ndarray) -> None:
    """Raise if a number may be meant as text, or is not what is written."""
    if gap.all():
        for row in np.flatnonzero(column.texts != "").tolist():
            hint = f"{column.dtype('float')} or {column.dtype('str')}"
            raise column.ambiguous(row, "may be a gap or text, and no field is a number", hint)
        return
    if values.dtype.kind == "f":
        for row in np.flatnonzero(np.abs(values) >= 2**53).tolist():
            text = column.texts[row]
            if INTEGER.fullmatch(text):
                why = (
                    f"is an integer that a float64 cannot hold{', as gaps need' * bool(gap.any())}"
                )
                hint = f"{column.dtype('str')} or {column.dtype('float')}"
                raise column.ambiguous(row, why, hint)
            if np.isinf(values[row]) and not INFINITY.fullmatch(text):
                hint = f"{column.dtype('str')} keeps it as text"
                raise column.error(row, "a number that a float64 can hold", hint)
    if column.table.may_hold_codes:
        rows = np.flatnonzero(~gap)
        found = find_code(column.texts[rows])
        if found is not None:
            number = "float" if values.dtype.kind == "f" else "int"
            hint = f"{column.dtype('str')} or {column.dtype(number)}"
            raise column.ambiguous(int(rows[found]), "may be a number or a code", hint)


def _require_text(column: Column, texts: np.ndarray, gap: np.ndarray) -> None:
    """Raise if a column of text may be meant as one of numbers."""
    table = column.table
    number = table.numbers(texts)
    number = ~np.isnan(number) & ~gap
    other = np.flatnonzero(~gap & ~number).tolist()
    separated = 0
    joined = "\n".join(texts[other])
    if SEPARATED.search(joined):
        separated = sum(bool(SEPARATED.fullmatch(text)) for text in texts[other])
    if QUOTE_AFTER_SPACE.search(joined) and table.text.format.quote == '"':
        for row in other:
            if table.text.is_quoted_after_space(texts[row]):
                hint = f"skipinitialspace=True or {column.dtype('str')}"
                raise column.ambiguous(row, "has a space before its quote", hint)
    count = int(number.sum())
    single = count and len(set(texts[other])) == 1
    if not count + separated or not (single or 2 * (count + separated) >= len(texts) - gap.sum()):
        return
    as_text = column.dtype("str")
    if not len(other):
        hint = f"{as_text} or {column.dtype('float')}"
        row = int(np.nanargmax(np.abs(table.numbers(texts))))
        raise column.ambiguous(row, "is an integer beyond 64 bits", hint)
    row, text = other[0], texts[other[0]]
    why = "is no number, but other fields are"
    if SEPARATED.fullmatch(text):
        why = "may be a number with a separator or text"
        hint = f"{as_text}, thousands=',' or decimal=','"
    elif text[:1] in " \t" and not table.text.format.skipinitialspace:
        hint = f"skipinitialspace=True, na_values=[{text!r}] or {as_text}"
    elif text.lower() in ("true", "false"):
        hint = as_text
    else:
        hint = f"na_values=[{text!r}] or {as_text}"
    raise column.ambiguous(row, why, hint)


def _dates(column: Column, gap: np.ndarray) -> np.ndarray:
    """A column of dates, NaT at gaps."""
    pandas, options = column.table.pandas, column.table.options
    form = options.get("date_format")
    form = form.get(column.name) if isinstance(form, dict) else form
    if form is None:
        for row in np.flatnonzero(~gap).tolist():
            text = column.texts[row]
            if not YEAR.search(text):
                hint = "date_format='%H:%M' or the like accepts it"
                raise column.error(row, "a date with a year of four digits", hint)
            if options.get("dayfirst") is None and DAY_OR_MONTH.match(text):
                hint = "dayfirst=True, dayfirst=False or date_format='%d/%m/%Y'"
                raise column.ambiguous(row, "may begin with the day or the month", hint)
    texts = pandas.Series(column.texts, dtype=object).mask(gap)
    day = {"dayfirst": bool(options.get("dayfirst"))}
    try:
        with warnings.catch_warnings():
            # Without a format, dates are guessed one by one: 12:30 becomes half past twelve today.
            warnings.filterwarnings("error", "Could not infer format", UserWarning)
            dates = pandas.to_datetime(texts, format=form, errors="coerce", utc=True, **day)
    except UserWarning:
        hint = "pass date_format, such as '%Y-%m-%d %H:%M'"
        raise column.error(int(gap.argmin()), "a date in a known format", hint) from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"date_format: expected a format of dates, got {error}") from None
    for row in np.flatnonzero(dates.isna() & ~gap).tolist():
        hint = "date_format says how dates are written, such as '%Y-%m-%d %H:%M' or 'ISO8601'"
        raise column.error(row, "a date written as the first one", hint)
    return dates.dt.tz_localize(None).to_numpy()


def _filled(column: Column, values: np.ndarray, gap: np.ndarray, gaps: Gaps) -> np.ndarray:
    """The values with their gaps filled, or left as they are, or refused."""
    kind = {"b": "True or False", "M": "a date"}.get(values.dtype.kind, "a number")
    if not gap.any() or (gaps == "nan" and values.dtype.kind != "b"):
        return values
    first = int(gap.argmax())
    ways = ['"interpolate"'] * (kind == "a number") + ['"previous"', '"nan"'][
        : 2 - (kind[0] == "T")
    ]
    if gaps not in " ".join(ways):
        hint = f"gaps={' or '.join(ways)} fills gaps"
        if not column.texts[first].strip():
            raise column.error(first, kind, hint)
        raise column.error(first, kind, f"{hint}, and {column.dtype('str')} keeps text")
    values = values.copy()  # pandas' arrays may be read-only
    if gap.all():
        raise ValueError(
            f"path: column {column.name!r} of {column.table.path}: expected {kind} to fill gaps "
            "with, got none"
        )
    rows = np.arange(len(values))
    if gaps == "interpolate":
        values[gap] = np.interp(rows[gap], rows[~gap], values[~gap])
        return values
    if gap[0]:
        hint = (
            'gaps="interpolate" takes the nearest value'
            if kind == "a number"
            else "it is the first"
        )
        raise column.error(0, f"{kind} before the first gap", hint)
    return values[np.maximum.accumulate(np.where(gap, 0, rows))]
