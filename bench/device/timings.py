"""Timings, each beside the least time that it can take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bench.device.floors import (
    add_work,
    measured,
    note,
    spread,
    wall_ms,
    work_of_maps,
    work_of_t_maps,
    work_of_tfce,
)
from bench.device.lab import Lab, n_threads
from bench.device.studies import design_of, in_bytes, levelled, make_test
from gpuvox.cluster import cluster_maxima
from gpuvox.glm import Glm
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import ObservedTest, PermutationTest
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.statistics.tfce import TfceStatistic
from gpuvox.tfce import Enhancer, Tfce


def time_t_maps(lab: Lab, n: int) -> None:
    """t maps of a batch."""
    grid, (design, contrast) = lab.grid(lab.sizes.mm), design_of(n)
    data = np.random.default_rng(n).standard_normal((n, grid.n_voxels), dtype=np.float32)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(4 * lab.sizes.batch, 1))
    model = Glm(data, partition(design, contrast), shuffler.invariant, device=lab.device)
    shuffles = shuffler.shuffles(1, 1 + lab.sizes.batch)
    time = measured(lab, lambda: model.statistic_maps(shuffles))
    note(lab, f"t maps, n {n}, 3 covariates", len(shuffles), time, work_of_t_maps(model, len(shuffles)))
    model.release()


def batch_of_maps(lab: Lab, fwhm: float, n_maps: int = 0) -> tuple[ObservedTest, Any]:
    """A test, and the t maps of a batch on the device, none of them beyond the test's levels."""
    n, sizes = 40, lab.sizes
    n_maps = n_maps or sizes.batch
    design, contrast = design_of(n)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(4 * n_maps, 1))
    data = lab.data(sizes.mm, n, fwhm)
    model = Glm(data, partition(design, contrast), shuffler.invariant, device=lab.device)
    test = PermutationTest(model, lab.grid(sizes.mm), shuffler, Statistics(True, Tfce()), signs=2)
    maps = model.statistic_maps(shuffler.shuffles(1, 1 + n_maps))
    return levelled(test, lambda observed: tfce_of(observed, 6).maxima(maps)), maps


def tfce_of(observed: ObservedTest, connectivity: int) -> Enhancer:
    """A test's TFCE, with this connectivity."""
    statistic = observed.statistics["tfce"]
    if not isinstance(statistic, TfceStatistic):
        raise ValueError("the test has no TFCE")
    return replace(statistic.enhancer, options=Tfce(connectivity=connectivity))


def time_tfce(lab: Lab, fwhm: float) -> None:
    """Maxima and maps of both signs."""
    observed, maps = batch_of_maps(lab, fwhm)
    n_maps, n_voxels = maps.shape
    for connectivity in (6, 26):
        make, about = tfce_of(observed, connectivity), f"C {connectivity}, FWHM {fwhm:g}, both signs"
        time = measured(lab, partial(make.maxima, maps))
        note(lab, f"TFCE maxima, {about}", n_maps, time, work_of_tfce(n_maps, n_voxels), levels=make.cap)
        time = measured(lab, partial(make.enhance, maps))
        note(lab, f"TFCE at all voxels, {about}", n_maps, time, work_of_tfce(n_maps, n_voxels, True))
    observed.test.model.release()


def time_clusters(lab: Lab) -> None:
    """Largest extent and mass."""
    observed, maps = batch_of_maps(lab, 3.5)
    n_maps, n_voxels = maps.shape
    for connectivity in (6, 26):
        work = partial(cluster_maxima, maps, lab.grid(lab.sizes.mm), 2.3, connectivity, lab.device)
        name = f"cluster maxima, C {connectivity}, threshold 2.3, FWHM 3.5"
        note(lab, name, n_maps, measured(lab, work), work_of_maps(n_maps, n_voxels))
    observed.test.model.release()


