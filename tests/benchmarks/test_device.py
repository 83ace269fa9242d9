"""Suite `device`: what a run survives, what it saves, and the tables made of it."""

import json
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

import seqjax
from benchmarks import cli as full_cli
from benchmarks.device import cases, cli, correctness, report, runner
from benchmarks.device.rows import described, measured
from benchmarks.results import Results, Row, load

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Script:
    """A worker that says what a test wrote down: messages, "hang", or "end" without a word."""

    def __init__(self, clock: Clock, script: list[Any]) -> None:
        self.flags = ""
        self.asked: dict[str, Any] = {}
        self.stopped = False
        self._clock, self._script = clock, [{"ready": 1}, *script]

    def ask(self, case: cases.Case, skip: Any, threads: int, seconds: float) -> None:
        self.asked = {"case": case, "skip": list(skip), "threads": threads}

    def message(self, timeout: float) -> Any:
        self._clock.now += 1.0
        found = self._script.pop(0) if self._script else None
        if found == "hang":
            self._clock.now += timeout
            raise queue.Empty
        return found

    def stop(self) -> None:
        self.stopped = True

    def ending(self) -> str:
        return "signal SIGSEGV"


def fields(row: Row) -> dict[str, Any]:
    return json.loads(json.dumps(row.__dict__))


A, B, C = (described("forward", name, "bf16", cell="lstm", shape=(2, 3, 4, 5)) for name in "abc")
ENDS: list[Any] = [{"end": True}]


def run(tmp_path: Path, scripts: list[list[Any]], **changes: Any) -> tuple[Results, list[Script]]:
    """Run the facts and one case with workers that follow scripts; the rest meets no budget."""
    clock, started = Clock(), []

    def start(flags: str) -> Any:
        worker = Script(clock, scripts.pop(0))
        worker.flags = flags
        started.append(worker)
        return worker

    options: dict[str, Any] = {
        "budget": 1000.0,
        "limit": 30.0,
        "tiny": True,
        "faults": False,
        "only": ("correctness float32",),
        "header": {"command": "test"},
        "output": tmp_path / "device.json",
    }
    made = runner.Runner(
        runner.Options(**options | changes), lambda _: None, start=start, clock=clock
    )
    made._ahead = False
    results = made.run()
    assert all(worker.stopped for worker in started)
    saved = load(tmp_path / "device.json")
    assert saved.rows == results.rows
    return results, started


FACTS = [{"header": {"platform": "cpu", "device_kind": "some chip"}}, {"end": True}]


def test_rows_and_header_are_saved(tmp_path: Path) -> None:
    done = measured(A, [0.001, 0.003, 0.002])
    results, _ = run(tmp_path, [FACTS, [{"doing": fields(A)}, {"row": fields(done)}, *ENDS]])
    assert results.rows == [done] and done.median_ms == 2.0
    assert results.header["device_kind"] == "some chip" and results.header["command"] == "test"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (["hang"], "timed out: no progress in 30 s"),
        ([], "ended early: signal SIGSEGV"),
        ([{"failed": "failed: ValueError: no"}], "failed: ValueError: no"),
    ],
    ids=["hang", "crash", "error"],
)
def test_a_fault_costs_one_row(tmp_path: Path, fault: list[Any], reason: str) -> None:
    """The row before it is kept, it becomes a row, and a new process measures what follows."""
    first = [{"doing": fields(A)}, {"row": fields(measured(A, [0.001]))}, {"doing": fields(B)}]
    second = [{"doing": fields(C)}, {"row": fields(measured(C, [0.002]))}, *ENDS]
    results, started = run(tmp_path, [FACTS, [*first, *fault], second])
    assert [(row.contestant, row.reason) for row in results.rows] == [
        ("a", None), ("b", reason), ("c", None),
    ]  # fmt: skip
    assert started[2].asked["skip"] == [
        ("lstm", "a", "forward", "bf16"),
        ("lstm", "b", "forward", "bf16"),
    ]
    assert started[2].asked["threads"] == started[1].asked["threads"]


def test_a_crash_among_programs_that_compile_side_by_side_blames_none(tmp_path: Path) -> None:
    first = [{"doing": fields(A)}, {"doing": None}]
    second = [{"doing": fields(A)}]
    third = [{"row": fields(measured(B, [0.002]))}, *ENDS]
    results, started = run(tmp_path, [FACTS, first, second, third])
    assert [(row.contestant, row.reason) for row in results.rows] == [
        ("a", "ended early: signal SIGSEGV"), ("b", None),
    ]  # fmt: skip
    assert started[1].asked["skip"] == started[2].asked["skip"] == []
    assert started[1].asked["threads"] >= 1 and started[2].asked["threads"] == 1


