"""Batches in Grain: the same ones with workers and shards, and from where reading stood."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax import training
from seqjax.data import batches, grain_batches

grain = pytest.importorskip("grain")

LENGTHS = [3, 1, 6, 2, 5, 4, 1, 6, 2, 3, 5]
EXAMPLES: dict[str, Any] = {
    "x": [np.full((t, 2), n, np.float32) for n, t in enumerate(LENGTHS)],
    "n": np.arange(len(LENGTHS)),
}
ROWS = [{"x": x, "n": n} for x, n in zip(EXAMPLES["x"], EXAMPLES["n"], strict=True)]


def made(**options: Any) -> Any:
    defaults: dict[str, Any] = {"batch_size": 2, "boundaries": [3, 6], "seed": 0}
    return batches(EXAMPLES, **(defaults | options))


def bucketed(dataset: Any, **options: Any) -> Any:
    defaults: dict[str, Any] = {"batch_size": 2, "boundaries": [3, 6], "sequence_keys": ["x"]}
    return grain_batches(dataset, **(defaults | options))


def assert_same(found: Iterable[Any], expected: Iterable[Any]) -> None:
    for batch, wanted in zip(found, expected, strict=True):
        assert batch.keys() == wanted.keys()
        for name in wanted:
            assert batch[name].dtype == wanted[name].dtype
            np.testing.assert_array_equal(batch[name], wanted[name])


def numbers_of(found: Iterable[Any]) -> list[int]:
    return [int(n) for batch in found for n in batch["n"][batch["weights"]]]


# Batches of examples in memory


def test_an_epoch_after_the_other():
    first = made()
    epochs = [made(epoch=epoch) for epoch in range(3)]
    for epoch, expected in enumerate(epochs):
        assert_same(first.at_epoch(epoch), expected)
    dataset = first.to_grain()
    assert len(dataset) == len(first)
    assert_same(dataset, first)
    repeated = dataset.repeat(3)
    assert_same(repeated, [batch for epoch in epochs for batch in epoch])
    length = len(first)
    assert_same(repeated[length : 2 * length], epochs[1])
    assert_same(
        [repeated[2 * length], repeated[0], dataset[-1]], [epochs[2][0], first[0], first[-1]]
    )
    assert_same(made(epoch=4).to_grain().repeat(2)[length:], made(epoch=5))
    assert_same(dataset.repeat(2, reseed_each_epoch=False), [*first, *first])
    ordered = made(seed=None)
    assert_same(ordered.to_grain().repeat(2), [*ordered, *ordered])
    assert_same(grain.MapDataset.source(first), first)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_are_disjoint_and_complete(count):
    dataset = made().to_grain()
    for epoch in range(2):
        shards = [dataset[index::count].repeat(2) for index in range(count)]
        seen = []
        for shard in shards:
            part = len(shard) // 2
            seen += numbers_of(shard[epoch * part : (epoch + 1) * part])
        assert sorted(seen) == list(range(len(LENGTHS)))


def test_processes_read_their_rows_of_the_same_batches():
    rows = [{0}, {1}]
    parts = [made().only_rows(sorted(own)).to_grain().repeat(2) for own in rows]
    whole = made().to_grain().repeat(2)
    for index in range(len(whole)):
        both = [part[index] for part in parts]
        assert_same([{name: both[0][name] + both[1][name] for name in ("x", "n")}],
                    [{name: whole[index][name] for name in ("x", "n")}])  # fmt: skip
        for batch in both:
            np.testing.assert_array_equal(batch["weights"], whole[index]["weights"])


def test_a_loader_of_grain_and_its_checkpoint():
    def loader() -> Any:
        sampler = grain.samplers.IndexSampler(
            len(made()), shuffle=True, seed=3, num_epochs=2,
            shard_options=grain.sharding.ShardOptions(0, 1),
        )  # fmt: skip
        return iter(grain.DataLoader(data_source=made(), sampler=sampler))

    whole = list(loader())
    assert sorted(numbers_of(whole)) == sorted([*range(len(LENGTHS))] * 2)
    iterator = loader()
    for _ in range(5):
        next(iterator)
    again = loader()
    again.set_state(iterator.get_state())
    assert_same(again, whole[5:])


def test_batches_are_named_in_one_line_and_pickled():
    assert repr(made()) == (
        "Batches(6 batches of 2, 11 examples, x: float32[2], n: int64[], "
        "boundaries=[(3,), (6,)], seed=0, epoch=0)"
    )
    assert_same(pickle.loads(pickle.dumps(made())), made())


# Examples as they come


@given(
    lengths=st.lists(st.integers(0, 6), max_size=24),
    batch_size=st.integers(1, 4),
    drop_remainder=st.booleans(),
    stop=st.integers(0, 24),
)
@settings(max_examples=40, deadline=None)
def test_every_example_once_from_every_place(lengths, batch_size, drop_remainder, stop):
    rows = [{"x": np.full(t, n, np.int32), "n": n} for n, t in enumerate(lengths)]
    dataset = grain.MapDataset.source(rows).shuffle(seed=1) if rows else grain.MapDataset.range(0)
    dataset = bucketed(
        dataset, batch_size=batch_size, boundaries=[1, 3, 6], drop_remainder=drop_remainder
    )
    whole = list(dataset)
    seen = numbers_of(whole)
    left = [sum(lo < max(t, 1) <= hi for t in lengths) for lo, hi in ((0, 1), (1, 3), (3, 6))]
    assert len(seen) == len(set(seen))
    full = sum(n - n % batch_size for n in left)
    assert len(seen) == (full if drop_remainder else len(lengths))
    for batch in whole:
        assert batch["x"].shape[0] == batch_size and batch["weights"].any()
        for row in np.flatnonzero(batch["weights"]):
            n, t = int(batch["n"][row]), int(batch["lengths"][row])
            assert t == lengths[n] and (batch["x"][row, :t] == n).all()
            assert batch["x"].shape[1] == min(b for b in (1, 3, 6) if b >= t)
            assert not batch["x"][row, t:].any()
    iterator = iter(dataset)
    stop = min(stop, len(whole))
    assert_same([next(iterator) for _ in range(stop)], whole[:stop])
    state = json.dumps(iterator.get_state())
    again = iter(dataset)
    next(again, None)  # which has to be forgotten
    again.set_state(json.loads(state))
    assert json.dumps(again.get_state()) == state
    assert_same(again, whole[stop:])
    assert_same(iterator, whole[stop:])


def test_buckets_are_those_of_batches():
    """Without shuffling both take the examples in their order."""
    assert_same(bucketed(grain.MapDataset.source(ROWS)), made(seed=None))
    short = {"pad_batch": False, "drop_remainder": False}
    assert_same(bucketed(grain.MapDataset.source(ROWS), **short), made(seed=None, **short))
    pairs = [{"a": [1] * t, "b": [2] * (7 - t), "n": t} for t in (1, 2, 3, 1, 6)]
    keys = {"source": ["a"], "target": ["b"]}
    fields = {name: [row[name] for row in pairs] for name in pairs[0]}
    options: Any = {"sequence_keys": keys, "boundaries": [(2, 6), (6, 6)]}
    found = bucketed(grain.MapDataset.source(pairs), **options)
    assert_same(found, batches(fields, batch_size=2, **options))
    options = {"sequence_keys": (), "boundaries": None}
    numbered = [{"n": n} for n in range(3)]
    expected = batches({"n": [0, 1, 2]}, batch_size=2, sequence_keys=())
    assert_same(bucketed(grain.MapDataset.source(numbered), **options), expected)


def test_shards_of_examples_over_epochs():
    source = grain.MapDataset.source(ROWS).shuffle(seed=0)
    seen = []
    for index in range(2):
        seen += numbers_of(bucketed(source[index::2].repeat(3)))
    assert sorted(seen) == sorted([*range(len(ROWS))] * 3)


def refused(row: Any, **options: Any) -> Any:
    rows = [{"x": [1], "n": 1}, row]
    return list(bucketed(grain.MapDataset.source(rows), **options))


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ([1], TypeError, r"examples\[1\]: expected a dict of fields, got \[1\]"),
        (
            {"x": [1]},
            ValueError,
            r"examples\[1\]: expected the fields \['n', 'x'\], as in .*, got \['x'\]",
        ),
        ({"x": [1], "n": 1, "z": 1}, ValueError, r"examples\[1\]: .*got \['n', 'x', 'z'\]"),
        ({"x": 1, "n": 1}, ValueError, r"examples\[1\]\['x'\]: expected a sequence"),
        ({"x": [1] * 7, "n": 1}, ValueError, "at least 7, the length of example 1, got 6"),
        ({"x": b"ab", "n": 1}, TypeError, r"examples\[1\]\['x'\]: .*decode text first"),
        ({"x": [2**31], "n": 1}, ValueError, "integers that int32 can hold"),
    ],
)
def test_examples_that_cannot_be_batched(row, error, message):
    with pytest.raises(error, match=message):
        refused(row)


def test_mistakes():
    source = grain.MapDataset.source(ROWS)
    with pytest.raises(TypeError, match=r"dataset: expected a grain.MapDataset .* got list; make"):
        bucketed(ROWS)
    with pytest.raises(ValueError, match="boundaries: expected increasing lengths, got None"):
        bucketed(source, boundaries=None)
    with pytest.raises(ValueError, match="boundaries: expected increasing lengths"):
        bucketed(source, boundaries=[6, 3])
    with pytest.raises(TypeError, match="sequence_keys: expected a list of names, got 'x'"):
        bucketed(source, sequence_keys="x")
    with pytest.raises(ValueError, match="sequence_keys: expected no field twice"):
        bucketed(source, sequence_keys={"a": ["x"], "b": ["x"]}, boundaries=[(1, 1)])
    with pytest.raises(ValueError, match="batch_size: expected a positive integer"):
        bucketed(source, batch_size=0)
    with pytest.raises(ValueError, match=r"examples\[0\]: expected a field 'y'"):
        list(bucketed(source, sequence_keys=["y"]))
    with pytest.raises(ValueError, match=r"batches: expected at least one .* got none"):
        made(batch_size=20, drop_remainder=True).to_grain()


def test_without_grain_only_its_functions_are_missing():
    code = """
