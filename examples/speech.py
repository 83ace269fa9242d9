"""Speech recognition: from audio frames to letters, or to one of a few words.

To recognise recordings of your own, pass --data, or copy `Recogniser`, `mean_loss` and `train`;
`main` shows the beam search.

With `--task transcribe`, bidirectional recurrent layers compute the probabilities of letters at
each step, and a beam search finds the text. By connectionist temporal classification (Graves et al.
2006), the model learns without knowing when a letter is spoken. With `--model transducer`, the
layers have one direction, and a prediction network reads the letters that are already found (Graves
2012); `seqjax.streaming.Session` runs such a model on a stream. With `--task digits`, the mean of
the outputs over time goes to a softmax (many-to-one), whose classes are the texts of the training
recordings.

With `--lm-order N`, an n-gram model of letters takes part in the beam search. It is counted from
the training transcripts. `--lm FILE` reads one from an ARPA file instead, in which letters are
separated by spaces and "|" stands for the space between words. With `--lm-unit words`, the model is
one of words. The weight of the model and a bonus for each letter are chosen on the validation
utterances.

By default, the data are digits that eSpeak NG synthesises. The voices of the test set are not in
the training set. --data reads real speech, with the published test set:

- the Free Spoken Digit Dataset: the folder `recordings`, or an archive of it (.tar.gz);
- features and texts, such as those of AN4, as FILE.npz: train_feats [frames, F], the concatenated
  frames of all utterances, 100 a second; train_len, the number of frames of each utterance;
  train_text; train_id, a name FOLDER/SPEAKER/UTTERANCE; and the same four arrays for test. The
  utterances of every tenth training speaker are used to choose the best epoch.

    python -m examples.speech
    python -m examples.speech --task digits --data recordings --epochs 20 --out out/digits
    python -m examples.speech --data an4.npz --out out/an4  # and the options in docs/results.md
    python -m examples.speech --data an4.npz --out out/an4 --resume --lm-order 5  # evaluate again
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from examples import script
from examples.shipped import letter_models, spoken_digits
from seqjax import cells, metrics, nn, sequences, streaming, training, viz
from seqjax.ctc import ctc_beam_search, ctc_loss
from seqjax.data import Batches, Vocabulary, batches, bucket_boundaries, stacked_frames
from seqjax.decoding import LogLinear, NGram, WordNGram
from seqjax.transducer import Transducer

KEYS = {"frame": ["frames"], "label": ["labels"]}  # both run over time, each with its own lengths
Language = NGram | WordNGram
Sets = dict[str, list[tuple[np.ndarray, str]]]  # frames [T, F] and texts of train, valid, test


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the speech example."""

    data: Path | None = None
    """Recordings or features, see above; by default speech is synthesised."""
    task: Literal["transcribe", "digits"] = "transcribe"
    """Find the letters of an utterance, or the word of a recording."""
    model: Literal["ctc", "transducer"] = "ctc"
    """The model of letters: CTC with layers in both directions, or a transducer with layers in one
    direction (transcribe only)."""
    cell: str = "gru"
    """Name of a cell in seqjax.CELLS."""
    hidden_size: int = 96
    """Number of units in each direction, and in the prediction network of a transducer."""
    joint_size: int = 64
    """Number of units of the joint network (transducer only)."""
    ctc_weight: float = 0.5
    """Weight of a CTC loss of the encoder in training. Without it, a transducer can learn to ignore
    the sound (transducer only)."""
    num_layers: int = 2
    """Number of layers; each reads both directions of the layer below."""
    stack: int = 3
    """Number of frames in a step. With more frames, training is faster, but with CTC, a text must
    not have more letters than steps."""
    dropout: float = 0.3
    """Dropout rate between layers and before the softmax."""
    noise: float = 0.4
    """Standard deviation of the noise that training adds to the features, which have standard
    deviation 1."""
    mask: float = 0.1
    """Share of the steps that training hides, in spans of four (after Park et al. 2019)."""
    stretch: float = 0.1
    """Maximum share by which training changes the speed of a recording. The change is drawn anew in
    each epoch."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all words (digits only)."""
    beam_width: int = 16
    """Number of prefixes in the beam search (transcribe only)."""
    lm_order: int = 0
    """Length n of the n-grams of a language model that is counted from the training transcripts; 0
    for no such model (transcribe only)."""
    lm: Path | None = None
    """ARPA file of a language model for the beam search (transcribe only)."""
    lm_unit: Literal["letters", "words"] = "letters"
    """The tokens of the language model. With words, those that it lists are preferred."""
    lm_weights: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """Weights of the language model to try on the validation recordings."""
    lm_bonuses: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    """Bonuses for each letter to try on the validation recordings."""
    epochs: int = 12
    """Number of passes through the training recordings."""
    learning_rate: float = 4e-3
    out: Path = Path("out/speech")
    """Folder for checkpoints, results, test.txt and, except for transducers, recognised.png."""
    after_training: ClassVar[tuple[str, ...]] = (
        "beam_width", "lm_order", "lm", "lm_unit", "lm_weights", "lm_bonuses",
    )  # fmt: skip
    shares: ClassVar[tuple[str, ...]] = (
        "dropout", "mask", "stretch", "label_smoothing", "ctc_weight",
    )  # fmt: skip