def test_a_fault_that_comes_again_ends_the_case(tmp_path: Path) -> None:
    results, started = run(tmp_path, [FACTS, *[[{"doing": fields(A)}]] * 2])
    assert len(started) == 3
    assert [row.contestant for row in results.rows] == ["a", "all"]
    assert results.rows[-1].reason == "ended early: signal SIGSEGV"


def test_an_error_that_no_row_is_blamed_for_ends_the_case(tmp_path: Path) -> None:
    """It would come again: a module that cannot be imported, say."""
    results, started = run(tmp_path, [FACTS, [{"failed": "failed: ImportError: torch"}]])
    assert len(started) == 2
    (row,) = results.rows
    assert row.contestant == "all" and row.reason == "failed: ImportError: torch"


def test_compiling_may_take_longer(tmp_path: Path) -> None:
    slow = [{"doing": fields(A), "slow": True}, "hang"]
    results, _ = run(tmp_path, [FACTS, slow, ENDS], limit=10.0)
    assert results.rows[0].reason == "timed out: no progress in 30 s"


def test_rates_come_from_the_rows_of_the_facts(tmp_path: Path) -> None:
    """So a fault among the facts does not lose those that were measured before it."""
    copy = described("copy", "jax", variant="machine")
    product = described("product", "jax", "bf16", variant="machine")
    first = [FACTS[0], {"row": fields(measured(copy, [1.0], extra={"gb_per_s": 3.0}))}]
    second = [{"row": fields(measured(product, [1.0], extra={"tflops": 7.0}))}, *ENDS]
    results, _ = run(tmp_path, [[*first, {"doing": fields(product)}, "hang"], second, ENDS])
    assert results.header["copy_gb_per_s"] == 3.0
    assert results.header["matrix_tflops"] == {"bf16": 7.0}


def test_without_facts_nothing_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="device: expected one that JAX can use, got failed: no GPU"
    ):
        run(tmp_path, [[{"failed": "failed: no GPU"}]])


def test_a_name_that_fits_no_case(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--only: .*got elman; the names are: correctness float32;"
    ):
        run(tmp_path, [FACTS], only=("elman",))
    results, _ = run(tmp_path, [FACTS, ENDS], only=("TRAINING trans",))
    assert results.rows == []


def test_the_run_stops_at_its_budget(tmp_path: Path) -> None:
    results, started = run(
        tmp_path,
        [FACTS, [{"doing": fields(A)}, "hang"]],
        budget=20.0,
        only=("correctness", "training"),
    )
    assert len(started) == 2
    assert results.rows[0].contestant == "all"
    assert results.rows[0].reason == "stopped: the budget of 20 s was spent"
    assert {row.reason for row in results.rows[1:]} == {"not run: the budget of 20 s was spent"}
    assert len(results.rows) == 4


