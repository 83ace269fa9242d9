"""The form in which the native engine runs a decoder with additive attention.

The engine computes the attention and the cell of each step. The other parts of the decoder, such as
the readout, do not depend on the time loop, so they stay in JAX. The length of the vector v of
`NormedAdditive` and the temperature also stay in JAX: they are multiplied into v before the loop.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.attention import Additive, Memory, NormedAdditive
from seqjax.attention import _ops as attention_ops
from seqjax.attention._additive import AdditiveParams
from seqjax.kernels._engine_forms import (
    Arrays,
    Form,
    operands_of_cell,
    problem_of_cell,
    unsuited_cell,
)
from seqjax.kernels._problem import Problem
from seqjax.seq2seq._writer import DecoderState, Writer, WriterParams
from seqjax.types import Unrolled

__all__ = ["WRITER"]


def _unsuited(writer: Writer) -> str | None:
    """Return why the engine cannot run a decoder, or None if it can."""
    mechanism = writer.mechanism
    if mechanism is None or writer.attend != "previous":
        return "decoders whose attention precedes the cell, attend='previous'"
    if type(mechanism) not in (Additive, NormedAdditive):  # subclasses have other equations
        return f"decoders with Additive or NormedAdditive, got {type(mechanism).__name__}"
    if len(writer.cells) != 1:
        return f"decoders of one layer with attention, got {len(writer.cells)} layers"
    cell = writer.cells[0]
    if cell.input_size != writer.input_size + mechanism.memory_size:
        return "decoders without input feeding, got input_feeding=True"
    return unsuited_cell(cell)


def _fits(writer: Writer, problem: Problem) -> bool:
    """Return whether the engine can run a problem with these arrays."""
    given: Any = problem.params
    special = (problem.mask, problem.resets, problem.recurrent_mask, problem.zoneout)
    leaves = jax.tree.leaves((given, problem.state))
    return (
        all(part is None for part in special)
        and problem.state.feed is None
        and problem.xs.ndim == 3
        and given.memory.mask.shape[:-1] == problem.xs.shape[1:-1]  # no beams share a memory
        and given.memory.mask.shape[-1] > 0
        and all(leaf.dtype in (jnp.float32, jnp.bool_) for leaf in leaves)
    )


def _operands(writer: Writer, problem: Problem) -> Arrays:
    """Return the arrays of a problem: those of its cell, and those of the attention."""
    given: WriterParams = problem.params
    (layer,), (state,) = given.layers, problem.state.cells
    embed, mechanism = problem.xs.shape[-1], given.mechanism
    v = mechanism.v
    if isinstance(writer.mechanism, NormedAdditive):
        v = attention_ops.normed(v, mechanism.g)
    cell = Problem(layer._replace(w_ih=layer.w_ih[:embed]), problem.xs, state, state)
    memory: Any = given.memory
    return operands_of_cell(cell) | {
        "keys": memory.keys, "values": memory.values, "positions": memory.mask,
        "w_c": layer.w_ih[embed:], "w_q": mechanism.w_q, "v": v / _temperature(writer),
        "y0": problem.state.output,
    }  # fmt: skip


def _temperature(writer: Writer) -> float:
    return 1.0 if writer.mechanism is None else writer.mechanism.temperature


def _problem(writer: Writer, arrays: Arrays) -> tuple[Writer, Problem]:
    """Return a decoder with `Additive` attention and its problem, made of these arrays."""
    keys, values, positions = (arrays[name] for name in ("keys", "values", "positions"))
    query, units = arrays["w_q"].shape
    inner = problem_of_cell(writer.cells[0], arrays)
    w_ih = jnp.concatenate([arrays["w_ih"], arrays["w_c"]])
    params = WriterParams(
        layers=(inner.params._replace(w_ih=w_ih),),
        mechanism=AdditiveParams(arrays["w_q"], None, None, arrays["v"]),  # type: ignore[arg-type]
        combine=None,
        memory=Memory(keys, values, positions),
        between=(),
    )
    like = arrays["y0"]
    state = DecoderState(
        cells=(inner.state,),
        output=like,
        context=jnp.zeros((*like.shape[:-1], values.shape[-1]), like.dtype),
        feed=None,
        attention=(),
        weights=jnp.zeros((*like.shape[:-1], keys.shape[-2]), like.dtype),
    )
    mechanism = Additive(query, values.shape[-1], units=units)
    return (
        dataclasses.replace(writer, mechanism=mechanism),
        Problem(params, arrays["xs"], state, state),
    )


def _shown(ran: Unrolled) -> Arrays:
    outputs: Any = ran.outputs
    ys, contexts, weights, _ = outputs
    state = dict(zip(("h", "c"), jax.tree.leaves(ran.state.cells), strict=False))
    return {"ys": ys, **state, "contexts": contexts, "weights": weights}


def _unrolled(problem: Problem, results: Arrays, reverse: bool) -> Unrolled:
    ys, contexts, weights = (results[name] for name in ("ys", "contexts", "weights"))
    last = 0 if reverse else -1
    structure = jax.tree.structure(problem.state.cells)
    state = problem.state._replace(
        cells=jax.tree.unflatten(structure, [results[n] for n in ("h", "c") if n in results]),
        output=ys[last],
        context=contexts[last],
        weights=weights[last],
    )
    return Unrolled((ys, contexts, weights, None), state)


WRITER = Form(
    unsuited=_unsuited,
    fits=_fits,
    inner=lambda writer: writer.cells[0],
    operands=_operands,
    problem=_problem,
    shown=_shown,
    unrolled=_unrolled,
)
"""The form of a `Writer`."""
