"""The music script on made-up pieces: piano rolls, and scores of four parts."""

import zipfile
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
pytest.importorskip("mido")
import mido
from flax import nnx
from scipy.io import savemat

from examples import music
from examples.shipped import piano_rolls
from seqjax.data import batches

CHORDS = ((0, 4, 7), (5, 9, 0), (7, 11, 2), (9, 0, 4))
SMALL: Any = {
    "hidden_size": 48, "dropout": 0.0, "recurrent_dropout": 0.0, "epochs": 30, "batch_size": 8,
    "learning_rate": 0.02, "window": 16, "play": 12,
}  # fmt: skip


def roll(steps, *, start, key=36):
    """Chords that follow one another in a circle."""
    piece = np.zeros((steps, piano_rolls.KEYS), np.uint8)
    for step in range(steps):
        piece[step, [key + note for note in CHORDS[(start + step) % 4]]] = 1
    return piece


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "circle.mat"
    rng = np.random.default_rng(0)
    sides = {}
    for side, count in (("train", 24), ("valid", 4), ("test", 4)):
        cells = np.empty((count, 1), object)
        for n in range(count):
            cells[n, 0] = roll(int(rng.integers(10, 17)), start=n)
        sides[f"{side}data"] = cells
    savemat(path, sides)
    return path


def played(path):
    """The roll that a MIDI file sounds, in steps of a quarter note."""
    file = mido.MidiFile(path)
    on: set[int] = set()
    now, rows = 0, []
    for message in file.tracks[0]:
        if message.time:
            assert message.time % file.ticks_per_beat == 0
            rows += [sorted(on)] * (message.time // file.ticks_per_beat)
        now += message.time
        if message.type == "note_on":
            assert message.note not in on
            on.add(message.note)
        elif message.type == "note_off":
            on.remove(message.note)
    assert not on
    found = np.zeros((len(rows), piano_rolls.KEYS), np.uint8)
    for step, notes in enumerate(rows):
        found[step, [note - piano_rolls.LOWEST for note in notes]] = 1
    return found


@pytest.mark.slow
def test_a_short_run_learns_plays_and_goes_on(rolls, tmp_path):
    config = music.Config(data=rolls, out=tmp_path, transpose=0, **SMALL)
    figures = music.main(config)
    assert figures["nll"] < 0.5 < figures["nll_of_last_step"]
    assert figures["nll"] < figures["nll_of_key_frequencies"]
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "learning_curve.png", "piano_rolls.png", "result.json"} <= names
    # The given quarter is the test piece's; the circle then goes on for most of the time.
    sounds = played(tmp_path / "played.mid")
    piece = roll(12, start=0)
    np.testing.assert_array_equal(sounds[:3], piece[:3])
    assert (sounds == piece[: len(sounds)]).all(1).mean() > 0.5
    with pytest.raises(SystemExit, match=r"--out: .* without a run"):
        music.main(config)
    again = music.Config(data=rolls, out=tmp_path, transpose=0, resume=True, **SMALL)
    assert music.main(again) == figures


def test_the_measure_is_a_sum_over_keys_and_a_mean_over_steps():
    model = music.MusicModel(music.Config(hidden_size=4), rngs=nnx.Rngs(0))
    model.head.kernel[...] *= 0
    assert model.head.bias is not None
    model.head.bias[...] += 1
    pieces = [roll(3, start=0), roll(6, start=1)]
    examples = music.examples([piece.astype(np.float32) for piece in pieces])
    (batch,) = batches(examples, batch_size=3, **music.FIELDS)
    model.eval()
    mean = music.likelihood(model, batch)
    on, off = np.log1p(np.exp(-1.0)), np.log1p(np.exp(1.0))
    assert int(mean.count) == 2 + 5
    np.testing.assert_allclose(float(mean.value()), 3 * on + 85 * off, rtol=1e-5)


def test_stretches_and_transpositions():
    rng = np.random.default_rng(0)
    piece = roll(14, start=2).astype(np.float32)
    shifts = set()
    for _ in range(40):
        parts = piano_rolls.heard(piece, 3, 4, rng)
        assert max(len(part) for part in parts) <= 5
        whole = np.concatenate([*(part[:-1] for part in parts), parts[-1][-1:]])
        shift = int(np.flatnonzero(whole[0])[0] - np.flatnonzero(piece[0])[0])
        np.testing.assert_array_equal(whole, np.roll(piece, shift, axis=1))
        shifts.add(shift)
    assert shifts == set(range(-3, 4))
    (edge,) = piano_rolls.heard(np.eye(2, 88, dtype=np.float32), 6, 96, rng)
    assert edge.sum(1).tolist() == [1, 1] and edge[:, 80:].sum() == 0  # none left the piano


