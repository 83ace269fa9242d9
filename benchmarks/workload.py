"""The workload of contestants: a recurrent network, its inputs and weights, in one common layout.

Weights are lists, layer by layer and direction by direction (forward, backward), of NumPy arrays by
name: `w_ih [I, G*H]`, `w_hh [H, G*H]`, `b [G*H]`, and for the GRU `b_hn [H]`, the bias that the
reset gate multiplies. The order of gates is i, f, g, o (LSTM) and r, z, n (GRU). Sequences are
`[B, T, features]`, float32. No bias is zero, so a contestant that ignores a bias gives wrong
results and is detected.
"""

import dataclasses
from typing import NamedTuple, TypeAlias

import numpy as np

__all__ = [
    "CELLS",
    "GATES",
    "VARIANTS",
    "Shape",
    "Structure",
    "FURTHER_VARIANTS",
    "Weights",
    "Workload",
    "draw_shapes",
    "draw_weights",
    "flops",
    "make",
]

GATES = {"elman": 1, "lstm": 4, "gru": 3}
"""G, the number of gates of each cell."""

CELLS = tuple(GATES)
VARIANTS = ("plain", "lengths", "bidirectional")
"""The variants of a workload.

"plain" is one layer, "lengths" is one layer with sequences of different lengths, and
"bidirectional" is two bidirectional layers.
"""
FURTHER_VARIANTS = ("resets",)
"""The variants that are measured only on request, since few contestants can run them.

"resets" is one layer whose state is set to zero before some steps, as at the ends of episodes.
"""

Weights: TypeAlias = list[list[dict[str, np.ndarray]]]


class Shape(NamedTuple):
    """The sizes of a workload, B, T, I and H."""

    batch: int
    steps: int
    inputs: int
    hidden: int


SIZES = ((1, 256), (10, 500), (20, 600), (20, 600))
"""The smallest and largest B, T, I and H of random shapes."""

LARGEST = 20e9
"""Maximum number of floating-point operations of an LSTM's forward pass on a random shape."""


def draw_shapes(count: int, seed: int) -> tuple[Shape, ...]:
    """Draw random shapes: each size is log-uniform, so that few of them are round numbers.

    Args:
      count: the number of shapes.
      seed: the seed of the random shapes.
    """
    rng = np.random.default_rng(seed)
    low, high = np.log(np.asarray(SIZES, float)).T
    shapes: list[Shape] = []
    while len(shapes) < count:
        shape = Shape(*(int(size) for size in np.exp(rng.uniform(low, high)).round()))
        structure = Structure("lstm", shape.inputs, shape.hidden)
        if flops(structure, shape.batch, shape.steps, "forward") <= LARGEST:
            shapes.append(shape)
    return tuple(shapes)


@dataclasses.dataclass(frozen=True)
class Structure:
    """A recurrent network without its weights."""

    cell: str
    inputs: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False

    @property
    def directions(self) -> int:
        """Return the number of directions of each layer."""
        return 2 if self.bidirectional else 1

    @property
    def outputs(self) -> int:
        """Return the number of features of the last layer's outputs."""
        return self.hidden * self.directions

    @property
    def widths(self) -> list[int]:
        """Return the number of input features of each layer."""
        return [self.inputs] + [self.outputs] * (self.layers - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """A structure with weights, inputs, and the cotangent of the outputs.

    The loss is sum(outputs * cotangent). If there are lengths, the cotangent is zero in padding, so
    that a contestant's outputs in padding do not matter. If there are resets, bool `[B, T]`, the
    state is set to zero before the steps at which they are True.
    """

    structure: Structure
    weights: Weights
    xs: np.ndarray
    cotangent: np.ndarray
    lengths: np.ndarray | None = None
    resets: np.ndarray | None = None

    @property
    def batch(self) -> int:
        """Return B, the batch size."""
        return self.xs.shape[0]

    @property
    def steps(self) -> int:
        """Return T, the number of time steps."""
        return self.xs.shape[1]

    @property
    def real(self) -> np.ndarray:
        """Return bool `[B, T, 1]`, True at steps before each sequence's length."""
        lengths = np.full(self.batch, self.steps) if self.lengths is None else self.lengths
        return (np.arange(self.steps) < lengths[:, None])[..., None]


def draw_weights(structure: Structure, rng: np.random.Generator) -> Weights:
    """Return weights and biases uniform in ±1/√H, the usual range; none of them is zero."""
    columns = GATES[structure.cell] * structure.hidden
    limit = structure.hidden**-0.5

    def draw(*shape: int) -> np.ndarray:
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    def direction(width: int) -> dict[str, np.ndarray]:
        weights = {
            "w_ih": draw(width, columns),
            "w_hh": draw(structure.hidden, columns),
            "b": draw(columns),
        }
        if structure.cell == "gru":
            weights["b_hn"] = draw(structure.hidden)
        return weights

    return [[direction(width) for _ in range(structure.directions)] for width in structure.widths]


def make(cell: str, variant: str, shape: Shape, seed: int = 0) -> Workload:
    """Return the workload of one row.

    Args:
      cell: one of `CELLS`.
      variant: one of `VARIANTS` or `FURTHER_VARIANTS`. Lengths are drawn between T/2 and T; the
        longest is T. One step in 20 is a reset.
      shape: B, T, I, H.
      seed: the seed of weights, inputs, lengths, resets and cotangent.
    """
    rng = np.random.default_rng(seed)
    stacked = variant == "bidirectional"
    structure = Structure(cell, shape.inputs, shape.hidden, 2 if stacked else 1, stacked)
    weights = draw_weights(structure, rng)
    xs = rng.normal(size=(shape.batch, shape.steps, shape.inputs)).astype(np.float32)
    cotangent = rng.normal(size=(shape.batch, shape.steps, structure.outputs)).astype(np.float32)
    if variant == "resets":
        resets = rng.random((shape.batch, shape.steps)) < 0.05
        resets[0, shape.steps // 2] = True  # at least one, which a contestant cannot ignore
        return Workload(structure, weights, xs, cotangent, resets=resets)
    if variant != "lengths":
        return Workload(structure, weights, xs, cotangent)
    lengths = rng.integers(max(1, shape.steps // 2), shape.steps + 1, shape.batch)
    lengths[0] = shape.steps
    padded = Workload(structure, weights, xs, cotangent, lengths.astype(np.int32))
    return dataclasses.replace(padded, cotangent=cotangent * padded.real)


def flops(structure: Structure, batch: int, steps: int, what: str) -> int:
    """Return the number of floating-point operations of the matrix products, padding included.

        forward = Σ 2·T·B·G·H·(I+H) over layers and directions      gradient = 3 · forward

    Args:
      structure: the network.
      batch: B, the batch size.
      steps: T, the number of steps.
      what: "forward" or "gradient".
    """
    columns = GATES[structure.cell] * structure.hidden
    rows = sum(width + structure.hidden for width in structure.widths) * structure.directions
    return 2 * steps * batch * columns * rows * {"forward": 1, "gradient": 3}[what]
