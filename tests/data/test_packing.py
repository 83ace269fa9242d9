"""Packed rows: nothing is lost, few rows, and a layer sees each sequence as if it were alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import nn
from seqjax.data import batches, pack, unpack

LENGTHS = [3, 1, 6, 2, 2, 5, 1, 3]


def sequences(lengths: list[int], features: int = 3, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(t, features)).astype(np.float32) for t in lengths]


def first_fit_decreasing(lengths: list[int], size: int) -> list[list[int]]:
    """The sequences of each row, one after the other as the textbook has it."""
    rows: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        for row in rows:
            if sum(lengths[m] for m in row) + lengths[n] <= size:
                row.append(n)
                break
        else:
            rows.append([n])
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_first_fit_decreasing_and_back(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 30))
    lengths = rng.integers(1, size + 1, rng.integers(1, 40)).tolist()
    fields = {"x": sequences(lengths, seed=seed), "n": [np.arange(t) for t in lengths]}
    packed = pack(fields, length=size)
    expected = first_fit_decreasing(lengths, size)
    shape = (len(expected), size)
    assert {name: array.shape for name, array in packed.items()} == {
        "x": (*shape, 3), "n": shape, "resets": shape, "mask": shape,
        "segments": shape, "indices": shape,
    }  # fmt: skip
    for row, members in enumerate(expected):
        ends = np.cumsum([lengths[n] for n in members]).tolist()
        starts = [0, *ends[:-1]]
        np.testing.assert_array_equal(packed["mask"][row], np.arange(size) < ends[-1])
        np.testing.assert_array_equal(np.flatnonzero(packed["resets"][row]), starts)
        for segment, (n, start, end) in enumerate(zip(members, starts, ends, strict=True), 1):
            assert set(packed["segments"][row, start:end].tolist()) == {segment}
            assert set(packed["indices"][row, start:end].tolist()) == {n}
            np.testing.assert_array_equal(packed["x"][row, start:end], fields["x"][n])
    padding = ~packed["mask"]
    assert not packed["x"][padding].any() and not packed["segments"][padding].any()
    assert (packed["indices"][padding] == -1).all()
    for name, found in fields.items():
        for given, back in zip(found, unpack(packed[name], packed), strict=True):
            np.testing.assert_array_equal(given, back)


def test_dtypes_and_a_batch_of_rows():
    packed = pack({"ids": [np.ones(t, np.int16) * n for n, t in enumerate(LENGTHS)]}, length=6)
    dtypes = {name: array.dtype.name for name, array in packed.items()}
    assert dtypes == {
        "ids": "int16", "resets": "bool", "mask": "bool", "segments": "int32", "indices": "int32",
    }  # fmt: skip
    found: list[int] = []
    for batch in batches(packed, batch_size=3, sequence_keys=(), seed=0):
        for values in unpack(batch["ids"], batch):
            assert len(values) == LENGTHS[values[0]] and len(set(values.tolist())) == 1
            found.append(int(values[0]))
    assert sorted(found) == list(range(len(LENGTHS)))
    assert (
        unpack(np.zeros((2, 4, 5)), {"mask": np.zeros((2, 4)) > 0, "indices": np.zeros((2, 4))})
        == []
    )


@pytest.mark.quick("True")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_sees_each_sequence_alone(bidirectional):
    layer = nn.GRU(3, 4, bidirectional=bidirectional, rngs=nnx.Rngs(0))
    found = sequences(LENGTHS)
    packed = pack({"x": found}, length=7)
    padded, lengths = np.zeros((len(found), 6, 3), np.float32), np.array(LENGTHS)
    for n, x in enumerate(found):
        padded[n, : len(x)] = x

    def together(layer: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        outputs = layer(x, resets=packed["resets"], mask=packed["mask"]).outputs
        return jnp.sum(jnp.sin(3 * outputs)), outputs  # sin 0 = 0: padding adds nothing

    def alone(layer: Any, x: Any) -> tuple[jax.Array, jax.Array]:
        outputs = layer(x, lengths=lengths).outputs
        return jnp.sum(jnp.sin(3 * outputs)), outputs

    gradient = jax.jit(jax.grad(together, argnums=(0, 1), has_aux=True))
    (d_layer, d_x), outputs = gradient(layer, packed["x"])
    gradient = jax.jit(jax.grad(alone, argnums=(0, 1), has_aux=True))
    (e_layer, e_x), expected = gradient(layer, padded)
    per_sequence = zip(unpack(outputs, packed), unpack(d_x, packed), strict=True)
    for n, (values, slopes) in enumerate(per_sequence):
        np.testing.assert_allclose(values, expected[n, : LENGTHS[n]], atol=1e-6)
        np.testing.assert_allclose(slopes, e_x[n, : LENGTHS[n]], atol=1e-5)
    assert not np.asarray(outputs)[~packed["mask"]].any()
    leaves = zip(jax.tree.leaves(d_layer), jax.tree.leaves(e_layer), strict=True)
    for got, want in leaves:
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)


def test_truncation():
    given = {"x": [[1, 2, 3, 4, 5], [6]]}
    right, left = (pack(given, length=3, truncate=side)["x"] for side in ("right", "left"))
    assert right.tolist() == [[1, 2, 3], [6, 0, 0]]
    assert left.tolist() == [[3, 4, 5], [6, 0, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "sequences: expected at least one, got no field"),
        ({"x": []}, "sequences: expected at least one, got {'x': 0}"),
        ({"x": [[1], []]}, r"sequences\['x'\]\[1\]: expected at least one step, got none"),
        ({"x": [1, 2]}, r"sequences\['x'\]\[0\]: expected a sequence .*single number"),
        ({"x": [[1] * 5]}, r"sequences\['x'\]\[0\]: expected at most length=4 steps, got 5"),
        ({"x": [[1]], "y": [[1], [2]]}, "sequences: expected the same number in every field"),
        ({"x": [[1], [2]], "y": [[1], [2, 3]]}, r"same length .*, got 2 in 'y'\[1\] and 1 in 'x'"),
        ({"x": [[[1]], [[1, 2]]]}, r"sequences\['x'\]\[1\]: expected steps of shape \(1,\)"),
        (
            {"mask": [[1]]},
            "sequences: expected names of fields other than .*, which pack adds, got 'mask'",
        ),
    ],
)
def test_sequences_that_cannot_be_packed(given, message):
    with pytest.raises(ValueError, match=message):
        pack(given, length=4)


def test_mistakes():
    packed = pack({"x": [[1, 2], [3]]}, length=2)
    with pytest.raises(ValueError, match=r"values: expected shape .*, got \(2, 3\)"):
        unpack(np.zeros((2, 3)), packed)
    with pytest.raises(
        ValueError, match="packed: expected the result of pack, got a dict without indices"
    ):
        unpack(packed["x"], {"mask": packed["mask"]})
    with pytest.raises(ValueError, match="length: expected a positive integer, got 0"):
        pack({"x": [[1]]}, length=0)
    with pytest.raises(ValueError, match="truncate: expected one of error, right, left"):
        pack({"x": [[1]]}, length=1, truncate="middle")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"sequences\['x'\]\[0\]: expected numbers"):
        pack({"x": ["words"]}, length=9)
    with pytest.raises(TypeError, match="sequences: expected a dict of fields"):
        pack([[1]], length=9)
