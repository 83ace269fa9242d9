"""References in NumPy float64 and plain loops: every cell, its unrolling, stacks, losses.

Written from the papers' equations and independent of seqjax (and of JAX), to be read beside them.
One example and one step at a time; a sequence never sees its neighbours in a batch. A masked step
is not computed at all, so what lies in padding is never read.

Names: `x` the input of one step, `h` and `c` the previous state, `cell` any object with the
configuration's attributes (`activation`, `epsilon`, `hidden_size`, ...), `params` any object with
the weights' attributes. Weights are [in, out] and multiply from the right; gates are column blocks.
States are an array `h` or a tuple `(h, c, ...)`.
"""

import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
State = Any  # an array h, or a tuple of arrays (h, c)
Step = Callable[..., tuple[State, Array]]


# The pieces equations are made of.


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), accurate and silent at both ends."""
    return np.exp(log_sigmoid(z))


def log_sigmoid(z: Array) -> Array:
    """log(1 / (1 + exp(-z)))."""
    return -np.logaddexp(0.0, -z)


def layer_norm(v: Array, epsilon: float) -> Array:
    """(v - mean) / sqrt(variance + epsilon), with the biased variance (Ba et al., 2016, eq. 3)."""
    mean = sum(v) / len(v)
    variance = sum((v - mean) ** 2) / len(v)
    return (v - mean) / math.sqrt(variance + epsilon)


def activate(cell: Any, z: Array) -> Array:
    """`cell.activation` of z: "tanh", "relu", "identity" or a callable."""
    if callable(cell.activation):
        return np.asarray(cell.activation(z), np.float64)
    if cell.activation == "tanh":
        return np.tanh(z)
    if cell.activation == "relu":
        return np.maximum(z, 0.0)
    if cell.activation == "identity":
        return z
    raise ValueError(f"activation: no reference for {cell.activation!r}")


def wide(value: Any) -> Any:
    """An array in float64, or in complex128."""
    return np.asarray(value, np.complex128 if np.iscomplexobj(value) else np.float64)


def take(params: Any, *names: str) -> list[Any]:
    """The named weights in float64; a bias that is None counts as 0."""
    values = [getattr(params, name) for name in names]
    return [0.0 if value is None else np.asarray(value, np.float64) for value in values]


def masked(h: Array, recurrent_mask: ArrayLike | None) -> Array:
    """What enters the recurrent products: h, or mask * h (Gal & Ghahramani, 2016, eq. 7)."""
    return h if recurrent_mask is None else np.asarray(recurrent_mask, np.float64) * h


# Cells: step(cell, params, x, state, recurrent_mask=None) -> (state, output).


def elman(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Elman (1990): h = act(x W_ih + h W_hh + b)."""
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    h = activate(cell, x @ w_ih + masked(h, recurrent_mask) @ w_hh + b)
    return h, h


