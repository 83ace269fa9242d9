"""Linear-chain conditional random fields: tags of a sequence that depend on their neighbours.

    s(y) = start_y1 + Σ_t emissions_t,yt + Σ_t>1 transitions_yt-1,yt + end_yT
    p(y) = exp(s(y)) / Z,   Z = Σ_y' exp(s(y'))

over the real steps of a sequence. Common to all functions:

- They compute in float32 or wider. A score of -inf rules a tag or a transition out.
- What lies in padding, NaN included, reaches neither values nor gradients. A mask may have holes:
  the real steps on both sides of one are neighbours.
- A sequence without real steps has one tagging, the empty one: s = 0, log Z = 0, log p = 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqjax import checks, sequences
from seqjax._ruled_out import without_minus_infinity
from seqjax.types import Array

__all__ = ["CRF", "CRFDecoded", "decode", "log_likelihood", "log_partition", "marginals"]


class CRFDecoded(NamedTuple):
    """The best tags of each sequence.

    Attributes:
      tags: int32 `[..., T]`, 0 in padding.
      scores: float32 or wider `[...]`, s of the tags; log p is that minus `log_partition`.
    """

    tags: Array
    scores: Array


class _Scores(NamedTuple):
    """What all functions compute with: scores in one dtype, emissions zero in padding."""

    emissions: Array
    transitions: Array
    start: Array
    end: Array
    mask: Array
    previous: Array  # int32 [..., T], the index of the last real step before; -1 if there is none


def log_likelihood(
    emissions: Any,
    tags: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> Array:
    """The log-probability of tags; its negative is the loss of a tagger.

        log p(y) = s(y) - log Z

    Args:
      emissions: float `[..., T, C]`, the score of each tag at each step.
      tags: int `[..., T]`, in [0, C); anything in padding.
      transitions: float `[C, C]`, the score of tag j after tag i at `[i, j]`.
      lengths: int `[...]`, 0 to T, real steps of each sequence; or
      mask: bool `[..., T]`, True at real steps. Without both, all steps are real.
      start: float `[C]`, the score of each tag at the first real step; none if None.
      end: float `[C]`, the score of each tag at the last real step; none if None.

    Returns:
      float32 or wider `[...]`, at most 0 but for rounding. Tags that -inf rules out cost more
      than any others, at least 1e5.

    Raises:
      TypeError: scores are not float, tags or lengths not integers, or mask not bool.
      ValueError: shapes do not fit; both lengths and mask; outside tracing, lengths out of range or
        a real tag not in [0, C), which under tracing makes the value NaN.

    References:
      Lafferty, McCallum, Pereira 2001, Conditional Random Fields, section 3.
      Lample et al. 2016, Neural Architectures for Named Entity Recognition, section 2.2.

    Example:
      >>> emissions, transitions = jnp.zeros([2, 3, 2]), jnp.zeros([2, 2])  # all tags equally good
      >>> tags = jnp.array([[0, 1, 0], [1, 1, -1]])
      >>> log_p = log_likelihood(emissions, tags, transitions, lengths=jnp.array([3, 2]))
      >>> jnp.exp(log_p).round(4).tolist()  # 1 / 2³, 1 / 2²
      [0.125, 0.25]
    """
    scores = _checked(emissions, transitions, lengths, mask, start, end)
    *batch_shape, steps, classes = scores.emissions.shape
    tags = checks.require_array("tags", tags, jnp.integer, "integers [..., T]")
    if tags.shape != (*batch_shape, steps):
        raise ValueError(f"tags: expected shape {(*batch_shape, steps)}, got {tags.shape}")
    checks.require_range("tags", tags, classes - 1, scores.mask)
    valid = (tags >= 0) & (tags < classes) | ~scores.mask
    tags = jnp.where(scores.mask & valid, tags, 0).astype(jnp.int32)

    # Without a step before, the index is -1: some tag, whose transition is not taken.
    before = jnp.take_along_axis(tags, jnp.maximum(scores.previous, 0), axis=-1)
    first = scores.previous < 0
    entered = jnp.where(first, scores.start[tags], scores.transitions[before, tags])
    emitted = jnp.take_along_axis(scores.emissions, tags[..., None], axis=-1).squeeze(-1)
    path = jnp.where(scores.mask, entered + emitted, 0.0).sum(axis=-1)
    last = scores.end[sequences.last_real(tags, mask=scores.mask)]
    path = path + jnp.where(scores.mask.any(axis=-1), last, 0.0)
    return jnp.where(valid.all(axis=-1), path - _log_partition(scores), jnp.nan)


def log_partition(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> Array:
    """The logarithm of Z, the sum of exp(s) over all taggings, by the forward recursion.

        α_1j = start_j + emissions_1j
        α_tj = emissions_tj + log Σ_i exp(α_t-1,i + transitions_ij)
        log Z = log Σ_j exp(α_Tj + end_j)

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: as for `log_likelihood`; or
      mask: as for `log_likelihood`.
      start: as for `log_likelihood`.
      end: as for `log_likelihood`.

    Returns:
      float32 or wider `[...]`.

    Raises:
      TypeError, ValueError: as `log_likelihood`.

    Example:
      >>> log_z = log_partition(jnp.zeros([1, 3, 2]), jnp.zeros([2, 2]))
      >>> jnp.exp(log_z).round(4).tolist()  # 2³ taggings
      [8.0]
    """
    return _log_partition(_checked(emissions, transitions, lengths, mask, start, end))


def decode(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> CRFDecoded:
    """The tags of highest score, by Viterbi's algorithm; of equal ones those of lower tags.

        y = argmax_y' s(y')

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: as for `log_likelihood`; or
      mask: as for `log_likelihood`.
      start: as for `log_likelihood`.
      end: as for `log_likelihood`.

    Returns:
      `CRFDecoded(tags, scores)`.

    Raises:
      TypeError, ValueError: as `log_likelihood`.

    References:
      Viterbi 1967, Error Bounds for Convolutional Codes and an Asymptotically Optimum Decoding
      Algorithm.

    Example:
      >>> emissions = jnp.array([[[2.0, 0.0], [0.0, 1.0], [jnp.nan, jnp.nan]]])
      >>> stay = jnp.array([[0.0, -3.0], [-3.0, 0.0]])  # a change of tag costs 3
      >>> tags, scores = decode(emissions, stay, lengths=jnp.array([2]))
      >>> tags.tolist(), scores.tolist()
      ([[0, 0, 0]], [2.0])
    """
    scores = _checked(emissions, transitions, lengths, mask, start, end)
    classes = scores.emissions.shape[-1]
    stay = jnp.arange(classes, dtype=jnp.int32)

    def forward(best: Array, xs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, real, first = xs
        ways = best[..., :, None] + scores.transitions  # from i to j
        new = jnp.where(first, scores.start, ways.max(axis=-2)) + emission
        origin = jnp.where(real & ~first, ways.argmax(axis=-2).astype(jnp.int32), stay)
        return jnp.where(real, new, best), origin

    def backward(tag: Array, origin: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(origin, tag[..., None], axis=-1).squeeze(-1), tag

    best, origins = lax.scan(forward, _zeros(scores), _steps(scores))
    best = best + scores.end
    last = best.argmax(axis=-1).astype(jnp.int32)
    _, tags = lax.scan(backward, last, origins, reverse=True)
    tags = jnp.where(scores.mask, jnp.moveaxis(tags, 0, -1), 0)
    return CRFDecoded(tags, jnp.where(scores.mask.any(axis=-1), best.max(axis=-1), 0.0))


def marginals(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> Array:
    """The probability of each tag at each step, whatever the others: the gradient of log Z.

        p(y_t = c) = ∂ log Z / ∂ emissions_tc

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: as for `log_likelihood`; or
      mask: as for `log_likelihood`.
      start: as for `log_likelihood`.
      end: as for `log_likelihood`.

    Returns:
      float32 or wider `[..., T, C]`, 0 in padding.

    Raises:
      TypeError, ValueError: as `log_likelihood`.

    Example:
      >>> emissions = jnp.log(jnp.array([[[3.0, 1.0], [1.0, 1.0]]]))
      >>> marginals(emissions, jnp.zeros([2, 2])).round(4).tolist()
      [[[0.75, 0.25], [0.5, 0.5]]]
    """
    scores = _checked(emissions, transitions, lengths, mask, start, end)

    def total(emissions: Array) -> Array:
        return _log_partition(scores._replace(emissions=emissions)).sum()

    return jax.grad(total)(scores.emissions)


class CRF(nnx.Module):
    """The transitions, start and end scores of a linear chain, to be learned; they start at zero.

    Args:
      num_tags: C.
      param_dtype: the dtype of the parameters.

    Attributes:
      transitions: `[C, C]`, the score of tag j after tag i at `[i, j]`.
      start: `[C]`.
      end: `[C]`.

    Raises:
      TypeError, ValueError: `num_tags` is not a positive integer, `param_dtype` not floating.

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

    def log_likelihood(
        self, emissions: Any, tags: Any, *, lengths: Any = None, mask: Any = None
    ) -> Array:
        """`seqjax.crf.log_likelihood` with these scores.

        Args:
          emissions: float `[..., T, C]`.
          tags: int `[..., T]`.
          lengths: int `[...]`; or
          mask: bool `[..., T]`.
        """
        options = self._options(lengths, mask)
        return log_likelihood(emissions, tags, self.transitions[...], **options)

    def decode(self, emissions: Any, *, lengths: Any = None, mask: Any = None) -> CRFDecoded:
        """`seqjax.crf.decode` with these scores.

        Args:
          emissions: float `[..., T, C]`.
          lengths: int `[...]`; or
          mask: bool `[..., T]`.
        """
        return decode(emissions, self.transitions[...], **self._options(lengths, mask))

    def marginals(self, emissions: Any, *, lengths: Any = None, mask: Any = None) -> Array:
        """`seqjax.crf.marginals` with these scores.

        Args:
          emissions: float `[..., T, C]`.
          lengths: int `[...]`; or
          mask: bool `[..., T]`.
        """
        return marginals(emissions, self.transitions[...], **self._options(lengths, mask))

    def _options(self, lengths: Any, mask: Any) -> dict[str, Any]:
        return {"lengths": lengths, "mask": mask, "start": self.start[...], "end": self.end[...]}


