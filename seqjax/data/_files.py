"""The bytes and the text of files, with one way to say that something is wrong with them."""

import codecs
import gzip
import zlib

from seqjax._files import FilePath, local_path


def read_bytes(path: FilePath) -> bytes:
    """What a file holds; one whose name ends in ".gz" is unpacked."""
    path = local_path("path", path)
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"path: expected gzip data in {path}, got damaged: {error}") from None


def decode(data: bytes, path: FilePath) -> str:
    r"""UTF-8 as text, without a byte order mark and with "\n" for "\r\n"."""
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        offset = error.start + len(data) - len(body)
        raise ValueError(
            f"path: expected UTF-8 in {path}, got byte 0x{body[error.start]:02x} in line {line}, "
            f"at offset {offset}"
        ) from None
    return text.replace("\r\n", "\n")
