"""Launches of the kernels by trial: each gives the same maxima as the default, and the fastest is written to a file."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.device.lab import Lab, say
from bench.device.studies import levelled, make_test
from bench.device.timings import batch_of_maps, tfce_of
from gpuvox.device import Device
from gpuvox.permtest import ObservedTest
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from gpuvox.tuning import DEFAULTS, Launch, Tuning
from gpuvox.tuning import WAVES as WAVES_OF_A_RUN

GAIN = 0.97
"""A launch wins if it takes less than this part of the default's time, measured again by turns."""
TURNS = 5
THREADS, RESIDENT, SHARED = (256, 384, 512, 768, 1024), (2, 3, 4, 5, 6), (1.0, 0.75, 0.5, 0.25)
WAVES = (1, 2, 4)
MOST_THREADS = 2048
"""Threads that a multiprocessor holds."""

BOUNDS = r"KERNEL_FOR\((\d+), \d+\)"
SUBSTITUTIONS: Mapping[str, tuple[str, str, str]] = {
    "glm_maps, three resident blocks": ("glm_maps<false>", BOUNDS, r"KERNEL_FOR(\1, 3)"),
    "glm_exact, four resident blocks": ("glm_exact", BOUNDS, r"KERNEL_FOR(\1, 4)"),
}
"""Trials by a change of the source: name → kernel, pattern, and what replaces it; measured, but written to no file."""


def tune(lab: Lab) -> None:
    """All trials, and the file of the winners."""
    kernels: dict[str, Launch] = {}
    for connectivity in (6, 26):
        kernels |= tune_peaks(lab, connectivity)
    kernels |= tune_exact(lab)
    found = Tuning(kernels, tune_waves(lab, Tuning(kernels)))
    for name in SUBSTITUTIONS:
        if lab.allows(f"tuning: {name}", 3):
            try_substitution(lab, name)
    text = found.as_toml()
    lab.report.facts["tuning"] = text
    if text and lab.out is not None:
        lab.out.mkdir(parents=True, exist_ok=True)
        (lab.out / f"{lab.machine.architecture()}.toml").write_text(text)


def tune_peaks(lab: Lab, connectivity: int) -> dict[str, Launch]:
    """Threads, resident blocks and shared memory of tfce_peaks."""
    kernel = f"tfce_peaks<{connectivity}, false>"
    # As many maps as a batch of a run has: whole waves for most numbers of resident blocks.
    observed, maps = batch_of_maps(lab, 3.5, 6 * WAVES_OF_A_RUN * lab.device.n_processors)
    values = lab.device.download(maps)
    observed.test.model.release()
    make = tfce_of(observed, connectivity)

    def prepare(device: Device) -> Callable[[], NDArray]:
        here, there = make.on(device), device.upload(values)
        return lambda: here.maxima(there)

    default = DEFAULTS[kernel]
    wide = [
        Launch(threads, resident)
        for threads, resident in product(THREADS, RESIDENT)
        if threads * resident <= MOST_THREADS and Launch(threads, resident) != default
    ]
    return best_launch(lab, kernel, prepare, wide, shared=SHARED[1:])


def tune_exact(lab: Lab) -> dict[str, Launch]:
    """Resident blocks of glm_exact: fewer keep its scratch in the cache."""
    test = make_test(lab, lab.device, lab.sizes.mm, lab.sizes.n, 4 * lab.sizes.batch, Statistics())
    shuffles = test.shuffler.shuffles(1, 1 + lab.sizes.batch)
    rng = np.random.default_rng(0)
    n_items = 180 * len(shuffles)
    number, voxel = rng.integers(0, len(shuffles), n_items), rng.integers(0, test.model.n_voxels, n_items)

    def prepare(device: Device) -> Callable[[], NDArray]:
        model = test.model.on(device)
        return lambda: model.exact(shuffles, number, voxel)

    launches = [replace(DEFAULTS["glm_exact"], resident=resident) for resident in (1, 2, 3, 6, 8)]
    return best_launch(lab, "glm_exact", prepare, launches)


def best_launch(
    lab: Lab,
    kernel: str,
    prepare: Callable[[Device], Callable[[], NDArray]],
    launches: list[Launch],
    shared: tuple[float, ...] = (),
) -> dict[str, Launch]:
    """The fastest launch of a kernel, if it beats the default; empty otherwise.

    `prepare`: device → the work to be timed, whose results must not change. `shared`: tried with the best of the rest.
    """
    default = DEFAULTS[kernel]
    trial = Trial(lab, kernel, prepare)
    times = {default: trial.ms(default)}
    for launch in trial.affordable(launches):
        times[launch] = trial.ms(launch)
    best = min(times, key=lambda launch: times[launch])
    for launch in trial.affordable([replace(best, shared=part) for part in shared]):
        times[launch] = trial.ms(launch)
    best = min(times, key=lambda launch: times[launch])
    if best == default:
        return {}
    ratio = trial.ratio(best, default)
    lab.report.tuning.append({"kernel": kernel, "best": best.__dict__, "times_the_default": ratio})
    say(f"   {kernel}: {best} takes {ratio:.2f} of the default's time")
    return {kernel: best} if ratio < GAIN else {}


