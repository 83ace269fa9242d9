"""The cross entropy of a linear read-out: float64 loops, any chunks, and never all logits."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import PartitionSpec

from seqjax import losses, metrics, sharding
from tests.references import cross_entropy

B, T, H, C = 3, 5, 4, 7
CHUNKS = [1, 2, 4, 14, 15, 99, None]
loss: Any = losses.linear_cross_entropy


def drawn(seed: int = 0, dtype: Any = np.float64) -> Any:
    """Hidden states, matrix, bias, labels and a mask with both values in it."""
    rng = np.random.default_rng(seed)
    hidden, kernel, bias = (rng.normal(size=shape) for shape in ((B, T, H), (H, C), (C,)))
    labels, mask = rng.integers(0, C, (B, T)), rng.uniform(size=(B, T)) < 0.6
    mask.flat[0], mask.flat[-1] = True, False
    return *(array.astype(dtype) for array in (hidden, kernel, bias)), labels, mask


def expected(hidden, kernel, bias, labels, mask, *, smoothing=0.0):
    """The loss, and its gradients by hidden, kernel and bias, by a loop over the positions."""
    hidden, kernel, bias = (np.asarray(x, np.float64) for x in (hidden, kernel, bias))
    count, logits = max(int(mask.sum()), 1), np.zeros((*labels.shape, kernel.shape[1]))
    slopes = [np.zeros(x.shape) for x in (hidden, kernel, bias)]
    for n in np.ndindex(labels.shape):
        if not mask[n]:
            continue
        logits[n] = hidden[n] @ kernel + bias
        p = np.exp(logits[n] - np.logaddexp.reduce(logits[n]))
        q = (1 - smoothing) * np.eye(len(p))[labels[n]] + smoothing / len(p)
        slopes[0][n] = kernel @ (p - q) / count
        slopes[1] += np.outer(hidden[n], p - q) / count
        slopes[2] += (p - q) / count
    return cross_entropy(logits, labels, mask, smoothing), slopes


def value_and_grad(hidden, kernel, bias, labels, mask, **options):
    def of(hidden, kernel, bias):
        return loss(hidden, kernel, bias, labels, mask=mask, **options)

    arrays = (x if isinstance(x, jax.Array) else jax.device_put(x) for x in (hidden, kernel, bias))
    return jax.jit(jax.value_and_grad(of, (0, 1, 2)))(*arrays)


def assert_equal(found, wanted, rtol=2e-5, atol=2e-7):
    np.testing.assert_allclose(found[0], wanted[0], rtol=rtol)
    for slope, right in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(slope, right, rtol=rtol, atol=atol)


def garbage(hidden, labels, mask):
    """The same inputs with rubbish wherever the mask hides them."""
    hidden, labels = hidden.copy(), labels.copy()
    hidden[~mask] = np.array([np.nan, np.inf, -np.inf, 1e30])
    labels[~mask] = np.resize([-1, 10**6, 2**31 - 1], (~mask).sum())
    return hidden, labels


@pytest.mark.quick("0.1-4")
@pytest.mark.parametrize("chunk_size", CHUNKS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient(chunk_size, smoothing):
    arguments = drawn()
    options = {"label_smoothing": smoothing, "chunk_size": chunk_size}
    found = value_and_grad(*arguments, **options)
    assert found[0].shape == () and found[0].dtype == jnp.float32
    assert_equal(found, expected(*arguments, smoothing=smoothing))
    # Differentiated or not, the value is the same.
    *inputs, labels, mask = arguments
    np.testing.assert_allclose(loss(*inputs, labels, mask=mask, **options), found[0], rtol=1e-6)


@pytest.mark.quick("None")
@pytest.mark.parametrize("chunk_size", [4, None])
def test_no_mask_and_no_bias(chunk_size):
    hidden, kernel, bias, labels, mask = drawn()
    found = value_and_grad(hidden, kernel, bias, labels, None, chunk_size=chunk_size)
    assert_equal(found, expected(hidden, kernel, bias, labels, np.ones_like(mask)))
    wanted, slopes = expected(hidden, kernel, 0 * bias, labels, mask)
    run = jax.value_and_grad(functools.partial(loss, mask=mask, chunk_size=chunk_size), (0, 1))
    assert_equal(jax.jit(run)(hidden, kernel, None, labels), (wanted, slopes[:2]))


@pytest.mark.quick("True-jit")
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_garbage_in_masked_places_changes_nothing(compiled, per_sequence):
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)

    def run(hidden, labels):
        def of(*inputs):
            options: Any = {"per_sequence": per_sequence, "chunk_size": 4}
            return loss(*inputs, labels, mask=mask, **options).sum()

        return jax.value_and_grad(of, (0, 1, 2))(hidden, kernel, bias)

    run = jax.jit(run) if compiled else run
    dirty, clean = run(*garbage(hidden, labels, mask)), run(hidden, labels)
    jax.tree.map(np.testing.assert_array_equal, dirty, clean)
    np.testing.assert_array_equal(np.asarray(dirty[1][0])[~mask], 0)


def test_all_masked_is_zero():
    hidden, kernel, bias, labels, mask = drawn()
    mask = np.zeros_like(mask)
    hidden, labels = garbage(hidden, labels, mask)
    found = value_and_grad(hidden, kernel, bias, labels, mask, chunk_size=4)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), found)


@pytest.mark.quick("None")
@pytest.mark.parametrize("chunk_size", [4, None])
def test_empty_is_zero(chunk_size):
    hidden, kernel, bias, labels, mask = drawn()
    found = value_and_grad(hidden[:0], kernel, bias, labels[:0], mask[:0], chunk_size=chunk_size)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), found)
    assert found[1][0].shape == (0, T, H)


@pytest.mark.quick()
@given(mask=hnp.arrays(bool, (B, T)), seed=st.integers(0, 9), chunk_size=st.sampled_from(CHUNKS))
def test_any_mask_and_chunks(mask, seed, chunk_size):
    hidden, kernel, bias, labels, _ = drawn(seed)
    dirty, wrong = garbage(hidden, labels, mask)
    options: Any = {"chunk_size": chunk_size, "label_smoothing": 0.2}
    found = value_and_grad(dirty, kernel, bias, wrong, mask, **options)
    assert_equal(found, expected(hidden, kernel, bias, labels, mask, smoothing=0.2), 5e-5, 1e-6)


@pytest.mark.quick("15")
@pytest.mark.parametrize("chunk_size", CHUNKS)
def test_one_value_a_sequence(chunk_size):
    hidden, kernel, bias, labels, mask = drawn()
    mask[1] = False
    dirty, wrong = garbage(hidden, labels, mask)

    def each(hidden, kernel, bias):
        options: Any = {"label_smoothing": 0.1, "chunk_size": chunk_size, "per_sequence": True}
        return loss(hidden, kernel, bias, wrong, mask=mask, **options)

    run = jax.jit(lambda *inputs: (each(*inputs), jax.jacrev(each, (0, 1, 2))(*inputs)))
    values, (by_hidden, by_kernel, by_bias) = jax.device_get(run(dirty, kernel, bias))
    assert values.shape == (B,) and values[1] == 0
    for b in range(B):
        alone = (hidden[b : b + 1], kernel, bias, labels[b : b + 1], mask[b : b + 1])
        wanted, slopes = expected(*alone, smoothing=0.1)
        found = values[b], (by_hidden[b, b : b + 1], by_kernel[b], by_bias[b])
        assert_equal(found, (wanted, slopes))
        np.testing.assert_array_equal(np.delete(by_hidden[b], b, axis=0), 0)


@pytest.mark.quick("4-bfloat16")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("chunk_size", [4, None])
def test_half_precision(dtype, chunk_size):
    """Products of halves are summed in float32; gradients come in the dtype of the inputs."""
    *inputs, labels, mask = drawn()
    rounded = (*(jnp.asarray(x, dtype) for x in inputs), labels, mask)
    found = value_and_grad(*rounded, chunk_size=chunk_size)
    wanted = expected(*rounded)
    assert found[0].dtype == jnp.float32 and {g.dtype for g in found[1]} == {jnp.dtype(dtype)}
    np.testing.assert_allclose(found[0], wanted[0], rtol=5e-6)
    tolerance = 2 * float(jnp.finfo(dtype).eps)
    for slope, right in zip(found[1], wanted[1], strict=True):
        np.testing.assert_allclose(
            np.asarray(slope, np.float64), right, rtol=tolerance, atol=tolerance / 4
        )


def test_hidden_states_of_another_dtype():
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)
    halves = jnp.asarray(hidden, jnp.bfloat16)
    value, slopes = value_and_grad(halves, kernel, bias, labels, mask)
    wanted, _ = expected(np.asarray(halves, np.float64), kernel, bias, labels, mask)
    np.testing.assert_allclose(value, wanted, rtol=2e-6)
    assert [slope.dtype for slope in slopes] == [jnp.bfloat16, jnp.float32, jnp.float32]


@pytest.mark.quick("None")
@pytest.mark.parametrize("chunk_size", [4, None])
def test_float64(chunk_size, x64):
    arguments = drawn()
    found = value_and_grad(*arguments, chunk_size=chunk_size, label_smoothing=0.1)
    assert found[0].dtype == jnp.float64
    assert_equal(found, expected(*arguments, smoothing=0.1), 1e-12, 1e-15)


def test_no_implicit_promotion():
    arguments = [jnp.asarray(array) for array in drawn(dtype=np.float32)]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        value, _ = value_and_grad(*arguments, chunk_size=4, label_smoothing=0.1)
    assert np.isfinite(value)


def test_embedding_as_the_matrix():
    """A transposed matrix gives the same, its gradient transposed."""
    hidden, kernel, bias, labels, mask = drawn()
    value, (by_hidden, by_kernel, by_bias) = value_and_grad(
        hidden, kernel.T, bias, labels, mask, transposed=True, chunk_size=4
    )
    found = value, (by_hidden, by_kernel.T, by_bias)
    assert_equal(found, expected(hidden, kernel, bias, labels, mask))


def test_parameters_of_layers():
    hidden, _, _, labels, mask = drawn(dtype=np.float32)
    for linear in (nnx.Linear(H, C, use_bias=bias, rngs=nnx.Rngs(0)) for bias in (True, False)):
        found = loss(hidden, linear.kernel, linear.bias, labels, mask=mask)
        wanted = losses.cross_entropy(linear(jnp.asarray(hidden)), labels, mask=mask)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    embed = nnx.Embed(C, H, rngs=nnx.Rngs(0))
    found = loss(hidden, embed.embedding, None, labels, mask=mask, transposed=True)
    wanted = losses.cross_entropy(embed.attend(jnp.asarray(hidden)), labels, mask=mask)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("per_sequence", [False, True])
@pytest.mark.parametrize("chunk_size", [4, None])
@pytest.mark.quick()
def test_higher_derivatives(chunk_size, per_sequence, x64):
    """Forward mode and second derivatives, in all orders, are those of the logits' loss."""
    *inputs, labels, mask = map(jnp.asarray, drawn())
    options: Any = {"mask": mask, "label_smoothing": 0.1, "per_sequence": per_sequence}

    def ours(inputs):
        return loss(*inputs, labels, chunk_size=chunk_size, **options).sum()

    def theirs(inputs):
        hidden, kernel, bias = inputs
        return losses.cross_entropy(hidden @ kernel + bias, labels, **options).sum()

    same = functools.partial(np.allclose, rtol=1e-10, atol=1e-14)
    along = [jnp.cos(x) for x in inputs]
    for derive in (
        lambda f: jax.jvp(f, (inputs,), (along,)),
        lambda f: jax.jvp(jax.grad(f), (inputs,), (along,)),
        lambda f: jax.grad(lambda x: sum(g.sum() for g in jax.tree.leaves(jax.grad(f)(x))))(inputs),
        lambda f: jax.grad(lambda x: jax.jvp(f, (x,), (along,))[1])(inputs),
    ):
        assert jax.tree.all(jax.tree.map(same, derive(ours), derive(theirs)))


