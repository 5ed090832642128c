"""The one place that asks whether there is a GPU, and what the engine asks of one.

A `Device` holds arrays and runs kernels on them: `cuda.CudaDevice` through CuPy, and in the tests a device that runs
the same kernels on the CPU. Where a function takes a `device`, None is the CPU with its compiled loops. What it gives
back on a device are the device's arrays, unless it says otherwise.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from importlib.util import find_spec
from threading import RLock

import numpy as np
from numpy.typing import DTypeLike

from gpuvox.types import AnyArray, DeviceArray

MEMORY_VARIABLE = "GPUVOX_DEVICE_MEMORY"
"""Environment variable that limits what is used of a device's memory: bytes, or a number with K, M or G."""

KEPT = 64
"""Uploads that `Device.keep` remembers."""


class OutOfDeviceMemory(MemoryError):
    """The device has not enough memory for an array."""


class Device(ABC):
    """A device with its memory and its kernels.

    Calls of one thread take place in order; threads that share a device hold its `lock` while they use it.

    Attributes
    ----------
    name : str
        ``cuda:0`` and the like.
    title : str
        What it is, for people.
    n_processors : int
        Multiprocessors: blocks that run at a time, at least.
    shared_bytes : int
        Most shared memory that a block may ask for.
    """

    name: str
    title: str
    n_processors: int
    shared_bytes: int

    def __init__(self) -> None:
        self.lock = RLock()
        self._kept: OrderedDict[int, tuple[AnyArray, DeviceArray]] = OrderedDict()

    @abstractmethod
    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """An array of the device, of any content.

        Raises
        ------
        OutOfDeviceMemory
        """

    @abstractmethod
    def fill(self, array: DeviceArray, value: int) -> None:
        """Set every element: to 0, or integers to -1."""

    @abstractmethod
    def upload(self, array: AnyArray) -> DeviceArray:
        """Copy to the device."""

    @abstractmethod
    def put(self, array: DeviceArray, values: AnyArray) -> None:
        """Copy values from the host into an array of the device, of the same shape and type."""

    @abstractmethod
    def download(self, array: DeviceArray) -> AnyArray:
        """Copy from the device, when all that was launched before is done."""

    @abstractmethod
    def rows(self, array: DeviceArray, start: int, stop: int) -> DeviceArray:
        """Rows ``start … stop − 1`` of an array, not copied."""

    @abstractmethod
    def launch(
        self,
        kernel: str,
        blocks: int | tuple[int, int],
        threads: int,
        *arguments: DeviceArray | np.generic,
        shared: int = 0,
    ) -> None:
        """Start a kernel.

        Parameters
        ----------
        kernel : str
            Its name with template arguments, as in `cuda.KERNELS`.
        blocks, threads : int
            Blocks (along x, or x and y) and threads of each.
        arguments
            Arrays of the device, and numpy scalars of the exact C type.
        shared : int
            Bytes of dynamic shared memory.
        """

    @abstractmethod
    def free_bytes(self) -> int:
        """Memory that new arrays may take, within the limit."""

    @abstractmethod
    def release(self) -> None:
        """Give back memory that is only kept for later."""

    def full(self, shape: int | tuple[int, ...], value: int, dtype: DTypeLike) -> DeviceArray:
        """An array of the device, of one value."""
        array = self.empty(shape, dtype)
        self.fill(array, value)
        return array

    def keep(self, array: AnyArray) -> DeviceArray:
        """Copy to the device an array that will not change; the copy is kept for the next call.

        The array is held too, so that its identity stays its own.
        """
        key = id(array)
        if key not in self._kept:
            self._kept[key] = array, self._upload_to_keep(array)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key][1]

    def _upload_to_keep(self, array: AnyArray) -> DeviceArray:
        return self.upload(array)

    def forget(self) -> None:
        """Let go of what `keep` has kept, and of memory kept for later."""
        self._kept.clear()
        self.release()


def why_not() -> str | None:
    """Why no GPU can be used, in one sentence; None if one can."""
    if find_spec("cupy") is None:
        return (
            "CuPy is not installed; install gpuvox[cuda13] or gpuvox[cuda12], whichever the driver supports, "
            "or use --device cpu"
        )
    try:
        import cupy

        n = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        # Whatever a broken driver or library raises: there is no device then.
        return f"no CUDA device answers ({type(error).__name__}: {error}); use --device cpu"
    return None if n else "no CUDA device answers; use --device cpu"


def memory_limit() -> int | None:
    """Bytes that `MEMORY_VARIABLE` allows; None if it is not set."""
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise ValueError(f"{MEMORY_VARIABLE} is {text!r}; expected a size such as 4G or 800M")
    return int(float(match[1]) * 1024 ** " KMG".index(match[2].upper() or " "))


def blocks_for(items: int, threads: int, device: Device) -> int:
    """Blocks for a loop over independent items: enough to fill the device, no more than there is work for."""
    return int(np.clip(-(-items // threads), 1, 16 * device.n_processors))


def slots_for(n_maps: int, resident: int, bytes_each: int, device: Device) -> int:
    """Maps that blocks work on at a time: as many as the device holds blocks, and as there is memory for scratch."""
    affordable = int(0.9 * device.free_bytes()) // bytes_each
    return max(1, min(n_maps, resident * device.n_processors, affordable))


def blocks_over(n_maps: int, items: int, threads: int, device: Device) -> tuple[int, int]:
    """Blocks along x for the items of a map, and along y for maps."""
    wanted = -(-16 * device.n_processors // max(n_maps, 1))
    return int(np.clip(-(-items // threads), 1, wanted)), int(np.clip(n_maps, 1, 65535))
