"""Results files: what is written is read again; comparing two files; the page made of them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, summary, tables
from benchmarks.compare import compare, pace, regressed, table
from benchmarks.results import Results, load
from benchmarks.workload import LARGEST, SIZES, Structure, draw_shapes, flops
from tests.benchmarks.helpers import results, row

LONG = (32, 4096, 128, 128)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    written = results(
        row(flops=10**9, agreement=1e-6, temp_bytes=5, extra={"p99_ms": 3.0}),
        row("haiku", None, reason="no lengths", agreement="different mathematics: relu"),
    )
    written.save(tmp_path / "out" / "a.json")
    assert load(tmp_path / "out" / "a.json") == written


def test_derived_figures() -> None:
    one = row(ms=2.0, flops=10**8)
    assert (one.median_ms, one.min_ms, one.gflops) == (2.0, 2.0, 50.0)
    assert results(one).percent_of_gemm(one) == 50.0
    nothing = row(ms=None, flops=10**8)
    assert (nothing.median_ms, nothing.min_ms, nothing.gflops) == (None, None, None)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"header": {}, "rows": [{}]}'])
def test_other_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results: expected a JSON file .* got .*b\.json"):
        load(path)
    with pytest.raises(ValueError, match=r"got .*missing\.json"):
        load(tmp_path / "missing.json")


def test_verdicts() -> None:
    old = results(row(ms=2.0), row("pytorch", 2.0), row("keras", 2.0), row("haiku", 2.0))
    new = results(row(ms=2.3), row("pytorch", 2.1), row("keras", 1.0), row("equinox", 2.0))
    verdicts = {verdict.key[-1]: verdict for verdict in compare(old, new)}
    assert {name: verdict.kind for name, verdict in verdicts.items()} == {
        "seqjax": "regression",
        "pytorch": "equal",
        "keras": "improvement",
        "haiku": "missing",
        "equinox": "added",
    }
    assert verdicts["seqjax"].ratio == pytest.approx(1.15)
    assert regressed([*verdicts.values()])
    without_haiku = dataclasses.replace(old, rows=old.rows[:3])
    assert not regressed(compare(without_haiku, new, threshold=0.2))
    assert not regressed(compare(old, old))
    lines = table([*verdicts.values()]).rows
    assert lines[0][2:] == ["seqjax", "2", "2.3", "1.15", "regression"]


def test_rows_of_other_cases_are_not_compared() -> None:
    old = results(row(ms=1.0), row(ms=1.0, what="forward"))
    new = results(row(ms=9.0, shape=(1, 2, 3, 4)), row(ms=9.0, variant="lengths", what="forward"))
    assert {verdict.kind for verdict in compare(old, new)} == {"missing", "added"}
    assert compare(results(row(ms=None)), results(row(ms=1.0)))[0].kind == "added"


def test_what_is_gone_is_a_regression() -> None:
    old = results(row(ms=1.0), row("pytorch", 1.0))
    assert regressed(compare(old, results(row("pytorch", 1.0))))
    assert regressed(compare(old, results(row(ms=None, reason="failed: x"), row("pytorch", 1.0))))
    assert not regressed(compare(results(row("pytorch", 1.0)), old))


def test_two_kinds_of_machines_are_compared_at_one_rate_of_products() -> None:
    old, new = results(row(ms=2.0), row("keras", 2.0)), results(row(ms=3.0), row("keras", 5.0))
    old.header.update(cpu="A", cores=2, gemm_gflops=200.0)
    new.header.update(cpu="B", cores=2, gemm_gflops=100.0)
    verdicts = compare(old, new)
    assert [verdict.ratio for verdict in verdicts] == [0.75, 1.25]
    assert [verdict.kind for verdict in verdicts] == ["improvement", "regression"]
    assert "times 0.5, the ratio of GEMM rates" in table(verdicts, pace(old, new)).title
    new.header["cpu"] = "A"
    assert [verdict.ratio for verdict in compare(old, new)] == [1.5, 2.5]
    assert table(verdicts, pace(old, new)).title == "compare"


def test_shapes_that_one_run_drew_are_left_out() -> None:
    old = results(row(ms=1.0), row(ms=1.0, shape=(9, 8, 7, 6)), row(ms=1.0, shape=(5, 5, 5, 5)))
    new = results(row(ms=1.0), row(ms=2.0, shape=(5, 5, 5, 5)))
    old.header["drawn_shapes"] = [[9, 8, 7, 6], [5, 5, 5, 5]]
    new.header["drawn_shapes"] = [[5, 5, 5, 5]]
    assert [verdict.kind for verdict in compare(old, new)] == ["equal", "regression"]


def test_the_case_that_we_lose_most_comes_first() -> None:
    slow, fast, alone = (4, 4, 4, 4), (5, 5, 5, 5), (6, 6, 6, 6)
    found = results(
        row(ms=1.0, shape=alone), row(ms=1.0, shape=fast), row("keras", 3.0, shape=fast),
        row(ms=2.0, shape=slow), row("pytorch", 1.0, shape=slow), row("keras", 9.0, shape=slow),
    )  # fmt: skip
    cases = [line[0] for line in tables.comparison(found, "speed").rows]
    assert cases == [f"lstm plain {','.join(map(str, s))}" for s in (slow, fast, alone)]


@pytest.mark.parametrize("seed", range(3))
def test_drawn_shapes(seed: int) -> None:
    shapes = draw_shapes(40, seed)
    assert shapes == draw_shapes(50, seed)[:40] and len(set(shapes)) == 40
    assert shapes != draw_shapes(40, seed + 1)
    for sizes, (least, most) in zip(zip(*shapes, strict=True), SIZES, strict=True):
        assert least <= min(sizes) and max(sizes) <= most
        assert max(sizes) > 4 * min(sizes)
    structures = [(Structure("lstm", s.inputs, s.hidden), s) for s in shapes]
    assert all(flops(one, s.batch, s.steps, "forward") <= LARGEST for one, s in structures)


@pytest.mark.parametrize(
    "change",
    [
        {"samples_ms": ["abc"]},
        {"samples_ms": [0.0]},
        {"samples_ms": [-1.0]},
        {"samples_ms": [float("nan")]},
        {"shape": "x"},
    ],
)
def test_nonsense_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "x.json"
    results(row(ms=1.0)).save(path)
    found = json.loads(path.read_text())
    found["rows"][0] |= change
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"results: expected a JSON file .*x\.json"):
        load(path)
    path.write_text(json.dumps({"header": "x", "rows": []}))
    with pytest.raises(ValueError, match=r"results: expected a JSON file .*x\.json"):
        load(path)
    path.write_bytes(b"\xfc\x00")
    with pytest.raises(ValueError, match=r"results: expected a JSON file .*x\.json"):
        load(path)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_threshold_is_checked(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold: expected a positive number"):
        compare(results(), results(), threshold)


def everything() -> Results:
    """Rows of all suites."""
    return results(
        row(ms=2.0, flops=10**8),
        row("pytorch", 1.0, agreement=1e-6),
        row("flax_nnx", 8.0, agreement="different mathematics: why"),
        row("haiku", None, reason="no lengths"),
        row(ms=3.0, variant="lengths"),
        row("pytorch", 4.0, variant="lengths"),
        row(suite="train_step", variant="imdb", what="step"),
        row("pytorch", 6.0, suite="train_step", variant="imdb", what="step"),
        row(suite="streaming", what="step", extra={"p99_ms": 9.0}),
        row("handwritten", 1.0, suite="streaming", what="step"),
        row("handwritten", 4.0, suite="memory", shape=LONG, temp_bytes=8_000_000),
        row("seqjax remat=sqrt", 6.0, suite="memory", shape=LONG, temp_bytes=2_000_000),
        *(
            row(name, ms * steps, suite="compile", what=what, shape=(8, steps, 64, 64))
            for name, ms in (("seqjax", 1.0), ("handwritten", 2.0))
            for steps in (1, 3)
            for what in ("lower", "compile")
        ),
        row(suite="scaling", variant="steps"),
        row("seqjax_sharded", 1.5, suite="scaling", variant="steps"),
        cpu="A processor",
        versions={"jax": "1.2.3"},
    )


def test_geometric_means_are_of_pairs() -> None:
    means = summary.geomeans(everything().rows)
    ratio, count = means["speed", "gradient", "pytorch"]
    assert ratio == pytest.approx((0.5 * 4 / 3) ** 0.5) and count == 2
    assert means["speed", "gradient", "flax_nnx"] == (4.0, 1)
    assert ("speed", "gradient", "haiku") not in means
    assert means["memory", "gradient", "seqjax remat=sqrt"] == (1.5, 1)


def test_highlights_and_losses() -> None:
    lines = "\n".join(summary.highlights(everything()))
    for expected in (
        "For the gradient, flax_nnx takes 4.00 times as long as seqjax (one case).",
        "lstm plain 32,100,512,512 (B,T,I,H), the gradient of seqjax runs at 50 % of the rate",
        "0.82 times as long as seqjax (best setting) (geometric mean over 2 cases).",
        "with lengths, divided by that without, is 1.50 for seqjax, 4.00 for pytorch.",
        "To lower and compile the gradient, handwritten takes 2.00 times as long as seqjax.",
        "the gradient of lstm takes 3.00 times as long for 3 steps as for 1.",
        "seqjax remat=sqrt needs 0.25 of the temporary memory of a plain scan, and takes 1.5 of",
        'In the suite `train_step`, for "step", pytorch takes 3.00 times as long as seqjax',
        'In the suite `streaming`, for "step", handwritten takes 0.50 times as long as seqjax',
    ):
        assert expected in lines
    assert summary.slower(everything().rows) == [
        'In the suite `speed`, for "gradient" in the case lstm plain 32,100,512,512 (B,T,I,H), '
        "pytorch takes 0.50 times as long as seqjax.",
        'In the suite `streaming`, for "step" in the case lstm plain 32,100,512,512 (B,T,I,H), '
        "handwritten takes 0.50 times as long as seqjax.",
    ]


def test_page_is_made_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    report.write([everything()], path)
    text = path.read_text()
    for expected in (
        "# Benchmarks",
        "python -m benchmarks speed",
        "A processor",
        "jax 1.2.3",
        "| lstm plain 32,100,512,512 | gradient | 2 | 1 (0.50×) | 8 (4.00×) † |",
        "In the suite `speed`, haiku was not timed for lstm plain (no lengths).",
        "![speed](images/benchmarks/speed.png)",
        "![memory](images/benchmarks/memory.png)",
        "![scaling](images/benchmarks/scaling.png)",
    ):
        assert expected in text
    plots = sorted(file.name for file in (path.parent / "images" / "benchmarks").iterdir())
    assert plots == ["memory.png", "scaling.png", "speed.png", "speed_means.png"]


def test_page_of_several_files_keeps_their_plots_apart(tmp_path: Path) -> None:
    report.write([everything(), results(row())], tmp_path / "page.md")
    assert "images/benchmarks/0/speed.png" in (tmp_path / "page.md").read_text()


@pytest.mark.parametrize(
    "value, text", [(None, "–"), (1234.5, "1234"), (99.96, "100"), (0.01234, "0.0123"), (0, "0")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert tables.number(value) == text
