"""What every test runs under: a compilation cache, one hypothesis profile, a float64 fixture."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Most of the suite's time is XLA compiling small programs, the same ones in each run.
# JAX_COMPILATION_CACHE_DIR puts the cache elsewhere.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# The first call of a shape compiles, so a deadline would measure the compiler. Derandomized: a red
# test is red for the next person too.
hypothesis.settings.register_profile("seqjax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("seqjax")

# A second CPU device, for the tests that shard.
jax.config.update("jax_num_cpu_devices", 2)

os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Keeps doctest collection from importing helpers, such as generators that need PyTorch."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if helper and ROOT / "tests" in collection_path.parents else None


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Drops compiled programs after each file: thousands of them would fill the memory."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64() -> Iterator[None]:
    """Runs a test with 64-bit types enabled; they are off everywhere else, as users have it."""
    with jax.enable_x64(True):
        yield
