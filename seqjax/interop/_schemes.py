"""Schemes and conversions between them.

A scheme describes how a library arranges the weights of a cell in arrays. All libraries store the
same numbers. Each gate has a block of input weights, a block of recurrent weights, and one or two
biases. A `Scheme` describes one direction of a layer. It contains the names of the arrays, the
order of the gates and the orientation of the matrices. `unpack` splits arrays into blocks, and
`pack` forms arrays from blocks. Schemes also describe the arrangement of the weights in our own
cells.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax import cells, checks
from seqjax.types import Shape

__all__ = [
    "OURS",
    "Field",
    "Group",
    "Scheme",
    "Sizes",
    "odd_name",
    "pack",
    "require_array",
    "select",
    "unpack",
]

# The parts that are vectors: the biases added to the input product and to the recurrent product.
BIASES = ("b_ih", "b_hh")
Blocks = dict[tuple[str, str], Any]


class Sizes(NamedTuple):
    """The input size I, the hidden size H and the projected size P, which determine all shapes.

    Without a projection, P equals H.
    """

    input: int
    hidden: int
    recurrent: int

    def rows(self, part: str) -> int:
        """Return the number of rows of the blocks of a part, such as "w_ih".

        The blocks of a projection have P columns; all other blocks have H columns.
        """
        known = {"w_ih": self.input, "w_hh": self.recurrent, "w_hr": self.hidden}
        return known.get(part, 1)


class Group(NamedTuple):
    """The arrays of one direction.

    Attributes:
      arrays: a dict from the key of a `Field` to its array.
      before: the text before a key in the full name of an array.
      after: the text after the key.
    """

    arrays: Mapping[str, Any]
    before: str = ""
    after: str = ""

    def name(self, key: str) -> str:
        """Return the full name of an array, for messages."""
        return f"{self.before}{key}{self.after}"


@dataclasses.dataclass(frozen=True)
class Field:
    """The description of one array of a library.

    Parts, such as input and recurrent weights, are stacked along the rows of the array. The gates
    of a part are side by side along the columns.

    Attributes:
      key: the name of the array.
      parts: the parts that the array contains: one of w_ih, w_hh, w_hr, b_ih, b_hh; or two
        matrices or two biases, separated by a space.
      gates: the letters of the gates, in the order of the array. A projection has no gates, so its
        `gates` is a space.
      transposed: whether the gates are along the first axis.
    """

    key: str
    parts: str
    gates: str = " "
    transposed: bool = False

    @property
    def is_bias(self) -> bool:
        return self.parts.startswith("b_")

    @property
    def slots(self) -> list[tuple[str, str]]:
        """The keys of the array's blocks, which are pairs of a part and a gate."""
        return [(part, gate) for part in self.parts.split() for gate in self.gates]

    def shape(self, sizes: Sizes) -> Shape:
        rows = sum(map(sizes.rows, self.parts.split()))
        width = sizes.recurrent if self.parts == "w_hr" else sizes.hidden
        columns = len(self.gates) * width
        if self.parts in BIASES:
            return (columns,)
        return (columns, rows) if self.transposed else (rows, columns)

    def matrix(self, group: Group) -> Any:
        """Return the array as a matrix with gates along the columns. A vector becomes one row."""
        array = group.arrays[self.key]
        rank = 1 if self.parts in BIASES else 2
        if np.ndim(array) != rank:
            raise ValueError(
                f"{group.name(self.key)}: expected {rank} axes, got the shape {np.shape(array)}"
            )
        if rank == 1:
            return array[None]
        return array.T if self.transposed else array


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The layout that a library uses for the weights of one kind of cell.

    Attributes:
      cell: our cell with the same equations.
      fields: the descriptions of the library's arrays.
      optional_bias: whether the library also has this cell without biases.
      negated: the letters of the gates whose value in the library is 1 - g if our gate has the
        value g. The signs of these gates' weights are changed, since σ(-z) = 1 - σ(z).
      forget_bias: the number that the library adds to the forget gate in addition to its biases.
      activations: the activations that the library has. The first one is the library's default. An
        empty tuple means that all activations are allowed.
    """

    cell: type[Any]
    fields: tuple[Field, ...]
    optional_bias: bool = True
    negated: str = ""
    forget_bias: float = 0.0
    activations: tuple[str, ...] = ()

    def keys(self, *, bias: bool = True) -> list[str]:
        return [field.key for field in self.fields if bias or not field.is_bias]

    def field(self, part: str) -> Field:
        """Return the first field that contains a part."""
        return next(field for field in self.fields if part in field.parts.split())

    def sizes(self, group: Group) -> Sizes:
        """Return the sizes, derived from the shapes of the weights.

        Only the input weights must be present.
        """
        w_hh, w_ih = self.field("w_hh"), self.field("w_ih")
        whole = w_hh.key in group.arrays
        square = w_hh if whole else w_ih
        rows, width = square.matrix(group).shape
        hidden = recurrent = width // len(square.gates)
        if "w_hr" in [field.parts for field in self.fields]:
            w_hr = self.field("w_hr")
            if w_hr.key in group.arrays:
                recurrent = w_hr.matrix(group).shape[1]
            elif whole:
                recurrent = min(rows, hidden)  # P is never greater than H
        inputs = w_ih.matrix(group).shape[0]
        return Sizes(inputs - recurrent if w_ih is w_hh else inputs, hidden, recurrent)

    def require_sizes(self, group: Group) -> Sizes:
        """Return the sizes. If a size is 0, raise `ValueError` with the name of an array."""
        sizes = self.sizes(group)
        units = f" besides {sizes.recurrent} hidden units"
        beside = units if self.field("w_ih") is self.field("w_hh") else ""
        for part, size, what in (
            ("w_hh", sizes.hidden, "hidden unit"),
            ("w_hh", sizes.recurrent, "projected unit"),
            ("w_ih", sizes.input, "input feature" + beside),
        ):
            if size < 1:
                key = self.field(part).key
                raise ValueError(
                    f"{group.name(key)}: expected at least one {what}, got the shape "
                    f"{np.shape(group.arrays[key])}"
                )
        return sizes

    def has_bias(self, group: Group) -> bool:
        return any(field.is_bias and field.key in group.arrays for field in self.fields)

    def fits(self, group: Group, fields: Iterable[Field]) -> bool:
        """Return whether the shapes of the group's arrays in these fields fit together."""
        sizes = self.sizes(group)
        present = [field for field in fields if field.key in group.arrays]
        return all(np.shape(group.arrays[f.key]) == f.shape(sizes) for f in present)


