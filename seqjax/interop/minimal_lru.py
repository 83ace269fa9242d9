"""Conversion of weights from and to the LRU of minimal-LRU, a Flax Linen module.

The library is github.com/NicolasZucchet/minimal-LRU, and the module is `lru.model.LRU`.
"""

from typing import Any

from seqjax import cells, nn
from seqjax.interop import _trees
from seqjax.interop._described import dump_described, load_described, require_single
from seqjax.interop._layouts import Layout, Named

__all__ = ["dump", "load"]

_VECTORS = ("nu_log", "theta_log", "gamma_log")
LAYOUT = Layout(
    "minimal-LRU",
    cells.LRU,
    theirs=(
        Named("B_re", "H I", "b_re"),
        Named("B_im", "H I", "b_im"),
        Named("C_re", "I H", "c_re"),
        Named("C_im", "I H", "c_im"),
        Named("D", "I", "d"),
        *(Named(name, "H", name) for name in _VECTORS),
    ),
    ours=(
        Named("b_re", "I H", "b_re"),
        Named("b_im", "I H", "b_im"),
        Named("c_re", "H I", "c_re"),
        Named("c_im", "H I", "c_im"),
        Named("d", "I", "d"),
        *(Named(name, "H", name) for name in _VECTORS),
    ),
    fields=lambda n: {"input_size": n["I"], "hidden_size": n["H"], "output_size": n["I"]},
)


def load(
    source: Any, prefix: str = "", *, into: nn.Recurrent | None = None, **options: Any
) -> nn.LRU:
    """Return a layer with the weights of minimal-LRU's `LRU`.

    Args:
      source: the variables `{"params": ...}` of a module, or only the tree under "params".
      prefix: the path to the LRU in the tree, such as "encoder/layers_0/seq".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.LRU`.

    Returns:
      A new `seqjax.nn.LRU` with `output_size` equal to `input_size`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` differs from
        the source in its cell or sizes.

    References:
      Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De (2023), Resurrecting recurrent neural
      networks for long sequences.

    Example:
      >>> from flax import nnx
      >>> variables = dump(nn.LRU(3, 5, output_size=3, rngs=nnx.Rngs(0)))
      >>> layer = load(variables)
      >>> type(layer).__name__, layer.layers[0].forward.b_re.shape
      ('LRU', (3, 5))
    """
    group = _trees.one_layer(source, prefix, LAYOUT)
    layer: nn.LRU = load_described([LAYOUT], [[group]], into, options)
    return layer


def dump(layer: nn.Recurrent) -> dict[str, Any]:
    """Return the weights of a layer as variables of minimal-LRU's `LRU`.

    Args:
      layer: a `seqjax.nn.LRU` of one layer and one direction, whose `output_size` is its
        `input_size`.

    Returns:
      The variables, `{"params": {"nu_log": ..., "B_re": ..., ...}}`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell or size, several layers or directions, or an option
        that minimal-LRU lacks, such as `zoneout`.

    Example:
      >>> from flax import nnx
      >>> variables = dump(nn.LRU(3, 5, output_size=3, rngs=nnx.Rngs(0)))
      >>> variables["params"]["B_re"].shape
      (5, 3)
    """
    [[arrays]] = dump_described([LAYOUT], require_single(layer, LAYOUT))
    return {"params": arrays}
