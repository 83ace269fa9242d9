"""Residual blocks of papers, each around a recurrent layer."""

import functools
import math
from typing import Any

import jax
from flax import nnx

from seqjax import cells
from seqjax.cells import ops
from seqjax.cells._slstm import PairSLSTM
from seqjax.cells._sru import OpenSRU
from seqjax.nn import _noise as noise
from seqjax.nn._options import cell_of, shows_options
from seqjax.nn._residual import BlockState, Drop, ResidualBlock
from seqjax.nn._temporal_conv import CausalConv
from seqjax.types import Array, Unrolled

__all__ = ["GriffinBlock", "LRUBlock", "S5Block", "SLSTMBlock", "SRUBlock"]


@shows_options(cells.LRU, "output_size")
class LRUBlock(ResidualBlock):
    r"""The residual block of the LRU: layer norm, LRU, GELU and a gated linear unit.

        u_t = dropout(GELU(LRU(LN(x))_t))
        y_t = x_t + dropout((u_t W_1 + b_1) ⊙ σ(u_t W_2 + b_2))

    Args:
      input_size: the number of features of an input and of an output, I.
      hidden_size: the number of complex features of the hidden state, H.
      options: the options of `seqjax.cells.LRU`, such as `r_min`, and of `ResidualBlock`, such as
        `dropout`. `rngs` is required.

    State: that of the layer, `seqjax.nn.LRU`.

    Raises:
      TypeError, ValueError: `seqjax.cells.LRU` or `ResidualBlock` does not accept an argument.

    References:
      Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De (2023), Resurrecting recurrent neural
      networks for long sequences, figure 1.

    Example:
      >>> import jax.numpy as jnp
      >>> block = LRUBlock(6, 8, r_min=0.9, dropout=0.1, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 6]), rngs=nnx.Rngs(1))
      >>> outputs.shape, state[0].shape
      ((2, 7, 6), (2, 8))
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        sizes = input_size, hidden_size
        cell = cell_of(LRUBlock, cells.LRU, sizes, options, output_size=input_size)
        rngs = noise.streams(options.get("rngs"), "params")
        super().__init__(input_size, nnx.LayerNorm, **options | {"rngs": rngs})
        self.layer = self._recurrent(cell, rngs)
        self.out = self._dense(self.input_size, 2 * self.input_size, rngs)

    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        ys, state = self.layer(xs, initial_state=state, **steps)
        value, gate = ops.split(self.out(drop(jax.nn.gelu(ys))), 2)
        return Unrolled(value * jax.nn.sigmoid(gate), state)


@shows_options(cells.S5, "output_size")
class S5Block(ResidualBlock):
    r"""The residual block of S5: layer norm, S5, GELU and a gate.

        u_t = dropout(GELU(S5(LN(x))_t))
        y_t = x_t + dropout(u_t ⊙ σ(u_t W + b))

    In the authors' code, this form of the gate is called "half_glu1". In the form "half_glu2", GELU
    acts only on the input of σ. In the form "full_glu", the gate is that of `LRUBlock`.

    If `bidirectional` is True, the outputs of both directions are added. Each direction has its own
    Λ, Δ, B, C and d. In the authors' code, the directions share all parameters except C.

    Args:
      input_size: the number of features of an input and of an output, I.
      hidden_size: the number of complex features of the hidden state, H.
      bidirectional: whether the layer also has a direction that starts at the last real step.
      options: the options of `seqjax.cells.S5`, such as `num_blocks`, and of `ResidualBlock`, such
        as `dropout`. `rngs` is required.

    State: that of the layer, `seqjax.nn.S5`.

    Raises:
      TypeError, ValueError: `seqjax.cells.S5` or `ResidualBlock` does not accept an argument.

    References:
      Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling,
      appendix G.

    Example:
      >>> import jax.numpy as jnp
      >>> block = S5Block(6, 8, bidirectional=True, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 6]))
      >>> outputs.shape, state[0].backward.shape
      ((2, 7, 6), (2, 8))
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, bidirectional: bool = False, **options: Any
    ) -> None:
        sizes = input_size, hidden_size
        cell = cell_of(S5Block, cells.S5, sizes, options, output_size=input_size)
        rngs = noise.streams(options.get("rngs"), "params")
        super().__init__(input_size, nnx.LayerNorm, **options | {"rngs": rngs})
        self.layer = self._recurrent(cell, rngs, bidirectional=bidirectional, merge_mode="sum")
        self.gate = self._dense(self.input_size, self.input_size, rngs)

    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        ys, state = self.layer(xs, initial_state=state, **steps)
        ys = drop(jax.nn.gelu(ys))
        return Unrolled(ys * jax.nn.sigmoid(self.gate(ys)), state)


