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
from matplotlib.text import Text  # noqa: E402

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
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time step $t$", "unit")
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


def test_gates_are_drawn_one_panel_each():
    rng = np.random.default_rng(0)
    values = {"f": rng.uniform(size=(6, 3)), "g": rng.uniform(-1, 1, size=(6, 3))}
    figure = viz.gates(values, length=4, step_labels="abcd", title="one word")
    assert isinstance(figure, Figure) and renders(figure)
    f, g = figure.axes[:2]
    for axes, name in ((f, "f"), (g, "g")):
        np.testing.assert_array_equal(axes.images[0].get_array(), values[name][:4].T)
        assert axes.get_ylabel() == f"unit of ${name}_t$"
    assert f.images[0].get_clim() == (0.0, 1.0)
    assert g.images[0].get_clim() == (-1.0, 1.0)  # a candidate: zero in the middle, and white
    assert g.images[0].get_cmap()(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.05)
    assert [tick.get_text() for tick in g.get_xticklabels()] == list("abcd")
    assert g.get_xlabel() == "time step $t$"
    assert figure.get_suptitle() == "one word"


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({}, {}, "values: expected at least one gate"),
        ({"f": np.zeros((0, 3))}, {}, r"values\['f'\]: expected a non-empty \[T, H\]"),
        ({"f": np.zeros((2, 3)), "o": np.zeros((2, 4))}, {}, r"values: expected equal shapes"),
        ({"f": np.zeros((2, 3))}, {"length": 3}, "length: expected 1 to T=2, got 3"),
        ({"f": np.zeros((2, 3))}, {"step_labels": "abc"}, "step_labels: .* 2 steps, got 3"),
    ],
)
def test_gates_errors(values, options, message):
    with pytest.raises(ValueError, match=message):
        viz.gates(values, **options)


def test_saliency_has_a_bar_a_step():
    figure = viz.saliency([0.5, -1.0, 2.0, 9.0], length=3, step_labels=["not", "a", "film"])
    assert renders(figure)
    (axes,) = figure.axes
    bars: list[Any] = list(axes.patches)
    assert [bar.get_height() for bar in bars] == [0.5, -1.0, 2.0]
    assert bars[0].get_facecolor() == bars[2].get_facecolor() != bars[1].get_facecolor()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["not", "a", "film"]
    assert "x_t" in axes.get_ylabel()  # there are signs, so it is the product with the input
    assert "Vert" in viz.saliency([0.5, 1.0]).axes[0].get_ylabel()
    assert viz.saliency([0.5], label="weight").axes[0].get_ylabel() == "weight"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"values: expected a non-empty \[T\], got shape \(0,\)"),
        ([[1.0]], r"values: .*got shape \(1, 1\)"),
        ([1.0, np.nan], "values: expected finite numbers"),
        ([1j], "values: expected real numbers"),
    ],
)
def test_saliency_errors(values, message):
    with pytest.raises(ValueError, match=message):
        viz.saliency(values)


def test_eigenvalues_stand_in_the_plane():
    values = {"r": np.array([0.5 + 0.5j, 0.5 - 0.5j]), "n": np.array([-3.0, 0.0])}
    figure = viz.eigenvalues(values)
    assert renders(figure)
    for axes, (name, points) in zip(figure.axes, values.items(), strict=True):
        *_, circle, dots = axes.lines
        np.testing.assert_array_equal(dots.get_xydata(), np.c_[points.real, points.imag])
        np.testing.assert_allclose(np.hypot(*np.asarray(circle.get_xydata()).T), 1.0)
        assert axes.get_title() == f"{name}: ρ = {np.abs(points).max():.2f}"
        assert axes.get_aspect() == 1.0 and axes.get_xlim()[0] < -3.0  # one scale for all
    with pytest.raises(ValueError, match="values: expected at least one gate"):
        viz.eigenvalues({})
    with pytest.raises(ValueError, match=r"values\['h'\]: expected finite numbers"):
        viz.eigenvalues({"h": np.array([np.inf])})
    with pytest.raises(ValueError, match=r"values\['h'\]: expected a non-empty \[H\]"):
        viz.eigenvalues({"h": np.zeros((2, 2))})


