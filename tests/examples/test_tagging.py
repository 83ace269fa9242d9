"""The tagging script on small made-up corpora."""

import gzip
import importlib.util
import string
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("matplotlib")
from examples import tagging
from examples.shipped import tagged_words
from seqjax import metrics


def word(rng, ending):
    return "".join(rng.choice(list(string.ascii_lowercase), 3)) + ending


def treebank(rng, count):
    """Most words occur once and end as their kind does; "run" is what the word before makes it."""
    for n in range(count):
        noun, verb = (rng.choice(["run", word(rng, ending)]) for ending in ("ness", "ing"))
        words, tags = ["We", verb, "the", noun], ["PRON", "VERB", "DET", "NOUN"]
        # Few short ones, so that one bucket holds all.
        yield (words[2:], tags[2:]) if n % 10 == 0 else (words, tags)


def names(rng, count):
    for _ in range(count):
        words = ["mr", word(rng, "son"), "likes", word(rng, "ville")]
        yield words, ["B-PER", "I-PER", "O", "B-LOC"]


def write_conllu(path, sentences):
    blocks = []
    for words, tags in sentences:
        pairs, rest = zip(words, tags, strict=True), "\t_" * 6
        rows = [f"{n}\t{w}\t_\t{t}{rest}" for n, (w, t) in enumerate(pairs, 1)]
        first = ["# text = " + " ".join(words), f"1-2\tof both\t_\t_{rest}"]
        blocks.append("\n".join([*first, *rows]))
    path.write_text("\n\n".join(blocks) + "\n\n")


