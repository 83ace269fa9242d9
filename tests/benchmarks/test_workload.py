"""Workloads: their arithmetic is counted right, and nothing in them hides an error."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from benchmarks.peers.handwritten import Handwritten
from benchmarks.peers.jax_network import Recurrence
from benchmarks.workload import CELLS, FURTHER_VARIANTS, GATES, VARIANTS, Shape, flops, make

SHAPE = Shape(batch=3, steps=5, inputs=2, hidden=4)


def counted(jaxpr: Any) -> int:
    """The operations of all matrix products in a program, those in loops once an iteration."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracting, _), _ = equation.params["dimension_numbers"]
            depth = np.prod([equation.invars[0].aval.shape[axis] for axis in contracting])
            total += 2 * int(depth * np.prod(equation.outvars[0].aval.shape))
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(map(counted, jaxprs_in_params(equation.params)))
    return total


@pytest.mark.parametrize("what", ["forward", "gradient"])
@pytest.mark.parametrize("variant", ["plain", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_flops_are_those_of_the_program(cell: str, variant: str, what: str) -> None:
    workload = make(cell, variant, SHAPE)
    recurrence = Handwritten().recurrence(workload.structure, lengths=False)
    assert isinstance(recurrence, Recurrence)

    def forward(weights: Any, xs: Any) -> Any:
        return recurrence.apply(weights, np.swapaxes(xs, 0, 1), None).sum()

    function = forward if what == "forward" else jax.grad(forward, argnums=(0, 1))
    program = jax.make_jaxpr(function)(workload.weights, workload.xs)
    assert flops(workload.structure, SHAPE.batch, SHAPE.steps, what) == counted(program.jaxpr)


@pytest.mark.parametrize("variant", (*VARIANTS, *FURTHER_VARIANTS))
@pytest.mark.parametrize("cell", CELLS)
def test_workload_has_its_layout_and_no_zeros(cell: str, variant: str) -> None:
    workload = make(cell, variant, SHAPE)
    count = 2 if variant == "bidirectional" else 1
    columns = GATES[cell] * SHAPE.hidden
    assert [len(layer) for layer in workload.weights] == [count] * count
    for layer, width in zip(workload.weights, workload.structure.widths, strict=True):
        for weights in layer:
            shapes = {"w_ih": (width, columns), "w_hh": (SHAPE.hidden, columns), "b": (columns,)}
            shapes |= {"b_hn": (SHAPE.hidden,)} if cell == "gru" else {}
            assert {name: array.shape for name, array in weights.items()} == shapes
            assert all(array.all() and array.dtype == np.float32 for array in weights.values())
    assert workload.cotangent.shape == (SHAPE.batch, SHAPE.steps, SHAPE.hidden * count)
    assert ((workload.cotangent != 0) == workload.real).all()


def test_lengths_are_between_half_and_all_the_steps() -> None:
    lengths = make("lstm", "lengths", Shape(50, 20, 1, 1)).lengths
    assert lengths is not None
    assert lengths.max() == 20 and 10 <= lengths.min() < 14
    assert len(set(lengths.tolist())) > 5


def test_resets_are_few_and_never_none() -> None:
    assert make("lstm", "plain", SHAPE).resets is None
    for shape in (SHAPE, Shape(50, 20, 1, 1)):
        resets = make("lstm", "resets", shape).resets
        assert resets is not None and resets.shape == shape[:2]
        assert resets[0, shape.steps // 2] and resets.mean() < 0.2


def test_same_seed_gives_the_same_workload() -> None:
    one, two, other = (make("gru", "lengths", SHAPE, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.xs, two.xs)
    assert not np.array_equal(one.xs, other.xs)
