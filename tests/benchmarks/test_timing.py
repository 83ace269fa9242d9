"""Timing, by a clock that only moves when a call takes time."""

import gc
from collections.abc import Callable

import pytest

from benchmarks.timing import fastest, interleaved, percentile


class Clock:
    """A clock, and calls that take time by it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, *seconds: float) -> Callable[[], None]:
        """A call that takes these seconds, one after the other and over again."""
        counts = [0]

        def call() -> None:
            self.calls.append(name)
            self.now += seconds[counts[0] % len(seconds)]
            counts[0] += 1

        return call


def test_every_call_is_timed_by_itself() -> None:
    clock = Clock()
    calls = {"a": clock.taking("a", 100.0, 1.0, 2.0), "b": clock.taking("b", 5.0)}
    found = interleaved(calls, repeats=2, warmup=1, pause=0, clock=clock)
    assert found == {"a": [1.0, 2.0], "b": [5.0, 5.0]}


def test_contestants_take_turns_and_another_goes_first_in_each_round() -> None:
    clock = Clock()
    calls = {name: clock.taking(name, 1.0) for name in "abc"}
    interleaved(calls, repeats=3, warmup=2, pause=0, clock=clock)
    assert "".join(clock.calls) == "aabbcc" + "abc" + "bca" + "cab"


@pytest.mark.quick("3-0-3", "9-6.5-7")
@pytest.mark.parametrize(
    "repeats, budget, rounds", [(9, 1e9, 9), (9, 0.0, 5), (9, 6.5, 7), (3, 0, 3)]
)
def test_budget_ends_the_rounds_but_not_before_the_least(
    repeats: int, budget: float, rounds: int
) -> None:
    clock = Clock()
    found = interleaved(
        {"a": clock.taking("a", 1.0)}, repeats=repeats, budget=budget, pause=0, clock=clock
    )
    assert len(found["a"]) == rounds


def test_preparation_is_not_timed_and_the_collector_sleeps() -> None:
    clock = Clock()
    seen = []

    def before() -> None:
        seen.append(gc.isenabled())
        clock.now += 50

    assert gc.isenabled()
    found = interleaved(
        {"a": clock.taking("a", 1.0)}, repeats=2, pause=0, clock=clock, before=before
    )
    assert found == {"a": [1.0, 1.0]}
    assert seen == [False, False] and gc.isenabled()


def test_the_collector_wakes_after_an_error() -> None:
    calls = iter([None, None])
    with pytest.raises(StopIteration):
        interleaved({"a": lambda: next(calls)}, repeats=3, pause=0)
    assert gc.isenabled()


def test_fastest() -> None:
    assert fastest({"slow": lambda: sum(range(300_000)), "quick": lambda: None}) == "quick"
    assert fastest({"only": lambda: None}) == "only"


@pytest.mark.parametrize("percent, expected", [(50, 5), (90, 9), (99, 10), (100, 10), (1, 1)])
def test_percentile(percent: float, expected: float) -> None:
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], percent) == expected
