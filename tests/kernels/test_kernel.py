"""Kernels as objects: the table, what the planner asks them, and one that replaces another."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax.kernels import KERNELS, Execution, Kernel, Spec, make_plan, scan
from tests.cases import CASES, assert_close, inputs_of, params_of

CELL = seqjax.cells.GRU(3, 4)
XS = inputs_of(CELL, (2,))
DOCS = Path(__file__).resolve().parents[2] / "docs"


def doubled(cell, problem, *, factor=2.0, **options):
    """`scan` whose outputs are multiplied, so that they tell which kernel ran."""
    outputs, state = scan(cell, problem, **options)
    return seqjax.Unrolled(factor * outputs, state)


def outputs_by(implementation):
    return seqjax.unroll(CELL, params_of(CELL), XS, implementation=implementation).outputs


def test_the_table_names_kernels_by_their_names():
    assert list(KERNELS) == [kernel.name for kernel in KERNELS.values()]
    assert len({hash(kernel) for kernel in KERNELS.values()}) == len(KERNELS)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_on_the_page_of_kernels(name):
    assert f"\n| `{name}` |" in (DOCS / "kernels.md").read_text()


def test_a_kernel_that_replaces_another_one_of_its_name_runs(monkeypatch):
    """Programs belong to kernels, not to names."""
    plain = outputs_by("scan")
    monkeypatch.setitem(KERNELS, "scan", Kernel("scan", doubled))
    assert_close(outputs_by("scan"), 2 * plain)
    monkeypatch.setitem(KERNELS, "scan", Kernel("scan", doubled, options=(("factor", 3.0),)))
    assert_close(outputs_by("scan"), 3 * plain)


def test_a_kernel_needs_no_place_in_the_table():
    assert_close(outputs_by(Kernel("mine", doubled)), 2 * outputs_by("scan"))
    layer = seqjax.nn.GRU(3, 4, rngs=nnx.Rngs(0))
    plain = layer(XS, implementation="scan").outputs
    assert_close(layer(XS, implementation=Kernel("mine", doubled)).outputs, 2 * plain)


def test_auto_asks_the_last_kernel_first_and_says_why(monkeypatch):
    asked = []

    def refuses(cell, spec):
        asked.append(spec)
        return "'mine' runs 10 steps at most" if spec.steps > 10 else None

    mine = Kernel("mine", doubled, refuses=refuses, takes=lambda cell, spec: "it is ours")
    monkeypatch.setitem(KERNELS, "mine", mine)
    plan = make_plan(CELL, (2,), 10, jnp.float32, platform="tpu")
    assert plan.kernel is mine and plan.reasons[0] == "mine: it is ours"
    assert asked[0] == Spec((2,), 10, jnp.float32, "tpu")
    assert make_plan(CELL, (2,), 11, jnp.float32, platform="tpu").kernel.name == "fused"
    with pytest.raises(ValueError, match=r"^implementation: 'mine' runs 10 steps at most$"):
        make_plan(CELL, (2,), 11, jnp.float32, Execution("mine"), platform="tpu")
    # Without a reason to take it, it runs on request only.
    quiet = dataclasses.replace(mine, takes=lambda cell, spec: None)
    monkeypatch.setitem(KERNELS, "mine", quiet)
    assert make_plan(CELL, (2,), 10, jnp.float32, platform="tpu").kernel.name == "fused"


def test_a_kernel_without_a_loop_is_not_asked_to_unroll_or_to_project():
    mine = Kernel("mine", doubled, loops=False, remat=False)
    plan = make_plan(
        seqjax.cells.LSTM(256, 256), (64,), 100, jnp.float32, Execution(mine), platform="cpu"
    )
    assert (plan.inline, plan.unroll, plan.segments) == (False, 1, ())
    with pytest.raises(ValueError, match="implementation='mine', which cannot run by segments"):
        make_plan(CELL, (2,), 9, jnp.float32, Execution(mine, remat="sqrt"), platform="cpu")


def test_no_kernel_takes_it():
    table = dict(KERNELS)
    KERNELS.clear()
    KERNELS["mine"] = Kernel("mine", doubled)
    try:
        with pytest.raises(ValueError, match="expected a kernel for GRU, none of mine takes it"):
            outputs_by("auto")
    finally:
        KERNELS.clear()
        KERNELS.update(table)  # in its order, which "auto" follows


@pytest.mark.parametrize(
    ("implementation", "error", "message"),
    [
        ("newton", ValueError, "expected one of auto, scan, fused, associative, cudnn"),
        (3, (TypeError, ValueError), "implementation: expected one of auto"),
        (doubled, (TypeError, ValueError), "implementation: expected one of auto"),
    ],
    ids=["unknown", "number", "function"],
)
def test_other_things_are_no_kernels(implementation, error, message):
    with pytest.raises(error, match=message):
        outputs_by(implementation)


def test_a_function_in_the_table_is_no_kernel(monkeypatch):
    monkeypatch.setitem(KERNELS, "mine", doubled)
    with pytest.raises(TypeError, match=r"KERNELS\['mine'\]: expected a seqjax.kernels.Kernel"):
        outputs_by("mine")


@pytest.mark.quick("*-lstm", "*-min_gru")
@pytest.mark.parametrize("name", ["lstm", "min_gru", "conv_lstm_1d"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=str)
def test_what_a_kernel_refuses_and_what_it_runs(kernel, name):
    """A kernel that refuses nothing runs; one that refuses raises with the same words."""
    cell = CASES[name].cell
    params, xs = params_of(cell), inputs_of(cell, (2,))
    spec = Spec((2,), 6, np.dtype(np.float32), seqjax.kernels.target.this_machine())
    reason = kernel.refuses(cell, spec)
    if reason is None:
        got = jax.jit(lambda xs: seqjax.unroll(cell, params, xs, implementation=kernel))(xs)
        want = seqjax.unroll(cell, params, xs, implementation="scan")
        assert_close(got, want, kernel.tolerance, kernel.tolerance)
    else:
        with pytest.raises(ValueError) as error:
            seqjax.unroll(cell, params, xs, implementation=kernel.name)
        assert str(error.value) == f"implementation: {reason}"
