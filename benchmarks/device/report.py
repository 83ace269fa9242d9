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
The contestants of one line were timed alternately in one process, after their outputs and gradients
had been compared with float32 `scan` on the same device. A cell has

- the median time in milliseconds,
- the microseconds for one time step,
- PyTorch's time divided by this time: above 1, this contestant is faster than PyTorch.

Both sides of that ratio have the precision that the line names: float32 products without TF32
("float32"), float32 products with TF32 ("tf32"), bf16, or f16. seqjax sums all of them in float32.
"% of rate" is the rate of the matrix products of our fastest contestant, relative to a large
product of the same precision in the same run."""


def text(results: Results) -> str:
    """Return all tables of a run."""
    return "\n\n".join([machine(results), *sections(results)])


def part(results: Sequence[Results]) -> str:
    """Return the part of the page of results that is about accelerators, chip by chip.

    Raises:
      ValueError: a rehearsal: a run on a CPU, or on small sizes.
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
            pieces.append(
                "A case that several runs measured is shown as the last of them measured it."
            )
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
    """Return whether a row says that time was over, so that an older run may stand for it."""
    return (row.reason or "").startswith(("not run: the budget", "stopped: the budget"))


def merged(runs: Sequence[Results]) -> Results:
    """Return the rows of several runs on one chip: each case as the last run that had time for it.

    The rows of a case stay together, so that ratios are made within one run.
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
    """Return the rows, each with the rate of a large product of its precision in its own run.

    Rows that have one already, from the run that they were merged from, keep it.
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
        "pytorch_device": "PyTorch", "cpu": "CPU", "cores": "Cores",
        "copy_gb_per_s": "Copy on the device, GB/s, read and written",
        "matrix_tflops": "Large products, TFLOP/s", "versions": "Versions",
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
        line = f"- `{kernel}`, {precision}: {right} of {len(group)} cells agree with the CPU"
        if errors:
            worst = max(errors, key=lambda cell: errors[cell])
            line += f"; largest relative error {errors[worst]:.1e} ({worst})"
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
    """Return a time in ms, in microseconds a step, and PyTorch's time divided by it."""
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
    """Yield why rows have no figures, each reason once with what it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.reason is not None:
            sizes = ",".join(map(str, row.shape))
            words = (row.cell, row.variant, sizes, row.what, row.precision)
            where = " ".join(word for word in words if word not in ("none", "1,1,1,1", ""))
            whole = row.contestant == "all"  # of a case, whose name says it all
            key = (WHOLE if whole else row.contestant, row.reason)
            found.setdefault(key, []).append(row.what if whole else where)
    for (contestant, reason), places in found.items():
        few = places if contestant == WHOLE else places[:4]
        more = len(places) - len(few)
        some = "; ".join(few) + (f" and {more} more" if more else "")
        yield f"{contestant}: {reason} ({some})"
