"""Normalisation between layers, with statistics that ignore padding."""

import jax.numpy as jnp
from flax import nnx

from seqjax import sequences
from seqjax.types import Array

__all__ = ["batch_normed"]


def batch_normed(norm: nnx.BatchNorm, xs: Array, mask: Array | None, deterministic: bool) -> Array:
    """Apply batch normalisation. The mean and the variance are computed over the real steps.

    If there is no real step, the running statistics do not change.

    Args:
      norm: the batch normalisation module, which holds the running statistics.
      xs: the sequences, `[..., T, H]` or `[T, ..., H]`.
      mask: bool with the leading axes of `xs`, True at real steps. If all steps are real, `mask`
        may be None.
      deterministic: if True, normalise by the running statistics and do not update them.

    Example:
      >>> norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
      >>> xs = jnp.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
      >>> batch_normed(norm, xs, jnp.array([[True, True, False]]), False)[0, :2, 0].round(
      ...     2
      ... ).tolist()
      [-1.0, 1.0]
    """
    if mask is None:
        normed: Array = norm(xs, use_running_average=deterministic)
        return normed
    some = mask.any()
    before = norm.mean[...], norm.var[...]
    # If there is no real step, all steps are used, because the mean over no steps would be NaN.
    over = sequences.over_features(mask | ~some, xs)
    xs = norm(xs, use_running_average=deterministic, mask=over)
    if not deterministic:
        norm.mean[...] = jnp.where(some, norm.mean[...], before[0])
        norm.var[...] = jnp.where(some, norm.var[...], before[1])
    return xs
