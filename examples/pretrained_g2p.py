"""Letters to phonemes: published weights of a PyTorch model, run by layers of seqjax.

To run a PyTorch model of your own, see how `load` converts weights to layers by `interop.pytorch`,
and how `decode` makes a decoder of a step function.

The package g2p_en contains a GRU that reads the letters of an English word and a GRU that writes
its phonemes, with stress. Both GRUs were trained in PyTorch on the CMU Pronouncing Dictionary.
`decoding.greedy` decodes all words at once, in one compiled call.

    python -m examples.pretrained_g2p bahdanau seqjax
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from examples import script
from seqjax import decoding
from seqjax.data import Vocabulary, installed_files, pad
from seqjax.interop import pytorch

LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
VOWELS = ["AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"]
CONSONANTS = [
    "B",
    "CH",
    "D",
    "DH",
    "F",
    "G",
    "HH",
    "JH",
    "K",
    "L",
    "M",
    "N",
    "NG",
    "P",
    "R",
    "S",
    "SH",
    "T",
    "TH",
    "V",
    "W",
    "Y",
    "Z",
    "ZH",
]
# The order of the model's outputs. One of the vowels also occurs without stress.
PHONEMES = Vocabulary(sorted([*(v + n for v in VOWELS for n in "012"), "UW", *CONSONANTS]))
NAMES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
"""PyTorch's names of the weights of a layer."""
LONGEST = 20  # maximum number of phonemes of a word


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of this example, which runs a model with published weights."""

    words: tyro.conf.Positional[tuple[str, ...]] = ("recurrent", "seqjax", "bahdanau")
    """Words to pronounce."""
    data: Path | None = None
    """A file of weights; by default checkpoint20.npz in the package g2p_en."""


def load(path: Path) -> dict[str, Any]:
    """Return a dict of the weights by name, and of the layers "encoder" and "decoder".

    The layers are made from the weights.
    """
    with np.load(path) as file:
        model: dict[str, Any] = {name: jax.numpy.asarray(file[name]) for name in file.files}
    layers = [f"{side}_{name}" for side in ("enc", "dec") for name in ("emb", *NAMES)]
    for name in (*layers, "fc_w", "fc_b"):
        if name not in model:
            raise ValueError(f"expected {name} in {path}, got {', '.join(model)}")
    for layer, side in (("encoder", "enc"), ("decoder", "dec")):
        state = {name: model[f"{side}_{short}"] for short, name in NAMES.items()}
        model[layer] = pytorch.load(state)
    return model


@jax.jit
def decode(model: dict[str, Any], letters: Any, lengths: Any) -> decoding.Decoded:
    """Return the most probable phoneme at every step, starting from the encoder's last state."""
    _, state = model["encoder"](model["enc_emb"][letters], lengths=lengths)

    def step(tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        output, state = model["decoder"].step(model["dec_emb"][tokens], state)
        return output @ model["fc_w"].T + model["fc_b"], state

    begin, end = PHONEMES.begin, PHONEMES.end
    return decoding.greedy(step, state, begin=begin, end=end, max_length=LONGEST)


def pronounce(model: dict[str, Any], words: Sequence[str]) -> list[list[str]]:
    """Return the phonemes of each word."""
    ids = {letter: index for index, letter in enumerate(LETTERS)}
    rows = [[ids.get(letter, 1) for letter in word] + [ids["</s>"]] for word in words]
    padded, lengths = pad([np.array(row, np.int32) for row in rows])
    found = jax.tree.map(np.asarray, decode(model, padded, lengths))
    pairs = zip(found.tokens[:, 0], found.lengths[:, 0], strict=True)
    return [[PHONEMES.tokens[token] for token in tokens[:length]] for tokens, length in pairs]


def main(config: Config) -> dict[str, list[str]]:
    """Load the model and pronounce the words; return their phonemes."""
    with script.blaming("data"):
        model = load(config.data or installed_files("g2p_en", "checkpoint20.npz")[0])
    words = [word.lower() for word in config.words if word.strip()]
    if not words:
        raise SystemExit("words: expected at least one, got none")
    spoken = dict(zip(words, pronounce(model, words), strict=True))
    for word, phonemes in spoken.items():
        print(f"  {word:<16} {' '.join(phonemes)}")
    return spoken


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.pretrained_g2p", description=__doc__))
