"""The scalar LSTM of the xLSTM family: exponential gates, a normaliser, and heads."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import initializers, ops
from seqjax.cells._base import GatedCell, Role
from seqjax.types import Array, Initializer, PRNGKey, PyTree, Shape, Slots

__all__ = ["SLSTM", "SLSTMParams", "SLSTMState"]

EPSILON = 1e-5  # of the norm within each head, as in the authors' code


class SLSTMParams(NamedTuple):
    """Parameters of `SLSTM` with N heads of D units: `w_ih [I, 4H]`, `w_hh [N, D, 4D]`, `b [4H]`,
    `gain_h [H]`. The blocks of columns are the gates i, f, z, o.

    `gain_h` is None if the cell does not normalise its output.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None
    gain_h: Array | None


class SLSTMState(NamedTuple):
    """The state of an `SLSTM`, four arrays `[..., H]`.

    Attributes:
      h: the hidden state.
      c: the memory, divided by exp(m).
      n: the normaliser, divided by exp(m). It is 0 before the first step and at least 1 after it.
      m: the stabiliser, the logarithm of the scale of c and n.
    """

    h: Array
    c: Array
    n: Array
    m: Array


@dataclasses.dataclass(frozen=True)
class SLSTM(GatedCell[SLSTMParams, SLSTMState]):
    r"""The scalar LSTM of the xLSTM family, with exponential gates.

        [z_i z_f z_z z_o] = x_t W_ih + h_{t-1} W_hh + b
        log i = z_i      log f = log σ(z_f), or z_f      z = tanh(z_z)      o = σ(z_o)
        m_t = max(log f + m_{t-1}, log i)
        i', f' = exp(log i - m_t), exp(log f + m_{t-1} - m_t)
        c_t = f' ⊙ c_{t-1} + i' ⊙ z      n_t = f' ⊙ n_{t-1} + i'
        h_t = o ⊙ c_t / n_t
        y_t = h_t, or gain_h ⊙ GN(h_t)

    The ratio c / n is a weighted mean of all z. With a large i, one step can replace all that the
    memory contains. m_t keeps the exponentials in range: i' and f' are at most 1, and one of the
    two is 1.

    Units belong to heads, and each head reads only its own units of h_{t-1}: W_hh has one block for
    each head. GN(h) = (h - mean h) / √(var h + ε), with the mean and the variance of each head.

    At the first step and after a reset, n_{t-1} = 0. Then m_t = log i, so that c_t = z and n_t = 1.
    The first output does not depend on i and f.

    c, n and m have a meaning only together. So zoneout acts only on h, and only the initial value
    of h can be learned. c, n and m are at least float32, also for inputs in half precision: n adds
    up many steps, and m is a logarithm of large numbers.

    Attributes:
      num_heads: the number of heads, N, a divisor of `hidden_size`.
      forget_gate: "sigmoid" or "exponential". With "exponential", log f = z_f. Then f may exceed 1,
        and m_t may grow with the number of steps.
      head_norm: whether the output is normalised within each head. The recurrence always reads h_t
        without the norm.
      forget_init: the initialiser of the forget gate's biases: a name in
        `seqjax.cells.initializers.INITIALIZERS`, or a function. It draws an array `[D]` for each
        head. `bias_init` draws the biases of the other gates.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`. The default initialisers
        are those of the authors' code, so the recurrent weights are initially zero.

    State: `SLSTMState(h, c, n, m)`, each `[..., H]`. Output: `y_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, the number of heads does not divide
        `hidden_size`, or an option or initialiser is unknown.

    References:
      Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter (2024),
      xLSTM: Extended long short-term memory, eq. 8-17 and appendix A.

    Example:
      >>> cell = SLSTM(3, 6, num_heads=2)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, state = cell.step(params, jnp.ones([2, 3]), cell.initial_state([2]))
      >>> params.w_hh.shape, y_t.shape, bool((state.n == 1).all())
      ((2, 3, 12), (2, 6), True)
    """

    gates: ClassVar[int] = 4

    _: dataclasses.KW_ONLY
    kernel_init: str | Initializer = "small"
    recurrent_init: str | Initializer = "zeros"
    num_heads: int = 1
    forget_gate: Literal["sigmoid", "exponential"] = "sigmoid"
    head_norm: bool = False
    forget_init: str | Initializer = "power_law"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_divides("num_heads")
        checks.require_name("forget_gate", self.forget_gate, ("sigmoid", "exponential"))
        checks.require_bool("head_norm", self.head_norm)
        initializers.resolve("forget_init", self.forget_init, self.hidden_size)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> SLSTMParams:
        k_ih, k_hh, k_b = self.keys(key, 3)
        width = self.hidden_size // self.num_heads
        blocks = self.num_heads, width, self.gates * width
        return SLSTMParams(
            w_ih=self._input_weights(k_ih, dtype),
            w_hh=self.draw_heads("recurrent_init", k_hh, blocks, self.gates, dtype),
            b=self._biases(k_b, dtype),
            gain_h=jnp.ones(self.hidden_size, dtype) if self.head_norm else None,
        )

    def _biases(self, key: PRNGKey, dtype: Any) -> Array | None:
        k_b, k_f = self.keys(key, 2)
        others = self.draw_bias(k_b, 3 * self.hidden_size, 3, dtype)
        if others is None:
            return None
        width = self.hidden_size // self.num_heads
        f = self.draw_heads("forget_init", k_f, (self.num_heads, width), 1, dtype)
        i, z, o = ops.split(others, 3)
        return jnp.concatenate([i, f.reshape(-1), z, o])

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> SLSTMState:
        shape = ops.batched(batch_shape, self.hidden_size)
        wide = ops.accumulator_dtype(dtype)
        return SLSTMState(jnp.zeros(shape, dtype), *(jnp.zeros(shape, wide) for _ in range(3)))

    def state_roles(self) -> SLSTMState:
        scaled: Any = Role(held=False, learned=False)
        hidden: Any = Role(held=True, learned=True)
        return SLSTMState(hidden, scaled, scaled, scaled)

    def recurrent_input(self, state: SLSTMState) -> Array:
        return state.h

    def recur(self, p: Any, r: Array) -> Slots:
        return ops.matmul_by_heads(r, p.w_hh, self.gates)

    def parameter_units(self, p: SLSTMParams) -> PyTree:
        units: Any = ops.column_units(p, self.hidden_size)
        return units._replace(w_hh=ops.head_units(p.w_hh), gain_h=None)

    def update(self, p: Any, gates: Any, state: SLSTMState) -> SLSTMState:
        (i, f, z, o), m = self._activated(gates, state)
        c, n = f * state.c + i * z, f * state.n + i
        return SLSTMState(o * c / n, c, n, m)

    def output(self, p: Any, gates: Any, state: SLSTMState) -> Array:
        if not self.head_norm:
            return state.h
        width = self.hidden_size // self.num_heads
        heads = state.h.reshape(*state.h.shape[:-1], self.num_heads, width)
        normalized = ops.standardized(heads, EPSILON)
        return ops.scaled(p.gain_h, normalized.reshape(state.h.shape))

    def gate_values(self, p: Any, gates: Any, state: SLSTMState) -> dict[str, Array]:
        return dict(zip("ifzo", self._activated(gates, state)[0], strict=True))

    def _activated(self, gates: Any, state: SLSTMState) -> tuple[tuple[Array, ...], Array]:
        """Return the gates i', f', z, o, and m_t."""
        log_i, z_f, z_z, z_o = gates
        log_f = jax.nn.log_sigmoid(z_f) if self.forget_gate == "sigmoid" else z_f
        # Where n is 0, there is no memory yet, and its scale has no meaning.
        kept = jnp.where(state.n == 0, -jnp.inf, log_f + state.m)
        m = jnp.maximum(kept, log_i)
        i, f = jnp.exp(log_i - m), jnp.exp(kept - m)
        return (i, f, jnp.tanh(z_z), jax.nn.sigmoid(z_o)), m


