"""Read a table that is text: in any encoding, with any mark between its cells, below comments, with decimal commas."""

import codecs
import collections
from collections.abc import Sequence
import csv
import dataclasses
import io
import re
from typing import TYPE_CHECKING

from analysis.grid import numerals
from analysis.grid.opening import first_line
from experiments.cli import InputError

if TYPE_CHECKING:  # imported where it is used: --help stays instant
    import pandas as pd

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DELIMITERS = (",", ";", "\t", "|")
SPACES = " "  # stands for any number of spaces and tabs
NAMED = {"tab": "\t", "\\t": "\t", "space": SPACES, "semicolon": ";", "comma": ",", "pipe": "|"}
SAMPLE = 200  # lines that the delimiter is found from
ENOUGH = 0.9  # of these lines have as many cells as the header, where the delimiter is right
RULE = re.compile(r"[\s|:+-]*-[\s|:+-]*")  # the line below the header of a table in Markdown


@dataclasses.dataclass(frozen=True)
class Reading:
    """Say how a file is to be read; what is None is found from the file.

    delimiter: the mark between cells. decimal: a point or a comma. encoding: by Python's name, such as utf-8 or cp1252.
    """

    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        if self.decimal not in (None, ".", ","):
            raise InputError(f"--decimal: {self.decimal!r} is not a decimal mark; expected . or ,")
        if self.delimiter is not None and len(self.mark or "") != 1:
            names = ", ".join(name for name in NAMED if name.isalpha())
            raise InputError(f"--delimiter: {self.delimiter!r} is not one character; expected for example ; or {names}")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise InputError(
                    f"--encoding: {self.encoding!r} is not an encoding; expected for example utf-8, utf-16, cp1252"
                ) from None

    @property
    def mark(self) -> str | None:
        """The character between cells that `delimiter` means."""
        return NAMED.get(self.delimiter, self.delimiter) if self.delimiter else None


@dataclasses.dataclass(frozen=True)
class Table:
    """Hold a table as it was read: its header as it stands in the file, and what a reader should know of the reading."""

    frame: "pd.DataFrame"
    header: list[str]
    notes: tuple[str, ...] = ()


def decode(data: bytes, encoding: str | None) -> tuple[str, list[str]]:
    """Return the text of a file, and a note where its encoding was guessed. Raises ValueError where it is no text."""
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), []
        except UnicodeError as error:
            raise ValueError(f"it is not text in {encoding}: {first_line(error)}; --encoding names another") from None
    by_mark = next((name for mark, name in MARKS.items() if data.startswith(mark)), None)
    chosen = by_mark or _by_zeros(data)
    try:
        return data.decode(chosen or "utf-8").removeprefix("\ufeff"), []
    except UnicodeError as error:
        if chosen is not None:
            raise ValueError(f"it begins as {chosen} and is not: {first_line(error)}") from None
    try:
        text = data.decode("cp1252")
        chosen = "cp1252"
    except UnicodeError:
        text = data.decode("latin-1")
        chosen = "latin-1"
    return text, [f"the file is not UTF-8; it was read as {chosen}, and --encoding names another"]


def _by_zeros(data: bytes) -> str | None:
    """Return the kind of UTF-16 without a mark, whose every other byte is zero in Latin text. ValueError for a binary."""
    sample = data[:4096]
    if b"\0" not in sample:
        return None
    even = sample[::2].count(0)
    odd = sample[1::2].count(0)
    half = len(sample) / 2
    if odd > 0.7 * half and even < 0.1 * half:
        return "utf-16-le"
    if even > 0.7 * half and odd < 0.1 * half:
        return "utf-16-be"
    raise ValueError("it holds zero bytes: a binary file, or text in another encoding, which --encoding names")


