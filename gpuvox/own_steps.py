"""TFCE in steps of a hundredth of each map's own maximum, as PALM takes them; `tfce` has the rest.

The thresholds of a map of maximum m are m/100, 2m/100, … m, and a voxel counts where it reaches them. In steps, heights
are the whole numbers from 1 to 100 whatever the map: one table of weights and sizes serves all maps, and scores are
integers as elsewhere. Only what a score is worth differs from map to map: δ^(1+H), with δ = m/100, one factor for a map
and one for its negative.

The level of a voxel is the number of k with 100·t ≥ k·m, in exact arithmetic, whatever the rounding of m/100. Powers of
δ are taken by series of a fixed number of terms, so that every processor and device gets the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpuvox.ascent import neighbour_cells
from gpuvox.descent import enhance_maps, keep, scratch_for
from gpuvox.device import Again, Device, Outcomes, Promise, blocks_for, blocks_over
from gpuvox.errors import InputError, WrongBitsError
from gpuvox.grid import Grid
from gpuvox.jit import loop
from gpuvox.levels import Levels
from gpuvox.reductions import extremes_on
from gpuvox.tfce import DISAGREES, NOT_FINITE, Enhancer, peaks_on
from gpuvox.tfce_tables import Tfce
from gpuvox.types import AnyArray, DeviceArray, Float32, Float64, Int32, Ints, MapBatch

__all__ = ["STEPS", "OwnSteps", "raised"]

STEPS = 100
"""Steps from 0 to the maximum of a map."""

_THREADS = 256


@dataclass(frozen=True, eq=False)
class OwnSteps:
    """TFCE of maps on one grid, each with steps of its own: a pure function of each map.

    Parameters
    ----------
    grid : Grid
    options : Tfce
    signs : {1, 2}
        1: negatives of maps are blank.
    device : Device, optional
        Where the maps are; the CPU by default. Values do not depend on it.
    """

    grid: Grid
    options: Tfce
    signs: int = 1
    device: Device | None = None

    @cached_property
    def enhancer(self) -> Enhancer:
        """Weights and sizes in steps, whatever these are."""
        return Enhancer(self.grid, replace(self.options, delta=1.0), (1.0, 1.0), STEPS, self.device)

    @property
    def _unit(self) -> float:
        """What a score of steps of height 1 is multiplied by."""
        return self.enhancer.tables[0].scale

    def on(self, device: Device | None) -> OwnSteps:
        """The same, with the very same tables, for maps on a device."""
        other = replace(self, device=device)
        other.__dict__["enhancer"] = self.enhancer.on(device)
        return other

    def promised_maxima(self, stat: MapBatch, outcomes: Outcomes) -> Promise[Float64]:
        """(2, B) Largest value of each enhanced map, and of each enhanced negative.

        Raises
        ------
        InputError
            Values that are not finite; on a device, when the outcomes are collected.
        """
        return self._promised(stat, False, outcomes)[0]

    def promised_both(self, stat: MapBatch, outcomes: Outcomes) -> tuple[Promise[Float64], MapBatch]:
        """The same, and (B, V) float64 values.

        They are those of the map where it is positive, minus those of its negative where it is negative; on a device
        they are complete when the outcomes are collected without an error.
        """
        return self._promised(stat, True, outcomes)

    def maxima_and_below(self, stat: Float32, ties: Float64) -> tuple[Float64, Ints]:
        """Maxima, and counts of maps below the least values (V,) that tie; on the CPU, without a map being written.

        Returns
        -------
        maxima : (2, B) float64
            See `promised_maxima`.
        below : (2, V) int64
            See `reductions.count_below`, whose signs are disjoint here.

        Raises
        ------
        InputError
            Values that are not finite.
        """
        nearer, maxima = np.zeros(len(ties), dtype=np.int32), np.zeros((2, len(stat)))
        for b, best, scale, scores in self._each(stat, True):
            maxima[:, b] = best * scale
            _count(scores, scale, ties, nearer)
        return maxima, np.stack([np.where(sign * ties > 0, nearer, 0) for sign in (1, -1)]).astype(np.int64)

    def _promised(self, stat: MapBatch, full: bool, outcomes: Outcomes) -> tuple[Promise[Float64], MapBatch]:
        if stat.shape[1:] != (self.grid.n_voxels,):
            raise ValueError(f"statistic maps of shape {stat.shape} are not (maps, {self.grid.n_voxels})")
        if self.device is not None:
            return _enhance_on(self.device, self, stat, full, outcomes)
        maxima, maps = self._run(stat, full)
        return outcomes.known(maxima), maps

    def _run(self, stat: Float32, full: bool) -> tuple[Float64, Float64]:
        """(maxima, maps) on the CPU; maps are empty unless `full`."""
        maxima, maps = np.zeros((2, len(stat))), np.zeros((len(stat) if full else 0, stat.shape[1]))
        for b, best, scale, scores in self._each(stat, full):
            maxima[:, b] = best * scale
            if full:
                _value(scores, scale, maps[b])
        return maxima, maps

    def _each(self, stat: Float32, full: bool) -> Iterator[tuple[int, Ints, Float64, Ints]]:
        """Number, largest scores, scales and, if `full`, scores of each map, in arrays that are used again."""
        stat = np.ascontiguousarray(stat, dtype=np.float32)
        if not np.isfinite(stat).all():
            raise InputError(NOT_FINITE)
        cells, scratch = neighbour_cells(self.options.connectivity), scratch_for(self.grid, STEPS)
        best, high = np.zeros((2, 1), dtype=np.int64), np.zeros(1, dtype=bool)
        scores = np.empty((1 if full else 0, stat.shape[1]), dtype=np.int64)
        for b in range(len(stat) if stat.size else 0):
            peaks = stat[b].max(), (-stat[b].min() if self.signs == 2 else np.float32(0))
            levels, scale = self._levels(peaks)
            enhance_maps(stat[b : b + 1], self.enhancer._layout, levels, scratch, cells, keep(best, scores), high)
            yield b, best[:, 0], scale, scores.reshape(-1)

    def _levels(self, peaks: tuple[np.float32, np.float32]) -> tuple[Levels, Float64]:
        """Tables of a map with these maxima, and what scores of either sign are multiplied by."""
        up, down = (_thresholds(peak) for peak in peaks)
        per_step = np.array([np.float32(STEPS) / peak if peak > 0 else 0 for peak in peaks], dtype=np.float32)
        power = self.options.H + 1
        scale = [raised(float(peak) / STEPS, power) * self._unit if peak > 0 else 0.0 for peak in peaks]
        levels: Levels = self.enhancer._levels._replace(per_step=per_step, thresholds=np.stack([up, down]))
        return levels, np.array(scale)


def _thresholds(peak: np.float32) -> Float32:
    """(STEPS + 1,) The largest float32 numbers under k hundredths of a maximum; infinite beyond, and without one."""
    below = np.full(STEPS + 1, np.inf, dtype=np.float32)
    if peak > 0:
        least = np.arange(1.0, STEPS + 1) * float(peak)
        found = (least / STEPS).astype(np.float32)
        while (over := STEPS * found.astype(np.float64) >= least).any():
            found[over] = np.nextafter(found[over], np.float32(0))
        while (
            under := STEPS * (after := np.nextafter(found, np.float32(np.inf))).astype(np.float64) < least
        ).any():
            found[under] = after[under]
        below[:STEPS] = found
    return below


@loop
def _count(scores: Ints, scale: Float64, ties: Float64, nearer: Int32) -> None:
    """Count the values that lie below a tie, of its sign; `_value` has the values."""
    up, down = scale
    for v in range(len(scores)):
        value = np.float64(scores[v]) * (down if scores[v] < 0 else up)
        tie = ties[v]
        nearer[v] += np.int32(((tie > 0) & (value < tie)) | ((tie < 0) & (value > tie)))


@loop
def _value(scores: Ints, scale: Float64, out: Float64) -> None:
    """Values of scores of both signs."""
    up, down = scale
    for v in range(len(scores)):
        out[v] = np.float64(scores[v]) * (down if scores[v] < 0 else up)


@loop
def raised(x: float, power: float) -> float:
    """x^power for x > 0, good to 1e-14, by the same operations on any processor; ``raised`` of kernels/tfce.cu."""
    ln2 = 0.69314718055994530942
    m, exponent = math.frexp(x)
    if m < 0.70710678118654752440:
        m = 2.0 * m
        exponent -= 1
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    total = 0.0
    for k in range(27, 0, -2):
        total = total * square + 1.0 / np.float64(k)
    y = power * (np.float64(exponent) * ln2 + 2.0 * (s * total))
    whole = np.rint(y / ln2)
    rest = y - whole * ln2
    value = 1.0
    for k in range(18, 0, -1):
        value = 1.0 + value * (rest / np.float64(k))
    return math.ldexp(value, int(whole))


# -- on a device ----------------------------------------------------------------------------------------------------


def _enhance_on(
    device: Device, own: OwnSteps, stat: DeviceArray, full: bool, outcomes: Outcomes
) -> tuple[Promise[Float64], DeviceArray]:
    """(promise of the maxima, maps) of maps on a device."""
    n_maps, n_voxels = stat.shape
    if not n_maps or not n_voxels:
        return outcomes.known(np.zeros((2, n_maps))), device.empty((n_maps if full else 0, n_voxels), np.float64)
    peaks = extremes_on(device, stat)
    thresholds = device.empty((n_maps, 2, STEPS + 1), np.float32)
    per_step, scale = device.empty((n_maps, 2), np.float32), device.empty((2, n_maps), np.float64)
    device.launch(
        "tfce_own_tables", blocks_for(2 * n_maps, _THREADS, device), _THREADS, peaks, np.int32(n_maps),
        np.int32(own.signs), np.int32(STEPS), np.float64(own.options.H + 1), np.float64(own._unit), thresholds,
        per_step, scale,
    )  # fmt: skip
    enhancer, room = own.enhancer, own.enhancer._edge_room
    scores = device.empty((n_maps, n_voxels), np.int64) if full else None
    tables = thresholds, per_step
    values = device.empty((n_maps if full else 1, n_voxels if full else 1), np.float64)

    def enhance() -> tuple[DeviceArray, DeviceArray]:
        best, status = peaks_on(device, enhancer, stat, room[0], scores, tables)
        if scores is not None:
            device.launch(
                "tfce_own_values", blocks_over(n_maps, n_voxels, _THREADS, device), _THREADS, scores,
                np.int32(n_maps), np.int64(n_voxels), scale, values,
            )  # fmt: skip
        return best, status

    def finish(maxima: Ints, status: Int32, peaks: Float32, scale: Float64) -> AnyArray:
        while status.max() > 0:
            room[0] = max(room[0], int(1.1 * status.max()))
            if full and not outcomes.step_by_step:
                raise Again  # what followed has taken the maps for complete
            maxima, status = device.download_all(enhance())
        if not np.isfinite(peaks).all() or status.min() < 0:
            raise InputError(NOT_FINITE) if _has_gaps(device, stat) else WrongBitsError(DISAGREES)
        return maxima * scale

    return outcomes.promise(finish, *enhance(), peaks, scale), values


def _has_gaps(device: Device, stat: DeviceArray) -> bool:
    """Whether a map on a device has a value that is not finite."""
    return not np.isfinite(device.download(stat)).all()
