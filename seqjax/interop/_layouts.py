"""Layouts and conversions between them, for cells whose weights are more than matrices of gates.

A layout describes how a library arranges the weights of a cell. It is written for both sides: for
the arrays of the library, and for the parameters of our cell. Each array is described by the names
of its axes, such as "N (* E) D". Arrays are split into blocks with named axes, and other arrays are
formed from these blocks. So one description serves both directions of the conversion.
`_schemes.py` describes the cells that many libraries have: matrices with gates side by side.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax.interop._schemes import Group, odd_name, require_array
from seqjax.types import Shape

__all__ = ["Layout", "Named", "form", "layout_of", "split"]

Blocks = dict[str, Any]
"""A dict from the name of a block to its array, whose axes are in alphabetical order."""


@dataclasses.dataclass(frozen=True)
class Named:
    """The description of one array by the names of its axes.

    Attributes:
      key: the name of the array.
      axes: the names of the axes, separated by spaces. "(N E)" is one axis that combines N and E,
        where E varies fastest. "*" is the axis along which the blocks are arranged, and "1" is an
        axis of size 1.
      blocks: the names of the blocks, separated by spaces, in the order of the axis "*".
      optional: whether the array may be missing. A missing array has the same effect as zeros.
    """

    key: str
    axes: str
    blocks: str
    optional: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the blocks."""
        return self.blocks.split()

    def shape(self, sizes: Mapping[str, int]) -> Shape:
        """Return the shape of the array for given sizes of the axes."""
        sizes = self._all(sizes)
        return tuple(math.prod(sizes[name] for name in axis) for axis in self._axes)

    def measure(self, group: Group, sizes: dict[str, int]) -> None:
        """Add the sizes of the axes that the shape of the array determines to `sizes`.

        Raises:
          ValueError: the array has another number of axes, or it is empty.
        """
        shape = np.shape(group.arrays[self.key])
        if len(shape) != len(self._axes):
            raise ValueError(
                f"{group.name(self.key)}: expected {len(self._axes)} axes, got the shape {shape}"
            )
        if 0 in shape:
            raise ValueError(f"{group.name(self.key)}: expected no empty axis, got {shape}")
        for axis, size in zip(self._axes, shape, strict=True):
            unknown = [name for name in axis if name not in self._all(sizes)]
            if len(unknown) == 1:
                known = math.prod(self._all(sizes)[name] for name in axis if name not in unknown)
                sizes[unknown[0]] = size // known

    def split(self, array: Any, sizes: Mapping[str, int]) -> Blocks:
        """Return the blocks of the array."""
        parts = array.reshape([self._all(sizes)[name] for name in self._flat])
        # The axis "*" comes first, since it sorts before all letters.
        parts = parts.transpose(np.argsort(self._flat))
        return dict(zip(self.names, parts if "*" in self._flat else [parts], strict=True))

    def join(self, blocks: Blocks, sizes: Mapping[str, int]) -> Any:
        """Return the array that contains the blocks. This function is the inverse of `split`."""
        found = [blocks[name] for name in self.names]
        xp: Any = jnp if checks.is_traced(found) else np
        parts = xp.stack(found) if "*" in self._flat else found[0]
        return parts.transpose(np.argsort(np.argsort(self._flat))).reshape(self.shape(sizes))

    def zeros(self, sizes: Mapping[str, int]) -> Blocks:
        """Return the blocks of an array of zeros."""
        return self.split(np.zeros(self.shape(sizes), np.float32), sizes)

    @property
    def _axes(self) -> list[list[str]]:
        """The names of the axes. Each entry is a list of the names that one axis combines."""
        axes: list[list[str]] = []
        inside = False
        for word in self.axes.split():
            axes[-1].append(word.strip("()")) if inside else axes.append([word.strip("()")])
            inside = (inside or word.startswith("(")) and not word.endswith(")")
        return axes

    @property
    def _flat(self) -> list[str]:
        """The names of all axes except those of size 1."""
        return [name for axis in self._axes for name in axis if name != "1"]

    def _all(self, sizes: Mapping[str, int]) -> dict[str, int]:
        return {**sizes, "*": len(self.names), "1": 1}


