"""Training on pairs and writing outputs for lists of sources."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import cells, data, decoding, losses, seq2seq
from tests.cases import assert_close, randomised
from tests.seq2seq.helpers import translator

SIZES: Any = {"source_vocabulary": 10, "embed_size": 3, "hidden_size": 4}
# Of three shapes, since each source and each pair alone is run by a program for its shape.
SOURCES = [[7, 8, 9, 4], [5], [6, 6], [4, 5], [8]]
TARGETS = [[5, 4, 7], [], [6, 4], [8, 7], []]


@pytest.fixture(scope="module")
def model():
    # Larger weights than usual: outputs then end, and differ from source to source.
    model = randomised(lambda: translator(**SIZES, dropout=0.3), scale=1.0)
    model.eval()
    return model


def test_fields_are_shifted_by_one():
    examples = seq2seq.pair_examples(SOURCES, TARGETS, begin=2, end=3)
    assert [list(row) for row in examples["tokens"]] == [[2, *target] for target in TARGETS]
    assert [list(row) for row in examples["labels"]] == [[*target, 3] for target in TARGETS]
    assert {row.dtype for row in examples["tokens"] + examples["labels"]} == {np.dtype("int32")}
    with pytest.raises(ValueError, match="targets: expected one for each of 5 sources, got 4"):
        seq2seq.pair_examples(SOURCES, TARGETS[:4], begin=2, end=3)


def reference_loss(model, smoothing):
    """The mean over all real tokens, one pair at a time and without padding."""
    run = jax.jit(lambda source, tokens: model(source, tokens))
    nats, hits = [], []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        logits = np.asarray(run(np.array([source]), np.array([[2, *target]])), np.float64)[0]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        for row, label in zip(log_probs, [*target, 3], strict=True):
            nats.append(-(1 - smoothing) * row[label] - smoothing * row.mean())
            hits.append(row.argmax() == label)
    return np.mean(nats), sum(hits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("boundaries", [None, [(4, 4), (5, 6)]])
@pytest.mark.quick()
def test_loss_and_metrics_count_real_tokens_alone(model, smoothing, boundaries):
    examples = seq2seq.pair_examples(SOURCES, TARGETS, begin=2, end=3)
    [batch] = data.batches(
        examples, batch_size=7, sequence_keys=seq2seq.PAIR_KEYS, boundaries=boundaries
    )
    expected, hits = reference_loss(model, smoothing)

    @jax.jit
    def run(model, batch):
        return (
            seq2seq.pair_loss(model, batch, None, label_smoothing=smoothing),
            seq2seq.pair_metrics(model, batch),
        )

    (loss, metrics), measured = run(model, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert int(metrics["accuracy"].count) == 12 and int(metrics["accuracy"].total) == hits
    if not smoothing:
        np.testing.assert_allclose(measured["loss"].value(), expected, rtol=1e-5)
    assert int(measured["accuracy"].total) == hits


class Halved(seq2seq.Seq2Seq):
    """A model whose logits are no longer what its decoder says."""

    def __call__(self, *arguments, **options):
        return super().__call__(*arguments, **options) / 2


def smoothed_over_possible_ids(log_probs, labels, mask, share):
    """The mean cross-entropy whose smoothing covers the ids of finite log p."""
    possible = jnp.isfinite(log_probs)
    target = (1 - share) * jax.nn.one_hot(labels, log_probs.shape[-1])
    target += share * possible / possible.sum(-1, keepdims=True)
    nats = -(target * jnp.where(possible, log_probs, 0.0)).sum(-1)
    return jnp.where(mask, nats, 0.0).sum() / mask.sum()


@pytest.mark.quick("plain")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (seq2seq.Seq2Seq, {}),
        (seq2seq.Seq2Seq, {"tied": True, "attend": "current"}),
        (seq2seq.Seq2Seq, {"attention": None, "tied": True}),
        (seq2seq.Seq2Seq, {"copy": True}),
        (Halved, {}),
    ],
    ids=["plain", "tied", "no attention", "copy", "own logits"],
)
def test_loss_and_gradient_are_those_of_the_logits(kind, options):
    """The read-out may go chunk by chunk or not. Dropout is the same with the same key."""
    sizes = {"target_vocabulary": 9, "source_vocabulary": 10, "embed_size": 3, "hidden_size": 4}
    model = randomised(lambda: kind(**sizes, dropout=0.3, rngs=nnx.Rngs(2), **options))
    graph, state = nnx.split(model)
    copies = {"source_ids": SOURCES} if "copy" in options else {}
    examples = seq2seq.pair_examples(SOURCES, TARGETS, begin=2, end=3, **copies)
    keys = seq2seq.PAIR_KEYS | {"source": ("source", *copies)}
    [batch] = data.batches(examples, batch_size=6, sequence_keys=keys)
    mask = np.arange(batch["labels"].shape[1]) < batch["target_lengths"][:, None]

    def ours(state):
        model = nnx.merge(graph, state)
        return seq2seq.pair_loss(model, batch, jax.random.key(3), label_smoothing=0.1)[0]

    def theirs(state):
        given = {name: batch[name] for name in copies}
        logits = nnx.merge(graph, state)(
            batch["source"], batch["tokens"], lengths=batch["source_lengths"],
            rngs=jax.random.key(3), **given,
        )  # fmt: skip
        if copies:
            return smoothed_over_possible_ids(logits, batch["labels"], mask, 0.1)
        return losses.cross_entropy(logits, batch["labels"], mask=mask, label_smoothing=0.1)

    found, wanted = (jax.jit(jax.value_and_grad(loss))(state) for loss in (ours, theirs))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert_close(found, wanted, 1e-5, 1e-6)
    assert (model.decoder.linear_readout() is None) == ("copy" in options)


def test_training_on_pairs_holds_no_array_of_all_logits():
    model = randomised(lambda: translator(**SIZES | {"target_vocabulary": 20_000}))
    graph, state = nnx.split(model)
    sources = np.ones((32, 16), np.int32)
    lengths = {"source_lengths": np.full(32, 16), "target_lengths": np.full(32, 16)}
    batch = {"source": sources, "tokens": sources, "labels": sources, **lengths}

    def loss(state):
        return seq2seq.pair_loss(nnx.merge(graph, state), batch, None)[0]

    program = str(jax.make_jaxpr(jax.grad(loss))(state))
    # Five chunks of 512 tokens, or the native engine.
    assert "[104,20000]" not in program
    assert "[103,20000]" in program or "seqjax_engine_readout" in program
    assert "[512,20000]" not in program and "[32,16,20000]" not in program


@pytest.mark.quick("1-options0")
@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 8}])
@pytest.mark.parametrize("width", [1, 3])
def test_generate_is_each_source_alone(model, width, options):
    search = {"begin": 2, "end": 3, "beam_width": width, "max_length": 7, "length_penalty": 0.6}
    found = seq2seq.generate(model, SOURCES, **search, **options)
    assert len({tuple(output.tokens) for output in found}) > 1

    @jax.jit
    def searched(model, source):
        step, state = model.decoding(model.encoder(source))
        return decoding.beam_search(step, state, alignment=lambda s: s.weights, **search)

    for source, output in zip(SOURCES, found, strict=True):
        alone = jax.device_get(searched(model, np.array([source])))
        count = int(alone.lengths[0, 0])
        assert output.tokens.tolist() == alone.tokens[0, 0, :count].tolist()
        assert output.finished == bool(alone.finished[0, 0])
        np.testing.assert_allclose(output.score, alone.scores[0, 0], rtol=1e-4)
        assert output.attention is not None and alone.alignments is not None
        assert output.attention.shape == (count + output.finished, len(source))
        np.testing.assert_allclose(
            output.attention, alone.alignments[0, 0, : count + output.finished], atol=1e-5
        )
        np.testing.assert_allclose(output.attention.sum(-1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_generate_without_attention_with_copying_and_with_coverage(model):
    plain = translator(**SIZES, attention=None, cell="gru")
    found = seq2seq.generate(plain, SOURCES, begin=2, end=3, max_length=4, beam_width=2)
    assert all(output.attention is None and len(output.tokens) <= 4 for output in found)
    copying = translator(**SIZES, copy=True)
    options: Any = {"begin": 2, "end": 3, "max_length": 4, "beam_width": 2}
    found = seq2seq.generate(copying, SOURCES, source_ids=SOURCES, **options)
    assert len(found) == len(SOURCES)
    examples = seq2seq.pair_examples(SOURCES, TARGETS, begin=2, end=3, source_ids=SOURCES)
    keys = seq2seq.PAIR_KEYS | {"source": ("source", "source_ids")}
    [batch] = data.batches(examples, batch_size=5, sequence_keys=keys)
    assert np.isfinite(seq2seq.pair_loss(copying, batch, None)[0])
    covered = seq2seq.generate(model, SOURCES, coverage_penalty=5.0, **options)
    assert [c.score for c in covered] != [
        output.score for output in seq2seq.generate(model, SOURCES, **options)
    ]


@pytest.mark.quick()
def test_an_output_does_not_depend_on_the_other_sources(model):
    options: Any = {"begin": 2, "end": 3, "beam_width": 2}
    [alone] = seq2seq.generate(model, [[4, 5]], **options)
    together, _, empty = seq2seq.generate(model, [[4, 5], [4] * 12, []], **options)
    assert alone.tokens.tolist() == together.tokens.tolist() and len(alone.tokens) <= 26
    np.testing.assert_allclose(alone.score, together.score, rtol=1e-5)
    [lonely] = seq2seq.generate(model, [[]], **options)
    assert lonely.tokens.tolist() == empty.tokens.tolist()


def test_nothing_read_and_nothing_written(model):
    run = jax.jit(lambda model, sources, tokens: model(sources, tokens))
    assert run(model, np.zeros((0, 3), int), np.zeros((0, 2), int)).shape == (0, 2, 9)
    sources, tokens = np.array([[4, 5]]), np.zeros((1, 0), int)
    assert run(model, sources, tokens).shape == (1, 0, 9)

    @jax.jit
    def scheduled(model):
        return model.scheduled(model.encoder(sources), tokens, 0.5, jax.random.key(0))

    assert scheduled(model).shape == (1, 0, 9)


@pytest.mark.quick()
def test_a_source_without_positions_has_nothing_to_copy():
    copying = translator(**SIZES, copy=True)
    ids = jnp.array([[4, 10], [5, 0]])
    logits = copying(
        jnp.array([[4, 5], [0, 0]]),
        jnp.array([[2, 5]] * 2),
        lengths=jnp.array([2, 0]),
        source_ids=ids,
    )
    np.testing.assert_allclose(jax.nn.logsumexp(logits, axis=-1), 0.0, atol=1e-5)


def test_tokens_that_are_not_known_are_named(model):
    sources, tokens = np.array([[4, 5]]), np.array([[2, 5]])
    with pytest.raises(ValueError, match=r"source: expected values in \[0, 9\] .*, got 10"):
        model(np.array([[4, 10]]), tokens)
    with pytest.raises(ValueError, match=r"source: .* got -1"):
        model(np.array([[4, -1]]), tokens)
    model(np.array([[4, -1]]), tokens, lengths=np.array([1]))  # what is padding may be anything
    with pytest.raises(ValueError, match=r"tokens: expected values in \[0, 8\] .*, got 9"):
        model(sources, np.array([[2, 9]]))
    model(sources, np.array([[2, -100]]))
    encoded = model.encoder(sources)
    with pytest.raises(ValueError, match=r"tokens: .* got 9"):
        model.scheduled(encoded, np.array([[2, 9]]), 0.5, jax.random.key(0))
    copying = randomised(lambda: translator(**SIZES, copy=True))
    with pytest.raises(ValueError, match=r"source_ids: expected values in \[0, 10\] .*, got 400"):
        copying(sources, tokens, source_ids=np.array([[4, 400]]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1]], [[5.9]]), TypeError, r"targets\[0\]: expected integers \[s\], got float64"),
        (([[1]], [[2**33]]), ValueError, r"targets\[0\]: expected non-negative int32"),
        (
            ([[1]], [[[1]]]),
            ValueError,
            r"targets\[0\]: expected integers \[s\], got shape \(1, 1\)",
        ),
        (([[1]], [["a"]]), TypeError, r"targets\[0\]: expected integers \[s\], got \['a'\]"),
    ],
)
def test_pair_examples_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        seq2seq.pair_examples(*arguments, begin=2, end=3)
    with pytest.raises(TypeError, match="begin: expected an integer"):
        seq2seq.pair_examples([[1]], [[1]], begin=2.7, end=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source_ids: expected one for each of 2 sources, got 1"):
        seq2seq.pair_examples([[1], [2]], [[1], [2]], begin=2, end=3, source_ids=[[1]])


def test_scheduled_and_the_constructor_refuse(model):
    encoded = model.encoder(np.array([[4, 5]]))
    tokens, key = np.array([[2, 5]]), jax.random.key(0)
    with pytest.raises(ValueError, match="rate: expected a number from 0 to 1, got 7"):
        model.scheduled(encoded, tokens, jnp.float32(7), key)
    for rates in (jnp.ones(2), jnp.bool_(True), "half"):
        with pytest.raises(TypeError, match="rate: expected a number"):
            model.scheduled(encoded, tokens, rates, key)
    with pytest.raises(TypeError, match="rate: expected a number"):
        jax.jit(lambda rate: model.scheduled(encoded, tokens, rate, key))(jnp.ones(2))
    with pytest.raises(TypeError, match="key: expected"):
        model.scheduled(encoded, tokens, 0.5, 0)
    with pytest.raises(ValueError, match=r"tokens: expected \[1, T\] like the sources"):
        model.scheduled(encoded, np.array([[2], [2]]), 0.5, key)
    with pytest.raises(ValueError, match=r"source: expected \[B, S\], got \(2,\)"):
        model(np.array([4, 5]), tokens)
    for name, value in (("embed_size", 0), ("decoder_size", -1)):
        sizes: Any = {"embed_size": 3, "hidden_size": 4} | {name: value}
        with pytest.raises(ValueError, match=f"{name}: expected a positive integer"):
            translator(source_vocabulary=10, **sizes)
    with pytest.raises(
        ValueError, match=r"cell: expected one of elman, .*, min_lstm, s5, sru, got 'conv_lstm_1d'"
    ):
        translator(**SIZES, cell="conv_lstm_1d")
    with pytest.raises(ValueError, match="a cell that reads vectors, got ConvLSTM1D"):
        translator(**SIZES, cell=cells.ConvLSTM1D)


def test_generate_refuses(model):
    with pytest.raises(ValueError, match="sources: expected at least one"):
        seq2seq.generate(model, [], begin=2, end=3)
    with pytest.raises(ValueError, match="max_length: expected a positive integer, got 0"):
        seq2seq.generate(model, SOURCES, begin=2, end=3, max_length=0)
    with pytest.raises(ValueError, match="length_penalty"):
        seq2seq.generate(model, SOURCES, begin=2, end=3, length_penalty=-1.0)
    with pytest.raises(ValueError, match=r"source_ids\[0\]: expected 4 ids"):
        seq2seq.generate(model, SOURCES, begin=2, end=3, source_ids=[[1]] * 5)
