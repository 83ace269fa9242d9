"""Lets mkdocstrings read the docstrings of this package as they are meant."""

import re
from typing import Any

import griffe

JOINED = re.compile(r"(?m)^( +)(\w+(?:, \w+)+): (.*)$")


class Docstrings(griffe.Extension):
    """Two things that griffe's reading of Google's style does not know.

    A doctest stands in `Example:`, which griffe takes for a note's title: it knows `Examples:`.
    And one line may describe several parameters, `kernel_init, bias_init: see …`.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites one object's docstring."""
        if obj.docstring:
            text = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
            obj.docstring.value = JOINED.sub(_apart, text)


def _apart(match: re.Match[str]) -> str:
    indent, names, text = match.groups()
    return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))
