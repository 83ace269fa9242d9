"""The pronunciation script on a small made-up dictionary."""

import dataclasses
import re

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("flask")
from examples import pronounce, serve
from examples.shipped import pronunciations

LETTERS = {"a": "AH0", "b": "B", "d": "D", "i": "IH1", "k": "K", "o": "OW2"}


@pytest.fixture
def dictionary(tmp_path):
    """Words that are spoken letter by letter, a few of them in two ways."""
    rng = np.random.default_rng(0)
    lines = []
    for word in sorted(
        {"".join(rng.choice(list(LETTERS), rng.integers(2, 6))) for _ in range(500)}
    ):
        spoken = " ".join(LETTERS[letter] for letter in word)
        lines.append(f"{word} {spoken}")
        if word.endswith("o"):
            lines.append(f"{word}(2) {spoken} W # another way")
    path = tmp_path / "small.dict"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_reading_strips_stress_and_joins_ways(tmp_path):
    path = tmp_path / "some.dict"
    path.write_text("read R EH1 D\n\n# a remark\nread(2) R IY1 D # present\nRead R EH2 D\n")
    assert pronunciations.read_dictionary(path) == {"read": [("R", "EH", "D"), ("R", "IY", "D")]}


def test_lines_that_are_comments_or_no_words(tmp_path):
    path = tmp_path / "some.dict"
    path.write_text(";;; comment line\n,comma K AA1 M AH0\ncat K AE1 T\n")
    words = {",comma": [("K", "AA", "M", "AH")], "cat": [("K", "AE", "T")]}
    assert pronunciations.read_dictionary(path) == words
    path.write_text("dog D AO1 G\ncat,K AE T\n")
    with pytest.raises(ValueError, match=r"between word and phonemes in line 2 of .*, got 'cat,K"):
        pronunciations.read_dictionary(path)
    path.write_text("ma M A 1\n")
    with pytest.raises(ValueError, match=r"expected phonemes .* in line 1 of .*, got 'ma M A 1'"):
        pronunciations.read_dictionary(path)


