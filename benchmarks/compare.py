"""`compare`: two results files, measurement by measurement."""

import dataclasses
from typing import Literal

from benchmarks.results import Key, Results, Row, key_of
from benchmarks.tables import Table, label, number

__all__ = ["Verdict", "compare", "regressed", "table"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one measurement.

    Attributes:
      key: of the measurement.
      old: its row in the first file, or None.
      new: its row in the second file, or None.
      ratio: new time / old time, if both were timed.
      kind: "regression" and "improvement" are beyond the threshold; "missing" was timed in the
        first file alone (whether it failed or was not run), "added" in the second alone.
    """

    key: Key
    old: Row | None
    new: Row | None
    ratio: float | None
    kind: Literal["regression", "improvement", "equal", "missing", "added"]


def compare(old: Results, new: Results, threshold: float = 0.1) -> list[Verdict]:
    """Compares medians.

    The two files are of two runs, so differences of the machine show as well; run both on a quiet
    machine, and look at the contestants that did not change.

    Args:
      old: the first file.
      new: the second file.
      threshold: the relative change that is more than noise.

    Raises:
      ValueError: a threshold that is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold}")
    before = {key_of(row): row for row in old.rows if row.median_ms}
    after = {key_of(row): row for row in new.rows if row.median_ms}
    verdicts = []
    for key in dict.fromkeys([*before, *after]):
        one, two = before.get(key), after.get(key)
        if one is None or two is None or not one.median_ms or not two.median_ms:
            verdicts.append(Verdict(key, one, two, None, "added" if one is None else "missing"))
            continue
        ratio = two.median_ms / one.median_ms
        kind: Literal["regression", "improvement", "equal"] = "equal"
        if ratio > 1 + threshold:
            kind = "regression"
        elif ratio < 1 / (1 + threshold):
            kind = "improvement"
        verdicts.append(Verdict(key, one, two, ratio, kind))
    return verdicts


def regressed(verdicts: list[Verdict]) -> bool:
    """Whether any measurement became slower beyond the threshold, or is gone."""
    return any(verdict.kind in ("regression", "missing") for verdict in verdicts)


def table(verdicts: list[Verdict]) -> Table:
    """All verdicts, the largest slowdown first."""
    ordered = sorted(verdicts, key=lambda v: -(v.ratio or 0))
    lines = []
    for verdict in ordered:
        row = verdict.new or verdict.old
        assert row is not None
        lines.append(
            [
                f"{row.suite} {label(row)}",
                row.what,
                row.contestant,
                number(verdict.old.median_ms if verdict.old else None),
                number(verdict.new.median_ms if verdict.new else None),
                number(verdict.ratio),
                "" if verdict.kind == "equal" else verdict.kind,
            ]
        )
    header = ["case", "what", "contestant", "old ms", "new ms", "new/old", ""]
    return Table("compare", header, lines)
