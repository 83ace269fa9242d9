"""Lets mkdocstrings read the section `Example:` of docstrings as what it is: a doctest."""

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Griffe knows the section as `Examples:`, and takes any other word for the title of a note."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section of one object's docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
