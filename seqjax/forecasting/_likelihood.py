"""The loss of predicted distributions over the observed values of real steps."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seqjax import _elements, sequences
from seqjax._elements import Mean
from seqjax._hints import LOSSES, hints
from seqjax.forecasting._distributions import Distribution, require_distribution, require_possible
from seqjax.forecasting._targets import observed_values
from seqjax.types import Array, PyTree

__all__ = ["loss", "losses", "score"]


@hints(**LOSSES)
def loss(
    distribution: Distribution,
    params: PyTree,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> Array:
    """Return the loss of predicted distributions, averaged over the observed values.

    For N observed values y_n and predicted distributions p_n, the loss L is

        L = -(1/N) Σ_n log p_n(y_n)

    For `Quantiles`, the pinball loss takes the place of -log p. A value is observed if its step is
    real and the value is not NaN. Other values affect neither the loss nor its gradient. If no
    value is observed, loss and gradient are 0.

    Args:
      distribution: the distribution, such as `Gaussian()`.
      params: the parameters as `distribution.params` returns them, for the steps of the targets.
      targets: float or int `[..., T]`, the true values. NaN marks a missing value.
      lengths: int `[...]`, the number of real steps of each series.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss in float32 or wider, a scalar or, with `per_sequence`, `[B]`.

    Raises:
      TypeError: `distribution` is not a `Distribution`, or an array has a wrong dtype.
      ValueError: shapes do not match or (outside tracing) a target is not a possible value, such as
        1.5 for counts. Under tracing, the loss is then NaN.

    Example:
      >>> from seqjax.forecasting import Gaussian
      >>> params = {"mean": jnp.zeros((1, 3)), "deviation": jnp.ones((1, 3))}
      >>> targets = jnp.array([[0.0, jnp.nan, 7.0]])
      >>> print(f"{loss(Gaussian(), params, targets, lengths=jnp.array([2])):.4f}")  # log √(2π)
      0.9189
    """
    values, observed = losses(distribution, params, targets, lengths, mask)
    return _elements.averaged(values, observed, per_sequence)


@hints(**LOSSES)
def score(
    distribution: Distribution,
    params: PyTree,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return `loss` as a `seqjax.metrics.Mean`, for the evaluation over several batches.

    The arguments and errors are those of `loss`.

    Example:
      >>> from seqjax.forecasting import Gaussian
      >>> params = {"mean": jnp.zeros((1, 3)), "deviation": jnp.ones((1, 3))}
      >>> int(score(Gaussian(), params, jnp.array([[0.0, jnp.nan, 7.0]])).count)
      2
    """
    values, observed = losses(distribution, params, targets, lengths, mask)
    return Mean.of(values, mask=observed)


def losses(
    distribution: Distribution, params: PyTree, targets: ArrayLike, lengths: Any, mask: Any
) -> tuple[Array, Array]:
    """Return the loss of each target, and whether the target is observed."""
    require_distribution(distribution)
    values, observed, _ = observed_values("targets", targets, lengths, mask)
    possible = require_possible("targets", distribution, values)

    def hidden(param: Any) -> Array:
        param = jnp.asarray(param)
        if param.shape[: values.ndim] != values.shape:
            raise ValueError(
                f"params: expected arrays for targets of shape {values.shape}, got {param.shape}"
            )
        # A constant takes the place of the parameters where no value is observed, since in a
        # gradient 0 · inf would be NaN.
        return jnp.where(sequences.over_features(observed, param), param, 1.0)

    shown = jax.tree.map(hidden, params)
    try:
        found = distribution.losses(shown, values)
    except KeyError as error:
        if not isinstance(params, Mapping):
            raise
        raise ValueError(
            f"params: expected the parameters of {type(distribution).__name__} with the key "
            f"{error}, got the keys {', '.join(map(repr, params))}"
        ) from error
    return jnp.where(possible, found, jnp.nan), observed
