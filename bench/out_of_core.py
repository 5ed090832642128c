"""Data larger than memory: the same command with and without ``--scratch``, its memory and its speed.

    python -m bench.out_of_core --folder /tmp/cohorts [--permutations 128] [--only n2000]

makes each cohort, runs both ways, prints the peak of anonymous memory (RssAnon of ``/proc``) and seconds per
permutation, compares the maps byte for byte, and deletes what it made. Needs 8 GB on the disk.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.cohort import brain_grid, smooth_noise
from gpuvox import files
from gpuvox.grid import Grid

CASES = {"n2000": (2.0, 2000), "1mm": (1.0, 200)}
MIB = 2**20


def cropped(grid: Grid) -> Grid:
    """The grid without its empty border, so that the files are small."""
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(grid.mask))
    return Grid(np.ascontiguousarray(grid.mask[box]), grid.voxel_size)


def make_cohort(folder: Path, mm: float, n: int) -> int:
    """Two groups with two covariates: every subject a mixture of ten smooth images and noise of its own."""
    grid, rng = cropped(brain_grid(mm)), np.random.default_rng(1)
    smooth = smooth_noise(grid, 10, 3.5, 0)
    with files.open_map(folder / "data", grid, n_volumes=n, file_type="NIFTI") as (_, write):
        for _ in range(n):
            own = np.float32(0.3) * rng.standard_normal(grid.n_voxels, dtype=np.float32)
            write(rng.standard_normal(10, dtype=np.float32) @ smooth + own)
    files.write_map(folder / "mask", np.ones(grid.n_voxels), grid, file_type="NIFTI")
    group = np.arange(n) % 2
    files.write_vest(folder / "design.mat", np.c_[group, 1 - group, rng.normal(size=(n, 2))], "mat")
    files.write_vest(folder / "design.con", [[1, -1, 0, 0], [-1, 1, 0, 0]], "con")
    return grid.n_voxels


def measure(command: list[str], folder: Path) -> dict[str, float]:
    """Run a command; peaks of its memory in MiB, and its seconds."""
    start, peak = time.perf_counter(), {"RssAnon": 0.0, "VmHWM": 0.0}
    process = subprocess.Popen(command, cwd=folder)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = status.read_text().splitlines()
        for name, value in (line.split(":", 1) for line in lines):
            if name in peak:
                peak[name] = max(peak[name], int(value.split()[0]) / 1024)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {**peak, "seconds": time.perf_counter() - start}


def compare(folder: Path, permutations: int) -> None:
    """Run both ways and print a line for each."""
    maps = {}
    for way, extra in (("in memory", []), ("--scratch", ["--scratch", str(folder)])):
        command = [
            sys.executable, "-m", "gpuvox", "randomise", "-i", "data", "-m", "mask", "-o", "out", "-d", "design.mat",
            "-t", "design.con", "-T", "-x", "-n", str(permutations), "--seed", "1", "--quiet", *extra,
        ]  # fmt: skip
        found = measure(command, folder)
        record = json.loads((folder / "out_randomise.json").read_text())
        each = record["tests"][0]["seconds"] / permutations
        maps[way] = {path.name: path.read_bytes() for path in sorted(folder.glob("out_*.nii*"))}
        print(
            f"  {way}: RssAnon {found['RssAnon']:,.0f} MiB, peak RSS {found['VmHWM']:,.0f} MiB, "
            f"{each:.3f} s a permutation, {found['seconds']:.0f} s in all",
            flush=True,
        )
    print(f"  files equal byte for byte: {maps['in memory'] == maps['--scratch']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--permutations", type=int, default=128)
    parser.add_argument("--only", choices=tuple(CASES))
    options = parser.parse_args()
    for name in [options.only] if options.only else list(CASES):
        folder = Path(tempfile.mkdtemp(dir=options.folder, prefix="out-of-core-"))
        try:
            mm, n = CASES[name]
            n_voxels = make_cohort(folder, mm, n)
            print(f"{name}: {n} × {n_voxels} float32, {4 * n * n_voxels / 1e9:.2f} GB", flush=True)
            compare(folder, options.permutations)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
