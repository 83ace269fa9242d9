"""The residual blocks and their convolution in NumPy float64, from the equations of the papers.

A twin reads the parameters as nested dicts of arrays, so that it can also be run with other
parameters. The recurrent cells are those of `tests/references.py`.
"""

from typing import Any

import numpy as np

from seqjax import cells
from tests import references
from tests.references import Array, layer_norm, sigmoid


def gelu(z: Array) -> Array:
    """Hendrycks, Gimpel (2016), section 2, in the approximation by tanh."""
    return 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))


def dense(p: Any, xs: Array) -> Array:
    return xs @ p["kernel"] + p.get("bias", 0.0)


def ln(p: Any, xs: Array) -> Array:
    rows = [layer_norm(row, 1e-6) for row in xs.reshape(-1, xs.shape[-1])]
    return p["scale"] * np.reshape(rows, xs.shape) + p.get("bias", 0.0)


def rms(p: Any, xs: Array) -> Array:
    return p["scale"] * xs / np.sqrt((xs**2).mean(-1, keepdims=True) + 1e-6)


def gated_mlp(p: Any, xs: Array) -> Array:
    gate, value = np.split(dense(p["up"], xs), 2, -1)
    return dense(p["down"], gelu(gate) * value)


def conv(
    p: Any, xs: Array, window: Array, mask: Any, resets: Any, slopes: Any = None
) -> tuple[Any, Any]:
    """One row at a time, one step at a time, with a list of the places of the inputs in the window.

    Args:
      p: the kernel `[K, I]` and the bias `[I]`.
      xs: the inputs `[B, T, I]`.
      window: the window before the first step, `[B, K-1, I]`.
      mask: bool `[B, T]`.
      resets: bool `[B, T]`.
      slopes: derivatives of a loss by the outputs and by the final window; or None.

    Returns:
      The outputs and the final window, and the derivatives by the kernel, the bias, xs and window.
    """
    kernel, bias = p["kernel"], p["bias"]
    size = len(kernel)
    ys, final = np.zeros_like(xs), np.zeros_like(window)
    d_ys, d_final = (np.zeros_like(ys), np.zeros_like(final)) if slopes is None else slopes
    d_kernel, d_bias = np.zeros_like(kernel), np.zeros_like(bias)
    d_xs, d_window = np.zeros_like(xs), np.zeros_like(window)
    for n in range(len(xs)):
        places: list[Any] = [(window[n], d_window[n], k) for k in range(size - 1)]
        for t in range(xs.shape[1]):
            if resets[n, t]:
                places = [None] * (size - 1)
            if not mask[n, t]:
                continue
            places = [*places, (xs[n], d_xs[n], t)]
            ys[n, t] = bias
            d_bias += d_ys[n, t]
            for j, place in enumerate(reversed(places)):
                if place is not None:
                    values, d_values, at = place
                    ys[n, t] += kernel[j] * values[at]
                    d_kernel[j] += d_ys[n, t] * values[at]
                    d_values[at] += d_ys[n, t] * kernel[j]
            places = places[1:]
        for k, place in enumerate(places):
            if place is not None:
                values, d_values, at = place
                final[n, k] = values[at]
                d_values[at] += d_final[n, k]
    return (ys, final), (d_kernel, d_bias, d_xs, d_window)


def recurrent(
    name: str, cell: Any, kind: Any, weights: Any, xs: Array, state: Any, **steps: Any
) -> tuple[Array, Any]:
    """The twin of a cell, whose parameters are a dict."""
    params = kind(**{field: weights.get(field) for field in kind._fields})
    return references.unroll(name, cell, params, xs, initial_state=state, **steps)


def lru(block: Any, p: Any, xs: Array, state: Any, **steps: Any) -> tuple[Array, Any]:
    """Orvieto et al. (2023): the gated linear unit has two matrices."""
    weights = p["layer"]["layers"][0]["forward"]
    ys, final = recurrent(
        "lru", block.layer.cell, cells.LRUParams, weights, ln(p["norm"], xs), state[0], **steps
    )
    value, gate = np.split(dense(p["out"], gelu(ys)), 2, -1)
    return xs + value * sigmoid(gate), (final,)


