"""What the suites share: contestants enter by agreeing with the reference, then take turns."""

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax

from benchmarks import agreement, timing
from benchmarks.peers import Peer, Prepared
from benchmarks.peers.ours import Seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.workload import Shape, Workload, flops, make

__all__ = ["Entered", "enter", "failure", "gradient_rows", "milliseconds", "reference"]

Key = TypeVar("Key")


class Entered(NamedTuple):
    """A contestant that may be timed; or the reason why there is none."""

    prepared: Prepared | None
    agreement: float | str | None = None
    reason: str | None = None

    @property
    def setting(self) -> str | None:
        """What the contestant chose."""
        return None if self.prepared is None else self.prepared.setting


def reference(workload: Workload) -> Prepared:
    """The one that defines what is right: seqjax's kernel `scan`, itself tested against NumPy."""
    found = Seqjax(implementation="scan", remat="none").prepare(workload)
    assert isinstance(found, Prepared)
    return found


def failure(error: Exception) -> str:
    """An exception as a reason, in one line."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, agreement.Disagreement):
        return f"disagrees: {lines[0]}"
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def enter(peer: Peer, workload: Workload, expected: Prepared) -> Entered:
    """Prepares a contestant and compares it with the reference.

    A contestant that fails or disagrees is reported and not timed; the others go on.
    """
    try:
        found = peer.prepare(workload)
        if isinstance(found, str):
            return Entered(None, reason=found)
        if found.different is not None:
            return Entered(found, f"different mathematics: {found.different}")
        limit = agreement.tolerance(jax.default_backend())
        return Entered(found, agreement.check(found, expected, workload, limit))
    except Exception as error:
        return Entered(None, reason=failure(error))


def milliseconds(
    entered: Mapping[Key, Entered], what: str, settings: Settings
) -> dict[Key, tuple[float, ...]]:
    """Times `what`, "forward" or "gradient", of all that entered, in turns."""
    calls = {
        key: getattr(each.prepared, what)
        for key, each in entered.items()
        if each.prepared is not None
    }
    seconds = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
    return {key: tuple(1e3 * s for s in samples) for key, samples in seconds.items()}


def gradient_rows(
    suite: str,
    cell: str,
    shape: Shape,
    contestants: Mapping[str, Peer],
    settings: Settings,
    *,
    variant: str = "plain",
    temp_bytes: bool = False,
) -> list[Row]:
    """Measures the gradient of one shape for all contestants, in turns.

    Args:
      suite: of the rows.
      cell: one of `benchmarks.workload.CELLS`.
      shape: B, T, I, H.
      contestants: peers by the names that the rows give them.
      settings: how often and how long to measure.
      variant: of the rows; the workload is "plain".
      temp_bytes: whether the rows have the bytes of temporary arrays, too.
    """
    workload = make(cell, "plain", shape)
    expected = reference(workload)
    entered = {name: enter(peer, workload, expected) for name, peer in contestants.items()}
    samples = milliseconds(entered, "gradient", settings)
    rows = []
    for name, each in entered.items():
        measured = each.prepared if temp_bytes else None
        rows.append(
            Row(
                suite=suite,
                cell=cell,
                variant=variant,
                shape=shape,
                what="gradient",
                contestant=name,
                samples_ms=samples.get(name, ()),
                flops=flops(workload.structure, shape.batch, shape.steps, "gradient"),
                agreement=each.agreement,
                setting=each.setting,
                temp_bytes=None if measured is None else measured.temp_bytes("gradient"),
                reason=each.reason,
            )
        )
    return rows
