"""Reader of the .ts files in which the time series classification archive comes."""

import re

import numpy as np

from seqjax._files import FilePath
from seqjax.data._readers import read_lines

__all__ = ["read_ts"]


def read_ts(path: FilePath) -> tuple[list[np.ndarray], list[str]]:
    r"""Read the recordings and the labels of a .ts file of timeseriesclassification.com.

    After a line @data there is one line for each recording: channels of equal length, separated
    by ":", and the label after the last ":". Values are separated by ","; "?" or NaN is a missing
    value. Before @data, the lines "@classLabel" and "@targetLabel" (regression) say whether the
    file has labels; if both lines are missing, the file has labels. The file is checked against
    "@classLabel" (capital letters do not matter), "@equalLength true", "@seriesLength" (unless
    "@equalLength false"), "@univariate true" and "@dimensions". Comments (# or %) and blank lines
    are ignored.

    This reader does not call aeon's `load_from_ts_file`, which changes the labels (to small
    letters, and "banana" to "baNaNa"), drops minus signs where values have time stamps, and reads
    neither comments after @data nor compressed files.

    Args:
      path: path of the file; one whose name ends in ".gz" is unpacked.

    Returns:
      recordings: N arrays float32 [T_n, channels], NaN where a value is missing.
      labels: N strings, as they are written, also for a regression; [] if there are no labels.

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: text that is not UTF-8; no recordings; values that are no numbers of float32, or
        come with time stamps; a recording without a label, or whose channels differ in length, or
        that has more or fewer channels than the first one; lengths, channels or labels that are
        not as the header says.

    References:
      Bagnall et al. (2018), The UEA multivariate time series classification archive.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "walks_TRAIN.ts")
      >>> _ = path.write_text("@classLabel true slow fast\n@data\n1,2,3:4,5,6:slow\n7:8:fast\n")
      >>> recordings, labels = read_ts(path)
      >>> [frames.shape for frames in recordings], labels
      ([(3, 2), (1, 2)], ['slow', 'fast'])
    """
    recordings: list[np.ndarray] = []
    labels: list[str] = []
    header: dict[str, int] = {}
    classes = ""
    inside, labelled = False, 0
    for number, line in enumerate(read_lines(path), start=1):
        place, line = f"{path}, line {number}", line.strip()
        if not line or line.startswith(("#", "%")):
            continue
        if inside:
            fields = line.split(":")
            if labelled:
                labels.append(_label(fields.pop(), classes, place))
            recordings.append(_recording(fields, place))
            _check_shape(recordings[-1], recordings[0], header, place)
        elif line.startswith("@"):
            _read_header(line, header, place)
            inside = line.lower().split()[0] == "@data"
            if line.lower().startswith("@classlabel"):
                classes = _words(line.split(maxsplit=2)[2:])
            targets = header.get("@targetlabel", False)
            labelled = targets or header.get("@classlabel", "@targetlabel" not in header)
            classes = "" if targets else classes
        else:
            raise ValueError(f"path: expected a line that begins with @ in {place}, got {line!r}")
    if not recordings:
        raise ValueError(f"path: {path}: expected recordings after a line @data, got none")
    return recordings, labels


FLAGS = ("@classlabel", "@targetlabel", "@timestamps", "@equallength", "@univariate")
"""The lines of the header that this reader uses and whose value is true or false."""

NUMBERS = ("@serieslength", "@dimensions")
"""The lines whose value is a number."""


def _read_header(line: str, header: dict[str, int], place: str) -> None:
    """Add what a line of the header says, if it is one of `FLAGS` or `NUMBERS`."""
    name, *values = line.lower().split()
    if name in NUMBERS:
        if len(values) != 1 or not re.fullmatch("[0-9]{1,18}", values[0]):
            raise ValueError(f"path: expected {name} and a number in {place}, got {line!r}")
        header[name] = int(values[0])
    if name not in FLAGS:
        return
    if values[:1] not in (["true"], ["false"]):
        raise ValueError(f"path: expected {name} true or false in {place}, got {line!r}")
    header[name] = values[0] == "true"
    if name == "@timestamps" and header[name]:
        raise ValueError(f"path: expected values without time stamps in {place}")


def _words(parts: list[str]) -> str:
    """Return words in lower case, with a space around each."""
    return f" {' '.join(' '.join(parts).casefold().split())} "


def _label(text: str, classes: str, place: str) -> str:
    """Return a label as it is written; raise if there is no label, or a channel in its place.

    The header has a class name of several words without quotes.
    """
    label = text.strip()
    if not label or ("," in label and _is_numbers(label.split(","))):
        raise ValueError(
            f"path: expected a label behind the last ':' in {place}, got {label!r}; a file without "
            'labels says "@classLabel false"'
        )
    if classes.strip() and _words([label]) not in classes:
        raise ValueError(
            f"path: expected one of the classes{classes[:60].rstrip()} in {place}, as @classLabel "
            f"says, got {label!r}"
        )
    return label


def _is_numbers(values: list[str]) -> bool:
    try:
        return all(_number(value) is not None for value in values)
    except ValueError:
        return False


def _recording(channels: list[str], place: str) -> np.ndarray:
    """Return the values of the channels of one recording, float32 [T, channels]."""
    rows = [channel.split(",") for channel in channels]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        found = f"got {lengths}" if lengths else "got no channel"
        raise ValueError(f"path: expected channels of one length in {place}, {found}")
    try:
        values = np.array([[_number(value) for value in row] for row in rows])
    except ValueError as error:
        raise ValueError(f"path: expected numbers in {place}, got {error}") from None
    with np.errstate(over="ignore"):
        frames = values.astype(np.float32).T
    if np.isinf(frames).any():
        value = values.T[np.isinf(frames)][0]
        raise ValueError(f"path: expected finite numbers of float32 in {place}, got {value}")
    return frames


def _number(text: str) -> float:
    text = text.strip()
    if "_" in text:  # only Python groups digits with underscores
        raise ValueError(f"{text!r}")
    return float("nan" if text == "?" else text)


def _check_shape(frames: np.ndarray, first: np.ndarray, header: dict[str, int], place: str) -> None:
    channels = 1 if header.get("@univariate") else header.get("@dimensions", first.shape[1])
    if frames.shape[1] != channels:
        raise ValueError(f"path: expected {channels} channels in {place}, got {frames.shape[1]}")
    steps = header.get("@serieslength", len(first))
    if header.get("@equallength", "@serieslength" in header) and len(frames) != steps:
        raise ValueError(
            f"path: expected {steps} steps in {place}, as the header says, got {len(frames)}"
        )
