"""Exported decoders: programs for any number of sequences and of steps equal the search itself."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqjax import crf, ctc, decoding, export, nn, transducer
from tests.nn.helpers import drawn

V, E, H = 5, 3, 4
LETTERS = [None, " ", "a", "b", "c"]
FILE = [
    *("\\data\\", "ngram 1=5", "ngram 2=2"),
    *("\\1-grams:", "-99 <s> -0.3", "-0.4 ab -0.2", "-0.9 c", "-1.5 ba", "-0.8 </s>"),
    *("\\2-grams:", "-0.3 <s> ab", "-0.4 ab c", "\\end\\"),
]


@functools.cache
def language() -> Any:
    """A sum of an n-gram model of letters, one of words, and a phrase."""
    letters = decoding.NGram.fit([[2, 3, 1, 4]], order=3, vocabulary_size=V, begin=0, end=0)
    words = decoding.WordNGram.from_arpa(FILE, LETTERS, space=1, end=0, unknown=-4.0)
    phrase = decoding.Hotwords([[3, 2]], vocabulary_size=V, bonus=0.7)
    return decoding.LogLinear([letters, words, phrase], weights=[0.4, 0.2, 1.0], length_bonus=0.3)


@functools.cache
def recognizer() -> Any:
    """A transducer with random parameters."""

    def build() -> Any:
        rngs = nnx.Rngs(0)
        return transducer.Transducer(
            nn.GRU(E, H, rngs=rngs), nn.GRU(H, H, rngs=rngs),
            vocabulary=V, joint_size=H, max_symbols=2, rngs=rngs,
        )  # fmt: skip

    model = drawn(build)
    model.eval()
    return model


def sampled(frames: Any, lengths: Any) -> Any:
    """Samples of a decoder whose state is the mean of the frames."""
    state = frames.mean(axis=1)

    def step(tokens: Any, state: Any) -> Any:
        return jax.nn.one_hot(tokens, V) + jnp.pad(state, ((0, 0), (0, V - E))), state

    return decoding.sample(
        step, state, key=jax.random.key(0), begin=1, end=0, max_length=4, top_k=3, top_p=0.9
    )


def fused(search: Callable[..., Any], frames: Any, lengths: Any, **options: Any) -> Any:
    """A search with the language model."""
    return search(
        frames, lengths=lengths, beam_width=4, n_best=2, fusion=language(), end=0, **options
    )


def labelled(frames: Any, lengths: Any) -> Any:
    """The best tags of a CRF."""
    return crf.decode(frames, jnp.eye(V) * 0.5, lengths=lengths, n_best=2)


DECODERS: dict[str, tuple[Callable[..., Any], int]] = {
    "ctc_greedy": (lambda x, n: ctc.ctc_greedy(x, lengths=n), V),
    "ctc_beam_search": (lambda x, n: ctc.ctc_beam_search(x, lengths=n, beam_width=4), V),
    "ctc_beam_search with fusion": (functools.partial(fused, ctc.ctc_beam_search), V),
    "transducer_greedy": (lambda x, n: recognizer().greedy(x, lengths=n), E),
    "transducer_beam_search": (lambda x, n: recognizer().beam_search(x, lengths=n), E),
    "transducer_beam_search with fusion": (
        lambda x, n: fused(recognizer().beam_search, x, n), E,
    ),
    "sample": (sampled, E),
    "crf": (labelled, V),
}  # fmt: skip


@pytest.mark.quick("ctc_greedy", "crf")
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_with_symbolic_sizes(name: str, tmp_path: Any) -> None:
    decoder, features = DECODERS[name]
    b, t = jax.export.symbolic_shape("b, t")
    frames = jax.ShapeDtypeStruct((b, t, features), jnp.float32)
    lengths = jax.ShapeDtypeStruct((b,), jnp.int32)
    if name.startswith("transducer"):
        recognizer()  # not within the program
    program = export.export_function(
        lambda frames, lengths: decoder(frames, lengths)._asdict(), frames, lengths
    )
    export.save(tmp_path / "decoder.zip", program)
    program = export.load(tmp_path / "decoder.zip")
    rng = np.random.default_rng(1)
    for batch, steps in ((3, 7), (1, 1)):
        xs = rng.normal(size=(batch, steps, features)).astype(np.float32)
        real = rng.integers(0, steps + 1, batch).astype(np.int32)
        real[0] = steps
        expected = decoder(xs, real)._asdict()
        found = program(xs, real)
        assert found.keys() == {name for name, leaf in expected.items() if leaf is not None}
        for field, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[field], rtol=1e-5, atol=1e-5, err_msg=field)
