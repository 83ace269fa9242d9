"""The benchmark suite: seqjax beside other libraries, by one protocol. See `README.md` here.

`python -m benchmarks speed --short` runs a suite, `python -m benchmarks --help` tells the rest.
"""
