"""Readers of text: what a file holds comes out, and what is wrong with one is named and where."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.data import read_conll, read_lines, read_parallel, read_text

READERS = [read_text, read_lines, lambda path: read_conll(path, {"form": 0})]


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz"])
def test_text_and_lines(tmp_path, name):
    data = b"\xef\xbb\xbf" + "ça\r\n\n  b\x0b\u2028\x85c \nlast".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_text(tmp_path / name) == "ça\n\n  b\x0b\u2028\x85c \nlast"
    assert read_lines(tmp_path / name) == ["ça", "", "  b\x0b\u2028\x85c ", "last"]
    assert read_lines(str(tmp_path / name))[-1] == "last"


def test_ends_of_lines(tmp_path):
    path = tmp_path / "file"
    for text, lines in [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("\n\n", ["", ""])]:
        path.write_bytes(text.encode())
        assert read_lines(path) == lines
        assert read_text(path) == text


@pytest.mark.parametrize("read", READERS)
def test_broken_files(tmp_path, read):
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xef\xbb\xbfok\nfa\xe7ade\n")  # Latin-1
    where = r"expected UTF-8 in .*file\.txt, got byte 0xe7 in line 2, at offset 8"
    with pytest.raises(ValueError, match=where):
        read(path)
    whole = gzip.compress(b"words " * 50)
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    for data in (b"plain", whole[:-12], bytes(flipped)):
        (tmp_path / "file.gz").write_bytes(data)
        with pytest.raises(
            ValueError, match=r"expected gzip data in .*file\.gz, got (damaged data|an empty file)"
        ):
            read(tmp_path / "file.gz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        read(3)


def test_parallel_lines(tmp_path):
    source, target = tmp_path / "train.de", tmp_path / "train.en.gz"
    source.write_text("ja\n\nnein\n")
    target.write_bytes(gzip.compress(b"yes\nwell\nno"))
    assert read_parallel(source, target) == [("ja", "yes"), ("", "well"), ("nein", "no")]
    source.write_text("ja\n")
    with pytest.raises(ValueError, match=r"got 1 in .*train\.de and 3 in .*train\.en\.gz"):
        read_parallel(source, target)
    with pytest.raises(TypeError, match="target_path: expected a path, got 3"):
        read_parallel(source, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^target_path: expected a file, got the folder"):
        read_parallel(source, tmp_path)
    target.write_bytes(b"no gzip")
    with pytest.raises(ValueError, match=r"^target_path: expected gzip data in "):
        read_parallel(source, target)
    with pytest.raises(ValueError, match=r"^source_path: expected gzip data in "):
        read_parallel(target, source)


def test_lone_carriage_returns(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\r\rthree\r")  # the classic Mac OS
    assert read_lines(path) == ["one", "", "three"] and read_text(path) == "one\n\nthree\n"
    path.write_bytes(b"one\ntwo\rthree\r\nfour")
    assert read_text(path) == "one\ntwo\rthree\nfour"
    with pytest.raises(ValueError, match=r"expected lines .*, got a carriage return inside line 2"):
        read_lines(path)
    with pytest.raises(ValueError, match=r"got a carriage return inside line 2"):
        read_parallel(path, path)


@pytest.mark.parametrize("read", READERS)
def test_what_is_not_utf8_is_named(tmp_path, read):
    path = tmp_path / "file"
    for encoding in ("UTF-16", "UTF-32"):
        for order in ("le", "be"):
            mark = "\ufeff".encode(f"{encoding}-{order}")
            path.write_bytes(mark + "ja X".encode(f"{encoding}-{order}"))
            with pytest.raises(ValueError, match=f"UTF-8 in .*, got {encoding}; .*iconv -f"):
                read(path)
    path.write_bytes(b"ok X\nj\0a\0")
    with pytest.raises(ValueError, match=r"got byte 0x00 in line 2, at offset 6; .*UTF-16"):
        read(path)
    path.write_bytes(gzip.compress(b"words"))
    with pytest.raises(ValueError, match=r'got gzip data; a file whose name ends in "\.gz"'):
        read(path)
    path.write_bytes(b"PK\x03\x04\x14\0")
    with pytest.raises(ValueError, match=r"got a zip archive or an Excel file \(\.xlsx\)"):
        read(path)
    with pytest.raises(ValueError, match="path: expected a file, got the folder"):
        read(tmp_path)


def test_packed_files(tmp_path):
    data = gzip.compress(b"one\n")
    path = tmp_path / "words.GZ"
    for whole in (data, data + bytes(8), data + data):
        path.write_bytes(whole)
        assert set(read_lines(path)) == {"one"}
    for broken in (b"", data[:-1], data[:5], data + b"more"):
        path.write_bytes(broken)
        with pytest.raises(
            ValueError, match=r"expected gzip data in .*words\.GZ, got (damaged data|an empty file)"
        ):
            read_lines(path)


LINES = st.lists(st.text(st.characters(exclude_characters="\0\r\n", codec="utf-8")), max_size=6)


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_lines_that_are_written_are_read(tmp_path_factory, lines, end, last):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(b"\xef\xbb\xbf" + (end.join(lines) + end * last).encode())
    expected = lines if last or (lines and lines[-1]) else lines[:-1]
    assert read_lines(path) == (expected or [""] * last)
    assert read_parallel(path, path) == [(line, line) for line in read_lines(path)]


@given(st.binary(max_size=60))
def test_any_bytes(tmp_path_factory, data):
    for name in ("any", "any.gz"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            text = read_text(path)
        except ValueError:
            continue
        assert name == "any" and text.encode().count(b"\n") == (
            data.count(b"\n") if b"\n" in data else data.count(b"\r")
        )
