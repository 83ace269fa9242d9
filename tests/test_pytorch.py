"""The layers and cells against PyTorch: outputs, final states and every gradient, to 1e-5.

The numbers come from `tests/golden/*.npz`, which `tests/golden/generate_torch.py` describes and
makes; PyTorch itself is not needed here. Our results are brought into PyTorch's names and layouts
and compared there, so that what is compared is all that a file has.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn
from seqjax.types import Unrolled

GOLDEN = Path(__file__).resolve().parent / "golden"
SINGLE = [
    "rnn_tanh",
    "rnn_relu",
    "lstm",
    "gru",
    "lstm_no_bias",
    "gru_no_bias",
    "lstm_proj",
    "gru_lengths",
]
STACKED = [
    "lstm_stacked",
    "rnn_bidirectional",
    "lstm_bidirectional",
    "gru_bidirectional",
    "lstm_proj_bidirectional",
    "lstm_bidirectional_lengths",
]
RESULTS = ("output", "h_n", "c_n")
LAYERS: dict[str, type[nn.Recurrent]] = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
CELLS = {"RNN": cells.Elman, "LSTM": cells.LSTM, "GRU": cells.GRU}


class Golden(NamedTuple):
    """One file: its arrays by PyTorch's names, and the loss's derivatives with respect to them."""

    config: dict[str, Any]
    values: dict[str, np.ndarray]
    derivatives: dict[str, np.ndarray]
    lengths: np.ndarray | None

    @property
    def kind(self) -> str:
        """PyTorch's class."""
        return self.config["class"]

    @property
    def options(self) -> dict[str, Any]:
        """PyTorch's arguments, as ours."""
        names = {"nonlinearity": "activation", "bias": "use_bias"}
        return {names.get(k, k): value for k, value in self.config.items() if k != "class"}

    @property
    def bidirectional(self) -> bool:
        return self.config.get("bidirectional", False)


class Ran(NamedTuple):
    """What our code gives for a file, in PyTorch's names and layouts."""

    values: dict[str, np.ndarray]
    derivatives: dict[str, np.ndarray]


def load(name: str) -> Golden:
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("config")))
    arrays.pop("torch_version")
    lengths = arrays.pop("lengths", None)
    values, derivatives = ({k: pair[i] for k, pair in arrays.items()} for i in (0, 1))
    return Golden(config, values, derivatives, lengths)


# Weights and states there and back. PyTorch has two biases where one is enough; both get its
# gradient. Only the part of the GRU's `bias_hh` that the reset gate multiplies stands on its own.


def from_torch(golden: Golden, suffix: str) -> dict[str, np.ndarray]:
    """One direction's parameters, by our names."""
    weights = {key.removesuffix(suffix): golden.values[key] for key in golden.values}
    names = {"weight_ih": "w_ih", "weight_hh": "w_hh", "weight_hr": "w_hr"}
    params = {ours: weights[theirs].T for theirs, ours in names.items() if theirs in weights}
    if "bias_ih" not in weights:
        return params
    b_ih, b_hh = weights["bias_ih"], weights["bias_hh"]
    if golden.kind == "GRU":
        b_hh, params["b_hn"] = b_hh.copy(), b_hh[-golden.config["hidden_size"] :]
        b_hh[-golden.config["hidden_size"] :] = 0
    params["b"] = b_ih + b_hh
    return params


def to_torch(golden: Golden, gradients: Mapping[str, Any], suffix: str) -> dict[str, np.ndarray]:
    """The gradients of one direction's parameters, by PyTorch's names."""
    names = {"w_ih": "weight_ih", "w_hh": "weight_hh", "w_hr": "weight_hr"}
    found = {names[key]: np.asarray(g).T for key, g in gradients.items() if key in names}
    if "b" in gradients:
        found["bias_ih"] = found["bias_hh"] = np.asarray(gradients["b"])
    if "b_hn" in gradients:
        shared = found["bias_hh"][: -golden.config["hidden_size"]]
        found["bias_hh"] = np.concatenate([shared, gradients["b_hn"]])
    return {key + suffix: value for key, value in found.items()}


def states_from_torch(arrays: Mapping[str, np.ndarray], end: str) -> list[Any]:
    """The states of all layers and directions in PyTorch's order, from `h_0`, `c_0` or the like."""
    if f"c_{end}" in arrays:
        return list(map(cells.LSTMState, arrays[f"h_{end}"], arrays[f"c_{end}"]))
    return list(arrays[f"h_{end}"])


def states_to_torch(states: list[Any], end: str) -> dict[str, np.ndarray]:
    if isinstance(states[0], cells.LSTMState):
        h, c = zip(*states, strict=True)
        return {f"h_{end}": np.stack(h), f"c_{end}": np.stack(c)}
    return {f"h_{end}": np.stack(states)}


def by_layer(golden: Golden, states: list[Any]) -> tuple[Any, ...]:
    """The states as a layer takes them."""
    if not golden.bidirectional:
        return tuple(states)
    pairs = zip(states[::2], states[1::2], strict=True)
    return tuple(nn.Bidirectional(*pair) for pair in pairs)


def in_order(golden: Golden, states: tuple[Any, ...]) -> list[Any]:
    """The inverse of `by_layer`."""
    if not golden.bidirectional:
        return list(states)
    return [state for layer in states for state in (layer.forward, layer.backward)]


