"""Compiled loops of models with voxelwise explanatory variables, a tile of voxels at a time; see `voxelwise`."""

from __future__ import annotations

import numpy as np

from gpuvox.glm_loops import ALONE, ORTHOGONAL, SSE_FLOOR, ZERO_RESIDUAL
from gpuvox.jit import inner, loop
from gpuvox.types import AnyArray, Bools, Float32, Float64, Floats, Int32, Ints
from gpuvox.vectors import fma

TILE = 64
"""Voxels a kernel works on at a time: their bases fit in the cache."""
DEPENDENT = 1e-7
"""Share of a column's norm under which its remainder is rounding (voxelwise EVs are stored in float32)."""
VANISHES = 1e-9
"""Share of a shuffled column's squares that what stays in place leaves, under which it is a combination of that."""


@inner
def _fill_columns(
    static: Float64, evs: Float32, position: Ints, mixing: Float64, demean: int, voxels: Ints,
    columns: Floats,
) -> None:  # fmt: skip
    """columns (k, n, T) = per-voxel design · mixing; position[c] is the voxelwise EV in column c, or −1."""
    k, n = columns.shape[0], columns.shape[1]
    width = len(voxels)
    columns[:] = 0.0
    for c in range(static.shape[1]):
        for a in range(k):
            weight = mixing[c, a]
            if weight == 0.0:
                continue
            for i in range(n):
                if position[c] < 0:
                    for j in range(width):
                        columns[a, i, j] += weight * static[i, c]
                else:
                    for j in range(width):
                        columns[a, i, j] += weight * evs[position[c], i, voxels[j]]
    if demean:
        for a in range(k):
            _demean(columns[a])


@inner
def _leave_out(evs: Float32, outside: int, voxels: Ints, gone: Floats) -> None:
    """gone (n, T): 1 for subjects who are excluded at a voxel."""
    for i in range(gone.shape[0]):
        for j in range(len(voxels)):
            gone[i, j] = 1.0 if evs[outside, i, voxels[j]] != 0 else 0.0


@inner
def _clear(block: Floats, gone: Floats) -> None:
    """Set the rows of excluded subjects to 0."""
    for i in range(gone.shape[0]):
        for j in range(block.shape[1]):
            if gone[i, j] != 0:
                block[i, j] = 0.0


@inner
def _demean(block: Floats) -> None:
    n, width = block.shape
    mean = np.zeros(width)
    for i in range(n):
        for j in range(width):
            mean[j] += block[i, j]
    for i in range(n):
        for j in range(width):
            block[i, j] -= mean[j] / n


@inner
def _project_out(block: Floats, direction: Float64) -> None:
    """block −= direction (directionᵀ block), voxel by voxel."""
    n, width = block.shape
    dot = np.zeros(width)
    for i in range(n):
        for j in range(width):
            dot[j] += direction[i, j] * block[i, j]
    for i in range(n):
        for j in range(width):
            block[i, j] -= direction[i, j] * dot[j]


@inner
def _normalise(block: Floats, before: Float64, tolerance: float) -> Float64:
    """Unit norm, or 0 where no more than `tolerance` of the norm `before` is left; returns the norms."""
    norm = _norms(block)
    n, width = block.shape
    for j in range(width):
        if norm[j] <= tolerance * before[j]:
            norm[j] = 0.0
    for i in range(n):
        for j in range(width):
            block[i, j] = block[i, j] / norm[j] if norm[j] > 0 else 0.0
    return norm


@inner
def _norms(block: Floats) -> Float64:
    n, width = block.shape
    norm = np.zeros(width)
    for i in range(n):
        for j in range(width):
            norm[j] += block[i, j] * block[i, j]
    return np.sqrt(norm)


@inner
def _orthonormalise(columns: Floats, size: Float64, rank: Bools) -> None:
    """Gram–Schmidt along the first axis; rank (k, T) says which columns stand.

    `size` (k,) bounds the norms: under 1e-12 of it, a column is what rounding left of zero.
    """
    for a in range(columns.shape[0]):
        before = np.maximum(_norms(columns[a]), size[a] * 1e-12 / DEPENDENT)
        for _ in range(2):
            for b in range(a):
                _project_out(columns[a], columns[b])
        norm = _normalise(columns[a], before, DEPENDENT)
        for j in range(len(norm)):
            rank[a, j] = norm[j] > 0


