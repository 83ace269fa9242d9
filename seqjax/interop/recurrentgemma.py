"""Conversion of weights from and to the RG-LRU of RecurrentGemma.

The source is the parameters of `recurrentgemma.jax.RGLRU`, the state dict of
`recurrentgemma.torch.RGLRU`, or a checkpoint of Hugging Face's `transformers`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from seqjax import cells, checks, nn
from seqjax._files import FilePath
from seqjax.interop import _state_dict, _trees
from seqjax.interop._described import dump_described, load_described, require_single
from seqjax.interop._layouts import Layout, Named

__all__ = ["dump", "load"]

FORMS = ("torch", "flax", "transformers")


def _layout(decay: str, r: str, i: str, w: str, b: str) -> Layout:
    """Return the layout for given names.

    `decay` is the name of Λ, and `r` and `i` are the names of the gates, to which `w` and `b` are
    added for their weights and biases.
    """
    return Layout(
        "RecurrentGemma",
        cells.RGLRU,
        theirs=(
            Named(r + w, "N D E", "w_r"),
            Named(r + b, "N E", "b_r"),
            Named(i + w, "N D E", "w_i"),
            Named(i + b, "N E", "b_i"),
            Named(decay, "(N E)", "decay"),
        ),
        ours=(
            Named("w_g", "N D (* E)", "w_r w_i"),
            Named("b", "(* N E)", "b_r b_i"),
            Named("decay", "(N E)", "decay"),
        ),
        fields=lambda n: {
            **{"input_size": n["N"] * n["D"], "hidden_size": n["N"] * n["D"]},
            "num_heads": n["N"],
        },
    )


LAYOUTS = (
    _layout("a_param", "a_gate", "input_gate", ".w", ".b"),
    _layout("recurrent_param", "recurrent_gate", "input_gate", "_weight", "_bias"),
)


def load(
    source: Mapping[str, Any] | FilePath,
    prefix: str = "",
    *,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.RGLRU:
    """Return a layer with the weights of RecurrentGemma's RG-LRU.

    RecurrentGemma computes h_1 = i_1 ⊙ u_1 at the first step of a sequence, without the factor
    sqrt(1 - a_1²) that our cell has at all steps; see `seqjax.cells.RGLRU`. Away from the first
    step, the equations are equal.

    Args:
      source: a state dict from names to arrays or tensors, a tree of Flax parameters, or the path
        of a `.safetensors` file.
      prefix: the path to the RG-LRU in the model, such as "blocks.0.recurrent_block.rg_lru", or
        "model.layers.0.temporal_block.rg_lru" in a checkpoint of `transformers`. The separator may
        also be "/".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.RGLRU`.

    Returns:
      A new `seqjax.nn.RGLRU`, or `into` if it is given. The number of heads is that of the source.

    Raises:
      TypeError: `source` is not a mapping or a path.
      ValueError: a name is missing or unknown, an array has a wrong shape, `into` differs from the
        source in its cell or sizes, or the file cannot be read.
      ImportError: `source` is a file, and safetensors is not installed.

    References:
      De et al. (2024), Griffin: mixing gated linear recurrences with local attention for efficient
      language models, eq. 1-4.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shapes = {"a_gate.w": (2, 3, 3), "a_gate.b": (2, 3), "a_param": 6}
      >>> shapes |= {"input_gate.w": (2, 3, 3), "input_gate.b": (2, 3)}
      >>> layer = load(
      ...     {f"rg_lru.{name}": rng.normal(size=s) for name, s in shapes.items()}, "rg_lru"
      ... )
      >>> type(layer).__name__, layer.cell.num_heads, layer.layers[0].forward.w_g.shape
      ('RGLRU', 2, (2, 3, 6))
    """
    group = _state_dict.arrays_under(source, prefix, "(?:a|recurrent)_param")
    layer: nn.RGLRU = load_described(LAYOUTS, [[group]], into, options)
    return layer


def dump(
    layer: nn.Recurrent,
    prefix: str = "",
    *,
    form: Literal["torch", "flax", "transformers"] = "torch",
) -> dict[str, Any]:
    """Return the weights of a layer as parameters of RecurrentGemma's RG-LRU.

    Args:
      layer: a `seqjax.nn.RGLRU` of one layer and one direction, whose `input_size` is its
        `hidden_size`. If the layer has no biases, the biases of the RG-LRU are zeros.
      prefix: the path to the RG-LRU in a model, which is added in front of the names. For the form
        "flax", pass no prefix.
      form: "torch" for a state dict of `recurrentgemma.torch.RGLRU`, "flax" for the variables
        `{"params": ...}` of `recurrentgemma.jax.RGLRU`, or "transformers" for a state dict of
        `RecurrentGemmaRglru`.

    Returns:
      A dict of NumPy arrays. To get a state dict, convert each array with `torch.from_numpy(a)`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell or size, several layers or directions, or an option
        that RecurrentGemma lacks, such as `zoneout`; `form` is unknown; or there is a prefix with
        the form "flax".

    Example:
      >>> from flax import nnx
      >>> layer = nn.RGLRU(6, 6, num_heads=2, rngs=nnx.Rngs(0))
      >>> sorted(dump(layer, "rg_lru"))[:2]
      ['rg_lru.a_gate.b', 'rg_lru.a_gate.w']
      >>> dump(layer, form="flax")["params"]["a_gate"]["w"].shape
      (2, 3, 3)
    """
    checks.require_name("form", form, FORMS)
    prefix = _trees.require_prefix(prefix)
    layout = LAYOUTS[form == "transformers"]
    [[arrays]] = dump_described([layout], require_single(layer, layout))
    if form == "flax":
        if prefix:
            raise ValueError(f"prefix: expected '' with form='flax', got {prefix!r}")
        return {"params": _trees.nested({k.replace(".", "/"): a for k, a in arrays.items()})}
    return _state_dict.prefixed(arrays, prefix)
