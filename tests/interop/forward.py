"""The equations of the libraries in NumPy and float64, on arrays arranged as they arrange them."""

from typing import Any

import numpy as np


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def f64(value: Any) -> Any:
    return np.asarray(value).astype(np.float64)


def keras_cell(kind: str, arrays: Any, xs: Any) -> Any:
    """One direction of Keras's "rnn" (tanh), "lstm", "gru" or "cho" on `[B, T, I]`."""
    kernel, recurrent, bias = map(f64, arrays)
    h = c = np.zeros((len(xs), len(recurrent)))
    outputs = []
    for x in np.moveaxis(f64(xs), 1, 0):
        if kind == "rnn":
            h = np.tanh(x @ kernel + h @ recurrent + bias)
        elif kind == "lstm":
            i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif kind == "gru":
            zx, rx, nx = np.split(x @ kernel + bias[0], 3, -1)
            zh, rh, nh = np.split(h @ recurrent + bias[1], 3, -1)
            z, r = sigmoid(zx + zh), sigmoid(rx + rh)
            h = z * h + (1 - z) * np.tanh(nx + r * nh)
        else:
            zx, rx, nx = np.split(x @ kernel + bias, 3, -1)
            u_z, u_r, u_n = np.split(recurrent, 3, -1)
            z, r = sigmoid(zx + h @ u_z), sigmoid(rx + h @ u_r)
            h = z * h + (1 - z) * np.tanh(nx + (r * h) @ u_n)
        outputs.append(h)
    return np.stack(outputs, 1)


def keras_stack(kind: str, cells: Any, xs: Any) -> Any:
    for arrays in cells:
        xs = keras_cell(kind, arrays, xs)
    return xs


def keras_both(kind: str, forward: Any, backward: Any, xs: Any) -> Any:
    back = keras_cell(kind, backward, xs[:, ::-1])[:, ::-1]
    return np.concatenate([keras_cell(kind, forward, xs), back], -1)


def torch_lstm(state: Any, xs: Any, suffix: str = "_l0") -> Any:
    """One direction of PyTorch's LSTM."""
    arrays = (state[f"{k}{suffix}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    w_ih, w_hh, b_ih, b_hh = map(f64, arrays)
    return keras_cell("lstm", (w_ih.T, w_hh.T, b_ih + b_hh), xs)


def cudnn_cell(kind: str, arrays: Any, xs: Any) -> Any:
    """Keras 2's `CuDNNLSTM` or `CuDNNGRU`: cuDNN's matrices `[H, I]` in the order of memory."""
    kernel, recurrent, bias = map(f64, arrays)
    units, inputs, gates = len(recurrent), len(kernel), 4 if kind == "lstm" else 3
    h = c = np.zeros((len(xs), units))
    outputs = []
    for x in np.moveaxis(f64(xs), 1, 0):
        zx, zh = [], []
        for gate in range(gates):
            columns = slice(gate * units, (gate + 1) * units)
            # Row j of cuDNN's matrix are the weights of unit j.
            w = np.array(list(kernel[:, columns].flat)).reshape(units, inputs)
            u = np.array(list(recurrent[:, columns].flat)).reshape(units, units)
            zx.append([w @ row for row in x] + bias[columns])
            zh.append([u @ row for row in h] + bias[gates * units :][columns])
        if kind == "lstm":
            i, f, g, o = (a + b for a, b in zip(zx, zh, strict=True))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            z, r = sigmoid(zx[0] + zh[0]), sigmoid(zx[1] + zh[1])
            h = z * h + (1 - z) * np.tanh(zx[2] + r * zh[2])
        outputs.append(h)
    return np.stack(outputs, 1)


WIDTHS = {"rnn": 1, "lstm": 4, "gru": 3, "cho": 3}


def keras_arrays(kind: str, inputs: int, hidden: int, seed: int = 0) -> list[Any]:
    """Random arrays of one cell of Keras."""
    rng = np.random.default_rng([seed, inputs, hidden])
    width = WIDTHS[kind] * hidden
    bias = (2, width) if kind == "gru" else (width,)
    shapes = [(inputs, width), (hidden, width), bias]
    return [(0.5 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]


def random(*shape: int) -> Any:
    return np.random.default_rng([7, *shape]).normal(size=shape).astype(np.float32)


def check(layer: Any, xs: Any, expected: Any, atol: float = 1e-5) -> None:
    found = f64(layer(np.asarray(xs, layer.param_dtype)).outputs)
    np.testing.assert_allclose(found, expected, 0, atol, strict=True)
