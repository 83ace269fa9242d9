"""Cells that stand in no registry, one file each with its NumPy twin; `TABLE` lists them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.contract import bahdanau, gru_d, lru, slstm


class Entry(NamedTuple):
    """A cell, its twin `(cell, params, x, state) -> (state, y)`, parameters that are not drawn."""

    cell: Any
    twin: Any
    params: Any = None


def _bahdanau(feeding: bool) -> Entry:
    cell, params = bahdanau.writer(feeding)
    return Entry(cell, bahdanau.twin, params)


# Functions, so that no model is built while tests are collected.
TABLE: dict[str, Callable[[], Entry]] = {
    "lru": lambda: Entry(lru.LRU(3, 4), lru.twin),
    "gru_d": lambda: Entry(gru_d.GRUD(3, 4), gru_d.twin),
    "slstm": lambda: Entry(slstm.SLSTM(3, 6), slstm.twin),
    "bahdanau": lambda: _bahdanau(feeding=False),
    "bahdanau-feed": lambda: _bahdanau(feeding=True),
}
