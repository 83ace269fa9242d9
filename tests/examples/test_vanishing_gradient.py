"""The gradient's norm over time: measured rightly, and showing what the textbooks say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import vanishing_gradient
from seqjax import cells


@pytest.mark.slow
def test_norms_show_what_the_textbooks_describe(tmp_path, capsys):
    config = vanishing_gradient.Config(
        steps=40, hidden_size=8, input_size=4, batch_size=2, out=tmp_path
    )
    norms = vanishing_gradient.main(config)
    assert norms["Elman, tanh"][0] < 1e-2 * norms["Elman, tanh"][-1]
    assert norms["Elman, linear, matrix × 1.1"][0] > 10 * norms["Elman, linear, matrix × 1.1"][-1]
    relative = {name: flow[0] / flow[-1] for name, flow in norms.items()}
    assert relative["LSTM"] < relative["LSTM, forget bias 1"] < relative["LSTM, forget bias 4"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "gradient_flow.png", "gradient_flow_clipped.png",
    }  # fmt: skip
    assert "clipped" in capsys.readouterr().out


@pytest.mark.quick()
def test_measured_norms_equal_the_jacobians_of_a_linear_cell():
    cell = cells.Elman(4, 8, activation="identity")
    config = vanishing_gradient.Config(steps=5, hidden_size=8, input_size=4, batch_size=3)
    norms, _ = vanishing_gradient.measure(cell, config)
    k_params, k_xs = jax.random.split(jax.random.key(config.seed))
    params = cell.init(k_params)
    h = jnp.zeros([3, 8])
    for x_t in jax.random.normal(k_xs, (5, 3, 4)):
        h = x_t @ params.w_ih + h @ params.w_hh + params.b
    flow = h  # ∂loss/∂h_T = h_T; each step back multiplies by the transposed matrix
    for t in reversed(range(5)):
        np.testing.assert_allclose(norms[t], jnp.linalg.norm(flow, axis=1).mean(), rtol=1e-5)
        flow = flow @ params.w_hh.T
