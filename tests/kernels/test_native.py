"""The native engine: that it runs, threads, special numbers, transformations, what it refuses."""

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import _native
from seqjax.cells import GRU, LSTM, Elman
from seqjax.kernels import Problem, fused, native
from tests.cases import assert_close, draw_like, inputs_of, mask_of, params_of, state_of

ROOT = Path(__file__).resolve().parents[2]
HERE = pytest.mark.skipif(_native.why_absent() is not None, reason=str(_native.why_absent()))
CELLS = [LSTM(5, 7), GRU(33, 50), Elman(3, 70), Elman(4, 9, activation="relu"), LSTM(2, 400)]


def name_of(cell):
    return f"{type(cell).__name__}-{cell.input_size}-{cell.hidden_size}"


def problem_of(cell, batch=13, steps=6, *, special=True):
    """Everything that the engine knows, or nothing of it."""
    state, xs = state_of(cell, (batch,)), inputs_of(cell, (steps,), batch)
    params = params_of(cell)  # whose large matrices would amplify every rounding
    params = params._replace(w_hh=params.w_hh / max(1.0, cell.hidden_size**0.5 / 4))
    if not special:
        return Problem(params, jnp.asarray(xs), state, state)
    hold = jax.tree.map(lambda s: np.abs(draw_like(jnp.zeros((steps, *s.shape)), 8, 0.1)), state)
    return Problem(
        params, jnp.asarray(xs), state, state_of(cell, (batch,), 7),
        mask=jnp.asarray(mask_of((steps,), batch)),
        resets=jnp.asarray(mask_of((steps,), batch, seed=9)),
        recurrent_mask=jnp.asarray(draw_like(cell.recurrent_input(state), 6)),
        zoneout=jax.tree.map(jnp.asarray, hold),
    )  # fmt: skip


def loss_of(kernel, cell, reverse=False):
    def loss(params, xs, state, reset_state, problem):
        given = Problem(
            params, xs, state, reset_state, problem.mask, problem.resets, problem.recurrent_mask,
            problem.zoneout,
        )  # fmt: skip
        ran = kernel(cell, given, reverse=reverse)
        return sum(jnp.sin(3 * leaf).sum() for leaf in jax.tree.leaves(ran)), ran

    return loss


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def gradients(kernel, cell, problem, reverse=False):
    given = (problem.params, problem.xs, problem.state, problem.reset_state)
    loss = loss_of(kernel, cell, reverse)
    return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(*given, problem)


def to_the_bit(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.quick("LSTM-5-7-True-True", "GRU-33-50-True-False", "Elman-3-70-True-True")
@HERE
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_values_and_gradients_are_those_of_fused(cell, special, reverse):
    problem = problem_of(cell, special=special)
    got = gradients(native, cell, problem, reverse)
    want = gradients(fused, cell, problem, reverse)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(a, b, 1e-5 * max(1.0, float(jnp.abs(b).max())))


def targets(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text() or ""
    return [text.count(f'custom_call_target="{name}"') for name in _native.engine()[1:3]]


@HERE
def test_the_engine_really_runs():
    cell = LSTM(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,))

    def loss(params, **options):
        return seqjax.unroll(cell, params, xs, implementation="native", **options).outputs.sum()

    assert targets(loss, params) == [1, 0]
    assert targets(jax.grad(loss), params) == [1, 1]
    # A checkpointed or segmented run is run again, and stays native.
    assert targets(jax.value_and_grad(jax.checkpoint(loss)), params) == [2, 1]
    segmented = functools.partial(loss, remat="sqrt")
    assert targets(jax.value_and_grad(segmented), params) == [2, 1]
    # Forward mode and second derivatives are those of the fused kernel.
    assert targets(lambda p: jax.jvp(loss, (p,), (p,))[1], params) == [0, 0]


@HERE
def test_a_forward_pass_that_is_run_again_stores_nothing():
    cell = LSTM(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,))

    @jax.checkpoint
    def loss(params):
        return seqjax.unroll(cell, params, xs, implementation="native").outputs.sum()

    text = jax.jit(jax.value_and_grad(loss)).lower(params).compile().as_text() or ""
    assert text.count("store = false") == text.count("store = true") == 1


