"""Cells of Flax in seqjax, against Flax's own loops and against loops in Python."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import seqjax
from seqjax import cells, export, interop, nn
from seqjax.cells import Role
from tests.cases import assert_close, draw_like
from tests.nn.helpers import B, H, I, T, drawn, jit, make, random, resets_of, run

LENGTHS: Any = np.array([T, 2, 3])  # not 0, for which Flax reads step -1
REAL = np.arange(T) < LENGTHS[:, None]
XS: Any = random(B, T, I)
SPATIAL = (3, 2)
# Without types, since the tests of errors pass wrong ones.
from_nnx: Any = nn.from_nnx
from_linen: Any = nn.from_linen
as_nnx_cell: Any = nn.as_nnx_cell


def nnx_lstm(input_size, rngs):
    return nnx.LSTMCell(input_size, H, rngs=rngs)


def nnx_residual(input_size, rngs):
    return nnx.SimpleCell(input_size, H, residual=True, dtype=None, rngs=rngs)


NNX: dict[str, Any] = {
    "LSTMCell": nnx_lstm,
    "OptimizedLSTMCell": functools.partial(nnx.OptimizedLSTMCell, hidden_features=H),
    "GRUCell": functools.partial(nnx.GRUCell, hidden_features=H),
    "SimpleCell": nnx_residual,
}
LINEN: dict[str, Any] = {
    "LSTMCell": linen.LSTMCell(H),
    "OptimizedLSTMCell": linen.OptimizedLSTMCell(H),
    "GRUCell": linen.GRUCell(H),
    "SimpleCell": linen.SimpleCell(H, residual=True),
    "MGUCell": linen.MGUCell(H),
    "ConvLSTMCell": linen.ConvLSTMCell(H, kernel_size=(3, 3)),
}


class Readout(nnx.RNNCellBase):
    """A cell whose output is not an array of its carry, which also counts the steps."""

    num_feature_axes = 1

    def __init__(self, input_size, rngs):
        self.inner = nnx.Linear(input_size + H, H, rngs=rngs)
        self.outer = nnx.Linear(H, 2, rngs=rngs)

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        batch = input_shape[:-1]
        return {"h": jnp.full((*batch, H), 0.5), "step": jnp.zeros(batch, jnp.int32)}

    def __call__(self, carry, x):
        h = jnp.tanh(self.inner(jnp.concatenate([carry["h"], x], axis=-1)))
        return {"h": h, "step": carry["step"] + 1}, self.outer(h)


def module_of(build, input_size=I, seed=1):
    """An NNX module with random parameters."""
    return drawn(lambda: build(input_size, rngs=nnx.Rngs(0)), seed)


def weighted(outputs, carry):
    """A scalar that depends on each real output, and on each array of the carry."""
    mask = jnp.asarray(REAL).reshape(B, T, *[1] * (outputs.ndim - 2))
    weights = jnp.asarray(random(*outputs.shape, seed=9))
    total = (jnp.where(mask, outputs, 0) * weights).sum()
    for leaf in jax.tree.leaves(carry):
        total += jnp.sin(leaf).sum().real
    return total / outputs.size


def assert_same_both_ways(theirs, ours, params, xs):
    """Compare values at real steps, final carries and gradients of two functions."""

    def with_gradients(function):
        def loss(params, xs):
            outputs, carry = function(params, xs)
            return weighted(outputs, carry), (outputs, carry)

        return jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, xs)

    (_, (outputs, carry)), gradients = with_gradients(ours)
    (_, (expected, last)), expected_gradients = with_gradients(theirs)
    assert_close(np.asarray(outputs)[REAL], np.asarray(expected)[REAL], 1e-6, 1e-6)
    assert not np.asarray(outputs)[~REAL].any()
    assert_close(carry, last, 1e-6, 1e-6)
    assert_close(gradients, expected_gradients, 1e-6, 1e-6)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradients))


@pytest.mark.quick("GRUCell")
@pytest.mark.parametrize("name", NNX)
def test_an_nnx_cell_equals_the_rnn_of_nnx(name):
    module = module_of(NNX[name])
    cell, params = from_nnx(module)
    start = jax.tree.map(jnp.asarray, draw_like(cell.initial_state((B,)), 2, 0.5))

    def theirs(params, xs):
        twin = nnx.clone(module)
        nnx.update(twin, params)
        rnn = nnx.RNN(twin, return_carry=True, rngs=False)
        return rnn(xs, seq_lengths=LENGTHS, initial_carry=start)[::-1]

    def ours(params, xs):
        layer = nn.Recurrent(cell, params=[params])
        outputs, (state,) = layer(xs, lengths=LENGTHS, initial_state=[start])
        return outputs, state

    assert_same_both_ways(theirs, ours, params, XS)


@pytest.mark.quick("MGUCell")
@pytest.mark.parametrize("name", LINEN)
def test_a_linen_cell_equals_the_rnn_of_linen(name):
    module = LINEN[name]
    spatial = SPATIAL if name.startswith("Conv") else ()
    cell = from_linen(module, I, spatial_shape=spatial)
    params = jax.tree.map(jnp.asarray, draw_like(cell.param_specs(), 1, 0.4))
    rnn = linen.RNN(module, return_carry=True)

    def theirs(params, xs):
        return rnn.apply({"params": {"cell": params}}, xs, seq_lengths=LENGTHS)[::-1]

    def ours(params, xs):
        return seqjax.unroll(cell, params, xs, lengths=LENGTHS)

    assert_same_both_ways(theirs, ours, params, random(B, T, *spatial, I))


def by_loop(module, xs, mask, resets, reverse=False):
    """Outputs and final carry of a module, one step and one row at a time."""
    outputs, finals = [], []
    for row in range(len(xs)):
        carry = start = module.initialize_carry((I,), nnx.Rngs(0))
        found: list[Any] = []
        for t in range(T)[:: -1 if reverse else 1]:
            carry = start if resets[row, t] else carry
            if mask[row, t]:
                carry, y = module(carry, xs[row, t])
            found.append(np.asarray(y) if mask[row, t] else None)
        found = [np.zeros_like(y) if each is None else each for each in found]
        outputs.append(np.stack(found[:: -1 if reverse else 1]))
        finals.append(carry)
    return np.stack(outputs), jax.tree.map(lambda *leaves: np.stack(leaves), *finals)


@pytest.mark.quick("False-Readout", "True-nnx_lstm")
@pytest.mark.parametrize("build", [nnx_lstm, Readout])
@pytest.mark.parametrize("reverse", [False, True])
def test_masks_and_resets(build, reverse):
    module = module_of(build)
    cell, params = from_nnx(module, I)
    mask = np.random.default_rng(0).random((B, T)) < 0.7
    mask[:, 1] = True
    resets = resets_of((B,), T)
    assert resets.any() and not mask.all()
    dirty = np.where(mask[..., None], XS, np.nan)
    outputs, state = seqjax.unroll(cell, params, dirty, mask=mask, resets=resets, reverse=reverse)
    expected, carry = by_loop(module, XS, mask, resets, reverse)
    assert_close(outputs, expected, 1e-6)
    assert_close(state if build is nnx_lstm else state.carry, carry, 1e-6)


def test_an_output_outside_of_the_carry_is_a_part_of_the_state():
    cell = from_nnx(Readout, I)
    assert (cell.hidden_size, cell.output_shape) == (2, (2,))
    state = cell.initial_state((B,))
    assert_close(state.carry["h"], np.full((B, H), 0.5))
    assert state.output.shape == (B, 2) and state.carry["step"].dtype == jnp.int32
    roles = cell.state_roles()
    assert roles.carry == {"h": Role(True, True), "step": Role(False, False)}
    assert roles.output == Role(False, False)
    assert len(jax.tree.leaves(from_nnx(nnx_lstm, I).initial_state((B,)))) == 2


@pytest.mark.quick()
@pytest.mark.parametrize(
    "cell",
    [
        *(pytest.param(from_nnx(NNX[name], I), id=f"nnx-{name}") for name in NNX),
        *(
            pytest.param(
                from_linen(LINEN[name], I, spatial_shape=SPATIAL if "Conv" in name else ()),
                id=f"linen-{name}",
            )
            for name in LINEN
        ),
        pytest.param(from_nnx(Readout, I), id="nnx-Readout"),
    ],
)
def test_the_laws_of_the_contract(cell):
    seqjax.testing.check_cell(cell)


@pytest.mark.quick()
def test_a_bidirectional_stack_equals_one_of_flax():
    layer = make(from_nnx(nnx_lstm, I), num_layers=2, bidirectional=True)
    theirs = []
    for one in layer.layers:
        pair = [module_of(nnx_lstm, way.cell.input_size) for way in one.directions]
        for module, way in zip(pair, one.directions, strict=True):
            nnx.update(module, way.params)
        theirs.append(nnx.Bidirectional(*map(nnx.RNN, pair), return_carry=True))
    ys, carries = XS, []
    for both in theirs:
        carry, ys = both(ys, seq_lengths=LENGTHS)
        carries.append(carry)
    outputs, state = run(layer, XS, lengths=LENGTHS)
    assert_close(np.asarray(outputs)[REAL], np.asarray(ys)[REAL], 1e-6)
    assert_close(state, carries, 1e-6)


def pair_of_layers(**options):
    """A layer that calls Flax's LSTM, and our LSTM of the same parameters."""
    theirs = make(from_nnx(nnx_lstm, I), **options)
    modules = []
    for one in theirs.layers:
        module = module_of(nnx_lstm, one.forward.cell.input_size)
        nnx.update(module, one.forward.params)
        modules.append(module)
    options.pop("num_layers", None)
    return theirs, interop.nnx.load(modules, **options)


