"""Greedy decoding: at each frame, the most probable labels until the blank is most probable."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax._compensated import sum_along
from seqjax._compiled import compiled
from seqjax._label_sequences import packed
from seqjax.cells.stepping import select
from seqjax.transducer._model import Joint, Model, Predict, TransducerDecoded, checked_model
from seqjax.types import Array, PyTree

__all__ = ["greedy_frame", "transducer_greedy"]


def transducer_greedy(
    joint: Joint,
    predict: Predict,
    encoded: Any,
    state: PyTree,
    *,
    lengths: Any = None,
    mask: Any = None,
    blank: int = 0,
    max_symbols: int = 4,
) -> TransducerDecoded:
    """Return the labels of the path that takes the most probable class at each node.

    At each frame, labels are emitted until the blank is the most probable class. After
    `max_symbols` labels, the blank is taken, even if it is not the most probable class. The loop
    over frames is one `lax.scan`. At a frame, the joint network is evaluated until all sequences of
    the batch have taken the blank.

    Args:
      joint: a function of two float arrays `[..., E]` and `[..., P]`, whose leading axes may be
        broadcast, that returns logits `[..., V]`.
      predict: `predict(labels, state) -> (predicted, state)`, one step of the prediction network
        for labels int32 `[N]`: predicted is float `[N, P]`, and the arrays of the state have the
        leading axis N. The first label is the blank, which stands for the start.
      encoded: float `[B, T, E]`, the outputs of the encoder. Values in padding are ignored.
      state: the state of the prediction network before its first step, arrays `[B, …]`.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      blank: the class of the blank.
      max_symbols: S, the maximum number of labels at a frame.

    Returns:
      `TransducerDecoded` with n = 1. `log_probs` is the log-probability of the path, a lower bound
      of the log-probability of the labels.

    Raises:
      TypeError, ValueError: if an argument has a wrong type or shape, or a function returns other
        shapes.

    References:
      Graves 2012, Sequence Transduction with Recurrent Neural Networks, section 2.

    Example:
      >>> predict = lambda labels, count: (1.0 * count[:, None], count + 1)
      >>> joint = lambda f, g: 9 * f * (1 - g) - 9 * g * jnp.arange(3)  # a label, then blanks
      >>> frames = jnp.eye(3)[jnp.array([[0, 2, 0, 1]])]
      >>> transducer_greedy(joint, predict, frames, jnp.array([0]), max_symbols=1).tokens.tolist()
      [[[2, 0, 0, 0]]]
    """
    model, encoded, real, start = checked_model(
        joint, predict, encoded, state, lengths, mask, blank, max_symbols
    )

    def frame(carry: tuple[Array, PyTree], xs: tuple[Array, Array]) -> Any:
        written = greedy_frame(model, *xs, *carry)
        return (written.predicted, written.state), (written.labels, written.log_probs)

    _, (labels, log_probs) = lax.scan(frame, start, (jnp.moveaxis(encoded, 1, 0), real.T))
    return _decoded(labels, log_probs, blank=model.blank)


@compiled("blank")
def _decoded(labels: Array, log_probs: Array, *, blank: int) -> TransducerDecoded:
    """Return the path of each sequence, from labels `[T, B, S]` and log-probabilities `[T, B]`."""
    steps, batch, most = labels.shape
    path = jnp.moveaxis(labels, 0, 1).reshape(batch, steps * most)
    tokens, count = packed(path, path != blank, blank)
    log_probs = sum_along(log_probs, axis=0)[:, None]
    return TransducerDecoded(tokens[:, None], count[:, None], log_probs, log_probs)


class Written(NamedTuple):
    """The labels of one frame.

    Attributes:
      predicted: `[N, P]`, the output of the prediction network after the labels.
      state: the state of the prediction network after the labels.
      labels: int32 `[N, S]`, followed by blanks.
      log_probs: `[N]`, the log-probability of the labels and of the blank after them.
    """

    predicted: Array
    state: PyTree
    labels: Array
    log_probs: Array


def greedy_frame(
    model: Model, encoded: Array, real: Array, predicted: Array, state: PyTree
) -> Written:
    """Return the labels of one frame `[N, E]`; none where `real`, bool `[N]`, is False."""

    def choose(s: Array, predicted: Array) -> tuple[Array, Array]:
        log_probs = model.log_probs(encoded, predicted)
        best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
        best = jnp.where(s < model.max_symbols, best, model.blank)
        return best, jnp.take_along_axis(log_probs, best[:, None], axis=-1)[:, 0]

    def body(carry: Any) -> Any:
        s, label, written = carry
        emits = label != model.blank
        new = model.predict(label, written.state)
        predicted, state = select(emits, new, (written.predicted, written.state))
        labels = written.labels.at[:, s].set(label)
        label, log_prob = choose(s + 1, predicted)
        label = jnp.where(emits, label, model.blank)
        log_probs = written.log_probs + jnp.where(emits, log_prob, 0.0)
        return s + 1, label, Written(predicted, state, labels, log_probs)

    none = jnp.full((real.shape[0], model.max_symbols), model.blank, jnp.int32)
    label, log_prob = choose(jnp.int32(0), predicted)
    written = Written(predicted, state, none, jnp.where(real, log_prob, 0.0))
    carry = jnp.int32(0), jnp.where(real, label, model.blank), written
    return lax.while_loop(lambda carry: (carry[1] != model.blank).any(), body, carry)[2]
