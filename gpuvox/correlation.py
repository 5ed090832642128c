"""Semipartial correlation r, and R², in permutation tests.

With X and Z the effects of interest and the nuisance, R what forms residuals of Z, and P a shuffle, PALM's statistic
is the sum of squares that X explains beyond Z, over the total sum of squares of PᵀRY + (Y − RY) about its mean; r takes
the sign of the effect. It is the semipartial correlation: the total contains what the nuisance explains. The total
changes with P, so that r and t rank shuffles differently.

**Products.** Let y be the unit residuals of the data, x̃ an orthonormal basis of the effect, K one of the nuisance
without its mean, and c = KᵀY / ‖RY‖. The sum of squares that X explains is the sum of s² with s = (P x̃)ᵀy; the total is

    1 + Σ c² + 2 Σ c (P K)ᵀy − ((P 1)ᵀy)² / n

both in units of ‖RY‖². All rows are permuted columns, so that r takes the products of `glm`; the last term is 0 unless
signs are flipped. The constant must be among the nuisance variables, or be removed beforehand.

**Scale.** Maps are r / √(1 − r²), or R² / (1 − R²), which have no upper end at which float32 loses digits;
`Correlation.from_maps` gives r and R². `CorrelationScale` brings them on the scale of z: atanh r, or the normal
quantile of R², as PALM has them.

On a GPU (``kernels/correlation.cu``) every step is the same operation in the same order, and so are the bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri_exp

from gpuvox.device import Device, Outcomes, blocks_for
from gpuvox.errors import DesignError
from gpuvox.glm import Glm, GlmOnDevice, Nuisance
from gpuvox.glm_loops import SSE_FLOOR, cancels_below, residualise_tile
from gpuvox.jit import inner, loop
from gpuvox.normal_scores import F_RANGE, T_RANGE, NormalScores, ZScale, cubics_of, ends_of, least_certain
from gpuvox.partitioning import PartitionedDesign, orthonormal_basis, partition
from gpuvox.products import GROUP, TILE, grouped, tile_products
from gpuvox.reductions import DeviceItems
from gpuvox.scratch import Data, pieces, pieces_with
from gpuvox.signed_rows import DeviceShuffles
from gpuvox.types import Bools, DeviceArray, Float32, Float64, Ints, Shuffles

SMALL = 1e-12
"""A product of unit vectors up to this is rounding."""
_THREADS = 128


@dataclass(frozen=True, eq=False)
class Correlation(Glm):
    """r / √(1 − r²) of a t contrast, or R² / (1 − R²) of an F contrast; made by `correlation`.

    Parameters
    ----------
    has_mean : bool
        Whether the last column of the nuisance is the constant, for the mean of shuffled residuals.
    """

    has_mean: bool = False
    _explained: Float32 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        K = self.model.nuisance[:, : self._n_explained]
        explained = np.zeros((K.shape[1], self.n_voxels), dtype=np.float32)
        for start, values in pieces(self.data):
            here = slice(start, start + values.shape[1])
            norms = self._norms[here]
            unit = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
            explained[:, here] = (K.T @ values.astype(np.float64)) * unit
        object.__setattr__(self, "_explained", explained)

    @property
    def _n_explained(self) -> int:
        """Number of columns of the nuisance without the constant."""
        return self.model.rank_nuisance - int(self.has_mean)

    @property
    def _shape(self) -> tuple[int, int, bool, bool]:
        """Rank of the effect, columns of the nuisance, whether the constant follows, whether R² is wanted."""
        return self.model.rank_effect, self._n_explained, self.has_mean, self.model.is_f

    def from_maps(self, maps: ArrayLike) -> Float64:
        """r or R² from the values of maps."""
        values = np.asarray(maps, dtype=np.float64)
        return values / (1 + values) if self.model.is_f else values / np.sqrt(1 + values * values)

    def _maps(self, shuffles: Shuffles, equivalent: Bools) -> Float32:
        rows = self._rows(shuffles)
        B, per_shuffle, n = rows.shape
        out = np.empty((B, self.n_voxels), dtype=np.float32)
        groups, limit = grouped(rows.reshape(-1, n).astype(np.float32)), np.float32(cancels_below(n))
        for start, stop in self._residuals.sweep():
            tiles = self._residuals.values[start:stop]
            _correlation_maps(groups, per_shuffle, tiles, start * TILE, self._explained, *self._shape, limit, out)
        for b in np.flatnonzero(~equivalent):
            voxels = np.flatnonzero(np.isnan(out[b]))
            if len(voxels):
                out[b, voxels] = self._exact(rows[b : b + 1], np.zeros_like(voxels), voxels)[0]
        self.settle(shuffles, out, equivalent, Outcomes(None))
        return out

    def _exact(self, rows: Float64, number: Ints, voxels: Ints) -> tuple[Float64, Float64]:
        statistic = np.zeros(len(voxels))
        K = np.ascontiguousarray(self.model.nuisance)
        for place, values, column in pieces_with(self.data, voxels):
            part, norms = np.empty(len(column)), self._norms[voxels[place]]
            _exact_correlation(values, column, number[place], norms, self._basis, rows, K, *self._shape, part)
            statistic[place] = part
        return statistic, np.ones(len(voxels))

    @cached_property
    def _on_device(self) -> GlmOnDevice:
        return _OnDevice(self, self._own_device)


def correlation(
    data: Data,
    design: ArrayLike,
    contrast: ArrayLike,
    invariant: Float64,
    *,
    is_f: bool = False,
    demean: bool = False,
    device: Device | None = None,
    scratch: str = "",
) -> Correlation:
    """The model of r, or of R², of a contrast.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    design : (n, p) array_like
    contrast : (p,) or (rows, p) array_like
        A t contrast, or the stacked t contrasts of an F.
    invariant : (n, k) float64
        Orthonormal basis of the vectors that no shuffle moves (`Shuffler.invariant`).
    is_f : bool
        R², otherwise `contrast` must have one row.
    demean : bool
        Remove the mean of data and design.
    device : Device, optional
        Where maps are computed and kept; the CPU by default.
    scratch : str
        Folder for residuals; "" keeps them in memory.

    Raises
    ------
    DesignError
        The contrast cannot be tested, or no combination of the nuisance variables is constant.
    """
    whole = partition(design, contrast, demean=demean, is_f=is_f)
    n, N = whole.n_rows, whole.nuisance
    mean = np.full((n, 1), n**-0.5)
    if not demean and np.linalg.norm(mean - N @ (N.T @ mean)) > SMALL * n:
        raise DesignError(
            "a correlation is about the mean, but no combination of the nuisance variables is constant; add a column "
            "of ones to the design, or remove the mean of data and design"
        )
    K = orthonormal_basis(N - mean @ (mean.T @ N), 1.0)
    moves = np.linalg.norm(mean - invariant @ (invariant.T @ mean)) > SMALL * n
    removed = np.ascontiguousarray(np.hstack([mean, K]))
    fit = PartitionedDesign(whole.effect, np.hstack([K, mean]) if moves else K, whole.df, is_f=is_f)
    return Correlation(data, fit, invariant, Nuisance.FREEDMAN_LANE, None, device, scratch, removed, bool(moves))


@dataclass(frozen=True, eq=False)
class CorrelationScale(ZScale):
    """z of a `Correlation`: atanh r, or the normal quantile of R²."""

    @cached_property
    def scores(self) -> NormalScores:
        """The tables."""
        model = cast(Correlation, self.model)
        cubics = _cubics(model.model.is_f)
        least = least_certain(cubics, 1.0, model.n_rows) if model.model.is_f else np.float32(0)
        return NormalScores(model.model.is_f, np.zeros(1, np.int32), cubics[None], np.array([least]))


@cache
def _cubics(is_square: bool) -> Float64:
    """Cubics of atanh r, a function of r / √(1 − r²), or of the quantile of R², one of R² / (1 − R²)."""
    if not is_square:
        x = ends_of(T_RANGE)
        return cubics_of(x, np.arcsinh(x), 1 / np.sqrt(1 + x * x))
    x = ends_of(F_RANGE)
    z = np.where(x < 1, ndtri_exp(-np.log1p(1 / x)), -ndtri_exp(-np.log1p(x)))
    slope = np.exp(z * z / 2 + 0.5 * np.log(2 * np.pi) - 2 * np.log1p(x))
    return cubics_of(x, z, slope)


@inner
def _statistic_tile(  # noqa: PLR0913
    products: Float32, explained: Float32, first: int, width: int, rank: int, n_explained: int, has_mean: bool,
    is_square: bool, limit: np.float32, out: Float32,
) -> None:  # fmt: skip
    """Products of one shuffle (m, TILE) → its statistic at `width` voxels; NaN where float32 cancels."""
    for j in range(width):
        total, squares = np.float32(1), np.float32(0)
        for r in range(rank):
            squares += products[r, j] * products[r, j]
        for r in range(n_explained):
            c = explained[r, first + j]
            total += c * c
            total += np.float32(2) * c * products[rank + r, j]
        if has_mean:
            p = products[rank + n_explained, j]
            total -= p * p
        left = total - squares
        if not left >= limit * total:
            out[j] = np.float32(np.nan)
        elif is_square:
            out[j] = squares / left
        else:
            out[j] = products[0, j] / np.sqrt(left)


@loop
def _correlation_maps(  # noqa: PLR0913
    rows: Float32, per_shuffle: int, tiles: Float32, first_voxel: int, explained: Float32, rank: int,
    n_explained: int, has_mean: bool, is_square: bool, limit: np.float32, out: Float32,
) -> None:  # fmt: skip
    """Maps of a batch at the voxels of some tiles, see `products.statistic_maps`."""
    n_maps, n_voxels = out.shape
    sums = np.empty((GROUP * len(rows), TILE), np.float32)
    for k in range(len(tiles)):
        start = first_voxel + k * TILE
        width = min(TILE, n_voxels - start)
        tile_products(rows, tiles, k, sums)
        for b in range(n_maps):
            products = sums[b * per_shuffle : (b + 1) * per_shuffle]
            _statistic_tile(
                products, explained, start, width, rank, n_explained, has_mean, is_square, limit,
                out[b, start : start + width],
            )  # fmt: skip


@inner
def _exact_value(
    y: Float64, raw: Float64, unit: float, rows: Float64, K: Float64, rank: int, n_explained: int, is_square: bool
) -> float:
    """The statistic of one shuffle at one voxel: residuals y and data, times `unit`."""
    squares, effect, total = 0.0, 0.0, 1.0
    for r in range(len(rows)):
        product = 0.0
        for i in range(len(y)):
            product += rows[r, i] * y[i]
        product *= unit
        if abs(product) < SMALL:
            product = 0.0
        if r < rank:
            effect = product
            squares += product * product
        elif r < rank + n_explained:
            c = 0.0
            for i in range(len(y)):
                c += K[i, r - rank] * raw[i]
            c *= unit
            total += c * c
            total += 2.0 * c * product
        else:
            total -= product * product
    total = max(total, SMALL)
    left = max(total - squares, SSE_FLOOR * total)
    return squares / left if is_square else effect / np.sqrt(left)


@loop
def _exact_correlation(  # noqa: PLR0913
    data: Float32, voxels: Ints, number: Ints, norms: Float64, basis: Float64, rows: Float64, K: Float64, rank: int,
    n_explained: int, has_mean: bool, is_square: bool, out: Float64,
) -> None:  # fmt: skip
    """Statistic at some voxels of some shuffles, in float64 from the data; rows (k, m, n), K (n, m − rank).

    number: which of the k shuffles, for each voxel.
    """
    n = data.shape[0]
    buffer, norm = np.empty((n, 1)), np.empty(1)
    raw = np.empty(n)
    for j in range(len(voxels)):
        residualise_tile(data, voxels[j : j + 1], basis, buffer, norm)
        for i in range(n):
            raw[i] = np.float64(data[i, voxels[j]])
        unit = 1.0 / norm[0] if norm[0] > 0 and norms[j] > 0 else 0.0
        out[j] = _exact_value(buffer[:, 0], raw, unit, rows[number[j]], K, rank, n_explained, is_square)


class _OnDevice(GlmOnDevice):
    """Maps of a `Correlation` on a device."""

    def _products(
        self,
        rows: DeviceArray,
        residuals: DeviceArray,
        start: int,
        n_maps: int,
        out: DeviceArray,
        sse: DeviceArray,
        marks: DeviceArray,
    ) -> None:
        del sse
        model, device, (n, per_shuffle) = cast(Correlation, self.glm), self.device, self.rows.shape
        width = min(self.slab, model.n_voxels - start)
        device.launch(
            "correlation_maps", blocks_for(n_maps * width, _THREADS, device), _THREADS, rows,
            np.int32(rows.shape[1]), residuals, np.int64(residuals.shape[1]), device.keep(model._explained),
            np.int32(n), np.int32(n_maps), np.int32(per_shuffle), *map(np.int32, model._shape),
            np.float32(cancels_below(n)), np.int64(start), np.int32(width), np.int64(model.n_voxels), out, marks,
        )  # fmt: skip

    def _exact(
        self, shuffles: DeviceShuffles, items: DeviceItems, data: DeviceArray, norms: DeviceArray
    ) -> tuple[DeviceArray, DeviceArray]:
        model, device, n = cast(Correlation, self.glm), self.device, len(self.rows)
        statistic = device.empty(items.room, np.float64)
        affordable = max(1, device.free_bytes() // 2 // (8 * n * _THREADS))
        blocks = min(-(-items.room // _THREADS), 8 * device.n_processors, affordable)
        scratch = device.empty(blocks * _THREADS * n, np.float64)
        device.launch(
            "correlation_exact", blocks, _THREADS, data, np.int64(data.shape[1]), norms, *items.arguments,
            device.keep(model._basis), np.int32(model._basis.shape[1]), *self.permuted(shuffles),
            np.int32(n), *map(np.int32, model._shape), scratch, statistic,
        )  # fmt: skip
        return statistic, device.full(items.room, 0, np.float64)
