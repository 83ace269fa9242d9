"""The online gradient of a window of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._arguments import check_cell, checked_params, floating_inputs, layout
from seqjax.cells._base import Cell, compute_dtype, prepared, widened
from seqjax.online._influence import own_recurrence, to_parts
from seqjax.online._state import OnlineState, checked_state
from seqjax.online._step import Timing, learned_step, reset_states
from seqjax.types import Array, PyTree, Shape

__all__ = ["value_and_grad"]


def value_and_grad(
    cell: Cell[Any, Any], loss_fn: Callable[[PyTree, PyTree, PyTree], Array]
) -> Callable[..., tuple[Array, tuple[PyTree, PyTree], OnlineState]]:
    r"""Return a function that computes the online gradient of a window.

        loss = Σ_t Σ_batch loss_fn(head, y_t, target_t)   over the real steps

    The function replaces `jax.value_and_grad` of `seqjax.unroll` and a loss. It runs the steps in
    one loop, which keeps the influence of one step and the sum of the gradients. The memory does
    not depend on the number of steps, apart from the inputs and targets themselves.

    The state that the function returns is the argument of the call for the next window. Unlike
    truncated backpropagation, the gradient then includes the paths from earlier windows. If the
    parameters do not change, the gradients of successive windows add up to the gradient of one
    long window. `seqjax.online.step` says when the gradient is exact.

    Args:
      cell: the cell.
      loss_fn: a function `(head, output, target)` that returns the losses of one step, floating-
        point `[...]`, one for each sequence of the batch. `head` has the parameters that the loss
        itself uses, such as those of a readout layer.

    Returns:
      A function `(params, xs, targets, state, *, lengths=None, mask=None, resets=None,
      reset_state=None, time_major=False)` that returns `(value, gradient, state)`.

      - params: a pair of the parameters of the cell and of `head`, which is any pytree. The
        gradient has the same structure.
      - xs: the inputs, floating-point `[..., T, I]`.
      - targets: a pytree of arrays `[..., T, …]`.
      - state: an `OnlineState`, from `initial_state` or from the previous window.
      - lengths, mask, resets, reset_state, time_major: see `seqjax.unroll`. A reset also sets the
        influence to 0, so no gradient passes it.

      Call the function in `jax.jit`: it is not compiled otherwise.

    Raises:
      TypeError: `cell` is not a cell, or `loss_fn` is not callable. The returned function raises
        `TypeError` or `ValueError` for arguments of a wrong type, dtype or shape.

    Example:
      >>> import seqjax
      >>> cell = seqjax.cells.MinGRU(3, 5)
      >>> def loss_fn(head, output, target):
      ...     return jnp.square(output @ head - target).sum(-1)
      >>> window = jax.jit(value_and_grad(cell, loss_fn))
      >>> params = cell.init(jax.random.key(0)), jnp.ones([5, 1])
      >>> xs, targets = jnp.ones([2, 7, 3]), jnp.ones([2, 7, 1])
      >>> state = seqjax.online.initial_state(cell, 2)
      >>> value, gradient, state = window(params, xs, targets, state)
      >>> def by_unroll(params):
      ...     outputs = seqjax.unroll(cell, params[0], xs).outputs
      ...     return loss_fn(params[1], outputs, targets).sum()
      >>> want = jax.grad(by_unroll)(params)
      >>> bool(jnp.allclose(gradient[0].w_ih, want[0].w_ih, rtol=1e-4, atol=1e-4))
      True
    """
    check_cell(cell)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn: expected a function, got {checks.brief(loss_fn)}")

    def compute(
        params: tuple[PyTree, PyTree],
        xs: PyTree,
        targets: PyTree,
        state: OnlineState,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        reset_state: PyTree | None = None,
        time_major: bool = False,
    ) -> tuple[Array, tuple[PyTree, PyTree], OnlineState]:
        xs = floating_inputs(cell, xs)
        time_major = checks.require_bool("time_major", time_major)
        batch_shape, steps = layout(cell, xs, time_major=time_major)
        step_shape = (steps, *batch_shape) if time_major else (*batch_shape, steps)
        dtype = compute_dtype(xs)
        state = checked_state(cell, state, batch_shape, dtype)
        reset_state = reset_states(cell, reset_state, state.state, batch_shape, dtype)
        real = sequences.step_mask(
            batch_shape, steps, lengths=lengths, mask=mask, time_major=time_major
        )
        if resets is not None:
            resets = sequences.require_mask("resets", resets, step_shape)
        targets = _checked_targets(targets, step_shape)
        if real is not None:  # NaN in padding would make gradients NaN
            xs, targets = jax.tree.map(lambda a: sequences.zero_masked(a, mask=real), (xs, targets))
        cell_params, head = _pair(cell, params)
        p, pull = jax.vjp(lambda params: to_parts(prepared(cell, params, dtype)), cell_params)
        own = own_recurrence(cell, p, dtype)

        def one_step(carry: Any, now: Any) -> Any:
            sums, state = carry
            x, target, is_real, reset = now

            def loss(p: PyTree, head: PyTree) -> tuple[Array, OnlineState]:
                timing = Timing(is_real, reset, reset_state)
                output, after = learned_step(cell, p, own, x, state, timing)
                losses = _checked_losses(loss_fn(head, output, target), batch_shape)
                return jnp.sum(losses, where=is_real), after

            (value, state), d = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(p, head)
            sums = jax.tree.map(lambda s, more: s + more.astype(s.dtype), sums, (value, d))
            return (sums, state), None

        start = jax.tree.map(jnp.zeros_like, widened((jnp.zeros((), dtype), (p, head))))
        per_step = (xs, targets, real, resets)
        if not time_major:
            per_step = sequences.to_time_major(per_step, len(batch_shape))
        (sums, state), _ = jax.lax.scan(one_step, (start, state), per_step)
        value, (d_p, d_head) = sums
        d_p, d_head = jax.tree.map(lambda d, a: d.astype(a.dtype), (d_p, d_head), (p, head))
        return value, (pull(d_p)[0], d_head), state

    return compute


def _pair(cell: Cell[Any, Any], params: Any) -> tuple[PyTree, PyTree]:
    """Check the pair of the parameters of the cell and those of the loss."""
    if type(params) is not tuple or len(params) != 2:  # the parameters of a cell may be two arrays
        raise TypeError(
            "params: expected a pair (params of the cell, head), got "
            f"{checks.brief(params)}; pass (params, ()) if the loss has no parameters"
        )
    head = jax.tree.map(
        lambda a: checks.require_array("head", a, jnp.floating, "floating-point arrays"), params[1]
    )
    return checked_params(cell, params[0]), head


def _checked_targets(targets: PyTree, step_shape: Shape) -> PyTree:
    """Return the targets as arrays, or raise if they do not begin with the batch and time axes."""
    targets = jax.tree.map(jnp.asarray, targets)
    for leaf in jax.tree.leaves(targets):
        if leaf.shape[: len(step_shape)] != step_shape:
            raise ValueError(
                f"targets: expected arrays that begin with the axes {step_shape} of xs, got "
                f"{leaf.shape}"
            )
    return targets


def _checked_losses(given: Any, batch_shape: Shape) -> Array:
    """Return the losses of a step, or raise if they are not one number per sequence."""
    losses = checks.require_array("loss_fn", given, jnp.floating, "floating-point losses")
    if losses.shape != batch_shape:
        raise ValueError(
            f"loss_fn: expected losses of the batch shape {batch_shape}, got {losses.shape}"
        )
    return losses
