"""Logs of a training history: a file of JSON lines, or TensorBoard."""

import json
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from seqjax._files import FilePath, new_file, new_folder, replacing
from seqjax.training._position import Record

__all__ = ["JsonLines", "Log", "TensorBoard"]

Log: TypeAlias = Callable[[Sequence[Record]], object]
"""A function that `fit` calls with the history after each epoch."""


class JsonLines:
    """A log for `seqjax.training.fit` that writes the history as JSON lines, one per epoch.

    Each call replaces the whole file atomically, so the file always contains the complete history,
    even if a run was stopped and resumed. A number that is not finite is written as null, since
    JSON has no such numbers.

    Args:
      path: the path of the file. The folder of the file is created if it does not exist.

    Raises:
      ValueError: path is a folder, or one of its parent folders is a file.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> path = Path(folder.name, "history.jsonl")
      >>> JsonLines(path)([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
      >>> print(path.read_text(), end="")
      {"epoch": 1, "loss": 0.5}
      {"epoch": 2, "loss": 0.25}
    """

    def __init__(self, path: FilePath) -> None:
        self.path = new_file("path", path)

    def __call__(self, history: Sequence[Record]) -> None:
        """Write all records.

        Args:
          history: one record for each epoch.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({name: _finite(value) for name, value in record.items()})
            for record in history
        ]
        with replacing(self.path) as partial:
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _finite(value: float) -> float | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


class TensorBoard:
    """A log for `seqjax.training.fit` that writes the latest record for TensorBoard.

    Each number of the record is written as a scalar at the record's step. If a run resumes with the
    same folder, its new records are added to the folder.

    Args:
      folder: the folder of the event files. The folder is created if it does not exist.

    Raises:
      ImportError: tensorboardX is not installed.
      ValueError: folder is a file, or one of its parent folders is a file.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> folder = tempfile.TemporaryDirectory()
      >>> TensorBoard(folder.name)([{"epoch": 1, "step": 8, "loss": 0.5}])
      >>> len(list(Path(folder.name).iterdir()))
      1
    """

    def __init__(self, folder: FilePath) -> None:
        try:
            # SummaryWriter is not used, because it writes in a thread that flush does not wait for.
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar
        except ImportError as error:
            raise ImportError(
                'seqjax.training.TensorBoard needs tensorboardX: pip install "seqjax[tensorboard]"'
            ) from error
        folder = new_folder("folder", folder)
        self._event, self._scalar = Event, scalar
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))

    def __call__(self, history: Sequence[Record]) -> None:
        """Write the last record.

        Args:
          history: one record for each epoch.
        """
        record = dict(history[-1])
        step = int(record.pop("step"))
        for name, value in record.items():
            summary = self._scalar(name, value)
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()
