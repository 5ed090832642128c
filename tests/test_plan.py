"""The plan against runs: memory within 20 % of what a process takes; every kind of analysis has a time."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.cohort import brain_grid
from bench.out_of_core import cropped
from gpuvox import files
from gpuvox.analysis import Analysis, Inputs, Options, prepare_test
from gpuvox.analysis import Test as OneTest
from gpuvox.application import cost as costs
from gpuvox.application import plan
from gpuvox.cli import main_randomise
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from tests.cuda_on_cpu.shim import CXX, ShimDevice

WORDS = "-i data -o out -m mask -d design.mat -t design.con --seed 1 --quiet --device cpu --threads 2".split()


def make_cohort(folder: Path, mm: float, n: int) -> None:
    grid, rng = cropped(brain_grid(mm)), np.random.default_rng(0)
    with files.open_map(folder / "data", grid, n_volumes=n, file_type="NIFTI") as (_, write):
        for _ in range(n):
            write(rng.standard_normal(grid.n_voxels, dtype=np.float32))
    files.write_map(folder / "mask", np.ones(grid.n_voxels), grid, file_type="NIFTI")
    files.write_vest(folder / "design.mat", np.c_[np.arange(n) % 2, 1 - np.arange(n) % 2, rng.normal(size=n)])
    files.write_vest(folder / "design.con", [[1, -1, 0], [-1, 1, 0]], "con")


PEAK = """
import sys
from gpuvox.cli import main_randomise
from gpuvox.application.cost import memory_of_process
import threading, time
peak, anonymous = 0, "--scratch" in sys.argv
def watch():
    global peak
    while True:
        peak = max(peak, memory_of_process(anonymous))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
assert main_randomise(sys.argv[1:]) == 0
print(peak / 2**20)
"""


@pytest.mark.parametrize(
    ("mm", "n", "extra"),
    [
        (8.0, 30, ["-T"]),
        pytest.param(4.0, 150, ["-x", "-c", "2.3", "--uncorrp"], marks=pytest.mark.long),
        pytest.param(2.5, 60, ["-T"], marks=pytest.mark.long),
        pytest.param(2.5, 60, ["-T", "--scratch", "."], marks=pytest.mark.long),
    ],
)
def test_memory_is_as_planned(tmp_path, mm, n, extra):
    make_cohort(tmp_path, mm, n)
    words = [*WORDS, *extra, "-n", "24"]
    command = [sys.executable, "-m", "gpuvox", "randomise", *words, "--plan"]
    for _ in range(2):  # the first may have to compile, which takes memory
        said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    found = re.search(r"memory: about ([\d,]+) MiB", said)
    assert found, said
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert float(found[1].replace(",", "")) == pytest.approx(float(done.stdout), rel=0.2)
    assert ("GiB in /" in said) == ("--scratch" in extra)


def inputs_for(n: int, n_voxels_mm: float = 8.0) -> Inputs:
    rng = np.random.default_rng(0)
    grid = cropped(brain_grid(n_voxels_mm))
    volumes = rng.standard_normal((6, grid.n_voxels), dtype=np.float32)
    design = np.c_[np.ones(n), rng.normal(size=(n, 3))]
    return Inputs(volumes, grid, design, np.array([[0, 1.0, 0, 0]]), np.zeros((0, 1)))


def cost(n: int, options: Options, is_f: bool = False) -> costs.Cost:
    inputs = inputs_for(n)
    contrast = np.eye(2, 4, 1) if is_f else inputs.contrasts
    test = OneTest("fstat1" if is_f else "tstat1", contrast, is_f)
    prepared = prepare_test(inputs, options, test)
    return costs.cost_of_test(Analysis(inputs, options, (prepared,)), prepared)


def test_subjects_that_the_small_analysis_lacks_are_counted():
    x = Statistics()
    few, many = (cost(n, Options(x, x, threads=1)) for n in (40, 4000))  # 3,700 voxels: more than is done in full
    assert many.each > 3 * few.each  # 100 times the products; loose, for the machine has other things to do
    assert many.memory - few.memory > 0.9 * 8 * 3900 * inputs_for(4).grid.n_voxels


@pytest.mark.parametrize("is_f", [False, True])
@pytest.mark.parametrize("n", [30, 3000])
def test_every_kind_of_analysis_has_a_cost(n, is_f, tmp_path):
    wanted = Statistics(True, Tfce(), 2.0, 2.0, uncorrected=True, two_pass=not is_f)
    options = Options(wanted, wanted, n_permutations=40, threads=2, scratch=str(tmp_path))
    found = cost(n, options, is_f)
    assert found.each > 0
    assert found.setup > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
def test_a_device_is_measured_too():
    options = Options(Statistics(tfce=Tfce()), n_permutations=20, device=ShimDevice())
    assert cost(30, options).each > 0
    gc.collect()
    assert not options.device.used


def test_without_a_mask_the_first_volumes_say_what_varies(study, capsys):
    words = ["-i", "data", "-o", "out", "-d", "design.mat", "-t", "design.con", "-x", "--plan"]
    assert main_randomise(words) == 0
    assert "voxels: 210 vary over the first 8 volumes (no mask given)" in capsys.readouterr().out
    assert main_randomise([*words, "--vxl", "3", "--vxf", "data"]) == 0
    assert main_randomise([word for word in words if word != "-x"]) == 0  # nothing to permute
    assert "memory: little" in capsys.readouterr().out


LINE = ["-i", "data", "-o", "out", "-m", "mask", "-d", "design.mat", "-t", "design.con"]


def test_a_shard_costs_its_part(study, capsys, monkeypatch):
    asked = []

    def cost(*arguments):
        asked.append(arguments[-1])
        return costs.Cost(0.0, 1000.0, 1 << 20)

    def hours(*extra):
        assert main_randomise([*line, *extra]) == 0
        said = capsys.readouterr().out
        return said, float(re.search(r"time: about ([\d.]+) h", said)[1])

    monkeypatch.setattr(plan, "cost_of_test", cost)
    line = [*LINE, "-n", "100000", "-x", "--seed", "1", "--skipTo", "3", "--plan"]
    assert hours()[1] == pytest.approx(1e8 / 3600, rel=1e-2)
    said, part = hours("--shard", "2/50")
    assert "shard 2 of 50" in said
    assert part == pytest.approx(2e6 / 3600, rel=1e-2)
    assert asked == [None, (2, 50)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--checkpoint", "nowhere/x.tally"], "nowhere"), (["--resume", "--checkpoint", "none.tally"], "none.tally")],
)
def test_a_plan_refuses_what_the_run_refuses(study, capsys, extra, message):
    assert main_randomise([*LINE, "-x", "--seed", "1", "--plan", *extra]) == 2
    assert message in capsys.readouterr().err
