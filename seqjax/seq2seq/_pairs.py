"""Training an encoder-decoder on pairs of sequences, by teacher forcing."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import metrics, sequences
from seqjax._readout import linear_readout
from seqjax.nn import _noise as noise
from seqjax.seq2seq._inputs import listed, require_token, token_ids
from seqjax.seq2seq._model import Seq2Seq
from seqjax.types import Array

__all__ = ["PAIR_KEYS", "pair_examples", "pair_loss", "pair_metrics"]

PAIR_KEYS = {"source": ("source",), "target": ("tokens", "labels")}
"""Which fields of `pair_examples` share a length: `sequence_keys` of `seqjax.data.batches`. With
ids for a decoder that copies, "source_ids" stands beside "source"."""


def pair_examples(
    sources: Iterable[ArrayLike],
    targets: Iterable[ArrayLike],
    *,
    begin: int,
    end: int,
    source_ids: Iterable[ArrayLike] | None = None,
) -> dict[str, list[Any]]:
    """Pairs as fields for `seqjax.data.batches`.

        tokens = begin, y_1, …, y_n;  labels = y_1, …, y_n, end

    Args:
      sources: N arrays, integers `[s]` or frames `[s, I]`.
      targets: N arrays of integers `[t]`, without begin and end.
      begin: the token that the decoder sees first.
      end: the token that ends a target.
      source_ids: N arrays `[s]`, the sources in the vocabulary of the targets, for a decoder that
        copies.

    Returns:
      "source", "tokens" (what the decoder sees), "labels" (what it should give), N entries each,
      and "source_ids" if given.

    Raises:
      TypeError: targets, begin or end that are not integers; no lists.
      ValueError: not as many targets or ids as sources; a target that is not `[t]`.

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
    """The mean cross-entropy of the real target tokens, a loss function for `seqjax.training.fit`.

    Args:
      model: a `Seq2Seq`, or anything that is called like it.
      batch: a batch of `pair_examples`, with `PAIR_KEYS`; or, of sources that are no sequences,
        with "target" alone.
      rngs: for dropout; None in evaluation.
      label_smoothing: see `seqjax.losses.cross_entropy`.

    Returns:
      The loss in nats a token, and the accuracy of the next token as a metric.

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
    """Loss and accuracy of a batch as exact means, a metric function for `seqjax.training.fit`.

    Args:
      model: as for `pair_loss`.
      batch: as for `pair_loss`.

    Returns:
      "loss", the cross-entropy in nats a real target token, whose exponential is the perplexity,
      and "accuracy".

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
    """Cross-entropy and accuracy of the real target tokens."""
    given = batch["source"], batch["tokens"]
    options = {"lengths": batch.get("source_lengths"), "rngs": rngs}
    labels = batch["labels"]
    mask = sequences.lengths_to_mask(batch["target_lengths"], labels.shape[1])
    if "weights" in batch:  # so that a training step sees that filler rows do not count
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
    loss = metrics.cross_entropy(logits, labels, mask=mask, label_smoothing=label_smoothing)
    return loss, metrics.accuracy(logits, labels, mask=mask)


def _linear_readout(model: Any) -> Any:
    """The read-out whose logits need not be held at once; None if the model's calls decide."""
    if not isinstance(model, Seq2Seq) or type(model).__call__ is not Seq2Seq.__call__:
        return None
    return model.decoder.linear_readout()
