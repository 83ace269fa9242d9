"""A saved model: the same bits in another process, complete or not changed, and its mistakes."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import nn, seq2seq, training
from tests.training.test_fit import Model, make_batches, metric_fn, run

CONFIG = {"features": 3, "size": 5, "dropout": 0.5}
DTYPES = [
    "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int8",
    "uint8", "int16", "uint16", "int32", "uint32", "bool", "complex64",
]  # fmt: skip

save: Any = training.save_model
load: Any = training.load_model


class Tagger(nnx.Module):
    """Parameters, batch statistics, a state between calls, and random streams."""

    def __init__(self, features, *, size, dropout=0.0, rngs):
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.layers = nnx.List([nn.Stateful(nn.LSTM(features, size, rngs=rngs), batch_shape=2)])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, xs):
        return self.dropout(self.layers[0](self.norm(xs)).outputs)


class Arrays(nnx.Module):
    """Arrays of one dtype in three shapes."""

    def __init__(self, dtype, *, rngs):
        shapes: list[tuple[int, ...]] = [(), (2, 3), (0, 4)]
        self.arrays = nnx.List([nnx.Variable(jnp.zeros(shape, dtype)) for shape in shapes])


class Linear(nnx.Module):
    """The least model: no compilation, and one array."""

    def __init__(self, size, *, rngs):
        self.w = nnx.Param(jnp.zeros([2, size]))


def used_tagger(seed=1) -> Any:
    """A tagger whose every variable differs from that of a new one."""
    model = Tagger(**CONFIG, rngs=nnx.Rngs(seed))
    model(jax.random.normal(jax.random.key(seed), [2, 4, 3]) + 1)
    return model


def linear(value=1.0, size=3) -> Any:
    model = Linear(size, rngs=nnx.Rngs(0))
    model.w.set_value(jnp.full([2, size], value))
    return model


def bits(model):
    """Shape, dtype and bytes of each array but those of random streams."""
    state = nnx.as_pure(nnx.state(model, nnx.Not(nnx.RngState)))
    return {
        jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype), np.asarray(leaf).tobytes())
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


@pytest.mark.quick()
def test_every_variable_is_back_and_the_streams_are_new(tmp_path):
    model = used_tagger()
    save(model, tmp_path / "new" / "tagger", config=CONFIG)
    loaded = load(tmp_path / "new" / "tagger", Tagger)
    assert bits(loaded) == bits(model) != bits(Tagger(**CONFIG, rngs=nnx.Rngs(0)))
    assert any("mean" in name for name in bits(model)) and any("carry" in n for n in bits(model))
    assert loaded.dropout.deterministic and loaded.norm.use_running_average
    xs = jnp.ones([2, 4, 3])
    model.eval()
    assert np.array_equal(loaded(xs), model(xs))
    streams = load(tmp_path / "new" / "tagger", Tagger, rngs=nnx.Rngs(9))
    expected = Tagger(**CONFIG, rngs=nnx.Rngs(9))
    assert str(nnx.state(streams, nnx.RngState)) == str(nnx.state(expected, nnx.RngState))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path, dtype):
    model = Arrays(dtype, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for variable in model.arrays:
        values = np.asarray(variable[...])
        if dtype == "bool" or "int4" in dtype:
            values = rng.integers(2, size=values.shape).astype(values.dtype)
        else:  # any bits, those of NaN and -0 among them
            values = np.ndarray(values.shape, values.dtype, rng.bytes(values.nbytes + 1))
        variable.set_value(jnp.asarray(values))
    save(model, tmp_path, config={"dtype": dtype})
    loaded = load(tmp_path, Arrays)
    assert bits(loaded) == bits(model)
    assert all(isinstance(variable.get_value(), jax.Array) for variable in loaded.arrays)


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex128"])
def test_64_bits_are_kept_or_refused(tmp_path, dtype):
    with jax.enable_x64(True):
        model = Arrays(dtype, rngs=nnx.Rngs(0))
        save(model, tmp_path, config={"dtype": dtype})
        assert bits(load(tmp_path, Arrays)) == bits(model)
    with pytest.raises(ValueError, match=rf"without jax_enable_x64, got {dtype} from .*npz"):
        load(tmp_path, lambda dtype, rngs: Arrays("float32", rngs=rngs))


def test_a_model_that_was_cast_stays_cast(tmp_path):
    model = linear(0.3)
    model.w.set_value(model.w[...].astype(jnp.bfloat16))
    save(model, tmp_path, config={"size": 3})
    assert load(tmp_path, Linear).w.dtype == jnp.bfloat16


def test_arrays_of_numpy_stay_so(tmp_path):
    model = linear()
    model.w.set_value(np.ones([2, 3]))  # type: ignore[arg-type]

    def build(rngs):
        built = Linear(3, rngs=rngs)
        built.w.set_value(np.zeros([2, 3]))  # type: ignore[arg-type]
        return built

    save(model, tmp_path)
    loaded = load(tmp_path, build).w.get_value()
    assert isinstance(loaded, np.ndarray) and loaded.dtype == np.float64 and loaded.all()


def test_numpy_and_json_can_read_the_file(tmp_path):
    save(linear(2.0), tmp_path, config={"size": 3})
    with np.load(tmp_path / "model.npz") as file:
        assert file["w"].tolist() == [[2.0] * 3] * 2
        assert json.loads(file["model.json"])["config"] == {"size": 3}


@pytest.mark.quick()
def test_the_model_of_fit(tmp_path):
    options: dict[str, Any] = {
        "optimizer": training.optimizer(0.05, average=0.9),
        "eval_batches": make_batches(),
        "metric_fn": metric_fn,
        "monitor": training.Monitor("eval_error"),
    }
    result = run(epochs=3, **options)
    save(result.model, tmp_path)
    loaded = load(tmp_path, Model)
    x = make_batches()[0]["x"]
    assert np.array_equal(loaded(x), result.model(x))
    assert bits(loaded) == bits(result.model) != bits(Model(nnx.Rngs(0)))


LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (
        nn.LSTM,
        {"input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": True},
    ),
    "seq2seq": (
        seq2seq.Seq2Seq,
        {"source_vocabulary": 5, "target_vocabulary": 6, "embed_size": 3, "hidden_size": 4},
    ),
}


@pytest.mark.quick()
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_the_package(tmp_path, name):
    made, config = LAYERS[name]
    model = made(**config, rngs=nnx.Rngs(3))
    save(model, tmp_path, config=config)
    assert bits(load(tmp_path, made)) == bits(model)


def test_intermediates_are_left_out(tmp_path):
    model = linear()
    model.norm = nnx.Intermediate(jnp.ones(3))
    save(model, tmp_path, config={"size": 3})
    assert bits(load(tmp_path, Linear)) == bits(linear())


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "words.json").write_text("[]")
    save(linear(1.0), tmp_path, config={"size": 3})
    with pytest.raises(FileExistsError, match=r"^folder: expected one without .*overwrite=True"):
        save(linear(2.0), tmp_path, config={"size": 3})
    assert bits(load(tmp_path, Linear)) == bits(linear(1.0))
    save(linear(2.0), tmp_path, config={"size": 3}, overwrite=True)
    assert bits(load(tmp_path, Linear)) == bits(linear(2.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.npz", "words.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_save_leaves_the_old_model(tmp_path, monkeypatch, error):
    save(used_tagger(1), tmp_path, config=CONFIG)
    write, written = np.lib.format.write_array, list[Any]()

    def one_and_no_more(file, array, **options):
        if written:
            raise error
        written.append(array)
        write(file, array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", one_and_no_more)
    with pytest.raises(type(error)):
        save(used_tagger(2), tmp_path, config=CONFIG, overwrite=True)
    assert written and [path.name for path in tmp_path.iterdir()] == ["model.npz"]
    assert bits(load(tmp_path, Tagger)) == bits(used_tagger(1))


def test_a_damaged_file_is_an_error_or_harmless(tmp_path):
    save(linear(2.0), tmp_path, config={"size": 3})
    path, errors = tmp_path / "model.npz", 0
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert bits(load(tmp_path, Linear)) == bits(linear(2.0))
        except ValueError as error:
            assert str(error).startswith("folder: expected a complete file of ")
            errors += 1
    assert errors > len(whole) / 6
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^folder: expected a complete file .*model\.npz"):
            load(tmp_path, Linear)


def rewritten(folder, **changes):
    """Changes the file's description of itself."""
    path = folder / "model.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["model.json"]) | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"model.json": json.dumps(manifest).encode()}).items():
            archive.writestr(name, content)


