"""Containers of data: each entry at its position, or an error that names the field."""

import array
import collections
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import batches, bucket_boundaries, pack, pad, stream_windows, unpack
from seqjax.data._containers import numbers

VALUES = [7, 5, 9]


class HasArray:
    """An array of a library that has one protocol alone."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(VALUES, dtype)


class HasDlpack:
    """An array of a library that has the other protocol alone."""

    def __dlpack__(self, **options: Any) -> Any:
        return np.array(VALUES).__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return np.array(VALUES).__dlpack_device__()


class Ragged:
    """A ragged tensor of TensorFlow has no array, but lists."""

    def to_list(self) -> list[list[int]]:
        return [[1], [2, 3]]


class Lazy:
    """Entries that are read when they are asked for."""

    def __init__(self, entries: list[Any]) -> None:
        self.entries, self.reads = entries, 0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, n: int) -> Any:
        self.reads += 1
        return self.entries[n]


def _labels() -> dict[str, Any]:
    """The three values in every container that has an order."""
    shuffled = pandas.Series(VALUES, index=[2, 0, 1])
    return {
        "list": VALUES,
        "tuple": tuple(VALUES),
        "deque": collections.deque(VALUES),
        "array": array.array("i", VALUES),
        "memoryview": memoryview(array.array("i", VALUES)),
        "values": {"a": 7, "b": 5, "c": 9}.values(),
        "keys": {7: "a", 5: "b", 9: "c"}.keys(),
        "numpy": np.array(VALUES),
        "reversed": np.array(VALUES[::-1])[::-1],
        "uint8": np.array(VALUES, np.uint8),
        "object": np.array(VALUES, object),
        "scalars": list(np.array(VALUES, np.int16)),
        "0-d": [np.array(value) for value in VALUES],
        "masked": np.ma.array(VALUES, mask=False),
        "jax": jnp.array(VALUES),
        "jax scalars": list(jnp.array(VALUES)),
        "__array__": HasArray(),
        "__dlpack__": HasDlpack(),
        "lazy": Lazy(VALUES),
        "series": shuffled,
        "filtered": pandas.Series([7, 0, 5, 9])[lambda s: s > 0],
        "duplicated": pandas.Series(VALUES, index=[1, 1, 1]),
        "multi": pandas.Series(
            VALUES, index=pandas.MultiIndex.from_tuples([(1, 2), (0, 1), (0, 0)])
        ),
        "words": pandas.Series(VALUES, index=["c", "a", "b"]),
        "index": pandas.Index(VALUES),
        "nullable": shuffled.astype("Int64"),
        "category": shuffled.astype("category"),
        "objects": shuffled.astype(object),
        "extension": shuffled.astype("Int64").array,
    }


@pytest.mark.parametrize("kind", list(_labels()))
def test_labels_stay_beside_their_rows(kind):
    rows = [[70], [50, 50], [90]]
    [batch] = batches({"x": rows, "y": _labels()[kind]}, batch_size=3)
    assert batch["x"][:, 0].tolist() == [70, 50, 90] and batch["y"].tolist() == VALUES
    assert batch["y"].dtype.kind in "iu"
    windows = stream_windows([_labels()[kind]], batch_size=1, steps=2)
    assert windows[0]["targets"].tolist() == [[5, 9]]
    assert bucket_boundaries(_labels()[kind], 3) == (5, 7, 9)
    padded, lengths = pad([_labels()[kind], [1]])
    assert padded.tolist() == [VALUES, [1, 0, 0]] and lengths.tolist() == [3, 1]


def _sequences() -> dict[str, Any]:
    """[[1], [2, 3]] in every container of ragged sequences."""
    rows = [np.array([1]), np.array([2, 3])]
    objects = np.empty(2, object)
    objects[:] = rows
    return {
        "lists": [[1], [2, 3]],
        "tuples": ((1,), (2, 3)),
        "ranges": [range(1, 2), range(2, 4)],
        "arrays": rows,
        "jax": [jnp.array(row) for row in rows],
        "mixed": [[1], jnp.array([2, 3])],
        "lists of jax": [[jnp.array(1)], [jnp.array(2), 3]],
        "objects": objects,
        "series": [pandas.Series([1]), pandas.Series([2, 3], index=[1, 0])],
        "column": pandas.Series(rows, index=[1, 0]),
        "column of lists": pandas.Series([[1], [2, 3]], index=[9, 9]),
        "ragged": Ragged(),
        "lazy": Lazy([[1], (2, 3)]),
        "bytearrays": [memoryview(b"\x01"), memoryview(b"\x02\x03")],
    }


@pytest.mark.parametrize("kind", list(_sequences()))
def test_sequences_in_any_container(kind):
    made = batches({"x": _sequences()[kind], "y": [1, 2]}, batch_size=1)
    assert [(b["x"].tolist(), b["y"].tolist()) for b in made] == [([[1, 0]], [1]), ([[2, 3]], [2])]
    padded, lengths = pad(_sequences()[kind])
    assert padded.tolist() == [[1, 0], [2, 3]] and lengths.tolist() == [1, 2]
    packed = pack({"x": _sequences()[kind]}, length=3)
    assert packed["x"].tolist() == [[2, 3, 1]]
    assert [row.tolist() for row in unpack(jnp.array(packed["x"]), packed)] == [[1], [2, 3]]
    if kind not in ("ragged", "lazy"):
        windows = stream_windows(_sequences()[kind], batch_size=1, steps=1)
        assert windows[1]["inputs"].tolist() == [[2]] and windows[1]["targets"].tolist() == [[3]]


def test_rows_of_a_frame_count_by_their_place():
    frame = pandas.DataFrame({"x": [[10], [11, 11], [12]], "y": [0, 1, 2]}).iloc[[2, 0, 1]]
    for examples in (frame, {"x": frame.x, "y": frame[["y"]]}, {"x": list(frame.x), "y": frame.y}):
        [batch] = batches(examples, batch_size=3, sequence_keys=("x",))
        assert batch["x"][:, 0].tolist() == [12, 10, 11] and batch["y"].ravel().tolist() == [
            2,
            0,
            1,
        ]
    packed = pack(frame[["x"]], length=4)
    assert packed["x"].tolist() == [[11, 11, 12, 10]]
    kept = frame[frame.y > 0]
    [batch] = batches(kept, batch_size=2)
    assert batch["x"].tolist() == [[12, 0], [11, 11]] and batch["y"].tolist() == [2, 1]
    features = pandas.DataFrame({"a": [1, 2, 3], "b": [True, False, True]}, index=[2, 0, 1])
    [batch] = batches({"f": features}, batch_size=3, sequence_keys=())
    assert batch["f"].tolist() == [[1, 1], [2, 0], [3, 1]]


def test_a_structured_array_is_a_table():
    table = np.array([(1, 0.5), (2, 1.5)], [("a", np.int32), ("b", np.float32)])
    [batch] = batches(table, batch_size=2, sequence_keys=())
    assert batch["a"].tolist() == [1, 2] and batch["b"].tolist() == [0.5, 1.5]
    with pytest.raises(TypeError, match=r"examples\['t'\]: .*name one of its fields: a, b"):
        batches({"t": table}, batch_size=2, sequence_keys=())


def test_columns_of_pyarrow():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"x": [[1], [2, 3]], "y": [7, 5]})
    [batch] = batches(table, batch_size=2)
    assert batch["x"].tolist() == [[1, 0], [2, 3]] and batch["y"].tolist() == [7, 5]
    assert batch["y"].dtype == np.int64
    with pytest.raises(ValueError, match=r"examples\['y'\]: expected no missing values, got 1"):
        batches({"y": pyarrow.array([1, None])}, batch_size=2, sequence_keys=())
    with pytest.raises(TypeError, match=r"examples\['x'\]\[1\]: expected numbers, got None"):
        batches({"x": pyarrow.array([[1], [2, None]])}, batch_size=2)
    arrow = pandas.Series([[1], [2, None]], dtype=pandas.ArrowDtype(pyarrow.list_(pyarrow.int64())))
    with pytest.raises(TypeError, match=r"examples\['x'\]\[1\]: expected numbers, got None"):
        batches({"x": arrow}, batch_size=2)
    frame = table.to_pandas(types_mapper=pandas.ArrowDtype)
    [batch] = batches(frame[::-1], batch_size=2)
    assert batch["x"].tolist() == [[2, 3], [1, 0]] and batch["y"].tolist() == [5, 7]


def test_columns_of_polars():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"x": [[1], [2, 3]], "y": [7, 5]})
    for examples in (frame, {"x": frame["x"], "y": frame["y"]}):
        [batch] = batches(examples, batch_size=2)
        assert batch["x"].tolist() == [[1, 0], [2, 3]] and batch["y"].tolist() == [7, 5]
    missing = polars.Series([1, None])
    for field in (missing, polars.DataFrame({"a": missing})):
        with pytest.raises(ValueError, match=r"examples\['y'\]: expected no missing values, got 1"):
            batches({"y": field}, batch_size=2, sequence_keys=())
    with pytest.raises(TypeError, match=r"examples\['x'\]\[1\]: expected numbers, got None"):
        batches({"x": polars.Series([[1], [2, None]])}, batch_size=2)
    with pytest.raises(TypeError, match="examples: expected a dict of fields, got LazyFrame"):
        batches(frame.lazy(), batch_size=2)


def test_bfloat16_stays():
    values = jnp.array([[1.5], [2.5]], jnp.bfloat16)
    for field in (values, np.asarray(values), list(values), [np.asarray(v) for v in values]):
        [batch] = batches({"x": field}, batch_size=2, sequence_keys=())
        assert batch["x"].dtype == ml_dtypes.bfloat16 and batch["x"].tolist() == [[1.5], [2.5]]
    for other, dtype in {2**24 - 1: np.int64, -32767: np.int16, 65504: np.float16}.items():
        mixed = [np.asarray(values[0]), np.array([other], dtype)]
        [batch] = batches({"x": mixed}, batch_size=2, sequence_keys=())
        assert batch["x"].tolist() == [[1.5], [other]]
    mixed = [np.array([0.25], ml_dtypes.float8_e5m2), np.array([127], np.int8)]
    [batch] = batches({"x": mixed}, batch_size=2, sequence_keys=())
    assert batch["x"].tolist() == [[0.25], [127]]  # float8 has no 127
    raw = np.asarray(values).view("V2")  # what np.save makes of it
    with pytest.raises(TypeError, match=r"expected numbers, got \|V2; .*view\(jax.numpy.bfloat16"):
        batches({"x": raw}, batch_size=2, sequence_keys=())


def test_arrays_on_several_devices():
    mesh = jax.sharding.Mesh(jax.devices()[:1], "b")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("b"))
    field = jax.device_put(jnp.arange(4), sharding)
    assert batches({"x": field}, batch_size=4, sequence_keys=())[0]["x"].tolist() == [0, 1, 2, 3]


def test_tensors_of_pytorch():
    torch = pytest.importorskip("torch")
    labels = torch.tensor(VALUES)
    rows = [torch.ones(2, requires_grad=True), torch.zeros(1)]
    made = batches({"x": [*rows, [5.0]], "y": labels}, batch_size=3)
    assert made[0]["x"].tolist() == [[1, 1], [0, 0], [5, 0]] and made[0]["y"].tolist() == VALUES
    assert pad(rows)[0].tolist() == [[1, 1], [0, 0]]
    half = torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)
    [batch] = batches({"x": half}, batch_size=2, sequence_keys=())
    assert batch["x"].dtype == ml_dtypes.bfloat16 and batch["x"].tolist() == [1.5, 2.5]
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    assert pad(nested)[1].tolist() == [1, 2]
    assert bucket_boundaries(labels, 1) == (9,)
    assert numbers("x", [torch.tensor(1), torch.tensor(2)]).tolist() == [1, 2]
    conjugate = torch.tensor([1 + 2j]).conj()
    assert numbers("x", conjugate).tolist() == [1 - 2j]
    with pytest.raises(TypeError, match="x: expected numbers, got Tensor: "):
        numbers("x", torch.tensor([0, 1]).to_sparse())


def _refused() -> list[Any]:
    """What is no field of numbers, the error and its message."""
    frame = pandas.DataFrame({"t": ["a", "b"]})
    return [
        ("ab", TypeError, "expected numbers, got 'ab' .*; encode text first"),
        (b"ab", TypeError, "expected numbers, got b'ab' .*; decode text first"),
        (["a", "b"], TypeError, r"\[0\]: expected numbers, got 'a' .*; encode text first"),
        ([1, "b"], TypeError, r"\[1\]: expected numbers, got 'b'"),
        ([b"a", b"b"], TypeError, r"\[0\]: expected numbers, got b'a' .*; decode text first"),
        (np.array(["a", "b"]), TypeError, "expected numbers, got .*'a'.*encode text first"),
        (frame.t, TypeError, r"\[0\]: expected numbers, got 'a'"),
        (frame.t.astype("category"), TypeError, r"\[0\]: expected numbers, got 'a'"),
        (frame.t.astype("str"), TypeError, r"\[0\]: expected numbers, got 'a'"),
        ({1, 2}, TypeError, "expected numbers, got set, which has no order; convert it to a list"),
        (frozenset([1, 2]), TypeError, "expected numbers, got frozenset, which has no order"),
        ({0: 1, 1: 2}, TypeError, "expected numbers, got dict"),
        (
            (n for n in (1, 2)),
            TypeError,
            "expected numbers, got generator.*only once; convert it to a list",
        ),
        (map(int, "12"), TypeError, "expected numbers, got map, which can be read only once"),
        ([iter([1]), iter([2])], TypeError, r"\[0\]: expected numbers, got list_iterator"),
        ([{"a": 1}, {"a": 2}], TypeError, r"\[0\]: expected numbers, got dict"),
        ([{1}, {2}], TypeError, r"\[0\]: expected numbers, got set"),
        (None, TypeError, "expected numbers, got None"),
        ([1, None], TypeError, r"\[1\]: expected numbers, got None"),
        ([object(), 1], TypeError, r"\[0\]: expected numbers, got object"),
        (3, TypeError, "expected one entry per example, got 3"),
        (np.array(3), TypeError, "expected one entry per example, got ndarray"),
        (jnp.array(3), TypeError, "expected one entry per example, got ndarray"),
        (object(), TypeError, "expected one entry per example, got object"),
        (
            np.ma.array([1, 2], mask=[False, True]),
            ValueError,
            r"expected no masked entries; .*\.filled",
        ),
        ([np.ma.array([1], mask=[True]), [2]], ValueError, r"\[0\]: expected no masked entries"),
        ([1, np.ma.masked], ValueError, r"\[1\]: expected no masked entries"),
        (pandas.Series([1, None], dtype="Int64"), ValueError, "expected no missing values, got 1"),
        (pandas.Series([True, None], dtype="boolean"), ValueError, "expected no missing values"),
        (pandas.Series([1.5, None], dtype="Float64"), ValueError, "expected no missing values"),
        (pandas.Series([1, None], dtype="category"), ValueError, "expected no missing values"),
        (pandas.Series([1, pandas.NA], dtype=object), TypeError, r"\[1\]: .*got NAType"),
        (
            pandas.to_datetime(["2020-01-01", "2020-01-02"]),
            TypeError,
            "got datetime64.*; convert times",
        ),
        (pandas.date_range("2020", periods=2, tz="UTC"), TypeError, r"\[0\]: .*got Timestamp"),
        (np.array([1, 2], "m8[s]"), TypeError, "got timedelta64"),
        (jax.random.split(jax.random.key(0)), TypeError, "expected numbers, got PRNGKeyArray"),
        (
            [[1, [2]], [3, 4]],
            ValueError,
            r"\[0\]: expected parts of one shape, got parts that differ",
        ),
        ([2**63, -1], TypeError, "expected entries of one dtype, got int64, uint64"),
        ([[2**63, -1], [0, 0]], ValueError, r"\[0\]: expected integers that int64 can hold"),
        ([2**70, 1], ValueError, r"\[0\]: expected integers that 64 bits can hold, got 11805"),
        ([[1, 2**70], [0, 0]], ValueError, r"\[0\]: expected integers that 64 bits can hold"),
        ([0, -(2**63) - 1], ValueError, r"\[1\]: expected integers that 64 bits can hold"),
        ([1, 2**31], ValueError, r"\[1\]: expected integers that int32 can hold.*got 2147483648"),
        (
            np.array([1, -(2**31) - 1]),
            ValueError,
            "integers that int32 .*got -2147483649",
        ),
        (np.array([1, 2**32], np.uint64), ValueError, "uint32 can hold, .*got 4294967296"),
        (range(2**31, 2**31 + 2), ValueError, "int32 can hold"),
    ]


@pytest.mark.parametrize(("field", "error", "message"), _refused())
def test_what_is_no_field_is_refused_by_name(field, error, message):
    with pytest.raises(error, match=r"^examples\['f'\].*" + message):
        batches({"x": [[1], [2, 2]], "f": field}, batch_size=2)
    with pytest.raises((TypeError, ValueError), match=r"^sequences\['f'\]"):
        pack({"f": field}, length=9)
    with pytest.raises((TypeError, ValueError), match=r"^(documents|sequence)"):
        stream_windows(field, batch_size=1, steps=1)
    with pytest.raises((TypeError, ValueError), match=r"^lengths: "):
        bucket_boundaries([[[field]]], 1)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([{"a": 1}, {"a": 2}], TypeError, r"got a list of dicts; convert it: {name: \[row\[name\]"),
        (Lazy([{"a": 1}]), TypeError, "got a Lazy of dicts; convert it"),
        ({1: [1, 2]}, TypeError, "expected strings as names of fields, got 1"),
        (pandas.DataFrame([[1, 2]]), TypeError, "expected strings as names of fields, got 0"),
        (
            pandas.DataFrame([[1, 2]], columns=["a", "a"]),
            ValueError,
            "no name of a field twice, got a, a",
        ),
        (pandas.Series([1, 2]), TypeError, "expected a dict of fields, got Series"),
        (np.ones((2, 2)), TypeError, "expected a dict of fields, got ndarray"),
        (iter([{"a": 1}]), TypeError, "got list_iterator, which can be read only once"),
        (None, TypeError, "expected a dict of fields, got None"),
        ("a", TypeError, "expected a dict of fields, got 'a'"),
    ],
)
def test_what_is_no_table_is_refused(examples, error, message):
    with pytest.raises(error, match="^examples: .*" + message):
        batches(examples, batch_size=2)
    with pytest.raises(error, match="^sequences: .*" + message):
        pack(examples, length=2)


def test_wide_integers_where_jax_has_them():
    field = np.array([2**40, 1])
    with jax.enable_x64(True):
        assert batches({"x": field}, batch_size=2, sequence_keys=())[0]["x"].tolist() == [2**40, 1]
    wide, narrow = np.array([2**31 - 1, -(2**31)]), np.array([2**32 - 1, 0], np.uint64)
    [batch] = batches({"x": wide, "y": narrow}, batch_size=2, sequence_keys=())
    assert batch["x"].tolist() == wide.tolist() and batch["y"].tolist() == narrow.tolist()


def test_entries_that_change_after_they_were_first_read():
    field = Lazy([[1], [2, 3]])
    made = batches({"x": field, "y": [1, 2]}, batch_size=2)
    field.entries[1] = [2, 3, 4]
    with pytest.raises(ValueError, match=r"'x'\]\[1\]: expected shape \(2,\) as when .*got \(3,\)"):
        made[0]


def test_lists_that_change_later_change_no_batch():
    rows = [[1], [2, 3]]
    made = batches({"x": rows}, batch_size=2)
    rows[0][0] = 9
    assert made[0]["x"].tolist() == [[1, 0], [2, 3]]


@pytest.mark.parametrize("kind", ["numpy", "jax", "pandas", "list"])
def test_rectangular_fields_are_not_read_row_by_row(kind):
    """No call of Python for each row: they would be a hundred thousand."""
    rows = 2000
    field: Any = np.arange(rows)
    field = {"jax": jnp.asarray, "pandas": pandas.Series, "list": list}.get(kind, np.asarray)(field)
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        made = batches({"x": field}, batch_size=rows, sequence_keys=())
    finally:
        sys.setprofile(None)
    assert calls < rows // 2
    assert made[0]["x"].tolist() == list(range(rows))


def test_memory_mapped_files_stay_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = batches({"x": mapped}, batch_size=3, sequence_keys=())
    assert np.shares_memory(made.fields["x"].rows, mapped)
    assert made[0]["x"].tolist() == [[0, 1], [2, 3], [4, 5]]


CONTAINERS: dict[str, Any] = {
    "list": lambda rows: rows,
    "tuple": tuple,
    "arrays": lambda rows: [np.array(row, np.int32) for row in rows],
    "jax": lambda rows: [jnp.asarray(np.array(row, np.int32)) for row in rows],
    "series": lambda rows: pandas.Series(rows, index=range(len(rows))[::-1], dtype=object),
    "lazy": Lazy,
    "values": lambda rows: dict(enumerate(rows)).values(),
    "frame": lambda rows: pandas.DataFrame({"x": rows})[["x"]].iloc[::-1].iloc[::-1]["x"],
    "set": lambda rows: {tuple(row) for row in rows},
    "generator": lambda rows: (row for row in rows),
    "dict": lambda rows: dict(enumerate(rows)),
}


@given(
    rows=st.lists(st.lists(st.integers(-9, 9), max_size=4), min_size=1, max_size=8),
    kind=st.sampled_from(list(CONTAINERS)),
    labels=st.sampled_from(["jax", "list", "series"]),
    batch_size=st.integers(1, 4),
    buckets=st.integers(1, 3),
    seed=st.none() | st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_every_row_once_beside_its_label(rows, kind, labels, batch_size, buckets, seed):
    """Whatever holds the rows: each comes once, or the container is refused."""
    numbered = pandas.Series(range(len(rows)), index=list(range(len(rows)))[::-1])
    label = {"jax": jnp.array(range(len(rows))), "list": list(range(len(rows)))}.get(
        labels, numbered
    )
    examples = {"x": CONTAINERS[kind](rows), "n": label}
    options = {"batch_size": batch_size, "sequence_keys": ["x"], "seed": seed}
    if kind in ("set", "generator", "dict"):
        with pytest.raises(TypeError, match=r"examples\['x'\]: expected numbers, got "):
            batches(examples, boundaries=buckets, **options)
        return
    seen: dict[int, list[int]] = {}
    for batch in batches(examples, boundaries=buckets, **options):
        for row in np.flatnonzero(batch["weights"]):
            n = int(batch["n"][row])
            assert n not in seen
            seen[n] = batch["x"][row, : batch["lengths"][row]].tolist()
    assert seen == dict(enumerate(rows))


def test_the_hint_for_times_gives_the_right_numbers():
    times = np.array(["1970-01-01T12", "1970-01-03"], "M8[ns]")
    for values in (times, pandas.Series(times), times - times[0], pandas.Series(times - times[0])):
        with pytest.raises(TypeError) as caught:
            batches({"x": values}, batch_size=1)
        hint = str(caught.value).partition("such as days: ")[2]
        days = np.asarray(eval(hint, {"values": values, "numpy": np}))
        assert days.tolist() == ([0.5, 2.0] if values[0] == times[0] else [0.0, 1.5])


@pytest.mark.parametrize("holder", [list, tuple, Lazy])
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_whose_columns_are_in_another_order(library, holder):
    module = pytest.importorskip(library)
    frame = module.table if library == "pyarrow" else module.DataFrame
    first, same = frame({"a": [1], "b": [2]}), frame({"a": [3], "b": [4]})
    other, renamed = frame({"b": [2], "a": [1]}), frame({"a": [1], "c": [2]})
    [batch] = batches({"x": holder([first, same])}, batch_size=2, sequence_keys=("x",))
    assert batch["x"].tolist() == [[[1, 2]], [[3, 4]]]
    for wrong in (other, renamed):
        with pytest.raises(ValueError, match=r"x'\]\[1\].*: expected the columns a, b, as before"):
            batches({"x": holder([first, wrong])}, batch_size=2, sequence_keys=("x",))
        with pytest.raises(ValueError, match=r"x'\]\[1\]: expected the columns a, b, as before"):
            batches({"x": [[first, first], [first, wrong]]}, batch_size=2)
