"""Folders of classes and of packages: the files of their users, none of operating systems."""

import os

import numpy as np
import pytest

from seqjax.data import class_files, installed_files


def test_a_folder_a_class(tmp_path):
    for name in ("pos/b.txt", "pos/a.txt", "neg/0.txt", "neg/.DS_Store", "unsup/0.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "urls.txt").touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "neg" / "deeper.txt").mkdir()
    paths, labels, names = class_files(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "neg/0.txt", "pos/a.txt", "pos/b.txt", "unsup/0.md",
    ]  # fmt: skip
    assert labels.tolist() == [0, 1, 1, 2] and labels.dtype == np.int32
    assert names == ["neg", "pos", "unsup"]
    paths, labels, names = class_files(tmp_path, "*.txt", names=("pos", "neg"))
    assert [path.name for path in paths] == ["a.txt", "b.txt", "0.txt"]
    assert (labels.tolist(), names) == ([0, 0, 1], ["pos", "neg"])

    with pytest.raises(ValueError, match=r"folder: expected files '\*.txt' in .*unsup, got none"):
        class_files(tmp_path, "*.txt")
    with pytest.raises(ValueError, match=r"names: expected folders in .*: sad; got neg, pos"):
        class_files(tmp_path, names=["sad"])
    with pytest.raises(ValueError, match=r"names: expected folders in .*: one per class; got none"):
        class_files(tmp_path / "pos")
    with pytest.raises(ValueError, match="folder: expected a folder with one subfolder per class"):
        class_files(tmp_path / "urls.txt")
    with pytest.raises(TypeError, match="names: expected a list of names, got the string 'pos'"):
        class_files(tmp_path, names="pos")


LEFT_BEHIND = (
    ".DS_Store", "._a.txt", "Thumbs.db", "THUMBS.DB", "ehthumbs.db", "Desktop.ini", "Icon\r",
    "a.txt~", "~$a.txt", "a.txt:Zone.Identifier",
)  # fmt: skip
FOLDERS = (
    ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found",
    "#recycle", ".ipynb_checkpoints",
)  # fmt: skip


def test_files_of_operating_systems_are_no_examples(tmp_path):
    for name in (*LEFT_BEHIND, "icons.txt", "thumbs.txt", "Icon", "b~c"):
        (tmp_path / "pos" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pos" / "deep" / name).touch()
        (tmp_path / "pos" / name).touch()
    for name in FOLDERS:
        for place in (tmp_path, tmp_path / "pos"):
            (place / name).mkdir()
            (place / name / "a.txt").touch()
    users = ["Icon", "b~c", "icons.txt", "thumbs.txt"]
    paths, _, names = class_files(tmp_path)
    assert names == ["pos"] and [path.name for path in paths] == users
    paths, _, _ = class_files(tmp_path, "**/*")
    deep = [f"deep/{name}" for name in users]
    found = [path.relative_to(tmp_path / "pos").as_posix() for path in paths]
    assert found == sorted(users + deep, key=lambda name: name.split("/"))
    for name in FOLDERS:
        with pytest.raises(ValueError, match="names: expected folders in"):
            class_files(tmp_path, names=["pos", name])
    (tmp_path / "neg").mkdir()
    (tmp_path / "neg" / "Thumbs.db").touch()
    with pytest.raises(ValueError, match=r"folder: expected files '\*' in .*neg, got none"):
        class_files(tmp_path)


def test_files_of_packages(tmp_path, monkeypatch):
    data = tmp_path / "some_package" / "data"
    (data / "__MACOSX").mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for name in ("b.csv", "a.csv", "._a.csv", "__MACOSX/c.csv"):
        (data / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_files("some_package", "data/*.csv") == [data / "a.csv", data / "b.csv"]
    assert installed_files("some_package", "**/*.csv") == [data / "a.csv", data / "b.csv"]
    for package in ("no_such_package", "no_such_package.data", "", "some_package"):
        with pytest.raises(ValueError, match=r"package: expected .* in an installed .*, got none"):
            installed_files(package, "*.csv")


def test_patterns_links_and_names_that_are_wrong(tmp_path):
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "a.txt").touch()
    for pattern in ("", "/*.txt", "../*", str(tmp_path / "*")):
        with pytest.raises(ValueError, match="pattern: expected a relative pattern"):
            class_files(tmp_path, pattern)
    with pytest.raises(TypeError, match="pattern: expected a string"):
        class_files(tmp_path, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names: expected each class once, got pos, pos"):
        class_files(tmp_path, names=["pos", "pos"])
    with pytest.raises(ValueError, match="names: expected folders in"):
        class_files(tmp_path, names=[["pos"]])  # type: ignore[list-item]
    os.symlink(tmp_path / "gone.txt", tmp_path / "pos" / "b.txt")
    with pytest.raises(ValueError, match=r"got a broken link, .*b\.txt"):
        class_files(tmp_path)
