"""A depthwise causal convolution over the real steps of sequences."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax.cells import ops
from seqjax.cells._base import widened
from seqjax.nn import _noise as noise
from seqjax.nn._outside_jit import in_one_program
from seqjax.types import Array, Shape, Unrolled

__all__ = ["CausalConv", "one_step"]


class CausalConv(nnx.Module):
    r"""A depthwise causal convolution over time, for masks, resets and streams.

        y_t = w_0 ⊙ x_t + w_1 ⊙ x_{t-1} + … + w_{K-1} ⊙ x_{t-K+1} + b

    The window x_t, …, x_{t-K+1} contains real steps of one sequence only. A masked step neither
    enters the window nor moves it, so x_{t-1} is the last real step before t. After a reset, the
    window is empty. An empty place of the window counts as zero. All steps are computed in
    parallel.

    Args:
      input_size: the number of features of an input and of an output, I.
      width: the number of steps of the window, K.
      dtype: the dtype of the computation, to which inputs are cast. If `dtype` is None, the
        computation uses the dtype of the inputs.
      param_dtype: the dtype of the parameters.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Attributes:
      kernel: the weights `[K, I]`. Row j multiplies the input j steps before. The weights are
        normal with variance 1/K before training.
      bias: the bias `[I]`, which begins as zero.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or a dtype is not floating-point.

    References:
      De et al. (2024), Griffin: mixing gated linear recurrences with local attention for efficient
      language models, section 2.3.

    Example:
      >>> conv = CausalConv(3, width=4, rngs=nnx.Rngs(0))
      >>> xs = jnp.ones([2, 7, 3])
      >>> whole, _ = conv(xs)
      >>> first, window = conv(xs[:, :5])
      >>> rest, window = conv(xs[:, 5:], initial_state=window)
      >>> window.shape, bool(jnp.allclose(jnp.concatenate([first, rest], axis=1), whole))
      ((2, 3, 3), True)
    """

    def __init__(
        self,
        input_size: int,
        width: int = 4,
        *,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> None:
        self.input_size = checks.require_integer("input_size", input_size)
        self.width = checks.require_integer("width", width)
        self.dtype = None if dtype is None else checks.require_floating_dtype("dtype", dtype)
        self.param_dtype = checks.require_floating_dtype("param_dtype", param_dtype)
        key = noise.streams(rngs, "params").params()
        draw = jax.nn.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(key, (self.width, self.input_size), self.param_dtype))
        self.bias = nnx.Param(jnp.zeros(self.input_size, self.param_dtype))

    def initial_state(self, batch_shape: int | Sequence[int] = (), dtype: Any = None) -> Array:
        """Return an empty window: zeros `[*batch_shape, K-1, I]`.

        Args:
          batch_shape: the sizes of the batch axes. If `batch_shape` is an integer, it is the size
            of a single batch axis.
          dtype: the dtype of the window. The default is the module's `dtype` or, if it has no
            `dtype`, its `param_dtype`.
        """
        dtype = checks.require_floating_dtype("dtype", dtype or self.dtype or self.param_dtype)
        batch_shape = checks.require_shape("batch_shape", batch_shape)
        return jnp.zeros((*batch_shape, self.width - 1, self.input_size), dtype)

    def __call__(
        self,
        xs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        initial_state: Any = None,
    ) -> Unrolled:
        """Convolve sequences.

        Args:
          xs: the inputs `[..., T, I]`.
          lengths: the number of real steps of each sequence, integers `[...]`. Pass either
            `lengths` or `mask`.
          mask: bool `[..., T]`, True at real steps.
          resets: bool `[..., T]`, True at the first step of a new sequence.
          initial_state: the window before the first step, `[..., K-1, I]`, as
            `initial_state(batch_shape)` or an earlier call returns it. The default is an empty
            window.

        Returns:
          `Unrolled(outputs, state)`. The outputs are `[..., T, I]` and zero at masked steps. The
          state is the window after the last step: the last K-1 real inputs, the latest one last.

        Raises:
          TypeError, ValueError: an argument has a wrong dtype or shape.
        """
        xs, real = arguments.vector_sequences(
            xs, self.input_size, self.dtype, lengths=lengths, mask=mask
        )
        lead, width = xs.shape[:-1], self.width
        window = self._window(initial_state, lead[:-1], xs.dtype)
        position = jnp.broadcast_to(jnp.arange(lead[-1]), lead)  # the number of real steps before
        count = jnp.full(lead[:-1], lead[-1])
        order = None
        if real is not None:
            position, count = jnp.cumsum(real, axis=-1) - real, real.sum(axis=-1)
            # The real steps are moved to the front, where windows are contiguous. With `lengths`,
            # they are there already.
            order = None if mask is None else jnp.argsort(~real, axis=-1, stable=True)
        age = end_age = None  # the number of real steps since the last reset
        if resets is not None:
            resets = sequences.require_mask("resets", resets, lead)
            begins = jnp.where(resets, position, -width)
            age = position - lax.cummax(begins, axis=begins.ndim - 1)
            end_age = count - begins.max(axis=-1, initial=-width)
        if order is not None:
            xs = _taken(xs, order)
            age = None if age is None else jnp.take_along_axis(age, order, axis=-1)
        xs = jnp.concatenate([window.astype(xs.dtype), xs], axis=-2)
        ys = self._weighted_sums(xs, age)
        ys = ys if order is None else _taken(ys, position)
        final = self._last_inputs(xs, count, end_age).astype(window.dtype)
        return Unrolled(sequences.zero_masked(ys, mask=real), final)

    def _window(self, state: Any, batch_shape: Shape, dtype: Any) -> Array:
        """Check the window that was passed to a call."""
        if state is None:
            return self.initial_state(batch_shape, dtype)
        window = checks.require_array(
            "initial_state", state, jnp.floating, "a floating-point window"
        )
        expected = (*batch_shape, self.width - 1, self.input_size)
        if window.shape != expected:
            raise ValueError(f"initial_state: expected a window {expected}, got {window.shape}")
        return window

    def _weighted_sums(self, xs: Array, age: Array | None) -> Array:
        """Return y_t for the steps that follow the K-1 steps of the first window.

        If `age` is not None, only the inputs of the last `age` steps count.
        """
        kernel, steps = self.kernel[...].astype(xs.dtype), xs.shape[-2] - self.width + 1
        total: Any = 0
        for j in range(self.width):
            begin = self.width - 1 - j
            term = ops.scaled(kernel[j], widened(xs[..., begin : begin + steps, :]))
            total += term if age is None else sequences.zero_masked(term, mask=age >= j)
        return ops.biased(total, self.bias[...].astype(xs.dtype)).astype(xs.dtype)

    def _last_inputs(self, xs: Array, count: Array, age: Array | None) -> Array:
        """Return the window after `count` real steps, of which `age` follow the last reset."""
        places = jnp.arange(self.width - 1)
        final = _taken(xs, count[..., None] + lax.broadcast_to_rank(places, count.ndim + 1))
        if age is None:
            return final
        back = lax.broadcast_to_rank(self.width - 1 - places, age.ndim + 1)
        return sequences.zero_masked(final, mask=back <= age[..., None])

    def step(self, x_t: Any, state: Any = None, *, resets: Any = None) -> Unrolled:
        """Convolve one step, as a call on a sequence of one step does.

        Args:
          x_t: the input of the step, `[..., I]`.
          state: the window before the step. The default is an empty window.
          resets: bool `[...]`, True where x_t is the first input of a new sequence.

        Returns:
          `Unrolled(output, state)`: the output `[..., I]`, and the window after the step.
        """
        return one_step(self, x_t, state, resets)


def _taken(xs: Array, index: Array) -> Array:
    """Return the steps of xs `[..., T, I]` at the indices `[..., N]`."""
    return jnp.take_along_axis(xs, index[..., None], axis=-2)


def one_step(module: Any, x_t: Any, state: Any, resets: Any, **options: Any) -> Unrolled:
    """Call a module that reads sequences of vectors on a sequence of one step.

    Args:
      module: the module, with an attribute `input_size`.
      x_t: the input of the step, `[..., I]`.
      state: the state before the step, or None.
      resets: bool `[...]`, True at the first input of a new sequence; or None.
      **options: other arguments of the call.
    """
    x_t = arguments.as_floating("x_t", x_t)
    if x_t.shape[-1:] != (module.input_size,):
        expected = arguments.in_words("...", (module.input_size,))
        raise ValueError(f"x_t: expected {expected}, got {x_t.shape}")
    if resets is not None:
        resets = sequences.require_mask("resets", resets, x_t.shape[:-1])
    ran: Unrolled = in_one_program(_one_step, module, (x_t, state, resets), **options)
    return ran


def _one_step(module: Any, x_t: Any, state: Any, resets: Any, **options: Any) -> Unrolled:
    resets = None if resets is None else resets[..., None]
    outputs, state = module(x_t[..., None, :], initial_state=state, resets=resets, **options)
    return Unrolled(outputs[..., 0, :], state)
