"""Several end tokens against every output enumerated in float64."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.decoding import beam_search, ensemble, greedy, sample, score

V, L, BEGIN = 4, 3, 4
ENDS = (3, 1)
TABLE = np.random.default_rng(0).normal(size=(L, V + 1, V)).astype(np.float32)


def step(tokens, state):
    """Logits that depend on the step and the token before."""
    return jnp.asarray(TABLE)[state, tokens], state + 1


START = jnp.zeros(1, jnp.int32)


def run(decoder, *arguments, **options):
    """A decoder, compiled as a whole."""
    return jax.jit(lambda state: decoder(step, state, *arguments, begin=BEGIN, **options))(START)


def log_probs(t, last):
    z = TABLE[t, last].astype(np.float64)
    return z - np.log(np.exp(z).sum())


def every_output(ends, *, min_length=0, alpha=0.0, prefix=()):
    """Score, tokens with the end token and log-probability of each output, best first."""
    found = {}
    for tokens in itertools.product(range(V), repeat=L):
        stop = next((t + 1 for t in range(L) if tokens[t] in ends), L)
        tokens = tokens[:stop]
        early = any(y in ends and t < min_length and t >= len(prefix) for t, y in enumerate(tokens))
        if early or any(a != b for a, b in zip(tokens, prefix, strict=False)):
            continue
        total = sum(
            log_probs(t, last)[y]
            for t, (last, y) in enumerate(zip((BEGIN, *tokens), tokens, strict=False))
        )
        found[tokens] = (total / ((5 + stop) / 6) ** alpha, tokens, total)
    return sorted(found.values(), reverse=True)


def shown(decoded, k, ends):
    """The tokens of output k with its end token, after checking what stands behind."""
    length, finished = int(decoded.lengths[0, k]), bool(decoded.finished[0, k])
    tokens = decoded.tokens[0, k].tolist()
    assert finished == (length < L and tokens[length] in ends)
    assert not set(tokens[:length]) & set(ends)
    assert set(tokens[length:]) <= {tokens[length]} if length < L else True
    return tuple(tokens[: length + finished])


OPTIONS: list[dict[str, Any]] = [
    {}, {"min_length": 1}, {"min_length": 2, "alpha": 1.0}, {"alpha": 2.0}, {"prefix": (0, 1)},
]  # fmt: skip


@pytest.mark.quick("options4-ends1")
@pytest.mark.parametrize("ends", [ENDS, (0, 1, 2)])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_wide_beam_is_enumeration(ends, options):
    wanted = every_output(ends, **options)
    given = dict(options)
    prefix = given.pop("prefix", ())
    if prefix:
        given["prefix"] = np.array([prefix])
    decoded = run(
        beam_search, end=ends, max_length=L, beam_width=40, n_best=6,
        length_penalty=given.pop("alpha", 0.0), **given,
    )  # fmt: skip
    for k, (value, tokens, total) in enumerate(wanted[:6]):
        assert shown(decoded, k, ends) == tokens
        np.testing.assert_allclose(decoded.scores[0, k], value, rtol=1e-5)
        np.testing.assert_allclose(decoded.log_probs[0, k], total, rtol=1e-5)
    assert np.isneginf(decoded.scores[0, len(wanted) :]).all()


def narrow_beam(ends, width, alpha):
    live: list[Any] = [(0.0, ())]
    done: list[Any] = []
    for t in range(L):
        candidates = sorted(
            ((p + log_probs(t, (BEGIN, *h)[-1])[y], (*h, y)) for p, h in live for y in range(V)),
            reverse=True,
        )
        done += [c for c in candidates[:width] if c[1][-1] in ends]
        live = [c for c in candidates if c[1][-1] not in ends][:width]
    return sorted(((p / ((5 + len(h)) / 6) ** alpha, h) for p, h in done + live), reverse=True)


@pytest.mark.quick("ends1-2")
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("ends", list(itertools.combinations(range(V), 3)))
def test_a_narrow_beam_pursues_as_many_as_it_is_wide(width, ends):
    """With E ends, up to E candidates of one hypothesis end."""
    options: Any = {"end": ends, "max_length": L, "beam_width": width, "n_best": width}
    decoded = run(beam_search, **options, length_penalty=20.0)
    for k, (value, tokens) in enumerate(narrow_beam(ends, width, 20.0)[:width]):
        assert shown(decoded, k, ends) == tokens
        np.testing.assert_allclose(decoded.scores[0, k], value, rtol=1e-5)


@pytest.mark.quick()
def test_greedy_and_scores():
    tokens: tuple[int, ...] = ()
    while len(tokens) < L and not set(tokens) & set(ENDS):
        tokens += (int(log_probs(len(tokens), (BEGIN, *tokens)[-1]).argmax()),)
    for decoder in (greedy, lambda s, x, **o: greedy(ensemble([s, s]), (x, x), **o)):
        decoded = run(decoder, end=list(ENDS), max_length=L)
        assert shown(decoded, 0, ENDS) == tokens
    outputs = every_output(ENDS)
    padded = np.full((1, len(outputs), L), 99)
    lengths = np.zeros((1, len(outputs)), int)
    for k, (_, tokens, _) in enumerate(outputs):
        padded[0, k, : len(tokens)] = tokens
        lengths[0, k] = len(tokens) - (tokens[-1] in ENDS)
    scored = run(score, padded, lengths=lengths, end=set(ENDS))
    np.testing.assert_allclose(scored.log_probs[0], [total for *_, total in outputs], rtol=1e-5)
    assert np.exp(scored.log_probs).sum() == pytest.approx(1.0, abs=1e-5)
    for decoder in (greedy, beam_search):
        decoded = run(decoder, end=ENDS, max_length=L)
        again = run(score, decoded.tokens, lengths=decoded.lengths, end=ENDS)
        np.testing.assert_allclose(again.log_probs, decoded.log_probs, rtol=1e-6)


def test_an_output_that_ends_with_another_token_has_no_score():
    tokens, lengths = np.array([[0, 2, 0]]), np.array([1])
    with pytest.raises(ValueError, match=r"tokens: expected one of the end tokens \(3, 1\).*got 2"):
        score(step, START, tokens, lengths=lengths, begin=BEGIN, end=ENDS)
    scored = jax.jit(
        lambda tokens: score(step, START, tokens, lengths=lengths, begin=BEGIN, end=ENDS)
    )
    assert np.isnan(scored(tokens).log_probs[0])
    assert np.isfinite(scored(tokens + [[0, 1, 0]]).log_probs[0])
    one = run(score, tokens, lengths=lengths, end=3)  # anything may stand from the length on
    assert np.isfinite(one.log_probs[0])


@pytest.mark.quick()
def test_samples_have_the_frequencies_of_all_outputs():
    n = 1000
    decoded = jax.jit(
        lambda key: sample(
            step, START, key, begin=BEGIN, end=ENDS, max_length=L, num_samples=n, min_length=0
        )
    )(jax.random.key(0))
    counts: dict[tuple[int, ...], int] = {}
    for k in range(n):
        tokens = shown(decoded, k, ENDS)
        counts[tokens] = counts.get(tokens, 0) + 1
    for _, tokens, total in every_output(ENDS)[:8]:
        p = math.exp(total)
        assert abs(counts.get(tokens, 0) / n - p) < 5 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ([], ValueError, "at least one token"),
        ([1, 4], ValueError, "from 0 to 3.*got 4"),
        ([1, -1], ValueError, "at least 0, got -1"),
        ([1, 2.5], TypeError, "got 2.5"),
        ("12", TypeError, "got '12'"),
        (None, TypeError, "got None"),
        ({1: 2}, TypeError, "got {1: 2}"),
        (True, TypeError, "got True"),
    ],
)
def test_ends_that_are_none(end, error, message):
    for decoder in (greedy, beam_search):
        with pytest.raises(error, match=f"^end: expected .*{message}"):
            decoder(step, START, begin=BEGIN, end=end, max_length=L)


@pytest.mark.quick("end0", "end4")
@pytest.mark.parametrize(
    "end", [{3, 1}, np.array([3, 1]), jnp.array([1, 3]), (1, 3, 1), range(1, 4, 2)]
)
def test_kinds_of_collections(end):
    options: Any = {"begin": BEGIN, "max_length": L}
    found, expected = (greedy(step, START, end=each, **options) for each in (end, ENDS))
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.finished.tolist() == expected.finished.tolist()
