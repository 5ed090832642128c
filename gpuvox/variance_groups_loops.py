"""The compiled loops of `variance_groups`, for some voxels at a time.

Two passes over the residuals of a tile, which the first cache holds, give the coefficients and the squared residuals
of each group for a permutation: their sums are in registers, for all or half of the voxels. What follows them takes no
more than the groups and the triangles of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from gpuvox.glm_loops import ORTHOGONAL, SSE_FLOOR, is_constant, residualise_tile
from gpuvox.jit import cgutils, inner, intrinsic, loop, types
from gpuvox.types import Bools, Float32, Float64, Ints
from gpuvox.vectors import I64, fma, load, multiply_add, pointer, splat, spread, store
from gpuvox.z_tables import tabulated_tile

__all__ = ["fill", "find_norms"]

WIDTH = 32
"""Voxels that are handled at a time."""
LANES = 16
"""Voxels whose residuals are in registers at a time."""
LEAST_SHARE = 1e-8
"""Mean square of a group, as a share of that of all rows, that counts as the least."""


@intrinsic
def _multiply(  # noqa: PLR0913
    typing: Any, rows: Any, column: Any, places: Any, signs: Any, at: Any, tile: Any, out: Any, place: Any
) -> Any:
    """Product of a column of rows (n, m) with the rows of a tile (n, WIDTH) at `places`, from `at` on, and `signs`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, order, flips, values, sums = (
            pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 2, 3, 5, 6)
        )
        n, m = cgutils.unpack_tuple(
            builder, context.make_array(signature.args[0])(context, builder, arguments[0]).shape, 2
        )
        kind = ir.VectorType(ir.DoubleType(), WIDTH)
        held = cgutils.alloca_once_value(builder, ir.Constant(kind, [0.0] * WIDTH))
        with cgutils.for_range(builder, n) as row:
            here = builder.add(arguments[4], row.index)
            weight = builder.load(builder.gep(weights, [builder.add(builder.mul(row.index, m), arguments[1])]))
            weight = builder.fmul(weight, builder.load(builder.gep(flips, [here])))
            line = builder.mul(builder.load(builder.gep(order, [here])), ir.Constant(I64, WIDTH))
            value = load(builder, kind, values, line, 8)
            product = multiply_add(builder, spread(builder, weight, WIDTH), value, builder.load(held))
            builder.store(product, held)
        store(builder, builder.load(held), sums, arguments[7], 8)
        return context.get_dummy_value()

    i = types.intp
    return types.void(rows, i, places, signs, i, tile, out, i), generate