def _log_partition(scores: _Scores) -> Array:
    def forward(alpha: Array, xs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        emission, real, first = xs
        summed = jax.nn.logsumexp(alpha[..., :, None] + scores.transitions, axis=-2)
        new = jnp.where(first, scores.start, summed) + emission
        return jnp.where(real, new, alpha), None

    alpha, _ = lax.scan(forward, _zeros(scores), _steps(scores))
    log_z = jax.nn.logsumexp(alpha + scores.end, axis=-1)
    return jnp.where(scores.mask.any(axis=-1), log_z, 0.0)


def _zeros(scores: _Scores) -> Array:
    """What the recursions start from; the first real step takes nothing of it."""
    *batch_shape, _, classes = scores.emissions.shape
    return jnp.zeros((*batch_shape, classes), scores.emissions.dtype)


def _steps(scores: _Scores) -> tuple[Array, Array, Array]:
    """Time-major: emissions `[T, ..., C]`, whether a step is real, and whether the first real."""
    flags = scores.mask, scores.mask & (scores.previous < 0)
    emissions = jnp.moveaxis(scores.emissions, -2, 0)
    real, first = (jnp.moveaxis(flag, -1, 0)[..., None] for flag in flags)
    return emissions, real, first


def _checked(
    emissions: Any, transitions: Any, lengths: Any, mask: Any, start: Any, end: Any
) -> _Scores:
    emissions = checks.require_array("emissions", emissions, jnp.floating, "float [..., T, C]")
    if emissions.ndim < 2 or emissions.shape[-1] == 0:
        raise ValueError(f"emissions: expected [..., T, C], got {emissions.shape}")
    *batch_shape, steps, classes = emissions.shape
    given: dict[str, Any] = {"transitions": transitions, "start": start, "end": end}
    with jax.numpy_dtype_promotion("standard"):
        wide = jnp.promote_types(emissions.dtype, jnp.float32)
        for name, value in given.items():
            shape = (classes, classes) if name == "transitions" else (classes,)
            if value is None and name != "transitions":
                value = jnp.zeros(shape, emissions.dtype)
            value = checks.require_array(name, value, jnp.floating, f"float {list(shape)}")
            if value.shape != shape:
                raise ValueError(
                    f"{name}: expected shape {shape} for C={classes}, got {value.shape}"
                )
            given[name], wide = value, jnp.promote_types(wide, value.dtype)
    given = {name: value.astype(wide) for name, value in given.items()}
    found = sequences.step_mask(lengths, mask, tuple(batch_shape), steps)
    found = jnp.ones((*batch_shape, steps), bool) if found is None else found
    emissions = sequences.zero_masked(emissions.astype(wide), found)
    emissions, *others = without_minus_infinity(steps, emissions, *given.values())
    given = dict(zip(given, others, strict=True))
    index = jnp.where(found, jnp.arange(steps, dtype=jnp.int32), -1)
    last = lax.cummax(index, axis=index.ndim - 1)
    first = jnp.full((*batch_shape, min(steps, 1)), -1, jnp.int32)
    previous = jnp.concatenate([first, last[..., : max(steps - 1, 0)]], axis=-1)
    return _Scores(emissions, **given, mask=found, previous=previous)
