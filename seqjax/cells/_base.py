"""The cell contract: what a recurrent cell must say, and what follows from it.

A cell is a frozen dataclass, its configuration; its methods are pure functions of parameters and
state. One call and one step of it are

    p       = prepare(params)                   once a call
    g_t     = project(p, x_t)                   for all steps at once, without the state
    s'      = arrive(p, g_t, s_{t-1})           the state as the step finds it
    r       = recurrent_input(s')
    gates_t = g_t ⊕ recur(p, r)
    s_t     = update(p, gates_t, s')
    y_t     = output(p, gates_t, s_t)

Gates are slots: `project` and `recur` return tuples of one length, whose entries are arrays or
None; ⊕ adds where both give an array. A slot that `project` alone fills belongs to the input, one
that `recur` alone fills to the state, and one that both fill is their sum.

The step is split into these methods for the kernels. `project` can leave the time loop. `recur` is
linear in r and linear in p, so a kernel may sum its weight gradient once instead of at every step.
`output` may run after the loop.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape, Slots, Unrolled

__all__ = ["Cell", "DenseCell", "Role"]

Params = TypeVar("Params")
State = TypeVar("State")


class Role(NamedTuple):
    """The treatment of one array of a cell's state by layers.

    Attributes:
      held: whether zoneout may keep its old values.
      learned: whether it is a parameter when the initial state is learned.

    Example:
      >>> Role(held=True, learned=False).held
      True
    """

    held: bool
    learned: bool


@dataclasses.dataclass(frozen=True)
class Cell(abc.ABC, Generic[Params, State]):
    """Base of all cells. Subclasses are frozen dataclasses, so equal cells share one jit trace.

    To add a cell, write `init`, `initial_state`, `project` and `update`; `recurrent_input` and
    `recur` if the step multiplies its state by weights; the other methods where the defaults do
    not fit (see the page "How to add a cell" in `docs/`).

    In the methods below, p is what `prepare` returned, a slot is an array `[..., N]` or None, and
    every array may have any leading axes. Products are summed in float32 or wider, and the state
    that a method sees has that dtype, too.

    Attributes:
      input_size: features of an input, I.
      hidden_size: features of the hidden state, H.

    Raises:
      TypeError, ValueError: a size that is not a positive integer.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from seqjax.cells import CELLS
      >>> cell = CELLS["gru"](input_size=3, hidden_size=5)
      >>> params = cell.init(jax.random.key(0))
      >>> output, state = cell.step(params, jnp.ones([2, 3]), cell.initial_state([2]))
      >>> output.shape
      (2, 5)
      >>> cell == CELLS["gru"](3, 5)
      True
    """

    input_size: int
    hidden_size: int

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            object.__setattr__(self, name, checks.require_integer(name, getattr(self, name)))
        kind = type(self)
        if kind.recur is not Cell.recur and kind.recurrent_input is Cell.recurrent_input:
            raise TypeError(
                f"cell: expected {kind.__name__} to define recurrent_input as well as recur, which "
                "is not called without it"
            )

    @abc.abstractmethod
    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Params:
        """Draws parameters.

        Args:
          key: a random key.
          dtype: of every parameter.

        Returns:
          A pytree of arrays, in our cells a NamedTuple.
        """

    @abc.abstractmethod
    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> State:
        """Return the state before the first step; zeros in most cells.

        Args:
          batch_shape: leading axes of every array of the state. Layers and `unroll` pass a tuple;
            the cells of this package also take an integer, which is one axis.
          dtype: of the arrays; a cell may use a wider one, or integers for a counter.
        """

    def prepare(self, params: Params) -> Any:
        """Return what a call needs of the parameters, p: the parameters themselves.

        A cell that steps with a function of its parameters, such as a discretisation, computes it
        here, once a call.

        Args:
          params: as from `init`, in float32 or wider.

        Returns:
          A pytree of arrays; those of a floating-point dtype are then cast to the compute dtype.
        """
        return params

    @abc.abstractmethod
    def project(self, p: Any, x: PyTree) -> Slots:
        """Return what the cell makes of its input before it meets the state.

        Args:
          p: as from `prepare`.
          x: `[..., I]`, with any leading axes, the time axis among them.

        Returns:
          A tuple of slots, with the same leading axes.
        """

    def arrive(self, p: Any, projected: Slots, state: State) -> State:
        """Return the state as the step finds it: as the last step left it.

        Anything that happens to the state before the step reads it has its place here, such as a
        decay over the time since the last step.

        Args:
          p: as from `prepare`.
          projected: what `project` gave for this step.
          state: as the last step left it.
        """
        del p, projected
        return state

    def recurrent_input(self, state: State) -> PyTree | None:
        """Return what `recur` multiplies, r: an array or a pytree of them.

        It is None, as here, for a cell whose step multiplies its state by no weights.
        """
        del state
        return None

    def recur(self, p: Any, r: PyTree) -> Slots:
        """Return the slots that the state fills; linear in `r`, and linear in `p`.

        Args:
          p: as from `prepare`.
          r: as from `recurrent_input`, times the mask of recurrent dropout if there is one.

        Returns:
          As many slots as `project` returns.
        """
        raise NotImplementedError(f"{type(self).__name__} has a recurrent_input but no recur")

    def recurrent_matrix(self, p: Any) -> Array | None:
        """Return the matrix `[N, M]` of a `recur` that is one dense product; else None.

        Its columns are in the order of the slots that `recur` fills. Kernels written for a device
        ask for it.

        Args:
          p: as from `prepare`.
        """
        del p
        return None

    @abc.abstractmethod
    def update(self, p: Any, gates: Slots, state: State) -> State:
        """Return the state after the step.

        Args:
          p: as from `prepare`.
          gates: the slots of `project` and `recur`, summed where both fill one.
          state: as from `arrive`.
        """

    def output(self, p: Any, gates: Slots, state: Any) -> PyTree:
        """Return the step's output: the state itself if it is one array, else its field `h`.

        Args:
          p: as from `prepare`.
          gates: as for `update`.
          state: after the step, and after zoneout.

        Raises:
          ValueError: the state has no field `h`; the cell must then say what its output is.
        """
        del p, gates
        if isinstance(state, jax.Array):
            return state
        if not hasattr(state, "h"):
            raise ValueError(
                f"cell: {type(self).__name__} must define output(p, gates, state), since its "
                "state is neither one array nor has a field h"
            )
        return state.h

    def gate_values(self, p: Any, gates: Slots, state: State) -> dict[str, Array]:
        """Return the activated gates by name, which `seqjax.traces` shows: `[..., H]` each.

        They are in the order of the equations. A cell without gates has none.

        Args:
          p: as from `prepare`.
          gates: as for `update`.
          state: as for `update`.
        """
        del p, gates, state
        return {}

    def state_roles(self) -> PyTree:
        """Return what each array of the state is: a `Role`, in the structure of the state.

        By default every floating-point or complex array is held by zoneout and may be learned as an
        initial state, and no other array, such as a counter.
        """
        state = jax.eval_shape(lambda: self.initial_state())

        def role(leaf: Any) -> Role:
            counts = bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
            return Role(held=counts, learned=counts)

        return jax.tree.map(role, state)

    def step(self, params: Params, x: PyTree, state: State) -> Unrolled:
        """Run one step. Not meant to be overridden.

        Args:
          params: as from `init`.
          x: one step's input, `[..., I]`.
          state: with the same leading axes; it keeps its dtype.

        Returns:
          `Unrolled(output, state)`: the output `[..., O]` in the dtype of `x`, and the new state.
        """
        from seqjax.cells import stepping  # here, since it is written in terms of this class

        dtype = compute_dtype(x)
        p = prepared(self, params, dtype)
        now = stepping.Now(self.project(p, x))
        ran = stepping.advance(self, p, now, state, output_dtype=dtype)
        return Unrolled(ran.output, ran.state)

    @property
    def input_shape(self) -> PyTree:
        """The shape of one step's input without batch axes; a pytree of them for pytree inputs."""
        return (self.input_size,)

    @property
    def input_shapes(self) -> list[Shape]:
        """The shapes of `input_shape` in a list, one an array."""
        return list(jax.tree.leaves(self.input_shape, is_leaf=is_shape))

    @property
    def output_shape(self) -> Shape:
        """The shape of one step's output without batch axes; its last axis is the features."""
        return (self.hidden_size,)

    def stacked_on(self, input_size: int) -> Self:
        """The same cell as the next layer of a stack, where `input_size` features arrive."""
        return dataclasses.replace(self, input_size=input_size)


