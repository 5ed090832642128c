"""Normal scores: every statistic as the standard normal value with the same tail probability.

PALM computes maxima, enhancement and clusters of z, so that t and F, and voxels with different degrees of freedom,
have one scale (Winkler et al. 2014, NeuroImage 92:381; 2016, Hum Brain Mapp 37:1486). z(t) is odd; z of an F below its
median is negative. Both rise with the statistic, and are taken from the nearer tail, so that they do not saturate.

**Use.** A model that gives t or F is wrapped, and the permutation test then runs on z as it runs on t::

    model = ZScale(Glm(data, partition(design, contrast), shuffler.invariant))       # or a VoxelwiseGlm
    two_tailed = Magnitude(model)                                                    # |z|: for t only
    statistics = Statistics(
        voxel=True,                                # the largest z
        tfce=Tfce(rule="palm"),                    # steps of a hundredth of each map's own maximum
        extent=2.3, mass=2.3,                      # thresholds of z; 26 neighbours
        uncorrected=True,
    )
    observed = PermutationTest(two_tailed, grid, shuffler, statistics, signs=1).observe()
    result = observed.run(0, shuffler.n)           # maxima in units of z; `executors.run` does the same with a tally

With `signs=2`, a contrast and its negative share every map, each with steps of its own; a test of F, or of a
`Magnitude`, has one sign. The steps of ``-tfce_dh`` are ``Tfce(rule="palm", delta=dh)``, PALM's settings for surfaces
and skeletons ``Tfce.of_dimension(2)`` and ``(1)``. Values and maxima in PALM's units are those of
`Statistic.in_units`. `ObservedTest.statistic` is z (or its size); t and F are ``model.model.exact_map(shuffle)``.
A model whose maps are z already, such as one with variance groups, is not wrapped, but may be that of a `Magnitude`.

**Precision.** z is a cubic in the position within intervals of the statistic, 64 from each power of two to the next,
which are found from the bits of the number: no logarithm is taken, so that a device gets the same bits
(``kernels/normal_scores.cu``). The cubics have the values and slopes of z at the ends of the intervals, and are within
2e-8 of z, relative, in between. Values that need float64 are computed from the float64 statistic by the same cubics.
The z of an F near 0 magnifies the rounding of float32 where the F itself does not, so those are always computed in
float64.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln

from gpuvox.device import Device, Outcomes, blocks_for, settled
from gpuvox.glm import DeviceModel
from gpuvox.jit import inner, loop
from gpuvox.reductions import TIE, DeviceItems, listed, put_on, unsettled_search
from gpuvox.smooth import MaskedGaussian
from gpuvox.types import AnyArray, DeviceArray, Float32, Float64, Int32, Ints, MapBatch, ShuffleBatch, Shuffles
from gpuvox.z_tables import z_of_f, z_of_t

__all__ = ["Magnitude", "NormalScores", "ScoredModel", "ZScale", "normal_scores"]

PER_OCTAVE = 6
"""Bits of the mantissa that choose an interval: 64 from each power of two to the next."""
T_RANGE = -12, 42
"""Powers of two between which z(t) is tabulated: below it is a straight line, and √df·10⁷ is the largest t."""
F_RANGE = -92, 76
"""The same for F, which if not 0 is at least 10⁻²⁶, and at most df·10¹⁴; beyond, z is what it is at the end."""
ROUNDING = 3e-8
"""Rounding of a float32 product of unit vectors, for each √n."""

_THREADS = 256
_REST = 23 - PER_OCTAVE
_SCALE_32 = 2.0**-_REST
_LAST_BITS = (1 << (52 - PER_OCTAVE)) - 1
_SCALE = 2.0 ** -(52 - PER_OCTAVE)
_u = np.uintp


# -- tables ---------------------------------------------------------------------------------------------------------


def ends_of(powers: tuple[int, int]) -> Float64:
    """Ends of all intervals from one power of two to another."""
    steps = np.arange((powers[1] - powers[0]) << PER_OCTAVE, dtype=np.int64)
    octave, part = steps >> PER_OCTAVE, steps & ((1 << PER_OCTAVE) - 1)
    values = np.ldexp(1 + part / (1 << PER_OCTAVE), (octave + powers[0]).astype(np.int32))
    return np.append(values, 2.0 ** powers[1])


def _log_normal_density(z: Float64) -> Float64:
    return -z * z / 2 - 0.5 * np.log(2 * np.pi)


def _slope_of_t(t: Float64, z: Float64, df: float) -> Float64:
    """dz/dt, the ratio of the densities."""
    log_density = -0.5 * np.log(df) - betaln(0.5, df / 2) - (df + 1) / 2 * np.log1p(t * t / df)
    return np.exp(log_density - _log_normal_density(z))


def _slope_of_f(f: Float64, z: Float64, df1: float, df2: float) -> Float64:
    """dz/dF, likewise."""
    a, b, ratio = df1 / 2, df2 / 2, df1 / df2
    log_density = a * np.log(ratio) + (a - 1) * np.log(f) - (a + b) * np.log1p(ratio * f) - betaln(a, b)
    return np.exp(log_density - _log_normal_density(z))


@lru_cache(maxsize=256)
def _cubics(df1: float, df2: float) -> Float64:
    """(intervals, 4) Cubics in the position within each interval, highest power first; df1 = 0: of t."""
    x = ends_of(F_RANGE if df1 else T_RANGE)
    z = z_of_f(x, df1, df2) if df1 else z_of_t(x, df2)
    slope = _slope_of_f(x, z, df1, df2) if df1 else _slope_of_t(x, z, df2)
    return cubics_of(x, z, slope)


def cubics_of(x: Float64, z: Float64, slope: Float64) -> Float64:
    """(intervals, 4) Cubics in the position within each interval, highest power first, from values and slopes at x."""
    width, a, b = np.diff(x), z[:-1], z[1:]
    rise_a, rise_b = slope[:-1] * width, slope[1:] * width
    cubics = np.stack([2 * (a - b) + rise_a + rise_b, 3 * (b - a) - 2 * rise_a - rise_b, rise_a, a], axis=1)
    cubics.setflags(write=False)
    return cubics


def least_certain(cubics: Float64, ratio: float, n: int) -> np.float32:
    """The F below which rounding in float32 may move z by more than `TIE` allows; ratio: df2 / df1."""
    f = ends_of(F_RANGE)[:-1]
    z, slope = cubics[:, 3], cubics[:, 2] / np.diff(ends_of(F_RANGE))
    # F is a sum of squares of products r: its rounding is 2·r·(rounding of r)·df2 / df1.
    rounding = 2 * np.sqrt(f * ratio) * ROUNDING * np.sqrt(n)
    uncertain = (slope * rounding > TIE / 2 * np.maximum(np.abs(z), 1)) & (z < 0)
    return np.float32(f[np.flatnonzero(uncertain)[-1] + 1] if uncertain.any() else 0)


@dataclass(frozen=True, eq=False)
class NormalScores:
    """z of t, or of F, for voxels that may differ in their degrees of freedom.

    Attributes
    ----------
    is_f : bool
    kind : (V,) or (1,) int32
        Which table a voxel has, or all have; −1: none, and z is 0.
    cubics : (kinds, intervals, 4) float64
    least : (kinds,) float32
        Values of F below this are not certain in float32: they become NaN, for the caller to replace.
    """

    is_f: bool
    kind: Int32
    cubics: Float64
    least: Float32

    @property
    def start(self) -> float:
        """The lower end of the first interval."""
        return float(2.0 ** (F_RANGE if self.is_f else T_RANGE)[0])

    @property
    def first(self) -> int:
        """Its leading bits as a float64 number."""
        return ((F_RANGE if self.is_f else T_RANGE)[0] + 1023) << PER_OCTAVE

    def put_maps(self, maps: MapBatch, device: Device | None = None) -> None:
        """Replace maps (B, V) float32 of the statistic by z, where they are."""
        n_maps, n_voxels = maps.shape
        if device is None:
            bits = maps.view(np.uint32)
            _put_maps(bits, self.kind, self.cubics, self.least, self.is_f, self.start, maps)
        elif n_maps and n_voxels:
            size = n_maps * n_voxels
            device.launch(
                "normal_scores_maps", blocks_for(size, _THREADS, device), _THREADS, maps, np.int64(size),
                np.int32(n_voxels), *self._arguments(device), device.keep(self.least),
            )  # fmt: skip

    def values(self, statistic: Float64, voxels: AnyArray) -> Float64:
        """(m,) z of float64 values at some voxels, on the host."""
        out = np.ascontiguousarray(statistic, dtype=np.float64).copy()
        voxels = np.ascontiguousarray(voxels, dtype=np.int64)
        _put_values(out.view(np.int64), voxels, self.kind, self.cubics, self.is_f, self.start, out)
        return out

    def put_items(self, values: DeviceArray, items: DeviceItems, device: Device) -> None:
        """Replace float64 values of a list on a device by z."""
        device.launch(
            "normal_scores_items", blocks_for(items.room, _THREADS, device), _THREADS, items.count,
            np.int32(items.room), items.voxel, *self._arguments(device), values,
        )  # fmt: skip

    def _arguments(self, device: Device) -> tuple[DeviceArray | np.generic, ...]:
        return (
            device.keep(self.kind), np.int32(len(self.kind)), device.keep(self.cubics),
            np.int32(self.cubics.shape[1]), np.int32(self.is_f), np.int32(self.first),
        )  # fmt: skip


def normal_scores(numerator: ArrayLike, denominator: ArrayLike, is_f: bool, n: int) -> NormalScores:
    """Tables for given degrees of freedom.

    Parameters
    ----------
    numerator : number or (V,) array
        Degrees of freedom of the numerator of F; of no meaning for t.
    denominator : number or (V,) array
        Those of the residuals. Where either is not positive there is no statistic, and z is 0.
    is_f : bool
    n : int
        Number of subjects, on which the rounding of F depends; 0: there is nothing to replace uncertain values by.
    """
    pairs = np.stack(np.broadcast_arrays(np.atleast_1d(numerator), np.atleast_1d(denominator)), axis=1).astype(
        float
    )
    if not is_f:
        pairs[:, 0] = 0
    distinct, kind = np.unique(pairs, axis=0, return_inverse=True)
    stands = (distinct[:, 1] > 0) & ((distinct[:, 0] > 0) | (not is_f))
    number = np.where(stands, np.cumsum(stands) - 1, -1).astype(np.int32)
    used = [(float(df1), float(df2)) for df1, df2 in distinct[stands]]
    least = [least_certain(_cubics(df1, df2), df2 / df1, n) if is_f and n else np.float32(0) for df1, df2 in used]
    lengths = len(ends_of(F_RANGE if is_f else T_RANGE)) - 1
    cubics = np.stack([_cubics(*pair) for pair in used]) if used else np.zeros((0, lengths, 4))
    return NormalScores(is_f, number[kind.reshape(-1)], cubics, np.array(least, dtype=np.float32))


@inner
def _score(value: float, number: int, at: int, cubics: Float64, is_f: bool, start: float) -> float:
    """z of a number; the last bits of its float64 form, and the interval, which may be none."""
    if value != value:
        return value
    if at < 0 or (is_f and value < 0):
        c = cubics[0, 3]
        return c if is_f else c * (value / start)
    d = np.float64(number & _LAST_BITS) * _SCALE
    if at >= len(cubics):
        at, d = len(cubics) - 1, np.float64(1)
    z = ((cubics[at, 0] * d + cubics[at, 1]) * d + cubics[at, 2]) * d + cubics[at, 3]
    return z if value >= 0 else -z


@loop
def _put_maps(
    bits: NDArray[np.uint32], kind: Int32, cubics: Float64, least: Float32, is_f: bool, start: float, out: Float32
) -> None:
    """See `NormalScores.put_maps`; `bits` are those of `out`, which both are the maps."""
    low = np.uint32((1 << _REST) - 1)
    first = np.int64(np.rint(np.log2(start)))
    begin, span = np.uint32((first + 127) << 23), np.uint32(cubics.shape[1] << _REST)
    same = len(kind) == 1
    rows, n_intervals = cubics.reshape(-1, 4), cubics.shape[1]
    for b in range(bits.shape[0]):
        numbers, values = bits[b], out[b]
        k = kind[0]
        for v in range(len(values)):
            if not same:
                k = kind[v]
            size = numbers[v] & np.uint32(0x7FFFFFFF)
            place = np.uint32(size - begin)
            if k < 0:
                values[v] = np.float32(0)
            elif place >= span or (is_f and values[v] < least[k]):
                at = -1 if size < begin else n_intervals
                if is_f and values[v] < least[k]:
                    values[v] = np.float32(np.nan)
                else:
                    values[v] = np.float32(_score(np.float64(values[v]), 0, at, cubics[k], is_f, start))
            else:
                d = np.float64(np.int32(size & low)) * _SCALE_32
                r = _u(k * n_intervals) + _u(place >> np.uint32(_REST))
                z = ((rows[r, _u(0)] * d + rows[r, _u(1)]) * d + rows[r, _u(2)]) * d + rows[r, _u(3)]
                values[v] = np.float32(z) if is_f else np.copysign(np.float32(z), values[v])


@loop
def _put_values(
    bits: Ints, voxels: Ints, kind: Int32, cubics: Float64, is_f: bool, start: float, out: Float64
) -> None:
    """The same for float64 values at some voxels."""
    first = (np.int64(np.rint(np.log2(start))) + 1023) << PER_OCTAVE
    for i in range(len(bits)):
        k = kind[0 if len(kind) == 1 else voxels[i]]
        if k < 0:
            out[i] = 0.0
        else:
            at = ((bits[i] & 0x7FFFFFFFFFFFFFFF) >> (52 - PER_OCTAVE)) - first
            out[i] = _score(out[i], bits[i], at, cubics[k], is_f, start)


# -- models ---------------------------------------------------------------------------------------------------------


class ScoredModel(Protocol):
    """What a model of t or F must have to be brought on the scale of z: a `StatisticModel` with these members."""

    @property
    def device(self) -> Device | None:
        """Where maps are made; None is the CPU."""

    @property
    def smoother(self) -> MaskedGaussian | None:
        """Variance smoothing, which a model on the scale of z must not have."""

    @property
    def has_exact(self) -> bool:
        """Whether single values can be had in float64."""

    @property
    def n_voxels(self) -> int:
        """Number of voxels, V."""

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the whole model."""

    @property
    def dfs(self) -> tuple[AnyArray | int, AnyArray | int]:
        """Rank of the effect and residual degrees of freedom: numbers, or (V,) arrays."""

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Degrees of freedom of F; None for t."""

    @property
    def n_rows(self) -> int:
        """Number of subjects."""

    @property
    def streamed(self) -> bool:
        """Whether every batch reads the data from a file."""

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 maps."""

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) The map of one permutation in float64."""

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) Values in float64, on the host."""

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) The same for a list on the device."""

    def on(self, device: Device | None) -> Self:
        """The same model on another device."""

    def release(self) -> None:
        """Let go of what is on the device."""


@dataclass(frozen=True, eq=False)
class _Rescaled(DeviceModel):
    """A model whose maps are those of another, value by value on another scale.

    Maps of permutations that leave the design as it is are float64 values of the other model, rounded before they are
    brought on the new scale; `permtest` finds that they tie with the observed map and computes them again, as it does
    where it is the data that make maps equal.
    """

    model: Any

    @property
    def device(self) -> Device | None:  # type: ignore[override]
        """Where maps are made; None is the CPU."""
        where: Device | None = self.model.device
        return where

    @property
    def smoother(self) -> MaskedGaussian | None:  # type: ignore[override]
        """That of the model."""
        smoother: MaskedGaussian | None = self.model.smoother
        return smoother

    @property
    def data(self) -> Any:
        """The data of the model."""
        return self.model.data

    @property
    def evs(self) -> Any:
        """Its voxelwise EVs, if it has any."""
        return getattr(self.model, "evs", {})

    @property
    def has_exact(self) -> bool:
        """Whether single values can be had in float64."""
        return bool(self.model.has_exact)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.model.n_voxels)

    @property
    def df(self) -> int:
        """Residual degrees of freedom."""
        return int(self.model.df)

    @property
    def f_dfs(self) -> None:
        """None: the maps need no further change of scale."""
        return

    @property
    def streamed(self) -> bool:
        """Whether every batch reads the data from a file."""
        return bool(self.model.streamed)

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """The maps as they are."""
        return statistic

    def equivalent(self, shuffles: Shuffles) -> Any:
        """(B,) Permutations under which any data have the unpermuted statistic, up to the sign of t."""
        return self.model.equivalent(shuffles)

    def on(self, device: Device | None) -> Self:
        """The same model on another device."""
        return replace(self, model=self.model.on(device))

    def release(self) -> None:
        """Release the memory that the model takes on its device."""
        self.model.release()

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 maps, see `statistics.StatisticModel.statistic_maps`."""
        if outcomes is None:
            return settled(self.device, lambda outcomes: self._maps(shuffles, outcomes))
        return self._maps(shuffles, outcomes)

    @abstractmethod
    def _maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> MapBatch:
        """(B, V) Maps on the new scale."""


