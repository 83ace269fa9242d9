"""A layer that keeps its state between calls, for truncated backpropagation through time."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax._elapsed import with_elapsed
from seqjax.nn import _noise as noise
from seqjax.nn._layer import Sequences
from seqjax.nn._recurrent import Recurrent
from seqjax.types import Array, PyTree, Shape, Unrolled

__all__ = ["Carry", "Stateful"]


class Carry(nnx.Variable[Any]):
    """An array of the state that is carried to the next call, through which no gradient flows.

    Example:
      >>> import jax.numpy as jnp
      >>> Carry(jnp.zeros([2, 3])).shape
      (2, 3)
    """


class Stateful(nnx.Module):
    """A layer that keeps its final state as the initial state of the next call.

    Use this layer to train on long streams by truncated backpropagation through time (BPTT). The
    stream is cut into windows, and each call processes one window. The state is carried from one
    window to the next, but the gradient is not.

    - BPTT(k) has consecutive windows of k steps.
    - BPTT(k1, k2) has windows of k2 steps, one of which begins every k1 = `stride` steps (k1 ≤ k2).
      The state after the first k1 steps of a window is carried to the next window.

    `resets` marks the first step of each new document, which may be inside a window. The
    windows of `seqjax.data.stream_windows` have a reset at the first step of the stream, so the
    state that remains from an earlier stream has no effect.

    `seqjax.training` carries the state from one training step to the next, and from one batch of an
    evaluation to the next. Checkpoints of `seqjax.training` contain the state. As all variables of
    Flax, the state is only kept by transformations of Flax, such as `nnx.jit`: under plain
    `jax.jit`, return the module from the function.

    Args:
      layer: a `Recurrent` layer with one direction.
      batch_shape: the sizes of the batch axes of all calls, such as 32 or (32,).

    Attributes:
      layer: the layer.
      carry: the arrays of the state, each a `Carry`.

    Raises:
      TypeError, ValueError: `layer` is not a layer or is bidirectional, or a size is not a positive
        integer.

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
            raise ValueError(
                "layer: expected one direction, got a bidirectional layer, which needs whole "
                "sequences"
            )
        self.batch_shape: Shape = checks.require_shape("batch_shape", batch_shape, least=1)
        self.layer = layer
        leaves = jax.tree.leaves(self._initial())
        self.carry: nnx.List[Carry] = nnx.List([Carry(leaf) for leaf in leaves])

    def _initial(self) -> PyTree:
        return self.layer.initial_state(self.batch_shape)

    def reset(self) -> None:
        """Set the state to the initial state.

        Call this method before a new stream if the first step of the stream has no reset.
        """
        self._keep(self._initial())

    def _keep(self, state: PyTree) -> None:
        for kept, leaf in zip(self.carry, jax.tree.leaves(state), strict=True):
            kept[...] = jax.lax.stop_gradient(leaf).astype(kept[...].dtype)

    def _needs_whole_windows(self, deterministic: bool | None) -> bool:
        """Return whether two parts of a window would not be computed as the whole window is.

        In training, this holds for noise that differs between steps, and for the statistics of a
        batch norm.
        """
        layer = self.layer
        drawn = layer.layers[0].options.zoneout or (layer.dropout and layer.num_layers > 1)
        normed = layer.norm == "batch" and layer.num_layers > 1
        training = not (layer.deterministic if deterministic is None else deterministic)
        return training and bool(drawn or normed)

    def __call__(
        self,
        xs: Array | np.ndarray,
        *,
        stride: int | None = None,
        lengths: Any = None,
        mask: Any = None,
        elapsed: Any = None,
        resets: Any = None,
        return_sequences: bool = True,
        burn_in: int = 0,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
        **options: Any,
    ) -> Unrolled:
        """Run the layer over the next window.

        Args:
          xs: the inputs `[*batch_shape, T, I]`. If the layer is time-major, the inputs are
            `[T, *batch_shape, I]`.
          stride: the number of steps from the start of this window to the start of the next one.
            The default is T.
          lengths: the number of real steps of each sequence, as for the layer.
          mask: True at real steps, as for the layer.
          elapsed: the time since the previous real step, as for the layer.
          resets: True at the first step of a new sequence, as for the layer.
          return_sequences: False for the output at the last real step of the window, as for the
            layer.
          burn_in: the number of steps at the start of the window through which no gradient passes,
            as for the layer.
          deterministic: True for evaluation, as for the layer.
          rngs: the source of randomness, as for the layer.
          **options: other arguments of the layer's call, except `initial_state` and
            `return_all_states`.

        Returns:
          `Unrolled(outputs, state)` of the window. `state` is the state after all T steps.

        Raises:
          TypeError, ValueError: the layer does not accept an argument, the batch axes of `xs`
            differ from `batch_shape`, or the stride is not between 1 and T.
        """
        checks.require_options("Stateful", options, Recurrent.__call__)
        for name in ("initial_state", "return_all_states"):
            if name in options:
                raise ValueError(f"{name}: expected none, since a Stateful keeps its own state")
        cell = self.layer.cell
        xs = with_elapsed(cell, arguments.floating_inputs(cell, xs), elapsed)
        batch_shape, steps = arguments.layout(cell, xs, time_major=self.layer.time_major)
        if batch_shape != self.batch_shape:
            raise ValueError(f"xs: expected the batch shape {self.batch_shape}, got {batch_shape}")
        stride = steps if stride is None else checks.require_integer("stride", stride)
        if stride > steps:
            raise ValueError(f"stride: expected at most {steps}, the steps of xs, got {stride}")
        mask = sequences.step_mask(
            self.batch_shape, steps, lengths=lengths, mask=mask, time_major=self.layer.time_major
        )
        window = Sequences(self.batch_shape, steps, self.layer.time_major, mask, None)
        if resets is not None:
            resets = sequences.require_mask("resets", resets, window.step_shape)
        state = jax.tree.unflatten(
            jax.tree.structure(self._initial()), [kept[...] for kept in self.carry]
        )
        axis = window.axis
        if stride == steps or self._needs_whole_windows(deterministic):
            whole = self.layer(
                xs, mask=mask, resets=resets, initial_state=state,
                return_sequences=return_sequences, burn_in=burn_in, deterministic=deterministic,
                rngs=rngs, return_all_states=stride < steps, **options,
            )  # fmt: skip
            if stride == steps:
                self._keep(whole.state)
                return whole
            after, last = (
                jax.tree.map(lambda a, at=at: jax.numpy.take(a, at, axis=axis), whole.state)
                for at in (stride - 1, steps - 1)
            )
            self._keep(after)
            return Unrolled(whole.outputs, last)
        return_sequences = checks.require_bool("return_sequences", return_sequences)
        burn_in = arguments.checked_burn_in(burn_in, steps, one_way=True, limit="two directions")
        # Both parts use the same key, so that a dropout mask that is the same at all steps is also
        # the same in both parts.
        key = None if rngs is None else noise.dropout_key(rngs)
        parts: list[Any] = []
        for part, constant in (
            (slice(None, stride), min(burn_in, stride)),
            (slice(stride, None), max(burn_in - stride, 0)),
        ):
            where = (slice(None),) * axis + (part,)
            outputs, state = self.layer(
                jax.tree.map(lambda x, where=where: x[where], xs),
                mask=None if mask is None else mask[where],
                resets=None if resets is None else resets[where],
                initial_state=state,
                burn_in=constant,
                deterministic=deterministic,
                rngs=key,
                **options,
            )
            if not parts:
                self._keep(state)
            parts.append(outputs)
        outputs = jax.tree.map(lambda *ys: jax.numpy.concatenate(ys, axis=axis), *parts)
        if not return_sequences:
            outputs = window.picked(outputs, sequences.last_real)
        return Unrolled(outputs, state)
