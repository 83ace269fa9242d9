"""Image captions (one-to-many): one image in, several words out.

To caption images of your own, pass --data FOLDER. In your own script, copy `Regions`, `loss_fn`
and, from `main`, the calls of `Seq2Seq` and `generate`.

A small convolutional network computes a grid of regions of the image. A recurrent decoder with
attention over the regions writes the caption ("Show, attend and tell", Xu et al. 2015).

The images are the 7,367 Material Design Icons that the package qtawesome contains as a font. The
name of an icon is its caption: "arrow-left-circle-outline". A hash of the name selects a tenth of
the names for the test and a tenth for choosing the epoch. The hash ignores words of style, such as
outline, so that icons that differ only in these words are in the same part. If several icons look
the same, only the first is used. The test therefore asks for new combinations of known words.

    python -m examples.caption
    python -m examples.caption --data FOLDER --size 64    # with captions.txt, as of Flickr8k
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from examples import script
from examples.shipped import captions
from seqjax import cells, seq2seq
from seqjax.data import Vocabulary, batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(script.ScriptOptions):
    """Options of the caption example."""

    data: Path | None = None
    """A folder of images with captions.txt, which has lines image,caption after a header; by
    default the icons of the installed package qtawesome."""
    family: str = "materialdesignicons6"
    """Beginning of the names of the fonts to take from qtawesome, such as phosphor."""
    size: int = 24
    """Height and width of an image; a multiple of 4."""
    channels: int = 16
    """Number of channels of the first convolution; the second has twice, the third four times as
    many."""
    cell: str = "gru"
    """Cell of the decoder: its name in seqjax.CELLS."""
    attention: str = "additive"
    """Name in seqjax.attention.ATTENTIONS; with none, only the decoder's first state depends on the
    image."""
    hidden_size: int = 128
    """Number of units of the decoder."""
    embed_size: int = 64
    """Size of a word's embedding."""
    dropout: float = 0.2
    """Dropout rate on regions, on the decoder's embeddings, and before the softmax."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over the vocabulary."""
    shift: int = 2
    """Maximum number of pixels by which training moves the images of a batch."""
    beam_width: int = 3
    """Number of hypotheses of the beam search; 1 is greedy decoding."""
    length_penalty: float = 1.0
    """Length penalty of the beam search (Wu et al. 2016); higher values favour longer captions."""
    epochs: int = 20
    learning_rate: float = 3e-3
    out: Path = Path("out/caption")
    """Folder for checkpoints, results, captions.txt and attention.png."""
    after_training: ClassVar[tuple[str, ...]] = ("beam_width", "length_penalty")

    may_be_zero = ("seed", "shift")
    shares = ("dropout", "label_smoothing")


