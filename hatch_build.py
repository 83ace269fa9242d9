"""Build hook of hatchling: put the compiled native engine into the wheel.

SEQJAX_BUILD_NATIVE=1 turns it on. Without it the wheel is pure, and no compiler is needed.
"""

import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "seqjax/_native"
MACOS = "11.0"
"""The oldest macOS for which jaxlib is built."""


class NativeEngine(BuildHookInterface[Any]):
    """Compiles the engine for all instruction sets of this architecture, and tags the wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return the oldest JAX that the package allows: newer ones load what it compiles."""
        if not _wanted():
            return []
        allowed = self.metadata.core.dependencies
        return [name.replace(">=", "==") for name in allowed if name.startswith("jax>=")]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library and add it to the wheel, beside the file that loads it."""
        if not _wanted() or version == "editable":
            return
        if sys.platform == "darwin":
            os.environ.setdefault("MACOSX_DEPLOYMENT_TARGET", MACOS)
        build = _module(Path(self.root, NATIVE, "_build.py"))
        self.folder = tempfile.TemporaryDirectory()
        library = Path(self.folder.name, build.LIBRARY)
        build.build(library)
        build_data["force_include"][str(library)] = f"{NATIVE}/{build.LIBRARY}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiled library, which is in the wheel now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def _wanted() -> bool:
    return os.environ.get("SEQJAX_BUILD_NATIVE", "") not in ("", "0")


def _module(path: Path) -> ModuleType:
    """Load one file of the package, whose other dependencies are not installed here."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _platform() -> str:
    """Return the tag of this platform. On Linux, auditwheel replaces it by a manylinux tag."""
    if sys.platform == "darwin":
        target = os.environ["MACOSX_DEPLOYMENT_TARGET"]
        name = f"macosx-{target if '.' in target else target + '.0'}-{platform.machine()}"
    else:
        name = sysconfig.get_platform()
    return name.replace("-", "_").replace(".", "_")
