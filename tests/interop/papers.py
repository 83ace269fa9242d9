"""Random arrays as the authors of single papers arrange them, and layers to put them into."""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

KERNEL, BIAS = "slstm_cell._recurrent_kernel_", "slstm_cell._bias_"
GATES = ("fgate", "igate", "zgate", "ogate")
Arrays = dict[str, np.ndarray]


def random(**shapes: Any) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def lru_arrays() -> Arrays:
    vectors = {name: 4 for name in ("nu_log", "theta_log", "gamma_log")}
    return random(B_re=(4, 3), B_im=(4, 3), C_re=(3, 4), C_im=(3, 4), D=3, **vectors)


def rg_lru_arrays() -> Arrays:
    gates = {f"{gate}_gate.w": (2, 3, 3) for gate in ("input", "a")}
    return random(**gates, **{f"{gate}_gate.b": (2, 3) for gate in ("input", "a")}, a_param=6)


def s5_arrays(*outputs: str) -> Arrays:
    matrices = {name: (3, 4, 2) for name in outputs or ("C",)}
    vectors = {"Lambda_re": 4, "Lambda_im": 4, "log_step": (4, 1), "D": 3}
    return random(B=(4, 3, 2), **matrices, **vectors)


def sru_arrays(inputs: int = 3, units: int = 4, scale: float = 1.0) -> Arrays:
    width = (3 if inputs == units else 4) * units
    arrays = random(weight=(inputs, width), weight_c=2 * units, bias=2 * units)
    return {**arrays, "scale_x": np.array([scale], np.float32)}


def xlstm_arrays() -> Arrays:
    shapes: dict[str, Any] = {f"{gate}.weight": (2, 3, 3) for gate in GATES}
    return random(**shapes, **{KERNEL: (2, 12, 3), BIAS: 24, "group_norm.weight": 6})


def new(kind: Any, *sizes: int, **options: Any) -> Callable[[], Any]:
    """A function that makes a layer."""
    return lambda: kind(*sizes, rngs=nnx.Rngs(0), **options)
