"""The pictures of docs/gallery.md: four small networks, trained for a minute in total.

To draw the inside of a model of your own, copy the calls of `traces` and `viz` in `draw_recall`,
`draw_attention` and `draw_dynamics`.

The first network is an LSTM that reads letters. A "!" marks the letter after it, and the LSTM names
this letter at the end. The second is an encoder-decoder with attention that writes words backwards.
Letters are drawn from a seed. The third is the network of `examples.flip_flop`, and the fourth
forecasts the sales of a shop by the hour, which are made up.

    python -m examples.gallery
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import flip_flop
from seqjax import forecasting, losses, metrics, nn, seq2seq, sequences, traces, training, viz

LETTERS = "abcdefgh"
MARK = len(LETTERS)
BEGIN, END = len(LETTERS), len(LETTERS) + 1
STEPS = 20
LONGEST_WORD = 9


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the gallery."""

    epochs: int = 5
    """Number of epochs for each network; an epoch has 100 batches."""
    seed: int = 0
    """Seed of weights and letters."""
    out: Path = Path(__file__).resolve().parent.parent / "docs" / "images"
    """Folder for gallery_*.png."""


class Recall(nnx.Module):
    """An LSTM that reads letters, and a linear layer that names the marked letter."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(len(LETTERS) + 1, 16, rngs=rngs)
        self.recurrent = nn.LSTM(16, 32, forget_bias=1.0, rngs=rngs)
        self.readout = nnx.Linear(32, len(LETTERS), rngs=rngs)

    def answer(self, embedded: jax.Array, lengths: Any) -> jax.Array:
        """Return logits [B, 8] for embeddings [B, T, 16]."""
        outputs = self.recurrent(embedded, lengths=lengths, return_sequences=False).outputs
        return self.readout(outputs)

    def __call__(self, tokens: Any, lengths: Any) -> jax.Array:
        """Return logits [B, 8] for tokens [B, T]."""
        return self.answer(self.embed(tokens), lengths)


def recalls(rng: np.random.Generator, size: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Return sequences [B, T] of letters with one marked letter each, and the marked letters."""
    tokens = rng.integers(len(LETTERS), size=(size, steps))
    lengths = rng.integers(steps // 2, steps + 1, size=size)
    marks = rng.integers(lengths - 1)
    rows = np.arange(size)
    tokens[rows, marks] = MARK
    return {"tokens": tokens, "lengths": lengths, "labels": tokens[rows, marks + 1]}


def words(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """Return words [B, S] and the same words backwards."""
    lengths = rng.integers(3, LONGEST_WORD + 1, size=size)
    source = rng.integers(len(LETTERS), size=(size, LONGEST_WORD))
    labels = np.full((size, LONGEST_WORD + 1), END)
    for row, length in enumerate(lengths):
        labels[row, :length] = source[row, :length][::-1]
    tokens = np.hstack([np.full((size, 1), BEGIN), labels[:, :-1]])
    return {"source": source, "lengths": lengths, "tokens": tokens, "labels": labels}


def recall_loss(model: Any, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Return the cross-entropy of the marked letter."""
    del rngs
    logits = model(batch["tokens"], batch["lengths"])
    accuracy = metrics.accuracy(logits, batch["labels"])
    return losses.cross_entropy(logits, batch["labels"]), {"accuracy": accuracy}


def recall_metrics(model: Any, batch: Any) -> dict[str, Any]:
    """Return cross-entropy and accuracy as metrics."""
    logits = model(batch["tokens"], batch["lengths"])
    return {
        "loss": metrics.cross_entropy(logits, batch["labels"]),
        "accuracy": metrics.accuracy(logits, batch["labels"]),
    }


def words_loss(model: Any, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Return the cross-entropy of the letters and of the end token; padding is left out."""
    logits = model(batch["source"], batch["tokens"], lengths=batch["lengths"], rngs=rngs)
    mask = sequences.lengths_to_mask(batch["lengths"] + 1, logits.shape[1])
    return losses.cross_entropy(logits, batch["labels"], mask=mask), {}


def trained(model: Any, loss: Any, draw: Any, config: Config, **options: Any) -> Any:
    """Train for `config.epochs` epochs of 100 batches, and return the result of `fit`."""

    def batches(epoch: int) -> Any:
        rng = np.random.default_rng([config.seed, epoch])
        return [draw(rng, 64) for _ in range(100)]

    optimizer = training.optimizer(5e-3, clip_norm=1.0)
    return training.fit(
        model,
        loss,
        optimizer,
        batches,
        epochs=config.epochs,
        seed=config.seed,
        progress=False,
        **options,
    )


def draw_recall(config: Config) -> dict[str, Any]:
    """Train the LSTM that recalls a marked letter, and draw all pictures except attention."""
    held_out = recalls(np.random.default_rng([config.seed, 1, 1]), 512)
    fresh = Recall(nnx.Rngs(config.seed))
    result = trained(
        Recall(nnx.Rngs(config.seed)), recall_loss, recalls, config,
        eval_batches=[held_out], metric_fn=recall_metrics,
    )  # fmt: skip
    model = result.model
    cell, params = model.recurrent.cell, model.recurrent.layers[0].forward.params

    text = "cab!hegfadbcehag"
    tokens = jnp.array([[MARK if c == "!" else LETTERS.index(c) for c in text]])
    lengths, said = jnp.array([len(text)]), LETTERS.index("h")
    embedded = model.embed(tokens)
    states = model.recurrent(embedded).outputs[0]
    order = np.argsort(-np.abs(np.asarray(states[-1])))  # units with large final values first
    gates = traces.gates(model, tokens, lengths)["recurrent.layers.0.forward"]
    saliency = traces.saliency(lambda xs: model.answer(xs, lengths)[:, said], embedded)

    rng = np.random.default_rng([config.seed, 2, 2])
    marked_first = rng.integers(len(LETTERS), size=(64, STEPS))
    marked_first[:, 0] = MARK
    full = jnp.full(64, STEPS)

    def flow(model: Any) -> jax.Array:
        def loss(model: Any) -> jax.Array:
            return losses.cross_entropy(model(marked_first, full), marked_first[:, 1])

        return traces.gradient_norms(loss, model)["recurrent.layers.0.forward"].mean(0)

    norms = {name: flow(m) for name, m in {"before training": fresh, "after": model}.items()}
    # These sequences are far longer than those of the training; the network makes mistakes in them.
    longer = recalls(np.random.default_rng([config.seed, 3, 3]), 1000, 15 * STEPS)
    found = np.asarray(jax.jit(model.__call__)(longer["tokens"], longer["lengths"]).argmax(-1))
    names = [[LETTERS[index] for index in indices] for indices in (longer["labels"], found)]
    title = "An LSTM that recalls the marked letter"
    return {
        "learning_curve": viz.learning_curve(result.history),
        "hidden_states": viz.hidden_states(states[:, order], step_labels=text, title=title),
        "gates": viz.gates(
            {name: gate[0][:, order] for name, gate in gates.items()}, step_labels=text, title=title
        ),
        "saliency": viz.saliency(
            saliency[0], step_labels=text, title="Saliency of each letter for the answer “h”"
        ),
        "gradient_flow": viz.gradient_flow(
            {f"LSTM {name}": norm / norm[-1] for name, norm in norms.items()}
        ),
        "eigenvalues": viz.eigenvalues(traces.eigenvalues(cell, params)),
        "confusion": viz.confusion(*names),
    }


def draw_attention(config: Config) -> dict[str, Any]:
    """Train the encoder-decoder that writes words backwards, and draw its attention."""
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(LETTERS), target_vocabulary=len(LETTERS) + 2,
        embed_size=16, hidden_size=32, cell="gru",
        rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    model = trained(model, words_loss, words, config).model
    word = "abcdefgh"
    source = [[LETTERS.index(letter) for letter in word]]
    [output] = seq2seq.generate(model, source, begin=BEGIN, end=END, max_length=12)
    rows = [*(LETTERS[token] if token < BEGIN else "?" for token in output.tokens), "end"]
    weights: Any = output.attention
    title = "Attention while a word is written backwards"
    return {"attention": viz.attention(weights, word, rows[: len(weights)], title=title)}


def draw_dynamics(config: Config) -> dict[str, Any]:
    """Draw the fixed points of a trained network, and Lyapunov exponents of random networks."""
    bits = flip_flop.Config(seed=config.seed)
    found, visited = flip_flop.analyse(flip_flop.train(bits), bits)
    start = 0.1 * jax.random.normal(jax.random.key(config.seed + 1), (4, 64))
    exponents = {}
    for gain in (0.8, 1.5, 3.0):

        def weights(key: Any, shape: Any, dtype: Any, gain: float = gain) -> jax.Array:
            return gain / 8 * jax.random.normal(key, shape, dtype)

        layer = nn.RNN(1, 64, recurrent_init=weights, rngs=nnx.Rngs(config.seed))
        exponents[f"gain {gain}"] = traces.lyapunov_exponents(
            layer, jnp.zeros([4, 600, 1]), count=32, discard=200, initial_state=(start,)
        )
    return {
        "fixed_points": viz.fixed_points(found.points[0], found.stable, states=visited[:8]),
        "lyapunov_exponents": viz.lyapunov_exponents(exponents),
    }


def sales(rng: np.random.Generator, days: int) -> Any:
    """Return a data frame of the sales of each hour, and of the price of each day."""
    import pandas

    hours = pandas.date_range("2024-01-01", periods=24 * days, freq="h")
    wave = 1 + np.sin(2 * np.pi * hours.hour / 24) + 0.5 * (hours.day_of_week >= 5)
    price = np.repeat(rng.choice([1.0, 2.0], days), 24)
    price[-48:] = np.repeat([1.0, 2.0], 24)
    sold = rng.poisson(20 * np.asarray(wave) / price).astype(float)
    return pandas.DataFrame({"sold": sold, "price": price}, index=hours)


def draw_forecast(config: Config) -> dict[str, Any]:
    """Train a forecaster of hourly sales, and draw its forecast of the last two days."""
    context, horizon = 72, 48
    table = forecasting.read_frame(
        sales(np.random.default_rng([config.seed, 4, 4]), 58), "sold", known=["price"],
        calendar=["hour", "day_of_week"],
    )  # fmt: skip
    values, known, times = table.values, np.asarray(table.known), table.times()
    windows = forecasting.training_windows(
        values[:, :-horizon], context=context, horizon=24, known=known[:, :-horizon]
    )

    def draw(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
        rows = rng.integers(len(windows["values"]), size=size)
        return {name: windows[name][rows] for name in ("values", "known")}

    def loss(model: Any, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
        return model.loss(batch["values"], known=batch["known"], context=context, rngs=rngs), {}

    model = forecasting.AutoregressiveForecaster(
        24, forecasting.NegativeBinomial(), cell="gru", lags=[1, 24], known=table.known_names,
        rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    model = trained(model, loss, draw, config).model
    past = slice(-horizon - context, -horizon)
    samples = model.sample(
        values[:, past], jax.random.key(config.seed), horizon=horizon, num_samples=200,
        known=known[:, past], future_known=known[:, -horizon:],
    )  # fmt: skip
    figure = viz.fan_chart(
        samples[0], times=times[-horizon:], past=values[0, past], past_times=times[past],
        truth=values[0, -horizon:], label="sold per hour",
    )  # fmt: skip
    return {"fan_chart": figure}


def main(config: Config) -> None:
    """Train the networks, and save their pictures."""
    config.out.mkdir(parents=True, exist_ok=True)
    for draw in (draw_recall, draw_attention, draw_dynamics, draw_forecast):
        for name, figure in draw(config).items():
            figure.savefig(config.out / f"gallery_{name}.png", dpi=90)
            print(config.out / f"gallery_{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.gallery", description=__doc__))