def select(schemes: Sequence[Scheme], group: Group, prefer: type[Any] | None = None) -> Scheme:
    """Return the scheme that fits the names and shapes of a direction's arrays.

    Args:
      schemes: the `Scheme` (layout of weights) of each cell of the library.
      group: the arrays of the direction.
      prefer: our cell whose scheme is chosen if several schemes fit.

    Raises:
      ValueError: no scheme fits.
    """
    wanted = [(s, s.keys(bias=b)) for s in schemes for b in (True, False) if b or s.optional_bias]
    found = set(group.arrays)
    matching = [scheme for scheme, keys in wanted if found == set(keys)]
    matching.sort(key=lambda scheme: scheme.cell is not prefer)
    for scheme in matching:
        if scheme.fits(group, scheme.fields):
            return scheme
    if not (matching and matching[0].cell is prefer):
        # One name may be missing or unknown. Then the shapes of the other arrays show the cell.
        near = [
            keys
            for scheme, keys in wanted
            if scheme.field("w_ih").key in found and scheme.fits(group, scheme.fields)
        ]
        if near or not matching:
            raise ValueError(odd_name(group, near or [keys for _, keys in wanted]))
    for scheme in matching:
        known = len(matching) == 1 or scheme.cell is prefer
        if known or scheme.fits(group, [scheme.field("w_hh")]):
            return scheme  # `unpack` raises an error that names the wrong shape
    field = matching[0].field("w_hh")
    gates = sorted({len(scheme.field("w_hh").gates) for scheme in matching})
    raise ValueError(
        f"{group.name(field.key)}: expected a recurrent matrix of {' or '.join(map(str, gates))} "
        f"gates, got the shape {np.shape(group.arrays[field.key])}"
    )


def odd_name(group: Group, wanted: Iterable[Sequence[str]]) -> str:
    """Return the error message about a missing or unknown name.

    The message lists the array names of the cell whose array names are the most similar.
    """
    found = set(group.arrays)
    keys = min(wanted, key=lambda keys: len(found ^ set(keys)))
    odd = sorted(found - set(keys)) or [key for key in keys if key not in found]
    state = "it is missing"
    if odd[0] in found:
        state = (
            "this name is unknown; leave it out of the source if it does not belong to the layer"
        )
    return f"{group.name(odd[0])}: expected {', '.join(map(group.name, keys))}; {state}"


def require_array(group: Group, key: str, expected: Shape, hint: str = "") -> Any:
    """Return an array, or raise if it has another shape or its numbers are not floating-point."""
    array = group.arrays[key]
    if np.shape(array) != expected:
        raise ValueError(
            f"{group.name(key)}: expected the shape {expected}, got {np.shape(array)}{hint}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{group.name(key)}: expected floating-point numbers, got {array.dtype}")
    return array


