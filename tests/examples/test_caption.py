"""The captioning script on made-up images of bars and dots, and on a made-up package of icons."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

pytest.importorskip("tyro")
pytest.importorskip("sacrebleu")
from PIL import Image

from examples import caption
from examples.shipped import captions, words


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bar or a dot to the left or to the right, with noise; two captions, one with a comma."""
    place = tmp_path_factory.mktemp("data")
    (place / "Images").mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for n in range(240):
        shape, side = rng.choice(["bar", "dot"]), rng.choice(["left", "right"])
        pixels = rng.integers(0, 120, (8, 8, 3), np.uint8)
        rows, column = (slice(0, 8), 1) if shape == "bar" else (slice(3, 5), 1)
        pixels[rows, column + 4 * (side == "right") : column + 2 + 4 * (side == "right")] = 255
        Image.fromarray(pixels).save(place / "Images" / f"{n}.png")
        lines += [f"{n}.png,{shape} {side}", f'{n}.png,"{side}, {shape}"']
    (place / "captions.txt").write_text("\n".join(lines) + "\n")
    return place


def config(data, out, **options):
    defaults: Any = {
        "size": 8, "channels": 4, "hidden_size": 16, "embed_size": 8, "dropout": 0.0, "shift": 0,
        "epochs": 8, "batch_size": 16, "learning_rate": 0.02, "label_smoothing": 0.0,
        "beam_width": 2,
    }  # fmt: skip
    return caption.Config(data=data, out=out, **(defaults | options))


@pytest.mark.slow
def test_a_short_run_learns_draws_and_goes_on(folder, tmp_path, capsys):
    figures = caption.main(config(folder, tmp_path))
    assert figures["exact"] > 0.9 > figures["frequent_word_word_f1"]
    assert figures["exact"] > figures["frequent_word_exact"] and figures["reachable"] == 1
    assert "   (= " in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {"checkpoints", "attention.png", "captions.txt", "result.json"} <= names
    with pytest.raises(SystemExit, match=r"--out: .* without a run, got .* with --resume"):
        caption.main(config(folder, tmp_path))
    assert caption.main(config(folder, tmp_path, resume=True)) == figures


