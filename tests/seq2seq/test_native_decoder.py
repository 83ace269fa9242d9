"""The time loop of a decoder with additive attention in the native engine."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import _native
from seqjax.attention import Additive, Attention, NormedAdditive
from seqjax.cells import GRU, LSTM, Cell, Elman, LSTMState
from seqjax.kernels import Execution, Problem, fused, make_plan, native, run, scan
from seqjax.seq2seq._writer import DecoderState, Shapes, Writer, WriterParams
from tests import references
from tests.attention import references as attention_references
from tests.cases import assert_close, draw_like, params_of, state_of
from tests.seq2seq.helpers import translator

HERE = pytest.mark.skipif(_native.why_absent() is not None, reason=str(_native.why_absent()))
B, T, S, E, M = 5, 4, 3, 6, 9
MASK = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]], bool)


class Arrays(NamedTuple):
    """All arrays on which the result of a decoder depends; `output` is the query of step 0."""

    cell: Any
    mechanism: Any
    embedded: Any
    memory: Any
    state: Any
    output: Any


class Case(NamedTuple):
    cell: Cell[Any, Any]
    mechanism: Attention

    def arrays(self, seed: int = 5) -> Arrays:
        size = self.cell.hidden_size
        shapes = jax.eval_shape(self.mechanism.init, jax.random.key(0))
        others = [np.zeros(shape) for shape in ((B, T, E), (B, S, M), (B, size))]
        embedded, memory, output = draw_like(others, seed, 0.7)
        memory = np.where(MASK[..., None], memory, np.nan)  # padding
        return Arrays(
            params_of(self.cell), draw_like(shapes, seed + 1, 0.7), embedded, memory,
            state_of(self.cell, (B,)), output,
        )  # fmt: skip

    def problem(self, arrays: Arrays, mask: Any = MASK) -> tuple[Writer, Problem]:
        """The decoder as a cell, and its problem, batch-major."""
        memory = self.mechanism.precompute(arrays.mechanism, arrays.memory, mask=mask)
        params = WriterParams((arrays.cell,), arrays.mechanism, None, memory, ())
        output, embedded = jnp.asarray(arrays.output), jnp.asarray(arrays.embedded)
        (rows, width), (*_, size) = memory.mask.shape, memory.values.shape
        context, weights = (jnp.asarray(np.ones((rows, n), np.float32)) for n in (size, width))
        state = DecoderState((arrays.state,), output, context, None, (), weights)
        writer = Writer(
            embedded.shape[-1], self.cell.hidden_size, (self.cell,), self.mechanism, "previous",
            Shapes.of(params), Shapes.of(state, skip=1),
        )  # fmt: skip
        return writer, Problem(params, embedded, state, state)

    def results(self, kernel: Any, arrays: Arrays, mask: Any = MASK, reverse: bool = False) -> Any:
        """Outputs, contexts and weights, batch-major, and the final state of the cell."""
        writer, problem = self.problem(arrays, mask)
        by_time = Problem(
            problem.params, jnp.moveaxis(problem.xs, 1, 0), problem.state, problem.state
        )
        ran = kernel(writer, by_time, reverse=reverse)
        outputs, contexts, weights, feed = ran.outputs
        last = 0 if reverse else -1
        assert feed is None and ran.state.feed is None and ran.state.attention == ()
        found = [jnp.moveaxis(a, 0, 1) for a in (outputs, contexts, weights)]
        return *found, ran.state.cells[0], ran.state, [a[:, last] for a in found]


NAMES = {LSTM: "lstm", GRU: "gru", Elman: "elman"}
CASES = {
    "lstm": Case(LSTM(E + M, 7), Additive(7, M, units=5, temperature=0.6)),
    "gru": Case(GRU(E + M, 21), NormedAdditive(21, M, units=19)),
    "elman": Case(Elman(E + M, 34, use_bias=False), Additive(34, M, units=70)),
    "relu": Case(Elman(E + M, 8, activation="relu"), Additive(8, M, temperature=2.0)),
}
every = pytest.mark.parametrize("name", CASES)


def total(results: Any) -> Any:
    """A scalar that depends on every result."""
    leaves = jax.tree.leaves(results)
    return sum(((n + 1) * jnp.sin(3 * leaf + n)).sum() for n, leaf in enumerate(leaves))


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def gradients(name: str, kernel: Any, arrays: Arrays, reverse: bool = False) -> Any:
    def loss(arrays: Arrays) -> Any:
        results = CASES[name].results(kernel, arrays, reverse=reverse)
        return total(results), results

    return jax.value_and_grad(loss, has_aux=True)(arrays)


def reference(case: Case, arrays: Arrays) -> Any:
    """Bahdanau et al. (2015), A.1.2, in NumPy float64: outputs, contexts, weights, state."""
    name = NAMES[type(case.cell)]
    step = getattr(references, name)
    kind = "normed_additive" if isinstance(case.mechanism, NormedAdditive) else "additive"
    attend = getattr(attention_references, kind)
    outputs, contexts, weights = np.zeros((B, T, case.cell.hidden_size)), [], []
    states: Any = []
    for r in range(B):
        real = [s for s in range(S) if MASK[r, s]]
        state = jax.tree.map(lambda a, r=r: np.asarray(a[r], np.float64), arrays.state)
        y = np.asarray(arrays.output[r], np.float64)
        m = np.nan_to_num(np.asarray(arrays.memory[r], np.float64))
        for t in range(T):
            c, a, _ = attend(case.mechanism, arrays.mechanism, y, m, real, ())
            x = np.concatenate([np.asarray(arrays.embedded[r, t], np.float64), c])
            state, y = step(case.cell, arrays.cell, x, state)
            outputs[r, t] = y
            contexts.append(c)
            weights.append(a)
        states.append(state)
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *states)
    if isinstance(case.cell, LSTM):
        stacked = LSTMState(*stacked)
    return outputs, np.reshape(contexts, (B, T, M)), np.reshape(weights, (B, T, S)), stacked


def moved(arrays: Arrays, direction: Any, by: float) -> Arrays:
    return jax.tree.map(
        lambda a, d: np.asarray(a, np.float64) + by * np.asarray(d, np.float64), arrays, direction
    )


@pytest.mark.quick("lstm")
@HERE
@every
def test_values_and_slopes_are_those_of_the_paper_in_float64(name):
    case = CASES[name]
    arrays = case.arrays()
    (_, got), gradient = gradients(name, native, arrays)
    assert_close(got[:4], reference(case, arrays), 2e-6, 2e-6)

    def loss(arrays: Arrays) -> float:
        found = reference(case, arrays)
        state = found[3]
        last = [a[:, -1] for a in found[:3]]
        whole = (*found, DecoderState((state,), last[0], last[1], None, (), last[2]), last)
        leaves = jax.tree.leaves(whole)
        return sum((n + 1) * np.sin(3 * leaf + n).sum() for n, leaf in enumerate(leaves))

    leaves, structure = jax.tree.flatten(arrays)
    found = jax.tree.leaves(gradient)
    assert len(found) == len(leaves)
    for n, leaf in enumerate(leaves):
        # Each array moves alone, along a random direction.
        drawn = draw_like(leaf, 20 + n)
        steps = [np.zeros(other.shape) for other in leaves]
        steps[n] = drawn
        direction = jax.tree.unflatten(structure, steps)
        slope = (
            loss(moved(arrays, direction, 1e-6)) - loss(moved(arrays, direction, -1e-6))
        ) / 2e-6
        size = np.abs(found[n] * drawn).sum()
        assert size > 0, n
        assert abs(np.sum(np.asarray(found[n], np.float64) * drawn) - slope) < 2e-5 * size, n


@pytest.mark.quick("lstm-False", "elman-True")
@HERE
@pytest.mark.parametrize("reverse", [False, True])
@every
def test_values_and_gradients_are_those_of_scan(name, reverse):
    arrays = CASES[name].arrays(8)
    got, want = (gradients(name, kernel, arrays, reverse) for kernel in (native, scan))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 1e-5 * max(1.0, float(np.abs(b).max())))
    # Padding gets no gradient, even if it is NaN.
    assert not np.asarray(got[1].memory)[~MASK].any()


def calls(program: Any) -> list[int]:
    """Return the numbers of forward and backward calls of the engine in a compiled program."""
    text = program.as_text() or ""
    return [text.count(f'custom_call_target="{name}"') for name in _native.engine()[1:3]]


def compiled(function: Any, *arguments: Any) -> Any:
    return jax.jit(function).lower(*arguments).compile()


def targets(function: Any, *arguments: Any) -> list[int]:
    return calls(compiled(function, *arguments))


def loss_of(name: str, kernel: Any, mask: Any = MASK) -> Any:
    return lambda arrays: total(CASES[name].results(kernel, arrays, mask))


@HERE
def test_the_engine_really_runs():
    arrays, loss = CASES["lstm"].arrays(), loss_of("lstm", native)
    assert targets(loss, arrays) == [1, 0]
    assert targets(jax.grad(loss), arrays) == [1, 1]
    assert targets(jax.value_and_grad(jax.checkpoint(loss)), arrays) == [2, 1]
    # The fused kernel computes tangents; the values at which they are taken are the engine's.
    assert targets(lambda a: jax.jvp(loss, (a,), (a,))[1], arrays) == [1, 0]


@pytest.mark.quick()
@HERE
@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_a_model_in_training_runs_in_the_engine(cell):
    """Teacher forcing with dropout, copying and a tied readout needs nothing but the engine."""
    model = translator(cell=cell, dropout=0.3, copy=True, tied=True)
    sources, ids = jnp.array([[3, 6, 1], [2, 0, 0]]), jnp.array([[3, 6, 1], [2, 0, 0]])
    tokens, lengths = jnp.array([[1, 5, 8, 2], [1, 4, 0, 0]]), jnp.array([3, 1])

    def gradient(model: Any, kernel: str) -> Any:
        def loss(model: Any) -> Any:
            model.decoder.execution = Execution(implementation=kernel)
            logits = model(sources, tokens, lengths=lengths, source_ids=ids, rngs=jax.random.key(1))
            return jnp.where(jnp.isfinite(logits), jnp.sin(logits), 0).sum()

        return jax.grad(loss)(model)

    # Three layers run in the engine: two directions of the encoder, and the decoder.
    run = jax.jit(gradient, static_argnums=1)
    program = run.lower(model, "auto").compile()
    assert calls(program) == [3, 3]
    assert_close(program(model), run(model, "scan"), 1e-5, 1e-5)


@pytest.mark.quick()
@HERE
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_forward_mode_and_second_derivatives(name):
    arrays = jax.tree.map(np.nan_to_num, CASES[name].arrays())
    direction = jax.tree.map(jnp.asarray, draw_like(arrays, 3, 0.5))

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(kernel: Any, arrays: Any, direction: Any) -> Any:
        loss = loss_of(name, kernel)
        slope = jax.jvp(loss, (arrays,), (direction,))
        return slope, jax.jvp(jax.grad(loss), (arrays,), (direction,))[1]

    got, want = (derivatives(kernel, arrays, direction) for kernel in (native, scan))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 2e-5 * max(1.0, float(np.abs(b).max())))


@pytest.mark.quick()
@HERE
@pytest.mark.parametrize("mapped", ["sequences", "parameters"])
def test_vmap(mapped):
    """Mapped sequences and memories join the batch; mapped parameters run one after another."""
    case = CASES["gru"]
    arrays = jax.tree.map(np.asarray, case.arrays())
    two = jax.tree.map(lambda a: np.stack([a, np.float32(0.5) * a]), arrays)
    over = {"sequences": ("embedded", "memory", "state", "output"), "parameters": ("cell",)}[mapped]
    given = arrays._replace(**{field: getattr(two, field) for field in over})
    axes = Arrays(*(0 if field in over else None for field in Arrays._fields))
    mask = jnp.asarray(MASK)

    def gradient(kernel: Any) -> Any:
        def loss(arrays: Arrays) -> Any:
            each = jax.vmap(lambda a: case.results(kernel, a, mask)[:4], (axes,))(arrays)
            return total(each)

        return jax.grad(loss)

    program = compiled(gradient(native), given)
    if mapped == "sequences":
        assert calls(program) == [1, 1]
        assert "scan" not in str(jax.make_jaxpr(gradient(native))(given))
    got, want = program(given), jax.jit(gradient(fused))(given)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 1e-5 * max(1.0, float(np.abs(b).max())))


@HERE
def test_the_bits_do_not_depend_on_the_number_of_threads():
    case = Case(LSTM(64 + 40, 64), Additive(64, 40, units=48))
    shapes = jax.eval_shape(case.mechanism.init, jax.random.key(0))
    sizes = ((70, 9, 64), (70, 11, 40), (70, 64), (70, 64))
    embedded, memory, h, c = draw_like([np.zeros(size) for size in sizes], 0)
    weights = draw_like(params_of(case.cell), 2, 0.1)
    arrays = Arrays(weights, draw_like(shapes, 1, 0.3), embedded, memory, LSTMState(h, c), h)

    def loss(arrays: Arrays) -> Any:
        return total(case.results(native, arrays, None))

    run = jax.jit(jax.grad(loss))
    try:
        _native.limit_threads(1)
        alone = jax.block_until_ready(run(arrays))
        _native.limit_threads(8)
        for _ in range(3):
            again = run(arrays)
            for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(alone), strict=True):
                np.testing.assert_array_equal(a, b)
    finally:
        _native.limit_threads(1 << 16)


@HERE
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["embedded", "memory", "output"])
def test_what_is_not_finite_goes_where_it_goes_in_scan(place, value):
    arrays = CASES["lstm"].arrays()
    changed = np.array(getattr(arrays, place))
    changed[0, 0] = value
    broken = arrays._replace(**{place: changed})
    got, want = (gradients("lstm", kernel, broken)[0][1][:4] for kernel in (native, scan))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.quick()
@HERE
def test_exported_programs_do_not_need_the_engine():
    arrays, gradient = CASES["gru"].arrays(), jax.jit(jax.grad(loss_of("gru", native)))
    exported = jax.export.export(gradient)(arrays)
    assert not any(name in exported.mlir_module() for name in _native.engine()[1:3])
    assert_close(exported.call(arrays), gradient(arrays), 1e-4, 1e-5)


@HERE
@pytest.mark.two_devices
def test_a_divided_batch_stays_native():
    case, name = CASES["lstm"], "lstm"
    arrays = jax.tree.map(lambda a: jnp.asarray(a), case.arrays())
    batched = arrays._asdict()
    four = {f: jax.tree.map(lambda a: a[:4], batched[f]) for f in Arrays._fields[2:]}
    arrays, mask = arrays._replace(**four), jnp.asarray(MASK[:4])
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    every, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")
    specs = Arrays(every, every, rows, rows, rows, rows)

    def gradient(kernel: Any) -> Any:
        def part(arrays: Arrays, mask: Any) -> Any:
            return jax.lax.psum(total(CASES[name].results(kernel, arrays, mask)[:4]), "batch")

        whole = jax.shard_map(part, mesh=mesh, in_specs=(specs, rows), out_specs=every)
        return jax.grad(whole)

    def divided(kernel: Any) -> Any:
        sharding = jax.tree.map(lambda s: jax.sharding.NamedSharding(mesh, s), (specs, rows))
        return jax.jit(
            jax.grad(lambda a, m: total(CASES[name].results(kernel, a, m)[:4])),
            in_shardings=sharding,
        )

    assert targets(gradient(native), arrays, mask) == [1, 1]
    program = divided(native).lower(arrays, mask).compile().as_text()
    assert program.count('custom_call_target="seqjax_') == 2
    assert "all-gather" not in program.replace("all-gather-done", "")
    want = jax.grad(lambda a: total(case.results(scan, a, mask)[:4]))(arrays)
    for got in (jax.jit(gradient(native))(arrays, mask), divided(native)(arrays, mask)):
        assert_close(got, want, 1e-4, 1e-5)


def plan_of(execution: Execution, **options: Any) -> Any:
    """The plan of a model that is traced, so that no program draws its parameters."""
    plans: list[Any] = []
    jax.eval_shape(lambda: plans.append(_plan_of(execution, **options)))
    return plans[0]


def _plan_of(execution: Execution, **options: Any) -> Any:
    decoder: Any = translator(**options).decoder
    size = decoder.cells[-1].output_shape[-1]
    mechanism = decoder.mechanism
    memory = None
    if mechanism is not None:
        m = jnp.ones((2, 3, mechanism.mechanism.memory_size))
        memory = mechanism.mechanism.precompute(mechanism.params, m)
    feed = None
    if decoder.input_feeding:
        feed = jnp.ones((2, decoder.combine.out_features))
    state = DecoderState(
        tuple(cell.initial_state((2,)) for cell in decoder.cells), jnp.ones((2, size)),
        None if memory is None else jnp.ones((2, memory.values.shape[-1])), feed,
        () if memory is None else mechanism.mechanism.initial_state(memory),
        None if memory is None else jnp.ones((2, 3)),
    )  # fmt: skip
    writer, _ = decoder._writer(state, memory)
    return make_plan(writer, (2,), 4, jnp.float32, execution)


@HERE
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "location_aware"}, "Additive or NormedAdditive, got LocationAware"),
        ({"attention": "coverage"}, "Additive or NormedAdditive, got Coverage"),
        ({"num_layers": 2}, "one layer with attention, got 2 layers"),
        ({"input_feeding": True}, "without input feeding, got input_feeding=True"),
        ({"attend": "current", "input_feeding": True}, "attend='previous'"),
        ({"cell": "mgu", "bridge": "zero"}, "LSTM, GRU and Elman, got MGU"),
    ],
)
def test_what_it_refuses(options, message):
    assert plan_of(Execution(), **options).kernel.name == "fused"
    with pytest.raises(ValueError, match=f"implementation: 'native' runs .*{message}"):
        plan_of(Execution(implementation="native"), **options)


@HERE
def test_auto_takes_it():
    assert plan_of(Execution()).kernel.name == "native"
    assert plan_of(Execution(), attention="normed_additive", cell="gru").kernel.name == "native"


@pytest.mark.quick()
@HERE
def test_what_is_left_to_fused():
    """Masks and resets of steps, beams that share a memory, an empty memory, other dtypes."""
    case = CASES["lstm"]
    writer, problem = case.problem(case.arrays())
    by_time = Problem(problem.params, jnp.moveaxis(problem.xs, 1, 0), problem.state, problem.state)
    real = np.arange(T)[:, None] < np.array([4, 2, 0, 1, 3])
    low = jax.tree.map(lambda a: np.asarray(a).astype(jnp.bfloat16), problem.state)
    one = jax.tree.map(lambda a: np.asarray(a)[:1], problem.params.memory)
    none = problem.params.memory._replace(
        keys=np.zeros((B, 0, 5), np.float32), values=np.zeros((B, 0, M), np.float32),
        mask=np.zeros((B, 0), bool),
    )  # fmt: skip
    empty = problem.state._replace(weights=np.zeros((B, 0), np.float32))
    given: dict[str, Any] = {
        "mask": {"mask": real},
        "resets": {"resets": ~real},
        "dtype": {"state": low, "reset_state": low},
        "beams": {"params": problem.params._replace(memory=one)},
        "empty": {"params": problem.params._replace(memory=none), "state": empty},
    }
    for what, change in given.items():
        fields = {"params": by_time.params, "xs": by_time.xs, "state": by_time.state} | change
        fields.setdefault("reset_state", fields["state"])
        other = Problem(**fields)
        program = compiled(lambda p: native(writer, p), other)
        assert calls(program) == [0, 0], what
        got, want = program(other), jax.jit(lambda p: scan(writer, p))(other)
        assert_close(got, want, 1e-2 if what == "dtype" else 2e-6)


@pytest.mark.quick()
@HERE
def test_segments_stay_native():
    case = CASES["lstm"]

    def loss(arrays: Arrays, remat: Any) -> Any:
        writer, problem = case.problem(arrays)
        plan = make_plan(writer, (B,), T, jnp.float32, Execution(remat=remat))
        return total(run(writer, problem, plan, batch_ndim=1))

    arrays = case.arrays()
    whole, parts = (
        compiled(jax.grad(functools.partial(loss, remat=r)), arrays) for r in ("none", "sqrt")
    )
    assert calls(whole) == [1, 1] and calls(parts) == [2, 1]
    assert_close(parts(arrays), whole(arrays), 1e-5, 1e-5)
