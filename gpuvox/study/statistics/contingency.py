"""Fisher's exact test of contingency tables of any size (Freeman and Halton 1951, Biometrika 38:141–149)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from gpuvox.types import Float64

Counts = NDArray[np.int64]
MOST_TABLES = 2_000_000
"""Partial tables that are enumerated; for larger problems, tables are drawn."""
DRAWN = 100_000
TIE = 1e-7
"""Relative difference of probabilities that counts as none, as in R."""


def exact_p(counts: Counts, seed: int = 0) -> tuple[float, bool]:
    """The probability of all tables with these margins that are no more probable than the one observed.

    Parameters
    ----------
    counts : (r, c) int64
    seed : int
        Of the tables that are drawn.

    Returns
    -------
    p : float
        With drawn tables, (b + 1) / (m + 1) for b of m.
    exact : bool
        Whether all tables were enumerated; otherwise `DRAWN` were drawn.
    """
    table = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 1.0, True
    if table.shape[0] > table.shape[1]:
        table = table.T
    rows, columns = np.sort(table.sum(axis=1)), np.sort(table.sum(axis=0))
    constant = gammaln(rows + 1).sum() + gammaln(columns + 1).sum() - gammaln(rows.sum() + 1)
    observed = float(constant - gammaln(table + 1).sum())
    everything = _all_tables(rows, columns)
    if everything is not None:
        logarithms = constant + everything[0]
        weights = everything[1]
        chosen = logarithms <= observed + TIE
        return min(1.0, float((np.exp(logarithms[chosen]) * weights[chosen]).sum())), True
    drawn = _drawn(rows, columns, seed)
    return (int((constant - drawn <= observed + TIE).sum()) + 1) / (DRAWN + 1), False


def _all_tables(rows: Counts, columns: Counts) -> tuple[Float64, Float64] | None:
    """−Σ log n! of every table with these margins, and how many tables share it; None if there are too many.

    Column by column; totals of rows are sorted, and partial tables that leave the same totals for the rest and have
    the same probability are merged.
    """
    remaining, values, weights = rows[None].astype(np.int64), np.zeros(1), np.ones(1)
    for total in columns[:-1]:
        columns_possible = _compositions(int(total), rows)
        if columns_possible is None or len(columns_possible) * len(remaining) > MOST_TABLES:
            return None
        after = remaining[:, None, :] - columns_possible[None]
        valid = (after >= 0).all(axis=2)
        first, second = np.nonzero(valid)
        values = values[first] - gammaln(columns_possible + 1).sum(axis=1)[second]
        remaining, values, weights = _merged(after[valid], values, weights[first])
    return values - gammaln(remaining + 1).sum(axis=1), weights


def _merged(remaining: Counts, values: Float64, weights: Float64) -> tuple[Counts, Float64, Float64]:
    keys = np.column_stack([np.sort(remaining, axis=1), np.rint(values * 1e8).astype(np.int64)])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return (
        np.sort(remaining, axis=1)[first],
        values[first],
        np.bincount(inverse.ravel(), weights).astype(np.float64),
    )


def _compositions(total: int, most: Counts) -> Counts | None:
    """All columns with this sum and at most the rows' totals; None if there are too many."""
    parts = np.zeros((1, 0), dtype=np.int64)
    for limit in most[:-1]:
        choices = np.arange(min(total, int(limit)) + 1)
        if len(parts) * len(choices) > MOST_TABLES:
            return None
        parts = np.column_stack([np.repeat(parts, len(choices), axis=0), np.tile(choices, len(parts))])
        parts = parts[parts.sum(axis=1) <= total]
    last = total - parts.sum(axis=1)
    inside = last <= most[-1]
    return np.column_stack([parts[inside], last[inside]])


def _drawn(rows: Counts, columns: Counts, seed: int) -> Float64:
    """Σ log n! of random tables with these margins, each as probable as by chance."""
    rng = np.random.default_rng(seed)
    remaining, total = np.tile(rows, (DRAWN, 1)), np.zeros(DRAWN)
    for size in columns[:-1]:
        column = _hypergeometric(rng, remaining, int(size))
        remaining = remaining - column
        total += gammaln(column + 1).sum(axis=1)
    return total + gammaln(remaining + 1).sum(axis=1)


def _hypergeometric(rng: np.random.Generator, available: Counts, size: int) -> Counts:
    """A column drawn from what each table has left, row by row."""
    column, needed = np.zeros_like(available), np.full(len(available), size)
    rest = available.sum(axis=1)
    for row in range(available.shape[1] - 1):
        rest = rest - available[:, row]
        column[:, row] = rng.hypergeometric(available[:, row], rest, needed)
        needed = needed - column[:, row]
    column[:, -1] = needed
    return column
