"""The decoder's step as a cell, so that kernels run it as they run every other one."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.attention import Attended, Attention, Memory
from seqjax.cells import ops
from seqjax.cells._base import Cell, widened
from seqjax.cells.stepping import Now, advance
from seqjax.types import Array, PRNGKey, PyTree, Shape, Slots

__all__ = ["DecoderState", "Shapes", "Writer", "WriterParams", "attentional"]


class WriterParams(NamedTuple):
    """The values that are the same at all steps of a call.

    Attributes:
      layers: the parameters of each layer.
      mechanism: those of the attention; None without.
      combine: the matrix and the bias of the attentional vector, for input feeding; else None.
      memory: as from `Attention.precompute`; None without attention.
      between: factors on what goes from each layer to the next (dropout); may be empty.
    """

    layers: tuple[Any, ...]
    mechanism: Any
    combine: tuple[Array, Array] | None
    memory: Memory | None
    between: tuple[Array, ...]


class DecoderState(NamedTuple):
    """The state of a `Writer`, with the leading axis N of sequences or beams.

    Attributes:
      cells: the state of each layer.
      output: `[N, O]`, the top layer's last output.
      context: `[N, M]`, the last context; None without attention.
      feed: `[N, F]`, the last attentional vector, for input feeding; else None.
      attention: the mechanism's state.
      weights: float32 `[N, S]`, the last attention weights; None without attention.
    """

    cells: tuple[Any, ...]
    output: Array
    context: Array | None
    feed: Array | None
    attention: Any
    weights: Array | None


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes and dtypes of a pytree, as a value that can be compared.

    Example:
      >>> Shapes.of((jnp.ones([2]), None)).zeros()
      (Array([0., 0.], dtype=float32), None)
    """

    structure: Any
    leaves: tuple[tuple[Shape, Any], ...]

    @classmethod
    def of(cls, tree: PyTree, skip: int = 0) -> "Shapes":
        """The shapes of a pytree, without some leading axes."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((leaf.shape[skip:], leaf.dtype) for leaf in leaves))

    def zeros(self, batch_shape: Shape = (), dtype: Any = None) -> PyTree:
        """Return zeros with leading axes `batch_shape`, in `dtype` where that is the wider one."""
        leaves = [
            jnp.zeros(
                (*batch_shape, *shape), own if dtype is None else jnp.promote_types(own, dtype)
            )
            for shape, own in self.leaves
        ]
        return jax.tree.unflatten(self.structure, leaves)


@dataclasses.dataclass(frozen=True)
class Writer(Cell[WriterParams, DecoderState]):
    """A stack of cells with attention to a memory; see `Decoder` for the equations.

    Its parameters hold the memory, so its shapes belong to one call.

    Attributes:
      input_size: features of an embedding.
      hidden_size: features of the top layer's output.
      cells: the cells of the stack.
      mechanism: the attention, or None.
      attend: which output of the top layer is the query, that of the "previous" or of the "current"
        step.
      params: the shapes of the parameters.
      state: the shapes of the state without the axis N.

    Input: `[N, E]`, embedded tokens; N may be a multiple of the memory's batch (beams, side by
    side). Output: the state's `(output, context, weights, feed)`.

    Example:
      >>> from seqjax.cells import GRU
      >>> state = DecoderState((jnp.ones([2, 5]),), jnp.ones([2, 5]), None, None, (), None)
      >>> shapes = Shapes.of(state, skip=1)
      >>> writer = Writer(3, 5, (GRU(3, 5),), None, "previous", Shapes.of(()), shapes)
      >>> writer.initial_state([4]).output.shape
      (4, 5)
    """

    cells: tuple[Cell[Any, Any], ...]
    mechanism: Attention | None
    attend: str
    params: Shapes
    state: Shapes

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> WriterParams:
        del key, dtype
        zeros: WriterParams = self.params.zeros()
        return zeros

    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> DecoderState:
        zeros: DecoderState = self.state.zeros(batch_shape, dtype)
        return zeros

    def prepare(self, params: WriterParams) -> WriterParams:
        layers = [
            cell.prepare(layer) for cell, layer in zip(self.cells, params.layers, strict=True)
        ]
        return params._replace(layers=tuple(layers))

    def project(self, p: WriterParams, x: Array) -> Slots:
        del p
        return (x,)

    def update(self, p: WriterParams, gates: Any, state: DecoderState) -> DecoderState:
        (embedded,) = gates
        dtype = embedded.dtype
        inputs, context, weights, attention = [embedded], None, state.weights, state.attention
        if self.mechanism is not None and self.attend == "previous":
            context, weights, attention = self._attended(p, state.output.astype(dtype), attention)
            inputs.append(context)
        if state.feed is not None:
            inputs.append(state.feed.astype(dtype))
        x = jnp.concatenate(inputs, axis=-1)
        after = []
        for index, (cell, layer) in enumerate(zip(self.cells, p.layers, strict=True)):
            if index and p.between:
                x = x * p.between[index - 1]
            now = Now(cell.project(layer, x))
            ran = advance(cell, layer, now, state.cells[index], output_dtype=dtype)
            after.append(ran.state)
            x = jnp.asarray(ran.output)
        if self.mechanism is not None and self.attend == "current":
            context, weights, attention = self._attended(p, x, attention)
        feed = None
        if p.combine is not None:
            w, b = p.combine
            feed = attentional(lambda parts: ops.biased(parts @ w, b), x, context)
        reached: DecoderState = widened(
            DecoderState(tuple(after), x, context, feed, attention, weights)
        )
        return reached

    def output(self, p: WriterParams, gates: Slots, state: DecoderState) -> PyTree:
        del p, gates
        return state.output, state.context, state.weights, state.feed

    def _attended(self, p: WriterParams, query: Array, state: Any) -> tuple[Array, Array, Any]:
        """Attend with one query per sequence, or with several beams that share its memory."""
        if self.mechanism is None or p.memory is None:
            raise ValueError("memory: expected what precompute gives with attention, got None")
        mechanism, memory = self.mechanism, p.memory
        batch = memory.mask.shape[0]
        beams = query.shape[0] // max(batch, 1)
        if beams <= 1:
            return mechanism.attend(p.mechanism, query, memory, state)

        def grouped(a: Array) -> Array:
            return a.reshape(batch, beams, *a.shape[1:])

        attended = jax.vmap(
            lambda q, s: mechanism.attend(p.mechanism, q, memory, s), in_axes=1, out_axes=1
        )(grouped(query), jax.tree.map(grouped, state))
        flat: Attended = jax.tree.map(lambda a: a.reshape(batch * beams, *a.shape[2:]), attended)
        return flat


def attentional(
    combine: Callable[[Array], Array] | None, output: Array, context: Array | None
) -> Array:
    """The attentional vector tanh(combine([y; c])); y itself without `combine`.

    Example:
      >>> attentional(None, jnp.ones([2]), None).tolist()
      [1.0, 1.0]
    """
    if combine is None:
        return output
    parts = output if context is None else jnp.concatenate([output, context], axis=-1)
    return jnp.tanh(combine(parts))
