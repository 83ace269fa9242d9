"""Functions that read a layer's weights from Keras files: `.keras`, `.weights.h5`, older `.h5`."""

import contextlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from seqjax._files import local_path
from seqjax.interop import _trees
from seqjax.interop._keras import by_name_in, read_config
from seqjax.interop._trees import SourceError

__all__ = ["Found", "read"]

_SUFFIXES = (".weights.h5", ".keras", ".h5", ".hdf5")
_SIDES = ("forward_layer", "backward_layer")
# The largest ratio of sizes that deflate reaches. A damaged file may declare any size, so the
# declared sizes are checked with this ratio.
_MOST_COMPRESSED = 1100


class Found(NamedTuple):
    """One layer in a file.

    Attributes:
      arrays: the arrays that `get_weights()` of the layer returns.
      bidirectional: whether each layer has two directions; None if unknown.
      config: the class name and configuration of the layer; None if unknown.
    """

    arrays: list[Any]
    bidirectional: bool | None
    config: Mapping[str, Any] | None


def read(path: Any, prefix: str, *, described: bool = True) -> Found:
    """Return the arrays, the directions and the configuration of one layer in a file.

    Args:
      path: the path of the file.
      prefix: the path of the layer in the file.
      described: whether to read the configuration of the layer, if the file is a `.keras` file.

    Raises:
      ValueError: the file cannot be read, or it contains no layer at `prefix`. If there is no layer
        at `prefix`, the message lists the paths of the layers in the file.
      ImportError: h5py is not installed.
    """
    path = local_path("path", path)
    if not path.name.endswith(_SUFFIXES):
        raise ValueError(
            f"path: expected a file whose name ends in .weights.h5, .keras or .h5, got {path}"
        )
    prefix = prefix.strip("/")
    with _trees.reading(path), _opened(path) as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs:
            return _legacy(file, root, prefix)
        arrays, bidirectional = _current(file, prefix)
    config = read_config(path, prefix) if described and path.suffix == ".keras" else None
    return Found(arrays, bidirectional, config)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the HDF5 file with the weights, which is a member of the archive in a `.keras` file."""
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError('reading this file needs h5py: pip install "seqjax[interop]"') from error
    with contextlib.ExitStack() as stack:
        file: Any = path
        if path.suffix == ".keras":
            archive = stack.enter_context(zipfile.ZipFile(path))
            file = stack.enter_context(archive.open("model.weights.h5"))
        yield stack.enter_context(h5py.File(file, "r"))


def _current(file: Any, prefix: str) -> tuple[list[Any], bool]:
    """Return the arrays of a layer in the format of Keras 3, and whether it has two directions."""
    place = file.get(prefix) if prefix else file
    if not hasattr(place, "keys"):
        raise SourceError(f"prefix: expected the path to a layer, got {prefix!r}{_hint(file)}")
    sides = [place[side] for side in _SIDES if side in place]
    if len(sides) == 1:
        raise SourceError(f"prefix: expected both directions at {prefix!r}, got one")
    parts = [_cells(side) for side in sides or [place]]
    if not all(parts):
        raise SourceError(f"prefix: expected a recurrent layer, got {prefix!r}{_hint(file)}")
    if sides and any(len(cells) > 1 for cells in parts):
        raise SourceError(
            f"prefix: expected one cell in each direction of {prefix!r}, got several; in seqjax "
            "each direction of a layer gets the outputs of both directions of the previous layer"
        )
    return [array for cells in parts for cell in cells for array in cell], bool(sides)


def _cells(place: Any) -> list[list[Any]]:
    """Return the arrays of each cell of one direction."""
    cell = place.get("cell", place)  # the path may lead to the cell itself
    if "cells" in cell:
        names = sorted(cell["cells"], key=_number)
        return [arrays for name in names for arrays in _cells(cell["cells"][name])]
    arrays = [_array(cell["vars"][key]) for key in sorted(cell.get("vars", ()), key=_number)]
    is_cell = (
        len(arrays) in (2, 3) and arrays[1].ndim == 2 and cell.keys() <= {"vars", "seed_generator"}
    )
    return [arrays] if is_cell else []


def _number(name: str) -> int:
    """Return the number at the end of a name; 0 for "lstm_cell", 1 for "lstm_cell_1"."""
    match = re.search(r"(?:^|_)(\d+)$", name)
    return int(match[1]) if match else 0


def _legacy(file: Any, root: Any, prefix: str) -> Found:
    """Return the layer with the name `prefix` from a file in the format of Keras 2."""
    prefix = prefix.removeprefix("model_weights/")
    place: Any = root.get(prefix) if prefix else None
    names = [] if place is None else [_text(name) for name in place.attrs.get("weight_names", ())]
    if not names:
        layers = [name for name, each in root.items() if len(each.attrs.get("weight_names", ()))]
        raise SourceError(
            f"prefix: expected the name of a layer with weights, got {prefix!r}"
            + _trees.choices(layers)
        )
    arrays = [_array(place[name]) for name in names]
    config = None
    if "model_config" in file.attrs:
        config = by_name_in(_text(file.attrs["model_config"]), prefix)
    return Found(arrays, _has_sides(names), config)


def _has_sides(names: list[str]) -> bool | None:
    """Return whether the names are those of a layer with two directions; None if unknown.

    Such a layer has names for the forward direction, followed by names for the backward direction.
    """
    sides = [re.search(r"(?:^|/)(forward|backward)_", name) for name in names]
    found = [match[1] for match in sides if match]
    half = len(names) // 2
    if len(names) <= 3:
        return False
    return True if found == ["forward"] * half + ["backward"] * half else None


def _array(dataset: Any) -> Any:
    """Return the numbers of a dataset, or raise if the file is too small to hold them."""
    if dataset.nbytes > _MOST_COMPRESSED * dataset.id.get_storage_size():
        raise ValueError(
            f"{dataset.name}: expected {dataset.nbytes} bytes, got a file that is too small"
        )
    return dataset[()]


def _hint(file: Any) -> str:
    """Return a hint with the paths of the recurrent layers in a file."""
    names: list[str] = []
    file.visit(names.append)
    sides = "|".join(_SIDES)
    cells = [name for name in names if name.endswith("/cell")]
    return _trees.choices(dict.fromkeys(re.sub(rf"(/({sides}))?/cell$", "", n) for n in cells))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
