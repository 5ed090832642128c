"""t and F maps over many shuffles of a general linear model, without ever forming permuted data.

Let y be the data of a voxel, residualised on the nuisance Z and scaled to unit norm; x̃ the effect residualised
on Z, likewise; Q an orthonormal basis of Z. The Freedman–Lane shuffle P regresses y on the row-permuted model
``[P x̃, P Q]``, whose columns are orthonormal, so that three products hold the whole fit:

    r = (P x̃)ᵀ y        SSE = 1 − r² − Σⱼ ((P qⱼ)ᵀ y)²        t = r·√(df / SSE)

and for an effect of rank k with basis x̃₁ … x̃ₖ, ``F = (Σ rᵢ² / k) / (SSE / df)``. A vector of Z that no shuffle
moves (the intercept; with permutation within blocks, the mean of each block) stays orthogonal to y: its
product is skipped. Freedman & Lane 1983; Winkler et al. 2014, NeuroImage 92:381.

Precision. The products are float32, summed over subjects in index order with fused multiply-add: the same bits
whatever the batch or the thread. The subtraction cancels where the fit is nearly perfect, so a voxel with
SSE < 1e-2 is computed again in float64 from the data; so is the whole unshuffled map, any shuffle that is
equivalent to it, and the voxels that decide a maximum or come close to tying with the observed value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.special import betainc, betaln, fdtri, hyp2f1, ndtri_exp

from gpuvox.compiled import inner, loop
from gpuvox.design import Model, invariant_part
from gpuvox.smooth import MaskedGaussian

TILE = 256
"""Voxels a kernel works on at a time."""
DEPTH = 64
"""Subjects a kernel keeps in cache at a time."""
SSE_FLOOR = 1e-14
"""Residual share under which a fit counts as perfect; keeps t finite (√df·1e7)."""
SSE_CANCELS = 1e-2
"""Residual share under which float32 is not enough, up to 500 subjects; see `cancels_below`."""
ZERO_RESIDUAL = 1e-10
"""A residual norm under this share of the data's norm is zero: the statistic is 0 in every shuffle."""
ORTHOGONAL = 1e-13
"""Product of two unit vectors that is rounding."""
TIE = 1e-4
"""Relative difference within which a float32 statistic is compared again in float64."""

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


class Nuisance(IntEnum):
    """How shuffles treat the nuisance variables: the numbers of FSL's ``-U``."""

    KENNEDY = 0
    FREEDMAN_LANE = 1
    NONE = 2
    TER_BRAAK = 3


def cancels_below(n: int) -> float:
    """Residual share under which float32 is not enough: rounding grows with the number of subjects."""
    return max(SSE_CANCELS, 2e-5 * n)


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, rounded once."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, b, c), codegen


@inner
def _accumulate(W, row, depth, first, y, acc):
    """acc[row … row+3] += W[row … row+3, first … first+depth−1] · y, four subjects at a time, in index order."""
    a0, a1, a2, a3 = acc[row], acc[row + 1], acc[row + 2], acc[row + 3]
    i = 0
    while i + 4 <= depth:
        k = first + i
        w00, w01, w02, w03 = W[row, k], W[row, k + 1], W[row, k + 2], W[row, k + 3]
        w10, w11, w12, w13 = W[row + 1, k], W[row + 1, k + 1], W[row + 1, k + 2], W[row + 1, k + 3]
        w20, w21, w22, w23 = W[row + 2, k], W[row + 2, k + 1], W[row + 2, k + 2], W[row + 2, k + 3]
        w30, w31, w32, w33 = W[row + 3, k], W[row + 3, k + 1], W[row + 3, k + 2], W[row + 3, k + 3]
        for j in range(TILE):
            y0, y1, y2, y3 = y[i, j], y[i + 1, j], y[i + 2, j], y[i + 3, j]
            a0[j] = fma(w03, y3, fma(w02, y2, fma(w01, y1, fma(w00, y0, a0[j]))))
            a1[j] = fma(w13, y3, fma(w12, y2, fma(w11, y1, fma(w10, y0, a1[j]))))
            a2[j] = fma(w23, y3, fma(w22, y2, fma(w21, y1, fma(w20, y0, a2[j]))))
            a3[j] = fma(w33, y3, fma(w32, y2, fma(w31, y1, fma(w30, y0, a3[j]))))
        i += 4
    while i < depth:
        for r in range(row, row + 4):
            w = W[r, first + i]
            for j in range(TILE):
                acc[r, j] = fma(w, y[i, j], acc[r, j])
        i += 1


