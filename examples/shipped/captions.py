"""Images with captions: icons with their names, or a folder of images such as Flickr8k.

- The package qtawesome (MIT) contains the 7,367 Material Design Icons (Apache 2.0,
  pictogrammers.com) as a font, and other families. The name of an icon is its caption. If several
  icons look the same, only the first is used.
- A folder with captions.txt, which has lines image,caption after a header, as in Flickr8k (Hodosh,
  Young, Hockenmaier 2013). The images are in this folder or in its folder Images. Transparent
  parts of an image become white.

A hash of the name selects a tenth of the images for the test and a tenth for choosing the best
epoch. The hash ignores words of style, such as outline, so that icons that differ only in these
words are in the same part.
"""

import collections
import csv
import io
import itertools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sacrebleu.metrics.bleu import BLEU

from examples.shipped.baselines import nearest
from examples.shipped.words import words_of
from seqjax.data import installed_files, read_text

__all__ = [
    "Example",
    "baselines",
    "divided",
    "load",
    "plot",
    "reachable",
    "read_folder",
    "read_icons",
    "scores",
]

# If two icons differ only in these words, one would reveal the other.
STYLES = {"outline", "variant", "alt", "fill", "line", "bold", "light", "thin", "duotone", "solid"}


class Example(NamedTuple):
    """An image, uint8 [S, S, C], its captions and its key.

    The key determines whether the image is for training, validation or the test.
    """

    image: np.ndarray
    captions: list[list[str]]
    key: str


def load(folder: Path | None, family: str, size: int) -> dict[str, list[Example]]:
    """Return images [size, size, C] for "train", "dev" and "test"."""
    return divided(read_icons(family, size) if folder is None else read_folder(folder, size))


def read_icons(family: str, size: int) -> list[Example]:
    """Return the icons of a family, from the fonts of qtawesome, without repeated images."""
    charmaps = installed_files("qtawesome", "fonts/*charmap*.json")
    chosen = [path for path in charmaps if path.name.startswith(family)]
    if not chosen:
        names = ", ".join(path.name.partition("-")[0] for path in charmaps)
        raise SystemExit(f"--family: expected the beginning of one of {names}")
    found: dict[bytes, Example] = {}
    for path in chosen:
        place = path.with_name(path.name.replace("-charmap", "")).with_suffix(".ttf")
        font = ImageFont.truetype(str(place), size)
        for name, code in json.loads(read_text(path)).items():
            image = Image.new("L", (size, size))
            middle = (size / 2, size / 2)
            ImageDraw.Draw(image).text(middle, chr(int(code, 16)), 255, font, anchor="mm")
            pixels = np.asarray(image)[..., None]
            words = words_of(name)
            key = " ".join(word for word in words if word not in STYLES)
            found.setdefault(pixels.tobytes(), Example(pixels, [words], key))
    return list(found.values())


def read_folder(folder: Path, size: int) -> list[Example]:
    """Return the images that captions.txt names, from the folder or from its folder Images."""
    captions: dict[str, list[list[str]]] = {}
    rows = _rows(folder / "captions.txt")
    if rows and _place(folder, rows[0][1][0]).is_file():
        number, row = rows[0]
        raise ValueError(
            f"expected a header such as image,caption in line {number} of captions.txt, got {row}"
        )
    for number, (name, *texts) in rows[1:]:
        if name not in captions and not _place(folder, name).is_file():
            raise ValueError(
                f"expected image,caption in line {number} of captions.txt, got {[name, *texts]}; "
                f"there is no image {name!r} in {folder} or in its folder Images"
            )
        captions.setdefault(name, []).append(words_of(" ".join(texts)))
    return [
        Example(_pixels(_place(folder, name), size), some, name) for name, some in captions.items()
    ]


def _pixels(path: Path, size: int) -> np.ndarray:
    """Return an image, uint8 [S, S, 3], upright and with white where it is transparent."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except OSError as error:  # such as a truncated image, whose error does not name the file
        raise ValueError(f"expected an image in {path}: {error}") from None
    if image.mode.startswith(("I", "F")):  # 16 bits are "I;16", or "I" in some versions of Pillow
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() >= 2**16:
            raise ValueError(f"expected an image of 8 or 16 bits in {path}, got one of 32 bits")
        image = Image.fromarray((values / 257).round().astype(np.uint8))
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB").resize((size, size)))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the last line's number and the fields of each row, without blank lines.

    A row has two fields or more. A quoted field may have several lines.
    """
    rows, reader = [], csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        for row in reader:
            if not "".join(row).strip():
                continue
            if len(row) < 2:
                raise ValueError(
                    f"expected image,caption in line {reader.line_num} of {path.name}, got {row}"
                )
            rows.append((reader.line_num, row))
    except csv.Error as error:  # such as a quotation mark that is never closed
        raise ValueError(
            f"expected image,caption in line {reader.line_num} of {path.name}: {error}"
        ) from None
    return rows


def _place(folder: Path, name: str) -> Path:
    """Return the path of an image, in the folder or in its folder Images."""
    return folder / name if (folder / name).is_file() else folder / "Images" / name


def divided(every: Sequence[Example]) -> dict[str, list[Example]]:
    """Divide examples into "train", "dev" and "test"; a key occurs in one part only."""
    sides: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in every:
        part = zlib.crc32(example.key.encode()) % 10
        sides[{0: "test", 1: "dev"}.get(part, "train")].append(example)
    if not all(sides.values()):
        raise ValueError(f"expected images for each side, got {len(every)} in all")
    return sides


def scores(
    found: Sequence[Sequence[str]], side: Sequence[Example], name: str = ""
) -> dict[str, float]:
    """Return the share of exact captions, the mean F1 of words, and BLEU.

    If an image has several reference captions, its F1 is that of the best one.
    """
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


def reachable(side: Sequence[Example], words: set[str]) -> list[int]:
    """Return the indices of images that have a caption with only known words."""
    return [n for n, e in enumerate(side) if any(words.issuperset(c) for c in e.captions)]


def baselines(
    train_side: Sequence[Example], side: Sequence[Example], *, often: str
) -> dict[str, float]:
    """Return the scores of two baselines.

    The first baseline captions each image with the word `often`. The second baseline copies the
    caption of the most similar training image.
    """
    known, asked = (
        np.stack([example.image.ravel() for example in some]).astype(np.float32) / 255
        for some in (train_side, side)
    )
    near = [train_side[index].captions[0] for index in nearest(known, asked)]
    return scores([[often]] * len(side), side, "frequent_word_") | scores(
        near, side, "nearest_image_"
    )


def plot(shown: Sequence[tuple[Example, Sequence[str], np.ndarray]]) -> Figure:
    """Plot images with captions, and for each word the attention [words, regions]."""
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
                grid = weights[column - 1].reshape(2 * [round(weights.shape[1] ** 0.5)])
                axes.imshow(
                    grid, cmap="Reds", alpha=0.6, extent=(-0.5, size - 0.5, size - 0.5, -0.5)
                )
    return figure
