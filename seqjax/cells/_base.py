"""The methods that every recurrent cell has, and the order in which a step calls them.

A cell is a frozen dataclass. Its fields are the configuration, and its methods are pure functions
of the parameters and the state. A step computes

    p       = prepare(params)                   once per call
    g_t     = project(p, x_t)                   for all steps at once; does not read the state
    s'      = arrive(p, g_t, s_{t-1})           the state that the step reads
    r       = recurrent_input(s')
    gates_t = g_t ⊕ recur(p, r)
    s_t     = update(p, gates_t, s')
    y_t     = output(p, gates_t, s_t)

`project` and `recur` return tuples of the same length. Each entry of a tuple is called a slot, and
is an array or None. ⊕ combines the two tuples: if both have an array in a slot, the gate is the
sum of the two arrays. If only one tuple has an array in the slot, the gate is that array.

The step is split into these methods so that kernels can run them at different times. A kernel can
compute `project` before the time loop, and `output` after it. Because `recur` is linear in r and
linear in p, a kernel can compute the gradient of its weights once, after the loop, instead of at
every step.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape, Slots, Unrolled

__all__ = ["Cell", "DenseCell", "Role"]

Params = TypeVar("Params")
State = TypeVar("State")


class Role(NamedTuple):
    """Properties of one array of a cell's state that layers need.

    Attributes:
      held: whether zoneout may keep old values of the array.
      learned: whether the initial value of the array is learned by a layer that learns its initial
        state.

    Example:
      >>> Role(held=True, learned=False).held
      True
    """

    held: bool
    learned: bool


@dataclasses.dataclass(frozen=True)
class Cell(abc.ABC, Generic[Params, State]):
    """Base class of all cells.

    Every subclass is a frozen dataclass. Two cells with equal fields are equal, so `jax.jit` traces
    a function only once for both.

    To add a cell, define `init`, `initial_state`, `project` and `update`. If the step multiplies
    the state by weights, also define `recurrent_input` and `recur`. If the default of another
    method does not fit your cell, override that method. The page "How to add a cell" in `docs/`
    explains these methods.

    In the methods below, p is the value that `prepare` returned, a slot is an array `[..., N]` or
    None, and every array may have any leading axes. Products are summed in float32 or wider. The
    methods also receive the state in float32 or wider.

    Attributes:
      opaque: whether `update` computes the whole step, including the product of the input and its
        weights. If `opaque` is True, "auto" chooses the kernel "scan". The default is False.
      diagonal: whether each unit of the new state depends on the same unit of the old state only,
        so that `seqjax.online` computes exact gradients. The default is False. A cell whose
        `diagonal` is True also defines `parameter_units`.
      reads_elapsed: whether the last entry of an input is the time since the previous step, after
        the I features. The default is False. If it is True, `unroll` and layers accept the argument
        `elapsed`, and `ops.split_elapsed` separates the time from the features.
      input_size: the number of features of an input, I.
      hidden_size: the number of features of the hidden state, H.

    Raises:
      TypeError, ValueError: a size is not a positive integer.

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

    opaque: ClassVar[bool] = False
    diagonal: ClassVar[bool] = False
    reads_elapsed: ClassVar[bool] = False

    input_size: int
    hidden_size: int

    def __post_init__(self) -> None:
        for name in ("input_size", "hidden_size"):
            object.__setattr__(self, name, checks.require_integer(name, getattr(self, name)))
        kind = type(self)
        if kind.recur is not Cell.recur and kind.recurrent_input is Cell.recurrent_input:
            raise TypeError(
                f"cell: expected {kind.__name__} to define recurrent_input as well as recur, got "
                "recur alone, which would never be called"
            )

    def _check_divides(self, option: str) -> None:
        """Raise unless the value of an option is a positive integer that divides `hidden_size`."""
        parts = checks.require_divisor(
            option, getattr(self, option), "hidden_size", self.hidden_size
        )
        object.__setattr__(self, option, parts)

    @abc.abstractmethod
    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Params:
        """Draw the parameters.

        Args:
          key: a random key.
          dtype: the dtype of every parameter.

        Returns:
          The parameters, a pytree of arrays. The cells of this package return a NamedTuple.
        """

    def param_specs(self) -> Params:
        """Return the shapes and dtypes of the parameters, as `jax.ShapeDtypeStruct`s.

        By default, the method traces `init` without computing any values. Override it for a cell
        whose `init` cannot draw parameters.
        """
        key = jax.eval_shape(lambda: jax.random.key(0))
        specs: Params = jax.eval_shape(self.init, key)
        return specs

    @abc.abstractmethod
    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> State:
        """Return the state before the first step. Most cells return zeros.

        Args:
          batch_shape: the leading axes of every array of the state. Layers and `unroll` pass
            `batch_shape` as a tuple. The cells of this package also accept an integer, the size
            of a single batch axis.
          dtype: the dtype of the arrays. A cell may use a wider dtype, or integers for a counter.
        """

    def prepare(self, params: Params) -> Any:
        """Return p, the values that the steps use. The default returns the parameters unchanged.

        If the steps use a function of the parameters, such as a discretisation, compute it in this
        method. `prepare` runs once per call, and not at every step.

        Args:
          params: the parameters that `init` returns, in float32 or wider.

        Returns:
          The value p, a pytree of arrays. The caller casts the floating-point arrays of p to the
          compute dtype.
        """
        return params

    @abc.abstractmethod
    def project(self, p: Any, x: PyTree) -> Slots:
        """Return the terms of the gates that depend only on the input.

        Args:
          p: the value that `prepare` returned.
          x: the input `[..., I]`, with any leading axes. A leading axis may be the time axis.

        Returns:
          A tuple with an array or None for each gate. The arrays have the leading axes of `x`.
        """

    def arrive(self, p: Any, projected: Slots, state: State) -> State:
        """Return the state that `update` reads, given the input of the step.

        By default, this is the state after the previous step.

        Override this method for a cell whose state also changes between two steps. For example, the
        state may decay with the time since the previous step.

        Args:
          p: the value that `prepare` returned.
          projected: the tuple that `project` returned for this step.
          state: the state after the previous step.
        """
        del p, projected
        return state

    def recurrent_input(self, state: State) -> PyTree | None:
        """Return r, the array or pytree of arrays that `recur` multiplies by weights.

        The default returns None, for cells that do not multiply the state by weights.
        """
        del state
        return None

    def recur(self, p: Any, r: PyTree) -> Slots:
        """Return the terms of the gates that depend on the state, linear in `r` and in `p`.

        Args:
          p: the value that `prepare` returned.
          r: the value that `recurrent_input` returned. With recurrent dropout, `r` is already
            multiplied by the dropout mask.

        Returns:
          A tuple of arrays or None, as long as the tuple that `project` returns.
        """
        raise NotImplementedError(
            f"cell: expected {type(self).__name__} to define recur as well as recurrent_input"
        )

    def recurrent_matrix(self, p: Any) -> Array | None:
        """Return the matrix `[N, M]` if `recur` is a product with one matrix, else None.

        The columns of the matrix have the order of the arrays that `recur` returns. Kernels that
        are written for one kind of device call this method.

        Args:
          p: the value that `prepare` returned.
        """
        del p
        return None

    def parameter_units(self, p: Any) -> PyTree | None:
        """Return which unit of the state each parameter changes, for `seqjax.online`.

        The default returns None. Then `seqjax.online` cannot run the cell. Override the method if
        the following is true of one step:

        - Every array of the state is `[..., H]`, and each parameter changes one unit.
        - The units of the state are coupled by `recur` only. Without `recur`, each unit of the
          new state depends on the same unit of the old state only.

        Args:
          p: the value that `prepare` returned.

        Returns:
          A pytree with the structure of `p`. An entry is an integer array that broadcasts to the
          array of `p`, with a number from 0 to H-1 for each parameter, or None for an array that
          only `output` reads. `seqjax.cells.ops.column_units` makes such arrays for weights with
          blocks of H columns.
        """
        del p
        return None

    @abc.abstractmethod
    def update(self, p: Any, gates: Slots, state: State) -> State:
        """Return the state after the step.

        Args:
          p: the value that `prepare` returned.
          gates: a tuple with the array of each gate, which is the sum of the arrays that `project`
            and `recur` returned for the gate, or the only array if one of the methods returned
            None.
          state: the state that `arrive` returned.
        """

    def output(self, p: Any, gates: Slots, state: Any) -> PyTree:
        """Return the step's output.

        The default returns the state if it is one array, and the field `h` of the state otherwise.

        Args:
          p: the value that `prepare` returned.
          gates: the gates, as for `update`.
          state: the state after the step and after zoneout.

        Raises:
          ValueError: the state is not one array and has no field `h`. A cell with such a state must
            override `output`.
        """
        del p, gates
        if isinstance(state, jax.Array):
            return state
        if not hasattr(state, "h"):
            raise ValueError(
                f"cell: expected {type(self).__name__} to define output(p, gates, state), since "
                "its state is not one array and has no field h"
            )
        return state.h

    def gate_values(self, p: Any, gates: Slots, state: State) -> dict[str, Array]:
        """Return a dict of the activated gates, each `[..., H]`. `seqjax.traces` calls this method.

        The dict has the gates in the order of the cell's equations. The default returns an empty
        dict, for cells without gates.

        Args:
          p: the value that `prepare` returned.
          gates: the gates, as for `update`.
          state: the state that the step reads, as for `update`.
        """
        del p, gates, state
        return {}

    def _narrowed(self, output: PyTree, dtype: Any) -> PyTree:
        """Return the output of steps in the compute dtype."""
        return cast(output, dtype)

    def state_roles(self) -> PyTree:
        """Return a pytree with the structure of the state and a `Role` for each of its arrays.

        By default, both fields of the role are True for a floating-point or complex array: zoneout
        may hold it, and its initial value may be learned. Both fields are False for arrays of
        other dtypes, such as integer counters.
        """
        state = jax.eval_shape(lambda: self.initial_state())

        def role(leaf: Any) -> Role:
            counts = bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
            return Role(held=counts, learned=counts)

        return jax.tree.map(role, state)

    def step(self, params: Params, x: PyTree, state: State) -> Unrolled:
        """Run one step. Subclasses do not override this method.

        Args:
          params: the parameters, as `init` returns them.
          x: the input of one step, `[..., I]`.
          state: the state before the step, with the same leading axes as `x`.

        Returns:
          `Unrolled(output, state)`: the output `[..., O]` in the dtype of `x`, and the new state in
          the dtype of `state`.
        """
        from seqjax.cells import stepping  # imported here because stepping imports this module

        dtype = compute_dtype(x)
        p = prepared(self, params, dtype)
        now = stepping.Now(self.project(p, x))
        ran = stepping.advance(self, p, now, state, output_dtype=dtype)
        return Unrolled(ran.output, ran.state)

    @property
    def input_shape(self) -> PyTree:
        """The shape of one step's input without batch axes.

        If the input is a pytree, `input_shape` is a pytree with one shape for each array.
        """
        return (self.input_size + self.reads_elapsed,)

    @property
    def input_shapes(self) -> list[Shape]:
        """The shapes in `input_shape` as a list, one per array."""
        return list(jax.tree.leaves(self.input_shape, is_leaf=is_shape))

    @property
    def output_shape(self) -> Shape:
        """The shape of one step's output without batch axes. The last axis holds the features."""
        return (self.hidden_size,)

    def stacked_on(self, input_size: int) -> Self:
        """Return a copy of the cell for the next layer of a stack.

        Args:
          input_size: the number of features that the next layer reads.
        """
        return dataclasses.replace(self, input_size=input_size)


