"""Recurrent layers as Flax NNX modules: stacks, directions and regularisation over `unroll`.

No equation stands here: parameters go to the cells' functions through `seqjax.unroll`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax.cells._base import Cell, is_shape
from seqjax.kernels import Execution, Kernel
from seqjax.nn import _noise as noise
from seqjax.nn._layer import RATES, Direction, Layer, LayerOptions, MergeMode, Sequences
from seqjax.nn._norm import batch_normed
from seqjax.types import Array, PRNGKey, PyTree, Shape, Unrolled

__all__ = ["Recurrent"]


class Recurrent(nnx.Module):
    r"""Any cell as a layer: stacked, in one or both directions, regularised.

    The modules are pytrees: they work under `nnx.jit` and `nnx.grad`, and under plain `jax.jit`,
    `jax.grad` and `jax.vmap`. They hold no random stream; a call that needs randomness is given it.

    Parameters have readable paths: `layer.layers[0].forward.w_ih`, `layer.layers[1].backward.b`.

    Args:
      cell: the first layer's cell; further layers have the same with their input size.
      num_layers: layers, each reading the outputs of the one before.
      bidirectional: whether each layer also has a direction that starts at the last real step.
      merge_mode: how the directions' outputs are joined: "concat", "sum", "mean", "mul", or "none"
        for the pair (which layers in between join by "concat").
      dropout: rate on the outputs of each layer but the last, each element on its own.
      input_dropout: rate on the inputs of each layer, the same features at every step.
      recurrent_dropout: rate on what enters the recurrent product, the same units at every step.
      weight_dropout: rate on the elements of the recurrent matrices (`w_hh`, `w_hn`, `w_hf`), the
        same at every step and for every sequence (Merity, Keskar, Socher 2018: DropConnect).
      zoneout: the probability that a unit of the state keeps its value at a step.
      norm: "layer" or "batch" normalisation of the outputs of each layer but the last; batch
        statistics are over real steps.
      residual: whether each layer whose outputs are as wide as its inputs adds the inputs to them
        (not to a pair).
      learned_initial_state: whether the initial state is a parameter (starts at zero).
      time_major: whether sequences are `[T, ..., I]`.
      dtype: the dtype to compute in; that of the inputs if None. Parameters are cast to it.
      param_dtype: the dtype of the parameters.
      execution: how its calls are run, a `seqjax.Execution`; the planner chooses the rest.
      rngs: draws the parameters: `nnx.Rngs(0)`, or a random key.

    Attributes:
      layers: the parameters, one `Layer` a layer.
      deterministic: True in evaluation; set by `layer.eval()` and `layer.train()`. A new layer is
        in training mode, which asks for `rngs` in a call if there is anything random.

    Raises:
      TypeError, ValueError: a size, rate or name that is not what it must be; recurrent dropout
        for a cell without a recurrent product.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from seqjax import cells, nn
      >>> layer = nn.Recurrent(cells.MGU(3, 5), num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))
      >>> outputs, state = layer(jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4]))
      >>> outputs.shape, len(state), state[1].backward.shape
      ((2, 7, 10), 2, (2, 5))
    """

    def __init__(
        self,
        cell: Cell[Any, Any],
        *,
        num_layers: int = 1,
        bidirectional: bool = False,
        merge_mode: MergeMode = "concat",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float = 0.0,
        norm: Literal["layer", "batch"] | None = None,
        residual: bool = False,
        learned_initial_state: bool = False,
        time_major: bool = False,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: nnx.Rngs | jax.Array,
    ) -> None:
        arguments.check_cell(cell)
        self.cell = cell
        self.num_layers = checks.require_integer("num_layers", num_layers)
        self.bidirectional = checks.require_bool("bidirectional", bidirectional)
        self.merge_mode: MergeMode = merge_mode
        self.dropout = checks.require_rate("dropout", dropout)
        self.norm = norm if norm is None else checks.require_name("norm", norm, ("layer", "batch"))
        self.time_major = checks.require_bool("time_major", time_major)
        self.execution = Execution.of(execution)
        self.dtype = None if dtype is None else checks.require_floating_dtype("dtype", dtype)
        self.deterministic = False
        if not is_shape(cell.output_shape) and (
            num_layers > 1 or (bidirectional and merge_mode != "none")
        ):
            raise ValueError(
                f"cell: expected outputs of one array in a stack or to be merged, got "
                f"{type(cell).__name__} with {cell.output_shape}"
            )
        options = LayerOptions(
            merge_mode, input_dropout, recurrent_dropout, weight_dropout, zoneout, residual
        )
        options.require(cell)
        # What a pair of directions gives to the next layer can only be one array.
        inner = (
            dataclasses.replace(options, merge_mode="concat") if merge_mode == "none" else options
        )
        streams = noise.streams(rngs, "params")
        param_dtype = self.param_dtype = checks.require_floating_dtype("param_dtype", param_dtype)
        learned = checks.require_bool("learned_initial_state", learned_initial_state)
        direction = functools.partial(
            Direction, learned_initial_state=learned, param_dtype=param_dtype, rngs=streams
        )
        self.layers: nnx.List[Layer] = nnx.List([])
        self.norms: nnx.List[Any] = nnx.List([])
        for index in range(self.num_layers):
            last = index == self.num_layers - 1
            backward = direction(cell) if self.bidirectional else None
            self.layers.append(Layer(options if last else inner, direction(cell), backward))
            if not last:
                width = self._width(between=True)
                cell = cell.stacked_on(width)
                if not is_shape(cell.input_shape):
                    raise ValueError(
                        f"num_layers: expected 1 for {type(cell).__name__}, whose inputs are "
                        f"{cell.input_shape} and not the outputs of a layer, got {num_layers}"
                    )
                if self.norm is not None:
                    kind = nnx.LayerNorm if self.norm == "layer" else nnx.BatchNorm
                    self.norms.append(
                        kind(width, dtype=self.dtype, param_dtype=param_dtype, rngs=streams)
                    )

    def _width(self, *, between: bool) -> int:
        """Features of a layer's merged outputs."""
        features = self.cell.output_shape[-1]
        joined = self.merge_mode == "concat" or (between and self.merge_mode == "none")
        return features * (2 if self.bidirectional and joined else 1)

    @property
    def output_size(self) -> int:
        """Features of the outputs; of each direction's with `merge_mode="none"`."""
        return self._width(between=False)

    def initial_state(
        self, batch_shape: int | Sequence[int] = (), dtype: Any = None
    ) -> tuple[Any, ...]:
        """The state before the first step: a tuple with one entry a layer.

        Args:
          batch_shape: the batch axes; an integer is one axis.
          dtype: of the state; the layer's `dtype`, or else its `param_dtype`, if not given.

        Returns:
          For each layer the cell's state, `Bidirectional(forward, backward)` of two if the layer
          has both directions.
        """
        batch_shape = checks.require_shape("batch_shape", batch_shape)
        dtype = dtype or self.dtype or self.param_dtype
        dtype = checks.require_floating_dtype("dtype", dtype)
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    def __call__(
        self,
        xs: PyTree,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        initial_state: Any = None,
        return_sequences: bool = True,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
        execution: Execution | None = None,
        implementation: str | Kernel | None = None,
        remat: str | None = None,
        memory_budget: int | None = None,
        unroll: int | None = None,
    ) -> Unrolled:
        """Runs the layers over sequences.

        Args:
          xs: `[..., T, I]` (`[T, ..., I]` when time-major), any number of batch axes.
          lengths: integers of the batch shape; or
          mask: bool `[..., T]` (`[T, ...]` when time-major), True at real steps.
          resets: bool, shaped like `mask`: True where a new sequence starts. The forward direction
            starts anew before such a step, the backward direction after it.
          initial_state: as from `layer.initial_state(batch_shape)` or returned by an earlier call;
            a layer's entry may be None, for its own initial state.
          return_sequences: if False, the outputs are one vector a sequence (many-to-one): of the
            last real step, and of the first real one for the backward direction, where each has
            seen the whole sequence; a residual connection adds the last real step. Zeros for a
            sequence without real steps.
          deterministic: True for evaluation, False for training; the layer's own if None.
          rngs: `nnx.Rngs` (stream "dropout") or a random key; needed in training if there is any
            dropout or zoneout.
          execution: how to run it, a `seqjax.Execution`; the layer's own if None.
          implementation: a field of `execution` as a keyword, see `seqjax.unroll`.
          remat: the same.
          memory_budget: the same; of each layer and direction.
          unroll: the same.

        Returns:
          `Unrolled(outputs, state)`: outputs `[..., T, width]`, zero at masked steps (a pair with
          `merge_mode="none"`), or `[..., width]` without the time axis; and the final state, a
          tuple with one entry a layer, like `initial_state`.

        Raises:
          TypeError, ValueError: see `seqjax.unroll`; a missing `rngs` in training.
        """
        xs = arguments.floating_inputs(self.cell, xs)
        if self.dtype is not None:
            xs = jax.tree.map(lambda x: x.astype(self.dtype), xs)
        batch_shape, steps = arguments.layout(self.cell, xs, time_major=self.time_major)
        mask = sequences.step_mask(
            batch_shape, steps, lengths=lengths, mask=mask, time_major=self.time_major
        )
        execution = Execution.of(
            execution or self.execution, implementation=implementation, remat=remat,
            memory_budget=memory_budget, unroll=unroll,
        )  # fmt: skip
        call = Sequences(batch_shape, steps, self.time_major, mask, None, execution)
        if resets is not None:
            resets = sequences.require_mask("resets", resets, call.step_shape)
            call = dataclasses.replace(call, resets=resets)
        if deterministic is None:
            deterministic = self.deterministic
        checks.require_bool("deterministic", deterministic)
        checks.require_bool("return_sequences", return_sequences)
        keys = self._keys(deterministic, rngs)
        states = self._states(initial_state)

        finals = []
        for index, (layer, state, key) in enumerate(zip(self.layers, states, keys, strict=True)):
            last = index == self.num_layers - 1
            key_layer, key_dropout = (None, None) if key is None else jax.random.split(key)
            ends_only = last and not return_sequences
            xs, final = layer(xs, state, call, ends_only=ends_only, key=key_layer)
            finals.append(final)
            if not last:
                xs = self._between(index, xs, mask, key_dropout, deterministic)
        return Unrolled(xs, tuple(finals))

    def _between(
        self, index: int, xs: Array, mask: Array | None, key: PRNGKey | None, deterministic: bool
    ) -> Array:
        """Return a layer's outputs as the next one gets them: normalised, with dropout."""
        if self.norm is not None and xs.size:
            norm = self.norms[index]
            batch = self.norm == "batch"
            normed = batch_normed(norm, xs, mask, deterministic) if batch else norm(xs)
            xs = normed.astype(xs.dtype)
        return noise.dropout(key, self.dropout, xs) if self.dropout and key is not None else xs

    def step(self, x_t: PyTree, state: Any = None) -> Unrolled:
        """One step in evaluation mode: what a call gives for a sequence of this one input.

        Args:
          x_t: `[..., I]`.
          state: as from `layer.initial_state(batch_shape)` or the step before; the initial state
            if None.

        Returns:
          `Unrolled(output, state)`, the output `[..., width]`.

        Raises:
          ValueError: a bidirectional layer, which needs whole sequences.

        Example:
          >>> from seqjax import cells
          >>> layer = Recurrent(cells.GRU(3, 5), rngs=nnx.Rngs(0))
          >>> output, state = layer.step(jnp.ones([2, 3]))
          >>> output, state = layer.step(jnp.ones([2, 3]), state)
          >>> output.shape
          (2, 5)
        """
        if self.bidirectional:
            raise ValueError("step: a bidirectional layer needs whole sequences; call it instead")

        def lifted(x: Any, shape: Shape) -> Array:
            x = arguments.as_floating("x_t", x)
            if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
                raise ValueError(f"x_t: expected {arguments.in_words('...', shape)}, got {x.shape}")
            return jnp.expand_dims(x, 0 if self.time_major else x.ndim - len(shape))

        xs = jax.tree.map(lifted, x_t, self.cell.input_shape)
        try:
            outputs, state = self(xs, initial_state=state, deterministic=True)
        except ValueError:
            self._check_batch_axes(x_t, state)
            raise
        axis = 0 if self.time_major else len(self._batch_shape(x_t))
        return Unrolled(jax.tree.map(lambda y: y.squeeze(axis), outputs), state)

    def _check_batch_axes(self, x_t: PyTree, state: Any) -> None:
        """Raise if a step's input and the state have different batch axes."""
        own = self.initial_state(())
        if state is None or not arguments.same_structure(state, own):
            return
        found = {
            np.shape(leaf)[: np.ndim(leaf) - like.ndim]
            for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(own), strict=True)
        }
        expected, batch_shape = found.pop(), self._batch_shape(x_t)
        if found or expected in ((), batch_shape):
            return
        hint = "; call the layer to run whole sequences" if len(batch_shape) > len(expected) else ""
        raise ValueError(
            f"x_t: expected the batch shape of the state, {expected}, got {batch_shape} in "
            f"{checks.brief(x_t)}{hint}"
        )

    def _batch_shape(self, x_t: PyTree) -> Shape:
        """The batch axes of one step's input."""
        ranks = jax.tree.map(lambda x, shape: np.ndim(x) - len(shape), x_t, self.cell.input_shape)
        return np.shape(jax.tree.leaves(x_t)[0])[: jax.tree.leaves(ranks)[0]]

    def one_to_many(
        self,
        x: Array | np.ndarray,
        steps: int,
        *,
        feedback: Callable[[Array], Array] | None = None,
        initial_state: Any = None,
        **options: Any,
    ) -> Unrolled:
        """A sequence from one input, which is repeated or followed by the layer's own outputs.

        Args:
          x: `[..., I]`.
          steps: T.
          feedback: makes the next input `[..., I]` of an output `[..., width]`; if None, `x` is the
            input of every step. With it the layer runs in evaluation mode.
          initial_state: as in a call.
          options: of a call, such as `lengths`, where nothing is fed back.

        Returns:
          `Unrolled(outputs, state)`, outputs `[..., T, width]` (`[T, ...]` when time-major).

        Raises:
          TypeError, ValueError: steps that are not positive; feedback in both directions.

        Example:
          >>> from seqjax import cells
          >>> layer = Recurrent(cells.GRU(4, 4), rngs=nnx.Rngs(0))
          >>> layer.one_to_many(jnp.ones([2, 4]), 6).outputs.shape
          (2, 6, 4)
          >>> layer.one_to_many(jnp.ones([2, 4]), 6, feedback=lambda y: y).outputs.shape
          (2, 6, 4)
        """
        checks.require_options("one_to_many", options, Recurrent.__call__)
        x = arguments.as_floating("x", x)
        steps = checks.require_integer("steps", steps)
        if feedback is None:
            axis = 0 if self.time_major else x.ndim - len(self.cell.input_shape)
            xs = jnp.repeat(jnp.expand_dims(x, axis), steps, axis=axis)
            return self(xs, initial_state=initial_state, **options)
        if options:
            raise ValueError(
                f"feedback: expected no further options with it, got {sorted(options)}"
            )
        if not callable(feedback):
            raise TypeError(f"feedback: expected a function, got {checks.brief(feedback)}")
        batch_shape = self._batch_shape(x)
        if initial_state is None:
            initial_state = self.initial_state(batch_shape, self.dtype or x.dtype)

        def one(carry: Any, _: None) -> Any:
            x_t, state = carry
            output, state = self.step(x_t, state)
            following = feedback(output)
            if np.shape(following) != x_t.shape:
                raise ValueError(
                    f"feedback: expected it to make an input of shape {x_t.shape}, "
                    f"got {checks.brief(following)}"
                )
            return (following.astype(x_t.dtype), state), output

        (_, state), outputs = jax.lax.scan(one, (x, initial_state), length=steps)
        if not self.time_major:
            outputs = sequences.to_batch_major(outputs, len(batch_shape))
        return Unrolled(outputs, state)

    def _keys(self, deterministic: bool, rngs: noise.Rngs | None) -> list[PRNGKey | None]:
        """A key for each layer; None where nothing is random."""
        active = ["dropout"] if self.dropout and self.num_layers > 1 else []
        active += [name for name in RATES if getattr(self.layers[0].options, name)]
        if deterministic or not active:
            return [None] * self.num_layers
        if rngs is None:
            raise ValueError(
                f"rngs: expected nnx.Rngs or a random key in training with {', '.join(active)}, "
                "got None; call layer.eval() or pass deterministic=True for evaluation"
            )
        return list(jax.random.split(noise.dropout_key(rngs), self.num_layers))

    def _states(self, initial_state: Any) -> tuple[Any, ...]:
        """The initial state of each layer, its structure checked; None for the layer's own."""
        if initial_state is None:
            return (None,) * self.num_layers
        if not isinstance(initial_state, (tuple, list)) or len(initial_state) != self.num_layers:
            raise ValueError(
                f"initial_state: expected a tuple of {self.num_layers} states, one a layer, "
                f"got {jax.tree.map(jnp.shape, initial_state)}"
            )
        for state in initial_state:
            if state is None or not self.bidirectional:
                continue
            if not isinstance(state, tuple) or len(state) != 2:
                raise ValueError(
                    "initial_state: expected Bidirectional(forward, backward) for each layer, "
                    f"got {jax.tree.map(jnp.shape, state)}"
                )
        return tuple(initial_state)
