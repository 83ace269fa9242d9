"""Attention in NumPy float64 and plain loops, from the papers' equations.

One sentence, one step and one position at a time; masked positions are not computed at all.
Independent of seqjax and of JAX.

Names: `q [Q]` the query, `m [S, M]` the memory, `real` the real positions in order, `state` what
is carried, `attention` any object with the options, `params` any object with the weights.
A twin is `(attention, params, q, m, real, state, noise) -> (context, weights [S], state)`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Twin = Callable[..., tuple[Array, Array, Any]]


def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)), at both ends."""
    return math.exp(-np.logaddexp(0.0, -z))


def take(params: Any, *names: str) -> list[Array]:
    """The named weights in float64."""
    return [np.asarray(getattr(params, name), np.float64) for name in names]


def softmax(scores: dict[int, float]) -> dict[int, float]:
    """The softmax of scores by position."""
    highest = max(scores.values(), default=0.0)
    powers = {s: math.exp(e - highest) for s, e in scores.items()}
    return {s: power / sum(powers.values()) for s, power in powers.items()}


def spread(weights: dict[int, float], m: Array) -> tuple[Array, Array]:
    """The context and the weights as an array."""
    a, c = np.zeros(len(m)), np.zeros(m.shape[1])
    for s, weight in weights.items():
        a[s] = weight
        c = c + weight * m[s]
    return c, a


def soft(attention: Any, score: Callable[[int], Any], m: Array, real: list[int]) -> Any:
    """Context and weights from a function of the position."""
    return spread(softmax({s: score(s) / attention.temperature for s in real}), m)


def additive(attention, params, q, m, real, state, noise=None):
    """Bahdanau et al. (2015), A.1.2."""
    w_q, w_m, b, v = take(params, "w_q", "w_m", "b", "v")
    c, a = soft(attention, lambda s: v @ np.tanh(q @ w_q + m[s] @ w_m + b), m, real)
    return c, a, state


def normed_additive(attention, params, q, m, real, state, noise=None):
    """Salimans & Kingma (2016): v has length g."""
    w_q, w_m, b, v, g = take(params, "w_q", "w_m", "b", "v", "g")
    v = g * v / np.linalg.norm(v)
    c, a = soft(attention, lambda s: v @ np.tanh(q @ w_q + m[s] @ w_m + b), m, real)
    return c, a, state


def dot(attention, params, q, m, real, state, noise=None):
    """Luong et al. (2015), dot."""
    c, a = soft(attention, lambda s: sum(q[i] * m[s][i] for i in range(len(q))), m, real)
    return c, a, state


def scaled_dot(attention, params, q, m, real, state, noise=None):
    """Vaswani et al. (2017), eq. 1."""
    c, a = soft(attention, lambda s: q @ m[s] / math.sqrt(len(q)), m, real)
    return c, a, state


def general(attention, params, q, m, real, state, noise=None):
    """Luong et al. (2015), general."""
    (w,) = take(params, "w")
    c, a = soft(attention, lambda s: q @ w @ m[s], m, real)
    return c, a, state


def concat(attention, params, q, m, real, state, noise=None):
    """Luong et al. (2015), concat."""
    w, v = take(params, "w", "v")
    c, a = soft(attention, lambda s: v @ np.tanh(np.concatenate([q, m[s]]) @ w), m, real)
    return c, a, state


def local_p(attention, params, q, m, real, state, noise=None):
    """Luong et al. (2015), eq. 9-10, the n-th real position counted as n."""
    w, w_p, v_p = take(params, "w", "w_p", "v_p")
    p = len(real) * sigmoid(v_p @ np.tanh(q @ w_p))
    near = {n: s for n, s in enumerate(real) if p - attention.window <= n <= p + attention.window}
    align = softmax({n: q @ w @ m[s] / attention.temperature for n, s in near.items()})
    sigma = attention.window / 2
    gaussian = {n: math.exp(-((n - p) ** 2) / (2 * sigma**2)) for n in near}
    c, a = spread({near[n]: align[n] * gaussian[n] for n in near}, m)
    return c, a, state


def location_aware(attention, params, q, m, real, state, noise=None):
    """Chorowski et al. (2015), eq. 8-9."""
    w_q, w_m, b, v, w_f, filters = take(params, "w_q", "w_m", "b", "v", "w_f", "filters")
    size = len(filters)

    def features(s):
        f = np.zeros(filters.shape[1])
        for k in range(size):
            neighbour = s + k - (size - 1) // 2
            if 0 <= neighbour < len(m):
                f = f + filters[k] * state[neighbour]
        return f

    c, a = soft(
        attention, lambda s: v @ np.tanh(q @ w_q + m[s] @ w_m + features(s) @ w_f + b), m, real
    )
    return c, a, a


