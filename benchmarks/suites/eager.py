"""Suite `eager`: calls outside of `jit`, as in a notebook.

For such small arrays, the time is that of Python and of starting a program. "forward" is a call of
a layer on a whole batch, and "step" is one time step that continues from the state before. The
contestants are the Flax layers of seqjax, not compiled by the caller, and PyTorch's modules under
`no_grad`. One turn is `CALLS` calls.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import agreement, timing
from benchmarks.peers import Peer, Prepared
from benchmarks.peers.ours import layer_of
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import reference
from benchmarks.workload import Shape, Workload, make

__all__ = ["run"]

SHAPE = Shape(2, 7, 3, 20)
CALLS = 100
"""Number of calls in one turn of a contestant."""
CASES = (("forward", "plain"), ("forward", "bidirectional"), ("step", "plain"))


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and shapes; return the rows."""
    rows = []
    for shape in settings.shapes or (SHAPE,):
        for cell in settings.cells:
            for what, variant in CASES:
                say(f"{cell} {what} {variant}")
                rows += _group(make(cell, variant, shape), what, variant, settings)
    return rows


def _ours(workload: Workload, what: str) -> tuple[Callable[[], object], np.ndarray]:
    """Return the call of our layer, and its outputs for all steps."""
    layer, xs = layer_of(workload), jnp.asarray(workload.xs)
    if what == "forward":
        outputs = np.asarray(layer(xs).outputs)
        return lambda: jax.block_until_ready(layer(xs).outputs), outputs
    state, each = layer.initial_state(workload.batch), []
    for t in range(workload.steps):
        output, state = layer.step(xs[:, t], state)
        each.append(output)
    x = xs[:, 0]

    def step() -> None:
        nonlocal state
        output, state = layer.step(x, state)
        jax.block_until_ready(output)

    return step, np.stack(each, axis=1)


def _theirs(peer: Peer, workload: Workload, what: str) -> tuple[Callable[[], object], np.ndarray]:
    found = peer.prepare(workload) if what == "forward" else peer.stepper(workload)
    assert not isinstance(found, str), found
    call = found.forward if isinstance(found, Prepared) else found.step
    return call, found.outputs()


def _turn(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()


def _group(workload: Workload, what: str, variant: str, settings: Settings) -> list[Row]:
    """Measure both contestants on one workload."""
    found = {"seqjax": _ours(workload, what)}
    for name, peer in settings.some(["pytorch"]).items():
        found[name] = _theirs(peer, workload, what)
    expected, limit = reference(workload).outputs(), agreement.tolerance(jax.default_backend())
    agreed = {
        name: agreement.require("outputs", outputs, expected, limit)
        for name, (_, outputs) in found.items()
    }
    seconds = timing.interleaved(
        {name: functools.partial(_turn, call) for name, (call, _) in found.items()},
        repeats=settings.repeats,
        budget=settings.budget,
    )
    structure = workload.structure
    return [
        Row(
            suite="eager",
            cell=structure.cell,
            variant=variant,
            shape=(workload.batch, workload.steps, structure.inputs, structure.hidden),
            what=what,
            contestant=name,
            samples_ms=tuple(1e3 * s / CALLS for s in seconds[name]),
            agreement=agreed[name],
        )
        for name in found
    ]
