"""Small runs of the engine that launch every kernel between them: the same function on the CPU and on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from bench.device.checks.primitives import gathered
from bench.device.checks.shuffles import shuffle_checks
from bench.device.lab import host, there
from gpuvox import reductions
from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.correlation import correlation
from gpuvox.device import Device
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.missing import MissingGlm
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.regression_methods import Method, RegressionTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.tfce import CODE_LEVELS, Enhancer, Tfce
from gpuvox.variance_groups import VarianceGroupsGlm
from gpuvox.voxelwise_methods import voxelwise_model

SHAPE = (13, 12, 11)
"""More voxels than a block has threads, so that all of its warps have work."""


def masked(seed: int) -> Grid:
    """A box with holes."""
    return Grid(np.random.default_rng(seed).random(SHAPE) < 0.9)


def rough_maps(grid: Grid, seed: int, n_maps: int = 6) -> np.ndarray:
    """Maps with clusters of both signs; one rises above all others, one has ties, one has a plateau at the top."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(0, 2 * np.pi, n) for n in grid.shape), indexing="ij")
    maps = []
    for _ in range(n_maps):
        a, b, c = rng.normal(size=3)
        wave = 2 * np.sin(a * x + b * y + c * z + rng.normal())
        maps.append(grid.to_vector(wave) + 0.5 * rng.normal(size=grid.n_voxels))
    maps[1] = np.round(2 * maps[1]) / 2
    maps[2] = np.clip(maps[2], -0.75, 0.75)
    maps[0][::500] *= 100
    return np.array(maps, np.float32)


def enhancement(connectivity: int, device: Device | None) -> list[np.ndarray]:
    """TFCE, maxima and maps, one of which rises above the tables; then with little room for edges at first."""
    grid, cap = masked(connectivity), 64
    values = rough_maps(grid, connectivity)
    maps, out = there(device, values), []
    for room in (None, 40):
        make = Enhancer(grid, Tfce(connectivity=connectivity), (0.125, 0.14), cap, device, most=cap)
        for full in (False, True):
            make._edge_room[0] = room or make._edge_room[0]
            out.append(host(device, make.enhance(maps)) if full else make.maxima(maps))
    return out


def by_height(exact: bool, device: Device | None) -> list[np.ndarray]:
    """TFCE voxel by voxel: exact, or with more levels than int16 holds."""
    grid = masked(4)
    values = rough_maps(grid, 4)[:2]
    options = Tfce(connectivity=26 if exact else 6, exact=exact)
    make = Enhancer(grid, options, (0.125, 0.14), CODE_LEVELS + 1, device)
    maps = there(device, values)
    return [make.maxima(maps), host(device, make.enhance(maps))]


def t_and_f(device: Device | None) -> list[np.ndarray]:
    """t and F maps of linear models, in float32 and in float64; one has more columns than a tile has rows."""
    rng, out = np.random.default_rng(5), []
    for n, columns, effects, n_voxels, n_shuffles in (
        (30, 3, 1, 700, 40),
        (30, 3, 2, 700, 40),
        (70, 66, 1, 130, 3),
    ):
        design = rng.normal(size=(n, columns))
        data = rng.normal(size=(n, n_voxels)).astype(np.float32)
        shuffles = np.array([rng.permutation(n) for _ in range(n_shuffles)], dtype=np.int32)
        model = partition(design, np.eye(effects, columns), is_f=effects > 1)
        glm = Glm(data, model, np.zeros((n, 0)), device=device)
        pairs = rng.integers(0, n_shuffles, 200), rng.integers(0, n_voxels, 200)
        out += [host(device, glm.statistic_maps(shuffles)), glm.exact(shuffles, *pairs)]
    return out


def scale_of_z(device: Device | None) -> list[np.ndarray]:
    """|z| of t, and z of F, enhanced in steps of each map's own maximum."""
    rng, grid, out, n = np.random.default_rng(6), masked(6), [], 9
    design = np.c_[np.ones(n), rng.normal(size=(n, 2))]
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    for contrast in (np.eye(3)[1:2], np.eye(3)[1:]):
        shuffler = Shuffler(design @ contrast.T, Permutations(3, 1))
        is_f = len(contrast) > 1
        model = ZScale(Glm(data, partition(design, contrast, is_f=is_f), shuffler.invariant, device=device))
        statistics = Statistics(tfce=Tfce(rule="palm"), uncorrected=True)
        test = PermutationTest(model if is_f else Magnitude(model), grid, shuffler, statistics)
        result = test.observe().run(0, shuffler.n)
        out += [values[:1] for group in (result.maxima, result.below) for values in group.values()]
    return out


def other_models(is_f: bool, device: Device | None) -> list[np.ndarray]:
    """Models beside t and F: other methods, with voxelwise EVs too, correlations, variance groups, missing data."""
    rng, n, n_voxels = np.random.default_rng(8), 10, 70
    contrast = [[1, -1, 0, 0], [0, 0, 1, 0]] if is_f else [[1, -1, 0, 0]]
    design = np.c_[np.arange(n) % 2, 1 - np.arange(n) % 2, rng.normal(size=(n, 2))]
    data = rng.normal(size=(n, n_voxels)).astype(np.float32)
    holes = np.where(rng.random(data.shape) < 0.1, np.float32(np.nan), data)
    evs = {3: rng.normal(size=data.shape).astype(np.float32)}
    shuffler = Shuffler(design[:, :1], Permutations(6, 1, permute_and_flip=True))
    parts, shuffles = partition(design, contrast, is_f=is_f), shuffler.shuffles(0, 6)
    methods = Method.DRAPER_STONEMAN, Method.TER_BRAAK
    tests = [RegressionTest(design, contrast, method, is_f=is_f) for method in methods]
    models = [
        *(test.model(data, shuffler.invariant) for test in tests),
        correlation(data, design, contrast, shuffler.invariant, is_f=is_f),
        VarianceGroupsGlm(data, parts, shuffler.invariant, np.arange(n) % 2),
        MissingGlm(holes, parts, shuffler.invariant),
        voxelwise_model(data, design, np.array(contrast), evs, Method.DEKKER, is_f=is_f),
    ]
    out, number, voxel = [], np.arange(20) % 6, np.arange(20)
    for model in models:
        placed = model.on(device)
        out += [host(device, placed.statistic_maps(shuffles)), placed.exact(shuffles, number, voxel)]
        out.append(placed.exact_map(shuffles[3]))
    return out


