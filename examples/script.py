"""Code that the scripts share: options, runs that write results to a folder, errors that exit.

To write a script like the examples, copy this file and add your options in a subclass of
`ScriptOptions`.
"""

import contextlib
import dataclasses
import json
import math
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import jax
import optax
from flax import nnx

from seqjax import sharding, training, viz
from seqjax._files import local_path
from seqjax._machine import cores, processor, versions
from seqjax.data import Batches, batches

__all__ = ["ScriptOptions", "blaming", "count_parameters", "flag", "measure"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScriptOptions:
    """The options of a training script; a script adds its own in a subclass.

    `tyro.cli` makes a command line of the options. A script calls `prepare` first, then `fit` to
    train, and `report` to write the results. An integer option must be at least 1, or at least 0 if
    its default is 0 or `may_be_zero` names it. The options that `shares` names must be at least 0
    and less than 1. A run writes `checkpoints/`, `history.jsonl`, `learning_curve.png`,
    `options.json` and `result.json` to the folder `out`. A run is resumed only with the options
    with which it began, except those that `after_training` names, and those that say where the
    run takes place.

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> @dataclasses.dataclass(frozen=True, kw_only=True)
      ... class Config(ScriptOptions):
      ...     hidden_size: int = 8
      ...     '''Units.'''
      >>> folder = tempfile.TemporaryDirectory()
      >>> config = Config(epochs=2, batch_size=2, out=Path(folder.name))
      >>> config.prepare()
      >>> examples = {"x": np.eye(4, dtype=np.float32), "y": np.ones((4, 1), np.float32)}
      >>> source = config.batches(examples, sequence_keys=())
      >>> len(source(0)), source(1)[0]["x"].shape
      (2, (2, 4))
      >>> config.with_defaults(epochs=9, hidden_size=3).hidden_size
      3
    """

    epochs: int = 10
    """Number of passes through the training data."""
    batch_size: int = 32
    """Number of examples in a batch."""
    learning_rate: float = 1e-3
    """Maximum learning rate of Adam. The rate rises for half an epoch and falls to zero along a
    cosine."""
    clip_norm: float = 1.0
    """Bound on the norm of the gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype in which the recurrent layers, and the attention of a decoder, compute. Parameters and
    all other layers are float32."""
    seed: int = 0
    """Seed of the initial weights, the order of the examples, and dropout."""
    devices: int = 1
    """Number of devices over which each batch is divided. More than one divides a CPU's cores."""
    distributed: str | None = None
    """Join other processes: INDEX/COUNT@HOST:PORT, or auto on a cluster that JAX knows. `devices`
    is then the number of devices of each process, and all processes share `out`."""
    keep_memory: bool = False
    """On a CPU, keep freed memory for the next step, which is faster if models are large."""
    accumulate: int = 1
    """Number of batches whose gradients are averaged for one update."""
    average: float = 0.0
    """Decay of a running average of the weights. The final model has the averaged weights; 0 turns
    averaging off."""
    resume: bool = False
    """Continue from the latest checkpoint in the folder `out`."""
    out: Path = Path("out")
    """Folder for checkpoints, history, plots and results."""

    may_be_zero: ClassVar[tuple[str, ...]] = ("seed",)
    """Names of the integer options that may be 0."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Names of the options that must be at least 0 and less than 1, such as dropout rates."""
    after_training: ClassVar[tuple[str, ...]] = ()
    """Names of the options that have no effect before the model is trained, such as a beam width. A
    resumed run may change them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", local_path("out", self.out))

    def prepare(self) -> None:
        """Check the options and set up devices; call it before anything is computed.

        Raises:
          SystemExit: an option is out of range; or `out` has a run, and `resume` is not set or the
            run has other options.
        """
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(value, bool) or not isinstance(value, int):
                continue
            least = 0 if field.name in self.may_be_zero or default == 0 else 1
            if value < least and not (isinstance(default, int) and default < 0):
                raise SystemExit(f"{flag(field.name)}: expected at least {least}, got {value}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise SystemExit(f"{flag(name)}: expected more than 0, got {getattr(self, name)}")
        if self.out.exists() and not self.out.is_dir():
            raise SystemExit(f"--out: expected a folder, got the file {self.out}")
        if not self.resume and self._has_run():
            raise SystemExit(
                f"--out: expected a folder without a run, got {self.out}; continue its run with "
                "--resume, or name another folder"
            )
        for name in ("average", *self.shares):
            if not 0 <= getattr(self, name) < 1:
                raise SystemExit(
                    f"{flag(name)}: expected at least 0, less than 1, got {getattr(self, name)}"
                )
        if self.keep_memory:
            training.keep_freed_memory()
        try:
            if self.distributed is not None:
                sharding.use_processes(self.distributed, cpu_devices=self.devices)
            elif self.devices > 1:
                sharding.use_cpu_devices(self.devices)
        except (RuntimeError, ValueError) as error:
            name = "devices" if self.distributed is None else "distributed"
            raise SystemExit(f"{flag(name)}: {error}") from None
        self.out.mkdir(parents=True, exist_ok=True)
        self._keep_options()

    def _machine(self, epochs: int) -> dict[str, Any]:
        """Return the processor, cores, device and versions of the run, or of its last part.

        If no epoch was trained since the last report, they are those of the last report.
        """
        path = self.out / "result.json"
        if self.resume and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["epochs"] == epochs and "versions" in kept:
                return {name: kept[name] for name in ("machine", "versions")}
        device = jax.devices()[0].device_kind
        machine = {"processor": processor(), "cores": cores(), "device": device}
        return {"machine": machine, "versions": versions()}

    def _has_run(self) -> bool:
        return any((self.out / "checkpoints").glob("*"))

    def _keep_options(self) -> None:
        """Write the options of a new run; raise if the run in `out` has others."""
        free = (*_OF_THE_PLACE, *self.after_training)
        own = {
            field.name: _text(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in free
        }
        path = self.out / "options.json"
        if not self._has_run():
            if jax.process_index() == 0:
                path.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
            return
        if not path.exists():  # the run of an earlier version
            return
        kept = json.loads(path.read_text(encoding="utf-8"))
        for name, value in own.items():
            if kept.get(name, value) != value:
                raise SystemExit(
                    f"{flag(name)}: expected {kept[name]} as in the run in {self.out}, got "
                    f"{value}; for a run with other options, name another folder with --out"
                )

    def keep(self, name: str, save: Callable[[Path], Any]) -> None:
        """Save a file that was made from the data, such as a vocabulary, to the folder `out`.

        Args:
          name: the name of the file.
          save: a function that writes the file to a path.

        Raises:
          SystemExit: the run in `out` has another file of this name, so the data have changed.
        """
        path, new = self.out / name, self.out / f"new-{jax.process_index()}-{name}"
        save(new)
        if self._has_run() and path.exists() and path.read_bytes() != new.read_bytes():
            new.unlink()
            raise SystemExit(
                f"--data: expected the data of the run in {self.out}, got others, from which "
                f"another {name} follows; name another folder with --out"
            )
        new.replace(path)

    def with_defaults(self, **values: Any) -> Self:
        """Return the options, with `values` in place of those that still have their defaults.

        Args:
          **values: new values by the name of the option.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        left = {name: v for name, v in values.items() if getattr(self, name) == defaults[name]}
        return dataclasses.replace(self, **left)

    def batches(self, examples: Mapping[str, Any], **options: Any) -> Callable[[int], Batches]:
        """Return a function from the epoch to its shuffled batches, see `seqjax.data.batches`.

        Args:
          examples: the examples, as `seqjax.data.batches` takes them.
          **options: other arguments of `seqjax.data.batches`, such as `boundaries`.
        """
        options = {"batch_size": self.batch_size, "seed": self.seed} | options
        return lambda epoch: batches(examples, epoch=epoch, **options)

    def schedule(self, steps: int) -> optax.Schedule:
        """Return the learning rate schedule: half an epoch of warm-up, then a cosine to zero.

        Args:
          steps: number of batches in an epoch.
        """
        updates, whole = steps // self.accumulate, steps * self.epochs // self.accumulate
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, max(1, updates // 2), max(2, whole)
        )

    def fit(
        self,
        model: nnx.Module,
        loss_fn: training.LossFn,
        train_batches: training.BatchSource,
        *,
        eval_batches: training.BatchSource | None = None,
        metric_fn: training.MetricFn | None = None,
        monitor: str | None = "eval_loss",
        mode: Literal["min", "max"] = "min",
        patience: int | None = None,
        optimizer: optax.GradientTransformation | None = None,
        **options: Any,
    ) -> training.FitResult:
        """Run `seqjax.training.fit` with these options; write checkpoints and history to `out`.

        Args:
          model: as for `fit`.
          loss_fn: as for `fit`.
          train_batches: the argument of `seqjax.training.fit`, for example the result of `batches`.
          eval_batches: as for `fit`.
          metric_fn: as for `fit`.
          monitor: the metric by which the best epoch is chosen; without `eval_batches` the last
            epoch is used.
          mode: "min" if a lower metric is better, "max" if a higher metric is better.
          patience: the number of epochs without improvement after which training stops.
          optimizer: any optax transformation. If `optimizer` is None, it is Adam with `schedule`
            and clipping by norm; the batches must then have a length.
          **options: other arguments of `fit`.

        Returns:
          The `FitResult`, with the model on one device.
        """
        if optimizer is None:
            first: Any = train_batches(0) if callable(train_batches) else train_batches
            optimizer = training.optimizer(
                self.schedule(len(first)), clip_norm=self.clip_norm, accumulate=self.accumulate,
                average=self.average or None,
            )  # fmt: skip
        chosen = None
        if monitor is not None and eval_batches is not None:
            chosen = training.Monitor(monitor, mode, patience)
        with training.Checkpoints(self.out / "checkpoints") as checkpoints:
            result = training.fit(
                model, loss_fn, optimizer, train_batches, epochs=self.epochs, seed=self.seed,
                eval_batches=eval_batches, metric_fn=metric_fn,
                devices=self.devices * jax.process_count(), monitor=chosen,
                checkpoints=checkpoints, resume=self.resume,
                logs=[training.JsonLines(self.out / "history.jsonl")], **options,
            )  # fmt: skip
        return result._replace(model=sharding.to_one_device(result.model))

    def save_figure(self, figure: Any, name: str, dpi: int = 150) -> None:
        """Write a figure to a file in `out`. Only the first of several processes writes it.

        Args:
          figure: a figure of matplotlib.
          name: the name of the file, such as "confusion.png".
          dpi: the resolution, in pixels per inch.
        """
        if jax.process_index() == 0:
            figure.savefig(self.out / name, dpi=dpi)

    def report(self, result: training.FitResult, **figures: float) -> dict[str, float]:
        """Print the results, and write `result.json` and `learning_curve.png` to `out`.

        Args:
          result: the result of `fit`.
          **figures: results of the model and of baselines on the test set, by name.

        Returns:
          `figures`.
        """
        parameters = count_parameters(result.model)
        minutes = sum(record["seconds"] for record in result.history) / 60
        place = self._machine(len(result.history))
        print(
            f"\n{parameters:,} parameters, {len(result.history)} epochs, {minutes:.1f} minutes of "
            f"training; the model of epoch {result.best['epoch']:.0f} is used"
        )
        print("{processor}, cores: {cores}".format_map(place["machine"]))
        width = max(map(len, figures), default=0)
        for name, value in figures.items():
            print(f"  {name.replace('_', ' '):<{width}}  {value:.4g}")
        record = {
            "figures": figures,
            "parameters": parameters,
            "epochs": len(result.history),
            "minutes": minutes,
            **place,
            "options": {name: str(value) for name, value in dataclasses.asdict(self).items()},
        }
        if jax.process_index():
            return figures
        self.save_figure(viz.learning_curve(result.history), "learning_curve.png")
        (self.out / "result.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"files in {self.out}: {', '.join(sorted(path.name for path in self.out.iterdir()))}")
        return figures


@contextlib.contextmanager
def blaming(option: str) -> Iterator[None]:
    """Run a `with` block; on an error about data, exit with a message that names the option.

    Args:
      option: the name of the option, such as "data".

    Raises:
      SystemExit: the block raised an OSError, ValueError, ImportError, EOFError or TarError.

    Example:
      >>> with blaming("data"):
      ...     raise ValueError("path: expected pairs, got none")
      Traceback (most recent call last):
      SystemExit: --data: expected pairs, got none
    """
    try:
        yield
    except (OSError, ValueError, ImportError, EOFError, tarfile.TarError) as error:
        # The user of a script does not know the name of the argument.
        what = re.sub(r"^\w+: (?=expected)", "", str(error))
        raise SystemExit(f"{flag(option)}: {what}") from None


def count_parameters(model: nnx.Module) -> int:
    """Return the number of elements in the `nnx.Param` variables of a module.

    Args:
      model: a Flax NNX module.

    Example:
      >>> count_parameters(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      8
    """
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def measure(
    model: nnx.Module, metric_fn: training.MetricFn, batches: Iterable[Any]
) -> dict[str, float]:
    """Return the metrics of a trained model over all batches together.

    Args:
      model: a Flax NNX module; it is not changed.
      metric_fn: `metric_fn(model, batch) -> {name: Mean}`, see `seqjax.training.make_eval_step`.
      batches: an iterable of batches.

    Returns:
      One float for each metric.

    Example:
      >>> import numpy as np
      >>> from seqjax import metrics
      >>> def metric_fn(model, batch):
      ...     return {"error": metrics.mean_squared_error(model(batch["x"]), batch["y"])}
      >>> model = nnx.Linear(1, 1, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0))
      >>> measure(model, metric_fn, [{"x": np.ones((4, 1)), "y": np.full((4, 1), 3.0)}])
      {'error': 4.0}
    """
    step = training.make_eval_step(model, metric_fn)
    return training.evaluate(step, training.init_state(model, optax.identity()), batches)


_OF_THE_PLACE = ("devices", "distributed", "keep_memory", "resume", "out")
"""The options that say where a run takes place; they do not change what it computes."""


def _text(value: Any) -> str:
    """Return the value of an option as text. A path does not depend on the current folder."""
    return str(value.resolve() if isinstance(value, Path) else value)


def flag(name: str) -> str:
    """Return an option as it is written on the command line.

    Example:
      >>> flag("batch_size")
      '--batch-size'
    """
    return "--" + name.replace("_", "-")
