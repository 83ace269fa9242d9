"""Vocabularies: round trips, unknown tokens, files."""

import numpy as np
import pytest

from seqjax.data import Vocabulary

TEXT = ["the cat", "the dog", "ça va — 猫"]


def test_round_trip_of_characters_and_words(tmp_path):
    for sequences in (TEXT, [line.split() for line in TEXT]):
        vocabulary = Vocabulary.build(sequences)
        for sequence in sequences:
            ids = vocabulary.encode(sequence)
            assert ids.dtype == np.int32 and ids.min() >= 4
            assert vocabulary.decode([vocabulary.begin, *ids, vocabulary.end, 7]) == list(sequence)
        vocabulary.save(tmp_path / "vocabulary.json")
        again = Vocabulary.load(tmp_path / "vocabulary.json")
        assert again == vocabulary and hash(again) == hash(vocabulary) and len(again) > 8


def test_the_most_frequent_come_first_and_ties_are_alphabetical():
    vocabulary = Vocabulary.build(["bbb", "ca", "ac", "d"])
    assert vocabulary.tokens[4:] == ("b", "a", "c", "d")
    assert Vocabulary.build(["bbb", "ca", "ac", "d"], least=2).tokens[4:] == ("b", "a", "c")
    assert Vocabulary.build(["bbb", "ca", "ac", "d"], size=5).tokens[4:] == ("b",)
    assert vocabulary.encode("xb").tolist() == [vocabulary.unknown, 4]
    assert vocabulary.decode([0, 1, 4]) == ["<unk>", "b"]
    assert Vocabulary.build([["<pad>", "a"]]).tokens[4:] == ("a",)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="tokens: expected each token once, got 'a' twice"):
        Vocabulary(["a", "a"])
    with pytest.raises(TypeError, match="tokens: expected strings, got 3"):
        Vocabulary(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="ids: expected 0 to 4, got 5"):
        Vocabulary(["a"]).decode([5])
    with pytest.raises(ValueError, match="size: expected an integer of at least 5"):
        Vocabulary.build(["a"], size=4)
    for text in ("no json", '{"a": 1}'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match="path: expected a "):
            Vocabulary.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (b"ab", "expected strings as tokens, got 97 .*decode bytes first"),
        ([b"a"], "expected strings as tokens, got b'a' .*decode it first"),
        (["a", 3], "expected strings as tokens, got 3"),
    ],
    ids=["bytes", "words in bytes", "numbers"],
)
def test_other_things_than_strings_are_not_unknown_words(sequence, message):
    """Tfds gives texts as bytes, of which every token would be unknown."""
    with pytest.raises(TypeError, match=message):
        Vocabulary.build(["ab"]).encode(sequence)
