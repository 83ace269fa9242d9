"""Products inside a step, taken out of it: their weight gradients are one product for all steps.

A step may multiply by weights in places that no contract names: the reset gate's product of a GRU,
the read-out of a projected LSTM, the query of attention. The program of the step shows them. With x
what the step computed, W weights that no step changes, and dots for tangents,

    (x W)˙ = ẋ W + x Ẇ

where x is known once the step has run. So x Ẇ is computed for all steps at once and added to the
tangent inside: a tap. Its transpose gives the gradient of W as one product after the loop. Since
x W is known then, too, no product is computed twice.
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

__all__ = ["Made", "Product", "Tapped", "depends", "has_products", "reads", "tap", "without_zeros"]

PRODUCTS = ("dot_general", "conv_general_dilated")


class Product(NamedTuple):
    """A product in the program of a step.

    Attributes:
      place: where it stands.
      weight: which of its two operands is a matrix that no step changes and that is larger than
        the other operand and the product; None if neither is.
      early: whether its operands depend on no other product, so that they are cheap to recompute.
    """

    place: int
    weight: int | None
    early: bool


class Made(NamedTuple):
    """The products of one run of a step, in their order.

    Attributes:
      operands: what was multiplied by a tapped weight; None for other products.
      values: the products.
    """

    operands: list[Array | None]
    values: list[Array]


class Tapped(NamedTuple):
    """A function `(constants, *step) -> PyTree` whose products are apart.

    Attributes:
      program: the function's program.
      structure: of what it returns.
      products: the products of something that a step changes.
      varying: the variables that a step changes.
    """

    program: core.ClosedJaxpr
    structure: Any
    products: tuple[Product, ...]
    varying: frozenset[Any]

    def weights(self, constants: PyTree) -> list[Array | None]:
        """Return what the products multiply by, where that depends on the constants alone."""
        read, write = _environment(self.program, jax.tree.leaves(constants))
        equations = self.program.jaxpr.eqns
        for equation in equations:
            if not self.varying.intersection(equation.outvars):
                write(equation, _bound(equation, [read(v) for v in equation.invars]))
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
          constants: its first argument.
          *step: the others.
          weights: what the products multiply by; if not given, it follows from the constants.
          taps: what is added to each product.
          values: the products, if they are known: then only their derivatives are computed.

        Returns:
          What the function returns, and what became of its products.
        """
        places = {product.place: n for n, product in enumerate(self.products)}
        made = Made([], [])
        read, write = _environment(self.program, jax.tree.leaves((constants, *step)))
        for index, equation in enumerate(self.program.jaxpr.eqns):
            operands = [read(v) for v in equation.invars]
            if index not in places:
                write(equation, _bound(equation, operands))
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
                made.values.append(_bound(equation, operands)[0])
            write(equation, made.values[-1:])
        result = jax.tree.unflatten(self.structure, map(read, self.program.jaxpr.outvars))
        return result, made

    def without_early(self, made: Made) -> Made:
        """Return the same without the operands that cost little to compute again."""
        operands = [
            None if product.early else operand
            for product, operand in zip(self.products, made.operands, strict=True)
        ]
        return made._replace(operands=operands)

    def taps(self, made: Made, again: Made, d_weights: Sequence[Array | None]) -> list[Any]:
        """The taps of all steps: the products of operands and the tangents of weights.

        Args:
          made: what the steps kept.
          again: the same with the operands that they did not keep.
          d_weights: the tangents, None for a weight that does not move.
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
    """The product of a and b, whose value is known, with a tap whose value is zero."""
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
    """Return tangents with None in place of those that are known to be zero: nothing moves there.

    Example:
      >>> without_zeros((1.0, None))
      (1.0, None)
    """

    def is_zero(tangent: Any) -> bool:
        return isinstance(tangent, SymbolicZero)

    return jax.tree.map(lambda t: None if is_zero(t) else t, tangents, is_leaf=is_zero)


_known.defjvp(_known_jvp, symbolic_zeros=True)


def tap(function: Callable[..., PyTree], constants: PyTree, *step: PyTree) -> Tapped | None:
    """Find the products of a step, those in nested jits not among them; None if there are none.

    Args:
      function: `(constants, *step) -> PyTree`.
      constants: its first argument, the same at every step.
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
    varying = _reached(jaxpr, jaxpr.invars[count:])
    constant = _reached(jaxpr, jaxpr.invars[:count]) - varying
    products: list[Product] = []
    late: set[Any] = set()
    for index, equation in enumerate(jaxpr.eqns):
        multiplies = equation.primitive.name in PRODUCTS
        if multiplies and varying.intersection(equation.outvars):
            weights = [
                n
                for n, v in enumerate(equation.invars)
                if constant.issuperset(_variables([v])) and _pays(equation, n)
            ]
            early = not late.intersection(_variables(equation.invars))
            products.append(Product(index, weights[0] if weights else None, early))
        if multiplies or late.intersection(_variables(equation.invars)):
            late.update(equation.outvars)
    if not products:
        return None
    return Tapped(program, jax.tree.structure(shapes), tuple(products), frozenset(varying))


