"""The CTC prefix beam search at one frame, for one sequence with K prefixes."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from seqjax._label_sequences import hashed
from seqjax.types import Array

__all__ = ["Prefixes", "advance", "first_prefixes"]


class Prefixes(NamedTuple):
    """K different label prefixes, most probable first. An entry of probability zero is unused.

    Attributes:
      blank: log-probability `[K]` of the paths that end in a blank.
      label: log-probability `[K]` of the paths that end in the last label.
      last: int32 `[K]`, the last label, or the blank for the empty prefix.
      name: uint32 `[K, 2]`, a hash of the prefix.
      stem: uint32 `[K, 2]`, a hash of the prefix without its last label.
    """

    blank: Array
    label: Array
    last: Array
    name: Array
    stem: Array

    @property
    def total(self) -> Array:
        """The total log-probability `[K]` of all paths of each prefix."""
        return jnp.logaddexp(self.blank, self.label)


def first_prefixes(width: int, blank: int, dtype: jnp.dtype) -> Prefixes:
    """Return the prefixes before the first frame: the empty prefix, and K - 1 unused entries."""
    nothing = jnp.full(width, -jnp.inf, dtype)
    names = jnp.zeros((width, 2), jnp.uint32)
    return Prefixes(
        blank=nothing.at[0].set(0.0),
        label=nothing,
        last=jnp.full(width, blank, jnp.int32),
        name=names,
        stem=names,
    )


def advance(
    prefixes: Prefixes, log_probs: Array, blank: int, bonus: Array, gains: Array
) -> tuple[Prefixes, Array, Array]:
    """Return the prefixes after a frame, their parents, and the label or blank added to each.

    Args:
      prefixes: the K prefixes before the frame.
      log_probs: log p `[V]` of the classes at the frame.
      blank: the class of the blank.
      bonus: `[K]`, added to the log-probability of each prefix when prefixes are compared.
      gains: `[K, V]`, or `[K, 1]`, what each label adds to the bonus of a prefix.
    """
    width, classes = len(prefixes.last), len(log_probs)
    total, last = prefixes.total, prefixes.last
    empty = last == blank
    label = jnp.arange(classes, dtype=jnp.int32)[None]

    # Extend every prefix ℓ by every label c: [K, V]. If c is the last label of ℓ, a blank must
    # precede c.
    grown = jnp.where(label == last[:, None], prefixes.blank[:, None], total[:, None])
    grown = jnp.where(label == blank, -jnp.inf, grown + log_probs[None])
    # If ℓ + c is already a prefix j of the beam, its paths are added to j, which has one such ℓ.
    exists = total > -jnp.inf
    is_stem = (prefixes.name[:, None] == prefixes.stem[None]).all(axis=-1)
    is_stem = is_stem & exists[:, None] & (exists & ~empty)[None]
    joining = jnp.where(is_stem, grown[:, last], -jnp.inf).max(axis=0)
    row = jnp.arange(width, dtype=jnp.int32)[:, None]
    taken = jnp.zeros(grown.shape, jnp.int32).at[row, last[None]].add(is_stem.astype(jnp.int32))
    grown = jnp.where(taken > 0, -jnp.inf, grown)

    repeated = jnp.where(empty, -jnp.inf, prefixes.label + log_probs[last])
    stayed = prefixes._replace(
        blank=total + log_probs[blank], label=jnp.logaddexp(repeated, joining)
    )
    ranked = grown + (bonus[:, None] + gains)
    candidates = jnp.concatenate([stayed.total + bonus, ranked.reshape(-1)])
    _, index = lax.top_k(candidates, width)

    stays = index < width
    extension = jnp.maximum(index - width, 0)
    parent = jnp.where(stays, index, extension // classes)
    added = jnp.where(stays, blank, extension % classes)
    old = Prefixes(*[field[parent] for field in stayed])
    return (
        Prefixes(
            blank=jnp.where(stays, old.blank, -jnp.inf),
            label=jnp.where(stays, old.label, grown[parent, added]),
            last=jnp.where(stays, old.last, added),
            name=jnp.where(stays[:, None], old.name, hashed(old.name, added)),
            stem=jnp.where(stays[:, None], old.stem, old.name),
        ),
        parent,
        added,
    )
