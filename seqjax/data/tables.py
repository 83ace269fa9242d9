"""Tables in text files, read by pandas."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from seqjax import checks
from seqjax._files import FilePath
from seqjax.data._columns import Gaps, array
from seqjax.data._table import Table

__all__ = ["Gaps", "read_csv"]


def read_csv(
    path: FilePath,
    columns: Sequence[str] | None = None,
    *,
    gaps: Gaps = "error",
    **options: Any,
) -> dict[str, np.ndarray]:
    r"""Return the columns of a delimited text file, read by `pandas.read_csv`.

    The first row names the columns. Spaces around names are dropped. If the first column has no
    name, as `DataFrame.to_csv` writes the index of a frame, its name is "index".

    A column is of numbers if all its fields are numbers or gaps. Gaps are empty fields and the
    spellings of pandas, such as NA, NaN, null and n/a, and those of `na_values`. A column of text
    has no gaps: its fields are returned as they are written.

    Nothing is guessed. If the fields of a column may be numbers or text, `ValueError` is raised,
    and the message says which option decides. Such fields are 01234, 1E5 and +491234; integers
    beyond 64 bits, and in a column with gaps integers beyond 2**53; numbers among a few other texts
    such as "?"; and numbers with a separator, such as "1,234".

    Args:
      path: the file. It may be packed as .gz, .bz2, .xz or .zip.
      columns: the names of the columns to return; all if None.
      gaps: what to do with gaps. "error" raises; "interpolate" draws a straight line between the
        neighbours, by row number, and takes the nearest value at the ends; "previous" repeats the
        value before; "nan" puts NaN there (NaT in a column of dates).
      **options: options of `pandas.read_csv`, with the meaning they have there: dtype, na_values,
        keep_default_na, na_filter, thousands, decimal, true_values, false_values, sep, delimiter,
        quotechar, quoting, doublequote, escapechar, skipinitialspace, comment, skip_blank_lines,
        header, names, index_col, skiprows, parse_dates, date_format, dayfirst, encoding,
        encoding_errors, compression. There are four differences. A `sep` of several characters is
        taken literally, except for r"\s+". The columns of `index_col` are left out if `columns` is
        None. `skip_blank_lines` is False by default, so that no row gets lost. `parse_dates` is a
        list of names.

    Returns:
      For each column, in the order asked for, an array [N]: int64 (or uint64), float64, bool, an
      object array of `str`, or the dtype asked for. Integers with gaps become float64. Dates are
      datetime64; those with a time zone are converted to UTC. A column without rows is float64.

    Raises:
      ImportError: pandas is not installed.
      TypeError: path is not a path, columns is one string, or an option is unknown.
      OSError: no such file, or one that cannot be read.
      ValueError: text in another encoding; no header, or one with names that are empty or occur
        twice; a row that is longer or shorter than the header; a column that is not there; a column
        that is ambiguous, or does not fit its dtype; a gap that is an error, or that has nothing to
        be filled with.

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
    if columns is not None and (isinstance(columns, str) or not isinstance(columns, Sequence)):
        raise TypeError(f"columns: expected a list of names, got {checks.brief(columns)}")
    checks.require_name("gaps", gaps, get_args(Gaps))
    table = Table(path, options)
    names = table.shown if columns is None else list(columns)
    for name in names:
        table.require_column("columns", name)
        if names.count(name) > 1:
            raise ValueError(f"columns: expected different names, got {name!r} twice")
    frame = table.frame()
    return {name: array(table, name, frame[name], gaps) for name in names}
