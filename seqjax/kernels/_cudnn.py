"""The kernel that calls NVIDIA's own LSTM: cuDNN, through `jax.experimental.rnn`.

cuDNN runs right-padded sequences of one step or more, forward. The kernel brings any problem into
that form: it moves each sequence's real steps to the front, in the order of processing, and puts
the outputs back where the steps were. So any mask and `reverse` are exact.
"""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from seqjax.cells._base import Cell, compute_dtype
from seqjax.cells._lstm import LSTM, LSTMParams, LSTMState
from seqjax.cells.stepping import select
from seqjax.kernels import target
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, require
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = ["CUDNN", "cudnn", "flat_weights"]


def cudnn(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    inline: bool = False,
    unroll: int = 1,
) -> Unrolled:
    """Run an `LSTM` over time in cuDNN, in float32, with TF32 where JAX's matrix products have it.

        [z_i z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        c_t = σ(z_f) ⊙ c_{t-1} + σ(z_i) ⊙ tanh(z_g)
        h_t = σ(z_o) ⊙ tanh(c_t)

    The precision is that of `jax.default_matmul_precision`, as for all other kernels: cuDNN uses
    TF32 unless it is "highest" (or "float32").

    On an NVIDIA H200 its values and gradients agree with `scan`, and `fused` is faster, so "auto"
    never chooses this kernel. It can be differentiated once, in reverse mode; `jax.vmap` has no
    rule for it, and batch axes of the inputs do the same.

    Args:
      cell: an `LSTM`; its subclasses and variants are refused.
      problem: arrays, time-major; see `Problem`. xs `[T, ..., I]`, params and state float32; any
        mask; no resets, recurrent_mask or zoneout.
      reverse: process t = T-1 … 0.
      inline: for kernels with a loop.
      unroll: for kernels with a loop.

    Returns:
      `Unrolled` with time-major outputs `[T, ..., H]` and the final `LSTMState`, float32.

    Raises:
      ValueError: the cell, a dtype or an argument is not supported; or there is no NVIDIA GPU,
        which even lowering needs: JAX asks cuDNN for the sizes of its buffers while tracing.

    References:
      Chetlur et al. (2014), cuDNN: efficient primitives for deep learning; Appleyard, Kociský,
      Blunsom (2016), Optimizing performance of recurrent neural networks on GPUs.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> cudnn(cell, problem)
      Traceback (most recent call last):
      ValueError: implementation: 'cudnn' runs seqjax.cells.LSTM, got GRU; ...
    """
    del inline, unroll
    spec = Spec((), problem.steps, compute_dtype(problem.xs), target.this_machine())
    require(_refuses(cell, spec, problem))
    from jax.experimental import rnn  # here, since what is experimental may go

    return _run(rnn.lstm, cast(LSTM, cell), problem, reverse)


def flat_weights(params: LSTMParams) -> Array:
    """Parameters of an `LSTM` in the one array that cuDNN takes.

        [W_ih^T, W_hh^T, b, 0]      each flattened, the gates in the order i, f, g, o

    cuDNN adds two biases, of which one is ours and the other zero.

    Args:
      params: `w_ih [I, 4H]`, `w_hh [H, 4H]`, `b [4H]` or None.

    Returns:
      `[4H (I + H + 2)]`, in the dtype of the parameters.

    Example:
      >>> flat_weights(LSTM(3, 5).init(jax.random.key(0))).shape
      (200,)
    """
    zeros = jnp.zeros(params.w_hh.shape[1], params.w_hh.dtype)
    b = zeros if params.b is None else params.b
    return jnp.concatenate([params.w_ih.T.ravel(), params.w_hh.T.ravel(), b, zeros])


