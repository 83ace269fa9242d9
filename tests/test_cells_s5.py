"""The cell S5: the authors' code, its initialisation, its discretisations, and long sequences."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import traces
from seqjax.cells import S5
from seqjax.interop import s5
from seqjax.testing import check_cell
from tests.cases import assert_close, inputs_of, params_of

GOLDEN = Path(__file__).resolve().parent / "golden" / "s5_sru"
KERNELS = ("scan", "fused", "associative")


def golden(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Configuration, values and derivatives of a file of `golden/generate_s5_sru.py`."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("config")))
    return config, *({key: pair[i] for key, pair in arrays.items()} for i in (0, 1))


@pytest.mark.quick("s5_zoh-fused")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["s5_zoh", "s5_bilinear", "s5_no_pairs"])
def test_equals_the_authors_code(name, kernel):
    config, values, derivatives = golden(name)
    cell = S5(**config)
    told = {key: value for key, value in config.items() if not key.endswith("_size")}

    def loss(arrays, xs):
        layer = s5.load(arrays, **{"clip_eigenvalues": True, **told})
        assert layer.cell == cell
        params = layer.layers[0].forward.params
        outputs = seqjax.unroll(cell, params, xs, implementation=kernel).outputs
        return (outputs * derivatives["output"]).sum(), outputs

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    names = ("Lambda_re", "Lambda_im", "log_step", "B", "C", "D")
    (_, outputs), (of_arrays, of_xs) = run({k: values[k] for k in names}, values["input"])
    assert_close(outputs, values["output"], 1e-5, 1e-5)
    assert_close(of_arrays, {key: derivatives[key] for key in names}, 1e-5, 1e-5)
    assert_close(of_xs, derivatives["input"], 1e-5, 1e-5)


def initial_eigenvalues(cell):
    """The eigenvalues alone: no program draws the other parameters."""

    @jax.jit
    def run(key):
        params = cell.init(key)
        return params.lambda_re, params.lambda_im

    return run(jax.random.key(3))


@pytest.mark.parametrize("name", ["s5_zoh", "s5_no_pairs"])
def test_the_initial_eigenvalues_are_those_of_the_authors_code(name):
    config, real, imaginary = golden(name)
    lambda_re, lambda_im = initial_eigenvalues(S5(**config))
    assert_close(lambda_re, real["initial_eigenvalues"], 1e-5)
    assert_close(lambda_im, imaginary["initial_eigenvalues"], 1e-5, 1e-5)


def normal_part(size):
    """HiPPO-LegS and its term of rank one; Gu et al. (2022), eq. 2 and theorem 1."""
    matrix = np.zeros((size, size))
    for n in range(size):
        for k in range(size):
            root = np.sqrt((2 * n + 1) * (2 * k + 1))
            matrix[n, k] = (-root if n > k else -(n + 1) if n == k else 0) + root / 2
    return matrix


@pytest.mark.parametrize(
    ("conj_pairs", "num_blocks"), [(True, 1), (True, 3), (False, 1), (False, 2)]
)
def test_the_initial_eigenvalues_are_those_of_hippo(conj_pairs, num_blocks):
    cell = S5(2, 6, conj_pairs=conj_pairs, num_blocks=num_blocks)
    lambda_re, lambda_im = initial_eigenvalues(cell)
    full = np.linalg.eigvals(normal_part((12 if conj_pairs else 6) // num_blocks))
    kept = np.tile(full[full.imag < 0] if conj_pairs else full, num_blocks)
    np.testing.assert_allclose(kept.real, -0.5, atol=1e-9)
    assert_close(lambda_re, np.full(6, -0.5), 0)
    assert_close(np.sort(lambda_im), np.sort(kept.imag), 1e-5, 1e-5)


def test_the_initial_input_matrix_is_that_of_a_real_system():
    """B = V* B₀ with a real B₀: conjugate eigenvalues have conjugate rows, except for a phase."""
    p = jax.device_get(S5(3, 8, conj_pairs=False).init(jax.random.key(0)))
    b = np.asarray(p.b_re + 1j * p.b_im)[:, np.argsort(p.lambda_im)]
    ratio = b[1:] / b[:1]
    np.testing.assert_allclose(ratio, ratio[:, ::-1].conj(), rtol=1e-4)
    assert np.abs(ratio.imag).max() > 0.1


@pytest.mark.quick()
def test_scales_of_the_initial_parameters():
    cell = S5(64, 128, output_size=32, num_blocks=4, dt_min=0.01, dt_max=0.5)
    p = jax.device_get(cell.init(jax.random.key(0)))
    size = 2 * 128
    # |V* B₀|² summed over all states is |B₀|²; half of the states are kept.
    assert (p.b_re**2 + p.b_im**2).sum() == pytest.approx(64 / 2, rel=0.1)
    assert (p.c_re**2 + p.c_im**2).mean() == pytest.approx(2 / size, rel=0.1)
    step = np.exp(p.log_step)
    assert 0.01 <= step.min() < 0.015 and 0.35 < step.max() <= 0.5
    assert np.median(step) == pytest.approx((0.01 * 0.5) ** 0.5, rel=0.5)
    assert p.d.shape == (64, 32) and float(p.d.std()) == pytest.approx(1 / 8, rel=0.1)
    same = jax.jit(lambda key: S5(64, 4).init(key).d)(jax.random.key(0))
    assert np.std(same) == pytest.approx(1, rel=0.4)


def drawn(cell, **replaced):
    """Random parameters of which some are replaced, as NumPy arrays."""
    arrays = {name: np.asarray(value, np.float32) for name, value in replaced.items()}
    return jax.device_get(params_of(cell))._replace(**arrays)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_a_constant_input_ends_in_the_steady_state_of_continuous_time(discretization):
    """Both discretisations have the fixed point -B u / Λ, for all step sizes."""
    cell = S5(2, 4, discretization=discretization)
    params = drawn(cell, lambda_re=np.full(4, -0.5), log_step=np.log([0.01, 0.1, 0.5, 1]))
    x = np.array([0.5, -1.0], np.float32)
    state = seqjax.unroll(cell, params, np.tile(x, (4000, 1))).state
    driven = x @ (params.b_re + 1j * params.b_im)
    assert_close(state, -driven / (params.lambda_re + 1j * params.lambda_im), 1e-5, 1e-4)


def test_zero_order_hold_is_exact_for_small_steps():
    """(exp(ΔΛ) - 1) / Λ loses no digits to cancellation in float32."""
    cell = S5(1, 2)
    params = drawn(
        cell, lambda_re=[-0.5, -0.5], lambda_im=[0.3, 0.0], log_step=np.log([1e-5, 1e-6]),
        b_re=np.ones((1, 2)), b_im=np.zeros((1, 2)),
    )  # fmt: skip
    ones = np.ones(1, np.float32)
    _, state = jax.jit(lambda params: cell.step(params, ones, cell.initial_state()))(params)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    eigenvalues = wide.lambda_re + 1j * wide.lambda_im
    step = np.exp(wide.log_step)
    want = step * (1 + step * eigenvalues / 2)  # the next term of the series is below 1e-10
    np.testing.assert_allclose(np.asarray(state), want, rtol=1e-5)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_clipped_eigenvalues_are_stable_for_all_parameters(discretization):
    cell = S5(1, 5, discretization=discretization)
    params = drawn(cell, lambda_re=[3.0, 0.0, -1e-5, -1e-4, -2.0], log_step=np.zeros(5))
    free = S5(1, 5, discretization=discretization, clip_eigenvalues=False)
    run = jax.jit(lambda params: [some.prepare(params).decay for some in (cell, free)])
    clipped, unclipped = map(np.asarray, run(params))
    assert (np.abs(clipped) < 1).all() and np.abs(unclipped[0]) > 1
    assert_close(unclipped[-2:], clipped[-2:], 0, 0)


@pytest.mark.quick()
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_long_sequences(discretization, dtype):
    """100,000 steps at the edge of stability, where clipping acts: the kernels agree.

    The phase of a state that hardly decays is rounded at each step, or in each power of its factor.
    """
    cell = S5(1, 2, discretization=discretization)
    chosen: Any = {
        "lambda_re": np.array([1.0, -0.5], np.float32),
        "log_step": np.log(np.full(2, 0.1, np.float32)),
    }
    params = cell.init(jax.random.key(0))._replace(**chosen)
    xs = np.random.default_rng(0).normal(size=(100_000, 1)).astype(dtype)
    ran = [seqjax.unroll(cell, params, xs, implementation=kernel) for kernel in KERNELS]
    for outputs, state in ran:
        assert outputs.dtype == dtype and state.dtype == jnp.complex64
        assert np.isfinite(np.float32(outputs)).all() and np.isfinite(state).all()
    scale = float(np.abs(np.float32(ran[0].outputs)).max())
    tolerance = {jnp.float32: 2e-3, jnp.bfloat16: 1e-2}[dtype] * max(scale, 1.0)
    for other in ran[1:]:
        assert_close(other.outputs, ran[0].outputs, tolerance)


@pytest.mark.quick()
@pytest.mark.parametrize(
    "options", [{"num_blocks": 2}, {"discretization": "bilinear", "conj_pairs": False}]
)
def test_every_law(options):
    check_cell(S5(3, 4, **options))


def test_sizes():
    cell = S5(3, 4)
    assert cell.output_shape == (3,) and cell == S5(3, 4, output_size=3)
    assert cell.stacked_on(3) == cell
    assert S5(1, 1).init(jax.random.key(0)).lambda_im.shape == (1,)
    assert initial_eigenvalues(S5(1, 1, conj_pairs=False))[1].tolist() == [0.0]
    many = jax.eval_shape(jax.vmap(cell.init), jax.random.split(jax.random.key(0), 3))
    assert many.b_re.shape == (3, 3, 4)


def test_half_precision_keeps_slow_states():
    """In bfloat16 a decay of 0.9999 would be rounded to 1."""
    cell = S5(1, 2)
    params = drawn(cell, lambda_re=np.full(2, -0.5), log_step=np.full(2, -8.0))
    xs = inputs_of(cell, (), 2000)
    exact = seqjax.unroll(cell, params, xs).outputs
    half = seqjax.unroll(cell, params, xs.astype(jnp.bfloat16)).outputs
    assert_close(half, exact, 0.05, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 3}, "num_blocks: expected a divisor of hidden_size=4, got 3"),
        ({"num_blocks": 0}, "num_blocks: expected a positive integer, got 0"),
        ({"discretization": "euler"}, "discretization: expected one of zoh, bilinear; got 'euler'"),
        ({"dt_min": 0.0}, "dt_min, dt_max: expected 0 < dt_min <= dt_max"),
        ({"dt_min": 0.2}, "dt_min, dt_max: expected .*, got 0.2 and 0.1"),
        ({"dt_max": float("nan")}, "dt_max: expected a finite number, got nan"),
        ({"conj_pairs": 1}, "conj_pairs: expected a bool, got 1"),
        ({"clip_eigenvalues": None}, "clip_eigenvalues: expected a bool"),
        ({"output_size": 0}, "output_size: expected a positive integer, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        S5(3, 4, **options)


def test_gradient_norms_of_a_complex_state():
    """In a diagonal linear system, ∂y_T/∂s_t is C times a power of the decays."""
    cell, steps = S5(3, 4), 6
    params = drawn(cell, lambda_re=[-0.5, -1.0, -0.2, -0.7], log_step=[-2.0, -1.0, -3.0, -0.5])
    norms = traces.cell_gradient_norms(
        lambda outputs: outputs[-1].sum(), cell, params, inputs_of(cell, (), steps)
    )
    read = np.abs((params.c_re + 1j * params.c_im).sum(1))
    decay = np.abs(jax.jit(cell.prepare)(params).decay)
    want = [2 * np.linalg.norm(decay ** (steps - 1 - t) * read) for t in range(steps)]
    assert_close(norms, np.array(want), 1e-5, 1e-5)
