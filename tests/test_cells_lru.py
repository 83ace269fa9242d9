"""The linear recurrent units: against the authors' code, and the properties of their papers.

The numbers come from `tests/golden/lru/`, which
`tests/golden/generate_lru.py` describes and makes; the authors' code is not needed here.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import nn, traces
from seqjax.cells import LRU, RGLRU, RGLRUParams
from seqjax.interop import minimal_lru, recurrentgemma
from seqjax.testing import check_cell
from tests.cases import assert_close, draw_like, params_of

GOLDEN = Path(__file__).resolve().parent / "golden" / "lru"
KERNELS = ["scan", "fused", "associative"]
CLOSE = dict(atol=1e-5, rtol=1e-5)


@functools.cache
def golden(name):
    """The arrays of a file, each with its derivative."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


RG_LRU = ("a_param", "a_gate_w", "a_gate_b", "input_gate_w", "input_gate_b")
LRU_NAMES = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")


def load_rg_lru(arrays):
    return recurrentgemma.load({name.replace("gate_", "gate."): a for name, a in arrays.items()})


def check_golden(cell, file, load, names, kernel, start=None, final=None):
    """Compare outputs, the final state and all gradients with a file, by the authors' arrays."""
    values, slopes = ({k: v[i] for k, v in file.items() if k != "segment_pos"} for i in (0, 1))

    def loss(arrays, xs, state):
        layer = load(arrays)
        assert layer.cell == cell
        params = layer.layers[0].forward.params
        ran = seqjax.unroll(cell, params, xs, state=state, implementation=kernel)
        total = (ran.outputs * slopes["y"]).sum()
        if final is not None:
            total += (ran.state * slopes[final]).sum()
        return total, ran

    state = cell.initial_state((len(values["x"]),)) if start is None else values[start]
    arrays, derivatives = ({name: of[name] for name in names} for of in (values, slopes))
    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, ran), found = run(arrays, values["x"], state)
    assert_close(ran.outputs, values["y"], **CLOSE)
    assert_close(found[:2], (derivatives, slopes["x"]), **CLOSE)
    if final is not None:
        assert_close((ran.state, found[2]), (values[final], slopes[start]), **CLOSE)


@pytest.mark.quick("associative")
@pytest.mark.parametrize("kernel", KERNELS)
def test_lru_equals_the_code_of_its_authors(kernel):
    cell = LRU(3, 5, output_size=3)
    check_golden(cell, golden("lru"), minimal_lru.load, LRU_NAMES, kernel)


@pytest.mark.quick("fused")
@pytest.mark.parametrize("kernel", KERNELS)
def test_rg_lru_equals_recurrentgemma_inside_of_a_sequence(kernel):
    cell, file = RGLRU(6, 6, num_heads=2), golden("rg_lru_inside")
    check_golden(cell, file, load_rg_lru, RG_LRU, kernel, start="cache", final="last_h")


def test_rg_lru_differs_from_recurrentgemma_at_first_steps_as_its_docstring_says():
    cell, file = RGLRU(6, 6, num_heads=2), golden("rg_lru_segments")
    params = load_rg_lru({name: file[name][0] for name in RG_LRU}).layers[0].forward.params

    @jax.jit
    def run(xs):
        """Return the outputs, the input after its gate, and the decays."""
        p = cell.prepare(params)
        gates: Any = cell.project(p, xs)
        a, _ = cell.linear_terms(p, gates)
        return seqjax.unroll(cell, params, xs).outputs, jax.nn.sigmoid(gates[1][0]) * xs[0], a

    steps = file["x"][0].shape[1]
    for row, positions in enumerate(file["segment_pos"]):
        starts = [*np.flatnonzero(positions == 0), len(positions)]
        for begin, end in itertools.pairwise(starts):
            xs, theirs = file["x"][0][row, begin:end], file["y"][0][row, begin:end]
            # Steps after the end change nothing, and all segments are one program.
            longer = np.pad(xs, ((0, steps - len(xs)), (0, 0)))
            ours, first, a = jax.device_get(run(longer))
            ours, a = ours[: len(xs)], a[: len(xs)].copy()
            assert_close(theirs[0], first, **CLOSE)
            start = 1 - np.sqrt(1 - a[0] ** 2)
            a[0] = 1.0
            difference = np.cumprod(a, axis=0) * start * first
            assert_close(ours + difference, theirs, **CLOSE)
            assert abs(difference).max() > 0.1