@shows_options(cells.SRU)
class SRUBlock(ResidualBlock):
    r"""The residual block of the SRU: layer norm, SRU, and the highway connection of the SRU.

        x̂_t = LN(x_t)
        n_t = x̂_t W
        f_t = σ(x̂_t W_f + v_f ⊙ c_{t-1} + b_f)
        c_t = f_t ⊙ c_{t-1} + (1 - f_t) ⊙ n_t
        r_t = σ(x̂_t W_r + v_r ⊙ c_{t-1} + b_r)
        y_t = dropout(r_t ⊙ c_t) + (1 - r_t) ⊙ α x_t

    The highway connection is the skip connection, so there is no other one. It reads x_t without
    the norm. The places of the norm and of the dropout are those of the authors' code with
    `layer_norm=True`. That code also multiplies the initial weights by 0.1, which this class does
    not.

    Args:
      input_size: the number of features of an input, of an output and of the hidden state, I.
      options: the options of `seqjax.cells.SRU`, such as `use_peephole`, and of `ResidualBlock`,
        such as `dropout`. `rngs` is required.

    State: that of the layer, `seqjax.nn.SRU`.

    Raises:
      TypeError, ValueError: `seqjax.cells.SRU` or `ResidualBlock` does not accept an argument.

    References:
      Lei, Zhang, Wang, Dai, Artzi (2018), Simple recurrent units for highly parallelizable
      recurrence, section 3.

    Example:
      >>> import jax.numpy as jnp
      >>> block = SRUBlock(6, highway_bias=-2.0, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 6]))
      >>> outputs.shape, state[0].shape
      ((2, 7, 6), (2, 6))
    """

    def __init__(self, input_size: int, **options: Any) -> None:
        cell = cell_of(SRUBlock, OpenSRU, (input_size, input_size), options)
        rngs = noise.streams(options.get("rngs"), "params")
        super().__init__(input_size, nnx.LayerNorm, **options | {"rngs": rngs})
        self.alpha: float = cell.alpha
        self.layer = self._recurrent(cell, rngs)

    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        return self.layer(xs, initial_state=state, **steps)

    def join(self, xs: Array, mixed: tuple[Array, Array], drop: Drop) -> Array:
        read, rest = mixed
        return drop(read) + rest * (self.alpha * xs)


@shows_options(cells.RGLRU)
class GriffinBlock(ResidualBlock):
    r"""The recurrent block of Griffin: RMS norm, two branches with an RG-LRU, and a gated MLP.

        x̂_t = RMSNorm(x_t)
        u_t = x_t + dropout((GELU(x̂_t W_1 + b_1) ⊙ RGLRU(conv(x̂ W_2 + b_2))_t) W_3 + b_3)
        y_t = u_t + dropout(MLP(RMSNorm(u_t)))

    conv is a `CausalConv`. The MLP is (GELU(v W_4 + b_4) ⊙ (v W_5 + b_5)) W_6 + b_6.

    Args:
      input_size: the number of features of an input and of an output, I.
      hidden_size: the number of features of the convolution and of the RG-LRU, H. In the paper,
        H is about 4/3 I.
      conv_width: the number of steps of the convolution's window, K.
      mlp_size: the number of hidden features of the MLP. The default is 3 I.
      options: the options of `seqjax.cells.RGLRU`, such as `num_heads`, and of `ResidualBlock`,
        such as `dropout`, which the paper does not use. `rngs` is required.

    State: `BlockState(window, recurrent)` with the window `[..., K-1, H]` and the state of the
    layer, `seqjax.nn.RGLRU`.

    Raises:
      TypeError, ValueError: `seqjax.cells.RGLRU` or `ResidualBlock` does not accept an argument.

    References:
      De et al. (2024), Griffin: mixing gated linear recurrences with local attention for efficient
      language models, sections 2.1 to 2.4 and figure 2.

    Example:
      >>> import jax.numpy as jnp
      >>> block = GriffinBlock(6, 8, num_heads=2, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 6]))
      >>> outputs.shape, state.window.shape, state.recurrent[0].shape
      ((2, 7, 6), (2, 3, 8), (2, 8))
    """

    conv: CausalConv

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        conv_width: int = 4,
        mlp_size: int | None = None,
        **options: Any,
    ) -> None:
        cell = cell_of(GriffinBlock, cells.RGLRU, (hidden_size, hidden_size), options)
        rngs = noise.streams(options.get("rngs"), "params")
        super().__init__(input_size, nnx.RMSNorm, **options | {"rngs": rngs})
        self.gate = self._dense(self.input_size, cell.hidden_size, rngs)
        self.inner = self._dense(self.input_size, cell.hidden_size, rngs)
        self.conv = self._convolution(cell.hidden_size, conv_width, rngs)
        self.layer = self._recurrent(cell, rngs)
        self.out = self._dense(cell.hidden_size, self.input_size, rngs)
        size = 3 * self.input_size if mlp_size is None else mlp_size
        self._add_mlp(nnx.RMSNorm, size, rngs)

    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        state = BlockState.of(state)
        convolved, window = self.conv(self.inner(xs), initial_state=state.window, **steps)
        ys, recurrent = self.layer(convolved, initial_state=state.recurrent, **steps)
        ys = self.out(jax.nn.gelu(self.gate(xs)) * ys)
        return Unrolled(ys, BlockState(window, recurrent))


