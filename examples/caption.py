"""What does a picture show? Captions, one-to-many: one image in, several words out.

A small convolutional network makes a grid of regions of the image; a recurrent decoder writes the
caption and looks at the regions while it does ("Show, attend and tell", Xu et al. 2015).

The images are the 7,367 Material Design Icons that the package qtawesome ships as a font, and an
icon's name is its caption: "arrow-left-circle-outline". A tenth of the names is for the test and a
tenth for choosing the epoch, by a hash that ignores words of style such as outline: icons that
differ in those alone are on one side, and of icons that look the same only the first is kept. What
the test asks for is known words in new combinations.

    python examples/caption.py
    python examples/caption.py --data FOLDER --size 64    # with captions.txt, as of Flickr8k
"""

import collections
import csv
import dataclasses
import itertools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from sacrebleu.metrics.bleu import BLEU

from seqjax import cells, decoding, seq2seq, training
from seqjax.data import (
    Vocabulary,
    batches,
    bucket_boundaries,
    installed_files,
    read_lines,
    read_text,
)

# Of two icons that differ in these words alone, one would give the other away.
STYLES = {"outline", "variant", "alt", "fill", "line", "bold", "light", "thin", "duotone", "solid"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.ScriptOptions):
    """Trains a model, compares its captions with those of the nearest images, draws attention."""

    data: Path | None = None
    """A folder of images with captions.txt, lines of image,caption after a header; by default the
    icons of the installed package qtawesome."""
    family: str = "materialdesignicons6"
    """Beginning of the names of the fonts to take from qtawesome, such as phosphor."""
    size: int = 24
    """Height and width of an image; a multiple of 4."""
    channels: int = 16
    """Of the first convolution; the second has twice, the third four times as many."""
    cell: str = "gru"
    """Of the decoder: a name of seqjax.CELLS."""
    attention: str = "additive"
    """A name of seqjax.attention.ATTENTIONS, or none: the mean of the regions is all there is."""
    hidden_size: int = 128
    """Units of the decoder."""
    embed_size: int = 64
    """Features of a word."""
    dropout: float = 0.2
    """Rate on regions, on the decoder's embeddings, and before its softmax."""
    label_smoothing: float = 0.1
    """Share of the target probability that is spread over the vocabulary."""
    shift: int = 2
    """By how many pixels at most training moves the images of a batch."""
    beam_width: int = 3
    """Hypotheses that the beam search keeps; 1 is greedy."""
    length_penalty: float = 1.0
    """Of the beam search (Wu et al. 2016): more favours longer captions."""
    epochs: int = 20
    learning_rate: float = 3e-3
    out: Path = Path("out/caption")
    """Folder for checkpoints, figures, captions.txt and attention.png."""

    may_be_zero = ("seed", "shift")
    shares = ("dropout", "label_smoothing")


class Example(NamedTuple):
    """An image, uint8 [S, S, C], its captions, and what decides on which side it is."""

    image: np.ndarray
    captions: list[list[str]]
    key: str


