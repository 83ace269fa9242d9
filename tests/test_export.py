"""Exported programs compute what layers and models do, for any size, and without the library."""

import functools
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seqjax
from seqjax import cells, export, kernels, nn, seq2seq
from seqjax.export._plain import named, plain, restored
from seqjax.kernels import target
from seqjax.nn import _layer as layer_module
from tests.nn.helpers import drawn, flat_params, make, oracle, random, resets_of, states_of
from tests.seq2seq.helpers import translator

CPU = ("cpu",)
EVERYWHERE = ("cpu", "cuda", "tpu")


def assert_same(found: Any, layer: Any, expected: Any, atol: float = 1e-6) -> None:
    """Outputs and states by name against `(outputs, state)`, of the layer or of its twin."""
    outputs, state = expected
    np.testing.assert_allclose(found["outputs"], outputs, atol=atol)
    names = list(plain(layer.initial_state(())))
    assert sorted(found["state"]) == sorted(names)
    for name, leaf in zip(names, jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(found["state"][name], leaf, atol=atol, err_msg=name)


@functools.cache
def deep() -> Any:
    """A stack of two layers in both directions, and its program."""
    layer = make(cells.LSTM(3, 4), num_layers=2, bidirectional=True, residual=True, dropout=0.5)
    return layer, export.export_layer(layer, platforms=EVERYWHERE)


@functools.cache
def masked() -> Any:
    """A stack in one direction with masks and resets, and its program."""
    layer = make(cells.GRU(3, 4), num_layers=2, learned_initial_state=True, zoneout=0.0)
    return layer, export.export_layer(layer, padding="mask", resets=True, platforms=EVERYWHERE)


@pytest.mark.quick("3-5")
@pytest.mark.parametrize(("batch", "steps"), [(3, 5), (1, 9)])
def test_a_layer_for_sequences_of_any_size_and_length(batch, steps):
    layer, artifact = deep()
    xs = random(batch, steps, 3)
    lengths = np.array([steps - 2, 0, steps][:batch], np.int32)
    for row, length in enumerate(lengths):
        xs[row, length:] = np.nan
    state = states_of(layer, (batch,))
    found = artifact(xs, lengths, state)
    twin = oracle("lstm", layer, np.nan_to_num(xs), lengths=lengths, initial_state=state)
    assert_same(found, layer, twin)
    assert_same(found, layer, layer(xs, lengths=lengths, initial_state=state, deterministic=True))


def test_a_layer_with_masks_resets_and_a_learned_state():
    layer, artifact = masked()
    xs, resets = random(3, 7, 3), resets_of((3,), 7)
    mask = np.random.default_rng(6).random((3, 7)) < 0.6
    found = artifact(xs, mask, resets, artifact.initial_state([3]))
    assert_same(found, layer, oracle("gru", layer, xs, mask=mask, resets=resets))


def test_programs_for_several_platforms():
    for _, artifact in (deep(), masked()):
        assert artifact.exported.platforms == EVERYWHERE
        assert artifact.manifest["platforms"] == list(EVERYWHERE)


def test_the_state_carries_over_from_chunk_to_chunk():
    layer, artifact = masked()
    xs, some = random(2, 9, 3), np.zeros((2, 9), bool)
    state, outputs = artifact.initial_state([2]), []
    for cut in (slice(0, 4), slice(4, 5), slice(5, 9)):
        found = artifact(xs[:, cut], ~some[:, cut], some[:, cut], state)
        state = found["state"]
        outputs.append(found["outputs"])
    whole = {"outputs": np.concatenate(outputs, axis=1), "state": state}
    assert_same(whole, layer, oracle("gru", layer, xs))


def test_lengths_out_of_range_mean_the_nearest_one():
    layer, artifact = deep()
    xs = random(2, 5, 3)
    lengths = np.array([99, -1], np.int32)
    with pytest.raises(ValueError, match=r"lengths: expected values in \[0, 5\]"):
        artifact(xs, lengths, artifact.initial_state([2]))
    found = artifact.exported.call(
        xs, lengths, artifact.initial_state([2])
    )  # the program by itself
    assert_same(found, layer, oracle("lstm", layer, xs, lengths=[5, 0]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_lengths_of_any_integer_dtype_with_open_sizes(dtype):
    b, t = jax.export.symbolic_shape("b, t")
    spec = (jax.ShapeDtypeStruct((b, t), jnp.float32), jax.ShapeDtypeStruct((b,), dtype))
    artifact = export.export_function(
        lambda xs, lengths: seqjax.sequences.lengths_to_mask(lengths, xs.shape[1]),
        *spec,
        platforms=CPU,
    )
    most = int(np.iinfo(dtype).max)
    found = artifact(np.zeros((2, 300), np.float32), np.array([2, most], dtype))["output"]
    assert found.sum(axis=1).tolist() == [2, min(most, 300)]


def test_a_layer_without_lengths_or_state_and_its_vectors():
    layer = make(cells.Elman(3, 4), bidirectional=True, time_major=True)
    artifact = export.export_layer(
        layer, padding="none", state=False, return_sequences=False, platforms=CPU
    )
    xs = random(6, 2, 3)
    outputs, state = oracle("elman", layer, np.swapaxes(xs, 0, 1))
    found = artifact(xs)
    vectors = np.concatenate([outputs[:, -1, :4], outputs[:, 0, 4:]], axis=-1)
    assert_same(found, layer, (vectors, state))
    assert artifact.state is None
    with pytest.raises(ValueError, match="initial_state: expected a program with a state"):
        artifact.initial_state([2])


def test_steps_equal_the_whole():
    layer = make(cells.LSTM(3, 4), num_layers=2, norm="layer", input_dropout=0.5)
    artifact = export.export_step(layer, platforms=CPU)
    xs = random(2, 4, 3)
    state, outputs = artifact.initial_state([2]), []
    for t in range(4):
        found = artifact(xs[:, t], state)
        outputs.append(found["output"])
        state = found["state"]
    found = {"outputs": np.stack(outputs, axis=1), "state": state}
    assert_same(found, layer, layer(xs, deterministic=True))


def test_weights_as_an_argument(tmp_path):
    layer = make(cells.GRU(3, 4), bidirectional=True)
    artifact = export.export_layer(layer, weights="argument", padding="none", platforms=CPU)
    assert artifact.weights is not None
    assert artifact.weights.keys() == flat_params(layer).keys()
    export.save(tmp_path / "gru.zip", artifact)
    loaded = export.load(tmp_path / "gru.zip")
    xs = random(2, 5, 3)
    assert_same(loaded(xs, loaded.initial_state([2])), layer, oracle("gru", layer, xs))

    other = drawn(lambda: nn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0)), seed=7)
    found = loaded.exported.call(flat_params(other), xs, loaded.initial_state([2]))
    assert_same(found, other, oracle("gru", other, xs))


def test_a_file_says_what_is_in_it_and_keeps_every_dtype(tmp_path):
    layer = nn.LSTM(3, 4, param_dtype=jnp.bfloat16, learned_initial_state=True, rngs=nnx.Rngs(0))
    artifact = export.export_layer(layer, batch=2, weights="argument", platforms=EVERYWHERE)
    export.save(tmp_path / "lstm.zip", artifact)
    loaded = export.load(tmp_path / "lstm.zip")
    assert loaded.manifest == artifact.manifest
    for name in ("weights", "state"):
        kept, found = getattr(artifact, name), getattr(loaded, name)
        assert kept.keys() == found.keys()
        for key in kept:
            assert found[key].dtype == jnp.bfloat16
            assert (found[key] == kept[key]).all()
    manifest = json.loads(zipfile.ZipFile(tmp_path / "lstm.zip").read("manifest.json"))
    assert manifest["seqjax"] == seqjax.__version__
    weights, *rest = manifest["inputs"]
    assert weights["arrays"]["layers.0.forward.w_ih"] == {"shape": [3, 16], "dtype": "bfloat16"}
    leaf = {"shape": [2, 4], "dtype": "bfloat16"}
    assert rest == [
        {"name": "xs", "shape": [2, "t", 3], "dtype": "bfloat16"},
        {"name": "lengths", "shape": [2], "dtype": "int32", "range": [0, "t"]},
        {"name": "state", "arrays": {"0.c": leaf, "0.h": leaf}},
    ]
    assert [entry["name"] for entry in manifest["outputs"]] == ["outputs", "state"]
    assert [path.name for path in tmp_path.iterdir()] == ["lstm.zip"]


ALONE = """
import json, sys, zipfile

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("seqjax", "flax"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())

import jax, numpy as np
from jax import export

with zipfile.ZipFile(sys.argv[1]) as archive:
    program = export.deserialize(bytearray(archive.read("program.stablehlo")))
    manifest = json.loads(archive.read("manifest.json"))
given = np.load(sys.argv[2])
names = manifest["inputs"][-1]["arrays"]
found = jax.jit(program.call)(
    given["xs"], given["lengths"], {name: given["state." + name] for name in names}
)
np.savez(sys.argv[3], outputs=found["outputs"], **found["state"])
assert not {"seqjax", "flax"} & set(sys.modules)
"""


def test_programs_run_where_the_library_cannot_be_imported(tmp_path):
    layer, artifact = deep()
    export.save(tmp_path / "layer.zip", artifact)
    xs, lengths, state = random(2, 5, 3), np.array([5, 2], np.int32), states_of(layer, (2,))
    flat = {f"state.{name}": leaf for name, leaf in plain(state).items()}
    np.savez(tmp_path / "given.npz", xs=xs, lengths=lengths, **flat)
    files = [tmp_path / name for name in ("layer.zip", "given.npz", "found.npz")]
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = dict(np.load(files[2]))
    outputs = found.pop("outputs")
    twin = oracle("lstm", layer, xs, lengths=lengths, initial_state=state)
    assert_same({"outputs": outputs, "state": found}, layer, twin)


def by_hand(model: Any, source: Any, lengths: Any, begin: int, end: int, steps: int) -> Any:
    """Greedy decoding by teacher forcing over what was decoded so far."""
    tokens = np.full((len(source), 1), begin)
    for _ in range(steps):
        logits = np.asarray(model(source, tokens, lengths=lengths, deterministic=True))
        tokens = np.concatenate([tokens, logits[:, -1].argmax(-1)[:, None]], axis=1)
    tokens = tokens[:, 1:]
    ended = np.cumsum(tokens == end, axis=1) > 0
    return np.where(ended, end, tokens), (~ended).sum(axis=1)


@pytest.mark.parametrize("attention", ["additive", "monotonic", "mocha", None])
@pytest.mark.quick()
def test_greedy_decoding(attention):
    model = drawn(
        lambda: translator(attention=attention, dropout=0.3),
        seed=5,
    )
    artifact = export.export_decoding(
        model, begin=2, end=3, max_length=6, alignments=attention is not None,
        platforms=EVERYWHERE,
    )  # fmt: skip
    for batch, steps in ((3, 4), (1, 6)):
        source = np.random.default_rng(1).integers(0, 7, (batch, steps)).astype(np.int32)
        lengths = np.array([steps, 2, 1][:batch], np.int32)
        found = artifact(source, lengths)
        tokens, counts = by_hand(model, source, lengths, 2, 3, 6)
        assert found["tokens"].tolist() == tokens.tolist()
        assert found["lengths"].tolist() == counts.tolist()
        if attention is not None:
            assert found["alignments"].shape == (batch, 6, steps)


@pytest.mark.quick()
def test_beam_search_of_frames():
    model = drawn(
        lambda: seq2seq.Seq2Seq(
            target_vocabulary=9, embed_size=3, hidden_size=5, cell="gru", rngs=nnx.Rngs(0)
        )
    )
    artifact = export.export_decoding(
        model, begin=2, end=3, max_length=6, beam_width=3, platforms=CPU
    )
    source, lengths = random(2, 5, 3), np.array([5, 3], np.int32)
    found = artifact(source, lengths)
    step, state = model.decoding(model.encoder(source, lengths=lengths, deterministic=True))
    expected = seqjax.decoding.beam_search(step, state, begin=2, end=3, max_length=6, beam_width=3)
    assert found["tokens"].tolist() == expected.tokens[:, 0].tolist()
    np.testing.assert_allclose(found["log_probs"], expected.log_probs[:, 0], atol=1e-5)


def test_any_function():
    def function(pair, scale):
        return {"sum": pair["a"] + pair["b"], "pair": (scale, [scale])}

    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    artifact = export.export_function(function, {"a": spec, "b": spec}, spec, platforms="cpu")
    assert [entry["name"] for entry in artifact.manifest["inputs"]] == ["pair", "scale"]
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    found = artifact({"a": one, "b": two}, two)
    assert found["sum"].tolist() == [3, 3]
    assert found["pair"].keys() == {"0", "1.0"}


def test_plain_trees_come_back():
    tree: Any = ({"a": 1, "b": (2, 3)}, 4, nn.Bidirectional(5, 6))
    assert restored(tree, plain(tree)) == tree
    assert plain(plain(tree)) == plain(tree)
    assert named((1, None, 2)) == {"0": 1, "2": 2}
    with pytest.raises(ValueError, match=r"expected different paths, got a\.b twice"):
        plain({"a": {"b": 1}, "a.b": 2})


@pytest.mark.parametrize(
    ("platforms", "steps", "backend", "kernel"),
    [
        (["tpu"], 128, "cpu", "associative"),
        (["cpu"], 128, "gpu", "fused"),
        (["cpu", "tpu"], 128, "gpu", "fused"),
        (["tpu"], "t", "gpu", "fused"),
    ],
)
def test_kernels_are_planned_for_the_platforms_of_the_program(
    monkeypatch, platforms, steps, backend, kernel
):
    plans, real = [], kernels.make_plan

    def spy(*arguments, **options):
        plans.append(real(*arguments, **options))
        return plans[-1]

    monkeypatch.setitem(vars(layer_module), "make_plan", spy)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    layer = make(cells.MinGRU(3, 4))
    export.export_layer(layer, batch=2, steps=steps, platforms=platforms)
    assert [plan.kernel.name for plan in plans] == [kernel]
    # A GPU without CUDA devices is one of AMD's.
    assert target.platforms() == ("rocm" if backend == "gpu" else backend,)


def test_inputs_may_be_numbers_in_lists():
    layer, artifact = deep()
    xs, state = random(2, 5, 3), states_of(layer, (2,))
    found = artifact(xs.tolist(), [4, 2], state)
    assert_same(found, layer, oracle("lstm", layer, xs, lengths=[4, 2], initial_state=state))


def test_wrong_inputs_say_so():
    _, artifact = deep()
    xs, lengths, state = random(2, 5, 3), np.array([4, 2], np.int32), artifact.initial_state([2])
    for match, call in {
        "inputs: expected xs, lengths, state, got 1": lambda: artifact(xs),
        "inputs: expected xs, lengths, state, got 4": lambda: artifact(xs, lengths, state, 1),
        r"lengths: expected int32 \[b\], got None": lambda: artifact(xs, None, state),
        r"lengths: expected int32 \[b\], got float64": lambda: artifact(xs, [4.5, 2], state),
        r"lengths: .*, got \['a', 'b'\]": lambda: artifact(xs, ["a", "b"], state),
        r"lengths: expected int32 \[b\], got float64$": lambda: artifact(xs, lengths / 1, state),
        "lengths: .*, got 4294967297, which does not fit": lambda: artifact(
            xs, [2**32 + 1, 2], state
        ),
        f"lengths: .*, got {2**70}, which does not fit": lambda: artifact(xs, [2**70, 2], state),
        "xs: .*, got 1e\\+39, which does not fit": lambda: artifact(
            np.full((2, 5, 3), 1e39), lengths, state
        ),
        r"lengths: expected int32 \[b\] with b = 2, got \(1,\)": lambda: artifact(
            xs, lengths[:1], state
        ),
        r"xs: expected float32 \[b, t, 3\], got \(2, 5, 2\)": lambda: artifact(
            xs[..., :2], lengths, state
        ),
        r"xs: expected float32 \[b, t, 3\], got \(5, 3\)": lambda: artifact(xs[0], lengths, state),
        r"xs: expected float32 \[b, t, 3\] with t at least 1, got \(2, 0, 3\)": lambda: artifact(
            xs[:, :0], lengths, state
        ),
        r"lengths: expected int32 \[b\] with b at least 1, got \(0,\)": lambda: artifact(
            xs, [], state
        ),
        r"xs: .* got \[\[1\], \[1, 2\]\] \(list\)": lambda: artifact([[1], [1, 2]], lengths, state),
        "state: expected arrays '0.forward.h', .* got None": lambda: artifact(xs, lengths, None),
        "state: expected arrays '0.forward.h', .* got 'c', 'h'": lambda: artifact(
            xs, lengths, {"h": xs, "c": xs}
        ),
        r"state: expected arrays .* got \(2, 4\)": lambda: artifact(xs, lengths, np.ones([2, 4])),
        r"state\.1\.forward\.h: expected float32 \[b, 4\], got None": lambda: artifact(
            xs, lengths, {**state, "1.forward.h": None}
        ),
        "batch_shape: expected a positive integer, got 2.5": lambda: artifact.initial_state(2.5),
        "batch_shape: expected a positive integer, got -1": lambda: artifact.initial_state([-1]),
        "batch_shape: expected a positive integer, got 'ab'": lambda: artifact.initial_state("ab"),
    }.items():
        with pytest.raises((TypeError, ValueError), match=match):
            call()
    np.testing.assert_array_equal(artifact.initial_state(2)["0.forward.h"], state["0.forward.h"])


def test_integers_are_not_narrowed_silently():
    """Programs without a range of their own, where nothing else looks at the values."""
    ids = export.export_function(
        lambda ids: ids, jax.ShapeDtypeStruct((2,), jnp.int32), platforms=CPU
    )
    for given in ([1, 2**40], np.array([1, 2**40]), [np.int64(2**40), 1]):
        with pytest.raises(ValueError, match=r"ids: .*, got 1099511627776, which does not fit"):
            ids(given)
    assert ids([1, 2**31 - 1])["output"].tolist() == [1, 2**31 - 1]
    assert ids(np.array([-(2**31), 3]))["output"].tolist() == [-(2**31), 3]


def test_another_kind_of_model_is_named_by_its_class():
    model: Any = translator()
    layer: Any = nn.LSTM
    for match, call in {
        "layer: expected a seqjax.nn.Recurrent, got Seq2Seq;": lambda: export.export_layer(model),
        "layer: .*, got the class LSTM;": lambda: export.export_step(layer),
        "model: .*, got the class Seq2Seq$": lambda: export.export_decoding(
            seq2seq.Seq2Seq, begin=2, end=3, max_length=4
        ),
    }.items():
        with pytest.raises(TypeError, match=match):
            call()


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"path: expected a file, got the folder"):
        export.load(tmp_path)