@pytest.mark.slow
def test_processes_that_crash_and_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with real processes."""
    path = tmp_path / "device.json"
    arguments = ["--faults", "--only", "on purpose", "--limit", "20", "--budget", "120"]
    assert cli.main([*arguments, "--output", str(path), "--commit", "abc"]) == 1
    found = load(path)
    faults = {row.contestant: row.reason for row in found.rows if row.what == "fault"}
    assert faults["crash"] == "ended early: signal SIGSEGV"
    assert faults["hang"] == "timed out: no progress in 20 s"
    assert faults["raise"] == "failed: RuntimeError: on purpose"
    assert faults["before"] is None and faults["after"] is None
    assert len(found.rows) == 3 * 3 + 2  # before, the fault, after; a copy and a product
    header = found.header
    assert header["commit"] == "abc" and header["platform"] == "cpu"
    assert header["command"] == "python -m benchmarks device " + " ".join(
        [*arguments[:2], "'on purpose'", *arguments[3:]]
    )
    assert header["matrix_tflops"]["float32"] > 0 and header["copy_gb_per_s"] > 0
    assert "timed out: no progress in 20 s" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path: Path, sent: signal.Signals) -> None:
    """Whatever ends the run ends its workers, and the file has what was measured before."""
    path = tmp_path / "device.json"
    command = [sys.executable, "-m", "benchmarks", "device", "--faults", "--only", "hang"]
    parent = subprocess.Popen(
        [*command, "--output", str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert parent.stdout is not None
    for line in parent.stdout:
        if "hang on purpose" in line:
            break
    until(lambda: children(parent.pid))
    (worker,) = children(parent.pid)
    parent.send_signal(sent)
    printed = parent.stdout.read()
    code = parent.wait(timeout=60)
    until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))
    assert load(path).header["platform"] == "cpu"
    if sent is not signal.SIGKILL:
        assert code == 130 and "Stopped. Results: " in printed and "Traceback" not in printed


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = entry.read_text().partition(" (")
        except OSError:
            continue
        state, of = rest.rpartition(") ")[2].split()[:2]
        if int(of) == parent and state != "Z":
            found.append(int(pid))
    return found


def is_zombie(pid: int) -> bool:
    """Says if a process has ended, and only its parent has not asked for its exit code."""
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("name", seqjax.CELLS)
def test_every_cell_accepts_the_numbers_it_is_compared_with(name: str) -> None:
    """`unroll` checks the values, such as those of times, since they are not traced."""
    cell = seqjax.CELLS[name](input_size=3, hidden_size=4)
    params, xs, state, _, mask, resets = correctness.draw(cell, 2, 5, "float32")
    outputs, _ = jax.eval_shape(
        lambda: seqjax.unroll(
            cell, params, xs, state=state, mask=mask, resets=resets, time_major=True
        )
    )
    assert outputs.shape == (5, 2, *cell.output_shape)
    assert not cell.reads_elapsed or (xs[..., -1] >= 0).all()


@pytest.mark.slow
def test_a_whole_rehearsal(tmp_path: Path) -> None:
    """Everything that a CPU can do, on small sizes."""
    path = tmp_path / "device.json"
    assert cli.main(["--budget", "1200", "--output", str(path)]) == 0
    rows = load(path).rows
    right = [row for row in rows if row.what == "correctness"]
    assert {row.cell for row in right} == set(seqjax.CELLS)
    assert all(isinstance(row.agreement, float) and row.agreement < 5e-2 for row in right)
    timed = [row for row in rows if row.what in ("forward", "gradient") and row.median_ms]
    assert {row.variant for row in timed} == {"plain", "lengths", "resets"}
    assert {"fused", "fused, unroll 4", "scan", "associative", "auto"} <= {
        row.contestant for row in timed
    }
    assert {row.variant for row in rows if row.what == "step" and row.median_ms} == {
        "translation",
        "language_model",
    }


def test_it_starts_without_what_only_other_suites_need() -> None:
    """Tyro and matplotlib are not needed to measure."""
    program = (
        "import sys\n"
        "for name in ('tyro', 'matplotlib'): sys.modules[name] = None\n"
        "import benchmarks.__main__ as main\n"
        "from benchmarks.device import conformance, correctness, facts, fault, runner, speed\n"
        "from benchmarks.device import training, worker\n"
        "main.main(['device', '--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--budget SECONDS" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--budget", "0"],
        ["--limit", "-1"],
        ["--budget", "soon"],
        ["--output", "."],
        ["--output", "/proc/no/such/place.json"],
        ["--out", "x.json"],
    ],
    ids=" ".join,
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert f"{arguments[0]}" in capsys.readouterr().err


def test_cases_name_only_what_there_is() -> None:
    import seqjax
    from benchmarks.device import worker

    for platform in ("cpu", "cuda", "rocm", "tpu"):
        found = cases.all_cases(platform, tiny=False, faults=True)
        names = [case.name for case in found]
        assert len(set(names)) == len(names)
        for case in found:
            json.dumps(case.options)
            assert case.kind in worker.KINDS
            for setup in case.options.get("setups", ()):
                assert setup["kernel"] in ("auto", *seqjax.kernels.KERNELS)
                assert setup["precisions"]
                assert setup["kernel"] != "cudnn" or platform == "cuda"
                assert setup["kernel"] != "cudnn" or "bf16" not in setup["precisions"]


def timed(contestant: str, ms: float, **fields: Any) -> Row:
    given: dict[str, Any] = {"cell": "lstm", "variant": "plain", "shape": (32, 512, 256, 256)}
    what = fields.pop("what", "gradient")
    row = described(what, contestant, fields.pop("precision", "bf16"), **given | fields)
    return measured(row, [ms / 1e3], flops=10**9)


def test_tables_compare_within_a_precision_and_a_process() -> None:
    """A case with flags of its own has its own table, with its own PyTorch."""
    rows = [
        timed("fused", 4.0),
        timed("pytorch", 8.0),
        timed("fused", 5.0, precision="tf32"),
        timed("fused, WHILE in graphs", 2.0),
        timed("pytorch, WHILE in graphs", 7.0),
    ]
    found = report.speed_tables(Results({"matrix_tflops": {"bf16": 10.0}}, rows))
    assert [table.title for table in found] == ["lstm, plain", "lstm, plain, WHILE in graphs"]
    for table in found:
        assert table.header[3:] == ["fused", "pytorch", "% of rate"]
    (bf16, tf32), (graphs,) = (table.rows for table in found)
    assert bf16[3:] == ["4 ms, 7.81 µs, 2.00×", "8 ms, 15.6 µs", "2.5"]
    assert tf32[3:] == ["5 ms, 9.77 µs", "–", "–"]
    assert graphs[3:] == ["2 ms, 3.91 µs, 3.50×", "7 ms, 13.7 µs", "5"]


def test_every_case_is_found_again_by_its_rows() -> None:
    """The report knows a row's case by what stands in the row."""
    for case in cases.all_cases("cuda", tiny=False, faults=True):
        if case.kind == "speed":
            suffix = case.options.get("suffix", "")
            row = timed(f"fused{suffix}", 1.0, **{
                name: case.options[name] for name in ("cell", "variant", "shape")
            })  # fmt: skip
        elif case.kind == "correctness":
            row = described("correctness", "scan", case.options["precision"])
        elif case.kind == "training":
            row = described("step", "seqjax", variant=case.options["task"])
        elif case.kind == "fault":
            row = described("fault", case.options["fault"])
        else:
            row = described("tests", "pytest")
        assert report.case_of(row) == case.name


