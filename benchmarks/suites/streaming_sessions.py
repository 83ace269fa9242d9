"""Suite `sessions`: one step of many streams, as in a service.

- "seqjax": `seqjax.streaming.Session.step`, from a dict of inputs to a dict of outputs.
- "arrays": only the compiled step, from one array of all inputs to one array of all outputs. The
  difference between the times of "seqjax" and "arrays" is the session's bookkeeping.
- "one by one": the compiled step of one stream, called for each stream.

All three contestants copy NumPy inputs to the device and outputs back. Streams per second are the
number of streams divided by the median time of a step.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from benchmarks import agreement, timing
from benchmarks.results import Row
from benchmarks.settings import Settings
from seqjax import nn, streaming

__all__ = ["STREAMS", "run"]

STREAMS = (1, 64, 1024)
HIDDEN = 128
CALLS = 200
"""The number of steps that each contestant makes in a turn, divided by the number of streams."""
KINDS: dict[str, Any] = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure all cells and numbers of streams; return the rows.

    In a given shape B, T, I, H, the number of streams is B, and T is ignored.
    """
    given = [(shape.batch, shape.inputs, shape.hidden) for shape in settings.shapes]
    rows = []
    for streams, inputs, hidden in given or [(n, HIDDEN, HIDDEN) for n in STREAMS]:
        for cell in settings.cells if given or not settings.short else ("lstm",):
            say(f"{cell} {streams} streams")
            rows += _group(cell, streams, inputs, hidden, settings)
    return rows


def _contestants(layer: Any, xs: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Return the three functions by name; each makes one step of all streams."""
    streams = len(xs)
    session = streaming.Session(layer, capacity=streams)
    names = [session.open() for _ in range(streams)]
    given = dict(zip(names, xs, strict=True))
    step = jax.jit(lambda layer, x, state: tuple(layer.step(x, state)), donate_argnums=2)
    state = layer.initial_state([streams])
    states = [layer.initial_state([1]) for _ in range(streams)]

    def by_session() -> np.ndarray:
        return np.stack(list(session.step(given).values()))

    def by_arrays() -> np.ndarray:
        nonlocal state
        outputs, state = step(layer, xs, state)
        return np.asarray(outputs)

    def one_by_one() -> np.ndarray:
        outputs = []
        for n in range(streams):
            output, states[n] = step(layer, xs[n : n + 1], states[n])
            outputs.append(np.asarray(output)[0])
        return np.stack(outputs)

    return {"seqjax": by_session, "arrays": by_arrays, "one by one": one_by_one}


def _turn(step: Callable[[], np.ndarray], calls: int, latencies: list[float]) -> None:
    clock = time.perf_counter
    for _ in range(calls):
        start = clock()
        step()
        latencies.append(clock() - start)


def _group(cell: str, streams: int, inputs: int, hidden: int, settings: Settings) -> list[Row]:
    """Measure one cell with one number of streams."""
    layer = KINDS[cell](inputs, hidden, bias_init="torch_uniform", rngs=nnx.Rngs(0))
    xs = np.random.default_rng(0).normal(size=(streams, inputs)).astype(np.float32)
    contestants = _contestants(layer, xs)
    expected = np.asarray(layer(xs[:, None]).outputs[:, 0])
    limit = agreement.tolerance(jax.default_backend())
    agreed = {
        name: agreement.require("outputs", step(), expected, limit)
        for name, step in contestants.items()
    }
    calls = max(5, CALLS // streams)
    latencies: dict[str, list[float]] = {name: [] for name in contestants}
    turns = timing.interleaved(
        {
            name: functools.partial(_turn, step, calls, latencies[name])
            for name, step in contestants.items()
        },
        repeats=settings.repeats,
        budget=settings.budget,
    )
    rows = []
    for name in contestants:
        done = len(turns.get(name, ()))
        timed = [1e3 * s for s in latencies[name][-done * calls :]] if done else []
        blocks = [timed[n : n + calls] for n in range(0, len(timed), calls)]
        extra = {f"p{p}_ms": timing.percentile(timed, p) for p in (50, 99)} if timed else {}
        if timed:
            extra["streams_per_s"] = 1e3 * streams / statistics.median(timed)
        rows.append(
            Row(
                suite="sessions",
                cell=cell,
                variant="plain",
                shape=(streams, 1, inputs, hidden),
                what="step",
                contestant=name,
                samples_ms=tuple(map(statistics.median, blocks)),
                agreement=agreed[name],
                extra=extra,
            )
        )
    return rows
