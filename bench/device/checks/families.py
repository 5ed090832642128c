"""Every kernel against the CPU path, bit for bit."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

from bench.device.checks.compare import Check, differences
from bench.device.checks.enhancement import cluster_checks, tfce_checks
from bench.device.checks.methods import method_checks
from bench.device.checks.models import glm_checks, voxelwise_checks
from bench.device.checks.primitives import primitive_checks
from bench.device.lab import PROGRAM, TINY, Lab, describe, say
from gpuvox.device import Device

FAMILIES = {
    "glm": glm_checks, "tfce": tfce_checks, "cluster": cluster_checks, "primitives": primitive_checks,
    "methods": method_checks, "voxelwise": voxelwise_checks,
}  # fmt: skip
"""Checks that share few of the CPU's compiled loops."""


def first_checks(lab: Lab) -> Iterator[Check]:
    """Every kernel, with small sizes, and one map of the brain."""
    small = replace(lab, sizes=replace(TINY, seconds=lab.sizes.seconds))
    for family in FAMILIES.values():
        for check in family(small):
            yield replace(check, name=f"small: {check.name}")
    yield from (check for check in FAMILIES["tfce"](lab) if f"{lab.sizes.mm:g} mm, FWHM 3.5" in check.name)


def correctness(lab: Lab, checks: Callable[[Lab], Iterator[Check]]) -> None:
    """Some checks: CPU, device, comparison."""
    for check in checks(lab):
        kernels: set[str] = set()
        if not lab.allows(check.name, check.seconds):
            continue
        say(f"   {check.name}")
        start = perf_counter()
        try:
            expected = check.results(None)
            middle = perf_counter()
            with noted_kernels(lab.device) as kernels:
                wrong = list(differences(expected, check.results(lab.device), check.tolerance))
        except Exception as error:
            middle, wrong = perf_counter(), [describe(error)]
        verdict = "failed" if wrong else "same bits" if not check.tolerance else f"within {check.tolerance:g}"
        lab.report.checks.append({
            "name": check.name, "verdict": verdict, "differences": wrong[:10],
            "cpu_s": middle - start, "device_s": perf_counter() - middle, "kernels": sorted(kernels),
        })  # fmt: skip
        if wrong:
            say(f"FAILED {check.name}: {wrong[0][-300:]}")
            gc.collect()  # what failed may hold arrays
        lab.device.forget()
        lab.write()


@contextmanager
def noted_kernels(device: Device) -> Iterator[set[str]]:
    """The kernels that are launched."""
    real, names = device.launch, set[str]()

    def launch(kernel: str, *arguments: Any, **more: Any) -> None:
        names.add(kernel)
        real(kernel, *arguments, **more)

    device.launch = launch  # type: ignore[method-assign]
    try:
        yield names
    finally:
        del device.launch  # type: ignore[method-assign]


@contextmanager
def compiled_loops(lab: Lab) -> Iterator[None]:
    """Compile the CPU's loops beside what is done meanwhile, a family to a process; they are kept on disk."""
    start = [sys.executable, PROGRAM, "--compile"]
    running = [subprocess.Popen([*start, family], stdout=subprocess.DEVNULL) for family in FAMILIES]
    try:
        yield
    finally:
        for process in running:
            try:  # what fails there fails again, and is reported, where it is needed
                process.wait(max(lab.left(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def compile_family(family: str) -> None:
    """One of those processes."""
    for check in FAMILIES[family](Lab(None, TINY)):
        check.results(None)
