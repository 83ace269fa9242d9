"""Conversion of weights from and to the sLSTM of NX-AI's `xlstm`, a PyTorch module.

The library is github.com/NX-AI/xlstm, and the module is `sLSTMLayer`.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from seqjax import cells, checks, nn
from seqjax._files import FilePath
from seqjax.interop import _state_dict
from seqjax.interop._described import dump_described, load_described, require_single
from seqjax.interop._layouts import Blocks, Layout, Named
from seqjax.interop._requirements import require_layer

__all__ = ["dump", "load"]

BACKENDS = ("vanilla", "cuda")
_KERNEL = "slstm_cell._recurrent_kernel_"
_CONVOLUTION = ("conv1d.conv.weight", "conv1d.conv.bias")
# The library passes the result of `fgate` to the input gate and that of `igate` to the forget gate.
_GATES = {"i": "fgate", "f": "igate", "z": "zgate", "o": "ogate"}


def _slots(part: str) -> str:
    """Return the names of a part's blocks in the order of the gates, i f z o."""
    return " ".join(f"{part}_{gate}" for gate in _GATES)


def _part_of(gate: str, sizes: Mapping[str, int]) -> int:
    """Return the part of our input that a gate reads, an index of the axis C.

    With a convolution, our input is [x_conv, x]. The gates i and f read x_conv, and z and o read x.
    """
    return sizes["C"] - 1 if gate in "zo" else 0


def _load(blocks: Blocks, sizes: Mapping[str, int], name: str) -> Blocks:
    """Return our blocks: dense matrices instead of one matrix for each head, and a gain 1 + w."""
    del name
    own = np.eye(sizes["N"])  # [M, N]: a head reads its own inputs
    loaded = {**blocks, "gain": blocks["gain"] + 1}
    for gate in _GATES:
        parts = np.eye(sizes["C"])[_part_of(gate, sizes)].reshape(-1, 1, 1, 1, 1)
        # The axes are D, E, N before, and C, D, E, M, N after.
        loaded[f"w_ih_{gate}"] = parts * blocks[f"w_ih_{gate}"][:, :, None, :] * own
    return loaded


def _dump(blocks: Blocks, sizes: Mapping[str, int], name: str) -> Blocks:
    """Return the library's blocks. This function is the inverse of `_load`."""
    dumped = {**blocks, "gain": blocks["gain"] - 1}
    for gate in _GATES:
        dense = blocks[f"w_ih_{gate}"]
        xp: Any = jnp if checks.is_traced(dense) else np
        heads = xp.diagonal(dense[_part_of(gate, sizes)], axis1=2, axis2=3)
        dumped[f"w_ih_{gate}"] = heads
    if checks.is_traced(blocks) or any(
        np.any(again != blocks[key])
        for key, again in _load(dumped, sizes, name).items()
        if "w_ih" in key
    ):
        raise ValueError(
            f"{name}w_ih: expected zeros wherever a gate of one head reads inputs of another head, "
            "since the matrices of xlstm have one block for each head, got other numbers"
        )
    return dumped


def _layout(backend: str, *, convolved: bool) -> Layout:
    """Return the layout of a backend.

    `convolved` is True if the gates i and f read the output of a convolution.
    """
    kernel, bias = ("N (* E) D", "(* N E)") if backend == "vanilla" else ("N D (* E)", "(N * E)")
    times = 2 if convolved else 1
    return Layout(
        "xlstm",
        cells.SLSTM,
        theirs=(
            Named(_KERNEL, kernel, _slots("w_hh")),
            Named("slstm_cell._bias_", bias, _slots("b")),
            *(Named(f"{name}.weight", "N E D", f"w_ih_{gate}") for gate, name in _GATES.items()),
            Named("group_norm.weight", "(N E)", "gain", optional=True),
        ),
        ours=(
            Named("w_ih", "(C M D) (* N E)", _slots("w_ih")),
            Named("w_hh", "N D (* E)", _slots("w_hh")),
            Named("b", "(* N E)", _slots("b")),
            Named("gain_h", "(N E)", "gain"),
        ),
        fields=lambda n: {
            **{"input_size": times * n["N"] * n["D"], "hidden_size": n["N"] * n["D"]},
            **{"num_heads": n["N"], "head_norm": True, "forget_gate": "sigmoid"},
        },
        load=_load,
        dump=_dump,
    )


