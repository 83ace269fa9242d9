"""Outputs of a trained encoder-decoder for a list of sources."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks, data, decoding

__all__ = ["Generated", "generate"]


class Generated(NamedTuple):
    """The best output for one source.

    Attributes:
      tokens: int32 `[n]`, without begin and end.
      score: what it was ranked by, see `seqjax.decoding.Decoded`.
      finished: False if it was cut at the greatest length.
      attention: float32 `[m, s]`, the weights over the real positions of the memory (of an
        `Encoder`, those of the source) for each token and, if it came, the end token; None for a
        model without attention.
    """

    tokens: np.ndarray
    score: float
    finished: bool
    attention: np.ndarray | None


def generate(
    model: Any,
    sources: Sequence[ArrayLike],
    *,
    begin: int,
    end: int,
    max_length: int | None = None,
    beam_width: int = 5,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    batch_size: int = 64,
    source_ids: Sequence[ArrayLike] | None = None,
    padded: bool = True,
) -> list[Generated]:
    """The best output for each source, by beam search over batches of sources of similar length.

    Sources are padded to the next power of two, 8 at least, so an output does not depend on the
    other sources. Compiled once for each such length, number of rows and set of options; further
    calls reuse it. Sources that are no sequences, such as images, go in as they are with `padded`
    False.

    Args:
      model: a `Seq2Seq`, or a module with its `encoder` and `decoding`. It runs in evaluation mode.
      sources: N arrays, integers `[s]` or frames `[s, I]`.
      begin: the token that the decoder sees first.
      end: the token that ends an output.
      max_length: the most tokens of an output, the end token counted; by default 10 and twice the
        positions of the memory, of an `Encoder` what the source is padded to.
      beam_width: hypotheses kept; 1 is greedy.
      length_penalty: see `seqjax.decoding.beam_search`.
      coverage_penalty: see `seqjax.decoding.beam_search`.
      min_length: see `seqjax.decoding.beam_search`.
      no_repeat_ngram: see `seqjax.decoding.beam_search`.
      batch_size: sources searched at once.
      source_ids: the sources in the vocabulary of the outputs, for a decoder that copies.
      padded: False for sources of one shape that the encoder reads as they are, without lengths.

    Returns:
      One `Generated` a source, in the order of the sources.

    Raises:
      TypeError, ValueError: no sources; see `seqjax.data.batches` and
        `seqjax.decoding.beam_search`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import seq2seq
      >>> model = seq2seq.Seq2Seq(9, 9, embed_size=4, hidden_size=5, rngs=nnx.Rngs(0))
      >>> outputs = generate(model, [[4, 5, 6], [7]], begin=2, end=3, max_length=6, beam_width=2)
      >>> [output.attention.shape[1] for output in outputs]
      [3, 1]

      Images [S, S, C] for a model with an encoder of its own (see `Seq2Seq`):
      `generate(model, images, begin=2, end=3, padded=False)`.
    """
    if not len(sources):
        raise ValueError("sources: expected at least one, got none")
    if max_length is not None:
        max_length = checks.require_integer("max_length", max_length)
    # An empty list has no dtype, and NumPy's, float64, is not that of tokens.
    arrays = [a if a.size or a.ndim > 1 else a.astype(np.int32) for a in map(np.asarray, sources)]
    search = {
        "begin": begin, "end": end, "beam_width": beam_width, "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty, "min_length": min_length,
        "no_repeat_ngram": no_repeat_ngram, "max_length": max_length,
    }  # fmt: skip
    size = min(checks.require_integer("batch_size", batch_size), len(arrays))
    fields: dict[str, Any] = {"source": arrays}
    if source_ids is not None:
        fields["source_ids"] = [np.asarray(ids) for ids in source_ids]
    grouping: dict[str, Any] = {"sequence_keys": ()}
    if checks.require_bool("padded", padded):
        longest = max(map(len, arrays)).bit_length()
        boundaries = [2**power for power in range(3, max(4, longest + 1))]
        grouping = {"sequence_keys": tuple(fields), "boundaries": boundaries}
    index = np.arange(len(arrays), dtype=np.int32)
    outputs: dict[int, Generated] = {}
    for batch in data.batches({**fields, "index": index}, batch_size=size, **grouping):
        real = int(batch["weights"].sum())
        for name in {*fields, "lengths"} & set(batch):
            batch[name][real:] = batch[name][0]  # filler might never end: it repeats the first row
        options = tuple(search.items())
        inputs = (batch.get(name) for name in ("source", "lengths", "source_ids"))
        found, mask = jax.device_get(_search(model, *inputs, options))
        for row, number in enumerate(batch["index"][:real].tolist()):
            outputs[number] = _output(found, row, mask[row])
    return [outputs[index] for index in range(len(arrays))]


@functools.partial(jax.jit, static_argnums=4)
def _search(
    model: Any, source: Any, lengths: Any, source_ids: Any, options: tuple[tuple[str, Any], ...]
) -> tuple[decoding.Decoded, Any]:
    encoded = model.encoder(source, lengths=lengths, source_ids=source_ids, deterministic=True)
    step, state = model.decoding(encoded)
    asked: dict[str, Any] = dict(options)
    asked["max_length"] = asked["max_length"] or 2 * encoded.mask.shape[1] + 10
    attends: dict[str, Any] = {}
    if state.weights is not None:
        attends = {"alignment": lambda state: state.weights}
        if asked["coverage_penalty"]:
            attends["source_mask"] = encoded.mask
    return decoding.beam_search(step, state, **attends, **asked), encoded.mask


def _output(found: Any, row: int, real: np.ndarray) -> Generated:
    count, finished = int(found.lengths[row, 0]), bool(found.finished[row, 0])
    attention = None
    if found.alignments is not None:
        weights = found.alignments[row, 0, : count + finished]
        attention = weights[:, real].astype(np.float32)
    tokens = found.tokens[row, 0, :count]
    return Generated(tokens, float(found.scores[row, 0]), finished, attention)
