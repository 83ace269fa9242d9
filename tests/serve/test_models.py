"""The models as functions of rows, alone and in company, and read from the folder of a run."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("flask")
pytest.importorskip("waitress")
pytest.importorskip("tyro")
pytest.importorskip("orbax.checkpoint")
import examples.serve as serving
from examples import sentiment
from examples.serve.validation import ApiError
from seqjax import data, seq2seq, training
from tests.serve import tiny

LONG = "abcdefghijklmno"


@pytest.fixture(scope="module")
def service():
    made = serving.Service(tiny.pronouncer(), tiny.reviewer(), tiny.LIMITS, wait=0.0)
    made.warm_up()
    yield made
    made.close()


@pytest.mark.quick()
def test_after_the_warm_up_nothing_is_compiled(service):
    """The first test of this file: what others had compiled it would not notice."""
    with tiny.compilations() as compiled:
        for length in range(1, 17):
            service.pronounce(["a" * length] * (length % 4 + 1))
        for length in range(1, 33):
            service.sentiment(["good"] * length)
    assert not compiled


@pytest.mark.quick()
def test_a_word_is_pronounced_as_by_a_search_of_its_own(service):
    words = ["bad", LONG, "a", "decade"]
    together = service.pronounce(words)
    for word, said in zip(words, together, strict=True):
        model = service.pronouncer.model
        source = [[tiny.LETTERS.encode(word).tolist()]]
        [alone] = seq2seq.generate(model, *source, begin=2, end=3, beam_width=2)
        assert said.phonemes == tiny.PHONEMES.pieces(alone.tokens) and said.phonemes
        assert said.score == pytest.approx(alone.score, abs=1e-4)
        assert said.finished == alone.finished
        attention = np.asarray(alone.attention)[: len(said.phonemes)]
        assert said.attention.shape == (len(said.phonemes), len(word))
        np.testing.assert_allclose(said.attention, attention, atol=1e-5)
    assert len({tuple(said.phonemes) for said in together}) > 1  # the model does listen


@pytest.mark.quick()
def test_the_course_is_that_of_prefixes_read_alone(service):
    words = ["this", "film", "is", "not", "unheard-of", "good", "?"]
    course = service.sentiment(words)
    model = service.reviewer.model
    for end, probability in enumerate(course, start=1):
        ids = tiny.WORDS.encode(words[:end])[None]
        logit = float(model(jnp.asarray(ids), jnp.array([end]))[0])  # without any padding
        assert probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert np.ptp(course) > 0.01


def test_neighbours_change_nothing_at_all(service):
    alone = service.pronouncer.run(8, ["bad"] * 16)[0]
    mixed = service.pronouncer.run(8, ["bad", *(f"{a}{b}" for a in "abc" for b in "defgh")])[0]
    assert mixed.phonemes == alone.phonemes and mixed.score == alone.score
    np.testing.assert_array_equal(mixed.attention, alone.attention)
    row, rng = tiny.WORDS.encode(["not", "bad"]), np.random.default_rng(0)
    others = [rng.integers(4, 10, n).astype(np.int32) for n in rng.integers(1, 17, 63)]
    assert service.reviewer.run(16, [row, *others])[0] == service.reviewer.run(16, [row] * 64)[0]


def test_who_waits_too_long_is_told_so():
    limits = dataclasses.replace(tiny.LIMITS, answer_seconds=0.05, queued_rows=4)
    service = serving.Service(tiny.pronouncer(), tiny.reviewer(), limits)
    with pytest.raises(ApiError, match="the model pronounce is not ready yet") as caught:
        service.pronounce(["a"])
    assert caught.value.status == 503 and caught.value.retry_after
    service.ready["sentiment"] = True
    service.batchers["sentiment"].run = tiny.slow(lambda shape, items: [0.5] * len(items), 0.5)
    with pytest.raises(ApiError, match=r"sentiment gave no answer in 0\.05 seconds"):
        service.sentiment(["good"])
    with pytest.raises(ApiError, match="has more to do than it can answer in time"):
        service.sentiment(["good"] * 5)
    service.close()


def same(found, expected):
    for one, other in zip(
        *(nnx.to_flat_state(nnx.state(m, nnx.Param)).leaves for m in (found, expected)), strict=True
    ):
        np.testing.assert_array_equal(one[...], other[...])


def left_by_pronounce(folder):
    """Write the files of a run of examples/pronounce.py, and return its model."""
    letters, phonemes = data.Vocabulary("abcd"), data.Vocabulary("ABCE")
    sizes: dict[str, Any] = {
        "source_vocabulary": len(letters), "target_vocabulary": len(phonemes), "embed_size": 3,
        "hidden_size": 2,
    }  # fmt: skip
    model = tiny.shaken(seq2seq.Seq2Seq(**sizes, rngs=nnx.Rngs(0)), 3)
    training.save_model(model, folder, config=sizes)
    letters.save(folder / "letters.json")
    phonemes.save(folder / "phonemes.json")
    return model


@pytest.mark.quick()
def test_a_run_of_pronounce_is_read(tmp_path):
    model = left_by_pronounce(tmp_path)
    found = serving.load_pronouncer(tmp_path)
    same(found.model, model)
    assert found.alphabet == set("abcd") and found.beam_width == 5
    assert found.phonemes.tokens[4:] == ("A", "B", "C", "E")
    (tmp_path / "phonemes.json").unlink()
    with pytest.raises(ValueError, match=r"expected phonemes.json of a run of pronounce.py in"):
        serving.load_pronouncer(tmp_path)


def test_a_damaged_model_is_refused_and_left_as_it_is(tmp_path):
    left_by_pronounce(tmp_path)
    path = tmp_path / "model.npz"
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(half)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"expected the model of pronounce.py in .*") as caught:
            serving.load_pronouncer(tmp_path)
        assert "\n" not in str(caught.value) and path.read_bytes() == half


def left_by_sentiment(folder):
    """Write the files of a run of examples/sentiment.py, and return its model."""
    config = sentiment.Config(embed_size=3, hidden_size=2, cell="lstm", pooling="last")
    sizes = sentiment.sizes(config, len(tiny.WORDS))
    model = tiny.shaken(sentiment.Reader(**sizes, rngs=nnx.Rngs(0)), 4)
    training.save_model(model, folder, config=sizes)
    tiny.WORDS.save(folder / "vocabulary.json")
    return model


def test_a_damaged_vocabulary_is_refused(tmp_path):
    left_by_sentiment(tmp_path)
    (tmp_path / "vocabulary.json").write_text('["a"]')
    with pytest.raises(ValueError, match=r"expected 14 tokens in .*vocabulary\.json, .*, got 5"):
        serving.load_reviewer(tmp_path)
    folder = tmp_path / "pronounce"
    letters, phonemes = data.Vocabulary("abcd"), data.Vocabulary("ABCDE")
    sizes: dict[str, Any] = {
        "source_vocabulary": len(letters), "target_vocabulary": len(phonemes), "embed_size": 3,
        "hidden_size": 2,
    }  # fmt: skip
    training.save_model(seq2seq.Seq2Seq(**sizes, rngs=nnx.Rngs(0)), folder, config=sizes)
    letters.save(folder / "letters.json")
    letters.save(folder / "phonemes.json")
    with pytest.raises(ValueError, match=r"expected 9 tokens in .*phonemes\.json, .*, got 8"):
        serving.load_pronouncer(folder)
    phonemes.save(folder / "letters.json")
    with pytest.raises(ValueError, match=r"expected 8 tokens in .*letters\.json, .*, got 9"):
        serving.load_pronouncer(folder)
    data.Vocabulary(["AH", "B", "K", "T"]).save(folder / "letters.json")
    with pytest.raises(ValueError, match=r"expected single letters in .*letters\.json, got 'AH'"):
        serving.load_pronouncer(folder)


def test_the_folder_of_another_script_is_said_to_be_one(tmp_path):
    left_by_pronounce(tmp_path)
    with pytest.raises(ValueError, match=r"expected vocabulary.json of a run of sentiment.py in"):
        serving.load_reviewer(tmp_path)
    tiny.WORDS.save(tmp_path / "vocabulary.json")
    with pytest.raises(ValueError, match=r"expected the model of sentiment.py .*takes source_voc"):
        serving.load_reviewer(tmp_path)


def test_a_run_of_sentiment_is_read(tmp_path):
    model = left_by_sentiment(tmp_path)
    found = serving.load_reviewer(tmp_path)
    same(found.model, model)
    assert found.vocabulary == tiny.WORDS and found.words_of("Not BAD!") == ["not", "bad", "!"]
    assert found.model.dropout.deterministic


def test_folders_without_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"expected letters.json of a run of pronounce.py"):
        serving.load_pronouncer(tmp_path)
    tiny.WORDS.save(tmp_path / "vocabulary.json")
    with pytest.raises(ValueError, match=r"model of a finished run of sentiment.py .*--resume"):
        serving.load_reviewer(tmp_path)


def test_the_limits_of_a_request_fit_in_the_queue():
    limits = serving.Limits()
    assert limits.queued_rows >= max(limits.words, limits.text_words)
