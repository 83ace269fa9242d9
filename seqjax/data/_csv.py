"""Delimited text as bytes: how it is unpacked, its records, and the lines in which they begin."""

import bz2
import codecs
import csv
import dataclasses
import gzip
import io
import itertools
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["Format", "Text", "read"]

UNIT = "\x1f"
"""The unit separator. It stands for delimiters that pandas' parser in C cannot take."""
SPACES = r"\s+"
"""What pandas calls a delimiter of any white space."""


@dataclasses.dataclass(frozen=True)
class Format:
    """How fields are written, by the names that pandas gives to its options."""

    sep: str = ","
    quotechar: str = '"'
    quoting: int = csv.QUOTE_MINIMAL
    doublequote: bool = True
    escapechar: str | None = None
    skipinitialspace: bool = False
    comment: str | None = None
    skip_blank_lines: bool = False

    def __post_init__(self) -> None:
        """Check the options that say which characters have a meaning."""
        if not isinstance(self.sep, str) or not self.sep or set(self.sep) & set("\r\n\0"):
            raise ValueError(f"sep: expected a delimiter such as ',' or '\\t', got {self.sep!r}")
        optional = {"escapechar": self.escapechar, "comment": self.comment}
        for name, value in {"quotechar": self.quotechar, **optional}.items():
            if value is None and name in optional:
                continue
            if not isinstance(value, str) or len(value) != 1 or not " " <= value <= "~":
                raise ValueError(f"{name}: expected one ASCII character, got {value!r}")
            if value == self.sep:
                raise ValueError(f"{name}: expected a character other than sep, got {value!r}")
        if self.quoting not in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
            raise ValueError(
                f"quoting: expected csv.QUOTE_MINIMAL or csv.QUOTE_NONE, got {self.quoting!r}"
            )

    @property
    def quote(self) -> str | None:
        """The quote character; None if quotes are characters like others."""
        return None if self.quoting == csv.QUOTE_NONE else self.quotechar


@dataclasses.dataclass(frozen=True)
class Text:
    """A file's UTF-8 text without a byte order mark and without blank lines at its end.

    Attributes:
      path: the file, for messages.
      data: the text; `format.sep` is one ASCII character or `SPACES`.
      format: how fields are written.
      first: the number of the first line in the file.
      given: the delimiter as it is in the file.
      kept: the places of the lines that are no comments; None if all are.
    """

    path: Path
    data: bytes
    format: Format
    first: int
    given: str
    kept: list[int] | None = None

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each record's first line and its fields, the header among them."""
        limit = csv.field_size_limit(2**31 - 1)  # the default refuses documents of 128 KiB
        lines = _Lines(self)
        try:
            for fields in _spaced(lines) if self.format.sep == SPACES else _separated(lines):
                if fields != [""] or not self.format.skip_blank_lines:
                    yield self._number(lines.begin), fields
                lines.begin = -1
        except csv.Error as error:
            line = self._number(max(lines.begin, 0))
            raise ValueError(
                f"path: expected fields delimited by {self.given!r} in {self.path}, got {error} in "
                f"the record that begins in line {line}; if quotes are part of the text, pass "
                "quoting=csv.QUOTE_NONE"
            ) from None
        finally:
            csv.field_size_limit(limit)

    def _number(self, place: int) -> int:
        return self.first + (place if self.kept is None else self.kept[place])

    def line(self, record: int) -> int:
        """Return the line in which a record begins."""
        line, _ = next(itertools.islice(self.records(), record, None))
        return line

    def require_rectangle(self, width: int, has_header: bool) -> int:
        """Raise if a row is longer or shorter than the header; return the number of rows."""
        records = list(itertools.islice(self.records(), 1)) if has_header else []
        count = 0
        for line, fields in itertools.islice(self.records(), has_header, None):
            count += 1
            if len(fields) != width:
                found = 0 if fields == [""] else len(fields)
                hint = self._hint(fields, records[0][1] if records else [""])
                raise ValueError(
                    f"path: expected {width} fields in {self.path}, line {line}, got {found}{hint}"
                )
        return count

    def _hint(self, fields: list[str], header: list[str]) -> str:
        """What may be the reason for a wrong number of fields."""
        if any(map(self.is_quoted_after_space, fields)):
            return "; skipinitialspace=True drops spaces before quotes"
        if self.format.comment is None and "#" in (fields[0][:1], header[0][:1]):
            return "; comment='#' leaves comments out"
        if fields == [""]:
            return "; skip_blank_lines=True leaves blank lines out"
        return f"; is sep={self.given!r} the delimiter?" if len(header) == 1 else ""

    def is_quoted_after_space(self, field: str) -> bool:
        """Whether a field has spaces before its quote, which make the quote part of the text."""
        quote, bare = self.format.quote, field.lstrip(" \t")
        return quote is not None and bare != field and bare.startswith(quote)


