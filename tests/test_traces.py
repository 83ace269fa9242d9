"""Gates, gradients over time, saliency and eigenvalues against NumPy and finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, nn, traces
from tests import references
from tests.references import log_sigmoid, sigmoid
from tests.seq2seq.helpers import translator

I, H, T = 3, 4, 5
LENGTHS = np.array([5, 3, 0])
XS = np.random.default_rng(0).normal(size=(3, T, I)).astype(np.float32)


def made(name: str, **options: Any) -> tuple[Any, Any]:
    """A cell and parameters whose biases are not zero."""
    cell: Any = seqjax.CELLS[name](I, H, **options)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return cell, jax.tree.map(
        lambda a: jnp.asarray(0.7 * rng.normal(size=a.shape), jnp.float32), shapes
    )


def numpy_gates(name: str, cell: Any, params: Any, x: Any, state: Any) -> dict[str, Any]:
    """The gates of one step, from the papers' equations."""
    take = lambda *names: references.take(params, *names)  # noqa: E731
    w_ih, b = take("w_ih", "b")
    if name == "min_gru":
        return {"z": sigmoid(np.split(x @ w_ih + b, 2)[0])}
    if name == "rg_lru":
        (w_g,) = take("w_g")
        r, i = np.split(x @ w_ih @ w_g[0] + b, 2)
        return {"r": sigmoid(r), "i": sigmoid(i)}
    if name == "sru":
        (v,) = take("v")
        z = (x @ w_ih)[H : 3 * H] + v * np.tile(state, 2) + b
        return dict(zip("fr", np.split(sigmoid(z), 2), strict=True))
    if name == "min_lstm":
        p_f, p_i, _ = np.split(x @ w_ih + b, 3)
        f, i = np.exp(log_sigmoid(p_f)), np.exp(log_sigmoid(p_i))
        return {"f": f / (f + i), "i": i / (f + i)}
    if name == "mgu":
        w_hf, w_hn = take("w_hf", "w_hn")
        p_f, p_n = np.split(x @ w_ih + b, 2)
        f = sigmoid(p_f + state @ w_hf)
        return {"f": f, "n": np.tanh(p_n + (f * state) @ w_hn)}
    (w_hh,) = take("w_hh")
    if name == "slstm":
        h, _, n, m = state
        z_i, z_f, z_z, z_o = np.split(x @ w_ih + h @ w_hh[0] + b, 4)
        kept = np.where(n == 0, -np.inf, log_sigmoid(z_f) + m)
        m = np.maximum(kept, z_i)
        i, f = np.exp(z_i - m), np.exp(kept - m)
        return {"i": i, "f": f, "z": np.tanh(z_z), "o": sigmoid(z_o)}
    if name == "gru":
        (b_hn,) = take("b_hn")
        p, q = np.split(x @ w_ih + b, 3), np.split(state @ w_hh, 3)
        r, z = sigmoid(p[0] + q[0]), sigmoid(p[1] + q[1])
        return {"r": r, "z": z, "n": np.tanh(p[2] + r * (q[2] + b_hn))}
    if name == "cho_gru":
        (w_hn,) = take("w_hn")
        p, q = np.split(x @ w_ih + b, 3), np.split(state @ w_hh, 2)
        r, z = sigmoid(p[0] + q[0]), sigmoid(p[1] + q[1])
        return {"r": r, "z": z, "n": np.tanh(p[2] + (r * state) @ w_hn)}
    h, c = state
    if name == "coupled_lstm":
        z_f, z_g, z_o = np.split(x @ w_ih + h @ w_hh + b, 3)
        return {"f": sigmoid(z_f), "g": np.tanh(z_g), "o": sigmoid(z_o)}
    if name == "layer_norm_lstm":
        gain_x, gain_h = take("gain_x", "gain_h")
        normed = lambda v: references.layer_norm(v, cell.epsilon)  # noqa: E731
        z = gain_x * normed(x @ w_ih) + gain_h * normed(h @ w_hh) + b
    else:
        z = x @ w_ih + h @ w_hh + b
    z_i, z_f, z_g, z_o = np.split(z, 4)
    if name == "peephole_lstm":
        p_i, p_f, p_o = take("p_i", "p_f", "p_o")
        z_i, z_f = z_i + p_i * c, z_f + p_f * c
        z_o = z_o + p_o * (sigmoid(z_f) * c + sigmoid(z_i) * np.tanh(z_g))
    return {"i": sigmoid(z_i), "f": sigmoid(z_f), "g": np.tanh(z_g), "o": sigmoid(z_o)}


