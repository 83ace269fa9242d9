"""Annotated words: every word of a file comes out as it is written, or an error says why not."""

import gzip
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seqjax.data import read_conll, read_conllu

ROW = "\t{}\t_\t{}" + "\t_" * 6


def rows(*words: str) -> str:
    """Ten columns of each "number form tag"."""
    return "".join(n + ROW.format(form, tag) + "\n" for n, form, tag in map(str.split, words))


CONLLU = (
    "# sent_id = 1\n# text = Vámonos al\tmar\n"
    + rows("1-2 Vámonos _", "1 Vamos VERB", "2 nos PRON", "3-4 al _", "3 a ADP", "4 el DET")
    + rows("5 mar NOUN", "5.1 _ _")
    + "\n#newpar\n"
    + rows("1 # SYM", "2 _ PUNCT", "3 @ NUM").replace("@", "5\u00a0000  x")
)


def write(path, text):
    path.write_bytes(text.encode())
    return path


# ---- columns


def test_a_no_break_space_belongs_to_its_word(tmp_path):
    path = write(tmp_path / "numbers", "10\u00a0000 CD O\n\u3000 NN O\n")
    for separator in (None, " "):
        [found] = read_conll(path, {"form": 0, "tag": 1}, separator=separator)
        assert found == {"form": ["10\u00a0000", "\u3000"], "tag": ["CD", "NN"]}


def test_a_first_word_with_a_hash_is_a_word(tmp_path):
    path = write(tmp_path / "tweets", "#nofilter NN\nnow RB\n\nyes UH\n\n#a X\n#b Y\n")
    for comment in (None, "", "# "):
        found = read_conll(path, {"form": 0, "tag": 1}, comment=comment)
        assert [s["form"] for s in found] == [["#nofilter", "now"], ["yes"], ["#a", "#b"]]
    found = read_conll(path, {"form": 0}, comment="#")
    assert found == [{"form": ["now"]}, {"form": ["yes"]}]


@pytest.mark.parametrize(
    "text",
    [
        "# text = Yes\nyes\tUH\n",
        "#begin document x; part 000\nyes UH O\n\n",
        "yes UH O\n\n#end document\n",
        "# SYM\nyes UH\n",
        "#\tSYM\nyes\tUH\n",
    ],
)
def test_what_may_be_a_comment_is_ambiguous(tmp_path, text):
    path = write(tmp_path / "words", text)
    with pytest.raises(ValueError, match=r'comment: .*words is ambiguous: line \d begins with "#"'):
        read_conll(path, {"form": 0})
    assert read_conll(path, {"form": 0}, comment="#") == [{"form": ["yes"]}]


def test_inside_a_sentence_each_line_is_a_word(tmp_path):
    path = write(tmp_path / "words", "# one\nissue NN\n# SYM\n#4 CD\n\n# two\n# three\nyes UH\n")
    found = read_conll(path, {"form": 0}, comment="#")
    assert found == [{"form": ["issue", "#", "#4"]}, {"form": ["yes"]}]


def test_a_line_of_other_white_space_is_a_word(tmp_path):
    path = write(tmp_path / "words", "a\n\u3000\n\u00a0\nb\n")
    assert read_conll(path, {"form": 0}) == [{"form": ["a", "\u3000", "\u00a0", "b"]}]


def test_no_comments_at_all(tmp_path):
    path = write(tmp_path / "words", "# SYM\nyes UH\n\n// X\n")
    found = read_conll(path, {"form": 0}, comment="")
    assert found == [{"form": ["#", "yes"]}, {"form": ["//"]}]
    assert read_conll(path, {"form": 0}, comment="//") == [{"form": ["#", "yes"]}]


def test_files_that_mix_tabs_and_spaces_are_ambiguous(tmp_path):
    path = write(tmp_path / "words", "EU NNP O\nrejects\tVBZ O\n")
    with pytest.raises(ValueError, match=r"separator: .*words is ambiguous: line 2 has a tab"):
        read_conll(path, {"form": 0})
    [found] = read_conll(path, {"form": 0, "tag": 1}, separator=" ")
    assert found == {"form": ["EU", "rejects"], "tag": ["NNP", "VBZ"]}
    with pytest.raises(ValueError, match=r"expected at least 2 columns in .* line 1, for 'tag'"):
        read_conll(path, {"form": 0, "tag": 1}, separator="\t")
    write(path, "EU\tNNP\nrejects VBZ\n")
    with pytest.raises(
        ValueError, match=r"ambiguous: line 2 has no tab between words, and the lines"
    ):
        read_conll(path, {"form": 0})


