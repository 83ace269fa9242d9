"""Reader of sound."""

import io
from typing import Any

import numpy as np

from seqjax._files import FilePath, local_file
from seqjax.data._files import is_packed, read_bytes
from seqjax.data._sound_headers import declared_frames

__all__ = ["read_audio"]


def read_audio(path: FilePath) -> tuple[np.ndarray, int]:
    r"""Read the samples of a sound file, as the mean of its channels.

    The library libsndfile decodes the file: WAV (integers of 8, 16, 24 and 32 bits, floats, µ-law,
    A-law, ADPCM), FLAC, Ogg (Vorbis, Opus), MP3, NIST SPHERE, AIFF and AU. The format is found
    from the content of the file, not from its name. A file whose name ends in ".gz" is unpacked.

    All samples are read, or an error is raised: a file that is shorter than its header says, or
    that has samples its header leaves out, is damaged. Several files that were joined to one are an
    error. Bytes after the samples are an error unless they are NULs or tags of a music player;
    bytes after the frames of a FLAC file are not noticed. The header of a WAV file that was written
    to a pipe does not have the length; such a file is read to its end.

    Args:
      path: path of the file.

    Returns:
      samples: float32 [T]. Integers are scaled to [-1, 1); floats stay as they are, usually in
        [-1, 1].
      rate: int, samples per second.

    Raises:
      TypeError: not a path.
      ImportError: the library soundfile is not installed.
      OSError: no such file, or one that cannot be read.
      ValueError: not a sound file of these formats, a damaged one, one without samples, or floats
        that are NaN or infinite.

    Example:
      >>> import tempfile, wave
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "click.wav")
      >>> with wave.open(str(path), "wb") as file:
      ...     file.setparams((2, 2, 8000, 0, "NONE", ""))
      ...     file.writeframes(np.array([[0, 0], [16384, -32768]], "<i2").tobytes())
      >>> read_audio(path)
      (array([ 0.  , -0.25], dtype=float32), 8000)
    """
    try:
        import soundfile
    except ImportError:
        raise ImportError('read_audio needs soundfile: pip install "seqjax[audio]"') from None
    path = local_file("path", path)
    with _Source(io.BytesIO(read_bytes(path)) if is_packed(path) else path.open("rb", 0)) as file:
        try:
            declared = declared_frames(file)
            file.seek(0)
            with soundfile.SoundFile(file) as sound:
                if sound.format not in FORMATS:
                    raise ValueError(f"the format {sound.format}")
                frames, rate = int(sound.frames), int(sound.samplerate)
                floats = sound.subtype in ("FLOAT", "DOUBLE")
                if frames >= UNKNOWN:
                    raise ValueError("a header without the number of samples, as from a pipe")
                samples = _samples(sound, frames)
        except OSError:
            raise
        except Exception as error:  # damaged bytes raise errors of many classes
            reason = getattr(error, "error_string", error)  # libsndfile's, without "Error opening"
            reason = REASONS.get(str(reason), reason)
            raise ValueError(f"path: expected a sound file in {path}, got {reason}") from None
    expected = frames if declared is None else declared
    if len(samples) != expected:
        raise ValueError(
            f"path: expected {expected} samples of each channel in {path}, as it says itself, got "
            f"{len(samples)}; it was cut, or libsndfile misreads it"
        )
    if not len(samples):
        raise ValueError(f"path: expected samples in {path}, got none")
    if floats and not np.isfinite(samples).all():
        place = int(np.argmin(np.isfinite(samples)))
        raise ValueError(
            f"path: expected finite samples in {path}, got {samples[place]} at {place}; "
            "soundfile.read reads the file as it is"
        )
    return samples, rate


FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "NIST", "AIFF", "AU"})

REASONS = {
    "Internal error : SF_INFO struct incomplete.": "a header with a wrong rate or no channels",
    "File does not exist or is not a regular file (possibly a pipe?).": "no whole frame of sound",
}
"""Clearer texts for misleading messages of libsndfile."""

BLOCK = 2**16
"""Frames that are mixed at a time: in float64, but never the whole file."""

UNKNOWN = 2**62
"""libsndfile gives at least this number of frames for a FLAC file that does not say how many."""


class _Source(io.BufferedReader):
    """A file for soundfile, which ignores its name and invalid positions in a damaged header."""

    name = ""  # soundfile assumes that a file named *.raw has no header

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError):  # which soundfile would print; libsndfile asks for the place
            return self.tell()


def _samples(sound: Any, frames: int) -> np.ndarray:
    """Return the mean of the channels, float32 [T]."""
    samples: np.ndarray = np.empty(frames, np.float32)
    if sound.channels == 1:
        samples = sound.read(frames, dtype="float32")
        return samples
    read = 0
    block = np.empty((min(frames, BLOCK), sound.channels))
    weights = np.full(sound.channels, 1 / sound.channels)
    with np.errstate(over="ignore"):  # an infinite sample is an error later
        while part := len(sound.read(out=block)):
            place = samples[read : read + part]
            np.matmul(block[:part], weights, out=place, casting="same_kind")
            read += part
    return samples[:read]
