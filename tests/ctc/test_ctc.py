"""CTC against its definition: all paths enumerated, merged and summed in float64."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.ctc import ctc_beam_search, ctc_greedy, ctc_loss

B, T, V = 3, 5, 3
seeds = st.integers(0, 2**20)
LOSS = jax.jit(ctc_loss, static_argnums=4)
GREEDY = jax.jit(ctc_greedy, static_argnums=2)
SEARCH = jax.jit(ctc_beam_search, static_argnums=(2, 3), static_argnames="n_best")


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


# The loss


@given(seed=seeds, blank=st.integers(0, V - 1))
def test_loss_is_the_sum_over_paths(seed, blank):
    rng, logits = draw(seed)
    lengths, counts = rng.integers(0, T + 1, B), rng.integers(0, 4, B)
    labels = rng.choice([v for v in range(V) if v != blank], (B, 3))
    loss, feasible = LOSS(logits, lengths, labels, counts, blank)
    for b in range(B):
        name = tuple(labels[b, : counts[b]].tolist())
        p = every_labelling(logits[b], lengths[b], blank).get(name)
        assert bool(feasible[b]) == (p is not None)
        np.testing.assert_allclose(loss[b], 0 if p is None else -math.log(p), rtol=2e-5, atol=2e-5)


def test_garbage_in_padding_changes_nothing():
    _, logits = draw(0)
    lengths, labels, counts = np.array([3, 5, 0]), np.array([[1, 2], [2, 2], [1, 1]]), [2, 1, 0]
    dirty, dirty_labels = logits.copy(), labels.copy()
    dirty[0, 3:], dirty[2] = np.nan, np.inf
    dirty_labels[1, 1], dirty_labels[2] = 99, [-1, 0]

    def run(logits, labels):
        return ctc_loss(logits, lengths, labels, np.array(counts)).loss.sum()

    value, slope = jax.value_and_grad(run)(jnp.asarray(logits), labels)
    got, dirty_slope = jax.value_and_grad(run)(jnp.asarray(dirty), dirty_labels)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(dirty_slope, slope, rtol=1e-5, atol=1e-6)
    assert (dirty_slope[0, 3:] == 0).all() and (dirty_slope[2] == 0).all()


def test_gradient():
    """By central differences of the enumeration, in its logits."""
    _, logits = draw(3, batch=1)
    run = lambda logits: ctc_loss(logits, np.array([4]), np.array([[1, 1]]), np.array([2])).loss[0]  # noqa: E731
    slope = jax.grad(run)(jnp.asarray(logits))
    for index in np.ndindex(T, V):
        sides = []
        for sign in (1, -1):
            moved = logits[0].astype(np.float64)
            moved[index] += sign * 1e-4
            sides.append(-math.log(every_labelling(moved, 4, 0)[1, 1]))
        np.testing.assert_allclose(slope[0][index], (sides[0] - sides[1]) / 2e-4, atol=2e-5)


def test_infeasible_rows_are_reported_without_a_gradient():
    _, logits = draw(1)
    labels, counts = np.array([[1, 1, 2], [1, 1, 2], [1, 2, 1]]), np.array([3, 3, 3])
    lengths = np.array([3, 4, 2])  # 1 1 2 needs four frames
    run = lambda logits: ctc_loss(logits, lengths, labels, counts)  # noqa: E731
    loss, feasible = run(logits)
    assert feasible.tolist() == [False, True, False]
    assert loss[0] == loss[2] == 0 and loss[1] > 0
    slope = jax.grad(lambda logits: run(logits).loss.sum())(jnp.asarray(logits))
    assert (slope[0] == 0).all() and (slope[2] == 0).all() and (slope[1, :4] != 0).all()


def test_loss_is_never_negative():
    logits = np.full((1, 40, 4), -30.0, np.float32)
    logits[0, np.arange(40), np.arange(40) % 3 + 1] = 30.0
    labels = (np.arange(40) % 3 + 1)[None]
    loss, _ = ctc_loss(logits, [40], labels, [40])
    assert 0 <= loss[0] < 1e-3


@pytest.mark.parametrize(("steps", "most"), [(0, 2), (3, 0), (0, 0)])
def test_empty_axes(steps, most):
    logits, labels = np.zeros((2, steps, V), np.float32), np.ones((2, most), int)
    counts = np.array([0, min(most, 1)])
    loss, feasible = ctc_loss(logits, np.full(2, steps), labels, counts)
    assert feasible.tolist() == [True, counts[1] <= steps]
    np.testing.assert_allclose(loss[0], steps * math.log(V), rtol=1e-6, atol=1e-6)
    assert ctc_loss(logits[:0], [], labels[:0], []).loss.shape == (0,)


def test_ruled_out_classes():
    _, logits = draw(2)
    logits[:, :, 2] = -np.inf
    labels, counts = np.array([[1, 1], [1, 2], [1, 1]]), np.array([1, 2, 0])
    run = lambda logits: ctc_loss(logits, np.full(B, T), labels, counts).loss  # noqa: E731
    loss = run(logits)
    for b in (0, 2):
        p = every_labelling(logits[b], T, 0)[tuple(labels[b, : counts[b]].tolist())]
        np.testing.assert_allclose(loss[b], -math.log(p), rtol=1e-5)
    assert 9e4 < loss[1] < 2e5
    assert np.isfinite(jax.grad(lambda z: run(z)[::2].sum())(jnp.asarray(logits))).all()


def test_long_and_unlikely():
    """A loss above what optax takes for infinite stays exact."""
    rng = np.random.default_rng(0)
    steps, classes = 1000, 6
    logits = (rng.normal(size=(1, steps, classes)) * 400).astype(np.float32)
    labels = rng.integers(1, classes, (1, 400))
    loss, feasible = ctc_loss(logits, [steps], labels, [400])
    assert feasible[0]

    log_p, extended = log_softmax(logits[0]), [0]
    for label in labels[0]:
        extended += [int(label), 0]
    alpha = np.full(len(extended), -np.inf)
    alpha[0], alpha[1] = log_p[0, 0], log_p[0, extended[1]]
    skip = np.array(
        [s > 1 and extended[s] not in (0, extended[s - 2]) for s in range(len(extended))]
    )
    for t in range(1, steps):
        one = np.concatenate([[-np.inf], alpha[:-1]])
        two = np.where(skip, np.concatenate([[-np.inf] * 2, alpha[:-2]]), -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, one), two) + log_p[t, extended]
    expected = -np.logaddexp(alpha[-1], alpha[-2])
    assert expected > 1.5e5
    np.testing.assert_allclose(loss[0], expected, rtol=1e-4)


def test_loss_strict_and_half():
    _, logits = draw(0)
    arguments = np.full(B, T), np.ones((B, 2), int), np.array([1, 2, 0])
    whole = ctc_loss(logits, *arguments).loss
    with jax.numpy_dtype_promotion("strict"):
        half = ctc_loss(jnp.asarray(logits, jnp.bfloat16), *arguments).loss
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, whole, rtol=2e-2, atol=2e-2)


# Decoding


@given(seed=seeds, blank=st.integers(0, V - 1))
def test_greedy_is_the_best_path(seed, blank):
    rng, logits = draw(seed)
    lengths = rng.integers(0, T + 1, B)
    tokens, counts, log_probs = GREEDY(logits, lengths, blank)
    for b in range(B):
        path = logits[b, : lengths[b]].argmax(axis=1)
        name = labels_of(path.tolist(), blank)
        assert tokens[b, 0].tolist() == [*name, *[blank] * (T - len(name))]
        assert counts[b, 0] == len(name)
        expected = log_softmax(logits[b, : lengths[b]]).max(axis=1).sum() if lengths[b] else 0
        np.testing.assert_allclose(log_probs[b, 0], expected, rtol=1e-5, atol=1e-6)


@given(seed=seeds, blank=st.integers(0, V - 1), scale=st.sampled_from([0.3, 2.0]))
def test_wide_search_is_enumeration(seed, blank, scale):
    rng, logits = draw(seed, scale=scale)
    lengths = rng.integers(0, T + 1, B)
    tokens, counts, log_probs = SEARCH(logits, lengths, 64, blank, n_best=6)
    for b in range(B):
        found = every_labelling(logits[b], lengths[b], blank)
        best = sorted(found.items(), key=lambda item: -item[1])[:6]
        for k, (name, p) in enumerate(best):
            np.testing.assert_allclose(log_probs[b, k], math.log(p), rtol=1e-4, atol=1e-5)
            got = tuple(tokens[b, k, : counts[b, k]].tolist())
            assert got == name or math.isclose(found[got], p, rel_tol=1e-4)
            assert (tokens[b, k, counts[b, k] :] == blank).all()
        assert (log_probs[b, len(found) :] == -np.inf).all()


def prefix_loop(logits, width, blank, n):
    """The search over a dictionary of prefixes."""
    p = np.exp(log_softmax(logits))
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (1.0, 0.0)}
    for p_t in p:
        new: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_label) in beam.items():
            entry = new.setdefault(prefix, [0.0, 0.0])
            entry[0] += (in_blank + in_label) * p_t[blank]
            for label in range(len(p_t)):
                if label == blank:
                    continue
                grown = new.setdefault((*prefix, label), [0.0, 0.0])
                if prefix and label == prefix[-1]:
                    entry[1] += in_label * p_t[label]
                    grown[1] += in_blank * p_t[label]
                else:
                    grown[1] += (in_blank + in_label) * p_t[label]
        kept = sorted(new, key=lambda prefix: -sum(new[prefix]))[:width]
        beam = {prefix: (new[prefix][0], new[prefix][1]) for prefix in kept}
    return [(prefix, math.log(sum(beam[prefix]))) for prefix in list(beam)[:n]]


@given(seed=seeds, width=st.sampled_from([1, 3]))
def test_narrow_search_is_the_loop(seed, width):
    """Prefixes that leave the beam and come back are joined again, over many frames."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(2, 12, 4)) * 0.7).astype(np.float32)
    tokens, counts, log_probs = SEARCH(logits, np.array([12, 7]), width, 0, n_best=width)
    for b, length in enumerate((12, 7)):
        for k, (name, log_prob) in enumerate(prefix_loop(logits[b, :length], width, 0, width)):
            assert tuple(tokens[b, k, : counts[b, k]].tolist()) == name
            np.testing.assert_allclose(log_probs[b, k], log_prob, rtol=1e-4)


