"""The translation script on a small made-up language."""

import gzip
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sacrebleu")
from examples import translate
from examples.shipped import parallel_text

WORDS = {"red": "rouge", "big": "grand", "cat": "chat", "dog": "chien", "one": "un", "two": "deux"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sentences whose translation is word by word, in the other order."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 600), ("valid", 20), ("test", 20)):
        rows = [rng.choice(list(WORDS), rng.integers(1, 5)) for _ in range(count)]
        sides: Any = {"en": rows, "fr": [[WORDS[word] for word in row[::-1]] for row in rows]}
        for language, sentences in sides.items():
            text = "\n".join(" ".join(sentence) for sentence in sentences) + "\n"
            if split == "train":
                (place / f"{split}.{language}.gz").write_bytes(gzip.compress(text.encode()))
            else:
                (place / f"{split}.{language}").write_text(text)
    return place


def config(folder, out, **options):
    defaults: Any = {
        "source": "en", "target": "fr", "hidden_size": 32, "embed_size": 16, "dropout": 0.0,
        "epochs": 10, "batch_size": 32, "learning_rate": 0.02, "beam_width": 3,
    }  # fmt: skip
    return translate.Config(data=folder, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_learns_translates_and_goes_on(folder, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    rates = translate.main(config(folder, tmp_path, say=("two cat",), vocabulary="subwords"))
    assert rates["beam_3_BLEU"] > 60 and rates["perplexity"] < 2.5
    printed = capsys.readouterr().out
    assert "→ chat deux\n" in printed and "source as it is BLEU" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "learning_curve.png", "attention_1.png", "translations.txt"} <= names
    assert len((tmp_path / "translations.txt").read_text().splitlines()) == 21
    with pytest.raises(SystemExit, match=r"--out: .* without a run, got .* with --resume"):
        translate.main(config(folder, tmp_path))
    again = config(folder, tmp_path, vocabulary="subwords", resume=True, say=("",))
    assert translate.main(again) == rates


@pytest.mark.slow
def test_words_without_attention(folder, tmp_path):
    options = {"attention": "none", "epochs": 1, "cell": "lstm"}
    rates = translate.main(config(folder, tmp_path, **options))
    assert np.isfinite(list(rates.values())).all()
    assert not list(tmp_path.glob("attention*"))


def test_a_set_of_tensorflow_datasets(tmp_path):
    tfds: Any = pytest.importorskip("tensorflow_datasets")

    class SmallPairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"en": tfds.features.Text(), "fr": tfds.features.Text()}
            )
            return self.dataset_info_from_configs(features=features)

        def _split_generators(self, dl_manager):
            del dl_manager
            return {name: self._generate_examples() for name in ("train", "validation", "test")}

        def _generate_examples(self):
            yield 0, {"en": "big cat", "fr": "châ grand"}
            yield 1, {"en": "", "fr": "rien"}

    SmallPairs(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    found = parallel_text.load(tmp_path, "small_pairs", "en", "fr")
    assert found == {split: [("big cat", "châ grand")] for split in ("train", "dev", "test")}
    with pytest.raises(SystemExit, match="--tfds: expected 'de' among en, fr"):
        translate.main(config(tmp_path, tmp_path / "out", tfds="small_pairs", target="de"))
    with pytest.raises(SystemExit, match="--tfds: expected a data set prepared"):
        translate.main(config(tmp_path, tmp_path / "out", tfds="no_such_set"))


def test_mistakes(folder, tmp_path):
    def fails(message, **options):
        with pytest.raises(SystemExit, match=message):
            translate.main(config(folder, tmp_path / "out", **options))

    fails("--max-words: expected at least 1", max_words=0)
    fails("--hidden-size: expected an even number, got 3", hidden_size=3)
    fails("--learning-rate", learning_rate=-1.0)
    fails("--beam-width: expected at least 1", beam_width=0)
    fails(r"--data: expected one of train\.de, train\.de\.gz in", target="de")
    with pytest.raises(SystemExit, match="--data, --tfds: expected one of them"):
        translate.main(translate.Config())
    for name in ("train.a", "train.b", "dev.a", "dev.b", "test.a", "test.b"):
        (tmp_path / name).write_text("x y\n")
    (tmp_path / "train.b").write_text("x\ny\n")
    with pytest.raises(SystemExit, match="as many lines on both sides of train, got 1 and 2"):
        translate.main(config(tmp_path, tmp_path / "out", source="a", target="b"))
    (tmp_path / "train.b").write_bytes(b"\xff\n")
    with pytest.raises(SystemExit, match=r"--data: expected UTF-8 in .*train\.b"):
        translate.main(config(tmp_path, tmp_path / "out", source="a", target="b"))
    (tmp_path / "train.b").unlink()
    (tmp_path / "train.b.gz").write_bytes(b"no gzip")
    with pytest.raises(SystemExit, match=r"--data: expected gzip data in .*train\.b\.gz"):
        translate.main(config(tmp_path, tmp_path / "out", source="a", target="b"))
    (tmp_path / "train.b").write_text("\n")
    with pytest.raises(SystemExit, match="--data: expected at least one pair in train, got none"):
        translate.main(config(tmp_path, tmp_path / "out", source="a", target="b"))
