"""A whole randomise analysis on arrays: every F and t contrast of a design, from data to p-values.

`prepare` makes the tests once; `analyse` and `run_shard` run them. Files and messages belong to
`application`; `permtest` does the arithmetic of one contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter

import numpy as np

from gpuvox.device import sharing_data
from gpuvox.errors import DesignError, InputError
from gpuvox.executors import Finished, Share, TallyStore, run
from gpuvox.glm import Glm, Nuisance
from gpuvox.missing import MissingGlm
from gpuvox.permtest import PermutationTest
from gpuvox.prepared import (
    Analysis,
    AnyShuffler,
    Inputs,
    Options,
    PreparedTest,
    Test,
    TestGroup,
    allowed_by_blocks,
    group_name,
    list_tests,
    make_shuffler,
    prepare,
    prepare_test,
)
from gpuvox.reporter import Progress
from gpuvox.results import TestResult, make_result
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import StatisticModel
from gpuvox.tail_runs import run_approximated
from gpuvox.tails import Approximated
from gpuvox.tally import ByStatistic, Tally, share
from gpuvox.types import Ints
from gpuvox.variance_groups import AUTOMATIC, VarianceGroupsGlm, group_labels, groups_of_orbits
from gpuvox.voxelwise_evs import VoxelwiseGlm

__all__ = [
    "Analysis",
    "AnyShuffler",
    "Begin",
    "Inputs",
    "MapCallback",
    "OpenStore",
    "Options",
    "PreparedTest",
    "Test",
    "TestGroup",
    "TestResult",
    "analyse",
    "list_tests",
    "make_model",
    "make_shuffler",
    "prepare",
    "prepare_test",
    "run_shard",
]

OpenStore = Callable[[str], TallyStore]
"""Opens the store of tallies of a group of tests, by its name; see `prepared.group_name`."""
MapCallback = Callable[[str, int, ByStatistic], None]
"""Called with the name of the test, the index of the permutation and its maps."""
Begin = Callable[[PreparedTest], None]
"""Called with a test when its permutations begin; for a contrast and its negative once, with the first."""


def make_model(analysis: Analysis, prepared: PreparedTest) -> StatisticModel:
    """The linear model of one test.

    Raises
    ------
    DesignError
        The contrast cannot be tested with this design; the message names the test.
    """
    inputs, options, test = analysis.inputs, analysis.options, prepared.test
    if options.missing_voxels or options.variance_groups:
        return _scored_model(analysis, prepared)
    smoother = None
    if options.variance_mm > 0 and not test.is_f:
        smoother = MaskedGaussian(inputs.grid, options.variance_mm)
    if not inputs.evs:
        return Glm(
            inputs.data, prepared.design, prepared.shuffler.invariant, options.nuisance, smoother, options.device,
            options.scratch,
        )  # fmt: skip
    try:
        return VoxelwiseGlm(
            inputs.data, inputs.design, test.contrast, dict(inputs.evs), options.nuisance, options.demean,
            test.is_f, smoother, options.device, options.scratch,
        )  # fmt: skip
    except DesignError as error:
        raise DesignError(f"{test.title}: {error}") from None


def _scored_model(analysis: Analysis, prepared: PreparedTest) -> StatisticModel:
    """The model of one test whose data may be missing at some voxels, or whose rows differ in variance."""
    inputs, options = analysis.inputs, analysis.options
    what = "data that are missing at some voxels" if options.missing_voxels else "variance groups"
    unfit = {
        "variance smoothing": options.variance_mm > 0,
        "voxelwise explanatory variables": bool(inputs.evs),
        "a way of permuting nuisance variables other than Freedman and Lane's": options.nuisance
        != Nuisance.FREEDMAN_LANE,
        "data kept in a scratch folder": bool(options.scratch) and options.missing_voxels,
        "data that are missing at some voxels": bool(options.variance_groups) and options.missing_voxels,
    }
    for other, is_so in unfit.items():
        if is_so:
            what = "variance groups" if options.variance_groups else what
            raise DesignError(f"{what} cannot be combined with {other}")
    invariant = prepared.shuffler.invariant
    try:
        if options.missing_voxels:
            return MissingGlm(np.asarray(inputs.data), prepared.design, invariant, options.device)
        groups = variance_groups_of(inputs, options)
        return VarianceGroupsGlm(inputs.data, prepared.design, invariant, groups, device=options.device)
    except DesignError as error:
        raise DesignError(f"{prepared.test.title}: {error}") from None


def variance_groups_of(inputs: Inputs, options: Options) -> Ints:
    """(n,) Variance group of each row, from 0: as given, or what permutations within the blocks can exchange."""
    n = len(inputs.design)
    if options.variance_groups != AUTOMATIC:
        return group_labels(options.variance_groups, n)
    return groups_of_orbits(allowed_by_blocks(inputs, options).invariant)


def analyse(
    analysis: Analysis,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    open_store: OpenStore | None = None,
    begin: Begin | None = None,
) -> Iterator[TestResult]:
    """Test every contrast, in FSL's order.

    Parameters
    ----------
    analysis : Analysis
        With its data; see `prepare`.
    progress : callable, optional
        See `reporter.Progress`.
    on_maps : callable, optional
        Called with the maps of every permutation; see `MapCallback`.
    open_store : callable, optional
        Opens the stores from which tallies are resumed and to which they are saved; see `OpenStore`.
    begin : callable, optional
        Called before the permutations of a test; see `Begin`.

    Yields
    ------
    TestResult

    Raises
    ------
    DesignError
        A model is invalid.
    """
    _check_tail(analysis.options, on_maps is not None)
    with sharing_data(analysis.options.devices):
        yield from _results(analysis, progress, on_maps, open_store, begin)


def _results(
    analysis: Analysis,
    progress: Progress | None,
    on_maps: MapCallback | None,
    open_store: OpenStore | None,
    begin: Begin | None,
) -> Iterator[TestResult]:
    """See `analyse`."""
    names = [prepared.test.name for prepared in analysis.tests]
    results: dict[str, TestResult] = {}
    joint_peak = _joint_peak(analysis)
    for group in analysis.groups(joined=on_maps is None):
        if begin:
            begin(group[0])
        start = perf_counter()
        uncorrected: Mapping[str, Approximated] = {}
        if analysis.options.tail is None:
            finished = _run(
                analysis, group, progress=progress, on_maps=on_maps, open_store=open_store, joint_peak=joint_peak
            )
        else:
            finished, uncorrected = _run_approximated(analysis, group, progress, open_store, joint_peak)
        seconds = perf_counter() - start
        for row, prepared in enumerate(group):
            results[prepared.test.name] = make_result(
                prepared.test, finished, row, seconds if row == 0 else 0.0, analysis.options, uncorrected
            )
        while names and names[0] in results:
            yield results.pop(names.pop(0))


def run_shard(
    analysis: Analysis,
    open_store: OpenStore,
    shard: tuple[int, int],
    progress: Progress | None = None,
    begin: Begin | None = None,
) -> None:
    """Run shard i of n, from 1, of the permutations of every test, to produce only tallies."""
    if analysis.options.tail is not None:
        raise InputError(
            "approximations of p-values need all permutations, and cannot be run in shards", option="--shard"
        )
    with sharing_data(analysis.options.devices):
        joint_peak = _joint_peak(analysis)
        for group in analysis.groups():
            if analysis.statistics_for(group[0]).kinds:
                part = share(group[0].shuffler.n, *shard)
                if begin:
                    begin(group[0])
                _run(analysis, group, progress=progress, open_store=open_store, part=part, joint_peak=joint_peak)


def _permutation_test(analysis: Analysis, group: TestGroup, joint_peak: float | None = None) -> PermutationTest:
    first, statistics = group[0], analysis.statistics_for(group[0])
    signs = len(group)
    if statistics.two_sided:
        signs, joint_peak = 2, joint_peak or 0.0
    return PermutationTest(
        make_model(analysis, first), analysis.inputs.grid, first.shuffler, statistics, signs, joint_peak=joint_peak
    )


def _joint_peak(analysis: Analysis) -> float | None:
    """The largest unpermuted statistic of all tests, if TFCE has the same steps in all; None otherwise."""
    if not analysis.options.joint_steps:
        return None
    groups = [group for group in analysis.groups() if analysis.statistics_for(group[0]).tfce is not None]
    return max((_permutation_test(analysis, group).peak() for group in groups), default=0.0)


def _run(
    analysis: Analysis,
    group: TestGroup,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    open_store: OpenStore | None = None,
    part: Share | None = None,
    joint_peak: float | None = None,
) -> Finished:
    """Run the permutations of a test, or of a contrast and its negative."""
    first, options = group[0], analysis.options
    permutation_test = _permutation_test(analysis, group, joint_peak)
    if not permutation_test.statistics.kinds:
        return Finished(permutation_test.observe(), Tally(0))
    name = " and ".join(prepared.test.number for prepared in group)
    total = part[1] - part[0] if part else first.shuffler.n
    return run(
        permutation_test,
        threads=options.threads,
        progress=(lambda done: progress(name, done, total)) if progress else None,
        callback=(lambda i, maps: on_maps(first.test.name, i, maps)) if on_maps else None,
        store=open_store(group_name(group)) if open_store else None,
        share=part,
        workers=options.workers,
    )


def _run_approximated(
    analysis: Analysis,
    group: TestGroup,
    progress: Progress | None,
    open_store: OpenStore | None,
    joint_peak: float | None,
) -> tuple[Finished, Mapping[str, Approximated]]:
    """The same for a single test whose small p-values are approximated; with the uncorrected ones by statistic."""
    options, permutation_test = analysis.options, _permutation_test(analysis, group, joint_peak)
    if options.tail is None or not permutation_test.statistics.kinds:
        return Finished(permutation_test.observe(), Tally(0)), {}
    name, total = group[0].test.number, group[0].shuffler.n
    done = run_approximated(
        permutation_test,
        options.tail,
        threads=options.threads,
        progress=(lambda done: progress(name, done, total)) if progress else None,
        store=open_store(group_name(group)) if open_store else None,
        workers=options.workers,
    )
    return done.finished, done.uncorrected


def _check_tail(options: Options, has_callback: bool) -> None:
    """Refuse approximations of p-values with what shows the maps of all permutations to others."""
    if options.tail is not None and has_callback:
        raise InputError("the maps of all permutations cannot be written where p-values are approximated")
