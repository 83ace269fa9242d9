"""Tables: what pandas reads, and what must be asked instead of guessed."""

import bz2
import codecs
import csv
import gc
import gzip
import io
import lzma
import sys
import zipfile
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqjax.data import read_csv
from seqjax.data._columns import BLOCK


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes, name: str = "table.csv") -> Any:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path / name

    return write


def lists(table):
    return {name: values.tolist() for name, values in table.items()}


def test_columns_have_the_type_of_their_fields(write):
    table = read_csv(
        write('i,f,b,t,u\n1,1.5,True,x,12345678901234567890\n-2,1e-05,false,"a, ""b""\nc",3\n')
    )
    assert lists(table) == {
        "i": [1, -2], "f": [1.5, 1e-05], "b": [True, False], "t": ["x", 'a, "b"\nc'],
        "u": [12345678901234567890, 3],
    }  # fmt: skip
    kinds = [values.dtype for values in table.values()]
    assert kinds == [np.int64, np.float64, bool, object, np.uint64]
    assert {type(text) for text in table["t"]} == {str}
    some = read_csv(write("a;b\n1;2\n"), ("b", "a"), delimiter=";")
    assert list(some) == ["b", "a"] and lists(some) == {"a": [1], "b": [2]}
    for empty in ("a", "a\n"):
        assert read_csv(write(empty))["a"].dtype == np.float64
    assert read_csv(write("a\n"), dtype=str)["a"].dtype == object
    assert read_csv(write("a\n")).keys() == {"a"} and not read_csv(write("a\n1\n"), [])


def test_long_ids_stay_apart(write):
    path = write("id,x\n1234567890123456789,1\n1234567890123456788,2\n")
    ids = read_csv(path)["id"]
    assert ids.dtype == np.int64 and ids.tolist() == [1234567890123456789, 1234567890123456788]


def test_floats_are_read_to_the_last_bit(write):
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000) * 10.0 ** rng.integers(-300, 300, 2000)
    path = write("x\n" + "\n".join(map(repr, values.tolist())) + "\n")
    np.testing.assert_array_equal(read_csv(path)["x"], values)


def test_text_is_what_is_written(write):
    path = write('c,x\nNA,1\n"Null",\nnan,3\nNone,4\n,5\n n/a ,6\n')
    table = read_csv(path, gaps="nan")
    assert table["c"].tolist() == ["NA", "Null", "nan", "None", "", " n/a "]
    np.testing.assert_array_equal(table["x"], [1, np.nan, 3, 4, 5, 6])
    path = write("c,x\nNA,01\nNA,1E5\n")
    assert lists(read_csv(path, dtype=str)) == {"c": ["NA", "NA"], "x": ["01", "1E5"]}
    # pandas reads long files in parts, whose types may differ.
    lines = [*["1"] * 100_000, *["x", "y"] * 100_000]
    assert read_csv(write("a\n" + "\n".join(lines)))["a"].tolist() == lines
    lines = [*["True"] * 100_000, *["x"] * 200_000]
    assert read_csv(write("a\n" + "\n".join(lines)))["a"].tolist() == lines


