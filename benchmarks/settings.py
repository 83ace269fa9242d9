"""The settings of a run: the options of the command line, checked and resolved."""

import dataclasses
from collections.abc import Mapping, Sequence

from benchmarks import peers
from benchmarks.peers import Peer
from benchmarks.workload import CELLS, FURTHER_VARIANTS, VARIANTS, Shape

__all__ = ["Settings", "names", "resolve", "shapes"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run's options.

    Attributes:
      peers: the contestants by name; "seqjax" is the first.
      missing: the requested contestants that are missing, with the reasons.
      short: whether to measure fewer shapes and repetitions.
      repeats: the number of timed repetitions.
      budget: seconds for timing all contestants on one workload.
      cells: names of recurrent cells.
      variants: the variants of the workload.
      shapes: the shapes B, T, I, H. If `shapes` is empty, each suite uses its own shapes.
      drawn: random shapes, which the suite `speed` also measures.
    """

    peers: Mapping[str, Peer]
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    short: bool = False
    repeats: int = 9
    budget: float = 120.0
    cells: tuple[str, ...] = CELLS
    variants: tuple[str, ...] = VARIANTS
    shapes: tuple[Shape, ...] = ()
    drawn: tuple[Shape, ...] = ()

    def some(self, wanted: Sequence[str]) -> dict[str, Peer]:
        """Return a dict of the contestants in `wanted` that take part in the run, in this order."""
        return {name: self.peers[name] for name in wanted if name in self.peers}


def names(
    argument: str, given: Sequence[str], known: Sequence[str], further: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the names in `given`, or all known names if `given` has none.

    An element of `given` is one name, or several names with commas between them. `given` may also
    contain the names in `further`.

    Raises:
      ValueError: an unknown name.
    """
    found = [name.strip() for each in given for name in each.split(",") if name.strip()]
    for name in found:
        if name not in (*known, *further):
            expected = ", ".join((*known, *further))
            raise ValueError(f"{argument}: expected some of {expected}; got {name!r}")
    return tuple(dict.fromkeys(found)) or tuple(known)


def shapes(given: Sequence[str]) -> tuple[Shape, ...]:
    """Return shapes, each given like `32,100,128,128`.

    Raises:
      ValueError: one of the shapes does not have this form.
    """
    found = []
    for text in given:
        try:
            sizes = [int(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(
                f"shapes: expected four positive integers B,T,I,H such as 32,100,128,128; "
                f"got {text!r}"
            )
        found.append(Shape(*sizes))
    return tuple(found)


def resolve(
    *,
    peer_names: str | None,
    short: bool,
    repeats: int | None,
    given_cells: Sequence[str],
    given_variants: Sequence[str],
    given_shapes: Sequence[str],
    drawn: tuple[Shape, ...] = (),
) -> Settings:
    """Check all options and load the contestants.

    Raises:
      ValueError: an option is invalid.
    """
    if repeats is not None and repeats < 1:
        raise ValueError(f"repeats: expected a positive integer, got {repeats}")
    wanted = None if peer_names is None else [n.strip() for n in peer_names.split(",") if n.strip()]
    present, missing = peers.choose(wanted, short=short)
    return Settings(
        cells=names("cells", given_cells, CELLS),
        variants=names("variants", given_variants, VARIANTS, FURTHER_VARIANTS),
        shapes=shapes(given_shapes),
        drawn=drawn,
        peers={name: peers.load(name) for name in present},
        missing=missing,
        short=short,
        repeats=repeats or (5 if short else 9),
        budget=15.0 if short else 120.0,
    )
