"""Streams get what they would get alone, whatever others do."""

import logging
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.settings import Settings
from benchmarks.suites import SUITES
from benchmarks.workload import Shape
from seqjax import cells, nn
from seqjax.streaming import Session
from seqjax.streaming import _session as module
from tests.nn.helpers import make, oracle, random, states_of

STREAMS = {"a": random(9, 3, seed=1), "b": random(9, 3, seed=2), "c": random(9, 3, seed=3)}


def lstm() -> Any:
    """A stack of two layers that starts from a learned state."""
    return make(
        cells.LSTM(3, 4), num_layers=2, learned_initial_state=True, residual=True, dropout=0.5
    )


def offline(layer: Any, xs: Any, **options: Any) -> Any:
    """The NumPy twin of one sequence: its outputs, and its final state's leaves."""
    options = {
        name: jax.tree.map(lambda a: np.asarray(a)[None], state) for name, state in options.items()
    }
    outputs, state = oracle("lstm", layer, xs[None], **options)
    return outputs[0], [leaf[0] for leaf in jax.tree.leaves(state)]


def assert_state(state: Any, expected: list[Any]) -> None:
    for leaf, twin in zip(jax.tree.leaves(state), expected, strict=True):
        np.testing.assert_allclose(leaf, twin, atol=1e-6)


def test_streams_that_come_go_and_pause():
    layer = lstm()
    session = Session(layer, capacity=2)
    # At each step the streams that have an input; "c" takes the slot of "a".
    plan = ["a", "ab", "b", "ab", "b", "bc", "c", "bc", "bcd"]
    taken: dict[str, list[Any]] = {}
    finals = {}
    for present in plan:
        if "c" in present and "c" not in session.streams:
            finals["a"] = session.close("a")
        if "d" in present:
            finals["b"], finals["c"] = session.state("b"), session.close("c")
            present = "bd"
        for stream in present:
            if stream not in session.streams:
                assert session.open(stream) == stream
                taken[stream] = []
        given = {s: STREAMS.get(s, STREAMS["a"])[len(taken[s])] for s in present}
        for stream, output in session.step(given).items():
            assert isinstance(output, np.ndarray)
            taken[stream].append(output)
    assert session.capacity == 2
    for stream, xs in {**STREAMS, "d": STREAMS["a"]}.items():
        outputs, _ = offline(layer, xs[: len(taken[stream])])
        np.testing.assert_allclose(taken[stream], outputs, atol=1e-6)
    assert_state(finals["a"], offline(layer, STREAMS["a"][:3])[1])
    assert_state(finals["c"], offline(layer, STREAMS["c"][:3])[1])


def test_others_change_nothing_to_the_bit():
    layer = lstm()
    alone, together = Session(layer, capacity=3), Session(layer, capacity=3)
    alone.open("a")
    for stream in STREAMS:
        together.open(stream)
    for t in range(4):
        found = alone.step({"a": STREAMS["a"][t]})["a"]
        given = {stream: STREAMS[stream][t] for stream in ("abc" if t % 2 else "ba")}
        assert (together.step(given)["a"] == found).all()


def test_nothing_is_compiled_for_other_streams(caplog):
    session = Session(nn.GRU(3, 4, rngs=nnx.Rngs(0)), capacity=3)
    for stream in "ab":
        session.open(stream)
    session.step({"a": np.ones(3)})
    session.close("a")
    with caplog.at_level(logging.WARNING), jax.log_compiles():
        session.open("c")
        session.step({"b": np.ones(3), "c": np.ones(3)})
        session.reset("b")
        session.close("c")
        session.step({"b": np.ones(3)})
    assert "Compiling" not in caplog.text


def test_growing_says_so_and_keeps_every_state():
    layer = lstm()
    session = Session(layer, capacity=1)
    session.open("a")
    session.step({"a": STREAMS["a"][0]})
    with pytest.warns(UserWarning, match="increased from 1 to 2 streams") as caught:
        session.open("b")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="increased from 2 to 4"):
        session.open("c")
    assert session.capacity == 4
    assert session.streams == ("a", "b", "c")
    found = session.step({"a": STREAMS["a"][1], "b": STREAMS["b"][0]})
    np.testing.assert_allclose(found["a"], offline(layer, STREAMS["a"][:2])[0][1], atol=1e-6)
    np.testing.assert_allclose(found["b"], offline(layer, STREAMS["b"][:1])[0][0], atol=1e-6)


