"""z of t and F whose degrees of freedom are any numbers and differ from value to value, in float64, on CPU and GPU.

z is the standard normal value with the same tail probability. A table has polynomials of it in places within intervals
of the statistic and of its degrees of freedom, four from each power of two to the next. Intervals have the float64
numbers whose first bits are the same, so that neither a CPU nor a GPU takes a logarithm, and both get the same
bits (``kernels/z_tables.cuh``). The relative error of z of t is under 1e-8 for 0.05 degrees of freedom or more
(under 4e-9 from 1 on), the error of z of F under 1e-8 or a relative 4e-9, at any tail probability.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from llvmlite import ir
from numpy.typing import ArrayLike
from scipy.special import betainc, betaln, erfinv, hyp2f1, ndtri_exp

from gpuvox.jit import inner, intrinsic, loop, types
from gpuvox.types import Float64, Int32, Ints
from gpuvox.vectors import I32, I64, load, multiply_add, pointer, splat, spread, store

__all__ = ["ZTable", "tabulated", "tabulated_all", "tabulated_tile", "z_of_f", "z_of_t", "z_table"]

STEPS = 4
"""Intervals of t or F, and of its degrees of freedom, from each power of two to the next."""
X_DEGREE, DF_DEGREE = 7, 5
"""Degrees of the polynomials in the place within an interval of t or F, and of its degrees of freedom."""
T_RANGE = -4, 42
"""Powers of two from which, and up to which, t has intervals; below it has one, down to 0."""
F_RANGE = -40, 84
"""The same of F, which below them counts as the least."""
REST = 50
"""Bits of a float64 number that are the place in its interval."""
INSIDE = (1 << REST) - 1
"""Those bits."""
ONE = 1023 << 52
"""The bits of 1."""
LANES = 16
"""Numbers whose intervals are found at a time."""
Scratch: TypeAlias = tuple[Int32, Float64, Float64]
"""Interval, and places in it, of numbers that are looked up at the same time."""


def z_of_t(t: ArrayLike, df: ArrayLike) -> Float64:
    """Standard normal value with the tail probabilities of a t of any degrees of freedom > 0, from the nearer tail."""
    t, df = np.broadcast_arrays(np.asarray(t, dtype=np.float64), df)
    square = t**2
    outside, inside = _log_tails(df / 2, np.full(t.shape, 0.5), df / (df + square), square / (df + square))
    with np.errstate(invalid="ignore"):
        near = np.sqrt(2) * erfinv(np.exp(inside))
        z: Float64 = np.sign(t) * np.where(inside < -1, near, -ndtri_exp(outside - np.log(2)))
    return z


def z_of_f(f: ArrayLike, df1: float, df2: ArrayLike) -> Float64:
    """Standard normal value with the tail probabilities of an F, from the nearer tail; -∞ for 0."""
    f, df2 = np.broadcast_arrays(np.asarray(f, dtype=np.float64), df2)
    total = df2 + df1 * f
    upper, lower = _log_tails(df2 / 2, np.full(f.shape, df1 / 2), df2 / total, df1 * f / total)
    z: Float64 = np.where(upper < lower, -ndtri_exp(upper), ndtri_exp(lower))
    return z


def _log_tails(a: Float64, b: Float64, x: Float64, rest: Float64) -> tuple[Float64, Float64]:
    """Logarithms of the regularised incomplete beta function at x = 1 − rest, and of what it lacks to 1."""
    small = x < rest
    first, second, least, most = (np.where(small, *pair) for pair in ((a, b), (b, a), (x, rest), (rest, x)))
    near = _log_betainc(first, second, least, most)
    with np.errstate(divide="ignore"):
        far = np.where(near < -0.1, np.log1p(-np.exp(near)), _log_betainc(second, first, most, least))
    return np.where(small, near, far), np.where(small, far, near)


def _log_betainc(a: Float64, b: Float64, x: Float64, rest: Float64) -> Float64:
    """Logarithm of the regularised incomplete beta function at x = 1 − rest, also where it is too small for float64."""
    with np.errstate(divide="ignore"):
        value: Float64 = np.asarray(np.log(betainc(a, b, x)))
    far = (value < -500) & (x > 0)
    a, b, x, rest = a[far], b[far], x[far], rest[far]
    series = np.log(hyp2f1(a + b, 1, a + 1, x))
    value[far] = a * np.log(x) + b * np.log(rest) - np.log(a) - betaln(a, b) + series
    return value


class ZTable(NamedTuple):
    """Polynomials of z / t or of z of F.

    The first interval of the statistic goes down to 0; z of F is constant there.

    Attributes
    ----------
    first_x, first_df : int
        First bits of the second interval of t or F, and of the first of the degrees of freedom.
    least : float
        Where the second interval of t or F begins.
    polynomials : (intervals of df, intervals of t or F, 6, 8) float64
        Coefficients of powers of the place in the interval of df and in that of t or F, the highest first.
    """

    first_x: int
    first_df: int
    least: float
    polynomials: Float64


def _number(value: float) -> int:
    """First bits of a float64 number: those that the numbers of an interval have in common."""
    return int(np.float64(value).view(np.int64)) >> REST


def z_table(rank: int, least_df: float, most_df: float) -> ZTable:
    """The table of t (rank 0), or of F for an effect of this rank, for degrees of freedom of a range."""
    return _z_table(rank, _number(least_df), _number(most_df))


@lru_cache(maxsize=16)
def _z_table(rank: int, first_df: int, last_df: int) -> ZTable:
    low, high = F_RANGE if rank else T_RANGE
    first_x = _number(2.0**low)
    x = _nodes(np.arange(first_x, first_x + (high - low) * STEPS + 1), X_DEGREE)
    df = _nodes(np.arange(first_df, last_df + 2), DF_DEGREE)
    nearest = 2.0**low * _chebyshev(X_DEGREE)
    if rank:
        nearest[:] = 2.0**low
    x = np.concatenate([nearest[None], x])
    value = z_of_f(x, rank, df[:, :, None, None]) if rank else z_of_t(x, df[:, :, None, None]) / x
    value = value.transpose(0, 2, 1, 3)  # intervals of df and of x, nodes of df, nodes of x
    to_df, to_x = (np.linalg.inv(np.vander(_chebyshev(degree))) for degree in (DF_DEGREE, X_DEGREE))
    polynomials = np.ascontiguousarray(to_df @ value @ to_x.T)
    return ZTable(first_x, first_df, 2.0**low, polynomials)


def _chebyshev(degree: int) -> Float64:
    """Places in an interval, from 0 to 1, at which polynomials are interpolated: Chebyshev's."""
    places: Float64 = (1 - np.cos((2 * np.arange(degree + 1) + 1) * np.pi / (2 * degree + 2))) / 2
    return places