@dataclass(frozen=True, eq=False)
class ZScale(_Rescaled):
    """z of the t or F of a model: a `StatisticModel`, see the module.

    Parameters
    ----------
    model : ScoredModel
        `glm.Glm`, `voxelwise_evs.VoxelwiseGlm` or another with their interface.

    Raises
    ------
    ValueError
        The model smooths variances: its t has no distribution that is known.
    """

    model: ScoredModel

    def __post_init__(self) -> None:
        if self.model.smoother is not None:
            raise ValueError("a t with smoothed variances has no normal score")

    @cached_property
    def scores(self) -> NormalScores:
        """The tables."""
        return normal_scores(*self.model.dfs, self.model.f_dfs is not None, self.model.n_rows)

    def on(self, device: Device | None) -> Self:
        """The same model with the very same tables, whose last bits may differ between processors."""
        twin = super().on(device)
        twin.__dict__["scores"] = self.scores
        return twin

    def _maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> MapBatch:
        device, scores = self.device, self.scores
        maps = self.model.statistic_maps(shuffles, outcomes)
        scores.put_maps(maps, device)
        if not scores.is_f:
            return maps
        if device is None:
            number, voxels = np.nonzero(np.isnan(maps))
            maps[number, voxels] = self.exact(shuffles, number, voxels)
            return maps
        everywhere, nowhere = device.full(len(maps), -1, np.int32), device.full(len(maps), 0, np.int32)
        for items in listed(maps, 0, unsettled_search(everywhere, nowhere), outcomes):
            put_on(device, maps, items, self.exact_on(shuffles, items))
        return maps

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) z of one permutation in float64, on the host."""
        return self.scores.values(self.model.exact_map(shuffle), np.arange(self.n_voxels))

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) z in float64 for pairs of a permutation and a voxel, on the host."""
        return self.scores.values(self.model.exact(shuffles, number, voxels), voxels)

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        values = self.model.exact_on(shuffles, items)
        self.scores.put_items(values, items, self._own_device)
        return values