@HERE
def test_mapped_sequences_join_the_batch():
    cell = GRU(3, 4)
    params, xs, mask = params_of(cell), inputs_of(cell, (2, 3)), mask_of((2, 3))

    def run(params, xs, mask):
        return seqjax.unroll(cell, params, xs, mask=mask, implementation="native").outputs

    def loss(params):
        return jnp.square(jax.vmap(run, (None, 0, 0))(params, xs, mask)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert "scan" not in text and targets(jax.grad(loss), params) == [1, 1]
    assert_close(jax.vmap(run, (None, 0, 0))(params, xs, mask), run(params, xs, mask))
    whole = jax.grad(lambda p: jnp.square(run(p, xs, mask)).sum())(params)
    assert_close(jax.grad(loss)(params), whole, 1e-5, 1e-5)


@HERE
def test_mapped_gradients_of_sequences_join_the_batch():
    """Each element has its own gradient of its inputs and state, but none of the parameters."""
    cell = LSTM(3, 4)
    params, xs, mask = params_of(cell), inputs_of(cell, (2, 3)), mask_of((2, 3))
    state = state_of(cell, (2, 3))

    def mapped(kernel):
        def loss(xs, state, mask):
            ran = seqjax.unroll(cell, params, xs, state=state, mask=mask, implementation=kernel)
            return jnp.sin(ran.outputs).sum() + jnp.square(ran.state.c).sum()

        return jax.vmap(jax.grad(loss, (0, 1)))

    assert "scan" not in str(jax.make_jaxpr(mapped("native"))(xs, state, mask))
    assert targets(mapped("native"), xs, state, mask) == [1, 1]
    got, want = (jax.jit(mapped(kernel))(xs, state, mask) for kernel in ("native", "fused"))
    assert_close(got, want, 1e-5, 1e-5)


@pytest.mark.quick("axes0")
@HERE
@pytest.mark.parametrize("axes", [(None, 0), (0, 0)])
def test_an_empty_mapped_axis_gives_empty_results_and_no_gradient(axes):
    cell = GRU(3, 5)
    params = params_of(cell)
    if axes[0] == 0:
        params = jax.tree.map(lambda p: jnp.zeros((0, *p.shape), p.dtype), params)

    def run(params, xs):
        return seqjax.unroll(cell, params, xs, implementation="native").outputs

    def loss(params, xs):
        return jax.vmap(run, axes)(params, xs).sum()

    xs = jnp.zeros([0, 2, 7, 3])
    assert jax.vmap(run, axes)(params, xs).shape == (0, 2, 7, 5)
    for gradient in jax.tree.leaves(jax.grad(loss)(params, xs)):
        assert not gradient.any()
    of_inputs = jax.vmap(jax.grad(lambda xs, params: run(params, xs).sum()), axes[::-1])
    assert of_inputs(xs, params).shape == xs.shape


@pytest.mark.quick("axes2")
@HERE
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_mapped_gradients(axes):
    cell = LSTM(3, 4)
    params = params_of(cell) if axes[0] is None else draw_like(
        jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 2)), 1, 0.4
    )  # fmt: skip
    xs = inputs_of(cell, (2,) if axes[1] is None else (2, 3))

    def mapped(kernel):
        def loss(params, xs):
            ran = seqjax.unroll(cell, params, xs, implementation=kernel)
            return jnp.square(ran.outputs).sum()

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1)), axes))(params, xs)

    assert_close(mapped("native"), mapped("fused"), 1e-5, 1e-5)