class Trial:
    """Launches of one kernel, each compared with the default's results."""

    def __init__(self, lab: Lab, kernel: str, prepare: Callable[[Device], Callable[[], NDArray]]) -> None:
        self.lab, self.kernel, self._prepare = lab, kernel, prepare
        self._expected: Any = None

    def affordable(self, launches: list[Launch]) -> Iterator[Launch]:
        """Launches as long as there is time."""
        for launch in launches:
            if not self.lab.allows(f"tuning: {self.kernel} as {launch}", 3):
                return
            yield launch

    def work(self, launch: Launch) -> Callable[[], NDArray]:
        """The work on a device with this launch."""
        tuned = Tuning({} if launch == DEFAULTS[self.kernel] else {self.kernel: launch})
        return self._prepare(self.lab.machine.tuned(tuned))

    def ms(self, launch: Launch) -> float:
        """Milliseconds with this launch; infinite if it cannot be launched, or gives other results."""
        entry: dict[str, Any] = {"kernel": self.kernel, **launch.__dict__}
        self.lab.report.tuning.append(entry)
        try:
            work = self.work(launch)
            results = np.asarray(work())
        except Exception as error:
            entry["refused"] = str(error)[:300]
            return np.inf
        if self._expected is None:
            self._expected = results
        name = f"tuning: {self.kernel} as {launch}"
        same = np.array_equal(results, self._expected)
        self.lab.report.checks.append({"name": name, "verdict": "same bits" if same else "failed"})
        times = [self.lab.machine.timed(work) for _ in range(3)]
        entry["ms"] = float(np.median(times))
        del work
        gc.collect()  # the memory of this device is needed by the next
        self.lab.write()
        return entry["ms"] if same else np.inf

    def ratio(self, launch: Launch, default: Launch) -> float:
        """Time with this launch over the default's, measured by turns."""
        mine, other = self.work(launch), self.work(default)
        mine(), other()
        turns = [(self.lab.machine.timed(mine), self.lab.machine.timed(other)) for _ in range(TURNS)]
        return float(np.median([a for a, _ in turns]) / np.median([b for _, b in turns]))


def tune_waves(lab: Lab, tuned: Tuning) -> int:
    """Waves of blocks in a batch."""
    statistics, times = Statistics(False, Tfce()), dict[int, float]()
    for waves in WAVES:
        if not lab.allows(f"tuning: {waves} waves", 5):
            break
        device = lab.machine.tuned(replace(tuned, waves=waves))
        test = make_test(lab, device, lab.sizes.mm, lab.sizes.n, lab.sizes.permutations, statistics)
        part = 1, 1 + min(6 * device.n_processors * waves, test.shuffler.n - 1)

        def run(observed: ObservedTest, part: tuple[int, int] = part) -> Any:
            return observed.run(*part)

        observed = levelled(test, run)
        times[waves] = min(lab.machine.timed(partial(run, observed)) for _ in range(3)) / (part[1] - part[0])
        lab.report.tuning.append({"waves": waves, "us_per_map": 1e3 * times[waves]})
        test.model.release()
        device.forget()
    if not times:
        return Tuning().waves
    best = min(times, key=lambda waves: times[waves])
    usual = times.get(Tuning().waves, np.inf)
    return best if times[best] < GAIN * usual else Tuning().waves


def try_substitution(lab: Lab, name: str) -> None:
    """A change of the source: time over the default's, by turns, and whether the bits are the same."""
    kernel, old, new = SUBSTITUTIONS[name]
    entry: dict[str, Any] = {"substitution": name}
    lab.report.tuning.append(entry)
    try:
        changed = lab.machine.substituted(kernel, old, new)
    except ValueError as error:
        entry["refused"] = str(error)
        return
    test = make_test(lab, lab.device, lab.sizes.mm, lab.sizes.n, 4 * lab.sizes.batch, Statistics())
    shuffles = test.shuffler.shuffles(1, 1 + lab.sizes.batch)
    rng = np.random.default_rng(0)
    items = rng.integers(0, len(shuffles), 9000), rng.integers(0, test.model.n_voxels, 9000)

    def work_on(device: Device) -> Callable[[], NDArray]:
        model = test.model.on(device)
        if kernel == "glm_exact":
            return lambda: model.exact(shuffles, *items)
        return lambda: device.download(model.statistic_maps(shuffles))

    other, mine = work_on(lab.device), work_on(changed)
    same = np.array_equal(other(), mine())
    lab.report.checks.append({"name": f"tuning: {name}", "verdict": "same bits" if same else "failed"})
    turns = [(lab.machine.timed(mine), lab.machine.timed(other)) for _ in range(3)]
    entry["times_the_default"] = float(np.median([a / b for a, b in turns]))
