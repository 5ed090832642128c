"""Statistic maps of many permutations on the CPU: products of permuted rows with the residuals (`glm` has the theory).

The products are a multiplication of matrices, (rows, n) by (n, V), whose sums run over the subjects in index order with
fused multiply-add, so that the bits depend neither on the processor nor on the batch. Three levels of memory:

- *Registers* hold the sums of 6 rows at 8 to 32 voxels, as many as the processor has room for; for each subject, the
  weights of the 6 rows are each multiplied with all of these voxels. 6 rows and 16 voxels take 12 of the 16 registers
  of AVX2.
- *The first cache* holds 64 subjects of a tile of 64 voxels (`scratch.Tiles`), which all rows of the batch use.
- *Memory* is read once for a batch, tile by tile: while one tile is multiplied, the next is asked for, a few lines with
  each group of rows.

Sums of squares and the statistic of a tile follow while the products are in the cache.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
from llvmlite import ir

from gpuvox.jit import cgutils, inner, intrinsic, loop, types
from gpuvox.scratch import WIDTH
from gpuvox.types import Float32, Floats, Ints
from gpuvox.vectors import I64, load, multiply_add, pointer, prefetch, spread, store

__all__ = ["grouped", "statistic_maps", "tile_products"]

TILE = WIDTH
"""Voxels that are handled at a time."""
DEPTH = 64
"""Subjects that are handled at a time."""
GROUP = 6
"""Rows of a group, whose sums are in registers."""
LINE = 16
"""float32 numbers of a line of the cache."""


def grouped(rows: Float32) -> Float32:
    """(rows, n) → (groups, n, 6) float32: rows in groups of six, the last filled up with zeros."""
    n_rows, n = rows.shape
    whole = np.zeros((-(-n_rows // GROUP) * GROUP, n), dtype=np.float32)
    whole[:n_rows] = rows
    return np.ascontiguousarray(whole.reshape(-1, GROUP, n).transpose(0, 2, 1))


def _lanes(context: Any) -> int:
    """Voxels whose sums are in registers at a time, for the processor that is compiled for."""
    features = set(context.codegen().magic_tuple()[2].split(","))
    if "+avx512f" in features:
        return 32
    return 16 if "+avx2" in features or platform.machine() in ("aarch64", "arm64") else 8


@intrinsic
def _multiply(typing: Any, rows: Any, row: Any, tiles: Any, at: Any, depth: Any, sums: Any, first: Any) -> Any:
    """Add the products of six rows with a tile to `sums`: `row` and `at` are flat indices, of `depth` subjects each."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, values, out = (pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 5))
        row, at, depth, first = arguments[1], arguments[3], arguments[4], arguments[6]
        kind = ir.VectorType(ir.FloatType(), _lanes(context))

        def number(value: int) -> Any:
            return ir.Constant(I64, value)

        blocks = cgutils.for_range(builder, number(TILE // kind.count))
        with blocks as block:
            column = builder.mul(block.index, number(kind.count))
            places = [
                builder.add(builder.mul(builder.add(first, number(r)), number(TILE)), column) for r in range(GROUP)
            ]
            held = [cgutils.alloca_once(builder, kind) for _ in range(GROUP)]
            for variable, place in zip(held, places):
                builder.store(load(builder, kind, out, place, 4), variable)
            column = builder.add(at, column)
            with cgutils.for_range(builder, depth) as subject:
                step = builder.mul(subject.index, number(TILE))
                value = load(builder, kind, values, builder.add(column, step), 4)
                place = builder.add(row, builder.mul(subject.index, number(GROUP)))
                for r, variable in enumerate(held):
                    weight = builder.load(builder.gep(weights, [builder.add(place, number(r))]))
                    product = multiply_add(
                        builder, spread(builder, weight, kind.count), value, builder.load(variable)
                    )
                    builder.store(product, variable)
            for variable, place in zip(held, places):
                store(builder, builder.load(variable), out, place, 4)
        return context.get_dummy_value()

    i = types.intp
    return types.void(rows, i, tiles, i, i, sums, i), generate


@inner
def tile_products(rows: Float32, tiles: Float32, k: int, sums: Float32) -> None:
    """Products (rows, TILE) of all rows with a tile."""
    n = tiles.shape[1]
    sums[:] = np.float32(0)
    share = n * TILE // len(rows) + LINE
    for first in range(0, n, DEPTH):
        depth = min(DEPTH, n - first)
        for g in range(len(rows)):
            if first == 0:
                for i in range(g * share, (g + 1) * share, LINE):
                    prefetch(tiles, (k + 1) * n * TILE + i)
            _multiply(rows, (g * n + first) * GROUP, tiles, (k * n + first) * TILE, depth, sums, g * GROUP)


@inner
def _statistic_tile(  # noqa: C901
    products: Float32, rank: int, is_f: bool, df: float, limit: np.float32, statistic: Float32, sse: Float32
) -> int:
    """Products of one permutation (m, TILE) → statistic and SSE of the tile; returns how many voxels need float64."""
    m = products.shape[0]
    one = np.float32(1)
    for j in range(TILE):
        sse[j] = one
    for r in range(m):
        for j in range(TILE):
            sse[j] -= products[r, j] * products[r, j]
    if is_f:
        for j in range(TILE):
            statistic[j] = np.float32(0)
        for r in range(rank):
            for j in range(TILE):
                statistic[j] += products[r, j] * products[r, j]
        ratio = np.float32(df / rank)
        for j in range(TILE):
            statistic[j] = statistic[j] * ratio / sse[j]
    else:
        for j in range(TILE):
            statistic[j] = products[0, j] * np.sqrt(np.float32(df) / sse[j])
    n_low = 0
    for j in range(TILE):
        n_low += sse[j] < limit
    return n_low


@loop
def statistic_maps(  # noqa: PLR0913
    rows: Float32,
    per_shuffle: int,
    tiles: Float32,
    first_voxel: int,
    rank: int,
    is_f: bool,
    df: float,
    limit: np.float32,
    out: Float32,
    sse_out: Floats,
) -> Ints:
    """Statistic maps of a batch at the voxels of some tiles.

    rows: see `grouped`; `per_shuffle` of them for each of B permutations. tiles (k, n, TILE) float32, of the voxels
    from `first_voxel` on; out (B, V). sse_out (B, V) receives the SSE unless it is empty. A voxel whose SSE cancels is
    marked by NaN. Returns the number of such marks per permutation.
    """
    n_maps, n_voxels = out.shape
    sums = np.empty((GROUP * len(rows), TILE), np.float32)
    statistic, sse = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    marks = np.zeros(n_maps, np.int64)
    for k in range(len(tiles)):
        start = first_voxel + k * TILE
        width = min(TILE, n_voxels - start)
        tile_products(rows, tiles, k, sums)
        for b in range(n_maps):
            products = sums[b * per_shuffle : (b + 1) * per_shuffle]
            n_low = _statistic_tile(products, rank, is_f, df, limit, statistic, sse)
            if n_low:
                marks[b] += n_low
                for j in range(width):
                    if sse[j] < limit:
                        statistic[j] = np.float32(np.nan)
            target = out[b, start : start + width]
            for j in range(width):
                target[j] = statistic[j]
            if sse_out.size:
                target = sse_out[b, start : start + width]
                for j in range(width):
                    target[j] = sse[j]
    return marks
