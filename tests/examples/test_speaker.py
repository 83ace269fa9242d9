"""The demo's script on a small made-up data set in the published format."""

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import speaker
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
    for name, count in zip(speaker.FILES, (24, 20), strict=True):
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


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_a_short_run_learns_and_draws(folder, tmp_path, capsys, cell):
    config = speaker.Config(
        cell=cell, hidden_size=8, epochs=8, batch_size=8, learning_rate=0.02, noise=0.1,
        seeds=(0, 1), data_dir=folder, out=tmp_path / "out",
    )  # fmt: skip
    accuracies = speaker.main(config)
    assert len(accuracies) == 2 and min(accuracies) > 0.9
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "learning_curve.png", "hidden_states.png",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "most frequent" in printed and "50.00%" in printed
    assert "published" not in printed  # made-up data never stands beside a published figure


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(SystemExit, match="pip install --no-deps aeon"):
        speaker.find_data(tmp_path)


def test_unknown_and_unfit_cells_are_refused():
    with pytest.raises(SystemExit, match="transformer is not a cell"):
        speaker.make_cell("transformer", 3, 4)
    with pytest.raises(SystemExit, match="reads images"):
        speaker.make_cell("conv_lstm_2d", 3, 4)


def test_no_seeds_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="--seeds: expected at least one"):
        speaker.main(speaker.Config(seeds=(), data_dir=tmp_path))
