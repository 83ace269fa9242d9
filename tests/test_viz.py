"""What is drawn is what was given: the data in the figures, their labels and their errors."""

import builtins
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402

from seqjax import viz  # noqa: E402

HISTORY = [
    {"epoch": 1, "step": 5, "loss": 3.0, "grad_norm": 1.0, "seconds": 0.1, "eval_loss": 4.0},
    {"epoch": 2, "step": 10, "loss": 2.0, "grad_norm": 1.0, "seconds": 0.1, "eval_accuracy": 0.5},
    {"epoch": 3, "step": 15, "loss": 1.0, "grad_norm": 1.0, "seconds": 0.1, "eval_loss": 2.0},
]


def renders(figure):
    """Whether the figure can be drawn with the Agg backend."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue().startswith(b"\x89PNG")


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_learning_curve_pairs_training_with_evaluation():
    figure = viz.learning_curve(HISTORY)
    assert isinstance(figure, Figure) and renders(figure)
    loss, accuracy = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss")
    assert lines(loss) == {
        "training": [[1, 3.0], [2, 2.0], [3, 1.0]],
        "evaluation": [[1, 4.0], [3, 2.0]],  # the record of epoch 2 lacks it
    }
    assert accuracy.get_ylabel() == "accuracy"
    assert lines(accuracy) == {"evaluation": [[2, 0.5]]}
    one, other = loss.lines
    assert accuracy.lines[0].get_color() == other.get_color()  # one look for evaluation
    assert one.get_color() != other.get_color() and one.get_linestyle() != other.get_linestyle()


def test_learning_curve_of_chosen_keys_without_epochs():
    figure = viz.learning_curve(
        [{"grad_norm": 2.0}, {"grad_norm": jnp.float32(1.0)}, {}], keys=["grad_norm"]
    )
    assert lines(figure.axes[0]) == {"training": [[1, 2.0], [2, 1.0]]}


@pytest.mark.parametrize(
    ("history", "keys", "message"),
    [
        ([], None, r"history: expected at least one record"),
        (HISTORY, ["lost"], r"keys: expected some of epoch, .*got \['lost'\]"),
        ([{"epoch": 1}], None, r"keys: "),
    ],
)
def test_learning_curve_errors(history, keys, message):
    with pytest.raises(ValueError, match=message):
        viz.learning_curve(history, keys=keys)


def test_hidden_states_draws_units_over_time():
    outputs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    figure = viz.hidden_states(outputs, title="a sentence")
    assert isinstance(figure, Figure) and renders(figure)
    axes, bar = figure.axes
    image = axes.images[0]
    np.testing.assert_array_equal(image.get_array(), outputs.T)
    assert image.get_clim() == pytest.approx((-np.abs(outputs).max(), np.abs(outputs).max()))
    assert image.get_cmap()(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.05)  # zero is white
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time step", "unit")
    assert axes.get_title() == "a sentence"
    assert bar.get_ylabel()


def test_hidden_states_leaves_padding_out():
    outputs = np.ones((5, 2), np.float32)
    outputs[3:] = 100.0
    figure = viz.hidden_states(jnp.asarray(outputs, jnp.bfloat16), length=3, step_labels="abc")
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(image.get_array(), np.ones((2, 3)))
    assert image.get_clim() == (-1.0, 1.0)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.full((3, 2), np.nan)])
def test_hidden_states_of_nothing_still_has_a_scale(values):
    figure = viz.hidden_states(values)
    assert figure.axes[0].images[0].get_clim() == (-1.0, 1.0)
    assert renders(figure)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3, 4), {}, r"outputs: expected a non-empty \[T, H\], got shape \(2, 3, 4\)"),
        ((0, 4), {}, r"outputs: .*got shape \(0, 4\)"),
        ((3, 4), {"length": 4}, r"length: expected 1 to T=3, got 4"),
        ((3, 4), {"length": 0}, r"length: "),
        ((3, 4), {"length": 2, "step_labels": "abc"}, r"step_labels: .* 2 steps, got 3"),
    ],
)
def test_hidden_states_errors(shape, options, message):
    with pytest.raises(ValueError, match=message):
        viz.hidden_states(np.zeros(shape), **options)


@pytest.mark.parametrize("log", [True, False])
def test_gradient_flow_draws_each_model(log):
    norms: dict[str, Any] = {
        "elman": jnp.array([0.0, 0.1, 1.0]),
        "lstm": np.array([0.5, 0.6, 0.7, 0.8]),
    }
    figure = viz.gradient_flow(norms, log=log)
    assert isinstance(figure, Figure) and renders(figure)
    (axes,) = figure.axes
    drawn = lines(axes)
    assert list(drawn) == ["elman", "lstm"]
    for name, norm in norms.items():
        np.testing.assert_array_equal(np.array(drawn[name])[:, 0], np.arange(len(norm)))
        np.testing.assert_array_equal(np.array(drawn[name])[:, 1], np.asarray(norm, np.float64))
    assert axes.get_yscale() == ("log" if log else "linear")
    legend = axes.get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == ["elman", "lstm"]


def test_gradient_flow_tells_many_models_apart():
    figure = viz.gradient_flow({f"model {index}": np.ones(3) for index in range(20)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 20


def test_gradient_flow_errors():
    with pytest.raises(ValueError, match="norms: expected at least one model"):
        viz.gradient_flow({})
    with pytest.raises(ValueError, match=r"norms\['gru'\]: expected \[T\], got shape \(2, 3\)"):
        viz.gradient_flow({"gru": np.ones((2, 3))})


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real_import = builtins.__import__

    def no_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    with pytest.raises(ImportError, match=r"pip install seqjax\[viz\]"):
        viz.gradient_flow({"gru": np.ones(3)})


def test_no_global_state():
    """Neither importing nor drawing loads pyplot, which keeps figures alive and picks a backend."""
    code = (
        "import sys\nfrom seqjax import viz\nassert 'matplotlib' not in sys.modules\n"
        "viz.gradient_flow({'gru': [1.0, 2.0]})\nprint('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(__file__).resolve().parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert run.stdout.split() == ["False"]


def test_attention_is_drawn_as_given():
    weights = np.array([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    figure = viz.attention(weights, "cat", ["K", "end"], title="cat")
    axes = figure.axes[0]
    drawn = axes.images[0].get_array()
    assert drawn is not None
    np.testing.assert_allclose(drawn, weights)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["c", "a", "t"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["K", "end"]
    assert axes.get_title() == "cat"
    with pytest.raises(ValueError, match=r"weights: expected a non-empty \[2, 3\].*\(3, 2\)"):
        viz.attention(weights.T, "cat", ["K", "end"])
