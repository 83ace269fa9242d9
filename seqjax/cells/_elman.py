"""Simple recurrent networks (Elman 1990)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._base import GatedCell
from seqjax.types import Array, PRNGKey, PyTree, Shape, Slots

__all__ = ["Elman", "ElmanParams", "ElmanReadout", "ElmanReadoutParams", "SimpleCell"]


class ElmanParams(NamedTuple):
    """Parameters of `Elman`: `w_ih [I, H]`, `w_hh [H, H]`, `b [H]`."""

    w_ih: Array
    w_hh: Array
    b: Array | None


class ElmanReadoutParams(NamedTuple):
    """Parameters of `ElmanReadout`: the parameters of `Elman`, `w_hy [H, O]` and `b_y [O]`."""

    w_ih: Array
    w_hh: Array
    b: Array | None
    w_hy: Array
    b_y: Array | None


@dataclasses.dataclass(frozen=True)
class SimpleCell(GatedCell[Any, Array]):
    """Base class of the cells without gates: h_t = φ(x_t W_ih + b + a product with h_{t-1})."""

    _: dataclasses.KW_ONLY
    activation: str | Callable[[Array], Array] = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.activation):
            checks.require_name("activation", self.activation, ops.ACTIVATIONS)

    def project(self, p: Any, x: Array) -> Slots:
        return (ops.affine(x, p.w_ih, p.b),)

    def recurrent_input(self, state: Array) -> Array:
        return state

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)

    def update(self, p: Any, gates: Any, state: Array) -> Array:
        (z,) = gates
        return ops.activation(self.activation)(z)


@dataclasses.dataclass(frozen=True)
class _Elman(SimpleCell):
    """Base class of `Elman` and `ElmanReadout`, which have the same recurrence."""

    @classmethod
    def irnn(cls, input_size: int, hidden_size: int, *, scale: float = 1.0, **options: Any) -> Self:
        """Return an IRNN: relu units and a recurrent matrix that starts as `scale` · identity.

        References:
          Le, Jaitly, Hinton (2015), A simple way to initialize recurrent networks of rectified
          linear units.
        """
        init = "identity" if scale == 1.0 else initializers.Identity(scale)
        return cls(input_size, hidden_size, activation="relu", recurrent_init=init, **options)

    def recur(self, p: Any, r: Array) -> Slots:
        return (ops.matmul(r, p.w_hh),)

    def recurrent_matrix(self, p: Any) -> Array | None:
        w_hh: Array = p.w_hh
        return w_hh

    def _init(self, key: PRNGKey, dtype: Any) -> tuple[Array, Array, Array | None]:
        k_ih, k_hh, k_b = self.keys(key, 3)
        return (
            self._input_weights(k_ih, dtype),
            self.draw("recurrent_init", k_hh, (self.hidden_size, self.hidden_size), 1, dtype),
            self._biases(k_b, dtype),
        )


@dataclasses.dataclass(frozen=True)
class Elman(_Elman):
    r"""A simple recurrent network, like PyTorch's `RNN` and Keras's `SimpleRNN`.

        h_t = φ(x_t W_ih + h_{t-1} W_hh + b)
        y_t = h_t

    Attributes:
      activation: the function φ: one of "tanh", "relu", "identity", "sigmoid", or a function.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an activation or initialiser is
        unknown.

    References:
      Elman (1990), Finding structure in time.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> cell = Elman(3, 5, activation="relu")
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, h_t = cell.step(params, jnp.ones([3]), cell.initial_state())
      >>> bool((h_t == y_t).all()), y_t.shape
      (True, (5,))
      >>> Elman.irnn(3, 5).init(jax.random.key(0)).w_hh.trace().item()
      5.0
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ElmanParams:
        return ElmanParams(*self._init(key, dtype))


@dataclasses.dataclass(frozen=True)
class ElmanReadout(_Elman):
    r"""A simple recurrent network with an output layer, like the RNN in textbooks.

        h_t = φ(x_t W_ih + h_{t-1} W_hh + b)
        y_t = h_t W_hy + b_y

    Attributes:
      activation: the function φ: one of "tanh", "relu", "identity", "sigmoid", or a function.
      output_size: the number of features of the output, O. By default, O equals `hidden_size`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `h [..., H]`. Output: `y_t [..., O]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an activation or initialiser is
        unknown.

    References:
      Elman (1990), Finding structure in time; Goodfellow, Bengio, Courville (2016), Deep
      Learning, eq. 10.8-10.10.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> cell = ElmanReadout(3, 5, output_size=2)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, h_t = cell.step(params, jnp.ones([3]), cell.initial_state())
      >>> h_t.shape, y_t.shape
      ((5,), (2,))
    """

    _: dataclasses.KW_ONLY
    output_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.hidden_size if self.output_size is None else self.output_size
        object.__setattr__(self, "output_size", checks.require_integer("output_size", size))

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ElmanReadoutParams:
        k_h, k_hy, k_y = self.keys(key, 3)
        (size,) = self.output_shape
        return ElmanReadoutParams(
            *self._init(k_h, dtype),
            self.draw("kernel_init", k_hy, (self.hidden_size, size), 1, dtype),
            self.draw_bias(k_y, size, 1, dtype),
        )

    def parameter_units(self, p: ElmanReadoutParams) -> PyTree:
        units: Any = super().parameter_units(p)
        return units._replace(w_hy=None, b_y=None)

    def output(self, p: Any, gates: Slots, state: Array) -> Array:
        return ops.affine(state, p.w_hy, p.b_y)

    @property
    def output_shape(self) -> Shape:
        return (checks.require_integer("output_size", self.output_size),)
