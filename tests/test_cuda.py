"""`CudaDevice` with a stand-in for CuPy that has what of it is used, and runs the kernels on the CPU."""

from __future__ import annotations

import ctypes
import gc
import sys
import tomllib
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from gpuvox import cuda
from gpuvox.device import OutOfDeviceMemory, why_unavailable
from gpuvox.errors import DeviceError
from gpuvox.info import check_kernels, report
from tests.cuda_on_cpu.shim import CXX, ShimDevice, _Tracked

pytestmark = pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class CUDADriverError(RuntimeError):
    pass


class Pool:
    """Memory in bytes; what is given back stays with the pool until it is asked to free it."""

    def __init__(self):
        self.used = self.kept = 0

    def malloc(self, size):
        if self.used + size > StandIn.memory:
            raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
        return Pointer(self, size)

    def free_bytes(self):
        return self.kept

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.used + self.kept

    def free_all_blocks(self):
        self.kept = 0


class Pointer:
    def __init__(self, pool, size):
        self.pool, self.size = pool, size
        pool.used += size
        self.bytes = np.full(max(size, 1), 0xAB, dtype=np.uint8)

    def memset_async(self, value, size):
        self.bytes[:size] = value

    def copy_from_host_async(self, address, size, stream):
        Stream.log.append("copy")
        ctypes.memmove(self.bytes.ctypes.data, address, size)

    def copy_from_device_async(self, source, size):
        self.bytes[:size] = source.bytes.view(np.uint8).reshape(-1)[:size]

    def __del__(self):
        self.pool.used -= self.size
        self.pool.kept += self.size


class Part:
    """The memory of some rows."""

    def __init__(self, whole, values):
        self.whole, self.bytes = whole, values
        self.copy_from_host_async = partial(Pointer.copy_from_host_async, self)
        self.copy_from_device_async = partial(Pointer.copy_from_device_async, self)


class Stream:
    """A stream that has done everything when it is asked."""

    log: ClassVar[list[str]] = []

    def __init__(self, non_blocking=False):
        self.name = "copies" if non_blocking else "kernels"

    def record(self):
        Stream.log.append(f"{self.name} record")
        return SimpleNamespace(synchronize=lambda: Stream.log.append("host waits"))

    def synchronize(self):
        Stream.log.append(f"host waits for {self.name}")

    def wait_event(self, event):
        Stream.log.append(f"{self.name} wait")


class Array(_Tracked):
    """An array of the stand-in: what `CudaDevice` asks of a CuPy array."""

    def __init__(self, shape, dtype, memptr):
        self.data = memptr
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        super().__init__(memptr.bytes[:size].view(dtype).reshape(shape), SimpleNamespace(used=0, largest=0), 0)
        self.nbytes = size

    def set(self, values):
        assert values.dtype == self.dtype
        assert values.shape == self.shape
        self.values[...] = values

    def get(self, out=None):
        if out is None:
            return self.values.copy()
        StandIn.packed_copies += 1
        out[...] = self.values
        return out

    def __getitem__(self, part):
        return self.view(self.values[part])

    def view(self, values):
        out = object.__new__(Array)
        out.data = Part(self.data, values)
        _Tracked.__init__(out, values, SimpleNamespace(used=0, largest=0), 0)
        out.nbytes = values.nbytes
        return out


class Function:
    max_dynamic_shared_size_bytes = 48 << 10
    preferred_shared_memory_carveout = -1

    def __init__(self, name):
        self.name = name

    def __call__(self, grid, block, arguments, shared_mem=0):
        if StandIn.broken:
            raise CUDADriverError(StandIn.broken)
        assert shared_mem + 1024 <= max(self.max_dynamic_shared_size_bytes, 47 << 10) + 1024
        assert max(block) <= 1024
        assert grid[1] <= 65535
        StandIn.shim.launch(self.name, grid[:2], block[0], *arguments, shared=shared_mem)


class RawModule:
    def __init__(self, code, options, name_expressions):
        assert "#line 1" in code
        assert "-fmad=false" in options
        self.names = name_expressions
        StandIn.compiled.append(name_expressions)

    def get_function(self, name):
        if StandIn.broken:
            raise RuntimeError(StandIn.broken)
        assert name in self.names
        return Function(name)


