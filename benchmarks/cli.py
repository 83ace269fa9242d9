"""The command line: run suites, compare results, write the report."""

import dataclasses
import functools
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from rich.console import Console

from benchmarks import compare as comparing
from benchmarks import machine, report, settings, summary, tables
from benchmarks.results import Results, Row, load
from benchmarks.suites import SUITES
from benchmarks.workload import Shape, draw_shapes

__all__ = ["Compare", "Report", "Run", "main"]


@dataclasses.dataclass(frozen=True)
class Run:
    """Runs a suite, or all. Beside suites: `device` for a GPU or TPU (`device --help`),
    `compare a.json b.json`, `report a.json ...`.
    """

    suite: Annotated[
        Literal[
            "speed",
            "train_step",
            "decoding",
            "streaming",
            "sessions",
            "memory",
            "compile",
            "deferred",
            "parts",
            "readers",
            "scaling",
            "all",
        ],
        tyro.conf.Positional,
    ]
    """What to measure."""
    short: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fewer shapes, contestants and repetitions."""
    peers: str | None = None
    """Contestants, joined by commas; all that are installed if not given."""
    cells: tuple[str, ...] = ()
    """Cells: elman, lstm, gru."""
    shapes: tuple[str, ...] = ()
    """Shapes, each B,T,I,H; a suite's own if not given."""
    random: int | None = None
    """Shapes that suite speed draws besides: 10, 2 with --short, none with --shapes."""
    seed: int | None = None
    """The seed they are drawn from. Without one, a new seed is taken and printed."""
    variants: tuple[str, ...] = ()
    """Variants: plain, lengths, bidirectional."""
    devices: int = 2
    """CPU devices over which "seqjax_sharded" splits the batch; all others use one."""
    repeats: int | None = None
    """Timed repetitions: 9, or 5 with --short."""
    output: Path | None = None
    """The results file; out/benchmarks/SUITE.json if not given."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares two results files; leaves with 1 if anything became slower."""

    old: Annotated[Path, tyro.conf.Positional]
    """The results before."""
    new: Annotated[Path, tyro.conf.Positional]
    """The results after."""
    threshold: float = 0.1
    """The relative change that is more than noise."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes the page of results."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results files."""
    output: Path = Path("docs/benchmarks.md")
    """The page; plots go to images/benchmarks beside it."""


def main(arguments: Sequence[str]) -> int:
    """Runs a command.

    Args:
      arguments: the command line without the program's name.

    Returns:
      The exit code: 0; 1 for a regression or a contestant that failed; 2 for a wrong argument.
    """
    console = Console(soft_wrap=True)
    program = "python -m benchmarks"
    try:
        if arguments and arguments[0] == "compare":
            found = tyro.cli(Compare, args=arguments[1:], prog=f"{program} compare")
            old, new = load(found.old), load(found.new)
            verdicts = comparing.compare(old, new, found.threshold)
            tables.show(comparing.table(verdicts, comparing.pace(old, new)), console)
            return int(comparing.regressed(verdicts))
        if arguments and arguments[0] == "report":
            asked = tyro.cli(Report, args=arguments[1:], prog=f"{program} report")
            if not asked.results:
                raise ValueError("results: expected one results file or more, got none")
            _require_file(asked.output)
            report.write([load(path) for path in asked.results], asked.output)
            console.print(f"Wrote {asked.output}")
            return 0
        options = tyro.cli(Run, args=arguments, prog=program)
        return run(options, _command(arguments), console)
    except ValueError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False)
        return 2


def _command(arguments: Sequence[str]) -> str:
    """What reproduces a run, but for where its results go."""
    kept = list(arguments)
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return shlex.join(["python", "-m", "benchmarks", *kept])


def _check_used(options: Run) -> None:
    """Options that the suite would ignore are mistakes."""
    if options.suite == "all":
        return
    for name in ("cells", "variants", "shapes"):
        if getattr(options, name) and name not in SUITES[options.suite].uses:
            raise ValueError(
                f"{name}: expected none for suite {options.suite}, which does not use it; "
                f"got {' '.join(getattr(options, name))}"
            )


def _require_file(path: Path) -> None:
    """Raises where no file can be written."""
    if path.is_dir():
        raise ValueError(f"output: expected a file, got the folder {path}")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"output: expected a folder, got the file {parent}")
            return


def _configure_devices(count: int) -> None:
    """Asks JAX for CPU devices, which can only be done before it is first used."""
    if count < 1:
        raise ValueError(f"devices: expected a positive integer, got {count}")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.device_count() != count:
            raise ValueError(
                f"devices: expected {jax.device_count()}, JAX being in use already; got {count}"
            ) from None


def _draw(options: Run, command: str) -> tuple[tuple[Shape, ...], str]:
    """Return the shapes to draw, and the command with the seed that gives them again."""
    if options.suite not in ("speed", "all"):
        for name in ("random", "seed"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name}: expected none for suite {options.suite}, got a value")
        return (), command
    usual = 0 if options.shapes else 2 if options.short else 10
    count = usual if options.random is None else options.random
    if count < 0 or (options.seed or 0) < 0:
        raise ValueError("random, seed: expected no negative number")
    if not count:
        return (), command
    seed = options.seed
    if seed is None:
        seed = secrets.randbelow(2**31)
        command += f" --seed {seed}"
    return draw_shapes(count, seed), command


def _say(console: Console, suite: str, text: str) -> None:
    console.print(f"{suite}: {text}", highlight=False)


def run(options: Run, command: str, console: Console) -> int:
    """Runs one suite or all of them, prints tables, and saves the results."""
    _check_used(options)
    output = options.output or Path("out/benchmarks") / f"{options.suite}.json"
    _require_file(output)  # before anything is measured
    _configure_devices(options.devices)
    drawn, command = _draw(options, command)
    if drawn:
        sizes = " ".join(",".join(map(str, shape)) for shape in drawn)
        console.print(f"{command}\nDrawn shapes: {sizes}", highlight=False)
    resolved = settings.resolve(
        peer_names=options.peers,
        short=options.short,
        repeats=options.repeats,
        given_cells=options.cells,
        given_variants=options.variants,
        given_shapes=options.shapes,
        drawn=drawn,
    )
    for name, reason in resolved.missing.items():
        console.print(f"{name}: {reason}", highlight=False)
    found: dict[str, str] = {}
    threads: dict[str, int] = {}
    for peer in resolved.peers.values():
        found |= peer.versions()
        threads |= peer.threads()
    header = machine.describe(command, found)
    header["threads"] |= threads
    header["missing"] = dict(resolved.missing)
    header["drawn_shapes"] = [list(shape) for shape in drawn]
    header["gemm_one_core_gflops"] = machine.one_core_rate()
    gemm = machine.GemmRate()
    rows: list[Row] = []
    for suite in SUITES if options.suite == "all" else [options.suite]:
        gemm.measure()
        rows += SUITES[suite].run(resolved, functools.partial(_say, console, suite))
        gemm.measure()
        header |= {"gemm_gflops": gemm.best, "load_after": machine.load_average()}
        Results(header, rows).save(output)  # after each suite, so that nothing is lost
        tables.show(tables.comparison(Results(header, rows), suite), console)
    if means := summary.geomeans(rows):
        tables.show(tables.geomean_table(means), console)
    for remark in tables.remarks(rows):
        console.print(remark, markup=False, highlight=False)
    console.print(f"GEMM rate {gemm.best:.0f} GF/s. Results: {output}", highlight=False)
    return int(any((row.reason or "").startswith(("failed", "disagrees")) for row in rows))
