"""The command line, and the order of the parts."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.device.checks.families import compile_family, compile_loops, correctness
from bench.device.command import stages_of_command
from bench.device.lab import FULL, SMALL, Lab, say
from bench.device.machine import Cuda, ceilings, compile_kernels, facts
from bench.device.sanitizer import sanitizer
from bench.device.table import table
from bench.device.timings import timings
from gpuvox.device import why_unavailable


def work(lab: Lab, only: str | None = None, with_sanitizer: bool = True) -> int:
    """All parts, or one of them; the exit status."""
    say_what_is_missing(lab)
    lab.guarded("facts", partial(facts, lab), seconds=-np.inf)
    if only != "correctness":
        lab.guarded("ceilings", partial(ceilings, lab), seconds=-np.inf)
        lab.guarded("compiling the kernels", partial(compile_kernels, lab), seconds=-np.inf)
    if only in (None, "correctness"):
        lab.until = 1.0 if only else 0.45
        if lab.sizes.mm <= FULL.mm:
            lab.guarded("compiling the CPU's loops", compile_loops, 60)
        lab.guarded("correctness", partial(correctness, lab))
    if only is None and with_sanitizer:
        lab.until = 0.6
        lab.guarded("compute-sanitizer", partial(sanitizer, lab))
    if only in (None, "timings"):
        lab.until = 1.0
        timings(lab)
    lab.write()
    table(lab.report)
    return 1 if lab.report.failed else 0


def say_what_is_missing(lab: Lab) -> None:
    """One line for each."""
    if not lab.has_executors:
        say("threadpoolctl is missing: whole analyses, whole runs and the command are skipped")
    elif not lab.has_command:
        say("nibabel or pandas is missing: the command is skipped")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Checks gpuvox on this machine's GPU and times it.")
    parser.add_argument("--out", type=Path, help="folder for the JSON file; without it there is none")
    parser.add_argument("--only", choices=("correctness", "timings", "facts"), help="one part only")
    parser.add_argument("--small", action="store_true", help="small sizes, seconds in all; no compute-sanitizer")
    parser.add_argument("--seconds", type=float, help="time for everything (480)")
    parser.add_argument(
        "--no-pool", action="store_true", help="every array its own allocation (compute-sanitizer)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, 1 if something failed, 2 without a GPU."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--stages"]:
        print(json.dumps(stages_of_command(given[1:])))
        return 0
    if given[:1] == ["--compile"]:
        compile_family(given[1])
        return 0
    options = parse(given)
    reason = why_unavailable()
    if reason:
        sys.stderr.write(f"There is no GPU to check or to time: {reason.split(';')[0]}.\n")
        return 2
    sizes = SMALL if options.small else FULL
    sizes = replace(sizes, seconds=options.seconds) if options.seconds else sizes
    lab = Lab(Cuda(pooled=not options.no_pool), sizes, out=options.out)
    return work(lab, options.only, with_sanitizer=not options.small)
