"""Interception of calls of a model's submodules, for `seqjax.summary` and `seqjax.traces`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx

__all__ = ["Call", "hooked", "is_hooked"]

Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a method of a submodule.

    Attributes:
      path: the path of the submodule, such as "encoder.layers.0"; "" for the model itself.
      module: the submodule.
      name: the name of the method.
      method: the bound method.
      args: the positional arguments of the call.
      kwargs: the keyword arguments of the call.
    """

    path: str
    module: Any
    name: str
    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def proceed(self) -> Any:
        """Run the method and return its result."""
        return self.method(*self.args, **self.kwargs)


def hooked(model: Module, hook: Callable[[Call], Any]) -> Module:
    """Return a copy of a model in evaluation mode that passes each call of a submodule to a hook.

    Args:
      model: any module, which is not changed.
      hook: a function that takes a `Call` and returns the result of the call, usually that of
        `call.proceed()`.

    Example:
      >>> names = []
      >>> model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      >>> _ = hooked(model, lambda call: (names.append(call.path), call.proceed())[1])
      >>> names
      []
    """
    copy = nnx.clone(model)
    nnx.Module.eval(copy)
    for path, module in list(nnx.iter_modules(copy)):
        if isinstance(module, (nnx.List, nnx.Dict)):  # containers, not modules that compute
            continue
        module.__class__ = _hooked_class(type(module))
        vars(module)["_hook"] = functools.partial(hook_call, hook, ".".join(map(str, path)))
    return copy


def is_hooked(module: nnx.Module) -> bool:
    """Return whether the calls of a module go to a hook.

    Example:
      >>> is_hooked(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
      False
    """
    return "_hook" in vars(module)


def hook_call(hook: Callable[[Call], Any], path: str, *call: Any) -> Any:
    """Pass a call of a submodule's method to the hook, as a `Call`."""
    return hook(Call(path, *call))


@functools.cache
def _hooked_class(cls: type) -> type:
    """Return a subclass whose methods call `_hook`. Methods of `nnx.Module` are not changed."""

    def wrapped(name: str, function: Any) -> Callable[..., Any]:
        @functools.wraps(function, updated=())
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            bound = functools.partial(function, self)
            return self._hook(self, name, bound, args, kwargs)

        return method

    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        members |= {} if base in nnx.Module.__mro__ else vars(base)
    methods = {
        name: wrapped(name, member)
        for name, member in members.items()
        if _is_method(member) and (name == "__call__" or not name.startswith("__"))
    }
    named = {"__qualname__": cls.__qualname__, "__module__": cls.__module__}
    return type(cls.__name__, (cls,), {**methods, **named})


def _is_method(member: Any) -> bool:
    """Return whether a member is a method, plain or transformed by `nnx.jit`, but not static."""
    if inspect.isfunction(member) or isinstance(member, staticmethod):
        return inspect.isfunction(member)
    return callable(member) and hasattr(member, "__get__") and hasattr(member, "__wrapped__")
