"""Long short-term memory and its variants.

The state of each cell is `LSTMState(h, c)`. In the weights, each gate has a block of H columns. The
cells differ in their gates and in the inputs of the gates.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._base import GatedCell
from seqjax.types import Array, PRNGKey, PyTree, Shape, Slots

__all__ = [
    "CoupledLSTM",
    "GatedLSTM",
    "LSTM",
    "LSTMParams",
    "LSTMState",
    "MemoryCell",
    "PeepholeLSTM",
    "PeepholeLSTMParams",
    "ProjectedLSTM",
    "ProjectedLSTMParams",
]


class LSTMState(NamedTuple):
    """The state of an LSTM: the hidden state h `[..., H]` and the memory c `[..., H]`."""

    h: Array
    c: Array


class LSTMParams(NamedTuple):
    """Parameters of `LSTM` and `CoupledLSTM`: `w_ih [I, G*H]`, `w_hh [H, G*H]`, `b [G*H]`.

    G is the number of gates: 4 for `LSTM`, 3 for `CoupledLSTM`.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None


class PeepholeLSTMParams(NamedTuple):
    """Parameters of `PeepholeLSTM`: the parameters of `LSTM`, and `p_i`, `p_f`, `p_o`, each `[H]`.

    `p_i`, `p_f` and `p_o` are the peephole weights of the gates.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None
    p_i: Array
    p_f: Array
    p_o: Array


class ProjectedLSTMParams(NamedTuple):
    """Parameters of `ProjectedLSTM`: `w_ih [I, 4H]`, `w_hh [P, 4H]`, `b [4H]`, `w_hr [H, P]`."""

    w_ih: Array
    w_hh: Array
    b: Array | None
    w_hr: Array


def memory_update(i: Array, f: Array, g: Array, o: Array, c_tm1: Array) -> LSTMState:
    """Compute the state after a step of an LSTM from the activated gates.

    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)
    """
    c = f * c_tm1 + i * g
    return LSTMState(o * jnp.tanh(c), c)


@dataclasses.dataclass(frozen=True)
class MemoryCell(GatedCell[Any, LSTMState]):
    """Base class of all LSTMs, dense or convolutional.

    The class defines the state, the gates i, f, g and o, and the update of the state.
    """

    gates: ClassVar[int] = 4

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> LSTMState:
        *space, _ = self._hidden_shape
        return LSTMState(
            h=jnp.zeros(ops.batched(batch_shape, *self._hidden_shape), dtype),
            c=jnp.zeros(ops.batched(batch_shape, *space, self.hidden_size), dtype),
        )

    def recurrent_input(self, state: LSTMState) -> Array:
        return state.h

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        i, f, g, o = self.gate_values(p, gates, state).values()
        return memory_update(i, f, g, o, state.c)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        z_i, z_f, z_g, z_o = gates
        i, f, o = jax.nn.sigmoid(z_i), jax.nn.sigmoid(z_f), jax.nn.sigmoid(z_o)
        return {"i": i, "f": f, "g": jnp.tanh(z_g), "o": o}


@dataclasses.dataclass(frozen=True)
class GatedLSTM(MemoryCell):
    """Base class of the dense LSTMs, which draws the weights and fixes the order of the gates.

    A subclass must define `init`, which may add parameters. A subclass whose equations differ from
    those of `LSTM` overrides `update` or `gate_values`.

    Attributes:
      forget_bias: see `LSTM`.
      chrono: see `LSTM`.

    Example:
      >>> issubclass(LSTM, GatedLSTM), LSTM.gates
      (True, 4)
    """

    forget_gate: ClassVar[int] = 1
    input_gate: ClassVar[int | None] = 0

    _: dataclasses.KW_ONLY
    forget_bias: float = 0.0
    chrono: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_number("forget_bias", self.forget_bias)
        if self.chrono is not None:
            initializers.Chrono(self.chrono)
            if self.forget_bias:
                raise ValueError(
                    "forget_bias: expected 0 with chrono, which draws this bias, got "
                    f"{self.forget_bias}"
                )
        if not self.use_bias and (self.chrono is not None or self.forget_bias):
            raise ValueError("use_bias: expected True with forget_bias or chrono, got False")

    def recur(self, p: Any, r: Array) -> Slots:
        return ops.split(ops.matmul(r, p.w_hh), self.gates)

    def recurrent_matrix(self, p: Any) -> Array | None:
        w_hh: Array = p.w_hh
        return w_hh

    def _init(self, key: PRNGKey, dtype: Any) -> tuple[Array, Array, Array | None]:
        k_ih, k_hh, k_b, k_chrono = self.keys(key, 4)
        w_ih = self._input_weights(k_ih, dtype)
        w_hh = self._recurrent_weights(k_hh, self.gates, dtype)
        b = self._biases(k_b, dtype)
        return w_ih, w_hh, b if b is None else self._gate_biases(b, k_chrono)

    def _gate_biases(self, b: Array, key: PRNGKey) -> Array:
        """Return the biases `b`, changed as the option `forget_bias` or `chrono` requires."""
        if self.chrono is None and not self.forget_bias:
            return b
        blocks = list(ops.split(b, self.gates))
        if self.chrono is None:
            blocks[self.forget_gate] += self.forget_bias
        else:
            keep = initializers.Chrono(self.chrono)(key, (self.hidden_size,), b.dtype)
            blocks[self.forget_gate] = keep
            if self.input_gate is not None:
                blocks[self.input_gate] = -keep
        return jnp.concatenate(blocks)


@dataclasses.dataclass(frozen=True)
class LSTM(GatedLSTM):
    r"""Long short-term memory with a forget gate, as in PyTorch, Keras and cuDNN.

        [z_i z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        i, f, o = σ(z_i), σ(z_f), σ(z_o)      g = tanh(z_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)
        y_t = h_t

    Attributes:
      forget_bias: a number that is added to the initial bias of the forget gate. If `forget_bias`
        is 1, the cell remembers for longer at the start of training than with the default, 0.
      chrono: the longest time span to remember, in steps. If `chrono` is given, the initial biases
        of the forget gate are drawn as log U(1, chrono - 1), and the initial biases of the input
        gate are their negatives.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Hochreiter, Schmidhuber (1997), Long short-term memory; Gers, Schmidhuber, Cummins (2000),
      Learning to forget. For `chrono`: Tallec, Ollivier (2018), Can recurrent neural networks warp
      time?

    Example:
      >>> cell = LSTM(3, 5, forget_bias=1.0)
      >>> params = cell.init(jax.random.key(0))
      >>> params.b[5:10].tolist()
      [1.0, 1.0, 1.0, 1.0, 1.0]
      >>> y_t, state = cell.step(params, jnp.ones([2, 3]), cell.initial_state([2]))
      >>> bool((state.h == y_t).all()), state.c.shape
      (True, (2, 5))
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LSTMParams:
        return LSTMParams(*self._init(key, dtype))

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)


