"""Is gpuvox right on this GPU, and how fast is it? One script, for a machine with nothing but a checkout.

    python bench/device.py --out DIR

In order: facts and measured ceilings of the device; the CPU's results against the device's, bit for bit; NVIDIA's
compute-sanitizer on a small part of that; timings, each beside the least time that the bytes and operations which the
job cannot do without take at the measured ceilings. A table comes last, everything goes to DIR as JSON
(`results/README.md`). Exit status: 0, 1 if a check failed, 2 without a GPU.

Needs numpy, scipy, numba and CuPy. Without threadpoolctl or nibabel the parts that need them are skipped, by name.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.cohort import brain_grid, cohort, smooth_noise, smooth_t_maps
from gpuvox import reductions as primitives
from gpuvox.cluster import cluster_maps, cluster_maxima, normalised_extents
from gpuvox.device import Device, OutOfDeviceMemory, why_not
from gpuvox.glm import Glm, Nuisance, f_to_z
from gpuvox.grid import Grid
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest
from gpuvox.qmri import FieldConversion, Inversion, TissueModel
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.statistics import Statistics
from gpuvox.tally import Tally
from gpuvox.tfce import Enhancer, Tfce, step_size
from gpuvox.voxelwise import VoxelwiseGlm

ROOT = Path(__file__).resolve().parents[1]
GB = 1 << 30
EXECUTORS = find_spec("threadpoolctl") is not None
"""gpuvox.executors and gpuvox.analysis can be imported."""
COMMAND = EXECUTORS and all(find_spec(name) for name in ("nibabel", "pandas"))
"""The command can be run."""


# -- sizes, time, results ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes
    ----------
    seconds : float
        Time for the whole script.
    mm, fine_mm, coarse_mm : float
        Voxel sizes of the brain: the usual one, the fine one, and that of whole analyses and of models.
    masks : int
        Random small masks for TFCE.
    maps : int
        Maps of a check on the brain of `mm`.
    subjects : tuple of int
        For the timing of t maps.
    n, fine_n : int
        Subjects of everything else, and of checks on the fine brain.
    checked, capped : int
        Permutations of whole tests that are checked, on the coarse brain and on the usual one.
    permutations, fine_permutations, cpu_permutations : int
        Permutations that are timed; the last per thread.
    batch : int
        Maps that are timed at a time.
    limits : tuple of int
        Limits of memory in bytes, largest first.
    copied : int
        Bytes of the copy that measures bandwidth.
    repeats : int
        Of a timing.
    """

    seconds: float = 480.0
    mm: float = 2.0
    fine_mm: float = 1.0
    coarse_mm: float = 6.0
    masks: int = 900
    maps: int = 6
    subjects: tuple[int, ...] = (40, 146, 1000)
    n: int = 146
    fine_n: int = 40
    checked: int = 1000
    capped: int = 160
    permutations: int = 10_000
    fine_permutations: int = 1024
    cpu_permutations: int = 24
    batch: int = 512
    limits: tuple[int, ...] = (4 * GB, GB, GB // 4)
    copied: int = 4 * GB
    repeats: int = 7


FULL = Sizes()
SMALL = Sizes(
    seconds=120.0, mm=10.0, fine_mm=8.0, coarse_mm=16.0, masks=12, maps=2, subjects=(20,), n=20, fine_n=12, checked=24,
    capped=8, permutations=64, fine_permutations=16, cpu_permutations=2, batch=8, limits=(64 << 20, 32 << 20),
    copied=1 << 24, repeats=2,
)  # fmt: skip

TINY = replace(
    SMALL, mm=18.0, fine_mm=16.0, coarse_mm=24.0, checked=8, capped=4, permutations=12, fine_permutations=4,
    cpu_permutations=1, batch=3, limits=(1 << 24, 1 << 21),
)  # fmt: skip
"""For compiling, and for the script's own tests."""

FWHMS = (0.0, 2.0, 3.5, 6.0)
"""Smoothness of the maps, in voxels."""


@dataclass
class Report:
    """Everything that goes to the JSON file."""

    facts: dict = field(default_factory=dict)
    checks: list[dict] = field(default_factory=list)
    sanitizer: list[dict] = field(default_factory=list)
    timings: list[dict] = field(default_factory=list)
    breakdowns: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    errors: list[dict] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """Names of what failed."""
        names = [c["name"] for c in (*self.checks, *self.sanitizer) if c["verdict"] == "failed"]
        return names + [error["name"] for error in self.errors]


class Cuda:
    """The GPU of this machine, and what CuPy measures of it.

    Parameters
    ----------
    pooled : bool
        False: each array is an allocation of its own, so that a memory checker knows its bounds.
    """

    def __init__(self, pooled: bool = True) -> None:
        import cupy

        from gpuvox.cuda import open_device

        self.cupy, self._open, self.pooled = cupy, open_device, pooled
        self.device = self.capped(None)

    def capped(self, limit: int | None) -> Device:
        """The device, of whose memory no more than `limit` bytes are used."""
        device = self._open(0, limit)
        if not self.pooled and limit is None:
            device._pool = Unpooled(self.cupy)
        return device

    def synchronise(self) -> None:
        """Wait until the device has done everything."""
        self.cupy.cuda.runtime.deviceSynchronize()

    def timed(self, work: Callable[[], Any]) -> float:
        """Milliseconds between events before and after."""
        start, stop = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, stop))

    def facts(self) -> dict:
        """Device, driver, versions, clocks."""
        runtime = self.cupy.cuda.runtime
        about = runtime.getDeviceProperties(0)
        return {
            "device": self.device.title.split(",")[0],
            "memory_bytes": int(about["totalGlobalMem"]),
            "multiprocessors": int(about["multiProcessorCount"]),
            "compute_capability": f"{about['major']}.{about['minor']}",
            "l2_bytes": int(about["l2CacheSize"]),
            "cupy": self.cupy.__version__,
            "cuda_driver": int(runtime.driverGetVersion()),
            "cuda_runtime": int(runtime.runtimeGetVersion()),
        }

    def compile(self) -> dict:
        """Seconds for each file of kernels, and what the compiler says of each kernel."""
        from gpuvox.cuda import KERNELS

        found: dict[str, dict] = {"seconds": {}, "kernels": {}}
        wanted = {"registers": "num_regs", "local_bytes": "local_size_bytes", "shared_bytes": "shared_size_bytes"}
        for family, names in KERNELS.items():
            start = perf_counter()
            compiled = {name: self.device.kernel(name) for name in names}
            found["seconds"][family] = perf_counter() - start
            for name, kernel in compiled.items():
                found["kernels"][name] = {key: int(getattr(kernel, value, -1)) for key, value in wanted.items()}
        return found

    def clocks(self) -> dict:
        """Driver, clocks and power limit as nvidia-smi says, if it answers."""
        wanted = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
        answer = first_line("nvidia-smi", f"--query-gpu={','.join(wanted)}", "--format=csv,noheader")
        return dict(zip(wanted, answer.split(", "))) if answer else {}

    def copy_rate(self, n_bytes: int, repeats: int) -> dict:
        """Bytes read and written per second by copies within the device."""
        runtime = self.cupy.cuda.runtime
        source, target = (self.device.empty(n_bytes, np.uint8) for _ in range(2))
        self.device.fill(source, -1)
        copy = partial(
            runtime.memcpyAsync, target.data.ptr, source.data.ptr, n_bytes, runtime.memcpyDeviceToDevice, 0
        )
        return rate(self, copy, 2 * n_bytes, repeats)

    def fma_rate(self, repeats: int) -> dict:
        """Float32 operations per second, a fused multiply-add counted as two."""
        kernel = self.cupy.RawKernel(MULTIPLY_ADD, "multiply_add")
        blocks, threads, rounds = 8 * self.device.n_processors, 512, 10_000
        out = self.device.empty(blocks * threads, np.float32)
        arguments = out, np.int32(rounds), np.float32(0.999), np.float32(0.001)
        work = partial(kernel, (blocks, 1, 1), (threads, 1, 1), arguments)
        return rate(self, work, 2 * 16 * 8 * rounds * blocks * threads, repeats)


MULTIPLY_ADD = """
extern "C" __global__ void multiply_add(float* out, int rounds, float a, float b) {
    float x[8], sum = 0.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = threadIdx.x + j;
    for (int i = 0; i < rounds; ++i) {
#pragma unroll
        for (int k = 0; k < 16; ++k)
#pragma unroll
            for (int j = 0; j < 8; ++j) x[j] = fmaf(x[j], a, b);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += x[j];
    out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
"""


