"""Tables of a run on an accelerator, in Markdown, for the terminal and for the page of results."""

import dataclasses
from collections.abc import Iterable, Sequence

from benchmarks.device.rows import SUITE
from benchmarks.results import Results, Row
from benchmarks.tables import Table, markdown, number

__all__ = ["SUITE", "merged", "part", "speed_tables", "text"]

PEER = "pytorch"
WHATS = ("forward", "gradient")
WHOLE = "whole cases"

LEGEND = """\
The outputs and gradients of each implementation were compared with those of `scan` in float32 on
the same device. An implementation whose relative error was above a limit was not timed. Then the
implementations in a row of the table were timed alternately in one process. An entry of a table has

- the median time in milliseconds,
- that time divided by the number of time steps, in microseconds,
- PyTorch's time divided by the implementation's time; if this ratio is above 1, PyTorch is slower.

Both times of that ratio have the precision that the row names: "float32" (float32 products without
TF32), "tf32" (float32 products with TF32), "bf16" or "f16". In all four precisions, seqjax sums
products in float32. "% of rate" is the rate of the matrix products in seqjax's fastest
implementation, in percent of the rate of a large product of the same precision in the same run."""


def text(results: Results) -> str:
    """Return all tables of a run."""
    return "\n\n".join([machine(results), *sections(results)])


def part(results: Sequence[Results]) -> str:
    """Return the part of the page of results that is about accelerators, chip by chip.

    Raises:
      ValueError: one of the runs is a rehearsal, that is, a run on a CPU or with small sizes.
    """
    for each in results:
        if each.header.get("platform", "cpu") == "cpu" or each.header.get("tiny"):
            raise ValueError(
                "results: expected runs of `device` in full size on a GPU or TPU, got a rehearsal: "
                f"{each.header.get('command', 'of an unknown command')}"
            )
    ordered = sorted(results, key=lambda each: str(each.header.get("date", "")))
    pieces = ["## GPUs and TPUs"]
    for chip in dict.fromkeys(chip_of(each) for each in ordered):
        runs = [each for each in ordered if chip_of(each) == chip]
        pieces += [f"### {chip}", *(machine(each) for each in runs)]
        if len(runs) > 1:
            pieces.append("If several runs measured a case, the tables show the last measurement.")
        pieces += sections(merged(runs), level=4)
    return "\n\n".join(pieces)


def chip_of(results: Results) -> str:
    """Return the name of the chip that results were measured on."""
    return str(results.header.get("device_kind", "unknown device"))


def flags_of(contestant: str) -> str:
    """Return the flags of XLA in a contestant's name, or ""."""
    _, found, flags = contestant.partition("WHILE")
    return found + flags


def case_of(row: Row) -> str:
    """Return the name of the case that a row belongs to, as `cases` names it."""
    if row.contestant == "all":
        return row.what
    if row.what in WHATS:
        sizes = ",".join(map(str, row.shape))
        flags = flags_of(row.contestant)
        return f"speed {row.cell} {row.variant} {sizes}" + (f", {flags}" if flags else "")
    return {
        "correctness": f"correctness {row.precision}",
        "step": f"training {row.variant.replace('_', ' ')}",
        "tests": "the library's own tests",
        "fault": f"{row.contestant} on purpose",
    }.get(row.what, "facts")


def not_run(row: Row) -> bool:
    """Return whether a row has no measurement because the time ran out.

    `merged` then uses the measurement of an older run, if there is one.
    """
    return (row.reason or "").startswith(("not run: the budget", "stopped: the budget"))


def merged(runs: Sequence[Results]) -> Results:
    """Return, for each case, the rows of the last run that measured it; all runs are on one chip.

    All rows of a case come from the same run, so that ratios are computed within one run.
    """
    found: dict[str, list[Row]] = {}
    for run in runs:
        cases: dict[str, list[Row]] = {}
        for row in rated(run):
            cases.setdefault(case_of(row), []).append(row)
        for case, rows in cases.items():
            if case not in found or not any(map(not_run, rows)):
                found[case] = rows
    return Results(runs[-1].header, [row for rows in found.values() for row in rows])


def rated(results: Results) -> list[Row]:
    """Return the rows, each with the rate of a large product in the row's precision and run.

    If a row already has such a rate, which comes from the run that measured the row, the rate is
    not replaced.
    """
    rates = results.header.get("matrix_tflops", {})
    return [
        dataclasses.replace(row, extra={**row.extra, "rate_tflops": rates[row.precision]})
        if row.precision in rates and "rate_tflops" not in row.extra
        else row
        for row in results.rows
    ]


def sections(results: Results, level: int = 2) -> list[str]:
    """Return the pieces of text: correctness, speed, training, what was not measured."""
    mark = "#" * level
    rows = [row for row in results.rows if row.suite == SUITE]
    pieces = []
    if checked := correctness(rows):
        pieces += [f"{mark} Correctness on the device", checked]
    tables = [*speed_tables(results), *training_tables(rows)]
    if tables:
        pieces += [f"{mark} Speed", LEGEND]
    for table in tables:
        pieces += [f"{mark}# {table.title}", markdown(table)]
    if found := list(reasons(rows)):
        pieces += [f"{mark} Not measured", "\n".join(f"- {line}" for line in found)]
    return pieces


