"""A finished permutation test → its maps, null distributions and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuvox.executors import Finished
from gpuvox.glm import Nuisance
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.missing import MissingGlm
from gpuvox.permtest import ObservedTest
from gpuvox.prepared import Options, Test
from gpuvox.pvalues import corrected, critical_value, one_minus, shares
from gpuvox.shuffle import Shuffler
from gpuvox.statistics import Normalised, StatisticInfo, StatisticModel
from gpuvox.tail_runs import Tail, names_of_elements
from gpuvox.tails import Approximated
from gpuvox.tally import ByStatistic, Tally
from gpuvox.types import AnyArray, Float64
from gpuvox.variance_groups import VarianceGroupsGlm
from gpuvox.voxelwise_evs import VoxelwiseGlm

FEWEST_PERMUTATIONS = 20
"""With fewer permutations, no p-value can be below 0.05."""
WHERE_NONE_FITS = "; where none fits, p is counted"


@dataclass(frozen=True, eq=False)
class TestResult:
    """The results of one contrast.

    Attributes
    ----------
    test : Test
    df : int
        Residual degrees of freedom.
    f_dfs : (int, int) or None
        Degrees of freedom of an F.
    maps : dict of (V,) float32
        ``stat``; where data may be missing at some voxels, or with variance groups, ``z``, which is what was tested,
        and ``dof``, and of missing data ``n`` (subjects); and by the name of a statistic: ``vox_corrp``,
        ``tfce_corrp`` … (1 − p, family-wise error corrected); ``vox_p`` … (1 − p, uncorrected); ``tfce``,
        ``clustere`` … (unpermuted values); with the two-pass scheme the images of the local means
        (``tfcenorm_sum``, ``tfcenorm_samp``, ``tfcenorm_post`` …).
    nulls : dict of (N,) arrays
        By statistic, the maximum of every permutation, the unpermuted data first.
    shuffler : Shuffler
    seconds : float
        Wall time; 0 for a contrast that shared the maps of its negative.
    warnings : tuple of str
    statistics : tuple of StatisticInfo
        The statistics that were computed.
    records : dict
        Further entries for the record of the run: ``tfce_step``.
    two_sided : bool
        The size of t was compared, whatever its sign; maps of statistics keep their signs.
    least_ties : dict of (V,) float64
        By statistic, in the units of `nulls`: the least values that tie with the unpermuted ones, for p-values from
        the null distribution of several tests. Only with the option `joint_steps`.
    weights : dict of float
        By statistic, what both are multiplied by to be compared with other tests.
    tail : Tail or None
        By which p of voxels and of TFCE were approximated.
    approximated : dict of (V,) float64
        These p, by the names of their maps: of a small p, 1 − p in float32 has few digits.
    """

    test: Test
    df: int
    f_dfs: tuple[int, int] | None
    maps: dict[str, AnyArray]
    nulls: dict[str, AnyArray]
    shuffler: Shuffler | ImportedShuffler
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    statistics: tuple[StatisticInfo, ...] = ()
    records: dict[str, Any] = field(default_factory=dict)
    two_sided: bool = False
    least_ties: dict[str, AnyArray] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    tail: Tail | None = None
    approximated: dict[str, Float64] = field(default_factory=dict)

    def is_approximate(self, name: str) -> bool:
        """Whether p of a statistic are approximations."""
        return self.tail is not None and any(info.has_tail for info in self.statistics if info.name == name)

    def critical(self, name: str, level: float = 0.05) -> float:
        """Value that a statistic must exceed at a family-wise error rate."""
        return critical_value(self.nulls[name], level)


def make_result(
    test: Test,
    finished: Finished,
    row: int,
    seconds: float,
    options: Options,
    uncorrected: Mapping[str, Approximated] | None = None,
) -> TestResult:
    """The results of one contrast, or (row 1) of its negative, which shares its maps.

    Parameters
    ----------
    test, finished, row, seconds, options
    uncorrected : dict of Approximated, optional
        By statistic, if p are approximated.
    """
    observed, model = finished.observed, finished.observed.test.model
    maps: dict[str, AnyArray] = {"stat": (1, -1)[row] * observed.statistic}
    f_dfs = model.f_dfs
    if isinstance(model, MissingGlm | VarianceGroupsGlm):
        maps = _scored_maps(model, row)
        f_dfs = (model.model.rank_effect, model.df) if test.is_f else None
    nulls: dict[str, AnyArray] = {}
    least_ties: dict[str, AnyArray] = {}
    weights: dict[str, float] = {}
    infos: list[StatisticInfo] = []
    for part, tally in ((observed, finished.tally), (finished.second, finished.second_tally)):
        if part is not None and tally is not None and tally.n:
            infos += [statistic.info for statistic in part.statistics.values()]
            _add_values(maps, nulls, part, tally, row)
            if options.joint_steps:
                least_ties |= _least_ties(part, row)
            weights |= {name: statistic.weight(row) for name, statistic in part.statistics.items()}
    if finished.second is not None:
        _add_local_means(maps, observed, finished.second, finished.tally, row)
    records: dict[str, Any] = {}
    approximated: dict[str, Float64] = {}
    if options.tail is not None:
        records["approximation"] = options.tail.title
        approximated = _approximate(maps, nulls, observed, row, options.tail, uncorrected or {})
    if isinstance(model, VarianceGroupsGlm):
        records["variance_groups"] = model.n_groups
    for statistic in observed.statistics.values():
        records |= statistic.record(row)
    return TestResult(
        test, model.df, f_dfs, {k: np.asarray(v, dtype=np.float32) for k, v in maps.items()}, nulls,
        observed.test.shuffler, seconds, tuple(_warnings(test, observed, row, options, finished.tally)),
        tuple(infos), records, _is_two_sided(observed), least_ties, weights, options.tail,
        approximated,
    )  # fmt: skip


def _scored_maps(model: MissingGlm | VarianceGroupsGlm, row: int) -> dict[str, AnyArray]:
    """The statistic where degrees of freedom differ between voxels; its z, which is what was tested; these degrees.

    Where data are missing at some voxels, the number of subjects too.
    """
    sign, raw = (1, -1)[row], model.raw_maps(np.arange(model.model.n_rows, dtype=np.int32))
    maps = {"stat": sign * raw.statistic, "z": sign * raw.z}
    if isinstance(model, VarianceGroupsGlm):
        return maps | {"dof": raw.df}
    return maps | {"n": model.n_present, "dof": model.dfs}


def _is_two_sided(observed: ObservedTest) -> bool:
    return observed.test.statistics.two_sided


def _tested_values(part: ObservedTest, name: str, row: int) -> AnyArray:
    """The unpermuted values that are compared with the null distribution."""
    statistic, values = part.statistics[name], part.observed[name][0]
    if _is_two_sided(part):
        return np.maximum(statistic.of_sign(values, 0), statistic.of_sign(values, 1))
    return statistic.of_sign(values, row)


def _least_ties(part: ObservedTest, row: int) -> dict[str, AnyArray]:
    """See `TestResult.least_ties`."""
    return {
        name: np.asarray(
            statistic.in_units(statistic.least_tie(_tested_values(part, name, row)), row), dtype=np.float64
        )
        for name, statistic in part.statistics.items()
    }


def _add_values(maps: ByStatistic, nulls: ByStatistic, part: ObservedTest, tally: Tally, row: int) -> None:
    """Corrected and uncorrected values, unpermuted maps and null distributions of one sign."""
    for name, statistic in part.statistics.items():
        values = _tested_values(part, name, row)
        null = tally.maxima[name].max(axis=0) if _is_two_sided(part) else tally.maxima[name][row]
        maps[f"{name}_corrp"] = corrected(null, statistic.least_tie(values))
        if name in tally.below:
            maps[f"{name}_p"] = shares(tally.below[name][row], tally.n)
        nulls[name] = statistic.in_units(null, row)
        if not statistic.info.is_image:
            maps[name] = _signed(part, name, row) if _is_two_sided(part) else statistic.in_units(values, row)


def _approximate(
    maps: ByStatistic,
    nulls: ByStatistic,
    observed: ObservedTest,
    row: int,
    tail: Tail,
    uncorrected: Mapping[str, Approximated],
) -> dict[str, Float64]:
    """Put approximate p, as 1 − p, in place of those by counting; returns p themselves by the names of the maps."""
    found = {f"{name}_p": each.p for name, each in uncorrected.items()}
    for name in names_of_elements(observed):
        if name in nulls:
            values = observed.statistics[name].in_units(_tested_values(observed, name, row), row)
            found[f"{name}_corrp"] = tail.corrected(nulls[name], values, maps[f"{name}_corrp"])
    maps |= {name: one_minus(p) for name, p in found.items()}
    return found


def _signed(part: ObservedTest, name: str, row: int) -> AnyArray:
    """The unpermuted values of both signs in one map: those of the negative contrast are negative."""
    statistic, values = part.statistics[name], part.observed[name][0]
    up, down = (statistic.in_units(statistic.of_sign(values, sign), sign) for sign in (0, 1))
    return down - up if row else up - down


def _add_local_means(maps: ByStatistic, first: ObservedTest, second: ObservedTest, tally: Tally, row: int) -> None:
    """Sums of the first pass, numbers of non-zero permutations, and the resulting local means."""
    sums = first.sums(tally)
    for statistic in second.statistics.values():
        if isinstance(statistic, Normalised):
            (total, nonzero), name = sums[statistic.source], statistic.info.local_means
            maps[f"{name}_sum"], maps[f"{name}_samp"] = total[row], nonzero[row]
            maps[f"{name}_post"] = statistic.local_mean[row]


def _warnings(test: Test, observed: ObservedTest, row: int, options: Options, tally: Tally) -> Iterator[str]:
    """Warnings about this test."""
    model = observed.test.model
    for sentence in _warnings_about_model(test, model, options):
        yield f"{test.title}: {sentence}"
    unpermuted = observed.statistic * np.float32((1, -1)[row])
    if _is_two_sided(observed):
        unpermuted = np.abs(unpermuted)
    for statistic in observed.statistics.values():
        for sentence in statistic.warnings(unpermuted, row, model, observed.test.grid):
            yield f"{test.title}: {sentence}"
    if options.tail is not None and tally.n:
        yield (
            f"{test.title}: p-values of voxels and of TFCE are approximations, taken from {options.tail.title}"
            f"{WHERE_NONE_FITS if options.tail.method == 'pareto' else ''}"
        )
    shuffler = observed.test.shuffler
    if tally.n and shuffler.n < FEWEST_PERMUTATIONS:
        unit = shuffler.kind
        count = (
            f"there are only {shuffler.n} distinct {unit}"
            if shuffler.exhaustive
            else f"only {shuffler.n} {unit} are done"
        )
        least = f"{1 / shuffler.n:.3g}"
        if options.tail is not None:
            yield f"{test.title}: {count}: approximations of p are crude, and none counted could be under {least}"
        else:
            yield f"{test.title}: {count}: no p-value can be under {least}, so nothing can reach p < 0.05"


def _warnings_about_model(test: Test, model: StatisticModel, options: Options) -> Iterator[str]:
    if test.is_f and model.f_dfs is not None:
        rank = model.f_dfs[0]
        if rank < len(test.contrast):
            yield (
                f"its {len(test.contrast)} contrasts are of rank {rank}; the F is divided by the rank, and tested as "
                "such (FSL divides by the number of contrasts)"
            )
    if options.nuisance == Nuisance.TER_BRAAK:
        yield (
            "with -U 3 the unpermuted map is computed from the residuals of the full model, as in FSL, and is "
            "therefore zero: nothing can be significant"
        )
    if isinstance(model, MissingGlm) and model.n_left_out:
        yield (
            f"at {model.n_left_out} of {model.n_voxels} voxels too few data are left to test it; their statistic is 0"
        )
    if isinstance(model, VoxelwiseGlm) and model.n_without_effect:
        yield (
            f"the contrast is not estimable at {model.n_without_effect} of {model.n_voxels} voxels, where a voxelwise "
            "EV is constant or a combination of other columns; their statistic is 0"
        )
    if isinstance(model, VoxelwiseGlm) and model.n_without_df:
        yield (
            f"no degrees of freedom are left at {model.n_without_df} of {model.n_voxels} voxels; their statistic is 0"
        )
