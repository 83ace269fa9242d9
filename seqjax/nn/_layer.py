"""One layer of a stack, with the parameters of one or two directions."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import _elapsed as times
from seqjax import checks, sequences
from seqjax._arguments import batched_state, checked_params, holds, param_specs
from seqjax.cells._base import Cell, cast, compute_dtype, flat_roles, is_shape
from seqjax.kernels import Execution, Plan, Problem, make_plan, run
from seqjax.nn import _noise as noise
from seqjax.nn._parameters import Names, Parameters, path_name
from seqjax.types import Array, PRNGKey, PyTree, Shape, Unrolled

__all__ = [
    "Bidirectional",
    "Direction",
    "Layer",
    "LayerOptions",
    "MERGE_MODES",
    "MergeMode",
    "RATES",
    "Sequences",
    "merge",
    "recurrent_matrices",
]

MergeMode: TypeAlias = Literal["concat", "sum", "mean", "mul", "none"]
MERGE_MODES: tuple[MergeMode, ...] = ("concat", "sum", "mean", "mul", "none")
# The names that recurrent matrices have in the parameters of cells.
RECURRENT = ("w_hh", "w_hn", "w_hf")
# The options of a layer that are rates. If one is above 0, training needs random numbers.
RATES = ("input_dropout", "recurrent_dropout", "weight_dropout", "zoneout")


class Bidirectional(NamedTuple):
    """The states of two directions or, if `merge_mode="none"`, their outputs.

    Attributes:
      forward: the state or output of the direction that starts at the first step.
      backward: the state or output of the direction that starts at the last real step.
    """

    forward: Any
    backward: Any


def merge(mode: MergeMode, forward: Array, backward: Array) -> Any:
    """Join the outputs of two directions.

    Args:
      mode: how to join the outputs. "concat" joins the outputs along the features. "sum", "mean"
        and "mul" combine the outputs element by element. "none" returns both outputs.
      forward: the outputs `[..., H]` of the forward direction.
      backward: the outputs `[..., H]` of the backward direction.

    Returns:
      The joined outputs: `[..., 2H]` for "concat", `Bidirectional` for "none", else `[..., H]`.

    Example:
      >>> merge("mean", jnp.array([1.0]), jnp.array([3.0])).tolist()
      [2.0]
    """
    match mode:
        case "concat":
            return jnp.concatenate([forward, backward], axis=-1)
        case "sum":
            return forward + backward
        case "mean":
            return (forward + backward) / 2
        case "mul":
            return forward * backward
        case _:
            return Bidirectional(forward, backward)


# Outside of `jax.jit`, a compiled function starts faster than an operation.
_merged = jax.jit(merge, static_argnums=0)


class Direction(Parameters):
    """A module with the parameters of one cell. Each array of the parameters is an `nnx.Param`.

    Args:
      cell: the cell.
      learned_initial_state: whether the initial state is also a parameter, named `initial_state`.
        If the state has several arrays, the parameters are named `initial_state_h` and so on.
      params: the parameters, if they are given and not drawn.
      param_dtype: the dtype of all parameters.
      rngs: the source of randomness for the parameters, whose stream "params" is used.

    Example:
      >>> from seqjax.cells import GRU
      >>> direction = Direction(GRU(3, 5), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> direction.w_hh.shape
      (5, 15)
    """

    def __init__(
        self,
        cell: Cell[Any, Any],
        *,
        learned_initial_state: bool = False,
        params: PyTree | None = None,
        param_dtype: Any,
        rngs: nnx.Rngs | None,
    ) -> None:
        self.cell = cell
        if params is None:
            params = cell.init(noise.streams(rngs, "params").params(), param_dtype)
        else:
            params = cast(checked_params(cell, params), param_dtype)
        self._names, self._structure = self._store("", params)
        self._state_names: tuple[Names, ...] = ()
        if learned_initial_state:
            zeros = cell.initial_state((), param_dtype)
            learned = [role.learned for role in flat_roles(cell.state_roles())]
            self._state_names, _ = self._store("initial_state", zeros, learned)

    @property
    def params(self) -> PyTree:
        """The parameters in the structure that `cell.init` returns."""
        return self._restored(self._names, self._structure)

    @property
    def learns_its_state(self) -> bool:
        """A bool that is True if the initial state is a parameter."""
        return bool(self._state_names)

    def start(self, batch_shape: Shape, dtype: Any) -> PyTree:
        """Return the initial state: the learned one if there is one, else the cell's own."""
        state = self.cell.initial_state(batch_shape, dtype)
        if not self._state_names:
            return state
        leaves, structure = jax.tree.flatten(state)
        for index, names in enumerate(self._state_names):
            if names:
                leaf = self._leaf(names).astype(leaves[index].dtype)
                leaves[index] = jnp.broadcast_to(leaf, leaves[index].shape)
        return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class Sequences:
    """The properties of the sequences of one call, which all layers of a stack read.

    Attributes:
      batch_shape: the sizes of the batch axes.
      steps: the number of time steps, T.
      time_major: whether the time axis is the first axis.
      mask: bool of shape `step_shape`, True at real steps. If all steps are real, `mask` is None.
      resets: bool of shape `step_shape`, True at the first step of a sequence. If there are no
        resets, `resets` is None.
      execution: the options for running the layers.
      burn_in: the number of steps at the start through which no gradient passes.
      all_states: whether to return the states after all steps instead of the final states. If
        `all_states` is True, the kernel of `execution` must return the states after all steps.
      elapsed: the time since the previous step, of shape `step_shape`; None if the cells do not
        read it.

    Example:
      >>> call = Sequences((2,), 3, False, None, jnp.array([[0, 1, 0], [0, 0, 1]], bool))
      >>> call.ends().astype(int).tolist()
      [[1, 0, 0], [0, 1, 0]]
    """

    batch_shape: Shape
    steps: int
    time_major: bool
    mask: Array | None
    resets: Array | None
    execution: Execution = dataclasses.field(default_factory=Execution)
    burn_in: int = 0
    all_states: bool = False
    elapsed: Array | None = None

    @property
    def axis(self) -> int:
        """The position of the time axis."""
        return 0 if self.time_major else len(self.batch_shape)

    def plan(self, cell: Cell[Any, Any], xs: PyTree) -> Plan:
        """Return the plan for running a cell over these sequences."""
        return make_plan(cell, self.batch_shape, self.steps, compute_dtype(xs), self.execution)

    @property
    def step_shape(self) -> Shape:
        """The shape of a mask: `(T, *batch_shape)` if time-major, else `(*batch_shape, T)`."""
        batch, steps = self.batch_shape, self.steps
        return (steps, *batch) if self.time_major else (*batch, steps)

    def ends(self) -> Array | None:
        """Return the resets of the backward direction: True at the last step before a reset."""
        if self.resets is None:
            return None
        following = jnp.moveaxis(self.resets, self.axis, 0)[1:]
        following = jnp.concatenate([following, jnp.zeros((1, *self.batch_shape), bool)])
        return jnp.moveaxis(following[: self.steps], 0, self.axis)

    def with_elapsed(self, xs: PyTree, *, reverse: bool) -> PyTree:
        """Return the inputs of a direction, with the elapsed time if the cells read it."""
        if self.elapsed is None:
            return xs
        xs = times.join(xs, self.elapsed)
        if not reverse:
            return xs
        return times.turned(xs, mask=self.mask, resets=self.ends(), axis=self.axis)

    def zero_masked(self, xs: Array) -> Array:
        """Return xs with zeros at masked steps."""
        return xs if self.mask is None else sequences.zero_masked(xs, mask=self.mask)

    def without_gradient(self, xs: PyTree) -> PyTree:
        """Return xs with no gradient through the steps of the burn-in."""
        if not self.burn_in:
            return xs
        steps = jnp.arange(self.steps) < self.burn_in

        def one(x: Array) -> Array:
            constant = steps.reshape(-1, *[1] * (x.ndim - self.axis - 1))
            return jnp.where(constant, jax.lax.stop_gradient(x), x)

        return jax.tree.map(one, xs)

    def picked(self, xs: PyTree, pick: Callable[..., Array]) -> PyTree:
        """Return one step of each sequence, which is its last or its first real step.

        The function `pick` is `sequences.last_real` or `sequences.first_real`.
        """
        mask = jnp.ones(self.step_shape, bool) if self.mask is None else self.mask
        if self.time_major:
            xs, mask = sequences.to_batch_major((xs, mask), len(self.batch_shape))
        return jax.tree.map(lambda x: pick(x, mask=mask), xs)


@dataclasses.dataclass(frozen=True)
class LayerOptions:
    """The options of a layer. `Recurrent` explains them in detail.

    Attributes:
      merge_mode: how the outputs of two directions are joined.
      input_dropout: the dropout rate of the inputs.
      recurrent_dropout: the dropout rate of the inputs of the recurrent product.
      weight_dropout: the dropout rate of the elements of the recurrent matrices.
      zoneout: the probability that a unit of the state keeps its value.
      residual: whether the inputs are added to the outputs if both have the same width.

    Example:
      >>> LayerOptions(zoneout=0.1).zoneout
      0.1
    """

    merge_mode: MergeMode = "concat"
    input_dropout: float = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    zoneout: float = 0.0
    residual: bool = False

    def __post_init__(self) -> None:
        mode: Any = self.merge_mode
        if mode is None or mode == "ave":  # Keras's names
            ours = "none" if mode is None else "mean"
            raise ValueError(
                f"merge_mode: expected one of {', '.join(MERGE_MODES)}; got {mode!r}, "
                f"which is {ours!r} here"
            )
        checks.require_name("merge_mode", mode, MERGE_MODES)
        for name in RATES:
            checks.require_rate(name, getattr(self, name))
        checks.require_bool("residual", self.residual)

    def require(self, cell: Cell[Any, Any]) -> None:
        """Raise an error if the cell does not support the requested dropout.

        Raises:
          ValueError: recurrent dropout is requested and the cell has no recurrent product, or
            weight dropout is requested and the cell has no recurrent matrix of a known name.
        """
        name = type(cell).__name__
        if self.recurrent_dropout and cell.recurrent_input(cell.initial_state()) is None:
            raise ValueError(
                f"recurrent_dropout: expected 0 for {name}, which has no recurrent product, "
                f"got {self.recurrent_dropout}"
            )
        if self.weight_dropout and not recurrent_matrices(param_specs(cell)):
            raise ValueError(
                f"weight_dropout: expected 0 for {name}, which has no recurrent matrix named "
                f"{' or '.join(RECURRENT)}, got {self.weight_dropout}"
            )


def recurrent_matrices(params: PyTree) -> list[Any]:
    """Return the paths of the parameters that have the name of a recurrent matrix.

    Example:
      >>> from seqjax.cells import GRU
      >>> len(recurrent_matrices(GRU(3, 5).init(jax.random.key(0))))
      1
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [path for path, _ in leaves if path_name(path).endswith(RECURRENT)]


def _weights_dropped(params: PyTree, rate: float, key: PRNGKey) -> PyTree:
    """Drop elements of the recurrent matrices. All steps of a call drop the same elements."""
    paths = recurrent_matrices(params)
    keys = iter(jax.random.split(key, len(paths)))

    def one(path: Any, leaf: Array) -> Array:
        return noise.dropout(next(keys), rate, leaf) if path in paths else leaf

    return jax.tree_util.tree_map_with_path(one, params)


class Layer(nnx.Module):
    """One layer of a stack. If the layer has two directions, it joins their outputs.

    Args:
      options: the options of the layer.
      forward: the direction that starts at the first step.
      backward: the direction that starts at the last real step. In a layer with one direction,
        `backward` is None.

    Example:
      >>> from seqjax.cells import GRU
      >>> direction = Direction(GRU(3, 5), param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> Layer(LayerOptions(), direction).backward is None
      True
    """

    def __init__(
        self, options: LayerOptions, forward: Direction, backward: Direction | None = None
    ) -> None:
        self.options = options
        self.forward = forward
        self.backward = backward

    @property
    def directions(self) -> list[Direction]:
        """The forward direction and, if there is one, the backward direction."""
        return [self.forward] if self.backward is None else [self.forward, self.backward]

    @property
    def adds_inputs(self) -> bool:
        """True if the inputs are added to the outputs.

        They are added if this was asked for, inputs and outputs are one array each, and both arrays
        have the same shape.
        """
        cell, two, merge_mode = self.forward.cell, len(self.directions), self.options.merge_mode
        one_array = is_shape(cell.input_shape) and is_shape(cell.output_shape)
        if not self.options.residual or not one_array or (two == 2 and merge_mode == "none"):
            return False
        *points, features = cell.input_shape
        *points_out, features_out = cell.output_shape
        width = features_out * (two if merge_mode == "concat" else 1)
        return (*points, features - cell.reads_elapsed) == (*points_out, width)

    def initial_state(self, batch_shape: int | Sequence[int], dtype: Any) -> Any:
        """Return the initial state, which is a `Bidirectional` of two states for two directions."""
        batch_shape = checks.require_shape("batch_shape", batch_shape)
        return self._paired([way.start(batch_shape, dtype) for way in self.directions])

    def _paired(self, states: list[Any]) -> Any:
        return states[0] if self.backward is None else Bidirectional(*states)

    def __call__(
        self, xs: PyTree, state: Any, call: Sequences, *, ends_only: bool, key: PRNGKey | None
    ) -> Unrolled:
        """Run the directions and join their outputs.

        Args:
          xs: the inputs of the layer.
          state: the state before the first step, as `initial_state` returns it; or None.
          call: the properties of the sequences.
          ends_only: whether to return only one output per sequence and direction, namely the
            output at the last real step that the direction processes.
          key: a random key, or None if the call needs no random numbers.
        """
        key_input, *keys = [None] * 3 if key is None else jax.random.split(key, 3)
        inputs = self._inputs_dropped(xs, call, key_input)
        states = [state] if self.backward is None else state or (None, None)
        outputs, finals = [], []
        for direction, start, key_of_it in zip(self.directions, states, keys, strict=False):
            reverse = direction is self.backward
            given = call.with_elapsed(inputs, reverse=reverse)
            ran = self.run_direction(direction, given, start, call, key_of_it, reverse=reverse)
            end = sequences.first_real if reverse else sequences.last_real
            outputs.append(call.picked(ran.outputs, end) if ends_only else ran.outputs)
            finals.append(ran.state)
        joined = outputs[0] if len(outputs) == 1 else _merged(self.options.merge_mode, *outputs)
        if self.adds_inputs:
            joined = joined + self._shortcut(xs, call, ends_only)
        return Unrolled(joined, self._paired(finals))

    def _shortcut(self, xs: Array, call: Sequences, ends_only: bool) -> Array:
        if call.elapsed is not None:
            xs = jnp.where(jnp.isnan(xs), 0, xs)  # a missing value adds nothing
        xs = call.without_gradient(xs)  # as `run` does for the steps of the cell
        return call.picked(xs, sequences.last_real) if ends_only else call.zero_masked(xs)

    def _inputs_dropped(self, xs: PyTree, call: Sequences, key: PRNGKey | None) -> PyTree:
        """Drop features of the inputs. All steps drop the same features."""
        rate = self.options.input_dropout
        if key is None or not rate:
            return xs

        def one(x: Array, key: PRNGKey) -> Array:
            shape = (*x.shape[: call.axis], 1, *x.shape[call.axis + 1 :])
            return x * noise.variational_mask(key, rate, shape, x.dtype)

        leaves, structure = jax.tree.flatten(xs)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(structure, list(map(one, leaves, keys)))

    def run_direction(
        self,
        direction: Direction,
        xs: PyTree,
        state: Any,
        call: Sequences,
        key: PRNGKey | None,
        *,
        reverse: bool,
    ) -> Unrolled:
        """Run one direction of the layer with its own dropout, zoneout and resets.

        `seqjax.summary` and `seqjax.traces` intercept calls of this method to read its arguments.

        Args:
          direction: the direction, which has the cell and its parameters.
          xs: the checked inputs of the layer.
          state: the state before the first step. If `state` is None, the direction starts from its
            own initial state.
          call: the checked properties of the sequences.
          key: a random key, or None if the call needs no random numbers.
          reverse: whether the direction is the backward direction.
        """
        cell, dtype = direction.cell, compute_dtype(xs)
        resets = call.ends() if reverse else call.resets
        start, again = state, None
        if direction.learns_its_state or self.options.zoneout or key is not None:
            again = direction.start(call.batch_shape, dtype)
            start = again if state is None else state
        start = batched_state("initial_state", cell, start, call.batch_shape, dtype)
        if resets is None:
            again = start
        elif again is not None:
            again = jax.tree.map(lambda r, s: r.astype(s.dtype), again, start)
        params = checked_params(cell, direction.params)
        recurrent_mask = key_zoneout = None
        if key is not None:
            if self.options.weight_dropout:
                key, key_weights = jax.random.split(key)
                params = _weights_dropped(params, self.options.weight_dropout, key_weights)
            key_recurrent, key_zoneout = jax.random.split(key)
            recurrent_mask = self._recurrent_mask(cell, start, key_recurrent, dtype)
        held = None
        if self.options.zoneout:
            drawn = noise.zoneout_holds(
                key_zoneout, self.options.zoneout, start, cell.state_roles(), call.step_shape,
                len(call.batch_shape),
            )  # fmt: skip
            held = holds(cell, drawn, start, call.step_shape, call.time_major, dtype)
        problem = Problem(
            params, xs, start, again, call.mask, resets, recurrent_mask=recurrent_mask, zoneout=held
        )
        ran: Unrolled = run(
            cell, problem, call.plan(cell, xs), batch_ndim=call.axis, reverse=reverse,
            burn_in=call.burn_in, all_states=call.all_states,
        )  # fmt: skip
        return ran

    def _recurrent_mask(
        self, cell: Cell[Any, Any], state: PyTree, key: PRNGKey, dtype: Any
    ) -> PyTree | None:
        """Draw the mask of recurrent dropout. All steps use the same mask."""
        rate = self.options.recurrent_dropout
        if not rate:
            return None
        leaves, structure = jax.tree.flatten(jax.eval_shape(cell.recurrent_input, state))
        keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
        masks = [
            noise.variational_mask(key, rate, leaf.shape, dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, masks)
