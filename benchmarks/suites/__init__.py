"""The suites of benchmarks by name.

A suite is a function `(settings, say) -> rows`. It calls `say` with messages about its progress,
and returns the rows of the results.
"""

import dataclasses
from collections.abc import Callable

from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites import (
    budget,
    decoding,
    deferred,
    eager,
    linear,
    memory,
    parts,
    policies,
    readers,
    scaling,
    speed,
    streaming,
    streaming_sessions,
    train_step,
)
from benchmarks.suites import compile as compile_suite

__all__ = ["SUITES", "Suite"]


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite, and the options that it uses: some of "cells", "variants" and "shapes"."""

    run: Callable[[Settings, Callable[[str], None]], list[Row]]
    uses: frozenset[str]


SUITES = {
    "speed": Suite(speed.run, frozenset({"cells", "variants", "shapes"})),
    "train_step": Suite(train_step.run, frozenset()),
    "decoding": Suite(decoding.run, frozenset()),
    "streaming": Suite(streaming.run, frozenset({"cells", "shapes"})),
    "sessions": Suite(streaming_sessions.run, frozenset({"cells", "shapes"})),
    "eager": Suite(eager.run, frozenset({"cells", "shapes"})),
    "memory": Suite(memory.run, frozenset({"cells", "shapes"})),
    "budget": Suite(budget.run, frozenset({"shapes"})),
    "compile": Suite(compile_suite.run, frozenset({"cells", "shapes"})),
    "deferred": Suite(deferred.run, frozenset()),
    "linear": Suite(linear.run, frozenset({"shapes"})),
    "parts": Suite(parts.run, frozenset({"shapes"})),
    "readers": Suite(readers.run, frozenset()),
    "scaling": Suite(scaling.run, frozenset({"cells", "shapes"})),
    "policies": Suite(policies.run, frozenset({"cells", "shapes"})),
}
"""All suites, in the order in which `python -m benchmarks all` runs them."""