# Initialisation.


def eigenvalues_of(cell, seed=0):
    params = cell.init(jax.random.key(seed))
    return np.asarray(cell.prepare(params).decay), params


@pytest.mark.quick()
def test_eigenvalues_are_uniform_on_a_ring():
    eigenvalues, params = eigenvalues_of(
        LRU(3, 20_000, output_size=1, r_min=0.5, r_max=0.9, max_phase=1.0)
    )
    size, phase = np.abs(eigenvalues), np.angle(eigenvalues)
    assert 0.5 <= size.min() < 0.501 and 0.899 < size.max() <= 0.9 + 1e-6
    assert 0 < phase.min() < 1e-3 and 0.999 < phase.max() <= 1.0 + 1e-6
    # Uniform over an area: the squares of the radii are uniform.
    quarters, _ = np.histogram(size**2, 4, (0.25, 0.81))
    assert abs(quarters / 20_000 - 0.25).max() < 0.02
    assert abs(phase.mean() - 0.5) < 0.01
    assert_close(np.exp(params.gamma_log), np.sqrt(1 - size.astype(np.float64) ** 2), **CLOSE)


@pytest.mark.quick()
def test_gamma_keeps_the_variance_of_the_state():
    """With white noise as input, |s|² has the mean of |x B|², also for eigenvalues near 1."""
    cell = LRU(4, 64, r_min=0.95, r_max=0.99)
    params = cell.init(jax.random.key(0))
    xs = np.random.default_rng(1).normal(size=(100, 300, 4)).astype(np.float32)
    final = seqjax.unroll(cell, params, xs, implementation="associative").state
    driven = xs[:, -1] @ (np.asarray(params.b_re) + 1j * np.asarray(params.b_im))
    ratio = (abs(np.asarray(final)) ** 2).mean() / (abs(driven) ** 2).mean()
    assert abs(ratio - 1) < 0.1


@pytest.mark.quick("float32")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_extreme_rings_are_finite(dtype):
    cell = LRU(2, 5000, output_size=1)
    others = jax.tree.map(lambda a: np.asarray(a).astype(dtype), params_of(cell))
    finite = lambda tree: all(np.isfinite(np.float32(leaf)).all() for leaf in jax.tree.leaves(tree))  # noqa: E731

    @jax.jit
    def gradient(params):
        ones = jnp.ones([3, 2])
        return jax.grad(lambda params: seqjax.unroll(cell, params, ones).outputs.sum())(params)

    for r_min, r_max in [(0.0, 1.0), (1.0, 1.0), (0.0, 0.0)]:

        @jax.jit
        def ring(key, r_min=r_min, r_max=r_max):
            drawn = LRU(2, 5000, output_size=1, r_min=r_min, r_max=r_max).init(key, dtype)
            return {name: getattr(drawn, name) for name in ("nu_log", "theta_log", "gamma_log")}

        drawn = jax.device_get(ring(jax.random.key(0)))
        assert finite(drawn) and drawn["nu_log"].dtype == dtype
        assert finite(gradient(others._replace(**drawn)))


@pytest.mark.quick()
def test_decays_of_the_rg_lru_begin_in_their_range():
    cell = RGLRU(1, 1, min_decay=0.6, max_decay=0.8)
    decay = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 20_000)).decay
    smallest = np.exp(-8 * np.logaddexp(0, np.asarray(decay, np.float64)))
    assert 0.6 <= smallest.min() < 0.601 and 0.799 < smallest.max() <= 0.8001
    assert abs(np.quantile(smallest, [0.25, 0.5, 0.75]) - [0.65, 0.7, 0.75]).max() < 0.005
    default = RGLRU(64, 64).init(jax.random.key(0)).decay
    smallest = np.exp(-8 * np.logaddexp(0, np.asarray(default, np.float64)))
    assert 0.8999 < smallest.min() < 0.92 and 0.98 < smallest.max() < 0.9991


