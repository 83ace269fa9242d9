"""The prediction of frames on a few made-up digits."""

import gzip
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from examples import next_frame
from examples.shipped import moving_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Forty images in the form of scikit-learn's file: bright blocks of different sizes."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        image = np.zeros((8, 8), int)
        image[1 : rng.integers(5, 8), 1 : rng.integers(5, 8)] = 16
        rows.append(",".join(map(str, [*image.ravel(), 0])))
    path = tmp_path_factory.mktemp("data") / "digits.csv.gz"
    path.write_bytes(gzip.compress("\n".join(rows).encode()))
    return path


def config(data, out, **options):
    defaults: Any = {
        "size": 11, "steps": 6, "speed": 1, "films": 64, "hidden_size": 8, "num_layers": 1,
        "epochs": 10, "learning_rate": 0.03,
    }  # fmt: skip
    return next_frame.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_beats_copying_and_goes_on(digits, tmp_path):
    figures = next_frame.main(config(digits, tmp_path))
    assert figures["loss"] < 0.7 * figures["copy_loss"]
    assert figures["error"] < 0.7 * figures["copy_error"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "films.png", "learning_curve.png", "result.json"} <= names
    assert next_frame.main(config(digits, tmp_path, resume=True)) == figures


def test_digits_move_and_bounce(digits):
    images = moving_digits.load(digits)["train"]
    films = moving_digits.draw(
        images, 20, np.random.default_rng(0), digits=1, size=11, steps=30, speed=2
    )
    assert films.shape == (20, 30, 11, 11, 1) and films.min() == 0 and films.max() == 1
    mass = films.sum((2, 3, 4))
    np.testing.assert_allclose(mass, mass[:, :1].repeat(30, 1))  # whole digits at any time
    at = (films[..., 0] * np.arange(11)).sum((2, 3)) / mass  # along one axis
    steps = np.abs(np.diff(at, axis=1))
    assert steps.max() < 2.01
    turns = (np.sign(np.diff(at, axis=1))[:, 1:] * np.sign(np.diff(at, axis=1))[:, :-1] < 0).sum(1)
    assert (turns >= 5).all()


def test_the_baseline_is_the_best_of_two_brightnesses():
    films = np.zeros((1, 4, 1, 4, 1))
    films[0, 1:3, 0, :, 0] = [[1, 0, 0, 0], [1, 1, 0, 0]]
    dark, bright = moving_digits.copy_rates(films)
    # After [1 0 0 0] comes [1 1 0 0], and after that nothing.
    assert dark == pytest.approx(1 / 5) and bright == pytest.approx(1 / 3)


@pytest.mark.quick()
def test_going_on_is_feeding_frames_back(digits, tmp_path):
    some = config(digits, tmp_path)
    model = next_frame.FrameModel(some, rngs=nnx.Rngs(0))
    model.eval()
    frames = np.random.default_rng(0).random((2, 3, 11, 11, 1)).astype(np.float32)
    found = np.asarray(model.going_on(frames, 3))
    for step in range(3):
        following = jax.nn.sigmoid(model(frames)[:, -1:])
        np.testing.assert_allclose(found[:, step : step + 1], following, atol=1e-5)
        frames = np.concatenate([frames, following], 1)


def test_mistakes(digits, tmp_path):
    def fails(message, data=digits, **options):
        with pytest.raises(SystemExit, match=message):
            next_frame.main(config(data, tmp_path / "out", **options))

    fails("--size, --steps: expected a size above 8 and at least 4 steps", size=8)
    fails(r"--data: .*none\.gz", data=tmp_path / "none.gz")
    (tmp_path / "other.csv").write_text("1,2\n3,4\n")
    fails(
        r"--data: .*other\.csv: expected 65 columns, .* got \(2, 2\)",
        data=tmp_path / "other.csv",
    )
    for pixel in ("255", "nan", "-1"):
        row = ",".join(["16"] * 64 + ["0"])
        wrong = ",".join(["0", pixel] + ["16"] * 62 + ["0"])
        (tmp_path / "other.csv").write_text("\n".join([row] * 11 + [wrong]))
        fails(
            rf"--data: .*other\.csv, row 12: expected pixels from 0 to 16, got {pixel} in column 2",
            data=tmp_path / "other.csv",
        )
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    fails(r"--data: .*broken\.gz", data=tmp_path / "broken.gz")
