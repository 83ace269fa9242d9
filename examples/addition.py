"""Addition: an encoder-decoder reads "535+61" and writes "596", one character at a time.

To use the pieces of an encoder-decoder without `seq2seq.pair_loss` and `seq2seq.generate`, copy
`loss_fn` (teacher forcing) and `answers_of` (greedy decoding).

The task is that of Zaremba and Sutskever (2014), in the form of Keras's example. The numbers have
up to three digits. One LSTM reads the question backwards, and another LSTM writes the answer. The
questions are drawn from a seed, so no data are needed.

    python -m examples.addition --ask 535+61 7+999
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import tyro
from flax import nnx

from examples import script
from seqjax import decoding, losses, metrics, seq2seq
from seqjax.data import Vocabulary, batches

LETTERS = Vocabulary("0123456789+ ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the addition example."""

    ask: tuple[str, ...] = ("535+61", "7+999", "250+250")
    """Questions to answer at the end."""
    digits: int = 3
    """Maximum number of digits of a number."""
    questions: int = 50_000
    """Number of different questions. A tenth of them is held out for the test, and a hundredth to
    choose the epoch."""
    hidden_size: int = 128
    """Number of units of the encoder and of the decoder."""
    attention: bool = False
    """Use attention over the question in the decoder (Bahdanau et al. 2015)."""
    epochs: int = 30
    """Number of passes through the questions."""
    batch_size: int = 64
    """Number of questions in a batch."""
    average: float = 0.999
    """Decay of a running average of the weights. The final model has the averaged weights; 0 turns
    averaging off."""
    learning_rate: float = 3e-3
    """Maximum learning rate of Adam. The rate rises for half an epoch and falls to zero along a
    cosine."""
    out: Path = Path("out/addition")
    """Folder for checkpoints, results and the learning curve."""
    after_training: ClassVar[tuple[str, ...]] = ("ask",)


def question(text: str, digits: int) -> np.ndarray:
    """Return the ids of a question's characters, padded with spaces and reversed."""
    return LETTERS.encode(text.ljust(2 * digits + 1))[::-1]


def draw(config: Config) -> tuple[dict[str, Any], ...]:
    """Draw questions with answers; return the training, validation and test sets.

    No two questions contain the same two numbers, not even in another order.
    """
    if config.questions < 10:
        raise SystemExit(f"--questions: expected at least 10, got {config.questions}")
    if config.digits > 9:
        raise SystemExit(f"--digits: expected at most 9, got {config.digits}")
    rng = np.random.default_rng(config.seed)
    most = 10**config.digits
    if config.questions > most * (most + 1) // 4:
        raise SystemExit(f"--questions: expected at most {most * (most + 1) // 4}")
    pairs: dict[tuple[int, int], tuple[int, int]] = {}  # questions by sorted numbers
    while len(pairs) < config.questions:
        a, b = (int(rng.integers(10 ** rng.integers(1, config.digits + 1))) for _ in range(2))
        pairs.setdefault((min(a, b), max(a, b)), (a, b))
    # Short questions are few and are drawn early. Without a permutation all of them would be held
    # out.
    ordered = [(a, b) for a, b in rng.permutation(list(pairs.values())).tolist()]
    asked = np.stack([question(f"{a}+{b}", config.digits) for a, b in ordered])
    answers = [LETTERS.encode(str(a + b).ljust(config.digits + 1)) for a, b in ordered]
    labels = np.stack([[*answer, LETTERS.end] for answer in answers]).astype(np.int32)
    begins = np.full((len(ordered), 1), LETTERS.begin, np.int32)
    data = {"asked": asked, "labels": labels, "tokens": np.hstack([begins, labels[:, :-1]])}
    test = len(ordered) // 10
    held = test + max(1, test // 10)
    parts = (slice(held, None), slice(test, held), slice(test))
    return tuple({name: values[part] for name, values in data.items()} for part in parts)


def loss_fn(model: seq2seq.Seq2Seq, batch: Any, rngs: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Return the cross-entropy over the characters of the answers."""
    logits = model(batch["asked"], batch["tokens"], rngs=rngs)
    mask = np.ones(batch["labels"].shape, bool) & (batch["weights"] > 0)[:, None]
    loss = losses.cross_entropy(logits, batch["labels"], mask=mask)
    return loss, {"accuracy": metrics.accuracy(logits, batch["labels"], mask=mask)}


@functools.partial(jax.jit, static_argnames="length")
def answers_of(model: Any, asked: Any, *, length: int) -> Any:
    """Return the answers, by greedy decoding."""
    step, state = model.decoding(model.encoder(asked, deterministic=True))
    return decoding.greedy(
        step, state, begin=LETTERS.begin, end=LETTERS.end, max_length=length
    ).tokens[:, 0]


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and answer `ask`; return the accuracies of characters and whole answers."""
    config.prepare()
    train_set, valid_set, test_set = draw(config)
    for text in config.ask:
        if len(text) > 2 * config.digits + 1 or set(text) - set("0123456789+"):
            raise SystemExit(
                f"--ask: expected two numbers of up to {config.digits} digits, got {text!r}"
            )
    model = seq2seq.Seq2Seq(
        source_vocabulary=len(LETTERS), target_vocabulary=len(LETTERS),
        embed_size=32, hidden_size=config.hidden_size,
        bidirectional=config.attention, decoder_size=config.hidden_size,
        attention="additive" if config.attention else None,
        bridge="projected" if config.attention else "last", dtype=config.dtype,
        rngs=nnx.Rngs(config.seed),
    )  # fmt: skip
    result = config.fit(
        model,
        loss_fn,
        config.batches(train_set, sequence_keys=()),
        eval_batches=batches(valid_set, batch_size=512, sequence_keys=()),
        metric_fn=lambda model, batch: loss_fn(model, batch, None)[1],
        monitor="eval_accuracy",
        mode="max",
    )
    length = config.digits + 2
    found = np.asarray(answers_of(result.model, test_set["asked"], length=length))[:, : length - 1]
    labels = test_set["labels"][:, : length - 1]
    right = found == labels
    often = np.bincount(train_set["labels"][:, : length - 1].ravel()).argmax()
    if config.ask:
        asked = np.stack([question(text, config.digits) for text in config.ask])
        answers = answers_of(result.model, asked, length=length)
        for text, ids in zip(config.ask, answers, strict=True):
            print(f"  {text} = {''.join(LETTERS.decode(np.asarray(ids))).strip()}")
    return config.report(
        result,
        characters=float(right.mean()),
        answers=float(right.all(1).mean()),
        always_the_most_frequent_character=float((labels == often).mean()),
    )


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.addition", description=__doc__))
