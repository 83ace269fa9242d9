"""The loop: what it returns, that one seed fixes it, its mistakes, and what it shows."""

import functools
import io
import itertools
import json
import math
import re
import struct
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console
from flax import nnx

from seqjax import data, metrics, nn, training
from seqjax.training._progress import Progress


class Model(nnx.Module):
    def __init__(self, rngs):
        self.inner = nnx.Linear(2, 8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)
        self.outer = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x, rngs=None):
        return self.outer(self.dropout(jnp.tanh(self.inner(x)), rngs=rngs))[..., 0]


def loss_fn(model, batch, rngs):
    errors = model(batch["x"], rngs=rngs) - batch["y"]
    return jnp.mean(errors**2), {"bias": errors.mean()}


def metric_fn(model, batch):
    return {"error": metrics.mean_squared_error(model(batch["x"]), batch["y"])}


def measure(model, batches):
    """The metrics of a trained model."""
    step = training.make_eval_step(model, metric_fn)
    return training.evaluate(step, training.init_state(model, optax.identity()), batches)


def make_batches(number=4, size=8):
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(number, size, 2)).astype(np.float32)
    return [{"x": x, "y": x[:, 0] - x[:, 1]} for x in xs]


def run(batches=None, **options):
    options = {"epochs": 2, "progress": False, **options}
    optimizer = options.pop("optimizer", training.optimizer(0.01))
    loss = options.pop("loss_fn", loss_fn)
    train_batches = make_batches() if batches is None else batches
    return training.fit(Model(nnx.Rngs(0)), loss, optimizer, train_batches, **options)


def bits(result):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.state.params)]


def without_time(history):
    return [{key: record[key] for key in record if key != "seconds"} for record in history]


def test_one_seed_fixes_everything():
    one, same, other = run(seed=1), run(seed=1), run(seed=2)
    assert bits(one) == bits(same)
    assert without_time(one.history) == without_time(same.history)
    assert bits(one) != bits(other)


