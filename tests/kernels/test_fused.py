"""The fused kernel equals scan, runs when asked for, and has one product in each loop."""

import dataclasses
import traceback
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import seqjax
from seqjax import kernels
from seqjax.cells import Cell
from tests.cases import (
    CASES,
    assert_close,
    assert_same,
    draw_like,
    inputs_of,
    mask_of,
    params_of,
    registered,
    state_of,
)
from tests.conformance.test_transforms import products
from tests.test_custom_cells import RunningMean

BATCH = (3,)


def loss_of(case, implementation):
    """A loss over outputs and state with a mask and resets."""
    cell, mask, resets = case.cell, mask_of(BATCH), mask_of(BATCH, seed=9)

    def loss(params, xs, state, reset_state):
        outputs, final = seqjax.unroll(
            cell, params, xs, state=state, reset_state=reset_state, mask=mask, resets=resets,
            implementation=implementation,
        )  # fmt: skip
        return jnp.sin(outputs).sum() + sum(jnp.cos(s).sum() for s in jax.tree.leaves(final))

    arguments = (
        params_of(cell),
        inputs_of(cell, BATCH),
        state_of(cell, BATCH),
        state_of(cell, BATCH, 5),
    )
    return loss, arguments


@pytest.mark.quick("lstm", "conv_lstm_1d")
@registered
def test_without_mask_or_noise(case):
    cell, params, xs = case.cell, params_of(case.cell), inputs_of(case.cell, BATCH)

    def ran(implementation):
        def loss(params, xs):
            outputs, state = seqjax.unroll(cell, params, xs, implementation=implementation)
            return jnp.square(outputs).sum(), (outputs, state)

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs)

    assert_same(ran("fused"), ran("scan"))


@pytest.mark.quick()
@pytest.mark.parametrize("name", ["lstm", "gru", "cho_gru", "layer_norm_lstm"])
def test_gradient_of_gradient_and_vmap(name):
    def second(implementation):
        loss, (params, *rest) = loss_of(CASES[name], implementation)
        gradient = jax.grad(loss)
        tangent = jax.tree.map(jnp.asarray, draw_like(params, 12))

        def slope(p):
            pairs = zip(jax.tree.leaves(gradient(p, *rest)), jax.tree.leaves(tangent), strict=True)
            return sum((g * t).sum() for g, t in pairs)

        @jax.jit
        def all_three(params):
            backward = jax.grad(slope)(params)
            forward = jax.jvp(lambda p: gradient(p, *rest), (params,), (tangent,))[1]
            stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), params)
            return backward, forward, jax.vmap(gradient, (0, None, None, None))(stacked, *rest)

        return all_three(params)

    assert_close(second("fused"), second("scan"), 1e-4, 1e-4)


@pytest.mark.quick()
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "mgu"])
def test_half_precision(name, dtype):
    cell = CASES[name].cell
    xs = jnp.asarray(inputs_of(cell, BATCH), dtype)

    def gradient(implementation):
        def loss(params):
            outputs, _ = seqjax.unroll(cell, params, xs, implementation=implementation)
            return outputs.astype(jnp.float32).sum()

        return jax.grad(loss)(params_of(cell))

    got, want = gradient("fused"), gradient("scan")
    assert [g.dtype for g in got] == [w.dtype for w in want]
    scale = max(float(jnp.abs(leaf).max()) for leaf in want)
    assert_close(got, want, 20 * float(jnp.finfo(dtype).eps) * scale, 0.1)


@pytest.mark.parametrize(
    ("name", "forward", "backward"), [("elman", 1, 1), ("lstm", 1, 1), ("gru", 1, 1)]
)
def test_one_product_in_each_loop(name, forward, backward):
    cell = CASES[name].cell
    params, xs = params_of(cell), inputs_of(cell, BATCH)

    def loss(params, implementation):
        return seqjax.unroll(cell, params, xs, implementation=implementation).outputs.sum()

    count = lambda f, kernel: products(jax.make_jaxpr(lambda p: f(p, kernel))(params).jaxpr)  # noqa: E731
    assert count(loss, "fused")[1] == forward
    assert count(jax.grad(loss), "fused")[1] == forward + backward
    assert count(jax.grad(loss), "scan")[1] == forward + backward + 1  # dW inside the loop


@pytest.mark.quick()
@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("name", ["lstm", "gru", "cho_gru", "min_gru", "conv_lstm_1d"])
def test_projecting_in_the_loop_changes_nothing(name, inline):
    cell = CASES[name].cell
    start = state_of(cell, BATCH)
    mask = jnp.asarray(mask_of(BATCH).T)
    xs = jnp.moveaxis(jnp.asarray(inputs_of(cell, BATCH)), 1, 0)

    def ran(kernel, **options):
        def loss(params, xs):
            problem = kernels.Problem(params, xs, start, cell.initial_state(BATCH), mask)
            outputs, state = kernel(cell, problem, **options)
            return jnp.sin(outputs).sum() + sum(jnp.cos(s).sum() for s in jax.tree.leaves(state))

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params_of(cell), xs)

    want = ran(kernels.scan)
    assert_same(ran(kernels.fused, inline=inline), want)
    assert_same(ran(kernels.scan, inline=inline), want)