def _refuses(cell: Cell[Any, Any], spec: Spec, problem: Problem | None = None) -> str | None:
    """Why the kernel cannot run a problem, of which more is known once there are arrays."""
    dtypes = [("xs", spec.dtype)]
    for name in ("params", "state"):
        dtypes += [(name, leaf.dtype) for leaf in jax.tree.leaves(getattr(problem, name, None))]
    if type(cell) is not LSTM:  # an LSTM's kin has other equations
        return f"'cudnn' runs seqjax.cells.LSTM, got {type(cell).__name__}; {INSTEAD}"
    for name, dtype in dtypes:
        if dtype != jnp.float32:
            return f"'cudnn' runs float32, got {name} of {dtype}; {INSTEAD}"
    for name in ("resets", "recurrent_mask", "zoneout"):
        if getattr(problem, name, None) is not None:
            return f"'cudnn' runs without {name}, got {name}; {INSTEAD}"
    if spec.platform not in ("cuda", "gpu"):
        return f"'cudnn' needs an NVIDIA GPU, JAX's backend is {spec.platform!r}"
    return None


def _takes(cell: Cell[Any, Any], spec: Spec) -> str | None:
    """Return the measurement that speaks for cuDNN, or None if the platform has none."""
    del cell
    chosen, because = spec.choices.cudnn
    return because if chosen else None


CUDNN = Kernel(
    "cudnn", cudnn, refuses=_refuses, takes=_takes, loops=False, remat=False, transforms=False
)
"""NVIDIA's LSTM."""


def _run(
    call: Callable[..., tuple[Array, Array, Array]], cell: LSTM, problem: Problem, reverse: bool
) -> Unrolled:
    """Everything around `call`, which has the arguments of `jax.experimental.rnn.lstm`."""
    steps, *batch, _ = problem.xs.shape
    size = cell.hidden_size
    if problem.xs.size == 0:
        return Unrolled(jnp.zeros((steps, *batch, size), problem.xs.dtype), problem.state)
    xs = problem.xs.reshape(steps, -1, cell.input_size).swapaxes(0, 1)
    state = LSTMState(*(s.reshape(-1, size) for s in problem.state))
    mask = None if problem.mask is None else problem.mask.reshape(steps, -1).T

    if mask is None:
        lengths = jnp.full(xs.shape[0], steps, jnp.int32)
        xs = xs[:, ::-1] if reverse else xs
    else:
        lengths = mask.sum(axis=1, dtype=jnp.int32)
        t = jnp.arange(steps, dtype=jnp.int32)[None]
        order = jnp.argsort(jnp.where(mask, t[:, ::-1] if reverse else t, steps), axis=1)
        xs = _where_real(t < lengths[:, None], _reordered(xs, order))
    outputs, h, c = call(
        _row_major(xs),
        _row_major(state.h[None]),
        _row_major(state.c[None]),
        flat_weights(problem.params),
        jnp.maximum(lengths, 1),  # cuDNN fails on an empty sequence
        input_size=cell.input_size,
        hidden_size=size,
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=_ambient_precision(),
    )
    outputs, h, c = _row_major(outputs), _row_major(h), _row_major(c)
    final = LSTMState(h[0], c[0])
    if mask is None:
        outputs = outputs[:, ::-1] if reverse else outputs
    else:
        outputs = _where_real(mask, _reordered(outputs, jnp.argsort(order, axis=1)))
        final = select(lengths > 0, final, state)

    outputs = outputs.swapaxes(0, 1).reshape(steps, *batch, size)
    return Unrolled(outputs, LSTMState(*(s.reshape(*batch, size) for s in final)))


def _row_major(a: Array) -> Array:
    """The same array, kept in memory in the order of its axes, and so is its cotangent.

    JAX's call of cuDNN (0.11) does not say which layout it needs, and XLA is free to give it the
    transposed array that `swapaxes` was made of. On an H200 the results were wrong without this.
    """
    laid_out: Array = with_layout_constraint(a, Layout(tuple(range(a.ndim))))
    return laid_out


def _ambient_precision() -> jax.lax.Precision:
    """Return the ambient precision of JAX as cuDNN knows it: float32 or TF32."""
    ambient = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    exact = ambient in ("highest", "float32")
    return jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.HIGH


def _reordered(a: Array, order: Array) -> Array:
    """The steps of `a [B, T, N]` in the order `[B, T]`, a permutation of each row's steps."""
    return jnp.take_along_axis(a, order[..., None], axis=1, mode="promise_in_bounds")


def _where_real(mask: Array, a: Array) -> Array:
    """Zeros at masked steps, in `a` and in its gradient: cuDNN promises nothing of padding."""
    real: Array = select(mask, a, jnp.zeros_like(a))
    return real
