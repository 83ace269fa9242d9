"""A plain training loop: one function, one seed, one history."""

import functools
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqjax import checks, sharding
from seqjax.data._prefetch import in_background
from seqjax.training._average import averaged
from seqjax.training._batch import as_arrays, require_batches
from seqjax.training._checkpoints import Checkpoints
from seqjax.training._checks import (
    BatchSource,
    check_batches,
    check_end,
    check_functions,
    check_run,
)
from seqjax.training._evaluation import MetricFn, evaluate_placed, make_eval_step
from seqjax.training._logs import Log
from seqjax.training._monitor import Monitor
from seqjax.training._position import Position, Record
from seqjax.training._progress import Progress
from seqjax.training._records import epoch_record
from seqjax.training._resume import batches_from, check_limits, restored
from seqjax.training._state import TrainState, init_state, state_to_model
from seqjax.training._step import LossFn, make_train_step
from seqjax.types import PyTree

__all__ = ["BatchSource", "FitResult", "Record", "fit"]


class FitResult(NamedTuple):
    """The result of `fit`.

    Attributes:
      model: the trained module, in evaluation mode; with a `monitor`, that of its best epoch.
      state: the final `TrainState`; without a monitor it shares its arrays with `model`.
      history: one record for each epoch.
      best: the record of the epoch whose weights `model` has.
    """

    model: Any
    state: TrainState
    history: list[Record]
    best: Record


