"""Vocabularies: round trips, unknown tokens, files."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas
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
    with pytest.raises(TypeError, match="tokens: expected strings as tokens, got 3"):
        Vocabulary(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="ids: expected 0 to 4, got 5"):
        Vocabulary(["a"]).decode([5])
    with pytest.raises(ValueError, match="size: expected an integer of at least 5"):
        Vocabulary.build(["a"], size=4)
    for text in ("no json", '{"a": 1}'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ValueError, match="path: expected a "):
            Vocabulary.load(tmp_path / "file")
    (tmp_path / "file").write_text('["a", "a"]')
    with pytest.raises(ValueError, match=r"path: .* in .*file, got tokens: .* got 'a' twice"):
        Vocabulary.load(tmp_path / "file")
    nested: Any = [["a"], [["a", "b"]]]
    with pytest.raises(TypeError, match=r"sequences\[1\]: expected strings as tokens, got \['a'"):
        Vocabulary.build(nested)


WRONG_SEQUENCES: list[tuple[Any, str]] = [
    (b"ab", "expected a string or a list of words, got b'ab' .*decode it first"),
    (bytearray(b"ab"), "expected a string or a list of words.*decode it first"),
    ([b"a"], "expected strings as tokens, got b'a' .*decode it first"),
    (np.array([b"a"]), "expected strings as tokens, got .*b'a'.*decode it first"),
    (["a", 3], "expected strings as tokens, got 3"),
    (["a", None], "expected strings as tokens, got None"),
    (float("nan"), "expected a string or a list of words, got nan"),
    (None, "expected a string or a list of words, got None"),
    ({"a"}, "expected a list, got set, which has no order"),
    ({"text": "ab"}, "expected a list, got dict"),
    (pandas.DataFrame({"text": ["ab"]}), "expected a list, got DataFrame"),
]


@pytest.mark.parametrize(("sequence", "message"), WRONG_SEQUENCES, ids=lambda case: repr(case)[:20])
def test_other_things_than_strings_are_not_unknown_words(sequence, message):
    """Tfds gives texts as bytes, of which every token would be unknown."""
    with pytest.raises(TypeError, match="sequence: " + message):
        Vocabulary.build(["ab"]).encode(sequence)
    with pytest.raises(TypeError, match=r"sequences(\[1\])?: " + message):
        Vocabulary.build(["ab", sequence])
    if not isinstance(sequence, list | np.ndarray):
        with pytest.raises(TypeError):
            Vocabulary.build(sequence)
        with pytest.raises(TypeError):
            Vocabulary(sequence)


def test_one_string_is_not_several():
    with pytest.raises(TypeError, match="sequences: expected a list, got 'the cat'"):
        Vocabulary.build("the cat")


def test_words_in_other_containers():
    words = ["b", "a", "b"]
    shuffled = pandas.Series(words, index=[2, 0, 1])
    expected = Vocabulary(["b", "a"])
    for container in (words, tuple(words), shuffled, np.array(words)):
        assert Vocabulary.build([container]) == expected
        assert expected.encode(container).tolist() == [4, 5, 4]
    assert Vocabulary.build(pandas.Series([words, ["b"]], index=[7, 3])) == expected
    assert Vocabulary.build(iter([iter(words)])) == expected
    assert Vocabulary({"b": 0, "a": 1}.keys()) == expected
    with pytest.raises(ValueError, match="sequences: expected no missing values, got 1"):
        Vocabulary.build(pandas.Series(["b", None], dtype="str"))


def test_ids_in_other_containers():
    vocabulary = Vocabulary(["b", "a"])
    ids = [4, 5, 1]
    series = pandas.Series(ids, index=[2, 0, 1])
    for container in (ids, iter(ids), jnp.array(ids), series, np.array(ids, np.uint8)):
        assert vocabulary.decode(container) == ["b", "a", "<unk>"]
    assert vocabulary.decode([]) == [] == vocabulary.pieces(jnp.zeros(0, jnp.int32))
    wrongs: list[tuple[Any, Any, str]] = [
        ([[4, 5]], ValueError, r"expected one sequence \[T\], got shape \(1, 2\)"),
        (4, ValueError, r"expected one sequence \[T\], got shape \(\)"),
        ([4.0], TypeError, "expected integers, got float64"),
        ([True], TypeError, "expected integers, got bool"),
        ("ab", TypeError, "expected numbers, got 'ab'"),
        ([4, -1], ValueError, "expected 0 to 5, got -1"),
        ([2**40], ValueError, "expected 0 to 5, got 1099511627776"),
    ]
    for wrong, error, message in wrongs:
        with pytest.raises(error, match="ids: " + message):
            vocabulary.decode(wrong)
