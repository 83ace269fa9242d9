"""The decoder: one step, which every way of training and decoding shares."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax.attention import ATTENTIONS, Attention, Memory
from seqjax.cells.base import Cell
from seqjax.nn import noise
from seqjax.nn.layer import Direction
from seqjax.nn.parameters import Parameters
from seqjax.seq2seq.encoder import Encoded
from seqjax.types import Array, PRNGKey
from seqjax.unroll import unroll

__all__ = ["Decoder", "DecoderState", "Features"]


class DecoderState(NamedTuple):
    """The state between two steps; every leaf has the leading axis N of sequences or beams.

    Attributes:
      cells: the state of each layer.
      output: `[N, O]`, the top layer's last output.
      feed: `[N, F]`, the last attentional vector, for input feeding; else None.
      attention: the mechanism's state.
      weights: float32 `[N, S]`, the last attention weights; None without attention.
    """

    cells: tuple[Any, ...]
    output: Array
    feed: Array | None
    attention: Any
    weights: Array | None


class Features(NamedTuple):
    """What a step gives to the readout.

    Attributes:
      hidden: `[..., F]`, the attentional vector.
      weights: `[..., S]` attention weights, or None.
      copy: `[...]` the logit of generating rather than copying, or None.
    """

    hidden: Array
    weights: Array | None
    copy: Array | None


class _Mechanism(Parameters):
    """An attention mechanism with its parameters."""

    def __init__(self, mechanism: Attention, *, param_dtype: Any, rngs: nnx.Rngs) -> None:
        self.mechanism = mechanism
        self._names, self._structure = self._store(
            "", mechanism.init(rngs.params(), dtype=param_dtype)
        )

    @property
    def params(self) -> Any:
        return self._restored(self._names, self._structure)


class Decoder(nnx.Module):
    r"""A recurrent stack that writes tokens, looking at a memory if there is attention.

        attend="previous" (Bahdanau et al. 2015)     attend="current" (Luong et al. 2015)
        c_t = attend(y_{t-1}, memory)                y_t = stack([E w_{t-1}; feed], s_{t-1})
        y_t = stack([E w_{t-1}; c_t; feed])          c_t = attend(y_t, memory)
        ỹ_t = tanh([y_t; c_t] W_c + b_c)             ỹ_t = tanh([y_t; c_t] W_c + b_c)
        p(w_t) = softmax(ỹ_t W_o + b_o)              p(w_t) = softmax(ỹ_t W_o + b_o)

    with feed = ỹ_{t-1} if there is input feeding. Without attention ỹ_t is y_t (Sutskever, Vinyals,
    Le 2014), or its projection to the size of an embedding for tied ones. With `copy` the
    distribution is the pointer-generator's (See, Liu, Manning 2017, eq. 8-9),

        g_t = σ([c_t; y_t; E w_{t-1}] w_g + b_g)
        p(w) = g_t softmax(…)_w + (1 - g_t) Σ_{s: source_s = w} a_{t,s}

    Args:
      cell: the first layer's cell; its `input_size` is the size of an embedding.
      vocabulary: number of tokens.
      memory_size: features of the memory; needed with attention.
      attention: a name of `seqjax.attention.ATTENTIONS`, a mechanism, or None.
      attend: "previous" or "current".
      input_feeding: whether ỹ_{t-1} is an input of step t.
      copy: whether tokens of the source can be copied.
      tied: whether the readout's matrix is the embeddings' (Press, Wolf 2017).
      num_layers: layers of the stack.
      dropout: rate on embeddings and on ỹ, and between layers (there the same units at each step).
      param_dtype: of the parameters.
      rngs: draws the parameters.

    Raises:
      TypeError, ValueError: options that do not fit together, named.

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
        attention: str | Attention | None = None,
        attend: str = "previous",
        input_feeding: bool = False,
        copy: bool = False,
        tied: bool = False,
        num_layers: int = 1,
        dropout: float = 0.0,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.vocabulary = checks.require_integer("vocabulary", vocabulary)
        self.attend = checks.require_name("attend", attend, ("previous", "current"))
        self.input_feeding = checks.require_bool("input_feeding", input_feeding)
        self.dropout = checks.require_rate("dropout", dropout)
        self.deterministic = False
        checks.require_integer("num_layers", num_layers)
        embed_size, features = cell.input_size, cell.output_shape[-1]
        mechanism = _mechanism(attention, features, memory_size)
        for name, option in (("input_feeding", input_feeding), ("copy", copy)):
            if checks.require_bool(name, option) and mechanism is None:
                raise ValueError(f"{name}: expected False without attention, got True")
        checks.require_bool("tied", tied)
        linear = {"param_dtype": param_dtype, "rngs": rngs}

        self.embedding = nnx.Embed(vocabulary, embed_size, **linear)
        self.mechanism = None if mechanism is None else _Mechanism(mechanism, **linear)
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
        """The cells of the stack."""
        return [layer.cell for layer in self.layers]

    def precompute(self, encoded: Encoded) -> Memory | None:
        """The memory with its keys projected, once for all steps; None without attention."""
        if self.mechanism is None:
            return None
        mechanism = self.mechanism
        return mechanism.mechanism.precompute(mechanism.params, encoded.memory, encoded.mask)

    def initial_state(
        self, encoded: Encoded, cells: tuple[Any, ...], memory: Memory | None
    ) -> DecoderState:
        """The state before the first step.

        Args:
          encoded: `[B, S, M]`, as from `Encoder`.
          cells: the states to start in, as from `Bridge`.
          memory: as from `precompute`.

        Returns:
          A state for N = B sequences.
        """
        top = self.layers[-1]
        output = top.cell.output(top.params, cells[-1]).astype(encoded.memory.dtype)
        feed = weights = None
        attention: Any = ()
        if self.mechanism is not None and memory is not None:
            attention = self.mechanism.mechanism.initial_state(memory)
            weights = jnp.zeros(encoded.mask.shape, jnp.float32)
            if self.input_feeding and self.combine is not None:
                feed = jnp.zeros((*output.shape[:-1], self.combine.out_features), output.dtype)
        return DecoderState(cells, output, feed, attention, weights)

    def advance(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...] = (),
    ) -> tuple[Features, DecoderState]:
        """One step from an embedded token to what the readout needs.

        Args:
          embedded: `[N, E]`; N may be a multiple of the memory's batch (beams, side by side).
          state: the state before.
          memory: as from `precompute`.
          between: factors on what goes from each layer to the next (dropout).

        Returns:
          `Features` and the state after.
        """
        inputs, context, attention, weights = [embedded], None, state.attention, state.weights
        if self.mechanism is not None and self.attend == "previous":
            context, weights, attention = self._attended(state.output, memory, attention)
            inputs.append(context)
        if state.feed is not None:
            inputs.append(state.feed)
        x = jnp.concatenate(inputs, axis=-1)
        cells = []
        for index, (layer, cell_state) in enumerate(zip(self.layers, state.cells, strict=True)):
            if index and between:
                x = x * between[index - 1]
            cell_state, x = layer.cell.step(layer.params, x, cell_state)
            cells.append(cell_state)
        if self.mechanism is not None and self.attend == "current":
            context, weights, attention = self._attended(x, memory, attention)
        features = self._features(embedded, x, context, weights)
        feed = None if state.feed is None else features.hidden
        return features, DecoderState(tuple(cells), x, feed, attention, weights)

    def _features(
        self, embedded: Array, output: Array, context: Array | None, weights: Array | None
    ) -> Features:
        """The attentional vector and the gate, for any leading axes."""
        parts = [output] if context is None else [output, context]
        hidden = output
        if self.combine is not None:
            hidden = jnp.tanh(_affine(self.combine, jnp.concatenate(parts, axis=-1)))
        copy = None
        if self.gate is not None and context is not None:
            copy = _affine(self.gate, jnp.concatenate([context, output, embedded], axis=-1))[..., 0]
        return Features(hidden, weights, copy)

    def _attended(
        self, query: Array, memory: Memory | None, state: Any
    ) -> tuple[Array, Array, Any]:
        """Attention of one query a sequence, or of several beams to the same memory."""
        if self.mechanism is None or memory is None:
            raise ValueError("memory: expected what precompute gives with attention, got None")
        mechanism, params = self.mechanism.mechanism, self.mechanism.params
        batch = memory.mask.shape[0]
        beams = query.shape[0] // max(batch, 1)
        if beams <= 1:
            return mechanism.attend(params, query, memory, state)

        def grouped(a: Array) -> Array:
            return a.reshape(batch, beams, *a.shape[1:])

        attended = jax.vmap(
            lambda q, s: mechanism.attend(params, q, memory, s), in_axes=1, out_axes=1
        )(grouped(query), jax.tree.map(grouped, state))
        return jax.tree.map(lambda a: a.reshape(batch * beams, *a.shape[2:]), tuple(attended))

    def logits(self, features: Features, source_ids: Array | None = None) -> Array:
        """Scores of the next token, for any leading axes: float32 `[..., V]`.

        Args:
          features: as from `advance`.
          source_ids: int32 `[..., S]`, needed to copy. Ids from `vocabulary` on are tokens of the
            source alone, for which the result has room up to the number of source positions.

        Returns:
          Unnormalised logits; with `copy` log-probabilities, `[..., V + S]`.
        """
        hidden = features.hidden
        if self.readout is not None:
            logits = _affine(self.readout, hidden).astype(jnp.float32)
        else:
            table = self.embedding.embedding[...].astype(hidden.dtype)
            flat = hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
            product = jnp.matmul(flat, table.T, preferred_element_type=jnp.float32)
            product = product.reshape(*hidden.shape[:-1], self.vocabulary)
            bias = None if self.bias is None else self.bias[...].astype(jnp.float32)
            logits = product if bias is None else product + bias
        if self.gate is None:
            return logits
        if features.copy is None or features.weights is None:
            raise ValueError("features: expected those of a decoder that copies, got no gate")
        if source_ids is None:
            raise ValueError("source_ids: expected the source's tokens to copy from, got None")
        positions = source_ids.shape[-1]
        # A source without real positions has nothing to copy: all is generated.
        writes = jax.nn.log_sigmoid(features.copy)
        writes = jnp.where(features.weights.sum(-1) > 0, writes, 0.0)
        generate = jax.nn.log_softmax(logits) + writes[..., None]
        one_hot = jax.nn.one_hot(source_ids, self.vocabulary + positions, dtype=jnp.float32)
        copied = jnp.einsum("...s,...sv->...v", features.weights, one_hot)
        copied = jnp.log(copied + 1e-20) + jax.nn.log_sigmoid(-features.copy)[..., None]
        padding = [(0, 0)] * (generate.ndim - 1) + [(0, positions)]
        return jnp.logaddexp(jnp.pad(generate, padding, constant_values=-1e30), copied)

    def embed(self, tokens: Array) -> Array:
        """Embeddings of tokens; those copied from the source alone are read as token 0."""
        known = (tokens >= 0) & (tokens < self.vocabulary)
        return self.embedding(jnp.where(known, tokens, 0))

    def teacher_forced(
        self,
        tokens: Array,
        state: DecoderState,
        memory: Memory | None,
        source_ids: Array | None = None,
        *,
        rngs: PRNGKey | None = None,
    ) -> tuple[Array, Array | None]:
        """Logits of every step, given the token before each.

        Where the recurrence does not depend on the attention, the stack runs over all steps first
        (by `seqjax.unroll`), then the attention for all steps at once.

        Args:
          tokens: int32 `[B, T]`: the begin token, then the target without its end.
          state: as from `initial_state`.
          memory: as from `precompute`.
          source_ids: `[B, S]`, needed to copy.
          rngs: a random key in training with dropout.

        Returns:
          logits `[B, T, V]`, and weights `[B, T, S]` or None.
        """
        keys: Any = None if rngs is None or not self.dropout else jax.random.split(rngs, 3)
        embedded = self.embed(tokens)
        between: tuple[Array, ...] = ()
        if keys is not None:
            embedded = noise.dropout(keys[0], self.dropout, embedded)
            drawn = jax.random.split(keys[1], max(len(self.layers) - 1, 1))
            shape = state.output.shape
            between = tuple(
                noise.variational_mask(key, self.dropout, shape, embedded.dtype)
                for key, _ in zip(drawn, self.layers[1:], strict=False)
            )
        if self.mechanism is not None and (self.attend == "previous" or self.input_feeding):
            features = self._step_by_step(embedded, state, memory, between)
        else:
            features = self._all_at_once(embedded, state, memory, between)
        if keys is not None:
            hidden = noise.dropout(keys[2], self.dropout, features.hidden)
            features = features._replace(hidden=hidden)
        ids = None if source_ids is None else source_ids[:, None]
        return self.logits(features, ids), features.weights

    def _step_by_step(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...],
    ) -> Features:
        def step(state: DecoderState, x: Array) -> tuple[DecoderState, Features]:
            features, state = self.advance(x, state, memory, between)
            return state, features

        # Of each step its products are kept; tanh over all positions is cheaper made than fetched.
        kept = jax.checkpoint_policies.dots_saveable
        saving = jax.checkpoint(step, policy=kept, prevent_cse=False)
        _, features = jax.lax.scan(saving, state, jnp.moveaxis(embedded, 1, 0))
        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), features)

    def _all_at_once(
        self,
        embedded: Array,
        state: DecoderState,
        memory: Memory | None,
        between: tuple[Array, ...],
    ) -> Features:
        x = embedded
        for index, (layer, start) in enumerate(zip(self.layers, state.cells, strict=True)):
            if index and between:
                x = x * between[index - 1][:, None]
            x = unroll(layer.cell, layer.params, x, state=start).outputs
        context = weights = None
        if self.mechanism is not None:

            def attend(attention: Any, query: Array) -> tuple[Any, tuple[Array, Array]]:
                context, weights, attention = self._attended(query, memory, attention)
                return attention, (context, weights)

            if jax.tree.leaves(state.attention):
                _, attended = jax.lax.scan(attend, state.attention, jnp.moveaxis(x, 1, 0))
                context, weights = (jnp.moveaxis(a, 0, 1) for a in attended)
            else:
                _, (context, weights) = jax.vmap(
                    lambda q: attend(state.attention, q), in_axes=1, out_axes=1
                )(x)
        return self._features(embedded, x, context, weights)


