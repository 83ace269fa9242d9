"""Cells as researchers write them, by the contract alone, against a loop over `cell.step`."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import nn
from seqjax.cells import Cell, DenseCell, LinearCell
from seqjax.nn import LinenRecurrent
from tests.cases import assert_close, draw_like, mask_of, params_of

B, T, I, H = 3, 5, 2, 4


@dataclasses.dataclass(frozen=True)
class Leaky(Cell):
    """The least a cell can be: h_t = (1 - α) h_{t-1} + α tanh(x_t W + h_{t-1} U)."""

    leak: float = 0.3

    def init(self, key, dtype=jnp.float32):
        k_w, k_u = jax.random.split(key)
        shapes = (self.input_size, self.hidden_size), (self.hidden_size, self.hidden_size)
        return tuple(
            jax.random.normal(k, s, dtype) for k, s in zip((k_w, k_u), shapes, strict=True)
        )

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def project(self, params, x):
        return (x @ params[0],)

    def recurrent_input(self, state):
        return state

    def recur(self, params, r):
        return (r @ params[1],)

    def update(self, params, gates, state):
        (z,) = gates
        return (1 - self.leak) * state + self.leak * jnp.tanh(z)


class Traces(NamedTuple):
    """A state without a field `h`."""

    fast: jax.Array
    slow: jax.Array


@dataclasses.dataclass(frozen=True)
class Gained(Cell):
    """Inputs, parameters and outputs that are dicts: a fast and a slow trace, driven with a gain.

    fast_t = tanh(g_t (x_t W) + fast_{t-1} U);  slow_t = λ slow_{t-1} + (1 - λ) fast_t
    """

    @property
    def input_shape(self):
        return {"x": (self.input_size,), "gain": ()}

    def init(self, key, dtype=jnp.float32):
        w = jax.random.normal(key, (self.input_size, self.hidden_size), dtype)
        u = jnp.eye(self.hidden_size, dtype=dtype)
        return {"in": w, "rec": {"u": u, "decay": jnp.full(self.hidden_size, 0.5, dtype)}}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        shape = (*batch_shape, self.hidden_size)
        return Traces(jnp.zeros(shape, dtype), jnp.ones(shape, dtype))

    def project(self, params, x):
        return (x["gain"][..., None] * (x["x"] @ params["in"]),)

    def recurrent_input(self, state):
        return state.fast

    def recur(self, params, r):
        return (r @ params["rec"]["u"],)

    def update(self, params, gates, state):
        decay = jax.nn.sigmoid(params["rec"]["decay"])
        fast = jnp.tanh(gates[0])
        return Traces(fast, decay * state.slow + (1 - decay) * fast)

    def output(self, params, gates, state):
        return {"y": state.fast * state.slow, "energy": jnp.square(state.slow).sum(-1)}


class Count(NamedTuple):
    """A state with leaves that are not floating-point."""

    total: jax.Array
    steps: jax.Array
    started: jax.Array


@dataclasses.dataclass(frozen=True)
class RunningMean(Cell):
    """The mean of x W over the steps so far, which it counts."""

    def init(self, key, dtype=jnp.float32):
        return jax.random.normal(key, (self.input_size, self.hidden_size), dtype)

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return Count(
            jnp.zeros((*batch_shape, self.hidden_size), dtype),
            jnp.zeros(batch_shape, jnp.int32),
            jnp.zeros(batch_shape, bool),
        )

    def project(self, params, x):
        return (x @ params,)

    def update(self, params, gates, state):
        return Count(state.total + gates[0], state.steps + 1, jnp.ones_like(state.started))

    def output(self, params, gates, state):
        return state.total / jnp.maximum(state.steps, 1)[..., None].astype(state.total.dtype)


@dataclasses.dataclass(frozen=True)
class Decay(LinearCell):
    """A linear cell: h_t = a ⊙ h_{t-1} + x_t W, with the same decays a at every step."""

    def init(self, key, dtype=jnp.float32):
        w = jax.random.normal(key, (self.input_size, self.hidden_size), dtype)
        return {"w": w, "decay": jnp.linspace(-1, 1, self.hidden_size, dtype=dtype)}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def prepare(self, params):
        return {"w": params["w"], "a": jax.nn.sigmoid(params["decay"])}

    def project(self, p, x):
        return (x @ p["w"],)

    def linear_terms(self, p, gates):
        return p["a"], gates[0]


@dataclasses.dataclass(frozen=True)
class Squared(DenseCell):
    """An output that differs from the state in shape; dense, with options of its own."""

    _: dataclasses.KW_ONLY
    output_size: int = 3

    def init(self, key, dtype=jnp.float32):
        k_ih, k_hh, k_b, k_o = jax.random.split(key, 4)
        return {
            "w_ih": self.draw("kernel_init", k_ih, (self.input_size, self.hidden_size), 1, dtype),
            "w_hh": self.draw("recurrent_init", k_hh, (self.hidden_size,) * 2, 1, dtype),
            "b": self.draw_bias(k_b, self.hidden_size, 1, dtype),
            "w_o": self.draw("kernel_init", k_o, (self.hidden_size, self.output_size), 1, dtype),
        }

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return jnp.zeros((*batch_shape, self.hidden_size), dtype)

    def project(self, params, x):
        z = x @ params["w_ih"]
        return (z if params["b"] is None else z + params["b"],)

    def recurrent_input(self, state):
        return state

    def recur(self, params, r):
        return (r @ params["w_hh"],)

    def recurrent_matrix(self, params):
        return params["w_hh"]

    def update(self, params, gates, state):
        return jnp.tanh(gates[0])

    def output(self, params, gates, state):
        return jnp.square(state) @ params["w_o"].astype(state.dtype)

    @property
    def output_shape(self):
        return (self.output_size,)


CUSTOM = {
    "leaky": Leaky(I, H),
    "gained": Gained(I, H),
    "running_mean": RunningMean(I, H),
    "decay": Decay(I, H),
    "squared": Squared(I, H),
    "squared-no-bias": Squared(I, H, output_size=1, use_bias=False),
}

custom = pytest.mark.parametrize("cell", CUSTOM.values(), ids=CUSTOM.keys())
recurrent = pytest.mark.parametrize("cell", [CUSTOM[n] for n in ("leaky", "gained", "squared")])


def shapes_of(cell):
    return jax.tree.map(
        lambda s: np.zeros((B, T, *s)), cell.input_shape, is_leaf=lambda s: isinstance(s, tuple)
    )


def inputs(cell, seed=3):
    return draw_like(shapes_of(cell), seed)


def state_of(cell, seed=2):
    """A state as it is after some steps: integers are integers."""
    params, xs = params_of(cell), jax.tree.map(lambda x: x[:, :2], inputs(cell, seed))
    state = cell.initial_state((B,))
    for t in range(2):
        _, state = step_of(cell)(params, at(xs, np.s_[:, t]), state)
    return state


@functools.cache
def step_of(cell):
    return jax.jit(cell.step)


def at(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def stacked(trees):
    traced = seqjax.checks.is_traced(trees)
    return jax.tree.map(lambda *leaves: (jnp if traced else np).stack(leaves), *trees)


def looped(cell, params, xs, *, state=None, mask=None, resets=None, reverse=False, hold=None):
    """`unroll` by its definition: one sequence and one step at a time."""
    step = step_of(cell)
    outputs, finals = [], []
    for n in range(B):
        s = cell.initial_state() if state is None else at(state, n)
        ys: list[Any] = [None] * T
        for t in reversed(range(T)) if reverse else range(T):
            if resets is not None and resets[n, t]:
                s = cell.initial_state()
            y, new = step(params, at(xs, (n, t)), s)
            if hold is not None:
                mix = lambda d, a, b: b if d is None else d * a + (1 - d) * b  # noqa: E731
                new = jax.tree.map(mix, hold, s, new, is_leaf=lambda leaf: leaf is None)
                y = cell.output(params, (), new)
            real = mask is None or mask[n, t]
            s = new if real else s
            ys[t] = y if real else jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), y)
        outputs.append(stacked(ys))
        finals.append(s)
    return stacked(outputs), stacked(finals)


def dtypes(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


def padded(xs, mask, value=np.nan):
    """The inputs with garbage at masked steps."""
    over = lambda x: mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))  # noqa: E731
    return jax.tree.map(lambda x: np.where(over(x), x, np.float32(value)), xs)


@pytest.mark.quick("running_mean-False", "leaky-True")
@pytest.mark.parametrize("reverse", [False, True])
@custom
def test_unroll_equals_the_loop(cell, reverse):
    params, xs, state = params_of(cell), inputs(cell), state_of(cell)
    mask, resets = mask_of((B,), T), mask_of((B,), T, seed=9)
    options = {"state": state, "mask": mask, "resets": resets, "reverse": reverse}
    got = seqjax.unroll(cell, params, padded(xs, mask), **options)
    want = looped(cell, params, xs, **options)
    assert_close(got, want)
    assert dtypes(got.state) == dtypes(state)
    structures: list[Any] = [jax.tree.structure(tree) for tree in (tuple(got), want)]
    assert structures[0] == structures[1]


@pytest.mark.quick("running_mean")
@custom
def test_lengths_time_major_jit_and_vmap(cell):
    params, xs, lengths = params_of(cell), inputs(cell), np.array([T, 2, 0])
    mask = np.arange(T) < lengths[:, None]
    want = looped(cell, params, xs, mask=mask)
    xs = padded(xs, mask)
    run = lambda xs, lengths: tuple(seqjax.unroll(cell, params, xs, lengths=lengths))  # noqa: E731
    assert_close(run(xs, lengths), want)
    assert_close(jax.jit(run)(xs, lengths), want)
    assert_close(jax.vmap(run)(xs, lengths), want)
    first = lambda tree: jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), tree)  # noqa: E731
    got = seqjax.unroll(cell, params, first(xs), lengths=lengths, time_major=True)
    assert_close((first(got.outputs), got.state), want)


@pytest.mark.quick("running_mean")
@custom
def test_chunks_with_carried_state_equal_the_whole(cell):
    params, xs = params_of(cell), inputs(cell)
    whole = seqjax.unroll(cell, params, xs)
    a = seqjax.unroll(cell, params, at(xs, np.s_[:, :2]))
    b = seqjax.unroll(cell, params, at(xs, np.s_[:, 2:]), state=a.state)
    joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), a.outputs, b.outputs)
    assert_close(tuple(whole), (joined, b.state))
    assert dtypes(b.state) == dtypes(whole.state)
    for final, start in zip(
        *map(jax.tree.leaves, (whole.state, cell.initial_state())), strict=True
    ):
        assert final.dtype == start.dtype


def loss_of(ran, weights):
    """A random linear function of the floating-point arrays that come out."""
    pairs = zip(jax.tree.leaves(tuple(ran)), jax.tree.leaves(weights), strict=True)
    return sum(
        (leaf * weight).sum() for leaf, weight in pairs if jnp.issubdtype(leaf.dtype, jnp.floating)
    )


@pytest.mark.parametrize("remat", ["none", "sqrt"])
@custom
@pytest.mark.quick()
def test_gradients_equal_those_through_the_loop(cell, remat):
    params, xs = params_of(cell), inputs(cell)
    mask, resets = mask_of((B,), T), mask_of((B,), T, seed=9)
    options: dict[str, Any] = {"mask": mask, "resets": resets}
    weights = draw_like(jax.eval_shape(lambda: looped(cell, params, xs, **options)), 10)
    dirty = padded(xs, mask, np.inf)

    @jax.jit
    def ours(params, xs):
        return loss_of(seqjax.unroll(cell, params, xs, remat=remat, **options), weights)

    def theirs(params, xs):
        return loss_of(looped(cell, params, xs, **options), weights)

    got = jax.grad(ours, (0, 1))(params, dirty)
    assert_close(got, loop_gradient(cell, theirs, params, xs), 1e-5, 1e-5)
    if remat == "sqrt":
        return
    tangents = jax.tree.map(jnp.ones_like, (params, dirty))
    _, slope = jax.jvp(ours, (params, dirty), tangents)
    along = sum(float(leaf.sum()) for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(slope, along, rtol=1e-3, atol=1e-4)


GRADIENTS: dict[Any, Any] = {}


def loop_gradient(cell, loss, params, xs):
    """The gradient through the loop, taken once for all the tests that compare with it."""
    if cell not in GRADIENTS:
        GRADIENTS[cell] = jax.grad(loss, (0, 1))(params, xs)
    return GRADIENTS[cell]


@pytest.mark.quick("leaky")
@custom
def test_the_start_gets_a_gradient(cell):
    params, xs, state = params_of(cell), inputs(cell), state_of(cell)

    def loss(state):
        ran = seqjax.unroll(cell, params, xs, state=state)
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(ran.outputs))

    gradient = jax.grad(loss, allow_int=True)(state)
    for leaf, start in zip(*map(jax.tree.leaves, (gradient, state)), strict=True):
        if jnp.issubdtype(start.dtype, jnp.floating):
            assert jnp.isfinite(leaf).all() and leaf.any()


@pytest.mark.quick("leaky-bfloat16", "running_mean-float16")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@custom
def test_half_precision(cell, dtype):
    params = params_of(cell)
    half = jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs(cell))
    got = seqjax.unroll(cell, params, half)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got.outputs))
    assert dtypes(got.state) == dtypes(cell.initial_state((B,), dtype))
    want = looped(cell, params, jax.tree.map(lambda x: np.asarray(x, np.float32), half))
    epsilon = float(jnp.finfo(dtype).eps)
    assert_close(got, want, 20 * epsilon, 20 * epsilon)


@pytest.mark.quick("running_mean", "leaky")
@custom
def test_zoneout(cell):
    params, xs, mask = params_of(cell), inputs(cell), mask_of((B,), T)
    is_float = lambda s: jnp.issubdtype(s.dtype, jnp.floating)  # noqa: E731
    hold = jax.tree.map(lambda s: 0.3 if is_float(s) else None, cell.initial_state())
    got = seqjax.unroll(cell, params, xs, mask=mask, zoneout=hold)
    assert_close(got, looped(cell, params, xs, mask=mask, hold=hold))


def test_zoneout_holds_whole_units_of_any_dtype():
    cell = CUSTOM["running_mean"]
    params, xs = params_of(cell), inputs(cell)
    held = jax.tree.map(lambda s: np.ones((B, T, *s.shape), bool), cell.initial_state())
    got = seqjax.unroll(cell, params, xs, state=state_of(cell), zoneout=held)
    assert_close(got.state, state_of(cell), 0, 0)
    assert dtypes(got.state) == dtypes(cell.initial_state())


@recurrent
def test_recurrent_mask(cell):
    params, xs = params_of(cell), inputs(cell)
    keep = np.array([2.0, 0.0, 1.0, 0.5], np.float32)
    got = seqjax.unroll(cell, params, xs, recurrent_mask=keep)
    # r ⊙ m enters the product, which is the product with the rows of the matrix scaled.
    square = lambda leaf: np.shape(leaf) == (H, H)  # noqa: E731
    scale = lambda leaf: keep[:, None] * leaf if square(leaf) else leaf  # noqa: E731
    assert sum(map(square, jax.tree.leaves(params))) == 1
    assert_close(got, looped(cell, jax.tree.map(scale, params), xs))


def test_recurrent_mask_without_a_recurrent_product_raises():
    for name in ("running_mean", "decay"):
        cell = CUSTOM[name]
        with pytest.raises(ValueError, match=rf"None for {type(cell).__name__}, which has no"):
            seqjax.unroll(cell, params_of(cell), inputs(cell), recurrent_mask=1.0)


def with_params(layer, cell, params):
    """Puts parameters into an NNX layer of one direction."""
    direction = layer.layers[0].forward
    assert jax.tree.map(jnp.shape, direction.params) == jax.tree.map(jnp.shape, params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "_".join(jax.tree_util.keystr((key,), simple=True) for key in path) or "value"
        getattr(direction, name)[...] = leaf
    return layer


@pytest.mark.quick("leaky", "running_mean")
@custom
def test_nnx_layer(cell):
    params, xs, mask = params_of(cell), inputs(cell), mask_of((B,), T)
    layer = with_params(nn.Recurrent(cell, rngs=nnx.Rngs(0)), cell, params)
    outputs, (state,) = layer(padded(xs, mask), mask=mask)
    assert_close((outputs, state), looped(cell, params, xs, mask=mask))
    graphdef, variables = nnx.split(layer)
    graph_outputs, _ = jax.jit(lambda v, xs: tuple(nnx.merge(graphdef, v)(xs)))(variables, xs)
    assert_close(graph_outputs, looped(cell, params, xs)[0])


@pytest.mark.quick("running_mean")
@custom
def test_nnx_layer_steps(cell):
    xs = inputs(cell)
    layer = nn.Recurrent(cell, rngs=nnx.Rngs(0))
    whole = layer(xs)
    state = None
    for t in range(T):
        output, state = layer.step(at(xs, np.s_[:, t]), state)
        assert_close(output, at(whole.outputs, np.s_[:, t]))
    assert_close(state, whole.state)


@pytest.mark.quick("running_mean")
@custom
def test_nnx_layer_in_both_directions_with_one_vector_a_sequence(cell):
    xs, lengths = inputs(cell), np.array([T, 2, 0])
    layer = nn.Recurrent(cell, bidirectional=True, merge_mode="none", rngs=nnx.Rngs(0))
    outputs, (final,) = layer(xs, lengths=lengths)
    forward, backward = (getattr(layer.layers[0], d).params for d in ("forward", "backward"))
    mask = np.arange(T) < lengths[:, None]
    assert_close((outputs.forward, final.forward), looped(cell, forward, xs, mask=mask))
    want = looped(cell, backward, xs, mask=mask, reverse=True)
    assert_close((outputs.backward, final.backward), want)
    ends, _ = layer(xs, lengths=lengths, return_sequences=False)
    for n, last in enumerate([T - 1, 1]):
        assert_close(at(ends.forward, n), at(outputs.forward, (n, last)))
        assert_close(at(ends.backward, n), at(outputs.backward, (n, 0)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(at(ends, 2)))


@pytest.mark.quick("leaky-zoneout")
@pytest.mark.parametrize("option", ["zoneout", "recurrent_dropout", "learned_initial_state"])
@custom
def test_nnx_layer_trains_with(cell, option):
    if option == "recurrent_dropout" and cell.recurrent_input(cell.initial_state()) is None:
        pytest.skip("no recurrent product")
    options: dict[str, Any] = {option: True if option == "learned_initial_state" else 0.5}
    layer = nn.Recurrent(cell, rngs=nnx.Rngs(0), **options)
    xs = inputs(cell)

    def loss(layer):
        outputs, _ = layer(xs, rngs=jax.random.key(1))
        return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(outputs))

    gradient = nnx.jit(nnx.grad(loss))(layer)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.quick("leaky")
@pytest.mark.parametrize("name", ["leaky", "decay", "squared"])
def test_nnx_stack(name):
    cell = CUSTOM[name]
    layer = nn.Recurrent(cell, num_layers=2, rngs=nnx.Rngs(0))
    xs = inputs(cell)
    first, second = (one.forward for one in layer.layers)
    assert second.cell == dataclasses.replace(cell, input_size=cell.output_shape[-1])
    middle, _ = looped(cell, first.params, xs)
    assert_close(layer(xs).outputs, looped(second.cell, second.params, np.asarray(middle))[0])


@pytest.mark.quick("leaky")
@custom
def test_linen_layer(cell):
    xs, mask = inputs(cell), mask_of((B,), T)
    layer = LinenRecurrent(cell)
    variables = layer.init(jax.random.key(0), xs)
    outputs, state = layer.apply(variables, padded(xs, mask), mask=mask)
    # Linen derives the key from the path, so the parameters are compared by what they do.
    leaves, structure = jax.tree.flatten(jax.eval_shape(cell.init, jax.random.key(0)))
    by_name = variables["params"]
    assert len(by_name) == len(leaves)
    paths = jax.tree_util.tree_leaves_with_path(jax.tree.unflatten(structure, leaves))
    names = [
        "_".join(jax.tree_util.keystr((k,), simple=True) for k in path) or "value"
        for path, _ in paths
    ]
    params = jax.tree.unflatten(structure, [by_name[name] for name in names])
    assert_close((outputs, state), looped(cell, params, xs, mask=mask))


def test_registering(monkeypatch):
    monkeypatch.setitem(seqjax.CELLS, "leaky", Leaky)
    cell = seqjax.CELLS["leaky"](input_size=I, hidden_size=H)
    assert cell == Leaky(I, H)
    params, xs = params_of(cell), inputs(cell)
    assert_close(seqjax.unroll(cell, params, xs), looped(cell, params, xs))
    assert nn.Recurrent(cell, num_layers=2, bidirectional=True, rngs=nnx.Rngs(0))(xs).outputs.shape


def test_configurations_are_values():
    assert Leaky(I, H) == Leaky(I, H) and hash(Leaky(I, H)) == hash(Leaky(I, H))
    assert Leaky(I, H) != Leaky(I, H, leak=0.5)
    assert Leaky(I, H) != Gained(I, H)  # type: ignore[comparison-overlap]
    xs, params = inputs(Leaky(I, H)), params_of(Leaky(I, H))
    slow, fast = (seqjax.unroll(Leaky(I, H, leak), params, xs).outputs for leak in (0.1, 0.9))
    assert not np.allclose(slow, fast)
    with pytest.raises(ValueError, match=r"hidden_size: expected a positive integer, got 0"):
        Leaky(I, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Unequal(Leaky):
    """A subclass whose inherited `==` ignores the fields of the subclass."""

    gain: float = 1.0


@dataclasses.dataclass(frozen=True)
class Uncompared(Leaky):
    gain: float = dataclasses.field(default=1.0, compare=False)


class Attributed(Leaky):
    """A subclass without the decorator, which sets an attribute."""

    gain: float

    def __init__(self, input_size, hidden_size, gain=1.0):
        super().__init__(input_size, hidden_size)
        object.__setattr__(self, "gain", gain)


@pytest.mark.parametrize("kind", [Unequal, Uncompared, Attributed])
def test_values_that_equality_ignores_are_refused(kind):
    cell, xs = kind(I, H, gain=0.5), inputs(Leaky(I, H))
    message = f"cell: expected .* whose fields are all compared, got {kind.__name__}, .* 'gain'"
    for wrong in (cell, seqjax.cells.Decay(cell)):
        with pytest.raises(TypeError, match=message):
            seqjax.unroll(wrong, params_of(Leaky(I, H)), xs)
        with pytest.raises(TypeError, match=message):
            nn.Recurrent(wrong, rngs=nnx.Rngs(0))
        with pytest.raises(TypeError, match=message):
            seqjax.testing.check_cell(wrong)


class Compared(Attributed):
    """A subclass with its own equality, and with a value that is computed once."""

    def __eq__(self, other):
        return type(self) is type(other) and (self.leak, self.gain) == (other.leak, other.gain)

    def __hash__(self):
        return hash((self.leak, self.gain))

    def update(self, params, gates, state):
        return self.gain * super().update(params, gates, state)


@dataclasses.dataclass(frozen=True)
class Cached(Leaky):
    @functools.cached_property
    def keep(self):
        return 1 - self.leak

    def update(self, params, gates, state):
        return self.keep * state + self.leak * jnp.tanh(gates[0])


def test_cells_with_their_own_equality_or_cached_values_run():
    params, xs = params_of(Leaky(I, H)), inputs(Leaky(I, H))
    whole, none = (seqjax.unroll(Compared(I, H, k), params, xs).outputs for k in (1.0, 0.0))
    assert_close(whole, seqjax.unroll(Leaky(I, H), params, xs).outputs)
    assert not none.any()
    cell = Cached(I, H)
    for _ in range(2):  # the second call has the cached value
        assert_close(seqjax.unroll(cell, params, xs).outputs, whole)


@dataclasses.dataclass(frozen=True)
class WithNone(Leaky):
    """A cell whose state has an entry that is None."""

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return {"a": None, "h": super().initial_state(batch_shape, dtype)}

    def recurrent_input(self, state):
        return state["h"]

    def update(self, params, gates, state):
        return {"a": None, "h": super().update(params, gates, state["h"])}

    def output(self, p, gates, state):
        return state["h"]


def test_zoneout_of_a_state_with_none():
    params, xs = params_of(Leaky(I, H)), inputs(Leaky(I, H))
    want = seqjax.unroll(Leaky(I, H), params, xs, zoneout=0.3).outputs
    hold: dict[str, Any] = {"a": None, "h": 0.3}
    got = seqjax.unroll(WithNone(I, H), params, xs, zoneout=hold)
    assert_close(got.outputs, want)
    layer = nn.Recurrent(WithNone(I, H), zoneout=0.1, rngs=nnx.Rngs(0))
    assert layer(xs, rngs=nnx.Rngs(1)).outputs.shape == (B, T, H)
    with pytest.raises(ValueError, match="zoneout: expected None for an entry of the state that"):
        seqjax.unroll(WithNone(I, H), params, xs, zoneout={"a": 0.3, "h": 0.3})


@dataclasses.dataclass(frozen=True)
class Mute(Gained):
    """A cell of which nobody knows the output that belongs to a state."""

    output = Cell.output


def test_zoneout_of_a_cell_that_does_not_say_its_output():
    cell = Mute(I, H)
    with pytest.raises(ValueError, match=r"cell: expected Mute to define output\(p, gates,"):
        seqjax.unroll(cell, params_of(cell), inputs(cell), zoneout=Traces(0.1, 0.1))  # type: ignore[arg-type]


def test_a_cell_with_a_method_missing_cannot_be_built():
    class Half(Cell):
        def init(self, key, dtype=jnp.float32):
            return ()

    with pytest.raises(TypeError, match=r"abstract class Half .*update"):
        Half(I, H)  # type: ignore[abstract]


class Named(NamedTuple):
    """Parameters whose names a module might use for something else."""

    cell: jax.Array
    params: jax.Array
    start: jax.Array


@dataclasses.dataclass(frozen=True)
class Clashing(Leaky):
    """Parameters named like attributes of the layers."""

    def init(self, key, dtype=jnp.float32):
        w, u = super().init(key, dtype)
        return Named(w, u, jnp.ones(self.hidden_size, dtype))

    def project(self, params, x):
        return (x @ params.cell + params.start,)

    def recur(self, params, r):
        return (r @ params.params,)


def test_names_of_parameters_are_free():
    cell = Clashing(I, H)
    params, xs = params_of(cell), inputs(cell)
    want = looped(cell, params, xs)
    assert_close(seqjax.unroll(cell, params, xs), want)
    layer = nn.Recurrent(cell, rngs=nnx.Rngs(0))
    assert layer(xs).outputs.shape == (B, T, H)
    variables = LinenRecurrent(cell).init(jax.random.key(0), xs)
    assert set(variables["params"]) == {"cell", "params", "start"}


def test_zoneout_in_evaluation_leaves_counters_alone():
    cell = CUSTOM["running_mean"]
    params, xs = params_of(cell), inputs(cell)
    plain = seqjax.unroll(cell, params, xs)
    held = seqjax.unroll(
        cell, params, xs, zoneout=jax.tree.map(lambda s: 0.1, cell.initial_state())
    )
    pairs = zip(jax.tree.leaves(held.state), jax.tree.leaves(plain.state), strict=True)
    whole = [(a, b) for a, b in pairs if not jnp.issubdtype(a.dtype, jnp.floating)]
    assert whole
    for a, b in whole:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", ["scan", "fused", "associative"])
def test_a_projection_without_the_time_axis_is_named(implementation):
    class Flat(seqjax.cells.MinGRU):
        def project(self, p, x):
            return super().project(p, x.reshape(-1, I))

    cell = Flat(I, H)
    with pytest.raises(ValueError, match=r"slot 0 of Flat.project .* 5 time steps first, got .*10"):
        seqjax.unroll(cell, params_of(cell), jnp.ones([2, T, I]), implementation=implementation)


@pytest.mark.quick("LSTM", "ProjectedLSTM")
@pytest.mark.parametrize("name", ["Elman", "GRU", "LSTM", "ProjectedLSTM", "MGU", "MinGRU"])
def test_outputs_of_ones_own_leave_the_weights_alone(name):
    """A subclass may have other outputs: its parameters and states are those of the base class."""
    base: Any = getattr(seqjax.cells, name)

    class Two(base):
        @property
        def output_shape(self):
            return {"first": (1,), "others": (2,)}

        def output(self, p, gates, state):
            h = jax.tree.leaves(state)[0]
            return {"first": 2 * h[..., :1], "others": h[..., 1:3] - 1}

    options = {"proj_size": 4} if name == "ProjectedLSTM" else {}
    plain, cell = base(I, 6, **options), Two(I, 6, **options)
    drawn = [jax.tree.map(jnp.shape, c.init(jax.random.key(0))) for c in (plain, cell)]
    assert drawn[0] == drawn[1]
    params = params_of(plain)
    xs = np.random.default_rng(0).normal(size=(B, T, I)).astype(np.float32)
    whole, found = (seqjax.unroll(c, params, xs) for c in (plain, cell))
    assert_close(found.outputs["first"], 2 * whole.outputs[..., :1], 1e-6, 1e-6)
    assert_close(found.outputs["others"], whole.outputs[..., 1:3] - 1, 1e-6, 1e-6)
    assert_close(found.state, whole.state, 1e-6, 1e-6)
