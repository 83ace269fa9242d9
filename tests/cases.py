"""The table that every cross-cutting test runs over: all registered cells, and their options.

A cell joins by standing in `seqjax.CELLS`; an option worth testing on its own is one more line.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import seqjax
from seqjax import cells
from seqjax.checks import as_array
from seqjax.kernels import KERNELS, Spec, target
from tests import references

I, H, T = 3, 4, 6


class Case(NamedTuple):
    """A cell, the registry name under which its NumPy twin stands, and the kernel to run it."""

    name: str
    cell: Any
    kernel: str = "auto"

    def unroll(self, params: Any, xs: Any, **options: Any) -> seqjax.Unrolled:
        """`seqjax.unroll` of the cell by the kernel."""
        return seqjax.unroll(self.cell, params, xs, implementation=self.kernel, **options)

    def needs(self, dtype: Any, steps: int = T) -> None:
        """Skip a test of what the kernel refuses, by the reason that it gives."""
        import pytest

        spec = Spec((), steps, np.dtype(dtype), target.this_machine())
        kernel = KERNELS.get(self.kernel)
        if kernel is not None and (reason := kernel.refuses(self.cell, spec)):
            pytest.skip(reason)


CASES: dict[str, Case] = {
    name: Case(name, cls(input_size=I, hidden_size=H)) for name, cls in seqjax.CELLS.items()
} | {
    "elman-relu": Case("elman", cells.Elman(I, H, activation="relu")),
    "elman-identity": Case("elman", cells.Elman(I, H, activation="identity")),
    "elman-no-bias": Case("elman", cells.Elman(I, H, use_bias=False)),
    "elman_readout-wide": Case("elman_readout", cells.ElmanReadout(I, H, output_size=5)),
    "lstm-no-bias": Case("lstm", cells.LSTM(I, H, use_bias=False)),
    "projected_lstm-3": Case("projected_lstm", cells.ProjectedLSTM(I, H, proj_size=3)),
    "gru-no-bias": Case("gru", cells.GRU(I, H, use_bias=False)),
    "indrnn-tanh": Case("indrnn", cells.IndRNN(I, H, activation="tanh")),
    "slstm-heads": Case("slstm", cells.SLSTM(I, H, num_heads=2, head_norm=True)),
    "slstm-exponential": Case("slstm", cells.SLSTM(I, H, forget_gate="exponential")),
    "lru-same": Case("lru", cells.LRU(I, H, output_size=I)),
    "rg_lru-heads": Case("rg_lru", cells.RGLRU(I, H, num_heads=2, use_bias=False)),
    "rg_lru-same": Case("rg_lru", cells.RGLRU(I, I, num_heads=I)),
    "s5-bilinear": Case("s5", cells.S5(I, H, output_size=2, discretization="bilinear")),
    "s5-no-pairs": Case("s5", cells.S5(I, H, conj_pairs=False, num_blocks=2)),
    "gru_d-means": Case("gru_d", cells.GRUD(I, H, means=(0.5, -1.0, 2.0), use_bias=False)),
    "cfc-pure": Case("cfc", cells.CfC(I, H, mode="pure", backbone_units=5, activation="silu")),
    "cfc-no-gate": Case("cfc", cells.CfC(I, H, mode="no_gate", backbone_layers=0)),
    "mixed_cfc-deep": Case(
        "mixed_cfc", cells.MixedCfC(I, H, backbone_layers=3, backbone_units=5, use_bias=False)
    ),
    "decay-gru": Case("decay", cells.Decay(cells.GRU(I, H))),
    "decay-lstm": Case("decay", cells.Decay(cells.LSTM(I, H))),
    "sru-linear": Case("sru", cells.SRU(I, H, use_peephole=False)),
    "sru-linear-same": Case(
        "sru", cells.SRU(I, I, use_peephole=False, use_bias=False, rescale=False)
    ),
    "sru-same": Case("sru", cells.SRU(I, I, highway_bias=-1.0)),
    "conv_lstm_1d-valid": Case(
        "conv_lstm_1d",
        cells.ConvLSTM1D(I, 2, spatial_shape=7, kernel_size=2, stride=2, padding="VALID"),
    ),
    "conv_lstm_2d-stride": Case(
        "conv_lstm_2d", cells.ConvLSTM2D(I, 2, spatial_shape=(5, 4), kernel_size=(3, 2), stride=2)
    ),
}

PICKED = ("lstm", "elman_readout", "min_gru", "conv_lstm_1d")

REGISTERED = {name: CASES[name] for name in seqjax.CELLS}


def all_cases(function: Any) -> Any:
    """Parametrises a test over every case."""
    import pytest

    return pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())(function)


def registered(function: Any) -> Any:
    """Parametrises a test over every registered cell with its defaults."""
    import pytest

    return pytest.mark.parametrize("case", REGISTERED.values(), ids=REGISTERED.keys())(function)


def on_every_kernel(cases: dict[str, Case]) -> dict[str, Case]:
    """The cases, each once for every kernel that can run it here in all transformations."""
    spec = Spec((), T, np.dtype(np.float32), target.this_machine())
    return {
        f"{id}-{kernel.name}": case._replace(kernel=kernel.name)
        for id, case in cases.items()
        for kernel in KERNELS.values()
        if kernel.transforms and kernel.refuses(case.cell, spec) is None
    }


def kernels_of(case: Case) -> list[Case]:
    """The case on every kernel but `scan`."""
    found = on_every_kernel({"": case}).values()
    return [other for other in found if other.kernel != "scan"]


def conformant(function: Any) -> Any:
    """Parametrises a test over every registered cell with its defaults, on every kernel."""
    import pytest

    cases = on_every_kernel(REGISTERED)
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())(function)


def all_conformant(function: Any) -> Any:
    """Parametrises a test over every case on every kernel."""
    import pytest

    cases = on_every_kernel(CASES)
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())(function)


def picked(function: Any) -> Any:
    """Parametrises a test over a few cells of different structure, each on every kernel."""
    import pytest

    cases = on_every_kernel({name: CASES[name] for name in PICKED})
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())(function)


def draw_like(tree: Any, seed: int, scale: float = 1.0, dtype: Any = np.float32) -> Any:
    """A pytree of normal random arrays: nothing is zero, the biases least of all.

    The normaliser of an sLSTM is at least 1, as after any step: the cell divides by it.
    """
    rng = np.random.default_rng(seed)

    def one(leaf: Any) -> np.ndarray:
        drawn = scale * rng.normal(size=leaf.shape)
        if np.iscomplexobj(leaf):
            drawn = drawn + 1j * scale * rng.normal(size=leaf.shape)
        return drawn.astype(dtype_for(leaf, dtype))

    is_slstm = lambda node: isinstance(node, cells.SLSTMState) and node.n is not None  # noqa: E731
    return jax.tree.map(
        lambda node: node._replace(n=1 + abs(node.n)) if is_slstm(node) else node,
        jax.tree.map(one, tree),
        is_leaf=is_slstm,
    )


def dtype_for(leaf: Any, dtype: Any) -> Any:
    """The dtype, or for a complex leaf the complex dtype of that precision."""
    return jnp.promote_types(dtype, jnp.complex64) if np.iscomplexobj(leaf) else dtype


def hold_of(cell: Any, value: float) -> Any:
    """`value` for each array of the state that zoneout may hold, None for the others."""
    return jax.tree.map(
        lambda role: value if role.held else None,
        cell.state_roles(),
        is_leaf=lambda role: isinstance(role, cells.Role),
    )


@functools.cache
def params_of(cell: Any) -> Any:
    """Random parameters with non-zero biases, small enough for a stable recurrence."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(as_array, draw_like(shapes, 1, 0.4))