@pytest.mark.quick()
def test_vmap():
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)
    run = functools.partial(jax.value_and_grad(loss, (0, 1, 2)), chunk_size=2)

    def one(hidden, kernel, labels, mask):
        return run(hidden, kernel, bias, labels, mask=mask)

    kernels = np.stack([kernel, 2 * kernel, -kernel])
    found = jax.vmap(one)(hidden, kernels, labels, mask)
    for b in range(B):
        alone = expected(hidden[b], kernels[b], bias, labels[b], mask[b])
        assert_equal(jax.tree.map(lambda leaf, b=b: leaf[b], found), alone)


def shapes_of(program):
    """The shapes of all arrays of a program, those in loops included."""
    found = set()
    for equation in program.eqns:
        found |= {atom.aval.shape for atom in (*equation.invars, *equation.outvars)}
        for value in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            found |= shapes_of(inner) if hasattr(inner, "eqns") else set()
    return found


@pytest.mark.parametrize("per_sequence", [False, True])
def test_there_is_no_array_of_all_logits(per_sequence):
    positions, classes, chunk = 96, 500, 8
    inputs = [np.ones(shape, np.float32) for shape in ((4, 24, 3), (3, classes), (classes,))]
    labels = np.zeros((4, 24), int)

    def ours(*inputs):
        options: Any = {"chunk_size": chunk, "per_sequence": per_sequence}
        return loss(*inputs, labels, **options).sum()

    def theirs(hidden, kernel, bias):
        logits = hidden @ kernel + bias
        return losses.cross_entropy(logits, labels, per_sequence=per_sequence).sum()

    def largest(function):
        return max(map(math.prod, shapes_of(jax.make_jaxpr(function)(*inputs).jaxpr)))

    for derive in (
        lambda f: f,
        lambda f: jax.grad(f, (0, 1, 2)),
        lambda f: lambda *x: jax.jvp(f, x, x),
        lambda f: lambda *x: jax.jvp(jax.grad(f, (0, 1, 2)), x, x),
    ):
        assert largest(derive(ours)) == chunk * classes
        assert largest(derive(theirs)) == positions * classes


