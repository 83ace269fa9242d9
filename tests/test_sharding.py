"""A batch over two CPU devices (tests/conftest.py makes them) gives what one device gives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax
from seqjax import sharding
from tests.cases import CASES, assert_close, inputs_of, params_of

pytestmark = pytest.mark.two_devices

LENGTHS = np.array([6, 3, 0, 5])


def loss(cell, params, xs, lengths):
    outputs, state = seqjax.unroll(cell, params, xs, lengths=lengths)
    return jnp.sin(outputs).sum() + sum(jnp.cos(s).sum() for s in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["elman", "lstm", "gru", "cho_gru", "min_gru", "conv_lstm_1d"])
def test_gradients_equal_those_of_one_device(name):
    cell = CASES[name].cell
    params, batch = params_of(cell), (inputs_of(cell, (4,)), LENGTHS)
    gradient = jax.jit(jax.value_and_grad(loss, (1, 2)), static_argnums=0)
    placed = sharding.shard_batch(batch, 2)
    got = gradient(cell, sharding.replicate(params, 2), *placed)
    assert len(got[1][1].sharding.device_set) == 2  # the gradient of xs stays divided
    assert_close(got, gradient(cell, params, *batch), 1e-5, 1e-5)


def test_devices_only_meet_to_add_up_weight_gradients():
    cell = CASES["lstm"].cell
    arguments = (
        sharding.replicate(params_of(cell), 2),
        *sharding.shard_batch((inputs_of(cell, (4,)), LENGTHS), 2),
    )
    gradient = jax.jit(jax.grad(loss, 1), static_argnums=0)
    program = gradient.lower(cell, *arguments).compile().as_text()
    assert program is not None
    assert set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", program)) == {"all-reduce"}
    loops = [part for part in program.split("\n\n") if "all-reduce(" in part]
    assert len(loops) == 1  # in the main program, none in a loop's body


def test_what_cannot_be_divided_is_copied():
    tree = {
        "odd": np.ones((3, 2)),
        "even": np.ones((4, 2)),
        "scalar": 1.0,
        "key": jax.random.key(0),
    }
    placed = sharding.shard_batch(tree, 2)
    divided = {name: not leaf.sharding.is_fully_replicated for name, leaf in placed.items()}
    assert divided == {"odd": False, "even": True, "scalar": False, "key": False}
    time_major = sharding.shard_batch(np.ones((3, 4, 2)), axis=1)
    assert time_major.sharding.shard_shape(time_major.shape) == (3, 2, 2)


def test_mistakes():
    with pytest.raises(ValueError, match=r"devices: expected at most 2, .* got 3; see use_cpu"):
        sharding.shard_batch(np.ones(6), 3)
    with pytest.raises(ValueError, match="devices: expected a positive integer, got 0"):
        sharding.replicate(np.ones(6), 0)
    with pytest.raises(TypeError, match="axis: expected an integer"):
        sharding.shard_batch(np.ones(6), axis="time")  # type: ignore[arg-type]
    for place in (sharding.shard_batch, sharding.replicate):
        with pytest.raises(TypeError, match="tree: expected arrays of numbers, got 'text'"):
            place({"x": "text"})
        with pytest.raises(TypeError, match=r"tree: expected arrays of numbers, .* of <U1"):
            place(np.array(["a", "b"]))
        with pytest.raises(TypeError, match="tree: expected arrays of numbers"):
            place({"x": object()})
        with pytest.raises(ValueError, match=r"tree: expected .*masked"):
            place({"x": np.ma.masked_equal([1.0, 2.0], 2.0)})
    with pytest.raises(RuntimeError, match="count: expected 2, the number of CPU devices"):
        sharding.use_cpu_devices(5)
    assert sharding.use_cpu_devices(2) == 2
