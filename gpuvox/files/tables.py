"""Tables with a header row, TSV or CSV, as data frames of text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox.errors import FileError
from gpuvox.files.contents import read_bytes, read_json
from gpuvox.files.delimited import Table, check_names, check_rows, format_table, parse_table
from gpuvox.files.text import Name, decode_text
from gpuvox.files.writing import write_text
from gpuvox.plain import composed


def read_table(path: Name, required: Sequence[str] = (), *, long: bool = False, may_be_empty: bool = False) -> Any:
    """Read a table with a header row, TSV or CSV, as text.

    Names of columns and participants get composed accents (`plain.composed`); other cells may be paths, and stay as
    they are.

    Parameters
    ----------
    path : path
        A table such as ``participants.tsv``; separated by commas if the first line has no tab.
    required : sequence of str
        Columns that must be present, without empty cells.
    long : bool
        Allow several rows for each participant.
    may_be_empty : bool
        Allow a table without rows below the header.

    Returns
    -------
    pandas.DataFrame of str
        For a table of participants, ``attrs["levels"]`` names the columns with ``Levels`` in a JSON file beside it.

    Raises
    ------
    FileError
        The file is not a table or has no rows, a column or a cell is missing, or a `participant_id` is duplicated.
    """
    path = Path(path)
    table = _frame(_checked_table(path))
    required = [composed(column) for column in required]
    missing = [column for column in required if column not in table.columns]
    if missing:
        there = ", ".join(table.columns[:20]) + (" …" if len(table.columns) > 20 else "")
        raise FileError(f"{path} has no column {missing[0]!r}; it has {there}")
    if not (len(table) or may_be_empty):
        raise FileError(f"{path} has no row below its header")
    for column in required:
        empty = np.flatnonzero(table[column].str.strip().isin(["", "n/a"]))
        if len(empty):
            raise FileError(f"{path} is empty in column {column!r} of row {empty[0] + 1}{_whose(table, empty[0])}")
    if "participant_id" in table.columns:
        table["participant_id"] = table["participant_id"].str.strip().map(composed)
    if "participant_id" in table.columns and not long:
        twice = table["participant_id"][table["participant_id"].duplicated()]
        if len(twice):
            raise FileError(f"{path} has participant_id {twice.iloc[0]} twice")
    if "participant_id" in table.columns:
        table.attrs["levels"] = _declared(path)
    return table


def _whose(table: Any, row: int) -> str:
    """The participant of a row in parentheses, if the table names one."""
    name = str(table["participant_id"].iloc[row]).strip() if "participant_id" in table.columns else ""
    return f" ({name})" if name not in ("", "n/a") else ""


def _checked_table(path: Path) -> Table:
    table = parse_table(path, decode_text(path, read_bytes(path), strict=True))
    if table is None:
        raise FileError(f"{path} is empty; a table with a header row is expected")
    names = table.names
    names[:] = [composed(name) for name in names]
    if "" in names and len(set(names)) == len(names):
        names[names.index("")] = f"Unnamed: {names.index('')}"  # pandas's name for the row names that R writes
    check_names(path, table)
    check_rows(path, table)
    if len(names) == 1 and "participant_id" in names[0].split()[1:] + names[0].split()[:-1]:
        raise FileError(f"{path} is separated by blanks; tabs or commas are expected")
    return table


def _declared(path: Path) -> tuple[str, ...]:
    """Columns that the JSON file beside a table describes as categories, as in BIDS."""
    beside = path.with_suffix(".json")
    if path.suffix == ".json" or not beside.is_file():
        return ()
    described = read_json(beside)
    return tuple(
        composed(name) for name, column in described.items() if isinstance(column, dict) and "Levels" in column
    )


def _frame(table: Table) -> Any:
    import pandas as pd

    cells = np.empty((len(table.rows), len(table.names)), dtype=object)
    for i, row in enumerate(table.rows):
        cells[i] = row.cells
    return pd.DataFrame(cells, columns=table.names, dtype=object)


def write_table(path: Name, table: Any) -> None:
    """Write a table as TSV, with eight digits and ``n/a`` for missing values; complete or not at all.

    Cells with tabs, line breaks or quotation marks are quoted, and `read_table` reads them back.

    Parameters
    ----------
    path : path
    table : pandas.DataFrame
        Its index is not written.

    Raises
    ------
    FileError
        A cell contains a zero byte, or the file cannot be written.
    """
    names = [_cell(path, name) for name in table.columns]
    rows = [[_cell(path, value) for value in row] for row in table.itertuples(index=False, name=None)]
    write_text(path, format_table(names, rows) if names else "\n")


def _cell(path: Name, value: Any) -> str:
    if value is None or value != value:
        return "n/a"
    text = f"{value:.8g}" if isinstance(value, float | np.floating) else str(value)
    if "\0" in text:
        raise FileError(f"{os.fspath(path)} cannot be written: {text!r} contains a zero byte")
    return text
