"""The engine on a device: the same kernels and host code as on a GPU, on the CPU; and on a GPU where there is one."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bench.cohort import brain_grid
from gpuvox import cuda
from gpuvox import device as devices
from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.application import execute, plan
from gpuvox.block_tree import TreeShuffler
from gpuvox.cli import main, main_randomise
from gpuvox.device import OutOfDeviceMemory
from gpuvox.errors import DeviceError, InputError
from gpuvox.executors import run
from gpuvox.f_to_z import f_to_z
from gpuvox.glm import Glm, Nuisance
from gpuvox.grid import Grid
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.info import check_kernels
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.own_steps import OwnSteps
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.signed_rows import from_signs
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from gpuvox.voxelwise_evs import VoxelwiseGlm
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.selection import few
from tests.test_oracle import CASES
from tests.test_reference import run_case

ROOT = Path(__file__).parent.parent
needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


def gpu():
    """The GPU, or a reason to skip; with GPUVOX_REQUIRE_GPU=1 there must be one."""
    reason = devices.why_unavailable()
    if reason:
        assert os.environ.get("GPUVOX_REQUIRE_GPU") != "1", reason
        pytest.skip(reason)
    return cuda.open_device(0)


@pytest.fixture(params=["kernels on the CPU", "GPU"])
def device(request):
    if request.param == "GPU":
        return gpu()
    if CXX is None:
        pytest.skip("no C++ compiler to run the kernels on the CPU")
    return ShimDevice()


# -- whole analyses -------------------------------------------------------------------------------------------------


def study(seed: int, shape: tuple[int, int, int] = (5, 6, 4)) -> tuple[Inputs, Options]:
    """A small analysis; what is asked of it, and how awkward its data are, depends on the seed."""
    rng = np.random.default_rng(seed)
    grid = Grid(rng.random(shape) < 0.9, voxel_size=(2.0, 2.0, 3.0))
    n, n_voxels = int(rng.integers(9, 20)), grid.n_voxels
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=(n, 2))]
    contrasts, f_tests = np.array([[0, 1, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0.0]]), np.array([[1, 0, 1]])
    data = rng.normal(size=(n, n_voxels))
    if seed % 4 == 0:
        data += 100  # float32 cancels
    if seed % 5 == 0:
        data = np.round(data)  # ties
    if seed % 7 == 0:
        data[:, 3] = 5  # constant
    if seed % 6 == 0:
        design, contrasts, f_tests = np.ones((n, 1)), np.array([[1.0], [-1.0]]), np.zeros((0, 2))
    evs = {}
    if seed % 4 == 3 and design.shape[1] == 4:
        evs = {3: rng.normal(size=(n, n_voxels)).astype(np.float32)}
    if seed % 8 in (5, 7):  # subjects are left out at some voxels
        evs |= {-5: (rng.random((n, n_voxels)) < 0.1).astype(np.float32)}
    tfce = Tfce(connectivity=(6, 18, 26)[seed % 3], exact=seed % 9 == 8)
    counts, twice = seed % 2 == 0, seed % 3 != 1
    options = Options(
        Statistics(True, tfce, 1.5, 1.2, uncorrected=counts, two_pass=twice),
        Statistics(True, tfce, 3.0, 4.0, uncorrected=counts, two_pass=twice),
        n_permutations=40,
        seed=seed,
        flip=seed % 3 == 0,
        demean=seed % 8 == 5,
        nuisance=Nuisance(seed % 4 if seed % 4 != 3 else 1),
        variance_mm=3.0 if seed % 4 == 2 else 0.0,
        threads=1,
    )
    return Inputs(data.astype(np.float32), grid, design, contrasts, f_tests, None, evs), options


def assert_same(one, other):
    """Equal bits."""
    assert len(one) == len(other)
    for a, b in zip(one, other):
        for mine, theirs in ((a.maps, b.maps), (a.nulls, b.nulls)):
            assert mine.keys() == theirs.keys()
            for name, values in mine.items():
                np.testing.assert_array_equal(values, theirs[name], err_msg=f"{a.test.name} {name}")


@pytest.mark.parametrize("seed", few(range(24), 4))
def test_every_option_gives_the_bits_of_the_cpu(seed, device):
    inputs, options = study(seed)
    expected = list(analyse(prepare(inputs, options)))
    assert_same(expected, list(analyse(prepare(inputs, dataclasses.replace(options, device=device)))))
    # In batches of another size too, and with blocks of several threads.
    if isinstance(device, ShimDevice):
        small = ShimDevice(max_threads=1 + seed % 3 // 2, limit=16 << 20, n_processors=1, shared_bytes=8 << 10)
        assert_same(expected, list(analyse(prepare(inputs, dataclasses.replace(options, device=small)))))
        gc.collect()
        assert device.used == small.used == 0  # nothing is left behind


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("seed", [0, 2, 3, 8])
def test_memory_that_runs_out_anywhere_changes_nothing(seed):
    """An allocation fails; the batch is cut, and no result is lost or counted twice."""
    inputs, options = study(seed)
    expected = list(analyse(prepare(inputs, options)))
    n_allocations = counted(inputs, options)
    rng = np.random.default_rng(seed)
    for fail_at in (1, *rng.integers(2, n_allocations, 6)):
        device = ShimDevice()
        device.fail_at = int(fail_at)
        assert_same(expected, list(analyse(prepare(inputs, dataclasses.replace(options, device=device)))))
        assert device.fail_at < 0


def counted(inputs, options) -> int:
    device = ShimDevice()
    device.fail_at = 1 << 30
    list(analyse(prepare(inputs, dataclasses.replace(options, device=device))))
    return (1 << 30) - device.fail_at


def batch_study(kind: str, statistics: Statistics, smoothed: bool = False) -> PermutationTest:
    """A test of two groups in data of few values, where many t are equal."""
    rng = np.random.default_rng(5)
    n, grid = 24, Grid(np.ones((7, 6, 5), dtype=bool), (2.0, 2.0, 2.0))
    design, contrast = np.c_[np.ones(n), np.arange(n) % 2], np.array([[0.0, 1]])
    data = rng.integers(0, 3, (n, grid.n_voxels)).astype(np.float32)
    blocks = np.repeat(np.arange(1, 5), 6) if kind == "blocks" else None
    if kind == "flips":
        design, contrast = np.ones((n, 1)), np.ones((1, 1))
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(97, 2, blocks, flip=kind == "flips"))
    smoother = MaskedGaussian(grid, 2.0) if smoothed else None
    model = Glm(data, partition(design, contrast), shuffler.invariant, smoother=smoother, device=ShimDevice())
    return PermutationTest(model, grid, shuffler, statistics, signs=2)


@needs_compiler
@pytest.mark.parametrize("kind", ["free", "blocks", "flips"])
@pytest.mark.parametrize(
    "statistics",
    [
        Statistics(False, Tfce()),
        Statistics(),
        Statistics(False, extent=1.5, mass=1.5),
        Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True),
    ],
    ids=["TFCE", "voxelwise", "clusters", "uncorrected"],
)
def test_between_the_permutations_and_the_maxima_of_a_batch_nothing_goes_to_the_host(statistics, kind):
    """One copy a batch, of all results: permutations too are made on the device."""
    test = batch_study(kind, statistics)
    device, observed = test.device, test.observe()
    observed.run(0, 97)  # what does not change is sent once, and it turns out how much room is needed
    seen = []
    for start in (33, 65):
        device.transfers.clear()
        device.launched.clear()
        observed.run(start, start + 32)
        seen.append((list(device.transfers), list(device.launched)))
    assert seen[0] == seen[1]
    transfers, launched = seen[0]
    assert transfers == ["download"]
    assert len(launched) <= (16 if len(observed.statistics) == 1 else 36)
    assert launched.count("glm_maps<false>") == 1


@needs_compiler
def test_lists_that_are_too_long_are_cut_into_ranges_of_maps(monkeypatch):
    """The batch is computed again, with lists for fewer maps at a time; the bits are those of the CPU."""
    wanted = Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True)
    test = batch_study("free", wanted)
    whole = test.observe().run(0, 40)
    monkeypatch.setattr("gpuvox.reductions.ROOM", 0)  # room for one map
    again = batch_study("free", wanted)
    short = again.observe().run(0, 40)
    assert again.device.launched.count("glm_maps<false>") > 1
    lists = [name for name in again.device.launched if name.startswith("maps_list")]
    assert len(lists) > 20 > len([name for name in test.device.launched if name.startswith("maps_list")])
    here = dataclasses.replace(test, model=dataclasses.replace(test.model, device=None)).observe().run(0, 40)
    for group in ("maxima", "below"):
        for name, values in getattr(here, group).items():
            np.testing.assert_array_equal(getattr(whole, group)[name], values, err_msg=name)
            np.testing.assert_array_equal(getattr(short, group)[name], values, err_msg=name)


@needs_compiler
def test_residuals_are_made_on_the_device_and_the_data_sent_once():
    """Also of voxels that are constant, 0, constant but for a subject that the nuisance fits alone, or the nuisance."""
    rng = np.random.default_rng(3)
    n, alone = 17, np.eye(17)[:, :1]
    design = np.c_[rng.normal(size=n), rng.normal(size=n), alone, np.ones(n)]
    data = rng.normal(3, 1, size=(n, 300)).astype(np.float32)
    data[:, 0], data[:, 1], data[:, 2] = 5, 0, design[:, 1]
    data[1:, 3] = 2
    data[:, 299] = 1e-30 * data[:, 5]
    model, none, device = partition(design, np.eye(4)[:1]), np.zeros((n, 0)), ShimDevice()
    here, there = Glm(data, model, none), Glm(data, model, none, device=device)
    made = there._on_device
    residuals = device.download(made.residuals)
    np.testing.assert_array_equal(residuals[:, :300], here._residuals.block(slice(None), slice(0, 300)))
    assert residuals.shape == (n, 384)
    assert not residuals[:, 300:].any()
    np.testing.assert_array_equal(there._norms, here._norms)
    np.testing.assert_array_equal(here._norms[[0, 1, 3]], 0)
    assert "_fitted" not in there.__dict__  # nothing was computed on the host


def test_data_larger_than_the_device_are_sent_in_slabs():
    rng = np.random.default_rng(1)
    grid, n = Grid(np.ones((16, 16, 12), dtype=bool)), 60
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    data[:, ::50] += 1000
    inputs = Inputs(data, grid, np.c_[np.ones(n), np.arange(n) % 2], np.array([[0, 1.0]]), np.zeros((0, 1)))
    wanted = Statistics(tfce=Tfce(), extent=2.0, uncorrected=True)
    for evs in ({}, {0: rng.normal(size=data.shape).astype(np.float32)}):
        ours = dataclasses.replace(inputs, evs=evs)
        options = Options(wanted, n_permutations=10, seed=2, nuisance=Nuisance.NONE, threads=1)
        expected = list(analyse(prepare(ours, options)))
        device = ShimDevice(limit=1 << 20)  # the data alone are 0.7 MB, and wanted twice
        assert_same(expected, list(analyse(prepare(ours, dataclasses.replace(options, device=device)))))
        assert device.largest <= device.limit
        kernel = "voxelwise_prepare" if evs else "glm_maps<false>"
        assert device.launched.count(kernel) > 4
        assert kinds_of(device.operations, kernel)[:7] == ["send", "wait", kernel, "send", "wait", kernel, "send"]


def kinds_of(operations, kernel):
    """What was asked of the device for slabs, in order: copies that follow each other are one."""
    kinds = [name if name == kernel else kind for kind, name in operations if name == kernel or kind != "launch"]
    kinds = [kind for kind in kinds if kind != "finish"]
    return [kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]


@needs_compiler
def test_a_device_too_small_for_one_map_is_refused():
    inputs, options = study(1)
    with pytest.raises(DeviceError, match="enough memory even for one map"):
        list(analyse(prepare(inputs, dataclasses.replace(options, device=ShimDevice(limit=4000)))))


class Broken(ShimDevice):
    """Fails at one launch, as CUDA does when a kernel has gone wrong."""

    def launch(self, kernel, *arguments, **settings):
        if len(self.launched) == 15:
            raise DeviceError("cuda:0 failed: an illegal memory access was encountered")
        super().launch(kernel, *arguments, **settings)


@needs_compiler
def test_a_failed_launch_ends_the_run():
    inputs, options = study(1)
    results = analyse(prepare(inputs, dataclasses.replace(options, device=Broken())))
    with pytest.raises(DeviceError, match="illegal memory access"):
        next(results)


# -- single parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [0, 1, 5, 70])
@pytest.mark.parametrize("flip", [False, True, "both"])
def test_maps_with_more_rows_than_a_tile(columns, flip, device):
    """Every statistic in one tile of the kernel, several to a tile, or over several tiles."""
    rng = np.random.default_rng(columns)
    n, n_voxels = columns + 20, 150
    design = np.c_[np.arange(n) % 2, rng.normal(size=(n, columns))]
    contrast = np.eye(columns + 1)[:1]
    data = rng.normal(size=(n, n_voxels)).astype(np.float32)
    shuffles = np.array([rng.permutation(n) for _ in range(70)], dtype=np.int32)
    signs = from_signs(rng.choice([-1, 1], size=(70, n)))
    if flip:
        shuffles = np.where(signs < 0, ~shuffles, shuffles) if flip == "both" else signs
    for f in (False, True):
        C = np.eye(columns + 1)[: min(3, columns + 1)] if f else contrast
        model, nothing = partition(design, C, is_f=f), np.zeros((n, 0))
        here, there = Glm(data, model, nothing), Glm(data, model, nothing, device=device)
        np.testing.assert_array_equal(
            device.download(there.statistic_maps(shuffles)), here.statistic_maps(shuffles)
        )
        number, voxel = rng.integers(0, 70, 300), rng.integers(0, n_voxels, 300)
        np.testing.assert_array_equal(there.exact(shuffles, number, voxel), here.exact(shuffles, number, voxel))


MANY = np.arange(70.0)
TREE = np.c_[-np.ones(12), np.repeat([1, 2, 3], 4), np.arange(1, 13)]
SHUFFLERS = {
    "few labellings": Shuffler(np.arange(12) % 3, Permutations(500, 1)),
    "all of them": Shuffler(np.arange(6) % 3, Permutations(0, 9)),
    "up to 2^63": Shuffler(np.arange(20.0), Permutations(300, 2**64 - 1)),
    "more than can be ranked": Shuffler(MANY, Permutations(400, 7)),
    "groups of many": Shuffler(np.arange(70) % 2, Permutations(400, 3)),
    "blocks": Shuffler(np.arange(24) % 3, Permutations(400, 4, np.repeat([0, 1, 2, 3], 6))),
    "blocks of all, unranked": Shuffler(MANY, Permutations(90, 4, np.repeat([1, 2], 35))),
    "whole blocks": Shuffler(
        np.repeat(np.arange(6) % 2, 4), Permutations(15, 4, np.repeat(np.arange(1, 7), 4), True)
    ),
    "flips": Shuffler(np.ones(30), Permutations(400, 5, flip=True)),
    "more flips than can be ranked": Shuffler(np.ones(70), Permutations(400, 5, flip=True)),
    "all flips": Shuffler(np.ones(7), Permutations(0, 5, flip=True)),
    "flips of blocks": Shuffler(np.ones(9), Permutations(7, 5, np.repeat([1, 2, 3], 3), True, True)),
    "flips, some rows never": Shuffler(np.ones(9), Permutations(40, 5, np.repeat([0, 1, 2], 3), flip=True)),
    "nothing moves": Shuffler(np.ones(5), Permutations(10, 1)),
    "blocks at several levels": TreeShuffler(np.arange(12) % 2, Permutations(60, 3, TREE)),
    "permutations and flips": Shuffler(np.arange(8) % 3, Permutations(500, 1, permute_and_flip=True)),
    "all permutations and flips": Shuffler(np.arange(4) % 2, Permutations(0, permute_and_flip=True)),
    "both, more than can be ranked": Shuffler(MANY, Permutations(200, 7, permute_and_flip=True)),
    "both, of whole blocks": Shuffler(
        np.repeat(np.arange(6) % 2, 4),
        Permutations(90, 4, np.repeat([1, 2, 3, 0, 4, 5], 4), True, permute_and_flip=True),
    ),
    "with repeats": Shuffler(np.arange(6) % 2, Permutations(15, 4, repeats=True)),
    "both, with repeats": Shuffler(np.arange(6) % 2, Permutations(100, 4, permute_and_flip=True, repeats=True)),
    "tree, with flips": TreeShuffler(np.arange(12), Permutations(60, 3, TREE, flip=True)),
    "tree, both": TreeShuffler(np.arange(12) % 4, Permutations(60, 3, TREE, permute_and_flip=True)),
    "tree, all of it": TreeShuffler(np.arange(12) % 2, Permutations(0, 3, TREE)),
    "tree of parts, whose order is not that of the rows": TreeShuffler(
        np.array([3, 1, 2, 1, 3, 3, 1, 2]),
        Permutations(0, 3, np.c_[np.ones(8), -np.array([2, 1, 2, 1, 1, 2, 1, 2]), np.arange(1, 9)]),
    ),
    "tree, more than can be ranked": TreeShuffler(
        MANY, Permutations(90, 3, np.c_[np.ones(70), np.repeat(np.arange(1, 15), 5), np.arange(1, 71)])
    ),
    "tree, both, with repeats": TreeShuffler(
        np.arange(12), Permutations(90, 3, TREE, permute_and_flip=True, repeats=True)
    ),
    "given": ImportedShuffler(1 + np.array([[0, 1, 2], [2, 0, 1]])),
    "given with signs": ImportedShuffler([[1, 2, 3], [-3, 1, -2]]),
}


@pytest.mark.parametrize("name", SHUFFLERS)
def test_permutations_made_on_a_device_are_those_of_the_cpu(name, device):
    shuffler = SHUFFLERS[name]
    n = shuffler.n
    for start, stop in ((0, n), (n // 3, min(n, n // 3 + 5)), (n - 1, n), (0, 0)):
        expected = shuffler.shuffles(start, stop)
        found = shuffler.on_device(start, stop, device)
        assert len(found) == stop - start
        if stop > start:
            np.testing.assert_array_equal(found.on_host(), expected)
            assert found.on_host().dtype == expected.dtype


def test_z_of_f(device):
    f = np.exp(np.random.default_rng(0).uniform(-5, 36, (3, 1000))).astype(np.float32)
    f[0, :4] = 0, -1, 1e16, np.float32(1e-30)
    np.testing.assert_array_equal(device.download(f_to_z(device.upload(f), 3, 40, device)), f_to_z(f, 3, 40))


def test_levels_beyond_the_tables_start_again(device):
    """A permuted map far above the observed one."""
    rng = np.random.default_rng(3)
    n, grid = 5, Grid(np.ones((3, 3, 3), dtype=bool))
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    x = np.arange(n, dtype=float)
    data += 1000 * np.roll(x, 2)[:, None].astype(np.float32)
    results = []
    for where in (None, device):
        model = Glm(
            data, partition(np.c_[np.ones(n), x], np.array([[0, 1.0]])), np.full((n, 1), n**-0.5), device=where
        )
        test = PermutationTest(
            model, grid, Shuffler(x[:, None], Permutations(200, 1)), Statistics(tfce=Tfce(delta=1.0))
        )
        finished = run(test, threads=1)
        assert finished.observed.test.level_cap > 512
        results.append(finished.tally.maxima["tfce"])
    np.testing.assert_array_equal(*results)


def test_the_check_of_an_installation(device):
    check_kernels(device)


@needs_compiler
def test_blocks_of_several_threads():
    check_kernels(ShimDevice(max_threads=3))


@needs_compiler
def test_the_check_of_an_installation_sees_a_wrong_kernel():
    source = (cuda.kernel_directory() / "glm.cu").read_text()
    from tests.cuda_on_cpu.shim import build

    wrong = source.replace("left -= p * p;", "left -= 1.0001f * p * p;")
    assert wrong != source
    with pytest.raises(DeviceError, match="t maps differ"):
        check_kernels(ShimDevice(libraries={"glm": build("glm", source=wrong)}))


# -- the command ----------------------------------------------------------------------------------------------------


FSL_CASES = [name for name in CASES if name != "how_many"]
FSL_CASES += [
    "binary_data",
    "one_huge_voxel",
    "one_sample_constant",
    "f_blocks",
    "one_sample_whole_blocks",
    "permout",
    "twopass_x",
    "v_with_f",
    "vxl_demean",
    "vxl_f",
]
FSL_CASES += ["vxl_negative", "vxl_negative_f"]


@needs_compiler
@pytest.mark.parametrize("case", few(FSL_CASES, len(FSL_CASES), 7))
def test_fsl_cases_give_the_bits_of_the_cpu(case, tmp_path, monkeypatch):
    for name in ("cpu", "device"):
        (tmp_path / name).mkdir()
    run_case(case, tmp_path / "cpu", extra=("--device", "cpu"))
    device = ShimDevice()
    for module in (cuda, execute):
        monkeypatch.setattr(module, "resolve_all", lambda name: (device,))
    run_case(case, tmp_path / "device", extra=("--device", "cuda"))
    assert device.launched
    for path in sorted((tmp_path / "cpu").iterdir()):
        other = tmp_path / "device" / path.name
        if path.suffix == ".txt":
            assert other.read_text() == path.read_text(), path.name
        elif path.suffix == ".gz":
            np.testing.assert_array_equal(
                *(np.asarray(nib.load(p).dataobj) for p in (other, path)), err_msg=path.name
            )


@needs_compiler
def test_the_command_says_which_device(study_files, monkeypatch, capsys):
    for module in (execute, plan):
        monkeypatch.setattr(module, "resolve_all", lambda name: (ShimDevice(),))
    command = ["-i", "data", "-o", "out", "-m", "mask", "-d", "design.mat", "-t", "design.con", "-n", "20", "-x"]
    assert main_randomise(command) == 0
    assert "Device: kernels on the CPU (shim); float32" in capsys.readouterr().out
    assert json.loads(Path("out_randomise.json").read_text())["device"] == "shim (kernels on the CPU)"
    assert main_randomise([*command, "--plan"]) == 0
    assert "device: kernels on the CPU" in capsys.readouterr().out


study_files = pytest.fixture(lambda study: study)


def test_gpuvox_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("gpuvox ")
    assert "kernels: " in said
    assert ("GPU: none; " in said) == bool(devices.why_unavailable())


# -- names, memory, sources -----------------------------------------------------------------------------------------


def test_names(monkeypatch):
    assert cuda.resolve("cpu") is None
    monkeypatch.setattr(cuda, "why_unavailable", lambda: "CuPy is not installed")
    assert cuda.resolve("auto") is None
    with pytest.raises(DeviceError, match="--device cuda:1: CuPy is not installed"):
        cuda.resolve("cuda:1")
    for name in ("gpu", "cuda:", "cuda:x", ""):
        with pytest.raises(InputError, match="expected auto, cpu, cuda, cuda:i or cuda:i,j"):
            cuda.resolve(name)
    opened = []
    monkeypatch.setattr(cuda, "why_unavailable", lambda: None)
    monkeypatch.setattr(cuda, "open_device", lambda *given: opened.append(given) or given)
    monkeypatch.setattr(cuda, "_usable", lambda device: device)
    monkeypatch.setenv(devices.MEMORY_VARIABLE, "4G")
    monkeypatch.setattr(cuda, "count_devices", lambda: 3)
    for name, numbers in {"auto": [0], "cuda": [0, 1, 2], "cuda:2": [2], "cuda:2,0": [2, 0]}.items():
        opened.clear()
        cuda.resolve_all(name)
        assert opened == [(number, 4 << 30) for number in numbers]
    with pytest.raises(InputError, match="a device is named twice"):
        cuda.resolve_all("cuda:1,0,1")


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("1000", 1000), ("4G", 4 << 30), ("1.5 GiB", 3 << 29), ("64m", 64 << 20)]
)
def test_memory_limit(text, size, monkeypatch):
    monkeypatch.setenv(devices.MEMORY_VARIABLE, text)
    assert devices.memory_limit() == size


@pytest.mark.parametrize("text", ["much", "0", "-1", "4T"])
def test_memory_limit_refused(text, monkeypatch):
    monkeypatch.setenv(devices.MEMORY_VARIABLE, text)
    with pytest.raises(InputError, match="expected a size"):
        devices.memory_limit()


def test_without_cupy(monkeypatch):
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert "CuPy is not installed; install gpuvox[cuda13]" in devices.why_unavailable()


def test_with_cupy_but_no_driver(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert "no CUDA device answers (ImportError: libcuda.so.1" in devices.why_unavailable()


@needs_compiler
def test_uploads_are_kept_by_identity():
    device = ShimDevice()
    one = np.arange(3.0)
    assert device.keep(one) is device.keep(one)
    assert device.keep(one.copy()) is not device.keep(one)
    for i in range(2 * devices.KEPT):
        device.keep(np.full(1, i))
    assert len(device._kept) == devices.KEPT
    device.forget()
    assert device.used == 0
    with pytest.raises(OutOfDeviceMemory):
        ShimDevice(limit=100).empty(1000, np.float32)


def test_the_sources_of_a_checkout():
    assert cuda.kernel_directory() == ROOT / "kernels"
    assert {path.stem for path in cuda.kernel_directory().glob("*.cu")} == set(cuda.KERNELS)
    assert cuda.source("glm").startswith('#line 1 "')


def test_the_sources_in_a_wheel(tmp_path):
    """As installed: the kernels are package data."""
    pytest.importorskip("hatchling")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "site", "zip")
    code = "import gpuvox.cuda as c; print(c.kernel_directory()); c.compile_options(); c.source('tfce')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.stdout.strip() == str(tmp_path / "site" / "gpuvox" / "kernels"), done.stderr


@pytest.mark.long
@needs_compiler
def test_a_whole_brain_in_one_gigabyte():
    """146 subjects, 2 mm, as many maps at a time as a large GPU would take: within the limit, and the same bits."""
    limit = 1 << 30
    rng = np.random.default_rng(0)
    grid = brain_grid(2.0)
    n, few = 146, 6
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=(n, 2))]
    inputs = Inputs(
        rng.standard_normal((n, grid.n_voxels), dtype=np.float32),
        grid,
        design,
        np.array([[0, 1.0, 0, 0]]),
        np.zeros((0, 1)),
    )
    options = Options(Statistics(tfce=Tfce(), uncorrected=True), n_permutations=few, seed=1)
    device = ShimDevice(limit=limit, n_processors=132, shared_bytes=227 << 10)
    assert_same(
        list(analyse(prepare(inputs, options))),
        list(analyse(prepare(inputs, dataclasses.replace(options, device=device)))),
    )
    assert 8 * n * grid.n_voxels < device.largest <= limit  # the data stayed there


@needs_compiler
def test_batches_are_sized_from_free_memory():
    """A batch and its scratch take no more than there is, for any limit, and all of a large device is used."""
    grid, n = brain_grid(2.0), 20
    data = np.random.default_rng(0).standard_normal((n, grid.n_voxels), dtype=np.float32)
    sizes = {}
    for limit in (1 << 28, 1 << 30, 4 << 30, 1 << 37):
        device = ShimDevice(limit=limit, n_processors=132)
        model = Glm(data, partition(np.ones((n, 1)), np.ones((1, 1))), np.zeros((n, 0)), device=device)
        test = PermutationTest(model, grid, Shuffler(np.ones((n, 1)), Permutations(9999, 1, flip=True)))
        sizes[limit] = test.observe().batch
        assert 4 * grid.n_voxels * sizes[limit] <= limit / 8
    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes[1 << 37] == 12 * 132  # whole waves of two or three blocks a processor


@needs_compiler
def test_smoothing_in_several_parts_fits_beside_them():
    """The boxes of one part are gone before those of the next are made."""
    grid = Grid(np.ones((6, 7, 8), dtype=bool), (2.0, 2.0, 2.0))
    maps = np.random.default_rng(0).random((40, grid.n_voxels)).astype(np.float32)
    smoother = MaskedGaussian(grid, 3.0)
    device = ShimDevice(limit=2 * maps.nbytes + 70_000)
    np.testing.assert_array_equal(device.download(smoother.on_device(device.upload(maps), device)), smoother(maps))
    assert device.launched.count("smooth_gather") > 1


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("seed", [0, 7])
def test_limits_of_cuda_are_kept(seed, monkeypatch):
    """No more than so many blocks along y, nor items than 32 bits count; here with small numbers."""
    monkeypatch.setattr("gpuvox.glm._MOST_TILES", 1)
    monkeypatch.setattr("gpuvox.reductions.MOST_ITEMS", 200)
    monkeypatch.setattr("gpuvox.glm._COLUMNS", 128)
    rng = np.random.default_rng(seed)
    n, grid = 10, Grid(np.ones((10, 10, 4), dtype=bool))
    data = rng.integers(0, 2, (n, grid.n_voxels)).astype(np.float32)
    inputs = Inputs(data, grid, np.c_[np.ones(n), np.arange(n) % 2], np.array([[0, 1.0]]), np.zeros((0, 1)))
    options = Options(Statistics(uncorrected=True), n_permutations=30, seed=seed)
    device = ShimDevice()
    assert_same(
        list(analyse(prepare(inputs, options))),
        list(analyse(prepare(inputs, dataclasses.replace(options, device=device)))),
    )
    assert device.launched.count("glm_maps<false>") % 4 == 0  # slabs of 128 voxels


def test_a_gpu_whose_kernels_do_not_compile_is_not_used(monkeypatch):
    class Useless:
        def kernel(self, name):
            raise DeviceError("the CUDA kernels cannot be compiled for this: no libnvrtc")

    monkeypatch.setattr(cuda, "why_unavailable", lambda: None)
    monkeypatch.setattr(cuda, "open_device", lambda *given: Useless())
    with pytest.warns(UserWarning, match="no libnvrtc; using the CPU"):
        assert cuda.resolve("auto") is None


# -- the scale of z -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_tests_of_z_have_the_bits_of_the_cpu(seed, device):
    """t and F, one and two tails, steps of each map's own maximum and fixed ones, clusters, counts."""
    rng = np.random.default_rng(seed)
    grid, n = Grid(rng.random((7, 6, 5)) < 0.9), 12
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=(n, 2))]
    data = rng.normal(size=(n, grid.n_voxels)).astype(np.float32)
    if seed % 2:
        data = np.round(2 * data)  # ties
    is_f = seed in (1, 4)
    contrast = np.eye(4)[1:3] if is_f else np.eye(4)[1]
    shuffler = Shuffler(design @ np.atleast_2d(contrast).T, Permutations(30, seed))
    powers = [(2, 0.5, 6), (2, 0.7, 18), (1.5, 1, 26), (0, 2, 6), (2, 0.5, 6)]
    tfce = Tfce(*powers[seed], rule="palm", delta=0.1 if seed == 3 else None)
    choice = Statistics(True, tfce, 1.5, 1.2, uncorrected=seed != 2)
    results = []
    for where in (None, device):
        if seed >= 3:
            evs = {3: rng.normal(size=data.shape).astype(np.float32), -2: np.float32(rng.random(data.shape) < 0.1)}
            evs = results[0][2] if results else evs
            model = VoxelwiseGlm(data, design, contrast, evs, is_f=is_f, device=where)
        else:
            evs = None
            model = Glm(data, partition(design, contrast, is_f=is_f), shuffler.invariant, device=where)
        model = ZScale(model)
        if seed == 2:
            model = Magnitude(model)
        observed = PermutationTest(model, grid, shuffler, choice, signs=1 if is_f or seed == 2 else 2).observe()
        results.append((observed, observed.run(0, 30), evs))
    (mine, ours, _), (theirs, found, _) = results
    np.testing.assert_array_equal(mine.statistic, theirs.statistic)
    for name, values in mine.observed.items():
        np.testing.assert_array_equal(values, theirs.observed[name], err_msg=name)
        rows = slice(0, mine.test.signs)
        np.testing.assert_array_equal(ours.maxima[name][rows], found.maxima[name][rows], err_msg=name)
        if choice.uncorrected:
            np.testing.assert_array_equal(ours.below[name][rows], found.below[name][rows], err_msg=name)


def test_own_steps_take_more_room_for_edges_and_refuse_what_is_not_finite(device):
    rng = np.random.default_rng(0)
    grid = Grid(rng.random((8, 7, 6)) < 0.9)
    z = rng.normal(size=(3, grid.n_voxels)).astype(np.float32)
    z[1] = -np.abs(z[1])
    options = Tfce(rule="palm")
    here, there = OwnSteps(grid, options, 2), OwnSteps(grid, options, 2, device)
    there.enhancer.__dict__["_edge_room"] = [1]
    maxima, maps = here._run(z, True)
    maps_there = devices.settled(device, lambda outcomes: there.promised_both(device.upload(z), outcomes))
    np.testing.assert_array_equal(maps_there[0].value, maxima)
    np.testing.assert_array_equal(device.download(maps_there[1]), maps)
    there.enhancer.__dict__["_edge_room"] = [1]
    found = devices.settled(device, lambda outcomes: there.promised_maxima(device.upload(z), outcomes))
    np.testing.assert_array_equal(found.value, maxima)
    for value in (np.nan, np.inf, -np.inf):
        z[2, 5] = value
        with pytest.raises(InputError, match="not a number"):
            devices.settled(device, lambda outcomes: there.promised_maxima(device.upload(z), outcomes))
