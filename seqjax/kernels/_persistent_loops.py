"""The time loops of the engine `persistent`, each in one GPU kernel: the run and the gradient."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.kernels._persistent_group import OPERAND, Group, Loop, call, like, zeros
from seqjax.kernels._persistent_size import ROWS, TILE
from seqjax.types import Array

__all__ = ["Loop", "run_backward", "run_forward"]

Arrays = dict[str, Array]


def run_forward(loop: Loop, arrays: Arrays, *, store: bool) -> Arrays:
    """Run a cell over time.

    Args:
      loop: the arguments that are not arrays.
      arrays: `x [T, P, H, B]`, the terms from `project`; `w [C, W, G, K, 64, 64]` in bfloat16, the
        transposed recurrent matrices in tiles; `state [S, H, B]`, the state before the first step,
        after a reset; and, if the problem has them, `vectors [V, H]`, `mask [T, B]`, `reset
        [T, B]`, which is 1 where the state is reset *after* the step, and `again [S, H, B]`, the
        state after a reset. All but `w` are float32. B is a multiple of `TILE`.
      store: whether to return the arrays that the gradient needs.

    Returns:
      `ys [T, 1, H, B]` in bfloat16 and the final `state [S, H, B]`; with `store` also `gates
      [T, N, H, B]` and `lefts [T, S, H, B]`, the gates and the state before each step.
    """
    steps, _, hidden, batch = arrays["x"].shape
    states, gates = len(loop.rounded), len(loop.cell.projected)
    results = {
        "ys": like((steps, 1, hidden, batch), OPERAND),
        "state": like((states, hidden, batch)),
    }
    staged = {"y": (1, OPERAND), "s": (states, jnp.float32)}
    if store:
        results["gates"] = like((steps, gates, hidden, batch))
        results["lefts"] = like((steps, states, hidden, batch))
        staged["g"] = (gates, jnp.float32)
    return call(loop, _forward, arrays, results, staged, operands=1)


def run_backward(loop: Loop, arrays: Arrays) -> Arrays:
    """Run the loop of the gradient.

    Args:
      loop: the arguments that are not arrays.
      arrays: `gates`, `lefts`, `vectors`, `mask` and `reset` as for `run_forward`; `w`, the
        recurrent matrices in tiles, not transposed; `dys [T, H, B]` and `d_state [S, H, B]`, the
        cotangents of the outputs and of the final state.

    Returns:
      `d_gates [T, N, H, B]`; `d_left [S, H, B]`, the cotangent of the state before the first step;
      if there are vectors, `d_vectors [V, H, B]`, which are to be summed over B; and, with resets,
      `d_again [S, H, B]`.
    """
    steps, gates, hidden, batch = arrays["gates"].shape
    states = len(loop.rounded)
    results = {
        "d_gates": like((steps, gates, hidden, batch)),
        "d_left": like((states, hidden, batch)),
    }
    if loop.vectors:
        results["d_vectors"] = like((loop.vectors, hidden, batch))
    if "reset" in arrays:
        results["d_again"] = like((states, hidden, batch))
    staged = {"g": (gates, jnp.float32)}
    return call(loop, _backward, arrays, results, staged, operands=loop.cell.products)


def _forward(group: Group) -> None:
    """The program of a warpgroup that runs a cell."""
    loop, cell = group.loop, group.loop.cell
    steps = group.refs["x"].shape[0]

    def given(i: Any) -> tuple[list[Array], list[Array], list[Array]]:
        t = _step(i, steps, loop.reverse)
        return group.load("x", t), group.load_row("mask", t), group.load_row("reset", t)

    def step(i: Any, carry: Any) -> Any:
        left, (terms, mask, reset) = carry
        following = given(i + 1)  # loaded here, so that the next step need not wait for it
        products = group.products()
        gates = [
            _added(terms, products, p, q)
            for p, q in zip(cell.projected, cell.recurred, strict=True)
        ]
        *new, y = cell.forward(vectors, gates, left)
        after = [a.astype(d).astype(jnp.float32) for a, d in zip(new, loop.rounded, strict=True)]
        for real in map(_condition, mask):
            after = _select(real, after, left)
            (y,) = _select(real, [y])
        for again in map(_condition, reset):
            after = _select(again, reset_state, after)
        group.release()
        group.share([after[cell.hidden]], i)
        group.wait_for_writes()
        group.write("y", "ys", [y], _step(i, steps, loop.reverse))
        if "gates_out" in group.refs:
            group.write("g", "gates", gates, _step(i, steps, loop.reverse))
            group.write("s", "lefts", left, _step(i, steps, loop.reverse))
        return after, following

    group.load_weights()
    vectors = group.load_vectors()
    reset_state = group.load("again") if "again" in group.refs else []
    group.start("state", cell.hidden)
    left, _ = jax.lax.fori_loop(0, steps, step, (group.load("state"), given(0)))
    group.wait_for_writes()
    group.write("s", "state", left)
    group.wait_for_writes()


def _backward(group: Group) -> None:
    """The program of a warpgroup that runs the loop of the gradient."""
    loop, cell = group.loop, group.loop.cell
    steps = group.refs["gates"].shape[0]

    def given(i: Any) -> tuple[list[Array], ...]:
        t = _step(i, steps, not loop.reverse)
        return (
            group.load("gates", t), group.load("lefts", t), [group.load_one("dys", t)],
            group.load_row("mask", t), group.load_row("reset", t),
        )  # fmt: skip

    def step(i: Any, carry: Any) -> Any:
        d_left, d_again, d_vectors, (gates, left, d_y, mask, reset) = carry
        following = given(i + 1)
        for again in map(_condition, reset):
            d_again = _sums(d_again, _select(again, d_left))
            d_left = _select(again, [zeros()] * len(d_left), d_left)
        d_results, passed = [*d_left, *d_y], None
        for real in map(_condition, mask):
            passed = _select(real, [zeros()] * len(d_left), d_left)
            d_results = _select(real, d_results)
        found = cell.backward(vectors, gates, left, d_results)
        n, m = len(vectors), len(vectors) + len(gates)
        d_vectors, d_gates, d_left = _sums(d_vectors, found[:n]), found[n:m], found[m:]
        group.share([d_gates[g] for g, q in enumerate(cell.recurred) if q is not None], i)
        d_left[cell.hidden] = d_left[cell.hidden] + group.sum_of_products()
        group.release()
        group.wait_for_writes()
        group.write("g", "d_gates", d_gates, _step(i, steps, not loop.reverse))
        d_left = d_left if passed is None else _sums(d_left, passed)
        return d_left, d_again, d_vectors, following

    group.load_weights()
    vectors = group.load_vectors()
    d_left = group.load("d_state")
    d_again = [zeros() for _ in d_left] if "reset" in group.refs else []
    d_vectors = [zeros() for _ in vectors]
    carry = d_left, d_again, d_vectors, given(0)
    d_left, d_again, d_vectors, _ = jax.lax.fori_loop(0, steps, step, carry)
    for name, tiles in (("d_left", d_left), ("d_again", d_again), ("d_vectors", d_vectors)):
        group.wait_for_writes()
        if tiles:
            group.write("g", name, tiles)
    group.wait_for_writes()


def _step(i: Any, steps: int, backward: bool) -> Any:
    """Return the time of the i-th step, or of the last step if there is no i-th step."""
    i = jnp.minimum(i, steps - 1)
    return steps - 1 - i if backward else i


def _added(terms: list[Array], products: list[Array], p: int | None, q: int | None) -> Array:
    """Return a gate, which is the sum of a term and a product, or one of them."""
    parts = [a[n] for a, n in ((terms, p), (products, q)) if n is not None]
    total: Array = functools.reduce(operator.add, parts)
    return total


def _condition(row: Array) -> Array:
    """Return where a number of a sequence is positive, for each hidden unit."""
    return jax.lax.broadcast_in_dim(row, (ROWS, TILE), (1,)) > 0


def _select(condition: Array, a: list[Array], b: list[Array] | None = None) -> list[Array]:
    """Return `a` where the condition holds, and `b`, or zeros, elsewhere."""
    b = [jnp.zeros_like(x) for x in a] if b is None else b
    return [jnp.where(condition, x, y) for x, y in zip(a, b, strict=True)]


def _sums(a: list[Array], b: list[Array]) -> list[Array]:
    return [x + y for x, y in zip(a, b, strict=True)]
