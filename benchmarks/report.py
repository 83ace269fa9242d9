"""The command `report`: the page of results, made only from results files."""

from pathlib import Path
from typing import Any

from benchmarks import plots, summary, tables
from benchmarks.device import report as device
from benchmarks.results import Results

__all__ = ["page", "write"]

BEGIN, END = "<!-- accelerators: begin -->", "<!-- accelerators: end -->"
"""Comments on the page before and after the part with the results of the suite `device`."""

INTRODUCTION = """\
`python -m benchmarks report` made the lists and tables on this page from the results of the
commands below. No number in these lists and tables was written by hand.

- Before the timing, the outputs and all gradients of each implementation were compared with those
  of the reference, the kernel `scan` of seqjax. The implementations in a row of a table then ran
  alternately in one process. Each implementation had warm-up calls, and the time of a call includes
  the wait for its result.
- Times are medians in milliseconds. The number in brackets is the time divided by the time of the
  base, an implementation that the title of the table names. If the number in brackets is above 1,
  the base is faster.
- † marks an implementation that was timed although its results cannot be compared with those of the
  reference.
- GF/s is the rate of the matrix products: 2·T·B·G·H·(I+H) operations for each layer and direction
  in the forward pass, and three times as many in the gradient. G is the number of gates: 1 for
  elman, 3 for gru and 4 for lstm. The operations on padding are counted, too. "% of GEMM" is this
  rate in percent of the rate of a large float32 matrix product in the same run.
- The contestant `seqjax_sharded` is seqjax with the batch divided over several devices. "seqjax
  (best setting)" is, in each case, the faster of `seqjax` and `seqjax_sharded`.
- In tables with seqjax as the base, the cases are sorted by the ratio of the fastest other
  library's time to that of seqjax, the lowest ratio first.
- A case is a cell, a variant and the sizes B,T,I,H: batch, steps, input features and units. Some
  shapes of `speed` are drawn at random. The command contains their seed.
"""


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(each)}" for key, each in value.items())
    return tables.number(value) if isinstance(value, float) else str(value)


def _threads(counts: dict[str, int]) -> str:
    """Return the threads of each library as words: "xla uses 2; torch uses at most 2"."""
    words = (key.replace(", ", " uses ") if ", " in key else f"{key} uses" for key in counts)
    return "; ".join(f"{uses} {count}" for uses, count in zip(words, counts.values(), strict=True))


def _machine(header: dict[str, Any]) -> str:
    """Return the header of a results file as a list."""
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
        "gemm_gflops": "Rate of a large matrix product, GF/s",
        "gemm_one_core_gflops": "Rate of a large matrix product on one core, GF/s",
        "load_before": "Load average before",
        "load_after": "Load average after",
        "versions": "Versions of Python and of packages",
        "missing": "Not installed",
    }
    if header.get("threads"):
        header = {**header, "threads": _threads(header["threads"])}
    lines = [f"- {text}: {_value(header[key])}" for key, text in names.items() if header.get(key)]
    return "\n".join([f"    {header.get('command', 'unknown command')}", "", *lines])


def page(results: list[Results], images: dict[int, dict[str, str]]) -> str:
    """Return the page in Markdown.

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
            heading = f"### Cases in which a peer needs less than {summary.SLOWER} of our time"
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

    The page has two parts: CPUs, then GPUs and TPUs. A part without new results is not changed.

    Args:
      results: files of any suites. Results of `device` make the second part of the page.
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
