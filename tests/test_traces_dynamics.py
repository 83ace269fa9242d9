"""Fixed points and Lyapunov exponents: maps with known answers, NumPy and finite differences."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn, traces
from seqjax.cells import Cell, LSTMState
from tests import references

I, H = 3, 4
X = jnp.array([0.4, -0.7, 0.2])


@dataclasses.dataclass(frozen=True)
class Map(Cell[Any, Any]):
    """A map of the state alone, as a cell without parameters. `rule` maps [..., H] to [..., H]."""

    rule: Callable[[Any], Any]

    def init(self, key: Any, dtype: Any = jnp.float32) -> Any:
        return ()

    def initial_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> Any:
        return jnp.full((*batch_shape, self.hidden_size), 0.1, dtype)

    def project(self, p: Any, x: Any) -> Any:
        return (x,)

    def update(self, p: Any, gates: Any, state: Any) -> Any:
        return self.rule(state)


def logistic(r: float) -> Map:
    return Map(1, 1, lambda s: r * s * (1 - s))


@pytest.fixture(scope="module")
def henon() -> Map:
    return Map(1, 2, lambda s: jnp.stack([1 - 1.4 * s[..., 0] ** 2 + s[..., 1], 0.3 * s[..., 0]]))


def drawn(specs: Any, scale: float = 0.7) -> Any:
    """Parameters whose biases are not zero."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray(scale * rng.normal(size=a.shape), a.dtype), specs)


def made(name: str, **options: Any) -> tuple[Any, Any]:
    cell: Any = seqjax.CELLS[name](I, H, **options)
    return cell, drawn(cell.param_specs())


def finite_jacobian(step: Callable[[Any], Any], state: np.ndarray) -> np.ndarray:
    """The Jacobian of a NumPy map of vectors, by central differences in float64."""
    nudges = 1e-6 * np.eye(len(state))
    return np.stack([(step(state + n) - step(state - n)) / 2e-6 for n in nudges], axis=1)


def descending(values: np.ndarray) -> np.ndarray:
    """Absolute values of eigenvalues, in descending order."""
    return np.sort(np.abs(values))[::-1]


# Fixed points


def test_fixed_points_of_the_logistic_map():
    starts = np.linspace(0.05, 0.95, 20, dtype=np.float32)[:, None]
    found = traces.cell_fixed_points(logistic(2.5), (), starts.reshape(4, 5, 1), jnp.zeros(1))
    np.testing.assert_allclose(found.points, [[0.6], [0.0]], atol=1e-6)
    np.testing.assert_allclose(found.eigenvalues, [[-0.5], [2.5]], atol=1e-5)  # 2 - r and r
    assert found.stable.tolist() == [True, False]
    assert found.starts.sum() == 20 and (found.starts > 0).all() and found.unconverged == 0
    assert (found.speeds < 1e-6).all()


def test_fixed_points_of_the_henon_map(henon):
    starts = np.random.default_rng(0).uniform(-1.5, 1.5, [50, 2]).astype(np.float32)
    found = traces.cell_fixed_points(henon, (), starts, jnp.zeros(1))
    x = (-0.7 + np.array([1, -1]) * np.sqrt(0.7**2 + 4 * 1.4)) / 2.8
    np.testing.assert_allclose(found.points, np.stack([x, 0.3 * x], axis=1), atol=1e-5)
    root = np.sqrt((1.4 * x) ** 2 + 0.3)
    expected = np.stack([-1.4 * x - np.sign(x) * root, -1.4 * x + np.sign(x) * root], axis=1)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-4)
    assert not found.stable.any() and found.starts.sum() + found.unconverged == 50


def test_fixed_point_of_a_linear_contraction():
    """One point, (1 - A)⁻¹ c; Newton's method needs few steps if the Jacobian is right."""
    a, c = np.array([[0.2, 0.9], [-0.5, 0.4]]), np.array([1.0, -2.0])
    cell = Map(1, 2, lambda s: s @ jnp.asarray(a.T, s.dtype) + jnp.asarray(c, s.dtype))
    starts = 10 * np.random.default_rng(0).normal(size=[30, 2]).astype(np.float32)
    found = traces.cell_fixed_points(cell, (), starts, jnp.zeros(1), max_steps=15)
    np.testing.assert_allclose(found.points, [np.linalg.solve(np.eye(2) - a, c)], rtol=1e-5)
    np.testing.assert_allclose(np.poly(found.eigenvalues[0]), np.poly(a), atol=1e-6)
    assert found.starts.tolist() == [30] and found.unconverged == 0 and found.stable.all()


