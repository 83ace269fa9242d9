"""Clipping really bounds the update, and the options reach optax or are refused."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqjax import training

GRADS = {"a": jnp.array([3.0, -400.0]), "b": jnp.array([[0.5]])}


def first_update(transformation, grads=GRADS, params=None):
    params = params or {"a": jnp.ones(2), "b": jnp.ones((1, 1))}
    updates, _ = transformation.update(grads, transformation.init(params), params)
    return updates


def as_numpy(tree):
    return np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"])])


def test_clip_norm_bounds_the_global_norm_and_keeps_the_direction():
    update = as_numpy(first_update(training.optimizer(0.5, name="sgd", clip_norm=2.0)))
    grads = as_numpy(GRADS)
    np.testing.assert_allclose(update, -0.5 * 2.0 * grads / np.linalg.norm(grads), rtol=1e-6)


def test_clip_value_bounds_each_element():
    update = as_numpy(first_update(training.optimizer(0.5, name="sgd", clip_value=2.0)))
    np.testing.assert_allclose(update, [-1.0, 1.0, -0.25], rtol=1e-6)


def test_both_bounds_hold_together():
    transformation = training.optimizer(1.0, name="sgd", clip_norm=1.0, clip_value=2.0)
    clipped = np.array([2.0, -2.0, 0.5])  # by value first: the norm decides what is left
    np.testing.assert_allclose(
        as_numpy(first_update(transformation)), -clipped / np.linalg.norm(clipped), rtol=1e-6
    )


def test_a_small_gradient_is_left_alone():
    transformation = training.optimizer(1.0, name="sgd", clip_norm=1e4, clip_value=1e4)
    np.testing.assert_array_equal(as_numpy(first_update(transformation)), -as_numpy(GRADS))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_each_name_is_optaxs_own(name):
    expected = first_update(getattr(optax, name)(0.1))
    np.testing.assert_array_equal(
        as_numpy(first_update(training.optimizer(0.1, name=name))), as_numpy(expected)
    )


def test_clipping_comes_before_the_optimiser():
    """Adam's update does not feel the gradient's scale, so only clipping before it differs here."""
    transformation = training.optimizer(1.0, name="adam", clip_value=1e-12)
    assert np.abs(as_numpy(first_update(transformation))).max() < 1e-3  # below adam's epsilon


def test_weight_decay_of_adamw():
    zero = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}
    update = first_update(training.optimizer(0.1, name="adamw", weight_decay=0.5), grads=zero)
    np.testing.assert_allclose(as_numpy(update), -0.1 * 0.5 * np.ones(3), rtol=1e-6)


def test_a_schedule_is_followed():
    schedule = optax.piecewise_constant_schedule(1.0, {1: 0.5, 2: 0.5})
    transformation = training.optimizer(schedule, name="sgd")
    params = {"w": jnp.zeros(1)}
    state, steps = transformation.init(params), []
    for _ in range(3):
        update, state = transformation.update({"w": jnp.ones(1)}, state, params)
        steps.append(float(update["w"][0]))
    assert steps == [-1.0, -0.5, -0.25]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate: expected a positive number, got 0.0"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate: "),
        ({"learning_rate": "fast"}, TypeError, "learning_rate: expected a positive number"),
        ({"name": "adamm"}, ValueError, "name: expected one of adam, adamw, sgd, rmsprop"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm: expected a positive number, got -1.0"),
        ({"clip_value": 0}, ValueError, "clip_value: "),
        (
            {"name": "sgd", "weight_decay": 0.1},
            ValueError,
            "weight_decay: expected None for name='sgd'",
        ),
        ({"name": "adamw", "weight_decay": -0.1}, ValueError, "weight_decay: expected a number"),
    ],
)
def test_errors(options, error, message):
    with pytest.raises(error, match=message):
        training.optimizer(**{"learning_rate": 0.1, **options})