GATED = (
    "lstm", "peephole_lstm", "coupled_lstm", "projected_lstm", "layer_norm_lstm", "gru", "cho_gru",
    "mgu", "min_gru", "min_lstm", "rg_lru", "slstm", "sru",
)  # fmt: skip


@pytest.mark.quick("True-lstm", "False-min_gru")
@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("reverse", [False, True])
def test_gates_are_those_of_the_equations(name, reverse):
    cell, params = made(name)
    xs = jnp.asarray(XS).at[1, 3:].set(jnp.nan)
    found = traces.cell_gates(cell, params, xs, lengths=LENGTHS, reverse=reverse)
    for row, length in enumerate(LENGTHS):
        state = references.zero_state(name, cell, params)
        steps = range(length)
        for t in reversed(steps) if reverse else steps:
            x = XS[row, t].astype(np.float64)
            expected = numpy_gates(name, cell, params, x, state)
            assert list(found) == list(expected)
            for gate, value in expected.items():
                np.testing.assert_allclose(found[gate][row, t], value, atol=1e-5, err_msg=gate)
            state, _ = references.REFERENCES[name](cell, params, x, state)
        for value in found.values():
            assert not np.any(value[row, length:])


@pytest.mark.quick()
def test_every_registered_cell_with_gates_is_tested_here():
    gated = []
    for name, cls in seqjax.CELLS.items():
        cell: Any = cls(2, 3)
        xs = jnp.zeros((1, *cell.input_shape))
        try:
            jax.eval_shape(lambda: traces.cell_gates(cell, cell.init(jax.random.key(0)), xs))  # noqa: B023
        except ValueError as error:
            assert "expected a cell with gates" in str(error)
            continue
        gated.append(name)
    timed = {"gru_d", "cfc", "mixed_cfc"}  # in tests/test_cells_irregular.py
    assert set(gated) == {*GATED, *timed, "conv_lstm_1d", "conv_lstm_2d"}


@pytest.mark.quick()
def test_gates_of_a_stack_have_paths_and_zoneout():
    layer = nn.GRU(I, H, num_layers=2, bidirectional=True, zoneout=0.3, rngs=nnx.Rngs(0))
    layer.layers[0].forward.b[...] = jnp.linspace(-1, 1, 3 * H)
    found = traces.gates(layer, jnp.asarray(XS), lengths=LENGTHS)
    assert list(found) == [f"layers.{i}.{side}" for i in (0, 1) for side in ("forward", "backward")]
    alone = nn.GRU(I, H, zoneout=0.3, rngs=nnx.Rngs(0))
    first = nnx.state(layer.layers[0].forward)
    nnx.update(alone.layers[0].forward, first)
    outputs = np.asarray(alone(jnp.asarray(XS), deterministic=True).outputs, np.float64)
    params = layer.layers[0].forward.params
    for t in range(1, T):
        expected = numpy_gates("gru", layer.cell, params, XS[0, t], outputs[0, t - 1])
        for gate, value in expected.items():
            np.testing.assert_allclose(found["layers.0.forward"][gate][0, t], value, atol=1e-5)
    assert layer.deterministic is False and type(layer) is nn.GRU  # it is as it was


def test_gates_are_found_in_a_model_that_calls_a_layer_twice():
    class Twice(nnx.Module):
        def __init__(self):
            self.inner = nn.LSTM(I, I, rngs=nnx.Rngs(0))
            self.other = nn.RNN(I, I, rngs=nnx.Rngs(1))

        def __call__(self, xs):
            return self.inner(self.other(self.inner(xs).outputs).outputs).outputs

    found = traces.gates(Twice(), jnp.asarray(XS))
    assert list(found) == ["inner.layers.0.forward", "inner.layers.0.forward#2"]
    with pytest.raises(ValueError, match="model: expected a recurrent layer whose cell has gates"):
        traces.gates(nn.RNN(I, H, rngs=nnx.Rngs(0)), jnp.asarray(XS))


