"""NVIDIA's kernel profiler on four kernels, where it is installed and may be used."""

from __future__ import annotations

import sys
from functools import partial

from bench.device.lab import PROGRAM, Lab, without_paths
from bench.device.sanitizer import nvidia_tool, outcome_of
from bench.device.studies import levelled, make_test
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce

KERNELS = ("glm_maps", "glm_exact", "tfce_peaks", "maps_list_steps")


def profile(lab: Lab) -> None:
    """Launch each kernel once under ncu, and keep what it says."""
    program = nvidia_tool("ncu")
    if not program:
        lab.report.skipped.append("ncu: it is not installed")
        return
    pattern = f"regex:({'|'.join(KERNELS)})"
    command = [program, "--kernel-name", pattern, "--launch-count", "8", "--csv", sys.executable, PROGRAM]
    command += ["--step", "workload", "--seconds", str(lab.left()), *lab.options]
    text, _ = outcome_of(command, max(lab.left(), 1))
    lab.report.facts["ncu"] = [line for line in without_paths(text).split("\n") if line.startswith('"')][:400]
    if not lab.report.facts["ncu"]:
        lab.report.skipped.append(f"ncu: {without_paths(text).strip()[-300:]}")


def workload(lab: Lab) -> None:
    """One batch of permutations with TFCE of either connectivity."""
    for connectivity in (6, 26):
        statistics = Statistics(True, Tfce(connectivity=connectivity))
        test = make_test(lab, lab.device, lab.sizes.mm, lab.sizes.n, 4 * lab.sizes.batch, statistics)
        stop = min(1 + lab.sizes.batch, test.shuffler.n)
        levelled(test, partial(lambda stop, observed: observed.run(1, stop), stop))
