"""The independently recurrent network, in which each unit reads only its own previous state."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import ops
from seqjax.cells._elman import SimpleCell
from seqjax.types import Array, PRNGKey, Slots

__all__ = ["IndRNN", "IndRNNParams"]


class IndRNNParams(NamedTuple):
    """Parameters of `IndRNN`: `w_ih [I, H]`, `u [H]`, `b [H]`."""

    w_ih: Array
    u: Array
    b: Array | None


@dataclasses.dataclass(frozen=True)
class IndRNN(SimpleCell):
    r"""A simple recurrent network whose recurrent matrix is diagonal.

        h_t = φ(x_t W_ih + u ⊙ h_{t-1} + b)
        y_t = h_t

    The recurrent weights u are drawn from U(0, 1), as in the paper.

    Attributes:
      activation: the function φ: one of "relu", "tanh", "identity", "sigmoid", or a function.
      use_bias, kernel_init, bias_init: see `DenseCell`. The cell does not use `recurrent_init`.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an activation or initialiser is
        unknown.

    References:
      Li, Li, Cook, Zhu, Gao (2018), Independently recurrent neural network (IndRNN), eq. 4.

    Example:
      >>> params = IndRNN(3, 5).init(jax.random.key(0))
      >>> params.u.shape, bool((params.u >= 0).all())
      ((5,), True)
    """

    diagonal: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    activation: str | Callable[[Array], Array] = "relu"

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> IndRNNParams:
        k_ih, k_u, k_b = self.keys(key, 3)
        return IndRNNParams(
            w_ih=self._input_weights(k_ih, dtype),
            u=jax.random.uniform(k_u, (self.hidden_size,), dtype),
            b=self._biases(k_b, dtype),
        )

    def recur(self, p: IndRNNParams, r: Array) -> Slots:
        return (ops.scaled(p.u, r),)