import sys
sys.modules["grain"] = None
from seqjax import data
made = data.batches({"x": [[1], [2, 3]]}, batch_size=2)
for call in (made.to_grain, lambda: data.grain_batches([], batch_size=1, sequence_keys=())):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    hint = 'needs grain: pip install "seqjax[grain]"\n'
    expected = f"seqjax.data.Batches.to_grain {hint}seqjax.data.grain_batches {hint}"
    assert (run.returncode, run.stdout) == (0, expected), run.stderr


@pytest.mark.slow
def test_workers_change_no_batch(tmp_path):
    """Processes need a program that can be imported again, so this is one of its own."""
    program = tmp_path / "program.py"
    program.write_text("""
if __name__ == "__main__":
    import json

    import absl.flags
    import grain
    import numpy as np

    from seqjax import data

    def read(dataset, stop=0):
        batches = []
        if stop:
            first = iter(dataset)
            batches = [next(first) for _ in range(stop)]
            state = json.loads(json.dumps(first.get_state()))
            first.close()
        rest = iter(dataset)
        if stop:
            rest.set_state(state)
        batches += rest
        return [[(k, b[k].dtype.name, b[k].tolist()) for k in sorted(b)] for b in batches]

    absl.flags.FLAGS.mark_as_parsed()
    lengths = [3, 1, 6, 2, 5, 4, 1, 6, 2, 3, 5]
    rows = [{"x": np.full(t, n), "n": n} for n, t in enumerate(lengths)]
    examples = {"x": [row["x"] for row in rows], "n": np.arange(len(rows))}
    made = data.batches(examples, batch_size=2, boundaries=[3, 6], seed=0)
    two = grain.MultiprocessingOptions(num_workers=2)
    alone = made.to_grain().repeat(2).to_iter_dataset()
    print(read(alone) == read([*made, *made.at_epoch(1)]))
    print(read(alone.mp_prefetch(two)) == read(alone))
    options = {"batch_size": 2, "boundaries": [3, 6], "sequence_keys": ["x"]}
    alone = grain.MapDataset.source(rows).shuffle(seed=0).repeat(2).to_iter_dataset()
    working = data.grain_batches(alone.mp_prefetch(two), **options)
    print(read(working, stop=5) == read(data.grain_batches(alone, **options)))
""")
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stdout) == (0, "True\nTrue\nTrue\n"), run.stderr[-3000:]


