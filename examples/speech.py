"""What was said? Speech recognition: from frames of sound to letters, or to one of a few words.

`--task transcribe`: recurrent layers in both directions give letters at each step, and a beam
search the text, learned without knowing when a letter is spoken: connectionist temporal
classification (Graves et al. 2006). `--task digits`: the mean of the outputs over time goes to a
softmax (many-to-one), whose classes are the texts of the training recordings.

By default eSpeak NG speaks digits: synthesised speech, tested on voices that are not in the
training set. Real speech comes by --data, with the test set as published:

- the Free Spoken Digit Dataset: the folder `recordings`, or an archive of it (.tar.gz);
- features and texts, such as AN4's, as FILE.npz: train_feats [frames, F], 100 frames a second of
  all utterances one after another; train_len, the frames of each; train_text; train_id, a name
  FOLDER/SPEAKER/UTTERANCE; and the same for test. Every tenth speaker chooses the epoch.

    python examples/speech.py
    python examples/speech.py --task digits --data recordings --epochs 20 --out out/digits
    python examples/speech.py --data an4.npz --out out/an4  # and the options in docs/results.md
"""

import ctypes
import dataclasses
import difflib
import functools
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx

from seqjax import CELLS, metrics, nn, sequences, training, viz
from seqjax.ctc import ctc_beam_search, ctc_loss
from seqjax.data import (
    Batches,
    Vocabulary,
    audio,
    batches,
    bucket_boundaries,
    installed_files,
    read_wav,
)

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")
VOICES = {  # eSpeak NG's that are the same each time, and how many utterances of them
    "train": ("m1 m3 m4 m6 m8 f1 Alex Andy Annie Denis adam anika edward grandma max steph", 1200),
    "valid": ("m5 aunty", 100),
    "test": ("m7 Michael belinda shelby", 300),
}
KEYS = {"frame": ["frames"], "label": ["labels"]}  # both run over time, each with its own lengths
PARTS = ("feats", "len", "text", "id")  # of a .npz file, for train and for test
Recordings = list[tuple[np.ndarray, str]]  # frames [T, F] every 10 ms, and what was said


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a recogniser, prints its error rates and draws what it finds."""

    data: Path | None = None
    """Recordings or features, see above; by default speech is synthesised."""
    task: Literal["transcribe", "digits"] = "transcribe"
    """Find the letters of an utterance, or which word a recording is."""
    cell: str = "gru"
    """A name of seqjax.CELLS."""
    hidden_size: int = 96
    """Units of each direction."""
    num_layers: int = 2
    """Layers, each reading both directions of the one below."""
    stack: int = 3
    """Frames read at a step: more is faster, and no text may have more letters than steps."""
    dropout: float = 0.3
    """Rate between layers and before the softmax."""
    noise: float = 0.4
    """Standard deviation of noise that training adds to the features (theirs is 1)."""
    mask: float = 0.1
    """Share of the steps that training hides, in spans of four (after Park et al. 2019)."""
    stretch: float = 0.1
    """By what share training slows or speeds up a recording at most, anew in each epoch."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over all words (digits only)."""
    beam_width: int = 16
    """Prefixes that the beam search keeps (transcribe only)."""
    epochs: int = 12
    """How many times to go through the training recordings."""
    learning_rate: float = 4e-3
    """Adam's at its highest; it rises for half an epoch and falls to zero along a cosine."""
    out: Path = Path("out/speech")
    """Folder for checkpoints, figures, test.txt and recognised.png."""
    shares: ClassVar[tuple[str, ...]] = ("dropout", "mask", "stretch", "label_smoothing")


