"""Checks of clusters and TFCE."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bench.cohort import smooth_t_maps
from bench.device.checks.compare import Check
from bench.device.lab import FWHMS, Lab, host, there
from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.device import Device
from gpuvox.grid import Grid
from gpuvox.permtest import LevelOverflow
from gpuvox.tfce import Enhancer, Tfce, step_size

POWERS = ((2.0, 0.5), (1.0, 1.0), (0.0, 0.5), (2.0, 0.0), (1.5, 0.67), (0.0, 0.0))


def cluster_checks(lab: Lab) -> Iterator[Check]:
    """Clusters of smooth maps."""
    for connectivity in (6, 18, 26):
        for mm, fwhm, threshold in (
            (lab.sizes.coarse_mm, 1.0, 0.4),
            (lab.sizes.mm, 3.5, 2.3),
            (lab.sizes.mm, 0.0, 0.1),
        ):
            name = f"clusters, C {connectivity}, {mm:g} mm, FWHM {fwhm:g}, threshold {threshold:g}"
            yield Check(name, partial(cluster_results, lab, mm, fwhm, threshold, connectivity))


def t_maps(lab: Lab, mm: float, fwhm: float) -> NDArray[np.float32]:
    """One-sample t maps of smooth noise."""

    def made(mm: float, fwhm: float) -> NDArray[np.float32]:
        return smooth_t_maps(lab.grid(mm), lab.sizes.maps, fwhm, n=20)

    return lab.once(made, mm, fwhm)


def cluster_results(
    lab: Lab, mm: float, fwhm: float, threshold: float, connectivity: int, device: Device | None
) -> dict:
    """Maxima, maps, normalised extents."""
    grid, values = lab.grid(mm), t_maps(lab, mm, fwhm)
    maps = there(device, values)
    local_mean = np.abs(np.random.default_rng(9).normal(size=(2, grid.n_voxels)))
    local_mean[:, ::3] = 0
    extent, mass = cluster_maps(maps, grid, threshold, connectivity, device)
    return {
        "maxima": cluster_maxima(maps, grid, threshold, connectivity, device),
        "extent": host(device, extent),
        "mass": host(device, mass),
        "normalised": host(device, normalised_extents(maps, grid, threshold, local_mean, device)),
    }


def tfce_checks(lab: Lab) -> Iterator[Check]:
    """Small masks of every shape, the brain at every smoothness, and what is rare."""
    for connectivity in (6, 18, 26):
        for exact in (False, True):
            name = f"TFCE, {lab.sizes.masks // 3} small masks, C {connectivity}{', exact' if exact else ''}"
            yield Check(name, partial(small_masks, connectivity, lab.sizes.masks // 3, exact))
    for connectivity, fwhm in product((6, 18, 26), FWHMS):
        name = f"TFCE, C {connectivity}, {lab.sizes.mm:g} mm, FWHM {fwhm:g}"
        yield Check(name, partial(brain_tfce, lab, fwhm, Tfce(connectivity=connectivity), 1024))
    for connectivity in (6, 18, 26):
        name = f"TFCE, C {connectivity}, {lab.sizes.mm:g} mm, exact"
        yield Check(
            name, partial(brain_tfce, lab, 3.5, Tfce(connectivity=connectivity, exact=True), 512), seconds=15
        )
    rare = {
        "4,096 levels": (Tfce(delta=0.002), 4096),
        "40,000 levels": (Tfce(delta=0.0005), 40_000),
        "H 1.5, E 0.67": (Tfce(1.5, 0.67, 26), 1024),
        "H 1, E 1": (Tfce(1.0, 1.0, 26), 1024),
        "more levels than prepared for": (Tfce(), 40),
        "more levels than prepared for, beyond int16": (Tfce(delta=0.0001), 33_000),
    }
    for name, (options, cap) in rare.items():
        yield Check(f"TFCE, {name}", partial(brain_tfce, lab, 2.0, options, cap), seconds=15)
    yield Check("TFCE, far above the tables", partial(far_above, lab))
    yield Check("TFCE, values that are not numbers", partial(not_finite, lab))
    # No device takes the power of a number by the same steps as another.
    exact = Tfce(1.5, 0.5, 26, exact=True)
    yield Check("TFCE, exact, H 1.5", partial(brain_tfce, lab, 3.5, exact, 512), tolerance=1e-9, seconds=15)


def enhanced(make: Enhancer, values: NDArray, device: Device | None) -> dict:
    """Maxima and maps, or why not."""
    maps = there(device, values)
    try:
        return {"maxima": make.maxima(maps), "maps": host(device, make.enhance(maps))}
    except LevelOverflow as overflow:
        return {"levels": overflow.needed}
    except ValueError as error:
        return {"refused": str(error)}


def steps(values: NDArray, options: Tfce) -> tuple[float, float]:
    """Steps of the first map."""
    return step_size(float(values[0].max()), options), step_size(float(-values[0].min()), options)


def small_masks(connectivity: int, count: int, exact: bool, device: Device | None) -> list[dict]:
    """Holes, slabs, lines, single voxels; maps with ties and plateaus."""
    rng = np.random.default_rng(connectivity)
    found = []
    for trial in range(count):
        mask = rng.random(rng.integers(1, 8, 3)) < rng.choice([0.5, 0.8, 1.0])
        mask.flat[0] = True
        grid = Grid(mask)
        values = rng.normal(size=(3, grid.n_voxels)) * 2
        if trial % 4 == 1:
            values = np.round(values)
        elif trial % 4 == 2:
            values[:, : grid.n_voxels // 2] = values[:, :1]
        elif trial % 4 == 3:
            values = -np.abs(values)
        values = values.astype(np.float32)
        H, E = POWERS[trial % len(POWERS)]
        options = Tfce(float(round(H)), E, connectivity, exact=True) if exact else Tfce(H, E, connectivity)
        found.append(enhanced(Enhancer(grid, options, steps(values, options), 1024, device), values, device))
    return found


def brain_tfce(lab: Lab, fwhm: float, options: Tfce, cap: int, device: Device | None) -> dict:
    """Maps of the brain."""
    values = t_maps(lab, lab.sizes.mm, fwhm)
    if options.exact or cap > 32_000:
        values = values[:2]  # the slow way
    return enhanced(Enhancer(lab.grid(lab.sizes.mm), options, steps(values, options), cap, device), values, device)


def far_above(lab: Lab, device: Device | None) -> dict:
    """Perfect separation in a few voxels of some maps, which are finished on the host; the others are ordinary."""
    values = t_maps(lab, lab.sizes.mm, 3.5).copy()
    rng = np.random.default_rng(5)
    for height in (60.0, 1e4, -3e7):
        values[rng.integers(0, len(values)), rng.integers(0, values.shape[1], 3)] = height
    make = Enhancer(lab.grid(lab.sizes.mm), Tfce(), (0.05, 0.06), 512, device, most=512)
    return enhanced(make, values, device)


def not_finite(lab: Lab, device: Device | None) -> list[dict]:
    """Refused, with the same sentence."""
    values = t_maps(lab, lab.sizes.mm, 2.0).copy()
    values[-1, 5] = np.nan
    grid = lab.grid(lab.sizes.mm)
    return [
        enhanced(Enhancer(grid, options, (0.05, 0.05), 512, device), values, device)
        for options in (Tfce(), Tfce(exact=True))
    ]
