"""A whole randomise analysis on arrays: every F and t contrast of a design, from data to p-values.

Files and messages are the business of `_randomise`; the arithmetic of one contrast is that of `permtest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from gpuvox.device import Device
from gpuvox.errors import DesignError
from gpuvox.exclusion import fit, with_columns
from gpuvox.executors import Finished, Keeper, Share, Workers, run
from gpuvox.glm import Glm, Nuisance, f_to_z
from gpuvox.grid import Grid
from gpuvox.names import Names
from gpuvox.partition import demean_columns, effective_regressor, null_rows, partition
from gpuvox.permtest import Maps, ObservedTest, PermutationTest, StatisticModel, Statistics, Tally, share
from gpuvox.pvalues import corrected, critical_value, shares
from gpuvox.scratch import Data, block
from gpuvox.shuffle import ImportedShuffler, Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.tfce import robust_peak, step_size
from gpuvox.voxelwise import VoxelwiseGlm

Float64 = NDArray[np.float64]
AnyShuffler = Shuffler | ImportedShuffler
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with the name of the test, the shuffles done and the shuffles in all."""
Keep = Callable[[str], Keeper]
"""Who keeps the tallies of a test, or of a contrast and its negative, by name."""
MapCallback = Callable[[str, int, Maps], None]
"""Called with the name of the test, the index of the shuffle and its maps."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is analysed.

    Attributes
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    grid : Grid
    design : (n, p) float64
    contrasts : (k, p) float64
        t contrasts.
    f_tests : (f, k) float64
        Row: the t contrasts that are not 0 are stacked to an F test.
    blocks : (n,) int, optional
        Exchangeability blocks, from 1; 0 for rows that never move.
    evs : dict of int to (n, V) float32, arrays or `scratch.Tiles`
        Voxelwise EVs by column (from 0). Under a negative number: values that, where they are not 0, take their subject
        out of a voxel; design and contrasts have no columns for that (see `exclusion`).
    effective_design : (n, any) float64, optional
        Rows that are equal in it are interchangeable, whatever the contrast.
    names : Names
        Of EVs, contrasts and F tests, for records and messages.
    """

    data: Data
    grid: Grid
    design: Float64
    contrasts: Float64
    f_tests: Float64
    blocks: NDArray[np.int64] | None = None
    evs: Mapping[int, Data] = field(default_factory=dict)
    effective_design: Float64 | None = None
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Options:
    """How it is analysed; see the options of ``gpuvox randomise``.

    `only_test` is the number of the one test that is done, from 1 through F and then t; 0 for all.
    """

    statistics: Statistics = field(default_factory=Statistics)
    f_statistics: Statistics = field(default_factory=Statistics)
    n_permutations: int = 5000
    seed: int = 0
    flip: bool = False
    demean: bool = False
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    whole_blocks: bool = False
    detect_null: bool = False
    f_only: bool = False
    only_test: int = 0
    variance_mm: float = 0.0
    permutations: Mapping[str, NDArray] | None = None
    threads: int | None = None
    device: Device | None = None
    scratch: str = ""
    workers: Workers | None = None

    def wanted(self, test: Test) -> Statistics:
        """What is computed of a test."""
        return self.f_statistics if test.is_f else self.statistics


@dataclass(frozen=True, eq=False)
class Test:
    """One contrast to be tested.

    Attributes
    ----------
    name : str
        ``tstat1``, ``fstat2`` …: FSL's name.
    contrast : (rows, p) float64
    is_f : bool
    label : str
        What its author calls it: ``MS > HC``; empty if there is no name.
    """

    name: str
    contrast: Float64
    is_f: bool
    label: str = ""

    @property
    def number(self) -> str:
        """``t-test 1``, ``f-test 2``: as FSL prints it."""
        return f"{'f' if self.is_f else 't'}-test {self.name[5:]}"

    @property
    def title(self) -> str:
        """``t-test 1 (MS > HC)``: for messages."""
        return f"{self.number} ({self.label})" if self.label else self.number


def list_tests(inputs: Inputs, options: Options) -> list[Test]:
    """The tests of an analysis in FSL's order: F, then t; of `only_test` that one, none if there are fewer.

    Raises
    ------
    DesignError
        An F test without a contrast, or more F columns than contrasts.
    """
    tests = []
    for f, row in enumerate(inputs.f_tests):
        chosen = row != 0
        if len(row) != len(inputs.contrasts):
            raise DesignError(
                f"the F tests have {len(row)} columns; there are {len(inputs.contrasts)} t contrasts"
            )
        if not chosen.any():
            raise DesignError(f"F test {f + 1} includes no contrast")
        name = f"fstat{f + 1}"
        tests.append(Test(name, inputs.contrasts[chosen], True, inputs.names.of_test(name)))
    if not options.f_only:
        for t, contrast in enumerate(inputs.contrasts):
            name = f"tstat{t + 1}"
            tests.append(Test(name, contrast[None], False, inputs.names.of_test(name)))
    return tests[options.only_test - 1 : options.only_test] if options.only_test else tests


