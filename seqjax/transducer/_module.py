"""The transducer as a Flax module: an encoder, a prediction network and a joint network."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks
from seqjax._label_sequences import checked_labels, require_class
from seqjax.cells.ops import accumulator_dtype
from seqjax.ctc import ctc_loss
from seqjax.decoding._results import Step
from seqjax.nn import Recurrent
from seqjax.nn import _noise as noise
from seqjax.transducer._greedy import greedy_frame, transducer_greedy
from seqjax.transducer._loss import joint_transducer_loss
from seqjax.transducer._model import Model, TransducerDecoded
from seqjax.transducer._search import transducer_beam_search
from seqjax.types import Array, PyTree

__all__ = ["Transducer", "TransducerState"]


class TransducerState(NamedTuple):
    """The state of a stream after some frames.

    Attributes:
      encoder: the state of the encoder.
      predictor: the state of the prediction network.
      predicted: float `[..., J]`, the output of the prediction network for the last label.
    """

    encoder: Any
    predictor: Any
    predicted: Array


class Transducer(nnx.Module):
    """A transducer: a recurrent encoder, a recurrent prediction network and a joint network.

        f_t = W_f encoder(x_1 ... x_t) + b_f
        g_u = W_g predictor(0, e(y_1) ... e(y_u))
        logits_tu = W tanh(f_t + g_u) + b

    The prediction network reads an embedding e of each label. Its first input is zero. If the
    encoder has one direction, the model can run on streams: pass the model to
    `seqjax.streaming.Session`.

    Args:
      encoder: a layer of `seqjax.nn`, such as `nn.LSTM(features, 128, num_layers=2, rngs=rngs)`.
      predictor: a layer of `seqjax.nn` in one direction; its `input_size` is the size of an
        embedding.
      vocabulary: V, the number of classes, including the blank.
      joint_size: J, the number of units of the joint network.
      dropout: the dropout rate of the outputs of the encoder and of the prediction network.
      blank: the class of the blank.
      max_symbols: S, the maximum number of labels that decoding emits at a frame.
      param_dtype: the dtype of the parameters of the embedding and of the joint network.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Attributes:
      deterministic: whether calls run in evaluation mode, see `seqjax.nn.Recurrent`.

    Raises:
      TypeError, ValueError: if a layer or an option is invalid; the message names it.

    References:
      Graves 2012, Sequence Transduction with Recurrent Neural Networks.
      Graves, Mohamed, Hinton 2013, Speech Recognition with Deep Recurrent Neural Networks (the
      joint network).

    Example:
      >>> from seqjax import nn, streaming
      >>> rngs = nnx.Rngs(0)
      >>> encoder, predictor = nn.LSTM(13, 8, rngs=rngs), nn.GRU(4, 6, rngs=rngs)
      >>> model = Transducer(encoder, predictor, vocabulary=5, joint_size=7, rngs=rngs)
      >>> frames, labels = jnp.ones([2, 9, 13]), jnp.array([[1, 4, 2], [3, 0, 0]])
      >>> lengths, label_lengths = jnp.array([9, 6]), jnp.array([3, 1])
      >>> loss = model.loss(frames, labels, lengths=lengths, label_lengths=label_lengths)
      >>> model(frames, labels, label_lengths=label_lengths).shape
      (2, 9, 4, 5)
      >>> model.beam_search(frames, lengths=lengths, beam_width=4, n_best=2).tokens.shape
      (2, 2, 36)
      >>> session = streaming.Session(model, example=jnp.zeros(13))
      >>> session.open("ann"), session.step({"ann": jnp.ones(13)})["ann"].shape
      ('ann', (4,))
    """

    def __init__(
        self,
        encoder: Recurrent,
        predictor: Recurrent,
        *,
        vocabulary: int,
        joint_size: int,
        dropout: float = 0.0,
        blank: int = 0,
        max_symbols: int = 4,
        param_dtype: Any = jnp.float32,
        rngs: noise.Rngs,
    ) -> None:
        rngs = noise.streams(rngs, "params")
        for name, layer in (("encoder", encoder), ("predictor", predictor)):
            if not isinstance(layer, Recurrent):
                raise TypeError(
                    f"{name}: expected a recurrent layer of seqjax.nn, got {checks.brief(layer)}"
                )
            if layer.time_major or layer.merge_mode == "none":
                raise ValueError(
                    f"{name}: expected one output array in batch-major layout, got a layer with "
                    f"time_major={layer.time_major}, merge_mode={layer.merge_mode!r}"
                )
        if predictor.bidirectional:
            raise ValueError(
                "predictor: expected one direction, got a bidirectional layer, which would read "
                "the labels that it predicts"
            )
        self.vocabulary = checks.require_integer("vocabulary", vocabulary)
        self.blank = require_class("blank", blank, self.vocabulary)
        joint_size = checks.require_integer("joint_size", joint_size)
        self.dropout = checks.require_rate("dropout", dropout)
        self.max_symbols = checks.require_integer("max_symbols", max_symbols)
        self.deterministic = False
        options: dict[str, Any] = {
            "param_dtype": checks.require_floating_dtype("param_dtype", param_dtype)
        }
        self.encoder, self.predictor = encoder, predictor
        embed_size = predictor.cell.input_size
        self.embedding = nnx.Embed(vocabulary, embed_size, rngs=rngs, **options)
        self.of_encoded = nnx.Linear(encoder.output_size, joint_size, rngs=rngs, **options)
        self.of_predicted = nnx.Linear(
            predictor.output_size, joint_size, use_bias=False, rngs=rngs, **options
        )
        self.readout = nnx.Linear(joint_size, vocabulary, rngs=rngs, **options)

    @property
    def bidirectional(self) -> bool:
        """True if the encoder reads in both directions, so that the model cannot run on streams."""
        return self.encoder.bidirectional

    def __call__(
        self,
        frames: Any,
        labels: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        label_lengths: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Array:
        """Return the logits of all nodes, float `[B, T, N + 1, V]`, for `transducer_loss`.

        Args:
          frames: float `[B, T, I]`. Values in padding are ignored.
          labels: int `[B, N]`, classes other than the blank; padding may contain any value.
          lengths: int `[B]`, 0 to T, the number of frames of each sequence.
          mask: bool `[B, T]`, True at real frames. Pass `lengths` or `mask`, not both.
          label_lengths: int `[B]`, 0 to N, the number of labels of each sequence.
          deterministic: True for evaluation, False for training; by default, the mode set by
            `eval()` or `train()`.
          rngs: `nnx.Rngs` or a random key; required in training with dropout.

        Raises:
          TypeError, ValueError: if an argument has a wrong type or shape; outside tracing, also if
            a label is not in [0, V). Under tracing, such a label makes the logits after it NaN.
        """
        encoded, predicted = self._networks(
            frames, labels, lengths, mask, label_lengths, deterministic, rngs
        )
        return self.joint(encoded[:, :, None], predicted[:, None])

    def loss(
        self,
        frames: Any,
        labels: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        label_lengths: Any = None,
        ctc_weight: float | Array = 0.0,
        zero_infinity: bool = False,
        chunk_size: int | None = None,
        per_sequence: bool = False,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Array:
        """Return the `transducer_loss`, computed by `joint_transducer_loss`.

        With little data, a transducer can learn to predict labels from the labels before and to
        ignore the frames. With `ctc_weight` w, the loss is

            (1 - w) transducer_loss + w ctc_loss(joint(f, 0))

        The second term is the CTC loss of the joint network without a prediction network. It
        teaches the encoder to find the labels by itself, and adds no parameters.

        Args:
          frames: see `__call__`.
          labels: see `__call__`.
          lengths: see `__call__`.
          mask: see `__call__`.
          label_lengths: see `__call__`.
          ctc_weight: w, in [0, 1), which may be traced by `jax.jit`. The CTC loss of a sequence
            that has no path of CTC, because it has too few frames, counts as 0.
          zero_infinity: see `transducer_loss`.
          chunk_size: see `joint_transducer_loss`.
          per_sequence: whether to return the loss of each sequence, `[B]`, instead of the mean.
          deterministic: see `__call__`.
          rngs: see `__call__`.

        Raises:
          TypeError, ValueError: see `__call__` and `transducer_loss`; also if `ctc_weight` is
            invalid.

        References:
          Kim, Hori, Watanabe 2017, Joint CTC-attention based end-to-end speech recognition using
          multi-task learning (the weighted sum, there with an attention decoder).
        """
        ctc_weight = checks.require_scalar("ctc_weight", ctc_weight, checks.require_rate)
        encoded, predicted = self._networks(
            frames, labels, lengths, mask, label_lengths, deterministic, rngs
        )
        options: dict[str, Any] = {
            "lengths": lengths, "mask": mask, "label_lengths": label_lengths, "blank": self.blank,
            "per_sequence": per_sequence,
        }  # fmt: skip
        loss = joint_transducer_loss(
            self.joint, encoded, predicted, labels, zero_infinity=zero_infinity,
            chunk_size=chunk_size, **options,
        )  # fmt: skip
        if not checks.is_traced(ctc_weight) and ctc_weight == 0:
            return loss
        alone = self.joint(encoded, jnp.zeros((), encoded.dtype))
        ctc = ctc_loss(alone, labels, zero_infinity=True, **options)
        return (1 - ctc_weight) * loss + ctc_weight * ctc

    def encode(
        self,
        frames: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Array:
        """Return the encoder's part of the joint network's sum: f, float `[B, T, J]`.

        Args:
          frames: see `__call__`.
          lengths: see `__call__`.
          mask: see `__call__`.
          deterministic: see `__call__`.
          rngs: see `__call__`.
        """
        deterministic, rngs = self._mode(deterministic, rngs)
        outputs, _ = self.encoder(
            frames, lengths=lengths, mask=mask, deterministic=deterministic, rngs=rngs
        )
        return self.of_encoded(self._dropped(outputs, deterministic, rngs))

    def predict(self, labels: Any, state: Any) -> tuple[Array, Any]:
        """Run one step of the prediction network in evaluation mode.

        Args:
          labels: int `[...]`, the last label of each sequence, or the blank at the start.
          state: the state, as `predictor.initial_state(batch_shape)` or the previous step returns
            it.

        Returns:
          The prediction network's part of the joint network's sum, g, float `[..., J]`, and the new
          state.
        """
        output, state = self.predictor.step(self._embedded(jnp.asarray(labels)), state)
        return self.of_predicted(output), state

    def joint(self, encoded: Array, predicted: Array) -> Array:
        """Return the logits `[..., V]` for f and g, whose leading axes are broadcast."""
        return self.readout(jnp.tanh(encoded + predicted))

    def greedy(
        self, frames: Any, *, lengths: Any = None, mask: Any = None, max_symbols: int | None = None
    ) -> TransducerDecoded:
        """Return the result of `transducer_greedy` for this model in evaluation mode.

        Args:
          frames: float `[B, T, I]`. Values in padding are ignored.
          lengths: int `[B]`, 0 to T, the number of frames of each sequence.
          mask: bool `[B, T]`, True at real frames. Pass `lengths` or `mask`, not both.
          max_symbols: S, the maximum number of labels at a frame; the default is that of the model.
        """
        options = self._decoding(frames, lengths, mask, max_symbols)
        return transducer_greedy(self.joint, self.predict, **options)

    def beam_search(
        self,
        frames: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        beam_width: int = 8,
        n_best: int = 1,
        max_symbols: int | None = None,
        fusion: Step | None = None,
        fusion_state: PyTree = None,
        begin: int | None = None,
        end: int | None = None,
    ) -> TransducerDecoded:
        """Return the result of `transducer_beam_search` for this model in evaluation mode.

        Args:
          frames: float `[B, T, I]`. Values in padding are ignored.
          lengths: int `[B]`, 0 to T, the number of frames of each sequence.
          mask: bool `[B, T]`, True at real frames. Pass `lengths` or `mask`, not both.
          beam_width: K, the number of prefixes that are kept after each frame.
          n_best: n, the number of label sequences to return, at most K.
          max_symbols: S, the maximum number of labels at a frame; the default is that of the model.
          fusion: see `transducer_beam_search`.
          fusion_state: see `transducer_beam_search`.
          begin: see `transducer_beam_search`.
          end: see `transducer_beam_search`.
        """
        options = self._decoding(frames, lengths, mask, max_symbols)
        return transducer_beam_search(
            self.joint, self.predict, beam_width=beam_width, n_best=n_best, fusion=fusion,
            fusion_state=fusion_state, begin=begin, end=end, **options,
        )  # fmt: skip

    def initial_state(self, batch_shape: int | Sequence[int] = ()) -> TransducerState:
        """Return the state of streams before their first frame.

        Args:
          batch_shape: the batch axes, such as `(N,)`; an integer is one axis.
        """
        shape = checks.require_shape("batch_shape", batch_shape)
        start = jnp.full(shape, self.blank, jnp.int32)
        predicted, state = self.predict(start, self.predictor.initial_state(shape))
        return TransducerState(self.encoder.initial_state(shape), state, predicted)

    def step(self, x_t: Any, state: TransducerState) -> tuple[Array, TransducerState]:
        """Decode one frame greedily, in evaluation mode.

        Args:
          x_t: float `[N, I]`, one frame of each stream.
          state: the state, as `initial_state(N)` or the previous step returns it.

        Returns:
          The labels that the model emits at the frame, int32 `[N, S]`, followed by blanks, and the
          new state.

        Raises:
          ValueError: if the encoder is bidirectional.
        """
        output, encoder = self.encoder.step(x_t, state.encoder)
        encoded = self.of_encoded(output)
        real = jnp.ones(encoded.shape[:1], bool)
        dtype = accumulator_dtype(encoded.dtype)
        model = Model(self.joint, self.predict, self.blank, self.max_symbols, dtype)
        written = greedy_frame(model, encoded, real, state.predicted, state.predictor)
        return written.labels, TransducerState(encoder, written.state, written.predicted)

    def _networks(
        self,
        frames: Any,
        labels: Any,
        lengths: Any,
        mask: Any,
        label_lengths: Any,
        deterministic: bool | None,
        rngs: noise.Rngs | None,
    ) -> tuple[Array, Array]:
        """Return the two parts of the joint network's sum, `[B, T, J]` and `[B, N + 1, J]`."""
        self._require_frames(frames)
        deterministic, rngs = self._mode(deterministic, rngs)
        encoded = self.encode(
            frames, lengths=lengths, mask=mask, deterministic=deterministic, rngs=rngs
        )
        batch = encoded.shape[0]
        checked = checked_labels(labels, label_lengths, batch, self.vocabulary, self.blank)
        start = jnp.full((batch, 1), self.blank, jnp.int32)
        inputs = self._embedded(jnp.concatenate([start, checked.ids], axis=1))
        outputs, _ = self.predictor(
            inputs, lengths=checked.lengths + 1, deterministic=deterministic, rngs=rngs
        )
        predicted = self.of_predicted(self._dropped(outputs, deterministic, rngs))
        return encoded, jnp.where(checked.valid[:, None, None], predicted, jnp.nan)

    def _require_frames(self, frames: Any) -> None:
        """Raise if frames are not `[B, T, I]`."""
        shape, size = np.shape(frames), self.encoder.cell.input_size
        if len(shape) != 3 or shape[2] != size + self.encoder.cell.reads_elapsed:
            raise ValueError(f"frames: expected [B, T, I] with I={size}, got shape {shape}")

    def _embedded(self, labels: Array) -> Array:
        """Return the embeddings of labels `[...]`; that of the blank is 0."""
        return jnp.where((labels == self.blank)[..., None], 0.0, self.embedding(labels))

    def _mode(self, deterministic: bool | None, rngs: Any) -> tuple[bool, Any]:
        """Return whether the call is in evaluation mode, and its random streams or None."""
        if deterministic is None:
            deterministic = self.deterministic
        if checks.require_bool("deterministic", deterministic) or rngs is None:
            return deterministic, None
        return deterministic, noise.streams(rngs, "dropout")

    def _dropped(self, outputs: Array, deterministic: bool, rngs: Any) -> Array:
        active = ["dropout"] if self.dropout else []
        key = noise.training_key(active, deterministic, rngs)
        return outputs if key is None else noise.dropout(key, self.dropout, outputs)

    def _decoding(self, frames: Any, lengths: Any, mask: Any, max_symbols: Any) -> dict[str, Any]:
        """Return the arguments that both decoders share, besides the functions."""
        self._require_frames(frames)
        encoded = self.encode(frames, lengths=lengths, mask=mask, deterministic=True)
        return {
            "encoded": encoded,
            "state": self.predictor.initial_state(encoded.shape[:1]),
            "lengths": lengths,
            "mask": mask,
            "blank": self.blank,
            "max_symbols": self.max_symbols if max_symbols is None else max_symbols,
        }
