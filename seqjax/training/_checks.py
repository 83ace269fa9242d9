"""Checks of the arguments of `fit`, which run before anything is computed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, TypeAlias

from seqjax import checks
from seqjax.training._batch import require_batches
from seqjax.training._checkpoints import Checkpoints
from seqjax.training._evaluation import MetricFn
from seqjax.training._extra_args import with_extra_args
from seqjax.training._monitor import Monitor
from seqjax.training._results import require_call

__all__ = [
    "BatchSource",
    "check_batches",
    "check_end",
    "check_functions",
    "check_run",
    "settings_as_text",
]

BatchSource: TypeAlias = Iterable[Any] | Callable[[int], Iterable[Any]]
"""An iterable of batches, or a function that takes an epoch's index and returns an iterable."""


def check_end(epochs: Any, steps: Any) -> None:
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs, steps: expected exactly one of them, got {epochs} and {steps}")
    for name, value in (("epochs", epochs), ("steps", steps)):
        if value is not None:
            checks.require_integer(name, value)


def check_functions(
    optimizer: Any,
    loss_fn: Any,
    metric_fn: Any,
    on_epoch_end: Any,
    on_step_end: Any,
    logs: Iterable[Any],
) -> None:
    with_extra_args(optimizer)
    require_call("loss_fn", loss_fn, "model", "batch", "rngs")
    for name, function, *arguments in (
        ("metric_fn", metric_fn, "model", "batch"),
        ("on_epoch_end", on_epoch_end, "record", "state"),
        ("on_step_end", on_step_end, "step", "state"),
    ):
        if function is not None:
            require_call(name, function, *arguments)
    for index, log in enumerate(logs):
        require_call(f"logs[{index}]", log, "history")


def check_batches(
    train_batches: BatchSource,
    eval_batches: BatchSource | None,
    metric_fn: MetricFn | None,
    epochs: int,
) -> None:
    if (eval_batches is None) != (metric_fn is None):
        raise ValueError(
            "eval_batches, metric_fn: expected both or neither, got "
            + ("metric_fn alone" if eval_batches is None else "eval_batches alone")
        )
    _require_readable("train_batches", train_batches, epochs)
    if eval_batches is not None:
        if isinstance(eval_batches, Sized) and not len(eval_batches):
            raise ValueError("eval_batches: expected at least one batch, got none")
        _require_readable("eval_batches", eval_batches, epochs)


def check_run(monitor: Any, checkpoints: Any, resume: bool) -> None:
    for name, value, kind in (
        ("monitor", monitor, Monitor),
        ("checkpoints", checkpoints, Checkpoints),
    ):
        if not isinstance(value, kind | None):
            raise TypeError(f"{name}: expected a {kind.__name__}, got {checks.brief(value)}")
    if checks.require_bool("resume", resume) and checkpoints is None:
        raise ValueError("resume: expected checkpoints to resume from, got checkpoints=None")


def settings_as_text(settings: Any) -> dict[str, str]:
    """Return the values of `settings` as text, which checkpoints store."""
    if not isinstance(settings, Mapping | None):
        raise TypeError(f"settings: expected a dict, got {checks.brief(settings)}")
    for name in settings or ():
        if not isinstance(name, str):
            raise TypeError(f"settings: expected names as keys, got {checks.brief(name)}")
    return {name: str(value) for name, value in (settings or {}).items()}


def _require_readable(name: str, batches: BatchSource, epochs: int) -> None:
    """Raise an error if there are several epochs, but the batches can be read only once."""
    if callable(batches):
        require_call(name, batches, "epoch")
        return
    require_batches(name, batches)
    if isinstance(batches, Iterator) and epochs > 1:
        raise ValueError(
            f"{name}: expected batches that can be read in each of {epochs} epochs, got an "
            f"iterator ({type(batches).__name__}); pass a list or a function epoch -> iterable"
        )
