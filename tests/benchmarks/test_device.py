"""Suite `device`: what a run survives, what it saves, and the tables made of it."""

import json
import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli as full_cli
from benchmarks.device import cases, cli, report, runner
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

    def ask(self, case: cases.Case, skip: Any, threads: int) -> None:
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
    assert started[2].asked["threads"] == 1


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
    assert [row.contestant for row in results.rows] == ["a", "a"]


def test_the_run_stops_at_its_budget(tmp_path: Path) -> None:
    results, started = run(
        tmp_path,
        [FACTS, [{"doing": fields(A)}, "hang"]],
        budget=20.0,
        only=("correctness", "training"),
    )
    assert len(started) == 2
    assert results.rows[0].contestant == "a"
    assert results.rows[0].reason == "stopped: the budget of 20 s was spent"
    assert {row.reason for row in results.rows[1:]} == {"not run: the budget of 20 s was spent"}
    assert len(results.rows) == 4


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
def test_a_whole_rehearsal(tmp_path: Path) -> None:
    """Everything that a CPU can do, on small sizes."""
    path = tmp_path / "device.json"
    assert cli.main(["--budget", "600", "--output", str(path)]) == 0
    rows = load(path).rows
    right = [row for row in rows if row.what == "correctness"]
    assert {row.cell for row in right} == set(__import__("seqjax").CELLS)
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
    "arguments", [["--budget", "0"], ["--limit", "-1"], ["--budget", "soon"], ["--output", "."]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert f"{arguments[0]}" in capsys.readouterr().err


def test_cases_name_only_what_there_is() -> None:
    import seqjax
    from benchmarks.device import worker

    for platform in ("cpu", "gpu", "tpu"):
        found = cases.all_cases(platform, tiny=False, faults=True)
        names = [case.name for case in found]
        assert len(set(names)) == len(names)
        for case in found:
            json.dumps(case.options)
            assert case.kind in worker.KINDS
            for setup in case.options.get("setups", ()):
                assert setup["kernel"] in ("auto", *seqjax.kernels.KERNELS)
                assert setup["precisions"]
                assert setup["kernel"] != "cudnn" or platform == "gpu"
                assert setup["kernel"] != "cudnn" or "bf16" not in setup["precisions"]


def timed(contestant: str, ms: float, **fields: Any) -> Row:
    given: dict[str, Any] = {"cell": "lstm", "variant": "plain", "shape": (32, 512, 256, 256)}
    what = fields.pop("what", "gradient")
    row = described(what, contestant, fields.pop("precision", "bf16"), **given | fields)
    return measured(row, [ms / 1e3], flops=10**9)


def test_tables_compare_within_a_precision_and_a_process() -> None:
    rows = [
        timed("fused", 4.0),
        timed("pytorch", 8.0),
        timed("fused", 5.0, precision="tf32"),
        timed("fused, WHILE in graphs", 2.0),
        timed("pytorch, WHILE in graphs", 7.0),
    ]
    (table,) = report.speed_tables(Results({"matrix_tflops": {"bf16": 10.0}}, rows))
    assert table.header == [
        "B,T,I,H", "what", "precision", "fused", "fused, WHILE in graphs", "pytorch", "% of rate",
    ]  # fmt: skip
    bf16, tf32 = table.rows
    assert bf16[3:] == ["4 ms, 7.81 µs, 2.00×", "2 ms, 3.91 µs, 3.50×", "8 ms, 15.6 µs", "5"]
    assert tf32[3:] == ["5 ms, 9.77 µs", "–", "–", "–"]


def test_later_runs_replace_whole_cases() -> None:
    first = Results({}, [timed("fused", 4.0), timed("scan", 6.0), timed("fused", 9.0, cell="gru")])
    failed = measured(described("gradient", "all", cell="gru", variant="plain",
                                shape=(32, 512, 256, 256)), reason="not run")  # fmt: skip
    second = Results({}, [timed("fused", 3.0), failed])
    found = {
        (row.cell, row.contestant): row.median_ms for row in report.merged([first, second]).rows
    }
    assert found == {("lstm", "fused"): 3.0, ("gru", "fused"): 9.0}


def test_the_page_keeps_the_other_part(tmp_path: Path) -> None:
    """Results of one kind of machine replace their part of the page and leave the other."""
    page, chip, cpu = tmp_path / "page.md", tmp_path / "chip.json", tmp_path / "cpu.json"
    page.write_text("# Benchmarks\n\nAbout CPUs.\n")
    Results({"device_kind": "Chip One"}, [timed("fused", 4.0), timed("pytorch", 8.0)]).save(chip)
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
    assert "About CPUs" not in both and "Made by `python -m benchmarks report`" in both
    assert both[both.index("## GPUs and TPUs") :] == first[first.index("## GPUs and TPUs") :]