def read(text: str, reading: Reading) -> Table:
    """Read the table in a text. Raises ValueError with what it looks like where that cannot be done."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [line for line in lines if line.strip()]
    delimiter = reading.mark
    if lines and re.fullmatch(r'"?sep=(.)"?', lines[0]):  # how Excel is told the delimiter
        delimiter = delimiter or lines[0].strip('"')[-1]
        lines = lines[1:]
    plain = [line for line in lines if not _is_comment(line)] or lines
    delimiter = delimiter or find_delimiter(plain[:SAMPLE])
    lines, notes = _without_comments(lines, plain, delimiter)
    if not lines:
        raise ValueError("it has no rows; expected a header and at least one row")
    header = split(lines[0], delimiter)
    _check_width(lines, header, delimiter)
    if delimiter == "|":
        lines = [line.strip().strip("|") for line in lines if not RULE.fullmatch(line)]
        header = split(lines[0], delimiter)
    frame = _frame(lines, delimiter, as_text=False)
    decimal, more = find_decimal(frame, delimiter, reading.decimal)
    if decimal == ",":
        frame = with_decimal_commas(_frame(lines, delimiter, as_text=True))
    frame.attrs["decimal"] = decimal
    return Table(frame, header, (*notes, *more))


def split(line: str, delimiter: str) -> list[str]:
    """Return the cells of a line."""
    if delimiter == SPACES:
        return line.split()
    cells = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [cell.strip() for cell in cells]


def find_delimiter(lines: Sequence[str]) -> str:
    """Return the mark that cuts the header into cells and most rows into as many; a comma where none does."""
    best = ","
    best_score = (0.0, 1)
    for delimiter in (*DELIMITERS, SPACES):
        widths = [len(split(line, delimiter)) for line in lines]
        if max(widths, default=0) < 2:
            continue
        score = (_agreement(widths), max(widths))
        if delimiter == SPACES and (best_score[0] >= ENOUGH or score[0] < ENOUGH):
            continue  # names of columns have spaces
        if score > best_score:
            best = delimiter
            best_score = score
    return best


def _agreement(widths: Sequence[int]) -> float:
    """Return the share of rows that have the usual number of cells; half of it where the header does not fit them."""
    header, *rows = widths
    if not rows:
        return 1.0
    usual, count = collections.Counter(rows).most_common(1)[0]
    share = count / len(rows)
    names_rows = usual == header + 1 and header > 1  # R writes the names of rows without a header
    if usual < 2:
        return 0.0
    return share if usual == header or names_rows else share / 2


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _without_comments(lines: list[str], plain: list[str], delimiter: str) -> tuple[list[str], list[str]]:
    """Return the lines of the table, and a note on how many comments were skipped.

    A line that begins with # is the header where it has as many cells as the rows and what follows is no header.
    """
    if len(plain) == len(lines):
        return lines, []
    first_plain = lines.index(plain[0])
    above = lines[:first_plain]
    header: list[str] = []
    if above and _has_number(split(plain[0], delimiter)):
        named = re.sub(r"^\s*#\s+", "", above[-1])
        if len(split(named, delimiter)) == len(split(plain[0], delimiter)):
            header = [named]
    kept = [*header, *plain]
    skipped = len(lines) - len(kept)
    return kept, [f"{skipped} lines that begin with # were skipped"] if skipped else []


def _has_number(cells: Sequence[str]) -> bool:
    return any(map(numerals.is_number, cells))


def _check_width(lines: Sequence[str], header: Sequence[str], delimiter: str) -> None:
    """Raise ValueError for a line with more cells than the header, or a table below lines of text."""
    if delimiter == "|":
        return
    told = {"\t": "tabs", SPACES: "spaces"}.get(delimiter, repr(delimiter))
    widths = [len(split(line, delimiter)) for line in lines[1:SAMPLE]]
    names_rows = bool(widths) and set(widths) == {len(header) + 1}  # the first cell is the name of the row
    for line, width in zip(lines[1:], widths, strict=False):
        is_trailing = not split(line, delimiter)[-1]
        if width > len(header) and not names_rows and not is_trailing:
            raise ValueError(
                f"its header {shorten(lines[0])!r} has {len(header)} cells between {told}, and {shorten(line)!r} has "
                f"{width}; put numbers with such a mark in quotes, begin lines above the header with #, "
                "or name the mark with --delimiter"
            )


def shorten(line: str) -> str:
    """Return the beginning of a line, for a message."""
    return line if len(line) <= 60 else f"{line[:57]}..."


def _frame(lines: Sequence[str], delimiter: str, as_text: bool) -> "pd.DataFrame":
    """Read lines with pandas, all cells as text or as what they look like."""
    import pandas as pd

    width = len(split(lines[0], delimiter))
    trailing = all(len(split(line, delimiter)) == width + 1 and not split(line, delimiter)[-1] for line in lines[1:50])
    if trailing and len(lines) > 1:  # a mark at the end of each row, which pandas takes for one more column
        lines = [lines[0] + delimiter, *lines[1:]]
    frame = pd.read_csv(
        io.StringIO("\n".join(lines)),
        sep=r"\s+" if delimiter == SPACES else delimiter,
        skipinitialspace=True,
        dtype=str if as_text else None,
    )
    frame.columns = [str(name).strip() for name in frame.columns]
    for at in range(frame.shape[1]):
        column = frame.iloc[:, at]
        if isinstance(column.dtype, pd.StringDtype):
            frame.isetitem(at, column.str.strip())
    return frame


def find_decimal(frame: "pd.DataFrame", delimiter: str, given: str | None) -> tuple[str, list[str]]:
    """Return the decimal mark of the texts that can be read in two ways, and a note where that is a guess."""
    if given is not None:
        return given, []
    columns = [frame.iloc[:, at] for at in range(frame.shape[1])]
    known: set[str] = set()
    unclear: list[str] = []
    for column in columns:
        known |= numerals.marks_of(column)
        if numerals.is_text(column) and numerals.holds_numbers(column):
            unclear += [text for text in numerals.texts(column) if numerals.is_unclear(text)]
    if "," in known and "." not in known:
        return ",", []
    if not unclear or known:
        return ".", []
    with_commas = [text for text in unclear if "," in text]
    if not with_commas:
        return ".", []
    decimal = "," if delimiter == ";" else "."
    text = with_commas[0]
    value = numerals.number(text, decimal)
    other = "." if decimal == "," else ","
    return decimal, [f"{text} was read as {value:g}; --decimal={other} reads it as {numerals.number(text, other):g}"]


def with_decimal_commas(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Turn every column of texts whose cells are all numbers with decimal commas to floats."""
    import pandas as pd

    columns = []
    for at in range(frame.shape[1]):
        column = frame.iloc[:, at]
        if numerals.holds_numbers(column) and not any(map(_has_unit, numerals.texts(column))):
            column = pd.Series(numerals.numbers(column, ","), index=column.index, name=column.name)
        columns.append(column)
    return pd.concat(columns, axis=1)


def _has_unit(text: str) -> bool:
    """Say whether a text is a number and a unit, as names of models are: 7B."""
    return text.strip()[-1:].isalpha()
