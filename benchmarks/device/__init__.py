"""Measure seqjax on a GPU or TPU: `python -m benchmarks device`.

The command runs a list of cases in order of value, each in a process of its own, within a budget of
time. It needs jax, flax, optax, chex and numpy; PyTorch takes part where it is installed.

- `cases` lists what is run; `cli` has the options; `runner` starts, watches and ends processes.
- `worker` is such a process; `facts`, `correctness`, `conformance`, `speed` and `training` are the
  kinds of case that it runs.
- `report` makes tables of the results, for the terminal and for `docs/benchmarks.md`.
"""