def test_the_loop_is_nothing_but_steps():
    batches = make_batches()
    model, optimizer = Model(nnx.Rngs(0)), training.optimizer(0.01)
    state = training.init_state(model, optimizer)
    train_step = training.make_train_step(model, loss_fn, optimizer)
    reported = []
    for batch in batches + batches:
        state, numbers = train_step(state, batch, jax.random.key(3))
        reported.append({name: float(value) for name, value in numbers.items()})
    result = run(batches, optimizer=optimizer, seed=3)
    for one, other in zip(
        jax.tree.leaves(result.state.params), jax.tree.leaves(state.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    for record, steps in zip(result.history, (reported[:4], reported[4:]), strict=True):
        for name in ("loss", "grad_norm", "bias"):
            expected = np.mean([numbers[name] for numbers in steps])
            np.testing.assert_allclose(record[name], expected, rtol=1e-5)


def test_history_and_result():
    seen, steps = [], []
    result = run(
        epochs=3,
        eval_batches=make_batches(2),
        metric_fn=metric_fn,
        on_epoch_end=lambda record, state: seen.append((record, int(state.step))),
        on_step_end=lambda step, state: steps.append((step, int(state.step))),
    )
    assert steps == [(n, n) for n in range(1, 13)]
    assert [record["epoch"] for record in result.history] == [1, 2, 3]
    assert [record["step"] for record in result.history] == [4, 8, 12]
    assert seen == [(record, record["step"]) for record in result.history]
    keys = ["epoch", "step", "loss", "bias", "grad_norm", "skipped", "seconds", "eval_error"]
    assert list(result.history[0]) == keys
    assert all(isinstance(value, int | float) for value in result.history[0].values())
    # The model is the trained one, ready to be used, and what was measured last is what it does.
    assert result.model.dropout.deterministic
    eval_step = training.make_eval_step(result.model, metric_fn)
    measured = training.evaluate(eval_step, result.state, make_batches(2))
    assert measured["error"] == result.history[-1]["eval_error"]
    batch = make_batches(2)
    xs, ys = (np.concatenate([part[name] for part in batch]) for name in "xy")
    np.testing.assert_allclose(np.mean((result.model(xs) - ys) ** 2), measured["error"], rtol=1e-5)


def test_it_learns():
    result = run(epochs=40, optimizer=training.optimizer(0.02, clip_norm=1.0))
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


@pytest.mark.quick()
def test_a_mean_among_the_metrics_is_weighted_by_its_count():
    def counting(model, batch, rngs):
        hits = metrics.Mean.of(batch["y"] > 0)
        return loss_fn(model, batch, rngs)[0], {"positive": hits}

    batches = make_batches()
    batches[1] = {name: array[:3] for name, array in batches[1].items()}
    result = run(batches, loss_fn=counting, epochs=1)
    expected = np.mean(np.concatenate([batch["y"] for batch in batches]) > 0)
    assert result.history[0]["positive"] == pytest.approx(expected, rel=1e-6)


def test_batches_from_a_function_of_the_epoch():
    asked = []

    def batches(epoch):
        asked.append(epoch)
        return iter(make_batches()[: epoch + 1])

    result = run(batches, epochs=3)
    assert asked == [0, 1, 2]
    assert [record["step"] for record in result.history] == [1, 3, 6]


def test_the_model_given_is_left_alone():
    model = Model(nnx.Rngs(0))
    before = jax.tree.map(np.array, nnx.as_pure(nnx.state(model)))
    training.fit(model, loss_fn, training.optimizer(0.1), make_batches(), epochs=2, progress=False)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.as_pure(nnx.state(model)))
    assert not model.dropout.deterministic


def test_the_host_does_not_wait_at_each_step(monkeypatch):
    fetches = []
    device_get = jax.device_get

    def counted(tree):
        fetches.append(tree)
        return device_get(tree)

    monkeypatch.setattr(jax, "device_get", counted)
    run(make_batches(50), epochs=2)
    assert len(fetches) == 3  # after the first step, and at the end of each epoch


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batches": []}, ValueError, "train_batches: expected batches, got none in epoch 0"),
        ({"batches": lambda epoch: []}, ValueError, "train_batches: .*got none in epoch 0"),
        ({"batches": 3}, TypeError, "train_batches: expected an iterable of batches.*got 3"),
        ({"batches": iter(make_batches())}, ValueError, "train_batches: .*each of 2 epochs"),
        ({"epochs": 0}, ValueError, "epochs: expected a positive integer, got 0"),
        (
            {"epochs": None},
            ValueError,
            "epochs, steps: expected exactly one of them, got None and None",
        ),
        ({"steps": 3}, ValueError, "epochs, steps: expected exactly one of them, got 2 and 3"),
        ({"prefetch": -1}, ValueError, "prefetch: expected an integer of at least 0, got -1"),
        ({"logs": ["a.jsonl"]}, TypeError, r"logs\[0\]: expected a function .*got 'a.jsonl'"),
        ({"eval_batches": []}, ValueError, "eval_batches, metric_fn: .*eval_batches alone"),
        ({"metric_fn": metric_fn}, ValueError, "eval_batches, metric_fn: .*metric_fn alone"),
        (
            {"metric_fn": metric_fn, "eval_batches": []},
            ValueError,
            "eval_batches: expected at least one batch",
        ),
        (
            {"metric_fn": metric_fn, "eval_batches": lambda epoch: []},
            ValueError,
            "^eval_batches: expected at least one batch, got none",
        ),
        ({"batches": lambda: []}, TypeError, r"train_batches: expected a function of \(epoch\)"),
        (
            {"metric_fn": metric_fn, "eval_batches": lambda: []},
            TypeError,
            r"eval_batches: expected a function of \(epoch\)",
        ),
        (
            {"on_epoch_end": lambda record: None},
            TypeError,
            r"on_epoch_end: expected a function of \(record, state\)",
        ),
        (
            {"on_step_end": lambda step: None},
            TypeError,
            r"on_step_end: expected a function of \(step, state\)",
        ),
        (
            {"on_epoch_end": lambda record, state: record.clear()},
            ValueError,
            "on_epoch_end: expected a record that still has 'epoch', got none",
        ),
        (
            {"on_epoch_end": lambda record, state: record.update(a=np.ones(3))},
            TypeError,
            r"on_epoch_end: expected values .* JSON can represent, got .* for 'a'",
        ),
        ({"loss_fn": lambda model, batch, rngs: (batch["y"], {})}, ValueError, r"got float32\[8\]"),
    ],
)
def test_mistakes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_an_iterator_will_do_for_one_epoch():
    assert run(iter(make_batches()), epochs=1).history[0]["step"] == 4


