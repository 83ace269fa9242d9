"""Metrics, which are means over the real positions of a batch. Padding is ignored.

Each metric of a batch is a `Mean`, which stores a total and a count. To get the metric of a whole
evaluation, merge the means of its batches. The merged mean is exact, even if the batches have
unequal sizes. The losses of `seqjax.losses` are the values of these means.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax._elements import Mean
from seqjax._hints import LOSSES, hints
from seqjax._readout import linear_readout

__all__ = [
    "Mean",
    "accuracy",
    "binary_accuracy",
    "binary_cross_entropy",
    "cross_entropy",
    "edit_distance",
    "linear_cross_entropy",
    "mean_absolute_error",
    "mean_squared_error",
    "perplexity",
]


@hints(**LOSSES)
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """Return `seqjax.losses.cross_entropy` as a `Mean`, in nats per position.

    Args:
      logits: float [..., C], the scores of the classes.
      labels: int [...], the classes, in [0, C).
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool [...] with the shape of labels, True at real positions. Pass lengths or mask, not
        both.
      label_smoothing: float in [0, 1). To compute a perplexity, pass label_smoothing=0.

    Returns:
      The mean over the real positions, in at least float32.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.cross_entropy`.

    Example:
      >>> mean = cross_entropy(jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 3]]))
      >>> int(mean.count), round(float(perplexity(mean)), 4)
      (3, 4.0)
    """
    return _elements.mean(
        *_elements.cross_entropies(logits, labels, lengths, mask, label_smoothing)
    )


@hints(**LOSSES)
def linear_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    transposed: bool = False,
    chunk_size: int | None = None,
) -> Mean:
    """Return `seqjax.losses.linear_cross_entropy` as a `Mean`, in nats per position.

    Args:
      hidden: float [..., H], the outputs of a recurrent network.
      kernel: float [H, C] (with `transposed`: [C, H]), the matrix of the read-out.
      bias: float [C], the bias of the read-out, or None.
      labels: int [...], the classes, in [0, C).
      lengths: int [...], the number of real steps of each sequence. The time axis of hidden and
        labels comes right after the axes of `lengths`.
      mask: bool [...] with the shape of labels, True at real positions. Pass lengths or mask, not
        both.
      label_smoothing: float in [0, 1). To compute a perplexity, pass label_smoothing=0.
      transposed: whether kernel is [C, H].
      chunk_size: the number of positions whose logits are computed together.

    Returns:
      The mean over the real positions, in at least float32.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.linear_cross_entropy`.

    Example:
      >>> labels = jnp.array([[0, 1, 3]])
      >>> mean = linear_cross_entropy(jnp.ones((1, 3, 2)), jnp.zeros((2, 4)), None, labels)
      >>> int(mean.count), round(float(perplexity(mean)), 4)
      (3, 4.0)
    """
    read = linear_readout(
        hidden, kernel, bias, labels, lengths=lengths, mask=mask, label_smoothing=label_smoothing,
        transposed=transposed, chunk_size=chunk_size,
    )  # fmt: skip
    return read.means()[0]


@hints(**LOSSES)
def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return `seqjax.losses.binary_cross_entropy` as a `Mean`, in nats per element.

    Args:
      logits: float [...], the log-odds of class 1.
      labels: float, int or bool [...], 0 or 1 or a probability in between.
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of logits must begin with the shape of `mask`.
        Pass `lengths` or `mask`, not both.

    Returns:
      The mean over the elements of the real positions, in at least float32.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.binary_cross_entropy`.

    Example:
      >>> mean = binary_cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3)))
      >>> int(mean.count), round(float(mean.value()), 4)
      (6, 0.6931)
    """
    return _elements.mean(*_elements.binary_cross_entropies(logits, labels, lengths, mask))


@hints(**LOSSES)
def mean_absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return `seqjax.losses.mean_absolute_error` as a `Mean`.

    Args:
      predictions: float [...], the predicted values.
      targets: float, int or bool with the shape of predictions, the true values.
      lengths: int [...], the number of real steps of each sequence. The time axis of predictions
        and targets comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of predictions must begin with the shape of
        `mask`. Pass `lengths` or `mask`, not both.

    Returns:
      The mean over the elements of the real positions, in at least float32.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.mean_absolute_error`.

    Example:
      >>> mean = mean_absolute_error(jnp.ones((2, 3)), jnp.zeros((2, 3)))
      >>> int(mean.count), float(mean.value())
      (6, 1.0)
    """
    return _elements.mean(*_elements.absolute_errors(predictions, targets, lengths, mask))


@hints(**LOSSES)
def mean_squared_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return `seqjax.losses.mean_squared_error` as a `Mean`.

    Args:
      predictions: float [...], the predicted values.
      targets: float, int or bool with the shape of predictions, the true values.
      lengths: int [...], the number of real steps of each sequence. The time axis of predictions
        and targets comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of predictions must begin with the shape of
        `mask`. Pass `lengths` or `mask`, not both.

    Returns:
      The mean over the elements of the real positions, in at least float32.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.mean_squared_error`.

    Example:
      >>> mean = mean_squared_error(jnp.ones((2, 3)), jnp.zeros((2, 3)))
      >>> int(mean.count), float(mean.value())
      (6, 1.0)
    """
    return _elements.mean(*_elements.squared_errors(predictions, targets, lengths, mask))


@hints(**LOSSES)
def accuracy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return the fraction of real positions at which the label has the largest logit.

    If several logits are equally large, the first of them counts as the largest.

    Args:
      logits: float [..., C], the scores of the classes. If a logit of a real position is NaN, the
        returned mean is NaN.
      labels: int [...], the classes, in [0, C). Under tracing, if a real label is out of range, the
        returned mean is NaN.
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool [...] with the shape of labels, True at real positions. Pass lengths or mask, not
        both.

    Returns:
      The mean of the hits, whose count is the number of real positions.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.cross_entropy`.

    Example:
      >>> logits = jnp.array([[[2.0, 1.0], [0.0, 1.0], [5.0, 0.0]]])
      >>> mask = jnp.array([[True, True, False]])
      >>> float(accuracy(logits, jnp.array([[0, 0, 0]]), mask=mask).value())
      0.5
    """
    return _elements.mean(*_elements.hits(logits, labels, lengths, mask))


