"""The cell SRU: the authors' code, its two forms and the kernels that run them, its highway."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax.cells import SRU
from seqjax.interop import sru
from seqjax.kernels import make_plan
from seqjax.testing import check_cell
from tests.cases import assert_close, inputs_of, params_of
from tests.test_cells_s5 import golden


@pytest.mark.quick("sru_same-fused")
@pytest.mark.parametrize("kernel", ["scan", "fused", "associative"])
@pytest.mark.parametrize("name", ["sru_wide", "sru_same", "sru_linear"])
def test_equals_the_authors_code(name, kernel):
    config, values, derivatives = golden(name)
    cell = SRU(**config)
    if cell.use_peephole and kernel == "associative":
        pytest.skip("gates that read the state are computed step by step")
    alpha = (1 + 2 * np.exp(cell.highway_bias)) ** 0.5 if cell.rescale else 1.0
    names = ["weight", "bias"] + ["weight_c"] * cell.use_peephole
    constant = {"scale_x": np.array([alpha], np.float32), "weight_c": values["weight_c"]}

    def loss(arrays, xs, start):
        layer: Any = sru.load(
            {**constant, **arrays}, bidirectional=False, use_peephole=cell.use_peephole
        )
        assert (layer.cell.alpha, layer.cell.use_peephole) == (cell.alpha, cell.use_peephole)
        outputs, state = seqjax.unroll(
            layer.cell, layer.layers[0].forward.params, xs,
            state=start, time_major=True, implementation=kernel,
        )  # fmt: skip
        products = outputs * derivatives["output"], state * derivatives["c_n"]
        return sum(product.sum() for product in products), (outputs, state)

    run = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    arrays, slopes = ({name: of[name] for name in names} for of in (values, derivatives))
    (_, found), gradients = run(arrays, values["input"], values["c_0"])
    assert_close(found, (values["output"], values["c_n"]), 1e-5, 1e-5)
    assert_close(gradients, (slopes, derivatives["input"], derivatives["c_0"]), 1e-5, 1e-5)


@pytest.mark.quick()
@pytest.mark.parametrize("cell", [SRU(3, 4), SRU(4, 4, use_peephole=False)], ids=["wide", "linear"])
def test_every_law(cell):
    check_cell(cell)


def test_kernels_are_chosen_by_the_option():
    linear, gated = SRU(8, 8, use_peephole=False), SRU(8, 8)
    problem = (4,), 512, jnp.float32
    assert make_plan(linear, *problem, platform="gpu").kernel.name == "associative"
    for platform in ("cpu", "gpu"):
        plan = make_plan(gated, *problem, platform=platform)
        assert plan.kernel.name == "fused"
        assert "one product each" in plan.reasons.kernel
    assert (
        "faster than all steps in parallel"
        in make_plan(linear, *problem, platform="cpu").reasons.kernel
    )
    with pytest.raises(ValueError, match="without a recurrent input, got SRU"):
        seqjax.unroll(gated, params_of(gated), inputs_of(gated, (2,)), implementation="associative")


def test_zero_peepholes_are_no_peepholes():
    gated, linear = SRU(3, 4), SRU(3, 4, use_peephole=False)
    params = params_of(linear)
    zeros = params._replace(v=jnp.zeros(8))
    xs = inputs_of(gated, (2,))
    assert_close(seqjax.unroll(gated, zeros, xs), seqjax.unroll(linear, params, xs))


@pytest.mark.quick()
def test_the_initial_variance_of_the_output_is_about_that_of_the_input():
    """Without α, each layer would shrink its input."""
    xs = inputs_of(SRU(256, 256), (16,), 50)
    for bias in (0.0, -2.0):
        ratio = []
        for rescale in (True, False):
            cell = SRU(256, 256, rescale=rescale, highway_bias=bias, use_peephole=False)
            outputs = seqjax.unroll(cell, cell.init(jax.random.key(0)), xs).outputs
            ratio.append(float(outputs.var()) / float(xs.var()))
        assert 0.75 < ratio[0] < 1.25 and ratio[1] < ratio[0]


def test_highway_bias_is_added_to_what_was_drawn():
    plain = SRU(3, 4, bias_init="torch_uniform")
    moved = SRU(3, 4, bias_init="torch_uniform", highway_bias=-2.0)
    before, after = (np.asarray(cell.init(jax.random.key(0)).b) for cell in (plain, moved))
    assert_close(after - before, np.array([0.0] * 4 + [-2.0] * 4), 1e-6)


def test_scales_of_the_initial_parameters():
    params: Any = SRU(300, 200).init(jax.random.key(0))
    assert float(params.w_ih.var()) == pytest.approx(1 / 300, rel=0.05)
    assert float(params.v.var()) == pytest.approx(0.5, rel=0.2) and not params.b.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_peephole": 1}, "use_peephole: expected a bool, got 1"),
        ({"rescale": None}, "rescale: expected a bool"),
        ({"highway_bias": float("inf")}, "highway_bias: expected a finite number, got inf"),
        ({"highway_bias": "0"}, "highway_bias: expected a number"),
        ({"highway_bias": 1.0, "use_bias": False}, "use_bias: expected True with highway_bias"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SRU(3, 4, **options)