@pytest.mark.quick()
def test_dropout_is_that_of_our_lstm():
    theirs, ours = pair_of_layers(num_layers=2, dropout=0.4, input_dropout=0.3)
    options = {"lengths": LENGTHS, "rngs": jax.random.key(0)}
    got, want = run(theirs, XS, **options), run(ours, XS, **options)
    assert_close(got.outputs, want.outputs, 1e-6)
    assert not np.allclose(got.outputs, run(theirs, XS, lengths=LENGTHS, deterministic=True)[0])


@pytest.mark.quick()
def test_zoneout_and_segments_are_those_of_our_lstm():
    theirs, ours = pair_of_layers(zoneout=0.3)
    options = {"lengths": LENGTHS, "deterministic": True}

    @jit
    @functools.partial(nnx.grad, has_aux=True)
    def gradient(layer, xs):
        found = layer(xs, remat="sqrt", **options)
        return jnp.square(found.outputs).sum(), found

    found, (outputs, (state,)) = gradient(theirs, XS)
    expected, (ys, (final,)) = gradient(ours, XS)
    assert_close(outputs, ys, 1e-6)
    assert_close(state, (final.c, final.h), 1e-6)
    kernels = [found["layers"][0]["forward"][f"h{gate}_kernel"][...] for gate in "ifgo"]
    w_hh = expected["layers"][0]["forward"]["w_hh"][...]
    assert_close(jnp.concatenate(kernels, axis=-1), w_hh, 2e-6)


