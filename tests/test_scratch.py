"""Data in a scratch folder: the same bits as in memory, little memory, and nothing left behind, however it ends."""

from __future__ import annotations

import dataclasses
import gzip
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gpuvox import estimates, files, scratch
from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.application import api, cost, fingerprint
from gpuvox.cli import main_randomise
from gpuvox.errors import FileError, ScratchError
from gpuvox.glm import Nuisance
from gpuvox.grid import Grid
from gpuvox.scratch import WIDTH, Tiles, as_tiles, block, count_constant, take
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from tests.conftest import overriding, save, vest
from tests.cuda_on_cpu.shim import CXX, ShimDevice
from tests.test_device import assert_same


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# -- tiles ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def folder(request, tmp_path, monkeypatch):
    """A scratch folder, or "" for memory; files are read in several ranges, and written a few rows at a time."""
    monkeypatch.setattr(scratch, "READ_BYTES", 3000)
    monkeypatch.setattr(scratch, "WRITE_BYTES", 4 * 700 * 3)
    return str(tmp_path) if request.param == "file" else ""


@pytest.mark.parametrize("shape", [(1, 1), (5, WIDTH - 1), (7, WIDTH), (7, WIDTH + 1), (4, 1100), (3, 0)])
def test_tiles_give_back_what_was_written(folder, rng, shape):
    values = rng.normal(size=shape).astype(np.float32)
    tiles = Tiles(*shape, folder)
    put = tiles.writer()
    for i, row in enumerate(values):
        put(i, row)
    everything = slice(None)
    np.testing.assert_array_equal(tiles.block(everything, everything), values)
    np.testing.assert_array_equal(as_tiles(values, folder).values, tiles.values)
    assert not tiles.values[-1:, :, shape[1] % WIDTH or WIDTH :].any()  # zeros beyond the last voxel
    for start, stop in ((0, 1), (0, shape[1]), (shape[1] // 3, shape[1] // 2), (250, 600)):
        for rows in (everything, slice(1, 3)):
            found = block(tiles, rows, slice(start, stop))
            np.testing.assert_array_equal(found, values[rows, start:stop])
    if shape[1]:
        voxels = rng.integers(0, shape[1], 50)
        np.testing.assert_array_equal(take(tiles, voxels), values[:, voxels])
        np.testing.assert_array_equal(take(values, voxels), values[:, voxels])


def test_a_sweep_is_whole_and_begins_where_another_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "READ_BYTES", 2 * 4 * WIDTH * 3)
    tiles = Tiles(3, 9 * WIDTH, str(tmp_path))
    assert list(tiles.sweep()) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    first = tiles.sweep()
    begun = [next(first) for _ in range(3)]  # begins with the last range, which is still in memory
    second = list(tiles.sweep())
    assert second[0] == begun[-1]
    for ranges in (begun + list(first), second):
        assert sorted(ranges) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]


def test_constant_voxels_are_counted(folder, rng):
    values = rng.normal(size=(6, 9000)).astype(np.float32)
    values[:, [0, 255, 256, 8999]] = 3
    assert count_constant(values) == count_constant(as_tiles(values, folder)) == 4


# -- the same bits --------------------------------------------------------------------------------------------------


def study(seed: int) -> tuple[Inputs, Options]:
    """An analysis over several tiles; what is asked of it depends on the seed."""
    rng = np.random.default_rng(seed)
    grid = Grid(rng.random((11, 10, 9)) < 0.9, voxel_size=(2.0, 2.0, 3.0))
    n = 14
    design = np.c_[np.ones(n), np.arange(n) % 2, rng.normal(size=(n, 2))]
    contrasts, f_tests = np.array([[0, 1, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0.0]]), np.array([[1, 0, 1]])
    data = rng.normal(size=(n, grid.n_voxels)) + (300 if seed % 2 else 0)  # float32 cancels
    data = np.round(data) if seed % 3 == 0 else data  # ties
    data[:, 300] = 5
    evs = {3: rng.normal(size=data.shape).astype(np.float32)} if seed >= 6 else {}
    wanted = Statistics(True, Tfce(), 2.0, 2.0, uncorrected=seed % 2 == 0, two_pass=seed % 3 == 1)
    options = Options(
        wanted, dataclasses.replace(wanted, two_pass=False), n_permutations=48, seed=seed, flip=seed == 2,
        demean=seed == 5, nuisance=Nuisance(seed % 4 if seed % 4 != 3 else 1),
        variance_mm=3.0 if seed in (4, 7) else 0.0, threads=3,
    )  # fmt: skip
    return Inputs(data.astype(np.float32), grid, design, contrasts, f_tests, None, evs), options


def in_folder(inputs: Inputs, options: Options, folder: Path) -> tuple[Inputs, Options]:
    tiles = as_tiles(inputs.data, str(folder))
    evs = {column: as_tiles(ev, str(folder)) for column, ev in inputs.evs.items()}
    return dataclasses.replace(inputs, data=tiles, evs=evs), dataclasses.replace(options, scratch=str(folder))