def test_searches_that_do_not_converge_are_counted():
    """The map has no fixed point for s < 1: there, its slowest point is s = 0, with speed 0.1."""
    cell = Map(1, 1, lambda s: jnp.where(s < 1, s + 0.1 + s**2, 0.5 * s + 2))
    starts = jnp.array([[-0.3], [0.2], [4.2], [3.9], [4.0]])
    found = traces.cell_fixed_points(cell, (), starts, jnp.zeros(1))
    np.testing.assert_allclose(found.points, [[4.0]], rtol=1e-6)
    assert (found.starts.tolist(), found.unconverged) == ([3], 2)
    slow = traces.cell_fixed_points(cell, (), starts, jnp.zeros(1), tolerance=0.2)
    np.testing.assert_allclose(slow.points, [[4.0], [0.0]], atol=0.02)
    np.testing.assert_allclose(slow.speeds, [0.0, 0.1], atol=1e-3)
    assert (slow.starts.tolist(), slow.unconverged) == ([3, 2], 0)
    none = traces.cell_fixed_points(cell, (), starts[:2], jnp.zeros(1))
    assert none.points.shape == (0, 1) and none.eigenvalues.shape == (0, 1)
    assert none.starts.shape == none.stable.shape == (0,) and none.unconverged == 2


def test_points_merge_within_a_share_of_the_scale():
    """All states (s, 0) of this map are fixed points, and a search ends at its start."""
    cell = Map(1, 2, lambda s: s * jnp.array([1.0, 0.5], s.dtype))
    starts = np.array([[0.0, 0.0], [0.01, 0.0], [1.0, 0.0], [1.08, 0.0], [10.0, 0.0]], np.float32)
    for distance, counts in ((0.0, [1] * 5), (0.005, [2, 1, 1, 1]), (0.02, [2, 2, 1])):
        found = traces.cell_fixed_points(cell, (), starts, jnp.zeros(1), merge_distance=distance)
        assert sorted(found.starts, reverse=True) == counts
        assert found.unconverged == 0


def test_points_far_from_all_starting_states_are_left_out():
    """The fixed points of this map are 5 and 0; from 3 and 4 the search goes to 5."""
    cell = Map(1, 1, lambda s: s - 0.5 * s * (5 - s))
    starts = jnp.array([[-0.4], [0.3], [3.0], [4.0]])
    for distance, points in ((0.3, [5.0, 0.0]), (0.2, [0.0])):
        found = traces.cell_fixed_points(cell, (), starts, jnp.zeros(1), max_distance=distance)
        np.testing.assert_allclose(np.sort(found.points[:, 0])[::-1], points, atol=1e-5)
        assert (found.starts == 2).all() and found.unconverged == 4 - 2 * len(points)


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["lstm", "gru", "mgu", "peephole_lstm"])
def test_fixed_points_of_a_cell_are_those_of_numpy(name):
    cell, params = made(name)
    rng = np.random.default_rng(2)
    structure: Any = jax.tree.structure(cell.initial_state())
    states = jax.tree.map(
        lambda a: rng.normal(size=(40, *a.shape)).astype(np.float32), cell.initial_state()
    )
    found = traces.cell_fixed_points(cell, params, states, X)
    assert len(found.speeds) >= 1 and found.starts.sum() + found.unconverged == 40

    def step(vector):
        state = jax.tree.unflatten(structure, np.split(vector, structure.num_leaves))
        state, _ = references.REFERENCES[name](cell, params, np.asarray(X, np.float64), state)
        return np.concatenate(jax.tree.leaves(state))

    points = np.concatenate(jax.tree.leaves(found.points), axis=1).astype(np.float64)
    for point, values, stable in zip(points, found.eigenvalues, found.stable, strict=True):
        np.testing.assert_allclose(step(point), point, atol=1e-5)
        expected = np.linalg.eigvals(finite_jacobian(step, point))
        np.testing.assert_allclose(np.poly(values), np.poly(expected), atol=1e-3)
        np.testing.assert_allclose(np.abs(values), descending(values))
        assert stable == (np.abs(expected).max() < 1)
        after = point + 1e-3
        for _ in range(2000):
            after = step(after)
        assert stable == np.allclose(after, point, atol=1e-4)
    assert (np.diff(np.abs(found.eigenvalues[:, 0])) >= 0).all()


