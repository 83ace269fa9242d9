"""The cause of a step that was not finite: checks of its batch, and the values in the batch."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import checks
from seqjax.types import PyTree

__all__ = ["describe", "explain", "watch_embeddings"]

# A message stays readable; batches have few fields.
_FIELDS = 12

_PACKAGE = Path(checks.__file__).parent


def explain(function: Callable[[], PyTree], batch: PyTree, *, deeply: bool) -> str:
    """Run a function on concrete values, so that checks can raise; else describe the batch.

    Under `jax.jit` values are not known and a label out of range gives NaN. Outside of it, the same
    function raises an error that names the argument and the value.

    Args:
      function: computes the loss or the metrics of the batch.
      batch: the batch of the loss or the metrics.
      deeply: whether to run a function that is not finite again without any compilation, which
        takes longer and reaches checks inside the user's own `jax.jit`.

    Returns:
      The fields of the batch with what they hold.

    Raises:
      TypeError, ValueError: the error of a check, with the fields of the batch.
    """
    held = describe(batch)
    try:
        finite = all(_is_finite(leaf) for leaf in jax.tree.leaves(function()))
        if deeply and not finite:
            with jax.disable_jit():
                function()
    except (TypeError, ValueError) as error:
        if _is_own(error):
            raise type(error)(f"{error}; the batch has {held}") from error
    except Exception:
        pass
    return held


def describe(batch: PyTree) -> str:
    """Return the range of each field of integers, and whether fields of floats are finite.

    Example:
      >>> describe({"label": np.array([1, 3]), "x": np.array([0.0, np.nan])})
      "batch['label'] in [1, 3], batch['x'] with NaN"
    """
    leaves, _ = jax.tree.flatten_with_path(batch)
    texts = []
    for path, leaf in leaves:
        if not getattr(leaf, "is_fully_addressable", True) or not np.size(leaf):
            continue
        dtype, name = jnp.result_type(leaf), f"batch{jax.tree_util.keystr(path)}"
        if jnp.issubdtype(dtype, jnp.integer):
            values = np.asarray(leaf)
            texts.append(f"{name} in [{values.min()}, {values.max()}]")
        elif jnp.issubdtype(dtype, jnp.floating):
            values = np.asarray(leaf, np.float64)
            infinite = np.isinf(values)
            # JAX makes float32 of float64 by default.
            beyond = np.abs(values) > float(jnp.finfo(dtype).max)
            kinds = [
                ("NaN", np.isnan(values).any()),
                ("inf", infinite.any()),
                (f"values beyond {dtype}", (beyond & ~infinite).any()),
            ]
            held = " and ".join(kind for kind, there in kinds if there)
            texts.append(f"{name} with {held}" if held else f"{name} finite")
    more = ["…"] if len(texts) > _FIELDS else []
    return ", ".join(texts[:_FIELDS] + more) or "no fields of numbers"


def watch_embeddings(module: nnx.Module) -> None:
    """Make each `nnx.Embed` of a module check its ids; the module must be made for one call.

    `nnx.Embed` itself gives NaN for an id that is too large.
    """
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Embed):
            object.__setattr__(node, "__class__", _checked(type(node), ".".join(map(str, path))))


def _checked(kind: type, path: str) -> type:
    """Return a class that checks ids before it looks them up."""

    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        size = self.num_embeddings
        # JAX counts ids from -V to -1 from the end: they are not the cause of a NaN.
        ids = jnp.where((inputs < 0) & (inputs >= -size), 0, inputs)
        checks.require_range(f"ids of the embedding {path or kind.__name__!r}", ids, size - 1)
        return kind.__call__(self, inputs, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _is_own(error: BaseException) -> bool:
    """Return whether this package raised an error, and neither a library below it nor the user."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _is_finite(leaf: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return True
    return bool(np.isfinite(np.asarray(leaf, np.float64)).all())
