"""The table of kernels. To add a kernel, write a file for it and add the kernel to `KERNELS`."""

from seqjax import checks
from seqjax.kernels._associative import ASSOCIATIVE
from seqjax.kernels._cudnn import CUDNN
from seqjax.kernels._fused import FUSED
from seqjax.kernels._kernel import Kernel
from seqjax.kernels._native import NATIVE
from seqjax.kernels._persistent import PERSISTENT
from seqjax.kernels._scan import SCAN

__all__ = ["KERNELS", "find"]

KERNELS: dict[str, Kernel] = {
    kernel.name: kernel for kernel in (SCAN, FUSED, ASSOCIATIVE, CUDNN, NATIVE, PERSISTENT)
}
"""The kernels by name.

To choose a kernel for "auto", the planner starts with the last kernel. Therefore a kernel for
special cells or devices is behind the general kernels.
"""


def find(implementation: str | Kernel) -> Kernel | None:
    """Return the requested kernel, or None if "auto" is requested.

    Args:
      implementation: "auto", a name in `KERNELS`, or a kernel, which need not be in the table.

    Raises:
      ValueError: the name is unknown, or `implementation` is neither a name nor a kernel.
      TypeError: the entry in `KERNELS` is not a `Kernel`.

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