class Recogniser(nnx.Module):
    """Bidirectional recurrent layers, followed by a linear layer.

    With the task "transcribe", the linear layer is applied to the output of each step. With the
    task "digits", it is applied to the mean of the outputs.
    """

    def __init__(self, config: Config, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        self.recurrent = recurrent(config, features, bidirectional=True, rngs=rngs)
        self.pools = config.task == "digits"
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(self.recurrent.output_size, classes, rngs=rngs)

    def __call__(self, frames: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Return logits [B, T, classes], or [B, classes]; training needs `rngs` for dropout."""
        outputs = self.recurrent(frames, lengths=lengths, rngs=rngs).outputs.astype(jnp.float32)
        if self.pools:
            outputs = sequences.mean_pool(outputs, lengths=lengths)
        return self.head(self.dropout(outputs, rngs=rngs))


def recurrent(
    config: Config, features: int, *, bidirectional: bool, rngs: nnx.Rngs
) -> nn.Recurrent:
    """Return the recurrent layers that read the frames."""
    with script.blaming("cell"):
        cell = cells.make_cell(config.cell, features, config.hidden_size)
    return nn.Recurrent(
        cell, num_layers=config.num_layers, bidirectional=bidirectional, dropout=config.dropout,
        dtype=config.dtype, rngs=rngs,
    )  # fmt: skip


def make_model(config: Config, features: int, classes: int) -> Recogniser | Transducer:
    """Return the untrained model."""
    rngs = nnx.Rngs(config.seed)
    if config.model == "ctc" or config.task == "digits":
        return Recogniser(config, features, classes, rngs=rngs)
    return Transducer(
        recurrent(config, features, bidirectional=False, rngs=rngs),
        # The prediction network reads embeddings of 32 features.
        nn.GRU(32, config.hidden_size, dtype=config.dtype, rngs=rngs),
        vocabulary=classes, joint_size=config.joint_size, dropout=config.dropout, rngs=rngs,
    )  # fmt: skip


def examples(
    config: Config, recordings: list[tuple[np.ndarray, str]], tokens: Vocabulary, speeds: Any = 1.0
) -> dict[str, Any]:
    """Return the fields of examples; labels are the letters of a text, or the text as a whole."""
    played = zip(recordings, np.broadcast_to(speeds, len(recordings)), strict=True)
    whole = config.task == "digits"
    return {
        "frames": [stacked_frames(x, config.stack, speed=speed) for (x, _), speed in played],
        "labels": [tokens.encode([text] if whole else text) for _, text in recordings],
    }


def mean_loss(config: Config, model: Any, batch: Any, rngs: Any = None) -> metrics.Mean:
    """Return the loss in nats per letter (transcribe) or per recording (digits).

    With CTC, texts that have more letters than steps are left out.
    """
    frames, labels, lengths = batch["frames"], batch["labels"], batch["label_lengths"]
    options: Any = {"lengths": batch["frame_lengths"], "label_lengths": lengths}
    if isinstance(model, Transducer):
        options["ctc_weight"] = config.ctc_weight if rngs is not None else 0.0
        nats = model.loss(frames, labels, per_sequence=True, rngs=rngs, **options)
        return metrics.Mean(nats.sum(), lengths.sum())
    logits = model(frames, batch["frame_lengths"], rngs)
    if config.task == "digits":
        options = {"mask": batch["weights"], "label_smoothing": config.label_smoothing}
        return metrics.cross_entropy(logits, labels[:, 0], **options)
    nats = ctc_loss(logits, labels, per_sequence=True, **options)
    fits = ~jnp.isposinf(nats)
    return metrics.Mean(jnp.where(fits, nats, 0).sum(), jnp.where(fits, lengths, 0).sum())


def train(config: Config, sets: Sets, tokens: Vocabulary) -> training.FitResult:
    """Train on recordings whose speed, noise and hidden spans are drawn anew in each epoch."""
    count = len(sets["train"])
    slowest = examples(config, sets["train"], tokens, 1 - config.stretch)
    lengths = [list(map(len, pair)) for pair in zip(*slowest.values(), strict=True)]
    boundaries = bucket_boundaries(lengths, 3)

    def epoch_batches(epoch: int) -> Batches:
        rng = np.random.default_rng((config.seed, epoch))
        speeds = rng.uniform(1 - config.stretch, 1 + config.stretch, count)
        train_set = examples(config, sets["train"], tokens, speeds)
        return config.batches(train_set, sequence_keys=KEYS, boundaries=boundaries)(epoch)

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        frames = batch["frames"]
        size, steps, _ = frames.shape
        hidden = jax.random.bernoulli(rngs.mask(), config.mask, (size, -(-steps // 4)))
        hidden = jnp.repeat(hidden, 4, axis=1)[:, :steps, None]
        frames = frames + config.noise * jax.random.normal(rngs.noise(), frames.shape)
        frames = jnp.where(hidden, 0.0, frames)
        return mean_loss(config, model, batch | {"frames": frames}, rngs).value(), {}

    valid_set, features = examples(config, sets["valid"], tokens), slowest["frames"][0].shape[1]
    return config.fit(
        make_model(config, features, len(tokens)), loss_fn, epoch_batches,
        eval_batches=batches(valid_set, batch_size=32, sequence_keys=KEYS),
        metric_fn=lambda model, batch: {"loss": mean_loss(config, model, batch)},
    )  # fmt: skip


def search(
    model: Any, batch: Any, weight: Any, bonus: Any, *, width: int, language: Language | None
) -> jax.Array:
    """Return the best texts, tokens [B, width, N], by a beam search, also with a language model."""
    frames, lengths = batch["frames"], batch["frame_lengths"]
    options: Any = {"lengths": lengths, "beam_width": width, "n_best": width}
    if language is not None:
        options["fusion"] = LogLinear([language], [weight], bonus)
        options["fusion_state"] = (language.initial_state(len(frames)),)
        options |= {"begin": Vocabulary.begin, "end": Vocabulary.end}
    if isinstance(model, Transducer):
        return model.beam_search(frames, **options).tokens
    return ctc_beam_search(model(frames, lengths), **options).tokens


def recogniser(
    config: Config,
    model: Any,
    recordings: list[tuple[np.ndarray, str]],
    tokens: Vocabulary,
    language: Language | None = None,
) -> Callable[[float, float], list[list[str]]]:
    """Return a function of weight and bonus that returns the texts of each recording, best first.

    One program serves for all weights and bonuses.
    """
    fields = examples(config, recordings, tokens)
    parts = list(batches(fields, batch_size=32, sequence_keys=KEYS))
    find = nnx.jit(functools.partial(search, width=config.beam_width, language=language))

    def texts(weight: float, bonus: float) -> list[list[str]]:
        found = [np.asarray(find(model, batch, weight, bonus))[batch["weights"]] for batch in parts]
        return [["".join(tokens.decode(x)) for x in row] for rows in found for row in rows]

    return texts


def with_language_model(
    config: Config, model: Any, sets: Sets, tokens: Vocabulary, language: Language
) -> tuple[list[list[str]], dict[str, float]]:
    """Return the texts of the test set, best first, and the weight and bonus that were chosen."""
    find = recogniser(config, model, sets["valid"], tokens, language)
    right = [text for _, text in sets["valid"]]
    weight, bonus = letter_models.choose(find, right, config.lm_weights, config.lm_bonuses)
    found = recogniser(config, model, sets["test"], tokens, language)(weight, bonus)
    return found, {"language_model_weight": weight, "language_model_bonus": bonus}


def streamed(config: Config, model: Transducer, sets: Sets, tokens: Vocabulary) -> dict[str, float]:
    """Run the test recordings as streams, step by step, and compare with whole recordings."""
    fields = examples(config, sets["test"], tokens)
    greedy = nnx.jit(lambda model, x, lengths: model.greedy(x, lengths=lengths).tokens[:, 0])
    whole: list[str] = []
    for batch in batches(fields, batch_size=32, sequence_keys=KEYS):
        rows = np.asarray(greedy(model, batch["frames"], batch["frame_lengths"]))
        whole += ["".join(tokens.decode(row)) for row in rows[batch["weights"]]]
    first = fields["frames"][0]
    session = streaming.Session(model, capacity=1, example=first[0])
    session.open("warm-up")
    session.step({"warm-up": first[0]})  # compiles
    session.close("warm-up")
    texts: list[str] = []
    began = time.process_time()
    for frames in fields["frames"]:
        session.open("test")
        labels = [session.step({"test": frame})["test"] for frame in frames]
        session.close("test")
        texts.append("".join(tokens.decode(np.concatenate(labels))))
    spent = time.process_time() - began
    right = [text.split() for _, text in sets["test"]]
    return {
        "greedy_word_error_rate": spoken_digits.error_rate(right, [x.split() for x in whole]),
        "share_of_streamed_texts_equal": float(np.mean(np.array(texts) == np.array(whole))),
        "processor_seconds_per_streamed_second": 100 * spent / sum(len(x) for x, _ in sets["test"]),
    }


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and plot; return the metrics of the test set."""
    config.prepare()
    whole = config.task == "digits"
    with script.blaming("data"):
        sets = spoken_digits.load(config.data, words=1 if whole else 5)
    said, right = ([text for _, text in sets[split]] for split in ("train", "test"))
    tokens = Vocabulary.build([text] if whole else text for text in said)
    kind = "synthesised utterances" if config.data is None else "recordings"
    sizes = ", ".join(f"{len(recordings):,} {split}" for split, recordings in sets.items())
    print(f"{kind}: {sizes}; {len(tokens) - len(tokens.special)} classes")
    language = None
    if config.lm is not None or config.lm_order:
        with script.blaming("lm" if config.lm is not None else "lm_order"):
            if whole or (config.lm is not None and config.lm_order):
                raise ValueError("expected --task transcribe, and either --lm or --lm-order")
            language = letter_models.load(config.lm, config.lm_order, config.lm_unit, said, tokens)
    if not whole and config.model == "ctc":
        long = sum(len(text) > len(frames) // config.stack for frames, text in sets["train"])
        print(f"{long} texts have more letters than steps and are not used in training")
    result = train(config, sets, tokens)
    model: Any = result.model
    say = nnx.jit(lambda model, batch: model(batch["frames"], batch["frame_lengths"]))
    test = batches(examples(config, sets["test"], tokens), batch_size=32, sequence_keys=KEYS)
    if whole:
        best = []
        for batch in test:
            logits = np.asarray(say(model, batch))
            best += tokens.pieces(logits.argmax(-1)[batch["weights"]])
        write(config, right, best)
        config.save_figure(viz.confusion(right, best), "recognised.png")
        return config.report(result, **spoken_digits.accuracies(said, right, best))
    found = recogniser(config, model, sets["test"], tokens)(0.0, 0.0)
    best = [texts[0] for texts in found]
    rates = spoken_digits.error_rates(said, right, found)
    if language is None:
        write(config, right, best)
    else:
        found, chosen = with_language_model(config, model, sets, tokens, language)
        write(config, right, best, [texts[0] for texts in found])
        others = spoken_digits.error_rates(said, right, found)
        others.pop("empty_transcript_word_error_rate")
        rates |= chosen | {f"{name}_with_language_model": x for name, x in others.items()}
    if config.model == "transducer":
        return config.report(result, **rates, **streamed(config, model, sets, tokens))
    heard = jax.nn.softmax(say(model, test[0])[0, : test[0]["frame_lengths"][0]])
    title = f"“{right[0]}”, found: “{best[0]}”"
    figure = spoken_digits.plot(np.asarray(heard), tokens, title, 10 * config.stack)
    config.save_figure(figure, "recognised.png")
    return config.report(result, **rates)


def write(config: Config, *columns: list[str]) -> None:
    """Write test.txt: the right texts and those found, also with a language model."""
    lines = ["\t".join(row) + "\n" for row in zip(*columns, strict=True)]
    (config.out / "test.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.speech", description=__doc__))
