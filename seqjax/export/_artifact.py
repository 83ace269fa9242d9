"""An exported program with what one has to know to call it, in memory and as one file."""

import dataclasses
import functools
import importlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from seqjax import checks
from seqjax._files import FilePath, local_file, replacing
from seqjax.export._inputs import check_ranges, checked_input

__all__ = ["Artifact", "load", "save"]

PROGRAM, MANIFEST = "program.stablehlo", "manifest.json"
ARRAYS = {"weights": "weights", "state": "initial_state"}
"""The fields of arrays, and their names in a file."""

Member = TypeVar("Member")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A program, and what one has to know to call it.

    Attributes:
      exported: the program, a `jax.export.Exported`. Its arguments and results are arrays and flat
        dicts of arrays.
      manifest: names, shapes and dtypes of inputs and outputs, the platforms, versions.
      state: the state before the first step by name, without batch axes; None for a program without
        a state. `initial_state` returns it with batch axes.
      weights: the weights by name, if the program has them as its first argument; else None.

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax import export
      >>> spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n"), jnp.float32)
      >>> artifact = export.export_function(lambda xs: xs + 1, spec)
      >>> artifact(jnp.ones([2]))["output"].tolist()
      [2.0, 2.0]
      >>> artifact.manifest["inputs"]
      [{'name': 'xs', 'shape': ['n'], 'dtype': 'float32'}]
    """

    exported: jax.export.Exported
    manifest: dict[str, Any]
    state: dict[str, np.ndarray] | None = None
    weights: dict[str, np.ndarray] | None = None

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.exported.call)

    def __call__(self, *inputs: Any) -> dict[str, Any]:
        """Runs the program, with the weights it was exported with.

        Args:
          inputs: one for each of `manifest["inputs"]` but the weights, in their order; arrays, or
            numbers in lists; states as from `initial_state`, or as the layer has them.

        Returns:
          The outputs by name, arrays or flat dicts of arrays.

        Raises:
          TypeError: no arrays, or dtypes that are not those of the manifest.
          ValueError: another number of inputs; other names or shapes than those of the manifest;
            outside tracing, integers beyond the manifest's range.
        """
        weights = [] if self.weights is None else [self.weights]
        entries = self.manifest["inputs"][len(weights) :]
        if len(inputs) != len(entries):
            names = ", ".join(entry["name"] for entry in entries) or "none"
            raise ValueError(f"inputs: expected {names}, got {len(inputs)} arguments")
        sizes: dict[str, int] = {}
        given = [
            checked_input(entry, each, sizes) for entry, each in zip(entries, inputs, strict=True)
        ]
        check_ranges(entries, given, sizes)
        result: dict[str, Any] = self._call(*weights, *given)
        return result

    def initial_state(self, batch_shape: int | Sequence[int] = ()) -> dict[str, np.ndarray]:
        """Return the state before the first step.

        Args:
          batch_shape: the batch axes, such as `[32]`; an integer is one axis.

        Returns:
          Arrays `[*batch_shape, …]` by name.

        Raises:
          TypeError, ValueError: no positive sizes; a program that has no state.

        Example:
          >>> from flax import nnx
          >>> from seqjax import export, nn
          >>> layer = nn.GRU(3, 5, rngs=nnx.Rngs(0))
          >>> export.export_step(layer, platforms=["cpu"]).initial_state(2)["0"].shape
          (2, 5)
        """
        if self.state is None:
            raise ValueError("initial_state: expected a program with a state, this one has none")
        sizes = checks.require_shape("batch_shape", batch_shape, least=1)
        return {
            name: np.broadcast_to(leaf, (*sizes, *leaf.shape)).copy()
            for name, leaf in self.state.items()
        }


def _require_flatbuffers() -> None:
    try:
        importlib.import_module("flatbuffers")
    except ImportError as error:
        raise ImportError(
            "seqjax.export: programs are stored by flatbuffers; pip install 'seqjax[export]'"
        ) from error


def save(path: FilePath, artifact: Artifact) -> None:
    """Writes a program to one file, a zip archive.

    Its members are `program.stablehlo` (for `jax.export.deserialize`), `manifest.json`, and where
    there are any `weights.npz` and `initial_state.npz`. The file appears whole or not at all.

    Args:
      path: of the file; a link is followed.
      artifact: as from one of the `export_…` functions.

    Raises:
      TypeError: not an artifact.
      ValueError: a path of something else than a file.
      ImportError: flatbuffers is missing, see the extra "export".

    Example:
      >>> import tempfile
      >>> from flax import nnx
      >>> from seqjax import nn
      >>> from seqjax.export import export_layer
      >>> artifact = export_layer(nn.GRU(3, 5, rngs=nnx.Rngs(0)), platforms=["cpu"])
      >>> path = tempfile.mkdtemp() + "/gru.zip"
      >>> save(path, artifact)
      >>> load(path).manifest["platforms"]
      ['cpu']
    """
    if not isinstance(artifact, Artifact):
        raise TypeError(f"artifact: expected an Artifact, got {checks.brief(artifact)}")
    _require_flatbuffers()
    with (
        replacing(path) as partial,
        zipfile.ZipFile(partial, "x", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.writestr(MANIFEST, json.dumps(artifact.manifest, indent=1))
        archive.writestr(PROGRAM, bytes(artifact.exported.serialize()))
        for field, name in ARRAYS.items():
            arrays = getattr(artifact, field)
            if arrays is not None:
                buffer = io.BytesIO()
                np.savez(buffer, **arrays)
                archive.writestr(f"{name}.npz", buffer.getvalue())


def load(path: FilePath) -> Artifact:
    """Reads what `save` wrote.

    Args:
      path: of the file.

    Returns:
      The artifact.

    Raises:
      ValueError: another kind of file, or a damaged one.
      ImportError: flatbuffers is missing, see the extra "export".

    Example:
      >>> load("missing.zip")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      FileNotFoundError: ...
    """
    _require_flatbuffers()
    file = local_file("path", path)
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"path: expected a file written by seqjax.export.save, got {str(file)!r}"
        ) from error
    with archive:
        manifest = _member(archive, MANIFEST, _manifest)
        exported = _member(archive, PROGRAM, lambda data: jax.export.deserialize(bytearray(data)))
        arrays = {}
        for field, name in ARRAYS.items():
            member, dtypes = f"{name}.npz", manifest["dtypes"][name]
            if dtypes or member in archive.namelist():
                arrays[field] = _member(archive, member, functools.partial(_arrays, dtypes))
    return Artifact(exported, manifest, **arrays)


def _member(archive: zipfile.ZipFile, member: str, read: Callable[[bytes], Member]) -> Member:
    """A part of the file, or an error that names both."""
    try:
        return read(archive.read(member))
    except OSError:
        raise  # of the disk
    except Exception as error:  # readers of damaged data raise anything
        raise ValueError(
            f"path: expected {member} as written by seqjax.export.save in {archive.filename!r}, "
            f"got {type(error).__name__}: {error}"
        ) from error


def _manifest(data: bytes) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(data)
    dtypes = manifest["dtypes"]
    for found, name, kind in (
        (manifest, "inputs", list),
        (manifest, "outputs", list),
        *((dtypes, name, dict) for name in ARRAYS.values()),
    ):
        if not isinstance(found[name], kind):
            raise TypeError(f"{name} is {checks.brief(found[name])}")
    return manifest


def _arrays(dtypes: dict[str, str], data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz file, which knows bfloat16 only as two bytes."""
    with np.load(io.BytesIO(data)) as found:
        if set(found.files) != dtypes.keys():
            raise KeyError(f"arrays {sorted(found.files)} instead of {sorted(dtypes)}")
        return {name: found[name].view(jax.numpy.dtype(dtypes[name])) for name in found.files}
