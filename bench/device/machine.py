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
from gpuvox.tuning import Tuning


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

    def architecture(self) -> str:
        """``sm_90`` and the like."""
        about = self.cupy.cuda.runtime.getDeviceProperties(0)
        return f"sm_{about['major']}{about['minor']}"

    def tuned(self, tuning: Tuning) -> Device:
        """The device with other launches of its kernels, which it compiles itself."""
        from gpuvox.cuda import CudaDevice

        device = CudaDevice(0)
        device.tuning = tuning
        return device

    def substituted(self, kernel: str, old: str, new: str) -> Device:
        """The device with a change in the source of a kernel; `ValueError` if the text is not there."""
        from gpuvox.cuda import CudaDevice, compile_options

        changed = with_substitution(kernel, old, new)

        class Changed(CudaDevice):
            def _module(self, name: str) -> Any:
                if name != kernel:
                    return super()._module(name)
                return self._cupy.RawModule(code=changed, options=compile_options(), name_expressions=(name,))

        return Changed(0)

    def profiled(self) -> tuple[Device, Callable[[], list[int]]]:
        """The device with a clock in its kernels, and what reads and clears it."""
        from gpuvox.cuda import FAMILY, CudaDevice, compile_options, source

        modules = []

        class Profiled(CudaDevice):
            def _module(self, name: str) -> Any:
                options = (*compile_options(), "-DGPUVOX_PROFILE")
                modules.append(
                    self._cupy.RawModule(code=source(FAMILY[name]), options=options, name_expressions=(name,))
                )
                return modules[-1]

        def read() -> list[int]:
            total = np.zeros(16, dtype=np.uint64)
            for module in modules:
                pointer = module.get_global("gpuvox_phases")
                ticks = np.zeros(16, dtype=np.uint64)
                pointer.copy_to_host(ticks.ctypes.data, ticks.nbytes)
                pointer.memset(0, ticks.nbytes)
                total += ticks
            return total.tolist()

        return Profiled(0), read

    def transfers(self, n_bytes: int, repeats: int) -> dict:
        """Bytes per second of copies from and to the host, pageable and page-locked; microseconds of small calls."""
        runtime, device = self.cupy.cuda.runtime, self.device
        there, pageable = device.empty(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)
        locked = device.page_locked((n_bytes,), np.uint8)
        directions = {"to_device": runtime.memcpyHostToDevice, "from_device": runtime.memcpyDeviceToHost}
        found: dict[str, Any] = {}
        for name, memory in (("pageable", pageable), ("page_locked", locked)):
            for way, kind in directions.items():
                pair = (there.data.ptr, memory.ctypes.data)
                target, origin = pair if way == "to_device" else pair[::-1]
                copy = partial(runtime.memcpy, target, origin, n_bytes, kind)
                found[f"{name}_{way}"] = rate(self, copy, n_bytes, repeats)
        one = device.full(1, 0, np.float32)
        scale = self.cupy.RawKernel(NOTHING, "nothing")
        calls = {
            "launch": partial(scale, (1, 1, 1), (32, 1, 1), (one,)), "memory_info": runtime.memGetInfo,
            "allocation": partial(device.empty, 1 << 20, np.uint8), "small_download": partial(device.download, one),
        }  # fmt: skip
        return found | {f"{name}_us": call_us(self, call) for name, call in calls.items()}

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


NOTHING = """
extern "C" __global__ void nothing(float* out) {
    if (threadIdx.x == 99) out[0] = 1.0f;
}
"""

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


def call_us(machine: Any, call: Callable[[], Any], n: int = 200) -> float:
    """Microseconds of a call, of many in a row."""
    call()
    machine.synchronise()
    start = perf_counter()
    for _ in range(n):
        call()
    machine.synchronise()
    return 1e6 * (perf_counter() - start) / n


def with_substitution(kernel: str, old: str, new: str) -> str:
    """The source of a kernel's family, changed before the kernel's name; `ValueError` if `old` does not match there."""
    from gpuvox.cuda import FAMILY, source

    text, name = source(FAMILY[kernel]), kernel.split("<")[0]
    end = text.index(f" {name}(") if f" {name}(" in text else text.index(f"\n{name}(")
    found = list(re.finditer(old, text[:end]))
    if not found:
        raise ValueError(f"{old!r} is not in the source of {kernel}")
    return text[: found[-1].start()] + found[-1].expand(new) + text[found[-1].end() :]


def transfers(lab: Lab) -> None:
    """Copies between host and device, and what small calls take."""
    lab.report.facts["transfers"] = lab.machine.transfers(min(lab.sizes.copied, 1 << 28), lab.sizes.repeats)
    for name, found in lab.report.facts["transfers"].items():
        text = f"{found:.1f} us" if isinstance(found, float) else f"{found['per_s'] / 1e9:.1f} GB/s"
        say(f"   {name}: {text}")


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