# Training


class Sum(nnx.Module):
    def __init__(self) -> None:
        self.readout = nnx.Linear(2, 1, rngs=nnx.Rngs(0))


def loss_fn(model: Sum, batch: Any, rngs: nnx.Rngs) -> Any:
    del rngs
    found = model.readout(batch["x"]).sum(axis=(1, 2))
    return jnp.mean(batch["weights"] * (found - batch["n"]) ** 2), {}


def trained(source: Any, **options: Any) -> np.ndarray:
    optimizer = training.optimizer(0.01)
    result = training.fit(Sum(), loss_fn, optimizer, source, progress=False, **options)
    return np.asarray(result.model.readout.kernel[...])


@pytest.mark.quick()
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_fit_reads_grain_and_goes_on_to_the_same_bits(tmp_path, kind):
    dataset = made(boundaries=1).to_grain().repeat(2)
    length = len(dataset) // 2
    rows = grain.MapDataset.source(ROWS).shuffle(seed=2)
    source, options, same = {
        "map": (
            lambda epoch: dataset[epoch * length : (epoch + 1) * length],
            {"epochs": 2},
            made(boundaries=1).at_epoch,
        ),
        "stream": (
            bucketed(rows.repeat(), boundaries=[6]),
            {"steps": 9},
            list(bucketed(rows.repeat(2), boundaries=[6])),
        ),
    }[kind]

    def dies(epoch: int) -> Any:
        for index, batch in enumerate(source(epoch) if callable(source) else source):
            if index == 4:
                raise KeyboardInterrupt
            yield batch

    def checkpoints() -> training.Checkpoints:
        return training.Checkpoints(tmp_path, every=3)

    with checkpoints() as kept, pytest.raises(KeyboardInterrupt):
        trained(dies, checkpoints=kept, **options)
    with checkpoints() as kept:
        assert len(kept) == 1
        found = trained(source, checkpoints=kept, resume=True, **options)
    np.testing.assert_array_equal(found, trained(same, **options))


def test_frames_whose_columns_are_in_another_order():
    pandas = pytest.importorskip("pandas")
    first, other = pandas.DataFrame({"a": [1], "b": [2]}), pandas.DataFrame({"b": [2], "a": [1]})

    def read(*frames):
        source = grain.MapDataset.source([{"x": frame} for frame in frames])
        options: Any = {"batch_size": 2, "sequence_keys": ["x"], "boundaries": [1]}
        return [batch["x"].tolist() for batch in grain_batches(source, **options)]

    assert read(first, first) == [[[[1, 2]], [[1, 2]]]]
    with pytest.raises(ValueError, match=r"examples\[1\]\['x'\]: expected the columns a, b, as"):
        read(first, other)