@pytest.mark.parametrize("seed", range(8))
def test_every_option_gives_the_bits_of_memory(seed, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "READ_BYTES", 4 * WIDTH * 14 + 1)  # a tile a range
    inputs, options = study(seed)
    expected = list(analyse(prepare(inputs, options)))
    assert_same(expected, list(analyse(prepare(*in_folder(inputs, options, tmp_path)))))
    assert_same(expected, list(analyse(prepare(inputs, dataclasses.replace(options, scratch=str(tmp_path))))))
    assert os.listdir(tmp_path) == []
    tiles, both = in_folder(inputs, options, tmp_path)
    for name, values in estimates.parameter_estimates(inputs, options.demean).items():
        np.testing.assert_array_equal(estimates.parameter_estimates(tiles, both.demean)[name], values)


class Small(ShimDevice):
    """A device that has room for nothing but slabs."""

    def free_bytes(self):
        return 150_000


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
@pytest.mark.parametrize("seed", [0, 1, 4, 6])
@pytest.mark.parametrize("kind", [ShimDevice, Small])
def test_a_device_gives_the_same_from_a_file(seed, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuvox.glm._UPLOAD_BYTES", 4 * 3 * 1000)
    inputs, options = study(seed)
    options = dataclasses.replace(options, n_permutations=12)
    expected = list(analyse(prepare(inputs, options)))
    tiles, both = in_folder(inputs, options, tmp_path)
    assert_same(expected, list(analyse(prepare(tiles, dataclasses.replace(both, device=kind())))))


# -- the command ----------------------------------------------------------------------------------------------------


BASE = [
    "-i",
    "data",
    "-o",
    "out",
    "-m",
    "mask",
    "-d",
    "design.mat",
    "-t",
    "design.con",
    "-n",
    "20",
    "--seed",
    "3",
    "--quiet",
]


def written(folder: Path, root: str = "out") -> dict[str, bytes]:
    return {path.name.removeprefix(root): path.read_bytes() for path in sorted(folder.glob(f"{root}_*.nii*"))}


def test_the_command_writes_the_same_files(study_files, tmp_path):
    options = ["-T", "-x", "--uncorrp", "-c", "1.5", "-f", "design.fts", "--glm_output"]
    assert main_randomise([*BASE, *options]) == 0
    (tmp_path / "scratch").mkdir()
    assert main_randomise(overriding(BASE, ["--scratch", "scratch", *options, "-o", "tiled"])) == 0
    assert written(study_files) == written(study_files, "tiled") != {}
    assert os.listdir("scratch") == []
    # Voxelwise EVs, and no mask.
    options = [*BASE[:4], *BASE[6:], "--vxl", "3", "--vxf", "data", "-x"]
    assert main_randomise(overriding(options, ["-o", "ev"])) == 0
    assert main_randomise(overriding(options, ["-o", "evtiled", "--scratch", "scratch"])) == 0
    assert written(study_files, "ev") == written(study_files, "evtiled") != {}


study_files = pytest.fixture(lambda study: study)


def test_from_python(study_files, tmp_path):
    given = {"mask": "mask.nii.gz", "n_permutations": 20, "seed": 1, "tfce": True, "device": "cpu"}
    expected = api.randomise("data", "design.mat", "design.con", **given)
    for data in ("data", nib.load("data.nii.gz")):
        found = api.randomise(data, "design.mat", "design.con", scratch=tmp_path, **given)
        for name, values in expected.maps.items():
            np.testing.assert_array_equal(found.maps[name], values)
    assert isinstance(api.randomise("data", scratch=tmp_path, n_permutations=2).inputs.data, Tiles)


def sentence(capsys, *words: str) -> str:
    assert main_randomise([*BASE, *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not list(Path().glob("out*"))
    return said


def test_a_folder_that_cannot_be_used_is_one_sentence(study_files, capsys):
    assert "nowhere does not exist" in sentence(capsys, "--scratch", "nowhere")
    Path("file").touch()
    assert "is a file" in sentence(capsys, "--scratch", "file")


def test_a_full_disk_is_one_sentence(study_files, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        said = sentence(capsys, "--scratch", ".")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot hold a file of 0.00 GiB (File too large)" in said
    with pytest.raises(ScratchError, match="cannot hold a file of 93132"):
        Tiles(10**6, 25 * 10**7, ".")  # 10^15 bytes: more than any disk has


def test_without_a_folder_too_much_data_is_one_sentence(study_files, capsys, monkeypatch):
    monkeypatch.setattr(cost, "available_bytes", lambda: 1000)
    said = sentence(capsys)
    assert "10 volumes of 120 voxels take 0.0 GiB of memory, and 0.0 GiB are free; --scratch DIR" in said
    assert main_randomise([*BASE, "--scratch", "."]) == 0
    assert (cost.data_bytes(10, 120, 0), cost.data_bytes(10, 120, 2)) == (9600, 24000)


def test_nothing_is_left_when_the_process_is_killed(study_files, tmp_path):
    (tmp_path / "scratch").mkdir()
    command = [
        sys.executable,
        "-m",
        "gpuvox",
        "randomise",
        *overriding(BASE, ["-T", "-n", "100000", "--scratch", "scratch"]),
    ]
    process = subprocess.Popen(command)
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while "scratch/" not in maps.read_text():  # until it has one
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    assert os.listdir("scratch") == []  # no name from the beginning
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert os.listdir("scratch") == []


@pytest.mark.long
def test_anonymous_memory_does_not_grow_with_the_data(tmp_path, rng):
    """The data, 30 MB, and their residuals are not in it."""
    n, shape = 300, (30, 30, 28)
    image = nib.Nifti1Image(rng.normal(size=(*shape, n)).astype(np.float32), np.diag([2.0, 2, 2, 1]))
    nib.save(image, tmp_path / "data.nii")
    save(tmp_path / "mask.nii", np.ones(shape))
    vest(tmp_path / "design.mat", np.c_[np.arange(n) % 2, 1 - np.arange(n) % 2])
    vest(tmp_path / "design.con", [[1, -1]], ("NumWaves", "NumContrasts"))
    code = (
        "import sys\nfrom gpuvox.cli import main_randomise\nfrom gpuvox.application import cost\n"
        "with cost._watched(True) as peak:\n    main_randomise(sys.argv[1:])\nprint(peak[0])"
    )
    peaks = {}
    for words in ((), ("--scratch", ".")):
        done = subprocess.run(
            [sys.executable, "-c", code, *BASE, *words, "-x"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        peaks[words] = int(done.stdout)
    saved = peaks[()] - peaks["--scratch", "."]
    assert saved > 0.8 * 8 * n * np.prod(shape)


# -- many files -----------------------------------------------------------------------------------------------------


def separate(folder: Path) -> list[str]:
    """The volumes of data.nii.gz as files of their own, in a folder of their own."""
    (folder / "maps").mkdir()
    image = nib.load(folder / "data.nii.gz")
    names = []
    for i in range(image.shape[3]):
        names.append(f"maps/s{9 - i}.nii.gz")  # not in the order of the names
        nib.save(nib.Nifti1Image(image.dataobj[..., i], image.affine, image.header), folder / names[-1])
    return names


def test_images_from_a_column_of_a_table(study_files, capsys, monkeypatch):
    names = separate(study_files)
    rows = [f"sub-{i:02}\t{name}\t{30 + i}" for i, name in enumerate(names)]
    (study_files / "participants.tsv").write_text("\n".join(["participant_id\tr1\tage", *rows]) + "\n")
    assert main_randomise([*BASE, "-x"]) == 0
    monkeypatch.chdir(study_files / "maps")  # names are relative to the table
    words = [word if word not in ("mask", "design.mat", "design.con") else f"../{word}" for word in BASE]
    words = ["../participants.tsv:r1" if word == "data" else word for word in words]
    assert main_randomise([*words, "-x"]) == 0
    assert written(study_files) == written(study_files / "maps") != {}
    capsys.readouterr()
    assert main_randomise([word.replace(":r1", ":r2") for word in words]) == 2
    assert "participants.tsv has no column 'r2'; it has participant_id, r1, age" in capsys.readouterr().err


def test_several_files_are_read_in_parallel_and_in_order(study_files, monkeypatch):
    names = [study_files / name for name in separate(study_files)]
    grid = files.read_mask("mask")
    expected = files.read_cohort("data", grid)
    for processors in (1, 3, 64):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        np.testing.assert_array_equal(files.read_cohort(names, grid), expected)
    tiles = files.read_tiles(names, grid, str(study_files))
    np.testing.assert_array_equal(tiles.block(slice(None), slice(None)), expected)


@pytest.mark.parametrize("place", [0, 4, 9])
def test_one_damaged_file_of_many_is_named(study_files, place):
    names = [study_files / name for name in separate(study_files)]
    whole = gzip.decompress(names[place].read_bytes())
    names[place].write_bytes(gzip.compress(whole[:-50]))
    with pytest.raises(FileError, match=f"{names[place].name} is truncated or damaged"):
        files.read_cohort(names, files.read_mask("mask"))


def test_a_run_is_the_same_run_in_memory_and_in_a_file(tmp_path):
    """So that one goes on from the checkpoint of the other."""
    data = np.random.default_rng(0).normal(size=(5, 700)).astype(np.float32)
    expected = fingerprint._hash(data)
    assert fingerprint._hash(as_tiles(data, str(tmp_path))) == expected
    assert fingerprint._hash(as_tiles(data, "")) == expected
    data[3, 600] += 1
    assert fingerprint._hash(as_tiles(data, str(tmp_path))) != expected
