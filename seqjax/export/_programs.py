"""Export of layers, of their single steps, and of decoding as StableHLO programs."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks, decoding
from seqjax.cells._base import input_specs
from seqjax.decoding._ends import end_tokens
from seqjax.export._artifact import Artifact
from seqjax.export._functions import PLATFORMS, dtypes_of, export_function
from seqjax.export._plain import plain
from seqjax.nn import Recurrent
from seqjax.seq2seq._inputs import require_token
from seqjax.types import PyTree

__all__ = ["PADDING", "export_decoding", "export_layer", "export_step"]

PADDING = ("lengths", "mask", "none")
"""The input that tells a program which steps are padding: lengths, a mask, or no input."""


def export_layer(
    layer: Recurrent,
    *,
    batch: str | int = "b",
    steps: str | int = "t",
    padding: str = "lengths",
    resets: bool = False,
    state: bool = True,
    return_sequences: bool = True,
    weights: str = "constants",
    quantize: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Export a recurrent layer, in evaluation mode, as a program over whole sequences.

        (xs, lengths, state) -> {"outputs": …, "state": …}

    If a length is outside [0, t], a call of the artifact raises an error. The program itself and a
    call under tracing cannot raise errors; they clip the length to [0, t].

    The state is a flat dict: `{"0.h": [b, H], "0.c": [b, H], "1.h": …}`. Pass the returned state to
    the next call to continue the sequences.

    Args:
      layer: a `seqjax.nn.Recurrent`, such as an LSTM, with any number of layers and one or both
        directions.
      batch: the batch size as a number, or as a name that stands for any size of at least 1.
      steps: the number of steps as a number, or as a name that stands for any number of at least 1.
      padding: "lengths" adds an input for the lengths, int32 `[b]`. "mask" adds an input for the
        mask, bool `[b, t]`. "none" adds no input; the sequences then have no padding.
      resets: whether to add an input for resets, bool `[b, t]` like a mask. The input for resets
        follows the input for the lengths or the mask.
      state: whether the initial state is an input. If False, the program starts from the initial
        state of the layer.
      return_sequences: the argument `return_sequences` of the layer's call.
      weights: "constants" or "argument", see `export_function`.
      quantize: "int8" or None, see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact; `artifact.initial_state([batch])` returns the initial state.

    Raises:
      TypeError: if `layer` is not a layer.
      ValueError: if `batch` and `steps` have the same name; see also `export_function`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> artifact = export_layer(nn.LSTM(3, 5, rngs=nnx.Rngs(0)), platforms=["cpu"])
      >>> found = artifact(jnp.ones([2, 7, 3]), jnp.array([7, 4]), artifact.initial_state([2]))
      >>> found["outputs"].shape, sorted(found["state"])
      ((2, 7, 5), ['0.c', '0.h'])
    """
    dtype = _checked_layer(layer)
    checks.require_name("padding", padding, PADDING)
    has_state, has_resets = (
        checks.require_bool("state", state),
        checks.require_bool("resets", resets),
    )
    b, t = _sizes(batch=batch, steps=steps)
    step_shape = (t, b) if layer.time_major else (b, t)
    given: dict[str, Any] = {"xs": input_specs(layer.cell, step_shape, dtype)}
    if padding == "lengths":
        given["lengths"] = jax.ShapeDtypeStruct((b,), jnp.int32)
    elif padding == "mask":
        given["mask"] = jax.ShapeDtypeStruct(step_shape, jnp.bool_)
    if has_resets:
        given["resets"] = jax.ShapeDtypeStruct(step_shape, jnp.bool_)
    start = layer.initial_state((), dtype)
    if has_state:
        given["state"] = _batched(start, b)

    def run(layer: Recurrent, *arguments: Any) -> Any:
        call = dict(zip(given, arguments, strict=True))
        xs, initial = call.pop("xs"), call.pop("state", None)
        return layer(
            xs, initial_state=initial, deterministic=True, return_sequences=return_sequences, **call
        )

    artifact = export_function(
        _with_names(run, ["layer", *given]), *given.values(), model=layer, weights=weights,
        quantize=quantize, platforms=platforms, kind="layer",
    )  # fmt: skip
    if padding == "lengths":
        entry = next(each for each in artifact.manifest["inputs"] if each["name"] == "lengths")
        entry["range"] = [0, _size(t)]
    return _with_state(artifact, start) if has_state else artifact


