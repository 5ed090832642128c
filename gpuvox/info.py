"""What this installation can do: versions, devices, and whether the kernels compile and compute."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter

import numpy as np

from gpuvox import __version__
from gpuvox.cuda import KERNELS, CudaDevice, count_devices, kernel_directory, open_device
from gpuvox.device import Device, memory_limit, why_unavailable
from gpuvox.errors import DeviceError
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.partitioning import partition
from gpuvox.runtime.limits import default_threads
from gpuvox.tfce import Enhancer, Tfce

PACKAGES = ("numpy", "scipy", "numba", "nibabel", "pandas", "cupy-cuda12x", "cupy-cuda13x")


def versions() -> dict[str, str]:
    """Versions of the packages that results depend on, without those that are not installed."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def check_kernels(device: Device) -> None:
    """Compute a t map and its TFCE on a device and on the CPU.

    Raises
    ------
    DeviceError
        The maps differ, because the device, its driver or its compiler is faulty.
    """
    rng = np.random.default_rng(1)
    grid = Grid(np.ones((6, 6, 6), dtype=bool))
    design = np.stack([np.ones(12), np.arange(12) % 2, rng.normal(size=12)], axis=1)
    model, contrast = partition(design, np.array([[0.0, 1, 0]])), np.full((12, 1), 12**-0.5)
    data = rng.normal(size=(12, grid.n_voxels)).astype(np.float32)
    shuffles = np.stack([rng.permutation(12) for _ in range(4)]).astype(np.int32)
    here, there = Glm(data, model, contrast), Glm(data, model, contrast, device=device)
    t, deltas = here.statistic_maps(shuffles), (0.05, 0.05)
    on_device = there.statistic_maps(shuffles)
    if not np.array_equal(t, device.download(on_device)):
        raise DeviceError(f"{device.title}: its t maps differ from those of the CPU")
    scores = Enhancer(grid, Tfce(), deltas).maxima(t)
    if not np.array_equal(scores, Enhancer(grid, Tfce(), deltas, device=device).maxima(on_device)):
        raise DeviceError(f"{device.title}: its TFCE differs from that of the CPU")


def report() -> Iterator[tuple[str, bool]]:
    """Lines about the installation, and whether each reports success."""
    yield (
        f"gpuvox {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        True,
    )
    yield ", ".join(f"{name} {number}" for name, number in versions().items()), True
    yield f"CPU: {default_threads()} processors for this process", True
    yield f"kernels: {kernel_directory()}", True
    reason = why_unavailable()
    if reason:
        yield f"GPU: none; {reason}", True
        return
    import cupy

    yield f"CUDA: driver {_cuda(cupy.cuda.runtime.driverGetVersion())}, CuPy {cupy.__version__}", True
    n_devices = count_devices()
    for number in range(n_devices):
        yield from _device_lines(open_device(number, memory_limit()))
    if n_devices > 1:
        yield (
            f"{n_devices} GPUs: --device cuda uses all of them, --device cuda:0,1 these two, auto the first",
            True,
        )


def _cuda(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _device_lines(device: CudaDevice) -> Iterator[tuple[str, bool]]:
    """Lines about one GPU."""
    free = device.free_bytes() / 2**30
    yield f"{device.name}: {device.title}, {free:.1f} GB to use, {device.n_processors} multiprocessors", True
    start = perf_counter()
    try:
        for kernels in KERNELS.values():
            for kernel in kernels:
                device.kernel(kernel)
    except Exception as error:
        # A missing CUDA library may raise anything.
        yield f"{device.name}: the kernels cannot be loaded: {error}", False
        return
    yield f"{device.name}: kernels compiled or loaded in {perf_counter() - start:.1f} s", True
    try:
        check_kernels(device)
    except Exception as error:
        yield f"{device.name}: {error}", False
        return
    yield f"{device.name}: a t map and its TFCE are equal to the CPU's, bit for bit", True
