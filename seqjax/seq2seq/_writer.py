"""The decoder's step as a cell, so that the kernels can run it like any other cell."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.attention import Attended, Attention, Memory
from seqjax.cells import ops
from seqjax.cells._base import Cell, cast, widened
from seqjax.cells.stepping import Now, advance
from seqjax.types import Array, PRNGKey, PyTree, Shape, Slots

__all__ = ["DecoderState", "Shapes", "Writer", "WriterParams", "attentional"]


class WriterParams(NamedTuple):
    """The parameters of a `Writer`, and all other values that do not change between steps.

    Attributes:
      layers: the parameters of each layer.
      mechanism: the parameters of the attention; None without attention.
      combine: the matrix and the bias that compute the attentional vector; None without input
        feeding.
      memory: the memory, as returned by `Attention.precompute`; None without attention.
      between: the dropout factors, one array for each layer except the last, by which the outputs
        of the layer are multiplied. Without dropout, the tuple is empty.
    """

    layers: tuple[Any, ...]
    mechanism: Any
    combine: tuple[Array, Array] | None
    memory: Memory | None
    between: tuple[Array, ...]


class DecoderState(NamedTuple):
    """The state of a decoder, with a leading axis of N sequences or beams.

    Attributes:
      cells: the state of each layer.
      output: `[N, O]`, the last output of the top layer.
      context: `[N, M]`, the last context vector; None without attention.
      feed: `[N, F]`, the last attentional vector; None without input feeding.
      attention: the state of the attention mechanism.
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
    """The shapes and dtypes of a pytree, as a hashable value.

    Example:
      >>> Shapes.of((jnp.ones([2]), None)).zeros()
      (Array([0., 0.], dtype=float32), None)
    """

    structure: Any
    leaves: tuple[tuple[Shape, Any], ...]

    @classmethod
    def of(cls, tree: PyTree, skip: int = 0) -> "Shapes":
        """Return the shapes of a pytree, without the first `skip` axes."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple((leaf.shape[skip:], leaf.dtype) for leaf in leaves))

    def zeros(self, batch_shape: Shape = (), dtype: Any = None) -> PyTree:
        """Return zeros with leading axes `batch_shape`, at least as wide as `dtype`."""
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

    The parameters include the memory, whose shapes differ between calls. Therefore each call of the
    decoder makes a new `Writer` with the shapes of its parameters.

    Attributes:
      input_size: number of features of an embedding.
      hidden_size: number of features of the top layer's output.
      cells: the cells of the stack.
      mechanism: the attention, or None.
      attend: "previous" or "current", the step whose top-layer output is the query of the
        attention.
      params: the shapes of the parameters.
      state: the shapes of the state without the axis N.

    The input is an array of embedded tokens, `[N, E]`. N may be a multiple of the memory's batch
    size, with the beams of a sentence in adjacent rows. The output is the tuple of the fields
    `output`, `context`, `weights` and `feed` of the state.

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

    @property
    def output_shape(self) -> Any:
        """The shapes of the four fields, without the axis N."""
        outputs = jax.eval_shape(lambda: _fields(self.initial_state()))
        return jax.tree.map(lambda leaf: leaf.shape, outputs)

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
        return _fields(state)

    def _narrowed(self, output: PyTree, dtype: Any) -> PyTree:
        """Return the output of steps in the compute dtype, but attention weights as they are.

        The weights are probabilities of copied tokens. Rounded to 16 bits, they do not sum to 1.
        """
        y, context, weights, feed = output
        y, context, feed = cast((y, context, feed), dtype)
        return y, context, weights, feed

    def _attended(self, p: WriterParams, query: Array, state: Any) -> tuple[Array, Array, Any]:
        """Attend with one query per sequence, or one query per beam if beams share a memory."""
        if self.mechanism is None or p.memory is None:
            raise ValueError("memory: expected the result of precompute with attention, got None")
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
    """Return the attentional vector tanh(combine([y; c])), or y if `combine` is None.

    Example:
      >>> attentional(None, jnp.ones([2]), None).tolist()
      [1.0, 1.0]
    """
    if combine is None:
        return output
    parts = output if context is None else jnp.concatenate([output, context], axis=-1)
    return jnp.tanh(combine(parts))


def _fields(state: DecoderState) -> PyTree:
    """Return the fields of the state that are the output of a step."""
    return state.output, state.context, state.weights, state.feed
