"""The base class of residual blocks, and the parts without recurrence that blocks share."""

import abc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import _arguments as arguments
from seqjax import checks, sequences
from seqjax.cells import ops
from seqjax.kernels import Execution
from seqjax.nn import _noise as noise
from seqjax.nn._recurrent import Recurrent
from seqjax.nn._steps import require_one_direction
from seqjax.nn._temporal_conv import CausalConv, one_step
from seqjax.types import Array, Unrolled

__all__ = ["BlockState", "Dense", "Drop", "GatedMLP", "ResidualBlock"]

Drop: TypeAlias = Callable[[Array], Array]
"""A function that applies the dropout of a call, or does nothing in evaluation."""


class BlockState(NamedTuple):
    """The state of a block that has a convolution.

    Attributes:
      window: the state of the convolution, `[..., K-1, H]`.
      recurrent: the state of the recurrent layer.
    """

    window: Any
    recurrent: Any

    @classmethod
    def of(cls, state: Any) -> "BlockState":
        """Return the initial state of a call as a `BlockState`, whose parts may be None."""
        if state is None:
            return cls(None, None)
        if not isinstance(state, tuple) or len(state) != 2:
            raise ValueError(
                f"initial_state: expected BlockState(window, recurrent), got {checks.brief(state)}"
            )
        return cls(*state)