def _nodes(numbers: Ints, degree: int) -> Float64:
    """Nodes of the intervals between the float64 numbers with these successive first bits."""
    bounds: Float64 = (numbers.astype(np.int64) << REST).view(np.float64)
    return bounds[:-1, None] + np.diff(bounds)[:, None] * _chebyshev(degree)


@intrinsic
def _polynomial(typing: Any, polynomials: Any, at: Any, d: Any, e: Any) -> Any:
    """The polynomial whose coefficients begin at a flat index, at places d of t or F and e of their df."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        coefficients = pointer(context, builder, signature.args[0], arguments[0])
        at, d, e = arguments[1:]
        kind, half = (ir.VectorType(ir.DoubleType(), width) for width in (X_DEGREE + 1, (X_DEGREE + 1) // 2))
        place = spread(builder, e, kind.count)
        powers = load(builder, kind, coefficients, at, 8)
        for k in range(1, DF_DEGREE + 1):
            term = load(builder, kind, coefficients, builder.add(at, ir.Constant(I64, k * kind.count)), 8)
            powers = multiply_add(builder, powers, place, term)
        nothing, square = ir.Constant(kind, ir.Undefined), builder.fmul(d, d)
        high, low = (
            builder.shuffle_vector(
                powers, nothing, ir.Constant(ir.VectorType(I32, half.count), [*range(k, k + half.count)])
            )
            for k in (0, half.count)
        )
        folded = multiply_add(builder, high, spread(builder, builder.fmul(square, square), half.count), low)
        value = builder.extract_element(folded, ir.Constant(I32, 0))
        for k in range(1, half.count):
            value = builder.fma(value, d, builder.extract_element(folded, ir.Constant(I32, k)))
        return value

    return types.float64(polynomials, types.int64, types.float64, types.float64), generate


@intrinsic
def _locate(  # noqa: PLR0913
    typing: Any,
    values: Any,
    start: Any,
    first: Any,
    count: Any,
    below: Any,
    per_unit: Any,
    before: Any,
    step: Any,
    at: Any,
    places: Any,
) -> Any:
    """Intervals and places of LANES float64 numbers > 0, from `start` on.

    There are `count` intervals, after `below` (0 or 1) that goes down to 0; their numbers, times `step`, are added to
    `before` times what `at` holds.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, where, out = (pointer(context, builder, signature.args[k], arguments[k]) for k in (0, 8, 9))
        start, first, count, below, per_unit, before, step = arguments[1:8]
        kind, long, short = (ir.VectorType(each, LANES) for each in (ir.DoubleType(), I64, I32))
        x = load(builder, kind, numbers, start, 8)
        bits = builder.bitcast(x, long)
        number = builder.trunc(builder.lshr(bits, splat(long, REST)), short)
        number = builder.sub(number, spread(builder, builder.trunc(first, I32), LANES))
        number = builder.add(number, spread(builder, builder.trunc(below, I32), LANES))
        least, most = (
            spread(builder, builder.trunc(each, I32), LANES)
            for each in (below, builder.sub(builder.add(below, count), ir.Constant(I64, 1)))
        )
        is_low, is_high = builder.icmp_signed("<", number, least), builder.icmp_signed(">", number, most)
        place = builder.bitcast(builder.or_(builder.and_(bits, splat(long, INSIDE)), splat(long, ONE)), kind)
        place = builder.fmul(builder.fsub(place, splat(kind, 1.0)), splat(kind, float(STEPS)))
        place = builder.select(is_high, splat(kind, 1.0), place)
        place = builder.select(is_low, builder.fmul(x, spread(builder, per_unit, LANES)), place)
        number = builder.select(is_low, splat(short, 0), builder.select(is_high, most, number))
        number = builder.mul(number, spread(builder, builder.trunc(step, I32), LANES))
        held = load(builder, short, where, start, 4)
        held = builder.mul(held, spread(builder, builder.trunc(before, I32), LANES))
        store(builder, builder.add(held, number), where, start, 4)
        store(builder, place, out, start, 8)
        return context.get_dummy_value()

    i, real = types.intp, types.float64
    return types.void(values, i, i, i, i, real, i, i, at, places), generate


