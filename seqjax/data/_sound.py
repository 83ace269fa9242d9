"""Reader of sound files."""

import io
from typing import Any

import numpy as np

from seqjax._files import FilePath, local_file
from seqjax.data._files import is_packed, read_bytes
from seqjax.data._sound_headers import declared_frames

__all__ = ["read_audio"]


def read_audio(path: FilePath) -> tuple[np.ndarray, int]:
    r"""Read the samples of a sound file. Several channels are averaged to one.

    The library libsndfile decodes the file. The supported formats are WAV (integers of 8, 16, 24
    and 32 bits, floats, µ-law, A-law, ADPCM), FLAC, Ogg (Vorbis, Opus), MP3, NIST SPHERE, AIFF and
    AU. The content of the file determines the format, not its name. A file whose name ends in ".gz"
    is unpacked.

    If the number of samples differs from the number that the header declares, an error is raised.
    This check detects truncated and concatenated files. Bytes after the samples also raise an
    error, unless they are NULs or tags of a music player. In FLAC files, bytes after the last frame
    are not detected. The header of a WAV file that was written to a pipe does not declare the
    length. Such a WAV file is read to its end.

    Args:
      path: the path of the file.

    Returns:
      samples: float32 [T]. Integer samples are scaled to [-1, 1). Floating-point samples are not
        scaled; they are usually in [-1, 1].
      rate: int, the sampling rate in samples per second.

    Raises:
      TypeError: path is not a string or `os.PathLike`.
      ImportError: the library soundfile is not installed.
      OSError: the file does not exist or cannot be read.
      ValueError: the file has another format, is damaged, has no samples, or has samples that are
        NaN or infinite.

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
                    raise ValueError("a header without the number of samples, as after a pipe")
                samples = _samples(sound, frames)
        except OSError:
            raise
        except Exception as error:  # damaged bytes raise errors of many classes
            reason = getattr(error, "error_string", error)  # the message without "Error opening"
            reason = REASONS.get(str(reason), reason)
            raise ValueError(f"path: expected a sound file in {path}, got {reason}") from None
    expected = frames if declared is None else declared
    if len(samples) != expected:
        raise ValueError(
            f"path: expected {expected} samples per channel in {path}, as its header declares, got "
            f"{len(samples)}; the file was cut, or libsndfile cannot read it correctly"
        )
    if not len(samples):
        raise ValueError(f"path: expected samples in {path}, got none")
    if floats and not np.isfinite(samples).all():
        place = int(np.argmin(np.isfinite(samples)))
        raise ValueError(
            f"path: expected finite samples in {path}, got {samples[place]} at index {place}; "
            "soundfile.read returns such samples without an error"
        )
    return samples, rate


FORMATS = frozenset({"WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3", "NIST", "AIFF", "AU"})

REASONS = {
    "Internal error : SF_INFO struct incomplete.": "a header with a wrong rate or no channels",
    "File does not exist or is not a regular file (possibly a pipe?).": "no frame of sound",
}
"""Clear messages that replace misleading messages of libsndfile."""

BLOCK = 2**16
"""The number of frames that are averaged at a time, so that the whole file is never in float64."""

UNKNOWN = 2**62
"""The least number of frames that libsndfile returns for a FLAC file without a declared length."""


class _Source(io.BufferedReader):
    """A file object for soundfile that has no name.

    If the header is damaged, libsndfile may seek an invalid position. Such a seek has no effect.
    """

    name = ""  # soundfile assumes that a file named *.raw has no header

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return super().seek(offset, whence)
        # soundfile would print the error, and libsndfile checks the position.
        except (OSError, ValueError):
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
    with np.errstate(over="ignore"):  # infinite samples raise an error later
        while part := len(sound.read(out=block)):
            place = samples[read : read + part]
            np.matmul(block[:part], weights, out=place, casting="same_kind")
            read += part
    return samples[:read]
