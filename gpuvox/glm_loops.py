"""Compiled loops of the general linear model in float64, and what counts as zero, perfect or imprecise; see `glm`."""

from __future__ import annotations

import numpy as np

from gpuvox.jit import inner, loop
from gpuvox.products import TILE
from gpuvox.types import Bools, Float32, Float64, Ints

SSE_FLOOR = 1e-14
"""Share of the residual below which a fit counts as perfect; this keeps t finite (√df·1e7)."""
SSE_CANCELS = 1e-2
"""Share of the residual below which float32 is not precise enough, up to 500 subjects; see `cancels_below`."""
ZERO_RESIDUAL = 1e-10
"""A residual norm below this share of the data's norm is zero: the statistic is 0 in every permutation."""
ALONE = 1e-10
"""A row whose leverage under the nuisance is 1 to within this is fitted exactly: its residual is zero."""
ORTHOGONAL = 1e-13
"""A product of two unit vectors up to this is rounding."""


def cancels_below(n: int) -> float:
    """Share of the residual below which float32 is not precise enough: rounding grows with the number of subjects."""
    return max(SSE_CANCELS, 2e-5 * n)


@inner
def residualise_tile(data: Float32, voxels: Ints, basis: Float64, buffer: Float64, norm: Float64) -> None:  # noqa: C901
    """Data of some voxels, residualised on an orthonormal basis in float64, into buffer (n, TILE); norms.

    A norm of 0 means that only rounding was left.
    """
    n = data.shape[0]
    width = len(voxels)
    raw = np.zeros(width)
    coefficient = np.empty(width)
    for i in range(n):
        for j in range(width):
            value = np.float64(data[i, voxels[j]])
            buffer[i, j] = value
            raw[j] += value * value
    for a in range(basis.shape[1]):
        coefficient[:] = 0.0
        for i in range(n):
            for j in range(width):
                coefficient[j] += basis[i, a] * buffer[i, j]
        for i in range(n):
            for j in range(width):
                buffer[i, j] -= basis[i, a] * coefficient[j]
    norm[:] = 0.0
    for i in range(n):
        for j in range(width):
            norm[j] += buffer[i, j] * buffer[i, j]
    for j in range(width):
        norm[j] = np.sqrt(norm[j])
        if norm[j] <= ZERO_RESIDUAL * np.sqrt(raw[j]):
            norm[j] = 0.0


@inner
def is_constant(data: Float32, voxel: int, counts: Bools) -> bool:
    """Whether the data of a voxel are the same in all rows that count."""
    first = -1
    for i in range(data.shape[0]):
        if counts[i]:
            if first >= 0 and data[i, voxel] != data[first, voxel]:
                return False
            first = i
    return True


@loop
def unit_residuals(data: Float32, basis: Float64, counts: Bools, tiles: Float32, norms: Float64) -> None:
    """tiles (k, n, TILE) float32 = residuals scaled to unit norm (0 where there is none); norms (V,) float64.

    data (n, V or more) float32; counts (n,): rows in which data must differ, or the voxel is constant.
    """
    n = data.shape[0]
    buffer = np.empty((n, TILE))
    norm = np.empty(TILE)
    for k in range(len(tiles)):
        start = k * TILE
        width = min(TILE, len(norms) - start)
        residualise_tile(data, np.arange(start, start + width), basis, buffer, norm)
        for j in range(width):
            if is_constant(data, start + j, counts):
                norm[j] = 0.0
            norms[start + j] = norm[j]
            norm[j] = 1.0 / norm[j] if norm[j] > 0 else 0.0
        for i in range(n):
            for j in range(width):
                tiles[k, i, j] = buffer[i, j] * norm[j]
            for j in range(width, TILE):
                tiles[k, i, j] = np.float32(0)


@loop
def fill_exact(  # noqa: C901, PLR0913
    data: Float32,
    voxels: Ints,
    number: Ints,
    norms: Float64,
    basis: Float64,
    W: Float64,
    rank: int,
    is_f: bool,
    df: float,
    statistic: Float64,
    sse: Float64,
) -> None:
    """Statistic and SSE at some voxels of some permutations, in float64 from the data.

    W (k, m, n) float64: rows of k permutations; number: which of them, for each voxel; norms: the norms of
    `unit_residuals` at these voxels.
    """
    n, m = data.shape[0], W.shape[1]
    buffer = np.empty((n, min(TILE, len(voxels))))
    norm, product = np.empty(TILE), np.empty(TILE)
    stop = 0
    while stop < len(voxels):
        start = stop
        while stop < min(start + TILE, len(voxels)) and number[stop] == number[start]:
            stop += 1
        part, rows, effect, residual = voxels[start:stop], W[number[start]], statistic[start:stop], sse[start:stop]
        residualise_tile(data, part, basis, buffer, norm)
        for j in range(len(part)):
            norm[j] = 1.0 / norm[j] if norm[j] > 0 and norms[start + j] > 0 else 0.0
            effect[j] = 0.0
            residual[j] = 0.0
        # The residual itself is formed: 1 − Σ product² would lose digits where the fit is nearly perfect.
        for r in range(m):
            for j in range(len(part)):
                product[j] = 0.0
            for i in range(n):
                for j in range(len(part)):
                    product[j] += rows[r, i] * buffer[i, j]
            for i in range(n):
                for j in range(len(part)):
                    buffer[i, j] -= rows[r, i] * product[j]
            for j in range(len(part)):
                share = product[j] * norm[j]
                if abs(share) < ORTHOGONAL:
                    share = 0.0
                if r < rank:
                    effect[j] = effect[j] + share * share if is_f else share
        for i in range(n):
            for j in range(len(part)):
                residual[j] += (buffer[i, j] * norm[j]) ** 2
        for j in range(len(part)):
            residual[j] = max(residual[j], SSE_FLOOR) if norm[j] != 0.0 else 1.0
            share = df / residual[j]
            effect[j] = effect[j] / rank * share if is_f else effect[j] * np.sqrt(share)
