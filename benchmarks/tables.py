"""Tables of rows as text, for the terminal and as Markdown."""

import dataclasses
import math
from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.results import Results, Row

__all__ = [
    "BASE",
    "Table",
    "cases",
    "comparison",
    "contestants",
    "geomean_table",
    "label",
    "markdown",
    "number",
    "remarks",
    "show",
]

BASE = "seqjax"
"""The contestant with which others are compared."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, column names and rows of text."""

    title: str
    header: list[str]
    rows: list[list[str]]


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a few digits; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def label(row: Row) -> str:
    """Return the text that describes the case of a row."""
    sizes = ",".join(map(str, row.shape))
    return " ".join(filter(None, (row.cell, row.variant, sizes, row.precision)))


def contestants(rows: Iterable[Row]) -> list[str]:
    """Return all contestants in the order of their first row."""
    return list(dict.fromkeys(row.contestant for row in rows))


def cases(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, Row]]:
    """Group rows by case and by what was timed, then by contestant."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((label(row), row.what), {})[row.contestant] = row
    return found


def base_of(suite: str) -> str:
    """Return the contestant by whose time the other times of a suite are divided."""
    bases = {
        "memory": "handwritten", "parts": "jax", "deferred": "seqjax scan",
        "readers": "the library alone",
    }  # fmt: skip
    return bases.get(suite, BASE)


def _cell(row: Row | None, base: Row | None) -> str:
    """Return a time, its ratio to the base's time, and further results, as text."""
    if row is None or row.median_ms is None:
        return "–"
    text = number(row.median_ms)
    if base is not None and base.median_ms and row is not base:
        text += f" ({row.median_ms / base.median_ms:.2f}×)"
    if "p99_ms" in row.extra:
        text += f" p99 {number(row.extra['p99_ms'])}"
    if "sentences_per_s" in row.extra:
        text += f", {number(row.extra['sentences_per_s'])} sentences/s"
    if row.suite in ("memory", "budget") and row.temp_bytes is not None:
        text += f", {number(row.temp_bytes / 1e6)} MB"
    if isinstance(row.agreement, str):
        text += " †"
    return text


def _worst(group: dict[str, Row]) -> float:
    """Return the fastest peer's time divided by seqjax's time, or inf if one of them is missing."""
    ours = group.get(BASE)
    peers = [row.median_ms for name, row in group.items() if not name.startswith(BASE)]
    known = [time for time in peers if time]
    return min(known) / ours.median_ms if known and ours and ours.median_ms else math.inf


def comparison(results: Results, suite: str) -> Table:
    """Return a suite's rows: medians in ms, and in brackets the ratio to the base's time.

    If seqjax is the base, the cases are sorted by the ratio of the fastest other library's time to
    that of seqjax, the lowest ratio first.
    """
    rows = [row for row in results.rows if row.suite == suite]
    names = contestants(rows)
    base_name = base_of(suite)
    rated = suite in ("speed", "parts")
    lines = []
    groups = list(cases(rows).items())
    if base_name == BASE:
        groups.sort(key=lambda item: _worst(item[1]))
    for (case, what), group in groups:
        base = group.get(base_name)
        line = [case, what, *(_cell(group.get(name), base) for name in names)]
        if rated:
            line += [
                number(base.gflops if base else None),
                number(results.percent_of_gemm(base) if base else None),
            ]
        lines.append(line)
    header = ["case (B,T,I,H)", "what", *(f"{name} ms" for name in names)]
    header += [f"{base_name} GF/s", "% of GEMM"] if rated else []
    return Table(f"{suite}: × is time / time of {base_name}", header, lines)


def geomean_table(means: dict[tuple[str, str, str], tuple[float, int]]) -> Table:
    """Return a table of `summary.geomeans`."""
    return Table(
        "geometric means of time / time of the base (above 1: the base is faster)",
        ["suite", "what", "implementation", "base", "ratio", "cases"],
        [
            [*key, base_of(key[0]), f"{mean:.2f}", str(count)]
            for key, (mean, count) in means.items()
        ],
    )


def remarks(rows: Iterable[Row]) -> list[str]:
    """Return why contestants were not timed, or not compared with the reference (†)."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        different = row.agreement if isinstance(row.agreement, str) else None
        untimed = f"{row.contestant} was not timed"
        uncompared = f"the results of {row.contestant} were not compared"
        for fate, text in ((untimed, row.reason), (uncompared, different)):
            if text:
                case = f"{row.cell} {row.variant}"
                where = found.setdefault((row.suite, fate, text), [])
                if case not in where:
                    where.append(case)
    return [
        f"In the suite `{suite}`, {fate} for {', '.join(where)} ({text})."
        for (suite, fate, text), where in found.items()
    ]


def show(table: Table, console: Console) -> None:
    """Print a table."""
    rich = RichTable(title=table.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in table.header:
        rich.add_column(name.replace(" ms", ""), no_wrap=True, overflow="fold")
    for row in table.rows:
        rich.add_row(*row)
    # Use the width that the table needs: a terminal may wrap lines, but no figure is cut off.
    columns = zip(table.header, *table.rows, strict=True)
    width = sum(max(map(len, column)) + 2 for column in columns)
    Console(file=console.file, width=max(console.width, width)).print(rich)


def markdown(table: Table) -> str:
    """Return a table in Markdown, without its title."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
