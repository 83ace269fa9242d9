"""An extension of mkdocstrings that reads the docstrings and signatures of this package."""

import re
from typing import Any

import griffe

JOINED = re.compile(r"(?m)^( +)(\w+(?:, \w+)+): (.*)$")
ENTRY = r"(?m)^  \*{{0,2}}({}): (.*(?:\n {{4}}.*)*)\n"
"""A parameter in a section of a docstring: its name and its text."""
OPTIONS = re.compile(ENTRY.format("options"))


class Docstrings(griffe.Extension):
    """A reader of three forms that griffe's Google style does not know.

    Doctests are under `Example:`; griffe knows only `Examples:`. One line may describe several
    parameters, `kernel_init, bias_init: see …`. Layers such as `LSTM` take the options of their
    cell and those of `Recurrent`.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if obj.docstring:
            text = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
            obj.docstring.value = JOINED.sub(_apart, text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Show the options of layers and blocks, which are decorated with `shows_options`."""
        if pkg.path != "seqjax":
            return
        for module, base in (
            ("nn._layers", "nn._recurrent.Recurrent"),
            ("nn._blocks", "nn._residual.ResidualBlock"),
        ):
            for layer in pkg[module].classes.values():
                if layer.is_alias:  # a class that the module imports
                    continue
                cell, fixed = _decorated(layer)
                _show_options(layer, pkg["cells"][cell].final_target, pkg[base], fixed)


def _decorated(layer: griffe.Class) -> tuple[str, tuple[str, ...]]:
    """Return the name of the cell in `@shows_options(cells.CELL, ...)`, and the fixed options."""
    for decorator in layer.decorators:
        found = re.fullmatch(r"shows_options\(cells\.(\w+)(.*)\)", str(decorator.value))
        if found is not None:
            return found[1], tuple(re.findall(r"\w+", found[2]))
    raise ValueError(f"{layer.path}: expected the decorator shows_options")


def _apart(match: re.Match[str]) -> str:
    indent, names, text = match.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))


def _show_options(
    layer: griffe.Class, cell: griffe.Class, base: griffe.Class, fixed: tuple[str, ...]
) -> None:
    """Put the options of a cell and of a base into a layer's signature and its docstring."""
    init = layer["__init__"]
    own = {p.name: p for p in init.parameters if p.name != "options"}
    sizes = 2  # the first two parameters of each cell are its sizes
    of_cell = [p for p in cell.parameters if p.name != "self"][sizes:]
    of_base = [p for p in base.parameters if p.kind is griffe.ParameterKind.keyword_only]
    options = {
        p.name: griffe.Parameter(
            p.name,
            annotation=p.annotation,
            kind=griffe.ParameterKind.keyword_only,
            default=p.default,
        )
        for p in (*of_cell, *of_base)
        if p.name not in own and p.name not in fixed
    }
    init.parameters = griffe.Parameters(*own.values(), *options.values())
    texts = _texts(base)
    for source in reversed((cell, *cell.mro())):
        texts |= {name: text for name, text in _texts(source).items() if text[:4] != "see "}
    described = "".join(f"  {name}: {texts[name]}\n" for name in options if name in texts)
    if layer.docstring:
        layer.docstring.value = OPTIONS.sub(lambda _: described, layer.docstring.value, count=1)


def _texts(obj: griffe.Class) -> dict[str, str]:
    """Return the texts of the parameters and attributes that a docstring describes."""
    text = obj.docstring.value + "\n" if obj.docstring else ""
    return dict(re.findall(ENTRY.format(r"\w+"), text))