def test_the_compiled_gradient_is_small():
    positions, features, classes = 1024, 16, 4096
    shapes = [(positions, features), (features, classes), (classes,)]
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((positions,), jnp.int32)
    gradient = jax.jit(jax.grad(functools.partial(loss, chunk_size=64), (0, 1, 2)))
    analysis = gradient.lower(*inputs, labels).compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes < 4 * positions * classes / 2


def test_default_chunks_follow_the_sizes():
    """A loop only where all logits are more than 8 MB; then the fewest, equal chunks."""

    def lengths(positions, features, classes):
        shapes = [(positions, features), (features, classes), (classes,)]
        # The native engine takes large problems in float32.
        inputs = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
        labels = jax.ShapeDtypeStruct((positions,), jnp.int32)
        program = jax.make_jaxpr(loss)(*inputs, labels).jaxpr
        text = str(program)
        return text.count("scan["), f"[{-(-positions // 3)},{classes}]" in text

    assert lengths(512, 8, 4096) == (0, False)
    assert lengths(1400, 8, 4096) == (1, True)
    assert lengths(600, 200, 2**15) == (1, True)  # not 64 positions, but as many as features


def test_only_what_is_asked_for_is_computed():
    """A read-out that is not trained costs no gradient of its matrix."""
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)

    def products(argnums):
        run = jax.grad(functools.partial(loss, mask=mask, chunk_size=4), argnums)
        return str(jax.make_jaxpr(run)(hidden, kernel, bias, labels)).count("dot_general[")

    assert [products(argnums) for argnums in (0, 1, 2, (0, 1, 2))] == [2, 2, 1, 3]


