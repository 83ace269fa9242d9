"""What `python -m benchmarks device` runs, in order of value."""

import dataclasses
from typing import Any

from benchmarks.device.precisions import of_platform

__all__ = ["Case", "Setup", "all_cases", "first_case", "sizes_of"]

WHILE = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_graph_min_graph_size=1"
GRAPHS = {
    "WHILE in graphs": WHILE,
    "WHILE in graphs, unrolled": f"{WHILE} --xla_gpu_command_buffer_unroll_loops=true",
}
"""Flags with which XLA records a loop in a CUDA graph, which it leaves out by default."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """How a contestant of ours runs a cell: a kernel and how many steps one iteration has."""

    kernel: str
    unroll: int = 1

    @property
    def name(self) -> str:
        """The contestant's name."""
        return self.kernel if self.unroll == 1 else f"{self.kernel}, unroll {self.unroll}"


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures. It travels to the process as JSON.

    Attributes:
      name: for people, and for `--only`.
      kind: of work, a key of `worker.KINDS`.
      options: of the kind.
      flags: for XLA, in the environment of the process.
      total: seconds after which the process is ended, whatever it does.
    """

    name: str
    kind: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: str = ""
    total: float = 120.0


FULL: dict[str, Any] = {
    "headline": (16, 1024, 768, 768),
    "middle": (32, 512, 256, 256),
    "others": [(256, 512, 256, 256), (256, 512, 128, 128), (32, 512, 512, 512),
               (256, 512, 512, 512), (32, 512, 128, 128)],
    "linear": [(32, 512, 256, 256), (8, 8192, 256, 256)],
    "correctness": (8, 12, 24, 32),
    "matrix": 8192,
    "copy": 2**28,
}  # fmt: skip
"""Sizes on an accelerator; shapes are B, T, I, H."""

TINY: dict[str, Any] = {
    "headline": (2, 16, 8, 8),
    "middle": (4, 8, 8, 8),
    "others": [(2, 8, 16, 16)],
    "linear": [(2, 16, 8, 8)],
    "correctness": (2, 5, 3, 4),
    "matrix": 128,
    "copy": 2**16,
}
"""Sizes for a rehearsal."""


def sizes_of(platform: str, tiny: bool | None) -> dict[str, Any]:
    """Return the sizes for a platform; with None they are small on a CPU alone."""
    return TINY if tiny or (tiny is None and platform == "cpu") else FULL


def first_case(tiny: bool | None) -> Case:
    """Return the case that says what there is; the others depend on it."""
    return Case("facts", "facts", {"tiny": tiny})


def _speed(
    variant: str, cell: str, shape: tuple[int, ...], setups: list[Setup], precisions: list[str],
    **options: Any,
) -> Case:  # fmt: skip
    return Case(
        f"speed {cell} {variant} {','.join(map(str, shape))}",
        "speed",
        {
            "cell": cell,
            "variant": variant,
            "shape": shape,
            "setups": [dataclasses.asdict(setup) for setup in setups],
            "precisions": precisions,
            **options,
        },
    )


def all_cases(platform: str, *, tiny: bool | None, faults: bool = False) -> list[Case]:
    """Return all cases after the facts, the most valuable first.

    Args:
      platform: "cpu", "gpu" or "tpu", as the facts say.
      tiny: whether sizes are those of a rehearsal; None for "on a CPU".
      faults: whether there are also a case that hangs, one that crashes and one that fails, to
        rehearse what happens to them.
    """
    sizes = sizes_of(platform, tiny)
    tiny = sizes is TINY
    gpu = platform == "gpu"
    precisions = list(of_platform(platform))
    few = [name for name in precisions if name in ("bf16", "tf32")] or precisions[:1]
    scan, fused = Setup("scan"), Setup("fused")
    unrolled = [Setup("fused", 4), Setup("fused", 16)]
    cudnn = [Setup("cudnn")] if gpu else []
    headline, middle = sizes["headline"], sizes["middle"]

    found = [
        Case("correctness float32", "correctness", {"precision": "float32", "shape": sizes["correctness"]}),
        Case("correctness bf16", "correctness", {"precision": "bf16", "shape": sizes["correctness"], "cells": ["lstm", "gru"]}),
    ]  # fmt: skip
    if faults:
        found += [
            Case("a crash on purpose", "fault", {"fault": "crash"}),
            Case("a hang on purpose", "fault", {"fault": "hang"}),
            Case("an error on purpose", "fault", {"fault": "raise"}),
        ]
    found += [
        _speed("plain", "lstm", headline, [fused, scan, *unrolled, *cudnn], precisions),
        _speed("plain", "gru", middle, [fused, scan, *unrolled], few),
        _speed("plain", "lstm", middle, [fused, scan, *unrolled, *cudnn], precisions),
        _speed("resets", "gru", middle, [fused], few, loop=True),
        _speed("resets", "lstm", middle, [fused], few, loop=True),
        _speed("lengths", "lstm", middle, [fused, *cudnn], few),
        _speed("lengths", "gru", middle, [fused], few),
        Case("training translation", "training", {"task": "translation", "tiny": tiny}),
        Case("training language model", "training", {"task": "language_model", "tiny": tiny}),
    ]
    for name, flags in GRAPHS.items() if gpu else ():
        graphs = _speed("plain", "lstm", middle, [fused], few, suffix=f", {name}")
        found.append(dataclasses.replace(graphs, name=f"{graphs.name}, {name}", flags=flags))
    found += [
        _speed("plain", "gru", headline, [fused, *unrolled], precisions),
        *(
            _speed("plain", "min_gru", shape, [Setup("associative"), fused], few)
            for shape in sizes["linear"]
        ),
        Case("the library's own tests", "conformance"),
    ]
    for shape in sizes["others"]:
        found.append(_speed("plain", "lstm", shape, [fused, *unrolled[:1], *cudnn], few))
        found.append(_speed("plain", "gru", shape, [fused, *unrolled[:1]], few))
    return found
