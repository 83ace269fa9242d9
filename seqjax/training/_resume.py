"""Functions that resume a run: they read its values from a checkpoint, and skip used batches."""

import itertools
from collections.abc import Iterable, Mapping, Sized
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
    """Return the values of the latest checkpoint, or the given values if there is none."""
    if not resume:
        if len(checkpoints):
            raise ValueError(
                f"checkpoints: expected a folder without checkpoints, got {len(checkpoints)} in "
                f"{checkpoints.folder}; continue the run with resume=True, or use another folder"
            )
        return state, best, Position()
    found = checkpoints.restore({"state": state, "best": best})
    if found is None:
        return state, best, Position()
    _require_same(run, found.record, checkpoints)
    arrays = jax.tree.map(jnp.asarray, found.arrays)
    return arrays["state"], arrays["best"], Position.from_record(found.record)


def _require_same(
    run: Mapping[str, Any], record: Mapping[str, Any], checkpoints: Checkpoints
) -> None:
    """Raise if the seed, the monitor or a setting differs from that of the checkpoint."""
    there = f"in the checkpoint in {checkpoints.folder}"
    for name in ("seed", "monitor"):
        if record.get(name) != run[name]:
            raise ValueError(f"{name}: expected {record.get(name)} as {there}, got {run[name]}")
    before, now = record.get("settings", {}), run["settings"]
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            expected = f"{before[name]} as" if name in before else "no such setting, as"
            got = now.get(name, "no such setting")
            raise ValueError(f"settings[{name!r}]: expected {expected} {there}, got {got}")


def check_limits(
    checkpoints: Checkpoints, position: Position, epochs: int | None, steps: int | None
) -> None:
    """Raise if the run cannot be continued with these numbers of epochs and steps.

    A run cannot be continued if it already has more epochs or steps, or if it ended because of
    another value of `steps` and not at the known end of an epoch.
    """
    for name, limit, done in (("epochs", epochs, position.epoch), ("steps", steps, position.step)):
        if limit is not None and limit < done:
            raise ValueError(
                f"{name}: expected at least {done}, the number done in {checkpoints.folder}, got "
                f"{limit}"
            )
    if position.ended_at is not None and steps != position.ended_at:
        raise ValueError(
            f"steps: expected {position.ended_at}, since the run in {checkpoints.folder} ended "
            "after this number of steps, within an epoch or in one whose batches have no length, "
            f"got {steps}"
        )


def batches_from(batches: Iterable[Any], first: int) -> Iterable[Any]:
    """Return the batches without the first `first` batches."""
    if first and isinstance(batches, Sized) and hasattr(batches, "__getitem__"):
        return (batches[index] for index in range(first, len(batches)))
    return itertools.islice(batches, first, None) if first else batches
