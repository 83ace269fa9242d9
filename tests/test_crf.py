"""Conditional random fields by their definition: all taggings enumerated in float64."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from seqjax import crf

B, T, C = 4, 5, 3
NAMES = ("transitions", "start", "end")
LOG_P, LOG_Z = jax.jit(crf.log_likelihood), jax.jit(crf.log_partition)
DECODE, MARGINALS = jax.jit(crf.decode), jax.jit(crf.marginals)


class Everything(NamedTuple):
    """The results of all functions of a chain."""

    log_p: Any
    log_z: Any
    decoded: Any
    marginals: Any


@jax.jit
def EVERY(emissions, tags, options):
    """One program of all functions."""
    return Everything(
        crf.log_likelihood(emissions, tags, **options),
        crf.log_partition(emissions, **options),
        crf.decode(emissions, **options),
        crf.marginals(emissions, **options),
    )


def draw(seed, batch=B, steps=T):
    rng = np.random.default_rng(seed)
    shapes = {"transitions": (C, C), "start": (C,), "end": (C,)}
    scores = {name: rng.normal(size=shape) * 2 for name, shape in shapes.items()}
    emissions = rng.normal(size=(batch, steps, C)) * 2
    tags = rng.integers(0, C, (batch, steps))
    scores = {name: value.astype(np.float32) for name, value in scores.items()}
    return rng, emissions.astype(np.float32), tags, scores


def score(emissions, path, transitions, start, end):
    """S of a tagging of the real steps."""
    if not len(path):
        return 0.0
    total = float(start[path[0]]) + float(end[path[-1]])
    total += sum(float(emissions[t, tag]) for t, tag in enumerate(path))
    return total + sum(float(transitions[i, j]) for i, j in itertools.pairwise(path))


def enumerated(emissions, scores):
    """Every tagging of one sequence's real steps with its score; best tagging, log Z, marginals."""
    paths = list(itertools.product(range(C), repeat=len(emissions)))
    s = np.array([score(emissions, path, **scores) for path in paths])
    p = np.exp(s - s.max())
    log_z = s.max() + np.log(p.sum())
    marginals = np.zeros(emissions.shape)
    for path, share in zip(paths, p / p.sum(), strict=True):
        for t, tag in enumerate(path):
            marginals[t, tag] += share
    return paths[s.argmax()], s.max(), log_z, marginals