@hints(**LOSSES)
def binary_accuracy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Return the fraction of real elements that are classified correctly.

    An element is correct if the logit is above 0 and the label above 1/2, or if neither is.

    Args:
      logits: float [...], the log-odds of class 1. If a logit of a real position is NaN, the
        returned mean is NaN.
      labels: float, int or bool [...], 0 or 1 or a probability in between. Under tracing, if a
        label is outside [0, 1], the returned mean is NaN.
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of logits must begin with the shape of `mask`.
        Pass `lengths` or `mask`, not both.

    Returns:
      The mean of the hits, whose count is the number of real elements.

    Raises:
      TypeError, ValueError: an argument is not valid for `seqjax.losses.binary_cross_entropy`.

    Example:
      >>> float(binary_accuracy(jnp.array([3.0, -1.0]), jnp.array([1, 1])).value())
      0.5
    """
    return _elements.mean(*_elements.binary_hits(logits, labels, lengths, mask))


def perplexity(mean: Mean) -> jax.Array:
    """Return the perplexity, which is the exponential of a mean cross entropy in nats.

    First merge the means of all batches, because an average of perplexities is not a perplexity. If
    the mean is empty, the perplexity is 1.

    Args:
      mean: the result of `cross_entropy`, merged over all batches of the evaluation.

    Returns:
      The perplexity, a float scalar.

    Raises:
      TypeError: `mean` is not a `Mean`.

    Example:
      >>> import math
      >>> round(float(perplexity(Mean(total=3 * math.log(8.0), count=3))), 4)
      8.0
    """
    if not isinstance(mean, Mean):
        raise TypeError(f"mean: expected a seqjax.metrics.Mean, got {checks.brief(mean)}")
    return jnp.exp(mean.value())


def edit_distance(
    reference: Sequence[object] | np.ndarray | jax.Array,
    hypothesis: Sequence[object] | np.ndarray | jax.Array,
) -> int:
    """Return the least number of insertions, deletions and substitutions between two sequences.

        d(i, j) = min(d(i-1, j) + 1, d(i, j-1) + 1, d(i-1, j-1) + [r_i ≠ h_j])

    The error rate of words, characters or phonemes is the sum of the distances divided by the sum
    of the reference lengths.

    Args:
      reference: a sequence of hashable tokens, or an array of one dimension. The tokens of a string
        are its characters. Two tokens are equal if they are the same key of a `dict`. For example,
        1, 1.0, True and `np.int32(1)` are equal, but 1 and "1" are not.
      hypothesis: a sequence of tokens, as for `reference`.

    Returns:
      The distance, which is 0 for equal sequences.

    Raises:
      ImportError: rapidfuzz is not installed.
      TypeError: an argument is not a sequence, is a masked array, is an array that does not have
        one dimension, or has a token that cannot be hashed; or one argument has text and the other
        has bytes.

    References:
      Levenshtein (1966), Binary codes capable of correcting deletions, insertions, and reversals.

    Example:
      >>> edit_distance("kitten", "sitting"), edit_distance(["a", "b"], [])
      (3, 2)
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError(
            'seqjax.metrics.edit_distance needs rapidfuzz: pip install "seqjax[text]"'
        ) from error
    # rapidfuzz compares hashes: -1 counts as equal to -2, which has the same hash, and "a" to 97.
    # Therefore the tokens are replaced by numbers that are equal only for equal tokens.
    numbers: dict[Hashable, int] = {}
    first = _numbered("reference", reference, numbers)
    second = _numbered("hypothesis", hypothesis, numbers)
    kinds = {type(token) for token in numbers}
    kinds |= {type(tokens) for tokens in (reference, hypothesis) if isinstance(tokens, bytes)}
    if str in kinds and bytes in kinds:
        raise TypeError(
            "reference, hypothesis: expected text or bytes in both, got text and bytes; decode the "
            'bytes first, with value.decode("utf-8")'
        )
    return int(Levenshtein.distance(first, second))


def _numbered(name: str, tokens: Any, numbers: dict[Hashable, int]) -> list[int]:
    """Return the number of each token in `numbers`, to which new tokens are added."""
    if not isinstance(tokens, Sequence):
        if (
            np.ndim(tokens) != 1
            or checks.is_traced(tokens)
            or not hasattr(tokens, "__array__")
            or np.ma.is_masked(tokens)
        ):
            raise TypeError(
                f"{name}: expected a sequence of tokens or an array [T], got {checks.brief(tokens)}"
            )
        tokens = np.asarray(tokens).tolist()
    try:
        return [numbers.setdefault(token, len(numbers)) for token in tokens]
    except TypeError as error:
        raise TypeError(f"{name}: expected hashable tokens, got {error}") from None
