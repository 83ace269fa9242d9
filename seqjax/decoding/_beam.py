"""Beam search, which extends several hypotheses at once and returns the best outputs."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._compensated import Total, add, behind, is_at_most
from seqjax.decoding._ends import is_end
from seqjax.decoding._penalties import Penalties
from seqjax.decoding._problem import Problem, existing, make_problem, write
from seqjax.decoding._results import Alignment, Decoded, Step, gain_bound
from seqjax.types import Array, PyTree

__all__ = ["beam_search"]


def beam_search(
    step: Step,
    state: PyTree,
    *,
    begin: Any,
    end: int | Iterable[int],
    max_length: int,
    beam_width: int = 5,
    n_best: int = 1,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    prefix: Any = None,
    prefix_lengths: Any = None,
    alignment: Alignment | None = None,
    source_mask: Any = None,
) -> Decoded:
    """Search for the outputs with the highest score, with a beam of K = `beam_width` hypotheses.

        s(Y, X)  = log p(Y | X) / lp(Y) + cp(X; Y)
        lp(Y)    = ((5 + |Y|) / 6)^α
        cp(X; Y) = β Σ_i log min(Σ_j p_ij, 1)

    Here |Y| is the length of Y in tokens, including the end token, and p_ij is the attention weight
    of output token j for source position i. If the attention weights of a source position sum to 0,
    the sum is replaced by 1e-38.

    At each step every hypothesis is extended by every token, and the resulting candidates are
    ordered by log-probability. If one of the first K candidates ends with an end token, it is a
    finished output and is ranked by its score s. The search continues with the first K candidates
    that do not end with an end token. A sentence is done if none of its unfinished hypotheses can
    reach a score above that of its n-th best finished output. The log-probability of a hypothesis
    only decreases, so its final score is at most log p / lp(L), where L is `max_length`. If the
    step has scores of its own (an attribute `gain_bound`, see `Step`), as a `LogLinear` has, its
    scores replace log p, and the bound allows for bonuses. After L tokens, the unfinished
    hypotheses are ranked by their scores s together with the finished outputs. If an unfinished
    hypothesis is returned, its field `finished` is False.

    With `beam_width=1` and no penalties, the result is that of `greedy`. If `beam_width` is the
    number of all possible hypotheses, the search is exhaustive.

    Args:
      step: `step(tokens, state) -> (logits, state)`, see `greedy`.
      state: the state before the first step, a pytree of arrays `[B, …]`. The search repeats the
        state for each hypothesis. Leaves that the step returns unchanged are not copied at each
        step.
      begin: int, or int `[B]`, the token that is the input of the first step.
      end: the end token, or several end tokens, each of which ends an output.
      max_length: L, the maximum number of tokens of an output, including the end token.
      beam_width: K, the number of hypotheses per sentence.
      n_best: n, the number of outputs to return for each sentence, at most K.
      length_penalty: α, at least 0. With α = 0, the length does not change the score.
      coverage_penalty: β, at least 0. If β is above 0, `alignment` and `source_mask` are required.
      min_length: the minimum number of tokens before the end token.
      no_repeat_ngram: the size of n-grams that occur at most once in an output; 0 allows
        repetition. N-grams within the prefix may repeat.
      prefix: int `[B, P]`, the tokens with which the outputs begin, see `greedy`.
      prefix_lengths: int `[B]`, 0 to P, the number of prefix tokens per sentence (default: P).
      alignment: function `alignment(state)` that returns the attention weights `[N, S]` of the last
        step.
      source_mask: bool `[B, S]`, True at source positions that are not padding, over which the
        coverage penalty sums.

    Returns:
      `Decoded` with n = `n_best` different outputs, best first.

    Raises:
      TypeError: see `greedy`; also if `source_mask` is not bool.
      ValueError: see `greedy`; also if `n_best` is above `beam_width`, a penalty is below 0, or
        there is a coverage penalty without `alignment` or `source_mask`.

    References:
      Wu et al. 2016, Google's Neural Machine Translation System, eq. 14 (both penalties).
      Paulus et al. 2018, A Deep Reinforced Model for Abstractive Summarization, section 2.5 (no
      repeated trigram).
      Huang et al. 2017, When to Finish? Optimal Beam Search for Neural Text Generation (stopping
      criterion).

    Example:
      >>> p = jnp.array([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]])
      >>> def step(tokens, state):
      ...     return jnp.log(p)[tokens], state
      >>> def search(begin, width):
      ...     return beam_search(step, (), begin=begin, end=0, max_length=4, beam_width=width)
      >>> for width in (1, 2):  # the best first token need not lead to the best output
      ...     decoded = jax.jit(search, static_argnums=1)(jnp.array([0]), width)
      ...     print(decoded.tokens[0, 0].tolist(), f"{jnp.exp(decoded.log_probs[0, 0]):.2f}")
      [1, 0, 0, 0] 0.24
      [2, 0, 0, 0] 0.36
    """
    beam_width = checks.require_integer("beam_width", beam_width)
    n_best = checks.require_integer("n_best", n_best)
    if n_best > beam_width:
        raise ValueError(f"n_best: expected at most beam_width={beam_width}, got {n_best}")
    problem = make_problem(
        step, state, begin=begin, end=end, max_length=max_length, copies=beam_width,
        min_length=min_length, no_repeat_ngram=no_repeat_ngram, prefix=prefix,
        prefix_lengths=prefix_lengths, alignment=alignment,
    )  # fmt: skip
    penalties = _checked_penalties(length_penalty, coverage_penalty, source_mask, problem)
    return _search(problem, penalties, n_best)


def _checked_penalties(alpha: Any, beta: Any, source_mask: Any, problem: Problem) -> Penalties:
    alpha = checks.require_number("length_penalty", alpha, least=0)
    beta = checks.require_number("coverage_penalty", beta, least=0)
    if alpha * math.log((5 + problem.max_length) / 6) > math.log(np.finfo(np.float32).max):
        raise ValueError(
            f"length_penalty: expected an α for which ((5 + {problem.max_length}) / 6)^α is "
            f"finite, got {alpha}"
        )
    if beta > 0 and (problem.weights is None or source_mask is None):
        missing = "alignment" if problem.weights is None else "source_mask"
        kind = "a function" if missing == "alignment" else "a mask"
        raise ValueError(f"{missing}: expected {kind} with coverage_penalty={beta}, got None")
    if source_mask is not None:
        source_mask = checks.require_array("source_mask", source_mask, jnp.bool_, "bool [B, S]")
        if problem.weights is None:
            raise ValueError("alignment: expected a function with source_mask, got None")
        expected = (problem.batch, problem.weights.shape[1])
        if source_mask.shape != expected:
            raise ValueError(f"source_mask: expected {expected}, got {source_mask.shape}")
    return Penalties(alpha, beta, source_mask)


class _Live(NamedTuple):
    """Unfinished hypotheses `[B, K]`, most probable first. Unused entries have probability 0."""

    t: Array
    last: Array
    tokens: Array
    log_probs: Total
    alignments: Array | None
    state: PyTree


class _Ranked(NamedTuple):
    """Outputs `[B, n]`, best first.

    Each score is the sum of `outputs.scores` and its rounding error `lo`. An output ends with the
    token `ended_by`.
    """

    outputs: Decoded
    lo: Array
    ended_by: Array


def _search(problem: Problem, penalties: Penalties, n: int) -> Decoded:
    batch, width, steps = problem.batch, problem.copies, problem.max_length

    def as_beams(leaf: Array) -> Array:
        return leaf.reshape(batch, width, *leaf.shape[1:])

    def as_rows(leaf: Array) -> Array:
        return leaf.reshape(batch * width, *leaf.shape[2:])

    def outputs(
        tokens: Array,
        log_probs: Total,
        alignments: Array | None,
        t: Array,
        ended_by: Array | None = None,
    ) -> _Ranked:
        """Return ranked outputs of t tokens, followed by an end token if `ended_by` is given."""
        finished = ended_by is not None
        scores, lo = penalties.score(log_probs, t + int(finished), steps, alignments)
        shape = scores.shape
        found = Decoded(
            tokens=tokens,
            lengths=jnp.broadcast_to(t, shape),
            log_probs=log_probs[0],
            scores=scores,
            finished=jnp.full(shape, finished),
            alignments=alignments,
        )
        return _Ranked(found, lo, jnp.zeros(shape, jnp.int32) if ended_by is None else ended_by)

    def go_on(carry: tuple[_Live, _Ranked]) -> Array:
        live, _ = carry
        return (live.t < steps) & (live.log_probs[0] > -jnp.inf).any()

    def advance(carry: tuple[_Live, _Ranked]) -> tuple[_Live, _Ranked]:
        live, best = carry
        log_probs, weights, state = problem.advance(
            live.t, as_rows(live.last), as_rows(live.tokens), live.state
        )
        alignments = live.alignments
        if alignments is not None and weights is not None:
            alignments = write(alignments, live.t, as_beams(weights), axis=2)

        # With E end tokens, at most E K candidates end, so K of the first (1 + E) K do not.
        gains = as_beams(log_probs)
        candidates = behind(live.log_probs)[..., None] + gains
        most = (1 + len(problem.ends)) * width
        order, index = _top(candidates.reshape(batch, width * problem.vocabulary), most)
        parents, tokens = index // problem.vocabulary, index % problem.vocabulary
        gain = _pick(gains.reshape(batch, width * problem.vocabulary), index)
        totals = add(_pick(live.log_probs, parents), gain)
        ends = is_end(tokens, problem.ends)

        first = parents[:, :width]
        finished = outputs(
            tokens=_pick(live.tokens, first),
            log_probs=_where(ends[:, :width], _first(totals, width)),
            alignments=_pick(alignments, first),
            t=live.t,
            ended_by=tokens[:, :width],
        )
        best = _best(n, best, finished)

        _, going = _top(jnp.where(ends, -jnp.inf, order), width)
        parents, tokens = _pick(parents, going), _pick(tokens, going)
        totals = _pick(_where(~ends, totals), going)
        worst = best.outputs.scores[:, -1:], best.lo[:, -1:]
        reach = penalties.bound(_first(totals, 1), live.t + 1, steps, gain_bound(problem.step))
        done = is_at_most(reach, worst)
        live = _Live(
            t=live.t + 1,
            last=tokens,
            tokens=write(_pick(live.tokens, parents), live.t, tokens, axis=2),
            log_probs=_where(~done, totals),
            alignments=_pick(alignments, parents),
            state=problem.reorder(state, parents),
        )
        return live, best

    only_first = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf).astype(problem.dtype)
    zeros = jnp.zeros((batch, width), problem.dtype)
    start = _Live(
        t=jnp.zeros((), jnp.int32),
        last=as_beams(problem.begin),
        tokens=as_beams(problem.no_tokens()),
        log_probs=(jnp.broadcast_to(only_first, (batch, width)), zeros),
        alignments=jax.tree.map(as_beams, problem.no_alignments()),
        state=problem.state,
    )
    impossible = jnp.full((batch, width), -jnp.inf, problem.dtype), zeros
    none = outputs(start.tokens, impossible, start.alignments, start.t, start.last)
    live, best = jax.lax.while_loop(go_on, advance, (start, _first(none, n)))
    cut = outputs(live.tokens, live.log_probs, live.alignments, live.t)
    best = _best(n, best, cut)
    return existing(best.outputs, best.ended_by, problem.ends[0])


def _top(values: Array, count: int) -> tuple[Array, Array]:
    """Return the largest values of each row, and their indices. NaN counts as the largest value."""
    # Give all NaN a positive sign, because `top_k` would put -NaN last, where it would not be seen.
    values = jnp.where(jnp.isnan(values), jnp.nan, values)
    values, index = jax.lax.top_k(values, min(count, values.shape[1]))
    return values, index


def _where(allowed: Array, log_probs: Total) -> Total:
    """Return log-probabilities, with -inf where `allowed` is False."""
    hi, lo = log_probs
    return jnp.where(allowed, hi, -jnp.inf), jnp.where(allowed, lo, 0.0)


def _first(tree: PyTree, count: int) -> Any:
    """Return the first `count` entries of arrays `[B, m, …]`."""
    return jax.tree.map(lambda leaf: leaf[:, :count], tree)


def _pick(tree: PyTree, index: Array) -> Any:
    """Return the entries at `index` `[B, n]` of arrays `[B, m, …]`."""
    return jax.tree.map(lambda leaf: jax.vmap(lambda row, i: row[i])(leaf, index), tree)


def _best(n: int, *groups: _Ranked) -> _Ranked:
    """Return the n outputs with the highest scores.

    Of outputs with equal scores, the earlier one comes first.
    """
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *groups)
    _, order = _top(behind((every.outputs.scores, every.lo)), n)
    best: _Ranked = _pick(every, order)
    return best
