"""Probabilities of taggings, by the forward recursion in log space."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import checks, sequences
from seqjax._compensated import Total, add
from seqjax._compiled import compiled
from seqjax._elements import averaged
from seqjax._log_space import chosen, difference, exact, log_sum
from seqjax.crf._scores import Scores, checked
from seqjax.types import Array

__all__ = ["log_likelihood", "log_partition", "loss", "marginals"]


def loss(
    emissions: Any,
    tags: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
    per_sequence: bool = False,
) -> Array:
    """Return the negative log-likelihood in nats per sequence, averaged over the batch.

        L = -log p(y)

    A sequence without real steps is ignored in the mean. If a score of -inf forbids the tags, the
    loss is inf, and its gradient is 0.

    Args:
      emissions: float `[B, T, C]`, see `log_likelihood` for this and the following arguments.
      tags: int `[B, T]`; or, for partial labels, bool `[B, T, C]`, True for each allowed tag.
      transitions: float `[C, C]`.
      lengths: int `[B]`.
      mask: bool `[B, T]`. Pass `lengths` or `mask`, not both.
      start: float `[C]`.
      end: float `[C]`.
      per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.

    Returns:
      The loss, a scalar or `[B]` in float32 or wider, at least 0.

    Raises:
      TypeError, ValueError: see `log_likelihood`.

    Example:
      >>> emissions, transitions = jnp.zeros([2, 3, 2]), jnp.zeros([2, 2])  # all tags equally good
      >>> tags, lengths = jnp.zeros([2, 3], int), jnp.array([3, 0])
      >>> nats = loss(emissions, tags, transitions, lengths=lengths)
      >>> print(jnp.exp(nats).round(4))  # 2³; the other sequence is padding
      8.0
    """
    scores = checked(emissions, transitions, lengths, mask, start, end)
    return averaged(-_log_likelihood(scores, tags), ~scores.is_empty, per_sequence)


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
    """Return the log-probability of tags.

        log p(y) = s(y) - log Z
        log p(A) = log Σ_y∈A exp(s(y)) - log Z,   A: the set of taggings that partial labels allow

    Args:
      emissions: float `[..., T, C]`, the score of each tag at each step.
      tags: int `[..., T]`, in [0, C), with any value in padding; or, for partial labels, bool
        `[..., T, C]`, True for each tag that a step may have. If the tag of a step is unknown, all
        entries of the step are True.
      transitions: float `[C, C]`; entry `[i, j]` is the score of tag j after tag i.
      lengths: int `[...]`, 0 to T, the number of real steps of each sequence.
      mask: bool `[..., T]`, True at real steps. Pass `lengths` or `mask`, not both. Without
        `lengths` and `mask`, all steps are real.
      start: float `[C]`, the score of each tag at the first real step; the default is 0.
      end: float `[C]`, the score of each tag at the last real step; the default is 0.

    Returns:
      The log-probabilities `[...]` in float32 or wider: at most 0, and -inf for tags that a score
      of -inf forbids.

    Raises:
      TypeError: if scores are not floating-point numbers, tags are neither integers nor bool,
        lengths are not integers, or the mask is not bool.
      ValueError: if shapes do not fit, or both `lengths` and `mask` are given; outside tracing,
        also if lengths are out of range, the tag of a real step is not in [0, C), or a real step
        has no allowed tag. Under tracing, an invalid tag makes the log-probability NaN, and a step
        without an allowed tag makes it -inf.

    References:
      Lafferty, McCallum, Pereira 2001, Conditional Random Fields, section 3.
      Lample et al. 2016, Neural Architectures for Named Entity Recognition, section 2.2.
      Tsuboi et al. 2008, Training Conditional Random Fields Using Incomplete Annotations, eq. 2.

    Example:
      >>> emissions, transitions = jnp.zeros([2, 3, 2]), jnp.zeros([2, 2])  # all tags equally good
      >>> tags = jnp.array([[0, 1, 0], [1, 1, -1]])
      >>> log_p = log_likelihood(emissions, tags, transitions, lengths=jnp.array([3, 2]))
      >>> jnp.exp(log_p).round(4).tolist()  # 1 / 2³, 1 / 2²
      [0.125, 0.25]
      >>> allowed = jnp.array([[True, False], [True, True], [True, True]])  # only step 1 is known
      >>> jnp.exp(log_likelihood(emissions[0], allowed, transitions)).round(4).tolist()
      0.5
    """
    return _log_likelihood(checked(emissions, transitions, lengths, mask, start, end), tags)


def _log_likelihood(scores: Scores, tags: Any) -> Array:
    """Check the tags and return their log-probability."""
    tags = checks.require_array("tags", tags, jnp.generic, "integers [..., T] or bool [..., T, C]")
    if tags.dtype == bool:
        log_p = _of_sets(scores, tags)
    elif jnp.issubdtype(tags.dtype, jnp.integer):
        log_p = _of_tags(scores, checks.require_ids("tags", tags, "integers [..., T]"))
    else:
        raise TypeError(
            f"tags: expected integers [..., T] or bool [..., T, C], got dtype {tags.dtype}"
        )
    # Rounding can bring a probability of almost 1 above 1.
    return log_p - lax.stop_gradient(jnp.maximum(log_p, 0.0))


def log_partition(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> Array:
    """Return the logarithm of Z, the sum of exp(s) over all taggings, by the forward recursion.

        α_1j = start_j + emissions_1j
        α_tj = emissions_tj + log Σ_i exp(α_t-1,i + transitions_ij)
        log Z = log Σ_j exp(α_Tj + end_j)

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: see `log_likelihood`.
      mask: see `log_likelihood`.
      start: see `log_likelihood`.
      end: see `log_likelihood`.

    Returns:
      log Z `[...]` in float32 or wider, -inf if all taggings are forbidden.

    Raises:
      TypeError, ValueError: see `log_likelihood`.

    Example:
      >>> log_z = log_partition(jnp.zeros([1, 3, 2]), jnp.zeros([2, 2]))
      >>> jnp.exp(log_z).round(4).tolist()  # 2³ taggings
      [8.0]
    """
    hi, lo = _log_z(checked(emissions, transitions, lengths, mask, start, end))
    return hi + lo


def marginals(
    emissions: Any,
    transitions: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    start: Any = None,
    end: Any = None,
) -> Array:
    """Return the probability of each tag at each step, summed over the tags of all other steps.

        p(y_t = c) = ∂ log Z / ∂ emissions_tc = softmax_c(α_tc + β_tc - emissions_tc)

    Here α is that of `log_partition`, and β is the same quantity for the chain in reverse order.

    Args:
      emissions: float `[..., T, C]`.
      transitions: float `[C, C]`.
      lengths: see `log_likelihood`.
      mask: see `log_likelihood`.
      start: see `log_likelihood`.
      end: see `log_likelihood`.

    Returns:
      The probabilities `[..., T, C]` in float32 or wider, 0 in padding and if all taggings are
      forbidden. If log Z is NaN or +inf, the probabilities of real steps are NaN.

    Raises:
      TypeError, ValueError: see `log_likelihood`.

    Example:
      >>> emissions = jnp.log(jnp.array([[[3.0, 1.0], [1.0, 1.0]]]))
      >>> marginals(emissions, jnp.zeros([2, 2])).round(4).tolist()
      [[[0.75, 0.25], [0.5, 0.5]]]
    """
    return _marginals(checked(emissions, transitions, lengths, mask, start, end))


@compiled()
def _marginals(scores: Scores) -> Array:
    alphas, log_z = _forward(scores)
    betas, _ = _forward(scores.reversed())
    alpha, beta = jax.tree.map(lambda a: jnp.moveaxis(a, 0, -2), (alphas, betas))
    beta = jax.tree.map(lambda a: a[..., ::-1, :], beta)
    possible = jnp.isfinite(alpha[0] + beta[0]) & (log_z[0] > -jnp.inf)[..., None, None]
    possible = possible & scores.mask[..., None]
    # The values of impossible tags are replaced, since -inf minus -inf is NaN.
    alpha, *rest = jax.tree.map(
        lambda a: jnp.where(possible, a, 0.0), (alpha, *beta, -scores.emissions)
    )
    both = functools.reduce(add, rest, alpha)
    both = jnp.where(possible, both[0], -jnp.inf), both[1]
    # Σ_c α β is Z at each step. Dividing by the Z of the same step excludes rounding errors of
    # other steps.
    total = jax.tree.map(
        lambda a: jnp.broadcast_to(a[..., None], possible.shape),
        log_sum(both, jnp.zeros_like(both[0]), -1),
    )
    probabilities = jnp.where(possible, jnp.exp(difference(both, total)), 0.0)
    invalid = ~(log_z[0] < jnp.inf)  # NaN or +inf
    return jnp.where(invalid[..., None, None] & scores.mask[..., None], jnp.nan, probabilities)


class _Path(NamedTuple):
    """The terms of the score of one tagging.

    Attributes:
      entered: `[..., T]`, the score of the transition into each step; at the first step, the start
        score.
      emitted: `[..., T]`, the emission score of the tag of each step.
      end: `[...]`, the end score of the last tag.
    """

    entered: Array
    emitted: Array
    end: Array


def _of_tags(scores: Scores, tags: Array) -> Array:
    """Return log p of tags `[..., T]`.

    The recursion computes α minus s(y), the score of the tagging. If the probability of the tagging
    is almost 1, the result is almost 0 and fully accurate, whereas log Z - s(y) is a difference of
    two large numbers.
    """
    *batch_shape, steps, classes = scores.emissions.shape
    if tags.shape != (*batch_shape, steps):
        hint = "; partial labels are bool" if tags.shape == scores.emissions.shape else ""
        raise ValueError(f"tags: expected shape {(*batch_shape, steps)}, got {tags.shape}{hint}")
    checks.require_range("tags", tags, classes - 1, mask=scores.mask)
    return _of_path(scores, tags)


@compiled()
def _of_path(scores: Scores, tags: Array) -> Array:
    classes = scores.emissions.shape[-1]
    valid = (tags >= 0) & (tags < classes) | ~scores.mask
    tags = jnp.where(scores.mask & valid, tags, 0).astype(jnp.int32)

    # If there is no previous step, the index is -1, and the transition is not used.
    before = jnp.take_along_axis(tags, jnp.maximum(scores.previous, 0), axis=-1)
    first = scores.previous < 0
    entered = jnp.where(first, scores.start[tags], scores.transitions[before, tags])
    emitted = jnp.take_along_axis(scores.emissions, tags[..., None], axis=-1).squeeze(-1)
    last = scores.end[sequences.last_real(tags, mask=scores.mask)]
    parts = [jnp.where(scores.mask, entered, 0.0), jnp.where(scores.mask, emitted, 0.0)]
    parts.append(jnp.where(scores.is_empty, 0.0, last))
    forbidden = [jnp.isneginf(part) for part in parts]
    possible = ~(forbidden[0].any(axis=-1) | forbidden[1].any(axis=-1) | forbidden[2])
    # The terms of a forbidden path are not subtracted, because other scores would become infinite.
    path = _Path(*[jnp.where(bad, 0.0, part) for bad, part in zip(forbidden, parts, strict=True)])
    _, (hi, lo) = _forward(scores, path)
    log_p = jnp.where(possible, 0.0 - (hi + lo), -jnp.inf)
    return jnp.where(valid.all(axis=-1), log_p, jnp.nan)


def _of_sets(scores: Scores, allowed: Array) -> Array:
    """Return the log-probability of the set of taggings that `allowed`, `[..., T, C]`, permits."""
    if allowed.shape != scores.emissions.shape:
        raise ValueError(f"tags: expected shape {scores.emissions.shape}, got {allowed.shape}")
    allowed = allowed | ~scores.mask[..., None]
    if not checks.is_traced(allowed) and not bool(allowed.any(axis=-1).all()):
        raise ValueError("tags: expected at least one allowed tag at each real step, got none")
    return _share(scores, allowed)


@compiled()
def _share(scores: Scores, allowed: Array) -> Array:
    inside = scores._replace(emissions=jnp.where(allowed, scores.emissions, -jnp.inf))
    return difference(_log_z(inside), _log_z(scores))


@compiled()
def _log_z(scores: Scores) -> Total:
    return _forward(scores)[1]


def _forward(scores: Scores, path: _Path | None = None) -> tuple[Total, Total]:
    """Return α at each step, `[T, ..., C]`, and log Z `[...]`, both minus the score of `path`.

    If `path` is given, the terms of its score are subtracted step by step, so that the remaining
    score of this path is exactly 0.
    """
    *batch_shape, _, classes = scores.emissions.shape
    xs: Any = scores.steps()
    if path is not None:
        xs = *xs, jnp.moveaxis(path.entered, -1, 0), jnp.moveaxis(path.emitted, -1, 0)
    square = (*batch_shape, classes, classes)
    transitions = jnp.broadcast_to(scores.transitions, square)
    start, end = (jnp.broadcast_to(x, (*batch_shape, classes)) for x in (scores.start, scores.end))

    def step(alpha: Total, xs: Any) -> tuple[Total, Total]:
        emission, real, first, *less = xs
        moves, begun = transitions, start
        if less:
            entered, emitted = (x[..., None] for x in less)
            moves, begun, emission = moves - entered[..., None], begun - entered, emission - emitted
        summed = log_sum(jax.tree.map(lambda a: a[..., :, None], alpha), moves, -2)
        new = add(chosen(first, exact(begun), summed), emission)
        new = chosen(real, new, alpha)
        return new, new

    zeros = jnp.zeros((*batch_shape, classes), scores.emissions.dtype)
    alpha, alphas = lax.scan(step, exact(zeros), xs)
    last = end if path is None else end - path.end[..., None]
    log_z = log_sum(alpha, last, -1)
    return alphas, jax.tree.map(lambda a: jnp.where(scores.is_empty, 0.0, a), log_z)
