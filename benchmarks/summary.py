"""The summary of results: means of ratios, and the cases where a peer is faster."""

import dataclasses
import statistics
from collections.abc import Iterable

from benchmarks.results import Results, Row
from benchmarks.tables import BASE, base_of, cases, label, number

__all__ = ["geomeans", "highlights", "slower", "variant_ratio"]

SHARDED = "seqjax_sharded"
BEST = "seqjax (best setting)"
"""The name under which the faster of the contestants `BASE` and `SHARDED` is listed."""
RATED = (BASE, SHARDED, "pytorch")
"""Contestants whose FLOPs per second are compared with those of a large matrix product."""
SLOWER = 0.9
"""The summary lists each case in which a peer needs less than this fraction of seqjax's time."""

COMPARED = ("train_step", "decoding", "streaming", "eager")
"""The suites, besides `speed`, in which other libraries do the same work."""


def with_best(rows: Iterable[Row]) -> list[Row]:
    """Return the rows and, for each case, a copy of the faster row of seqjax, named `BEST`.

    The two contestants of seqjax, `BASE` and `SHARDED`, differ only in the number of devices over
    which they divide a batch.
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
    """Return geometric means of relative times, and the number of cases in each mean.

    A relative time is a contestant's time, divided by the time of the base contestant.

    Args:
      rows: of any suites.
      base_name: the base contestant. If `base_name` is None, each suite has its own base.

    Returns:
      A dict from (suite, what was timed, contestant) to the mean and the number of cases. The mean
      is over the cases in which both the contestant and the base were timed.
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
    """Return a sentence for each case in which a peer is clearly faster than `BASE`.

    The peer needs less than `SLOWER` times the time of `BASE`. The largest difference comes first.
    """
    found = []
    rows = [row for row in rows if row.suite in ("speed", *COMPARED)]
    for (case, what), group in cases(rows).items():
        base = group.get(BASE)
        for name, row in group.items():
            if name.startswith(BASE) or base is None or not base.median_ms or not row.median_ms:
                continue
            ratio = row.median_ms / base.median_ms
            if ratio < SLOWER:
                text = f'In the suite `{row.suite}`, for "{what}" in the case {case} (B,T,I,H), '
                text += f"{name} takes {ratio:.2f} times as long as {BASE}."
                found.append((ratio, text))
    return [text for _, text in sorted(found)]


def variant_ratio(rows: Iterable[Row], numerator: str, denominator: str) -> dict[str, float]:
    """Return, for each contestant, how many times as long a gradient takes in one of two variants.

    The number is a geometric mean over the cells and shapes of suite `speed`: the time of variant
    `numerator`, divided by the time of variant `denominator`.
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
    """Return the sentences of the summary. Sentences about missing measurements are left out."""
    rows = results.rows
    lines = []
    for name in ("pytorch", "flax_nnx", "keras"):
        for ours in (BASE, BEST):
            means = geomeans(with_best(rows) if ours == BEST else rows, ours)
            if found := means.get(("speed", "gradient", name)):
                lines.append(f"For the gradient, {name} takes {_times(*found, ours)}.")
    for row in rows:
        which = (row.suite, row.cell, row.variant, row.what, row.contestant)
        percent = results.percent_of_gemm(row)
        if (
            which[:4] == ("speed", "lstm", "plain", "gradient")
            and row.contestant in RATED
            and percent
        ):
            lines.append(
                f"In the case {label(row)} (B,T,I,H), the gradient of {row.contestant} runs at "
                f"{number(percent)} % of the rate of a large matrix product."
            )
    for variant in ("lengths", "resets"):
        found_ratios = variant_ratio(rows, variant, "plain")
        if BASE in found_ratios:
            ratios = ", ".join(f"{ratio:.2f} for {name}" for name, ratio in found_ratios.items())
            lines.append(
                f"The gradient's time with {variant}, divided by that without, is {ratios}."
            )
    lines += _compile_lines(rows)
    lines += _memory_lines(rows)
    for (suite, what, name), found in geomeans(rows).items():
        if suite in COMPARED:
            text = f'In the suite `{suite}`, for "{what}", {name} takes '
            lines.append(text + f"{_times(*found, BASE)}.")
    return lines


def _times(mean: float, count: int, base: str) -> str:
    """Return the end of a sentence that states a geometric mean of relative times."""
    if count == 1:
        return f"{mean:.2f} times as long as {base} (one case)"
    return f"{mean:.2f} times as long as {base} (geometric mean over {count} cases)"


def _compile_lines(rows: list[Row]) -> list[str]:
    """Return sentences about compile times.

    They compare contestants, and the longest sequences with the shortest ones.
    """
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
            text = f"To lower and compile the gradient, {name} takes {mean:.2f} times as long as "
            lines.append(f"{text}{BASE}.")
    for cell in dict.fromkeys(cell for cell, _ in totals):
        series = sorted((t, g[BASE]) for (c, t), g in totals.items() if c == cell and BASE in g)
        if len(series) > 1:
            (first, least), (last, most) = series[0], series[-1]
            lines.append(
                f"Lowering and compiling the gradient of {cell} takes {most / least:.2f} times as "
                f"long for {last} steps as for {first}."
            )
    return lines


def _memory_lines(rows: list[Row]) -> list[str]:
    """Return sentences that compare the memory and time of each setting with those of a plain scan.

    The sentences are about suite `memory`, which has long sequences.
    """
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
                f"In the case {case} (B,T,I,H), {name} needs {number(memory)} of the temporary "
                f"memory of a plain scan, and takes {number(pace)} of its time."
            )
    return lines
