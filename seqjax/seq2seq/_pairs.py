"""Examples, loss and metrics for training an encoder-decoder on pairs of sequences."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks, metrics, sequences
from seqjax._readout import linear_readout
from seqjax.nn import _noise as noise
from seqjax.seq2seq._inputs import listed, require_token, token_ids
from seqjax.seq2seq._model import Seq2Seq
from seqjax.types import Array

__all__ = ["PAIR_KEYS", "pair_examples", "pair_loss", "pair_metrics"]

PAIR_KEYS = {"source": ("source",), "target": ("tokens", "labels")}
"""The `sequence_keys` for `seqjax.data.batches`: the fields of `pair_examples` that share a length.
With the field "source_ids", use `PAIR_KEYS | {"source": ("source", "source_ids")}`."""


def pair_examples(
    sources: Iterable[ArrayLike],
    targets: Iterable[ArrayLike],
    *,
    begin: int,
    end: int,
    source_ids: Iterable[ArrayLike] | None = None,
) -> dict[str, list[Any]]:
    """Return pairs of sequences as fields for `seqjax.data.batches`.

        tokens = begin, y_1, …, y_n;  labels = y_1, …, y_n, end

    Args:
      sources: N arrays, integers `[s]` or frames `[s, I]`.
      targets: N arrays of integers `[t]`, without begin and end tokens.
      begin: the first input token of the decoder.
      end: the token that ends a target.
      source_ids: N arrays `[s]`, the ids of the source tokens in the vocabulary of the targets, for
        a decoder that copies. The ids are padded like the sources if `seqjax.data.batches` gets
        `sequence_keys=PAIR_KEYS | {"source": ("source", "source_ids")}`.

    Returns:
      The fields "source", "tokens" (the decoder's inputs), "labels" (the tokens to predict) and, if
      given, "source_ids", with N entries each.

    Raises:
      TypeError: if `sources` or `targets` is not a list, or tokens are not integers.
      ValueError: if the numbers of sources, targets and ids differ, or a target does not have one
        axis.

    Example:
      >>> from seqjax.data import batches
      >>> examples = pair_examples([[7, 8, 9], [7]], [[5], [6, 4]], begin=2, end=3)
      >>> [batch] = batches(examples, batch_size=2, sequence_keys=PAIR_KEYS)
      >>> batch["tokens"].tolist(), batch["labels"].tolist(), batch["target_lengths"].tolist()
      ([[2, 5, 0], [2, 6, 4]], [[5, 3, 0], [6, 4, 3]], [2, 3])
    """
    begin = require_token("begin", begin, None)
    end = require_token("end", end, None)
    read = listed("sources", sources)
    asked = listed("targets", targets)
    written = [token_ids(f"targets[{n}]", target) for n, target in enumerate(asked)]
    copied = {} if source_ids is None else {"source_ids": listed("source_ids", source_ids)}
    fields: dict[str, list[Any]] = {"targets": written, **copied}
    for name, field in fields.items():
        if len(field) != len(read):
            raise ValueError(
                f"{name}: expected one for each of {len(read)} sources, got {len(field)}"
            )
    return copied | {
        "source": read,
        "tokens": [np.concatenate([[begin], target]).astype(np.int32) for target in written],
        "labels": [np.concatenate([target, [end]]).astype(np.int32) for target in written],
    }


def pair_loss(
    model: Any,
    batch: Mapping[str, Any],
    rngs: noise.Rngs | None,
    *,
    label_smoothing: float = 0.0,
) -> tuple[Array, dict[str, metrics.Mean]]:
    """Return the mean cross-entropy of target tokens without padding, for `seqjax.training.fit`.

    Args:
      model: a `Seq2Seq`, or a model that takes the same arguments.
      batch: a batch of `pair_examples` that `seqjax.data.batches` made with
        `sequence_keys=PAIR_KEYS`. With the field "source_ids", pass
        `sequence_keys=PAIR_KEYS | {"source": ("source", "source_ids")}`. If the sources are not
        sequences, pass `sequence_keys={"target": PAIR_KEYS["target"]}`.
      rngs: `nnx.Rngs` or a random key for dropout; None in evaluation.
      label_smoothing: see `seqjax.losses.cross_entropy`. If the model copies, the probability is
        spread over the ids that are possible, which are the vocabulary and the tokens of the
        source.

    Returns:
      The loss in nats per token, and the metric "accuracy", the accuracy of predicting the next
      token.

    Example:
      >>> from flax import nnx
      >>> from seqjax import data, seq2seq
      >>> model = seq2seq.Seq2Seq(
      ...     source_vocabulary=9,
      ...     target_vocabulary=9,
      ...     embed_size=4,
      ...     hidden_size=5,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> examples = pair_examples([[7, 8], [4]], [[5], [6, 4]], begin=2, end=3)
      >>> [batch] = data.batches(examples, batch_size=2, sequence_keys=PAIR_KEYS)
      >>> loss, found = pair_loss(model, batch, None)
      >>> loss.shape, int(found["accuracy"].count)
      ((), 5)
    """
    loss, accuracy = _means(model, batch, rngs, label_smoothing)
    return loss.value(), {"accuracy": accuracy}


def pair_metrics(model: Any, batch: Mapping[str, Any]) -> dict[str, metrics.Mean]:
    """Return the exact mean loss and accuracy of a batch, for `seqjax.training.fit`.

    Args:
      model: as for `pair_loss`.
      batch: as for `pair_loss`.

    Returns:
      The metrics "loss", the cross-entropy in nats per target token, and "accuracy", both without
      padding. The perplexity is the exponential of the loss.

    Example:
      >>> from flax import nnx
      >>> from seqjax import data, seq2seq
      >>> model = seq2seq.Seq2Seq(
      ...     source_vocabulary=9,
      ...     target_vocabulary=9,
      ...     embed_size=4,
      ...     hidden_size=5,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> examples = pair_examples([[7, 8], [4]], [[5], [6, 4]], begin=2, end=3)
      >>> [batch] = data.batches(examples, batch_size=2, sequence_keys=PAIR_KEYS)
      >>> {name: int(mean.count) for name, mean in pair_metrics(model, batch).items()}
      {'loss': 5, 'accuracy': 5}
    """
    loss, accuracy = _means(model, batch, None)
    return {"loss": loss, "accuracy": accuracy}


def _means(
    model: Any, batch: Mapping[str, Any], rngs: Any, label_smoothing: float = 0.0
) -> tuple[metrics.Mean, metrics.Mean]:
    """Return the cross-entropy and the accuracy of the target tokens without padding."""
    given = batch["source"], batch["tokens"]
    options = {"lengths": batch.get("source_lengths"), "rngs": rngs}
    labels = batch["labels"]
    mask = sequences.lengths_to_mask(batch["target_lengths"], labels.shape[1])
    if "weights" in batch:  # fit checks that the loss reads `weights`
        mask = mask & batch["weights"][:, None]
    if (linear := _linear_readout(model)) is not None:
        kernel, bias, transposed = linear
        return linear_readout(
            model.hidden(*given, **options), kernel, bias, labels,
            mask=mask, label_smoothing=label_smoothing, transposed=transposed,
        ).means()  # fmt: skip
    if "source_ids" in batch:
        options["source_ids"] = batch["source_ids"]
    logits = model(*given, **options)
    accuracy = metrics.accuracy(logits, labels, mask=mask)
    if "source_ids" in batch:
        return _copying_loss(logits, labels, mask, label_smoothing), accuracy
    loss = metrics.cross_entropy(logits, labels, mask=mask, label_smoothing=label_smoothing)
    return loss, accuracy


def _copying_loss(logits: Array, labels: Any, mask: Any, label_smoothing: float) -> metrics.Mean:
    """Return the cross-entropy, smoothed over the ids whose probability is not 0."""
    share = checks.require_rate("label_smoothing", label_smoothing)
    loss = metrics.cross_entropy(logits, labels, mask=mask)
    if not share:
        return loss
    log_probs = jax.nn.log_softmax(jnp.where(mask[..., None], logits, 0.0))
    possible = ~jnp.isneginf(log_probs)
    spread = -jnp.where(possible, log_probs, 0.0).sum(-1) / possible.sum(-1)
    uniform = metrics.Mean.of(spread, mask=mask)
    return metrics.Mean((1 - share) * loss.total + share * uniform.total, loss.count)


def _linear_readout(model: Any) -> Any:
    """Return the readout if the loss can be computed without all logits at once, otherwise None."""
    if not isinstance(model, Seq2Seq) or type(model).__call__ is not Seq2Seq.__call__:
        return None
    return model.decoder.linear_readout()
