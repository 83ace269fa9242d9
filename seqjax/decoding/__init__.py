"""Decoding: outputs from a model, one token at a time, over any step function.

A model takes part as

    step(tokens, state) -> (logits, state)

with the last tokens, int32 `[N]`, logits `[N, V]` (unnormalised; -inf rules a token out) and a
state of any pytree whose arrays have the leading axis N. A sentence has one row, or several
neighbouring ones: n = b K + k for its hypothesis k. Rows must not depend on each other, and then no
output depends on what else is in the batch.

A call is one `lax.while_loop`, which stops when every sentence is done. Wrap it in `jax.jit`, with
the parameters as arguments, so that it is compiled once:

    @jax.jit
    def translate(params, state):
        step = functools.partial(model_step, params)
        return beam_search(step, state, begin=1, end=2, max_length=50)

What a step returns as it came (an encoder's outputs, projected keys) may stand in the state at no
cost a step: `beam_search` sees that it is the same for all hypotheses and does not reorder it. (It
cannot see into a step that is itself wrapped in `jax.jit`, where this costs a copy a step.)
"""

from seqjax.decoding._beam import beam_search
from seqjax.decoding._ensembles import ensemble
from seqjax.decoding._greedy import greedy
from seqjax.decoding._results import Alignment, Decoded, Scored, Step
from seqjax.decoding._sampling import sample
from seqjax.decoding._scoring import score

__all__ = [
    "greedy",
    "sample",
    "beam_search",
    "score",
    "ensemble",
    "Step",
    "Alignment",
    "Decoded",
    "Scored",
]
