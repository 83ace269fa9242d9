"""Measure seqjax on a GPU or TPU: `python -m benchmarks device`.

The command runs a list of cases within a time budget, the most valuable cases first. Each case runs
in a process of its own. The command needs jax, flax, optax, chex and numpy. If PyTorch is
installed, the command measures PyTorch, too.

- `cases` lists what is run; `cli` has the options; `runner` starts, watches and ends processes.
- `worker` is the process that runs a case; `facts`, `correctness`, `conformance`, `speed` and
  `training` are the kinds of case that it runs.
- `report` makes tables of the results, for the terminal and for `docs/benchmarks.md`.
"""