def test_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):  # with which rich takes anything for a terminal
        monkeypatch.delenv(name, raising=False)
    run(epochs=3, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 3 and "\x1b" not in captured.err
    for epoch, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {epoch}/3  step {4 * epoch}  loss ")
        assert re.search(r"grad_norm [\d.e+-]+ ", line) and re.search(r"[\d.e+]+ steps/s", line)
    assert lines[0].endswith(" left") and not lines[-1].endswith(" left")


def test_nothing_is_shown_when_not_asked_for(capsys):
    run(progress=False)
    assert capsys.readouterr() == ("", "")


def tick(monkeypatch, *, seconds):
    """Gives the progress display a clock that goes on by so much at each look."""
    clock = itertools.count(0.0, seconds)
    fake = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("seqjax.training._progress.time", fake)


def test_a_live_bar_on_a_terminal(monkeypatch):
    """Numbers, speed and the time left are in the bar; each epoch leaves a line behind."""
    tick(monkeypatch, seconds=1.0)
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True, width=120)
    with Progress(2, console=console) as progress:
        for epoch in (1, 2):
            progress.begin_epoch(5)
            for _ in range(5):
                if progress.advance():
                    progress.show({"loss": 0.25, "grad_norm": math.pi})
            progress.end_epoch({"epoch": epoch, "step": 5 * epoch, "loss": 0.125})
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue())
    assert re.search(r"epoch 1/2  step 5  loss 0.25  grad_norm 3.142  \S+ steps/s  0:00:\d\d", text)
    assert "epoch 1/2  step 5  loss 0.125" in text and "epoch 2/2  step 10  loss 0.125" in text


def test_evaluation_does_not_count_for_the_speed(monkeypatch):
    now = 0.0
    fake = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("seqjax.training._progress.time", fake)
    file = io.StringIO()
    with Progress(1, console=rich.console.Console(file=file)) as progress:
        progress.begin_epoch(5)
        for _ in range(5):  # the first, whose time is the compiler's, does not count either
            now += 10.0 if now == 0.0 else 2.0
            progress.advance()
        progress.stop_clock()
        now += 1000.0
        progress.end_epoch({"epoch": 1, "step": 5})
    assert file.getvalue() == "epoch 1/1  step 5  0.5 steps/s\n"


def test_a_long_epoch_shows_signs_of_life_in_a_log(monkeypatch):
    tick(monkeypatch, seconds=8.0)
    file = io.StringIO()
    console = rich.console.Console(file=file)
    with Progress(1, console=console) as progress:
        progress.begin_epoch(None)
        shown = 0
        for _ in range(20):
            if progress.advance():
                progress.show({"loss": 1.0})
                shown += 1
    assert 3 <= shown <= 8
    assert len(file.getvalue().splitlines()) == shown


def test_the_bar_goes_away_after_an_error():
    file = io.StringIO()
    console = rich.console.Console(file=file, force_terminal=True)
    with pytest.raises(RuntimeError, match="boom"), Progress(1, console=console) as progress:
        progress.begin_epoch(3)
        raise RuntimeError("boom")
    assert file.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # cursor back, line gone


