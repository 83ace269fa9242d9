"""Checkpoints: whole or set aside, and a run that goes on ends as if nothing had come between."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from seqjax import training
from seqjax.data import batches
from seqjax.metrics import Mean
from seqjax.training._totals import Totals
from tests.training.test_fit import make_batches, metric_fn, run, without_time

TREE = {
    "float": jnp.linspace(0.0, 1.0, 7),
    "half": jnp.array([1.5, -2.0], jnp.bfloat16),
    "nested": [jnp.int32(3), {"a.b/c": jnp.zeros((0, 2))}],
    "key": jax.random.key(5),
    "raw": jax.random.split(jax.random.key(6), 3),
}


def same(one, other):
    structures: list[Any] = [jax.tree.structure(one), jax.tree.structure(other)]
    assert structures[0] == structures[1]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


SIZE = 3000  # so that the array is in the largest file


def write_two(folder):
    with training.Checkpoints(folder) as checkpoints:
        for number in (1, 2):
            w = jax.random.normal(jax.random.key(number), [SIZE])
            checkpoints.save(number, {"w": w}, {"number": number})


def test_round_trip_of_every_kind_of_array(tmp_path):
    record = {"history": [{"loss": 0.1 + 0.2}], "none": None}
    with training.Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.restore(TREE) is None and len(checkpoints) == 0
        checkpoints.save(3, {"w": jnp.zeros(1)}, {})
        checkpoints.save(9, TREE, record)
        assert len(checkpoints) == 1
    with training.Checkpoints(tmp_path) as checkpoints:
        found: Any = checkpoints.restore(TREE)
    same(found.arrays, TREE)
    assert found.record == record


def damage_a_byte(place):
    largest = max((p for p in place.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0x10
    largest.write_bytes(bytes(data))


def cut_files(place):
    for path in place.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_the_record(place):
    [path] = [p for p in (place / "record").rglob("*") if "number" in p.read_text()]
    path.write_text(path.read_text().replace("2}", "7}"))


def delete_arrays(place):
    for path in (place / "arrays").rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize(
    "harm", [damage_a_byte, cut_files, change_the_record, delete_arrays], ids=lambda f: f.__name__
)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, harm):
    write_two(tmp_path)
    harm(tmp_path / "2")
    with training.Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match="/2, which is damaged .*the previous one is read"):
            found: Any = checkpoints.restore({"w": jnp.zeros(SIZE)})
        assert found.record == {"number": 1}
        same(found.arrays["w"], jax.random.normal(jax.random.key(1), [SIZE]))
        assert (tmp_path / "damaged-2").is_dir()
        checkpoints.save(2, {"w": jnp.zeros(SIZE)}, {"number": 3})  # its place is free
        found = checkpoints.restore({"w": jnp.zeros(SIZE)})
        assert found.record == {"number": 3}


def test_damaged_again_and_again(tmp_path):
    write_two(tmp_path)
    for _ in range(3):
        cut_files(tmp_path / "2")
        with training.Checkpoints(tmp_path) as checkpoints:
            with pytest.warns(UserWarning, match="damaged"):
                found: Any = checkpoints.restore({"w": jnp.zeros(SIZE)})
            assert found.record == {"number": 1}
            checkpoints.save(2, {"w": jnp.zeros(SIZE)}, {"number": 2})
    assert {p.name for p in tmp_path.iterdir()} == {
        "1",
        "2",
        *(f"damaged-2{n}" for n in ("", "-2", "-3")),
    }


@pytest.mark.parametrize(
    ("step", "tree", "error", "message"),
    [
        (
            2,
            {"w": jnp.zeros(1)},
            ValueError,
            "step: expected more than 2, .* latest checkpoint, got 2",
        ),
        (-1, {"w": jnp.zeros(1)}, ValueError, "step: expected an integer of at least 0, got -1"),
        (3.5, {"w": jnp.zeros(1)}, TypeError, "step: expected an integer"),
        (3, {}, ValueError, "arrays: expected at least one array that is not empty"),
        (3, {"w": 1.0}, TypeError, r"arrays: expected arrays, got 1\.0 .* for w"),
        (3, {"a/b": jnp.ones(1), "a": {"b": jnp.zeros(1)}}, ValueError, "got the path 'a/b' twice"),
    ],
)
def test_what_cannot_be_saved(tmp_path, step, tree, error, message):
    write_two(tmp_path)
    with training.Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(error, match=message):
            checkpoints.save(step, tree, {})
        assert len(checkpoints) == 2
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder: expected a folder, got the file"):
        training.Checkpoints(tmp_path / "file")


def test_what_is_read_only_stays_as_it_is(tmp_path):
    write_two(tmp_path)
    like = {"w": jnp.zeros(SIZE)}
    before = sorted(tmp_path.rglob("*"))
    with training.Checkpoints(tmp_path, read_only=True) as checkpoints:
        found = checkpoints.restore(like)
        assert found is not None and found.record == {"number": 2}
        with pytest.raises(ValueError, match="save: expected checkpoints that are not read_only"):
            checkpoints.save(3, like, {})
    largest = max((tmp_path / "2").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"")
    for _ in range(2):
        with (
            training.Checkpoints(tmp_path, read_only=True) as checkpoints,
            pytest.raises(
                ValueError,
                match=r"expected the latest checkpoint to be undamaged, got .*/2, which is",
            ),
        ):
            checkpoints.restore(like)
        assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match=r"folder: expected one that exists, got .*none"):
        training.Checkpoints(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_all_damaged_is_an_error_until_their_folders_are_removed(tmp_path):
    write_two(tmp_path)
    for number in "12":
        delete_arrays(tmp_path / number)
    like = {"w": jnp.zeros(SIZE)}
    message = r"got only damaged ones: damaged-1, damaged-2; remove these folders to start anew"
    with training.Checkpoints(tmp_path) as checkpoints:
        with (
            pytest.warns(UserWarning, match="damaged"),
            pytest.raises(ValueError, match=message),
        ):
            checkpoints.restore(like)
        with pytest.raises(ValueError, match=message):  # as when a scheduler restarts the job
            checkpoints.restore(like)
        for number in "12":
            shutil.rmtree(tmp_path / f"damaged-{number}")
        assert checkpoints.restore(like) is None


@pytest.mark.parametrize("item", ["arrays", "record"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_the_system_refuses_to_read_is_not_damaged(tmp_path, item, read_only):
    write_two(tmp_path)
    for path in list((tmp_path / "2" / item).rglob("*")):
        if path.is_file():  # a link to itself can be opened by nobody, not even by root
            path.unlink()
            path.symlink_to(path)
    before = sorted(tmp_path.rglob("*"))
    with (
        training.Checkpoints(tmp_path, read_only=read_only) as checkpoints,
        pytest.raises(OSError, match="symbolic links") as caught,
    ):
        checkpoints.restore({"w": jnp.zeros(SIZE)})
    assert caught.value.__notes__ == [
        f"checkpoints: {tmp_path}/2 could not be read; nothing was renamed."
    ]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("metadata", [True, False])
def test_checkpoints_of_another_program_are_left_alone(tmp_path, metadata):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.StandardSave({"w": np.ones(3)}))
    if not metadata:
        (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()
    before = sorted(tmp_path.rglob("*"))
    with (
        training.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"got .*/1, which another program wrote; use another"),
    ):
        run(checkpoints=checkpoints, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "like",
    [
        {"w": jnp.zeros(4)},
        {"w": jnp.zeros(SIZE, int)},
        {"v": jnp.zeros(SIZE)},
        {"w": jnp.zeros(SIZE), "v": jnp.zeros(1)},
        {},
    ],
)
def test_another_structure_is_named(tmp_path, like):
    write_two(tmp_path)
    with (
        training.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"checkpoints: expected .*another model"),
    ):
        checkpoints.restore(like)


def fit_with(folder, *, resume=False, stop_after=None, epochs=4, every=None, **options):
    """A run, stopped by an exception after so many steps of this process."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(26, 2)).astype(np.float32)
    data = {"x": xs, "y": xs[:, 0] - xs[:, 1]}
    taken = 0

    class Stop(Exception):
        pass

    def epoch_batches(epoch):
        made = batches(
            data, batch_size=4, sequence_keys=(), seed=3, epoch=epoch, drop_remainder=True
        )

        class Counted:
            def __len__(self):
                return len(made)

            def __getitem__(self, index):
                nonlocal taken
                if index >= len(made):
                    raise IndexError
                if taken == stop_after:
                    raise Stop
                taken += 1
                return made[index]

        return Counted()

    options = {"monitor": training.Monitor("eval_error")} | options
    with training.Checkpoints(folder, every=every) as checkpoints:
        try:
            return run(
                epoch_batches,
                epochs=epochs,
                checkpoints=checkpoints,
                resume=resume,
                eval_batches=make_batches(2),
                metric_fn=metric_fn,
                **options,
            )
        except Stop:
            return None


