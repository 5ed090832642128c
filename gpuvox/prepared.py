"""An analysis before any data are read: its inputs, options and tests (contrasts and their permutations)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gpuvox.block_tree import is_multi_level, shuffler_of
from gpuvox.device import Device
from gpuvox.errors import DesignError
from gpuvox.executors import Workers
from gpuvox.glm import Nuisance
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.names import Names
from gpuvox.partitioning import (
    PartitionedDesign,
    check_estimable,
    demean_columns,
    effective_regressor,
    null_rows,
    partition,
)
from gpuvox.scratch import Data
from gpuvox.shuffle import Permutations, Shuffler, effective_labels
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import Tail
from gpuvox.types import AnyArray, Float64, Ints

AnyShuffler = Shuffler | ImportedShuffler


@dataclass(frozen=True, eq=False)
class Inputs:
    """Data, design and contrasts of an analysis.

    Attributes
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    grid : Grid
    design : (n, p) float64
    contrasts : (k, p) float64
        t contrasts.
    f_tests : (f, k) float64
        Rows: the t contrasts with a non-zero entry are combined to an F test.
    blocks : (n,) or (n, levels) int, optional
        Exchangeability blocks, from 1; 0 for rows that never move. Several columns are multi-level blocks.
    evs : dict of int to (n, V) float32, arrays or `scratch.Tiles`
        Voxelwise EVs by column (from 0). A negative number stands for values that, where they are not 0, exclude their
        participant from a voxel; design and contrasts have no columns for them (see `exclusion`).
    effective_design : (n, any) float64, optional
        Rows that are equal in it are interchangeable, whatever the contrast.
    names : Names
        Names of EVs, contrasts and F tests, for records and messages.
    """

    data: Data
    grid: Grid
    design: Float64
    contrasts: Float64
    f_tests: Float64
    blocks: Ints | None = None
    evs: Mapping[int, Data] = field(default_factory=dict)
    effective_design: Float64 | None = None
    names: Names = field(default_factory=Names)


@dataclass(frozen=True)
class Options:
    """How an analysis is done; see the options of ``gpuvox randomise``.

    `only_test` is the number of the only test to run, counting F before t from 1; 0 for all. With `joint_steps`, TFCE
    has the same steps in all tests, so that their scores can share a null distribution. `flip`, `permute_and_flip`,
    `within_blocks`, `repeats` and `distinct_rows` are those of `shuffle.Permutations`. With `tail`, p-values of voxels
    and of TFCE are approximations. With `missing_voxels`, data that are NaN are missing at that voxel, and what is
    tested is z; see `missing`. With `variance_groups`, a number for each row, or ``auto`` for the groups that
    permutations leave apart, what is tested is z of v and G; see `variance_groups`.
    """

    statistics: Statistics = field(default_factory=Statistics)
    f_statistics: Statistics = field(default_factory=Statistics)
    n_permutations: int = 5000
    seed: int = 0
    flip: bool = False
    demean: bool = False
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    whole_blocks: bool = False
    permute_and_flip: bool = False
    within_blocks: bool = False
    repeats: bool = False
    distinct_rows: bool = False
    tail: Tail | None = None
    missing_voxels: bool = False
    variance_groups: tuple[int, ...] | str = ()
    detect_null: bool = False
    f_only: bool = False
    joint_steps: bool = False
    only_test: int = 0
    variance_mm: float = 0.0
    permutations: Mapping[str, AnyArray] | None = None
    threads: int | None = None
    device: Device | None = None
    scratch: str = ""
    workers: Workers | None = None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices of this process."""
        ours = [self.device, *(self.workers.devices if self.workers else ())]
        return tuple(dict.fromkeys(device for device in ours if device is not None))

    def statistics_for(self, test: Test) -> Statistics:
        """The statistics that are computed for a test."""
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
        Name given by the user, such as ``MS > HC``; may be empty.
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
    """The tests of an analysis in FSL's order: F, then t; with `only_test` only that one, if it exists.

    Raises
    ------
    DesignError
        An F test has no contrast, or more columns than there are contrasts.
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
    """The permutations, or sign flips, of one test."""
    labels, scale = _exchangeable(inputs, test)
    if options.permutations is not None:
        return ImportedShuffler(options.permutations[test.name], len(labels), allowed_by_blocks(inputs, options))
    blocks = inputs.blocks
    if options.detect_null:
        if is_multi_level(blocks):
            raise DesignError(
                "--detectNull cannot be combined with multi-level exchangeability blocks", option="--detectNull"
            )
        still = null_rows(inputs.design, test.contrast)
        block_of_row = np.ones(len(labels), dtype=np.int64) if blocks is None else blocks
        numbers = np.unique(block_of_row[~still & (block_of_row > 0)])
        blocks = np.where(still | (block_of_row == 0), 0, np.searchsorted(numbers, block_of_row) + 1)
    flip = options.flip or (not test.is_f and _is_one_sample(labels, scale, blocks, test.contrast))
    settings = Permutations(
        options.n_permutations, options.seed, blocks, options.whole_blocks, flip, options.permute_and_flip,
        options.within_blocks, options.repeats, options.distinct_rows,
    )  # fmt: skip
    return shuffler_of(labels, settings, scale)


def allowed_by_blocks(inputs: Inputs, options: Options) -> Shuffler:
    """All permutations that the exchangeability blocks allow, of rows that all differ."""
    blocks = Permutations(
        0, blocks=inputs.blocks, whole_blocks=options.whole_blocks, within_blocks=options.within_blocks
    )
    return shuffler_of(np.arange(len(inputs.design)), blocks)


def _exchangeable(inputs: Inputs, test: Test) -> tuple[Float64, Float64]:
    """Rows equal in the first array are interchangeable; the second is the magnitude of its columns' rounding."""
    if inputs.effective_design is not None:
        return inputs.effective_design, np.abs(inputs.effective_design).max(axis=0)
    # Rounding error is relative to the numbers from which a regressor is computed.
    scale = np.abs(test.contrast) @ np.abs(inputs.design).max(axis=0)
    return effective_regressor(inputs.design, test.contrast), scale


