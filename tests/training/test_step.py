"""The train step against hand-written updates, the state it carries, and exact evaluation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax import metrics, training


class Regressor(nnx.Module):
    """Two layers with what a module can hold besides parameters: statistics and random streams."""

    def __init__(self, *, dropout=0.0, stored_stream=False, rngs):
        self.layers = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)])
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs if stored_stream else None)

    def __call__(self, x, rngs=None):
        hidden = jnp.tanh(self.norm(self.layers[0](x)))
        return self.layers[1](self.dropout(hidden, rngs=rngs))[..., 0]


def loss_fn(model, batch, rngs):
    errors = model(batch["x"], rngs=rngs) - batch["y"]
    return jnp.mean(errors**2), {"largest": jnp.abs(errors).max()}


def linear_loss(model, batch, rngs):
    return jnp.mean((model(batch["x"])[..., 0] - batch["y"]) ** 2), {}


def metric_fn(model, batch):
    return {"error": metrics.mean_squared_error(model(batch["x"]), batch["y"])}


def make_batch(size=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(size, 3)).astype(np.float32) * 2 + 1,
        "y": rng.normal(size=(size,)).astype(np.float32),
    }


def assert_trees_equal(a: Any, b: Any) -> None:
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(_data(one), _data(other)), a, b)


def _data(array):
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


KEY = jax.random.key(0)


@pytest.mark.quick("adam")
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_train_step_is_the_update_written_by_hand(name, x64):
    """In NumPy: loss = mean (x w + b - y)², its gradient, sgd and adam with a clipped norm."""
    clip, rate = 0.5, 0.1
    optimizer = training.optimizer(rate, name=name, clip_norm=clip)
    ones = nnx.initializers.ones
    model = nnx.Linear(3, 1, bias_init=ones, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    state = training.init_state(model, optimizer)
    train_step = training.make_train_step(model, linear_loss, optimizer)

    w, b = np.asarray(state.params["kernel"]), np.asarray(state.params["bias"])
    m = v = np.zeros(4)
    for step in range(3):
        batch = {name: array.astype(np.float64) for name, array in make_batch(seed=step).items()}
        x, y = batch["x"], batch["y"]
        errors = (x @ w + b)[:, 0] - y
        grad = np.append(2 * x.T @ errors, 2 * errors.sum()) / len(y)
        norm = float(np.linalg.norm(grad))
        clipped = grad * min(1.0, clip / norm)
        m, v = 0.9 * m + 0.1 * clipped, 0.999 * v + 0.001 * clipped**2
        m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        update = clipped if name == "sgd" else m_hat / (np.sqrt(v_hat) + 1e-8)
        w, b = w - rate * update[:3, None], b - rate * update[3:]

        state, reported = train_step(state, batch, KEY)
        assert norm > clip  # the clipping is at work, and what is reported comes before it
        np.testing.assert_allclose(reported["grad_norm"], norm, rtol=1e-10)
        np.testing.assert_allclose(reported["loss"], np.mean(errors**2), rtol=1e-10)
        np.testing.assert_allclose(state.params["kernel"], w, atol=1e-10)
        np.testing.assert_allclose(state.params["bias"], b, atol=1e-10)
    assert state.step.dtype == jnp.int32 and int(state.step) == 3


def test_any_optax_transformation_will_do():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = optax.chain(optax.lion(0.01), optax.add_decayed_weights(-0.01))
    state = training.init_state(model, optimizer)
    train_step = training.make_train_step(model, linear_loss, optimizer)
    after, _ = train_step(state, make_batch(), KEY)

    graphdef, params = nnx.split(model)

    def loss(params):
        return linear_loss(nnx.merge(graphdef, params), make_batch(), None)[0]

    grads = jax.grad(loss)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    expected = nnx.as_pure(optax.apply_updates(params, updates))
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(after.params[name], expected[name], atol=1e-6)


def test_complex_parameters_descend():
    class Complex(nnx.Module):
        def __init__(self):
            self.z = nnx.Param(jnp.array([1 + 2j, -3j], jnp.complex64))

    def distance(model, batch, rngs):
        return jnp.square(jnp.abs(model.z[...] - batch["y"])).sum(), {}

    goal = np.array([0.5 - 1j, 2j], np.complex64)
    model = Complex()
    state = training.init_state(model, optax.sgd(0.25))
    state, found = training.make_train_step(model, distance, optax.sgd(0.25))(
        state, {"y": goal}, jax.random.key(0)
    )
    away = np.array([1 + 2j, -3j]) - goal
    # The gradient along the real and the imaginary axis together is 2 (z - y).
    np.testing.assert_allclose(jax.tree.leaves(state.params)[0], goal + away / 2, rtol=1e-6)
    np.testing.assert_allclose(found["grad_norm"], 2 * np.linalg.norm(away), rtol=1e-6)


def test_batch_statistics_are_carried():
    model = Regressor(rngs=nnx.Rngs(0))
    optimizer = optax.sgd(0.0)  # parameters stand still, so each step's statistics are known
    state = training.init_state(model, optimizer)
    train_step = training.make_train_step(model, loss_fn, optimizer)
    mean, var = np.zeros(4), np.ones(4)
    for step in range(3):
        batch = make_batch(seed=step)
        state, _ = train_step(state, batch, KEY)
        hidden = np.asarray(model.layers[0](batch["x"]), np.float64)
        mean, var = 0.9 * mean + 0.1 * hidden.mean(0), 0.9 * var + 0.1 * hidden.var(0)
    np.testing.assert_allclose(state.model_state["norm"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state.model_state["norm"]["var"], var, rtol=1e-5)


def test_train_mode_in_the_train_step_and_eval_mode_in_the_eval_step():
    seen = {}

    def look(name, model):
        seen[name] = (model.dropout.deterministic, model.norm.use_running_average)

    def looking_loss(model, batch, rngs):
        look("train", model)
        return loss_fn(model, batch, rngs)

    def looking_metric(model, batch):
        look("eval", model)
        return metric_fn(model, batch)

    model = Regressor(dropout=0.5, rngs=nnx.Rngs(0))
    model.eval()
    state = training.init_state(model, optax.sgd(0.1))
    training.make_train_step(model, looking_loss, optax.sgd(0.1))(state, make_batch(), KEY)
    model.train()
    training.make_eval_step(model, looking_metric)(state, make_batch())
    assert seen == {"train": (False, False), "eval": (True, True)}
    look("after", model)
    assert seen["after"] == (False, False)  # the model itself is left as it was


@pytest.mark.quick("True")
@pytest.mark.parametrize("stored_stream", [False, True])
def test_randomness_is_a_function_of_key_and_step(stored_stream):
    model = Regressor(dropout=0.5, stored_stream=stored_stream, rngs=nnx.Rngs(0))

    def loss(model, batch, rngs):
        return loss_fn(model, batch, None if stored_stream else rngs)

    state = training.init_state(model, optax.sgd(0.0))
    train_step = training.make_train_step(model, loss, optax.sgd(0.0))
    batch = make_batch(size=64)
    second, once = train_step(state, batch, KEY)
    _, again = train_step(state, batch, KEY)
    _, other_key = train_step(state, batch, jax.random.key(1))
    _, other_step = train_step(second, batch, KEY)
    assert_trees_equal(once, again)
    assert once["loss"] != other_key["loss"]
    assert once["loss"] != other_step["loss"]
    # What a stored stream went through before leaves no trace: a resumed run needs only its step.
    _, back = train_step(second._replace(step=state.step), batch, KEY)
    assert_trees_equal(once, back)


def test_stored_streams_differ_from_each_other():
    class Noise(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.ones([]))
            self.a = nnx.Dropout(0.5, rngs=rngs)
            self.b = nnx.Dropout(0.5, rngs=rngs)
            self.c = nnx.Dropout(0.5, rngs=rngs, rng_collection="other")

        def __call__(self, x):
            return [layer(x) * self.scale for layer in (self.a, self.b, self.c)]

    def loss(model, batch, rngs):
        a, b, c = model(batch)
        return a.sum(), {"ab": (a == b).mean(), "ac": (a == c).mean(), "bc": (b == c).mean()}

    model = Noise(nnx.Rngs(0, other=0))
    state = training.init_state(model, optax.sgd(0.1))
    _, same = training.make_train_step(model, loss, optax.sgd(0.1))(state, jnp.ones(1000), KEY)
    for pair in ("ab", "ac", "bc"):
        assert 0.4 < same[pair] < 0.6, pair


@pytest.mark.quick()
@pytest.mark.parametrize("graph", [True, False])
def test_it_is_all_plain_jax(graph):
    """No trace on the second call, grad and vmap around it; in both of NNX's modes."""
    traces = []

    def counting_loss(model, batch, rngs):
        traces.append(1)
        return loss_fn(model, batch, rngs)

    with nnx.set_graph_mode(graph):
        model = Regressor(dropout=0.5, rngs=nnx.Rngs(0))
        state = training.init_state(model, optax.adam(0.1))
        train_step = training.make_train_step(nnx.graphdef(model), counting_loss, optax.adam(0.1))
        first, _ = train_step(state, make_batch(), KEY)
        train_step(first, make_batch(seed=1), jax.random.key(1))
        assert len(traces) == 1
        keys = jax.random.split(KEY, 3)
        states, reported = jax.vmap(train_step, in_axes=(None, None, 0))(state, make_batch(), keys)
        assert reported["loss"].shape == (3,)
        single, _ = train_step(state, make_batch(), keys[1])
        np.testing.assert_allclose(
            states.params["layers"][1]["kernel"][1],
            single.params["layers"][1]["kernel"],
            atol=1e-5,
        )