def final(result):
    values = jax.tree.map(np.asarray, (result.state.params, result.state.opt_state))
    model = [np.asarray(result.model.inner.kernel[...]), np.asarray(result.model.outer.bias[...])]
    history = without_time(result.history)
    best = without_time([result.best])
    return [leaf.tobytes() for leaf in jax.tree.leaves((values, model))], history, best


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return final(fit_with(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("stop_after", [1, 6, 7, 11, 23])
@pytest.mark.quick("6")
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, uninterrupted, stop_after):
    assert fit_with(tmp_path, stop_after=stop_after, every=4) is None
    assert fit_with(tmp_path, resume=True, stop_after=5, every=4) is None or stop_after == 23
    assert final(fit_with(tmp_path, resume=True, every=4)) == uninterrupted
    assert final(fit_with(tmp_path, resume=True)) == uninterrupted  # nothing is left to do


@pytest.mark.quick()
def test_batches_without_an_index_are_passed_over(tmp_path):
    whole = run(make_batches(), epochs=3)
    seen = []

    def stopping(epoch):
        for index, batch in enumerate(make_batches()):
            if (epoch, index) == (1, 3):
                raise KeyboardInterrupt
            yield batch

    def once(epoch):
        seen.append(epoch)
        return iter(make_batches())

    with training.Checkpoints(tmp_path, every=2) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            run(stopping, epochs=3, checkpoints=checkpoints)
        going_on = run(
            once,
            epochs=3,
            checkpoints=checkpoints,
            resume=True,
        )
    assert seen == [1, 2]
    assert final_params(going_on) == final_params(whole)
    assert without_time(going_on.history) == without_time(whole.history)


def final_params(result):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.state.params)]