class Unpooled:
    """In place of a memory pool."""

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy

    def malloc(self, size: int) -> Any:
        """Memory from the driver."""
        return self.cupy.cuda.MemoryPointer(self.cupy.cuda.Memory(size), 0)

    def free_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def used_bytes(self) -> int:
        """Not known, and not asked for without a limit."""
        return 0

    def free_all_blocks(self) -> None:
        """Nothing is kept."""


def rate(machine: Any, work: Callable[[], Any], amount: float, repeats: int) -> dict:
    """Amount per second: from the median time, the best, and the repeats."""
    work()
    times = [machine.timed(work) for _ in range(repeats)]
    return {"per_s": 1e3 * amount / float(np.median(times)), "best_per_s": 1e3 * amount / min(times), "ms": times}


@dataclass
class Lab:
    """What every part of the script has at hand."""

    machine: Any
    sizes: Sizes
    report: Report = field(default_factory=Report)
    out: Path | None = None
    started: float = field(default_factory=perf_counter)
    until: float = 1.0
    _made: dict = field(default_factory=dict)

    @property
    def device(self) -> Device:
        """The device."""
        return self.machine.device

    def once(self, make: Callable, *arguments: Any) -> Any:
        """What `make` makes, made once."""
        key = (make.__name__, *arguments)
        if key not in self._made:
            self._made[key] = make(*arguments)
        return self._made[key]

    def grid(self, mm: float) -> Grid:
        """The brain."""
        return self.once(brain_grid, mm)

    def data(self, mm: float, n: int, fwhm: float = 3.5) -> NDArray[np.float32]:
        """(n, V) smooth noise."""

        def noise(mm: float, n: int, fwhm: float) -> NDArray[np.float32]:
            return smooth_noise(self.grid(mm), n, fwhm, 1)

        return self.once(noise, mm, n, fwhm)

    def left(self) -> float:
        """Seconds that this part may still take."""
        return self.until * self.sizes.seconds - (perf_counter() - self.started)

    def allows(self, name: str, seconds: float) -> bool:
        """Whether there is time; what is left out is named."""
        if seconds <= self.left():
            return True
        self.report.left_out.append(name)
        return False

    def guarded(self, name: str, work: Callable[[], None], seconds: float = 5.0) -> None:
        """Do something if there is time; what goes wrong is noted, and the script goes on."""
        if not self.allows(name, seconds):
            return
        try:
            work()
        except Exception as error:
            self.report.errors.append({"name": name, "error": describe(error)})
            say(f"FAILED {name}: {type(error).__name__}: {error}")
        gc.collect()  # what failed may hold arrays
        self.device.forget()
        self.write()

    def write(self) -> None:
        """Everything so far, as JSON."""
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        device = re.sub(r"[^a-z0-9]+", "-", str(self.report.facts.get("device", "device")).lower()).strip("-")
        everything = self.report.__dict__ | {
            "failed": self.report.failed,
            "seconds": perf_counter() - self.started,
        }
        path = self.out / f"{device}-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps(everything, indent=1, default=plain) + "\n")


def plain(value: Any) -> Any:
    """Numpy's numbers for JSON."""
    return value.item() if isinstance(value, np.generic) else str(value)


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def without_paths(text: str) -> str:
    """Text with no folders of this machine in it."""
    return re.sub(r"(?<![\w.])(?:/[\w.+@-]+)+/", "", text)


def describe(error: Exception) -> str:
    """The last lines of a traceback."""
    return without_paths("".join(traceback.format_exception(error)))[-2000:]


def first_line(*command: str) -> str:
    """What a command prints first; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""


def n_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def host(device: Device | None, values: Any) -> NDArray:
    """Values on the host."""
    return values if device is None or isinstance(values, np.ndarray) else device.download(values)


def there(device: Device | None, values: NDArray) -> Any:
    """Values where the device has them."""
    return values if device is None else device.upload(values)


# -- 1. facts ---------------------------------------------------------------------------------------------------


def facts(lab: Lab) -> None:
    """Machine, versions, commit."""
    found = lab.report.facts
    found.update(lab.machine.facts())
    found["date"] = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    found |= {"python": platform.python_version(), "cpu": cpu_name(), "threads": n_threads()}
    for name in ("numpy", "scipy", "numba"):
        found[name] = sys.modules[name].__version__ if name in sys.modules else None
    found["commit"] = first_line("git", "rev-parse", "HEAD") or None
    found["modified"] = bool(first_line("git", "status", "--porcelain")) if found["commit"] else None
    found["sizes"] = lab.sizes.__dict__
    found["clocks_before"] = lab.machine.clocks()


def ceilings(lab: Lab) -> None:
    """What the device can do at most, measured."""
    copy = lab.machine.copy_rate(lab.sizes.copied, lab.sizes.repeats)
    fma = lab.machine.fma_rate(lab.sizes.repeats)
    lab.report.facts["ceilings"] = {"copy_bytes": copy, "float32_operations": fma}
    lab.report.facts["clocks_after_load"] = lab.machine.clocks()
    say(f"copy {copy['per_s'] / 1e12:.2f} TB/s, float32 {fma['per_s'] / 1e12:.1f} TFLOP/s (measured)")


def compile_kernels(lab: Lab) -> None:
    """What the compiler takes, and says."""
    lab.report.facts["compiled"] = lab.machine.compile()


def cpu_name() -> str:
    """Model of the processor, if Linux tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    match = re.search(r"model name\s*:\s*(.*)", text)
    return match[1] if match else platform.machine()


