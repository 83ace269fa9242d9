"""Fixed points of a recurrent network under a constant input, and their stability."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.cells._base import Cell, compute_dtype
from seqjax.nn._recurrent import Recurrent
from seqjax.traces._maps import (
    StepMap,
    as_vector,
    leading_axes,
    map_of_cell,
    map_of_layer,
    one_input,
)
from seqjax.types import Array, PyTree

__all__ = ["FixedPoints", "cell_fixed_points", "fixed_points"]

LARGEST_CHUNK = 2**23
"""Maximum number of entries of the Jacobians that are in memory at the same time."""


class FixedPoints(NamedTuple):
    """The fixed points that `fixed_points` found, in ascending order of their spectral radius.

    The arrays are NumPy arrays. P is the number of points, and D is the number of real numbers in a
    state.

    Attributes:
      points: the fixed points, a pytree like a state, with a leading axis of size P.
      speeds: float `[P]`, the distance ‖F(s, x) - s‖ that one step moves each point.
      eigenvalues: complex `[P, D]`, the eigenvalues of the Jacobian ∂F/∂s at each point, in
        descending order of absolute value.
      stable: bool `[P]`, whether all eigenvalues of the point have an absolute value below 1.
      starts: int `[P]`, the number of starting states from which the search reached each point.
      unconverged: the number of starting states from which the search reached no fixed point.
    """

    points: PyTree
    speeds: np.ndarray
    eigenvalues: np.ndarray
    stable: np.ndarray
    starts: np.ndarray
    unconverged: int


def fixed_points(
    layer: Recurrent,
    states: PyTree,
    x: PyTree,
    *,
    tolerance: float = 1e-5,
    merge_distance: float = 1e-2,
    max_distance: float = 2.0,
    max_steps: int = 100,
) -> FixedPoints:
    """Return the states that a step of a layer does not change, for a constant input.

        F(s, x) = s

    In this formula, F is the step of the layer in evaluation mode, and s is the whole state, such
    as (h, c) of an LSTM. The layers of a stack have one common state. For each starting state, the
    Levenberg-Marquardt method minimises

        q(s) = ½ ‖F(s, x) - s‖²

    The method finds stable and unstable points. If the search ends at a minimum where q is not
    zero, far from all starting states, or not within `max_steps`, the starting state counts as
    `unconverged`. Points that no search reached are not found.

    Close to the point, the dynamics are those of the Jacobian ∂F/∂s. If all its eigenvalues have an
    absolute value below 1, the point is stable: the network returns to the point after a small
    change of its state. If some eigenvalues are above 1, the network leaves the point, in as many
    directions. In float32, an absolute value within about 1e-6 of 1 can count as either.

    Args:
      layer: a `seqjax.nn.Recurrent` with one direction, such as `nn.GRU`. For a model, pass the
        layer inside the model.
      states: the starting states, a pytree like `layer.initial_state()` with any leading axes. Good
        starting states are those that the network visits, such as
        `layer(xs, return_all_states=True).state`. The time of the search is proportional to the
        number of starting states, so pass some hundreds of them.
      x: the constant input, float `[I]`, for example zeros.
      tolerance: a search has reached a fixed point if the speed ‖F(s, x) - s‖ is at most
        `tolerance` times max(1, ‖s‖). With a larger tolerance, the result also contains slow
        points, at which q has a minimum that is not zero.
      merge_distance: points count as one point if their distance is at most `merge_distance` times
        the scale, which is the largest norm of the starting states or, if that is smaller, 1. Of a
        continuum of fixed points, such as a line, the result contains single points at about this
        distance.
      max_distance: points whose distance from the nearest starting state is more than
        `max_distance` times the scale are not in the result. Many of these points are rounding
        errors: where all update gates of a GRU are 1, no step changes the state. If the starting
        states are not close to the points, pass a larger number, such as `math.inf`.
      max_steps: the maximum number of steps of the search from each starting state.

    Returns:
      A `FixedPoints`. If no search has converged, its arrays have a leading axis of size 0.

    Raises:
      TypeError: if the layer is not a `Recurrent`, an argument is not a number or not a
        floating-point array, or arrays have no values, such as under `jax.jit`.
      ValueError: if the layer is bidirectional or computes in less than float32, shapes do not fit
        the layer, the states are empty or not finite, or an option is out of range.

    References:
      Sussillo, Barak (2013), Opening the black box: low-dimensional dynamics in high-dimensional
      recurrent neural networks (the function q); Fan, Yuan (2005), On the quadratic convergence of
      the Levenberg-Marquardt method without nonsingularity assumption (damping by the norm of the
      residual).

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> layer = nn.RNN(3, 5, rngs=nnx.Rngs(0))
      >>> layer.layers[0].forward.w_hh[...] *= 0.5
      >>> visited = layer(jnp.ones([2, 7, 3]), return_all_states=True).state
      >>> found = fixed_points(layer, visited, jnp.zeros(3))
      >>> found.points[0].shape, found.stable.tolist(), found.starts.tolist(), found.unconverged
      ((1, 5), [True], [14], 0)
    """
    return _found(
        map_of_layer(layer), states, x,
        tolerance=tolerance, merge_distance=merge_distance,
        max_distance=max_distance, max_steps=max_steps,
    )  # fmt: skip


def cell_fixed_points(
    cell: Cell[Any, Any],
    params: PyTree,
    states: PyTree,
    x: PyTree,
    *,
    tolerance: float = 1e-5,
    merge_distance: float = 1e-2,
    max_distance: float = 2.0,
    max_steps: int = 100,
) -> FixedPoints:
    """Return the states that a step of a cell does not change, for a constant input.

    Args:
      cell: the cell.
      params: the parameters of the cell.
      states: the starting states, a pytree like `cell.initial_state()` with any leading axes.
      x: the constant input, float `[I]`.
      tolerance: as for `fixed_points`.
      merge_distance: as for `fixed_points`.
      max_distance: as for `fixed_points`.
      max_steps: as for `fixed_points`.

    Returns:
      A `FixedPoints`, as from `fixed_points`.

    Raises:
      TypeError, ValueError: as `fixed_points`, or the parameters do not belong to the cell.

    Example:
      A GRU without weights halves its state at each step:

      >>> from seqjax.cells import GRU
      >>> cell = GRU(1, 2)
      >>> params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
      >>> found = cell_fixed_points(cell, params, jnp.eye(2), jnp.zeros(1))
      >>> found.points.round(4).tolist(), found.eigenvalues.real.tolist()
      ([[0.0, 0.0]], [[0.5, 0.5]])
    """
    return _found(
        map_of_cell(cell, params), states, x,
        tolerance=tolerance, merge_distance=merge_distance,
        max_distance=max_distance, max_steps=max_steps,
    )  # fmt: skip


def _found(
    step_map: StepMap,
    states: PyTree,
    x: PyTree,
    *,
    tolerance: float,
    merge_distance: float,
    max_distance: float,
    max_steps: int,
) -> FixedPoints:
    limits = {
        "tolerance": tolerance, "merge_distance": merge_distance, "max_distance": max_distance
    }  # fmt: skip
    for name, value in limits.items():
        checks.require_number(name, value, least=0, finite=False)
    max_steps = checks.require_integer("max_steps", max_steps)
    states, x = _checked(step_map, states, x)
    starts = np.asarray(jax.vmap(lambda state: as_vector(state)[0])(states))
    ends, speeds = map(np.asarray, _search(step_map.step, max_steps, step_map.params, x, states))
    scale = max(1.0, np.linalg.norm(starts, axis=1).max())
    reached = np.flatnonzero(speeds <= tolerance * np.maximum(np.linalg.norm(ends, axis=1), 1.0))
    chosen, counts = _merged(ends[reached], speeds[reached], merge_distance * scale)
    chosen = reached[chosen]
    distances = [np.linalg.norm(starts - ends[index], axis=1).min() for index in chosen]
    near = np.array(distances) <= max_distance * scale
    chosen, counts = chosen[near], counts[near]
    one = jax.tree.map(lambda a: a[0], states)
    values = np.zeros([len(chosen), ends.shape[1]], complex)
    for row, index in enumerate(chosen):
        jacobian = _jacobian(step_map.step, step_map.params, x, one, ends[index])
        found = np.linalg.eigvals(np.asarray(jacobian, np.float64))
        values[row] = found[np.argsort(-np.abs(found), kind="stable")]
    order = np.argsort(np.abs(values[:, 0]), kind="stable")
    points = jax.vmap(as_vector(one)[1])(jnp.asarray(ends[chosen[order]]))
    return FixedPoints(
        points=jax.tree.map(np.asarray, points),
        speeds=speeds[chosen[order]],
        eigenvalues=values[order],
        stable=np.abs(values[order, 0]) < 1.0,
        starts=counts[order],
        unconverged=len(ends) - int(counts.sum()),
    )


def _checked(step_map: StepMap, states: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
    """Return the states with one leading axis, and the input, or raise if they are not valid."""
    if checks.is_traced(step_map.params, states, x):
        raise TypeError(
            "states: expected arrays with values, got traced arrays; call this function outside "
            "of jax.jit"
        )
    x = one_input(step_map.cell, x)
    own = jax.eval_shape(lambda: step_map.initial_state((), compute_dtype(x)))
    lead = leading_axes("states", states, own)
    if 0 in lead:
        raise ValueError(f"states: expected at least one state, got leading axes {lead}")
    states = jax.tree.map(
        lambda a, spec: jnp.asarray(a, spec.dtype).reshape(-1, *spec.shape), states, own
    )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states)):
        raise ValueError("states: expected finite states, got NaN or inf")
    return states, x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(step: Any, max_steps: int, params: PyTree, x: PyTree, states: PyTree) -> Any:
    """Minimise q from each state; return the vectors `[N, D]` and their speeds `[N]`."""

    def from_one(state: PyTree) -> tuple[Array, Array]:
        start, back = as_vector(state)

        def residual(s: Array) -> tuple[Array, Array]:
            r = as_vector(step(params, x, back(s)))[0] - s
            return r, r

        return _levenberg_marquardt(residual, start, max_steps)

    number = jax.tree.leaves(states)[0].shape[0]
    entries = as_vector(jax.tree.map(lambda a: a[0], states))[0].size ** 2
    chunk = min(number, max(1, LARGEST_CHUNK // entries))
    return jax.lax.map(from_one, states, batch_size=chunk)


def _levenberg_marquardt(residual: Any, start: Array, max_steps: int) -> tuple[Array, Array]:
    """Minimise ½‖r(s)‖², where `residual` returns the pair (r, r); return s and ‖r(s)‖.

    A step d minimises ‖r + J d‖² + α‖r‖ ‖d‖². If s + d has a smaller ‖r‖, it replaces s and α is
    divided by 4. Otherwise, α is multiplied by 4. The loop ends if d is below the precision of s.
    """
    eps = jnp.finfo(start.dtype).eps
    jacobian = jax.jacfwd(residual, has_aux=True)
    identity = jnp.eye(start.size, dtype=start.dtype)

    def body(carry: Any) -> Any:
        (s, speed, r, j), alpha, steps, _ = carry
        damping = jnp.sqrt(alpha * jnp.linalg.norm(r)) * identity
        q, triangle = jnp.linalg.qr(jnp.concatenate([j, damping]))
        d = -jax.scipy.linalg.solve_triangular(triangle, q[: s.size].T @ r)
        j_new, r_new = jacobian(s + d)
        new = (s + d, jnp.linalg.norm(r_new), r_new, j_new)
        better = new[1] < speed
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, carry[0])
        # A NaN in d ends the loop as well.
        last = ~(jnp.linalg.norm(d) > eps * jnp.maximum(1.0, jnp.linalg.norm(s)))
        return best, alpha * jnp.where(better, 0.25, 4.0), steps + 1, last & (steps > 0)

    def going(carry: Any) -> Any:
        return ~carry[3] & (carry[2] <= max_steps)

    # The first iteration has d = 0 and evaluates the start, so that the step is compiled once.
    unknown = (start, jnp.array(jnp.inf, start.dtype), jnp.zeros_like(start), identity)
    first = (unknown, jnp.ones((), start.dtype), 0, jnp.array(False))
    s, speed, _, _ = jax.lax.while_loop(going, body, first)[0]
    return s, speed


def _merged(
    vectors: np.ndarray, speeds: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of distinct vectors `[P]`, and the number of vectors near each `[P]`.

    The slowest vector that is left represents all vectors within the distance from it.
    """
    left = np.argsort(speeds, kind="stable")
    chosen: list[int] = []
    counts: list[int] = []
    while left.size:
        near = np.linalg.norm(vectors[left] - vectors[left[0]], axis=1) <= distance
        near[0] = True
        chosen.append(left[0])
        counts.append(near.sum())
        left = left[~near]
    return np.array(chosen, int), np.array(counts, int)


@functools.partial(jax.jit, static_argnums=0)
def _jacobian(step: Any, params: PyTree, x: PyTree, one: PyTree, vector: Any) -> Array:
    """Return ∂F/∂s `[D, D]` at a vector, where `one` is any state."""
    back = as_vector(one)[1]
    jacobian: Array = jax.jacfwd(lambda s: as_vector(step(params, x, back(s)))[0])(vector)
    return jacobian