def test_a_learned_initial_state_is_trained_and_reset_to():
    layer = make(from_nnx(nnx_lstm, I), learned_initial_state=True)
    way = layer.layers[0].forward
    start = (way.initial_state_0[...], way.initial_state_1[...])
    module = module_of(nnx_lstm)
    nnx.update(module, way.params)
    resets = np.zeros((B, T), bool)
    resets[:, 2] = True

    @jit
    @functools.partial(nnx.grad, has_aux=True)
    def trained(layer):
        outputs = layer(XS, resets=resets).outputs
        return outputs.sum(), outputs

    gradient, got = trained(layer)
    carry = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (B, H)), start)
    for t in range(T):
        carry = jax.tree.map(lambda a: jnp.broadcast_to(a, (B, H)), start) if t == 2 else carry
        carry, y = module(carry, XS[:, t])
        assert_close(got[:, t], y, 1e-6)
    assert np.abs(gradient["layers"][0]["forward"]["initial_state_0"][...]).max() > 1e-3


@pytest.mark.quick("cell1")
@pytest.mark.parametrize("cell", [from_nnx(Readout, I), from_linen(LINEN["MGUCell"], I)])
def test_steps_streams_and_exports(cell):
    layer = make(cell)
    whole = run(layer, XS)
    state, outputs = layer.initial_state((B,)), []
    step = jit(layer.step)
    for t in range(T):
        output, state = step(XS[:, t], state)
        outputs.append(output)
    assert_close(np.stack(outputs, 1), whole.outputs, 1e-6)
    assert_close(state, whole.state, 1e-6)
    session = seqjax.streaming.Session(layer, capacity=2)
    session.open("a")
    assert_close(session.feed({"a": XS[0]})["a"], whole.outputs[0], 1e-6)
    artifact = export.export_step(layer, platforms=["cpu"])
    state = artifact.initial_state((B,))
    for t in range(T):
        found = artifact(XS[:, t], state)
        state = found["state"]
    assert_close(found["output"], whole.outputs[:, -1], 1e-6)


