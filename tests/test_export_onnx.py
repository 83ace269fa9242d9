"""ONNX graphs compute what layers do, by the NumPy twins and ONNX Runtime."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import cells
from seqjax.export import export_onnx
from seqjax.export._plain import plain
from tests.nn.helpers import make, oracle, random, states_of
from tests.references import sigmoid

REFERENCES: dict[Any, str] = {
    cells.Elman: "elman",
    cells.LSTM: "lstm",
    cells.PeepholeLSTM: "peephole_lstm",
    cells.GRU: "gru",
    cells.ChoGRU: "cho_gru",
}
LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "elman": (cells.Elman(3, 4), {"bidirectional": True}),
    "relu": (cells.Elman(3, 4, activation="relu"), {}),
    "sigmoid": (cells.Elman(3, 4, activation="sigmoid"), {}),
    "identity": (cells.Elman(3, 4, activation="identity"), {"bidirectional": True}),
    "lstm": (cells.LSTM(3, 4), {"num_layers": 2, "bidirectional": True}),
    "without biases": (cells.LSTM(3, 4, use_bias=False), {}),
    "peephole": (cells.PeepholeLSTM(3, 4), {"bidirectional": True, "merge_mode": "sum"}),
    "gru": (cells.GRU(3, 4), {"num_layers": 2, "bidirectional": True, "merge_mode": "mul"}),
    "cho": (
        cells.ChoGRU(3, 3),
        {"num_layers": 2, "bidirectional": True, "merge_mode": "mean", "residual": True},
    ),
}


def run(graph: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime computes, by name."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    given = {name: np.asarray(leaf) for name, leaf in feed.items()}
    return dict(zip(names, session.run(None, given), strict=True))


def states(prefix: str, layer: Any, state: Any) -> dict[str, Any]:
    """A state of the layer or of its twin, by the names of the graph."""
    names = plain(layer.initial_state(()))
    leaves = zip(names, jax.tree.leaves(state), strict=True)
    return {f"{prefix}.{name}": leaf for name, leaf in leaves}


@pytest.fixture(autouse=True)
def _onnx():
    pytest.importorskip("onnx")


@pytest.mark.parametrize("name", LAYERS)
def test_graphs_equal_the_numpy_twins(name):
    cell, options = LAYERS[name]
    layer = make(cell, **options)
    twin = layer
    if name == "sigmoid":  # the twins know it as a function only
        twin = make(dataclasses.replace(cell, activation=sigmoid), **options)
    graph = export_onnx(layer)
    for batch, steps in ((3, 5), (1, 2)):
        xs, lengths = random(batch, steps, 3), np.array([2, 0, steps][:batch], np.int32)
        for row, length in enumerate(lengths):
            xs[row, length:] = np.nan
        state = states_of(layer, (batch,))
        found = run(graph, {"xs": xs, "lengths": lengths, **states("state", layer, state)})
        outputs, final = oracle(
            REFERENCES[type(cell)], twin, np.nan_to_num(xs), lengths=lengths, initial_state=state
        )
        np.testing.assert_allclose(found["outputs"], outputs, atol=2e-6)
        for key, leaf in states("final", layer, final).items():
            np.testing.assert_allclose(found[key], leaf, atol=2e-6, err_msg=key)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_normalised_time_major_graphs_without_lengths_and_states(norm, tmp_path):
    layer = make(cells.GRU(3, 4), num_layers=2, norm=norm, time_major=True)
    export_onnx(layer, tmp_path / "gru.onnx", padding="none", state=False)
    import onnx

    graph = onnx.load(tmp_path / "gru.onnx")
    assert [node.op_type for node in graph.graph.node].count("GRU") == 2
    xs = random(5, 2, 3)
    found = run(graph, {"xs": xs})
    outputs, final = layer(xs, deterministic=True)
    np.testing.assert_allclose(found["outputs"], outputs, atol=2e-6)
    for key, leaf in states("final", layer, final).items():
        np.testing.assert_allclose(found[key], leaf, atol=2e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_quantized_graphs_are_small_and_near(bidirectional, tmp_path):
    """The recipe of docs/deploying.md; 7 bits, since 8 bits overflow on processors without VNNI."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    import onnx

    layer = make(cells.LSTM(24, 64), num_layers=2, bidirectional=bidirectional)
    before, after = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    exact = export_onnx(layer, before)
    quantization.quantize_dynamic(
        before,
        after,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    graph = onnx.load(after)
    operators = [node.op_type for node in graph.graph.node]
    assert operators.count("DynamicQuantizeLSTM") == 2
    assert "LSTM" not in operators
    assert after.stat().st_size < 0.35 * before.stat().st_size
    xs, lengths = random(3, 6, 24), np.array([6, 0, 2], np.int32)
    feed = {"xs": xs, "lengths": lengths, **states("state", layer, states_of(layer, (3,)))}
    expected = run(exact, feed)
    for name, found in run(graph, feed).items():
        error = np.abs(found - expected[name]).max()
        assert 0 < error < 0.15, name  # the random weights are larger than those of a new layer


def test_what_onnx_does_not_compute_says_so():
    for match, layer in {
        "got MGU": make(cells.MGU(3, 4)),
        "expected an activation among": make(cells.Elman(3, 4, activation=jnp.sin)),
        "expected zoneout=0": make(cells.GRU(3, 4), zoneout=0.1),
        "merge_mode='none'": make(cells.GRU(3, 4), bidirectional=True, merge_mode="none"),
        "expected float32, got": make(cells.GRU(3, 4), dtype=jnp.bfloat16),
    }.items():
        with pytest.raises(ValueError, match=match):
            export_onnx(layer)
    with pytest.raises(TypeError, match=r"expected a seqjax\.nn\.Recurrent"):
        export_onnx(jax)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"padding: expected .*got 'mask'"):
        export_onnx(make(cells.GRU(3, 4)), padding="mask")
    with pytest.raises(ValueError, match="learned initial state"):
        export_onnx(make(cells.GRU(3, 4), learned_initial_state=True), state=False)


def test_a_graph_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    import onnx

    layer, path = make(cells.GRU(3, 4)), tmp_path / "gru.onnx"
    path.write_text("old")

    def broken(model: Any, target: Any) -> None:
        Path(target).write_text("half")
        raise OSError("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk is full"):
        patched.setattr(onnx, "save", broken)
        export_onnx(layer, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="path: expected a file or a new path, got a folder"):
        export_onnx(layer, tmp_path)
    model = export_onnx(layer, path)
    assert onnx.load(path) == model


def test_a_missing_onnx_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'seqjax\[onnx\]'"):
        export_onnx(make(cells.GRU(3, 4)))
