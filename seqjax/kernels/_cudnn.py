"""The kernel that calls the LSTM of NVIDIA's library cuDNN, through `jax.experimental.rnn`.

cuDNN processes each sequence forward, and needs at least one real step in each sequence and padding
on the right only. Before the call, this kernel moves the unmasked steps of each sequence to the
front, in the order of processing. After the call, the kernel moves each output back to the position
of its step. The results are therefore exact for every mask and for `reverse`.
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
from seqjax.kernels._kernel import INSTEAD, Kernel, Spec, by_choice, require
from seqjax.kernels._problem import Problem
from seqjax.types import Array, Unrolled

__all__ = ["CUDNN", "cudnn", "flat_weights"]

EXACT = frozenset(
    ["highest", "float32", "F32_F32_F32", "F64_F64_F64", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"]
)
"""The precisions of JAX's products that are at least as accurate as float32."""


def cudnn(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
) -> Unrolled:
    """Run an `LSTM` over time in cuDNN, in float32 or TF32.

        [z_i z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        c_t = σ(z_f) ⊙ c_{t-1} + σ(z_i) ⊙ tanh(z_g)
        h_t = σ(z_o) ⊙ tanh(c_t)

    `jax.default_matmul_precision` sets the precision, as for all other kernels. If the precision is
    "highest" or "float32", or an algorithm of at least this accuracy, cuDNN uses float32. Otherwise
    cuDNN uses TF32.

    On an NVIDIA H200, the values and gradients of this kernel agree with `scan`. Because `fused` is
    faster on that GPU, "auto" never chooses this kernel. The kernel can be differentiated only
    once, in reverse mode. The kernel does not support `jax.vmap`; use batch axes of the inputs.

    Args:
      cell: an `LSTM`, not a subclass or a variant of it.
      problem: the time-major arrays of the call; see `Problem`. The inputs `xs` are `[T, ..., I]`.
        The arrays in `xs`, `params` and `state` must be float32. Any mask is allowed, but no
        resets, recurrent_mask or zoneout.
      reverse: whether to process the steps in the order t = T-1 … 0.

    Returns:
      `Unrolled` with time-major outputs `[T, ..., H]` and the final `LSTMState`, float32.

    Raises:
      ValueError: the cell, a dtype or an argument is not supported, or there is no NVIDIA GPU.
        Tracing also needs the GPU, because JAX asks cuDNN for the sizes of its buffers while it
        traces.

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
    spec = Spec((), problem.steps, compute_dtype(problem.xs), target.this_machine())
    require(_refuses(cell, spec, problem))
    from jax.experimental import rnn  # imported here: later versions of JAX may not have it

    return _run(rnn.lstm, cast(LSTM, cell), problem, reverse)


def flat_weights(params: LSTMParams) -> Array:
    """Return the parameters of an `LSTM` as one array in the order that cuDNN expects.

        [W_ih^T, W_hh^T, b, 0]      each flattened, the gates in the order i, f, g, o

    cuDNN adds two bias vectors. The first vector is b, and the second vector is zero.

    Args:
      params: the parameters `w_ih [I, 4H]`, `w_hh [H, 4H]`, and `b [4H]` or None.

    Returns:
      An array `[4H (I + H + 2)]` in the dtype of the parameters.

    Example:
      >>> flat_weights(LSTM(3, 5).init(jax.random.key(0))).shape
      (200,)
    """
    zeros = jnp.zeros(params.w_hh.shape[1], params.w_hh.dtype)
    b = zeros if params.b is None else params.b
    return jnp.concatenate([params.w_ih.T.ravel(), params.w_hh.T.ravel(), b, zeros])


def _refuses(cell: Cell[Any, Any], spec: Spec, problem: Problem | None = None) -> str | None:
    """Return why the kernel cannot run the cell or the problem, or None if it can."""
    dtypes = [("xs", spec.dtype)]
    for name in ("params", "state"):
        dtypes += [(name, leaf.dtype) for leaf in jax.tree.leaves(getattr(problem, name, None))]
    if type(cell) is not LSTM:  # subclasses have other equations
        return f"'cudnn' runs seqjax.cells.LSTM, got {type(cell).__name__}; {INSTEAD}"
    for name, dtype in dtypes:
        if dtype != jnp.float32:
            return f"'cudnn' runs float32, got {name} of {dtype}; {INSTEAD}"
    for name in ("resets", "recurrent_mask", "zoneout"):
        if getattr(problem, name, None) is not None:
            return f"'cudnn' runs without {name}, got {name}; {INSTEAD}"
    if spec.platform not in ("cuda", "gpu"):
        return f"'cudnn' needs an NVIDIA GPU, got JAX's backend {spec.platform!r}; {INSTEAD}"
    return None


CUDNN = Kernel(
    "cudnn",
    cudnn,
    refuses=_refuses,
    takes=by_choice("cudnn"),
    loops=False,
    remat=False,
    transforms=False,
)
"""The kernel that calls NVIDIA's LSTM."""


def _run(
    call: Callable[..., tuple[Array, Array, Array]], cell: LSTM, problem: Problem, reverse: bool
) -> Unrolled:
    """Run a problem with `call`, which has the arguments of `jax.experimental.rnn.lstm`."""
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
    """Return the array with a row-major memory layout, and give its cotangent this layout, too.

    JAX 0.11 does not tell XLA which memory layout cuDNN needs, so XLA may pass the array in the
    layout that it had before `swapaxes`. On an H200, the results were wrong without this function.
    """
    laid_out: Array = with_layout_constraint(a, Layout(tuple(range(a.ndim))))
    return laid_out


def _ambient_precision() -> jax.lax.Precision:
    """Return cuDNN's precision, float32 or TF32, for JAX's default precision of products."""
    ambient = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return jax.lax.Precision.HIGHEST if ambient in EXACT else jax.lax.Precision.HIGH


def _reordered(a: Array, order: Array) -> Array:
    """Return `a [B, T, N]` with the steps of each sequence permuted by a row of `order [B, T]`."""
    return jnp.take_along_axis(a, order[..., None], axis=1, mode="promise_in_bounds")


def _where_real(mask: Array, a: Array) -> Array:
    """Set `a` and its gradient to zero at masked steps, where cuDNN leaves values undefined."""
    real: Array = select(mask, a, jnp.zeros_like(a))
    return real