@pytest.mark.quick("moving1")
@pytest.mark.parametrize("moving", [["w_hh"], ["w_ih"], ["b_hn", "b"], []])
def test_only_some_parameters_move(moving):
    case = CASES["gru"]
    params, xs = params_of(case.cell), inputs_of(case.cell, BATCH)

    def gradient(kernel):
        def loss(some, xs):
            return jnp.sin(kernel.unroll(params._replace(**some), xs).outputs).sum()

        some = {name: getattr(params, name) for name in moving}
        return jax.grad(loss, 0 if moving else 1)(some, xs)

    assert_same(*(gradient(case._replace(kernel=kernel)) for kernel in ("fused", "scan")))


@pytest.mark.quick()
def test_gradients_of_the_noise():
    case = CASES["lstm"]
    params, xs = params_of(case.cell), inputs_of(case.cell, BATCH)
    noise, hold = draw_like(jnp.zeros((3, 4)), 1), abs(draw_like(jnp.zeros((3, 6, 4)), 2)) / 9

    def gradient(kernel):
        def loss(noise, hold):
            zoneout: Any = seqjax.cells.LSTMState(hold, cast("jax.Array", None))
            ran = kernel.unroll(params, xs, recurrent_mask=noise, zoneout=zoneout)
            return jnp.sin(ran.outputs).sum()

        return jax.grad(loss, (0, 1))(noise, hold)

    got, want = (gradient(case._replace(kernel=kernel)) for kernel in ("fused", "scan"))
    assert all(bool(jnp.abs(leaf).max() > 0) for leaf in got)
    assert_same(got, want)


def test_the_backward_loop_carries_the_state_alone():
    """Neither the gradient of a matrix nor zeros for one that the loop does not read."""
    cell = seqjax.cells.LSTM(3, 17)
    params, xs = params_of(cell), inputs_of(cell, (2,))
    gradient = jax.grad(lambda p: seqjax.unroll(cell, p, xs, implementation="fused").outputs.sum())
    loops = [e for e in walk(jax.make_jaxpr(gradient)(params).jaxpr) if e.primitive.name == "scan"]
    assert len(loops) == 2
    # What a loop gives is its final state, or has a time axis; a summed gradient would be neither.
    found = {v.aval.shape for loop in loops for v in loop.outvars}
    assert {shape for shape in found if shape[:1] != (xs.shape[1],)} <= {(2, 17)}


@pytest.mark.quick("mgu")
@pytest.mark.parametrize("name", ["cho_gru", "mgu", "projected_lstm"])
def test_products_inside_update_leave_the_loop(name):
    """Where their weights are larger than what is multiplied; no gradient of one is carried."""
    cell = seqjax.CELLS[name](3, 17)
    params, xs = params_of(cell), inputs_of(cell, (2,))

    def gradient(implementation):
        return jax.grad(
            lambda p: jnp.sin(seqjax.unroll(cell, p, xs, implementation=implementation)[0]).sum()
        )

    assert_same(gradient("fused")(params), gradient("scan")(params))
    program = jax.make_jaxpr(gradient("fused"))(params).jaxpr
    loops = [equation for equation in walk(program) if equation.primitive.name == "scan"]
    found = {v.aval.shape for loop in loops for v in loop.outvars}
    carried = {shape for shape in found if shape[:1] != (xs.shape[1],)}
    assert carried <= {leaf.shape for leaf in jax.tree.leaves(cell.initial_state((2,)))}


def walk(jaxpr):
    """Every equation of a program, those of its parts among them."""
    for equation in jaxpr.eqns:
        yield equation
        for sub in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                yield from walk(getattr(sub, "jaxpr", sub))


def test_a_state_that_is_not_floating_point():
    cell = RunningMean(3, 4)
    params, xs = params_of(cell), inputs_of(cell, BATCH)
    with pytest.raises(ValueError, match=r"implementation: 'fused'.*RunningMean.*'scan' or 'auto'"):
        seqjax.unroll(cell, params, xs, implementation="fused")
    assert_same(
        seqjax.unroll(cell, params, xs).outputs,
        seqjax.unroll(cell, params, xs, implementation="scan").outputs,
    )


@dataclasses.dataclass(frozen=True)
class Widths(Cell[Any, Any]):
    """Slots that differ in width, or in more than that: h = σ(g) tanh(z) + h / 2."""

    gate_axes: int = 1

    def init(self, key, dtype=jnp.float32):
        shapes = (self.input_size, self.hidden_size), (self.hidden_size,) * 2, (self.hidden_size, 1)
        keys = jax.random.split(key, 3)
        return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def project(self, p, x):
        return x @ p[0], x[..., :1] if self.gate_axes else x[..., 0]

    def recurrent_input(self, state):
        return state

    def recur(self, p, r):
        g = r @ p[2]
        return r @ p[1], g if self.gate_axes else g[..., 0]

    def update(self, p, gates, state):
        z, g = gates
        g = g if self.gate_axes else g[..., None]
        return jax.nn.sigmoid(g) * jnp.tanh(z) + 0.5 * state


