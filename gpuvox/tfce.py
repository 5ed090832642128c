"""Threshold-free cluster enhancement (TFCE) in integers.

The TFCE of a voxel v of a map t is, in steps of height δ as FSL takes them (Smith & Nichols, NeuroImage 44:83-98,
2009; no factor δ),

    TFCE(v) = Σ_k e_v(h_k)^E · h_k^H      over the thresholds h_k = kδ under t(v),

with e_v(h) the number of voxels of the connected component of v in {t > h}. Level L(v) is the number of thresholds
under |t(v)|; S_k, the voxels of level ≥ k, are nested. The negative of a map is enhanced beside it: edges join only
voxels of equal sign, so t and −t are one pass over two disjoint graphs.

**Integers.** Scores are Σ_k S[n_k]·w_k with S[n] = round(n^E·2^q) and w_k = round((h_k/δ)^H·2^r); see
`LevelTable`. Integer sums commute, so a map has the same scores in any batch, thread and order of summation.

**Few voxels matter.** Order the voxels by (level, position), a strict order. A voxel whose greater neighbours are
all connected through greater voxels, within its 3 × 3 × 3 cube, joins nothing: when the threshold falls to its
level it only adds itself to the one component that its greater neighbours are part of. Only *peaks* (no greater
neighbour) and *saddles* (greater neighbours in several pieces) change the topology. At 2 mm and a smoothness of
3.5 voxels these are 7 % of the voxels. Both are recognised by bit operations on the neighbourhoods of many voxels at
once (`ascent`): a flood of a fixed number of rounds; where it has not reached everything the
voxel is taken for a saddle, which costs time but is never wrong. Every other voxel points at any greater voxel of
its cube; following the pointers leads to a peak in the same component of S_L(v), its *label* (`descent`). Hence
components of S_k are components of the graph of peaks with an edge (label, label) at the level of each saddle.
(Related: Carr et al., 2021, parallel peak pruning; Lukasczyk et al., TVCG 2024, ExTreeM.)

**One descending sweep.** With C[k] = Σ_{j≤k} w_j, summation by parts gives

    Σ_{j≤L} S[n_j]·w_j = Σ_k (S[n_k] − S[n_{k+1}])·C[k]

so every growth of a component at level k, by one voxel or by a union, adds (S[new] − S[old])·C[k] to the total of
each of its peaks. All peaks of a component grow alike from then on: one accumulator at the root, an offset at each
peak. The order of events within a level does not matter. A voxel's score is the final total of its label less what
the label had gathered above the voxel's level: A = (total so far) − S[n]·C[k].

**On a GPU** (``kernels/tfce.cu``) a block of threads enhances a map, with the same tables and so the same scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpuvox.ascent import neighbour_cells
from gpuvox.descent import Layout, enhance_maps, keep, layout_of, scratch_for
from gpuvox.device import Again, Device, Outcomes, Promise, settled, slots_for
from gpuvox.errors import InputError, WrongBitsError
from gpuvox.grid import Grid
from gpuvox.heights import Ladder, add_to_scores, ladder, multiples_from, score_values
from gpuvox.jit import checked
from gpuvox.levels import Levels
from gpuvox.reductions import count_below, extremes_on
from gpuvox.tfce_tables import (
    CODE_LEVELS,
    FIRST_LEVELS,
    MAX_LEVELS,
    LevelOverflow,
    LevelTable,
    Tfce,
    level_table,
    levels_needed,
    most_levels,
    robust_peak,
    step_size,
)
from gpuvox.types import AnyArray, Bools, DeviceArray, Float32, Float64, Int32, Ints, MapBatch

__all__ = [
    "Enhancer",
    "LevelOverflow",
    "LevelTable",
    "Tfce",
    "level_table",
    "most_levels",
    "robust_peak",
    "step_size",
]

NOT_FINITE = "a statistic map has a value that is not a number; TFCE needs finite values"
DISAGREES = "the device finds more TFCE levels in a map than the host, so it computes incorrectly"
EDGE_SHARES = {6: 0.25, 18: 0.5, 26: 0.25}
"""Edges that there is room for on a device, per voxel of the mask, by connectivity; rough maps have more."""


# -- the enhancer ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Enhancer:
    """TFCE of maps on one grid with fixed steps: a pure function of each map.

    Parameters
    ----------
    grid : Grid
    options : Tfce
    deltas : (float, float)
        Step for the maps and for their negatives (`step_size`). 0 or None leaves a sign blank: score 0 everywhere.
    cap : int
        Number of levels of the tables.
    device : Device, optional
        Where the maps are; the CPU by default. Scores do not depend on it.
    most : int
        Maps with more levels are finished by closed sums (`heights`), on the host; those with more than `cap` but no
        more than this are reported, so that larger tables can be made.
    """

    grid: Grid
    options: Tfce
    deltas: tuple[float | None, float | None]
    cap: int = FIRST_LEVELS
    device: Device | None = None
    most: int = MAX_LEVELS

    def maxima(self, stat: MapBatch) -> AnyArray:
        """Maximum of the enhanced map and of the enhanced negative, for each map.

        Parameters
        ----------
        stat : (B, V) float32

        Returns
        -------
        (2, B) int64 (float64 if exact), on the host
            Scores; `to_float` turns them into FSL's units.

        Raises
        ------
        LevelOverflow
            A map has more than `cap` levels, and no more than `most`.
        InputError
            Values that are not finite.
        """
        return settled(self.device, lambda outcomes: self.promised_maxima(stat, outcomes)).value

    def promised_maxima(self, stat: MapBatch, outcomes: Outcomes) -> Promise[AnyArray]:
        """The same; on a device, errors are raised when the outcomes are collected."""
        return self._promised(stat, False, outcomes)[0]

    def enhance(self, stat: MapBatch) -> MapBatch:
        """Score at each voxel: of the map where it is positive, minus that of its negative where it is negative.

        Parameters
        ----------
        stat : (B, V) float32

        Returns
        -------
        (B, V) int64 (float64 if exact)

        Raises
        ------
        LevelOverflow, InputError
            As for `maxima`.
        """
        return settled(self.device, lambda outcomes: self.promised_maps(stat, outcomes))

    def promised_maps(self, stat: MapBatch, outcomes: Outcomes) -> MapBatch:
        """The same; on a device the maps are complete when the outcomes are collected without an error."""
        return self.promised_both(stat, outcomes)[1]

    def promised_both(self, stat: MapBatch, outcomes: Outcomes) -> tuple[Promise[AnyArray], MapBatch]:
        """(promise of the maxima, maps), see `promised_maxima` and `promised_maps`."""
        return self._promised(stat, True, outcomes)

    def maxima_and_below(self, stat: Float32, observed: Ints) -> tuple[Ints, Ints]:
        """Maxima, and counts of maps below observed scores; on the CPU, without a map being written.

        Parameters
        ----------
        stat : (B, V) float32
        observed : (V,) int64

        Returns
        -------
        maxima : (2, B) int64
            See `maxima`.
        below : (2, V) int64
            See `reductions.count_below`, whose signs are disjoint here.

        Raises
        ------
        LevelOverflow, InputError
            As for `maxima`.
        """
        self._check_shape(stat)
        if self.by_height:
            maxima, maps = self._run(stat, True)
            return maxima, count_below(maps, observed[None], True)
        nearer = np.zeros(len(observed), dtype=np.int32)
        maxima, _ = self._run(stat, False, observed, nearer)
        return maxima, np.stack([np.where(observed > 0, nearer, 0), np.where(observed < 0, nearer, 0)]).astype(
            np.int64
        )

    def to_float(self, score: AnyArray, row: int = 0) -> Float64:
        """Scores → TFCE in FSL's units.

        Parameters
        ----------
        score : array of scores
        row : {0, 1}
            0: of the maps; 1: of their negatives (their step differs).
        """
        if self.options.exact:
            return np.asarray(score, dtype=np.float64)
        return score_values(score) * self.tables[row].scale

    def on(self, device: Device | None) -> Enhancer:
        """The same, with the very same tables, for maps on a device; nothing else that it keeps is taken along.

        The powers in the tables may differ in the last bit between processors.
        """
        other = replace(self, device=device)
        other.__dict__["tables"] = self.tables
        return other

    @cached_property
    def tables(self) -> tuple[LevelTable, LevelTable]:
        """Levels of the maps and of their negatives."""
        up, down = (level_table(d or 0.0, self.options, self.grid.n_voxels, self.cap) for d in self.deltas)
        return up, down

    @property
    def by_height(self) -> bool:
        """Whether voxels are processed one by one: for the exact integral, and for more levels than int16 holds."""
        return self.options.exact or self.cap > CODE_LEVELS

    @cached_property
    def _layout(self) -> Layout:
        return layout_of(self.grid)

    @cached_property
    def _size_table(self) -> AnyArray:
        """S, or n^E where exact."""
        if not self.options.exact:
            return self.tables[0].sizes
        sizes = np.arange(self.grid.n_voxels + 1.0) ** self.options.E
        sizes[0] = 0
        return sizes

    @cached_property
    def _levels(self) -> Levels:
        up, down = self.tables
        return Levels(
            np.array([1 / t.delta if t.delta else 0 for t in self.tables], dtype=np.float32),
            np.float32(max(up.slack, down.slack)),
            self.cap,
            0 if self.options.H > 0 or self.options.rule == "palm" else 1,
            np.stack([up.thresholds, down.thresholds]),
            np.stack([up.weights, down.weights]),
            up.sizes,
            np.diff(up.sizes, append=0),
        )

    def _promised(self, stat: MapBatch, full: bool, outcomes: Outcomes) -> tuple[Promise[AnyArray], MapBatch]:
        """(promise of the maxima, maps); maps are empty unless `full`."""
        self._check_shape(stat)
        if self.device is not None:
            return _enhance_on(self.device, self, stat, full, outcomes)
        maxima, maps = self._run(stat, full)
        return outcomes.known(maxima), maps

    def _check_shape(self, stat: MapBatch) -> None:
        if stat.ndim != 2 or stat.shape[1] != self.grid.n_voxels:
            raise ValueError(
                f"statistic maps of shape {stat.shape} are not (maps, {self.grid.n_voxels}), as the mask has it"
            )

    def _run(
        self, stat: Float32, full: bool, ties: Ints | None = None, nearer: Int32 | None = None
    ) -> tuple[AnyArray, AnyArray]:
        """(maxima, maps) on the CPU; maps are empty unless `full`. ties, nearer: see `descent.Kept`."""
        stat = np.ascontiguousarray(stat, dtype=np.float32)
        if self.options.exact:
            return self._sorted(stat)
        maxima = np.zeros((2, len(stat)), dtype=np.int64)
        maps = np.empty((len(stat) if full else 0, stat.shape[1]), dtype=np.int64)  # all voxels are written
        high = np.zeros(len(stat), dtype=bool)
        if self.by_height:
            high = self._rise_above(stat)
            low = np.flatnonzero(~high)
            maxima[:, low], scores = self._sorted(stat[low])
            if full:
                maps[low] = scores
        elif stat.size:
            cells = neighbour_cells(self.options.connectivity)
            scratch = scratch_for(self.grid, self.cap)
            kept = keep(maxima, maps, ties, nearer)
            enhance_maps(stat, self._layout, self._levels, scratch, cells, kept, high)
        for b in np.flatnonzero(high):
            maxima[:, b], scores = self._finished(stat[b])
            if full:
                maps[b] = scores
            if ties is not None and nearer is not None:
                nearer += ((ties > 0) & (scores < ties)) | ((ties < 0) & (scores > ties))
        return maxima, maps

    # Maps with more levels than the tables have.

    def _rise_above(self, stat: Float32) -> Bools:
        """(B,) Maps that have more levels than the tables, or values that are not finite."""
        up, down = (table.thresholds[-1] for table in self.tables)
        high: Bools = ((stat > up) | (-stat > down) | ~np.isfinite(stat)).any(axis=1)
        return high

    def _finished(self, stat: Float32) -> tuple[AnyArray, AnyArray]:
        """(maxima, map) of a map (V,) on the host that rises above the tables; raises if that is to be reported."""
        self._overflow(stat[None])
        up, down = (table.thresholds[-1] for table in self.tables)
        under = np.clip(stat, -down, up)  # exactly `cap` levels
        scores = self.on(None)._run(under[None], True)[1][0]
        for row, sign in enumerate((1, -1)):
            voxels, more = self._above(stat * np.float32(sign), row)
            scores[voxels] = sign * add_to_scores(sign * scores[voxels], more)
        return np.maximum([scores.max(), -scores.min()], 0), scores

    def _above(self, values: Float32, row: int) -> tuple[AnyArray, Float64]:
        """Voxels above the tables, by falling height, and what their scores gain from the thresholds up there."""
        table = self.tables[row]
        last = table.thresholds[-1]
        voxels = np.flatnonzero(values > last)
        voxels = voxels[np.argsort(-values[voxels], kind="stable")]
        worth = self._steps_above(row).sums(values[voxels], self.options.H) if len(voxels) else np.zeros(0)
        padded, sizes = self.grid.padded, table.sizes.astype(np.float64)
        offsets = padded.offsets(self.options.connectivity)
        more = _grow(padded.index[voxels], worth * table.unit, sizes, offsets, padded.size)
        return voxels, self._in_range(more)

    def _steps_above(self, row: int) -> Ladder:
        """The thresholds above the tables."""
        table = self.tables[row]
        if self.options.rule == "palm":
            return multiples_from(table.delta, self.cap + 1)
        return ladder(np.float32(table.delta), table.thresholds[-1])

    def _in_range(self, scores: AnyArray) -> AnyArray:
        """Scores, if float64 can hold them."""
        if not np.isfinite(scores).all():
            raise InputError(
                f"TFCE with H = {self.options.H:g} and E = {self.options.E:g} of a map this high is beyond double "
                "precision"
            )
        return scores

    # For devices: arrays that stay the same, so that they are copied there only once.

    @cached_property
    def _edge_room(self) -> list[int]:
        """Room for edges of a map; grows when a map needs more."""
        return [int(EDGE_SHARES[self.options.connectivity] * self.grid.n_voxels) + 32]

    @cached_property
    def _peak_tables(self) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Thresholds, weights w_k and 1/δ of both signs."""
        levels = self._levels
        return levels.thresholds, np.diff(levels.weights, prepend=0), levels.per_step

    @cached_property
    def _height_tables(self) -> list[tuple[AnyArray, AnyArray, float]]:
        """Thresholds, C and 1/δ of either sign; of no meaning where exact."""
        if self.options.exact:
            return [(np.zeros(1, dtype=np.float32), np.zeros(1), 0.0)] * 2
        return [(t.thresholds, t.weights, 1 / t.delta if t.delta else 0.0) for t in self.tables]

    @cached_property
    def _offsets(self) -> Int32:
        return self.grid.padded.offsets(self.options.connectivity)

    def _overflow(self, stat: Float32) -> None:
        """Raise if a map has too many levels, but not so many that it is to be finished, or values not finite."""
        if not np.isfinite(stat).all():
            raise InputError(NOT_FINITE)
        peaks = (float(stat.max(initial=0)), -float(stat.min(initial=0)))
        needed = max(
            levels_needed(table, self.options, peak, self.most) for table, peak in zip(self.tables, peaks)
        )
        if self.cap < needed <= self.most:
            raise LevelOverflow(needed)

    def _sorted(self, stat: Float32) -> tuple[AnyArray, AnyArray]:
        """Process voxel by voxel (slow): for the exact integral, and for more levels than int16 holds."""
        maps = np.zeros(stat.shape, dtype=np.float64 if self.options.exact else np.int64)
        padded = self.grid.padded
        offsets = padded.offsets(self.options.connectivity)
        for row, sign in enumerate((1, -1)):
            if not self.deltas[row]:
                continue
            for values, out in zip(stat, maps):
                voxels, worth, sizes = self._descending(values * np.float32(sign), row)
                score = _grow(padded.index[voxels], worth, sizes, offsets, padded.size)
                out[voxels] = sign * score
        extremes = np.zeros((2, len(stat)), dtype=maps.dtype)
        if stat.size:
            extremes[:] = np.maximum([maps.max(axis=1), -maps.min(axis=1)], 0)
        return self._in_range(extremes), maps

    def _descending(self, values: Float32, row: int) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Voxels of positive weight by falling height, C at each, and S."""
        order = np.argsort(-values, kind="stable")
        order = order[values[order] > 0]
        if self.options.exact:
            if not np.isfinite(values).all():
                raise InputError(NOT_FINITE)
            power = float(self.options.H) + 1
            return order, _power(values[order].astype(np.float64), power) / power, self._size_table
        table = self.tables[row]
        level = np.searchsorted(table.thresholds, values[order])
        order, level = order[level > 0], level[level > 0]
        return order, table.weights[level], table.sizes


def _power(x: Float64, power: float) -> Float64:
    """x^power, by multiplication where the power is whole: any device gets the same bits."""
    if not power.is_integer() or power > 64:
        return x**power
    out = x.copy()
    with np.errstate(over="ignore"):
        for _ in range(1, int(power)):
            out *= x
    return out


# -- on a device ----------------------------------------------------------------------------------------------------

_GROW_THREADS, _GROW_RESIDENT = 128, 8
_SHARED_LEVELS = 2048  # up to so many, counts by level are in shared memory
_PEAK_BYTES = 12  # of shared memory


def _enhance_on(
    device: Device, enhancer: Enhancer, stat: DeviceArray, full: bool, outcomes: Outcomes
) -> tuple[Promise[AnyArray], DeviceArray]:
    """(promise of the maxima, maps) of maps on a device."""
    n_maps, n_voxels = stat.shape
    kind = np.float64 if enhancer.options.exact else np.int64
    if not n_maps or not n_voxels:
        none = outcomes.known(np.zeros((2, n_maps), dtype=kind))
        return none, device.empty((n_maps if full else 0, n_voxels), kind)
    if not enhancer.by_height:
        maps = device.empty((n_maps if full else 1, n_voxels), np.int64)
        return _peaks_until_done(device, enhancer, stat, maps if full else None, outcomes), maps
    maps = device.full((n_maps, n_voxels), 0, kind)
    rows = [_grow_on(device, enhancer, stat, row, maps) for row in range(2) if enhancer.deltas[row]]

    def finish(largest: AnyArray, *statuses: Int32) -> AnyArray:
        high = np.any([np.zeros(n_maps, dtype=bool), *(status != 0 for status in statuses)], axis=0)
        maxima = np.maximum(largest + kind(0), 0)  # no negative zeros
        return enhancer._in_range(
            _finish_on(device, enhancer, stat, high, maxima, maps if full else None, outcomes)
        )

    return outcomes.promise(finish, extremes_on(device, maps), *rows), maps


def _peaks_until_done(
    device: Device, enhancer: Enhancer, stat: DeviceArray, maps: DeviceArray | None, outcomes: Outcomes
) -> Promise[Ints]:
    """Maxima of maps on a device by way of their peaks, with as much room for edges as it takes."""
    room = enhancer._edge_room

    def finish(maxima: Ints, status: Int32) -> Ints:
        while status.max() > 0:
            room[0] = max(room[0], int(1.1 * status.max()))
            if maps is not None and not outcomes.step_by_step:
                raise Again  # what followed has taken the maps for complete
            maxima, status = device.download_all(peaks_on(device, enhancer, stat, room[0], maps))
        return _finish_on(device, enhancer, stat, status < 0, maxima, maps, outcomes)

    return outcomes.promise(finish, *peaks_on(device, enhancer, stat, room[0], maps))


def _finish_on(
    device: Device,
    enhancer: Enhancer,
    stat: DeviceArray,
    high: Bools,
    maxima: AnyArray,
    maps: DeviceArray | None,
    outcomes: Outcomes,
) -> AnyArray:
    """Maxima, with those of maps that rise above the tables, which are finished on the host, as their scores are."""
    for b in map(int, np.flatnonzero(high)):
        values = device.download(device.rows(stat, b, b + 1))
        if enhancer.options.exact or not enhancer._rise_above(values).any():
            enhancer._overflow(values)
            raise WrongBitsError(DISAGREES)
        maxima[:, b], scores = enhancer._finished(values[0])
        if maps is not None:
            if not outcomes.step_by_step:
                raise Again(step_by_step=True)
            device.put_row(maps, b, scores)
    return maxima


def peaks_on(
    device: Device,
    enhancer: Enhancer,
    stat: DeviceArray,
    edge_room: int,
    maps: DeviceArray | None,
    own: tuple[DeviceArray, DeviceArray] | None = None,
) -> tuple[DeviceArray, DeviceArray]:
    """Maxima and outcome of each map, on the device; its scores go to `maps`.

    own: thresholds (B, 2, cap + 1) and 1/δ (B, 2) of each map, if they are not those of the enhancer.
    """
    n_maps, n_voxels = stat.shape
    full, padded, cap = maps is not None, enhancer.grid.padded, enhancer.cap
    box, i32 = padded.size, np.int32
    count_bytes = 12 * (cap + 1) if cap <= _SHARED_LEVELS else 0
    kernel = f"tfce_peaks<{enhancer.options.connectivity}, {'true' if full else 'false'}>"
    launch = device.tuning.of(kernel)
    room = int(launch.shared * (device.shared_bytes // launch.resident)) - count_bytes - 1024
    n_shared = max(0, room // _PEAK_BYTES // 2 * 2)
    bytes_each = 6 * box + (32 if full else 24) * n_voxels + 16 * edge_room + 12 * (cap + 1)
    slots = slots_for(n_maps, launch.resident, bytes_each, device)
    code = device.full((slots, box), 0, np.int16)
    up, counts = device.empty((slots, box), i32), device.empty((slots, 3, cap + 1), i32)
    order, word = device.empty((slots, n_voxels), i32), device.empty((slots, n_voxels), np.uint32)
    gathered, dead = device.empty((slots, n_voxels), np.int64), device.empty((slots, 2 * n_voxels), i32)
    raw, edge = device.empty((slots, 2 * edge_room), i32), device.empty((slots, 2 * edge_room), i32)
    above = device.empty((slots, n_voxels) if full else (1, 1), np.int64)
    maxima, status = device.empty((2, n_maps), np.int64), device.empty(n_maps, i32)
    thresholds, weights, per_step = enhancer._peak_tables
    px, py, _ = padded.shape
    device.launch(
        kernel, slots, launch.threads,
        stat, i32(n_maps), i32(n_voxels), device.keep(padded.index), i32(box), i32(px), i32(px * py),
        *([device.keep(thresholds), device.keep(per_step)] if own is None else own), i32(0 if own is None else 2),
        device.keep(weights), device.keep(enhancer._size_table), i32(cap), i32(edge_room), i32(count_bytes > 0),
        i32(n_shared), code, up, order, word, gathered, dead, raw, edge, counts, above, maxima, status,
        maps if maps is not None else above,
        shared=n_shared * _PEAK_BYTES + count_bytes,
    )  # fmt: skip
    return maxima, status


def _grow_on(device: Device, enhancer: Enhancer, stat: DeviceArray, row: int, maps: DeviceArray) -> DeviceArray:
    """Add the scores of one sign to maps that are 0 there; which maps rise above the tables, or are not finite."""
    n_maps, n_voxels = stat.shape
    padded, exact, i32 = enhancer.grid.padded, enhancer.options.exact, np.int32
    kind = np.float64 if exact else np.int64
    slots = slots_for(n_maps, _GROW_RESIDENT, 4 * padded.size + 36 * n_voxels + 1024 * _GROW_THREADS, device)
    at = device.full((slots, padded.size), -1, i32)
    words = [device.empty((slots, n_voxels), i32) for _ in range(5)]  # key, order, other, parent, size
    scores = [device.empty((slots, n_voxels), kind) for _ in range(2)]  # score, worth
    count = device.empty((slots, 256 * _GROW_THREADS), i32)
    status = device.full(n_maps, 0, i32)
    thresholds, worth, per_step = enhancer._height_tables[row]
    offsets = enhancer._offsets
    # A block has one map, of which one thread adds the voxels one by one. More maps in a launch would take several
    # times as long, and the system stops what keeps a graphics card with a display busy for seconds.
    for start in range(0, n_maps, slots):
        part = start, min(start + slots, n_maps)
        device.launch(
            f"tfce_grow<{'double' if exact else 'long long'}>", part[1] - start, _GROW_THREADS,
            device.rows(stat, *part), i32(part[1] - start), i32(n_voxels), device.keep(padded.index), i32(padded.size),
            device.keep(offsets), i32(len(offsets)), device.keep(thresholds), device.keep(worth),
            device.keep(enhancer._size_table), np.float32(per_step), i32(enhancer.cap),
            np.float64(enhancer.options.H + 1 if exact else 0), i32((1, -1)[row]), at, *words, *scores, count,
            device.rows(status, *part), device.rows(maps, *part),
        )  # fmt: skip
    return status


# -- voxel by voxel -------------------------------------------------------------------------------------------------


@checked
def _grow(position: Int32, worth: AnyArray, sizes: AnyArray, offsets: Int32, box: int) -> AnyArray:
    """TFCE of voxels listed by falling height, by a tree of components (Najman & Couprie 2006, IEEE TIP 15:3531).

    An implementation independent of `descent`. `worth`: C at each voxel, int64 or float64. Voxel v stands for its
    component when the threshold has fallen to its height, whose parent is that of the voxel that next joins it. What a
    component is worth between two heights is S[size]·(C − C of its parent): a voxel's score is a sum of such terms,
    all of them positive, from its own component to the last one, so that nothing cancels.
    """
    n_voxels = len(position)
    at = np.full(box, -1, np.int32)
    parent, root = np.arange(n_voxels), np.arange(n_voxels)
    size = np.ones(n_voxels, np.int64)
    for v in range(n_voxels):
        at[position[v]] = v
        for offset in offsets:
            other = at[position[v] + offset]
            if other < 0:
                continue
            while root[other] != other:
                root[other] = root[root[other]]
                other = root[other]
            if other != v:
                parent[other] = root[other] = v
                size[v] += size[other]
    score = np.empty(n_voxels, worth.dtype)
    for v in range(n_voxels - 1, -1, -1):
        over = parent[v]
        if over == v:
            score[v] = sizes[size[v]] * worth[v]
        else:
            score[v] = score[over] + sizes[size[v]] * (worth[v] - worth[over])
    return score