class StandIn:
    """The module: as much of CuPy as gpuvox uses."""

    memory, broken, devices = 1 << 30, "", 1
    compiled: ClassVar[list] = []
    packed_copies = 0
    shim = None
    __version__ = "stand-in"
    ndarray = staticmethod(lambda shape, dtype, memptr: Array(shape, dtype, memptr))
    RawModule = RawModule

    class cuda:  # noqa: N801
        MemoryPool = Pool
        Stream = Stream
        get_current_stream = staticmethod(Stream)
        alloc_pinned_memory = staticmethod(lambda size: np.zeros(size, np.uint8))
        memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
        driver = SimpleNamespace(CUDADriverError=CUDADriverError)

        class Device:
            def __init__(self, number):
                self.number = number

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return False

        class runtime:  # noqa: N801
            CUDARuntimeError = CUDARuntimeError
            getDeviceCount = staticmethod(lambda: StandIn.devices)  # noqa: N815
            deviceGetPCIBusId = staticmethod(lambda number: f"0000:{number:02}:00.0")  # noqa: N815
            driverGetVersion = staticmethod(lambda: 13020)  # noqa: N815
            memGetInfo = staticmethod(lambda: (StandIn.memory, StandIn.memory))  # noqa: N815
            getDeviceProperties = staticmethod(  # noqa: N815
                lambda number: {
                    "name": b"stand-in", "totalGlobalMem": StandIn.memory, "multiProcessorCount": 3,
                    "sharedMemPerBlockOptin": 99 << 10, "l2CacheSize": 1 << 20, "major": 9, "minor": 0,
                }
            )  # fmt: skip


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", StandIn)
    monkeypatch.setattr("gpuvox.device.find_spec", lambda name: name)
    monkeypatch.setattr(StandIn, "broken", "")
    monkeypatch.setattr(StandIn, "compiled", [])
    monkeypatch.setattr(StandIn, "shim", ShimDevice(shared_bytes=99 << 10))
    cuda.open_device.cache_clear()
    cuda._usable.cache_clear()
    yield StandIn
    cuda.open_device.cache_clear()
    cuda._usable.cache_clear()


def test_the_whole_way_through_cupy(cupy):
    assert why_unavailable() is None
    device = cuda.resolve("auto")
    assert (device.name, device.title, device.n_processors) == ("cuda:0", "stand-in, 1 GB", 3)
    check_kernels(device)
    lines = list(report())
    assert all(good for _, good in lines)
    assert lines[-1][0] == "cuda:0: a t map and its TFCE are equal to the CPU's, bit for bit"
    assert "CUDA: driver 13.2" in [line.split(",")[0] for line, _ in lines]