def test_under_vmap_each_row_has_its_own_parameters():
    cell = from_nnx(nnx_lstm, I)
    params = jax.tree.map(jnp.asarray, draw_like(cell.param_specs(), 1, 0.4))
    other = jax.tree.map(lambda leaf: -leaf, params)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)
    found = jit(jax.vmap(lambda params: seqjax.unroll(cell, params, XS).outputs))(both)
    assert_close(found[0], seqjax.unroll(cell, params, XS).outputs, 1e-6)
    assert_close(found[1], seqjax.unroll(cell, other, XS).outputs, 1e-6)


def test_the_step_is_run_as_flax_runs_it():
    cell = from_nnx(nnx_lstm, I)
    plan = seqjax.explain(cell, XS)
    assert plan.kernel.name == "scan"
    assert "NNXCell is opaque" in plan.reasons.kernel


def test_an_effect_belongs_to_the_step():
    seen = []

    class Noting(nnx.SimpleCell):
        def __call__(self, carry, x):
            jax.debug.callback(lambda x: seen.append(np.asarray(x).ravel()), x)
            return super().__call__(carry, x)

    cell, params = from_nnx(Noting(I, H, rngs=nnx.Rngs(0)))
    jax.block_until_ready(seqjax.unroll(cell, params, XS))
    jax.effects_barrier()
    assert_close(np.sort(np.concatenate(seen)), np.sort(XS.ravel()), 0, 0)


def test_a_carry_may_start_at_numbers_that_differ():
    module = nnx_lstm(I, nnx.Rngs(0))
    module.carry_init = lambda key, shape, dtype: jnp.zeros(shape, dtype) + jnp.arange(H)
    cell, params = from_nnx(module)
    assert_close(cell.initial_state((B, 2)), [np.broadcast_to(np.arange(H), (B, 2, H))] * 2)
    outputs, _ = nn.Recurrent(cell, params=[params])(XS)
    expected = nnx.RNN(module)(XS)
    assert_close(outputs, expected, 1e-6)


def test_equal_modules_make_equal_cells():
    one, other = (from_nnx(nnx_lstm(I, nnx.Rngs(seed)))[0] for seed in (0, 1))
    assert one == other and hash(one) == hash(other)
    assert from_nnx(nnx_lstm, I) == from_nnx(nnx_lstm, I)
    assert from_nnx(nnx_lstm, I) != from_nnx(nnx_lstm, I + 1)
    assert from_linen(linen.GRUCell(H), I) == from_linen(linen.GRUCell(H), I)
    assert from_linen(linen.GRUCell(H), I) != from_linen(linen.GRUCell(H + 1), I)


def test_parameters_are_those_that_flax_draws():
    module = linen.GRUCell(H)
    key = jax.random.key(0)
    carry = module.initialize_carry(key, (1, I))
    drawn = module.init(key, carry, jnp.zeros([1, I]))["params"]
    assert_close(from_linen(module, I).init(key), drawn, 0, 0)
    cell = from_nnx(nnx_lstm, I)
    assert_close(cell.init(key), nnx.to_pure_dict(nnx.state(nnx_lstm(I, nnx.Rngs(key)))), 0, 0)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(cell.init(key, jnp.bfloat16)))


