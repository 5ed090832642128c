"""What a permutation costs against subjects, voxels, permutations, workers; a model of sizes beyond this machine.

    python -m bench.scaling            the measured rows and the modelled ones of docs/scaling.md, a few minutes
    python -m bench.scaling --model    the modelled ones alone, from the rates below

A permutation of n subjects, V voxels and m rows (effect and nuisance that moves) costs 2·n·V·m floating-point
operations of products, and what follows on the map, which is proportional to V.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bench.cohort import brain_grid, smooth_noise
from gpuvox.executors import run
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.statistics.tfce import TfceStatistic
from gpuvox.tfce import Tfce

BATCH = 16
GIB = 2.0**30


@dataclass(frozen=True)
class Machine:
    """Rates of one core or one GPU.

    Parameters
    ----------
    flops : float
        Operations a second of the products.
    voxels : float
        Voxels a second of TFCE, both signs.
    feed : float
        Bytes a second at which residuals that its own memory cannot hold reach it; 0: they are in its memory.
    memory : float
        Bytes of its own memory; 0: that of the node.
    """

    flops: float
    voxels: float
    feed: float = 0.0
    memory: float = 0.0


CORE = Machine(flops=45e9, voxels=54e6)
"""A core as measured for docs/scaling.md."""
GPU = Machine(flops=15e12, voxels=1.5e8, feed=20e9, memory=80e9)
"""Assumed, not measured: a data-centre GPU of 80 GB at about a quarter of its peak in float32, on PCIe 5."""


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Shortest of a few times, in seconds: the machine is shared."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def make_test(grid: Grid, n: int, q: int, permutations: int, tfce: bool = True) -> PermutationTest:
    """A two-group test with an intercept and q covariates."""
    rng = np.random.default_rng(1)
    images = smooth_noise(grid, 8, 3.5, 0)
    data = rng.standard_normal((n, 8), dtype=np.float32) @ images
    data += 0.3 * rng.standard_normal((n, grid.n_voxels), dtype=np.float32)
    design = np.c_[np.arange(n) % 2, np.ones(n), rng.normal(size=(n, q))]
    contrast = np.r_[1.0, np.zeros(q + 1)][None]
    shuffler = Shuffler(design @ contrast.T, Permutations(permutations, 1))
    model = Glm(data, partition(design, contrast), shuffler.invariant)
    return PermutationTest(
        model, grid, shuffler, Statistics(voxel=not tfce, tfce=Tfce() if tfce else None), signs=2
    )


def products(n: int, mm: float, q: int) -> tuple[int, float]:
    """Voxels, and seconds a permutation for the t maps on one core."""
    test = make_test(brain_grid(mm), n, q, 1000, tfce=False)
    shuffles = test.shuffler.shuffles(1, 1 + BATCH)
    test.model.statistic_maps(shuffles[:1])
    return test.grid.n_voxels, best(lambda: test.model.statistic_maps(shuffles)) / BATCH


def enhancement(mm: float) -> tuple[int, float]:
    """Voxels, and seconds for the TFCE of a map, both signs, on one core."""
    test = make_test(brain_grid(mm), 24, 0, 1000)
    observed = test.observe()
    maps = test.model.statistic_maps(test.shuffler.shuffles(1, 5))
    statistic = observed.statistics["tfce"]
    assert isinstance(statistic, TfceStatistic)
    enhancer = statistic.enhancer
    enhancer.maxima(maps[:1])
    return test.grid.n_voxels, best(lambda: enhancer.maxima(maps)) / len(maps)


def measured() -> Machine:
    """Print the measured tables; the rates of a core."""
    rates = []
    print("| n | voxels | rows m | ms a permutation | GFLOP/s |\n|---|---|---|---|---|")
    sizes = (
        (50, 2.0, 0),
        (100, 2.0, 0),
        (200, 2.0, 0),
        (400, 2.0, 0),
        (200, 2.0, 2),
        (200, 2.0, 10),
        (800, 4.0, 2),
    )
    for n, mm, q in sizes:
        V, seconds = products(n, mm, q)
        rates.append(2 * n * V * (1 + q) / seconds)
        print(f"| {n} | {V:,} | {1 + q} | {1e3 * seconds:.1f} | {rates[-1] / 1e9:.0f} |", flush=True)
    print("\n| mm | voxels | ms of TFCE a map, both signs | ns a voxel |\n|---|---|---|---|")
    speeds = []
    for mm in (4.0, 3.0, 2.0, 1.0):
        V, seconds = enhancement(mm)
        speeds.append(V / seconds)
        print(f"| {mm:g} | {V:,} | {1e3 * seconds:.1f} | {1e9 * seconds / V:.0f} |", flush=True)
    whole_runs()
    return Machine(float(np.median(rates)), speeds[-1])


def whole_runs() -> None:
    """Print whole tests against permutations, threads and workers."""
    from gpuvox.distributed.client import DaskWorkers
    from gpuvox.distributed.launch import DaskCluster, open_client

    print("\n| permutations | who | s | ms a permutation |\n|---|---|---|---|")

    def row(who: str, permutations: int, work: Callable[[PermutationTest], object]) -> None:
        test = make_test(grid, 50, 1, permutations)
        seconds = best(lambda: work(test), 2)
        print(f"| {permutations} | {who} | {seconds:.1f} | {1e3 * seconds / permutations:.1f} |", flush=True)

    grid = brain_grid(2.0)
    for permutations in (128, 512, 2048):
        row("1 thread", permutations, lambda test: run(test, threads=1))
    row("2 threads", 2048, lambda test: run(test, threads=2))
    for n_workers in (1, 2):
        with open_client(DaskCluster(n_workers=n_workers)) as client:
            workers = DaskWorkers(client)
            for permutations in (128, 2048):
                row(f"Dask, {n_workers} × 1 thread", permutations, partial(run, workers=workers))


def modelled(n: int, V: int, m: int, permutations: int, count: int, machine: Machine, per_range: int) -> str:
    """A row of the modelled table.

    The products and TFCE divide by the number of machines, in whole ranges; residuals that do not fit (they, and the
    data beside them, in half of the memory, as `glm` has it) pass by once for every range.
    """
    rounds = -(-permutations // (per_range * count))
    flops, bytes_ = 2.0 * n * V * m, 4.0 * n * V
    product = flops * per_range / machine.flops
    feed = bytes_ / machine.feed if machine.feed and 2 * bytes_ > machine.memory / 2 else 0.0
    tfce = V * per_range / machine.voxels
    total = rounds * (max(product, feed) + tfce)
    return (
        f"| {n:,} | {V:,} | {2 * bytes_ / GIB:,.0f} | {flops / 1e9:,.0f} | {per_range} | {product * rounds:,.0f} | "
        f"{feed * rounds:,.0f} | {tfce * rounds:,.0f} | {_duration(total)} |"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def print_model(core: Machine) -> None:
    """Print the modelled table."""
    for title, count, machine in (("8 GPUs", 8, GPU), ("1,000 cores", 1000, core)):
        print(
            f"\n{title}, modelled:\n\n| n | voxels | GiB of data and residuals | GFLOP a permutation | "
            "permutations a range | s products | s feeding | s TFCE | in all |\n" + "|---" * 9 + "|"
        )
        for n, V in ((1000, 235_000), (40_000, 235_000), (40_000, 1_900_000)):
            per_range = 132 if machine.feed else 4  # as `distributed.client.ranges` cuts them
            print(modelled(n, V, 11, 10_000, count, machine, per_range))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="store_true")
    if parser.parse_args().model:
        print_model(CORE)
        return
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = {line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")}
    print(f"{', '.join(names) or 'unknown processor'}\n")
    core = measured()
    print(
        f"\nmedian {core.flops / 1e9:.0f} GFLOP/s, {core.voxels / 1e6:.1f} million voxels of TFCE a second at 1 mm"
    )
    print_model(core)


if __name__ == "__main__":
    main()