def test_a_newer_format(tmp_path):
    save(linear(), tmp_path, config={"size": 3})
    rewritten(tmp_path, format=2, seqjax="9.9", dtypes=None)
    with pytest.raises(
        ValueError,
        match=r"^folder: expected a model of format 1, got format 2 in .*seqjax 9\.9 .*newer one$",
    ):
        load(tmp_path, Linear)
    rewritten(tmp_path, format="new")
    with pytest.raises(ValueError, match=r"complete file .*format: expected a positive integer"):
        load(tmp_path, Linear)


def test_no_pickle_is_read(tmp_path):
    save(linear(), tmp_path, config={"size": 3})
    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "a") as archive, archive.open("evil.npy", "w") as file:
        np.lib.format.write_array(file, np.array([print], object), allow_pickle=True)
    rewritten(tmp_path, dtypes={"w": "float32", "evil": "object"})
    with pytest.raises(ValueError, match=r"complete file .*allow_pickle=False"):
        load(tmp_path, Linear)


def test_another_model_names_the_first_path(tmp_path):
    save(linear(size=4), tmp_path, config={"size": 3})
    with pytest.raises(
        ValueError,
        match=r"^folder: expected \[2, 3\] for w, as Linear has it, got \[2, 4\] from .*npz', "
        r"which save_model wrote for the class Linear$",
    ):
        load(tmp_path, Linear)
    with pytest.raises(ValueError, match=r"expected \[3\] for bias, as Linear has it, got nothing"):
        load(tmp_path, lambda size, rngs: nnx.Linear(2, size, rngs=rngs))
    with pytest.raises(ValueError, match=r"expected nothing for w, as Dropout has it, got \[2, 4"):
        load(tmp_path, lambda size, rngs: nnx.Dropout(0.5))


