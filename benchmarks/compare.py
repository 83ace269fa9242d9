"""The command `compare`, which compares each measurement of two results files."""

import dataclasses
from typing import Literal

from benchmarks.results import Key, Results, Row, key_of
from benchmarks.tables import Table, label, number

__all__ = ["Verdict", "compare", "pace", "regressed", "table"]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The comparison of one measurement.

    Attributes:
      key: the fields that identify the measurement.
      old: the row of the measurement in the first file, or None.
      new: the row of the measurement in the second file, or None.
      ratio: new time / old time, if both were timed.
      kind: "regression" or "improvement" if the time changed beyond the threshold; "missing" if the
        measurement was timed only in the first file, "added" if only in the second.
    """

    key: Key
    old: Row | None
    new: Row | None
    ratio: float | None
    kind: Literal["regression", "improvement", "equal", "missing", "added"]


def pace(old: Results, new: Results) -> float | None:
    """Return the new machine's GEMM rate divided by the old one's; None if both are one machine."""
    machines = [(each.header.get("cpu"), each.header.get("cores")) for each in (old, new)]
    rates = [each.header.get("gemm_gflops") for each in (old, new)]
    if machines[0] == machines[1] or not all(rates):
        return None
    return float(rates[1]) / float(rates[0])  # type: ignore[arg-type]


def compare(old: Results, new: Results, threshold: float = 0.1) -> list[Verdict]:
    """Compare the median times of two results files, and return a verdict for each measurement.

    The two files are from two runs, so changes of the machine also affect the ratios. Run both on
    an idle machine, and look at the ratios of contestants whose code did not change. If the
    machines are of different kinds, times are scaled to the same rate of matrix products. Random
    shapes that only one of the two runs drew are left out.

    Args:
      old: the first file.
      new: the second file.
      threshold: the relative change above which a difference counts.

    Raises:
      ValueError: the threshold is not positive.
    """
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold}")
    scale = pace(old, new) or 1.0
    drawn = [{tuple(shape) for shape in each.header.get("drawn_shapes", ())} for each in (old, new)]
    once = drawn[0] ^ drawn[1]
    before, after = (
        {key_of(row): row for row in each.rows if row.median_ms and tuple(row.shape) not in once}
        for each in (old, new)
    )
    verdicts = []
    for key in dict.fromkeys([*before, *after]):
        one, two = before.get(key), after.get(key)
        if one is None or two is None or not one.median_ms or not two.median_ms:
            verdicts.append(Verdict(key, one, two, None, "added" if one is None else "missing"))
            continue
        ratio = scale * two.median_ms / one.median_ms
        kind: Literal["regression", "improvement", "equal"] = "equal"
        if ratio > 1 + threshold:
            kind = "regression"
        elif ratio < 1 / (1 + threshold):
            kind = "improvement"
        verdicts.append(Verdict(key, one, two, ratio, kind))
    return verdicts


def regressed(verdicts: list[Verdict]) -> bool:
    """Return whether a measurement became slower beyond the threshold, or is missing."""
    return any(verdict.kind in ("regression", "missing") for verdict in verdicts)


def table(verdicts: list[Verdict], scale: float | None = None) -> Table:
    """Return a table of all verdicts, the largest slowdown first.

    Args:
      verdicts: the result of `compare`.
      scale: the result of `pace`.
    """
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
    title = "compare"
    if scale is not None:
        title += f": two kinds of machines; new/old is times {scale:.3g}, the ratio of GEMM rates"
    return Table(title, header, lines)
