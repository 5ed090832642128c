"""What a session measures, in the order of what teaches most; each step runs in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from bench.device.breakdown import break_down
from bench.device.checks.families import FAMILIES, compiled_loops, correctness, first_checks
from bench.device.checks.runs import memory_checks, whole_checks
from bench.device.command import time_command
from bench.device.lab import FULL, FWHMS, Lab
from bench.device.machine import ceilings, compile_kernels, facts, transfers
from bench.device.ncu import profile, workload
from bench.device.phases import time_phases
from bench.device.sanitizer import sanitizer
from bench.device.studies import in_bytes
from bench.device.timings import (
    time_clusters,
    time_cpu,
    time_inversion,
    time_run_by_length,
    time_t_maps,
    time_tfce,
    time_whole,
)
from bench.device.tune import tune


@dataclass(frozen=True)
class Step:
    """A part of a session.

    Attributes
    ----------
    run : callable
        What it does.
    limit : float
        Seconds after which its process is stopped.
    least : float
        Seconds without which it is not begun.
    needs : str
        ``executors`` or ``command`` if it needs what a bare machine may lack, see `lab.Lab`.
    """

    run: Callable[[Lab], None]
    limit: float
    least: float = 10.0
    needs: str = ""


def machine_step(lab: Lab) -> None:
    """Facts, ceilings, transfers."""
    lab.guarded("facts", partial(facts, lab))
    lab.guarded("ceilings", partial(ceilings, lab))
    lab.guarded("transfers", partial(transfers, lab))


def compile_step(lab: Lab) -> None:
    """The kernels; beside them, if the sizes are the usual ones, the CPU's loops, which all checks need."""
    with compiled_loops(lab) if lab.sizes.mm <= FULL.mm else nullcontext():
        lab.guarded("compiling the kernels", partial(compile_kernels, lab))


def whole_step(lab: Lab) -> None:
    """Whole runs, the usual ones first, and where the time of a batch goes."""
    for voxel in (False, True):
        for connectivity in (6, 26):
            about = f"C {connectivity}{', voxelwise too' if voxel else ''}"
            lab.guarded(f"whole, {about}", partial(time_whole, lab, connectivity, lab.sizes.mm, voxel=voxel), 10)
            lab.guarded(
                f"one batch, {about}", partial(break_down, lab, connectivity, lab.sizes.mm, voxel=voxel), 5
            )
    lab.guarded("intercept and slope", partial(time_run_by_length, lab), 5)


def timing_step(lab: Lab) -> None:
    """Single kernels at several sizes."""
    for n in lab.sizes.subjects:
        lab.guarded(f"t maps, n {n}", partial(time_t_maps, lab, n), 10)
    for fwhm in FWHMS:
        lab.guarded(f"TFCE, FWHM {fwhm:g}", partial(time_tfce, lab, fwhm), 12)
    lab.guarded("clusters", partial(time_clusters, lab), 8)
    lab.guarded("iron and myelin", partial(time_inversion, lab), 8)


def cpu_step(lab: Lab) -> None:
    """The CPU path beside the device."""
    for connectivity in (6, 26):
        lab.guarded(f"CPU, C {connectivity}", partial(time_cpu, lab, connectivity, lab.sizes.mm), 20)


def memory_step(lab: Lab) -> None:
    """Whole runs with little memory, and on the fine brain: data are sent for every batch."""
    for limit in lab.sizes.limits[:2]:
        name = f"whole, {in_bytes(limit)}"
        lab.guarded(name, partial(time_whole, lab, 6, lab.sizes.mm, limit), 20)
    for limit in (None, *lab.sizes.limits[:2]):
        name = f"whole, {lab.sizes.fine_mm:g} mm, {in_bytes(limit)}"
        lab.guarded(name, partial(time_whole, lab, 6, lab.sizes.fine_mm, limit), 40)


def checks_step(name: str) -> Step:
    """The checks of one family."""
    return Step(partial(correctness, checks=FAMILIES[name]), 90)


STEPS: Mapping[str, Step] = {
    "machine": Step(machine_step, 60, 0),
    "compile": Step(compile_step, 90, 0),
    "first checks": Step(partial(correctness, checks=first_checks), 120),
    "whole runs": Step(whole_step, 120, 20, "executors"),
    "phases": Step(lambda lab: lab.guarded("phases", partial(time_phases, lab)), 40),
    "ncu": Step(lambda lab: lab.guarded("ncu", partial(profile, lab)), 75, 30),
    "tuning": Step(lambda lab: lab.guarded("tuning", partial(tune, lab)), 120, 20),
    **{f"checks: {name}": checks_step(name) for name in FAMILIES},
    "checks: whole analyses": Step(partial(correctness, checks=whole_checks), 120, 20, "executors"),
    "timings": Step(timing_step, 120, 20),
    "command": Step(lambda lab: lab.guarded("command", partial(time_command, lab), 20), 60, 20, "command"),
    "CPU": Step(cpu_step, 90, 30, "executors"),
    "checks: memory": Step(partial(correctness, checks=memory_checks), 120, 20),
    "little memory": Step(memory_step, 180, 30, "executors"),
    "sanitizer": Step(lambda lab: lab.guarded("compute-sanitizer", partial(sanitizer, lab)), 180, 40),
}
"""All steps, by name, in order; the time of the session decides how far it comes."""

HELPERS: Mapping[str, Callable[[Lab], None]] = {"workload": workload}
"""What other steps start as processes of their own."""