class Regions(nnx.Module):
    """The encoder: an image becomes a memory of (S/4)² regions."""

    def __init__(self, config: Config, channels: int, *, rngs: nnx.Rngs) -> None:
        widths = [channels, *(config.channels * 2**level for level in range(3))]
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])
        self.norms = nnx.List([nnx.BatchNorm(b, rngs=rngs) for _, b in pairs])
        # Attention forgets where a region was, and "left" and "right" are captions' words.
        self.places = nnx.Param(jnp.zeros(((config.size // 4) ** 2, widths[-1])))
        self.dropout = nnx.Dropout(config.dropout)

    def __call__(self, images: Any, rngs: nnx.Rngs | None = None) -> seq2seq.Encoded:
        """Regions [B, R, D] of images uint8 [B, S, S, C]."""
        x = jnp.asarray(images, jnp.float32) / 255
        for level, (convolution, norm) in enumerate(
            zip(self.convolutions, self.norms, strict=True)
        ):
            x = nnx.relu(norm(convolution(x)))
            if level < 2:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        x = self.dropout(x, rngs=rngs)
        memory = x.reshape(x.shape[0], -1, x.shape[-1]) + self.places[...]
        whole = x.reshape(x.shape[0], -1)  # what the decoder starts from
        return seq2seq.Encoded(memory, jnp.ones(memory.shape[:2], bool), (whole,))


class Captioner(nnx.Module):
    """Regions, and the library's decoder that attends to them."""

    def __init__(self, config: Config, channels: int, vocabulary: int, *, rngs: nnx.Rngs) -> None:
        width = 4 * config.channels
        self.encoder = Regions(config, channels, rngs=rngs)
        with training.blaming("cell"):
            cell = cells.make_cell(config.cell, config.embed_size, config.hidden_size)
        attention = None if config.attention == "none" else config.attention
        with training.blaming("attention"):
            self.decoder = seq2seq.Decoder(
                cell, vocabulary=vocabulary, memory_size=width, attention=attention,
                dropout=config.dropout, rngs=rngs,
            )  # fmt: skip
        whole = jnp.zeros(width * (config.size // 4) ** 2)
        self.bridge = seq2seq.Bridge("projected", self.decoder.cells, (whole,), width, rngs=rngs)

    def start(self, images: Any, rngs: nnx.Rngs | None = None) -> tuple[Any, seq2seq.DecoderState]:
        """What the decoder looks at, and its state before the first word."""
        encoded = self.encoder(images, rngs)
        memory = self.decoder.precompute(encoded)
        return memory, self.decoder.initial_state(encoded, self.bridge(encoded), memory)

    def __call__(
        self, images: Any, tokens: Any, *, lengths: Any = None, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Logits [B, T, V] given the words before each (teacher forcing)."""
        memory, state = self.start(images, rngs)
        key = None if rngs is None else rngs.dropout()
        return self.decoder.teacher_forced(tokens, state, memory, rngs=key)[0]

    def decoding(self, images: Any) -> tuple[Any, seq2seq.DecoderState]:
        """A step and its first state, for `seqjax.decoding`."""
        memory, state = self.start(images)

        def step(tokens: jax.Array, state: seq2seq.DecoderState) -> Any:
            features, state = self.decoder.advance(self.decoder.embed(tokens), state, memory)
            return self.decoder.logits(features), state

        return step, state


def read_icons(config: Config) -> list[Example]:
    """The icons of a family, drawn from the fonts of qtawesome; of equal images the first."""
    charmaps = installed_files("qtawesome", "fonts/*charmap*.json")
    chosen = [path for path in charmaps if path.name.startswith(config.family)]
    if not chosen:
        names = ", ".join(path.name.partition("-")[0] for path in charmaps)
        raise SystemExit(f"--family: expected the beginning of one of {names}")
    found: dict[bytes, Example] = {}
    for path in chosen:
        place = path.with_name(path.name.replace("-charmap", "")).with_suffix(".ttf")
        font = ImageFont.truetype(str(place), config.size)
        for name, code in json.loads(read_text(path)).items():
            image = Image.new("L", (config.size, config.size))
            middle = (config.size / 2, config.size / 2)
            ImageDraw.Draw(image).text(middle, chr(int(code, 16)), 255, font, anchor="mm")
            pixels = np.asarray(image)[..., None]
            words = words_of(name)
            key = " ".join(word for word in words if word not in STYLES)
            found.setdefault(pixels.tobytes(), Example(pixels, [words], key))
    return list(found.values())


def read_folder(folder: Path, size: int) -> list[Example]:
    """The images that captions.txt names, which are in the folder or in its folder Images."""
    captions: dict[str, list[list[str]]] = {}
    for number, row in enumerate(csv.reader(read_lines(folder / "captions.txt")), start=1):
        if len(row) < 2:
            raise ValueError(f"expected image,caption in line {number} of captions.txt, got {row}")
        if number > 1:
            captions.setdefault(row[0], []).append(words_of(" ".join(row[1:])))
    examples = []
    for name, some in captions.items():
        place = folder / name if (folder / name).is_file() else folder / "Images" / name
        with Image.open(place) as image:
            pixels = np.asarray(image.convert("RGB").resize((size, size)))
        examples.append(Example(pixels, some, name))
    return examples


def words_of(text: str) -> list[str]:
    """The words of a caption, in lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def divided(every: Sequence[Example]) -> dict[str, list[Example]]:
    """The examples for "train", "dev" and "test"; those with one key are on one side."""
    sides: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in every:
        part = zlib.crc32(example.key.encode()) % 10
        sides[{0: "test", 1: "dev"}.get(part, "train")].append(example)
    if not all(sides.values()):
        raise ValueError(f"expected images for each side, got {len(every)} in all")
    return sides


def fields(side: Sequence[Example], vocabulary: Vocabulary) -> dict[str, Any]:
    """Pairs of an image and a caption as fields for batches."""
    pairs = [(example.image, caption) for example in side for caption in example.captions]
    images, captions = zip(*pairs, strict=True)
    ids = [vocabulary.encode(caption) for caption in captions]
    return seq2seq.pair_examples(images, ids, begin=vocabulary.begin, end=vocabulary.end)


def train(config: Config, model: Captioner, sets: dict[str, dict[str, Any]]) -> Any:
    """Trains by teacher forcing; the images of a batch are moved by some pixels."""

    def loss_fn(model: Any, batch: Any, rngs: nnx.Rngs) -> Any:
        by = jax.random.randint(rngs.shift(), (2,), -config.shift, config.shift + 1)
        images = jnp.roll(batch["source"], by, axis=(1, 2))
        moved = batch | {"source": images, "source_lengths": None}
        return seq2seq.pair_loss(model, moved, rngs, label_smoothing=config.label_smoothing)

    def metric_fn(model: Any, batch: Any) -> Any:
        return seq2seq.pair_metrics(model, batch | {"source_lengths": None})

    options: dict[str, Any] = {"sequence_keys": {"target": ("tokens", "labels")}}
    lengths = [len(labels) for labels in sets["train"]["labels"]]
    return config.fit(
        model,
        loss_fn,
        config.batches(sets["train"], boundaries=bucket_boundaries(lengths, 2), **options),
        eval_batches=batches(sets["dev"], batch_size=256, **options),
        metric_fn=metric_fn,
        monitor="eval_accuracy",
        mode="max",
    )


def written(
    config: Config, model: Captioner, side: Sequence[Example], vocabulary: Vocabulary, longest: int
) -> tuple[list[list[str]], list[np.ndarray]]:
    """The captions that a beam search finds, and for each its attention [words, R] if there is."""

    @jax.jit
    def search(model: Captioner, images: Any) -> decoding.Decoded:
        step, state = model.decoding(images)
        weights = None if state.weights is None else lambda state: state.weights
        return decoding.beam_search(
            step, state, begin=vocabulary.begin, end=vocabulary.end, max_length=longest,
            beam_width=config.beam_width, length_penalty=config.length_penalty, alignment=weights,
        )  # fmt: skip

    captions, maps = [], []
    images = {"image": [example.image for example in side]}
    for batch in batches(images, batch_size=128, sequence_keys=()):
        found = jax.device_get(search(model, batch["image"]))
        for row in range(batch["weights"].sum()):
            captions.append(vocabulary.decode(found.tokens[row, 0]))
            if found.alignments is not None:
                maps.append(found.alignments[row, 0])
    return captions, maps


def scores(
    found: Sequence[Sequence[str]], side: Sequence[Example], name: str = ""
) -> dict[str, float]:
    """Share of captions found, F1 of their words, and BLEU; the best of several references."""
    exact, f1 = [], []
    for words, example in zip(found, side, strict=True):
        exact.append(list(words) in example.captions)
        overlaps = []
        for caption in example.captions:
            common = (collections.Counter(words) & collections.Counter(caption)).total()
            overlaps.append(2 * common / max(1, len(words) + len(caption)))
        f1.append(max(overlaps))
    texts = [[" ".join(caption) for caption in example.captions] for example in side]
    references = list(itertools.zip_longest(*texts))  # None where an image has fewer
    bleu = BLEU(max_ngram_order=2, tokenize="none", force=True)
    score = bleu.corpus_score([" ".join(words) for words in found], references).score
    means = {"exact": np.mean(exact), "word_f1": np.mean(f1), "bleu_2": score}
    return {name + key: float(value) for key, value in means.items()}


def nearest(train_side: Sequence[Example], side: Sequence[Example]) -> list[list[str]]:
    """The baseline: the caption of the training image with the most similar pixels."""
    known, asked = (
        np.stack([example.image.ravel() for example in some]).astype(np.float32) / 255
        for some in (train_side, side)
    )
    distances = (known**2).sum(axis=1) - 2 * asked @ known.T
    return [train_side[index].captions[0] for index in distances.argmin(axis=1)]


def plot(path: Path, shown: Sequence[tuple[Example, list[str], np.ndarray]]) -> None:
    """Draws images with their captions, and for each word where the model looked."""
    columns = 1 + max(len(words) for _, words, _ in shown)
    figure = Figure(figsize=(1.7 * columns, 1.9 * len(shown)), layout="constrained")
    for row, (example, words, weights) in enumerate(shown):
        size = len(example.image)
        for column, word in enumerate(["= " + " ".join(example.captions[0]), *words]):
            axes = figure.add_subplot(len(shown), columns, row * columns + column + 1)
            axes.imshow(example.image, cmap="gray_r", alpha=0.4 if column else 1.0)
            axes.set_title(word, fontsize=9)
            axes.set_axis_off()
            if column:
                grid = weights[column - 1].reshape(2 * [size // 4])
                axes.imshow(
                    grid, cmap="Reds", alpha=0.6, extent=(-0.5, size - 0.5, size - 0.5, -0.5)
                )
    figure.savefig(path, dpi=150)


def main(config: Config) -> dict[str, float]:
    """Trains, measures and draws; returns the figures of the test images."""
    config.prepare()
    if config.size % 4:
        raise SystemExit(f"--size: expected a multiple of 4, got {config.size}")
    with training.blaming("data"):
        every = read_icons(config) if config.data is None else read_folder(config.data, config.size)
        sides = divided(every)
    vocabulary = Vocabulary.build(c for example in sides["train"] for c in example.captions)
    vocabulary.save(config.out / "vocabulary.json")
    sizes = ", ".join(f"{len(side):,} {name}" for name, side in sides.items())
    print(f"images: {sizes}; {len(vocabulary):,} words")
    sets = {name: fields(sides[name], vocabulary) for name in ("train", "dev")}
    channels = sides["train"][0].image.shape[-1]
    model = Captioner(config, channels, len(vocabulary), rngs=nnx.Rngs(config.seed))
    result = train(config, model, sets)

    test, longest = sides["test"], max(map(len, sets["train"]["labels"]))
    captions, maps = written(config, result.model, test, vocabulary, longest)
    first = [" ".join(example.captions[0]) for example in test]
    lines = [f"{name}\t{' '.join(words)}" for name, words in zip(first, captions, strict=True)]
    (config.out / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = set(vocabulary.tokens)
    known = [n for n, e in enumerate(test) if any(words.issuperset(c) for c in e.captions)]
    shown = known[:: max(1, len(known) // 6)][:6]
    for n in shown:
        print(f"  {' '.join(captions[n])}   (= {first[n]})")
    if maps and shown:
        plot(config.out / "attention.png", [(test[n], captions[n], maps[n]) for n in shown])
    # Vocabularies begin with four special tokens; the most frequent word comes next.
    figures = scores([[vocabulary.tokens[4]]] * len(test), test, "frequent_word_")
    figures |= scores(nearest(sides["train"], test), test, "nearest_image_")
    figures |= {"reachable": len(known) / len(test)} | scores(captions, test)
    return config.report(result, **figures)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