def fit(
    model: nnx.Module,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    train_batches: BatchSource,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    eval_batches: BatchSource | None = None,
    metric_fn: MetricFn | None = None,
    seed: int = 0,
    progress: bool = True,
    on_epoch_end: Callable[[Record, TrainState], object] | None = None,
    devices: int = 1,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    logs: Sequence[Log] = (),
    prefetch: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train a module for some epochs or steps.

    One seed fixes everything that is random in the steps: the same call gives the same bits.
    The host does not wait for the device at each step, only when numbers are shown.

    If a step's loss, gradient or update is not finite, the step changes nothing and is counted in
    `skipped`. The loss function then runs on the step's batch once more without compilation. If the
    cause is found, such as a label out of range, an error is raised. Otherwise a warning describes
    the batch.

    If a loss or metric does not depend on `batch["weights"]`, rows of filler are left out, in
    training and evaluation, see `make_train_step`.

    If the optimiser averages the weights (see `optimizer`), evaluation and the returned model use
    the averaged weights.

    Args:
      model: a Flax NNX module; it is not changed.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`, see `make_train_step`.
      optimizer: from `optimizer`, or any optax transformation of the model's parameters, such as
        `optax.lbfgs()`.
      train_batches: an iterable of batches that can be read once an epoch, such as a list, or a
        function epoch -> iterable, with epochs counted from 0. A batch is a pytree of arrays; each
        new shape compiles the step anew.
      epochs: how many times to go through the batches; or
      steps: the number of steps to make. The batches are repeated as needed, and the last epoch
        may end early. Batches may then be endless.
      eval_batches: batches to measure on after each epoch, given in the same two ways.
      metric_fn: `metric_fn(model, batch) -> {name: Mean}`, see `make_eval_step`.
      seed: seeds `rngs` and the random streams stored in the model.
      progress: whether to show progress on standard error: a live bar on a terminal, else lines.
      on_epoch_end: called with the epoch's record and the state. The next step overwrites the
        state's arrays: copy those that you need later.
      devices: the number of devices over which each batch is divided, along the first axis of its
        arrays; see `seqjax.sharding`. The result is the same up to rounding.
      monitor: the metric by which the best epoch's model is returned and, with a patience,
        training ends early.
      checkpoints: the checkpoints to write after each epoch, and after every `checkpoints.every`
        steps if it is set.
      resume: continue from the latest checkpoint, if there is one. The result is bitwise the same
        as that of a run without interruption. This needs the same arguments and batches. Batches
        that were already used are skipped, by index if the batches have a length and can be
        indexed, as `seqjax.data.Batches`.
      logs: functions of the history so far, such as `JsonLines` or `TensorBoard`, called after each
        epoch, before its checkpoint is written.
      prefetch: the number of batches that are prepared and sent to the device while it computes.
      settings: other values, by name, that must be the same when a run resumes, such as the
        learning rate; checkpoints store them as text.

    Returns:
      The trained module, the final state and the history: for each epoch a dict with `epoch` and
      `step` (how many were done), `loss`, `grad_norm` and the metrics of `loss_fn` (averaged over
      the epoch's steps that changed something: a `Mean` by its count, a scalar by the number of
      real rows if batches have `weights`), `skipped` (how many steps changed nothing), `seconds`
      (of its training), and each metric of `metric_fn` under `eval_name`.

    Raises:
      FloatingPointError: all steps of an epoch were skipped.
      TypeError: an argument of the wrong type, or an optimiser that cannot update the model.
      ValueError: not one of `epochs` and `steps`, no batches in an epoch, an iterator that can be
        read only once for several epochs, only one of `eval_batches` and `metric_fn`, more devices
        than there are, checkpoints of another run without `resume`, or of another seed, model,
        setting or a longer run with it; a label, token or length out of range; see
        `make_train_step` for `loss_fn`.

    Example:
      >>> import jax.numpy as jnp
      >>> from seqjax import training
      >>> def loss_fn(model, batch, rngs):
      ...     return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}
      >>> model = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
      >>> x = jnp.linspace(-1.0, 1.0, 8)[:, None]
      >>> result = training.fit(
      ...     model,
      ...     loss_fn,
      ...     training.optimizer(0.3, name="sgd"),
      ...     [{"x": x, "y": 2.0 * x + 1.0}],
      ...     epochs=100,
      ...     progress=False,
      ... )
      >>> round(float(result.model.kernel[0, 0]), 2), round(float(result.model.bias[0]), 2)
      (2.0, 1.0)
      >>> result.history[0]["loss"] > result.history[-1]["loss"]
      True
    """
    seed = checks.require_integer("seed", seed, least=0)
    check_end(epochs, steps)
    checks.require_integer("prefetch", prefetch, least=0)
    check_functions(optimizer, loss_fn=loss_fn, metric_fn=metric_fn, on_epoch_end=on_epoch_end)
    for index, log in enumerate(logs):
        check_functions(optimizer, **{f"logs[{index}]": log})
    check_batches(train_batches, eval_batches, metric_fn, epochs or 1)
    check_run(monitor, checkpoints, resume)
    sharding.batch_mesh(devices)
    place = jax.device_put if prefetch else _as_it_is
    if devices > 1:
        place = functools.partial(sharding.shard_batch, devices=devices)
    main_process = jax.process_index() == 0
    state = init_state(model, optimizer)
    best = _values(state) if monitor is not None else None
    position = Position()
    run: dict[str, Any] = {"seed": seed, "monitor": monitor and [monitor.metric, monitor.mode]}
    run |= {name: str(value) for name, value in (settings or {}).items()}
    if checkpoints is not None:
        state, best, position = restored(checkpoints, state, best, run, resume)
        check_limits(checkpoints, position, epochs, steps)
    if devices > 1:
        state = sharding.replicate(state, devices)
    train_step = make_train_step(model, loss_fn, optimizer, donate=True)
    eval_step = None
    if metric_fn is not None:
        eval_step = make_eval_step(model, metric_fn)

    def save() -> None:
        if checkpoints is not None:
            arrays = {"state": state, "best": best}
            ended_at = steps if steps == position.step else None
            record = run | {"ended_at": ended_at} | position.record()
            checkpoints.save(position.step, arrays, record)

    def ready(batches: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
        """Return pairs of each batch: on the host, and placed on the devices."""

        def one(batch: Any) -> tuple[Any, Any]:
            batch = as_arrays(batch)
            return batch, place(batch)

        return in_background(one, batches, prefetch) if prefetch else map(one, batches)

    key = jax.random.key(seed)
    unexplained = True

    def look_at_unusual() -> str:
        """Describes the batches whose numbers were not finite, or raises the error of a check."""
        nonlocal unexplained
        held = ""
        for _, batch in position.totals.take_unusual():
            held = held or train_step.explain(state, batch, key, deeply=unexplained)
            unexplained = False
        return held

    def ended() -> bool:
        done = position.epoch >= epochs if epochs is not None else position.step >= (steps or 0)
        return done or (monitor is not None and monitor.stops(position.history))

    with Progress(epochs, steps=steps, enabled=progress and main_process) as display:
        display.resume(position.epoch, position.step)
        while not ended():
            epoch, totals = position.epoch, position.totals
            start = time.perf_counter() - position.seconds
            batches = _read("train_batches", train_batches, epoch)
            display.begin_epoch(
                len(batches) if isinstance(batches, Sized) else None, totals.batches
            )
            first = totals.batches
            left = None if steps is None else steps - position.step
            held = ""
            for host, batch in ready(itertools.islice(batches_from(batches, first), left)):
                # Before a step, not after it, since the end of an epoch writes its own checkpoint.
                if (
                    totals.batches > first
                    and checkpoints is not None
                    and checkpoints.due(position.step)
                ):
                    position.seconds = time.perf_counter() - start
                    save()
                state, metrics = train_step.run(state, batch, key, host=host, place=place)
                totals.add(metrics, host)
                if position.step == 1:  # report a mistake in all batches at once
                    totals.latest()
                held = held or look_at_unusual()
                if display.advance(Progress.tokens(host)):
                    latest = totals.latest()
                    display.show({name: latest[name] for name in ("loss", "grad_norm")})
            if first and totals.batches == first:  # the saved epoch had more batches
                raise ValueError(
                    f"train_batches: expected more than {first} batches in epoch {epoch}, as when "
                    f"the checkpoint in {checkpoints and checkpoints.folder} was written"
                )
            totals.latest()
            held = held or look_at_unusual()
            record = epoch_record(epoch, position, held)
            display.stop_clock()  # not before: reading the totals has waited for the device
            record["seconds"] = time.perf_counter() - start
            good = averaged(state)
            if eval_step is not None and eval_batches is not None:
                measured = evaluate_placed(
                    eval_step, good, _read("eval_batches", eval_batches, epoch), place
                )
                record |= {f"eval_{name}": value for name, value in measured.items()}
            position.end_epoch(record)
            if monitor is not None and monitor.best(position.history) == epoch:
                best = _values(good)
            display.end_epoch(record)
            if on_epoch_end is not None:
                on_epoch_end(record, state)
            for log in logs if main_process else ():
                log(position.history)
            save()
    return _result(model, state, best, monitor, position.history)


def _values(state: TrainState) -> PyTree:
    """Return copies of the arrays of a model; the next step overwrites those in the state."""
    return jax.tree.map(jnp.copy, (state.params, state.model_state))


def _result(
    model: nnx.Module,
    state: TrainState,
    best: PyTree,
    monitor: Monitor | None,
    history: list[Record],
) -> FitResult:
    index = None if monitor is None else monitor.best(history)
    chosen = averaged(state)
    if monitor is not None and index is None:
        warnings.warn(
            f"monitor: {monitor.metric} was finite in no epoch; the model is that of the last one",
            stacklevel=3,
        )
    if index is not None:
        params, model_state = best
        chosen = state._replace(params=params, model_state=model_state)
    trained = state_to_model(model, chosen)
    trained.eval()
    return FitResult(trained, state, history, history[-1 if index is None else index])


def _as_it_is(batch: Any) -> Any:
    return batch


def _read(name: str, batches: BatchSource, epoch: int) -> Iterable[Any]:
    return require_batches(name, batches(epoch)) if callable(batches) else batches
