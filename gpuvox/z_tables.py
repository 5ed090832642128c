"""z of t and F whose degrees of freedom are any numbers and differ from value to value, in float64, on CPU and GPU.

z is the standard normal value with the same tail probability. A table has polynomials of it in places within intervals
of the statistic and of its degrees of freedom, eight and four from each power of two to the next. Intervals have the
float64 numbers whose first bits are the same, so that neither a CPU nor a GPU takes a logarithm, and both get the same
bits (``kernels/variance_groups.cu``). The relative error of z of t is under 1e-8 for 0.05 degrees of freedom or more
(under 4e-9 from 1 on), the error of z of F under 1e-8 or a relative 4e-9, at any tail probability.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaln, erfinv, hyp2f1, ndtri_exp

from gpuvox.jit import inner, loop
from gpuvox.types import Float64, Ints
from gpuvox.vectors import fma

__all__ = ["ZTable", "tabulated", "tabulated_all", "z_of_f", "z_of_t", "z_table"]

X_DEGREE, DF_DEGREE = 5, 5
"""Degrees of the polynomials in the place within an interval of t or F, and of its degrees of freedom."""
X_STEPS = 8
"""Intervals of t or F from each power of two to the next; of the degrees of freedom there are four."""
T_RANGE = -4, 42
"""Powers of two from which, and up to which, t has intervals; below it has one, down to 0."""
F_RANGE = -40, 84
"""The same of F, which below them counts as the least."""
X_REST, DF_REST = 49, 50
"""Bits of a float64 number that are the place in its interval."""


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
        value: Float64 = np.log(betainc(a, b, x))
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
    polynomials : (intervals of df, intervals of t or F, 6, 6) float64
        Coefficients of powers of the place in the interval of t or F and in that of df, the highest first.
    """

    first_x: int
    first_df: int
    least: float
    polynomials: Float64


def _number(value: float, rest: int) -> int:
    """First bits of a float64 number: all but the last `rest`."""
    return int(np.float64(value).view(np.int64)) >> rest


def _bounds(numbers: Ints, rest: int) -> Float64:
    """The least float64 number with these first bits."""
    bounds: Float64 = (numbers.astype(np.int64) << rest).view(np.float64)
    return bounds


def z_table(rank: int, least_df: float, most_df: float) -> ZTable:
    """The table of t (rank 0), or of F with this many degrees of freedom of the numerator, for a range of those of
    the denominator."""
    return _z_table(rank, _number(least_df, DF_REST), _number(most_df, DF_REST))


@lru_cache(maxsize=16)
def _z_table(rank: int, first_df: int, last_df: int) -> ZTable:
    low, high = F_RANGE if rank else T_RANGE
    first_x = _number(2.0**low, X_REST)
    x = _nodes(np.arange(first_x, first_x + (high - low) * X_STEPS + 1), X_REST, X_DEGREE)
    df = _nodes(np.arange(first_df, last_df + 2), DF_REST, DF_DEGREE)
    nearest = 2.0**low * _chebyshev(X_DEGREE)
    if rank:
        nearest[:] = 2.0**low
    x = np.concatenate([nearest[None], x])
    value = z_of_f(x, rank, df[:, :, None, None]) if rank else z_of_t(x, df[:, :, None, None]) / x
    value = value.transpose(0, 2, 3, 1)  # intervals of df and of x, nodes of x, nodes of df
    to_x, to_df = (np.linalg.inv(np.vander(_chebyshev(degree))) for degree in (X_DEGREE, DF_DEGREE))
    polynomials = np.ascontiguousarray(to_x @ value @ to_df.T)
    polynomials.setflags(write=False)
    return ZTable(first_x, first_df, 2.0**low, polynomials)


def _chebyshev(degree: int) -> Float64:
    """Places in an interval, from 0 to 1, at which polynomials are interpolated: Chebyshev's."""
    places: Float64 = (1 - np.cos((2 * np.arange(degree + 1) + 1) * np.pi / (2 * degree + 2))) / 2
    return places


def _nodes(numbers: Ints, rest: int, degree: int) -> Float64:
    """Nodes of the intervals between successive numbers."""
    bounds = _bounds(numbers, rest)
    return bounds[:-1, None] + np.diff(bounds)[:, None] * _chebyshev(degree)


@inner
def tabulated(x: float, df: float, first_x: int, first_df: int, least: float, polynomials: Float64) -> float:
    """The polynomial of a table at x ≥ 0 and df."""
    x_bits, df_bits = np.float64(x).view(np.int64), np.float64(df).view(np.int64)
    row = np.int64((df_bits >> DF_REST) - first_df)
    e = np.float64(df_bits & ((1 << DF_REST) - 1)) / np.float64(1 << DF_REST)
    if row < 0:
        row, e = np.int64(0), np.float64(0)
    elif row >= len(polynomials):
        row, e = np.int64(len(polynomials) - 1), np.float64(1)
    column = np.int64((x_bits >> X_REST) - first_x + 1)
    d = np.float64(x_bits & ((1 << X_REST) - 1)) / np.float64(1 << X_REST)
    if column < 1:
        column, d = np.int64(0), np.float64(x / least)
    elif column >= polynomials.shape[1]:
        column, d = np.int64(polynomials.shape[1] - 1), np.float64(1)
    c = polynomials[row, column]
    value = 0.0
    for i in range(X_DEGREE + 1):
        power = c[i, 0]
        for k in range(1, DF_DEGREE + 1):
            power = fma(power, e, c[i, k])
        value = fma(value, d, power)
    return value


def tabulated_all(table: ZTable, x: Float64, df: Float64) -> Float64:
    """The polynomials at some x ≥ 0 and df: z / t, or z of F."""
    out = np.empty(x.shape)
    _tabulate(
        np.ravel(x), np.ravel(df), table.first_x, table.first_df, table.least, table.polynomials, out.reshape(-1)
    )
    return out


@loop
def _tabulate(
    x: Float64, df: Float64, first_x: int, first_df: int, least: float, polynomials: Float64, out: Float64
) -> None:
    for i in range(len(x)):
        out[i] = tabulated(x[i], df[i], first_x, first_df, least, polynomials)
