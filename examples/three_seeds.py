"""A script's figures over several seeds: mean and standard deviation, as in docs/results.md.

    python -m examples.three_seeds speech --data recordings --epochs 40

runs `python -m examples.speech` with these options for the seeds 0, 1, 2, one after the other, in
out/speech/seed0 and so on (--out names another folder for them), and sums their figures up. A run
that is there already is gone on with, so that a finished one costs nothing.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def run(script: str, seed: int, folder: Path, options: list[str]) -> dict[str, float]:
    """One seed's figures, parameters and minutes."""
    place = folder / f"seed{seed}"
    if script in ("__init__", "script") or not Path(__file__).with_name(script + ".py").is_file():
        raise SystemExit(f"script: expected the name of an example, got {script!r}")
    command = [sys.executable, "-m", f"examples.{script}", *options, "--seed", str(seed)]
    subprocess.run([*command, "--out", str(place), "--resume"], check=True)
    record = json.loads((place / "result.json").read_text(encoding="utf-8"))
    return record["figures"] | {name: record[name] for name in ("parameters", "epochs", "minutes")}


def table(found: list[dict[str, float]]) -> str:
    """A line for each figure: mean ± standard deviation (n - 1), and the seeds' own."""
    lines = []
    for name in found[0]:
        values = [record[name] for record in found]
        spread = f" ± {statistics.stdev(values):.3g}" if len(set(values)) > 1 else ""
        each = ", ".join(f"{value:.5g}" for value in values)
        lines.append(f"{name}: {statistics.fmean(values):.5g}{spread} ({each})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    """Runs a script for each seed and prints the table; returns what each has left."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.three_seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", help="an example's name, such as speech")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="out/SCRIPT if not given")
    known, options = parser.parse_known_args(arguments)
    folder = known.out or Path("out", known.script)
    found = [run(known.script, seed, folder, options) for seed in known.seeds]
    print(f"\n{known.script}, seeds {', '.join(map(str, known.seeds))}\n{table(found)}")
    return found


if __name__ == "__main__":
    main()
