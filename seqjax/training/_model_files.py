"""The file of a saved model: an npz archive that contains arrays and one JSON file."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import checks
from seqjax._files import replacing

__all__ = ["read", "write"]

MANIFEST, FORMAT = "model.json", 1


def write(
    path: Path, owner: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write the file of a model atomically: if writing fails, an older file is not changed.

    Args:
      path: the path of the file, whose folder must exist.
      owner: the name of the model's class.
      config: the arguments of the class, as values that JSON can hold.
      arrays: a dict from names to arrays of any numeric dtype.
    """
    manifest = {
        "format": FORMAT,
        "seqjax": _version(),
        "class": owner,
        "config": config,
        "dtypes": {name: str(array.dtype) for name, array in arrays.items()},
    }
    with replacing(path) as partial, zipfile.ZipFile(partial, "x") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _storable(array), allow_pickle=False)


def read(path: Path) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Read a file that `write` wrote. Return the name of the class, its arguments and the arrays.

    Args:
      path: the path of the file.

    Raises:
      ValueError: the file was not written by `write`, is damaged, or has a newer format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest: dict[str, Any] = json.loads(archive.read(MANIFEST))
            version = checks.require_integer("format", manifest["format"])
            if version == FORMAT:
                dtypes = manifest["dtypes"].items()
                arrays = {name: _array(archive, name, dtype) for name, dtype in dtypes}
                return str(manifest["class"]), dict(manifest["config"]), arrays
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged files raise errors of many classes
        raise ValueError(
            f"folder: expected a complete file of seqjax.training.save_model, got "
            f"{os.fspath(path)!r}: {type(error).__name__}: {error}"
        ) from error
    raise ValueError(
        f"folder: expected a model of format {FORMAT}, got format {version} in "
        f"{os.fspath(path)!r}; seqjax {manifest.get('seqjax')} wrote it, and this is seqjax "
        f"{_version()}: install a newer one"
    )


def _array(archive: zipfile.ZipFile, name: str, dtype: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        stored: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return stored.view(jnp.dtype(dtype))


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array whose dtype NumPy can store.

    An array of a dtype that NumPy lacks becomes an array of unsigned integers with the same bits.
    """
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _version() -> str:
    from seqjax import __version__  # imported here, because the package imports this file

    return __version__
