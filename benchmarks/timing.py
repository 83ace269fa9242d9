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

PAUSE = 0.01
"""The pause before each timed call, in seconds.

PyTorch's threads (GNU OpenMP) keep spinning for about 6 ms after their work. Without the pause,
they would take a core from the next contestant.
"""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's garbage collector from running inside the context."""
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
    """Time calls in rounds; each round runs every call once, and begins with a different call.

    Args:
      calls: the functions to time. Each function must return only when its work is done.
      repeats: the number of rounds.
      warmup: the number of untimed calls of each function, which compile the programs.
      least: the number of rounds that run even if they take longer than the budget.
      budget: seconds after which no further round begins.
      pause: seconds to wait before each timed call.
      clock: a function that returns the time in seconds.
      before: a function that is called before each timed call; it is not timed.
      announce: a function that is called with the key before each call; it is not timed.

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
    """Time several functions and return the key of the fastest one."""
    if len(calls) == 1:
        return next(iter(calls))
    seconds = interleaved(calls, repeats=repeats, least=1)
    return min(seconds, key=lambda key: statistics.median(seconds[key]))


def percentile(samples: list[float], percent: float) -> float:
    """Return the smallest sample for which at least `percent` % of all samples are no larger."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
