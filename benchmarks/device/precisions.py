"""The precisions of matrix products, and the name of each precision in each library."""

from typing import NamedTuple

__all__ = ["PRECISIONS", "Precision", "of_platform"]


class Precision(NamedTuple):
    """The dtype of arrays, and the precision of their products.

    Attributes:
      dtype: the dtype of weights and inputs.
      matmul: JAX's name of the precision of float32 products, or None if the dtype is not float32.
      tf32: whether PyTorch may use TF32 for float32 products.
      limit: the largest relative error ‖found - expected‖ / ‖expected‖ of outputs and gradients
        that is accepted as rounding. It holds for sequences of a thousand steps.
    """

    dtype: str
    matmul: str | None
    tf32: bool
    limit: float


PRECISIONS = {
    "float32": Precision("float32", "highest", False, 1e-3),
    "tf32": Precision("float32", "tensorfloat32", True, 1e-2),
    "bf16": Precision("bfloat16", None, False, 8e-2),
    "f16": Precision("float16", None, False, 2e-2),
}
"""All precisions by name. Products of bf16 and f16 are summed in float32."""


def of_platform(platform: str) -> tuple[str, ...]:
    """Return the precisions that are measured on "cpu", "cuda", "rocm" or "tpu"."""
    return {
        "cuda": ("bf16", "tf32", "float32", "f16"),
        "rocm": ("bf16", "float32", "f16"),
        "tpu": ("bf16", "float32"),
    }.get(platform, ("float32",))
