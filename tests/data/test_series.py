"""Tables, sound and piano rolls: values, gaps, and files that are not what they should be."""

import gzip
import struct
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat, wavfile

from seqjax.data import read_csv, read_piano_rolls, read_wav

TABLE = """\
time, load ,text,code
Mon,, a,007
Tue,1e1,"b, ""c""\nd",1_0
Wed,NA,null,3
Thu,-4,NaN,nan

"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "table.csv") -> Any:
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write


def test_columns_of_numbers_and_of_text(write):
    for path in (write(TABLE), write("\ufeff" + TABLE.replace("\n", "\r\n"), "table.csv.gz")):
        table = read_csv(path, gaps="nan")
        assert list(table) == ["time", "load", "text", "code"]
        assert table["load"].dtype == np.float64
        np.testing.assert_array_equal(table["load"], [np.nan, 10, np.nan, -4])
        assert table["text"].tolist() == ["a", 'b, "c"\nd', "", ""]
        assert table["code"].tolist() == ["007", "1_0", "3", ""]
    some = read_csv(write("a;b\n1;2\n"), ("b", "a"), delimiter=";")
    assert {name: values.tolist() for name, values in some.items()} == {"b": [2.0], "a": [1.0]}
    assert list(some) == ["b", "a"]
    empty = read_csv(write("a\n"))["a"]
    assert empty.shape == (0,) and empty.dtype == np.float64


def test_gaps_are_filled(write):
    path = write("x\n\n1\nnull\nNULL\n4\nNA\n2\nnan\n")
    np.testing.assert_array_equal(read_csv(path, gaps="interpolate")["x"], [1, 1, 2, 3, 4, 3, 2, 2])
    path = write("x\n1\nnull\nNULL\n4\nNA\n2\n NaN\n")
    np.testing.assert_array_equal(read_csv(path, gaps="previous")["x"], [1, 1, 1, 4, 4, 2, 2])
    np.testing.assert_array_equal(
        read_csv(path, gaps="nan")["x"], [1, np.nan, np.nan, 4, np.nan, 2, np.nan]
    )


def test_gaps_that_are_errors(write):
    path = write('t,x\n"a\nb",1\nb,\n')
    with pytest.raises(ValueError, match=r"column 'x' of .*table.csv: .* in line 4, got ''"):
        read_csv(path)
    assert read_csv(path, ["t"])["t"].tolist() == ["a\nb", "b"]
    with pytest.raises(ValueError, match=r"column 'x' .* in line 2, before the first gap, got ''"):
        read_csv(write("t,x\na,\nb,1\n"), gaps="previous")
    for gaps in ("interpolate", "previous"):
        with pytest.raises(ValueError, match=r"column 'x' .*: expected a number to fill gaps with"):
            read_csv(write("t,x\na,\nb,\n"), gaps=gaps)
    with pytest.raises(ValueError, match="gaps: expected one of error, interpolate, previous, nan"):
        read_csv(path, gaps="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a row of column names in .*, got no rows"),
        ("\n\n", "expected a row of column names in .*, got no rows"),
        ("a,b, a\n1,2,3", "expected different column names in .*, line 1, got 'a' twice"),
        ("a,,b\n1,2,3", "expected different column names in .*, line 1, got an empty one"),
        ("a,b\n1,2\n1,2,3\n", "expected 2 fields in .*, line 3, got 3"),
        ("a,b\n1,2\n\n1,2\n", "expected 2 fields in .*, line 3, got 1"),
        ('a,b\n1,"2\n1,2\n', "expected comma-separated values in .* in line 3"),
    ],
)
def test_tables_that_are_none(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(write(text))


def test_mistakes_in_calls(write):
    path = write("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"columns: expected some of a, b in .*, got 'c'"):
        read_csv(path, ["a", "c"])
    with pytest.raises(TypeError, match="columns: expected several, got one string, 'a'"):
        read_csv(path, "a")


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
