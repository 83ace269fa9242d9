"""The demo's script on a small made-up data set in the published format."""

import dataclasses
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import speaker
from examples.shipped import japanese_vowels
from seqjax.data import read_ts


def write_ts(path, recordings, labels):
    lines = ["@problemName made up", "@classLabel true a b", "@data"]
    for frames, label in zip(recordings, labels, strict=True):
        channels = [",".join(f"{v:.6f}" for v in channel) for channel in frames.T]
        lines.append(":".join([*channels, label]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    """Two speakers whose frames differ in the sign of their mean; 3 to 7 frames, 4 channels."""
    rng = np.random.default_rng(0)
    for name, count in zip(japanese_vowels.FILES, (24, 20), strict=True):
        labels = ["ab"[i % 2] for i in range(count)]
        recordings = [
            rng.normal(1.0 if label == "a" else -1.0, 0.5, (rng.integers(3, 8), 4))
            for label in labels
        ]
        write_ts(tmp_path / name, recordings, labels)
    return tmp_path


def test_reading_keeps_lengths_channels_and_labels(tmp_path):
    recordings = [np.arange(6.0).reshape(3, 2), np.arange(2.0).reshape(1, 2)]
    write_ts(tmp_path / "some.ts", recordings, ["b", "a"])
    read, labels = read_ts(tmp_path / "some.ts")
    assert labels == ["b", "a"]
    for got, want in zip(read, recordings, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want)


def test_a_file_without_recordings_is_named(tmp_path):
    (tmp_path / "empty.ts").write_text("@problemName nothing\n@data\n")
    with pytest.raises(ValueError, match=r"empty\.ts.*expected recordings"):
        read_ts(tmp_path / "empty.ts")


@pytest.mark.parametrize("cell", ["gru", "elman"])
@pytest.mark.slow
def test_a_short_run_learns_and_draws(folder, tmp_path, capsys, cell):
    config = speaker.Config(
        cell=cell, hidden_size=8, epochs=8, batch_size=8, learning_rate=0.02, noise=0.1,
        data=folder, out=tmp_path / "out",
    )  # fmt: skip
    figures = speaker.main(config)
    assert figures["accuracy"] > 0.9 and figures["always_one_speaker"] == 0.5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"learning_curve.png", "hidden_states.png", "confusion.png", "checkpoints"} <= names
    assert speaker.main(dataclasses.replace(config, resume=True)) == figures


def test_recordings_of_one_length(folder, tmp_path):
    rng = np.random.default_rng(0)
    for name in japanese_vowels.FILES:
        write_ts(folder / name, [rng.normal(size=(5, 4)) for _ in range(8)], "ab" * 4)
    config = speaker.Config(hidden_size=4, epochs=1, data=folder, out=tmp_path / "out")
    assert 0 <= speaker.main(config)["accuracy"] <= 1


def test_recordings_that_do_not_fit(folder):
    train, test = (folder / name for name in japanese_vowels.FILES)
    frames = np.full((5, 4), 0.1)
    write_ts(train, [frames, frames + [0, 1, 2, 3]], "ab")
    write_ts(test, [frames + 1], "a")
    _, found, _ = japanese_vowels.load(folder)
    np.testing.assert_allclose(found["frames"][0][:, 0], 1.0, rtol=1e-5)  # constant in training

    def fails(message):
        with pytest.raises(ValueError, match=message):
            japanese_vowels.load(folder)

    write_ts(test, [frames[:, :1]], "a")
    fails("_TEST.ts, recording 1: expected 4 channels as in JapaneseVowels_TRAIN.ts, got 1")
    write_ts(test, [frames, frames * np.nan], "ab")
    fails("_TEST.ts, recording 2: expected finite numbers, got nan")
    test.write_text("@data\n1:1:1:1:c\n")
    fails(r"_TEST.ts: expected labels among \['a', 'b'\], got \['c'\]")
    train.write_text("@classLabel false\n@data\n1:1:1:1\n")
    fails("_TRAIN.ts: expected recordings with labels, got none")


def test_mistakes_are_named(folder, tmp_path):
    options: Any = {"data": folder, "out": tmp_path / "out"}
    with pytest.raises(SystemExit, match=r"--data: .*_TRAIN\.ts"):
        speaker.main(speaker.Config(**(options | {"data": tmp_path / "none"})))
    for cell in ("transformer", "conv_lstm_2d"):
        with pytest.raises(SystemExit, match=f"--cell: expected one of elman, .* got '{cell}'"):
            speaker.main(speaker.Config(cell=cell, **options))
    with pytest.raises(SystemExit, match=r"--dropout: expected at least 0, less than 1, got 1\.0"):
        speaker.main(speaker.Config(dropout=1.0, **options))
