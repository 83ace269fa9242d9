"""memax (Morad): the LRU of `memax.equinox`, mapped over the batch.

The other cells of memax have other equations than those of seqjax. memax always computes with a
mark at the first step of each sequence.
"""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["lru"]


def lru(cell: Any) -> Any:
    """Return a function from the parameters of `seqjax.cells.LRU` and inputs to outputs.

    If memax is missing or the inputs and the state differ in size, return the reason as a string.
    """
    missing = [name for name in ("memax", "equinox") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed (pip install {' '.join(missing)})"
    if cell.input_shape != cell.output_shape:
        return "inputs and outputs have the same size in memax"
    import equinox as eqx
    from memax.equinox.semigroups.lru import LRU

    inputs, hidden = cell.input_size, cell.hidden_size
    made = LRU(hidden, inputs, jax.random.key(0))

    def apply(params: Any, xs: jax.Array) -> jax.Array:
        values = {
            "nu_log": params.nu_log, "theta_log": params.theta_log, "gamma_log": params.gamma_log,
            "B_re": params.b_re.T, "B_im": params.b_im.T, "C_re": params.c_re.T,
            "C_im": params.c_im.T, "D": params.d,
        }  # fmt: skip
        names = list(values)
        layer = eqx.tree_at(lambda m: [getattr(m, n) for n in names], made, list(values.values()))
        starts = jnp.zeros(xs.shape[1], bool)

        def sequence(x: jax.Array) -> jax.Array:
            outputs: jax.Array = layer(layer.initialize_carry(), (x, starts))[1]
            return outputs

        return jax.vmap(sequence)(xs)

    return apply
