"""The language model on a small made-up text."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import language_model
from examples.shipped import texts


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Words that follow each other in one order, with noise in where a line ends."""
    rng = np.random.default_rng(0)
    words = ["the", "old", "dog", "saw", "a", "small", "red", "cat"]
    lines = [" ".join(words[: rng.integers(3, 9)]) for _ in range(400)]
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def config(data, out, **options):
    defaults: Any = {
        "hidden_size": 32, "steps": 16, "batch_size": 8, "epochs": 4, "learning_rate": 0.02,
        "dropout": 0.0, "length": 40, "begin": "the",
    }  # fmt: skip
    return language_model.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_learns_writes_and_goes_on(text, tmp_path, capsys):
    figures = language_model.main(config(text, tmp_path))
    assert 1 < figures["perplexity"] < 2 < 8 < figures["unigram_perplexity"]
    assert figures["bits"] == pytest.approx(np.log2(figures["perplexity"]))
    assert "the old dog" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"written.txt", "surprise.png", "learning_curve.png", "history.jsonl"} <= names
    assert json.loads((tmp_path / "result.json").read_text())["figures"] == figures
    with pytest.raises(SystemExit, match="--resume"):
        language_model.main(config(text, tmp_path))
    assert language_model.main(config(text, tmp_path, resume=True)) == figures


@pytest.mark.slow
def test_words_with_all_that_awd_has(text, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"ptb.{split}.txt").write_text(text.read_text())
    options: Any = {
        "preset": "awd", "hidden_size": 16, "num_layers": 2, "epochs": 3,
        "stride": 8, "average": 0.9, "accumulate": 2, "learning_rate": 0.03,
    }  # fmt: skip
    figures = language_model.main(config(folder, tmp_path / "out", **options))
    assert figures["perplexity"] < figures["unigram_perplexity"]


def test_the_learning_rate_of_zaremba(text, tmp_path):
    options: Any = {"preset": "zaremba-small", "hidden_size": 8, "epochs": 1, "unit": "words"}
    found = config(text, tmp_path, **options).with_defaults(
        **language_model.PRESETS["zaremba-small"]
    )
    assert (found.optimizer, found.hidden_size, found.clip_norm) == ("sgd", 8, 5 / 20)
    for name in ("zaremba-small", "zaremba-medium"):
        preset = language_model.PRESETS[name]
        # Zaremba et al.: 1 and 5, for the sum of the loss over the steps of a window.
        assert preset["learning_rate"] / preset["steps"] == 1.0
        assert preset["clip_norm"] * preset["steps"] == 5.0


def test_signs_of_formulas_are_drawn_as_they_are(tmp_path):
    pieces = ["$\\alpha$", "$f(x)$", "5$"]
    figure = texts.plot(np.ones(3), pieces)
    figure.savefig(tmp_path / "surprise.png")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [r"\$\\alpha\$", r"\$f(x)\$", r"5\$"]


def test_bad_data_is_named(tmp_path):
    for name, data in (("empty.txt", b""), ("latin.txt", "é".encode("latin-1") * 9)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(SystemExit, match=r"--data: "):
            language_model.main(config(path, tmp_path / "out"))
    for missing in (tmp_path / "no.txt", tmp_path):
        with pytest.raises(SystemExit, match=r"--data: "):
            language_model.main(config(missing, tmp_path / "out"))


def test_two_files_of_a_split_are_an_error(text, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text("a b")
    (tmp_path / ".ptb.train.txt").write_text("a b")  # a hidden file is ignored
    assert texts.load(tmp_path) == {split: ["a b"] for split in ("train", "valid", "test")}
    (tmp_path / "a.train.txt").write_text("a b")
    with pytest.raises(SystemExit, match=r"--data: .*one \*train.txt in .*, got a.train.txt, ptb."):
        language_model.main(config(tmp_path, tmp_path / "out"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"begin": ""}, "--begin: expected at least one token, got ''"),
        ({"begin": " ", "unit": "words"}, "--begin: expected at least one token, got ' '"),
        ({"temperature": 0.0}, "--temperature: expected more than 0, got 0.0"),
        ({"top_p": 2.0}, "--top-p: expected more than 0, at most 1, got 2.0"),
        ({"stride": 20}, "--stride: expected at most --steps 16, got 20"),
        ({"vocabulary_size": 3}, "--vocabulary-size: expected at least 5, .*, got 3"),
        ({"dropout": 1.0}, "--dropout: expected at least 0, less than 1, got 1.0"),
    ],
)
def test_mistakes_are_found_before_the_training(text, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        language_model.main(config(text, tmp_path / "out", **options))
    assert not (tmp_path / "out" / "checkpoints").exists()
