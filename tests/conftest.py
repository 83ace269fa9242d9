"""What every test runs under: a compilation cache, one hypothesis profile, a float64 fixture."""

import fnmatch
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Most of the suite's time is XLA compiling small programs, each of which runs once or twice: it is
# asked to make code that is right rather than fast. `XLA_FLAGS= make test` compiles as users do, as
# `make slow` does. A flag that XLA does not know ends the process.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",  # the processes of the tests use all cores
]
if jax.__version_info__ < (0, 11):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
# What the imports made stays, and programs are forgotten after each file: searching for garbage
# among them was a tenth of the time.
gc.freeze()
gc.set_threshold(200_000, 50, 100)
# JAX_COMPILATION_CACHE_DIR puts the cache elsewhere.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# The first call of a shape compiles, so a deadline would measure the compiler. Derandomized: a red
# test is red for the next person too.
hypothesis.settings.register_profile("seqjax", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("seqjax")

# One device, as users have it. Tests that are marked `two_devices` run in a process that has two:
# tests/test_two_devices.py starts it.
DEVICES = int(os.environ.get("SEQJAX_TEST_DEVICES", "1"))
jax.config.update("jax_num_cpu_devices", DEVICES)
jax.devices()  # from here on nothing can change their number, such as a script's --devices

os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Keeps doctest collection from importing helpers, such as generators that need PyTorch."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if helper and ROOT / "tests" in collection_path.parents else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `@pytest.mark.quick(*patterns)` does not name: as slow, and as rest."""
    for item in items:
        quick, parameters = item.get_closest_marker("quick"), getattr(item, "callspec", None)
        if quick is None:
            continue
        name = "" if parameters is None else parameters.id
        if not any(fnmatch.fnmatch(name, pattern) for pattern in quick.args):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.rest)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves tests that need two devices to the process that has them."""
    if item.get_closest_marker("two_devices") and DEVICES < 2:
        pytest.skip("needs SEQJAX_TEST_DEVICES=2; tests/test_two_devices.py runs it")


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