def _affine(linear: nnx.Linear, x: Array) -> Array:
    """A Flax layer, as a product of two matrices: that has the faster gradient on CPUs.

    The batch comes first, so merging it with time leaves it divided over devices as it is.
    """
    flat = linear(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]))
    return flat.reshape(*x.shape[:-1], linear.out_features)


def _mechanism(
    attention: str | Attention | None, query_size: int, memory_size: int | None
) -> Attention | None:
    """The mechanism that was asked for, checked against the sizes."""
    if attention is None:
        return None
    if memory_size is None:
        raise ValueError("memory_size: expected the features of the memory with attention")
    checks.require_integer("memory_size", memory_size)
    if isinstance(attention, str):
        kind = ATTENTIONS[checks.require_name("attention", attention, ATTENTIONS)]
        return kind(query_size=query_size, memory_size=memory_size)
    if not isinstance(attention, Attention):
        raise TypeError(
            f"attention: expected a name of ATTENTIONS, a mechanism or None, "
            f"got {checks.brief(attention)}"
        )
    if (attention.query_size, attention.memory_size) != (query_size, memory_size):
        raise ValueError(
            f"attention: expected query_size={query_size} and memory_size={memory_size}, "
            f"got {attention.query_size} and {attention.memory_size}"
        )
    return attention
