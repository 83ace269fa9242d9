"""Cells of this package as cells of Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax import checks
from seqjax._arguments import check_cell
from seqjax.cells._base import Cell, is_shape
from seqjax.nn import _noise as noise
from seqjax.nn._layer import Direction
from seqjax.types import Array, Shape

__all__ = ["as_nnx_cell"]


class _CellOfNNX(Direction, nnx.RNNCellBase):
    """A module with the parameters of a cell, and the methods that `nnx.RNN` calls."""

    def __init__(self, cell: Cell[Any, Any], *, param_dtype: Any, rngs: nnx.Rngs) -> None:
        super().__init__(cell, param_dtype=param_dtype, rngs=rngs)
        self.param_dtype = param_dtype

    @property
    def in_features(self) -> int:
        """The number of features of an input."""
        return self.cell.input_size

    @property
    def hidden_features(self) -> int:
        """The number of features of the hidden state."""
        return self.cell.hidden_size

    @property
    def num_feature_axes(self) -> int:
        """The number of axes of an input without batch axes."""
        return len(self.cell.input_shape)

    def initialize_carry(self, input_shape: Shape, rngs: Any = None, carry_init: Any = None) -> Any:
        """Return the cell's initial state for inputs of a shape. The state is not random."""
        del rngs
        if carry_init is not None:
            raise ValueError(
                f"carry_init: expected None, since {type(self.cell).__name__} has its own initial "
                f"state, got {checks.brief(carry_init)}; pass initial_carry= to nnx.RNN"
            )
        batch_shape = tuple(input_shape)[: len(input_shape) - self.num_feature_axes]
        return self.start(batch_shape, self.param_dtype)

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """Run one step, and return the new carry and the output."""
        output, state = self.cell.step(self.params, inputs, carry)
        return state, output


def as_nnx_cell(
    cell: Cell[Any, Any], *, param_dtype: Any = jnp.float32, rngs: nnx.Rngs | jax.Array
) -> nnx.RNNCellBase:
    """Return an NNX cell that runs a cell of this package in `nnx.RNN` and `nnx.Bidirectional`.

    The carry is the state of the cell. The carry has the dtype `param_dtype`, and the outputs have
    the dtype of the inputs. The parameters have the same names as in a layer of this package:
    `module.w_ih`, `module.params`.

    `nnx.RNN` calls the cell at every step. Therefore the kernels of `seqjax.nn.Recurrent` are not
    used, and the cell is about as fast as Flax's own cells.

    Args:
      cell: the cell, whose input must be one array.
      param_dtype: the dtype of the parameters and of the carry.
      rngs: the source of randomness for the parameters: `nnx.Rngs(0)`, or a random key.

    Returns:
      A module with the methods of `nnx.RNNCellBase`.

    Raises:
      TypeError: `cell` is not a cell, or `rngs` is not a source of randomness.
      ValueError: the input of the cell is not one array.

    Example:
      >>> from seqjax import cells
      >>> rnn = nnx.RNN(as_nnx_cell(cells.MGU(3, 5), rngs=nnx.Rngs(0)), return_carry=True)
      >>> carry, outputs = rnn(jnp.ones([2, 7, 3]), seq_lengths=jnp.array([7, 4]))
      >>> carry.shape, outputs.shape
      ((2, 5), (2, 7, 5))
    """
    check_cell(cell)
    if not is_shape(cell.input_shape):
        raise ValueError(
            f"cell: expected a cell whose input is one array, since nnx.RNN has no others, got "
            f"{type(cell).__name__} with {cell.input_shape}"
        )
    param_dtype = checks.require_floating_dtype("param_dtype", param_dtype)
    return _CellOfNNX(cell, param_dtype=param_dtype, rngs=noise.streams(rngs, "params"))