@inner
def _statistic_tile(products, rank, is_f, df, limit, statistic, sse):  # noqa: C901
    """Products of one shuffle (m, TILE) → statistic and SSE of the tile; count of voxels that need float64."""
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
def _statistic_maps(W, per_shuffle, y, rank, is_f, df, limit, out, sse_out):  # noqa: C901, PLR0913
    """Statistic maps of a batch.

    W (rows, n) float32 holds `per_shuffle` rows for each of B shuffles, rows padded to a multiple of four;
    y (n, V) float32; out (B, V). sse_out (B, V) receives the SSE unless it is empty. A voxel whose SSE cancels
    is marked by NaN. Returns the number of such marks per shuffle.
    """
    n, n_voxels = y.shape
    n_maps = out.shape[0]
    tile = np.zeros((DEPTH, TILE), np.float32)
    acc = np.empty((W.shape[0], TILE), np.float32)
    statistic = np.empty(TILE, np.float32)
    sse = np.empty(TILE, np.float32)
    marks = np.zeros(n_maps, np.int64)
    for start in range(0, n_voxels, TILE):
        width = min(TILE, n_voxels - start)
        acc[:] = np.float32(0)
        for first in range(0, n, DEPTH):
            depth = min(DEPTH, n - first)
            for i in range(depth):
                # Loops, not slices: assigning a slice to a slice takes seconds to compile.
                source, target = y[first + i, start : start + width], tile[i]
                for j in range(width):
                    target[j] = source[j]
                for j in range(width, TILE):
                    target[j] = np.float32(0)
            for row in range(0, W.shape[0], 4):
                _accumulate(W, row, depth, first, tile, acc)
        for b in range(n_maps):
            products = acc[b * per_shuffle : (b + 1) * per_shuffle]
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


