"""CUDA through CuPy: loads ``kernels/*.cu`` and runs them.

The sources are part of the package; NVRTC compiles each kernel by itself when it is first launched, and CuPy caches the
result on disk. Its cache does not consider included headers, so the compiler options contain a hash of them.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuvox import tuning
from gpuvox.device import C_NAMES, Device, Event, OutOfDeviceMemory, memory_limit, why_unavailable
from gpuvox.errors import CacheWarning, DeviceError, UsageError
from gpuvox.runtime import caches
from gpuvox.types import AnyArray, DeviceArray

KERNELS: dict[str, tuple[str, ...]] = {
    "glm": (
        "glm_rows",
        "glm_residuals",
        "glm_equivalent",
        "glm_maps<false>",
        "glm_maps<true>",
        "glm_exact",
        "glm_variance",
        "glm_smooth_variance",
        "glm_f_to_z",
    ),
    "voxelwise": (
        "voxelwise_prepare",
        "voxelwise_maps<float>",
        "voxelwise_maps<double>",
        "voxelwise_exact",
        "voxelwise_refit<float>",
        "voxelwise_refit<double>",
        "voxelwise_refit_exact",
        "voxelwise_equivalent",
        "voxelwise_f_to_z",
    ),
    "missing": ("missing_prepare", "missing_factors", "missing_maps", "missing_exact"),
    "correlation": ("correlation_maps", "correlation_exact"),
    "regression": ("regression_rows", "regression_equivalent", "regression_moves_nothing"),
    "normal_scores": (
        "normal_scores_maps",
        "normal_scores_items",
        "normal_scores_sizes",
        "normal_scores_item_sizes",
    ),
    "variance_groups": (
        "variance_groups_places",
        "variance_groups_prepare",
        "variance_groups_maps",
        "variance_groups_exact",
    ),
    "smooth": ("smooth_fill", "smooth_pass", "smooth_gather"),
    "cluster": ("cluster_measure<0>", "cluster_measure<1>", "cluster_measure<2>"),
    "inversion": ("inversion_maps", "inversion_sums"),
    "shuffle": ("shuffle_permutations", "shuffle_signs", "shuffle_tree"),
    "maps": (
        "maps_extremes<float>",
        "maps_extremes<double>",
        "maps_extremes<long long>",
        "maps_ties_everywhere",
        "maps_list_unsettled",
        "maps_list_close",
        "maps_list_ties",
        "maps_list_threshold",
        "maps_list_steps",
        "maps_list_own_steps",
        "maps_put",
        "maps_start_maxima",
        "maps_raise_maxima",
        "maps_settle_below",
        "maps_count_below<float, false>",
        "maps_count_below<double, true>",
        "maps_count_below<long long, true>",
        "maps_sum_up<long long>",
        "maps_sum_up<double>",
        "maps_normalise<long long>",
        "maps_normalise<double>",
        *(
            f"maps_{what}<{kind}>"
            for what, kind in product(("power_sums", "first_reached", "take"), C_NAMES.values())
        ),
    ),
    "tfce": (
        *(f"tfce_peaks<{c}, {full}>" for c, full in product((6, 18, 26), ("false", "true"))),
        "tfce_own_tables",
        "tfce_own_values",
        "tfce_grow<long long>",
        "tfce_grow<double>",
    ),
}
"""Kernels of each family (one file per family), with their template arguments."""

FAMILY = {kernel: family for family, kernels in KERNELS.items() for kernel in kernels}
"""The file of each kernel."""

OPTIONS = ("-std=c++17", "-fmad=false")
"""a * b + c is not contracted, so that CPU and GPU produce the same bits; fused multiply-adds are explicit."""

STATIC_SHARED = 1024
"""Shared memory left for the static variables of a kernel with dynamic shared memory."""
MOST_IN_FLIGHT = 256 << 20
"""Bytes of the host that wait to be copied to a device."""
PACKED = 16
"""Arrays that are downloaded together begin at multiples of so many bytes."""
USUAL_SHARED = 48 * 1024 - STATIC_SHARED
"""Dynamic shared memory that a kernel may use without requesting it."""


@cache
def kernel_directory() -> Path:
    """Where the sources are: inside the installed package, or at the top of a checkout."""
    here = Path(__file__).parent
    for directory in (here / "kernels", here.parent / "kernels"):
        if (directory / "common.cuh").exists():
            return directory
    raise DeviceError(f"the CUDA kernels are missing: there is no folder kernels in {here} or {here.parent}")


def source(family: str) -> str:
    """Source of a family; the compiler's messages refer to its file."""
    path = kernel_directory() / f"{family}.cu"
    return f'#line 1 "{path}"\n{path.read_text()}'