@pytest.mark.two_devices
def test_two_devices_give_what_one_gives():
    ragged = [*make_batches(), *make_batches(1, 7)]
    one, two = (
        run(ragged, eval_batches=ragged, metric_fn=metric_fn),
        run(ragged, eval_batches=ragged, metric_fn=metric_fn, devices=2),
    )
    assert all(len(leaf.sharding.device_set) == 2 for leaf in jax.tree.leaves(two.state.params))
    for a, b in zip(without_time(one.history), without_time(two.history), strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="devices: expected at most 2"):
        run(devices=3)


def test_steps_instead_of_epochs():
    whole = run(epochs=3)
    assert bits(run(epochs=None, steps=12)) == bits(whole)
    seven = run(epochs=None, steps=7, eval_batches=make_batches(1), metric_fn=metric_fn)
    assert [record["step"] for record in seven.history] == [4, 7]
    assert int(seven.state.step) == 7 and "eval_error" in seven.history[-1]
    endless = run(itertools.cycle(make_batches()), epochs=None, steps=7)
    assert bits(endless) == bits(seven) and len(endless.history) == 1
    with pytest.raises(ValueError, match="expected batches, got none in epoch 1"):
        run(iter(make_batches()), epochs=None, steps=7)


@pytest.mark.quick()
def test_steps_end_where_they_should_after_going_on(tmp_path):
    whole = run(epochs=None, steps=10)

    def stopping(epoch):
        for index, batch in enumerate(make_batches()):
            if (epoch, index) == (1, 3):
                raise KeyboardInterrupt
            yield batch

    with training.Checkpoints(tmp_path, every=2) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            run(stopping, epochs=None, steps=10, checkpoints=checkpoints)
        for _ in range(2):  # the second time nothing is left to do
            again = run(epochs=None, steps=10, checkpoints=checkpoints, resume=True)
            assert bits(again) == bits(whole)
            assert without_time(again.history) == without_time(whole.history)


def poisoned(*indices):
    batches = make_batches()
    for index in indices:
        batches[index] = batches[index] | {"y": np.full(8, np.nan, np.float32)}
    return batches


@pytest.mark.quick()
def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path):
    log = tmp_path / "history.jsonl"
    with pytest.warns(UserWarning, match="1 of 4 steps of epoch 1 were skipped: their loss"):
        bad = run(poisoned(2), epochs=1, logs=[training.JsonLines(log)])
    assert bad.history[0]["skipped"] == 1 and bad.history[0]["step"] == 4
    assert math.isfinite(bad.history[0]["loss"]) and json.loads(log.read_text())["skipped"] == 1
    # What is left is a run in which that step made no update.
    batches = make_batches()
    state = training.init_state(Model(nnx.Rngs(0)), training.optimizer(0.01))
    train_step = training.make_train_step(Model(nnx.Rngs(0)), loss_fn, training.optimizer(0.01))
    losses = []
    for index, batch in enumerate(batches):
        if index == 2:
            state = state._replace(step=state.step + 1)
            continue
        state, measured = train_step(state, batch, jax.random.key(0))
        losses.append(float(measured["loss"]))
    assert bits(bad) == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]
    assert bad.history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    with pytest.raises(FloatingPointError, match="all 4 of 4 steps of epoch 1"):
        run(poisoned(0, 1, 2, 3))


def test_an_update_that_is_not_finite_is_skipped_too():
    with pytest.warns(UserWarning, match="1 of 4 steps"):
        schedule = lambda step: jnp.where(step == 3, jnp.inf, 0.01)  # noqa: E731
        result = run(epochs=1, optimizer=optax.sgd(schedule))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))


