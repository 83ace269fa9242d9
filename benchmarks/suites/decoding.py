"""Suite `decoding`: sentences decoded in one call, greedily and by beam search, with the encoder.

The weights are random, so sentences seldom end before the maximum length, and the time is that of
the maximum number of steps. Contestants are compared by the tokens that they decode greedily. Beam
searches stop at different times and are not compared.
"""

import gc
from collections.abc import Callable

import numpy as np

from benchmarks import timing
from benchmarks.peers import Peer, Writer
from benchmarks.peers.ours import Seqjax
from benchmarks.results import Row
from benchmarks.settings import Settings
from benchmarks.suites.common import failure
from benchmarks.translation import Translation, translation

__all__ = ["WIDTHS", "run"]

WIDTHS = {"greedy": 1, "beam 5": 5}
SIZES = {"batch": 64, "steps": 20, "embed": 128, "hidden": 256, "vocabulary": 4000}
AGREEMENT = 0.9
"""The share of tokens that must equal those of the reference. It is below 1, because rounding can
decide between two almost equally probable tokens, and this choice changes all later tokens."""


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure greedy decoding and beam search; return the rows."""
    rows = []
    task = translation("translation", **SIZES)
    for name, width in WIDTHS.items():
        say(name)
        rows += _group(task, name, width, settings)
        gc.collect()
    return rows


def _enter(
    peer: Peer, task: Translation, width: int, expected: np.ndarray
) -> tuple[Writer, float | str] | str:
    """Return a contestant's decoder and the share of its tokens that differ from `expected`.

    If tokens cannot be compared, return the reason in place of the share. If the contestant cannot
    decode or is wrong, return only the reason.
    """
    try:
        writer = peer.writer(task, width)
        if isinstance(writer, str):
            return writer
        writer.write()
        if width > 1:
            return writer, "beam searches stop by rules of their own"
        same = float((writer.tokens() == expected).mean())
        if same < AGREEMENT:
            return f"writes other tokens than the reference: {same:.0%} are the same"
        return writer, 1.0 - same
    except Exception as error:
        return failure(error)


def _group(task: Translation, name: str, width: int, settings: Settings) -> list[Row]:
    reference = Seqjax().writer(task, width)
    assert isinstance(reference, Writer)
    reference.write()
    expected = reference.tokens()
    found = {key: _enter(peer, task, width, expected) for key, peer in settings.peers.items()}
    calls = {key: each[0].write for key, each in found.items() if not isinstance(each, str)}
    seconds = timing.interleaved(calls, repeats=settings.repeats, budget=settings.budget)
    rows = []
    for key, each in found.items():
        samples = tuple(1e3 * s for s in seconds.get(key, ()))
        row = Row(
            suite="decoding",
            cell=task.cell,
            variant=task.name,
            shape=task.shape,
            what=name,
            contestant=key,
            samples_ms=samples,
            agreement=None if isinstance(each, str) else each[1],
            setting=None if isinstance(each, str) else each[0].setting,
            reason=each if isinstance(each, str) else None,
        )
        if row.median_ms:
            row.extra["sentences_per_s"] = 1e3 * task.shape[0] / row.median_ms
        rows.append(row)
    return rows