def compile_options() -> tuple[str, ...]:
    """Options of the compiler, with a hash of the headers."""
    digest = sha256()
    for header in sorted(kernel_directory().glob("*.cuh")):
        digest.update(header.read_bytes())
    return (*OPTIONS, f"-I{kernel_directory()}", f"-DGPUVOX_HEADERS=0x{digest.hexdigest()[:15]}ULL")


@cache
def settle_cache() -> None:
    """Use a private folder if CuPy's cache is in a folder that cannot be written or trusted.

    The private folder is removed at exit; a warning says that kernels are not kept.
    """
    folder = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    reason = caches.why_untrusted(folder) if caches.make(folder) else f"{folder} cannot be written"
    if not reason:
        return
    private = tempfile.mkdtemp(prefix="gpuvox-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    os.environ["CUPY_CACHE_DIR"] = private
    advice = "set CUPY_CACHE_DIR to a folder of your own"
    warnings.warn(CacheWarning(f"compiled kernels are not kept because {reason}; {advice}"), stacklevel=3)


class CudaDevice(Device):
    """A GPU through CuPy.

    Parameters
    ----------
    number : int
        Which one.
    limit : int, optional
        Largest number of bytes of its memory to use.

    Raises
    ------
    DeviceError
        There is no such GPU.
    """

    def __init__(self, number: int = 0, limit: int | None = None) -> None:
        super().__init__()
        settle_cache()
        import cupy

        self._cupy = cupy
        n = count_devices()
        if number >= n:
            raise DeviceError(f"--device cuda:{number}: there are {n} CUDA devices, numbered from 0")
        self._device = cupy.cuda.Device(number)
        about = cupy.cuda.runtime.getDeviceProperties(number)
        self.name = f"cuda:{number}"
        self.memory = int(about["totalGlobalMem"])
        self.title = f"{about['name'].decode()}, {self.memory / 2**30:.0f} GB"
        self.bus_id = str(cupy.cuda.runtime.deviceGetPCIBusId(number))
        self.tuning = tuning.load(f"sm_{about['major']}{about['minor']}")
        self.n_processors = int(about["multiProcessorCount"])
        self.shared_bytes = int(about["sharedMemPerBlockOptin"]) - STATIC_SHARED
        self.cache_bytes = int(about["l2CacheSize"])
        self._kernels: dict[str, Any] = {}
        self._shared: dict[str, int] = {}
        self._sources: list[AnyArray] = []
        self._landing: AnyArray | None = None
        self._limit = limit
        with self._device:
            # Separate pools, so that other users of CuPy in this process keep theirs. Kept arrays have a pool of their
            # own, or small tables would pin parts of large chunks.
            self._pool, self._kept_pool = cupy.cuda.MemoryPool(), cupy.cuda.MemoryPool()
            self._copies = cupy.cuda.Stream(non_blocking=True)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make this the current device of the calling thread; errors of CUDA become one sentence."""
        cuda = self._cupy.cuda
        try:
            with self._device:
                yield
        except cuda.memory.OutOfMemoryError as error:
            raise OutOfDeviceMemory(str(error)) from None
        except (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if "OUT_OF_MEMORY" in str(error).upper().replace(" ", "_"):
                raise OutOfDeviceMemory(str(error)) from None
            raise DeviceError(f"{self.title} ({self.name}) failed: {error}") from None

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """See `Device.empty`."""
        return self._allocated(self._pool, shape, dtype)

    def _allocated(self, pool: Any, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        shape = (shape,) if isinstance(shape, int) else shape
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if self._limit and size > self._limit - self._pool.total_bytes() - self._kept_pool.total_bytes():
            self.release()
            if size > self._limit - self._pool.total_bytes() - self._kept_pool.total_bytes():
                raise OutOfDeviceMemory(f"{size} bytes are more than the limit of {self._limit} bytes leaves")
        with self._current():
            array: DeviceArray = self._cupy.ndarray(shape, dtype, memptr=pool.malloc(size))
            return array

    def _upload_to_keep(self, array: AnyArray) -> DeviceArray:
        out = self._allocated(self._kept_pool, array.shape, array.dtype)
        self.put(out, array)
        return out

    def fill(self, array: Any, value: int) -> None:
        """See `Device.fill`."""
        # Only values with all bits clear or set are needed, which takes no kernel.
        if value not in (0, -1):
            raise ValueError(f"arrays are filled with 0 or -1, not {value}")
        with self._current():
            array.data.memset_async(0xFF if value else 0, array.nbytes)

    def upload(self, array: AnyArray) -> DeviceArray:
        """See `Device.upload`."""
        out = self.empty(array.shape, array.dtype)
        self.put(out, array)
        return out

    def put(self, array: Any, values: AnyArray) -> None:
        """See `Device.put`."""
        if not values.size:
            return
        source = np.ascontiguousarray(values)
        with self._current():
            if sum(held.nbytes for held in self._sources) + source.nbytes > MOST_IN_FLIGHT:
                self._finish_copies()
            # The copy may take place later, and CuPy does not keep its source.
            self._sources.append(source)
            array.set(source)

    def _finish_copies(self) -> None:
        """Wait for what was launched, and let go of the sources of copies."""
        self._cupy.cuda.get_current_stream().synchronize()
        self._sources.clear()

    def download(self, array: Any) -> AnyArray:
        """See `Device.download`."""
        with self._current():
            values: AnyArray = array.get()
            self._sources.clear()  # whatever was to be copied before has been
            return values

    def download_all(self, arrays: Sequence[Any]) -> list[AnyArray]:
        """See `Device.download_all`."""
        if len(arrays) < 2:
            return [self.download(array) for array in arrays]
        starts = np.cumsum([0, *(-(-array.nbytes // PACKED) * PACKED for array in arrays)]).tolist()
        packed: Any = self.empty(starts[-1], np.uint8)
        with self._current():
            for array, start in zip(arrays, starts):
                if array.nbytes:
                    packed[start : start + array.nbytes].data.copy_from_device_async(array.data, array.nbytes)
        if self._landing is None or len(self._landing) < starts[-1]:
            self._landing = self.page_locked((starts[-1],), np.uint8)
        with self._current():
            packed.get(out=self._landing[: starts[-1]])
        self._sources.clear()
        return [
            self._landing[start : start + array.nbytes].view(array.dtype).reshape(array.shape).copy()
            for array, start in zip(arrays, starts)
        ]

    def rows(self, array: Any, start: int, stop: int) -> DeviceArray:
        """See `Device.rows`."""
        with self._current():
            part: DeviceArray = array[start:stop]
            return part

    def launch(
        self,
        kernel: str,
        blocks: int | tuple[int, int],
        threads: int,
        *arguments: DeviceArray | np.generic,
        shared: int = 0,
    ) -> None:
        """See `Device.launch`."""
        grid = (blocks, 1) if isinstance(blocks, int) else blocks
        with self._current():
            function = self.kernel(kernel)
            if shared > self._shared.get(kernel, USUAL_SHARED):
                function.max_dynamic_shared_size_bytes = shared
                function.preferred_shared_memory_carveout = 100
                self._shared[kernel] = shared
            function((*grid, 1), (threads, 1, 1), arguments, shared_mem=shared)

    def page_locked(self, shape: tuple[int, ...], dtype: DTypeLike) -> AnyArray:
        """See `Device.page_locked`."""
        count = int(np.prod(shape, dtype=np.int64))
        with self._current():
            memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

    def send(self, array: Any, values: AnyArray, after: Event | None) -> Event:
        """See `Device.send`."""
        with self._current():
            if after is not None:
                self._copies.wait_event(after)
            array.data.copy_from_host_async(values.ctypes.data, values.nbytes, self._copies)
            return self._copies.record()

    def mark(self) -> Event:
        """See `Device.mark`."""
        with self._current():
            return self._cupy.cuda.get_current_stream().record()

    def wait_for(self, event: Event) -> None:
        """See `Device.wait_for`."""
        with self._current():
            self._cupy.cuda.get_current_stream().wait_event(event)

    def finish(self, event: Event) -> None:
        """See `Device.finish`."""
        with self._current():
            event.synchronize()

    def kernel(self, name: str) -> Any:
        """A compiled kernel.

        Raises
        ------
        DeviceError
            It cannot be compiled or loaded: an error in the kernel, or a missing CUDA library.
        """
        if name not in self._kernels:
            try:
                with self._device:
                    self._kernels[name] = self._module(name).get_function(name)
            except Exception as error:
                # CuPy raises various exceptions if a library or a header is missing.
                raise DeviceError(f"the CUDA kernels cannot be compiled for {self.title}: {error}") from None
        return self._kernels[name]

    def _module(self, name: str) -> Any:
        """The compiled module of a kernel."""
        options = (*compile_options(), *self.tuning.defines(name))
        return self._cupy.RawModule(code=source(FAMILY[name]), options=options, name_expressions=(name,))

    def free_bytes(self) -> int:
        """See `Device.free_bytes`."""
        with self._current():
            free = int(self._cupy.cuda.runtime.memGetInfo()[0]) + int(self._pool.free_bytes())
        used = int(self._pool.used_bytes() + self._kept_pool.total_bytes())
        return min(free, self._limit - used) if self._limit else free

    def release(self) -> None:
        """See `Device.release`."""
        with self._current():
            self._pool.free_all_blocks()
            self._kept_pool.free_all_blocks()


@lru_cache(maxsize=64)
def open_device(number: int = 0, limit: int | None = None) -> CudaDevice:
    """The GPU with this number; one object per GPU, with its compiled kernels."""
    return CudaDevice(number, limit)


def resolve(name: str = "auto") -> Device | None:
    """The first of the devices that a name stands for, see `resolve_all`; None for the CPU."""
    devices = resolve_all(name)
    return devices[0] if devices else None


def resolve_all(name: str = "auto") -> tuple[Device, ...]:
    """Devices on which a run takes place.

    Parameters
    ----------
    name : str
        ``auto``: a GPU if one is found and its kernels load, otherwise the CPU; ``cpu``; ``cuda``: all GPUs that
        CUDA shows to this process (``CUDA_VISIBLE_DEVICES``); ``cuda:i`` or ``cuda:i,j``: these of them.

    Returns
    -------
    tuple of Device
        Empty for the CPU.

    Raises
    ------
    DeviceError
        ``cuda`` is requested but cannot be used; the message says what is missing.
    InputError
        There is no device of this name, or `MEMORY_VARIABLE` is not a size.
    """
    if name == "cpu":
        return ()
    match = re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", name)
    if name != "auto" and not match:
        raise UsageError(f"--device {name}: expected auto, cpu, cuda, cuda:i or cuda:i,j", option="--device")
    reason = why_unavailable()
    if name == "auto":
        device = None if reason else _usable(open_device(0, memory_limit()))
        return () if device is None else (device,)
    if reason:
        raise DeviceError(f"--device {name}: {reason}")
    named = match[1] if match else None
    numbers = [int(number) for number in named.split(",")] if named else range(count_devices())
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--device {name}: a device is named twice", option="--device")
    return tuple(open_device(number, memory_limit()) for number in numbers)


def count_devices() -> int:
    """Number of GPUs that CUDA shows to this process."""
    import cupy

    return int(cupy.cuda.runtime.getDeviceCount())


@cache
def _usable(device: CudaDevice) -> CudaDevice | None:
    """The device, or None (the CPU) with a warning if its kernels cannot be compiled."""
    try:
        device.kernel("maps_put")
    except DeviceError as error:
        warnings.warn(f"{error}; using the CPU", stacklevel=3)
        return None
    return device
