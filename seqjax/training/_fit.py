"""The training loop `fit`."""

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
from seqjax._hints import hints
from seqjax.data._batches import Batches
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
    settings_as_text,
)
from seqjax.training._evaluation import MetricFn, evaluate_placed, make_eval_step
from seqjax.training._logs import Log
from seqjax.training._monitor import Monitor
from seqjax.training._position import Position, Record
from seqjax.training._processes import (
    noting_lost_processes,
    own_rows,
    require_same_batch,
    require_same_run,
    require_same_state,
)
from seqjax.training._progress import Progress
from seqjax.training._records import call_on_epoch_end, epoch_record
from seqjax.training._resume import batches_from, check_limits, restored
from seqjax.training._state import TrainState, init_state, state_to_model
from seqjax.training._step import LossFn, make_train_step
from seqjax.types import PyTree

__all__ = ["BatchSource", "FitResult", "Record", "fit"]


class FitResult(NamedTuple):
    """The result of `fit`.

    Attributes:
      model: the trained module in evaluation mode: with a `monitor`, the model of the best epoch,
        and without a monitor, the model of the last epoch.
      state: the final `TrainState`. The state shares its arrays with `model` if there is no monitor
        and the optimiser does not average the weights.
      history: one record for each epoch.
      best: the record of the epoch that `model` comes from.
    """

    model: Any
    state: TrainState
    history: list[Record]
    best: Record


