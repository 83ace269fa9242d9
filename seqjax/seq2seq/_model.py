"""The encoder-decoder model, with teacher forcing for training and a step for decoding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks
from seqjax.attention import Attention
from seqjax.cells import Cell, make_cell
from seqjax.kernels import Execution
from seqjax.nn import _noise as noise
from seqjax.seq2seq._bridge import Bridge
from seqjax.seq2seq._decoder import Decoder
from seqjax.seq2seq._encoder import Encoded, Encoder
from seqjax.seq2seq._inputs import without_padding
from seqjax.seq2seq._writer import DecoderState
from seqjax.types import Array

__all__ = ["Seq2Seq"]

Step = Callable[[Array, DecoderState], tuple[Array, DecoderState]]


class Seq2Seq(nnx.Module):
    """An encoder-decoder model, whose sources and targets may have different lengths.

    Args:
      source_vocabulary: number of source tokens, or None if the sources are frames of `embed_size`
        features.
      target_vocabulary: number of target tokens.
      embed_size: number of features of an embedding.
      hidden_size: number of units of each layer and direction of the encoder.
      decoder_size: number of units of each layer of the decoder. The default is `2 * hidden_size`
        for a bidirectional default encoder, and otherwise `hidden_size`.
      cell: a name of `seqjax.CELLS`, a cell class, or a cell. If a cell is given, its sizes are
        replaced by those of the model.
      num_layers: number of layers of the encoder and of the decoder.
      bidirectional: whether the encoder reads in both directions.
      encoder: a module that replaces the default encoder, such as a convolutional network over
        images. The module has an attribute `output_size`, the number of features of its memory, and
        a method `initial_state(batch_shape)`, which returns zeros like its final state, or () if it
        has no state. A call `encoder(source, **options)` returns `Encoded`. With a custom encoder,
        `source_vocabulary` must be None, and `bidirectional` is ignored.
      attention: a name of `seqjax.attention.ATTENTIONS`, a mechanism, or None to pass only the
        bridge's states to the decoder (Sutskever, Vinyals, Le 2014).
      attend: "previous" or "current", see `Decoder`.
      bridge: one of `BRIDGES`.
      input_feeding: see `Decoder`.
      copy: see `Decoder`.
      tied: see `Decoder`.
      dropout: see `Encoder` and `Decoder`.
      dtype: the dtype in which the recurrent layers and the attention compute, such as
        `jnp.bfloat16`; see `Encoder` and `Decoder`. A custom encoder has a dtype of its own.
      param_dtype: dtype of the parameters.
      execution: the options for running the encoder and the decoder, a `seqjax.Execution`.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Raises:
      TypeError, ValueError: if an option is invalid or contradicts another; the message names the
        option.

    Example:
      >>> model = Seq2Seq(
      ...     source_vocabulary=7,
      ...     target_vocabulary=9,
      ...     embed_size=4,
      ...     hidden_size=5,
      ...     rngs=nnx.Rngs(0),
      ... )
      >>> sources, lengths = jnp.array([[3, 6, 1], [2, 0, 0]]), jnp.array([3, 1])
      >>> begin_and_targets = jnp.array([[1, 5, 8], [1, 4, 0]])
      >>> model(sources, begin_and_targets, lengths=lengths).shape
      (2, 3, 9)
      >>> step, state = model.decoding(model.encoder(sources, lengths=lengths))
      >>> logits, state = step(jnp.array([1, 1]), state)
      >>> logits.shape, state.weights.shape
      ((2, 9), (2, 3))

      The following custom encoder reads images `[B, S, S]`, with one memory position per image row:

      >>> class Rows(nnx.Module):
      ...     output_size = 6
      ...
      ...     def __init__(self, size, *, rngs):
      ...         self.linear = nnx.Linear(size, 6, rngs=rngs)
      ...
      ...     def initial_state(self, batch_shape):
      ...         return ()
      ...
      ...     def __call__(self, images, **options):
      ...         return Encoded(self.linear(images), jnp.ones(images.shape[:2], bool), ())
      >>> rngs = nnx.Rngs(0)
      >>> options = {"embed_size": 4, "hidden_size": 5, "bridge": "mean", "rngs": rngs}
      >>> model = Seq2Seq(target_vocabulary=9, encoder=Rows(8, rngs=rngs), **options)
      >>> model(jnp.ones([2, 8, 8]), begin_and_targets).shape
      (2, 3, 9)
    """

    def __init__(
        self,
        *,
        source_vocabulary: int | None = None,
        target_vocabulary: int,
        embed_size: int,
        hidden_size: int,
        decoder_size: int | None = None,
        cell: str | type[Cell[Any, Any]] | Cell[Any, Any] = "lstm",
        num_layers: int = 1,
        bidirectional: bool = True,
        encoder: Any = None,
        attention: str | Attention | None = "additive",
        attend: str = "previous",
        bridge: str = "projected",
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
        size = checks.require_integer("hidden_size", hidden_size)
        if decoder_size is None:
            decoder_size = size * (2 if bidirectional and encoder is None else 1)
        embed_size = checks.require_integer("embed_size", embed_size)
        decoder_size = checks.require_integer("decoder_size", decoder_size)
        execution = Execution.of(execution)
        reader = make_cell(cell, embed_size, size)
        writer = make_cell(cell, embed_size, decoder_size)
        shared: dict[str, Any] = {
            "num_layers": num_layers,
            "dropout": dropout,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "execution": execution,
            "rngs": rngs,
        }
        if encoder is None:
            encoder = Encoder(
                reader, vocabulary=source_vocabulary, bidirectional=bidirectional, **shared
            )
        elif source_vocabulary is not None:
            raise ValueError(
                f"source_vocabulary: expected None with a custom encoder, got {source_vocabulary}"
            )
        elif not all(hasattr(encoder, name) for name in ("output_size", "initial_state")):
            raise TypeError(
                "encoder: expected a module with output_size and initial_state, got "
                f"{type(encoder).__name__}"
            )
        self.encoder = encoder
        memory_size = encoder.output_size
        self.decoder = Decoder(
            writer,
            vocabulary=target_vocabulary,
            memory_size=memory_size,
            attention=attention,
            attend=attend,
            input_feeding=input_feeding,
            copy=copy,
            tied=tied,
            **shared,
        )
        state = encoder.initial_state(())
        self.bridge = Bridge(
            bridge, self.decoder.cells, state, memory_size, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(
        self,
        source: Any,
        tokens: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        source_ids: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Array:
        """Return the logits of each target token, given the tokens before it (teacher forcing).

        Args:
          source: tokens `[B, S]` or frames `[B, S, I]` as for `Encoder`, or the input of a custom
            encoder.
          tokens: integers `[B, T]`: the begin token, then the target without its end token. Values
            in padding do not affect the logits of earlier positions. Exclude the logits of padding
            from the loss. Negative numbers count as padding, so no token may follow a negative
            number.
          lengths: integers `[B]`, the lengths of the sources.
          mask: bool `[B, S]`, True at real positions. Pass `lengths` or `mask`, not both.
          source_ids: integers `[B, S]`, required by a decoder that copies.
          deterministic: True for evaluation, False for training; by default, the mode set by
            `eval()` or `train()`.
          rngs: `nnx.Rngs` or a random key; required in training with dropout.

        Returns:
          The logits, float32 `[B, T, V]`, or `[B, T, V + S]` with `copy`.

        Raises:
          TypeError, ValueError: if the sources are invalid (see `Encoder`), if tokens are not
            integers `[B, T]`, or if a token is outside the vocabulary. Under tracing, a token
            outside the vocabulary raises no error, and all logits from this token on are NaN.
        """
        start, ids, key = self._forced(
            source, tokens, lengths, mask, source_ids, deterministic, rngs
        )
        logits, _ = self.decoder.teacher_forced(*start, ids, key=key)
        return logits

    def hidden(
        self,
        source: Any,
        tokens: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Array:
        """Return the inputs of the readout at all target positions: float `[B, T, F]`.

        Pass the result and `decoder.linear_readout()` to `seqjax.losses.linear_cross_entropy`,
        which computes the loss without all logits in memory at once.

        Args:
          source: see `__call__`.
          tokens: see `__call__`.
          lengths: see `__call__`.
          mask: see `__call__`.
          deterministic: see `__call__`.
          rngs: see `__call__`.

        Raises:
          TypeError, ValueError: see `__call__`.

        Example:
          >>> sizes = {"source_vocabulary": 7, "target_vocabulary": 9}
          >>> model = Seq2Seq(**sizes, embed_size=4, hidden_size=5, rngs=nnx.Rngs(0))
          >>> model.hidden(jnp.array([[3, 6]]), jnp.array([[1, 5, 8]])).shape
          (1, 3, 10)
        """
        start, _, key = self._forced(source, tokens, lengths, mask, None, deterministic, rngs)
        return self.decoder.features(*start, key=key).hidden

    def _forced(
        self,
        source: Any,
        tokens: Any,
        lengths: Any,
        mask: Any,
        source_ids: Any,
        deterministic: bool | None,
        rngs: noise.Rngs | None,
    ) -> tuple[tuple[Array, DecoderState, Any], Array | None, Any]:
        """Return the decoder's arguments, the source ids to copy, and a key for dropout."""
        if deterministic is None:
            deterministic = self.decoder.deterministic
        drops = bool(self.decoder.dropout) and not deterministic
        key_encoder: Any = None
        key_decoder = None
        if not isinstance(self.encoder, Encoder):
            if rngs is not None and not isinstance(rngs, nnx.Rngs):
                rngs = noise.streams(rngs, "dropout")
            key_encoder = None if deterministic else rngs  # a custom encoder draws its own keys
        else:
            if np.ndim(source) != (2 if self.encoder.embedding is not None else 3):
                kind = "[B, S]" if self.encoder.embedding is not None else "[B, S, I]"
                raise ValueError(f"source: expected {kind}, got {np.shape(source)}")
            if drops:
                key_encoder, key_decoder = jax.random.split(noise.dropout_key(rngs))
        encoded = self.encoder(
            source, lengths=lengths, mask=mask, source_ids=source_ids,
            deterministic=deterministic, rngs=key_encoder,
        )  # fmt: skip
        if drops and key_decoder is None:
            key_decoder = noise.dropout_key(rngs)
        tokens = self._checked_tokens(tokens, encoded)
        memory, state = self._start(encoded)
        return (tokens, state, memory), encoded.source_ids, key_decoder

    def scheduled(
        self, encoded: Encoded, tokens: Array, rate: float | Array, key: jax.Array
    ) -> Array:
        """Return logits with some inputs sampled from the model itself (scheduled sampling).

        Args:
          encoded: the encoded sources, as returned by `encoder`.
          tokens: `[B, T]`, see `__call__`.
          rate: the probability that the input of a step is sampled from the model instead of taken
            from `tokens`. Usually the rate is increased during training.
          key: a random key.

        Returns:
          float32 `[B, T, V]`. No gradient flows through the sampled tokens.

        Raises:
          TypeError, ValueError: if the tokens are invalid, see `__call__`; if `rate` is not between
            0 and 1; if `key` is not a random key.

        References:
          Bengio, Vinyals, Jaitly, Shazeer (2015), Scheduled sampling for sequence prediction with
          recurrent neural networks.
        """
        tokens = self._checked_tokens(tokens, encoded)
        rate = checks.require_scalar("rate", rate)
        if not checks.is_traced(rate) and not 0 <= rate <= 1:
            raise ValueError(f"rate: expected a number from 0 to 1, got {rate}")
        key = checks.require_key("key", key)
        step, state = self.decoding(encoded)
        if not tokens.shape[1]:
            logits, _ = jax.eval_shape(step, jnp.zeros(tokens.shape[:1], tokens.dtype), state)
            return jnp.zeros((tokens.shape[0], 0, logits.shape[-1]), logits.dtype)

        def one(carry: Any, per_step: Any) -> tuple[Any, Array]:
            state, logits = carry
            given, key, first = per_step
            key_which, key_token = jax.random.split(key)
            sampled = jax.random.categorical(key_token, jax.lax.stop_gradient(logits))
            own = jax.random.bernoulli(key_which, rate, given.shape) & ~first
            logits, state = step(jnp.where(own, sampled, given), state)
            return (state, logits), logits

        steps = tokens.shape[1]
        blank = jax.eval_shape(lambda: step(tokens[:, 0], state)[0])
        per_step = (tokens.T, jax.random.split(key, steps), jnp.arange(steps) == 0)
        start = (state, jnp.zeros(blank.shape, blank.dtype))
        return jnp.moveaxis(jax.lax.scan(one, start, per_step)[1], 0, 1)

    def decoding(self, encoded: Encoded) -> tuple[Step, DecoderState]:
        """Return a step function and its initial state, for `seqjax.decoding`.

        The step function holds the memory and its projected keys, which all beams of a source
        share. The state holds the values that differ between beams.

        Args:
          encoded: B encoded sources, as returned by `encoder`.

        Returns:
          `step(tokens [N], state) -> (logits [N, V], state)`, and the initial state for N = B rows.
          N may be a multiple of B, with the beams of a source in adjacent rows. `state.weights` are
          the attention weights of the last step.
        """
        memory, state = self._start(encoded)

        def step(tokens: Array, state: DecoderState) -> tuple[Array, DecoderState]:
            features, state = self.decoder.advance(self.decoder.embed(tokens), state, memory)
            ids = encoded.source_ids
            if ids is not None:
                ids = jnp.repeat(ids, tokens.shape[0] // max(ids.shape[0], 1), axis=0)
            return self.decoder.logits(features, ids), state

        return step, state

    def _checked_tokens(self, tokens: Any, encoded: Encoded) -> Array:
        """Check the shape and range of the target tokens, and return them with padding set to 0."""
        tokens = checks.require_ids("tokens", tokens, "integer tokens [B, T]")
        if tokens.ndim != 2 or tokens.shape[:1] != encoded.mask.shape[:-1]:
            raise ValueError(
                f"tokens: expected [{encoded.mask.shape[0]}, T] like the sources, "
                f"got {tokens.shape}"
            )
        known = self.decoder.vocabulary
        if self.decoder.gate is not None:
            known += encoded.mask.shape[-1]
        given = without_padding("tokens", tokens)
        checks.require_range("tokens", given, known - 1)
        return given

    def _start(self, encoded: Encoded) -> tuple[Any, DecoderState]:
        if self.decoder.gate is not None and encoded.source_ids is not None:
            most = self.decoder.vocabulary + encoded.mask.shape[-1] - 1
            checks.require_range("source_ids", encoded.source_ids, most, mask=encoded.mask)
        encoded = encoded._replace(memory=self.decoder.computing(encoded.memory))
        memory = self.decoder.precompute(encoded)
        return memory, self.decoder.initial_state(encoded, self.bridge(encoded), memory)
