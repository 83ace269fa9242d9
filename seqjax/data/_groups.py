"""Groups of fields with a time axis that share their lengths."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from seqjax import checks
from seqjax.data._containers import entries
from seqjax.data._fields import Field, Spec

__all__ = ["Group", "named_groups", "scan"]


class Group(NamedTuple):
    """A group of fields whose sequences have the same length in each example.

    Attributes:
      name: the name of the batch field with the group's lengths, such as "lengths" or
        "source_lengths".
      fields: the names of the fields.
      lengths: int32 [N], the length of the sequences in each example.
    """

    name: str
    fields: tuple[str, ...]
    lengths: np.ndarray


def scan(fields: Mapping[str, Field], keys: Any) -> tuple[dict[str, Spec], list[Group]]:
    """Return the `Spec` of each field, and the groups of the fields with a time axis."""
    if keys is None:
        keys = [name for name, field in fields.items() if field.differs]
        if not keys:
            raise ValueError(
                "sequence_keys: expected the names of the fields with a time axis, since no field "
                f"has entries of different lengths, got None; the fields are {', '.join(fields)}; "
                "pass () if none has a time axis"
            )
    named = named_groups(keys)
    for names in named.values():
        if not set(names) <= set(fields):
            raise ValueError(f"sequence_keys: expected some of {tuple(fields)}, got {names}")
    for name in named:
        if name in fields:
            raise ValueError(
                f"examples: expected no field {name!r}, since batches add this field, got one"
            )
    over_time = {name for names in named.values() for name in names}
    specs = {name: field.spec(over_time=name in over_time) for name, field in fields.items()}
    return specs, [_group(name, [fields[f] for f in names], names) for name, names in named.items()]


def named_groups(keys: Any) -> dict[str, tuple[str, ...]]:
    """Return the fields of each group, by the name of the batch field with the group's lengths."""
    groups: dict[str, tuple[str, ...]] = {}
    if not isinstance(keys, Mapping):
        groups = {"lengths": names} if (names := _names(keys)) else {}
    for name, fields in keys.items() if isinstance(keys, Mapping) else ():
        if not isinstance(name, str):
            raise TypeError(f"sequence_keys: expected strings as names, got {checks.brief(name)}")
        groups[f"{name}_lengths"] = _names(fields)
        if not groups[f"{name}_lengths"]:
            raise ValueError(f"sequence_keys: expected at least one field in {name!r}, got none")
    flat = [field for fields in groups.values() for field in fields]
    if len(set(flat)) < len(flat):
        raise ValueError(f"sequence_keys: expected no field twice, got {keys!r}")
    return groups


def _names(fields: Any) -> tuple[str, ...]:
    """Return names of fields as a tuple, or raise if they are not a collection of strings."""
    if isinstance(fields, str):
        raise TypeError(f"sequence_keys: expected a list of names, got {checks.brief(fields)}")
    names = list(fields if isinstance(fields, Set) else entries("sequence_keys", fields))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"sequence_keys: expected names of fields, got {checks.brief(name)}")
    return tuple(names)


def _group(name: str, fields: Sequence[Field], names: tuple[str, ...]) -> Group:
    """Return the fields as a group. Raise if an example has fields of different lengths."""
    lengths = np.stack([field.lengths() for field in fields])
    uneven = (lengths != lengths[0]).any(axis=0)
    if uneven.any():
        n = int(uneven.argmax())
        found = ", ".join(f"{f!r} {t}" for f, t in zip(names, lengths[:, n], strict=True))
        raise ValueError(
            "examples: expected sequences of the same length in each example, got lengths "
            f"{found} in example {n}; group the fields that share their lengths: "
            'sequence_keys={"source": [...], "target": [...]}'
        )
    return Group(name, names, lengths[0])
