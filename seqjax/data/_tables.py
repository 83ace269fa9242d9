"""Tables in text files, read by pandas."""

import concurrent.futures
import contextlib
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_file
from seqjax.data._columns import Doubt, column, columns_with_codes, filled
from seqjax.data._rows import DIALECT, Text, count_rows, header, read_text, record

__all__ = ["Gaps", "read_csv"]

Gaps: TypeAlias = Literal["error", "interpolate", "previous", "nan"]
"""The treatment of missing values of a table; see `seqjax.data.read_csv`."""

# Older versions of pandas let these overflow.
SMALL = tuple(map(np.dtype, ("int8", "int16", "int32", "uint8", "uint16", "uint32")))
VALUES = ("na_values", "keep_default_na", "decimal", "thousands")
OPTIONS = (*DIALECT, "delimiter", *VALUES, "dtype", "parse_dates", "date_format", "header", "names",
           "skiprows", "encoding", "compression")  # fmt: skip


def read_csv(
    path: FilePath,
    columns: Sequence[str] | None = None,
    *,
    gaps: Gaps = "error",
    **options: Any,
) -> dict[str, np.ndarray]:
    r"""Return the columns of a delimited text file, read by `pandas.read_csv`.

    The first row names the columns. If the first column has no name, as `DataFrame.to_csv` writes
    the index of a frame, its name is "index".

    A column is of numbers if all its fields are numbers or gaps. Gaps are empty fields and the
    spellings of pandas, such as NA, NaN and null, and those of `na_values`. A column of text has no
    gaps: its fields are returned as they are written.

    Nothing is guessed. If the fields of a column may be numbers or text, `ValueError` is raised,
    and the message says which option decides. Such fields are 01234, 1E5 and +491234; integers
    beyond 64 bits, and in a column with gaps integers beyond 2**53; numbers among a few other texts
    such as "?"; and numbers with a separator, such as "1,234". With `thousands`, so are fields that
    have this mark in another place, such as 01.02.2024 with `thousands="."`.

    Args:
      path: the file. It may be packed as .gz, .bz2, .xz or .zip.
      columns: the names of the columns to return; all if None.
      gaps: what to do with gaps. "error" raises; "interpolate" draws a straight line between the
        neighbours, by row number, and takes the nearest value at the ends; "previous" repeats the
        value before; "nan" puts NaN there (NaT in a column of dates).
      **options: options of `pandas.read_csv`: dtype, na_values, keep_default_na, decimal,
        thousands, sep, delimiter, quotechar, quoting, skipinitialspace, comment, header, names,
        skiprows, parse_dates, date_format, encoding, compression. Three are narrower than in
        pandas. A `sep` of several characters is taken literally, except for r"\s+". `parse_dates`
        is a list of names. Without `date_format`, dates are expected in ISO 8601.

    Returns:
      For each column, in the order asked for, an array [N]: int64 (or uint64), float64, bool, an
      object array of `str`, or the dtype asked for. Integers with gaps become float64. Dates are
      datetime64; those with a time zone are converted to UTC. A column without rows is float64.

    Raises:
      ImportError: pandas is not installed.
      TypeError: an argument of another type, or an unknown option.
      OSError: no such file, or one that cannot be read.
      ValueError: a file that is not a table; a row that is longer or shorter than the header; names
        that are empty, occur twice or are not there; a column that is ambiguous or does not fit its
        dtype; a gap that is an error, or that has nothing to be filled with.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "series.csv")
      >>> _ = path.write_text("day,load,zip\nMon,1.0,01234\nTue,NA,00501\nWed,2.0,10001\n")
      >>> read_csv(path, ["load"], gaps="interpolate")
      {'load': array([1. , 1.5, 2. ])}
      >>> read_csv(path, ["zip"], dtype={"zip": str})
      {'zip': array(['01234', '00501', '10001'], dtype=object)}
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError('read_csv needs pandas: pip install "seqjax[tables]"') from error
    checks.require_name("gaps", gaps, get_args(Gaps))
    for name in set(options) - set(OPTIONS):
        raise TypeError(f"{name}: expected one of the options {', '.join(OPTIONS)}")
    text = read_text(pandas, local_file("path", path), options)
    names, above = header(text)
    wanted, dates = names if columns is None else columns, options.get("parse_dates") or []
    dtypes, missing = _dtypes(options.get("dtype"), names), options.get("na_values")
    _require_names("columns", wanted, names)
    _require_names("parse_dates", dates, names)
    _require_names("dtype", list(dtypes), names)
    _require_names("na_values", list(missing) if isinstance(missing, Mapping) else [], names)
    read = functools.partial(_read, pandas, text, names, above)
    small = {name: np.dtype("int64") for name, kind in dtypes.items() if kind in SMALL}
    kinds, table = dtypes | dict.fromkeys(dates, "date"), {}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # both leave Python's lock to others
        infers = not set(wanted) <= kinds.keys()
        codes = pool.submit(columns_with_codes, text, names if infers else [])
        frame = _frame(read, text, names, above, dtypes | small | dict.fromkeys(dates, str))
    for name in wanted:
        fields = functools.cache(functools.partial(_fields, read, text, name))
        try:
            values, gap = column(pandas, text, frame[name], fields, kinds.get(name), codes.result())
            table[name] = filled(values, gap, gaps, fields)
        except Doubt as doubt:
            line, _ = record(text, above + doubt.row)
            where = f"column {name!r} of {text.path}, line {line}"
            raise ValueError(f"path: {where}: {doubt}") from None
    return table


def _require_names(argument: str, some: Any, names: list[str]) -> None:
    if isinstance(some, str) or not isinstance(some, Sequence):
        raise TypeError(f"{argument}: expected a list of names, got {checks.brief(some)}")
    for name in some:
        if name not in names or some.count(name) > 1:
            expected = f"some of {', '.join(names)}, each once"
            raise ValueError(f"{argument}: expected {expected}, got {name!r}")


def _dtypes(dtype: Any, names: list[str]) -> dict[str, Any]:
    given = dtype if isinstance(dtype, Mapping) else dict.fromkeys(names, dtype)
    try:
        dtypes: Any = {name: np.dtype(value) for name, value in given.items() if dtype is not None}
    except TypeError:
        dtypes = {"": np.dtype("V")}
    if not {kind.kind for kind in dtypes.values()} <= set("biufOU"):
        raise TypeError(f"dtype: expected str, bool or NumPy dtypes of numbers, got {dtype!r}")
    return {name: str if kind.kind in "OU" else kind for name, kind in dtypes.items()}


def _read(pandas: Any, text: Text, names: list[str], above: int, **options: Any) -> Any:
    if tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # the default of later versions
    options |= {name: text.options[name] for name in DIALECT}
    source: Any = contextlib.nullcontext(text.path) if text.whole else text.open()
    with source as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mixed columns and overflow are detected later
        return pandas.read_csv(
            file, compression=None, engine="c",
            names=names, header=0 if above else None, skip_blank_lines=False, **options,
        )  # fmt: skip


def _fields(read: Any, text: Text, name: str) -> np.ndarray:
    """Return the fields of a column as they are written, [N] of `str`."""
    series = read(usecols=[name], dtype=str, na_filter=False)[name]
    fields: np.ndarray = series.map(text.restored).to_numpy(object)
    return fields


def _frame(read: Any, text: Text, names: list[str], above: int, dtypes: dict[str, Any]) -> Any:
    """Return the whole table as pandas reads it; raise if the number of rows is wrong."""
    values = {name: text.options[name] for name in VALUES if name in text.options}
    try:
        frame = read(dtype=dtypes, **values)
    except (ValueError, TypeError, OverflowError) as error:  # pandas' own are ValueErrors
        count_rows(text, names, above)
        for name, dtype in dtypes.items():
            try:
                read(usecols=[name], dtype={name: dtype}, **values)
            except (ValueError, TypeError, OverflowError) as wrong:
                where = f"column {name!r} of {text.path}"
                raise ValueError(f"path: {where}: expected {dtype}, got {wrong}") from None
        raise ValueError(f"path: expected a table in {text.path}, got {error}") from None
    # pandas fills short rows with gaps, and uses the first fields of a long row as an index.
    _, fields = record(text, above)
    last, body = frame.iloc[:, -1], text.data.find(b"\n") + 1 if above else 0
    short = last.isna().any() or (last.dtype.kind not in "biuf" and (last == "").any())
    quoted = text.quote and text.data.find(text.quote.encode(), body) >= 0
    doubtful = short or quoted or len(fields) != len(names)
    if doubtful and (count := count_rows(text, names, above)) != len(frame):
        found = f"{len(frame)} by pandas; does quotechar fit the file?"
        raise ValueError(f"path: expected {count} rows in {text.path}, got {found}")
    for name in frame.columns.difference(list(dtypes)):
        if frame[name].dtype.kind == "f" and (frame[name].abs() >= 2**53).any():
            # pandas reads in pieces, and joins those of int64 and of uint64 as float64.
            frame[name] = read(usecols=[name], low_memory=False, **values)[name]
    return frame