@pytest.mark.quick()
def test_metrics_are_the_same_means():
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)
    mean = metrics.linear_cross_entropy(hidden, kernel, bias, labels, mask=mask, chunk_size=4)
    assert int(mean.count) == mask.sum()
    np.testing.assert_allclose(
        mean.value(), expected(hidden, kernel, bias, labels, mask)[0], rtol=2e-6
    )
    parts = [
        metrics.linear_cross_entropy(hidden[:, s], kernel, bias, labels[:, s], mask=mask[:, s])
        for s in (slice(0, 2), slice(2, None))
    ]
    np.testing.assert_allclose(parts[0].merge(parts[1]).value(), mean.value(), rtol=1e-6)
    lengths = np.array([2, 0, 5])
    real = np.arange(T) < lengths[:, None]
    by_lengths = metrics.linear_cross_entropy(hidden, kernel, bias, labels, lengths=lengths)
    by_mask = metrics.linear_cross_entropy(hidden, kernel, bias, labels, mask=real)
    assert by_lengths == by_mask and int(by_mask.count) == 7


@pytest.mark.quick()
def test_extreme_and_excluded_logits():
    """Logits of 10,000 are exact, and a bias of -inf rules a class out."""
    kernel = jnp.array([[1e4, -1e4, 0.0]])
    assert loss(jnp.ones((1, 1)), kernel, None, jnp.array([1])) == 2e4
    excluded = jnp.array([0.0, 0.0, -jnp.inf])
    value, slopes = jax.value_and_grad(loss, (0, 2))(
        jnp.ones((1, 1)), jnp.zeros((1, 3)), excluded, jnp.array([0])
    )
    np.testing.assert_allclose(value, math.log(2), rtol=1e-6)
    np.testing.assert_allclose(slopes[1], [-0.5, 0.5, 0.0], rtol=1e-6)


