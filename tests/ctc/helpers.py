"""CTC by its definition: all paths enumerated, merged and summed in float64."""

import functools
import itertools
import math

import jax
import numpy as np

from seqjax.ctc import ctc_beam_search, ctc_greedy, ctc_loss

B, T, V = 3, 5, 3


@functools.partial(jax.jit, static_argnums=4)
def LOSS(logits, lengths, labels, label_lengths, blank):
    return ctc_loss(
        logits, labels, lengths=lengths, label_lengths=label_lengths, blank=blank, per_sequence=True
    )


@functools.partial(jax.jit, static_argnums=2)
def GREEDY(logits, lengths, blank):
    return ctc_greedy(logits, lengths=lengths, blank=blank)


@functools.partial(jax.jit, static_argnums=(2, 3), static_argnames="n_best")
def SEARCH(logits, lengths, beam_width, blank, n_best=1):
    return ctc_beam_search(
        logits, lengths=lengths, beam_width=beam_width, n_best=n_best, blank=blank
    )


def labels_of(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))


def every_labelling(logits, length, blank):
    """The probability of all labels, by all paths."""
    found: dict[tuple[int, ...], float] = {}
    p = np.exp(log_softmax(logits))
    for path in itertools.product(range(p.shape[1]), repeat=length):
        name = labels_of(path, blank)
        found[name] = found.get(name, 0.0) + math.prod(p[t, v] for t, v in enumerate(path))
    return found


def draw(seed, *, scale=2.0, batch=B):
    rng = np.random.default_rng(seed)
    return rng, (rng.normal(size=(batch, T, V)) * scale).astype(np.float32)
