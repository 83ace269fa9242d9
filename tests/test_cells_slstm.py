"""The sLSTM: against the authors' code, at its ends of range, and its heads, state and options.

`tests/golden/generate_xlstm.py` describes and makes the files `tests/golden/xlstm/*.npz`.
"""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import nn
from seqjax.cells import SLSTM, SLSTMParams, SLSTMState, initializers
from tests.cases import assert_close, inputs_of, params_of, state_of

GOLDEN = Path(__file__).resolve().parent / "golden" / "xlstm"
KEY = jax.random.key(0)
FORGET: Any = pytest.mark.parametrize("forget_gate", ["sigmoid", "exponential"])


def gates_only(i, f, z, o=0.0):
    """Parameters of a cell of one unit without weights, whose gates are given by its biases."""
    zeros: Any = np.zeros([1, 1, 4], np.float32)
    biases: Any = np.array([i, f, z, o], np.float32)
    return jax.device_put(SLSTMParams(zeros[0], zeros, biases, None))


# The authors' code.


@pytest.mark.quick("fresh-scan", "carried-fused")
@pytest.mark.parametrize("kernel", ["scan", "fused"])
@pytest.mark.parametrize("name", ["fresh", "carried"])
def test_values_and_gradients_of_the_authors_code(name, kernel):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        values, derivatives = ({k: pair[n] for k, pair in file.items()} for n in (0, 1))
    cell = SLSTM(3, 6, num_heads=2)
    params: Any = SLSTMParams(values["w_ih"], values["w_hh"], values["b"], None)
    given = [name for name in ("h_0", "c_0", "n_0", "m_0") if name in values]
    zeros = cell.initial_state(2)

    def loss(params, xs, start):
        state = zeros._replace(**{name[0]: value for name, value in start.items()})
        ran = seqjax.unroll(cell, params, xs, state=state, implementation=kernel)
        found = {"output": ran.outputs, **{f"{k}_n": v for k, v in ran.state._asdict().items()}}
        return sum((found[key] * derivatives[key]).sum() for key in found), found

    arguments = params, values["input"], {name: values[name] for name in given}
    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    (d_params, d_input, d_start), found = gradient(*arguments)
    assert_close(found, {key: values[key] for key in found}, 1e-5, 1e-5)
    ours = {"input": d_input, **d_start, **d_params._asdict()}
    ours = {key: value for key, value in ours.items() if value is not None}
    assert ours.keys() == derivatives.keys() - found.keys()
    assert_close(ours, {key: derivatives[key] for key in ours}, 1e-5, 1e-5)


# What the gates do.


@FORGET
def test_the_first_step_stores_its_input_whatever_its_gates(forget_gate):
    cell = SLSTM(1, 1, forget_gate=forget_gate)

    @jax.jit
    def run(params):
        def first(params):
            output, state = cell.step(params, jnp.zeros(1), cell.initial_state())
            return output.sum(), jnp.concatenate([output, *state])

        return jax.grad(first, has_aux=True)(params)

    want = np.tanh(0.7) / (1 + np.exp(-0.3))
    for i, f in itertools.product((-200.0, -1.0, 200.0), (-200.0, 1.0, 200.0)):
        gradient, found = jax.device_get(run(gates_only(i, f, 0.7, 0.3)))
        assert_close(found, np.array([want, want, np.tanh(0.7), 1.0, i]))
        assert not gradient.b[:2].any() and gradient.b[2:].all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.quick()
@FORGET
def test_a_step_after_a_reset_is_a_first_step(forget_gate):
    cell = SLSTM(3, 4, num_heads=2, forget_gate=forget_gate)
    params = jax.tree.map(lambda a: 30 * a, params_of(cell))
    xs = inputs_of(cell, (2,), 8)
    resets = np.zeros((2, 8), bool)
    resets[:, 4] = True
    ran = seqjax.unroll(cell, params, xs, resets=resets)
    alone = seqjax.unroll(cell, params, xs[:, 4:])
    assert_close((ran.outputs[:, 4:], ran.state), tuple(alone), 0, 0)
    assert bool(jnp.isfinite(ran.outputs).all())


