"""The sizes of the engine `persistent`, and the shared memory that they need."""

from typing import NamedTuple

__all__ = ["ROWS", "SHARED", "TILE", "Size", "size_of"]

ROWS = 64
"""The hidden units of a warpgroup: the number of rows of one product on Hopper GPUs."""
TILE = 16
"""The sequences of a cluster."""
BLOCKS = (1, 2, 3, 4)
"""The numbers of blocks that a cluster may have."""
SHARED = 232_448
"""The bytes of shared memory that a block of a Hopper GPU may use."""


class Size(NamedTuple):
    """The division of the hidden units among the warpgroups of a cluster.

    Attributes:
      hidden: the number of hidden units, H.
      blocks: the number of blocks in a cluster.
    """

    hidden: int
    blocks: int

    @property
    def groups(self) -> int:
        """The number of warpgroups in a block."""
        return self.hidden // (self.blocks * ROWS)

    def shared(self, products: int, gates: int, states: int) -> int:
        """Return the bytes of shared memory that a block needs, in the larger of two kernels.

        Args:
          products: the number of recurrent matrices `[H, H]`.
          gates: the number of gates.
          states: the number of arrays of the state.
        """
        rows = self.groups * ROWS
        weights = 2 * products * rows * self.hidden
        forward = 2 * self.hidden + 2 * rows + 4 * (gates + states) * rows
        backward = 2 * products * self.hidden + 4 * gates * rows
        if self.blocks > 1:
            forward += 2 * rows
            backward += 2 * products * rows
        return weights + TILE * max(forward, backward) + BARRIERS


BARRIERS = 1024
"""The bytes that are set aside for barriers and alignment."""


def size_of(hidden: int, products: int, gates: int, states: int) -> Size | None:
    """Return the division with the fewest blocks that fits into shared memory, or None.

    Example:
      >>> size_of(128, products=4, gates=4, states=2)
      Size(hidden=128, blocks=1)
      >>> size_of(100, products=4, gates=4, states=2) is None
      True
    """
    for blocks in BLOCKS:
        size = Size(hidden, blocks)
        if hidden % (blocks * ROWS) == 0 and size.shared(products, gates, states) <= SHARED:
            return size
    return None
