"""The whole command, files in and out: both contrasts of a two-group design with two covariates, TFCE."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.cohort import brain_grid, cohort
from gpuvox import files


@pytest.fixture(scope="module", params=[40, 146])
def folder(request, tmp_path_factory):
    """A cohort at 2 mm as files."""
    folder = tmp_path_factory.mktemp(f"n{request.param}")
    study = cohort(brain_grid(2.0), request.param, effect=0.8)
    files.write_map(folder / "data.nii", study.data, study.grid, file_type="NIFTI")
    files.write_map(
        folder / "mask.nii", study.grid.mask[study.grid.mask].astype("f4"), study.grid, file_type="NIFTI"
    )
    files.write_vest(folder / "design.mat", study.design, "mat")
    files.write_vest(folder / "design.con", [study.contrast, -study.contrast], "con")
    return folder


@pytest.mark.parametrize("permutations", [500])
@pytest.mark.parametrize("threads", [1, 2])
def test_command(benchmark, folder, permutations, threads):
    command = [
        sys.executable, "-m", "gpuvox", "randomise", "-i", "data", "-o", "out", "-m", "mask", "-d", "design.mat",
        "-t", "design.con", "-T", "-n", str(permutations), "--seed", "1", "--threads", str(threads), "--quiet",
    ]  # fmt: skip
    run = lambda: subprocess.run(command, cwd=folder, check=True)  # noqa: E731
    run()
    benchmark.pedantic(run, rounds=2)
