"""The operations of one warpgroup in the GPU kernels of the engine `persistent`.

The hidden units are the rows, and the sequences are the columns, of all matrices. A tile of `TILE`
sequences is processed by a cluster of blocks. Each warpgroup (128 threads) of a block owns `ROWS`
hidden units. Their rows of the recurrent matrices stay in shared memory, and their states stay in
registers, for all time steps. At each step, the warpgroups exchange the right operands of the next
products: through shared memory in a block, and through global memory in a cluster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from seqjax.kernels._persistent_cell import Pointwise
from seqjax.kernels._persistent_size import ROWS, TILE, Size
from seqjax.types import Array

plgpu: Any = mosaic_gpu  # its types differ between versions of JAX

__all__ = ["OPERAND", "Group", "Loop", "call", "like", "zeros"]

LAYOUT = plgpu.Layout.WGMMA
"""The layout in registers of the result of a product, which all tiles have."""
OPERAND = jnp.bfloat16
"""The dtype of the operands of products."""


class Loop(NamedTuple):
    """The arguments of a kernel that are not arrays.

    Attributes:
      cell: the pointwise part of the cell.
      size: the division of the hidden units among blocks and warpgroups.
      reverse: whether the cell processes the steps in the order t = T-1 … 0.
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


def call(
    loop: Loop,
    body: Callable[["Group"], None],
    arrays: dict[str, Array],
    results: dict[str, Any],
    staged: dict[str, tuple[int, Any]],
    operands: int,
) -> dict[str, Array]:
    """Call a kernel.

    Args:
      loop: the arguments that are not arrays.
      body: the program of a warpgroup.
      arrays: the arrays that the kernel reads, by name. `w` is `[C, W, G, K, 64, 64]`.
      results: the types of the arrays that the kernel writes, by name.
      staged: for each kind of result, the number and the dtype of the tiles that a warpgroup writes
        to shared memory before they are copied to global memory.
      operands: the number of right operands `[H, TILE]` of the products of a step.

    Returns:
      The arrays that the kernel writes, by name.
    """
    groups, chunks = loop.size.groups, loop.size.hidden // ROWS
    products = loop.cell.products
    batch = next(iter(results.values())).shape[-1]
    scratch = {
        "w_smem": _shared((groups, products, chunks, ROWS, ROWS), OPERAND),
        "r_smem": _shared((operands, chunks, ROWS, TILE), OPERAND),
        "w_bar": plgpu.Barrier(num_arrivals=products * chunks, num_barriers=groups),
        "ready": plgpu.Barrier(num_arrivals=groups),
        "done": plgpu.Barrier(num_arrivals=groups),
    }
    for kind, (number, dtype) in staged.items():
        scratch[f"{kind}_smem"] = _shared((groups, number, ROWS, TILE), dtype)
    written = dict(results)
    if loop.size.blocks > 1:
        written["exchange"] = like((2, operands, loop.size.hidden, batch), OPERAND)
        scratch["o_smem"] = _shared((groups, operands, ROWS, TILE), OPERAND)
        arrivals = operands * loop.size.blocks
        scratch["r_bar"] = plgpu.Barrier(num_arrivals=arrivals, num_barriers=groups)
        scratch["cluster"] = plgpu.ClusterBarrier(collective_axes=("block",), num_arrivals=groups)
    names = (*arrays, *(f"{name}_out" for name in written), *scratch)

    def program(*refs: Any) -> None:
        body(Group(loop, dict(zip(names, refs, strict=True))))

    kernel = plgpu.kernel(
        program,
        out_type=tuple(written.values()),
        scratch_types=tuple(scratch.values()),
        grid=(batch // TILE,),
        grid_names=("tile",),
        cluster=(loop.size.blocks,),
        cluster_names=("block",),
        num_threads=groups,
        thread_name="group",
        **({} if loop.interpret is None else {"interpret": loop.interpret}),
    )
    found = dict(zip(written, kernel(*arrays.values()), strict=True))
    return {name: found[name] for name in results}


def like(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return the type of an array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def zeros() -> Array:
    """Return a tile of zeros."""
    tile: Array = plgpu.layout_cast(jnp.zeros((ROWS, TILE), jnp.float32), LAYOUT)
    return tile


def _shared(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return matrices in shared memory, in a layout that copies and products can read.

    Both operands of a product need the same layout, so the layout depends on `TILE` alone.
    """
    size = jnp.dtype(dtype).itemsize
    width = min(128, TILE * size)
    transforms = plgpu.TilingTransform((8, width // size)), plgpu.SwizzleTransform(width)
    return plgpu.SMEM(shape, dtype, transforms=transforms)


class Group:
    """One warpgroup, which owns `ROWS` hidden units of `TILE` sequences.

    Attributes:
      loop: the arguments of the kernel that are not arrays.
      refs: the arrays in global and shared memory and the barriers, by name. The name of an array
        that the kernel writes ends in "_out".
    """

    def __init__(self, loop: Loop, refs: dict[str, Any]) -> None:
        self.loop, self.refs = loop, refs
        self._group = jax.lax.axis_index("group")
        self._block = jax.lax.axis_index("block")
        self._columns = pl.ds(jax.lax.axis_index("tile") * TILE, TILE)
        self._rows = self._rows_in(self._block)

    def _chunk(self, block: Any) -> Any:
        """Return the number of this warpgroup's rows in a block, in units of `ROWS`."""
        return block * self.loop.size.groups + self._group

    def _rows_in(self, block: Any) -> Any:
        return pl.ds(self._chunk(block) * ROWS, ROWS)

    def load(self, name: str, *at: Any) -> list[Array]:
        """Load the tiles `name[*at, n]` from global memory, for every n."""
        number = self.refs[name].shape[len(at)]
        return [self._tile(name, (*at, n), self._rows) for n in range(number)]

    def load_one(self, name: str, *at: Any) -> Array:
        """Load the tile `name[*at]` from global memory."""
        return self._tile(name, at, self._rows)

    def _tile(self, name: str, at: tuple[Any, ...], rows: Any) -> Array:
        tile = self.refs[name].at[(*at, rows, self._columns)]
        found: Array = plgpu.load(tile, layout=LAYOUT, optimized=False)
        return found

    def load_row(self, name: str, t: Any) -> list[Array]:
        """Load `name[t]`, a number for each sequence, or nothing if the array does not exist."""
        if name not in self.refs:
            return []
        row = self.refs[name].at[t, self._columns]
        return [plgpu.load(row, layout=LAYOUT.reduce(0), optimized=False)]

    def load_vectors(self) -> list[Array]:
        """Load the parameters `[H]`, and repeat them for each sequence."""
        found = []
        for n in range(self.loop.vectors):
            column = plgpu.load(
                self.refs["vectors"].at[n, self._rows], layout=LAYOUT.reduce(1), optimized=False
            )
            found.append(jax.lax.broadcast_in_dim(column, (ROWS, TILE), (0,)))
        return found

    def load_weights(self) -> None:
        """Copy the rows of the recurrent matrices that this warpgroup owns to shared memory."""
        bar = self.refs["w_bar"].at[self._group]
        for g in range(self.loop.cell.products):
            for k in range(self.loop.size.hidden // ROWS):
                source = self.refs["w"].at[self._block, self._group, g, k]
                plgpu.copy_gmem_to_smem(source, self.refs["w_smem"].at[self._group, g, k], bar)
        plgpu.barrier_wait(bar)

    def start(self, name: str, n: int) -> None:
        """Make the array `name[n]` the right operand of the first products."""
        for block in range(self.loop.size.blocks):
            tile = self._tile(name, (n,), self._rows_in(block))
            self.refs["r_smem"][0, self._chunk(block)] = tile.astype(OPERAND)
        plgpu.commit_smem()
        self.meet("ready")

    def meet(self, name: str) -> None:
        """Wait until all warpgroups of the block have arrived at a barrier."""
        if self.loop.size.groups > 1:
            plgpu.barrier_arrive(self.refs[name])
            plgpu.barrier_wait(self.refs[name])

    def meet_cluster(self) -> None:
        """Wait until all warpgroups of the cluster have arrived."""
        plgpu.barrier_arrive(self.refs["cluster"])
        plgpu.barrier_wait(self.refs["cluster"])

    def write(self, kind: str, name: str, tiles: list[Array], *at: Any) -> None:
        """Start to copy the tiles to `name[*at, n]` in global memory, for every n.

        `wait_for_writes` must be called before the next call for the same kind.
        """
        held, target = self.refs[f"{kind}_smem"], self.refs[f"{name}_out"]
        for n, tile in enumerate(tiles):
            held[self._group, n] = tile.astype(held.dtype)
        plgpu.commit_smem()
        for n in range(len(tiles)):
            tile = target.at[(*at, n, self._rows, self._columns)]
            plgpu.copy_smem_to_gmem(held.at[self._group, n], tile)

    def wait_for_writes(self) -> None:
        """Wait until the copies to global memory have been completed."""
        plgpu.wait_smem_to_gmem(0)

    def share(self, tiles: list[Array], number: Any) -> None:
        """Make the tiles of all warpgroups of the cluster the right operands of the products.

        Args:
          tiles: the rows of this warpgroup, for each operand.
          number: the number of calls before this one.
        """
        operands = self.refs["r_smem"]
        if self.loop.size.blocks == 1:
            for n, tile in enumerate(tiles):
                operands[n, self._group] = tile.astype(OPERAND)
            plgpu.commit_smem()
            self.meet("ready")
            return
        held, exchange = self.refs["o_smem"], self.refs["exchange_out"]
        slot = jax.lax.rem(number, 2)  # a block may still read the tiles of the call before
        for n, tile in enumerate(tiles):
            held[self._group, n] = tile.astype(OPERAND)
        plgpu.commit_smem()
        for n in range(len(tiles)):
            tile = exchange.at[slot, n, self._rows, self._columns]
            plgpu.copy_smem_to_gmem(held.at[self._group, n], tile)
        self.wait_for_writes()
        self.meet_cluster()
        bar = self.refs["r_bar"].at[self._group]
        for n in range(len(tiles)):
            for block in range(self.loop.size.blocks):
                tile = exchange.at[slot, n, self._rows_in(block), self._columns]
                plgpu.copy_gmem_to_smem(tile, operands.at[n, self._chunk(block)], bar)
        plgpu.barrier_wait(bar)
        self.meet("ready")

    def release(self) -> None:
        """Wait until no warpgroup of the block reads the right operands of the products.

        In a cluster, `meet_cluster` in `share` has this effect.
        """
        if self.loop.size.blocks == 1:
            self.meet("done")

    def products(self) -> list[Array]:
        """Return the products of the recurrent matrices with the right operand."""
        number = self.loop.cell.products

        def multiply(*sums: Any) -> list[Array]:
            for g, total in enumerate(sums):
                self._multiply(total, g, 0)
            return [total[...] for total in sums]

        found: list[Array] = pl.run_scoped(multiply, *[self._sum()] * number)
        return found

    def sum_of_products(self) -> Array:
        """Return the sum of the products of the recurrent matrices with their right operands."""

        def multiply(total: Any) -> Any:
            for g in range(self.loop.cell.products):
                self._multiply(total, g, g)
            return total[...]

        found: Array = pl.run_scoped(multiply, self._sum())
        return found

    def _sum(self) -> Any:
        return plgpu.ACC((ROWS, TILE), jnp.float32)

    def _multiply(self, total: Any, g: int, operand: int) -> None:
        for k in range(self.loop.size.hidden // ROWS):
            left = self.refs["w_smem"].at[self._group, g, k]
            plgpu.wgmma(total, left, self.refs["r_smem"].at[operand, k])
