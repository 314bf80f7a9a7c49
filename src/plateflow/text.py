"""Text that people and instruments write: decoded where its encoding is certain, and cut into the rows of a table.

The plate sheet, plate maps and vendors' tables are read here, so that the same damage is told in the same words, with
its line.
"""

import codecs
import csv
import io
from collections.abc import Iterator

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WINDOWS = "Windows' encoding (cp1252)"
FURTHER = "it holds what looks like further rows"
SAVE = "save it as UTF-8: in Excel as CSV UTF-8, else by `iconv -f cp1252 -t utf-8`"


class TextError(ValueError):
    """Text that isn't what it should be: the message says why, and in which line, `remedy` what the user can do."""

    def __init__(self, why: str, *, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(why)


def encoding_of(content: bytes) -> str | None:
    """The encoding that a byte order mark gives, or the zeros that UTF-16 puts beside ASCII; None without either."""
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return encoding
    even, odd = content[::2], content[1::2]
    for zeros, others, encoding in ((even, odd, "utf-16-be"), (odd, even, "utf-16-le")):
        if 2 * zeros.count(0) > len(zeros) and not others.count(0):
            return encoding
    return None


def decode(content: bytes, *, windows: bool = True) -> str:
    """Decode text: by its byte order mark, or as UTF-16 or UTF-8 where it is valid, else as Excel writes it.

    Raises:
        TextError: it is in another encoding (without `windows`, Windows-1252 is one), or no text.
    """
    known = encoding_of(content)
    for encoding in [known] if known else ["utf-8", "cp1252"] if windows else ["utf-8"]:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text
    raise TextError(_why_not(content, known, windows), remedy=SAVE)


def _why_not(content: bytes, known: str | None, windows: bool) -> str:
    """Why some bytes could not be decoded."""
    if known:
        return f"it begins as {known.removesuffix('-sig').upper()}, but holds what is none"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        other = f"it is neither UTF-8 nor {WINDOWS}" if windows else f"it is not UTF-8, but probably {WINDOWS}"
        return f"{other}: line {line} holds the byte 0x{content[error.start]:02x}"
    return f"line {content[: content.index(0)].count(10) + 1} holds a NUL: it is no text"


def rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Cut a table into its rows, each with the number of the line in which it begins; empty ones are left out.

    Raises:
        TextError: a quote is closed nowhere or in a later row, or stands where none can.
    """
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header: tuple[int, int, int] | None = None  # where a first row of several lines begins and ends, and its cells
    width = 0  # of the widest row so far, but for such a first row
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _stray_quote(first, reader.line_num, str(error)) from error
        # A cell may have several lines, but a line of it that could be a row is one.
        broken = [cell for cell in row if "\n" in cell or "\r" in cell]
        full = max(1, (width or len(row)) - 1)
        odd = any(delimiter in cell for cell in broken) or (broken and len(row) > width > 0)
        if odd and any(line.count(delimiter) >= full for line in lines[first : reader.line_num]):
            raise _stray_quote(first, reader.line_num, FURTHER)
        if any(cell.strip() for cell in row):
            yield first, row
            if broken and not width and header is None:
                header = first, reader.line_num, len(row)
            else:
                width = max(width, len(row))
    if header is not None and width < header[2]:  # as all other rows are shorter, it is several rows itself
        raise _stray_quote(*header[:2], FURTHER)


def _stray_quote(first: int, last: int, why: str) -> TextError:
    reach = f" reaches to line {last}" if last > first else " is not as it should be"
    remedy = f"remove the quote in line {first}, or double it where it belongs to the text"
    return TextError(f"a quoted cell of line {first}{reach}: {why}", remedy=remedy)


def table(text: str, delimiter: str, *, short: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table whose first row names its columns.

    Args:
        delimiter: one character.
        short: whether rows may end early, as Excel leaves out delimiters at the end and people do; their last cells are
            empty then.

    Yields:
        the number of the line in which a row begins, and its cells by column.

    Raises:
        TextError: as `rows`; or a row has another number of cells than there are columns, or two columns one name.
    """
    names: list[str] | None = None
    for number, row in rows(text, delimiter):
        if names is None:
            names = row
            if doubled := sorted({name for name in names if name and names.count(name) > 1}):
                raise TextError(f"the column {doubled[0]!r} occurs twice", remedy="rename or remove one of them")
            continue
        if len(row) > len(names) and any(cell.strip() for cell in row[len(names) :]):
            remedy = "fix the line: a value that holds the delimiter must stand in double quotes"
            raise TextError(f"line {number} has {len(row)} cells, and the table {len(names)} columns", remedy=remedy)
        if len(row) < len(names) and not short:
            remedy = "copy the table again, as it may have been cut; or fix the line"
            raise TextError(f"line {number} has {len(row)} cells, and the table {len(names)} columns", remedy=remedy)
        yield number, dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=False))