def test_baselines():
    train = [np.eye(88, dtype=np.float32)[[40, 40, 40, 50]]]
    figures = piano_rolls.baselines(train, train)
    # Key 40 sounds in two of three predicted steps, key 50 in one; each count has 1/2 added.
    frequencies = np.array([2.5 / 4, 1.5 / 4]), np.array([0.5 / 4])
    missed = np.log1p(-frequencies[1]) * 86
    right = np.log(frequencies[0][0]) + np.log1p(-frequencies[0][1])
    wrong = np.log1p(-frequencies[0][0]) + np.log(frequencies[0][1])
    np.testing.assert_allclose(
        figures["nll_of_key_frequencies"], -(missed[0] + (2 * right + wrong) / 3), rtol=1e-6
    )
    assert np.isfinite(figures["nll_of_last_step"])


NOTE = (
    "<note>{chord}<pitch><step>{step}</step><alter>{alter}</alter><octave>{octave}</octave></pitch>"
    "<duration>{duration}</duration></note>"
)


def note(step, octave, duration, *, alter=0, chord=""):
    return NOTE.format(step=step, octave=octave, duration=duration, alter=alter, chord=chord)


def score(path, parts):
    """Writes parts, each the elements of one measure with two divisions a quarter."""
    begin = "<attributes><divisions>2</divisions></attributes>"
    text = "".join(f"<part><measure>{begin}{part}</measure></part>" for part in parts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("score.xml", f"<score-partwise>{text}</score-partwise>")


def test_scores(tmp_path):
    path = tmp_path / "a.mxl"
    rest = "<note><rest/><duration>2</duration></note>"
    chord = note("E", 4, 4) + note("G", 4, 4, chord="<chord/>")
    second = "<backup><duration>4</duration></backup>" + note("F", 2, 2, alter=1)
    offbeat = note("A", 4, 1) + note("B", 4, 1)  # the second is between two quarters
    score(path, [rest + note("C", 4, 2), chord + second + "<direction/>", offbeat])
    found, parts = piano_rolls.read_musicxml(path)
    assert parts == 3
    notes = [(np.flatnonzero(step) + piano_rolls.LOWEST).tolist() for step in found]
    assert notes == [[42, 64, 67, 69], [60, 64, 67]]

    for n in range(10):
        tune = note("C", 5, 2) + note("C", 5, 2, alter=n)
        for copy in "xy":  # the same tune over another bass
            bass = note("CG"[copy == "y"], 3, 4)
            score(tmp_path / f"{n}{copy}.mxl", [tune, bass, bass, bass])
    sides = piano_rolls.load(tmp_path)
    assert sum(map(len, sides.values())) == 20 and len(sides["test"]) >= 2
    for step, octave, alter in (("C", 0, 0), ("C", 9, 0), ("A", 0, -1)):
        score(path, [note(step, octave, 2, alter=alter)])
        with pytest.raises(ValueError, match=f"expected pitches from A0 to C8, got {step}{octave}"):
            piano_rolls.read_musicxml(path)
    with pytest.raises(SystemExit, match=r"--data: .*a\.mxl, got ValueError.*got A0 altered by -1"):
        music.main(music.Config(data=tmp_path, out=tmp_path / "out"))
    score(path, [note("A", 0, 2) + note("C", 8, 2)])  # the lowest and the highest key
    assert np.argwhere(piano_rolls.read_musicxml(path)[0]).tolist() == [[0, 0], [1, 87]]
    path.write_bytes(b"no archive")
    with pytest.raises(SystemExit, match=r"--data: expected MusicXML in .*a\.mxl, got BadZipFile"):
        music.main(music.Config(data=tmp_path, out=tmp_path / "out"))


def test_mistakes(rolls, tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            music.main(music.Config(out=tmp_path / "out", **({"data": rolls} | options)))

    fails("--data: .*nothing.mat", data=tmp_path / "nothing.mat")
    fails("--data: expected at least 10 tunes in four voices, got 0", data=tmp_path)
    fails("--window: expected at least 1, got 0", window=0)
    fails("--transpose: expected at least 0, got -1", transpose=-1)
    (tmp_path / "text.mat").write_text("no rolls")
    fails("--data: expected a MATLAB file", data=tmp_path / "text.mat")
