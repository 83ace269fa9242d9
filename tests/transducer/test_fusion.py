"""The transducer beam search with a second model, against all label sequences in float64."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import decoding, nn
from seqjax.transducer import Transducer, transducer_beam_search
from tests.decoding.fusion import BLANK, assert_best, second, total
from tests.transducer.helpers import E, Networks, P, V, every_labelling, functions

LENGTHS = np.array([3, 2, 0])
MOST = 2


@jax.jit
def SEARCH(arrays, frames, lengths, table, weight, bonus):
    """The search with the second model and an end token; the weights are traced."""

    def step(tokens, count):
        return table[jnp.minimum(count, 7), tokens], count + 1

    joint, predict = functions(arrays)
    return transducer_beam_search(
        joint, predict, frames, jnp.zeros((3, P)), lengths=lengths, blank=BLANK, beam_width=128,
        n_best=5, max_symbols=MOST, fusion=decoding.LogLinear([step], [weight], bonus),
        fusion_state=(jnp.zeros(3, jnp.int32),), end=BLANK,
    )  # fmt: skip


@pytest.mark.quick()
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_definition(seed):
    networks = Networks(seed)
    frames = np.random.default_rng(seed).normal(size=(3, 3, E)).astype(np.float32)
    scores, _ = second(seed)
    table = jnp.asarray(scores, jnp.float32)
    found = jax.device_get(SEARCH(networks.arrays(), frames, LENGTHS, table, 0.7, 0.3))
    for b, length in enumerate(LENGTHS):
        every = {
            labels: (np.log(p), total(scores, labels, BLANK, 0.3))
            for labels, p in every_labelling(networks, frames[b, :length], BLANK, MOST).items()
        }
        assert_best(found, b, every, 5)
    assert np.isneginf(found.scores[2, 1:]).all()  # without frames, only the empty output exists


def search_loop(networks, frames, scores, width, bonus):
    """The search over a dictionary of prefixes, which are compared with the second model."""

    def top(beam):
        ranked = sorted(
            beam, key=lambda prefix: -(beam[prefix] + total(scores, prefix, None, bonus))
        )
        return {prefix: beam[prefix] for prefix in ranked[:width]}

    def rank(beam):
        return [beam[prefix] + total(scores, prefix, None, bonus) for prefix in beam]

    states: dict[tuple[int, ...], np.ndarray] = {(): networks.step(BLANK, np.zeros(P))}
    beam: dict[tuple[int, ...], float] = {(): 0.0}
    for frame in frames:
        live = beam
        ended: dict[tuple[int, ...], float] = {}
        for s in range(MOST + 1):
            grown = {}
            for prefix, log_p in live.items():
                p = networks.log_probs(frame, states[prefix])
                ended[prefix] = float(np.logaddexp(ended.get(prefix, -np.inf), log_p + p[BLANK]))
                for label in set(range(V)) - {BLANK}:
                    grown[*prefix, label] = log_p + p[label]
                    states[*prefix, label] = networks.step(label, states[prefix])
            ended, live = top(ended), top(grown)
            if s == MOST or (len(ended) == width and max(rank(live)) <= min(rank(ended))):
                break
        beam = ended
    return list(zip(beam, rank(beam), strict=True))


@pytest.mark.quick()
@pytest.mark.parametrize(("width", "bonus"), [(1, 0.3), (3, -2.0), (3, 2.0)])
def test_a_narrow_beam_is_the_loop(width, bonus):
    """Also if each label costs or gains much, which decides how many labels a frame may have."""
    networks = Networks(6, 1.0)
    frames = np.random.default_rng(6).normal(size=(1, 9, E)).astype(np.float32)
    scores, step = second()
    joint, predict = functions(networks.arrays())
    fused = decoding.LogLinear([step], [0.7], bonus)
    found = jax.jit(
        lambda frames: transducer_beam_search(
            joint, predict, frames, jnp.zeros((1, P)), blank=BLANK, beam_width=width, n_best=width,
            max_symbols=MOST, fusion=fused, fusion_state=(jnp.zeros(1, jnp.int32),),
        )
    )(frames)  # fmt: skip
    for k, (labels, score) in enumerate(search_loop(networks, frames[0], scores, width, bonus)):
        assert tuple(np.asarray(found.tokens[0, k, : found.lengths[0, k]])) == labels
        np.testing.assert_allclose(found.scores[0, k], score, rtol=1e-4, atol=1e-5)


@pytest.mark.quick()
def test_a_label_that_the_second_model_forbids_does_not_occur():
    networks = Networks(9)
    frames = np.random.default_rng(9).normal(size=(1, 2, E)).astype(np.float32)
    joint, predict = functions(networks.arrays())
    forbids = jnp.array([0.0, 0.0, -jnp.inf])
    found = transducer_beam_search(
        joint, predict, frames, jnp.zeros((1, P)), beam_width=8, n_best=8, max_symbols=MOST,
        fusion=lambda tokens, state: (jnp.tile(forbids, (len(tokens), 1)), state),
    )  # fmt: skip
    assert not np.isnan(found.scores).any() and (found.tokens != 2).all()
    # Label 1 alone: none to four of them.
    np.testing.assert_array_equal(np.isfinite(found.scores), [[True] * 5 + [False] * 3])


@pytest.mark.quick()
def test_the_model_passes_its_arguments_on():
    rngs = nnx.Rngs(0)
    model = Transducer(
        nn.GRU(3, 4, rngs=rngs), nn.GRU(2, 4, rngs=rngs), vocabulary=V, joint_size=4, rngs=rngs
    )
    names = decoding.Hotwords([[2, 1]], vocabulary_size=V, bonus=30.0)
    options: Any = {"fusion": names, "fusion_state": names.initial_state(1), "end": 0}
    found = model.beam_search(jnp.ones((1, 1, 3)), beam_width=4, max_symbols=2, **options)
    assert found.tokens[0, 0].tolist() == [2, 1]
    np.testing.assert_allclose(found.scores - found.log_probs, 60.0, rtol=1e-4)
    with pytest.raises(ValueError, match=r"fusion_state: expected arrays \[B, …\] with B=1"):
        model.beam_search(
            jnp.ones((1, 1, 3)), fusion=names, fusion_state=names.initial_state(2), begin=0
        )
    for name in ("fusion_state", "begin", "end"):
        with pytest.raises(ValueError, match=f"{name}: expected None without `fusion`, got 0"):
            model.beam_search(jnp.ones((1, 1, 3)), **{name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [0, 2])
def test_scores_that_are_no_numbers_give_nan_in_their_sequence(label):
    """At the start, or after a label that is not in the best output."""
    frames = np.array([[[0.0, 6.0, 1.0], [6.0, 0.0, 0.0]]] * 2, np.float32)
    predict = lambda y, s: (  # noqa: E731
        jnp.where((y > 0)[:, None], jnp.array([9.0, 0.0, 0.0]), 0.0),
        s,
    )
    step = lambda tokens, state: (  # noqa: E731
        jnp.where(((tokens == label) & state)[:, None], jnp.nan, jnp.zeros(3)),
        state,
    )
    found = transducer_beam_search(
        lambda f, g: f + g, predict, frames, jnp.zeros((2, 1)), fusion=step,
        fusion_state=jnp.array([True, False]), n_best=2,
    )  # fmt: skip
    for scores in (found.log_probs, found.scores):
        assert jnp.isnan(scores).tolist() == [[True] * 2, [False] * 2]
    assert found.tokens[1, 0, 0] == 1


def test_refuses_steps_that_return_another_state():
    with pytest.raises(ValueError, match=r"fusion: .* float32\(8,\), got float32\(8, 1\)"):
        transducer_beam_search(
            lambda f, g: f + g, lambda y, s: (jnp.zeros((len(y), 3)), s), jnp.zeros((1, 2, 3)),
            jnp.zeros((1, 1)), fusion_state=jnp.zeros(1),
            fusion=lambda tokens, state: (jnp.zeros((len(tokens), 3)), state[:, None]),
        )  # fmt: skip
