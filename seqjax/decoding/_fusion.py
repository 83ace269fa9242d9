"""A second model in the beam searches of CTC and of transducers, which scores label prefixes."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks
from seqjax._label_sequences import require_class
from seqjax.cells.stepping import select
from seqjax.decoding._calls import require_pair, require_same_state
from seqjax.decoding._results import Step, attribute_of, check_end, gains_of
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
    blank: int
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
        held: Scored = jax.tree.map(
            lambda leaf: jax.vmap(lambda row, index: row[index])(leaf, parents), old
        )
        scored: Scored = select(stays, held, self.read(self.added(held, labels), labels))
        return scored

    def added(self, old: Scored, labels: Array) -> Scored:
        """Return the prefixes with the scores of one more label each; the model has not read it."""
        gain = jnp.take_along_axis(old.gains, labels[..., None], axis=2)[..., 0]
        return old._replace(bonus=old.bonus + gain)

    def read(self, old: Scored, labels: Array) -> Scored:
        """Return the prefixes after the model has read the labels."""
        gains, state = self._run(labels, old.state)
        return Scored(old.bonus, gains.astype(old.gains.dtype), state)

    def total(self, scored: Scored) -> Array:
        """Return the scores of the prefixes as whole label sequences, `[B, K]`."""
        return scored.bonus if self.end is None else scored.bonus + scored.gains[..., self.end]

    def is_invalid(self, scored: Scored, used: Array) -> Array:
        """Return where a score of a prefix is NaN or +inf, bool `[B]`; `used` selects prefixes."""
        wrong = ~(scored.gains < jnp.inf).all(axis=2)
        found: Array = (wrong & used).any(axis=1)
        return found

    def _run(self, tokens: Array, state: PyTree) -> tuple[Array, PyTree]:
        """Run a step on arrays `[B, K, …]`."""
        rows = self.batch * self.width
        flat = jax.tree.map(lambda a: a.reshape(rows, *a.shape[2:]), state)
        result = self.step(tokens.reshape(rows), flat)
        require_pair("fusion", "scores", result)
        logits, new = jnp.asarray(result[0]), jax.tree.map(jnp.asarray, result[1])
        if logits.shape != (rows, self.classes):
            raise ValueError(
                f"fusion: expected scores [N, V] with N={rows} and V={self.classes}, the classes "
                f"of the logits, got {logits.shape}"
            )
        require_same_state("fusion", flat, new)
        gains = gains_of(self.step, logits).reshape(self.batch, self.width, self.classes)
        if self.blank != self.end:  # the score of the blank is not used
            gains = gains.at[..., self.blank].set(0.0)
        return gains, jax.tree.map(lambda a: a.reshape(self.batch, self.width, *a.shape[1:]), new)


def make_second(
    fusion: Any,
    state: PyTree,
    classes: int,
    batch: int,
    width: int,
    *,
    blank: int,
    begin: int | None,
    end: int | None,
) -> Second | None:
    """Check the arguments of the fusion; return None if there is none."""
    if fusion is None:
        for name, value in (("fusion_state", state), ("begin", begin), ("end", end)):
            if value is not None:
                raise ValueError(
                    f"{name}: expected None without `fusion`, got {checks.brief(value)}"
                )
        return None
    if not callable(fusion):
        raise TypeError(f"fusion: expected a step function, got {checks.brief(fusion)}")
    initial_state = attribute_of(fusion, "initial_state")
    if state is None and callable(initial_state):
        state = initial_state(batch)
    state = jax.tree.map(jnp.asarray, state)
    for leaf in jax.tree.leaves(state):
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"fusion_state: expected arrays [B, …] with B={batch}, got {checks.brief(state)}"
            )
    begin = blank if begin is None else checks.require_integer("begin", begin, least=0)
    if end is not None:
        require_class("end", end, classes)
    check_end(fusion, end)
    return Second(fusion, state, classes, batch, width, blank, begin, end)