@dataclasses.dataclass(frozen=True)
class PeepholeLSTM(GatedLSTM):
    r"""An LSTM whose gates i, f and o also read the memory (peephole connections).

        i = σ(z_i + p_i ⊙ c_{t-1})      f = σ(z_f + p_f ⊙ c_{t-1})      g = tanh(z_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g
        o = σ(z_o + p_o ⊙ c_t)
        h_t = o ⊙ tanh(c_t)

    Here z is computed as in `LSTM`. The initial values of the peephole weights are zero.

    Attributes:
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Gers, Schmidhuber (2000), Recurrent nets that time and count; Graves (2013), Generating
      sequences with recurrent neural networks, eq. 7-11.

    Example:
      >>> PeepholeLSTM(3, 5).init(jax.random.key(0)).p_f.shape
      (5,)
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> PeepholeLSTMParams:
        p_i, p_f, p_o = (jnp.zeros(self.hidden_size, dtype) for _ in range(3))
        return PeepholeLSTMParams(*self._init(key, dtype), p_i, p_f, p_o)

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        z_i, z_f, z_g, z_o = gates
        i = jax.nn.sigmoid(z_i + ops.scaled(p.p_i, state.c))
        f = jax.nn.sigmoid(z_f + ops.scaled(p.p_f, state.c))
        g = jnp.tanh(z_g)
        c = f * state.c + i * g
        o = jax.nn.sigmoid(z_o + ops.scaled(p.p_o, c))
        return {"i": i, "f": f, "g": g, "o": o}


@dataclasses.dataclass(frozen=True)
class CoupledLSTM(GatedLSTM):
    r"""An LSTM with coupled input and forget gates (CIFG).

    Because i = 1 - f, the cell has only the gates f, g and o:

        [z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        f, o = σ(z_f), σ(z_o)      g = tanh(z_g)      i = 1 - f
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)

    Attributes:
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Greff, Srivastava, Koutník, Steunebrink, Schmidhuber (2017), LSTM: a search space odyssey.

    Example:
      >>> CoupledLSTM(3, 5).init(jax.random.key(0)).w_hh.shape
      (5, 15)
    """

    gates: ClassVar[int] = 3
    forget_gate: ClassVar[int] = 0
    input_gate: ClassVar[int | None] = None

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LSTMParams:
        return LSTMParams(*self._init(key, dtype))

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        f, g, o = self.gate_values(p, gates, state).values()
        return memory_update(1 - f, f, g, o, state.c)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        z_f, z_g, z_o = gates
        return {"f": jax.nn.sigmoid(z_f), "g": jnp.tanh(z_g), "o": jax.nn.sigmoid(z_o)}


@dataclasses.dataclass(frozen=True)
class ProjectedLSTM(GatedLSTM):
    r"""An LSTM whose hidden state is projected to P features.

        i, f, g, o, c_t are computed as in `LSTM`; h_{t-1} has P features
        h_t = (o ⊙ tanh(c_t)) W_hr

    Attributes:
      proj_size: the number P of features of the hidden state. The default is half of `hidden_size`.
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., P], c [..., H])`. Output: `h_t [..., P]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Sak, Senior, Beaufays (2014), Long short-term memory recurrent neural network architectures
      for large scale acoustic modeling; PyTorch's `LSTM(proj_size=…)`.

    Example:
      >>> cell = ProjectedLSTM(3, 5, proj_size=2)
      >>> jax.tree.map(jnp.shape, cell.initial_state())
      LSTMState(h=(2,), c=(5,))
    """

    _: dataclasses.KW_ONLY
    proj_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size = max(1, self.hidden_size // 2) if self.proj_size is None else self.proj_size
        object.__setattr__(self, "proj_size", checks.require_integer("proj_size", size))

    @property
    def _hidden_shape(self) -> Shape:
        return (checks.require_integer("proj_size", self.proj_size),)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ProjectedLSTMParams:
        k_cell, k_hr = self.keys(key, 2)
        shape = (self.hidden_size, *self._hidden_shape)
        return ProjectedLSTMParams(
            *self._init(k_cell, dtype), self.draw("kernel_init", k_hr, shape, 1, dtype)
        )

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        full, c = super().update(p, gates, state)
        return LSTMState(ops.matmul(full, p.w_hr), c)