def test_what_is_not_finite_is_grey_or_named():
    values = np.array([[0.5, np.nan], [np.inf, -0.25]])
    image = viz.hidden_states(values).axes[0].images[0]
    assert image.get_clim() == (-0.5, 0.5)
    drawn = np.ma.masked_array(image.get_array())
    assert np.ma.getmaskarray(drawn).T.tolist() == [[False, True], [True, False]]
    assert image.get_cmap()(np.ma.masked)[:3] == pytest.approx((0.7, 0.7, 0.7))
    assert viz.attention(values, "ab", "cd").axes[0].images[0].get_clim() == (0.0, 1.0)
    flow = viz.gradient_flow({"gru": [np.nan, np.inf], "lstm": [1.0, np.nan]})
    assert renders(flow) and list(lines(flow.axes[0])) == ["gru: not finite", "lstm"]
    assert renders(viz.learning_curve([{"loss": np.nan}, {"loss": np.inf}]))


@pytest.mark.quick()
def test_long_and_wide_stays_readable():
    steps = 2000
    values = np.tile(np.linspace(-1, 1, steps)[:, None], 64)
    labels = [f"a token of some length {t}" for t in range(steps)]
    figures = [
        viz.hidden_states(values, step_labels=labels),
        viz.gates({"i": abs(values), "g": values}, step_labels=labels),
        viz.saliency(values[:, 0], step_labels=labels),
        viz.attention(np.eye(900, 1000), labels[:1000], labels[:900]),
        viz.gradient_flow({"gru": abs(values[:, 0])}),
        viz.learning_curve([{f"metric {n}": 1.0 for n in range(9)}]),
    ]
    for figure in figures:
        assert renders(figure)
        assert max(figure.get_size_inches()) <= 15
        for axes in figure.axes:
            texts = axes.get_xticklabels()
            assert len(texts) <= 100 and all(len(text.get_text()) <= 16 for text in texts)


def test_attention_of_many_tokens_keeps_its_peaks():
    weights = np.eye(1000)
    drawn = viz.attention(weights, ["s"] * 1000, ["t"] * 1000).axes[0].images[0]
    array = np.asarray(drawn.get_array())
    assert max(array.shape) <= 400 and (array.max(axis=0) == 1.0).all()
    assert list(drawn.get_extent()) == [-0.5, 999.5, 999.5, -0.5]


def test_many_metrics_are_in_rows():
    figure = viz.learning_curve([{f"m{n}": n for n in range(5)}])
    assert figure.axes[4].get_ylabel() == "m4"
    assert figure.axes[3].get_position().y0 < figure.axes[0].get_position().y0


def test_gradient_flow_of_no_steps():
    with pytest.raises(ValueError, match=r"norms\['gru'\]: expected \[T\], got shape \(0,\)"):
        viz.gradient_flow({"gru": []})


UNFIT = "$5 and $^_ x"
"""Two dollars, between which there is no formula."""


@pytest.mark.quick()
def test_texts_with_dollars_are_drawn_literally():
    values = np.array([[0.5, 0.25], [0.75, -0.5]])
    tokens, long = ["$^", "$_$"], f"{UNFIT} {'words to wrap ' * 4}"
    figures = [
        viz.hidden_states(values, step_labels=tokens, title=long),
        viz.gates({UNFIT: values, "$": values}, step_labels=tokens, title=long),
        viz.saliency(values[0], step_labels=tokens, title=long, label=UNFIT),
        viz.attention(values, tokens, tokens, title=long),
        viz.eigenvalues({UNFIT: values[0]}, title=long),
        viz.gradient_flow({UNFIT: [1.0, 2.0]}),
        viz.learning_curve([{UNFIT: 1.0}]),
        viz.confusion(tokens, tokens),
    ]
    for figure in figures:
        assert renders(figure)
        given: list[Any] = [text for text in figure.findobj(Text) if "5 and" in text.get_text()]
        for text in given:
            drawn, is_math = text._preprocess_math(text.get_text())
            assert not is_math and UNFIT in drawn.replace("\n", " "), text
    assert [t.get_text() for t in figures[0].axes[0].get_xticklabels()] == [r"\$^", r"\$_\$"]
    assert r"$\Vert" in viz.saliency([1.0]).axes[0].get_ylabel()  # our own formulas are some


