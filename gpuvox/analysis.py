"""A whole randomise analysis on arrays: every F and t contrast of a design, from data to p-values.

Files and messages are the business of `application`; the arithmetic of one contrast is that of `permtest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter

from gpuvox.errors import DesignError
from gpuvox.executors import Finished, Share, TallyStore, run
from gpuvox.glm import Glm
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.prepared import AnyShuffler, Inputs, Options, Test, list_tests, make_shuffler, negative_of
from gpuvox.results import TestResult, make_result
from gpuvox.shuffle import ImportedShuffler, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import StatisticModel
from gpuvox.tally import ByStatistic, Tally, share
from gpuvox.voxelwise_evs import VoxelwiseGlm

__all__ = [
    "AnyShuffler",
    "Begin",
    "Inputs",
    "MapCallback",
    "OpenStore",
    "Options",
    "Progress",
    "Say",
    "Test",
    "TestResult",
    "analyse",
    "list_tests",
    "make_model",
    "make_shuffler",
    "negative_of",
    "run_shard",
    "shuffle_counts",
]  # fmt: skip

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with the name of the test, the shuffles done and the shuffles in all."""
OpenStore = Callable[[str], TallyStore]
"""Who keeps the tallies of a test, or of a contrast and its negative, by name."""
MapCallback = Callable[[str, int, ByStatistic], None]
"""Called with the name of the test, the index of the shuffle and its maps."""


def make_model(
    inputs: Inputs, options: Options, test: Test, shuffler: Shuffler | ImportedShuffler
) -> StatisticModel:
    """The linear model of one test.

    Raises
    ------
    DesignError
        The contrast cannot be tested with this design; the message names the test.
    """
    smoother = None
    if options.variance_mm > 0 and not test.is_f:
        smoother = MaskedGaussian(inputs.grid, options.variance_mm)
    try:
        if inputs.evs:
            return VoxelwiseGlm(
                inputs.data, inputs.design, test.contrast, dict(inputs.evs), options.nuisance, options.demean,
                test.is_f, smoother, options.device, options.scratch,
            )  # fmt: skip
        model = partition(inputs.design, test.contrast, demean=options.demean, is_f=test.is_f)
    except DesignError as error:
        raise DesignError(f"{test.title}: {error}") from None
    return Glm(
        inputs.data, model, shuffler.invariant, options.nuisance, smoother, options.device, options.scratch
    )  # fmt: skip


Begin = Callable[[Test, AnyShuffler], None]
"""Called with a test and its shuffles as they begin; for a contrast and its negative once, with the first."""


def analyse(
    inputs: Inputs,
    options: Options,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    open_store: OpenStore | None = None,
    begin: Begin | None = None,
) -> Iterator[TestResult]:
    """Test every contrast, in FSL's order.

    Parameters
    ----------
    inputs, options
        What, and how.
    progress : callable, optional
        See `Progress`.
    on_maps : callable, optional
        Called with the maps of every shuffle; see `MapCallback`.
    open_store : callable, optional
        Tallies are kept, and gone on from; see `OpenStore`.
    begin : callable, optional
        Called before the shuffles of a test; see `Begin`.

    Yields
    ------
    TestResult

    Raises
    ------
    DesignError, ValueError
        A test that cannot be made; raised before any permutation of any test is run.
    """
    prepared = _prepare(inputs, options)
    waiting: dict[int, TestResult] = {}
    number = 0
    for numbers, shuffler in _groups(prepared, options, joined=on_maps is None):
        tests = [prepared[i][0] for i in numbers]
        if begin:
            begin(tests[0], shuffler)
        start = perf_counter()
        finished = _run(
            inputs, options, tests, shuffler, progress=progress, on_maps=on_maps, open_store=open_store
        )
        seconds = perf_counter() - start
        for row, (i, test) in enumerate(zip(numbers, tests)):
            waiting[i] = make_result(test, finished, row, seconds if row == 0 else 0.0, options)
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def run_shard(
    inputs: Inputs,
    options: Options,
    open_store: OpenStore,
    shard: tuple[int, int],
    progress: Progress | None = None,
    begin: Begin | None = None,
) -> None:
    """Run shard i of n, from 1, of every test's shuffles, for the tallies alone."""
    prepared = _prepare(inputs, options)
    for numbers, shuffler in _groups(prepared, options):
        tests = [prepared[i][0] for i in numbers]
        if options.wanted(tests[0]).kinds:
            part = share(shuffler.n, *shard)
            if begin:
                begin(tests[0], shuffler)
            _run(inputs, options, tests, shuffler, progress=progress, open_store=open_store, part=part)


def shuffle_counts(prepared: Sequence[tuple[Test, AnyShuffler]], options: Options) -> dict[str, int]:
    """Shuffles of each test, or contrast and its negative, whose tallies are kept, by `OpenStore`'s name."""
    return {
        _name([prepared[i][0] for i in numbers]): shuffler.n
        for numbers, shuffler in _groups(prepared, options)
        if options.wanted(prepared[numbers[0]][0]).kinds
    }


def _prepare(inputs: Inputs, options: Options) -> list[tuple[Test, AnyShuffler]]:
    prepared = [(test, make_shuffler(inputs, options, test)) for test in list_tests(inputs, options)]
    if not inputs.evs:
        for test, _ in prepared:
            _check(inputs, options, test)
    return prepared


def _groups(
    prepared: Sequence[tuple[Test, AnyShuffler]], options: Options, joined: bool = True
) -> Iterator[tuple[list[int], AnyShuffler]]:
    """Numbers of the tests that are run together, a contrast and its negative, with their shuffles."""
    tests = [test for test, _ in prepared]
    seen: set[int] = set()
    for i, (_, shuffler) in enumerate(prepared):
        if i not in seen:
            partner = negative_of(tests, i, options) if joined else None
            numbers = [i] if partner is None else [i, partner]
            seen.update(numbers)
            yield numbers, shuffler


def _name(tests: Sequence[Test]) -> str:
    return "+".join(test.name for test in tests)


def _check(inputs: Inputs, options: Options, test: Test) -> None:
    try:
        partition(inputs.design, test.contrast, demean=options.demean, is_f=test.is_f)
    except DesignError as error:
        raise DesignError(f"{test.title}: {error}") from None


def _run(
    inputs: Inputs,
    options: Options,
    tests: list[Test],
    shuffler: AnyShuffler,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    open_store: OpenStore | None = None,
    part: Share | None = None,
) -> Finished:
    """Run the permutations of a contrast and, if wanted, of its negative."""
    test = tests[0]
    model = make_model(inputs, options, test, shuffler)
    permutation_test = PermutationTest(model, inputs.grid, shuffler, options.wanted(test), signs=len(tests))
    if not permutation_test.statistics.kinds:
        return Finished(permutation_test.observe(), Tally(0))
    name = " and ".join(t.number for t in tests)
    total = part[1] - part[0] if part else shuffler.n
    return run(
        permutation_test,
        threads=options.threads,
        progress=(lambda done: progress(name, done, total)) if progress else None,
        callback=(lambda i, maps: on_maps(test.name, i, maps)) if on_maps else None,
        store=open_store(_name(tests)) if open_store else None,
        share=part,
        workers=options.workers,
    )