@dataclasses.dataclass(frozen=True)
class DenseCell(Cell[Params, State]):
    """Base of the cells that multiply by matrices: their options for biases and initialisers.

    Attributes:
      use_bias: whether there are bias vectors; where not, they are None in the parameters.
      kernel_init: initialiser of the input weights, a name of
        `seqjax.cells.initializers.INITIALIZERS` or a function `(key, shape, dtype)`.
      recurrent_init: initialiser of the recurrent weights, one gate's block at a time.
      bias_init: initialiser of the biases.

    Example:
      >>> from seqjax.cells import LSTM
      >>> cell = LSTM(3, 5, kernel_init="torch_uniform", bias_init="torch_uniform")
      >>> cell.init(jax.random.key(0)).b.shape
      (20,)
    """

    _: dataclasses.KW_ONLY
    use_bias: bool = True
    kernel_init: str | Initializer = "glorot_uniform"
    recurrent_init: str | Initializer = "orthogonal"
    bias_init: str | Initializer = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_bool("use_bias", self.use_bias)
        for name in ("kernel_init", "recurrent_init", "bias_init"):
            initializers.resolve(name, getattr(self, name), self.hidden_size)

    def keys(self, key: PRNGKey, number: int) -> Array:
        """Splits the key that `init` was given, after checking that it is one."""
        return jax.random.split(checks.require_key("key", key), number)

    def draw(self, option: str, key: PRNGKey, shape: Shape, gates: int, dtype: Any) -> Array:
        """Draws one weight array by the initialiser of an option, one gate at a time."""
        dtype = checks.require_floating_dtype("dtype", dtype)
        initializer = initializers.resolve(option, getattr(self, option), self.hidden_size)
        try:
            return initializers.per_gate(initializer, gates)(key, shape, dtype)
        except ValueError as error:  # such as an initialiser of matrices for a vector of biases
            raise ValueError(
                f"{option}: expected an initialiser for the shape {shape}, got one that says: "
                f"{error}"
            ) from error

    def draw_bias(self, key: PRNGKey, size: int, gates: int, dtype: Any) -> Array | None:
        """Draws a bias vector, or gives None for a cell without biases."""
        return self.draw("bias_init", key, (size,), gates, dtype) if self.use_bias else None