def stops(attention, params, q, m, real, state, noise=None):
    """Raffel et al. (2017): a by the double sum of section 2.3, or by algorithm 1."""
    w_q, w_m, b, v, g, r = take(params, "w_q", "w_m", "b", "v", "g", "r")
    p = {}
    for s in real:
        energy = g * (v / np.linalg.norm(v)) @ np.tanh(q @ w_q + m[s] @ w_m + b) + r
        p[s] = sigmoid(energy / attention.temperature + (0.0 if noise is None else noise[s]))
    a = np.zeros(len(m))
    if attention.mode == "hard":
        starts = np.flatnonzero(state)
        for s in real if len(starts) else []:
            if s >= starts[0] and p[s] > 0.5:
                a[s] = 1.0
                break
    else:
        for s in real:
            for start in [k for k in real if k <= s]:
                passed = math.prod(1.0 - p[k] for k in real if start <= k < s)
                a[s] += p[s] * state[start] * passed
    return a


def monotonic(attention, params, q, m, real, state, noise=None):
    """Raffel et al. (2017)."""
    a = stops(attention, params, q, m, real, state, noise)
    c, _ = spread(dict(enumerate(a)), m)
    return c, a, a


def mocha(attention, params, q, m, real, state, noise=None):
    """Chiu & Raffel (2018): a softmax over the chunk behind each stop."""
    a = stops(attention, params.monotonic, q, m, real, state, noise)
    w_q, w_m, b, v = take(params.chunk, "w_q", "w_m", "b", "v")
    weights = dict.fromkeys(range(len(m)), 0.0)
    for end in real:
        chunk = [s for s in real if end - attention.chunk_width < s <= end]
        energies = {s: v @ np.tanh(q @ w_q + m[s] @ w_m + b) / attention.temperature for s in chunk}
        for s, share in softmax(energies).items():
            weights[s] += a[end] * share
    c, shown = spread(weights, m)
    return c, shown, a


def coverage(attention, params, q, m, real, state, noise=None):
    """See et al. (2017), eq. 10-11."""
    w_q, w_m, b, v, w_c = take(params, "w_q", "w_m", "b", "v", "w_c")
    c, a = soft(
        attention, lambda s: v @ np.tanh(m[s] @ w_m + q @ w_q + w_c * state[s] + b), m, real
    )
    return c, a, state + a


def multi_head(attention, params, q, m, real, state, noise=None):
    """Vaswani et al. (2017), section 3.2.2; weights averaged over heads."""
    w_q, w_k, w_v, w_o = take(params, "w_q", "w_k", "w_v", "w_o")
    size = w_q.shape[1] // attention.heads
    contexts, shown = [], []
    for n in range(attention.heads):
        block = slice(n * size, (n + 1) * size)
        scores = {s: (q @ w_q[:, block]) @ (m[s] @ w_k[:, block]) / math.sqrt(size) for s in real}
        weights = softmax({s: e / attention.temperature for s, e in scores.items()})
        c, a = spread(weights, m @ w_v[:, block])
        contexts.append(c)
        shown.append(a)
    return np.concatenate(contexts) @ w_o, np.mean(shown, axis=0), state


TWINS: dict[str, Twin] = {
    "additive": additive,
    "normed_additive": normed_additive,
    "dot": dot,
    "scaled_dot": scaled_dot,
    "general": general,
    "concat": concat,
    "local_p": local_p,
    "location_aware": location_aware,
    "monotonic": monotonic,
    "mocha": mocha,
    "coverage": coverage,
    "multi_head": multi_head,
}
"""Every mechanism by its name in `seqjax.attention.ATTENTIONS`."""


def initial_state(name: str, m: Array, real: list[int]) -> Any:
    """What a sentence starts from."""
    state = np.zeros(len(m))
    if name in ("monotonic", "mocha"):
        state[real[:1]] = 1.0
    return state if name in ("monotonic", "mocha", "location_aware", "coverage") else ()


def attend_steps(
    name: str, attention: Any, params: Any, queries: Any, memory: Any, mask: Any, noise: Any = None
) -> tuple[Array, Array, Any]:
    """Several steps over a batch: queries `[T, B, Q]`, memory `[B, S, M]`, mask `[B, S]`.

    Returns contexts `[T, B, M]`, weights `[T, B, S]` and states `[T, B, S]` (or `()`).
    """
    rows: list[list[tuple[Array, Array, Any]]] = []
    for row, (m, keep) in enumerate(zip(np.asarray(memory, np.float64), mask, strict=True)):
        real = [int(s) for s in np.flatnonzero(keep)]
        m = np.where(keep[:, None], m, 0.0)
        state = initial_state(name, m, real)
        steps = []
        for t, q in enumerate(np.asarray(queries, np.float64)[:, row]):
            at = None if noise is None else np.asarray(noise, np.float64)[t, row]
            c, a, state = TWINS[name](attention, params, q, m, real, state, at)
            steps.append((c, a, state))
        rows.append(steps)
    contexts, weights, states = (
        np.stack([[step[part] for step in row] for row in rows], axis=1) for part in range(3)
    )
    return contexts, weights, states if states.size else ()