@pytest.mark.parametrize(("scale", "clip_norm"), [(1e20, None), (1e20, 1.0), (1e25, 1.0)], ids=str)
def test_a_gradient_that_overflows_in_the_optimiser_is_skipped(scale, clip_norm):
    """The second moment of Adam would be infinite, or the norm by which gradients are clipped."""

    def scaled(model, batch, rngs):
        loss, metrics = loss_fn(model, batch, None)
        return loss * batch["scale"], metrics

    def without_dropout(rngs):
        model = Model(rngs)
        model.dropout.rate = 0.0
        return model

    batches = [batch | {"scale": np.float32(1)} for batch in make_batches()]
    large = batches[0] | {"scale": np.float32(scale)}
    optimizer = training.optimizer(0.01, clip_norm=clip_norm)
    fit = functools.partial(
        training.fit, without_dropout(nnx.Rngs(0)), scaled, optimizer, epochs=1, progress=False
    )
    with pytest.warns(UserWarning, match="1 of 5 steps of epoch 1 were skipped: .*optimiser state"):
        result = fit([large, *batches])
    assert result.history[0]["skipped"] == 1 and math.isfinite(result.history[0]["grad_norm"])
    assert bits(result) == bits(fit(batches))


def test_an_optimiser_state_that_begins_with_infinity_is_not_refused():
    plateau = optax.contrib.reduce_on_plateau(patience=3)
    result = run(epochs=1, optimizer=optax.chain(optax.adam(0.01), plateau))
    assert result.history[0]["skipped"] == 0
    assert math.isinf(plateau.init({"w": jnp.zeros(1)}).best_value)  # type: ignore[attr-defined]


def test_a_run_without_an_update_is_told_of(recwarn):
    model = Model(nnx.Rngs(0))
    with pytest.warns(UserWarning, match=r"optimizer: .* at least one update, got none in 8 steps"):
        result = run(optimizer=training.optimizer(0.1, accumulate=9))
    np.testing.assert_array_equal(result.model.inner.kernel[...], model.inner.kernel[...])
    recwarn.clear()
    run(optimizer=training.optimizer(0.1, accumulate=8))
    assert not recwarn