def loss_of(outputs):
    """A number that depends on every output, on each differently."""
    weights = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype)).reshape(outputs.shape)
    return (weights * outputs * outputs).sum()


@pytest.mark.quick("lstm")
@pytest.mark.parametrize("name", ["elman_readout", "lstm", "gru", "projected_lstm", "min_lstm"])
def test_gradient_norms_are_those_of_finite_differences(name):
    cell, params = made(name)
    found = np.asarray(
        traces.cell_gradient_norms(loss_of, cell, params, jnp.asarray(XS), lengths=LENGTHS)
    )
    step = references.REFERENCES[name]
    size = cell.output_shape[0]
    weights = np.cos(np.arange(len(LENGTHS) * T * size)).reshape(len(LENGTHS), T, size)

    def loss_after(row, t, state):
        """The part of the loss that comes after, and with, the state of step t."""
        y = references.output(name, cell, params, state)
        loss = (weights[row, t] * y**2).sum()
        for later in range(t + 1, LENGTHS[row]):
            state, y = step(cell, params, XS[row, later].astype(np.float64), state)
            loss += (weights[row, later] * y**2).sum()
        return loss

    for row, length in enumerate(LENGTHS):
        state = references.zero_state(name, cell, params)
        for t in range(length):
            state, _ = step(cell, params, XS[row, t].astype(np.float64), state)
            leaves, structure = jax.tree.flatten(state)
            squares = 0.0
            for which, leaf in enumerate(leaves):
                for unit in np.ndindex(np.shape(leaf)):
                    ends = []
                    for sign in (1, -1):
                        moved = [np.array(other, np.float64) for other in leaves]
                        moved[which][unit] += sign * 1e-5
                        ends.append(loss_after(row, t, jax.tree.unflatten(structure, moved)))
                    squares += ((ends[0] - ends[1]) / 2e-5) ** 2
            np.testing.assert_allclose(found[row, t], np.sqrt(squares), rtol=1e-3, atol=1e-6)
        assert not found[row, length:].any()


@pytest.mark.quick()
def test_gradient_norms_in_a_stack_are_those_of_the_composed_cells():
    layer = nn.GRU(I, H, num_layers=2, zoneout=0.0, dropout=0.2, rngs=nnx.Rngs(0))
    xs, lengths = jnp.asarray(XS), jnp.asarray(LENGTHS)
    found = traces.gradient_norms(lambda m: loss_of(m(xs, lengths=lengths).outputs), layer)
    (first, p_1), (second, p_2) = (
        (part.forward.cell, part.forward.params) for part in layer.layers
    )
    inner = seqjax.unroll(first, p_1, xs, lengths=lengths).outputs
    of_second = traces.cell_gradient_norms(loss_of, second, p_2, inner, lengths=lengths)
    np.testing.assert_allclose(found["layers.1.forward"], of_second, rtol=1e-4)
    of_first = traces.cell_gradient_norms(
        lambda hs: loss_of(seqjax.unroll(second, p_2, hs, lengths=lengths).outputs),
        first, p_1, xs, lengths=lengths,
    )  # fmt: skip
    np.testing.assert_allclose(found["layers.0.forward"], of_first, rtol=1e-4)


