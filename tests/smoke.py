"""Check an installed seqjax. The Python it was installed for runs this, outside the repository.

make dist     builds both distributions, installs the wheel in a new environment and runs this
make wheel    the same for a wheel with the native engine: `--native` checks the engine, too
"""

import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

IMPORT = """
import time
import jax, flax, flax.nnx
begin = time.process_time()
import seqjax
print(time.process_time() - begin)
"""
"""CPU seconds of the import, beyond jax and flax: other work on the machine does not count."""


def _import_seconds(_: int) -> float:
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True)
    return float(run.stdout)


def _hide_compilers(cache: str) -> None:
    """Let no compiler and no library that was compiled earlier be found."""
    os.environ.update(PATH="", CXX="", XDG_CACHE_HOME=cache)
    os.environ.pop("SEQJAX_NATIVE", None)


def _check_native(place: Path) -> None:
    """Raise unless the wheel's native engine computes the values of the kernel `fused`."""
    import jax
    import jax.numpy as jnp

    import seqjax

    libraries = list(place.glob("_native/*.so"))
    assert len(libraries) == 1, f"expected one compiled library in the package, got {libraries}"
    xs = jax.random.normal(jax.random.key(0), (5, 9, 3))
    for cell in (seqjax.cells.LSTM(3, 20), seqjax.cells.GRU(3, 20), seqjax.cells.Elman(3, 20)):
        plan = seqjax.explain(cell, xs, platform="cpu")
        assert plan.kernel.name == "native", f"the planner takes {plan.kernel.name}"
        params = cell.init(jax.random.key(1))

        def loss(params, implementation, cell=cell):  # type: ignore[no-untyped-def]
            lengths = jnp.array([9, 4, 1, 9, 6])
            ran = seqjax.unroll(cell, params, xs, lengths=lengths, implementation=implementation)
            return jnp.sin(ran.outputs).sum(), ran.outputs

        run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
        got, want = (jax.tree.leaves(run(params, name)) for name in ("native", "fused"))
        error = max(float(jnp.abs(a - b).max()) for a, b in zip(got, want, strict=True))
        assert error < 1e-4, f"{type(cell).__name__}: native differs from fused by {error}"
    assert not list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*.so")), "a library was compiled"
    print(f"the native engine of {libraries[0].name} computes the values of fused")


def main() -> None:
    """Raise if something is missing; else print what was found."""
    native = "--native" in sys.argv[1:]
    cache = tempfile.TemporaryDirectory()
    if native:
        _hide_compilers(cache.name)
    seconds = statistics.median(map(_import_seconds, range(3)))
    assert seconds < 1, f"import seqjax takes {seconds:.2f} s beyond jax and flax"

    import jax
    import jax.numpy as jnp
    from flax import nnx

    import seqjax

    place = Path(seqjax.__file__).parent
    assert "site-packages" in place.parts, f"not the installed package: {place}"
    assert (place / "py.typed").is_file(), "py.typed is missing"
    assert importlib.metadata.version("seqjax") == seqjax.__version__
    missing = [name for name in seqjax.__all__ if not hasattr(seqjax, name)]
    assert not missing, f"not exported: {missing}"
    heavy = {"keras", "matplotlib", "orbax", "tensorflow", "tokenizers", "torch", "tyro"}
    assert not heavy & set(sys.modules), f"imported: {heavy & set(sys.modules)}"

    layer = seqjax.nn.LSTM(3, 4, bidirectional=True, rngs=nnx.Rngs(0))
    xs = jnp.ones([2, 5, 3]).at[1, 2:].set(jnp.nan)

    def loss(layer: seqjax.nn.LSTM) -> jax.Array:
        return jnp.square(layer(xs, lengths=jnp.array([5, 2])).outputs).sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(layer)
    leaves = jax.tree.leaves((value, gradient))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in leaves)
    if native:
        _check_native(place)
    print(f"seqjax {seqjax.__version__} is whole; imported in {seconds:.2f} s beyond jax and flax")


if __name__ == "__main__":
    main()
