"""Run a script for several seeds, and print the mean and standard deviation of its results.

    python -m examples.three_seeds speech --data recordings --epochs 40

This command runs `python -m examples.speech` with these options for the seeds 0, 1, 2, one after
the other. The runs are in the folders out/speech/seed0 and so on; --out replaces out/speech.
Existing runs are resumed; a finished run is not repeated. If a run fails, the command ends with the
exit status of the script. docs/results.md has such results.

If the script writes learning curves (`curves.json`), the command also draws their median and range
over the seeds in out/speech/curves.png, and prints them as a table.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from examples import curves


def run(script: str, seed: int, folder: Path, options: list[str]) -> dict[str, float]:
    """Run the script with one seed; return its results, parameters, epochs and minutes."""
    place = folder / f"seed{seed}"
    if (
        script in ("__init__", "curves", "script")
        or not Path(__file__).with_name(script + ".py").is_file()
    ):
        raise SystemExit(f"script: expected the name of an example, got {script!r}")
    command = [sys.executable, "-m", f"examples.{script}", *options, "--seed", str(seed)]
    try:
        subprocess.run([*command, "--out", str(place), "--resume"], check=True)
    except subprocess.CalledProcessError as error:  # the script has said what is wrong
        raise SystemExit(error.returncode) from None
    record = json.loads((place / "result.json").read_text(encoding="utf-8"))
    return record["figures"] | {name: record[name] for name in ("parameters", "epochs", "minutes")}


def table(found: list[dict[str, float]]) -> str:
    """Return a line for each result: mean ± standard deviation (n - 1), and each value."""
    lines = []
    for name in found[0]:
        values = [record[name] for record in found]
        spread = f" ± {statistics.stdev(values):.3g}" if len(set(values)) > 1 else ""
        each = ", ".join(f"{value:.5g}" for value in values)
        lines.append(f"{name}: {statistics.fmean(values):.5g}{spread} ({each})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[dict[str, float]]:
    """Run a script for each seed and print the table; return the results of each run."""
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
    files = [folder / f"seed{seed}" / "curves.json" for seed in known.seeds]
    if all(file.exists() for file in files):
        loaded = curves.load(files)
        curves.plot(**loaded).savefig(folder / "curves.png", dpi=150)
        print(f"\n{curves.table(**loaded)}\n\n{folder / 'curves.png'}")
    return found


if __name__ == "__main__":
    main()