def joint_labels(inputs: Inputs, tests: Sequence[Test]) -> Float64:
    """(n, columns) An effective design for several tests: rows that are equal in it are interchangeable in all."""
    return np.column_stack([effective_labels(*_exchangeable(inputs, test)) for test in tests]).astype(np.float64)


def _is_one_sample(labels: Float64, scale: Float64, blocks: Ints | None, contrast: Float64) -> bool:
    """FSL's rule: all rows equal, one block, one non-zero weight in the contrast."""
    alike = bool((np.ptp(labels, axis=0) <= 1e-10 * scale).all())
    one_block = blocks is None or (blocks.ndim == 1 and len(np.unique(blocks)) == 1)
    return alike and one_block and int(np.count_nonzero(contrast)) == 1


@dataclass(frozen=True, eq=False)
class PreparedTest:
    """One contrast with its permutations and its partitioned design.

    Attributes
    ----------
    test : Test
    shuffler : Shuffler or ImportedShuffler
        Its permutations or sign flips.
    design : PartitionedDesign
        Effect of interest and nuisance. With voxelwise EVs, that of the placeholder columns, whose ranks are those
        of most voxels.
    negative : int or None
        Number, from 0, of the later t contrast that is the negative of this one and has the same permutations: the
        two share their maps. At most one contrast shares the maps of another.
    """

    test: Test
    shuffler: AnyShuffler
    design: PartitionedDesign
    negative: int | None = None


TestGroup = tuple[PreparedTest, ...]
"""Tests that share their maps: a single test, or a t contrast and its negative."""