class Recogniser(nnx.Module):
    """Recurrent layers in both directions, and a linear layer at each step or on their mean."""

    def __init__(self, config: Config, features: int, classes: int, *, rngs: nnx.Rngs) -> None:
        cell: Any = CELLS[config.cell]
        self.recurrent = nn.Recurrent(
            cell(features, config.hidden_size), num_layers=config.num_layers, bidirectional=True,
            dropout=config.dropout, rngs=rngs,
        )  # fmt: skip
        self.pools = config.task == "digits"
        self.dropout = nnx.Dropout(config.dropout)
        self.head = nnx.Linear(self.recurrent.output_size, classes, rngs=rngs)

    def __call__(self, frames: Any, lengths: Any, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Logits [B, T, classes], or [B, classes]; training needs `rngs` for dropout."""
        outputs = self.recurrent(frames, lengths=lengths, rngs=rngs).outputs
        if self.pools:
            outputs = sequences.mean_pool(outputs, lengths=lengths)
        return self.head(self.dropout(outputs, rngs=rngs))


def synthesise(task: str) -> dict[str, Recordings]:
    """Digits spoken by eSpeak NG, with noise of different loudness; the same for every seed."""
    with training.blaming("data"):
        found = installed_files("espeakng_loader", "*espeak-ng.*")
    espeak, heard = ctypes.CDLL(str(found[0])), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: Any, count: int, _: Any) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)) / 32768)
        return 0

    rate = espeak.espeak_Initialize(2, 0, str(found[0].parent).encode(), 0)  # 2: to `hear`
    espeak.espeak_SetSynthCallback(hear)
    rng = np.random.default_rng(0)
    sets: dict[str, Recordings] = {}
    for split, (voices, count) in VOICES.items():
        sets[split] = []
        for _ in range(count):
            heard.clear()
            text = " ".join(rng.choice(DIGITS, 1 if task == "digits" else rng.integers(1, 6)))
            espeak.espeak_SetVoiceByName(
                f"{rng.choice(ACCENTS)}+{rng.choice(voices.split())}".encode()
            )
            espeak.espeak_SetParameter(1, int(rng.integers(120, 240)), 0)  # words a minute
            espeak.espeak_SetParameter(3, int(rng.integers(20, 80)), 0)  # pitch, out of 100
            size = ctypes.c_size_t(len(text) + 1)
            espeak.espeak_Synth(text.encode(), size, 0, 0, 0, 1, None, None)
            samples = np.concatenate(heard)
            samples += 10 ** rng.uniform(-3, -1.5) * rng.normal(size=len(samples))
            sets[split].append((audio.mfcc(samples, rate), text))
    return sets


def read_recordings(path: Path) -> dict[str, Recordings]:
    """DIGIT_SPEAKER_INDEX.wav in a folder or an archive; indices 0 to 4 are the test's."""
    sets: dict[str, Recordings] = {"train": [], "valid": [], "test": []}
    with tempfile.TemporaryDirectory() as unpacked:
        if path.is_file():
            with tarfile.open(path) as archive:
                archive.extractall(unpacked, filter="data")
        for file in sorted((Path(unpacked) if path.is_file() else path).rglob("*.wav")):
            name = re.fullmatch(r"(\d)_\w+_(\d+)", file.stem)
            if not name:
                raise ValueError(f"expected names DIGIT_SPEAKER_INDEX.wav, got {file.name}")
            split = "test" if int(name[2]) < 5 else "valid" if int(name[2]) < 8 else "train"
            sets[split].append((audio.mfcc(*read_wav(file)), DIGITS[int(name[1])]))
    return sets


def read_features(path: Path) -> dict[str, Recordings]:
    """The features and texts of a .npz file."""
    names = [f"{split}_{part}" for split in ("train", "test") for part in PARTS]
    with np.load(path) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"expected {', '.join(missing)} in {path}, got {', '.join(arrays)}")
        found = {name: arrays[name] for name in names}
    sets: dict[str, Recordings] = {"train": [], "valid": [], "test": []}
    for side in ("train", "test"):
        feats, lengths, texts, ids = (found[f"{side}_{part}"] for part in PARTS)
        if feats.ndim != 2 or lengths.sum() != len(feats) or lengths.min(initial=1) < 1:
            raise ValueError(f"expected {side}_feats [{lengths.sum()}, F], got {feats.shape}")
        if not len(lengths) == len(texts) == len(ids):
            raise ValueError(f"expected {len(lengths)} {side}_text and _id, as {side}_len has")
        speakers = [str(name).split("/")[-2:][0] for name in ids]
        held = sorted(set(speakers))[9::10] if side == "train" else []
        frames = np.split(feats.astype(np.float32), np.cumsum(lengths)[:-1])
        for x, text, speaker in zip(frames, texts, speakers, strict=True):
            sets["valid" if speaker in held else side].append((x, str(text)))
    return sets


def load(config: Config) -> dict[str, Recordings]:
    """Recordings for "train", "valid" and "test"."""
    if config.data is None:
        return synthesise(config.task)
    try:
        read = read_features if zipfile.is_zipfile(config.data) else read_recordings
        sets = read(config.data)
    except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SystemExit(f"--data: {config.data}: {error}") from None
    for split, recordings in sets.items():
        if not recordings:
            raise SystemExit(f"--data: expected recordings for {split} in {config.data}, got none")
    return sets


