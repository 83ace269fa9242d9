"""Reader of .ts files, the format of the time series classification archive."""

import re

import numpy as np

from seqjax._files import FilePath
from seqjax.data._readers import read_lines

__all__ = ["read_ts"]


def read_ts(path: FilePath) -> tuple[list[np.ndarray], list[str]]:
    r"""Read the recordings and the labels of a .ts file of timeseriesclassification.com.

    After the line @data there is one line for each recording. Each of these lines contains channels
    of equal length, separated by ":", and the label after the last ":". Values are separated by
    ",". "?" and NaN are missing values. Before @data, the lines "@classLabel" and "@targetLabel"
    (regression) declare whether the file has labels. If both lines are missing, the file has
    labels. Comments (# or %) and blank lines are ignored.

    The recordings are checked against these header lines: "@classLabel" (ignoring case),
    "@equalLength true", "@seriesLength" (unless "@equalLength false"), "@univariate true" and
    "@dimensions".

    This reader does not call `load_from_ts_file` of aeon. `load_from_ts_file` changes the labels
    (to lower case, and "banana" to "baNaNa"), loses minus signs of values with time stamps, and
    cannot read comments after @data or compressed files.

    Args:
      path: the path of the file. A file whose name ends in ".gz" is unpacked.

    Returns:
      recordings: N arrays float32 [T_n, channels], NaN where a value is missing.
      labels: N strings, as they are written in the file, even for regression. If the file has no
        labels, `labels` is empty.

    Raises:
      TypeError: path is not a string or `os.PathLike`.
      OSError: the file does not exist or cannot be read.
      ValueError: the text is not UTF-8; there are no recordings; a value is not a float32 number or
        has a time stamp; a recording has no label, has channels of different lengths, or differs
        from the first one in its number of channels; or lengths, channels or labels contradict the
        header.

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
"""The header lines that this reader uses and whose value is true or false."""

NUMBERS = ("@serieslength", "@dimensions")
"""The header lines that this reader uses and whose value is a number."""


def _read_header(line: str, header: dict[str, int], place: str) -> None:
    """Add the value of a header line to `header`, if the line is in `FLAGS` or `NUMBERS`."""
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
        raise ValueError(f"path: expected values without time stamps in {place}, got {line!r}")


def _words(parts: list[str]) -> str:
    """Return the words in lower case as one string, with a space before and after each word."""
    return f" {' '.join(' '.join(parts).casefold().split())} "


def _label(text: str, classes: str, place: str) -> str:
    """Return a label as it is written, or raise if it is missing or is not one of the classes.

    In the header, a class name may consist of several words without quotes. So the label is
    searched for in the text of all class names.
    """
    label = text.strip()
    if not label or ("," in label and _is_numbers(label.split(","))):
        raise ValueError(
            f"path: expected a label after the last ':' in {place}, got {label!r}; the header of a "
            'file without labels has the line "@classLabel false"'
        )
    if classes.strip() and _words([label]) not in classes:
        raise ValueError(
            f"path: expected one of the classes{classes[:60].rstrip()} of @classLabel in {place}, "
            f"got {label!r}"
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
    if "_" in text:  # an underscore between digits is Python's syntax, not one of data
        raise ValueError(f"{text!r}")
    return float("nan" if text == "?" else text)


def _check_shape(frames: np.ndarray, first: np.ndarray, header: dict[str, int], place: str) -> None:
    channels = 1 if header.get("@univariate") else header.get("@dimensions", first.shape[1])
    if frames.shape[1] != channels:
        raise ValueError(f"path: expected {channels} channels in {place}, got {frames.shape[1]}")
    steps = header.get("@serieslength", len(first))
    if header.get("@equallength", "@serieslength" in header) and len(frames) != steps:
        raise ValueError(
            f"path: expected {steps} steps in {place}, as in the header, got {len(frames)}"
        )
