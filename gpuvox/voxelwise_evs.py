"""t and F maps of a model with voxelwise explanatory variables: the design differs from voxel to voxel.

The algebra is that of `glm`, with the bases of effect and nuisance found for each voxel by Gram–Schmidt
(modified, twice: Björck 1967, BIT 7:1), for a tile of voxels at a time. A permutation permutes the rows of the whole
per-voxel design, as in FSL. Degrees of freedom are counted per voxel: a voxelwise EV that is constant, or
collinear with the rest, at some voxel does not count there. Constant data, whose statistic is 0, are defined in `glm`;
subjects that a voxelwise EV excludes at a voxel are not considered there.

Subjects may be excluded at some voxels (``--vxl=-N``), as if the design had, at each voxel, an indicator column for
each of them. These columns are never formed: the basis of the other columns is 0 in the rows of excluded subjects, so
that all columns together are orthonormal, and what the permuted indicators explain of the residuals is the residuals'
share in the rows to which they are permuted.

On a GPU (``kernels/voxelwise.cu``) a thread does the same operations for a voxel, to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from gpuvox.device import Device, Outcomes, blocks_for, settled
from gpuvox.errors import DesignError
from gpuvox.f_to_z import Z_BITS, z_table
from gpuvox.glm import DeviceModel, Nuisance, smooth_variance, smooth_variance_on
from gpuvox.glm_loops import cancels_below
from gpuvox.reductions import DeviceItems, shuffle_by_shuffle, upload_items
from gpuvox.scratch import WIDTH, Data, Tiles, as_tiles, copy_block, pieces, pieces_with
from gpuvox.signed_rows import DeviceShuffles, on_device, rows_of
from gpuvox.smooth import MaskedGaussian
from gpuvox.streaming import PreparedSlabs
from gpuvox.types import (
    AnyArray,
    Bools,
    DeviceArray,
    Float32,
    Float64,
    Int32,
    Ints,
    MapBatch,
    ShuffleBatch,
    Shuffles,
)
from gpuvox.voxelwise_loops import count_ranks, fill_maps, fill_z


@dataclass(frozen=True, eq=False)
class VoxelwiseGlm(DeviceModel):
    """Statistic maps of a model with voxelwise EVs; the interface of `glm.Glm`.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
        Data of the voxels of the mask.
    design : (n, p) float64
        Design whose columns `evs` replaces.
    contrast : (rows, p) float64
        One row for t, the stacked rows for F.
    evs : dict of int to (n, V) float32, arrays or `scratch.Tiles`
        Column (from 0) → voxelwise values. Those of a negative number exclude a subject from the voxels where they
        are not 0; `design` has no columns for them (see `exclusion.split`).
    nuisance : Nuisance
        How permutations treat the nuisance variables.
    demean : bool
        Remove the mean of data and design at every voxel.
    is_f : bool
        F statistic.
    smoother : MaskedGaussian, optional
        Variance smoothing (t only).
    device : Device, optional
        Where maps are computed and kept; the CPU by default.
    scratch : str
        Folder for data and EVs; "" keeps them in memory unless they are already tiles.
    keeps_mean : bool
        The mean that `demean` removes is a column of the design, as it is where subjects are excluded, and is shuffled
        with it: flips of signs leave columns without a mean with one.

    Raises
    ------
    DesignError
        No voxel has residual degrees of freedom, or a column does not exist.
    """

    data: Data
    design: Float64
    contrast: Float64
    evs: Mapping[int, Data]
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    demean: bool = False
    is_f: bool = False
    smoother: MaskedGaussian | None = None
    device: Device | None = None
    scratch: str = ""
    keeps_mean: bool = False
    _arguments: tuple[Float64, Ints, Float64, Float64, int] = field(init=False, repr=False)
    _evs: Data = field(init=False, repr=False)
    _n_nuisance: int = field(init=False, repr=False)
    _ranks: Int32 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, p = self.design.shape
        columns = self._columns
        if not all(column < p for column in columns):
            raise DesignError(f"voxelwise EVs are for columns 1 to {p} of the design")
        if any(ev.shape != self.data.shape for ev in self.evs.values()):
            raise DesignError("a voxelwise EV must have the shape of the data")
        position = np.full(p, -1)
        scale = np.abs(self.design).max(axis=0)
        for k, column in enumerate(columns):
            position[column] = k
            scale[column] = max(max(values.max(), -values.min()) for _, values in pieces(self.evs[column]))
        scale[scale == 0] = 1
        C = np.atleast_2d(self.contrast) / scale
        C /= np.linalg.norm(C, axis=1, keepdims=True)
        _, s, vt = np.linalg.svd(C)
        null = vt[int((s > 1e-10 * s[0]).sum()) :].T
        mixing = np.hstack([null, np.linalg.pinv(C)]) / scale[:, None]
        size = np.sqrt(n) * (np.abs(mixing) * scale[:, None]).sum(axis=0)
        static, n_nuisance = self.design, null.shape[1]
        if self._has_intercept:
            static = np.hstack([static, np.ones((n, 1))])
            position, size = np.append(position, -1), np.append(np.sqrt(n), size)
            mixing = np.block([[np.zeros((p, 1)), mixing], [np.ones((1, 1)), np.zeros((1, mixing.shape[1]))]])
            n_nuisance += 1
        outside = len(columns) if self._has_exclusions else -1
        fixed = (np.ascontiguousarray(static), position, np.ascontiguousarray(mixing), size, outside)
        self._stack()
        object.__setattr__(self, "_arguments", fixed)
        object.__setattr__(self, "_n_nuisance", n_nuisance)
        object.__setattr__(self, "_ranks", self._count_ranks())
        if self.df < 1:
            rank = int(self._ranks[:2].max(axis=1).sum())
            most = n - int(self._ranks[2].min())
            exclusions = f", of which no more than {most} are left in at any voxel" if most < n else ""
            raise DesignError(f"no residual degrees of freedom: {n} volumes{exclusions}, a design of rank {rank}")

    @property
    def _shared(self) -> tuple[Data, ...]:
        """What a device has of the model that other contrasts have too: data and EVs, in the order of the rows."""
        masks = (values for column, values in self.evs.items() if column < 0)
        return self.data, *(self.evs[column] for column in self._columns), *masks

    @property
    def _columns(self) -> list[int]:
        """Columns with voxelwise EVs, in the order in which these are stacked."""
        return sorted(column for column in self.evs if column >= 0)

    @property
    def _has_exclusions(self) -> bool:
        return any(column < 0 for column in self.evs)

    @property
    def _has_intercept(self) -> bool:
        """Whether the mean is the first column of the design: with excluded subjects it is the mean of the others."""
        return self.demean and (self._has_exclusions or self.keeps_mean)

    @property
    def _demeaned(self) -> int:
        """What is demeaned before the fit: 1 the columns, 2 the data."""
        if not self._has_intercept:
            return 3 * self.demean
        return 2 if self.nuisance == Nuisance.NONE else 0

    @property
    def _spent(self) -> int:
        """Degrees of freedom of a mean that is not a column of the fit."""
        return int(self.demean and (not self._has_intercept or self.nuisance == Nuisance.KENNEDY))

    def _count_ranks(self) -> Int32:
        ranks = np.zeros((3, self.n_voxels), dtype=np.int32)
        for start, evs in pieces(self._evs):
            width = min(evs.shape[1], self.n_voxels - start)
            part = np.zeros((3, width), dtype=np.int32)
            static, position, mixing, size, outside = self._arguments
            stacked = self._split(evs)
            count_ranks(static, stacked, position, mixing, size, outside, self._n_nuisance, self._demeaned, part)
            ranks[:, start : start + width] = part
        return ranks

    def _stack(self) -> None:
        """Stack all EVs, exclusions last, in one array; use tiles, for the data too, if anything is in a file."""
        evs = [self.evs[column] for column in self._columns]
        masks = [values for column, values in self.evs.items() if column < 0]
        n, n_voxels = self.data.shape
        if not (self.scratch or any(isinstance(values, Tiles) for values in (self.data, *self.evs.values()))):
            out = [_any_nonzero(np.asarray(mask) for mask in masks)] if masks else []
            object.__setattr__(self, "_evs", np.concatenate([np.zeros((0, n_voxels), np.float32), *evs, *out]))
            return
        folder = self.scratch
        stacked = Tiles((len(evs) + bool(masks)) * n, n_voxels, folder)
        for k, ev in enumerate(evs):
            for start, values in as_tiles(ev, folder).pieces():
                stacked.values[start // WIDTH, k * n : (k + 1) * n] = values
        if masks:
            for parts in zip(*(as_tiles(mask, folder).pieces() for mask in masks)):
                start = parts[0][0]
                stacked.values[start // WIDTH, len(evs) * n :] = _any_nonzero(values for _, values in parts)
        object.__setattr__(self, "_evs", stacked)
        object.__setattr__(self, "data", as_tiles(self.data, folder))

    def _split(self, evs: Float32) -> Float32:
        """(k·n, width) → (k, n, width)."""
        return evs.reshape(len(self._columns) + self._has_exclusions, len(self.design), -1)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.data.shape[1])

    @property
    def n_rows(self) -> int:
        """Number of subjects."""
        return int(self.data.shape[0])

    @property
    def dfs(self) -> tuple[Int32, Int32]:
        """(V,) Rank of the effect, and residual degrees of freedom, at every voxel."""
        nuisance, effect, gone = self._ranks
        taken = effect if self.nuisance == Nuisance.KENNEDY else nuisance + effect + gone
        return effect, self.data.shape[0] - taken - self._spent

    @property
    def df(self) -> int:
        """Residual degrees of freedom where the model has its full rank and the most subjects."""
        if not self.n_voxels:
            return 1
        nuisance, effect, _ = self._ranks.max(axis=1).tolist()
        counted = effect if self.nuisance == Nuisance.KENNEDY else nuisance + effect + int(self._ranks[2].min())
        return int(self.data.shape[0] - counted - self._spent)

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Numerator and denominator degrees of freedom of an F; None for t."""
        return (int(self._ranks[1].max(initial=0)), self.df) if self.is_f else None

    @property
    def n_without_df(self) -> int:
        """Number of voxels that exclusions leave without degrees of freedom: their statistic is 0."""
        return int(np.count_nonzero(self.dfs[1] < 1))

    @property
    def n_without_effect(self) -> int:
        """Number of other voxels where the effect is a combination of the nuisance: their statistic is 0."""
        effect, left = self.dfs
        return int(np.count_nonzero((effect == 0) & (left >= 1)))

    @cached_property
    def _z_tables(self) -> tuple[Int32, Int32, Int32, Float64]:
        """Number of the F-to-z table of each voxel; first intervals, offsets and rows of all tables."""
        pairs, kind = np.unique(np.stack(self.dfs, axis=1), axis=0, return_inverse=True)
        empty = 0, np.zeros((0, 4))
        tables = [z_table(df1, df2) if df1 > 0 and df2 > 0 else empty for df1, df2 in pairs.tolist()]
        begin = np.cumsum([0, *(len(cubics) for _, cubics in tables)], dtype=np.int32)
        first = np.array([first for first, _ in tables], dtype=np.int32)
        cubics = np.ascontiguousarray(np.concatenate([np.zeros((0, 4)), *(cubics for _, cubics in tables)]))
        return kind.reshape(-1).astype(np.int32), first, begin, cubics

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """The z equivalent of F maps (B, V), with the degrees of freedom of each voxel; where the maps are."""
        tables = self._z_tables
        if self.device is not None:
            return self._on_device.to_z(statistic, tables)
        out = np.zeros(statistic.shape, dtype=np.float32)
        bits = np.ascontiguousarray(statistic, dtype=np.float32).view(np.int32)
        fill_z(bits, 32 - Z_BITS, *tables, out)
        return out

    @property
    def streamed(self) -> bool:
        """Whether every batch reads from a file."""
        return isinstance(self._evs, Tiles) and self._evs.in_file

    def equivalent(self, shuffles: Shuffles) -> Bools:
        """(B,) Whether a permutation is the identity, or flips all signs, which changes only the sign of t."""
        in_place = (rows_of(shuffles) == np.arange(shuffles.shape[1])).all(axis=1)
        is_identity: Bools = in_place & ((shuffles < 0) == (shuffles[:, :1] < 0)).all(axis=1)
        return is_identity

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """Statistic maps, see `glm.Glm.statistic_maps`."""
        if self.device is not None:
            if outcomes is not None:
                return self._on_device.statistic_maps(shuffles, outcomes)
            return settled(self.device, lambda outcomes: self._on_device.statistic_maps(shuffles, outcomes))
        equivalent = self.equivalent(shuffles)
        out = np.empty((len(shuffles), self.n_voxels), dtype=np.float32)
        chosen = np.flatnonzero(~equivalent)
        if len(chosen):
            maps, variance = self._maps(shuffles[chosen], np.arange(self.n_voxels), False)
            out[chosen] = smooth_variance(maps, variance, self.smoother(variance)) if self.smoother else maps
        self.settle(shuffles, out, equivalent, Outcomes(None))
        return out

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) Statistic map of one permutation in float64, on the host."""
        if self.device is not None:
            maps, variance = self._on_device.exact_maps(shuffle[None])
        else:
            maps, variance = self._maps(shuffle[None], np.arange(self.n_voxels), True)
        whole = smooth_variance(maps, variance, self.smoother.exact(variance)) if self.smoother else maps
        first: Float64 = whole[0]
        return first

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """Statistic in float64 for pairs of a permutation and a voxel, see `glm.Glm.exact`."""
        if self.device is not None:
            return self._on_device.exact(shuffles, number, voxels)
        return shuffle_by_shuffle(shuffles, number, voxels, self._exact_of_one)

    def _exact_of_one(self, shuffle: Shuffles, voxels: Ints) -> Float64:
        """(m,) Statistic of one shuffle (1, n) in float64 at some voxels, on the host."""
        first: Float64 = self._maps(shuffle, voxels, True)[0][0]
        return first

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        return self._on_device.exact_on(shuffles, items)

    def _maps(self, shuffles: Shuffles, voxels: Ints, exact: bool) -> tuple[Float64, Float64]:
        out = np.empty((len(shuffles), len(voxels)), dtype=np.float64 if exact else np.float32)
        variance = np.empty(out.shape if self.smoother else (0, 0), dtype=out.dtype)
        held = np.ascontiguousarray(shuffles, dtype=np.int32)
        parts = zip(pieces_with(self.data, voxels), pieces_with(self._evs, voxels))
        for (place, values, column), (_, evs, _) in parts:
            shape = len(shuffles), len(column)
            maps = np.empty(shape, dtype=out.dtype)
            sse = np.empty(shape if self.smoother else (0, 0), dtype=out.dtype)
            static, position, mixing, size, outside = self._arguments
            fill_maps(
                values, static, self._split(evs), position, mixing, size, outside, self._n_nuisance,
                int(self.nuisance), self._demeaned, self.is_f, self._spent, held, column, exact,
                cancels_below(len(static)), maps, sse,
            )  # fmt: skip
            out[:, place] = maps
            if self.smoother:
                variance[:, place] = sse
        return out, variance

    @cached_property
    def _on_device(self) -> VoxelwiseOnDevice:
        return VoxelwiseOnDevice(self, self._own_device)


def _any_nonzero(masks: Iterable[AnyArray]) -> Float32:
    """1 where one of the arrays is not 0, and 0 elsewhere."""
    outside: Float32 = np.logical_or.reduce([mask != 0 for mask in masks]).astype(np.float32)
    return outside


def _fill(data: Data, evs: Data, rows: slice, voxels: slice, out: Float32) -> None:
    """Copy rows of the data, and of the EVs below them."""
    n = data.shape[0]
    middle = min(max(n, rows.start), rows.stop)  # the first row of the EVs
    copy_block(data, slice(rows.start, middle), voxels, out[: middle - rows.start])
    copy_block(evs, slice(middle - n, rows.stop - n), voxels, out[middle - rows.start :])


THREADS = 128


class Bases(NamedTuple):
    """What a device has of the voxels ``start … start + width − 1``.

    `exact`: (columns, y, stands, norms) of ``voxelwise_prepare``; `rounded`: columns and y in float32.
    """

    start: int
    width: int
    exact: tuple[DeviceArray, ...]
    rounded: tuple[DeviceArray, ...]


def slab_width(free_bytes: int, n: int, rows: int, columns: int, n_voxels: int, *, rounds: bool = True) -> int:
    """Voxels of a slab: all of them if their bases, and two slabs of data and EVs, take a quarter of the free memory.

    `rows`: those of the data and of all EVs; `columns`: those of the model, and one for exclusions; `rounds`: whether
    the bases are there in float32 beside float64.
    """
    each = (12 if rounds else 8) * n * (columns + 1) + 8 * rows + 4 * columns + 8
    return int(np.clip(free_bytes // 4 // each, 1, max(n_voxels, 1)))


class VoxelwiseOnDevice:
    """Maps of a `VoxelwiseGlm` on a device, a slab of voxels at a time, see `streaming.PreparedSlabs`."""

    rounds = True
    """Whether maps read columns in float32; values of single voxels always read those in float64."""

    def __init__(self, glm: VoxelwiseGlm, device: Device) -> None:
        self.glm, self.device = glm, device
        static, position, mixing, size, self.outside = glm._arguments
        self.n, self.k, self.planes = len(static), mixing.shape[1], mixing.shape[1] + glm._has_exclusions
        self.rows = self.n + glm._evs.shape[0]
        width = device.width_for(
            glm._shared,
            glm.n_voxels,
            lambda free: slab_width(free, self.n, self.rows, self.planes, glm.n_voxels, rounds=self.rounds),
        )
        fill = partial(_fill, glm.data, glm._evs)
        self._slabs: PreparedSlabs[Bases] = PreparedSlabs(
            device, glm._shared, self.rows, glm.n_voxels, width, fill
        )
        self.constants: list[AnyArray] = [np.ascontiguousarray(static), position.astype(np.int32), mixing, size]

    def slabs(self) -> Iterator[Bases]:
        """The bases of every slab, one after the other."""
        return self._slabs.sweep(self._prepare)

    def _slabs_for(self, items: DeviceItems) -> Iterator[Bases]:
        """The same; none if they would be sent in vain, for a list without items."""
        if self._slabs.width >= self.glm.n_voxels or self.device.download(items.count)[0]:
            yield from self.slabs()

    def _prepare(self, start: int, width: int, values: DeviceArray) -> Bases:
        glm, device, n, k = self.glm, self.device, self.n, self.k
        data, evs = device.rows(values, 0, n), device.rows(values, n, self.rows)
        static, position, mixing, size = (device.keep(array) for array in self.constants)
        exact = (
            device.empty((self.planes, n, width), np.float64), device.empty((n, width), np.float64),
            device.empty((k, width), np.int32), device.empty(width, np.float64),
        )  # fmt: skip
        shapes = ((self.planes, n, width), (n, width)) if self.rounds else (1, 1)
        rounded = tuple(device.empty(shape, np.float32) for shape in shapes)
        removed = {Nuisance.NONE: 0, Nuisance.TER_BRAAK: k}.get(glm.nuisance, glm._n_nuisance)
        device.launch(
            "voxelwise_prepare", blocks_for(width, THREADS, device), THREADS,
            data, np.int64(self._slabs.width), np.int64(0), np.int32(width), static,
            np.int32(len(self.constants[1])), evs, position, mixing, size, np.int32(n),
            np.int32(k), np.int32(removed), np.int32(glm._demeaned), np.int32(self.outside),
            np.int32(glm.nuisance == Nuisance.NONE), np.int32(self.rounds), *exact, *rounded,
        )  # fmt: skip
        return Bases(start, width, exact, rounded)

    def _model(self) -> tuple[np.int32, ...]:
        """Arguments of kernels: n, k, first and nuisance columns, df of the mean, whether there are exclusions, F."""
        glm = self.glm
        kennedy = glm.nuisance == Nuisance.KENNEDY
        first = glm._n_nuisance if kennedy else 0
        numbers = (self.n, self.k, first, glm._n_nuisance, glm._spent, self.outside >= 0 and not kennedy, glm.is_f)
        return tuple(np.int32(number) for number in numbers)

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> DeviceArray:
        """(B, V) Statistic maps, on the device."""
        held = on_device(shuffles, self.device)
        out, variance = self._all(held, np.float32)
        if self.glm.smoother is not None:
            smooth_variance_on(self.device, out, variance, self.glm.smoother)
        self.glm.settle(held, out, self.equivalent(held), outcomes)
        return out

    def equivalent(self, shuffles: DeviceShuffles) -> DeviceArray:
        """(B,) int32 1 where `VoxelwiseGlm.equivalent` is true; on the device."""
        whole = self.device.empty(len(shuffles), np.int32)
        self.device.launch(
            "voxelwise_equivalent", blocks_for(len(shuffles), THREADS, self.device), THREADS,
            shuffles.array, np.int32(self.n), np.int32(len(shuffles)), whole,
        )  # fmt: skip
        return whole

    def to_z(self, statistic: DeviceArray, tables: tuple[AnyArray, ...]) -> DeviceArray:
        """z of F maps (B, V), see `VoxelwiseGlm.to_z`."""
        device, (n_maps, n_voxels) = self.device, statistic.shape
        z = device.empty(statistic.shape, np.float32)
        size = n_maps * n_voxels
        if size:
            device.launch(
                "voxelwise_f_to_z", blocks_for(size, 256, device), 256, statistic, np.int64(size), np.int32(n_voxels),
                np.int32(Z_BITS), *(device.keep(table) for table in tables), z,
            )  # fmt: skip
        return z

    def exact_maps(self, shuffles: Shuffles) -> tuple[Float64, Float64]:
        """Statistic and variance in float64, on the host."""
        maps = self._all(shuffles, np.float64)
        return self.device.download(maps[0]), self.device.download(maps[1])

    def _all(self, shuffles: ShuffleBatch, kind: type) -> tuple[DeviceArray, DeviceArray]:
        glm, device = self.glm, self.device
        shape = (len(shuffles), glm.n_voxels)
        out, variance = device.empty(shape, kind), device.empty(shape if glm.smoother else (1, 1), kind)
        held = on_device(shuffles, device)
        for start, width, exact, rounded in self.slabs():
            device.launch(
                f"voxelwise_maps<{'double' if kind is np.float64 else 'float'}>",
                blocks_for(len(shuffles) * width, THREADS, device), THREADS,
                *exact, *rounded, np.int32(width), held.array, np.int32(len(shuffles)), np.int32(held.has_signs),
                *self._model(), np.float64(cancels_below(self.n)), np.int64(glm.n_voxels), np.int64(start), out,
                np.int32(glm.smoother is not None), variance,
            )  # fmt: skip
        return out, variance

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """Statistic in float64 for pairs of a permutation and a voxel; on the host."""
        if not len(number):
            return np.zeros(0)
        return self.device.download(self.exact_on(shuffles, upload_items(self.device, number, voxels)))

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) The same for a list on the device, where they stay."""
        device, statistic = self.device, self.device.empty(items.room, np.float64)
        held = on_device(shuffles, device)
        for start, width, exact, _ in self._slabs_for(items):
            device.launch(
                "voxelwise_exact", blocks_for(items.room, THREADS, device), THREADS,
                *exact, np.int32(width), np.int32(start), *items.arguments, held.array, np.int32(held.has_signs),
                *self._model(), statistic,
            )  # fmt: skip
        return statistic
