"""The lattice of a transducer: the scores of its nodes, and the sum over its paths.

A node (t, u) stands for t consumed frames and u emitted labels. A path starts at (0, 0). From the
node (t, u), a blank leads to (t + 1, u), and the next label leads to (t, u + 1).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax._compensated import Total
from seqjax._log_space import exact, log_sum
from seqjax.types import Array

__all__ = ["log_probability", "node_scores"]


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def node_scores(logits: Array, labels: Array, real: Array, blank: int) -> tuple[Array, Array]:
    """Return log softmax of the logits at the blank and at one label of each node.

    Both are accurate where a probability is close to 1. The derivative contains no scatter, and all
    of its arrays `[..., V]` are computed from the logits, so that `jax.checkpoint` stores none.

    Args:
      logits: float `[..., V]`; -inf stays -inf, even if all logits of a node are -inf.
      labels: int32 `[...]`, the label of each node.
      real: bool, broadcast to `[...]`. Where it is False, the derivative is 0, even for logits of
        NaN, if nothing depends on the scores.
      blank: the class of the blank.

    Example:
      >>> logits, real = jnp.log(jnp.array([[1.0, 3.0]])), jnp.array([True])
      >>> blanks, emitted = node_scores(logits, jnp.array([1]), real, 0)
      >>> jnp.exp(blanks).round(2).tolist(), jnp.exp(emitted).round(2).tolist()
      ([0.25], [0.75])
    """
    return _node_scores(logits, labels, blank)[0]


@node_scores.defjvp
def _node_scores_jvp(blank: int, primals: Any, tangents: Any) -> Any:
    (logits, labels, real), (d_logits, _, _) = primals, tangents
    scores, probs = _node_scores(logits, labels, blank)
    probs = jnp.where(real[..., None], probs, 0.0)
    is_label = _numbers(logits) == labels[..., None]
    mean = (probs * d_logits).sum(-1)
    d_label = jnp.where(is_label, d_logits, 0.0).sum(-1)
    return scores, (d_logits[..., blank] - mean, d_label - mean)


def _node_scores(logits: Array, labels: Array, blank: int) -> tuple[tuple[Array, Array], Array]:
    """Return the scores, and the probabilities of all classes.

    log p_v = (x_v - x_m) - log1p(Σ_i≠m exp(x_i - x_m)),   m = argmax x
    """
    highest = jnp.argmax(logits, axis=-1, keepdims=True).astype(jnp.int32)
    top = jnp.take_along_axis(logits, highest, axis=-1)
    top = jnp.where(jnp.isneginf(top), 0.0, top)
    shares = jnp.exp(logits - top)
    rest = jnp.where(_numbers(logits) == highest, 0.0, shares).sum(-1, keepdims=True)
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1)
    less = jnp.log1p(rest)
    at_blank, at_label = (
        ((x - top) - less).squeeze(-1) for x in (logits[..., blank, None], at_label)
    )
    return (at_blank, at_label), shares / (1.0 + rest)


def _numbers(logits: Array) -> Array:
    """Return the number of its class for each logit."""
    return lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def log_probability(blanks: Array, emitted: Array, label_lengths: Array) -> Array:
    """Return the log-probability `[B]` of the labels, the sum over all paths to (T, U).

        α(t, u) = log (exp(α(t - 1, u) + b(t - 1, u)) + exp(α(t, u - 1) + y(t, u - 1)))

    The nodes of a diagonal, with equal t + u, depend only on the nodes of the previous diagonal.
    The loop runs over the diagonals. Its derivative is a loop over diagonals that multiplies
    probabilities, since `log_sum` stores the share of each of the two terms.

    Args:
      blanks: b, float `[B, T, U + 1]`, the log-probability of the blank at each node; 0 at masked
        frames.
      emitted: y, float `[B, T, U + 1]`, the log-probability of the next label at each node; -inf at
        masked frames and where there is no next label.
      label_lengths: int32 `[B]`, the number of labels of each sequence.

    References:
      Graves 2012, Sequence Transduction with Recurrent Neural Networks, section 2.4.

    Example:
      >>> half = jnp.full([1, 2, 2], jnp.log(0.5))  # two frames and one label: two paths of 1/8
      >>> y = half.at[:, :, 1].set(-jnp.inf)
      >>> jnp.exp(log_probability(half, y, jnp.array([1]))).tolist()
      [0.25]
    """
    batch, _, width = blanks.shape
    # After the last frame, certain moves lead from the number of labels to the last column, so all
    # sequences end at the same node.
    numbers = jnp.arange(width, dtype=jnp.int32)[None]
    beyond = jnp.where(numbers >= label_lengths[:, None], 0.0, -jnp.inf).astype(blanks.dtype)
    emitted = jnp.concatenate([emitted, beyond[:, None]], axis=1)
    blanks = jnp.pad(blanks, ((0, 0), (0, 1), (0, 0)), constant_values=-jnp.inf)
    moves = jnp.stack([_diagonals(blanks), _from_left(_diagonals(emitted), -jnp.inf)], axis=2)

    def diagonal(alpha: Total, moves: Array) -> tuple[Total, None]:
        before = [
            jnp.stack([a, _from_left(a, fill)], axis=1)
            for a, fill in zip(alpha, (-jnp.inf, 0.0), strict=True)
        ]
        return log_sum((before[0], before[1]), moves, 1), None

    start = jnp.where(numbers == 0, 0.0, -jnp.inf).astype(blanks.dtype)
    alpha, _ = lax.scan(diagonal, exact(jnp.broadcast_to(start, (batch, width))), moves[:-1])
    return alpha[0][:, -1] + alpha[1][:, -1]


def _diagonals(x: Array) -> Array:
    """Return entry (t, u) of `x [B, T, W]` at (t + u, u) of `[T + W - 1, B, W]`, -inf elsewhere."""
    batch, steps, width = x.shape
    rows = jnp.pad(
        jnp.moveaxis(x, 2, 1), ((0, 0), (0, 0), (0, width)), constant_values=-jnp.inf
    ).reshape(batch, width * (steps + width))
    # Each row is shorter by one than before, so each starts one entry further to the right.
    rows = rows[:, : width * (steps + width - 1)].reshape(batch, width, steps + width - 1)
    return jnp.moveaxis(rows, 2, 0)


def _from_left(x: Array, fill: float) -> Array:
    """Return, for each column u of `x [..., W]`, the value of column u - 1."""
    before = [(0, 0)] * (x.ndim - 1) + [(1, 0)]
    return jnp.pad(x, before, constant_values=fill)[..., :-1]
