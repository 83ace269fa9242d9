"""The planner's table, and that its numbers hold: segments, memory, what is printed."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import _native
from seqjax.cells import CELLS, GRU, LSTM, Elman, MinGRU
from seqjax.kernels import Execution, make_plan, target
from seqjax.kernels._choices import CHOICES, choices_for
from tests.cases import params_of
from tests.test_custom_cells import RunningMean

FUSED = {"implementation": "fused"}
# cell, batch, steps, platform, what was asked for → kernel, inline, remat, number of segment levels
TABLE: list[tuple[Any, ...]] = [
    (LSTM(128, 128), (32,), 100, "cpu", FUSED, ("fused", False, "none", 0)),
    (LSTM(256, 256), (64,), 100, "cpu", FUSED, ("fused", True, "none", 0)),
    (LSTM(512, 512), (32,), 100, "cpu", FUSED, ("fused", True, "none", 0)),
    (LSTM(512, 512), (32,), 100, "gpu", {}, ("fused", False, "none", 0)),
    (LSTM(512, 512), (32,), 100, "tpu", {}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (1,), 256, "cpu", FUSED, ("fused", False, "none", 0)),
    (LSTM(128, 128), (4, 8), 100, "cpu", FUSED, ("fused", False, "none", 0)),
    (GRU(128, 128), (32,), 100, "cpu", FUSED, ("fused", False, "none", 0)),
    (Elman(128, 128), (32,), 100, "cpu", FUSED, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32,), 4096, "cpu", FUSED, ("fused", True, "chunk", 1)),
    (LSTM(128, 128), (32,), 4096, "gpu", {}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32,), 4096, "cpu", FUSED | {"wanted": "values"}, ("fused", True, "none", 0)),
    (LSTM(128, 128), (32,), 4096, "cpu", FUSED | {"wanted": "forward"}, ("fused", True, "none", 0)),
    (LSTM(128, 128), (32,), 4096, "cpu", FUSED | {"remat": "none"}, ("fused", True, "none", 0)),
    (LSTM(128, 128), (32,), 100, "cpu", FUSED | {"remat": "sqrt"}, ("fused", False, "sqrt", 1)),
    (LSTM(128, 128), (32,), 4096, "cpu", FUSED | {"remat": "log"}, ("fused", True, "log", 3)),
    (LSTM(16, 16), (2,), 8, "cpu", FUSED | {"remat": "log"}, ("fused", False, "log", 0)),
    (LSTM(16, 16), (2,), 0, "cpu", FUSED | {"remat": "sqrt"}, ("fused", False, "sqrt", 0)),
    (LSTM(128, 128), (32,), 400, "gpu", {"memory_budget": 2**30}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32,), 400, "gpu", {"memory_budget": 2**25}, ("fused", False, "chunk", 1)),
    (LSTM(128, 128), (32,), 65536, "gpu", {"memory_budget": 2**24}, ("fused", False, "log", 4)),
    (LSTM(128, 128), (32,), 100, "cpu", {"implementation": "scan"}, ("scan", False, "none", 0)),
    (LSTM(128, 128), (32,), 100, "gpu", {"implementation": "cudnn"}, ("cudnn", False, "none", 0)),
    (MinGRU(64, 64), (8,), 512, "cpu", {}, ("fused", False, "none", 0)),
    (MinGRU(64, 64), (8,), 512, "gpu", {}, ("associative", False, "none", 0)),
    (MinGRU(64, 64), (8,), 512, "tpu", {}, ("associative", False, "none", 0)),
    (MinGRU(64, 64), (8,), 8, "tpu", {}, ("fused", False, "none", 0)),
    (RunningMean(64, 64), (8,), 100, "cpu", {}, ("scan", False, "none", 0)),
]  # fmt: skip


# What "auto" takes on a CPU that has the native engine; where there is none, the same as before.
NATIVE = [
    (LSTM(128, 128), (32,), 100, "cpu", {}, ("native", False, "none", 0)),
    (GRU(512, 512), (4, 8), 100, "cpu", {}, ("native", False, "none", 0)),
    (Elman(128, 128, activation="relu"), (32,), 100, "cpu", {}, ("native", False, "none", 0)),
    (LSTM(128, 128), (32,), 4096, "cpu", {}, ("native", False, "chunk", 1)),
    (LSTM(128, 128), (32,), 4096, "cpu", {"remat": "log"}, ("native", False, "log", 3)),
    (Elman(128, 128, activation="sigmoid"), (32,), 100, "cpu", {}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32,), 100, "gpu", {}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32,), 0, "cpu", {}, ("fused", False, "none", 0)),
    (LSTM(128, 128), (32, 0), 100, "cpu", {}, ("fused", False, "none", 0)),
]  # fmt: skip
if _native.why_absent() is None:
    TABLE += NATIVE


@pytest.mark.parametrize(("cell", "batch", "steps", "platform", "asked", "want"), TABLE)
def test_table(cell, batch, steps, platform, asked, want):
    asking = Execution(**{name: value for name, value in asked.items() if name != "wanted"})
    wanted = asked.get("wanted", "gradient")
    plan = make_plan(cell, batch, steps, jnp.float32, asking, platform=platform, wanted=wanted)
    assert (plan.kernel.name, plan.inline, plan.remat, len(plan.segments)) == want
    for outer, inner in zip(plan.segments, plan.segments[1:], strict=False):
        assert outer % inner == 0
    assert len(plan.reasons) == 4 and all(plan.reasons)
    if asked.get("memory_budget"):
        assert 0 < plan.stored_bytes <= asked["memory_budget"]


@pytest.mark.parametrize(
    ("platform", "steps", "asked", "want"),
    [
        ("cpu", 100, None, 1),
        ("tpu", 100, None, 1),
        ("rocm", 100, None, 1),
        ("gpu", 100, None, 4),
        ("cuda", 100, None, 4),
        ("cuda", 8, None, 4),
        ("cuda", 7, None, 1),
        ("cuda", 100, 1, 1),
        ("cuda", 3, 16, 16),
        ("cpu", 100, 4, 4),
    ],
)
def test_steps_of_one_iteration(platform, steps, asked, want):
    plan = make_plan(
        GRU(8, 8), (2,), steps, jnp.float32, Execution(unroll=asked), platform=platform
    )
    assert plan.unroll == want


@pytest.mark.parametrize(
    ("platforms", "want"),
    [(("cuda",), 4), (("cpu",), 1), (("cpu", "cuda"), 1), (("cuda", "tpu"), 1)],
)
def test_a_program_for_several_platforms_runs_one_step_in_an_iteration(platforms, want):
    with target.made_for(platforms):
        assert make_plan(GRU(8, 8), (2,), 100, jnp.bfloat16).unroll == want


def test_every_choice_has_a_reason():
    """A number that the planner uses names what was measured, or says that nothing was."""
    for choices in CHOICES.values():
        for value, because in choices:
            assert because
            assert value is None or isinstance(value, (int, bool))
    for platform in ("cpu", "gpu", "cuda", "rocm", "tpu"):
        assert choices_for(platform) in CHOICES.values()
    assert choices_for("rocm") != choices_for("cuda")  # AMD's chips were not measured


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("name", CELLS)
def test_auto_finds_a_kernel_for_every_cell(name, platform):
    plan = make_plan(CELLS[name](4, 4), (2,), 100, jnp.dtype("bfloat16"), platform=platform)
    assert plan.kernel.name in (
        "scan",
        "fused",
        "associative",
        "native",
    )  # not cudnn: it has not been run


@pytest.mark.parametrize("steps", [12, 97, 100, 1000, 4096, 65536])
def test_segments_divide_the_steps_where_a_size_near_does(steps):
    plan = make_plan(GRU(8, 8), (2,), steps, jnp.float32, Execution(remat="sqrt"), platform="cpu")
    (size,) = plan.segments
    assert steps**0.5 / 2 - 1 <= size <= 2 * steps**0.5
    assert steps % size == 0 or steps == 97


def temporary_bytes(loss, *arguments, argnums=0):
    """Bytes that XLA sets aside for a gradient, inputs and outputs not counted."""
    compiled = jax.jit(jax.grad(loss, argnums)).lower(*arguments).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def temporaries(cell, batch, steps, **options):
    """Temporary bytes of the gradient of the sum of all outputs."""
    xs = jax.ShapeDtypeStruct((batch, steps, *cell.input_shape), jnp.float32)

    def loss(params, xs):
        return seqjax.unroll(cell, params, xs, **options).outputs.sum()

    return temporary_bytes(loss, params_of(cell), xs)


BUDGET = 2**20


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["lstm", "gru", "elman", "min_gru"])
def test_a_budget_is_kept(name):
    cell = CELLS[name](8, 32)
    outputs = 4 * 4 * 4000 * 32
    assert temporaries(cell, 4, 4000, remat="none") > 4 * BUDGET
    # The outputs, and their gradient, which the loss keeps, are not counted, nor their transposes.
    assert temporaries(cell, 4, 4000, memory_budget=BUDGET) < 1.5 * BUDGET + 4 * outputs


def final_state_temporaries(cell, steps, **options):
    """Temporary bytes of the gradient of the final state, which needs no outputs."""
    xs = jax.ShapeDtypeStruct((1, steps, *cell.input_shape), jnp.float32)

    def loss(params, xs):
        state = seqjax.unroll(cell, params, xs, **options).state
        return sum(jnp.real(leaf * leaf.conj()).sum() for leaf in jax.tree.leaves(state))

    return temporary_bytes(loss, params_of(cell), xs, argnums=(0, 1))


@pytest.mark.quick("rg_lru")
@pytest.mark.parametrize("name", ["lru", "s5", "rg_lru", "sru", "slstm"])
def test_the_gradient_of_65536_steps_keeps_a_budget(name):
    cell = CELLS[name](64, 64)
    assert final_state_temporaries(cell, 65536, remat="none") > 60 * BUDGET
    assert final_state_temporaries(cell, 65536, memory_budget=BUDGET) < 1.2 * BUDGET


@pytest.mark.quick()
@pytest.mark.parametrize("name", ["lru", "s5", "rg_lru"])
def test_a_parallel_scan_of_65536_steps_keeps_a_budget(name):
    options = {"implementation": "associative", "memory_budget": 8 * BUDGET}
    assert final_state_temporaries(CELLS[name](64, 64), 65536, **options) < 2 * 8 * BUDGET


@functools.cache
def kept(remat, steps):
    cell = LSTM(1, 32)
    outputs = 4 * steps * 32
    return temporaries(cell, 1, steps, remat=remat, implementation="fused") - 2 * outputs


@pytest.mark.quick()
def test_memory_grows_as_promised():
    assert kept("none", 4096) > 3.5 * kept("none", 1024)
    assert kept("sqrt", 4096) < 0.5 * kept("none", 4096)
    assert kept("log", 4096) < 0.5 * kept("none", 4096)


def test_budgets_that_cannot_be_kept():
    cell = LSTM(128, 128)
    xs = jax.ShapeDtypeStruct((32, 4096, 128), jnp.float32)
    with pytest.raises(ValueError, match=r"memory_budget: expected at least \d+ bytes.*got 1000"):
        seqjax.explain(cell, xs, memory_budget=1000)
    with pytest.raises(ValueError, match=r"remat='none'.*got 1000000"):
        seqjax.explain(cell, xs, memory_budget=1000000, remat="none")
    wrong: Any
    for wrong in (0, -1, 1.5, "1 GB", True):
        with pytest.raises((TypeError, ValueError), match="memory_budget: expected a positive int"):
            seqjax.explain(cell, xs, memory_budget=wrong)


def test_explain_prints_the_plan_that_unroll_follows(capsys, monkeypatch):
    cell = GRU(3, 5)
    xs = np.ones((2, 40, 3), np.float32)
    plan = seqjax.explain(cell, xs, remat="sqrt", implementation="scan")
    assert capsys.readouterr().out == f"{plan}\n"
    assert "kernel" in str(plan) and "scan was asked for" in str(plan)
    ran = []
    real = seqjax.kernels.run

    def spy(cell, problem, plan, **options):
        ran.append(plan)
        return real(cell, problem, plan, **options)

    # The package's attribute `unroll` is the function, not the module.
    monkeypatch.setitem(inspect.unwrap(seqjax.unroll).__globals__, "run", spy)
    seqjax.unroll(cell, params_of(cell), xs, remat="sqrt", implementation="scan")
    assert ran == [plan]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(wanted="hessian"),
            "wanted: expected one of values, gradient, forward; got 'hessian'",
        ),
        (dict(platform="abacus"), "platform: expected one of cpu"),
        (dict(implementation="fastest"), "implementation: expected one of auto"),
        (dict(remat="all"), "remat: expected one of auto, none, chunk, sqrt, log; got 'all'"),
        (dict(unroll=0), "unroll: expected a positive integer, got 0"),
        (dict(implementation="associative"), "'associative' runs cells with linear_terms, got GRU"),
        (
            dict(implementation="cudnn", platform="gpu"),
            r"'cudnn' runs seqjax\.cells\.LSTM, got GRU",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        seqjax.explain(GRU(3, 5), np.ones((2, 4, 3), np.float32), **options)
    with pytest.raises(TypeError, match="xs: expected floating-point inputs, got dtype int32"):
        seqjax.explain(GRU(3, 5), jax.ShapeDtypeStruct((2, 4, 3), jnp.int32))
    with pytest.raises(ValueError, match=r"xs: expected \[\.\.\., T, 3\]"):
        seqjax.explain(GRU(3, 5), np.ones((2, 4, 4), np.float32))


def test_explain_refuses_what_cudnn_does_not_run():
    spec = jax.ShapeDtypeStruct((2, 4, 3), jnp.bfloat16)
    with pytest.raises(ValueError, match="'cudnn' runs float32, got xs of bfloat16"):
        seqjax.explain(LSTM(3, 5), spec, implementation="cudnn", platform="gpu")
    xs = np.ones((2, 4, 3), np.float32)
    for platform in ("cpu", "tpu", "rocm"):
        with pytest.raises(ValueError, match=f"an NVIDIA GPU, got JAX's backend '{platform}'"):
            seqjax.explain(LSTM(3, 5), xs, implementation="cudnn", platform=platform)
    plan = seqjax.explain(LSTM(3, 5), xs, implementation="cudnn", platform="cuda")
    assert plan.kernel.name == "cudnn"


def test_sizes_that_are_not_known_when_a_program_is_exported():
    cell = LSTM(3, 5)
    b, t = jax.export.symbolic_shape("b, t")
    xs = jax.ShapeDtypeStruct((b, t, 3), jnp.float32)
    params = params_of(cell)
    exported = jax.export.export(jax.jit(lambda xs: seqjax.unroll(cell, params, xs).outputs))(xs)
    some = np.ones((2, 7, 3), np.float32)
    np.testing.assert_allclose(
        exported.call(some), seqjax.unroll(cell, params, some).outputs, atol=1e-6
    )
