"""NVIDIA's compute-sanitizer on the small checks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from time import perf_counter

from bench.device.checks.families import FAMILIES
from bench.device.lab import PROGRAM, Lab, say, without_paths

SMALL_CHECKS = ",".join(f"checks: {name}" for name in FAMILIES)
"""Steps that run under the sanitizer, with small sizes."""


def sanitizer(lab: Lab, seconds: float = 75.0) -> None:
    """memcheck and racecheck on the small checks, each array an allocation of its own.

    Racecheck informs only: words that threads race for on purpose (flags that several set, maxima that several raise)
    are hazards to it too.
    """
    program = nvidia_tool("compute-sanitizer")
    if not program:
        lab.report.skipped.append("compute-sanitizer: it is not installed")
        return
    for tools_left, tool in ((2, "memcheck"), (1, "racecheck")):
        limit = min(seconds, lab.left() / tools_left)
        if not lab.allows(f"compute-sanitizer {tool}", 20):
            continue
        command = [program, "--tool", tool, "--error-exitcode", "99", sys.executable, PROGRAM]
        command += [
            "--small",
            "--no-pool",
            "--in-one-process",
            "--only",
            SMALL_CHECKS,
            "--seconds",
            str(0.8 * limit),
        ]
        lab.report.sanitizer.append(
            {"name": f"compute-sanitizer {tool}"} | judged(command, limit, tool == "racecheck")
        )
        say(f"compute-sanitizer {tool}: {lab.report.sanitizer[-1]['verdict']}")
        lab.write()


def judged(command: list[str], limit: float, informs: bool = False) -> dict:
    """Verdict and last lines of a sanitizer's run; findings of one that only informs are no failure."""
    start = perf_counter()
    text, status = outcome_of(command, limit)
    lines = without_paths(text).strip().split("\n")[-25:]
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
    if status is None:
        verdict = f"not finished within {limit:.0f} s"
    elif not summary:
        verdict = f"did not run (status {status})"
    else:
        findings = "to be read" if informs and "hazard" in summary else "failed"
        verdict = "clean" if "SUMMARY: 0 " in summary and status == 0 else findings
    return {"verdict": verdict, "summary": summary, "lines": lines, "seconds": perf_counter() - start}


def nvidia_tool(name: str) -> str | None:
    """Where a tool of NVIDIA's is; None if it is not installed."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def outcome_of(command: list[str], limit: float) -> tuple[str, int | None]:
    """Output and exit status of a process; None if it was stopped after `limit` seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        return "".join(as_text(part) for part in (error.stdout, error.stderr)), None
    return done.stdout + done.stderr, done.returncode


def as_text(part: bytes | str | None) -> str:
    """Output of a process that was stopped: bytes, whatever was asked for."""
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""
