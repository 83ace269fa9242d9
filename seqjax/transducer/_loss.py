"""The transducer loss, from logits or from the two inputs of a joint network."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _chunked, checks, sequences
from seqjax._compiled import compiled
from seqjax._elements import averaged
from seqjax._hints import ALIGNMENT_LOSSES, hints
from seqjax._label_sequences import Labels, checked_labels, require_class
from seqjax.cells.ops import accumulator_dtype
from seqjax.transducer._lattice import log_probability, node_scores
from seqjax.types import Array

__all__ = ["joint_transducer_loss", "transducer_loss"]

Joint = Callable[[Array, Array], Array]


@hints(**ALIGNMENT_LOSSES)
def transducer_loss(
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
    """Return the transducer loss in nats per sequence, averaged over the sequences of the batch.

        L = -log Σ_paths Π_(t,u) p_tu(move),   over the paths from (0, 0) to (T, U)

    A node (t, u) stands for t consumed frames and u emitted labels. At a node, the model either
    emits the next label, which leads to (t, u + 1), or the blank, which leads to (t + 1, u). A
    sequence can have more labels than frames. If a sequence has labels but no frames, or if logits
    of -inf forbid all paths, the labels are impossible: L is inf, and its gradient is 0. A sequence
    with neither frames nor labels is ignored in the mean.

    The gradient is computed from the logits and a few numbers for each node.
    `joint_transducer_loss` computes the same loss without an array of all logits.

    Args:
      logits: float `[B, T, N + 1, V]`, unnormalised; entry `[b, t, u]` depends on frame t and on
        the first u labels. One of the V classes is the blank. Values in padding, including NaN,
        affect neither the loss nor its gradient.
      labels: int `[B, N]`, classes other than the blank; padding may contain any value.
      lengths: int `[B]`, 0 to T, the number of frames of each sequence.
      mask: bool `[B, T]`, True at real frames; frames on both sides of a gap are treated as
        adjacent. Pass `lengths` or `mask`, not both.
      label_lengths: int `[B]`, 0 to N, the number of labels of each sequence; the default is N.
      blank: the class of the blank.
      zero_infinity: whether the loss of impossible labels is 0 instead of inf.
      per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.

    Returns:
      The loss, a scalar or `[B]` in float32 or wider, at least 0.

    Raises:
      TypeError: if logits are not floating-point numbers, or labels or lengths are not integers.
      ValueError: if shapes do not fit; outside tracing, also if lengths are out of range or a label
        is invalid. Under tracing, an invalid label makes the loss NaN.

    References:
      Graves 2012, Sequence Transduction with Recurrent Neural Networks, section 2.

    Example:
      >>> logits = jnp.zeros([1, 2, 2, 4])  # p = 1/4 each; "1 - -" and "- 1 -" are paths of "1"
      >>> loss = transducer_loss(logits, jnp.array([[1]]))
      >>> print(jnp.exp(-loss) * 4**3)
      2.0
    """
    logits = checks.require_array("logits", logits, jnp.floating, "a float array [B, T, N+1, V]")
    if logits.ndim != 4 or 0 in logits.shape[2:]:
        raise ValueError(f"logits: expected [B, T, N+1, V], got {logits.shape}")
    zero_infinity = checks.require_bool("zero_infinity", zero_infinity)
    batch, steps, width, classes = logits.shape
    sizes = batch, steps, width
    nodes, blank = _checked_nodes(
        sizes, classes, labels, lengths, mask, label_lengths, blank, "logits"
    )
    loss = _loss_of_logits(nodes, logits, blank=blank, zero_infinity=zero_infinity)
    return averaged(loss, _counted(nodes), per_sequence)


@hints(**ALIGNMENT_LOSSES)
def joint_transducer_loss(
    joint: Joint,
    encoded: Any,
    predicted: Any,
    labels: Any,
    *,
    lengths: Any = None,
    mask: Any = None,
    label_lengths: Any = None,
    blank: int = 0,
    zero_infinity: bool = False,
    chunk_size: int | None = None,
    per_sequence: bool = False,
) -> Array:
    """Return the `transducer_loss` of a joint network, with the logits of few frames at a time.

        L = transducer_loss(joint(encoded[:, :, None], predicted[:, None]), labels)

    The function divides the frames into chunks. If there is more than one chunk, the logits of a
    chunk are computed a second time for the gradient, and no array of all logits is stored.

    Args:
      joint: a function of two float arrays `[..., E]` and `[..., P]`, whose leading axes may be
        broadcast, that returns logits `[..., V]`.
      encoded: float `[B, T, E]`, the outputs of the encoder. Values in padding are ignored.
      predicted: float `[B, N + 1, P]`, the outputs of the prediction network; entry `[b, u]`
        depends on the first u labels. Values in padding are ignored.
      labels: int `[B, N]`, classes other than the blank; padding may contain any value.
      lengths: see `transducer_loss`.
      mask: see `transducer_loss`.
      label_lengths: see `transducer_loss`.
      blank: see `transducer_loss`.
      zero_infinity: see `transducer_loss`.
      chunk_size: the number of frames in a chunk. By default, the logits of a chunk in float32 need
        at most 8 MB on a CPU and 64 MB on other devices, or a chunk has one frame.
      per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.

    Returns:
      The loss, a scalar or `[B]` in float32 or wider, at least 0.

    Raises:
      TypeError, ValueError: see `transducer_loss`; also if `joint` is not a function or returns
        other shapes.

    Example:
      >>> joint = lambda f, g: jnp.tanh(f + g)
      >>> f, g, labels = jnp.ones([2, 5, 4]), jnp.ones([2, 3, 4]), jnp.array([[1, 3], [2, 0]])
      >>> options = {"lengths": jnp.array([5, 2]), "label_lengths": jnp.array([2, 1])}
      >>> loss = joint_transducer_loss(joint, f, g, labels, chunk_size=2, **options)
      >>> whole = transducer_loss(joint(f[:, :, None], g[:, None]), labels, **options)
      >>> bool(jnp.allclose(loss, whole))
      True
    """
    if not callable(joint):
        raise TypeError(f"joint: expected a function, got {checks.brief(joint)}")
    encoded = checks.require_array("encoded", encoded, jnp.floating, "a float array [B, T, E]")
    predicted = checks.require_array(
        "predicted", predicted, jnp.floating, "a float array [B, N+1, P]"
    )
    if encoded.ndim != 3:
        raise ValueError(f"encoded: expected [B, T, E], got {encoded.shape}")
    batch, steps, features = encoded.shape
    if predicted.ndim != 3 or predicted.shape[0] != batch or predicted.shape[1] == 0:
        raise ValueError(f"predicted: expected [B, N+1, P] with B={batch}, got {predicted.shape}")
    zero_infinity = checks.require_bool("zero_infinity", zero_infinity)
    width = predicted.shape[1]
    frame = jax.ShapeDtypeStruct((batch, 1, 1, features), encoded.dtype)
    logits = jax.eval_shape(joint, frame, predicted[:, None])
    if logits.ndim != 4 or logits.shape[:3] != (batch, 1, width) or logits.shape[3] == 0:
        raise ValueError(
            f"joint: expected it to return logits {(batch, 't', width, 'V')}, got {logits.shape} "
            "for t=1"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"joint: expected it to return floats, got {logits.dtype}")
    sizes, classes = (batch, steps, width), logits.shape[3]
    nodes, blank = _checked_nodes(
        sizes, classes, labels, lengths, mask, label_lengths, blank, "predicted"
    )
    if chunk_size is None:
        chunk_size = max(_chunked.chunk_size_for(1, classes) // max(batch * width, 1), 1)
    chunk_size = min(checks.require_integer("chunk_size", chunk_size), max(steps, 1))
    encoded = sequences.zero_masked(encoded, mask=nodes.frames)
    predicted = sequences.zero_masked(predicted, mask=nodes.columns)

    def scores(encoded: Array) -> tuple[Array, Array]:
        logits = joint(encoded[:, :, None], predicted[:, None])
        return _scores(logits, nodes.labels.ids, nodes.columns[:, None], blank=blank)

    both = scores(encoded) if chunk_size == steps else _by_chunks(scores, encoded, chunk_size)
    loss = _loss(nodes, both, zero_infinity=zero_infinity)
    return averaged(loss, _counted(nodes), per_sequence)


def _by_chunks(
    scores: Callable[[Array], tuple[Array, Array]], encoded: Array, chunk_size: int
) -> tuple[Array, Array]:
    """Return `scores(encoded)`, which computes each frame alone, by chunks of frames."""
    batch, steps, features = encoded.shape
    count = -(-steps // chunk_size)
    encoded = jnp.pad(encoded, ((0, 0), (0, count * chunk_size - steps), (0, 0)))
    chunks = jnp.moveaxis(encoded.reshape(batch, count, chunk_size, features), 1, 0)
    both = lax.map(jax.checkpoint(scores, prevent_cse=False), chunks)

    def joined(found: Array) -> Array:
        found = jnp.moveaxis(found, 0, 1)
        return found.reshape(batch, count * chunk_size, *found.shape[3:])[:, :steps]

    return joined(both[0]), joined(both[1])


class _Nodes(NamedTuple):
    """The checked arguments of both losses, for a lattice of T frames and W = N + 1 columns.

    Attributes:
      labels: the labels.
      frames: bool `[B, T]`, True at real frames.
      columns: bool `[B, W]`, True for the numbers of labels from 0 to that of the sequence.
    """

    labels: Labels
    frames: Array
    columns: Array


def _checked_nodes(
    sizes: tuple[int, int, int],
    classes: int,
    labels: Any,
    lengths: Any,
    mask: Any,
    label_lengths: Any,
    blank: Any,
    source: str,
) -> tuple[_Nodes, int]:
    batch, steps, width = sizes
    blank = require_class("blank", blank, classes)
    frames = sequences.step_mask((batch,), steps, lengths=lengths, mask=mask)
    frames = jnp.ones((batch, steps), bool) if frames is None else frames
    checked = checked_labels(labels, label_lengths, batch, classes, blank)
    if checked.ids.shape[1] != width - 1:
        raise ValueError(
            f"labels: expected [B, N] with N={width - 1}, one less than axis N+1 of {source}, got "
            f"{checked.ids.shape}"
        )
    return _Nodes(checked, frames, _columns(checked.lengths, width)), blank


@compiled("width")
def _columns(label_lengths: Array, width: int) -> Array:
    return sequences.lengths_to_mask(label_lengths + 1, width)


@compiled()
def _counted(nodes: _Nodes) -> Array:
    """Return the sequences that count in the mean, `[B]`."""
    return nodes.frames.any(axis=1) | (nodes.labels.lengths > 0)


@compiled("blank", "zero_infinity")
def _loss_of_logits(nodes: _Nodes, logits: Array, *, blank: int, zero_infinity: bool) -> Array:
    """Return the loss of each sequence, whose gradient is computed from the logits again."""
    real = nodes.frames[:, :, None] & nodes.columns[:, None]
    remat = jax.checkpoint(functools.partial(_scores, blank=blank))
    return _loss(nodes, remat(logits, nodes.labels.ids, real), zero_infinity=zero_infinity)


@compiled("blank")
def _scores(logits: Array, labels: Array, real: Array, *, blank: int) -> tuple[Array, Array]:
    """Return the scores of both moves, `[B, t, W]`, from logits `[B, t, W, V]`."""
    logits = logits.astype(accumulator_dtype(logits.dtype))
    next_labels = jnp.pad(labels, ((0, 0), (0, 1)))
    labels = jnp.broadcast_to(next_labels[:, None], logits.shape[:-1])
    return node_scores(logits, labels, real, blank)


@compiled("zero_infinity")
def _loss(nodes: _Nodes, scores: tuple[Array, Array], *, zero_infinity: bool) -> Array:
    """Return the loss of each sequence for the scores of both moves at each node."""
    frames, columns = nodes.frames[:, :, None], nodes.columns[:, None]
    has_next = jnp.pad(columns[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
    # No path reaches the columns of padding, so their blanks can have any score but NaN.
    blanks = jnp.where(frames & columns, scores[0], 0.0)
    emitted = jnp.where(frames & has_next, scores[1], -jnp.inf)
    log_p = log_probability(blanks, emitted, nodes.labels.lengths)
    impossible = 0.0 if zero_infinity else jnp.inf
    loss = jnp.where(jnp.isneginf(log_p), impossible, jnp.maximum(-log_p, 0.0))
    return jnp.where(nodes.labels.valid, loss, jnp.nan)