def test_lines_with_a_tab_are_read_as_they_are(tmp_path):
    path = tmp_path / "some.tsv"
    lines = ["ad hoc\tæ d h ɒ k", "c#\ts iː", "foo\tf # b", "(paren\tP EH", "well, well\tw e"]
    lines += ["ma\tm a1", "ma\tm a2", "e\u0301te\u0301\te\u0301 t e", "\u00e9t\u00e9\t\u00e9 t e"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert pronunciations.read_dictionary(path) == {
        "ad hoc": [("æ", "d", "h", "ɒ", "k")],
        "c#": [("s", "iː")],
        "foo": [("f", "#", "b")],
        "(paren": [("P", "EH")],
        "well, well": [("w", "e")],
        "ma": [("m", "a1"), ("m", "a2")],
        "\u00e9t\u00e9": [("\u00e9", "t", "e")],
    }
    assert pronunciations.spelled(" E\u0301te\u0301 ") == "\u00e9t\u00e9"
    for wrong in ("\tk a t", "cat\t", "cat\t "):
        path.write_text(f"dog\td o g\n{wrong}\n")
        with pytest.raises(ValueError, match=r"a word and its phonemes in line 2 of .*some.tsv, g"):
            pronunciations.read_dictionary(path)


def test_words_of_cmu_with_signs(tmp_path):
    path = tmp_path / "some.dict"
    path.write_text("(paren P EH1\n(paren(2) P EH2 R\nc# S IY1 # a language\n#hash HH AE1 SH\n#\n")
    assert pronunciations.read_dictionary(path) == {
        "(paren": [("P", "EH"), ("P", "EH", "R")],
        "c#": [("S", "IY")],
        "#hash": [("HH", "AE", "SH")],
    }
    for wrong, message in (("no", "a word and its phonemes"), ("cat;k a t", "spaces or a tab")):
        path.write_text(f"dog D AO1 G\n{wrong}\n")
        with pytest.raises(
            ValueError, match=rf"expected {message}.* in line 2 of .*, got '{wrong}'"
        ):
            pronunciations.read_dictionary(path)


def test_no_word_is_on_two_sides_and_the_split_is_fixed():
    words = [f"w{n}" for n in range(1000)]
    sides = pronunciations.split(words, 0.1)
    assert [len(side) for side in sides] == [890, 10, 100]
    assert sorted(word for side in sides for word in side) == sorted(words)
    assert pronunciations.split(words[::-1], 0.1) == sides


def test_error_rates_take_the_nearest_way():
    found = [("R", "IY", "D"), ("K",)]
    right = [[("R", "EH", "D"), ("R", "IY", "D")], [("K", "AE", "T")]]
    assert pronunciations.error_rates(found, right) == (0.5, 2 / 6)


def test_long_words_have_buckets_of_their_own():
    letters = [3] * 40 + [5] * 30 + [8] * 29 + [30]
    examples = {"source": [[0] * n for n in letters], "tokens": [[0] * (n + 1) for n in letters]}
    assert pronounce.buckets(examples) == [(3, 4), (5, 6), (8, 9), (30, 31)]
    few = {"source": [[0], [0, 0]], "tokens": [[0] * 3, [0] * 2]}
    assert pronounce.buckets(few)[-1] == (2, 3)


@pytest.mark.slow
def test_a_short_run_learns_says_and_draws(dictionary, tmp_path, capsys):
    config = pronounce.Config(
        say=("dab", "kio", "漢字"), hidden_size=16, embed_size=8, dropout=0.0, epochs=12,
        batch_size=16, learning_rate=0.02, beam_width=3, data=dictionary, out=tmp_path / "out",
    )  # fmt: skip
    rates = pronounce.main(config)
    assert rates["beam_3_word_error"] < 0.3 and rates["greedy_phoneme_error"] < 0.15
    names = {path.name for path in config.out.iterdir()}
    assert {"attention.png", "learning_curve.png", "checkpoints", "result.json"} <= names
    assert serve.load_pronouncer(config.out).run(8, ["dab"])[0].phonemes == ["D", "AH", "B"]
    assert pronounce.main(dataclasses.replace(config, resume=True)) == rates
    shown = capsys.readouterr().out
    assert "D AH B" in shown
    errors = [float(rate) for rate in re.findall(r"epoch \d+ of 12: ([\d.]+)% of", shown)]
    assert len(errors) == 12 and errors[-1] < errors[0] / 2


def test_a_published_split_is_kept(tmp_path):
    sides = {"train": "ab A B\ncd K D\n", "dev": "ef E F\n", "test": "cd K D\nab A\nab A B\ngh G\n"}
    for name, text in sides.items():
        (tmp_path / f"some_{name}.tsv").write_text(text.replace(" ", "\t", 1))
    config = pronounce.Config(data=tmp_path, out=tmp_path / "out")
    with pytest.raises(SystemExit, match="--data: expected words for train, got none"):
        pronounce.main(config)
    (tmp_path / "some_train.tsv").write_text("ij\tI J\nab\tA B\n")
    dictionary, (train, valid, test) = pronunciations.load(tmp_path, 0.1)
    assert (train, valid, test) == (["ij"], ["ef"], ["cd", "ab", "gh"])
    assert dictionary["ab"] == [("A",), ("A", "B")]
    (tmp_path / "other_dev.tsv").touch()
    with pytest.raises(ValueError, match=r"one \*dev\.tsv in .*, got other_dev\.tsv, some_dev"):
        pronunciations.load(tmp_path, 0.1)


def test_mistakes(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match=r"--data: .*none\.dict"):
        pronounce.main(pronounce.Config(data=tmp_path / "none.dict", out=out))
    (tmp_path / "latin").write_bytes(b"caf\xe9 K AE F EY\n")
    with pytest.raises(SystemExit, match=r"--data: expected UTF-8 in .*latin"):
        pronounce.main(pronounce.Config(data=tmp_path / "latin", out=out))
    (tmp_path / "one").write_text("a AH\n")
    with pytest.raises(SystemExit, match="--data: expected words for train, got none"):
        pronounce.main(pronounce.Config(data=tmp_path / "one", out=out))
    with pytest.raises(SystemExit, match="--beam-width: expected at least 1"):
        pronounce.main(pronounce.Config(beam_width=0, out=out))
    with pytest.raises(SystemExit, match="--test-share: expected at least 0, less than 1"):
        pronounce.main(pronounce.Config(test_share=1.0, out=out))