@inner
def _residualise_tile(data, voxels, basis, buffer, norm):  # noqa: C901
    """Data of some voxels, residualised on an orthonormal basis in float64, into buffer (n, TILE); norms.

    A norm of 0 says that nothing was left but rounding.
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


@loop
def _unit_residuals(data, basis, out, norms):
    """out (n, V) float32 = residuals scaled to unit norm (0 where there is none); norms (V,) float64."""
    n, n_voxels = data.shape
    buffer = np.empty((n, TILE))
    norm = np.empty(TILE)
    for start in range(0, n_voxels, TILE):
        width = min(TILE, n_voxels - start)
        _residualise_tile(data, np.arange(start, start + width), basis, buffer, norm)
        for j in range(width):
            norms[start + j] = norm[j]
            norm[j] = 1.0 / norm[j] if norm[j] > 0 else 0.0
        for i in range(n):
            for j in range(width):
                out[i, start + j] = buffer[i, j] * norm[j]


@loop
def _exact(data, voxels, basis, W, rank, is_f, df, statistic, sse_out):  # noqa: C901, PLR0913
    """Statistic and SSE of one shuffle at some voxels, all in float64 from the data; W (m, n) float64."""
    n = data.shape[0]
    m = W.shape[0]
    widest = min(TILE, len(voxels))
    buffer = np.empty((n, widest))
    norm = np.empty(widest)
    product = np.empty(widest)
    for start in range(0, len(voxels), TILE):
        part = voxels[start : start + TILE]
        _residualise_tile(data, part, basis, buffer, norm)
        for j in range(len(part)):
            norm[j] = 1.0 / norm[j] if norm[j] > 0 else 0.0
        effect = np.zeros(len(part))
        # The residual itself is formed: 1 − Σ product² would lose digits where the fit is nearly perfect.
        for r in range(m):
            product[:] = 0.0
            for i in range(n):
                for j in range(len(part)):
                    product[j] += W[r, i] * buffer[i, j]
            for i in range(n):
                for j in range(len(part)):
                    buffer[i, j] -= W[r, i] * product[j]
            for j in range(len(part)):
                share = product[j] * norm[j]
                if abs(share) < ORTHOGONAL:
                    share = 0.0
                if r < rank:
                    effect[j] = effect[j] + share * share if is_f else share
        sse = np.zeros(len(part))
        for i in range(n):
            for j in range(len(part)):
                sse[j] += (buffer[i, j] * norm[j]) ** 2
        for j in range(len(part)):
            if norm[j] == 0.0:
                sse[j] = 1.0
        for j in range(len(part)):
            left = max(sse[j], SSE_FLOOR)
            sse_out[start + j] = left
            if is_f:
                statistic[start + j] = effect[j] / rank * (df / left)
            else:
                statistic[start + j] = effect[j] * np.sqrt(df / left)


def _shuffled(basis: Float64, shuffles: NDArray) -> Float64:
    """Rows ``(P b)ᵀ`` of each shuffle and basis vector: (B, k, n)."""
    if np.issubdtype(shuffles.dtype, np.int8):
        return basis.T[None] * shuffles[:, None, :]
    return np.ascontiguousarray(basis[shuffles].transpose(0, 2, 1))


@dataclass(frozen=True, eq=False)
class Glm:
    """Statistic maps of one model for any shuffles.

    Parameters
    ----------
    data : (n, V) float32
        Data of the voxels of the mask.
    model : Model
        Effect and nuisance.
    invariant : (n, k) float64
        Orthonormal basis of the vectors that no shuffle moves (`Shuffler.invariant`).
    nuisance : Nuisance
        How shuffles treat the nuisance variables.
    smoother : MaskedGaussian, optional
        Variance smoothing (t only): t·√(variance / smoothed variance), Nichols & Holmes 2002, HBM 15:1.
    """

    data: Float32
    model: Model
    invariant: Float64
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    smoother: MaskedGaussian | None = None
    _residuals: Float32 = field(init=False, repr=False)
    _norms: Float64 = field(init=False, repr=False)
    _basis: Float64 = field(init=False, repr=False)
    _moving: Float64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.model.n_rows
        if self.data.shape[0] != n:
            raise ValueError(f"the design has {n} rows; the data have {self.data.shape[0]} volumes")
        Q = self.model.nuisance
        fixed, moving = invariant_part(Q, self.invariant)
        removed = {
            Nuisance.KENNEDY: Q,
            Nuisance.FREEDMAN_LANE: Q,
            Nuisance.NONE: fixed,
            Nuisance.TER_BRAAK: np.hstack([self.model.effect, Q]),
        }[self.nuisance]
        if self.model.demean:
            removed = np.hstack([np.full((n, 1), n**-0.5), removed])
        residuals = np.empty(self.data.shape, dtype=np.float32)
        norms = np.empty(self.data.shape[1])
        _unit_residuals(self.data, removed, residuals, norms)
        object.__setattr__(self, "_residuals", residuals)
        object.__setattr__(self, "_norms", norms)
        object.__setattr__(self, "_basis", np.ascontiguousarray(removed))
        object.__setattr__(self, "_moving", moving[:, :0] if self.nuisance == Nuisance.KENNEDY else moving)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return self.data.shape[1]

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the model that is fitted to shuffled data.

        Kennedy's fits the residualised effect alone, and so does not count the nuisance (as FSL does).
        """
        return self.model.df + (self.model.rank_nuisance if self.nuisance == Nuisance.KENNEDY else 0)

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Numerator and denominator degrees of freedom of an F; None for t."""
        return (self.model.rank_effect, self.df) if self.model.is_f else None

    @property
    def is_constant(self) -> NDArray[np.bool_]:
        """(V,) Voxels with no residual: statistic 0 in every shuffle."""
        return self._norms == 0

    def _rows(self, shuffles: NDArray) -> Float64:
        """(B, r + q, n) Shuffled bases of effect and of the nuisance that moves."""
        effect = _shuffled(self.model.effect, shuffles)
        return np.concatenate([effect, _shuffled(self._moving, shuffles)], axis=1)

    def _is_equivalent(self, rows: Float64) -> NDArray[np.bool_]:
        """(B,) Shuffles under which every data set has the unshuffled statistic, up to the sign of t."""
        r, q = self.model.rank_effect, self._moving.shape[1]
        effect = ((rows[:, :r] @ self.model.effect) ** 2).sum(axis=(1, 2))
        nuisance = ((rows[:, r:] @ self._moving) ** 2).sum(axis=(1, 2))
        return (effect > r - 1e-10) & (nuisance > q - 1e-10)

    def maps(self, shuffles: NDArray) -> Float32:
        """Statistic maps.

        Parameters
        ----------
        shuffles : (B, n) int32 row permutations, or int8 signs

        Returns
        -------
        (B, V) float32
        """
        rows = self._rows(shuffles)
        B, per_shuffle, n = rows.shape
        out = np.empty((B, self.n_voxels), dtype=np.float32)
        if not per_shuffle or not self.model.rank_effect:
            out[:] = 0
            return out
        W = np.zeros((-(-B * per_shuffle // 4) * 4, n), dtype=np.float32)
        W[: B * per_shuffle] = rows.reshape(-1, n)
        sse = np.empty(out.shape if self.smoother else (0, 0), dtype=np.float32)
        r, is_f = self.model.rank_effect, self.model.is_f
        limit = np.float32(cancels_below(n))
        marks = _statistic_maps(W, per_shuffle, self._residuals, r, is_f, float(self.df), limit, out, sse)
        equivalent = self._is_equivalent(rows)
        for b in np.flatnonzero(~equivalent & (marks > 0)):
            voxels = np.flatnonzero(np.isnan(out[b]))
            out[b, voxels], left = self._exact(rows[b], voxels)
            if self.smoother:
                sse[b, voxels] = left
        if self.smoother:
            variance = (sse * self._norms**2).astype(np.float32)
            out = smooth_variance(out, variance, self.smoother(variance))
        for b in np.flatnonzero(equivalent):
            out[b] = self._exact_map(rows[b])
        return out

    def exact_map(self, shuffle: NDArray) -> Float64:
        """(V,) Statistic map of one shuffle, in float64 from the data."""
        return self._exact_map(self._rows(shuffle[None])[0])

    def _exact_map(self, rows: Float64) -> Float64:
        statistic, sse = self._exact(rows, np.arange(self.n_voxels))
        if not self.smoother:
            return statistic
        variance = sse * self._norms**2 / self.df
        return smooth_variance(statistic, variance, self.smoother.exact(variance))

    def exact(self, shuffle: NDArray, voxels: NDArray[np.int64]) -> Float64:
        """Statistic of one shuffle at some voxels in float64, from the data.

        Not available with variance smoothing, where a voxel's statistic depends on its neighbours.
        """
        return self._exact(self._rows(shuffle[None])[0], voxels)[0]

    @property
    def has_exact(self) -> bool:
        """Whether `exact` applies."""
        return self.smoother is None

    def _exact(self, rows: Float64, voxels: NDArray[np.int64]) -> tuple[Float64, Float64]:
        statistic, sse = np.zeros(len(voxels)), np.ones(len(voxels))
        r, is_f = self.model.rank_effect, self.model.is_f
        if r:
            W = np.ascontiguousarray(rows)
            _exact(self.data, voxels, self._basis, W, r, is_f, float(self.df), statistic, sse)
        return statistic, sse


def smooth_variance(t: NDArray, variance: NDArray, smoothed: NDArray) -> NDArray:
    """t·√(variance / smoothed variance); factors common to all voxels of a map cancel."""
    ratio = np.divide(variance, smoothed, out=np.zeros_like(t), where=smoothed > 0)
    return t * np.sqrt(ratio)


def f_to_z_exact(f: ArrayLike, df1: float, df2: float) -> Float64:
    """Standard normal value with the upper tail probability of an F; 0 where F ≤ 0.

    In logarithms, so that it does not saturate: beyond the smallest float64 the upper tail is
    ``x^a (1−x)^b ₂F₁(a+b, 1; a+1; x) / (a B(a, b))`` with a = df2/2, b = df1/2, x = df2/(df2 + df1 F)
    (Abramowitz & Stegun 26.5.4, 26.6.2).
    """
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


@lru_cache(maxsize=16)
def _z_table(df1: int, df2: int) -> tuple[float, float, Float64]:
    """Start and spacing in log F, and the cubic of every interval, from z = 0 to F = 1e15."""
    start, end, n = np.log(fdtri(df1, df2, 0.5)), np.log(1e15), 4096
    u = np.linspace(start, end, n + 1)
    spline = CubicSpline(u, f_to_z_exact(np.exp(u), df1, df2))
    return float(start), float(u[1] - u[0]), np.ascontiguousarray(spline.c.T)


@loop
def _interpolate_z(f, start, step, cubics, out):
    for i in range(len(f)):
        out[i] = np.float32(0)
        if f[i] > 0:
            u = np.log(np.float64(f[i])) - start
            if u > 0:
                k = min(int(u / step), len(cubics) - 1)
                d = min(u - k * step, step)
                c = cubics[k]
                out[i] = max(((c[0] * d + c[1]) * d + c[2]) * d + c[3], 0.0)


def f_to_z(f: Float32, df1: int, df2: int) -> Float32:
    """Like `f_to_z_exact` to 1e-7, for whole maps and for enhancement: 0 also where z would be negative.

    Parameters
    ----------
    f : float32 array
    df1, df2 : int
        Degrees of freedom of numerator and denominator.
    """
    out = np.empty(f.shape, dtype=np.float32)
    if df1 and f.size:
        _interpolate_z(f.reshape(-1), *_z_table(df1, df2), out.reshape(-1))
    else:
        out[:] = 0
    return out