@intrinsic
def _squared_residuals(  # noqa: PLR0913
    typing: Any,
    rows: Any,
    places: Any,
    signs: Any,
    at: Any,
    first: Any,
    last: Any,
    tile: Any,
    coefficients: Any,
    out: Any,
    place: Any,
) -> Any:
    """Sum of the squared residuals of rows first … last − 1, from the coefficients (m, WIDTH) of all columns."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weights, order, flips, values, fitted, sums = (
            pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 1, 2, 6, 7, 8)
        )
        _, m = cgutils.unpack_tuple(
            builder, context.make_array(signature.args[0])(context, builder, arguments[0]).shape, 2
        )
        kind = ir.VectorType(ir.DoubleType(), LANES)
        zeros, width = ir.Constant(kind, [0.0] * LANES), ir.Constant(I64, WIDTH)
        held, residual = (cgutils.alloca_once(builder, kind) for _ in range(2))
        with cgutils.for_range(builder, ir.Constant(I64, WIDTH // LANES)) as part:
            lane = builder.mul(part.index, ir.Constant(I64, LANES))
            builder.store(zeros, held)
            with cgutils.for_range(builder, arguments[5], start=arguments[4]) as row:
                here = builder.add(arguments[3], row.index)
                line = builder.mul(builder.load(builder.gep(order, [here])), width)
                value = load(builder, kind, values, builder.add(line, lane), 8)
                flip = builder.load(builder.gep(flips, [here]))
                builder.store(builder.fmul(value, spread(builder, flip, LANES)), residual)
                begin = builder.mul(row.index, m)
                with cgutils.for_range(builder, m) as column:
                    weight = builder.load(builder.gep(weights, [builder.add(begin, column.index)]))
                    line = builder.add(builder.mul(column.index, width), lane)
                    fit = load(builder, kind, fitted, line, 8)
                    less = spread(builder, builder.fneg(weight), LANES)
                    builder.store(multiply_add(builder, less, fit, builder.load(residual)), residual)
                rest = builder.load(residual)
                builder.store(multiply_add(builder, rest, rest, builder.load(held)), held)
            store(builder, builder.load(held), sums, builder.add(arguments[9], lane), 8)
        return context.get_dummy_value()

    i = types.intp
    return types.void(rows, places, signs, i, i, i, tile, coefficients, out, i), generate


@inner
def _weigh(
    squares: Float64,
    sizes: Float64,
    rests: Float64,
    shares: Float64,
    weights: Float64,
    total: Float64,
    spread_out: Float64,
) -> None:
    """Weights (groups, WIDTH) of the groups from their squared residuals, and B."""
    n_groups, least = len(sizes), spread_out
    whole = 0.0
    total[:] = 0.0
    for g in range(n_groups):
        whole += rests[g]
        for j in range(WIDTH):
            total[j] += squares[g, j]
    whole = LEAST_SHARE / whole
    for j in range(WIDTH):
        least[j] = whole * max(total[j], SSE_FLOOR)
        total[j] = 0.0
    for g in range(n_groups):
        for j in range(WIDTH):
            weights[g, j] = 1.0 / max(squares[g, j] * shares[g], least[j])
            total[j] += sizes[g] * weights[g, j]
    for j in range(WIDTH):
        total[j] = 1.0 / total[j]
        spread_out[j] = 0.0
    for g in range(n_groups):
        for j in range(WIDTH):
            lacking = 1.0 - sizes[g] * weights[g, j] * total[j]
            spread_out[j] += lacking * lacking * shares[g]


def _step(build: Callable[..., tuple[Any, ...]]) -> Callable[..., Any]:
    """A step on rows of arrays (rows, WIDTH): what `build` makes of a row of each of the three replaces the rows."""

    @intrinsic
    def step(typing: Any, x: Any, i: Any, y: Any, j: Any, z: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind, width = ir.VectorType(ir.DoubleType(), LANES), ir.Constant(I64, WIDTH)
            arrays = [pointer(context, builder, signature.args[at], arguments[at]) for at in (0, 2, 4)]
            rows = [builder.mul(arguments[at], width) for at in (1, 3, 5)]
            for lane in range(0, WIDTH, LANES):
                places = [builder.add(row, ir.Constant(I64, lane)) for row in rows]
                values = [load(builder, kind, *pair, 8) for pair in zip(arrays, places)]
                for number, value in enumerate(build(builder, *values)):
                    store(builder, value, arrays[number], places[number], 8)
            return context.get_dummy_value()

        i = types.intp
        return types.void(x, i, y, i, z, i), generate

    return step


_add_product = _step(lambda builder, x, y, z: (multiply_add(builder, y, z, x),))
_take_product = _step(lambda builder, x, y, z: (multiply_add(builder, builder.fneg(y), z, x),))
_invert = _step(lambda builder, x, y, z: (builder.fdiv(splat(y.type, 1.0), y),))


def _divided(builder: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    value = builder.fmul(y, z)
    return multiply_add(builder, builder.fneg(y), value, x), value


_divide = _step(_divided)
"""x − y · (y z) and y z, in place of x and y."""


@intrinsic
def _add_scaled(typing: Any, x: Any, i: Any, y: Any, j: Any, scale: Any) -> Any:
    """Add a multiple of a row of y to a row of x."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, width = ir.VectorType(ir.DoubleType(), LANES), ir.Constant(I64, WIDTH)
        out, values = (pointer(context, builder, signature.args[at], arguments[at]) for at in (0, 2))
        to, place = (builder.mul(arguments[at], width) for at in (1, 3))
        factor = spread(builder, arguments[4], LANES)
        for lane in range(0, WIDTH, LANES):
            here, there = (builder.add(row, ir.Constant(I64, lane)) for row in (to, place))
            held, value = load(builder, kind, out, here, 8), load(builder, kind, values, there, 8)
            store(builder, multiply_add(builder, factor, value, held), out, here, 8)
        return context.get_dummy_value()

    return types.void(x, types.intp, y, types.intp, types.float64), generate