# -- 2. the CPU against the device, bit for bit -----------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A function of the device (None: the CPU) that must give the same on both.

    Attributes
    ----------
    name : str
    results : callable
        Device → arrays on the host, in dicts and lists.
    tolerance : float
        Relative; 0: bit for bit.
    seconds : float
        What it may take.
    """

    name: str
    results: Callable[[Device | None], Any]
    tolerance: float = 0.0
    seconds: float = 4.0


def differences(expected: Any, found: Any, tolerance: float = 0.0, where: str = "") -> Iterator[str]:
    """What differs, in words."""
    if isinstance(expected, dict):
        if expected.keys() != found.keys():
            yield f"{where}: {sorted(found)} instead of {sorted(expected)}"
            return
        for key, value in expected.items():
            yield from differences(value, found[key], tolerance, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        if len(expected) != len(found):
            yield f"{where}: {len(found)} instead of {len(expected)}"
        for i, (a, b) in enumerate(zip(expected, found)):
            yield from differences(a, b, tolerance, f"{where}/{i}")
    else:
        yield from array_differences(np.asarray(expected), np.asarray(found), tolerance, where)


def array_differences(a: NDArray, b: NDArray, tolerance: float, where: str) -> Iterator[str]:
    """What differs between two arrays: any bit, or more than a relative tolerance."""
    if a.shape != b.shape or a.dtype != b.dtype:
        yield f"{where}: {b.dtype}{b.shape} instead of {a.dtype}{a.shape}"
        return
    if not np.issubdtype(a.dtype, np.number):
        wrong = np.atleast_1d(a != b)
    elif tolerance:
        wrong = np.atleast_1d(~np.isclose(b, a, rtol=tolerance, atol=0, equal_nan=True))
    else:
        bits = f"u{a.dtype.itemsize}"
        wrong = np.ascontiguousarray(a).reshape(-1).view(bits) != np.ascontiguousarray(b).reshape(-1).view(bits)
    if np.issubdtype(a.dtype, np.floating):
        wrong &= ~np.atleast_1d(np.isnan(a) & np.isnan(b)).reshape(wrong.shape)  # which NaN it is means nothing
    if wrong.any():
        i = int(np.argmax(wrong))
        x, y = np.ravel(a)[i], np.ravel(b)[i]
        yield f"{where}: {int(wrong.sum())} of {wrong.size} differ, first {y!r} instead of {x!r}"


def correctness(lab: Lab) -> None:
    """Every check: CPU, device, comparison."""
    for check in all_checks(lab):
        if not lab.allows(check.name, check.seconds):
            continue
        start = perf_counter()
        try:
            expected = check.results(None)
            middle = perf_counter()
            wrong = list(differences(expected, check.results(lab.device), check.tolerance))
        except Exception as error:
            middle, wrong = perf_counter(), [describe(error)]
        verdict = "failed" if wrong else "same bits" if not check.tolerance else f"within {check.tolerance:g}"
        lab.report.checks.append({
            "name": check.name, "verdict": verdict, "differences": wrong[:10],
            "cpu_s": middle - start, "device_s": perf_counter() - middle,
        })  # fmt: skip
        if wrong:
            say(f"FAILED {check.name}: {wrong[0][-300:]}")
            gc.collect()  # what failed may hold arrays
        lab.device.forget()
    lab.write()


def all_checks(lab: Lab) -> Iterator[Check]:
    """The checks, quick ones first."""
    for family in (*FAMILIES.values(), whole_checks, memory_checks):
        yield from family(lab)


def primitive_checks(lab: Lab) -> Iterator[Check]:
    """maps.*, smoothing, z of F."""
    for kind in ("float32", "float64", "int64"):
        yield Check(f"maps: extremes, counts, sums of {kind}", partial(counts_and_sums, kind))
    yield Check("maps: ties and near ties", ties)
    for df1, df2 in ((1, 10), (3, 140), (8, 20), (70, 75)):
        yield Check(f"z of F({df1}, {df2})", partial(z_of_f, df1, df2))
    for curve in (False, True):
        name = f"iron and myelin, R1 {'from another field' if curve else 'as it is'}"
        yield Check(name, partial(iron_and_myelin, curve, False))
        yield Check(f"{name}, means", partial(iron_and_myelin, curve, True), tolerance=1e-9)
    for mm, sigma in ((lab.sizes.coarse_mm, 5.0), (lab.sizes.mm, 5.0), (lab.sizes.mm, 1.7)):
        maps = partial(smoothed_maps, lab.grid(mm), sigma, lab.sizes.maps)
        yield Check(f"smoothing in the mask, {mm:g} mm, sigma {sigma:g} mm", maps)


def counts_and_sums(kind: str, device: Device | None) -> dict:
    """Extremes, counts below, sums, normalised maps."""
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(size=(13, 5000)) * 50) * (rng.random((13, 5000)) < 0.7)
    values = (values if kind == "int64" else values / 7).astype(kind) * (1 << 30 if kind == "int64" else 1)
    maps = there(device, values)
    found: dict[str, Any] = {"extremes": primitives.extremes(maps, device)}
    found["below"] = primitives.count_below(maps, values[:1].copy(), kind != "float32", device)
    if kind != "float32":
        local_mean = np.abs(rng.normal(size=(2, 5000))) * (rng.random((2, 5000)) < 0.9)
        found["sums"] = primitives.sum_up(maps, 4 if kind == "int64" else 0, 2.0**-20, device)
        found["normalised"] = host(device, primitives.normalise(maps, (0.5, 0.25), local_mean, device))
    return found


def ties(device: Device | None) -> dict:
    """Maps that equal the observed one, its negative, or neither; lists in the order of maps and voxels."""
    rng = np.random.default_rng(4)
    observed = (np.round(rng.normal(size=5000) * 4) / 4).astype(np.float32)
    rounding = (1 + 3e-6 * rng.normal(size=5000)).astype(np.float32)
    noise = (np.round(rng.normal(size=(9, 5000)) * 4) / 4).astype(np.float32)
    values = np.stack([observed, -observed, observed * rounding, -observed * rounding, *noise])
    values[-1, 17] += np.float32(1)
    maps = there(device, values)
    found: dict[str, Any] = {"everywhere": primitives.ties_everywhere(maps, observed, device)}
    for row, sign in enumerate((1, -1)):
        maxima = primitives.extremes(values)[row]
        found[f"maximum {sign}"] = in_order(primitives.close_to_maximum(maps, 1, sign, maxima, device))
    found["near"] = in_order(primitives.near_ties(maps, 1, observed, device))
    return found


def in_order(items: primitives.Items) -> list[NDArray]:
    """A list by map and voxel; devices list in any order."""
    order = np.lexsort((items.voxel, items.map))
    return [items.map[order], items.voxel[order], items.value[order]]


def z_of_f(df1: int, df2: int, device: Device | None) -> NDArray:
    """F over all magnitudes."""
    rng = np.random.default_rng(df1)
    f = np.concatenate([10.0 ** rng.uniform(-6, 18, 20_000), rng.uniform(0, 40, 20_000), [0, -1, -np.inf, np.inf]])
    return host(device, f_to_z(there(device, f.astype(np.float32)[None]), df1, df2, device))


def iron_and_myelin(curve: bool, means: bool, device: Device | None) -> dict:
    """Susceptibility and R1 with background; sums of a mask are added up in another order on a device."""
    rng = np.random.default_rng(2)
    qsm, r1 = (rng.normal(size=50_000).astype(np.float32) for _ in range(2))
    qsm[5], r1[6], r1[7] = np.nan, np.nan, 0
    jacobian = rng.uniform(0.5, 2, len(qsm)).astype(np.float32)
    mask = (rng.random(len(qsm)) < 0.3).astype(np.uint8)
    held = [there(device, values) for values in (qsm, r1, jacobian, mask)]
    inversion = Inversion(
        TissueModel((3.0, -1.0, 0.2), (0.5, 2.0, 0.1)), FieldConversion(3, 7, "curve") if curve else None
    )
    if means:
        return {"means": inversion.means(held[0], held[1], held[3], device)}
    return {
        "concentrations": host(device, inversion.invert(*held[:2], (3.0, 0.1), None, device)),
        "contents": host(device, inversion.invert(*held[:2], (3.0, 0.1), held[2], device)),
    }


def smoothed_maps(grid: Grid, sigma: float, n_maps: int, device: Device | None) -> NDArray:
    """Maps of one sign, of widely different size."""
    maps = np.exp(np.random.default_rng(5).normal(size=(n_maps, grid.n_voxels)) * 3).astype(np.float32)
    smoother = MaskedGaussian(grid, sigma)
    return smoother(maps) if device is None else device.download(smoother.on_device(device.upload(maps), device))


@dataclass(frozen=True)
class ModelCase:
    """A model to be checked.

    `covariates` beside the effects; `data`: ``noise``, ``constant`` (some voxels are) or ``high mean`` (100 SD, with
    effects near constant, so that little is left of the sum of squares).
    """

    n: int
    covariates: int = 0
    effects: int = 1
    is_f: bool = False
    flip: bool = False
    data: str = "noise"
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    demean: bool = False
    sigma_mm: float = 0.0
    shuffles: int = 20

    @property
    def name(self) -> str:
        """In words."""
        words = [f"{'F' if self.is_f else 't'} maps, n {self.n}", f"{self.covariates} covariates"]
        words += [f"{self.effects} effects"] if self.effects > 1 else []
        words += ["flips"] if self.flip else []
        words += [self.data] if self.data != "noise" else []
        words += [self.nuisance.name.lower()] if self.nuisance != Nuisance.FREEDMAN_LANE else []
        words += ["demeaned"] if self.demean else []
        words += [f"variance smoothed {self.sigma_mm:g} mm"] if self.sigma_mm else []
        return ", ".join(words)

    def design(self) -> tuple[NDArray, NDArray]:
        """Design and contrast."""
        rng = np.random.default_rng(self.n + 7 * self.covariates)
        effects = rng.normal(size=(self.n, self.effects))
        if self.data == "high mean":
            effects = 1 + 0.03 * effects
        covariates = rng.normal(size=(self.n, self.covariates))
        if self.covariates and self.data != "high mean" and not self.demean:
            covariates[:, 0] = 1  # most designs have a mean
        return np.hstack([effects, covariates]), np.eye(self.effects, self.effects + self.covariates)

    def values(self, n_voxels: int) -> NDArray[np.float32]:
        """Data."""
        rng = np.random.default_rng(self.n)
        data = rng.normal(size=(self.n, n_voxels)).astype(np.float32)
        if self.data == "high mean":
            data += 100
        if self.data == "constant":
            data[:, ::7] = 3
            data[:, ::11] = 0
        return data


MODELS = (
    ModelCase(20),
    ModelCase(20, flip=True),
    ModelCase(21, 1),
    ModelCase(33, 3),
    ModelCase(40, 8, shuffles=33),
    ModelCase(146, 3, shuffles=70),
    ModelCase(146, 8),
    ModelCase(77, 2, flip=True),
    ModelCase(30, 2, data="constant"),
    ModelCase(30, data="high mean"),
    ModelCase(90, 2, data="high mean"),
    ModelCase(30, 2, 3, True, data="high mean"),
    ModelCase(25, 2, 2, True),
    ModelCase(146, 8, 3, True),
    ModelCase(64, 0, 3, True, flip=True),
    ModelCase(146, 70),
    ModelCase(146, 3, 70, True),
    ModelCase(50, 3, nuisance=Nuisance.KENNEDY),
    ModelCase(50, 3, nuisance=Nuisance.NONE),
    ModelCase(50, 3, nuisance=Nuisance.TER_BRAAK),
    ModelCase(41, 3, demean=True),
    ModelCase(40, 3, sigma_mm=10.0),
    ModelCase(40, 2, flip=True, data="constant", sigma_mm=10.0),
    ModelCase(30, data="high mean", sigma_mm=10.0),
)


def glm_checks(lab: Lab) -> Iterator[Check]:
    """t and F maps, and float64 where float32 is not enough."""
    coarse, brain = lab.grid(lab.sizes.coarse_mm), lab.grid(lab.sizes.mm)
    for case in MODELS:
        yield Check(case.name, partial(glm_results, case, coarse))
    for case in (ModelCase(lab.sizes.n, 3, shuffles=10), ModelCase(40, 3, sigma_mm=5.0, shuffles=4)):
        yield Check(f"{case.name}, {lab.sizes.mm:g} mm", partial(glm_results, case, brain), seconds=10)


def glm_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """Maps of a batch and of one shuffle, float64 of pairs and of a map."""
    design, contrast = case.design()
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(case.shuffles + 1, 5, flip=case.flip))
    smoother = MaskedGaussian(grid, case.sigma_mm) if case.sigma_mm else None
    model = partition(design, contrast, is_f=case.is_f, demean=case.demean)
    data = case.values(grid.n_voxels)
    return model_results(
        Glm(data, model, shuffler.invariant, case.nuisance, smoother, device), shuffler.shuffles(0, case.shuffles)
    )


def model_results(model: Any, shuffles: NDArray) -> dict:
    """Maps of a batch and of one shuffle, float64 of pairs and of a map."""
    rng = np.random.default_rng(6)
    found = {
        "maps": host(model.device, model.statistic_maps(shuffles)),
        "one": host(model.device, model.statistic_maps(shuffles[-1:])),
        "float64 map": model.exact_map(shuffles[-1]),
    }
    if model.has_exact:
        number, voxels = rng.integers(0, len(shuffles), 3000), rng.integers(0, model.n_voxels, 3000)
        found["float64"] = model.exact(shuffles, number, voxels)
    model.release()
    return found


VOXELWISE = (
    ModelCase(20, 1, shuffles=9),
    ModelCase(60, 4, shuffles=9),
    ModelCase(33, 2, flip=True, shuffles=9),
    ModelCase(40, 2, 2, True, shuffles=9),
    ModelCase(40, 3, demean=True, shuffles=9),
    ModelCase(30, 2, data="constant", shuffles=9),
    ModelCase(30, 2, data="high mean", shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.KENNEDY, shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.NONE, shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.TER_BRAAK, shuffles=9),
    ModelCase(40, 3, sigma_mm=10.0, shuffles=9),
)


def voxelwise_checks(lab: Lab) -> Iterator[Check]:
    """Models with voxelwise EVs: in the last covariate, and in the effect."""
    for case, in_effect in product(VOXELWISE, (False, True)):
        where = "effect" if in_effect else "covariate"
        results = partial(voxelwise_results, case, in_effect, lab.grid(lab.sizes.coarse_mm))
        yield Check(f"{case.name}, voxelwise {where}", results, seconds=8)


def voxelwise_results(case: ModelCase, in_effect: bool, grid: Grid, device: Device | None) -> dict:
    """Like `glm_results`; the EV is constant at some voxels."""
    design, contrast = case.design()
    column = 0 if in_effect else design.shape[1] - 1
    ev = np.random.default_rng(8).normal(size=(case.n, grid.n_voxels)).astype(np.float32)
    ev[:, ::13] = 1
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(case.shuffles + 1, 5, flip=case.flip))
    smoother = MaskedGaussian(grid, case.sigma_mm) if case.sigma_mm else None
    evs = {column: ev, -1 - design.shape[1]: (ev > 1.5).astype(np.float32)}  # some subjects are left out
    results = {}
    for name, given in (("all", {column: ev}), ("left out", evs)):
        model = VoxelwiseGlm(
            case.values(grid.n_voxels), design, contrast, given, case.nuisance, case.demean, case.is_f, smoother,
            device,
        )  # fmt: skip
        results[name] = model_results(model, shuffler.shuffles(0, case.shuffles))
    return results


def cluster_checks(lab: Lab) -> Iterator[Check]:
    """Clusters of smooth maps."""
    for connectivity in (6, 18, 26):
        for mm, fwhm, threshold in (
            (lab.sizes.coarse_mm, 1.0, 0.4),
            (lab.sizes.mm, 3.5, 2.3),
            (lab.sizes.mm, 0.0, 0.1),
        ):
            name = f"clusters, C {connectivity}, {mm:g} mm, FWHM {fwhm:g}, threshold {threshold:g}"
            yield Check(name, partial(cluster_results, lab, mm, fwhm, threshold, connectivity))


def t_maps(lab: Lab, mm: float, fwhm: float) -> NDArray[np.float32]:
    """One-sample t maps of smooth noise."""

    def made(mm: float, fwhm: float) -> NDArray[np.float32]:
        return smooth_t_maps(lab.grid(mm), lab.sizes.maps, fwhm, n=20)

    return lab.once(made, mm, fwhm)


def cluster_results(
    lab: Lab, mm: float, fwhm: float, threshold: float, connectivity: int, device: Device | None
) -> dict:
    """Maxima, maps, normalised extents."""
    grid, values = lab.grid(mm), t_maps(lab, mm, fwhm)
    maps = there(device, values)
    local_mean = np.abs(np.random.default_rng(9).normal(size=(2, grid.n_voxels)))
    local_mean[:, ::3] = 0
    extent, mass = cluster_maps(maps, grid, threshold, connectivity, device)
    return {
        "maxima": cluster_maxima(maps, grid, threshold, connectivity, device),
        "extent": host(device, extent),
        "mass": host(device, mass),
        "normalised": host(device, normalised_extents(maps, grid, threshold, local_mean, device)),
    }


POWERS = ((2.0, 0.5), (1.0, 1.0), (0.0, 0.5), (2.0, 0.0), (1.5, 0.67), (0.0, 0.0))


def tfce_checks(lab: Lab) -> Iterator[Check]:
    """Small masks of every shape, the brain at every smoothness, and what is rare."""
    for connectivity in (6, 18, 26):
        for exact in (False, True):
            name = f"TFCE, {lab.sizes.masks // 3} small masks, C {connectivity}{', exact' if exact else ''}"
            yield Check(name, partial(small_masks, connectivity, lab.sizes.masks // 3, exact))
    for connectivity, fwhm in product((6, 18, 26), FWHMS):
        name = f"TFCE, C {connectivity}, {lab.sizes.mm:g} mm, FWHM {fwhm:g}"
        yield Check(name, partial(brain_tfce, lab, fwhm, Tfce(connectivity=connectivity), 1024))
    for connectivity in (6, 18, 26):
        name = f"TFCE, C {connectivity}, {lab.sizes.mm:g} mm, exact"
        yield Check(
            name, partial(brain_tfce, lab, 3.5, Tfce(connectivity=connectivity, exact=True), 512), seconds=15
        )
    rare = {
        "4,096 levels": (Tfce(delta=0.002), 4096),
        "40,000 levels": (Tfce(delta=0.0005), 40_000),
        "H 1.5, E 0.67": (Tfce(1.5, 0.67, 26), 1024),
        "H 1, E 1": (Tfce(1.0, 1.0, 26), 1024),
        "more levels than prepared for": (Tfce(), 40),
        "more levels than prepared for, beyond int16": (Tfce(delta=0.0001), 33_000),
    }
    for name, (options, cap) in rare.items():
        yield Check(f"TFCE, {name}", partial(brain_tfce, lab, 2.0, options, cap), seconds=15)
    yield Check("TFCE, far above the tables", partial(far_above, lab))
    yield Check("TFCE, values that are not numbers", partial(not_finite, lab))
    # No device takes the power of a number by the same steps as another.
    exact = Tfce(1.5, 0.5, 26, exact=True)
    yield Check("TFCE, exact, H 1.5", partial(brain_tfce, lab, 3.5, exact, 512), tolerance=1e-9, seconds=15)


FAMILIES = {
    "primitives": primitive_checks, "glm": glm_checks, "voxelwise": voxelwise_checks, "cluster": cluster_checks,
    "tfce": tfce_checks,
}  # fmt: skip
"""Checks that share few of the CPU's compiled loops."""