def write_columns(path, sentences):
    blocks = [
        "\n".join(f"{w} x {t}" for w, t in zip(words, tags, strict=True))
        for words, tags in sentences
    ]
    path.write_bytes(gzip.compress(("\n\n".join(blocks) + "\n").encode()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("treebank")
    rng = np.random.default_rng(0)
    for split, count in (("train", 320), ("dev", 32), ("test", 40)):
        write_conllu(place / f"xx-ud-{split}.conllu", treebank(rng, count))
        (place / f"xx-ud-{split}.txt").write_text("We running the run.\n")
    return place


def config(folder, out, **options):
    defaults: Any = {
        "hidden_size": 16, "embed_size": 8, "char_size": 16, "max_chars": 6, "dropout": 0.1,
        "epochs": 6, "learning_rate": 0.02, "average": 0.9,
    }  # fmt: skip
    return tagging.Config(data=folder, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_learns_tags_and_goes_on(folder, tmp_path, capsys):
    say = ("We abcing the run", "We run the xyzness of ☃", "")
    figures = tagging.main(config(folder, tmp_path, say=say))
    assert figures["accuracy"] > 0.97 > figures["most_frequent_tag_accuracy"] + 0.1
    assert figures["accuracy_unseen_words"] > 0.95
    assert "entity_f1" not in figures
    printed = capsys.readouterr().out
    assert "We/PRON abcing/VERB the/DET run/NOUN\n" in printed and "We/PRON run/VERB" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"checkpoints", "confusion.png", "learning_curve.png", "result.json"}
    with pytest.raises(SystemExit, match=r"--out: .* without a run, got .* with --resume"):
        tagging.main(config(folder, tmp_path))
    assert tagging.main(config(folder, tmp_path, resume=True)) == figures


@pytest.mark.slow
def test_entities_by_a_conditional_random_field(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("valid", 20), ("test", 20)):
        write_columns(tmp_path / f"{split}.txt.gz", names(rng, count))
    options: Any = {"tag_column": 2, "crf": True, "epochs": 5}
    figures = tagging.main(config(tmp_path, tmp_path / "out", **options))
    assert figures["entity_f1"] > 0.9 > figures["most_frequent_tag_entity_f1"]


def test_entities():
    tags = ["B-a", "I-a", "I-b", "O", "I-a", "E-a", "S-a", "B-a", "B-a", "NOUN"]
    expected = {(0, 2, "a"), (2, 3, "b"), (4, 6, "a"), (6, 7, "a"), (7, 8, "a"), (8, 9, "a")}
    assert tagged_words.entities(tags) == expected
    assert tagged_words.entities([]) == set()


def test_tags_that_are_no_entities():
    assert tagged_words.entities(["N-SG", "V-FIN"]) == set()
    assert tagged_words.entities(["B-a", "I-a", "L-a", "U-a"]) == {(0, 3, "a"), (3, 4, "a")}
    plural = [(["dog", "dogs"], ["S-SG", "S-PL"])]
    assert not tagged_words.have_entities(plural)
    assert tagged_words.have_entities([(["a", "New"], ["O", "B-l"])])
    assert "entity_f1" not in tagged_words.figures(plural, plural, [["S-SG", "S-SG"]])


@pytest.mark.parametrize("crf", [False, True])
def test_a_tag_that_is_not_in_the_training_sentences_is_never_predicted(crf):
    encoder = tagged_words.Encoder([(["a"], ["x"])], ["w", "x", "y"], 3)
    some = config(None, Path("out"), crf=crf)
    seen = [False, True, True]
    model = tagging.Tagger(some, len(encoder.words), len(encoder.chars), seen, nnx.Rngs(0))
    model.eval()
    bias: Any = model.head.bias
    bias[...] = jnp.array([50.0, 0.0, 1.0])
    assert tagging.predict(model, encoder, [["a", "b"]]) == [["y", "y"]]


def test_entity_f1_of_batches():
    """The metric counts the same entities as the sets, of which the figures are made."""
    rng = np.random.default_rng(0)
    names = ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "NOUN"]
    total, right, counts = metrics.Mean(), 0, 0
    for _ in range(5):
        tags, other = rng.integers(0, len(names), (2, 40, 6))
        guesses = np.where(rng.random(tags.shape) < 0.7, tags, other)
        lengths = rng.integers(0, 7, 40)
        total = total.merge(tagged_words.entity_f1(tags, guesses, lengths=lengths, names=names))
        for row, guess, length in zip(tags, guesses, lengths, strict=True):
            wanted, found = (
                tagged_words.entities([names[n] for n in side[:length]]) for side in (row, guess)
            )
            right, counts = right + len(wanted & found), counts + len(wanted) + len(found)
    assert counts > right > 100
    np.testing.assert_allclose(float(total.value()), 2 * right / counts, rtol=1e-6)


def test_figures_of_entities():
    train = [(["New", "York", "or", "York"], ["B-l", "I-l", "O", "B-p"])]
    train += [(["York"], ["B-l"]), (["York"], ["B-l"]), (["New"], ["B-p"])]
    test = [(["to", "New", "York", ",", "York", "New"], ["O", "B-l", "I-l", "O", "B-p", "O"])]
    texts = [test[0][0]]
    # The longest entity counts, and the most frequent kind.
    assert tagged_words.known_entities(train, texts) == [["O", "B-l", "I-l", "O", "B-l", "B-p"]]
    figures = tagged_words.figures(train, test, [["B-l", "B-l", "I-l", "B-l", "O", "O"]])
    expected = {"entity_f1": 0.4, "entity_precision": 1 / 3, "entity_recall": 0.5, "accuracy": 0.5}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert figures["known_entities_entity_recall"] == 0.5
    nothing = tagged_words.figures(train, test, [["O"] * 6])
    assert (nothing["entity_f1"], nothing["entity_precision"]) == (0, 0)


def test_spelling():
    encoder = tagged_words.Encoder([(["abcdefg", "gfedcba"], ["x", "x"])], ["x"], 3)
    assert encoder.chars.decode(encoder.spell("abcdefg")) == ["a", "f", "g"]
    assert encoder.spell("a☃").tolist() == [*encoder.chars.encode("a"), 1, 0]


CHAT = """@UTF8
*XXA:\t喂 遲 啲 Orlando
\t?
%mor:\te|wai3 a|ci4
\tu|di1 xns|Orlando0 ?
*XXB:\t係 .
%mor:\tv|hai6
*XXB:\t係 .
"""


def test_conversations(tmp_path, monkeypatch):
    place = tmp_path / "pycantonese" / "data" / "hkcancor"
    place.mkdir(parents=True)
    (tmp_path / "pycantonese" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for n in range(12):
        (place / f"FC-{n:02}.cha").write_text(CHAT, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = tagged_words.load(None)
    expected = ["喂", "遲", "啲", "Orlando", "?"], ["e", "a", "u", "xns", "w"]
    assert found == {"train": [expected] * 9, "dev": [expected], "test": [expected] * 2}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"--data: (.|\n)*pip install --no-deps pycantonese"):
        tagging.main(tagging.Config(out=tmp_path / "out"))


def test_mistakes(folder, tmp_path):
    def fails(message: str, data: Path = folder, **options: Any) -> None:
        with pytest.raises(SystemExit, match=message):
            tagging.main(config(data, tmp_path / "out", **options))

    fails("--hidden-size: expected at least 1, got 0", hidden_size=0)
    fails("--word-dropout: expected at least 0, less than 1, got 1", word_dropout=1.0)
    fails(r"--tag-column: expected at least 0, got -1", tag_column=-1)
    fails(r"--data: expected columns below 10, got 10", tag_column=10)
    fails(r"--data: expected a folder, got .*xx-ud-dev", data=folder / "xx-ud-dev.conllu")
    fails(r"--data: expected one file \*train\* in .*, got none", data=tmp_path)
    for name in ("train.tsv", "my-train.tsv"):
        (tmp_path / name).write_text("a\tb\n")
    fails(r"--data: expected one file \*train\* in .*, got my-train.tsv, train.tsv", data=tmp_path)
    (tmp_path / "my-train.tsv").unlink()
    for name in ("train.tsv~", ".train.tsv.swp"):  # of editors, so they are ignored
        (tmp_path / name).write_text("no corpus")
    (tmp_path / "dev.tsv").write_text("\n\n")
    (tmp_path / "test.tsv").write_text("a\tb\n")
    fails("--data: expected sentences for dev, got none", data=tmp_path)
    (tmp_path / "dev.tsv").write_text("a\tb\n\n#\tb\n")
    fails('--data: comment: .*dev.tsv is ambiguous: line 3 .*; pass comment="#"', data=tmp_path)
    assert tagged_words.load(tmp_path, comment="")["dev"][1] == (["#"], ["b"])
    (tmp_path / "dev.tsv").write_bytes(b"\xff\tx\n")
    fails(r"--data: .*UTF-8.*dev\.tsv", data=tmp_path)
