"""The encoder: a recurrent stack over tokens or frames.

`Seq2Seq` also accepts a custom encoder, for example for images, which are not sequences. A custom
encoder needs the interface of `Encoder`:

    output_size                                     the number of features of its memory, M
    initial_state(batch_shape)                      zeros like the `state` that a call returns
    encoder(source, lengths=…, mask=…, source_ids=…, deterministic=…, rngs=…) -> Encoded

A caller may omit any keyword argument. `rngs` is `nnx.Rngs`, or None in evaluation. If a custom
encoder has no final state, both `Encoded.state` and the result of `initial_state` are (), and the
bridge must be "zero" or "mean". If a custom encoder has an attribute `vocabulary` (the number of
tokens), `generate` checks that all source tokens are in the vocabulary.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks, sequences
from seqjax.cells._base import Cell
from seqjax.kernels import Execution
from seqjax.nn import _noise as noise
from seqjax.nn._recurrent import Recurrent
from seqjax.seq2seq._inputs import look_up
from seqjax.types import Array

__all__ = ["Encoded", "Encoder"]


class Encoded(NamedTuple):
    """An encoded source, the output of an encoder.

    Attributes:
      memory: float `[..., S, M]`, one vector per position; zeros in padding.
      mask: bool `[..., S]`, True at real positions, False in padding.
      state: the final state of the stack, a tuple with one entry per layer; () if the encoder has
        no state.
      source_ids: int32 `[..., S]`, the ids of the source tokens in the vocabulary of the target,
        for models that copy; otherwise None.
    """

    memory: Array
    mask: Array
    state: Any
    source_ids: Array | None = None


class Encoder(nnx.Module):
    """A recurrent stack over embedded tokens or over frames.

    Args:
      cell: the cell of the first layer; its `input_size` is the size of an embedding or of a frame.
      vocabulary: number of different tokens, or None if the inputs are frames of numbers.
      num_layers: number of layers.
      bidirectional: whether each layer reads in both directions.
      dropout: dropout rate of the embeddings or frames, and between layers.
      dtype: the dtype of the computation, to which parameters and inputs are cast. If `dtype` is
        None, the computation uses the dtype of the embeddings or frames.
      param_dtype: dtype of the parameters.
      execution: the options for running the layers over sequences, a `seqjax.Execution`.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Example:
      >>> from seqjax.cells import GRU
      >>> encoder = Encoder(GRU(4, 5), vocabulary=7, bidirectional=True, rngs=nnx.Rngs(0))
      >>> encoded = encoder(jnp.array([[3, 6, 1], [2, 0, 0]]), lengths=jnp.array([3, 1]))
      >>> encoded.memory.shape, encoded.mask.tolist()
      ((2, 3, 10), [[True, True, True], [True, False, False]])
    """

    def __init__(
        self,
        cell: Cell[Any, Any],
        *,
        vocabulary: int | None = None,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: noise.Rngs,
    ) -> None:
        rngs = noise.streams(rngs, "params")
        embedding = None
        if vocabulary is not None:
            size = checks.require_integer("vocabulary", vocabulary)
            embedding = nnx.Embed(size, cell.input_size, param_dtype=param_dtype, rngs=rngs)
        self.embedding = embedding
        self.recurrent = Recurrent(
            cell,
            num_layers=num_layers,
            bidirectional=bidirectional,
            dropout=dropout,
            dtype=dtype,
            param_dtype=param_dtype,
            execution=execution,
            rngs=rngs,
        )
        self.dropout = checks.require_rate("dropout", dropout)

    @property
    def vocabulary(self) -> int | None:
        """The number of tokens, or None for an encoder of frames."""
        return None if self.embedding is None else int(self.embedding.num_embeddings)

    @property
    def output_size(self) -> int:
        """The number of features of the memory, M."""
        return self.recurrent.output_size

    def initial_state(self, batch_shape: int | Sequence[int] = ()) -> Any:
        """Return the initial state of the stack, with the shapes of `Encoded.state`.

        Args:
          batch_shape: the batch axes, such as `(B,)`; an integer is one axis.
        """
        return self.recurrent.initial_state(batch_shape)

    def __call__(
        self,
        source: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        source_ids: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Encoded:
        """Encode sources.

        Args:
          source: tokens as integers `[..., S]`; or, if the encoder has no vocabulary, frames as
            floats `[..., S, I]`. Values in padding are ignored.
          lengths: integers of the batch shape, the number of real positions of each source.
          mask: bool `[..., S]`, True at real positions. Pass `lengths` or `mask`, not both.
          source_ids: integers `[..., S]`, the ids of the source tokens for a decoder that copies.
            The ids are returned in `Encoded.source_ids`.
          deterministic: True for evaluation, False for training; by default, the mode set by
            `eval()` or `train()`.
          rngs: `nnx.Rngs` or a random key; required in training with dropout.

        Returns:
          `Encoded`.

        Raises:
          TypeError, ValueError: if the dtype or shape of the sources is wrong, or a token is
            outside the vocabulary. Under tracing, a token outside the vocabulary raises no error,
            and its embedding is NaN. See also `seqjax.unroll`.
        """
        if self.embedding is None:
            xs = checks.require_array("source", source, jnp.floating, "floating-point frames")
            if isinstance(source, np.ndarray):
                checks.require_fit("source", source, xs.dtype, "floating-point frames")
            shape = xs.shape[:-1]
        else:
            tokens = checks.require_ids("source", source, "integer tokens")
            shape = tokens.shape
        if not shape:
            raise ValueError(f"source: expected [..., S], got {jnp.shape(source)}")
        real = sequences.step_mask(shape[:-1], shape[-1], lengths=lengths, mask=mask)
        real = jnp.ones(shape, bool) if real is None else real
        if self.embedding is not None:
            checks.require_range("source", tokens, self.embedding.num_embeddings - 1, mask=real)
            xs = look_up(self.embedding, jnp.where(real, tokens, 0))
        if deterministic is None:
            deterministic = self.recurrent.deterministic
        keys: Any = None
        if self.dropout and not deterministic:
            keys = noise.streams(rngs, "dropout")
            xs = noise.dropout(keys.dropout(), self.dropout, xs)
        outputs, state = self.recurrent(xs, mask=real, deterministic=deterministic, rngs=keys)
        if source_ids is not None:
            source_ids = checks.require_ids("source_ids", source_ids, "integer ids")
            if source_ids.shape != shape:
                raise ValueError(f"source_ids: expected {shape}, got {source_ids.shape}")
        return Encoded(outputs, real, state, source_ids)
