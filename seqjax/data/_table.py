"""A table in a text file: its options, its header, and the frame that pandas reads."""

import dataclasses
import functools
import io
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_path
from seqjax.data import _csv
from seqjax.data._codes import may_hold_codes
from seqjax.data._header import header_of

__all__ = ["Table"]

FORMAT = [field.name for field in dataclasses.fields(_csv.Format)]
VALUES = [
    "na_values", "keep_default_na", "na_filter", "thousands", "decimal", "true_values",
    "false_values",
]  # fmt: skip
OPTIONS = [
    *FORMAT, "delimiter", "dtype", *VALUES, "parse_dates", "date_format", "dayfirst", "header",
    "names", "index_col", "skiprows", "encoding", "encoding_errors", "compression",
]  # fmt: skip


class Table:
    """A file, its header, and the options that hold for its columns.

    Attributes:
      path: the file.
      options: those of pandas, as given.
      text: what is in the file.
      header: the names of the columns.
      shown: the names of the columns that are no index.
      dates: the names of the columns of dates.
      dtypes: by name, `str` or one of NumPy's dtypes, for columns that have one.
    """

    def __init__(self, path: FilePath, options: dict[str, Any]) -> None:
        self.pandas = _pandas()
        if isinstance(path, (self.pandas.DataFrame, self.pandas.Series)):
            raise TypeError(
                f"path: expected a path, got a {type(path).__name__}, whose values are in memory; "
                "frame[name].to_numpy() returns them"
            )
        self.path = local_path("path", path)
        self.options = _known(options)
        self.text = _csv.read(
            self.path,
            _csv.Format(**{name: options[name] for name in FORMAT if name in options}),
            encoding=options.get("encoding") or "utf-8",
            errors=options.get("encoding_errors") or "strict",
            compression=options.get("compression", "infer"),
            skip=checks.require_integer("skiprows", options.get("skiprows") or 0, least=0),
        )
        self.has_header, self.header = header_of(self.text, options)
        self.dates = self._named("parse_dates", options.get("parse_dates"))
        hidden = self._named("index_col", options.get("index_col"))
        self.shown = [name for name in self.header if name not in hidden]
        self.dtypes = self._dtypes(options.get("dtype"))
        if isinstance(na_values := options.get("na_values"), Mapping):
            self._named("na_values", list(na_values))

    def require_column(self, argument: str, name: Any) -> None:
        """Raise if there is no such column."""
        if name not in self.header:
            raise ValueError(
                f"{argument}: expected some of {', '.join(self.header)} in {self.path}, "
                f"got {name!r}"
            )

    def frame(self) -> Any:
        """The frame of the whole table; in columns of text, some texts may have become gaps."""
        if not self.text.data:
            return self.pandas.DataFrame(columns=self.header, dtype=object)
        dtypes = self.dtypes | dict.fromkeys(self.dates, str)
        width = len(self.header)
        first = list(itertools.islice(self.text.records(), self.has_header, self.has_header + 1))
        if any(len(fields) != width for _, fields in first):
            # pandas takes the first fields of a long first row for an index.
            self.text.require_rectangle(width, self.has_header)
        try:
            frame = self._read(dtype=dtypes, **self._values)
        except (ValueError, TypeError, OverflowError) as error:  # pandas' own are ValueErrors
            self.text.require_rectangle(width, self.has_header)
            self._require_dtypes(dtypes)
            raise ValueError(f"path: expected a table in {self.path}, got {error}") from None
        # pandas refuses other long rows, and fills short ones up with gaps.
        last = frame.iloc[:, -1]
        short = bool(last.isna().any()) or (last.dtype.kind not in "biuf" and (last == "").any())
        form = self.text.format
        body = self.text.data.find(b"\n") + 1 if self.has_header else 0
        quoted = form.quote is not None and self.text.data.find(form.quote.encode(), body) >= 0
        if short or quoted or form.escapechar or form.skip_blank_lines:
            count = self.text.require_rectangle(width, self.has_header)
            if count != len(frame):
                raise ValueError(
                    f"path: expected {count} rows in {self.path}, but pandas finds {len(frame)}; "
                    "check quotechar and escapechar"
                )
        return frame

    def texts(self, name: str) -> np.ndarray:
        """The fields of a column as they are written, [N] of `str`."""
        frame = self._read(usecols=[name], dtype=str, na_filter=False)
        return self.restored(frame[name].to_numpy(dtype=object))

    def restored(self, texts: np.ndarray) -> np.ndarray:
        """Texts with the delimiter that `_csv.UNIT` stands for."""
        if self.text.format.sep != _csv.UNIT:
            return texts
        return np.array([text.replace(_csv.UNIT, self.text.given) for text in texts], object)

    def numbers(self, texts: np.ndarray) -> np.ndarray:
        """The numbers that texts are, NaN where they are none."""
        series = self.pandas.Series(texts, dtype=object)
        for mark, plain in (
            (self.options.get("thousands"), ""),
            (self.options.get("decimal"), "."),
        ):
            if mark:
                series = series.str.replace(mark, plain, regex=False)
        return self.pandas.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)

    def line(self, row: int) -> int:
        """The line in which a row begins."""
        return self.text.line(row + self.has_header)

    @functools.cached_property
    def may_hold_codes(self) -> bool:
        """Whether any field of the file looks like a code."""
        return may_hold_codes(self.text)

    @property
    def _values(self) -> dict[str, Any]:
        return {name: self.options[name] for name in VALUES if name in self.options}

    def _read(self, **options: Any) -> Any:
        form = dataclasses.asdict(self.text.format)
        if tuple(map(int, self.pandas.__version__.split(".")[:2])) < (3, 1):
            options["float_precision"] = "round_trip"  # the default of later versions
        with warnings.catch_warnings():
            # A column of several kinds is read once more, as text.
            warnings.simplefilter("ignore", self.pandas.errors.DtypeWarning)
            return self.pandas.read_csv(
                io.BytesIO(self.text.data), engine="c", encoding="utf-8", names=self.header,
                encoding_errors="surrogatepass", header=0 if self.has_header else None,
                **form, **options,
            )  # fmt: skip

    def _named(self, argument: str, value: Any) -> list[str]:
        """The columns that an option names, or counts from 0."""
        if value is None or value is False:
            return []
        names = list(value) if isinstance(value, (list, tuple)) else [value]
        for index, name in enumerate(names):
            if type(name) is int and 0 <= name < len(self.header):
                names[index] = self.header[name]
            self.require_column(argument, names[index])
        return names

    def _dtypes(self, dtype: Any) -> dict[str, Any]:
        given = dtype if isinstance(dtype, Mapping) else dict.fromkeys(self.header, dtype)
        found: dict[str, Any] = {}
        for name, value in given.items() if dtype is not None else ():
            self.require_column("dtype", name)
            kind: np.dtype
            try:
                kind = np.dtype("O" if str(value) in ("str", "string") else value)
            except TypeError:
                kind = np.dtype("V")
            if kind.kind not in "biufOU":
                raise TypeError(
                    f"dtype: expected str, bool or a NumPy dtype of numbers for column {name!r}, "
                    f"got {value!r}{'; parse_dates reads dates' * (kind.kind == 'M')}"
                )
            found[name] = str if kind.kind in "OU" else kind
        return found

    def _require_dtypes(self, dtypes: dict[str, Any]) -> None:
        """Raise for the first column that does not fit its dtype, and name the line."""
        for name, dtype in dtypes.items():
            if dtype is str:
                continue
            try:
                self._read(usecols=[name], dtype={name: dtype}, **self._values)
            except (ValueError, TypeError, OverflowError):
                column = self._read(usecols=[name], dtype=str, **self._values)[name]
                gap, texts = column.isna().to_numpy(), self.texts(name)
                numbers = self.numbers(texts)
                fits = ~np.isnan(numbers)
                if dtype.kind == "f":
                    fits |= gap
                elif dtype.kind in "iu":
                    info = np.iinfo(dtype)
                    fits &= (numbers == np.rint(numbers)) & ~gap
                    fits &= (numbers >= info.min) & (numbers <= info.max)
                else:
                    fits = np.isin(texts, ["True", "TRUE", "true", "False", "FALSE", "false"])
                if fits.all():
                    raise ValueError(
                        f"path: column {name!r} of {self.path}: expected {dtype}, got other values"
                    ) from None
                row = int(fits.argmin())
                hint = "; a gap needs a float dtype" * bool(gap[row])
                raise ValueError(
                    f"path: column {name!r} of {self.path}: expected {dtype} in line "
                    f"{self.line(row)}, got {texts[row]!r}{hint}"
                ) from None


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            'seqjax.data.read_csv needs pandas: pip install "seqjax[tables]"'
        ) from error
    return pandas


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with one name for the delimiter."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError(
                f"{name}: expected an option of read_csv, which are {', '.join(OPTIONS)}"
                + "; `columns` chooses columns" * (name == "usecols")
            )
    if "delimiter" in options:
        if "sep" in options:
            raise ValueError("delimiter: expected none beside sep, which means the same")
        options["sep"] = options.pop("delimiter")
    for name in ("thousands", "decimal"):
        value = options.get(name)
        if value is not None and not (isinstance(value, str) and len(value) == 1):
            raise ValueError(f"{name}: expected one character, got {value!r}")
    if options.get("thousands") == (options.get("decimal") or "."):
        raise ValueError(
            f"thousands: expected another character than decimal, got {options['thousands']!r}"
        )
    return options