@dataclasses.dataclass(frozen=True)
class DenseCell(Cell[Params, State]):
    """Base class of cells with weight matrices, which adds options for biases and initialisers.

    The initialiser of a weight array draws the block of each gate separately.

    Attributes:
      use_bias: whether the cell has bias vectors. If False, the biases in the parameters are None.
      kernel_init: the initialiser of the input weights: a name in
        `seqjax.cells.initializers.INITIALIZERS`, or a function `(key, shape, dtype)`.
      recurrent_init: the initialiser of the recurrent weights, also a name or a function.
      bias_init: the initialiser of the biases, also a name or a function.

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
        """Check the random key that was passed to `init`, and split it."""
        return jax.random.split(checks.require_key("key", key), number)

    def draw(self, option: str, key: PRNGKey, shape: Shape, gates: int, dtype: Any) -> Array:
        """Draw one weight array, gate by gate, with the initialiser that an option selects."""
        dtype = checks.require_floating_dtype("dtype", dtype)
        initializer = initializers.resolve(option, getattr(self, option), self.hidden_size)
        if initializer is jax.nn.initializers.zeros and not checks.is_traced(key):
            return jnp.asarray(np.zeros(shape, dtype), dtype)  # compiles no program
        try:
            drawn = initializers.per_gate(initializer, gates)(key, shape, dtype)
        except ValueError as error:  # for example, biases drawn with an initialiser of matrices
            raise ValueError(
                f"{option}: expected an initialiser for the shape {shape}, got one that raises: "
                f"{error}"
            ) from error
        if drawn.shape != shape or jnp.iscomplexobj(drawn):
            raise ValueError(
                f"{option}: expected an initialiser that returns real arrays of the shape it is "
                f"given, in all {shape}, got {checks.brief(drawn)}"
            )
        return drawn.astype(dtype)

    def draw_heads(self, option: str, key: PRNGKey, shape: Shape, gates: int, dtype: Any) -> Array:
        """Draw an array `[N, …]` with the weights of N heads, head by head, as `draw` does."""
        keys = jax.random.split(key, shape[0])
        return jnp.stack([self.draw(option, k, shape[1:], gates, dtype) for k in keys])

    def draw_bias(self, key: PRNGKey, size: int, gates: int, dtype: Any) -> Array | None:
        """Draw a bias vector; return None if the cell has no biases."""
        return self.draw("bias_init", key, (size,), gates, dtype) if self.use_bias else None


@dataclasses.dataclass(frozen=True)
class GatedCell(DenseCell[Params, State]):
    """Base class of this package's dense cells.

    Unless a subclass defines its own weights, they have a block of H columns for each gate. If a
    subclass does not override `initial_state`, the state is one array `h [..., H]`.
    """

    gates: ClassVar[int] = 1

    @property
    def _hidden_shape(self) -> Shape:
        """The shape of the hidden state, which the recurrent weights read, without batch axes.

        It is also the shape of the output, unless a subclass defines another output.
        """
        return (self.hidden_size,)

    @property
    def output_shape(self) -> Shape:
        return self._hidden_shape

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Any:
        return jnp.zeros(ops.batched(batch_shape, *self._hidden_shape), dtype)

    def project(self, p: Any, x: Array) -> Slots:
        return ops.split(ops.affine(x, p.w_ih, p.b), self.gates)

    def _input_weights(self, key: PRNGKey, dtype: Any) -> Array:
        shape = (self.input_size, self.gates * self.hidden_size)
        return self.draw("kernel_init", key, shape, self.gates, dtype)

    def _recurrent_weights(self, key: PRNGKey, gates: int, dtype: Any) -> Array:
        shape = (*self._hidden_shape, gates * self.hidden_size)
        return self.draw("recurrent_init", key, shape, gates, dtype)

    def _biases(self, key: PRNGKey, dtype: Any) -> Array | None:
        return self.draw_bias(key, self.gates * self.hidden_size, self.gates, dtype)


def flat_roles(roles: PyTree) -> list[Role]:
    """Return the roles of a state's arrays as a list, in the order of the arrays."""
    return list(jax.tree.leaves(roles, is_leaf=lambda role: isinstance(role, Role)))


