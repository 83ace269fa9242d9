"""Closed-form continuous-time networks, alone and with the memory of an LSTM."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.cells import ops
from seqjax.cells._base import GatedCell
from seqjax.cells._lstm import LSTM, LSTMParams, LSTMState
from seqjax.types import Array, PRNGKey, Shape, Slots

__all__ = ["CfC", "CfCParams", "MixedCfC", "MixedCfCParams"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "lecun_tanh": lambda z: 1.7159 * jnp.tanh(0.666 * z),
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
}
"""The non-linearities of the backbone by name."""


class CfCParams(NamedTuple):
    """Parameters of `CfC`, for a backbone of L layers with M units.

    `w_ih [I, M]`, `w_hh [H, M]` and `b [M]` belong to the first layer of the backbone, and
    `w_hidden [L-1, M, M]` and `b_hidden [L-1, M]` to its other layers. `w_out [M, 4H]` and
    `b_out [4H]` belong to the output layer, whose columns are the blocks f, g, a, b. In the mode
    "pure", the output layer has only the H columns of f, and there are also `w_tau [H]` and
    `a [H]`. Without a backbone, `w_ih`, `w_hh` and `b` belong to the output layer. Parameters that
    a configuration does not have are None.
    """

    w_ih: Array
    w_hh: Array
    b: Array | None
    w_hidden: Array | None
    b_hidden: Array | None
    w_out: Array | None
    b_out: Array | None
    w_tau: Array | None
    a: Array | None


class MixedCfCParams(NamedTuple):
    """Parameters of `MixedCfC`: those of an `LSTM`, then those of a `CfC`."""

    lstm_w_ih: Array
    lstm_w_hh: Array
    lstm_b: Array | None
    w_ih: Array
    w_hh: Array
    b: Array | None
    w_hidden: Array | None
    b_hidden: Array | None
    w_out: Array | None
    b_out: Array | None
    w_tau: Array | None
    a: Array | None


class _Layers(NamedTuple):
    """The parameters of `CfC` with a matrix and a bias for each layer after the first one."""

    w_ih: Array
    w_hh: Array
    b: Array | None
    later: tuple[tuple[Array, Array | None], ...]
    w_tau: Array | None
    a: Array | None


class _Parts(NamedTuple):
    """The parameters of the two cells of a `MixedCfC`."""

    lstm: LSTMParams
    cfc: _Layers


@dataclasses.dataclass(frozen=True)
class CfC(GatedCell[Any, Any]):
    r"""A closed-form continuous-time network, whose gate depends on the elapsed time.

    The input of a step is `[x_t, Δ_t]`: the features, and the time since the previous step. The
    backbone is a network of L layers with M units and the activation φ:

        u = φ(… φ(x_t W_ih + h_{t-1} W_hh + b) …)
        [z_f z_g z_a z_b] = u W + b
        f, g = tanh(z_f), tanh(z_g)      τ = σ(z_a ⊙ Δ_t + z_b)
        h_t = (1 - τ) ⊙ f + τ ⊙ g                                  mode "default"
        h_t = f + τ ⊙ g                                            mode "no_gate"
        h_t = a - a ⊙ exp(-Δ_t (|w_τ| + |z_f|)) ⊙ z_f              mode "pure"
        y_t = h_t

    The mode "pure" has only the block z_f. The authors call it the direct approximation of the
    solution of the differential equation.

    Attributes:
      mode: "default", "no_gate" or "pure".
      backbone_layers: the number of layers of the backbone, L. With 0, there is no backbone, and
        the output layer reads x_t and h_{t-1}.
      backbone_units: the number of units of each layer of the backbone, M.
      activation: φ, one of "lecun_tanh" (1.7159 tanh(0.666 z)), "tanh", "relu", "silu" and "gelu".
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`. `kernel_init` draws all
        weights but `w_hh`.

    Input: `[..., I+1]`. The last entry is the time, which `unroll` and layers append if they are
    called with `elapsed`. State: `h [..., H]`. Output: `h_t [..., H]`.

    Raises:
      TypeError, ValueError: a size is not a positive integer, or a mode, activation or initialiser
        is unknown.

    References:
      Hasani, Lechner, Amini, Liebenwein, Ray, Tschaikowski, Teschl, Rus (2022), Closed-form
      continuous-time neural networks, eq. 2-4 and figure 3. The modes are those of the authors'
      package ncps.

    Example:
      >>> cell = CfC(3, 5, backbone_units=16)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, h_t = cell.step(params, jnp.array([1.0, 2.0, 3.0, 0.5]), cell.initial_state())
      >>> y_t.shape
      (5,)
    """

    reads_elapsed: ClassVar[bool] = True

    _: dataclasses.KW_ONLY
    mode: Literal["default", "no_gate", "pure"] = "default"
    backbone_layers: int = 1
    backbone_units: int = 128
    activation: str = "lecun_tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.require_name("mode", self.mode, ("default", "no_gate", "pure"))
        checks.require_name("activation", self.activation, ACTIVATIONS)
        layers = checks.require_integer("backbone_layers", self.backbone_layers, least=0)
        object.__setattr__(self, "backbone_layers", layers)
        units = checks.require_integer("backbone_units", self.backbone_units)
        object.__setattr__(self, "backbone_units", units)

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        k_ih, k_hh, k_b, k_hidden, k_layers, k_out, k_end = self.keys(key, 7)
        pure, units, more = self.mode == "pure", self.backbone_units, self.backbone_layers - 1
        heads = 1 if pure else 4
        end = heads * self.hidden_size, heads  # the columns of a layer, and the gates they form
        first = (units, 1) if self.backbone_layers else end
        w_hidden = b_hidden = w_out = b_out = None
        if more > 0:
            w_hidden = jnp.stack(
                [self.draw("kernel_init", k, (units, units), 1, dtype)
                 for k in self.keys(k_hidden, more)]
            )  # fmt: skip
            if self.use_bias:
                b_hidden = jnp.stack(
                    [self.draw("bias_init", k, (units,), 1, dtype)
                     for k in self.keys(k_layers, more)]
                )  # fmt: skip
        if self.backbone_layers:
            w_out = self.draw("kernel_init", k_out, (units, end[0]), heads, dtype)
            b_out = self.draw_bias(k_end, *end, dtype)
        return CfCParams(
            w_ih=self.draw("kernel_init", k_ih, (self.input_size, first[0]), first[1], dtype),
            w_hh=self.draw("recurrent_init", k_hh, (self.hidden_size, first[0]), first[1], dtype),
            b=self.draw_bias(k_b, *first, dtype),
            w_hidden=w_hidden,
            b_hidden=b_hidden,
            w_out=w_out,
            b_out=b_out,
            w_tau=jnp.zeros(self.hidden_size, dtype) if pure else None,
            a=jnp.ones(self.hidden_size, dtype) if pure else None,
        )

    def prepare(self, params: Any) -> Any:
        later = [
            (params.w_hidden[n], None if params.b_hidden is None else params.b_hidden[n])
            for n in range(self.backbone_layers - 1)
        ]
        if self.backbone_layers:
            later.append((params.w_out, params.b_out))
        return _Layers(params.w_ih, params.w_hh, params.b, tuple(later), params.w_tau, params.a)

    def project(self, p: Any, x: Array) -> Slots:
        features, elapsed = ops.split_elapsed(x)
        return ops.affine(features, p.w_ih, p.b), elapsed

    def recurrent_input(self, state: Any) -> Any:
        return state

    def recur(self, p: Any, r: Array) -> Slots:
        return ops.matmul(r, p.w_hh), None

    def update(self, p: Any, gates: Any, state: Any) -> Any:
        return self._evolved(p, *gates)

    def gate_values(self, p: Any, gates: Any, state: Any) -> dict[str, Array]:
        if self.mode == "pure":
            return {}
        return dict(zip(("f", "g", "tau"), self._gates(p, *gates), strict=True))

    def _last_layer(self, p: _Layers, z: Array) -> Array:
        """Return the output layer's values, given those of the first layer before its φ."""
        for w, b in p.later:
            z = ops.affine(ACTIVATIONS[self.activation](z), w, b)
        return z

    def _gates(self, p: _Layers, z: Array, elapsed: Array) -> tuple[Array, Array, Array]:
        """Return f, g and τ."""
        z_f, z_g, z_a, z_b = ops.split(self._last_layer(p, z), 4)
        return jnp.tanh(z_f), jnp.tanh(z_g), jax.nn.sigmoid(z_a * elapsed + z_b)

    def _evolved(self, p: Any, z: Array, elapsed: Array) -> Array:
        """Return h_t, given the values of the first layer before its φ."""
        if self.mode == "pure":
            w_tau, a, z_f = jnp.abs(p.w_tau), p.a, self._last_layer(p, z)
            return ops.scaled(a, 1 - jnp.exp(-elapsed * ops.biased(jnp.abs(z_f), w_tau)) * z_f)
        f, g, tau = self._gates(p, z, elapsed)
        return f + tau * g if self.mode == "no_gate" else (1 - tau) * f + tau * g


@dataclasses.dataclass(frozen=True)
class MixedCfC(CfC):
    r"""A CfC with mixed memory: an LSTM, whose output is the state that the CfC reads.

        c_t, h' = LSTM(x_t; h_{t-1}, c_{t-1})
        h_t = CfC(x_t, Δ_t; h')
        y_t = h_t

    The memory c_t of the LSTM is not affected by the time, so gradients pass through it over many
    steps. `LSTM` and `CfC` show the equations.

    Attributes:
      mode, backbone_layers, backbone_units, activation: see `CfC`.
      use_bias, kernel_init, recurrent_init, bias_init: see `DenseCell`. The initial biases of the
        LSTM's forget gate are larger by 1.

    Input: `[..., I+1]`, as for `CfC`. State: `LSTMState(h, c)`. Output: `h_t [..., H]`.

    Recurrent dropout acts on the input of the LSTM's recurrent product.

    Raises:
      TypeError, ValueError: as for `CfC`.

    References:
      Lechner, Hasani (2020), Learning long-term dependencies in irregularly-sampled time series;
      Hasani et al. (2022), Closed-form continuous-time neural networks (CfC-mmRNN).

    Example:
      >>> cell = MixedCfC(3, 5)
      >>> params = cell.init(jax.random.key(0))
      >>> y_t, state = cell.step(params, jnp.ones([2, 4]), cell.initial_state(2))
      >>> y_t.shape, state.c.shape
      ((2, 5), (2, 5))
    """

    @property
    def lstm(self) -> LSTM:
        """The LSTM, as a cell."""
        return LSTM(
            self.input_size,
            self.hidden_size,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            recurrent_init=self.recurrent_init,
            bias_init=self.bias_init,
            forget_bias=1.0 if self.use_bias else 0.0,
        )

    def init(self, key: PRNGKey, dtype: Any = jnp.float32) -> Any:
        k_lstm, k_cfc = self.keys(key, 2)
        return MixedCfCParams(*self.lstm.init(k_lstm, dtype), *super().init(k_cfc, dtype))

    def prepare(self, params: Any) -> Any:
        return _Parts(LSTMParams(*params[:3]), super().prepare(CfCParams(*params[3:])))

    def initial_state(self, batch_shape: int | Shape = (), dtype: Any = jnp.float32) -> Any:
        return self.lstm.initial_state(batch_shape, dtype)

    def project(self, p: Any, x: Array) -> Slots:
        features, _ = ops.split_elapsed(x)
        return (*self.lstm.project(p.lstm, features), *super().project(p.cfc, x))

    def recurrent_input(self, state: LSTMState) -> Any:
        return state.h

    def recur(self, p: Any, r: Array) -> Slots:
        return (*self.lstm.recur(p.lstm, r), None, None)

    def update(self, p: Any, gates: Any, state: LSTMState) -> LSTMState:
        memory, z, elapsed = self._remembered(p, gates, state)
        return LSTMState(self._evolved(p.cfc, z, elapsed), memory.c)

    def gate_values(self, p: Any, gates: Any, state: LSTMState) -> dict[str, Array]:
        *of_lstm, _, _ = gates
        _, z, elapsed = self._remembered(p, gates, state)
        values = self.lstm.gate_values(p.lstm, tuple(of_lstm), state)
        return {f"lstm_{name}": value for name, value in values.items()} | super().gate_values(
            p.cfc, (z, elapsed), state
        )

    def _remembered(self, p: Any, gates: Any, state: LSTMState) -> tuple[LSTMState, Array, Array]:
        """Return the LSTM's state after the step, and the values of the CfC's first layer."""
        *of_lstm, z, elapsed = gates
        memory = self.lstm.update(p.lstm, tuple(of_lstm), state)
        return memory, z + ops.matmul(memory.h, p.cfc.w_hh), elapsed
