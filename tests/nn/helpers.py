"""What the tests of the Flax layers share: layers of random parameters, and their NumPy twins."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqjax import nn
from tests import references
from tests.cases import draw_like

I, H, T, B = 3, 4, 5, 3
LENGTHS = np.array([T, 2, 0])
REAL = np.arange(T) < LENGTHS[:, None]


def drawn(build: Callable[[], Any], seed: int = 1) -> Any:
    """A layer with all parameters and statistics random: no bias, no learned state is zero.

    Its own initialisers are only traced: compiling them takes longer than most tests.
    """
    layer = nnx.eval_shape(build)
    params = nnx.state(layer, nnx.Param)
    new = draw_like(params, seed, 0.4)
    nnx.update(layer, jax.tree.map(lambda a, old: jnp.asarray(a, old.dtype), new, params))
    statistics = nnx.state(layer, nnx.BatchStat)
    new = draw_like(statistics, seed + 1)
    nnx.update(layer, jax.tree.map(lambda a: jnp.abs(a) + 0.5, new))
    return layer


def make(cell: Any, **options: Any) -> Any:
    """A `Recurrent` of random parameters."""
    return drawn(lambda: nn.Recurrent(cell, rngs=nnx.Rngs(0), **options))


jit: Any = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""`jax.jit` that compiles in half the time: what these programs compute takes microseconds."""


@functools.partial(jit, static_argnames=("return_sequences", "deterministic"))
def run(layer: Any, xs: Any, **options: Any) -> Any:
    """The call of any layer, compiled; modules are pytrees, so the layer is an argument."""
    return layer(xs, **options)


@jit
def _run_and_update(layer: Any, xs: Any, options: Any) -> Any:
    found = layer(xs, **options)
    return found, nnx.state(layer, nnx.BatchStat)


def train(layer: Any, xs: Any, **options: Any) -> Any:
    """A call that updates the layer's statistics, compiled."""
    found, statistics = _run_and_update(layer, xs, options)
    nnx.update(layer, statistics)
    return found


def assert_finite(tree: Any) -> None:
    """No NaN, no infinity. In NumPy, which compiles nothing."""
    for leaf in jax.tree.leaves(tree):
        assert np.isfinite(np.asarray(leaf)).all()


def random(*shape: int, seed: int = 3, scale: float = 1.0) -> np.ndarray:
    """Normal random numbers in float32."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def states_of(layer: nn.Recurrent, batch: tuple[int, ...], seed: int = 2) -> Any:
    """A random state of the whole stack."""
    drawn = draw_like(layer.initial_state(batch), seed, 0.5)
    return jax.tree.map(jnp.asarray, drawn)


def resets_of(batch: tuple[int, ...], steps: int, seed: int = 5) -> np.ndarray:
    """Random places where sequences start anew."""
    return np.random.default_rng(seed).random((*batch, steps)) < 0.3


def weights_of(layer: nn.Recurrent) -> list[list[Any]]:
    """For each layer its directions' parameters in float64."""
    return [
        [float64(each.params) for each in (one.forward, one.backward) if each is not None]
        for one in layer.layers
    ]


def oracle(
    name: str,
    layer: nn.Recurrent,
    xs: Any,
    *,
    weights: Any = None,
    only: slice = slice(None),
    **options: Any,
) -> Any:
    """What the NumPy twin of the stack, or of some of its layers, says.

    Sequences start from, and resets return to, the layer's own initial state.
    """
    own = float64(layer.initial_state()[only])
    weights = weights_of(layer)[only] if weights is None else weights
    return references.layers(
        name,
        [
            [(one.forward.cell, params) for params in pair]
            for one, pair in zip(list(layer.layers)[only], weights, strict=True)
        ],
        np.asarray(xs, np.float64),
        bidirectional=layer.bidirectional,
        residual=layer.layers[0].options.residual,
        **{"merge_mode": layer.merge_mode, "initial_state": own, "reset_state": own} | options,
    )


def float64(tree: Any) -> Any:
    """Arrays in NumPy float64, or in complex128."""
    return jax.tree.map(references.wide, tree)


def flat_params(layer: Any) -> dict[str, np.ndarray]:
    """The parameters by readable path, `layers.0.forward.w_ih`."""
    flat = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in flat}


def flat_shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters by readable path, also of a layer that is only traced."""
    flat = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}


def time_first(tree: Any, batch_ndim: int = 1) -> Any:
    """Arrays with their time axis moved to the front."""
    return jax.tree.map(lambda a: np.moveaxis(np.asarray(a), batch_ndim, 0), tree)