def is_shape(value: Any) -> bool:
    """Return True if a value is the shape of one array, and False for a tuple of shapes."""
    return isinstance(value, tuple) and all(isinstance(n, int) for n in value)


def input_specs(cell: Cell[Any, Any], lead: Sequence[Any], dtype: Any) -> PyTree:
    """Return the shapes and dtypes of a cell's inputs as `jax.ShapeDtypeStruct`s.

    The sizes of the leading axes `lead` may be symbolic dimensions of `jax.export`.
    """
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((*lead, *shape), dtype),
        cell.input_shape,
        is_leaf=is_shape,
    )


def compute_dtype(xs: PyTree) -> jnp.dtype:
    """Return the dtype in which a call computes.

    The compute dtype is the common dtype of the floating-point inputs. If no input is
    floating-point, the compute dtype is float32.

    Example:
      >>> compute_dtype(jnp.zeros(2, jnp.bfloat16)).name, compute_dtype(jnp.zeros(2, int)).name
      ('bfloat16', 'float32')
    """
    x64: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return _common_dtype(frozenset(x.dtype for x in jax.tree.leaves(xs)), x64)


@functools.lru_cache(maxsize=256)
def _common_dtype(dtypes: frozenset[Any], x64: bool) -> jnp.dtype:
    del x64  # part of the key of the cache: without 64-bit types, JAX narrows float64
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return jnp.result_type(*floating) if floating else jnp.dtype(jnp.float32)


def prepared(cell: Cell[Any, Any], params: PyTree, dtype: Any) -> PyTree:
    """Call `cell.prepare` and return its result in the compute dtype."""
    if type(cell).prepare is Cell.prepare:
        return cast(params, dtype)
    return cast(cell.prepare(widened(params)), dtype)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Cast the floating-point arrays of a pytree to a dtype."""
    return _floating(lambda a: a.astype(dtype), tree)


def widened(tree: PyTree) -> PyTree:
    """Cast those floating-point arrays of a pytree that are narrower than float32 to float32."""
    return _floating(lambda a: a.astype(ops.accumulator_dtype(a.dtype)), tree)


def _floating(change: Callable[[Array], Array], tree: PyTree) -> PyTree:
    """Apply a function to the floating-point arrays of a pytree."""
    return jax.tree.map(lambda a: change(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)
