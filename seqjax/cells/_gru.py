"""Gated recurrent units: the two usual forms, and the minimal gated unit.

The usual forms differ in the reset gate, which acts before or after the recurrent product.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.cells import initializers, ops
from seqjax.cells._base import GatedCell
from seqjax.types import Array, PRNGKey, PyTree, Slots

__all__ = ["GRU", "MGU", "ChoGRU", "ChoGRUParams", "GRUParams", "MGUParams"]


class GRUParams(NamedTuple):
    """Parameters of `GRU`: `w_ih [I, 3H]`, `w_hh [H, 3H]`, `b [3H]`, `b_hn [H]`.

    Each gate has a block of H columns, in the order r, z, n.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None
    b_hn: Array | None


class ChoGRUParams(NamedTuple):
    """Parameters of `ChoGRU`: `w_ih [I, 3H]`, `w_hh [H, 2H]`, `w_hn [H, H]`, `b [3H]`.

    Each gate has a block of H columns, in the order r, z, n in `w_ih` and `b`, and r, z in `w_hh`.
    """

    w_ih: Array
    w_hh: Array
    w_hn: Array
    b: Array | None


class MGUParams(NamedTuple):
    """Parameters of `MGU`: `w_ih [I, 2H]`, `w_hf [H, H]`, `w_hn [H, H]`, `b [2H]`.

    In `w_ih` and `b`, f and n each have a block of H columns, in this order.
    """

    w_ih: Array
    w_hf: Array
    w_hn: Array
    b: Array | None


def interpolated(z: Array, n: Array, h_tm1: Array) -> Array:
    """Return the state after a step of a GRU: h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}."""
    return (1 - z) * n + z * h_tm1


@dataclasses.dataclass(frozen=True)
class _GRU(GatedCell[Any, Array]):
    """Base class of the cells of this module.

    `recur` returns one more array than the cell has gates. To match, `project` appends None.
    """

    def recurrent_input(self, state: Array) -> Array:
        return state

    def project(self, p: Any, x: Array) -> Slots:
        return (*super().project(p, x), None)


@dataclasses.dataclass(frozen=True)
class _ResetGRU(_GRU):
    """Base class of cells with gates r, z, n. The option `chrono` sets the initial biases of z."""

    gates: ClassVar[int] = 3

    _: dataclasses.KW_ONLY
    chrono: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chrono is not None:
            initializers.Chrono(self.chrono)
            if not self.use_bias:
                raise ValueError("use_bias: expected True with chrono, got False")

    def _biases(self, key: PRNGKey, dtype: Any) -> Array | None:
        k_b, k_chrono = self.keys(key, 2)
        b = super()._biases(k_b, dtype)
        if b is None or self.chrono is None:
            return b
        b_r, _, b_n = ops.split(b, self.gates)
        b_z = initializers.Chrono(self.chrono)(k_chrono, (self.hidden_size,), b.dtype)
        return jnp.concatenate([b_r, b_z, b_n])

    def update(self, p: Any, gates: Any, state: Array) -> Array:
        _, z, n = self.gate_values(p, gates, state).values()
        return interpolated(z, n, state)