def unpack(scheme: Scheme, group: Group, sizes: Sizes) -> Blocks:
    """Split a direction's arrays into blocks, and convert them to the equations of our cells."""
    blocks: Blocks = {}
    for field in scheme.fields:
        if field.key not in group.arrays:
            continue
        require_array(group, field.key, field.shape(sizes))
        matrix, row = field.matrix(group), 0
        width = matrix.shape[1] // len(field.gates)
        for part in field.parts.split():
            rows = matrix[row : row + sizes.rows(part)]
            for index, gate in enumerate(field.gates):
                blocks[part, gate] = rows[:, index * width : (index + 1) * width]
            row += sizes.rows(part)
    return _turned(scheme, blocks, scheme.forget_bias)


def pack(scheme: Scheme, blocks: Blocks, sizes: Sizes, name: str, *, bias: bool) -> Any:
    """Form the arrays of a direction from its blocks, and return a dict by the scheme's keys.

    Args:
      scheme: the layout of the arrays.
      blocks: the blocks that `unpack` returns.
      sizes: the sizes of the cell.
      name: the name of the bias that the scheme may lack, for messages.
      bias: whether to return biases. If there are no blocks for the biases, the biases are zeros.

    Raises:
      ValueError: the blocks contain a bias that is not zero and that the scheme lacks.
    """
    fields = [field for field in scheme.fields if bias or not field.is_bias]
    slots = {slot for field in fields for slot in field.slots}
    blocks = _turned(scheme, _settled(scheme, blocks, slots, sizes, name), -scheme.forget_bias)
    arrays = {}
    for field in fields:
        rows = []
        for part in field.parts.split():
            found = [blocks[slot] for slot in field.slots if slot[0] == part]
            rows.append(_joined(found, 1))
        matrix = _joined(rows, 0)
        vector = field.parts in BIASES
        arrays[field.key] = matrix[0] if vector else matrix.T if field.transposed else matrix
    return arrays


def _settled(
    scheme: Scheme, blocks: Blocks, slots: set[tuple[str, str]], sizes: Sizes, name: str
) -> Blocks:
    """Return the blocks, with biases only where the scheme has biases.

    A gate uses only the sum of its two biases. So the scheme's first bias becomes the sum of both
    biases, and its second bias becomes zero. The candidate gate of a GRU is an exception: its two
    biases stay separate, because the reset gate multiplies the recurrent bias.
    """
    settled = {slot: block for slot, block in blocks.items() if slot[0] not in BIASES}
    like = next(iter(settled.values()))
    for gate in {gate for part, gate in blocks if part in BIASES}:
        given = {part: blocks[part, gate] for part in BIASES if (part, gate) in blocks}
        if given and not (scheme.cell is cells.GRU and gate == "n"):
            place = next((part for part in BIASES if (part, gate) in slots), "b_ih")
            given = {place: sum(given.values())}
        for part, block in given.items():
            if (part, gate) in slots:
                settled[part, gate] = block
            elif checks.is_traced(block) or np.any(block):
                product = {"b_ih": "input", "b_hh": "recurrent"}[part]
                raise ValueError(
                    f"{name}: expected zeros, since the target has no bias on the "
                    f"{product} product of gate {gate}, got other numbers"
                )
    zeros = np.zeros((1, sizes.hidden), like.dtype)
    return {slot: zeros for slot in slots if slot[0] in BIASES} | settled


def _turned(scheme: Scheme, blocks: Blocks, forget_bias: float) -> Blocks:
    """Change the signs of negated gates, add `forget_bias`, and return the new blocks."""
    turned = {slot: -b if slot[1] in scheme.negated else b for slot, b in blocks.items()}
    if forget_bias:
        bias = turned["b_ih", "f"]
        turned["b_ih", "f"] = bias + np.asarray(forget_bias, bias.dtype)
    return turned


def _joined(arrays: Sequence[Any], axis: int) -> Any:
    """Concatenate arrays with JAX if they are traced, and otherwise with NumPy to keep dtypes."""
    if len(arrays) == 1:
        return arrays[0]
    return (jnp if checks.is_traced(arrays) else np).concatenate(arrays, axis)


def _ours(cell: type[Any], gates: str, *more: Field, recurrent: str = "") -> Scheme:
    return Scheme(
        cell,
        (
            Field("w_ih", "w_ih", gates),
            Field("w_hh", "w_hh", recurrent or gates),
            *more,
            Field("b", "b_ih", gates),
        ),
    )


OURS: dict[type[Any], Scheme] = {
    scheme.cell: scheme
    for scheme in (
        _ours(cells.Elman, "h"),
        _ours(cells.LSTM, "ifgo"),
        _ours(cells.ProjectedLSTM, "ifgo", Field("w_hr", "w_hr")),
        _ours(cells.GRU, "rzn", Field("b_hn", "b_hh", "n")),
        _ours(cells.ChoGRU, "rzn", Field("w_hn", "w_hh", "n"), recurrent="rz"),
    )
}
"""A dict from our cells to their schemes.

The dict contains only cells that at least one other library has.
"""
