"""Tables as text, separated by tabs or commas, with quotation marks.

The grammar of a table is that of RFC 4180 with tabs or commas, read strictly: a cell that begins with a quotation mark
ends with one, marks inside it are doubled, and anything else is an error. A mark that is not closed, or is closed
some rows later, would otherwise absorb the rows in between.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpuvox.errors import FileError
from gpuvox.files.text import END, Name


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a table: its line in the file, its cells, and whether all of them are quoted."""

    line: int
    cells: list[str]
    quoted: bool = False


@dataclass(frozen=True, eq=False)
class Table:
    """A table as text.

    Attributes
    ----------
    first : str
        The header line.
    header : Row
        Names, without surrounding blanks.
    rows : list of Row
        Without blank lines and comments.
    """

    first: str
    header: Row
    rows: list[Row]

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return self.header.cells


def parse_table(path: Name, text: str) -> Table | None:
    """The cells of a table whose first row holds the names, separated by tabs if that row has one, otherwise by commas.

    Blank lines, and lines that start with ``#`` and do not have a cell for every column, are skipped.

    Returns
    -------
    Table, or None if there are only blank lines and comments
        Rows may differ in their number of cells; see `check_rows`.

    Raises
    ------
    FileError
        A quotation mark is not closed, or is closed before the end of a cell; quotation marks enclose rows; a line may
        be either a row or a comment.
    """
    lines = END.split(text)
    filled = (
        i for i, line in enumerate(lines) if line.strip().strip(" \t,") and not line.lstrip().startswith("#")
    )
    start = next(filled, None)
    if start is None:
        return None
    first = lines[start]
    separator = _separator(path, "\n".join(lines[start:]) if '"' in first else first)
    rows = _Scanner(path, text, separator).rows()
    filled_rows = [
        row for row in rows if row.line > start and (row.quoted or any(cell.strip() for cell in row.cells))
    ]
    if not filled_rows:
        return None
    header, body = filled_rows[0], filled_rows[1:]
    names = [cell.strip() for cell in header.cells]
    for i, line in enumerate(lines[:start], start=1):
        if line.lstrip().startswith("#") and line.count(separator) + 1 == len(names) > 1:
            raise FileError(
                f"{os.fspath(path)}, line {i}, begins with '#' and has {len(names)} fields, as the row after it: "
                "if it is the header, remove the '#', otherwise the line"
            )
    body = [row for row in body if not _is_comment(path, row, len(names))]
    return Table(first, Row(header.line, names, header.quoted), _without_blank_columns(names, body))


def _separator(path: Name, text: str) -> str:
    """The separator of the first row: a tab if there is one outside quotation marks, otherwise a comma."""
    counts, wrong = {}, set()
    for separator in "\t,;":
        try:
            counts[separator] = len(_Scanner(path, text, separator).first())
        except FileError:
            counts[separator] = 1 + END.split(text, maxsplit=1)[0].count(separator)
            wrong.add(separator)
    no_commas = "," in wrong or counts[","] == 1
    if counts["\t"] > 1 and ("\t" not in wrong or no_commas):
        return "\t"
    if counts[";"] > counts[","] and (";" not in wrong or no_commas):
        raise FileError(f"{os.fspath(path)} is separated by semicolons; tabs or commas are expected")
    return ","


def _is_comment(path: Name, row: Row, columns: int) -> bool:
    if row.quoted or not row.cells[0].lstrip().startswith("#"):
        return False
    if len(row.cells) == columns:
        raise FileError(
            f"{os.fspath(path)}, line {row.line}, begins with '#' and has a cell for every column, so it may be a "
            "row or a comment: remove the '#', or the line"
        )
    return True


def _without_blank_columns(names: list[str], rows: list[Row]) -> list[Row]:
    """Rows without the columns that have neither a name nor cells, caused by separators at the ends of lines."""
    n = len(names)
    while (
        n
        and not names[n - 1]
        and all(len(row.cells) == len(names) and not row.cells[n - 1].strip() for row in rows)
    ):
        n -= 1
    if not n or n == len(names):
        return rows
    rows = [Row(row.line, row.cells[:n], row.quoted) for row in rows]
    del names[n:]
    return rows


def check_rows(path: Name, table: Table) -> None:
    """Raise `FileError` unless every row has a cell for each column, and none repeats the header."""
    names = table.names
    for i, row in enumerate(table.rows, start=1):
        if len(row.cells) != len(names):
            raise FileError(
                f"{os.fspath(path)}: row {i} ({row.cells[0].strip()}) has {len(row.cells)} fields, "
                f"the header {len(names)}"
            )
        if row.cells[0].strip() == names[0] and not row.quoted and [cell.strip() for cell in row.cells] == names:
            raise FileError(
                f"{os.fspath(path)}, line {row.line}, repeats the header, which may occur only once, as the first row"
            )


def check_names(path: Name, table: Table) -> None:
    """Raise `FileError` for a duplicate name."""
    twice = next((name for name, count in Counter(table.names).items() if count > 1), None)
    if twice is not None:
        raise FileError(f"{os.fspath(path)} has two columns named {twice!r}")