@pytest.mark.quick()
@HERE
def test_a_gradient_by_recurrent_mask_or_zoneout_is_that_of_fused():
    cell = GRU(3, 4)
    params, xs, state = params_of(cell), inputs_of(cell, (2,)), state_of(cell, (2,))

    def gradient(kernel):
        def loss(mask, hold, params):
            ran = seqjax.unroll(
                cell, params, xs, state=state, recurrent_mask=mask, zoneout=hold,
                implementation=kernel,
            )  # fmt: skip
            return jnp.square(ran.outputs).sum()

        return jax.grad(loss, (0, 1, 2))(jnp.full((2, 4), 0.7), jnp.full((2, 6, 4), 0.2), params)

    assert_close(gradient("native"), gradient("fused"), 1e-5, 1e-5)


@pytest.mark.quick("2-128")
@HERE
@pytest.mark.parametrize(("batch", "size"), [(40, 64), (2, 128), (8, 400)])
def test_the_bits_do_not_depend_on_the_number_of_threads(batch, size):
    cell = LSTM(size, size)
    problem = problem_of(cell, batch, 30)
    try:
        _native.limit_threads(1)
        alone = jax.block_until_ready(gradients(native, cell, problem))
        _native.limit_threads(8)
        assert all(to_the_bit(gradients(native, cell, problem), alone) for _ in range(5))
    finally:
        _native.limit_threads(1 << 16)


@HERE
def test_many_callers_at_once():
    cell = LSTM(64, 64)
    problem = problem_of(cell, 2, 20, special=False)
    want = jax.block_until_ready(gradients(native, cell, problem))
    wrong = []

    def call():
        for _ in range(20):
            if not to_the_bit(gradients(native, cell, problem), want):
                wrong.append(1)

    callers = [threading.Thread(target=call, daemon=True) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not any(caller.is_alive() for caller in callers), "a call waits for ever"
    assert not wrong


@pytest.mark.quick("LSTM-5-7-*")
@HERE
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", CELLS[:4], ids=name_of)
def test_what_is_not_finite_goes_where_it_goes_in_fused(cell, value):
    problem = problem_of(cell, 5, special=False)
    problem = Problem(
        problem.params, problem.xs.at[2, 1, 0].set(value), problem.state, problem.state
    )
    (got, got_run), (want, want_run) = (gradients(k, cell, problem) for k in (native, fused))
    for a, b in zip(jax.tree.leaves(got_run), jax.tree.leaves(want_run), strict=True):
        assert (np.isnan(a) == np.isnan(b)).all()
        assert_close(jnp.nan_to_num(a), jnp.nan_to_num(b), 1e-5, 1e-5)
    others = np.arange(5) != 1  # no other sequence is touched
    assert np.isfinite(np.asarray(got[1])[:, others]).all()
    assert np.isnan(np.asarray(got[0].w_ih)).any() == np.isnan(np.asarray(want[0].w_ih)).any()


@HERE
def test_denormal_numbers_are_zero():
    cell = Elman(1, 1, activation="relu", use_bias=False)
    params = params_of(cell)._replace(w_ih=jnp.ones((1, 1)), w_hh=jnp.zeros((1, 1)))
    xs = np.full((1, 3, 1), 1e-39, np.float32)
    assert xs.any()
    run = lambda kernel: seqjax.unroll(cell, params, xs, implementation=kernel).outputs  # noqa: E731
    assert not np.asarray(run("native")).any() and not np.asarray(run("fused")).any()


@HERE
def test_tanh_and_sigmoid_are_accurate():
    z = np.linspace(-12, 12, 4001, dtype=np.float32)[:, None]
    cell = Elman(1, 1, use_bias=False)
    params = params_of(cell)._replace(w_ih=jnp.ones((1, 1)), w_hh=jnp.zeros((1, 1)))
    got = np.asarray(seqjax.unroll(cell, params, z[:, None], implementation="native").outputs)
    want = np.tanh(z.astype(np.float64))
    assert np.abs(got[:, 0] / np.where(z, want, 1) - (z != 0)).max() < 5e-7
    assert np.abs(got).max() <= 1


@HERE
def test_states_of_another_dtype_and_unknown_sizes_are_left_to_fused():
    cell = LSTM(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,))
    low = jax.tree.map(lambda s: s.astype(jnp.bfloat16), state_of(cell, (2,)))
    run = functools.partial(seqjax.unroll, cell, params, implementation="native")
    assert run(xs, state=low).state.h.dtype == jnp.bfloat16
    assert targets(lambda xs: run(xs, state=low).outputs, xs) == [0, 0]
    steps = jax.export.symbolic_shape("t")[0]
    shape = jax.ShapeDtypeStruct((2, steps, 3), jnp.float32)
    exported = jax.export.export(jax.jit(lambda xs: run(xs).outputs))(shape)
    assert_close(exported.call(xs), run(xs).outputs)