@pytest.mark.parametrize(
    "fields, message",
    [
        (["501", "01234"], r"line 3: ambiguous, '01234' .* code; pass dtype=\{'x': str\} or .*int"),
        (["1.5", "007"], r"line 3: ambiguous, '007' .*dtype=\{'x': float\}"),
        (["-02", "1"], "line 2: ambiguous, '-02' "),
        (["1", '"01"'], "line 3: ambiguous, '01' "),
        (["1", " 02"], "line 3: ambiguous, ' 02' "),
        (["00.5", "1"], "line 2: ambiguous, '00.5' "),
        (["1E5", "2"], r"line 2: ambiguous, '1E5' .*dtype=\{'x': str\} or dtype=\{'x': float\}"),
        (["12", "34e5"], "line 3: ambiguous, '34e5' "),
        (["+491701234", "5"], r"line 2: ambiguous, '\+491701234' "),
        (["12345678901234567890123", "1"], "line 2: ambiguous, '123456.*' .* 64 bits"),
        (["1", "-1", "18446744073709551615"], "line 4: ambiguous, '184467.*' .* 64 bits"),
        (["1", "1234567890123456789", "NA"], "line 3: ambiguous, '123456.*' .*, and gaps"),
        (["0.5", "9007199254740993"], "line 3: ambiguous, '9007.*' .* float64 cannot hold"),
        (["1", "?", "3"], r"line 3: ambiguous, '\?' .*na_values=\['\?'\] or dtype=\{'x': str\}"),
        (["1", "2", "na"], r"line 4: ambiguous, 'na' .*na_values=\['na'\]"),
        (["1", "2", "?", "-"], r"line 4: ambiguous, '\?' "),
        (["-", "-", "-", "5"], r"line 2: ambiguous, '-' .*na_values=\['-'\]"),
        (["1", "2", " NA"], r"line 4: ambiguous, ' NA' .*na_values=\[' NA'\]"),
        (["missing", "1.5", "2.5"], "line 2: ambiguous, 'missing' "),
        (["1", "−2"], "line 3: ambiguous, '−2' "),
        (["1", "2 ", "3 m"], "line 4: ambiguous, '3 m' "),
        (["1", "0x1F"], "line 3: ambiguous, '0x1F' "),
        (["1", "1_000"], "line 3: ambiguous, '1_000' "),
        (["True", "0", "1"], r"line 2: ambiguous, 'True' .* or dtype=\{'x': str\}$"),
        (['"1,234"', '"12,345"'], r"line 2: ambiguous, '1,234' .*thousands=',' or decimal=','"),
        (["7", '"1,234"'], r"line 3: ambiguous, '1,234' .*thousands=','"),
        (["1 234", "12 345"], "line 2: ambiguous, '1 234' .*pass thousands=' ' or dtype"),
        (['"-1.234.567,5"', "2"], r"line 2: .*pass thousands='\.' and decimal=',' or dtype"),
        (["1\u00a0000", "2\u00a0000"], r"line 2: ambiguous, .*separator; pass dtype=\{'x': str\}$"),
        (['"1.234,5"', '"2,5"'], r"line 2: ambiguous, '1\.234,5' .*thousands='\.' and decimal=','"),
        (['"2,5"', '"3,25"'], "line 2: ambiguous, '2,5' .*pass decimal=',' or dtype"),
        (['"1,234,567"', "2"], "line 2: ambiguous, '1,234,567' .*pass thousands=',' or dtype"),
        (["NA", "NA"], r"line 2: ambiguous, 'NA' may be a gap or text.*dtype=\{'x': float\}"),
        (["", "None"], "line 3: ambiguous, 'None' may be a gap or text"),
        (['"a"', ' "b"'], r"line 3: ambiguous, ' \"b\"' .*skipinitialspace=True"),
    ],
)  # fmt: skip
def test_what_may_be_a_number_or_text(write, fields, message):
    path = write("y,x\n" + "".join(f"0.5,{field}\n" for field in fields))
    with pytest.raises(ValueError, match=rf"^path: column 'x' of .*csv, {message}"):
        read_csv(path, gaps="nan")
    assert read_csv(path, ["y"])["y"].tolist() == [0.5] * len(fields)
    texts = [row[1] for row in csv.reader(io.StringIO(path.read_text()))][1:]
    assert read_csv(path, dtype={"x": str})["x"].tolist() == texts


@pytest.mark.parametrize(
    "fields, expected",
    [
        (["0", "-0.5", "0.25", "+0.5", "10"], [0, -0.5, 0.25, 0.5, 10]),
        (["1e-05", "1E+5", "1.0e5", "-2.5E-3"], [1e-05, 1e5, 1e5, -2.5e-3]),
        (["1", "n/a", "NaN", "null", "NULL", "N/A", "None", "#N/A", ""], [1.0] + [np.nan] * 8),
        (["inf", "-Infinity", "1"], [np.inf, -np.inf, 1]),
        (["9007199254740993", "100"], [9007199254740993, 100]),
        (["1", "a1", "b2", "3c", "01"], ["1", "a1", "b2", "3c", "01"]),
        (["192.168.0.1", "10.0.0.7"], ["192.168.0.1", "10.0.0.7"]),
        (["01/02/2020", "02/02/2020"], ["01/02/2020", "02/02/2020"]),
        (["00:15", "01:30"], ["00:15", "01:30"]),
        (["5 %", "$7"], ["5 %", "$7"]),
    ],
)
def test_what_is_clear(write, fields, expected):
    path = write("d,x\n" + "".join(f"2020-01-02 00:00:07,{field}\n" for field in fields))
    found = read_csv(path, gaps="nan")["x"]
    assert (found.dtype == object) == isinstance(expected[0], str)
    np.testing.assert_array_equal(found, expected)


