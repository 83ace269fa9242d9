"""Code that the suites share.

The results of each contestant are compared with those of the reference. Then all contestants are
timed alternately.
"""

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
    """A contestant that may be timed, or the reason why it is not timed."""

    prepared: Prepared | None
    agreement: float | str | None = None
    reason: str | None = None

    @property
    def setting(self) -> str | None:
        """Return the setting that the contestant found to be the fastest, or None."""
        return None if self.prepared is None else self.prepared.setting


def reference(workload: Workload) -> Prepared:
    """Return the reference: seqjax's kernel `scan`, which is itself tested against NumPy."""
    found = Seqjax(implementation="scan", remat="none").prepare(workload)
    assert isinstance(found, Prepared)
    return found


def failure(error: Exception) -> str:
    """Return a line that describes an exception. It explains why a contestant is not timed."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, agreement.Disagreement):
        return f"disagrees: {lines[0]}"
    return f"failed: {type(error).__name__}: {lines[0][:200]}"


def enter(peer: Peer, workload: Workload, expected: Prepared) -> Entered:
    """Prepare a contestant and compare it with the reference.

    If the contestant fails or its results differ too much, the return value contains the reason,
    and the contestant is not timed. No error is raised, so the other contestants are still timed.
    """
    if workload.resets is not None and not peer.has_resets:
        return Entered(None, reason="no resets")
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
    """Time all accepted contestants alternately, and return their times in milliseconds.

    `what` is "forward" or "gradient".
    """
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
    """Measure the gradient for one shape. All contestants are timed alternately.

    Args:
      suite: the name of the suite in the rows.
      cell: one of `benchmarks.workload.CELLS`.
      shape: B, T, I, H.
      contestants: a dict from the names for the rows to the contestants.
      settings: the number of repetitions and the time budget.
      variant: the name of the variant in the rows. The variant of the workload is always "plain".
      temp_bytes: whether the rows also have the size of temporary arrays in bytes.
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
