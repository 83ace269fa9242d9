"""The parts of a transducer that decoders call, and the checks of their arguments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax._label_sequences import require_class
from seqjax._log_space import log_normalized
from seqjax.cells.ops import accumulator_dtype
from seqjax.decoding._calls import require_pair, require_same_state
from seqjax.types import Array, PyTree

__all__ = ["Model", "TransducerDecoded", "checked_model"]

Joint = Callable[[Array, Array], Array]
Predict = Callable[[Array, PyTree], tuple[Array, PyTree]]


class TransducerDecoded(NamedTuple):
    """The n best label sequences for each of B inputs of T frames; n is 1 for greedy decoding.

    Attributes:
      tokens: int32 `[B, n, T * max_symbols]`, the labels, followed by blanks.
      lengths: int32 `[B, n]`, the number of labels.
      log_probs: float32 or wider `[B, n]`, the log-probabilities by the transducer alone. If fewer
        than n label sequences were found, the remaining entries are -inf. If a logit at a real
        frame, or a score of `fusion` that the search reads, is NaN or +inf, they are NaN.
      scores: `[B, n]`, the values by which label sequences are ranked: log_probs and, with
        `fusion`, the score of the other model.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    scores: Array


class Model(NamedTuple):
    """The checked functions and options of a decoder.

    Attributes:
      joint: `joint(encoded, predicted) -> logits`.
      predict: `predict(labels, state) -> (predicted, state)`.
      blank: the class of the blank.
      max_symbols: S, the maximum number of labels at a frame.
      dtype: the dtype of log-probabilities, float32 or wider.
    """

    joint: Joint
    predict: Predict
    blank: int
    max_symbols: int
    dtype: Any

    def log_probs(self, encoded: Array, predicted: Array) -> Array:
        """Return the log-probabilities of all classes."""
        return log_normalized(self.joint(encoded, predicted).astype(self.dtype))


def checked_model(
    joint: Any,
    predict: Any,
    encoded: Any,
    state: PyTree,
    lengths: Any,
    mask: Any,
    blank: Any,
    max_symbols: Any,
) -> tuple[Model, Array, Array, tuple[Array, PyTree]]:
    """Check the arguments of a decoder.

    Return the model, the encoder outputs `[B, T, E]` (0 in padding), the mask `[B, T]`, and the
    output and state of the prediction network before the first label.
    """
    for name, function in (("joint", joint), ("predict", predict)):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {checks.brief(function)}")
    encoded = checks.require_array("encoded", encoded, jnp.floating, "a float array [B, T, E]")
    if encoded.ndim != 3:
        raise ValueError(f"encoded: expected [B, T, E], got {encoded.shape}")
    batch, steps, _ = encoded.shape
    blank = checks.require_integer("blank", blank, least=0)
    max_symbols = checks.require_integer("max_symbols", max_symbols)
    state = jax.tree.map(jnp.asarray, state)
    if any(leaf.shape[:1] != (batch,) for leaf in jax.tree.leaves(state)):
        raise ValueError(
            f"state: expected arrays with leading axis B={batch}, got {checks.brief(state)}"
        )
    real = sequences.step_mask((batch,), steps, lengths=lengths, mask=mask)
    real = jnp.ones((batch, steps), bool) if real is None else real
    start = predict(jnp.full((batch,), blank, jnp.int32), state)
    require_pair("predict", "predicted", start)
    require_same_state("predict", state, jax.tree.map(jnp.asarray, start[1]))
    frame = jax.ShapeDtypeStruct((batch, encoded.shape[2]), encoded.dtype)
    logits = jax.eval_shape(joint, frame, start[0])
    if logits.ndim != 2 or logits.shape[0] != batch or not logits.shape[1]:
        raise ValueError(
            f"joint: expected it to return logits [N, V] with N={batch}, got {logits.shape}"
        )
    require_class("blank", blank, logits.shape[1])
    model = Model(joint, predict, blank, max_symbols, accumulator_dtype(logits.dtype))
    return model, sequences.zero_masked(encoded, mask=real), real, start