def export_step(
    layer: Recurrent,
    *,
    batch: str | int = "b",
    weights: str = "constants",
    quantize: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Export one time step of a recurrent layer, for streams.

        (x_t, state) -> {"output": …, "state": …}

    Args:
      layer: a `seqjax.nn.Recurrent` in one direction.
      batch: the batch size as a number, or as a name that stands for any size of at least 1.
      weights: "constants" or "argument", see `export_function`.
      quantize: "int8" or None, see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact; `artifact.initial_state([batch])` returns the initial state.

    Raises:
      TypeError: if `layer` is not a layer.
      ValueError: if the layer is bidirectional; see also `export_function`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> artifact = export_step(nn.GRU(3, 5, rngs=nnx.Rngs(0)), platforms=["cpu"])
      >>> found = artifact(jnp.ones([2, 3]), artifact.initial_state([2]))
      >>> artifact(jnp.ones([2, 3]), found["state"])["output"].shape
      (2, 5)
    """
    dtype = _checked_layer(layer)
    if layer.bidirectional:
        raise ValueError(
            "layer: expected one direction, got a bidirectional layer, which cannot run single "
            "steps; use export_layer for whole sequences"
        )
    (b,) = _sizes(batch=batch)
    start = layer.initial_state((), dtype)

    def step(layer: Recurrent, x_t: Any, state: Any) -> dict[str, Any]:
        output, state = layer.step(x_t, state)
        return {"output": output, "state": state}

    artifact = export_function(
        step, input_specs(layer.cell, (b,), dtype), _batched(start, b), model=layer,
        weights=weights, quantize=quantize, platforms=platforms, kind="step",
    )  # fmt: skip
    return _with_state(artifact, start)


def export_decoding(
    model: Any,
    *,
    begin: int,
    end: int | Iterable[int],
    max_length: int,
    beam_width: int = 1,
    length_penalty: float = 0.0,
    alignments: bool = False,
    batch: str | int = "b",
    steps: str | int = "s",
    weights: str = "constants",
    quantize: str | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Export an encoder-decoder model with its decoding loop.

        (source, lengths) -> {"tokens": [b, L], "lengths": [b], "log_probs": [b], "finished": [b]}

    All positions after the last token of an output contain its end token. If a length is outside
    [0, s] or a token is outside the source vocabulary, a call of the artifact raises an error. The
    program itself cannot raise: it clips lengths to [0, s], and a token outside the vocabulary
    makes the result NaN.

    Args:
      model: a `seqjax.seq2seq.Seq2Seq` without `copy`.
      begin: the token that is fed to the first step of the decoder.
      end: the end token, or several end tokens. Each end token ends an output.
      max_length: L, the maximum number of tokens of an output, including the end token.
      beam_width: the number of hypotheses, of which only the best is returned. 1 means greedy
        decoding.
      length_penalty: see `seqjax.decoding.beam_search`.
      alignments: whether to return the attention weights `[b, L, s]`, too.
      batch: the batch size as a number, or as a name that stands for any size of at least 1.
      steps: the number of source positions as a number, or as a name that stands for any number of
        at least 1.
      weights: "constants" or "argument", see `export_function`.
      quantize: "int8" or None, see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact. The source is an array of tokens, int32 `[b, s]`, or frames, float `[b, s, I]`.
      The lengths are int32 `[b]`.

    Raises:
      TypeError: if `model` is not an encoder-decoder model.
      ValueError: if the model has `copy=True`; see also `export_function` and
        `seqjax.decoding.beam_search`.

    Example:
      >>> from flax import nnx
      >>> from seqjax import seq2seq
      >>> model = seq2seq.Seq2Seq(
      ...     source_vocabulary=7,
      ...     target_vocabulary=9,
      ...     embed_size=4,
      ...     hidden_size=5,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> artifact = export_decoding(model, begin=2, end=3, max_length=6, platforms=["cpu"])
      >>> artifact(jnp.array([[3, 6, 1]]), jnp.array([3]))["tokens"].shape
      (1, 6)
    """
    encoder, decoder = getattr(model, "encoder", None), getattr(model, "decoder", None)
    if encoder is None or decoder is None:
        raise TypeError(f"model: expected a seqjax.seq2seq.Seq2Seq, got {checks.brief(model)}")
    if decoder.gate is not None:
        raise ValueError(
            "model: expected copy=False, since a program needs a vocabulary of fixed size, got "
            "copy=True"
        )
    beam_width = checks.require_integer("beam_width", beam_width)
    length_penalty = checks.require_number("length_penalty", length_penalty)
    if checks.require_bool("alignments", alignments) and decoder.mechanism is None:
        raise ValueError("alignments: expected False for a model without attention, got True")
    shape = _sizes(batch=batch, steps=steps)
    if encoder.embedding is not None:
        spec = jax.ShapeDtypeStruct(shape, jnp.int32)
    else:
        spec = input_specs(encoder.recurrent.cell, shape, _checked_layer(encoder.recurrent))
    options: dict[str, Any] = {
        "begin": require_token("begin", begin, decoder.vocabulary),
        "end": end_tokens(end, decoder.vocabulary),
        "max_length": checks.require_integer("max_length", max_length),
    }
    if alignments:
        options["alignment"] = lambda state: state.weights
    if beam_width > 1:
        options |= {"beam_width": beam_width, "length_penalty": length_penalty}
    elif length_penalty:
        raise ValueError(f"length_penalty: expected 0 with beam_width=1, got {length_penalty}")
    search = decoding.greedy if beam_width == 1 else decoding.beam_search

    def decode(model: Any, source: Any, lengths: Any) -> dict[str, Any]:
        step, state = model.decoding(model.encoder(source, lengths=lengths, deterministic=True))
        found = search(step, state, **options)._asdict()
        del found["scores"]
        return {name: None if part is None else part[:, 0] for name, part in found.items()}

    artifact = export_function(
        decode, spec, jax.ShapeDtypeStruct(shape[:1], jnp.int32), model=model, weights=weights,
        quantize=quantize, platforms=platforms, kind="decoding",
    )  # fmt: skip
    if encoder.embedding is not None:
        tokens = {"range": [0, encoder.vocabulary - 1], "real_before": "lengths"}
        artifact.manifest["inputs"][-2] |= tokens
    artifact.manifest["inputs"][-1]["range"] = [0, _size(shape[1])]
    return artifact


def _sizes(**sizes: str | int) -> tuple[Any, ...]:
    """Return the sizes, with a symbolic dimension of `jax.export` in place of each name."""
    names = []
    for argument, size in sizes.items():
        if not isinstance(size, str):
            size = checks.require_integer(argument, size)
        elif not _is_symbol(size):
            raise ValueError(
                f"{argument}: expected a name or a positive integer, got {size!r}, which "
                "jax.export does not accept as a name"
            )
        elif size in names:  # one symbol would make both sizes equal
            raise ValueError(f"{argument}: expected a name not used before, got {size!r} twice")
        names.append(size)
    return tuple(jax.export.symbolic_shape(", ".join(map(str, names))))


def _is_symbol(name: str) -> bool:
    """Return whether `jax.export` accepts a name for a size. Words such as "max" are reserved."""
    try:
        return name.isidentifier() and str(jax.export.symbolic_shape(name)[0]) == name
    except (TypeError, ValueError):
        return False


def _size(size: Any) -> int | str:
    """Return a size in the form of the manifest: a number, or the name of a symbol."""
    return size if isinstance(size, int) else str(size)


def _checked_layer(layer: Any) -> Any:
    """Check that `layer` is a layer and return the dtype of its inputs."""
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}; "
            "use export_function for other models"
        )
    return layer.dtype or layer.param_dtype


def _batched(start: PyTree, size: Any) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), start)


def _with_state(artifact: Artifact, start: PyTree) -> Artifact:
    """Return the artifact with an initial state, which is stored as a dict of named arrays."""
    state = jax.tree.map(np.asarray, plain(start))
    artifact.manifest["dtypes"]["initial_state"] = dtypes_of(state)
    return dataclasses.replace(artifact, state=state)


def _with_names(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Set the argument names that `inspect.signature` reports, and return the function."""
    kind = inspect.Parameter.POSITIONAL_ONLY
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
