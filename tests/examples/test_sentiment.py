"""The sentiment script on made-up reviews in which "not" turns a word around."""

import io
import itertools
import tarfile
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("tyro")
pytest.importorskip("flask")
from examples import sentiment, serve
from examples.shipped import reviews as shipped_reviews

NOUNS = ("film", "plot", "cast", "story", "score", "end", "start", "idea")
GOOD, BAD = ("good", "great", "fine"), ("bad", "poor", "dull")


def reviews():
    """All reviews of six words, with ratings of -2 and 2."""
    for noun, turn, sure, word in itertools.product(
        NOUNS, ("not", "so"), ("very", "really", "quite"), GOOD + BAD
    ):
        rating = 2.0 if (word in GOOD) == (turn == "so") else -2.0
        yield f"The {noun} is {turn} {sure} {word}", rating


def add(archive, name, raw):
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    archive.addfile(member, io.BytesIO(raw))


def packed(lines):
    """An archive inside an archive, as that of vaderSentiment."""
    outer, inner = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, f"hutto_ICWSM_2014/{shipped_reviews.RATINGS}", "\r\n".join(lines).encode())
    with tarfile.open(fileobj=outer, mode="w:gz") as archive:
        add(archive, "vader/README.rst", b"words")
        add(archive, "vader/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return outer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "vader.tar.gz"
    path.write_bytes(packed(f"{n}\t{rating}\t{text}" for n, (text, rating) in enumerate(reviews())))
    return path


def config(data, out, **options):
    defaults: Any = {
        "hidden_size": 16, "embed_size": 16, "epochs": 12, "batch_size": 16, "dropout": 0.0,
        "word_dropout": 0.0, "learning_rate": 0.02, "say": ("The film is not quite dull", "?"),
    }  # fmt: skip
    return sentiment.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_learns_order_draws_and_goes_on(archive, tmp_path, capsys):
    figures = sentiment.main(config(archive, tmp_path))
    assert figures["accuracy"] > 0.9 > figures["bag_of_words_accuracy"]
    assert figures["accuracy"] > figures["majority_accuracy"] + 0.2
    assert "positive: the film is not quite dull" in capsys.readouterr().out
    written = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "bag_of_words", "prefixes.png", "result.json"} <= written
    served = serve.load_reviewer(tmp_path)
    row = served.vocabulary.encode(["the", "film", "is", "not", "quite", "dull"])
    assert served.run(8, [row])[0] > 0.5
    with pytest.raises(SystemExit, match=r"--out: .* without a run, got .* with --resume"):
        sentiment.main(config(archive, tmp_path))
    assert sentiment.main(config(archive, tmp_path, resume=True, say=())) == figures


@pytest.mark.slow
def test_the_tutorial_on_folders_of_whole_reviews(tmp_path):
    for split, side in itertools.product(("train", "test"), ("neg", "pos", "unsup")):
        folder = tmp_path / split / side
        folder.mkdir(parents=True)
        for n, (text, rating) in enumerate(reviews()):
            if n % 12 == 0 and (rating > 0) == (side == "pos"):
                (folder / f"{n}.txt").write_text(f"{text}!<br /><br />It's {n}.")
    asked = sentiment.Config(data=tmp_path, preset="tutorial", epochs=1, out=tmp_path / "out")
    options = asked.with_defaults(**sentiment.TUTORIAL)
    assert (options.cell, options.vocabulary_size, options.learning_rate) == ("elman", 10_000, 1e-3)
    assert sentiment.Config(dropout=0.2).with_defaults(**sentiment.TUTORIAL).dropout == 0.2
    texts = shipped_reviews.load(tmp_path, None, 5)
    assert len(texts["train"]) + len(texts["dev"]) == len(texts["test"]) == 24
    figures = sentiment.main(asked)
    assert np.isfinite(list(figures.values())).all()


def test_words():
    words = shipped_reviews.words_of("It's GOOD,<br />isn't it?!")
    assert words == ["it's", "good", "isn't", "it", "?", "!"]
    assert shipped_reviews.words_of("I didn’t.") == ["i", "didn't", "."]