@pytest.mark.quick()
def test_the_step_is_pure_unless_it_may_donate():
    model = Regressor(rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.adam(0.1))
    before = jax.tree.map(np.asarray, (state.params, nnx.as_pure(nnx.state(model, nnx.Param))))
    training.make_train_step(model, loss_fn, optax.adam(0.1))(state, make_batch(), KEY)
    donating = training.make_train_step(model, loss_fn, optax.adam(0.1), donate=True)
    donated, _ = donating(state, make_batch(), KEY)
    donating(donated, make_batch(), KEY)
    # Even then the model has arrays of its own.
    assert_trees_equal(before[0], nnx.as_pure(nnx.state(model, nnx.Param)))
    assert_trees_equal(before[1], nnx.as_pure(nnx.state(model, nnx.Param)))


@pytest.mark.quick()
def test_state_to_model_gives_back_the_whole_model():
    model = Regressor(dropout=0.5, stored_stream=True, rngs=nnx.Rngs(0))
    model.eval()
    state = training.init_state(model, optax.adam(0.1))
    state, _ = training.make_train_step(model, loss_fn, optax.adam(0.1))(state, make_batch(), KEY)
    trained = training.state_to_model(model, state)
    assert isinstance(trained, Regressor) and trained.dropout.deterministic
    assert_trees_equal(nnx.as_pure(nnx.state(trained, nnx.Param)), state.params)
    np.testing.assert_array_equal(trained.norm.mean[...], state.model_state["norm"]["mean"])
    assert isinstance(trained.layers[0].kernel, nnx.Param)
    assert not np.array_equal(trained(make_batch()["x"]), model(make_batch()["x"]))