@given(seed=st.integers(0, 2**20), holes=st.booleans())
def test_everything_is_what_enumeration_says(seed, holes):
    rng, emissions, tags, scores = draw(seed)
    lengths = rng.integers(0, T + 1, B)
    mask = rng.random((B, T)) < 0.6 if holes else np.arange(T) < lengths[:, None]
    options = scores | ({"mask": mask} if holes else {"lengths": lengths})
    log_p, log_z, decoded, shares = jax.device_get(EVERY(emissions, tags, options))
    assert decoded.tags.dtype == jnp.int32
    for b in range(B):
        real = emissions[b, mask[b]]
        best, most, expected_z, expected_shares = enumerated(real, scores)
        expected_p = score(real, tags[b, mask[b]], **scores) - expected_z
        np.testing.assert_allclose(log_p[b], expected_p, rtol=1e-5, atol=2e-5)
        np.testing.assert_allclose(log_z[b], expected_z, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(decoded.scores[b], most, rtol=1e-5, atol=1e-5)
        assert tuple(np.asarray(decoded.tags[b])[mask[b]].tolist()) == best
        np.testing.assert_allclose(shares[b, mask[b]], expected_shares, atol=1e-5)
    assert (np.asarray(decoded.tags)[~mask] == 0).all()
    assert (np.asarray(shares)[~mask] == 0).all()


@pytest.mark.quick()
def test_loss_is_the_mean_over_the_sequences_that_are_not_filler():
    _, emissions, tags, scores = draw(3)
    lengths, options = np.array([T, 0, 2, 1]), dict(scores)
    transitions = options.pop("transitions")
    each = []
    for b, length in enumerate(lengths):
        real = emissions[b, :length]
        each.append(enumerated(real, scores)[2] - score(real, tags[b, :length], **scores))
    loss = lambda tags, **o: crf.loss(emissions, tags, transitions, lengths=lengths, **options, **o)  # noqa: E731
    found = jax.jit(lambda tags: (loss(tags), loss(tags, per_sequence=True)))(tags)
    np.testing.assert_allclose(found[0], sum(each) / 3, rtol=1e-5)
    np.testing.assert_allclose(found[1], each, rtol=1e-5, atol=1e-5)
    one = crf.loss(emissions[0], tags[0], transitions, **options)
    np.testing.assert_allclose(one, each[0], rtol=1e-5)


@pytest.mark.quick()
def test_without_start_end_and_lengths():
    _, emissions, tags, scores = draw(1)
    zeros = np.zeros(C, np.float32)
    whole = {"lengths": np.full(B, T), "start": zeros, "end": zeros}
    a = scores["transitions"]
    np.testing.assert_allclose(LOG_P(emissions, tags, a), LOG_P(emissions, tags, a, **whole))
    np.testing.assert_array_equal(DECODE(emissions, a).tags, DECODE(emissions, a, **whole).tags)


def test_gradient():
    """By central differences of the enumeration, in emissions and in all scores."""
    _, emissions, tags, scores = draw(2, batch=1)
    mask = np.array([[True, True, False, True, False]])

    def by_enumeration(emissions, scores):
        real = emissions[0, mask[0]]
        return score(real, tags[0, mask[0]], **scores) - enumerated(real, scores)[2]

    def run(emissions, scores):
        return crf.log_likelihood(emissions, tags, mask=mask, **scores)[0]

    found = jax.jit(jax.grad(run, argnums=(0, 1)))(emissions, scores)
    wide = jax.tree.map(lambda a: a.astype(np.float64), (emissions, scores))
    for slope, array in zip(jax.tree.leaves(found), jax.tree.leaves(wide), strict=True):
        for index in np.ndindex(array.shape):
            kept, sides = array[index], []
            for side in (1e-4, -1e-4):
                array[index] = kept + side
                sides.append(by_enumeration(*wide))
            array[index] = kept
            np.testing.assert_allclose(slope[index], (sides[0] - sides[1]) / 2e-4, atol=2e-5)


@pytest.mark.quick()
def test_garbage_in_padding_changes_nothing():
    _, emissions, tags, scores = draw(0)
    lengths = np.array([3, 5, 0, 1])
    dirty, dirty_tags = emissions.copy(), tags.copy()
    for b, bad in enumerate((np.nan, 0.0, np.inf, -np.inf)):
        dirty[b, lengths[b] :], dirty_tags[b, lengths[b] :] = bad, -1 if b else 99

    def run(emissions, scores, tags):
        log_p = crf.log_likelihood(emissions, tags, lengths=lengths, **scores)
        best = crf.decode(emissions, lengths=lengths, **scores).scores
        shares = crf.marginals(emissions, lengths=lengths, **scores)
        return (log_p + best).sum() + (shares**2).sum()

    slopes_of = jax.jit(jax.value_and_grad(run, argnums=(0, 1)))
    value, slopes = slopes_of(emissions, scores, tags)
    got, dirty_slopes = slopes_of(dirty, scores, dirty_tags)
    assert value == got
    jax.tree.map(np.testing.assert_array_equal, slopes, dirty_slopes)
    assert (slopes[0][~(np.arange(T) < lengths[:, None])] == 0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))


@pytest.mark.quick()
def test_ruled_out():
    """What -inf forbids is not found, has no share and no gradient, and leaves numbers behind."""
    _, emissions, tags, scores = draw(3)
    scores["transitions"][0, 1] = scores["start"][2] = scores["end"][0] = -np.inf
    emissions[1, 2, 1] = -np.inf
    tags[0], tags[1] = [0, 2, 2, 1, 1], [0, 1, 1, 2, 2]
    found, shares = DECODE(emissions, **scores).tags, np.asarray(MARGINALS(emissions, **scores))
    finite = {name: np.where(np.isinf(a), -1e4, a) for name, a in scores.items()}
    for b in range(B):
        best, _, _, expected = enumerated(np.maximum(emissions[b], -1e4), finite)
        assert tuple(found[b].tolist()) == best
        np.testing.assert_allclose(shares[b], expected, atol=1e-5)
    assert (shares[:, 0, 2] == 0).all() and shares[1, 2, 1] == 0
    log_p = LOG_P(emissions, tags, **scores)
    assert -50 < log_p[0] < 0 and log_p[1] == -np.inf
    likelihood = jax.jit(jax.grad(lambda e, s: LOG_P(e, tags, **s).sum(), (0, 1)))
    nothing = jnp.full((B, T, C), -jnp.inf)
    run = jax.grad(
        lambda e, s: crf.log_partition(e, **s).sum() + crf.decode(e, **s).scores.sum(), (0, 1)
    )
    for given_emissions in (emissions, nothing):
        for function in (jax.jit(run), likelihood):
            slopes = function(given_emissions, scores)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert LOG_Z(nothing, **scores).tolist() == [-np.inf] * B
    assert DECODE(nothing, **scores).scores.tolist() == [-np.inf] * B
    assert not MARGINALS(nothing, **scores).any()


def test_ties_take_the_lower_tags():
    found = DECODE(np.zeros((1, 4, C), np.float32), np.zeros((C, C), np.float32))
    assert found.tags.tolist() == [[0, 0, 0, 0]] and found.scores.tolist() == [0.0]


