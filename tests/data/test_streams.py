"""Windows of a stream against a loop over its rows, token by token."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import nn
from seqjax.data import stream_windows


def brute_force(
    documents: list[list[int]], batch_size: int, steps: int, stride: int, across: bool
) -> list[dict[str, list[list[int]]]]:
    """The windows by the definition, one token at a time."""
    stream = [
        (n, place, token) for n, doc in enumerate(documents) for place, token in enumerate(doc)
    ]
    row = -(-(len(stream) - 1) // batch_size)
    windows: list[dict[str, list[list[int]]]] = []
    counted: set[int] = set()
    first = 0
    while not windows or first - stride + steps < row:
        window: dict[str, list[list[int]]] = {}
        for name in ("inputs", "targets", "resets", "mask"):
            window[name] = [[0] * steps for _ in range(batch_size)]
        for b in range(batch_size):
            for j in range(steps):
                p = b * row + first + j
                if first + j < row and p < len(stream) - 1:
                    document, place, token = stream[p]
                    window["inputs"][b][j] = token
                    window["targets"][b][j] = stream[p + 1][2]
                    window["resets"][b][j] = int(place == 0)
                    follows = across or stream[p + 1][0] == document
                    window["mask"][b][j] = int(follows and p not in counted)
                    counted.add(p)
                if first + j == 0:
                    window["resets"][b][j] = 1
        windows.append(window)
        first += stride
    return windows


@pytest.mark.parametrize("seed", range(40))
def test_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    documents = [rng.integers(1, 99, t).tolist() for t in rng.integers(0, 9, rng.integers(1, 8))]
    documents.insert(int(rng.integers(len(documents) + 1)), [7, 8])  # something to predict
    batch_size, steps = rng.integers(1, (5, 7)).tolist()
    stride = int(rng.integers(1, steps + 1))
    across = bool(seed % 2)
    windows = stream_windows(
        documents, batch_size=batch_size, steps=steps, stride=stride, across_documents=across
    )
    expected = brute_force(documents, batch_size, steps, stride, across)
    assert len(windows) == len(expected)
    for window, wanted in zip(windows, expected, strict=True):
        assert {name: array.astype(int).tolist() for name, array in window.items()} == wanted
        dtypes = [window[name].dtype.name for name in ("inputs", "targets", "resets", "mask")]
        assert dtypes == ["int32", "int32", "bool", "bool"]

    pairs = [(w["inputs"][b, j], w["targets"][b, j])
             for w in windows for b, j in zip(*np.nonzero(w["mask"]), strict=True)]  # fmt: skip
    stream = [token for document in documents for token in document]
    follows = [pair for d in ([stream] if across else documents) for pair in itertools.pairwise(d)]
    assert sorted(pairs) == sorted(follows), "each prediction counts once"


def test_windows_have_an_index():
    windows = stream_windows([range(30)], batch_size=2, steps=4, stride=3)
    listed = list(windows)
    assert len(listed) == len(windows) == 5
    for index in (0, 3, -1):
        for name, array in windows[index].items():
            np.testing.assert_array_equal(array, listed[index][name])
    windows[0]["inputs"][:] = 99  # a copy
    assert windows[0]["inputs"].max() < 99
    with pytest.raises(IndexError):
        windows[5]


def test_state_carried_over_windows_is_that_of_the_whole_documents():
    """Outputs where a target counts are those of each document read alone."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(1, 9, t) for t in (5, 1, 11, 4)]
    layer = nn.GRU(9, 4, rngs=nnx.Rngs(0))
    one_hot = np.eye(9, dtype=np.float32)
    run = jax.jit(lambda x, resets, state: layer(x, resets=resets, initial_state=state))
    state: Any = layer.initial_state((1,))
    found: list[np.ndarray] = []
    for window in stream_windows(documents, batch_size=1, steps=4):
        outputs, state = run(one_hot[window["inputs"]], window["resets"], state)
        found += list(np.asarray(outputs)[window["mask"]])
    alone = [layer(jnp.array(one_hot[doc])).outputs[:-1] for doc in documents]
    np.testing.assert_allclose(np.array(found), np.concatenate(alone), atol=1e-6)


def test_mistakes():
    def windows(documents: Any = ([1, 2],), batch_size: int = 1, **options: Any) -> Any:
        return stream_windows(documents, batch_size=batch_size, **{"steps": 2} | options)

    with pytest.raises(ValueError, match="batch_size: expected a positive integer, got 0"):
        windows(batch_size=0)
    with pytest.raises(ValueError, match="steps: expected a positive integer, got -1"):
        windows(steps=-1)
    with pytest.raises(ValueError, match=r"stride: expected at most steps=2, .*, got 3"):
        windows(stride=3)
    for documents, have in (
        ([], "0 tokens in 0"),
        ([[]], "0 tokens in 1"),
        ([[1], [2]], "2 tokens in 2"),
    ):
        with pytest.raises(ValueError, match=f"two tokens in a row.* got {have} documents"):
            windows(documents)
    assert len(windows([[1], [2]], across_documents=True)) == 1
    with pytest.raises(ValueError, match="two tokens in a row"):
        windows([[1]], across_documents=True)
    with pytest.raises(
        ValueError, match=r"documents\[0\]: expected token ids \[T\], got shape \(\)"
    ):
        windows([1, 2, 3])
    with pytest.raises(TypeError, match=r"documents\[1\]: expected integers, got float64"):
        windows([[1, 2], [0.5]])
    with pytest.raises(ValueError, match=r"documents\[0\]: expected ids that int32 can hold"):
        windows([[1, 2**31]])
