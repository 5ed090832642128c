"""The description of a voxelwise analysis, as a front door fills it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy import stats

from gpuvox.application.command import RunDescription
from gpuvox.cohort.exchangeability import Columns
from gpuvox.cohort.longitudinal import Longitudinal
from gpuvox.plain import composed


@dataclass(frozen=True)
class ClusterThreshold:
    """A cluster-forming threshold for t and F, as a t, a z or an (uncorrected, one-sided) p."""

    value: float
    scale: Literal["z", "p"]
    mass: bool = False

    @property
    def z(self) -> float:
        """The z that it is."""
        return self.value if self.scale == "z" else float(stats.norm.isf(self.value))

    def of(self, df: int, df_effect: int = 0) -> float:
        """The t or, with the degrees of freedom of an effect, the F that it is."""
        p = self.value if self.scale == "p" else float(stats.norm.sf(self.value))
        return float(stats.f.isf(p, df_effect, df) if df_effect else stats.t.isf(p, df))


@dataclass(frozen=True)
class VoxelwiseDescription:
    """The description of a voxelwise analysis, as a front door fills it.

    Attributes
    ----------
    table : path or DataFrame
        Participants, a row for each image.
    images : str, sequence of paths, or images in memory
        A template, a column of the table, or a 4D image; see `cohort.images`. Or a path for each row of the table; or
        see `cohort.in_memory`. Or several of them: a dict of them by name.
    covariates : dict of str to images
        Voxelwise covariates by the name that they have in the model: the same as `images` for each.
    longitudinal : Longitudinal, optional
        How the rows of a subject are summarised in one image; None if rows are analysed as they are.
    model : str
        A formula; see `cohort.formula`. Empty for one sample.
    tests : tuple of str
        See `cohort.hypotheses`.
    subset : str
        Rows that count, as a condition; see `tables.conditions`.
    missing : str
        What is done with rows that lack an image or a value: ``refuse`` or ``drop``; with ``voxelwise`` they are
        refused, too, but images may be NaN at voxels where a row has no data.
    columns : Columns
        What may be exchanged.
    variance_groups : tuple of str
        Columns whose values, or combinations of values, may differ in variance; or ``auto`` alone, for the groups of
        rows that permutations can exchange.
    fdr : str
        By which of `pvalues.FALSE_DISCOVERY_RATES` p-values of voxels are corrected, too; empty: by none.
    across_tests : bool
        Whether p-values are corrected over all tests and sets of images, too.
    thresholds : tuple of ClusterThreshold
        Cluster-forming thresholds whose t depends on the degrees of freedom.
    run : RunDescription
        All that a run of randomise is told besides: mask, statistics, permutations, device.
    """

    table: Any
    images: Any
    model: str = ""
    tests: tuple[str, ...] = ()
    subset: str = ""
    missing: str = "refuse"
    columns: Columns = field(default_factory=Columns)
    variance_groups: tuple[str, ...] = ()
    covariates: Mapping[str, Any] = field(default_factory=dict)
    longitudinal: Longitudinal | None = None
    fdr: str = ""
    across_tests: bool = False
    thresholds: tuple[ClusterThreshold, ...] = ()
    run: RunDescription = field(default_factory=lambda: RunDescription("", ""))

    def __post_init__(self) -> None:
        object.__setattr__(self, "subset", composed(self.subset))
        object.__setattr__(self, "variance_groups", tuple(map(composed, self.variance_groups)))
        object.__setattr__(self, "covariates", {composed(name): each for name, each in self.covariates.items()})
