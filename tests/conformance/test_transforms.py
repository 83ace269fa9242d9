"""Every cell under JAX's transformations, and what its compiled program looks like."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import seqjax
from seqjax import kernels
from seqjax.cells.stepping import Now, advance
from tests.cases import (
    CASES,
    PICKED,
    T,
    assert_close,
    conformant,
    draw_like,
    inputs_of,
    mask_of,
    params_of,
    picked,
)

BATCH = (4,)


@functools.cache
def run_of(case):
    cell, mask = case.cell, mask_of(BATCH)

    def run(params, xs):
        return tuple(case.unroll(params, xs, mask=mask))

    def loss(params, xs):
        outputs, state = run(params, xs)
        squares = [(s * s.conj()).real.sum() for s in jax.tree.leaves(state)]
        return jnp.square(outputs).sum() + sum(squares)

    return run, loss, params_of(cell), inputs_of(cell, BATCH)


@conformant
@pytest.mark.quick("lstm-fused", "conv_lstm_1d-fused")
def test_jit_and_checkpoint_and_vmap(case):
    run, _, params, xs = run_of(case)
    want = run(params, xs)
    assert_close(jax.jit(jax.checkpoint(run))(params, xs), want)
    one = lambda x, m: tuple(case.unroll(params, x, mask=m))  # noqa: E731
    assert_close(jax.jit(jax.vmap(one))(xs, mask_of(BATCH)), want)


@conformant
@pytest.mark.quick("lstm-fused")
def test_forward_and_reverse_mode_of_first_and_second_order(case):
    if case.kernel == "scan" and case.name not in PICKED:
        pytest.skip("JAX differentiates its own scan; a few cells show that it may")
    _, loss, params, xs = run_of(case)
    tangent = jax.tree.map(jnp.asarray, draw_like(params, 12))

    def along(gradient):
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(tangent), strict=True)
        return sum((g * t).sum() for g, t in pairs)

    @jax.jit
    def derivatives(params):
        gradient = jax.grad(loss)
        slope = jax.jvp(lambda p: loss(p, xs), (params,), (tangent,))[1]
        first, forward = jax.jvp(lambda p: gradient(p, xs), (params,), (tangent,))
        backward = jax.grad(lambda p: along(gradient(p, xs)))(params)
        return slope, along(first), forward, backward

    slope, first, forward, backward = derivatives(params)
    np.testing.assert_allclose(slope, first, rtol=1e-4)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(forward))
    assert scale > 0
    assert_close(backward, forward, 1e-4 * scale, 1e-3)


@pytest.mark.two_devices
@picked
def test_shard_map_over_the_batch(case):
    run, _, params, xs = run_of(case)
    mask = mask_of(BATCH)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("batch")
    sharded = jax.shard_map(
        lambda p, x, m: tuple(case.unroll(p, x, mask=m)),
        mesh=mesh,
        in_specs=(PartitionSpec(), spec, spec),
        out_specs=spec,
    )
    assert_close(jax.jit(sharded)(params, xs, mask), run(params, xs))
    # The same by sharding the arguments of a jitted function.
    placed = jax.device_put(xs, NamedSharding(mesh, spec))
    assert_close(jax.jit(run)(params, placed), run(params, xs))


def test_equal_cells_share_one_trace_and_second_calls_trace_nothing(monkeypatch):
    traces = []

    def counted(*arguments, **options):
        traces.append(1)
        return kernels.fused(*arguments, **options)

    replaced = dataclasses.replace(kernels.KERNELS["fused"], run=counted)
    monkeypatch.setitem(kernels.KERNELS, "fused", replaced)
    make = lambda: seqjax.cells.GRU(7, 9)  # noqa: E731
    cell = make()
    assert cell == make() and hash(cell) == hash(make()) and cell != seqjax.cells.GRU(7, 8)
    params, xs = params_of(cell), inputs_of(cell, (2,))
    run = functools.partial(seqjax.unroll, params=params, xs=xs, implementation="fused")
    for cell in (make(), make(), make()):
        run(cell, lengths=np.array([2, 3]))
        run(cell, lengths=np.array([1, 6]))
    assert len(traces) == 1
    run(cell)
    assert len(traces) == 2  # another program: no mask


# Products inside the time loop by the equations of our cells: the recurrent one, and any other.
PRODUCTS = {
    "elman": 1, "elman_readout": 2, "lstm": 1, "peephole_lstm": 1, "coupled_lstm": 1,
    "projected_lstm": 2, "layer_norm_lstm": 1, "gru": 1, "cho_gru": 2, "mgu": 2, "indrnn": 0,
    "lru": 1, "rg_lru": 0, "min_gru": 0, "min_lstm": 0, "s5": 1, "slstm": 1, "sru": 0,
    "conv_lstm_1d": 1, "conv_lstm_2d": 1,
}  # fmt: skip


def products(jaxpr, inside=False):
    """Counts products inside and outside loops of a jaxpr."""
    count = [0, 0]
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            count[inside] += 1
        looped = inside or equation.primitive.name in ("scan", "while")
        for sub in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr"),
        ):
            if hasattr(sub, "eqns") or hasattr(sub, "jaxpr"):
                more = products(getattr(sub, "jaxpr", sub), looped)
                count = [a + b for a, b in zip(count, more, strict=True)]
    return count


@pytest.mark.quick("lstm-*", "cho_gru-*", "min_gru-*", "conv_lstm_1d-*")
@conformant
def test_the_input_product_is_outside_the_loop(case):
    if case.kernel == "native":
        pytest.skip("one call to compiled code has no products that JAX sees")
    run, _, params, xs = run_of(case)
    cell, state = case.cell, case.cell.initial_state(BATCH)
    p = jax.eval_shape(cell.prepare, params)
    projected = jax.eval_shape(cell.project, p, xs[:, 0])

    def step(p, projected, state):
        ran = advance(cell, p, Now(projected), state, output_dtype=jnp.float32)
        return ran.state, ran.output

    of_project, _ = products(jax.make_jaxpr(cell.project)(p, xs).jaxpr)
    of_step, _ = products(jax.make_jaxpr(step)(p, projected, state).jaxpr)
    assert of_step == PRODUCTS.get(case.name, of_step)
    # An output that multiplies runs for all steps at once, if the kernel takes it out of the loop.
    after = int(case.name in ("elman_readout", "lru", "s5") and case.kernel != "scan")
    wanted = [of_project + after, of_step - after]
    assert products(jax.make_jaxpr(run)(params, xs).jaxpr) == wanted


@pytest.mark.parametrize("kernel", ["scan", "fused"])
def test_the_program_does_not_grow_with_the_steps(kernel):
    case = CASES["lstm"]._replace(kernel=kernel)
    params = params_of(case.cell)
    gradient = jax.jit(jax.grad(lambda x: case.unroll(params, x).outputs.sum()))
    sizes = {
        len(gradient.lower(inputs_of(case.cell, (2,), steps)).as_text().splitlines())
        for steps in (T, 50 * T)
    }
    assert len(sizes) == 1


@pytest.mark.quick("lstm-*", "min_gru-associative")
@conformant
def test_the_kernel_asked_for_runs(case, monkeypatch):
    ran = []
    real = kernels.KERNELS[case.kernel]

    def counted(*arguments, **options):
        ran.append(case.kernel)
        return real.run(*arguments, **options)

    run = lambda: case.unroll(params_of(case.cell), inputs_of(case.cell, (1,)))  # noqa: E731
    first = run()  # compiled: a kernel of the same name must not get this program
    monkeypatch.setitem(kernels.KERNELS, case.kernel, dataclasses.replace(real, run=counted))
    assert_close(run(), first)
    assert ran == [case.kernel]


@conformant
@pytest.mark.quick("lstm-*", "min_gru-associative", "conv_lstm_1d-fused")
def test_lowers_for_every_platform(case):
    _, loss, params, xs = run_of(case)
    platforms = ["cpu", "cuda", "rocm", "tpu"]
    exported = jax.export.export(jax.jit(jax.value_and_grad(loss)), platforms=platforms)(params, xs)
    assert exported.platforms == tuple(platforms)