@FORGET
def test_the_memory_is_a_mean_weighted_by_the_gates(forget_gate):
    """Two steps with log i of 1 and 3, and z_f = 0.5 at the second, by hand."""
    cell = SLSTM(1, 1, forget_gate=forget_gate)
    _, state = cell.step(gates_only(1.0, 9.0, 0.2), jnp.zeros(1), cell.initial_state())
    output, state = cell.step(gates_only(3.0, 0.5, -1.0), jnp.zeros(1), state)
    f = np.exp(0.5) if forget_gate == "exponential" else 1 / (1 + np.exp(-0.5))
    old, new = f * np.exp(1.0), np.exp(3.0)
    mean = (old * np.tanh(0.2) + new * np.tanh(-1.0)) / (old + new)
    total = state.n * jnp.exp(state.m)
    assert_close(
        jnp.concatenate([output, total, state.m]), np.array([0.5 * mean, old + new, 3.0]), 1e-5
    )
    # A large input gate replaces the memory, and a small one leaves it as it is.
    replaced, _ = cell.step(gates_only(60.0, 9.0, 0.7), jnp.zeros(1), state)
    left, _ = cell.step(gates_only(-60.0, -9.0, 0.7), jnp.zeros(1), state)
    assert_close(jnp.concatenate([replaced, left]), np.array([0.5 * np.tanh(0.7), 0.5 * mean]))


def test_the_scale_of_the_state_does_not_matter():
    """c, n in units of exp(m): the same memory in other units gives the same outputs."""
    cell = SLSTM(3, 4)
    params, xs, state = params_of(cell), inputs_of(cell, (2,)), state_of(cell, (2,))
    other = state._replace(c=state.c / 4, n=state.n / 4, m=state.m + np.log(4.0))
    got, want = (seqjax.unroll(cell, params, xs, state=s) for s in (other, state))
    assert_close(got.outputs, want.outputs)
    back = jnp.exp(got.state.m - want.state.m)
    assert_close((got.state.c * back, got.state.n * back), (want.state.c, want.state.n), 1e-5)


@pytest.mark.quick("float32-exponential")
@FORGET
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_state_of_100_000_steps_is_finite(dtype, forget_gate):
    cell = SLSTM(2, 4, num_heads=2, forget_gate=forget_gate)
    params = jax.tree.map(lambda a: 5 * a, params_of(cell))
    # Half of the units keep all they have seen, and m of some may grow at every step.
    params = params._replace(b=params.b.at[4:8].set(jnp.array([9.0, 9.0, 0.1, -9.0])))
    chunks = 3 * jax.random.normal(KEY, [200, 500, 2], dtype)

    @jax.jit
    def run(params, chunks):
        def chunk(state, xs):
            ran = seqjax.unroll(cell, params, xs, state=state)
            assert ran.outputs.dtype == dtype
            return ran.state, jnp.abs(ran.outputs).max()

        return jax.lax.scan(chunk, cell.initial_state((), dtype), chunks)

    state, largest = run(params, chunks)
    assert [leaf.dtype for leaf in state] == [dtype] + 3 * [jnp.float32]
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in state)
    assert bool((state.n >= 1).all()) and bool((jnp.abs(state.c) < 1.00001 * state.n).all())
    assert 0.5 < float(largest.max()) < 1.00001 and bool(jnp.isfinite(largest).all())


def test_a_sum_of_many_steps_is_kept_in_half_precision():
    """In bfloat16, n would end at 256, to which 1 adds nothing, and c with it."""
    cell = SLSTM(1, 1)
    xs = jnp.zeros([1000, 1], jnp.bfloat16)
    ran = seqjax.unroll(cell, gates_only(0.0, 20.0, 1.0), xs)
    np.testing.assert_allclose(ran.state.n, 1000, rtol=1e-3)


# Heads and the norm.


def test_heads_are_a_matrix_of_blocks():
    cell, dense = SLSTM(3, 6, num_heads=3), SLSTM(3, 6)
    params, xs = params_of(cell), inputs_of(cell, (2,))
    matrix = np.zeros([4, 6, 6], np.float32)
    for n, block in enumerate(params.w_hh):
        for gate, part in enumerate(np.split(block, 4, axis=1)):
            matrix[gate, 2 * n : 2 * n + 2, 2 * n : 2 * n + 2] = part
    full = params._replace(w_hh=jnp.asarray(np.concatenate(list(matrix), axis=1))[None])
    got, want = seqjax.unroll(cell, params, xs), seqjax.unroll(dense, full, xs)
    assert_close(got, want)


