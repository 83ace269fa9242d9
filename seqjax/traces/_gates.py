"""The gates of cells and of layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqjax._unroll import unroll
from seqjax.cells._base import Cell, input_specs
from seqjax.traces._probe import SHOWING, Probe, cell_probe, probed, with_plain_loops
from seqjax.types import Array, PyTree

__all__ = ["cell_gates", "gate_names", "gates"]


def gates(model: nnx.Module, *args: Any, **kwargs: Any) -> dict[str, dict[str, Array]]:
    """Return the gates of all recurrent layers of a model at all steps.

    Gates are available for `seqjax.nn.Recurrent` and its subclasses, in models of any kind, but not
    for cells whose steps another module runs, such as those of `seq2seq.Decoder`. If the model
    calls layers inside `jax.jit` or `jax.lax.scan`, the model runs without compilation, and each
    iteration of a loop has its own path.

    Args:
      model: a layer, or a module that contains layers.
      *args: the positional arguments of the call of the model.
      **kwargs: the keyword arguments of the call, such as `lengths`.

    Returns:
      A dict from the path of each layer and direction, such as "layers.0.forward", to a dict of its
      gates by name, in the order of the cell's equations. A gate is float `[..., T, H]`
      (`[T, ..., H]` for time-major layers), zero at masked steps. If a layer is called a second
      time, the path of that call ends in "#2". For `MinLSTM`, the gates are divided by their sum,
      as in the update of the cell. If `gates` is called inside `jax.jit`, the names of the returned
      dict are sorted, since JAX sorts the keys of dicts.

    Raises:
      ValueError: if no layer of the model has gates.
      RuntimeError: if a layer runs inside another transformation, such as `jax.vmap`.

    Example:
      >>> from seqjax import nn
      >>> layer = nn.GRU(3, 5, bidirectional=True, rngs=nnx.Rngs(0))
      >>> found = gates(layer, jnp.ones([2, 7, 3]), lengths=jnp.array([7, 4]))
      >>> list(found), list(found["layers.0.forward"])
      (['layers.0.forward', 'layers.0.backward'], ['r', 'z', 'n'])
      >>> update = found["layers.0.forward"]["z"]
      >>> update.shape, bool((update[1, 4:] == 0).all())
      ((2, 7, 5), True)
    """

    def run() -> dict[str, dict[str, Array]]:
        found: dict[str, dict[str, Array]] = {}

        def watch(path: str, outputs: Any, nudges: PyTree) -> None:
            found[path] = dict(outputs[1])

        probed(model, watch)(*args, **kwargs)
        return found

    found = {path: values for path, values in with_plain_loops(run).items() if values}
    if not found:
        raise ValueError(
            "model: expected a recurrent layer whose cell has gates, got "
            f"{type(model).__name__} without such a layer"
        )
    return found


def cell_gates(
    cell: Cell[Any, Any], params: PyTree, xs: PyTree, **options: Any
) -> dict[str, Array]:
    """Return the gates of a cell at all steps.

    Args:
      cell: the cell.
      params: the parameters of the cell.
      xs: inputs, as for `seqjax.unroll`.
      **options: options of `seqjax.unroll`, such as `lengths`; `zoneout` is not supported.

    Returns:
      A dict from the names of gates to their values, as in `gates` for one layer.

    Raises:
      ValueError: if the cell has no gates, or an argument is not valid for `seqjax.unroll`.

    Example:
      >>> from seqjax.cells import LSTM
      >>> cell = LSTM(3, 5, forget_bias=20.0)
      >>> found = cell_gates(cell, cell.init(jax.random.key(0)), jnp.ones([7, 3]))
      >>> {name: values.shape for name, values in found.items()}
      {'i': (7, 5), 'f': (7, 5), 'g': (7, 5), 'o': (7, 5)}
      >>> bool((found["f"] > 0.99).all())
      True
    """
    probe, inputs, _, options = cell_probe("cell_gates", cell, xs, options)
    values: dict[str, Array] = dict(
        unroll(probe, params, inputs, **options, implementation=SHOWING).outputs[1]
    )
    if not values:
        raise ValueError(f"cell: expected a cell with gates, got {type(cell).__name__}")
    return values


def gate_names(cell: Cell[Any, Any]) -> list[str]:
    """Return the names of a cell's gates, in the order of the blocks of the recurrent weights.

    Example:
      >>> from seqjax.cells import LSTM
      >>> gate_names(LSTM(3, 5))
      ['i', 'f', 'g', 'o']
    """
    probe = Probe.of(cell)
    shapes = input_specs(probe, (1,), jnp.float32)
    params = cell.param_specs()
    return list(
        jax.eval_shape(
            lambda p, x: unroll(probe, p, x, implementation=SHOWING).outputs[1], params, shapes
        )
    )