def randomised(make: Any, seed: int = 0, scale: float = 0.5) -> Any:
    """The module that `make` builds, with normal random parameters, the biases among them.

    The module is traced, so that no program draws parameters that are replaced.
    """
    parts: Any = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    graph, params, rest = parts
    drawn = jax.tree.map(as_array, draw_like(params, seed, scale))
    return nnx.merge(graph, drawn, rest)


def state_of(cell: Any, batch: tuple[int, ...], seed: int = 2) -> Any:
    """A random state with batch axes."""
    shapes = jax.eval_shape(lambda: cell.initial_state(batch))
    return jax.tree.map(as_array, draw_like(shapes, seed, 0.5))


def inputs_of(cell: Any, batch: tuple[int, ...], steps: int = T, seed: int = 3) -> np.ndarray:
    """Random inputs, batch-major. For cells of irregular times, some of the values are missing."""
    rng = np.random.default_rng(seed)
    xs = rng.normal(size=(*batch, steps, *cell.input_shape)).astype(np.float32)
    if cell.reads_elapsed:
        xs[..., -1] = abs(xs[..., -1])
    if isinstance(cell, cells.GRUD):
        xs[..., :-1][rng.random((*batch, steps, cell.input_size)) < 0.3] = np.nan
    if isinstance(cell, cells.Decay):
        xs[..., :-1][rng.random((*batch, steps)) < 0.3] = np.nan
    return xs


def mask_of(batch: tuple[int, ...], steps: int = T, seed: int = 4) -> np.ndarray:
    """A mask of any pattern: holes, padding on both sides, and one sequence without real steps."""
    mask = np.random.default_rng(seed).random((*batch, steps)) < 0.6
    mask.reshape(-1, steps)[-1] = False
    return mask


def with_garbage(xs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The inputs with NaN and inf at masked steps."""
    over = mask.reshape(*mask.shape, *[1] * (xs.ndim - mask.ndim))
    garbage = np.where(np.arange(xs.shape[-1]) % 2, np.nan, np.inf).astype(xs.dtype)
    return np.where(over, xs, garbage)


def reference(case: Case, params: Any, xs: Any, **options: Any) -> Any:
    """What the NumPy twin says."""
    batch = xs.shape[: xs.ndim - 1 - len(case.cell.input_shape)]
    for name in ("initial_state", "reset_state"):
        if options.get(name) is None:
            options[name] = case.cell.initial_state(batch)
    return references.unroll(case.name, case.cell, params, np.asarray(xs), **options)


def assert_close(actual: Any, expected: Any, atol: float = 2e-6, rtol: float = 2e-6) -> None:
    """Compares two pytrees leaf by leaf in float64, or in complex128."""
    got, want = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert np.shape(a) == np.shape(b)
        wide = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
        np.testing.assert_allclose(
            np.asarray(a).astype(wide), np.asarray(b).astype(wide), atol=atol, rtol=rtol
        )


def assert_same(got: Any, want: Any) -> None:
    """Equal to float32's rounding of sums: relative to the largest number, not to each."""
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    assert_close(got, want, atol=1e-6 * max(scale, 1.0))