def compile_loops() -> None:
    """Compile the CPU's loops, a family to a process; they are kept on disk."""
    start = [sys.executable, __file__, "--compile"]
    running = [subprocess.Popen([*start, family], stdout=subprocess.DEVNULL) for family in FAMILIES]
    for process in running:
        process.wait()  # what fails there fails again, and is reported, where it is needed


def compile_family(family: str) -> None:
    """One of those processes."""
    for check in FAMILIES[family](Lab(None, TINY)):
        check.results(None)


def enhanced(make: Enhancer, values: NDArray, device: Device | None) -> dict:
    """Maxima and maps, or why not."""
    maps = there(device, values)
    try:
        return {"maxima": make.maxima(maps), "maps": host(device, make.enhance(maps))}
    except LevelOverflow as overflow:
        return {"levels": overflow.needed}
    except ValueError as error:
        return {"refused": str(error)}


def steps(values: NDArray, options: Tfce) -> tuple[float, float]:
    """Steps of the first map."""
    return step_size(float(values[0].max()), options), step_size(float(-values[0].min()), options)


def small_masks(connectivity: int, count: int, exact: bool, device: Device | None) -> list[dict]:
    """Holes, slabs, lines, single voxels; maps with ties and plateaus."""
    rng = np.random.default_rng(connectivity)
    found = []
    for trial in range(count):
        mask = rng.random(rng.integers(1, 8, 3)) < rng.choice([0.5, 0.8, 1.0])
        mask.flat[0] = True
        grid = Grid(mask)
        values = rng.normal(size=(3, grid.n_voxels)) * 2
        if trial % 4 == 1:
            values = np.round(values)
        elif trial % 4 == 2:
            values[:, : grid.n_voxels // 2] = values[:, :1]
        elif trial % 4 == 3:
            values = -np.abs(values)
        values = values.astype(np.float32)
        H, E = POWERS[trial % len(POWERS)]
        options = Tfce(float(round(H)), E, connectivity, exact=True) if exact else Tfce(H, E, connectivity)
        found.append(enhanced(Enhancer(grid, options, steps(values, options), 1024, device), values, device))
    return found


def brain_tfce(lab: Lab, fwhm: float, options: Tfce, cap: int, device: Device | None) -> dict:
    """Maps of the brain."""
    values = t_maps(lab, lab.sizes.mm, fwhm)
    if options.exact or cap > 32_000:
        values = values[:2]  # the slow way
    return enhanced(Enhancer(lab.grid(lab.sizes.mm), options, steps(values, options), cap, device), values, device)


def far_above(lab: Lab, device: Device | None) -> dict:
    """Perfect separation in a few voxels of some maps, which are finished on the host; the others are ordinary."""
    values = t_maps(lab, lab.sizes.mm, 3.5).copy()
    rng = np.random.default_rng(5)
    for height in (60.0, 1e4, -3e7):
        values[rng.integers(0, len(values)), rng.integers(0, values.shape[1], 3)] = height
    make = Enhancer(lab.grid(lab.sizes.mm), Tfce(), (0.05, 0.06), 512, device, most=512)
    return enhanced(make, values, device)


def not_finite(lab: Lab, device: Device | None) -> list[dict]:
    """Refused, with the same sentence."""
    values = t_maps(lab, lab.sizes.mm, 2.0).copy()
    values[-1, 5] = np.nan
    grid = lab.grid(lab.sizes.mm)
    return [
        enhanced(Enhancer(grid, options, (0.05, 0.05), 512, device), values, device)
        for options in (Tfce(), Tfce(exact=True))
    ]


# -- whole tests ------------------------------------------------------------------------------------------------

EVERYTHING = Statistics(True, Tfce(), 2.3, 2.3, True, True)


def whole_checks(lab: Lab) -> Iterator[Check]:
    """Whole analyses: every map and every null distribution."""
    if not EXECUTORS:
        lab.report.skipped.append("whole analyses: threadpoolctl is missing")
        return
    simple = Statistics(True, Tfce(connectivity=26))
    cases: dict[str, dict] = {
        "everything, F and t": {"statistics": EVERYTHING, "f_statistics": replace(EVERYTHING, two_pass=False)},
        "sign flips": {"statistics": EVERYTHING, "flip": True},
        "variance smoothing": {"statistics": EVERYTHING, "variance_mm": 8.0},
        "voxelwise EV": {"statistics": EVERYTHING, "f_statistics": simple, "evs": True},
        "exact TFCE": {"statistics": Statistics(True, Tfce(exact=True), uncorrected=True, two_pass=True)},
        "blocks": {"statistics": simple, "f_statistics": simple, "blocks": True},
        "demeaned": {"statistics": simple, "demean": True},
        "Kennedy": {"statistics": simple, "nuisance": Nuisance.KENNEDY},
        "ter Braak": {"statistics": simple, "nuisance": Nuisance.TER_BRAAK},
        "repeated subjects": {"statistics": EVERYTHING, "repeated": True},
        "permuted maps": {"statistics": replace(EVERYTHING, two_pass=False), "keep": True},
    }
    for name, options in cases.items():
        yield Check(f"whole analysis: {name}", partial(analysed, lab, options), seconds=10)


def analysed(lab: Lab, given: dict, device: Device | None) -> dict:
    """All that an analysis gives."""
    from gpuvox.analysis import Inputs, Options, analyse

    options = dict(given)
    grid, n = lab.grid(lab.sizes.coarse_mm), 24
    study = cohort(grid, n, effect=1.0)
    data = study.data.copy()
    if options.pop("repeated", False):
        data[n // 2 :] = data[: n // 2]
    data[:, ::9] = 1
    contrasts = np.stack([study.contrast, -study.contrast, [0.0, 0, 1, 0]])
    f_tests = np.array([[1.0, 0, 1]]) if options.get("f_statistics") else np.zeros((0, 3))
    blocks = np.repeat(np.arange(1, n // 4 + 1), 4) if options.pop("blocks", False) else None
    if blocks is not None:
        study = replace(
            study, design=np.roll(study.design, 2, axis=0)[np.argsort(np.arange(n) % 4, kind="stable")]
        )
    evs = {2: smooth_noise(grid, n, 2.0, 3)} if options.pop("evs", False) else {}
    kept: dict[str, Any] = {}
    keep = (lambda test, i, maps: kept.update({f"{test} {i}": maps})) if options.pop("keep", False) else None
    inputs = Inputs(data, grid, study.design, contrasts, f_tests, blocks, evs)
    settings = Options(n_permutations=lab.sizes.checked, seed=3, device=device, **options)
    results = {r.test.name: {"maps": r.maps, "nulls": r.nulls} for r in analyse(inputs, settings, on_maps=keep)}
    return results | {"permuted": dict(sorted(kept.items()))}


def design_of(n: int) -> tuple[NDArray, NDArray]:
    """Two groups, a mean and three covariates; the contrast is that of the groups."""
    rng = np.random.default_rng(n)
    group = np.where(np.arange(n) < n // 2, 0.5, -0.5)
    return np.column_stack([group, np.ones(n), rng.normal(size=(n, 3))]), np.array([1.0, 0, 0, 0, 0])


def make_test(
    lab: Lab, device: Device | None, mm: float, n: int, number: int, wanted: Statistics
) -> PermutationTest:
    """Test of both signs on smooth noise with three covariates."""
    design, contrast = design_of(n)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(number, 1))
    model = Glm(lab.data(mm, n), partition(design, contrast), shuffler.invariant, device=device)
    return PermutationTest(model, lab.grid(mm), shuffler, wanted, signs=2)


def folded(observed: ObservedTest, step: int) -> Tally:
    """The engine without its executors: ranges of `step` shuffles, on all threads where there is no device."""
    tally = Tally(observed.n)
    parts = [(start, min(start + step, observed.n)) for start in range(0, observed.n, step)]
    with ThreadPoolExecutor(2 if observed.device else n_threads()) as pool:
        for result in pool.map(lambda part: observed.run(*part), parts):
            tally.add(result)
    return tally


def engine(test: PermutationTest, step: int) -> dict:
    """Everything that a test's passes add up."""
    while True:
        try:
            observed = test.observe()
            tallies = [folded(observed, step)]
            break
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)
    passes = [observed]
    if test.statistics.normalised:
        passes.append(observed.second_pass(tallies[0]))
        tallies.append(folded(passes[1], step))
    if test.device is not None:
        test.model.release()
        test.device.forget()
    names = ("maxima", "below", "total", "nonzero")
    return {
        "observed": [each.observed for each in passes],
        "tallies": [{name: getattr(tally, name) for name in names} for tally in tallies],
    }


# -- memory -----------------------------------------------------------------------------------------------------


def memory_checks(lab: Lab) -> Iterator[Check]:
    """Little memory, and none at all for a moment."""
    sizes = lab.sizes
    usual = sizes.mm, sizes.n, sizes.capped, EVERYTHING
    fine = sizes.fine_mm, sizes.fine_n, max(sizes.capped // 8, 2), Statistics(True, Tfce())

    def on_cpu(*settings: Any) -> dict:
        return engine(make_test(lab, None, *settings), 4)

    def limited(settings: tuple, limit: int | None, device: Device | None) -> dict:
        if device is None:
            return lab.once(on_cpu, *settings)
        return engine(make_test(lab, lab.machine.capped(limit), *settings), sizes.capped)

    def failing(settings: tuple, share: float, device: Device | None) -> dict:
        if device is None:
            return lab.once(on_cpu, *settings)
        make = partial(make_test, lab, device, *settings)
        with no_memory_at(device, 0) as count:
            engine(make(), sizes.capped)
        with no_memory_at(device, 1 + int(share * count[0])):
            return engine(make(), sizes.capped)

    for limit in (None, *sizes.limits):
        name = f"memory: {in_bytes(limit)}, {sizes.mm:g} mm, n {sizes.n}, everything, two passes"
        yield Check(name, partial(limited, usual, limit), seconds=25)
    for share in (0.0, 0.2, 0.5, 0.6, 0.95):
        name = f"memory: an allocation fails, after {share:.0%} of them"
        yield Check(name, partial(failing, usual, share), seconds=15)
    for limit in sizes.limits[:2]:
        name = f"memory: {in_bytes(limit)}, {sizes.fine_mm:g} mm, n {sizes.fine_n}"
        yield Check(name, partial(limited, fine, limit), seconds=30)


def in_bytes(limit: int | None) -> str:
    """``4 GB``."""
    return "no limit" if limit is None else f"{limit / GB:g} GB" if limit >= GB // 4 else f"{limit >> 20} MB"


@contextmanager
def no_memory_at(device: Device, at: int) -> Iterator[list[int]]:
    """The at-th allocation fails (0: none); yields the number of allocations, counted on."""
    real, count = device.empty, [0]

    def empty(shape: int | tuple[int, ...], dtype: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise OutOfDeviceMemory("no memory, on purpose")
        return real(shape, dtype)

    device.empty = empty  # type: ignore[method-assign]
    try:
        yield count
    finally:
        del device.empty  # type: ignore[method-assign]
    if count[0] < at:
        raise AssertionError(f"there were only {count[0]} allocations, not {at}")


# -- 3. compute-sanitizer ---------------------------------------------------------------------------------------


def sanitizer(lab: Lab, seconds: float = 75.0) -> None:
    """memcheck and racecheck on the small checks, each array an allocation of its own."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not program:
        lab.report.skipped.append("compute-sanitizer: it is not installed")
        return
    for tools_left, tool in ((2, "memcheck"), (1, "racecheck")):
        limit = min(seconds, lab.left() / tools_left)
        if not lab.allows(f"compute-sanitizer {tool}", 20):
            continue
        command = [program, "--tool", tool, "--error-exitcode", "99", sys.executable, __file__]
        command += ["--small", "--only", "correctness", "--no-pool", "--seconds", str(0.8 * limit)]
        lab.report.sanitizer.append({"name": f"compute-sanitizer {tool}"} | judged(command, limit))
        say(f"compute-sanitizer {tool}: {lab.report.sanitizer[-1]['verdict']}")
        lab.write()


def judged(command: list[str], limit: float) -> dict:
    """Verdict and last lines of a sanitizer's run."""
    start = perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        text, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        text, status = "".join(as_text(part) for part in (error.stdout, error.stderr)), None
    lines = without_paths(text).strip().split("\n")[-25:]
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), "")
    if status is None:
        verdict = f"not finished within {limit:.0f} s"
    elif not summary:
        verdict = f"did not run (status {status})"
    else:
        verdict = "clean" if "SUMMARY: 0 " in summary and status == 0 else "failed"
    return {"verdict": verdict, "summary": summary, "lines": lines, "seconds": perf_counter() - start}


def as_text(part: bytes | str | None) -> str:
    """Output of a process that was stopped: bytes, whatever was asked for."""
    return part.decode(errors="replace") if isinstance(part, bytes) else part or ""


# -- 4. timings -------------------------------------------------------------------------------------------------


def timings(lab: Lab) -> None:
    """What matters most first."""
    if EXECUTORS:
        for connectivity in (6, 26):
            lab.guarded(f"whole, C {connectivity}", partial(time_whole, lab, connectivity, lab.sizes.mm), 20)
            lab.guarded(f"one batch, C {connectivity}", partial(break_down, lab, connectivity, lab.sizes.mm), 10)
            lab.guarded(f"CPU, C {connectivity}", partial(time_cpu, lab, connectivity, lab.sizes.mm), 20)
    else:
        lab.report.skipped.append("whole runs: threadpoolctl is missing")
    for n in lab.sizes.subjects:
        lab.guarded(f"t maps, n {n}", partial(time_t_maps, lab, n), 10)
    for fwhm in FWHMS:
        lab.guarded(f"TFCE, FWHM {fwhm:g}", partial(time_tfce, lab, fwhm), 12)
    lab.guarded("clusters", partial(time_clusters, lab), 8)
    lab.guarded("iron and myelin", partial(time_inversion, lab), 8)
    if COMMAND:
        lab.guarded("command", partial(time_command, lab), 45)
    else:
        lab.report.skipped.append("the command: nibabel, pandas or threadpoolctl is missing")
    if EXECUTORS:
        for limit in lab.sizes.limits[:2]:
            name = f"whole, {in_bytes(limit)}"
            lab.guarded(name, partial(time_whole, lab, 6, lab.sizes.mm, limit), 20)
        for limit in (None, *lab.sizes.limits[:2]):
            name = f"whole, {lab.sizes.fine_mm:g} mm, {in_bytes(limit)}"
            lab.guarded(name, partial(time_whole, lab, 6, lab.sizes.fine_mm, limit), 40)


def measured(lab: Lab, work: Callable[[], Any]) -> dict:
    """Milliseconds between events: median and range of the repeats, after a warm-up."""
    work()
    times = [lab.machine.timed(work) for _ in range(lab.sizes.repeats)]
    return {"ms": float(np.median(times)), "fastest_ms": min(times), "slowest_ms": max(times), "all_ms": times}


def note(lab: Lab, name: str, maps: int, time: dict, work: dict, **more: Any) -> None:
    """A timing with its floor."""
    ceiling = lab.report.facts.get("ceilings")
    row = {"name": name, "maps": maps, **time, "us_per_map": 1e3 * time["ms"] / maps, **work, **more}
    if ceiling and work:
        computed = work["operations"] / ceiling["float32_operations"]["per_s"]
        for name, moved in (("floor_ms", work["bytes"]), ("method_floor_ms", work.get("method_bytes"))):
            if moved is not None:
                row[name] = 1e3 * max(moved / ceiling["copy_bytes"]["per_s"], computed)
        row["times_the_floor"] = time["ms"] / row["floor_ms"]
    lab.report.timings.append(row)
    say(line_of(row))


def work_of_t_maps(model: Glm, n_maps: int) -> dict:
    """Residuals read once, maps written once; a multiply-add for every subject, voxel and row."""
    n, n_voxels = model.data.shape
    rows = model.model.rank_effect + model._moving.shape[1]
    return {
        "bytes": 4 * n * n_voxels + 4 * n_maps * n_voxels,
        "operations": 2 * n * n_voxels * rows * n_maps,
        "rows_per_shuffle": rows,
    }


def work_of_maps(n_maps: int, n_voxels: int, written: int = 0) -> dict:
    """Maps read once; `written` bytes of every voxel's result. What happens in between is not counted."""
    return {"bytes": n_maps * n_voxels * (4 + written), "operations": 0}


def work_of_tfce(n_maps: int, n_voxels: int, full: bool = False) -> dict:
    """Like `work_of_maps`, and the bytes of this method: its arrays written once and read once, edges left out.

    Map and index 4 bytes each, read; levels 2, pointers 4, order 4, written and read; at all voxels scores above the
    voxel 8, written and read, and the index, pointers and levels again, and the scores 8, written.
    """
    each = 8 + 2 * (2 + 4 + 4) + (16 + 4 + 4 + 2 + 8 if full else 0)
    return work_of_maps(n_maps, n_voxels, 8 if full else 0) | {"method_bytes": each * n_maps * n_voxels}


def add_work(*parts: dict) -> dict:
    """Bytes and operations of several steps."""
    total = {key: sum(part[key] for part in parts) for key in ("bytes", "operations")}
    return total | {"method_bytes": sum(part.get("method_bytes", part["bytes"]) for part in parts)}


def time_t_maps(lab: Lab, n: int) -> None:
    """t maps of a batch."""
    grid, (design, contrast) = lab.grid(lab.sizes.mm), design_of(n)
    data = np.random.default_rng(n).standard_normal((n, grid.n_voxels), dtype=np.float32)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(4 * lab.sizes.batch, 1))
    model = Glm(data, partition(design, contrast), shuffler.invariant, device=lab.device)
    shuffles = shuffler.shuffles(1, 1 + lab.sizes.batch)
    none = np.zeros(len(shuffles), dtype=bool)
    time = measured(lab, lambda: model.statistic_maps(shuffles, none))
    note(lab, f"t maps, n {n}, 3 covariates", len(shuffles), time, work_of_t_maps(model, len(shuffles)))
    model.release()


def batch_of_maps(lab: Lab, fwhm: float) -> tuple[ObservedTest, Any]:
    """A test, and the t maps of a batch on the device, none of them beyond the test's levels."""
    n, sizes = 40, lab.sizes
    design, contrast = design_of(n)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(4 * sizes.batch, 1))
    data = lab.data(sizes.mm, n, fwhm)
    model = Glm(data, partition(design, contrast), shuffler.invariant, device=lab.device)
    test = PermutationTest(model, lab.grid(sizes.mm), shuffler, Statistics(True, Tfce()), signs=2)
    maps = model.statistic_maps(shuffler.shuffles(1, 1 + sizes.batch))
    return levelled(test, lambda observed: tfce_of(observed, 6).maxima(maps)), maps


def levelled(test: PermutationTest, attempt: Callable[[ObservedTest], Any]) -> ObservedTest:
    """The observed test, with levels enough for what is attempted."""
    while True:
        observed = test.observe()
        try:
            attempt(observed)
            return observed
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)