def test_nan_stays_in_its_stream_and_leaves_with_it():
    layer = lstm()
    session = Session(layer, capacity=2)
    session.open("a")
    session.open("b")
    found = session.step({"a": np.full(3, np.nan), "b": STREAMS["b"][0]})
    assert np.isnan(found["a"]).any()
    found = session.step({"b": STREAMS["b"][1]})
    np.testing.assert_allclose(found["b"], offline(layer, STREAMS["b"][:2])[0][1], atol=1e-6)
    assert np.isnan(np.asarray(jax.tree.leaves(session.close("a"))[0])).any()
    session.open("c")  # in the same slot
    found = session.step({"c": STREAMS["c"][0]})
    np.testing.assert_allclose(found["c"], offline(layer, STREAMS["c"][:1])[0][0], atol=1e-6)


def test_a_stream_goes_on_from_a_state_and_starts_anew():
    layer = lstm()
    session = Session(layer, capacity=2)
    state = jax.tree.map(lambda a: a[0], states_of(layer, (1,)))
    session.open("a", state=state)
    found = session.step({"a": STREAMS["a"][0]})["a"]
    outputs, final = offline(layer, STREAMS["a"][:1], initial_state=state)
    np.testing.assert_allclose(found, outputs[0], atol=1e-6)
    assert_state(session.state("a"), final)
    session.reset("a")
    found = session.step({"a": STREAMS["a"][0]})["a"]
    np.testing.assert_allclose(found, offline(layer, STREAMS["a"][:1])[0][0], atol=1e-6)


def test_chunks_of_different_lengths(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 4)
    layer = lstm()
    session = Session(layer, capacity=4)
    for stream in STREAMS:
        session.open(stream)
    first = session.feed({"a": STREAMS["a"], "b": STREAMS["b"][:2], "c": STREAMS["c"][:0]})
    assert [len(first[stream]) for stream in "abc"] == [9, 2, 0]
    assert first["c"].shape == (0, 4)
    second = session.feed({"b": STREAMS["b"][2:6], "c": STREAMS["c"][:3].tolist()})
    third = session.step({"c": STREAMS["c"][3]})
    for stream, parts in {
        "a": [first["a"]],
        "b": [first["b"], second["b"]],
        "c": [second["c"], third["c"][None]],
    }.items():
        found = np.concatenate(parts)
        outputs, final = offline(layer, STREAMS[stream][: len(found)])
        np.testing.assert_allclose(found, outputs, atol=1e-6)
        assert_state(session.state(stream), final)
    assert session.feed({}) == session.step({}) == {}


class Tagger(nnx.Module):
    """Tokens to logits, with a recurrent layer between."""

    def __init__(self, rngs):
        self.embedding = nnx.Embed(7, 3, rngs=rngs)
        self.recurrent = nn.GRU(3, 4, rngs=rngs)
        self.readout = nnx.Linear(4, 2, rngs=rngs)

    def initial_state(self, batch_shape):
        return self.recurrent.initial_state(batch_shape)

    def step(self, token, state):
        output, state = self.recurrent.step(self.embedding(token), state)
        return {"logits": self.readout(output)}, state

    def __call__(self, tokens):
        return self.readout(self.recurrent(self.embedding(tokens)).outputs)


def test_models_with_a_head_functions_and_directions():
    model = Tagger(nnx.Rngs(0))
    tokens = np.array([3, 6, 1])
    expected = model(tokens[None])[0]
    session = Session(model, example=jnp.int32(0), capacity=2)
    stream = session.open()
    for t, token in enumerate(tokens):
        found = session.step({stream: token})[stream]["logits"]
        np.testing.assert_allclose(found, expected[t], atol=1e-6)
    found = session.feed({session.open(): tokens})[1]["logits"]
    np.testing.assert_allclose(found, expected, atol=1e-6)

    counting = Session(
        lambda x, n: (x * n[:, None], n + 1), example=np.ones(2), initial_state=1, capacity=2
    )
    counting.open("a")
    assert [counting.step({"a": [1, 2]})["a"].tolist() for _ in range(2)] == [[1, 2], [2, 4]]
    assert counting.close("a") == 3

    direction = model.recurrent.layers[0].forward
    session = Session(direction, capacity=1)
    xs = random(4, 3)
    np.testing.assert_allclose(
        session.feed({session.open(): xs})[0], model.recurrent(xs[None]).outputs[0], atol=1e-6
    )


