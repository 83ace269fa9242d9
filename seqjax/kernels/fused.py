"""The kernel that sums weight gradients once: a loop with its own backward loop, by the contract.

The transpose of `lax.scan` carries the gradient of the recurrent matrix through the backward loop
and adds a small product to it at every step. Here the backward loop only emits the gradient of the
recurrent product, and one product after it gives the matrix's:

    dW = Σ_t r_t^T dq_t = [r_1 … r_T]^T [dq_1 … dq_T]

No cell's gradient is written by hand: `update` is differentiated by `jax.vjp`, at values recomputed
from what the forward loop stored (the states, and the pre-activations).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.cells import ops
from seqjax.cells.base import Cell, compute_dtype, rounded, widened
from seqjax.kernels.problem import Problem
from seqjax.kernels.scan import held, select, varying_like
from seqjax.types import Array, PyTree, Unrolled

__all__ = ["fused"]


class _Inputs(NamedTuple):
    """What the loops see of a problem; gradients flow to the first five fields."""

    used: tuple[Array, ...]  # the parameters that `update` really uses
    matrix: Array | None
    projected: PyTree
    state: Any
    reset_state: Any
    mask: Array | None
    resets: Array | None
    recurrent_mask: Array | None
    zoneout: PyTree | None


def fused(
    cell: Cell[Any, Any],
    problem: Problem,
    *,
    reverse: bool = False,
    remat: str = "auto",
    unroll: int = 1,
) -> Unrolled:
    """Runs a cell over time with one product of the recurrent matrix in each loop.

    Equal to `scan` in values and in gradients, also of gradients. Forward mode (`jax.jvp`,
    `jax.jacfwd`) has no rule here: JAX says so, and `implementation="scan"` has one.

    Args:
      cell: the cell.
      problem: arrays, time-major; see `Problem`.
      reverse: process t = T-1 … 0.
      remat: only "auto" and "none"; the states and the pre-activations are stored.
      unroll: steps in one iteration of the compiled loops.

    Returns:
      `Unrolled` with time-major outputs.

    Raises:
      ValueError: another `remat`; a state that is not all floating-point, which "scan" can run.

    Example:
      >>> from seqjax.cells import GRU
      >>> cell = GRU(3, 5)
      >>> zeros = cell.initial_state([2])
      >>> problem = Problem(cell.init(jax.random.key(0)), jnp.ones([7, 2, 3]), zeros, zeros)
      >>> fused(cell, problem).outputs.shape
      (7, 2, 5)
    """
    if remat not in ("auto", "none"):
        raise ValueError(f"remat: expected auto or none with implementation='fused', got {remat!r}")
    if not all(jnp.issubdtype(s.dtype, jnp.floating) for s in jax.tree.leaves(problem.state)):
        raise ValueError(
            f"implementation: 'fused' differentiates the whole state, and that of "
            f"{type(cell).__name__} is not all floating-point; expected 'scan' or 'auto'"
        )
    projected = cell.project(problem.params, problem.xs)
    leaves, structure = jax.tree.flatten(problem.params)
    used = _used_by_update(cell, problem, projected)
    inputs = _Inputs(
        used=tuple(leaves[i] for i in used),
        matrix=cell.recurrent_matrix(problem.params),
        projected=projected,
        state=varying_like(problem.state, problem),
        reset_state=problem.reset_state,
        mask=problem.mask,
        resets=problem.resets,
        recurrent_mask=problem.recurrent_mask,
        zoneout=problem.zoneout,
    )
    plan = _Plan(
        cell,
        structure,
        tuple((leaf.shape, leaf.dtype.name) for leaf in leaves),
        used,
        compute_dtype(problem.xs).name,
        reverse,
        unroll,
    )
    return _loop(plan, inputs)


class _Plan(NamedTuple):
    """The static part of a call."""

    cell: Cell[Any, Any]
    structure: Any
    leaves: tuple[tuple[tuple[int, ...], str], ...]
    used: tuple[int, ...]
    dtype: str
    reverse: bool
    unroll: int

    def params(self, used: tuple[Array, ...]) -> PyTree:
        """Parameters with zeros (which nothing reads) where `update` uses none."""
        filled: list[Any] = [
            np.broadcast_to(np.zeros((), jnp.dtype(dtype)), shape) for shape, dtype in self.leaves
        ]
        for index, leaf in zip(self.used, used, strict=True):
            filled[index] = leaf
        return jax.tree.unflatten(self.structure, filled)

    def recurrent_input(self, state: Any, recurrent_mask: Array | None) -> Array | None:
        """What enters the recurrent product."""
        return self.cell.masked_recurrent_input(widened(state), recurrent_mask)

    def is_additive(self, matrix: Array | None) -> bool:
        """Whether the projection and a product are one sum, of which one gradient is enough."""
        return self.cell.additive and matrix is not None

    def update(
        self, hold: Any, used: tuple[Array, ...], z: PyTree, r: Array | None, q: Any, state: Any
    ) -> tuple[Any, PyTree]:
        """`cell.update` with zoneout and rounding, at a step that is neither masked nor reset.

        `q` is the recurrent product, None where it is part of z, or r without a matrix.
        """
        params, wide = self.params(used), widened(state)
        recurrent = (r, q) if self.cell.keeps_recurrent_input else q
        new, output = self.cell.update(params, z, recurrent, wide)
        if hold is not None:
            new = jax.tree.map(held, hold, wide, new)
            output = self.cell.output(params, new)
        return rounded((new, output), state_like=state, output_dtype=jnp.dtype(self.dtype))


def _used_by_update(cell: Cell[Any, Any], problem: Problem, projected: PyTree) -> tuple[int, ...]:
    """Which parameter leaves `update` (or `output`) reads: the others need no gradient from it."""
    leaves, structure = jax.tree.flatten(problem.params)
    p_t = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), projected)
    state = jax.eval_shape(widened, problem.state)

    def advance(leaves: list[Array], p: PyTree, state: Any) -> Any:
        params = jax.tree.unflatten(structure, leaves)
        r = cell.recurrent_input(state)
        w = cell.recurrent_matrix(problem.params)
        q = r if w is None or r is None else jnp.zeros((*r.shape[:-1], w.shape[-1]), r.dtype)
        new, output = cell.update(params, p, (r, q) if cell.keeps_recurrent_input else q, state)
        return (new, output) if problem.zoneout is None else (new, cell.output(params, new))

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    jaxpr = jax.make_jaxpr(advance)(shapes, p_t, state).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    read |= {id(v) for v in jaxpr.outvars}
    return tuple(i for i, v in enumerate(jaxpr.invars[: len(leaves)]) if id(v) in read)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loop(plan: _Plan, inputs: _Inputs) -> Unrolled:
    return _run(plan, inputs, store=False)[0]


def _forward(plan: _Plan, inputs: _Inputs) -> tuple[Unrolled, Any]:
    """What reverse mode runs first: the outputs, and what the backward loop needs."""
    ran, stored = _run(plan, inputs, store=True)
    return ran, (inputs, stored)


def _run(plan: _Plan, inputs: _Inputs, *, store: bool) -> tuple[Unrolled, Any]:
    """The forward loop; with `store` also the states before each step and the pre-activations."""
    additive = plan.is_additive(inputs.matrix)

    def step(state: Any, per_step: Any) -> tuple[Any, Any]:
        p, mask_t, reset_t, hold_t = per_step
        if reset_t is not None:
            state = select(reset_t, inputs.reset_state, state)
        r = plan.recurrent_input(state, inputs.recurrent_mask)
        if inputs.matrix is None or r is None:
            z, q, kept = p, r, None
        elif additive:
            z, q, kept = _added(p, ops.matmul(r, inputs.matrix)), None, None
        else:
            z, q = p, ops.matmul(r, inputs.matrix)
            kept = q
        new, output = plan.update(hold_t, inputs.used, z, r, q, state)
        stored = (state, z if additive else None, kept) if store else None
        if mask_t is not None:
            new = select(mask_t, new, state)
            output = select(mask_t, output, jax.tree.map(jnp.zeros_like, output))
        return new, (output, stored)

    per_step = (inputs.projected, inputs.mask, inputs.resets, inputs.zoneout)
    state, (outputs, stored) = jax.lax.scan(
        step, inputs.state, per_step, reverse=plan.reverse, unroll=plan.unroll
    )
    return Unrolled(outputs, state), stored


def _added(projected: PyTree, product: Array) -> PyTree:
    """The sum of a projection, one array or one a gate, and the product's columns."""
    gates, structure = jax.tree.flatten(projected)
    columns = ops.split(product, len(gates))
    return jax.tree.unflatten(structure, [g + c for g, c in zip(gates, columns, strict=True)])


