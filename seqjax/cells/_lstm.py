"""Long short-term memory and its kin.

All share the state `LSTMState(h, c)` and gates in column blocks of width H; they differ in which
gates there are and in what the gates see.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._base import GatedCell
from seqjax.types import Array, PRNGKey, Shape, Slots

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
    """Parameters of `LSTM` (G = 4) and `CoupledLSTM` (G = 3): `w_ih [I, G*H]`, `w_hh [H, G*H]`,
    `b [G*H]`.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None


class PeepholeLSTMParams(NamedTuple):
    """Parameters of `PeepholeLSTM`: those of `LSTM`, and `p_i`, `p_f`, `p_o`, each `[H]`."""

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
    """The equations every LSTM ends with, from activated gates.

    c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
    h_t = o_t ⊙ tanh(c_t)
    """
    c = f * c_tm1 + i * g
    return LSTMState(o * jnp.tanh(c), c)


@dataclasses.dataclass(frozen=True)
class MemoryCell(GatedCell[Any, LSTMState]):
    """Base of all LSTMs, whatever their products are: the state, the gates i, f, g, o, the step."""

    gates: ClassVar[int] = 4

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> LSTMState:
        *space, _ = self.output_shape
        return LSTMState(
            h=jnp.zeros(ops.batched(batch_shape, *self.output_shape), dtype),
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
    """Base of the LSTMs: sizes, initialisation, how gates are laid out.

    A subclass gives `init`, which adds its own parameters, and what differs in `update`.

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
                    f"forget_bias: expected 0 with chrono, which draws it, got {self.forget_bias}"
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
        """Applies `forget_bias` or `chrono` to the drawn biases."""
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
    r"""Long short-term memory with a forget gate, as PyTorch, Keras and cuDNN have it.

        [z_i z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        i, f, o = σ(z_i), σ(z_f), σ(z_o)      g = tanh(z_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)
        y_t = h_t

    Attributes:
      forget_bias: added to the forget gate's initial bias; 1 helps long memories.
      chrono: the longest time span to remember, in steps; draws forget biases log U(1, chrono-1)
        and input biases the negative of it.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

    References:
      Hochreiter, Schmidhuber (1997), Long short-term memory; Gers, Schmidhuber, Cummins (2000),
      Learning to forget; Tallec, Ollivier (2018) for `chrono`.

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


@dataclasses.dataclass(frozen=True)
class PeepholeLSTM(GatedLSTM):
    r"""An LSTM whose gates see the memory.

        i = σ(z_i + p_i ⊙ c_{t-1})      f = σ(z_f + p_f ⊙ c_{t-1})      g = tanh(z_g)
        c_t = f ⊙ c_{t-1} + i ⊙ g
        o = σ(z_o + p_o ⊙ c_t)
        h_t = o ⊙ tanh(c_t)

    with z as in `LSTM`. Peephole weights start at zero.

    Attributes:
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

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
    r"""An LSTM that writes just as much as it forgets (CIFG); three gates f, g, o.

        [z_f z_g z_o] = x_t W_ih + h_{t-1} W_hh + b
        f, o = σ(z_f), σ(z_o)      g = tanh(z_g)      i = 1 - f
        c_t = f ⊙ c_{t-1} + i ⊙ g
        h_t = o ⊙ tanh(c_t)

    Attributes:
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

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

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        f, g, o = self.gate_values(p, gates, state).values()
        return memory_update(1 - f, f, g, o, state.c)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        z_f, z_g, z_o = gates
        return {"f": jax.nn.sigmoid(z_f), "g": jnp.tanh(z_g), "o": jax.nn.sigmoid(z_o)}


@dataclasses.dataclass(frozen=True)
class ProjectedLSTM(GatedLSTM):
    r"""An LSTM whose recurrent state is a projection of P features, fewer than H.

        i, f, g, o, c_t as in `LSTM`, with h_{t-1} of P features
        h_t = (o ⊙ tanh(c_t)) W_hr

    Attributes:
      proj_size: P; half of `hidden_size` if not given.
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., P], c [..., H])`. Output: `h_t [..., P]`.

    Raises:
      TypeError, ValueError: a size that is not a positive integer, an unknown initialiser.

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
    def output_shape(self) -> Shape:
        return (checks.require_integer("proj_size", self.proj_size),)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ProjectedLSTMParams:
        k_cell, k_hr = self.keys(key, 2)
        shape = (self.hidden_size, *self.output_shape)
        return ProjectedLSTMParams(
            *self._init(k_cell, dtype), self.draw("kernel_init", k_hr, shape, 1, dtype)
        )

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        full, c = super().update(p, gates, state)
        return LSTMState(ops.matmul(full, p.w_hr), c)