def test_low_precision_parameters():
    """The reported norm is summed in float32, whatever the parameters are."""
    model = nnx.Linear(3, 1, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    state, reported = training.make_train_step(model, linear_loss, optax.sgd(0.1))(
        state, make_batch(), KEY
    )
    assert state.params["kernel"].dtype == jnp.bfloat16
    assert reported["grad_norm"].dtype == jnp.float32


@pytest.mark.quick("sizes2")
@pytest.mark.parametrize("sizes", [[7], [3, 4], [5, 1, 1]])
def test_evaluation_over_unequal_batches_is_that_of_the_whole(sizes):
    model = Regressor(rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    batch = make_batch(size=7)
    ends = np.cumsum(sizes)
    parts = [
        {name: array[end - size : end] for name, array in batch.items()}
        for size, end in zip(sizes, ends, strict=True)
    ]
    eval_step = training.make_eval_step(model, metric_fn)
    model.eval()
    expected = np.mean((np.asarray(model(batch["x"]), np.float64) - batch["y"]) ** 2)
    measured = training.evaluate(eval_step, state, iter(parts))
    assert list(measured) == ["error"] and isinstance(measured["error"], float)
    np.testing.assert_allclose(measured["error"], expected, rtol=1e-6)


def test_evaluation_counts_far():
    """More batches than are fetched at once, and a sum that float32 cannot count."""

    def count(model, batch):
        return {"mean": metrics.Mean(batch, jnp.int32(1))}

    model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    eval_step = training.make_eval_step(model, count)
    batches = [np.float32(2**24)] + 199 * [np.float32(1)]
    measured = training.evaluate(eval_step, state, batches)
    np.testing.assert_allclose(measured["mean"], (2**24 + 199) / 200, rtol=2e-7)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda loss: loss, TypeError, r"loss_fn: expected \(loss, metrics\).*got float32\[\]"),
        (lambda loss: (loss, [1]), TypeError, r"loss_fn: .*got \(float32\[\], list\)"),
        (lambda loss: (loss, {}, {}), TypeError, r"loss_fn: expected \(loss, metrics\)"),
        (lambda loss: None, TypeError, r"loss_fn: .*got NoneType"),
        (lambda loss: (loss * jnp.ones(3), {}), ValueError, r"float scalar.*got float32\[3\]"),
        (lambda loss: (loss > 0, {}), ValueError, r"loss_fn: expected a float scalar.*got bool"),
        (lambda loss: (loss, {"a": jnp.ones(2)}), ValueError, r"a scalar for 'a'.*\(2,\)"),
        (lambda loss: (loss, {"step": 1}), ValueError, r"names of metrics other than .*got 'step'"),
        (
            lambda loss: (loss, {"loss": loss}),
            ValueError,
            r"names of metrics other than .*got 'loss'",
        ),
        (
            lambda loss: (loss, {"eval_loss": loss}),
            ValueError,
            r"names of metrics that do not begin with 'eval_', .*got 'eval_loss'",
        ),
    ],
)
def test_a_wrong_loss_function_is_named(result, error, message):
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))

    def wrong(model, batch, rngs):
        return result(linear_loss(model, batch, rngs)[0])

    train_step = training.make_train_step(model, wrong, optax.sgd(0.1))
    with pytest.raises(error, match=message):
        train_step(state, make_batch(), KEY)