@HERE
def test_exported_programs_do_not_need_the_engine():
    cell = GRU(3, 4)
    params, xs = params_of(cell), inputs_of(cell, (2,))

    def loss(params):
        return seqjax.unroll(cell, params, xs, implementation="native").outputs.sum()

    gradient = jax.jit(jax.value_and_grad(loss))
    exported = jax.export.export(gradient)(params)
    assert "custom_call" not in exported.mlir_module() or "seqjax" not in exported.mlir_module()
    assert_close(exported.call(params), gradient(params), 1e-5, 1e-5)


@HERE
@pytest.mark.two_devices
@pytest.mark.parametrize("cell", CELLS[:3], ids=name_of)
def test_shard_map_stays_native(cell):
    params, xs, mask = params_of(cell), inputs_of(cell, (4,)), mask_of((4,))
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    every, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")

    def gradient(kernel):
        def part(params, xs, mask):
            ran = seqjax.unroll(cell, params, xs, mask=mask, implementation=kernel)
            return jax.lax.psum(jnp.square(ran.outputs).sum(), "batch")

        whole = jax.shard_map(part, mesh=mesh, in_specs=(every, divided, divided), out_specs=every)
        return jax.grad(whole, (0, 1))

    arguments = params, jnp.asarray(xs), jnp.asarray(mask)
    assert targets(gradient("native"), *arguments) == [1, 1]
    got, want = (jax.jit(gradient(kernel))(*arguments) for kernel in ("native", "fused"))
    assert_close(got, want, 1e-5, 1e-5)


@HERE
@pytest.mark.two_devices
@pytest.mark.parametrize("batch", [4, 3])
@pytest.mark.parametrize("cell", CELLS[:3], ids=name_of)
def test_a_batch_that_jit_divides_stays_native(cell, batch):
    params, xs, mask = params_of(cell), inputs_of(cell, (batch,)), mask_of((batch,))
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    every = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))

    def gradient(kernel):
        def loss(params, xs, mask):
            if batch % 2 == 0:
                xs = jax.lax.with_sharding_constraint(xs, rows)
            ran = seqjax.unroll(cell, params, xs, mask=mask, implementation=kernel)
            return jnp.square(ran.outputs).sum() + sum(map(jnp.sum, jax.tree.leaves(ran.state)))

        return jax.jit(jax.grad(loss, (0, 1)), in_shardings=every)

    arguments = params, jnp.asarray(xs), jnp.asarray(mask)
    run = jax.jit(
        lambda xs: tuple(seqjax.unroll(cell, params, xs, implementation="native")),
        in_shardings=rows if batch % 2 == 0 else every,
    )
    assert_close(run(xs), tuple(seqjax.unroll(cell, params, xs, implementation="scan")), 1e-4, 1e-4)
    assert_close(gradient("native")(*arguments), gradient("scan")(*arguments), 1e-4, 1e-5)
    program = gradient("native").lower(*arguments).compile().as_text()
    assert len(re.findall(r'custom_call_target="seqjax_\w+"', program)) == 2
    assert "all-gather" not in program.replace("all-gather-done", "") or batch % 2
    if batch % 2 == 0:
        assert "all-reduce" in program