def machine(results: Results) -> str:
    """Return the machine's description as a Markdown list."""
    header = results.header
    names = {
        "date": "Date", "commit": "Commit", "device_kind": "Device", "platform": "Platform",
        "compute_capability": "Compute capability", "driver": "Driver",
        "pytorch_device": "PyTorch runs with", "cpu": "CPU", "cores": "Cores",
        "copy_gb_per_s": "Rate of a copy on the device, bytes read and written, GB/s",
        "matrix_tflops": "Rates of a large matrix product, TFLOP/s",
        "versions": "Versions of Python and of packages",
    }  # fmt: skip
    lines = []
    for key, name in names.items():
        value = header.get(key)
        if isinstance(value, dict):
            value = ", ".join(
                f"{k} {number(v) if isinstance(v, float) else v}" for k, v in value.items()
            )
        if value:
            lines.append(f"- {name}: {number(value) if isinstance(value, float) else value}")
    command = header.get("command", "unknown command")
    return f"    {command}\n\n" + "\n".join(lines)


def correctness(rows: Iterable[Row]) -> str:
    """Return how many cells agree with the CPU, by kernel and precision, and the worst error."""
    groups: dict[tuple[str, str], list[Row]] = {}
    lines = []
    for row in rows:
        if row.what == "correctness":
            groups.setdefault((row.contestant, row.precision), []).append(row)
        if row.what == "tests":
            counts = ", ".join(f"{int(n)} {name}" for name, n in row.extra.items()) or row.reason
            lines.append(f"- The library's tests of {row.variant}: {counts}.")
    for (kernel, precision), group in groups.items():
        errors = {row.cell: row.agreement for row in group if isinstance(row.agreement, float)}
        right = sum(row.reason is None for row in group)
        line = f"- With `{kernel}` in {precision}, {right} of {len(group)} cells agree with the CPU"
        if errors:
            worst = max(errors, key=lambda cell: errors[cell])
            line += f"; the largest relative error is {errors[worst]:.1e} ({worst})"
        lines.append(line + ".")
    return "\n".join(lines)


def speed_tables(results: Results) -> list[Table]:
    """Return one table for each cell, variant and flags: a line for each shape and precision."""
    rows = [row for row in rated(results) if row.suite == SUITE and row.what in WHATS]
    tables = []
    for cell, variant, flags in dict.fromkeys(
        (row.cell, row.variant, flags_of(row.contestant)) for row in rows
    ):
        group = [
            dataclasses.replace(row, contestant=row.contestant.removesuffix(f", {flags}"))
            for row in rows
            if (row.cell, row.variant, flags_of(row.contestant)) == (cell, variant, flags)
        ]
        names = dict.fromkeys(row.contestant for row in group if row.median_ms)
        shown = sorted(names, key=lambda name: name.startswith(PEER))
        lines = []
        for key in dict.fromkeys((row.shape, row.what, row.precision) for row in group):
            found = {
                row.contestant: row
                for row in group
                if (row.shape, row.what, row.precision) == key and row.median_ms
            }
            if not found:
                continue
            peer = found.get(PEER) or found.get(f"{PEER} cell loop")
            ours = [row for name, row in found.items() if not name.startswith(PEER)]
            best = min(ours, key=lambda row: row.median_ms or 0.0, default=None)
            shape, what, precision = key
            line = [",".join(map(str, shape)), what, precision]
            line += [figure(found.get(name), peer) for name in shown]
            lines.append([*line, number(percent_of_rate(best), 2)])
        if lines:
            header = ["B,T,I,H", "what", "precision", *shown, "% of rate"]
            tables.append(Table(", ".join(filter(None, (cell, variant, flags))), header, lines))
    return tables


def percent_of_rate(row: Row | None) -> float | None:
    """Return a row's rate relative to that of a large product in the same run."""
    if row is None or not row.gflops or "rate_tflops" not in row.extra:
        return None
    return row.gflops / row.extra["rate_tflops"] / 10


def figure(row: Row | None, peer: Row | None) -> str:
    """Return a time in ms, the same time in µs per step, and the ratio of PyTorch's time to it."""
    if row is None or row.median_ms is None:
        return "–"
    parts = f"{number(row.median_ms)} ms, {number(1e3 * row.median_ms / row.shape[1])} µs"
    if peer is not None and peer is not row and peer.median_ms:
        parts += f", {peer.median_ms / row.median_ms:.2f}×"
    return parts


def training_tables(rows: Iterable[Row]) -> list[Table]:
    """Return the table of training steps."""
    groups: dict[tuple[str, tuple[int, ...], str], dict[str, Row]] = {}
    for row in rows:
        if row.what == "step":
            key = row.variant, row.shape, row.precision
            groups.setdefault(key, {})[row.contestant] = row
    lines = []
    for (task, shape, precision), found in groups.items():
        ours, peer = found.get("seqjax"), found.get(PEER)
        times = [None if row is None else row.median_ms for row in (ours, peer)]
        ratio = f"{times[1] / times[0]:.2f}×" if times[0] and times[1] else "–"
        sizes = ",".join(map(str, shape))
        lines.append([task, sizes, precision, *(number(time) for time in times), ratio])
    header = ["task", "sizes", "precision", "seqjax ms", "pytorch ms", "pytorch / seqjax"]
    return [Table("training steps", header, lines)] if lines else []


def reasons(rows: Iterable[Row]) -> Iterable[str]:
    """Yield the reasons why rows were not measured, each reason once with its cases."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason is not None:
            sizes = ",".join(map(str, row.shape))
            words = (row.cell, row.variant, sizes, row.what, row.precision)
            where = " ".join(word for word in words if word not in ("none", "1,1,1,1", ""))
            whole = row.contestant == "all"  # a row for a whole case, which has a name
            key = (WHOLE if whole else row.contestant, row.reason)
            found.setdefault(key, []).append(row.what if whole else where)
    for (contestant, reason), places in found.items():
        few = places if contestant == WHOLE else places[:4]
        more = len(places) - len(few)
        some = "; ".join(few) + (f" and {more} more" if more else "")
        who = f"In the following cases, {contestant} was"
        who = "The following cases were" if contestant == WHOLE else who
        yield f'{who} not measured: {some}. The reason is "{reason}".'