def test_another_class(tmp_path):
    save(linear(), tmp_path, config={"size": 3})
    wrong: Any
    for wrong, found in (
        (Tagger, r"the class Tagger: missing a required argument: 'features'"),
        (Arrays, r"the class Arrays: (got an unexpected|missing a required)"),
        (lambda size: None, r".*got an unexpected keyword argument 'rngs'"),
    ):
        expected = rf"^model_class: expected one that takes size, rngs by name, got {found}"
        with pytest.raises(TypeError, match=expected):
            load(tmp_path, wrong)
    for wrong in (None, linear(), "Linear"):
        with pytest.raises(TypeError, match=r"^model_class: expected a class, got "):
            load(tmp_path, wrong)
    with pytest.raises(TypeError, match=r"^model_class: expected one that gives a flax\.nnx\.Mod"):
        load(tmp_path, lambda size, rngs: "no model")


def test_nothing_there(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"^folder: expected one that .*model\.npz$"):
            load(folder, Linear)
    (tmp_path / "file").write_text("")
    for call in (
        lambda: load(tmp_path / "file", Linear),
        lambda: save(linear(), tmp_path / "file" / "x"),
    ):
        with pytest.raises(ValueError, match=r"^folder: expected a folder, got the file"):
            call()


BAD_VALUES = [
    (3, 3), [(3, 3)], {1: "a"}, np.float32(1.0), np.arange(3), jnp.bfloat16, jnp.ones(2), {3},
    float("nan"), float("inf"), 1j, print, Path("x"),
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_VALUES, ids=str)
def test_a_value_that_json_cannot_hold(tmp_path, value):
    expected = r"^config\['sizes'\]: expected a value that JSON can hold .*, got "
    with pytest.raises(TypeError, match=expected):
        save(linear(), tmp_path, config={"size": 3, "sizes": value})
    assert not list(tmp_path.iterdir())


def test_values_that_json_holds(tmp_path):
    config = {"i": 3, "f": 0.1, "s": "ü", "b": True, "n": None, "l": [1, [2.5]], "d": {"k": {}}}
    given = {}

    def build(*, rngs, **found):
        given.update(found)
        return linear()

    save(linear(), tmp_path, config=config)
    load(tmp_path, build)
    assert repr(given) == repr(config)


def test_mistakes_in_a_call(tmp_path):
    wrong: Any
    model: Any
    for wrong in ([("size", 3)], {3: "size"}, "size"):
        with pytest.raises(TypeError, match=r"^config: expected a dict of arguments by name, got"):
            save(linear(), tmp_path, config=wrong)
    with pytest.raises(ValueError, match=r"^config: expected no 'rngs'"):
        save(linear(), tmp_path, config={"rngs": 0})
    with pytest.raises(TypeError, match=r"^model: expected a flax\.nnx\.Module, got the class Li"):
        save(Linear, tmp_path)
    with pytest.raises(TypeError, match=r"^overwrite: expected"):
        save(linear(), tmp_path, overwrite=1)
    for value in (jax.random.key(0), "text", 3.0):
        model = linear()
        model.w = nnx.Variable(value)
        with pytest.raises(TypeError, match=r"^model: expected arrays of numbers, got .* for w$"):
            save(model, tmp_path)
    model = linear()
    model.part = nnx.Dict({"a/b": nnx.Param(jnp.ones(1)), "a": nnx.Dict(b=nnx.Param(jnp.ones(1)))})
    with pytest.raises(ValueError, match=r"^model: expected names without slashes, got 'part/a/b'"):
        save(model, tmp_path)
    assert not list(tmp_path.iterdir())


SCRIPT = """
    import sys
    from seqjax import training
    from tests.training.test_models import Tagger, digest
    print(digest(training.load_model(sys.argv[1], Tagger)))
"""


def digest(model):
    return hashlib.sha256(repr(sorted(bits(model).items())).encode()).hexdigest()


@pytest.mark.slow
def test_the_same_bits_in_a_new_process(tmp_path):
    save(used_tagger(), tmp_path, config=CONFIG)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest(used_tagger())]
