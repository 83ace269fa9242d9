"""Checkpoints of a training run, which are written atomically and verified when they are read."""

import hashlib
import json
import os
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


_ANOTHER = "was the checkpoint written for another model, optimiser or monitor?"


class Checkpoint(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
      arrays: a pytree of arrays.
      record: a dict of values that JSON can represent.
    """

    arrays: PyTree
    record: dict[str, Any]


class Checkpoints:
    """A folder of checkpoints, written by orbax.

    A checkpoint is written to a temporary folder, which is renamed at the end. If the process is
    killed while it writes a checkpoint, the earlier checkpoints remain. A checkpoint stores a
    SHA-256 digest of its contents. A checkpoint is damaged if the digest does not match or if a
    file is missing or cannot be decoded. A damaged checkpoint is renamed, a warning is issued, and
    the previous checkpoint is read. If the system refuses to read a file, or if another program
    wrote the checkpoint, an error is raised and nothing is renamed. Arrays are gathered on the host
    before they are stored, so a run with another number of devices can read the checkpoint.

    Args:
      folder: the folder of the checkpoints. The folder is created if it does not exist.
      every: the number of steps between checkpoints within an epoch. In addition,
        `seqjax.training.fit` writes a checkpoint after each epoch.
      keep: the number of latest checkpoints to keep.
      read_only: if True, the folder is not changed, and a damaged checkpoint is an error.

    Raises:
      ImportError: orbax is not installed.
      TypeError, ValueError: every or keep is not a positive integer; folder is a file; or folder
        does not exist and `read_only` is True.

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
                'seqjax.training.Checkpoints needs orbax: pip install "seqjax[train]"'
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
        """Return this object, without writing or reading a checkpoint."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the threads of orbax."""
        self._manager.close()

    def __len__(self) -> int:
        self._manager.reload()
        return len(self._manager.all_steps())

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is due after this number of steps, according to `every`.

        Args:
          step: the number of steps done.
        """
        return self.every is not None and step % self.every == 0

    def save(self, step: int, arrays: PyTree, record: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove all but the latest `keep` checkpoints.

        Args:
          step: the number of the checkpoint, greater than the numbers of all earlier checkpoints.
          arrays: a pytree of arrays on any devices. The pytree may contain random keys.
          record: a dict of values that JSON can represent.

        Raises:
          TypeError: step is not an integer, a leaf is not an array, or JSON cannot represent
            record.
          ValueError: step is not greater than the step of the latest checkpoint; all arrays are
            empty; or the checkpoints are `read_only`.
        """
        if self.read_only:
            raise ValueError(
                f"save: expected checkpoints that are not read_only, got {self.folder}"
            )
        step = checks.require_integer("step", step, least=0)
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"step: expected more than {latest}, the step of the latest checkpoint, got {step}"
            )
        flat = _flat(arrays)
        if not flat:
            raise ValueError("arrays: expected at least one array that is not empty, got none")
        text = json.dumps(record)
        named = {"record": text, "digest": _digest(flat, text)}
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(arrays=args.PyTreeSave(flat), record=args.JsonSave(named)),
            force=True,
        )

    def restore(self, like: PyTree, *, partial: bool = False) -> Checkpoint | None:
        """Read the latest checkpoint that is not damaged.

        Args:
          like: a pytree of arrays with the expected structure, shapes and dtypes. The values of
            these arrays are not used.
          partial: if True, the checkpoint may contain more arrays than `like`, such as the
            optimiser's state in addition to the parameters.

        Returns:
          The checkpoint, with its arrays on the host; None if the folder has no checkpoints.

        Raises:
          OSError: the system refuses to read a file of the checkpoint.
          ValueError: all checkpoints are damaged; only checkpoints that an earlier call has renamed
            are left; `read_only` is True and the latest checkpoint is damaged; another program
            wrote the checkpoint; or the checkpoint does not fit `like` (then the message names an
            array that differs).
        """
        self._manager.reload()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                flat, text = self._read(step)
            except Exception as error:  # damaged files raise errors of many classes
                self._require_damage(step, error)
                if self.read_only:
                    raise ValueError(
                        "checkpoints: expected the latest checkpoint to be undamaged, got "
                        f"{self.folder}/{step}, which is damaged ({_why(error)})"
                    ) from None
                self._set_aside(step, error)
                continue
            leaves = jax.tree_util.tree_leaves_with_path(like)
            more = sorted(set(flat) - {_name(path) for path, _ in leaves})
            if more and not partial:
                raise ValueError(
                    f"checkpoints: expected no {more[0]}, got one in {self.folder}; {_ANOTHER}"
                )
            return Checkpoint(_unflat(flat, like, self.folder), json.loads(text))
        aside = sorted(path.name for path in self.folder.glob("damaged-[0-9]*"))
        if aside:
            raise ValueError(
                f"checkpoints: expected an undamaged checkpoint in {self.folder}, got only damaged "
                f"ones: {', '.join(aside)}; remove these folders to start anew"
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

    def _require_damage(self, step: int, error: Exception) -> None:
        """Raise if a checkpoint that could not be read is not damaged."""
        place = self.folder / str(step)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            refused: OSError | None = error
        else:  # orbax reports a file that it cannot open by errors of other classes as well
            refused = _refused(place)
        if refused is not None:
            refused.add_note(f"checkpoints: {place} could not be read; nothing was renamed.")
            raise refused
        if _is_foreign(place):
            raise ValueError(
                f"checkpoints: expected a checkpoint of seqjax.training.Checkpoints, got {place}, "
                "which another program wrote; use another folder"
            )

    def _set_aside(self, step: int, error: Exception) -> None:
        place = self.folder / str(step)
        aside, again = place.with_name(f"damaged-{step}"), 1
        while aside.exists():
            again += 1
            aside = place.with_name(f"damaged-{step}-{again}")
        try:
            place.rename(aside)
        except FileNotFoundError:  # another process of the run has renamed it
            if jax.process_count() == 1:
                raise
        self._manager.reload()
        warnings.warn(
            f"checkpoints: expected an undamaged checkpoint, got {place}, which is damaged "
            f"({_why(error)}); it was renamed to {aside.name}, and the previous one is read",
            stacklevel=4,
        )


def _refused(place: Path) -> OSError | None:
    """Return the error of the first file of a folder that the system refuses to read."""
    refused: list[OSError] = []
    for folder, _, names in os.walk(place, onerror=refused.append):
        for name in names:
            try:
                Path(folder, name).open("rb").close()
            except OSError as error:
                refused.append(error)
    # Another process of the run may have renamed the folder meanwhile.
    there = [error for error in refused if not isinstance(error, FileNotFoundError)]
    return there[0] if there else None


def _is_foreign(place: Path) -> bool:
    """Return whether another program wrote a checkpoint: it has none of the items of `save`."""
    try:
        items = json.loads((place / "_CHECKPOINT_METADATA").read_text())["item_handlers"]
        return not (isinstance(items, dict) and {"arrays", "record"} <= set(items))
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        folders = {path.name for path in place.glob("*") if path.is_dir()}
        return bool(folders) and not {"arrays", "record"} & folders


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _flat(tree: PyTree) -> dict[str, np.ndarray]:
    """Return a dict from the paths of a tree's arrays to the arrays on the host.

    Random keys are converted to arrays of integers.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat: dict[str, np.ndarray] = {}
    for path, leaf in leaves:
        name = _name(path)
        if name in flat:
            raise ValueError(f"arrays: expected names without slashes, got the path {name!r} twice")
        if not hasattr(leaf, "dtype"):
            raise TypeError(f"arrays: expected arrays, got {checks.brief(leaf)} for {name}")
        flat[name] = sharding.to_host(jax.random.key_data(leaf) if checks.is_key(leaf) else leaf)
    return {name: array for name, array in flat.items() if array.size}


def _unflat(flat: Mapping[str, np.ndarray], like: PyTree, folder: Path) -> PyTree:
    """Build a tree with the structure of `like`. `flat` is a dict from paths to arrays."""

    def one(path: Any, leaf: Any) -> Any:
        name = _name(path)
        expected = jax.eval_shape(jax.random.key_data, leaf) if checks.is_key(leaf) else leaf
        if expected.size == 0:  # empty arrays are not stored, since orbax cannot store them
            return np.zeros(expected.shape, expected.dtype)
        found = flat.get(name)
        if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
            what = "no such array" if found is None else f"{found.dtype}{list(found.shape)}"
            raise ValueError(
                f"checkpoints: expected {expected.dtype}{list(expected.shape)} for {name}, got "
                f"{what} in {folder}; {_ANOTHER}"
            )
        if checks.is_key(leaf):
            return jax.random.wrap_key_data(jnp.asarray(found), impl=jax.random.key_impl(leaf))
        return found

    return jax.tree_util.tree_map_with_path(one, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _digest(flat: Mapping[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 digest of a text and of the names, shapes, dtypes and bytes of arrays."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(flat):
        array = flat[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
