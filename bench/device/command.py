"""Timing of the command: files in and out in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.device.floors import note
from bench.device.lab import PROGRAM, ROOT, Lab
from bench.device.studies import design_of


def time_command(lab: Lab) -> None:
    """Files in and out in a fresh process: the first time ever, again, and by stages."""
    with tempfile.TemporaryDirectory() as folder:
        write_study(lab, Path(folder))
        arguments = [
            "randomise", "-i", "data", "-o", "out", "-m", "mask", "-d", "design.mat", "-t", "design.con", "-T",
            "-n", str(lab.sizes.permutations), "--seed", "1", "--quiet", "--device", lab.device.name,
        ]  # fmt: skip
        found = {}
        for name in ("kernels not compiled yet", "again", "once more"):
            if lab.left() > 10:
                found[name] = process(["-m", "gpuvox", *arguments], folder)[0]
        if lab.left() > 10:
            seconds, text = process([PROGRAM, "--stages", *arguments], folder)
            found |= {"by stages": seconds, "stages": json.loads(text.strip().split("\n")[-1])}
    name = f"command, .nii to p maps, {lab.sizes.mm:g} mm, n {lab.sizes.n}, two contrasts, C 6"
    warm = [found[key] for key in ("again", "once more") if key in found]
    time = {"ms": 1e3 * float(np.median(warm)), "fastest_ms": 1e3 * min(warm), "slowest_ms": 1e3 * max(warm)}
    note(lab, name, lab.sizes.permutations, time, {}, permutations=lab.sizes.permutations, processes_s=found)


def write_study(lab: Lab, folder: Path) -> None:
    """Data, mask, design and contrasts as files."""
    from gpuvox import files

    grid, (design, contrast) = lab.grid(lab.sizes.mm), design_of(lab.sizes.n)
    files.write_map(folder / "data.nii", lab.data(lab.sizes.mm, lab.sizes.n), grid, file_type="NIFTI")
    files.write_map(folder / "mask.nii", np.ones(grid.n_voxels, "f4"), grid, file_type="NIFTI")
    files.write_vest(folder / "design.mat", design, "mat")
    files.write_vest(folder / "design.con", [contrast, -contrast], "con")


def process(arguments: list[str], folder: str) -> tuple[float, str]:
    """Seconds and output of a fresh Python; CuPy keeps its kernels in the folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUPY_CACHE_DIR": str(Path(folder) / "kernels")}
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    seconds = perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"the command ended with status {done.returncode}: {done.stderr[-800:]}")
    return seconds, done.stdout


def stages_of_command(arguments: list[str]) -> dict:
    """Run the command in this process; seconds of its stages."""
    start = perf_counter()
    from gpuvox import analysis
    from gpuvox.application import execute, outputs
    from gpuvox.cli import main as command

    spent = {"imports": perf_counter() - start}

    def timed(name: str, real: Callable) -> Callable:
        def call(*given: Any, **more: Any) -> Any:
            begin = perf_counter()
            try:
                return real(*given, **more)
            finally:
                spent[name] = spent.get(name, 0.0) + perf_counter() - begin

        return call

    for name, owner, attribute in (
        ("opening the device", execute, "resolve_all"), ("reading", execute, "read_images"),
        ("model", analysis, "make_model"), ("permutations", analysis, "run"), ("p values", analysis, "make_result"),
        ("writing", outputs.Writer, "result"),
    ):  # fmt: skip
        if hasattr(owner, attribute):
            setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    status = command(arguments)
    spent["in all, but for starting Python"] = perf_counter() - start
    if status:
        raise SystemExit(status)
    return spent
