"""The CTC loss, of which labels that cannot be produced are reported rather than learnt from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax import checks, sequences
from seqjax._ruled_out import without_minus_infinity
from seqjax.ctc._checks import checked_frames
from seqjax.types import Array

__all__ = ["CTCLoss", "ctc_loss"]

LOG_ZERO = -1e30
"""Stands for log 0 of transitions that are not allowed. At optax's own -1e5, a larger loss would
take them."""


class CTCLoss(NamedTuple):
    """Losses of a batch.

    Attributes:
      loss: float32 or wider `[B]`, -log p(labels) in nats, at least 0; 0 where not feasible.
      feasible: bool `[B]`, whether the labels fit into the frames.
    """

    loss: Array
    feasible: Array


def ctc_loss(logits: Any, lengths: Any, labels: Any, label_lengths: Any, blank: int = 0) -> CTCLoss:
    """The negative log-probability of labels, summed over all their places in time.

        L = -log Σ_π Π_t p_t(π_t),   over the paths π that give the labels

    A path needs a frame for each label, and one for the blank between two equal ones. Where there
    are fewer frames the row is not feasible: it costs 0, without a gradient, and is reported. The
    mean over the others is `loss.sum() / max(feasible.sum(), 1)`.

    Args:
      logits: float `[B, T, V]`, unnormalised, the blank among the V classes. Padding, NaN included,
        reaches neither the loss nor its gradient.
      lengths: int `[B]`, 0 to T, frames of each row. Without frames only no labels are feasible.
      labels: int `[B, N]`, classes but the blank; anything in padding.
      label_lengths: int `[B]`, 0 to N.
      blank: the blank's class.

    Returns:
      `CTCLoss(loss, feasible)`. A label that logits of -inf rule out everywhere costs about 1e5.

    Raises:
      TypeError: logits are not float, or others not integers.
      ValueError: shapes do not fit; outside tracing, lengths out of range or a label that is none,
        which under tracing makes the loss NaN.

    References:
      Graves et al. 2006, Connectionist Temporal Classification, eq. 3 and 8; computed by
      `optax.losses.ctc_loss`.

    Example:
      >>> logits = jnp.zeros([2, 2, 3])  # p = 1/3 each; "1 -", "- 1", "1 1" are paths of "1"
      >>> labels = jnp.array([[1, 0], [1, 1]])  # "1 1" needs three frames
      >>> loss, feasible = ctc_loss(logits, jnp.array([2, 2]), labels, jnp.array([1, 2]))
      >>> print(jnp.exp(-loss[0]).round(4), loss[1], feasible)
      0.3333 0.0 [ True False]
    """
    logits, lengths, blank = checked_frames(logits, lengths, blank)
    batch, steps, classes = logits.shape
    labels = checks.require_array("labels", labels, jnp.integer, "integers [B, N]")
    if labels.ndim != 2 or labels.shape[0] != batch:
        raise ValueError(f"labels: expected [B, N] with B={batch}, got {labels.shape}")
    try:
        label_lengths = sequences.check_lengths(label_lengths, (batch,), labels.shape[1])
    except (TypeError, ValueError) as error:
        raise type(error)(f"label_{error}") from None
    real = sequences.lengths_to_mask(label_lengths, labels.shape[1])
    valid = (labels >= 0) & (labels < classes) & (labels != blank) | ~real
    if not checks.is_traced(labels, label_lengths) and not bool(valid.all()):
        raise ValueError(f"labels: expected classes from 0 to {classes - 1} but blank={blank}")
    labels = jnp.where(real & valid, labels, 0).astype(jnp.int32)

    repeats = ((labels[:, 1:] == labels[:, :-1]) & real[:, 1:]).sum(axis=1, dtype=jnp.int32)
    feasible = label_lengths + repeats <= lengths

    # optax multiplies by one-hot vectors, where 0 · -inf would be NaN, and needs an axis to index.
    (log_probs,) = without_minus_infinity(steps, jax.nn.log_softmax(logits))
    log_probs = jnp.pad(log_probs, ((0, 0), (0, int(steps == 0)), (0, 0)))
    labels = jnp.pad(labels, ((0, 0), (0, int(labels.shape[1] == 0))))
    frames = sequences.lengths_to_mask(lengths, log_probs.shape[1])
    real = sequences.lengths_to_mask(label_lengths, labels.shape[1])
    with jax.default_matmul_precision("highest"):
        loss = optax.losses.ctc_loss(
            log_probs,
            (~frames).astype(log_probs.dtype),
            labels,
            (~real).astype(log_probs.dtype),
            blank_id=blank,
            log_epsilon=LOG_ZERO,
        )
    loss = jnp.where(feasible, jnp.maximum(loss, 0.0), 0.0)
    return CTCLoss(jnp.where(valid.all(axis=1), loss, jnp.nan), feasible)
