"""DeepAR of GluonTS on the data, the split and the test windows of `examples.forecast`.

GluonTS is not among the dependencies: pip install "gluonts[torch]". The scores are computed by the
same code as those of `examples.forecast`, from 100 samples, in standardised units. As in that
example, the epoch with the lowest loss on validation windows is used; here, an epoch has 50 steps,
and a validation window begins at every `horizon` rows.

The lags, the calendar features, the scaling and the optimiser are those that GluonTS chooses:
40 lags up to 721 hours, also before the context; hour, day of the week, of the month and of the
year; the mean absolute value; Adam whose learning rate is halved if the loss stops falling.

--calendar is accepted and changes nothing, since GluonTS computes the calendar features itself; so
is --out, since no file is written. Other options that GluonTS does not read, such as --known,
--cell and --epochs, are refused.

    python -m benchmarks.gluonts_deepar --data ETTh1.csv --split 8640 2880 2880 --test-stride 24
"""

import dataclasses
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from examples import forecast, script
from seqjax import forecasting
from seqjax._machine import description

EPOCH = 50  # number of steps of an epoch
UNREAD = (
    "known", "season", "stride", "model", "cell", "epochs", "clip_norm", "devices", "distributed",
    "keep_memory", "accumulate", "average", "resume", "dtype",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(forecast.Config):
    """Options of the comparison; those of the calendar and of the optimiser are GluonTS's own."""

    steps: int = 500
    """Number of gradient steps; a multiple of 50."""
    num_layers: int = 2
    dropout: float = 0.1
    hidden_size: int = 40
    out: Path = Path("out/gluonts")

    def check(self) -> None:
        """Raise SystemExit if an option is out of range, or GluonTS does not read it."""
        if self.steps < EPOCH or self.steps % EPOCH:
            raise SystemExit(f"--steps: expected a multiple of {EPOCH}, got {self.steps}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in UNREAD and value != field.default:
                raise SystemExit(
                    f"{script.flag(field.name)}: expected the default {field.default!s}, "
                    f"as GluonTS does not read this option, got {value!s}"
                )


def main(config: Config) -> dict[str, float]:
    """Train and evaluate DeepAR; print and return the scores."""
    config.check()
    import pandas
    import torch
    from gluonts.dataset.common import ListDataset
    from gluonts.torch import DeepAREstimator

    warnings.simplefilter("ignore")
    torch.manual_seed(config.seed)
    np.random.seed(config.seed)
    series, found, mean, deviation = forecast.read_windows(config)
    rows = found["test"]["row"][:: config.test_stride]
    start = pandas.Period(series.times[0], freq="h")
    columns = series.values.T.astype(np.float32)
    end = int(found["train"]["row"][-1]) + config.horizon
    train = [{"start": start, "target": column[:end]} for column in columns]
    tests = [{"start": start, "target": column[:row]} for row in rows for column in columns]
    chosen = found["dev"]["row"][:: config.horizon] + config.horizon  # ends of validation windows
    dev = [{"start": start, "target": column[:row]} for row in chosen for column in columns]
    with tempfile.TemporaryDirectory() as folder:
        estimator = DeepAREstimator(
            freq="h", prediction_length=config.horizon, context_length=config.context,
            num_layers=config.num_layers, hidden_size=config.hidden_size, lr=config.learning_rate,
            dropout_rate=config.dropout, batch_size=config.batch_size, num_batches_per_epoch=EPOCH,
            trainer_kwargs={
                "max_epochs": config.steps // EPOCH, "accelerator": "cpu", "logger": False,
                "enable_progress_bar": False, "default_root_dir": folder,
            },
        )  # fmt: skip
        began = time.perf_counter()
        predictor: Any = estimator.train(
            ListDataset(train, freq="h"), ListDataset(dev, freq="h"), cache_data=True
        )
        trained = time.perf_counter()
        forecasts: list[Any] = [
            each.samples for each in predictor.predict(ListDataset(tests, freq="h"))
        ]
        drawn = time.perf_counter()
    samples = np.stack(forecasts).reshape(len(rows), len(columns), -1, config.horizon)
    samples = np.moveaxis((samples - mean[:, None, None]) / deviation[:, None, None], 2, -1)
    samples = samples.astype(np.float32)  # [N, C, H, S]
    future = found["test"]["values"][:: config.test_stride][..., config.context :]
    low, middle, high = np.quantile(samples, forecast.LEVELS, axis=-1).astype(np.float32)
    quantiles = np.stack([low, middle, high], axis=-1)
    figures = {
        "mse": float(np.mean((middle - future) ** 2)),
        "mae": float(np.mean(np.abs(middle - future))),
        "coverage": float(forecasting.coverage(low, high, future).value()),
        "crps": float(forecasting.crps(samples, future).value()),
        "pinball": float(forecasting.quantile_loss(quantiles, future, forecast.LEVELS).value()),
        "parameters": sum(each.numel() for each in predictor.prediction_net.parameters()),
        "train_seconds": trained - began,
        "sample_seconds": drawn - trained,
    }
    print(description(("gluonts", "torch", "lightning", "pandas")))
    print(figures)
    return figures


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m benchmarks.gluonts_deepar", description=__doc__))