def test_codes_are_found_wherever_they_are(write):
    """In the first row and the last, and where a block of the search ends."""
    for row in (0, 1, 999):
        lines = ["10,1.5"] * 1000
        lines[row] = "10,007"
        with pytest.raises(ValueError, match=rf"line {row + 2}: ambiguous, '007' "):
            read_csv(write("a,b\n" + "\n".join(lines)))
    for code in ("012", "-012", "1e5"):
        for begin in range(BLOCK - 5, BLOCK + 4):
            text = ("a\n" + "12345678\n" * (begin // 8))[: begin - 1] + "\n" + code
            assert text.index(code, begin - 1) == begin
            with pytest.raises(ValueError, match=f"ambiguous, '{code}' "):
                read_csv(write(text))
    for sep in (";", "\t", " ", "|", "::", r"\s+"):
        gap = "  " if sep == r"\s+" else sep
        with pytest.raises(ValueError, match="line 3: ambiguous, '007' "):
            read_csv(write(f"a{gap}b\n1{gap}2\n3{gap}007\n"), sep=sep)


def test_options_are_those_of_pandas(write):
    path = write("a;b\n1.234,5;?\n7;2\n")
    table = read_csv(path, sep=";", decimal=",", thousands=".", na_values={"b": ["?"]}, gaps="nan")
    np.testing.assert_array_equal(np.column_stack(list(table.values())), [[1234.5, np.nan], [7, 2]])
    path = write("x,n\n1,-999\n000,NA\n")
    table = read_csv(
        path, na_values=["000", -999], keep_default_na=False, gaps="nan", dtype={"n": str}
    )
    np.testing.assert_array_equal(table["x"], [1, np.nan])
    assert table["n"].tolist() == ["-999", "NA"]
    path = write("x,y\n1,yes\n2,no\n")
    types = read_csv(path, dtype={"x": np.float32})
    assert types["x"].dtype == np.float32
    small = read_csv(write("x\n-128\n127\n"), dtype=np.int8)["x"]
    assert small.dtype == np.int8 and small.tolist() == [-128, 127]
    assert read_csv(write("x\n"), dtype=np.int8)["x"].dtype == np.int8
    large = read_csv(write("x\n18446744073709551615\n"), dtype=np.uint64)["x"]
    assert large.dtype == np.uint64 and large.tolist() == [2**64 - 1]
    with pytest.raises(ValueError, match=r"column 'x' .*: expected uint64, got "):
        read_csv(write("x\n-3\n"), dtype=np.uint64)
    path = write('a, b\n1, "x, y"\n2, z\n')
    assert lists(read_csv(path, skipinitialspace=True)) == {"a": [1, 2], "b": ["x, y", "z"]}
    path = write("# one\na,b\n# two\nx,'#2'\n'3\n# 4',y # 6,7\n# 8\n")
    table = lists(read_csv(path, comment="#", quotechar="'"))
    assert table == {"a": ["x", "3\n# 4"], "b": ["#2", "y "]}
    path = write("# one\na,b\n1,2\n# two\n3\n")
    with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 5, got 1"):
        read_csv(path, comment="#")
    for row in ("3 # ,4", '"3"# ,4'):
        with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 3, got 1"):
            read_csv(write(f"a,b\n1,2\n{row}\n"), comment="#", gaps="nan")
    assert lists(read_csv(write('a,b\n1,"x\n'), quoting=csv.QUOTE_NONE)) == {"a": [1], "b": ['"x']}
    assert lists(read_csv(write("title\n\na,b\n1,2\n"), skiprows=2)) == {"a": [1], "b": [2]}
    with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 5, got 1"):
        read_csv(write("title\n\na,b\n1,2\n3\n"), skiprows=2)
    with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 3, got 1"):
        read_csv(write("a,b\n1,x\ny\n"), keep_default_na=False)
    path = write("1,2\n3,4\n")
    assert lists(read_csv(path, header=None, names=["x", "y"])) == {"x": [1, 3], "y": [2, 4]}
    assert lists(read_csv(path, names=["x", "y"], header=0)) == {"x": [3], "y": [4]}
    assert lists(read_csv(path, header=0)) == {"1": [3], "2": [4]}


@pytest.mark.parametrize("sep", ["::", "||", "\t", "|", " ", r"\s+", "¦", ", "])
def test_delimiters(write, sep):
    text = {r"\s+": "  a \t b \n 1  x\n2 y z\n"}.get(sep) or sep.join("ab") + "\n1" + sep + "x\n"
    if sep == r"\s+":
        with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 3, got 3"):
            read_csv(write(text), sep=sep)
        text = '  a \t b \n 1  "x y"\n2 z\n'
        assert lists(read_csv(write(text), sep=sep)) == {"a": [1, 2], "b": ["x y", "z"]}
        return
    assert lists(read_csv(write(text), sep=sep)) == {"a": [1], "b": ["x"]}
    quoted = text + f'2{sep}"x{sep}y"\n'
    assert read_csv(write(quoted), delimiter=sep)["b"].tolist() == ["x", f"x{sep}y"]
    with pytest.raises(ValueError, match=r"expected 2 fields in .*, line 3, got 3"):
        read_csv(write(f"{text}2{sep}3{sep}4\n"), sep=sep)


def test_rows_that_may_be_counted_in_two_ways(write):
    with pytest.raises(ValueError, match=r"path: expected 2 rows in .*, got 1 by pandas"):
        read_csv(write('a\n"x\ny"\n'), sep=r"\s+")
    with pytest.raises(ValueError, match=r"sep: expected a delimiter .*, and no .x1f there"):
        read_csv(write("a::b\n1::x\x1fy\n"), sep="::")


def test_files_of_other_programs(write):
    text = "a,b\n1,é\n"
    expected = {"a": [1], "b": ["é"]}
    for data in (
        text.encode(), codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(), text.rstrip().encode(), (text + "\r\n\n").encode(),
    ):  # fmt: skip
        assert lists(read_csv(write(data))) == expected
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("table.csv", text)
    packed = {
        ".gz": gzip.compress(text.encode()), ".bz2": bz2.compress(text.encode()),
        ".xz": lzma.compress(text.encode()), ".zip": archive.getvalue(),
    }  # fmt: skip
    for suffix, data in packed.items():
        assert lists(read_csv(write(data, f"table.csv{suffix}"))) == expected
        with pytest.raises(
            ValueError, match=r"compression: expected one that unpacks .*, got .*[a-z]"
        ):
            read_csv(write(data[: len(data) // 2], f"table.csv{suffix}"))
    assert lists(read_csv(write(packed[".gz"]), compression="gzip")) == expected
    assert lists(read_csv(write(packed[".zip"]), compression="zip")) == expected
    with pytest.raises(ValueError, match=r"got gzip data; pass compression='gzip'"):
        read_csv(write(packed[".gz"]))
    with pytest.raises(ValueError, match=r"got a zip archive or an Excel file .*read_excel"):
        read_csv(write(packed[".zip"], "table.xlsx"))
    for encoding in ("cp1252", "utf-16"):
        path = write(text.encode(encoding))
        with pytest.raises(
            ValueError, match=rf"expected utf-8 text .*, line 1|2, got byte .*encoding='{encoding}'"
        ):
            read_csv(path)
        assert lists(read_csv(path, encoding=encoding)) == expected
    with pytest.raises(ValueError, match=r"line 2, got a NUL character; .*encoding='utf-16'"):
        read_csv(write(b"a,b\n1,\0\n"))
    long = "x" * 200_000  # more than the csv module takes by default
    assert read_csv(write(f'a,b\n"{long}",1\n'))["a"].tolist() == [long]


def test_frames_as_pandas_writes_them(write, tmp_path):
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "NA"]})
    frame.to_csv(tmp_path / "frame.csv")
    assert lists(read_csv(tmp_path / "frame.csv")) == {
        "index": [0, 1],
        "a": [1, 2],
        "b": ["x", "NA"],
    }
    frame.index = pandas.date_range("2020-01-01", periods=2, freq="h")
    frame.to_csv(tmp_path / "frame.csv")
    times = read_csv(tmp_path / "frame.csv", parse_dates=["index"])["index"]
    np.testing.assert_array_equal(times, frame.index.to_numpy())
    pandas.DataFrame([[1, 2], [3, 4]]).to_csv(tmp_path / "plain.csv", index=False)
    assert lists(read_csv(tmp_path / "plain.csv")) == {"0": [1, 3], "1": [2, 4]}


def test_dates(write):
    path = write("t,x\n2020-01-01 00:00,1\n,2\n2020-01-03 12:30,3\n")
    dates = np.array(["2020-01-01", "NaT", "2020-01-03T12:30"], "datetime64[s]")
    found = read_csv(path, parse_dates=["t"], gaps="nan")["t"]
    np.testing.assert_array_equal(found, dates)
    dates[1] = dates[0]
    np.testing.assert_array_equal(read_csv(path, parse_dates=["t"], gaps="previous")["t"], dates)
    refused: list[Any] = ["error", "interpolate"]
    for gaps in refused:
        with pytest.raises(ValueError, match="line 3: expected a date, got ''; gaps='previous'"):
            read_csv(path, parse_dates=["t"], gaps=gaps)
    path = write("t\n01/02/2020\n13/02/2020\n")
    with pytest.raises(
        ValueError, match=r"line 2: .* ISO8601, got '01/02/2020'; pass .*date_format"
    ):
        read_csv(path, parse_dates=["t"])
    days = np.array(["2020-02-01", "2020-02-13"], "datetime64[s]")
    for form in ("%d/%m/%Y", {"t": "%d/%m/%Y"}):
        found = read_csv(path, parse_dates=["t"], date_format=form)["t"]
        np.testing.assert_array_equal(found, days)
    with pytest.raises(
        ValueError, match=r"line 3: expected a date in format %m/.*, got '13/02/2020'"
    ):
        read_csv(path, parse_dates=["t"], date_format="%m/%d/%Y")
    with pytest.raises(ValueError, match="date_format: expected a format of dates, got"):
        read_csv(path, parse_dates=["t"], date_format="%Q")
    zoned = read_csv(write("t\n2020-01-01T01:00+02:00\n"), parse_dates=["t"])["t"]
    np.testing.assert_array_equal(zoned, np.array(["2019-12-31T23:00"], "datetime64[s]"))
    mixed = read_csv(write("t\n2020-01-02\n2020-01-02 03:04:05.5\n"), parse_dates=["t"])["t"]
    expected = np.array(["2020-01-02", "2020-01-02T03:04:05.5"], "datetime64[ms]")
    np.testing.assert_array_equal(mixed, expected)
    for text in ("12:30", "x1", "3.5", "now", "today", "1.2.2020", "Jan 5", "2020-13-01"):
        with pytest.raises(ValueError, match=f"column 't' .*, line 2: .*, got '{text}'"):
            read_csv(write(f"t\n{text}\n"), parse_dates=["t"])


@pytest.mark.parametrize("form", [None, "ISO8601"])
def test_words_and_decimals_are_no_dates(write, form):
    for text in ("now", "today", "2024.5", "2024.10", "2024."):
        with pytest.raises(ValueError, match=f"column 't' .*, line 3: .*, got '{text}'"):
            read_csv(write(f"t\n2024-01-01\n{text}\n"), parse_dates=["t"], date_format=form)
    path = write("t,x\n 2024-01-01 05:00,1\n2024.05.01,2\n")
    dates = np.array(["2024-01-01T05", "2024-05-01"], "datetime64[s]")
    found = read_csv(path, parse_dates=["t"], date_format=form)["t"]
    np.testing.assert_array_equal(found, dates)


def test_formats_do_not_guess(write):
    for text in ("now", "today"):
        with pytest.raises(ValueError, match=f"line 3: .* in format %d.*, got '{text}'"):
            read_csv(write(f"t\n01.02.2024\n{text}\n"), parse_dates=["t"], date_format="%d.%m.%Y")
    path = write("t\n01/02/2024\n13/02/2024\n")
    for form in ("mixed", {"t": "mixed"}):
        with pytest.raises(ValueError, match=r"date_format: expected one .*, got 'mixed'; "):
            read_csv(path, parse_dates=["t"], date_format=form)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("2024-01-01T12:00", "2024-01-01T12:00+02:00"),
        ("2024-01-01 12:00Z", "2024-01-01 12:00"),
        ("2024-01-01 12:00:00.5 -0200", "2024-01-02"),
        ("2024-01-01", "20240101T12+02"),
    ],
)
def test_dates_with_and_without_a_time_zone(write, first, second):
    path = write(f"x,t\n1,\n2,{first}\n3,{first}\n4,{second}\n")
    for form in (None, "ISO8601"):
        with pytest.raises(ValueError) as error:
            read_csv(path, parse_dates=["t"], date_format=form, gaps="nan")
        assert f"column 't' of {path}, line 5: expected dates that all have" in str(error.value)
        assert f"got {second!r} after {first!r}" in str(error.value)
    for text in (first, second):
        found = read_csv(write(f"t\n{text}\n{text}\n"), parse_dates=["t"])["t"]
        assert found[0] == found[1]