@hints(
    batch_size="pass it to seqjax.data.batches",
    callbacks="use on_epoch_end, on_step_end, monitor, checkpoints or logs",
    metrics="use metric_fn and eval_batches",
    shuffle="pass seed=0 to seqjax.data.batches",
    validation_data="use eval_batches and metric_fn",
    validation_split="divide the examples before, and pass one part as eval_batches",
    verbose="use progress",
)
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
    on_step_end: Callable[[int, TrainState], object] | None = None,
    devices: int = 1,
    monitor: Monitor | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    logs: Sequence[Log] = (),
    prefetch: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train a module for a number of epochs or steps.

    One seed determines all randomness of the steps: the same call gives bitwise the same result.
    The host does not wait for the device at each step, but only when it reads metrics.

    If a step's loss, gradient, update or optimiser state is not finite, the step is skipped, and
    the history counts it as `skipped`. The loss function then runs on the step's batch once more
    without compilation. If the second run finds the cause, such as a label out of range, an error
    is raised. Otherwise a warning describes the batch.

    If a loss or metric does not depend on `batch["weights"]`, training and evaluation leave out
    filler rows, the rows of zeros that fill up a batch (see `make_train_step`).

    If the optimiser averages the weights (see `average=` of `optimizer`), evaluation and the
    returned model use the averaged weights.

    Args:
      model: a Flax NNX module. `fit` does not change it.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`, see `make_train_step`.
      optimizer: the result of `optimizer`, or any optax transformation of the model's parameters,
        such as `optax.lbfgs()`.
      train_batches: an iterable of batches that can be read again in each epoch, such as a list; or
        a function epoch -> iterable, where epochs count from 0. If the batches are those of
        `seqjax.data.batches` with a seed, each epoch has a new order. A batch is a pytree of
        arrays. The step is compiled once for each shape of a batch.
      epochs: the number of epochs. Pass either `epochs` or `steps`.
      steps: the number of steps. The batches are repeated until the run has this number of steps,
        so the last epoch may end early. With `steps`, an iterable of batches may be endless.
      eval_batches: the batches to evaluate on after each epoch: an iterable or a function, like
        `train_batches`.
      metric_fn: `metric_fn(model, batch) -> {name: Mean}`, see `make_eval_step`. The history
        contains each metric under `eval_NAME`.
      seed: the seed of `rngs` and of the random streams stored in the model.
      progress: whether to show progress on standard error, as a live bar on a terminal and as plain
        lines in a pipe or file.
      on_epoch_end: a function that is called with the epoch's record and the state. The function
        may add values that JSON can represent to the record. The next step overwrites the state's
        arrays, so copy the arrays that you need later.
      on_step_end: a function that is called after each step with the number of steps so far and the
        state, whose arrays the next step overwrites. Training waits until the function returns.
      devices: the number of devices over which each batch is divided, along the first axis of its
        arrays; see `seqjax.sharding`. The result is the same as on one device, up to rounding. If
        the devices belong to several processes, each process must get the same batches. Of the
        batches of `seqjax.data.batches`, each process reads only the rows for its own devices.
      monitor: the metric by which the best epoch is chosen. The model of this epoch is returned. If
        the monitor has a patience, training stops early.
      checkpoints: the `Checkpoints` to which the run writes a checkpoint after each epoch, and also
        after every `checkpoints.every` steps if that is set.
      resume: if True, continue from the latest checkpoint if there is one. If the arguments and
        batches are the same, the result is bitwise the same as without the interruption. Batches
        that the earlier run has used are skipped. If the batches have a length and can be indexed,
        like `seqjax.data.Batches`, the skipped batches are not computed.
      logs: functions that are called with the history after each epoch, before its checkpoint is
        written, such as `JsonLines` or `TensorBoard`.
      prefetch: the number of batches that are prepared and sent to the device in advance, while the
        device computes.
      settings: a dict of other values that must be the same when a run resumes, such as the
        learning rate. Checkpoints store them as text. A setting that was added or left out since
        the checkpoint was written is an error, too.

    Returns:
      A `FitResult` with the trained module, the final state, the history and the record of the best
      epoch. The history has a dict for each epoch:

      - `epoch` and `step`: the number of epochs and steps done.
      - `loss`, `grad_norm` and the metrics of `loss_fn`: means over the epoch's steps that were not
        skipped. A `Mean` is weighted by its count. A scalar is weighted by the number of real rows
        if the batches have `weights`; otherwise all batches count equally.
      - `skipped`: the number of skipped steps.
      - `seconds`: the training time of the epoch.
      - `eval_NAME`: the metric NAME of `metric_fn`.

    Raises:
      FloatingPointError: all steps of an epoch were skipped.
      TypeError: an argument is of the wrong type, or the optimiser cannot update the model.
      ValueError: both or none of `epochs` and `steps` are given; an epoch has no batches; the
        batches of several epochs are an iterator, which can be read only once; only one of
        `eval_batches` and `metric_fn` is given; there are fewer than `devices` devices; or a label,
        token or length is out of range. Without `resume`, it is an error if the folder already has
        checkpoints. With `resume`, it is an error if all checkpoints are damaged, or if the
        checkpoint comes from another program, from a longer run or from a run with another seed,
        model or setting. With several processes, it is an error if they
        start with different arrays or settings, or if the first batch of an epoch differs between
        them. For errors of `loss_fn`, see `make_train_step`.

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
    check_functions(optimizer, loss_fn, metric_fn, on_epoch_end, on_step_end, logs)
    check_batches(train_batches, eval_batches, metric_fn, epochs or 1)
    check_run(monitor, checkpoints, resume)
    sharding.batch_mesh(devices)
    if jax.process_count() > 1 and devices == 1:
        raise ValueError(
            f"devices: expected {jax.device_count()}, all devices of {jax.process_count()} "
            "processes, got 1, with which each process would train a model of its own"
        )
    place = jax.device_put if prefetch else _as_it_is
    if devices > 1:
        place = functools.partial(sharding.shard_batch, devices=devices)
    main_process = jax.process_index() == 0
    state = init_state(model, optimizer)
    best = _values(state) if monitor is not None else None
    position = Position()
    run: dict[str, Any] = {
        "seed": seed,
        "monitor": monitor and [monitor.metric, monitor.mode],
        "settings": settings_as_text(settings),
    }
    if devices > 1:
        require_same_run(run, None if checkpoints is None else checkpoints.folder)
    if checkpoints is not None:
        state, best, position = restored(checkpoints, state, best, run, resume)
        check_limits(checkpoints, position, epochs, steps)
    if devices > 1:
        require_same_state(state)
        state = sharding.replicate(state, devices)
    train_step = make_train_step(model, loss_fn, optimizer, donate=True)
    eval_step = None
    if metric_fn is not None:
        eval_step = make_eval_step(model, metric_fn)

    def save(ended_at: int | None = None) -> None:
        if checkpoints is not None:
            arrays = {"state": state, "best": best}
            record = run | {"ended_at": ended_at} | position.record()
            checkpoints.save(position.step, arrays, record)

    def ready(batches: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
        """Return a pair for each batch: the batch on the host, and the batch on the devices."""

        def one(batch: Any) -> tuple[Any, Any]:
            batch = as_arrays(batch)
            return batch, place(batch)

        return in_background(one, batches, prefetch) if prefetch else map(one, batches)

    key = jax.random.key(seed)
    unexplained = True

    def look_at_unusual() -> str:
        """Describe the first batch whose numbers were not finite, or raise the error of a check."""
        nonlocal unexplained
        held = ""
        for _, batch in position.totals.take_unusual():
            held = held or train_step.explain(state, batch, key, deeply=unexplained)
            unexplained = False
        return held

    def ended() -> bool:
        done = position.epoch >= epochs if epochs is not None else position.step >= (steps or 0)
        return done or (monitor is not None and monitor.stops(position.history))

    display = Progress(epochs, steps=steps, enabled=progress and main_process)
    with noting_lost_processes(), display:
        display.resume(position.epoch, position.step)
        while not ended():
            epoch, totals = position.epoch, position.totals
            start = time.perf_counter() - position.seconds
            batches = _read("train_batches", train_batches, epoch, devices)
            display.begin_epoch(
                len(batches) if isinstance(batches, Sized) else None, totals.batches
            )
            first = totals.batches
            left = None if steps is None else steps - position.step
            held = ""
            for host, batch in ready(itertools.islice(batches_from(batches, first), left)):
                # A checkpoint that is due is written just before the next step of the epoch. None
                # is written here after the last step, because the end of the epoch writes one.
                if (
                    totals.batches > first
                    and checkpoints is not None
                    and checkpoints.due(position.step)
                ):
                    position.seconds = time.perf_counter() - start
                    save()
                if totals.batches == first and devices > 1:
                    require_same_batch("train_batches", batches, host)
                state, metrics = train_step.run(state, batch, key, host=host, place=place)
                totals.add(metrics, host)
                if position.step == 1:  # fetch now, to report a mistake in every batch early
                    totals.latest()
                held = held or look_at_unusual()
                if display.advance(Progress.tokens(host)):
                    latest = totals.latest()
                    display.show({name: latest[name] for name in ("loss", "grad_norm")})
                if on_step_end is not None:
                    on_step_end(position.step, state)
            if first and totals.batches == first:  # the checkpoint was written after the last batch
                raise ValueError(
                    f"train_batches: expected more than {first} batches in epoch {epoch}, as when "
                    f"the checkpoint in {checkpoints and checkpoints.folder} was written, got "
                    f"{first} or fewer"
                )
            totals.latest()
            held = held or look_at_unusual()
            record = epoch_record(epoch, position, held)
            display.stop_clock()  # after the totals were read, which waits for the device
            record["seconds"] = time.perf_counter() - start
            good = averaged(state)
            if eval_step is not None and eval_batches is not None:
                measured = evaluate_placed(
                    eval_step, good, _read("eval_batches", eval_batches, epoch, devices), place,
                    name="eval_batches",
                )  # fmt: skip
                record |= {f"eval_{name}": value for name, value in measured.items()}
            position.end_epoch(record)
            if monitor is not None and monitor.best(position.history) == epoch:
                best = _values(good)
            display.end_epoch(record)
            if on_epoch_end is not None:
                call_on_epoch_end(on_epoch_end, record, state)
            for log in logs if main_process else ():
                log(position.history)
            # With more steps, a run that ended within an epoch would have used other batches.
            whole = isinstance(batches, Sized) and totals.batches >= len(batches)
            save(None if whole or steps != position.step else steps)
    _warn_without_update(state)
    return _result(model, state, best, monitor, position.history)


def _warn_without_update(state: TrainState) -> None:
    """Warn if the optimiser accumulates gradients, and the run was too short for one update."""
    nodes = jax.tree.leaves(
        state.opt_state, is_leaf=lambda node: isinstance(node, optax.MultiStepsState)
    )
    updates = [int(node.gradient_step) for node in nodes if isinstance(node, optax.MultiStepsState)]
    if updates and not any(updates):
        warnings.warn(
            "optimizer: expected a run with at least one update, got none in "
            f"{int(state.step)} steps, since gradients are accumulated over more steps; the model "
            "is untrained",
            stacklevel=4,
        )


def _values(state: TrainState) -> PyTree:
    """Return copies of a model's arrays. The next step overwrites the arrays of the state."""
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
            f"monitor: expected an epoch with a finite {monitor.metric}, got none; the returned "
            "model is that of the last epoch",
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


def _read(name: str, batches: BatchSource, epoch: int, devices: int) -> Iterable[Any]:
    """Return the batches of an epoch; those of `seqjax.data` have an order for each epoch."""
    if isinstance(batches, Batches):
        return own_rows(batches.at_epoch(batches.epoch + epoch), devices)
    return own_rows(
        require_batches(name, batches(epoch)) if callable(batches) else batches, devices
    )
