"""Covariates of forecasting models: known features of steps, and static features of series."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from seqjax import _elements, checks
from seqjax.types import Array, Shape

__all__ = ["Covariates"]

WIDEST = 50
"""Maximum number of features into which a category is embedded."""


class Covariates(nnx.Module):
    """The names of a model's covariates, the embeddings of categories, and their checks.

    Args:
      known: names of the features of each step that are known in advance.
      static: names of the features of each series.
      categories: for each name of a category of a series, its number of values.
      param_dtype: the dtype of the embeddings.
      rngs: the source of randomness for the embeddings.
    """

    def __init__(
        self,
        known: Sequence[str],
        static: Sequence[str],
        categories: Mapping[str, int],
        *,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.known, self.static = _names("known", known), _names("static", static)
        if not isinstance(categories, Mapping):
            raise TypeError(
                'categories: expected a dict of names and numbers of values such as {"shop": 10}, '
                f"got {checks.brief(categories)}"
            )
        self.categories = _names("categories", list(categories))
        self.sizes = tuple(
            checks.require_integer(f"categories[{name!r}]", size)
            for name, size in categories.items()
        )
        self.embeddings = nnx.List(
            [
                nnx.Embed(size, min(WIDEST, (size + 1) // 2), param_dtype=param_dtype, rngs=rngs)
                for size in self.sizes
            ]
        )

    @property
    def size(self) -> int:
        """The number of features of each step, with those of its series."""
        embedded = sum(embedding.features for embedding in self.embeddings)
        return len(self.known) + len(self.static) + embedded

    def of_values(self, known: ArrayLike | None, step_shape: Shape, real: Array | None) -> Array:
        """Return the known features of the steps of values, `[..., T, K]`, or raise.

        Args:
          known: float `[..., T, K]`, or `[T, K]` if all series have the same features.
          step_shape: the shape of the values, `(..., T)`.
          real: bool `[..., T]`, True at real steps, or None if all steps are real.
        """
        return self._of_steps("known", known, step_shape, f"{step_shape[-1]} steps of values", real)

    def of_future(self, future_known: ArrayLike | None, step_shape: Shape) -> Array:
        """Return the known features of the steps of a forecast, `[..., H, K]`, or raise."""
        where = f"{step_shape[-1]} steps of the forecast"
        return self._of_steps("future_known", future_known, step_shape, where, None)

    def _of_steps(
        self, argument: str, known: ArrayLike | None, step_shape: Shape, where: str,
        real: Array | None,
    ) -> Array:  # fmt: skip
        shape = (*step_shape, len(self.known))
        names = ", ".join(map(repr, self.known))
        if not self.known:
            if known is None:
                return jnp.zeros(shape)
            raise ValueError(
                f"{argument}: expected None, since the model has no known covariates, got "
                f"{checks.brief(known)}; name them when you make the model, known=[...]"
            )
        if known is None:
            raise ValueError(
                f"{argument}: expected the known covariates {names} of the {where}, got None"
            )
        found = _floats(argument, known)
        if found.shape not in (shape, shape[-2:]):
            raise ValueError(
                f"{argument}: expected shape {shape}, the covariates {names} of the {where}, got "
                f"{found.shape}"
            )
        found = jnp.broadcast_to(found, shape)
        if real is not None:
            found = _elements.hidden_by(found, real)
        _require_numbers(argument, found, self.known)
        return found

    def of_series(
        self, static: ArrayLike | None, categories: ArrayLike | None, batch_shape: Shape
    ) -> Array:
        """Return the features of each series, `[..., S]`: static ones and embedded categories."""
        parts = [jnp.zeros((*batch_shape, 0))]
        if _given("static", static, self.static):
            found = _floats("static", static)
            _require_shape("static", found.shape, batch_shape, self.static)
            _require_numbers("static", found, self.static)
            parts.append(found)
        if _given("categories", categories, self.categories):
            codes = checks.require_ids("categories", categories, "integers")
            _require_shape("categories", codes.shape, batch_shape, self.categories)
            for place, (name, size) in enumerate(zip(self.categories, self.sizes, strict=True)):
                code = codes[..., place]
                checks.require_range(f"categories, {name!r}", code, size - 1)
                valid = ((code >= 0) & (code < size))[..., None]
                embedded = self.embeddings[place](jnp.clip(code, 0, size - 1))
                parts.append(jnp.where(valid, embedded, jnp.nan))
        return jnp.concatenate(parts, axis=-1)


def _names(argument: str, names: Any) -> tuple[str, ...]:
    if (
        isinstance(names, (str, bytes))
        or not isinstance(names, Iterable)
        or not all(isinstance(name, str) for name in names)
    ):
        raise TypeError(f"{argument}: expected a list of names, got {checks.brief(names)}")
    found = tuple(names)
    if len(set(found)) < len(found):
        raise ValueError(f"{argument}: expected no name twice, got {', '.join(found)}")
    return found


def _given(argument: str, features: ArrayLike | None, names: tuple[str, ...]) -> bool:
    """Return whether the model has features of this kind, or raise if they are not as expected."""
    if names and features is None:
        raise ValueError(
            f"{argument}: expected the features {', '.join(map(repr, names))} of each series, "
            "got None"
        )
    if not names and features is not None:
        raise ValueError(
            f"{argument}: expected None, since the model has no such features, got "
            f"{checks.brief(features)}; name them when you make the model"
        )
    return bool(names)


def _floats(argument: str, features: Any) -> Array:
    found = _elements.reals(argument, features)
    if isinstance(found, np.ndarray) and found.dtype.kind in "fiu":
        checks.require_fit(argument, found.astype(np.float64), np.float32, "numbers")
    if found.dtype == bool:
        found = found.astype(np.float32)
    found = jnp.asarray(found)
    return found if jnp.issubdtype(found.dtype, jnp.floating) else found.astype(jnp.float32)


def _require_shape(argument: str, shape: Shape, batch_shape: Shape, names: tuple[str, ...]) -> None:
    expected = (*batch_shape, len(names))
    if shape != expected:
        raise ValueError(
            f"{argument}: expected shape {expected}, the features {', '.join(map(repr, names))} of "
            f"each series, got {shape}"
        )


def _require_numbers(argument: str, features: Array, names: tuple[str, ...]) -> None:
    """Raise an error that names the features with NaN or inf; under tracing, do nothing."""
    if checks.is_traced(features):
        return
    finite: np.ndarray = np.isfinite(np.asarray(features, np.float32))
    wrong: Any = ~finite.reshape(-1, len(names)).all(axis=0)
    if wrong.any():
        bad = ", ".join(repr(name) for name, is_bad in zip(names, wrong, strict=True) if is_bad)
        raise ValueError(
            f"{argument}: expected finite numbers at real steps, got NaN or inf in {bad}"
        )
