"""Speech as frames and texts: synthesised digits, the Free Spoken Digit Dataset, or .npz files.

- eSpeak NG (GPL 3, in the package espeakng-loader) speaks one to five digits. The voices of the
  test set are not in the training set, and are the same for every seed.
- FSDD (Jackson et al., CC BY-SA 4.0, github.com/Jakobovski/free-spoken-digit-dataset): its folder
  `recordings`, or an archive of it. For each speaker and digit, recordings 0 to 4 are the test set,
  as published, and recordings 5 to 7 are used to choose the best epoch.
- FILE.npz with train_feats [frames, F], the concatenated frames of all utterances; train_len, the
  number of frames of each utterance; train_text; train_id, a name FOLDER/SPEAKER/UTTERANCE; and the
  same four arrays for test. The utterances of every tenth training speaker are used to choose the
  best epoch.
"""

import ctypes
import difflib
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.shipped import archives
from examples.shipped.folders import matching
from seqjax import metrics, viz
from seqjax.data import Vocabulary, installed_files, read_audio
from seqjax.data import _audio as audio

__all__ = [
    "Recordings",
    "accuracies",
    "error_rate",
    "error_rates",
    "known_words",
    "load",
    "plot",
    "read_features",
    "read_recordings",
    "synthesise",
]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-029")
VOICES = {  # voices of eSpeak NG that are the same each time, and their number of utterances
    "train": ("m1 m3 m4 m6 m8 f1 Alex Andy Annie Denis adam anika edward grandma max steph", 1200),
    "valid": ("m5 aunty", 100),
    "test": ("m7 Michael belinda shelby", 300),
}
PARTS = ("feats", "len", "text", "id")  # fields of a .npz file, for train and for test
Recordings = list[tuple[np.ndarray, str]]  # frames [T, F] every 10 ms, and the spoken text


def load(path: Path | None, *, words: int) -> dict[str, Recordings]:
    """Return utterances for "train", "valid" and "test".

    If `path` is None, eSpeak NG speaks them, with at most `words` words in each.
    """
    if path is None:
        return synthesise(words)
    if not path.exists():
        raise ValueError(f"expected recordings or features, got {path}, which does not exist")
    sets = read_features(path) if zipfile.is_zipfile(path) else read_recordings(path)
    for split, recordings in sets.items():
        if not recordings:
            raise ValueError(f"expected recordings for {split} in {path}, got none")
    return sets


def synthesise(words: int) -> dict[str, Recordings]:
    """Return digits spoken by eSpeak NG, with noise of different loudness."""
    found = installed_files("espeakng_loader", "*espeak-ng.*")
    espeak, heard = ctypes.CDLL(str(found[0])), []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: Any, count: int, _: Any) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)) / 32768)
        return 0

    rate = espeak.espeak_Initialize(2, 0, str(found[0].parent).encode(), 0)  # 2: to `hear`
    espeak.espeak_SetSynthCallback(hear)
    rng = np.random.default_rng(0)
    sets: dict[str, Recordings] = {}
    for split, (voices, count) in VOICES.items():
        sets[split] = []
        for _ in range(count):
            heard.clear()
            text = " ".join(rng.choice(DIGITS, 1 if words == 1 else rng.integers(1, words + 1)))
            espeak.espeak_SetVoiceByName(
                f"{rng.choice(ACCENTS)}+{rng.choice(voices.split())}".encode()
            )
            espeak.espeak_SetParameter(1, int(rng.integers(120, 240)), 0)  # words per minute
            espeak.espeak_SetParameter(3, int(rng.integers(20, 80)), 0)  # pitch, out of 100
            size = ctypes.c_size_t(len(text) + 1)
            espeak.espeak_Synth(text.encode(), size, 0, 0, 0, 1, None, None)
            samples = np.concatenate(heard)
            samples += 10 ** rng.uniform(-3, -1.5) * rng.normal(size=len(samples))
            sets[split].append((audio.mfcc(samples, rate), text))
    return sets


def read_recordings(path: Path) -> dict[str, Recordings]:
    """Read DIGIT_SPEAKER_INDEX.wav files in a folder or an archive."""
    sets: dict[str, Recordings] = {"train": [], "valid": [], "test": []}
    rates: dict[int, str] = {}  # a file of each sampling rate
    with tempfile.TemporaryDirectory() as unpacked:
        if path.is_file():
            expected = "a folder of recordings, an archive of it (.tar.gz) or features (.npz)"
            with archives.reading(path, expected), tarfile.open(path) as archive:
                archive.extractall(unpacked, filter="data")
        folder = Path(unpacked) if path.is_file() else path
        for file in matching(folder, "**/*.[wW][aA][vV]"):
            name = re.fullmatch(r"(\d)_\w+_(\d+)", file.stem)
            if not name:
                raise ValueError(f"expected names DIGIT_SPEAKER_INDEX.wav, got {file.name}")
            split = "test" if int(name[2]) < 5 else "valid" if int(name[2]) < 8 else "train"
            samples, rate = read_audio(file)
            rates.setdefault(rate, file.name)
            if len(rates) > 1:
                got = " and ".join(f"{rate} Hz in {name}" for rate, name in rates.items())
                raise ValueError(f"expected one sampling rate in all files, got {got}")
            sets[split].append((audio.mfcc(samples, rate), DIGITS[int(name[1])]))
    return sets