@pytest.mark.quick()
def test_accumulated_gradients_are_those_of_one_batch():
    batches = make_batches()
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in itertools.pairwise(batches)
    ][::2]

    def no_dropout(model, batch, rngs):
        model.eval()
        return loss_fn(model, batch, None)

    options = {"loss_fn": no_dropout, "epochs": 2}
    small = run(batches, optimizer=training.optimizer(0.01, clip_norm=0.1, accumulate=2), **options)
    large = run(joined, optimizer=training.optimizer(0.01, clip_norm=0.1), **options)
    for a, b in zip(*(jax.tree.leaves(r.state.params) for r in (small, large)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.quick()
def test_the_average_of_the_weights_is_measured_and_returned():
    kernels = []

    def remember(record, state):
        kernels.append(np.asarray(state.params["inner"]["kernel"]).copy())

    options = {
        "optimizer": training.optimizer(0.05, average=0.5), "on_epoch_end": remember, "epochs": 4,
        "eval_batches": make_batches(2), "metric_fn": metric_fn,
    }  # fmt: skip
    result = run(make_batches(1), **options)
    mean = kernels[0]
    for n, kernel in enumerate(kernels[1:], start=1):
        keep = min(0.5, n / (n + 1))
        mean = keep * mean + (1 - keep) * kernel
    np.testing.assert_allclose(result.model.inner.kernel[...], mean, rtol=1e-6)
    assert not np.allclose(mean, kernels[-1], rtol=1e-3)
    measured = measure(result.model, make_batches(2))
    assert result.history[-1]["eval_error"] == pytest.approx(measured["error"], rel=1e-6)
    best = run(make_batches(1), monitor=training.Monitor("eval_error", "max"), **options)
    first = measure(best.model, make_batches(2))["error"]
    assert first == pytest.approx(best.best["eval_error"], rel=1e-6)


def test_logs_get_the_history_and_hold_it_once(tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    path = tmp_path / "logs" / "history.jsonl"
    logs = [training.JsonLines(path), training.TensorBoard(tmp_path / "board")]
    result = run(epochs=3, logs=logs)
    assert [json.loads(line) for line in path.read_text().splitlines()] == result.history
    [events] = (tmp_path / "board").iterdir()
    scalars = {}
    raw = events.read_bytes()
    while raw:  # length, its checksum, an event, its checksum
        (length,) = struct.unpack("<Q", raw[:8])
        event = tensorboard.proto.event_pb2.Event.FromString(raw[12 : 12 + length])
        raw = raw[16 + length :]
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
    assert scalars["loss", 12] == pytest.approx(result.history[-1]["loss"])
    assert {step for name, step in scalars if name == "loss"} == {4, 8, 12}
    odd: Any = {"epoch": 1, "loss": np.float32("nan"), "best": np.float32(2)}
    training.JsonLines(path)([odd])
    assert json.loads(path.read_text()) == {"epoch": 1, "loss": None, "best": 2.0}
    with pytest.raises(ValueError, match="path: expected a file or a new path, got a folder"):
        training.JsonLines(tmp_path)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_tokens_a_second_are_those_that_are_real(prefetch, monkeypatch, capsys):
    lengths = np.array([3, 1], np.int32)
    assert Progress.tokens({"lengths": lengths}) == 4
    assert Progress.tokens({"source_lengths": lengths, "target_lengths": lengths + 1}) == 10
    assert Progress.tokens({"mask": np.array([[True, False]])}) == 1
    assert Progress.tokens({"x": lengths}) == Progress.tokens(lengths) == 0
    tick(monkeypatch, seconds=1.0)
    counted = [batch | {"lengths": np.full(8, 5, np.int32)} for batch in make_batches()]
    run(counted, epochs=1, progress=True, prefetch=prefetch)
    # Three steps after the first, at a clock that goes on by a second at each look.
    found = re.search(r"([\d.]+) steps/s  (\d+) tokens/s", capsys.readouterr().err)
    assert found and float(found[2]) == 40 * float(found[1]) > 0


def test_batches_made_ready_ahead_change_nothing():
    assert bits(run(prefetch=2)) == bits(run())


@pytest.mark.two_devices
def test_batches_made_ready_ahead_change_nothing_on_two_devices():
    assert bits(run(prefetch=1, devices=2)) == bits(run(devices=2))


@pytest.mark.quick()
def test_mixed_precision_computes_in_bfloat16_and_keeps_parameters_in_float32():
    class Mixed(nnx.Module):
        def __init__(self):
            self.recurrent = nn.GRU(2, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
            self.head = nnx.Linear(8, 1, rngs=nnx.Rngs(1))

        def __call__(self, x):
            outputs = self.recurrent(x[:, None]).outputs
            assert outputs.dtype == jnp.bfloat16
            return self.head(outputs.astype(jnp.float32))[:, 0, 0]

    def mixed_loss(model, batch, rngs):
        return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}

    result = training.fit(
        Mixed(), mixed_loss, training.optimizer(0.02), make_batches(), epochs=15, progress=False
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(result.state.params)} == {jnp.dtype("float32")}
    assert result.history[-1]["loss"] < 0.5 * result.history[0]["loss"]


def test_batches_with_a_seed_are_in_a_new_order_in_each_epoch():
    made = data.batches(
        {"x": [[float(n)] * 3 for n in range(8)]}, batch_size=2, sequence_keys=(), seed=0
    )
    seen: list[Any] = []

    def loss_fn(model, batch, rngs):
        jax.debug.callback(lambda x: seen.append(x[:, 0].tolist()), batch["x"])
        return (model(batch["x"]) ** 2).mean(), {}

    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    training.fit(model, loss_fn, optax.sgd(0.0), made, epochs=2, progress=False)
    jax.effects_barrier()
    expected = [[batch["x"][:, 0].tolist() for batch in made.at_epoch(e)] for e in range(2)]
    assert sorted(seen) == sorted(expected[0] + expected[1])
    assert sorted(expected[0]) != sorted(expected[1])
