"""The step of an attention decoder: a GRU that reads a context, with and without input feeding.

    e_s = v · tanh(W q + k_s)      a = softmax(e)      c_t = Σ_s a_s m_s, with q = y_{t-1}
    y_t = GRU([x_t; c_t; ỹ_{t-1}])      ỹ_t = tanh([y_t; c_t] W_c + b_c)

Bahdanau, Cho, Bengio (2015), Neural machine translation by jointly learning to align and translate.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax.seq2seq import DecoderState, Encoded
from tests.seq2seq.helpers import translator

BATCH, POSITIONS, EMBED, UNITS = 2, 3, 3, 4


@functools.cache
def writer(feeding):
    """A writer and parameters with random biases, for a memory with padding."""
    model = translator(
        target_vocabulary=7,
        embed_size=EMBED,
        hidden_size=UNITS,
        decoder_size=UNITS,
        cell="gru",
        input_feeding=feeding,
    )
    rng = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), jnp.float32)  # noqa: E731
    nnx.update(model, jax.tree.map(draw, nnx.state(model, nnx.Param)))
    memory = draw(np.zeros((BATCH, POSITIONS, 2 * UNITS)))
    encoded = Encoded(memory, jnp.array([[True] * 3, [True, True, False]]), None)
    cells = tuple(cell.initial_state((BATCH,)) for cell in model.decoder.cells)
    decoder = model.decoder
    prepared = decoder.precompute(encoded)
    return decoder._writer(decoder.initial_state(encoded, cells, prepared), prepared)


def twin(cell, params, x, state, row=0):
    """One step of one row of the batch in NumPy."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    attention, (layer,) = params.mechanism, params.layers
    keys, values, real = (np.asarray(a)[row] for a in params.memory)
    scores = np.tanh(state.output @ attention.w_q + keys) @ attention.v
    powers = np.where(real, np.exp(scores - scores[real].max()), 0)
    weights = powers / powers.sum()
    context = weights @ values
    fed = [] if state.feed is None else [state.feed]
    (h,) = state.cells
    p = np.concatenate([x, context, *fed]) @ layer.w_ih + layer.b
    q = h @ layer.w_hh
    size = UNITS
    r, z = sigmoid(p[:size] + q[:size]), sigmoid(p[size : 2 * size] + q[size : 2 * size])
    n = np.tanh(p[2 * size :] + r * (q[2 * size :] + layer.b_hn))
    h = (1 - z) * n + z * h
    feed = None
    if params.combine is not None:
        w, b = params.combine
        feed = np.tanh(np.concatenate([h, context]) @ w + b)
    return DecoderState((h,), h, context, feed, (), weights), (h, context, weights, feed)
