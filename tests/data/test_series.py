"""Tables: values, gaps, and files that are not what they should be."""

import gzip
from typing import Any

import numpy as np
import pytest

from seqjax.data import read_csv

TABLE = """\
time, load ,text,code
Mon,, a,007
Tue,1e1,"b, ""c""\nd",1_0
Wed,NA,null,3
Thu,-4,NaN,nan

"""


@pytest.fixture
def write(tmp_path):
    def write(text: str, name: str = "table.csv") -> Any:
        data = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write


def test_columns_of_numbers_and_of_text(write):
    for path in (write(TABLE), write("\ufeff" + TABLE.replace("\n", "\r\n"), "table.csv.gz")):
        table = read_csv(path, gaps="nan")
        assert list(table) == ["time", "load", "text", "code"]
        assert table["load"].dtype == np.float64
        np.testing.assert_array_equal(table["load"], [np.nan, 10, np.nan, -4])
        assert table["text"].tolist() == ["a", 'b, "c"\nd', "", ""]
        assert table["code"].tolist() == ["007", "1_0", "3", ""]
    some = read_csv(write("a;b\n1;2\n"), ("b", "a"), delimiter=";")
    assert {name: values.tolist() for name, values in some.items()} == {"b": [2.0], "a": [1.0]}
    assert list(some) == ["b", "a"]
    empty = read_csv(write("a\n"))["a"]
    assert empty.shape == (0,) and empty.dtype == np.float64


def test_gaps_are_filled(write):
    path = write("x\n\n1\nnull\nNULL\n4\nNA\n2\nnan\n")
    np.testing.assert_array_equal(read_csv(path, gaps="interpolate")["x"], [1, 1, 2, 3, 4, 3, 2, 2])
    path = write("x\n1\nnull\nNULL\n4\nNA\n2\n NaN\n")
    np.testing.assert_array_equal(read_csv(path, gaps="previous")["x"], [1, 1, 1, 4, 4, 2, 2])
    np.testing.assert_array_equal(
        read_csv(path, gaps="nan")["x"], [1, np.nan, np.nan, 4, np.nan, 2, np.nan]
    )


def test_gaps_that_are_errors(write):
    path = write('t,x\n"a\nb",1\nb,\n')
    with pytest.raises(ValueError, match=r"column 'x' of .*table.csv: .* in line 4, got ''"):
        read_csv(path)
    assert read_csv(path, ["t"])["t"].tolist() == ["a\nb", "b"]
    with pytest.raises(ValueError, match=r"column 'x' .* in line 2, before the first gap, got ''"):
        read_csv(write("t,x\na,\nb,1\n"), gaps="previous")
    for gaps in ("interpolate", "previous"):
        with pytest.raises(ValueError, match=r"column 'x' .*: expected a number to fill gaps with"):
            read_csv(write("t,x\na,\nb,\n"), gaps=gaps)
    with pytest.raises(ValueError, match="gaps: expected one of error, interpolate, previous, nan"):
        read_csv(path, gaps="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a row of column names in .*, got no rows"),
        ("\n\n", "expected a row of column names in .*, got no rows"),
        ("a,b, a\n1,2,3", "expected different column names in .*, line 1, got 'a' twice"),
        ("a,,b\n1,2,3", "expected different column names in .*, line 1, got an empty one"),
        ("a,b\n1,2\n1,2,3\n", "expected 2 fields in .*, line 3, got 3"),
        ("a,b\n1,2\n\n1,2\n", "expected 2 fields in .*, line 3, got 1"),
        ('a,b\n1,"2\n1,2\n', "expected comma-separated values in .* in line 3"),
    ],
)
def test_tables_that_are_none(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(write(text))


def test_mistakes_in_calls(write):
    path = write("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"columns: expected some of a, b in .*, got 'c'"):
        read_csv(path, ["a", "c"])
    with pytest.raises(TypeError, match="columns: expected several, got one string, 'a'"):
        read_csv(path, "a")
