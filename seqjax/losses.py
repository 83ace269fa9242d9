"""Losses, which are means over the real positions of a batch. `jax.grad` can differentiate them.

A position is real if `lengths` or `mask` does not mark it as padding. For each loss,
`seqjax.metrics` has a function of the same name that returns a `Mean`, whose value is the loss. All
losses, and also those of `seqjax.ctc`, `seqjax.transducer` and `seqjax.crf`, have these properties:

- With `per_sequence`, losses return the mean of each sequence, an array `[B]`, where B is the size
  of the first axis. If a sequence has only padding, its mean is 0.
- Losses are computed in float32 or wider, whatever the dtype of the inputs.
- Masked inputs are replaced before the computation, so values in padding (NaN, inf, labels of -1)
  have no effect on the loss or its gradient. If all positions are masked, the loss and its gradient
  are 0.
- If a real label is out of range, losses raise a ValueError or, under tracing, are NaN.
"""

import jax
import numpy as np
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax._hints import LOSSES, hints
from seqjax._readout import linear_readout

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "linear_cross_entropy",
    "mean_absolute_error",
    "mean_squared_error",
]


@hints(**LOSSES)
def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    per_sequence: bool = False,
) -> jax.Array:
    """Return the softmax cross entropy in nats, averaged over the real positions.

    For N real positions n, C classes, logits z, labels y and smoothing α, the loss L is

        p_n = softmax(z_n)
        q_n = (1 - α) onehot(y_n) + α / C
        L   = -(1/N) Σ_n Σ_c q_nc log p_nc

    Args:
      logits: float [..., C], the scores of the classes, such as [B, T, C] for tokens or [B, C] for
        whole sequences.
      labels: int [...], the classes, in [0, C).
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool [...] with the shape of labels, True at real positions. Pass lengths or mask, not
        both.
      label_smoothing: float in [0, 1), the share α of the probability that is spread over all
        classes.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss, a float scalar or, with per_sequence, `[B]`. The loss is in float32 or wider.

    Raises:
      TypeError: logits are not float, labels are not integer, or mask is not bool.
      ValueError: a NumPy array has masked entries, shapes do not match, label_smoothing is not in
        [0, 1), or (outside tracing) a real label is not in [0, C).

    References:
      Szegedy et al. 2016, Rethinking the Inception Architecture, section 7 (label smoothing).

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[[2.0, 0.0], [jnp.nan, jnp.inf]]])
      >>> labels, mask = jnp.array([[0, -1]]), jnp.array([[True, False]])
      >>> print(f"{cross_entropy(logits, labels, mask=mask):.4f}")  # log(1 + exp(-2))
      0.1269
    """
    elements = _elements.cross_entropies(logits, labels, lengths, mask, label_smoothing)
    return _elements.averaged(*elements, per_sequence)


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
    per_sequence: bool = False,
) -> jax.Array:
    """Return the `cross_entropy` of a linear read-out, computed without an array of all logits.

        L = cross_entropy(hidden @ kernel + bias, labels)

    The function divides the positions into chunks, processes one chunk at a time, and computes the
    gradients of hidden, kernel and bias in the same pass as the value. If there are many classes,
    such as the words of a language model, this function needs less memory and time than a read-out
    followed by `cross_entropy`. With `per_sequence`, the logits are computed a second time for the
    gradient.

    Args:
      hidden: float [..., H], the outputs of a recurrent network. The outputs are cast to the dtype
        of kernel, and products are summed in float32 or wider. The devices of a sharded batch share
        the work only if the batch axis is the first axis.
      kernel: float [H, C] (with `transposed`: [C, H]), the matrix of the read-out, such as
        `nnx.Linear.kernel`.
      bias: float [C], the bias of the read-out, or None.
      labels: int [...], the classes, in [0, C).
      lengths: int [...], the number of real steps of each sequence. The time axis of hidden and
        labels comes right after the axes of `lengths`.
      mask: bool [...] with the shape of labels, True at real positions. Pass lengths or mask, not
        both.
      label_smoothing: float in [0, 1), see `cross_entropy`.
      transposed: whether kernel is [C, H]. The matrix of an embedding, `nnx.Embed.embedding`, is
        also [C, H].
      chunk_size: the number of positions whose logits are computed together. By default, the logits
        of a chunk in float32 need 8 MB on a CPU and 64 MB on other devices, and a chunk has at
        least H positions.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss, a float scalar or, with per_sequence, `[B]`. The loss is in float32 or wider.

    Raises:
      TypeError: hidden, kernel or bias is not float; labels are not integer; mask, per_sequence or
        transposed is not bool; or chunk_size is not an integer.
      ValueError: a NumPy array has masked entries, shapes do not match, label_smoothing is not in
        [0, 1), chunk_size is below 1, or (outside tracing) a real label is not in [0, C).

    References:
      Wijmans et al. 2025, Cut your losses in large-vocabulary language models; Hsu et al. 2024,
      Liger kernel: efficient Triton kernels for LLM training (the gradient in the same pass).

    Example:
      >>> import jax.numpy as jnp
      >>> hidden, kernel = jnp.array([[[1.0], [jnp.nan]]]), jnp.array([[2.0, 0.0]])
      >>> labels, mask = jnp.array([[0, -1]]), jnp.array([[True, False]])
      >>> print(f"{linear_cross_entropy(hidden, kernel, None, labels, mask=mask):.4f}")
      0.1269
    """
    read = linear_readout(
        hidden, kernel, bias, labels, lengths=lengths, mask=mask, label_smoothing=label_smoothing,
        transposed=transposed, chunk_size=chunk_size,
    )  # fmt: skip
    if checks.require_bool("per_sequence", per_sequence):
        return _elements.averaged(*read.cross_entropies(), per_sequence)
    return read.mean()


