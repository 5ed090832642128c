"""Shuffles that were made elsewhere: permutations or sign flips of FSL, and PALM's signed row numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device
from gpuvox.errors import InputError
from gpuvox.shuffle import Shuffler, check_range, kind_of
from gpuvox.signed_rows import DeviceShuffles, from_one, from_signs, on_device, rows_of
from gpuvox.types import Bools, Float64, Int32, Ints

FEW = 64
"""Sets of up to this many shuffles are not taken to be in random order."""


class ImportedShuffler:
    """Shuffles from elsewhere, such as those that FSL writes with ``-P``, or PALM with ``-saveperms``.

    Parameters
    ----------
    array : (N, n) array
        One shuffle per row: row numbers from 1, those of flipped rows negative; or signs ±1 alone. The first leaves
        everything in place.
    n_rows : int, optional
        Number of rows of the design.
    possible : Shuffler, optional
        All shuffles that the test allows. Those that are given must keep its exchangeability blocks.

    Attributes
    ----------
    n_rows, permutes, flips, n_distinct, n, exhaustive
        As in `Shuffler`. How many distinct shuffles exist does not count: `n_distinct` is `n`, and `exhaustive` is
        False.

    Raises
    ------
    InputError
        Not a table, wrong number of columns, a row that is no permutation (or not all ±1), a first row that moves
        something, or a row that breaks the blocks; with the number of the row.
    """

    exhaustive = False

    def __init__(self, array: ArrayLike, n_rows: int | None = None, possible: Shuffler | None = None) -> None:
        table = np.asarray(array, dtype=np.float64)
        if table.ndim != 2 or not table.size:
            raise InputError(f"imported permutations have shape {table.shape}; expected a row a permutation")
        self.n, self.n_rows = self.n_distinct, _ = table.shape
        if n_rows is not None and self.n_rows != n_rows:
            raise InputError(f"imported permutations have {self.n_rows} columns; the design has {n_rows} rows")
        are_signs = bool(self.n_rows > 1 and (np.abs(table[0]) == 1).all())
        self._table = _import_signs(table) if are_signs else _import_rows(table)
        self._table.setflags(write=False)
        self.flips = are_signs or bool((self._table < 0).any())
        moves = (rows_of(self._table) != np.arange(self.n_rows)).any()
        self.permutes = bool(moves) or not self.flips
        self._possible = possible
        if possible is not None and possible.options.blocks is not None:
            self._check_blocks(table, possible)

    def _check_blocks(self, table: Float64, possible: Shuffler) -> None:
        wrong = np.argwhere(misplaced(self._table, possible))
        if len(wrong):
            row, column = wrong[0]
            raise InputError(
                f"row {row + 1} of the imported {self.kind} breaks the exchangeability blocks: they do not allow "
                f"{table[row, column]:g} in column {column + 1}"
            )

    @property
    def kind(self) -> str:
        """What shuffles are, in the plural."""
        return kind_of(self.permutes, self.flips)

    @cached_property
    def in_random_order(self) -> bool:
        """Whether the shuffles may be taken one by one until enough is known.

        A set of all that are possible is in an order, and so is one in which neighbours are more alike than others, or
        less, such as flips that are each followed by their opposite. Of a few shuffles this cannot be told, and nothing
        is gained by leaving some of them out.
        """
        if self.n <= FEW:
            return False
        labels = np.arange(self.n_rows) if self._possible is None else self._possible.labels
        labelled = labels[rows_of(self._table)] * 2 + (self._table < 0)
        is_exhaustive = (
            self._possible is not None and len(np.unique(labelled, axis=0)) >= self._possible.n_distinct
        )
        return not is_exhaustive and not are_neighbours_related(labelled)

    def shuffles(self, start: int, stop: int) -> Int32:
        """Shuffles start … stop − 1, in the form of `Shuffler.shuffles`."""
        check_range(start, stop, self.n)
        return self._table[start:stop].copy()

    def on_device(self, start: int, stop: int, device: Device) -> DeviceShuffles:
        """The same on a device."""
        return on_device(self.shuffles(start, stop), device)

    @cached_property
    def invariant(self) -> Float64:
        """(n_rows, k) Orthonormal basis of the vectors that no shuffle changes."""
        columns = list(self._invariant_vectors())
        return np.column_stack(columns) if columns else np.zeros((self.n_rows, 0))

    def _invariant_vectors(self) -> Iterator[Float64]:
        """A vector for each orbit of rows, unless a row of it can take its own place with the sign flipped.

        Rows are in a graph twice, with either sign; entry i equals, or is the negative of, all that it can reach.
        """
        orbits = _components(self._table)
        positive, negative = orbits[: self.n_rows], orbits[self.n_rows :]
        seen = set()
        for row in range(self.n_rows):
            orbit = positive[row]
            if orbit in seen or orbit == negative[row]:
                continue
            seen |= {orbit, negative[row]}
            vector = (positive == orbit).astype(np.float64) - (negative == orbit)
            yield vector / np.sqrt(np.count_nonzero(vector))


def misplaced(shuffles: Int32, possible: Shuffler) -> Bools:
    """(N, n) Places whose row, or its sign, the exchangeability blocks do not allow there; only they are looked at."""
    rows, is_flipped = rows_of(shuffles), shuffles < 0
    wrong = is_flipped.copy()  # rows of no unit keep their sign
    for unit in possible.flip_units:
        wrong[:, unit] = is_flipped[:, unit] != is_flipped[:, unit[:1]]
    for holder, place in possible.levels:
        first, of_row = np.unique(holder, return_index=True, return_inverse=True)[1:]
        come = holder[rows]
        wrong |= (come != come[:, first[of_row]]) | (place[rows] != place)
    return wrong


def are_neighbours_related(labelled: Ints) -> bool:
    """Whether labellings in a list (N, n) differ less from the next one, or more, than they would in random order.

    Places in which two labellings differ are counted: on average over neighbours, and over all pairs. Their difference
    is beyond 5 standard errors in 6 random lists of 10 million.
    """
    n_differing = (labelled[1:] != labelled[:-1]).sum(axis=1)
    pairs = len(labelled) * (len(labelled) - 1)
    alike = sum(int((counts * (counts - 1)).sum()) for counts in (_counts(column) for column in labelled.T))
    expected = labelled.shape[1] - alike / pairs
    error = n_differing.std(ddof=1) / np.sqrt(len(n_differing))
    return bool(abs(n_differing.mean() - expected) > 5 * error)


def _counts(column: Ints) -> Ints:
    counts: Ints = np.unique(column, return_counts=True)[1]
    return counts


def _components(table: Int32) -> Ints:
    """(2 n,) Component of each row with a positive, and then with a negative sign."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components  # only where shuffles are imported

    n = table.shape[1]
    reached = rows_of(table) + n * (table < 0)
    first, second = np.divmod(np.unique(np.arange(n) * (2 * n) + reached), 2 * n)
    opposite = (second + n) % (2 * n)
    graph = coo_array(
        (np.ones(2 * len(first)), (np.concatenate([first, first + n]), np.concatenate([second, opposite]))),
        shape=(2 * n, 2 * n),
    )
    components: Ints = connected_components(graph, directed=False)[1]
    return components


def _import_rows(table: Float64) -> Int32:
    in_place = np.arange(1, table.shape[1] + 1)
    wrong = np.flatnonzero((np.sort(np.abs(table), axis=1) != in_place).any(axis=1))
    if len(wrong):
        raise InputError(
            f"row {wrong[0] + 1} of the imported permutations is not a permutation of 1 to {table.shape[1]}"
        )
    if (table[0] != in_place).any():
        raise InputError("row 1 of the imported permutations must leave every row in its place")
    return from_one(table)


def _import_signs(table: Float64) -> Int32:
    wrong = np.flatnonzero((np.abs(table) != 1).any(axis=1))
    if len(wrong):
        raise InputError(f"row {wrong[0] + 1} of the imported sign flips has an entry that is not 1 or -1")
    if (table[0] != 1).any():
        raise InputError("row 1 of the imported sign flips must be 1 throughout")
    return from_signs(table)
