"""Programs with int8 weights: the arithmetic against NumPy, and programs against float ones."""

import itertools
import json
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from seqjax import cells, export, nn
from tests.nn.helpers import drawn, make, oracle, random
from tests.seq2seq.helpers import translator

CPU = ("cpu",)
SHAPES = {
    # name: shape, the axis of the channels
    "w_ih": ((40, 48), 1),
    "blocks": ((2, 24, 48), 2),  # block-diagonal
    "conv.kernel": ((3, 3, 8, 16), 3),  # the outputs of a convolution
    "embed.embedding": ((60, 20), 0),  # one scale for each token
    "flat.embedding": ((80, 16), 0),
}


def by_loops(w: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """The int8 values and scales of a matrix, one number after the other."""
    integers, scales = np.zeros(w.shape, np.int8), np.zeros(w.shape[axis])
    for c in range(w.shape[axis]):
        channel: Any = [slice(None)] * w.ndim
        channel[axis] = c
        peak = max(abs(float(x)) for x in w[tuple(channel)].ravel())
        scales[c] = np.float32(peak / 127)
        rest = w[tuple(channel)]
        found = [round(float(x) / scales[c]) if peak else 0 for x in rest.ravel()]
        integers[tuple(channel)] = np.reshape(found, rest.shape)
    return integers, scales


def exported(model: Any, **options: Any) -> Any:
    """The program that returns the weights of the model."""
    return export.export_function(
        lambda model: model, model=model, quantize="int8", platforms=CPU, **options
    )


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_and_scales_equal_numpy(dtype, x64):
    weights = {
        name: random(*shape, seed=n, scale=10.0 ** (n - 2)).astype(dtype)
        for n, (name, (shape, _)) in enumerate(SHAPES.items())
    }
    weights["w_ih"][:, 3] = 0
    artifact = exported(weights, weights="argument")
    found = artifact()
    assert artifact.weights.keys() == {*SHAPES, *(f"{name}.scale" for name in SHAPES)}
    for name, (shape, axis) in SHAPES.items():
        integers, scales = artifact.weights[name], artifact.weights[f"{name}.scale"]
        assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
        assert scales.shape == tuple(n if k == axis else 1 for k, n in enumerate(shape))
        w = weights[name].astype(np.float64)
        expected, steps = by_loops(w, axis)
        zero = steps == 0
        np.testing.assert_allclose(scales.ravel()[~zero], steps[~zero], rtol=2e-7)
        assert (scales > 0).all()
        # A tie may be rounded in either direction, since scales are rounded to float32.
        off = np.abs(integers.astype(int) - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 0.02
        assert np.abs(integers).max() == 127

        restored = np.asarray(found[name])
        assert restored.dtype == dtype
        product = (integers.astype(np.float32) * scales).astype(dtype)
        np.testing.assert_array_equal(restored, product)
        rounding = 0 if dtype == np.float64 else np.abs(w) * float(jnp.finfo(dtype).eps)
        bound = scales.astype(np.float64) / 2 * (1 + 1e-5) + np.float64(1e-7) * np.abs(w) + rounding
        assert (np.abs(restored.astype(np.float64) - w) <= bound).all()
    assert (np.asarray(found["w_ih"])[:, 3] == 0).all()


def test_small_arrays_biases_and_other_dtypes_stay():
    kept = {
        "b": random(2048),
        "bias": random(32, 64),
        "layer.initial_state_h": random(32, 64),
        "small": random(31, 33),
        "depthwise.kernel": random(4, 1, 500),
        "wide": random(15, 100),
        "narrow.embedding": random(100, 15),
        "scalar": np.float32(3),
        "ids": np.arange(2000).reshape(2, 1000).astype(np.int32),
        "spectrum": (random(32, 64) + 1j).astype(np.complex64),
        "half": random(64).astype(ml_dtypes.bfloat16),
    }
    artifact = exported({**kept, "w": random(32, 32), "tall": random(16, 64)}, weights="argument")
    assert artifact.weights.keys() == {*kept, "w", "w.scale", "tall", "tall.scale"}
    found = artifact()
    for name, leaf in kept.items():
        np.testing.assert_array_equal(artifact.weights[name], leaf)
        np.testing.assert_array_equal(found[name], leaf)
    assert exported({"w": random(32, 32), "number": 2.5})()["number"] == 2.5


def test_random_keys_stay():
    class Noisy(nnx.Module):
        def __init__(self) -> None:
            self.rngs = nnx.Rngs(0)
            self.linear = nnx.Linear(32, 32, rngs=nnx.Rngs(1))

    model = Noisy()
    spec = jax.ShapeDtypeStruct((2, 32), jnp.float32)
    artifact = export.export_function(
        lambda model, x: model.linear(x), spec, model=model, quantize="int8", platforms=CPU
    )
    xs = jnp.asarray(random(2, 32))
    np.testing.assert_allclose(artifact(xs)["output"], model.linear(xs), atol=0.05)


@pytest.mark.parametrize("largest", [1e-44, 1e-38, 3.4028235e38])
def test_extreme_values_stay_finite(largest):
    w = random(32, 32)
    w = (w / np.abs(w).max() * largest).astype(np.float32)
    if largest > 1:
        w = np.minimum(np.maximum(w, -3.4e38), 3.4e38).astype(np.float32)
    artifact = exported({"w": w}, weights="argument")
    scale = artifact.weights["w.scale"].astype(np.float64)
    error = np.abs(np.asarray(artifact()["w"], np.float64) - w)
    assert (error <= scale / 2 * (1 + 1e-5)).all()


def layer_of(**options: Any) -> Any:
    return make(cells.LSTM(24, 64), num_layers=2, **options)


def rounded(model: Any, artifact: Any) -> Any:
    """The model with the int8 weights of the artifact, multiplied by their scales in NumPy."""
    graph, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    for path, variable in flat.items():
        name = ".".join(map(str, path))
        scale = artifact.weights.get(f"{name}.scale")
        if scale is not None:
            flat[path] = variable.replace(jnp.asarray(artifact.weights[name] * scale))
    return nnx.merge(graph, nnx.from_flat_state(flat))


def saved(path: Any, artifact: Any) -> tuple[Any, int]:
    export.save(path, artifact)
    return export.load(path), path.stat().st_size


@pytest.mark.quick()
@pytest.mark.parametrize("weights", ["constants", "argument"])
def test_a_layer_equals_that_of_the_rounded_weights_and_its_file_is_small(weights, tmp_path):
    layer = layer_of(bidirectional=True)
    before = export.export_layer(layer, weights=weights, platforms=CPU)
    open_program = export.export_layer(layer, weights="argument", quantize="int8", platforms=CPU)
    after = open_program
    if weights == "constants":
        after = export.export_layer(layer, weights=weights, quantize="int8", platforms=CPU)
    _, floats = saved(tmp_path / "float.zip", before)
    loaded, integers = saved(tmp_path / "int8.zip", after)
    assert integers < 0.3 * floats
    assert (before.manifest["quantize"], loaded.manifest["quantize"]) == (None, "int8")

    xs, lengths = random(3, 6, 24), np.array([6, 2, 0], np.int32)
    state = loaded.initial_state([3])
    found, exact = loaded(xs, lengths, state), before(xs, lengths, state)
    twin, _ = oracle("lstm", rounded(layer, open_program), xs, lengths=lengths)
    np.testing.assert_allclose(found["outputs"], twin, atol=2e-6)
    error = np.abs(np.asarray(found["outputs"]) - np.asarray(exact["outputs"])).max()
    assert 0 < error < 0.1
    assert after.manifest["inputs"][-3:] == before.manifest["inputs"][-3:]
    assert loaded.manifest == after.manifest


def test_steps_from_a_file_equal_the_whole(tmp_path):
    layer = layer_of()
    step, _ = saved(
        tmp_path / "step.zip", export.export_step(layer, quantize="int8", platforms=CPU)
    )
    whole = export.export_layer(layer, quantize="int8", padding="none", platforms=CPU)
    xs, state, outputs = random(2, 5, 24), step.initial_state([2]), []
    expected = whole(xs, state)["outputs"]
    for t in range(5):
        found = step(xs[:, t], state)
        state = found["state"]
        outputs.append(found["output"])
    np.testing.assert_allclose(np.stack(outputs, axis=1), expected, atol=1e-6)


@pytest.mark.quick()
@pytest.mark.parametrize("tied", [True, False])
def test_generation_equals_that_of_the_rounded_weights(tied, tmp_path):
    model: Any = drawn(
        lambda: translator(
            source_vocabulary=60, target_vocabulary=80, embed_size=24, hidden_size=24, tied=tied,
            **({"decoder_size": 24} if tied else {}),
        ),
        seed=5,
    )  # fmt: skip
    options: Any = {"begin": 2, "end": 3, "max_length": 6, "quantize": "int8", "platforms": CPU}
    loaded, _ = saved(tmp_path / "model.zip", export.export_decoding(model, **options))
    assert loaded.manifest["quantize"] == "int8"
    weights = export.export_decoding(model, weights="argument", **options)
    assert weights.weights is not None
    assert weights.weights["decoder.embedding.embedding.scale"].shape == (80, 1)
    near = rounded(model, weights)
    source = np.random.default_rng(1).integers(0, 60, (3, 5)).astype(np.int32)
    lengths = np.array([5, 3, 1], np.int32)
    found = loaded(source, lengths)
    expected = export.export_decoding(near, **{**options, "quantize": None})(source, lengths)
    assert found["tokens"].tolist() == expected["tokens"].tolist()
    assert len(np.unique(found["tokens"])) > 3
    np.testing.assert_allclose(found["log_probs"], expected["log_probs"], atol=1e-4)


def test_tied_weights_are_stored_once(tmp_path):
    w, other = jnp.asarray(random(200, 200)), jnp.asarray(random(200, 200, seed=4))
    sizes = []
    for pair in ({"a": w, "b": w}, {"a": w, "b": other}):
        artifact = exported(pair)
        _, size = saved(tmp_path / "x.zip", artifact)
        sizes.append(size)
        found = artifact()
        for name, leaf in pair.items():
            np.testing.assert_allclose(found[name], leaf, atol=0.02)
    assert sizes[0] < 0.6 * sizes[1]
    # The name that comes first decides on the axis; both names have the same values.
    found = exported({"embed.embedding": w, "head": w})()
    np.testing.assert_array_equal(found["embed.embedding"], found["head"])


def test_files_without_the_entry_still_load(tmp_path):
    path = tmp_path / "old.zip"
    layer = make(cells.GRU(3, 4))
    export.save(path, export.export_step(layer, platforms=CPU))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    del manifest["quantize"]
    members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    loaded = export.load(path)
    x_t = random(2, 3)
    found = loaded(x_t, loaded.initial_state([2]))
    np.testing.assert_allclose(
        found["output"], layer(x_t[:, None], deterministic=True).outputs[:, 0], atol=1e-6
    )


def test_what_cannot_be_quantized_says_so(x64):
    def broken(value: float, dtype: Any = np.float32) -> Any:
        w = np.ones((32, 32), dtype)
        w[3, 4] = value
        return {"layer": {"w": w}}

    def at(model: Any, quantize: Any = "int8") -> Any:
        return export.export_function(
            lambda model: model, model=model, quantize=quantize, platforms=CPU
        )

    for match, call in {
        r"model: expected finite float32 weights .*'int8', got nan in layer\.w$": lambda: at(
            broken(np.nan)
        ),
        r"model: expected finite .*, got inf in layer\.w$": lambda: at(broken(-np.inf)),
        r"model: expected finite .*, got 1e\+300 in layer\.w$": lambda: at(
            broken(1e300, np.float64)
        ),
        "quantize: expected a model with matrices of at least 1,024 values, got none": lambda: at(
            {"w": np.ones((8, 8), np.float32)}
        ),
        "model: expected a module or a pytree of named weights, got one array": lambda: at(
            np.ones((32, 32), np.float32)
        ),
        "quantize: expected None without a model, got 'int8'": lambda: at(None),
        "quantize: expected one of int8; got 'int4'": lambda: at(broken(1), "int4"),
        "quantize: expected one of int8; got 8": lambda: at(broken(1), 8),
        "quantize: expected one of int8; got True": lambda: at(broken(1), True),
        "quantize: expected one of int8; got ''": lambda: at(broken(1), ""),
        r"model: expected no weights named w\.scale, got some": lambda: at(
            {"w": np.ones((32, 32), np.float32), "w.scale": np.ones(32, np.float32)}
        ),
    }.items():
        with pytest.raises((TypeError, ValueError), match=match):
            call()
    for export_any, quantize in itertools.product(
        (export.export_layer, export.export_step), ("int4", "int8")
    ):
        with pytest.raises(ValueError, match="quantize: expected"):
            export_any(nn.GRU(3, 4, rngs=nnx.Rngs(0)), quantize=quantize)
