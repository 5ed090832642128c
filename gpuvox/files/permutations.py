"""Permutations, sign flips and null maxima as `randomise` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.errors import FileError
from gpuvox.files.contents import text_lines
from gpuvox.files.text import Name, finite_row
from gpuvox.files.writing import write_text


def read_permutations(path: Name) -> NDArray[np.int64]:
    """Read permutations or sign flips, one in each row, as written by `randomise -P` or as plain integers.

    Returns
    -------
    (N, n) int64
        Every row holds 1 … n in some order, or every row holds ±1.

    Raises
    ------
    FileError
        The file is missing, empty or not text; rows differ in length; an entry is not an integer; a row is of a
        different kind from the first.
    """
    path = Path(path)
    numbered = [(i, line.split()) for i, line in enumerate(text_lines(path), 1) if line.strip()]
    if not numbered:
        raise FileError(f"{path} is empty; one permutation or sign flip per line is expected")
    n = len(numbered[0][1])
    values = np.array([finite_row(path, i, fields, n, "the first row") for i, fields in numbered])
    flips = bool((np.abs(values[0]) == 1).all())
    right = np.abs(values) == 1 if flips else np.sort(values, axis=1) == np.arange(1, n + 1)
    if not right.all():
        line, fields = numbered[int(np.argmin(right.all(axis=1)))]
        kind = "1 and -1 only" if flips else f"the numbers 1 to {n}, each once"
        raise FileError(f"{path}, line {line}: {_shortened(fields)} is not a row of {kind}")
    return values.astype(np.int64)


def write_permutations(path: Name, permutations: ArrayLike) -> None:
    """Write (N, n) 1-based permutations or ±1 as `randomise -P` does: `1.000000 3.000000 2.000000 `."""
    rows = np.asarray(permutations)
    fields = {value: f"{value}.000000 " for value in np.unique(rows).tolist()}
    write_text(path, "".join("".join(map(fields.__getitem__, row)) + "\n" for row in rows.tolist()))


def write_column(path: Name, values: ArrayLike) -> None:
    """Write (N,) null maxima as `randomise -N` does: `84.000000 `, one on each line."""
    write_text(path, "".join(f"{value:.6f} \n" for value in np.asarray(values).tolist()))


def _shortened(fields: Sequence[str]) -> str:
    return " ".join(fields) if len(fields) <= 12 else " ".join(fields[:10]) + " …"