class _Lines:
    """The lines of a text; `begin` is the place of the record's first line."""

    def __init__(self, text: Text) -> None:
        self.format = text.format
        self.begin = -1
        self._lines = io.TextIOWrapper(io.BytesIO(text.data), "utf-8", newline="")

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._lines):
            self.begin = number if self.begin < 0 else self.begin
            yield line


def _separated(lines: _Lines) -> Iterator[list[str]]:
    form: Any = lines.format
    reader = csv.reader(
        iter(lines), delimiter=form.sep, quotechar=form.quotechar, quoting=form.quoting,
        doublequote=form.doublequote, escapechar=form.escapechar,
        skipinitialspace=form.skipinitialspace, strict=True,
    )  # fmt: skip
    for fields in reader:
        yield fields or [""]


def _spaced(lines: _Lines) -> Iterator[list[str]]:
    quote = re.escape(lines.format.quotechar)
    pattern = rf"{quote}[^{quote}]*{quote}|\S+" if lines.format.quote else r"\S+"
    for line in lines:
        yield [field.strip(lines.format.quote or "") for field in re.findall(pattern, line)] or [""]


def read(
    path: Path, form: Format, *, encoding: str, errors: str, compression: Any, skip: int
) -> Text:
    """Read a file, unpack and decode it, and leave its first `skip` lines out."""
    data = _unpacked(path, path.read_bytes(), compression)
    try:
        plain = codecs.lookup(encoding).name in ("utf-8", "ascii") and errors == "strict"
        data = data.removeprefix(codecs.BOM_UTF8) if plain else data
        text = data.decode(encoding, errors).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        other = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
        raise ValueError(
            f"path: expected {encoding} text in {path}, got byte 0x{data[error.start]:02x} in line "
            f"{line}; pass another encoding, such as encoding={other!r}"
        ) from None
    except (LookupError, TypeError, UnicodeError) as error:
        raise ValueError(f"encoding: expected one that fits {path}, got {error}") from None
    if not plain:
        data = text.encode("utf-8", "surrogatepass")
    for _ in range(skip):
        found = re.search(rb"\r\n?|\n", data)
        data = data[found.end() :] if found else b""
    if (place := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, place) + 1 + skip
        raise ValueError(
            f"path: expected text in {path}, got a NUL character in line {line}; if it is UTF-16, "
            "pass encoding='utf-16'"
        )
    if data.endswith((b"\n\n", b"\n\r\n", b"\r\r")) or not data.strip(b"\r\n"):
        data = data.rstrip(b"\r\n")
    given = form.sep
    if given != SPACES and (len(given) > 1 or not given.isascii()):
        if UNIT.encode() in data:
            raise ValueError(f"sep: expected one ASCII character, since {path} holds \\x1f")
        if data and given.encode() not in data:
            raise ValueError(f"sep: expected a delimiter that is in {path}, got {given!r}")
        data = data.replace(given.encode(), UNIT.encode())
        form = dataclasses.replace(form, sep=UNIT)
    kept = None
    if form.comment is not None:
        data, kept = _without_comments(data.decode("utf-8", "surrogatepass"), form)
        form = dataclasses.replace(form, comment=None)
    return Text(path, data, form, 1 + skip, given, kept)


def _without_comments(text: str, form: Format) -> tuple[bytes, list[int]]:
    """The text without comments, and the places of its lines.

    pandas takes a comment behind a quote for text.
    """
    marks = re.compile(f"[{re.escape((form.comment or '') + (form.quote or ''))}]")
    lines, kept, quoted = [], [], False
    for number, line in enumerate(io.StringIO(text, newline="")):
        whole = False
        for mark in marks.finditer(line):
            before = line[: mark.start()]
            if mark[0] == form.comment:
                if not quoted:
                    whole = not before
                    line = before + "\n"
                    break
            elif quoted or before[-1:] in ("", form.sep, form.quote) or not before.strip(" "):
                quoted = not quoted
        if not whole:
            lines.append(line)
            kept.append(number)
    return "".join(lines).encode("utf-8", "surrogatepass"), kept


def _unpacked(path: Path, data: bytes, compression: Any) -> bytes:
    """Unpack bytes as `compression` says, or as the file's name does if it is "infer"."""
    suffixes = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
    kind = suffixes.get(path.suffix) if compression == "infer" else compression
    unpack: dict[Any, Any] = {
        None: bytes, "gzip": gzip.decompress, "bz2": bz2.decompress, "xz": lzma.decompress,
        "zip": _unzipped,
    }  # fmt: skip
    if not isinstance(kind, str | None) or kind not in unpack:
        raise ValueError(
            f"compression: expected infer, gzip, bz2, xz, zip or None; got {compression!r}"
        )
    try:
        return unpack[kind](data)
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
    ) as error:
        raise ValueError(f"path: expected {kind} data in {path}, got damaged: {error}") from None


def _unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"expected one file, got {len(names)}")
        return archive.read(names[0])