def _unchanged(blocks: Blocks, sizes: Mapping[str, int], name: str) -> Blocks:
    """Return the blocks as they are."""
    del sizes, name
    return blocks


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arrangement of one cell's weights in a library and in our parameters.

    The names of the axes are I (inputs), H (hidden units), N (heads), and D and E (units of one
    head). M is another name of N, for arrays that have two axes of heads, and C is I divided by H.

    Attributes:
      library: the name of the library, for messages.
      cell: our cell with the same equations.
      theirs: the descriptions of the library's arrays.
      ours: the descriptions of the parameters of our cell.
      fields: a function from the sizes of the axes to the fields of our cell that they determine.
      options: options of a new layer whose default in the library differs from our default.
      suits: a function that returns whether the layout is the one of a given cell, for cells whose
        parameters have several arrangements.
      load: a function from the library's blocks to our blocks, for conversions that do more than
        rearrange numbers. Its other arguments are the sizes and the names of the arrays.
      dump: the inverse of `load`.
    """

    library: str
    cell: type[Any]
    theirs: tuple[Named, ...]
    ours: tuple[Named, ...]
    fields: Callable[[Mapping[str, int]], dict[str, Any]]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    suits: Callable[[Any], bool] = lambda cell: True
    load: Callable[[Blocks, Mapping[str, int], str], Blocks] = _unchanged
    dump: Callable[[Blocks, Mapping[str, int], str], Blocks] = _unchanged

    optional_bias = False  # as in `Scheme`

    def keys(self, *, bias: bool = True) -> list[str]:
        """Return the names of the arrays that must exist."""
        del bias
        return [array.key for array in self.theirs if not array.optional]

    def accepts(self, group: Group) -> bool:
        """Return whether the names of the group's arrays are those of the layout."""
        found = set(group.arrays)
        return set(self.keys()) <= found <= {array.key for array in self.theirs}

    def measured(self, group: Group) -> dict[str, Any]:
        """Return the fields of our cell that the shapes of the library's arrays determine."""
        sizes: dict[str, int] = {}
        for array in self.theirs:
            if array.key in group.arrays:
                array.measure(group, sizes)
        return self.fields(sizes)

    def require(self, argument: str, cell: Any) -> None:
        """Raise if a cell of the right class has a field that the library does not support."""
        for name, value in self.fields(sizes_of(cell)).items():
            if getattr(cell, name) != value:
                raise ValueError(
                    f"{argument}: expected {name}={value!r}, as cells of {self.library} have, got "
                    f"{getattr(cell, name)!r}"
                )


def sizes_of(cell: Any) -> dict[str, int]:
    """Return the sizes of the axes of our cell."""
    heads = getattr(cell, "num_heads", 1)
    width = cell.hidden_size // heads
    return {
        **{"I": cell.input_size, "H": cell.hidden_size, "C": cell.input_size // cell.hidden_size},
        **{"N": heads, "M": heads, "D": width, "E": width},
    }


def layout_of(layouts: Sequence[Layout], group: Group, cell: Any = None) -> Layout:
    """Return the layout that has the names of a direction's arrays.

    Args:
      layouts: the layouts of a library.
      group: the arrays of the direction.
      cell: our cell, if it is known.

    Raises:
      ValueError: no layout has these names.
    """
    found = [layout for layout in layouts if layout.accepts(group)]
    if not found:
        wanted = [(each.keys(), [array.key for array in each.theirs]) for each in layouts]
        raise ValueError(odd_name(group, [keys for pair in wanted for keys in pair]))
    return next((each for each in found if type(cell) is each.cell and each.suits(cell)), found[0])


def split(arrays: Iterable[Named], group: Group, sizes: Mapping[str, int]) -> Blocks:
    """Return the blocks of a direction's arrays. The blocks of missing arrays are zeros.

    Raises:
      ValueError: an array has a wrong shape, or its numbers are not floating-point.
    """
    blocks: Blocks = {}
    for each in arrays:
        if each.key not in group.arrays:
            blocks |= each.zeros(sizes)
            continue
        array = require_array(group, each.key, each.shape(sizes))
        blocks |= each.split(array, sizes)
    return blocks


def form(
    arrays: Iterable[Named],
    blocks: Blocks,
    sizes: Mapping[str, int],
    present: Iterable[str],
    sources: Callable[[Named], str],
) -> dict[str, Any]:
    """Form arrays from blocks, and return them in a dict by their names.

    Args:
      arrays: the descriptions of the arrays.
      blocks: the blocks that `split` returns.
      sizes: the sizes of the axes.
      present: the names of the arrays to form. The blocks of other arrays must be zeros.
      sources: a function that returns the names of the arrays from which an array is formed.

    Raises:
      ValueError: the blocks of an array that is not in `present` contain other numbers than zeros.
    """
    present, formed = set(present), {}
    for each in arrays:
        if each.key in present:
            formed[each.key] = each.join(blocks, sizes)
            continue
        left = [blocks[name] for name in each.names]
        if checks.is_traced(left) or any(np.any(block) for block in left):
            raise ValueError(
                f"{sources(each)}: expected zeros, since the target has no {each.key}, got other "
                "numbers"
            )
    return formed
