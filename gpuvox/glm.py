"""t and F maps of a general linear model for many permutations, without ever forming permuted data.

Let y be the data of a voxel, residualised on the nuisance Z and scaled to unit norm; x̃ the effect residualised
on Z, likewise; Q an orthonormal basis of Z. The Freedman–Lane permutation P regresses y on the row-permuted model
``[P x̃, P Q]``, whose columns are orthonormal, so that three products determine the whole fit:

    r = (P x̃)ᵀ y        SSE = 1 − r² − Σⱼ ((P qⱼ)ᵀ y)²        t = r·√(df / SSE)

and for an effect of rank k with basis x̃₁ … x̃ₖ, ``F = (Σ rᵢ² / k) / (SSE / df)``. A vector of Z that no permutation
moves (the intercept; with permutation within blocks, the mean of each block) stays orthogonal to y: its
product is skipped. Freedman & Lane 1983; Winkler et al. 2014, NeuroImage 92:381.

Precision. The products are float32, summed over subjects in index order with fused multiply-add, so that the bits
depend neither on the batch nor on the thread. The subtraction cancels where the fit is nearly perfect, so voxels with
SSE < 1e-2 are computed again in float64 from the data; so are the whole unpermuted map, any permutation that is
equivalent to it, and voxels that determine a maximum or nearly tie with the observed value.

Constant voxels. Data that are one number, not zero, in all subjects leave nothing to test; if neither the nuisance
nor ``-D`` removes it (a one-sample test), t would be noise over noise. Their statistic is 0 in every permutation of
every model. Constant means equal as float32 numbers, as for the automatic mask, over the subjects that the nuisance
does not fit alone (an indicator of one subject excludes it). A voxel that lies in the span of the model without being
constant is a real effect (lesions in all patients and no control): its SSE counts as 1e-14, and t stays finite.

On a GPU (``kernels/glm.cu``) every step is the same operation in the same order, and so are the bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property, partial
from typing import Any, Self

import numpy as np

from gpuvox.device import Device, Outcomes, blocks_for, blocks_over, settled
from gpuvox.errors import DesignError
from gpuvox.f_to_z import f_to_z
from gpuvox.glm_loops import ALONE, cancels_below, fill_exact, unit_residuals
from gpuvox.partitioning import PartitionedDesign, invariant_part
from gpuvox.products import TILE, grouped, statistic_maps
from gpuvox.reductions import DeviceItems, listed, put_on, unsettled_search, upload_items
from gpuvox.scratch import Data, Tiles, copy_block, pieces, pieces_with, take
from gpuvox.signed_rows import DeviceShuffles, on_device, shuffled
from gpuvox.smooth import MaskedGaussian
from gpuvox.streaming import Slabs
from gpuvox.types import (
    AnyArray,
    Bools,
    DeviceArray,
    Float32,
    Float64,
    Ints,
    MapBatch,
    ShuffleBatch,
    Shuffles,
)


class Nuisance(IntEnum):
    """How permutations treat the nuisance variables; the numbers of FSL's ``-U``."""

    KENNEDY = 0
    FREEDMAN_LANE = 1
    NONE = 2
    TER_BRAAK = 3