def load(
    source: Mapping[str, Any] | FilePath,
    prefix: str = "",
    *,
    into: nn.Recurrent | None = None,
    **options: Any,
) -> nn.SLSTM:
    """Return a layer with the weights of the `sLSTMLayer` of `xlstm`.

    The layer computes the cell and the group norm. The matrices of the library's gates have one
    block for each head. Our matrix `w_ih` is dense, with zeros outside of these blocks.

    The convolution of the module is not part of the layer. If the source has a convolution, which
    is the library's default, the layer reads twice as many inputs: pass
    `concatenate([x_conv, x], axis=-1)`, where x_conv is the output of the convolution and of the
    activation SiLU. The gates i and f read x_conv, and z and o read x.

    In the library, the weights named `fgate` belong to the input gate of the cell, and the weights
    named `igate` belong to its forget gate. `load` and `dump` follow the library.

    Args:
      source: a state dict from names to arrays or tensors, or the path of a `.safetensors` file.
        Arrays of both backends of the library, "vanilla" and "cuda", are accepted: the shape of
        the recurrent kernel shows the backend.
      prefix: the path to the module in the model, such as "xlstm_block_stack.blocks.1.xlstm".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.SLSTM`.

    Returns:
      A new `seqjax.nn.SLSTM` with `head_norm=True`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping or a path.
      ValueError: a name is missing or unknown, an array has a wrong shape, `into` differs from the
        source in its cell or sizes, or the file cannot be read.
      ImportError: `source` is a file, and safetensors is not installed.

    References:
      Beck, Pöppel, Spanring, Auer, Prudnikova, Kopp, Klambauer, Brandstetter, Hochreiter (2024),
      xLSTM: Extended long short-term memory.

    Example:
      >>> import numpy as np
      >>> gates = {f"{gate}gate.weight": np.ones((2, 3, 3)) for gate in "ifzo"}
      >>> cell = {"_recurrent_kernel_": np.ones((2, 12, 3)), "_bias_": np.ones(24)}
      >>> layer = load(gates | {f"slstm_cell.{name}": array for name, array in cell.items()})
      >>> type(layer).__name__, layer.cell.num_heads, layer.layers[0].forward.w_ih.shape
      ('SLSTM', 2, (6, 24))
    """
    group = _state_dict.arrays_under(source, prefix, _KERNEL.replace(".", r"\."))
    plain = {key: array for key, array in group.arrays.items() if key not in _CONVOLUTION}
    shape = np.shape(plain.get(_KERNEL, ()))
    backend = "cuda" if len(shape) == 3 and shape[1] < shape[2] else "vanilla"
    layout = _layout(backend, convolved=len(plain) < len(group.arrays))
    group = group._replace(arrays=plain)
    layer: nn.SLSTM = load_described([layout], [[group]], into, options)
    return layer


def dump(
    layer: nn.Recurrent, prefix: str = "", *, backend: Literal["vanilla", "cuda"] = "vanilla"
) -> dict[str, Any]:
    """Return the weights of a layer as a state dict of the `sLSTMLayer` of `xlstm`.

    Args:
      layer: a `seqjax.nn.SLSTM` of one layer and one direction, with `head_norm=True` and
        `forget_gate="sigmoid"`. Its `input_size` is H, or 2 H for a module with a convolution,
        where H is its `hidden_size`. `w_ih` must be zero wherever the library has no weights.
      prefix: the path to the module in a model, which is added in front of the names.
      backend: the backend of the library, which decides on the shapes of the arrays.

    Returns:
      A dict from the names of the library to NumPy arrays, without the arrays of the convolution.
      To get a state dict, convert each array with `torch.from_numpy(a)`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell or size, several layers or directions, weights that
        `xlstm` lacks, or an option that `xlstm` lacks, such as `zoneout`; or `backend` is unknown.

    Example:
      >>> from flax import nnx
      >>> layer = nn.SLSTM(6, 6, num_heads=2, head_norm=True, kernel_init="zeros", rngs=nnx.Rngs(0))
      >>> state = dump(layer, backend="cuda")
      >>> state["slstm_cell._recurrent_kernel_"].shape, state["igate.weight"].shape
      ((2, 3, 12), (2, 3, 3))
    """
    checks.require_name("backend", backend, BACKENDS)
    cell: Any = require_layer("layer", layer).cell
    layout = _layout(backend, convolved=cell.input_size == 2 * cell.hidden_size)
    [[arrays]] = dump_described([layout], require_single(layer, layout))
    return _state_dict.prefixed(arrays, prefix)