def test_an_epoch_that_has_become_shorter_is_noticed(tmp_path):
    def stopping(epoch):
        for index, batch in enumerate(make_batches()):
            if (epoch, index) == (1, 3):
                raise KeyboardInterrupt
            yield batch

    with training.Checkpoints(tmp_path, every=3) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            run(stopping, epochs=3, checkpoints=checkpoints)
        with pytest.raises(
            ValueError, match=r"train_batches: expected more than 2 batches in epoch 1"
        ):
            run(make_batches(2), epochs=3, checkpoints=checkpoints, resume=True)


def test_mistakes_lose_nothing(tmp_path):
    fit_with(tmp_path, epochs=1)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"checkpoints: expected a folder without .*resume=True"):
        fit_with(tmp_path)
    with pytest.raises(ValueError, match=r"seed: expected 0 as in .*, got 1"):
        fit_with(tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match=r"monitor: expected .*'min'.* as in .*, got .*'max'"):
        fit_with(tmp_path, resume=True, monitor=training.Monitor("eval_error", "max"))
    with pytest.raises(ValueError, match=r"expected no best/.*, optimiser or monitor"):
        fit_with(tmp_path, resume=True, monitor=None)
    with pytest.raises(TypeError, match=r"metric: expected a name, got 5"):
        training.Monitor(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected no state/opt_state/.*another model, optimiser"):
        fit_with(tmp_path, resume=True, optimizer=training.optimizer(0.1, name="sgd"))
    with pytest.raises(ValueError, match="resume: expected checkpoints"):
        run(resume=True)
    with pytest.raises(TypeError, match="checkpoints: expected a Checkpoints, got 'folder'"):
        run(checkpoints="folder")
    with pytest.raises(TypeError, match="monitor: expected a Monitor, got 'eval_loss'"):
        run(monitor="eval_loss")
    with pytest.raises(ValueError, match="every: expected a positive integer, got 0"):
        training.Checkpoints(tmp_path, every=0)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_the_best_epoch_is_returned_and_patience_ends_the_run():
    values = [3.0, 1.0, 2.0, float("nan"), 0.5]
    told = []

    def metric(model, batch):
        return {"score": Mean(jnp.sum(model.outer.bias[...] ** 2), jnp.int32(1))}

    result = run(
        epochs=6,
        eval_batches=make_batches(1),
        metric_fn=metric,
        monitor=training.Monitor("eval_score", "min", patience=1),
        on_epoch_end=lambda record, state: told.append(
            (record["eval_score"], np.asarray(state.params["outer"]["bias"]).copy())
        ),
    )
    scores = [score for score, _ in told]
    # It grows from 0 on: the first epoch is the best, the second ends the run.
    assert len(result.history) == 2 and scores[0] < scores[1]
    assert result.best == result.history[0]
    np.testing.assert_array_equal(result.model.outer.bias[...], told[0][1])
    np.testing.assert_array_equal(result.state.params["outer"]["bias"], told[1][1])
    monitor = training.Monitor("a", "min", patience=3)
    history = [{"a": value} for value in values]
    assert [monitor.stops(history[: n + 1]) for n in range(5)] == [False] * 5
    assert training.Monitor("a", "min", patience=2).stops(history[:4])
    assert training.Monitor("a", "max").best(history) == 0
    assert training.Monitor("a", "min").best([{"a": float("nan")}]) is None
    with pytest.raises(ValueError, match="monitor: expected one of a, got 'b'"):
        training.Monitor("b", "min").best(history)
    with pytest.raises(ValueError, match="mode: expected one of"):
        training.Monitor("a", "least")  # type: ignore[arg-type]


SCRIPT = """
    import sys
    import numpy as np
    from seqjax import training
    from tests.training.test_checkpoints import final, fit_with

    print("begins", flush=True)
    result = fit_with(sys.argv[1], resume=True, every=1, epochs=6)
    values, history, best = final(result)
    print(repr((values, history)))
"""


@pytest.mark.slow
def test_sigkill_at_any_moment(tmp_path):
    """The process is killed at moments that a seed draws, again and again, until it ends."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}

    def start(folder):
        """A process that has done its imports and begins to train: time is counted from there."""
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        stdout: Any = process.stdout
        first = stdout.readline()
        assert first == "begins\n", process.communicate()
        return process, time.monotonic()

    process, began = start(tmp_path / "whole")
    expected, errors = process.communicate()
    assert expected, errors
    whole = time.monotonic() - began
    rng = np.random.default_rng(0)
    # The first is killed soon, whatever the machine's speed: at least one run is always cut short.
    delays = [0.1 * whole, *(whole * rng.uniform(0.1, 1.05, size=59))]
    for kills, delay in enumerate(delays):
        process, _ = start(tmp_path / "killed")
        try:
            output, errors = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            continue
        assert process.returncode == 0, errors
        assert output == expected
        assert kills, "no run was killed"
        break
    else:
        pytest.fail(f"never came to the end in {len(delays)} runs")


def test_totals_go_on_from_json_without_loss():
    totals = Totals()
    totals.add({"loss": jnp.float32(0.1), "count": jnp.float32(2**30)})
    totals.add({"loss": jnp.float32(0.7), "count": jnp.float32(1)})
    again = Totals.from_record(json.loads(json.dumps(totals.record())))
    assert again.values() == totals.values() and again.batches == 2
    for each in (totals, again):
        each.add({"loss": jnp.float32(0.3), "count": jnp.float32(5)})
    assert again.values() == totals.values()


def test_a_run_that_stops_in_its_first_epoch_has_left_a_checkpoint(tmp_path):
    """With endless batches and steps there is no other epoch."""

    def stopping(epoch):
        for index, batch in enumerate(itertools.cycle(make_batches())):
            if index == 9:
                raise KeyboardInterrupt
            yield batch

    options = {"epochs": None, "steps": 11}
    whole = run(lambda epoch: itertools.cycle(make_batches()), **options)
    with training.Checkpoints(tmp_path, every=4) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            run(stopping, **options, checkpoints=checkpoints)
        assert len(checkpoints) == 2
        seen = []

        def source(epoch):
            for index, batch in enumerate(itertools.cycle(make_batches())):
                seen.append(index)
                yield batch

        again = run(source, **options, checkpoints=checkpoints, resume=True)
    assert final_params(again) == final_params(whole)
    assert int(again.state.step) == 11


def test_what_does_not_fit_the_run_before_is_refused(tmp_path):
    with training.Checkpoints(tmp_path) as checkpoints:
        settings = {"rate": 0.1}
        run(epochs=None, steps=7, checkpoints=checkpoints, settings=settings)
        going_on = {"checkpoints": checkpoints, "resume": True}
        for changed, message in (
            ({"rate": 0.2}, r"settings\['rate'\]: expected 0\.1 as in .*, got 0\.2"),
            ({}, r"settings\['rate'\]: expected 0\.1 as in .*, got no such setting"),
            (None, r"settings\['rate'\]: expected 0\.1 as in .*, got no such setting"),
            (settings | {"b": 1}, r"settings\['b'\]: expected no such setting, as in .*, got 1"),
        ):
            with pytest.raises(ValueError, match=message):
                run(epochs=None, steps=7, settings=changed, **going_on)
        with pytest.raises(ValueError, match=r"steps: expected 7, since the run in .* got 12"):
            run(epochs=None, steps=12, settings=settings, **going_on)
        with pytest.raises(ValueError, match=r"steps: expected 7, .* got None"):
            run(epochs=3, settings=settings, **going_on)
        with pytest.raises(ValueError, match="steps: expected at least 7, the number done"):
            run(epochs=None, steps=6, settings=settings, **going_on)
        assert run(epochs=None, steps=7, settings=settings, **going_on).history[-1]["step"] == 7


def test_settings_may_have_any_name(tmp_path):
    settings = {"history": 1, "seconds": 2, "totals": 3, "ended_at": 4, "seed": 5, "monitor": 6}
    with training.Checkpoints(tmp_path) as checkpoints:
        run(epochs=1, checkpoints=checkpoints, settings=settings)
        again = run(epochs=2, checkpoints=checkpoints, settings=settings, resume=True)
        assert len(again.history) == 2
        with pytest.raises(ValueError, match=r"seed: expected 0 as in .*, got 1"):
            run(epochs=2, seed=1, checkpoints=checkpoints, settings=settings, resume=True)
    with pytest.raises(TypeError, match="settings: expected names as keys, got 1"):
        run(settings={1: 2})
    with pytest.raises(TypeError, match="settings: expected a dict, got 5"):
        run(settings=5)


@pytest.mark.parametrize("end", [{"steps": 12}, {"epochs": 3}])
def test_a_run_whose_steps_ended_with_an_epoch_goes_on(tmp_path, end):
    whole = run(epochs=3)
    end = {"epochs": None} | end
    with training.Checkpoints(tmp_path) as checkpoints:
        run(epochs=None, steps=8, checkpoints=checkpoints)
        again = run(**end, checkpoints=checkpoints, resume=True)
    assert final_params(again) == final_params(whole)
    assert without_time(again.history) == without_time(whole.history)


def test_without_a_length_the_end_of_an_epoch_is_not_known(tmp_path):
    source = lambda epoch: iter(make_batches())  # noqa: E731
    with training.Checkpoints(tmp_path) as checkpoints:
        run(source, epochs=None, steps=8, checkpoints=checkpoints)
        with pytest.raises(ValueError, match=r"steps: expected 8, .* no length, got 12"):
            run(source, epochs=None, steps=12, checkpoints=checkpoints, resume=True)


def test_scalars_that_on_epoch_end_adds_are_stored(tmp_path):
    def add(record, state):
        record |= {
            "numpy": np.float32(0.5),
            "jax": jnp.int32(record["epoch"]),
            "zero": np.zeros([]),
        }

    with training.Checkpoints(tmp_path) as checkpoints:
        run(epochs=1, checkpoints=checkpoints, on_epoch_end=add)
        again = run(epochs=2, checkpoints=checkpoints, on_epoch_end=add, resume=True)
    added = [[record[name] for name in ("numpy", "jax", "zero")] for record in again.history]
    assert added == [[0.5, 1, 0.0], [0.5, 2, 0.0]]
    assert {type(value) for values in added for value in values} == {float, int}


def test_a_metric_that_is_never_finite_is_told_of():
    def metric(model, batch):
        return {"score": Mean(jnp.nan * jnp.sum(batch["x"]), jnp.int32(1))}

    options = {"eval_batches": make_batches(1), "metric_fn": metric, "epochs": 1}
    with pytest.warns(UserWarning, match="monitor: expected an epoch with a finite eval_score"):
        run(monitor=training.Monitor("eval_score", "max"), **options)


def test_the_direction_of_a_metric_follows_from_its_name():
    for name in ("accuracy", "acc", "F1", "entity_f1", "recall@5", "auc", "r2", "precision"):
        assert training.Monitor(f"eval_{name}").mode == "max"
    for name in ("loss", "error", "nll", "perplexity", "mse", "word_error_rate", "wer", "crps"):
        assert training.Monitor(f"eval_{name}").mode == "min"
    for name in ("score", "a", "precision_loss", "accurate"):
        with pytest.raises(
            ValueError, match=rf"mode: expected 'min' or 'max' .*'eval_{name}', got"
        ):
            training.Monitor(f"eval_{name}")
    history = [{"eval_accuracy": value} for value in (0.3, 0.5, 0.4)]
    assert training.Monitor("eval_accuracy").best(history) == 1
    assert training.Monitor("eval_accuracy", "min").best(history) == 0