@pytest.mark.quick()
def test_gradient_norms_of_both_directions_time_major():
    layer = nn.LSTM(I, H, bidirectional=True, time_major=True, rngs=nnx.Rngs(0))
    xs = jnp.asarray(XS).transpose(1, 0, 2)
    found = traces.gradient_norms(lambda m: loss_of(m(xs).outputs[..., H:]), layer)
    backward: Any = layer.layers[0].backward
    expected = traces.cell_gradient_norms(
        lambda ys: loss_of(ys), backward.cell, backward.params, xs, reverse=True, time_major=True
    )
    np.testing.assert_allclose(found["layers.0.backward"], expected, rtol=1e-4)
    assert found["layers.0.forward"].shape == (T, 3) and not found["layers.0.forward"].any()
    with pytest.raises(ValueError, match="model: expected a module with recurrent layers"):
        traces.gradient_norms(lambda m: m(xs).sum(), nnx.Linear(I, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="zoneout: expected None"):
        traces.cell_gradient_norms(loss_of, backward.cell, backward.params, xs, zoneout=0.1)


def test_saliency_is_that_of_finite_differences():
    cell, params = made("gru")
    readout = np.random.default_rng(3).normal(size=H)

    def score(xs):
        outputs = seqjax.unroll(cell, params, xs, lengths=LENGTHS).outputs
        return seqjax.sequences.last_real(outputs, lengths=LENGTHS) @ jnp.asarray(readout, xs.dtype)

    def numpy_score(x):
        h = np.zeros(H)
        for x_t in x:
            h, _ = references.gru(cell, params, x_t, h)
        return h @ readout

    xs = jnp.asarray(XS).at[1, 3:].set(jnp.nan)
    norms = traces.saliency(score, xs, lengths=LENGTHS)
    products = traces.saliency(score, xs, lengths=LENGTHS, times_input=True)
    assert norms.shape == products.shape == (3, T)
    for row, length in enumerate(LENGTHS):
        x = XS[row, :length].astype(np.float64)
        gradient = np.zeros_like(x)
        for place in np.ndindex(x.shape):
            nudge = np.zeros_like(x)
            nudge[place] = 1e-5
            gradient[place] = (numpy_score(x + nudge) - numpy_score(x - nudge)) / 2e-5
        expected = np.linalg.norm(gradient, axis=-1)
        np.testing.assert_allclose(norms[row, :length], expected, rtol=1e-3, atol=1e-6)
        expected = (x * gradient).sum(-1)
        np.testing.assert_allclose(products[row, :length], expected, rtol=1e-3, atol=1e-6)
        assert not norms[row, length:].any() and not products[row, length:].any()


def test_saliency_of_a_score_that_looks_at_padding():
    """Not even a score that reads it gives padding a share, or is harmed by what is there."""
    xs = jnp.ones([1, 3, 2]).at[0, 2].set(jnp.nan)
    score = lambda xs: jnp.square(xs.sum(axis=(1, 2)))  # noqa: E731
    for times_input in (False, True):
        found = traces.saliency(score, xs, lengths=[2], times_input=times_input)
        expected = 2 * 4 * (2 if times_input else np.sqrt(2))
        np.testing.assert_allclose(found, [[expected, expected, 0]], rtol=1e-6)


def test_saliency_layouts_and_errors():
    score = lambda xs: jnp.square(xs).sum()  # noqa: E731
    xs = np.arange(12.0, dtype=np.float32).reshape(2, 3, 2)
    batch_major = traces.saliency(score, xs, mask=np.array([[True, False, True]] * 2))
    lengths = traces.saliency(score, xs.swapaxes(0, 1), lengths=[1, 3], time_major=True)
    norms = 2 * np.linalg.norm(xs, axis=-1)
    np.testing.assert_allclose(batch_major, norms * [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(lengths.T, norms * [[1, 0, 0], [1, 1, 1]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"xs: expected \[\.\.\., T, I\], got \(3,\)"):
        traces.saliency(score, jnp.ones(3))
    with pytest.raises(TypeError, match="xs: expected floating-point inputs"):
        traces.saliency(score, jnp.ones([3, 2], int))


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("elman", {"h": ("w_hh", 0)}),
        ("lstm", {"i": ("w_hh", 0), "f": ("w_hh", 1), "g": ("w_hh", 2), "o": ("w_hh", 3)}),
        ("coupled_lstm", {"f": ("w_hh", 0), "g": ("w_hh", 1), "o": ("w_hh", 2)}),
        ("gru", {"r": ("w_hh", 0), "z": ("w_hh", 1), "n": ("w_hh", 2)}),
        ("cho_gru", {"r": ("w_hh", 0), "z": ("w_hh", 1), "n": ("w_hn", 0)}),
        ("mgu", {"f": ("w_hf", 0), "n": ("w_hn", 0)}),
    ],
)
def test_eigenvalues_are_roots_of_each_blocks_polynomial(name, blocks):
    cell, params = made(name)
    found = traces.eigenvalues(cell, params)
    assert list(found) == list(blocks)
    for gate, (leaf, index) in blocks.items():
        block = np.asarray(getattr(params, leaf), np.float64)[:, index * H : (index + 1) * H]
        np.testing.assert_allclose(np.poly(found[gate]), np.poly(block), atol=1e-8)
        assert np.all(np.diff(np.abs(found[gate])) <= 1e-12)


def test_eigenvalues_where_the_weights_are_no_plain_matrix():
    cell, params = made("projected_lstm", proj_size=2)
    found = traces.eigenvalues(cell, params)["f"]
    small = np.asarray(params.w_hh, np.float64)[:, H : 2 * H] @ np.asarray(params.w_hr, np.float64)
    np.testing.assert_allclose(np.poly(found[:2]), np.poly(small), atol=1e-6)
    np.testing.assert_allclose(found[2:], 0, atol=1e-6)
    cell, params = made("indrnn")
    found = traces.eigenvalues(cell, params)["h"]
    np.testing.assert_allclose(np.sort(found.real), np.sort(np.asarray(params.u)), rtol=1e-6)
    for name in ("min_gru", "conv_lstm_1d"):
        with pytest.raises(ValueError, match=r"cell: expected a cell with a recurrent matrix"):
            traces.eigenvalues(*made(name))
    cell = cells.Elman(I, H)
    params = cell.init(jax.random.key(0))._replace(w_hh=jnp.full([H, H], jnp.nan))
    with pytest.raises(ValueError, match="params: expected finite"):
        traces.eigenvalues(cell, params)


class Transformed(nnx.Module):
    """A layer with zoneout, called inside transformations of the model's own."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.inner = nn.GRU(I, H, zoneout=0.2, rngs=nnx.Rngs(0))
        self.inner.layers[0].forward.b[...] = jnp.linspace(-1, 1, 3 * H)

    def __call__(self, xs):
        def run(xs):
            return self.inner(xs).outputs

        def step(state, x_t):
            output, state = self.inner.step(x_t, state)
            return state, output

        match self.how:
            case "jit":
                return jax.jit(run)(xs)
            case "vmap":
                return jax.vmap(run)(xs)
            case "checkpoint":
                return jax.checkpoint(run)(xs)
            case "scan":
                start = self.inner.initial_state(xs.shape[:1])
                return jax.lax.scan(step, start, xs.swapaxes(0, 1))[1].swapaxes(0, 1)
            case _:
                return run(xs)


class Compiled(nnx.Module):
    """Its whole call is compiled."""

    def __init__(self) -> None:
        self.inner = Transformed("").inner

    @nnx.jit
    def __call__(self, xs):
        return self.inner(xs).outputs


@pytest.mark.quick()
@pytest.mark.parametrize("made", [lambda: Transformed("jit"), Compiled])
def test_traces_of_layers_inside_jit_are_those_without(made):
    xs, plain = jnp.asarray(XS), Transformed("")
    found, expected = (traces.gates(model, xs) for model in (made(), plain))
    assert {path: list(values) for path, values in found.items()} == {
        path: list(values) for path, values in expected.items()
    }
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    for wrapped in (lambda loss: loss, nnx.jit):
        loss = wrapped(lambda model: loss_of(model(xs)))
        norms = traces.gradient_norms(loss, made())["inner.layers.0.forward"]
        expected_norms = traces.gradient_norms(lambda m: loss_of(m(xs)), plain)
        np.testing.assert_allclose(norms, expected_norms["inner.layers.0.forward"], rtol=1e-5)
        assert (norms > 0).all()


@pytest.mark.quick()
def test_traces_of_a_layer_stepped_in_a_scan_have_a_path_a_step():
    xs = jnp.asarray(XS)
    model, name = Transformed("scan"), "inner.layers.0.forward"
    paths = [name, *(f"{name}#{t + 1}" for t in range(1, T))]
    found, expected = traces.gates(model, xs), traces.gates(Transformed(""), xs)[name]
    assert list(found) == paths
    for gate, values in expected.items():
        steps = jnp.concatenate([found[path][gate] for path in paths], axis=1)
        np.testing.assert_allclose(steps, values, atol=1e-6)
    norms = traces.gradient_norms(lambda m: loss_of(m(xs)), model)
    steps = jnp.concatenate([norms[path] for path in paths], axis=1)
    expected_norms = traces.gradient_norms(lambda m: loss_of(m(xs)), Transformed(""))[name]
    np.testing.assert_allclose(steps, expected_norms, rtol=1e-5)


@pytest.mark.parametrize("how", ["vmap", "checkpoint"])
def test_layers_inside_other_transformations_are_named(how):
    model, xs = Transformed(how), jnp.asarray(XS)
    message = r"model: expected inner\.layers\.0\.forward outside of JAX transformations.*jax\.vmap"
    with pytest.raises(RuntimeError, match=message):
        traces.gates(model, xs)
    with pytest.raises(RuntimeError, match=message):
        traces.gradient_norms(lambda m: loss_of(m(xs)), model)


def test_traces_under_the_callers_own_transformations():
    xs, model = jnp.asarray(XS), Transformed("")
    expected = traces.gates(model, xs)["inner.layers.0.forward"]
    found = jax.jit(lambda xs: traces.gates(model, xs))(xs)["inner.layers.0.forward"]
    each = jax.vmap(lambda xs: traces.gates(model, xs))(xs)["inner.layers.0.forward"]
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)
        np.testing.assert_allclose(each[name], value, atol=1e-6)


@pytest.mark.quick()
def test_a_decoders_own_steps_are_not_traced():
    """As the docstrings say: the encoder's layers are, which `Recurrent` runs."""
    model = translator(cell="gru")
    found = traces.gates(model, jnp.ones([2, 6], int), jnp.ones([2, 8], int))
    assert found and all(path.startswith("encoder.") for path in found)


def test_losses_that_are_none():
    layer, xs = nn.GRU(I, H, rngs=nnx.Rngs(0)), jnp.asarray(XS)
    with pytest.raises(ValueError, match="loss: expected it to run recurrent layers of its"):
        traces.gradient_norms(lambda m: layer(xs).outputs.sum(), layer)
    with pytest.raises(TypeError, match=r"loss: .*of a pair such as \(loss, aux\) .* the first"):
        traces.gradient_norms(lambda m: (m(xs).outputs.sum(), {}), layer)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match=r"loss: expected it to return shape \(\), got \(3, 5, 4"):
        traces.gradient_norms(lambda m: m(xs).outputs, layer)
    with pytest.raises(TypeError, match="loss: expected it to return floating-point numbers"):
        traces.gradient_norms(lambda m: m(xs).outputs.argmax(), layer)


def test_scores_that_are_none():
    layer, xs = nn.GRU(I, H, rngs=nnx.Rngs(0)), jnp.asarray(XS)
    with pytest.raises(ValueError, match=r"score: expected it to return shape \(3,\) or \(\), got"):
        traces.saliency(lambda xs: xs.sum(axis=-1), xs)
    with pytest.raises(TypeError, match=r"score: .*Unrolled.* return the first"):
        traces.saliency(lambda xs: layer(xs), xs)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"score: .*floating-point numbers"):
        traces.saliency(lambda xs: xs[:, 0].argmax(-1), xs)


