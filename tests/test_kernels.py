"""The CUDA kernels without a GPU.

They compile for every architecture that is supported, and do not spill registers. On the CPU, a thread of the block
being a thread of the system, TFCE equals the naive sum of `naive_tfce` and the bits of the CPU's own loops; the
sanitizers find nothing; and all of this notices faults that are planted in the kernels.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bench.device.checks.compare import differences
from bench.device.checks.families import FAMILIES
from bench.device.checks.runs import whole_checks
from bench.device.lab import FULL, Lab
from gpuvox import cuda
from gpuvox.cluster import normalised_extents
from gpuvox.cuda import KERNELS, compile_options, kernel_directory
from gpuvox.grid import Grid
from gpuvox.tfce import CODE_LEVELS, Enhancer, LevelOverflow, Tfce
from tests.cuda_on_cpu import faults
from tests.cuda_on_cpu.shim import CXX, ShimDevice, build, cache_folder
from tests.naive import naive_tfce
from tests.ptx import compilers
from tests.selection import few

ROOT = Path(__file__).parent.parent
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
DRIVEN = ("tfce", "cluster")
POOL = ThreadPoolExecutor(2)
needs_compiler = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


@cache
def started(function, *arguments):
    """A call that has begun in the background; the same call is made once."""
    return POOL.submit(function, *arguments)


def selected_parameters(request) -> set[tuple[str, object]]:
    """The architectures and flags that tests of this module have, and the families with faults."""
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    parameters = [item.callspec.params for item in mine]
    selected = {(name, each[name]) for each in parameters for name in ("architecture", "flags") if name in each}
    return selected | {("fault", each["family"]) for each in parameters if "fault" in each}


@pytest.fixture(scope="module", autouse=True)
def compilations(request):
    """Begin whatever the tests that were selected will want compiled, in the order in which they want it."""
    selected = selected_parameters(request)
    if CXX is not None:
        started(build, "tfce")
        for family in DRIVEN:
            started(faults.driver, family, clean(family), faults.THREAD)
            if ("fault", family) in selected:
                started(faults.driver, family, faults.with_faults(family)[0], faults.THREAD)
            if ("flags", faults.ADDRESS) in selected:
                started(faults.driver, family, clean(family), faults.ADDRESS)
        for family in KERNELS:
            started(sanitized, family)
    if compilers.nvrtc() is not None:
        architectures = filter(lambda number: ("architecture", number) in selected, ARCHITECTURES)
        for architecture, family in product(architectures, KERNELS):
            started(compile_by_nvrtc, family, architecture)
    if shutil.which("nvcc"):
        for family in KERNELS:
            started(compile_by_nvcc, family)
    yield
    POOL.shutdown(cancel_futures=True)


def clean(family):
    return faults.shipped(family)


def sanitized(family):
    return build(family, flags=(*faults.ADDRESS, "-g"))


# -- TFCE against brute force ---------------------------------------------------------------------------------------

POWERS = [(2.0, 0.5), (1.0, 1.0), (0.0, 0.5), (2.0, 0.0), (1.0, 0.67), (0.0, 0.0)]
KINDS = ("continuous", "ties", "plateaus", "constant", "one sign", "nearly nothing")
BATCHES = {1: 15, 2: 15, 3: 15, 7: 15, 16: 12, 64: 4}
MAPS = 5


def random_map(rng, kind, size):
    t = np.clip(rng.normal(size=size) * 1.3, -3, 3)
    if kind == "ties":
        t = np.round(2 * t) / 2
    elif kind == "plateaus":
        t = np.repeat(rng.integers(-2, 3, -(-size // 4)), 4)[:size].astype(float)
    elif kind == "constant":
        t = np.full(size, rng.choice([-1.5, 0.0, 1.0, 2.9]))
    elif kind == "one sign":
        t = -np.abs(t)
    elif kind == "nearly nothing":
        t[rng.random(size) < 0.8] = 0
    return t.astype(np.float32)


def random_grid(rng):
    shape = rng.integers(1, (6, 5, 4)) if rng.random() < 0.9 else (1, 1, 1)
    mask = rng.random(shape) < rng.choice([0.5, 0.8, 1.0])
    mask.flat[0] = True
    return Grid(mask)


def on_shim(make, t, device):
    """(maxima, maps) of the kernels; both calls of tfce_peaks."""
    stat = device.upload(t)
    on = Enhancer(make.grid, make.options, make.deltas, make.cap, device)
    maxima, maps = on.maxima(stat), device.download(on.enhance(stat))
    return maxima, maps


def shared_bytes_for(cap, peaks):
    """Shared memory such that so many peaks fit, and no more."""
    return 3 * (12 * (cap + 1) + 1024 + 12 * peaks) + 24


@needs_compiler
@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("threads", few(BATCHES, 2, 3))
def test_scores_are_those_of_the_naive_sum_and_of_the_cpu(threads, connectivity):
    """1,140 maps in all."""
    rng = np.random.default_rng([threads, connectivity])
    library = started(build, "tfce").result()
    for batch in range(BATCHES[threads]):
        grid = random_grid(rng)
        t = np.stack([random_map(rng, kind, grid.n_voxels) for kind in rng.choice(KINDS, MAPS)])
        # Steps without rounding, so that thresholds are met exactly; at times a blank sign.
        deltas = tuple(rng.choice([0.25, 0.375, 0.5, 0.0], 2, p=[0.4, 0.3, 0.2, 0.1]))
        options = Tfce(*POWERS[batch % len(POWERS)], connectivity)
        # Counts by level fit in shared memory or not; so do no peak, two peaks or all of them.
        cap = (16, 3000)[batch % 4 == 3]
        shared = shared_bytes_for(cap if cap < 3000 else 0, (0, 2, 4000)[batch % 3])
        device = ShimDevice(threads, n_processors=1 + batch % 2, shared_bytes=shared, libraries={"tfce": library})
        make = Enhancer(grid, options, deltas, cap)
        maxima, maps = on_shim(make, t, device)
        np.testing.assert_array_equal(maps, make.enhance(t))
        np.testing.assert_array_equal(maxima, make.maxima(t))
        for row, sign in enumerate((1, -1)):
            ours = make.to_float(np.maximum(sign * maps, 0), row)
            for one, score in zip(t, ours):
                image = grid.to_volume(sign * one)
                expected = grid.to_vector(naive_tfce(image, deltas[row], options.H, options.E, connectivity))
                np.testing.assert_allclose(score, expected, rtol=1e-6, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_room_for_edges_that_is_too_small_grows(connectivity):
    rng = np.random.default_rng(connectivity)
    grid, device = Grid(rng.random((7, 6, 5)) < 0.9), ShimDevice(3)
    t = rng.normal(size=(9, grid.n_voxels)).astype(np.float32)
    make = Enhancer(grid, Tfce(connectivity=connectivity), (0.05, 0.06), 128)
    on = Enhancer(grid, make.options, make.deltas, make.cap, device)
    on._edge_room[0] = 1
    np.testing.assert_array_equal(on.maxima(device.upload(t)), make.maxima(t))
    assert len(device.launched) == 2
    assert on._edge_room[0] > 9
    on._edge_room[0] = 1
    np.testing.assert_array_equal(device.download(on.enhance(device.upload(t))), make.enhance(t))
    assert len(device.launched) == 4


@needs_compiler
@pytest.mark.parametrize("cap", [7, 2100, CODE_LEVELS + 1])
@pytest.mark.parametrize("full", [False, True])
def test_tables_that_are_too_short_say_what_is_needed(cap, full):
    rng = np.random.default_rng(cap)
    grid, device = Grid(np.ones((4, 3, 3), bool)), ShimDevice(3)
    t = rng.normal(size=(6, grid.n_voxels)).astype(np.float32)
    for row in range(2):
        peak = max((t, -t)[row].max(axis=1))
        deltas = [10.0, 10.0]
        deltas[row] = peak / (1.1 * cap + 3.5)  # float32 sums of many steps come out too high
        needed = []
        for where, stat in ((None, t), (device, device.upload(t))):
            make = Enhancer(grid, Tfce(), tuple(deltas), cap, where)
            with pytest.raises(LevelOverflow) as caught:
                make.enhance(stat) if full else make.maxima(stat)
            needed.append(caught.value.needed)
        assert cap < needed[0] == needed[1]


@needs_compiler
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("options", "cap"), [(Tfce(), 50), (Tfce(), CODE_LEVELS + 1), (Tfce(exact=True), 50)])
def test_what_is_not_a_number_is_refused(value, options, cap):
    grid, device = Grid(np.ones((3, 3, 2), bool)), ShimDevice(2)
    t = np.ones((3, 18), np.float32)
    t[1, 7] = value
    messages = []
    for where, stat in ((None, t), (device, device.upload(t))):
        make = Enhancer(grid, options, (0.1, 0.1), cap, where)
        for call in (make.maxima, make.enhance):
            with pytest.raises(ValueError, match="not a number") as caught:
                call(stat)
            messages.append(str(caught.value))
    assert len(set(messages)) == 1


@needs_compiler
@pytest.mark.parametrize("threads", few([16, 1, 3], 1))
@pytest.mark.parametrize(
    "options",
    [Tfce(), Tfce(connectivity=26), Tfce(exact=True), Tfce(1, 1, 18, exact=True), Tfce(1.5, 0.67, 26, exact=True)],
)
def test_voxel_by_voxel(options, threads):
    """More levels than int16 holds, and the exact integral."""
    rng = np.random.default_rng(threads)
    for trial in range(6):
        grid, device = random_grid(rng), ShimDevice(threads, n_processors=1)
        t = np.stack([random_map(rng, kind, grid.n_voxels) for kind in KINDS])
        make = Enhancer(grid, options, (1e-4, 0.0 if trial == 5 else 1.5e-4), CODE_LEVELS + 1)
        maxima, maps = on_shim(make, t, device)
        assert f"tfce_grow<{'double' if options.exact else 'long long'}>" in device.launched
        assert not any(kernel.startswith("tfce_peaks") for kernel in device.launched)
        if float(options.H).is_integer():
            np.testing.assert_array_equal(maps, make.enhance(t))
            np.testing.assert_array_equal(maxima, make.maxima(t))
        else:  # numpy's power is not the C library's
            np.testing.assert_allclose(maps, make.enhance(t), rtol=1e-13)
            np.testing.assert_allclose(maxima, make.maxima(t), rtol=1e-13)


@needs_compiler
def test_maps_that_are_grown_voxel_by_voxel_are_a_few_to_a_launch(monkeypatch):
    """One to a block: more would keep a graphics card busy for longer than a system with a display puts up with."""
    monkeypatch.setattr("gpuvox.tfce._GROW_RESIDENT", 2)
    grid, device = Grid(np.ones((4, 3, 3), bool)), ShimDevice(n_processors=1)
    t = np.random.default_rng(0).normal(size=(7, grid.n_voxels)).astype(np.float32)
    make = Enhancer(grid, Tfce(exact=True), (0.1, 0.1))
    maxima, maps = on_shim(make, t, device)
    np.testing.assert_array_equal(maps, make.enhance(t))
    np.testing.assert_array_equal(maxima, make.maxima(t))
    assert device.launched.count("tfce_grow<double>") == 2 * 2 * 4  # maxima and maps, signs, launches of two maps


@needs_compiler
def test_extents_without_a_local_mean_are_zero_without_a_sign():
    """The bits, not only the values: -0.0 equals 0.0."""
    rng = np.random.default_rng(0)
    grid, device = Grid(np.ones((6, 5, 4), bool)), ShimDevice()
    t = rng.normal(size=(4, grid.n_voxels)).astype(np.float32)
    nowhere = np.zeros((2, grid.n_voxels))
    expected = normalised_extents(t, grid, 1.0, nowhere)
    found = device.download(normalised_extents(device.upload(t), grid, 1.0, nowhere, device))
    assert not expected.any()
    np.testing.assert_array_equal(found.view(np.int64), expected.view(np.int64))


# -- sanitizers and planted faults ----------------------------------------------------------------------------------

SEED, TRIALS = 1, 200
ENDLESS = {"hooking without order of the numbers", "voxels point both ways along a tie"}


def skip_without(flags):
    reason = faults.why_no_sanitizer(flags)
    if reason:
        pytest.skip(f"programs with {flags[1]} do not run here: {reason[:300]}")


@needs_compiler
@pytest.mark.parametrize("family", few(DRIVEN, 1))
@pytest.mark.parametrize(
    "flags", [faults.THREAD, pytest.param(faults.ADDRESS, marks=pytest.mark.long)], ids=["thread", "address"]
)
def test_the_sanitizers_find_nothing(family, flags):
    skip_without(flags)
    program = started(faults.driver, family, clean(family), flags).result()
    outcome, printed = faults.drive(program, SEED, TRIALS)
    assert outcome == "right", printed


ANALYSES = """
import dataclasses, sys
from gpuvox.analysis import analyse, prepare
from gpuvox.cuda import FAMILY
from tests.cuda_on_cpu.shim import ShimDevice
from tests.test_device import study
launched = set()
for seed in (1, 2, 3):
    device = ShimDevice(max_threads=2, libraries=dict(a.split("=") for a in sys.argv[1:]))
    inputs, options = study(seed)
    list(analyse(prepare(inputs, dataclasses.replace(options, n_permutations=12, device=device))))
    launched |= {FAMILY[kernel] for kernel in device.launched}
