"""The session: every step in a process of its own with a time limit, and everything on disk after each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from bench.device.lab import PROGRAM, Lab, Report, say
from bench.device.steps import STEPS, Step

MARGIN = 0.85
"""Part of its limit after which a step is to end by itself."""


def run_session(lab: Lab, names: Sequence[str], options: Sequence[str]) -> None:
    """Run steps one after the other, as far as the time goes; see `run_steps`."""
    with tempfile.TemporaryDirectory() as shared:
        run_steps(lab, names, [*options, "--shared", shared])


def run_steps(lab: Lab, names: Sequence[str], options: Sequence[str]) -> None:
    """Run steps in processes of their own.

    Parameters
    ----------
    lab : Lab
        Its report receives what each step found, and is written after each.
    names : sequence of str
        Keys of `STEPS`.
    options : sequence of str
        Further options of the child processes.
    """
    for name in names:
        step, left = STEPS[name], lab.left()
        if step.needs and not getattr(lab, f"has_{step.needs}"):
            lab.report.skipped.append(f"{name}: nibabel, pandas or threadpoolctl is missing")
        elif left < step.least:
            lab.report.left_out.append(name)
        else:
            limit = min(step.limit, max(left, 5.0))
            say(f"== {name} (up to {limit:.0f} s, {left:.0f} s left)")
            lab.report.steps.append({"name": name, **run_child(lab, name, limit, options)})
            say(f"   {lab.report.steps[-1]['outcome']}, {lab.report.steps[-1]['seconds']:.1f} s")
        lab.write()


def run_child(lab: Lab, name: str, limit: float, options: Sequence[str]) -> dict:
    """Run one step in a process, add what it wrote to the report, and say how it ended."""
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.json", Path(folder) / "after.json"
        before.write_text(lab.report.as_json())
        command = [sys.executable, PROGRAM, "--step", name, "--seconds", str(MARGIN * limit)]
        command += ["--before", str(before), "--report", str(after), *options]
        if lab.out is not None:
            command += ["--out", str(lab.out)]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if after.exists():
            lab.report.include(Report(**json.loads(after.read_text())))
    outcome = (
        f"stopped after {limit:.0f} s"
        if status is None
        else "done"
        if status == 0
        else f"ended by signal {-status}"
        if status < 0
        else f"ended with status {status}"
    )
    return {"outcome": outcome, "seconds": perf_counter() - start}


def run_step(lab: Lab, name: str) -> None:
    """Run one step in this process."""
    step: Step = STEPS[name]
    step.run(lab)
    lab.write()