class Dense(nnx.Module):
    """A linear map that computes in the dtype of its inputs, as the cells do.

    Args:
      input_size: the number of features of an input, I.
      output_size: the number of features of an output, O.
      use_bias: whether the map has a bias, which begins as zero.
      param_dtype: the dtype of the parameters.
      rngs: the source of randomness for the parameters. The weights have the variance 1/I.

    Example:
      >>> dense = Dense(3, 5, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> dense(jnp.ones([2, 3], jnp.bfloat16)).dtype.name
      'bfloat16'
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        use_bias: bool = True,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        draw = jax.nn.initializers.lecun_normal()
        self.kernel = nnx.Param(draw(rngs.params(), (input_size, output_size), param_dtype))
        self.bias = nnx.Param(jnp.zeros(output_size, param_dtype)) if use_bias else None

    def __call__(self, xs: Array) -> Array:
        """Return the outputs `[..., O]` for inputs `[..., I]`."""
        bias = None if self.bias is None else self.bias[...]
        return ops.affine(xs, self.kernel[...].astype(xs.dtype), bias).astype(xs.dtype)


class GatedMLP(nnx.Module):
    """A multilayer perceptron with a gate: (GELU(x W_g + b_g) ⊙ (x W_v + b_v)) W_o + b_o.

    Args:
      input_size: the number of features of an input and of an output, I.
      size: the number of features of the hidden layer.
      use_bias: whether the linear maps have biases.
      param_dtype: the dtype of the parameters.
      rngs: the source of randomness for the parameters.

    References:
      Shazeer (2020), GLU variants improve transformer: GEGLU.

    Example:
      >>> mlp = GatedMLP(3, 8, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
      >>> mlp(jnp.ones([2, 3])).shape
      (2, 3)
    """

    def __init__(
        self, input_size: int, size: int, *, use_bias: bool = True, param_dtype: Any, rngs: nnx.Rngs
    ) -> None:
        options: Any = {"use_bias": use_bias, "param_dtype": param_dtype, "rngs": rngs}
        self.up = Dense(input_size, 2 * size, **options)
        self.down = Dense(size, input_size, **options)

    def __call__(self, xs: Array) -> Array:
        """Return the outputs `[..., I]` for inputs `[..., I]`."""
        gate, value = ops.split(self.up(xs), 2)
        return self.down(jax.nn.gelu(gate) * value)


class ResidualBlock(nnx.Module):
    r"""Base class of residual blocks: a norm, a recurrent part, dropout and a skip connection.

        u_t = x_t + dropout(mix(norm(x))_t)
        y_t = u_t + dropout(mlp(mlp_norm(u_t)))

    Without an MLP, y_t = u_t. A subclass sets the attribute `layer` and defines `mix`. It may also
    set `conv`, and `mlp` together with `mlp_norm`. A block is called like a layer, and its outputs
    have the shape of its inputs, so that blocks can be stacked in a loop.

    The parts without recurrence compute each step on its own. So masks, resets and chunks have the
    same meaning as for layers.

    Args:
      input_size: the number of features of an input and of an output, I.
      norm: the class of the norms, `nnx.LayerNorm` or `nnx.RMSNorm`.
      dropout: the dropout rate. The same features are dropped at every step.
      dtype: the dtype of the computation, to which parameters and inputs are cast. If `dtype` is
        None, the computation uses the dtype of the inputs.
      param_dtype: the dtype of the parameters.
      execution: the options for running the recurrent layer, a `seqjax.Execution`.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Attributes:
      layer: the recurrent layer, a `Recurrent`.
      conv: the convolution, a `CausalConv`, or None.
      mlp: the MLP, or None.
      deterministic: whether calls run in evaluation mode, as in `Recurrent`.

    Raises:
      TypeError, ValueError: a size, rate or dtype is not valid.

    Example:
      >>> from seqjax import nn
      >>> class GRUBlock(ResidualBlock):
      ...     def __init__(self, size, *, rngs, **options):
      ...         super().__init__(size, nnx.LayerNorm, rngs=rngs, **options)
      ...         self.layer = nn.GRU(size, size, rngs=rngs)
      ...
      ...     def mix(self, xs, state, drop, **steps):
      ...         return self.layer(xs, initial_state=state, **steps)
      >>> block = GRUBlock(3, rngs=nnx.Rngs(0))
      >>> outputs, state = block(jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4]))
      >>> outputs.shape, block.step(jnp.ones([2, 3]), state).outputs.shape
      ((2, 7, 3), (2, 3))
    """

    layer: Recurrent
    conv: CausalConv | None = None
    mlp: GatedMLP | None = None
    mlp_norm: Any = None

    def __init__(
        self,
        input_size: int,
        norm: type[Any],
        *,
        dropout: float = 0.0,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        execution: Execution | None = None,
        rngs: nnx.Rngs | jax.Array | None = None,
    ) -> None:
        self.input_size = checks.require_integer("input_size", input_size)
        self.dropout = checks.require_rate("dropout", dropout)
        self.dtype = None if dtype is None else checks.require_floating_dtype("dtype", dtype)
        self.param_dtype = checks.require_floating_dtype("param_dtype", param_dtype)
        self.execution = Execution.of(execution)
        self.deterministic = False
        streams = noise.streams(rngs, "params")
        self.norm = norm(input_size, param_dtype=self.param_dtype, rngs=streams)

    @property
    def bidirectional(self) -> bool:
        """A bool that is True if the recurrent layer has two directions."""
        return self.layer.bidirectional

    @abc.abstractmethod
    def mix(self, xs: Array, state: Any, drop: Drop, **steps: Any) -> Unrolled:
        """Return the term that the block adds to its inputs, and the final state.

        Args:
          xs: the normalised inputs, `[..., T, I]`.
          state: the state before the first step, or None.
          drop: a function that applies the dropout of the call to an array `[..., T, N]`. `join`
            applies it to the result of `mix`.
          **steps: the arguments `lengths`, `mask` and `resets` of the call, for the layer and for
            the convolution.
        """

    def join(self, xs: Array, mixed: Any, drop: Drop) -> Array:
        """Return u_t, by default x_t plus the result of `mix` with dropout.

        Args:
          xs: the inputs, `[..., T, I]`.
          mixed: the outputs that `mix` returned.
          drop: the dropout, as for `mix`.
        """
        return xs + drop(mixed)

    def initial_state(self, batch_shape: int | Sequence[int] = (), dtype: Any = None) -> Any:
        """Return the state before the first step.

        Args:
          batch_shape: the sizes of the batch axes. If `batch_shape` is an integer, it is the size
            of a single batch axis.
          dtype: the dtype of the state, as for `Recurrent.initial_state`.

        Returns:
          The state of the recurrent layer or, if the block has a convolution, a `BlockState`.
        """
        state = self.layer.initial_state(batch_shape, dtype)
        if self.conv is None:
            return state
        return BlockState(self.conv.initial_state(batch_shape, dtype), state)

    def __call__(
        self,
        xs: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        resets: Any = None,
        initial_state: Any = None,
        deterministic: bool | None = None,
        rngs: noise.Rngs | None = None,
    ) -> Unrolled:
        """Run the block over sequences.

        Args:
          xs: the inputs `[..., T, I]`.
          lengths: the number of real steps of each sequence, integers of the batch shape. Pass
            either `lengths` or `mask`.
          mask: bool `[..., T]`, True at real steps.
          resets: bool `[..., T]`, True at the first step of a new sequence.
          initial_state: the state before the first step, as `block.initial_state(batch_shape)` or
            an earlier call returns it.
          deterministic: True for evaluation, False for training. If `deterministic` is None, the
            block's attribute `deterministic` is used.
          rngs: `nnx.Rngs` with the stream "dropout", or a random key. In training, `rngs` is
            required if there is dropout.

        Returns:
          `Unrolled(outputs, state)`. The outputs are `[..., T, I]` and zero at masked steps.

        Raises:
          TypeError, ValueError: an argument has a wrong dtype or shape, or `rngs` is missing in
            training.
        """
        xs, real = arguments.vector_sequences(
            xs, self.input_size, self.dtype, lengths=lengths, mask=mask
        )
        if deterministic is None:
            deterministic = self.deterministic
        checks.require_bool("deterministic", deterministic)
        active = ["dropout"] if self.dropout else []
        drop = self._drop(noise.training_key(active, deterministic, rngs))
        steps = {"lengths": lengths, "mask": mask, "resets": resets}
        mixed, state = self.mix(_normed(self.norm, xs), initial_state, drop, **steps)
        ys = self.join(xs, mixed, drop)
        if self.mlp is not None:
            ys += drop(self.mlp(_normed(self.mlp_norm, ys)))
        return Unrolled(sequences.zero_masked(ys, mask=real), state)

    def _drop(self, key: Any) -> Drop:
        numbers = itertools.count()

        def drop(xs: Array) -> Array:
            if key is None:
                return xs
            own = jax.random.fold_in(key, next(numbers))
            shape = (*xs.shape[:-2], 1, xs.shape[-1])
            return xs * noise.variational_mask(own, self.dropout, shape, xs.dtype)

        return drop

    def step(self, x_t: Any, state: Any = None, *, resets: Any = None) -> Unrolled:
        """Run one step in evaluation mode, as a call on a sequence of one step does.

        Args:
          x_t: the input of the step, `[..., I]`.
          state: the state before the step, as `block.initial_state(batch_shape)` or the previous
            step returns it. If `state` is None, the initial state is used.
          resets: bool `[...]`, True where x_t is the first input of a new sequence.

        Returns:
          `Unrolled(output, state)`: the output `[..., I]`, and the state after the step.

        Raises:
          TypeError, ValueError: an argument has a wrong dtype or shape, or the block has two
            directions.
        """
        require_one_direction(self.layer)
        return one_step(self, x_t, state, resets, deterministic=True)

    def _recurrent(self, cell: Any, rngs: nnx.Rngs, **options: Any) -> Recurrent:
        """Return a recurrent layer with the dtypes and the execution of the block."""
        return Recurrent(
            cell, dtype=self.dtype, param_dtype=self.param_dtype, execution=self.execution,
            rngs=rngs, **options,
        )  # fmt: skip

    def _dense(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> Dense:
        return Dense(inputs, outputs, param_dtype=self.param_dtype, rngs=rngs)

    def _convolution(self, size: int, width: int, rngs: nnx.Rngs) -> CausalConv:
        width = checks.require_integer("conv_width", width)
        return CausalConv(size, width, dtype=self.dtype, param_dtype=self.param_dtype, rngs=rngs)

    def _add_mlp(
        self, norm: type[Any], size: int, rngs: nnx.Rngs, *, use_bias: bool = True
    ) -> None:
        """Add a gated MLP of `size` hidden features, and its norm."""
        options: Any = {"param_dtype": self.param_dtype, "rngs": rngs}
        size = checks.require_integer("mlp_size", size)
        self.mlp_norm = norm(self.input_size, **options)
        self.mlp = GatedMLP(self.input_size, size, use_bias=use_bias, **options)


def _normed(norm: Any, xs: Array) -> Array:
    """Normalise each step, in the dtype of xs."""
    normed: Array = norm(xs).astype(xs.dtype)
    return normed
