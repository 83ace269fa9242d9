"""Decoding algorithms, which generate outputs token by token with any step function.

A model is passed as a function of this form:

    step(tokens, state) -> (logits, state)

Here `tokens` are the previous tokens, int32 `[N]`, `logits` are the unnormalised log-probabilities
of the next tokens, `[N, V]`, and `state` is any pytree of arrays with the leading axis N. A logit
of -inf forbids a token. On the axis N, each sentence has one row, or K adjacent rows: row b K + k
belongs to hypothesis k of sentence b. The step must compute each row independently of the others,
so that an output does not depend on the rest of the batch.

The decoders normalise the logits of a plain function by log softmax. A step that returns scores,
which must not be normalised, has an attribute `gain_bound`, an upper bound of the score of one
token, and optionally a method `check_end`: see `Step`. `LogLinear`, `NGram`, `WordNGram` and
`Hotwords` have both. `jax.jit(step)` has the attributes of `step`, but a lambda that calls `step`
has not.

Each call of a decoder is one `lax.while_loop`, which stops when all sentences are done. To compile
the loop only once, wrap the call in `jax.jit`, with the parameters as arguments:

    @jax.jit
    def translate(params, state):
        step = functools.partial(model_step, params)
        return beam_search(step, state, begin=1, end=2, max_length=50)

The state may contain arrays that the step returns unchanged, such as encoder outputs or projected
keys. `beam_search` detects unchanged arrays, which are equal for all hypotheses of a sentence, and
does not reorder them. If the step itself is wrapped in `jax.jit`, `beam_search` cannot detect
unchanged arrays and copies them at each step.
"""

from seqjax.decoding._beam import beam_search
from seqjax.decoding._ensembles import ensemble
from seqjax.decoding._greedy import greedy
from seqjax.decoding._hotwords import Hotwords
from seqjax.decoding._log_linear import LogLinear
from seqjax.decoding._ngrams import NGram
from seqjax.decoding._results import Alignment, Decoded, Scored, Step
from seqjax.decoding._sampling import sample
from seqjax.decoding._scoring import score
from seqjax.decoding._word_ngrams import WordNGram

__all__ = [
    "greedy",
    "sample",
    "beam_search",
    "score",
    "ensemble",
    "LogLinear",
    "NGram",
    "WordNGram",
    "Hotwords",
    "Step",
    "Alignment",
    "Decoded",
    "Scored",
]
