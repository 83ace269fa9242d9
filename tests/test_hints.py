"""Calls with the arguments of other libraries get an error that says what to write instead."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import seqjax
from seqjax import attention, ctc, data, losses, metrics, nn, training, transducer
from seqjax._hints import hints

XS = jnp.ones([2, 4, 3])
CELL = seqjax.cells.GRU(3, 5)
# `Any`, since the calls below are wrong.
LAYER: Any = nn.LSTM(3, 5, rngs=nnx.Rngs(0))
unroll: Any = seqjax.unroll
optimizer: Any = training.optimizer
fit: Any = training.fit
batches: Any = data.batches
cross_entropy: Any = losses.cross_entropy
accuracy: Any = metrics.accuracy
lstm: Any = nn.LSTM
ctc_loss: Any = ctc.ctc_loss
transducer_loss: Any = transducer.transducer_loss
joint_transducer_loss: Any = transducer.joint_transducer_loss
ATTENTION: Any = attention.Additive(3, 4)
PARAMS = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), CELL.param_specs())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LAYER(XS, hx=None), "LSTM: .*'hx'; use initial_state"),
        (lambda: LAYER(XS, dones=None), "'dones'; use resets=seqjax.sequences.resets_from_dones"),
        (lambda: LAYER(XS, lenghts=None), "'lenghts'; did you mean 'lengths'"),
        (
            lambda: LAYER(XS, jnp.array([4, 2])),
            "expected 1 argument without a name, .* got 2; write lengths",
        ),
        (lambda: unroll(CELL, PARAMS, XS, initial_state=None), "unroll: .*; use state"),
        (lambda: unroll(CELL, PARAMS, XS, None), "expected 3 arguments"),
        (lambda: optimizer(lr=0.1), "optimizer: .*'lr'; use learning_rate"),
        (lambda: batches({}, batch_size=2, shuffle=True), "batches: .*pass seed=0"),
        (lambda: cross_entropy(XS, XS, reduction="none"), "'reduction'; .*per_sequence"),
        (lambda: cross_entropy(XS, XS, ignore_index=0), "mask=labels != ignore_index"),
        (lambda: accuracy(XS, XS, weights=None), "accuracy: .*pass mask=weights"),
        (
            lambda: fit(LAYER, None, optax.sgd(0.1), [], verbose=1),
            "fit: .*'verbose'; use progress",
        ),
        (lambda: ctc_loss(XS, XS, input_lengths=0), "ctc_loss: .*'input_lengths'; use lengths$"),
        (lambda: ctc_loss(XS, XS, target_lengths=0), "'target_lengths'; use label_lengths$"),
        (lambda: ctc_loss(XS, XS, reduction="sum"), "'reduction'; .* per_sequence=True"),
        (
            lambda: ctc_loss(XS, XS, [4, 4], [2, 2]),
            r"expected 2 arguments without a name, \(logits, labels\), got 4; write lengths=…",
        ),
        (lambda: transducer_loss(XS, XS, logit_lengths=0), "'logit_lengths'; use lengths$"),
        (lambda: transducer_loss(XS, XS, target_lengths=0), "'target_lengths'; use label_len"),
        (lambda: transducer_loss(XS, XS, [4, 4], [2, 2]), "got 4; write lengths=…"),
        (
            lambda: joint_transducer_loss(None, XS, XS, XS, reduction="mean"),
            "joint_transducer_loss: .*'reduction'",
        ),
        (
            lambda: ATTENTION.precompute(None, XS, key_padding_mask=None),
            "Additive: .*'key_padding_mask'; use mask, which is its opposite",
        ),
        (lambda: lstm(3, 6, 2), r"\(input_size, hidden_size\), got 3; write num_layers=…"),
        (
            lambda: lstm(32),
            r"LSTM: expected the arguments \(input_size, hidden_size\), .* without hidden_size$",
        ),
        (lambda: lstm(units=32), r"'units'; the sizes are \(input_size, hidden_size\)"),
    ],
)
def test_the_message_says_what_to_write(call, words):
    with pytest.raises(TypeError, match=words) as caught:
        call()
    assert caught.value.__suppress_context__  # one error, not two


def test_other_errors_and_signatures_are_those_of_the_function():
    def function(a, *, b=1):
        """Text."""
        raise TypeError(f"{a} {b}")

    hinted: Any = hints(c="use b")(function)
    with pytest.raises(TypeError, match=r"^1 2$"):
        hinted(1, b=2)
    with pytest.raises(TypeError, match=r"function: expected the argument \(a\), .* without a$"):
        hinted(b=2)
    assert inspect.signature(hinted) == inspect.signature(function)
    assert (hinted.__name__, hinted.__doc__) == ("function", "Text.")


def test_advice_is_for_names_that_the_function_lacks():
    for function in (
        nn.Recurrent.__call__, seqjax.unroll, training.optimizer, training.fit, data.batches,
        losses.cross_entropy, losses.linear_cross_entropy, losses.binary_cross_entropy,
        losses.mean_squared_error, losses.mean_absolute_error, metrics.cross_entropy,
        metrics.accuracy, metrics.binary_accuracy, ctc.ctc_loss, transducer.transducer_loss,
        transducer.joint_transducer_loss, attention.Attention.precompute,
    ):  # fmt: skip
        advice = inspect.getclosurevars(function).nonlocals["advice"]
        assert not advice.keys() & inspect.signature(function).parameters.keys(), function
