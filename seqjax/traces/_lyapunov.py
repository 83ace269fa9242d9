"""Lyapunov exponents: the growth rates of small differences between states."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _arguments as arguments
from seqjax import checks
from seqjax.cells._base import Cell, compute_dtype, widened
from seqjax.nn._recurrent import Recurrent
from seqjax.traces._maps import StepMap, as_vector, leading_axes, map_of_cell, map_of_layer
from seqjax.types import Array, PyTree

__all__ = ["cell_lyapunov_exponents", "lyapunov_exponents"]


def lyapunov_exponents(
    layer: Recurrent,
    xs: PyTree,
    *,
    count: int = 1,
    discard: int = 0,
    initial_state: PyTree | None = None,
) -> Array:
    """Return the largest Lyapunov exponents of a layer along sequences of inputs.

        J_t Q_{t-1} = Q_t R_t                J_t = ∂s_t/∂s_{t-1}, Q_t orthonormal, R_t triangular
        λ_i = mean_t ln |R_t[i, i]|

    An exponent is the mean growth per step, in nats, of a small difference between two states that
    get the same inputs. If the largest exponent is negative, the network forgets its initial state.
    If it is positive, small differences grow, and the dynamics are chaotic if the states stay
    bounded. The Jacobians are those of the whole state, such as (h, c) of an LSTM; the layers of a
    stack have one common state. The function multiplies `count` tangent vectors by the Jacobians,
    and never computes a whole Jacobian.

    The exponents are estimates, whose errors decrease with the number of steps. To estimate the
    error, compare the values of several sequences. Exponents of about -15 and below in float32
    (-35 in float64) are dominated by rounding.

    Args:
      layer: a `seqjax.nn.Recurrent` with one direction. The step is that of evaluation mode.
      xs: inputs `[..., T, I]` (`[T, ..., I]` for time-major layers). All steps are real steps: the
        function has no `lengths`, `mask` or `resets`, since a reset ends the growth of differences.
      count: the number of exponents, K, at most the number of real numbers in a state.
      discard: the number of steps at the start that are not part of the mean. During these steps,
        the states approach the attractor, and the tangent vectors turn to the directions of the
        largest growth.
      initial_state: the state before the first step, as for a call of the layer, but without
        entries that are None. The default is the layer's initial state.

    Returns:
      Float `[..., K]`, the exponents in nats per step in descending order, up to the error of the
      estimates. An exponent is -inf if a Jacobian is singular.

    Raises:
      TypeError: if the layer is not a `Recurrent`, xs is not floating-point, or an option is not an
        integer.
      ValueError: if the layer is bidirectional or computes in less than float32, shapes do not fit
        the layer, xs or the state has NaN or inf (outside tracing), `count` is above the size of
        the state, or `discard` is not below T.

    References:
      Benettin, Galgani, Giorgilli, Strelcyn (1980), Lyapunov characteristic exponents for smooth
      dynamical systems; Shimada, Nagashima (1979), A numerical approach to ergodic problem of
      dissipative dynamical systems.

    Example:
      A linear layer with the recurrent matrix diag(2, ½):

      >>> from flax import nnx
      >>> from seqjax import nn
      >>> layer = nn.RNN(1, 2, activation="identity", rngs=nnx.Rngs(0))
      >>> layer.layers[0].forward.w_hh[...] = jnp.diag(jnp.array([2.0, 0.5]))
      >>> exponents = lyapunov_exponents(layer, jnp.zeros([100, 1]), count=2, discard=50)
      >>> jnp.exp(exponents).round(4).tolist()
      [2.0, 0.5]
    """
    return _estimated(map_of_layer(layer), xs, count, discard, "initial_state", initial_state)


def cell_lyapunov_exponents(
    cell: Cell[Any, Any],
    params: PyTree,
    xs: PyTree,
    *,
    count: int = 1,
    discard: int = 0,
    state: PyTree | None = None,
) -> Array:
    """Return the largest Lyapunov exponents of a cell along sequences of inputs.

    Args:
      cell: the cell.
      params: the parameters of the cell.
      xs: inputs `[..., T, I]`.
      count: as for `lyapunov_exponents`.
      discard: as for `lyapunov_exponents`.
      state: the state before the first step. The default is the cell's initial state.

    Returns:
      Float `[..., count]`, as from `lyapunov_exponents`.

    Raises:
      TypeError, ValueError: as `lyapunov_exponents`, or the parameters do not belong to the cell.

    Example:
      A GRU without weights halves its state at each step:

      >>> from seqjax.cells import GRU
      >>> cell = GRU(1, 2)
      >>> params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
      >>> jnp.exp(cell_lyapunov_exponents(cell, params, jnp.zeros([9, 1]))).round(4).tolist()
      [0.5]
    """
    return _estimated(map_of_cell(cell, params), xs, count, discard, "state", state)


def _estimated(
    step_map: StepMap, xs: PyTree, count: int, discard: int, name: str, state: PyTree | None
) -> Array:
    cell, time_major = step_map.cell, step_map.time_major
    xs = widened(arguments.floating_inputs(cell, xs))
    batch_shape, steps = arguments.layout(cell, xs, time_major=time_major)
    count = checks.require_integer("count", count)
    discard = checks.require_integer("discard", discard, least=0)
    if discard >= steps:
        raise ValueError(f"discard: expected fewer than the {steps} steps of xs, got {discard}")
    dtype = compute_dtype(xs)
    own = jax.eval_shape(lambda: step_map.initial_state((), dtype))
    given = step_map.initial_state(batch_shape, dtype) if state is None else state
    lead = leading_axes(name, given, own)
    if lead not in (batch_shape, ()):
        raise ValueError(f"{name}: expected the batch shape of xs, {batch_shape}, got {lead}")
    for argument, tree in (("xs", xs), (name, given)):
        leaves = [] if checks.is_traced(tree) else jax.tree.leaves(tree)
        if not all(np.isfinite(leaf).all() for leaf in leaves):
            raise ValueError(f"{argument}: expected finite numbers, got NaN or inf")
    size = jax.eval_shape(lambda one: as_vector(one)[0], own).size
    if count > size:
        raise ValueError(f"count: expected at most {size}, the size of the state, got {count}")

    def with_axes(leaf: Any, spec: Any) -> Array:
        whole: Array = jnp.broadcast_to(jnp.asarray(leaf, spec.dtype), (*batch_shape, *spec.shape))
        flat: Array = whole.reshape(-1, *spec.shape)
        return flat

    def as_rows(x: Array) -> Array:
        x = jnp.moveaxis(x, 0 if time_major else len(batch_shape), 0)
        return x.reshape(steps, -1, *x.shape[1 + len(batch_shape) :])

    exponents: Array = _exponents(
        step_map.step, count, discard, step_map.params,
        jax.tree.map(as_rows, xs), jax.tree.map(with_axes, given, own),
    )  # fmt: skip
    return exponents.reshape(*batch_shape, count)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _exponents(
    step: Any, count: int, discard: int, params: PyTree, xs: PyTree, states: PyTree
) -> Array:
    """Return the exponents `[N, K]` for inputs `[T, N, I]` and states `[N, ...]`."""

    def one(xs: PyTree, state: PyTree) -> Array:
        start, back = as_vector(state)
        # Drawn vectors have a part in each direction; unit vectors may lack the fastest.
        drawn = jax.random.normal(jax.random.key(0), (start.size, count), start.dtype)
        frame = jnp.linalg.qr(drawn)[0]

        def advance(carry: tuple[Array, Array], x: PyTree) -> Any:
            s, frame = carry
            s, push = jax.linearize(lambda s: as_vector(step(params, x, back(s)))[0], s)
            frame, triangle = jnp.linalg.qr(jax.vmap(push, in_axes=1, out_axes=1)(frame))
            return (s, frame), jnp.log(jnp.abs(jnp.diagonal(triangle)))

        rates: Array = jax.lax.scan(advance, (start, frame), xs)[1]
        return rates[discard:].mean(axis=0)

    exponents: Array = jax.vmap(one, in_axes=(1, 0))(xs, states)
    return exponents
