"""Suite `streaming`: the latency of one time step at batch size 1.

Each step continues from the state of the previous step. The contestants take turns, and one turn is
`STEPS` steps. The next step starts only after the output of a step is available.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax

from benchmarks import agreement, peers, timing
from benchmarks.peers import Peer, Stepper
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import failure, reference
from benchmarks.workload import Shape, make

__all__ = ["run"]

HIDDEN = (64, 128, 512)
STEPS = 200
"""Number of steps in one turn of a contestant."""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and widths; of the given shapes, only the sizes I and H are used."""
    sizes = [(shape.inputs, shape.hidden) for shape in settings.shapes]
    rows = []
    for inputs, hidden in dict.fromkeys(sizes or [(hidden, hidden) for hidden in HIDDEN]):
        for cell in settings.cells:
            say(f"{cell} {hidden}")
            rows += _group(cell, inputs, hidden, settings)
    return rows


def _turn(stepper: Stepper, latencies: list[float]) -> None:
    clock = time.perf_counter
    for _ in range(STEPS):
        start = clock()
        stepper.step()
        latencies.append(clock() - start)


def _group(cell: str, inputs: int, hidden: int, settings: Settings) -> list[Row]:
    """Measure all contestants for one cell and one width."""
    workload = make(cell, "plain", Shape(1, 5, inputs, hidden))
    expected = reference(workload).outputs()

    def enter(peer: Peer) -> tuple[Stepper, float | str] | str:
        try:
            stepper = peer.stepper(workload)
            if isinstance(stepper, str):
                return stepper
            if stepper.different is not None:
                return stepper, f"different mathematics: {stepper.different}"
            limit = agreement.tolerance(jax.default_backend())
            return stepper, agreement.require("outputs", stepper.outputs(), expected, limit)
        except Exception as error:
            return failure(error)

    contestants = {"seqjax_layer": peers.load("seqjax_layer")} | dict(settings.peers)
    found = {name: enter(peer) for name, peer in contestants.items()}
    latencies: dict[str, list[float]] = {name: [] for name in found}
    calls = {
        name: functools.partial(_turn, each[0], latencies[name])
        for name, each in found.items()
        if not isinstance(each, str)
    }
    turns = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
    rows = []
    for name, each in found.items():
        done = len(turns.get(name, ()))
        timed = [1e3 * s for s in latencies[name][-done * STEPS :]] if done else []
        blocks = [timed[n : n + STEPS] for n in range(0, len(timed), STEPS)]
        percentiles = {f"p{p}_ms": timing.percentile(timed, p) for p in (50, 99)} if timed else {}
        rows.append(
            Row(
                suite="streaming",
                cell=cell,
                variant="plain",
                shape=(1, 1, inputs, hidden),
                what="step",
                contestant=name,
                samples_ms=tuple(map(statistics.median, blocks)),
                agreement=None if isinstance(each, str) else each[1],
                setting=None if isinstance(each, str) else each[0].setting,
                reason=each if isinstance(each, str) else None,
                extra=percentiles,
            )
        )
    return rows
