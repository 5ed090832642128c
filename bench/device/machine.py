"""What the machine is, and the most that it can do: facts, compilation, measured ceilings."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench.device.lab import Lab, first_line, n_threads, say
from gpuvox.device import Device


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
