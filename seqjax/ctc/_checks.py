"""Argument checks that the CTC loss and decoders share."""

from typing import Any

import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._label_sequences import require_class
from seqjax.cells.ops import accumulator_dtype
from seqjax.types import Array

__all__ = ["checked_frames"]


def checked_frames(logits: Any, lengths: Any, mask: Any, blank: Any) -> tuple[Array, Array, int]:
    """Check and return the logits (in float32 or wider, 0 in padding), the mask and the blank."""
    logits = checks.require_array("logits", logits, jnp.floating, "a float array [B, T, V]")
    if logits.ndim != 3 or logits.shape[2] == 0:
        raise ValueError(f"logits: expected [B, T, V], got {logits.shape}")
    batch, steps, classes = logits.shape
    blank = require_class("blank", blank, classes)
    found = sequences.step_mask((batch,), steps, lengths=lengths, mask=mask)
    found = jnp.ones((batch, steps), bool) if found is None else found
    logits = logits.astype(accumulator_dtype(logits.dtype))
    return sequences.zero_masked(logits, mask=found), found, blank
