"""Recurrent layers as Flax NNX modules, with stacks, two directions and regularisation.

The equations are in `seqjax.cells`. The layers hold the parameters and pass them to the cells.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax._elapsed import require_times, with_elapsed
from seqjax._hints import hints
from seqjax.cells._base import Cell, is_shape
from seqjax.kernels import Execution, Kernel, by_scan
from seqjax.nn import _noise as noise
from seqjax.nn._layer import (
    RATES,
    Direction,
    Layer,
    LayerOptions,
    MergeMode,
    Sequences,
)
from seqjax.nn._norm import batch_normed
from seqjax.nn._outside_jit import in_one_program
from seqjax.nn._per_layer import given_params, given_states
from seqjax.nn._steps import fed_back, require_one_direction, step_of_stack
from seqjax.types import Array, PRNGKey, PyTree, Unrolled

__all__ = ["Recurrent"]


class Recurrent(nnx.Module):
    r"""A stack of recurrent layers of any cell, in one or both directions, with regularisation.

    The module is a pytree, which works under `nnx.jit` and `nnx.grad`, and also under plain
    `jax.jit`, `jax.grad` and `jax.vmap`. Only the running averages of a batch norm need `nnx.jit`
    and `nnx.grad` in training: plain JAX loses their changes. The module holds no random stream. If
    a call needs random numbers, pass `rngs` to the call.

    Parameters have readable paths: `layer.layers[0].forward.w_ih`, `layer.layers[1].backward.b`.

    Args:
      cell: the cell of the first layer. The other layers use a copy of the cell with their own
        input size.
      num_layers: the number of layers. Each layer reads the outputs of the previous layer.
      bidirectional: whether each layer also has a direction that starts at the last real step.
      merge_mode: how the outputs of two directions are joined: "concat", "sum", "mean", "mul", or
        "none". If `merge_mode` is "none", the last layer returns both outputs, and all other layers
        use "concat".
      dropout: the dropout rate of the outputs of each layer except the last. Each element is
        dropped independently.
      input_dropout: the dropout rate of the inputs of each layer. The same features are dropped at
        every step.
      recurrent_dropout: the dropout rate of the input of the recurrent product. The same units are
        dropped at every step.
      weight_dropout: the dropout rate of the elements of the recurrent matrices (`w_hh`, `w_hn`,
        `w_hf`). The same elements are dropped at every step and for every sequence. The method is
        called DropConnect (Merity, Keskar, Socher 2018).
      zoneout: the probability that a unit of the state keeps its value at a step.
      norm: the normalisation of the outputs of each layer except the last: "layer", "batch" or
        None. Batch normalisation computes its statistics over the real steps.
      residual: whether each layer adds its inputs to its outputs. The inputs are added only if
        inputs and outputs have the same width and the output is one array.
      learned_initial_state: whether the initial state is a parameter. Before training, the value of
        this parameter is the cell's initial state, which is zero for most cells. A complex state is
        stored as two real parameters, `initial_state_re` and `initial_state_im`.
      time_major: whether the time axis comes first, so that sequences are `[T, ..., I]`.
      params: the parameters, if they are given and not drawn: a list with an entry for each layer.
        An entry is a pytree like the one that the cell's `init` returns. For two directions, the
        entry is `Bidirectional(forward, backward)`.
      dtype: the dtype of the computation, to which parameters and inputs are cast. If `dtype` is
        None, the computation uses the dtype of the inputs.
      param_dtype: the dtype of the parameters.
      execution: the options for running the layers, a `seqjax.Execution`. The planner chooses the
        options that are not set.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key. It is not
        needed if `params` is given and there is no normalisation.

    Attributes:
      layers: a list of `Layer` modules, each with its own parameters.
      deterministic: whether calls run in evaluation mode. `layer.eval()` sets `deterministic` to
        True, and `layer.train()` sets it to False. A new layer is in training mode. If there is
        dropout or zoneout, a call in training mode needs `rngs`.

    Raises:
      TypeError, ValueError: a size, rate or name is not valid, or the cell does not support an
        option. For example, a cell without a recurrent product cannot have recurrent dropout.

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
        params: Sequence[PyTree] | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
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
                "cell: expected a cell with one output array in a stack or with merged directions, "
                f"got {type(cell).__name__} with {cell.output_shape}"
            )
        options = LayerOptions(
            merge_mode, input_dropout, recurrent_dropout, weight_dropout, zoneout, residual
        )
        options.require(cell)
        # The next layer reads one array, so the inner layers join the outputs of two directions.
        inner = (
            dataclasses.replace(options, merge_mode="concat") if merge_mode == "none" else options
        )
        draws = params is None or norm is not None
        streams: Any = noise.streams(rngs, "params") if draws else None
        given = given_params(params, self.num_layers, self.bidirectional)
        param_dtype = self.param_dtype = checks.require_floating_dtype("param_dtype", param_dtype)
        learned = checks.require_bool("learned_initial_state", learned_initial_state)
        direction = functools.partial(
            Direction, learned_initial_state=learned, param_dtype=param_dtype, rngs=streams
        )
        self.layers: nnx.List[Layer] = nnx.List([])
        self.norms: nnx.List[Any] = nnx.List([])
        for index in range(self.num_layers):
            last = index == self.num_layers - 1
            forward, backward = given[index]
            back = direction(cell, params=backward) if self.bidirectional else None
            ahead = direction(cell, params=forward)
            self.layers.append(Layer(options if last else inner, ahead, back))
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
        unused = []
        # Models pass such options to a bare `Recurrent` for any number of layers and directions.
        if self.num_layers == 1 and type(self) is not Recurrent:
            if self.dropout:
                unused.append(
                    "dropout acts between layers, so it does nothing with num_layers=1; use "
                    "input_dropout or recurrent_dropout"
                )
            if self.norm is not None:
                unused.append("norm acts between layers, so it does nothing with num_layers=1")
        if residual and not any(layer.adds_inputs for layer in self.layers):
            unused.append(
                "residual adds inputs to outputs of the same shape, so it does nothing here, where "
                "the shapes differ in every layer"
            )
        for text in unused:
            warnings.warn(f"{type(self).__name__}: {text}", stacklevel=2)

    def _width(self, *, between: bool) -> int:
        """Return the number of features of a layer's merged outputs."""
        features = self.cell.output_shape[-1]
        joined = self.merge_mode == "concat" or (between and self.merge_mode == "none")
        return features * (2 if self.bidirectional and joined else 1)

    @property
    def output_size(self) -> int:
        """The number of features of the outputs.

        With `merge_mode="none"`, `output_size` is the number of features of one direction's
        outputs.
        """
        return self._width(between=False)

    def initial_state(
        self, batch_shape: int | Sequence[int] = (), dtype: Any = None
    ) -> tuple[Any, ...]:
        """Return the state before the first step.

        Args:
          batch_shape: the sizes of the batch axes. If `batch_shape` is an integer, it is the size
            of a single batch axis.
          dtype: the dtype of the state. The default is the layer's `dtype` or, if the layer has no
            `dtype`, its `param_dtype`.

        Returns:
          A tuple with one entry per layer. The entry of a layer with one direction is the state of
          its cell. For two directions, the entry is a pair `Bidirectional(forward, backward)`.
        """
        batch_shape = checks.require_shape("batch_shape", batch_shape)
        dtype = dtype or self.dtype or self.param_dtype
        dtype = checks.require_floating_dtype("dtype", dtype)
        return tuple(layer.initial_state(batch_shape, dtype) for layer in self.layers)

    @hints(
        hx="use initial_state; seqjax.interop.pytorch.load_state converts a pair (h, c)",
        state="use initial_state",
        initial_carry="use initial_state",
        return_carry="a call always returns the state",
        return_state="a call always returns the state",
        sequence_length="use lengths",
        seq_lengths="use lengths",
        segmentation_mask="use mask",
        dones="use resets=seqjax.sequences.resets_from_dones(dones, last_dones)",
        training="use deterministic, which is its opposite",
        train="use deterministic, which is its opposite",
        reverse="use seqjax.unroll(..., reverse=True)",
        time_major="pass it to the constructor",
        timespans="use elapsed",
    )
    def __call__(
        self,
        xs: PyTree,
        *,
        lengths: Any = None,
        mask: Any = None,
        elapsed: Any = None,
        resets: Any = None,
        initial_state: Any = None,
        return_sequences: bool = True,
        burn_in: int = 0,
        return_all_states: bool = False,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
        execution: Execution | None = None,
        implementation: str | Kernel | None = None,
        remat: str | None = None,
        memory_budget: int | None = None,
        unroll: int | None = None,
    ) -> Unrolled:
        """Run the layers over sequences.

        Args:
          xs: the inputs `[..., T, I]` with any number of batch axes. If the layer is time-major,
            the inputs are `[T, ..., I]`.
          lengths: the number of real steps of each sequence, integers of the batch shape. Pass
            either `lengths` or `mask`.
          mask: bool `[..., T]` (time-major: `[T, ...]`), True at real steps.
          elapsed: the time since the previous real step, numbers of at least 0 with the shape of
            `mask`, for cells that read it: `Decay`, `GRUD` or `CfC`. All layers of the stack read
            it. The backward direction reads the time to the next real step. Instead of passing
            `elapsed`, you can pass xs with the time as last feature, `[..., T, I+1]`.
          resets: bool with the shape of `mask`, True at the first step of a new sequence. Both
            directions reset the state at the boundary before the new sequence.
          initial_state: the state before the first step, as `layer.initial_state(batch_shape)` or
            an earlier call returns it. If the entry of a layer is None, the layer starts from its
            own initial state.
          return_sequences: if False, the outputs are one vector per sequence (many-to-one). The
            forward direction returns its output at the last real step, and the backward direction
            returns its output at the first real step, so that each direction has read the whole
            sequence. A residual connection adds the input of the last real step. If a sequence has
            no real step, its output vector is zero.
          burn_in: the number of steps at the start through which no gradient passes. The steps of
            the burn-in compute outputs and states as usual, but derivatives treat both as
            constants. A bidirectional layer has no burn-in.
          return_all_states: whether to return the states after all steps instead of the final
            state. Only the kernel "scan" can return all states, so "auto" chooses "scan".
          deterministic: True for evaluation, False for training. If `deterministic` is None, the
            layer's attribute `deterministic` is used.
          rngs: `nnx.Rngs` with the stream "dropout", or a random key. In training, `rngs` is
            required if there is dropout or zoneout.
          execution: the options for running the call, a `seqjax.Execution`. The default is the
            layer's `execution`.
          implementation: replaces `execution.implementation`. See `seqjax.unroll`.
          remat: replaces `execution.remat`. See `seqjax.unroll`.
          memory_budget: replaces `execution.memory_budget`. See `seqjax.unroll`. The budget applies
            to each direction of each layer separately.
          unroll: replaces `execution.unroll`. See `seqjax.unroll`.

        Returns:
          `Unrolled(outputs, state)`. The outputs are `[..., T, width]` and zero at masked steps. If
          `return_sequences` is False, the outputs are `[..., width]`. With `merge_mode="none"`, the
          outputs are a pair of arrays, one for each direction. The final state is a tuple with one
          entry per layer, like `initial_state`. With `return_all_states`, the arrays of the state
          also have a time axis, at the same position as in the outputs, and entry t is the state
          after step t.

        Raises:
          TypeError, ValueError: an argument is not valid for `seqjax.unroll`, or `rngs` is missing
            in training.
        """
        given = arguments.floating_inputs(self.cell, xs)
        xs = with_elapsed(self.cell, self._cast(given), elapsed)
        require_times(
            self.cell, xs, elapsed=elapsed, given=given, lengths=lengths, mask=mask,
            time_major=self.time_major,
        )  # fmt: skip
        if lengths is not None and not checks.is_traced(lengths):
            # Check the values here: inside the program, which makes the mask, they are traced.
            layout = arguments.layout(self.cell, xs, time_major=self.time_major)
            lengths = sequences.require_lengths(lengths, *layout)
        execution = Execution.of(
            execution or self.execution, implementation=implementation, remat=remat,
            memory_budget=memory_budget, unroll=unroll,
        )  # fmt: skip
        if deterministic is None:
            deterministic = self.deterministic
        checks.require_bool("deterministic", deterministic)
        arrays = (xs, lengths, mask, resets, initial_state)
        options: dict[str, Any] = {
            "return_sequences": return_sequences, "burn_in": burn_in,
            "return_all_states": return_all_states, "deterministic": deterministic,
            "execution": execution,
        }  # fmt: skip
        ran: Unrolled
        if rngs is None and (deterministic or self.norm != "batch"):
            ran = in_one_program(Recurrent._run, self, arrays, **options)
        else:  # random streams and the averages of batch normalisation change in the call
            ran = Recurrent._run(self, *arrays, **options, rngs=rngs)
        return ran

    def _cast(self, xs: PyTree) -> PyTree:
        """Return inputs in the dtype of the computation."""
        return xs if self.dtype is None else jax.tree.map(lambda x: x.astype(self.dtype), xs)

    def _run(
        self,
        xs: PyTree,
        lengths: Any,
        mask: Any,
        resets: Any,
        initial_state: Any,
        *,
        return_sequences: bool,
        burn_in: int,
        return_all_states: bool,
        deterministic: bool,
        execution: Execution,
        rngs: noise.Rngs | None = None,
    ) -> Unrolled:
        """Run the layers; `__call__` explains the arguments."""
        batch_shape, steps = arguments.layout(self.cell, xs, time_major=self.time_major)
        mask = sequences.step_mask(
            batch_shape, steps, lengths=lengths, mask=mask, time_major=self.time_major
        )
        burn_in = arguments.checked_burn_in(
            burn_in, steps, one_way=not self.bidirectional, limit="a bidirectional layer"
        )
        if checks.require_bool("return_all_states", return_all_states):
            execution = by_scan(execution, "return_all_states", with_states=True)
        elapsed = None
        if self.cell.reads_elapsed:
            xs, elapsed = xs[..., :-1], xs[..., -1]
        call = Sequences(
            batch_shape, steps, self.time_major, mask, None, execution, burn_in,
            return_all_states, elapsed,
        )  # fmt: skip
        if resets is not None:
            resets = sequences.require_mask("resets", resets, call.step_shape)
            call = dataclasses.replace(call, resets=resets)
        checks.require_bool("return_sequences", return_sequences)
        keys = self._keys(deterministic, rngs)
        states = given_states(initial_state, self.num_layers, self.bidirectional)

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
        """Apply normalisation and dropout to the outputs of a layer, for the next layer."""
        if self.norm is not None and xs.size:
            norm = self.norms[index]
            batch = self.norm == "batch"
            normed = batch_normed(norm, xs, mask, deterministic) if batch else norm(xs)
            xs = normed.astype(xs.dtype)
        return noise.dropout(key, self.dropout, xs) if self.dropout and key is not None else xs

    def step(
        self, x_t: PyTree, state: Any = None, *, elapsed: Any = None, resets: Any = None
    ) -> Unrolled:
        """Run one step in evaluation mode, as a call on a sequence of one step does.

        Args:
          x_t: the input of the step, `[..., I]`.
          state: the state before the step, as `layer.initial_state(batch_shape)` or the previous
            step returns it. If `state` is None, the initial state is used.
          elapsed: the time since the previous step, numbers `[...]`, for cells that read it. You
            can also pass it as the last feature of x_t.
          resets: bool `[...]`, True where x_t is the first input of a new sequence or episode. For
            elements of the batch with a reset, the initial state replaces `state`.

        Returns:
          `Unrolled(output, state)`: the output `[..., width]`, and the state after the step.

        Raises:
          ValueError: the layer is bidirectional. A bidirectional layer needs whole sequences.

        Example:
          >>> from seqjax import cells
          >>> layer = Recurrent(cells.GRU(3, 5), rngs=nnx.Rngs(0))
          >>> output, state = layer.step(jnp.ones([2, 3]))
          >>> output, state = layer.step(jnp.ones([2, 3]), state)
          >>> output.shape
          (2, 5)
        """
        require_one_direction(self)
        given = x_t
        if self.cell.reads_elapsed:
            given = arguments.as_floating("x_t", x_t)
            x_t = self._cast(given)
        x_t = with_elapsed(self.cell, x_t, elapsed, name="x_t", step=True)
        require_times(self.cell, x_t, elapsed=elapsed, given=given, step=True)
        ran: Unrolled = in_one_program(step_of_stack, self, (x_t, state, resets))
        return ran

    def one_to_many(
        self,
        x: Array | np.ndarray,
        steps: int,
        *,
        feedback: Callable[[Array], Array] | None = None,
        initial_state: Any = None,
        **options: Any,
    ) -> Unrolled:
        """Run the layer from a single input.

        Without `feedback`, the input is repeated at every step. With `feedback`, each later input
        is computed from the previous output.

        Args:
          x: the first input, `[..., I]`.
          steps: the number of steps, T.
          feedback: a function that computes the next input `[..., I]` from an output
            `[..., width]`. If `feedback` is given, the layer runs in evaluation mode.
          initial_state: the state before the first step, as for a call of the layer.
          options: other arguments of a call of the layer, such as `lengths`. If `feedback` is
            given, no other arguments are allowed.

        Returns:
          `Unrolled(outputs, state)` with outputs `[..., T, width]` (time-major: `[T, ..., width]`).

        Raises:
          TypeError, ValueError: `steps` is not a positive integer, `feedback` is given for a
            bidirectional layer, or `feedback` returns an array whose shape is not that of `x`.

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
        return fed_back(self, x, steps, feedback, initial_state)

    def _keys(self, deterministic: bool, rngs: noise.Rngs | None) -> list[PRNGKey | None]:
        """Return a random key for each layer, or None for each layer if no keys are needed."""
        none: list[PRNGKey | None] = [None] * self.num_layers
        if deterministic:
            return none
        active = ["dropout"] if self.dropout and self.num_layers > 1 else []
        active += [name for name in RATES if getattr(self.layers[0].options, name)]
        key = noise.training_key(active, deterministic, rngs)
        return none if key is None else list(jax.random.split(key, self.num_layers))