def test_saliency_has_a_gradient_where_inputs_do_nothing():
    def total(xs):
        return traces.saliency(lambda xs: (xs**2).sum((1, 2)), xs).sum()

    gradient = jax.grad(total)(jnp.asarray(XS).at[:, 1:].set(0.0))
    expected = 2 * XS[:, 0] / np.linalg.norm(XS[:, 0], axis=-1, keepdims=True)
    np.testing.assert_allclose(gradient[:, 0], expected, rtol=1e-5)
    assert not np.any(gradient[:, 1:])


def test_eigenvalues_of_parameters_that_are_none():
    cell, params = made("gru")
    other = cells.GRU(I, H + 1)
    with pytest.raises(ValueError, match="params: expected the parameters of this GRU, "):
        traces.eigenvalues(other, params)
    with pytest.raises(ValueError, match="params: expected the parameters of this LSTM, "):
        traces.eigenvalues(cells.LSTM(I, H), params)
    with pytest.raises(TypeError, match=r"params: expected arrays with values.*jax\.jit"):
        jax.jit(lambda p: traces.eigenvalues(cell, p))(params)
    with pytest.raises(TypeError, match="params: expected arrays with values"):
        traces.eigenvalues(cell, jax.eval_shape(cell.init, jax.random.key(0)))
