"""An encoder-decoder with attention: its sizes, initial weights and one batch, for all contestants.

A bidirectional LSTM reads the source. An LSTM, whose last output queries additive attention, writes
the target:

    h_0 = tanh([h→; h←; c→; c←] W_h + b_h)    c_0 likewise
    c_t = attend(y_{t-1})                     y_t = LSTM([e_t; c_t])
    logits_t = tanh([y_t; c_t] W_c + b_c) W_o + b_o
"""

import dataclasses

import numpy as np

from benchmarks.workload import Structure, Weights, draw_weights

__all__ = ["BEGIN", "END", "Translation", "translation"]

BEGIN, END = 2, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Translation:
    """A model, its initial weights and one batch.

    Attributes:
      name: the name of the model.
      sizes: B, T, E and D: batch, steps of source and target, features of an embedding, decoder
        units. Each direction of the encoder has D/2 units.
      source: the source tokens, int32 `[B, T]`.
      source_lengths: the lengths of the sources, int32 `[B]`.
      tokens: the tokens that the decoder reads, int32 `[B, T]`.
      labels: the tokens that the decoder should write, int32 `[B, T]`.
      target_lengths: the lengths of the targets, int32 `[B]`.
      encoder: the weights of the encoder.
      writer: weights of the decoder's LSTM.
      arrays: the other weights by name: `source [V, E]`, `target [V, E]`, `bridge_h [2D, D]`,
        `bridge_c`, `w_q [D, D]`, `w_m [D, D]`, `b [D]`, `v [D]`, `combine [2D, D]`,
        `readout [D, V]`, and biases `NAME_b`.
    """

    name: str
    sizes: tuple[int, int, int, int]
    source: np.ndarray
    source_lengths: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    target_lengths: np.ndarray
    encoder: Weights
    writer: Weights
    arrays: dict[str, np.ndarray]

    @property
    def cell(self) -> str:
        """Return the cell of encoder and decoder."""
        return "lstm"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return B, T, E, D."""
        return self.sizes

    @property
    def vocabulary(self) -> int:
        """Return the size of the source vocabulary, which is also that of the target vocabulary."""
        return len(self.arrays["source"])

    @property
    def reads(self) -> Structure:
        """Return the encoder."""
        _, _, embed, hidden = self.sizes
        return Structure("lstm", embed, hidden // 2, bidirectional=True)

    @property
    def writes(self) -> Structure:
        """Return the decoder's LSTM."""
        _, _, embed, hidden = self.sizes
        return Structure("lstm", embed + hidden, hidden)


def translation(
    name: str, batch: int, steps: int, embed: int, hidden: int, vocabulary: int
) -> Translation:
    """Return a model of these sizes with random weights and random sentences."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(steps // 2, steps + 1, (2, batch)).astype(np.int32)
    lengths[:, 0] = steps
    source, target = rng.integers(END + 1, vocabulary, (2, batch, steps)).astype(np.int32)
    target[np.arange(batch), lengths[1] - 1] = END
    limit = hidden**-0.5
    shapes = {
        "bridge_h": (2 * hidden, hidden),
        "bridge_c": (2 * hidden, hidden),
        "combine": (2 * hidden, hidden),
        "readout": (hidden, vocabulary),
        "w_q": (hidden, hidden),
        "w_m": (hidden, hidden),
        "b": (hidden,),
        "v": (hidden,),
        "bridge_h_b": (hidden,),
        "bridge_c_b": (hidden,),
        "combine_b": (hidden,),
        "readout_b": (vocabulary,),
    }
    arrays = {key: rng.uniform(-limit, limit, shape) for key, shape in shapes.items()}
    arrays |= {key: rng.uniform(-0.1, 0.1, (vocabulary, embed)) for key in ("source", "target")}
    return Translation(
        name=name,
        sizes=(batch, steps, embed, hidden),
        source=np.where(np.arange(steps) < lengths[0][:, None], source, 0),
        source_lengths=lengths[0],
        tokens=np.concatenate([np.full((batch, 1), BEGIN, np.int32), target[:, :-1]], axis=1),
        labels=target,
        target_lengths=lengths[1],
        encoder=draw_weights(Structure("lstm", embed, hidden // 2, bidirectional=True), rng),
        writer=draw_weights(Structure("lstm", embed + hidden, hidden), rng),
        arrays={key: array.astype(np.float32) for key, array in arrays.items()},
    )