def test_the_last_run_that_had_time_for_a_case_counts() -> None:
    def whole(reason: str, cell: str = "lstm") -> Row:
        row = described(f"speed {cell} plain 32,512,256,256", "all", cell=cell)
        return measured(row, reason=reason)

    rates = {"matrix_tflops": {"bf16": 10.0}}
    first = Results(
        rates, [timed("fused", 4.0), timed("scan", 6.0), timed("fused", 9.0, cell="gru")]
    )
    second = Results(
        {"matrix_tflops": {"bf16": 20.0}},
        [timed("fused", 3.0), whole("not run: the budget of 9 s was spent", "gru")],
    )
    rows = report.merged([first, second]).rows
    assert {(row.cell, row.contestant): row.median_ms for row in rows} == {
        ("lstm", "fused"): 3.0, ("gru", "fused"): 9.0,
    }  # fmt: skip
    # Shares are of the rate that the same run measured.
    assert [row.extra["rate_tflops"] for row in rows] == [20.0, 10.0]
    shares = {table.title: table.rows[0][-1] for table in report.speed_tables(
        report.merged([first, second])
    )}  # fmt: skip
    assert shares == {"lstm, plain": "1.7", "gru, plain": "1.1"}
    # A newer failure is not hidden by an older success.
    wrong = measured(described("gradient", "fused", "bf16", cell="lstm", variant="plain",
                               shape=(32, 512, 256, 256)), reason="disagrees: 9e-01")  # fmt: skip
    (row, *_) = report.merged([first, Results(rates, [wrong])]).rows
    assert row.reason == "disagrees: 9e-01"
    (row, *_) = report.merged([first, Results(rates, [whole("ended early: signal")])]).rows
    assert row.reason == "ended early: signal"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (None, 0),
        ("not run: the budget of 9 s was spent", 0),
        ("not installed: torch", 0),
        ("failed: 2 tests: a, b", 1),
        ("disagrees: 1e-1 is above 1e-3", 1),
        ("timed out: no progress in 3 s", 1),
        ("stopped: the case took too long", 1),
    ],
)
def test_exit_codes(reason: str | None, code: int) -> None:
    assert cli.exit_code(Results({}, [measured(A, reason=reason)])) == code


@pytest.mark.parametrize("header", [{"platform": "cpu"}, {"platform": "cuda", "tiny": True}, {}])
def test_a_rehearsal_is_no_report(
    tmp_path: Path, header: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    page, path = tmp_path / "page.md", tmp_path / "device.json"
    Results(header, [timed("fused", 4.0)]).save(path)
    assert full_cli.main(["report", str(path), "--output", str(page)]) == 2
    assert "got a rehearsal" in " ".join(capsys.readouterr().err.split())
    assert not page.exists()


def test_the_page_keeps_the_other_part(tmp_path: Path) -> None:
    """Results of one kind of machine replace their part of the page and leave the other."""
    page, chip, cpu = tmp_path / "page.md", tmp_path / "chip.json", tmp_path / "cpu.json"
    page.write_text("# Benchmarks\n\nAbout CPUs.\n")
    Results(
        {"device_kind": "Chip One", "platform": "cuda"},
        [timed("fused", 4.0), timed("pytorch", 8.0)],
    ).save(chip)
    assert full_cli.main(["report", str(chip), "--output", str(page)]) == 0
    first = page.read_text()
    assert first.startswith("# Benchmarks\n\nAbout CPUs.\n") and "### Chip One" in first
    assert "| 4 ms, 7.81 µs, 2.00× |" in first
    assert full_cli.main(["report", str(chip), "--output", str(page)]) == 0
    assert page.read_text() == first

    from tests.benchmarks.helpers import results, row

    results(row()).save(cpu)
    assert full_cli.main(["report", str(cpu), "--output", str(page)]) == 0
    both = page.read_text()
    assert "About CPUs" not in both and "`python -m benchmarks report` made the lists" in both
    assert both[both.index("## GPUs and TPUs") :] == first[first.index("## GPUs and TPUs") :]
