"""The classifier of sequences on small made-up recordings in its three formats."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from examples import activity
from examples.shipped import motions

RNG = np.random.default_rng(0)


def recording(label, steps):
    """Three channels; what tells the classes is how fast the second one swings."""
    t = np.arange(steps)
    swing = np.sin(2 * np.pi * t / (4 if label else 10) + RNG.uniform(0, 6))
    return np.stack([RNG.normal(size=steps), 3 * swing + 1, RNG.normal(size=steps)], -1)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A .ts file for each part, 20 or 28 steps a recording."""
    folder = tmp_path_factory.mktemp("series")
    for part, count in (("TRAIN", 32), ("TEST", 16)):
        lines = ["@problemName made up", "@classLabel true slow fast", "@data"]
        for n in range(count):
            channels = recording(n % 2, 20 + 8 * (n % 3 == 0)).T
            values = [",".join(f"{value:.4f}" for value in channel) for channel in channels]
            lines.append(":".join([*values, ("slow", "fast")[n % 2]]))
        (folder / f"MadeUp_{part}.ts").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """A folder a class: a bright column of pixels drifts to the left or to the right."""
    folder = tmp_path_factory.mktemp("films")
    for part, count in (("train", 12), ("test", 8)):
        for name, step in (("left", -1), ("right", 1)):
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                film = RNG.normal(0, 0.1, (7, 6, 8)).astype(np.float32)
                for t in range(7):
                    film[t, :, (n + step * t) % 8] += 1
                np.save(folder / part / name / f"{n}.npy", film)
    return folder


def config(data, out, **options):
    defaults: Any = {
        "hidden_size": 8, "features": 8, "noise": 0.1, "dropout": 0.1, "epochs": 10,
        "batch_size": 8, "learning_rate": 0.02,
    }  # fmt: skip
    return activity.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_series_with_validation(series, tmp_path):
    some = config(series, tmp_path, validation=0.25, batch_size=32, epochs=30)
    figures = activity.main(some)
    assert figures["accuracy"] > 0.9 and figures["validation_accuracy"] > 0.8
    assert figures["most_frequent"] == 0.5
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "confusion.png", "learning_curve.png", "result.json"} <= names
    again = config(series, tmp_path, validation=0.25, batch_size=32, epochs=30, resume=True)
    assert activity.main(again) == figures


@pytest.mark.slow
def test_films(films, tmp_path):
    figures = activity.main(config(films, tmp_path, epochs=20, noise=0.0))
    assert figures["accuracy"] > 0.9 > figures["most_frequent"]
    assert "validation_accuracy" not in figures


