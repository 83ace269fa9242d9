"""The .ts format: what a file says comes back, and what is wrong with one is named."""

import gzip

import numpy as np
import pytest

from seqjax.data import read_ts

HEADER = "# made up\n@problemName made up\n@timeStamps false\n@classLabel true a b\n\n@data\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_values_lengths_and_labels(tmp_path):
    text = HEADER + "1,2,3:-4,5e-1,6:b\n\n7 , 8:9,1:a \n"
    recordings, labels = read_ts(write(tmp_path / "some.ts", text))
    assert labels == ["b", "a"]
    assert [frames.dtype for frames in recordings] == [np.float32] * 2
    np.testing.assert_array_equal(recordings[0], [[1, -4], [2, 0.5], [3, 6]])
    np.testing.assert_array_equal(recordings[1], [[7, 9], [8, 1]])


def test_missing_values_are_nan(tmp_path):
    [frames], _ = read_ts(write(tmp_path / "some.ts", HEADER + "1,?,NaN:4,5,6:a\n"))
    np.testing.assert_array_equal(frames, [[1, 4], [np.nan, 5], [np.nan, 6]])


def test_a_file_without_labels(tmp_path):
    text = "@classLabel false\n@data\n1,2:3,4\n"
    [frames], labels = read_ts(write(tmp_path / "some.ts", text))
    assert frames.shape == (2, 2) and labels == []


def test_packed_files(tmp_path):
    path = tmp_path / "some.ts.gz"
    path.write_bytes(gzip.compress(b"@Data\r\n1,2:a\r\n"))
    [frames], labels = read_ts(str(path))
    assert frames.tolist() == [[1.0], [2.0]] and labels == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, r"some\.ts: expected recordings after a line @data, got none"),
        ("1,2:a\n", r"expected a line that begins with @ in .*some\.ts, line 1, got '1,2:a'"),
        (HEADER + "1,2:3:a\n", r"channels of one length in .*, line 7, got \[1, 2\]"),
        (HEADER + "a\n", r"channels of one length in .*, line 7, got no channel"),
        (HEADER + "1:2:a\n1:2:3:a\n", r"expected 2 channels in .*, line 8, got 3"),
        (HEADER + "1,x:a\n", r"expected numbers in .*, line 7, got .*'x'"),
        (HEADER + "1,,2:a\n", r"expected numbers in .*, line 7"),
        ("@timeStamps TRUE\n@data\n(0,1):a\n", r"without time stamps in .*, line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ts(write(tmp_path / "some.ts", text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ts"):
        read_ts(tmp_path / "none.ts")
