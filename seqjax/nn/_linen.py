"""The same cells for users of Flax Linen: an adapter of a few lines over `seqjax.unroll`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from seqjax import checks
from seqjax._arguments import check_cell, param_specs
from seqjax._unroll import unroll
from seqjax.cells._base import Cell
from seqjax.nn._parameters import path_name
from seqjax.types import Unrolled

__all__ = ["LinenRecurrent"]


class LinenRecurrent(linen.Module):
    """Any cell as a Linen module; for stacks and directions, call several.

    Attributes:
      cell: the cell.
      param_dtype: the dtype of its parameters, which stand in the collection "params" under the
        names that the cell gives them.

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
        """Runs `seqjax.unroll`; arguments and result as there."""
        checks.require_options("LinenRecurrent", options, unroll)
        check_cell(self.cell)
        leaves, structure = jax.tree_util.tree_flatten_with_path(param_specs(self.cell))
        names = [path_name(path) for path, _ in leaves]

        def drawn(index: int) -> Callable[[Any], Any]:
            # Every parameter draws from the same key, so that together they are one `cell.init`.
            return lambda _: jax.tree.leaves(self.cell.init(key, self.param_dtype))[index]

        key = self.make_rng("params") if self.is_initializing() else jax.random.key(0)
        params = [self.param(name, drawn(index)) for index, name in enumerate(names)]
        return unroll(self.cell, jax.tree.unflatten(structure, params), xs, **options)
