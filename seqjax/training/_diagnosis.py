"""Diagnosis of steps with numbers that are not finite: the batch is checked and described."""

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

# The largest number of fields that a message describes. More would make it hard to read.
_FIELDS = 12

_PACKAGE = Path(checks.__file__).parent


def explain(function: Callable[[], PyTree], batch: PyTree, *, deeply: bool) -> str:
    """Run a function outside of `jax.jit`, so that its checks can raise, and describe the batch.

    Under `jax.jit`, values are not known, and a label out of range gives NaN. Outside of `jax.jit`,
    the same function raises an error that names the argument and the value.

    Args:
      function: a function that computes the loss or the metrics of the batch.
      batch: the batch.
      deeply: if True and the result is not finite, the function runs again without any compilation.
        The second run is slower, but includes the checks inside the user's own `jax.jit`.

    Returns:
      A description of the fields of the batch.

    Raises:
      TypeError, ValueError: a check failed. The error message also describes the batch.
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
    """Describe a batch: the range of its integer fields, and whether its float fields are finite.

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
            # By default JAX converts float64 to float32. Values beyond float32 become infinite.
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
    """Make each `nnx.Embed` of a module check its ids.

    `nnx.Embed` itself returns NaN for an id that is too large. This function changes the module, so
    the module may be used only for the next call.
    """
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Embed):
            object.__setattr__(node, "__class__", _checked(type(node), ".".join(map(str, path))))


def _checked(kind: type, path: str) -> type:
    """Return a subclass of the embedding class `kind` that checks ids before it uses them."""

    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        size = self.num_embeddings
        # In JAX, ids from -V to -1 count from the end, so they cannot cause a NaN.
        ids = jnp.where((inputs < 0) & (inputs >= -size), 0, inputs)
        checks.require_range(f"ids of the embedding {path or kind.__name__!r}", ids, size - 1)
        return kind.__call__(self, inputs, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def _is_own(error: BaseException) -> bool:
    """Return whether an error was raised in this package, not in a library or the user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(_PACKAGE)


def _is_finite(leaf: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return True
    return bool(np.isfinite(np.asarray(leaf, np.float64)).all())