def test_a_trained_module_gives_and_takes_its_parameters():
    module = module_of(nnx_lstm)
    cell, params = from_nnx(module)
    layer = nn.Recurrent(cell, params=[params])
    back = nnx_lstm(I, nnx.Rngs(5))
    nnx.update(back, layer.layers[0].forward.params)
    assert_close(nnx.to_pure_dict(nnx.state(back)), nnx.to_pure_dict(nnx.state(module)), 0, 0)
    # A module inside of a traced function works too: no array is a part of the cell.
    abstract = nnx.eval_shape(lambda: nn.Recurrent(cell, params=[from_nnx(nnx.clone(module))[1]]))
    assert abstract.layers[0].forward.hi_bias.shape == (H,)


class Normed(nnx.RNNCellBase):
    """A cell with more than parameters."""

    num_feature_axes = 1

    def __init__(self, inner, rngs):
        self.in_features, self.hidden_features = I, H
        self.linear = nnx.Linear(I, H, rngs=rngs)
        self.inner = inner(rngs)

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        return jnp.zeros((*input_shape[:-1], H))

    def __call__(self, carry, x):
        return (y := self.inner(self.linear(x) + carry)), y


class Learned(Normed):
    """A cell whose initial carry is a parameter."""

    def initialize_carry(self, input_shape, rngs=None, carry_init=None):
        bias: Any = self.linear.bias
        return jnp.broadcast_to(bias[...], (*input_shape[:-1], H))


class NormedLinen(linen.RNNCellBase):
    """A Linen cell with more than parameters."""

    inner: Any

    @property
    def num_feature_axes(self):
        return 1

    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], H))

    @linen.compact
    def __call__(self, carry, x):
        return (y := self.inner(linen.Dense(H)(x) + carry)), y


def instance():
    return from_nnx(nnx_lstm(I, nnx.Rngs(0)))