@inner
def tabulated(x: float, df: float, first_x: int, first_df: int, least: float, polynomials: Float64) -> float:
    """The polynomial of a table at x ≥ 0 and df: z / t, or z of F."""
    n_df, n_x, powers, terms = polynomials.shape
    row, column = np.int64((_bits(df) >> REST) - first_df), np.int64((_bits(x) >> REST) - first_x + 1)
    d, e = _place(x), _place(df)
    if row < 0 or row >= n_df:
        row, e = (np.int64(0), 0.0) if row < 0 else (np.int64(n_df - 1), 1.0)
    if column < 1:
        column, d = np.int64(0), x * (1.0 / least)
    elif column >= n_x:
        column, d = np.int64(n_x - 1), 1.0
    value: float = _polynomial(polynomials, (row * n_x + column) * (powers * terms), d, e)
    return value


@inner
def _bits(value: float) -> np.int64:
    return np.float64(value).view(np.int64)


@inner
def _place(value: float) -> float:
    """The place of a number > 0 in its interval."""
    return (np.int64(_bits(value) & INSIDE | ONE).view(np.float64) - 1.0) * STEPS


@inner
def tabulated_tile(
    x: Float64,
    df: Float64,
    first_x: int,
    first_df: int,
    least: float,
    polynomials: Float64,
    scratch: Scratch,
    out: Float64,
) -> None:
    """The polynomials of a table at some x ≥ 0 and df, a multiple of LANES of them: z / t, or z of F."""
    at, d, e = scratch
    n_df, n_x, powers, terms = polynomials.shape
    at[:] = 0
    for start in range(0, len(x), LANES):
        _locate(df, start, first_df, n_df, 0, 0.0, 0, n_x, at, e)
        _locate(x, start, first_x, n_x - 1, 1, 1.0 / least, 1, 1, at, d)
    for j in range(len(x)):
        out[j] = _polynomial(polynomials, at[j] * (powers * terms), d[j], e[j])


def tabulated_all(table: ZTable, x: Float64, df: Float64) -> Float64:
    """The polynomials at some x ≥ 0 and df: z / t, or z of F."""
    out = np.empty(-(-x.size // LANES) * LANES)
    x_row, df_row = (np.resize(values, out.shape) for values in (x, df))
    _tabulate(x_row, df_row, table.first_x, table.first_df, table.least, table.polynomials, out)
    return out[: x.size].reshape(x.shape)


@loop
def _tabulate(
    x: Float64, df: Float64, first_x: int, first_df: int, least: float, polynomials: Float64, out: Float64
) -> None:
    scratch = np.empty(len(x), np.int32), np.empty(len(x)), np.empty(len(x))
    tabulated_tile(x, df, first_x, first_df, least, polynomials, scratch, out)
