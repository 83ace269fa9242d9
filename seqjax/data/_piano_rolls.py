"""Reader of piano rolls in MATLAB files."""

import io

import numpy as np

from seqjax._files import FilePath
from seqjax.data._files import read_bytes

__all__ = ["read_piano_rolls"]


def read_piano_rolls(path: FilePath) -> dict[str, list[np.ndarray]]:
    """Read the pieces of music in a MATLAB file of piano rolls.

    JSB Chorales, MuseData, Nottingham and Piano-midi.de are published in this format for next-step
    prediction. The cell arrays traindata, validdata and testdata have one matrix per piece. Each
    matrix has one row per time step and one column for each of the 88 keys from A0 to C8, with 1
    where the key sounds.

    Args:
      path: the path of the .mat file. A file whose name ends in ".gz" is unpacked.

    Returns:
      A dict of "train", "valid" and "test", each a list of arrays float32 [T, 88].

    Raises:
      TypeError: path is not a string or `os.PathLike`.
      OSError: the file does not exist or cannot be read.
      ValueError: the file has another format, or a piece does not have shape [T, 88] or contains
        numbers other than 0 and 1.

    References:
      Boulanger-Lewandowski, Bengio, Vincent (2012), Modeling temporal dependencies in
      high-dimensional sequences: application to polyphonic music generation and transcription.

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
    except Exception as error:  # damaged bytes raise errors of many classes
        raise ValueError(f"path: expected a MATLAB file in {path}, got {error}") from None
    rolls: dict[str, list[np.ndarray]] = {}
    for split in ("train", "valid", "test"):
        name = f"{split}data"
        if not isinstance(found.get(name), np.ndarray) or found[name].dtype != object:
            names = [key for key in found if not key.startswith("__")]
            raise ValueError(f"path: expected a cell array {name} in {path}, got {names}")
        rolls[split] = []
        for n, piece in enumerate(found[name].ravel()):
            if not isinstance(piece, np.ndarray) or piece.dtype.kind not in "biuf":
                kind = getattr(piece, "dtype", type(piece).__name__)
                raise ValueError(
                    f"path: expected {name}[{n}] as a full matrix of numbers in {path}, got {kind}"
                )
            if piece.ndim != 2 or piece.shape[1] != 88:
                raise ValueError(
                    f"path: expected {name}[{n}] of shape [T, 88] in {path}, got {piece.shape}"
                )
            if not np.isfinite(piece).all():
                raise ValueError(
                    f"path: expected finite numbers in {path}, got NaN or infinity in {name}[{n}]"
                )
            silent, sounding = piece == 0, piece == 1
            other = ~(silent | sounding)
            if other.any():
                raise ValueError(
                    f"path: expected 0 or 1 in {path}, got {piece[other][0]} in {name}[{n}]; if "
                    "the numbers are MIDI velocities, replace those above 0 by 1"
                )
            rolls[split].append(piece.astype(np.float32))
    return rolls