@dataclasses.dataclass(frozen=True)
class PairSLSTM(SLSTM):
    """An `SLSTM` of I = H features whose gates i and f read another input than z and o.

    The input is a pair (x_t, v_t). The gates i and f read v_t, which a residual block computes by a
    convolution, and z and o read x_t. The input weights `w_ih [N, D, 4D]` have a block for each
    head, like `w_hh`.

    Example:
      >>> cell = PairSLSTM(6, 6, num_heads=2)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, _ = cell.step(params, (jnp.ones([6]), jnp.zeros([6])), cell.initial_state())
      >>> params.w_ih.shape, y_t.shape
      ((2, 3, 12), (6,))
    """

    @property
    def input_shape(self) -> Any:
        return (self.input_size,), (self.input_size,)

    def _input_weights(self, key: PRNGKey, dtype: Any) -> Array:
        width = self.hidden_size // self.num_heads
        blocks = self.num_heads, width, self.gates * width
        return self.draw_heads("kernel_init", key, blocks, self.gates, dtype)

    def project(self, p: Any, x: Any) -> Slots:
        x_t, v_t = x
        w_if, w_zo = ops.split(p.w_ih, 2)
        gates = (*ops.matmul_by_heads(v_t, w_if, 2), *ops.matmul_by_heads(x_t, w_zo, 2))
        return ops.biased_gates(gates, p.b)
