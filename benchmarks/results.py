"""Results and their file format: one header for the machine, and one row for each measurement."""

import dataclasses
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["Key", "Results", "Row", "key_of", "load"]

Key: TypeAlias = tuple[str, str, str, tuple[int, ...], str, str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement of one contestant, or the reason why the measurement is missing.

    Attributes:
      suite: the name of the suite.
      cell: the recurrent cell.
      variant: the suite's name for the variant of the workload.
      shape: B, T, I, H.
      what: the part that was timed: "forward", "gradient", "step", "lower", "compile".
      contestant: the implementation that ran.
      precision: "float32", "tf32", "bf16" or "f16" if the suite measures several precisions;
        otherwise "".
      samples_ms: the times of all timed calls, in ms.
      flops: the number of floating-point operations of one call, from which the rate is computed.
      agreement: the largest difference from the reference, relative to the largest value of each
        array; or the reason why the contestant cannot be compared with the reference.
      setting: the setting that the contestant chose for this row, if it had a choice.
      temp_bytes: the temporary memory of the compiled program.
      reason: the reason why nothing was timed; None if there are samples.
      extra: further results by name.
    """

    suite: str
    cell: str
    variant: str
    shape: tuple[int, ...]
    what: str
    contestant: str
    precision: str = ""
    samples_ms: tuple[float, ...] = ()
    flops: int | None = None
    agreement: float | str | None = None
    setting: str | None = None
    temp_bytes: int | None = None
    reason: str | None = None
    extra: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def median_ms(self) -> float | None:
        """Return the median of the samples."""
        return statistics.median(self.samples_ms) if self.samples_ms else None

    @property
    def min_ms(self) -> float | None:
        """Return the smallest sample."""
        return min(self.samples_ms, default=None)

    @property
    def gflops(self) -> float | None:
        """Return the rate at the median, in 10⁹ operations a second."""
        if self.flops is None or not self.median_ms:
            return None
        return self.flops / self.median_ms / 1e6


def key_of(row: Row) -> Key:
    """Return the key of a measurement. Rows with equal keys in two files can be compared."""
    return (
        row.suite, row.cell, row.variant, row.shape, row.what, row.precision, row.contestant,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Results:
    """A results file: the header of `machine.describe`, and rows."""

    header: dict[str, Any]
    rows: list[Row]

    def percent_of_gemm(self, row: Row) -> float | None:
        """Return a row's rate relative to that of a large matrix product in the same run."""
        gemm = self.header.get("gemm_gflops")
        return 100 * row.gflops / gemm if row.gflops and gemm else None

    def save(self, path: Path) -> None:
        """Write the results as JSON, with values derived from the samples."""
        rows = [
            dataclasses.asdict(row)
            | {
                "median_ms": row.median_ms,
                "min_ms": row.min_ms,
                "gflops": row.gflops,
                "percent_of_gemm": self.percent_of_gemm(row),
            }
            for row in self.rows
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written to another file and moved, so that a run that is killed leaves the last complete
        # file.
        draft = path.with_name(path.name + ".part")
        draft.write_text(json.dumps({"header": self.header, "rows": rows}, indent=1) + "\n")
        os.replace(draft, path)


def load(path: Path) -> Results:
    """Read a file that `Results.save` wrote.

    Raises:
      ValueError: the file is missing or has another format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["header"], dict):
            raise TypeError(f"header is {type(found['header']).__name__}")
        names = [field.name for field in dataclasses.fields(Row)]
        rows = []
        for each in found["rows"]:
            given = {name: each[name] for name in names if name in each}
            given["shape"] = tuple(map(int, given["shape"]))
            given["samples_ms"] = tuple(map(float, given.get("samples_ms", ())))
            if not all(0 < sample < math.inf for sample in given["samples_ms"]):
                raise ValueError(f"samples_ms {given['samples_ms']}")
            rows.append(Row(**given))
        return Results(found["header"], rows)
    except (OSError, KeyError, TypeError, ValueError) as error:  # damaged JSON is a ValueError
        kind = type(error).__name__
        raise ValueError(
            f"results: expected a JSON file written by this suite, got {path} ({kind}: {error})"
        ) from None