class DeviceModel(ABC):
    """A model that may be on a device: what computes there is its `_on_device`, made when it is first needed."""

    device: Device | None
    smoother: MaskedGaussian | None

    @property
    def has_exact(self) -> bool:
        """Whether `exact` applies."""
        return self.smoother is None

    @abstractmethod
    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) Statistic map of one permutation, in float64 from the data; on the host."""

    @abstractmethod
    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 Statistic for a list on the device, where they stay."""

    def settle(self, shuffles: ShuffleBatch, maps: MapBatch, chosen: Any, outcomes: Outcomes) -> None:
        """Replace whole maps in place by maps computed in float64; chosen (B,): where the maps are."""
        if self.device is None:
            for b in map(int, np.flatnonzero(chosen)):
                maps[b] = self.exact_map(shuffles[b])
            return
        held = on_device(shuffles, self.device)
        if self.has_exact:
            for items in listed(maps, 0, unsettled_search(chosen, chosen), outcomes):
                put_on(self.device, maps, items, self.exact_on(held, items))
            return
        for b in map(int, np.flatnonzero(self.device.download(chosen))):
            self.device.put_row(maps, b, self.exact_map(held.on_host(b, b + 1)[0]))

    @property
    def _own_device(self) -> Device:
        if self.device is None:
            raise ValueError("the model is not on a device")
        return self.device

    def on(self, device: Device | None) -> Self:
        """The same model, with the same arrays of the host, on another device."""
        twin = copy(self)
        twin.release()
        object.__setattr__(twin, "device", device)  # the models are frozen
        return twin

    def release(self) -> None:
        """Release the memory that the model takes on its device."""
        self.__dict__.pop("_on_device", None)