@pytest.mark.quick()
def test_fixed_points_of_a_complex_state():
    """The LRU is linear: one fixed point b / (1 - a), and the eigenvalues are those of a."""
    cell = cells.LRU(I, H)
    params = cell.init(jax.random.key(0))
    states = drawn(jax.ShapeDtypeStruct((6, H), jnp.complex64))
    found = traces.cell_fixed_points(cell, params, states, X, max_distance=np.inf)
    p = cell.prepare(params)
    a, b = (np.asarray(v) for v in cell.linear_terms(p, cell.project(p, X)))
    np.testing.assert_allclose(found.points[0], b / (1 - a), rtol=1e-3)
    assert found.starts.tolist() == [6] and found.points.dtype == np.complex64
    expected = descending(np.concatenate([a, a.conj()]))
    np.testing.assert_allclose(np.abs(found.eigenvalues[0]), expected, rtol=1e-5)
    exponents = traces.cell_lyapunov_exponents(cell, params, jnp.zeros([300, I]), count=2 * H)
    np.testing.assert_allclose(exponents, np.log(expected), atol=0.05)


@pytest.mark.quick()
def test_fixed_points_of_a_stack_are_those_of_its_cells():
    layer = nn.GRU(I, H, num_layers=2, time_major=True, dropout=0.5, rngs=nnx.Rngs(0))
    for part in layer.layers:
        part.forward.b[...] = jnp.linspace(-1, 1, 3 * H)
    visited = layer(jnp.ones([40, 2, I]), return_all_states=True, deterministic=True).state
    found = traces.fixed_points(layer, visited, X)
    assert found.starts.tolist() == [80] and found.stable.all() and found.eigenvalues.shape[1] == 8
    (first, p_1), (second, p_2) = (
        (part.forward.cell, part.forward.params) for part in layer.layers
    )

    def step(vector):
        one, _ = references.gru(first, p_1, np.asarray(X, np.float64), vector[:H])
        return np.concatenate([one, references.gru(second, p_2, one, vector[H:])[0]])

    point = np.concatenate(found.points, axis=1)[0].astype(np.float64)
    np.testing.assert_allclose(step(point), point, atol=1e-5)
    expected = np.linalg.eigvals(finite_jacobian(step, point))
    np.testing.assert_allclose(np.poly(found.eigenvalues[0]), np.poly(expected), atol=1e-4)


# Lyapunov exponents


def test_exponents_of_the_logistic_map(x64):
    """For r = 4 the exponent is ln 2 for almost all initial states."""
    state = jnp.linspace(0.1, 0.4, 4)[:, None]
    found = traces.cell_lyapunov_exponents(logistic(4.0), (), jnp.zeros([4, 2000, 1]), state=state)
    assert found.shape == (4, 1) and found.dtype == jnp.float64
    np.testing.assert_allclose(found, np.log(2), atol=0.02)


def test_exponents_of_the_henon_map(x64, henon):
    """The determinant of each Jacobian is -0.3; the largest exponent is 0.4192 (many authors)."""
    found = traces.cell_lyapunov_exponents(henon, (), jnp.zeros([20_000, 1]), count=2, discard=100)
    np.testing.assert_allclose(found[0], 0.4192, atol=0.004)
    np.testing.assert_allclose(found.sum(), np.log(0.3), rtol=1e-9)


