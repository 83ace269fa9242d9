"""`report`: the page of results, made of results files alone."""

from pathlib import Path
from typing import Any

from benchmarks import plots, summary, tables
from benchmarks.device import report as device
from benchmarks.results import Results

__all__ = ["page", "write"]

BEGIN, END = "<!-- accelerators: begin -->", "<!-- accelerators: end -->"
"""Around the part of the page that results of the suite `device` make."""

INTRODUCTION = """\
Made by `python -m benchmarks report` of what the commands below measured; nothing here is written
by hand. Contestants of one row first agreed with the reference on outputs and all gradients, then
took turns in one process, each warmed up and waited for. Times are medians in milliseconds. In
brackets: how many times the base's time that is, so above 1 the base is faster. † marks a
contestant whose mathematics is different; it is timed all the same. GF/s count the matrix products
(forward 2·T·B·G·H·(I+H) a layer and direction, the gradient three times that, padding included);
% of GEMM sets them against a large float32 product in the same run. The cases where a peer is
fastest beside our default setting come first. Part of the shapes of `speed` are drawn at random:
the seed is in the command.
"""


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(each)}" for key, each in value.items())
    return tables.number(value) if isinstance(value, float) else str(value)


def _machine(header: dict[str, Any]) -> str:
    """The header of a results file as a list."""
    names = {
        "date": "Date",
        "commit": "Commit",
        "cpu": "CPU",
        "instructions": "Instruction sets",
        "cores": "Cores",
        "threads": "Threads",
        "platform": "JAX platform",
        "device_kind": "Device",
        "jax_devices": "JAX devices",
        "gemm_gflops": "GEMM rate, GF/s",
        "gemm_one_core_gflops": "GEMM rate of one core, GF/s",
        "load_before": "Load average before",
        "load_after": "Load average after",
        "versions": "Versions",
        "missing": "Not installed",
    }
    lines = [f"- {text}: {_value(header[key])}" for key, text in names.items() if header.get(key)]
    return "\n".join([f"    {header.get('command', 'unknown command')}", "", *lines])


def page(results: list[Results], images: dict[int, dict[str, str]]) -> str:
    """The page in Markdown.

    Args:
      results: the files.
      images: by file and suite, the path of a plot relative to the page.
    """
    parts = ["# Benchmarks", INTRODUCTION]
    for index, each in enumerate(results):
        suites = list(dict.fromkeys(row.suite for row in each.rows))
        parts += [f"## {', '.join(suites)}: {each.header.get('cpu', 'unknown machine')}"]
        parts += [_machine(each.header)]
        if lines := summary.highlights(each):
            parts += ["### Summary", "\n".join(f"- {line}" for line in lines)]
        if losing := summary.slower(each.rows):
            heading = f"### Where a peer needs less than {summary.SLOWER} of our time"
            parts += [heading, "\n".join(f"- {line}" for line in losing)]
        if means := summary.geomeans(each.rows):
            table = tables.geomean_table(means)
            parts += [f"### {table.title.capitalize()}", tables.markdown(table)]
        for suite in suites:
            table = tables.comparison(each, suite)
            parts += [f"### {table.title.capitalize()}"]
            if image := images.get(index, {}).get(suite):
                parts += [f"![{suite}]({image})"]
            parts += [tables.markdown(table)]
        if notes := tables.remarks(each.rows):
            parts += ["### Remarks", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def write(results: list[Results], output: Path) -> None:
    """Write the page and, under `images/benchmarks` beside it, the plots.

    The page has two parts: CPUs, then GPUs and TPUs. A part of which no results are given stays as
    it is in the present page.

    Args:
      results: files of any suites. Those of `device` make the second part.
      output: the page.
    """
    cpu = [each for each in results if not is_device(each)]
    accelerators = [each for each in results if is_device(each)]
    present = output.read_text() if output.exists() else "# Benchmarks\n"
    first, _, rest = present.partition(BEGIN)
    second, _, _ = rest.partition(END)
    if cpu:
        first = page(cpu, _plots(cpu, output))
    if accelerators:
        second = f"\n\n{device.part(accelerators)}\n\n"
    text = first.rstrip("\n") + "\n"
    if second:
        text += f"\n{BEGIN}{second}{END}\n"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text)


def is_device(results: Results) -> bool:
    """Return whether results are of the suite `device`."""
    return any(row.suite == device.SUITE for row in results.rows)


def _plots(results: list[Results], output: Path) -> dict[int, dict[str, str]]:
    """Draw the plots of each file, and return their paths by suite."""
    folder = output.parent / "images" / "benchmarks"
    images: dict[int, dict[str, str]] = {}
    for index, each in enumerate(results):
        files = plots.draw(each.rows, folder / str(index) if len(results) > 1 else folder)
        images[index] = {
            suite: path.relative_to(output.parent).as_posix() for suite, path in files.items()
        }
    return images
