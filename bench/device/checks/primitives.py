"""Checks of permutations, reductions, smoothing, z of F, iron and myelin."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.device.checks.compare import Check
from bench.device.checks.shuffles import shuffle_checks
from bench.device.lab import Lab, host, there
from gpuvox import gathering
from gpuvox import reductions as primitives
from gpuvox.device import Device, Outcomes, Promise, settled
from gpuvox.f_to_z import f_to_z
from gpuvox.grid import Grid
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.smooth import MaskedGaussian


def primitive_checks(lab: Lab) -> Iterator[Check]:
    """shuffle.*, maps.*, smoothing, z of F."""
    yield from shuffle_checks()
    for kind in ("float32", "float64", "int64"):
        yield Check(f"maps: extremes, counts, sums of {kind}", partial(counts_and_sums, kind))
    yield Check("maps: ties and near ties", ties)
    for df1, df2 in ((1, 10), (3, 140), (8, 20), (70, 75)):
        yield Check(f"z of F({df1}, {df2})", partial(z_of_f, df1, df2))
    for curve in (False, True):
        name = f"iron and myelin, R1 {'from another field' if curve else 'as it is'}"
        yield Check(name, partial(iron_and_myelin, curve, False))
        yield Check(f"{name}, means", partial(iron_and_myelin, curve, True), tolerance=1e-9)
    for mm, sigma in ((lab.sizes.coarse_mm, 5.0), (lab.sizes.mm, 5.0), (lab.sizes.mm, 1.7)):
        maps = partial(smoothed_maps, lab.grid(mm), sigma, lab.sizes.maps)
        yield Check(f"smoothing in the mask, {mm:g} mm, sigma {sigma:g} mm", maps)


def counts_and_sums(kind: str, device: Device | None) -> dict:
    """Extremes, counts below, what approximations of p gather, sums, normalised maps."""
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=(13, 5000)) * 50) * (rng.random((13, 5000)) < 0.7)
    values = (values if kind == "int64" else values / 7).astype(kind) * (1 << 30 if kind == "int64" else 1)
    maps = there(device, values)
    found: dict[str, Any] = {"extremes": primitives.extremes(maps, device)}
    found["gathered"] = gathered(maps, device)
    found["below"] = primitives.count_below(maps, values[:1].copy(), kind != "float32", device)
    if kind != "float32":
        local_mean = np.abs(rng.normal(size=(2, 5000))) * (rng.random((2, 5000)) < 0.9)
        found["sums"] = primitives.sum_up(maps, 4 if kind == "int64" else 0, 2.0**-20, device)
        found["normalised"] = host(device, primitives.normalise(maps, (0.5, 0.25), local_mean, device))
    return found


def gathered(maps: Any, device: Device | None) -> list[NDArray]:
    """Sums of powers of values, the first that are large, and some of them."""
    n_maps, n_voxels = maps.shape
    shown = gathering.Shown(lambda values: np.maximum(values, 0).astype(np.float64), True, False, (1.0, 1.0))
    outcomes, numbers = Outcomes(device), range(n_maps)
    promised = (
        gathering.power_sums(maps, shown, 64.0, 2.0**40, outcomes),
        gathering.first_reached(maps, shown, np.full(n_voxels, 3.0), numbers, n_maps, 2, outcomes),
        gathering.values_at(maps, shown, np.arange(0, n_voxels, 7, dtype=np.int32), outcomes),
    )
    outcomes.collect()
    return [promise.value for promise in promised]


def ties(device: Device | None) -> dict:
    """Maps that equal the observed one, its negative, or neither; lists in the order of maps and voxels."""
    rng = np.random.default_rng(4)
    observed = (np.round(rng.normal(size=5000) * 4) / 4).astype(np.float32)
    rounding = (1 + 3e-6 * rng.normal(size=5000)).astype(np.float32)
    noise = (np.round(rng.normal(size=(9, 5000)) * 4) / 4).astype(np.float32)
    values = np.stack([observed, -observed, observed * rounding, -observed * rounding, *noise])
    values[-1, 17] += np.float32(1)
    maps = there(device, values)
    found: dict[str, Any] = {}
    if device is None:
        found["everywhere"] = primitives.ties_everywhere(maps, observed)
    else:
        found["everywhere"] = device.download(primitives.ties_on(device, maps, observed)).astype(bool)
    for row, sign in enumerate((1, -1)):
        maxima = primitives.extremes(values)[row]
        found[f"maximum {sign}"] = in_order(
            primitives.close_to_maximum(maps, 1, sign, maxima)
            if device is None
            else find(device, maps, primitives.close_search(device.upload(np.stack([maxima, maxima])), 1 << row))
        )
    found["near"] = in_order(
        primitives.near_ties(maps, 1, observed)
        if device is None
        else find(device, maps, primitives.ties_search(device, observed))
    )
    return found


def find(device: Device, maps: Any, search: primitives.Search) -> primitives.Items:
    """What is looked for in maps on a device from the second one on, on the host."""

    def work(outcomes: Outcomes) -> list[Promise[primitives.Items]]:
        return [
            outcomes.promise(
                lambda count, *lists: primitives.Items(*(values[: count[0]] for values in lists)),
                items.count, items.map, items.voxel, items.value,
            )
            for items in primitives.listed(maps, 1, search, outcomes)
        ]  # fmt: skip

    parts = [promise.value for promise in settled(device, work)]
    return primitives.Items(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("map", "voxel", "value"))
    )


def in_order(items: primitives.Items) -> list[NDArray]:
    """A list by map and voxel; devices list in any order."""
    order = np.lexsort((items.voxel, items.map))
    return [items.map[order], items.voxel[order], items.value[order]]


def z_of_f(df1: int, df2: int, device: Device | None) -> NDArray:
    """F over all magnitudes."""
    rng = np.random.default_rng(df1)
    f = np.concatenate([10.0 ** rng.uniform(-6, 18, 20_000), rng.uniform(0, 40, 20_000), [0, -1, -np.inf, np.inf]])
    return host(device, f_to_z(there(device, f.astype(np.float32)[None]), df1, df2, device))


def iron_and_myelin(curve: bool, means: bool, device: Device | None) -> dict:
    """Susceptibility and R1 with background; sums of a mask are added up in another order on a device."""
    rng = np.random.default_rng(2)
    qsm, r1 = (rng.normal(size=50_000).astype(np.float32) for _ in range(2))
    qsm[5], r1[6], r1[7] = np.nan, np.nan, 0
    jacobian = rng.uniform(0.5, 2, len(qsm)).astype(np.float32)
    mask = (rng.random(len(qsm)) < 0.3).astype(np.uint8)
    held = [there(device, values) for values in (qsm, r1, jacobian, mask)]
    inversion = Inversion(
        TissueModel((3.0, -1.0, 0.2), (0.5, 2.0, 0.1)), FieldConversion(3, 7, "curve") if curve else None
    )
    if means:
        return {"means": inversion.means(held[0], held[1], held[3], device)}
    return {
        "concentrations": host(device, inversion.invert(*held[:2], (3.0, 0.1), None, device)),
        "contents": host(device, inversion.invert(*held[:2], (3.0, 0.1), held[2], device)),
    }


def smoothed_maps(grid: Grid, sigma: float, n_maps: int, device: Device | None) -> NDArray:
    """Maps of one sign, of widely different size."""
    maps = np.exp(np.random.default_rng(5).normal(size=(n_maps, grid.n_voxels)) * 3).astype(np.float32)
    smoother = MaskedGaussian(grid, sigma)
    return smoother(maps) if device is None else device.download(smoother.on_device(device.upload(maps), device))
