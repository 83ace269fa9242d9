"""The speech script on made-up sounds and features."""

import importlib.util
import tarfile
from typing import Any

import numpy as np
import pytest
from scipy.io import wavfile

pytest.importorskip("tyro")
from examples import speech
from examples.shipped import letter_models, spoken_digits
from seqjax.data import Vocabulary


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Utterances of two words out of ab, ba and aa, each letter five frames of its own feature."""
    rng = np.random.default_rng(0)
    arrays: Any = {}
    for split, count in (("train", 300), ("test", 20)):
        words = rng.choice(["ab", "ba", "aa"], (count, 2))
        texts = [" ".join(row) for row in words]
        frames = [np.eye(4)[["ab ".index(x) if n % 5 else 3 for x in text for n in range(5)]]
                  for text in texts]  # fmt: skip
        feats = np.concatenate(frames) + 0.1 * rng.normal(size=(25 * count, 4))
        names = [f"{split}/speaker{n % 20}/{n}" for n in range(count)]
        found = {"feats": feats, "len": np.full(count, 25), "text": texts, "id": names}
        arrays |= {f"{split}_{part}": np.asarray(values) for part, values in found.items()}
    path = tmp_path_factory.mktemp("features") / "made_up.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Digits 0, 1 and 2 as tones that rise, fall, or do one after the other."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    rise = np.linspace(0.2, 1.2, 1200)
    for digit, pitch in enumerate((rise, rise[::-1], np.append(rise[::2], rise[::-2]))):
        for index in range(24):
            tone = np.sin(np.cumsum(pitch)) + 0.1 * rng.normal(size=1200)
            name = f"{digit}_somebody_{index}.wav"
            wavfile.write(folder / name, 8000, (9000 * tone).astype(np.int16))
    return folder


def config(data, out, **options):
    defaults: Any = {
        "hidden_size": 16, "num_layers": 1, "stack": 1, "dropout": 0.0, "noise": 0.1, "mask": 0.0,
        "stretch": 0.0, "epochs": 8, "batch_size": 16, "learning_rate": 0.03, "beam_width": 4,
    }  # fmt: skip
    return speech.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_letters_are_found_and_a_run_goes_on(features, tmp_path, capsys):
    rates = speech.main(config(features, tmp_path))
    assert rates["empty_transcript_word_error_rate"] == 1.0
    assert rates["word_error_rate"] < 0.3 and rates["letter_error_rate"] < 0.2
    assert "270 train, 30 valid, 20 test; 3 classes" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "learning_curve.png", "recognised.png", "result.json"} <= names
    lines = (tmp_path / "test.txt").read_text().splitlines()
    assert len(lines) == 20 and all(line.count("\t") == 1 for line in lines)
    assert speech.main(config(features, tmp_path, resume=True)) == rates
    # A finished run is evaluated again with other options of the search.
    options: Any = {"lm_order": 3, "lm_weights": (0.0, 0.5), "lm_bonuses": (0.0, 1.0)}
    both = speech.main(config(features, tmp_path, resume=True, beam_width=8, **options))
    printed = capsys.readouterr().out
    assert "in %, by its weight (rows)" in printed and "epoch 1/8" not in printed
    assert both["language_model_weight"] in (0.0, 0.5)
    assert both["word_error_rate_with_language_model"] <= both["word_error_rate"]
    lines = (tmp_path / "test.txt").read_text().splitlines()
    assert len(lines) == 20 and all(line.count("\t") == 2 for line in lines)


@pytest.mark.slow
def test_a_transducer_finds_letters(features, tmp_path, capsys):
    options: Any = {"lm_order": 2, "lm_weights": (0.3,), "lm_bonuses": (0.0,)}
    rates = speech.main(config(features, tmp_path, model="transducer", joint_size=16, **options))
    assert rates["word_error_rate"] < 0.3 and rates["letter_error_rate"] < 0.2
    assert rates["word_error_rate_with_language_model"] < 0.3
    assert rates["share_of_streamed_texts_equal"] == 1.0
    assert "more letters than steps" not in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "result.json", "test.txt"} <= names and "recognised.png" not in names


@pytest.mark.slow
def test_words_are_told_apart(recordings, tmp_path):
    archive = tmp_path / "recordings.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(recordings, "recordings")
    options: Any = {"task": "digits", "cell": "mgu"}
    rates = speech.main(config(archive, tmp_path / "out", **options))
    assert rates["majority_accuracy"] == pytest.approx(1 / 3) and rates["accuracy"] > 0.9
    assert (tmp_path / "out" / "recognised.png").is_file()
    (_, text), *_ = spoken_digits.load(recordings, words=1)["valid"]
    assert text == "zero"


def test_the_synthesiser(monkeypatch, tmp_path):
    if importlib.util.find_spec("espeakng_loader") is not None:
        voices = {split: (names, 3) for split, (names, _) in spoken_digits.VOICES.items()}
        monkeypatch.setattr(spoken_digits, "VOICES", voices)
        for most in (1, 5):
            for said in spoken_digits.synthesise(most).values():
                assert len(said) == 3 and {word for _, t in said for word in t.split()} <= {
                    *spoken_digits.DIGITS
                }
                assert all(1 <= len(text.split()) <= most for _, text in said)
                assert all(x.shape[1] == 13 and len(x) > 15 and x.std() > 1 for x, _ in said)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps espeakng-loader"):
        speech.main(config(None, tmp_path))


def testknown_words_are_preferred():
    words = ["nine", "three", "two"]
    assert spoken_digits.known_words(["thre two", "three two"], words) == ["three", "two"]
    assert spoken_digits.known_words(["thre nie", "thee nin"], words) == ["three", "nine"]
    assert spoken_digits.known_words(["", "two"], words) == []
    assert spoken_digits.error_rate([["a", "b"], ["c"]], [["a"], ["c", "d"]]) == pytest.approx(
        2 / 3
    )


def test_the_weight_with_the_fewest_wrong_words_is_chosen(capsys):
    texts = {(0.5, 1.0): ["ab ba"], (1.0, 0.0): ["ab bb"]}
    chosen = letter_models.choose(
        lambda *pair: [texts.get(pair, [""])], ["ab ba"], (0.5, 1.0), (0.0, 1.0)
    )
    assert chosen == (0.5, 1.0)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert "100.0" in rows[0]
    assert rows[-2:] == [["0.50", "100.0", "0.0"], ["1.00", "50.0", "100.0"]]


def score_of(model, tokens, text):
    """The score that a step function gives to the letters of a text."""
    total, state, before = 0.0, model.initial_state(1), tokens.begin
    for letter in tokens.encode(text):
        scores, state = model(np.array([before]), state)
        total, before = total + scores[0, letter], letter
    return total


@pytest.mark.quick()
def test_a_language_model_from_a_file(tmp_path):
    tokens = Vocabulary.build(["ab ba"])
    grams = ["-1 <s>", "-1 </s>", "-0.3 a", "-0.5 b", "-0.7 |"]
    lines = ["\\data\\", "ngram 1=5", "\\1-grams:", *grams, "\\end\\"]
    (tmp_path / "letters.arpa").write_text("\n".join(lines))
    model = letter_models.load(tmp_path / "letters.arpa", 0, "letters", [], tokens)
    log_p, _ = model(np.array([tokens.begin]), model.initial_state(1))
    np.testing.assert_allclose(log_p[0, tokens.encode(" ab")] / np.log(10), [-0.7, -0.3, -0.5])
    assert np.isneginf(log_p[0, tokens.padding])
    (tmp_path / "words.arpa").write_text("\n".join(lines).replace("-0.3 a", "-0.3 abba"))
    with pytest.raises(ValueError, match="tokens: expected tokens that the file lists"):
        letter_models.load(tmp_path / "words.arpa", 0, "letters", [], tokens)
    words = letter_models.load(tmp_path / "words.arpa", 0, "words", [], tokens)
    np.testing.assert_allclose(score_of(words, tokens, "abba ") / np.log(10), -0.3, rtol=1e-5)


@pytest.mark.quick()
def test_a_language_model_of_words_is_counted():
    tokens = Vocabulary.build(["ab ba", "ab"])
    words = letter_models.load(None, 2, "words", ["ab ba", "ab", "ab"], tokens)
    # After <s>: ab was seen 3 times; the unigrams are interpolated with 1/6 for each of 6 tokens.
    unigram = (3 + 3 / 6) / (7 + 3)
    wanted = np.log((3 + unigram) / (3 + 1))
    np.testing.assert_allclose(score_of(words, tokens, "ab "), wanted, rtol=1e-5)
    np.testing.assert_allclose(score_of(words, tokens, "aba"), letter_models.UNKNOWN, rtol=1e-5)


def test_bytes_are_texts_and_lengths_may_be_unsigned(features, tmp_path):
    with np.load(features) as arrays:
        whole = dict(arrays)
    for name in ("train_text", "train_id", "test_text", "test_id"):
        whole[name] = np.char.encode(whole[name], "utf-8")
    whole["train_len"] = whole["train_len"].astype(np.uint64)
    np.savez(tmp_path / "bytes.npz", **whole)
    found = spoken_digits.load(tmp_path / "bytes.npz", words=1)
    for split, wanted in spoken_digits.load(features, words=1).items():
        assert [text for _, text in found[split]] == [text for _, text in wanted]


def test_names_in_capital_letters_are_read(recordings, tmp_path):
    for index, end in ((0, "wav"), (5, "WAV"), (8, "Wav")):
        raw = (recordings / f"1_somebody_{index}.wav").read_bytes()
        (tmp_path / f"1_somebody_{index}.{end}").write_bytes(raw)
    found = spoken_digits.load(tmp_path, words=1)
    assert [(split, len(some)) for split, some in found.items()] == [
        ("train", 1), ("valid", 1), ("test", 1),
    ]  # fmt: skip


def test_features_are_checked_before_the_training(features, tmp_path):
    with np.load(features) as arrays:
        whole = dict(arrays)

    def fails(message, **changed):
        np.savez(tmp_path / "some.npz", **(whole | changed))
        with pytest.raises(SystemExit, match=rf"^--data: .*some\.npz: expected {message}"):
            speech.main(config(tmp_path / "some.npz", tmp_path / "out"))

    wide = np.zeros((500, 5))
    fails(r"test_feats \[500, 4\], as in train_feats, got \(500, 5\)", test_feats=wide)
    hole = whole["test_feats"].copy()
    hole[60, 2] = np.nan
    fails("finite numbers in test_feats, got nan in the frames of entry 2$", test_feats=hole)
    hole[60, 2] = 1e39  # infinite in float32
    fails("finite numbers in test_feats, got inf in the frames of entry 2$", test_feats=hole)
    fails("numbers in test_feats, got <U4", test_feats=np.full((500, 4), "zero"))
    floats = whole["train_len"].astype(float)
    fails(r"integers \[N\] in train_len, got float64 of shape \(300,\)", train_len=floats)
    lengths = whole["test_len"].copy()
    lengths[3:5] = 0, 50
    fails("at least 1 in test_len, got 0 in entry 3", test_len=lengths)
    latin = np.array([b"caf\xe9"] * 20)
    fails(r"UTF-8 in test_text, got b'caf\\xe9' in entry 0", test_text=latin)
    objects = whole["test_text"].astype(object)
    fails("an array in test_text: Object arrays", test_text=objects)


def test_mistakes(features, recordings, tmp_path):
    def fails(message, data=features, **options):
        with pytest.raises(SystemExit, match=message):
            speech.main(config(data, tmp_path / "out", **options))

    fails("--cell: expected one of .*, got 'no_such_cell'", cell="no_such_cell")
    fails("--mask: expected at least 0, less than 1", mask=1.0)
    fails("--stack: expected at least 1, got 0", stack=0)
    fails("--lm: expected --task transcribe", lm=tmp_path / "no_such_file.arpa", task="digits")
    fails("--lm: expected .* either --lm or --lm-order", lm=tmp_path / "a.arpa", lm_order=3)
    fails("--lm: .*no_such_file", lm=tmp_path / "no_such_file.arpa")
    fails("--data: expected recordings for train in", data=tmp_path)
    fails("--data: .*no_such_file.npz, which does not exist", data=tmp_path / "no_such_file.npz")
    for noise in (b"nothing of the kind", b"", b"\x1f\x8b\x08"):
        (tmp_path / "noise.npz").write_bytes(noise)
        fails(
            r"^--data: expected a folder of recordings, .* \(.npz\), got .*noise\.npz: [^\n]*$",
            data=tmp_path / "noise.npz",
        )
    np.savez(tmp_path / "few.npz", train_feats=np.zeros((3, 2)), train_len=[3])
    fails("--data: .*expected .*train_text, .*test_id in", data=tmp_path / "few.npz")
    with np.load(features) as arrays:
        whole = dict(arrays)
    np.savez(tmp_path / "cut.npz", **(whole | {"test_feats": whole["test_feats"][1:]}))
    fails(r"--data: .*expected test_feats \[500, F\], got \(499, 4\)", data=tmp_path / "cut.npz")
    np.savez(tmp_path / "short.npz", **(whole | {"test_text": whole["test_text"][1:]}))
    fails("--data: .*expected 20 entries in test_text and _id", data=tmp_path / "short.npz")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "hello.wav").write_bytes((recordings / "0_somebody_0.wav").read_bytes())
    (tmp_path / "rates").mkdir()
    for index, rate in enumerate((8000, 16000)):
        tone = np.ones(1200, np.int16)
        wavfile.write(tmp_path / "rates" / f"0_somebody_{index}.wav", rate, tone)
    fails(
        "--data: expected one sampling rate in all files, got 8000 Hz in 0_somebody_0.wav and",
        data=tmp_path / "rates",
    )
    fails("--data: .*expected names DIGIT_SPEAKER_INDEX.wav, got hello", data=tmp_path / "words")