def test_arrays(cupy):
    device = cuda.CudaDevice(0)
    array = device.upload(np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(device.download(device.rows(array, 1, 3)), [[2, 3], [4, 5]])
    device.put(device.rows(array, 0, 1), np.array([[7.0, 8.0]]))
    np.testing.assert_array_equal(device.download(array)[0], [7, 8])
    assert not device.download(device.full((2, 3), 0, np.float32)).any()
    assert (device.download(device.full(4, -1, np.int16)) == -1).all()
    with pytest.raises(ValueError, match="0 or -1"):
        device.full(2, 1, np.int32)
    assert device.upload(np.zeros((0, 3))).shape == (0, 3)


def test_several_arrays_are_downloaded_in_one_copy(cupy):
    device = cuda.CudaDevice(0)
    sent = [np.arange(3, dtype=np.int32), np.zeros((0, 2)), np.arange(10.0).reshape(2, 5), np.ones(1, np.float32)]
    copies = cupy.packed_copies
    for _ in range(2):
        found = device.download_all([device.upload(each) for each in sent])
        for ours, theirs in zip(found, sent):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    assert cupy.packed_copies == copies + 2
    assert device.download_all([]) == []


def test_copies_beside_the_kernels(cupy):
    """A copy from page-locked memory, on its own stream, between what it waits for and what waits for it."""
    device = cuda.CudaDevice(0)
    array, staged = device.full((3, 2), 0, np.float32), device.page_locked((2, 2), np.float32)
    staged[...] = [[1, 2], [3, 4]]
    Stream.log.clear()
    event = device.send(device.rows(array, 1, 3), staged, device.mark())
    device.wait_for(event)
    device.finish(device.send(device.rows(array, 0, 1), staged[:1], None))
    np.testing.assert_array_equal(device.download(array), [[1, 2], [1, 2], [3, 4]])
    assert Stream.log == [
        "kernels record", "copies wait", "copy", "copies record", "kernels wait", "copy", "copies record", "host waits",
    ]  # fmt: skip


def test_each_kernel_is_compiled_by_itself_when_it_is_first_launched(cupy):
    device = cuda.CudaDevice(0)
    assert cupy.compiled == []
    for _ in range(2):
        device.kernel("maps_put")
        device.kernel("glm_maps<false>")
    assert cupy.compiled == [("maps_put",), ("glm_maps<false>",)]


def test_what_is_on_its_way_to_the_device_stays_alive(cupy, monkeypatch):
    """CuPy copies later, and does not keep what it copies from."""
    device = cuda.CudaDevice(0)
    target = device.empty(4, np.float64)
    source = np.arange(4.0)
    alive = weakref.ref(source)
    device.put(target, source)
    del source
    gc.collect()
    assert alive() is not None
    device.download(target)
    gc.collect()
    assert alive() is None
    # Without a download, what has been copied is let go of once it is too much.
    monkeypatch.setattr(cuda, "MOST_IN_FLIGHT", 100)
    Stream.log.clear()
    for _ in range(5):
        device.put(target, np.arange(4.0))
    assert sum(held.nbytes for held in device._sources) <= 100
    assert Stream.log == ["host waits for kernels"]


def test_the_version_of_cupy():
    """The first one that keeps what it has compiled, with drivers of the same age."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    for extra in ("cuda12", "cuda13"):
        (cupy,) = [each for each in project["optional-dependencies"][extra] if each.startswith("cupy")]
        assert cupy.split(">=")[1] == "14.2"


def test_the_limit_counts_what_is_kept(cupy):
    device = cuda.CudaDevice(0, limit=10_000)
    table = np.zeros(500)
    device.keep(table)
    assert device.free_bytes() == 6000
    held = device.empty(5000, np.uint8)
    with pytest.raises(OutOfDeviceMemory, match="limit of 10000 bytes"):
        device.empty(2000, np.uint8)
    del held
    assert device.empty(5500, np.uint8).shape == (5500,)  # what was given back is freed for it
    device.forget()
    assert device.free_bytes() == 10_000


def test_what_cuda_complains_of_is_one_sentence(cupy, monkeypatch):
    device = cuda.CudaDevice(0)
    monkeypatch.setattr(cupy, "memory", 1000)
    with pytest.raises(OutOfDeviceMemory):
        device.empty(2000, np.uint8)
    monkeypatch.setattr(cupy, "memory", 1 << 30)
    check_kernels(device)
    for message, kind in (
        ("CUDA_ERROR_ILLEGAL_ADDRESS", DeviceError),
        ("CUDA_ERROR_OUT_OF_MEMORY", OutOfDeviceMemory),
    ):
        monkeypatch.setattr(cupy, "broken", message)
        with pytest.raises(kind, match=message):
            check_kernels(device)
    monkeypatch.setattr(cupy, "broken", "Failed to find CUDA headers")
    with pytest.raises(DeviceError, match="cannot be compiled for stand-in, 1 GB: Failed to find CUDA headers"):
        cuda.CudaDevice(0).kernel("maps_put")
    with pytest.warns(UserWarning, match="using the CPU"):
        assert cuda.resolve("auto") is None
    assert not all(good for _, good in report())


def test_devices_that_are_not_there(cupy, monkeypatch):
    with pytest.raises(DeviceError, match="cuda:3: there are 1 CUDA devices"):
        cuda.resolve("cuda:3")
    monkeypatch.setattr(cupy, "devices", 0)
    assert why_unavailable() == "no CUDA device answers; use --device cpu"
