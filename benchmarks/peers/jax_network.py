"""The functions that a JAX contestant provides for a network and for one step of a cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.workload import Weights

__all__ = ["Recurrence", "Step"]


class Recurrence(NamedTuple):
    """A network as functions.

    Attributes:
      apply: `(params, xs, lengths) -> outputs`; lengths are None if all sequences have T steps. If
        the contestant has resets, `apply` also has the argument `resets`, bool like the first axes
        of xs, which is passed only if the workload has resets.
      from_common: a pure, differentiable function that converts weights from the layout of
        `benchmarks.workload` to params.
      time_major: whether xs and outputs are `[T, B, ...]`.
      different: how the equations differ from those of the reference; None if they are the same.
    """

    apply: Callable[..., jax.Array]
    from_common: Callable[[Weights], Any]
    time_major: bool = True
    different: str | None = None


class Step(NamedTuple):
    """One step of a cell as functions.

    Attributes:
      apply: `(params, x, state) -> (output, state)` on `[B, features]`.
      from_common: a function that converts weights from the layout of `benchmarks.workload` to
        params.
      initial_state: `batch -> state`.
      different: how the equations differ from those of the reference; None if they are the same.
    """

    apply: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
    from_common: Callable[[Weights], Any]
    initial_state: Callable[[int], Any]
    different: str | None = None