@pytest.mark.parametrize(
    ("cell", "dtype", "message"),
    [
        (seqjax.cells.MGU(3, 4), np.float32, "'native' runs LSTM, GRU and Elman, got MGU"),
        (Elman(3, 4, activation="identity"), np.float32, "Elman with tanh or relu, got 'identity'"),
        (LSTM(3, 4), np.float16, "'native' runs float32, got xs of float16"),
    ],
)
def test_what_it_refuses(cell, dtype, message):
    with pytest.raises(ValueError, match=message):
        xs = inputs_of(cell, (2,)).astype(dtype)
        seqjax.unroll(cell, params_of(cell), xs, implementation="native")
    with pytest.raises(ValueError, match="'native' runs on CPUs, got the platform 'tpu'"):
        spec = jax.ShapeDtypeStruct((2, 6, 3), jnp.float32)
        seqjax.explain(LSTM(3, 4), spec, implementation="native", platform="tpu")


@HERE
@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 5, 3), (4, 0, 5, 3)])
def test_the_plan_of_an_empty_problem_says_that_fused_runs(shape):
    cell, xs = LSTM(3, 4), np.zeros(shape, np.float32)
    assert seqjax.explain(cell, xs, platform="cpu").kernel.name == "fused"
    with pytest.raises(ValueError, match="'native' runs at least one step of at least one sequ"):
        seqjax.unroll(cell, params_of(cell), xs, implementation="native")


def test_without_the_private_set_of_jax_a_program_for_several_devices_warns(monkeypatch):
    from jax._src import dispatch

    from seqjax.kernels import _engine_sharding

    monkeypatch.delattr(dispatch, "prim_requires_devices_during_lowering")
    spec = importlib.util.spec_from_file_location("a_copy", _engine_sharding.__file__)
    assert spec is not None and spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy.needs_devices(None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert copy.place(types.SimpleNamespace(num_devices=1)) == "one"
    with pytest.warns(RuntimeWarning, match="programs for several devices run the kernel 'fused'"):
        assert copy.place(types.SimpleNamespace(num_devices=2)) == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["SEQJAX_NATIVE=0", "compiler"])
def test_without_the_engine_the_library_works(missing, tmp_path):
    program = (
        "import jax.numpy as jnp, seqjax\n"
        "layer = seqjax.cells.LSTM(3, 4)\n"
        "spec = __import__('jax').ShapeDtypeStruct((2, 6, 3), jnp.float32)\n"
        "print(seqjax.explain(layer, spec).kernel)\n"
        "try:\n"
        "    seqjax.explain(layer, spec, implementation='native')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    if missing == "SEQJAX_NATIVE=0":
        environment["SEQJAX_NATIVE"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "kernel              fused" in done.stdout
    why = "SEQJAX_NATIVE=0 turns it off" if "=" in missing else "no C++ compiler was found"
    said = " ".join(done.stdout.split())
    assert f"native is absent: {why}" in said and f"'native' is absent: {why}" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
@pytest.mark.parametrize("variant", ["avx512", "avx2", "baseline"])
def test_the_sources_alone_under_sanitizers(variant, sanitizers, tmp_path):
    from seqjax._native import _build

    if sanitizers == "thread" and variant != _build.variants_here()[0]:
        pytest.skip("the threads do the same in all variants")
    if variant == "avx512" and _build.variants_here() != ("avx512",):
        pytest.skip("this processor has no AVX-512")
    if variant == "avx2" and _build.variants_here() == ("baseline",):
        pytest.skip("this processor has no AVX2")
    program = tmp_path / "selftest"
    command = [
        "c++", "-std=c++17", "-O1", "-g", "-ffp-contract=fast", "-Wno-psabi", "-pthread",
        f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", f"-DSEQJAX_VARIANT={variant}",
        *_build.VARIANTS[variant], "selftest.cc", "engine.cc", "team.cc", "-o", str(program),
    ]  # fmt: skip
    subprocess.run(command, cwd=_build.SOURCES, check=True, capture_output=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
