"""Packing of short sequences into rows of one length, and unpacking."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from seqjax import checks
from seqjax.data._containers import columns, numbers
from seqjax.data._fields import Field
from seqjax.data._padding import Truncate

__all__ = ["pack", "unpack"]

ADDED = ("resets", "mask", "segments", "indices")


def pack(
    sequences: Any,
    *,
    length: int,
    truncate: Truncate = "error",
) -> dict[str, np.ndarray]:
    """Pack sequences one after another into rows of one length.

    The sequences are packed from the longest to the shortest. Each sequence goes into the first row
    that has room for it. This algorithm, first-fit decreasing, uses at most 11/9 OPT + 6/9 rows,
    where OPT is the smallest possible number of rows. If a recurrent layer is given `resets` and
    `mask`, its outputs for each sequence are the same as for the sequence alone, in both
    directions. To make batches of rows, call
    `seqjax.data.batches(packed, batch_size=B, sequence_keys=())`.

    Args:
      sequences: a dict of fields. Each field has N sequences [t_n, ...], t_n ≥ 1, in a container
        that `batches` accepts. All fields of example n have the same length t_n.
      length: T, the length of the rows.
      truncate: what to do with a sequence longer than T. "error" raises an error. "right" removes
        its last steps. "left" removes its first steps.

    Returns:
      The packed fields, each [R, T, ...] with zeros as padding, and four more fields.

      - "resets": bool [R, T], True at the first step of each sequence;
      - "mask": bool [R, T], True at the steps of sequences, False at padding;
      - "segments": int32 [R, T], 1, 2, … for the sequences of a row from left to right, 0 for
        padding;
      - "indices": int32 [R, T], the index n of the sequence, -1 for padding. In filler rows that
        `batches` adds, "indices" is 0 and "mask" is False.

    Raises:
      TypeError: `sequences` is not a dict, or an entry does not consist of numbers.
      ValueError: there are no sequences; a sequence has no steps, or has more than T steps and
        `truncate` is "error"; the fields differ in their number of sequences or in the length of a
        sequence; the steps of a field differ in shape; or a field is named "resets", "mask",
        "segments" or "indices".

    References:
      Dósa (2007), The tight bound of first fit decreasing bin-packing algorithm is
      FFD(I) ≤ 11/9 OPT(I) + 6/9.

    Example:
      >>> packed = pack({"tokens": [[1, 2], [3, 4, 5], [6]]}, length=4)
      >>> packed["tokens"].tolist()
      [[3, 4, 5, 6], [1, 2, 0, 0]]
      >>> packed["segments"].tolist(), packed["resets"].astype(int).tolist()
      ([[1, 1, 1, 2], [1, 1, 0, 0]], [[1, 0, 0, 1], [1, 0, 0, 0]])
      >>> [values.tolist() for values in unpack(10 * packed["tokens"], packed)]
      [[10, 20], [30, 40, 50], [60]]
    """
    length = checks.require_integer("length", length)
    checks.require_name("truncate", truncate, ("error", "right", "left"))
    fields = _fields(sequences)
    specs = {name: field.spec(over_time=True) for name, field in fields.items()}
    whole = _lengths(fields, None if truncate != "error" else length)
    lengths = np.minimum(whole, length)
    first = whole - lengths if truncate == "left" else np.zeros_like(whole)
    rows, starts = _first_fit(lengths, length)
    shape = (int(rows.max()) + 1, length)
    packed = {name: np.zeros(shape + spec.shape, spec.dtype) for name, spec in specs.items()}
    resets, mask = np.zeros(shape, bool), np.zeros(shape, bool)
    segments, indices = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for n in np.lexsort([starts, rows]):
        row, start = rows[n], starts[n]
        steps = slice(start, start + lengths[n])
        for name, field in fields.items():
            packed[name][row, steps] = field[n][first[n] : first[n] + lengths[n]]
        resets[row, start] = True
        mask[row, steps] = True
        segments[row, steps] = 1 if start == 0 else segments[row, start - 1] + 1
        indices[row, steps] = n
    return packed | {"resets": resets, "mask": mask, "segments": segments, "indices": indices}


def unpack(values: ArrayLike, packed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the values in packed rows, such as a model's outputs, as one array per sequence.

    Args:
      values: [R, T, ...], such as the outputs of a layer.
      packed: the result of `pack`, or some of its rows, such as a batch.

    Returns:
      The values [t_n, ...] of each sequence, in the order of the sequences given to `pack`.

    Raises:
      ValueError: `values` and `packed` differ in the number of rows or steps, or `packed` lacks a
        field that `pack` adds.

    Example:
      >>> packed = pack({"x": [[1.0], [2.0, 3.0]]}, length=3)
      >>> unpack(packed["x"], packed)
      [array([1.]), array([2., 3.])]
    """
    missing = [name for name in ("mask", "indices") if name not in packed]
    if missing:
        raise ValueError(
            f"packed: expected the result of pack, got a dict without {' and '.join(missing)}"
        )
    mask = numbers("packed['mask']", packed["mask"])
    indices = numbers("packed['indices']", packed["indices"])
    array = numbers("values", values)
    if array.shape[:2] != mask.shape:
        found = ", ".join(map(str, mask.shape))
        raise ValueError(f"values: expected shape [{found}, ...], got {array.shape}")
    # A stable sort keeps the steps of each sequence in order.
    order = np.argsort(indices[mask], kind="stable")
    _, counts = np.unique(indices[mask], return_counts=True)
    return np.split(array[mask][order], np.cumsum(counts)[:-1]) if len(counts) else []


