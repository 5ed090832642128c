"""A test from its maps for pictures, and a picture of it for Python."""

from __future__ import annotations

from gpuvox.findings.figures import Figure
from gpuvox.findings.mosaics import mosaic, slices_through, statistic_layers
from gpuvox.findings.scene import Scene, VoxelwiseTest, colour_ends, peak_of, significant
from gpuvox.findings.tested import ClusterOptions, TestedMaps
from gpuvox.types import AnyArray


def in_scene(maps: TestedMaps, scene: Scene, name: str, kind: str, level: float) -> VoxelwiseTest:
    """A test for pictures.

    Parameters
    ----------
    maps : TestedMaps
    scene : Scene
    name, kind : str
        Of the test, and of its statistic (t or F).
    level : float
        Of the corrected p.
    """
    statistic, corrected, size = (
        scene.shown(maps.grid.to_volume(each)) for each in (maps.statistic, maps.corrected, maps.size)
    )
    survivors = significant(corrected, scene.mask, level)
    return VoxelwiseTest(
        0, name, name, "", "", name, "", kind, maps.permutations, statistic, corrected, survivors,
        peak_of(size, survivors, scene.mask), two_sided=maps.two_sided,
    )  # fmt: skip


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
    scene = Scene.around(maps.grid)
    if underlay is not None:
        scene = scene.holding(scene.shown(underlay), None, {})
    test = in_scene(maps, scene, name, kind, level)
    table = maps.clusters(ClusterOptions(p=level, subpeaks=0))[1]
    peaks = [scene.voxel_at((float(x), float(y), float(z))) for x, y, z in table[["x", "y", "z"]].to_numpy()]
    layers = statistic_layers([test], colour_ends([test])[kind])
    return mosaic(scene, layers, slices_through(scene, [test], peaks))
