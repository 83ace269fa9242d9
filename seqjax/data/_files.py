"""Reading of bytes and text from files, with common error messages."""

import codecs
import gzip
import zlib
from pathlib import Path

from seqjax._files import FilePath, local_file

__all__ = ["decode", "is_packed", "is_system_file", "packing", "read_bytes"]


def is_packed(path: Path) -> bool:
    """Return whether the name of a file ends in ".gz"."""
    return path.suffix.lower() == ".gz"


def read_bytes(path: FilePath) -> bytes:
    """Return the bytes of a file. A file whose name ends in ".gz" is unpacked."""
    path = local_file("path", path)
    data = path.read_bytes()
    if not is_packed(path):
        return data
    if not data:  # `gzip.decompress` returns b"" without an error
        raise ValueError(f"path: expected gzip data in {path}, got an empty file")
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"path: expected gzip data in {path}, got damaged data: {error}") from None


def decode(data: bytes, path: FilePath) -> str:
    r"""Return the text of UTF-8 bytes, without a byte order mark and with "\n" as line end.

    "\r\n" becomes "\n". If the text has no "\n", as in files of the classic Mac OS, "\r" becomes
    "\n". If the text has "\n", a "\r" alone is kept.
    """
    for mark, name in _OTHERS:
        if data.startswith(mark):
            raise ValueError(f"path: expected UTF-8 in {path}, got {name}")
    if packed := packing(data):
        hint = '; a file whose name ends in ".gz" is unpacked' if "gzip" in packed else ""
        raise ValueError(f"path: expected UTF-8 in {path}, got {packed}{hint}")
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
        wrong = body.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = body.count(b"\n", 0, wrong) + 1
        offset = wrong + len(data) - len(body)
        hint = "" if body[wrong] else "; this may be UTF-16, or a file that is not text"
        raise ValueError(
            f"path: expected UTF-8 in {path}, got byte 0x{body[wrong]:02x} in line {line}, "
            f"at offset {offset}{hint}"
        )
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def packing(data: bytes) -> str | None:
    """Return a description of the packed format in which a file begins, or None if it is text."""
    return next((name for mark, name in _PACKINGS.items() if data.startswith(mark)), None)


def is_system_file(name: str) -> bool:
    """Return whether a name is one that operating systems, file servers or editors create.

    Such names are hidden names, which begin with a dot (.DS_Store, ._a.wav, .git), names that
    Windows, macOS and file servers create in users' folders, and backup and lock files of editors
    (a.txt~, ~$a.docx). Case is ignored.
    """
    name = name.casefold()
    return (
        name in _SYSTEM_NAMES
        or name.startswith((".", "~$"))
        or name.endswith(("~", ":zone.identifier"))
    )


# The first bytes of files that are often mistaken for UTF-8. UTF-32 comes before UTF-16, because
# its byte order mark begins with that of UTF-16.
_ICONV = "; convert it, for example with iconv -f {0} -t UTF-8"
_OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32" + _ICONV.format("UTF-32")),
    (codecs.BOM_UTF32_BE, "UTF-32" + _ICONV.format("UTF-32")),
    (codecs.BOM_UTF16_LE, "UTF-16" + _ICONV.format("UTF-16")),
    (codecs.BOM_UTF16_BE, "UTF-16" + _ICONV.format("UTF-16")),
)
_PACKINGS = {
    b"\x1f\x8b": "gzip data",
    b"PK\x03\x04": "a zip archive or an Excel file (.xlsx)",
}

_SYSTEM_NAMES = frozenset({
    # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information",
    # macOS; other systems show the carriage return of "Icon\r" as U+F00D
    "icon\r", "icon\uf00d", "__macosx", "network trash folder", "temporary items",
    # Linux, and the file servers of Synology and QNAP
    "lost+found", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
})  # fmt: skip
