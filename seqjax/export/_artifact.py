"""An exported program with the data that a caller needs, in memory and as one file."""

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
from seqjax.export._inputs import check_ranges, checked_input, entry_of

__all__ = ["FORMAT", "Artifact", "load", "save"]

FORMAT = 1
"""The version of the format of manifests, which `load` checks."""

PROGRAM, MANIFEST = "program.stablehlo", "manifest.json"
ARRAYS = {"weights": "weights", "state": "initial_state"}
"""The fields of `Artifact` that contain arrays, with their names in a file."""

Member = TypeVar("Member")


# Artifacts are compared by identity, so that they can be hashed and passed to `jax.jit`.
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Artifact:
    """An exported program with the data that a caller needs.

    Attributes:
      exported: the program, a `jax.export.Exported`. The program's arguments and results are arrays
        and flat dicts of arrays.
      manifest: the names, shapes and dtypes of inputs and outputs, the platforms, and versions.
      state: the state before the first step by name, without batch axes; None for a program without
        a state. The method `initial_state` adds the batch axes.
      weights: the weights by name if they are the first argument of the program; otherwise None.

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

    def __repr__(self) -> str:
        inputs, outputs = (
            [entry["name"] for entry in self.manifest[part]] for part in ("inputs", "outputs")
        )
        kind, platforms = self.manifest["kind"], self.manifest["platforms"]
        return f"Artifact({kind=}, {inputs=}, {outputs=}, {platforms=})"

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.exported.call)

    def __call__(self, *inputs: Any) -> dict[str, Any]:
        """Run the program with its weights.

        Args:
          inputs: the inputs in the order of `manifest["inputs"]`, without the weights. Each input
            is an array or a nested list of numbers. A state is a dict of the form that
            `initial_state` returns, or a state of the layer.

        Returns:
          A dict from the name of each output to an array or a flat dict of arrays.

        Raises:
          TypeError: if an input is not an array, or its dtype differs from the manifest.
          ValueError: if the number of inputs, or their names or shapes differ from the manifest;
            or if an integer is out of the range in the manifest, which is only checked outside
            tracing.
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
          batch_shape: the sizes of the batch axes, such as `[32]`. An integer means one axis.

        Returns:
          The state, a dict of arrays `[*batch_shape, …]`.

        Raises:
          TypeError, ValueError: if a size is not a positive integer, or the program has no state.

        Example:
          >>> from flax import nnx
          >>> from seqjax import export, nn
          >>> layer = nn.GRU(3, 5, rngs=nnx.Rngs(0))
          >>> export.export_step(layer, platforms=["cpu"]).initial_state(2)["0"].shape
          (2, 5)
        """
        if self.state is None:
            raise ValueError("initial_state: expected a program with a state, got one without")
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
            "seqjax.export: expected the package flatbuffers to be installed; run "
            "pip install 'seqjax[export]'"
        ) from error


def save(path: FilePath, artifact: Artifact) -> None:
    """Write a program to one file, a zip archive.

    The members of the archive are `program.stablehlo` (for `jax.export.deserialize`),
    `manifest.json` and, if the artifact has weights or a state, `weights.npz` and
    `initial_state.npz`. The file is written atomically: if writing fails, no partial file remains.

    Args:
      path: the path of the file; a symbolic link is followed.
      artifact: the program, as returned by one of the `export_…` functions.

    Raises:
      TypeError: if `artifact` is not an `Artifact`.
      ValueError: if `path` is not the path of a regular file.
      ImportError: if flatbuffers is not installed; it is part of the extra "export".

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
    """Read a program from a file that `save` wrote.

    Args:
      path: the path of the file.

    Returns:
      The artifact.

    Raises:
      ValueError: if the file was not written by `save`, or is damaged.
      ImportError: if flatbuffers is not installed; it is part of the extra "export".

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
        _member(archive, MANIFEST, lambda _: _check_entries(manifest, exported))
        arrays = {}
        for field, name in ARRAYS.items():
            member, dtypes = f"{name}.npz", manifest["dtypes"][name]
            if dtypes or member in archive.namelist():
                arrays[field] = _member(archive, member, functools.partial(_arrays, dtypes))
    return Artifact(exported, manifest, **arrays)


def _member(archive: zipfile.ZipFile, member: str, read: Callable[[bytes], Member]) -> Member:
    """Read a member of the file; an error names both the member and the file."""
    try:
        return read(archive.read(member))
    except OSError:
        raise  # an error of the disk, not of the data
    except Exception as error:  # parsers of damaged data raise errors of any type
        raise ValueError(
            f"path: expected {member} as written by seqjax.export.save in {archive.filename!r}, "
            f"got {type(error).__name__}: {error}"
        ) from error


def _manifest(data: bytes) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(data)
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"expected the format {FORMAT}, got {manifest['format']!r}; a newer version of seqjax "
            "may have written the file"
        )
    dtypes = manifest["dtypes"]
    for found, name, kind in (
        (manifest, "inputs", list),
        (manifest, "outputs", list),
        *((dtypes, name, dict) for name in ARRAYS.values()),
    ):
        if not isinstance(found[name], kind):
            raise TypeError(f"{name} is {checks.brief(found[name])}")
    return manifest


def _check_entries(manifest: dict[str, Any], exported: jax.export.Exported) -> None:
    """Raise an error if the inputs or outputs in the manifest are not those of the program."""
    arguments, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    results = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    for part, trees in (("inputs", arguments), ("outputs", results.values())):
        entries = manifest[part]
        if len(entries) != len(trees):
            raise ValueError(f"expected {len(trees)} {part}, got {len(entries)}")
        for entry, tree in zip(entries, trees, strict=True):
            expected = entry_of(entry["name"], tree)
            if {key: entry.get(key) for key in expected} != expected:
                raise ValueError(f"{part}: expected {expected}, got {entry}")
    names = {entry["name"] for entry in manifest["inputs"]}
    for entry in manifest["inputs"]:
        least, most = entry.get("range", (0, 0))
        if least != 0 or not isinstance(most, int | str):
            raise ValueError(f"range: expected [0, most], got {entry['range']}")
        if entry.get("real_before", entry["name"]) not in names:
            raise ValueError(f"real_before: expected an input, got {entry['real_before']!r}")


def _arrays(dtypes: dict[str, str], data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file.

    NumPy stores bfloat16 as raw bytes, so a view restores the dtype.
    """
    with np.load(io.BytesIO(data)) as found:
        if set(found.files) != dtypes.keys():
            raise KeyError(f"arrays {sorted(found.files)} instead of {sorted(dtypes)}")
        return {name: found[name].view(jax.numpy.dtype(dtypes[name])) for name in found.files}