def inputs(frames: np.ndarray, stack: int, speed: float = 1.0) -> np.ndarray:
    """Frames and their changes, mean 0 and variance 1: [T / stack, 3 F stack]."""
    times = np.arange(0, len(frames), speed)
    frames = np.stack([np.interp(times, np.arange(len(frames)), x) for x in frames.T], axis=1)
    change = audio.deltas(frames)
    frames = np.concatenate([frames, change, audio.deltas(change)], axis=1)
    frames = (frames - frames.mean(axis=0)) / (frames.std(axis=0) + 1e-3)
    frames = np.pad(frames, ((0, -len(frames) % stack), (0, 0)))
    return frames.reshape(-1, stack * frames.shape[1]).astype(np.float32)


def units(config: Config, text: str) -> list[str]:
    """What is to be found: the letters, or the text as a whole."""
    return list(text) if config.task == "transcribe" else [text]


def train(config: Config, sets: dict[str, Recordings], tokens: Vocabulary) -> training.FitResult:
    """Trains a recogniser on recordings whose speed, noise and gaps are new in each epoch."""

    def epoch_batches(epoch: int) -> Batches:
        rng = np.random.default_rng((config.seed, epoch))
        speeds = rng.uniform(1 - config.stretch, 1 + config.stretch, len(sets["train"]))
        train_set = examples(config, sets["train"], tokens, speeds)
        return config.batches(train_set, sequence_keys=KEYS, boundaries=boundaries)(epoch)

    def loss_fn(model: Recogniser, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        frames = batch["frames"]
        size, steps, _ = frames.shape
        hidden = jax.random.bernoulli(rngs.mask(), config.mask, (size, -(-steps // 4)))
        hidden = jnp.repeat(hidden, 4, axis=1)[:, :steps, None]
        frames = frames + config.noise * jax.random.normal(rngs.noise(), frames.shape)
        frames = jnp.where(hidden, 0.0, frames)
        return mean_loss(config, model, batch | {"frames": frames}, rngs).value(), {}

    slowest = np.full(len(sets["train"]), 1 - config.stretch)
    train_set = examples(config, sets["train"], tokens, slowest)
    lengths = [[len(train_set[name][n]) for name in train_set] for n in range(len(slowest))]
    boundaries = bucket_boundaries(lengths, 3)
    valid_set = examples(config, sets["valid"], tokens)
    return config.fit(
        Recogniser(
            config, train_set["frames"][0].shape[1], len(tokens), rngs=nnx.Rngs(config.seed)
        ),
        loss_fn,
        epoch_batches,
        eval_batches=batches(valid_set, batch_size=32, sequence_keys=KEYS),
        metric_fn=lambda model, batch: {"loss": mean_loss(config, model, batch)},
    )


def examples(
    config: Config, recordings: Recordings, tokens: Vocabulary, speeds: Any = None
) -> dict[str, Any]:
    """The fields of batches."""
    speeds = np.ones(len(recordings)) if speeds is None else speeds
    played = zip(recordings, speeds, strict=True)
    return {
        "frames": [inputs(frames, config.stack, speed) for (frames, _), speed in played],
        "labels": [tokens.encode(units(config, text)) for _, text in recordings],
    }


def mean_loss(config: Config, model: Recogniser, batch: Any, rngs: Any = None) -> metrics.Mean:
    """Nats a letter, of texts that fit into their steps, or nats a recording."""
    logits = model(batch["frames"], batch["frame_lengths"], rngs)
    labels, lengths = batch["labels"], batch["label_lengths"]
    if config.task == "digits":
        options: Any = {"mask": batch["weights"], "label_smoothing": config.label_smoothing}
        return metrics.cross_entropy(logits, labels[:, 0], **options)
    found = ctc_loss(logits, batch["frame_lengths"], labels, lengths)
    return metrics.Mean(found.loss.sum(), jnp.where(found.feasible, lengths, 0).sum())


@jax.jit
def logits_of(model: Recogniser, batch: Any) -> jax.Array:
    """What the model says of a batch."""
    return model(batch["frames"], batch["frame_lengths"])


@functools.partial(jax.jit, static_argnames="width")
def search(logits: jax.Array, lengths: Any, *, width: int) -> jax.Array:
    """Tokens [B, width, T] of the most probable texts."""
    return ctc_beam_search(logits, lengths, width, n_best=width).tokens


def recognise(
    config: Config, model: Recogniser, test: Batches, tokens: Vocabulary
) -> list[list[str]]:
    """The texts found for each recording, the most probable first."""
    found: list[list[str]] = []
    for batch in test:
        logits, real = logits_of(model, batch), batch["weights"]
        if config.task == "digits":
            found += [tokens.pieces([n]) for n in np.asarray(logits).argmax(-1)[real]]
        else:
            rows = search(logits, batch["frame_lengths"], width=config.beam_width)
            found += [["".join(tokens.decode(x)) for x in row] for row in np.asarray(rows)[real]]
    return found


def known_words(found: list[str], words: list[str]) -> list[str]:
    """The first text that has only known words; if there is none, those most like the first's."""
    known = [text for text in found if set(words).issuperset(text.split())]
    if known:
        return known[0].split()
    return [difflib.get_close_matches(word, words, 1, 0.0)[0] for word in found[0].split()]


def error_rate(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Insertions, deletions and substitutions, as a share of what is right."""
    errors = sum(metrics.edit_distance(a, b) for a, b in zip(right, found, strict=True))
    return errors / max(1, sum(map(len, right)))


def plot(
    config: Config, model: Recogniser, batch: Any, right: list[str], best: list[str], tokens: Any
) -> None:
    """Draws which words are taken for which, or when letters are heard in the first utterance."""
    if config.task == "digits":
        names = sorted({*right, *best})
        counts = np.zeros((len(names), len(names)))
        for said, found in zip(right, best, strict=True):
            counts[names.index(said), names.index(found)] += 1
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        figure = viz.attention(shares, names, names, title="Said (down) and found (across)")
        figure.axes[1].set_ylabel("share")
    else:
        values = jax.nn.softmax(logits_of(model, batch)[0, : batch["frame_lengths"][0]])
        shown = np.flatnonzero(np.asarray(values).max(axis=0) > 0.1)
        names = [{"<pad>": "blank", " ": "space"}.get(x, x) for x in tokens.pieces(shown)]
        figure = viz.hidden_states(values[:, shown], title=f"“{right[0]}”, found: “{best[0]}”")
        figure.axes[0].images[0].set(cmap="Blues", clim=(0, 1))
        figure.axes[0].set_yticks(range(len(names)), names)
        figure.axes[0].set(xlabel=f"step (one every {10 * config.stack} ms)", ylabel="letter")
        figure.axes[1].set_ylabel("probability")
    figure.savefig(config.out / "recognised.png", dpi=150)


def main(config: Config) -> dict[str, float]:
    """Trains, measures and draws; returns the figures of the test set."""
    known = [name for name, kind in CELLS.items() if kind(1, 1).input_shape == (1,)]
    if config.cell not in known:
        raise SystemExit(f"--cell: expected one of {', '.join(known)}, got {config.cell}")
    config.prepare()
    sets = load(config)
    said = [text for _, text in sets["train"]]
    tokens = Vocabulary.build(units(config, text) for text in said)
    kind = "synthesised utterances" if config.data is None else "recordings"
    sizes = ", ".join(f"{len(recordings):,} {split}" for split, recordings in sets.items())
    print(f"{kind}: {sizes}; {len(tokens) - len(tokens.special)} classes")
    if config.task == "transcribe":
        long = sum(len(text) > len(frames) // config.stack for frames, text in sets["train"])
        print(f"{long} texts have more letters than steps: nothing is learned from them")
    result = train(config, sets, tokens)
    test = batches(examples(config, sets["test"], tokens), batch_size=32, sequence_keys=KEYS)
    found = recognise(config, result.model, test, tokens)
    right, best = [text for _, text in sets["test"]], [texts[0] for texts in found]
    plot(config, result.model, test[0], right, best, tokens)
    lines = [f"{a}\t{b}\n" for a, b in zip(right, best, strict=True)]
    (config.out / "test.txt").write_text("".join(lines), encoding="utf-8")
    if config.task == "digits":
        majority = max(set(said), key=said.count)
        return config.report(
            result,
            majority_accuracy=float(np.mean([text == majority for text in right])),
            accuracy=float(np.mean([a == b for a, b in zip(right, best, strict=True)])),
        )
    words = sorted({word for text in said for word in text.split()})
    split = [text.split() for text in right]
    return config.report(
        result,
        empty_transcript_word_error_rate=error_rate(split, [[]] * len(split)),
        letter_error_rate=error_rate(right, best),
        word_error_rate=error_rate(split, [text.split() for text in best]),
        word_error_rate_with_lexicon=error_rate(split, [known_words(x, words) for x in found]),
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