@pytest.mark.parametrize(
    ("dtype", "values", "hint"),
    [
        (int, "1", r"pass dtype=\{'a': float\} and `gaps`"),
        (np.uint8, "1", r"pass dtype=\{'a': float\} and `gaps`"),
        (bool, "True", "leave 'a' out of dtype and pass gaps='previous'"),
    ],
)
def test_gaps_in_columns_without_gaps(write, dtype, values, hint):
    path = write(f"a,b\n{values},x\n,y\n{values},z\n")
    with pytest.raises(ValueError, match=f"column 'a' of .*, line 3: .*, a missing value; {hint}"):
        read_csv(path, dtype={"a": dtype}, gaps="previous")


def test_gaps_are_filled(write):
    path = write("x\n\n1\nnull\nNULL\n4\nNA\n2\nnan\n")
    np.testing.assert_array_equal(read_csv(path, gaps="interpolate")["x"], [1, 1, 2, 3, 4, 3, 2, 2])
    path = write("x\n1\nnull\nNULL\n4\nNA\n2\nNaN\n")
    np.testing.assert_array_equal(read_csv(path, gaps="previous")["x"], [1, 1, 1, 4, 4, 2, 2])
    np.testing.assert_array_equal(
        read_csv(path, gaps="nan")["x"], [1, np.nan, np.nan, 4, np.nan, 2, np.nan]
    )
    path = write("b,x\nTrue,1\n,2\nFalse,3\n")
    assert read_csv(path, gaps="previous")["b"].tolist() == [True, True, False]
    single = read_csv(write("x\n1\nNA\n2\n"), gaps="interpolate", dtype=np.float32)["x"]
    assert single.dtype == np.float32 and single.tolist() == [1, 1.5, 2]
    assert np.isnan(read_csv(write("x,y\n,1\n,2\n"), gaps="nan")["x"]).all()


