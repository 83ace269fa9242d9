"""Polyphonic music: which keys of the piano sound next?

A piece is a piano roll, one row of 88 keys a step, 1 where a key sounds. A recurrent network reads
the steps so far and gives for each key the log-odds that it sounds at the next step, all keys
independent of one another; then it plays on by itself, into a MIDI file.

    python examples/music.py                        # chorales by Bach in the package music21
    python examples/music.py --data JSB_Chorales.mat --transpose 0

The measure is that of Bai, Kolter, Koltun (2018), An empirical evaluation of generic convolutional
and recurrent networks: steps 2 … T of each piece are predicted from the steps before them, and the
negative log-likelihoods in nats, summed over the keys, are averaged over all steps of the set.
Data: Boulanger-Lewandowski, Bengio, Vincent (2012), Modeling temporal dependencies in
high-dimensional sequences. In these files all pieces are in C: there is no use in transposing them.
"""

import dataclasses
import itertools
import math
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import jax
import mido
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from seqjax import cells, metrics, nn, sequences, training
from seqjax.data import Batches, batches, installed_files, read_piano_rolls

KEYS, LOWEST = 88, 21  # of a piano; its lowest key is number 21 in MIDI
SEMITONES = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))
FIELDS: Any = {"sequence_keys": ("read", "next")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a model of music, measures it and lets it play."""

    data: Path | None = None
    """A .mat file of piano rolls, or a folder of .mxl scores; by default that in music21."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell."""
    hidden_size: int = 200
    """Units of a layer."""
    num_layers: int = 1
    """Layers."""
    dropout: float = 0.5
    """Rate on the outputs of each layer."""
    recurrent_dropout: float = 0.2
    """Rate on what enters the recurrent product, the same units at every step."""
    transpose: int = 6
    """In training each piece is heard up to so many semitones higher or lower, anew each time."""
    window: int = 96
    """In training longer pieces are cut into stretches of so many steps, elsewhere each time."""
    play: int = 64
    """Steps of the piece that is played: a quarter of them given, the others by the model."""
    epochs: int = 150
    batch_size: int = 16
    learning_rate: float = 4e-3
    out: Path = Path("out/music")

    may_be_zero = ("seed", "transpose")


def read_musicxml(path: Path) -> tuple[np.ndarray, int]:
    """The keys that sound at each quarter note, float32 [T, 88], and the number of parts."""
    with zipfile.ZipFile(path) as archive:
        score = next(n for n in archive.namelist() if n.endswith("xml") and "META-INF" not in n)
        parts = ElementTree.fromstring(archive.read(score)).findall("part")
    notes = []  # start, end and key of each; times in quarter notes
    for part in parts:
        start = now = Fraction(0)
        divisions = 1  # of a quarter note: the unit in which lengths are given
        for measure in part.findall("measure"):
            latest = now
            for element in measure:
                divisions = int(element.findtext("divisions", divisions))
                length = Fraction(element.findtext("duration", "0")) / divisions
                if element.tag == "backup":
                    length = -length
                moves = element.tag in ("note", "forward", "backup")
                if moves and element.find("chord") is None:  # else it sounds with the note before
                    start, now = now, now + length
                pitch = element.find("pitch")
                if pitch is not None:
                    key = SEMITONES[pitch.findtext("step", "")]
                    key += round(float(pitch.findtext("alter", "0")))
                    key += 12 * (int(pitch.findtext("octave", "")) + 1) - LOWEST
                    notes.append((start, start + length, key))
                latest = max(latest, now)
            now = latest
    roll = np.zeros((max((math.ceil(end) for _, end, _ in notes), default=0), KEYS), np.float32)
    for start, end, key in notes:
        roll[math.ceil(start) : math.ceil(end), key] = 1
    return roll, len(parts)


def read_scores(paths: list[Path]) -> dict[str, list[np.ndarray]]:
    """Those of four parts, a tenth each for validation and test; no tune is on two sides."""
    tunes: dict[bytes, list[np.ndarray]] = {}
    for path in paths:
        try:
            roll, parts = read_musicxml(path)
        except Exception as error:  # of many classes, for all that a file can be
            raise SystemExit(f"--data: expected MusicXML in {path}, got {error!r}") from None
        if parts == 4 and len(roll) > 1:
            highest = (roll * np.arange(KEYS)).max(1)
            tunes.setdefault(np.diff(highest)[:12].tobytes(), []).append(roll)
    if len(tunes) < 10:
        raise SystemExit(f"--data: expected at least 10 tunes in four parts, got {len(tunes)}")
    held = len(tunes) // 10
    sides: dict[str, list[np.ndarray]] = {"test": [], "valid": [], "train": []}
    order = np.random.default_rng(0).permutation(len(tunes))
    for place, tune in enumerate(list(tunes.values())[index] for index in order):
        sides["test" if place < held else "valid" if place < 2 * held else "train"] += tune
    return sides


def load(path: Path | None) -> dict[str, list[np.ndarray]]:
    """The piano rolls [T, 88] of "train", "valid" and "test"."""
    try:
        if path is None:
            return read_scores(installed_files("music21", "corpus/bach/*.mxl"))
        rolls = read_scores(sorted(path.glob("*.mxl"))) if path.is_dir() else read_piano_rolls(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"--data: {error}") from None
    for side, found in rolls.items():
        if not sum(len(roll) > 1 for roll in found):
            raise SystemExit(f"--data: expected pieces of two steps at least in {side}, got none")
    return rolls


class MusicModel(nnx.Module):
    """Recurrent layers and a linear one: log-odds [..., T, 88] from rolls [..., T, 88]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        cell, dropout = cells.CELLS[config.cell](KEYS, config.hidden_size), config.dropout
        rates: Any = {"dropout": dropout, "recurrent_dropout": config.recurrent_dropout}
        self.recurrent = nn.Recurrent(cell, num_layers=config.num_layers, **rates, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(config.hidden_size, KEYS, rngs=rngs)

    def __call__(self, roll: Any, lengths: Any = None, rngs: nnx.Rngs | None = None) -> jax.Array:
        outputs = self.recurrent(roll, lengths=lengths, rngs=rngs).outputs
        return self.head(self.dropout(outputs, rngs=rngs))

    def play_on(self, beginning: Any, steps: int, key: jax.Array) -> jax.Array:
        """Steps [steps, 88] that follow a beginning [T, 88], each drawn and read in its turn."""
        outputs, state = self.recurrent(beginning, deterministic=True)

        def step(carry: Any, key: jax.Array) -> Any:
            output, state = carry
            keys = jax.random.bernoulli(key, nnx.sigmoid(self.head(output))).astype(output.dtype)
            return tuple(self.recurrent.step(keys, state)), keys

        return jax.lax.scan(step, (outputs[-1], state), jax.random.split(key, steps))[1]


def examples(rolls: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """What is read and what is to be predicted: each roll without its last and its first step."""
    return {"read": [roll[:-1] for roll in rolls], "next": [roll[1:] for roll in rolls]}


def heard(roll: np.ndarray, config: Config, rng: np.random.Generator) -> list[np.ndarray]:
    """The roll as training hears it: transposed, in stretches that overlap by one step."""
    used = np.flatnonzero(roll.any(0))
    lowest, highest = (int(used[0]), int(used[-1])) if len(used) else (0, KEYS - 1)
    shift = int(rng.integers(-config.transpose, config.transpose + 1))
    roll = np.roll(roll, np.clip(shift, -lowest, KEYS - 1 - highest), axis=1)
    steps = len(roll) - 1
    cuts = range(int(rng.integers(1, config.window + 1)), steps, config.window)
    edges = [0, *(cuts if steps > config.window else ()), steps]
    return [roll[start : end + 1] for start, end in itertools.pairwise(edges)]


def likelihood(model: MusicModel, batch: Any, rngs: nnx.Rngs | None = None) -> metrics.Mean:
    """The negative log-likelihood in nats, summed over keys, as a mean over steps."""
    logits = model(batch["read"], batch["lengths"], rngs)
    mask = sequences.lengths_to_mask(batch["lengths"], logits.shape[1])
    found = metrics.binary_cross_entropy(logits, batch["next"], mask=mask)
    return metrics.Mean(found.total, found.count // KEYS)


def baselines(train: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """The measure for how often each key sounds, and for how often after it did or did not."""
    read, target = map(np.concatenate, examples(train).values())
    test_read, test_target = map(np.concatenate, examples(test).values())

    def chance(where: np.ndarray) -> np.ndarray:
        return ((target * where).sum(0) + 0.5) / (where.sum(0) + 1)

    def nats(chances: np.ndarray) -> float:
        return float(-np.log(np.where(test_target, chances, 1 - chances)).sum(1).mean())

    held = np.where(test_read, chance(read), chance(1 - read))
    return {"nll_of_key_frequencies": nats(chance(read**0)), "nll_of_last_step": nats(held)}


def write_midi(path: Path, roll: np.ndarray) -> None:
    """Writes a roll as MIDI, a step as a quarter note; a key that goes on sounding is held."""
    track, waited = mido.MidiTrack(), 0
    silence = np.zeros((1, KEYS), bool)
    for before, now in itertools.pairwise(np.concatenate([silence, roll > 0, silence])):
        for kind, keys in (("note_off", before & ~now), ("note_on", now & ~before)):
            for key in np.flatnonzero(keys).tolist():
                track.append(mido.Message(kind, note=key + LOWEST, time=waited))
                waited = 0
        waited += 480
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(path)


def main(config: Config) -> dict[str, float]:
    """Trains, measures and plays; returns the measure of the model and of two baselines."""
    config.prepare()
    rolls = load(config.data)

    def train_batches(epoch: int) -> Batches:
        rng = np.random.default_rng((config.seed, epoch))
        parts = [part for roll in rolls["train"] for part in heard(roll, config, rng)]
        boundaries = (-(-config.window // 2), config.window)
        return config.batches(examples(parts), boundaries=boundaries, **FIELDS)(epoch)

    def held_out(side: str) -> Batches:
        return batches(examples(rolls[side]), batch_size=config.batch_size, **FIELDS)

    def loss_fn(model: MusicModel, batch: Any, rngs: nnx.Rngs) -> tuple[jax.Array, dict[str, Any]]:
        return likelihood(model, batch, rngs).value(), {}

    def metric_fn(model: MusicModel, batch: Any) -> dict[str, metrics.Mean]:
        return {"loss": likelihood(model, batch)}

    result = config.fit(
        MusicModel(config, rngs=nnx.Rngs(config.seed)), loss_fn, train_batches,
        eval_batches=held_out("valid"), metric_fn=metric_fn,
    )  # fmt: skip
    nll = training.measure(result.model, metric_fn, held_out("test"))["loss"]

    piece = rolls["test"][0][: config.play]
    given, key = piece[: max(1, config.play // 4)], jax.random.key(config.seed)
    drawn = result.model.play_on(given, config.play - len(given), key)
    played = np.concatenate([given, drawn])
    write_midi(config.out / "played.mid", played)
    panels: dict[str, Any] = {
        "A test piece": piece,
        "Predicted one step ahead": nnx.sigmoid(result.model(piece[:-1])),
        f"Played on by the model after {len(given)} steps": played,
    }
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(3, sharex=True, sharey=True)
    for panel, (title, roll) in zip(axes, panels.items(), strict=True):
        start = len(piece) - len(roll) if roll is not played else 0  # the first is not predicted
        where: Any = (start - 0.5, start + len(roll) - 0.5, LOWEST - 0.5, LOWEST + KEYS - 0.5)
        panel.imshow(roll.T, origin="lower", aspect="auto", cmap="Greys", extent=where)
        panel.set(title=title, ylabel="key (MIDI)")
    axes[-1].set(xlabel="step")
    figure.savefig(config.out / "piano_rolls.png", dpi=150)
    return config.report(result, nll=nll, **baselines(rolls["train"], rolls["test"]))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
