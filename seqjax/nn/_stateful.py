"""A recurrent layer that goes on where its last call stopped: truncated backpropagation."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqjax import checks, sequences
from seqjax.nn import _noise as noise
from seqjax.nn._recurrent import Recurrent
from seqjax.types import Array, PyTree, Shape, Unrolled

__all__ = ["Carry", "Stateful"]


class Carry(nnx.Variable[Any]):
    """State that goes from one call to the next, and no gradient with it.

    Example:
      >>> import jax.numpy as jnp
      >>> Carry(jnp.zeros([2, 3])).shape
      (2, 3)
    """


class Stateful(nnx.Module):
    """A layer whose final state is the initial one of its next call.

    With it training runs over long streams, window by window, by truncated backpropagation through
    time: the gradient ends where a window begins, the state does not.

        BPTT(k): windows of k steps, one behind the other
        BPTT(k1, k2): windows of k2 steps that begin every k1 steps, k1 = `stride` ≤ k2; the state
          that is kept is that after the first k1 steps

    `resets` cut the stream where a new document starts, inside a window too. The windows of
    `seqjax.data.stream_windows` say so at the first step of the stream, and what was kept before
    does not matter there. `seqjax.training` carries the state from step to step, from batch to
    batch of an evaluation, and into checkpoints.

    Args:
      layer: a `Recurrent` that runs in one direction.
      batch_shape: the batch axes of all calls, such as 32 or (32,).

    Attributes:
      layer: as given.
      carry: the leaves of the state, each a `Carry`.

    Raises:
      TypeError, ValueError: not a layer; one in both directions, which needs whole sequences; sizes
        that are not positive integers.

    References:
      Williams, Peng (1990), An efficient gradient-based algorithm for on-line training of recurrent
      network trajectories: BPTT(h; h').

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax import nn
      >>> layer = nn.GRU(3, 5, rngs=nnx.Rngs(0))
      >>> stateful = nn.Stateful(layer, batch_shape=2)
      >>> xs = jnp.ones([2, 8, 3])
      >>> parts = [stateful(xs[:, :4]).outputs, stateful(xs[:, 4:]).outputs]
      >>> bool(jnp.allclose(jnp.concatenate(parts, axis=1), layer(xs).outputs, atol=1e-6))
      True
    """

    def __init__(self, layer: Recurrent, batch_shape: int | Sequence[int]) -> None:
        if not isinstance(layer, Recurrent):
            raise TypeError(f"layer: expected a seqjax.nn.Recurrent, got {checks.brief(layer)}")
        if layer.bidirectional:
            raise ValueError("layer: expected one direction, a bidirectional one needs whole ones")
        self.batch_shape: Shape = checks.require_shape("batch_shape", batch_shape, least=1)
        self.layer = layer
        leaves = jax.tree.leaves(self._initial())
        self.carry: nnx.List[Carry] = nnx.List([Carry(leaf) for leaf in leaves])

    def _initial(self) -> PyTree:
        return self.layer.initial_state(self.batch_shape)

    def reset(self) -> None:
        """Goes back to the initial state, before a stream whose first step is no reset."""
        self._keep(self._initial())

    def _keep(self, state: PyTree) -> None:
        for kept, leaf in zip(self.carry, jax.tree.leaves(state), strict=True):
            kept[...] = jax.lax.stop_gradient(leaf).astype(kept[...].dtype)

    def __call__(
        self,
        xs: Array | np.ndarray,
        *,
        stride: int | None = None,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
        **options: Any,
    ) -> Unrolled:
        """Runs the layer over the next window.

        Args:
          xs: `[*batch_shape, T, I]` (`[T, *batch_shape, I]` when the layer is time-major).
          stride: after how many steps the next window begins; T if None.
          lengths: as for the layer.
          mask: as for the layer.
          resets: as for the layer.
          deterministic: as for the layer.
          rngs: as for the layer.
          **options: other arguments of the layer's call, but not `initial_state`.

        Returns:
          `Unrolled(outputs, state)` of the window; its state is that after all T steps.

        Raises:
          TypeError, ValueError: see the layer; another batch shape, or a stride that is not between
            1 and T.
        """
        checks.require_options("Stateful", options, Recurrent.__call__)
        if "initial_state" in options:
            raise ValueError("initial_state: expected none, a Stateful keeps its own")
        axis = 0 if self.layer.time_major else len(self.batch_shape)
        shape, last = np.shape(xs), len(self.batch_shape) + 2
        if len(shape) != last or shape[:axis] + shape[axis + 1 : -1] != self.batch_shape:
            raise ValueError(f"xs: expected the batch shape {self.batch_shape}, got {shape}")
        steps = shape[axis]
        stride = steps if stride is None else checks.require_integer("stride", stride)
        if stride > steps:
            raise ValueError(f"stride: expected at most {steps}, the steps of xs, got {stride}")
        mask = sequences.step_mask(
            self.batch_shape, steps, lengths=lengths, mask=mask, time_major=self.layer.time_major
        )
        state = jax.tree.unflatten(
            jax.tree.structure(self._initial()), [kept[...] for kept in self.carry]
        )
        if stride == steps:
            whole = self.layer(
                xs, mask=mask, resets=resets, initial_state=state, deterministic=deterministic,
                rngs=rngs, **options,
            )  # fmt: skip
            self._keep(whole.state)
            return whole
        # One key for both parts, so that masks which hold for all steps hold for the whole window.
        key = None if rngs is None else noise.dropout_key(rngs)
        parts: list[Any] = []
        for part in (slice(None, stride), slice(stride, None)):
            where = (slice(None),) * axis + (part,)
            outputs, state = self.layer(
                xs[where],
                mask=None if mask is None else mask[where],
                resets=None if resets is None else resets[where],
                initial_state=state,
                deterministic=deterministic,
                rngs=key,
                **options,
            )
            if not parts:
                self._keep(state)
            parts.append(outputs)
        return Unrolled(jax.numpy.concatenate(parts, axis=axis), state)
