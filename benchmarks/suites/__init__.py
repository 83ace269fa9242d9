"""The suites by name. A suite is a function `(settings, say) -> rows`."""

import dataclasses
from collections.abc import Callable

from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites import compile as compile_suite
from benchmarks.suites import (
    decoding,
    deferred,
    memory,
    parts,
    readers,
    scaling,
    speed,
    streaming,
    streaming_sessions,
    train_step,
)

__all__ = ["SUITES", "Suite"]


@dataclasses.dataclass(frozen=True)
class Suite:
    """A suite and those of the options cells, variants, shapes that it uses."""

    run: Callable[[Settings, Callable[[str], None]], list[Row]]
    uses: frozenset[str]


SUITES = {
    "speed": Suite(speed.run, frozenset({"cells", "variants", "shapes"})),
    "train_step": Suite(train_step.run, frozenset()),
    "decoding": Suite(decoding.run, frozenset()),
    "streaming": Suite(streaming.run, frozenset({"cells", "shapes"})),
    "sessions": Suite(streaming_sessions.run, frozenset({"cells", "shapes"})),
    "memory": Suite(memory.run, frozenset({"cells", "shapes"})),
    "compile": Suite(compile_suite.run, frozenset({"cells", "shapes"})),
    "deferred": Suite(deferred.run, frozenset()),
    "parts": Suite(parts.run, frozenset({"shapes"})),
    "readers": Suite(readers.run, frozenset()),
    "scaling": Suite(scaling.run, frozenset({"cells", "shapes"})),
}
"""All suites, in the order of `all`."""