@dataclass(frozen=True, eq=False)
class Magnitude(_Rescaled):
    """|z|, for two-tailed tests as PALM has them: a `StatisticModel` with one sign.

    Maxima, counts, enhancement and clusters are those of |z|, so that positive and negative neighbours are in one
    cluster.

    Parameters
    ----------
    model : StatisticModel
        Signed maps: a `ZScale` of t, or another model whose maps are z.

    Raises
    ------
    ValueError
        The maps are those of an F, whose small values would then count as extreme.
    """

    def __post_init__(self) -> None:
        if self.model.f_dfs is not None or (isinstance(self.model, ZScale) and self.model.scores.is_f):
            raise ValueError("an F has one tail")

    def _maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> MapBatch:
        maps, device = self.model.statistic_maps(shuffles, outcomes), self.device
        if device is None:
            return np.abs(maps, out=maps)
        n_maps, n_voxels = maps.shape
        size = n_maps * n_voxels
        if size:
            device.launch(
                "normal_scores_sizes", blocks_for(size, _THREADS, device), _THREADS, np.int64(size), maps
            )
        return maps

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) |z| of one permutation in float64, on the host."""
        return np.abs(self.model.exact_map(shuffle))

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) |z| in float64 for pairs of a permutation and a voxel, on the host."""
        return np.abs(self.model.exact(shuffles, number, voxels))

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        device, values = self._own_device, self.model.exact_on(shuffles, items)
        device.launch(
            "normal_scores_item_sizes", blocks_for(items.room, _THREADS, device), _THREADS, items.count,
            np.int32(items.room), values,
        )  # fmt: skip
        return values