@shows_options(cells.SLSTM, "head_norm")
class SLSTMBlock(ResidualBlock):
    r"""The sLSTM block of xLSTM with post up-projection: a convolution, an sLSTM, a gated MLP.

        x̂_t = LN(x_t)
        v_t = SiLU(conv(x̂)_t)
        [z_i z_f] = v_t W_if + h_{t-1} R_if + b_if
        [z_z z_o] = x̂_t W_zo + h_{t-1} R_zo + b_zo
        u_t = x_t + dropout(gain_h ⊙ GN(h_t))
        y_t = u_t + dropout(MLP(LN(u_t)))

    conv is a `CausalConv`. `seqjax.cells.SLSTM` computes h_t and GN(h_t), the norm within each
    head, from these gates. All matrices W and R have one block for each head. The MLP is
    (GELU(v W_1) ⊙ (v W_2)) W_3. The layer norms and the MLP have no biases.

    The authors' code applies dropout to h_t before GN. The default initialiser draws the blocks of
    W with a variance for I/N inputs, and the authors' code with a variance for I inputs.

    Args:
      input_size: the number of features of an input, of an output and of the hidden state, I.
      num_heads: the number of heads, N, a divisor of `input_size`.
      conv_width: the number of steps of the convolution's window, K.
      mlp_size: the number of hidden features of the MLP. The default is 4/3 I, rounded up.
      options: the options of `seqjax.cells.SLSTM`, such as `forget_gate`, and of `ResidualBlock`,
        such as `dropout`. `rngs` is required.

    State: `BlockState(window, recurrent)` with the window `[..., K-1, I]` and the state of the
    layer, `seqjax.nn.SLSTM`.

    Raises:
      TypeError, ValueError: `seqjax.cells.SLSTM` or `ResidualBlock` does not accept an argument.

    References:
      Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter (2024),
      xLSTM: Extended long short-term memory, section 2.4 and the figure of the block with post
      up-projection in the appendix.

    Example:
      >>> import jax.numpy as jnp
      >>> block = SLSTMBlock(8, num_heads=2, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 8]))
      >>> outputs.shape, state.window.shape, state.recurrent[0].h.shape
      ((2, 7, 8), (2, 3, 8), (2, 8))
    """

    conv: CausalConv

    def __init__(
        self,
        input_size: int,
        *,
        num_heads: int = 4,
        conv_width: int = 4,
        mlp_size: int | None = None,
        **options: Any,
    ) -> None:
        sizes = input_size, input_size
        cell = cell_of(SLSTMBlock, PairSLSTM, sizes, options, num_heads=num_heads, head_norm=True)
        rngs = noise.streams(options.get("rngs"), "params")
        norm: Any = functools.partial(nnx.LayerNorm, use_bias=False)
        super().__init__(input_size, norm, **options | {"rngs": rngs})
        self.conv = self._convolution(self.input_size, conv_width, rngs)
        self.layer = self._recurrent(cell, rngs)
        size = math.ceil(4 * self.input_size / 3) if mlp_size is None else mlp_size
        self._add_mlp(norm, size, rngs, use_bias=False)

    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        state = BlockState.of(state)
        convolved, window = self.conv(xs, initial_state=state.window, **steps)
        pair = xs, jax.nn.silu(convolved)
        ys, recurrent = self.layer(pair, initial_state=state.recurrent, **steps)
        return Unrolled(ys, BlockState(window, recurrent))
