"""The transducer loss against the sum over all paths, and against published values."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.transducer import joint_transducer_loss, transducer_loss
from tests.transducer.helpers import LOSS, forward, probability

B, T, N, V = 3, 3, 4, 3
seeds = st.integers(0, 2**20)


def draw(seed, *, scale=2.0, batch=B):
    rng = np.random.default_rng(seed)
    return rng, (rng.normal(size=(batch, T, N + 1, V)) * scale).astype(np.float32)


@pytest.mark.quick("[01]")
@pytest.mark.parametrize("blank", range(V))
@given(seed=seeds)
def test_loss_is_the_sum_over_paths(seed, blank):
    """Often there are more labels than frames."""
    rng, logits = draw(seed)
    lengths, counts = rng.integers(0, T + 1, B), rng.integers(0, N + 1, B)
    labels = rng.choice([v for v in range(V) if v != blank], (B, N))
    loss = LOSS(logits, labels, lengths, counts, blank=blank)
    for b in range(B):
        p = probability(logits[b, : lengths[b]], labels[b, : counts[b]], blank)
        expected = -math.log(p) if p else math.inf
        np.testing.assert_allclose(loss[b], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.quick("2")
@pytest.mark.parametrize("blank", [0, 2])
def test_gradient(blank):
    """By central differences of the enumeration, in its logits, the last frame being padding."""
    _, logits = draw(3, batch=1)
    labels = np.array([[1, 1, 1, 0]])
    options: Any = {"lengths": np.array([2]), "label_lengths": np.array([3]), "blank": blank}
    slope = jax.jit(jax.grad(lambda z: transducer_loss(z, labels, **options)))(logits)
    for index in np.ndindex(T, N + 1, V):
        sides = []
        for sign in (1, -1):
            moved = logits[0].astype(np.float64)
            moved[index] += sign * 1e-4
            sides.append(-math.log(probability(moved[:2], [1, 1, 1], blank)))
        np.testing.assert_allclose(slope[0][index], (sides[0] - sides[1]) / 2e-4, atol=2e-5)


# The inputs and results of the tests of warp-transducer.
SMALL = [
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.1, 0.2, 0.8, 0.1]],
    [[0.1, 0.6, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.1], [0.7, 0.1, 0.2, 0.1, 0.1]],
]
SMALL_GRADIENT = [
    [
        [-0.13116688, -0.3999269, 0.17703125, 0.17703125, 0.17703125],
        [-0.18572757, 0.12247056, -0.18168412, 0.12247056, 0.12247056],
        [-0.32091254, 0.06269141, 0.06928472, 0.12624499, 0.06269141],
    ],
    [
        [0.05456069, -0.21824276, 0.05456069, 0.05456069, 0.05456069],
        [0.12073959, 0.12073959, -0.48295835, 0.12073959, 0.12073959],
        [-0.6925882, 0.16871116, 0.18645467, 0.16871116, 0.16871116],
    ],
]
TWO = [
    0.06535690384862791, 0.7875301411923206, 0.08159176605666074,
    0.5297155426466327, 0.7506749639230854, 0.7541348379087998,
    0.6097641124736383, 0.8681404965673826, 0.6225318186056529,
    0.6685222872103057, 0.8580392805336061, 0.16453892311765583,
    0.989779515236694, 0.944298460961015, 0.6031678586829663,
    0.9467833543605416, 0.666202507295747, 0.28688179752461884,
    0.09418426230195986, 0.3666735970751962, 0.736168049462793,
    0.1666804425271342, 0.7141542198635192, 0.3993997272216727,
    0.5359823524146038, 0.29182076440286386, 0.6126422611507932,
    0.3242405528768486, 0.8007644367291621, 0.5241057606558068,
    0.779194617063042, 0.18331417220174862, 0.113745182072432,
    0.24022162381327106, 0.3394695622533106, 0.1341595066017014,
    0.5055615569388828, 0.051597282072282646, 0.6402903936686337,
    0.43073311517251, 0.8294731834714112, 0.1774668847323424,
    0.3207001991262245, 0.04288308912457006, 0.30280282975568984,
    0.6751777088333762, 0.569537369330242, 0.5584738347504452,
    0.08313242153985256, 0.06016544344162322, 0.10795752845152584,
    0.7486153608562472, 0.943918041459349, 0.4863558118797222,
    0.4181986264486809, 0.6524078485043804, 0.024242983423721887,
    0.13458171554507403, 0.3663418070512402, 0.2958297395361563,
    0.9236695822497084, 0.6899291482654177, 0.7418981733448822,
    0.25000547599982104, 0.6034295486281007, 0.9872887878887768,
    0.5926057265215715, 0.8846724004467684, 0.5434495396894328,
    0.6607698886038497, 0.3771277082495921, 0.3580209022231813,
]  # fmt: skip


def test_published_values():
    small = np.array([SMALL], np.float32)
    run = jax.jit(jax.value_and_grad(lambda z: transducer_loss(z, np.array([[1, 2]]))))
    value, slope = run(small)
    np.testing.assert_allclose(value, 4.495666, rtol=1e-6)
    np.testing.assert_allclose(slope[0], SMALL_GRADIENT, atol=1e-6)
    two = np.array(TWO, np.float32).reshape(2, 4, 3, 3)
    loss = LOSS(two, np.array([[1, 2], [1, 1]]), np.array([4, 4]), np.array([2, 2]))
    np.testing.assert_allclose(loss, [4.2806528590890736, 3.9384369822503591], rtol=1e-6)


@pytest.fixture(scope="module")
def padded():
    """Logits, labels and options of a batch with padding, and the same with garbage in it."""
    _, logits = draw(0)
    labels = np.array([[1, 2, 1, 0], [2, 2, 1, 1], [1, 1, 0, 0]])
    mask = np.array([[True, False, True], [True, True, True], [False] * 3])
    counts = np.array([3, 4, 0])
    dirty, dirty_labels = logits.copy(), labels.copy()
    dirty[~mask] = np.nan
    dirty[0, :, 4] = np.inf
    dirty_labels[0, 3], dirty_labels[2] = 99, [-1, 0, 7, 0]
    return logits, labels, dirty, dirty_labels, {"mask": mask, "label_lengths": counts}


def test_garbage_in_padding_changes_nothing(padded):
    logits, labels, dirty, dirty_labels, options = padded
    mask, counts = options["mask"], options["label_lengths"]
    run = jax.jit(jax.value_and_grad(lambda *given: transducer_loss(*given, **options)))
    value, slope = run(logits, labels)
    got, dirty_slope = run(dirty, dirty_labels)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    np.testing.assert_allclose(dirty_slope, slope, rtol=1e-5, atol=1e-7)
    assert (dirty_slope[~mask] == 0).all() and (dirty_slope[0, :, 4] == 0).all()
    real = [probability(logits[b, mask[b]], labels[b, : counts[b]]) for b in (0, 1)]
    np.testing.assert_allclose(value, -sum(map(math.log, real)) / 2, rtol=1e-5)


@pytest.mark.quick()
def test_impossible_labels_have_no_gradient():
    _, logits = draw(1)
    logits[1, :, :, 2] = -np.inf
    labels = np.array([[1] * N, [1, 2, 1, 1], [2] * N])
    lengths, counts = np.array([0, 3, 2]), np.array([1, 2, 4])
    loss = LOSS(logits, labels, lengths, counts)
    assert np.isposinf(loss).tolist() == [True, True, False]

    def zero(z):
        return LOSS(z, labels, lengths, counts, zero_infinity=True).mean()

    value, slope = jax.jit(jax.value_and_grad(zero))(logits)
    np.testing.assert_allclose(value, loss[2] / 3, rtol=1e-6)
    assert (slope[:2] == 0).all() and (slope[2, :2] != 0).all() and (slope[2, 2] == 0).all()
    infinite = jax.jit(jax.grad(lambda z: LOSS(z, labels, lengths, counts).sum()))(logits)
    np.testing.assert_allclose(infinite, 3 * slope, rtol=1e-5)
    only_one = LOSS(logits, labels, lengths, np.array([0, 1, 4]))
    expected = [1.0, probability(logits[1], [1]), probability(logits[2, :2], labels[2])]
    np.testing.assert_allclose(np.exp(-only_one), expected, rtol=1e-5)
    logits[2, 1] = -np.inf  # a frame that forbids all classes
    value, slope = jax.jit(jax.value_and_grad(zero))(logits)
    assert value == 0 and (slope == 0).all()


def test_mean_over_the_sequences_that_are_not_filler():
    _, logits = draw(4)
    labels, lengths, counts = np.full((B, N), 1), np.array([3, 0, 2]), np.array([1, 0, 0])
    each = LOSS(logits, labels, lengths, counts)
    assert each[1] == 0
    mean = transducer_loss(logits, labels, lengths=lengths, label_lengths=counts)
    np.testing.assert_allclose(mean, (each[0] + each[2]) / 2, rtol=1e-6)
    nothing = np.zeros(B, int)
    assert transducer_loss(logits, labels, lengths=nothing, label_lengths=nothing) == 0


@pytest.mark.quick("3-0")
@pytest.mark.parametrize(("steps", "most"), [(0, 2), (3, 0), (0, 0)])
def test_empty_axes(steps, most):
    logits, labels = np.zeros((2, steps, most + 1, V), np.float32), np.ones((2, most), int)
    counts = np.array([0, most])
    loss = LOSS(logits, labels, np.full(2, steps), counts)
    assert np.isfinite(loss).tolist() == [True, steps > 0 or most == 0]
    np.testing.assert_allclose(loss[0], steps * math.log(V), rtol=1e-6, atol=1e-6)
    encoded, predicted = np.zeros((2, steps, V), np.float32), np.zeros((2, most + 1, V), np.float32)
    options: Any = {"label_lengths": counts, "per_sequence": True}
    joint = joint_transducer_loss(jnp.add, encoded, predicted, labels, **options)
    np.testing.assert_allclose(joint, loss)
    assert transducer_loss(logits[:0], labels[:0]) == 0
    assert transducer_loss(logits[:0], labels[:0], per_sequence=True).shape == (0,)


def joint(encoded, predicted):
    return jnp.concatenate([jnp.sin(3 * (encoded + predicted)), encoded * predicted], axis=-1)


@pytest.mark.quick("2")
@pytest.mark.parametrize("chunk_size", [1, 2, 5, None])
def test_loss_of_a_joint_network(padded, chunk_size):
    """The value and both gradients equal those of all logits at once, despite NaN in padding."""
    *_, labels, options = padded
    rng = np.random.default_rng(0)
    encoded = rng.normal(size=(B, T, 2)).astype(np.float32)
    predicted = rng.normal(size=(B, N + 1, 2)).astype(np.float32)
    dirty = np.where(options["mask"][..., None], encoded, np.nan)
    columns = np.arange(N + 1) <= options["label_lengths"][:, None]
    dirty_too = np.where(columns[..., None], predicted, np.nan)

    def whole(f, g):
        return transducer_loss(joint(f[:, :, None], g[:, None]), labels, **options)

    def chunks(f, g):
        return joint_transducer_loss(joint, f, g, labels, chunk_size=chunk_size, **options)

    value, slopes = jax.jit(jax.value_and_grad(whole, (0, 1)))(encoded, predicted)
    got, found = jax.jit(jax.value_and_grad(chunks, (0, 1)))(dirty, dirty_too)
    np.testing.assert_allclose(got, value, rtol=1e-6)
    for slope, other in zip(slopes, found, strict=True):
        np.testing.assert_allclose(other, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.quick()
def test_transformations():
    """vmap, forward mode, and the derivative of the gradient."""
    rng, logits = draw(2)
    labels, tangent = rng.integers(1, V, (B, N)), rng.normal(size=logits.shape).astype(np.float32)

    def run(z, labels):
        return transducer_loss(z, labels, label_lengths=jnp.array([3, 4, 0]))

    @jax.jit
    def all_at_once(z, d):
        many = jax.vmap(lambda z: run(z, labels))(jnp.stack([z, z + d]))
        value, slope = jax.jvp(lambda z: run(z, labels), (z,), (d,))
        gradient = jax.grad(run)
        _, second = jax.jvp(lambda z: gradient(z, labels), (z,), (d,))
        near = [gradient(z + h * d, labels) for h in (-1e-2, 1e-2)]
        return many, value, slope, gradient(z, labels), second, (near[1] - near[0]) / 2e-2

    many, value, slope, gradient, second, differences = all_at_once(logits, tangent)
    np.testing.assert_allclose(many[0], value, rtol=1e-6)
    np.testing.assert_allclose(slope, (gradient * tangent).sum(), rtol=1e-4)
    np.testing.assert_allclose(second, differences, atol=2e-3)
    assert np.abs(second).max() > 0.05


@pytest.mark.quick()
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_many_frames(scale):
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(1, 3000, 41, 4))).astype(np.float32)
    labels = rng.integers(1, 4, (1, 40))
    loss = LOSS(logits, labels, np.array([3000]), np.array([40]))
    np.testing.assert_allclose(loss[0], forward(logits[0], labels[0]), rtol=1e-6)


def test_confident_nodes():
    """The classes of one path have probability 1 - 6e-9, which float32 rounds to 1."""
    steps, labels = 2000, np.array([[1, 2, 2]])
    right = np.zeros((steps, 4), int)
    right[500, 0], right[900, 1], right[900, 2] = 1, 2, 2
    logits = 20 * np.eye(4, dtype=np.float32)[right][None]
    found, slope = jax.jit(jax.value_and_grad(lambda z: transducer_loss(z, labels)))(logits)
    expected = forward(logits[0], labels[0])
    assert 0 < expected < 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.isfinite(slope).all() and np.abs(slope).max() < 1e-4


@pytest.mark.quick()
def test_types(x64):
    _, logits = draw(5)
    lengths, counts = np.full(B, T), np.full(B, N)
    for dtype in (np.uint8, np.int32, np.int64):
        loss = LOSS(logits.astype(np.float64), np.ones((B, N), dtype), lengths, counts)
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss[0], -math.log(probability(logits[0], [1] * N)), rtol=1e-12)
    with jax.numpy_dtype_promotion("strict"):
        half = transducer_loss(
            jnp.asarray(logits, jnp.bfloat16), np.ones((B, N), np.uint8), per_sequence=True
        )
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, LOSS(logits, np.ones((B, N), int), lengths, counts), rtol=2e-2)


@pytest.mark.quick()
def test_labels_in_bytes():
    """There are more classes than numbers in uint8."""
    for blank in (0, 299):
        loss = transducer_loss(np.zeros((1, 1, 2, 300)), np.array([[200]], np.uint8), blank=blank)
        np.testing.assert_allclose(loss, 2 * math.log(300), rtol=1e-6)


GOOD = {
    "logits": np.zeros((2, 4, 3, 3), np.float32),
    "lengths": np.array([4, 2]),
    "labels": np.array([[1, 2], [1, 0]]),
    "label_lengths": np.array([2, 1]),
}
BAD = [
    ("logits", np.zeros((2, 4, 3), np.float32), ValueError, r"\[B, T, N\+1, V\], got \(2, 4, 3\)"),
    ("logits", np.zeros((2, 4, 3, 0), np.float32), ValueError, r"got \(2, 4, 3, 0\)"),
    ("logits", np.zeros((2, 4, 3, 3), int), TypeError, "float array"),
    ("lengths", np.array([4, 5]), ValueError, "0 to 4"),
    ("lengths", np.array([4.0, 2.0]), TypeError, "integers"),
    ("labels", np.array([1, 2]), ValueError, r"\[B, N\] with B=2, got \(2,\)"),
    ("labels", np.array([[1], [1]]), ValueError, r"with N=2, one less .*, got \(2, 1\)"),
    ("labels", np.array([[1, 3], [1, 0]]), ValueError, "classes from 0 to 2 except blank=0"),
    ("labels", np.array([[1, 0], [1, 0]]), ValueError, "except blank=0, got 0"),
    ("labels", np.array([[1.0, 2.0], [1.0, 1.0]]), TypeError, "integers"),
    ("label_lengths", np.array([3, 1]), ValueError, "0 to 2"),
    ("blank", 3, ValueError, "below V=3, got 3"),
    ("zero_infinity", 1, TypeError, "bool"),
    ("per_sequence", "mean", TypeError, "bool"),
]


@pytest.mark.quick("[!pz]*")
@pytest.mark.parametrize(("name", "value", "error", "message"), BAD)
def test_loss_refuses(name, value, error, message):
    given = (
        {"label_lengths": np.array([1, 1])} if name == "labels" and value.shape[1:] == (1,) else {}
    )
    with pytest.raises(error, match=rf"^{name}: expected .*{message}"):
        transducer_loss(**GOOD | given | {name: value})


JOINT_GOOD: Any = {
    "joint": jnp.add,
    "encoded": np.zeros((2, 4, 3), np.float32),
    "predicted": np.zeros((2, 3, 3), np.float32),
    "labels": np.array([[1, 2], [1, 2]]),
}
JOINT_BAD = [
    ("joint", "tanh", TypeError, "joint: expected a function"),
    ("joint", lambda f, g: f + 0 * g.sum(), ValueError, "joint: expected it to return logits"),
    ("joint", lambda f, g: (f + g).astype(int), TypeError, "joint: expected it to return floats"),
    ("encoded", np.zeros((2, 4), np.float32), ValueError, r"encoded: expected \[B, T, E\]"),
    ("predicted", np.zeros((3, 3, 3), np.float32), ValueError, r"predicted: .* with B=2"),
    ("labels", np.ones((2, 3), int), ValueError, "labels: .*axis N\\+1 of predicted"),
    ("chunk_size", 0, ValueError, "chunk_size: expected a positive integer"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), JOINT_BAD)
def test_loss_of_a_joint_network_refuses(name, value, error, message):
    with pytest.raises(error, match=message):
        joint_transducer_loss(**JOINT_GOOD | {name: value})


def test_wrong_label_under_tracing_is_nan():
    labels = np.array([[1, 3], [1, 0]])
    loss = LOSS(GOOD["logits"], labels, GOOD["lengths"], GOOD["label_lengths"])
    assert np.isnan(loss).tolist() == [True, False]


@pytest.mark.quick()
def test_a_blank_alone_is_certain():
    logits = np.random.default_rng(0).normal(size=(2, 4, 1, 1)).astype(np.float32)
    loss = transducer_loss(logits, np.zeros((2, 0), int), per_sequence=True)
    np.testing.assert_array_equal(loss, [0, 0])
