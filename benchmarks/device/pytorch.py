"""Find out whether PyTorch can be measured, and on which device."""

import functools

import jax

__all__ = ["obstacle", "where"]


@functools.cache
def obstacle() -> str | None:
    """Return the reason why PyTorch cannot be measured here, or None if it can.

    The reason can be a missing or broken installation, or a GPU that PyTorch does not find.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return "not installed: torch"
        return f"not usable: torch ({error})"
    except Exception as error:  # its libraries may not fit this machine
        return f"not usable: torch ({type(error).__name__}: {error})"
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        return "not usable: torch finds no GPU"
    return None


def where() -> str:
    """Return PyTorch's device and the version of cuDNN, or the reason why PyTorch does not run."""
    problem = obstacle()
    if problem is not None:
        return problem
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
