"""What a kernel is asked to run: one checked, time-major sequence problem."""

import dataclasses
from typing import Any

import jax

from seqjax.types import Array, PyTree

__all__ = ["Problem"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """The arrays of one call of `unroll`, checked and time-major: a pytree.

    Attributes:
      params: of the cell, as from `init`; for a kernel, what the cell prepared of them, in the
        compute dtype.
      xs: inputs, `[T, ..., I]`; masked steps are zero.
      state: the state before the first processed step, `[..., H]` leaves in their own dtype. To
        `run` it may be None for the cell's own, which is made in the compiled program.
      reset_state: what resets put back, with the shapes and dtypes of `state`; None likewise.
      mask: bool `[T, ...]` or None; True at real steps.
      resets: bool `[T, ...]` or None.
      recurrent_mask: `[..., N]` or None; multiplies the recurrent input at every step.
      zoneout: None, or a pytree like `state` of the fraction of the old state that is held: leaves
        `[T, ..., H]`.

    Example:
      >>> import jax.numpy as jnp
      >>> problem = Problem(params=(), xs=jnp.zeros([5, 2, 3]), state=(), reset_state=())
      >>> problem.mask is None
      True
    """

    params: PyTree
    xs: PyTree
    state: Any
    reset_state: Any
    mask: Array | None = None
    resets: Array | None = None
    recurrent_mask: Array | None = None
    zoneout: PyTree | None = None

    @property
    def steps(self) -> int:
        """The number of steps, T; symbolic where a program is exported for any T."""
        steps: int = jax.tree.leaves(self.xs)[0].shape[0]
        return steps

    def per_step(self) -> dict[str, PyTree]:
        """The arrays that have a time axis, by the name of their field."""
        return {name: getattr(self, name) for name in ("xs", "mask", "resets", "zoneout")}
