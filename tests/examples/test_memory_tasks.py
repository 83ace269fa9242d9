"""The memory tasks: drawn as they are defined, learned when they are short."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
from examples import memory_tasks
from examples.shipped import drawn
from seqjax import cells


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


def test_options_of_the_cell(tmp_path):
    make: Any = memory_tasks.make_cell
    options: Any = {"activation": "identity"}
    assert make(config(tmp_path, cell="elman", cell_options=options), 2).activation == "identity"
    cell = make(config(tmp_path, cell="lru", cell_options={"r_min": 0.99, "max_phase": 3}), 2)
    assert (cell.r_min, cell.max_phase) == (0.99, 3)


@pytest.mark.parametrize("blocks", [False, True])
def test_recurrent_layers_in_bfloat16(tmp_path, blocks):
    """The computation is in bfloat16; parameters and the answer are float32."""
    options = config(tmp_path, task="copy", cell="min_gru", blocks=blocks, dtype="bfloat16")
    model: Any = nnx.eval_shape(lambda: memory_tasks.Reader(options, rngs=nnx.Rngs(0)))
    recurrent = model.blocks.layers[1].recurrent if blocks else model.recurrent
    assert jnp.dtype(recurrent.dtype) == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    inputs = drawn.Draws("copy", 4, 3, 1, (0,))[0]["inputs"]
    found = jax.eval_shape(lambda model: model(inputs), model)
    assert (found.shape, found.dtype) == ((3, 24, 9), jnp.float32)


@pytest.mark.quick()
@pytest.mark.parametrize("task", ["adding", "copy"])
def test_residual_blocks(tmp_path, task):
    model = memory_tasks.Reader(
        config(tmp_path, task=task, cell="min_gru", blocks=True, num_layers=2), rngs=nnx.Rngs(0)
    )

    @nnx.jit
    def expected(model, inputs):
        first, *blocks = model.blocks.layers
        features = first(inputs)
        for block in blocks:
            outputs = nnx.gelu(block.recurrent(block.norm(features)).outputs)
            a, b = jnp.split(block.gated(outputs), 2, axis=-1)
            features = features + a * jax.nn.sigmoid(b)
        return model.head(features if task == "copy" else features[:, -1])

    inputs = drawn.Draws(task, 4, 3, 1, (0,))[0]["inputs"]
    found = nnx.jit(memory_tasks.Reader.__call__)(model, inputs)
    assert (
        found.shape == ((3, 1) if task == "adding" else (3, 24, 9))
        and len(model.blocks.layers) == 3
    )
    np.testing.assert_allclose(found, expected(model, inputs), rtol=1e-5, atol=1e-6)


def test_eigenvalues_have_a_learning_rate_of_their_own(tmp_path):
    assert set(memory_tasks.EIGENVALUES) < {*cells.LRUParams._fields, *cells.S5Params._fields}
    params = {"forward": dict.fromkeys(["nu_log", "theta_log", "b_re"], np.float32(2)), "head": 3.0}

    def moved(rate):
        optimizer = memory_tasks.optimizer(config(tmp_path, eigenvalue_rate=rate))

        def two_updates(params):  # the learning rate of the first update is 0
            state = optimizer.init(params)
            _, state = optimizer.update(params, state, params)
            return optimizer.update(params, state, params)[0]

        return jax.jit(two_updates)(params)

    slow, plain = moved(0.25), moved(1.0)
    assert abs(plain["head"]) > 0
    for name, factor in (("nu_log", 0.25), ("theta_log", 0.25), ("b_re", 1)):
        np.testing.assert_allclose(slow["forward"][name], factor * plain["forward"][name], 1e-6)
    np.testing.assert_allclose(slow["head"], plain["head"], 1e-6)


def test_mistakes(tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            memory_tasks.main(config(tmp_path, **options))

    fails("--cell: expected one of elman, .*, got 'transformer'", cell="transformer")
    fails("--cell: expected one of .*, got 'conv_lstm_1d'", cell="conv_lstm_1d")
    fails("--length: expected at least 2 steps for adding, got 1", length=1)
    fails(
        "--cell-options: expected options of gru, .*; got r_min",
        cell="gru", cell_options={"r_min": 0.9},
    )  # fmt: skip
    fails(
        "--cell-options: r_min, r_max: expected 0 <= r_min", cell="lru", cell_options={"r_min": 2.0}
    )
    fails("--steps: expected at least 1, got 0", steps=0)
