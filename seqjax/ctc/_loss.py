"""The CTC loss, computed by a forward recursion over frames."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from seqjax import checks
from seqjax._compensated import Total
from seqjax._compiled import compiled
from seqjax._elements import averaged
from seqjax._hints import ALIGNMENT_LOSSES, hints
from seqjax._label_sequences import checked_labels
from seqjax._log_space import chosen, exact, log_normalized, log_sum
from seqjax.ctc._checks import checked_frames
from seqjax.types import Array

__all__ = ["ctc_loss"]


@hints(**ALIGNMENT_LOSSES)
def ctc_loss(
    logits: Any,
    labels: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    label_lengths: Any = None,
    blank: int = 0,
    zero_infinity: bool = False,
    per_sequence: bool = False,
) -> Array:
    """Return the CTC loss in nats per sequence, averaged over the sequences of the batch.

        L = -log Σ_π Π_t p_t(π_t),   over the paths π of the labels

    A path needs one frame for each label, and one more for the blank between two equal labels in
    succession. If a sequence has fewer frames than its labels need, or if logits of -inf forbid all
    paths, the labels are impossible: L is inf, and its gradient is 0. A sequence with neither
    frames nor labels is ignored in the mean. Sums over 100,000 frames have the accuracy of float32.

    Args:
      logits: float `[B, T, V]`, unnormalised; one of the V classes is the blank. Values in padding,
        including NaN, affect neither the loss nor its gradient.
      labels: int `[B, N]`, classes other than the blank; padding may contain any value.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      label_lengths: int `[B]`, 0 to N, the number of labels of each sequence; the default is N.
      blank: the class of the blank.
      zero_infinity: whether the loss of impossible labels is 0 instead of inf, as in PyTorch.
      per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.

    Returns:
      The loss, a scalar or `[B]` in float32 or wider, at least 0.

    Raises:
      TypeError: if logits are not floating-point numbers, or labels or lengths are not integers.
      ValueError: if shapes do not fit; outside tracing, also if lengths are out of range or a label
        is invalid. Under tracing, an invalid label makes the loss NaN.

    References:
      Graves et al. 2006, Connectionist Temporal Classification, eq. 3, 6 and 8.

    Example:
      >>> logits = jnp.zeros([2, 2, 3])  # p = 1/3 each; "1 -", "- 1", "1 1" are paths of "1"
      >>> labels = jnp.array([[1, 0], [1, 1]])  # "1 1" needs three frames
      >>> options = {"label_lengths": jnp.array([1, 2]), "per_sequence": True}
      >>> loss = ctc_loss(logits, labels, **options)
      >>> print(jnp.exp(-loss).round(4), jnp.isinf(loss))
      [0.3333 0.    ] [False  True]
      >>> print(ctc_loss(logits, labels, zero_infinity=True, **options)[1])
      0.0
    """
    zero_infinity = checks.require_bool("zero_infinity", zero_infinity)
    logits, mask, blank = checked_frames(logits, lengths, mask, blank)
    batch, _, classes = logits.shape
    labels, label_lengths, valid = checked_labels(labels, label_lengths, batch, classes, blank)
    loss = _loss(
        logits, mask, labels, valid, label_lengths, blank=blank, zero_infinity=zero_infinity
    )
    return averaged(loss, mask.any(axis=1) | (label_lengths > 0), per_sequence)


@compiled("blank", "zero_infinity")
def _loss(
    logits: Array,
    mask: Array,
    labels: Array,
    valid: Array,
    label_lengths: Array,
    *,
    blank: int,
    zero_infinity: bool,
) -> Array:
    """Return the loss of each sequence, NaN for one with an invalid label."""
    log_p = _log_probability(log_normalized(logits), mask, labels, label_lengths, blank)
    impossible = 0.0 if zero_infinity else jnp.inf
    loss = jnp.where(jnp.isneginf(log_p), impossible, jnp.maximum(-log_p, 0.0))
    return jnp.where(valid, loss, jnp.nan)


def _log_probability(
    log_probs: Array, mask: Array, labels: Array, label_lengths: Array, blank: int
) -> Array:
    """Return log p(labels) `[B]`, by the forward recursion over labels separated by blanks.

    l = - l_1 - l_2 - ... l_N -
    α_t(s) = log p_t(l_s) + log (exp α_t-1(s) + exp α_t-1(s-1) + [may skip s-1] exp α_t-1(s-2))
    """
    batch, _, _ = log_probs.shape
    number = labels.shape[1]
    blanks = jnp.full((batch, 2 * number + 1), blank, jnp.int32)
    with_blanks = blanks.at[:, 1::2].set(labels)
    states = jnp.arange(2 * number + 1, dtype=jnp.int32)[None]
    emitted = jnp.take_along_axis(log_probs, with_blanks[:, None], axis=2)
    is_label = (states % 2 == 1) & (states > 1)
    skips = is_label & (with_blanks != jnp.roll(with_blanks, 2, axis=1))
    ways = jnp.stack([jnp.ones_like(skips), jnp.ones_like(skips), skips], axis=1)

    def frame(alpha: Total, xs: tuple[Array, Array]) -> tuple[Total, None]:
        log_p, real = xs
        moves = jnp.where(ways, jnp.broadcast_to(log_p[:, None], ways.shape), -jnp.inf)
        new = log_sum((_from_left(alpha[0], -jnp.inf), _from_left(alpha[1], 0.0)), moves, 1)
        return chosen(jnp.broadcast_to(real[:, None], new[0].shape), new, alpha), None

    # Before the first frame, all paths are at the first blank, which they have not yet emitted.
    start = jnp.where(states == 0, 0.0, -jnp.inf).astype(log_probs.dtype)
    start = jnp.broadcast_to(start, with_blanks.shape)
    alpha, _ = lax.scan(frame, exact(start), (jnp.moveaxis(emitted, 1, 0), mask.T))
    last = 2 * label_lengths[:, None]
    is_end = (states == last) | (states == last - 1)
    hi, lo = log_sum(alpha, jnp.where(is_end, 0.0, -jnp.inf).astype(log_probs.dtype), 1)
    return hi + lo


def _from_left(x: Array, fill: float) -> Array:
    """Return, for each state s, the values of the states s, s - 1 and s - 2: `[B, 3, S]`."""
    padded = jnp.pad(x, ((0, 0), (2, 0)), constant_values=fill)
    return jnp.stack([padded[:, 2:], padded[:, 1:-1], padded[:, :-2]], axis=1)
