"""Optimisers of optax that want more than the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax import training


class Point(nnx.Module):
    """Parameters alone."""

    def __init__(self):
        self.w = nnx.Param(jnp.array([3.0, -2.0, 1.0]))


SCALES = jnp.array([1.0, 10.0, 100.0])


def quadratic(model, batch, rngs):
    return 0.5 * jnp.sum(SCALES * (model.w[...] - batch["y"]) ** 2), {}


BATCH = {"y": np.array([1.0, 2.0, 3.0], np.float32)}


def fit(optimizer, steps, loss_fn=quadratic, batches=(BATCH,), **options):
    batches = list(batches)
    return training.fit(
        Point(), loss_fn, optimizer, batches, steps=steps, progress=False, **options
    )


@pytest.mark.quick()
def test_lbfgs_minimises_a_quadratic_in_a_few_steps():
    result = fit(optax.lbfgs(), 20)
    np.testing.assert_allclose(result.model.w[...], BATCH["y"], atol=1e-4)
    assert sum(record["skipped"] for record in result.history) == 0
    # What it does is what optax does by hand.
    optimizer, value_fn = optax.lbfgs(), lambda w: 0.5 * jnp.sum(SCALES * (w - BATCH["y"]) ** 2)
    w = jnp.array([3.0, -2.0, 1.0])
    state = optimizer.init(w)
    for _ in range(3):
        value, grad = jax.value_and_grad(value_fn)(w)
        updates, state = optimizer.update(grad, state, w, value=value, grad=grad, value_fn=value_fn)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(fit(optax.lbfgs(), 3).model.w[...], w, rtol=1e-4)


@pytest.mark.quick()
def test_the_line_search_sees_the_same_randomness_as_the_gradient():
    """With other noise at the trial points, the step would shrink to nearly nothing."""

    def noisy(model, batch, rngs):
        shift = 100.0 * jax.random.normal(rngs(), (3,))
        return jnp.sum((model.w[...] - shift) ** 2), {}

    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=20)
    state = training.init_state(Point(), optimizer := optax.chain(optax.sgd(1.0), search))
    step = training.make_train_step(Point(), noisy, optimizer)
    key = jax.random.key(0)
    _, measured = step(state, BATCH, key)
    after, _ = step(state, BATCH, key)
    shifted = after._replace(step=state.step)
    _, again = step(shifted, BATCH, key)
    assert float(again["loss"]) < 0.5 * float(measured["loss"])


def test_reduce_on_plateau_scales_down_by_the_loss():
    def flat(model, batch, rngs):
        return 1.0 + 0.0 * jnp.sum(model.w[...]), {}

    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, accumulation_size=1)
    optimizer = optax.chain(optax.sgd(0.1), plateau)
    scales = [float(fit(optimizer, n, flat).state.opt_state[1].scale) for n in (1, 3, 5)]
    assert scales[0] == 1.0 and scales[1] == 0.5 and scales[2] == 0.25
    falling = optax.chain(optax.sgd(1e-3), plateau)
    assert float(fit(falling, 5).state.opt_state[1].scale) == 1.0


LEARNERS = {
    "polyak": optax.polyak_sgd(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "zoom": optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "schedule_free_sgd": optax.contrib.schedule_free_sgd(1e-2),
    "schedule_free_adamw": optax.contrib.schedule_free_adamw(0.1),
    "momo": optax.contrib.momo(),
    "momo_adam": optax.contrib.momo_adam(0.1),
    "prodigy": optax.contrib.prodigy(),
    "dadapt_adamw": optax.contrib.dadapt_adamw(),
    "mechanize": optax.contrib.mechanize(optax.sgd(1e-3)),
    "sophia": optax.contrib.sophia(0.1),
    "dog": optax.contrib.dog(),
    "cocob": optax.contrib.cocob(),
    "sam": optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3)),
    "opaque_sam": optax.contrib.sam(optax.sgd(1e-2), optax.sgd(1e-3), opaque_mode=True),
    "multi_steps": optax.MultiSteps(optax.sgd(1e-2), 2),
    "apply_if_finite": optax.apply_if_finite(optax.sgd(1e-2), 3),
    "noise": optax.chain(optax.sgd(1e-3), optax.add_noise(1e-4, 0.5, jax.random.key(0))),
    "seeded_noise": optax.chain(optax.sgd(1e-3), optax.add_noise(1e-4, 0.5, 0)),
    "inject_hyperparams": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "multi_transform": optax.multi_transform({"a": optax.lbfgs()}, lambda params: "a"),
}


@pytest.mark.quick("seeded_noise", "schedule_free_adamw", "multi_steps")
@pytest.mark.parametrize("optimizer", LEARNERS.values(), ids=LEARNERS)
def test_optimisers_of_all_kinds_learn(optimizer):
    result = fit(optimizer, 30)
    assert result.history[-1]["skipped"] == 0
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_schedule_free_measures_and_returns_its_averaged_weights():
    optimizer = optax.contrib.schedule_free_sgd(1e-2)
    result = fit(optimizer, 20)
    expected = optax.contrib.schedule_free_eval_params(result.state.opt_state, result.state.params)
    np.testing.assert_allclose(result.model.w[...], expected["w"], rtol=1e-6)
    assert not np.allclose(result.model.w[...], result.state.params["w"], rtol=1e-4)


@pytest.mark.quick()
def test_a_step_that_is_not_finite_leaves_the_state_of_lbfgs_as_it_was():
    def scaled(model, batch, rngs):
        return quadratic(model, batch, rngs)[0] * batch["scale"], {}

    batches = [BATCH | {"scale": np.float32(scale)} for scale in (1, np.nan, 1)]
    with pytest.warns(UserWarning, match="1 of 3 steps"):
        bad = fit(optax.lbfgs(), 3, scaled, batches)
    good = fit(optax.lbfgs(), 2, scaled, [batches[0], batches[2]])
    for one, other in zip(
        jax.tree.leaves(bad.state._replace(step=0)),
        jax.tree.leaves(good.state._replace(step=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.quick()
def test_lbfgs_goes_on_to_the_same_bits(tmp_path):
    batches = [BATCH, BATCH | {"y": np.array([1.0, 2.5, 3.0], np.float32)}]
    whole = fit(optax.lbfgs(), 6, batches=batches)

    def stopping(epoch):
        for index, batch in enumerate(batches):
            if (epoch, index) == (1, 1):
                raise KeyboardInterrupt
            yield batch

    with (
        training.Checkpoints(tmp_path, every=1) as checkpoints,
        pytest.raises(KeyboardInterrupt),
    ):
        training.fit(
            Point(), quadratic, optax.lbfgs(), stopping, steps=6, progress=False,
            checkpoints=checkpoints,
        )  # fmt: skip
    with training.Checkpoints(tmp_path) as checkpoints:
        again = fit(optax.lbfgs(), 6, batches=batches, checkpoints=checkpoints, resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.state, whole.state)


def test_what_cannot_be_used_is_refused():
    optimizer = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    with pytest.raises(
        TypeError, match=r"optimizer: .*optax.lookahead needs parameters of its own"
    ):
        fit(optimizer, 1)
    with pytest.raises(TypeError, match=r"optimizer: expected an optax transformation .*got 3"):
        training.init_state(Point(), 3)


def slope(model, batch, rngs):
    """Its gradient is 1 everywhere."""
    return jnp.sum(model.kernel[...]) + jnp.sum(model.bias[...]), {}


def sgd(rate):
    return optax.sgd(rate)


FREEZE = optax.transforms.freeze


# Each optimiser with how far one step moves the kernel and the bias; `labels` is True for matrices.
@pytest.mark.quick("as_pure-*")
@pytest.mark.parametrize(
    ("make", "kernel", "bias"),
    [
        (lambda labels: optax.masked(sgd(0.5), labels), 0.5, -1.0),
        (lambda labels: optax.chain(sgd(0.5), FREEZE(labels)), 0.0, 0.5),
        (
            lambda labels: optax.multi_transform(
                {True: optax.sgd(0.5, momentum=0.9), False: sgd(0.25)}, labels
            ),
            0.5,
            0.25,
        ),
        (
            lambda labels: optax.chain(
                sgd(0.5), optax.masked(optax.scale(2.0), labels), training.averaging(0.9)
            ),
            1.0,
            0.5,
        ),
        # The decay of ones, after clipping the gradient to nothing.
        (
            lambda labels: optax.chain(
                optax.scale(0.0), optax.adamw(0.5, weight_decay=0.5, mask=labels)
            ),
            0.25,
            0.0,
        ),
        (lambda labels: optax.contrib.schedule_free(optax.masked(sgd(0.5), labels), 0.5), 0.5, -1),
    ],
)
@pytest.mark.parametrize("form", [lambda state: state, nnx.as_pure, None])
def test_masks_and_labels_of_parts_of_the_model(make, kernel, bias, form):
    ones = nnx.initializers.ones
    model = nnx.Linear(2, 2, kernel_init=ones, bias_init=ones, rngs=nnx.Rngs(0))

    def labels(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    optimizer = make(labels(form(nnx.state(model, nnx.Param))) if form else labels)
    result = training.fit(model, slope, optimizer, [BATCH], epochs=1, progress=False)
    params = result.state.params
    np.testing.assert_allclose(params["kernel"], np.full((2, 2), 1 - kernel), rtol=1e-6)
    np.testing.assert_allclose(params["bias"], np.full(2, 1 - bias), rtol=1e-6)
    assert set(params) == {"kernel", "bias"} and isinstance(params["bias"], jax.Array)


def test_a_mask_of_a_tree_of_its_own_is_an_error():
    with pytest.raises(TypeError, match=r"optimizer: .*masks and labels.*nnx.state\(model"):
        fit(optax.masked(optax.sgd(0.1), {"q": True}), 1)


def test_lookahead_is_named_only_where_it_is_the_cause():
    with pytest.raises(TypeError, match=r"optax.lookahead needs parameters of its own form"):
        fit(optax.lookahead(optax.sgd(0.1), 2, 0.5), 1)
    with pytest.raises(TypeError, match="optimizer: ") as caught:
        fit(optax.sgd(lambda step: "fast"), 1)
    assert "lookahead" not in str(caught.value)


@pytest.mark.parametrize("name", ["learning_rate", "clip_norm", "clip_value", "weight_decay"])
@pytest.mark.parametrize("value", ["1e-2", True, b"1"])
def test_numbers_of_an_optimizer_are_numbers(name, value):
    options = {"learning_rate": 0.1, "name": "adamw", name: value}
    with pytest.raises(TypeError, match=f"{name}: expected a"):
        training.optimizer(**options)
