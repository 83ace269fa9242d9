"""The options of the comparison with GluonTS, which need no GluonTS."""

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tyro")
import tyro

from benchmarks import gluonts_deepar

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.mark.parametrize("steps", [0, 49, 120])
def test_steps_are_whole_epochs(steps: int) -> None:
    with pytest.raises(SystemExit, match=f"--steps: expected a multiple of 50, got {steps}"):
        gluonts_deepar.main(gluonts_deepar.Config(steps=steps))


@pytest.mark.parametrize(
    "options",
    [{"epochs": 9}, {"model": "autoregressive"}, {"cell": "lstm"}, {"stride": 4}, {"average": 0.9},
     {"resume": True}, {"known": ("price",)}, {"clip_norm": 2.0}],
)  # fmt: skip
def test_options_that_gluonts_does_not_read_are_refused(options: dict[str, Any]) -> None:
    [name] = options
    message = f"--{name.replace('_', '-')}: expected the default .*, got "
    with pytest.raises(SystemExit, match=message):
        gluonts_deepar.main(gluonts_deepar.Config(**options))


def test_the_commands_of_the_page_are_valid() -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"-m benchmarks\.gluonts_deepar ([^`]*)`", text)
    assert len(commands) >= 2
    for command in commands:
        tyro.cli(gluonts_deepar.Config, args=command.split()).check()
