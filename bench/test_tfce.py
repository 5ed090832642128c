"""TFCE of smooth noise, maximum and map, beside `tfce` 0.1.0 on the same maps in the same run."""

from __future__ import annotations

import numpy as np
import pytest

from bench.cohort import brain_grid, smooth_t_maps
from gpuvox.tfce import Enhancer, Tfce, step_size

FIELDS = [(2.0, 0.0), (2.0, 2.0), (2.0, 3.5), (2.0, 6.0), (1.0, 7.0)]
"""Voxel size in mm, smoothness in voxels."""


def enhancer(grid, t, connectivity, signs):
    options = Tfce(connectivity=connectivity)
    down = step_size(float(-t[0].min()), options) if signs == 2 else 0.0
    return Enhancer(grid, options, (step_size(float(t[0].max()), options), down))


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize(("mm", "fwhm"), FIELDS)
@pytest.mark.parametrize("what", ["maximum, one sign", "maximum, both signs", "map, both signs"])
def test_gpuvox(benchmark, mm, fwhm, connectivity, what):
    grid = brain_grid(mm)
    t = smooth_t_maps(grid, 4 if mm == 2 else 2, fwhm)
    make = enhancer(grid, t, connectivity, 1 if "one" in what else 2)
    run = make.enhance if what.startswith("map,") else make.maxima
    benchmark.pedantic(run, (t,), rounds=3, warmup_rounds=1)
    benchmark.extra_info["ms_per_map"] = 1e3 * benchmark.stats.stats.median / len(t)


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize(("mm", "fwhm"), FIELDS)
def test_tfce_0_1_0_one_sign(benchmark, mm, fwhm, connectivity):
    tfce = pytest.importorskip("tfce", reason="tfce 0.1.0 is not installed")
    grid = brain_grid(mm)
    volume = np.asfortranarray(grid.to_volume(smooth_t_maps(grid, 1, fwhm)[0]))
    run = lambda: tfce.tfce(volume, connectivity=connectivity, two_sided=False)  # noqa: E731
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    benchmark.extra_info["ms_per_map"] = 1e3 * benchmark.stats.stats.median
