"""Figures over several seeds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples import curves, three_seeds


def test_runs_that_are_done_are_summed_up(tmp_path, capsys, monkeypatch):
    commands = []

    def finished(command, *, check):
        commands.append(command)
        place = Path(command[command.index("--out") + 1])
        place.mkdir(parents=True)
        seed = int(command[command.index("--seed") + 1])
        record = {"figures": {"accuracy": 0.5 + seed}, "parameters": 7, "epochs": 3, "minutes": 2.0}
        (place / "result.json").write_text(json.dumps(record))

    monkeypatch.setattr(subprocess, "run", finished)
    found = three_seeds.main(
        ["addition", "--seeds", "0", "2", "--out", str(tmp_path), "--digits", "2"]
    )
    assert [record["accuracy"] for record in found] == [0.5, 2.5]
    for command in commands:
        assert command[:5] == [sys.executable, "-m", "examples.addition", "--digits", "2"]
        assert "--resume" in command
    printed = capsys.readouterr().out
    assert "accuracy: 1.5 ± 1.41 (0.5, 2.5)\nparameters: 7 (7, 7)\n" in printed


def test_curves_have_their_median_and_range(tmp_path, capsys, monkeypatch):
    levels: dict[int, list[float]] = {0: [0.5, 0.75, 1.0], 1: [0.5, 0.5, 0.5], 2: [0.25, 0.5, 0.75]}

    def finished(command, *, check):
        place = Path(command[command.index("--out") + 1])
        place.mkdir(parents=True)
        seed = int(command[command.index("--seed") + 1])
        record = {"figures": {"success": 1.0}, "parameters": 7, "epochs": 3, "minutes": 2.0}
        (place / "result.json").write_text(json.dumps(record))
        curves.save(
            place / "curves.json", {"GRU": levels[seed]}, [10, 20, 3000], title="maze",
            xlabel="steps", ylabel="success", top=1.0, levels={"chance": 0.5},
        )  # fmt: skip

    monkeypatch.setattr(subprocess, "run", finished)
    three_seeds.main(["policy", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| steps | GRU |\n|---|---|\n| 10 | 0.5 (0.25 to 0.5) |" in printed
    assert "| 3,000 | 0.75 (0.5 to 1) |" in printed
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    loaded = curves.load([tmp_path / f"seed{seed}" / "curves.json" for seed in range(3)])
    (axes,) = curves.plot(**loaded).axes
    drawn: dict[Any, Any] = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(drawn["GRU"]) == [0.5, 0.5, 0.75] and list(drawn["chance"]) == [0.5, 0.5]
    area: Any = axes.collections[0].get_paths()[0].vertices
    assert {tuple(row) for row in area} >= {(3000.0, 0.5), (3000.0, 1.0), (20.0, 0.75)}


def test_a_script_that_fails_ends_the_command_with_its_status(tmp_path, monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, *, check: real(command, check=check))
    with pytest.raises(SystemExit) as caught:
        three_seeds.main(["addition", "--out", str(tmp_path)])
    assert caught.value.code == 3
    assert caught.value.__suppress_context__  # no traceback of the process follows


@pytest.mark.parametrize("name", ["none", "script", "__init__"])
def test_a_name_that_is_none(name, tmp_path):
    with pytest.raises(SystemExit, match=f"script: expected the name of an example, got '{name}'"):
        three_seeds.main([name, "--out", str(tmp_path)])
