"""The command line."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.device.checks.families import compile_family
from bench.device.command import stages_of_command
from bench.device.lab import FULL, SMALL, TINY, Lab, Report, say
from bench.device.machine import Cuda
from bench.device.session import run_session, run_step
from bench.device.steps import HELPERS, STEPS
from bench.device.table import table
from gpuvox.device import why_unavailable

SIZES = {"full": FULL, "small": SMALL, "tiny": TINY}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.device", description="Checks gpuvox on this machine's GPU, times it, and tunes it."
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the JSON file and for the tuning; without it there is none"
    )
    parser.add_argument("--minutes", type=float, help="time for everything (8); decides what fits")
    parser.add_argument("--only", help=f"steps to run, separated by commas: {', '.join(STEPS)}")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    inner = parser.add_argument_group("for the processes that the script starts")
    inner.add_argument("--step", help=argparse.SUPPRESS)
    inner.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    inner.add_argument("--before", type=Path, help=argparse.SUPPRESS)
    inner.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    inner.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    inner.add_argument("--in-one-process", action="store_true", help=argparse.SUPPRESS)
    inner.add_argument(
        "--no-pool", action="store_true", help="each array an allocation of its own (compute-sanitizer)"
    )
    inner.add_argument("--machine", help="MODULE:CLASS in place of the GPU, for tests")
    inner.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if something failed, 2 without a GPU."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--stages"]:
        print(json.dumps(stages_of_command(given[1:])))
        return 0
    if given[:1] == ["--compile"]:
        compile_family(given[1])
        return 0
    options = parse(given)
    reason = None if options.machine else why_unavailable()
    if reason:
        sys.stderr.write(f"There is no GPU to check or to time: {reason.split(';')[0]}.\n")
        return 2
    names = options.only.split(",") if options.only else list(STEPS)
    unknown = [name for name in names if name not in STEPS]
    if unknown:
        sys.stderr.write(f"There is no step {unknown[0]!r}; the steps are {', '.join(STEPS)}.\n")
        return 2
    lab = make_lab(options)
    if options.step:
        if options.step in HELPERS:
            HELPERS[options.step](lab)
            return 0
        run_step(lab, options.step)
        return 0
    if options.in_one_process:
        for name in names:
            run_step(lab, name)
    else:
        say_what_is_missing(lab)
        run_session(lab, names, lab.options)
    lab.write()
    table(lab.report)
    return 1 if lab.report.failed else 0


def make_lab(options: argparse.Namespace) -> Lab:
    """The lab of a command line. The process of a session has no device: that would keep memory from its steps."""
    size = "tiny" if options.tiny else "small" if options.small else "full"
    seconds = options.seconds or (60 * options.minutes if options.minutes else None)
    sizes = replace(SIZES[size], seconds=seconds) if seconds else SIZES[size]
    further = [] if size == "full" else [f"--{size}"]
    further += ["--machine", options.machine] if options.machine else []
    lab = Lab(None, sizes, out=options.out, file=options.report, options=further, shared=options.shared)
    if options.before:
        lab.before = Report(**json.loads(options.before.read_text()))
    if options.step or options.in_one_process:
        lab.machine = make_machine(options)
    return lab


def make_machine(options: argparse.Namespace) -> Any:
    """The GPU, or what stands in for it."""
    if not options.machine:
        return Cuda(pooled=not options.no_pool)
    module, name = options.machine.split(":")
    return getattr(importlib.import_module(module), name)()


def say_what_is_missing(lab: Lab) -> None:
    """One line for each."""
    if not lab.has_executors:
        say("threadpoolctl is missing: whole analyses, whole runs and the command are skipped")
    elif not lab.has_command:
        say("nibabel or pandas is missing: the command is skipped")
