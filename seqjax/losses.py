"""Losses: means over the real positions of a batch, as scalars for `jax.grad`.

Each is the value of the mean of the same name in `seqjax.metrics`. Common to all, and to
`seqjax.ctc.ctc_loss` and `seqjax.crf.loss`:

- With `per_sequence`, they return the mean of each sequence apart, `[B]` for the first axis; 0 for
  one that is all padding.
- They compute in at least float32, whatever the dtype of their inputs.
- Masked inputs are replaced before the computation, so garbage in padding (NaN, inf, labels of -1)
  reaches neither the value nor the gradient. With every position masked, value and gradient are 0.
- A real label out of range raises a ValueError outside tracing and makes the value NaN under it.
"""

import jax
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax._readout import linear_readout

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "linear_cross_entropy",
    "mean_squared_error",
]


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    per_sequence: bool = False,
) -> jax.Array:
    """Softmax cross entropy in nats, averaged over the real positions.

    With N real positions n, C classes, logits z, labels y and smoothing α

        p_n = softmax(z_n)
        q_n = (1 - α) onehot(y_n) + α / C
        L   = -(1/N) Σ_n Σ_c q_nc log p_nc

    Args:
      logits: float [..., C], such as [B, T, C] for tokens or [B, C] for whole sequences.
      labels: int [...], classes in [0, C).
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool [...], the shape of labels, True is real.
      label_smoothing: float in [0, 1), the share α of the probability spread over all classes.
      per_sequence: whether to return the mean of each sequence, `[B]`, instead of the batch's.

    Returns:
      float scalar or `[B]`, float32 or wider.

    Raises:
      TypeError: logits are not float, labels not integer, or mask not bool.
      ValueError: masked entries of a NumPy array, shapes do not match, label_smoothing is not in
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
    """`cross_entropy` of a linear read-out, without an array of all logits.

        L = cross_entropy(hidden @ kernel + bias, labels)

    It goes through the positions chunk by chunk, and computes the gradients of hidden, kernel and
    bias in the same pass as the value. With many classes, such as the words of a language model, it
    takes less memory and time than the two functions apart. With `per_sequence`, the gradient
    computes the logits a second time.

    Args:
      hidden: float [..., H], outputs of a recurrent network. It is cast to the dtype of kernel;
        products are summed in float32 or wider. If devices share the batch, it must be the first
        axis for them to share this work.
      kernel: float [H, C], such as `nnx.Linear.kernel`. Or [C, H] with `transposed`.
      bias: float [C], or None.
      labels: int [...], classes in [0, C).
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool [...], the shape of labels, True is real.
      label_smoothing: float in [0, 1), see `cross_entropy`.
      transposed: whether kernel is [C, H], as the matrix of an embedding is
        (`nnx.Embed.embedding`).
      chunk_size: positions whose logits are computed together. If it is None, a chunk has 8 MB of
        logits in float32 on a CPU and 64 MB elsewhere, or H positions if these are more.
      per_sequence: whether to return the mean of each sequence, `[B]`, instead of the batch's.

    Returns:
      float scalar or `[B]`, float32 or wider.

    Raises:
      TypeError: hidden, kernel or bias are not float, labels not integer, mask, per_sequence or
        transposed not bool, or chunk_size is not an integer.
      ValueError: masked entries of a NumPy array, shapes do not match, label_smoothing is not in
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
    return read.means()[0].value()


def binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> jax.Array:
    """Logistic cross entropy in nats, averaged over the elements of the real positions.

    With N real elements n, logits z and labels y

        L = -(1/N) Σ_n y_n log σ(z_n) + (1 - y_n) log σ(-z_n)

    Args:
      logits: float [...], the log-odds of class 1; several independent labels a position, such as
        the 88 keys of a piano roll [B, T, 88], are trailing axes.
      labels: float, int or bool, of the shape of logits: 0 or 1, or a probability in between.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool, True is real; its shape is a leading part of the shape of logits.
      per_sequence: whether to return the mean of each sequence, `[B]`, instead of the batch's.

    Returns:
      float scalar or `[B]`, float32 or wider.

    Raises:
      TypeError: logits are not float, labels are no real numbers, or mask is not bool.
      ValueError: masked entries of a NumPy array, shapes do not match, or (outside tracing) a real
        label is not in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> print(f"{binary_cross_entropy(jnp.zeros((2, 3)), jnp.ones((2, 3))):.4f}")  # log 2
      0.6931
    """
    return _elements.averaged(
        *_elements.binary_cross_entropies(logits, labels, lengths, mask), per_sequence
    )


def mean_squared_error(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    per_sequence: bool = False,
) -> jax.Array:
    """Squared error, averaged over the elements of the real positions.

    With N real elements n, predictions ŷ and targets y

        L = (1/N) Σ_n (ŷ_n - y_n)²

    Args:
      predictions: float [...]; its dtype, if wider than float32, is that of the computation.
      targets: float, int or bool, of the shape of predictions.
      lengths: int [...], real steps of each sequence; the next axis is time. Or
      mask: bool, True is real; its shape is a leading part of the shape of predictions.
      per_sequence: whether to return the mean of each sequence, `[B]`, instead of the batch's.

    Returns:
      float scalar or `[B]`, float32 or wider.

    Raises:
      TypeError: predictions are not float, targets are no real numbers, or mask is not bool.
      ValueError: masked entries of a NumPy array, or shapes do not match.

    Example:
      >>> import jax.numpy as jnp
      >>> predictions, targets = jnp.array([[1.0, 9.0]]), jnp.array([[3.0, 0.0]])
      >>> float(mean_squared_error(predictions, targets, mask=jnp.array([[True, False]])))
      4.0
    """
    return _elements.averaged(
        *_elements.squared_errors(predictions, targets, lengths, mask), per_sequence
    )
