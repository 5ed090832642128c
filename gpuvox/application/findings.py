"""The results of a test in numbers and in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpuvox.application.effects import Effects, PeakEffect
from gpuvox.cluster import label
from gpuvox.findings.map_names import title
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.types import Bools, Float32, Float64

LEVEL = 0.05
"""Corrected p-values below this survive."""
CONNECTIVITY = 26


@dataclass(frozen=True)
class Peak:
    """The largest value of a statistic, and where it is: in mm or, without an affine, the numbers of its voxel."""

    value: float
    place: tuple[float, float, float]
    unit: str = "mm"

    def __str__(self) -> str:
        place = f"({', '.join(f'{each:.4g}' for each in self.place)})"
        return f"{self.value:.2f} at {place} mm" if self.unit == "mm" else f"{self.value:.2f} at voxel {place}"


@dataclass(frozen=True)
class Survival:
    """What survives one correction.

    Attributes
    ----------
    smallest_p : float
        Over all voxels.
    voxels : int
        Below `LEVEL`.
    clusters : tuple of int
        Their sizes in voxels, the largest first; neighbours share a face, an edge or a corner. Empty if it is unknown
        where the voxels are.
    peak : Peak or None
        The largest statistic within the largest cluster.
    """

    smallest_p: float
    voxels: int
    clusters: tuple[int, ...] = ()
    peak: Peak | None = None

    def sentence(self, desc: str, statistic: str) -> str:
        """What survives a correction (``tfceFWE``) of a statistic (``t``)."""
        level = f"q < {LEVEL:g}, false discovery rate" if desc.endswith("FDR") else f"p < {LEVEL:g}, corrected"
        level += " over all tests" if desc.endswith("across") else ""
        smallest = f"smallest {level.partition(' ')[0]} {self.smallest_p:.4g}"
        if not self.voxels:
            return f"nothing survives at {level} ({smallest})"
        voxels, peak = several(self.voxels, "voxel"), f"{statistic} up to {self.peak}"
        verb = "survives" if self.voxels == 1 else "survive"
        if not self.clusters:
            return f"{voxels} {verb} at {level} ({smallest}), {peak}"
        return (
            f"{voxels} in {several(len(self.clusters), 'cluster')} {verb} at {level} ({smallest}); the largest has "
            f"{several(self.clusters[0], 'voxel')}, {peak}"
        )


@dataclass(frozen=True)
class Finding:
    """What one test shows.

    Attributes
    ----------
    name : str
    statistic : str
        ``t`` or ``F``.
    largest : Peak
        Of a two-sided test the largest in size, with its sign; so are the peaks of its clusters.
    survivals : dict of str to Survival
        By correction, ``tfceFWE``.
    effect : PeakEffect or None
        At the largest statistic.
    """

    name: str
    statistic: str
    largest: Peak
    survivals: Mapping[str, Survival]
    effect: PeakEffect | None = None

    def lines(self) -> list[str]:
        """What is printed."""
        found = [f"{self.name}: largest {self.statistic} {self.largest}"]
        if self.effect is not None:
            found.append(f"  there: {self.effect}")
        found += [
            f"  {title(desc)}: {survival.sentence(desc, self.statistic)}"
            for desc, survival in self.survivals.items()
        ]
        return found


def find(
    name: str,
    statistic: str,
    stat: Float32,
    corrected: Mapping[str, Float64],
    grid: Grid,
    effects: Effects | None = None,
    *,
    two_sided: bool = False,
) -> Finding:
    """The results of a test.

    Parameters
    ----------
    name, statistic : str
    stat : (V,) float32
        Its statistic.
    corrected : dict of str to (V,) float64
        By correction, p-values.
    grid : Grid
    effects : Effects, optional
        With (V,) maps.
    two_sided : bool
        Large values of either sign count; clusters are of one sign.
    """
    everywhere = np.ones(grid.n_voxels, dtype=bool)
    signs = (1, -1) if two_sided else (1,)
    own_first = sorted(corrected.items(), key=lambda each: each[0].endswith("across"))
    survivals = {desc: _survival(p, stat, grid, signs) for desc, p in own_first}
    effect = None if effects is None else effects.at(int(np.argmax(np.abs(stat) if two_sided else stat)))
    return Finding(name, statistic, _peak(stat, everywhere, grid, two_sided), survivals, effect)


def _survival(p: Float64, stat: Float32, grid: Grid, signs: tuple[int, ...]) -> Survival:
    inside, two_sided = p < LEVEL, len(signs) > 1
    smallest = float(p.min(initial=1.0))
    if not inside.any():
        return Survival(smallest, 0)
    if grid.shape[1:] == (1, 1):  # rows of voxels whose places are unknown
        return Survival(smallest, int(inside.sum()), (), _peak(stat, inside, grid, two_sided))
    sizes: list[int] = []
    largest = inside
    for sign in signs:
        of_sign = inside & (sign * stat >= 0) if two_sided else inside
        clusters, n = label(of_sign.astype(np.float32), grid, 0.5, CONNECTIVITY)
        own = np.bincount(clusters[of_sign], minlength=n + 1)[1:].tolist()
        if own and (not sizes or own[0] > sizes[0]):
            largest = clusters == 1
        sizes = sorted([*sizes, *own], reverse=True)
    return Survival(smallest, int(inside.sum()), tuple(sizes), _peak(stat, largest, grid, two_sided))


def _peak(stat: Float32, where: Bools, grid: Grid, two_sided: bool = False) -> Peak:
    voxel = int(np.argmax(np.where(where, np.abs(stat) if two_sided else stat, -np.inf)))
    index = grid.position(voxel)
    if grid.affine is None:
        return Peak(float(stat[voxel]), (float(index[0]), float(index[1]), float(index[2])), "voxel")
    x, y, z = (grid.affine[:3, :3] @ index + grid.affine[:3, 3]).tolist()
    return Peak(float(stat[voxel]), (x, y, z))


def p_values(one_minus_p: Float32, permutations: int) -> Float64:
    """p of a map of 1 − p: exact multiples of 1 / permutations, which float32 holds only nearly."""
    return np.round((1 - one_minus_p.astype(np.float64)) * permutations) / permutations


def log_p(p: Float64) -> Float32:
    """−log10 p, rounded down: a p of exactly 0.05 is not above −log10(0.05)."""
    exact = 0.0 - np.log10(p)
    rounded = exact.astype(np.float32)
    values: Float32 = np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)
    return values