def test_gaps_that_are_errors(write):
    path = write('t,x\n"a\nb",1\nb,\n')
    with pytest.raises(ValueError, match=r"column 'x' of .*table.csv, line 4: .*, got ''; gaps="):
        read_csv(path)
    assert read_csv(path, ["t"])["t"].tolist() == ["a\nb", "b"]
    with pytest.raises(
        ValueError, match=r"column 'x' .*, line 2: expected a number to fill gaps with, got ''"
    ):
        read_csv(write("t,x\na,\nb,1\n"), gaps="previous")
    ways: list[Any] = ["interpolate", "previous"]
    for gaps in ways:
        with pytest.raises(ValueError, match=r"column 'x' .*: expected a number to fill gaps with"):
            read_csv(write("t,x\na,\nb,\n"), gaps=gaps)
    ways = ["error", "interpolate", "nan"]
    for gaps in ways:
        with pytest.raises(ValueError, match="line 3: expected True or False, got ''; gaps='prev"):
            read_csv(write("b,x\nTrue,1\n,2\n"), gaps=gaps)
    with pytest.raises(ValueError, match="gaps: expected one of error, interpolate, previous, nan"):
        read_csv(path, gaps="zero")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a row of different names in .*, line 1, got an empty line"),
        ("\n\n", "expected a row of different names in .*, line 1, got an empty line"),
        ("\na\n1\n", "expected a row of different names in .*, line 1, got an empty line"),
        ("a,b, a\n1,2,3", "expected a row of different names in .*, line 1, got 'a' twice"),
        ("a,,b\n1,2,3", "expected a row of different names in .*, line 1, got an empty one"),
        ("1.5,2\n3,4\n", r"line 1, got numbers; pass header=None and names=\[...\]"),
        ("1e5,-2\n3,4\n", "line 1, got numbers"),
        ("2024-01-01 00:00,10.5\n2024-01-01 01:00,11\n", "line 1, got dates; pass header=None"),
        ("2024-01-01T00:00:00.5+02:00,1\n", "line 1, got dates; .* header=0 if the dates are"),
        ("2024-1-5\n2024-1-6\n", "line 1, got dates"),
        ("00:15,1\n", "line 1, got dates"),
        ("a,b\n1,2\n1,2,3\n", "expected 2 fields in .*, line 3, got 3"),
        ("a,b\n0,1,2\n1,2,3\n", "expected 2 fields in .*, line 2, got 3"),
        ("a,b\n1,2,\n3,4,\n", "expected 2 fields in .*, line 2, got 3"),
        ("a,b\n1,2\n3\n", "expected 2 fields in .*, line 3, got 1"),
        ("a,b\n1,x\n3\n", "expected 2 fields in .*, line 3, got 1"),
        ("a,b\n1,2\n\n1,2\n", "expected 2 fields in .*, line 3, got 0"),
        ('a,b\n"1\n2",3\n4\n', "expected 2 fields in .*, line 4, got 1"),
        ('a,b\n1, "x, y"\n', "line 2, got 3; do sep=',', .* skipinitialspace"),
        ("# note\na,b\n1,2\n", "line 2, got 2; do sep=',', .* comment"),
        ("a;b\n1,5;2\n", "line 2, got 2; do sep=',', "),
        ('a,b\n1,"2\n1,2\n', "line 2, got unexpected end of data; if quotes are part"),
        ('a,b\n1,"x"y\n', "line 2, got .* expected after '\"'; if quotes"),
        ('a, "b"\n1,2\n', "line 1, got '\"b\"'; pass skipinitialspace=True"),
        ("a\n1\n1.0e400\n", "column 'a' of .*, line 3: .*'1.0e400'"),
    ],
)
def test_tables_that_are_none(write, text, message):
    with pytest.raises(ValueError, match=f"^path: .*{message}"):
        read_csv(write(text), gaps="nan")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": {"c": str}}, "dtype: expected some of a, b, each once, got 'c'"),
        ({"dtype": {"b": float}}, "path: column 'b' of .*: expected float64, got .*'x'"),
        ({"dtype": {"a": "int8"}}, "column 'a' .*, line 3: expected int8, got '300'"),
        ({"dtype": {"a": np.uint8}}, "column 'a' .*, line 3: expected uint8, got '300'"),
        ({"dtype": {"a": bool}}, "column 'a' .*: expected bool, got cannot"),
        (
            {"dtype": {"a": int}, "na_values": ["300"]},
            "'a' .*, line 3: expected int64, got '300', ",
        ),
        ({"na_values": {"c": ["?"]}}, "na_values: expected some of a, b, each once"),
        ({"parse_dates": ["c"]}, "parse_dates: expected some of a, b, each once"),
        ({"sep": ""}, "sep: expected a delimiter such as ',' .*, got ''"),
        ({"sep": None}, "sep: expected a delimiter"),
        ({"sep": "::"}, "sep: expected a delimiter that is in .*, got '::'"),
        ({"quotechar": "''"}, "quotechar: expected one character"),
        ({"quotechar": ","}, "quotechar: expected one character without another meaning, got ','"),
        ({"comment": "//"}, "comment: expected one character"),
        ({"comment": 3}, "comment: expected one character .*, got 3"),
        ({"decimal": 3}, "decimal: expected one character .*, got 3"),
        ({"decimal": None}, "decimal: expected one character, got None"),
        ({"comment": ","}, "comment: expected one character without another meaning, got ','"),
        ({"comment": '"'}, "comment: expected one character without another meaning"),
        ({"quoting": csv.QUOTE_NONNUMERIC}, "quoting: expected csv.QUOTE_MINIMAL or"),
        ({"decimal": "::"}, "decimal: expected one character .*, got '::'"),
        (
            {"quotechar": None},
            r"quotechar: expected one character, got None; pass quoting=csv\.QUOTE_NO",
        ),
        ({"comment": "§"}, "comment: expected one ASCII character, got '§'"),
        ({"quotechar": "“"}, "quotechar: expected one ASCII character, got '“'"),
        ({"thousands": "’"}, "thousands: expected one ASCII character, got '’'"),
        ({"decimal": "٫"}, "decimal: expected one ASCII character, got '٫'"),
        ({"sep": ",", "delimiter": ";"}, "sep, delimiter: expected one of them, got both"),
        ({"thousands": "."}, "thousands: expected one character without another meaning, got '.'"),
        ({"compression": 3}, "compression: expected one"),
        ({"encoding": 3}, "encoding: expected one"),
        ({"header": 3}, "header: expected 0 or None, got 3"),
        ({"names": ["x"]}, "expected 1 fields in .*, line 1, got 2"),
        ({"names": ["x", "y", "z"]}, "expected 3 fields in .*, line 1, got 2"),
        ({"names": ["x", "x"]}, "names: expected different names of all columns, got 'x' twice"),
        ({"encoding": "none"}, "encoding: expected one that fits"),
        ({"compression": "rar"}, "compression: expected one that unpacks .*, got .*rar"),
        ({"date_format": "%Y"}, "date_format: expected parse_dates with it, got only '%Y'"),
        (
            {"parse_dates": ["a"], "date_format": {"c": "%Y"}},
            "date_format: expected some of a, each once, got 'c'",
        ),
        ({"columns": ["a", "c"]}, "columns: expected some of a, b, each once, got 'c'"),
        ({"columns": ["a", "a"]}, "columns: expected some of a, b, each once, got 'a'"),
    ],
)
def test_options_that_do_not_fit(write, options, message):
    with pytest.raises(ValueError, match=f"{message}"):
        read_csv(write("a,b\n1,x\n300,y\n"), **options)