def test_search_agrees_with_the_loss():
    rng = np.random.default_rng(5)
    logits = (rng.normal(size=(4, 8, 5)) * 3).astype(np.float32)
    lengths = np.array([8, 8, 3, 6])
    tokens, counts, log_probs = ctc_beam_search(logits, lengths, 200)
    loss, feasible = ctc_loss(logits, lengths, tokens[:, 0], counts[:, 0])
    assert feasible.all()
    np.testing.assert_allclose(-loss, log_probs[:, 0], rtol=1e-3)
    assert (log_probs[:, 0] >= ctc_greedy(logits, lengths).log_probs[:, 0] - 1e-5).all()


def test_search_alone_is_search_in_a_batch():
    _, logits = draw(8)
    dirty, lengths = logits.copy(), np.array([3, 5, 0])
    dirty[0, 3:], dirty[2] = np.nan, np.inf
    together = ctc_beam_search(dirty, lengths, 4, n_best=4)
    for b, length in enumerate(lengths):
        alone = ctc_beam_search(logits[b : b + 1, :length], [length], 4, n_best=4)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[b, :, :length])
        np.testing.assert_allclose(alone.log_probs[0], together.log_probs[b], rtol=1e-5)


def test_ruled_out_labels_do_not_occur():
    _, logits = draw(9)
    logits[:, :, 2] = -np.inf
    decoded = SEARCH(logits, np.full(B, T), 64, 0, n_best=6)
    assert not np.isnan(decoded.log_probs).any() and (decoded.tokens != 2).all()
    # Labels 1 alone: none, 1, 1 1, 1 1 1.
    np.testing.assert_array_equal(np.isfinite(decoded.log_probs), [[True] * 4 + [False] * 2] * B)
    assert (decoded.lengths[:, 4:] == 0).all()


