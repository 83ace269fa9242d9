"""Subwords by byte pair encoding: nothing is unknown, and text comes back as it was."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
from seqjax.data import Subwords, Vocabulary

TEXTS = ["the lower the better", "日本語 の 文 。", "low lower lowest"] * 5


@pytest.fixture(scope="module")
def subwords():
    return Subwords.train(TEXTS, size=280)


@given(text=st.text(max_size=30))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_text_comes_back(subwords, text):
    ids = subwords.encode(text)
    assert ids.dtype == np.int32 and (ids >= 4).all()
    assert subwords.decode(ids) == text


def test_frequent_pieces_are_one_token_and_special_ids_are_the_vocabularys(subwords):
    assert len(subwords) == 280
    assert len(subwords.encode("lower")) < len("lower")
    assert len(subwords.encode("日本語")) < len("日本語".encode())
    for name in ("padding", "unknown", "begin", "end"):
        assert getattr(subwords, name) == getattr(Vocabulary, name)
    ids = subwords.encode("low </s> <pad>")
    assert not set(ids) & {0, 1, 2, 3}
    assert subwords.decode([2, *ids, 0, 3, 5]) == "low </s> <pad>"
    assert "".join(subwords.pieces(subwords.encode("lowest"))) == "lowest"
    assert subwords.pieces([2, 3]) == ["<s>", "</s>"]


def test_save_and_load(subwords, tmp_path):
    subwords.save(tmp_path / "s.json")
    again = Subwords.load(tmp_path / "s.json")
    assert len(again) == len(subwords)
    for text in TEXTS:
        np.testing.assert_array_equal(again.encode(text), subwords.encode(text))
    (tmp_path / "bad.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"path: expected subwords in .*bad\.json"):
        Subwords.load(tmp_path / "bad.json")


def test_mistakes(subwords):
    with pytest.raises(ValueError, match="size: expected an integer of at least 260, got 100"):
        Subwords.train(TEXTS, size=100)
    with pytest.raises(TypeError, match=r"texts\[1\]: expected a string, got 3"):
        Subwords.train(["a", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"texts\[0\]: expected a string, got b'a' .*decode"):
        Subwords.train([b"a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"text: expected a string, got b'a' .*decode it first"):
        subwords.encode(b"a")
    for wrong in ({"a"}, {"text": ["a"]}, "a", b"a", None):
        with pytest.raises(TypeError, match="texts: expected a list, got"):
            Subwords.train(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ids: expected 0 to 279, got 280"):
        subwords.decode([280])
