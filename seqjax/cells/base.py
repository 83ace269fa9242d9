"""The cell contract: what a recurrent cell must say, and what follows from it.

A cell is a frozen dataclass, its configuration; its methods are pure functions of parameters and
state. One step is

    p_t = project(params, x_t)                        time-parallel, no state
    r_t = recurrent_input(state_{t-1})
    q_t = r_t @ recurrent_matrix(params)
    state_t, y_t = update(params, p_t, q_t, state_{t-1})

The split is there for the kernels: `project` can leave the time loop, and the recurrent product
is in the open, so that a kernel may sum its weight gradient once instead of at every step.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Self, TypeVar

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape

__all__ = ["Cell", "DenseCell"]

Params = TypeVar("Params")
State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Cell(abc.ABC, Generic[Params, State]):
    """Base of all cells. Subclasses are frozen dataclasses, so equal cells share one jit trace.

    To add a cell, write `init`, `initial_state`, `project`, `recurrent_input`, `recurrent_matrix`
    and `update` (see the page "How to add a cell" in `docs/`).

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
      >>> state, output = cell.step(params, jnp.ones([2, 3]), cell.initial_state([2]))
      >>> output.shape
      (2, 5)
      >>> cell == CELLS["gru"](3, 5)
      True
    """

    input_size: int
    hidden_size: int

    additive: ClassVar[bool | int] = False
    """Whether the projection and the recurrent product only ever meet as a sum; or of how many of
    the first gates that is true. `update` must then also accept that a kernel has added them: the
    first gates of `projected` are sums, and `recurrent` is what is left of the product, or None."""

    keeps_recurrent_input: ClassVar[bool] = False
    """Whether `update` needs r_t as well as the product; it then gets the pair `(r_t, q_t)`."""

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            object.__setattr__(self, name, checks.require_integer(name, getattr(self, name)))

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
        """The state before the first step: zeros.

        Args:
          batch_shape: leading axes of every array of the state.
          dtype: of every array of the state.
        """

    @abc.abstractmethod
    def project(self, params: Params, x: PyTree) -> PyTree:
        """What the cell makes of its input before it meets the state; position-wise in time.

        Args:
          params: as from `init`.
          x: `[..., I]` with any leading axes, the time axis among them.

        Returns:
          A pytree of arrays with the same leading axes.
        """

    @abc.abstractmethod
    def recurrent_input(self, state: State) -> Array | None:
        """What multiplies the recurrent weights, or None if nothing does (linear cells)."""

    @abc.abstractmethod
    def recurrent_matrix(self, params: Params) -> Array | None:
        """The matrix `[N, M]` that it multiplies; None if `update` takes the input as it is."""

    @abc.abstractmethod
    def update(
        self, params: Params, projected: PyTree, recurrent: Any, state: State
    ) -> tuple[State, PyTree]:
        """One step from the projected input and the recurrent product.

        Args:
          params: as from `init`.
          projected: what `project` gave for this step.
          recurrent: `r @ w` for r = `recurrent_input(state)` and w = `recurrent_matrix(params)`;
            r itself where w is None; the pair `(r, r @ w)` for `keeps_recurrent_input` cells;
            without the columns that a kernel has already added, see `additive`.
          state: the state before the step.

        Returns:
          The new state and the output.
        """

    def gated_update(
        self, params: Params, projected: PyTree, recurrent: Any, state: State
    ) -> tuple[State, PyTree, dict[str, Array]]:
        """`update` together with the values of the gates, which `seqjax.traces` shows.

        A cell with gates has its equations here, and an `update` that leaves the gates out.

        Args:
          params: as for `update`.
          projected: as for `update`.
          recurrent: as for `update`.
          state: as for `update`.

        Returns:
          The new state, the output, and the gates by name in the order of the recurrent weights'
          blocks, `[..., H]` each; no gates for a cell that says nothing of them.
        """
        return (*self.update(params, projected, recurrent, state), {})

    def output(self, params: Params, state: Any) -> PyTree:
        """The output that belongs to a state: the state itself, or its field `h`.

        Only used where something outside the cell changes the new state (zoneout).

        Raises:
          ValueError: the state has no field `h`; the cell must then say what its output is.
        """
        del params
        if isinstance(state, jax.Array):
            return state
        if not hasattr(state, "h"):
            raise ValueError(
                f"zoneout: {type(self).__name__} must define output(params, state), since its "
                "state is neither one array nor has a field h"
            )
        return state.h

    def step(self, params: Params, x: PyTree, state: State) -> tuple[State, PyTree]:
        """One step, derived from the methods above. Not meant to be overridden.

        Args:
          params: as from `init`.
          x: one step's input, `[..., I]`.
          state: with the same leading axes; it keeps its dtype.

        Returns:
          The new state and the output, `[..., O]` in the dtype of `x`.
        """
        params = cast(params, compute_dtype(x))
        return rounded(
            self.advance(params, self.project(params, x), widened(state)),
            state_like=state,
            output_dtype=compute_dtype(x),
        )

    def masked_recurrent_input(self, state: State, recurrent_mask: Array | None) -> Array | None:
        """`recurrent_input`, times the mask of recurrent dropout if there is one."""
        r = self.recurrent_input(state)
        if r is None or recurrent_mask is None:
            return r
        return r * recurrent_mask.astype(r.dtype)

    def advance(
        self,
        params: Params,
        projected: PyTree,
        state: State,
        recurrent_mask: Array | None = None,
    ) -> tuple[State, PyTree]:
        """One step from the projected input on: the recurrent product, then `update`.

        Args:
          params: in the compute dtype.
          projected: what `project` gave for this step.
          state: in float32 or wider.
          recurrent_mask: multiplies the recurrent input, `[..., N]` (recurrent dropout).

        Returns:
          The new state and the output, not yet rounded.
        """
        r = self.masked_recurrent_input(state, recurrent_mask)
        w = self.recurrent_matrix(params)
        recurrent: Any = r if w is None or r is None else ops.matmul(r, w)
        if self.keeps_recurrent_input:
            recurrent = (r, recurrent)
        return self.update(params, projected, recurrent, state)

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


def is_shape(value: Any) -> bool:
    """Whether a value is the shape of an array, in contrast to a tuple of shapes."""
    return isinstance(value, tuple) and all(isinstance(n, int) for n in value)


def input_specs(cell: Cell[Any, Any], lead: Sequence[Any], dtype: Any) -> PyTree:
    """A cell's inputs as `jax.ShapeDtypeStruct`s, with some leading axes; these may be symbols."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((*lead, *shape), dtype),
        cell.input_shape,
        is_leaf=is_shape,
    )


def compute_dtype(xs: PyTree) -> jnp.dtype:
    """The dtype of a computation: that of its floating-point inputs."""
    floating = [x.dtype for x in jax.tree.leaves(xs) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.result_type(*floating) if floating else jnp.dtype(jnp.float32)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Casts the floating-point arrays of a pytree."""
    return jax.tree.map(
        lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def widened(tree: PyTree) -> PyTree:
    """The floating-point arrays of a pytree in float32 or wider."""
    return jax.tree.map(
        lambda a: (
            a.astype(ops.accumulator_dtype(a.dtype)) if jnp.issubdtype(a.dtype, jnp.floating) else a
        ),
        tree,
    )


def rounded(
    state_and_output: tuple[Any, PyTree], *, state_like: PyTree, output_dtype: Any
) -> tuple[Any, PyTree]:
    """Gives a new state the dtypes of the old one, and the output the compute dtype."""
    state, output = state_and_output
    state = jax.tree.map(lambda new, old: new.astype(old.dtype), state, state_like)
    return state, cast(output, output_dtype)