class _Scanner:
    """The rows of a text, one after the other, in time linear in its length."""

    def __init__(self, path: Name, text: str, separator: str) -> None:
        self.path, self.text, self.separator = os.fspath(path), text, separator
        self.bare = re.compile(f"[{separator}\r\n]")
        self.names: list[str] = []
        self.trusted = False

    def rows(self) -> Iterator[Row]:
        position, line, text = 0, 1, self.text
        while position < len(text):
            end = END.search(text, position)
            stop, after = (end.start(), end.end()) if end else (len(text), len(text))
            raw = text[position:stop]
            if '"' not in raw or raw.lstrip().startswith("#"):
                row = Row(line, [cell.lstrip(" ") for cell in raw.split(self.separator)])
                line += 1
            else:
                row, stop = self._row(position, line)
                end = END.match(text, stop)
                after = end.end() if end else stop
                line = self._checked(row, text[position:stop])
            if not self.names and raw.strip() and not raw.lstrip().startswith("#"):
                self.names, self.trusted = row.cells, row.quoted
            yield row
            position = after

    def first(self) -> list[str]:
        """The cells of the first row."""
        return next(self.rows()).cells

    def _row(self, position: int, line: int) -> tuple[Row, int]:
        """A row with quotation marks, and the position of its end."""
        cells: list[str] = []
        quoted = True
        while True:
            cell, is_quoted, position = self._cell(position, line, cells)
            cells.append(cell)
            quoted = quoted and is_quoted
            if self.text[position : position + 1] != self.separator:
                return Row(line, cells, quoted), position
            position += 1

    def _cell(self, position: int, line: int, before: Sequence[str]) -> tuple[str, bool, int]:
        text = self.text
        while text[position : position + 1] == " ":
            position += 1
        if text[position : position + 1] != '"':
            match = self.bare.search(text, position)
            end = match.start() if match else len(text)
            return text[position:end], False, end
        cell, end = self._within_marks(position + 1, line, before)
        while text[end : end + 1] == " ":
            end += 1
        if end < len(text) and not self.bare.match(text, end):
            rest = text[end : end + 20].split(self.separator)[0].splitlines()[0]
            raise FileError(
                f"{self._where(line, before)}: {rest!r} follows a quotation mark that closes a cell; "
                "marks within a cell must be doubled, and the cell must be quoted"
            )
        return cell, True, end

    def _within_marks(self, start: int, line: int, before: Sequence[str]) -> tuple[str, int]:
        pieces: list[str] = []
        position = start
        while True:
            end = self.text.find('"', position)
            if end < 0:
                begin = END.split(self.text[start : start + 40])[0]
                raise FileError(f"{self._where(line, before)}: the quotation mark before {begin!r} is not closed")
            if self.text[end + 1 : end + 2] != '"':
                return "".join([*pieces, self.text[position:end]]), end + 1
            pieces.append(self.text[position : end + 1])
            position = end + 2

    def _where(self, line: int, before: Sequence[str]) -> str:
        column = f", column {self.names[len(before)]!r}" if len(before) < len(self.names) else ""
        row = f" ({before[0].strip()})" if before and before[0].strip() else ""
        return f"{self.path}, line {line}{row}{column}"

    def _checked(self, row: Row, raw: str) -> int:
        """The number of the line after a row; `FileError` if its quotation marks seem to enclose rows.

        If every line would be a row by itself, the marks enclose rows and not a cell of several lines, unless
        everything is quoted.
        """
        lines = [line for line in END.split(raw) if line.strip()]
        if len(lines) > 1 and not (row.quoted and (self.trusted or not self.names)):
            columns = len(self.names) or len(row.cells)
            if all(line.count(self.separator) + 1 == columns for line in lines):
                i = next(i for i, cell in enumerate(row.cells) if END.search(cell))
                begin = END.split(row.cells[i])[0]
                raise FileError(
                    f"{self._where(row.line, row.cells[:i])}: the quotation mark before {begin[:40]!r} is closed in "
                    f"line {row.line + len(END.findall(raw))}, and the lines between are rows; remove the mark, or "
                    "close it in its cell"
                )
        return row.line + 1 + len(END.findall(raw))


def format_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The text of a table, separated by tabs, from which `parse_table` restores the same cells.

    A row is in quotation marks, all of it, where a cell needs them; so is the header if any cell has a line
    break. Where no cell has a tab, a line break, a quotation mark or blanks around it, nothing is in marks.
    """
    listed = [list(row) for row in rows]
    breaks = any(END.search(cell) for row in listed for cell in row)
    strange = any(";" in name or name.startswith("\ufeff") for name in names)
    lines = [_line(names, breaks or strange)]
    lines += [_line(row, row == list(names)) for row in listed]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], marks: bool) -> str:
    alone = len(cells) == 1
    special = cells[0].startswith("#") or not any(cell.strip() for cell in cells)
    if marks or special or any(_needs_marks(cell, alone) for cell in cells):
        return "\t".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    return "\t".join(cells)


def _needs_marks(cell: str, alone: bool) -> bool:
    # A table of one column has no tab to show that commas are not its separators.
    return cell != cell.strip() or any(mark in cell for mark in '"\t\r\n') or (alone and "," in cell)
