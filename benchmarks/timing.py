"""Timing: contestants take turns in one process, so that all see the same state of the machine."""

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

__all__ = ["fastest", "interleaved", "percentile", "quiet"]

Key = TypeVar("Key", bound=Hashable)

PAUSE = 0.002
"""Seconds before each timed call: some libraries' threads spin for a while after their work."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps Python's garbage collector from running inside."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def interleaved(
    calls: Mapping[Key, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    least: int = 5,
    budget: float = math.inf,
    pause: float = PAUSE,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], object] | None = None,
    announce: Callable[[Key], object] | None = None,
) -> dict[Key, list[float]]:
    """Times calls in rounds; in each round every call has one turn, and another one goes first.

    Args:
      calls: what to time; each returns when its work is done.
      repeats: rounds.
      warmup: untimed calls of each beforehand, in which programs are compiled.
      least: rounds that are done even if they take longer than the budget.
      budget: seconds after which no further round begins.
      pause: seconds to wait before each timed call.
      clock: returns seconds.
      before: called before each timed call, outside of its time.
      announce: called before each call, timed or not, with its key; outside of its time.

    Returns:
      The seconds of every timed call, by key.
    """
    order = list(calls)
    for key in order:
        for _ in range(warmup):
            if announce is not None:
                announce(key)
            calls[key]()
    seconds: dict[Key, list[float]] = {key: [] for key in order}
    with quiet():
        begin = clock()
        for done in range(repeats):
            if done >= least and clock() - begin > budget:
                break
            for key in order:
                if before is not None:
                    before()
                if announce is not None:
                    announce(key)
                if pause:
                    time.sleep(pause)
                start = clock()
                calls[key]()
                seconds[key].append(clock() - start)
            order = order[1:] + order[:1]
    return seconds


def fastest(calls: Mapping[Key, Callable[[], object]], repeats: int = 3) -> Key:
    """The key of the quickest call, for a contestant that has several ways to do a workload."""
    if len(calls) == 1:
        return next(iter(calls))
    seconds = interleaved(calls, repeats=repeats, least=1)
    return min(seconds, key=lambda key: statistics.median(seconds[key]))


def percentile(samples: list[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
