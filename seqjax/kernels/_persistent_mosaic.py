"""The Pallas kernels of the engine `persistent`: a time loop inside one kernel of an NVIDIA GPU.

The hidden units are the rows, and the sequences are the columns, of all matrices in this module. A
tile of `TILE` sequences is processed by a cluster of blocks. Each warpgroup (128 threads) of a block
owns `ROWS` hidden units: their rows of the recurrent matrix stay in shared memory, and their state
stays in registers, for all time steps. At each step, the warpgroups exchange the operand of the next
product: through shared memory in a block, and through global memory in a cluster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from seqjax.kernels._persistent_cell import Pointwise
from seqjax.kernels._persistent_size import ROWS, TILE, Size
from seqjax.types import Array

__all__ = ["Loop", "run_backward", "run_forward"]

LAYOUT = plgpu.Layout.WGMMA
OPERAND = jnp.bfloat16

Arrays = dict[str, Array]


class Loop(NamedTuple):
    """The arguments of a kernel that are not arrays.

    Attributes:
      cell: the pointwise part of the cell.
      size: the division of the hidden units among blocks and warpgroups.
      reverse: whether to process the steps in the order t = T-1 … 0.
      rounded: for each array of the state, the dtype to which it is rounded at each step.
      vectors: the number of parameters `[H]` that the pointwise part reads.
      interpret: the parameters of Pallas's interpreter, or None to compile for a GPU.
    """

    cell: Pointwise
    size: Size
    reverse: bool
    rounded: tuple[Any, ...]
    vectors: int
    interpret: Any = None


def run_forward(loop: Loop, arrays: Arrays, *, store: bool) -> Arrays:
    """Run a cell over time.

    Args:
      loop: the arguments that are not arrays.
      arrays: `x [T, P, H, B]`, the terms from `project`; `w [C, W, G, K, 64, 64]` in bfloat16, the
        transposed recurrent matrices in tiles; `state [S, H, B]`, the state before the first step,
        after a reset; and, where the problem has them, `vectors [V, H]`, `mask [T, B]`, `reset
        [T, B]`, which is 1 where the state is reset *after* the step, and `again [S, H, B]`, the
        state after a reset. All but `w` are float32. B is a multiple of `TILE`.
      store: whether to return the arrays that the gradient needs.

    Returns:
      `ys [T, H, B]` in bfloat16 and the final `state [S, H, B]`; with `store` also `gates
      [T, N, H, B]` and `lefts [T, S, H, B]`, the gates and the state before each step.
    """
    steps, _, _, batch = arrays["x"].shape
    cell, size = loop.cell, loop.size
    states, gates = len(loop.rounded), len(cell.projected)
    results = {
        "ys": _like((steps, size.hidden, batch), OPERAND),
        "state": _like((states, size.hidden, batch)),
    }
    staged = {"y": (1, OPERAND), "s": (states, jnp.float32)}
    if store:
        results["gates"] = _like((steps, gates, size.hidden, batch))
        results["lefts"] = _like((steps, states, size.hidden, batch))
        staged["g"] = (gates, jnp.float32)
    return _call(loop, _forward, arrays, results, staged, operands=1)


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
    steps, gates, _, batch = arrays["gates"].shape
    size, states = loop.size, len(loop.rounded)
    results = {
        "d_gates": _like((steps, gates, size.hidden, batch)),
        "d_left": _like((states, size.hidden, batch)),
    }
    if loop.vectors:
        results["d_vectors"] = _like((loop.vectors, size.hidden, batch))
    if "reset" in arrays:
        results["d_again"] = _like((states, size.hidden, batch))
    staged = {"g": (gates, jnp.float32)}
    return _call(loop, _backward, arrays, results, staged, operands=loop.cell.products)


def _like(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _transforms(columns: int, dtype: Any) -> tuple[Any, ...]:
    """Return the layout of a matrix in shared memory that copies and products can read."""
    size = jnp.dtype(dtype).itemsize
    width = min(128, columns * size)
    return plgpu.TilingTransform((8, width // size)), plgpu.SwizzleTransform(width)


def _shared(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return matrices in shared memory. Both operands of a product need the same layout."""
    return plgpu.SMEM(shape, dtype, transforms=_transforms(TILE, dtype))


