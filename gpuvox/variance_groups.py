"""v and G: t and F for observations whose variance differs between groups, as z, for many permutations.

Let y be the data of a voxel, residualised on the nuisance Z and scaled to unit norm; M = [Q x̃] an orthonormal basis of
the model, that of the effect last, and mⱼ its rows. A Freedman–Lane permutation moves whole rows of the model, each
with its variance group: row j comes to place p(j). With yⱼ = ± y[p(j)], in the order of the *model's* rows, no permuted
data and no permuted model is formed, and rows are sorted by group once and for all:

    b = Σⱼ mⱼ yⱼ        S_g = Σ_{j∈g} (yⱼ − mⱼᵀ b)²        w_g = R_g / S_g,   R_g = Σ_{j∈g} ρⱼ

with ρⱼ the diagonal of the residual-forming matrix. As MᵀWM = Σ_g w_g Σ_{j∈g} mⱼ mⱼᵀ, a permutation enters it through
the weights alone; of its factors L D Lᵀ, the last s × s blocks have all that is wanted (s: rank of the effect):

    v = b_x √D₂₂        G = ‖√D₂₂ L₂₂ᵀ b_x‖² / (Λ s),   Λ = 1 + 2 (s − 1) B / (s (s + 2))
    B = Σ_g (1 − n_g w_g / Σ_h n_h w_h)² / R_g

The degrees of freedom are 1/B for v (where two groups are compared, Aspin and Welch's t with Satterthwaite's degrees of
freedom), and s and s(s + 2)/(3B) for G (Welch 1951, Biometrika 38:330; Winkler et al. 2014, NeuroImage 92:381,
equations 5 to 7). They differ from voxel to voxel and from permutation to permutation, so that v and G themselves are
not on one scale: what is tested is the standard normal value z with the same tail probability (`z_tables`).

Precision. Everything is computed in float64 from the data, and z is rounded once. A group whose mean square of the
residuals is under 1e-8 of that of all rows counts as having that, which keeps the weights within what float64 can
factorise; a fit as a whole is perfect at the same residual as in `glm`, and constant voxels are 0 as there.

On a GPU (``kernels/variance_groups.cu``) a thread does the same operations for a voxel, to the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device, Outcomes, blocks_for
from gpuvox.errors import DesignError, InputError
from gpuvox.glm_loops import ALONE
from gpuvox.partitioning import PartitionedDesign, invariant_part
from gpuvox.reductions import DeviceItems, shuffle_by_shuffle, upload_items
from gpuvox.scratch import Data, Tiles, copy_block, pieces, pieces_with
from gpuvox.signed_rows import on_device, rows_of, signs_of
from gpuvox.streaming import PreparedSlabs
from gpuvox.types import (
    AnyArray,
    DeviceArray,
    Float32,
    Float64,
    Ints,
    MapBatch,
    ShuffleBatch,
    Shuffles,
)
from gpuvox.variance_groups_loops import fill, find_norms
from gpuvox.z_models import NO_EXACT, NO_MAPS, RawMaps, ZModel
from gpuvox.z_tables import ZTable, z_table

AUTOMATIC = "auto"
"""In place of groups: those of rows that permutations can exchange."""
LEAST_REST = 1e-8
"""Sum of the diagonal of the residual-forming matrix under which a group has no residuals."""


def group_labels(groups: ArrayLike, n_rows: int) -> Ints:
    """Numbers of the variance groups, from 0 and without gaps, in the order in which they first appear.

    Raises
    ------
    InputError
        Not one integer a row.
    """
    values = np.asarray(groups, dtype=np.float64)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if values.shape != (n_rows,):
        raise InputError(f"the variance groups have shape {values.shape}; expected {n_rows} numbers", option="-vg")
    if not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise InputError("a variance group is not an integer", option="-vg")
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    labels: Ints = np.argsort(np.argsort(first))[number.reshape(-1)]
    return labels


def groups_of_orbits(invariant: Float64) -> Ints:
    """(n,) Variance groups of rows that permutations can exchange, from the vectors that none moves.

    `invariant` is that of a `Shuffler`: the rows of an orbit are those that are equal in all of its vectors. Sign flips
    alone exchange no rows, so that all of them are then one group (Winkler et al. 2014, NeuroImage 92:381).
    """
    return group_labels(
        np.unique(np.round(invariant, 9), axis=0, return_inverse=True)[1].reshape(-1), len(invariant)
    )


@dataclass(frozen=True, eq=False)
class VarianceGroupsGlm(ZModel):
    """Maps of v or G, as z, of one model for any permutations; the interface of `glm.Glm`.

    The nuisance variables are permuted as by Freedman and Lane; of demeaned data and designs, the mean is one of them.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
        Data of the voxels of the mask.
    model : PartitionedDesign
        Effect and nuisance.
    invariant : (n, k) float64
        Orthonormal basis of the vectors that no permutation moves (`Shuffler.invariant`).
    groups : (n,) int
        Variance group of each row of the model; with one group, v and G are t and F.
    palm_dof : bool
        Of v, a third of the degrees of freedom, as PALM has them.
    device : Device, optional
        Where maps are computed and kept; the CPU by default.

    Raises
    ------
    DesignError
        A group has no residuals of its own: the model fits its rows exactly.
    """

    data: Data
    model: PartitionedDesign
    invariant: Float64
    groups: Ints
    palm_dof: bool = False
    device: Device | None = None
    smoother: None = None
    _removed: Float64 = field(init=False, repr=False)
    _norms: Float64 = field(init=False, repr=False)
    _parts: _Parts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n, model = self.model.n_rows, self.model
        if self.data.shape[0] != n:
            raise DesignError(f"the design has {n} rows; the data have {self.data.shape[0]} volumes")
        nuisance = model.nuisance
        if model.demean:
            nuisance = np.hstack([np.full((n, 1), n**-0.5), nuisance])
        parts = _parts(model.effect, nuisance, self.invariant, group_labels(self.groups, n))
        removed = np.ascontiguousarray(nuisance)
        norms = np.empty(self.data.shape[1])
        for start, values in pieces(self.data):
            find_norms(
                values, removed, (removed**2).sum(axis=1) < 1 - ALONE, norms[start : start + values.shape[1]]
            )
        object.__setattr__(self, "_removed", removed)
        object.__setattr__(self, "_norms", norms)
        object.__setattr__(self, "_parts", parts)

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.data.shape[1])

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the model; those of v and G are fewer and depend on the voxel."""
        return self.model.df

    @property
    def streamed(self) -> bool:
        """Whether every batch reads from a file."""
        return isinstance(self.data, Tiles) and self.data.in_file

    @property
    def n_groups(self) -> int:
        """Number of variance groups."""
        return len(self._parts.ends)

    @property
    def degrees(self) -> tuple[float, float]:
        """The least and the most degrees of freedom that v, or the denominator of G, may have."""
        rests = self._parts.rests
        if len(rests) == 1:
            return self._numerator, self._numerator
        most = (len(rests) - 1) ** 2 / rests.sum()
        least = (1 / rests).sum() - (1 / rests).min()
        return self._numerator / least, self._numerator / most

    @property
    def _numerator(self) -> float:
        """What, over B, are the degrees of freedom; of one group, those of t and F."""
        s = self.model.rank_effect
        if len(self._parts.rests) == 1:
            return float(self.model.df)
        if self.model.is_f:
            return s * (s + 2) / 3
        return 1 / 3 if self.palm_dof else 1.0

    @cached_property
    def _table(self) -> ZTable:
        return z_table(self.model.rank_effect if self.model.is_f else 0, *self.degrees)

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """(B, V) float32 z of v or G, see `glm.Glm.statistic_maps`."""
        if self.device is not None:
            return self._on_device.maps(shuffles)
        out = np.zeros((len(shuffles), self.n_voxels), dtype=np.float32)
        for start, values in pieces(self.data):
            stop = min(start + values.shape[1], self.n_voxels)
            part = np.empty((len(shuffles), stop - start), dtype=np.float32)
            self._fill(values, np.arange(stop - start), self._norms[start:stop], shuffles, part, NO_EXACT)
            out[:, start:stop] = part
        return out

    def raw_maps(self, shuffle: Shuffles) -> RawMaps:
        """v or G of one permutation, their degrees of freedom, and z, in float64; on the host."""
        if self.device is not None:
            return RawMaps(*self.device.download(self._on_device.maps(shuffle[None], exact=True))[:, 0])
        return RawMaps(*self._exact(shuffle[None], np.arange(self.n_voxels))[:, 0])

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """z in float64 for pairs of a permutation and a voxel, see `glm.Glm.exact`."""
        if self.device is not None:
            return self._on_device.exact(shuffles, number, voxels)
        return shuffle_by_shuffle(shuffles, number, voxels, lambda one, wanted: self._exact(one, wanted)[2, 0])

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device, where they stay."""
        return self._on_device.exact_on(shuffles, items)

    @cached_property
    def _on_device(self) -> _OnDevice:
        return _OnDevice(self, self._own_device)

    def _exact(self, shuffles: Shuffles, voxels: Ints) -> Float64:
        """(3, B, m) Statistic, degrees of freedom and z at some voxels."""
        out = np.zeros((3, len(shuffles), len(voxels)))
        for place, values, column in pieces_with(self.data, voxels):
            part = np.empty((3, len(shuffles), len(column)))
            self._fill(values, column, self._norms[voxels[place]], shuffles, NO_MAPS, part)
            out[:, :, place] = part
        return out

    def _fill(
        self, values: Float32, voxels: Ints, norms: Float64, shuffles: Shuffles, maps: Float32, exact: Float64
    ) -> None:
        parts, model = self._parts, self.model
        if not model.rank_effect:
            maps[:], exact[:] = 0, 0
            return
        table = self._table
        fill(
            values, voxels, norms, self._removed, *_places(shuffles, parts.order), parts.rows, parts.ends, parts.sizes,
            parts.rests, parts.shares, parts.grams, model.rank_effect, parts.n_columns, model.is_f, self._numerator,
            table.first_x, table.first_df, table.least, table.polynomials, maps, exact,
        )  # fmt: skip


class _Parts(NamedTuple):
    """What loops take of a model whose rows are sorted by variance group.

    Attributes
    ----------
    order : (n,) int64
        The rows of the model, sorted.
    rows : (n, m) float64
        Columns that permutations move, the effect last.
    ends : (groups,) int64
        Number of the sorted row after each group's last one.
    sizes : (groups,) float64
        Rows of each group.
    rests : (groups,) float64
        Sum of the diagonal of the residual-forming matrix over the rows of each group.
    shares : (groups,) float64
        Their reciprocals.
    grams : (groups, k (k + 1) / 2) float64
        Lower triangles, row by row, of MᵀM over the rows of each group, for all columns, the effect last.
    n_columns : int
        Number of all columns, k.
    """

    order: Ints
    rows: Float64
    ends: Ints
    sizes: Float64
    rests: Float64
    shares: Float64
    grams: Float64
    n_columns: int


def _parts(effect: Float64, nuisance: Float64, invariant: Float64, labels: Ints) -> _Parts:
    fixed, moving = invariant_part(nuisance, invariant)
    order = np.argsort(labels, kind="stable")
    rows, whole = np.hstack([moving, effect])[order], np.hstack([fixed, moving, effect])[order]
    ends = np.cumsum(np.bincount(labels))
    groups = [whole[first:last] for first, last in zip([0, *ends], ends)]
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    rests = sizes - np.array([(group**2).sum() for group in groups])
    _check_rests(rests, labels)
    lower = np.tril_indices(whole.shape[1])
    grams = np.array([(group.T @ group)[lower] for group in groups])
    return _Parts(order, np.ascontiguousarray(rows), ends, sizes, rests, 1 / rests, grams, whole.shape[1])


def check_groups(basis: Float64, labels: Ints) -> None:
    """Refuse groups whose rows a model fits exactly, and more groups than there are pairs of rows.

    basis (n, k): orthonormal, of the whole model.
    """
    n_groups = int(labels.max()) + 1
    if 2 * n_groups > len(labels) and n_groups > 1:
        raise DesignError(
            f"there are {n_groups} variance groups of {len(labels)} rows; a variance takes two rows or more, so that "
            f"{len(labels) // 2} groups or fewer are expected",
            option="--variance-groups",
        )
    rests: Float64 = np.bincount(labels, weights=1 - (basis**2).sum(axis=1)).astype(np.float64)
    _check_rests(rests, labels)


def _check_rests(rests: Float64, labels: Ints) -> None:
    """Refuse groups whose rows the model fits exactly."""
    wrong = np.flatnonzero(rests < LEAST_REST)
    if len(wrong):
        rows = np.flatnonzero(labels == wrong[0]) + 1
        which = f"of row {rows[0]} alone" if len(rows) == 1 else f"of rows {', '.join(map(str, rows[:5]))}"
        which += ", …" * (len(rows) > 5)
        raise DesignError(
            f"the variance group {which} has no variance to be estimated, because the model fits its rows exactly; "
            "merge it with another group, or leave out what fits it"
        )


def _places(shuffles: Shuffles, order: Ints) -> tuple[Ints, Float64]:
    """(B, n) Place that each of the sorted rows comes to, and its sign."""
    places = np.argsort(rows_of(shuffles), axis=1, kind="stable")[:, order]
    signs = np.take_along_axis(signs_of(shuffles), places, axis=1)
    return np.ascontiguousarray(places, dtype=np.int64), np.ascontiguousarray(signs, dtype=np.float64)


_THREADS = 128


def slab_width(free_bytes: int, n: int, n_voxels: int) -> int:
    """Voxels of a slab: all of them if their residuals, and two slabs of data, take a quarter of the free memory."""
    return int(np.clip(free_bytes // 4 // (16 * n + 8), 1, max(n_voxels, 1)))


class _OnDevice:
    """Maps of a `VarianceGroupsGlm` on a device, a slab of voxels at a time, see `streaming.PreparedSlabs`."""

    def __init__(self, model: VarianceGroupsGlm, device: Device) -> None:
        self.model, self.device = model, device
        self.n, self.n_voxels = model.data.shape
        device.keep(model._table.polynomials)
        width = device.width_for(
            (model.data,), self.n_voxels, lambda free: slab_width(free, self.n, self.n_voxels)
        )
        fill = partial(copy_block, model.data)
        self._slabs: PreparedSlabs[tuple[int, int, list[DeviceArray]]] = PreparedSlabs(
            device, (model.data,), self.n, self.n_voxels, width, fill
        )
        parts = model._parts
        self.sorted = np.argsort(parts.order).astype(np.int32)
        self.ends = parts.ends.astype(np.int32)

    def slabs(self) -> Iterator[tuple[int, int, list[DeviceArray]]]:
        """What was made of every slab, one after the other."""
        return self._slabs.sweep(self._prepare)

    def _prepare(self, start: int, width: int, values: DeviceArray) -> tuple[int, int, list[DeviceArray]]:
        """Start, width, and (residuals, units) of a slab."""
        model, device = self.model, self.device
        made = [device.empty((self.n, width), np.float64), device.empty(width, np.float64)]
        norms = device.upload(np.ascontiguousarray(model._norms[start : start + width]))
        device.launch(
            "variance_groups_prepare", blocks_for(width, _THREADS, device), _THREADS,
            values, np.int64(self._slabs.width), np.int32(width), norms, device.keep(model._removed),
            np.int32(model._removed.shape[1]), np.int32(self.n), *made,
        )  # fmt: skip
        return start, width, made

    def _places(self, shuffles: ShuffleBatch) -> DeviceArray:
        """(B, n) Signed places of the sorted rows."""
        held, device = on_device(shuffles, self.device), self.device
        places = device.empty((len(held), self.n), np.int32)
        device.launch(
            "variance_groups_places", blocks_for(len(held) * self.n, _THREADS, device), _THREADS,
            held.array, np.int32(len(held)), np.int32(self.n), device.keep(self.sorted), places,
        )  # fmt: skip
        return places

    def _arguments(self, threads: int) -> tuple[DeviceArray | np.generic, ...]:
        """What kernels take of the model and of the table, and scratch for so many threads."""
        model, device, parts, table = self.model, self.device, self.model._parts, self.model._table
        sizes = self.n, parts.rows.shape[1], len(parts.ends), parts.n_columns, model.model.rank_effect
        arrays = parts.rows, self.ends, parts.sizes, parts.rests, parts.shares, parts.grams
        n_df, n_x = table.polynomials.shape[:2]
        return (
            *(device.keep(each) for each in arrays),
            *map(np.int32, (*sizes, model.model.is_f)), np.float64(model._numerator), device.keep(table.polynomials),
            *map(np.int32, (table.first_x, table.first_df, n_x, n_df)), np.float64(table.least),
            device.empty(threads * self._scratch, np.float64),
        )  # fmt: skip

    def maps(self, shuffles: ShuffleBatch, exact: bool = False) -> DeviceArray:
        """(B, V) float32 z; or (3, B, V) float64 statistic, degrees of freedom and z."""
        device, n_maps = self.device, len(shuffles)
        shape = (n_maps, self.n_voxels)
        if not self.model.model.rank_effect or not self.n_voxels:
            return device.full((3, *shape) if exact else shape, 0, np.float64 if exact else np.float32)
        places = self._places(shuffles)
        maps = device.empty((1, 1) if exact else shape, np.float32)
        raw = device.empty((3, *shape) if exact else (1, 1, 1), np.float64)
        blocks = self._blocks(n_maps * min(self._slabs.width, self.n_voxels))
        arguments = self._arguments(blocks * _THREADS)
        for start, width, made in self.slabs():
            device.launch(
                "variance_groups_maps", blocks, _THREADS,
                *made, np.int32(width), places, np.int32(n_maps), *arguments, np.int32(exact),
                np.int64(self.n_voxels), np.int64(start), maps, raw,
            )  # fmt: skip
        return raw if exact else maps

    def _blocks(self, items: int) -> int:
        """Blocks for so many items, of which the threads have scratch in no more than a quarter of the free memory."""
        affordable = self.device.free_bytes() // 4 // (8 * _THREADS * self._scratch)
        return max(1, min(blocks_for(items, _THREADS, self.device), affordable))

    @property
    def _scratch(self) -> int:
        """Numbers that a thread needs room for."""
        parts = self.model._parts
        return int(parts.rows.shape[1] + len(parts.ends) + parts.n_columns + parts.grams.shape[1])

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """z in float64 for pairs of a permutation and a voxel; on the host."""
        if not len(number):
            return np.zeros(0)
        return self.device.download(self.exact_on(shuffles, upload_items(self.device, number, voxels)))

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) The same for a list on the device, where they stay."""
        device = self.device
        if not self.model.model.rank_effect:
            return device.full(items.room, 0, np.float64)
        z = device.empty(items.room, np.float64)
        if self._slabs.width < self.n_voxels and not device.download(items.count)[0]:
            return z  # before data are sent in vain
        places, blocks = self._places(shuffles), self._blocks(items.room)
        arguments = self._arguments(blocks * _THREADS)
        for start, width, made in self.slabs():
            device.launch(
                "variance_groups_exact", blocks, _THREADS,
                *made, np.int32(width), np.int32(start), *items.arguments, places, *arguments, z,
            )  # fmt: skip
        return z