def read_features(path: Path) -> dict[str, Recordings]:
    """Return the features and texts of a .npz file."""
    found = _arrays(path)
    sets: dict[str, Recordings] = {"train": [], "valid": [], "test": []}
    for side in ("train", "test"):
        feats, lengths, texts, ids = (found[f"{side}_{part}"] for part in PARTS)
        if lengths.dtype.kind not in "iu" or lengths.ndim != 1:
            raise ValueError(
                f"{path}: expected integers [N] in {side}_len, got {lengths.dtype} of shape "
                f"{lengths.shape}"
            )
        if lengths.min(initial=1) < 1:
            entry = int(np.argmax(lengths < 1))
            raise ValueError(
                f"{path}: expected at least 1 in {side}_len, got {lengths[entry]} in entry {entry}"
            )
        if feats.ndim != 2 or lengths.sum() != len(feats):
            raise ValueError(
                f"{path}: expected {side}_feats [{lengths.sum()}, F], got {feats.shape}"
            )
        width = found["train_feats"].shape[1]
        if feats.shape[1] != width:
            raise ValueError(
                f"{path}: expected {side}_feats [{len(feats)}, {width}], as in train_feats, got "
                f"{feats.shape}"
            )
        if not lengths.shape == texts.shape == ids.shape:
            raise ValueError(
                f"{path}: expected {len(lengths)} entries in {side}_text and _id, as in {side}_len"
            )
        frames = np.split(_floats(feats, f"{side}_feats", path), np.cumsum(lengths)[:-1])
        for index, x in enumerate(frames):
            if not np.isfinite(x).all():
                wrong = x[~np.isfinite(x)][0]
                raise ValueError(
                    f"{path}: expected finite numbers in {side}_feats, got {wrong} in the frames "
                    f"of entry {index}"
                )
        speakers = [name.split("/")[-2:][0] for name in _texts(ids, f"{side}_id", path)]
        held = sorted(set(speakers))[9::10] if side == "train" else []
        said = _texts(texts, f"{side}_text", path)
        for x, text, speaker in zip(frames, said, speakers, strict=True):
            sets["valid" if speaker in held else side].append((x, text))
    return sets


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file."""
    names = [f"{side}_{part}" for side in ("train", "test") for part in PARTS]
    try:
        with np.load(path) as arrays:
            missing = [name for name in names if name not in arrays]
            if missing:
                got = ", ".join(arrays)
                raise ValueError(f"expected {', '.join(missing)} in {path}, got {got}")
            return {name: _read(arrays, name, path) for name in names}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: {error}") from None


def _read(arrays: Any, name: str, path: Path) -> np.ndarray:
    """Return one array of a .npz file."""
    try:
        array: np.ndarray = arrays[name]
    except (ValueError, zlib.error, EOFError) as error:  # such as an array of objects
        raise ValueError(f"{path}: expected an array in {name}: {error}") from None
    return array


def _floats(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Return numbers as float32."""
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected numbers in {name}, got {values.dtype}")
    with np.errstate(over="ignore"):  # the caller finds infinite numbers
        return values.astype(np.float32)


def _texts(values: np.ndarray, name: str, path: Path) -> list[str]:
    """Return texts, which may be stored as UTF-8."""
    texts = []
    for index, value in enumerate(values.tolist()):
        try:
            texts.append(value.decode("utf-8") if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError:
            raise ValueError(
                f"{path}: expected UTF-8 in {name}, got {value!r} in entry {index}"
            ) from None
    return texts


def accuracies(said: list[str], right: list[str], best: list[str]) -> dict[str, float]:
    """Return two accuracies: of the predictions, and of always predicting the most frequent word.

    The most frequent word is that of the training set.
    """
    majority = max(set(said), key=said.count)
    return {
        "majority_accuracy": float(np.mean([text == majority for text in right])),
        "accuracy": float(np.mean([a == b for a, b in zip(right, best, strict=True)])),
    }


def error_rates(said: list[str], right: list[str], found: list[list[str]]) -> dict[str, float]:
    """Return letter and word error rates; the lexicon has only the words of the training set."""
    words = sorted({word for text in said for word in text.split()})
    split, best = [text.split() for text in right], [texts[0] for texts in found]
    with_lexicon = [known_words(texts, words) for texts in found]
    return {
        "empty_transcript_word_error_rate": error_rate(split, [[]] * len(split)),
        "letter_error_rate": error_rate(right, best),
        "word_error_rate": error_rate(split, [text.split() for text in best]),
        "word_error_rate_with_lexicon": error_rate(split, with_lexicon),
    }


def plot(values: np.ndarray, tokens: Vocabulary, title: str, milliseconds: int) -> Any:
    """Plot the probabilities [T, classes] of letters over the time of an utterance."""
    shown = np.flatnonzero(values.max(axis=0) > 0.1)
    names = [{"<pad>": "blank", " ": "space"}.get(x, x) for x in tokens.pieces(shown)]
    figure = viz.hidden_states(values[:, shown], title=title)
    figure.axes[0].images[0].set(cmap="Blues", clim=(0, 1))
    figure.axes[0].set_yticks(range(len(names)), names)
    figure.axes[0].set(xlabel=f"step (one every {milliseconds} ms)", ylabel="letter")
    figure.axes[1].set_ylabel("probability")
    return figure


def known_words(found: list[str], words: list[str]) -> list[str]:
    """Return the words of the best text that consists of known words.

    The texts in `found` are in order, with the best one first. If each text has an unknown word,
    all words of the first text are replaced by the most similar known words.
    """
    known = [text for text in found if set(words).issuperset(text.split())]
    if known:
        return known[0].split()
    return [difflib.get_close_matches(word, words, 1, 0.0)[0] for word in found[0].split()]


def error_rate(right: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Return the number of edits, divided by the length of the correct texts."""
    errors = sum(metrics.edit_distance(a, b) for a, b in zip(right, found, strict=True))
    return errors / max(1, sum(map(len, right)))