def _pays(equation: Any, weight: int) -> bool:
    """Return whether to tap a product: its operand and value are smaller than its weight.

    A tap reads and writes those two at every step; without it the loop reads and writes the
    gradient of the weight.
    """
    w, x = (equation.invars[n].aval for n in (weight, 1 - weight))
    sizes = [math.prod(aval.shape) for aval in (w, x, equation.outvars[0].aval)]
    known = all(isinstance(size, int) for size in sizes)
    return w.ndim > 1 and (not known or sizes[1] + sizes[2] <= sizes[0])


def depends(function: Callable[..., PyTree], first: PyTree, *others: PyTree) -> list[bool]:
    """Return for each array that a function returns whether it depends on the first argument.

    Example:
      >>> depends(lambda a, b: (a + b, b), 1.0, 2.0)
      [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(first, *others).jaxpr
    reached = _reached(jaxpr, jaxpr.invars[: len(jax.tree.leaves(first))])
    return [not isinstance(v, core.Literal) and v in reached for v in jaxpr.outvars]


def reads(function: Callable[..., PyTree], first: PyTree, *others: PyTree) -> list[bool]:
    """Return for each array of the first argument whether the result depends on it.

    Example:
      >>> reads(lambda a, b: a[0] + b, (1.0, 2.0), 3.0)
      [True, False]
    """
    jaxpr = jax.make_jaxpr(function)(first, *others).jaxpr
    needed = set(_variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(_variables(equation.invars))
    return [v in needed for v in jaxpr.invars[: len(jax.tree.leaves(first))]]


def has_products(function: Callable[..., PyTree], *arguments: PyTree) -> bool:
    """Return whether a function multiplies matrices or convolves; nested jits are not searched.

    Example:
      >>> has_products(lambda a: a @ a, jnp.ones([2, 2])), has_products(lambda a: a * a, 1.0)
      (True, False)
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return any(equation.primitive.name in PRODUCTS for equation in jaxpr.eqns)


def _reached(jaxpr: Any, sources: Sequence[Any]) -> set[Any]:
    """The variables that depend on some others, and these."""
    reached = set(sources)
    for equation in jaxpr.eqns:
        if reached.intersection(_variables(equation.invars)):
            reached.update(equation.outvars)
    return reached


def _variables(atoms: Sequence[Any]) -> list[Any]:
    """Those that are variables and not constants."""
    return [atom for atom in atoms if not isinstance(atom, core.Literal)]


def _environment(program: core.ClosedJaxpr, arguments: Sequence[Any]) -> tuple[Any, Any]:
    """How to read and to write the variables of a program that has been given some arguments."""
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=False))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    def write(equation: Any, results: Sequence[Any]) -> None:
        values.update(zip(equation.outvars, results, strict=True))

    return read, write


def _product(equation: Any, a: Array, b: Array) -> Array:
    """Run an equation that has one result."""
    product: Array = _bound(equation, [a, b])[0]
    return product


def _bound(equation: Any, values: Sequence[Any]) -> list[Any]:
    """Run one equation of a program."""
    parameters = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*values, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]
