"""The transducer model: its equations, its step on streams, its modes and its errors."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from seqjax import nn, streaming
from seqjax.ctc import ctc_loss
from seqjax.transducer import Transducer, transducer_beam_search, transducer_loss
from tests.cases import randomised

B, T, N, I, V, BLANK = 3, 6, 4, 5, 4, 1
LABELS = np.array([[0, 3, 2, 99], [2, 2, 3, 0], [-1, 1, 1, 1]])
COUNTS, LENGTHS = np.array([3, 4, 0]), np.array([4, 6, 3])


@functools.cache
def models(seed=0, scale=1.0, **options):
    """A transducer with random biases, whose logits differ widely."""

    def make():
        rngs = nnx.Rngs(0)
        layers: Any = (
            nn.GRU(I, 6, num_layers=2, rngs=rngs),
            nn.LSTM(3, 5, learned_initial_state=True, rngs=rngs),
        )
        return Transducer(*layers, vocabulary=V, joint_size=7, blank=BLANK, rngs=rngs, **options)

    model = randomised(make, seed, scale)
    model.eval()
    return model


@pytest.fixture(scope="module")
def frames():
    clean = np.random.default_rng(1).normal(size=(B, T, I)).astype(np.float32)
    return clean, np.where(np.arange(T)[:, None] < LENGTHS[:, None, None], clean, np.nan)


def test_logits_are_the_equations(frames):
    model, (_, dirty) = models(), frames

    @jax.jit
    def run(model, frames):
        logits = model(frames, LABELS, lengths=LENGTHS, label_lengths=COUNTS)
        return logits, model.encoder(frames, lengths=LENGTHS)[0]

    @jax.jit
    def predict(model, read):
        return model.predictor(read)[0]

    logits, encoded = jax.device_get(run(model, dirty))
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), nnx.to_pure_dict(nnx.state(model)))
    table = p["embedding"]["embedding"]
    for b in (0, 1):
        read = np.zeros((1, N + 1, 3), np.float32)
        read[0, 1 : COUNTS[b] + 1] = table[LABELS[b, : COUNTS[b]]]
        predicted = np.asarray(predict(model, read)[0, : COUNTS[b] + 1])
        f = encoded[b, : LENGTHS[b]] @ p["of_encoded"]["kernel"] + p["of_encoded"]["bias"]
        g = predicted @ p["of_predicted"]["kernel"]
        hidden = np.tanh(f[:, None] + g[None])
        expected = hidden @ p["readout"]["kernel"] + p["readout"]["bias"]
        found = logits[b, : LENGTHS[b], : COUNTS[b] + 1]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_loss_is_that_of_the_logits(frames):
    """Also its gradient, with NaN in padded frames and invalid labels in padding."""
    model, (clean, dirty) = models(), frames
    options: Any = {"lengths": LENGTHS, "label_lengths": COUNTS}
    valid = np.where(np.arange(N) < COUNTS[:, None], LABELS, 0)

    def of_logits(model):
        logits = model(clean, valid, **options)
        return transducer_loss(logits, valid, blank=BLANK, **options)

    def of_model(model):
        return model.loss(dirty, LABELS, chunk_size=4, **options)

    value, slopes = jax.jit(jax.value_and_grad(of_logits))(model)
    got, found = jax.jit(jax.value_and_grad(of_model))(model)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    for slope, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, slope, rtol=1e-3, atol=1e-5)
        assert np.abs(slope).max() > 0


@pytest.mark.quick()
def test_loss_with_the_ctc_loss_of_the_encoder(frames):
    """The second term reads only the frames. Without a path of CTC, it is 0."""
    model, (clean, dirty) = models(), frames
    lengths = np.array([3, 6, 3])
    options: Any = {"lengths": lengths, "label_lengths": COUNTS}
    labels = np.where(np.arange(N) < COUNTS[:, None], LABELS, 0)
    labels[0, :3] = 2  # needs five frames

    def loss(model, frames, weight):
        return model.loss(frames, labels, ctc_weight=weight, per_sequence=True, **options)

    run = jax.jit(loss, static_argnums=2)

    @jax.jit
    def parts(model):
        logits = model.joint(model.encode(clean), 0.0)
        ctc = ctc_loss(logits, labels, blank=BLANK, per_sequence=True, **options)
        return model.loss(clean, labels, per_sequence=True, **options), ctc

    whole, ctc = jax.device_get(parts(model))
    assert np.isinf(ctc[0]) and np.isfinite(ctc[1:]).all()
    expected = 0.7 * whole + 0.3 * np.where(np.isinf(ctc), 0, ctc)
    np.testing.assert_allclose(run(model, dirty, 0.3), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(model, dirty, 0.3), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="ctc_weight"):
        model.loss(clean, labels, ctc_weight=1.0, **options)


@pytest.mark.quick()
def test_a_stream_decodes_like_a_sequence(frames):
    """Frame by frame, with streams that come and go, and in chunks."""
    clean, dirty = frames
    model = models(3)
    decoded = jax.jit(lambda m, x: m.greedy(x, lengths=LENGTHS))(model, dirty)
    assert decoded.lengths.max() > 2
    session = streaming.Session(model, capacity=2, example=np.zeros(I, np.float32))
    found: dict[int, list[int]] = {b: [] for b in range(B)}
    session.open(0)
    session.open(1)
    for t in range(LENGTHS[0]):
        for b, labels in session.step({b: clean[b, t] for b in (0, 1)}).items():
            found[b] += labels.tolist()
    session.close(0)
    session.open(2)
    rest = {1: clean[1, LENGTHS[0] :], 2: clean[2, : LENGTHS[2]]}
    for b, labels in session.feed(rest).items():
        found[b] += labels.reshape(-1).tolist()
    for b in range(B):
        labels = [label for label in found[b] if label != BLANK]
        assert labels == decoded.tokens[b, 0, : decoded.lengths[b, 0]].tolist()


@pytest.mark.quick()
def test_search_is_the_function(frames):
    clean, dirty = frames
    model = models(3)
    options: Any = {"beam_width": 3, "n_best": 2, "max_symbols": 2}

    @jax.jit
    def both(model, dirty, clean):
        encoded = model.encode(clean, lengths=LENGTHS)
        state = model.predictor.initial_state(B)
        found = transducer_beam_search(
            model.joint, model.predict, encoded, state, lengths=LENGTHS, blank=BLANK, **options
        )
        return model.beam_search(dirty, lengths=LENGTHS, **options), found

    method, function = both(model, dirty, clean)
    jax.tree.map(np.testing.assert_array_equal, method, function)
    assert method.tokens.shape == (B, 2, 2 * T) and (method.lengths > 0).any()


@pytest.mark.quick()
def test_dropout_needs_rngs_in_training(frames):
    clean, _ = frames
    rngs = nnx.Rngs(0)
    layers: Any = nn.GRU(I, 6, num_layers=2, dropout=0.5, rngs=rngs), nn.GRU(3, 5, rngs=rngs)
    model = Transducer(*layers, vocabulary=V, joint_size=7, dropout=0.5, rngs=rngs)
    labels = np.ones((B, 2), int)
    run = nnx.jit(lambda model, rngs: model.loss(clean, labels, rngs=rngs))
    with pytest.raises(ValueError, match=r"rngs: .* in training with dropout"):
        model.loss(clean, labels)
    with pytest.raises(ValueError, match=r"rngs: .* in training with dropout"):
        model.encode(clean)
    losses = [float(run(model, key)) for key in map(jax.random.key, (0, 0, 1))]
    assert losses[0] == losses[1] != losses[2]
    given = float(jax.jit(lambda m: m.loss(clean, labels, deterministic=True))(model))
    model.eval()
    np.testing.assert_allclose(run(model, None), given, rtol=1e-6)
    assert all(abs(loss - given) > 1e-4 for loss in losses)


def test_dropout_applies_to_both_networks(frames):
    """The logits of a model depend on one network alone if the part of the other is zero."""
    clean, _ = frames
    for part in ("of_encoded", "of_predicted"):
        rngs = nnx.Rngs(0)
        layers: Any = nn.GRU(I, 6, rngs=rngs), nn.GRU(3, 5, rngs=rngs)
        model = Transducer(*layers, vocabulary=V, joint_size=7, dropout=0.5, rngs=rngs)
        kernel = getattr(model, part).kernel
        kernel[...] = 0 * kernel[...]

        @jax.jit
        def both(model, key):
            run = functools.partial(model, clean, np.ones((B, 2), int))
            return run(rngs=key), run(deterministic=True)

        dropped, kept = jax.device_get(both(model, jax.random.key(0)))
        assert np.abs(dropped - kept).max() > 0.01


def test_wrong_labels(frames):
    clean, _ = frames
    model = models()
    with pytest.raises(ValueError, match="labels: expected classes from 0 to 3 except blank=1"):
        model.loss(clean, np.full((B, 1), BLANK))
    labels = np.array([[0], [V], [BLANK]])
    run = jax.jit(lambda model, labels: model.loss(clean, labels, per_sequence=True))
    assert np.isnan(run(model, labels)).tolist() == [False, True, True]
    logits = jax.jit(lambda model, labels: model(clean, labels))(model, labels)
    assert np.isnan(logits).all(axis=(1, 2, 3)).tolist() == [False, True, True]


@pytest.mark.quick()
def test_a_bidirectional_model_has_no_stream(frames):
    clean, _ = frames
    rngs = nnx.Rngs(0)
    layers: Any = nn.GRU(I, 6, bidirectional=True, rngs=rngs), nn.GRU(3, 5, rngs=rngs)
    model = Transducer(*layers, vocabulary=V, joint_size=7, rngs=rngs)
    assert model.greedy(clean).tokens.shape == (B, 1, 4 * T)
    with pytest.raises(ValueError, match="model: expected one direction"):
        streaming.Session(model, example=np.zeros(I, np.float32))
    with pytest.raises(ValueError, match="bidirectional"):
        model.step(clean[:, 0], model.initial_state(B))


BAD = [
    ("encoder", nnx.Linear(2, 2, rngs=nnx.Rngs(0)), TypeError, "encoder: expected a recurrent"),
    ("encoder", nn.GRU(2, 3, time_major=True, rngs=nnx.Rngs(0)), ValueError, "time_major=True"),
    ("predictor", nn.GRU(2, 3, bidirectional=True, rngs=nnx.Rngs(0)), ValueError, "one direction"),
    ("vocabulary", 0, ValueError, "vocabulary: expected a positive integer"),
    ("joint_size", 0.5, TypeError, "joint_size: expected"),
    ("dropout", 1.0, ValueError, "dropout: expected"),
    ("blank", 4, ValueError, "blank: expected a class below V=4, got 4"),
    ("max_symbols", 0, ValueError, "max_symbols: expected a positive integer"),
    ("param_dtype", int, TypeError, "param_dtype: expected"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_mistakes(name, value, error, message):
    rngs = nnx.Rngs(0)
    layer = nn.GRU(2, 3, rngs=rngs)
    given: Any = {"encoder": layer, "predictor": layer, "vocabulary": 4, "joint_size": 5}
    with pytest.raises(error, match=message):
        Transducer(**given | {name: value}, rngs=rngs)


def test_frames_of_another_shape_are_named(frames):
    model, (clean, _) = models(), frames
    for wrong in (clean[0], clean[..., :-1]):
        for call in (lambda: model.greedy(wrong), lambda: model.loss(wrong, LABELS)):  # noqa: B023
            with pytest.raises(ValueError, match=r"frames: expected \[B, T, I\] with I="):
                call()
