"""Synthetic brains for the benchmarks: a brain-sized grid, t maps and whole cohorts of smooth noise."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gpuvox.grid import Grid

FWHM = np.sqrt(8 * np.log(2))  # full width at half maximum of a Gaussian, in standard deviations
EXTENT_MM = (145.0, 172.0, 146.0)  # left-right, front-back, up-down
FIELD_MM = (198.0, 234.0, 190.0)


def brain_grid(mm: float = 2.0) -> Grid:
    """An ellipsoid with two ventricles and a fissure in a field of 99 x 117 x 95 voxels of 2 mm.

    About 235,000 voxels at 2 mm, 1.9 million at 1 mm.
    """
    shape = [round(f / mm) for f in FIELD_MM]
    axes = [((np.arange(n) + 0.5) * mm - n * mm / 2) for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    a, b, c = (e / 2 for e in EXTENT_MM)
    brain = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2 < 1
    ventricles = ((np.abs(x) - 14) / 8) ** 2 + (y / 30) ** 2 + ((z - 8) / 10) ** 2 < 1
    fissure = (np.abs(x) < 1.5) & (z > 35)
    return Grid(brain & ~ventricles & ~fissure, voxel_size=(mm, mm, mm))


def smooth_noise(grid: Grid, n: int, fwhm: float, seed: int) -> NDArray[np.float32]:
    """(n, V) float32 Gaussian noise of unit variance, smoothed to a full width at half maximum in voxels."""
    rng = np.random.default_rng(seed)
    noise = np.empty((n, grid.n_voxels), dtype=np.float32)
    workers = os.cpu_count() or 1

    def smooth(row: NDArray[np.float32], image: NDArray[np.float32]) -> None:
        row[:] = grid.to_vector(gaussian_filter(image, fwhm / FWHM) if fwhm else image)

    # Drawn one after the other, so that they do not depend on the number of threads, and smoothed side by side.
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, n, workers):
            rows = noise[start : start + workers]
            images = [rng.standard_normal(grid.shape, dtype=np.float32) for _ in rows]
            list(pool.map(smooth, rows, images))
    return noise / noise.std(dtype=np.float64).astype(np.float32)


def smooth_t_maps(grid: Grid, n_maps: int, fwhm: float = 3.5, seed: int = 0, n: int = 40) -> NDArray[np.float32]:
    """(n_maps, V) float32 one-sample t maps of n smooth noise images, each map with its own random signs.

    Sign flips of one set of images are what a permutation test feeds the enhancement.
    """
    data = smooth_noise(grid, n, fwhm, seed)
    signs = np.random.default_rng(seed + 1).choice(np.float32([-1, 1]), size=(n_maps, n))
    signs[0] = 1
    mean = signs @ data / n
    variance = ((data**2).sum(axis=0) - n * mean**2) / (n - 1)
    return np.ascontiguousarray(mean / np.sqrt(variance / n))


@dataclass(frozen=True, eq=False)
class Cohort:
    """Two groups with two covariates.

    Attributes
    ----------
    grid : Grid
    data : (n, V) float32
    design : (n, 4) float64
        Group A, group B, age, sex; covariates have zero mean.
    contrast : (4,) float64
        A minus B.
    """

    grid: Grid
    data: NDArray[np.float32]
    design: NDArray[np.float64]
    contrast: NDArray[np.float64]


def cohort(grid: Grid, n: int = 40, fwhm: float = 3.5, seed: int = 0, effect: float = 0.0) -> Cohort:
    """A cohort of smooth noise; in a ball off the centre group A is higher by `effect` SD."""
    rng = np.random.default_rng(seed)
    group = np.arange(n) < (n + 1) // 2
    age, sex = rng.normal(45, 12, n), rng.integers(0, 2, n).astype(float)
    data = smooth_noise(grid, n, fwhm, seed)
    distance = [(np.arange(s) - 0.6 * s) / (0.1 * s) for s in grid.shape]
    x, y, z = np.meshgrid(*distance, indexing="ij", sparse=True)
    data[group] += np.float32(effect) * grid.to_vector(x**2 + y**2 + z**2 < 1).astype(np.float32)
    data += np.float32(0.01) * (age - age.mean()).astype(np.float32)[:, None]
    design = np.column_stack([group, ~group, age - age.mean(), sex - sex.mean()]).astype(float)
    return Cohort(grid, data, design, np.array([1.0, -1.0, 0.0, 0.0]))