def test_exponents_of_a_linear_map():
    """Logarithms of the eigenvalues; `discard` leaves out the turning of the tangent vectors."""
    a = np.array([[1.5, 0.7, -0.2], [0.0, 0.8, 0.4], [0.0, 0.0, -0.3]])
    cell = Map(1, 3, lambda s: s @ jnp.asarray(a.T, s.dtype))
    found = traces.cell_lyapunov_exponents(cell, (), jnp.zeros([90, 1]), count=3, discard=60)
    np.testing.assert_allclose(found, np.log([1.5, 0.8, 0.3]), atol=1e-5)
    early = traces.cell_lyapunov_exponents(cell, (), jnp.zeros([90, 1]), count=3)
    assert np.abs(early - found).max() > 1e-3


def numpy_exponents(step: Callable[[Any, Any], Any], state: Any, xs: Any, discard: int) -> Any:
    """All exponents of a NumPy map of vectors, by QR and whole Jacobians in float64."""
    frame = np.linalg.qr(np.random.default_rng(5).normal(size=[len(state)] * 2))[0]
    rates = []
    for x in xs.astype(np.float64):
        frame, triangle = np.linalg.qr(finite_jacobian(lambda s: step(x, s), state) @ frame)  # noqa: B023
        state = step(x, state)
        rates.append(np.log(np.abs(np.diag(triangle))))
    return np.mean(rates[discard:], axis=0)


@pytest.mark.quick()
def test_exponents_of_a_cell_with_inputs_are_those_of_numpy():
    cell, params = made("lstm")
    rng = np.random.default_rng(3)
    xs, start = rng.normal(size=[2, 200, I]).astype(np.float32), rng.normal(size=[2, 2, H])
    state = LSTMState(*jnp.asarray(start, jnp.float32).swapaxes(0, 1))
    found = traces.cell_lyapunov_exponents(cell, params, xs, count=4, discard=100, state=state)

    def step(x, vector):
        (h, c), _ = references.REFERENCES["lstm"](cell, params, x, tuple(np.split(vector, 2)))
        return np.concatenate([h, c])

    assert found.shape == (2, 4)
    for row in range(2):
        expected = numpy_exponents(step, start[row].reshape(-1), xs[row], 100)
        np.testing.assert_allclose(found[row], expected[:4], atol=2e-3)


@pytest.mark.quick()
def test_exponents_of_a_layer_are_those_of_its_cell():
    layer = nn.GRU(I, H, time_major=True, zoneout=0.2, rngs=nnx.Rngs(0))
    layer.layers[0].forward.b[...] = jnp.linspace(-1, 1, 3 * H)
    xs = np.random.default_rng(4).normal(size=[240, 2, I]).astype(np.float32)
    start = (jnp.ones(H),)
    found = jax.jit(
        lambda xs: traces.lyapunov_exponents(layer, xs, count=4, discard=120, initial_state=start)
    )(xs)
    params = layer.layers[0].forward.params

    def step(x, h):
        return 0.2 * h + 0.8 * references.gru(layer.cell, params, x, h)[0]

    for row in range(2):
        expected = numpy_exponents(step, np.ones(H), xs[:, row], 120)
        np.testing.assert_allclose(found[row].sum(), expected.sum(), atol=1e-4)
        np.testing.assert_allclose(found[row, 0], expected[0], atol=1e-3)


def test_a_singular_jacobian_has_an_infinite_exponent():
    cell = Map(1, 2, lambda s: s * jnp.array([0.5, 0.0], s.dtype))
    found = traces.cell_lyapunov_exponents(cell, (), jnp.zeros([8, 1]), count=2, discard=4)
    np.testing.assert_allclose(found, [np.log(0.5), -np.inf], atol=1e-5)


# Errors


class Counter(Map):
    """A cell whose state counts steps."""

    def initial_state(self, batch_shape: Any = (), dtype: Any = jnp.float32) -> Any:
        return jnp.zeros((*batch_shape, self.hidden_size), jnp.int32)


