"""The command `python -m benchmarks`."""

import sys


def main(arguments: list[str]) -> int:
    """Run the command line.

    The suite `device` reads its own options, so it does not need the package tyro.
    """
    if arguments[:1] == ["device"]:
        from benchmarks.device.cli import main as run

        return run(arguments[1:])
    from benchmarks.cli import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
