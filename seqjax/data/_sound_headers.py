"""Lengths that the headers of sound files declare, to detect files that were cut.

If a file is shorter than its header declares, libsndfile returns fewer samples without an error.
The functions of this module return the declared number of frames (a frame is one sample of each
channel), or None if only libsndfile can determine this number. If the file contradicts its header,
the functions raise `ValueError` with the reason.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["declared_frames"]


def declared_frames(file: BinaryIO) -> int | None:
    """Return the number of frames that a sound file declares, or None if it declares no number."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1024)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wave(file, size, ">" if head[:4] == b"RIFX" else "<")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _aiff(file, size)
    if head[:4] == b".snd" and len(head) >= 24:
        _check_au(file, size, *struct.unpack(">II", head[4:12]))
    if head[:7] == b"NIST_1A":
        count = re.search(rb"^sample_count -i (\d+)\s*$", head, re.MULTILINE)
        return int(count[1]) if count else None
    if head[:4] == b"OggS":
        _check_ogg(file, size)
    if head[:4] == b"fLaC" or head[:3] == b"ID3" or head[:1] == b"\xff":
        file.seek(0)
        return _mpeg_or_flac(file.read())
    return None


def _chunks(file: BinaryIO, at: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, position and declared length of each chunk of a RIFF or IFF file."""
    while size - at >= 8:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        yield name, at + 8, length
        at += 8 + length + length % 2


def _wave(file: BinaryIO, size: int, order: str) -> int | None:
    """Return the number of frames of a RIFF, RIFX (big-endian) or RF64 (over 4 GiB) WAV file."""
    form, large = b"", 0xFFFFFFFF
    for name, at, length in _chunks(file, 12, size, order):
        if name == b"data":
            break
        if length > size - at:
            raise ValueError(
                f"a chunk {name!r} that declares {length} bytes but has {size - at}; the file was "
                "cut"
            )
        if name == b"ds64" and length >= 16:
            large = struct.unpack("<8xQ", file.read(16))[0]
        if name == b"fmt ":
            if form:
                raise ValueError("two chunks 'fmt '")
            form = file.read(min(length, 40))
    else:
        raise ValueError("no chunk 'data'")
    if len(form) < 16:
        raise ValueError("no chunk 'fmt ' of at least 16 bytes before the samples")
    length = large if length == 0xFFFFFFFF else length
    if length > size - at:
        # A program that writes to a pipe does not know the length and writes a very large number.
        if not (0x7FFF0000 <= length <= 0x80000000 or 0xFFFF0000 <= length <= 0xFFFFFFFF):
            raise ValueError(
                f"{size - at} bytes of samples, but the header declares {length}; the file was cut"
            )
        length = size - at
    _check_tail(file, at + length, size, order, length % 2)
    frame = _frame_bytes(form, order)
    return None if frame is None else length // frame


def _frame_bytes(form: bytes, order: str) -> int | None:
    """Return the number of bytes of a frame, from a 'fmt ' chunk; None for compressed samples."""
    kind, channels, rate, bytes_a_second, align, bits = struct.unpack(f"{order}HHIIHH", form[:16])
    if kind == 0xFFFE and len(form) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the kind comes later
        (kind,) = struct.unpack(f"{order}24xH", form[:26])
    if kind not in (1, 3, 6, 7):  # integers, floats, A-law, µ-law
        return None
    frame: int = channels * -(-bits // 8)
    # libsndfile computes the bytes of a frame from channels and bits. Two other numbers of the
    # header, `align` and `bytes_a_second`, also determine the bytes of a frame. If only one of them
    # disagrees, it is ignored. If both disagree, the number is unknown. Some programs write 0.
    others = {align, bytes_a_second / max(rate, 1)} - {0}
    if not frame or (others and frame not in others):
        raise ValueError(
            f"a header that contradicts itself: {channels} channels of {bits} bits, but frames of "
            f"{align} bytes, at {rate} frames and {bytes_a_second} bytes per second"
        )
    return frame


def _check_tail(file: BinaryIO, at: int, size: int, order: str, padding: int) -> None:
    """Raise if the samples are followed by bytes that are no chunk, NUL or tag of a music player.

    Bytes of any other kind are samples that the header does not count. After an odd number of
    sample bytes, there should be a padding byte, which some programs do not write.
    """
    if not any(_is_tail(file, start, size, order) for start in {at, at + padding}):
        raise ValueError(f"{size - at} bytes after the samples that the header declares")


def _is_tail(file: BinaryIO, at: int, size: int, order: str) -> bool:
    for name, start, length in _chunks(file, at, size, order):
        readable = all(32 <= byte < 127 for byte in name)
        if not readable or start + length > size or name in (*_HEADS, b"fmt ", b"data", b"SSND"):
            break
        at = start + length + length % 2
    return not _rest(file, at)


_HEADS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"OggS", b".snd")


def _rest(file: BinaryIO, at: int) -> bytes:
    """Return the bytes from a position on, or b"" if they are NULs or a tag of a music player."""
    file.seek(at)
    rest = file.read().strip(b"\0")
    tagged = rest.startswith((b"TAG", b"ID3")) and not any(head in rest for head in _HEADS)
    return b"" if tagged else rest


def _aiff(file: BinaryIO, size: int) -> int | None:
    """Return the number of frames of an AIFF or AIFF-C file; None for compressed samples."""
    frames = None
    for name, at, length in _chunks(file, 12, size, ">"):
        if length > size - at and name in (b"COMM", b"SSND"):
            raise ValueError(
                f"{size - at} bytes of {name.decode()}, but the header declares {length}; the file "
                "was cut"
            )
        if name == b"COMM" and length >= 18:
            common = file.read(min(length, 22))
            plain = len(common) < 22 or common[18:] in (b"NONE", b"sowt", b"twos")
            frames = struct.unpack(">I", common[2:6])[0] if plain else None
        if name == b"SSND":
            _check_tail(file, at + length, size, ">", length % 2)
    return frames


def _check_au(file: BinaryIO, size: int, at: int, length: int) -> None:
    """Raise if an AU file is shorter or longer than its header declares."""
    if length == 0xFFFFFFFF:  # unknown, since a program wrote to a pipe
        return
    if length > size - at:
        raise ValueError(
            f"{size - at} bytes of samples, but the header declares {length}; the file was cut"
        )
    if _rest(file, at + length):
        raise ValueError(f"{size - at - length} bytes after the samples that the header declares")


def _check_ogg(file: BinaryIO, size: int) -> None:
    """Raise if an Ogg file has several streams, or if its last page is not marked as the last."""
    at, kind = 0, 0  # kind has bit 1 set for the first page of a stream, bit 2 for the last one
    while size - at >= 27:
        file.seek(at)
        page = file.read(27 + 255)
        if page[:4] != b"OggS":
            break
        if kind & 4 and page[5] & 2:  # libsndfile reads only the first stream
            raise ValueError("several Ogg streams, one after another; split the file")
        kind, segments = page[5], page[26]
        at += 27 + segments + sum(page[27 : 27 + segments])
    if not kind & 4 or at > size:
        raise ValueError("no page that ends the stream; the file was cut")
    if _rest(file, at):
        raise ValueError(f"{size - at} bytes after the page that ends the stream")


# Bit rates in kbit/s for MPEG 1, then for MPEG 2 and 2.5; sampling rates in Hz by MPEG version.
_BIT_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _mpeg_or_flac(data: bytes) -> int | None:
    """Return the number of samples if the file is an MP3 file without a header frame, else None.

    A header frame declares the number of frames, and libsndfile reads at most that number. Without
    a header frame, libsndfile assumes that all frames have the size of the first one, so it reads
    only a part of a file with a variable bit rate.
    """
    at = 0
    if data[:3] == b"ID3" and len(data) >= 10:
        at = 10 + sum((byte & 127) << 7 * n for n, byte in enumerate(data[9:5:-1]))
    if len(re.findall(rb"fLaC[\0\x80]\0\0\x22", data)) > 1:  # with the header of the first block
        raise ValueError("several FLAC files, one after another; split the file")
    if data[at : at + 4] in _HEADS:  # libsndfile would read only a part of the file
        raise ValueError(f"tags of a music player before {data[at : at + 4].decode()}")
    start, frames, samples = at, 0, 0
    while len(data) - at >= 4:
        header = int.from_bytes(data[at : at + 4], "big")
        version, layer = header >> 19 & 3, header >> 17 & 3
        bit_rate, rate, padding = header >> 12 & 15, header >> 10 & 3, header >> 9 & 1
        if header >> 21 != 0x7FF or version == 1 or layer != 1 or rate == 3 or bit_rate in (0, 15):
            break
        length = 576 if version < 3 else 1152
        bits = 1000 * _BIT_RATES[version < 3][bit_rate]
        at += length // 8 * bits // _RATES[version][rate] + padding
        frames, samples = frames + 1, samples + length
    if not frames:  # another layer of MPEG, or another format
        return None
    if at > len(data):
        raise ValueError("an incomplete last frame; the file was cut")
    if data[at : at + 8] == b"APETAGEX":
        at += 32 + int.from_bytes(data[at + 12 : at + 16], "little")
    at += 128 if data[at : at + 3] == b"TAG" else 0
    if data[at:].strip(b"\0"):
        raise ValueError(f"bytes that are not MP3 frames, from byte {at} of {len(data)} on")
    first = re.search(b"Xing|Info|VBRI", data[start : start + 64])
    if not first:
        return samples
    place = start + first.start() + (14 if first[0] == b"VBRI" else 8)
    count = int.from_bytes(data[place : place + 4], "big")
    if (data[place - 1] & 1 or first[0] == b"VBRI") and frames - count not in (0, 1):
        raise ValueError(
            "another number of frames than the header declares; the file was cut, or files were "
            "joined"
        )
    return None
