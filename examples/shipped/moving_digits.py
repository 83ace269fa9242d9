"""Films of handwritten digits that drift through a frame and bounce off its sides.

The package scikit-learn (BSD) contains 1,797 digits of 8 × 8 pixels (Alpaydin, Kaynak 1998, Optical
recognition of handwritten digits, CC BY 4.0). A tenth of the digits is for validation films and a
tenth for test films, the same for every seed. This module makes the films, after those of
Srivastava, Mansimov, Salakhutdinov (2015): it draws digits, positions and speeds at random.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from seqjax.data import installed_files, read_text

__all__ = ["SIDE", "copied", "copy_rates", "draw", "load", "plot"]

SIDE = 8  # height and width of a digit's image
BRIGHTEST = 16  # the largest value of a pixel in the file of scikit-learn


def load(path: Path | None) -> dict[str, np.ndarray]:
    """Return digits float32 [N, 8, 8] in [0, 1] for "train", "dev" and "test".

    A row of the file has 64 pixels from 0 to 16 and a label. Other pixels, such as those from 0 to
    255, are an error, since no scale can be told from them with certainty.
    """
    if path is None:
        place = "datasets/data/digits.csv.gz"
        [path] = installed_files("sklearn", place, distribution="scikit-learn")
    text = read_text(path)
    try:
        table = np.loadtxt(io.StringIO(text), np.float32, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: expected rows of numbers, got error: {error}") from None
    if table.shape[1] != SIDE**2 + 1 or len(table) < 10:
        raise ValueError(f"{path}: expected 65 columns, at least 10 rows, got {table.shape}")
    pixels = table[:, :-1]
    unfit = np.argwhere(~((pixels >= 0) & (pixels <= BRIGHTEST)))  # NaN is in no interval
    if len(unfit):
        row, column = unfit[0]
        raise ValueError(
            f"{path}, row {row + 1}: expected pixels from 0 to {BRIGHTEST}, got "
            f"{pixels[row, column]:g} in column {column + 1}"
        )
    images = pixels.reshape(-1, SIDE, SIDE) / BRIGHTEST
    images = images[np.random.default_rng(0).permutation(len(images))]
    train, dev, test = np.split(images, [8 * len(images) // 10, 9 * len(images) // 10])
    return {"train": train, "dev": dev, "test": test}


def draw(
    images: np.ndarray, count: int, rng: np.random.Generator, *,
    digits: int, size: int, steps: int, speed: int,
) -> np.ndarray:  # fmt: skip
    """Return films float32 [count, steps, S, S, 1] of digits that move and bounce."""
    room = size - SIDE  # a digit's corner has the coordinates 0 … room
    films = np.zeros((count, steps, size, size, 1), np.float32)
    for film in films:
        for _ in range(digits):
            image = images[rng.integers(len(images)), :, :, None]
            start, moves = rng.integers(2 * room, size=2), rng.integers(1, speed + 1, 2)
            for t, frame in enumerate(film):
                y, x = room - abs((start + moves * t) % (2 * room) - room)
                part = frame[y : y + SIDE, x : x + SIDE]
                np.maximum(part, image, out=part)
    return films


def copy_rates(films: np.ndarray) -> np.ndarray:
    """Return the mean brightness of pixels that were dark [0] or bright [1] a frame before."""
    last, following = films[:, 1:-1] > 0.5, films[:, 2:]
    return np.array([following[~last].mean(), following[last].mean()])


def copied(train: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return the loss and error of repeating the last frame, from the third frame on."""
    last, following = test[:, 1:-1], test[:, 2:]
    rates = copy_rates(train)[(last > 0.5).astype(int)]
    entropy = -following * np.log(rates) - (1 - following) * np.log(1 - rates)
    return {"copy_loss": entropy.mean(), "copy_error": ((last - following) ** 2).mean()}


def plot(shown: dict[str, np.ndarray]) -> Figure:
    """Plot films, one below the other."""
    columns = max(map(len, shown.values()))
    figure = Figure(figsize=(0.8 * columns + 1.6, 0.9 * len(shown)), layout="constrained")
    for row, (name, film) in enumerate(shown.items()):
        for column in range(columns):
            axes = figure.add_subplot(len(shown), columns, row * columns + column + 1)
            axes.set(xticks=[], yticks=[])
            axes.axis("off")
            at = column - columns + len(film)
            if at >= 0:
                axes.imshow(film[at, :, :, 0], cmap="gray", vmin=0, vmax=1)
            if column == 0:
                axes.text(-0.2, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    return figure
