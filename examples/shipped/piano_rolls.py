"""Music as piano rolls: one row of 88 keys for each step, 1 where a key sounds.

- The package music21 (BSD) contains chorales by Bach as MusicXML (in the public domain); a step is
  a quarter note. A folder of .mxl scores is read in the same way. Only scores of four voices are
  used: a tenth for validation and a tenth for the test, the same for every seed. No tune is in two
  of the three sets.
- The .mat files of Boulanger-Lewandowski, Bengio, Vincent (2012), Modeling temporal dependencies in
  high-dimensional sequences, divided as published.
"""

import itertools
import math
import zipfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mido
import numpy as np
from matplotlib.figure import Figure

from seqjax.data import installed_files, read_piano_rolls

__all__ = [
    "KEYS",
    "LOWEST",
    "baselines",
    "heard",
    "load",
    "plot",
    "read_musicxml",
    "read_scores",
    "write_midi",
]

KEYS, LOWEST = 88, 21  # keys of a piano; the lowest key is number 21 in MIDI
SEMITONES = dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))


def load(path: Path | None) -> dict[str, list[np.ndarray]]:
    """Return the piano rolls [T, 88] of "train", "valid" and "test"."""
    if path is None:
        return read_scores(installed_files("music21", "corpus/bach/*.mxl"))
    rolls = read_scores(sorted(path.glob("*.mxl"))) if path.is_dir() else read_piano_rolls(path)
    for side, found in rolls.items():
        if not sum(len(roll) > 1 for roll in found):
            raise ValueError(f"expected pieces of two steps at least in {side}, got none")
    return rolls


def read_scores(paths: list[Path]) -> dict[str, list[np.ndarray]]:
    """Return the scores of four voices, divided so that no tune is in two sets."""
    tunes: dict[bytes, list[np.ndarray]] = {}
    for path in paths:
        try:
            roll, parts = read_musicxml(path)
        except Exception as error:  # a damaged file raises errors of many classes
            raise ValueError(f"expected MusicXML in {path}, got {error!r}") from None
        if parts == 4 and len(roll) > 1:
            highest = (roll * np.arange(KEYS)).max(1)
            tunes.setdefault(np.diff(highest)[:12].tobytes(), []).append(roll)
    if len(tunes) < 10:
        raise ValueError(f"expected at least 10 tunes in four voices, got {len(tunes)}")
    held = len(tunes) // 10
    sides: dict[str, list[np.ndarray]] = {"test": [], "valid": [], "train": []}
    order = np.random.default_rng(0).permutation(len(tunes))
    for place, tune in enumerate(list(tunes.values())[index] for index in order):
        sides["test" if place < held else "valid" if place < 2 * held else "train"] += tune
    return sides


def read_musicxml(path: Path) -> tuple[np.ndarray, int]:
    """Return the keys that sound at each quarter note, float32 [T, 88], and the number of parts.

    A pitch that a piano does not have, below A0 or above C8, is an error.
    """
    with zipfile.ZipFile(path) as archive:
        score = next(n for n in archive.namelist() if n.endswith("xml") and "META-INF" not in n)
        parts = ElementTree.fromstring(archive.read(score)).findall("part")
    notes = []  # start, end and key of each; times in quarter notes
    for part in parts:
        start = now = Fraction(0)
        divisions = 1  # divisions of a quarter note, the unit of lengths
        for measure in part.findall("measure"):
            latest = now
            for element in measure:
                divisions = int(element.findtext("divisions", divisions))
                length = Fraction(element.findtext("duration", "0")) / divisions
                if element.tag == "backup":
                    length = -length
                moves = element.tag in ("note", "forward", "backup")
                if moves and element.find("chord") is None:  # a chord starts with the note before
                    start, now = now, now + length
                pitch = element.find("pitch")
                if pitch is not None:
                    notes.append((start, start + length, _key(pitch)))
                latest = max(latest, now)
            now = latest
    roll = np.zeros((max((math.ceil(end) for _, end, _ in notes), default=0), KEYS), np.float32)
    for start, end, key in notes:
        roll[math.ceil(start) : math.ceil(end), key] = 1
    return roll, len(parts)


def _key(pitch: ElementTree.Element) -> int:
    """Return the index of the key of a pitch, or raise if a piano has no such key."""
    step, alter, octave = (pitch.findtext(name, "") for name in ("step", "alter", "octave"))
    key = SEMITONES[step] + round(float(alter or "0")) + 12 * (int(octave) + 1) - LOWEST
    if not 0 <= key < KEYS:
        altered = f" altered by {alter}" if alter else ""
        raise ValueError(f"expected pitches from A0 to C8, got {step}{octave}{altered}")
    return key


def heard(
    roll: np.ndarray, transpose: int, window: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Transpose a roll at random, and return it in pieces that overlap by one step."""
    used = np.flatnonzero(roll.any(0))
    lowest, highest = (int(used[0]), int(used[-1])) if len(used) else (0, KEYS - 1)
    shift = int(rng.integers(-transpose, transpose + 1))
    roll = np.roll(roll, np.clip(shift, -lowest, KEYS - 1 - highest), axis=1)
    steps = len(roll) - 1
    cuts = range(int(rng.integers(1, window + 1)), steps, window)
    edges = [0, *(cuts if steps > window else ()), steps]
    return [roll[start : end + 1] for start, end in itertools.pairwise(edges)]


def baselines(train: list[np.ndarray], test: list[np.ndarray]) -> dict[str, float]:
    """Return the losses of two models that count how often each key sounds.

    The first ignores the previous step; the second also knows whether the key sounded in it.
    """
    read, test_read = (np.concatenate([roll[:-1] for roll in rolls]) for rolls in (train, test))
    target, test_target = (np.concatenate([roll[1:] for roll in rolls]) for rolls in (train, test))

    def chance(where: np.ndarray) -> np.ndarray:
        return ((target * where).sum(0) + 0.5) / (where.sum(0) + 1)

    def nats(chances: np.ndarray) -> float:
        return float(-np.log(np.where(test_target, chances, 1 - chances)).sum(1).mean())

    held = np.where(test_read, chance(read), chance(1 - read))
    return {"nll_of_key_frequencies": nats(chance(read**0)), "nll_of_last_step": nats(held)}


def write_midi(path: Path, roll: np.ndarray) -> None:
    """Write a roll as MIDI, a step as a quarter note; a key that continues to sound is held."""
    track, waited = mido.MidiTrack(), 0
    silence = np.zeros((1, KEYS), bool)
    for before, now in itertools.pairwise(np.concatenate([silence, roll > 0, silence])):
        for kind, keys in (("note_off", before & ~now), ("note_on", now & ~before)):
            for key in np.flatnonzero(keys).tolist():
                track.append(mido.Message(kind, note=key + LOWEST, time=waited))
                waited = 0
        waited += 480
    mido.MidiFile(ticks_per_beat=480, tracks=[track]).save(path)


def plot(rolls: Mapping[str, Any], steps: int) -> Figure:
    """Plot rolls, one below the other; shorter rolls are aligned at the end."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    axes = figure.subplots(len(rolls), sharex=True, sharey=True)
    for panel, (title, roll) in zip(axes, rolls.items(), strict=True):
        start = max(0, steps - len(roll))  # the first step is not predicted
        where: Any = (start - 0.5, start + len(roll) - 0.5, LOWEST - 0.5, LOWEST + KEYS - 0.5)
        panel.imshow(roll.T, origin="lower", aspect="auto", cmap="Greys", extent=where)
        panel.set(title=title, ylabel="key (MIDI)")
    axes[-1].set(xlabel="step")
    return figure