def test_the_norm_is_that_of_each_head_and_of_the_output_alone():
    plain, normed = SLSTM(3, 6, num_heads=2), SLSTM(3, 6, num_heads=2, head_norm=True)
    params, xs = params_of(normed), inputs_of(plain, (2,))
    want = seqjax.unroll(plain, params._replace(gain_h=None), xs)
    got = seqjax.unroll(normed, params, xs)
    assert_close(got.state, want.state, 0, 0)
    heads = np.asarray(want.outputs).reshape(2, -1, 2, 3)
    centred = heads - heads.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    assert_close(got.outputs, params.gain_h * scaled.reshape(2, -1, 6), 1e-5)


# The layer.


@pytest.mark.quick()
def test_zoneout_holds_the_hidden_state_alone():
    cell = SLSTM(3, 4)
    layer = nn.Recurrent(cell, zoneout=0.5, learned_initial_state=True, rngs=nnx.Rngs(0))
    names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))}
    assert {str(name) for name in names if "initial" in str(name)} == {"initial_state_h"}
    xs = inputs_of(cell, (2,), 50)
    for options in ({"rngs": KEY}, {"deterministic": True}):
        outputs, (state,) = layer(xs, **options)
        assert bool((state.n >= 1).all()) and bool((jnp.abs(state.c) < 1.00001 * state.n).all())
        assert bool((jnp.abs(outputs) < 1.00001).all())
    hold: Any = SLSTMState(h=0.1, c=None, n=None, m=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"zoneout: expected None .* SLSTM.*not held, got 0.1"):
        seqjax.unroll(cell, params_of(cell), xs, zoneout=hold)


@pytest.mark.quick()
def test_gradients_reach_every_parameter_from_the_initial_values():
    """The initial recurrent weights are zero, but their gradients are not."""
    layer = nn.SLSTM(1, 8, num_heads=2, head_norm=True, rngs=nnx.Rngs(0))
    xs = jax.random.normal(KEY, [4, 10, 1])

    @nnx.grad
    def gradient(layer):
        return jnp.square(layer(xs).outputs[:, -1] - xs[:, 0]).mean()

    leaves = jax.tree.leaves(nnx.jit(gradient)(layer))
    assert len(leaves) == 4 and all(bool(leaf.any()) for leaf in leaves)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


# Drawing, and errors.


def test_the_initial_parameters_are_those_of_the_authors():
    draw: Any = lambda *sizes, **options: SLSTM(*sizes, **options).init(KEY)  # noqa: E731
    params = draw(500, 64, num_heads=4)
    assert params.w_hh.shape == (4, 16, 64) and not params.w_hh.any() and params.gain_h is None
    np.testing.assert_allclose(params.w_ih.std(), np.sqrt(2 / (5 * 500)), rtol=0.02)
    i, f, z, o = np.split(np.asarray(params.b), 4)
    assert not i.any() and not z.any() and not o.any()
    place = np.arange(16) / 15
    assert_close(f.reshape(4, 16), np.tile(5 - 12 * place**0.3, (4, 1)), 1e-5)
    last = initializers.PowerLaw(depth=1.0)
    f = np.split(np.asarray(draw(3, 4, forget_init=last).b), 4)[1]
    assert_close(f, 5 - 12 * (np.arange(4) / 3) ** 1.6, 1e-5)
    assert draw(3, 2, num_heads=2).b[2:4].tolist() == [5.0, 5.0]
    assert draw(3, 4, head_norm=True).gain_h.tolist() == [1.0] * 4


def test_recurrent_weights_are_drawn_for_each_head_and_gate():
    w = SLSTM(3, 12, num_heads=3, recurrent_init="orthogonal").init(KEY).w_hh
    for block in w:
        for gate in jnp.split(block, 4, axis=1):
            assert_close(gate.T @ gate, np.eye(4), 1e-5)
    assert not np.isclose(w[0], w[1]).any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_heads": 4}, ValueError, "num_heads: expected a divisor of hidden_size=6, got 4"),
        ({"num_heads": 0}, ValueError, "num_heads: expected a positive integer, got 0"),
        ({"num_heads": 1.5}, TypeError, "num_heads: expected"),
        ({"forget_gate": "exp"}, ValueError, "forget_gate: expected one of sigmoid, exponential"),
        ({"head_norm": 1}, TypeError, "head_norm: expected"),
        ({"forget_init": "power"}, ValueError, "forget_init: expected one of"),
    ],
)
def test_options_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        SLSTM(3, 6, **options)
    with pytest.raises(ValueError, match="depth: expected a number from 0 to 1, got 2"):
        initializers.PowerLaw(2)
