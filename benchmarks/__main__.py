"""`python -m benchmarks`."""

import sys


def main(arguments: list[str]) -> int:
    """Run the command line; `device` runs where tyro is not installed."""
    if arguments[:1] == ["device"]:
        from benchmarks.device.cli import main as run

        return run(arguments[1:])
    from benchmarks.cli import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
