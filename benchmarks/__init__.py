"""The benchmark suite: seqjax and other libraries, measured by one protocol. See `README.md`.

`python -m benchmarks speed --short` runs a suite; `python -m benchmarks --help` lists all commands.
"""