def directions(layer: nn.Recurrent) -> dict[str, nnx.Module]:
    """The directions of all layers, by what the names of PyTorch's weights for them end with."""
    found: dict[str, nnx.Module] = {}
    for index, each in enumerate(layer.layers):
        found[f"_l{index}"] = each.forward
        if each.backward is not None:
            found[f"_l{index}_reverse"] = each.backward
    return found


# Running the layer, or the cell in `unroll`.


@functools.partial(jax.jit, static_argnums=0)
def gradients(
    call: Callable[..., Unrolled], model: Any, xs: Any, state: Any, lengths: Any, cotangents: Any
) -> Any:
    """The gradients of the files' loss with respect to model, xs and state, and the results."""

    def loss(model: Any, xs: Any, state: Any) -> tuple[jax.Array, Unrolled]:
        found = call(model, xs, state, lengths)
        terms = jax.tree.map(jnp.vdot, found, cotangents)
        return sum(jax.tree.leaves(terms), jnp.float32(0)), found

    return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(model, xs, state)


def run_layer(golden: Golden) -> Ran:
    layer = LAYERS[golden.kind](**golden.options, rngs=nnx.Rngs(0))
    for suffix, direction in directions(layer).items():
        params = from_torch(golden, suffix)
        drawn = nnx.to_pure_dict(nnx.state(direction, nnx.Param))
        assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(np.shape, params)
        for name, value in params.items():
            setattr(direction, name, nnx.Param(jnp.asarray(value)))

    (d_layer, d_input, d_state), found = gradients(
        lambda layer, xs, state, lengths: layer(xs, initial_state=state, lengths=lengths),
        layer,
        golden.values["input"],
        by_layer(golden, states_from_torch(golden.values, "0")),
        golden.lengths,
        Unrolled(
            golden.derivatives["output"],
            by_layer(golden, states_from_torch(golden.derivatives, "n")),
        ),
    )
    derivatives = {"input": d_input} | states_to_torch(in_order(golden, d_state), "0")
    for suffix, direction in directions(d_layer).items():
        d_params = nnx.to_pure_dict(nnx.state(direction, nnx.Param))
        derivatives |= to_torch(golden, d_params, suffix)
    final = states_to_torch(in_order(golden, found.state), "n")
    return Ran({"output": found.outputs} | final, derivatives)


def run_cell(golden: Golden) -> Ran:
    projected = "proj_size" in golden.config
    cell_class: Any = cells.ProjectedLSTM if projected else CELLS[golden.kind]
    cell = cell_class(**golden.options)
    params = cell.init(jax.random.key(0))._replace(**from_torch(golden, "_l0"))
    (state,) = states_from_torch(golden.values, "0")
    (d_final,) = states_from_torch(golden.derivatives, "n")

    (d_params, d_input, d_state), found = gradients(
        lambda params, xs, state, lengths: seqjax.unroll(
            cell, params, xs, state=state, lengths=lengths
        ),
        params,
        golden.values["input"],
        state,
        golden.lengths,
        Unrolled(golden.derivatives["output"], d_final),
    )
    d_params = {key: g for key, g in d_params._asdict().items() if g is not None}
    derivatives = {"input": d_input} | states_to_torch([d_state], "0")
    derivatives |= to_torch(golden, d_params, "_l0")
    return Ran({"output": found.outputs} | states_to_torch([found.state], "n"), derivatives)


def check(golden: Golden, ran: Ran) -> None:
    """Everything in the file has been computed, and is the same."""
    expected = {
        "": {key: golden.values[key] for key in RESULTS if key in golden.values},
        "gradient of ": {k: d for k, d in golden.derivatives.items() if k not in RESULTS},
    }
    for (what, theirs), ours in zip(expected.items(), ran, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            name, array = f"{what}{key}", np.asarray(ours[key])
            # strict: shapes and dtypes too
            np.testing.assert_allclose(array, value, 1e-5, 1e-5, err_msg=name, strict=True)
    if golden.lengths is not None:
        padding = np.arange(golden.values["input"].shape[1]) >= golden.lengths[:, None]
        assert padding.any() and np.isnan(golden.values["input"][padding]).all()
        assert not np.asarray(ran.values["output"])[padding].any()
        assert not np.asarray(ran.derivatives["input"])[padding].any()


@pytest.mark.quick("gru", "lstm_bidirectional_lengths", "rnn_relu", "lstm_stacked")
@pytest.mark.parametrize("name", SINGLE + STACKED)
def test_layer_equals_pytorch(name: str) -> None:
    golden = load(name)
    check(golden, run_layer(golden))


@pytest.mark.quick("gru_lengths", "lstm", "rnn_tanh")
@pytest.mark.parametrize("name", SINGLE)
def test_unrolled_cell_equals_pytorch(name: str) -> None:
    golden = load(name)
    check(golden, run_cell(golden))


def test_every_file_is_tested_and_small() -> None:
    paths = sorted(GOLDEN.glob("*.npz"))
    assert [path.stem for path in paths] == sorted(SINGLE + STACKED)
    assert sum(path.stat().st_size for path in paths) < 150_000


@pytest.mark.parametrize("name", SINGLE + STACKED)
def test_files_can_show_an_error(name: str) -> None:
    """Nothing given is zero, above all no bias, and the loss depends on everything."""
    golden = load(name)
    for key, value in golden.values.items():
        assert golden.derivatives[key].any(), key
        assert key in RESULTS or value.all(), key
