"""The pretrained pronunciation model against a reading of its equations in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tyro")
from examples import pretrained_g2p as script
from seqjax.data import installed_files


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru(w: Any, side: str, x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """One step in PyTorch's layout: gates r, z, n are the rows of the matrices."""
    p_r, p_z, p_n = np.split(w[f"{side}_w_ih"] @ x + w[f"{side}_b_ih"], 3)
    q_r, q_z, q_n = np.split(w[f"{side}_w_hh"] @ h + w[f"{side}_b_hh"], 3)
    z = sigmoid(p_z + q_z)
    return (1 - z) * np.tanh(p_n + sigmoid(p_r + q_r) * q_n) + z * h


def spoken(w: Any, word: str) -> list[int]:
    """The ids of a word's phonemes: 0 to 3 are pad, unknown, begin and end."""
    letters = ["pad", "unknown", "end", *"abcdefghijklmnopqrstuvwxyz"]
    h = np.zeros(w["enc_w_hh"].shape[1])
    for letter in [*word, "end"]:
        h = gru(w, "enc", w["enc_emb"][letters.index(letter) if letter in letters else 1], h)
    found: list[int] = []
    token = 2
    while len(found) < 20:
        h = gru(w, "dec", w["dec_emb"][token], h)
        token = int(np.argmax(w["fc_w"] @ h + w["fc_b"]))
        if token == 3:
            break
        found.append(token)
    return found


def made_up(path: Path, size: int = 6) -> Path:
    """A checkpoint of random weights, wide enough apart that no two phonemes are nearly equal."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"fc_w": (74, size), "fc_b": (74,)}
    for side, symbols in (("enc", 29), ("dec", 74)):
        shapes[f"{side}_emb"] = (symbols, size)
        for name in ("ih", "hh"):
            shapes |= {f"{side}_w_{name}": (3 * size, size), f"{side}_b_{name}": (3 * size,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["fc_b"][3] += 3.0  # so that some words end
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def words(count: int) -> list[str]:
    """Words that no dictionary has, some with letters that the model does not know."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in ["b", "str", "k", "sh", "m", "qu", "", "'"] for b in "aeiouy"]
    return ["".join(rng.choice(syllables, rng.integers(1, 6))) or "é" for _ in range(count)]


def compare(path: Path, count: int) -> list[list[str]]:
    some = [*words(count), "漢字", "x", "zzzzzzzzzzzzzzzzzzzzzzzzz"]
    with np.load(path) as file:
        weights = {name: file[name].astype(np.float64) for name in file.files}
    found = script.pronounce(script.load(path), some)
    expected = [[script.PHONEMES.tokens[token] for token in spoken(weights, w)] for w in some]
    assert found == expected
    return found


def test_made_up_weights(tmp_path):
    found = compare(made_up(tmp_path / "weights.npz"), 60)
    lengths = {len(phonemes) for phonemes in found}
    assert {0, script.LONGEST} & lengths and len(lengths) > 3


def test_the_model_of_the_package(capsys):
    try:
        (path,) = installed_files("g2p_en", "checkpoint20.npz")
    except ValueError:
        pytest.skip("the package g2p_en is not installed: pip install --no-deps g2p_en")
    compare(path, 300)
    script.main(script.Config(words=("Bahdanau", "")))
    assert "bahdanau         B AA1 D AH0 N AW0" in capsys.readouterr().out


def test_phonemes_stand_in_the_order_of_the_model():
    names = script.PHONEMES.tokens
    assert len(names) == 74
    assert names[:7] == ("<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2")
    assert names[-9:] == ("UW", "UW0", "UW1", "UW2", "V", "W", "Y", "Z", "ZH")


def test_mistakes(tmp_path):
    path = made_up(tmp_path / "weights.npz")
    with pytest.raises(SystemExit, match="words: expected at least one, got none"):
        script.main(script.Config(words=(" ",), data=path))
    with pytest.raises(SystemExit, match=r"--data: .*none\.npz"):
        script.main(script.Config(data=tmp_path / "none.npz"))
    np.savez(tmp_path / "other.npz", enc_emb=np.ones(3))
    with pytest.raises(SystemExit, match=r"--data: expected enc_w_ih in .*other\.npz, got enc_emb"):
        script.main(script.Config(data=tmp_path / "other.npz"))