def _backward(plan: _Plan, residuals: Any, cotangents: Unrolled) -> tuple[_Inputs]:
    """The backward loop, and the product after it."""
    inputs, (states, zs, qs) = residuals
    additive = plan.is_additive(inputs.matrix)
    multiplies = plan.recurrent_input(inputs.state, None) is not None
    matrix = inputs.matrix if multiplies else None
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)

    def step(carry: Any, per_step: Any) -> tuple[Any, Any]:
        d_state, d_used, d_reset = carry
        z, state, q, d_output, mask_t, reset_t, hold_t = per_step
        d_held = None
        if mask_t is not None:
            d_held = select(mask_t, zeros(d_state), d_state)
            d_state = select(mask_t, d_state, zeros(d_state))
            d_output = select(mask_t, d_output, zeros(d_output))

        r, pull_r = jax.vjp(lambda s: plan.recurrent_input(s, inputs.recurrent_mask), state)
        q = None if additive else r if matrix is None else q
        _, pull = jax.vjp(functools.partial(plan.update, hold_t), inputs.used, z, r, q, state)
        d_used_t, d_z, d_r, d_q, d_state = pull((d_state, d_output))
        if additive:
            d_q = jnp.concatenate(jax.tree.leaves(d_z), axis=-1)
        if matrix is not None and r is not None:
            d_q = d_q.astype(matrix.dtype)
            d_r = d_r + jnp.matmul(d_q, matrix.T, preferred_element_type=r.dtype)
        elif r is not None:
            d_r = d_r + d_q
        if r is not None:
            (through_r,) = pull_r(d_r)
            d_state = jax.tree.map(jnp.add, d_state, through_r)
        if d_held is not None:
            d_state = jax.tree.map(jnp.add, d_state, d_held)
        if reset_t is not None:
            d_reset = jax.tree.map(jnp.add, d_reset, select(reset_t, d_state, zeros(d_state)))
            d_state = select(reset_t, zeros(d_state), d_state)
        d_used = jax.tree.map(jnp.add, d_used, widened(d_used_t))
        return (d_state, d_used, d_reset), (
            None if additive else d_z,
            None if matrix is None else d_q,
        )

    carry = (cotangents.state, widened(zeros(inputs.used)), zeros(inputs.reset_state))
    per_step = (
        zs if additive else inputs.projected, states, qs, cotangents.outputs,
        inputs.mask, inputs.resets, inputs.zoneout,
    )  # fmt: skip
    (d_state, d_used, d_reset), (d_projected, d_qs) = jax.lax.scan(
        step, carry, per_step, reverse=not plan.reverse, unroll=plan.unroll
    )
    d_matrix = None if inputs.matrix is None else jnp.zeros_like(inputs.matrix)
    if matrix is not None:
        rs = jnp.asarray(plan.recurrent_input(states, inputs.recurrent_mask))
        d_matrix = _summed_product(rs.astype(matrix.dtype), d_qs).astype(matrix.dtype)
    if additive:
        gates, structure = jax.tree.flatten(inputs.projected)
        columns = ops.split(d_qs, len(gates))
        cast = [d.astype(gate.dtype) for d, gate in zip(columns, gates, strict=True)]
        d_projected = jax.tree.unflatten(structure, cast)
    d_used = jax.tree.map(lambda d, u: d.astype(u.dtype), d_used, inputs.used)
    constants = (None if a is None else jax.tree.map(_no_gradient, a) for a in inputs[5:])
    return (_Inputs(d_used, d_matrix, d_projected, d_state, d_reset, *constants),)


def _summed_product(rs: Array, d_qs: Array) -> Array:
    """Σ_t r_t^T dq_t over time and batch, as one product of two matrices."""
    flat_r, flat_q = (a.reshape(-1, a.shape[-1]) for a in (rs, d_qs))
    return jnp.matmul(flat_r.T, flat_q, preferred_element_type=ops.accumulator_dtype(rs.dtype))


def _no_gradient(a: Array) -> Any:
    floating = jnp.issubdtype(a.dtype, jnp.floating)
    return jnp.zeros_like(a) if floating else np.zeros(a.shape, jax.dtypes.float0)


_loop.defvjp(_forward, _backward)
