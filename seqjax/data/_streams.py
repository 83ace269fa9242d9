"""Windows over a stream of documents, for truncated backpropagation through time."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._containers import entries, numbers

__all__ = ["Windows", "stream_windows"]


def stream_windows(
    documents: Iterable[ArrayLike],
    *,
    batch_size: int,
    steps: int,
    stride: int | None = None,
    across_documents: bool = False,
) -> "Windows":
    """Return windows over concatenated documents, for a model whose state is carried over.

    The documents are concatenated to one stream of tokens, and the stream is cut into `batch_size`
    rows of length L. A window contains the same T positions of each row. Window w begins `stride`
    tokens after window w - 1:

        inputs_w[b, j]  = stream[b · L + w · stride + j]
        targets_w[b, j] = the token after inputs_w[b, j]

    If `stride` equals `steps`, the initial state of a window must be the final state of the
    previous window; otherwise, it must be the state after the first `stride` steps of the previous
    window. The gradient of a prediction then flows back through at least `steps - stride` and at
    most `steps` steps, however long the stream is. In the notation of Williams and Peng (1990),
    this method is BPTT(h; h') with h = `steps` and h' = `stride`.

    Args:
      documents: sequences of token ids [t_n]. Empty documents are skipped.
      batch_size: B, the number of rows.
      steps: T, the number of tokens in a window.
      stride: the number of tokens from the beginning of one window to that of the next; at most
        `steps`. By default, the stride is `steps`, so that windows do not overlap.
      across_documents: if True, the first token of a document is predicted from the end of the
        previous document. By default, the last token of a document has no target.

    Returns:
      A sequence of windows, which can be iterated over and indexed. Each window is a dict with four
      arrays.

      - "inputs": int32 [B, T];
      - "targets": int32 [B, T], the next token of the stream;
      - "resets": bool [B, T], True at the first token of each document, and at the first step of
        the first window. A layer that is given `resets` starts from its initial state at these
        steps;
      - "mask": bool [B, T], True where the loss counts a target. Each prediction counts once over
        all windows. If a prediction is in several windows, it counts in the window where it has the
        most context. Incomplete rows and an incomplete last window are padded with zeros, where the
        mask is False.

    Raises:
      TypeError: a document does not consist of integers.
      ValueError: a document has another shape or ids that int32 cannot hold; there is nothing to
        predict; `batch_size`, `steps` or `stride` is below 1; or `stride` is above `steps`.

    References:
      Williams, Peng (1990), An efficient gradient-based algorithm for on-line training of
      recurrent network trajectories.

    Example:
      >>> windows = stream_windows([[1, 2, 3, 4], [5, 6, 7]], batch_size=2, steps=2)
      >>> for window in windows:
      ...     print(*(window[name].astype(int).tolist() for name in window))
      [[1, 2], [4, 5]] [[2, 3], [5, 6]] [[1, 0], [1, 1]] [[1, 1], [0, 1]]
      [[3, 0], [6, 0]] [[4, 0], [7, 0]] [[0, 0], [0, 0]] [[1, 0], [1, 0]]
    """
    batch_size = checks.require_integer("batch_size", batch_size)
    steps = checks.require_integer("steps", steps)
    stride = steps if stride is None else checks.require_integer("stride", stride)
    if stride > steps:
        raise ValueError(
            f"stride: expected at most steps={steps}, so that no token is skipped, got {stride}"
        )
    checks.require_bool("across_documents", across_documents)
    tokens = [_tokens(n, document) for n, document in enumerate(entries("documents", documents))]
    stream = np.concatenate([*tokens, np.zeros(0, np.int32)])
    begins = np.zeros(len(stream), bool)
    begins[np.cumsum([0, *map(len, tokens)])[:-1][[len(t) > 0 for t in tokens]]] = True
    # A token and its successor make a pair. The last token is only a target.
    counts = np.ones(max(0, len(stream) - 1), bool) if across_documents else ~begins[1:]
    if not counts.any():
        raise ValueError(
            "documents: expected two tokens in a row, to predict the second from the first, got "
            f"{len(stream)} tokens in {len(tokens)} documents"
        )
    row = -(-len(counts) // batch_size)
    number = 1 + max(0, -(-(row - steps) // stride))
    columns = (number - 1) * stride + steps

    def rows(pairs: np.ndarray) -> np.ndarray:
        cut = np.zeros(batch_size * row, pairs.dtype)
        cut[: len(pairs)] = pairs
        filled = np.zeros((batch_size, columns), pairs.dtype)
        filled[:, :row] = cut.reshape(batch_size, row)
        return filled

    resets = rows(begins[:-1])
    resets[:, 0] = True
    return Windows(rows(stream[:-1]), rows(stream[1:]), resets, rows(counts), steps, stride)


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """A sequence of the windows of a stream, which are made on demand.

    Use `seqjax.data.stream_windows` to create this object.

    Attributes:
      inputs: int32 [B, L], the tokens of the rows, padded to complete windows.
      targets: int32 [B, L], the next token of each input.
      resets: bool [B, L], True where the layer starts from its initial state.
      mask: bool [B, L], True where the loss counts a target in one of the windows.
      steps: T, the number of tokens in a window.
      stride: the number of tokens from the beginning of one window to that of the next.

    Example:
      >>> windows = stream_windows([range(10)], batch_size=1, steps=4, stride=2)
      >>> len(windows), windows[1]["inputs"].tolist(), windows[-1]["mask"].tolist()
      (4, [[2, 3, 4, 5]], [[False, False, True, False]])
    """

    inputs: np.ndarray
    targets: np.ndarray
    resets: np.ndarray
    mask: np.ndarray
    steps: int
    stride: int

    def __len__(self) -> int:
        return int((self.inputs.shape[1] - self.steps) // self.stride + 1)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        first = checks.require_index(index, len(self)) * self.stride
        window = {
            name: getattr(self, name)[:, first : first + self.steps].copy()
            for name in ("inputs", "targets", "resets", "mask")
        }
        if first:
            window["mask"][:, : self.steps - self.stride] = False  # they counted in earlier windows
        return window


def _tokens(n: int, document: ArrayLike) -> np.ndarray:
    """Return a document as int32 [t_n], or raise an error with the number of the document."""
    array = numbers(f"documents[{n}]", document)
    if array.ndim != 1:
        raise ValueError(f"documents[{n}]: expected token ids [T], got shape {array.shape}")
    if not array.size:  # NumPy converts an empty list to floats
        return np.zeros(0, np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"documents[{n}]: expected integers, got {array.dtype}")
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise ValueError(
            f"documents[{n}]: expected ids that int32 can hold, got {array.min()} to {array.max()}"
        )
    return array.astype(np.int32)