def test_mistakes_in_calls(write, tmp_path, monkeypatch):
    path = write("a,b\n1,2\n")
    wrong: Any = "a"
    with pytest.raises(TypeError, match="columns: expected a list of names, got 'a'"):
        read_csv(path, wrong)
    for name in ("seperator", "usecols", "dayfirst", "index_col"):
        with pytest.raises(TypeError, match=f"{name}: expected one of the options sep, "):
            options: Any = {name: 3}
            read_csv(path, **options)
    for dtype in ("category", "datetime64[ns]", complex, pandas.Int64Dtype()):
        with pytest.raises(TypeError, match="dtype: expected str, bool or NumPy dtypes"):
            read_csv(path, dtype=dtype)
    frame: Any = pandas.DataFrame({"a": [1]})
    with pytest.raises(TypeError, match=r"path: expected a path, got "):
        read_csv(frame)
    unfit: tuple[dict[str, Any], ...] = (
        {"header": None}, {"names": "ab"}, {"names": [1, 2]}, {"names": []}, {"parse_dates": "a"},
        {"skiprows": [1]}, {"dtype": {"a": "int9"}},
    )  # fmt: skip
    for options in unfit:
        with pytest.raises(TypeError, match=f"^{next(iter(options))}|names: expected"):
            read_csv(path, **options)
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pandas: pip install "seqjax\[tables\]"'):
        read_csv(path)