@dataclasses.dataclass(frozen=True)
class GRU(_ResetGRU):
    r"""A gated recurrent unit whose reset gate acts after the product (PyTorch, cuDNN, Keras).

        [p_r p_z p_n] = x_t W_ih + b          [q_r q_z q_n] = h_{t-1} W_hh
        r, z = σ(p_r + q_r), σ(p_z + q_z)
        n = tanh(p_n + r ⊙ (q_n + b_hn))
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
        y_t = h_t

    The reset gate also multiplies the bias b_hn, which `flax.nnx.GRUCell` does not have. PyTorch
    has two biases for r and two for z. Only the sum of a gate's two biases matters, so this cell
    has one bias for r and one for z.

    Attributes:
      chrono: the longest time span to remember, in steps. If `chrono` is given, the initial biases
        of z are drawn as log U(1, chrono - 1).
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Cho et al. (2014), Learning phrase representations using RNN encoder-decoder for statistical
      machine translation. The form with the reset gate after the product is that of cuDNN.

    Example:
      >>> cell = GRU(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, h_t = cell.step(params, jnp.ones([2, 3]), cell.initial_state([2]))
      >>> params.b_hn.shape, y_t.shape
      ((5,), (2, 5))
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> GRUParams:
        k_ih, k_hh, k_b, k_hn = self.keys(key, 4)
        return GRUParams(
            w_ih=self._input_weights(k_ih, dtype),
            w_hh=self._recurrent_weights(k_hh, self.gates, dtype),
            b=self._biases(k_b, dtype),
            b_hn=self.draw_bias(k_hn, self.hidden_size, 1, dtype),
        )

    def recur(self, p: Any, r: Array) -> Slots:
        q_r, q_z, q_n = ops.split(ops.matmul(r, p.w_hh), 3)
        return q_r, q_z, None, q_n

    def recurrent_matrix(self, p: Any) -> Array | None:
        w_hh: Array = p.w_hh
        return w_hh

    def parameter_units(self, p: Any) -> PyTree:
        return ops.column_units(p, self.hidden_size)

    def gate_values(self, p: Any, gates: Any, state: Array) -> dict[str, Array]:
        z_r, z_z, p_n, q_n = gates
        q_n = ops.biased(q_n, p.b_hn)
        r, z = jax.nn.sigmoid(z_r), jax.nn.sigmoid(z_z)
        return {"r": r, "z": z, "n": jnp.tanh(p_n + r * q_n)}


@dataclasses.dataclass(frozen=True)
class ChoGRU(_ResetGRU):
    r"""The gated recurrent unit as first published, whose reset gate acts before the product.

        [p_r p_z p_n] = x_t W_ih + b          [q_r q_z] = h_{t-1} W_hh
        r, z = σ(p_r + q_r), σ(p_z + q_z)
        n = tanh(p_n + (r ⊙ h_{t-1}) W_hn)
        h_t = (1 - z) ⊙ n + z ⊙ h_{t-1}
        y_t = h_t

    In Keras, this cell is `GRU(reset_after=False)`.

    Attributes:
      chrono: see `GRU`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Cho et al. (2014), Learning phrase representations using RNN encoder-decoder for statistical
      machine translation, eq. 5-8.

    Example:
      >>> params = ChoGRU(3, 5).init(jax.random.key(0))
      >>> params.w_hh.shape, params.w_hn.shape
      ((5, 10), (5, 5))
    """

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> ChoGRUParams:
        k_ih, k_hh, k_hn, k_b = self.keys(key, 4)
        return ChoGRUParams(
            w_ih=self._input_weights(k_ih, dtype),
            w_hh=self._recurrent_weights(k_hh, 2, dtype),
            w_hn=self._recurrent_weights(k_hn, 1, dtype),
            b=self._biases(k_b, dtype),
        )

    def recur(self, p: Any, r: Array) -> Slots:
        q_r, q_z = ops.split(ops.matmul(r, p.w_hh), 2)
        return q_r, q_z, None, r

    def gate_values(self, p: Any, gates: Any, state: Array) -> dict[str, Array]:
        z_r, z_z, p_n, h_in = gates
        r, z = jax.nn.sigmoid(z_r), jax.nn.sigmoid(z_z)
        return {"r": r, "z": z, "n": jnp.tanh(p_n + ops.matmul(r * h_in, p.w_hn))}


@dataclasses.dataclass(frozen=True)
class MGU(_GRU):
    r"""A minimal gated unit. One gate f serves as reset gate and as update gate.

        [p_f p_n] = x_t W_ih + b
        f = σ(p_f + h_{t-1} W_hf)
        n = tanh(p_n + (f ⊙ h_{t-1}) W_hn)
        h_t = (1 - f) ⊙ h_{t-1} + f ⊙ n
        y_t = h_t

    Attributes:
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`.

    State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or an initialiser is unknown.

    References:
      Zhou, Wu, Zhang, Zhou (2016), Minimal gated unit for recurrent neural networks, table 1.

    Example:
      >>> MGU(3, 5).init(jax.random.key(0)).w_ih.shape
      (3, 10)
    """

    gates: ClassVar[int] = 2

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> MGUParams:
        k_ih, k_hf, k_hn, k_b = self.keys(key, 4)
        return MGUParams(
            w_ih=self._input_weights(k_ih, dtype),
            w_hf=self._recurrent_weights(k_hf, 1, dtype),
            w_hn=self._recurrent_weights(k_hn, 1, dtype),
            b=self._biases(k_b, dtype),
        )

    def recur(self, p: Any, r: Array) -> Slots:
        return ops.matmul(r, p.w_hf), None, r

    def update(self, p: Any, gates: Any, state: Array) -> Array:
        f, n = self.gate_values(p, gates, state).values()
        return interpolated(1 - f, n, state)

    def gate_values(self, p: Any, gates: Any, state: Array) -> dict[str, Array]:
        z_f, p_n, h_in = gates
        f = jax.nn.sigmoid(z_f)
        return {"f": f, "n": jnp.tanh(p_n + ops.matmul(f * h_in, p.w_hn))}