def tfce_of(observed: ObservedTest, connectivity: int) -> Enhancer:
    """A test's TFCE, with this connectivity."""
    if observed.enhancer is None:
        raise ValueError("the test has no TFCE")
    return replace(observed.enhancer, options=Tfce(connectivity=connectivity))


def time_tfce(lab: Lab, fwhm: float) -> None:
    """Maxima and maps of both signs."""
    observed, maps = batch_of_maps(lab, fwhm)
    n_maps, n_voxels = maps.shape
    for connectivity in (6, 26):
        make, about = tfce_of(observed, connectivity), f"C {connectivity}, FWHM {fwhm:g}, both signs"
        time = measured(lab, partial(make.maxima, maps))
        note(lab, f"TFCE maxima, {about}", n_maps, time, work_of_tfce(n_maps, n_voxels), levels=make.cap)
        time = measured(lab, partial(make.maps, maps))
        note(lab, f"TFCE at all voxels, {about}", n_maps, time, work_of_tfce(n_maps, n_voxels, True))
    observed.test.model.release()


def time_clusters(lab: Lab) -> None:
    """Largest extent and mass."""
    observed, maps = batch_of_maps(lab, 3.5)
    n_maps, n_voxels = maps.shape
    for connectivity in (6, 26):
        work = partial(cluster_maxima, maps, lab.grid(lab.sizes.mm), 2.3, connectivity, lab.device)
        name = f"cluster maxima, C {connectivity}, threshold 2.3, FWHM 3.5"
        note(lab, name, n_maps, measured(lab, work), work_of_maps(n_maps, n_voxels))
    observed.test.model.release()


