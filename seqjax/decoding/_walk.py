"""The loop of greedy decoding and sampling, which both extend one output per row."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax._compensated import Total, add
from seqjax.decoding._ends import is_end
from seqjax.decoding._problem import Problem, existing, write
from seqjax.decoding._results import Decoded
from seqjax.types import Array, PyTree

__all__ = ["walk"]


class _Path(NamedTuple):
    t: Array
    last: Array
    tokens: Array
    lengths: Array
    log_probs: Total
    ended: Array
    alignments: Array | None
    state: PyTree

    @property
    def going(self) -> Array:
        """Bool `[N]`, True for rows whose output has not ended and has a non-zero probability."""
        return ~self.ended & (self.log_probs[0] > -jnp.inf)


def walk(problem: Problem, choose: Callable[[Array, Array], Array]) -> Decoded:
    """Decode until the outputs of all rows have ended.

    The function `choose(t, log_probs)` chooses int32 tokens `[N]` from log-probabilities `[N, V]`.
    """
    rows = problem.batch * problem.copies

    def go_on(path: _Path) -> Array:
        return (path.t < problem.max_length) & path.going.any()

    def step(path: _Path) -> _Path:
        going = path.going
        log_probs, weights, state = problem.advance(path.t, path.last, path.tokens, path.state)
        token = jnp.where(going, choose(path.t, log_probs), path.last)
        gain = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
        alignments = path.alignments
        if alignments is not None and weights is not None:
            weights = jnp.where(going[:, None], weights, 0)
            alignments = write(alignments, path.t, weights, axis=1)
        ends = is_end(token, problem.ends)
        return _Path(
            t=path.t + 1,
            last=token,
            tokens=write(path.tokens, path.t, token, axis=1),
            lengths=path.lengths + (going & ~ends).astype(jnp.int32),
            log_probs=add(path.log_probs, jnp.where(going, gain, 0.0)),
            ended=path.ended | (going & ends),
            alignments=alignments,
            state=state,
        )

    start = _Path(
        t=jnp.zeros((), jnp.int32),
        last=problem.begin,
        tokens=problem.no_tokens(),
        lengths=jnp.zeros(rows, jnp.int32),
        log_probs=(jnp.zeros(rows, problem.dtype), jnp.zeros(rows, problem.dtype)),
        ended=jnp.zeros(rows, bool),
        alignments=problem.no_alignments(),
        state=problem.state,
    )
    path = jax.lax.while_loop(go_on, step, start)
    decoded = Decoded(
        tokens=path.tokens,
        lengths=path.lengths,
        log_probs=path.log_probs[0],
        scores=path.log_probs[0],
        finished=path.ended,
        alignments=path.alignments,
    )
    shape = (problem.batch, problem.copies)
    decoded, last = jax.tree.map(
        lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), (decoded, path.last)
    )
    return existing(decoded, last, problem.ends[0])
