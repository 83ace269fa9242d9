"""The bytes and the text of files, with common error messages."""

import codecs
import gzip
import zlib
from pathlib import Path

from seqjax._files import FilePath, local_file

__all__ = ["decode", "is_packed", "is_system_file", "read_bytes"]


def is_packed(path: Path) -> bool:
    """Return whether a file's name says that it is gzip data."""
    return path.suffix.lower() == ".gz"


def read_bytes(path: FilePath) -> bytes:
    """Return what a file holds; a file whose name ends in ".gz" is unpacked."""
    path = local_file("path", path)
    data = path.read_bytes()
    if not is_packed(path):
        return data
    if not data:  # `gzip` takes no bytes at all for an empty file
        raise ValueError(f"path: expected gzip data in {path}, got damaged: the file is empty")
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"path: expected gzip data in {path}, got damaged: {error}") from None


def decode(data: bytes, path: FilePath) -> str:
    r"""Return UTF-8 as text, without a byte order mark and with "\n" as the end of each line.

    "\r\n" becomes "\n". "\r" does as well if the text has no "\n", as in files of the classic Mac
    OS; if the text also has "\n", "\r" is kept.
    """
    for mark, name in _OTHERS:
        if data.startswith(mark):
            raise ValueError(f"path: expected UTF-8 in {path}, got {name}")
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
        wrong = body.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong >= 0:
        line = body.count(b"\n", 0, wrong) + 1
        offset = wrong + len(data) - len(body)
        hint = "" if body[wrong] else "; text has no NUL, so this may be UTF-16 or no text at all"
        raise ValueError(
            f"path: expected UTF-8 in {path}, got byte 0x{body[wrong]:02x} in line {line}, "
            f"at offset {offset}{hint}"
        )
    if "\r" not in text:
        return text
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def is_system_file(name: str) -> bool:
    """Return whether a file or folder belongs to an operating system, a file server or an editor.

    These are hidden names, which begin with a dot (.DS_Store, ._a.wav, .git), names that Windows,
    macOS and file servers create in users' folders, and backup and lock files of editors (a.txt~,
    ~$a.docx). Upper and lower case do not matter.
    """
    name = name.casefold()
    return (
        name in _SYSTEM_NAMES
        or name.startswith((".", "~$"))
        or name.endswith(("~", ":zone.identifier"))
    )


# First bytes of files that are often mistaken for UTF-8. UTF-32's mark begins with UTF-16's.
_ICONV = "; convert it, for example with iconv -f {0} -t UTF-8"
_OTHERS = (
    (codecs.BOM_UTF32_LE, "UTF-32" + _ICONV.format("UTF-32")),
    (codecs.BOM_UTF32_BE, "UTF-32" + _ICONV.format("UTF-32")),
    (codecs.BOM_UTF16_LE, "UTF-16" + _ICONV.format("UTF-16")),
    (codecs.BOM_UTF16_BE, "UTF-16" + _ICONV.format("UTF-16")),
    (b"\x1f\x8b", 'gzip data; a file whose name ends in ".gz" is unpacked'),
)

_SYSTEM_NAMES = frozenset({
    # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "recycler",
    "system volume information",
    # macOS; other systems show the carriage return of "Icon\r" as U+F00D
    "icon\r", "icon\uf00d", "__macosx", "network trash folder", "temporary items",
    # Linux, and the file servers of Synology and QNAP
    "lost+found", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
})  # fmt: skip
