"""Tables of a run on an accelerator, in Markdown, for the terminal and for the page of results."""

from collections.abc import Iterable, Sequence

from benchmarks.device.rows import SUITE
from benchmarks.results import Results, Row
from benchmarks.tables import Table, markdown, number

__all__ = ["SUITE", "merged", "part", "speed_tables", "text"]

PEER = "pytorch"
WHATS = ("forward", "gradient")
WHOLE = "whole cases"

LEGEND = """\
All contestants of one line ran in turns in one process, after their outputs and gradients had been
compared with float32 `scan` on the same device. A figure is the median time in ms, then the
microseconds a time step takes, then PyTorch's time divided by this one, so that above 1 means
faster than PyTorch. Both sides of that ratio have the precision that the line names: float32
products without TF32 ("float32"), float32 products with TF32 ("tf32"), bf16, or f16; products of
all of them are summed in float32. "% of rate" is the rate of the matrix products of the fastest
kernel of ours, relative to a large product of the same precision on this chip."""


def text(results: Results) -> str:
    """Return all tables of a run."""
    return "\n\n".join([machine(results), *sections(results)])


def part(results: Sequence[Results]) -> str:
    """Return the part of the page of results that is about accelerators, chip by chip."""
    pieces = ["## GPUs and TPUs"]
    chips = dict.fromkeys(chip_of(each) for each in results)
    for chip in chips:
        runs = [each for each in results if chip_of(each) == chip]
        pieces += [f"### {chip}", *(machine(each) for each in runs)]
        pieces += sections(merged(runs), level=4)
    return "\n\n".join(pieces)


def chip_of(results: Results) -> str:
    """Return the name of the chip that results were measured on."""
    return str(results.header.get("device_kind", "unknown device"))


def merged(runs: Sequence[Results]) -> Results:
    """Return the rows of several runs on one chip, each case from the last run that measured it.

    The rows of a case stay together, so that ratios are made within one run.
    """
    found: dict[tuple[object, ...], list[Row]] = {}
    for run in runs:
        cases: dict[tuple[object, ...], list[Row]] = {}
        for row in run.rows:
            flags = row.contestant.partition(", WHILE")[2]
            kind = row.what if row.what not in WHATS else "speed"
            key: tuple[object, ...] = (row.cell, row.variant, row.shape, kind, flags)
            if kind == "correctness":
                key = (row.cell, row.variant, kind, row.contestant, row.precision)
            cases.setdefault(key, []).append(row)
        for key, rows in cases.items():
            if any(row.median_ms or row.reason is None for row in rows) or key not in found:
                found[key] = rows
    rows = [row for rows in found.values() for row in rows]
    measured = [row for row in rows if row.reason is None]
    return Results(
        runs[-1].header,
        [row for row in rows if row.contestant != "all" or not _covered(row, measured)],
    )


def _covered(case: Row, measured: Sequence[Row]) -> bool:
    """Return whether rows have what a row for a whole case says was not measured."""

    def has(row: Row) -> bool:
        if case.cell == "none":
            names = {row.what, f"correctness {row.precision}", f"training {row.variant}"}
            return case.what.replace(" model", "_model") in names
        same = (row.cell, row.variant, row.shape) == (case.cell, case.variant, case.shape)
        return same and ("WHILE" in case.what) == ("WHILE" in row.contestant)

    return any(map(has, measured))


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
    """Return what was measured on, as a list."""
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
    """Return one table for each cell and variant: a line for each shape, direction, precision."""
    rows = [row for row in results.rows if row.suite == SUITE and row.what in WHATS]
    rates = results.header.get("matrix_tflops", {})
    tables = []
    for cell, variant in dict.fromkeys((row.cell, row.variant) for row in rows):
        group = [row for row in rows if (row.cell, row.variant) == (cell, variant)]
        names = list(dict.fromkeys(row.contestant for row in group if row.median_ms))
        # The peer of a case with flags of its own is there for the ratio alone.
        shown = sorted(
            (n for n in names if not n.startswith(f"{PEER}, ")), key=lambda n: n.startswith(PEER)
        )
        if not shown:
            continue
        lines = []
        for key in dict.fromkeys((row.shape, row.what, row.precision) for row in group):
            shape, what, precision = key
            found = {
                row.contestant: row
                for row in group
                if (row.shape, row.what, row.precision) == key and row.median_ms
            }
            if not found:
                continue
            cells = [figure(found.get(name), peer_of(name, found)) for name in shown]
            ours = [row for name, row in found.items() if not name.startswith(PEER)]
            best = min(ours, key=lambda row: row.median_ms or 0.0, default=None)
            percent = None
            if best is not None and best.gflops and rates.get(precision):
                percent = best.gflops / rates[precision] / 10
            lines.append([",".join(map(str, shape)), what, precision, *cells, number(percent, 2)])
        header = ["B,T,I,H", "what", "precision", *shown, "% of rate"]
        tables.append(Table(f"{cell}, {variant}", header, lines))
    return tables


def peer_of(name: str, found: dict[str, Row]) -> Row | None:
    """Return PyTorch's row of the same process."""
    _, comma, flags = name.partition(", WHILE")
    peer = f"{PEER}{comma}{flags}"
    return found.get(peer) or found.get(f"{PEER} cell loop")


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
