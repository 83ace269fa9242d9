"""The table of contestants.

Each contestant has its own file, and its library is imported only when the contestant is loaded.
"""

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterable

from benchmarks.peers.base import Gradients, Peer, Prepared, Stepper, Trainer, Writer

__all__ = [
    "PEERS",
    "Entry",
    "Gradients",
    "Peer",
    "Prepared",
    "Stepper",
    "Trainer",
    "Writer",
    "choose",
    "load",
]


@dataclasses.dataclass(frozen=True)
class Entry:
    """The names by which a contestant is imported and installed.

    Attributes:
      module: the name of the module in this package.
      peer: the name of the class in this module.
      needs: the package that must be importable.
      pip: the name under which pip installs the package.
    """

    module: str
    peer: str
    needs: str
    pip: str

    @property
    def installed(self) -> bool:
        """Return whether the library is installed."""
        return importlib.util.find_spec(self.needs) is not None


PEERS = {
    "seqjax": Entry("ours", "Seqjax", "seqjax", "seqjax"),
    "seqjax_sharded": Entry("ours", "Sharded", "seqjax", "seqjax"),
    "seqjax_layer": Entry("ours", "Layer", "seqjax", "seqjax"),
    "handwritten": Entry("handwritten", "Handwritten", "jax", "jax"),
    "pytorch": Entry("pytorch", "PyTorch", "torch", "torch"),
    "pytorch_padded": Entry("pytorch", "PyTorchPadded", "torch", "torch"),
    "flax_nnx": Entry("flax_nnx", "FlaxNNX", "flax", "flax"),
    "flax_linen": Entry("flax_linen", "FlaxLinen", "flax", "flax"),
    "keras": Entry("keras_jax", "KerasJax", "keras", "keras"),
    "haiku": Entry("haiku", "Haiku", "haiku", "dm-haiku"),
    "equinox": Entry("equinox", "Equinox", "equinox", "equinox"),
}
"""All contestants by name. Every run measures "seqjax", since the others are compared with it."""

SHORT = ("seqjax_sharded", "handwritten", "pytorch", "flax_nnx")
"""The contestants of a short run."""


def load(name: str) -> Peer:
    """Import a contestant's library and make the contestant.

    Raises:
      ImportError: the library is not installed.
    """
    entry = PEERS[name]
    if entry.needs == "keras":  # Keras reads its backend once, when it is imported.
        os.environ["KERAS_BACKEND"] = "jax"
    module = importlib.import_module(f"benchmarks.peers.{entry.module}")
    peer = getattr(module, entry.peer)()
    assert isinstance(peer, Peer)
    return peer


def choose(names: Iterable[str] | None, *, short: bool = False) -> tuple[list[str], dict[str, str]]:
    """Return the contestants of a run.

    Args:
      names: the requested contestants. If `names` is None, all installed contestants are requested
        or, if `short` is True, those of `SHORT`.
      short: whether the run is short.

    Returns:
      The names of the installed contestants, "seqjax" first, and the reasons why the others are
      missing.

    Raises:
      ValueError: a name is unknown.
    """
    if names is None:
        names = SHORT if short else [name for name in PEERS if name != "seqjax_layer"]
    asked = ["seqjax", *(name for name in dict.fromkeys(names) if name != "seqjax")]
    for name in asked:
        if name not in PEERS:
            raise ValueError(f"peers: expected some of {', '.join(PEERS)}; got {name!r}")
    missing = {
        name: f"not installed (pip install {PEERS[name].pip})"
        for name in asked
        if not PEERS[name].installed
    }
    return [name for name in asked if name not in missing], missing