class Regions(nnx.Module):
    """The encoder, which converts an image to features of (S/4)² regions."""

    def __init__(self, config: Config, channels: int, *, rngs: nnx.Rngs) -> None:
        widths = [channels, *(config.channels * 2**level for level in range(3))]
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.BatchNorm(b, rngs=rngs) for _, b in pairs])
        # A vector for each position: captions contain "left" and "right", but attention does not
        # know the position of a region.
        self.places = nnx.Param(jnp.zeros(((config.size // 4) ** 2, widths[-1])))
        self.dropout = nnx.Dropout(config.dropout)
        self.output_size = widths[-1]

    def initial_state(self, batch_shape: tuple[int, ...]) -> Any:
        """Return an initial state of zeros, of the same shape as the final state.

        The final state is one vector for each image: the concatenated features of all regions.
        """
        return (jnp.zeros((*batch_shape, self.places.size)),)

    def __call__(
        self, images: Any, *, deterministic: bool | None = None, rngs: Any = None, **_: Any
    ) -> seq2seq.Encoded:
        """Return the encoded regions [B, R, D] of images, uint8 [B, S, S, C]."""
        x = jnp.asarray(images, jnp.float32) / 255
        for level, convolution in enumerate(self.convolutions):
            norm = self.norms[level]
            x = nnx.relu(norm(convolution(x), use_running_average=deterministic))
            if level < 2:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        x = self.dropout(x, deterministic=deterministic, rngs=rngs)
        memory = x.reshape(x.shape[0], -1, x.shape[-1]) + self.places[...]
        mask, whole = jnp.ones(memory.shape[:2], bool), x.reshape(x.shape[0], -1)
        return seq2seq.Encoded(memory, mask, (whole,))


def fields(side: list[captions.Example], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the fields of examples, each of which is a pair of an image and a caption."""
    pairs = [(some.image, vocabulary.encode(text)) for some in side for text in some.captions]
    images, ids = zip(*pairs, strict=True)
    return seq2seq.pair_examples(images, ids, begin=vocabulary.begin, end=vocabulary.end)


def main(config: Config) -> dict[str, float]:
    """Train, evaluate and plot; return the metrics of the test images."""
    config.prepare()
    if config.size % 4:
        raise SystemExit(f"--size: expected a multiple of 4, got {config.size}")
    with script.blaming("data"):
        sides = captions.load(config.data, config.family, config.size)
    vocabulary = Vocabulary.build(c for example in sides["train"] for c in example.captions)
    config.keep("vocabulary.json", vocabulary.save)
    sizes = ", ".join(f"{len(side):,} {name}" for name, side in sides.items())
    print(f"images: {sizes}; {len(vocabulary):,} words")
    sets = {name: fields(sides[name], vocabulary) for name in ("train", "dev")}
    rngs = nnx.Rngs(config.seed)
    encoder = Regions(config, sides["train"][0].image.shape[-1], rngs=rngs)
    with script.blaming("cell"):
        cells.make_cell(config.cell, 1, 1)
    with script.blaming("attention"):
        model = seq2seq.Seq2Seq(
            target_vocabulary=len(vocabulary),
            encoder=encoder, cell=config.cell, embed_size=config.embed_size,
            hidden_size=config.hidden_size, dropout=config.dropout, dtype=config.dtype,
            attention=None if config.attention == "none" else config.attention, rngs=rngs,
        )  # fmt: skip

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> Any:
        by = jax.random.randint(rngs.shift(), (2,), -config.shift, config.shift + 1)
        moved = batch | {"source": jnp.roll(batch["source"], by, axis=(1, 2))}
        return seq2seq.pair_loss(model, moved, rngs, label_smoothing=config.label_smoothing)

    options: dict[str, Any] = {"sequence_keys": {"target": ("tokens", "labels")}}
    result = config.fit(
        model, loss_fn, config.batches(sets["train"], boundaries=2, **options),
        eval_batches=batches(sets["dev"], batch_size=256, **options),
        metric_fn=seq2seq.pair_metrics, monitor="eval_accuracy", mode="max",
    )  # fmt: skip
    test = sides["test"]
    found = seq2seq.generate(
        result.model, [example.image for example in test], padded=False, batch_size=128,
        begin=vocabulary.begin, end=vocabulary.end, beam_width=config.beam_width,
        max_length=max(map(len, sets["train"]["labels"])), length_penalty=config.length_penalty,
    )  # fmt: skip
    written = [vocabulary.decode(output.tokens) for output in found]
    first = [" ".join(example.captions[0]) for example in test]
    lines = [f"{name}\t{' '.join(words)}" for name, words in zip(first, written, strict=True)]
    (config.out / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    known = captions.reachable(test, set(vocabulary.tokens))
    shown = known[:: max(1, len(known) // 6)][:6]
    for n in shown:
        print(f"  {' '.join(written[n])}   (= {first[n]})")
    maps = [(test[n], written[n], w) for n in shown if (w := found[n].attention) is not None]
    if maps:
        config.save_figure(captions.plot(maps), "attention.png")
    # Vocabularies begin with four special tokens; the most frequent word follows.
    figures = captions.baselines(sides["train"], test, often=vocabulary.tokens[4])
    figures |= {"reachable": len(known) / len(test)} | captions.scores(written, test)
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, prog="python -m examples.caption", description=__doc__))
