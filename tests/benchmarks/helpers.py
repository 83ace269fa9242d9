"""What the tests of the benchmark suite share: results made by hand."""

from typing import Any

from benchmarks.results import Results, Row


def row(contestant: str = "seqjax", ms: float | None = 2.0, **fields: Any) -> Row:
    """A row of suite `speed` unless the fields say otherwise; not timed if `ms` is None."""
    given: dict[str, Any] = {
        "suite": "speed",
        "cell": "lstm",
        "variant": "plain",
        "shape": (32, 100, 512, 512),
        "what": "gradient",
        "samples_ms": () if ms is None else (ms, ms, 2 * ms),
    }
    return Row(contestant=contestant, **(given | fields))


def results(*rows: Row, **header: Any) -> Results:
    """A file of these rows."""
    return Results(
        {"command": "python -m benchmarks speed", "gemm_gflops": 100.0} | header, [*rows]
    )