def test_signals_of_har(tmp_path):
    """Reading alone: what the files say, and people who are held out as a whole."""
    (tmp_path / "activity_labels.txt").write_text("1 WALKING\n2 SITTING\n")
    people = {"train": [1, 1, 3, 5], "test": [2, 4]}
    signals = {part: RNG.normal(size=(2, len(who), 128)) for part, who in people.items()}
    for part, who in people.items():
        inside = tmp_path / part / "Inertial Signals"
        inside.mkdir(parents=True)
        for name, values in zip(("body_acc_x", "total_acc_x"), signals[part], strict=True):
            np.savetxt(inside / f"{name}_{part}.txt", values)
        np.savetxt(tmp_path / part / f"y_{part}.txt", [1 + n % 2 for n in range(len(who))], "%d")
        np.savetxt(tmp_path / part / f"subject_{part}.txt", who, "%d")
    recordings, names = motions.read(tmp_path, "train", None)
    assert names == ["WALKING", "SITTING"] and recordings.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(recordings.steps[2], signals["train"][:, 2].T, rtol=1e-6)
    for seed in range(5):
        found, _ = motions.load(tmp_path, 0.3, seed)
        sizes = {part: len(found[part]["label"]) for part in found}
        assert sizes in ({"train": 2, "dev": 2, "test": 2}, {"train": 3, "dev": 1, "test": 2})
        values = np.concatenate(found["train"]["steps"])
        np.testing.assert_allclose(values.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(values.std(0), 1, atol=1e-5)


def write_har(folder, signals, labels, activities):
    (folder / "activity_labels.txt").write_text(activities)
    inside = folder / "train" / "Inertial Signals"
    inside.mkdir(parents=True, exist_ok=True)
    for name, values in zip(("acc_x", "acc_y"), signals, strict=True):
        np.savetxt(inside / f"{name}_train.txt", values)
    np.savetxt(folder / "train" / "y_train.txt", labels, "%d")
    np.savetxt(folder / "train" / "subject_train.txt", np.arange(len(signals[0])), "%d")


def test_numbers_of_har(tmp_path):
    """The numbers of the activities are those of the file of labels; one recording is enough."""
    signals = RNG.normal(size=(2, 2, 5))
    write_har(tmp_path, signals, [7, 3], "7 RUN\n\n3 WALK\n")
    found, names = motions.read(tmp_path, "train", None)
    assert names == ["WALK", "RUN"] and found.labels.tolist() == [1, 0]
    write_har(tmp_path, signals[:, :1], [3], "7 RUN\n3 WALK\n")
    found, _ = motions.read(tmp_path, "train", None)
    assert [steps.shape for steps in found.steps] == [(5, 2)] and found.labels.tolist() == [0]

    def fails(message, *given):
        write_har(tmp_path, *given)
        with pytest.raises(ValueError, match=message):
            motions.read(tmp_path, "train", None)

    fails(r"y_train.txt, row 2: expected one of \[3, 7\], .*, got 1", signals, [7, 1], "3 A\n7 B\n")
    fails(r"y_train.txt: expected 2 rows .*, got \(3,\)", signals, [7, 3, 3], "3 A\n7 B\n")
    fails("activity_labels.txt, line 2: expected a new number and a name, got '7'",
          signals, [3, 3], "3 A\n7\n")  # fmt: skip
    fails(r"acc_y_train.txt: expected \(2, 5\) .* as in acc_x_train.txt, got \(1, 5\)",
          [signals[0], signals[1, :1]], [3, 3], "3 A\n7 B\n")  # fmt: skip


def test_the_recurrent_layer_in_bfloat16(series, tmp_path):
    some = config(series, tmp_path, dtype="bfloat16")
    model = nnx.eval_shape(lambda: activity.Classifier(some, (3,), 2, rngs=nnx.Rngs(0)))
    model.eval()
    assert np.dtype(model.recurrent.dtype) == "bfloat16"
    steps = RNG.normal(size=(2, 9, 3)).astype(np.float32)
    logits = jax.eval_shape(lambda model: model(steps, np.array([9, 4])), model)
    assert (logits.shape, logits.dtype) == ((2, 2), np.float32)


@pytest.mark.quick()
def test_padding_changes_nothing(series, tmp_path):
    some = config(series, tmp_path)
    model = activity.Classifier(some, (3,), 2, rngs=nnx.Rngs(0))
    model.eval()
    steps = RNG.normal(size=(2, 9, 3)).astype(np.float32)
    padded = np.pad(steps, ((0, 0), (0, 4), (0, 0)), constant_values=np.nan)
    logits = model(steps, np.array([9, 9]))
    np.testing.assert_allclose(model(padded, np.array([9, 9])), logits, atol=1e-5)


def test_mistakes(series, films, tmp_path):
    def fails(message, data=series, **options):
        with pytest.raises(SystemExit, match=message):
            activity.main(config(data, tmp_path / "out", **options))

    fails(r"--cell: expected one of elman, .*, got 'conv_lstm_2d'", cell="conv_lstm_2d")
    fails(r"--cell: expected one of elman, .*, got 'transformer'", cell="transformer")
    fails("--validation: expected at least 0", validation=1.0)
    fails("--validation: expected a share that holds out some of 32", validation=0.99)
    fails("--validation: expected a share that holds out some of 32", validation=0.01)
    folders = "--data: expected folders train and test, or NAME_TRAIN.ts and NAME_TEST.ts of one "
    fails(folders + "NAME, in .*, got none", data=tmp_path)
    one = tmp_path / "one" / "train" / "a"
    one.mkdir(parents=True)
    np.save(one / "flat.npy", np.zeros(3))
    fails(r"--data: .*flat\.npy: expected numbers .*, got float64 \(3,\)", data=tmp_path / "one")
    np.save(one / "flat.npy", np.zeros((3, 2)))
    fails(folders, data=tmp_path / "one")
    other = tmp_path / "one" / "test" / "a"
    other.mkdir(parents=True)
    np.save(other / "wide.npy", np.zeros((3, 4)))
    fails(r"--data: expected steps of one shape, got \[\(2,\), \(4,\)\]", data=tmp_path / "one")
    np.save(other / "wide.npy", np.zeros((3, 2)))
    np.save(one / "flat.npy", np.array([[0, np.nan], [np.inf, 1]]))
    fails(
        r"--data: .*train/a/flat\.npy: expected finite numbers or NaN, got inf",
        data=tmp_path / "one",
    )
    np.save(one / "flat.npy", np.zeros((3, 2)))
    (tmp_path / "one" / "test" / "b").mkdir()
    np.save(tmp_path / "one" / "test" / "b" / "0.npy", np.zeros((3, 2)))
    fails(r"expected the classes \['a'\] in .*test, got \['a', 'b'\]", data=tmp_path / "one")
    (tmp_path / "A_TRAIN.ts").write_text("@data\n1:a\n2:b\n")
    (tmp_path / "A_TEST.ts").write_text("@data\n1:c\n")
    fails(r"A_TEST\.ts: expected labels among \['a', 'b'\], got \['c'\]", data=tmp_path)
    (tmp_path / "A_TEST.ts").rename(tmp_path / "B_TEST.ts")
    fails(folders + "NAME, in .*, got A_TRAIN.ts, B_TEST.ts", data=tmp_path)
    np.save(one / "flat.npy", np.array([1, "a"], object))
    fails(r"--data: .*flat\.npy: expected an array of numbers", data=tmp_path / "one")


def test_hidden_files_and_constant_channels(tmp_path):
    """A channel that is constant in training is not divided by rounding errors."""
    rows = [f"0.1,0.1,0.1:{n},2,3:{'ab'[n % 2]}" for n in range(30)]
    (tmp_path / "A_TRAIN.ts").write_text("@data\n" + "\n".join(rows) + "\n")
    (tmp_path / "A_TEST.ts").write_text("@data\n1.1:2:a\n")
    (tmp_path / "._A_TRAIN.ts").write_bytes(b"\0")
    (tmp_path / "._A_TEST.ts").write_bytes(b"\0")
    found, _ = motions.load(tmp_path, 0.0, 0)
    np.testing.assert_allclose(found["test"]["steps"][0][0, 0], 1.0, rtol=1e-5)


def test_missing_data_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        activity.main(activity.Config(out=tmp_path))
