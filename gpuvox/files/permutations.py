"""Permutations, sign flips and null maxima as `randomise` writes them, and shuffles as PALM does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuvox.errors import FileError
from gpuvox.files.contents import text_lines
from gpuvox.files.text import Name, finite_row
from gpuvox.files.writing import write_text


def read_permutations(path: Name) -> NDArray[np.int64]:
    """Read shuffles, one in each row: of `randomise -P`, of PALM's `-saveperms`, or as plain integers.

    Returns
    -------
    (N, n) int64
        Every row holds 1 … n in some order, negative where the sign is flipped; or every row holds ±1.

    Raises
    ------
    FileError
        The file is missing, empty or not text; rows differ in length; an entry is not an integer; a row is of a
        different kind from the first.
    """
    path = Path(path)
    numbered = [(i, line.replace(",", " ").split()) for i, line in enumerate(text_lines(path), 1) if line.strip()]
    if not numbered:
        raise FileError(f"{path} is empty; one permutation or sign flip per line is expected")
    n = len(numbered[0][1])
    values = np.array([finite_row(path, i, fields, n, "the first row") for i, fields in numbered])
    flips = bool((np.abs(values[0]) == 1).all())
    right = np.abs(values) == 1 if flips else np.sort(np.abs(values), axis=1) == np.arange(1, n + 1)
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


def write_permidx(path: Name, shuffles: ArrayLike) -> None:
    """Write (N, n) signed row numbers from 1 as PALM's `-saveperms` does: `1,-3,2`, a shuffle on each line."""
    write_text(path, "".join(",".join(map(str, row)) + "\n" for row in np.asarray(shuffles).tolist()))


def find_permidx(prefix: str, contrast: int, design: int = 1) -> str | None:
    """The file of PALM's shuffles for a contrast (t first, then F) of a design, both from 1; None if there is none.

    PALM leaves out the number of a contrast whose shuffles all share, and that of a design if there is only one.
    """
    middles = (f"_d{design}_c{contrast}", f"_c{contrast}", f"_d{design}", "")
    names = (f"{prefix}{middle}_permidx.csv" for middle in middles)
    return next((name for name in names if os.path.exists(name)), None)


def write_column(path: Name, values: ArrayLike) -> None:
    """Write (N,) null maxima as `randomise -N` does: `84.000000 `, one on each line."""
    write_text(path, "".join(f"{value:.6f} \n" for value in np.asarray(values).tolist()))


def _shortened(fields: Sequence[str]) -> str:
    return " ".join(fields) if len(fields) <= 12 else " ".join(fields[:10]) + " …"
