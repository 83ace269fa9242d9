"""Piano rolls: values, and files that are not what they should be."""

import contextlib

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from seqjax.data import read_piano_rolls


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
    with pytest.raises(
        ValueError, match=r"expected a cell array validdata .*'traindata', 'testdata'"
    ):
        read_piano_rolls(path)
    savemat(path, {"traindata": np.zeros((3, 88)), "validdata": good, "testdata": good})
    with pytest.raises(ValueError, match="expected a cell array traindata"):
        read_piano_rolls(path)
    wrong = cells(np.zeros((3, 88)), np.zeros((88, 3)))
    savemat(path, {"traindata": wrong, "validdata": good, "testdata": good})
    with pytest.raises(ValueError, match=r"traindata\[1\] of shape \[T, 88\] in .*, got \(88, 3\)"):
        read_piano_rolls(path)
    for piece in (scipy.sparse.csc_array(np.eye(88)), np.zeros((3, 88), complex), np.array(["a"])):
        savemat(path, {"traindata": cells(piece), "validdata": good, "testdata": good})
        with pytest.raises(
            ValueError, match=r"traindata\[0\] as a full matrix of numbers in .*, got"
        ):
            read_piano_rolls(path)
    for value in (np.nan, np.inf, -np.inf):
        loud = cells(np.full((3, 88), value))
        savemat(path, {"traindata": loud, "validdata": good, "testdata": good})
        with pytest.raises(ValueError, match=r"expected finite numbers in .* in traindata\[0\]"):
            read_piano_rolls(path)
    for value in (127, -1, 0.5):
        played = np.zeros((3, 88))
        played[1, 40] = value
        savemat(path, {"traindata": good, "validdata": cells(played), "testdata": good})
        with pytest.raises(
            ValueError, match=rf"expected 0 or 1 in .*mat, got {value}.* in validdata\[0\]; .*MIDI"
        ):
            read_piano_rolls(path)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_any_bytes(tmp_path_factory, data, place):
    path = tmp_path_factory.getbasetemp() / "any.mat"
    good = cells(np.zeros((3, 88)))
    savemat(path, {"traindata": good, "validdata": good, "testdata": good})
    whole = path.read_bytes()
    for broken in (data, whole[:place] + data + whole[place + len(data) :]):
        path.write_bytes(broken)
        with contextlib.suppress(ValueError):
            assert list(read_piano_rolls(path)) == ["train", "valid", "test"]
