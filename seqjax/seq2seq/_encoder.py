"""The encoder: a recurrent stack over tokens or frames.

`Seq2Seq` takes any other module in its place, for sources that are no sequences (an image) or need
more than a recurrent stack, if it has what `Encoder` has from the outside:

    output_size                                     the features of its memory, M
    initial_state(batch_shape)                      zeros like the `state` that a call gives
    encoder(source, lengths=…, mask=…, source_ids=…, deterministic=…, rngs=…) -> Encoded

It may have `vocabulary`, the number of tokens it reads, which `generate` checks sources against.
Each keyword may be left out in a call. Both states are () where there is none, for the bridges
"zero" and "mean". `rngs` is `nnx.Rngs`, or None in evaluation.
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
    """An encoded source, as a decoder gets it.

    Attributes:
      memory: float `[..., S, M]`, one vector a position; zeros in padding.
      mask: bool `[..., S]`, True at real positions.
      state: the stack's final state, a tuple with one entry a layer; () if there is none.
      source_ids: int32 `[..., S]`, the ids of the source's tokens in the vocabulary of the target,
        for models that copy; else None.
    """

    memory: Array
    mask: Array
    state: Any
    source_ids: Array | None = None


class Encoder(nnx.Module):
    """Embeds tokens, or takes frames as they are, and runs a recurrent stack over them.

    Args:
      cell: the first layer's cell; its `input_size` is the size of an embedding or of a frame.
      vocabulary: number of tokens, or None for inputs that are not tokens.
      num_layers: layers of the stack.
      bidirectional: whether it reads in both directions.
      dropout: rate on the embeddings, and between layers.
      param_dtype: of the parameters.
      execution: how its runs over sequences are run, a `seqjax.Execution`.
      rngs: draws the parameters.

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
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: nnx.Rngs,
    ) -> None:
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
            param_dtype=param_dtype,
            execution=execution,
            rngs=rngs,
        )
        self.dropout = checks.require_rate("dropout", dropout)

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens; None for frames."""
        return None if self.embedding is None else int(self.embedding.num_embeddings)

    @property
    def output_size(self) -> int:
        """Features of the memory, M."""
        return self.recurrent.output_size

    def initial_state(self, batch_shape: int | Sequence[int] = ()) -> Any:
        """Return the state that the stack starts in, of the shapes of `Encoded.state`.

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
        """Reads sources.

        Args:
          source: integers `[..., S]` (tokens; those in padding are not looked at), or float
            `[..., S, I]` without a vocabulary.
          lengths: integers of the batch shape; or
          mask: bool `[..., S]`, True at real positions.
          source_ids: kept for a decoder that copies.
          deterministic: True for evaluation, False for training; the layer's own if None.
          rngs: `nnx.Rngs` or a random key; needed in training if there is dropout.

        Returns:
          `Encoded`.

        Raises:
          TypeError, ValueError: sources of another kind or shape, or (outside tracing) tokens that
            are not in the vocabulary; under tracing their embeddings are NaN. See `seqjax.unroll`.
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
