"""Documents as one stream of tokens, read in windows: truncated backpropagation through time."""

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
    """Return windows over concatenated documents, for a model that keeps its state.

    The stream is cut into `batch_size` rows of one length, and a window holds the same stretch of
    each row. Window w begins `stride` tokens after window w - 1:

        inputs_w[b, j] = stream[b · L + w · stride + j],   targets_w[b, j] = the token after it

    A model begins a window with the state that it had there in the window before: the final state
    if windows do not overlap, else the state after `stride` steps. The gradient of a prediction
    then goes back at least `steps - stride` and at most `steps` steps, at any length of the stream.
    In the terms of the paper this is BPTT(h; h') with h = `steps`, h' = `stride`.

    Args:
      documents: sequences of token ids [t_n]. Empty ones are passed over.
      batch_size: B, the number of rows.
      steps: T, the number of tokens in a window.
      stride: the number of tokens from one window to the next, at most `steps` (the default).
      across_documents: whether the first token of a document is predicted from the document
        before. By default it is not: a document's last token has no successor.

    Returns:
      A sequence of windows, which can be iterated over and indexed. Each is a dict of

      - "inputs": int32 [B, T];
      - "targets": int32 [B, T], the next token of the stream;
      - "resets": bool [B, T], True at each document's first token, and at the first step of the
        first window: the layer starts anew there;
      - "mask": bool [B, T], True where a target counts. Over all windows each prediction counts
        once: in overlapping windows, where it has the most context. Incomplete rows and an
        incomplete last window are filled with zeros that do not count.

    Raises:
      TypeError: a document that is not of integers.
      ValueError: a document of another shape, or of ids that int32 cannot hold; nothing to predict;
        a size below 1, or a stride above `steps`.

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
            f"stride: expected at most steps={steps}, so that no token is passed over, got {stride}"
        )
    checks.require_bool("across_documents", across_documents)
    tokens = [_tokens(n, document) for n, document in enumerate(entries("documents", documents))]
    stream = np.concatenate([*tokens, np.zeros(0, np.int32)])
    begins = np.zeros(len(stream), bool)
    begins[np.cumsum([0, *map(len, tokens)])[:-1][[len(t) > 0 for t in tokens]]] = True
    # A token and its successor make a pair. The last token is a target and no input.
    counts = np.ones(max(0, len(stream) - 1), bool) if across_documents else ~begins[1:]
    if not counts.any():
        raise ValueError(
            "documents: expected two tokens in a row, to predict one from the other, got "
            f"{len(stream)} in {len(tokens)} documents"
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
    """The windows of a stream, cut on demand: indexable, and iterable any number of times.

    `stream_windows` makes it.

    Attributes:
      inputs: int32 [B, L], the rows, filled up to whole windows.
      targets: int32 [B, L].
      resets: bool [B, L].
      mask: bool [B, L], where a target counts in one of the windows.
      steps: T, of a window.
      stride: from one window to the next.

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
            window["mask"][:, : self.steps - self.stride] = False  # they counted before
        return window


def _tokens(n: int, document: ArrayLike) -> np.ndarray:
    """Return a document as int32 [t_n], or raise an error that names it."""
    array = numbers(f"documents[{n}]", document)
    if array.ndim != 1:
        raise ValueError(f"documents[{n}]: expected token ids [T], got shape {array.shape}")
    if not array.size:  # NumPy makes floats of an empty list
        return np.zeros(0, np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"documents[{n}]: expected integers, got {array.dtype}")
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise ValueError(
            f"documents[{n}]: expected ids that int32 can hold, got {array.min()} to {array.max()}"
        )
    return array.astype(np.int32)
