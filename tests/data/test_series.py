"""Sound and piano rolls: values, and files that are not what they should be."""

import gzip
import struct

import numpy as np
import pytest
from scipy.io import savemat, wavfile

from seqjax.data import read_piano_rolls, read_wav


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [-1, 0, 127 / 128]),
        (np.array([-32768, 0, 16384], np.int16), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.25], np.float32), [-1, 0, 0.25]),
        (np.array([-1, 0, 0.25], np.float64), [-1, 0, 0.25]),
        (np.array([[-32768, 0], [16384, 0]], np.int16), [-0.5, 0.25]),
        (np.array([[1.0, 0.5]], np.float32), [0.75]),
    ],
)
def test_sound(tmp_path, samples, expected):
    path = tmp_path / "sound.wav"
    wavfile.write(path, 8000, samples)
    found, rate = read_wav(path)
    assert found.dtype == np.float32 and type(rate) is int and rate == 8000
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    (tmp_path / "sound.wav.gz").write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_wav(tmp_path / "sound.wav.gz")[0], found)


def test_sound_of_24_bits_and_a_chunk_that_nobody_knows(tmp_path, recwarn):
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 24000, 3, 24)
    samples = b"".join(n.to_bytes(3, "little", signed=True) for n in (-(2**23), 2**22, 0, 1))
    chunks = b"WAVE" + form + b"what\x02\0\0\0hi" + struct.pack("<4sI", b"data", 12) + samples
    path = tmp_path / "24.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    np.testing.assert_array_equal(read_wav(path)[0], np.array([-1, 0.5, 0, 2**-23]))
    assert not recwarn.list


def test_broken_sound(tmp_path):
    path = tmp_path / "sound.wav"
    wavfile.write(path, 8000, np.arange(20, dtype=np.int16))
    whole = path.read_bytes()
    for data in (b"", b"RIFF", b"no sound at all, no sound", whole[:30], whole[:-10], whole[:-7]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"path: expected a WAV file in .*sound\.wav, got"):
            read_wav(path)
    wavfile.write(path, 8000, np.zeros(0, np.int16))
    with pytest.raises(ValueError, match=r"path: expected samples in .*sound\.wav, got none"):
        read_wav(path)


def cells(*pieces: np.ndarray) -> np.ndarray:
    array = np.empty((1, len(pieces)), object)
    for n, piece in enumerate(pieces):
        array[0, n] = piece
    return array


def test_piano_rolls(tmp_path):
    path = tmp_path / "music.mat"
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 2, (t, 88)).astype(np.uint8) for t in (3, 1, 4, 2)]
    train, valid, test = cells(*pieces[:2]), cells(pieces[2]), cells(pieces[3])
    savemat(path, {"traindata": train, "validdata": valid, "testdata": test})
    rolls = read_piano_rolls(path)
    assert {split: len(found) for split, found in rolls.items()} == {
        "train": 2, "valid": 1, "test": 1,
    }  # fmt: skip
    for piece, found in zip(pieces, rolls["train"] + rolls["valid"] + rolls["test"], strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, piece)


def test_piano_rolls_that_are_none(tmp_path):
    path = tmp_path / "music.mat"
    path.write_bytes(b"no music")
    with pytest.raises(ValueError, match=r"path: expected a MATLAB file in .*music\.mat, got"):
        read_piano_rolls(path)
    good = cells(np.zeros((3, 88)), np.zeros((2, 88)))
    savemat(path, {"traindata": good, "testdata": good})
    with pytest.raises(ValueError, match=r"expected a cell validdata .*'traindata', 'testdata'"):
        read_piano_rolls(path)
    savemat(path, {"traindata": np.zeros((3, 88)), "validdata": good, "testdata": good})
    with pytest.raises(ValueError, match="expected a cell traindata"):
        read_piano_rolls(path)
    wrong = cells(np.zeros((3, 88)), np.zeros((88, 3)))
    savemat(path, {"traindata": wrong, "validdata": good, "testdata": good})
    with pytest.raises(ValueError, match=r"traindata\[1\] of shape \[T, 88\] in .*, got \(88, 3\)"):
        read_piano_rolls(path)
