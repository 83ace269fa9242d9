"""The FLOPs of a traced program, counted by name scope."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from seqjax.kernels import stands_for
from seqjax.types import Shape

__all__ = ["Work", "scope", "work_of"]

_SCOPE = re.compile(r"seqjax#(\d+)#")


def scope(index: int) -> Any:
    """Return a context manager: `work_of` counts the products inside it for the scope `index`."""
    return jax.named_scope(f"seqjax#{index}#")


@dataclasses.dataclass
class Work:
    """The work of a program.

    Attributes:
      flops: a dict from scopes to FLOPs of products and convolutions. A product counts for the
        innermost scope that contains it, and a multiply-add counts as 2 FLOPs.
      turns: a dict from scopes to the number of times that a call of the program enters the scope.
        Each iteration of a loop counts.
      unknown_loops: the number of `while` loops. Their numbers of iterations are unknown, so
        `flops` has the FLOPs of one iteration of each.
    """

    flops: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    turns: dict[int, int] = dataclasses.field(default_factory=dict)
    unknown_loops: int = 0

    def include(self, other: "Work", times: int = 1) -> None:
        """Add the work of another program that runs as part of this one."""
        for index, flops in other.flops.items():
            self.flops[index] += times * flops
        for index, turns in other.turns.items():
            self.turns[index] = max(self.turns.get(index, 0), times * turns)
        self.unknown_loops += other.unknown_loops


def work_of(jaxpr: Jaxpr, within: int = -1) -> Work:
    """Count the work of a program.

    Args:
      jaxpr: the program.
      within: the scope that contains the program.

    Example:
      >>> import jax.numpy as jnp
      >>> def run(w, x):
      ...     with scope(7):
      ...         return jax.lax.scan(lambda h, _: (h @ w, None), x, length=10)[0]
      >>> jaxpr = jax.make_jaxpr(run)(jnp.ones([3, 3]), jnp.ones([2, 3])).jaxpr
      >>> dict(work_of(jaxpr).flops)
      {7: 360}
    """
    work = Work()
    for equation in jaxpr.eqns:
        found = _SCOPE.findall(str(equation.source_info.name_stack))
        inner = int(found[-1]) if found else within
        if found:  # the scope is entered in this program, not outside of the loop around it
            work.turns.setdefault(inner, 1)
        if flops := _flops(equation):
            work.flops[inner] += flops
        programs = [work_of(part, inner) for part in _parts(equation)]
        name = equation.primitive.name
        if name == "cond":  # count the branch with the most work
            programs = [max(programs, key=lambda program: program.flops.total())]
        for program in programs:
            work.include(program, equation.params["length"] if name == "scan" else 1)
        if name == "while" and any(program.flops for program in programs):
            work.unknown_loops += 1
    return work


def _parts(equation: JaxprEqn) -> Iterator[Jaxpr]:
    program = stands_for(equation)
    if program is not None:
        yield program
    for part in jaxprs_in_params(equation.params):
        yield getattr(part, "jaxpr", part)


def _flops(equation: JaxprEqn) -> int:
    """Return the FLOPs of an operation: 2 · outputs · terms per output for products, else 0."""
    params = equation.params
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = _shape(equation.invars[0])
        terms = math.prod(left[axis] for axis in contracted)
    elif equation.primitive.name == "conv_general_dilated":
        kernel = _shape(equation.invars[1])
        terms = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    else:
        return 0
    return int(2 * terms * math.prod(_shape(equation.outvars[0])))


def _shape(variable: Any) -> Shape:
    shape: Shape = variable.aval.shape
    return shape
