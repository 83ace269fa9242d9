"""Calls of modules outside of `jax.jit`, each of which runs as one compiled program.

`jax.jit` takes a module as an argument, but it flattens the module at each call, which takes longer
than a time step of a small layer. The programs here take the arrays of the module, and as a static
argument a `Form`. The form is made once, and is used as long as the attributes of the module and of
its submodules are the same objects.
"""

import contextlib
import functools
import operator
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from seqjax._hooks import is_hooked
from seqjax.types import PyTree

__all__ = ["in_one_program"]


class Form:
    """A module without its arrays: a static argument of a compiled program.

    Two forms are equal if their modules differ only in the values of arrays. The hash is computed
    once, and JAX compares a form with itself first.
    """

    def __init__(self, structure: Any) -> None:
        self.structure = structure
        self._hash = hash(structure)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Form) and self.structure == other.structure)


class Known(NamedTuple):
    """The form and the variables of a module, and the attributes from which they were found.

    Attributes:
      form: the form, or None if the module cannot be an argument of a program.
      variables: the variables whose values are the arrays of the module, in the order of the form.
      spaces: the `__dict__` of the module and of each submodule. They do not refer to the module,
        so they do not keep it alive.
      attributes: the values of all attributes. A reference to each value ensures that no other
        object gets its id.
      ids: the ids of the attributes' values.
    """

    form: Form | None
    variables: list[Any]
    spaces: list[dict[str, Any]]
    attributes: list[Any]
    ids: list[int]


_known: weakref.WeakKeyDictionary[nnx.Module, Known] = weakref.WeakKeyDictionary()


def in_one_program(
    method: Callable[..., Any], module: nnx.Module, arrays: tuple[PyTree, ...], **options: Any
) -> Any:
    """Return `method(module, *arrays, **options)`, if possible computed by one compiled program.

    The method is called directly

    - if an argument is not a JAX array, so that errors show the argument,
    - under tracing, where another program would only cost time,
    - if a hook reads the calls of the module, or
    - if an option is not hashable.

    Args:
      method: a function whose results depend only on its arguments, and which does not change the
        module. It must be the same object in each call.
      module: the module.
      arrays: pytrees of arrays; None is an empty pytree.
      **options: other arguments, which are static in the program.

    Example:
      >>> import jax.numpy as jnp
      >>> linear = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> in_one_program(nnx.Linear.__call__, linear, (jnp.ones([5, 2]),)).shape
      (5, 3)
    """
    leaves = jax.tree.leaves(arrays)
    if leaves and all(map(_is_concrete, leaves)) and not is_hooked(module):
        known = _known.get(module)
        if known is None or known.ids != [id(v) for names in known.spaces for v in names.values()]:
            known = _known[module] = _look(module)
        values = [variable.get_raw_value() for variable in known.variables]
        if known.form is not None and all(isinstance(value, jax.Array) for value in values):
            static = tuple(options.items())
            try:
                hash(static)
            except TypeError:
                pass
            else:
                return _program(method, known.form, static, values, arrays)
    return method(module, *arrays, **options)


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)


def _look(module: nnx.Module) -> Known:
    """Find the form and the variables of a module."""
    spaces = [vars(each) for _, each in nnx.iter_modules(module)]
    attributes = [value for names in spaces for value in names.values()]
    leaves, structure = jax.tree.flatten(module)
    variables = jax.tree.leaves(module, is_leaf=lambda x: isinstance(x, nnx.Variable))
    form = None
    if all(isinstance(variable, nnx.Variable) for variable in variables):
        values = [variable.get_raw_value() for variable in variables]
        if len(values) == len(leaves) and all(map(operator.is_, values, leaves)):
            with contextlib.suppress(TypeError):  # if an attribute is not hashable
                form = Form(structure)
    return Known(form, variables if form else [], spaces, attributes, list(map(id, attributes)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _program(
    method: Callable[..., Any], form: Form, options: tuple[Any, ...], values: Any, arrays: Any
) -> Any:
    return method(jax.tree.unflatten(form.structure, values), *arrays, **dict(options))
