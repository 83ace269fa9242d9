"""The library under `jax.numpy_rank_promotion("raise")`: every shape is broadcast explicitly.

Ranks are checked while a program is traced, so hardly anything here is compiled or run: programs
are compared by the shapes of what they return.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import decoding, losses, metrics, nn, seq2seq, sequences, training
from tests.attention.cases import CASES as ATTENTION_CASES
from tests.cases import CASES, T, assert_close, inputs_of, on_every_kernel
from tests.seq2seq.helpers import translator

B, C = 2, 5
KERNELS = on_every_kernel(CASES)
MASK = np.arange(T)[None] < np.array([[T], [3]])


@pytest.fixture(autouse=True)
def _raise():
    with jax.numpy_rank_promotion("raise"):
        yield


def total(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum(jnp.abs(leaf).sum() for leaf in leaves)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def assert_gradients(loss, arguments, argnums=0):
    """The gradient of a loss can be traced, and has the shapes of the arguments."""
    found = jax.eval_shape(jax.grad(loss, argnums), *arguments)
    chosen = arguments[argnums] if isinstance(argnums, int) else [arguments[n] for n in argnums]
    expected = jax.tree.leaves(chosen)
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [leaf.shape for leaf in expected]


@pytest.mark.quick(
    "padding0-lstm-scan",
    "padding0-lstm-fused",
    "padding0-lstm-native",
    "padding0-min_gru-associative",
    "padding0-conv_lstm_1d-fused",
)
@pytest.mark.parametrize("case", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("padding", [{}, {"mask": MASK}, {"lengths": [T, 2], "resets": ~MASK}])
def test_cells(case, padding):
    def loss(params, xs):
        return total(case.unroll(params, xs, **padding))

    params = jax.eval_shape(case.cell.init, jax.random.key(0))
    assert_gradients(loss, (params, inputs_of(case.cell, (B,))), (0, 1))


@pytest.mark.quick("lstm", "conv_lstm_1d")
@pytest.mark.parametrize("name", seqjax.CELLS)
def test_layers(name):
    sizes: Any = {"spatial_shape": (4,) * int(name[-2])} if name.startswith("conv") else {}
    cell = seqjax.CELLS[name](3, 4, **sizes)
    options: dict[str, Any] = {"dropout": 0.1, "input_dropout": 0.1, "zoneout": 0.1}
    if not sizes:
        options |= {"bidirectional": True, "num_layers": 2, "norm": "layer", "residual": True}
        options |= {"learned_initial_state": True}
    if name in ("lstm", "gru", "layer_norm_lstm"):
        options |= {"recurrent_dropout": 0.1, "weight_dropout": 0.1}
    layer = nn.Recurrent(cell, **options, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)

    def loss(state, xs, key):
        outputs, final = nnx.merge(graph, state)(xs, lengths=[T, 2], rngs=key)
        return total((outputs, final))

    key = jax.random.key(1)
    assert_gradients(loss, (state, inputs_of(cell, (B,)), key))


@pytest.mark.quick("additive", "location_aware", "coverage", "multi_head", "mocha")
@pytest.mark.parametrize("case", ATTENTION_CASES.values(), ids=ATTENTION_CASES)
def test_attention(case):
    mechanism = case.attention

    def loss(params, encoded, query):
        memory = mechanism.precompute(params, encoded, mask=MASK)
        return total(mechanism.attend(params, query, memory, mechanism.initial_state(memory)))

    params = mechanism.init(jax.random.key(0))
    encoded, query = jnp.ones((B, T, mechanism.memory_size)), jnp.ones((B, mechanism.query_size))
    assert_gradients(loss, (params, encoded, query), (0, 1, 2))


MODELS: dict[str, dict[str, Any]] = {
    "additive": {},
    "copying": {"copy": True, "dropout": 0.1, "num_layers": 2},
    "luong": {"attention": "general", "attend": "current", "input_feeding": True, "tied": True},
    "coverage": {"attention": "coverage"},
    "fixed": {"attention": None, "bridge": "mean", "cell": "gru"},
    "monotonic": {"attention": "mocha", "attend": "current"},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@pytest.mark.quick()
def test_encoder_decoders(options):
    model = translator(source_vocabulary=9, **options)
    graph, state = nnx.split(model)
    tokens = jnp.array([[2, 5, 4], [2, 6, -1]])
    batch = {
        "source": tokens.clip(0), "source_lengths": jnp.array([3, 2]), "tokens": tokens,
        "labels": tokens.clip(0), "target_lengths": jnp.array([3, 2]), "source_ids": tokens.clip(0),
    }  # fmt: skip

    def loss(state, key):
        return seq2seq.pair_loss(nnx.merge(graph, state), batch, key, label_smoothing=0.1)[0]

    def decoded(state, key):
        model = nnx.merge(graph, state)
        ids = batch["source_ids"]
        encoded = model.encoder(
            batch["source"], lengths=batch["source_lengths"], source_ids=ids, deterministic=True
        )
        step, start = model.decoding(encoded)
        shared: Any = {"begin": 2, "end": [3, 4], "max_length": 5, "min_length": 1}
        attends: Any = {}
        if start.weights is not None:
            attends = {
                "alignment": lambda state: state.weights, "source_mask": encoded.mask,
                "coverage_penalty": 0.3,
            }  # fmt: skip
        best = decoding.beam_search(
            step, start, **shared, **attends, beam_width=3, n_best=2, length_penalty=0.6,
            no_repeat_ngram=2, prefix=jnp.array([[5], [6]]),
        )  # fmt: skip
        found = [
            best,
            decoding.greedy(step, start, **shared),
            decoding.sample(step, start, key, **shared, num_samples=2, top_k=4, top_p=0.9),
            decoding.score(step, start, best.tokens, lengths=best.lengths, begin=2, end=[3, 4]),
            model.scheduled(encoded, tokens, 0.5, key),
        ]
        both = decoding.ensemble([step, step])
        return [*found, decoding.greedy(both, (start, start), **shared)]

    key = jax.random.key(0)
    assert_gradients(loss, (state, key))
    best, greedy, sampled, scored, logits, both = jax.eval_shape(decoded, state, key)
    assert best.tokens.shape == (2, 2, 5) and scored.log_probs.shape == (2, 2)
    assert greedy.tokens.shape == both.tokens.shape and sampled.lengths.shape == (2, 2)
    assert logits.shape == (2, 3, 9 + (3 if options.get("copy") else 0))


def test_losses_and_metrics():
    logits, labels = jnp.ones((B, T, C)), jnp.ones((B, T), jnp.int32)
    smooth = lambda logits: losses.cross_entropy(logits, labels, label_smoothing=0.1)  # noqa: E731
    assert_gradients(smooth, (logits,))
    of_classes: list[Any] = [losses.cross_entropy, metrics.cross_entropy, metrics.accuracy]
    of_pairs: list[Any] = [
        losses.binary_cross_entropy, metrics.binary_cross_entropy, metrics.binary_accuracy,
        losses.mean_squared_error, metrics.mean_squared_error,
    ]  # fmt: skip
    for function in of_classes + of_pairs:
        given = logits if function in of_classes else logits[..., 0]
        found = jax.eval_shape(lambda xs, f=function: f(xs, labels, mask=MASK), given)
        assert {leaf.shape for leaf in jax.tree.leaves(found)} == {()}


@pytest.mark.parametrize("name", ["last_real", "first_real", "mean_pool", "max_pool", "reverse"])
def test_sequences(name):
    xs, function = jnp.ones((B, T, C)), getattr(sequences, name)
    found = jax.eval_shape(lambda xs: function(xs, lengths=np.array([T, 2])), xs)
    assert found.shape == ((B, T, C) if name == "reverse" else (B, C))


class Tagger(nnx.Module):
    """A layer and its readout."""

    def __init__(self, rngs):
        self.layer = nn.LSTM(3, 4, dropout=0.1, rngs=rngs)
        self.readout = nnx.Linear(4, C, rngs=rngs)

    def __call__(self, xs, rngs=None):
        outputs, _ = self.layer(xs, rngs=rngs, deterministic=rngs is None)
        return self.readout(outputs)


@pytest.mark.quick()
def test_training_and_evaluation():
    def loss(model, batch, rngs):
        return losses.cross_entropy(model(batch["x"], rngs), batch["y"], mask=batch["mask"]), {}

    def measured(model, batch):
        return {"accuracy": metrics.accuracy(model(batch["x"]), batch["y"], mask=batch["mask"])}

    batch = {"x": np.ones((B, T, 3), np.float32), "y": np.ones((B, T), np.int32), "mask": MASK}
    tx = training.optimizer(1e-3, name="adamw", clip_norm=1.0, weight_decay=0.1, average=0.9)
    model = Tagger(nnx.Rngs(0))
    result = training.fit(
        model, loss, tx, [batch], epochs=1, eval_batches=[batch], metric_fn=measured,
        progress=False,
    )  # fmt: skip
    (record,) = result.history
    with jax.numpy_rank_promotion("allow"):
        before = np.asarray(model(batch["x"]), np.float64)
        after = np.asarray(result.model(batch["x"]), np.float64)
    log_p = before - np.log(np.exp(before).sum(axis=-1, keepdims=True))
    assert record["loss"] == pytest.approx(-log_p[..., 1][MASK].mean(), rel=1e-5)
    assert record["eval_accuracy"] == pytest.approx((after.argmax(-1) == 1)[MASK].mean())


def test_a_stateful_layer_and_a_step():
    layer, xs = nn.LSTM(3, 4, num_layers=2, rngs=nnx.Rngs(0)), jnp.ones((B, T, 3))
    state = layer.initial_state((B,))
    stepped = jax.eval_shape(lambda x: layer.step(x, state), xs[:, 0])
    assert stepped.outputs.shape == (B, 4) and shapes(stepped.state) == shapes(state)
    found = nn.Stateful(layer, (B,))(xs)
    with jax.numpy_rank_promotion("allow"):
        assert_close(found, layer(xs))
