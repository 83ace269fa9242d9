"""Reader of delimited text files, based on pandas."""

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
"""The treatment of missing values in a table; see `seqjax.data.read_csv`."""

# These dtypes overflow silently in older versions of pandas, so they are read as int64 first.
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

    The first row contains the names of the columns. If the first column has no name, as in files
    that `DataFrame.to_csv` writes, its name is "index".

    If all fields of a column are numbers or gaps, it is a column of numbers. Gaps (missing values)
    are empty fields, texts such as NA, NaN and null that pandas treats as missing, and the texts in
    `na_values`. A column of text has no gaps: its fields are returned as they are written.

    If the fields of a column may be numbers or text, `ValueError` is raised, and the message names
    the options that resolve the ambiguity. These fields are ambiguous:

    - 01234, 1E5 and +491234, which may be codes;
    - integers beyond 64 bits, or beyond 2**53 in a column with gaps;
    - numbers in a column that also has a few texts, such as "?";
    - numbers with a separator, such as "1,234";
    - fields with a misplaced `thousands` separator, such as 01.02.2024 with `thousands="."`.

    Args:
      path: the path of the file. It may be packed as .gz, .bz2, .xz or .zip.
      columns: the names of the columns to return. None means all columns.
      gaps: what to do with missing values. "error" raises an error. "interpolate" interpolates
        linearly between the neighbouring rows, and uses the nearest value at the ends. "previous"
        repeats the previous value. "nan" returns NaN (NaT in a column of dates).
      **options: options of `pandas.read_csv`: dtype, na_values, keep_default_na, decimal,
        thousands, sep, delimiter, quotechar, quoting, skipinitialspace, comment, header, names,
        skiprows, parse_dates, date_format, encoding, compression. Three of them differ from
        pandas: a `sep` of several characters is a literal string, except for r"\s+"; `parse_dates`
        is a list of names; and without `date_format`, dates must be in ISO 8601, and all dates of a
        column have a time zone, or none of them.

    Returns:
      A dict of arrays [N], one for each column, in the requested order. The dtypes are int64 (or
      uint64), float64, bool, object (of `str`), or the requested dtype. Integers with gaps become
      float64. Dates are datetime64; dates with a time zone are converted to UTC. A column without
      rows is float64.

    Raises:
      ImportError: pandas is not installed.
      TypeError: an argument is of another type, or an option is unknown.
      OSError: the file does not exist or cannot be read.
      ValueError: the file is not a table; a row is longer or shorter than the header; a name is
        empty, occurs twice or does not exist; a column is ambiguous or does not fit its dtype;
        there is a gap and `gaps` is "error"; or there is no value to fill a gap with.

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
        raise TypeError(f"{name}: expected one of the options {', '.join(OPTIONS)}, got {name!r}")
    text = read_text(pandas, local_file("path", path), options)
    names, above = header(text)
    wanted, dates = names if columns is None else columns, options.get("parse_dates") or []
    dtypes, missing = _dtypes(options.get("dtype"), names), options.get("na_values")
    _require_names("columns", wanted, names)
    _require_names("parse_dates", dates, names)
    if (form := options.get("date_format")) and not dates:
        raise ValueError(f"date_format: expected parse_dates with it, got only {form!r}")
    if isinstance(form, Mapping):
        _require_names("date_format", list(form), list(dates))
    _require_names("dtype", list(dtypes), names)
    _require_names("na_values", list(missing) if isinstance(missing, Mapping) else [], names)
    read = functools.partial(_read, pandas, text, names, above)
    small = {name: np.dtype("int64") for name, kind in dtypes.items() if kind in SMALL}
    kinds, table = dtypes | dict.fromkeys(dates, "date"), {}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:  # both readers release Python's lock
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
        options["float_precision"] = "round_trip"  # as is the default in later versions
    options |= {name: text.options[name] for name in DIALECT}
    source: Any = contextlib.nullcontext(text.path) if text.whole else text.open()
    with source as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mixed columns and overflow are detected later
        return pandas.read_csv(
            file, compression=None, engine="c",
            names=names, header=0 if above else None, skip_blank_lines=False, **options,
        )  # fmt: skip


def _fields(read: Any, text: Text, name: str) -> np.ndarray:
    """Return the fields of a column as they are written in the file, [N] of `str`."""
    series = read(usecols=[name], dtype=str, na_filter=False)[name]
    fields: np.ndarray = series.map(text.restored).to_numpy(object)
    return fields


def _frame(read: Any, text: Text, names: list[str], above: int, dtypes: dict[str, Any]) -> Any:
    """Return the whole table as pandas reads it; raise if the number of rows is wrong."""
    values = {name: text.options[name] for name in VALUES if name in text.options}
    try:
        frame = read(dtype=dtypes, **values)
    except (ValueError, TypeError, OverflowError) as error:  # the classes of pandas are ValueErrors
        count_rows(text, names, above)
        for name, dtype in dtypes.items():
            try:
                read(usecols=[name], dtype={name: dtype}, **values)
            except (ValueError, TypeError, OverflowError) as wrong:
                where = f"column {name!r} of {text.path}"
                gap, got = read(usecols=[name], **values)[name].isna().to_numpy(), str(wrong)
                if isinstance(dtype, np.dtype) and dtype.kind in "biu" and gap.any():
                    line, _ = record(text, above + int(gap.argmax()))
                    hint = f"pass dtype={{{name!r}: float}} and `gaps`"
                    if dtype.kind == "b":
                        hint = f"leave {name!r} out of dtype and pass gaps='previous'"
                    field = _fields(read, text, name)[gap.argmax()]
                    where, got = f"{where}, line {line}", f"{field!r}, a missing value; {hint}"
                raise ValueError(f"path: {where}: expected {dtype}, got {got}") from None
        raise ValueError(f"path: expected a table in {text.path}, got {error}") from None
    # pandas fills short rows with gaps and uses the first fields of a long row as an index, so the
    # rows are counted if this may have happened.
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
            # pandas reads in chunks and joins chunks of int64 and of uint64 to float64.
            frame[name] = read(usecols=[name], low_memory=False, **values)[name]
    return frame
