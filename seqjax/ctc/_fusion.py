"""A second model in the CTC beam search, which scores label prefixes (shallow fusion)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax.decoding._results import Step, gains_of
from seqjax.types import Array, PyTree

__all__ = ["Scored", "Second", "make_second"]


class Scored(NamedTuple):
    """The scores of K prefixes of each sequence by the second model.

    Attributes:
      bonus: `[B, K]`, the scores of the prefixes.
      gains: `[B, K, V]`, what each label would add to the score.
      state: the model's state after each prefix, a pytree of arrays `[B, K, …]`.
    """

    bonus: Array
    gains: Array
    state: PyTree


@dataclasses.dataclass(frozen=True)
class Second:
    """The second model: its step function, and its state before the first label, `[B, …]`."""

    step: Step
    state: PyTree
    classes: int
    batch: int
    width: int
    begin: int
    end: int | None

    def start(self, dtype: Any) -> Scored:
        """Return the scores of the empty prefixes."""
        tokens = jnp.full((self.batch, self.width), self.begin, jnp.int32)
        state = jax.tree.map(lambda a: jnp.repeat(a[:, None], self.width, axis=1), self.state)
        gains, state = self._run(tokens, state)
        return Scored(jnp.zeros((self.batch, self.width), dtype), gains.astype(dtype), state)

    def advance(self, old: Scored, parents: Array, labels: Array, stays: Array) -> Scored:
        """Return the scores of the prefixes that grew from `parents` by `labels`, all `[B, K]`.

        Where `stays` is True, a prefix did not grow.
        """
        bonus, gains, state = jax.tree.map(
            lambda leaf: jax.vmap(lambda row, index: row[index])(leaf, parents), tuple(old)
        )
        gain = jnp.take_along_axis(gains, labels[..., None], axis=2)[..., 0]
        new_gains, new_state = self._run(labels, state)
        new = Scored(bonus + gain, new_gains.astype(gains.dtype), new_state)

        def chosen(new: Array, held: Array) -> Array:
            return jnp.where(stays.reshape(*stays.shape, *[1] * (new.ndim - 2)), held, new)

        scored: Scored = jax.tree.map(chosen, new, Scored(bonus, gains, state))
        return scored

    def total(self, scored: Scored) -> Array:
        """Return the scores of the prefixes as whole label sequences, `[B, K]`."""
        return scored.bonus if self.end is None else scored.bonus + scored.gains[..., self.end]

    def _run(self, tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        """Run a step on arrays `[B, K, …]`."""
        rows = self.batch * self.width
        flat = jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), state)
        logits, flat = self.step(tokens.reshape(rows), flat)
        logits = jnp.asarray(logits)
        if logits.shape != (rows, self.classes):
            raise ValueError(
                f"fusion: expected scores [N, V] with N={rows} and V={self.classes}, the classes "
                f"of the logits, got {logits.shape}"
            )
        gains = gains_of(self.step, logits).reshape(self.batch, self.width, self.classes)
        return gains, jax.tree.map(lambda a: a.reshape(self.batch, self.width, *a.shape[1:]), flat)


def make_second(
    step: Any,
    state: PyTree,
    classes: int,
    batch: int,
    width: int,
    *,
    blank: int,
    begin: int | None,
    end: int | None,
) -> Second:
    """Check the arguments of the fusion."""
    if not callable(step):
        raise TypeError(f"fusion: expected a step function, got {checks.brief(step)}")
    state = jax.tree.map(jnp.asarray, state)
    for leaf in jax.tree.leaves(state):
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"fusion_state: expected arrays [B, …] with B={batch}, got {checks.brief(state)}"
            )
    begin = blank if begin is None else checks.require_integer("begin", begin, least=0)
    if end is not None and checks.require_integer("end", end, least=0) >= classes:
        raise ValueError(f"end: expected a class below V={classes}, got {end}")
    return Second(step, state, classes, batch, width, begin, end)