def make_shuffler(inputs: Inputs, options: Options, test: Test) -> Shuffler | ImportedShuffler:
    """The shuffles of one test."""
    labels, scale = _exchangeable(inputs, test)
    if options.permutations is not None:
        return ImportedShuffler(options.permutations[test.name], len(labels))
    blocks = inputs.blocks
    if options.detect_null:
        still = null_rows(inputs.design, test.contrast)
        given = np.ones(len(labels), dtype=np.int64) if blocks is None else blocks
        numbers = np.unique(given[~still & (given > 0)])
        blocks = np.where(still | (given == 0), 0, np.searchsorted(numbers, given) + 1)
    flip = options.flip or (not test.is_f and _is_one_sample(labels, scale, blocks, test.contrast))
    settings = Permutations(options.n_permutations, options.seed, blocks, options.whole_blocks, flip)
    return Shuffler(labels, settings, scale)


def _exchangeable(inputs: Inputs, test: Test) -> tuple[Float64, Float64]:
    """Rows equal in the first array are interchangeable; the second is the magnitude of its columns' rounding."""
    if inputs.effective_design is not None:
        return inputs.effective_design, np.abs(inputs.effective_design).max(axis=0)
    # Rounding is of the size of the numbers that a regressor is made of, and of no others.
    scale = np.abs(test.contrast) @ np.abs(inputs.design).max(axis=0)
    return effective_regressor(inputs.design, test.contrast), scale


def _is_one_sample(labels: Float64, scale: Float64, blocks: NDArray[np.int64] | None, contrast: Float64) -> bool:
    """FSL's rule: all rows alike, one block, one non-zero weight in the contrast."""
    alike = bool((np.ptp(labels, axis=0) <= 1e-10 * scale).all())
    one_block = blocks is None or len(np.unique(blocks)) == 1
    return alike and one_block and int(np.count_nonzero(contrast)) == 1


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


@dataclass(frozen=True, eq=False)
class TestResult:
    """All that came of one contrast.

    Attributes
    ----------
    test : Test
    df : int
        Residual degrees of freedom.
    f_dfs : (int, int) or None
        Degrees of freedom of an F.
    maps : dict of (V,) float32
        ``stat``; ``vox_corrp``, ``tfce_corrp``, ``clustere_corrp``, ``clusterm_corrp`` (1 − p, family-wise
        error corrected); ``vox_p`` … (1 − p, uncorrected); ``tfce``, ``clustere``, ``clusterm`` (unshuffled
        values); with the two-pass scheme ``clustern_corrp``, ``tfcen_corrp`` and the images of the local means.
    nulls : dict of (N,) arrays
        Maximum of every shuffle, shuffle 0 unshuffled.
    shuffler : Shuffler
    seconds : float
        Wall time; 0 for a contrast that shared the maps of its negative.
    warnings : tuple of str
    tfce_step : float
        Step of TFCE; 0 without, where the sign is blank, and for the exact integral.
    """

    test: Test
    df: int
    f_dfs: tuple[int, int] | None
    maps: dict[str, NDArray]
    nulls: dict[str, NDArray]
    shuffler: Shuffler | ImportedShuffler
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    tfce_step: float = 0.0

    def critical(self, kind: str, level: float = 0.05) -> float:
        """Value that a statistic must exceed at a family-wise error rate."""
        return critical_value(self.nulls[kind], level)


