"""A device for tests on which the kernels run as NVIDIA's compiler emits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from weakref import WeakValueDictionary

import numpy as np

from gpuvox.cuda import FAMILY, STATIC_SHARED
from gpuvox.device import OutOfDeviceMemory
from tests.cuda_on_cpu.shim import ShimDevice, _Tracked
from tests.ptx.compilers import Module, compiled
from tests.ptx.runtime import Settings, launch
from tests.ptx.translator import Encoded, Translated

ALIGNMENT, GUARD = 256, 256
"""Of arrays, as CUDA aligns them; and bytes around each that belong to none."""


@cache
def translated(module_ptx: str) -> Translated:
    """The kernels of a module; the same text is translated once."""
    return Translated(module_ptx)


class Modules(dict[str, Module]):
    """Modules by family; those that are missing are compiled when they are asked for, with options of `compiled`."""

    def __init__(self, modules: Mapping[str, Module] | None = None, **options):
        super().__init__(modules or {})
        self._options = options

    def __missing__(self, family: str) -> Module:
        self[family] = compiled(family, **self._options)
        return self[family]


class PtxDevice(ShimDevice):
    """Compiled kernels on the CPU, with the block sizes that the host code asks for.

    Parameters
    ----------
    settings : Settings
        Of the machine; each launch has a seed of its own that follows from this one, unless it is 0.
    modules : Modules, optional
        In place of what NVRTC makes of the shipped kernels.
    most_threads : int, optional
        Cuts the threads of blocks.
    **options
        Of `ShimDevice`.

    Attributes
    ----------
    counts : dict
        (phases, counts) of all launches of each kernel, as `runtime.launch` returns them.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        modules: Modules | None = None,
        most_threads: int = 1 << 10,
        **options,
    ):
        super().__init__(max_threads=most_threads, **({"shared_bytes": (227 << 10) - STATIC_SHARED} | options))
        self.name, self.title = "ptx", "compiled kernels on the CPU"
        self.settings = settings or Settings()
        self.counts: dict[str, np.ndarray] = {}
        self._modules = Modules() if modules is None else modules
        self._arrays: WeakValueDictionary[int, _Tracked] = WeakValueDictionary()

    def empty(self, shape, dtype):
        """An array aligned as on a GPU, with guards around it, full of bytes that mean nothing."""
        self.fail_at -= 1
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.fail_at == 0 or self.used + size > self.limit:
            raise OutOfDeviceMemory(f"no room for {size} bytes")
        room = np.full(size + 2 * GUARD + ALIGNMENT, 0xAB, dtype=np.uint8)
        start = GUARD + -(room.ctypes.data + GUARD) % ALIGNMENT
        array = _Tracked(room[start : start + size].view(dtype).reshape(shape), self, size)
        self._arrays[room.ctypes.data + start] = array
        return array

    def kernel(self, name: str) -> Encoded:
        """A kernel for the machine."""
        module = self._modules[FAMILY[name]]
        return translated(module.ptx)[module.names[name]]

    def launch(self, kernel, blocks, threads, *arguments, shared=0):
        """See `gpuvox.device.Device.launch`."""
        self.check(kernel, arguments, shared)
        code = self.kernel(kernel)
        assert not shared or code.shared_bytes <= STATIC_SHARED
        assert shared + code.shared_bytes <= 227 << 10
        held = sorted((start, start + array.values.nbytes) for start, array in self._arrays.items())
        settings = self.settings
        if settings.seed:
            settings = replace(settings, seed=settings.seed * 7919 + len(self.launched))
        values = [a.values.ctypes.data if isinstance(a, _Tracked) else a.item() for a in arguments]
        grid = (blocks, 1) if isinstance(blocks, int) else blocks
        self.note_launch(kernel, arguments)
        allocations = np.array([pair for pair in held if pair[0] < pair[1]], np.uint64).reshape(-1, 2)
        counts = launch(code, grid, min(threads, self.max_threads), values, allocations, shared, settings)
        self.counts[kernel] = self.counts.get(kernel, 0) + counts
