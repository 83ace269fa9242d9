"""The GRU-D: a gated recurrent unit for missing values and for steps at irregular times."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import GatedCell, Role
from seqjax.cells._gru import interpolated
from seqjax.types import Array, PRNGKey, Shape, Slots

__all__ = ["GRUD", "GRUDParams", "GRUDState"]


class GRUDParams(NamedTuple):
    """Parameters of `GRUD`, in which each gate has a block of H columns, in the order r, z, n.

    `w_ih [I, 3H]` multiplies the values, `w_mh [I, 3H]` the mask, `w_hh [H, 2H]` and `w_hn [H, H]`
    the hidden state. The biases are `b [3H]`. The decay of the hidden state has `w_dh [I, H]` and
    `b_dh [H]`, and the decay of the values has `w_dx [I]` and `b_dx [I]`.
    """

    w_ih: Array
    w_mh: Array
    w_hh: Array
    w_hn: Array
    b: Array | None
    w_dh: Array
    b_dh: Array | None
    w_dx: Array
    b_dx: Array | None


class GRUDState(NamedTuple):
    """The state of `GRUD`.

    Attributes:
      h: the hidden state `[..., H]`.
      last: the last observed value of each feature `[..., I]`.
      since: the time since each feature was observed `[..., I]`, in float32 or wider.
    """

    h: Array
    last: Array
    since: Array


@dataclasses.dataclass(frozen=True)
class GRUD(GatedCell[GRUDParams, GRUDState]):
    r"""A gated recurrent unit with decays, for inputs with missing values and irregular times.

    The input of a step is `[x_t, Δ_t]`: the features, and the time since the previous step. A
    feature that is NaN is missing. m_t is 1 for features that are observed and 0 for missing ones.

        δ_t = since_{t-1} + Δ_t
        γ_x = exp(-max(0, w_dx ⊙ δ_t + b_dx))      γ_h = exp(-max(0, δ_t W_dh + b_dh))
        x̂_t = m_t ⊙ x_t + (1 - m_t) ⊙ (γ_x ⊙ last_{t-1} + (1 - γ_x) ⊙ means)
        ĥ = γ_h ⊙ h_{t-1}
        r, z = σ(x̂_t W_ir + ĥ W_hr + m_t W_mr + b_r), σ(x̂_t W_iz + ĥ W_hz + m_t W_mz + b_z)
        n = tanh(x̂_t W_in + (r ⊙ ĥ) W_hn + m_t W_mn + b_n)
        h_t = (1 - z) ⊙ ĥ + z ⊙ n
        last_t = m_t ⊙ x_t + (1 - m_t) ⊙ last_{t-1}      since_t = (1 - m_t) ⊙ δ_t
        y_t = h_t

    Without an observation, the assumed value of a feature moves from its last value to its mean,
    and the hidden state moves to zero. NaN has no effect on gradients.

    The weights of the decays are drawn from uniform distributions from 0 to 1/I (`w_dh`) and from 0
    to 1 (`w_dx`). So choose a unit of time in which a typical step has an elapsed time of about 1.

    Attributes:
      means: the mean of each feature over the observed values of the training data, which is also
        the assumed value before the first observation: a sequence of I numbers, or one number for
        all features. The default, 0, fits standardised features.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`. `kernel_init` also draws
        `w_mh`.

    Input: `[..., I+1]`. The last entry is the time, which `unroll` and layers append if they are
    called with `elapsed`. State: `GRUDState(h, last, since)`. Output: `h_t [..., H]`.

    Zoneout and a learned initial state apply only to h.

    Raises:
      TypeError, ValueError: a size is not a positive integer, an initialiser is unknown, or the
        means are not one finite number or I of them.

    References:
      Che, Purushotham, Cho, Sontag, Liu (2018), Recurrent neural networks for multivariate time
      series with missing values, eq. 2 and 10-18.

    Example:
      >>> cell = GRUD(2, 5, means=(0.0, 20.0))
      >>> params = cell.init(jax.random.key(0))
      >>> x_t = jnp.array([3.0, jnp.nan, 0.5])  # two features, and half a unit of time
      >>> y_t, state = cell.step(params, x_t, cell.initial_state())
      >>> state.last.tolist(), state.since.tolist(), y_t.shape
      ([3.0, 20.0], [0.0, 0.5], (5,))
    """

    gates: ClassVar[int] = 3
    reads_elapsed: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    means: float | Sequence[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        means: Any = self.means
        if np.ndim(means):
            means = tuple(checks.require_number("means", mean) for mean in means)
        else:
            means = checks.require_number("means", means)
        if np.shape(means) not in ((), (self.input_size,)):
            raise ValueError(
                f"means: expected one number or {self.input_size} of them, got {means}"
            )
        object.__setattr__(self, "means", means)

    def stacked_on(self, input_size: int) -> Self:
        return dataclasses.replace(self, input_size=input_size, means=0.0)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> GRUDParams:
        k_ih, k_mh, k_hh, k_hn, k_b, k_dh, k_bh, k_dx, k_bx = self.keys(key, 9)
        w_ih, w_mh = self._input_weights(k_ih, dtype), self._input_weights(k_mh, dtype)
        shape = (self.input_size, self.hidden_size)
        return GRUDParams(
            w_ih=w_ih,
            w_mh=w_mh,
            w_hh=self._recurrent_weights(k_hh, 2, dtype),
            w_hn=self._recurrent_weights(k_hn, 1, dtype),
            b=self._biases(k_b, dtype),
            w_dh=jax.random.uniform(k_dh, shape, dtype, 0.0, 1 / self.input_size),
            b_dh=self.draw_bias(k_bh, self.hidden_size, 1, dtype),
            w_dx=jax.random.uniform(k_dx, (self.input_size,), dtype),
            b_dx=self.draw_bias(k_bx, self.input_size, 1, dtype),
        )

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> GRUDState:
        shape = ops.batched(batch_shape, self.input_size)
        return GRUDState(
            h=super().initial_state(batch_shape, dtype),
            last=jnp.broadcast_to(jnp.asarray(self.means, dtype), shape),
            since=jnp.zeros(shape, ops.accumulator_dtype(dtype)),
        )

    def state_roles(self) -> GRUDState:
        hidden: Any = Role(held=True, learned=True)
        observed: Any = Role(held=False, learned=False)
        return GRUDState(hidden, observed, observed)

    def project(self, p: GRUDParams, x: Array) -> Slots:
        values, elapsed = ops.split_elapsed(x)
        # The values are selected before anything is computed from them, since in a gradient
        # 0 · NaN is NaN.
        known = ~jnp.isnan(values)
        values = jnp.where(known, values, 0).astype(elapsed.dtype)
        z_r, z_z, z_n = ops.split(ops.affine(known.astype(x.dtype), p.w_mh, p.b), 3)
        return z_r, z_z, z_n, None, values, known.astype(elapsed.dtype), elapsed

    def arrive(self, p: GRUDParams, projected: Any, state: GRUDState) -> GRUDState:
        since = state.since + projected[-1]
        return state._replace(h=_decay(ops.affine(since, p.w_dh, p.b_dh)) * state.h, since=since)

    def recurrent_input(self, state: GRUDState) -> Array:
        return state.h

    def recur(self, p: GRUDParams, r: Array) -> Slots:
        q_r, q_z = ops.split(ops.matmul(r, p.w_hh), 2)
        return q_r, q_z, None, r, None, None, None

    def update(self, p: GRUDParams, gates: Any, state: GRUDState) -> GRUDState:
        *_, values, known, _ = gates
        _, z, n = self.gate_values(p, gates, state).values()
        return GRUDState(
            h=interpolated(1 - z, n, state.h),
            last=known * values + (1 - known) * state.last,
            since=(1 - known) * state.since,
        )

    def gate_values(self, p: GRUDParams, gates: Any, state: GRUDState) -> dict[str, Array]:
        z_r, z_z, z_n, h_in, values, known, _ = gates
        decay = _decay(ops.biased(ops.scaled(p.w_dx, state.since), p.b_dx))
        means = jnp.broadcast_to(jnp.asarray(self.means, decay.dtype), decay.shape)
        assumed = decay * state.last + (1 - decay) * means
        x = known * values + (1 - known) * assumed
        p_r, p_z, p_n = ops.split(ops.matmul(x, p.w_ih), 3)
        r, z = jax.nn.sigmoid(z_r + p_r), jax.nn.sigmoid(z_z + p_z)
        return {"r": r, "z": z, "n": jnp.tanh(z_n + p_n + ops.matmul(r * h_in, p.w_hn))}


def _decay(z: Array) -> Array:
    """Return exp(-max(0, z))."""
    return jnp.exp(-jax.nn.relu(z))
