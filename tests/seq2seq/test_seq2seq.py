"""Encoder-decoders: every way of running the decoder gives the same numbers, padding none."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import attention, decoding, seq2seq
from seqjax.cells import GRU, LSTM
from tests.cases import assert_close, randomised
from tests.seq2seq.helpers import translator

SOURCES = np.array([[3, 6, 1, 5], [2, 4, 0, 0], [5, 5, 5, 0]])
LENGTHS = np.array([4, 2, 3])
TOKENS = np.array([[2, 5, 8], [2, 4, 7], [2, 1, 0]])
IDS = np.array([[8, 4, 5, 10], [4, 6, 0, 0], [7, 7, 9, 0]])

MODELS: dict[str, dict[str, Any]] = {
    "bahdanau": dict(),
    "luong": dict(attention="general", attend="current", cell="gru"),
    "feeding": dict(attention="general", attend="current", input_feeding=True, num_layers=2),
    "both": dict(attend="previous", input_feeding=True, tied=True),
    "copying": dict(copy=True),
    "copying-later": dict(copy=True, attend="current", attention="concat"),
    "location": dict(attention="location_aware", attend="current"),
    "coverage": dict(attention="coverage"),
    "fixed": dict(attention=None, bidirectional=False, bridge="last", num_layers=2),
    "fixed-tied": dict(attention=None, tied=True, bridge="mean", cell="elman"),
    "zero": dict(bridge="zero", cell="mgu", bidirectional=False),
}


def make(name, **more):
    options = {"embed_size": 4, "hidden_size": 5, **MODELS[name], **more}
    model = randomised(lambda: translator(**options), 1)
    model.eval()
    return model


@functools.cache
def built(name):
    return make(name)


def ids_of(name, ids=IDS):
    return ids if "copying" in name else None


@functools.partial(jax.jit, static_argnames="name")
def forced(model, sources, tokens, lengths, ids, name):
    return model(sources, tokens, lengths=lengths, source_ids=ids)


def teacher_forced(name, sources=SOURCES, tokens=TOKENS, lengths=LENGTHS, ids=IDS):
    return forced(built(name), sources, tokens, lengths, ids_of(name, ids), name)


def stepped(model, encoded, tokens):
    step, state = model.decoding(encoded)
    logits = []
    for t in range(tokens.shape[1]):
        found, state = step(jnp.asarray(tokens[:, t]), state)
        logits.append(found)
    return jnp.stack(logits, 1), state


models = pytest.mark.parametrize("name", MODELS)


@models
@pytest.mark.quick("bahdanau")
def test_stepping_equals_teacher_forcing(name):
    @jax.jit
    def by_steps(model):
        encoded = model.encoder(SOURCES, lengths=LENGTHS, source_ids=ids_of(name))
        return stepped(model, encoded, TOKENS)

    logits, state = by_steps(built(name))
    assert_close(logits, teacher_forced(name), 1e-5, 1e-5)
    if state.weights is not None:
        weights = np.asarray(state.weights)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
        assert (weights[np.arange(4) >= LENGTHS[:, None]] == 0).all()


@models
@pytest.mark.quick("bahdanau", "feeding")
def test_computation_in_bfloat16(name):
    """The values are those of float32 up to rounding; parameters, logits and gradients stay."""
    exact, model = built(name), make(name, dtype=jnp.bfloat16)
    ids = ids_of(name)

    @jax.jit
    def run(model):
        encoded = model.encoder(SOURCES, lengths=LENGTHS, source_ids=ids)
        logits, state = stepped(model, encoded, TOKENS)
        whole = model(SOURCES, TOKENS, lengths=LENGTHS, source_ids=ids)

        def loss(model):
            logits = model(SOURCES, TOKENS, lengths=LENGTHS, source_ids=ids)
            return -jax.nn.log_softmax(logits)[:, :, 5].sum()

        return encoded.memory, state.output, logits, whole, nnx.grad(loss)(model)

    memory, output, logits, whole, gradient = run(model)
    assert memory.dtype == output.dtype == jnp.bfloat16
    assert logits.dtype == whole.dtype == jnp.float32
    assert_close(logits, whole, 1e-2, 1e-2)  # the attention is computed in another order
    if "copying" in name:  # the weights that copied tokens get are not rounded to 16 bits
        for log_p in (logits, whole):
            np.testing.assert_allclose(jax.nn.logsumexp(log_p, axis=-1), 0, atol=1e-5)
    expected = run(exact)
    seen = np.isfinite(expected[3])
    error = np.abs(np.asarray(whole - expected[3])[seen]).max()
    assert 0 < error < 0.05 * np.asarray(expected[3])[seen].std() + 0.01
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype("float32")}
    got, want = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)])
        for g in (gradient, expected[4])
    )
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


def test_logits_in_bfloat16_are_those_of_the_readout():
    """Decoding and the loss multiply by the same numbers, the float32 embeddings."""
    model = make("both", dtype=jnp.bfloat16)
    hidden = model.hidden(SOURCES, TOKENS, lengths=LENGTHS)
    matrix, bias, transposed = model.decoder.linear_readout()
    assert transposed and hidden.dtype == jnp.bfloat16 and matrix.dtype == jnp.float32
    expected = np.asarray(hidden, np.float64) @ np.asarray(matrix, np.float64).T + np.asarray(bias)
    assert_close(model(SOURCES, TOKENS, lengths=LENGTHS), expected, 1e-5, 1e-5)


def test_a_small_weight_in_float16_can_be_copied():
    decoder = seq2seq.Decoder(
        GRU(2, 3), vocabulary=4, memory_size=3, attention="dot", attend="current", copy=True,
        dtype=jnp.float16, rngs=nnx.Rngs(0),
    )  # fmt: skip
    memory = jnp.array([[[60.0, 0, 0], [-60.0, 0, 0]]])
    encoded = seq2seq.Encoded(memory, jnp.ones((1, 2), bool), ())
    precomputed = decoder.precompute(encoded)
    state = decoder.initial_state(encoded, (jnp.zeros((1, 3), jnp.float16),), precomputed)
    features, state = decoder.advance(decoder.embed(jnp.array([1])), state, precomputed)
    np.testing.assert_array_equal(features.weights, state.weights)
    weights = np.asarray(features.weights)
    assert 0 < weights.min() < 2**-25  # float16 would make it 0
    assert np.isfinite(decoder.logits(features, jnp.array([[4, 1]]))[0, 4])


def test_a_custom_encoder_and_a_decoder_in_bfloat16():
    """The memory and the initial state are cast to the dtype of the decoder."""
    model = of_images("mean", dtype=jnp.bfloat16)
    encoded = model.encoder(IMAGES, lengths=None, deterministic=True)
    assert encoded.memory.dtype == jnp.float32
    logits, state = stepped(model, encoded, TOKENS)
    narrow = {leaf.dtype for leaf in jax.tree.leaves((state.cells, state.output, state.context))}
    assert narrow == {jnp.dtype(jnp.bfloat16)}
    assert logits.dtype == jnp.float32
    assert_close(logits, model(IMAGES, TOKENS, deterministic=True), 1e-2, 1e-2)


@pytest.mark.quick("copying-later")
@models
def test_padding_and_neighbours_change_nothing(name):
    whole = teacher_forced(name)
    ids = np.pad(IDS, ((0, 0), (0, 2)), constant_values=3)
    # More padding of the source, with tokens in it that do not even exist; more of the target.
    sources = np.pad(SOURCES, ((0, 0), (0, 2)), constant_values=99)
    tokens = np.pad(TOKENS, ((0, 0), (0, 1)), constant_values=3)
    padded = teacher_forced(name, sources, tokens, ids=ids)
    assert_close(padded[:, :3, : whole.shape[-1]], whole, 1e-5, 1e-5)
    alone = teacher_forced(name, SOURCES[1:2, :2], TOKENS[1:2], LENGTHS[1:2], IDS[1:2, :2])
    width = alone.shape[-1]
    assert_close(alone, whole[1:2, :, :width], 1e-5, 1e-5)


@models
@pytest.mark.quick()
def test_beams_are_sequences_of_their_own(name):
    model = built(name)

    @jax.jit
    def run(model):
        encoded = model.encoder(SOURCES, lengths=LENGTHS, source_ids=ids_of(name))
        step, state = model.decoding(encoded)
        _, after = step(jnp.asarray(TOKENS[:, 0]), state)
        twice = lambda a: jnp.repeat(a, 2, axis=0)  # noqa: E731
        other = (TOKENS[:, 1] + 1) % 9
        beams = jnp.stack([jnp.asarray(TOKENS[:, 1]), jnp.asarray(other)], 1).reshape(-1)
        found, _ = step(beams, jax.tree.map(twice, after))
        first, _ = step(jnp.asarray(TOKENS[:, 1]), after)
        second, _ = step(jnp.asarray(other), after)
        return found, jnp.stack([first, second], 1).reshape(found.shape)

    got, want = run(model)
    assert_close(got, want, 1e-5, 1e-5)


@models
@pytest.mark.quick()
def test_every_parameter_gets_a_gradient(name):
    model = built(name)
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = nnx.merge(graphdef, params, rest)(
                SOURCES, TOKENS, lengths=LENGTHS, source_ids=ids_of(name)
            )
            return -jax.nn.log_softmax(logits)[:, :, 5].sum()

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        values = np.asarray(leaf)
        assert np.isfinite(values).all()
        if "bridge" in str(path) or "encoder" not in str(path) or MODELS[name].get("attention", 1):
            assert np.abs(values).max() > 0, path


@pytest.mark.parametrize("name", ["copying", "copying-later"])
def test_copied_probabilities_sum_to_one(name):
    found = np.asarray(teacher_forced(name))
    assert found.shape == (3, 3, 9 + 4)
    assert_close(np.exp(found).sum(-1), np.ones((3, 3)), 1e-4, 1e-4)
    # Token 10 is not in the vocabulary; only the first source has it.
    assert (found[0, :, 10] > -10).all() and (found[1:, :, 10] < -20).all()


@pytest.mark.quick()
def test_scheduled_sampling():
    model = built("bahdanau")
    forced = np.asarray(teacher_forced("bahdanau"))

    @jax.jit
    def scheduled(rate, seed):
        encoded = model.encoder(SOURCES, lengths=LENGTHS)
        return model.scheduled(encoded, TOKENS, rate, jax.random.key(seed))

    run = lambda *given: np.asarray(scheduled(*given))  # noqa: E731
    assert_close(run(0.0, 0), forced, 1e-5, 1e-5)
    own = run(1.0, 0)
    assert_close(own[:, 0], forced[:, 0], 1e-5, 1e-5)
    assert not np.allclose(own[:, 1:], forced[:, 1:], atol=1e-3)
    assert not np.allclose(own, run(1.0, 1), atol=1e-3)


def test_frames_and_attention_of_ones_own():
    mechanism = attention.MultiHead(query_size=8, memory_size=8, heads=2)
    model = randomised(
        lambda: seq2seq.Seq2Seq(
            target_vocabulary=9, embed_size=4, hidden_size=4, attention=mechanism, rngs=nnx.Rngs(0)
        )
    )
    frames = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    dirty = np.where((np.arange(4) < LENGTHS[:, None])[..., None], frames, np.nan)
    run = jax.jit(lambda model, xs: model(xs, TOKENS, lengths=LENGTHS, deterministic=True))
    got = run(model, dirty)
    assert_close(got, run(model, frames), 1e-6)
    assert np.isfinite(got).all()


class Rows(nnx.Module):
    """An encoder of one's own: images [B, S, C], whose rows are the memory and, flat, the state."""

    output_size = 6

    def __init__(self, *, keeps, rngs):
        self.linear = nnx.Linear(3, 6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.keeps = keeps

    def initial_state(self, batch_shape):
        return (jnp.zeros((*batch_shape, 12)),) if self.keeps else ()

    def __call__(self, images, *, lengths, deterministic, rngs=None, mask=None, source_ids=None):
        assert lengths is mask is source_ids is None
        memory = self.dropout(self.linear(images), deterministic=deterministic, rngs=rngs)
        state = (images.reshape(len(images), -1),) if self.keeps else ()
        return seq2seq.Encoded(memory, jnp.ones(images.shape[:2], bool), state)


IMAGES = np.random.default_rng(2).normal(size=(3, 4, 3)).astype(np.float32)


def of_images(bridge, *, keeps=True, **options):
    rngs = nnx.Rngs(0)
    options = {"embed_size": 4, "hidden_size": 5, "bridge": bridge} | options
    return seq2seq.Seq2Seq(
        target_vocabulary=9, encoder=Rows(keeps=keeps, rngs=rngs), rngs=rngs, **options
    )


@pytest.mark.quick("mean-False")
@pytest.mark.parametrize(("bridge", "keeps"), [("projected", True), ("mean", False)])
def test_an_encoder_of_ones_own(bridge, keeps):
    options = {"cell": "gru", "attention": "general", "attend": "current"}
    model = randomised(lambda: of_images(bridge, keeps=keeps, **options))
    model.eval()

    @jax.jit
    def both(model):
        [layer] = model.bridge.layers
        memory = model.encoder.linear(IMAGES)
        given = IMAGES.reshape(3, -1) if keeps else memory.mean(1)
        cells = (jnp.tanh(given @ layer.kernel[...] + layer.bias[...]),)
        encoded = seq2seq.Encoded(memory, jnp.ones((3, 4), bool), ())
        precomputed = model.decoder.precompute(encoded)
        state = model.decoder.initial_state(encoded, cells, precomputed)
        expected, _ = model.decoder.teacher_forced(jnp.asarray(TOKENS), state, precomputed)
        return model(IMAGES, TOKENS), expected

    found, expected = both(model)
    assert_close(found, expected, 1e-5, 1e-5)
    assert model.decoder.cells[0].hidden_size == 5  # it does not read in two directions


@pytest.mark.quick()
def test_an_encoder_of_ones_own_draws_by_itself():
    model = of_images("projected")  # whose decoder drops nothing
    with_dropout = of_images("projected", dropout=0.5)
    for some in (model, with_dropout):
        calm = some(IMAGES, TOKENS, deterministic=True)
        for make_rngs in (jax.random.key, nnx.Rngs):
            one, other = (some(IMAGES, TOKENS, rngs=make_rngs(seed)) for seed in (0, 1))
            assert not np.allclose(one, calm) and not np.allclose(one, other)
    with pytest.raises((TypeError, ValueError), match="rngs"):
        with_dropout(IMAGES, TOKENS)


def test_an_encoder_of_ones_own_has_to_fit():
    with pytest.raises(ValueError, match="'zero' or 'mean' for an encoder without a final state"):
        nnx.eval_shape(lambda: of_images("projected", keeps=False))
    with pytest.raises(ValueError, match="source_vocabulary: expected None with a custom"):
        of_images("mean", source_vocabulary=7)
    with pytest.raises(TypeError, match="encoder: expected a module with output_size and initial"):
        seq2seq.Seq2Seq(
            target_vocabulary=9,
            encoder=nnx.Linear(3, 3, rngs=nnx.Rngs(0)), embed_size=4, hidden_size=5,
            rngs=nnx.Rngs(0),
        )  # fmt: skip


@pytest.mark.quick()
def test_images_to_outputs():
    model = of_images("projected")
    model.eval()
    found = seq2seq.generate(
        model, list(IMAGES), begin=2, end=3, max_length=5, beam_width=2, batch_size=2, padded=False
    )
    for image, output in zip(IMAGES, found, strict=True):
        encoded = model.encoder(image[None], lengths=None, deterministic=True)
        step, state = model.decoding(encoded)
        alone = decoding.beam_search(step, state, begin=2, end=3, max_length=5, beam_width=2)
        assert output.tokens.tolist() == alone.tokens[0, 0, : int(alone.lengths[0, 0])].tolist()
        assert output.attention is not None and output.attention.shape[1] == 4
        np.testing.assert_allclose(output.attention.sum(-1), 1.0, atol=1e-5)


@pytest.mark.quick()
def test_dropout_is_for_training():
    model = make("feeding", dropout=0.5)

    @functools.partial(jax.jit, static_argnames="options")
    def run(model, key=None, options=()):
        return model(SOURCES, TOKENS, lengths=LENGTHS, rngs=key, **dict(options))

    calm = run(model)
    model.train()
    with pytest.raises((TypeError, ValueError), match="rngs"):
        model(SOURCES, TOKENS, lengths=LENGTHS)
    one, other = (run(model, jax.random.key(seed)) for seed in (0, 1))
    assert not np.allclose(one, other) and not np.allclose(one, calm)
    assert_close(run(model, options=(("deterministic", True),)), calm)


def test_nothing_passes_between_layers_where_the_factors_are_zero():
    decoder = make("bahdanau", num_layers=2).decoder

    @jax.jit
    def hidden(tokens, factor):
        encoded = seq2seq.Encoded(jnp.ones([3, 4, 10]), jnp.ones([3, 4], bool), None)
        memory = decoder.precompute(encoded)
        cells = tuple(cell.initial_state((3,)) for cell in decoder.cells)
        state = decoder.initial_state(encoded, cells, memory)
        between = (jnp.full_like(state.output, factor),)
        return decoder.advance(decoder.embed(tokens), state, memory, between)[0].hidden

    one, other = np.array([1, 2, 3]), np.array([4, 5, 6])
    assert_close(hidden(one, 0.0), hidden(other, 0.0), 0, 0)
    assert not np.allclose(hidden(one, 1.0), hidden(other, 1.0))
    assert not np.allclose(hidden(one, 1.0), hidden(one, 2.0))


@pytest.mark.parametrize("name", ["both", "location"])
@pytest.mark.quick()
def test_the_gradient_is_the_same_however_it_is_run(name):
    """By `lax.scan` as it stands; by deferred products; by segments of time."""

    def gradient(execution):
        model = make(name, num_layers=2, execution=execution)
        graph, params = nnx.split(model)

        def loss(params):
            logits = nnx.merge(graph, params)(
                SOURCES, TOKENS, lengths=LENGTHS, source_ids=ids_of(name)
            )
            return jnp.sin(logits[..., :9]).sum()

        return jax.jit(jax.grad(loss))(params)

    plain = gradient(seqjax.Execution("scan"))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    for execution in (seqjax.Execution(), seqjax.Execution(remat="sqrt", unroll=2)):
        assert_close(gradient(execution), plain, 1e-5 * scale, 1e-4)


def test_bridges():
    encoder = randomised(
        lambda: seq2seq.Encoder(LSTM(4, 3), vocabulary=7, bidirectional=True, rngs=nnx.Rngs(0))
    )
    run = jax.jit(lambda encoder: encoder(SOURCES, lengths=LENGTHS, deterministic=True))
    encoded = jax.device_get(run(encoder))
    empty = encoder.recurrent.initial_state(())

    def bridge(kind, cell):
        made = randomised(lambda: seq2seq.Bridge(kind, [cell], empty, 6, rngs=nnx.Rngs(1)))
        return jax.device_get(jax.jit(lambda bridge: bridge(encoded))(made)[0])

    last = bridge("last", LSTM(4, 6))
    forward, backward = encoded.state[0].forward, encoded.state[0].backward
    assert_close(last.h, np.concatenate([forward.h, backward.h], -1), 0, 0)
    assert_close(last.c, np.concatenate([forward.c, backward.c], -1), 0, 0)
    assert not bridge("zero", GRU(4, 5)).any()
    assert bridge("projected", GRU(4, 5)).shape == bridge("mean", GRU(4, 5)).shape == (3, 5)
    with pytest.raises(ValueError, match=r"bridge: expected an encoder.*use 'projected'"):
        bridge("last", LSTM(4, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(attention="bahdanau"), "attention: expected one of"),
        (dict(attention=3), "attention: expected a name of ATTENTIONS"),
        (dict(attend="later"), "attend: expected one of previous, current"),
        (dict(bridge="bridge"), "bridge: expected one of zero, last"),
        (dict(cell="ltsm"), "cell: expected one of"),
        (dict(attention=None, input_feeding=True), "input_feeding: expected False without"),
        (dict(attention=None, copy=True), "copy: expected False without attention"),
        (dict(hidden_size=0), "hidden_size: expected a positive integer"),
        (dict(dropout=1.5), "dropout: expected"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        translator(**options)


def test_bad_inputs():
    model = built("bahdanau")
    for arguments, message in (
        ((SOURCES.astype(np.float32), TOKENS), "source: expected integer tokens"),
        ((SOURCES, TOKENS.astype(np.float32)), "tokens: expected integer tokens"),
        ((SOURCES, TOKENS[:2]), r"tokens: expected \[3, T\] like the sources, got \(2, 3\)"),
        ((SOURCES, TOKENS[0]), r"tokens: expected \[3, T\]"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model(*arguments, lengths=LENGTHS)
    with pytest.raises(ValueError, match="source_ids: expected the source's tokens to copy"):
        built("copying")(SOURCES, TOKENS, lengths=LENGTHS)


@pytest.mark.quick()
def test_narrow_ids_are_those_of_int32():
    """In its own dtype, uint8 would see 256 as 0, and int8 300 as 44."""
    model = translator(
        source_vocabulary=300, target_vocabulary=300, embed_size=3, hidden_size=4, copy=True
    )
    ids = {dtype: np.array([[2, 120, 3]], dtype) for dtype in ("int32", "uint8", "int8", "int16")}
    wide = model(ids["int32"], ids["int32"], source_ids=ids["int32"])
    for narrow in ids.values():
        np.testing.assert_array_equal(model(narrow, narrow, source_ids=narrow), wide)
    large = np.array([[2, 250, 3]])
    narrow = large.astype(np.uint8)
    expected = model(large, large, source_ids=large)
    np.testing.assert_array_equal(model(narrow, narrow, source_ids=narrow), expected)
    encoded = model.encoder(large)._replace(source_ids=jnp.asarray(narrow))  # of one's own encoder
    step, state = model.decoding(encoded)
    for t in range(3):
        logits, state = step(jnp.asarray(narrow[:, t]), state)
        np.testing.assert_allclose(logits[0], expected[0, t], rtol=1e-5, atol=1e-5)
    plain = translator(source_vocabulary=300, target_vocabulary=300, embed_size=3, hidden_size=4)
    for decoder in (model.decoder, plain.decoder):
        assert np.isnan(decoder.embed(jnp.array([-1], jnp.int8))).all()


@pytest.mark.quick()
def test_source_ids_of_a_vocabulary_of_256_in_bytes():
    model = translator(
        source_vocabulary=256, target_vocabulary=256, embed_size=3, hidden_size=4, copy=True
    )
    ids = np.array([[2, 255, 3]])
    found = model(ids, ids, source_ids=ids.astype(np.uint8))
    assert not np.isnan(found).any()
    np.testing.assert_array_equal(found, model(ids, ids, source_ids=ids))
