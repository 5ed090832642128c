"""Paths in a table, which are relative to its folder, rewritten for a table in another folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.tables.reading import is_missing


def relocated(
    table: pd.DataFrame, origin: files.Name, target: files.Name, columns: Collection[str] = ()
) -> pd.DataFrame:
    """The rows of a table with paths rewritten, so that they name the same files from another folder.

    A column holds paths if one of its cells has a slash or the suffix of an image, and the file exists. Absolute
    paths are kept.

    Parameters
    ----------
    table : DataFrame
        Read from `origin`.
    origin, target : path
        The source table, and the table to be written.
    columns : collection of str
        Columns that are known to hold paths; in these, names without folder and suffix are paths too.

    Returns
    -------
    DataFrame
        `table` itself if both are in the same folder.
    """
    before, after = (os.path.realpath(Path(name).parent) for name in (origin, target))
    if before == after:
        return table
    rewritten = table.copy()
    for name in table.columns:
        if name == "participant_id" or not (name in columns or _holds_paths(table[name], before)):
            continue
        rewritten[name] = [_moved(cell, before, after) for cell in table[name]]
    return rewritten


def _moved(cell: Any, before: str, after: str) -> Any:
    if not isinstance(cell, str) or is_missing(cell.strip()) or os.path.isabs(cell.strip()):
        return cell
    return os.path.relpath(os.path.join(before, cell.strip()), after)


def _holds_paths(cells: Iterable[Any], folder: str) -> bool:
    texts = dict.fromkeys(cell.strip() for cell in cells if isinstance(cell, str))
    return any(_is_there(os.path.join(folder, text)) for text in texts if _looks_like_a_path(text))


def _looks_like_a_path(text: str) -> bool:
    return not is_missing(text) and not os.path.isabs(text) and ("/" in text or bool(files.split_suffix(text)[1]))


def _is_there(name: str) -> bool:
    if os.path.exists(name):
        return True
    try:
        files.find_image(name)
    except FileError:
        return False
    return True
