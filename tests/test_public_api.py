"""The public surface: documented, with examples, listed, and cheap to import."""

import functools
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import types
import typing
from pathlib import Path

import pytest

import seqjax

ROOT = Path(__file__).resolve().parent.parent
METHODS = (types.FunctionType, classmethod, staticmethod, property, functools.cached_property)


def _public_modules() -> list[types.ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(seqjax.__path__, "seqjax.")]
    public = [name for name in names if not any(part.startswith("_") for part in name.split("."))]
    return [seqjax, *map(importlib.import_module, public)]


def _is_alias(obj: object) -> bool:
    """`Array | None`, `Callable[..., T]`, a type variable: named types, which hold no docstring."""
    return typing.get_origin(obj) is not None or isinstance(
        obj, typing.TypeVar | typing.ParamSpec | types.UnionType
    )


def _is_ours(obj: object) -> bool:
    return (getattr(obj, "__module__", None) or "").partition(".")[0] == "seqjax"


def _documentable() -> dict[str, typing.Any]:
    """Functions and classes of this package by public name; constants and aliases fall out."""
    return {
        f"{module.__name__}.{name}": getattr(module, name)
        for module in MODULES
        for name in getattr(module, "__all__", ())
        if callable(obj := getattr(module, name, None)) and _is_ours(obj) and not _is_alias(obj)
    }


def _docstring(obj: typing.Any) -> str:
    """The docstring somebody wrote: not inherited by a class, not made up by a decorator."""
    doc = obj.__doc__ or ""
    made_up = isinstance(obj, type) and doc.startswith(f"{obj.__name__}(")
    return "" if made_up else doc.strip()


def methods_of(cls: type) -> dict[str, typing.Any]:
    """Public methods and properties, and `__call__`, of a class and of its bases in seqjax."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        if _is_ours(base)
        for name, member in vars(base).items()
        if isinstance(member, METHODS) and (name == "__call__" or not name.startswith("_"))
    }


def _is_named_tuple(obj: object) -> bool:
    return isinstance(obj, type) and issubclass(obj, tuple) and hasattr(obj, "_fields")


MODULES = _public_modules()
NAMES = _documentable()

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
each_name = pytest.mark.parametrize("name", NAMES)


@each_module
def test_module_lists_its_names(module):
    listed = getattr(module, "__all__", None)
    assert listed is not None, f"{module.__name__} has no __all__ and no leading underscore"
    assert len(set(listed)) == len(listed), "a name is listed twice"
    missing = [name for name in listed if not hasattr(module, name)]
    assert not missing, f"listed in __all__ but absent: {missing}"


@each_module
def test_a_module_is_not_hidden_by_what_it_holds(module):
    """`seqjax.x` and what `import seqjax.x` gives are the same."""
    assert sys.modules[module.__name__] is module
    parent, _, leaf = module.__name__.rpartition(".")
    assert not parent or getattr(sys.modules[parent], leaf) is module


@each_module
def test_a_public_module_is_listed_in_its_package(module):
    parent, _, leaf = module.__name__.rpartition(".")
    assert not parent or leaf in sys.modules[parent].__all__


@each_module
def test_module_has_a_docstring(module):
    assert _docstring(module), f"no docstring in {module.__name__}"


@each_name
def test_name_has_a_docstring(name):
    assert _docstring(NAMES[name]), f"no docstring on {name}"


@each_name
def test_methods_have_docstrings(name):
    cls = NAMES[name]
    if not isinstance(cls, type):
        return
    # getdoc follows the bases: a method that only fills in a documented contract may stay silent.
    bare = [method for method in methods_of(cls) if not inspect.getdoc(getattr(cls, method))]
    assert not bare, f"no docstring on {bare}"


@pytest.mark.parametrize("name", [name for name, obj in NAMES.items() if not _is_named_tuple(obj)])
def test_name_has_an_example(name):
    """A named tuple is shown by the function that returns it; all else shows its own use."""
    obj = NAMES[name]
    own = vars(obj).values() if isinstance(obj, type) else ()
    methods = [member for member in own if isinstance(member, METHODS)]
    assert any(">>> " in (shown.__doc__ or "") for shown in (obj, *methods)), "no doctest"


def test_import_is_lean():
    """`import seqjax` pulls in no optional dependency and no other framework."""
    heavy = ["keras", "matplotlib", "tensorflow", "torch", "tyro"]
    code = f"import sys, seqjax; print(*[name for name in {heavy} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.split() == []


def test_version_is_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "seqjax/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", seqjax.__version__)
    assignment = re.compile(r"^__version__\b.*=", re.MULTILINE)
    files = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "seqjax").rglob("*.py")
        if assignment.search(path.read_text(encoding="utf-8"))
    ]
    assert files == ["seqjax/__init__.py"]
