"""Matrices of numbers: FSL's VEST format, and tables with a row of names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.errors import FileError
from gpuvox.files.contents import read_bytes
from gpuvox.files.delimited import Row, Table, parse_table
from gpuvox.files.text import NUMBER, Name, as_number, decode_text, finite_row, lines_of
from gpuvox.files.writing import write_text

# Columns of a table of numbers that identify participants, or name rows.
ID_COLUMNS = ("participant_id", "participant", "subject_id", "subject", "id")
NAME_COLUMNS = ("", "contrast", "contrasts", "contrast_name", "name", "test", "f_test")
PARTICIPANT, CONTRAST = "/Participant", "/ContrastName"
"""Keys of names of rows in the header of a VEST file, before the number of the row."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix from a file.

    Attributes
    ----------
    values : (rows, columns) float64
        Finite.
    row_names : tuple of str
        `/ContrastName1` … or `/Participant1` … of a VEST file, with "" for missing names of contrasts; the column of
        names of a table (`participant_id`, `contrast`, or the first if it has no name, as pandas writes an index);
        empty if there are no names.
    column_names : tuple of str
        The header row of a table, without the column of names; empty for a VEST file.
    """

    values: NDArray[np.float64]
    row_names: tuple[str, ...] = ()
    column_names: tuple[str, ...] = ()


def read_matrix(path: Name) -> NDArray[np.float64]:
    """Read a design, contrasts, F-tests or groups: `read_named_matrix` without the names."""
    return read_named_matrix(path).values


def read_named_matrix(path: Name) -> Matrix:
    """Read a matrix from a VEST file or a table; the content decides which it is.

    Parameters
    ----------
    path : path
        A VEST file has a line `/Matrix`, or starts with `/`: `/NumWaves` columns, `/NumPoints` or `/NumContrasts` rows,
        other lines of its header are ignored; a row may go over several lines, and a line may hold several rows, as
        long as the lines are alike. Anything else is a table: a first row of names, then rows of numbers, separated by
        tabs if the first row has one, by commas otherwise. Numbers without names are not accepted.

    Returns
    -------
    Matrix

    Raises
    ------
    FileError
        Missing, empty or not text. A VEST file without `/Matrix` or counts, or with counts that the matrix does not
        have; a table without names, with a name missing or used twice, or rows of another length. An entry that is not
        a finite number.
    """
    path = Path(path)
    return _parse_named(path, decode_text(path, read_bytes(path)))


def _parse_named(path: Path, text: str) -> Matrix:
    lines = lines_of(text)
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise FileError(f"{path} is empty; a VEST matrix, or a table with a header row, is expected")
    is_vest = first.lstrip().startswith("/") or any(line.split(maxsplit=1)[:1] == ["/Matrix"] for line in lines)
    return _parse_vest(path, lines) if is_vest else _parse_table(path, text)


def read_numbers(path: Name) -> Matrix:
    """Read a matrix of numbers, with or without names.

    Parameters
    ----------
    path : path
        Rows of numbers without names, separated by commas, tabs or blanks; or what `read_named_matrix` reads.

    Raises
    ------
    FileError
        As for `read_named_matrix`; rows of numbers that differ in length, or an entry that is not a finite number.
    """
    path, text = Path(path), decode_text(path, read_bytes(path))
    numbered = [(i, line) for i, line in enumerate(lines_of(text), 1) if line.strip()]
    if not numbered:
        raise FileError(f"{path} is empty; a matrix of numbers is expected")
    first = _fields(numbered[0][1])
    if not all(NUMBER.fullmatch(field) or field.lower() == "nan" for field in first):
        return _parse_named(path, text)
    rows = [finite_row(path, i, _fields(line), len(first), "the first row") for i, line in numbered]
    return Matrix(np.array(rows))


def _fields(line: str) -> list[str]:
    """The cells of a row of numbers; a separator at its end is none."""
    separator = next((mark for mark in ",;\t" if mark in line), None)
    fields = [field.strip() for field in line.strip().split(separator)]
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def write_vest(path: Name, matrix: ArrayLike, kind: str = "mat", *, names: Sequence[str] = ()) -> None:
    """Write FSL's VEST format, with all digits, so that reading returns the same numbers.

    Parameters
    ----------
    path : path
    matrix : (rows, columns) or (rows,)
    kind : {"mat", "con", "fts", "grp"}
        Rows are points ("mat", "grp") or contrasts ("con", "fts").
    names : sequence of str, optional
        Names of the rows: of participants, or of contrasts. They are lines of the header, ``/Participant1`` in the
        manner of the ``/ContrastName1`` that FSL's own programs write.
    """
    if kind not in ("mat", "con", "fts", "grp"):
        raise ValueError(f"kind is {kind!r}; it must be 'mat', 'con', 'fts' or 'grp'")
    values = np.asarray(matrix, dtype=np.float64)
    values = values.reshape(len(values), -1)
    rows, columns = values.shape
    of_points = kind in ("mat", "grp")
    key = PARTICIPANT if of_points else CONTRAST
    lines = [f"{key}{i}\t{' '.join(name.split())}" for i, name in enumerate(names, start=1)]
    lines += [f"/NumWaves {columns}", f"/Num{'Points' if of_points else 'Contrasts'} {rows}"]
    lines += ["", "/Matrix"]
    lines += [" ".join(repr(value).removesuffix(".0") for value in row) for row in values.tolist()]
    write_text(path, "\n".join(lines) + "\n")


def _parse_vest(path: Path, lines: Sequence[str]) -> Matrix:
    start = next((i for i, line in enumerate(lines) if line.split(maxsplit=1)[:1] == ["/Matrix"]), None)
    if start is None:
        raise FileError(f"{path} has no /Matrix; a VEST file is expected")
    header = [line.strip().split(maxsplit=1) for line in lines[:start] if line.lstrip().startswith("/")]
    keys = {key: value[0] if value else "" for key, *value in header}
    columns = _count(path, keys, "/NumWaves")
    rows_key = "/NumPoints" if "/NumPoints" in keys else "/NumContrasts"
    rows = _count(path, keys, rows_key)
    numbered = [(i, line.split()) for i, line in enumerate(lines[start + 1 :], start + 2) if line.strip()]
    numbered = _unwrapped(numbered, rows, columns)
    values = [finite_row(path, i, fields, columns, "/NumWaves") for i, fields in numbered]
    if len(values) != rows:
        raise FileError(f"{path} has {len(values)} rows after /Matrix; {rows_key} says {rows}")
    participants = sum(re.fullmatch(rf"{PARTICIPANT}\d+", name) is not None for name in keys)
    key = PARTICIPANT if participants else CONTRAST
    names = tuple(keys.get(f"{key}{i}", "") for i in range(1, rows + 1))
    if participants and (participants != rows or not all(names)):
        raise FileError(
            f"{path} has {rows} rows, and names {participants} participants ({PARTICIPANT}1 …) in its header; one for "
            "each row is expected, or none"
        )
    return Matrix(np.array(values), names if any(names) else ())


def _count(path: Path, keys: Mapping[str, str], key: str) -> int:
    if key not in keys:
        also = "neither /NumPoints nor /NumContrasts" if key == "/NumContrasts" else f"no {key}"
        raise FileError(
            f"{path} has {also} before /Matrix; a VEST file must state its numbers of columns and of rows"
        )
    if not re.fullmatch(r"[1-9]\d*", keys[key]):
        raise FileError(f"{path}: {key} is {keys[key]!r}; it must be a whole number of at least 1")
    return int(keys[key])


def _unwrapped(numbered: list[tuple[int, list[str]]], rows: int, columns: int) -> list[tuple[int, list[str]]]:
    """Rows of a matrix that was wrapped into lines of another length, if their ends are unambiguous.

    FSL reads a sequence of numbers, whatever the lines are, so a missing number in one row and an extra one in another
    would go unnoticed. Lines are accepted as wrapped rows only if each line holds whole rows, if each row starts a
    line, or if all lines but the last have the same length.
    """
    counts = [len(fields) for _, fields in numbered]
    if sum(counts) != rows * columns or counts == [columns] * rows:
        return numbered
    ends = {columns * (i + 1) for i in range(rows)}
    begins = ends <= set(np.cumsum(counts).tolist())
    alike = len(set(counts[:-1])) == 1 and counts[-1] <= counts[0]
    if not (begins or alike or all(count % columns == 0 for count in counts)):
        return numbered
    fields = [(i, field) for i, line in numbered for field in line]
    starts = range(0, len(fields), columns)
    return [(fields[k][0], [field for _, field in fields[k : k + columns]]) for k in starts]


def _parse_table(path: Path, text: str) -> Matrix:
    table = parse_table(path, text)
    if table is None or not table.names:
        raise FileError(f"{path} contains only comments; a VEST matrix, or a table with a header row, is expected")
    names = table.names
    if any(name and all(math.isfinite(as_number(word)) for word in name.split()) for name in names):
        raise FileError(
            f"{path} starts with the numbers {table.first.strip()!r}; a table needs a header row, "
            "and a VEST matrix its header with /Matrix (Text2Vest writes it)"
        )
    where = _column_of_names(names, table.rows)
    columns = [name for i, name in enumerate(names) if i != where]
    if not columns or "" in columns or len(set(columns)) < len(columns):
        raise FileError(f"{path}: the columns are called {names}; the names must be unique and not empty")
    if not table.rows:
        raise FileError(f"{path} has a header row but no numbers")
    _check_separator(path, table)
    of_rows, values = [], []
    for row in table.rows:
        line, fields = row.line, row.cells
        if where is not None and len(fields) == len(names):
            of_rows.append(fields[where].strip())
            fields = [field for i, field in enumerate(fields) if i != where]
            values.append(finite_row(path, line, fields, len(columns), "the header"))
        else:
            values.append(finite_row(path, line, fields, len(names), "the header"))
    if "" in of_rows:
        raise FileError(f"{path}: row {of_rows.index('') + 1} is empty in column {names[where or 0]!r}")
    counts = where is not None and not names[where] and all(name.isdecimal() for name in of_rows)
    return Matrix(np.array(values), () if counts else tuple(of_rows), tuple(columns))


def _column_of_names(names: Sequence[str], rows: Sequence[Row]) -> int | None:
    """The column of a table of numbers that names its rows, or None.

    A column in `ID_COLUMNS` always does. The first column does if its name is in `NAME_COLUMNS` (pandas and R write an
    index without a name) and its cells are not all numbers. A first column without a name whose cells are increasing
    whole numbers is an index, which names nothing.
    """
    ids = [i for i, name in enumerate(names) if name.casefold() in ID_COLUMNS]
    if ids:
        return ids[0]
    first = [row.cells[0] for row in rows]
    are_text = any(not math.isfinite(as_number(field)) for field in first)
    whole = not names[0] and len(first) > 1 and all(field.strip().isdecimal() for field in first)
    counts = whole and all(a < b for a, b in pairwise(map(as_number, first)))
    return 0 if counts or (names[0].casefold() in NAME_COLUMNS and are_text) else None


def _check_separator(path: Path, table: Table) -> None:
    """Raise `FileError` for a table whose columns are separated by blanks."""
    words = table.names[0].split()
    if len(table.names) == 1 < len(words) and all(len(row.cells[0].split()) == len(words) for row in table.rows):
        raise FileError(
            f"{path} is separated by blanks; tabs or commas are expected, or a VEST matrix with /Matrix"
        )