def test_a_model_that_grows_is_refused():
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))

    def growing(model, batch, rngs):
        model.seen = nnx.Variable(jnp.zeros(()))
        return linear_loss(model, batch, rngs)

    with pytest.raises(ValueError, match="structure of its state"):
        training.make_train_step(model, growing, optax.sgd(0.1))(state, make_batch(), KEY)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (1.0, TypeError, "metric_fn: expected a dict of seqjax.metrics.Mean, got float"),
        ({"a": jnp.ones(())}, TypeError, r"Mean for 'a', got float32\[\]"),
        ({"a": metrics.Mean(jnp.ones(2), 2)}, ValueError, r"metric_fn: expected a scalar for 'a'"),
    ],
)
def test_a_wrong_metric_function_is_named(result, error, message):
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    eval_step = training.make_eval_step(model, lambda model, batch: result)
    with pytest.raises(error, match=message):
        eval_step(state, make_batch())


def test_what_is_not_a_model_is_named():
    params: Any = {}
    with pytest.raises(TypeError, match=r"model: expected a flax.nnx.Module, got dict"):
        training.init_state(params, optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"model: .* or its GraphDef, got dict"):
        training.make_train_step(params, loss_fn, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"model: .* got Dropout without any"):
        training.init_state(nnx.Dropout(0.5), optax.sgd(0.1))
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    state = training.init_state(model, optax.sgd(0.1))
    with pytest.raises(ValueError, match="batches: expected at least one batch"):
        training.evaluate(training.make_eval_step(model, metric_fn), state, [])


def test_loss_functions_of_other_arguments_or_results():
    model, sgd = nnx.Linear(1, 1, rngs=nnx.Rngs(0)), optax.sgd(0.1)
    short: Any = lambda model: {}  # noqa: E731
    with pytest.raises(TypeError, match=r"loss_fn: expected a function of \(model, batch, rngs\)"):
        training.make_train_step(model, short, sgd)
    with pytest.raises(TypeError, match=r"metric_fn: expected a function of \(model, batch\)"):
        training.make_eval_step(model, short)
    state = training.init_state(model, sgd)
    for result, expected in (
        ((jnp.float32(0), {"who": "me"}), "a scalar for 'who', got 'me'"),
        (("zero", {}), "a float scalar as the loss, got 'zero'"),
    ):
        step = training.make_train_step(model, lambda *_, result=result: result, sgd)
        with pytest.raises(TypeError, match=f"loss_fn: expected {expected}"):
            step(state, jnp.zeros((1, 1)), jax.random.key(0))
