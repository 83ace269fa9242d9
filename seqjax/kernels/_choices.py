"""The planner's settings for each platform. Each setting has a reason, usually a measurement.

If a setting was not measured, its reason is "not measured". To change a setting, measure it
with `python -m benchmarks device` (GPU, TPU) or `python -m benchmarks all` (CPU), and change the
value together with its reason.
"""

from typing import Generic, NamedTuple, TypeVar

__all__ = ["CHOICES", "Choice", "Choices", "choices_for"]

Value = TypeVar("Value")
MEGABYTE = 2**20


class Choice(NamedTuple, Generic[Value]):
    """The value of a setting, and the measurement that is the reason for the value.

    Attributes:
      value: the value that the planner uses.
      because: the measurement (the chip, the case, the times), or "not measured".
    """

    value: Value
    because: str


class Choices(NamedTuple):
    """The settings that depend on the platform.

    Attributes:
      unroll: the number of steps in one iteration of the compiled loop.
      inline_from: a number of bytes. If the projections of all steps have at least `inline_from`
        bytes, each step projects its own input. If `inline_from` is None, the inputs of all steps
        are projected at once.
      chunk_from: a number of bytes. If reverse mode has no memory budget and would store at least
        `chunk_from` bytes, it runs in checkpointed segments. If `chunk_from` is None, the planner
        chooses segments only to meet a memory budget.
      parallel_from: a number of steps. If a linear cell runs at least `parallel_from` steps, all
        steps are computed in parallel. If `parallel_from` is None, "auto" runs the
        steps one after another.
      native: whether "auto" may choose the native engine.
      cudnn: whether "auto" may choose NVIDIA's LSTM.
      persistent: whether "auto" may choose the loop inside one kernel of an NVIDIA GPU.
    """

    unroll: Choice[int]
    inline_from: Choice[int | None]
    chunk_from: Choice[int | None]
    parallel_from: Choice[int | None]
    native: Choice[bool]
    cudnn: Choice[bool]
    persistent: Choice[bool]


NOT_MEASURED = "not measured"
OTHERS = Choices(
    unroll=Choice(1, NOT_MEASURED),
    inline_from=Choice(None, NOT_MEASURED),
    chunk_from=Choice(None, NOT_MEASURED),
    parallel_from=Choice(64, NOT_MEASURED),
    native=Choice(False, "the engine is for CPUs"),
    cudnn=Choice(False, "there is no cuDNN"),
    persistent=Choice(False, "the kernel is for NVIDIA's GPUs"),
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
        parallel_from=Choice(
            None,
            "AMD EPYC, min_gru 1,16384,64,64 gradient: 26 ms; associative takes 127 ms",
        ),
        native=Choice(
            True, "AMD EPYC, one core, lstm 16,100,128,128 gradient: 14.7 ms; fused takes 17.6 ms"
        ),
        cudnn=Choice(False, "there is no cuDNN"),
        persistent=Choice(False, "the kernel is for NVIDIA's GPUs"),
    ),
    "cuda": OTHERS._replace(
        unroll=Choice(
            4, "H200, lstm 32,512,256,256 gradient in bf16: 7.75 ms, 12.7 ms with unroll=1"
        ),
        cudnn=Choice(
            False, "H200, lstm 32,512,256,256 gradient in tf32: 20.1 ms; fused takes 8.1 ms"
        ),
        persistent=Choice(False, "not run on hardware"),
    ),
    "tpu": OTHERS,
}
"""The settings by platform. A platform without an entry has the settings of "tpu"."""


def choices_for(platform: str) -> Choices:
    """Return the settings for a platform of JAX.

    Args:
      platform: "cpu", "tpu", or "cuda" (or "gpu") for NVIDIA's GPUs. Every other platform, such as
        "rocm", gets the settings of a TPU.

    Example:
      >>> choices_for("gpu").unroll.value, choices_for("rocm").unroll.value
      (4, 1)
    """
    return CHOICES.get({"gpu": "cuda"}.get(platform, platform), CHOICES["tpu"])