# Numbers at the limits.


@pytest.mark.quick()
def test_the_normaliser_is_exact_and_differentiable_near_one():
    """1 - a² in float32 would be 0 or a multiple of 6e-8; a saturated gate gives a = 1."""
    cell = RGLRU(1, 1, use_bias=False)
    ones: Any = np.ones((1, 1, 2), np.float32)
    xs: Any = np.array([[1.0], [2.0]], np.float32)
    params = RGLRUParams(None, ones, None, np.array([-20.0], np.float32))  # type: ignore[arg-type]

    @jax.jit
    def terms(params):
        p = cell.prepare(params)
        return cell.linear_terms(p, cell.project(p, xs))

    _, b = terms(params)
    z = np.array([[1.0], [2.0]])
    log_a = -8 * np.log1p(np.exp(-20.0)) / (1 + np.exp(-z))
    want = np.sqrt(-np.expm1(2 * log_a)) / (1 + np.exp(-z)) * z
    assert_close(b, want, 0, 1e-5)
    for kernel in KERNELS:

        def loss(params, xs, kernel=kernel):
            return seqjax.unroll(cell, params, xs, implementation=kernel).outputs.sum()

        run = jax.jit(jax.value_and_grad(loss, (0, 1)))
        for steep, decay in [(1.0, -200.0), (-1000.0, 0.0), (1000.0, 200.0)]:
            chosen: Any = {"w_g": steep * ones, "decay": np.array([decay], np.float32)}
            given = params._replace(**chosen)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(given, xs)))


LONG = [LRU(3, 4, r_min=0.9, r_max=0.99999), RGLRU(3, 4, max_decay=0.99999)]


@pytest.mark.quick()
@pytest.mark.parametrize("cell", LONG, ids=["lru", "rg_lru"])
def test_a_hundred_thousand_steps(cell):
    """Nothing overflows, in values and gradients, and the kernels agree."""
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (100_000, 3)).astype(jnp.bfloat16)

    @functools.partial(jax.jit, static_argnames="kernel")
    def run(xs, kernel):
        return tuple(seqjax.unroll(cell, params, xs, implementation=kernel))

    want = run(xs.astype(jnp.float32), "scan")
    scale = float(abs(want[0]).max())
    assert 0.5 < scale < 1000
    for kernel in ("fused", "associative"):
        assert_close(run(xs.astype(jnp.float32), kernel), want, 1e-3 * scale, 0)
    half = run(xs, "associative")
    assert_close(half, want, 3e-2 * scale, 0)
    for kernel in ("scan", "fused"):  # XLA's loops in bfloat16 take long on a CPU
        outputs, _ = run(xs[:2000], kernel)
        assert_close(outputs, half[0][:2000], 1e-2 * scale, 0)
    gradient = jax.jit(jax.grad(lambda p: seqjax.unroll(cell, p, want[0][:, :3]).outputs.sum()))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient(params)))


@pytest.mark.quick()
def test_a_slow_decay_is_not_rounded_away_in_bfloat16():
    """The state stays in float32: a bfloat16 state would not change by a factor of 0.999."""
    cell = RGLRU(1, 1)
    decay = np.log(np.expm1(-np.log(0.998) / 8))
    zeros = np.zeros((1, 1, 2), np.float32)
    params = RGLRUParams(None, zeros, zeros[0, 0], np.array([decay], np.float32))  # type: ignore[arg-type]
    xs = (np.arange(1000)[:, None] == 0).astype(jnp.bfloat16)
    assert cell.initial_state((), jnp.bfloat16).dtype == jnp.float32
    for kernel in KERNELS:
        outputs = np.asarray(seqjax.unroll(cell, params, xs, implementation=kernel).outputs)
        ratio = float(outputs[-1, 0]) / float(outputs[0, 0])
        np.testing.assert_allclose(ratio, 0.998 ** (0.5 * 999), rtol=0.02)


# Structure.


