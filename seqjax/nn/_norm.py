"""Normalisation between layers, over real steps only."""

import jax.numpy as jnp
from flax import nnx

from seqjax import sequences
from seqjax.types import Array

__all__ = ["batch_normed"]


def batch_normed(norm: nnx.BatchNorm, xs: Array, mask: Array | None, deterministic: bool) -> Array:
    """Batch normalisation over real steps; without any, the running statistics stay as they are.

    Args:
      norm: the module with the statistics.
      xs: `[..., T, H]` in either layout.
      mask: bool, the leading axes of xs; or None.
      deterministic: whether to use the running statistics, and leave them.

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
    over = sequences.over_features(mask | ~some, xs)  # a mean over nothing would be NaN
    xs = norm(xs, use_running_average=deterministic, mask=over)
    if not deterministic:
        norm.mean[...] = jnp.where(some, norm.mean[...], before[0])
        norm.var[...] = jnp.where(some, norm.var[...], before[1])
    return xs
