"""Readers of numbers over time: sound and piano rolls.

A file whose name ends in ".gz" is unpacked.
"""

import io
import warnings

import numpy as np

from seqjax._files import FilePath
from seqjax.data._files import read_bytes

__all__ = ["read_piano_rolls", "read_wav"]


def read_wav(path: FilePath) -> tuple[np.ndarray, int]:
    """The samples of a WAV file.

    Args:
      path: of a file with integers of 8, 16, 24 or 32 bits, or floats.

    Returns:
      samples: float32 [T], the mean of the channels. Integers are scaled to [-1, 1); floats stay
        as they are, in [-1, 1] unless somebody meant otherwise.
      rate: in samples a second.

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: not a WAV file, a damaged one, or one without samples.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from scipy.io import wavfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "click.wav")
      >>> wavfile.write(path, 8000, np.array([[0, 0], [16384, -32768]], np.int16))
      >>> read_wav(path)
      (array([ 0.  , -0.25], dtype=float32), 8000)
    """
    from scipy.io import wavfile  # not at the top: few programs read sound

    data = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks it passes over
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            rate, samples = wavfile.read(io.BytesIO(data))
    except Exception as error:  # of many classes, for all that bytes can be
        raise ValueError(f"path: expected a WAV file in {path}, got {error}") from None
    if not samples.size:
        raise ValueError(f"path: expected samples in {path}, got none")
    if samples.dtype == np.uint8:
        scaled = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":  # 24 bits come as the upper ones of 32
        scaled = samples / -float(np.iinfo(samples.dtype).min)
    else:
        scaled = samples
    if scaled.ndim == 2:
        scaled = scaled.mean(axis=1)
    return scaled.astype(np.float32), int(rate)


def read_piano_rolls(path: FilePath) -> dict[str, list[np.ndarray]]:
    """The pieces of music in a MATLAB file of piano rolls.

    The form in which JSB Chorales, MuseData, Nottingham and Piano-midi.de are given for next-step
    prediction (Boulanger-Lewandowski, Bengio, Vincent, 2012): the cells traindata, validdata and
    testdata, with one matrix a piece, 1 where one of 88 keys, A0 to C8, sounds.

    Args:
      path: of the .mat file.

    Returns:
      "train", "valid" and "test", each a list of arrays float32 [T, 88].

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: not such a file, or a piece of another shape.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from scipy.io import savemat
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "scale.mat")
      >>> pieces = np.empty((1, 1), object)
      >>> pieces[0, 0] = np.eye(88, dtype=np.uint8)[[39, 41, 43]]
      >>> savemat(path, {"traindata": pieces, "validdata": pieces, "testdata": pieces})
      >>> [piece.shape for piece in read_piano_rolls(path)["train"]]
      [(3, 88)]
    """
    from scipy.io import loadmat

    data = read_bytes(path)
    try:
        found = loadmat(io.BytesIO(data))
    except Exception as error:  # of many classes, for all that bytes can be
        raise ValueError(f"path: expected a MATLAB file in {path}, got {error}") from None
    rolls: dict[str, list[np.ndarray]] = {}
    for split in ("train", "valid", "test"):
        name = f"{split}data"
        if name not in found or found[name].dtype != object:
            names = [key for key in found if not key.startswith("__")]
            raise ValueError(f"path: expected a cell {name} in {path}, got {names}")
        rolls[split] = []
        for n, piece in enumerate(found[name].ravel()):
            if piece.ndim != 2 or piece.shape[1] != 88:
                raise ValueError(
                    f"path: expected {name}[{n}] of shape [T, 88] in {path}, got {piece.shape}"
                )
            rolls[split].append(piece.astype(np.float32))
    return rolls