def test_words_keep_their_marks():
    assert shipped_reviews.words_of("यह फिल्म अच्छी है") == ["यह", "फिल्म", "अच्छी", "है"]
    assert shipped_reviews.words_of("หนังดีมาก") == ["หนังดีมาก"]
    assert shipped_reviews.words_of("re\u0301sume\u0301") == ["r\u00e9sum\u00e9"]
    assert shipped_reviews.words_of("\u2764\ufe0f _a_") == ["a"]  # a heart with a mark is no word


def test_names_in_capital_letters_are_read(tmp_path):
    for split, side in itertools.product(("train", "test"), ("neg", "pos")):
        folder = tmp_path / split / side
        folder.mkdir(parents=True)
        for n in range(9):
            (folder / f"{n}.{'TXT' if n % 2 else 'txt'}").write_text(f"film {n} {side}")
    texts = shipped_reviews.load(tmp_path, None, 5)
    assert len(texts["train"]) + len(texts["dev"]) == len(texts["test"]) == 18


@pytest.mark.quick()
def test_padding_changes_nothing():
    for chosen in (sentiment.Config(), sentiment.Config().with_defaults(**sentiment.TUTORIAL)):
        model = sentiment.Reader(**sentiment.sizes(chosen, 20), rngs=nnx.Rngs(0))
        model.eval()
        words, lengths = np.array([[4, 5, 6, 9, 0], [4, 5, 6, 0, 9], [4, 5, 0, 0, 0]]), [3, 3, 2]
        first, second, other = jax.jit(lambda m, *xs: m(*xs))(model, words, np.array(lengths))
        assert abs(first - second) < 1e-6 < abs(first - other)


def test_equal_sentences_are_on_one_side():
    texts = [(f"{text}{end}", rating) for text, rating in reviews() for end in ("", " .. ")]
    sides = shipped_reviews.divided(texts, 5)
    train, held = ({tuple(shipped_reviews.words_of(text)) for text, _ in side} for side in sides)
    assert len(texts) / 10 < len(sides[1]) < len(texts) / 3 and not train & held


def test_a_set_of_tensorflow_datasets(tmp_path):
    tfds: Any = pytest.importorskip("tensorflow_datasets")

    class SmallReviews(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            label = tfds.features.ClassLabel(names=["neg", "pos"])
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label})
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {name: self._generate_examples() for name in ("train", "test")}

        def _generate_examples(self):
            for n, (text, rating) in enumerate(reviews()):
                yield n, {"text": text, "label": int(rating > 0)}

    SmallReviews(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    texts = shipped_reviews.load(tmp_path, "small_reviews", 9)
    assert sorted(texts["test"]) == sorted((text, float(rating > 0)) for text, rating in reviews())
    with pytest.raises(SystemExit, match="--tfds: expected a data set prepared"):
        sentiment.main(config(tmp_path, tmp_path / "out", tfds="no_such_set"))


def test_mistakes(tmp_path):
    def fails(message, data, **options):
        with pytest.raises(SystemExit, match=message):
            sentiment.main(config(data, tmp_path / "out", **options))

    sizes = sentiment.sizes(sentiment.Config(cell="conv_lstm_2d"), 9)
    with pytest.raises(SystemExit, match=r"--cell: expected one of elman, .*, got 'conv_lstm_2d'"):
        sentiment.Reader(**sizes, rngs=nnx.Rngs(0))
    fails("--word-dropout: expected", tmp_path, word_dropout=1.0)
    fails("--max-words: expected at least 1, got 0", tmp_path, max_words=0)
    for place in (tmp_path / "missing.tar.gz", tmp_path):
        fails(
            "pip download --no-deps --no-binary :all: --dest out/data vaderSentiment==3.3.2", place
        )
    path = tmp_path / "some.tar.gz"
    path.write_bytes(b"no archive")
    fails(r"^--data: expected the source archive .*, got .*some\.tar\.gz: [^\n]*$", path)
    path.write_bytes(packed(["1\t0.5\tA film", "2\tgood\tA film"]))
    fails("--data: expected a number, a rating and a text in line 2 of movie.*got '2", path)
    path.write_bytes(packed(["1\t0.5\tA film"]))
    fails("--data: expected texts for", path)
    (tmp_path / "train" / "pos").mkdir(parents=True)
    fails(r"--data: expected folders in .*train: neg, pos; got pos", tmp_path)