def s5(block: Any, p: Any, xs: Array, state: Any, **steps: Any) -> tuple[Array, Any]:
    """Smith et al. (2023), appendix G: GELU(y) ⊙ σ(W GELU(y)), with the sum of the directions."""
    ways, inputs = p["layer"]["layers"][0], ln(p["norm"], xs)
    ran = []
    for way, start in zip(("forward", "backward"), state[0], strict=True):
        reverse = way == "backward"
        if reverse and "resets" in steps:  # a sequence ends where the next one begins
            ends = np.zeros_like(steps["resets"])
            ends[:, :-1] = steps["resets"][:, 1:]
            steps = steps | {"resets": ends}
        ran.append(
            recurrent(
                "s5", block.layer.cell, cells.S5Params, ways[way], inputs, start,
                reverse=reverse, **steps,
            )
        )  # fmt: skip
    ys = gelu(ran[0][0] + ran[1][0])
    return xs + ys * sigmoid(dense(p["gate"], ys)), (tuple(final for _, final in ran),)


def sru(block: Any, p: Any, xs: Array, state: Any, **steps: Any) -> tuple[Array, Any]:
    """Lei et al. (2018): an SRU that reads LN(x) and x, of which x enters the highway alone."""
    weights, size = p["layer"]["layers"][0]["forward"], xs.shape[-1]
    w_ih = np.zeros((2 * size, 4 * size))
    w_ih[:size, : 3 * size] = weights["w_ih"]
    w_ih[size:, 3 * size :] = np.eye(size)
    both = np.concatenate([ln(p["norm"], xs), xs], -1)
    ys, final = recurrent(
        "sru", block.layer.cell, cells.SRUParams, weights | {"w_ih": w_ih}, both, state[0], **steps
    )
    return ys, (final,)


def griffin(block: Any, p: Any, xs: Array, state: Any, **steps: Any) -> tuple[Array, Any]:
    """De et al. (2024), figure 2 and section 2."""
    inputs = rms(p["norm"], xs)
    window, (start,) = state
    (convolved, window), _ = conv(p["conv"], dense(p["inner"], inputs), window, **steps)
    ys, final = recurrent(
        "rg_lru", block.layer.cell, cells.RGLRUParams, p["layer"]["layers"][0]["forward"],
        convolved, start, **steps,
    )  # fmt: skip
    us = xs + dense(p["out"], gelu(dense(p["gate"], inputs)) * ys)
    return us + gated_mlp(p["mlp"], rms(p["mlp_norm"], us)), (window, (final,))


def slstm(block: Any, p: Any, xs: Array, state: Any, **steps: Any) -> tuple[Array, Any]:
    """Beck et al. (2024), section 2.4: an sLSTM that reads both inputs by a sparse matrix."""
    inputs = ln(p["norm"], xs)
    window, (start,) = state
    (convolved, window), _ = conv(p["conv"], inputs, window, **steps)
    both = np.concatenate([inputs, convolved * sigmoid(convolved)], -1)
    weights, size = p["layer"]["layers"][0]["forward"], xs.shape[-1]
    w_ih = np.zeros((2, size, 4, size))  # [input, unit, gate, unit]
    for n, matrix in enumerate(weights["w_ih"]):
        part = slice(n * len(matrix), (n + 1) * len(matrix))
        for gate, columns in enumerate(np.split(matrix, 4, 1)):
            w_ih[1 if gate < 2 else 0, part, gate, part] = columns
    ys, final = recurrent(
        "slstm", block.layer.cell, cells.SLSTMParams,
        weights | {"w_ih": w_ih.reshape(2 * size, 4 * size)}, both, tuple(start), **steps,
    )  # fmt: skip
    us = xs + ys
    return us + gated_mlp(p["mlp"], ln(p["mlp_norm"], us)), (window, (final,))
