"""Resuming a run: the contents of its checkpoints, and the remaining batches."""

import itertools
from collections.abc import Iterable, Sized
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.training._checkpoints import Checkpoints
from seqjax.training._position import Position
from seqjax.training._state import TrainState
from seqjax.types import PyTree

__all__ = ["batches_from", "check_limits", "restored"]


def restored(
    checkpoints: Checkpoints, state: TrainState, best: PyTree, run: dict[str, Any], resume: bool
) -> tuple[TrainState, PyTree, Position]:
    """Return what the latest checkpoint holds, or the given values if there is no checkpoint."""
    if not resume:
        if len(checkpoints):
            raise ValueError(
                f"checkpoints: expected none in {checkpoints.folder}, got {len(checkpoints)}; go "
                "on from them with resume=True, or take another folder"
            )
        return state, best, Position()
    found = checkpoints.restore({"state": state, "best": best})
    if found is None:
        return state, best, Position()
    for name, value in run.items():
        if found.record.get(name) != value:
            raise ValueError(
                f"{name}: expected {found.record.get(name)} as in {checkpoints.folder}, got {value}"
            )
    arrays = jax.tree.map(jnp.asarray, found.arrays)
    return arrays["state"], arrays["best"], Position.from_record(found.record)


def check_limits(
    checkpoints: Checkpoints, position: Position, epochs: int | None, steps: int | None
) -> None:
    """Raises if the run is longer than the limits, or ended within an epoch to be resumed."""
    for name, limit, done in (("epochs", epochs, position.epoch), ("steps", steps, position.step)):
        if limit is not None and limit < done:
            raise ValueError(
                f"{name}: expected at least {done}, as many as were done in {checkpoints.folder}, "
                f"got {limit}"
            )
    if position.ended_at is not None and steps != position.ended_at:
        raise ValueError(
            f"steps: expected {position.ended_at}, with which the run in {checkpoints.folder} "
            f"ended within an epoch, got {steps}"
        )


def batches_from(batches: Iterable[Any], first: int) -> Iterable[Any]:
    """Return the batches from index `first` on."""
    if first and isinstance(batches, Sized) and hasattr(batches, "__getitem__"):
        return (batches[index] for index in range(first, len(batches)))
    return itertools.islice(batches, first, None) if first else batches
