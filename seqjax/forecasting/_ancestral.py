"""The recurrence of an autoregressive forecaster: reading values, and drawing the next ones."""

import functools
import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.forecasting._history import History
from seqjax.forecasting._scaling import Scale
from seqjax.types import Array, PRNGKey, PyTree, Unrolled

if TYPE_CHECKING:
    from seqjax.forecasting._autoregressive import AutoregressiveForecaster

__all__ = ["params_of", "read", "sampled"]


def read(
    model: "AutoregressiveForecaster",
    history: History,
    known: Array,
    series: Array,
    deterministic: bool | None,
    rngs: Any,
) -> Unrolled:
    """Run the recurrent layers over the steps of the values, of which each reads earlier ones."""
    batch_shape, steps = history.observed.shape[:-1], history.observed.shape[-1]
    series = jnp.broadcast_to(series[..., None, :], (*batch_shape, steps, series.shape[-1]))
    size = jnp.broadcast_to(jnp.log(history.scale.scale)[..., None], (*batch_shape, steps))
    lagged = [_delayed(history.scaled, lag) for lag in model.lags]
    seen = [_delayed(history.observed, lag) for lag in model.lags]
    xs = _inputs(jnp.stack(lagged, -1), jnp.stack(seen, -1), known, series, size)
    ran: Unrolled = model.layer(xs, mask=history.real, deterministic=deterministic, rngs=rngs)
    return ran


def params_of(model: "AutoregressiveForecaster", outputs: Array, scale: Scale) -> PyTree:
    """Return the parameters of the distributions of steps, `[..., T]` or `[...]`."""
    loc, size = scale
    if outputs.ndim - 1 > size.ndim:
        loc, size = loc[..., None], size[..., None]
    shift: Any = loc if model.distribution.shifts else 0.0
    return model.distribution.params(model.head(outputs), loc=shift, scale=size)


@functools.partial(jax.jit, static_argnames="num_samples")
def sampled(
    model: "AutoregressiveForecaster",
    history: History,
    past: Array,
    future: Array,
    series: Array,
    key: PRNGKey,
    *,
    num_samples: int,
) -> Array:
    """Draw samples `[..., H, S]` of the steps after the values, as `sample` describes."""
    batch_shape, lags = history.observed.shape[:-1], np.array(model.lags)
    count = math.prod(batch_shape)
    state = read(model, history, past, series, True, None).state
    buffer, seen = history.before(1 + np.arange(lags.max()))  # the latest value comes first

    def rows(leaf: Array) -> Array:
        """Return one row for each sample, from an array `[..., …]` with one for each series."""
        flat = leaf.reshape(count, *leaf.shape[len(batch_shape) :])
        return jnp.repeat(flat, num_samples, axis=0)

    state, buffer, seen, scale, series = jax.tree.map(
        rows, (state, buffer, seen, history.scale, series)
    )
    keys = _row_keys(key, count, num_samples)
    sample = jax.vmap(model.distribution.sample)

    def step(carry: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, Array]:
        state, buffer, seen = carry
        t, known_t = inputs
        lagged = buffer[:, lags - 1], seen[:, lags - 1]
        x_t = _inputs(*lagged, rows(known_t), series, jnp.log(scale.scale))
        output, state = model.layer.step(x_t, state)
        drawn = sample(
            params_of(model, output, scale), jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        )
        latest = (drawn - scale.loc) / scale.scale
        buffer = jnp.concatenate([latest[:, None].astype(buffer.dtype), buffer[:, :-1]], axis=1)
        seen = jnp.concatenate([jnp.ones_like(seen[:, :1]), seen[:, :-1]], axis=1)
        return (state, buffer, seen), drawn

    by_step = jnp.moveaxis(future, -2, 0)
    numbers = jnp.arange(len(by_step), dtype=jnp.int32)
    _, drawn = jax.lax.scan(step, (state, buffer, seen), (numbers, by_step))
    drawn = drawn.reshape(len(by_step), *batch_shape, num_samples)
    return jnp.moveaxis(drawn, 0, -2)


def _delayed(values: Array, lag: int) -> Array:
    """Return values `[..., T]` delayed by `lag` steps, with 0 or False at the first steps."""
    steps = values.shape[-1]
    kept = values[..., : max(steps - lag, 0)]
    return jnp.pad(kept, [(0, 0)] * (values.ndim - 1) + [(steps - kept.shape[-1], 0)])


def _inputs(lagged: Array, seen: Array, known: Array, series: Array, log_scale: Array) -> Array:
    parts = [lagged, seen.astype(lagged.dtype), known, series, log_scale[..., None]]
    return jnp.concatenate(parts, axis=-1)


def _row_keys(key: PRNGKey, series: int, num_samples: int) -> PRNGKey:
    """Return a key for each row, which does not depend on the number of rows."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(fold, in_axes=(0, None))(
        fold(key, jnp.arange(series, dtype=jnp.int32)), jnp.arange(num_samples, dtype=jnp.int32)
    )
    return keys.reshape(series * num_samples, *keys.shape[2:])
