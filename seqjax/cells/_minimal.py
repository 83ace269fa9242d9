"""Gated cells that are linear in their state, so that all steps can be computed in parallel."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import ops
from seqjax.cells._base import Cell, GatedCell
from seqjax.types import Array, PRNGKey, PyTree

__all__ = ["LinearCell", "MinGRU", "MinLSTM", "MinParams"]


class MinParams(NamedTuple):
    """Parameters of `MinGRU` and `MinLSTM`: `w_ih [I, G*H]`, `b [G*H]`.

    G, the number of blocks of H columns, is 2 for `MinGRU` and 3 for `MinLSTM`.
    """

    w_ih: Array
    b: Array | None


@dataclasses.dataclass(frozen=True)
class LinearCell(Cell[Any, Any]):
    r"""Base class of cells s_t = a_t ⊙ s_{t-1} + b_t whose a_t and b_t depend only on the input.

    The state is one array, real or complex. A subclass defines `linear_terms` instead of `update`.
    The method `output` of a subclass may read the state and the gates.

    If the method `recurrent_input` of a cell does not return None, a_t and b_t depend on the state
    through the gates. Such a cell, for example `SRU` with its peepholes, is run step by step.

    Example:
      >>> cell = MinGRU(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> a, b = cell.linear_terms(params, cell.project(params, jnp.ones([7, 3])))
      >>> a.shape, b.shape
      ((7, 5), (7, 5))
    """

    @abc.abstractmethod
    def linear_terms(self, p: Any, gates: Any) -> tuple[Array, Array]:
        """Return the terms a_t and b_t. Each term must broadcast to the shape of the state.

        Args:
          p: the value that `prepare` returned.
          gates: the tuple of arrays that `project` returned, with any leading axes.
        """

    def update(self, p: Any, gates: Any, state: Array) -> Array:
        terms = self.linear_terms(p, gates)
        if not isinstance(terms, tuple) or len(terms) != 2:
            raise TypeError(
                f"cell: expected a pair (a, b) from {type(self).__name__}.linear_terms, got "
                f"{type(terms).__name__}"
            )
        a, b = terms
        return a * state + b


@dataclasses.dataclass(frozen=True)
class _MinCell(GatedCell[MinParams, Array], LinearCell):
    """Base class of `MinGRU` and `MinLSTM`, which draws the parameters."""

    diagonal: ClassVar[bool] = True

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> MinParams:
        k_ih, k_b = self.keys(key, 2)
        return MinParams(self._input_weights(k_ih, dtype), self._biases(k_b, dtype))

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)


@dataclasses.dataclass(frozen=True)
class MinGRU(_MinCell):
    r"""A GRU whose gate and candidate read only the input.

        [p_z n] = x_t W_ih + b
        z = σ(p_z)
        h_t = (1 - z) ⊙ h_{t-1} + z ⊙ n
        y_t = h_t

    Attributes:
      use_bias, kernel_init, bias_init: see `DenseCell`; `recurrent_init` is not used.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), Were RNNs all we needed?, section 3.1.

    Example:
      >>> MinGRU(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 10)
    """

    gates: ClassVar[int] = 2

    def linear_terms(self, p: MinParams, gates: Any) -> tuple[Array, Array]:
        p_z, n = gates
        z = jax.nn.sigmoid(p_z)
        return 1 - z, z * n

    def gate_values(self, p: MinParams, gates: Any, state: Array) -> dict[str, Array]:
        return {"z": jax.nn.sigmoid(gates[0])}


@dataclasses.dataclass(frozen=True)
class MinLSTM(_MinCell):
    r"""An LSTM whose gates and candidate read only the input. The gates are scaled to sum to one.

        [p_f p_i n] = x_t W_ih + b
        f, i = σ(p_f), σ(p_i)
        h_t = f / (f + i) ⊙ h_{t-1} + i / (f + i) ⊙ n
        y_t = h_t

    Attributes:
      use_bias, kernel_init, bias_init: see `DenseCell`; `recurrent_init` is not used.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Feng, Tung, Ahmed, Bengio, Hajimirsadeghi (2024), Were RNNs all we needed?, section 3.2
      (the length-independent form).

    Example:
      >>> MinLSTM(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 15)
    """

    gates: ClassVar[int] = 3

    def linear_terms(self, p: MinParams, gates: Any) -> tuple[Array, Array]:
        p_f, p_i, n = gates
        # f / (f + i) = σ(log f - log i). The right side stays finite when both gates underflow.
        f = jax.nn.sigmoid(jax.nn.log_sigmoid(p_f) - jax.nn.log_sigmoid(p_i))
        return f, (1 - f) * n

    def gate_values(self, p: MinParams, gates: Any, state: Array) -> dict[str, Array]:
        f, _ = self.linear_terms(p, gates)
        return {"f": f, "i": 1 - f}  # the scaled gates, f / (f + i) and i / (f + i)
