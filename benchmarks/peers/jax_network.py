"""A network, and one step of a cell, as the functions that a JAX contestant gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.workload import Weights

__all__ = ["Recurrence", "Step"]


class Recurrence(NamedTuple):
    """A network as functions.

    Attributes:
      apply: `(params, xs, lengths) -> outputs`; lengths are None where there are none.
      from_common: makes params of the common weights; pure and differentiable.
      time_major: whether xs and outputs are `[T, B, ...]`.
      different: why its mathematics is not the reference's.
    """

    apply: Callable[[Any, jax.Array, jax.Array | None], jax.Array]
    from_common: Callable[[Weights], Any]
    time_major: bool = True
    different: str | None = None


class Step(NamedTuple):
    """One step of a cell as functions.

    Attributes:
      apply: `(params, x, state) -> (output, state)` on `[B, features]`.
      from_common: makes params of the common weights.
      initial_state: `batch -> state`.
      different: why its mathematics is not the reference's.
    """

    apply: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]]
    from_common: Callable[[Weights], Any]
    initial_state: Callable[[int], Any]
    different: str | None = None
