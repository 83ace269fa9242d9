"""The function `generate`, which runs a trained encoder-decoder model on a list of sources."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import checks, data, decoding
from seqjax.decoding._ends import end_tokens
from seqjax.seq2seq._encoder import Encoder
from seqjax.seq2seq._inputs import frames, listed, numbers, require_token, token_ids

__all__ = ["Generated", "generate"]


class Generated(NamedTuple):
    """The best output for one source.

    Attributes:
      tokens: int32 `[n]`, without begin and end tokens.
      score: the score by which outputs are ranked, see `seqjax.decoding.Decoded`.
      finished: False if the output was cut at the maximum length.
      attention: float32 `[m, s]`, the attention weights of the m tokens, including any end token,
        over the s real positions of the memory; None for a model without attention. For an
        `Encoder`, the real positions of the memory are those of the source.
      end: the end token of the output; None if the output was cut.
    """

    tokens: np.ndarray
    score: float
    finished: bool
    attention: np.ndarray | None
    end: int | None


def generate(
    model: Any,
    sources: Iterable[Any],
    *,
    begin: int,
    end: int | Iterable[int],
    max_length: int | None = None,
    beam_width: int = 5,
    length_penalty: float = 0.0,
    coverage_penalty: float = 0.0,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    batch_size: int = 64,
    source_ids: Iterable[Any] | None = None,
    padded: bool = True,
) -> list[Generated]:
    """Return the best output for each source, by beam search over batches of similar length.

    The length of each source is padded to the next power of two, at least 8, so that the output for
    a source does not depend on the other sources. The search is compiled once for each combination
    of padded length, number of rows and options. Later calls reuse the compiled program.

    Args:
      model: a `Seq2Seq`, or a module with an `encoder` and a method `decoding` like those of
        `Seq2Seq`. The model runs in evaluation mode.
      sources: N arrays, integers `[s]` or frames `[s, I]`. With `padded=False`, the arrays may have
        any shape, for example that of images, if all shapes are the same.
      begin: the token that is the input of the first step.
      end: the end token, or several tokens, each of which ends an output.
      max_length: maximum number of tokens of an output, including the end token. The default is
        2 S + 10 for a memory of S positions; for an `Encoder`, S is the padded length of the
        source.
      beam_width: number of hypotheses per source. With `beam_width=1`, the search is greedy
        decoding.
      length_penalty: see `seqjax.decoding.beam_search`.
      coverage_penalty: see `seqjax.decoding.beam_search`.
      min_length: see `seqjax.decoding.beam_search`.
      no_repeat_ngram: see `seqjax.decoding.beam_search`.
      batch_size: number of sources in a batch.
      source_ids: N arrays `[s]`, the ids of the source tokens in the vocabulary of the outputs, for
        a decoder that copies.
      padded: whether to pad the sources and pass their lengths to the encoder. Pass False if all
        sources have the same shape and the encoder takes no lengths.

    Returns:
      One `Generated` per source, in the order of the sources.

    Raises:
      TypeError: if `model` has no encoder or no `decoding`, `sources` is not a list, or tokens are
        not integers.
      ValueError: if there are no sources, if a token, `begin` or `end` is outside the vocabulary,
        or if frames are not finite. See also `seqjax.data.batches` and
        `seqjax.decoding.beam_search`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import seq2seq
      >>> model = seq2seq.Seq2Seq(
      ...     source_vocabulary=9,
      ...     target_vocabulary=9,
      ...     embed_size=4,
      ...     hidden_size=5,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> outputs = generate(model, [[4, 5, 6], [7]], begin=2, end=3, max_length=6, beam_width=2)
      >>> [output.attention.shape[1] for output in outputs]
      [3, 1]

      For a model with a custom encoder (see `Seq2Seq`) and images `[S, S, C]`:
      `generate(model, images, begin=2, end=3, padded=False)`.
    """
    if not (hasattr(model, "encoder") and hasattr(model, "decoding")):
        raise TypeError(f"model: expected a seqjax.seq2seq.Seq2Seq, got {checks.brief(model)}")
    arrays = _sources(model.encoder, sources)
    vocabulary = getattr(getattr(model, "decoder", None), "vocabulary", None)
    if max_length is not None:
        max_length = checks.require_integer("max_length", max_length)
    # `jax.jit` compares options by ==, and 2.0 == 2, so each option is converted to its type first.
    search = {
        "begin": require_token("begin", begin, vocabulary),
        "end": end_tokens(end, vocabulary),
        "beam_width": checks.require_integer("beam_width", beam_width),
        "length_penalty": checks.require_number("length_penalty", length_penalty),
        "coverage_penalty": checks.require_number("coverage_penalty", coverage_penalty),
        "min_length": checks.require_integer("min_length", min_length, least=0),
        "no_repeat_ngram": checks.require_integer("no_repeat_ngram", no_repeat_ngram, least=0),
        "max_length": max_length,
    }
    size = min(checks.require_integer("batch_size", batch_size), len(arrays))
    fields: dict[str, Any] = {"source": arrays}
    if source_ids is not None:
        fields["source_ids"] = _source_ids(source_ids, arrays, vocabulary)
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
            batch[name][real:] = batch[name][0]  # decoding of zeros might never end
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
        if encoded.mask.shape[1] == 0:
            raise ValueError(
                "sources: expected at least one position for the decoder to attend to, got none; "
                "padded=True pads token sequences and frames"
            )
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
    tokens = found.tokens[row, 0]
    end = int(tokens[count]) if finished else None
    return Generated(tokens[:count], float(found.scores[row, 0]), finished, attention, end)


def _sources(encoder: Any, sources: Any) -> list[np.ndarray]:
    """Check the sources as far as the type of the encoder allows, and return them as arrays."""
    each = {f"sources[{n}]": source for n, source in enumerate(listed("sources", sources))}
    if not each:
        raise ValueError("sources: expected at least one, got none")
    vocabulary = getattr(encoder, "vocabulary", None)
    if vocabulary is not None:
        return [token_ids(name, source, vocabulary - 1) for name, source in each.items()]
    if isinstance(encoder, Encoder):
        features = encoder.recurrent.cell.input_size
        return [frames(name, source, features) for name, source in each.items()]
    return [numbers(name, source) for name, source in each.items()]


def _source_ids(
    source_ids: Any, sources: list[np.ndarray], vocabulary: int | None
) -> list[np.ndarray]:
    """Return the ids of the sources in the vocabulary of the outputs, one per position."""
    given = listed("source_ids", source_ids)
    if len(given) != len(sources):
        raise ValueError(
            f"source_ids: expected one for each of {len(sources)} sources, got {len(given)}"
        )
    found = []
    for n, (ids, source) in enumerate(zip(given, sources, strict=True)):
        high = None if vocabulary is None else vocabulary + len(source) - 1
        array = token_ids(f"source_ids[{n}]", ids, high)
        if len(array) != len(source):
            raise ValueError(
                f"source_ids[{n}]: expected {len(source)} ids, one per position of the source, "
                f"got {len(array)}"
            )
        found.append(array)
    return found