def test_strict_promotion():
    _, logits = draw(9)
    with jax.numpy_dtype_promotion("strict"):
        ctc_beam_search(logits, np.full(B, T), 4)
        ctc_greedy(logits, np.full(B, T))


def test_wide_types(x64):
    _, logits = draw(9)
    decoded = ctc_beam_search(logits.astype(np.float64), np.full(B, T), 64)
    assert decoded.log_probs.dtype == jnp.float64 and decoded.tokens.dtype == jnp.int32
    best = max(every_labelling(logits[0], T, 0).values())
    np.testing.assert_allclose(decoded.log_probs[0, 0], math.log(best), rtol=1e-12)
    assert ctc_greedy(logits, np.full(B, T)).tokens.dtype == jnp.int32
    labels = np.ones((B, 1), int)
    exact = ctc_loss(logits.astype(np.float64), np.full(B, T), labels, np.ones(B, int)).loss
    p = every_labelling(logits[0], T, 0)[1,]
    np.testing.assert_allclose(exact[0], -math.log(p), rtol=1e-10)


# Mistakes


GOOD = {
    "logits": np.zeros((2, 4, 3), np.float32),
    "lengths": np.array([4, 2]),
    "labels": np.array([[1, 2], [1, 0]]),
    "label_lengths": np.array([2, 1]),
}
BAD = [
    ("logits", np.zeros((4, 3), np.float32), ValueError, r"\[B, T, V\], got \(4, 3\)"),
    ("logits", np.zeros((2, 4, 3), int), TypeError, "float array"),
    ("lengths", np.array([4, 5]), ValueError, "0 to 4"),
    ("lengths", np.array([4.0, 2.0]), TypeError, "integers"),
    ("labels", np.array([1, 2]), ValueError, r"\[B, N\] with B=2, got \(2,\)"),
    ("labels", np.array([[1, 3], [1, 0]]), ValueError, "classes from 0 to 2 but blank=0"),
    ("labels", np.array([[1, 0], [1, 0]]), ValueError, "blank=0"),
    ("label_lengths", np.array([3, 1]), ValueError, "0 to 2"),
    ("blank", 3, ValueError, "below V=3, got 3"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_loss_refuses(name, value, error, message):
    with pytest.raises(error, match=rf"^{name}: expected .*{message}"):
        ctc_loss(**GOOD | {name: value})


def test_wrong_label_under_tracing_is_nan():
    labels = np.array([[1, 3], [1, 0]])
    loss, _ = LOSS(GOOD["logits"], GOOD["lengths"], labels, GOOD["label_lengths"], 0)
    assert np.isnan(loss).tolist() == [True, False]


def test_search_refuses():
    logits, lengths = GOOD["logits"], GOOD["lengths"]
    with pytest.raises(ValueError, match="beam_width: expected a positive integer, got 0"):
        ctc_beam_search(logits, lengths, 0)
    with pytest.raises(ValueError, match="n_best: expected at most beam_width=2, got 3"):
        ctc_beam_search(logits, lengths, 2, n_best=3)
    with pytest.raises(ValueError, match="blank: expected a class below V=3, got 7"):
        ctc_greedy(logits, lengths, 7)
