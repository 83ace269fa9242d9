"""Rows of a delimited text file: header, fields, and the line in which each row begins."""

import contextlib
import csv
import io
import itertools
import mmap
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqjax import checks
from seqjax.data._files import packing

__all__ = ["DIALECT", "SPACES", "Text", "count_rows", "header", "read_text", "record"]

DIALECT: dict[str, Any] = {"sep": ",", "quotechar": '"', "quoting": 0, "skipinitialspace": False,
           "comment": None}  # fmt: skip
"""The options of pandas for the syntax of fields, with their defaults."""
SPACES = r"\s+"
"""The `sep` by which pandas splits fields at any white space."""
NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)
DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[T ][0-9:.]+ ?(?:Z|[-+][0-9:]+)?)?"
    r"|[0-9]{1,2}:[0-9]{2}(?::[0-9.]+)?"
)
"""Pattern of dates and times in ISO 8601, as they occur in data but hardly as names of columns."""
UNIT = "\x1f"
"""The unit separator. It replaces delimiters that the fast parser of pandas does not support."""


class Text(NamedTuple):
    """The text of a file in UTF-8, beginning with line `first`, and the options for reading it."""

    path: Path
    data: Any  # bytes, or a memory map of the whole file
    first: int
    options: dict[str, Any]
    sep: str  # as in the file; options["sep"] is always one character or `SPACES`

    @property
    def whole(self) -> bool:
        """True if the data are the whole, unchanged file, so that pandas can open the file."""
        return isinstance(self.data, mmap.mmap)

    def open(self) -> Any:
        """Return a binary file object of the text."""
        return self.path.open("rb") if self.whole else io.BytesIO(self.data)

    @property
    def quote(self) -> str:
        """The quote character; empty if quotes are part of the text."""
        return "" if self.options["quoting"] == csv.QUOTE_NONE else self.options["quotechar"]

    def has(self, mark: str) -> bool:
        """Return whether a field may contain the character `mark`.

        A field can contain the delimiter only if it is quoted.
        """
        quoted = self.sep != mark or (self.quote and self.data.find(self.quote.encode()) >= 0)
        return bool(quoted) and self.data.find(mark.encode()) >= 0

    def restored(self, field: str) -> str:
        """Return a field as it is written in the file, with the original delimiter."""
        return field.replace(UNIT, self.sep) if self.options["sep"] == UNIT else field


def read_text(pandas: Any, path: Path, options: dict[str, Any]) -> Text:
    """Return the unpacked and decoded text of a file, without its first `skiprows` lines."""
    if {"sep", "delimiter"} <= options.keys():
        raise ValueError("sep, delimiter: expected one of them, got both")
    options = DIALECT | {"sep": options.get("delimiter", ",")} | options
    sep, quote, decimal = options["sep"], options["quotechar"], options.get("decimal", ".")
    if not isinstance(sep, str) or not sep or set(sep) & set("\r\n\0"):
        raise ValueError(f"sep: expected a delimiter such as ',' or '\\t', got {sep!r}")
    if options["quoting"] not in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        raise ValueError(
            "quoting: expected csv.QUOTE_MINIMAL or csv.QUOTE_NONE, got "
            f"{checks.brief(options['quoting'])}"
        )
    if quote is None and options["quoting"] != csv.QUOTE_NONE:
        hint = "pass quoting=csv.QUOTE_NONE if quotes are part of the text"
        raise ValueError(f"quotechar: expected one character, got None; {hint}")
    if decimal is None:
        raise ValueError("decimal: expected one character, got None")
    meanings = {"quotechar": [sep], "comment": [sep, quote], "thousands": [decimal], "decimal": []}
    for name, others in meanings.items():
        mark = options.get(name)
        if mark is not None and (mark in others or not isinstance(mark, str) or len(mark) != 1):
            raise ValueError(
                f"{name}: expected one character without another meaning, got {mark!r}"
            )
        if mark is not None and not mark.isascii():
            raise ValueError(f"{name}: expected one ASCII character, got {mark!r}")
    skip = checks.require_integer("skiprows", options.get("skiprows") or 0, least=0)
    with path.open("rb") as file:
        try:
            kind = pandas.io.common.infer_compression(path, options.get("compression", "infer"))
            if kind is None and (packed := packing(file.read(4))):
                hint = "pass compression='gzip'"
                if "Excel" in packed:
                    hint = "pass compression='zip', or read Excel files with pandas.read_excel"
                raise ValueError(f"{packed}; {hint}")
            file.seek(0)
            if kind is None and not skip and (mapped := _plain(path, file, options)):
                return Text(path, mapped, 1, options, sep)
            unpacked = pandas.io.common.get_handle(file, "rb", compression=kind, is_text=False)
            with unpacked as handles:
                data = handles.handle.read()
        except Exception as error:  # each compression raises classes of its own
            expected = f"compression: expected one that unpacks {path}"
            raise ValueError(f"{expected}, got {error}") from None
    encoding = options.get("encoding") or "utf-8"
    try:
        if encoding != "utf-8" or not data.isascii():
            data = data.decode(encoding).removeprefix("\ufeff").encode()
        place, wrong = data.find(b"\0"), "a NUL character"
    except UnicodeDecodeError as error:
        place, wrong = error.start, f"byte 0x{data[error.start]:02x}"
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"encoding: expected one that fits {path}, got {error}") from None
    if place >= 0:
        line = data.count(b"\n", 0, place) + 1
        hint = "encoding='cp1252' or encoding='utf-16' may fit"
        where = f"expected {encoding} text in {path}, line {line}"
        raise ValueError(f"path: {where}, got {wrong}; {hint}")
    for _ in range(skip):
        end = re.search(rb"\r\n?|\n|\Z", data)
        data = data[end.end() if end else 0 :]
    data = data.rstrip(b"\r\n")
    if sep != SPACES and (len(sep) > 1 or not sep.isascii()):
        if UNIT.encode() in data or sep.encode() not in data:
            expected = f"a delimiter that is in {path}, and no \\x1f there"
            raise ValueError(f"sep: expected {expected}, got {sep!r}")
        data, options["sep"] = data.replace(sep.encode(), UNIT.encode()), UNIT
    return Text(path, data, 1 + skip, options, sep)


