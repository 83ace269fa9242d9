"""Conversion of weights from and to the S5 layer of its authors, a Flax Linen module.

The library is github.com/lindermanlab/S5, and the module is `s5.ssm.S5SSM`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from seqjax import cells, checks, nn
from seqjax.interop import _trees
from seqjax.interop._described import dump_described, load_described, require_single
from seqjax.interop._layouts import Layout, Named
from seqjax.interop._requirements import require_layer
from seqjax.interop._schemes import Group, odd_name

__all__ = ["dump", "load"]


def _layout(output: str) -> Layout:
    """Return the layout for a given name of the output matrix."""
    return Layout(
        "S5",
        cells.S5,
        theirs=(
            Named("B", "H I *", "b_re b_im"),
            Named(output, "I H *", "c_re c_im"),
            Named("D", "I", "d"),
            Named("Lambda_re", "H", "lambda_re"),
            Named("Lambda_im", "H", "lambda_im"),
            Named("log_step", "H 1", "log_step"),
        ),
        ours=(
            Named("b_re", "I H", "b_re"),
            Named("b_im", "I H", "b_im"),
            Named("c_re", "H I", "c_re"),
            Named("c_im", "H I", "c_im"),
            Named("d", "I", "d"),
            Named("lambda_re", "H", "lambda_re"),
            Named("lambda_im", "H", "lambda_im"),
            Named("log_step", "H", "log_step"),
        ),
        fields=lambda n: {"input_size": n["I"], "hidden_size": n["H"], "output_size": n["I"]},
        options={"clip_eigenvalues": False},
    )


LAYOUT, *_SIDES = (_layout(output) for output in ("C", "C1", "C2"))


def load(
    source: Any, prefix: str = "", *, into: nn.Recurrent | None = None, **options: Any
) -> nn.S5:
    """Return a layer with the weights of the authors' `S5SSM`.

    Parameters are only arrays, so four properties of the module cannot be detected. Pass the first
    three as options: `conj_pairs` is the authors' `conj_sym`, `discretization` has the same name,
    and `clip_eigenvalues` is `clip_eigs`. The defaults are `conj_pairs=True`,
    `discretization="zoh"` and `clip_eigenvalues=False`. If the module has a `step_rescale` other
    than 1, add its logarithm to `log_step` before loading.

    A module with `bidirectional=True` becomes a bidirectional layer with `merge_mode="sum"`. Its
    directions have equal copies of Λ, B and the step sizes, and the backward direction has d = 0.

    Args:
      source: the variables `{"params": ...}` of a module, or only the tree under "params".
      prefix: the path to the S5 in the tree, such as "encoder/layers_0/seq".
      into: the layer to fill. By default, a new layer is created.
      **options: options of a new layer; see `seqjax.nn.S5`.

    Returns:
      A new `seqjax.nn.S5`, or `into` if it is given.

    Raises:
      TypeError: `source` is not a mapping.
      ValueError: a name is missing or unknown, an array has a wrong shape, or `into` differs from
        the source in its cell, sizes or directions.

    References:
      Smith, Warrington, Linderman (2023), Simplified state space layers for sequence modeling.

    Example:
      >>> from flax import nnx
      >>> variables = dump(nn.S5(3, 8, rngs=nnx.Rngs(0)))
      >>> layer = load(variables, discretization="bilinear")
      >>> type(layer).__name__, layer.layers[0].forward.b_re.shape
      ('S5', (3, 8))
    """
    group = _trees.one_layer(source, prefix, LAYOUT)
    groups, found = [group], {}
    if group.arrays.keys() & {"C1", "C2"} or _has_wide_output(group):
        groups, found = list(_sides(group)), {"merge_mode": "sum"}
    layer: nn.S5 = load_described([LAYOUT, *_SIDES], [groups], into, options, found)
    return layer


def dump(layer: nn.Recurrent) -> dict[str, Any]:
    """Return the weights of a layer as variables of the authors' `S5SSM`.

    Create the module with `conj_sym`, `discretization` and `clip_eigs` equal to `conj_pairs`,
    `discretization` and `clip_eigenvalues` of the layer's cell.

    Args:
      layer: a `seqjax.nn.S5` of one layer, whose `output_size` is its `input_size`. A bidirectional
        layer must have `merge_mode="sum"` and equal Λ, B and step sizes in both directions.

    Returns:
      The variables, `{"params": {"Lambda_re": ..., "B": ..., ...}}`.

    Raises:
      TypeError: `layer` is not a `seqjax.nn.Recurrent`.
      ValueError: the layer has another cell or size, several layers, an option that S5 lacks, or
        two directions that S5 cannot compute.

    Example:
      >>> from flax import nnx
      >>> variables = dump(nn.S5(3, 8, rngs=nnx.Rngs(0)))
      >>> variables["params"]["B"].shape, variables["params"]["log_step"].shape
      ((8, 3, 2), (8, 1))
    """
    if not require_layer("layer", layer).bidirectional or layer.num_layers > 1:
        [[arrays]] = dump_described([LAYOUT], require_single(layer, LAYOUT))
        return {"params": arrays}
    [[ahead, back]] = dump_described([LAYOUT], layer)
    if layer.merge_mode != "sum":
        raise ValueError(
            f"layer: expected merge_mode='sum', as bidirectional layers of S5 have, got "
            f"{layer.merge_mode!r}"
        )
    for key in ("Lambda_re", "Lambda_im", "log_step", "B"):
        if checks.is_traced(ahead[key], back[key]) or not np.array_equal(ahead[key], back[key]):
            raise ValueError(
                f"layers[0].backward: expected the {key} of the forward direction, since the "
                "directions of S5 have it in common, got other numbers"
            )
    output = {"C1": ahead.pop("C"), "C2": back["C"], "D": ahead["D"] + back["D"]}
    return {"params": ahead | output}


def _has_wide_output(group: Group) -> bool:
    """Return whether the matrix C has the states of two directions side by side."""
    b, c = (np.shape(group.arrays.get(key, ())) for key in ("B", "C"))
    return len(b) == len(c) == 3 and c[1] == 2 * b[0]


def _sides(group: Group) -> Iterator[Group]:
    """Yield the arrays of both directions. The backward direction has zeros as D."""
    arrays = dict(group.arrays)
    if "C" in arrays:
        c = arrays.pop("C")
        half = np.shape(c)[1] // 2
        arrays |= {"C1": c[:, :half], "C2": c[:, half:]}
    wanted = [array.key for array in LAYOUT.theirs if array.key != "C"] + ["C1", "C2"]
    if arrays.keys() != set(wanted):
        raise ValueError(odd_name(group, [wanted]))
    outputs = {side: arrays.pop(side) for side in ("C1", "C2")}
    for side, output in outputs.items():
        yield group._replace(arrays={**arrays, side: output})
        arrays["D"] = np.zeros(np.shape(arrays["D"]), arrays["D"].dtype)
