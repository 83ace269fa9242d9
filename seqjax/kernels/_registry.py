"""The table of kernels. To add one, write its file and name it here."""

from seqjax import checks
from seqjax.kernels._associative import ASSOCIATIVE
from seqjax.kernels._cudnn import CUDNN
from seqjax.kernels._fused import FUSED
from seqjax.kernels._kernel import Kernel
from seqjax.kernels._native import NATIVE
from seqjax.kernels._scan import SCAN

__all__ = ["KERNELS", "find"]

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel for kernel in (SCAN, FUSED, ASSOCIATIVE, CUDNN, NATIVE)
}
"""Every kernel by name. "auto" asks the last one first: the more special a kernel, the later."""


def find(implementation: str | Kernel) -> Kernel | None:
    """Return the kernel that is asked for; None for "auto".

    Args:
      implementation: "auto", a name in `KERNELS`, or a kernel, which need not be in the table.

    Raises:
      ValueError: an unknown name.
      TypeError: something else, or something else than a `Kernel` in the table.

    Example:
      >>> find("scan").name, find("auto")
      ('scan', None)
    """
    if isinstance(implementation, Kernel):
        return implementation
    if checks.require_name("implementation", implementation, ["auto", *KERNELS]) == "auto":
        return None
    kernel = KERNELS[implementation]
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"KERNELS[{implementation!r}]: expected a seqjax.kernels.Kernel, got "
            f"{type(kernel).__name__}; wrap a function as Kernel({implementation!r}, function)"
        )
    return kernel
