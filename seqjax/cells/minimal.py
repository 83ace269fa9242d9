"""Gated cells that are linear in their state, so that time can be solved in parallel."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import ops
from seqjax.cells.base import DenseCell
from seqjax.types import Array, PRNGKey, Shape

__all__ = ["LinearCell", "MinGRU", "MinLSTM", "MinParams"]


class MinParams(NamedTuple):
    """Parameters of `MinGRU` (G = 2) and `MinLSTM` (G = 3): `w_ih [I, G*H]`, `b [G*H]`."""

    w_ih: Array
    b: Array | None


@dataclasses.dataclass(frozen=True)
class LinearCell(DenseCell[MinParams, Array]):
    r"""Base of the cells h_t = a_t ⊙ h_{t-1} + b_t whose a and b depend on the input alone.

    A subclass gives `gates` and `linear_terms`; stepping follows from them.

    Example:
      >>> cell = MinGRU(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> a, b = cell.linear_terms(params, cell.project(params, jnp.ones([7, 3])))
      >>> a.shape, b.shape
      ((7, 5), (7, 5))
    """

    gates: ClassVar[int]

    @abc.abstractmethod
    def linear_terms(self, params: MinParams, projected: Any) -> tuple[Array, Array]:
        """The terms a_t and b_t of h_t = a_t ⊙ h_{t-1} + b_t; position-wise in time.

        Args:
          params: as from `init`.
          projected: what `project` gave, with any leading axes.

        Returns:
          a and b, `[..., H]` each.
        """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> MinParams:
        k_ih, k_b = self.keys(key, 2)
        columns = self.gates * self.hidden_size
        return MinParams(
            w_ih=self.draw("kernel_init", k_ih, (self.input_size, columns), self.gates, dtype),
            b=self.draw_bias(k_b, columns, self.gates, dtype),
        )

    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> Array:
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def project(self, params: MinParams, x: Array) -> tuple[Array, ...]:
        return ops.split(ops.affine(x, params.w_ih, params.b), self.gates)

    def recurrent_input(self, state: Array) -> None:
        return None

    def recurrent_matrix(self, params: MinParams) -> None:
        return None

    def update(
        self, params: MinParams, projected: Any, recurrent: None, state: Array
    ) -> tuple[Array, Array]:
        return self.gated_update(params, projected, recurrent, state)[:2]

    def gated_update(
        self, params: MinParams, projected: Any, recurrent: None, state: Array
    ) -> tuple[Array, Array, dict[str, Array]]:
        a, b = self.linear_terms(params, projected)
        h = a * state + b
        return h, self.output(params, h), self.named_gates(a)

    def named_gates(self, a: Array) -> dict[str, Array]:
        """The gates as functions of a_t, what is kept of the state: that itself, "a"."""
        return {"a": a}


@dataclasses.dataclass(frozen=True)
class MinGRU(LinearCell):
    r"""A GRU whose gate and candidate see the input only.

        [p_z n] = x_t W_ih + b
        z = σ(p_z)
        h_t = (1 - z) ⊙ h_{t-1} + z ⊙ n
        y_t = h_t

    Attributes:
      use_bias, kernel_init, bias_init: see `DenseCell`; `recurrent_init` has no use here.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

    References:
      Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), Were RNNs all we needed?, section 3.1.

    Example:
      >>> MinGRU(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 10)
    """

    gates: ClassVar[int] = 2

    def linear_terms(self, params: MinParams, projected: Any) -> tuple[Array, Array]:
        p_z, n = projected
        z = jax.nn.sigmoid(p_z)
        return 1 - z, z * n

    def named_gates(self, a: Array) -> dict[str, Array]:
        return {"z": 1 - a}


@dataclasses.dataclass(frozen=True)
class MinLSTM(LinearCell):
    r"""An LSTM whose gates and candidate see the input only, with gates that sum to one.

        [p_f p_i n] = x_t W_ih + b
        f, i = σ(p_f), σ(p_i)
        h_t = f / (f + i) ⊙ h_{t-1} + i / (f + i) ⊙ n
        y_t = h_t

    Attributes:
      use_bias, kernel_init, bias_init: see `DenseCell`; `recurrent_init` has no use here.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

    References:
      Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), Were RNNs all we needed?, section 3.2
      (the length-independent form).

    Example:
      >>> MinLSTM(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 15)
    """

    gates: ClassVar[int] = 3

    def linear_terms(self, params: MinParams, projected: Any) -> tuple[Array, Array]:
        p_f, p_i, n = projected
        # f / (f + i) = σ(log f - log i), which stays finite when both gates underflow.
        f = jax.nn.sigmoid(jax.nn.log_sigmoid(p_f) - jax.nn.log_sigmoid(p_i))
        return f, (1 - f) * n

    def named_gates(self, a: Array) -> dict[str, Array]:
        return {"f": a, "i": 1 - a}  # as they act: each divided by f + i
