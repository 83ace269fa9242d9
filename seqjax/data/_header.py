"""The names of a table's columns."""

from typing import Any

from seqjax import checks
from seqjax.data import _csv

__all__ = ["header_of"]


def header_of(text: _csv.Text, options: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return whether the first row is a header, and the names of all columns."""
    names = options.get("names")
    header = options.get("header", "infer")
    if isinstance(header, bool) or header not in ("infer", 0, None):
        raise ValueError(f"header: expected 0 or None, got {header!r}; skiprows leaves lines out")
    if header is None and names is None:
        raise ValueError("names: expected the names of all columns, since header is None")
    line, fields = next(text.records(), (0, [""]))
    if names is not None:
        names = [names] if isinstance(names, str) else list(names)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"names: expected strings, got {checks.brief(names)}")
        _require_different(names, "names: expected different column names")
        if header != 0 and line and len(fields) != len(names):
            raise ValueError(
                f"names: expected {len(fields)} names, one for each field of {text.path}, line "
                f"{line}, got {len(names)}"
            )
        return header == 0, names
    for name in filter(text.is_quoted_after_space, fields):
        raise ValueError(
            f"path: expected column names without spaces before quotes in {text.path}, line "
            f"{line}, got {name!r}; pass skipinitialspace=True"
        )
    names = [name.replace(_csv.UNIT, text.given).strip() for name in fields]
    if names == [""]:
        found = f"an empty line {line}" if line else "no rows"
        raise ValueError(f"path: expected a row of column names in {text.path}, got {found}")
    names[0] = names[0] or "index"
    _require_different(names, f"path: expected different column names in {text.path}, line {line}")
    # A frame without names has 0, 1, 2, … as its header.
    counted = names == [str(place) for place in range(len(names))]
    if header == "infer" and not counted and all(map(_is_number, names)):
        raise ValueError(
            f"path: expected a row of column names in {text.path}, line {line}, got numbers; pass "
            "header=None and names=[...] if there is no such row, else header=0"
        )
    return True, names


def _require_different(names: list[str], message: str) -> None:
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"{message}, got {f'{name!r} twice' if name else 'an empty one'}")


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