@hints(**LOSSES)
def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> jax.Array:
    """Return the logistic cross entropy in nats, averaged over the elements of real positions.

    For N real elements n, logits z and labels y, the loss L is

        L = -(1/N) Σ_n y_n log σ(z_n) + (1 - y_n) log σ(-z_n)

    Args:
      logits: float [...], the log-odds of class 1. The trailing axes are for several independent
        labels of one position, such as the 88 keys of a piano roll [B, T, 88].
      labels: float, int or bool with the shape of logits. Each label is 0 or 1, or a probability in
        between.
      lengths: int [...], the number of real steps of each sequence. The time axis of logits and
        labels comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of logits must begin with the shape of `mask`.
        Pass `lengths` or `mask`, not both.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss, a float scalar or, with per_sequence, `[B]`. The loss is in float32 or wider.

    Raises:
      TypeError: logits are not float, labels are not real numbers, or mask is not bool.
      ValueError: a NumPy array has masked entries, shapes do not match, or (outside tracing) a real
        label is not in [0, 1], or logits and labels are in the order of Keras: all logits are 0 or
        1, both occur, and a label is between 0 and 1.

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{binary_cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3))):.4f}")  # log 2
      0.6931
    """
    elements = _elements.binary_cross_entropies(logits, labels, lengths, mask)
    if _swapped(_elements.reals("logits", logits), _elements.reals("labels", labels)):
        raise ValueError(
            "logits, labels: expected logits first, got classes, all 0 or 1, and labels between 0 "
            "and 1; write binary_cross_entropy(logits, labels), with logits and not probabilities"
        )
    return _elements.averaged(*elements, per_sequence)


def _swapped(logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray) -> bool:
    """Return whether two arrays look like Keras's arguments, classes and then probabilities.

    The result is False for arrays whose values are not known here.
    """
    if not (checks.is_readable(logits) and checks.is_readable(labels)):
        return False
    scores, targets = np.asarray(logits), np.asarray(labels)
    ones = scores == 1
    classes = bool((ones | (scores == 0)).all()) and bool(ones.any()) and not ones.all()
    return classes and bool(((targets > 0) & (targets < 1)).any())


@hints(**LOSSES)
def mean_absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> jax.Array:
    """Return the absolute error, averaged over the elements of the real positions.

    For N real elements n, predictions ŷ and targets y, the loss L is

        L = (1/N) Σ_n |ŷ_n - y_n|

    The gradient of an element that equals its target is 0.

    Args:
      predictions: float [...], the predicted values. The loss is computed in float32, or in the
        dtype of the predictions if that is wider.
      targets: float, int or bool with the shape of predictions, the true values.
      lengths: int [...], the number of real steps of each sequence. The time axis of predictions
        and targets comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of predictions must begin with the shape of
        `mask`. Pass `lengths` or `mask`, not both.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss, a float scalar or, with per_sequence, `[B]`. The loss is in float32 or wider.

    Raises:
      TypeError: predictions are not float, targets are not real numbers, or mask is not bool.
      ValueError: a NumPy array has masked entries, or shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> predictions, targets = jnp.array([[1.0, 9.0]]), jnp.array([[3.0, 0.0]])
      >>> float(mean_absolute_error(predictions, targets, mask=jnp.array([[True, False]])))
      2.0
    """
    return _elements.averaged(
        *_elements.absolute_errors(predictions, targets, lengths, mask), per_sequence
    )


@hints(**LOSSES)
def mean_squared_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> jax.Array:
    """Return the squared error, averaged over the elements of the real positions.

    For N real elements n, predictions ŷ and targets y, the loss L is

        L = (1/N) Σ_n (ŷ_n - y_n)²

    Args:
      predictions: float [...], the predicted values. The loss is computed in float32, or in the
        dtype of the predictions if that is wider.
      targets: float, int or bool with the shape of predictions, the true values.
      lengths: int [...], the number of real steps of each sequence. The time axis of predictions
        and targets comes right after the axes of `lengths`.
      mask: bool, True at real positions. The shape of predictions must begin with the shape of
        `mask`. Pass `lengths` or `mask`, not both.
      per_sequence: if True, return the mean of each sequence, `[B]`. If False, return the mean of
        the batch.

    Returns:
      The loss, a float scalar or, with per_sequence, `[B]`. The loss is in float32 or wider.

    Raises:
      TypeError: predictions are not float, targets are not real numbers, or mask is not bool.
      ValueError: a NumPy array has masked entries, or shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> predictions, targets = jnp.array([[1.0, 9.0]]), jnp.array([[3.0, 0.0]])
      >>> float(mean_squared_error(predictions, targets, mask=jnp.array([[True, False]])))
      4.0
    """
    return _elements.averaged(
        *_elements.squared_errors(predictions, targets, lengths, mask), per_sequence
    )
