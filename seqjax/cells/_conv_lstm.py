"""Convolutional LSTMs, whose inputs and states have spatial axes and channels."""

import dataclasses
import math
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._lstm import LSTMParams, MemoryCell
from seqjax.types import Array, PRNGKey, Shape, Slots

__all__ = ["ConvLSTM1D", "ConvLSTM2D"]


@dataclasses.dataclass(frozen=True)
class _ConvLSTM(MemoryCell):
    """A convolutional LSTM over any number of spatial axes, with channels as the last axis."""

    ndim: ClassVar[int]

    _: dataclasses.KW_ONLY
    spatial_shape: int | tuple[int, ...] = 8
    kernel_size: int | tuple[int, ...] = 3
    stride: int | tuple[int, ...] = 1
    padding: Literal["SAME", "VALID"] = "SAME"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("spatial_shape", "kernel_size", "stride"):
            object.__setattr__(self, name, self._per_axis(name))
        checks.require_name("padding", self.padding, ("SAME", "VALID"))
        if min(self._hidden_shape) <= 0:
            raise ValueError(
                f"spatial_shape: expected at least kernel_size={self.kernel_size} with "
                f"padding='VALID', got {self.spatial_shape}"
            )

    def _per_axis(self, name: str) -> tuple[int, ...]:
        value = getattr(self, name)
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.ndim
        if len(values) != self.ndim:
            raise ValueError(f"{name}: expected {self.ndim} sizes or one for all, got {value}")
        return tuple(checks.require_integer(name, size) for size in values)

    @property
    def input_shape(self) -> Shape:
        return (*self._per_axis("spatial_shape"), self.input_size)

    @property
    def _hidden_shape(self) -> Shape:
        sizes, kernels, strides = map(self._per_axis, ("spatial_shape", "kernel_size", "stride"))
        if self.padding == "VALID":
            sizes = tuple(n - k + 1 for n, k in zip(sizes, kernels, strict=True))
        return (*(-(-n // s) for n, s in zip(sizes, strides, strict=True)), self.hidden_size)

    def stacked_on(self, input_size: int) -> Self:
        *space, _ = self._hidden_shape
        return dataclasses.replace(
            self, input_size=input_size, spatial_shape=tuple(space), stride=1, padding="SAME"
        )

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LSTMParams:
        k_ih, k_hh, k_b = self.keys(key, 3)
        window, columns = self._per_axis("kernel_size"), 4 * self.hidden_size
        return LSTMParams(
            w_ih=self.draw("kernel_init", k_ih, (*window, self.input_size, columns), 4, dtype),
            w_hh=self.draw("recurrent_init", k_hh, (*window, self.hidden_size, columns), 4, dtype),
            b=self._biases(k_b, dtype),
        )

    def project(self, p: LSTMParams, x: Array) -> Slots:
        z = self._convolved(x, p.w_ih, self._per_axis("stride"), self.padding)
        return ops.split(ops.biased(z, p.b), 4)

    def recur(self, p: LSTMParams, r: Array) -> Slots:
        return ops.split(self._convolved(r, p.w_hh, (1,) * self.ndim, "SAME"), 4)

    def _convolved(self, x: Array, w: Array, stride: Shape, padding: str) -> Array:
        """Cross-correlate the last axes `[*space, C]` of `x` with `w [*window, C, columns]`."""
        # JAX cannot transpose a convolution that accumulates in a wider dtype than the dtype of its
        # operands. So the operands are cast to the accumulator's dtype.
        accumulator = ops.accumulator_dtype(w.dtype)
        event = x.shape[-self.ndim - 1 :]
        batch = x.shape[: -self.ndim - 1]
        space = "XYZ"[: self.ndim]
        z = jax.lax.conv_general_dilated(
            x.astype(w.dtype).astype(accumulator).reshape(math.prod(batch), *event),
            w.astype(accumulator),
            window_strides=stride,
            padding=padding,
            dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        )
        return z.reshape(*batch, *z.shape[1:])


@dataclasses.dataclass(frozen=True)
class ConvLSTM1D(_ConvLSTM):
    r"""A convolutional LSTM over one spatial axis.

    In the equations, * is a convolution:

        [z_i z_f z_g z_o] = X_t * W_ih + H_{t-1} * W_hh + b
        i, f, o = σ(z_i), σ(z_f), σ(z_o)      g = tanh(z_g)
        C_t = f ⊙ C_{t-1} + i ⊙ g
        H_t = o ⊙ tanh(C_t)
        y_t = H_t

    Like the layer in Keras and unlike the LSTM of the paper, this cell has no peepholes. `stride`
    and `padding` apply to the convolution of the input. The convolution of the state always has
    stride 1 and padding "SAME".

    Attributes:
      input_size, hidden_size: the numbers of channels of the input and of the state.
      spatial_shape: the size X of the input's spatial axis.
      kernel_size: the width K of the windows of the convolutions of the input and of the state.
      stride: the stride of the convolution of the input.
      padding: "SAME" or "VALID", the padding of the convolution of the input.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    Input: `[..., X, I]`. State: `LSTMState` of two arrays `[..., X', H]`. Output: `[..., X', H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, a padding or initialiser is unknown,
        or the padding is "VALID" and the input is smaller than the window.

    References:
      Shi, Chen, Wang, Yeung, Wong, Woo (2015), Convolutional LSTM network: a machine learning
      approach for precipitation nowcasting, eq. 3.

    Example:
      >>> ConvLSTM1D(2, 4, spatial_shape=9, stride=2).output_shape
      (5, 4)
    """

    ndim: ClassVar[int] = 1


@dataclasses.dataclass(frozen=True)
class ConvLSTM2D(_ConvLSTM):
    r"""A convolutional LSTM over two spatial axes. `ConvLSTM1D` shows the equations.

    Attributes:
      input_size, hidden_size: the numbers of channels of the input and of the state.
      spatial_shape: the sizes (X, Y) of the input's spatial axes, or one size for both.
      kernel_size: the sizes of the windows of the convolutions of the input and of the state, or
        one size for both axes.
      stride: the strides of the convolution of the input, or one stride for both axes.
      padding: "SAME" or "VALID", the padding of the convolution of the input.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    Input: `[..., X, Y, I]`. State: `LSTMState` of two arrays `[..., X', Y', H]`.
    Output: `[..., X', Y', H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, a padding or initialiser is unknown,
        or the padding is "VALID" and the input is smaller than the window.

    References:
      Shi, Chen, Wang, Yeung, Wong, Woo (2015), Convolutional LSTM network: a machine learning
      approach for precipitation nowcasting, eq. 3.

    Example:
      >>> cell = ConvLSTM2D(1, 4, spatial_shape=(6, 5), padding="VALID")
      >>> cell.input_shape, cell.output_shape
      ((6, 5, 1), (4, 3, 4))
    """

    ndim: ClassVar[int] = 2