print(*sorted(launched))
"""


@pytest.mark.long
@needs_compiler
def test_the_address_sanitizer_finds_nothing_in_whole_analyses():
    """All families through the host's code, so with the sizes and strides that it gives them."""
    skip_without(faults.ADDRESS)
    libraries = [f"{family}={started(sanitized, family).result()}" for family in KERNELS]
    found = subprocess.run([CXX, "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    if not Path(found).is_absolute():
        pytest.skip("no libasan.so to be loaded before Python")
    outcome, printed = faults.supervised(
        [sys.executable, "-c", ANALYSES, *libraries],
        100,
        LD_PRELOAD=found,
        PYTHONMALLOC="malloc",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    )
    assert outcome == "right", printed[-3000:]
    assert {"glm", "voxelwise", "smooth", "cluster", "maps", "tfce"} <= set(printed.split())


@cache
def outcomes(family):
    """What comes of each fault; number 0 is none, and runs by itself."""
    text, names = faults.with_faults(family)
    program = started(faults.driver, family, text, faults.THREAD).result()
    clean_run = faults.drive(program, SEED, TRIALS)[0]
    work = ThreadPoolExecutor(2)
    runs = [
        work.submit(faults.drive, program, SEED, TRIALS, i + 1, 2 if name in ENDLESS else 6)
        for i, name in enumerate(names)
        if name not in faults.HARMLESS[family]
    ]
    numbered = [name for name in names if name not in faults.HARMLESS[family]]
    return {"": clean_run} | {name: run.result()[0] for name, run in zip(numbered, runs)}


def planted():
    for family in DRIVEN:
        names = faults.with_faults(family)[1]
        assert set(faults.HARMLESS[family]) <= set(names), "a harmless fault that is none any more"
        yield family, ""
        yield from ((family, name) for name in names if name not in faults.HARMLESS[family])


@needs_compiler
@pytest.mark.parametrize(
    ("family", "fault"),
    # All faults of a family are compiled with the first of them.
    [pytest.param(*each, marks=pytest.mark.long if each[0] in ("tfce", "cluster") else ()) for each in planted()],
)
def test_planted_faults_are_noticed(family, fault):
    skip_without(faults.THREAD)
    outcome = outcomes(family)[fault]
    assert (outcome == "right") == (fault == ""), outcome


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("family", [*FAMILIES, "whole runs"])
def test_the_checks_for_gpu_machines_at_their_own_sizes(family):
    """What `bench/device` will compare on a GPU, with its sizes: all but the number of maps and permutations."""
    lab = Lab(None, replace(FULL, maps=3, masks=90, checked=60, capped=8))
    wrong = {}
    for check in (FAMILIES | {"whole runs": whole_checks})[family](lab):
        expected = check.results(None)
        found = list(differences(expected, check.results(ShimDevice()), check.tolerance))
        if found:
            wrong[check.name] = found[0]
    assert not wrong


# -- compilers ------------------------------------------------------------------------------------------------------


def compile_by_nvrtc(family, architecture):
    """The compiler's log; its first line tells whether it succeeded. Kept with the other things compiled."""
    options = (*compile_options(), f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v")
    text = cuda.source(family)
    content = repr((text, options, compilers.nvrtc_version(), KERNELS[family]))
    kept = cache_folder() / f"{family}-sm_{architecture}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.log"
    if not kept.exists():
        with compilers.Program(text, family, KERNELS[family], options) as program:
            missing = [kernel for kernel in KERNELS[family] if kernel not in program.names()]
            log = f"status {program.status}, missing {missing}\n{program.log()}"
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as file:
            file.write(log)
        Path(file.name).replace(kept)
    return kept.read_text()


def warnings_in(log, architecture):
    """Warnings that count."""
    lines = [
        line for line in log.splitlines() if "warning" in line and "declared but never referenced" not in line
    ]
    if architecture == 75:
        # A multiprocessor of sm_75 has 1024 threads, so that three blocks of 512 cannot be asked for.
        lines = [line for line in lines if ".minnctapersm will be ignored" not in line]
    return lines


def spills_in(log):
    """(bytes spilled by each function, number of kernels)."""
    spilled = [int(a) + int(b) for a, b in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)]
    return spilled, log.count("Compiling entry function")


@pytest.mark.parametrize("family", KERNELS)
@pytest.mark.parametrize(
    "architecture",
    [
        number if number in (75, 90, 120) else pytest.param(number, marks=pytest.mark.long)
        for number in ARCHITECTURES
    ],
)
def test_every_kernel_compiles_and_spills_nothing(family, architecture):
    if compilers.nvrtc() is None:
        pytest.skip("the package nvidia-cuda-nvrtc is not installed")
    log = started(compile_by_nvrtc, family, architecture).result()
    assert log.startswith("status 0, missing []\n"), log
    assert not warnings_in(log, architecture), log
    spilled, n_kernels = spills_in(log)
    assert n_kernels == len(KERNELS[family]), log
    assert len(spilled) >= n_kernels
    assert not any(spilled), log


def compile_by_nvcc(family):
    """(exit status, what was printed) for sm_90."""
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "unit.cu"
        unit.write_text(f'#include "{family}.cu"\n{compilers.instantiations(family)}')
        options = [*compile_options(), "-arch=sm_90", "-cubin", "-Xptxas", "-v", "-o", unit.with_suffix(".cubin")]
        done = subprocess.run([shutil.which("nvcc"), *options, unit], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.long  # NVRTC, which users have, is asked for every architecture in every suite
@pytest.mark.parametrize("family", KERNELS)
def test_nvcc_spills_nothing(family):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on the PATH")
    status, log = started(compile_by_nvcc, family).result()
    assert status == 0, log
    assert not warnings_in(log, 90), log
    spilled, n_kernels = spills_in(log)
    assert n_kernels == len(KERNELS[family]), log
    assert len(spilled) >= n_kernels
    assert not any(spilled), log


def test_the_options_change_with_the_headers(tmp_path, monkeypatch):
    """CuPy keeps what it has compiled by text and options, and does not look into headers."""
    folder = tmp_path / "kernels"
    shutil.copytree(kernel_directory(), folder)
    monkeypatch.setattr(cuda, "kernel_directory", lambda: folder)
    before = compile_options()
    assert before == compile_options()
    (folder / "tfce.cu").write_text("// not a header\n")
    assert before == compile_options()
    with (folder / "common.cuh").open("a") as header:
        header.write("\n")
    assert before != compile_options()
