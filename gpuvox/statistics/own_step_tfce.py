"""Threshold-free cluster enhancement in steps of a hundredth of each map's own maximum; see `gpuvox.own_steps`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from gpuvox.device import Device, Promise
from gpuvox.grid import Grid
from gpuvox.own_steps import STEPS, OwnSteps
from gpuvox.statistics.base import SUM_TIE, Setting, Statistic, StatisticInfo
from gpuvox.statistics.batch import Batch, Edge, MaximumEdge, OwnStepEdges, StatisticModel, Unpermuted
from gpuvox.tfce_tables import Tfce
from gpuvox.types import AnyArray, Float32, Ints, MapBatch

INFO = StatisticInfo("tfce", "TFCE", precedence=50, has_tail=True)

MAXIMA = ("maxima of TFCE", 0.0)
"""What `evaluate` leaves in `Batch.measured` for `maxima`."""


@dataclass(frozen=True)
class OwnStepTfceSetting(Setting):
    """TFCE by PALM's rule without a step, as the user asked for it.

    Parameters
    ----------
    options : Tfce
    """

    options: Tfce

    info: ClassVar = INFO

    def fixed_by(self, unpermuted: Unpermuted) -> OwnStepTfce:
        """The statistic, which takes nothing of the unpermuted map."""
        own = OwnSteps(unpermuted.grid, self.options, unpermuted.signs, unpermuted.device)
        return OwnStepTfce(own, not unpermuted.model.has_exact)


@dataclass(frozen=True, eq=False)
class OwnStepTfce(Statistic):
    """TFCE in steps of a hundredth of each map's own maximum.

    Parameters
    ----------
    own : OwnSteps
    is_rounded : bool
        No value can be had in float64: values within rounding of each other then tie.
    """

    own: OwnSteps
    is_rounded: bool = False

    info: ClassVar = INFO

    def on(self, device: Device | None) -> OwnStepTfce:
        """The same, with the very same tables, for maps on a device."""
        return replace(self, own=self.own.on(device))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The maximum of each map, and whole numbers of its steps."""
        return MaximumEdge(self.own.signs), OwnStepEdges(STEPS, self.own.signs)

    def evaluate(self, batch: Batch) -> MapBatch:
        """(B, V) float64."""
        maxima, values = self.own.promised_both(batch.t_or_z(), batch.outcomes)
        batch.measured[MAXIMA] = maxima
        return values

    def maxima(self, batch: Batch, values: MapBatch | None = None) -> Promise[AnyArray]:
        """See `Statistic.maxima`; takes no maps where none were made, and those of the peaks where they were."""
        if values is not None:
            found: Promise[AnyArray] | None = batch.measured.pop(MAXIMA, None)
            return found or super().maxima(batch, values)
        return self.own.promised_maxima(batch.t_or_z(), batch.outcomes)

    def maxima_and_below(
        self, batch: Batch, ties: tuple[AnyArray, AnyArray]
    ) -> tuple[Promise[AnyArray], Promise[Ints]]:
        """See `Statistic.maxima_and_below`; on the CPU values are counted where they are made."""
        if batch.device is not None:
            return super().maxima_and_below(batch, ties)
        maxima, below = self.own.maxima_and_below(batch.t_or_z(), ties[0][0])
        return batch.outcomes.known(maxima), batch.outcomes.known(below)

    def least_tie(self, values: AnyArray) -> AnyArray:
        """See `Statistic.least_tie`."""
        return values * (1 - SUM_TIE) if self.is_rounded else values

    def warnings(self, observed: Float32, row: int, model: StatisticModel, grid: Grid) -> Iterator[str]:
        """See `Statistic.warnings`: a sign that is blank."""
        del row, model, grid
        if not (observed > 0).any():
            yield "the statistic has no positive value; its TFCE images are blank"
