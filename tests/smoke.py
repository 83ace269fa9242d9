"""Is an installed seqjax whole? Run by the Python it was installed for, outside the repository.

make dist    builds both distributions, installs the wheel in a new environment and runs this
"""

import importlib.metadata
import statistics
import subprocess
import sys
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


def main() -> None:
    """Raises where something is missing; else prints what was found."""
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
    print(f"seqjax {seqjax.__version__} is whole; imported in {seconds:.2f} s beyond jax and flax")


if __name__ == "__main__":
    main()
