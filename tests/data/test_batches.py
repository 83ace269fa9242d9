"""Padding, buckets and batches: nothing lost, nothing twice, zeros where there is nothing."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.data import batches, bucket_boundaries, pad, stream_windows

LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=20)


def _examples(lengths):
    """Frames and tokens of the given lengths, and a number that tells the examples apart."""
    rng = np.random.default_rng(len(lengths))
    return {
        "frames": [rng.normal(size=(t, 2)).astype(np.float32) for t in lengths],
        "tokens": [rng.integers(1, 9, t).tolist() for t in lengths],
        "number": np.arange(len(lengths)),
    }


def _order(made):
    return [batch["number"][batch["weights"]].tolist() for batch in made]


# pad


@pytest.mark.parametrize(
    ("sequence", "value", "error", "message"),
    [
        ([1], None, TypeError, "expected numbers, got None"),
        ([1], "x", TypeError, "expected numbers, got 'x'"),
        ([1], [0, 1], TypeError, r"expected one number, got shape \(2,\)"),
        ([1], 2**70, ValueError, "integers that 64 bits can hold, got 11805"),
        ([1], np.nan, ValueError, "expected a number that int64 can hold, got nan"),
        ([1], 0.5, ValueError, "expected a number that int64 can hold, got 0.5"),
        ([1], 2**63, ValueError, "expected a number that int64 can hold"),
        ([True], 2, ValueError, "expected a number that bool can hold, got 2"),
        (
            np.ones(1, np.float32),
            1e300,
            ValueError,
            "expected a number that float32 can hold, got 1e",
        ),
        (
            np.ones(1, np.float32),
            -1e39,
            ValueError,
            "expected a number that float32 can hold, got -1e",
        ),
        (np.ones(1, jnp.bfloat16), 1e39, ValueError, "expected a number that bfloat16 can hold"),
        (np.ones(1, np.float32), 1j, ValueError, "expected a number that float32 can hold, got 1j"),
    ],
)
def test_what_padding_cannot_hold(sequence, value, error, message):
    with pytest.raises(error, match="^value: .*" + message):
        pad([sequence, sequence], value=value)


def test_what_padding_can_hold():
    for dtype, value in (
        (np.float32, -np.inf), (np.float32, 3e38), (bool, True), (np.complex64, 1j),
        (jnp.bfloat16, -1), (np.uint8, 255.0), (np.int32, np.int64(-7)), (np.uint64, 2**64 - 1),
    ):  # fmt: skip
        array, _ = pad([np.ones(1, dtype), []], value=value)  # type: ignore[arg-type]
        assert array.dtype == dtype and array[1, 0] == np.array(value).astype(dtype)


@given(lengths=LENGTHS, extra=st.integers(0, 3), value=st.sampled_from([0, -1, 7]))
def test_pad(lengths, extra, value):
    sequences = _examples(lengths)["frames"]
    array, found = pad(sequences, length=max(lengths) + extra, value=value)
    assert array.shape == (len(lengths), max(lengths) + extra, 2) and array.dtype == np.float32
    assert found.tolist() == lengths and found.dtype == np.int32
    for row, sequence, t in zip(array, sequences, lengths, strict=True):
        np.testing.assert_array_equal(row[:t], sequence)
        np.testing.assert_array_equal(row[t:], value)


def test_pad_to_the_longest():
    array, lengths = pad([[1], [], [2, 3]])
    assert array.tolist() == [[1, 0], [0, 0], [2, 3]] and lengths.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("truncate", "expected"), [("right", [[1, 2], [5, 0]]), ("left", [[2, 3], [5, 0]])]
)
def test_pad_truncates(truncate, expected):
    array, lengths = pad([[1, 2, 3], [5]], length=2, truncate=truncate)
    assert array.tolist() == expected and lengths.tolist() == [2, 1]
    array, lengths = pad([[1, 2, 3], [5]], length=0, truncate=truncate)
    assert array.shape == (2, 0) and lengths.tolist() == [0, 0]


def test_pad_empty_lists_leave_the_dtype_and_the_steps_alone():
    array, _ = pad([[], np.ones((2, 3), np.int16)])
    assert array.dtype == np.int16 and array.shape == (2, 2, 3)
    array, lengths = pad([np.zeros((0, 3), np.int16), []])
    assert array.shape == (2, 0, 3) and lengths.tolist() == [0, 0]
    array, _ = pad([np.zeros(0, np.int16)], length=2)
    assert array.tolist() == [[0, 0]] and array.dtype == np.int16


@pytest.mark.parametrize(
    "dtype", [np.bool_, np.uint8, np.float16, np.complex64, ml_dtypes.bfloat16]
)
def test_pad_keeps_the_dtype(dtype):
    array, _ = pad([np.ones(1, dtype), np.ones(2, dtype)])
    assert array.dtype == dtype and array.tolist() == [[1, 0], [1, 1]]


def test_pad_of_mixed_numbers_loses_none():
    array, _ = pad([[1, 2], [0.5]])
    assert array.tolist() == [[1, 2], [0.5, 0]]


def test_pad_with_nan():
    assert np.isnan(pad([[1.0], []], value=np.nan)[0]).tolist() == [[False], [True]]


@pytest.mark.parametrize(
    ("sequences", "options", "error", "message"),
    [
        ([], {}, ValueError, "sequences: expected at least one"),
        ([[1], 2], {}, ValueError, r"sequences\[1\]: expected a sequence .*single number"),
        ([[[1], [1, 2]]], {}, ValueError, r"sequences\[0\]: .*differ in shape"),
        ([["a"]], {}, TypeError, r"sequences\[0\]: expected numbers"),
        (
            [np.ones((1, 2)), np.ones((1, 3))],
            {},
            ValueError,
            r"sequences\[1\]: expected steps of shape \(2,\), got \(3,\)",
        ),
        (
            [np.ones((1, 2)), np.ones((0, 3))],
            {},
            ValueError,
            r"sequences\[1\]: expected steps of shape \(2,\), got \(3,\)",
        ),
        ([[1], [1, 2]], {"length": 1}, ValueError, r"sequences\[1\]: .*length=1 steps, got 2"),
        ([[1]], {"length": -1}, ValueError, "length: expected an integer of at least 0, got -1"),
        ([[1]], {"length": 1.5}, TypeError, "length: expected an integer of at least 0, got 1.5"),
        ([[1]], {"truncate": "middle"}, ValueError, "truncate: .*got 'middle'"),
        ([[1]], {"value": 0.5}, ValueError, "value: .*int64 can hold, got 0.5"),
        ([[1]], {"value": np.nan}, ValueError, "value: .*got nan"),
        ([np.ones(1, np.uint8)], {"value": -1}, ValueError, "value: .*uint8 can hold, got -1"),
    ],
)
def test_pad_refuses(sequences, options, error, message):
    with pytest.raises(error, match=message):
        pad(sequences, **options)


# bucket_boundaries


@given(lengths=LENGTHS, num_buckets=st.integers(1, 6))
def test_bucket_boundaries(lengths, num_buckets):
    found = bucket_boundaries(lengths, num_buckets)
    assert list(found) == sorted(set(found)) and 1 <= len(found) <= num_buckets
    assert found[-1] == max(1, *lengths, 0)
    for k in range(1, num_buckets + 1):
        share = k / num_buckets - 1e-9
        least = min(n for n in lengths if np.mean(np.array(lengths) <= n) >= share)
        assert max(1, least) in found


def test_buckets_hold_equally_many():
    assert bucket_boundaries(np.arange(1, 101), 4) == (25, 50, 75, 100)


@pytest.mark.parametrize(
    ("lengths", "num_buckets", "error", "message"),
    [
        ([], 2, ValueError, r"lengths: expected shape \[N\]"),
        ([[[1]]], 2, ValueError, r"lengths: .*got shape \(1, 1, 1\)"),
        ([1.5], 2, TypeError, "lengths: expected integers, got float64"),
        ([1, -1], 2, ValueError, "lengths: expected at least 0, got -1"),
        ([1], 0, ValueError, "num_buckets: expected a positive integer, got 0"),
    ],
)
def test_bucket_boundaries_refuse(lengths, num_buckets, error, message):
    with pytest.raises(error, match=message):
        bucket_boundaries(lengths, num_buckets)


# batches


@given(
    lengths=LENGTHS,
    batch_size=st.integers(1, 5),
    num_buckets=st.integers(1, 3),
    seed=st.none() | st.integers(0, 3),
    pad_batch=st.booleans(),
)
def test_every_example_once_and_padded_right(lengths, batch_size, num_buckets, seed, pad_batch):
    examples, boundaries = _examples(lengths), bucket_boundaries(lengths, num_buckets)
    made = batches(
        examples,
        batch_size=batch_size,
        sequence_keys=("frames", "tokens"),
        boundaries=boundaries,
        seed=seed,
        pad_batch=pad_batch,
    )
    seen = []
    for batch in made:
        size, length = batch["tokens"].shape
        assert size == batch_size if pad_batch else 1 <= size <= batch_size
        assert length in boundaries and batch["frames"].shape == (size, length, 2)
        assert {name: batch[name].dtype for name in ("frames", "lengths", "weights")} == {
            "frames": np.float32,
            "lengths": np.int32,
            "weights": np.bool_,
        }
        assert batch["weights"].any() and (pad_batch or batch["weights"].all())
        for row in range(size):
            t, n = batch["lengths"][row], batch["number"][row]
            if batch["weights"][row]:
                seen.append(n)
                assert t == lengths[n]
                # The smallest boundary that fits, no other.
                assert length == min(boundary for boundary in boundaries if boundary >= t)
                np.testing.assert_array_equal(batch["tokens"][row, :t], examples["tokens"][n])
                np.testing.assert_array_equal(batch["frames"][row, :t], examples["frames"][n])
            else:
                assert t == n == 0
            assert not batch["tokens"][row, t:].any() and not batch["frames"][row, t:].any()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(made) == len(list(made))


class Recorded(Sequence[Any]):
    """A sequence that records which entries are read."""

    def __init__(self, entries: Sequence[Any]) -> None:
        self.entries, self.read = entries, list[int]()

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, n: Any) -> Any:
        self.read.append(n)
        return self.entries[n]


@given(
    LENGTHS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.booleans()
)
def test_processes_read_their_rows_only(lengths, share, processes, buckets, shuffled, pad_batch):
    batch_size, seed = share * processes, 3 if shuffled else None
    examples = _examples(lengths)
    frames = Recorded(examples["frames"])
    whole = batches(
        examples | {"frames": frames}, batch_size=batch_size, boundaries=buckets, seed=seed,
        sequence_keys=["frames", "tokens"], pad_batch=pad_batch,
    ).at_epoch(2)  # fmt: skip
    expected = list(whole)
    rows = [range(first, first + share) for first in range(0, batch_size, share)]
    frames.read.clear()
    parts = [list(whole.only_rows(own)) for own in rows]
    assert sorted(frames.read) == list(range(len(lengths)))  # all together read each once
    for own, part in zip(rows, parts, strict=True):
        assert len(part) == len(expected)
        for batch, wanted in zip(part, expected, strict=True):
            assert batch.keys() == wanted.keys()
            read = np.isin(np.arange(len(wanted["weights"])), own)
            for name, values in wanted.items():
                complete = name in ("lengths", "weights")
                assert batch[name].dtype == values.dtype
                np.testing.assert_array_equal(batch[name][read], values[read])
                other = values[~read] if complete else np.zeros_like(values[~read])
                np.testing.assert_array_equal(batch[name][~read], other)


def test_rows_that_no_batch_has():
    made = batches(_examples([1, 2]), batch_size=2)
    assert made.only_rows([-1]).rows == (1,)
    with pytest.raises(IndexError, match="expected -2 to 1, got 2"):
        made.only_rows([0, 2])
    with pytest.raises(TypeError, match="expected an integer"):
        made.only_rows([0.5])  # type: ignore[list-item]


def test_without_a_seed_the_order_is_kept():
    made = batches(_examples([3, 1, 2, 3, 1]), batch_size=2)
    assert _order(made) == [[0, 1], [2, 3], [4]]
    assert [batch["tokens"].shape for batch in made] == [(2, 3)] * 3


def test_without_a_seed_a_batch_comes_when_its_bucket_is_full():
    made = batches(_examples([9, 1, 1, 9, 1]), batch_size=2, boundaries=(1, 9))
    assert _order(made) == [[1, 2], [0, 3], [4]]


def test_a_number_of_buckets():
    rng = np.random.default_rng(0)
    examples = {"x": [np.ones(n) for n in rng.integers(1, 30, 50)]}
    lengths = [len(x) for x in examples["x"]]
    for number in (1, 3):
        given = batches(examples, batch_size=4, boundaries=bucket_boundaries(lengths, number))
        assert batches(examples, batch_size=4, boundaries=number).plan == given.plan
    pairs = {"a": examples["x"], "b": [np.ones(n + 1) for n in lengths]}
    keys = {"a": ("a",), "b": ("b",)}
    both = bucket_boundaries([(n, n + 1) for n in lengths], 3)
    given = batches(pairs, batch_size=4, boundaries=both, sequence_keys=keys)
    assert batches(pairs, batch_size=4, boundaries=3, sequence_keys=keys).plan == given.plan
    with pytest.raises(ValueError, match="boundaries: expected"):
        batches(examples, batch_size=4, boundaries=0)


def test_epochs_are_shuffled_differently_and_repeatably():
    examples = _examples([n % 5 for n in range(40)])

    def order(seed, epoch, boundaries=None):
        made = batches(examples, batch_size=4, seed=seed, epoch=epoch, boundaries=boundaries)
        assert _order(made) == _order(made)
        return _order(made)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(orders[a] != orders[b] for a in range(4) for b in range(a))
    assert order(1, 1) == orders[3]
    assert order(0, 0, boundaries=(2, 4)) != order(0, 1, boundaries=(2, 4))


def test_shuffling_moves_the_short_batch_too():
    examples = _examples([3, 1, 2, 3, 1])
    epochs = [_order(batches(examples, batch_size=2, seed=0, epoch=epoch)) for epoch in range(9)]
    assert {[len(numbers) for numbers in order].index(1) for order in epochs} == {0, 1, 2}


def test_any_batch_by_its_index():
    made = batches(_examples([3, 1, 2, 3, 1]), batch_size=2, seed=0)
    for index, batch in enumerate(made):
        for name, array in made[index].items():
            np.testing.assert_array_equal(array, batch[name])
    with pytest.raises(IndexError):
        made[3]


@pytest.mark.parametrize("pad_batch", [False, True])
def test_drop_remainder(pad_batch):
    examples = _examples([1, 9, 1, 9, 9])
    made = batches(
        examples, batch_size=2, boundaries=(1, 9), drop_remainder=True, pad_batch=pad_batch
    )
    assert _order(made) == [[0, 2], [1, 3]] and len(made) == 2
    assert len(batches(examples, batch_size=9, drop_remainder=True)) == 0


def test_short_batch_without_filler():
    *_, last = batches(_examples([3, 1, 2]), batch_size=2, pad_batch=False)
    assert last["tokens"].shape == (1, 3) and last["weights"].tolist() == [True]


def test_detected_fields():
    examples: dict[str, Any] = {
        "a": [[1], [1, 2]],
        "b": [[1, 2], [3, 4]],
        "c": np.ones((2, 2, 3)),
        "d": [5, 6],
    }
    (batch,) = batches(examples, batch_size=2, boundaries=[4])
    assert {name: array.shape for name, array in batch.items()} == {
        "a": (2, 4),
        "b": (2, 2),
        "c": (2, 2, 3),
        "d": (2,),
        "lengths": (2,),
        "weights": (2,),
    }


def test_named_fields_of_equal_length():
    (batch,) = batches({"a": np.ones((2, 3))}, batch_size=2, sequence_keys=["a"], boundaries=[4])
    assert batch["a"].tolist() == [[1, 1, 1, 0]] * 2 and batch["lengths"].tolist() == [3, 3]


def test_no_field_over_time():
    batch = batches({"x": np.ones((3, 2))}, batch_size=2, sequence_keys=())[1]
    assert set(batch) == {"x", "weights"} and batch["x"].tolist() == [[1, 1], [0, 0]]


def test_dtypes_are_those_of_the_whole_field():
    """A batch that happens to hold whole numbers alone must not have its own dtype: it compiles."""
    made = batches({"x": [[], [1], [2, 3], [0.5]], "y": [1, 2, 3, 4.5]}, batch_size=1)
    assert {(batch["x"].dtype.name, batch["y"].dtype.name) for batch in made} == {("float64",) * 2}
    made = batches({"x": [[], [1], [2, 3]]}, batch_size=1)
    assert {batch["x"].dtype.name for batch in made} == {"int64"}


PAIRS: dict[str, Any] = {
    "letters": [[1, 2, 3], [4], [5, 6], [7]],
    "tokens": [[1], [2, 3], [], [4, 5, 6, 7]],
    "labels": [[[0.5]], [[1.5], [2.5]], [], [[3.5]] * 4],
    "word": [0, 1, 2, 3],
}
GROUPS = {"source": ["letters"], "target": ["tokens", "labels"]}


@pytest.mark.parametrize("boundaries", [None, [(2, 2), (3, 4)], [(1, 2), (2, 2), (3, 2), (3, 4)]])
def test_sequences_of_several_lengths(boundaries):
    made = batches(PAIRS, batch_size=2, sequence_keys=GROUPS, boundaries=boundaries, seed=0)
    seen = []
    for batch in made:
        sizes = batch["letters"].shape[1], batch["tokens"].shape[1]
        assert batch["labels"].shape == (2, sizes[1], 1)
        assert sizes in (boundaries or [(3, 4)])
        for row in np.flatnonzero(batch["weights"]):
            word = int(batch["word"][row])
            seen.append(word)
            read, written = batch["source_lengths"][row], batch["target_lengths"][row]
            assert (read, written) == (len(PAIRS["letters"][word]), len(PAIRS["tokens"][word]))
            assert batch["letters"][row, :read].tolist() == PAIRS["letters"][word]
            assert batch["tokens"][row, :written].tolist() == PAIRS["tokens"][word]
            assert batch["labels"][row, :written].tolist() == PAIRS["labels"][word]
            for name, length in (("letters", read), ("tokens", written), ("labels", written)):
                assert not batch[name][row, length:].any()
            # Its bucket is the first in which both sides have room.
            room = [b for b in boundaries or [(3, 4)] if read <= b[0] and written <= b[1]]
            assert sizes == room[0]
        filler = ~batch["weights"]
        assert not batch["source_lengths"][filler].any()
        assert not batch["target_lengths"][filler].any()
    assert sorted(seen) == [0, 1, 2, 3]


def test_boundaries_of_several_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, (200, 2))
    found = bucket_boundaries(lengths, 4)
    for column in range(2):
        single = bucket_boundaries(lengths[:, column], 4)
        assert tuple(boundary[column] for boundary in found) == single


GOOD = {"x": [[1], [1, 2]], "y": [0, 1]}


@pytest.mark.parametrize(
    ("examples", "options", "error", "message"),
    [
        ([[1], [2]], {}, TypeError, "examples: expected a dict of fields, got list"),
        ({}, {}, ValueError, "examples: expected at least one example, got no field"),
        ({"x": []}, {}, ValueError, "examples: expected at least one example, got {'x': 0}"),
        ({"x": [[1]], "y": [1, 2]}, {}, ValueError, "every field, got {'x': 1, 'y': 2}"),
        (GOOD | {"lengths": [1, 2]}, {}, ValueError, "which batches add, got 'lengths'"),
        (GOOD | {"weights": [1, 2]}, {}, ValueError, "which batches add, got 'weights'"),
        (
            GOOD | {"z": [[1, 2], [3]]},
            {},
            ValueError,
            "of the same length in each example, got lengths 'x' 1, 'z' 2 in example 0",
        ),
        (GOOD | {"z": ["a", "b"]}, {}, TypeError, r"examples\['z'\]\[0\]: expected numbers"),
        (
            {"x": [[1], [2]]},
            {},
            ValueError,
            "sequence_keys: expected the names of the fields with a time axis",
        ),
        (GOOD, {"sequence_keys": ("z",)}, ValueError, r"sequence_keys: expected some of .*'z'"),
        (GOOD, {"sequence_keys": "x"}, TypeError, "sequence_keys: .*got 'x'"),
        (
            GOOD,
            {"sequence_keys": ("x", "x")},
            ValueError,
            "sequence_keys: expected no field twice",
        ),
        (GOOD, {"sequence_keys": b"x"}, TypeError, "sequence_keys: expected a list, got b'x'"),
        (GOOD, {"sequence_keys": 3}, TypeError, "sequence_keys: expected a list, got 3"),
        (GOOD, {"sequence_keys": (1,)}, TypeError, "sequence_keys: expected names .*, got 1"),
        (GOOD, {"sequence_keys": [["x"]]}, TypeError, "sequence_keys: expected names of fields"),
        (GOOD, {"sequence_keys": {"a": 3}}, TypeError, "sequence_keys: expected a list, got 3"),
        (GOOD, {"sequence_keys": {1: ["x"]}}, TypeError, "expected strings as names, got 1"),
        (GOOD, {"boundaries": 2.0}, TypeError, "boundaries: expected a list, got 2.0"),
        (GOOD, {"boundaries": np.array(2)}, TypeError, "boundaries: expected a list, got ndarray"),
        (GOOD, {"boundaries": {1, 2}}, TypeError, "boundaries: .*set, which has no order"),
        (
            GOOD,
            {"boundaries": True},
            TypeError,
            "boundaries: expected a positive integer, got True",
        ),
        (GOOD, {"drop_remainder": "no"}, TypeError, "drop_remainder: expected a bool, got 'no'"),
        (GOOD, {"pad_batch": 1}, TypeError, "pad_batch: expected a bool, got 1"),
        (
            {"y": [0]},
            {"sequence_keys": ("y",)},
            ValueError,
            r"examples\['y'\]\[0\]: .*single number",
        ),
        (
            GOOD,
            {"sequence_keys": ()},
            ValueError,
            r"examples\['x'\]\[1\]: expected entries of shape \(1,\), got \(2,\)",
        ),
        (
            {"x": np.ones(2)},
            {"sequence_keys": (), "boundaries": [1]},
            ValueError,
            "boundaries: expected None",
        ),
        (
            GOOD,
            {"boundaries": [1]},
            ValueError,
            "boundaries: expected the last to be at least 2, the length of example 1, got 1",
        ),
        (GOOD, {"boundaries": []}, ValueError, r"boundaries: expected increasing .*\(\)"),
        (GOOD, {"boundaries": [4, 2]}, ValueError, r"boundaries: expected increasing .*\(4, 2\)"),
        (GOOD, {"boundaries": [2, 2]}, ValueError, "boundaries: expected increasing"),
        (
            GOOD,
            {"boundaries": [0, 2]},
            ValueError,
            "boundaries: expected a positive integer, got 0",
        ),
        (
            PAIRS,
            {"sequence_keys": {"source": ["letters", "tokens"], "b": ["labels"]}},
            ValueError,
            "'letters' 3, 'tokens' 1 in example 0; .*sequence_keys=",
        ),
        (
            PAIRS,
            {"sequence_keys": {"a": ["letters"], "b": []}},
            ValueError,
            "at least one field in 'b', got none",
        ),
        (PAIRS, {"sequence_keys": {"a": "letters"}}, TypeError, "a list of names, got 'letters'"),
        (
            PAIRS,
            {"sequence_keys": {"a": ["tokens"], "b": ["tokens"]}},
            ValueError,
            "no field twice",
        ),
        (
            PAIRS | {"a_lengths": [0, 0, 0, 0]},
            {"sequence_keys": {"a": ["letters"]}},
            ValueError,
            "no field 'a_lengths'",
        ),
        (
            PAIRS,
            {"sequence_keys": GROUPS, "boundaries": [(3, 3)]},
            ValueError,
            r"the last to be at least \(1, 4\), the length of example 3, got \(3, 3\)",
        ),
        (
            PAIRS,
            {"sequence_keys": GROUPS, "boundaries": [(3, 4), (4, 3)]},
            ValueError,
            "boundaries: expected increasing",
        ),
        (
            PAIRS,
            {"sequence_keys": GROUPS, "boundaries": [4]},
            ValueError,
            "boundaries: expected 2 lengths in each entry, got 4",
        ),
        (GOOD, {"batch_size": 0}, ValueError, "batch_size: expected a positive integer, got 0"),
        (GOOD, {"batch_size": 2.0}, TypeError, "batch_size: expected a positive integer, got 2.0"),
        (GOOD, {"seed": -1}, ValueError, "seed: expected an integer of at least 0, got -1"),
        (GOOD, {"epoch": -1}, ValueError, "epoch: expected an integer of at least 0, got -1"),
    ],
)
def test_batches_refuse(examples, options, error, message):
    with pytest.raises(error, match=message):
        batches(examples, **{"batch_size": 2, **options})


NAMES: list[Any] = [("x",), {"x"}, iter(["x"]), {"x": 0}.keys(), np.array(["x"])]


@pytest.mark.parametrize("keys", [*NAMES, pandas.Index(["x"])])
def test_names_in_any_container(keys):
    [batch] = batches({"x": [[1], [2]]}, batch_size=2, sequence_keys=keys, boundaries=[2])
    assert batch["x"].tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize("container", [tuple, np.array, jnp.array, pandas.Series, iter])
def test_boundaries_in_any_container(container):
    found = batches(GOOD, batch_size=2, boundaries=container([1, 4]))
    assert [batch["x"].shape for batch in found] == [(2, 1), (2, 4)]


def test_arrays_on_a_device_are_fetched_once(monkeypatch):
    x = jnp.arange(6).reshape(3, 2)
    reads = []
    real = type(x).__getitem__

    def counted(*arguments):
        reads.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(type(x), "__getitem__", counted)
    [batch] = batches({"x": x, "y": jnp.array([3, 4, 5])}, batch_size=3, sequence_keys=("x",))
    assert batch["x"].tolist() == [[0, 1], [2, 3], [4, 5]] and batch["y"].tolist() == [3, 4, 5]
    assert not reads


@pytest.mark.parametrize(
    "made",
    [
        batches({"x": [[1], [2, 3]]}, batch_size=1),
        stream_windows([range(9)], batch_size=1, steps=4),
    ],
)
def test_an_index_is_one_integer(made):
    with pytest.raises(TypeError, match=r"index: expected an integer, got slice.*islice"):
        made[0:1]
    with pytest.raises(IndexError, match="index: expected -2 to 1, got 2"):
        made[2]
    assert made[np.int64(-1)].keys() == made[1].keys()
