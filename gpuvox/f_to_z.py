"""z of an F: the standard normal value with the same upper tail probability."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device, blocks_for
from gpuvox.jit import loop
from gpuvox.types import Float32, Float64, Int32, MapBatch


def f_to_z_exact(f: ArrayLike, df1: float, df2: float) -> Float64:
    """Standard normal value with the upper tail probability of an F; 0 where F ≤ 0.

    In logarithms, so that it does not saturate: beyond the smallest float64 the upper tail is
    ``x^a (1−x)^b ₂F₁(a+b, 1; a+1; x) / (a B(a, b))`` with a = df2/2, b = df1/2, x = df2/(df2 + df1 F)
    (Abramowitz & Stegun 26.5.4, 26.6.2).
    """
    from scipy.special import (
        betainc,
        betaln,
        hyp2f1,
        ndtri_exp,
    )  # takes a tenth of the time that a command takes to start

    f = np.asarray(f, dtype=np.float64)
    a, b = df2 / 2, df1 / 2
    x = df2 / (df2 + df1 * np.maximum(f, 0))
    tail = betainc(a, b, x)
    far = tail < 1e-250
    log_tail = np.log(np.where(far, 1.0, tail))
    y = x[far] if x.ndim else x
    if np.any(far):
        series = a * np.log(y) + b * np.log1p(-y) - np.log(a) - betaln(a, b) + np.log(hyp2f1(a + b, 1, a + 1, y))
        log_tail = np.where(far, 0.0, log_tail)
        log_tail[far] = series
    return np.where(f > 0, -ndtri_exp(log_tail), 0.0)


Z_BITS = 16
"""Leading bits of a float32 that choose the interval: 128 intervals from each power of two to the next."""


@lru_cache(maxsize=16)
def z_table(df1: int, df2: int) -> tuple[int, Float64]:
    """Number of the first interval, and a cubic in the position within each, from z = 0 to F = 1e15.

    Intervals hold the float32 numbers that share their first bits, so that neither device takes a logarithm.
    Cubic Hermite interpolation; the slope of z is that of a spline through z as a function of log F.
    """
    from scipy.interpolate import CubicSpline  # a third of the time that a command takes to start
    from scipy.special import fdtri

    rest = 32 - Z_BITS
    ends = np.array([fdtri(df1, df2, 0.5), 1e15], dtype=np.float32).view(np.int32) >> rest
    bits = np.arange(ends[0], ends[1] + 2, dtype=np.int32) << rest
    f = bits.view(np.float32).astype(np.float64)
    z = f_to_z_exact(f, df1, df2)
    slope = CubicSpline(np.log(f), z)(np.log(f), 1) / f
    width, a, b = np.diff(f), z[:-1], z[1:]
    rise_a, rise_b = slope[:-1] * width, slope[1:] * width
    cubic = [2 * (a - b) + rise_a + rise_b, 3 * (b - a) - 2 * rise_a - rise_b, rise_a, a]
    return int(ends[0]), np.ascontiguousarray(np.stack(cubic, axis=1))


@loop
def _interpolate_z(number: Int32, rest: int, first: int, cubics: Float64, out: Float32) -> None:
    """`number`: the bits of F, of which the last `rest` are the position in an interval."""
    scale = np.float64(1 << rest)
    for i in range(len(number)):
        out[i] = np.float32(0)
        k = (number[i] >> rest) - first
        if number[i] > 0 and k >= 0:
            d = np.float64(number[i] & ((1 << rest) - 1)) / scale
            if k >= len(cubics):
                k, d = len(cubics) - 1, np.float64(1)
            c = cubics[k]
            out[i] = np.float32(max(((c[0] * d + c[1]) * d + c[2]) * d + c[3], 0.0))


def f_to_z(f: MapBatch, df1: int, df2: int, device: Device | None = None) -> MapBatch:
    """Like `f_to_z_exact` in float32, for whole maps and for enhancement: 0 also where z would be negative.

    Parameters
    ----------
    f : float32 array
    df1, df2 : int
        Degrees of freedom of numerator and denominator.
    device : Device, optional
        Where the maps are, and the result.
    """
    shape, size = f.shape, int(np.prod(f.shape))
    if device is not None:
        if not (df1 and size):
            return device.full(shape, 0, np.float32)
        z, (first, cubics) = device.empty(shape, np.float32), z_table(df1, df2)
        device.launch(
            "glm_f_to_z", blocks_for(size, 256, device), 256, f, np.int64(size), np.int32(first),
            np.int32(len(cubics)), np.int32(Z_BITS), device.keep(cubics), z,
        )  # fmt: skip
        return z
    out = np.zeros(shape, dtype=np.float32)
    if df1 and size:
        bits = np.ascontiguousarray(f, dtype=np.float32).view(np.int32)
        _interpolate_z(bits.reshape(-1), 32 - Z_BITS, *z_table(df1, df2), out.reshape(-1))
    return out