def time_inversion(lab: Lab) -> None:
    """Iron and myelin of many voxels: every image read once, every map written once."""
    n = max(1024, lab.sizes.copied // 64)
    rng = np.random.default_rng(0)
    ends = (-0.1, 0.2), (0.3, 2.0), (0.5, 2.0)
    qsm, r1, jacobian = (lab.device.upload(rng.uniform(*each, n).astype(np.float32)) for each in ends)
    mask = lab.device.upload((rng.random(n) < 0.05).astype(np.uint8))
    for method in ("power", "curve"):
        inversion = Inversion(TissueModel.default(), FieldConversion(3, 7, method))
        for content in (False, True):
            work = partial(inversion.invert, qsm, r1, (10.0, 0.1), jacobian if content else None, lab.device)
            name = f"iron and myelin, {method}, {'concentration and content' if content else 'concentration'}"
            moved = {"bytes": n * (28 if content else 16), "operations": 0}
            note(lab, name, 1, measured(lab, work), moved, voxels=n)
    work = partial(inversion.means, qsm, r1, mask, lab.device)
    note(lab, "iron and myelin of CSF", 1, measured(lab, work), {"bytes": 9 * n, "operations": 0}, voxels=n)


def time_whole(lab: Lab, connectivity: int, mm: float, limit: int | None = None, voxel: bool = False) -> None:
    """A whole run of the engine in wall time: observed maps, every batch, all that comes and goes."""
    from gpuvox.executors import run

    sizes = lab.sizes
    number = sizes.permutations if mm == sizes.mm else sizes.fine_permutations
    device = lab.device if limit is None else lab.machine.capped(limit)
    wanted = Statistics(voxel, Tfce(connectivity=connectivity))
    make = partial(make_test, lab, device, mm, sizes.n)
    test = make(number, wanted)
    wall = partial(wall_ms, lab, lambda: run(test))
    few = max(number // 40, 2)
    expected = expected_seconds(lab, number, few, lambda k: run(make(k, wanted)))
    affordable = 0.4 * lab.left()
    if expected > affordable:
        number = max(int(number * affordable / expected), 2)
        test = make(number, wanted)
    times = [wall()]
    while len(times) < 3 and 2 * times[0] / 1e3 < affordable:
        times.append(wall())
    n_voxels, batch = lab.grid(mm).n_voxels, test.observe().batch
    one = add_work(work_of_t_maps(test.model, batch), work_of_tfce(batch, n_voxels))
    work = {key: value * number / batch for key, value in one.items()}
    name = (
        f"whole run, {mm:g} mm ({n_voxels:,} voxels), n {sizes.n}, C {connectivity}, both signs, {in_bytes(limit)}"
        f"{', voxelwise too' if voxel else ''}"
    )
    time = spread(times)
    scaled = time["ms"] * sizes.permutations / number / 1e3
    note(
        lab, name, number, time, work, part="whole", mm=mm, connectivity=connectivity, limit=limit, voxel=voxel,
        permutations=number, batch=batch,
        seconds_for={"permutations": sizes.permutations, "s": scaled, "scaled": number != sizes.permutations},
    )  # fmt: skip
    test.model.release()
    device.forget()


def time_run_by_length(lab: Lab) -> None:
    """Seconds of runs of several lengths: what is fixed, and what each permutation adds."""
    from gpuvox.executors import run

    sizes, statistics = lab.sizes, Statistics(False, Tfce())
    lengths = [max(sizes.permutations // part, 2) for part in (16, 8, 4, 2)]
    tests = [make_test(lab, lab.device, sizes.mm, sizes.n, length, statistics) for length in lengths]
    run(tests[0])
    seconds = [min(wall_ms(lab, partial(run, test)) for _ in range(3)) / 1e3 for test in tests]
    slope, intercept = np.polyfit(lengths, seconds, 1)
    lab.report.facts["run_by_length"] = {
        "permutations": lengths, "seconds": seconds, "fixed_s": float(intercept), "us_each": 1e6 * float(slope),
    }  # fmt: skip


def expected_seconds(lab: Lab, number: int, few: int, run: Callable[[int], Any]) -> float:
    """What a run of `number` will take, from shorter ones; they also warm up."""
    run(few)
    short, longer = (wall_ms(lab, partial(run, k)) for k in (few, 4 * few))
    return (short + max(longer - short, 0.0) * (number - few) / (3 * few)) / 1e3


def time_cpu(lab: Lab, connectivity: int, mm: float) -> None:
    """The same run without the device, all threads, fewer permutations; the ratio to the device's."""
    from gpuvox.executors import run

    sizes, threads = lab.sizes, n_threads()
    wanted = Statistics(False, Tfce(connectivity=connectivity))
    number = sizes.cpu_permutations * threads
    observing, whole = (make_test(lab, None, mm, sizes.n, k, wanted) for k in (threads, number + threads))
    run(observing, threads=threads)
    # What the observed map takes, once in a run, is not charged to the permutations.
    few = min(wall_ms(lab, lambda: run(observing, threads=threads)) for _ in range(3))
    times = [wall_ms(lab, lambda: run(whole, threads=threads)) - few for _ in range(3)]
    time = spread(times)
    name = f"CPU path, {threads} threads, {mm:g} mm, n {sizes.n}, C {connectivity}, both signs"
    key = {"part": "whole", "mm": mm, "connectivity": connectivity, "limit": None, "voxel": False}
    rows = (*lab.before.timings, *lab.report.timings)
    device = next((row["us_per_map"] for row in rows if key.items() <= row.items()), None)
    ratio = 1e3 * time["ms"] / number / device if device else None
    note(lab, name, number, time, {}, threads=threads, permutations=number, times_the_device=ratio)
