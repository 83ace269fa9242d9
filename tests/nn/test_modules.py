"""Layers as Flax modules: names, paths, numbers of parameters, copies, trees."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from tests.cases import assert_close, registered
from tests.nn.helpers import B, H, I, T, drawn, flat_params, float64, make, oracle, random, run

KEY = jax.random.key(0)


def named(cls, **options):
    return drawn(lambda: cls(I, H, rngs=nnx.Rngs(0), **options))


@pytest.mark.quick("RNN-options0-*", "LSTM-options2-*", "GRU-options7-*")
@pytest.mark.parametrize(
    ("cls", "options", "name", "cell"),
    [
        (nn.RNN, {}, "elman", cells.Elman(I, H)),
        (nn.RNN, dict(activation="relu"), "elman", cells.Elman(I, H, activation="relu")),
        (nn.LSTM, {}, "lstm", cells.LSTM(I, H)),
        (nn.LSTM, dict(use_bias=False), "lstm", cells.LSTM(I, H, use_bias=False)),
        (nn.LSTM, dict(proj_size=2), "projected_lstm", cells.ProjectedLSTM(I, H, proj_size=2)),
        (nn.LSTM, dict(proj_size=0), "lstm", cells.LSTM(I, H)),
        (nn.GRU, {}, "gru", cells.GRU(I, H)),
        (nn.GRU, dict(reset_after=False), "cho_gru", cells.ChoGRU(I, H)),
    ],
)
def test_layers_by_name_equal_numpy(cls, options, name, cell):
    layer = named(cls, num_layers=2, **options)
    assert isinstance(layer, nn.Recurrent) and layer.cell == cell
    xs, lengths = random(B, T, I), np.array([T, 2, 0])
    found = run(layer, xs, lengths=lengths)
    assert_close(found, oracle(name, layer, xs, lengths=lengths), 1e-5, 1e-5)


def test_options_of_the_cell_reach_every_layer():
    layer: Any = nn.LSTM(I, H, num_layers=2, bidirectional=True, forget_bias=1.0, rngs=KEY)
    for path, value in flat_params(layer).items():
        if path.endswith(".b"):
            assert value.tolist() == [0.0] * H + [1.0] * H + [0.0] * 2 * H
    layer = nn.RNN(I, H, num_layers=2, kernel_init="identity", bias_init="torch_uniform", rngs=KEY)
    assert (layer.layers[1].forward.w_ih[...] == np.eye(H)).all()
    assert layer.layers[1].forward.b[...].any()


def test_paths_of_parameters():
    layer = named(nn.LSTM, num_layers=2, bidirectional=True, norm="layer")
    assert set(flat_params(layer)) == {
        f"layers.{index}.{direction}.{weight}"
        for index in (0, 1)
        for direction in ("forward", "backward")
        for weight in ("w_ih", "w_hh", "b")
    } | {"norms.0.scale", "norms.0.bias"}
    assert isinstance(layer.layers[1].backward.w_hh, nnx.Param)
    assert layer.layers[0].forward.w_ih.shape == (I, 4 * H)
    assert layer.layers[1].forward.w_ih.shape == (2 * H, 4 * H)
    state = nnx.state(layer, nnx.Param)
    assert state["layers"][0]["forward"]["w_ih"][...] is layer.layers[0].forward.w_ih[...]
    # What stands under a path is what is computed with.
    xs = random(B, T, I)
    before = run(layer, xs).outputs
    layer.layers[0].forward.w_ih[...] = 2 * layer.layers[0].forward.w_ih[...]
    assert (run(layer, xs).outputs != before).any()


@pytest.mark.quick("lstm", "min_gru", "conv_lstm_1d")
@registered
def test_parameters_are_those_of_the_cell(case):
    layer = make(case.cell, num_layers=2)
    for index, one in enumerate(layer.layers):
        cell = case.cell if index == 0 else case.cell.stacked_on(case.cell.output_shape[-1])
        assert one.forward.cell == cell and one.backward is None
        shapes = jax.eval_shape(cell.init, KEY)
        assert jax.tree.map(np.shape, one.forward.params) == jax.tree.map(np.shape, shapes)
        assert type(one.forward.params) is type(shapes)
        for field, spec in shapes._asdict().items():
            if spec is not None:
                assert getattr(one.forward, field).shape == spec.shape


def count(layer):
    return sum(value.size for value in flat_params(layer).values())


@pytest.mark.quick("1-1", "3-2")
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_number_of_parameters(num_layers, directions):
    options = dict(num_layers=num_layers, bidirectional=directions == 2)
    inputs = [I] + [directions * H] * (num_layers - 1)
    assert count(named(nn.RNN, **options)) == sum(directions * H * (i + H + 1) for i in inputs)
    assert count(named(nn.LSTM, **options)) == sum(directions * 4 * H * (i + H + 1) for i in inputs)
    assert count(named(nn.GRU, **options)) == sum(
        directions * (3 * H * (i + H + 1) + H) for i in inputs
    )
    inputs, p = [I] + [directions * 2] * (num_layers - 1), 2
    assert count(named(nn.LSTM, proj_size=p, **options)) == sum(
        directions * (4 * H * (i + p + 1) + H * p) for i in inputs
    )


def test_every_direction_and_layer_is_drawn_anew_by_the_rule_of_the_cell():
    layer: Any = nn.GRU(H, H, num_layers=2, bidirectional=True, merge_mode="sum", rngs=nnx.Rngs(3))
    weights = [each.w_hh[...] for one in layer.layers for each in (one.forward, one.backward)]
    for i, w in enumerate(weights):
        for block in jnp.split(w, 3, axis=1):
            assert_close(block.T @ block, np.eye(H), 1e-5)
        assert all((w != other).any() for other in weights[:i])
    again = nn.GRU(H, H, num_layers=2, bidirectional=True, merge_mode="sum", rngs=nnx.Rngs(3))
    assert_close(float64(nnx.state(layer)), float64(nnx.state(again)), 0, 0)


def test_rngs_may_be_a_key_and_take_the_stream_of_parameters():
    assert_close(
        nnx.state(nn.RNN(I, H, rngs=jax.random.key(3))), nnx.state(nn.RNN(I, H, rngs=nnx.Rngs(3)))
    )
    a, b = (nn.RNN(I, H, rngs=nnx.Rngs(seed, params=5)) for seed in (0, 1))
    assert_close(nnx.state(a), nnx.state(b), 0, 0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(copied):
    layer = named(
        nn.LSTM, num_layers=2, bidirectional=True, norm="batch", learned_initial_state=True,
        dropout=0.5,
    )  # fmt: skip
    layer.eval()
    xs = random(B, T, I)
    want, twin = run(layer, xs), copied(layer)
    assert_close(run(twin, xs), want, 0, 0)
    twin.layers[0].forward.w_ih[...] = jnp.zeros([I, 4 * H])
    assert_close(run(layer, xs), want, 0, 0)  # nothing is shared
    assert type(twin) is nn.LSTM and twin.deterministic is True


def test_train_and_eval_of_a_module_around_the_layer():
    class Tagger(nnx.Module):
        def __init__(self, rngs):
            self.encoder = nn.GRU(I, H, num_layers=2, dropout=0.5, norm="batch", rngs=rngs)
            self.head = nnx.Linear(H, 2, rngs=rngs)

    model = Tagger(nnx.Rngs(0))
    assert model.encoder.deterministic is False
    model.eval()
    assert model.encoder.deterministic is True
    model.encoder(random(B, T, I))
    assert not model.encoder.norms[0].mean[...].any()
    model.train()
    with pytest.raises(ValueError, match="rngs"):
        model.encoder(random(B, T, I))


def test_split_and_merge():
    layer = named(nn.GRU, num_layers=2, bidirectional=True, norm="batch")
    graph, params, *others = nnx.split(layer, nnx.Param, ...)
    (rest,) = others
    assert {type(leaf) for _, leaf in nnx.to_flat_state(rest)} == {nnx.BatchStat}
    xs = random(B, T, I)
    merged = nnx.merge(graph, params, rest)
    assert_close(run(merged, xs), run(layer, xs), 0, 0)
    assert nnx.split(layer)[0] == nnx.split(merged)[0]
    hash(graph)


def test_equal_layers_have_equal_graphs():
    options: dict[str, Any] = dict(num_layers=2, norm="layer", learned_initial_state=True)
    a, b = (nn.LSTM(I, H, rngs=nnx.Rngs(seed), **options) for seed in (0, 1))
    other = nn.LSTM(I, H, zoneout=0.1, rngs=KEY, **options)
    structure: Any = jax.tree.structure
    one, two, three = structure(a), structure(b), structure(other)
    assert one == two and hash(one) == hash(two)
    assert one != three


def test_a_cell_of_ones_own_needs_no_registration():
    class Counter(seqjax.cells.Elman):
        """A subclass without an entry in CELLS."""

    options = dict(num_layers=2, bidirectional=True, learned_initial_state=True)
    layer, xs = make(Counter(I, H), **options), random(B, T, I)
    assert_close(run(layer, xs), oracle("elman", layer, xs), 1e-5, 1e-5)
