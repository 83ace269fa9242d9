"""Readers of text: what a file holds comes out, and what is wrong with one is named and where."""

import gzip

import numpy as np
import pytest

from seqjax.data import class_files, read_conll, read_lines, read_parallel, read_text

READERS = [read_text, read_lines, lambda path: read_conll(path, {"form": 0})]

CONLLU = """\
# sent_id = 1
# text = Vámonos al\tmar
1-2	Vámonos	_	_
1	Vamos	ir	VERB
2	nos	nosotros	PRON
3-4	al	_	_
3	a	a	ADP
4	el	el	DET
5	mar	mar	NOUN
5.1	_	_	_

#newpar
1	#	#	SYM
2	5 000	5000	NUM
"""


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz"])
def test_text_and_lines(tmp_path, name):
    data = b"\xef\xbb\xbf" + "ça\r\n\n  b\x0b\u2028\x85c \nlast".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read_text(tmp_path / name) == "ça\n\n  b\x0b\u2028\x85c \nlast"
    assert read_lines(tmp_path / name) == ["ça", "", "  b\x0b\u2028\x85c ", "last"]
    assert read_lines(str(tmp_path / name))[-1] == "last"


def test_ends_of_lines(tmp_path):
    path = tmp_path / "file"
    for text, lines in [("", []), ("\n", [""]), ("a", ["a"]), ("a\n", ["a"]), ("\n\n", ["", ""])]:
        path.write_bytes(text.encode())
        assert read_lines(path) == lines
        assert read_text(path) == text


@pytest.mark.parametrize("read", READERS)
def test_broken_files(tmp_path, read):
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xef\xbb\xbfok\nfa\xe7ade\n")  # Latin-1
    where = r"expected UTF-8 in .*file\.txt, got byte 0xe7 in line 2, at offset 8"
    with pytest.raises(ValueError, match=where):
        read(path)
    whole = gzip.compress(b"words " * 50)
    flipped = bytearray(whole)
    flipped[20] ^= 0xFF
    for data in (b"plain", whole[:-12], bytes(flipped)):
        (tmp_path / "file.gz").write_bytes(data)
        with pytest.raises(ValueError, match=r"expected gzip data in .*file\.gz, got damaged"):
            read(tmp_path / "file.gz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere.txt")
    with pytest.raises(TypeError, match="path: expected a path, got 3"):
        read(3)


def test_parallel_lines(tmp_path):
    source, target = tmp_path / "train.de", tmp_path / "train.en.gz"
    source.write_text("ja\n\nnein\n")
    target.write_bytes(gzip.compress(b"yes\nwell\nno"))
    assert read_parallel(source, target) == [("ja", "yes"), ("", "well"), ("nein", "no")]
    source.write_text("ja\n")
    with pytest.raises(ValueError, match=r"got 1 in .*train\.de and 3 in .*train\.en\.gz"):
        read_parallel(source, target)


def test_conllu_leaves_out_comments_multiword_tokens_and_empty_nodes(tmp_path):
    path = tmp_path / "es.conllu"
    path.write_text(CONLLU, encoding="utf-8")
    first, second = read_conll(path, {"upos": 3, "form": 1})
    assert list(first) == ["upos", "form"]
    assert first["form"] == ["Vamos", "nos", "a", "el", "mar"]
    assert first["upos"] == ["VERB", "PRON", "ADP", "DET", "NOUN"]
    assert second == {"form": ["#", "5 000"], "upos": ["SYM", "NUM"]}


def test_columns_parted_by_tabs_whose_first_is_the_word(tmp_path):
    path = tmp_path / "words.tsv.gz"
    lines = "#\tSYM", "#tag\tX", "1-2\tNUM", "", "", "5.1\tNUM", "#\tSYM", " ", "a b\tX"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    found = [sentence["form"] for sentence in read_conll(path, {"form": 0})]
    assert found == [["#", "#tag", "1-2"], ["5.1", "#"], ["a b"]]


def test_conll2003(tmp_path):
    path = tmp_path / "eng.train"
    path.write_text(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects  VBZ B-VP O\n# # I-NP O\n\n"
        "-DOCSTART- -X- -X- O\nPeter NNP B-NP B-PER\n-DOCSTART- -X- -X- O\n1.5 CD B-NP O\n"
    )
    found = read_conll(path, {"form": 0, "tag": 3})
    assert [s["form"] for s in found] == [["EU", "rejects", "#"], ["Peter"], ["1.5"]]
    assert [s["tag"] for s in found] == [["B-ORG", "O", "O"], ["B-PER"], ["O"]]


def test_conll_mistakes(tmp_path):
    path = tmp_path / "words"
    path.write_text("\n\n# nothing\n")
    assert read_conll(path, {"form": 0}) == []
    path.write_text("# said\n\na X\nb\n")
    place = r"expected at least 2 columns in .*words, line 4, for 'tag', got 1"
    with pytest.raises(ValueError, match=place):
        read_conll(path, {"tag": 1, "form": 0})
    with pytest.raises(ValueError, match="columns: expected at least one, got none"):
        read_conll(path, {})
    with pytest.raises(ValueError, match=r"columns\['form'\]: expected an integer of at least 0"):
        read_conll(path, {"form": -1})
    with pytest.raises(TypeError, match="columns: expected a dict"):
        read_conll(path, ["form"])  # type: ignore[arg-type]


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
    with pytest.raises(ValueError, match=r"names: expected folders in .*: one a class; got none"):
        class_files(tmp_path / "pos")
    with pytest.raises(ValueError, match="folder: expected a folder with one folder a class"):
        class_files(tmp_path / "urls.txt")
    with pytest.raises(TypeError, match="names: expected several, got one string, 'pos'"):
        class_files(tmp_path, names="pos")