def group_name(group: TestGroup) -> str:
    """The name of the tallies of a group: ``tstat1``, or ``tstat1+tstat2``."""
    return "+".join(prepared.test.name for prepared in group)


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything known about an analysis before its permutations run; made by `prepare`, once per run.

    Attributes
    ----------
    inputs : Inputs
        Its `data`, `grid` and `evs` may be placeholders until they are read, see `with_data`.
    options : Options
    tests : tuple of PreparedTest
        In FSL's order: F, then t.
    """

    inputs: Inputs
    options: Options
    tests: tuple[PreparedTest, ...]

    def with_data(self, data: Data, grid: Grid, evs: Mapping[int, Data]) -> Analysis:
        """The same tests with the data.

        Parameters
        ----------
        data : (n, V) float32, array or `scratch.Tiles`
        grid : Grid
        evs : dict of int to (n, V) float32
            Voxelwise EVs, by the columns that the inputs name.

        Raises
        ------
        ValueError
            The number of volumes or the columns of the voxelwise EVs differ from those prepared.
        """
        if data.shape[0] != len(self.inputs.design) or evs.keys() != self.inputs.evs.keys():
            raise ValueError(
                f"{data.shape[0]} volumes and voxelwise EVs {list(evs)} do not fit tests that were prepared for "
                f"{len(self.inputs.design)} volumes and voxelwise EVs {list(self.inputs.evs)}"
            )
        return replace(self, inputs=replace(self.inputs, data=data, grid=grid, evs=dict(evs)))

    def run_with(
        self, *, device: Device | None = None, workers: Workers | None = None, threads: int | None = None
    ) -> Analysis:
        """The same tests with these resources; `threads` None keeps their number."""
        options = replace(
            self.options, device=device, workers=workers, threads=threads or self.options.threads
        )  # fmt: skip
        return replace(self, options=options)

    def statistics_for(self, prepared: PreparedTest) -> Statistics:
        """The statistics that are computed for a test."""
        return self.options.statistics_for(prepared.test)

    def groups(self, *, joined: bool = True) -> Iterator[TestGroup]:
        """The tests in groups that share their maps; single tests unless `joined`, or if p are approximated."""
        joined = joined and self.options.tail is None
        shared = {prepared.negative for prepared in self.tests} if joined else set()
        for number, prepared in enumerate(self.tests):
            if number in shared:
                continue
            negative = prepared.negative if joined else None
            yield (prepared,) if negative is None else (prepared, self.tests[negative])

    def permutation_counts(self) -> dict[str, int]:
        """Number of permutations of each group with tallies, by `group_name`."""
        return {
            group_name(group): group[0].shuffler.n
            for group in self.groups()
            if self.statistics_for(group[0]).kinds
        }


def prepare(inputs: Inputs, options: Options) -> Analysis:
    """List the tests of an analysis, partition the design for each, and define their permutations.

    Parameters
    ----------
    inputs : Inputs
        Without images if they are read later: `data` and voxelwise EVs then have no voxels,
        and only the columns of the EVs matter.
    options : Options

    Raises
    ------
    DesignError
        An F test has no contrast, or a contrast cannot be tested with this design. The message names the test.
    InputError
        Exchangeability blocks, imported permutations or numbers are invalid.
    """
    tests = list_tests(inputs, options)
    designs = [_partitioned(inputs, options, test) for test in tests]
    shufflers = [make_shuffler(inputs, options, test) for test in tests]
    negatives = _negatives(tests, shufflers)
    return Analysis(inputs, options, tuple(map(PreparedTest, tests, shufflers, designs, negatives)))


def prepare_test(inputs: Inputs, options: Options, test: Test) -> PreparedTest:
    """Prepare a single test; errors as for `prepare`."""
    return PreparedTest(test, make_shuffler(inputs, options, test), _partitioned(inputs, options, test))


def _partitioned(inputs: Inputs, options: Options, test: Test) -> PartitionedDesign:
    """The model of a test. Placeholders of voxelwise EVs do not determine ranks, nor what can be estimated."""
    try:
        parts = partition(
            inputs.design, test.contrast, demean=options.demean, is_f=test.is_f, check=not inputs.evs
        )  # fmt: skip
        if inputs.evs:
            _check_with_any_evs(inputs, options, test)
        return parts
    except DesignError as error:
        raise DesignError(f"{test.title}: {error}") from None


def _check_with_any_evs(inputs: Inputs, options: Options, test: Test) -> None:
    """Refuse a contrast that no values of the voxelwise EVs, and no subjects who are left out, make estimable."""
    design, rng = inputs.design.copy(), np.random.default_rng(0)
    for column in inputs.evs:
        if column >= 0:
            design[:, column] = rng.standard_normal(len(design))
    if options.demean:
        design = demean_columns(design)
    check_estimable(design, test.contrast, demean=options.demean)


def _negatives(tests: Sequence[Test], shufflers: Sequence[AnyShuffler]) -> list[int | None]:
    """For each test, the later t contrast with which it shares its maps; imported permutations may differ."""
    negatives: list[int | None] = [None] * len(tests)
    for i, test in enumerate(tests):
        if test.is_f or i in negatives or isinstance(shufflers[i], ImportedShuffler):
            continue
        negatives[i] = next(
            (
                j
                for j in range(i + 1, len(tests))
                if not tests[j].is_f and j not in negatives and np.array_equal(tests[j].contrast, -test.contrast)
            ),
            None,
        )
    return negatives
