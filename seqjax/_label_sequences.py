"""Label sequences, as CTC and transducers read and write them: checks, packing and hashes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax import checks, sequences
from seqjax._compensated import Total, add
from seqjax._compiled import compiled
from seqjax.types import Array

__all__ = ["Labels", "checked_labels", "hashed", "packed", "ranked", "require_class"]


class Labels(NamedTuple):
    """The checked label sequences of a batch.

    Attributes:
      ids: int32 `[B, N]`, the labels; 0 in padding and in place of invalid labels.
      lengths: int32 `[B]`, the number of labels of each sequence.
      valid: bool `[B]`, False if a label of the sequence is invalid.
    """

    ids: Array
    lengths: Array
    valid: Array


def require_class(name: str, value: Any, classes: int) -> int:
    """Return a class, such as that of the blank, or raise if it is not from 0 to V - 1."""
    found = checks.require_integer(name, value, least=0)
    if found >= classes:
        raise ValueError(f"{name}: expected a class below V={classes}, got {value}")
    return found


def checked_labels(labels: Any, lengths: Any, batch: int, classes: int, blank: int) -> Labels:
    """Check labels `[B, N]` and the argument `label_lengths`; the default of the latter is N.

    Outside tracing, an invalid label raises a `ValueError`.
    """
    labels = checks.require_ids("labels", labels, "integers [B, N]")
    if labels.ndim != 2 or labels.shape[0] != batch:
        raise ValueError(f"labels: expected [B, N] with B={batch}, got {labels.shape}")
    if lengths is None:
        lengths = np.full(batch, labels.shape[1], np.int32)
    try:
        lengths = sequences.require_lengths(lengths, (batch,), labels.shape[1])
    except (TypeError, ValueError) as error:
        message = str(error).replace("the number of steps", "the number of labels")
        raise type(error)(f"label_{message}") from None
    found, valid = _found(labels, lengths, classes=classes, blank=blank)
    if not checks.is_traced(labels, lengths):
        invalid = ~np.asarray(valid)
        if invalid.any():
            raise ValueError(
                f"labels: expected classes from 0 to {classes - 1} except blank={blank}, got "
                f"{np.asarray(labels)[invalid][0]}"
            )
    return found


@compiled("classes", "blank")
def _found(labels: Array, lengths: Array, *, classes: int, blank: int) -> tuple[Labels, Array]:
    """Return the label sequences, and whether each label is valid or padding."""
    real = sequences.lengths_to_mask(lengths, labels.shape[1])
    valid = (labels >= 0) & (labels < classes) & (labels != blank) | ~real
    ids = jnp.where(real & valid, labels, 0).astype(jnp.int32)
    return Labels(ids, lengths, valid.all(axis=1)), valid


@compiled("fill")
def packed(path: Array, keep: Array, fill: int) -> tuple[Array, Array]:
    """Move the entries of `path [..., T]` where `keep` is True to the left, and count them."""
    order = jnp.argsort(~keep, axis=-1, stable=True)
    moved = jnp.take_along_axis(jnp.where(keep, path, fill), order, axis=-1)
    return moved, keep.sum(axis=-1, dtype=jnp.int32)


def ranked(
    path: Array, log_probs: Array, best: Total, bonus: Array, invalid: Array, blank: int
) -> tuple[Array, Array, Array, Array]:
    """Return the result of a beam search: labels, their number, log-probabilities and scores.

    Args:
      path: int `[B, n, L]`, the labels of each sequence of the beam, with blanks in between.
      log_probs: `[B, n]`, the log-probabilities relative to `best`.
      best: the log-probability of the best prefix, the sum of two arrays `[B]`.
      bonus: `[B, n]`, the scores of the other model. Where it is -inf, there is no sequence.
      invalid: bool `[B]`, True where a score is not a number. The results are then NaN.
      blank: the class of the blank.
    """
    log_probs = add((best[0][:, None], best[1][:, None]), log_probs)[0]
    log_probs = jnp.where(jnp.isneginf(bonus), -jnp.inf, log_probs)
    exists = ~jnp.isneginf(log_probs)
    labels, count = packed(path, (path != blank) & exists[..., None], blank)
    scores = jnp.where(exists, log_probs + bonus, -jnp.inf)
    log_probs, scores = (jnp.where(invalid[:, None], jnp.nan, a) for a in (log_probs, scores))
    return labels, count, log_probs, scores


def hashed(stem: Array, label: Array) -> Array:
    """Return the hashes, uint32 `[..., 2]`, of label sequences with one more label each.

    The bits are mixed as in the hash function MurmurHash3.

    Args:
      stem: uint32 `[..., 2]`, the hashes without the label; 0 for the empty sequence.
      label: int32 `[...]`.
    """
    odd = jnp.array([0x9E3779B1, 0x85EBCA77], jnp.uint32).reshape(*[1] * label.ndim, 2)
    word: Array = (
        stem * odd + (label.astype(jnp.uint32)[..., None] + jnp.uint32(1)) * odd[..., ::-1]
    )
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> jnp.uint32(shift))) * jnp.uint32(factor)
    word = word ^ (word >> jnp.uint32(16))
    return word