@dataclasses.dataclass(frozen=True)
class GatedCell(DenseCell[Params, State]):
    """Base of the dense cells of this package: weights in one column block of width H a gate.

    The state is `h [..., H]` where a subclass says nothing else.
    """

    gates: ClassVar[int] = 1

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Any:
        return jnp.zeros(ops.batched(batch_shape, self.hidden_size), dtype)

    def project(self, p: Any, x: Array) -> Slots:
        return ops.split(ops.affine(x, p.w_ih, p.b), self.gates)

    def _input_weights(self, key: PRNGKey, dtype: Any) -> Array:
        shape = (self.input_size, self.gates * self.hidden_size)
        return self.draw("kernel_init", key, shape, self.gates, dtype)

    def _recurrent_weights(self, key: PRNGKey, gates: int, dtype: Any) -> Array:
        shape = (*self.output_shape, gates * self.hidden_size)
        return self.draw("recurrent_init", key, shape, gates, dtype)

    def _biases(self, key: PRNGKey, dtype: Any) -> Array | None:
        return self.draw_bias(key, self.gates * self.hidden_size, self.gates, dtype)


def flat_roles(roles: PyTree) -> list[Role]:
    """The roles of a state's arrays in their order."""
    return list(jax.tree.leaves(roles, is_leaf=lambda role: isinstance(role, Role)))


def is_shape(value: Any) -> bool:
    """Return whether a value is the shape of an array, in contrast to a tuple of shapes."""
    return isinstance(value, tuple) and all(isinstance(n, int) for n in value)


def input_specs(cell: Cell[Any, Any], lead: Sequence[Any], dtype: Any) -> PyTree:
    """A cell's inputs as `jax.ShapeDtypeStruct`s, with some leading axes; these may be symbols."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((*lead, *shape), dtype),
        cell.input_shape,
        is_leaf=is_shape,
    )


def compute_dtype(xs: PyTree) -> jnp.dtype:
    """Return the dtype of a computation: that of its floating-point inputs, else float32.

    Example:
      >>> compute_dtype(jnp.zeros(2, jnp.bfloat16)).name, compute_dtype(jnp.zeros(2, int)).name
      ('bfloat16', 'float32')
    """
    floating = [x.dtype for x in jax.tree.leaves(xs) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.result_type(*floating) if floating else jnp.dtype(jnp.float32)


def prepared(cell: Cell[Any, Any], params: PyTree, dtype: Any) -> PyTree:
    """Return what `cell.prepare` returns, in the compute dtype."""
    if type(cell).prepare is Cell.prepare:
        return cast(params, dtype)
    return cast(cell.prepare(widened(params)), dtype)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Casts the floating-point arrays of a pytree."""
    return _floating(lambda a: a.astype(dtype), tree)


def widened(tree: PyTree) -> PyTree:
    """The floating-point arrays of a pytree in float32 or wider."""
    return _floating(lambda a: a.astype(ops.accumulator_dtype(a.dtype)), tree)


def _floating(change: Callable[[Array], Array], tree: PyTree) -> PyTree:
    """A pytree with its floating-point arrays changed, and the others as they are."""
    return jax.tree.map(lambda a: change(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