@pytest.mark.quick("shape0")
@pytest.mark.parametrize("shape", [(0, T), (B, 0), (0, 0), (2, 0, T), ()])
def test_empty_axes_and_other_batch_axes(shape):
    *batch, steps = shape or (T,)
    _, emissions, tags, scores = draw(0, batch=1, steps=steps)
    emissions, tags = (
        np.broadcast_to(emissions[0], (*batch, steps, C)),
        np.zeros((*batch, steps), int),
    )
    found = EVERY(emissions, tags, scores)
    assert {a.shape for a in (found.log_p, found.log_z, found.decoded.scores)} == {tuple(batch)}
    assert found.decoded.tags.shape == tags.shape
    assert found.marginals.shape == emissions.shape
    if not steps:
        assert not np.any(found.log_p)


@pytest.mark.quick()
def test_vmap_and_batch_axes_agree():
    rng, emissions, tags, scores = draw(4)
    lengths = rng.integers(0, T + 1, B)

    def every(emissions, tags, lengths):
        return EVERY(emissions, tags, scores | {"lengths": lengths})

    whole = every(emissions, tags, lengths)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # noqa: E731
    jax.tree.map(close, jax.jit(jax.vmap(every))(emissions, tags, lengths), whole)
    squares = (array.reshape(2, 2, *array.shape[1:]) for array in (emissions, tags, lengths))
    jax.tree.map(lambda a, b: close(a, b.reshape(a.shape)), every(*squares), whole)


@pytest.mark.quick()
def test_half_precision_and_strict_promotion():
    _, emissions, tags, scores = draw(5)
    scores = {name: jnp.asarray(value, jnp.bfloat16) for name, value in scores.items()}
    half = jnp.asarray(emissions, jnp.bfloat16)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), scores)
    with jax.numpy_dtype_promotion("strict"):
        found = EVERY(half, tags, scores)
    assert found.decoded.scores.dtype == found.marginals.dtype == jnp.float32
    np.testing.assert_array_equal(found.log_p, LOG_P(half.astype(jnp.float32), tags, **wide))


def test_float64(x64):
    _, emissions, tags, scores = draw(6)
    found = LOG_P(jnp.asarray(emissions, float), tags, **scores)
    assert found.dtype == jnp.float64
    expected = score(emissions[0], tags[0], **scores) - enumerated(emissions[0], scores)[2]
    np.testing.assert_allclose(found[0], expected, rtol=1e-12)


@pytest.mark.quick()
def test_long_sequences():
    """Against the recursion in float64; the scores are in the thousands."""
    _, emissions, _, scores = draw(7, batch=1, steps=2000)
    alpha = scores["start"].astype(float) + emissions[0, 0]
    for t in range(1, 2000):
        alpha = (
            np.logaddexp.reduce(alpha[:, None] + scores["transitions"], axis=0) + emissions[0, t]
        )
    expected = np.logaddexp.reduce(alpha + scores["end"])
    np.testing.assert_allclose(LOG_Z(emissions, **scores)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(MARGINALS(emissions, **scores).sum(-1), 1.0, atol=5e-3)


@pytest.mark.quick()
def test_module():
    _, emissions, tags, scores = draw(8)
    module = crf.CRF(C)
    assert all(not leaf.any() for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
    for name, value in scores.items():
        getattr(module, name)[...] = jnp.asarray(value)
    lengths = np.array([5, 0, 2, 3])
    mask = np.arange(T) < lengths[:, None]

    @nnx.jit
    def every(module):
        options = {"lengths": lengths}
        found = Everything(
            module.log_likelihood(emissions, tags, **options),
            module.log_partition(emissions, **options),
            module.decode(emissions, **options),
            module.marginals(emissions, mask=mask),
        )
        return found, module.loss(emissions, tags, **options)

    found, loss = every(module)
    expected = EVERY(emissions, tags, scores | {"lengths": lengths})
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)  # noqa: E731
    jax.tree.map(close, found, expected)
    close(loss, -expected.log_p.sum() / 3)

    negative = lambda module: -module.log_likelihood(emissions, tags, mask=mask).sum()  # noqa: E731
    slopes = nnx.jit(nnx.grad(negative))(module)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(slopes))
    with pytest.raises(ValueError, match="num_tags: expected a positive integer, got 0"):
        crf.CRF(0)
    with pytest.raises(TypeError, match="param_dtype: expected a floating-point dtype"):
        crf.CRF(2, param_dtype=int)


