"""A plain training loop: one function, one seed, one history."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, NamedTuple, TypeAlias

import jax
import optax
from flax import nnx

from seqjax import checks, sharding
from seqjax.training.evaluation import MetricFn, evaluate, make_eval_step
from seqjax.training.progress import Progress
from seqjax.training.state import TrainState, init_state, state_to_model
from seqjax.training.step import LossFn, make_train_step
from seqjax.training.totals import Totals

__all__ = ["BatchSource", "FitResult", "Record", "fit"]

BatchSource: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
Record: TypeAlias = dict[str, float]


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      model: the trained module, in evaluation mode.
      state: the final `TrainState`; it shares its arrays with `model`.
      history: one record an epoch.
    """

    model: Any
    state: TrainState
    history: list[Record]


def fit(
    model: nnx.Module,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    train_batches: BatchSource,
    *,
    epochs: int,
    eval_batches: BatchSource | None = None,
    metric_fn: MetricFn | None = None,
    seed: int = 0,
    progress: bool = True,
    on_epoch_end: Callable[[Record, TrainState], object] | None = None,
    devices: int = 1,
) -> FitResult:
    """Trains a module for some epochs.

    One seed fixes everything that is random in the steps: the same call gives the same bits.
    The host does not wait for the device at each step, only when numbers are shown.

    Args:
      model: a Flax NNX module; it is not changed.
      loss_fn: `loss_fn(model, batch, rngs) -> (loss, metrics)`, see `make_train_step`.
      optimizer: from `optimizer`, or any optax transformation.
      train_batches: an iterable of batches that can be read once an epoch, such as a list, or a
        function epoch -> iterable, with epochs counted from 0. A batch is a pytree of arrays; each
        new shape compiles the step anew.
      epochs: how many times to go through the batches.
      eval_batches: batches to measure on after each epoch, given in the same two ways.
      metric_fn: `metric_fn(model, batch) -> {name: Mean}`, see `make_eval_step`.
      seed: seeds `rngs` and the random streams stored in the model.
      progress: whether to show progress on standard error: a live bar on a terminal, else lines.
      on_epoch_end: called with the epoch's record and the state. The next step overwrites the
        state's arrays: copy what is to be kept.
      devices: over how many devices each batch is divided, along the first axis of its arrays; see
        `seqjax.sharding`. The result is the same to rounding.

    Returns:
      The trained module, the final state and the history: for each epoch a dict with `epoch` and
      `step` (how many were done), `loss`, `grad_norm` and the metrics of `loss_fn` (averaged over
      the epoch's steps; a `Mean` by its count), `seconds` (of its training), and each metric of
      `metric_fn` under `eval_name`.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: no batches in an epoch, an iterator that can be read only once for several epochs,
        only one of `eval_batches` and `metric_fn`, more devices than there are; see
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
    checks.require_integer("epochs", epochs)
    if (eval_batches is None) != (metric_fn is None):
        raise ValueError(
            "eval_batches, metric_fn: expected both or neither, got "
            + ("metric_fn alone" if eval_batches is None else "eval_batches alone")
        )
    seed = checks.require_integer("seed", seed, least=0)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            "optimizer: expected one of optax's or of seqjax.training.optimizer, "
            f"got {checks.brief(optimizer)}"
        )
    for name, function in (
        ("loss_fn", loss_fn),
        ("metric_fn", metric_fn or loss_fn),
        ("on_epoch_end", on_epoch_end or loss_fn),
    ):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {checks.brief(function)}")
    if isinstance(eval_batches, Sized) and not len(eval_batches):
        raise ValueError("eval_batches: expected at least one batch, got none")
    _require_readable("train_batches", train_batches, epochs)
    sharding.batch_mesh(devices)
    place = functools.partial(sharding.shard_batch, devices=devices) if devices > 1 else _as_it_is
    state = init_state(model, optimizer)
    if devices > 1:
        state = sharding.replicate(state, devices)
    train_step = make_train_step(model, loss_fn, optimizer, donate=True)
    eval_step = None
    if metric_fn is not None and eval_batches is not None:
        _require_readable("eval_batches", eval_batches, epochs)
        eval_step = make_eval_step(model, metric_fn)

    key = jax.random.key(seed)
    history: list[Record] = []
    step = 0
    with Progress(epochs, enabled=progress) as display:
        for epoch in range(epochs):
            start = time.perf_counter()
            batches = _read(train_batches, epoch)
            display.begin_epoch(len(batches) if isinstance(batches, Sized) else None)
            totals = Totals()
            for batch in batches:
                state, metrics = train_step(state, place(batch), key)
                totals.add(metrics)
                if display.advance():
                    latest = totals.latest()
                    display.show({name: latest[name] for name in ("loss", "grad_norm")})
            if not totals.batches:
                raise ValueError(f"train_batches: expected batches, got none in epoch {epoch}")
            step += totals.batches
            record: Record = {"epoch": epoch + 1, "step": step, **_loss_first(totals.values())}
            display.stop_clock()  # not before: reading the totals has waited for the device
            record["seconds"] = time.perf_counter() - start
            if eval_step is not None and eval_batches is not None:
                measured = evaluate(eval_step, state, map(place, _read(eval_batches, epoch)))
                record |= {f"eval_{name}": value for name, value in measured.items()}
            history.append(record)
            display.end_epoch(record)
            if on_epoch_end is not None:
                on_epoch_end(record, state)
    trained = state_to_model(model, state)
    trained.eval()
    return FitResult(trained, state, history)


def _as_it_is(batch: Any) -> Any:
    return batch


def _loss_first(values: Record) -> Record:
    return {"loss": values["loss"], **values}


def _read(batches: BatchSource, epoch: int) -> Iterable[Any]:
    return batches(epoch) if callable(batches) else batches


def _require_readable(name: str, batches: BatchSource, epochs: int) -> None:
    """Raises unless there is something to read in each epoch."""
    if callable(batches):
        return
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"{name}: expected an iterable of batches or a function epoch -> iterable, "
            f"got {type(batches).__name__}"
        )
    if isinstance(batches, Iterator) and epochs > 1:
        raise ValueError(
            f"{name}: expected batches that can be read in each of {epochs} epochs, got an "
            f"iterator ({type(batches).__name__}); give a list or a function epoch -> iterable"
        )
