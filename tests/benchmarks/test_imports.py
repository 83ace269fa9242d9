"""The modules of the benchmarks and of the examples import each other in one direction."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _modules(package: str) -> dict[str, Path]:
    """The files of a package by module name."""
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & modules.keys() or {str(node.module)}
    return names & modules.keys()


@pytest.mark.parametrize("package", ["benchmarks", "examples"])
def test_no_modules_import_each_other(package):
    modules = _modules(package)
    graph = {name: _imported(path, modules) - {name} for name, path in modules.items()}
    assert sum(map(len, graph.values())) > len(modules)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