FIELDS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
    st.text("01e+-.,\"' \n\r;#NaA", max_size=5),
    st.sampled_from(["", "NA", "null", "True", "1E5", "007", "1,234", "?", "1234567890123456789"]),
    st.integers(-(2**65), 2**65).map(str),
    st.floats().map(repr),
)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_written_comes_back(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    width = data.draw(st.integers(1, 3))
    field = data.draw(
        st.sampled_from([FIELDS, st.integers(-99, 99).map(str), st.text("ab,\n", max_size=3)])
    )
    rows = data.draw(st.lists(st.lists(field, min_size=width, max_size=width), max_size=5))
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=ends).writerows([["n0", "n1", "n2"][:width], *rows])
    gaps = data.draw(st.sampled_from(["error", "nan"]))
    try:
        table = read_csv(path, gaps=gaps)
    except ValueError as error:
        assert str(error).startswith("path: ")
        table = {}
    for name, values in table.items():
        written = [row[int(name[1])] for row in rows]
        assert len(values) == len(rows)
        for text, value in zip(written, values.tolist(), strict=True):
            if isinstance(value, bool):
                assert text.lower() == str(value).lower()
            elif isinstance(value, str):
                assert text == value
            elif isinstance(value, int):
                assert int(text) == value
            elif np.isnan(value):
                assert text.strip("-+").lower() in ("", "na", "null", "nan")
            else:
                assert float(text) == value and (text.lower().strip("+-")[:3] == "inf") == np.isinf(
                    value
                )
    texts = read_csv(path, dtype=str)
    assert [list(row) for row in zip(*texts.values(), strict=True)] == rows


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(st.binary(max_size=60), st.text("ab,1\"\n\r \t#;NA.0", max_size=40).map(str.encode)),
    st.sampled_from([{}, {"comment": "#"}, {"sep": r"\s+"}, {"sep": "a,"},
                     {"skipinitialspace": True}, {"quoting": 3}, {"header": 0, "names": ["x"]}]),
)  # fmt: skip
def test_any_bytes_are_a_table_or_a_value_error(tmp_path_factory, data, options):
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(data)
    try:
        table = read_csv(path, gaps="nan", **options)
    except ValueError as error:
        assert str(error).startswith(("path: ", "sep: ", "compression: "))
    else:
        assert len({len(values) for values in table.values()}) == 1


