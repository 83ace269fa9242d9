"""A toy model as a step in JAX and as an oracle in NumPy; every output, and beam search, in loops.

The references are written from the definitions: plain lists of hypotheses, no early stop.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.decoding import Decoded, beam_search, score

B, V, L, S, H = 3, 4, 4, 3, 5
END, BEGIN = 0, V


class Toy(NamedTuple):
    """A small recurrent network whose next token depends on all tokens before."""

    embed: Any
    recur: Any
    out: Any
    bias: Any
    h: Any
    memory: Any


class State(NamedTuple):
    h: Any
    memory: Any
    weights: Any


def make_toy(seed=0, *, batch=B, vocabulary=V, bias=0.0, ruled_out=()):
    """Weights float32; `bias` is added to the end token's logit, `ruled_out` tokens get -inf."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    toy = Toy(
        embed=draw(vocabulary + 1, H),
        recur=draw(H, H),
        out=draw(H, vocabulary),
        bias=np.zeros(vocabulary, np.float32),
        h=draw(batch, H),
        memory=draw(batch, S, H),
    )
    toy.bias[END] = bias
    toy.bias[list(ruled_out)] = -np.inf
    return toy


def rows(toy, index):
    """The toy for some of its sentences."""
    return toy._replace(h=toy.h[index], memory=toy.memory[index])


def initial(toy):
    return State(toy.h, toy.memory, jnp.zeros(toy.memory.shape[:2], toy.memory.dtype))


def step_of(toy):
    def step(tokens, state):
        h = jnp.tanh(jnp.asarray(toy.embed)[tokens] + state.h @ toy.recur)
        weights = jax.nn.softmax(jnp.einsum("nsh,nh->ns", state.memory, h))
        return h @ toy.out + toy.bias[None], State(h, state.memory, weights)

    return step


def weights_of(state):
    return state.weights


class Oracle:
    """One sentence of a toy in float64."""

    def __init__(self, toy, b):
        self.toy = Toy(*[np.asarray(leaf, np.float64) for leaf in toy])
        self.b = b
        self._known: dict[tuple[int, ...], Any] = {}

    def __call__(self, history):
        """Log-probabilities `[V]` of the next token, attention weights `[S]` and the state."""
        if history not in self._known:
            toy = self.toy
            last = history[-1] if history else -1  # the last row is what the beginning is fed
            h = self(history[:-1])[2] if history else toy.h[self.b]
            h = np.tanh(toy.embed[last] + h @ toy.recur)
            logits, energies = h @ toy.out + toy.bias, toy.memory[self.b] @ h
            p, weights = (np.exp(z - z.max()) for z in (logits, energies))
            with np.errstate(divide="ignore"):
                found = np.log(p / p.sum()), weights / weights.sum(), h
            self._known[history] = found
        return self._known[history]


class Rules(NamedTuple):
    """What is asked of outputs, for one sentence."""

    max_length: int = L
    min_length: int = 0
    no_repeat_ngram: int = 0
    prefix: tuple[int, ...] = ()
    length_penalty: float = 0.0
    coverage_penalty: float = 0.0
    source: tuple[bool, ...] = (True,) * S

    def allows(self, history, token):
        if len(history) < len(self.prefix):
            return token == self.prefix[len(history)]
        if token == END and len(history) < self.min_length:
            return False
        n, tokens = self.no_repeat_ngram, (*history, token)
        grams = [tokens[i : i + n] for i in range(len(tokens) - n + 1)] if n else []
        return not grams or grams[-1] not in grams[:-1]

    def score(self, oracle, tokens, log_prob):
        score = log_prob / ((5 + len(tokens)) / 6) ** self.length_penalty
        if self.coverage_penalty:
            attention = sum(oracle(tokens[:j])[1] for j in range(len(tokens)))
            covered = zip(attention, self.source, strict=True)
            score += self.coverage_penalty * sum(math.log(min(a, 1)) for a, real in covered if real)
        return score


class Output(NamedTuple):
    score: float
    tokens: tuple[int, ...]  # the end token included
    log_prob: float