def _plain(path: Path, file: Any, options: dict[str, Any]) -> mmap.mmap | None:
    """Return a memory map of a file that pandas can read unchanged, or None.

    pandas can read a file unchanged if the file is ASCII and does not end with empty lines.
    """
    known = options.get("encoding") in (None, "utf-8", "ascii")
    if not known or len(options["sep"].encode()) != 1 or not path.is_file():
        return None
    try:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # a file system without memory maps, or an empty file
        return None
    codes = np.frombuffer(data, np.uint8)
    plain = codes.min() > 0 and codes.max() < 128 and data[-2:].strip(b"\r\n")
    return data if plain else None


def records(text: Text) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the first line number and the fields of each record, including the header."""
    sep, comment = text.options["sep"], text.options["comment"]
    q, c, begin = re.escape(text.quote), re.escape(comment or ""), 0
    before = rf"(?:{q}[^{q}]*(?:{q}|\Z)|[^{q}{c}])*+" if q else f"[^{c}]*"

    def lines(file: Any) -> Iterator[str]:
        nonlocal begin
        for number, line in enumerate(file, text.first):
            if comment and comment in line:
                opened = text.quote if begin else ""
                kept = re.findall(before, opened + line)[0][len(opened) :]
                if not kept and not begin:
                    continue
                line = kept if kept == line else kept + "\n"
            begin = begin or number
            yield line

    limit = csv.field_size_limit(2**31 - 1)  # the default refuses fields over 128 KiB
    try:
        with io.TextIOWrapper(text.open(), "utf-8", newline="") as file:
            word = rf"{q}[^{q}]*{q}|\S+" if q else r"\S+"
            rows: Any = (re.findall(word, line) for line in lines(file))
            if sep != SPACES:
                names = ("quotechar", "quoting", "skipinitialspace")
                form = {name: text.options[name] for name in names}
                rows = csv.reader(lines(file), delimiter=sep, strict=True, **form)
            for fields in rows:
                yield begin, fields or [""]
                begin = 0
    except TypeError as error:
        raise ValueError(f"sep, quotechar: expected characters, got {error}") from None
    except csv.Error as error:
        where = f"expected fields delimited by {text.sep!r} in {text.path}, line {begin}"
        hint = "if quotes are part of the text, pass quoting=csv.QUOTE_NONE"
        raise ValueError(f"path: {where}, got {error}; {hint}") from None
    finally:
        csv.field_size_limit(limit)


def record(text: Text, index: int) -> tuple[int, list[str]]:
    """Return the number of a record's first line, and its fields; `[""]` if there is no record."""
    with contextlib.closing(records(text)) as found:
        return next(itertools.islice(found, index, None), (text.first, [""]))


def header(text: Text) -> tuple[list[str], int]:
    """Return the names of the columns and the number of header records, 0 or 1."""
    names, place = text.options.get("names"), text.options.get("header", "infer")
    if isinstance(place, bool) or place not in ("infer", 0, None):
        raise ValueError(f"header: expected 0 or None, got {place!r}; pass skiprows to skip lines")
    line, fields = record(text, 0)
    expected, above = f"path: expected a row of different names in {text.path}, line {line}", 1
    if names is not None or place is None:
        expected, above = "names: expected different names of all columns", int(place == 0)
        known = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not known or not names:
            raise TypeError(f"{expected}, got {checks.brief(names)}")
    elif fields == [""]:
        raise ValueError(f"{expected}, got an empty line")
    else:
        names = [text.restored(field).strip() for field in fields]
        names[0] = names[0] or "index"
        counted = names == [str(number) for number in range(len(names))]  # a frame without names
        data = all(NUMBER.fullmatch(name) or DATE.fullmatch(name) for name in names)
        if place == "infer" and not counted and data:
            got = "numbers" if all(map(NUMBER.fullmatch, names)) else "dates"
            hint = f"pass header=None and names=[...], or header=0 if the {got} are names"
            raise ValueError(f"{expected}, got {got}; {hint}")
    for name in names:
        if name == "" or names.count(name) > 1:
            raise ValueError(f"{expected}, got {f'{name!r} twice' if name else 'an empty one'}")
        if text.quote and name[0] == text.quote:
            raise ValueError(f"{expected}, got {name!r}; pass skipinitialspace=True")
    return list(names), above


def count_rows(text: Text, names: list[str], above: int) -> int:
    """Return the number of rows, or raise if a row is longer or shorter than the header."""
    count = 0
    with contextlib.closing(records(text)) as found:
        for line, fields in itertools.islice(found, above, None):
            count += 1
            if len(fields) != len(names):
                got = len(fields) if fields != [""] else 0
                hint = f"do sep={text.sep!r}, quotechar, comment and skipinitialspace fit the file?"
                where = f"expected {len(names)} fields in {text.path}, line {line}"
                raise ValueError(f"path: {where}, got {got}; {hint}")
    return count
