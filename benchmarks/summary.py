"""What a reader wants to know first, computed from rows: means of ratios, and where we lose."""

import dataclasses
import statistics
from collections.abc import Iterable

from benchmarks.results import Results, Row
from benchmarks.tables import BASE, base_of, cases, label, number

__all__ = ["geomeans", "highlights", "slower", "variant_ratio"]

SHARDED = "seqjax_sharded"
BEST = "seqjax (best setting)"
"""The faster of `BASE` and `SHARDED`."""
RATED = (BASE, SHARDED, "pytorch")
"""Contestants whose rate is set against the machine's."""
SLOWER = 0.9
"""A peer at less than this part of our time counts as an entry we lose."""


def with_best(rows: Iterable[Row]) -> list[Row]:
    """The rows, and for each case of our own contestants the faster once more, as `BEST`.

    They differ in one setting, over how many devices a batch is divided.
    """
    rows = list(rows)
    for group in cases(row for row in rows if row.suite in ("speed", "train_step")).values():
        ours = [r for name, r in group.items() if name in (BASE, SHARDED) and r.median_ms]
        if ours:
            fastest = min(ours, key=lambda row: row.median_ms or 0.0)
            rows.append(dataclasses.replace(fastest, contestant=BEST))
    return rows


def geomeans(
    rows: Iterable[Row], base_name: str | None = None
) -> dict[tuple[str, str, str], tuple[float, int]]:
    """Geometric means of time / base's time, and how many cases each is of.

    Args:
      rows: of any suites.
      base_name: the base; each suite's own if None.

    Returns:
      By suite, what was timed and contestant; only cases where both were timed.
    """
    ratios: dict[tuple[str, str, str], list[float]] = {}
    by_suite: dict[str, list[Row]] = {}
    for row in rows:
        by_suite.setdefault(row.suite, []).append(row)
    for suite, members in by_suite.items():
        for (_, what), group in cases(members).items():
            base = group.get(base_name or base_of(suite))
            if base is None or not base.median_ms:
                continue
            for name, row in group.items():
                if row is not base and row.median_ms:
                    ratios.setdefault((suite, what, name), []).append(
                        row.median_ms / base.median_ms
                    )
    return {key: (statistics.geometric_mean(each), len(each)) for key, each in ratios.items()}


def slower(rows: Iterable[Row]) -> list[str]:
    """Entries where a peer needs less than `SLOWER` of our default's time, the worst first."""
    found = []
    rows = [row for row in rows if row.suite in ("speed", "train_step", "decoding", "streaming")]
    for (case, what), group in cases(rows).items():
        base = group.get(BASE)
        for name, row in group.items():
            if name.startswith(BASE) or base is None or not base.median_ms or not row.median_ms:
                continue
            ratio = row.median_ms / base.median_ms
            if ratio < SLOWER:
                found.append((ratio, f"{row.suite} {case} {what}: {name} at {ratio:.2f}×"))
    return [text for _, text in sorted(found)]


def variant_ratio(rows: Iterable[Row], numerator: str, denominator: str) -> dict[str, float]:
    """By contestant: the geometric mean over gradients of one variant's time to another's.

    Both variants of a cell and shape are timed in the same turns (suite `speed`).
    """
    times = {
        (row.contestant, row.cell, row.shape, row.variant): row.median_ms
        for row in rows
        if row.suite == "speed" and row.what == "gradient" and row.median_ms
    }
    ratios: dict[str, list[float]] = {}
    for (contestant, cell, shape, variant), time in times.items():
        other = times.get((contestant, cell, shape, denominator))
        if variant == numerator and other:
            ratios.setdefault(contestant, []).append(time / other)
    return {name: statistics.geometric_mean(each) for name, each in ratios.items()}


def highlights(results: Results) -> list[str]:
    """The summary's lines, those that the rows at hand allow."""
    rows = results.rows
    lines = []
    for name in ("pytorch", "flax_nnx", "keras"):
        for ours in (BASE, BEST):
            means = geomeans(with_best(rows) if ours == BEST else rows, ours)
            if found := means.get(("speed", "gradient", name)):
                lines.append(f"Gradient, {name} / {ours}: {found[0]:.2f}× over {found[1]} cases")
    for row in rows:
        which = (row.suite, row.cell, row.variant, row.what, row.contestant)
        percent = results.percent_of_gemm(row)
        if (
            which[:4] == ("speed", "lstm", "plain", "gradient")
            and row.contestant in RATED
            and percent
        ):
            lines.append(
                f"{label(row)}, gradient by {row.contestant}: {number(percent)} % of the GEMM rate"
            )
    lengths = variant_ratio(rows, "lengths", "plain")
    if BASE in lengths:
        others = ", ".join(f"{n} {r:.2f}" for n, r in lengths.items() if n != BASE)
        lines.append(f"Gradient with lengths / without: {BASE} {lengths[BASE]:.2f} ({others})")
    lines += _compile_lines(rows)
    lines += _memory_lines(rows)
    for (suite, _, name), (mean, count) in geomeans(rows).items():
        if suite in ("streaming", "train_step", "decoding"):
            lines.append(f"{suite}, {name} / {BASE}: {mean:.2f}× over {count} cases")
    return lines


def _compile_lines(rows: list[Row]) -> list[str]:
    """Compile time against others', and its growth from the shortest to the longest sequence."""
    totals: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row.suite == "compile" and row.median_ms:
            group = totals.setdefault((row.cell, row.shape[1]), {})
            group[row.contestant] = group.get(row.contestant, 0.0) + row.median_ms
    lines = []
    for name in dict.fromkeys(name for group in totals.values() for name in group):
        both = [group for group in totals.values() if name != BASE and {name, BASE} <= set(group)]
        if both:
            mean = statistics.geometric_mean(group[name] / group[BASE] for group in both)
            lines.append(f"Lower and compile the gradient, {name} / {BASE}: {mean:.2f}×")
    for cell in dict.fromkeys(cell for cell, _ in totals):
        series = sorted((t, g[BASE]) for (c, t), g in totals.items() if c == cell and BASE in g)
        if len(series) > 1:
            (first, least), (last, most) = series[0], series[-1]
            lines.append(f"{cell} compile time, T = {last} / T = {first}: {most / least:.2f}×")
    return lines


def _memory_lines(rows: list[Row]) -> list[str]:
    """Temporaries and time of each setting against the plain scan, at the longest sequence."""
    groups = cases(row for row in rows if row.suite == "memory")
    lines = []
    for (case, _), group in groups.items():
        plain = group.get(base_of("memory"))
        for name, row in group.items():
            if plain is None or row is plain or not plain.temp_bytes or row.temp_bytes is None:
                continue
            memory = row.temp_bytes / plain.temp_bytes
            pace = row.median_ms / plain.median_ms if row.median_ms and plain.median_ms else None
            lines.append(
                f"{case}, {name}: {number(memory)}× the temporaries of a plain scan, "
                f"{number(pace)}× its time"
            )
    return lines
