"""The effect of a test at every voxel: estimate and standard error, an effect size and its confidence interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuvox.cohort.hypotheses import Hypothesis
from gpuvox.effect_sizes import CONFIDENCE, cohens_d, partial_eta_squared, partial_r
from gpuvox.types import Bools, Float32

LOWER, UPPER = "CI95lower", "CI95upper"
"""``desc-`` of the confidence limits."""
SYMBOLS = {"d": "Cohen's d", "partialr": "partial r", "partialetasq": "partial η²"}
UNITS = "units of the images"
DF_OF_VOXEL = "those of the voxel, stat-dof"
"""In place of a number, where degrees of freedom differ between voxels."""


@dataclass(frozen=True)
class PeakEffect:
    """The effect at one voxel.

    Attributes
    ----------
    size : str
        ``d``, ``partialr`` or ``partialetasq``.
    value : float
        Of the effect size.
    interval : (float, float) or None
        Its 95 % confidence limits; None for partial η².
    estimate, standard_error : float or None
        Of the contrast, in the units of the images; None for F.
    """

    size: str
    value: float
    interval: tuple[float, float] | None = None
    estimate: float | None = None
    standard_error: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.estimate is not None:
            parts.append(f"estimate {self.estimate:.4g} (standard error {self.standard_error:.3g})")
        parts.append(f"{SYMBOLS[self.size]} {self.value:.2f}")
        if self.interval is not None:
            parts[-1] += f" (95% CI {self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class Effects:
    """The effect of a test.

    Attributes
    ----------
    maps : dict of (str, str) to (V,) float32
        By ``stat-`` and ``desc-``: ``effect``, ``se``, ``d`` … of a t test, ``partialetasq`` of an F test.
    about : dict of (str, str) to dict
        What each is, for the file beside it.
    """

    maps: Mapping[tuple[str, str], Float32]
    about: Mapping[tuple[str, str], Mapping[str, Any]]

    def inside(self, mask: Bools) -> Effects:
        """The same at some voxels."""
        return Effects({key: values[mask] for key, values in self.maps.items()}, self.about)

    def at(self, voxel: int) -> PeakEffect:
        """The effect at a voxel."""
        size = next(stat for stat, _ in self.maps if stat in SYMBOLS)
        at = {key: float(values[voxel]) for key, values in self.maps.items()}
        interval = (at[size, LOWER], at[size, UPPER]) if (size, LOWER) in at else None
        return PeakEffect(size, at[size, ""], interval, at.get(("effect", "")), at.get(("se", "")))


def stats_of(hypothesis: Hypothesis, sizes: tuple[int, ...]) -> list[tuple[str, str]]:
    """``stat-`` and ``desc-`` of the maps of a test, given `VoxelwiseAnalysis.group_sizes`."""
    if hypothesis.is_f:
        return [("partialetasq", "")]
    size = "d" if sizes else "partialr"
    return [("effect", ""), ("se", ""), (size, ""), (size, LOWER), (size, UPPER)]


def make_effects(
    hypothesis: Hypothesis,
    sizes: tuple[int, ...],
    n_rows: int,
    stat: Float32,
    estimates: tuple[Float32, Float32] | None,
    df: Any,
    of_voxel: Float32 | None = None,
) -> Effects:
    """The effect of a test.

    Parameters
    ----------
    hypothesis : Hypothesis
    sizes : tuple of int
        See `VoxelwiseAnalysis.group_sizes`.
    n_rows : int
    stat : (V,) float32
        The t or F that was tested; where it is 0 (constant voxels, outside the mask) the effect size is 0.
    estimates : ((V,), (V,)) float32 or None
        Contrast estimate and its variance, by ordinary least squares; None for F. The effect size is that of their t,
        also where t was tested with a smoothed variance.
    df : int or (int, int)
        Degrees of freedom.
    of_voxel : (V,) float32, optional
        The residual ones of each voxel, where they differ between voxels; `df` are then the most. Standard errors are
        those that make `stat` of the estimates.
    """
    keys = stats_of(hypothesis, sizes)
    n = {"SampleSize": n_rows}
    if estimates is None:
        residual = int(df[1]) if of_voxel is None else of_voxel
        eta = partial_eta_squared(stat.astype(np.float64), int(df[0]), residual)
        about = {
            "Scale": "partial eta squared", "Units": "arbitrary",
            "DegreesOfFreedom": list(df) if of_voxel is None else DF_OF_VOXEL,
            "Computation": "F df1 / (F df1 + df2)", **n,
        }  # fmt: skip
        return Effects({keys[0]: eta.astype(np.float32)}, {keys[0]: about})
    effect, se = estimates[0].astype(np.float64), np.sqrt(estimates[1].astype(np.float64))
    tested = stat != 0
    if of_voxel is not None:
        se = np.divide(np.abs(effect), np.abs(stat), out=np.zeros_like(effect), where=tested)
    t = np.divide(effect, se, out=np.zeros_like(effect), where=tested & (se > 0))
    limits = cohens_d(t, int(df), sizes) if sizes else partial_r(t, int(df) if of_voxel is None else of_voxel)
    if of_voxel is not None:
        effect, se = (np.where(of_voxel > 0, each, 0.0) for each in (effect, se))
    values = [effect, se, *(np.where(tested, each, 0.0) for each in limits)]
    about_all = [each | n | {"DegreesOfFreedom": int(df)} for each in _about(sizes, hypothesis)]
    if of_voxel is not None:
        about_all[1] |= {"Computation": "|contrast estimate| / |statistic|"}
        about_all = [each | {"DegreesOfFreedom": DF_OF_VOXEL} for each in about_all]
    return Effects({key: each.astype(np.float32) for key, each in zip(keys, values)}, dict(zip(keys, about_all)))


def _about(sizes: tuple[int, ...], hypothesis: Hypothesis) -> list[dict[str, Any]]:
    """What the maps of a t test are, in the order of `stats_of`."""
    size: dict[str, Any]
    if sizes:
        factor = "sqrt(1/n1 + 1/n2)" if len(sizes) == 2 else "sqrt(1/n)"
        size = {"Scale": "Cohen's d", "Units": "standard deviations", "Computation": f"t {factor}"}
        size |= {"GroupSizes": list(sizes)}
        method = "noncentral t (Cumming and Finch 2001)"
    else:
        size = {"Scale": "partial correlation", "Units": "arbitrary", "Computation": "t / sqrt(t^2 + df)"}
        method = "Fisher's z, standard error 1/sqrt(df - 1)"
    if hypothesis.adjusted_for:
        size["Computation"] += "; t is adjusted for the other columns of the model"
    limit = size | {"ConfidenceLevel": CONFIDENCE, "IntervalMethod": method}
    least = "ordinary least squares"
    return [
        {"Scale": "contrast estimate", "Units": UNITS, "Computation": least},
        {"Scale": "standard error of the contrast estimate", "Units": UNITS, "Computation": least},
        size,
        limit | {"ConfidenceLimit": "lower"},
        limit | {"ConfidenceLimit": "upper"},
    ]
