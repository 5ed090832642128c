"""Memory stays flat: many blocks in this process, on a worker, and many tests one after the other.

    GPUVOX_SOAK=7200 python -m pytest tests/test_soak.py -s

runs each for so many seconds in place of a few, and prints the resident memory as it goes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpuvox import analysis
from gpuvox.analysis import Inputs, Options, analyse, make_model, prepare, prepare_test
from gpuvox.executors import fold
from gpuvox.grid import Grid
from gpuvox.permtest import PermutationTest
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce

SECONDS = float(os.environ.get("GPUVOX_SOAK", "2"))
LIMIT = 12 << 20
"""Bytes that may be added after the first quarter; a map of the tests is 32 KiB, a block's 4 MiB and more."""


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watch(work: Callable[[], object], memory: Callable[[], int] = resident, seconds: float = SECONDS) -> int:
    """Repeat work for the time that is set, 8 times at least; bytes by which memory grew since the first quarter."""
    start = shown = time.monotonic()
    peaks, rounds = [0, 0], 0
    while (elapsed := time.monotonic() - start) < seconds or rounds < 8:
        work()
        rounds += 1
        late = elapsed > seconds / 4 and rounds > 3
        peaks[late] = max(peaks[late], memory())
        if time.monotonic() - shown > 60:
            shown = time.monotonic()
            print(f"{elapsed:8.0f} s, {rounds} rounds: {memory() / 2**20:.1f} MiB")
    print(f"{rounds} rounds: {peaks[0] / 2**20:.1f} MiB at first, {peaks[1] / 2**20:.1f} MiB after")
    return peaks[1] - peaks[0]


def inputs() -> Inputs:
    rng, n = np.random.default_rng(0), 16
    grid = Grid(np.ones((20, 20, 20), dtype=bool))
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    group = (np.arange(n) < n // 2).astype(float)
    design = np.c_[group, 1 - group, rng.normal(size=n)]
    return Inputs(data, grid, design, np.array([[1.0, -1, 0], [0, 0, 1]]), np.zeros((0, 2)))


WANTED = Statistics(tfce=Tfce(), extent=2.0, mass=2.0, uncorrected=True)
OPTIONS = Options(statistics=WANTED, n_permutations=64, seed=1, threads=2)


@pytest.fixture(autouse=True)
def _only_where_it_can_be_read():
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("resident memory is read from /proc")


def test_blocks_of_one_test():
    given = inputs()
    test = analysis.Test("tstat1", given.contrasts[:1], False)
    prepared = prepare_test(given, OPTIONS, test)
    model = make_model(analysis.Analysis(given, OPTIONS, (prepared,)), prepared)
    observed = PermutationTest(model, given.grid, prepared.shuffler, WANTED).observe()
    assert watch(lambda: fold(observed, 2)) < LIMIT


def test_tests_one_after_the_other():
    """Models, enhancers and grids are made anew, and let go."""
    given = inputs()

    def work() -> None:
        for _ in analyse(prepare(Inputs(given.data.copy(), Grid(given.grid.mask), *_rest(given)), OPTIONS)):
            pass

    assert watch(work) < LIMIT


def _rest(given: Inputs) -> tuple:
    return given.design, given.contrasts, given.f_tests


@pytest.mark.long
def test_tests_on_a_worker():
    pytest.importorskip("distributed", reason="Dask is not installed (gpuvox[distributed])")
    from dataclasses import replace

    from gpuvox.distributed.client import DaskWorkers
    from gpuvox.distributed.launch import DaskCluster, open_client

    given = inputs()
    with open_client(DaskCluster(n_workers=1)) as client:

        def work() -> None:
            workers = DaskWorkers(client)
            for _ in analyse(prepare(given, replace(OPTIONS, workers=workers))):
                pass

        work()
        assert watch(work, lambda: max(client.run(resident).values())) < LIMIT
        assert watch(work) < LIMIT


def test_a_leak_is_found():
    """The bound is one that a block left behind each round exceeds."""
    kept = []
    assert watch(lambda: kept.append(np.ones(40 << 20, dtype=np.uint8)), seconds=0) > LIMIT
