"""The arguments that all CRF functions share, after all checks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import checks, sequences
from seqjax.cells.ops import accumulator_dtype
from seqjax.types import Array

__all__ = ["Scores", "checked"]


class Scores(NamedTuple):
    """The scores of a linear-chain CRF, in one dtype.

    Attributes:
      emissions: `[..., T, C]`, zero in padding.
      transitions: `[C, C]`.
      start: `[C]`.
      end: `[C]`.
      mask: bool `[..., T]`, True at real steps.
      previous: int32 `[..., T]`, the index of the last real step before each step, or -1 if there
        is none.
    """

    emissions: Array
    transitions: Array
    start: Array
    end: Array
    mask: Array
    previous: Array

    @property
    def is_empty(self) -> Array:
        """Bool `[...]`, True for each sequence without real steps."""
        return ~self.mask.any(axis=-1)

    def steps(self) -> tuple[Array, Array, Array]:
        """Return emissions `[T, ..., C]`, and masks of real steps and of the first real step."""
        flags = self.mask, self.mask & (self.previous < 0)
        real, first = (jnp.moveaxis(flag, -1, 0)[..., None] for flag in flags)
        return jnp.moveaxis(self.emissions, -2, 0), real, first

    def reversed(self) -> "Scores":
        """Return the chain with the order of steps reversed."""
        mask = self.mask[..., ::-1]
        return Scores(
            self.emissions[..., ::-1, :],
            self.transitions.T,
            start=self.end,
            end=self.start,
            mask=mask,
            previous=sequences.previous_real(mask),
        )


def checked(
    emissions: Any, transitions: Any, lengths: Any, mask: Any, start: Any, end: Any
) -> Scores:
    """Check the arguments and return the scores. An error message names the wrong argument."""
    emissions = checks.require_array("emissions", emissions, jnp.floating, "float [..., T, C]")
    if emissions.ndim < 2 or emissions.shape[-1] == 0:
        raise ValueError(f"emissions: expected [..., T, C], got {emissions.shape}")
    *batch_shape, steps, classes = emissions.shape
    given: dict[str, Any] = {"transitions": transitions, "start": start, "end": end}
    for name, value in given.items():
        shape = (classes, classes) if name == "transitions" else (classes,)
        if value is None and name != "transitions":
            value = jnp.zeros(shape, emissions.dtype)
        given[name] = checks.require_array(name, value, jnp.floating, f"float {list(shape)}")
        if given[name].shape != shape:
            raise ValueError(
                f"{name}: expected shape {shape} for C={classes}, got {given[name].shape}"
            )
    with jax.numpy_dtype_promotion("standard"):
        wide = accumulator_dtype(jnp.result_type(emissions, *given.values()))
    given = {name: value.astype(wide) for name, value in given.items()}
    found = sequences.step_mask(tuple(batch_shape), steps, lengths=lengths, mask=mask)
    found = jnp.ones((*batch_shape, steps), bool) if found is None else found
    emissions = sequences.zero_masked(emissions.astype(wide), mask=found)
    return Scores(emissions, **given, mask=found, previous=sequences.previous_real(found))
