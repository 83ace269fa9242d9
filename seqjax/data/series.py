"""Reader of tables.

A file whose name ends in ".gz" is unpacked.
"""

import csv
import io
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from seqjax import checks
from seqjax._files import FilePath
from seqjax.data._files import decode, read_bytes

__all__ = ["Gaps", "read_csv"]

Gaps: TypeAlias = Literal["error", "interpolate", "previous", "nan"]

GAPS = ("", "na", "nan", "null")
"""What stands for a missing value, in small letters."""


def read_csv(
    path: FilePath,
    columns: Sequence[str] | None = None,
    *,
    gaps: Gaps = "error",
    delimiter: str = ",",
) -> dict[str, np.ndarray]:
    r"""The columns of a table whose first row names them.

    A column is of numbers if all its fields are, gaps left aside; else it is of text. Spaces around
    a field are dropped. Gaps are empty fields and NA, NaN and null in any letters; in columns of
    text they are "".

    Args:
      path: of the file, UTF-8 text.
      columns: names of those to read; all if None.
      gaps: what to do with gaps in columns of numbers: "error" raises, "interpolate" draws a
        straight line between the neighbours, by row number, and takes the nearest value at the
        ends, "previous" repeats the value before, and "nan" puts NaN there.
      delimiter: what parts the fields.

    Returns:
      For each column, in the order asked for, an array [N]: float64, or of strings.

    Raises:
      TypeError: path is not a path, or columns is one string.
      OSError: no such file, or one that cannot be read.
      ValueError: text that is not UTF-8; no header, or one with names that are empty or occur
        twice; a row that is longer or shorter than the header; a column that is not there; a gap
        that is an error, or that has nothing to be filled with.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "series.csv")
      >>> _ = path.write_text("day,load\nMon,1.0\nTue,NA\nWed,2.0\n")
      >>> read_csv(path, ["load"], gaps="interpolate")
      {'load': array([1. , 1.5, 2. ])}
    """
    if isinstance(columns, str):
        raise TypeError(f"columns: expected several, got one string, {columns!r}")
    checks.require_name("gaps", gaps, get_args(Gaps))
    header, rows, lines = _rows(path, delimiter)
    table = {}
    for name in header if columns is None else columns:
        if name not in header:
            raise ValueError(
                f"columns: expected some of {', '.join(header)} in {path}, got {name!r}"
            )
        column = header.index(name)
        fields = [row[column] for row in rows]
        table[name] = _column(f"path: column {name!r} of {path}", fields, lines, gaps)
    return table


def _rows(path: FilePath, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows, and the line of each row."""
    text = decode(read_bytes(path), path)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            rows.append([field.strip() for field in row] or [""])  # a blank line
            lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(
            f"path: expected comma-separated values in {path}, got {error} in line "
            f"{reader.line_num}"
        ) from None
    while rows and rows[-1] == [""]:
        rows.pop()
    if not rows:
        raise ValueError(f"path: expected a row of column names in {path}, got no rows")
    header, *rows = rows
    for name in header:
        if not name or header.count(name) > 1:
            twice = f"{name!r} twice" if name else "an empty one"
            raise ValueError(
                f"path: expected different column names in {path}, line {lines[0]}, got {twice}"
            )
    for row, line in zip(rows, lines[1:], strict=False):
        if len(row) != len(header):
            raise ValueError(
                f"path: expected {len(header)} fields in {path}, line {line}, got {len(row)}"
            )
    return header, rows, lines[1 : len(rows) + 1]


def _column(name: str, fields: list[str], lines: list[int], gaps: Gaps) -> np.ndarray:
    """A column's values, its gaps treated."""
    gap = np.array([field.lower() in GAPS for field in fields], bool)
    try:
        values = np.array([np.nan if g else _number(f) for f, g in zip(fields, gap, strict=True)])
    except ValueError:
        return np.array(["" if g else f for f, g in zip(fields, gap, strict=True)])
    if not gap.any() or gaps == "nan":
        return values
    first = int(gap.argmax())
    if gaps == "error":
        raise ValueError(
            f'{name}: expected a number in line {lines[first]}, got {fields[first]!r}; gaps="'
            'interpolate", "previous" or "nan" fills gaps'
        )
    if gap.all():
        raise ValueError(f"{name}: expected a number to fill gaps with, got none")
    rows = np.arange(len(values))
    if gaps == "interpolate":
        values[gap] = np.interp(rows[gap], rows[~gap], values[~gap])
        return values
    if gap[0]:
        raise ValueError(
            f"{name}: expected a number in line {lines[0]}, before the first gap, got {fields[0]!r}"
        )
    return values[np.maximum.accumulate(np.where(gap, 0, rows))]


def _number(field: str) -> float:
    if "_" in field:  # Python's way to group digits, and nobody else's
        raise ValueError(field)
    return float(field)
