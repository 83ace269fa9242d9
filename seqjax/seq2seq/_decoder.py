"""The decoder, with the step function that training and all decoding algorithms use."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax._unroll import unroll
from seqjax.attention import Attention, Memory
from seqjax.cells import ops, stepping
from seqjax.cells._base import Cell, input_specs, prepared, widened
from seqjax.kernels import Execution, Problem, make_plan, run
from seqjax.kernels import _taps as taps
from seqjax.kernels._engine_forms import FORMS
from seqjax.nn import _noise as noise
from seqjax.nn._layer import Direction
from seqjax.seq2seq._encoder import Encoded
from seqjax.seq2seq._inputs import look_up
from seqjax.seq2seq._mechanism import Mechanism, mechanism_of
from seqjax.seq2seq._native_writer import WRITER
from seqjax.seq2seq._pointer import with_copies
from seqjax.seq2seq._writer import DecoderState, Shapes, Writer, WriterParams, attentional
from seqjax.types import Array, PRNGKey

__all__ = ["Decoder", "DecoderState", "Features"]

FORMS[Writer] = WRITER  # so that the native engine can run the time loop of a decoder


class Features(NamedTuple):
    """The inputs of the readout, the layer that computes the logits, at one step.

    Attributes:
      hidden: the attentional vector `[..., F]`.
      weights: the attention weights `[..., S]`; None without attention.
      copy: `[...]`, the logit of the probability that the next token is generated instead of
        copied; None if the decoder does not copy.
    """

    hidden: Array
    weights: Array | None
    copy: Array | None


class Decoder(nnx.Module):
    r"""A recurrent stack that predicts the next token, with optional attention to a memory.

        attend="previous" (Bahdanau et al. 2015)     attend="current" (Luong et al. 2015)
        c_t = attend(y_{t-1}, memory)                y_t = stack([E w_{t-1}; feed], s_{t-1})
        y_t = stack([E w_{t-1}; c_t; feed])          c_t = attend(y_t, memory)
        ỹ_t = tanh([y_t; c_t] W_c + b_c)             ỹ_t = tanh([y_t; c_t] W_c + b_c)
        p(w_t) = softmax(ỹ_t W_o + b_o)              p(w_t) = softmax(ỹ_t W_o + b_o)

    If `input_feeding` is True, feed is ỹ_{t-1}; otherwise, there is no feed. Without attention, ỹ_t
    is y_t (Sutskever, Vinyals, Le 2014). Without attention but with `tied`, ỹ_t is tanh(y_t W_c +
    b_c), which has the size of an embedding. With `copy`, the distribution of the next token is
    that of the pointer-generator (See, Liu, Manning 2017, eq. 8-9):

        g_t = σ([c_t; y_t; E w_{t-1}] w_g + b_g)
        p(w) = g_t softmax(…)_w + (1 - g_t) Σ_{s: source_s = w} a_{t,s}

    Args:
      cell: the cell of the first layer; its `input_size` is the size of an embedding.
      vocabulary: number of tokens.
      memory_size: number of features of the memory; required with attention.
      num_layers: number of layers.
      attention: a name of `seqjax.attention.ATTENTIONS`, a mechanism, or None.
      attend: "previous" or "current", the step whose output is the query of the attention.
      input_feeding: whether ỹ_{t-1} is an input of step t.
      copy: whether tokens of the source can be copied.
      tied: whether the readout uses the embedding matrix (Press, Wolf 2017).
      dropout: dropout rate of the embeddings, of the attentional vectors ỹ, and between layers.
        Between layers, the same units are dropped at all steps.
      dtype: the dtype in which the stack and the attention compute. Embeddings, parameters and the
        memory are cast to it; the logits stay float32. If `dtype` is None, the computation uses the
        dtype of the embeddings.
      param_dtype: dtype of the parameters.
      execution: the options for running teacher forcing, a `seqjax.Execution`.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Raises:
      TypeError, ValueError: if an option is invalid or contradicts another; the message names the
        option.

    Example:
      >>> from seqjax.cells import GRU
      >>> decoder = Decoder(GRU(4, 5), vocabulary=7, rngs=nnx.Rngs(0))
      >>> decoder.readout.kernel.shape
      (5, 7)
    """

    def __init__(
        self,
        cell: Cell[Any, Any],
        *,
        vocabulary: int,
        memory_size: int | None = None,
        num_layers: int = 1,
        attention: str | Attention | None = None,
        attend: str = "previous",
        input_feeding: bool = False,
        copy: bool = False,
        tied: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: noise.Rngs,
    ) -> None:
        rngs = noise.streams(rngs, "params")
        self.vocabulary = checks.require_integer("vocabulary", vocabulary)
        self.attend = checks.require_name("attend", attend, ("previous", "current"))
        self.input_feeding = checks.require_bool("input_feeding", input_feeding)
        self.dropout = checks.require_rate("dropout", dropout)
        self.dtype = None if dtype is None else checks.require_floating_dtype("dtype", dtype)
        self.execution = Execution.of(execution)
        self.deterministic = False
        checks.require_integer("num_layers", num_layers)
        embed_size, features = cell.input_size, cell.output_shape[-1]
        mechanism = mechanism_of(attention, features, memory_size)
        for name, option in (("input_feeding", input_feeding), ("copy", copy)):
            if checks.require_bool(name, option) and mechanism is None:
                raise ValueError(f"{name}: expected False without attention, got True")
        checks.require_bool("tied", tied)
        linear = {"param_dtype": param_dtype, "rngs": rngs}

        self.embedding = nnx.Embed(vocabulary, embed_size, **linear)
        self.mechanism = None if mechanism is None else Mechanism(mechanism, **linear)
        context = 0 if mechanism is None else mechanism.memory_size
        hidden = embed_size if tied else features
        combines = bool(context) or tied
        self.combine = nnx.Linear(features + context, hidden, **linear) if combines else None
        self.gate = nnx.Linear(context + features + embed_size, 1, **linear) if copy else None
        self.readout = None if tied else nnx.Linear(hidden, vocabulary, **linear)
        self.bias = nnx.Param(jnp.zeros(vocabulary, param_dtype)) if tied else None

        width = embed_size + (context if attend == "previous" else 0)
        cell = cell.stacked_on(width + (hidden if input_feeding else 0))
        self.layers: nnx.List[Direction] = nnx.List([])
        for _ in range(num_layers):
            self.layers.append(Direction(cell, **linear))
            cell = cell.stacked_on(features)

    @property
    def cells(self) -> list[Cell[Any, Any]]:
        """The cells of the stack, one per layer."""
        return [layer.cell for layer in self.layers]

    def precompute(self, encoded: Encoded) -> Memory | None:
        """Return the memory with its keys projected for all steps, or None without attention."""
        if self.mechanism is None:
            return None
        mechanism, memory = self.mechanism, self.computing(encoded.memory)
        return mechanism.mechanism.precompute(mechanism.params, memory, mask=encoded.mask)

    def computing(self, values: Array) -> Array:
        """Return an array in the `dtype` of the decoder, or as it is if there is no `dtype`.

        Args:
          values: a floating-point array.
        """
        return values if self.dtype is None else values.astype(self.dtype)

    def initial_state(
        self, encoded: Encoded, cells: tuple[Any, ...], memory: Memory | None
    ) -> DecoderState:
        """Return the state before the first step.

        Args:
          encoded: the encoded sources, as returned by `Encoder`, with a memory `[B, S, M]`.
          cells: the initial states of the cells, as returned by `Bridge`.
          memory: the prepared memory, as returned by `precompute`.

        Returns:
          The decoder's state for N = B sequences.
        """
        top = self.layers[-1]
        dtype = self.dtype or encoded.memory.dtype
        output = _output_before(top.cell, top.params, cells[-1], dtype)
        context = feed = weights = None
        attention: Any = ()
        if self.mechanism is not None and memory is not None:
            attention = self.mechanism.mechanism.initial_state(memory)
            weights = jnp.zeros(encoded.mask.shape, jnp.float32)
            size = self.mechanism.mechanism.memory_size
            context = jnp.zeros((*output.shape[:-1], size), output.dtype)
            if self.input_feeding and self.combine is not None:
                feed = jnp.zeros((*output.shape[:-1], self.combine.out_features), output.dtype)
        return DecoderState(cells, output, context, feed, attention, weights)

    def advance(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...] = (),
    ) -> tuple[Features, DecoderState]:
        """Compute one step, from an embedded token to the inputs of the readout.

        Args:
          embedded: the embedded tokens `[N, E]`. N may be a multiple of the memory's batch size,
            with the beams of a sentence in adjacent rows.
          state: the state before the step.
          memory: the prepared memory, as returned by `precompute`.
          between: the dropout factors, one array for each layer except the last, by which the
            outputs of the layer are multiplied.

        Returns:
          `Features` and the state after the step.
        """
        writer, params = self._writer(state, memory, between)
        p = prepared(writer, params, embedded.dtype)
        now = stepping.Now(writer.project(p, embedded))
        ran = stepping.advance(writer, p, now, state, output_dtype=embedded.dtype)
        shown: Any = ran.output
        return self._features(embedded, *shown), ran.state

    def _writer(
        self, state: DecoderState, memory: Memory | None, between: tuple[Array, ...] = ()
    ) -> tuple[Writer, WriterParams]:
        """Return the whole decoder as one recurrent cell, and the parameters of this cell."""
        mechanism = self.mechanism
        params = WriterParams(
            layers=tuple(layer.params for layer in self.layers),
            mechanism=None if mechanism is None else mechanism.params,
            combine=None if state.feed is None else _weights(self.combine),
            memory=memory,
            between=between,
        )
        cells = tuple(self.cells)
        writer = Writer(
            self.embedding.features,
            cells[-1].output_shape[-1],
            cells=cells,
            mechanism=None if mechanism is None else mechanism.mechanism,
            attend=self.attend,
            params=Shapes.of(params),
            state=Shapes.of(state, skip=1),
        )
        return writer, params

    def _features(
        self,
        embedded: Array,
        output: Array,
        context: Array | None,
        weights: Array | None,
        feed: Array | None = None,
    ) -> Features:
        """Return the inputs of the readout, for any leading axes."""
        combine = None if self.combine is None else functools.partial(_affine, self.combine)
        hidden = attentional(combine, output, context) if feed is None else feed
        copy = None
        if self.gate is not None and context is not None:
            copy = _affine(self.gate, jnp.concatenate([context, output, embedded], axis=-1))[..., 0]
        return Features(hidden, weights, copy)

    def logits(self, features: Features, source_ids: Array | None = None) -> Array:
        """Return the logits of the next token, for any leading axes: float32 `[..., V]`.

        Args:
          features: the inputs of the readout, as returned by `advance`.
          source_ids: the ids of the source tokens, int32 `[..., S]`, required with `copy`. Ids from
            V to V + S - 1 stand for tokens that occur only in the source. No other id outside the
            vocabulary is allowed. At a position with an attention weight above 0, an id that is not
            allowed makes the result NaN.

        Returns:
          Unnormalised logits; with `copy`, log-probabilities `[..., V + S]`. The log-probability of
          an id ≥ V is -inf if no source position with an attention weight above 0 has this id.
        """
        hidden = features.hidden
        if self.readout is not None:
            logits = _affine(self.readout, hidden).astype(jnp.float32)
        else:
            table = self.embedding.embedding[...]
            wide = hidden.astype(jnp.promote_types(hidden.dtype, table.dtype))
            flat = wide.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
            product = jnp.matmul(flat, table.T, preferred_element_type=jnp.float32)
            product = product.reshape(*hidden.shape[:-1], self.vocabulary)
            logits = ops.biased(product, None if self.bias is None else self.bias[...])
        if self.gate is None:
            return logits
        return with_copies(logits, features.copy, features.weights, source_ids)

    def linear_readout(self) -> tuple[Array, Array | None, bool] | None:
        """Return the readout as arguments for `seqjax.losses.linear_cross_entropy`.

        Returns:
          The matrix, the bias, and a bool that is True if the matrix is transposed, `[V, F]`; or
          None with `copy`, or if `readout` or `logits` was replaced by another class or method,
          because the logits may then not be an affine function of `Features.hidden`.
        """
        if self.gate is not None or type(self).logits is not Decoder.logits:
            return None
        if self.readout is None:
            bias = None if self.bias is None else self.bias[...]
            return self.embedding.embedding[...], bias, True
        weights = _weights(self.readout) if type(self.readout) is nnx.Linear else None
        return None if weights is None else (*weights, False)

    def embed(self, tokens: Array) -> Array:
        """Return the embeddings of tokens. The embedding of a token outside the vocabulary is NaN.

        With `copy`, ids ≥ `vocabulary` stand for tokens that occur only in the source, which have
        the embedding of token 0.

        Args:
          tokens: integers `[...]`.
        """
        tokens = checks.require_ids("tokens", tokens, "integer tokens")
        if self.gate is not None:
            tokens = jnp.where(tokens < self.vocabulary, tokens, 0)
        return self.computing(look_up(self.embedding, tokens))

    def teacher_forced(
        self,
        tokens: Array,
        state: DecoderState,
        memory: Memory | None,
        source_ids: Array | None = None,
        *,
        key: PRNGKey | None = None,
        execution: Execution | None = None,
    ) -> tuple[Array, Array | None]:
        """Return the logits of all steps, with the true previous token as input (teacher forcing).

        Args:
          tokens: as for `features`.
          state: the state before the first step, as returned by `initial_state`.
          memory: the prepared memory, as returned by `precompute`.
          source_ids: the ids of the source tokens `[B, S]`, required with `copy`.
          key: as for `features`.
          execution: as for `features`.

        Returns:
          The logits `[B, T, V]`, and the attention weights `[B, T, S]`, or None without attention.
        """
        features = self.features(tokens, state, memory, key=key, execution=execution)
        ids = None if source_ids is None else source_ids[:, None]
        return self.logits(features, ids), features.weights

    def features(
        self,
        tokens: Array,
        state: DecoderState,
        memory: Memory | None,
        *,
        key: PRNGKey | None = None,
        execution: Execution | None = None,
    ) -> Features:
        """Return the inputs of the readout at all steps, with the true previous token as input.

        If the recurrence does not depend on the attention, the recurrent stack first runs over all
        steps with `seqjax.unroll`, and then the attention is computed for all steps at once.

        Args:
          tokens: int32 `[B, T]`: the begin token, then the target without its end token.
          state: the state before the first step, as returned by `initial_state`.
          memory: the prepared memory, as returned by `precompute`.
          key: a random key for dropout in training; None for evaluation.
          execution: the options for running the steps, a `seqjax.Execution`. The default is the
            `execution` of the decoder.

        Returns:
          `Features` `[B, T, ...]`, after dropout if `key` is given.
        """
        execution = Execution.of(execution or self.execution)
        keys: Any = None if key is None or not self.dropout else jax.random.split(key, 3)
        embedded = self.embed(tokens)
        between: tuple[Array, ...] = ()
        if keys is not None:
            embedded = noise.dropout(keys[0], self.dropout, embedded)
            drawn = jax.random.split(keys[1], max(len(self.layers) - 1, 1))
            shape = state.output.shape
            between = tuple(
                noise.variational_mask(k, self.dropout, shape, embedded.dtype)
                for k, _ in zip(drawn, self.layers[1:], strict=False)
            )
        if self.mechanism is not None and (self.attend == "previous" or self.input_feeding):
            features = self._step_by_step(embedded, state, memory, between, execution)
        else:
            features = self._all_at_once(embedded, state, memory, between, execution)
        if keys is not None:
            hidden = noise.dropout(keys[2], self.dropout, features.hidden)
            features = features._replace(hidden=hidden)
        return features

    def _step_by_step(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...],
        execution: Execution,
    ) -> Features:
        writer, params = self._writer(state, memory, between)
        batch, steps, _ = embedded.shape
        plan = make_plan(writer, (batch,), steps, embedded.dtype, execution)
        problem = Problem(params, embedded, state, state)
        ran = run(writer, problem, plan, batch_ndim=1)
        return self._features(embedded, *ran.outputs)

    def _all_at_once(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...],
        execution: Execution,
    ) -> Features:
        x = embedded
        for index, (layer, start) in enumerate(zip(self.layers, state.cells, strict=True)):
            if index and between:
                x = x * between[index - 1][:, None]
            x = unroll(layer.cell, layer.params, x, state=start, execution=execution).outputs
        context = weights = None
        if self.mechanism is not None and memory is not None:
            mechanism, params = self.mechanism.mechanism, self.mechanism.params

            def attend(attention: Any, query: Array) -> tuple[Any, tuple[Array, Array]]:
                context, weights, attention = mechanism.attend(params, query, memory, attention)
                return attention, (context, weights)

            if jax.tree.leaves(state.attention):
                _, attended = jax.lax.scan(attend, state.attention, jnp.moveaxis(x, 1, 0))
                context, weights = (jnp.moveaxis(a, 0, 1) for a in attended)
            else:
                _, (context, weights) = jax.vmap(
                    lambda q: attend(state.attention, q), in_axes=1, out_axes=1
                )(x)
        return self._features(embedded, x, context, weights)


def _output_before(cell: Cell[Any, Any], params: Any, state: Any, dtype: Any) -> Array:
    """Return the output that a cell computes from its initial state, before any step.

    If the output also depends on the gates, which exist only in a step, the result is zero.
    """
    p = prepared(cell, params, dtype)
    events = jax.tree.leaves(jax.eval_shape(lambda: cell.initial_state()))
    leaf = jax.tree.leaves(state)[0]
    batch_shape = leaf.shape[: leaf.ndim - events[0].ndim]

    def shown(x: Any, state: Any) -> Any:
        now = stepping.Now(cell.project(p, x))
        ran = stepping.advance(cell, p, now, state, output_dtype=dtype, with_output=False)
        return ran.gates, ran.reached

    x = input_specs(cell, batch_shape, dtype)
    gates, reached = jax.eval_shape(shown, x, state)
    if any(taps.reads(lambda gates, p, state: cell.output(p, gates, state), gates, p, reached)):
        return jnp.zeros((*batch_shape, *cell.output_shape), dtype)
    unread = jax.tree.map(lambda gate: jnp.zeros(gate.shape, gate.dtype), gates)
    output: Array = cell.output(p, unread, widened(state)).astype(dtype)
    return output


def _affine(linear: nnx.Linear, x: Array) -> Array:
    """Apply a linear Flax layer as a product of two matrices, whose gradient is faster on CPUs.

    The batch axis comes first, so that it remains sharded over devices when it is merged with the
    time axis.
    """
    flat = linear(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return flat.reshape(*x.shape[:-1], linear.out_features)


def _weights(linear: Any) -> tuple[Array, Array] | None:
    """Return the matrix and the bias of a linear Flax layer."""
    return None if linear is None else (linear.kernel[...], linear.bias[...])
