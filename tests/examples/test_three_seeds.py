"""Figures over several seeds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples import three_seeds


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


@pytest.mark.parametrize("name", ["none", "script", "__init__"])
def test_a_name_that_is_none(name, tmp_path):
    with pytest.raises(SystemExit, match=f"script: expected the name of an example, got '{name}'"):
        three_seeds.main([name, "--out", str(tmp_path)])