def every_output(oracle, rules) -> list[Output]:
    """All outputs there are, best first."""

    def grow(history: tuple[int, ...], log_prob: float) -> Iterator[Output]:
        if len(history) == rules.max_length or END in history:
            yield Output(rules.score(oracle, history, log_prob), history, log_prob)
            return
        for token, gain in enumerate(oracle(history)[0]):
            if rules.allows(history, token) and gain > -math.inf:
                yield from grow((*history, token), log_prob + gain)

    return sorted(grow((), 0.0), reverse=True)


def beam_loop(oracle, rules, width, n):
    """Beam search without an early stop; the outputs, and the steps after which it could stop."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[Output] = []
    enough = None
    most = ((5 + rules.max_length) / 6) ** rules.length_penalty
    for t in range(rules.max_length):
        candidates = sorted(
            (
                (log_prob + oracle(history)[0][token], (*history, token))
                for log_prob, history in live
                for token in range(len(oracle(history)[0]))
                if rules.allows(history, token) and oracle(history)[0][token] > -math.inf
            ),
            reverse=True,
        )
        for log_prob, tokens in candidates[:width]:
            if tokens[-1] == END:
                finished.append(Output(rules.score(oracle, tokens, log_prob), tokens, log_prob))
        live = [candidate for candidate in candidates if candidate[1][-1] != END][:width]
        finished = sorted(finished, reverse=True)[:n]
        beaten = len(finished) == n and live and finished[-1].score >= live[0][0] / most
        if enough is None and (beaten or not live):
            enough = t + 1
    cut = [Output(rules.score(oracle, tokens, lp), tokens, lp) for lp, tokens in live]
    return sorted(finished + cut, reverse=True)[:n], enough or rules.max_length


def greedy_loop(oracle, rules):
    history: tuple[int, ...] = ()
    log_prob = 0.0
    while len(history) < rules.max_length and END not in history:
        gains = oracle(history)[0]
        token = max(
            (v for v in range(len(gains)) if rules.allows(history, v)), key=gains.__getitem__
        )
        history, log_prob = (*history, token), log_prob + gains[token]
    return Output(rules.score(oracle, history, log_prob), history, log_prob)


def gaps(outputs):
    """The least difference of neighbouring scores, below which rounding may swap them."""
    scores = [output.score for output in outputs]
    return min((a - b for a, b in itertools.pairwise(scores)), default=math.inf)


def assert_outputs(decoded: Decoded, b: int, expected: list[Output], oracle: Oracle) -> None:
    """The outputs of sentence b, all fields."""
    steps = decoded.tokens.shape[2]
    for k, output in enumerate(expected):
        finished = output.tokens[-1] == END
        length = len(output.tokens) - finished
        tokens = list(output.tokens) + [END] * (steps - len(output.tokens))
        assert decoded.tokens[b, k].tolist() == tokens, (b, k)
        assert decoded.lengths[b, k] == length and bool(decoded.finished[b, k]) == finished
        np.testing.assert_allclose(decoded.log_probs[b, k], output.log_prob, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(decoded.scores[b, k], output.score, rtol=2e-5, atol=2e-6)
        if decoded.alignments is not None:
            weights = np.zeros(decoded.alignments.shape[2:])
            for j in range(len(output.tokens)):
                weights[j] = oracle(output.tokens[:j])[1]
            np.testing.assert_allclose(decoded.alignments[b, k], weights, atol=2e-6)


@functools.cache
def _compiled(decoder, options):
    options = dict(options)

    def run(toy, key, arrays):
        keys = () if key is None else (key,)
        begin = len(toy.embed) - 1
        return decoder(step_of(toy), initial(toy), *keys, begin=begin, end=END, **arrays, **options)

    return jax.jit(run)


def decode(toy, decoder=beam_search, *, key=None, arrays=None, **options) -> Any:
    """A decoder on a toy, compiled once for all toys; `arrays` are arguments that are arrays."""
    options.setdefault("max_length", L)
    toy = jax.tree.map(jnp.asarray, toy)
    arrays = {name: jnp.asarray(value) for name, value in (arrays or {}).items()}
    found = _compiled(decoder, tuple(sorted(options.items())))(toy, key, arrays)
    return jax.tree.map(np.asarray, found)


@jax.jit
def score_toy(toy, tokens, lengths):
    """The scores of outputs of a toy."""
    return score(
        step_of(toy), initial(toy), tokens, lengths=lengths, begin=len(toy.embed) - 1, end=END
    )
