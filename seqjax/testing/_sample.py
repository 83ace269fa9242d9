"""The sample on which the laws are checked, and comparisons of what they compute.

Compilation takes most of the time of a check. Laws therefore share compiled programs: a program
receives everything that varies as an argument, and results are compared in NumPy.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._unroll import unroll
from seqjax.cells._base import Cell, input_specs
from seqjax.types import Array, PyTree, Shape

__all__ = [
    "Sample",
    "counts",
    "described",
    "difference",
    "drawn",
    "fetched",
    "loss_of",
    "real_parts",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A cell with random parameters, inputs and states, none of which is zero."""

    cell: Cell[Any, Any]
    params: Any
    batch: Shape
    steps: int
    seed: int

    @functools.cached_property
    def xs(self) -> PyTree:
        """Inputs `[*batch, T, ...]`."""
        return self._inputs(self.steps, self.seed + 1)

    @functools.cached_property
    def mask(self) -> Any:
        """A mask, True at real steps, with gaps and with padding at the end."""
        mask = np.random.default_rng(self.seed).random((*self.batch, self.steps)) < 0.7
        mask[..., -1] = False
        mask[..., 0] = True
        return mask

    @property
    def starts(self) -> list[tuple[Any, Any]]:
        """States before the first step, each with a mask; the last pair begins with masked steps.

        The last state is the initial state, at which an output such as h / |h| has no derivative.
        """
        late = self.mask.copy()
        late[..., 0] = False
        return [(self.start, self.mask), (self.fresh, late)]

    @functools.cached_property
    def half(self) -> int:
        """The number of steps of the first part of a sequence that is run in two parts."""
        return self.steps // 2

    @functools.cached_property
    def start(self) -> Any:
        """The state after some steps with random inputs."""
        return self.unroll(self._inputs(self.half, self.seed + 2)).state

    @functools.cached_property
    def fresh(self) -> Any:
        """The initial state with batch axes."""
        return jax.tree.map(jnp.asarray, self.cell.initial_state(self.batch, jnp.float32))

    def _inputs(self, steps: int, seed: int) -> PyTree:
        return drawn(input_specs(self.cell, (*self.batch, steps), jnp.float32), seed)

    def run(self, compute: Callable[..., Any], *arguments: Any) -> Any:
        """Return `compute(params, *arguments)` as NumPy arrays, by one compiled program."""
        return fetched(jax.jit(compute)(self.params, *arguments))

    def unroll(self, xs: PyTree, state: Any = None, mask: Any = None, resets: Any = None) -> Any:
        """Run the cell with the kernel "scan"; all calls of one length share a program."""
        shape = jax.tree.leaves(xs)[0].shape[: len(self.batch) + 1]
        state = self.fresh if state is None else state
        mask = np.ones(shape, bool) if mask is None else mask
        resets = np.zeros(shape, bool) if resets is None else resets
        return fetched(self._unrolled(self.params, xs, state, mask, resets))

    @functools.cached_property
    def _unrolled(self) -> Callable[..., Any]:
        def run(params: Any, xs: PyTree, state: Any, mask: Array, resets: Array) -> Any:
            return unroll(
                self.cell, params, xs, state=state, mask=mask, resets=resets, implementation="scan"
            )

        return jax.jit(run)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The compiled step of the cell: `step(params, x_t, state)`."""
        return jax.jit(self.cell.step)

    @functools.cache  # noqa: B019  (a sample lives as long as one check)
    def _graded(self, implementation: str) -> Callable[..., Any]:
        def run(params: Any, xs: PyTree, mask: Array, state: Any) -> Any:
            def loss(params: Any, xs: PyTree) -> Any:
                ran = unroll(
                    self.cell, params, xs, state=state, mask=mask, implementation=implementation
                )
                return loss_of(ran), (ran.outputs, ran.state)

            return _with_gradient(loss, params, xs)

        return jax.jit(run)

    def with_gradient(
        self, implementation: str, xs: PyTree, start: tuple[Any, Any] | None = None
    ) -> tuple[Any, Any]:
        """Run a kernel from a state with a mask; by default, from those of the sample.

        Returns:
          The outputs with the final state, and the gradient of `loss_of` with respect to parameters
          and inputs.
        """
        state, mask = (self.start, self.mask) if start is None else start
        ran: tuple[Any, Any] = fetched(self._graded(implementation)(self.params, xs, mask, state))
        return ran

    def steps_of(self, xs: PyTree, part: slice | int) -> PyTree:
        """Return one step, or a slice of the steps, of the inputs."""
        return jax.tree.map(lambda x: x[(slice(None),) * len(self.batch) + (part,)], xs)


def fetched(tree: PyTree) -> PyTree:
    """Return a pytree with NumPy arrays, except for random keys, which are JAX arrays."""
    return jax.tree.map(lambda leaf: leaf if checks.is_key(leaf) else jax.device_get(leaf), tree)


def counts(leaf: Any) -> bool:
    """Return whether a leaf is floating-point or complex."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def drawn(tree: PyTree, seed: int, scale: float = 1.0) -> PyTree:
    """Replace the floating-point and complex leaves of a pytree by normal random numbers."""
    rng = np.random.default_rng(seed)

    def one(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            is_spec = isinstance(leaf, jax.ShapeDtypeStruct)
            return np.zeros(leaf.shape, leaf.dtype) if is_spec else leaf
        values = scale * rng.normal(size=leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            values = values + 1j * scale * rng.normal(size=leaf.shape)
        return np.asarray(values, leaf.dtype)

    return jax.tree.map(one, tree)


def described(tree: PyTree) -> Any:
    """Return the pytree with the dtype and the shape of each array in words."""
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)


def loss_of(ran: Any) -> Array:
    """Return a number that depends on every output and on every array of the final state."""
    leaves = jax.tree.leaves((ran.outputs, ran.state))
    parts = [jnp.sin(part).sum() for leaf in leaves if counts(leaf) for part in real_parts(leaf)]
    return jnp.sum(jnp.stack(parts))


def real_parts(leaf: Array) -> list[Array]:
    """Return the array, or its real and its imaginary part if it is complex."""
    complex_valued = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    return [leaf.real, leaf.imag] if complex_valued else [leaf]


def _with_gradient(loss: Callable[..., Any], params: Any, xs: PyTree) -> tuple[Any, Any]:
    """Return the values of a loss and its gradient with respect to parameters and inputs."""
    leaves, structure = jax.tree.flatten(params)
    moving = {n: leaf for n, leaf in enumerate(leaves) if counts(leaf)}

    def of_moving(moving: dict[int, Array], xs: PyTree) -> Any:
        filled = [moving.get(n, leaf) for n, leaf in enumerate(leaves)]
        return loss(jax.tree.unflatten(structure, filled), xs)

    (_, values), gradient = jax.value_and_grad(of_moving, (0, 1), has_aux=True)(moving, xs)
    return values, gradient


def difference(got: PyTree, want: PyTree, tolerance: float) -> str | None:
    """Describe the largest difference between two pytrees; None if it is within the tolerance."""
    a, b = (
        [
            np.asarray(jax.random.key_data(leaf) if checks.is_key(leaf) else leaf)
            for leaf in jax.tree.leaves(tree)
        ]
        for tree in (got, want)
    )
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return f"Expected {described(want)}, got {described(got)}."
    for x, y in zip(a, b, strict=True):
        if not x.size:
            continue
        if counts(x):
            y = y.astype(np.result_type(x.dtype, np.float32))
            with np.errstate(all="ignore"):
                worst = float(abs(x.astype(y.dtype) - y).max())
            scale = max(1.0, float(abs(y).max()))
        else:
            scale, worst = 1.0, float((x != y).any())
        if not worst <= tolerance * scale:
            return f"The values differ by {worst:.3g}; the largest value is {scale:.3g}."
    return None
