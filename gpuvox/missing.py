"""t and F, as z, where data of some subjects are missing at some voxels: lesions, ends of the field of view.

A subject whose datum is missing leaves the model at that voxel. A shuffle moves the rows of the whole model, whoever
has data where: the subject in row i gets row p(i) at every voxel, so that what neighbouring voxels have in common they
have in every shuffle, too. Then the rows of those who are missing are dropped, and the order of the others is kept. If
missing values have nothing to do with the effect, the maxima are exact as always. If they do (a group has more
lesions), designs of shuffles are better balanced than the true one, and it is the scale of z that makes them
comparable: exact for normal noise but for what Freedman and Lane's method approximates, and nearly so for other noise
(two groups of 10, of which one lacks 40 % of its data, exponential noise, 1000 data sets: a rate of false positives of
7.4 % at a level of 5 %).

Let N and x̃ be orthonormal bases of nuisance and effect over all subjects, S the subjects with data, y their residuals
of N[S], of unit norm (Freedman and Lane's method), and G = L Lᵀ the products of the columns of (P [N x̃])[S]:

    L u = (P [N x̃])[S]ᵀ y       SSE = 1 − Σ u²       t = u_x √(df / SSE)       F = (Σ u_x² / r) / (SSE / df)

G and L depend on S and on the shuffle alone: voxels with the same S share them. A column whose pivot vanishes is a
combination of those before it, and does not count. Degrees of freedom are those of the subset in that shuffle, n_S −
rank, so that t and F of different voxels have different distributions: maps are standard normal values z with the same
tail probabilities (`z_tables`), on which maxima, clusters and enhancement are taken. Where a shuffle leaves nothing of
the effect, z is 0.

A row of the model may be unknown, too, because a regressor is missing: its subject has no data, and whoever it comes
to in a shuffle is dropped in that shuffle, with his share of the residuals' sum of squares.

Everything is computed in float64, and z is rounded once. On a GPU (``kernels/missing.cu``) every step is the same
operation in the same order, and so are the bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gpuvox.device import Device, Outcomes, blocks_for
from gpuvox.errors import DesignError
from gpuvox.missing_loops import fill, find_factors
from gpuvox.partitioning import PartitionedDesign, invariant_part
from gpuvox.reductions import DeviceItems, shuffle_by_shuffle, upload_items
from gpuvox.signed_rows import on_device
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
from gpuvox.z_models import NO_EXACT, NO_MAPS, RawMaps, ZModel
from gpuvox.z_tables import ZTable, z_table

_THREADS = 128


class Patterns(NamedTuple):
    """Which subjects have data where.

    Attributes
    ----------
    present : (P, n) bool
        The distinct sets of subjects.
    of_voxel : (V,) int32
        Number of each voxel's set.
    order : (V,) int64
        Voxels, sorted by the number of their set.
    starts : (P + 1,) int64
        The voxels of set p are numbers starts[p] … starts[p + 1] − 1 of `order`.
    """

    present: Bools
    of_voxel: Int32
    order: Ints
    starts: Ints


def patterns(present: Bools) -> Patterns:
    """The distinct columns of (n, V) bool, and the voxels of each."""
    packed = np.ascontiguousarray(np.packbits(present, axis=0).T)
    keys = packed.view([("", packed.dtype, packed.shape[1])]).reshape(-1)
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    number = number.reshape(-1)
    starts = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(first)))])
    return Patterns(
        np.ascontiguousarray(present[:, first].T),
        number.astype(np.int32),
        np.argsort(number, kind="stable"),
        starts,
    )


@dataclass(frozen=True, eq=False)
class MissingGlm(ZModel):
    """Maps of t or F, as z, of one model for any shuffles, where data may be missing; the interface of `glm.Glm`.

    Parameters
    ----------
    data : (n, V) float32
        NaN where a subject has no datum.
    model : PartitionedDesign
        Effect and nuisance, of all subjects.
    invariant : (n, k) float64
        Orthonormal basis of the vectors that no shuffle moves (`Shuffler.invariant`).
    unknown : (n,) bool, optional
        Rows of the model that are not known, whatever stands there: regressors of these subjects are missing. They have
        no data anywhere, and a subject to whom a shuffle brings such a row is left out in that shuffle.
    device : Device, optional
        Where maps are computed and kept; the CPU by default.

    Raises
    ------
    DesignError
        The numbers of rows differ, or no voxel has enough data for the contrast.
    """

    data: Float32
    model: PartitionedDesign
    invariant: Float64
    device: Device | None = None
    unknown: Bools | None = None
    smoother: None = None
    patterns: Patterns = field(init=False, repr=False)
    _values: Float32 = field(init=False, repr=False)
    _norms: Float64 = field(init=False, repr=False)
    _columns: Float64 = field(init=False, repr=False)
    _unknown: Bools = field(init=False, repr=False)
    _fixed: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = self.model.n_rows
        if self.data.shape[0] != n:
            raise DesignError(f"the design has {n} rows; the data have {self.data.shape[0]} volumes")
        nuisance = self.model.nuisance
        if self.model.demean:
            nuisance = np.hstack([np.full((n, 1), n**-0.5), nuisance])
        fixed, moving = invariant_part(nuisance, self.invariant)
        unknown = (
            np.zeros(n, dtype=bool) if self.unknown is None else np.ascontiguousarray(self.unknown, dtype=bool)
        )
        present = ~np.isnan(self.data) & ~unknown[:, None]
        object.__setattr__(self, "patterns", patterns(present))
        object.__setattr__(self, "_values", np.where(present, self.data, np.float32(0)))
        # Residuals are orthogonal to what no shuffle moves only while all rows of the model are known.
        object.__setattr__(self, "_fixed", 0 if unknown.any() else fixed.shape[1])
        object.__setattr__(self, "_unknown", unknown)
        columns = np.ascontiguousarray(np.hstack([fixed, moving, self.model.effect]))
        object.__setattr__(self, "_columns", columns)
        if not self.estimable.any():
            raise DesignError("at no voxel are there enough data to test the contrast")
        object.__setattr__(self, "_norms", np.zeros(self.n_voxels))
        no_shuffles = np.zeros((0, n), dtype=np.int32)
        self._fill(no_shuffles, self.patterns.order, self.patterns.starts, NO_MAPS, NO_EXACT)  # finds the norms

    @property
    def _n_nuisance(self) -> int:
        return self._columns.shape[1] - self.model.rank_effect

    @cached_property
    def _unpermuted_factors(self) -> Float64:
        """(P, k (k + 1) / 2 + 1) Factors and degrees of freedom of the unpermuted model for each set of subjects."""
        k = self._columns.shape[1]
        out = np.empty((len(self.patterns.present), k * (k + 1) // 2 + 1))
        find_factors(self.patterns.present, self._columns, self._unknown, self.model.rank_effect, out)
        return out

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.data.shape[1])

    @property
    def n_rows(self) -> int:
        """Number of subjects."""
        return self.model.n_rows

    @property
    def n_present(self) -> Ints:
        """(V,) Number of subjects with data."""
        counts: Ints = self.patterns.present.sum(axis=1)[self.patterns.of_voxel]
        return counts

    @property
    def dfs(self) -> Ints:
        """(V,) Residual degrees of freedom; 0 where the contrast cannot be tested."""
        degrees = self._unpermuted_factors[:, -1].astype(np.int64)
        return degrees[self.patterns.of_voxel]

    @property
    def estimable(self) -> Bools:
        """(V,) Whether the data of those who are present allow the contrast to be tested."""
        return self.dfs > 0

    @property
    def n_left_out(self) -> int:
        """Number of voxels where the contrast cannot be tested: z is 0 there in every shuffle."""
        return int(np.count_nonzero(~self.estimable))

    @property
    def df(self) -> int:
        """Residual degrees of freedom where the most are left."""
        return int(self.dfs.max(initial=0))

    @property
    def streamed(self) -> bool:
        """Whether every batch reads from a file."""
        return False

    @cached_property
    def _table(self) -> ZTable:
        return z_table(self.model.rank_effect if self.model.is_f else 0, 1.0, float(self.n_rows))

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 z, see `glm.Glm.statistic_maps`."""
        if self.device is not None:
            return self._on_device.maps(shuffles)
        out = np.zeros((len(shuffles), self.n_voxels), dtype=np.float32)
        self._fill(shuffles, self.patterns.order, self.patterns.starts, out, NO_EXACT)
        return out

    def raw_maps(self, shuffle: Shuffles) -> RawMaps:
        """t or F of one shuffle, their degrees of freedom, and z, in float64; on the host."""
        voxels = np.arange(self.n_voxels)
        if self.device is not None:
            return RawMaps(*self._on_device.exact(shuffle[None], np.zeros_like(voxels), voxels))
        out = np.zeros((3, 1, self.n_voxels))
        self._fill(shuffle[None], self.patterns.order, self.patterns.starts, NO_MAPS, out)
        return RawMaps(*out[:, 0])

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) z in float64 for pairs of a shuffle and a voxel, see `glm.Glm.exact`."""
        if self.device is not None:
            return self._on_device.exact(shuffles, number, voxels)[2]
        whole = np.zeros((3, 1, self.n_voxels))

        def of_one(shuffle: Shuffles, chosen: Ints) -> Float64:
            wanted = np.unique(chosen)
            order = wanted[np.argsort(self.patterns.of_voxel[wanted], kind="stable")]
            starts = np.searchsorted(self.patterns.of_voxel[order], np.arange(len(self.patterns.present) + 1))
            self._fill(shuffle, order, starts, NO_MAPS, whole)
            found: Float64 = whole[2, 0, chosen]
            return found

        return shuffle_by_shuffle(shuffles, number, voxels, of_one)

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        return self._on_device.exact_on(shuffles, items)[2]

    def _fill(self, shuffles: Shuffles, order: Ints, starts: Ints, maps: Float32, exact: Float64) -> None:
        table, model = self._table, self.model
        fill(
            self._values, self.patterns.present, order, starts, self._norms, self._columns, self._unknown,
            self._fixed, model.rank_effect, model.is_f, self._unpermuted_factors,
            np.ascontiguousarray(shuffles, dtype=np.int32), table.first_x, table.first_df, table.least,
            table.polynomials, maps, exact,
        )  # fmt: skip

    @cached_property
    def _on_device(self) -> _OnDevice:
        return _OnDevice(self, self._own_device)


class _OnDevice:
    """Maps of a `MissingGlm` on a device: voxels sorted by their set of subjects, some sets at a time."""

    def __init__(self, model: MissingGlm, device: Device) -> None:
        self.model, self.device = model, device
        self.n, self.k = model._columns.shape
        self.each = self.k * (self.k + 1) // 2 + 1  # numbers of a factor and its degrees of freedom
        sets = model.patterns
        self.present = np.ascontiguousarray(sets.present.T.astype(np.int32))
        self.order = sets.order.astype(np.int32)
        self.unknown = model._unknown.astype(np.int32)
        self.unpermuted = np.ascontiguousarray(model._unpermuted_factors.T)
        self.residuals = device.empty((self.n, model.n_voxels), np.float64)
        self.units = device.empty(model.n_voxels, np.float64)
        data = device.shared((model.data,), lambda: device.upload(np.ascontiguousarray(model.data, np.float32)))
        blocks = blocks_for(model.n_voxels, _THREADS, device)
        scratch = device.empty(blocks * _THREADS * self.k, np.float64)
        device.launch(
            "missing_prepare", blocks, _THREADS, data,
            np.int64(model.n_voxels), *self._sets, device.keep(model._norms), device.keep(model._columns),
            np.int32(self.n), np.int32(self.k), np.int32(model._n_nuisance), device.keep(self.unpermuted),
            self.residuals, self.units, scratch,
        )  # fmt: skip

    @property
    def _sets(self) -> tuple[DeviceArray | np.generic, ...]:
        return (
            self.device.keep(self.present), np.int32(self.present.shape[1]),
            self.device.keep(self.model.patterns.of_voxel),
        )  # fmt: skip

    @property
    def _table(self) -> tuple[DeviceArray | np.generic, ...]:
        table, model = self.model._table, self.model
        n_df, n_x = table.polynomials.shape[:2]
        return (
            self.device.keep(self.unknown), np.int32(model._fixed), np.int32(model.model.rank_effect),
            np.int32(model.model.is_f),
            np.int32(table.first_x), np.int32(table.first_df), np.int32(n_x), np.int32(n_df),
            np.float64(table.least), self.device.keep(table.polynomials),
        )  # fmt: skip

    def maps(self, shuffles: ShuffleBatch) -> DeviceArray:
        """(B, V) float32 z, on the device."""
        device, model, held = self.device, self.model, on_device(shuffles, self.device)
        n_maps, n_voxels = len(held), model.n_voxels
        out = device.empty((n_maps, n_voxels), np.float32)
        starts, n_sets = model.patterns.starts, len(model.patterns.present)
        together = int(np.clip(device.free_bytes() // 8 // max(1, 8 * self.each * n_maps), 1, n_sets))
        for first in range(0, n_sets, together):
            last = min(first + together, n_sets)
            factors = device.empty((self.each, (last - first) * n_maps), np.float64)
            device.launch(
                "missing_factors", blocks_for((last - first) * n_maps, _THREADS, device), _THREADS, *self._sets[:2],
                np.int32(first), np.int32(last - first), device.keep(model._columns), np.int32(self.n),
                np.int32(self.k), np.int32(model.model.rank_effect), held.array, device.keep(self.unknown),
                np.int32(n_maps), factors,
            )  # fmt: skip
            width = int(starts[last] - starts[first])
            blocks = blocks_for(width * n_maps, _THREADS, device)
            scratch = device.empty(blocks * _THREADS * self.k, np.float64)
            device.launch(
                "missing_maps", blocks, _THREADS, self.residuals, self.units, np.int64(n_voxels), *self._sets,
                np.int32(first), np.int32(last - first), device.keep(self.order), np.int64(starts[first]),
                np.int32(width), device.keep(model._columns), np.int32(self.n), np.int32(self.k), held.array,
                np.int32(n_maps), factors, *self._table, scratch, out,
            )  # fmt: skip
        return out

    def exact(
        self, shuffles: ShuffleBatch, number: AnyArray, voxels: AnyArray
    ) -> tuple[Float64, Float64, Float64]:
        """Statistic, degrees of freedom and z for pairs of a shuffle and a voxel; on the host."""
        if not len(number):
            return np.zeros(0), np.zeros(0), np.zeros(0)
        found = self.exact_on(shuffles, upload_items(self.device, number, voxels))
        statistic, df, z = (self.device.download(values) for values in found)
        return statistic, df, z

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        """(room,) float64 The same for a list on the device, where they stay."""
        device, model = self.device, self.model
        statistic, df, z = (device.empty(items.room, np.float64) for _ in range(3))
        blocks = min(blocks_for(items.room, _THREADS, device), 8 * device.n_processors)
        scratch = device.empty(blocks * _THREADS * (self.k + self.each), np.float64)
        device.launch(
            "missing_exact", blocks, _THREADS, self.residuals, self.units, np.int64(model.n_voxels), *self._sets,
            *items.arguments, device.keep(model._columns), np.int32(self.n), np.int32(self.k),
            on_device(shuffles, device).array, *self._table, scratch, statistic, df, z,
        )  # fmt: skip
        return statistic, df, z
