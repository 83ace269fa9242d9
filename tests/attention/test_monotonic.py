"""What monotonic attention promises beyond its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.attention import MoChA, Monotonic
from tests.attention import references
from tests.attention.cases import BATCH, MASK, M, Q, params_of, run
from tests.cases import assert_close

STEPS = 8


def problem_of(cls, scale=1.0, bias=-1.0, seed=2, **options):
    """A mechanism, parameters whose scores are of the size `scale`, queries and a memory."""
    attention = cls(Q, M, **options)
    params = params_of(attention)
    inner = params.monotonic if cls is MoChA else params
    inner = inner._replace(g=jnp.float32(scale), r=jnp.float32(bias))
    params = params._replace(monotonic=inner) if cls is MoChA else inner
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(STEPS, *BATCH, Q)).astype(np.float32)
    memory = rng.normal(size=(*MASK.shape, M)).astype(np.float32)
    return attention, params, queries, memory


each = pytest.mark.parametrize("cls", [Monotonic, MoChA])


@pytest.mark.parametrize("seed", range(4))
@each
def test_hard_attention_never_moves_left(cls, seed):
    attention, params, queries, memory = problem_of(cls, 3.0, -0.5, seed, mode="hard")
    stops = np.asarray(run(attention, params, queries, memory, MASK)[2])
    assert set(np.unique(stops)) <= {0, 1}
    assert (stops.sum(-1) <= 1).all()
    assert len(np.unique(stops.argmax(-1))) > 2, "a test in which nothing moves"
    for row in range(BATCH[0]):
        at = [int(step.argmax()) for step in stops[:, row] if step.any()]
        assert at == sorted(at)
        left = ~stops[:, row].any(-1)
        assert (left == np.maximum.accumulate(left)).all(), "who has left stays away"


@pytest.mark.parametrize("seed", range(4))
@each
def test_soft_equals_hard_where_probabilities_saturate(cls, seed):
    # v . tanh(...) is within 1 for a unit v times sqrt(U); far from 0 almost everywhere.
    soft, params, queries, memory = problem_of(cls, 1e4, -0.5, seed)
    hard = type(soft)(Q, M, mode="hard")
    assert_close(
        run(soft, params, queries, memory, MASK), run(hard, params, queries, memory, MASK), 1e-5
    )


@each
def test_soft_weights_sum_to_at_most_one_and_lose_it_for_good(cls):
    attention, params, queries, memory = problem_of(cls)
    _, weights, stops = run(attention, params, queries, memory, MASK)
    for sums in (np.asarray(weights).sum(-1), np.asarray(stops).sum(-1)):
        assert (sums <= 1 + 1e-6).all()
        assert (np.diff(sums, axis=0) <= 1e-6).all()
    np.testing.assert_allclose(np.asarray(weights).sum(-1), np.asarray(stops).sum(-1), atol=1e-6)


@each
def test_expected_position_never_moves_left(cls):
    """The probability of having stopped at or before a position never rises from step to step."""
    attention, params, queries, memory = problem_of(cls)
    stops = np.asarray(run(attention, params, queries, memory, MASK)[2])
    assert (np.diff(stops.cumsum(-1), axis=0) <= 1e-6).all()


@pytest.mark.quick("mocha-MoChA-options0", "monotonic-Monotonic-options1")
@pytest.mark.parametrize("options", [{}, {"mode": "hard"}, {"temperature": 0.5}])
@pytest.mark.parametrize("name, cls", [("monotonic", Monotonic), ("mocha", MoChA)])
def test_noise_is_added_before_the_sigmoid(name, cls, options):
    attention, params, queries, memory = problem_of(cls, **options)
    noise = np.random.default_rng(5).normal(size=(STEPS, *MASK.shape)).astype(np.float32)
    prepared = attention.precompute(params, memory, mask=MASK)
    state, contexts, weights = attention.initial_state(prepared), [], []
    attend = jax.jit(attention.attend)
    for t in range(STEPS):
        context, shown, state = attend(params, queries[t], prepared, state, noise[t])
        contexts.append(context)
        weights.append(shown)
    want = references.attend_steps(name, attention, params, queries, memory, MASK, noise)
    assert_close((contexts, weights), tuple(map(list, want[:2])), 3e-6, 3e-6)
    quiet = run(attention, params, queries, memory, MASK)
    assert jnp.abs(quiet[1] - jnp.stack(weights)).max() > 0.01


def test_logistic_noise_samples_hard_attention():
    """Stops drawn in mode "hard" are, on average, the weights of mode "soft"."""
    soft, params, queries, memory = problem_of(Monotonic)
    hard = Monotonic(Q, M, mode="hard")
    prepared = soft.precompute(params, memory, mask=MASK)
    start = soft.initial_state(prepared)

    @jax.jit
    @jax.vmap
    def drawn(key):
        state = start
        for t, k in enumerate(jax.random.split(key, 2)):
            noise = jax.random.logistic(k, MASK.shape)
            _, _, state = hard.attend(params, queries[t], prepared, state, noise)
        return state

    mean = drawn(jax.random.split(jax.random.key(0), 4000)).mean(0)
    assert_close(mean, run(soft, params, queries[:2], memory, MASK)[2][-1], 0.04)


@pytest.mark.quick()
@each
def test_long_sources_and_saturated_scores_stay_exact(cls):
    """Where the paper's cumulative product underflows: many positions, p near 1 at most of them."""
    name = "mocha" if cls is MoChA else "monotonic"
    attention, params, queries, _ = problem_of(cls, 4.0, 2.0)
    memory = np.random.default_rng(6).normal(size=(1, 90, M)).astype(np.float32)
    mask = np.ones((1, 90), bool)
    arguments = queries[:3, :1], memory, mask
    got = run(attention, params, *arguments)
    want = references.attend_steps(name, attention, params, *arguments)
    assert_close(got, want, 1e-5, 1e-5)
    gradient = jax.jit(jax.grad(lambda p: (run(attention, p, *arguments)[0] ** 2).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_chunks_of_very_different_energies_have_weights_of_their_own():
    """A chunk 200 below the highest energy still has a softmax: exp(-200) is 0 in float32."""
    from seqjax.attention._monotonic import chunkwise

    stops = jnp.array([0.0, 0.5, 0.0, 0.5])
    scores = jnp.array([0.0, 0.0, 200.0, 200.0])
    weights = chunkwise(stops, scores, jnp.ones(4, bool), 2)
    assert_close(weights, np.array([0.25, 0.25, 0.25, 0.25]))
    far = jnp.array([-300.0, -300.0, 200.0, 200.0])
    assert_close(chunkwise(stops, far, jnp.ones(4, bool), 2), np.array([0.25, 0.25, 0.25, 0.25]))


def test_chunks_of_one_are_monotonic_attention():
    mocha, params, queries, memory = problem_of(MoChA, chunk_width=1)
    plain = Monotonic(Q, M)
    assert_close(
        run(mocha, params, queries, memory, MASK),
        run(plain, params.monotonic, queries, memory, MASK),
        1e-6,
    )


@each
def test_starts_at_the_first_real_position(cls):
    attention = cls(Q, M)
    params = params_of(attention)
    prepared = attention.precompute(params, np.ones((*MASK.shape, M), np.float32), mask=MASK)
    want = np.zeros(MASK.shape)
    for row, first in enumerate([0, 2, 1, None, 0, 2]):
        if first is not None:
            want[row, first] = 1
    assert_close(attention.initial_state(prepared), want)


@pytest.mark.parametrize("mode", ["soft", "hard"])
@each
def test_nan_in_a_query_is_not_lost(cls, mode):
    """The context is NaN at this step and at the following ones, but only in this row."""
    attention, params, queries, memory = problem_of(cls, 3.0, -0.5, mode=mode)
    clean = run(attention, params, queries, memory, MASK)
    queries[2, 0] = np.nan
    contexts, _, stops = run(attention, params, queries, memory, MASK)
    assert np.isnan(contexts[2:, 0]).all() and np.isnan(stops[2:, 0]).any(-1).all()
    np.testing.assert_array_equal(contexts[:2], clean[0][:2])
    np.testing.assert_array_equal(contexts[:, 1:], clean[0][:, 1:])


def test_a_nan_score_counts_only_where_hard_attention_passes():
    from seqjax.attention._monotonic import hard_alignment

    nan = np.nan
    mask = jnp.array([True, True, True, True, False])
    previous = jnp.array([0.0, 1.0, 0.0, 0.0, 0.0])
    for scores, want in [
        ([nan, 1.0, nan, 1.0, nan], [0, 1, 0, 0, 0]),
        ([1.0, -1.0, nan, 1.0, nan], [0, 0, nan, 0, 0]),
        ([1.0, -1.0, -1.0, -1.0, nan], [0, 0, 0, 0, 0]),
        ([1.0, -1.0, 0.0, np.inf, nan], [0, 0, 0, 1, 0]),
    ]:
        np.testing.assert_array_equal(hard_alignment(jnp.array(scores), mask, previous), want)
    unknown = jnp.array([0.0, nan, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(hard_alignment(-jnp.ones(5), mask, unknown), unknown)
    missing = jnp.ones(5, bool).at[1].set(False)  # the position is skipped
    found = hard_alignment(jnp.array([0, nan, 1.0, 1.0, 0]), missing, jnp.eye(5)[0])
    np.testing.assert_array_equal(found, [0, 0, 1, 0, 0])
