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
    """Run one suite of benchmarks, or all of them.

    There are three other commands. `device` measures a GPU or TPU (`device --help` lists its
    options), `compare a.json b.json` compares results, and `report a.json ...` writes the page.
    """

    suite: Annotated[
        Literal[
            "speed",
            "train_step",
            "decoding",
            "streaming",
            "sessions",
            "eager",
            "memory",
            "budget",
            "compile",
            "deferred",
            "linear",
            "parts",
            "readers",
            "scaling",
            "policies",
            "all",
        ],
        tyro.conf.Positional,
    ]
    """The suite to run."""
    short: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure fewer shapes, contestants and repetitions."""
    peers: str | None = None
    """Names of contestants, separated by commas. By default, all that are installed."""
    cells: tuple[str, ...] = ()
    """Cells: elman, lstm, gru."""
    shapes: tuple[str, ...] = ()
    """Shapes, each B,T,I,H; by default those of the suite."""
    random: int | None = None
    """Number of random shapes in suite speed: by default 10, 2 with --short, none with --shapes."""
    seed: int | None = None
    """Seed of the random shapes; by default a new seed, which is printed."""
    variants: tuple[str, ...] = ()
    """Variants: plain, lengths, bidirectional; and resets, which is measured only on request."""
    devices: int = 2
    """Number of CPU devices. The contestant "seqjax_sharded" divides the batch over the devices;
    all other contestants use one device."""
    repeats: int | None = None
    """Number of timed repetitions; by default 9, or 5 with --short."""
    output: Path | None = None
    """The results file; by default out/benchmarks/SUITE.json."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare two results files; the exit code is 1 if anything became slower."""

    old: Annotated[Path, tyro.conf.Positional]
    """The earlier results."""
    new: Annotated[Path, tyro.conf.Positional]
    """The later results."""
    threshold: float = 0.1
    """The relative change of a time above which the time counts as slower or faster."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the page of results."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results files."""
    output: Path = Path("docs/benchmarks.md")
    """The page; plots are written to images/benchmarks beside it."""


def main(arguments: Sequence[str]) -> int:
    """Run a command.

    Args:
      arguments: the command line without the program's name.

    Returns:
      The exit code: 0 for success, 1 for a regression or a contestant that failed, 2 for a wrong
      argument.
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
                raise ValueError("results: expected at least one results file, got none")
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
    """Return the command that reproduces a run. The option `--output` is left out."""
    kept = list(arguments)
    if "--output" in kept:
        place = kept.index("--output")
        del kept[place : place + 2]
    return shlex.join(["python", "-m", "benchmarks", *kept])


def _check_used(options: Run) -> None:
    """Raise ValueError for options that the suite would ignore."""
    if options.suite == "all":
        return
    for name in ("cells", "variants", "shapes"):
        if getattr(options, name) and name not in SUITES[options.suite].uses:
            raise ValueError(
                f"{name}: expected none for suite {options.suite}, which does not use it; "
                f"got {' '.join(getattr(options, name))}"
            )


def _require_file(path: Path) -> None:
    """Raise ValueError if no file can be written at this path."""
    if path.is_dir():
        raise ValueError(f"output: expected a file, got the folder {path}")
    for parent in path.parents:
        if parent.exists():
            if not parent.is_dir():
                raise ValueError(f"output: expected a folder, got the file {parent}")
            return


def _configure_devices(count: int) -> None:
    """Ask JAX for CPU devices, which is possible only before JAX is first used."""
    if count < 1:
        raise ValueError(f"devices: expected a positive integer, got {count}")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.device_count() != count:
            raise ValueError(
                f"devices: expected {jax.device_count()}, since JAX is already in use; got {count}"
            ) from None


def _draw(options: Run, command: str) -> tuple[tuple[Shape, ...], str]:
    """Return random shapes, and the command that draws the same shapes again."""
    if options.suite not in ("speed", "all"):
        for name in ("random", "seed"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name}: expected none for suite {options.suite}, got a value")
        return (), command
    usual = 0 if options.shapes else 2 if options.short else 10
    count = usual if options.random is None else options.random
    if count < 0 or (options.seed or 0) < 0:
        raise ValueError("random, seed: expected at least 0")
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
    """Run one suite or all of them, print tables, and save the results."""
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