def analyse(
    inputs: Inputs,
    options: Options,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    keep: Keep | None = None,
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
    keep : callable, optional
        Tallies are kept, and gone on from; see `Keep`.
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
        finished = _run(inputs, options, tests, shuffler, progress=progress, on_maps=on_maps, keep=keep)
        seconds = perf_counter() - start
        for row, (i, test) in enumerate(zip(numbers, tests)):
            waiting[i] = _result(test, finished, row, seconds if row == 0 else 0.0, options)
        while number in waiting:
            yield waiting.pop(number)
            number += 1


def run_shard(
    inputs: Inputs,
    options: Options,
    keep: Keep,
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
            _run(inputs, options, tests, shuffler, progress=progress, keep=keep, part=part)


def shuffle_counts(prepared: Sequence[tuple[Test, AnyShuffler]], options: Options) -> dict[str, int]:
    """Shuffles of each test, or contrast and its negative, whose tallies are kept, by `Keep`'s name."""
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


def negative_of(tests: Sequence[Test], i: int, options: Options) -> int | None:
    """A later t contrast that is the negative of contrast i and uses the same shuffles."""
    if tests[i].is_f or options.permutations is not None:
        return None
    for j in range(i + 1, len(tests)):
        if not tests[j].is_f and np.array_equal(tests[j].contrast, -tests[i].contrast):
            return j
    return None


def _run(
    inputs: Inputs,
    options: Options,
    tests: list[Test],
    shuffler: AnyShuffler,
    *,
    progress: Progress | None = None,
    on_maps: MapCallback | None = None,
    keep: Keep | None = None,
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
        keeper=keep(_name(tests)) if keep else None,
        share=part,
        workers=options.workers,
    )


def _result(test: Test, finished: Finished, row: int, seconds: float, options: Options) -> TestResult:
    observed, model = finished.observed, finished.observed.test.model
    sign = (1, -1)[row]
    maps: dict[str, NDArray] = {"stat": sign * observed.statistic}
    nulls: dict[str, NDArray] = {}
    for part, tally in ((observed, finished.tally), (finished.second, finished.second_tally)):
        if part is not None and tally is not None and tally.n:
            _add_values(maps, nulls, part, tally, row)
    if finished.second is not None:
        for kind, (total, nonzero) in observed.sums(finished.tally).items():
            name = {"clustere": "clusternorm", "tfce": "tfcenorm"}[kind]
            maps[f"{name}_sum"], maps[f"{name}_samp"] = total[row], nonzero[row]
            maps[f"{name}_post"] = finished.second.local_mean[kind][row]
    shuffler = observed.test.shuffler
    return TestResult(
        test, model.df, model.f_dfs, {k: np.asarray(v, dtype=np.float32) for k, v in maps.items()}, nulls,
        shuffler, seconds, tuple(_warnings(test, observed, row, options, tally=finished.tally)),
        _step(observed, row),
    )  # fmt: skip


def _add_values(maps: Maps, nulls: Maps, part: ObservedTest, tally: Tally, row: int) -> None:
    """Corrected and uncorrected values, unshuffled maps and null distributions of one sign."""
    sign = (1, -1)[row]
    for kind in part.kinds:
        signed = sign * part.observed[kind][0]
        values = signed if kind == "vox" else np.maximum(signed, 0)
        null = tally.maxima[kind][row]
        maps[f"{kind}_corrp"] = corrected(null, part.least_tie(kind, values))
        if kind in tally.below:
            maps[f"{kind}_p"] = shares(tally.below[kind][row], tally.n)
        nulls[kind] = part.in_units(kind, null, row)
        if kind != "vox":
            maps[kind] = part.in_units(kind, values, row)


def _step(observed: ObservedTest, row: int) -> float:
    enhancer = observed.enhancer
    return 0.0 if enhancer is None or enhancer.options.exact else float(enhancer.deltas[row] or 0)


def _coarse_step(test: Test, observed: ObservedTest, row: int) -> Iterator[str]:
    """A maximum so large that a hundredth of it is too coarse a step of TFCE for the other voxels."""
    step, tfce, model = _step(observed, row), observed.test.statistics.tfce, observed.test.model
    if not step or tfce is None or tfce.delta is not None:
        return
    seen = observed.statistic * np.float32((1, -1)[row])
    if model.f_dfs is not None:
        seen = f_to_z(seen, *model.f_dfs)
    robust = step_size(robust_peak(seen), replace(tfce, delta="robust"))
    lost = int(((seen > robust) & (seen <= step)).sum())
    if step < 2 * robust or not lost:
        return
    at = int(np.argmax(seen))
    grid = observed.test.grid
    voxel = ", ".join(str(int(i)) for i in np.unravel_index(grid.index[at], grid.shape, order="F"))
    yield (
        f"{test.title}: the largest {'z of F' if test.is_f else 't'} is {seen[at]:.6g}, at voxel ({voxel}), and the "
        f"step of TFCE, a hundredth of it as in FSL, {step:.3g}: TFCE is 0 in {lost} voxels of the mask that have "
        f"{'z' if test.is_f else 't'} up to that step, but more than {robust:.3g}, the step that does not follow a few "
        f"outlying voxels; --tfce_D robust takes that step, --tfce_D a step of your own, --tfce-exact none"
    )


def _warnings(test: Test, observed: ObservedTest, row: int, options: Options, tally: Tally) -> Iterator[str]:
    """What the user should know of this test."""
    shuffler = observed.test.shuffler
    if test.is_f and observed.test.model.f_dfs is not None:
        rank = observed.test.model.f_dfs[0]
        if rank < len(test.contrast):
            yield (
                f"{test.title}: its {len(test.contrast)} contrasts are of rank {rank}; the F is divided by the "
                "rank, and tested as such (FSL divides by the number of contrasts)"
            )
    if options.nuisance == Nuisance.TER_BRAAK:
        yield (
            f"{test.title}: with -U 3 the unshuffled map is that of the full model's residuals, as in FSL, and so "
            "zero: nothing can be significant"
        )
    model = observed.test.model
    if isinstance(model, VoxelwiseGlm) and model.n_without_df:
        yield (
            f"{test.title}: no degrees of freedom are left at {model.n_without_df} of {model.n_voxels} voxels; "
            "their statistic is 0"
        )
    if observed.enhancer is not None and not (observed.statistic * (1, -1)[row] > 0).any():
        yield f"{test.title}: the statistic has no positive value; its TFCE images are blank"
    yield from _coarse_step(test, observed, row)
    if tally.n and shuffler.n < 20:
        kind = "sign-flips" if shuffler.flips else "permutations"
        count = (
            f"there are only {shuffler.n} distinct {kind}"
            if shuffler.exhaustive
            else f"only {shuffler.n} {kind} are done"
        )
        yield (
            f"{test.title}: {count}: no p-value can be under {1 / shuffler.n:.3g}, so nothing can reach p < 0.05"
        )


def parameter_estimates(inputs: Inputs, demean: bool) -> dict[str, Float64]:
    """Ordinary least squares of the whole design (``--glm_output``).

    Returns
    -------
    dict
        ``pe`` (p, V), ``cope`` (k, V), ``varcope`` (k, V), ``sigmasqr`` (1, V): estimates of the parameters,
        contrasts of them, their variances, and the residual variance with n − rank degrees of freedom.
    """
    n, V = inputs.data.shape
    C, masks = inputs.contrasts, [column for column in inputs.evs if column < 0]
    p, k = inputs.design.shape[1] + n * len(masks), len(C)
    out = {"pe": np.zeros((p, V)), "cope": np.zeros((k, V)), "varcope": np.zeros((k, V))}
    out["sigmasqr"] = np.zeros((1, V))
    for start in range(0, V, 256 if masks else 4096):
        part = slice(start, min(start + (256 if masks else 4096), V))
        Y = block(inputs.data, slice(None), part).astype(np.float64)
        M = np.repeat(inputs.design[None], Y.shape[1] if inputs.evs else 1, axis=0)
        evs = {column: block(ev, slice(None), part) for column, ev in inputs.evs.items()}
        for column, ev in evs.items():
            if column >= 0:
                M[:, :, column] = ev.T
        if masks:
            gone = np.logical_or.reduce([evs[column] != 0 for column in masks])
            pinv, pe, residual, sigma = fit(Y, M, gone, demean)
            out["pe"][:, part] = with_columns(pe, residual, {column: evs[column] for column in masks})
        else:
            pinv, pe, sigma = _fit_all(Y, M, demean)
            out["pe"][:, part] = pe
        scale = np.einsum("kp,vpn,vqn,kq->kv", C, pinv, pinv, C, optimize=True)
        out["cope"][:, part] = C @ pe
        out["varcope"][:, part], out["sigmasqr"][:, part] = scale * sigma, sigma
    return out


def _fit_all(Y: Float64, M: Float64, demean: bool) -> tuple[NDArray, NDArray, NDArray]:
    """Pseudoinverse, estimates and residual variance; M is (V, n, p), or (1, n, p) if all voxels share it."""
    n, p = M.shape[1:]
    if demean:
        Y, M = demean_columns(Y), M - M.mean(axis=1, keepdims=True)
    pinv = np.linalg.pinv(M)
    pe = np.einsum("vpn,nv->pv", np.broadcast_to(pinv, (Y.shape[1], p, n)), Y)
    residual = Y - np.einsum("vnp,pv->nv", np.broadcast_to(M, (Y.shape[1], n, p)), pe)
    df = n - np.linalg.matrix_rank(M)
    return pinv, pe, np.divide((residual**2).sum(axis=0), df, out=np.zeros(Y.shape[1]), where=df > 0)
