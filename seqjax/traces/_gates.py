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
    """The gates of every recurrent layer of a model at every step.

    These are the layers run by `Recurrent`, in models of any kind; not the cells that a module
    steps by itself, such as `seq2seq.Decoder`'s. Layers that the model calls inside `jax.jit` or
    `jax.lax.scan` are found, too: those run without being compiled then, a path a turn of a loop.

    Args:
      model: a layer, or a module with layers in it.
      *args: of its call.
      **kwargs: of its call, such as `lengths`.

    Returns:
      For each layer and direction, by its path such as "layers.0.forward", the gates by name in the
      order of the cell's equations: float `[..., T, H]` (`[T, ..., H]` for time-major layers), zero
      at masked steps. A layer that is called again has a path ending in "#2". For `MinLSTM` they
      are the gates as they act, divided by their sum. (What `jax.jit` returns of a function that
      calls this has keys sorted by name: JAX sorts those of a dict.)

    Raises:
      ValueError: no layer of the model has gates.
      RuntimeError: a layer runs inside another transformation, such as `jax.vmap`.

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
            f"{type(model).__name__} without one"
        )
    return found


def cell_gates(
    cell: Cell[Any, Any], params: PyTree, xs: PyTree, **options: Any
) -> dict[str, Array]:
    """The gates of a cell at every step.

    Args:
      cell: the cell.
      params: its parameters.
      xs: inputs, as for `seqjax.unroll`.
      **options: of `seqjax.unroll`, such as `lengths`; no zoneout.

    Returns:
      As `gates` for one layer.

    Raises:
      ValueError: the cell has no gates; see `seqjax.unroll`.

    Example:
      >>> from seqjax.cells import LSTM
      >>> cell = LSTM(3, 5, forget_bias=20.0)
      >>> found = cell_gates(cell, cell.init(jax.random.key(0)), jnp.ones([7, 3]))
      >>> {name: values.shape for name, values in found.items()}
      {'i': (7, 5), 'f': (7, 5), 'g': (7, 5), 'o': (7, 5)}
      >>> bool((found["f"] > 0.99).all())
      True
    """
    probe, inputs, _ = cell_probe("cell_gates", cell, xs, options)
    values: dict[str, Array] = dict(
        unroll(probe, params, inputs, **options, implementation=SHOWING).outputs[1]
    )
    if not values:
        raise ValueError(f"cell: expected one with gates, got {type(cell).__name__}")
    return values


def gate_names(cell: Cell[Any, Any]) -> list[str]:
    """The names of a cell's gates, in the order of the recurrent weights' blocks.

    Example:
      >>> from seqjax.cells import LSTM
      >>> gate_names(LSTM(3, 5))
      ['i', 'f', 'g', 'o']
    """
    probe = Probe.of(cell)
    shapes = input_specs(probe, (1,), jnp.float32)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    return list(
        jax.eval_shape(
            lambda p, x: unroll(probe, p, x, implementation=SHOWING).outputs[1], params, shapes
        )
    )
