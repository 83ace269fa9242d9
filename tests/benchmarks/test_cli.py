"""The command line, and each suite once on tiny shapes."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

import seqjax
from benchmarks import cli, machine, peers
from benchmarks.cli import main
from benchmarks.peers import memax
from benchmarks.results import load
from benchmarks.settings import Settings, resolve
from benchmarks.suites import (
    SUITES,
    budget,
    cell_programs,
    decoding,
    linear,
    readers,
    scaling,
    train_step,
)
from benchmarks.tasks import imdb
from benchmarks.workload import Shape
from tests.benchmarks.helpers import results, row

pytestmark = pytest.mark.two_devices

TINY = "2,3,4,5"


@pytest.fixture(autouse=True)
def no_large_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "one_core_rate", lambda: None)
    monkeypatch.setattr(machine, "GemmRate", functools.partial(machine.GemmRate, size=8))


def settings(*names: str) -> Settings:
    chosen = {name: peers.load(name) for name in ("seqjax", *names)}
    return Settings(
        peers=chosen, short=True, repeats=1, cells=("lstm",), shapes=(Shape(2, 3, 4, 5),)
    )


def test_speed_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speed.json"
    arguments = ["speed", "--cells", "lstm", "--shapes", TINY, "--variants", "plain", "lengths"]
    arguments += ["--peers", "handwritten,flax_nnx", "--repeats", "2", "--output", str(path)]
    assert main(arguments) == 0
    found = load(path)
    assert len(found.rows) == 3 * 2 * 2
    for each in found.rows:
        assert each.cell == "lstm" and each.shape == (2, 3, 4, 5)
        assert len(each.samples_ms) == 2 and each.median_ms and each.gflops
        assert isinstance(each.agreement, float) and each.agreement < 1e-5
        assert (each.temp_bytes is not None) == (each.contestant == "seqjax")
    header = found.header
    assert header["command"].startswith("python -m benchmarks speed --cells lstm")
    assert str(tmp_path) not in json.dumps(header)
    assert {"jax", "flax", "python"} <= header["versions"].keys()
    assert header["gemm_gflops"] > 0 and header["cores"] >= 1 and header["platform"] == "cpu"
    printed = capsys.readouterr().out
    assert "lstm lengths 2,3,4,5" in printed and "geometric means" in printed

    page = tmp_path / "page.md"
    assert main(["report", str(path), "--output", str(page)]) == 0
    assert "lstm plain 2,3,4,5" in page.read_text()
    assert main(["compare", str(path), str(path)]) == 0


def test_drawn_shapes_can_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tuple(Shape(n, 2, 3, 4) for n in (1, 2))
    seeds = []

    def draw(count: int, seed: int) -> tuple[Shape, ...]:
        seeds.append(seed)
        return small[:count]

    monkeypatch.setattr(cli, "draw_shapes", draw)
    path = tmp_path / "speed.json"
    arguments = ["speed", "--cells", "elman", "--shapes", TINY, "--variants", "plain"]
    arguments += ["--peers", "seqjax", "--repeats", "1", "--output", str(path), "--random", "2"]
    assert main(arguments) == 0
    found = load(path)
    assert {row.shape for row in found.rows} == {(2, 3, 4, 5), *small}
    assert found.header["drawn_shapes"] == [list(shape) for shape in small]
    assert found.header["command"].endswith(f"--seed {seeds[0]}")
    assert f"--seed {seeds[0]}" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--seed", "7"]) == 0 and seeds[1] == 7
    assert load(path).header["command"].endswith("--seed 7")
    assert main([*arguments[:-2]]) == 0 and len(seeds) == 2  # none beside given shapes


def test_compare_leaves_with_one_for_a_regression(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results(row(ms=1.0)).save(old)
    results(row(ms=1.2)).save(new)
    assert main(["compare", str(old), str(new)]) == 1
    assert main(["compare", str(old), str(new), "--threshold", "0.5"]) == 0
    assert main(["compare", str(new), str(old)]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["speed", "--peers", "theano"], "peers: expected some of seqjax"),
        (["speed", "--cells", "lstm,rnn"], "cells: expected some of elman, lstm, gru; got 'rnn'"),
        (["speed", "--variants", "masked"], "variants: expected some of plain"),
        (["speed", "--shapes", "1,2,3"], "shapes: expected four positive integers"),
        (["speed", "--shapes", "1,2,3,0"], "got '1,2,3,0'"),
        (["speed", "--repeats", "0"], "repeats: expected a positive integer, got 0"),
        (["speed", "--devices", "0"], "devices: expected a positive integer, got 0"),
        (["speed", "--random", "-1"], "random, seed: expected at least 0"),
        (["memory", "--seed", "1"], "seed: expected none for suite memory"),
        (["memory", "--variants", "plain"], "variants: expected none for suite memory"),
        (["train_step", "--cells", "lstm"], "cells: expected none for suite train_step"),
        (["compare", "no.json", "no.json"], "results: expected a JSON file"),
        (["report"], "results: expected at least one results file"),
    ],
)
def test_mistakes_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_place_for_results_is_checked_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["speed", "--output", str(tmp_path)]) == 2
    assert "output: expected a file, got the folder" in " ".join(capsys.readouterr().err.split())
    path = tmp_path / "x.json"
    results(row(ms=1.0)).save(path)
    assert main(["report", str(path), "--output", str(tmp_path)]) == 2
    assert main(["report", str(path), "--output", str(path / "y.md")]) == 2
    assert "output: expected a folder, got the file" in " ".join(capsys.readouterr().err.split())


def test_streaming_keeps_the_latencies_of_single_steps() -> None:
    rows = SUITES["streaming"].run(settings("handwritten"), lambda text: None)
    assert {each.contestant for each in rows} == {"seqjax", "seqjax_layer", "handwritten"}
    for each in rows:
        assert each.shape == (1, 1, 4, 5) and len(each.samples_ms) == 1
        assert 0 < each.extra["p50_ms"] <= each.extra["p99_ms"]


def test_eager_times_calls_and_steps_of_a_layer() -> None:
    rows = SUITES["eager"].run(settings(), lambda text: None)
    assert [(each.what, each.variant) for each in rows] == [
        ("forward", "plain"), ("forward", "bidirectional"), ("step", "plain"),
    ]  # fmt: skip
    for each in rows:
        assert each.contestant == "seqjax" and each.shape == (2, 3, 4, 5)
        assert len(each.samples_ms) == 1
        assert isinstance(each.agreement, float) and each.agreement < 1e-5


def test_memory_measures_what_the_library_knows() -> None:
    said: list[str] = []
    rows = SUITES["memory"].run(settings(), said.append)
    names = {each.contestant for each in rows}
    assert {"handwritten", "seqjax remat=auto", "seqjax remat=none"} <= names
    assert all(each.samples_ms and each.temp_bytes is not None for each in rows)


def test_budgets_are_measured_for_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CELLS", ("min_gru",))
    monkeypatch.setattr(budget, "BUDGETS", (1,))
    rows = SUITES["budget"].run(settings(), lambda text: None)
    names = ["seqjax", "seqjax remat=none", "seqjax budget=1 MiB"]
    assert [each.contestant for each in rows] == names
    assert all(each.samples_ms and each.temp_bytes is not None for each in rows)


def test_linear_cells_run_by_loops_and_parallel_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "CELLS", {"lru": {"r_min": 0.5}})
    monkeypatch.setattr(memax, "lru", lambda cell: "not installed")
    rows = SUITES["linear"].run(settings(), lambda text: None)
    kernels = ["seqjax", "seqjax scan", "seqjax fused", "seqjax associative"]
    names = [*kernels, "handwritten", "associative_scan", "memax"]
    expected = [(what, name) for what in ("forward", "gradient") for name in names]
    assert [(each.what, each.contestant) for each in rows] == expected
    for each in rows:
        if each.contestant == "memax":
            assert each.reason == "not installed" and not each.samples_ms
        else:
            assert each.samples_ms and each.agreement is not None


def test_a_program_with_other_results_is_not_timed() -> None:
    cell = seqjax.cells.MinGRU(4, 5)
    right = cell_programs.unrolled(cell)
    contestants: dict[str, cell_programs.Apply | str] = {
        "right": right,
        "wrong": lambda params, xs: 1.01 * right(params, xs),
        "absent": "not installed",
    }
    rows = cell_programs.cell_rows("s", "min_gru", cell, Shape(2, 3, 4, 5), contestants, settings())
    assert [bool(each.samples_ms) for each in rows] == [True, False, False]
    assert [each.reason and each.reason[:14] for each in rows] == [
        None, "disagrees: res", "not installed",
    ]  # fmt: skip


def test_compile_times_both_phases() -> None:
    rows = SUITES["compile"].run(settings("handwritten"), lambda text: None)
    assert {(each.contestant, each.what) for each in rows} == {
        (name, what) for name in ("seqjax", "handwritten") for what in ("lower", "compile")
    }
    assert all(len(each.samples_ms) == 3 and each.min_ms for each in rows)


def test_scaling_changes_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "SHORT", {"batch": (2, 3), "hidden": (6,)})
    rows = SUITES["scaling"].run(settings("seqjax_sharded"), lambda text: None)
    shapes = [each.shape for each in rows if each.contestant == "seqjax"]
    assert shapes == [(2, 3, 4, 5), (3, 3, 4, 5), (2, 3, 6, 6)]
    reasons = [each.reason for each in rows if each.contestant == "seqjax_sharded"]
    assert reasons == [None, "a batch of 3 cannot be divided over 2 devices", None]


def test_policies_are_groups_of_one_batch() -> None:
    eight = dataclasses.replace(settings(), shapes=(Shape(16, 3, 4, 5), Shape(9, 3, 4, 5)))
    rows = SUITES["policies"].run(eight, lambda text: None)
    assert [each.contestant for each in rows] == [
        "seqjax", "seqjax, vmap, shared parameters", "seqjax, vmap, separate parameters",
    ] * 2  # fmt: skip
    for each in rows[:4]:
        assert each.samples_ms and isinstance(each.agreement, float) and each.agreement < 1e-5
    assert [each.reason for each in rows[4:]] == ["a batch of 9 has no 8 equal groups"] * 2


def test_resets_are_measured_only_on_request() -> None:
    def variants(*given: str) -> tuple[str, ...]:
        return resolve(
            peer_names="seqjax", short=True, repeats=1, given_cells=(), given_variants=given,
            given_shapes=(),
        ).variants  # fmt: skip

    assert "resets" not in variants()
    assert variants("plain,resets") == ("plain", "resets")


def test_train_step_runs_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_step, "TASKS", {"imdb": lambda short: [imdb(2, 3, 7)]})
    rows = SUITES["train_step"].run(settings("handwritten"), lambda text: None)
    assert [each.contestant for each in rows] == ["seqjax", "handwritten"]
    assert all(each.variant == "imdb" and each.samples_ms for each in rows)
    assert all(isinstance(each.agreement, float) and each.agreement < 1e-5 for each in rows)


def test_a_contestant_that_fails_makes_the_run_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = row("handwritten", None, reason="disagrees: outputs differ by 1.0e+00 of their scale")
    suite = SUITES["speed"]
    monkeypatch.setitem(
        SUITES, "speed", type(suite)(lambda settings, say: [row(), bad], suite.uses)
    )
    arguments = ["speed", "--peers", "handwritten", "--output", str(tmp_path / "a.json")]
    assert main(arguments) == 1


def test_decoding_counts_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"batch": 4, "steps": 4, "embed": 2, "hidden": 4, "vocabulary": 9}
    monkeypatch.setattr(decoding, "SIZES", sizes)
    rows = SUITES["decoding"].run(settings("seqjax_sharded"), lambda text: None)
    assert {(each.what, each.contestant) for each in rows if each.samples_ms} == {
        (what, name) for what in ("greedy", "beam 5") for name in ("seqjax", "seqjax_sharded")
    }
    for each in rows:
        assert each.median_ms is not None
        np.testing.assert_allclose(each.extra["sentences_per_s"], 4000 / each.median_ms)


def test_readers_stand_beside_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "SHORT", {"rows": 20, "seconds": 1, "bytes": 500})
    rows = SUITES["readers"].run(settings(), lambda text: None)
    table = [each for each in rows if each.cell == "table"]
    assert [each.contestant for each in table] == ["the library alone", "seqjax"]
    assert [each.setting for each in table] == ["pandas", "seqjax"]
    assert table[0].shape == (20, 6) and all(each.samples_ms for each in rows)
    assert {each.cell for each in rows} >= {"table", "text"}
