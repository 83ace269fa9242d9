"""What comes next? A language model of characters or words over one long text.

The text is one stream, read in windows by truncated backpropagation through time: the state goes
on from window to window, the gradient does not; a document starts anew. Any text will do: a file
(its first 90 % are to learn, then 5 % each for choosing the epoch and for the test), or a folder of
three whose names end in train.txt, valid.txt and test.txt. The default is the help texts of Python.

    python -m examples.language_model --data input.txt --begin "KING"
    python -m examples.language_model --data FOLDER --preset zaremba-small --out out/ptb

Presets: zaremba-small and -medium (Zaremba, Sutskever, Vinyals 2014), awd (Merity, Keskar, Socher
2018: tied and dropped weights, locked dropout, averaging) and char-rnn (Karpathy 2015).
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import texts
from seqjax import decoding, losses, metrics, nn, training
from seqjax.data import Vocabulary, stream_windows

PRESETS: dict[str, dict[str, Any]] = {
    "zaremba-small": {
        "unit": "words", "hidden_size": 200, "num_layers": 2, "steps": 20, "batch_size": 20,
        "optimizer": "sgd", "learning_rate": 1.0, "constant_epochs": 4, "decay": 0.5, "epochs": 13,
        "dropout": 0.0, "clip_norm": 5.0, "tied": False, "vocabulary_size": 10_004,
    },
    "zaremba-medium": {
        "unit": "words", "hidden_size": 650, "num_layers": 2, "steps": 35, "batch_size": 20,
        "optimizer": "sgd", "learning_rate": 1.0, "constant_epochs": 6, "decay": 0.8, "epochs": 39,
        "dropout": 0.5, "clip_norm": 5.0, "tied": False, "vocabulary_size": 10_004,
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
    """Trains a model, prints its perplexity and bits, and lets it write."""

    data: Path | None = None
    """A text file in UTF-8, or a folder of three; the help texts of Python if not given."""
    preset: Literal["none", "zaremba-small", "zaremba-medium", "awd", "char-rnn"] = "none"
    """Changes the options that were left as they are."""
    unit: Literal["characters", "words"] = "characters"
    """What a token is; words are what stands between spaces, and the ends of lines."""
    vocabulary_size: int = 20_000
    """Tokens that are known at most."""
    hidden_size: int = 256
    """Units of each layer, and features of an embedding."""
    num_layers: int = 1
    """LSTM layers."""
    dropout: float = 0.2
    """Rate on embeddings, between layers and before the softmax, each element on its own."""
    locked_dropout: float = 0.0
    """Rate on the inputs of each layer, the same features at every step of a window."""
    weight_dropout: float = 0.0
    """Rate on the elements of the recurrent matrices."""
    tied: bool = True
    """Whether the softmax has the embedding's matrix."""
    steps: int = 64
    """Tokens of a window: over how many the gradient goes back at most, k2."""
    stride: int | None = None
    """Tokens from one window to the next, k1; as many as a window has if not given."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """With sgd the learning rate is constant at first, then falls from epoch to epoch."""
    constant_epochs: int = 4
    """Of sgd: epochs before the learning rate falls."""
    decay: float = 0.5
    """Of sgd: what the learning rate is then multiplied by after each epoch."""
    learning_rate: float = 4e-3
    """Of Adam at its highest: it rises for half an epoch and falls to zero along a cosine."""
    batch_size: int = 16
    """Rows that the text is cut into, each read from its beginning."""
    epochs: int = 6
    """How many times to go through the text."""
    begin: str = "The "
    """How the text that the model writes begins."""
    length: int = 400
    """Tokens that it writes."""
    temperature: float = 0.8
    """Below 1 it keeps to the probable."""
    top_p: float = 0.95
    """It draws from the fewest tokens that are so probable together."""
    out: Path = Path("out/language_model")
    """Folder for checkpoints, figures and written.txt."""


class LanguageModel(nnx.Module):
    """An embedding, LSTM layers that carry their state, a softmax."""

    def __init__(self, config: Config, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        size = config.hidden_size
        layers = nn.LSTM(
            size, size, num_layers=config.num_layers, dropout=config.dropout,
            input_dropout=config.locked_dropout, weight_dropout=config.weight_dropout, rngs=rngs,
        )  # fmt: skip
        init = nnx.initializers.truncated_normal(0.1)
        self.embedding = nnx.Embed(vocabulary, size, embedding_init=init, rngs=rngs)
        self.layers = nn.Stateful(layers, config.batch_size)
        self.dropout = nnx.Dropout(config.dropout)
        self.head: Any = None if config.tied else nnx.Linear(size, vocabulary, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(vocabulary))
        self.stride = config.stride

    def __call__(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B, T, V] of the tokens after those of a window."""
        return self.logits(self.hidden(batch, rngs))

    def hidden(self, batch: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """The inputs of the softmax [B, T, H]."""
        xs = self.dropout(self.embedding(batch["inputs"]), rngs=rngs)
        ys = self.layers(xs, resets=batch["resets"], stride=self.stride, rngs=rngs).outputs
        return self.dropout(ys, rngs=rngs)

    def readout(self) -> dict[str, Any]:
        """The softmax's matrix and bias, for `linear_cross_entropy`."""
        if self.head is None:
            matrix = self.embedding.embedding[...]
            return {"kernel": matrix, "bias": self.bias[...], "transposed": True}
        return {"kernel": self.head.kernel[...], "bias": self.head.bias[...] + self.bias[...]}

    def logits(self, ys: jax.Array) -> jax.Array:
        """Logits [..., V] of outputs [..., H]."""
        return (self.embedding.attend(ys) if self.head is None else self.head(ys)) + self.bias[...]

    def step(self, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """One step of writing, for `seqjax.decoding`: the logits of the next token."""
        ys, state = self.layers.layer.step(self.embedding(tokens), state)
        return self.logits(ys), state


def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> Any:
    """Cross entropy of the next token, in nats."""
    right = {"labels": batch["targets"], "mask": batch["mask"]}
    hidden = model.hidden(batch, rngs)
    return losses.linear_cross_entropy(hidden, **model.readout(), **right), {}


def metric_fn(model: Any, batch: Any) -> dict[str, metrics.Mean]:
    """The same, as a mean over all windows."""
    right = {"labels": batch["targets"], "mask": batch["mask"]}
    return {"loss": metrics.linear_cross_entropy(model.hidden(batch), **model.readout(), **right)}


def write(config: Config, model: LanguageModel, vocabulary: Vocabulary) -> str:
    """What the model writes after the beginning."""
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
    """How many bits each token of a window's first row comes as a surprise."""
    model.layers.reset()
    log_probs = jax.nn.log_softmax(model(window)[0])
    targets, shown = window["targets"][0], window["mask"][0]
    return -np.asarray(log_probs[np.arange(len(targets)), targets])[shown] / math.log(2)


def main(config: Config) -> dict[str, float]:
    """Trains, measures, writes; returns perplexity and bits of the test text."""
    config = config.with_defaults(**PRESETS.get(config.preset, {}))
    config.prepare()
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
    print(f"{len(vocabulary):,} kinds of {config.unit}; to predict: {sizes}")
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
    texts.plot(surprise(model, window), pieces).savefig(config.out / "surprise.png", dpi=150)
    return config.report(
        result, perplexity=math.exp(nats), bits=nats / math.log(2),
        unigram_perplexity=math.exp(chance), unigram_bits=chance / math.log(2),
    )  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.language_model", description=__doc__))
