"""`Problem`, the input of a kernel: the checked arrays of one call, with time as first axis."""

import dataclasses
from typing import Any

import jax

from seqjax.types import Array, PyTree

__all__ = ["Problem"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """The checked, time-major arrays of one call of `unroll`, as a pytree.

    Attributes:
      params: the cell's parameters, as `init` returns them. When a kernel runs, `params` is the
        result of `cell.prepare` in the compute dtype.
      xs: the inputs, `[T, ..., I]`, which are zero at masked steps.
      state: the state before the first processed step. The arrays of the state are `[..., H]`, and
        may differ in dtype. If `state` is None, `run` makes the cell's initial state inside the
        compiled program.
      reset_state: the state after a reset, with the shapes and dtypes of `state`. If `reset_state`
        is None, `run` uses the cell's initial state.
      mask: bool `[T, ...]`, True at real steps, False at padding; or None.
      resets: bool `[T, ...]`, True where the state is reset before the step; or None.
      recurrent_mask: factors `[..., N]` by which the recurrent input is multiplied at every step;
        or None.
      zoneout: None, or a pytree with the structure of `state`. The leaves of `zoneout`,
        `[T, ..., H]`, are the fractions of the old state that are kept.
      reset_states: states `[T, ..., H]`, one for each step, that replace `reset_state`; or None.
        Only the kernel "scan" reads `reset_states`.

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
    reset_states: PyTree | None = None

    @property
    def steps(self) -> int:
        """The number of steps, T, which is a symbol in a program that is exported for any T."""
        steps: int = jax.tree.leaves(self.xs)[0].shape[0]
        return steps

    def per_step(self) -> dict[str, PyTree]:
        """Return a dict of the fields whose arrays have a time axis."""
        names = ("xs", "mask", "resets", "zoneout", "reset_states")
        return {name: getattr(self, name) for name in names}
