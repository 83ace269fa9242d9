"""The CRF as a Flax module."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax.crf import _decoding, _likelihood
from seqjax.types import Array

__all__ = ["CRF"]


class CRF(nnx.Module):
    """A linear-chain CRF with learned transition, start and end scores, which are initially zero.

    Args:
      num_tags: C, the number of tags.
      param_dtype: the dtype of the parameters.

    Attributes:
      transitions: `[C, C]`; entry `[i, j]` is the score of tag j after tag i.
      start: `[C]`, the score of each tag at the first step.
      end: `[C]`, the score of each tag at the last step.

    Raises:
      TypeError, ValueError: if `num_tags` is not a positive integer, or `param_dtype` is not a
        floating-point dtype.

    Example:
      >>> crf, emissions = CRF(4), jnp.zeros([2, 5, 4])
      >>> log_p = crf.log_likelihood(emissions, jnp.zeros([2, 5], int), lengths=jnp.array([5, 3]))
      >>> jnp.exp(-log_p).round(1).tolist()  # 4⁵, 4³
      [1024.0, 64.0]
      >>> crf.decode(emissions).tags.shape, crf.marginals(emissions).shape
      ((2, 5), (2, 5, 4))
    """

    def __init__(self, num_tags: int, *, param_dtype: Any = jnp.float32) -> None:
        num_tags = checks.require_integer("num_tags", num_tags)
        dtype = checks.require_floating_dtype("param_dtype", param_dtype)
        self.transitions = nnx.Param(jnp.zeros((num_tags, num_tags), dtype))
        self.start = nnx.Param(jnp.zeros(num_tags, dtype))
        self.end = nnx.Param(jnp.zeros(num_tags, dtype))

    def loss(
        self,
        emissions: Any,
        tags: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        per_sequence: bool = False,
    ) -> Array:
        """Return `seqjax.crf.loss` with the module's transition, start and end scores.

        Args:
          emissions: float `[B, T, C]`.
          tags: int `[B, T]`; or, for partial labels, bool `[B, T, C]`, True for each allowed tag.
          lengths: int `[B]`, the number of real steps of each sequence.
          mask: bool `[B, T]`, True at real steps. Pass `lengths` or `mask`, not both.
          per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.
        """
        return _likelihood.loss(
            emissions, tags, self.transitions[...], per_sequence=per_sequence,
            **self._options(lengths, mask),
        )  # fmt: skip

    def log_likelihood(
        self, emissions: Any, tags: Any, *, lengths: Any = None, mask: Any = None
    ) -> Array:
        """Return `seqjax.crf.log_likelihood` with the module's transition, start and end scores.

        Args:
          emissions: float `[..., T, C]`.
          tags: int `[..., T]`; or, for partial labels, bool `[..., T, C]`, True for each allowed
            tag.
          lengths: int `[...]`, the number of real steps of each sequence.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
        """
        options = self._options(lengths, mask)
        return _likelihood.log_likelihood(emissions, tags, self.transitions[...], **options)

    def log_partition(self, emissions: Any, *, lengths: Any = None, mask: Any = None) -> Array:
        """Return `seqjax.crf.log_partition` with the module's transition, start and end scores.

        Args:
          emissions: float `[..., T, C]`.
          lengths: int `[...]`, the number of real steps of each sequence.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
        """
        options = self._options(lengths, mask)
        return _likelihood.log_partition(emissions, self.transitions[...], **options)

    def decode(
        self, emissions: Any, *, lengths: Any = None, mask: Any = None, n_best: int | None = None
    ) -> _decoding.CRFDecoded:
        """Return `seqjax.crf.decode` with the module's transition, start and end scores.

        Args:
          emissions: float `[..., T, C]`.
          lengths: int `[...]`, the number of real steps of each sequence.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
          n_best: n, the number of taggings to return. If None, the best tagging is returned without
            the axis n.
        """
        options = self._options(lengths, mask)
        return _decoding.decode(emissions, self.transitions[...], n_best=n_best, **options)

    def marginals(self, emissions: Any, *, lengths: Any = None, mask: Any = None) -> Array:
        """Return `seqjax.crf.marginals` with the module's transition, start and end scores.

        Args:
          emissions: float `[..., T, C]`.
          lengths: int `[...]`, the number of real steps of each sequence.
          mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both.
        """
        return _likelihood.marginals(
            emissions, self.transitions[...], **self._options(lengths, mask)
        )

    def _options(self, lengths: Any, mask: Any) -> dict[str, Any]:
        return {"lengths": lengths, "mask": mask, "start": self.start[...], "end": self.end[...]}
