"""The base class of cells with a diagonal complex recurrence, and the values that a call needs."""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import widened
from seqjax.cells._minimal import LinearCell
from seqjax.types import Array, PyTree, Shape, Slots

__all__ = ["ComplexDiagonalCell", "Diagonal", "as_real"]


class Diagonal(NamedTuple):
    """The matrices of a call of a `ComplexDiagonalCell`. `w_in` and `w_out` are real.

    A complex matrix is stored as a real matrix of twice the width, because a product with real
    matrices is faster, and because only real arrays are cast to the compute dtype.
    """

    decay: Array  # complex [H]
    w_in: Array  # [I, 2H], the columns of Re(B) and Im(B)
    w_out: Array  # [2H, O], the rows of Re(C) and -Im(C)
    d: Array  # [O] or [I, O]


def as_real(decay: Array, b_re: Array, b_im: Array, c_re: Array, c_im: Array, d: Array) -> Diagonal:
    """Return the `Diagonal` of the system s_t = decay ⊙ s_{t-1} + x_t B, y_t = Re(s_t C) + d ⊙ x_t.

    Example:
      >>> one = jnp.ones([1, 1])
      >>> as_real(
      ...     jnp.ones([1], jnp.complex64), one, 2 * one, 3 * one, 4 * one, one[0]
      ... ).w_out.tolist()
      [[3.0], [-4.0]]
    """
    return Diagonal(decay, jnp.concatenate([b_re, b_im], axis=1), jnp.concatenate([c_re, -c_im]), d)


@dataclasses.dataclass(frozen=True)
class ComplexDiagonalCell(LinearCell):
    r"""Base class of linear cells with a diagonal complex recurrence between two linear maps.

        s_t = λ ⊙ s_{t-1} + x_t B
        y_t = Re(s_t C) + d ⊙ x_t

    If d is a matrix, the last term is x_t d. A subclass defines `init` and `prepare`. `prepare`
    computes λ, B, C and d from the parameters.

    Attributes:
      output_size: the number of features of the output, O. A subclass replaces None by a size.

    Example:
      >>> from seqjax.cells import LRU, S5
      >>> issubclass(LRU, ComplexDiagonalCell), S5(3, 4).output_shape
      (True, (3,))
    """

    diagonal: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    output_size: int | None = None

    def _set_output_size(self, default: int) -> None:
        """Check `output_size`, and replace None by the default."""
        size = default if self.output_size is None else self.output_size
        object.__setattr__(self, "output_size", checks.require_integer("output_size", size))

    @property
    def output_shape(self) -> Shape:
        return (checks.require_integer("output_size", self.output_size),)

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Array:
        kind = jnp.complex128 if jnp.dtype(dtype) == jnp.float64 else jnp.complex64
        return jnp.zeros(ops.batched(batch_shape, self.hidden_size), kind)

    @abc.abstractmethod
    def prepare(self, params: Any) -> Diagonal:
        """Return λ, B, C and d as a `Diagonal`."""

    def project(self, p: Diagonal, x: Array) -> Slots:
        direct = ops.matmul(x, p.d) if p.d.ndim == 2 else ops.scaled(p.d, widened(x))
        return lax.complex(*ops.split(ops.matmul(x, p.w_in), 2)), direct

    def parameter_units(self, p: Diagonal) -> PyTree:
        units: Any = ops.column_units(p, self.hidden_size)
        return units._replace(w_out=None, d=None)

    def linear_terms(self, p: Diagonal, gates: Any) -> tuple[Array, Array]:
        driven, _ = gates
        return lax.broadcast_to_rank(p.decay.astype(driven.dtype), driven.ndim), driven

    def output(self, p: Diagonal, gates: Any, state: Array) -> Array:
        parts = jnp.concatenate([state.real, state.imag], axis=-1)
        read: Array = ops.matmul(parts, p.w_out) + gates[1]
        return read