def smoothed(device: Device | None) -> list[np.ndarray]:
    """Maps smoothed within the mask."""
    grid = masked(3)
    smoother, values = MaskedGaussian(grid, 1.7), rough_maps(grid, 3)
    return [
        smoother(values) if device is None else host(device, smoother.on_device(device.upload(values), device))
    ]


def clusters(device: Device | None) -> list[np.ndarray]:
    """Extent and mass: maxima, maps, and extents divided by a local mean."""
    grid = masked(1)
    values = rough_maps(grid, 1)
    maps, local_mean = there(device, values), np.abs(np.random.default_rng(2).normal(size=(2, grid.n_voxels)))
    each = cluster_maps(maps, grid, 0.9, 18, device)
    return [
        *cluster_maxima(maps, grid, 0.9, 6, device),
        *(host(device, measure) for measure in each),
        host(device, normalised_extents(maps, grid, 1.1, local_mean, device)),
    ]


def sums(kind: str, device: Device | None) -> list[np.ndarray]:
    """Extremes, counts, sums and normalised maps, and what approximations of p-values gather."""
    values = np.round(np.random.default_rng(3).normal(size=(5, 1500)) * 40)
    values = (values if kind == "int64" else values / 7).astype(kind)
    maps = there(device, values)
    out = [*reductions.extremes(maps, device)]
    out.append(reductions.count_below(maps, values[:1].copy(), kind != "float32", device))
    if kind != "float32":
        out += reductions.sum_up(maps, 4 if kind == "int64" else 0, 2.0**-20, device)
        local_mean = np.abs(values[:2]) + 0.5
        out.append(host(device, reductions.normalise(maps, (0.5, 0.25), local_mean, device)))
    return out + gathered(maps, device)


def ties(device: Device | None) -> list[np.ndarray]:
    """Maps that equal the observed one or its negative, some but for a voxel; several stretches of a block."""
    observed = np.random.default_rng(4).normal(size=5000).astype(np.float32)
    values = np.stack([observed, -observed] * 4)
    values[range(2, 8), (17, 900, 2050, 2100, 2200, 2250)] += 1
    if device is None:
        return [reductions.ties_everywhere(values, observed)]
    return [device.download(reductions.ties_on(device, device.upload(values), observed)).astype(bool)]


def inversion(device: Device | None) -> list[np.ndarray]:
    """Iron and myelin, concentrations and contents."""
    maps = [there(device, values) for values in iron_and_myelin()[:3]]
    make = Inversion(TissueModel.default(), FieldConversion(3, 7, "curve"))
    return [
        host(device, make.invert(maps[0], maps[1], (3.0, 0.1), jacobian, device)) for jacobian in (None, maps[2])
    ]


def reference(device: Device | None) -> list[np.ndarray]:
    """Mean iron and myelin of a mask."""
    qsm, r1, _, mask = (there(device, values) for values in iron_and_myelin())
    mean, count = Inversion(TissueModel.default()).means(qsm, r1, mask, device)
    return [mean, np.array(count)]


def iron_and_myelin() -> tuple[np.ndarray, ...]:
    """QSM, R1, determinants and a mask."""
    rng = np.random.default_rng(7)
    qsm = (rng.normal(size=3000) * 0.05).astype(np.float32)
    r1 = (0.5 + 0.3 * rng.random(3000)).astype(np.float32)
    r1[::97] = 0
    return qsm, r1, (0.5 + rng.random(3000)).astype(np.float32), (rng.random(3000) < 0.3).astype(np.uint8)


@dataclass(frozen=True)
class Run:
    """A function of the device, None for the CPU, and how far results may differ: not by a bit, or relatively."""

    results: Callable[[Device | None], list[np.ndarray]]
    tolerance: float = 0.0


def shuffling(device: Device | None) -> list[np.ndarray]:
    """Permutations, sign flips and both, of rows, of blocks, and of a tree of blocks; with ranks and without."""
    return [check.results(device) for check in shuffle_checks()]


RUNS: dict[str, Run] = {
    "shuffles": Run(shuffling),
    **{f"TFCE, C {c}": Run(partial(enhancement, c)) for c in (6, 18, 26)},
    "TFCE, exact": Run(partial(by_height, True)),
    "TFCE, more levels than int16 holds": Run(partial(by_height, False)),
    "t and F": Run(t_and_f),
    "the scale of z": Run(scale_of_z),
    "other models": Run(partial(other_models, False)),
    "other models, F": Run(partial(other_models, True)),
    "smoothed": Run(smoothed),
    "clusters": Run(clusters),
    **{f"sums of {kind}": Run(partial(sums, kind)) for kind in ("float32", "float64", "int64")},
    "ties": Run(ties),
    "iron and myelin": Run(inversion),
    "reference of iron and myelin": Run(reference, 1e-12),
}
"""Runs that launch most kernels; whole analyses launch the others."""
