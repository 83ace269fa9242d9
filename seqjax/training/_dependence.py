"""Dependence analysis, which finds the inputs that each output of a traced program depends on."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypeAlias

from jax.extend import core

__all__ = ["dependences"]

Sources: TypeAlias = frozenset[int]

_NONE: Sources = frozenset()


def dependences(program: Any, sources: Sequence[AbstractSet[int]]) -> list[Sources]:
    """Return, for each output of a program, the set of sources on which the output depends.

    A source is a number that the caller chooses, such as the index of a field of a batch. Calls,
    loops and branches of the program are analysed, too. Values that are computed but not used have
    no effect on the result. If an operation cannot be analysed, each of its outputs is assumed to
    depend on all of its inputs.

    Args:
      program: a jaxpr, closed or open.
      sources: for each input of the program, the set of sources on which the input depends.

    Example:
      >>> import jax
      >>> def function(x, y, z):
      ...     unused = x * z
      ...     return x + jax.jit(lambda a, b: a)(y, z), z
      >>> program = jax.make_jaxpr(function)(1.0, 2.0, 3.0)
      >>> [sorted(found) for found in dependences(program, [{0}, {1}, {2}])]
      [[0, 1], [2]]
    """
    jaxpr = getattr(program, "jaxpr", program)
    known: dict[Any, Sources] = dict(zip(jaxpr.invars, map(frozenset, sources), strict=True))

    def of(atom: Any) -> Sources:
        return _NONE if isinstance(atom, core.Literal) else known.get(atom, _NONE)

    for equation in jaxpr.eqns:
        outputs = _equation(equation, [of(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _equation(equation: Any, sources: list[Sources]) -> list[Sources]:
    params, name = equation.params, equation.primitive.name
    if name == "scan":
        return _scan(equation, sources)
    if name == "while":
        return _while(params, sources)
    if name == "cond":
        index, *operands = sources
        branches = [dependences(branch, operands) for branch in params["branches"]]
        return [index.union(*found) for found in zip(*branches, strict=True)]
    inner = [value for value in params.values() if isinstance(value, core.ClosedJaxpr | core.Jaxpr)]
    if len(inner) == 1:
        jaxpr = getattr(inner[0], "jaxpr", inner[0])
        if len(jaxpr.invars) == len(sources) and len(jaxpr.outvars) == len(equation.outvars):
            return dependences(jaxpr, sources)
    return [_NONE.union(*sources)] * len(equation.outvars)


def _scan(equation: Any, sources: list[Sources]) -> list[Sources]:
    """Return the sources of each output of a `lax.scan`, first those of the final carry."""
    body = getattr(equation.params["jaxpr"], "jaxpr", equation.params["jaxpr"])
    # Outside of the body, scanned inputs and stacked outputs have one more axis than inside.
    whole = sum(_same_rank(*pair) for pair in zip(equation.invars, body.invars, strict=True))
    carries = sum(_same_rank(*pair) for pair in zip(equation.outvars, body.outvars, strict=True))
    consts, carry, xs = (
        sources[: whole - carries],
        sources[whole - carries : whole],
        sources[whole:],
    )
    while True:
        outputs = dependences(body, [*consts, *carry, *xs])
        merged = [old | new for old, new in zip(carry, outputs, strict=False)]
        if merged == carry:
            return [*carry, *outputs[carries:]]
        carry = merged


def _while(params: Any, sources: list[Sources]) -> list[Sources]:
    """Return the sources of a while loop's outputs, which all depend on the loop's condition."""
    split = params["cond_nconsts"] + params["body_nconsts"]
    cond_consts = sources[: params["cond_nconsts"]]
    body_consts, carry = sources[params["cond_nconsts"] : split], sources[split:]
    while True:
        [condition] = dependences(params["cond_jaxpr"], [*cond_consts, *carry])
        outputs = dependences(params["body_jaxpr"], [*body_consts, *carry])
        merged = [old | new | condition for old, new in zip(carry, outputs, strict=True)]
        if merged == carry:
            return carry
        carry = merged


def _same_rank(outside: Any, inside: Any) -> bool:
    return bool(outside.aval.ndim == inside.aval.ndim)
