"""The planner's settings for each platform, each with the measurement behind it.

Settings without a measurement keep their earlier value, and say "not measured". To change one,
measure it by `python -m benchmarks device` (GPU, TPU) or `python -m benchmarks all` (CPU), and
change its value together with its reason.
"""

from typing import Generic, NamedTuple, TypeVar

__all__ = ["CHOICES", "Choice", "Choices", "choices_for"]

Value = TypeVar("Value")
MEGABYTE = 2**20


class Choice(NamedTuple, Generic[Value]):
    """A value, and the measurement that it rests on.

    Attributes:
      value: what the planner uses.
      because: the measurement (the chip, the case, the times), or "not measured".
    """

    value: Value
    because: str


class Choices(NamedTuple):
    """The settings that depend on the platform.

    Attributes:
      unroll: steps in one iteration of the compiled loop.
      inline_from: bytes of the projections of all steps from which each step projects its own
        input; None for never.
      chunk_from: bytes kept for gradients from which reverse mode runs by checkpointed segments,
        if there is no budget; None for never.
      parallel_from: steps from which a linear cell's time is solved in parallel; None for never.
      native: whether "auto" may take the native engine.
      cudnn: whether "auto" may take NVIDIA's LSTM.
    """

    unroll: Choice[int]
    inline_from: Choice[int | None]
    chunk_from: Choice[int | None]
    parallel_from: Choice[int | None]
    native: Choice[bool]
    cudnn: Choice[bool]


NOT_MEASURED = "not measured"
OTHERS = Choices(
    unroll=Choice(1, NOT_MEASURED),
    inline_from=Choice(None, NOT_MEASURED),
    chunk_from=Choice(None, NOT_MEASURED),
    parallel_from=Choice(64, NOT_MEASURED),
    native=Choice(False, "the engine is for CPUs"),
    cudnn=Choice(False, "there is no cuDNN"),
)

CHOICES: dict[str, Choices] = {
    "cpu": Choices(
        unroll=Choice(1, "AMD EPYC, lstm 32,100,128,128 gradient: 12.3 ms, 17.3 ms with unroll=4"),
        inline_from=Choice(
            16 * MEGABYTE, "suite speed: larger ones fall out of the caches of a CPU"
        ),
        chunk_from=Choice(
            256 * MEGABYTE,
            "suite memory: page faults cost a CPU about as much as running steps twice",
        ),
        parallel_from=Choice(None, "suite speed: on a CPU the loop is faster"),
        native=Choice(
            True, "AMD EPYC, one core, lstm 16,100,128,128 gradient: 14.7 ms; fused takes 17.6 ms"
        ),
        cudnn=Choice(False, "there is no cuDNN"),
    ),
    "cuda": OTHERS._replace(
        unroll=Choice(
            4, "H200, lstm 32,512,256,256 gradient in bf16: 7.75 ms, 12.7 ms with unroll=1"
        ),
        cudnn=Choice(
            False, "H200, lstm 32,512,256,256 gradient in tf32: 20.1 ms; fused takes 8.1 ms"
        ),
    ),
    "tpu": OTHERS,
}
"""The settings by platform. Those of "tpu" serve every platform that was not measured."""


def choices_for(platform: str) -> Choices:
    """Return the choices for a platform of JAX.

    Args:
      platform: "cpu", "cuda" (or "gpu") for NVIDIA's GPUs, "tpu", or another one, such as "rocm",
        which gets the settings of a TPU.

    Example:
      >>> choices_for("gpu").unroll.value, choices_for("rocm").unroll.value
      (4, 1)
    """
    return CHOICES.get({"gpu": "cuda"}.get(platform, platform), CHOICES["tpu"])
