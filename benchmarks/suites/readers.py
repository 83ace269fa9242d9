"""Suite `readers`: the file readers of `seqjax.data`, and the functions that they call.

It compares `data.read_csv` with pandas, `data.read_audio` with soundfile, and `data.read_lines` and
`data.read_text` with `open`. The files are generated in a temporary folder.
"""

import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import timing
from benchmarks.results import Row
from benchmarks.settings import Settings
from seqjax import data

__all__ = ["run"]

SIZES = {"rows": 1_000_000, "seconds": 3_600, "bytes": 100_000_000}
SHORT = {"rows": 100_000, "seconds": 60, "bytes": 5_000_000}
COLUMNS = 6
RATE = 16_000


def run(settings: Settings, say: Callable[[str], None]) -> list[Row]:
    """Measure each reader and the function that it calls; return the rows."""
    sizes = SHORT if settings.short else SIZES
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in {
            "table": _table,
            "sound": _sound,
            "text": _text,
            "lines": _lines,
        }.items():
            say(f"writing the {name}")
            path, shape, contestants = kind(Path(folder), sizes)
            rows += _group(name, path, shape, contestants, settings)
            path.unlink()
    return rows


def _table(folder: Path, sizes: dict[str, int]) -> Any:
    import pandas

    path, shape = folder / "table.csv", (sizes["rows"], COLUMNS)
    values = np.random.default_rng(0).normal(size=shape).round(6)
    pandas.DataFrame(values, columns=list("abcdef")).to_csv(path, index=False)
    return path, shape, {"pandas": pandas.read_csv, "seqjax": data.read_csv}


def _sound(folder: Path, sizes: dict[str, int]) -> Any:
    import soundfile

    path, samples = folder / "sound.wav", sizes["seconds"] * RATE
    noise = np.random.default_rng(0).integers(-(2**15), 2**15, samples, np.int16)
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    alone = functools.partial(soundfile.read, dtype="float32")
    return path, (samples,), {"soundfile": alone, "seqjax": data.read_audio}


def _text(folder: Path, sizes: dict[str, int]) -> Any:
    path = folder / "text.txt"
    line = "The quick brown fox jumps over the lazy dog, again and again.\n"
    count = math.ceil(sizes["bytes"] / len(line))
    path.write_text(line * count, encoding="utf-8")
    return path, (count, len(line)), {"open": _opened, "seqjax": data.read_text}


def _lines(folder: Path, sizes: dict[str, int]) -> Any:
    path, shape, _ = _text(folder, sizes)
    return path, shape, {"open": lambda path: _opened(path).splitlines(), "seqjax": data.read_lines}


def _opened(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _group(
    name: str,
    path: Path,
    shape: tuple[int, ...],
    contestants: dict[str, Callable[[Path], object]],
    settings: Settings,
) -> list[Row]:
    """Measure how long each contestant takes to read one file; they take turns."""
    calls = {each: functools.partial(read, path) for each, read in contestants.items()}
    seconds = timing.interleaved(
        calls, repeats=settings.repeats, warmup=1, least=3, budget=settings.budget
    )
    return [
        Row(
            suite="readers",
            cell=name,
            variant="",
            shape=shape,
            what="read",
            contestant=contestant if contestant == "seqjax" else "the library alone",
            samples_ms=tuple(1e3 * s for s in seconds[contestant]),
            setting=contestant,
        )
        for contestant in contestants
    ]