GOOD = {
    "emissions": np.zeros((2, 4, 3), np.float32),
    "tags": np.zeros((2, 4), int),
    "transitions": np.zeros((3, 3), np.float32),
}
MISTAKES = [
    (
        TypeError,
        r"emissions: expected float \[\.\.\., T, C\], got dtype int",
        {"emissions": np.zeros((2, 4, 3), int)},
    ),
    (
        ValueError,
        r"emissions: expected \[\.\.\., T, C\], got \(3,\)",
        {"emissions": np.zeros(3, np.float32)},
    ),
    (
        ValueError,
        r"emissions: expected \[\.\.\., T, C\]",
        {"emissions": np.zeros((2, 4, 0), np.float32)},
    ),
    (TypeError, r"tags: expected integers \[\.\.\., T\]", {"tags": np.zeros((2, 4))}),
    (ValueError, r"tags: expected shape \(2, 4\), got \(2, 3\)", {"tags": np.zeros((2, 3), int)}),
    (
        ValueError,
        r"tags: expected values in \[0, 2\] at real positions, got 3",
        {"tags": np.full((2, 4), 3)},
    ),
    (
        ValueError,
        r"transitions: expected shape \(3, 3\) for C=3, got \(2, 2\)",
        {"transitions": np.zeros((2, 2), np.float32)},
    ),
    (TypeError, r"transitions: expected float \[3, 3\], got None", {"transitions": None}),
    (
        ValueError,
        r"start: expected shape \(3,\) for C=3, got \(4,\)",
        {"start": np.zeros(4, np.float32)},
    ),
    (TypeError, r"end: expected float \[3\], got dtype int", {"end": np.zeros(3, int)}),
    (ValueError, r"lengths: expected 0 to 4", {"lengths": np.array([5, 1])}),
    (TypeError, r"mask: expected bool", {"mask": np.ones((2, 4))}),
    (
        ValueError,
        r"lengths, mask: expected one of them",
        {"lengths": np.array([4, 1]), "mask": np.ones((2, 4), bool)},
    ),
]


@pytest.mark.parametrize(("error", "message", "changed"), MISTAKES)
def test_mistakes(error, message, changed):
    with pytest.raises(error, match=message):
        crf.log_likelihood(**(GOOD | changed))
    if "tags" not in changed:
        rest = {name: value for name, value in (GOOD | changed).items() if name != "tags"}
        for function in (crf.log_partition, crf.decode, crf.marginals):
            with pytest.raises(error, match=message):
                function(**rest)


def test_a_wrong_tag_under_tracing_is_nan():
    tags = np.zeros((2, 4), int)
    tags[0, 1] = 3
    found = LOG_P(GOOD["emissions"], tags, GOOD["transitions"])
    assert np.isnan(found[0]) and np.isfinite(found[1])


@pytest.mark.quick()
def test_finite_scores_are_never_cut_off():
    """However low they are, the best tagging is the best, and its probability is right."""
    emissions = jnp.array([[[-2e5, -3e5], [-2.5e5, -2.2e5]]])
    transitions = jnp.zeros([2, 2])
    tags, scores = crf.decode(emissions, transitions)
    assert tags.tolist() == [[0, 1]] and scores.tolist() == [-420000.0]
    assert crf.log_likelihood(emissions, jnp.array([[0, 1]]), transitions).tolist() == [0.0]
    wrong = crf.log_likelihood(emissions, jnp.array([[1, 0]]), transitions)
    np.testing.assert_allclose(wrong, [-130000.0])


def test_what_is_ruled_out_is_not_bought_by_many_steps():
    """A step from tag 1 back to tag 0 would gain 120000, and is forbidden."""
    steps = 60000
    emissions = np.zeros([1, steps, 2], np.float32)
    emissions[0, : steps // 2, 1] = emissions[0, steps // 2 :, 0] = 4
    transitions = jnp.array([[0.0, 0.0], [-jnp.inf, 0.0]])
    tags, scores = crf.decode(emissions, transitions)
    back = (np.asarray(tags)[0, :-1] == 1) & (np.asarray(tags)[0, 1:] == 0)
    assert not back.any() and scores.tolist() == [120000.0]


@pytest.mark.quick()
def test_tags_in_bytes():
    tags = np.array([[1, 255]], np.uint8)
    for function in (crf.log_likelihood, jax.jit(crf.log_likelihood)):
        log_p = function(jnp.zeros((1, 2, 256)), tags, jnp.zeros((256, 256)))
        np.testing.assert_allclose(log_p, -2 * np.log(256), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_marginals_of_scores_that_are_no_numbers_are_nan(value):
    emissions = np.zeros((3, 3, 2), np.float32)
    emissions[0, 1, 0] = emissions[1, 2, 0] = value
    transitions = np.zeros((2, 2), np.float32)
    found = crf.marginals(emissions, transitions, lengths=np.array([2, 2, 3]))
    assert jnp.isnan(found[0, :2]).all()
    np.testing.assert_array_equal(found[:2, 2], 0.0)  # padding
    np.testing.assert_allclose(found[1, :2], 0.5)
    np.testing.assert_allclose(found[2], 0.5)
