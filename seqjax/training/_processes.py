"""Functions for runs in several processes, which read parts of the same batches."""

import contextlib
import dataclasses
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seqjax import checks, sharding
from seqjax.data._batches import Batches
from seqjax.training._state import TrainState

__all__ = [
    "noting_lost_processes",
    "own_rows",
    "require_same_batch",
    "require_same_run",
    "require_same_state",
]


@contextlib.contextmanager
def noting_lost_processes() -> Iterator[None]:
    """Add a note to errors in the block, which may be due to the end of another process."""
    try:
        yield
    except Exception as error:  # a collective that fails raises errors of several classes
        if jax.process_count() > 1:
            error.add_note(
                f"This is process {jax.process_index()} of {jax.process_count()}. If another "
                "process has ended, start all processes again; with resume=True, or --resume, they "
                "continue from the latest checkpoint."
            )
        raise


def own_rows(batches: Iterable[Any], devices: int) -> Iterable[Any]:
    """Return batches of which this process reads only the rows for its own devices.

    Only `Batches` whose batches all have the same number of rows can be read in part. Other
    batches are returned unchanged: every process reads all of their rows.
    """
    if jax.process_count() == 1 or devices == 1:
        return batches
    if not isinstance(batches, Batches) or not batches.pad_batch or batches.rows is not None:
        return batches
    return batches.only_rows(sharding.process_rows(batches.batch_size, devices))


def require_same_run(run: Mapping[str, Any], folder: Path | None) -> None:
    """Raise if the processes differ in their settings or find other checkpoints in the folder."""
    if jax.process_count() == 1:
        return
    _require_same("settings", json.dumps(run), "the seed, monitor and settings")
    found = [] if folder is None else folder.glob("[0-9]*")
    steps = str(sorted(path.name for path in found if path.name.isdigit()))
    _require_same("checkpoints", steps, f"the checkpoints in {folder}")


def require_same_state(state: TrainState) -> None:
    """Raise if the processes differ in the arrays of the state."""
    if jax.process_count() == 1:
        return
    sums = [_checksum(leaf) for leaf in jax.tree.leaves(state)]
    _require_same("model", str(sums), "the initial arrays")


def require_same_batch(name: str, batches: Iterable[Any], batch: Any) -> None:
    """Raise if the processes differ in the number of batches of an epoch, or in its first batch.

    Args:
      name: the argument that the error names.
      batches: the batches of the epoch.
      batch: the first batch on the host. Rows of zeros are not compared, since a process may have
        zeros in place of the rows of other processes. If each process reads only its own rows, all
        of them read the first row as well, and compare it.
    """
    if jax.process_count() == 1:
        return
    leaves = _arrays(batch)
    count = len(batches) if isinstance(batches, Sized) else None
    shapes = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    what = "the number and the shapes of the batches"
    _require_same(name, str([count, shapes]), what)
    sums = [_checksum(row) for leaf in leaves if leaf.ndim for row in leaf]
    if (
        isinstance(batches, Batches)
        and batches.rows is not None
        and len(batches.rows) < batches.batch_size
    ):
        first = dataclasses.replace(batches, rows=(0,))[0]
        sums += [_checksum(leaf[0]) for leaf in _arrays(first) if leaf.ndim]
    if sums:
        _require_same(name, np.array(sums, np.uint32), "the rows of a batch")


def _arrays(batch: Any) -> list[np.ndarray]:
    return [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, np.ndarray)]


def _require_same(name: str, value: str | np.ndarray, what: str) -> None:
    """Raise if a value differs between the processes, which must all call this function.

    Args:
      name: the argument that the error names.
      value: a text; or uint32 [K], of which an entry may be 0 in processes that do not know it.
      what: a description of the value.
    """
    if isinstance(value, str):
        value = np.array([zlib.crc32(value.encode())], np.uint32)
    found = np.asarray(multihost_utils.process_allgather(value))
    if ((found != found.max(0)) & (found != 0)).any():
        raise ValueError(
            f"{name}: expected {what} to be the same in all {len(found)} processes, got different "
            "ones; start all processes with the same program, options and data"
        )


def _checksum(leaf: Any) -> int:
    """Return the CRC-32 of an array, or 0 if its elements are all zero."""
    if checks.is_key(leaf):
        leaf = jax.random.key_data(leaf)
    array = np.ascontiguousarray(leaf)
    return zlib.crc32(array.tobytes()) if array.any() else 0