@dataclass(frozen=True, eq=False)
class Glm(DeviceModel):
    """Statistic maps of one model for any permutations.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
        Data of the voxels of the mask.
    model : PartitionedDesign
        Effect and nuisance.
    invariant : (n, k) float64
        Orthonormal basis of the vectors that no permutation moves (`Shuffler.invariant`).
    nuisance : Nuisance
        How permutations treat the nuisance variables.
    smoother : MaskedGaussian, optional
        Variance smoothing (t only): t·√(variance / smoothed variance), Nichols & Holmes 2002, HBM 15:1.
    device : Device, optional
        Where maps are computed and kept; the CPU by default.
    scratch : str
        Folder for the residuals; "" keeps them in memory.
    removed : (n, k) float64, optional
        Orthonormal basis on which the data are residualised, in place of what `nuisance` says; the whole nuisance of
        `model` is then permuted and fitted.
    """

    data: Data
    model: PartitionedDesign
    invariant: Float64
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    smoother: MaskedGaussian | None = None
    device: Device | None = None
    scratch: str = ""
    removed: Float64 | None = None
    _basis: Float64 = field(init=False, repr=False)
    _moving: Float64 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.model.n_rows
        if self.data.shape[0] != n:
            raise DesignError(f"the design has {n} rows; the data have {self.data.shape[0]} volumes")
        removed, moving = self._bases()
        object.__setattr__(self, "_basis", removed)
        object.__setattr__(self, "_moving", moving)
        if self.device is None:
            _ = self._fitted  # now, rather than by the first of several threads

    @cached_property
    def _counts(self) -> Bools:
        """(n,) Rows in which the data of a voxel must differ, or it is constant."""
        counts: Bools = (self._basis**2).sum(axis=1) < 1 - ALONE
        return counts

    @cached_property
    def _fitted(self) -> tuple[Tiles, Float64]:
        """Unit residuals, and their norms before they were scaled, on the host."""
        residuals = Tiles(self.model.n_rows, self.n_voxels, self.scratch)
        norms = np.empty(self.n_voxels)
        for start, values in pieces(self.data):
            here = slice(start, start + values.shape[1])
            tiles = residuals.values[start // TILE : -(-here.stop // TILE)]
            unit_residuals(values, self._basis, self._counts, tiles, norms[here])
        return residuals, norms

    @property
    def _residuals(self) -> Tiles:
        return self._fitted[0]

    @cached_property
    def _norms(self) -> Float64:
        """(V,) Norms of the residuals, on the host: from the device if the residuals are made there."""
        on_device = None if self.device is None or "_fitted" in self.__dict__ else self._on_device.norms
        if self.device is None or on_device is None:
            return self._fitted[1]
        norms: Float64 = self.device.download(on_device)
        return norms

    def _bases(self) -> tuple[Float64, Float64]:
        """What the data are residualised on, and the nuisance that is permuted and fitted."""
        n, Q = self.model.n_rows, self.model.nuisance
        if self.removed is not None:
            return np.ascontiguousarray(self.removed), Q
        fixed, moving = invariant_part(Q, self.invariant)
        removed = {
            Nuisance.KENNEDY: Q,
            Nuisance.FREEDMAN_LANE: Q,
            Nuisance.NONE: fixed,
            Nuisance.TER_BRAAK: np.hstack([self.model.effect, Q]),
        }[self.nuisance]
        if self.model.demean:
            removed = np.hstack([np.full((n, 1), n**-0.5), removed])
        return np.ascontiguousarray(removed), moving[:, :0] if self.nuisance == Nuisance.KENNEDY else moving

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.data.shape[1])

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the model that is fitted to permuted data.

        Kennedy's method fits only the residualised effect, and so does not count the nuisance (as in FSL).
        """
        return self.model.df + (self.model.rank_nuisance if self.nuisance == Nuisance.KENNEDY else 0)

    @property
    def n_rows(self) -> int:
        """Number of subjects."""
        return self.model.n_rows

    @property
    def dfs(self) -> tuple[int, int]:
        """Rank of the effect, and residual degrees of freedom."""
        return self.model.rank_effect, self.df

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """The z equivalent of F maps, where they are."""
        return f_to_z(statistic, self.model.rank_effect, self.df, self.device)

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Numerator and denominator degrees of freedom of an F; None for t."""
        return (self.model.rank_effect, self.df) if self.model.is_f else None

    def _rows(self, shuffles: Shuffles) -> Float64:
        """(B, r + q, n) Permuted bases of the effect and of the nuisance that moves."""
        effect = shuffled(self.model.effect, shuffles)
        return np.concatenate([effect, shuffled(self._moving, shuffles)], axis=1)

    def equivalent(self, shuffles: Shuffles) -> Bools:
        """(B,) Permutations under which any data have the unpermuted statistic, up to the sign of t."""
        r, q = self.model.rank_effect, self._moving.shape[1]
        effect = shuffled(self.model.effect, shuffles) @ self.model.effect
        is_equivalent: Bools = (effect**2).sum(axis=(1, 2)) > r - 1e-10
        if is_equivalent.any():
            nuisance = shuffled(self._moving, shuffles[is_equivalent]) @ self._moving
            is_equivalent[is_equivalent] = (nuisance**2).sum(axis=(1, 2)) > q - 1e-10
        return is_equivalent

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """Statistic maps.

        Parameters
        ----------
        shuffles : (B, n) int32, or `signed_rows.DeviceShuffles` on a device
            See `signed_rows`.
        outcomes : Outcomes, optional
            Of the batch on a device; without them the maps are complete at once.

        Returns
        -------
        (B, V) float32, on the device if there is one
        """
        if self.device is None:
            return self._maps(shuffles, self.equivalent(shuffles))
        if outcomes is not None:
            return self._on_device.statistic_maps(shuffles, outcomes)
        return settled(self.device, lambda outcomes: self._on_device.statistic_maps(shuffles, outcomes))

    def _maps(self, shuffles: Shuffles, equivalent: Bools) -> Float32:
        rows = self._rows(shuffles)
        B, per_shuffle, n = rows.shape
        out = np.empty((B, self.n_voxels), dtype=np.float32)
        if not per_shuffle or not self.model.rank_effect:
            out[:] = 0
            return out
        groups = grouped(rows.reshape(-1, n).astype(np.float32))
        sse = np.empty(out.shape if self.smoother else (0, 0), dtype=np.float32)
        r, is_f, marks = self.model.rank_effect, self.model.is_f, np.zeros(B, dtype=np.int64)
        limit = np.float32(cancels_below(n))
        for start, stop in self._residuals.sweep():
            tiles = self._residuals.values[start:stop]
            marks += statistic_maps(
                groups, per_shuffle, tiles, start * TILE, r, is_f, float(self.df), limit, out, sse
            )
        for b in np.flatnonzero(~equivalent & (marks > 0)):
            voxels = np.flatnonzero(np.isnan(out[b]))
            out[b, voxels], exact_sse = self._exact(rows[b : b + 1], np.zeros_like(voxels), voxels)
            if self.smoother:
                sse[b, voxels] = exact_sse
        if self.smoother:
            variance = (sse * self._norms**2).astype(np.float32)
            out = smooth_variance(out, variance, self.smoother(variance))
        self.settle(shuffles, out, equivalent, Outcomes(None))
        return out

    def settle(self, shuffles: ShuffleBatch, maps: MapBatch, chosen: Any, outcomes: Outcomes) -> None:
        """See `DeviceModel.settle`; without an effect all maps are 0 already."""
        if self.model.rank_effect:
            super().settle(shuffles, maps, chosen, outcomes)

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) Statistic map of one permutation, in float64 from the data; on the host."""
        voxels = np.arange(self.n_voxels)
        if self.device is not None:
            statistic, sse = self._on_device.exact(shuffle[None], np.zeros_like(voxels), voxels)
        else:
            statistic, sse = self._exact(self._rows(shuffle[None]), np.zeros_like(voxels), voxels)
        if not self.smoother:
            return statistic
        variance = sse * self._norms**2 / self.df
        return smooth_variance(statistic, variance, self.smoother.exact(variance))

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """Statistic in float64, from the data, for pairs of a permutation and a voxel.

        Not available with variance smoothing, where a voxel's statistic depends on its neighbours.

        Parameters
        ----------
        shuffles : (B, n) array
        number : (m,) int
            Which of the permutations.
        voxels : (m,) int

        Returns
        -------
        (m,) float64, on the host
        """
        if self.device is not None:
            return self._on_device.exact(shuffles, number, voxels)[0]
        needed, place = np.unique(number, return_inverse=True)
        return self._exact(self._rows(shuffles[needed]), place.astype(np.int64), voxels.astype(np.int64))[0]

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        return self._on_device.exact_on(shuffles, items)[0]

    @property
    def streamed(self) -> bool:
        """Whether every batch reads from a file."""
        return bool(self.scratch) and self.data.shape[0] * self.n_voxels > 0

    def _exact(self, rows: Float64, number: Ints, voxels: Ints) -> tuple[Float64, Float64]:
        """Statistic and SSE in float64 of voxels in permutations, which are numbers of the rows (k, m, n)."""
        statistic, sse = np.zeros(len(voxels)), np.ones(len(voxels))
        r, is_f = self.model.rank_effect, self.model.is_f
        if r and len(voxels):
            for place, values, column in pieces_with(self.data, voxels):
                results = np.empty(len(column)), np.empty(len(column))
                norms = self._norms[voxels[place]]
                fill_exact(
                    values, column, number[place], norms, self._basis, rows, r, is_f, float(self.df), *results
                )
                statistic[place], sse[place] = results
        return statistic, sse

    @cached_property
    def _on_device(self) -> GlmOnDevice:
        return GlmOnDevice(self, self._own_device)


_COLUMNS, _ROWS = 128, 64  # tile of a block of glm_maps
_MOST_TILES = 65535  # blocks along y that CUDA allows
_MAPS_THREADS = 128  # of a block of glm_maps: one for each 8 × 8 products of the tile
_EXACT_THREADS = 128
_UPLOAD_BYTES = 64 << 20  # of the host, for what is on its way to the device


def slab_width(free_bytes: int, n: int, n_voxels: int) -> int:
    """Voxels of a slab, in whole tiles: all voxels if data and residuals take no more than half of the free memory."""
    wide = -(-n_voxels // _COLUMNS) * _COLUMNS
    most = min(wide, _MOST_TILES * _COLUMNS)
    if most == wide and 8 * n * wide <= free_bytes // 2:
        return wide
    return int(np.clip(free_bytes // (24 * n) // _COLUMNS * _COLUMNS, _COLUMNS, most))


class GlmOnDevice:
    """Maps of a `Glm` on a device.

    Data that take no more than half of the free memory stay there; larger data are sent slab by slab for every batch,
    see `streaming`.
    """

    def __init__(self, glm: Glm, device: Device) -> None:
        self.glm, self.device = glm, device
        self.rows = np.ascontiguousarray(np.hstack([glm.model.effect, glm._moving]))
        n, n_voxels = glm.data.shape
        self.group = max(1, _ROWS // max(self.rows.shape[1], 1))  # shuffles of a block
        self.is_null = not glm.model.rank_effect
        wide = -(-n_voxels // _COLUMNS) * _COLUMNS
        self.slab = device.width_for((glm.data,), wide, lambda free: slab_width(free, n, n_voxels))
        self.residuals: DeviceArray | None = None
        self.data: DeviceArray | None = None
        self.norms: DeviceArray | None = None
        self.slabs: Slabs | None = None
        if self.slab == wide:
            self.data = device.shared((glm.data,), lambda: self._columns(glm.data))
            self.residuals, self.norms = self._fitted(self.data, wide)
        else:
            self.slabs = Slabs(device, n, n_voxels, self.slab, partial(copy_block, glm._residuals))

    def _columns(self, values: Data) -> DeviceArray:
        """(n, V) values on the device; rows are sent a few at a time."""
        n, n_voxels = values.shape
        columns = self.device.empty((n, n_voxels), np.float32)
        step = max(1, _UPLOAD_BYTES // (4 * max(n_voxels, 1)))
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            part = np.empty((rows.stop - first, n_voxels), dtype=np.float32)
            copy_block(values, rows, slice(0, n_voxels), part)
            self.device.put(self.device.rows(columns, first, rows.stop), part)
        return columns

    def _fitted(self, data: DeviceArray, width: int) -> tuple[DeviceArray, DeviceArray]:
        """(n, width) unit residuals, 0 beyond the last voxel, and norms (V,) float64; the bits are `Glm._fitted`'s."""
        glm, device, (n, n_voxels) = self.glm, self.device, data.shape
        residuals, norms = device.empty((n, width), np.float32), device.empty(n_voxels, np.float64)
        if n and n_voxels:
            blocks, scratch = self._blocks_with_scratch(width)
            device.launch(
                "glm_residuals", blocks, _EXACT_THREADS, data, np.int64(n_voxels), np.int64(width),
                device.keep(glm._basis), np.int32(glm._basis.shape[1]), device.upload(glm._counts.astype(np.int32)),
                np.int32(n), scratch, residuals, norms,
            )  # fmt: skip
        return residuals, norms

    def _blocks_with_scratch(self, n_items: int) -> tuple[int, DeviceArray]:
        """Number of blocks, a thread an item at most, and n doubles for every thread."""
        device, n = self.device, self.glm.data.shape[0]
        each, wanted = 8 * n * _EXACT_THREADS, device.tuning.of("glm_exact").resident * device.n_processors
        # What threads work on should stay in the cache, but every multiprocessor should have work.
        resident = min(wanted, max(device.n_processors, device.cache_bytes // each))
        affordable = max(1, device.free_bytes() // 2 // each)
        blocks = min(-(-n_items // _EXACT_THREADS), resident, affordable)
        return blocks, device.empty(blocks * _EXACT_THREADS * n, np.float64)

    @property
    def _kept_norms(self) -> DeviceArray:
        return self.device.keep(self.glm._norms) if self.norms is None else self.norms

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> DeviceArray:
        """(B, V) Statistic maps, on the device."""
        glm, device = self.glm, self.device
        shape = (len(shuffles), glm.n_voxels)
        if self.is_null or not glm.n_voxels:
            return device.full(shape, 0, np.float32)
        held = on_device(shuffles, device)
        out = device.empty(shape, np.float32)
        sse = device.empty(shape if glm.smoother else (1, 1), np.float32)
        marks = device.full(len(shuffles), 0, np.int32)
        rows = self._shuffled_rows(held)
        for start, residuals in self._residual_slabs():
            self._products(rows, residuals, start, len(shuffles), out, sse, marks)
        equivalent = self.equivalent(held)
        whole = device.full(len(shuffles), 0, np.int32) if glm.smoother else equivalent
        for items in listed(out, 0, unsettled_search(marks, whole), outcomes):
            statistic, exact_sse = self.exact_on(held, items)
            put_on(device, out, items, statistic)
            if glm.smoother:
                put_on(device, sse, items, exact_sse)
        if glm.smoother:
            self._smooth(out, sse)
            glm.settle(held, out, equivalent, outcomes)
        return out

    def equivalent(self, shuffles: DeviceShuffles) -> DeviceArray:
        """(B,) int32 1 where `Glm.equivalent` is true; on the device."""
        glm, device, whole = self.glm, self.device, self.device.empty(len(shuffles), np.int32)
        device.launch(
            "glm_equivalent", blocks_for(len(shuffles), 128, device), 128, device.keep(glm.model.effect),
            device.keep(glm._moving), shuffles.array, np.int32(len(self.rows)), np.int32(len(shuffles)),
            np.int32(glm.model.rank_effect), np.int32(glm._moving.shape[1]), whole,
        )  # fmt: skip
        return whole

    def permuted(self, shuffles: DeviceShuffles) -> tuple[DeviceArray, DeviceArray]:
        """Rows of shuffles as kernels take them: a basis, and which of its rows, with what sign (B, n)."""
        return self.device.keep(self.rows), shuffles.array

    def _residual_slabs(self) -> Iterator[tuple[int, DeviceArray]]:
        if self.slabs is None:
            return iter([(0, self.residuals)]) if self.residuals is not None else iter(())
        return self.slabs.sweep()

    def _shuffled_rows(self, shuffles: DeviceShuffles) -> DeviceArray:
        """(n, rows) Rows of all permutations, in whole tiles."""
        device, (n, per_shuffle) = self.device, self.rows.shape
        stride = -(-len(shuffles) // self.group) * (-(-per_shuffle // _ROWS) * _ROWS)
        rows = device.empty((n, stride), np.float32)
        device.launch(
            "glm_rows", blocks_for(n * stride, 256, device), 256, *self.permuted(shuffles), np.int32(n),
            np.int32(len(shuffles)), np.int32(per_shuffle), np.int32(stride), rows,
        )  # fmt: skip
        return rows

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
        """Maps of the slab of voxels that begins at `start`."""
        glm, (n, per_shuffle) = self.glm, self.rows.shape
        rank, is_f = glm.model.rank_effect, glm.model.is_f
        width = min(self.slab, glm.n_voxels - start)
        blocks = -(-n_maps // self.group), -(-width // _COLUMNS)
        self.device.launch(
            f"glm_maps<{'true' if is_f else 'false'}>", blocks, _MAPS_THREADS,
            rows, np.int32(rows.shape[1]), residuals, np.int64(residuals.shape[1]), np.int32(n), np.int32(n_maps),
            np.int32(per_shuffle), np.int32(rank), np.float32(glm.df / rank if is_f else glm.df),
            np.float32(cancels_below(n)), np.int32(width), out, np.int64(glm.n_voxels), np.int64(start),
            np.int32(glm.smoother is not None), sse, marks,
        )  # fmt: skip

    def _smooth(self, t: DeviceArray, sse: DeviceArray) -> None:
        glm, device = self.glm, self.device
        if glm.smoother is None:
            return
        n_maps, n_voxels = t.shape
        variance = device.empty(t.shape, np.float32)
        device.launch(
            "glm_variance",
            blocks_over(n_maps, n_voxels, 256, device),
            256,
            sse,
            self._kept_norms,
            np.int64(n_voxels),
            np.int64(n_maps),
            variance,
        )
        smooth_variance_on(device, t, variance, glm.smoother)

    def exact(self, shuffles: ShuffleBatch, number: AnyArray, voxels: AnyArray) -> tuple[Float64, Float64]:
        """Statistic and SSE in float64 for pairs of a permutation and a voxel; on the host."""
        statistic, sse = np.zeros(len(number)), np.ones(len(number))
        if self.is_null:
            return statistic, sse
        step = max(1, min(1 << 22, self.device.free_bytes() // (16 * len(self.rows) + 64)))
        if self.data is None:
            step = min(step, max(1, _UPLOAD_BYTES // (4 * len(self.rows))))
        for start in range(0, len(number), step):
            part = slice(start, start + step)
            which, column = number[part].astype(np.int32), voxels[part].astype(np.int32)
            data, norms = self.data, self._kept_norms
            if data is None:  # only the columns that are needed
                needed, place = np.unique(column, return_inverse=True)
                data, column = self.device.upload(take(self.glm.data, needed)), place.astype(np.int32)
                norms = self.device.upload(self.glm._norms[needed])
            items = upload_items(self.device, which, column)
            results = self._exact(on_device(shuffles, self.device), items, data, norms)
            statistic[part], sse[part] = (self.device.download(values) for values in results)
        return statistic, sse

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> tuple[DeviceArray, DeviceArray]:
        """(room,) Statistic and SSE in float64 for a list on the device, where they stay."""
        device, held = self.device, on_device(shuffles, self.device)
        if self.data is not None and not self.is_null:
            return self._exact(held, items, self.data, self._kept_norms)
        n_items = min(int(device.download(items.count)[0]), items.room)
        lists = (device.download(values)[:n_items] for values in (items.map, items.voxel))
        results = [np.resize(values, items.room) for values in self.exact(held, *lists)] if n_items else []
        statistic, sse = (device.upload(values) for values in results or 2 * [np.zeros(items.room)])
        return statistic, sse

    def _exact(
        self, shuffles: DeviceShuffles, items: DeviceItems, data: DeviceArray, norms: DeviceArray
    ) -> tuple[DeviceArray, DeviceArray]:
        glm, device, (n, per_shuffle) = self.glm, self.device, self.rows.shape
        statistic, sse = device.empty(items.room, np.float64), device.empty(items.room, np.float64)
        blocks, scratch = self._blocks_with_scratch(items.room)
        device.launch(
            "glm_exact", blocks, _EXACT_THREADS, data, np.int64(data.shape[1]), norms, *items.arguments,
            device.keep(glm._basis), np.int32(glm._basis.shape[1]), *self.permuted(shuffles), np.int32(n),
            np.int32(per_shuffle), np.int32(shuffles.has_signs), np.int32(glm.model.rank_effect),
            np.int32(glm.model.is_f), np.float64(glm.df), scratch, statistic, sse,
        )  # fmt: skip
        return statistic, sse


def smooth_variance(t: AnyArray, variance: AnyArray, smoothed: AnyArray) -> AnyArray:
    """t·√(variance / smoothed variance); factors common to all voxels of a map cancel."""
    ratio = np.divide(variance, smoothed, out=np.zeros_like(t), where=smoothed > 0)
    with np.errstate(invalid="ignore"):  # where an SSE cancelled, in maps that are replaced as a whole
        return t * np.sqrt(ratio)


def smooth_variance_on(device: Device, t: DeviceArray, variance: DeviceArray, smoother: MaskedGaussian) -> None:
    """`smooth_variance` of maps on a device, in place."""
    size = int(np.prod(t.shape))
    smoothed = smoother.on_device(variance, device)
    blocks = blocks_for(size, 256, device)
    device.launch("glm_smooth_variance", blocks, 256, t, variance, smoothed, np.int64(size))
