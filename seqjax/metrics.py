"""Metrics of a batch as mergeable means over its real positions: padding never counts.

Every function returns a `Mean`, which keeps total and count apart, so that an evaluation over
batches of unequal size is exact. The losses of `seqjax.losses` are the values of these means.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax._elements import Mean
from seqjax._readout import linear_readout

__all__ = [
    "Mean",
    "accuracy",
    "binary_accuracy",
    "binary_cross_entropy",
    "cross_entropy",
    "edit_distance",
    "linear_cross_entropy",
    "mean_squared_error",
    "perplexity",
]


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> Mean:
    """`seqjax.losses.cross_entropy` as a mergeable mean, in nats a position.

    Args:
      logits: float [..., C].
      labels: int [...], in [0, C).
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool [...], True is real.
      label_smoothing: float in [0, 1). Leave it at 0 for a perplexity.

    Returns:
      The mean over the real positions, in at least float32.

    Raises:
      TypeError, ValueError: as `seqjax.losses.cross_entropy`.

    Example:
      >>> mean = cross_entropy(jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 3]]))
      >>> int(mean.count), round(float(perplexity(mean)), 4)
      (3, 4.0)
    """
    return _elements.mean(
        *_elements.cross_entropies(logits, labels, lengths, mask, label_smoothing)
    )


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
    """`seqjax.losses.linear_cross_entropy` as a mergeable mean, in nats a position.

    Args:
      hidden: float [..., H].
      kernel: float [H, C], or [C, H] with `transposed`.
      bias: float [C], or None.
      labels: int [...], in [0, C).
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool [...], True is real.
      label_smoothing: float in [0, 1). Leave it at 0 for a perplexity.
      transposed: whether kernel is [C, H].
      chunk_size: positions whose logits are computed together.

    Returns:
      The mean over the real positions, in at least float32.

    Raises:
      TypeError, ValueError: as `seqjax.losses.linear_cross_entropy`.

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


def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """`seqjax.losses.binary_cross_entropy` as a mergeable mean, in nats an element.

    Args:
      logits: float [...], the log-odds of class 1.
      labels: float, int or bool [...], 0 or 1 or a probability in between.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool, True is real; its shape is a leading part of the shape of logits.

    Returns:
      The mean over the elements of the real positions, in at least float32.

    Raises:
      TypeError, ValueError: as `seqjax.losses.binary_cross_entropy`.

    Example:
      >>> mean = binary_cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3)))
      >>> int(mean.count), round(float(mean.value()), 4)
      (6, 0.6931)
    """
    return _elements.mean(*_elements.binary_cross_entropies(logits, labels, lengths, mask))


def mean_squared_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """`seqjax.losses.mean_squared_error` as a mergeable mean.

    Args:
      predictions: float [...].
      targets: float, int or bool, of the shape of predictions.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool, True is real; its shape is a leading part of the shape of predictions.

    Returns:
      The mean over the elements of the real positions, in at least float32.

    Raises:
      TypeError, ValueError: as `seqjax.losses.mean_squared_error`.

    Example:
      >>> mean = mean_squared_error(jnp.ones((2, 3)), jnp.zeros((2, 3)))
      >>> int(mean.count), float(mean.value())
      (6, 1.0)
    """
    return _elements.mean(*_elements.squared_errors(predictions, targets, lengths, mask))


def accuracy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Fraction of the real positions whose largest logit (the first on ties) is the label's.

    Args:
      logits: float [..., C]; a real position with NaN among its logits makes the total NaN.
      labels: int [...], in [0, C); under tracing, a label outside makes the total NaN.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool [...], True is real.

    Returns:
      The mean of the hits, its count being the number of real positions.

    Raises:
      TypeError, ValueError: as `seqjax.losses.cross_entropy`.

    Example:
      >>> logits = jnp.array([[[2.0, 1.0], [0.0, 1.0], [5.0, 0.0]]])
      >>> mask = jnp.array([[True, True, False]])
      >>> float(accuracy(logits, jnp.array([[0, 0, 0]]), mask=mask).value())
      0.5
    """
    return _elements.mean(*_elements.hits(logits, labels, lengths, mask))


def binary_accuracy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Mean:
    """Fraction of the real elements where "logit above 0" agrees with "label above 1/2".

    Args:
      logits: float [...], the log-odds of class 1; NaN at a real position makes the total NaN.
      labels: float, int or bool [...], 0 or 1 or a probability in between; under tracing, a label
        outside [0, 1] makes the total NaN.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool, True is real; its shape is a leading part of the shape of logits.

    Returns:
      The mean of the hits, its count being the number of real elements.

    Raises:
      TypeError, ValueError: as `seqjax.losses.binary_cross_entropy`.

    Example:
      >>> float(binary_accuracy(jnp.array([3.0, -1.0]), jnp.array([1, 1])).value())
      0.5
    """
    return _elements.mean(*_elements.binary_hits(logits, labels, lengths, mask))


def perplexity(mean: Mean) -> jax.Array:
    """The exponential of a mean cross entropy in nats; 1 for an empty mean.

    Merge the means of all batches first: an average of perplexities is not a perplexity.

    Args:
      mean: what `cross_entropy` returned, merged over the evaluation.

    Returns:
      float scalar.

    Raises:
      TypeError: not a `Mean`.

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
    """Return how many insertions, deletions and substitutions turn one sequence into another.

        d(i, j) = min(d(i-1, j) + 1, d(i, j-1) + 1, d(i-1, j-1) + [r_i ≠ h_j])

    An error rate of words, characters or phonemes is the sum of the distances divided by the sum of
    the reference lengths.

    Args:
      reference: hashable tokens, or an array of one dimension. The characters of a string are its
        tokens. Tokens are equal if they are equal as keys of a `dict`: 1, 1.0, True and
        `np.int32(1)` are, 1 and "1" are not.
      hypothesis: likewise.

    Returns:
      The distance, 0 for equal sequences.

    Raises:
      ImportError: rapidfuzz is not installed.
      TypeError: not a sequence, an array of another number of dimensions, a masked array, a token
        that cannot be hashed, or text on one side and bytes on the other.

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
    # rapidfuzz compares hashes, which -1 and -2 share, and takes "a" for 97. Numbers of our own are
    # equal where the tokens are.
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
    """The number of each token; new ones are added."""
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
