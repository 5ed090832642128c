"""The maps of one test within a mask, and its clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.findings.atlas import Atlas
from gpuvox.findings.clusters import Peak, describe, find_clusters, is_p, to_table
from gpuvox.findings.runs import CorrectedMap, Run, RunTest
from gpuvox.grid import Grid
from gpuvox.types import Float32, Float64, Floats


@dataclass(frozen=True)
class ClusterOptions:
    """How clusters are found and described.

    Attributes
    ----------
    p : float
        Level of the corrected p.
    extent : int
        Smallest cluster, in voxels.
    connectivity : {6, 18, 26}
    subpeaks : int
        Most further peaks of a cluster.
    distance : float
        Least distance between peaks of a cluster, in mm.
    """

    p: float = 0.05
    extent: int = 1
    connectivity: int = 26
    subpeaks: int = 3
    distance: float = 8.0


@dataclass(frozen=True, eq=False)
class TestedMaps:
    """The maps of a test.

    Attributes
    ----------
    grid : Grid
    statistic : (V,) float32
    p : (V,) float64
        Corrected by one correction; all 1 if there is none.
    permutations : int
        p-values are multiples of 1 / permutations; 0 if their number is unknown.
    effects : dict of str to (V,) array
        By the columns of `clusters.EFFECTS`.
    two_sided : bool
        p is of the size of the statistic; positive and negative voxels are never in one cluster.
    """

    grid: Grid
    statistic: Float32
    p: Float64
    permutations: int = 0
    effects: Mapping[str, Floats] = field(default_factory=dict)
    two_sided: bool = False

    @property
    def corrected(self) -> Float32:
        """(V,) 1 − p."""
        return (1 - self.p).astype(np.float32)

    @property
    def size(self) -> Float32:
        """(V,) What p is of: the statistic or, if the test is two-sided, its magnitude."""
        return np.abs(self.statistic) if self.two_sided else self.statistic

    def clusters(
        self, options: ClusterOptions = ClusterOptions(), atlas: Atlas | None = None
    ) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """Numbers of the clusters, and their table.

        Parameters
        ----------
        options : ClusterOptions
        atlas : Atlas, optional

        Returns
        -------
        labels : (V,) int32
            From 1 by decreasing size; 0 elsewhere.
        table : DataFrame
            See `clusters.to_table`.

        Raises
        ------
        InputError
            The level is not between 0 and 1.
        """
        labels = self.labels(options)
        found = describe(
            labels,
            self.corrected,
            self.grid,
            self.size,
            atlas,
            subpeaks=options.subpeaks,
            distance=options.distance,
        )
        signed = [replace(each, peaks=tuple(self._signed(peak) for peak in each.peaks)) for each in found]
        return labels, to_table(signed, self.effects, self.permutations)

    def labels(self, options: ClusterOptions = ClusterOptions()) -> NDArray[np.int32]:
        """(V,) Numbers of the clusters; of a two-sided test, those of both signs by decreasing size."""
        how = (self.grid, options.p, options.extent, options.connectivity)
        if not self.two_sided:
            return find_clusters(self.corrected, *how)
        above, below = (
            find_clusters(np.where(self.statistic * sign > 0, self.corrected, 0), *how) for sign in (1, -1)
        )
        labels = np.where(below > 0, below + above.max(initial=0), above)
        sizes = np.bincount(labels)
        sizes[0] = 0
        number = np.zeros(len(sizes), dtype=np.int32)
        there = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        number[there] = np.arange(1, len(there) + 1)
        return number[labels]

    def _signed(self, peak: Peak) -> Peak:
        return replace(peak, statistic=float(self.statistic[peak.voxel]))


def read_grid(run: Run, mask: str = "") -> Grid:
    """The voxels of a run: those of a mask or, without one, wherever a test has a statistic (all, if none has).

    Raises
    ------
    FileError
        An image cannot be read; they are on different grids.
    """
    header = files.read_header(run.tests[0].statistic)
    if mask:
        return files.read_mask_on(mask, header)
    whole = header.grid(np.ones(header.shape[:3], dtype=bool))
    inside = np.zeros(whole.n_voxels, dtype=bool)
    for test in run.tests:
        inside |= files.read_map(test.statistic, whole) != 0
    if not inside.any():
        inside[:] = True
    return header.grid(inside.reshape(header.shape[:3], order="F"))


def read_tested(test: RunTest, grid: Grid, correction: str = "") -> TestedMaps:
    """Read the maps of a test.

    Parameters
    ----------
    test : RunTest
    grid : Grid
    correction : str
        See `RunTest.correction`.

    Raises
    ------
    FileError
        An image cannot be read, or is on another grid; a map does not hold what its name says.
    """
    chosen = test.correction(correction)
    permutations = test.multiples_of(chosen)
    p = read_p(test.corrected[chosen], grid, permutations) if chosen else np.ones(grid.n_voxels)
    permutations = permutations if are_shares(p, permutations) else 0
    effects = {name: files.read_map(path, grid) for name, path in test.effects.items()}
    return TestedMaps(grid, files.read_map(test.statistic, grid), p, permutations, effects, test.two_sided)


def read_p(corrected: CorrectedMap, grid: Grid, permutations: int = 0) -> Float64:
    """p-values of a corrected map: exact if they are shares of so many permutations, else to six decimals.

    Raises
    ------
    FileError
        The values are not 1 − p (or not −log10 p).
    """
    values = files.read_map(corrected.path, grid).astype(np.float64)
    if values.min() < 0 or (values.max() > 1 and not corrected.is_log):
        what = "-log10 p" if corrected.is_log else "1 - p"
        raise FileError(
            f"{corrected.path} has values from {values.min():g} to {values.max():g}; {what} is expected"
        )
    if not corrected.is_log and is_p(values):
        raise FileError(f"{corrected.path} is 1 in some voxels, as p can be and 1 - p cannot; 1 - p is expected")
    p: Float64 = 10.0**-values if corrected.is_log else 1 - values
    if are_shares(p, permutations):
        return np.round(p * permutations) / permutations
    return np.round(p, 6)


def are_shares(p: Float64, permutations: int) -> bool:
    """Whether p are shares of so many permutations, the unpermuted one included; approximations are not.

    Maps hold them in float32, and without a record nothing else tells what they are.
    """
    counts = p * permutations
    rounding = 0.01 + 3e-7 * permutations
    return permutations > 0 and bool(
        np.all(np.abs(counts - np.round(counts)) <= rounding) and np.all(counts > 0.5)
    )