def elman_readout(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Elman (1990) with its output layer: y = h W_hy + b_y."""
    h, _ = elman(cell, params, x, h, recurrent_mask)
    w_hy, b_y = take(params, "w_hy", "b_y")
    return h, h @ w_hy + b_y


def lstm(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000)."""
    h, c = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    z_i, z_f, z_g, z_o = np.split(x @ w_ih + masked(h, recurrent_mask) @ w_hh + b, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c + i * g
    h = o * np.tanh(c)
    return (h, c), h


def peephole_lstm(
    cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None
) -> Any:
    """Gers & Schmidhuber (2000): gates see the cell; the output gate sees the new one."""
    h, c = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    p_i, p_f, p_o = take(params, "p_i", "p_f", "p_o")
    z_i, z_f, z_g, z_o = np.split(x @ w_ih + masked(h, recurrent_mask) @ w_hh + b, 4)
    i = sigmoid(z_i + p_i * c)
    f = sigmoid(z_f + p_f * c)
    c = f * c + i * np.tanh(z_g)
    o = sigmoid(z_o + p_o * c)
    h = o * np.tanh(c)
    return (h, c), h


def coupled_lstm(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Greff et al. (2017), CIFG: the input gate is i = 1 - f."""
    h, c = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    z_f, z_g, z_o = np.split(x @ w_ih + masked(h, recurrent_mask) @ w_hh + b, 3)
    f, g, o = sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c + (1.0 - f) * g
    h = o * np.tanh(c)
    return (h, c), h


def projected_lstm(
    cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None
) -> Any:
    """Sak et al. (2014): h = (o * tanh(c)) W_hr is what recurs and what comes out."""
    (w_hr,) = take(params, "w_hr")
    (h, c), _ = lstm(cell, params, x, state, recurrent_mask)
    h = h @ w_hr
    return (h, c), h


def layer_norm_lstm(
    cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None
) -> Any:
    """Ba et al. (2016), eq. 20-22."""
    h, c = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    gain_x, gain_h, gain_c, bias_c = take(params, "gain_x", "gain_h", "gain_c", "bias_c")
    from_x = layer_norm(x @ w_ih, cell.epsilon) * gain_x
    from_h = layer_norm(masked(h, recurrent_mask) @ w_hh, cell.epsilon) * gain_h
    z_i, z_f, z_g, z_o = np.split(from_x + from_h + b, 4)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c + i * g
    h = o * np.tanh(layer_norm(c, cell.epsilon) * gain_c + bias_c)
    return (h, c), h


def gru(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Cho et al. (2014) as in cuDNN and PyTorch: the reset gate acts after the product."""
    w_ih, w_hh, b, b_hn = take(params, "w_ih", "w_hh", "b", "b_hn")
    x_r, x_z, x_n = np.split(x @ w_ih + b, 3)
    h_r, h_z, h_n = np.split(masked(h, recurrent_mask) @ w_hh, 3)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * (h_n + b_hn))
    h = (1.0 - z) * n + z * h
    return h, h


def cho_gru(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Cho et al. (2014), eq. 5-8: the reset gate acts before the product."""
    w_ih, w_hh, w_hn, b = take(params, "w_ih", "w_hh", "w_hn", "b")
    x_r, x_z, x_n = np.split(x @ w_ih + b, 3)
    h_r, h_z = np.split(masked(h, recurrent_mask) @ w_hh, 2)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + (r * masked(h, recurrent_mask)) @ w_hn)
    h = (1.0 - z) * n + z * h
    return h, h


def mgu(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Zhou et al. (2016): one gate f both resets and updates."""
    w_ih, w_hf, w_hn, b = take(params, "w_ih", "w_hf", "w_hn", "b")
    x_f, x_n = np.split(x @ w_ih + b, 2)
    f = sigmoid(x_f + masked(h, recurrent_mask) @ w_hf)
    n = np.tanh(x_n + (f * masked(h, recurrent_mask)) @ w_hn)
    h = (1.0 - f) * h + f * n
    return h, h


def indrnn(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Li et al. (2018): h = act(x W_ih + u * h + b), neurons independent of one another."""
    w_ih, u, b = take(params, "w_ih", "u", "b")
    h = activate(cell, x @ w_ih + u * masked(h, recurrent_mask) + b)
    return h, h


def min_gru(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Feng et al. (2024), section 3.1: gate and candidate see the input only; n is linear."""
    if recurrent_mask is not None:
        raise ValueError("recurrent_mask: min_gru has no recurrent product")
    w_ih, b = take(params, "w_ih", "b")
    z_z, n = np.split(x @ w_ih + b, 2)
    z = sigmoid(z_z)
    h = (1.0 - z) * h + z * n
    return h, h


def min_lstm(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Feng et al. (2024), section 3.2: f' = f / (f + i), i' = i / (f + i)."""
    if recurrent_mask is not None:
        raise ValueError("recurrent_mask: min_lstm has no recurrent product")
    w_ih, b = take(params, "w_ih", "b")
    z_f, z_i, n = np.split(x @ w_ih + b, 3)
    # In logarithms, since f + i may underflow.
    log_f, log_i = log_sigmoid(z_f), log_sigmoid(z_i)
    log_sum = np.logaddexp(log_f, log_i)
    h = np.exp(log_f - log_sum) * h + np.exp(log_i - log_sum) * n
    return h, h


def slstm(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Beck et al. (2024), eq. 8-14, computed without the stabiliser m of eq. 15.

    In the state, c and n are divided by exp(m). Before the first step n is 0, and m counts for
    nothing.
    """
    h, c, n, m = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    heads = zip(np.split(masked(h, recurrent_mask), cell.num_heads), w_hh, strict=True)
    by_gate = zip(*(np.split(part @ block, 4) for part, block in heads), strict=True)
    from_h = np.concatenate([part for parts in by_gate for part in parts])
    z_i, z_f, z_z, z_o = np.split(x @ w_ih + from_h + b, 4)
    i, f = np.exp(z_i), np.exp(z_f) if cell.forget_gate == "exponential" else sigmoid(z_f)
    c = f * np.exp(m) * c + i * np.tanh(z_z)
    first, n = n == 0, f * np.exp(m) * n + i
    h = sigmoid(z_o) * c / n
    m = np.where(first, z_i, np.maximum(np.log(f) + m, z_i))
    state = h, c / np.exp(m), n / np.exp(m), m
    return state, output(slstm, cell, params, state)


def lru(cell: Any, params: Any, x: Array, s: Array, recurrent_mask: Any = None) -> Any:
    """Orvieto et al. (2023), section 3 and appendix A: s = λ s + γ (x B), y = Re(s C) + x D."""
    if recurrent_mask is not None:
        raise ValueError("recurrent_mask: lru has no recurrent product")
    nu_log, theta_log, gamma_log = take(params, "nu_log", "theta_log", "gamma_log")
    b_re, b_im = take(params, "b_re", "b_im")
    eigenvalues = np.exp(-np.exp(nu_log) + 1j * np.exp(theta_log))
    s = eigenvalues * s + np.exp(gamma_log) * (x @ (b_re + 1j * b_im))
    return s, output("lru", cell, params, s, x)


def rg_lru(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """De et al. (2024), eq. 1-4, without the exception for first steps; u is the input."""
    if recurrent_mask is not None:
        raise ValueError("recurrent_mask: rg_lru has no recurrent product")
    w_ih, w_g, b, decay = take(params, "w_ih", "w_g", "b", "decay")
    u = x if params.w_ih is None else x @ w_ih
    products = [np.split(part @ w, 2) for part, w in zip(np.split(u, len(w_g)), w_g, strict=True)]
    b_r, b_i = np.split(b + np.zeros(2 * len(u)), 2)
    r = sigmoid(np.concatenate([of_r for of_r, _ in products]) + b_r)
    i = sigmoid(np.concatenate([of_i for _, of_i in products]) + b_i)
    a = sigmoid(-decay) ** (8.0 * r)
    h = a * h + np.sqrt(1.0 - a**2) * i * u
    return h, h


def s5(cell: Any, params: Any, x: Array, s: Array, recurrent_mask: Any = None) -> Any:
    """Smith et al. (2023), eq. 2-6: x' = Λ x + B u, y = C x + D u, in steps of length Δ."""
    if recurrent_mask is not None:
        raise ValueError("recurrent_mask: s5 has no recurrent product")
    real, imaginary, log_step = take(params, "lambda_re", "lambda_im", "log_step")
    b_re, b_im = take(params, "b_re", "b_im")
    if cell.clip_eigenvalues:
        real = np.where(real > -1e-4, -1e-4, real)
    eigenvalues, step = real + 1j * imaginary, np.exp(log_step)
    driven = x @ (b_re + 1j * b_im)
    if cell.discretization == "zoh":
        a = np.exp(eigenvalues * step)
        s = a * s + (a - 1.0) / eigenvalues * driven
    else:
        # The trapezoidal rule: s_t - s_{t-1} = Δ Λ (s_t + s_{t-1}) / 2 + Δ B u_t.
        half = step * eigenvalues / 2.0
        s = (s + half * s + step * driven) / (1.0 - half)
    return s, output("s5", cell, params, s, x)


def sru(cell: Any, params: Any, x: Array, c: Array, recurrent_mask: Any = None) -> Any:
    """Lei et al. (2018), eq. 1-4 and section 3.3; without v, the gates see the input only."""
    w_ih, v, b = take(params, "w_ih", "v", "b")
    size, seen = cell.hidden_size, masked(c, recurrent_mask)
    w, w_f = w_ih[:, :size], w_ih[:, size : 2 * size]
    v_f, b_f = (part + np.zeros(2 * size) for part in (v, b))
    f = sigmoid(x @ w_f + v_f[:size] * seen + b_f[:size])
    c = f * c + (1.0 - f) * (x @ w)
    return c, output("sru", cell, params, c, x, seen)


def conv_lstm(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Shi et al. (2015), eq. 3, without peepholes: an LSTM whose products are convolutions."""
    h, c = state
    w_ih, w_hh, b = take(params, "w_ih", "w_hh", "b")
    taps = per_axis(cell.kernel_size, x.ndim - 1)
    if w_ih.shape[:-2] != taps or w_hh.shape[:-2] != taps:
        raise ValueError(f"kernels: expected {taps}, got {w_ih.shape[:-2]}, {w_hh.shape[:-2]}")
    from_x = correlate(x, w_ih, cell.stride, cell.padding)
    from_h = correlate(masked(h, recurrent_mask), w_hh, 1, "SAME")
    z_i, z_f, z_g, z_o = np.split(from_x + from_h + b, 4, axis=-1)
    i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
    c = f * c + i * g
    h = o * np.tanh(c)
    return (h, c), h


def gru_d(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Che et al. (2018), eq. 2 and 10-18, feature by feature; x ends with the elapsed time."""
    h, last, since = state
    *values, elapsed = x
    w_ih, w_mh, w_hh, w_hn, b = take(params, "w_ih", "w_mh", "w_hh", "w_hn", "b")
    w_dh, b_dh, w_dx, b_dx = take(params, "w_dh", "b_dh", "w_dx", "b_dx")
    size, means = len(h), np.zeros(len(values)) + cell.means
    delta = since + elapsed
    h = np.exp(-np.maximum(0.0, delta @ w_dh + b_dh)) * h
    gamma = np.exp(-np.maximum(0.0, w_dx * delta + b_dx))
    seen, filled = np.zeros(len(values)), np.zeros(len(values))
    new_last, new_since = np.zeros(len(values)), np.zeros(len(values))
    for d, value in enumerate(values):
        if math.isnan(value):
            filled[d] = gamma[d] * last[d] + (1.0 - gamma[d]) * means[d]
            new_last[d], new_since[d] = last[d], delta[d]
        else:
            seen[d], filled[d], new_last[d] = 1.0, value, value
    from_x = filled @ w_ih + seen @ w_mh + b
    from_h = masked(h, recurrent_mask) @ w_hh
    r = sigmoid(from_x[:size] + from_h[:size])
    z = sigmoid(from_x[size : 2 * size] + from_h[size:])
    n = np.tanh(from_x[2 * size :] + (r * masked(h, recurrent_mask)) @ w_hn)
    h = (1.0 - z) * h + z * n
    return (h, new_last, new_since), h


def cfc(cell: Any, params: Any, x: Array, h: Array, recurrent_mask: Any = None) -> Any:
    """Hasani et al. (2022), with the modes of ncps; x ends with the elapsed time."""
    h = evolved(cell, params, x, masked(h, recurrent_mask))
    return h, h


def mixed_cfc(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Lechner & Hasani (2020): an LSTM, and a cell of continuous time that reads its output."""
    w_ih, w_hh, b = take(params, "lstm_w_ih", "lstm_w_hh", "lstm_b")
    of_lstm = types.SimpleNamespace(w_ih=w_ih, w_hh=w_hh, b=b)
    (h, c), _ = lstm(None, of_lstm, x[:-1], state, recurrent_mask)
    h = evolved(cell, params, x, h)
    return (h, c), h


def evolved(cell: Any, params: Any, x: Array, h: Array) -> Array:
    """The state of a CfC after the time x[-1], whose network reads x[:-1] and h."""
    *_, elapsed = x
    w_ih, w_hh, b, w_tau, a = take(params, "w_ih", "w_hh", "b", "w_tau", "a")
    w_hidden, b_hidden, w_out, b_out = take(params, "w_hidden", "b_hidden", "w_out", "b_out")
    value = x[:-1] @ w_ih + h @ w_hh + b
    for layer in range(cell.backbone_layers - 1):
        bias = b_hidden if params.b_hidden is None else b_hidden[layer]
        value = backbone(cell.activation, value) @ w_hidden[layer] + bias
    if cell.backbone_layers:
        value = backbone(cell.activation, value) @ w_out + b_out
    if cell.mode == "pure":
        return -a * np.exp(-elapsed * (abs(w_tau) + abs(value))) * value + a
    f, g, t_a, t_b = np.split(value, 4)
    tau = sigmoid(t_a * elapsed + t_b)
    if cell.mode == "no_gate":
        return np.tanh(f) + tau * np.tanh(g)
    return np.tanh(f) * (1.0 - tau) + tau * np.tanh(g)


def backbone(activation: str, z: Array) -> Array:
    """The non-linearity between the layers of a CfC's network."""
    if activation == "lecun_tanh":
        return 1.7159 * np.tanh(0.666 * z)
    if activation == "silu":
        return z * sigmoid(z)
    if activation == "gelu":
        return z * np.array([0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in z])
    return np.maximum(z, 0.0) if activation == "relu" else np.tanh(z)


def decay(cell: Any, params: Any, x: Array, state: State, recurrent_mask: Any = None) -> Any:
    """Exponential decay of all arrays of the state, then a step of the cell inside, if any."""
    *values, elapsed = x
    rates = [np.asarray(rate, np.float64) for rate in leaves(params.rates)]
    state = like(
        state,
        [
            np.exp(-np.maximum(0.0, rate) * elapsed) * leaf
            for rate, leaf in zip(rates, leaves(state), strict=True)
        ],
    )
    if np.isnan(values).all():
        return state, leaves(state)[0]
    step = REFERENCES[type(cell.cell).__name__.lower()]
    return step(cell.cell, params.cell, np.array(values), state, recurrent_mask)


REFERENCES: dict[str, Step] = {
    "elman": elman,
    "elman_readout": elman_readout,
    "lstm": lstm,
    "peephole_lstm": peephole_lstm,
    "coupled_lstm": coupled_lstm,
    "projected_lstm": projected_lstm,
    "layer_norm_lstm": layer_norm_lstm,
    "slstm": slstm,
    "gru": gru,
    "cho_gru": cho_gru,
    "mgu": mgu,
    "gru_d": gru_d,
    "cfc": cfc,
    "mixed_cfc": mixed_cfc,
    "decay": decay,
    "indrnn": indrnn,
    "lru": lru,
    "rg_lru": rg_lru,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "s5": s5,
    "sru": sru,
    "conv_lstm_1d": conv_lstm,
    "conv_lstm_2d": conv_lstm,
}


# Convolution.


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """3 -> (3, 3) for two axes; a sequence as it is."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def output_size(n: int, k: int, stride: int, padding: str) -> tuple[int, int]:
    """Size of a convolution's output and the padding before its input, by XLA's rule."""
    if padding.upper() == "VALID":
        return max(0, (n - k) // stride + 1), 0
    if padding.upper() != "SAME":
        raise ValueError(f"padding: expected SAME or VALID, got {padding!r}")
    size = math.ceil(n / stride)
    return size, max((size - 1) * stride + k - n, 0) // 2


def correlate(x: Array, kernel: Array, stride: int | Sequence[int], padding: str) -> Array:
    """y[p] = sum over taps t of x[p * stride - before + t] @ kernel[t], zero outside x.

    Args:
      x: float [*S, C_in].
      kernel: float [*K, C_in, C_out].
      stride: one for all axes, or one for each.
      padding: "SAME" (XLA's rule) or "VALID".
    """
    extent, taps = x.shape[:-1], kernel.shape[:-2]
    strides = per_axis(stride, len(extent))
    sizes = [output_size(*axis, padding) for axis in zip(extent, taps, strides, strict=True)]
    before = [lo for _, lo in sizes]
    y = np.zeros((*(size for size, _ in sizes), kernel.shape[-1]))
    for position in np.ndindex(y.shape[:-1]):
        for tap in np.ndindex(taps):
            at = tuple(
                p * s - lo + t for p, s, lo, t in zip(position, strides, before, tap, strict=True)
            )
            if all(0 <= a < n for a, n in zip(at, extent, strict=True)):
                y[position] += x[at] @ kernel[tap]
    return y


# Unrolling.


def zero_state(name: str, cell: Any, params: Any, batch_shape: Sequence[int] = ()) -> State:
    """The zero state of the cell called `name`, with leading batch dimensions."""
    batch, hidden = tuple(batch_shape), cell.hidden_size
    if name.startswith("conv_lstm"):
        rank = len(cell.spatial_shape)
        axes = zip(
            cell.spatial_shape,
            per_axis(cell.kernel_size, rank),
            per_axis(cell.stride, rank),
            strict=True,
        )
        extent = tuple(output_size(*axis, cell.padding)[0] for axis in axes)
        return np.zeros((*batch, *extent, hidden)), np.zeros((*batch, *extent, hidden))
    if name == "projected_lstm":
        return np.zeros((*batch, np.shape(params.w_hr)[1])), np.zeros((*batch, hidden))
    if name == "slstm":
        return tuple(np.zeros((*batch, hidden)) for _ in "hcnm")
    if name == "gru_d":
        return tuple(np.zeros((*batch, size)) for size in (hidden, *[cell.input_size] * 2))
    if name == "mixed_cfc" or (name.endswith("lstm") and name != "min_lstm"):
        return np.zeros((*batch, hidden)), np.zeros((*batch, hidden))
    kind = np.complex128 if name in ("lru", "s5") else np.float64
    return np.zeros((*batch, hidden), kind)


def output(
    name: str | Step, cell: Any, params: Any, state: State, x: Any = None, seen: Any = None
) -> Array:
    """The output that belongs to a state, an input, and what recurrent products saw before.

    It is the state's first leaf, unless the cell has a read-out. With `head_norm` an slstm
    normalises h within each head.
    """
    h: Array = leaves(state)[0]
    if name in ("lru", lru):
        c_re, c_im, d = take(params, "c_re", "c_im", "d")
        h = (h @ (c_re + 1j * c_im)).real + (x @ d if d.ndim == 2 else d * x)
    if name in ("elman_readout", elman_readout):
        w_hy, b_y = take(params, "w_hy", "b_y")
        h = h @ w_hy + b_y
    if name in ("slstm", slstm) and cell.head_norm:
        (gain_h,) = take(params, "gain_h")
        h = gain_h * np.concatenate(
            [layer_norm(part, 1e-5) for part in np.split(h, cell.num_heads)]
        )
    if name in ("s5", s5):
        c_re, c_im, d = take(params, "c_re", "c_im", "d")
        y = (h @ (c_re + 1j * c_im)).real
        h = (2.0 * y if cell.conj_pairs else y) + (x @ d if d.ndim == 2 else d * x)
    if name in ("sru", sru):
        w_ih, v, b = take(params, "w_ih", "v", "b")
        size = cell.hidden_size
        alpha = math.sqrt(1.0 + 2.0 * math.exp(cell.highway_bias)) if cell.rescale else 1.0
        v_r, b_r = ((part + np.zeros(2 * size))[size:] for part in (v, b))
        r = sigmoid(x @ w_ih[:, 2 * size : 3 * size] + v_r * seen + b_r)
        skip = x if len(x) == size else x @ w_ih[:, 3 * size :]
        h = r * h + (1.0 - r) * alpha * skip
    return h


def unroll(
    name_or_step: str | Step,
    cell: Any,
    params: Any,
    xs: ArrayLike,
    *,
    initial_state: State,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    reset_state: State | None = None,
    reverse: bool = False,
    recurrent_mask: ArrayLike | None = None,
    zoneout: Any = None,
) -> tuple[Array, State]:
    """Run a cell over sequences, each one alone, skipping masked steps altogether.

    Recurrent dropout by Gal & Ghahramani (2016): one mask for all steps. Zoneout by Krueger et al.
    (2017): s_t = hold * s_{t-1} + (1 - hold) * s~_t, and the output is that of s_t.

    Args:
      name_or_step: a key of `REFERENCES`, or a step function whose output is its state's first
        leaf.
      cell: its configuration.
      params: its weights.
      xs: float [..., T, *event]; event is [I], or [X, C] or [X, Y, C] for a cell with a
        `spatial_shape`.
      initial_state: leaves [..., *event of state], or without the batch dimensions.
      lengths: int [...].
      mask: bool [..., T], True = real; instead of `lengths`.
      resets: bool [..., T]; before step t, in processing order, the state becomes `reset_state`
        (zeros), be the step masked or not.
      reset_state: as `initial_state`.
      reverse: process t = T-1 ... 0; outputs stay in the order of `xs`.
      recurrent_mask: float, broadcast to the shape of h.
      zoneout: like the state; leaves None, a float, or float [..., T, *event of state].

    Returns:
      Outputs [..., T, *event of output], zero at masked steps, and the last state in processing
      order, with all batch dimensions.
    """
    step = REFERENCES[name_or_step] if isinstance(name_or_step, str) else name_or_step
    xs = np.asarray(xs, np.float64)
    rank = event_rank(cell)
    batch, steps = xs.shape[: -rank - 1], xs.shape[-rank - 1]
    real = real_steps(lengths, mask, batch, steps)
    starts = flags("resets", resets, (*batch, steps), default=False)
    if reverse and getattr(cell, "reads_elapsed", False):
        xs = turned_times(xs, real, starts)

    first = batched(initial_state, batch, rank)
    after_reset = like(first, [np.zeros_like(leaf) for leaf in leaves(first)])
    if reset_state is not None:
        after_reset = batched(reset_state, batch, rank)
    shapes = [leaf.shape[len(batch) :] for leaf in leaves(first)]
    hold = zoneout_leaves(zoneout, batch, steps, shapes)
    if recurrent_mask is not None:
        recurrent_mask = np.broadcast_to(np.asarray(recurrent_mask, np.float64), batch + shapes[0])

    blank, nothing = like(first, [np.zeros(shape) for shape in shapes]), np.zeros(xs.shape[-rank:])
    blank_output = output(name_or_step, cell, params, blank, nothing, leaves(blank)[0])
    outputs = np.zeros((*batch, steps, *blank_output.shape))
    last = like(first, [leaf.copy() for leaf in leaves(first)])
    for n in np.ndindex(batch):
        options = {} if recurrent_mask is None else {"recurrent_mask": recurrent_mask[n]}
        state = like(first, [leaf[n] for leaf in leaves(first)])
        for t in reversed(range(steps)) if reverse else range(steps):
            if starts[n][t]:
                state = like(first, [leaf[n] for leaf in leaves(after_reset)])
            if not real[n][t]:
                continue
            new, y = step(cell, params, xs[n][t], state, **options)
            if zoneout is not None:
                new = like(
                    first,
                    [
                        s_new if part is None else part[n][t] * s + (1.0 - part[n][t]) * s_new
                        for part, s, s_new in zip(hold, leaves(state), leaves(new), strict=True)
                    ],
                )
                seen = masked(leaves(state)[0], options.get("recurrent_mask"))
                y = output(name_or_step, cell, params, new, xs[n][t], seen)
            state = new
            outputs[n][t] = y
        for leaf, value in zip(leaves(last), leaves(state), strict=True):
            leaf[n] = value
    return outputs, last


def turned_times(xs: Array, real: Any, starts: Any) -> Array:
    """The inputs of a reverse run: each step ends with the time to the real step run before it."""
    turned = xs.copy()
    for n in np.ndindex(xs.shape[:-2]):
        before = None
        for t in reversed(range(xs.shape[-2])):
            if starts[n][t]:
                before = None
            if real[n][t]:
                turned[n][t][-1] = 0.0 if before is None else xs[n][before][-1]
                before = t
    return turned


def event_rank(cell: Any) -> int:
    """Number of axes of one step of one example: 1, or the spatial axes and the channels."""
    return len(getattr(cell, "spatial_shape", ())) + 1


def leaves(state: State) -> list[Any]:
    """[h] or [h, c]."""
    return list(state) if isinstance(state, tuple) else [state]


def like(state: State, values: list[Any]) -> State:
    """`values` in the structure of `state`, pairs as plain tuples."""
    return tuple(values) if isinstance(state, tuple) else values[0]


def batched(state: State, batch: tuple[int, ...], rank: int) -> State:
    """The state in double precision with all batch dimensions."""
    arrays = [wide(leaf) for leaf in leaves(state)]
    for leaf in arrays:
        if leaf.ndim != rank and leaf.shape[:-rank] != batch:
            raise ValueError(f"state: expected batch shape {batch} or none, got {leaf.shape}")
    return like(state, [np.broadcast_to(leaf, batch + leaf.shape[-rank:]) for leaf in arrays])


def flags(name: str, value: ArrayLike | None, shape: tuple[int, ...], *, default: bool) -> Any:
    """A bool array of exactly this shape, or all `default` for None."""
    if value is None:
        return np.full(shape, default)
    array = np.asarray(value)
    if array.shape != shape or array.dtype != np.bool_:
        raise ValueError(f"{name}: expected bool {shape}, got {array.dtype} {array.shape}")
    return array


def real_steps(
    lengths: ArrayLike | None, mask: ArrayLike | None, batch: tuple[int, ...], steps: int
) -> Any:
    """Mask [..., T] of bool, True where a step is real."""
    if lengths is None:
        return flags("mask", mask, (*batch, steps), default=True)
    if mask is not None:
        raise ValueError("lengths, mask: expected one of them, got both")
    counts = np.asarray(lengths)
    if counts.shape != batch:
        raise ValueError(f"lengths: expected shape {batch}, got {counts.shape}")
    real = np.zeros((*batch, steps), np.bool_)
    for n in np.ndindex(batch):
        if not 0 <= counts[n] <= steps:
            raise ValueError(f"lengths: expected 0 to {steps}, got {counts[n]}")
        real[n][: int(counts[n])] = True
    return real


def zoneout_leaves(
    zoneout: Any, batch: tuple[int, ...], steps: int, shapes: list[tuple[int, ...]]
) -> list[Array | None]:
    """The fraction held of each state leaf, at every sequence, step and unit; None for none."""
    parts = [None] * len(shapes) if zoneout is None else leaves(zoneout)
    if len(parts) != len(shapes):
        raise ValueError(f"zoneout: expected {len(shapes)} leaves, got {len(parts)}")
    return [
        None
        if part is None
        else np.broadcast_to(np.asarray(part, np.float64), (*batch, steps, *shape))
        for part, shape in zip(parts, shapes, strict=True)
    ]


# Stacks and directions.


def layers(
    name: str,
    cells_and_params: Sequence[Sequence[tuple[Any, Any]]],
    xs: ArrayLike,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    resets: ArrayLike | None = None,
    bidirectional: bool = False,
    merge_mode: str = "concat",
    initial_state: Sequence[Any] | None = None,
    reset_state: Sequence[Any] | None = None,
    residual: bool = False,
) -> tuple[Any, tuple[Any, ...]]:
    """A stack of one kind of cell, in one or two directions (Schuster & Paliwal, 1997).

    A backward pass enters a segment at its last step, so it resets before step t where
    resets[t + 1]: packed rows equal separate ones.

    Args:
      name: key of `REFERENCES`.
      cells_and_params: for each layer [(cell, params)], or [forward, backward] such pairs.
      xs: float [..., T, *event].
      lengths: int [...].
      mask: bool [..., T], True = real; instead of `lengths`.
      resets: bool [..., T], True at the first steps of segments.
      bidirectional: run each layer in both directions.
      merge_mode: "concat", "sum", "mean", "mul", or "none": concat between layers, and the last
        layer's result as (forward, backward).
      initial_state: for each layer the cell's state, or (forward, backward) states; zeros for None.
      reset_state: as `initial_state`.
      residual: add a layer's input to its merged output where their widths match (for "none" that
        is the concatenation, split afterwards).

    Returns:
      Outputs, and a tuple with each layer's last state, or (forward, backward) states.
    """
    directions = 2 if bidirectional else 1
    inputs = np.asarray(xs, np.float64)
    rank = event_rank(cells_and_params[0][0][0])
    batch, steps = inputs.shape[: -rank - 1], inputs.shape[-rank - 1]
    real = real_steps(lengths, mask, batch, steps)
    starts = flags("resets", resets, (*batch, steps), default=False)
    ends = np.concatenate([starts[..., 1:], np.zeros_like(starts[..., :1])], axis=-1)

    def given(states: Sequence[Any] | None, layer: int, direction: int) -> State | None:
        if states is None or states[layer] is None:
            return None
        return states[layer][direction] if bidirectional else states[layer]

    result: Any = inputs
    last = []
    times = inputs[..., -1:] if getattr(cells_and_params[0][0][0], "reads_elapsed", False) else None
    for layer, pairs in enumerate(cells_and_params):
        if len(pairs) != directions:
            raise ValueError(f"cells_and_params: expected {directions} a layer, got {len(pairs)}")
        ran = []
        for direction, (cell, params) in enumerate(pairs):
            first = given(initial_state, layer, direction)
            ran.append(
                unroll(
                    name,
                    cell,
                    params,
                    inputs,
                    initial_state=zero_state(name, cell, params) if first is None else first,
                    mask=real,
                    resets=ends if direction else starts,
                    reset_state=given(reset_state, layer, direction),
                    reverse=direction == 1,
                )
            )
        merged = merge([outputs for outputs, _ in ran], merge_mode)
        if times is not None:
            inputs = inputs[..., :-1]
        if residual and merged.shape == inputs.shape:
            for n in np.ndindex(*batch, steps):
                if real[n]:
                    merged[n] += inputs[n]
        last.append(tuple(state for _, state in ran) if bidirectional else ran[0][1])
        inputs = result = merged
        if times is not None:
            inputs = np.concatenate([merged, times], axis=-1)
    if bidirectional and merge_mode == "none":
        result = tuple(np.split(result, 2, axis=-1))
    return result, tuple(last)


def merge(outputs: list[Array], merge_mode: str) -> Array:
    """One array from the directions of a layer; "none" concatenates here."""
    if len(outputs) == 1:
        return outputs[0]
    forward, backward = outputs
    if merge_mode in ("concat", "none"):
        return np.concatenate([forward, backward], axis=-1)
    if merge_mode == "sum":
        return forward + backward
    if merge_mode == "mean":
        return (forward + backward) / 2.0
    if merge_mode == "mul":
        return forward * backward
    raise ValueError(f"merge_mode: no reference for {merge_mode!r}")


# Losses: means over real tokens, 0 where there is none.


def cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    mask: ArrayLike | None = None,
    label_smoothing: float = 0.0,
) -> float:
    """-sum_k q_k log softmax(logits)_k, q = (1 - s) onehot + s / C (Szegedy et al., 2016, eq. 2).

    Args:
      logits: float [..., C].
      labels: int [...].
      mask: bool [...], True = real.
      label_smoothing: s.
    """
    scores, classes = np.asarray(logits, np.float64), np.asarray(labels)
    real = flags("mask", mask, classes.shape, default=True)
    total, count = 0.0, 0
    for n in np.ndindex(classes.shape):
        if not real[n]:
            continue
        width = scores.shape[-1]
        if not 0 <= classes[n] < width:
            raise ValueError(f"labels: expected 0 to {width - 1} at real tokens, got {classes[n]}")
        log_p = scores[n] - np.logaddexp.reduce(scores[n])
        for k in range(width):
            q = (1.0 - label_smoothing) * (k == classes[n]) + label_smoothing / width
            if q > 0.0:  # an impossible class of no weight costs nothing, and 0 * inf is NaN
                total -= q * log_p[k]
        count += 1
    return float(total / count) if count else 0.0


def binary_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """-y log sigmoid(l) - (1 - y) log sigmoid(-l), averaged over the axes `mask` lacks."""

    def loss(logit: float, label: float) -> float:
        total = 0.0
        for q, z in ((label, logit), (1.0 - label, -logit)):
            if q != 0.0:  # 0 * inf is NaN
                total -= q * float(log_sigmoid(np.asarray(z)))
        return total

    return elementwise_mean(loss, logits, labels, mask)


def mean_squared_error(
    predictions: ArrayLike, targets: ArrayLike, mask: ArrayLike | None = None
) -> float:
    """(prediction - target)^2, averaged over the axes `mask` lacks."""
    return elementwise_mean(lambda p, t: (p - t) ** 2, predictions, targets, mask)


def elementwise_mean(
    loss: Callable[[float, float], float],
    predictions: ArrayLike,
    targets: ArrayLike,
    mask: ArrayLike | None,
) -> float:
    """Mean over real tokens of the mean of `loss` over a token's elements.

    The mask's shape is a leading part of the predictions' shape: its axes are the tokens.
    """
    p, t = np.asarray(predictions, np.float64), np.asarray(targets, np.float64)
    if p.shape != t.shape:
        raise ValueError(f"targets: expected shape {p.shape}, got {t.shape}")
    tokens = p.shape[: p.ndim if mask is None else np.ndim(mask)]
    real = flags("mask", mask, tokens, default=True)
    total, count = 0.0, 0
    for n in np.ndindex(tokens):
        if real[n]:
            pairs = zip(np.ravel(p[n]), np.ravel(t[n]), strict=True)
            terms = [loss(float(a), float(b)) for a, b in pairs]
            total += sum(terms) / len(terms)
            count += 1
    return float(total / count) if count else 0.0


def accuracy(logits: ArrayLike, labels: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Share of real tokens whose largest logit (the first, in a tie) is the label's."""
    scores, classes = np.asarray(logits, np.float64), np.asarray(labels)
    real = flags("mask", mask, classes.shape, default=True)
    total, count = 0, 0
    for n in np.ndindex(classes.shape):
        if real[n]:
            total += int(np.argmax(scores[n]) == classes[n])
            count += 1
    return total / count if count else 0.0
