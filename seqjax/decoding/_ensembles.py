"""Ensembles: several models that decode as one."""

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._results import Step, log_softmax
from seqjax.types import Array, PyTree

__all__ = ["checked_steps", "ensemble", "run_all"]


def ensemble(steps: Sequence[Step]) -> Step:
    """Return one step function that averages the probabilities of several models.

        log p(y_t | y_<t) = log (1/M) Σ_m p_m(y_t | y_<t)

    Args:
      steps: M step functions over the same vocabulary.

    Returns:
      A step function for any decoder. It takes a tuple of the models' states, and returns
      log-probabilities as logits, float32 or wider `[N, V]`.

    Raises:
      TypeError: if a step is not callable. The returned function raises TypeError if the state is
        not a tuple.
      ValueError: if there are no steps. The returned function raises ValueError if the vocabularies
        have different sizes, or the number of states is not M.

    References:
      Sutskever et al. 2014, Sequence to Sequence Learning with Neural Networks.

    Example:
      >>> import jax.numpy as jnp
      >>> def always(logits):
      ...     return lambda tokens, state: (jnp.tile(jnp.array(logits), (len(tokens), 1)), state)
      >>> both = ensemble([always([0.0, -jnp.inf]), always([0.0, 0.0])])
      >>> logits, state = both(jnp.zeros(1, jnp.int32), ((), ()))
      >>> [f"{p:.2f}" for p in jnp.exp(logits[0])]
      ['0.75', '0.25']
    """
    models = checked_steps(steps)

    def averaged(tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        every, new = run_all(models, tokens, state)
        each = [log_softmax(logits) for logits in every]
        dtype = max((leaf.dtype for leaf in each), key=lambda dtype: dtype.itemsize)
        stacked = jnp.stack([leaf.astype(dtype) for leaf in each])
        mean = jax.nn.logsumexp(stacked, axis=0) - math.log(len(models))
        return mean, new

    return averaged


def checked_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Return the step functions of several models, or raise if there are none."""
    if not isinstance(steps, Iterable):
        raise TypeError(f"steps: expected a list of functions, got {checks.brief(steps)}")
    steps = tuple(steps)
    if not steps:
        raise ValueError("steps: expected at least one step function, got none")
    for step in steps:
        if not callable(step):
            raise TypeError(f"steps: expected functions, got {checks.brief(step)}")
    return steps


def run_all(
    steps: tuple[Step, ...], tokens: Array, state: PyTree
) -> tuple[list[Array], tuple[PyTree, ...]]:
    """Run a step of each model, and return their logits and their new states."""
    if not isinstance(state, tuple):
        raise TypeError(f"state: expected a tuple of states, got {checks.brief(state)}")
    if len(state) != len(steps):
        raise ValueError(
            f"state: expected one state for each of {len(steps)} models, got {len(state)}"
        )
    results = [step(tokens, own) for step, own in zip(steps, state, strict=True)]
    shapes = [logits.shape for logits, _ in results]
    if len(set(shapes)) > 1:
        raise ValueError(f"steps: expected logits of one shape [N, V], got {shapes}")
    return [logits for logits, _ in results], tuple(new for _, new in results)
