"""Cells that stand in no registry, one file each with its NumPy twin; `TABLE` has a line a cell."""

from typing import Any, NamedTuple

from tests.contract import bahdanau, gru_d, lru, slstm


class Entry(NamedTuple):
    """A cell, its twin `(cell, params, x, state) -> (state, y)`, parameters that are not drawn."""

    cell: Any
    twin: Any
    params: Any = None


TABLE: dict[str, Entry] = {
    "lru": Entry(lru.LRU(3, 4), lru.twin),
    "gru_d": Entry(gru_d.GRUD(3, 4), gru_d.twin),
    "slstm": Entry(slstm.SLSTM(3, 6), slstm.twin),
    "bahdanau": Entry(bahdanau.WRITER, bahdanau.twin, bahdanau.PARAMS),
    "bahdanau-feed": Entry(bahdanau.FEEDING, bahdanau.twin, bahdanau.FEEDING_PARAMS),
}
