"""How kernels are launched changes no bit, and is read from a file for the architecture."""

from __future__ import annotations

import ctypes
import re

import numpy as np
import pytest

from gpuvox import cuda, tuning
from gpuvox.grid import Grid
from gpuvox.tfce import Enhancer, Tfce
from gpuvox.tuning import DEFAULTS, Launch, Tuning
from tests.cuda_on_cpu.shim import CXX, ShimDevice, build
from tests.ptx import compilers

needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")

FILE = """
["tfce_peaks<6, false>"]
threads = 256
shared = 0.25

["glm_exact"]
resident = 1

[batch]
waves = 4
"""


def test_the_defaults_are_those_of_the_sources():
    source = (cuda.kernel_directory() / "tfce.cu").read_text()
    threads = int(re.search(r"#define PEAKS_THREADS (\d+)", source)[1])
    six, others = re.search(r"#define PEAKS_RESIDENT \(C == 6 && !FULL \? (\d) : (\d)\)", source).groups()
    for kernel in cuda.KERNELS["tfce"]:
        if kernel.startswith("tfce_peaks"):
            resident = int(six if kernel == "tfce_peaks<6, false>" else others)
            assert DEFAULTS[kernel] == Launch(threads, resident)
            assert Tuning().defines(kernel) == ()
    assert set(DEFAULTS) <= set(cuda.FAMILY)


def test_a_file_for_an_architecture(tmp_path):
    assert tuning.load("sm_90", tmp_path) == Tuning()
    (tmp_path / "sm_75.toml").write_text(FILE)
    tuned = tuning.load("sm_75", tmp_path)
    assert tuned.of("tfce_peaks<6, false>") == Launch(256, 3, 0.25)
    assert tuned.of("tfce_peaks<26, false>") == DEFAULTS["tfce_peaks<26, false>"]
    assert tuned.of("glm_exact") == Launch(128, 1)
    assert tuned.waves == 4
    assert tuned.defines("tfce_peaks<6, false>") == ("-DPEAKS_THREADS=256", "-DPEAKS_RESIDENT=3")
    assert tuned.defines("glm_exact") == tuned.defines("tfce_peaks<18, true>") == ()
    (tmp_path / "again.toml").write_text(tuned.as_toml())
    assert tuning.load("again", tmp_path) == tuned


def test_the_files_of_the_package_can_be_read():
    for path in tuning.FOLDER.glob("*.toml"):
        tuning.load(path.stem)


@pytest.mark.parametrize(
    "text",
    [
        "[glm_maps]\nthreads = 256", "[glm_exact]\nthreads = 256", "[glm_exact]\nblocks = 3",
        '["tfce_peaks<6, false>"]\nthreads = 100', '["tfce_peaks<6, false>"]\nresident = 0',
        '["tfce_peaks<6, false>"]\nshared = 1.5', "[batch]\nwaves = 0",
    ],
)  # fmt: skip
def test_a_file_that_is_wrong(text, tmp_path):
    (tmp_path / f"{abs(hash(text))}.toml").write_text(text)
    with pytest.raises(ValueError, match=r"\.toml: \["):
        tuning.load(f"{abs(hash(text))}", tmp_path)


class Launches(ShimDevice):
    """Remembers the launches of tfce_peaks."""

    def launch(self, kernel, blocks, threads, *arguments, shared=0):
        if kernel.startswith("tfce_peaks"):
            self.peaks = blocks, threads, shared
        super().launch(kernel, blocks, threads, *arguments, shared=shared)


@pytest.fixture
def maps():
    grid = Grid(np.ones((8, 7, 6), dtype=bool))
    return grid, np.random.default_rng(1).normal(size=(30, grid.n_voxels)).astype(np.float32)


@needs_compiler
def test_a_tuned_launch_gives_the_same_bits(maps):
    grid, stat = maps
    expected = Enhancer(grid, Tfce(), (0.1, 0.1)).maxima(stat)
    device = Launches(n_processors=2)
    device.tuning = Tuning({"tfce_peaks<6, false>": Launch(64, 4, 0.1)})
    found = Enhancer(grid, Tfce(), (0.1, 0.1), device=device).maxima(device.upload(stat))
    np.testing.assert_array_equal(found, expected)
    blocks, threads, shared = device.peaks
    assert (blocks, threads) == (8, 64)
    assert shared <= 0.1 * device.shared_bytes / 4 + 8000  # and the counts of levels


@needs_compiler
def test_the_clock_of_phases(maps):
    """Compiled in for bench/device alone: the same bits, and a time for every phase but the one for all voxels."""
    grid, stat = maps
    library = build("tfce", flags=("-DGPUVOX_PROFILE", "-O0"))
    expected = Enhancer(grid, Tfce(), (0.1, 0.1)).maxima(stat)
    device = ShimDevice(libraries={"tfce": library})
    found = Enhancer(grid, Tfce(), (0.1, 0.1), device=device).maxima(device.upload(stat))
    np.testing.assert_array_equal(found, expected)
    phases = (ctypes.c_uint64 * 16).in_dll(ctypes.CDLL(str(library)), "gpuvox_phases")
    assert [k for k in range(16) if phases[k]] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]


@pytest.mark.skipif(compilers.nvrtc() is None, reason="the package nvidia-cuda-nvrtc is not installed")
@pytest.mark.parametrize("define", ["-DGPUVOX_PROFILE", "-DPEAKS_THREADS=1024 -DPEAKS_RESIDENT=2"])
def test_nvidias_compiler_takes_the_clock_and_the_bounds(define):
    kernel = ("tfce_peaks<6, false>",)
    options = (*cuda.compile_options(), "--gpu-architecture=compute_90", *define.split())
    with compilers.Program(cuda.source("tfce"), "tfce", kernel, options) as program:
        assert program.status == 0, program.log()
        text = program.ptx()
    assert ("gpuvox_phases" in text) == ("clock64" in text) == (define == "-DGPUVOX_PROFILE")
    assert (".maxntid 1024" in text) == ("1024" in define)


def test_the_compiler_is_given_the_bounds(monkeypatch):
    device = object.__new__(cuda.CudaDevice)
    device.tuning = Tuning({"tfce_peaks<26, true>": Launch(1024, 2)})
    compiled = []

    class Cupy:
        @staticmethod
        def RawModule(code, options, name_expressions):
            compiled.append((options[-2:], name_expressions))

    device._cupy = Cupy
    device._module("tfce_peaks<26, true>")
    assert compiled == [(("-DPEAKS_THREADS=1024", "-DPEAKS_RESIDENT=2"), ("tfce_peaks<26, true>",))]
