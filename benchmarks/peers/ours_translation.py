"""seqjax's encoder-decoder: a compiled training step, and compiled decoding."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.peers.base import Trainer, Writer
from benchmarks.peers.nnx_tools import rebuilder
from benchmarks.tasks import ADAM_RATE, CLIP_NORM
from benchmarks.translation import BEGIN, END, Translation
from seqjax import decoding, seq2seq, training

Put: TypeAlias = Callable[[Any, int | None], Any]

__all__ = ["SeqjaxTranslator", "SeqjaxWriter"]


def _model(task: Translation) -> Any:
    """Return a function from parameters to the model."""
    _, _, embed, hidden = task.sizes
    return rebuilder(
        seq2seq.Seq2Seq(
            source_vocabulary=task.vocabulary,
            target_vocabulary=task.vocabulary,
            embed_size=embed,
            hidden_size=hidden // 2,
            rngs=nnx.Rngs(0),
        )
    )


def _params(task: Translation) -> Any:
    """Return the given weights as the model's pure dictionary."""
    a = jax.tree.map(jnp.asarray, task.arrays)

    def linear(name: str) -> dict[str, Any]:
        return {"kernel": a[name], "bias": a[f"{name}_b"]}

    forward, backward = jax.tree.map(jnp.asarray, task.encoder[0])
    return {
        "bridge": {"layers": {0: linear("bridge_h"), 1: linear("bridge_c")}},
        "decoder": {
            "combine": linear("combine"),
            "embedding": {"embedding": a["target"]},
            "layers": {0: jax.tree.map(jnp.asarray, task.writer[0][0])},
            "mechanism": {name: a[name] for name in ("w_q", "w_m", "b", "v")},
            "readout": linear("readout"),
        },
        "encoder": {
            "embedding": {"embedding": a["source"]},
            "recurrent": {"layers": {0: {"forward": forward, "backward": backward}}},
        },
    }


class SeqjaxTranslator(Trainer):
    """One compiled training step."""

    def __init__(self, task: Translation, put: Put) -> None:
        rebuild = _model(task)
        optimiser = training.optimizer(ADAM_RATE, clip_norm=CLIP_NORM)
        params = _params(task)
        self._params, self._state = put(params, None), put(optimiser.init(params), None)
        names = ("source", "source_lengths", "tokens", "labels", "target_lengths")
        self._batch = put({name: getattr(task, name) for name in names}, 0)
        self._loss = float("nan")

        def train(params: Any, state: Any, batch: Any) -> Any:
            def loss_of(params: Any) -> jax.Array:
                return seq2seq.pair_loss(rebuild(params), batch, None)[0]

            loss, gradients = jax.value_and_grad(loss_of)(params)
            updates, state = optimiser.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, loss

        self._train = jax.jit(train, donate_argnums=(0, 1))

    def step(self) -> None:
        self._params, self._state, self._loss = jax.block_until_ready(
            self._train(self._params, self._state, self._batch)
        )

    def loss(self) -> float:
        return float(self._loss)


class SeqjaxWriter(Writer):
    """Compiled greedy decoding or beam search, including the encoder."""

    def __init__(self, task: Translation, width: int, put: Put) -> None:
        rebuild = _model(task)

        @functools.partial(jax.jit, static_argnums=3)
        def write(params: Any, source: Any, lengths: Any, most: int) -> decoding.Decoded:
            model = rebuild(params)
            step, state = model.decoding(model.encoder(source, lengths=lengths, deterministic=True))
            options: Any = {"begin": BEGIN, "end": END, "max_length": most}
            if width == 1:
                return decoding.greedy(step, state, **options)
            return decoding.beam_search(step, state, beam_width=width, **options)

        source, lengths = put((task.source, task.source_lengths), 0)
        self._write = functools.partial(write, put(_params(task), None), source, lengths)
        self._most = 2 * task.sizes[1]
        self._found: Any = None

    def write(self) -> None:
        self._found = jax.block_until_ready(self._write(self._most))

    def tokens(self) -> np.ndarray:
        return np.asarray(self._found.tokens[:, 0])