ERRORS: dict[str, tuple[Any, str]] = {
    "no module": (lambda: from_nnx(3, I), "module: expected an NNX cell or a function"),
    "no cell": (
        lambda: from_nnx(nnx.RNN(nnx_lstm(I, nnx.Rngs(0)))),
        "module: expected a cell such as .*, got RNN; pass its cell",
    ),
    "no cell of Linen": (lambda: from_linen(linen.Dense(H), I), "module: .*, got Dense$"),
    "statistics": (
        lambda: from_nnx(Normed(lambda rngs: nnx.BatchNorm(H, rngs=rngs), nnx.Rngs(0))),
        "only variables are nnx.Param, got a BatchStat at inner.mean of a Normed",
    ),
    "random streams": (
        lambda: from_nnx(lambda n, rngs: Normed(lambda r: nnx.Dropout(0.5, rngs=r), rngs), I),
        r"got a Rng\w+ at inner.rngs.\w+ of a Normed; use the dropout of the layer",
    ),
    "keep_rngs": (
        lambda: from_nnx(nnx.GRUCell(I, H, keep_rngs=True, rngs=nnx.Rngs(0))),
        r"got a Rng\w+ at rngs.\w+ of a GRUCell",
    ),
    "a learned carry": (
        lambda: from_nnx(Learned(lambda rngs: jnp.tanh, nnx.Rngs(0))),
        "expected Learned to have an initial carry that .*; use learned_initial_state=True",
    ),
    "statistics of Linen": (
        lambda: from_linen(NormedLinen(linen.BatchNorm(use_running_average=True)), I),
        "module: .* got NormedLinen with the collections batch_stats",
    ),
    "dropout of Linen": (
        lambda: from_linen(NormedLinen(linen.Dropout(0.5, deterministic=False)), I),
        "module: expected a cell without random numbers, got NormedLinen",
    ),
    "a list": (
        lambda: from_linen(linen.ConvLSTMCell(H, [3]), I, spatial_shape=(5,)),
        "module: expected attributes that are hashable, such as tuples instead of lists",
    ),
    "no spatial axes": (
        lambda: from_linen(LINEN["ConvLSTMCell"], I),
        r"spatial_shape: expected 2 sizes for ConvLSTMCell, got \(\)",
    ),
    "spatial axes": (
        lambda: from_nnx(nnx_lstm, I, spatial_shape=4),
        r"spatial_shape: expected 0 sizes for LSTMCell, got \(4,\)",
    ),
    "no input size": (
        lambda: from_nnx(Readout(I, nnx.Rngs(0))),
        "input_size: expected the number of features that Readout reads",
    ),
    "another input size": (
        lambda: from_nnx(nnx_lstm(I, nnx.Rngs(0)), I + 1),
        f"input_size: expected the module's {I}, got {I + 1}",
    ),
    "a stack of a module": (
        lambda: nn.Recurrent(instance()[0], num_layers=2, params=[instance()[1]] * 2),
        r"num_layers: expected 1 for a LSTMCell .*; pass from_nnx a function \(input_size, rngs\)",
    ),
    "draws of a module": (
        lambda: nn.Recurrent(instance()[0], rngs=nnx.Rngs(0)),
        "cell: expected a cell that can draw parameters, .* pass params= to the layer, or",
    ),
    "recurrent dropout": (
        lambda: nn.Recurrent(from_nnx(nnx_lstm, I), recurrent_dropout=0.1, rngs=nnx.Rngs(0)),
        "recurrent_dropout: expected 0 for NNXCell, which has no recurrent product",
    ),
    "one entry": (
        lambda: nn.Recurrent(instance()[0], params=instance()[1]),
        "params: expected a list of 1 entries, one per layer, got",
    ),
    "one direction": (
        lambda: nn.Recurrent(instance()[0], bidirectional=True, params=[instance()[1]]),
        r"params: expected Bidirectional\(forward, backward\) for each layer, got",
    ),
    "other parameters": (
        lambda: nn.Recurrent(cells.GRU(I, H), params=[instance()[1]]),
        "params: expected arrays of .* for GRU",
    ),
    "inputs of two arrays": (
        lambda: as_nnx_cell(Pair(I, H), rngs=nnx.Rngs(0)),
        "cell: expected a cell whose input is one array, .* got Pair",
    ),
    "no cell of ours": (lambda: as_nnx_cell(3, rngs=nnx.Rngs(0)), "cell: expected a cell"),
    "a carry's initialiser": (
        lambda: as_nnx_cell(cells.GRU(I, H), rngs=nnx.Rngs(0)).initialize_carry(
            (B, I), carry_init=nnx.initializers.ones
        ),
        "carry_init: expected None, since GRU has its own initial state",
    ),
}


class Pair(cells.GRU):
    """A GRU that reads two arrays."""

    @property
    def input_shape(self):
        return ((I,), (I,))


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors(case):
    call, message = case
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_layers_take_parameters():
    """Those of our own cells, too: for each layer and direction, in `param_dtype`."""
    layer = make(cells.GRU(I, H), num_layers=2, bidirectional=True)
    params = [nn.Bidirectional(*(way.params for way in one.directions)) for one in layer.layers]
    twin = nn.Recurrent(cells.GRU(I, H), num_layers=2, bidirectional=True, params=params)
    assert_close(nnx.state(twin), nnx.state(layer), 0, 0)
    half = nn.Recurrent(cells.GRU(I, H), params=[params[0].forward], param_dtype=jnp.bfloat16)
    assert half.layers[0].forward.w_ih.dtype == jnp.bfloat16
    normed = functools.partial(
        nn.Recurrent, cells.GRU(H, H), num_layers=2, norm="layer",
        params=[make(cells.GRU(H, H)).layers[0].forward.params] * 2,
    )  # fmt: skip
    assert normed(rngs=nnx.Rngs(0)).norms[0].scale.shape == (H,)
    for layer in (normed, functools.partial(nn.Recurrent, cells.GRU(I, H))):
        with pytest.raises(TypeError, match="rngs: expected"):
            layer()