def _call(
    loop: Loop,
    body: Callable[..., None],
    arrays: Arrays,
    results: dict[str, Any],
    staged: dict[str, tuple[int, Any]],
    operands: int,
) -> Arrays:
    """Call a kernel.

    Args:
      loop: the arguments that are not arrays.
      body: the program of a warpgroup, called with a `_Group`.
      arrays: the arrays that the kernel reads, by name.
      results: the types of the arrays that the kernel writes, by name.
      staged: for each kind of result, the number and the dtype of the tiles that a warpgroup writes
        to shared memory before they are copied to global memory.
      operands: the number of right operands `[H, TILE]` of the products of a step.
    """
    size = loop.size
    groups, chunks = size.groups, size.hidden // ROWS
    batch = next(iter(results.values())).shape[-1]
    scratch = {
        "w_smem": _shared((groups, loop.cell.products, chunks, ROWS, ROWS), OPERAND),
        "r_smem": _shared((operands, chunks, ROWS, TILE), OPERAND),
        "w_bar": plgpu.Barrier(
            num_arrivals=loop.cell.products * chunks, num_barriers=groups
        ),
        "ready": plgpu.Barrier(num_arrivals=groups),
        "done": plgpu.Barrier(num_arrivals=groups),
    }
    for name, (number, dtype) in staged.items():
        scratch[f"{name}_smem"] = _shared((groups, number, ROWS, TILE), dtype)
    given = dict(results)
    if size.blocks > 1:
        given["exchange"] = _like((2, operands, size.hidden, batch), OPERAND)
        scratch["o_smem"] = _shared((groups, operands, ROWS, TILE), OPERAND)
        scratch["r_bar"] = plgpu.Barrier(num_arrivals=operands * size.blocks, num_barriers=groups)
        scratch["cluster"] = plgpu.ClusterBarrier(collective_axes=("block",), num_arrivals=groups)

    def program(*refs: Any) -> None:
        read, refs = refs[: len(arrays)], refs[len(arrays) :]
        written, held = refs[: len(given)], refs[len(given) :]
        named = (
            dict(zip(arrays, read, strict=True))
            | {f"{name}_out": ref for name, ref in zip(given, written, strict=True)}
            | dict(zip(scratch, held, strict=True))
        )
        body(_Group(loop, named, staged, operands))

    call = plgpu.kernel(
        program,
        out_type=tuple(given.values()),
        scratch_types=tuple(scratch.values()),
        grid=(batch // TILE,),
        grid_names=("tile",),
        cluster=(size.blocks,),
        cluster_names=("block",),
        num_threads=groups,
        thread_name="group",
        **({} if loop.interpret is None else {"interpret": loop.interpret}),
    )
    found = dict(zip(given, call(*arrays.values()), strict=True))
    return {name: found[name] for name in results}


class _Group:
    """The operations of one warpgroup, which owns `ROWS` hidden units of `TILE` sequences."""

    def __init__(self, loop: Loop, refs: dict[str, Any], staged: Any, operands: int) -> None:
        self.loop, self.refs, self.staged, self.operands = loop, refs, staged, operands
        self.size = loop.size
        self.group = jax.lax.axis_index("group")
        self.block = jax.lax.axis_index("block")
        self.chunk = self.block * self.size.groups + self.group
        self.rows = pl.ds(self.chunk * ROWS, ROWS)
        self.columns = pl.ds(jax.lax.axis_index("tile") * TILE, TILE)

    def has(self, name: str) -> bool:
        return name in self.refs

    def load(self, name: str, *at: Any, rows: Any = None) -> Array:
        """Load a tile of an array in global memory."""
        where = (*at, self.rows if rows is None else rows, self.columns)
        return plgpu.load(self.refs[name].at[where], layout=LAYOUT, optimized=False)

    def load_row(self, name: str, t: Any) -> Array:
        """Load a truth value for each sequence, and repeat it for each hidden unit."""
        at = self.refs[name].at[t, self.columns]
        row = plgpu.load(at, layout=LAYOUT.reduce(0), optimized=False)
        return jax.lax.broadcast_in_dim(row, (ROWS, TILE), (1,)) > 0

    def load_vectors(self) -> list[Array]:
        """Load the vectors `[H]`, and repeat them for each sequence."""
        found = []
        for i in range(self.loop.vectors):
            at = self.refs["vectors"].at[i, self.rows]
            column = plgpu.load(at, layout=LAYOUT.reduce(1), optimized=False)
            found.append(jax.lax.broadcast_in_dim(column, (ROWS, TILE), (0,)))
        return found

    def load_weights(self) -> None:
        """Copy the rows of the recurrent matrices that this warpgroup owns to shared memory."""
        w, w_smem, bar = self.refs["w"], self.refs["w_smem"], self.refs["w_bar"].at[self.group]
        for g in range(self.loop.cell.products):
            for k in range(self.size.hidden // ROWS):
                plgpu.copy_gmem_to_smem(
                    w.at[self.block, self.group, g, k], w_smem.at[self.group, g, k], bar
                )
        plgpu.barrier_wait(bar)

    def meet(self, name: str) -> None:
        """Wait until all warpgroups of the block have arrived at a barrier."""
        if self.size.groups > 1:
            plgpu.barrier_arrive(self.refs[name])
            plgpu.barrier_wait(self.refs[name])

    def write(self, kind: str, name: str, tiles: list[Array], *at: Any) -> None:
        """Start to copy tiles to `name[*at, n]` in global memory, for n = 0, 1, …

        The next call for the same kind must follow `wait_for_writes`.
        """
        held = self.refs[f"{kind}_smem"]
        for n, tile in enumerate(tiles):
            held[self.group, n] = tile.astype(self.staged[kind][1])
        plgpu.commit_smem()
        target = self.refs[f"{name}_out"]
        for n in range(len(tiles)):
            where = (*at, self.rows, self.columns) if name == "ys" else (
                *at, n, self.rows, self.columns
            )
            plgpu.copy_smem_to_gmem(held.at[self.group, n], target.at[where])

    def wait_for_writes(self) -> None:
        """Wait until the copies to global memory have been completed."""
        plgpu.wait_smem_to_gmem(0)

    def share(self, tiles: list[Array], t: Any) -> None:
        """Make the tiles of all warpgroups of the cluster the right operands of the products.

        Args:
          tiles: the rows of this warpgroup, for each operand.
          t: the number of calls before this one.
        """
        r_smem = self.refs["r_smem"]
        if self.size.blocks == 1:
            for n, tile in enumerate(tiles):
                r_smem[n, self.group] = tile.astype(OPERAND)
            plgpu.commit_smem()
            self.meet("ready")
            return
        held, exchange = self.refs["o_smem"], self.refs["exchange_out"]
        slot = jax.lax.rem(t, 2)  # a block may still read the tiles of the call before
        for n, tile in enumerate(tiles):
            held[self.group, n] = tile.astype(OPERAND)
        plgpu.commit_smem()
        for n in range(len(tiles)):
            plgpu.copy_smem_to_gmem(
                held.at[self.group, n], exchange.at[slot, n, self.rows, self.columns]
            )
        self.wait_for_writes()
        plgpu.barrier_arrive(self.refs["cluster"])
        plgpu.barrier_wait(self.refs["cluster"])
        bar = self.refs["r_bar"].at[self.group]
        for n in range(len(tiles)):
            for block in range(self.size.blocks):
                chunk = block * self.size.groups + self.group
                rows = pl.ds(chunk * ROWS, ROWS)
                plgpu.copy_gmem_to_smem(
                    exchange.at[slot, n, rows, self.columns], r_smem.at[n, chunk], bar
                )
        plgpu.barrier_wait(bar)
        self.meet("ready")

    def released(self) -> None:
        """Wait until no warpgroup of the block reads the right operands of the products."""
        if self.size.blocks == 1:  # in a cluster, the barrier in `share` has this effect
            self.meet("done")

    def products(self) -> list[Array]:
        """Return the product of each recurrent matrix with the first right operand."""
        number = self.loop.cell.products

        def multiply(*sums: Any) -> list[Array]:
            for g in range(number):
                self._multiply(sums[g], g, 0)
            return [total[...] for total in sums]

        return pl.run_scoped(multiply, *[self._accumulator()] * number)

    def sum_of_products(self) -> Array:
        """Return the sum of the products of the recurrent matrices with their right operands."""

        def multiply(total: Any) -> Array:
            for g in range(self.loop.cell.products):
                self._multiply(total, g, g)
            return total[...]

        return pl.run_scoped(multiply, self._accumulator())

    def _accumulator(self) -> Any:
        return plgpu.ACC((ROWS, TILE), jnp.float32)

    def _multiply(self, total: Any, g: int, operand: int) -> None:
        for k in range(self.size.hidden // ROWS):
            plgpu.wgmma(
                total, self.refs["w_smem"].at[self.group, g, k], self.refs["r_smem"].at[operand, k]
            )


def _forward(group: _Group) -> None:
    """The program of a warpgroup that runs a cell."""
    loop, cell = group.loop, group.loop.cell
    steps, states = group.refs["x"].shape[0], range(len(loop.rounded))
    group.load_weights()
    vectors = group.load_vectors()
    left = [group.load("state", s) for s in states]
    for block in range(group.size.blocks):
        chunk = block * group.size.groups + group.group
        h = group.load("state", cell.hidden, rows=pl.ds(chunk * ROWS, ROWS))
        group.refs["r_smem"][0, chunk] = h.astype(OPERAND)
    plgpu.commit_smem()
    group.meet("ready")

    def step(i: Any, left: list[Array]) -> list[Array]:
        t = steps - 1 - i if loop.reverse else i
        terms = [group.load("x", t, n) for n in range(cell.terms)]
        products = group.products()
        gates = [
            _added(terms, products, p, q)
            for p, q in zip(cell.projected, cell.recurred, strict=True)
        ]
        *new, y = cell.forward(vectors, gates, left)
        after = [a.astype(d).astype(jnp.float32) for a, d in zip(new, loop.rounded, strict=True)]
        if group.has("mask"):
            real = group.load_row("mask", t)
            after = [jnp.where(real, a, b) for a, b in zip(after, left, strict=True)]
            y = jnp.where(real, y, jnp.zeros_like(y))
        group.wait_for_writes()
        if group.has("gates_out"):
            group.write("g", "gates", gates, t)
            group.write("s", "lefts", left, t)
        group.write("y", "ys", [y], t)
        if group.has("reset"):
            reset = group.load_row("reset", t)
            again = [group.load("again", s) for s in states]
            after = [jnp.where(reset, a, b) for a, b in zip(again, after, strict=True)]
        group.released()
        group.share([after[cell.hidden]], i)
        return after

    left = jax.lax.fori_loop(0, steps, step, left)
    group.wait_for_writes()
    group.write("s", "state", left)
    group.wait_for_writes()


def _added(terms: list[Array], products: list[Array], p: int | None, q: int | None) -> Array:
    """Return a gate, which is the sum of a term and a product, or one of them."""
    if p is None:
        assert q is not None
        return products[q]
    return terms[p] if q is None else terms[p] + products[q]


def _backward(group: _Group) -> None:
    """The program of a warpgroup that runs the loop of the gradient."""
    loop, cell = group.loop, group.loop.cell
    steps, states = group.refs["gates"].shape[0], range(len(loop.rounded))
    group.load_weights()
    vectors = group.load_vectors()
    d_left = [group.load("d_state", s) for s in states]
    zeros = plgpu.layout_cast(jnp.zeros((ROWS, TILE), jnp.float32), LAYOUT)
    d_vectors = [zeros] * loop.vectors
    d_again = [zeros for _ in states] if group.has("reset") else []

    def step(i: Any, carry: Any) -> Any:
        d_left, d_again, d_vectors = carry
        t = i if loop.reverse else steps - 1 - i
        gates = [group.load("gates", t, n) for n in range(len(cell.projected))]
        left = [group.load("lefts", t, s) for s in states]
        d_y = group.load("dys", t)
        if group.has("reset"):
            reset = group.load_row("reset", t)
            d_again = [
                jnp.where(reset, d + e, d) for d, e in zip(d_again, d_left, strict=True)
            ]
            d_left = [jnp.where(reset, jnp.zeros_like(d), d) for d in d_left]
        d_new, held = d_left, None
        if group.has("mask"):
            real = group.load_row("mask", t)
            d_new = [jnp.where(real, d, jnp.zeros_like(d)) for d in d_left]
            held = [jnp.where(real, jnp.zeros_like(d), d) for d in d_left]
            d_y = jnp.where(real, d_y, jnp.zeros_like(d_y))
        found = cell.backward(vectors, gates, left, [*d_new, d_y])
        n, m = len(vectors), len(vectors) + len(gates)
        d_vectors = [a + b for a, b in zip(d_vectors, found[:n], strict=True)]
        d_gates, d_left = found[n:m], found[m:]
        group.wait_for_writes()
        group.write("g", "d_gates", d_gates, t)
        group.share(
            [d for d, q in zip(d_gates, cell.recurred, strict=True) if q is not None], i
        )
        d_left[cell.hidden] = d_left[cell.hidden] + group.sum_of_products()
        group.released()
        if held is not None:
            d_left = [a + b for a, b in zip(d_left, held, strict=True)]
        return d_left, d_again, d_vectors

    carry = jax.lax.fori_loop(0, steps, step, (d_left, d_again, d_vectors))
    names = ("d_left", "d_again", "d_vectors")
    for name, tiles in zip(names, carry, strict=True):
        group.wait_for_writes()
        if tiles:
            group.write("g", name, tiles)
    group.wait_for_writes()


