"""Transducers by their definition: all paths enumerated and summed in float64."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.transducer import transducer_beam_search, transducer_greedy, transducer_loss


def one_program(*static):
    """Decorate a function with `jax.jit`; it returns NumPy arrays, whose slices compile nothing."""

    def decorate(function):
        run = jax.jit(function, static_argnames=static)

        @functools.wraps(function)
        def call(*args, **options):
            found = run(*args, **options)
            return found if checks.is_traced(found) else jax.device_get(found)

        return call

    return decorate


@one_program("blank", "zero_infinity")
def LOSS(logits, labels, lengths, label_lengths, blank=0, zero_infinity=False):
    return transducer_loss(
        logits, labels, lengths=lengths, label_lengths=label_lengths, blank=blank,
        zero_infinity=zero_infinity, per_sequence=True,
    )  # fmt: skip


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def probability(logits, labels, blank=0):
    """The probability of labels, from the logits [T, N + 1, V] of one sequence, by all paths."""
    steps, number = len(logits), len(labels)
    if steps == 0:
        return float(number == 0)
    p, total = np.exp(log_softmax(logits)), 0.0
    # The last move is a blank; the other T - 1 blanks and the labels come in any order.
    for places in itertools.combinations(range(steps - 1 + number), number):
        t, u, product = 0, 0, 1.0
        for move in range(steps + number):
            if move in places:
                product *= p[t, u, labels[u]]
                u += 1
            else:
                product *= p[t, u, blank]
                t += 1
        total += product
    return total


def forward(logits, labels, blank=0):
    """-log p of labels, by the forward variable of each node in float64."""
    log_p, width = log_softmax(logits), len(labels) + 1
    alpha = np.full(width, -np.inf)
    alpha[0] = 0.0
    for row in log_p:
        for u in range(1, width):
            alpha[u] = np.logaddexp(alpha[u], alpha[u - 1] + row[u - 1, labels[u - 1]])
        alpha = alpha + row[:, blank]
    return -alpha[-1]


E, P, V = 4, 3, 3


class Networks:
    """A small prediction network and joint network, in JAX and in NumPy."""

    def __init__(self, seed, scale=2.0):
        rng = np.random.default_rng(seed)
        self.inner, self.table, self.bias = (rng.normal(size=s) for s in ((P, P), (V, P), (P,)))
        self.of_frame, self.readout = rng.normal(size=(E, P)), scale * rng.normal(size=(P, V))
        self.shift = rng.normal(size=V)

    def arrays(self):
        return jax.tree.map(lambda a: jnp.asarray(np.float32(a)), vars(self))

    def step(self, label, state):
        """One step for one sequence, in float64."""
        return np.tanh(state @ self.inner + self.table[label] + self.bias)

    def log_probs(self, frame, state):
        return log_softmax(np.tanh(frame @ self.of_frame + state) @ self.readout + self.shift)


def functions(arrays):
    def predict(labels, state):
        new = jnp.tanh(state @ arrays["inner"] + arrays["table"][labels] + arrays["bias"])
        return new, new

    def joint(frames, predicted):
        hidden = jnp.tanh(frames @ arrays["of_frame"] + predicted)
        return hidden @ arrays["readout"] + arrays["shift"]

    return joint, predict


@one_program("blank", "max_symbols")
def GREEDY(arrays, frames, lengths=None, mask=None, blank=0, max_symbols=2):
    state = jnp.zeros((frames.shape[0], P))
    options = {"lengths": lengths, "mask": mask, "blank": blank, "max_symbols": max_symbols}
    joint, predict = functions(arrays)
    return transducer_greedy(joint, predict, frames, state, **options)


@one_program("beam_width", "n_best", "blank", "max_symbols")
def SEARCH(arrays, frames, lengths=None, mask=None, beam_width=4, n_best=1, blank=0, max_symbols=2):
    state = jnp.zeros((frames.shape[0], P))
    options = {"lengths": lengths, "mask": mask, "blank": blank, "max_symbols": max_symbols}
    joint, predict = functions(arrays)
    return transducer_beam_search(
        joint, predict, frames, state, beam_width=beam_width, n_best=n_best, **options
    )


def greedy_loop(networks, frames, blank, most):
    labels, log_p, state = [], 0.0, networks.step(blank, np.zeros(P))
    for frame in frames:
        for s in range(most + 1):
            scores = networks.log_probs(frame, state)
            best = blank if s == most else int(scores.argmax())
            log_p += scores[best]
            if best == blank:
                break
            labels.append(best)
            state = networks.step(best, state)
    return labels, log_p


def every_labelling(networks, frames, blank, most):
    """The probability of all labels, by all paths with at most `most` labels at a frame."""
    found: dict[tuple[int, ...], float] = {}

    def walk(t, s, labels, state, p):
        if t == len(frames):
            found[labels] = found.get(labels, 0.0) + p
            return
        probs = np.exp(networks.log_probs(frames[t], state))
        walk(t + 1, 0, labels, state, p * probs[blank])
        for label in set(range(V)) - {blank} if s < most else ():
            walk(t, s + 1, (*labels, label), networks.step(label, state), p * probs[label])

    walk(0, 0, (), networks.step(blank, np.zeros(P)), 1.0)
    return found


def search_loop(networks, frames, blank, most, width):
    """The beam search over a dictionary of prefixes; return it, most probable first."""

    def top(scores):
        return dict(sorted(scores.items(), key=lambda item: -item[1])[:width])

    states: dict[tuple[int, ...], np.ndarray] = {(): networks.step(blank, np.zeros(P))}
    beam: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in frames:
        live = beam
        ended: dict[tuple[int, ...], float] = {}
        for s in range(most + 1):
            grown = {}
            for prefix, log_p in live.items():
                scores = networks.log_probs(frame, states[prefix])
                old = ended.get(prefix, -math.inf)
                ended[prefix] = float(np.logaddexp(old, log_p + scores[blank]))
                for label in set(range(V)) - {blank}:
                    longer = (*prefix, label)
                    grown[longer] = log_p + scores[label]
                    states[longer] = networks.step(label, states[prefix])
            ended, live = top(ended), top(grown)
            is_full = len(ended) == width
            if s == most or (is_full and max(live.values()) <= min(ended.values())):
                break
        beam = ended
    return beam