def test_new_weights_count_at_once():
    layer = nn.GRU(3, 4, rngs=nnx.Rngs(0))
    session = Session(layer, capacity=1)
    session.open("a")
    before = session.step({"a": np.ones(3)})["a"]
    layer.layers[0].forward.b[...] += 1.0
    session.reset("a")
    after = session.step({"a": np.ones(3)})["a"]
    np.testing.assert_allclose(after, layer.step(jnp.ones([1, 3])).outputs[0], atol=1e-6)
    assert not np.allclose(before, after)


def test_a_learned_start_is_that_of_the_present_weights():
    layer = lstm()
    x_t = STREAMS["a"][0]
    for model in (layer, layer.layers[0].forward):
        session = Session(model, capacity=2)
        session.open("a")
        nnx.update(layer, jax.tree.map(lambda p: p + 0.5, nnx.state(layer)))
        session.open("b")
        session.reset("a")
        with pytest.warns(UserWarning, match="increased from"):
            session.open("c")
        found = session.step(dict.fromkeys("abc", x_t))
        if model is layer:
            expected, final = offline(layer, x_t[None])
            np.testing.assert_allclose(found["b"], expected[0], atol=1e-6)
            assert_state(session.state("b"), final)
        else:
            start = model.start((), np.float32)
            output, _ = model.cell.step(model.params, jnp.asarray(x_t), start)
            np.testing.assert_allclose(found["b"], output, atol=1e-6)
        for stream in "ac":
            np.testing.assert_array_equal(found[stream], found["b"])


