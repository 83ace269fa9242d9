"""The memory tasks: drawn as they are defined, learned when they are short."""

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import memory_tasks
from examples.shipped import drawn


def config(out, **options):
    defaults: Any = {
        "length": 4, "hidden_size": 16, "steps": 150, "epochs": 3, "learning_rate": 0.02,
        "batch_size": 20, "out": out,
    }  # fmt: skip
    return memory_tasks.Config(**(defaults | options))


def test_two_different_numbers_are_marked_and_their_sum_is_asked_for():
    batch = drawn.Draws("adding", 7, 500, 1, (0,))[0]
    numbers, marks = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert numbers.min() >= 0 and numbers.max() < 1 and numbers.std() > 0.25
    np.testing.assert_array_equal(np.sort(marks, axis=1)[:, -3:], [[0.0, 1.0, 1.0]] * 500)
    assert (marks.sum(axis=0) > 100).all()  # of 143 at each place
    expected = [n[m == 1].sum() for n, m in zip(numbers, marks, strict=True)]
    np.testing.assert_allclose(batch["target"][:, 0], expected, rtol=1e-6)


def test_symbols_are_to_be_said_again_after_the_blanks():
    batch = drawn.Draws("copy", 5, 300, 1, (0,))[0]
    assert batch["inputs"].shape == (300, 25, 10) and (batch["inputs"].sum(axis=-1) == 1).all()
    tokens, target = batch["inputs"].argmax(axis=-1), batch["target"]
    assert set(np.unique(tokens[:, :10])) == set(range(1, 9))
    assert (tokens[:, 10:14] == 0).all() and (tokens[:, 14:] == 9).all()
    assert (target[:, :15] == 0).all()
    np.testing.assert_array_equal(target[:, 15:], tokens[:, :10])


def test_a_batch_is_a_function_of_its_seed_and_index():
    draws = drawn.Draws("adding", 6, 3, 4, (0, 0, 1))
    listed = list(draws)
    assert len(listed) == len(draws) == 4
    np.testing.assert_array_equal(listed[2]["inputs"], draws[2]["inputs"])
    others = [listed[1], drawn.Draws("adding", 6, 3, 4, (0, 0, 2))[2]]
    others += [drawn.Draws("adding", 6, 3, 4, (1, 0, 1))[2]]
    assert all((other["inputs"] != draws[2]["inputs"]).any() for other in others)


@pytest.mark.slow
def test_a_short_addition_is_learned_and_the_finished_run_gone_on_with(tmp_path, capsys):
    figures = memory_tasks.main(config(tmp_path))
    assert set(figures) == {"test_loss", "baseline_loss"}  # none published for this length
    assert figures["baseline_loss"] == pytest.approx(1 / 6, rel=0.1)
    assert figures["test_loss"] < 0.1 * figures["baseline_loss"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "learning_curve.png", "loss.png", "result.json"} <= names
    assert "baseline loss" in capsys.readouterr().out
    assert memory_tasks.main(config(tmp_path, resume=True)) == figures


@pytest.mark.slow
def test_a_short_copy_beats_having_no_memory(tmp_path):
    options: Any = {"task": "copy", "length": 1, "cell": "lstm", "hidden_size": 32, "steps": 120}
    figures = memory_tasks.main(config(tmp_path, **options))
    assert figures["baseline_loss"] == pytest.approx(10 * math.log(8) / 21)
    assert figures["test_loss"] < 0.9 * figures["baseline_loss"]
    assert figures["test_recalled"] > 0.2  # chance is 1 in 8


@pytest.mark.slow
def test_published_figures_stand_beside_the_same_setting_alone(tmp_path):
    options: Any = {"length": 600, "cell": "min_gru", "hidden_size": 2, "steps": 1, "epochs": 1}
    figures = memory_tasks.main(config(tmp_path, **options))
    assert figures["published_GRU"] == 5.3e-5


def test_chrono_is_for_the_cells_that_know_it(tmp_path):
    make: Any = memory_tasks.make_cell
    assert make(config(tmp_path, cell="lstm", length=50), 2).chrono == 50.0
    assert make(config(tmp_path, task="copy", length=50), 2).chrono == 70.0
    assert make(config(tmp_path, chrono=False), 2).chrono is None
    assert not hasattr(make(config(tmp_path, cell="elman"), 2), "chrono")
    assert make(config(tmp_path, cell="elman", activation="identity"), 2).activation == "identity"


def test_mistakes(tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            memory_tasks.main(config(tmp_path, **options))

    fails("--cell: expected one of elman, .*, got 'transformer'", cell="transformer")
    fails("--cell: expected one of .*, got 'conv_lstm_1d'", cell="conv_lstm_1d")
    fails("--length: expected at least 2 steps for adding, got 1", length=1)
    fails("--activation: expected none for gru, got relu", activation="relu")
    fails("--steps: expected at least 1, got 0", steps=0)