GERMAN: dict[str, Any] = {"sep": ";", "thousands": ".", "decimal": ","}


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("01.02.2024", GERMAN), ("192.168.0.1", GERMAN), ("1.2.3", GERMAN), ("1.5", GERMAN),
        ("0.123", GERMAN), ("1.000.00", GERMAN), ("1,00,000", {"sep": ";", "thousands": ","}),
        ('"12,34"', {"thousands": ","}), ("1'2", {"thousands": "'"}), ("1 2", {"thousands": " "}),
    ],
)  # fmt: skip
def test_marks_of_thousands_elsewhere(write, field, options):
    """Pandas ignores such a mark wherever it is: a date becomes 1022024."""
    sep = options.get("sep", ",")
    path = write(f"y{sep}x\n7{sep}5\n8{sep}{field}\n")
    plain = field.strip('"')
    message = rf"column 'x' .*line 3: ambiguous, .*{plain}.* thousands=.*dtype=\{{'x': str\}}"
    with pytest.raises(ValueError, match=message):
        read_csv(path, **options)
    assert read_csv(path, dtype={"x": str}, **options)["x"].tolist() == ["5", plain]
    assert read_csv(path, ["y"], **options)["y"].tolist() == [7, 8]


def test_thousands(write):
    text = (
        "i;f;d;host\n1.234;-1.234.567,5;01.02.2024;10.0.0.7\n5;+12.345,;31.12.2024;local\nn.a.;;;\n"
    )
    dates: Any = {"parse_dates": ["d"], "date_format": "%d.%m.%Y"}
    table = read_csv(write(text), gaps="nan", na_values=["n.a."], **GERMAN, **dates)
    np.testing.assert_array_equal(table["i"], [1234, 5, np.nan])
    np.testing.assert_array_equal(table["f"], [-1234567.5, 12345, np.nan])
    np.testing.assert_array_equal(table["d"][:2], np.array(["2024-02-01", "2024-12-31"], "M8[s]"))
    assert table["host"].tolist() == ["10.0.0.7", "local", ""]
    large = '"9,007,199,254,740,993",1\n'
    with pytest.raises(ValueError, match=r"line 2: ambiguous, '9,007.*' .* float64 cannot hold"):
        read_csv(write(f"a,b\n{large},2\n"), thousands=",", gaps="nan")
    assert read_csv(write(f"a,b\n{large}"), thousands=",")["a"].tolist() == [2**53 + 1]


def test_points_where_a_comma_is_asked_for(write):
    path = write("a;b\n1.5;x\n12345;y\n")
    message = r"line 2: ambiguous, '1\.5' does not fit decimal=','; pass decimal='\.' or dtype="
    with pytest.raises(ValueError, match=message):
        read_csv(path, sep=";", decimal=",")
    assert read_csv(path, sep=";")["a"].tolist() == [1.5, 12345]


@pytest.mark.parametrize("fields", ["True\nFalse", "1\n0"])
def test_bools_asked_for(write, fields):
    table = read_csv(write(f"a\n{fields}\n"), dtype={"a": bool})
    assert table["a"].dtype == bool and table["a"].tolist() == [True, False]


def test_pieces_of_other_integers(write):
    """Large files are read in pieces, one of which has an integer that only uint64 can hold."""
    numbers = np.arange(600_000, dtype=np.uint64) + 10**12
    numbers[300_000] = 2**64 - 1
    text = "a\n" + "\n".join(map(str, numbers.tolist()))
    for path in (write(text), write(gzip.compress(text.encode(), 1), "table.csv.gz")):
        found = read_csv(path)["a"]
        assert found.dtype == np.uint64
        np.testing.assert_array_equal(found, numbers)


@pytest.mark.filterwarnings("error")
def test_files_are_closed(write):
    path = write("a,b\n1,x\n2,y\n")
    read_csv(path)
    read_csv(path, dtype=str)
    read_csv(write(gzip.compress(b"a,b\n1,x\n"), "table.csv.gz"))
    for text in ("a\n1\n?\n3\n", "a,b\n1\n"):
        with pytest.raises(ValueError, match="path: "):
            read_csv(write(text))
    gc.collect()
