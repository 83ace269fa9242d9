"""Paths: what is in the wrong place is an error that names the argument."""

from pathlib import Path

import pytest

from seqjax import data, export, training
from seqjax._files import local_path, replacing

WORDS = data.Vocabulary(["a", "b"])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "afile"
    path.write_text("[]")
    return path


def subwords():
    pytest.importorskip("tokenizers")
    return data.Subwords.train(["low lower"], size=261)


def cached(folder):
    return data.cached_tokens(["ab"], WORDS, folder)


READERS = {
    "Vocabulary.load": data.Vocabulary.load,
    "Subwords.load": data.Subwords.load,
    "export.load": export.load,
    "read_text": data.read_text,
    "read_csv": data.read_csv,
    "read_audio": data.read_audio,
}
FILES = {
    "Vocabulary.save": WORDS.save,
    "Subwords.save": lambda path: subwords().save(path),
    "JsonLines": training.JsonLines,
}
FOLDERS = {"TensorBoard": training.TensorBoard, "cached_tokens": cached}


@pytest.mark.parametrize("name", READERS)
def test_a_folder_where_a_file_is_read(tmp_path, name):
    with pytest.raises(ValueError, match=r"^path: expected a file, got the folder '.*'$"):
        READERS[name](tmp_path)
    for wrong in ("gs://bucket/x", "", "~no_such_user/x"):
        with pytest.raises(ValueError, match=r"^path: expected a path(?!.*path: )"):
            READERS[name](wrong)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_is_written(tmp_path, name, file):
    with pytest.raises(ValueError, match=r"^path: expected a file or a new path, got a folder"):
        FILES[name](tmp_path)
    for wrong in (file / "x", file / "x" / "y"):
        with pytest.raises(ValueError, match=r"^path: expected a folder, got the file '.*afile'$"):
            FILES[name](wrong)
    with pytest.raises(ValueError, match=r"^path: expected a path, got '~no_such_user/x'"):
        FILES[name]("~no_such_user/x")
    assert file.read_text() == "[]" and [path.name for path in tmp_path.iterdir()] == ["afile"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_where_a_folder_is_written(tmp_path, name, file):
    for wrong in (file, file / "x", file / "x" / "y"):
        with pytest.raises(
            ValueError, match=r"^folder: expected a folder, got the file '.*afile'$"
        ):
            FOLDERS[name](wrong)
    with pytest.raises(ValueError, match=r"^folder: expected a path, got '~no_such_user/x'"):
        FOLDERS[name]("~no_such_user/x")
    FOLDERS[name](tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir())


def test_what_is_saved_replaces_the_old_file_or_leaves_it(tmp_path):
    path = tmp_path / "words.json"
    for words in (WORDS, data.Vocabulary(["c"])):
        words.save(path)
        assert data.Vocabulary.load(path) == words
    with pytest.raises(FileNotFoundError, match=r"path: expected a folder '.*none', got none"):
        WORDS.save(tmp_path / "none" / "words.json")
    with pytest.raises(ValueError, match="in the block"), replacing(path):
        raise ValueError("in the block")
    assert [found.name for found in tmp_path.iterdir()] == ["words.json"]


def test_a_tilde_inside_a_name_is_a_character(tmp_path):
    assert local_path("path", "~/x") == Path.home() / "x"
    assert local_path("path", tmp_path / "~x") == tmp_path / "~x"