def _first_fit(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the start of each sequence, by first-fit decreasing.

    Sequences of the same length are placed together: each row in turn takes as many of them as it
    has room for. The result is the same as if sequences of the same length were placed one by one.
    """
    rows, starts = np.zeros_like(lengths), np.zeros_like(lengths)
    room = np.zeros(0, lengths.dtype)
    for length in np.unique(lengths)[::-1]:
        group = np.flatnonzero(lengths == length)
        beyond = len(group) - int((room // length).sum())
        if beyond > 0:
            room = np.append(room, np.full(-(-beyond // (size // length)), size))
        fit = room // length
        taken = np.clip(len(group) - (np.cumsum(fit) - fit), 0, fit)
        row = np.repeat(np.arange(len(room)), taken)
        rank = np.arange(len(group)) - np.repeat(np.cumsum(taken) - taken, taken)
        rows[group], starts[group] = row, size - room[row] + rank * length
        room = room - taken * length
    return rows, starts


def _fields(sequences: Any) -> dict[str, Field]:
    """Return the fields, or raise if they differ in their number of sequences."""
    given = columns("sequences", sequences)
    taken = [name for name in given if name in ADDED]
    if taken:
        raise ValueError(
            f"sequences: expected names of fields other than {', '.join(ADDED)}, which pack adds, "
            f"got {taken[0]!r}"
        )
    fields = {name: Field(f"sequences[{name!r}]", field) for name, field in given.items()}
    sizes = {name: len(field) for name, field in fields.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"sequences: expected the same number in every field, got {sizes}")
    if not any(sizes.values()):
        raise ValueError(f"sequences: expected at least one, got {sizes or 'no field'}")
    return fields


def _lengths(fields: Mapping[str, Field], longest: int | None) -> np.ndarray:
    """Return the lengths [N] that all fields share, or raise an error."""
    lengths = {name: field.lengths() for name, field in fields.items()}
    first, expected = next(iter(lengths.items()))
    for name, found in lengths.items():
        if found.min() < 1:
            n = int(found.argmin())
            raise ValueError(f"sequences[{name!r}][{n}]: expected at least one step, got none")
        if longest is not None and found.max() > longest:
            n = int((found > longest).argmax())
            raise ValueError(
                f"sequences[{name!r}][{n}]: expected at most length={longest} steps, got "
                f'{found[n]}; pass truncate="right" or "left" to cut long sequences'
            )
        if (found != expected).any():
            n = int((found != expected).argmax())
            raise ValueError(
                f"sequences: expected the same length in every field, got {found[n]} in "
                f"{name!r}[{n}] and {expected[n]} in {first!r}[{n}]"
            )
    return expected
