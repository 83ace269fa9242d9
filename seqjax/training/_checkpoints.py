"""Checkpoints of a training run: written whole or not at all, and checked when they are read."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import checks, sharding
from seqjax._files import FilePath, local_path
from seqjax.types import PyTree

__all__ = ["Checkpoint", "Checkpoints"]


_ANOTHER = "was it written by another model, optimiser or monitor?"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
      arrays: a pytree of arrays.
      record: values that JSON can hold.
    """

    arrays: PyTree
    record: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints, by orbax.

    A checkpoint is created by renaming a finished folder, so if a process is killed, the earlier
    checkpoints remain. A checkpoint stores a SHA-256 digest of its contents. If the digest does not
    match or the checkpoint cannot be read, it is renamed, a warning is issued, and the checkpoint
    before it is read. Arrays are stored as they are on the host, so any number of devices can read
    them.

    Args:
      folder: the folder of the checkpoints; created if it does not exist.
      every: `seqjax.training.fit` writes a checkpoint after each epoch, and every `every` steps.
      keep: the number of latest checkpoints to keep.
      read_only: if True, the folder is not changed, and a damaged checkpoint is an error.

    Raises:
      ImportError: orbax is missing.
      TypeError, ValueError: numbers that are not positive integers; a folder that is a file, or
        with `read_only` does not exist.

    Example:
      >>> import tempfile
      >>> folder = tempfile.TemporaryDirectory()
      >>> with Checkpoints(folder.name) as checkpoints:
      ...     checkpoints.save(7, {"w": np.arange(3.0)}, {"epoch": 1})
      ...     found = checkpoints.restore({"w": np.zeros(3)})
      >>> found.arrays["w"].tolist(), found.record
      ([0.0, 1.0, 2.0], {'epoch': 1})
    """

    def __init__(
        self,
        folder: FilePath,
        *,
        every: int | None = None,
        keep: int = 2,
        read_only: bool = False,
    ) -> None:
        self.folder, self.read_only = local_path("folder", folder).absolute(), read_only
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"folder: expected a folder, got the file {self.folder}")
        if read_only and not self.folder.exists():
            raise ValueError(f"folder: expected one that exists, got {self.folder}")
        self.every = None if every is None else checks.require_integer("every", every)
        try:
            import orbax.checkpoint as ocp  # takes a second to import
        except ImportError as error:
            raise ImportError(
                "seqjax.training.Checkpoints needs orbax: pip install orbax-checkpoint"
            ) from error
        keep = checks.require_integer("keep", keep)
        self._ocp = ocp
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None if read_only else keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        """Return the checkpoints; nothing is written or read yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends orbax's threads."""
        self._manager.close()

    def __len__(self) -> int:
        self._manager.reload()
        return len(self._manager.all_steps())

    def due(self, step: int) -> bool:
        """Return whether `every` asks for a checkpoint after this many steps.

        Args:
          step: how many steps are done.
        """
        return self.every is not None and step % self.every == 0

    def save(self, step: int, arrays: PyTree, record: Mapping[str, Any]) -> None:
        """Writes a checkpoint, and removes those that are older than the `keep` latest.

        Args:
          step: its number, greater than those before.
          arrays: a pytree of arrays, random keys among them, on any devices.
          record: what JSON can hold.

        Raises:
          TypeError, ValueError: a step that is not greater, leaves that are no arrays, none with
            anything in it, or checkpoints that are `read_only`.
        """
        if self.read_only:
            raise ValueError(
                f"save: expected checkpoints that are not read_only, got {self.folder}"
            )
        step = checks.require_integer("step", step, least=0)
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step: expected more than {latest}, the latest, got {step}")
        flat = _flat(arrays)
        if not flat:
            raise ValueError("arrays: expected at least one that is not empty")
        text = json.dumps(record)
        named = {"record": text, "digest": _digest(flat, text)}
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(arrays=args.PyTreeSave(flat), record=args.JsonSave(named)),
            force=True,
        )

    def restore(self, like: PyTree, *, partial: bool = False) -> Checkpoint | None:
        """Reads the latest checkpoint that is whole.

        Args:
          like: a pytree of arrays (their values do not matter) of the structure, shapes and
            dtypes that are expected.
          partial: whether the checkpoint may hold more, such as the optimiser's state beside
            parameters.

        Returns:
          The checkpoint, its arrays on the host; None in a folder without any.

        Raises:
          ValueError: there are checkpoints and all are damaged, with `read_only` the latest; or the
            one read does not fit `like`: the error names an array that differs.
        """
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                flat, text = self._read(step)
            except Exception as error:  # readers raise many classes for damaged files
                if self.read_only:
                    raise ValueError(
                        f"checkpoints: expected the latest to be whole, got {self.folder}/{step}, "
                        f"which is damaged ({_why(error)})"
                    ) from None
                self._set_aside(step, error)
                continue
            leaves = jax.tree_util.tree_leaves_with_path(like)
            more = sorted(set(flat) - {_name(path) for path, _ in leaves})
            if more and not partial:
                raise ValueError(
                    f"checkpoints: expected no {more[0]}, got one from {self.folder}; {_ANOTHER}"
                )
            return Checkpoint(_unflat(flat, like, self.folder), json.loads(text))
        if steps:
            raise ValueError(
                f"checkpoints: expected one that can be read in {self.folder}, all "
                f"{len(steps)} are damaged"
            )
        return None

    def _read(self, step: int) -> tuple[dict[str, np.ndarray], str]:
        args = self._ocp.args
        found = self._manager.restore(
            step, args=args.Composite(arrays=args.PyTreeRestore(), record=args.JsonRestore())
        )
        flat = {name: np.asarray(array) for name, array in found["arrays"].items()}
        text, digest = found["record"]["record"], found["record"]["digest"]
        if _digest(flat, text) != digest:
            raise ValueError("its contents do not match their digest")
        return flat, text

    def _set_aside(self, step: int, error: Exception) -> None:
        place = self.folder / str(step)
        aside, again = place.with_name(f"damaged-{step}"), 1
        while aside.exists():
            again += 1
            aside = place.with_name(f"damaged-{step}-{again}")
        place.rename(aside)
        self._manager.reload()
        warnings.warn(
            f"checkpoints: {place} is damaged ({_why(error)}); it is now "
            f"{aside.name}, and the one before is read",
            stacklevel=4,
        )


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _flat(tree: PyTree) -> dict[str, np.ndarray]:
    """Return the arrays of a tree by their paths, on the host; random keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat: dict[str, np.ndarray] = {}
    for path, leaf in leaves:
        name = _name(path)
        if name in flat:
            raise ValueError(f"arrays: expected names without slashes, got {name!r} twice")
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"arrays: expected arrays, got {checks.brief(leaf)} for {name}")
        flat[name] = sharding.to_host(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return {name: array for name, array in flat.items() if array.size}


def _unflat(flat: Mapping[str, np.ndarray], like: PyTree, folder: Path) -> PyTree:
    """Return a tree of the structure of `like` from arrays by their paths."""

    def one(path: Any, leaf: Any) -> Any:
        name = _name(path)
        expected = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        if expected.size == 0:  # orbax stores none
            return np.zeros(expected.shape, expected.dtype)
        found = flat.get(name)
        if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
            what = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ValueError(
                f"checkpoints: expected {expected.dtype}{list(expected.shape)} for {name}, got "
                f"{what} from {folder}; {_ANOTHER}"
            )
        if _is_key(leaf):
            return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))
        return found

    return jax.tree_util.tree_map_with_path(one, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _digest(flat: Mapping[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 of names, shapes, dtypes and bytes of arrays, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(flat):
        array = flat[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