def rewritten(path: Any, member: str, data: bytes | str | None) -> None:
    """The file with another member, or without it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, found in members.items():
            if name != member:
                archive.writestr(name, found)
            elif data is not None:
                archive.writestr(name, data)


def test_damaged_files_say_what_is_damaged(tmp_path):
    layer = make(cells.GRU(3, 4), learned_initial_state=True)
    artifact = export.export_step(layer, weights="argument", platforms=CPU)
    path = tmp_path / "gru.zip"
    export.save(path, artifact)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        offsets = {info.filename: info.header_offset for info in archive.infolist()}
        program = archive.read("program.stablehlo")
        manifest = json.loads(archive.read("manifest.json"))
    assert len(offsets) == 4
    swapped, fewer = io.BytesIO(), io.BytesIO()
    np.savez(swapped, other=np.ones(4))
    np.savez(fewer)
    cases: list[tuple[str, bytes | str | None]] = [
        *((member, garbage) for member in offsets for garbage in (b"", b"garbage", None)),
        *(("program.stablehlo", program[: len(program) * n // 8]) for n in range(1, 8)),
        *(("manifest.json", text) for text in (b"[]", b"{}", b"\xff")),
        ("manifest.json", json.dumps({**manifest, "inputs": 3}).encode()),
        ("manifest.json", json.dumps({**manifest, "dtypes": []}).encode()),
        *(
            ("manifest.json", json.dumps({**manifest, part: entries}).encode())
            for part in ("inputs", "outputs")
            for entries in (
                [],
                [1, 2, 3],
                [*manifest[part], manifest[part][0]],
                manifest[part][::-1],
                [{"name": entry["name"]} for entry in manifest[part]],
            )
        ),
        *(
            ("manifest.json", json.dumps({**manifest, "inputs": [*manifest["inputs"][:-1], last]}))
            for entry in manifest["inputs"][-1:]
            for last in ({**entry, "range": [1]}, {**entry, "real_before": "nothing"})
        ),
        ("initial_state.npz", swapped.getvalue()),
        ("initial_state.npz", fewer.getvalue()),
    ]
    for member, data in cases:
        path.write_bytes(whole)
        rewritten(path, member, data)
        with pytest.raises(ValueError, match=rf"path: expected {member} as .*gru\.zip") as caught:
            export.load(path)
        assert caught.value.__cause__ is not None
    for member, offset in offsets.items():
        start = offset + 40 + len(member)
        for place in (start, start + 30):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            with pytest.raises(ValueError, match=rf"path: expected {member} as .*gru\.zip"):
                export.load(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="path: expected a file written by"):
        export.load(path)


def test_saving_from_several_threads_leaves_one_whole_file(tmp_path):
    _, artifact = deep()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(5):
                export.save(tmp_path / "x.zip", artifact)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert export.load(tmp_path / "x.zip").manifest == artifact.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    _, artifact = deep()
    path, link = tmp_path / "file.zip", tmp_path / "link.zip"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="the disk is full"):
        patched.setattr(zipfile.ZipFile, "writestr", full)
        export.save(link, artifact)
    assert path.read_text() == "old"
    export.save(link, artifact)
    assert link.is_symlink()
    assert export.load(path).manifest == artifact.manifest
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [path, link]


def full(*_):
    raise OSError("the disk is full")


def test_only_files_are_replaced(tmp_path):
    _, artifact = deep()
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", os.devnull):
        with pytest.raises(ValueError, match="path: expected a file or a new path, got"):
            export.save(path, artifact)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_what_cannot_be_exported_says_so(tmp_path):
    layer = nn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0))
    model: Any = translator(attention=None)
    spec = jax.ShapeDtypeStruct((2,), jnp.float32)
    decode: Any = {"begin": 2, "end": 3, "max_length": 6}
    for match, call in {
        r"layer: expected a seqjax.nn.Recurrent, got": lambda: export.export_layer(model),
        "layer: expected one direction": lambda: export.export_step(layer),
        "platforms: expected one of cpu, .*; pass 'cuda'": lambda: export.export_layer(
            layer, platforms=["gpu"]
        ),
        "platforms: expected at least one": lambda: export.export_layer(layer, platforms=[]),
        "padding: expected one of": lambda: export.export_layer(layer, padding="masks"),
        "weights: expected one of": lambda: export.export_layer(layer, weights="baked"),
        "weights: expected 'constants' without a model": lambda: export.export_function(
            abs, spec, weights="argument"
        ),
        "function: expected a function": lambda: export.export_function(3, spec),  # type: ignore
        "model: expected a seqjax.seq2seq": lambda: export.export_decoding(layer, **decode),
        "alignments: expected False": lambda: export.export_decoding(
            model, alignments=True, **decode
        ),
        "length_penalty: expected 0": lambda: export.export_decoding(
            model, length_penalty=1.0, **decode
        ),
        "artifact: expected an Artifact": lambda: export.save(tmp_path / "x", layer),  # type: ignore
        "path: expected a file written by": lambda: export.load(__file__),
        "steps: expected a name not used before, got 't' twice": lambda: export.export_layer(
            layer, batch="t"
        ),
        "steps: expected a name not used before, got 'b' twice": lambda: export.export_decoding(
            model, steps="b", **decode
        ),
        "batch: expected a positive integer, got True": lambda: export.export_layer(
            layer, batch=True
        ),
        "batch: expected a positive integer, got -1": lambda: export.export_step(
            nn.GRU(3, 4, rngs=nnx.Rngs(0)), batch=-1
        ),
        "steps: expected a name or a positive integer, got '2, t'": lambda: export.export_layer(
            layer, steps="2, t"
        ),
        "batch: expected a name or a positive integer, got 'max'": lambda: export.export_layer(
            layer, batch="max"
        ),
        "batch: expected a name or a positive integer, got '_'": lambda: export.export_layer(
            layer, batch="_"
        ),
        "steps: expected a name or a positive integer, got 'floordiv'": lambda: export.export_layer(
            layer, steps="floordiv"
        ),
        "platforms: expected a list of names, got None": lambda: export.export_layer(
            layer,
            platforms=None,  # type: ignore[arg-type]
        ),
        "platforms: expected a list of names, got 3": lambda: export.export_layer(
            layer,
            platforms=3,  # type: ignore[arg-type]
        ),
        "platforms: expected different names, got 'cpu' twice": lambda: export.export_layer(
            layer, platforms=["cpu", "cpu"]
        ),
        r"result: expected names that are different as text, got \[1, '1'\]": lambda: (
            export.export_function(lambda x: {1: x, "1": x + 1}, spec)
        ),
    }.items():
        with pytest.raises((TypeError, ValueError), match=match):
            call()


def test_a_missing_flatbuffers_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(ImportError, match=r"pip install 'seqjax\[export\]'"):
        export.load(tmp_path / "x")


def test_masked_arrays_are_refused():
    layer = nn.GRU(3, 5, rngs=nnx.Rngs(0))
    artifact = export.export_layer(layer, platforms=CPU)
    xs, lengths = np.ones((2, 3, 3), np.float32), np.array([3, 2], np.int32)
    gappy = np.ma.array(xs, mask=xs == 1)
    with pytest.raises(ValueError, match="xs: expected no masked entries"):
        artifact(gappy, lengths, artifact.initial_state(2))
    with pytest.raises(ValueError, match="lengths: expected no masked entries"):
        artifact(xs, np.ma.array(lengths, mask=[False, True]), artifact.initial_state(2))


@pytest.mark.parametrize("state", [{}, [], (), None])
def test_an_empty_state_is_refused(state):
    artifact = export.export_step(nn.GRU(3, 5, rngs=nnx.Rngs(0)), platforms=CPU)
    with pytest.raises((TypeError, ValueError), match="state: expected arrays '0'; got"):
        artifact(np.ones((1, 3), np.float32), state)


def test_an_input_without_arrays():
    def function(x, nothing):
        assert nothing == ()
        return 2 * x

    artifact = export.export_function(function, jax.ShapeDtypeStruct((2,), "float32"), ())
    assert artifact(np.ones(2, np.float32), ())["output"].tolist() == [2, 2]


@pytest.mark.parametrize("spec", [3, "float32", [1.0, 2.0]])
def test_specs_that_are_no_arrays(spec):
    layer = nn.GRU(3, 5, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"specs: expected arrays or jax\.ShapeDtypeStruct, got"):
        export.export_function(lambda model, x: x, spec, model=layer)


def test_dtypes_are_those_that_jax_uses():
    (b,) = jax.export.symbolic_shape("b")
    example = np.array([[1.0, 2.0], [3.0, 4.0]])
    artifact = export.export_function(lambda x: 2 * x, example, platforms=CPU)
    assert artifact.manifest["inputs"] == [{"name": "x", "shape": [2, 2], "dtype": "float32"}]
    assert artifact(example)["output"].tolist() == [[2, 4], [6, 8]]
    spec = jax.ShapeDtypeStruct((b,), np.int64)
    artifact = export.export_function(lambda x: 2 * x, spec, platforms=CPU)
    for dtype in (np.int32, np.int64):
        assert artifact(np.arange(3, dtype=dtype))["output"].tolist() == [0, 2, 4]
    artifact = export.export_function(
        lambda m, x: m["w"] * x + m["b"],
        jax.ShapeDtypeStruct((b,), np.float32),
        model={"w": np.float64(2), "b": 1.0},
        weights="argument",
        platforms=CPU,
    )
    weights = artifact.weights or {}
    assert {name: a.dtype for name, a in weights.items()} == {"w": np.float32, "b": np.float32}
    assert artifact(np.ones(2, np.float32))["output"].tolist() == [3, 3]


class Tagger(nnx.Module):
    """A model with a dropout layer, which contains a random key."""

    def __init__(self, rngs):
        self.recurrent = nn.GRU(3, 40, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, xs):
        return self.drop(self.recurrent(xs).outputs)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_random_keys_are_no_arguments(tmp_path, quantize):
    model = Tagger(nnx.Rngs(0))
    model.eval()
    xs = random(2, 5, 3)
    artifact = export.export_function(
        lambda model, xs: model(xs),
        xs,
        model=model,
        weights="argument",
        quantize=quantize,
        platforms=CPU,
    )
    assert not any("key" in name for name in artifact.weights or {})
    export.save(tmp_path / "a.zip", artifact)
    found = export.load(tmp_path / "a.zip")(xs)["output"]
    np.testing.assert_allclose(found, model(xs), atol=0.05 if quantize else 1e-6)


def test_artifacts_are_functions_with_a_short_text():
    artifact = export.export_layer(
        nn.GRU(3, 4, rngs=nnx.Rngs(0)), weights="argument", platforms=CPU
    )
    other = export.export_layer(nn.GRU(3, 4, rngs=nnx.Rngs(0)), weights="argument", platforms=CPU)
    assert artifact == artifact and artifact != other
    assert len({artifact, other, artifact}) == 2
    assert repr(artifact) == (
        "Artifact(kind='layer', inputs=['weights', 'xs', 'lengths', 'state'], "
        "outputs=['outputs', 'state'], platforms=['cpu'])"
    )
    xs, lengths = random(2, 5, 3), np.array([5, 3], np.int32)
    state = artifact.initial_state(2)
    np.testing.assert_allclose(
        jax.jit(artifact)(xs, lengths, state)["outputs"],
        artifact(xs, lengths, state)["outputs"],
        atol=1e-6,
    )


def test_files_of_another_format_are_refused(tmp_path):
    path = tmp_path / "gru.zip"
    export.save(path, export.export_step(nn.GRU(3, 4, rngs=nnx.Rngs(0)), platforms=CPU))
    manifest = export.load(path).manifest
    rewritten(path, "manifest.json", json.dumps({**manifest, "format": 2}))
    with pytest.raises(
        ValueError, match=r"manifest\.json .* expected the format 1, got 2; a newer"
    ):
        export.load(path)