def test_scores():
    image = np.zeros((4, 4, 1), np.uint8)
    side = [
        captions.Example(image, [["a", "red", "box"], ["box"]], "1"),
        captions.Example(image, [["a", "cat"]], "2"),
    ]
    assert captions.scores([["box"], ["a", "cat"]], side) == pytest.approx(
        {"exact": 1.0, "word_f1": 1.0, "bleu_2": 100.0}
    )
    found = captions.scores([["red", "red"], []], side, "my_")
    assert found["my_exact"] == 0 and found["my_word_f1"] == pytest.approx((2 / 5 + 0) / 2)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name with letters for icons."""
    fonts = tmp_path / "qtawesome" / "fonts"
    fonts.mkdir(parents=True)
    (tmp_path / "qtawesome" / "__init__.py").write_text("raise RuntimeError('imported')")
    deja = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    shutil.copy(deja, fonts / "letters-webfont-1.0.ttf")
    names = {"letter-a": "0x61", "letter-a-outline": "62", "first": "0x61", "letter-Q-2": "51"}
    (fonts / "letters-webfont-charmap-1.0.json").write_text(json.dumps(names))
    monkeypatch.syspath_prepend(str(tmp_path))


def test_icons_are_drawn_named_and_told_apart(package):
    icons = captions.read_icons("letters", 16)
    assert [icon.captions for icon in icons] == [
        [["letter", "a"]],
        [["letter", "a", "outline"]],
        [["letter", "q", "2"]],
    ]
    assert [icon.key for icon in icons] == ["letter a", "letter a", "letter q 2"]
    for icon in icons:
        assert icon.image.shape == (16, 16, 1) and icon.image.dtype == np.uint8
        assert icon.image.max() > 200 and icon.image.mean() < 128
    with pytest.raises(SystemExit, match="--family: expected the beginning of one of letters"):
        captions.read_icons("runes", 16)


def test_one_key_is_on_one_side():
    image = np.zeros((4, 4, 1), np.uint8)
    every = [captions.Example(image, [[str(n)]], str(n // 3)) for n in range(900)]
    sides = captions.divided(every)
    keys = [{example.key for example in side} for side in sides.values()]
    assert sum(map(len, keys)) == 300 and all(len(some) > 20 for some in keys[1:])


def test_captions_are_read_as_csv(tmp_path):
    for n in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{n}.png")
    file = tmp_path / "captions.txt"
    file.write_text('image,caption\n0.png,"a dog\nruns"\n1.png,"a ""big"", red cat"\n')
    found = [(example.key, example.captions) for example in captions.read_folder(tmp_path, 4)]
    assert found == [("0.png", [["a", "dog", "runs"]]), ("1.png", [["a", "big", "red", "cat"]])]
    file.write_text("0.png,a dog\n1.png,a cat\n")
    with pytest.raises(ValueError, match=r"expected a header .* in line 1 .*got \['0.png'"):
        captions.read_folder(tmp_path, 4)
    file.write_text('image,caption\n0.png,"a dog\n1.png,a cat\n2.png,a cow\n')
    with pytest.raises(ValueError, match=r"image,caption in line 4 of captions.txt: unexpected"):
        captions.read_folder(tmp_path, 4)


def test_images_are_upright_opaque_and_of_eight_bits(tmp_path):
    shape = np.zeros((4, 4), np.uint8)
    shape[1:3, 1:3] = 255  # the opaque part of a black image
    black = np.zeros_like(shape)
    Image.fromarray(np.stack([black] * 3 + [shape], -1)).save(tmp_path / "rgba.png")
    Image.merge("LA", [Image.fromarray(black), Image.fromarray(shape)]).save(tmp_path / "la.png")
    palette = Image.fromarray(255 - shape).convert("P")
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    ramp = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369  # up to 65535
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    turned = Image.fromarray(np.repeat([[255], [0]], 4, axis=1).repeat(2, axis=0).astype(np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    names = ("rgba", "la", "p", "grey", "turned")
    (tmp_path / "captions.txt").write_text(
        "image,caption\n\n" + "".join(f"{name}.png,word\n" for name in names) + " \n\n"
    )
    found = {x.key.removesuffix(".png"): x.image for x in captions.read_folder(tmp_path, 4)}
    for name in ("rgba", "la", "p"):
        assert (found[name] == 255 - shape[..., None]).all(), name
    assert (found["grey"] == ramp[..., None] // 257).all()
    assert (found["turned"] == np.repeat([0, 255], 2)[None, :, None]).all()
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "wide.tif")
    (tmp_path / "captions.txt").write_text("image,caption\nwide.tif,word\n")
    with pytest.raises(ValueError, match=r"expected an image of 8 or 16 bits in .*wide\.tif, got"):
        captions.read_folder(tmp_path, 4)


def test_words_of_captions():
    assert words.words_of("एक कुत्ता, the dog’s re\u0301sume\u0301") == [
        "एक", "कुत्ता", "the", "dog", "s", "r\u00e9sum\u00e9",
    ]  # fmt: skip


def test_mistakes(folder, tmp_path, monkeypatch):
    def fails(message, data=folder, **options):
        with pytest.raises(SystemExit, match=message):
            caption.main(config(data, tmp_path / "out", **options))

    fails("--cell: expected one of elman", cell="transformer")
    fails("--attention: expected one of .*additive", attention="hard")
    fails("--size: expected a multiple of 4, got 10", size=10)
    fails("--dropout: expected at least 0, less than 1, got 1.0", dropout=1.0)
    fails("--batch-size: expected at least 1, got 0", batch_size=0)
    fails(r"--data: .*captions\.txt", tmp_path)
    (tmp_path / "captions.txt").write_text("image,caption\nno.png,nothing\n")
    fails(
        r"--data: expected image,caption in line 2 of captions.txt, got \['no.png', 'nothing'\]; "
        rf"there is no image 'no.png' in {tmp_path} or",
        tmp_path,
    )
    (tmp_path / "no.png").write_text("no image")
    fails(r"--data: expected an image in .*no\.png: cannot identify image file", tmp_path)
    Image.new("RGB", (3, 5)).save(tmp_path / "no.png")
    fails("--data: expected images for each side, got 1 in all", tmp_path)
    (tmp_path / "captions.txt").write_text("image,caption\nno.png,nothing\n\nno.png\n")
    fails("--data: expected image,caption in line 4 of captions.txt, got", tmp_path)
    (tmp_path / "captions.txt").write_text("caption,image\nnothing,no.png\n")
    fails(r"in line 2 of captions.txt, got \['nothing', 'no.png'\]; there is no image", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fails("pip install --no-deps qtawesome", None)
