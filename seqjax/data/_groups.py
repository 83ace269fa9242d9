"""Fields that run over time, and the lengths that they share."""

from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from seqjax import checks
from seqjax.data._containers import entries
from seqjax.data._fields import Field, Spec

__all__ = ["Group", "named_groups", "scan"]


class Group(NamedTuple):
    """Fields whose sequences have one length an example.

    Attributes:
      name: of the field of lengths in a batch.
      fields: the fields.
      lengths: int32 [N].
    """

    name: str
    fields: tuple[str, ...]
    lengths: np.ndarray


def scan(fields: Mapping[str, Field], keys: Any) -> tuple[dict[str, Spec], list[Group]]:
    """Return the fields' specs, and the groups of those that run over time."""
    if keys is None:
        keys = [name for name, field in fields.items() if field.differs]
        if not keys:
            raise ValueError(
                "sequence_keys: no field has entries of different lengths; name the fields that "
                f"run over time, () for none, out of {', '.join(fields)}"
            )
    named = named_groups(keys)
    for names in named.values():
        if not set(names) <= set(fields):
            raise ValueError(f"sequence_keys: expected some of {tuple(fields)}, got {names}")
    for name in named:
        if name in fields:
            raise ValueError(f"examples: the name {name!r} is that of a field batches add")
    over_time = {name for names in named.values() for name in names}
    specs = {name: field.spec(over_time=name in over_time) for name, field in fields.items()}
    return specs, [_group(name, [fields[f] for f in names], names) for name, names in named.items()]


def named_groups(keys: Any) -> dict[str, tuple[str, ...]]:
    """Return the fields that run over time, by the name of their lengths in a batch."""
    groups: dict[str, tuple[str, ...]] = {}
    if not isinstance(keys, Mapping):
        groups = {"lengths": names} if (names := _names(keys)) else {}
    for name, fields in keys.items() if isinstance(keys, Mapping) else ():
        if not isinstance(name, str):
            raise TypeError(f"sequence_keys: expected strings as names, got {checks.brief(name)}")
        groups[f"{name}_lengths"] = _names(fields)
        if not groups[f"{name}_lengths"]:
            raise ValueError(f"sequence_keys: expected some of the fields in {name!r}, got none")
    flat = [field for fields in groups.values() for field in fields]
    if len(set(flat)) < len(flat):
        raise ValueError(f"sequence_keys: expected each field once, got {keys!r}")
    return groups


def _names(fields: Any) -> tuple[str, ...]:
    """Return the names of some fields, or raise an error."""
    if isinstance(fields, str):
        raise TypeError(f"sequence_keys: expected a list of names, got {checks.brief(fields)}")
    names = list(fields if isinstance(fields, Set) else entries("sequence_keys", fields))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"sequence_keys: expected names of fields, got {checks.brief(name)}")
    return tuple(names)


def _group(name: str, fields: Sequence[Field], names: tuple[str, ...]) -> Group:
    """Return the lengths that fields share, or raise an error that names a differing example."""
    lengths = np.stack([field.lengths() for field in fields])
    uneven = (lengths != lengths[0]).any(axis=0)
    if uneven.any():
        n = int(uneven.argmax())
        found = ", ".join(f"{f!r} {t}" for f, t in zip(names, lengths[:, n], strict=True))
        raise ValueError(
            f"examples: expected sequences of one length an example, got {found} in example {n}; "
            'say which share one: sequence_keys={"source": [...], "target": [...]}'
        )
    return Group(name, names, lengths[0])
