"""The causal convolution: equal to a loop in NumPy with any mask and resets, and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import nn
from seqjax.streaming import Session
from tests.cases import assert_close, draw_like, with_garbage
from tests.nn.block_twins import conv as twin
from tests.nn.helpers import drawn, float64, jit, random, run

B, T, I = 5, 11, 3


def make(width=4, **options):
    return drawn(lambda: nn.CausalConv(I, width, rngs=nnx.Rngs(0), **options))


def masks(kind, seed):
    """A mask, or the mask of lengths, and resets."""
    rng = np.random.default_rng(seed)
    mask = np.ones((B, T), bool)
    if kind == "mask":
        mask = rng.random((B, T)) < 0.55
        mask[0], mask[1], mask[2, -3:] = True, False, False
    if kind == "lengths":
        mask = np.arange(T) < np.array([T, 0, 1, 4, 8])[:, None]
    return mask, rng.random((B, T)) < 0.25


@jit
def gradient(conv, xs, window, slopes, options):
    def loss(conv, xs, window):
        ran = conv(xs, initial_state=window, **options)
        return sum((a * b).sum() for a, b in zip(ran, slopes, strict=True)), ran

    found, ran = jax.grad(loss, (0, 1, 2), has_aux=True)(conv, xs, window)
    return ran, found


@pytest.mark.quick("all-True", "mask-True", "lengths-False")
@pytest.mark.parametrize("with_resets", [False, True])
@pytest.mark.parametrize("kind", ["all", "mask", "lengths"])
def test_values_and_gradients_are_those_of_a_loop(kind, with_resets):
    conv = make()
    for seed in range(10):
        mask, resets = masks(kind, seed)
        xs, window = random(B, T, I, seed=seed), random(B, 3, I, seed=seed + 1)
        slopes = draw_like((xs, window), seed + 2)
        options = {"mask": {"mask": mask}, "lengths": {"lengths": mask.sum(1)}, "all": {}}[kind]
        if with_resets:
            options["resets"] = resets
        given = with_garbage(xs, mask)
        with jax.numpy_rank_promotion("raise"):
            ran, found = gradient(conv, given, window, slopes, options)
        p = float64({"kernel": conv.kernel[...], "bias": conv.bias[...]})
        starts = resets if with_resets else np.zeros_like(mask)
        masked = slopes[0] * mask[..., None], slopes[1]
        want, slope = twin(p, float64(xs), float64(window), mask, starts, float64(masked))
        assert_close(tuple(ran), want, 1e-5, 1e-5)
        mine = found[0].kernel[...], found[0].bias[...], *found[1:]
        assert_close(mine, slope, 1e-5, 1e-5)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_any_width_and_number_of_steps(width):
    """Also with fewer steps than the window has, and with none."""
    conv = make(width)
    p = float64({"kernel": conv.kernel[...], "bias": conv.bias[...]})
    for steps in (0, 1, 3):
        xs, window = random(2, steps, I), random(2, width - 1, I, seed=1)
        mask = np.array([[True, False, True], [False, True, True]])[:, :steps]
        resets = np.array([[False, True, False], [False, False, True]])[:, :steps]
        want, _ = twin(p, float64(xs), float64(window), mask, resets)
        found = run(conv, xs, mask=mask, resets=resets, initial_state=window)
        assert_close(tuple(found), want, 1e-5, 1e-5)


def test_batch_axes_chunks_and_streams():
    conv = make()
    xs = random(2, 3, T, I)
    outputs, window = run(conv, xs)
    alone = run(conv, xs[1, 2])
    assert_close((outputs[1, 2], window[1, 2]), tuple(alone), 1e-6)
    first = run(conv, xs[..., :2, :])
    rest = run(conv, xs[..., 2:, :], initial_state=first.state)
    assert_close(jnp.concatenate([first.outputs, rest.outputs], axis=-2), outputs, 1e-6)
    assert_close(rest.state, window, 1e-6)
    session = Session(conv, capacity=1)
    session.open("a")
    fed = [session.feed({"a": xs[1, 2, :5]})["a"], session.feed({"a": xs[1, 2, 5:]})["a"]]
    assert_close(np.concatenate(fed), outputs[1, 2], 1e-6)
    output, _ = conv.step(xs[..., 1, :], first.state, resets=np.ones((2, 3), bool))
    assert_close(output, run(conv, xs[..., 1:2, :]).outputs[..., 0, :], 1e-6)


def test_dtypes():
    """The window keeps its dtype, and the sums are float32."""
    conv = make()
    conv.kernel[...], conv.bias[...] = jnp.ones([4, I]), jnp.zeros(I)
    xs = jnp.broadcast_to(jnp.array([1.0, 1, 1, 256])[:, None], (4, I)).astype(jnp.bfloat16)
    outputs, window = run(conv, xs, initial_state=jnp.zeros([3, I]))
    assert outputs.dtype == jnp.bfloat16 and window.dtype == jnp.float32
    assert outputs[-1].tolist() == [260.0] * I  # 256 + 1 is 256 in bfloat16
    assert run(conv, xs).state.dtype == jnp.bfloat16
    assert run(make(dtype=jnp.bfloat16), random(2, I)).outputs.dtype == jnp.bfloat16
    assert make(dtype=jnp.bfloat16).initial_state(2).dtype == jnp.bfloat16
    assert nn.CausalConv(I, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)).kernel.dtype == jnp.bfloat16


def test_initial_weights():
    conv = nn.CausalConv(4000, 4, rngs=nnx.Rngs(0))
    assert abs(float(conv.kernel[...].std()) - 0.5) < 0.01 and not conv.bias[...].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.CausalConv(3, 0, rngs=nnx.Rngs(0)), ValueError, "width: expected a positive"),
        (lambda: nn.CausalConv(3), TypeError, r"rngs: expected nnx.Rngs\(0\) or a random key"),
        (lambda: make()(random(2, 4)), ValueError, r"xs: expected \[..., T, 3\]"),
        (lambda: make()(np.ones([2, 3], int)), TypeError, "xs: expected floating-point inputs"),
        (
            lambda: make()(random(2, 5, 3), initial_state=random(2, 4, 3)),
            ValueError,
            r"initial_state: expected a window \(2, 3, 3\), got \(2, 4, 3\)",
        ),
        (
            lambda: make()(random(2, 5, 3), resets=np.zeros((2, 4), bool)),
            ValueError,
            r"resets: expected shape \(2, 5\), got \(2, 4\)",
        ),
        (
            lambda: make()(random(2, 5, 3), mask=np.ones((2, 5), bool), lengths=[5, 5]),
            ValueError,
            "lengths, mask: expected one of them, got both",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