def test_threads_take_turns():
    layer = lstm()
    session = Session(layer, capacity=3)
    found: dict[str, list[Any]] = {stream: [] for stream in STREAMS}

    def run(stream):
        session.open(stream)
        for x_t in STREAMS[stream]:
            found[stream].append(session.step({stream: x_t})[stream])

    threads = [threading.Thread(target=run, args=(stream,)) for stream in STREAMS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream, xs in STREAMS.items():
        np.testing.assert_allclose(found[stream], offline(layer, xs)[0], atol=1e-6)


def test_mistakes_say_so_and_move_nothing():
    layer = nn.GRU(3, 4, rngs=nnx.Rngs(0))
    session = Session(layer, capacity=2)
    session.open("a")
    session.step({"a": np.ones(3)})
    before = np.asarray(session.state("a")[0])
    good = {"a": np.ones(3)}
    tags = Session(Tagger(nnx.Rngs(0)), capacity=1, example=0)
    tags.open("t")
    for match, call in {
        "stream: expected an open stream, got 'b'": lambda: session.step({**good, "b": 1.0}),
        "expected an open stream, got 'x'": lambda: session.close("x"),
        "expected an open stream, got 'y'": lambda: session.reset("y"),
        "expected a name that is not open, got 'a'": lambda: session.open("a"),
        r"x_t: expected \(3,\) for stream 'a', got \(4,\)": lambda: session.step({"a": np.ones(4)}),
        r"x_t: expected \(3,\) for stream 'a', got \(1, 3\)": lambda: session.step(
            {"a": np.ones([1, 3])}
        ),
        r"xs: expected \(t, 3\) for stream 'a', got \(3,\)": lambda: session.feed(good),
        r"state: expected arrays of \(\(4,\),\)": lambda: session.open("z", state=np.ones(4)),
        "model: expected one direction": lambda: Session(
            nn.GRU(3, 4, bidirectional=True, rngs=nnx.Rngs(0))
        ),
        "model: expected a layer, a module with step": lambda: Session(
            nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        ),
        "capacity: expected a positive integer": lambda: Session(layer, capacity=0),
        "initial_state: expected the state of one stream": lambda: Session(lambda x, s: (x, s)),
        "example: expected the input of one stream": lambda: Session(Tagger(nnx.Rngs(0))),
        "x_t: expected int32 for stream 't', got float64": lambda: tags.step({"t": 1.5}),
        "x_t: expected int32 for stream 't', got bfloat16": lambda: tags.step(
            {"t": jnp.bfloat16(1.5)}
        ),
        "x_t: expected int32 for stream 't', got None": lambda: tags.step({"t": None}),
        "x_t: expected float32 for stream 'a', got complex128": lambda: session.step(
            {"a": np.ones(3) * 1j}
        ),
        r"xs: expected float32 for stream 'a', got \[\['1'": lambda: session.feed(
            {"a": [["1"] * 3]}
        ),
        "xs: expected arrays of float32 for stream 'a'": lambda: session.feed(
            {"a": [[1, 2, 3], [4, 5]]}
        ),
        r"inputs: expected a dict from streams to inputs, got \[\(3,\)\]": lambda: session.step(
            [np.ones(3)]  # type: ignore[arg-type]
        ),
        "inputs: expected a dict from streams to inputs, got None": lambda: session.step(
            None  # type: ignore[arg-type]
        ),
        "inputs: expected a dict from streams": lambda: session.feed(
            np.ones([2, 3])  # type: ignore[arg-type]
        ),
    }.items():
        with pytest.raises((TypeError, ValueError), match=match):
            call()
    assert session.streams == ("a",)
    assert (np.asarray(session.state("a")[0]) == before).all()


@pytest.mark.quick()
def test_the_benchmark_measures_sessions():
    given = Settings(peers={}, repeats=1, shapes=(Shape(3, 1, 4, 5),), cells=("gru",))
    rows = SUITES["sessions"].run(given, lambda text: None)
    assert [row.contestant for row in rows] == ["seqjax", "arrays", "one by one"]
    for row in rows:
        assert row.shape == (3, 1, 4, 5)
        assert len(row.samples_ms) == 1
        assert 0 < row.extra["p50_ms"] <= row.extra["p99_ms"]
        assert row.extra["streams_per_s"] > 0


def identity(example: Any) -> Any:
    """A session whose outputs are its inputs, with one open stream."""
    session = Session(lambda x, state: (x, state), example=example, initial_state=np.zeros(1))
    session.open("a")
    return session


@pytest.mark.parametrize(
    ("example", "x"),
    [
        (np.int32(0), 2**40 + 7),
        (np.int32(0), np.int64(2**32 + 1)),
        (np.int32(0), 2**70),
        (np.uint8(0), 300),
        (np.uint8(0), -1),
        (np.float32(0), 1e39),
        (np.float16(0), 70000),
    ],
)
def test_numbers_that_do_not_fit_are_errors(example, x):
    session = identity(example)
    session.open("b")
    with pytest.raises(
        ValueError, match=r"x_t: .* for stream 'a', got .*, which does not fit into"
    ):
        session.step({"b": 1, "a": x})
    with pytest.raises(ValueError, match=r"xs: .* for stream 'a', got .*, which does not fit into"):
        session.feed({"b": [1], "a": [x, 2]})


def test_numbers_that_fit_arrive_as_they_are():
    assert identity(np.uint8(0)).step({"a": 255})["a"] == 255
    assert identity(np.int32(0)).step({"a": np.int64(-(2**31))})["a"] == -(2**31)
    assert identity(np.float32(0)).step({"a": np.float64(np.inf)})["a"] == np.inf
    assert identity(np.float32(0)).feed({"a": [3, 4]})["a"].tolist() == [3, 4]
    for example in (np.int32(0), np.zeros(3, np.float32)):
        nothing = identity(example).feed({"a": []})["a"]
        assert nothing.shape == (0, *example.shape) and nothing.dtype == example.dtype
    with pytest.raises(TypeError, match="x_t: expected bool for stream 'a', got int"):
        identity(np.bool_(False)).step({"a": 2})


def test_states_that_do_not_fit_are_errors():
    session = Session(lambda n, state: (n, state), example=1, initial_state=np.zeros(1, np.int32))
    for wrong in (np.array([2**40]), np.array([1.5])):
        with pytest.raises((TypeError, ValueError), match="state: expected int32, got"):
            session.open("a", state=wrong)
    others: list[Any] = [np.array([2**40]), 2**40, np.full(1, 1e39), "a"]
    for other in others:
        with pytest.raises((TypeError, ValueError), match="initial_state: expected arrays of"):
            Session(lambda n, state: (n, state), example=1, initial_state=other)


def test_names_of_streams_can_be_hashed():
    session = identity(1)
    for method in (session.open, session.close, session.state, session.reset):
        with pytest.raises(TypeError, match=r"stream: expected a hashable value .*, got \[1\]"):
            method([1])


def test_classes_and_cells_are_no_models():
    with pytest.raises(TypeError, match=r"model: expected a layer, .*, got the class LSTM"):
        Session(nn.LSTM)
    with pytest.raises(TypeError, match=r"model: expected a layer, .*, got the cell GRU"):
        Session(cells.GRU(3, 5))


def test_masked_arrays_are_refused():
    session = Session(nn.GRU(3, 5, rngs=nnx.Rngs(0)))
    session.open("a")
    gappy = np.ma.array(np.ones((2, 3), np.float32), mask=np.eye(2, 3, dtype=bool))
    with pytest.raises(ValueError, match="x_t: expected no masked entries"):
        session.step({"a": gappy[0]})
    with pytest.raises(ValueError, match="xs: expected no masked entries"):
        session.feed({"a": gappy})
    state = np.ma.array(np.ones(5, np.float32), mask=np.arange(5) > 2)
    with pytest.raises(ValueError, match="state: expected no masked entries"):
        session.open("b", state=(state,))


def smooth(x, m):
    return m, 0.5 * m + x


def test_the_state_has_the_dtype_that_the_step_returns():
    starts: list[Any] = [0, np.int8(0), False]
    for start in starts:
        with pytest.raises(TypeError, match=r"initial_state: expected float32, .*, got (int|bool)"):
            Session(smooth, example=np.float32(0), initial_state=start)
    with pytest.raises(TypeError, match=r"initial_state: expected int32, .*, got int8"):
        Session(lambda x, n: (x, n + x), example=1, initial_state=np.int8(0))
    for start in [0.0, np.float16(0)]:
        session = Session(smooth, example=np.float32(0), initial_state=start)
        session.open("a")
        assert [float(session.step({"a": 1.0})["a"]) for _ in range(3)] == [0, 1, 1.5]


@pytest.mark.parametrize("capacity", [1, 3, 16])
def test_steps_of_one_stream_are_refused(capacity):
    def session(step, example: Any = 0.0):
        return Session(step, capacity=capacity, example=example, initial_state=0.0)

    w = np.ones((capacity, capacity), np.float32)
    with pytest.raises(ValueError, match="model: expected a step whose x_t and state have a lead"):
        session(lambda x, h: (w @ x, h), example=np.zeros(capacity, np.float32))
    with pytest.raises(ValueError, match="model: expected outputs with a leading axis of"):
        session(lambda x, h: (jnp.arange(float(capacity)), h))
    with pytest.raises(ValueError, match="model: expected outputs with a leading axis of"):
        session(lambda x, h: (x.sum(), h))
    with pytest.raises(ValueError, match=r"model: .* a state of \(\d+,\) .*, got \(\)"):
        session(lambda x, h: (x, h.sum()))
    with pytest.raises(ValueError, match=r"model: .* a state of \(\d+,\) .*, got \(\(\d+,\),\)"):
        session(lambda x, h: (x, (h,)))


@pytest.mark.parametrize("empty", [None, {}, ()])
def test_steps_without_an_output(empty):
    session = Session(
        lambda x, m: (empty, m + x), capacity=2, example=np.float32(0), initial_state=0.0
    )
    session.open("a")
    session.open("b")
    assert session.step({"a": 1.0}) == {"a": empty}
    assert session.feed({"a": [2.0, 3.0], "b": [1.0]}) == {"a": empty, "b": empty}
    assert (float(session.state("a")), float(session.state("b"))) == (6, 1)


@pytest.mark.parametrize("has_output", [True, False])
def test_a_step_that_fails_changes_no_state(has_output, monkeypatch):
    def checked(a):
        if a.max() > 5:
            raise RuntimeError("too large")
        return np.asarray(a)

    def step(x, m):
        y = jax.pure_callback(checked, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return y if has_output else None, m + y

    session = Session(step, capacity=2, example=np.float32(0), initial_state=0.0)
    session.open("a")
    session.open("b")
    session.step({"a": 1.0, "b": 2.0})
    monkeypatch.setattr(module, "LONGEST", 2)
    for call in (lambda: session.step({"a": 9.0}), lambda: session.feed({"a": [1.0, 1.0, 9.0]})):
        with pytest.raises(Exception, match="too large"):
            call()
    assert (float(session.state("a")), float(session.state("b"))) == (1, 2)
    session.feed({"a": [1.0], "b": [3.0, 1.0]})
    assert (float(session.state("a")), float(session.state("b"))) == (2, 6)


@pytest.mark.filterwarnings("error:capacity")
def test_a_warning_that_is_an_error_leaves_a_session_that_works():
    session = identity(1.0)
    for _ in range(session.capacity - len(session.streams)):
        session.open()
    with pytest.raises(UserWarning, match="increased"):
        session.open("b")
    session.open("b")
    assert session.step({"b": 3})["b"] == 3