def test_heads_are_blocks_of_a_dense_matrix():
    heads, dense = RGLRU(3, 6, num_heads=3), RGLRU(3, 6)
    params = params_of(heads)
    w_g = np.zeros((1, 6, 12), np.float32)
    for n, block in enumerate(np.asarray(params.w_g)):
        part = slice(2 * n, 2 * n + 2)
        w_g[0, part, part] = block[:, :2]
        w_g[0, part, 6 + 2 * n : 6 + 2 * n + 2] = block[:, 2:]
    xs = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
    want = seqjax.unroll(dense, params._replace(w_g=jnp.asarray(w_g)), xs)
    assert_close(seqjax.unroll(heads, params, xs), want, **CLOSE)


@pytest.mark.quick("lru")
@pytest.mark.parametrize(
    "cell",
    [LRU(3, 4), LRU(3, 4, output_size=3), RGLRU(3, 4, num_heads=2)],
    ids=["lru", "lru-same", "rg_lru"],
)
def test_every_law(cell):
    check_cell(cell)


def test_the_output_of_the_lru_may_have_any_size():
    cell = LRU(3, 4, output_size=9)
    assert seqjax.unroll(cell, params_of(cell), np.ones((5, 3), np.float32)).outputs.shape == (5, 9)
    assert params_of(cell).d.shape == (3, 9) and params_of(LRU(3, 4, output_size=3)).d.shape == (3,)


def test_gradient_norms_over_time_are_those_of_the_decays():
    """The derivative of the last outputs' sum by s_t is λ^(T-1-t) C 1."""
    cell = LRU(3, 4)
    params = params_of(cell)
    xs = draw_like(jax.ShapeDtypeStruct((6, 3), np.float32), 0)
    found = traces.cell_gradient_norms(lambda ys: ys[-1].sum(), cell, params, xs)
    size = np.exp(-np.exp(np.asarray(params.nu_log, np.float64)))
    read = abs(np.asarray(params.c_re).sum(1) + 1j * np.asarray(params.c_im).sum(1))
    want = [np.linalg.norm(size ** (5 - t) * read) for t in range(6)]
    assert_close(found, np.array(want), **CLOSE)


@pytest.mark.quick()
@pytest.mark.parametrize("layer", [nn.LRU, nn.RGLRU])
def test_layers(layer):
    own: dict[str, Any] = {"r_min": 0.5} if layer is nn.LRU else {"num_heads": 2}
    made = layer(3, 4, **own, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    name = next(iter(own))
    assert getattr(made.cell, name) == own[name]
    xs = draw_like(jax.ShapeDtypeStruct((2, 7, 3), np.float32), 0)
    outputs, _ = made(xs, lengths=np.array([7, 4]))
    assert outputs.shape == (2, 7, 8) and not np.asarray(outputs)[1, 4:].any()
    with pytest.raises(TypeError, match="proj_size"):
        layer(3, 4, proj_size=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: LRU(3, 4, r_min=0.9, r_max=0.5), ValueError, r"r_min, r_max: .* got 0.9 and 0.5"),
        (lambda: LRU(3, 4, r_max=1.5), ValueError, r"expected 0 <= r_min <= r_max <= 1, got 0.0 "),
        (lambda: LRU(3, 4, r_min=float("nan")), ValueError, "r_min"),
        (
            lambda: seqjax.cells.make_cell("lru", 3, 4, r_min="0.9"),
            TypeError,
            "r_min: .* number, got '0.9'",
        ),
        (lambda: LRU(3, 4, max_phase=0), ValueError, r"max_phase: expected .*\(0, 2π\], got 0"),
        (lambda: LRU(3, 4, output_size=0), ValueError, "output_size: expected a positive integer"),
        (lambda: LRU(3, 4).init(jax.random.key(0), jnp.int32), TypeError, "dtype: expected"),
        (lambda: LRU(3, 4).init(0), TypeError, "key: expected a random key"),
        (lambda: RGLRU(3, 4, num_heads=3), ValueError, "divisor of hidden_size=4, got 3"),
        (lambda: RGLRU(3, 4, num_heads=0), ValueError, "num_heads: expected a positive integer"),
        (lambda: RGLRU(3, 4, max_decay=1.0), ValueError, r"max_decay < 1, got 0.9 and 1.0"),
        (lambda: RGLRU(3, 4, min_decay=0.0), ValueError, r"0 < min_decay .* got 0.0 and 0.999"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
