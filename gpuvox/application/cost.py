"""Estimates of the time and memory of an analysis, from running a small part of it on this machine.

For every permutation, a test costs products of n participants with V voxels, and operations on a map of V voxels
(maxima, clusters, TFCE). The latter are measured with the engine itself: on the grid, with the statistics and threads
of the run, but with so few participants that it takes about a second. The products are linear in the voxels, and are
measured with all participants at a few voxels. The memory of the small analysis is measured; the memory of the other
participants is known.

The small analysis uses noise that is as smooth as the first volumes of the cohort, because the time of enhancement
depends on smoothness. A device is measured in the same way.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from gpuvox import glm, variance_groups, voxelwise_evs
from gpuvox.analysis import Analysis, PreparedTest, make_model, prepare_test
from gpuvox.distributed.launch import ClusterSize
from gpuvox.errors import InputError
from gpuvox.executors import ranges
from gpuvox.grid import Grid
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest
from gpuvox.runtime.limits import available_bytes, threads_for
from gpuvox.runtime.pool import Pool
from gpuvox.scratch import as_tiles
from gpuvox.statistics import StatisticModel, Statistics
from gpuvox.streaming import measure_rate
from gpuvox.tally import Tally, share
from gpuvox.team import DEVICE_THREADS
from gpuvox.types import Float32, Shuffles

WHOLE = 8 << 20
"""Numbers (participants × voxels) up to which the small analysis has all participants."""
SUBJECTS = 24
"""Participants of the small analysis otherwise, in addition to the number of columns of the design."""
ROUNDS = 3
"""Smallest number of repeats of each measurement; the median is used, because the machine may be shared."""
SECONDS = 0.4
"""Shortest duration of a measurement, in seconds."""


@dataclass(frozen=True)
class Cost:
    """The cost of a test.

    Attributes
    ----------
    setup : float
        Seconds for the model and the unpermuted map.
    each : float
        Seconds per permutation, with all threads at work.
    memory : int
        Bytes of the whole process at the peak; with a scratch folder, of its anonymous memory.
    sending : Sending or None
        How data that are larger than the device are sent.
    """

    setup: float
    each: float
    memory: int
    sending: Sending | None = None


@dataclass(frozen=True)
class Sending:
    """Data that do not stay on the device: sent for every batch of permutations while others are computed.

    Attributes
    ----------
    n_bytes : int
        Of the data that are sent.
    n_slabs : int
        Slabs of voxels; two of them stay from one batch to the next.
    batch : int
        Permutations.
    rate : float
        Bytes per second, measured.
    """

    n_bytes: int
    n_slabs: int
    batch: int
    rate: float

    @property
    def each(self) -> float:
        """Seconds per permutation."""
        return self.n_bytes * (self.n_slabs - 2) / self.n_slabs / self.rate / self.batch


def find_sending(analysis: Analysis, prepared: PreparedTest, batch: int) -> Sending | None:
    """How the data of a test are sent to the device; None if they stay there."""
    inputs, device = analysis.inputs, analysis.options.device
    if device is None or analysis.options.missing_voxels:
        return None
    n, n_voxels, n_evs = len(inputs.design), inputs.grid.n_voxels, len(inputs.evs)
    rows, free = n * (1 + n_evs), device.free_bytes()
    if n_evs:
        columns = prepared.design.rank_effect + prepared.design.rank_nuisance + 1
        width = voxelwise_evs.slab_width(free, n, rows, columns, n_voxels)
    elif analysis.options.variance_groups:
        width = variance_groups.slab_width(free, n, n_voxels)
    else:
        width = glm.slab_width(free, n, n_voxels)
    if width >= n_voxels:
        return None
    return Sending(4 * rows * n_voxels, -(-n_voxels // width), batch, measure_rate(device, rows))


DASK_SECONDS = 0.5
"""Additional seconds of a test if workers read or receive its data and build its model (docs/scaling.md)."""
DASK_BYTES = 30 << 20
"""Memory of a Dask worker apart from the test."""


def on_cluster(cost: Cost, threads: int, crew: ClusterSize) -> Cost:
    """The cost of a test on Dask workers.

    Parameters
    ----------
    cost : Cost
        As measured here with `threads` threads, as many as a worker has.
    threads : int
    crew : ClusterSize
        Its threads are assumed to be as fast as those here.

    Returns
    -------
    Cost
        Its memory is that of one worker.
    """
    setup = 2 * cost.setup + DASK_SECONDS  # the client's, then the workers', in parallel
    return Cost(setup, cost.each * threads / max(crew.threads, 1), cost.memory + DASK_BYTES)


def data_bytes(n: int, n_voxels: int, n_evs: int) -> int:
    """Bytes of data and residuals, or of data and twice the voxelwise EVs, in memory or scratch."""
    return 4 * n * n_voxels * (1 + 2 * n_evs if n_evs else 2)


def check_memory(n: int, n_voxels: int, n_evs: int, scratch: str) -> None:
    """Refuse data that cannot fit in memory before they are read.

    Raises
    ------
    InputError
        The data do not fit; the message recommends a scratch folder.
    """
    needed, free = data_bytes(n, n_voxels, n_evs), available_bytes()
    if not scratch and free is not None and needed > free:
        raise InputError(
            f"{n} volumes of {n_voxels:,} voxels take {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB "
            "are free; --scratch DIR (scratch= from Python) keeps them in a file instead"
        )


def guess_seconds(analysis: Analysis, n_voxels: int) -> float:
    """Rough seconds of all permutations of all tests on one core, without measuring, which would outlast many runs."""
    n = len(analysis.inputs.design)
    return sum(
        prepared.shuffler.n
        * _seconds_per_map(n, n_voxels, prepared.design.rank_nuisance, analysis.statistics_for(prepared))
        for prepared in analysis.tests
    )


def _seconds_per_map(n: int, n_voxels: int, rank_nuisance: int, statistics: Statistics) -> float:
    """Rough cost on one core of 2020: products at 12 G fused operations a second, enhancement by the voxel."""
    cost = n * (1 + rank_nuisance) * n_voxels / 12e9
    if statistics.tfce is not None:
        cost += n_voxels * (3e-8 if statistics.tfce.connectivity == 6 else 6e-8)
    if statistics.extent is not None or statistics.mass is not None:
        cost += n_voxels * 4e-9
    return cost * (2 if statistics.two_pass or statistics.uncorrected else 1)


def cost_of_test(
    analysis: Analysis, prepared: PreparedTest, signs: int = 1, shard: tuple[int, int] | None = None
) -> Cost:
    """What a test will cost.

    Parameters
    ----------
    analysis : Analysis
        The analysis of the run, but with the first few volumes as data, and any values for voxelwise EVs.
    prepared : PreparedTest
        One of its tests.
    signs : {1, 2}
        2: with its negative.
    shard : (int, int), optional
        Number of the shard, and of shards.

    Returns
    -------
    Cost
    """
    inputs, options = analysis.inputs, analysis.options
    n, n_voxels, n_evs = len(inputs.design), inputs.grid.n_voxels, len(inputs.evs)
    threads = DEVICE_THREADS if options.device else threads_for(options.threads)
    few, one = _few(analysis, prepared)
    n_few = len(few.inputs.design)
    try:
        with threadpool_limits(1):
            setup, each, peak, step = _measure_small(few, one, signs, threads, shard or (1, 1))
            at_few = at_all = (0.0, 0.0)
            if n_few < n:  # otherwise the small analysis has all participants
                at_few = seconds_of_products(few, one, threads, step)
                at_all = seconds_of_products(analysis, prepared, threads, step)
            sending = find_sending(analysis, prepared, step)
    finally:
        if options.device:
            options.device.forget()
    each = max(each + n_voxels * (at_all[1] - at_few[1]), 0.1 * each)
    sent = 0 if options.scratch else data_bytes(n, n_voxels, n_evs) - data_bytes(n_few, n_voxels, n_evs)
    held = inputs.data.nbytes if isinstance(inputs.data, np.ndarray) else 0
    # Permuted regressors: float64 twice, float32.
    rows = 20 * (n - n_few) * threads * step * inputs.design.shape[1]
    return Cost(
        setup + n_voxels * (at_all[0] - at_few[0]),
        max(each, sending.each) if sending else each,
        peak + sent + rows - held,
        sending,
    )


def _few(analysis: Analysis, prepared: PreparedTest) -> tuple[Analysis, PreparedTest]:
    """The analysis with noise as data, and with fewer participants (and so another design) if there are many."""
    inputs, options = analysis.inputs, analysis.options
    assert isinstance(inputs.data, np.ndarray)
    n, columns = inputs.design.shape
    n_few = n if n * inputs.grid.n_voxels <= WHOLE else min(n, SUBJECTS + columns)
    evs = {column: _noise(inputs.data, n_few, 2 + abs(column)) for column in inputs.evs}
    for column in evs:
        if column < 0:
            evs[column] *= 0  # no participant is excluded
    noise = _noise(inputs.data, n_few, 1)
    data = as_tiles(noise, options.scratch) if options.scratch else noise
    small = replace(inputs, data=data, evs=evs)
    if n_few == n:
        return replace(analysis, inputs=small), prepared
    rank = int(np.linalg.matrix_rank(prepared.test.contrast))
    design = np.random.default_rng(0).normal(size=(n_few, columns))
    design[:, -1] = 1 if columns > rank else design[:, -1]
    shuffler = prepared.shuffler
    options = replace(
        options, permutations=None, n_permutations=shuffler.n, flip=shuffler.flips and not shuffler.permutes,
        whole_blocks=False,
        detect_null=False,
    )  # fmt: skip
    test = replace(prepared.test, contrast=np.eye(rank, columns))
    small = replace(small, design=design, blocks=None, effective_design=None)
    one = prepare_test(small, options, test)
    return Analysis(small, options, (one,)), one


def _noise(volumes: Float32, n: int, seed: int) -> Float32:
    """(n, V) Noise as smooth as the volumes (m, V) after removing their mean; white noise if there are too few."""
    rng = np.random.default_rng(seed)
    if len(volumes) < 4:
        return rng.standard_normal((n, volumes.shape[1]), dtype=np.float32)
    mean = volumes.mean(axis=0)
    noise = np.zeros((n, volumes.shape[1]), dtype=np.float32)
    for volume in volumes:
        noise += rng.standard_normal((n, 1), dtype=np.float32) * (volume - mean)
    return noise


def _measure_small(
    small: Analysis, prepared: PreparedTest, signs: int, threads: int, shard: tuple[int, int]
) -> tuple[float, float, int, int]:
    """Seconds of setup and per permutation, bytes at the peak, and permutations per batch, of a small analysis."""
    grid, statistics, shuffler = small.inputs.grid, small.statistics_for(prepared), prepared.shuffler
    start = time.perf_counter()
    PermutationTest(make_model(small, prepared), grid, shuffler, statistics, signs).observe().run(0, 1)
    setup = time.perf_counter() - start  # loads the compiled loops, as in a run
    with _watched(bool(small.options.scratch)) as peak:
        observed = PermutationTest(make_model(small, prepared), grid, shuffler, statistics, signs).observe()
        here, beyond = share(observed.n, *shard)
        part_of_run = Tally(observed.n, here, max(beyond, here + 1))
        first, *others = islice(ranges(observed, threads, part_of_run), threads + 1)
        parts = others or [first]  # the first includes the unpermuted map, which takes longer
        observed, each, tally = _run(observed, parts, threads)
        if observed.test.statistics.normalised:
            tally.done[:] = True  # the time of the second pass does not depend on the values
            each += _run(observed.second_pass(tally), parts, threads)[1]
    return setup, each, peak[0], parts[0][1] - parts[0][0]


def _run(
    observed: ObservedTest, parts: Sequence[tuple[int, int]], threads: int
) -> tuple[ObservedTest, float, Tally]:
    """Run ranges of permutations in parallel; returns wall seconds per permutation."""
    rounds: list[float] = []
    while len(rounds) < ROUNDS or sum(rounds) < SECONDS:
        tally, start = Tally(observed.n), time.perf_counter()
        try:
            with Pool(threads) as pool:
                for result in pool.map(observed.run, *zip(*parts)):
                    tally.add(result)
            rounds.append(time.perf_counter() - start)
        except LevelOverflow as overflow:
            observed = observed.test.with_cap(overflow.needed).observe()
            rounds = []
    return observed, median(rounds) / sum(stop - first for first, stop in parts), tally


def seconds_of_products(
    analysis: Analysis, prepared: PreparedTest, threads: int, step: int
) -> tuple[float, float]:
    """Seconds per voxel for the model and its unpermuted map, and per voxel and permutation for its maps.

    Measured at a few voxels with all participants, whose data are replaced by noise.
    """
    inputs, shuffler = analysis.inputs, prepared.shuffler
    n = len(inputs.design)
    n_voxels = max(256, min(inputs.grid.n_voxels, WHOLE // 2 // max(n, 1)) // 256 * 256)
    rng = np.random.default_rng(3)
    data, *evs = (rng.standard_normal((n, n_voxels), dtype=np.float32) for _ in range(1 + len(inputs.evs)))
    evs = [values * (column >= 0) for column, values in zip(inputs.evs, evs)]
    part = replace(
        inputs, data=data, evs=dict(zip(inputs.evs, evs)), grid=Grid(np.ones((n_voxels, 1, 1), dtype=bool))
    )
    shuffles = shuffler.shuffles(min(1, shuffler.n - 1), min(1 + step, shuffler.n))
    start = time.perf_counter()
    model = make_model(Analysis(part, replace(analysis.options, scratch=""), (prepared,)), prepared)
    model.exact_map(shuffles[0])
    setup = (time.perf_counter() - start) / n_voxels
    each = _seconds_of_maps(model, shuffles, threads)
    model.release()
    return setup, each / (len(shuffles) * n_voxels)


def _seconds_of_maps(model: StatisticModel, shuffles: Shuffles, threads: int) -> float:
    """Wall seconds of a batch with all threads."""
    lock = threading.Lock() if model.device is None else model.device.lock

    def maps(_: int) -> None:
        if model.device is None:
            model.statistic_maps(shuffles)
            return
        with lock:
            batch = model.statistic_maps(shuffles)
            model.device.download(model.device.rows(batch, 0, 1))

    with Pool(threads) as pool:
        maps(0)
        rounds: list[float] = []
        while len(rounds) < ROUNDS or sum(rounds) < SECONDS:
            start = time.perf_counter()
            list(pool.map(maps, range(threads)))
            rounds.append(time.perf_counter() - start)
    return median(rounds) / threads


@contextmanager
def _watched(anonymous: bool) -> Iterator[list[int]]:
    """Context that measures the peak memory of this process, total or anonymous; 0 if the system does not report it."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], memory_of_process(anonymous))

    with Pool(1) as pool:
        if pool.threads:
            pool.submit(watch)
        try:
            yield peak
        finally:
            peak[0] = max(peak[0], memory_of_process(anonymous))
            done.set()


def memory_of_process(anonymous: bool) -> int:
    """Bytes of this process that are in memory, or only the anonymous ones."""
    try:
        words = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    pages = int(words[1]) - (int(words[2]) if anonymous else 0)
    return pages * os.sysconf("SC_PAGESIZE")
