"""Token ids in files: read back, kept apart by texts and tokenizer, made anew when damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from seqjax.data import Subwords, Vocabulary, cached_tokens

TEXTS = ["abba", "", "cab", "x\ud800"]


@pytest.fixture
def encoded(monkeypatch):
    """The texts that were encoded, in order."""
    texts: list[Any] = []
    encode = Vocabulary.encode

    def counting(self: Vocabulary, text: Any) -> np.ndarray:
        texts.append(text)
        return encode(self, text)

    monkeypatch.setattr(Vocabulary, "encode", counting)
    return texts


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(
        a.dtype == np.int32 and a.tolist() == b.tolist()
        for a, b in zip(found, expected, strict=True)
    )


def test_the_second_call_reads_the_file(tmp_path, encoded):
    letters, folder = Vocabulary("abc"), tmp_path / "deep" / "cache"
    expected = [letters.encode(text) for text in TEXTS]
    encoded.clear()
    assert same(cached_tokens(iter(TEXTS), letters, folder), expected) and encoded == TEXTS
    assert same(cached_tokens(TEXTS, Vocabulary("abc"), str(folder)), expected)
    assert encoded == TEXTS, "nothing more was encoded"
    assert [len(path.stem) for path in folder.iterdir()] == [64]


def test_each_set_of_texts_and_tokenizer_has_its_file(tmp_path):
    words = Vocabulary(["a", "b", "ab"])
    calls: list[tuple[list[Any], Any]] = [
        (["ab", "c"], Vocabulary("abc")),
        (["ab", "c"], Vocabulary("acb")),
        (["a", "bc"], Vocabulary("abc")),
        (["c", "ab"], Vocabulary("abc")),
        (["ab", "c"], words),
        ([["ab"], ["c"]], words),
        ([["a", "b"], ["c"]], words),
        ([["a", "b", "c"]], words),
        ([["ab", "", "c"]], words),
        ([["a"], ["b", "c"]], words),
        ([], words),
        (["ab", "c"], Subwords.train(["ab"], size=260)),
        (["ab", "c"], Subwords.train(["ab"] * 9, size=262)),
    ]
    for _ in range(2):
        for number, (texts, tokenizer) in enumerate(calls, start=1):
            found = cached_tokens(texts, tokenizer, tmp_path)
            assert same(found, [tokenizer.encode(text) for text in texts])
            assert len(list(tmp_path.iterdir())) in (number, len(calls))


def test_a_damaged_file_is_made_anew(tmp_path, encoded):
    letters = Vocabulary("abc")
    expected = cached_tokens(TEXTS, letters, tmp_path)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(np.array([4, 5, 5, 4], np.int32).tobytes())] ^= 1
    foreign = tmp_path.parent / "foreign.npz"
    np.savez(foreign, ids=np.zeros(9, np.int32), lengths=np.array([1, 2, 3, 4]))
    for data in (b"", whole[:-30], bytes(flipped), b"PK no zip", foreign.read_bytes()):
        path.write_bytes(data)
        encoded.clear()
        with pytest.warns(RuntimeWarning, match=rf"{path.name}, got a damaged file"):
            found = cached_tokens(TEXTS, letters, tmp_path)
        assert same(found, expected) and encoded == TEXTS
        assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_no_half_file_is_left(tmp_path, monkeypatch):
    def failing(file: Any, **arrays: Any) -> None:
        file.write(b"PK half a file")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", failing)
    with pytest.raises(OSError, match="no space left"):
        cached_tokens(TEXTS, Vocabulary("abc"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_columns_of_pandas_are_texts_by_position(tmp_path):
    letters = Vocabulary("abc")
    texts = pandas.Series(["ab", "c", "ba"], index=[2, 0, 1])
    expected = [letters.encode(text) for text in ("ab", "c", "ba")]
    for _ in range(2):
        assert same(cached_tokens(texts, letters, tmp_path), expected)
    words = pandas.Series([["a", "b"], ["c"]], index=[5, 5])
    assert same(cached_tokens(words, letters, tmp_path), expected[:2])
    assert len(list(tmp_path.iterdir())) == 2


def test_mistakes(tmp_path):
    letters = Vocabulary("abc")
    with pytest.raises(TypeError, match="tokenizer: expected a Vocabulary or Subwords, got 'abc'"):
        cached_tokens(TEXTS, "abc", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="texts: expected a list, got 'ab'"):
        cached_tokens("ab", letters, tmp_path)
    with pytest.raises(TypeError, match=r"texts\[1\]: expected a string or a list of words, got 3"):
        cached_tokens(["a", 3], letters, tmp_path)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"texts\[1\]: expected strings as tokens, got 3"):
        cached_tokens(["a", ["a", 3]], letters, tmp_path)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a string .* got b'ab' .*decode"):
        cached_tokens([b"ab"], letters, tmp_path)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="texts: expected a list, got set, which has no order"):
        cached_tokens({"ab", "b"}, letters, tmp_path)
    with pytest.raises(TypeError, match="texts: expected a list, got DataFrame"):
        cached_tokens(pandas.DataFrame({"text": ["ab"]}), letters, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"folder: expected a folder, got the file .*file"):
        cached_tokens(["a"], letters, Path(tmp_path, "file"))