@inner
def _make_bases(  # noqa: PLR0913
    static: Float64, evs: Float32, position: Ints, mixing: Float64, outside: int, demean: int, voxels: Ints,
    size: Float64, columns: Floats, rank: Bools, gone: Floats,
) -> None:  # fmt: skip
    """Orthonormal bases (k, n, T) of a tile, 0 for excluded subjects."""
    _fill_columns(static, evs, position, mixing, demean, voxels, columns)
    if outside >= 0:
        _leave_out(evs, outside, voxels, gone)
        for a in range(columns.shape[0]):
            _clear(columns[a], gone)
    _orthonormalise(columns, size, rank)


@inner
def _prepare(  # noqa: PLR0913
    data: Float32, static: Float64, evs: Float32, position: Ints, mixing: Float64, outside: int,
    n_nuisance: int, mode: int, demean: int, voxels: Ints, size: Float64, columns: Float64, rank: Bools,
    y: Float64, gone: Float64,
) -> Float64:  # fmt: skip
    """Bases (k, n, T) and unit residuals (n, T) of a tile in float64; returns the residuals' norms.

    demean: bit 1 for the columns, bit 2 for the data.
    """
    n = data.shape[0]
    width = len(voxels)
    y[:] = 0.0
    for i in range(n):
        for j in range(width):
            y[i, j] = data[i, voxels[j]]
    _make_bases(static, evs, position, mixing, outside, demean & 1, voxels, size, columns, rank, gone)
    if mode != 2:
        _clear(y, gone)
    before = _norms(y)
    if demean & 2:
        _demean(y)
    removed = n_nuisance
    if mode == 2:
        removed = 0
    elif mode == 3:
        removed = columns.shape[0]
    constant = _constant(y, gone, columns[:removed], 1.0 / n if demean & 2 else 0.0)
    for a in range(removed):
        _project_out(y, columns[a])
    norm = _normalise(y, before, ZERO_RESIDUAL)
    for j in range(width):
        if constant[j]:
            norm[j] = 0.0
    return norm


@inner
def _constant(y: Float64, gone: Float64, removed: Float64, leverage: float) -> Bools:
    """(T,) Whether data are one number in all rows that the removed columns, and `leverage` more, do not fit alone.

    Rows of excluded subjects do not count.
    """
    n, width = y.shape
    constant = np.ones(width, np.bool_)
    first = np.full(width, -1)
    for i in range(n):
        for j in range(width):
            fitted = leverage
            for a in range(removed.shape[0]):
                fitted += removed[a, i, j] * removed[a, i, j]
            if fitted < 1 - ALONE and not (gone.shape[0] and gone[i, j] != 0):
                if first[j] >= 0 and y[i, j] != y[first[j], j]:
                    constant[j] = False
                first[j] = i
    return constant


@inner
def _fit(
    columns: Floats, y: Floats, gone: Floats, shuffle: Int32, first: int, products: Floats, lost: Floats,
) -> None:  # fmt: skip
    """products (k, T) = (P columns)ᵀ y; lost (T): the share of y in the rows of excluded subjects."""
    n = y.shape[0]
    lost[:] = lost.dtype.type(0)
    for i in range(gone.shape[0]):
        source = gone[shuffle[i] if shuffle[i] >= 0 else ~shuffle[i]]
        for j in range(y.shape[1]):
            lost[j] = fma(source[j] * y[i, j], y[i, j], lost[j])
    for a in range(first, columns.shape[0]):
        products[a, :] = products.dtype.type(0)
        for i in range(n):
            source = columns[a, shuffle[i] if shuffle[i] >= 0 else ~shuffle[i]]
            if shuffle[i] < 0:
                for j in range(y.shape[1]):
                    products[a, j] -= source[j] * y[i, j]
            else:
                for j in range(y.shape[1]):
                    products[a, j] = fma(source[j], y[i, j], products[a, j])


@inner
def _finish(  # noqa: PLR0913
    products: Floats, lost: Floats, first: int, n_nuisance: int, is_f: bool, df: Float64, rank: Bools,
    limit: float, statistic: Float64, sse: Float64,
) -> None:  # fmt: skip
    """Statistic and SSE of a tile; voxels whose SSE is under `limit` get NaN (−inf: none, floored instead)."""
    k, width = products.shape
    for j in range(width):
        residual = 1.0 - np.float64(lost[j])
        effect = 0.0
        numerator = 0
        for a in range(first, k):
            product = np.float64(products[a, j])
            if abs(product) < ORTHOGONAL:
                product = np.float64(0)
            residual -= product * product
            if a >= n_nuisance:
                numerator += rank[a, j]
                effect = effect + product * product if is_f else product
        sse[j] = max(residual, SSE_FLOOR)
        if df[j] < 1 or numerator == 0:
            statistic[j] = 0.0
        elif residual < limit:
            statistic[j] = np.nan
        elif is_f:
            statistic[j] = effect / numerator * (df[j] / sse[j])
        else:
            statistic[j] = effect * np.sqrt(df[j] / sse[j])


