"""Tables of text: what is certain is read, and what can't be a table is told with its line."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plateflow.text import TextError, decode, rows, table

TEXT = "well,role\nB02,Größe µ\n"
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("windows", [True, False])
def test_a_certain_encoding_is_read(encoding: str, windows: bool) -> None:
    assert decode(TEXT.encode(encoding), windows=windows) == TEXT


def test_windows_encoding_is_read_where_that_is_allowed_and_else_named_with_its_line() -> None:
    content = TEXT.encode("cp1252")
    assert decode(content) == TEXT
    with pytest.raises(
        TextError, match=r"not UTF-8, but probably Windows' encoding \(cp1252\): line 2.* 0xf6"
    ) as error:
        decode(content, windows=False)
    assert "UTF-8" in error.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n\x81\xff\x8d\n", "neither UTF-8 nor Windows.*line 2"),
        (b"a,b\nc\0,d\n", "line 2 holds a NUL"),
        (b"\xff\xfea\0b", "begins as UTF-16, but"),
        (b"\xef\xbb\xbfa\xff", "begins as UTF-8, but"),
        (b"\0", "UTF-16"),
    ],
)
def test_what_is_no_text_is_told(content: bytes, words: str) -> None:
    with pytest.raises(TextError, match=words):
        decode(content)


@given(st.binary(max_size=40))
def test_bytes_are_text_or_one_error(content: bytes) -> None:
    try:
        text = decode(content)
    except TextError as error:
        assert error.remedy
    else:
        text.encode()


@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
@example([["well", "Dose\n(µM)", "note"], ["A01", "1", 'two\nlines, "one" of them'], ["A02", "", ""]])
def test_what_a_program_writes_comes_back(written: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(written)
    expected = [row for row in written if any(cell.strip() for cell in row)]
    try:
        assert [row for _, row in rows(text.getvalue(), ",")] == expected
    except TextError:  # a cell with lines that could be rows, or a first row of several lines and no other
        assert any("\n" in cell and "," in cell for row in written for cell in row) or len(expected) == 1


@given(st.integers(0, 200), st.sampled_from([(",", 3), (";", 2), ("\t", 5)]))
def test_no_stray_quote_swallows_a_row(place: int, shape: tuple[str, int]) -> None:
    delimiter, columns = shape
    text = "".join(delimiter.join(f"c{row}{column}" for column in range(columns)) + "\n" for row in range(8))
    place %= len(text) + 1
    try:
        found = [row for _, row in rows(text[:place] + '"' + text[place:], delimiter)]
    except TextError as error:
        assert f"line {text[:place].count(chr(10)) + 1}" in str(error)
    else:
        assert len(found) == 8
        assert all(cell.replace('"', "")[1] == str(n) for n, row in enumerate(found) for cell in row)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(2, 5))
@example(43, 197, 3)  # a quote before the last cell of a row, and one behind the first cell of the next
def test_nor_do_two(first: int, second: int, columns: int) -> None:
    text = "".join(",".join(f"c{row}{column}" for column in range(columns)) + "\n" for row in range(8))
    for place in sorted((first % len(text), second % len(text)), reverse=True):
        text = text[:place] + '"' + text[place:]
    try:
        found = [row for _, row in rows(text, ",")]
    except TextError:
        return
    assert len(found) == 8


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    text = 'a,b\r\n\r\n1,"two\r\nlines"\r\n ,\r\n3,4\r\n'
    assert list(table(text, ",")) == [(3, {"a": "1", "b": "two\r\nlines"}), (6, {"a": "3", "b": "4"})]


@pytest.mark.parametrize(
    ("text", "short", "words"),
    [
        ("a,b\n1,2\n1,2,3\n", True, "line 3 has 3 cells, and the table 2 columns"),
        ("a,b\n1\n", False, "line 2 has 1 cells, and the table 2 columns"),
        ("a,a\n1,2\n", False, "the column 'a' occurs twice"),
        ('a,b\n1,"2\n3,4\n', False, "a quoted cell of line 2 reaches to line 3"),
        ('a,b\n1,"2" x\n', False, "a quoted cell of line 2 is not"),
    ],
)
def test_a_table_that_is_damaged(text: str, short: bool, words: str) -> None:
    with pytest.raises(TextError, match=words) as error:
        list(table(text, ",", short=short))
    assert error.value.remedy


def test_empty_cells_may_be_too_many_or_too_few() -> None:
    assert list(table("a,b\n1,2,,\n3\n", ",", short=True)) == [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": ""})]
