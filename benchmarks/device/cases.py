"""The cases of `python -m benchmarks device`, the most valuable first."""

import dataclasses
from typing import Any

from benchmarks.device.precisions import of_platform

__all__ = ["TINY", "Case", "Setup", "all_cases", "first_case", "sizes_of"]

WHILE = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL --xla_gpu_graph_min_graph_size=1"
GRAPHS = {
    "WHILE in graphs": WHILE,
    "WHILE in graphs, unrolled": f"{WHILE} --xla_gpu_command_buffer_unroll_loops=true",
}
"""Flags that make XLA record loops in CUDA graphs, which it does not do by default."""
UNTUNED = "--xla_gpu_autotune_level=0"
"""Flags that disable XLA's autotuning, which takes most of the compile time."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """One configuration of seqjax to measure: kernel, unroll and precisions.

    Attributes:
      kernel: a name of `seqjax.kernels.KERNELS`, or "auto".
      unroll: steps in one iteration of the loop. If None, the planner chooses.
      precisions: names of `PRECISIONS`; those that the platform lacks are left out.
    """

    kernel: str
    unroll: int | None = 1
    precisions: tuple[str, ...] = ("bf16", "tf32")

    @property
    def name(self) -> str:
        """Return the contestant's name."""
        return self.kernel if self.unroll in (1, None) else f"{self.kernel}, unroll {self.unroll}"


@dataclasses.dataclass(frozen=True)
class Case:
    """One unit of work, sent to a worker process as JSON.

    Attributes:
      name: the name that is printed, and that `--only` selects.
      kind: a key of `worker.KINDS`.
      options: keyword arguments of `run` in the module that `kind` names.
      flags: flags for XLA, set in the environment of the process.
      total: seconds after which the process is ended, even if it makes progress.
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
    "persistent": [(64, 512, 64, 64), (64, 512, 128, 128), (64, 512, 256, 256)],
    "linear": [(32, 512, 256, 256), (8, 8192, 256, 256)],
    "correctness": (8, 12, 24, 32),
    "correctness bf16": (8, 12, 24, 64),
    "matrix": 8192,
    "copy": 2**28,
}  # fmt: skip
"""Sizes on an accelerator; shapes are B, T, I, H. The kernel "persistent" needs 64 hidden units."""

TINY: dict[str, Any] = {
    "headline": (2, 16, 8, 8),
    "middle": (4, 8, 8, 8),
    "others": [(2, 8, 16, 16)],
    "persistent": [(2, 8, 8, 64)],
    "linear": [(2, 16, 8, 8)],
    "correctness": (2, 5, 3, 4),
    "correctness bf16": (2, 5, 3, 4),
    "matrix": 128,
    "copy": 2**16,
}
"""Sizes for a rehearsal."""


def sizes_of(platform: str, tiny: bool | None) -> dict[str, Any]:
    """Return the sizes for a platform. If `tiny` is None, the sizes are small only on a CPU."""
    return TINY if tiny or (tiny is None and platform == "cpu") else FULL


def first_case(tiny: bool | None) -> Case:
    """Return the case that describes the machine; other cases depend on its platform."""
    return Case("facts", "facts", {"tiny": tiny})


def _speed(
    variant: str, cell: str, shape: tuple[int, ...], setups: list[Setup], **options: Any
) -> Case:
    return Case(
        f"speed {cell} {variant} {','.join(map(str, shape))}",
        "speed",
        {
            "cell": cell,
            "variant": variant,
            "shape": shape,
            "setups": [dataclasses.asdict(setup) for setup in setups],
            **options,
        },
    )


def all_cases(platform: str, *, tiny: bool | None, faults: bool = False) -> list[Case]:
    """Return all cases that follow `first_case`, the most valuable first.

    Args:
      platform: "cpu", "cuda", "rocm" or "tpu", as the first case reports.
      tiny: whether to use the small sizes of a rehearsal. If `tiny` is None, the small sizes are
        used only on a CPU.
      faults: whether to add cases that hang, crash or fail on purpose, to test how the run handles
        them.
    """
    sizes = sizes_of(platform, tiny)
    tiny = sizes is TINY
    known = of_platform(platform)
    headline, middle = sizes["headline"], sizes["middle"]

    def on(kernel: str, unroll: int | None = 1, precisions: str = "bf16 tf32") -> Setup:
        chosen = tuple(name for name in precisions.split() if name in known)
        return Setup(kernel, unroll, chosen or known[:1])

    def cudnn(precisions: str = "tf32") -> list[Setup]:
        return [on("cudnn", precisions=precisions)] if platform == "cuda" else []

    every = "bf16 tf32 float32 f16"
    some = [on("fused"), on("fused", 4), on("fused", 16), on("scan", precisions="bf16")]
    bf16 = [on("auto", None, "bf16")]

    found = [_correctness("float32", sizes), _correctness("bf16", sizes, cells=["lstm", "gru"])]
    if faults:
        found += [
            Case(f"{fault} on purpose", "fault", {"fault": fault})
            for fault in ("crash", "hang", "raise")
        ]
    found += [
        _speed("plain", "lstm", headline, [on("fused", 4, every), *cudnn("tf32 float32")]),
        _speed("plain", "gru", middle, some),
        _speed("plain", "lstm", middle, [*some, *cudnn()]),
        _speed("resets", "gru", middle, bf16, loop=True),
        _speed("resets", "lstm", middle, bf16, loop=True),
        _speed("lengths", "lstm", middle, [*bf16, *cudnn()]),
        _speed("lengths", "gru", middle, bf16),
        Case("training translation", "training", {"task": "translation", "tiny": tiny}),
        Case("training language model", "training", {"task": "language_model", "tiny": tiny}),
        *(_persistent(sizes) if platform == "cuda" else ()),
        *(
            _speed(
                "plain", "min_gru", shape, [on("associative", 1, "bf16"), on("fused", 4, "bf16")]
            )
            for shape in sizes["linear"]
        ),
        _speed("plain", "gru", headline, [on("fused", 4, every)]),
    ]
    for shape in sizes["others"]:
        found.append(_speed("plain", "lstm", shape, [on("fused", 4), *cudnn()]))
        found.append(_speed("plain", "gru", shape, [on("fused", 4)]))
    found.append(Case("the library's own tests", "conformance", {"quick": tiny}, UNTUNED, 240.0))
    for name, flags in GRAPHS.items() if platform == "cuda" else ():
        setups = [on("fused", 1, "bf16"), on("fused", 4, "bf16")]
        case = _speed("plain", "lstm", middle, setups, suffix=f", {name}")
        found.append(dataclasses.replace(case, name=f"{case.name}, {name}", flags=flags))
    return found


def _correctness(precision: str, sizes: dict[str, Any], **options: Any) -> Case:
    shape = sizes.get(f"correctness {precision}", sizes["correctness"])
    options |= {"precision": precision, "shape": shape}
    return Case(f"correctness {precision}", "correctness", options, flags=UNTUNED, total=240.0)


def _persistent(sizes: dict[str, Any]) -> list[Case]:
    """Return the cases that compare the kernel "persistent" with "fused", the smallest first."""
    setups = [
        Setup(kernel, unroll, ("bf16",))
        for kernel, unroll in (("persistent", 1), ("fused", 4), ("fused", 16))
    ]
    return [
        _speed("plain", cell, shape, setups)
        for shape in sizes["persistent"]
        for cell in ("lstm", "gru")
    ]