@loop
def fill_maps(  # noqa: C901, PLR0913
    data: Float32, static: Float64, evs: Float32, position: Ints, mixing: Float64, size: Float64,
    outside: int, n_nuisance: int, mode: int, demean: int, is_f: bool, spent: int, shuffles: Int32,
    voxels: Ints, exact: bool, limit: float, out: AnyArray, sse_out: Floats,
) -> None:  # fmt: skip
    """Statistic maps (B, len(voxels)) of a batch; `spent`: degrees of freedom that no column takes."""
    n = data.shape[0]
    k = mixing.shape[1]
    columns, y = np.empty((k, n, TILE)), np.empty((n, TILE))
    rank = np.zeros((k, TILE), np.bool_)
    rough, wide = np.empty((k, TILE), np.float32), np.empty((k, TILE))
    rough_lost, wide_lost = np.empty(TILE, np.float32), np.empty(TILE)
    statistic, sse, df = np.empty(TILE), np.empty(TILE), np.empty(TILE)
    better, better_sse = np.empty(TILE), np.empty(TILE)
    first = n_nuisance if mode == 0 else 0
    gone = np.zeros((n if outside >= 0 else 0, TILE))
    for start in range(0, len(voxels), TILE):
        part = voxels[start : start + TILE]
        norm = _prepare(
            data, static, evs, position, mixing, outside, n_nuisance, mode, demean, part, size, columns, rank, y,
            gone,
        )  # fmt: skip
        in_fit = gone if mode != 0 else gone[:0]  # Kennedy's fit has no nuisance
        df[:] = n - spent
        for a in range(first, k):
            df -= rank[a]
        for i in range(len(in_fit)):
            df -= in_fit[i]
        columns32, y32, gone32 = columns.astype(np.float32), y.astype(np.float32), in_fit.astype(np.float32)
        for b in range(len(shuffles)):
            redo = exact
            if not exact:
                _fit(columns32, y32, gone32, shuffles[b], first, rough, rough_lost)
                _finish(rough, rough_lost, first, n_nuisance, is_f, df, rank, limit, statistic, sse)
                for j in range(len(part)):
                    redo |= np.isnan(statistic[j])
            if redo:
                _fit(columns, y, in_fit, shuffles[b], first, wide, wide_lost)
                _finish(wide, wide_lost, first, n_nuisance, is_f, df, rank, -np.inf, better, better_sse)
                for j in range(len(part)):
                    if exact or np.isnan(statistic[j]):
                        statistic[j], sse[j] = better[j], better_sse[j]
            for j in range(len(part)):
                out[b, start + j] = statistic[j] if norm[j] > 0 else 0.0
                if sse_out.size:
                    sse_out[b, start + j] = sse[j] * norm[j] * norm[j] / max(df[j], 1.0)


@inner
def _moved_product(column: Float64, other: Float64, shuffle: Int32, out: Float64) -> None:
    """out (T): products of a column (n, T), shuffled, with another one."""
    out[:] = 0.0
    for i in range(len(shuffle)):
        source = column[shuffle[i] if shuffle[i] >= 0 else ~shuffle[i]]
        if shuffle[i] < 0:
            for j in range(len(out)):
                out[j] -= source[j] * other[i, j]
        else:
            for j in range(len(out)):
                out[j] += source[j] * other[i, j]


@inner
def _multiply_moved(  # noqa: PLR0913
    columns: Float64, rank: Bools, y: Float64, shuffle: Int32, moving: Ints, n_kept: int, shares: Float64,
    kept: Float64, factor: Float64,
) -> None:  # fmt: skip
    """shares (m, T): products of the moving columns with y; factor (m, m, T): of their parts outside of what stays."""
    m, width = shares.shape
    for c in range(m):
        _moved_product(columns[moving[c]], y, shuffle, shares[c])
        for d in range(c + 1):
            for j in range(width):
                factor[c, d, j] = 1.0 if c == d and rank[moving[c], j] else 0.0
    for a in range(n_kept):
        for c in range(m):
            _moved_product(columns[moving[c]], columns[a], shuffle, kept[c])
        for c in range(m):
            for d in range(c + 1):
                for j in range(width):
                    factor[c, d, j] -= kept[c, j] * kept[d, j]


