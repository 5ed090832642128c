"""What a whole analysis is given, and its tests: contrasts and their permutations, before any data are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuvox.device import Device
from gpuvox.errors import DesignError
from gpuvox.executors import Workers
from gpuvox.glm import Nuisance
from gpuvox.grid import Grid
from gpuvox.names import Names
from gpuvox.partitioning import effective_regressor, null_rows
from gpuvox.scratch import Data
from gpuvox.shuffle import ImportedShuffler, Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.types import AnyArray

Float64 = NDArray[np.float64]
AnyShuffler = Shuffler | ImportedShuffler


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
    permutations: Mapping[str, AnyArray] | None = None
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


def negative_of(tests: Sequence[Test], i: int, options: Options) -> int | None:
    """A later t contrast that is the negative of contrast i and uses the same shuffles."""
    if tests[i].is_f or options.permutations is not None:
        return None
    for j in range(i + 1, len(tests)):
        if not tests[j].is_f and np.array_equal(tests[j].contrast, -tests[i].contrast):
            return j
    return None
