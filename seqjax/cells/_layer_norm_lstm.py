"""The LSTM with layer normalisation."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._lstm import GatedLSTM, LSTMState
from seqjax.types import Array, PRNGKey, Slots

__all__ = ["LayerNormLSTM", "LayerNormLSTMParams"]


class LayerNormLSTMParams(NamedTuple):
    """Parameters of `LayerNormLSTM`: `w_ih [I, 4H]`, `w_hh [H, 4H]`, `b [4H]`, `gain_x [4H]`,
    `gain_h [4H]`, `gain_c [H]`, `bias_c [H]`.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None
    gain_x: Array
    gain_h: Array
    gain_c: Array
    bias_c: Array


@dataclasses.dataclass(frozen=True)
class LayerNormLSTM(GatedLSTM):
    r"""An LSTM that normalises its pre-activations and its memory.

        z = α_x ⊙ LN(x_t W_ih) + α_h ⊙ LN(h_{t-1} W_hh) + b
        i, f, g, o, c_t follow from z as in `LSTM`
        h_t = o ⊙ tanh(α_c ⊙ LN(c_t) + β_c)

    LN(v) = (v - mean v) / √(var v + ε). The mean and the variance of a product are taken over all
    its 4H columns.

    Attributes:
      epsilon: the positive number ε, which prevents division by zero.
      forget_bias, chrono: see `LSTM`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `LSTMState(h [..., H], c [..., H])`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, an initialiser is unknown, or ε is
        not positive.

    References:
      Ba, Kiros, Hinton (2016), Layer normalization, eq. 20-22.

    Example:
      >>> import jax
      >>> LayerNormLSTM(3, 5).init(jax.random.key(0)).gain_h.shape
      (20,)
    """

    _: dataclasses.KW_ONLY
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_positive("epsilon", self.epsilon)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> LayerNormLSTMParams:
        columns = self.gates * self.hidden_size
        return LayerNormLSTMParams(
            *self._init(key, dtype),
            gain_x=jnp.ones(columns, dtype),
            gain_h=jnp.ones(columns, dtype),
            gain_c=jnp.ones(self.hidden_size, dtype),
            bias_c=jnp.zeros(self.hidden_size, dtype),
        )

    def project(self, p: Any, x: Array) -> Slots:
        z = ops.scaled(p.gain_x, self._normalized(ops.matmul(x, p.w_ih)))
        return (*ops.split(ops.biased(z, p.b), self.gates), None)

    def recur(self, p: Any, r: Array) -> Slots:
        return (None,) * self.gates + (ops.matmul(r, p.w_hh),)

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        i, f, g, o = self.gate_values(p, gates, state).values()
        c = f * state.c + i * g
        normalized = ops.scaled(p.gain_c, self._normalized(c))
        return LSTMState(o * jnp.tanh(ops.biased(normalized, p.bias_c)), c)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        *projected, product = gates
        recurrent = ops.split(ops.scaled(p.gain_h, self._normalized(product)), self.gates)
        z = tuple(x + h for x, h in zip(projected, recurrent, strict=True))
        return super().gate_values(p, z, state)

    def _normalized(self, v: Array) -> Array:
        return ops.standardized(v, self.epsilon)
