"""The compiled loops of `missing`, a set of subjects at a time and some voxels of it at a time."""

from __future__ import annotations

import numpy as np

from gpuvox.glm_loops import ORTHOGONAL, SSE_FLOOR, ZERO_RESIDUAL
from gpuvox.jit import inner, loop, part, small
from gpuvox.types import Bools, Float32, Float64, Int32, Ints
from gpuvox.z_tables import tabulated

__all__ = ["fill", "find_factors"]

WIDTH = 32
"""Voxels that are handled at a time."""
VANISHES = 1e-9
"""Share of a column's squares that other columns leave, under which it is a combination of them."""


@part
def _rows_of(present: Bools, rows: Ints) -> int:
    """Number of the subjects of a set, who are listed in `rows`."""
    count = 0
    for i in range(len(present)):
        if present[i]:
            rows[count] = i
            count += 1
    return count


@part
def _factorise(rows: Ints, columns: Float64, shuffle: Int32, unknown: Bools, rank: int, out: Float64) -> None:
    """out (k (k + 1) / 2 + 1): L of the shuffled columns (n, k) at some rows, and residual degrees of freedom.

    Rows of the model that are unknown are left out. A pivot that vanishes is 0, and so is what is under it. Degrees of
    freedom are 0 where the effect (the last `rank` columns) is lost, or nothing is left.
    """
    k = columns.shape[1]
    for a in range(k):
        for c in range(a + 1):
            total = 0.0
            for i in range(len(rows)):
                s = shuffle[rows[i]]
                s = s if s >= 0 else ~s
                if not unknown[s]:
                    total += columns[s, a] * columns[s, c]
            out[a * (a + 1) // 2 + c] = total
    n_columns, n_effects = 0, 0
    for j in range(k):
        row = j * (j + 1) // 2
        whole = out[row + j]
        pivot = whole
        for m in range(j):
            pivot -= out[row + m] * out[row + m]
        stands = pivot > VANISHES * whole
        root = np.sqrt(pivot) if stands else 0.0
        out[row + j] = root
        n_columns += stands
        n_effects += stands and j >= k - rank
        for i in range(j + 1, k):
            below = i * (i + 1) // 2
            value = out[below + j]
            for m in range(j):
                value -= out[below + m] * out[row + m]
            out[below + j] = value / root if stands else 0.0
    df = -n_columns
    for i in range(len(rows)):
        s = shuffle[rows[i]]
        df += not unknown[s if s >= 0 else ~s]
    out[-1] = df if df > 0 and n_effects == rank else 0


@small
def find_factors(present: Bools, columns: Float64, unknown: Bools, rank: int, out: Float64) -> None:
    """Factors of the unpermuted model for each of the sets (P, n): out (P, k (k + 1) / 2 + 1)."""
    n = present.shape[1]
    rows, in_place = np.empty(n, np.int64), np.arange(n).astype(np.int32)
    for p in range(len(present)):
        count = _rows_of(present[p], rows)
        _factorise(rows[:count], columns, in_place, unknown, rank, out[p])


@inner
def _remove_nuisance(
    rows: Ints, columns: Float64, factor: Float64, fit: Float64, tile: Float64, width: int
) -> None:
    """Data (rows, WIDTH) less their projections on the nuisance; fit (n_nuisance, width) is written over."""
    for a in range(len(fit)):
        fit[a] = 0.0
        for i in range(len(rows)):
            for j in range(width):
                fit[a, j] += columns[rows[i], a] * tile[i, j]
    _solve(factor, fit, width)
    _solve_transposed(factor, fit, width)
    for a in range(len(fit)):
        for i in range(len(rows)):
            for j in range(width):
                tile[i, j] -= columns[rows[i], a] * fit[a, j]


@inner
def _norms_of(tile: Float64, n_rows: int, out: Float64) -> None:
    """Norms of the first columns of a tile."""
    out[:] = 0.0
    for i in range(n_rows):
        for j in range(len(out)):
            out[j] += tile[i, j] * tile[i, j]
    for j in range(len(out)):
        out[j] = np.sqrt(out[j])


@inner
def _residualise(
    data: Float32, voxels: Ints, rows: Ints, columns: Float64, n_nuisance: int, factor: Float64, tile: Float64,
    norm: Float64,
) -> None:  # fmt: skip
    """Residuals of some rows of some voxels into tile (rows, WIDTH), and their norms; 0 if only rounding is left."""
    width = len(voxels)
    raw, fit = np.empty(width), np.empty((n_nuisance, width))
    for i in range(len(rows)):
        for j in range(width):
            tile[i, j] = np.float64(data[rows[i], voxels[j]])
    _norms_of(tile, len(rows), raw)
    for _ in range(2):
        _remove_nuisance(rows, columns, factor, fit, tile, width)
    _norms_of(tile, len(rows), norm[:width])
    for j in range(width):
        if norm[j] <= ZERO_RESIDUAL * raw[j]:
            norm[j] = 0.0


@inner
def _solve(factor: Float64, values: Float64, width: int) -> None:
    """L⁻¹ values (k, width), in place; 0 where a column does not count."""
    for a in range(len(values)):
        row = a * (a + 1) // 2
        for c in range(a):
            for j in range(width):
                values[a, j] -= factor[row + c] * values[c, j]
        scale = 1.0 / factor[row + a] if factor[row + a] > 0 else 0.0
        for j in range(width):
            values[a, j] *= scale


@inner
def _solve_transposed(factor: Float64, values: Float64, width: int) -> None:
    """The same with Lᵀ."""
    for a in range(len(values) - 1, -1, -1):
        for c in range(a + 1, len(values)):
            for j in range(width):
                values[a, j] -= factor[c * (c + 1) // 2 + a] * values[c, j]
        pivot = factor[a * (a + 1) // 2 + a]
        scale = 1.0 / pivot if pivot > 0 else 0.0
        for j in range(width):
            values[a, j] *= scale


@part
def _is_constant(data: Float32, voxel: int, rows: Ints) -> bool:
    """Whether the data of a voxel are one number."""
    same = True
    for i in range(1, len(rows)):
        same &= data[rows[i], voxel] == data[rows[0], voxel]
    return same


@inner
def _multiply(
    tile: Float64,
    rows: Ints,
    columns: Float64,
    fixed: int,
    shuffle: Int32,
    unknown: Bools,
    out: Float64,
    left: Float64,
) -> None:
    """Products of the shuffled columns with the residuals, into out (k, WIDTH); 0 of columns that shuffles keep.

    left (width): the residuals' share in rows to which no unknown row of the model comes.
    """
    width = len(left)
    left[:] = 1.0
    for i in range(len(rows)):
        s = shuffle[rows[i]]
        if unknown[s if s >= 0 else ~s]:
            for j in range(width):
                left[j] -= tile[i, j] * tile[i, j]
    for a in range(columns.shape[1]):
        for j in range(width):
            out[a, j] = 0.0
        for i in range(len(rows) if a >= fixed else 0):
            s = shuffle[rows[i]]
            weight = columns[s, a] if s >= 0 else -columns[~s, a]
            if unknown[s if s >= 0 else ~s]:
                weight = 0.0
            for j in range(width):
                out[a, j] += weight * tile[i, j]


@inner
def _statistic(shares: Float64, j: int, rank: int, is_f: bool, df: float, left: float) -> float:
    """t or F from u (k, WIDTH) at voxel j, and the sum of squares that they leave something of."""
    k = len(shares)
    effect = 0.0
    for a in range(k):
        share = shares[a, j]
        left -= share * share
        if a >= k - rank:
            if abs(share) < ORTHOGONAL:
                share = 0.0
            effect = effect + share * share if is_f else share
    left = max(left, SSE_FLOOR)
    return effect / rank * (df / left) if is_f else effect * np.sqrt(df / left)


@loop
def fill(  # noqa: C901, PLR0913
    data: Float32, present: Bools, order: Ints, starts: Ints, norms: Float64, columns: Float64, unknown: Bools,
    fixed: int, rank: int, is_f: bool, unpermuted: Float64, shuffles: Int32, first_x: int, first_df: int,
    least: float, polynomials: Float64, maps: Float32, exact: Float64,
) -> None:  # fmt: skip
    """z of the voxels in `order` for all shuffles of a batch.

    maps (B, V) receives z, or exact (3, B, V) the statistic, its degrees of freedom and z; the other is empty. A batch
    without shuffles puts into norms (V,) those of the residuals: 0 where there are none, or the data are one number.
    """
    n, k = columns.shape
    rows, tile, norm = np.empty(n, np.int64), np.empty((n, WIDTH)), np.empty(WIDTH)
    factors, shares = np.empty((len(shuffles), unpermuted.shape[1])), np.empty((k, WIDTH))
    left = np.empty(WIDTH)
    for p in range(len(present)):
        if starts[p] == starts[p + 1] or unpermuted[p, -1] < 1:
            continue
        count = _rows_of(present[p], rows)
        for b in range(len(shuffles)):
            _factorise(rows[:count], columns, shuffles[b], unknown, rank, factors[b])
        for start in range(starts[p], starts[p + 1], WIDTH):
            voxels = order[start : min(start + WIDTH, starts[p + 1])]
            width = len(voxels)
            _residualise(data, voxels, rows[:count], columns, k - rank, unpermuted[p], tile, norm)
            for j in range(width if len(shuffles) == 0 else 0):
                norms[voxels[j]] = 0.0 if _is_constant(data, voxels[j], rows[:count]) else norm[j]
            for j in range(width):
                norm[j] = 1.0 / norm[j] if norm[j] > 0 and norms[voxels[j]] > 0 else 0.0
            for i in range(count):
                for j in range(width):
                    tile[i, j] *= norm[j]
            for b in range(len(shuffles)):
                _multiply(tile, rows[:count], columns, fixed, shuffles[b], unknown, shares, left[:width])
                _solve(factors[b], shares, width)
                df = factors[b, -1]
                for j in range(width):
                    statistic, z = 0.0, 0.0
                    if df > 0 and norm[j] > 0:
                        statistic = _statistic(shares, j, rank, is_f, df, left[j])
                        z = tabulated(abs(statistic), df, first_x, first_df, least, polynomials)
                        z = z if is_f else z * statistic
                    if maps.size:
                        maps[b, voxels[j]] = np.float32(z)
                    if exact.size:
                        exact[0, b, voxels[j]] = statistic
                        exact[1, b, voxels[j]] = df
                        exact[2, b, voxels[j]] = z
