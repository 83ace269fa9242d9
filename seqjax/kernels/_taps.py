"""Taps, which compute the weight gradients of products inside a step as one product for all steps.

A step may also multiply by weights outside of `recur`. Examples are the product after the reset
gate of a GRU, the projection of an LSTM and the query of attention. This module finds these
products in the program (jaxpr) of the step. Let x be a value that the step computes, let W be a
matrix of weights that no step changes, and let dots denote tangents. Then

    (x W)˙ = ẋ W + x Ẇ

After the step has run, x is known. Therefore x Ẇ, called a tap, is computed for all steps at once
and added to the tangent inside the step. The transpose of the tap is the gradient of W, computed as
one product after the loop. The value of x W is stored, too, so no product is computed twice.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend import core

from seqjax.types import Array, PyTree

__all__ = [
    "Made",
    "Product",
    "Tapped",
    "depends",
    "has_products",
    "reached",
    "reads",
    "tap",
    "variables",
    "without_zeros",
]

PRODUCTS = ("dot_general", "conv_general_dilated")


class Product(NamedTuple):
    """A product in the program of a step.

    Attributes:
      place: the index of the product among the equations of the program (jaxpr).
      weight: the index (0 or 1) of the operand whose gradient a tap computes, or None if there is
        no tap. The operand must be a matrix that no step changes, and at least as large as the
        other operand and the product together.
      early: whether the product's operands depend on no other product, so that the operands are
        cheap to recompute.
    """

    place: int
    weight: int | None
    early: bool


class Made(NamedTuple):
    """The products of one run of a step, in the order of the program.

    Attributes:
      operands: for each product, the array that was multiplied by a tapped weight, or None.
      values: the products.
    """

    operands: list[Array | None]
    values: list[Array]


class Tapped(NamedTuple):
    """A function `(constants, *step) -> PyTree`, and its products, which may have taps.

    Attributes:
      program: the program of the function.
      structure: the pytree structure of the function's result.
      products: the products that depend on the arguments of a step.
      varying: the variables that depend on the arguments of a step.
    """

    program: core.ClosedJaxpr
    structure: Any
    products: tuple[Product, ...]
    varying: frozenset[Any]

    def weights(self, constants: PyTree) -> list[Array | None]:
        """Compute the tapped weight of each product, or None, from the constants."""
        read, write = _environment(self.program, jax.tree.leaves(constants))
        equations = self.program.jaxpr.eqns
        for equation in equations:
            if not self.varying.intersection(equation.outvars):
                write(equation, bound(equation, [read(v) for v in equation.invars]))
        return [
            None if weight is None else read(equations[place].invars[weight])
            for place, weight, _ in self.products
        ]

    def run(
        self,
        constants: PyTree,
        *step: PyTree,
        weights: Sequence[Array | None] | None = None,
        taps: Sequence[Array | None] | None = None,
        values: Sequence[Array] | None = None,
    ) -> tuple[PyTree, Made]:
        """Run the function.

        Args:
          constants: the first argument of the function, the same at every step.
          *step: the other arguments of the function, those of one step.
          weights: the tapped weights. If they are None, they are computed from `constants`.
          taps: the tap of each product. The value of a tap is zero, and only its tangent matters.
            If `taps` are given, `values` must be given, too.
          values: the products, if they are known. If `values` are given, only the derivatives of
            the products are computed.

        Returns:
          The result of the function, and its products.
        """
        places = {product.place: n for n, product in enumerate(self.products)}
        made = Made([], [])
        read, write = _environment(self.program, jax.tree.leaves((constants, *step)))
        for index, equation in enumerate(self.program.jaxpr.eqns):
            operands = [read(v) for v in equation.invars]
            if index not in places:
                write(equation, bound(equation, operands))
                continue
            n = places[index]
            weight = self.products[n].weight
            if weights is not None and weight is not None:
                operands[weight] = weights[n]
            made.operands.append(None if weight is None else operands[1 - weight])
            if values is not None:
                tapped = None if taps is None else taps[n]
                made.values.append(_known(equation, values[n], *operands, tapped))
            else:
                made.values.append(bound(equation, operands)[0])
            write(equation, made.values[-1:])
        result = jax.tree.unflatten(self.structure, map(read, self.program.jaxpr.outvars))
        return result, made

    def without_early(self, made: Made) -> Made:
        """Return the products without the operands that are cheap to recompute."""
        operands = [
            None if product.early else operand
            for product, operand in zip(self.products, made.operands, strict=True)
        ]
        return made._replace(operands=operands)

    def taps(self, made: Made, again: Made, d_weights: Sequence[Array | None]) -> list[Any]:
        """Return the taps of all steps, each the product of an operand and a weight's tangent.

        Args:
          made: the products that the steps kept.
          again: the recomputed products, whose operands are used where `made` has None.
          d_weights: the tangents of the weights, with None in place of zero tangents.
        """
        found = []
        for product, kept, operand, d in zip(
            self.products, made.operands, again.operands, d_weights, strict=True
        ):
            multiply = functools.partial(_product, self.program.jaxpr.eqns[product.place])
            pair: Any = (operand if kept is None else kept, d)
            (a, b), axes = (pair, (0, None)) if product.weight == 1 else (pair[::-1], (None, 0))
            found.append(None if d is None else jax.vmap(multiply, axes)(a, b))
        return found


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _known(product: Any, value: Array, a: Array, b: Array, tapped: Array | None) -> Array:
    """Return `value`, which is the product of a and b.

    The derivative of this function adds the tangent of the tap to the tangent of the product.
    """
    del product, a, b, tapped
    return value


def _known_jvp(product: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    value, a, b, _ = primals
    _, d_a, d_b, d_tapped = without_zeros(tangents)
    terms = [
        None if d_a is None else _product(product, d_a, b),
        None if d_b is None else _product(product, a, d_b),
        d_tapped,
    ]
    moving = [term for term in terms if term is not None]
    return value, functools.reduce(operator.add, moving) if moving else jnp.zeros_like(value)


def without_zeros(tangents: Any) -> Any:
    """Return tangents with None in place of symbolic zeros.

    Example:
      >>> without_zeros((1.0, None))
      (1.0, None)
    """

    def is_zero(tangent: Any) -> bool:
        return isinstance(tangent, SymbolicZero)

    return jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)


_known.defjvp(_known_jvp, symbolic_zeros=True)


def tap(function: Callable[..., PyTree], constants: PyTree, *step: PyTree) -> Tapped | None:
    """Return the products of a step, except in nested jits, or None if there are no products.

    Args:
      function: `(constants, *step) -> PyTree`.
      constants: the first argument of `function`, the same at every step.
      *step: the arguments of one step.

    Example:
      >>> import jax.numpy as jnp
      >>> found = tap(lambda w, x: jnp.tanh(x) @ w, jnp.ones([8, 9]), jnp.ones([2, 8]))
      >>> value, made = found.run(jnp.ones([8, 9]), jnp.zeros([2, 8]))
      >>> made.operands[0].shape, made.values[0].shape
      ((2, 8), (2, 9))
      >>> tap(lambda w, x: x * w, jnp.ones([3]), jnp.ones([3])) is None
      True
    """
    program, shapes = jax.make_jaxpr(function, return_shape=True)(constants, *step)
    jaxpr = program.jaxpr
    count = len(jax.tree.leaves(constants))
    varying = reached(jaxpr, jaxpr.invars[count:])
    constant = reached(jaxpr, jaxpr.invars[:count]) - varying
    products: list[Product] = []
    late: set[Any] = set()
    for index, equation in enumerate(jaxpr.eqns):
        multiplies = equation.primitive.name in PRODUCTS
        if multiplies and varying.intersection(equation.outvars):
            weights = [
                n
                for n, v in enumerate(equation.invars)
                if constant.issuperset(variables([v])) and _pays(equation, n)
            ]
            early = not late.intersection(variables(equation.invars))
            products.append(Product(index, weights[0] if weights else None, early))
        if multiplies or late.intersection(variables(equation.invars)):
            late.update(equation.outvars)
    if not products:
        return None
    return Tapped(program, jax.tree.structure(shapes), tuple(products), frozenset(varying))


def _pays(equation: Any, weight: int) -> bool:
    """Return whether a product gets a tap.

    A product gets a tap if its weight has two or more axes and is at least as large as the other
    operand and the product together, or if these sizes are not known.

    With a tap, the loop reads and writes the other operand and the product at every step. Without a
    tap, the loop reads and writes the gradient of the weight.
    """
    w, x = (equation.invars[n].aval for n in (weight, 1 - weight))
    sizes = [math.prod(aval.shape) for aval in (w, x, equation.outvars[0].aval)]
    known = all(isinstance(size, int) for size in sizes)
    return w.ndim > 1 and (not known or sizes[1] + sizes[2] <= sizes[0])


def depends(function: Callable[..., PyTree], first: PyTree, *others: PyTree) -> list[bool]:
    """Return, for each array in a function's result, whether it depends on the first argument.

    Example:
      >>> depends(lambda a, b: (a + b, b), 1.0, 2.0)
      [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(first, *others).jaxpr
    found = reached(jaxpr, jaxpr.invars[: len(jax.tree.leaves(first))])
    return [not isinstance(v, core.Literal) and v in found for v in jaxpr.outvars]


def reads(function: Callable[..., PyTree], first: PyTree, *others: PyTree) -> list[bool]:
    """Return, for each array in the first argument, whether the result depends on that array.

    Example:
      >>> reads(lambda a, b: a[0] + b, (1.0, 2.0), 3.0)
      [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(first, *others).jaxpr
    needed = set(variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(variables(equation.invars))
    return [v in needed for v in jaxpr.invars[: len(jax.tree.leaves(first))]]


def has_products(function: Callable[..., PyTree], *arguments: PyTree) -> bool:
    """Return whether a function has matrix products or convolutions, except in nested jits.

    Example:
      >>> has_products(lambda a: a @ a, jnp.ones([2, 2])), has_products(lambda a: a * a, 1.0)
      (True, False)
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return any(equation.primitive.name in PRODUCTS for equation in jaxpr.eqns)


def reached(jaxpr: Any, sources: Sequence[Any]) -> set[Any]:
    """Return the variables `sources` and all variables that depend on one of them."""
    found = set(sources)
    for equation in jaxpr.eqns:
        if found.intersection(variables(equation.invars)):
            found.update(equation.outvars)
    return found


def variables(atoms: Sequence[Any]) -> list[Any]:
    """Return the atoms that are variables, without the literals."""
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _environment(program: core.ClosedJaxpr, arguments: Sequence[Any]) -> tuple[Any, Any]:
    """Return a function that reads and one that writes the variables of a program."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=False))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    def write(equation: Any, results: Sequence[Any]) -> None:
        values.update(zip(equation.outvars, results, strict=True))

    return read, write


def _product(equation: Any, a: Array, b: Array) -> Array:
    """Apply an equation of a jaxpr, which has two operands and one result, to `a` and `b`."""
    product: Array = bound(equation, [a, b])[0]
    return product


def bound(equation: Any, values: Sequence[Any]) -> list[Any]:
    """Apply an equation of a jaxpr to `values`, and return a list of its results."""
    parameters = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*values, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]