def test_tabs_keep_spaces_and_empty_columns(tmp_path):
    path = write(tmp_path / "words", "New York\tLOC\t\nx\tX\tY  \n a\tZ\t\n")
    [found] = read_conll(path, {"form": 0, "tag": 1}, separator="\t")
    assert found == {"form": ["New York", "x", " a"], "tag": ["LOC", "X", "Z"]}
    with pytest.raises(ValueError, match=r"expected no empty column in .*, line 1, got column 2"):
        read_conll(path, {"form": 0, "last": 2}, separator="\t")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("EU\tORG\nx\t\n\tO\n", r"line 2, got column 1 \('tag'\) empty; write a placeholder"),
        ("EU\tORG\n\tO\n", r"line 2, got column 0 \('form'\) empty"),
        ("EU\tORG\n \tO\n", r"line 2, got column 0 \('form'\) empty"),
        ("EU\tORG\nx\tO\t\n", "line 2, as in line 1, got 3; does separator fit"),
    ],
)
def test_empty_columns_are_errors(tmp_path, text, message):
    path = write(tmp_path / "words", text)
    with pytest.raises(ValueError, match=f"path: expected .*words, {message}"):
        read_conll(path, {"form": 0, "tag": 1}, separator="\t")


def test_a_word_of_two_parts_does_not_shift_the_columns(tmp_path):
    path = write(tmp_path / "words", "He PRP O\nNew York NNP B-LOC\n")
    where = r"expected 3 columns in .*words, line 2, as in line 1, got 4"
    with pytest.raises(ValueError, match=where):
        read_conll(path, {"form": 0, "tag": 2})


def test_columns_parted_by_tabs_whose_first_is_the_word(tmp_path):
    path = tmp_path / "words.tsv.gz"
    lines = "#\tSYM", "#tag\tX", "1-2\tNUM", "", "", "5.1\tNUM", "#\tSYM", " ", "a b\tX"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    found = [sentence["form"] for sentence in read_conll(path, {"form": 0}, comment="")]
    assert found == [["#", "#tag", "1-2"], ["5.1", "#"], ["a b"]]


def test_conll2003(tmp_path):
    path = tmp_path / "eng.train"
    path.write_text(
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects  VBZ B-VP O\n# # I-NP O\n\n"
        "-DOCSTART- -X- -X- O\nPeter NNP B-NP B-PER\n-DOCSTART- -X- -X- O\n1.5 CD B-NP O\n"
        "-DOCSTART-s NN B-NP O\n"
    )
    found = read_conll(path, {"form": 0, "tag": 3})
    forms = [["EU", "rejects", "#"], ["Peter"], ["1.5", "-DOCSTART-s"]]
    assert [s["form"] for s in found] == forms
    assert [s["tag"] for s in found] == [["B-ORG", "O", "O"], ["B-PER"], ["O", "O"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n \n"])
def test_ends_of_lines(tmp_path, end, mark, last):
    text = mark + "a X \nb Y\t \n \t\nc Z" + last
    path = write(tmp_path / "words", text.replace("\n", end))
    found = read_conll(path, {"form": 0, "tag": 1})
    assert found == [{"form": ["a", "b"], "tag": ["X", "Y"]}, {"form": ["c"], "tag": ["Z"]}]
    text = CONLLU.rstrip("\n").replace("\n\n", "  \n \t\n")
    path = write(tmp_path / "words", (mark + text + last).replace("\n", end))
    assert [len(s["form"]) for s in read_conllu(path, ["form"])] == [5, 3]


def test_a_carriage_return_inside_a_line(tmp_path):
    path = write(tmp_path / "words", "a X\r\r\nb Y\r\n")
    with pytest.raises(ValueError, match=r"got a carriage return inside line 1"):
        read_conll(path, {"form": 0})


def test_the_numbers_of_conllu_are_no_words(tmp_path):
    path = write(tmp_path / "es.conllu", CONLLU)
    with pytest.raises(ValueError, match=r"got 1-2 in line 3, a multiword token .*read_conllu"):
        read_conll(path, {"form": 1}, comment="#")
    found = read_conll(path, {"id": 0, "form": 1}, comment="#")
    assert found[0]["id"] == ["1-2", "1", "2", "3-4", "3", "4", "5", "5.1"]
    plain = write(tmp_path / "plain", "1-2 X\n3 Y\n")
    assert read_conll(plain, {"score": 0}) == [{"score": ["1-2", "3"]}]


def test_conll_mistakes(tmp_path):
    path = write(tmp_path / "words", "\n\n# nothing\n")
    assert read_conll(path, {"form": 0}, comment="#") == []
    assert read_conll(write(path, ""), {"form": 0}) == []
    write(path, "# said\n\na X\nb\n")
    place = r"expected at least 2 columns in .*words, line 4, for 'tag', got 1"
    with pytest.raises(ValueError, match=place):
        read_conll(path, {"tag": 1, "form": 0}, comment="#")
    with pytest.raises(ValueError, match="columns: expected at least one, got none"):
        read_conll(path, {})
    with pytest.raises(ValueError, match=r"columns\['form'\]: expected an integer of at least 0"):
        read_conll(path, {"form": -1})
    with pytest.raises(TypeError, match="columns: expected a dict"):
        read_conll(path, ["form"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="separator: expected a tab, a space or None, got ','"):
        read_conll(path, {"form": 0}, separator=",")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="comment: expected a string or None, got True"):
        read_conll(path, {"form": 0}, comment=True)  # type: ignore[arg-type]


# ---- CoNLL-U


def test_conllu_leaves_out_comments_multiword_tokens_and_empty_nodes(tmp_path):
    path = write(tmp_path / "es.conllu", CONLLU)
    first, second = read_conllu(path, ["upos", "form"])
    assert list(first) == ["upos", "form"]
    assert first["form"] == ["Vamos", "nos", "a", "el", "mar"]
    assert first["upos"] == ["VERB", "PRON", "ADP", "DET", "NOUN"]
    # As they are written: conllu alone makes None of "_", and two columns of "5 000  x".
    assert second == {"form": ["#", "_", "5\u00a0000  x"], "upos": ["SYM", "PUNCT", "NUM"]}


def test_conllu_fields_stay_texts(tmp_path):
    cells = ["1", "a", "a", "X", "_", "Case=Nom", "0", "root", "0:root", "SpaceAfter=No|x y"]
    path = write(tmp_path / "one.conllu", "\t".join(cells))
    fields = ["id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"]
    [found] = read_conllu(path, fields)
    assert [*found.values()] == [[cell] for cell in cells]
    assert read_conllu(write(path, "# only\n\n# comments\n"), ["form"]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# x\n\n1\ta\tX\n", "line 3, got 3 columns instead of 10 separated by tabs"),
        (rows("1 a X") + "2 b\n", "line 2, got Invalid line format"),
        (rows("1 a X") + "\n# y\n" + rows("x a X"), "line 4, got 'x' is not a valid ID"),
        (rows("1 a X", "_ b X"), "line 2, got a word without a number"),
        (rows("1 a X", "2 b X", "1 c X", "2 d X"), "line 4, got a sentence whose words are not"),
        (rows("2 a X"), "line 1, got a sentence whose words are not numbered"),
        (rows("1 a X") + rows("2 b X").replace("b", ""), "line 2, got an empty form"),
        (rows("9" * 5000 + " a X"), "line 1, got"),
        ("# global.columns = ID FORM\n1\ta\n", "got CoNLL-U Plus"),
    ],
)
def test_conllu_mistakes(tmp_path, text, message):
    path = write(tmp_path / "some.conllu", text)
    with pytest.raises(ValueError, match=rf"expected CoNLL-U in .*some\.conllu, {message}"):
        read_conllu(path, ["form"])


def test_conllu_fields(tmp_path):
    path = write(tmp_path / "es.conllu", CONLLU)
    with pytest.raises(TypeError, match="fields: expected a list of names, got the string 'form'"):
        read_conllu(path, "form")
    with pytest.raises(
        ValueError, match="fields: expected at least one name and no name twice, got"
    ):
        read_conllu(path, [])
    with pytest.raises(
        ValueError, match="fields: expected at least one name and no name twice, got"
    ):
        read_conllu(path, ["form", "form"])
    with pytest.raises(ValueError, match=r"fields: expected one of id, form, .*; got 'word'"):
        read_conllu(path, ["word"])


# ---- any content

WORDS = st.text(
    st.sampled_from(string.ascii_letters + "-#.1\u00a0\u3000\x0b\x1c\u2028é\x85"), min_size=1
)
SENTENCES = st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), max_size=4)


