"""Calls of a model's submodules, seen from outside: for `seqjax.summary` and `seqjax.traces`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx

__all__ = ["Call", "hooked"]

Module = TypeVar("Module", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a method of a submodule.

    Attributes:
      path: of the submodule, such as "encoder.layers.0"; "" for the model itself.
      module: the submodule.
      name: of the method.
      method: the method, bound.
      args: its arguments.
      kwargs: its keyword arguments.
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
    """A copy of a model in evaluation mode, of which a function sees each call of a submodule.

    Args:
      model: any module; it stays as it is.
      hook: gets a `Call`, and returns what the caller is to get, as a rule `call.proceed()`.

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


def hook_call(hook: Callable[[Call], Any], path: str, *call: Any) -> Any:
    """Gives a call to the hook; a function of the module, so that hooks are equal if theirs are."""
    return hook(Call(path, *call))


@functools.cache
def _hooked_class(cls: type) -> type:
    """A subclass whose methods, but those that Flax gives every module, go through `_hook`."""

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
    """Functions, and what transforms such as `nnx.jit` make of them; no static methods, classes or
    properties.
    """
    if inspect.isfunction(member) or isinstance(member, staticmethod):
        return inspect.isfunction(member)
    return callable(member) and hasattr(member, "__get__") and hasattr(member, "__wrapped__")