@inner
def _solve_moved(shares: Float64, factor: Float64, j: int, lead: int, rank: int, is_f: bool, df: float) -> float:
    """The statistic of one voxel from its products, of which columns from `lead` on are the effect's."""
    left, effect = 1.0, 0.0
    for c in range(len(shares)):
        share = shares[c, j]
        for d in range(c):
            value = factor[c, d, j]
            for e in range(d):
                value -= factor[c, e, j] * factor[d, e, j]
            factor[c, d, j] = value / factor[d, d, j] if factor[d, d, j] > 0 else 0.0
            share -= factor[c, d, j] * shares[d, j]
        pivot = factor[c, c, j]
        for d in range(c):
            pivot -= factor[c, d, j] * factor[c, d, j]
        factor[c, c, j] = np.sqrt(pivot) if pivot > VANISHES else 0.0
        share = share / factor[c, c, j] if pivot > VANISHES else 0.0
        if abs(share) < ORTHOGONAL:
            share = 0.0
        shares[c, j] = share
        left -= share * share
        if c >= lead:
            effect = effect + share * share if is_f else share
    left = max(left, SSE_FLOOR)
    return effect / rank * (df / left) if is_f else effect * np.sqrt(df / left)


@loop
def refit_maps(  # noqa: PLR0913
    data: Float32, static: Float64, evs: Float32, position: Ints, mixing: Float64, size: Float64, n_nuisance: int,
    demean: int, is_f: bool, spent: int, lead: int, n_kept: int, shuffles: Int32, voxels: Ints, out: Float64,
) -> None:  # fmt: skip
    """Statistic maps (B, len(voxels)) where nuisance stays in place, or is not fitted.

    The first `lead` columns and those of the effect move, the first `n_kept` stay, the others are not fitted.
    """
    n, k = data.shape[0], mixing.shape[1]
    columns, y, rank = np.empty((k, n, TILE)), np.empty((n, TILE)), np.zeros((k, TILE), np.bool_)
    gone = np.zeros((0, TILE))
    moving = np.concatenate((np.arange(lead), np.arange(n_nuisance, k)))
    m = len(moving)
    shares, kept, factor = np.empty((m, TILE)), np.empty((m, TILE)), np.empty((m, m, TILE))
    for start in range(0, len(voxels), TILE):
        part = voxels[start : start + TILE]
        norm = _prepare(
            data, static, evs, position, mixing, -1, n_nuisance, 1, demean, part, size, columns, rank, y, gone
        )
        for b in range(len(shuffles)):
            _multiply_moved(columns, rank, y, shuffles[b], moving, n_kept, shares, kept, factor)
            for j in range(len(part)):
                df, numerator = float(n - spent), 0
                for a in range(k):
                    df -= rank[a, j]
                    numerator += rank[a, j] if a >= n_nuisance else 0
                stands = norm[j] > 0 and df >= 1 and numerator > 0
                out[b, start + j] = _solve_moved(shares, factor, j, lead, numerator, is_f, df) if stands else 0.0


@loop
def count_ranks(  # noqa: PLR0913
    static: Float64, evs: Float32, position: Ints, mixing: Float64, size: Float64, outside: int,
    n_nuisance: int, demean: int, out: AnyArray,
) -> None:  # fmt: skip
    """out (3, V): rank of the nuisance, rank of the effect, and number of excluded subjects, at every voxel."""
    n, k = static.shape[0], mixing.shape[1]
    columns, rank = np.empty((k, n, TILE)), np.zeros((k, TILE), np.bool_)
    gone = np.zeros((n if outside >= 0 else 0, TILE))
    for start in range(0, out.shape[1], TILE):
        part = np.arange(start, min(start + TILE, out.shape[1]))
        _make_bases(static, evs, position, mixing, outside, demean & 1, part, size, columns, rank, gone)
        for j in range(len(part)):
            out[0, start + j] = rank[:n_nuisance, j].sum()
            out[1, start + j] = rank[n_nuisance:, j].sum()
            out[2, start + j] = int(gone[:, j].sum())


@loop
def fill_z(
    number: Int32, rest: int, kind: Int32, first: Int32, begin: Int32, cubics: Float64, out: AnyArray,
) -> None:  # fmt: skip
    """`f_to_z.f_to_z` with a table for each kind of voxel: rows begin[k] … begin[k + 1] − 1 of the cubics."""
    scale = np.float64(1 << rest)
    for b in range(number.shape[0]):
        for v in range(number.shape[1]):
            out[b, v] = np.float32(0)
            table = kind[v]
            count = begin[table + 1] - begin[table]
            k = (number[b, v] >> rest) - first[table]
            if count > 0 and number[b, v] > 0 and k >= 0:
                d = np.float64(number[b, v] & ((1 << rest) - 1)) / scale
                if k >= count:
                    k, d = count - 1, np.float64(1)
                c = cubics[begin[table] + k]
                out[b, v] = np.float32(max(((c[0] * d + c[1]) * d + c[2]) * d + c[3], 0.0))