@inner
def _factorise(grams: Float64, weights: Float64, factor: Float64, inverse: Float64) -> None:
    """The factors of Σ_g weights[g] grams[g] = L D Lᵀ: triangles (m (m + 1) / 2, WIDTH), with D on the diagonal of L.

    grams (groups, m (m + 1) / 2); inverse (m, WIDTH) receives 1/D.
    """
    factor[:] = 0.0
    for g in range(len(grams)):
        for k in range(grams.shape[1]):
            _add_scaled(factor, k, weights, g, grams[g, k])
    for row in range(len(inverse)):
        mine = row * (row + 1) // 2
        for column in range(1, row):
            other = column * (column + 1) // 2
            for k in range(column):
                _take_product(factor, mine + column, factor, mine + k, factor, other + k)
        for k in range(row):
            _divide(factor, mine + row, factor, mine + k, inverse, k)
        _invert(inverse, row, factor, mine + row, factor, mine + row)


@inner
def _combine(
    effect: Float64,
    factor: Float64,
    n_columns: int,
    is_f: bool,
    spread_out: Float64,
    product: Float64,
    statistic: Float64,
) -> None:
    """v or G (WIDTH,) from the coefficients (s, WIDTH) of the effect."""
    s = len(effect)
    first = n_columns - s
    if not is_f:
        last = n_columns * (n_columns + 1) // 2 - 1
        for j in range(WIDTH):
            statistic[j] = effect[0, j] * np.sqrt(factor[last, j])
        return
    statistic[:] = 0.0
    for c in range(s):
        product[:] = effect[c]
        for a in range(c + 1, s):
            at = (first + a) * (first + a + 1) // 2 + first + c
            _add_product(product, 0, factor, at, effect, a)
        at = (first + c) * (first + c + 1) // 2 + first + c
        for j in range(WIDTH):
            statistic[j] = fma(product[j] * product[j], factor[at, j], statistic[j])
    slope = 2.0 * (s - 1) / (s * (s + 2.0))
    for j in range(WIDTH):
        statistic[j] = statistic[j] / (s * (1.0 + slope * spread_out[j]))


@inner
def _unit_tile(
    data: Float32, voxels: Ints, norms: Float64, removed: Float64, raw: Float64, unit: Float64, tile: Float64
) -> None:
    """Unit residuals (n, WIDTH) of voxels, and what they were multiplied by; 0 where there are none, or no voxel."""
    width = len(voxels)
    residualise_tile(data, voxels, removed, raw, unit)
    for j in range(width):
        unit[j] = 1.0 / unit[j] if unit[j] > 0 and norms[j] > 0 else 0.0
    unit[width:] = 0.0
    for i in range(len(tile)):
        for j in range(width):
            tile[i, j] = raw[i, j] * unit[j]
        for j in range(width, WIDTH):
            tile[i, j] = 0.0


