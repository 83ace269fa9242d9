"""Flax Linen modules for cells, which call `seqjax.unroll` with the parameters of the module."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from seqjax import checks
from seqjax._arguments import batched_state, check_cell, floating_inputs, layout, param_specs
from seqjax._unroll import unroll
from seqjax.cells._base import Cell, compute_dtype
from seqjax.nn._parameters import path_name
from seqjax.types import Unrolled

__all__ = ["LinenRecurrent", "LinenScanned"]


class LinenRecurrent(linen.Module):
    """A Linen module for any cell. For a stack or for two directions, use several modules.

    The parameters are in the collection "params" and have the names that the cell gives them.

    Attributes:
      cell: the cell.
      param_dtype: the dtype of the cell's parameters.

    Example:
      >>> from seqjax import cells
      >>> layer = LinenRecurrent(cells.GRU(3, 5))
      >>> variables = layer.init(jax.random.key(0), jnp.ones([2, 7, 3]))
      >>> sorted(variables["params"])
      ['b', 'b_hn', 'w_hh', 'w_ih']
      >>> layer.apply(variables, jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4])).outputs.shape
      (2, 7, 5)
    """

    cell: Cell[Any, Any]
    param_dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, xs: Any, **options: Any) -> Unrolled:
        """Run `seqjax.unroll` with the cell and parameters of the module.

        Args:
          xs: the inputs, as for `seqjax.unroll`.
          **options: other arguments of `seqjax.unroll`, such as `lengths`.

        Returns:
          `Unrolled(outputs, state)`, the result of `seqjax.unroll`.
        """
        checks.require_options("LinenRecurrent", options, unroll)
        return unroll(self.cell, _params(self), xs, **options)


class LinenScanned(linen.Module):
    """A Linen module of the form `(carry, (xs, resets)) -> (carry, ys)`, for policies.

    purejaxrl, JaxMARL and other libraries define a class `ScannedRNN` of this form around a cell of
    Flax. To use a cell of seqjax in such a library, replace `ScannedRNN()` by
    `LinenScanned(cells.GRU(128, 128))`, and `ScannedRNN.initialize_carry(4, 128)` by
    `LinenScanned(cells.GRU(128, 128)).initialize_carry(4)`.

    The arrays are time-major by default: xs `[T, ..., I]` and resets bool `[T, ...]`. A reset is
    True if the observation of its step is the first one of an episode.
    `seqjax.sequences.resets_from_dones` computes the resets.

    Attributes:
      cell: the cell.
      param_dtype: the dtype of the cell's parameters.
      time_major: whether the time axis comes first. If `time_major` is False, xs are `[..., T, I]`
        and resets are `[..., T]`.

    Example:
      >>> from seqjax import cells
      >>> layer = LinenScanned(cells.GRU(3, 5))
      >>> carry, inputs = layer.initialize_carry(2), (jnp.ones([7, 2, 3]), jnp.zeros([7, 2], bool))
      >>> variables = layer.init(jax.random.key(0), carry, inputs)
      >>> carry, ys = layer.apply(variables, carry, inputs)
      >>> carry.shape, ys.shape
      ((2, 5), (7, 2, 5))
    """

    cell: Cell[Any, Any]
    param_dtype: Any = jnp.float32
    time_major: bool = True

    @linen.compact
    def __call__(self, carry: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        """Run the cell over the steps of a rollout.

        Args:
          carry: the state before the first step, which `initialize_carry` or the previous call
            returned.
          inputs: the pair of xs and resets, with the axes that `time_major` selects.

        Returns:
          The state after the last step, and the outputs `[T, ..., H]` or `[..., T, H]`.

        Raises:
          TypeError: `inputs` is not a pair, or an array has a wrong dtype.
          ValueError: the carry or an array of the inputs has a wrong shape.
        """
        if not isinstance(inputs, (tuple, list)) or len(inputs) != 2:
            raise TypeError(f"inputs: expected the pair (xs, resets), got {checks.brief(inputs)}")
        check_cell(self.cell)
        xs, resets = floating_inputs(self.cell, inputs[0]), inputs[1]
        batch_shape, _ = layout(self.cell, xs, time_major=self.time_major)
        carry = batched_state("carry", self.cell, carry, batch_shape, compute_dtype(xs))
        outputs, state = unroll(
            self.cell, _params(self), xs, state=carry, resets=resets, time_major=self.time_major
        )
        return state, outputs

    def initialize_carry(self, batch_shape: Any, *sizes: Any) -> Any:
        """Return the state at the start of an episode. Call this method on a module.

        Args:
          batch_shape: the number of environments, or the shape of the batch axes.
          *sizes: no further sizes, since the cell specifies the size of the state.

        Raises:
          TypeError: the method is called on the class, or with further sizes.
        """
        if not isinstance(self, LinenScanned):
            raise TypeError(
                "initialize_carry: expected a call on a module, such as "
                "LinenScanned(cells.GRU(128, 128)).initialize_carry(4), got a call on the class"
            )
        if sizes:
            raise TypeError(
                "initialize_carry: expected the batch shape alone, such as 4 or (4,), since the "
                f"cell specifies the size of the state, got {(batch_shape, *sizes)}"
            )
        return self.cell.initial_state(batch_shape)


def _params(module: LinenRecurrent | LinenScanned) -> Any:
    """Create the parameters of a module's cell as variables of the module, and return them."""
    cell, dtype = module.cell, module.param_dtype
    check_cell(cell)
    leaves, structure = jax.tree_util.tree_flatten_with_path(param_specs(cell))
    key = module.make_rng("params") if module.is_initializing() else jax.random.key(0)

    def drawn(index: int) -> Callable[[Any], Any]:
        # The same key is used for all parameters, so that they come from one call of `cell.init`.
        return lambda _: jax.tree.leaves(cell.init(key, dtype))[index]

    found = [module.param(path_name(path), drawn(i)) for i, (path, _) in enumerate(leaves)]
    return jax.tree.unflatten(structure, found)
