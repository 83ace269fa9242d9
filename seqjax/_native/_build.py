"""Compilation of the native engine with any C++17 compiler and the headers of jaxlib."""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import jax

__all__ = ["LIBRARY", "VARIANTS", "build", "cached", "variants_here"]

SOURCES = Path(__file__).parent / "src"
LIBRARY = "libseqjax_native.so"
LIMIT = 180
"""The time limit of the compiler in seconds."""
COMMON = (
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast",
    "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-DNDEBUG",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "baseline": (),
}
"""The instruction sets for which the engine is compiled, widest first, with their flags."""
X86_64 = ("x86_64", "AMD64")
"""Names of the only architecture for which several variants are compiled.

For other architectures, only "baseline" is compiled.
"""


def variants_here() -> tuple[str, ...]:
    """Return, as a tuple, the name of the variant with the widest vectors that the processor has.

    Example:
      >>> set(variants_here()) <= set(VARIANTS)
      True
    """
    flags = _processor_flags()
    if flags >= {"avx512f", "avx512dq", "avx512vl", "avx512bw", "avx512cd", "fma"}:
        return ("avx512",)
    return ("avx2",) if flags >= {"avx2", "fma"} else ("baseline",)


def _processor_flags() -> set[str]:
    """Return the names of the processor's instruction sets on Linux, else an empty set."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def cached() -> Path:
    """Return the path of the compiled library for this machine.

    If the cache does not contain the library, compile it first.

    The cache is `$XDG_CACHE_HOME/seqjax` or `~/.cache/seqjax`. The name of the library's folder is
    a hash of the sources, the version of jaxlib, the compiler and the instruction sets.

    Raises:
      RuntimeError: there is no compiler, the compiler fails, or the cache cannot be written.
    """
    variants = variants_here()
    target = _cache() / _key(variants) / LIBRARY
    if not target.exists():
        build(target, variants)
    return target


def build(target: Path | str, variants: Sequence[str] | None = None) -> None:
    """Compile the library.

    Args:
      target: the file to write. The compiled library is moved to `target` when it is complete.
      variants: the names of the variants to compile, from `VARIANTS`. The default is all variants
        of this architecture. When the library is loaded, it chooses the variant with the widest
        vectors that the processor has.

    Raises:
      RuntimeError: there is no compiler, the compiler fails, or the file cannot be written.
    """
    target = Path(target)
    if variants is None:
        variants = tuple(VARIANTS) if platform.machine() in X86_64 else ("baseline",)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            compiled = _compiled(Path(folder), variants)
            os.replace(compiled, target)
    except OSError as error:
        raise RuntimeError(f"the compiled library cannot be saved: {error}") from error


def _compiled(folder: Path, variants: Sequence[str]) -> Path:
    """Compile the library in a folder, all sources in parallel, and return its path."""
    compiler = _compiler()
    has = [f"-DSEQJAX_HAS_{name.upper()}" for name in variants]
    headers = ["-I", jax.ffi.include_dir()]
    jobs = {"ffi": ["ffi.cc", *has, *headers], "team": ["team.cc"]}
    for name in variants:
        jobs[name] = ["engine.cc", f"-DSEQJAX_VARIANT={name}", *VARIANTS[name]]
    objects = [str(folder / f"{name}.o") for name in jobs]
    _run([
        [compiler, *COMMON, "-c", str(SOURCES / source), *options, "-o", output]
        for (source, *options), output in zip(jobs.values(), objects, strict=True)
    ])  # fmt: skip
    library = folder / LIBRARY
    _run([[compiler, "-shared", *objects, "-o", str(library)]])
    return library


def _run(commands: Sequence[Sequence[str]]) -> None:
    """Run commands in parallel. If a command fails, raise an error with its message."""
    running = [
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    try:
        results = [
            (process.communicate(timeout=LIMIT)[1], process.returncode) for process in running
        ]
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"the C++ compiler took more than {LIMIT} seconds") from error
    finally:
        for process in running:
            process.kill()  # has an effect only after a timeout
    for said, code in results:
        if code:
            lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
            raise RuntimeError(f"the C++ compiler failed: {(lines or ['no message'])[0]}")


def _compiler() -> str:
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise RuntimeError("no C++ compiler was found (CXX, c++, g++ or clang++)")
    return found


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "seqjax" / "native"


def _key(variants: Sequence[str]) -> str:
    parts = (sources_hash(), metadata.version("jaxlib"), _compiler(), platform.machine(), *variants)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@functools.cache
def sources_hash() -> str:
    """Return a hash of the sources and of the compiler flags."""
    digest = hashlib.sha256(repr((COMMON, VARIANTS)).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