@inner
def _regress(  # noqa: PLR0913
    rows: Float64, ends: Ints, places: Ints, signs: Float64, at: int, tile: Float64, rank: int, fits: Float64,
    squares: Float64,
) -> None:  # fmt: skip
    """Coefficients (m, WIDTH) and squared residuals (groups, WIDTH) of one permutation, whose places begin at `at`."""
    for r in range(len(fits)):
        _multiply(rows, r, places, signs, at, tile, fits, r * WIDTH)
    first = 0
    for g in range(len(ends)):
        _squared_residuals(rows, places, signs, at, first, ends[g], tile, fits, squares, g * WIDTH)
        first = ends[g]
    for r in range(len(fits) - rank, len(fits)):
        for j in range(WIDTH):
            fits[r, j] = 0.0 if abs(fits[r, j]) < ORTHOGONAL else fits[r, j]


@loop
def fill(  # noqa: PLR0913
    data: Float32, voxels: Ints, norms: Float64, removed: Float64, places: Ints, signs: Float64, rows: Float64,
    ends: Ints, sizes: Float64, rests: Float64, shares: Float64, grams: Float64, rank: int, n_columns: int, is_f: bool,
    numerator: float, first_x: int, first_df: int, least: float, polynomials: Float64, maps: Float32, exact: Float64,
) -> None:  # fmt: skip
    """z of some voxels, columns of the data, for all permutations of a batch.

    places, signs (B, n): where the rows of the model, sorted by group, come to, and with which sign. For rows, ends,
    sizes, rests, shares and grams see `variance_groups`, for what follows them `z_tables`. maps (B, voxels) receives z,
    or exact (3, B, voxels) the statistic, its degrees of freedom and z; the other is empty.
    """
    n, m = rows.shape
    n_groups = len(ends)
    raw, unit, tile = np.zeros((n, WIDTH)), np.empty(WIDTH), np.zeros((n, WIDTH))
    scratch = np.empty(WIDTH, np.int32), np.empty(WIDTH), np.empty(WIDTH)
    fits, squares, weights = np.empty((m, WIDTH)), np.empty((n_groups, WIDTH)), np.empty((n_groups, WIDTH))
    factor, inverse = np.empty((grams.shape[1], WIDTH)), np.empty((n_columns, WIDTH))
    spread_out, statistic = np.empty(WIDTH), np.empty(WIDTH)
    size, df, z = np.empty(WIDTH), np.empty(WIDTH), np.empty(WIDTH)
    for start in range(0, len(voxels), WIDTH):
        width = min(WIDTH, len(voxels) - start)
        _unit_tile(data, voxels[start : start + width], norms[start : start + width], removed, raw, unit, tile)
        for b in range(len(places)):
            _regress(rows, ends, places, signs, b * n, tile, rank, fits, squares)
            _weigh(squares, sizes, rests, shares, weights, size, spread_out)
            _factorise(grams, weights, factor, inverse)
            _combine(fits[m - rank :], factor, n_columns, is_f, spread_out, size, statistic)
            for j in range(WIDTH):
                size[j] = abs(statistic[j])
                df[j] = numerator / spread_out[j] if n_groups > 1 else numerator
            tabulated_tile(size, df, first_x, first_df, least, polynomials, scratch, z)
            for j in range(WIDTH):
                z[j] = z[j] if is_f else z[j] * statistic[j]
                z[j] = 0.0 if unit[j] == 0.0 else z[j]
            if maps.size:
                target = maps[b, start : start + width]
                for j in range(width):
                    target[j] = np.float32(z[j])
            if exact.size:
                exact[0, b, start : start + width] = statistic[:width]
                exact[1, b, start : start + width] = df[:width]
                exact[2, b, start : start + width] = z[:width]


@loop
def find_norms(data: Float32, removed: Float64, counts: Bools, norms: Float64) -> None:
    """Norms of the residuals, 0 where there are none; see `glm`."""
    n = data.shape[0]
    raw = np.empty((n, WIDTH))
    for start in range(0, len(norms), WIDTH):
        stop = min(start + WIDTH, len(norms))
        residualise_tile(data, np.arange(start, stop), removed, raw, norms[start:stop])
        for j in range(start, stop):
            if is_constant(data, j, counts):
                norms[j] = 0.0
