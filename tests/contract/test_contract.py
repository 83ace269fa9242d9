"""The contract is wide enough: cells of other kinds, written by it alone, against their twins."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import nn
from seqjax.testing import LAWS, CellError, check_cell
from seqjax.testing._sample import Sample, difference
from tests.cases import assert_close, draw_like, mask_of
from tests.contract import TABLE
from tests.contract.gru_d import GRUD
from tests.contract.lru import LRU
from tests.contract.slstm import SLSTM
from tests.seq2seq.helpers import translator

B, T = 2, 6
entries = pytest.mark.parametrize("name", TABLE)


def params_of(name):
    entry = TABLE[name]()
    if entry.params is not None:
        return entry.params
    shapes = jax.eval_shape(entry.cell.init, jax.random.key(0))
    return jax.tree.map(jnp.asarray, draw_like(shapes, 1, 0.4))


def inputs_of(cell):
    is_shape = lambda shape: isinstance(shape, tuple) and isinstance(shape[0], int)  # noqa: E731
    specs = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((B, T, *shape), jnp.float32),
        cell.input_shape,
        is_leaf=is_shape,
    )
    xs = draw_like(specs, 3)
    if isinstance(cell, GRUD):
        xs["seen"], xs["elapsed"] = (xs["seen"] > 0).astype(np.float32), abs(xs["elapsed"])
    return xs


def wide(leaf):
    """In double precision, if it counts."""
    leaf = np.asarray(leaf)
    return leaf.astype(np.result_type(leaf.dtype, np.float64)) if leaf.dtype.kind in "fc" else leaf


def by_twin(name, params, xs, mask, resets, reverse):
    """The twin, one row and one step at a time in float64."""
    cell, twin, _ = TABLE[name]()
    params = jax.tree.map(wide, params)
    has_rows = "row" in inspect.signature(twin).parameters
    finals, outputs = [], []
    for row in range(B):
        options = {"row": row} if has_rows else {}
        start = jax.tree.map(lambda a, row=row: wide(a[row]), cell.initial_state((B,)))
        state, ys = start, [None] * T
        for t in reversed(range(T)) if reverse else range(T):
            x = jax.tree.map(lambda x, at=(row, t): wide(x[at]), xs)
            state = start if resets[row, t] else state
            new, y = twin(cell, params, x, state, **options)
            state = new if mask[row, t] else state
            ys[t] = y if mask[row, t] else jax.tree.map(np.zeros_like, y)
        outputs.append(jax.tree.map(lambda *a: np.stack(a), *ys))
        finals.append(state)
    stack = lambda trees: jax.tree.map(lambda *a: np.stack(a), *trees)  # noqa: E731
    return stack(outputs), stack(finals)


@entries
@pytest.mark.quick()
def test_every_law(name):
    check_cell(TABLE[name]().cell, params=TABLE[name]().params, batch_shape=(B,))


@pytest.mark.quick("lru-True")
@pytest.mark.parametrize("reverse", [False, True])
@entries
def test_equals_its_twin_with_masks_and_resets(name, reverse):
    cell, params = TABLE[name]().cell, params_of(name)
    xs, mask, resets = inputs_of(cell), mask_of((B,)), mask_of((B,), seed=9)
    want = by_twin(name, params, xs, mask, resets, reverse)
    kernels = ["scan", "fused", *(["associative"] if isinstance(cell, LRU) else [])]
    for kernel in kernels:
        got = seqjax.unroll(
            cell, params, xs, mask=mask, resets=resets, reverse=reverse, implementation=kernel
        )
        assert_close(tuple(got), want, 1e-5, 1e-5)


@pytest.mark.quick()
@pytest.mark.parametrize(
    "cell", [LRU(3, 4), GRUD(3, 4), SLSTM(3, 6)], ids=["lru", "gru_d", "slstm"]
)
def test_a_cell_in_no_registry_is_a_layer(cell):
    layer = nn.Recurrent(cell, zoneout=0.2, learned_initial_state=True, rngs=nnx.Rngs(0))
    xs = inputs_of(cell)
    outputs, _ = layer(xs, lengths=jnp.array([6, 3]), rngs=jax.random.key(1))
    assert bool(jnp.isfinite(outputs).all()) and bool((outputs[1, 3:] == 0).all())
    names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))}
    learned = {name for name in names if str(name).startswith("initial_state")}
    parts = {"initial_state_re", "initial_state_im"}
    assert learned == (parts if isinstance(cell, LRU) else {"initial_state_h"})


@pytest.mark.quick()
def test_a_cell_in_no_registry_writes_translations():
    model = translator(hidden_size=6, cell=SLSTM, bridge="mean")
    logits = model(jnp.ones([2, 3], int), jnp.ones([2, 4], int))
    assert logits.shape == (2, 4, 9) and bool(jnp.isfinite(logits).all())


def test_what_is_not_held_or_not_learned():
    cell = TABLE["slstm"]().cell
    params, xs = params_of("slstm"), inputs_of(cell)
    state = cell.initial_state()
    with pytest.raises(ValueError, match=r"zoneout: expected None .* SLSTM.*not held, got 0.1"):
        seqjax.unroll(cell, params, xs, zoneout=state._replace(h=0.1, c=0.1, n=None, m=None))
    held = seqjax.unroll(cell, params, xs, zoneout=state._replace(h=1.0, c=None, n=None, m=None))
    assert_close(held.state.h, jnp.zeros((B, 6)), 0, 0)
    assert bool((held.state.c != 0).any())


@pytest.mark.quick("lru-auto", "gru_d-fused")
@pytest.mark.parametrize("kernel", ["scan", "fused", "auto"])
@pytest.mark.parametrize("name", ["gru_d", "lru"])
def test_zoneout_holds_the_state_as_the_last_step_left_it(name, kernel):
    """Not as the step found it: a unit that is held does not decay. A complex one is held, too."""
    cell, params = TABLE[name]().cell, params_of(name)
    start = jax.tree.map(lambda a: jnp.full_like(a, 0.5), cell.initial_state((B,)))
    hold = start._replace(h=1.0, last=None) if name == "gru_d" else 1.0
    held = seqjax.unroll(
        cell, params, inputs_of(cell), state=start, zoneout=hold, implementation=kernel
    )
    first = lambda state: jax.tree.leaves(state)[0]  # noqa: E731
    assert_close(first(held.state), first(start), 0, 0)


@jax.custom_jvp
def halved(x):
    """The identity with half of its derivative."""
    return x


halved.defjvp(lambda x, t: (x[0], 0.5 * t[0]))


def joint_state(self, batch_shape=(), dtype=jnp.float32):
    h = GRU.initial_state(self, batch_shape, dtype)
    return h, h


def counted_state(self, batch_shape=(), dtype=jnp.float32):
    return GRU.initial_state(self, batch_shape, dtype), jnp.zeros(batch_shape, jnp.int32)


def mutant(base, **methods):
    """A cell class with some methods replaced."""
    return dataclasses.dataclass(frozen=True)(type("Mutant", (base,), methods))


GRU, LSTM = seqjax.cells.GRU, seqjax.cells.LSTM
MUTANTS = {
    "a recur with an offset": (
        mutant(GRU, recur=lambda self, p, r: GRU.recur(self, p, r + 1.0)),
        "In r: The values differ",
    ),
    "a recur that is not linear in p": (
        mutant(GRU, recur=lambda self, p, r: GRU.recur(self, p._replace(w_hh=p.w_hh**2), r)),
        "In p: The values differ",
    ),
    "a slot too few": (
        mutant(GRU, recur=lambda self, p, r: GRU.recur(self, p, r)[:3]),
        "as many slots",
    ),
    "slots in a list": (
        mutant(GRU, project=lambda self, p, x: list(GRU.project(self, p, x))),
        "expected a tuple of slots from Mutant.project, got list",
    ),
    "a state of another structure": (
        mutant(LSTM, update=lambda self, p, gates, state: LSTM.update(self, p, gates, state).h),
        "expected Mutant.update to return a state",
    ),
    "a state of another shape": (
        mutant(GRU, update=lambda self, p, gates, state: state[..., :1]),
        "expected Mutant.update to return a state",
    ),
    "a pair, as the older contract had it": (
        mutant(GRU, update=lambda self, p, gates, state: (state, state)),
        "expected Mutant.update to return a state",
    ),
    "an output of another size": (
        mutant(GRU, output=lambda self, p, gates, state: state[..., :2]),
        "output_shape says",
    ),
    "a projection of one axis": (
        mutant(GRU, project=lambda self, p, x: tuple(
            None if z is None else z - z.mean(0) for z in GRU.project(self, p, x))),
        "any leading axes",
    ),
    "a projection that is not finite at zero": (
        mutant(GRU, project=lambda self, p, x: GRU.project(
            self, p, x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True)))),
        "must be finite and have finite derivatives at x = 0",
    ),
    "a recur without a recurrent input": (
        mutant(seqjax.cells.MinGRU, recur=lambda self, p, r: (r, r)),
        "to define recurrent_input as well as recur",
    ),
    "rows that depend on each other": (
        mutant(GRU, update=lambda self, p, gates, state: GRU.update(
            self, p, gates, state - state.mean(0))),
        "must not depend on the other sequences",
    ),
    "another matrix than that of recur": (
        mutant(GRU, recurrent_matrix=lambda self, p: 2 * p.w_hh),
        "the matrix by which `recur` multiplies",
    ),
    "roles of another structure": (
        mutant(LSTM, state_roles=lambda self: seqjax.cells.Role(True, True)),
        "state_roles must have the structure",
    ),
    "an initial state without batch axes": (
        mutant(GRU, initial_state=lambda self, batch_shape=(), dtype=jnp.float32: jnp.zeros(4)),
        r"initial_state\(\(2,\)\) has an array of \(4,\)",
    ),
    "a state in half precision": (
        mutant(GRU, update=lambda self, p, gates, state: GRU.update(
            self, p, gates, state).astype(jnp.bfloat16)),
        r"got bfloat16\[2, 4\]",
    ),
    "a slot of another width": (
        mutant(GRU, recur=lambda self, p, r: tuple(
            q if q is None else q[..., :2] for q in GRU.recur(self, p, r))),
        "expected slot 0 of Mutant.recur",
    ),
    "an arrival of another structure": (
        mutant(GRU, arrive=lambda self, p, projected, state: (state, state)),
        "expected Mutant.arrive to return a state",
    ),
    "one linear term": (
        mutant(seqjax.cells.MinGRU, linear_terms=lambda self, p, gates: gates[0]),
        "expected a pair",
    ),
    "an update that counts in numbers of the batch": (
        mutant(GRU, update=lambda self, p, gates, state: GRU.update(
            self, p, gates, jax.lax.stop_gradient(state))),
        "finite differences of the loss",
    ),
    "units that read each other's states": (
        mutant(seqjax.cells.MinGRU, update=lambda self, p, gates, state: seqjax.cells.MinGRU.update(
            self, p, gates, jnp.roll(state, 1, axis=-1))),
        "depends on other units of the old one[.]",
    ),
    "units that read each other's states outside of recur": (
        mutant(GRU, update=lambda self, p, gates, state: GRU.update(
            self, p, gates, state * state.mean(axis=-1, keepdims=True))),
        "depends on other units of the old one without `recur`",
    ),
    "a parameter of another unit": (
        mutant(GRU, parameter_units=lambda self, p: jax.tree.map(
            lambda unit: unit[::-1], GRU.parameter_units(self, p))),
        "changes another unit",
    ),
    "a parameter that is not said to change the state": (
        mutant(GRU, parameter_units=lambda self, p: GRU.parameter_units(self, p)._replace(b=None)),
        "changes another unit",
    ),
    "a wrong derivative of the input": (
        mutant(GRU, project=lambda self, p, x: GRU.project(self, p, halved(x))),
        "Along a random direction of the inputs",
    ),
    "a wrong derivative of the initial state": (
        mutant(GRU, initial_state=joint_state, recurrent_input=lambda self, state: state[0],
               update=lambda self, p, gates, state: (
                   GRU.update(self, p, gates, state[0]), halved(state[1])),
               output=lambda self, p, gates, state: state[0] + state[1],
               parameter_units=lambda self, p: None),
        "Along a random direction of the initial state",
    ),
    "outputs of other shapes": (
        mutant(seqjax.cells.MinGRU, output_shape=property(lambda self: {"y": (4,), "z": (9,)}),
               output=lambda self, p, gates, state: {"y": state, "z": state}),
        r"output_shape says .*'z': \(2, 9\).* output returned .*'z': \(2, 4\)",
    ),
    "outputs of another structure": (
        mutant(seqjax.cells.MinGRU, output_shape=property(lambda self: {"y": (4,)}),
               output=lambda self, p, gates, state: {"y": state, "z": state}),
        "output_shape says",
    ),
    "units of a state with integers": (
        mutant(GRU, initial_state=counted_state, recurrent_input=lambda self, state: state[0],
               update=lambda self, p, gates, state: (
                   GRU.update(self, p, gates, state[0]), state[1] + 1),
               output=lambda self, p, gates, state: state[0]),
        "Expected diagonal=False and no parameter_units",
    ),
    "an output that is no function of the step": (
        mutant(GRU, output=lambda self, p, gates, state: jax.lax.stop_gradient(state)),
        "finite differences of the loss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.quick("a slot too few")
def test_check_cell_says_what_is_wrong(name):
    kind, text = MUTANTS[name]
    with pytest.raises((CellError, TypeError), match=text):
        check_cell(kind(3, 4))


def test_arguments_of_check_cell():
    with pytest.raises(TypeError, match="cell: expected a cell"):
        check_cell(seqjax.cells.GRU)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: expected 4 or more, got 2"):
        check_cell(seqjax.cells.GRU(3, 4), steps=2)
    assert len({law.__doc__ for law in LAWS}) == len(LAWS)


def test_integers_among_the_outputs():
    kind = mutant(
        Permuted,
        output_shape=property(lambda self: {"y": (4,), "n": ()}),
        output=lambda self, p, gates, state: {
            "y": state, "n": jnp.argmax(state, axis=-1).astype(jnp.int32)
        },
    )  # fmt: skip
    check_cell(kind(3, 4))


@dataclasses.dataclass(frozen=True)
class Keyed(seqjax.cells.Elman):
    """An Elman cell whose state has a random key, which changes at each step."""

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        keys = jnp.broadcast_to(jax.random.key(0), batch_shape)
        return {"h": super().initial_state(batch_shape, dtype), "key": keys}

    def recurrent_input(self, state):
        return state["h"]

    def update(self, p, gates, state):
        new = jax.vmap(lambda key: jax.random.fold_in(key, 1))(state["key"].reshape(-1))
        h = super().update(p, gates, state["h"])
        return {"h": h, "key": new.reshape(state["key"].shape)}

    def output(self, p, gates, state):
        return state["h"]

    def parameter_units(self, p):
        return None


def test_random_keys_in_the_state():
    check_cell(Keyed(3, 4))
    one, other = jax.random.key(0), jax.random.key(1)
    assert difference(one, one, 0.0) is None and difference(one, other, 0.0) is not None


def test_masks_of_the_first_step_are_checked_from_the_initial_state():
    cell = GRU(3, 4)
    sample = Sample(cell, cell.init(jax.random.key(0)), (2,), 6, 0)
    (_, usual), (state, mask) = sample.starts
    assert usual[:, 0].all() and not mask[:, 0].any() and (mask[:, 1:] == usual[:, 1:]).all()
    assert not jnp.any(state)


@dataclasses.dataclass(frozen=True)
class Permuted(seqjax.cells.Cell):
    """Integers among the parameters: h_t = tanh(x_t W + P h_{t-1}) with a permutation P."""

    def init(self, key, dtype=jnp.float32):
        shape = (self.input_size, self.hidden_size)
        return {"w": jax.random.normal(key, shape, dtype), "order": jnp.arange(shape[1])[::-1]}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def project(self, p, x):
        return (x @ p["w"],)

    def update(self, p, gates, state):
        return jnp.tanh(gates[0] + state[..., p["order"]])


@pytest.mark.quick()
def test_integers_among_the_parameters():
    cell = Permuted(3, 4)
    check_cell(cell)
    layer = nn.Recurrent(cell, num_layers=2, rngs=nnx.Rngs(0))
    assert layer(jnp.ones([2, 7, 3])).outputs.shape == (2, 7, 4)
    assert len(jax.tree.leaves(nnx.state(layer, nnx.Param))) == 2


@dataclasses.dataclass(frozen=True)
class Outer(seqjax.cells.LinearCell):
    """A matrix as the state of a linear cell."""

    def init(self, key, dtype=jnp.float32):
        return jax.random.normal(key, (self.input_size, 2 * self.hidden_size), dtype)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size, 2), dtype)

    def project(self, p, x):
        return tuple(jnp.split(x @ p, 2, axis=-1))

    def linear_terms(self, p, gates):
        return jax.nn.sigmoid(gates[0])[..., None], gates[1][..., None] * jnp.array([1.0, -2.0])

    def output(self, p, gates, state):
        return state.sum(-1)


@pytest.mark.quick()
def test_a_linear_cell_whose_state_is_a_matrix():
    cell = Outer(3, 4)
    check_cell(cell)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    params, xs = jax.tree.map(jnp.asarray, draw_like(shapes, 1)), inputs_of(cell)
    options: Any = {"resets": mask_of((B,), seed=9), "mask": mask_of((B,))}
    got = seqjax.unroll(cell, params, xs, implementation="associative", **options)
    assert_close(got, seqjax.unroll(cell, params, xs, implementation="scan", **options), 1e-5, 1e-5)


def test_a_linear_cell_with_a_recurrent_input_is_not_solved_in_parallel():
    kind = mutant(
        seqjax.cells.MinGRU,
        recurrent_input=lambda self, state: state,
        recur=lambda self, p, r: (r, None),
    )
    with pytest.raises(ValueError, match="without a recurrent input, got Mutant"):
        seqjax.explain(kind(3, 4), jnp.ones([2, 7, 3]), implementation="associative")


@pytest.mark.quick()
def test_surrogate_gradients_are_allowed_on_request():
    kind, _ = MUTANTS["an output that is no function of the step"]
    check_cell(kind(3, 4), finite_differences=False)


class Spiral(LRU):
    """An LRU whose output is the real part of its state, so as large as that."""

    @property
    def output_shape(self):
        return (self.hidden_size,)

    def output(self, p, gates, state):
        return state.real


@pytest.mark.parametrize("bridge", ["last", "projected", "mean", "zero"])
@pytest.mark.parametrize("cell", [SLSTM, Spiral])
@pytest.mark.quick()
def test_bridges_to_states_that_are_not_all_hidden_units(cell, bridge):
    options: Any = {"decoder_size": 6, "bidirectional": False} if bridge == "last" else {}
    model = translator(embed_size=6, hidden_size=6, cell=cell, bridge=bridge, **options)
    _, state = model.decoding(model.encoder(jnp.ones([2, 3], int)))
    (start,) = state.cells
    moved = bool(jnp.any(jax.tree.leaves(start)[0] != 0))
    assert moved == (bridge != "zero")
    if cell is SLSTM:  # the scale is no hidden unit
        assert bool((start.m == cell(6, 6).initial_state().m[0]).all())
    logits = model(jnp.ones([2, 3], int), jnp.ones([2, 4], int))
    assert bool(jnp.isfinite(logits).all())


def test_what_a_stack_cannot_join():
    stacked: Any = {"num_layers": 2, "rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match="num_layers: expected 1 for GRUD, whose inputs are"):
        nn.Recurrent(GRUD(3, 4), **stacked)
    pair = mutant(GRU, output_shape=property(lambda self: {"y": (4,)}))
    with pytest.raises(ValueError, match="cell: expected a cell with one output array in a stack"):
        nn.Recurrent(pair(3, 4), **stacked)


@pytest.mark.quick()
def test_a_decoders_cell_may_read_gates_in_its_output():
    """Before the first step there are none: the decoder then starts from an output of zeros."""
    kind = mutant(GRU, output=lambda self, p, gates, state: state * jnp.tanh(gates[2]))
    model = translator(hidden_size=6, cell=kind)
    encoded = model.encoder(jnp.ones([2, 3], int))
    _, state = model.decoding(encoded)
    assert bool((state.output == 0).all())
    assert model(jnp.ones([2, 3], int), jnp.ones([2, 4], int)).shape == (2, 4, 9)
