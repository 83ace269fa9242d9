"""Export of recurrent layers as ONNX graphs with the operators `RNN`, `LSTM` and `GRU`."""

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqjax import cells, checks
from seqjax._files import replacing
from seqjax.export._plain import plain
from seqjax.nn import Direction, Recurrent

__all__ = ["OPSET", "export_onnx"]

OPSET = 17
"""The version of the ONNX operator set: the first with layer normalisation."""


def export_onnx(
    layer: Recurrent,
    path: str | os.PathLike[str] | None = None,
    *,
    padding: str = "lengths",
    state: bool = True,
) -> Any:
    """Export a recurrent layer, in evaluation mode, as an ONNX graph.

        xs [b, t, I], lengths [b], state.0.h [b, H], … -> outputs [b, t, O], final.0.h [b, H], …

    Batch and time may have any size of at least 1. If a size is 0, ONNX Runtime terminates the
    process. For lengths outside [0, t], ONNX Runtime raises an error. Each layer is one node `RNN`,
    `LSTM` or `GRU` with both directions, for which runtimes have fast kernels.

    The export supports the cells `Elman`, `LSTM`, `PeepholeLSTM`, `GRU` and `ChoGRU`, stacks, one
    or both directions with any merge mode except "none", layer and batch normalisation, residual
    connections, time-major layouts, lengths and states. It does not support other cells, zoneout,
    masks with gaps, or resets.

    Args:
      layer: a `seqjax.nn.Recurrent` that computes in float32.
      path: the path of the file, which is written atomically. If None, no file is written.
      padding: "lengths" adds an input for the lengths, int32 `[b]`. "none" adds no input; the
        sequences then have no padding.
      state: whether the initial states are inputs of the graph. The name of such an input is the
        prefix "state." and the name in `export_layer`: for example, "state.0.h". If `state` is
        False, the layer starts from zeros.

    Returns:
      The `onnx.ModelProto`.

    Raises:
      ImportError: if onnx is not installed; it is part of the extra "onnx".
      TypeError: if `layer` is not a layer.
      ValueError: if the ONNX operators cannot compute the layer (the message has the reason), or if
        `path` is not the path of a regular file.

    References:
      ONNX operators, version 14 of `RNN`, `LSTM` and `GRU`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> layer = nn.GRU(3, 5, num_layers=2, rngs=nnx.Rngs(0))
      >>> graph = export_onnx(layer).graph  # doctest: +SKIP
      >>> [node.op_type for node in graph.node if node.op_type == "GRU"]  # doctest: +SKIP
      ['GRU', 'GRU']
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError(
            "export_onnx: expected the package onnx to be installed; run pip install 'seqjax[onnx]'"
        ) from error
    _check(layer)
    checks.require_name("padding", padding, ("lengths", "none"))
    if not checks.require_bool("state", state) and layer.layers[0].forward._state_names:
        raise ValueError("state: expected True for a layer with a learned initial state, got False")
    model = _Graph(onnx, layer, lengths=padding == "lengths", state=state).model()
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        with replacing(path) as partial:
            onnx.save(model, partial)
    return model


def _check(layer: Any) -> None:
    """Raise an error if the ONNX operators cannot compute the layer."""
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}")
    cell = layer.cell
    if type(cell) not in _OPERATORS:
        known = ", ".join(kind.__name__ for kind in _OPERATORS)
        raise ValueError(f"layer: expected a cell among {known}, got {type(cell).__name__}")
    if isinstance(cell, cells.Elman) and cell.activation not in _ACTIVATIONS:
        raise ValueError(
            f"layer: expected an activation among {', '.join(_ACTIVATIONS)}, "
            f"got {checks.brief(cell.activation)}"
        )
    if zoneout := layer.layers[0].options.zoneout:
        raise ValueError(
            f"layer: expected zoneout=0, since ONNX has no operator for it, got zoneout={zoneout}"
        )
    if layer.merge_mode == "none" and layer.bidirectional:
        raise ValueError("layer: expected a merge_mode with one output, got merge_mode='none'")
    dtypes = {np.dtype(layer.dtype or np.float32), np.dtype(layer.param_dtype)}
    if dtypes != {np.dtype(np.float32)}:
        raise ValueError(f"layer: expected float32, got {', '.join(map(str, dtypes))}")


# The functions below convert the parameters of a cell to those of an operator: `W [G*H, I]`,
# `R [G*H, H]`, `B [2*G*H]`, and for peepholes `P [3*H]`, with the gates in the order of ONNX.
def _gates(array: Any, order: Sequence[int], count: int) -> np.ndarray:
    """Return the G blocks of columns of `[..., G*H]` in the given order, as `[G*H, ...]`."""
    blocks = np.split(np.asarray(array, np.float32), count, axis=-1)
    return np.concatenate([blocks[n] for n in order], axis=-1).T


def _bias(b: Any, size: int) -> np.ndarray:
    return np.zeros(size, np.float32) if b is None else np.asarray(b, np.float32)


def _elman(params: Any, size: int) -> tuple[np.ndarray, ...]:
    b = _bias(params.b, size)
    w, r = _gates(params.w_ih, [0], 1), _gates(params.w_hh, [0], 1)
    return w, r, np.concatenate([b, np.zeros_like(b)])


def _lstm(params: Any, size: int) -> tuple[np.ndarray, ...]:
    order = (0, 3, 1, 2)  # from i, f, g, o to ONNX's i, o, f, c
    b = _gates(_bias(params.b, 4 * size), order, 4)
    w, r = _gates(params.w_ih, order, 4), _gates(params.w_hh, order, 4)
    peepholes = [getattr(params, name, None) for name in ("p_i", "p_o", "p_f")]
    found = (w, r, np.concatenate([b, np.zeros_like(b)]))
    if peepholes[0] is None:
        return found
    return (*found, np.concatenate([np.asarray(p, np.float32) for p in peepholes]))


def _gru(params: Any, size: int) -> tuple[np.ndarray, ...]:
    order = (1, 0, 2)  # from r, z, n to ONNX's z, r, h
    w_hh = np.asarray(params.w_hh, np.float32)
    if hasattr(params, "w_hn"):
        w_hh = np.concatenate([w_hh, np.asarray(params.w_hn, np.float32)], axis=-1)
    inner = np.zeros(3 * size, np.float32)
    inner[2 * size :] = _bias(getattr(params, "b_hn", None), size)
    b = _gates(_bias(params.b, 3 * size), order, 3)
    return _gates(params.w_ih, order, 3), _gates(w_hh, order, 3), np.concatenate([b, inner])


_OPERATORS: dict[type, tuple[str, Callable[[Any, int], tuple[np.ndarray, ...]], dict[str, Any]]] = {
    cells.Elman: ("RNN", _elman, {}),
    cells.LSTM: ("LSTM", _lstm, {}),
    cells.PeepholeLSTM: ("LSTM", _lstm, {}),
    cells.GRU: ("GRU", _gru, {"linear_before_reset": 1}),
    cells.ChoGRU: ("GRU", _gru, {"linear_before_reset": 0}),
}
_ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}


class _Graph:
    """An ONNX graph under construction. The graph is time-major, as ONNX's operators are."""

    def __init__(self, onnx: Any, layer: Recurrent, *, lengths: bool, state: bool) -> None:
        self.onnx, self.layer, self.lengths, self.state = onnx, layer, lengths, state
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.some = ""  # bool [b, 1], True for sequences of at least one step

    def add(self, operator: str, inputs: Sequence[str], outputs: Any = None, **options: Any) -> str:
        """Add a node and return the name of its first output."""
        names = [f"{operator}_{len(self.nodes)}"] if outputs is None else list(outputs)
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), names, **options))
        return names[0]

    def constant(self, array: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def declared(self, into: list[Any], name: str, shape: Sequence[Any], kind: str) -> str:
        """Add an input or an output of the graph and return its name."""
        element = getattr(self.onnx.TensorProto, kind)
        into.append(self.onnx.helper.make_tensor_value_info(name, element, shape))
        return name

    def model(self) -> Any:
        layer = self.layer
        lead = ["t", "b"] if layer.time_major else ["b", "t"]
        xs = self.declared(self.inputs, "xs", [*lead, layer.cell.input_size], "FLOAT")
        lengths = mask = ""
        if self.lengths:
            lengths = self.declared(self.inputs, "lengths", ["b"], "INT32")
            if self.state:
                column = self.add("Unsqueeze", [lengths, self.constant(np.array([1]))])
                self.some = self.add("Greater", [column, self.constant(np.int32(0))])
        if not layer.time_major:
            xs = self.add("Transpose", [xs], perm=[1, 0, 2])
        if self.lengths and any(each.adds_inputs for each in layer.layers):
            mask = self._mask(xs, lengths)
        for index in range(layer.num_layers):
            xs = self._layer(index, xs, lengths, mask)
            if index < layer.num_layers - 1 and layer.norm is not None:
                xs = self._normed(layer.norms[index], xs)
        if not layer.time_major:
            xs = self.add("Transpose", [xs], perm=[1, 0, 2])
        self.add("Identity", [xs], ["outputs"])
        outputs: list[Any] = []
        self.declared(outputs, "outputs", [*lead, layer.output_size], "FLOAT")
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "seqjax", self.inputs, [*outputs, *self.outputs], self.constants
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
            producer_name="seqjax",
        )  # fmt: skip

    def _mask(self, xs: str, lengths: str) -> str:
        """Add a mask, bool `[t, b, 1]`, that is False in padding, and return its name."""
        zero, one = self.constant(np.int64(0)), self.constant(np.int64(1))
        steps = self.add("Gather", [self.add("Shape", [xs]), zero])
        t = self.add("Range", [zero, steps, one])
        t = self.add("Unsqueeze", [t, self.constant(np.array([1, 2]))])
        count = self.add("Cast", [lengths], to=self.onnx.TensorProto.INT64)
        return self.add("Less", [t, self.add("Unsqueeze", [count, self.constant(np.array([1]))])])

    def _layer(self, index: int, xs: str, lengths: str, mask: str) -> str:
        """Add the nodes of one layer and return the name of its output."""
        part = self.layer.layers[index]
        directions: list[Direction] = [part.forward]
        if part.backward is not None:
            directions.append(part.backward)
        cell = part.forward.cell
        operator, convert, options = _OPERATORS[type(cell)]
        options = {"hidden_size": cell.hidden_size, **options}
        if isinstance(cell, cells.Elman):
            options["activations"] = [_ACTIVATIONS[str(cell.activation)]] * len(directions)
            if cell.activation == "identity":
                options["activation_alpha"] = [1.0] * len(directions)
                options["activation_beta"] = [0.0] * len(directions)
        if len(directions) > 1:
            options["direction"] = "bidirectional"
        converted = [convert(each.params, cell.hidden_size) for each in directions]
        w, r, b, *p = (self.constant(np.stack(arrays)) for arrays in zip(*converted, strict=True))
        starts = self._states(index, cell.hidden_size)
        given = [xs, w, r, b, lengths, *starts]
        if p:
            given += [""] * (7 - len(given)) + p
        while not given[-1]:
            given.pop()
        finals = [f"final_{index}_{n}" for n in range(2 if operator == "LSTM" else 1)]
        y = self.add(operator, given, [f"y_{index}", *finals], **options)
        self._final_states(index, finals, cell.hidden_size)
        joined = self._joined(y, cell.hidden_size, len(directions))
        if part.adds_inputs:
            if mask:
                xs = self.add("Where", [mask, xs, self.constant(np.float32(0))])
            joined = self.add("Add", [joined, xs])
        return joined

    def _state_names(self, index: int) -> list[list[str]]:
        """Return the names that `export_layer` gives a layer's states, as `[h or c][direction]`."""
        names = list(plain(self.layer.initial_state(())))
        names = [name for name in names if name.split(".")[0] == str(index)]
        parts = 2 if _OPERATORS[type(self.layer.cell)][0] == "LSTM" else 1
        return [names[n::parts] for n in range(parts)]

    def _states(self, index: int, size: int) -> list[str]:
        """Add the initial states of a layer, each `[directions, b, H]`."""
        if not self.state:
            return []
        stacked, axis = [], self.constant(np.array([0]))
        for names in self._state_names(index):
            given = [self.declared(self.inputs, f"state.{n}", ["b", size], "FLOAT") for n in names]
            lifted = [self.add("Unsqueeze", [name, axis]) for name in given]
            stacked.append(lifted[0] if len(lifted) == 1 else self.add("Concat", lifted, axis=0))
        return stacked

    def _final_states(self, index: int, finals: Sequence[str], size: int) -> None:
        for names, final in zip(self._state_names(index), finals, strict=True):
            for n, name in enumerate(names):
                found = self.declared(self.outputs, f"final.{name}", ["b", size], "FLOAT")
                picked = [final, self.constant(np.int64(n))]
                if self.some:  # for a length of 0, runtimes return zeros
                    picked = [self.some, self.add("Gather", picked, axis=0), f"state.{name}"]
                    self.add("Where", picked, [found])
                else:
                    self.add("Gather", picked, [found], axis=0)

    def _joined(self, y: str, size: int, directions: int) -> str:
        """Add a node that merges the directions of `[t, directions, b, H]` into `[t, b, …]`."""
        if directions == 1:
            return self.add("Squeeze", [y, self.constant(np.array([1]))])
        match self.layer.merge_mode:
            case "sum":
                return self.add("ReduceSum", [y, self.constant(np.array([1]))], keepdims=0)
            case "mean":
                return self.add("ReduceMean", [y], axes=[1], keepdims=0)
            case "mul":
                return self.add("ReduceProd", [y], axes=[1], keepdims=0)
        y = self.add("Transpose", [y], perm=[0, 2, 1, 3])
        return self.add("Reshape", [y, self.constant(np.array([0, 0, directions * size]))])

    def _normed(self, norm: Any, xs: str) -> str:
        """Add layer normalisation, or batch normalisation with its running statistics."""
        scale, bias = (np.asarray(p[...], np.float32) for p in (norm.scale, norm.bias))
        if self.layer.norm == "layer":
            given = [xs, self.constant(scale), self.constant(bias)]
            return self.add("LayerNormalization", given, axis=-1, epsilon=norm.epsilon)
        mean, var = (np.asarray(p[...], np.float32) for p in (norm.mean, norm.var))
        factor = scale / np.sqrt(var + np.float32(norm.epsilon))
        scaled = self.add("Mul", [xs, self.constant(factor)])
        return self.add("Add", [scaled, self.constant(bias - mean * factor)])