def test_labels_may_be_numbers():
    ids: Any = jnp.array([7, 12])
    figure = viz.attention(np.eye(2), ids, [3, 4])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["7", "12"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["3", "4"]
    figure = viz.saliency([0.5, 1.0], step_labels=[np.int64(3), 4])
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["3", "4"]


@pytest.mark.parametrize("kind", [jnp.array, np.array, list])
def test_confusion_of_numbers(kind):
    figure = viz.confusion(kind([10, 9, 9]), kind([10, 9, 10]))
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["9", "10"]
    drawn = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(drawn, np.sqrt([[0.5, 0.5], [0.0, 1.0]]))


def test_confusion_of_long_names_and_errors():
    name = "a class with a name of many words"
    for axis in ("x", "y"):
        (tick,) = getattr(viz.confusion([name], [name]).axes[0], f"get_{axis}ticklabels")()
        assert len(tick.get_text()) == 16 and tick.get_text().endswith("…")
    for right, found, options, message in (
        ([], [], {}, "right, found: expected at least one example, got none"),
        (["a"], ["a", "b"], {}, "right, found: expected equal lengths, got 1 and 2"),
        (["a"], ["a"], {"most": 0}, "most: expected a positive integer, got 0"),
        (np.eye(2), np.eye(2), {}, r"right: expected \[N\], one class per example, got shape \(2"),
    ):
        with pytest.raises(ValueError, match=message):
            viz.confusion(right, found, **options)  # type: ignore[arg-type]


def test_learning_curve_draws_numbers_alone():
    history: Any = [{"loss": 2.0, "note": "warm", "best": None}, {"loss": "n/a"}, {"loss": 1.0}]
    figure = viz.learning_curve(history)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
    assert lines(figure.axes[0]) == {"training": [[1, 2.0], [3, 1.0]]}
    assert len(viz.learning_curve(HISTORY, keys="loss").axes) == 1
    with pytest.raises(ValueError, match=r"keys: expected some of loss; got \['note'\]"):
        viz.learning_curve(history, keys="note")


def test_gradient_flow_of_one_step_shows_a_point():
    one, other = viz.gradient_flow({"gru": [1.0], "lstm": [1.0, 2.0]}).axes[0].lines
    assert one.get_marker() == "o" and other.get_marker() == "None"


@pytest.mark.parametrize("count", [2, 40])
def test_legends_have_all_names_and_leave_room(count):
    names = [f"_model {index}" for index in range(count)]
    figure = viz.gradient_flow({name: np.ones(3) for name in names})
    assert renders(figure)
    (axes,) = figure.axes
    legend: Any = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == names
    box, panel = legend.get_window_extent(), axes.get_window_extent()
    assert panel.width > 0.5 * figure.bbox.width
    assert (box.x0 >= panel.x1 - 1) == (count > 12)  # many are beside the panel
    assert box.y0 >= 0


@pytest.mark.filterwarnings("error")
def test_huge_values_can_be_drawn():
    values = np.array([[1.7e308, -1.7e308], [1e299, 0.0]])
    for figure in (viz.hidden_states(values), viz.gates({"g": values})):
        assert renders(figure)
        assert figure.axes[0].images[0].get_clim()[1] == 1e299


def test_a_length_is_an_integer():
    for length in (2.0, True):
        with pytest.raises(TypeError, match="length: expected a positive integer"):
            viz.hidden_states(np.ones((3, 2)), length=length)  # type: ignore[arg-type]
    assert viz.hidden_states(np.ones((3, 2)), length=jnp.int32(2))
