"""The .ts format: what a file says comes back, and what is wrong with one is named."""

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_the_header_in_any_letters(tmp_path):
    text = (
        "% made up\n# made up\n@PROBLEMNAME made up\n@Missing true\n@UNIVARIATE false\n"
        "@Dimensions 2\n@equallength FALSE\n@CLASSLABEL TRUE Standing  still Banana nan?\n"
        "@DATA\n# the first\n1,?:3,4: standing still \n5:6:Banana\n\n%\n7:?:NaN?\n"
    )
    recordings, labels = read_ts(write(tmp_path / "some.ts", text))
    assert labels == ["standing still", "Banana", "NaN?"]
    np.testing.assert_array_equal(recordings[0], [[1, 3], [np.nan, 4]])
    np.testing.assert_array_equal(recordings[2], [[7, np.nan]])


def test_what_the_header_says_and_the_file_is(tmp_path):
    text = "@dimensions 2\n@equalLength true\n@seriesLength 3\n@classLabel true b A\n@data\n"
    recordings, labels = read_ts(write(tmp_path / "a.ts", text + "1,2,3:4,5,6:a\n"))
    assert recordings[0].shape == (3, 2) and labels == ["a"]
    text = text.replace("true\n@series", "false\n@series")  # the greatest length
    recordings, _ = read_ts(write(tmp_path / "a.ts", text + "1,2,3:4,5,6:A\n1:2:b\n"))
    assert [frames.shape for frames in recordings] == [(3, 2), (1, 2)]
    text = "@targetLabel true\n@classLabel true a\n@data\n1:2.5\n"
    assert read_ts(write(tmp_path / "a.ts", text))[1] == ["2.5"]


@pytest.mark.parametrize("before", ["", "@classLabel false\n"])
@pytest.mark.parametrize("after", ["", "@classLabel false\n"])
def test_regression(tmp_path, before, after):
    text = before + "@targetlabel true\n" + after + "@data\n1,2:-3.50\n4,5:?\n"
    recordings, labels = read_ts(write(tmp_path / "some.ts", text))
    assert labels == ["-3.50", "?"]
    assert [frames.tolist() for frames in recordings] == [[[1], [2]], [[4], [5]]]


def test_no_target_is_no_label(tmp_path):
    [frames], labels = read_ts(write(tmp_path / "a.ts", "@targetlabel false\n@data\n1,2:3,4\n"))
    assert frames.tolist() == [[1, 3], [2, 4]] and labels == []
    text = "@classlabel true a\n@targetlabel false\n@data\n1,2:a\n"
    assert read_ts(write(tmp_path / "a.ts", text))[1] == ["a"]


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
        (HEADER + "1:2:a\n1:2:\n", r"label after the last ':' in .*, line 8, got ''"),
        (HEADER + "1,2:3,?\n", r"label after .*, line 7, got '3,\?'; .*\"@classLabel false\""),
        (HEADER + "1,1_0:a\n", r"expected numbers in .*, line 7, got '1_0'"),
        (HEADER + "1,1e39:a\n", r"finite numbers of float32 in .*, line 7, got 1e\+39"),
        (HEADER + "1,inf:a\n", r"finite numbers of float32 in .*, line 7, got inf"),
        (
            HEADER + "1:a\n@data\n",
            r"one of the classes a b of @classLabel in .*, line 8, got '@data'",
        ),
        ("@classLabel maybe\n@data\n1:a\n", r"@classlabel true or false in .*, line 1"),
        ("@equalLength\n@data\n1:a\n", r"@equallength true or false in .*, line 1"),
        ("@equalLength true\n@data\n1,2:a\n1:a\n", r"expected 2 steps in .*, line 4, .* got 1"),
        ("@univariate true\n@data\n1:2:a\n", r"expected 1 channels in .*, line 3, got 2"),
        ("@seriesLength 2\n@data\n1,2:a\n1:a\n", r"expected 2 steps in .*, line 4, .* got 1"),
        ("@equalLength true\n@seriesLength 3\n@data\n1,2:a\n", r"expected 3 steps in .*, line 4"),
        ("@seriesLength two\n@data\n1,2:a\n", r"@serieslength and a number in .*, line 1"),
        ("@dimensions 3\n@data\n1:2:a\n", r"expected 3 channels in .*, line 3, got 2"),
        ("@dimensions\n@data\n1:2:a\n", r"@dimensions and a number in .*, line 1"),
        (HEADER + "1:a\n1:c\n", r"the classes a b of @classLabel in .*, line 8, got 'c'"),
        (HEADER + "1:ab\n", r"the classes a b of @classLabel in .*, line 7, got 'ab'"),
        ("@timeStamps TRUE\n@data\n(0,1):a\n", r"without time stamps in .*, line 1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ts(write(tmp_path / "some.ts", text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ts"):
        read_ts(tmp_path / "none.ts")


VALUES = st.floats(width=32, allow_infinity=False) | st.just(float("nan"))
LABELS = st.text("abAB nN1.", min_size=1).map(str.strip).filter(bool)


@given(st.data(), st.integers(1, 3), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, data, channels, labelled):
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    size = sum(lengths) * channels
    values = np.array(data.draw(st.lists(VALUES, min_size=size, max_size=size)), np.float32)
    ends = np.cumsum(lengths)[:-1]
    expected = np.split(values.reshape(-1, channels), ends)
    names = data.draw(st.lists(LABELS, min_size=len(lengths), max_size=len(lengths)))
    lines = (
        ["@classLabel true " + " ".join(names), "@data"]
        if labelled
        else ["@classLabel false", "@data"]
    )
    for frames, name in zip(expected, names, strict=True):
        said = [",".join("?" if v != v else repr(float(v)) for v in c) for c in frames.T]
        lines.append(":".join([*said, name] if labelled else said))
    path = write(tmp_path_factory.getbasetemp() / "any.ts", "\n".join(lines))
    recordings, labels = read_ts(path)
    assert labels == (names if labelled else [])
    for found, wanted in zip(recordings, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@given(st.binary(max_size=60) | st.text("@data\n1,?:.-# ", max_size=40).map(str.encode))
def test_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.ts"
    for start in (b"", b"@data\n"):
        path.write_bytes(start + data)
        try:
            recordings, labels = read_ts(path)
        except ValueError:
            continue
        assert len(recordings) == len(labels) > 0
