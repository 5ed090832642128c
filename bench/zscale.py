"""What PALM does in space, by the engine on one core: milliseconds a permutation, by turns in one session.

    python -m bench.zscale [--subjects 40] [--mm 2] [--turns 8]

Two groups and two covariates at 2 mm, 234,852 voxels. A permutation is one t map, its z, and the maxima of TFCE of z
in a hundredth of each map's own maximum; beside it, what `gpuvox randomise -T` does for both signs. PALM under Octave
took 570 ms a permutation for such a study, TFCE with 6 neighbours, and 310 ms without TFCE, on a machine that runs
this engine about twice as fast as the one on which it is developed: ratios to that are no more than estimates.
The times are processor times, so that other processes on the machine disturb them less; minima and medians are shown.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bench.cohort import brain_grid, cohort
from gpuvox.glm import Glm
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from gpuvox.variance_groups import VarianceGroupsGlm


def runs(n: int, mm: float):
    """(name, action for one batch, permutations of the batch)."""
    study = cohort(brain_grid(mm), n)
    shuffler = Shuffler((study.design @ study.contrast)[:, None], Permutations(1000, 1))
    t = Glm(study.data, partition(study.design, study.contrast), shuffler.invariant)
    z, rows = ZScale(t), np.arange(n)
    v, pairs = (VarianceGroupsGlm(t.data, t.model, t.invariant, groups) for groups in (rows < n // 2, rows // 2))
    fsl, palm = Statistics(voxel=False, tfce=Tfce()), Tfce(rule="palm")
    choices = {
        "t, TFCE by FSL's rule, both signs": (t, fsl, 2),
        "z, largest": (z, Statistics(), 1),
        "z, TFCE by PALM's rule": (z, Statistics(tfce=palm), 1),
        "z, TFCE by PALM's rule, both signs": (z, Statistics(tfce=palm), 2),
        "z, TFCE by PALM's rule, uncorrected p": (z, Statistics(tfce=palm, uncorrected=True), 1),
        "z, TFCE by PALM's rule, two tails": (Magnitude(z), Statistics(tfce=palm), 1),
        "z, TFCE by PALM's rule, C 26": (z, Statistics(tfce=Tfce.of_dimension(2)), 1),
        "z, steps of 0.1": (z, Statistics(tfce=Tfce(rule="palm", delta=0.1)), 1),
        "z, extent of clusters": (z, Statistics(extent=2.3), 1),
        "v of two groups, largest z": (v, Statistics(), 1),
        "v of two groups, TFCE by PALM's rule": (v, Statistics(tfce=palm), 1),
        "v of two groups, TFCE by PALM's rule, uncorrected p": (v, Statistics(tfce=palm, uncorrected=True), 1),
    }
    shuffles = shuffler.shuffles(1, 1 + 16)
    yield "t map", lambda: t.statistic_maps(shuffles), 16
    yield "z map", lambda: z.statistic_maps(shuffles), 16
    yield "z map of v, two groups", lambda: v.statistic_maps(shuffles), 16
    yield f"z map of v, {n // 2} groups", lambda: pairs.statistic_maps(shuffles), 16
    for name, (model, choice, signs) in choices.items():
        observed = PermutationTest(model, study.grid, shuffler, choice, signs=signs).observe()
        size = observed.batch
        yield name, lambda run=observed.run, size=size: run(1, 1 + size), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--mm", type=float, default=2.0)
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    actions = list(runs(options.subjects, options.mm))
    times: dict[str, list[float]] = {name: [] for name, _, _ in actions}
    for turn in range(options.turns + 1):
        for name, action, size in actions:
            start = time.process_time()
            action()
            if turn:  # the first compiles
                times[name].append(1e3 * (time.process_time() - start) / size)
    print("| a permutation | minimum, ms | median, ms |\n|---|---|---|")
    for name, each in times.items():
        print(f"| {name} | {min(each):.2f} | {np.median(each):.2f} |")


if __name__ == "__main__":
    main()