def test_errors_of_fixed_points():
    cell, params = made("gru")
    layer = nn.GRU(I, H, rngs=nnx.Rngs(0))
    states = jnp.zeros([5, H])
    for states_, x, options, message in (
        (states, None, {}, r"x: expected the input of one step .*shape \(3,\), got None"),
        (states, jnp.zeros([5, I]), {}, r"x: .* without batch axes, of shape \(3,\), got \(5, 3\)"),
        (jnp.zeros([5, H + 1]), X, {}, r"states: expected states as \(4,\) with .*got \(5, 5\)"),
        ((states,), X, {}, r"states: expected states as \(4,\) with leading axes, got"),
        (states[:0], X, {}, r"states: expected at least one state, got leading axes \(0,\)"),
        (states.at[2].set(jnp.nan), X, {}, "states: expected finite states, got NaN or inf"),
        (states, X, {"tolerance": -1}, "tolerance: expected a number of at least 0, got -1"),
        (states, X, {"merge_distance": np.nan}, "merge_distance: expected a number, got nan"),
        (states, X, {"max_distance": -0.5}, "max_distance: expected a number of at least 0"),
        (states, X, {"max_steps": 0}, "max_steps: expected a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            traces.cell_fixed_points(cell, params, states_, x, **options)
    with pytest.raises(ValueError, match=r"states: .* a cell whose state has int32"):
        traces.cell_fixed_points(Counter(1, 1, jnp.sin), (), jnp.zeros([1, 1]), jnp.zeros(1))
    with pytest.raises(ValueError, match=r"states: .* \(\(4,\),\) with leading axes, got \(5, 4\)"):
        traces.fixed_points(layer, states, X)
    with pytest.raises(TypeError, match=r"states: expected arrays with values.*jax\.jit"):
        jax.jit(lambda s: traces.cell_fixed_points(cell, params, s, X))(states)
    with pytest.raises(TypeError, match="x: expected floating-point inputs"):
        traces.cell_fixed_points(cell, params, states, jnp.zeros(I, int))


def test_exponents_of_numbers_that_are_not_finite():
    cell = seqjax.cells.Elman(1, 3, activation="relu")
    params, xs = cell.init(jax.random.key(0)), jnp.ones([9, 1])
    for wrong in (jnp.nan, jnp.inf):
        with pytest.raises(ValueError, match="xs: expected finite numbers, got NaN or inf"):
            traces.cell_lyapunov_exponents(cell, params, xs.at[4].set(wrong))
        with pytest.raises(ValueError, match="state: expected finite numbers, got NaN or inf"):
            traces.cell_lyapunov_exponents(cell, params, xs, state=jnp.full(3, wrong))
    found = jax.jit(lambda xs: traces.cell_lyapunov_exponents(cell, params, xs))(xs)
    np.testing.assert_allclose(found, traces.cell_lyapunov_exponents(cell, params, xs), atol=1e-5)


def test_layers_that_have_no_map():
    xs = jnp.zeros([9, I])
    cell, params = made("gru")
    both = nn.GRU(I, H, bidirectional=True, rngs=nnx.Rngs(0))
    coarse = nn.GRU(I, H, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    model: Any = nnx.Linear(I, H, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="layer: expected one direction, got a bidirectional"):
        traces.lyapunov_exponents(both, xs)
    with pytest.raises(ValueError, match="layer: expected one direction, got a bidirectional"):
        traces.fixed_points(both, both.initial_state(), X)
    with pytest.raises(ValueError, match=r"layer: .* float32 or wider, got dtype=bfloat16"):
        traces.lyapunov_exponents(coarse, xs)
    with pytest.raises(TypeError, match=r"layer: expected a layer such as .*GRU, got Linear"):
        traces.fixed_points(model, jnp.zeros([2, H]), X)
    with pytest.raises(TypeError, match=r"cell: expected a cell such as .*GRU"):
        traces.cell_lyapunov_exponents(both, params, xs)  # type: ignore[arg-type]
    for options, message in (
        ({"count": 5}, "count: expected at most 4, the size of the state, got 5"),
        ({"count": 0}, "count: expected a positive integer, got 0"),
        ({"discard": 9}, "discard: expected fewer than the 9 steps of xs, got 9"),
        ({"state": jnp.zeros([2, H])}, r"state: expected the batch shape of xs, \(\), got \(2,\)"),
        ({"state": (jnp.zeros(H),)}, r"state: expected states as \(4,\) with leading axes"),
    ):
        with pytest.raises(ValueError, match=message):
            traces.cell_lyapunov_exponents(cell, params, xs, **options)