class Fast(NamedTuple):
    """A vector, and a matrix that a step multiplies by."""

    h: Any
    matrix: Any


@dataclasses.dataclass(frozen=True)
class FastWeights(Cell[Any, Any]):
    """Products of two things that a step changes, and with a vector of parameters.

    M_t = M_{t-1} / 2 + k k^T;  h_t = tanh(M_{t-1} k σ(k · v)), with k = x_t W + h_{t-1}
    """

    def init(self, key, dtype=jnp.float32):
        shapes = (self.input_size, self.hidden_size), (self.hidden_size,)
        keys = jax.random.split(key, 2)
        return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        h = jnp.zeros((*batch_shape, self.hidden_size), dtype)
        return Fast(h, jnp.zeros((*h.shape, self.hidden_size), dtype))

    def project(self, p, x):
        return (x @ p[0],)

    def update(self, p, gates, state):
        k = gates[0] + state.h
        read = jnp.einsum("...ij,...j->...i", state.matrix, k)
        h = jnp.tanh(read * jax.nn.sigmoid(k @ p[1])[..., None])
        return Fast(h, state.matrix / 2 + k[..., None] * k[..., None, :])


@pytest.mark.quick()
def test_products_of_two_things_that_move():
    cell = FastWeights(3, 4)
    params, xs = params_of(cell), inputs_of(cell, BATCH)

    def derivatives(implementation):
        def loss(params, xs):
            return jnp.sin(seqjax.unroll(cell, params, xs, implementation=implementation)[0]).sum()

        first = jax.grad(loss, (0, 1))(params, xs)
        return first, jax.grad(lambda p: jnp.sin(jax.grad(loss)(p, xs)[0]).sum())(params)

    assert_close(derivatives("fused"), derivatives("scan"), 1e-5, 1e-5)


@pytest.mark.quick("1")
@pytest.mark.parametrize("gate_axes", [0, 1])
def test_slots_of_different_shapes(gate_axes):
    cell = Widths(3, 4, gate_axes)
    params, xs = params_of(cell), inputs_of(cell, BATCH)

    def gradient(implementation):
        def loss(params, xs):
            return jnp.sin(seqjax.unroll(cell, params, xs, implementation=implementation)[0]).sum()

        return jax.grad(loss, (0, 1))(params, xs)

    assert_same(gradient("fused"), gradient("scan"))


def test_a_layer_is_eight_functions_from_the_loop(monkeypatch):
    """Of the library, between the call of a layer and `jax.lax.scan`, each of its own name."""
    found: list[str] = []
    real = jax.lax.scan

    def spy(*arguments, **options):
        if not found:
            stack = traceback.extract_stack()
            found.extend(frame.name for frame in stack if "/seqjax/" in frame.filename)
        return real(*arguments, **options)

    # A size of its own, which nothing compiled yet.
    execution = seqjax.Execution("fused")
    layer = seqjax.nn.LSTM(3, 7, execution=execution, rngs=nnx.Rngs(0))
    monkeypatch.setattr(jax.lax, "scan", spy)
    jax.jit(layer)(jnp.ones([2, 11, 3]))
    places = found[found.index("__call__") :]
    outside = ["__call__", "in_one_program", "_run"]
    assert places == [*outside, "__call__", "run_direction", "run", "fused", "_run"]


def stacked_dtypes(jaxpr):
    """The dtypes of the arrays that the loops of a program write step by step."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            # An array written step by step has one axis more than what the body returns.
            body = equation.params["jaxpr"].out_avals
            found |= {
                array.aval.dtype
                for array, step in zip(equation.outvars, body, strict=True)
                if array.aval.ndim > step.ndim
            }
        for sub in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        ):
            if hasattr(sub, "jaxpr") or hasattr(sub, "eqns"):
                found |= stacked_dtypes(getattr(sub, "jaxpr", sub))
    return found


@pytest.mark.parametrize("kernel", ["scan", "fused"])
def test_loops_on_a_cpu_write_no_16_bit_arrays(kernel):
    """XLA would convert such an array at every step, in a time quadratic in the number of steps."""
    cell = seqjax.cells.GRU(3, 4)
    params = cell.init(jax.random.key(0))
    xs = jnp.ones((2, 6, 3), jnp.bfloat16)

    def run(params, xs):
        return seqjax.unroll(cell, params, xs, implementation=kernel).outputs

    def loss(params, xs):
        return run(params, xs).astype(jnp.float32).sum()

    program = jax.grad(loss) if kernel == "fused" else run
    assert run(params, xs).dtype == jnp.bfloat16
    assert stacked_dtypes(jax.make_jaxpr(program)(params, xs).jaxpr) == {jnp.dtype(jnp.float32)}
