"""Reader of the .ts files in which the time series classification archive comes."""

import numpy as np

from seqjax._files import FilePath
from seqjax.data.readers import read_lines

__all__ = ["read_ts"]


def read_ts(path: FilePath) -> tuple[list[np.ndarray], list[str]]:
    r"""The recordings and the labels of a .ts file of timeseriesclassification.com.

    After a line @data there is one line a recording: channels of equal length, parted by ":", and
    the label behind the last ":". Values are parted by ",", and "?" or NaN is a missing one. Of
    the lines before @data, "@classLabel false" says that there are no labels; comments (#) and
    blank lines are passed over.

    Args:
      path: of the file; one whose name ends in ".gz" is unpacked.

    Returns:
      recordings: N arrays float32 [T_n, channels], NaN where a value is missing.
      labels: N strings, as they are written; [] where there are none.

    Raises:
      TypeError: not a path.
      OSError: no such file, or one that cannot be read.
      ValueError: text that is not UTF-8; no recordings; values that are no numbers, or come with
        time stamps; a recording whose channels differ in length, or that has more or fewer
        channels than the first one.

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
    inside, labelled = False, True
    for number, line in enumerate(read_lines(path), start=1):
        place, words = f"{path}, line {number}", line.lower().split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith("@"):
            inside = inside or words[0] == "@data"
            labelled = labelled and words[:2] != ["@classlabel", "false"]
            if words[:2] == ["@timestamps", "true"]:
                raise ValueError(f"path: expected values without time stamps in {place}")
        elif not inside:
            raise ValueError(f"path: expected a line that begins with @ in {place}, got {line!r}")
        else:
            fields = line.strip().split(":")
            if labelled:
                labels.append(fields.pop().strip())
            recordings.append(_recording(fields, place))
            found, first = recordings[-1].shape[1], recordings[0].shape[1]
            if found != first:
                raise ValueError(f"path: expected {first} channels in {place}, got {found}")
    if not recordings:
        raise ValueError(f"path: {path}: expected recordings after a line @data, got none")
    return recordings, labels


def _recording(channels: list[str], place: str) -> np.ndarray:
    """Float32 [T, channels] of the channels as they are written."""
    rows = [channel.replace("?", "nan").split(",") for channel in channels]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        found = f"got {lengths}" if lengths else "got no channel"
        raise ValueError(f"path: expected channels of one length in {place}, {found}")
    try:
        return np.array(rows).astype(np.float32).T
    except ValueError as error:
        raise ValueError(f"path: expected numbers in {place}, got {error}") from None