def time_inversion(lab: Lab) -> None:
    """Iron and myelin of many voxels: every image read once, every map written once."""
    n = max(1024, lab.sizes.copied // 64)
    rng = np.random.default_rng(0)
    ends = (-0.1, 0.2), (0.3, 2.0), (0.5, 2.0)
    qsm, r1, jacobian = (lab.device.upload(rng.uniform(*each, n).astype(np.float32)) for each in ends)
    mask = lab.device.upload((rng.random(n) < 0.05).astype(np.uint8))
    for method in ("power", "curve"):
        inversion = Inversion(TissueModel.default(), FieldConversion(3, 7, method))
        for content in (False, True):
            work = partial(inversion.maps, qsm, r1, (10.0, 0.1), jacobian if content else None, lab.device)
            name = f"iron and myelin, {method}, {'concentration and content' if content else 'concentration'}"
            moved = {"bytes": n * (28 if content else 16), "operations": 0}
            note(lab, name, 1, measured(lab, work), moved, voxels=n)
    work = partial(inversion.means, qsm, r1, mask, lab.device)
    note(lab, "iron and myelin of CSF", 1, measured(lab, work), {"bytes": 9 * n, "operations": 0}, voxels=n)


def time_whole(lab: Lab, connectivity: int, mm: float, limit: int | None = None) -> None:
    """A whole run of the engine in wall time: observed maps, every batch, all that comes and goes."""
    from gpuvox.executors import run

    sizes = lab.sizes
    number = sizes.permutations if mm == sizes.mm else sizes.fine_permutations
    device = lab.device if limit is None else lab.machine.capped(limit)
    wanted = Statistics(False, Tfce(connectivity=connectivity))
    make = partial(make_test, lab, device, mm, sizes.n)
    test = make(number, wanted)
    wall = partial(wall_ms, lab, lambda: run(test))
    few = max(number // 40, 2)
    expected = expected_seconds(lab, number, few, lambda k: run(make(k, wanted)))
    affordable = 0.4 * lab.left()
    if expected > affordable:
        number = max(int(number * affordable / expected), 2)
        test = make(number, wanted)
    times = [wall()]
    while len(times) < 3 and 2 * times[0] / 1e3 < affordable:
        times.append(wall())
    time = {"ms": float(np.median(times)), "fastest_ms": min(times), "slowest_ms": max(times), "all_ms": times}
    n_voxels, batch = lab.grid(mm).n_voxels, test.observe().batch
    one = add_work(work_of_t_maps(test.model, batch), work_of_tfce(batch, n_voxels))
    work = {key: value * number / batch for key, value in one.items()}
    name = (
        f"whole run, {mm:g} mm ({n_voxels:,} voxels), n {sizes.n}, C {connectivity}, both signs, {in_bytes(limit)}"
    )
    scaled = time["ms"] * sizes.permutations / number / 1e3
    note(
        lab, name, number, time, work, part="whole", mm=mm, connectivity=connectivity, limit=limit,
        permutations=number, batch=batch,
        seconds_for={"permutations": sizes.permutations, "s": scaled, "scaled": number != sizes.permutations},
    )  # fmt: skip
    test.model.release()
    device.forget()


def expected_seconds(lab: Lab, number: int, few: int, run: Callable[[int], Any]) -> float:
    """What a run of `number` will take, from shorter ones; they also warm up."""
    run(few)
    short, longer = (wall_ms(lab, partial(run, k)) for k in (few, 4 * few))
    return (short + max(longer - short, 0.0) * (number - few) / (3 * few)) / 1e3


def wall_ms(lab: Lab, work: Callable[[], Any]) -> float:
    """Wall time of something that ends with the device."""
    lab.machine.synchronise()
    start = perf_counter()
    work()
    lab.machine.synchronise()
    return 1e3 * (perf_counter() - start)


def time_cpu(lab: Lab, connectivity: int, mm: float) -> None:
    """The same run without the device, all threads, fewer permutations; the ratio to the device's."""
    from gpuvox.executors import run

    sizes, threads = lab.sizes, n_threads()
    wanted = Statistics(False, Tfce(connectivity=connectivity))
    number = sizes.cpu_permutations * threads
    observing, whole = (make_test(lab, None, mm, sizes.n, k, wanted) for k in (threads, number + threads))
    run(observing, threads=threads)
    # What the observed map takes, once in a run, is not charged to the permutations.
    few = min(wall_ms(lab, lambda: run(observing, threads=threads)) for _ in range(3))
    times = [wall_ms(lab, lambda: run(whole, threads=threads)) - few for _ in range(3)]
    time = {"ms": float(np.median(times)), "fastest_ms": min(times), "slowest_ms": max(times), "all_ms": times}
    name = f"CPU path, {threads} threads, {mm:g} mm, n {sizes.n}, C {connectivity}, both signs"
    key = {"part": "whole", "mm": mm, "connectivity": connectivity, "limit": None}
    device = next((row["us_per_map"] for row in lab.report.timings if key.items() <= row.items()), None)
    ratio = 1e3 * time["ms"] / number / device if device else None
    note(lab, name, number, time, {}, threads=threads, permutations=number, times_the_device=ratio)


class Tracer:
    """Times each call of a device alone: the device is idle before it, and done after it.

    Attributes
    ----------
    spent : dict
        Kernel, or method of the device → [calls, milliseconds, bytes].
    """

    METHODS = ("launch", "download", "upload", "put", "fill", "empty")

    def __init__(self, machine: Any, device: Device) -> None:
        self.machine, self.device, self.inside = machine, device, False
        self.spent: dict[str, list[float]] = {}

    def __enter__(self) -> Tracer:
        for method in self.METHODS:
            setattr(self.device, method, self._traced(method, getattr(self.device, method)))
        return self

    def __exit__(self, *_: object) -> None:
        for method in self.METHODS:
            delattr(self.device, method)

    def _traced(self, method: str, real: Callable) -> Callable:
        def call(*arguments: Any, **more: Any) -> Any:
            if self.inside:  # an upload allocates
                return real(*arguments, **more)
            self.inside = True
            try:
                self.machine.synchronise()
                start = perf_counter()
                result = real(*arguments, **more)
                self.machine.synchronise()
                ms = 1e3 * (perf_counter() - start)
            finally:
                self.inside = False
            entry = self.spent.setdefault(arguments[0] if method == "launch" else method, [0, 0.0, 0])
            moved = {"download": result, "put": arguments[0]}.get(method, arguments[0])
            entry[0] += 1
            entry[1] += ms
            entry[2] += size_of(moved) if method in ("download", "upload", "put") else 0
            return result

        return call


def size_of(array: Any) -> int:
    """Bytes."""
    return int(np.prod(array.shape)) * np.dtype(array.dtype).itemsize


STAGES = {
    "glm_": "t maps", "maps_ties_everywhere": "ties", "maps_list": "ties", "maps_put": "ties", "tfce_": "TFCE",
    "download": "downloads", "upload": "uploads", "put": "uploads", "empty": "allocations", "fill": "fills",
}  # fmt: skip


def break_down(lab: Lab, connectivity: int, mm: float) -> None:
    """Where the time of one batch goes."""
    test = make_test(
        lab,
        lab.device,
        mm,
        lab.sizes.n,
        lab.sizes.permutations,
        Statistics(False, Tfce(connectivity=connectivity)),
    )
    batch = min(test.observe().batch, test.shuffler.n - 1)
    part = 1, 1 + batch
    observed = levelled(test, lambda observed: observed.run(*part))
    untraced = measured(lab, lambda: observed.run(*part))
    start = perf_counter()
    shuffles = test.shuffler.shuffles(*part)
    middle = perf_counter()
    test.model.equivalent(shuffles)
    stages = {
        "shuffles on the host": 1e3 * (middle - start),
        "comparing shuffles": 1e3 * (perf_counter() - middle),
    }
    with Tracer(lab.machine, lab.device) as tracer:
        traced = wall_ms(lab, lambda: observed.run(*part))
    for call, (_, ms, _) in tracer.spent.items():
        stage = next((name for start_, name in STAGES.items() if call.startswith(start_)), "other kernels")
        stages[stage] = stages.get(stage, 0.0) + ms
    stages["the rest, on the host"] = max(traced - sum(stages.values()), 0.0)
    lab.report.breakdowns.append({
        "name": f"one batch of {batch}, {mm:g} mm, n {lab.sizes.n}, C {connectivity}", "maps": batch, "ms": untraced,
        "ms_one_call_at_a_time": traced, "stages_ms": stages,
        "calls": {k: {"calls": c, "ms": ms, "bytes": b} for k, (c, ms, b) in tracer.spent.items()},
    })  # fmt: skip
    test.model.release()


# -- the command ------------------------------------------------------------------------------------------------


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
            seconds, text = process([__file__, "--stages", *arguments], folder)
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
        ("opening the device", execute, "resolve"), ("reading", execute, "read_inputs"),
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


# -- 5. the table, the command line -----------------------------------------------------------------------------


def line_of(row: dict) -> str:
    """A timing in a line."""
    spread = 100 * (row["slowest_ms"] - row["fastest_ms"]) / row["ms"] if row["ms"] else 0.0
    floor = f"{row['floor_ms']:10.3f} {row['times_the_floor']:7.1f}" if "floor_ms" in row else f"{'':18}"
    more = f"  {row['times_the_device']:.1f} x the device" if row.get("times_the_device") else ""
    if row.get("seconds_for", {}).get("scaled"):
        of = row["seconds_for"]
        more += f"  {of['permutations']:,} permutations: {of['s']:.2f} s (scaled)"
    return f"{row['name'][:86]:86} {row['ms']:11.3f} {spread:4.0f} % {row['us_per_map']:10.2f} {floor}{more}"


def table(report: Report) -> None:
    """Everything, for people."""
    say("")
    say(f"{report.facts.get('device')}, commit {report.facts.get('commit')}")
    if report.timings:
        say(f"{'':86} {'ms':>11} {'range':>6} {'us/map':>10} {'floor ms':>10} {'x floor':>7}")
        for row in report.timings:
            say(line_of(row))
    for each in report.breakdowns:
        say(
            f"{each['name']}: {each['ms']['ms']:.2f} ms; one call at a time {each['ms_one_call_at_a_time']:.2f} ms:"
        )
        for stage, ms in sorted(each["stages_ms"].items(), key=lambda item: -item[1]):
            say(f"    {stage:30} {ms:10.3f} ms")
    for row in report.timings:
        for stage, seconds in row.get("processes_s", {}).get("stages", {}).items():
            say(f"    command, {stage:34} {seconds:8.3f} s")
    for entry in report.sanitizer:
        say(f"{entry['name']}: {entry['verdict']} {entry['summary']}")
    for text in report.skipped:
        say(f"skipped: {text}")
    if report.left_out:
        say(f"left out for time: {'; '.join(report.left_out)}")
    failed = report.failed
    say(f"{len(report.checks)} checks, {len(failed)} failed" + (": " + "; ".join(failed) if failed else ""))


def work(lab: Lab, only: str | None = None, with_sanitizer: bool = True) -> int:
    """All parts, or one of them; the exit status."""
    say_what_is_missing()
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


def say_what_is_missing() -> None:
    """One line for each."""
    if not EXECUTORS:
        say("threadpoolctl is missing: whole analyses, whole runs and the command are skipped")
    elif not COMMAND:
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
    reason = why_not()
    if reason:
        sys.stderr.write(f"There is no GPU to check or to time: {reason.split(';')[0]}.\n")
        return 2
    sizes = SMALL if options.small else FULL
    sizes = replace(sizes, seconds=options.seconds) if options.seconds else sizes
    lab = Lab(Cuda(pooled=not options.no_pool), sizes, out=options.out)
    return work(lab, options.only, with_sanitizer=not options.small)


if __name__ == "__main__":
    sys.exit(main())