@given(SENTENCES, st.sampled_from(["\t", " "]), st.sampled_from(["\n", "\r\n"]))
@example([[("10\u00a0000", "CD"), ("#", "SYM")], [("#", "SYM")]], " ", "\n")
def test_what_is_written_is_read(tmp_path_factory, sentences, separator, end):
    path = tmp_path_factory.getbasetemp() / "words"
    blocks = [end.join(separator.join(row) for row in rows) for rows in sentences]
    write(path, (end + end).join(blocks))
    found = read_conll(path, {"form": 0, "tag": 1}, separator=separator, comment="")
    expected = [s for s in sentences if s]
    assert [list(zip(s["form"], s["tag"], strict=True)) for s in found] == expected


@given(SENTENCES)
@example([[("a  b   c", "_"), (" ", "#")]])
def test_what_is_written_as_conllu_is_read(tmp_path_factory, sentences):
    path = tmp_path_factory.getbasetemp() / "words.conllu"
    blocks = [
        "# text\n" + "".join(f"{n}{ROW.format(*row)}\n" for n, row in enumerate(rows, 1))
        for rows in sentences
    ]
    write(path, "\n".join(blocks))
    found = read_conllu(path, ["form", "upos"])
    assert [list(zip(s["form"], s["upos"], strict=True)) for s in found] == sentences


@given(st.binary(max_size=60) | st.text("1\t _-#.a\n\r", max_size=40).map(str.encode))
def test_any_bytes(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    for read in (lambda: read_conll(path, {"form": 0}), lambda: read_conllu(path, ["form"])):
        try:
            found = read()
        except ValueError:
            continue
        lines = data.decode("utf-8-sig").replace("\r", "\n").split("\n")
        assert sum(len(s["form"]) for s in found) <= sum(bool(x.strip(" \t")) for x in lines)


def test_sentences_of_other_widths(tmp_path):
    path = tmp_path / "words.conll"
    write(path, "a X 1\nb Y 2\n\nc Z\n")
    with pytest.raises(ValueError, match=r"expected 3 columns in .*, line 4, as in line 1, got 2"):
        read_conll(path, {"form": 0, "tag": 1})