@pytest.mark.quick("False--1", "True-7")
@pytest.mark.parametrize("label", [-1, C, 10**6])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_class_out_of_range(label, per_sequence):
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)
    labels[0, 0] = label
    run = functools.partial(loss, hidden, kernel, bias, per_sequence=per_sequence, chunk_size=4)
    with pytest.raises(ValueError, match=rf"labels: expected values in \[0, 6\].*got {label}"):
        run(labels)
    found = np.atleast_1d(jax.jit(run)(labels))
    assert np.isnan(found[0]) and np.isfinite(found[1:]).all()
    mask[0, 0] = False
    assert np.isfinite(jax.jit(run)(labels, mask=mask)).all()


@pytest.mark.quick("int8", "uint32")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int64])
def test_label_dtypes(dtype):
    """The number of classes, 300, need not fit the type of the labels."""
    hidden, kernel = np.eye(3, 4, dtype=np.float32), np.zeros((4, 300), np.float32)
    kernel[0, 3] = 5.0
    run = functools.partial(loss, hidden, kernel, None)
    wanted = run(np.array([3, 0, 100], np.int32))
    assert run(np.array([3, 0, 100], dtype)) == wanted
    assert jax.jit(run)(np.array([3, 0, 100], dtype)) == wanted


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "int hidden": ({"hidden": np.ones((2, 4), int)}, TypeError, "hidden: expected a float array"),
    "scalar hidden": ({"hidden": np.float32(1)}, ValueError, r"hidden: expected \[\.\.\., 4\]"),
    "features": ({"hidden": np.ones((2, 3))}, ValueError, r"hidden: .*\(4, 7\), got \(2, 3\)"),
    "int kernel": ({"kernel": np.ones((4, 7), int)}, TypeError, "kernel: expected a float array"),
    "flat kernel": ({"kernel": np.ones(4)}, ValueError, r"kernel: expected \[H, C\] .* got \(4,\)"),
    "no classes": ({"kernel": np.ones((4, 0))}, ValueError, "kernel: .*at least one class"),
    "transposed": ({"transposed": True}, ValueError, r"hidden: expected \[\.\.\., 7\]"),
    "not transposed": ({"transposed": 1}, TypeError, "transposed: expected a bool, got 1"),
    "bias": ({"bias": np.ones(4)}, ValueError, r"bias: expected \(7,\) .*, got \(4,\)"),
    "int bias": ({"bias": np.ones(7, int)}, TypeError, "bias: expected a float array"),
    "labels": ({"labels": np.ones(3, int)}, ValueError, r"labels: expected \(2,\) for hidden"),
    "float labels": ({"labels": np.ones(2)}, TypeError, "labels: expected integer classes"),
    "smoothing": ({"label_smoothing": 1}, ValueError, r"label_smoothing: .*\[0, 1\), got 1"),
    "mask": ({"mask": np.ones(2)}, TypeError, "mask: expected bool"),
    "mask shape": ({"mask": np.ones((2, 4), bool)}, ValueError, r"mask: .*\(2,\), got \(2, 4\)"),
    "chunk 0": ({"chunk_size": 0}, ValueError, "chunk_size: expected a positive integer, got 0"),
    "chunk 1.5": ({"chunk_size": 1.5}, TypeError, "chunk_size: expected a positive integer"),
    "per_sequence": ({"per_sequence": "mean"}, TypeError, "per_sequence: expected a bool"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_refuses(arguments, error, message):
    options: dict[str, Any] = {
        "hidden": np.ones((2, 4), np.float32),
        "kernel": np.ones((4, 7), np.float32),
        "bias": None,
        "labels": np.zeros(2, int),
    }
    with pytest.raises(error, match=f"^{message}"):
        loss(**options | arguments)


@pytest.mark.two_devices
@pytest.mark.parametrize("chunk_size", [4, 7, 9, None])
def test_two_devices_share_each_chunk(chunk_size):
    hidden, kernel, bias, labels, mask = drawn(dtype=np.float32)
    hidden, labels, mask = (np.concatenate([x, x[:1]]) for x in (hidden, labels, mask))
    gradient = jax.jit(jax.value_and_grad(functools.partial(loss, chunk_size=chunk_size), (0, 1)))
    parts = sharding.shard_batch((hidden, labels, mask), 2)
    whole = sharding.replicate((kernel, bias), 2)
    found = gradient(parts[0], *whole, parts[1], mask=parts[2])
    wanted, slopes = expected(hidden, kernel, bias, labels, mask)
    assert_equal(found, (wanted, slopes[:2]))
    program = gradient.lower(parts[0], *whole, parts[1], mask=parts[2]).compile().as_text()
    assert program is not None
    assert set(re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", program)) == {"all-reduce"}


@pytest.mark.two_devices
@pytest.mark.parametrize("chunk_size", [2, None])
def test_inside_shard_map(chunk_size):
    hidden, kernel, bias, labels, _ = drawn(dtype=np.float32)
    hidden, labels = (np.concatenate([x, x[:1]]) for x in (hidden, labels))
    mesh = sharding.batch_mesh(2)
    (axis,) = mesh.axis_names
    whole, split = PartitionSpec(), PartitionSpec(axis)

    def local(hidden, kernel, bias, labels):
        run = jax.value_and_grad(functools.partial(loss, chunk_size=chunk_size), (0, 1))
        value, (by_hidden, by_kernel) = run(hidden, kernel, bias, labels)
        return jax.lax.pmean(value, axis), by_hidden / 2, by_kernel / 2

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(split, whole, whole, split), out_specs=(whole, split, whole)
    )
    value, *found = jax.jit(mapped)(hidden, kernel, bias, labels)
    wanted, slopes = expected(hidden, kernel, bias, labels, np.ones(labels.shape, bool))
    assert_equal((value, found), (wanted, slopes[:2]))
