"""Models as StableHLO programs: layers, their single steps, and decoding."""

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
"""The ways to tell a program which steps are real."""


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
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Exports a recurrent layer over sequences, in evaluation mode.

        (xs, lengths, state) -> {"outputs": …, "state": …}

    A call of the artifact raises on lengths outside [0, t]. The program itself cannot, nor can a
    call under tracing: there they mean the nearest one.
    The state, in and out, is a flat dict: `{"0.h": [b, H], "0.c": [b, H], "1.h": …}`. Handing the
    one that came out to the next call goes on where the last one stopped.

    Args:
      layer: a `seqjax.nn.Recurrent`, such as an LSTM: stacked, in one or both directions.
      batch: a name for the batch's size, which may then be any of at least 1, or a number.
      steps: a name for T, which may then be any of at least 1, or a number.
      padding: what the program is given to know the real steps: "lengths" (int32 `[b]`), "mask"
        (bool `[b, t]`) or "none".
      resets: whether it is given resets, bool like a mask, after the padding's.
      state: whether it is given a state; if not, it starts from the layer's own.
      return_sequences: as in a call of the layer.
      weights: "constants" or "argument", see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact; `artifact.initial_state([batch])` is the state to begin with.

    Raises:
      TypeError: not a layer.
      ValueError: one name for two sizes; see `export_function`.

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
        platforms=platforms, kind="layer",
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
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Exports one step of a recurrent layer, for streams.

        (x_t, state) -> {"output": …, "state": …}

    Args:
      layer: a `seqjax.nn.Recurrent` in one direction.
      batch: a name for the batch's size, which may then be any of at least 1, or a number.
      weights: "constants" or "argument", see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact; `artifact.initial_state([batch])` is the state to begin with.

    Raises:
      TypeError: not a layer.
      ValueError: a bidirectional layer, which needs whole sequences; see `export_function`.

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
        raise ValueError("layer: expected one direction; a bidirectional layer has no single steps")
    (b,) = _sizes(batch=batch)
    start = layer.initial_state((), dtype)

    def step(layer: Recurrent, x_t: Any, state: Any) -> dict[str, Any]:
        output, state = layer.step(x_t, state)
        return {"output": output, "state": state}

    artifact = export_function(
        step, input_specs(layer.cell, (b,), dtype), _batched(start, b), model=layer,
        weights=weights, platforms=platforms, kind="step",
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
    platforms: Sequence[str] = PLATFORMS,
) -> Artifact:
    """Exports an encoder-decoder from source to output, the loop of its decoder included.

        (source, lengths) -> {"tokens": [b, L], "lengths": [b], "log_probs": [b], "finished": [b]}

    From an output's length on, its tokens are the end token that ended it. A call of the artifact
    raises on lengths outside [0, s] and on tokens that the source's vocabulary does not have. The
    program itself cannot: there lengths mean the nearest one, and such a token gives NaN.

    Args:
      model: a `seqjax.seq2seq.Seq2Seq` that does not copy.
      begin: the token that the decoder sees first.
      end: the token that ends an output; or several, of which any ends it.
      max_length: L, the most tokens of an output, the end token counted.
      beam_width: hypotheses kept, of which the best is returned; 1 is greedy.
      length_penalty: of the beam search.
      alignments: whether the attention's weights `[b, L, s]` are returned too.
      batch: a name for the batch's size, which may then be any of at least 1, or a number.
      steps: a name for the sources' positions, likewise, or a number.
      weights: "constants" or "argument", see `export_function`.
      platforms: see `export_function`.

    Returns:
      The artifact. Its sources are int32 `[b, s]`, or frames float `[b, s, I]`; lengths int32.

    Raises:
      TypeError: not an encoder-decoder.
      ValueError: a model that copies; see `export_function` and `seqjax.decoding.beam_search`.

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
        raise ValueError("model: expected one that does not copy, whose vocabulary is of one size")
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
        platforms=platforms, kind="decoding",
    )  # fmt: skip
    if encoder.embedding is not None:
        tokens = {"range": [0, encoder.vocabulary - 1], "real_before": "lengths"}
        artifact.manifest["inputs"][-2] |= tokens
    artifact.manifest["inputs"][-1]["range"] = [0, _size(shape[1])]
    return artifact


def _sizes(**sizes: str | int) -> tuple[Any, ...]:
    """Sizes as symbols or numbers."""
    names = []
    for argument, size in sizes.items():
        if not isinstance(size, str):
            size = checks.require_integer(argument, size)
        elif not size.isidentifier():
            raise ValueError(f"{argument}: expected a name or a positive integer, got {size!r}")
        elif size in names:  # which would be one size for both
            raise ValueError(f"{argument}: expected a name of its own, got {size!r} twice")
        names.append(size)
    return tuple(jax.export.symbolic_shape(", ".join(map(str, names))))


def _size(size: Any) -> int | str:
    """A size as the manifest has it: a number, or a symbol's name."""
    return size if isinstance(size, int) else str(size)


def _checked_layer(layer: Any) -> Any:
    """The dtype of a layer's inputs."""
    if not isinstance(layer, Recurrent):
        raise TypeError(
            f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}; "
            "export_function exports anything else"
        )
    return layer.dtype or layer.param_dtype


def _batched(start: PyTree, size: Any) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape), a.dtype), start)


def _with_state(artifact: Artifact, start: PyTree) -> Artifact:
    """The artifact with a state to begin with; what is one array has a name there too."""
    state = jax.tree.map(np.asarray, plain(start))
    artifact.manifest["dtypes"]["initial_state"] = dtypes_of(state)
    return dataclasses.replace(artifact, state=state)


def _with_names(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """The function with these names of arguments, for those who look."""
    kind = inspect.Parameter.POSITIONAL_ONLY
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
