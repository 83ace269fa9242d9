"""A language model of characters or words over one long text.

To train a language model of your own, copy `LanguageModel`, `loss_fn`, `metric_fn` and `write`; in
`main`, `stream_windows` makes the batches.

The text is one stream, which is read in windows (truncated backpropagation through time). The state
is carried from window to window, but the gradient is not. The state is reset at each document.

By default, the text is the help texts of Python. --data reads a file or a folder. The first 90 % of
a file are for training, the next 5 % for choosing the epoch, and the last 5 % for the test. A
folder contains three files whose names end in train.txt, valid.txt and test.txt.

    python -m examples.language_model --data input.txt --begin "KING"
    python -m examples.language_model --data FOLDER --preset zaremba-small --out out/ptb

Presets: zaremba-small and -medium (Zaremba, Sutskever, Vinyals 2014), awd (tied weights, dropout of
weights, locked dropout, averaging; Merity, Keskar, Socher 2018) and char-rnn (Karpathy 2015).
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import texts
from seqjax import decoding, losses, metrics, nn, training
from seqjax.data import Vocabulary, stream_windows

# Zaremba et al. sum the loss over the steps of a window, with a learning rate of 1 and a gradient
# norm of at most 5. The loss here is the mean over the steps. Therefore the learning rate is
# multiplied by the number of steps, and the norm is divided by it.
PRESETS: dict[str, dict[str, Any]] = {
    "zaremba-small": {
        "unit": "words", "hidden_size": 200, "num_layers": 2, "steps": 20, "batch_size": 20,
        "optimizer": "sgd", "learning_rate": 20.0, "constant_epochs": 4, "decay": 0.5, "epochs": 13,
        "dropout": 0.0, "clip_norm": 5 / 20, "tied": False, "vocabulary_size": 10_004,
    },
    "zaremba-medium": {
        "unit": "words", "hidden_size": 650, "num_layers": 2, "steps": 35, "batch_size": 20,
        "optimizer": "sgd", "learning_rate": 35.0, "constant_epochs": 6, "decay": 0.8, "epochs": 39,
        "dropout": 0.5, "clip_norm": 5 / 35, "tied": False, "vocabulary_size": 10_004,
    },
    "awd": {
        "unit": "words", "hidden_size": 400, "num_layers": 3, "steps": 70, "batch_size": 40,
        "dropout": 0.4, "locked_dropout": 0.3, "weight_dropout": 0.5, "clip_norm": 0.25,
        "learning_rate": 2e-3, "average": 0.999, "epochs": 60, "vocabulary_size": 10_004,
    },
    "char-rnn": {
        "hidden_size": 128, "num_layers": 2, "steps": 50, "batch_size": 50, "epochs": 50,
        "dropout": 0.0, "learning_rate": 2e-3, "clip_norm": 5.0, "tied": False,
    },
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the language model example."""

    data: Path | None = None
    """A text file in UTF-8, or a folder of three files; by default the help texts of Python."""
    preset: Literal["none", "zaremba-small", "zaremba-medium", "awd", "char-rnn"] = "none"
    """A set of values for the options that you do not set. An option that you set to its usual
    default counts as not set."""
    unit: Literal["characters", "words"] = "characters"
    """The kind of token. Words are separated by spaces; the end of a line is a token, too."""
    vocabulary_size: int = 20_000
    """Maximum number of tokens in the vocabulary."""
    hidden_size: int = 256
    """Number of units of each layer, and size of an embedding."""
    num_layers: int = 1
    """Number of LSTM layers."""
    dropout: float = 0.2
    """Dropout rate on embeddings, between layers and before the softmax, with a new mask at each
    step."""
    locked_dropout: float = 0.0
    """Dropout rate on the inputs of each layer, with the same mask at every step of a window."""
    weight_dropout: float = 0.0
    """Dropout rate on the elements of the recurrent matrices."""
    tied: bool = True
    """Use the matrix of the embedding in the softmax."""
    steps: int = 64
    """Number of tokens in a window; the gradient goes back at most this many steps (k2)."""
    stride: int | None = None
    """Number of tokens from one window to the next (k1); by default `steps`."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Name of the optimizer. With sgd, the learning rate is constant at first and then falls from
    epoch to epoch."""
    constant_epochs: int = 4
    """For sgd: number of epochs before the learning rate falls."""
    decay: float = 0.5
    """For sgd: factor by which the learning rate falls in each later epoch."""
    learning_rate: float = 4e-3
    """Maximum learning rate of Adam. The rate rises for half an epoch and falls to zero along a
    cosine."""
    batch_size: int = 16
    """Number of rows into which the text is divided; all rows are read at the same time."""
    epochs: int = 6
    """Number of passes through the text."""
    begin: str = "The "
    """Beginning of the text that the model writes."""
    length: int = 400
    """Number of tokens that the model writes."""
    temperature: float = 0.8
    """Sampling temperature; below 1, probable tokens become more probable."""
    top_p: float = 0.95
    """Sample from the smallest set of tokens with this total probability."""
    out: Path = Path("out/language_model")
    """Folder for checkpoints, results and written.txt."""
    after_training: ClassVar[tuple[str, ...]] = ("begin", "length", "temperature", "top_p")
    shares: ClassVar[tuple[str, ...]] = ("dropout", "locked_dropout", "weight_dropout")

    def check(self) -> None:
        """Raise SystemExit if an option of the windows, the vocabulary or the sampling is wrong."""
        least = len(Vocabulary.special) + 1
        if self.vocabulary_size < least:
            raise SystemExit(
                f"--vocabulary-size: expected at least {least}, as {least - 1} tokens are special, "
                f"got {self.vocabulary_size}"
            )
        if self.stride is not None and self.stride > self.steps:
            raise SystemExit(f"--stride: expected at most --steps {self.steps}, got {self.stride}")
        if not texts.tokens_of(self.begin, self.unit):
            raise SystemExit(f"--begin: expected at least one token, got {self.begin!r}")
        if not 0 < self.temperature < math.inf:
            raise SystemExit(f"--temperature: expected more than 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise SystemExit(f"--top-p: expected more than 0, at most 1, got {self.top_p}")


class LanguageModel(nnx.Module):
    """A model of an embedding, LSTM layers that carry their state, and a softmax."""

    def __init__(self, config: Config, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        size = config.hidden_size
        layers = nn.LSTM(
            size, size, num_layers=config.num_layers, dropout=config.dropout,
            input_dropout=config.locked_dropout, weight_dropout=config.weight_dropout,
            dtype=config.dtype, rngs=rngs,
        )  # fmt: skip
        init = nnx.initializers.truncated_normal(0.1)
        self.embedding = nnx.Embed(vocabulary, size, embedding_init=init, rngs=rngs)
        self.layers = nn.Stateful(layers, config.batch_size)
        self.dropout = nnx.Dropout(config.dropout)
        self.head: Any = None if config.tied else nnx.Linear(size, vocabulary, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(vocabulary))
        self.stride = config.stride

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B, T, V] of the token that follows each token of a window."""
        return self.logits(self.hidden(batch, rngs))

    def hidden(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return the inputs of the softmax [B, T, H]."""
        xs = self.dropout(self.embedding(batch["inputs"]), rngs=rngs)
        ys = self.layers(xs, resets=batch["resets"], stride=self.stride, rngs=rngs).outputs
        return self.dropout(ys.astype(xs.dtype), rngs=rngs)

    def readout(self) -> dict[str, Any]:
        """Return the matrix and bias of the softmax, for `linear_cross_entropy`."""
        if self.head is None:
            matrix = self.embedding.embedding[...]
            return {"kernel": matrix, "bias": self.bias[...], "transposed": True}
        return {"kernel": self.head.kernel[...], "bias": self.head.bias[...] + self.bias[...]}

    def logits(self, ys: jax.Array) -> jax.Array:
        """Return logits [..., V] for outputs [..., H]."""
        return (self.embedding.attend(ys) if self.head is None else self.head(ys)) + self.bias[...]

    def step(self, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Return the logits of the next token and the state, for `seqjax.decoding`."""
        ys, state = self.layers.layer.step(self.embedding(tokens), state)
        return self.logits(ys), state


def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> Any:
    """Return the cross entropy of the next token, in nats."""
    right = {"labels": batch["targets"], "mask": batch["mask"]}
    hidden = model.hidden(batch, rngs)
    return losses.linear_cross_entropy(hidden, **model.readout(), **right), {}


def metric_fn(model: Any, batch: Any) -> dict[str, metrics.Mean]:
    """Return the cross entropy of the next token as a metric, in nats."""
    right = {"labels": batch["targets"], "mask": batch["mask"]}
    return {"loss": metrics.linear_cross_entropy(model.hidden(batch), **model.readout(), **right)}


def write(config: Config, model: LanguageModel, vocabulary: Vocabulary) -> str:
    """Return `config.begin` and the text that the model writes after it."""
    begin = vocabulary.encode(texts.tokens_of(config.begin, config.unit))
    state = model.layers.layer.initial_state((1,))
    found = decoding.sample(
        model.step, state, jax.random.key(config.seed), begin=begin[0], end=vocabulary.end,
        max_length=config.length, temperature=config.temperature, top_p=config.top_p,
        prefix=begin[None, 1:],
    )  # fmt: skip
    ids = [begin[0], *np.asarray(found.tokens[0, 0, : int(found.lengths[0, 0])])]
    return texts.joined(vocabulary.pieces(ids), config.unit)


def surprise(model: LanguageModel, window: Any) -> np.ndarray:
    """Return the surprise -log2 p of each token in the first row of a window, in bits."""
    model.layers.reset()
    log_probs = jax.nn.log_softmax(model(window)[0])
    targets, shown = window["targets"][0], window["mask"][0]
    return -np.asarray(log_probs[np.arange(len(targets)), targets])[shown] / math.log(2)


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and write; return the perplexity and the bits per token of the test text."""
    config = config.with_defaults(**PRESETS.get(config.preset, {}))
    config.prepare()
    config.check()
    with script.blaming("data"):
        tokens = {
            split: [texts.tokens_of(text, config.unit) for text in documents]
            for split, documents in texts.load(config.data).items()
        }
        vocabulary = Vocabulary.build(tokens["train"], size=config.vocabulary_size)
        streams = {
            split: stream_windows(
                map(vocabulary.encode, documents), batch_size=config.batch_size,
                steps=config.steps, stride=config.stride if split == "train" else None,
            )
            for split, documents in tokens.items()
        }  # fmt: skip
    sizes = {split: int(stream.mask.sum()) for split, stream in streams.items()}
    print(f"{len(vocabulary):,} different {config.unit}; number of predictions: {sizes}")
    model = LanguageModel(config, len(vocabulary), rngs=nnx.Rngs(config.seed))
    optimizer = None
    if config.optimizer == "sgd":

        def rate(update: Any) -> Any:
            late = jnp.maximum(0, update // len(streams["train"]) + 1 - config.constant_epochs)
            return config.learning_rate * config.decay**late

        optimizer = training.optimizer(rate, name="sgd", clip_norm=config.clip_norm)
    result = config.fit(
        model, loss_fn, streams["train"], eval_batches=streams["valid"], metric_fn=metric_fn,
        optimizer=optimizer,
    )  # fmt: skip
    model = result.model
    nats = script.measure(model, metric_fn, streams["test"])["loss"]
    chance = texts.unigram(streams, len(vocabulary))
    text = write(config, model, vocabulary)
    (config.out / "written.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}")
    window = streams["test"][0]
    pieces = vocabulary.pieces(window["targets"][0][window["mask"][0]])
    config.save_figure(texts.plot(surprise(model, window), pieces), "surprise.png")
    return config.report(
        result, perplexity=math.exp(nats), bits=nats / math.log(2),
        validation_perplexity=math.exp(result.best["eval_loss"]),
        unigram_perplexity=math.exp(chance), unigram_bits=chance / math.log(2),
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.language_model", description=__doc__))
