"""A picture of one test from its maps, for Python."""

from __future__ import annotations

import numpy as np

from gpuvox.findings.figures import Figure
from gpuvox.findings.mosaics import mosaic, slices_through, statistic_layers
from gpuvox.findings.scene import Scene, VoxelwiseTest, peak_of, significant
from gpuvox.findings.tested import ClusterOptions, TestedMaps
from gpuvox.types import AnyArray


def slices_of(
    maps: TestedMaps, name: str, kind: str, level: float = 0.05, underlay: AnyArray | None = None
) -> Figure:
    """Axial slices through all clusters of a test, in the colours of its statistic.

    Parameters
    ----------
    maps : TestedMaps
    name, kind : str
        Of the test, and of its statistic (t or F).
    level : float
        Of the corrected p: the statistic is opaque below it, and faded elsewhere.
    underlay : (nx, ny, nz) array, optional
        On the grid of the maps.
    """
    grid = maps.grid
    scene = Scene.around(grid)
    if underlay is not None:
        scene = scene.holding(scene.shown(underlay), None, {})
    statistic, corrected = (scene.shown(grid.to_volume(each)) for each in (maps.statistic, maps.corrected))
    survivors = significant(corrected, scene.mask, level)
    size = np.abs(statistic) if maps.two_sided else statistic
    peak = peak_of(size, survivors, scene.mask)
    test = VoxelwiseTest(
        0, name, name, "", "", name, "", kind, maps.permutations, statistic, corrected, survivors, peak,
        two_sided=maps.two_sided,
    )  # fmt: skip
    table = maps.clusters(ClusterOptions(p=level, subpeaks=0))[1]
    peaks = [scene.voxel_at((float(x), float(y), float(z))) for x, y, z in table[["x", "y", "z"]].to_numpy()]
    largest = float(size.max())
    return mosaic(
        scene, statistic_layers([test], float(np.ceil(largest)) if largest > 0 else 1.0),
        slices_through(scene, [test], peaks),
    )  # fmt: skip
