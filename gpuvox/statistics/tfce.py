"""Threshold-free cluster enhancement as a statistic, and its normalised form; the scores are computed by `gpuvox.tfce`.

TFCE sees t, or the z equivalent of F. The unpermuted map fixes the step of height of either sign.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from gpuvox.device import Device, Promise
from gpuvox.f_to_z import f_to_z
from gpuvox.grid import Grid
from gpuvox.reductions import extremes, normalise
from gpuvox.statistics.base import SUM_TIE, Normalisable, Normalised, Setting, StatisticInfo
from gpuvox.statistics.batch import Batch, Edge, StatisticModel, StepEdges, ThresholdEdge, Unpermuted
from gpuvox.tfce import Enhancer
from gpuvox.tfce_tables import ORDINARY_PEAK, STEPS_TO_MAXIMUM, Tfce, most_levels, robust_peak, step_size
from gpuvox.types import AnyArray, Float32, Float64, Ints, MapBatch

INFO = StatisticInfo("tfce", "TFCE", precedence=50, has_tail=True)
NORMALISED_INFO = StatisticInfo("tfcen", "normalised TFCE", precedence=60, local_means="tfcenorm")

MAXIMA = ("maxima of TFCE", 0.0)
"""What `evaluate` leaves in `Batch.measured` for `maxima`."""

LOWEST_SHARE = 0.02
"""Local means below this quantile of those in the mask are raised to it."""


@dataclass(frozen=True)
class TfceSetting(Setting):
    """TFCE as the user asked for it.

    Parameters
    ----------
    options : Tfce
    """

    options: Tfce

    info: ClassVar = INFO
    normalised_info: ClassVar = NORMALISED_INFO

    @property
    def is_portable(self) -> bool:
        """False where pow() is needed, whose last bit differs between CPUs and GPUs."""
        return not (self.options.exact and self.options.H % 1)

    def fixed_by(self, unpermuted: Unpermuted) -> TfceStatistic:
        """TFCE with the steps that the unpermuted map asks for."""
        grid, device = unpermuted.grid, unpermuted.device
        up, down = self.peaks(unpermuted)
        if unpermuted.joint_peak is not None:
            up = down = max(up, down if unpermuted.signs == 2 else 0.0, unpermuted.joint_peak)
        # A step of 0 (no positive value, or a sign that is not wanted) leaves that sign blank.
        steps = step_size(up, self.options), step_size(down, self.options) if unpermuted.signs == 2 else 0.0
        most = most_levels(self.options, grid.n_voxels)
        enhancer = Enhancer(grid, self.options, steps, unpermuted.level_cap, device, most)
        return TfceStatistic(enhancer, max(unpermuted.n - 1, 1).bit_length())

    def peaks(self, unpermuted: Unpermuted) -> tuple[float, float]:
        """See `Setting.peaks`: what the steps are taken from, before rounding if the map is t."""
        device, is_t = unpermuted.device, unpermuted.model.f_dfs is None
        if self.options.delta != "robust":
            up, down = (extremes(unpermuted.exact_map[None]) if is_t else extremes(unpermuted.t_or_z(), device))[
                :, 0
            ]
            return up, down
        if is_t:
            values = unpermuted.exact_map
        else:
            z = unpermuted.t_or_z()
            values = (z if device is None else device.download(z))[0]
        return robust_peak(values), robust_peak(-values)


@dataclass(frozen=True, eq=False)
class TfceStatistic(Normalisable):
    """TFCE with fixed steps.

    Parameters
    ----------
    enhancer : Enhancer
    n_bits : int
        Bits that hold the number of permutations less one.
    """

    enhancer: Enhancer
    n_bits: int

    info: ClassVar = INFO
    normalised_info: ClassVar = NORMALISED_INFO

    @property
    def options(self) -> Tfce:
        """Parameters of TFCE."""
        return self.enhancer.options

    def on(self, device: Device | None) -> TfceStatistic:
        """The same, with the very same tables, for maps on a device."""
        return replace(self, enhancer=self.enhancer.on(device))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Whole numbers of steps; none for the exact integral."""
        if self.options.exact:
            return ()
        up, down = (1 / delta if delta else 0.0 for delta in self.enhancer.deltas)
        return (StepEdges((up, down)),)

    @property
    def edges_of_sums(self) -> tuple[Edge, ...]:
        """0, for the exact integral: what is 0 does not count in local means."""
        return (ThresholdEdge(0.0),) if self.options.exact else ()

    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) int64 scores; float64 values for the exact integral."""
        maxima, scores = self.enhancer.promised_both(batch.t_or_z(), batch.outcomes)
        batch.measured[MAXIMA] = maxima
        return scores

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Promise[AnyArray]:
        """See `Statistic.maxima`; takes no maps where none were made, and those of the peaks where they were."""
        if values is not None:
            found: Promise[AnyArray] | None = batch.measured.pop(MAXIMA, None)
            return found or super().maxima(batch, values)
        return self.enhancer.promised_maxima(batch.t_or_z(), batch.outcomes)

    def maxima_and_below(
        self, batch: Batch, ties: tuple[AnyArray, AnyArray]
    ) -> tuple[Promise[AnyArray], Promise[Ints]]:
        """See `Statistic.maxima_and_below`; scores on the CPU are counted where they are made."""
        if batch.device is not None or self.options.exact:
            return super().maxima_and_below(batch, ties)
        maxima, below = self.enhancer.maxima_and_below(batch.t_or_z(), ties[0][0])
        return batch.outcomes.known(maxima), batch.outcomes.known(below)

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`; the exact integral sums values of the statistic."""
        return values * (1 - SUM_TIE) if self.options.exact else values

    def in_units(self, values: AnyArray, row: int) -> AnyArray:
        """Scores → TFCE in FSL's units."""
        return self.enhancer.to_float(values, row)

    def step(self, row: int) -> float:
        """Step of height of the map or of its negative; 0 where that is blank, and for the exact integral."""
        return 0.0 if self.options.exact else float(self.enhancer.deltas[row] or 0)

    def weight(self, row: int) -> float:
        """The step: FSL's TFCE is a sum over steps without it, and larger the smaller they are."""
        return 1.0 if self.options.rule == "palm" else self.step(row) or 1.0

    def record(self, row: int) -> dict[str, Any]:
        """The step, if there is one."""
        step = self.step(row)
        return {"tfce_step": step} if step else {}

    def warnings(self, observed: Float32, row: int, model: StatisticModel, grid: Grid) -> Iterator[str]:
        """See `Statistic.warnings`: a sign that is blank, and a step that a few outlying voxels make too coarse."""
        if not (observed > 0).any() and not self.step(row):
            yield "the statistic has no positive value; its TFCE images are blank"
        step = self.step(row)
        if step and self.options.delta is None:
            yield from self._coarse_step(step, observed, model, grid)

    def _coarse_step(self, step: float, observed: Float32, model: StatisticModel, grid: Grid) -> Iterator[str]:
        """A maximum so large that a hundredth of it is too coarse a step of TFCE for the other voxels."""
        values = observed if model.f_dfs is None else f_to_z(observed, *model.f_dfs)
        peak, letter = int(np.argmax(values)), "t" if model.f_dfs is None else "z"
        named = letter if model.f_dfs is None else "z of F"
        robust = step_size(robust_peak(values), replace(self.options, delta="robust"))
        is_own = step_size(float(values[peak]), self.options) >= step / 2
        if not is_own:  # low values beside those of other tests are no accident
            robust = max(robust, ORDINARY_PEAK / STEPS_TO_MAXIMUM)
        n_lost = int(((values > robust) & (values <= step)).sum())
        if step < 2 * robust or not n_lost:
            return
        if is_own:
            voxel = ", ".join(str(int(i)) for i in np.unravel_index(grid.index[peak], grid.shape, order="F"))
            where = f"the largest {named} is {values[peak]:.6g}, at voxel ({voxel})"
        else:
            where = f"the largest {named} of all tests is about {STEPS_TO_MAXIMUM * step:.6g}"
        yield (
            f"{where}, "
            f"and the step of TFCE, a hundredth of it as in FSL, {step:.3g}: TFCE is 0 in {n_lost} voxels "
            f"that have {letter} up to that step, but more than {robust:.3g}, the step that does not follow a few "
            "outlying voxels; --tfce_D robust takes that step, --tfce_D a step of your own, --tfce-exact none"
        )

    # -- two-pass scheme ---------------------------------------------------------------------------------------

    @property
    def bits_dropped(self) -> int:
        """See `Normalisable.bits_dropped`; scores alone may fill 63 bits."""
        return self.n_bits

    def normalised_by(self, local_mean: Float64) -> NormalisedTfce:
        """Local means under their 2nd percentile in the mask (the ⌈0.02·V⌉-th smallest) are raised to it."""
        n_voxels = local_mean.shape[1]
        if n_voxels:
            rank = max(math.ceil(LOWEST_SHARE * n_voxels), 1) - 1
            local_mean = np.maximum(local_mean, np.sort(local_mean, axis=1)[:, rank : rank + 1])
        return NormalisedTfce(self.enhancer, local_mean)


@dataclass(frozen=True, eq=False)
class NormalisedTfce(Normalised):
    """TFCE over its local mean."""

    enhancer: Enhancer
    local_mean: Float64

    info: ClassVar = NORMALISED_INFO
    source: ClassVar = INFO.name

    def on(self, device: Device | None) -> NormalisedTfce:
        """See `TfceStatistic.on`."""
        return replace(self, enhancer=self.enhancer.on(device))

    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) float64."""
        scores = self.enhancer.promised_maps(batch.t_or_z(), batch.outcomes)
        up, down = (float(self.enhancer.to_float(np.ones(1), row)[0]) for row in (0, 1))
        return normalise(scores, (up, down), self.local_mean, batch.device)
