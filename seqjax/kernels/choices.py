"""The planner's choices by platform: numbers that were measured, each with what justifies it.

A choice that nobody measured keeps what was chosen before and says so. To change one, measure it
by `python -m benchmarks device` (GPU, TPU) or `python -m benchmarks all` (CPU), and change its
value together with its reason.
"""

from typing import Generic, NamedTuple, TypeVar

__all__ = ["CHOICES", "Choice", "Choices", "choices_for"]

Value = TypeVar("Value")
MEGABYTE = 2**20


class Choice(NamedTuple, Generic[Value]):
    """A value, and the measurement that it rests on.

    Attributes:
      value: what the planner uses.
      because: the row of `docs/benchmarks.md`, or "not measured".
    """

    value: Value
    because: str


class Choices(NamedTuple):
    """All that the planner decides by platform.

    Attributes:
      unroll: steps in one iteration of the compiled loop.
      inline_from: bytes of the projections of all steps from which each step projects its own
        input; None for never.
      chunk_from: bytes kept for gradients from which reverse mode runs by checkpointed segments,
        if there is no budget; None for never.
      parallel_from: steps from which a linear cell's time is solved in parallel; None for never.
      cudnn: whether "auto" may take NVIDIA's LSTM.
    """

    unroll: Choice[int]
    inline_from: Choice[int | None]
    chunk_from: Choice[int | None]
    parallel_from: Choice[int | None]
    cudnn: Choice[bool]


NOT_MEASURED = "not measured"

CHOICES: dict[str, Choices] = {
    "cpu": Choices(
        unroll=Choice(1, "AMD EPYC, lstm 32,100,128,128 gradient: 12.3 ms; 17.3 with 4"),
        inline_from=Choice(
            16 * MEGABYTE,
            "suite speed: larger projections fall out of the caches and cost page faults at every "
            "call",
        ),
        chunk_from=Choice(
            256 * MEGABYTE,
            "suite memory: page faults cost about as much time as running the steps again",
        ),
        parallel_from=Choice(None, "suite speed: on a CPU the loop is faster"),
        cudnn=Choice(False, "there is no cuDNN"),
    ),
    "cuda": Choices(
        unroll=Choice(
            4,
            "H200, lstm 32,512,256,256 gradient in bf16: 7.67 ms; 12.8 with 1",
        ),
        inline_from=Choice(None, NOT_MEASURED),
        chunk_from=Choice(None, NOT_MEASURED),
        parallel_from=Choice(64, NOT_MEASURED),
        cudnn=Choice(
            False, "H200, lstm 32,512,256,256 gradient in tf32: 20.1 ms; fused, unroll 4: 8.1"
        ),
    ),
    "tpu": Choices(
        unroll=Choice(1, NOT_MEASURED),
        inline_from=Choice(None, NOT_MEASURED),
        chunk_from=Choice(None, NOT_MEASURED),
        parallel_from=Choice(64, NOT_MEASURED),
        cudnn=Choice(False, "there is no cuDNN"),
    ),
}
"""The choices by platform. GPUs of AMD were not measured: they have those of a TPU."""


def choices_for(platform: str) -> Choices:
    """Return the choices for a platform of JAX.

    Args:
      platform: "cpu", "cuda" or "gpu" for NVIDIA's GPUs, "rocm", or "tpu".

    Example:
      >>> choices_for("gpu").unroll.value, choices_for("rocm").unroll.value
      (4, 1)
    """
    return CHOICES[{"gpu": "cuda", "rocm": "tpu"}.get(platform, platform)]
