"""A wrapper for any cell, whose state decays with the time between two steps."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import Cell, flat_roles
from seqjax.cells.stepping import select
from seqjax.types import Array, PRNGKey, PyTree, Shape, Slots

__all__ = ["Decay", "DecayParams"]


class DecayParams(NamedTuple):
    """Parameters of `Decay`.

    Attributes:
      cell: the parameters of the wrapped cell.
      rates: the decay rates, in the structure of the state: an array for each array of the state
        that decays, and None for the others.
    """

    cell: Any
    rates: Any


@dataclasses.dataclass(frozen=True)
class Decay(Cell[DecayParams, Any]):
    r"""A cell whose state decays between steps, for steps at irregular times.

    The input of a step is `[x_t, Δ_t]`: the features, and the time since the previous step.

        s' = exp(-max(0, w) Δ_t) ⊙ s_{t-1}
        s_t = s'                      if all features of x_t are NaN
        s_t = cell(x_t, s')           otherwise

    Each unit has its own rate w, which is learned. A step whose features are all NaN has no
    observation: the state only decays. Therefore two such steps equal one step with the sum of
    their elapsed times. NaN of such a step has no effect on gradients. If only some features of a
    step are missing, fill them before the call, or use `GRUD`.

    The decay applies to the arrays of the state that are hidden units: those for which
    `cell.state_roles` has `learned=True`. For example, all arrays of an LSTM decay, and h of an
    sLSTM. If a rate is negative, its unit does not decay, and the rate has no gradient.

    Attributes:
      cell: the cell, which reads vectors and no time.
      rate: the initial value of all decay rates, per unit of time. It is positive.

    Input: `[..., I+1]`. The last entry is the time, which `unroll` and layers append if they are
    called with `elapsed`. State and output: those of the cell.

    Raises:
      TypeError: `cell` is not a cell, or `rate` is not a number.
      ValueError: the cell does not read vectors or already reads the time, or `rate` is not
        positive.

    References:
      Mozer, Kazakov, Lindsey (2017), Discrete-event continuous-time recurrent nets; Che et al.
      (2018), Recurrent neural networks for multivariate time series with missing values, eq. 10.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = Decay(GRU(3, 5), rate=0.5)
      >>> params = cell.init(jax.random.key(0))
      >>> silent = jnp.array([jnp.nan, jnp.nan, jnp.nan, 2.0])  # no observation for two units
      >>> _, state = cell.step(params, silent, jnp.ones(5))
      >>> bool(jnp.allclose(state, jnp.exp(-0.5 * 2.0)))
      True
    """

    reads_elapsed: ClassVar[bool] = True

    input_size: int = dataclasses.field(init=False)
    hidden_size: int = dataclasses.field(init=False)
    cell: Cell[Any, Any]
    rate: float = dataclasses.field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        cell = self.cell
        if not isinstance(cell, Cell):
            raise TypeError(
                f"cell: expected a cell such as seqjax.cells.GRU(3, 5), got {checks.brief(cell)}"
            )
        if cell.reads_elapsed or cell.input_shape != (cell.input_size,):
            raise ValueError(
                f"cell: expected a cell that reads vectors and no time, got {type(cell).__name__} "
                f"with the input shape {cell.input_shape}"
            )
        object.__setattr__(self, "input_size", cell.input_size)
        object.__setattr__(self, "hidden_size", cell.hidden_size)
        super().__post_init__()
        checks.require_positive("rate", self.rate)

    @property
    def opaque(self) -> bool:  # type: ignore[override]  # a class attribute of other cells
        """A bool that is True if the wrapped cell is opaque."""
        return self.cell.opaque

    @property
    def output_shape(self) -> Shape:
        return self.cell.output_shape

    def stacked_on(self, input_size: int) -> Self:
        return dataclasses.replace(self, cell=self.cell.stacked_on(input_size))

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> DecayParams:
        leaves, structure = jax.tree.flatten(self.cell.initial_state())
        rates = [
            jnp.full(leaf.shape, self.rate, dtype) if role.learned else None
            for leaf, role in zip(leaves, flat_roles(self.state_roles()), strict=True)
        ]
        return DecayParams(self.cell.init(key, dtype), jax.tree.unflatten(structure, rates))

    def initial_state(self, batch_shape: Shape = (), dtype: Any = jnp.float32) -> Any:
        return self.cell.initial_state(batch_shape, dtype)

    def state_roles(self) -> PyTree:
        return self.cell.state_roles()

    def prepare(self, params: DecayParams) -> DecayParams:
        rates = jax.tree.map(jax.nn.relu, params.rates)
        return DecayParams(self.cell.prepare(params.cell), rates)

    def project(self, p: DecayParams, x: Array) -> Slots:
        features, elapsed = ops.split_elapsed(x)
        silent = jnp.isnan(features).all(axis=-1, keepdims=True)
        # NaN is replaced before anything is computed from it, since in a gradient 0 · NaN is NaN.
        features = jnp.where(silent, 0, features)
        return (*self.cell.project(p.cell, features), elapsed, silent.astype(elapsed.dtype))

    def arrive(self, p: DecayParams, projected: Any, state: Any) -> Any:
        *of_cell, elapsed, _ = projected
        leaves, structure = jax.tree.flatten(state)
        rates = jax.tree.leaves(p.rates, is_leaf=lambda rate: rate is None)

        def decayed(leaf: Array, rate: Array | None) -> Array:
            if rate is None:
                return leaf
            lead = elapsed.shape[:-1]
            time = elapsed.reshape(*lead, *[1] * rate.ndim)
            rate = jax.lax.broadcast_to_rank(rate.astype(elapsed.dtype), time.ndim)
            return jnp.exp(-rate * time) * leaf

        state = jax.tree.unflatten(structure, map(decayed, leaves, rates))
        return self.cell.arrive(p.cell, tuple(of_cell), state)

    def recurrent_input(self, state: Any) -> PyTree | None:
        return self.cell.recurrent_input(state)

    def recur(self, p: DecayParams, r: PyTree) -> Slots:
        return (*self.cell.recur(p.cell, r), None, None)

    def recurrent_matrix(self, p: DecayParams) -> Array | None:
        return self.cell.recurrent_matrix(p.cell)

    def update(self, p: DecayParams, gates: Any, state: Any) -> Any:
        *of_cell, _, silent = gates
        new = self.cell.update(p.cell, tuple(of_cell), state)
        return select(silent[..., 0] > 0, state, new)

    def output(self, p: DecayParams, gates: Any, state: Any) -> PyTree:
        return self.cell.output(p.cell, gates[:-2], state)

    def gate_values(self, p: DecayParams, gates: Any, state: Any) -> dict[str, Array]:
        return self.cell.gate_values(p.cell, gates[:-2], state)
