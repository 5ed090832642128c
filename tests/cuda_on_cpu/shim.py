"""A device for tests: the shipped kernels, compiled by the C++ compiler, with numpy arrays for memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path
from threading import Lock

import numpy as np

from gpuvox.cuda import FAMILY, KERNELS, kernel_directory
from gpuvox.device import Device, OutOfDeviceMemory

HERE = Path(__file__).parent
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
FLAGS = ("-std=c++20", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-w")
ONE_AT_A_TIME = Lock()  # the shared memory of blocks is static: the kernels of two devices must not run together
C_TYPES = {
    "short": np.int16,
    "int": np.int32,
    "unsigned char": np.uint8,
    "int64": np.int64,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "float": np.float32,
    "double": np.float64,
}


def registry(family: str, text: str) -> str:
    """C++ that starts kernels by name."""
    cases = "\n".join(
        f'    if (!strcmp(name, "{kernel}")) {{ cuda_on_cpu::launch({kernel}, shape, shared, arguments); return 0; }}'
        for kernel in KERNELS[family]
    )
    return (
        f"{text}\n"
        'extern "C" int start(const char* name, const unsigned* shape, unsigned long shared, void** arguments) {\n'
        f"{cases}\n    return 1;\n}}\n"
    )


def build(family: str, *, source: str | None = None, flags: tuple[str, ...] = ()) -> Path:
    """Shared library of a family of kernels; `source` in place of the shipped one. Built once per content."""
    text = registry(family, source or (kernel_directory() / f"{family}.cu").read_text())
    return compiled(text, family, ".so", (*FLAGS, *flags))


def compiled(text: str, name: str, suffix: str, flags: tuple[str, ...]) -> Path:
    """What the C++ compiler makes of a text. Made once per content, in the folder of temporary files."""
    digest = hashlib.sha256(repr((text, flags, CXX)).encode())
    for header in (*sorted(kernel_directory().glob("*.cuh")), *sorted(HERE.glob("*.hpp"))):
        digest.update(header.read_bytes())
    path = cache_folder() / f"{name}-{digest.hexdigest()[:20]}{suffix}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            unit, made = Path(scratch) / f"{name}.cpp", Path(scratch) / path.name
            unit.write_text(text)
            command = [CXX, *flags, f"-I{kernel_directory()}", f"-I{HERE}", "-o", made, unit]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            made.replace(path)
    return path


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    folder = Path(tempfile.gettempdir()) / f"gpuvox-kernels-on-cpu-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def signature(kernel: str) -> list[tuple[str, bool]]:
    """(type, is a pointer) of every parameter, read from the source; template parameters by their name."""
    name = kernel.split("<")[0]
    text = (kernel_directory() / f"{FAMILY[kernel]}.cu").read_text()
    parameters = re.search(rf"(?:KERNEL|KERNEL_FOR\([^)]*\))\s+{name}\(([^)]*)\)", text)[1]
    types = [parameter.replace("const ", "").strip().rsplit(" ", 1)[0] for parameter in parameters.split(",")]
    arguments = re.search(r"<(.*)>", kernel)
    template = re.search(rf"template <([^>]*)> *(?:\n *)?(?:KERNEL|KERNEL_FOR\([^)]*\))\s+{name}\(", text)
    names = {}
    if template:
        given = [a.strip().replace("long long", "int64") for a in arguments[1].split(",")]
        names = {p.split()[-1]: a for p, a in zip(template[1].split(","), given)}
    return [(names.get(t.rstrip("*"), t.rstrip("*")), t.endswith("*")) for t in types]


class ShimDevice(Device):
    """Kernels on the CPU.

    `limit` caps the bytes of live arrays; `fail_at` makes the n-th allocation from now fail; `max_threads` cuts the
    threads of blocks, which kernels must not notice.

    Kernels run when they are launched. What `send` copies is copied as late as a GPU might: when something waits for
    it, from what the page-locked array holds then. A copy that does not wait for the last kernel that used its target
    fails. `operations` lists (what, which) in the order in which the host asked for them, `transfers` the copies
    between host and device in both directions.
    """

    def __init__(
        self, max_threads=1, limit=1 << 33, n_processors=2, shared_bytes=96 << 10, libraries=None, name="shim"
    ):
        super().__init__()
        self.name, self.title, self.bus_id = name, "kernels on the CPU", f"bus of {name}"
        self.n_processors, self.shared_bytes, self.cache_bytes = n_processors, shared_bytes, 1 << 20
        self.max_threads, self.limit, self.used, self.largest, self.fail_at = max_threads, limit, 0, 0, -1
        self.launched: list[str] = []
        self.operations: list[tuple[str, object]] = []
        self.transfers: list[str] = []
        self._sent: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._last_use = weakref.WeakKeyDictionary()
        self._libraries = dict(libraries or {})
        self._signatures = {}

    def empty(self, shape, dtype):
        self.fail_at -= 1
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.fail_at == 0 or self.used + size > self.limit:
            raise OutOfDeviceMemory(f"no room for {size} bytes")
        # Poison: what is not written must not be used.
        array = np.frombuffer(np.full(max(size, 16), 0xAB, dtype=np.uint8), dtype=np.uint8)[:size]
        array = _Tracked(array.view(dtype).reshape(shape), self, size)
        return array

    def fill(self, array, value):
        assert value in (0, -1)
        array.values[...] = value

    def upload(self, array):
        self.transfers.append("upload")
        out = self.empty(np.shape(array), np.asarray(array).dtype)
        out.values[...] = array
        return out

    def put(self, array, values):
        assert array.shape == values.shape
        assert array.dtype == values.dtype
        self.transfers.append("put")
        array.values[...] = values

    def download(self, array):
        self.transfers.append("download")
        return array.values.copy()

    def download_all(self, arrays):
        self.transfers.append("download")
        return [array.values.copy() for array in arrays]

    def rows(self, array, start, stop):
        return array.view(array.values[start:stop])

    def launch(self, kernel, blocks, threads, *arguments, shared=0):
        self.check(kernel, arguments, shared)
        values = [np.array([a.values.ctypes.data if isinstance(a, _Tracked) else a]) for a in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        x, y = (blocks, 1) if isinstance(blocks, int) else blocks
        shape = (ctypes.c_uint * 3)(x, y, min(threads, self.max_threads))
        self.note_launch(kernel, arguments)
        with ONE_AT_A_TIME:
            assert (
                self._library(FAMILY[kernel]).start(kernel.encode(), shape, ctypes.c_ulong(shared), pointers) == 0
            )

    def page_locked(self, shape, dtype):
        return np.full(shape, 0xAB).astype(dtype)

    def send(self, array, values, after):
        assert array.shape == values.shape
        assert array.dtype == values.dtype
        used = self._last_use.get(root(array), 0)
        assert used <= (after[1] if after else 0), "a copy into an array that a kernel may still use"
        self.operations.append(("send", len(self.operations)))
        self.transfers.append("send")
        self._sent.append((len(self.operations), array.values, values))
        return "copy", len(self.operations)

    def mark(self):
        return "kernels", len(self.launched)

    def wait_for(self, event):
        self.operations.append(("wait", event[1] - 1))
        self._copy_up_to(event)

    def finish(self, event):
        self.operations.append(("finish", event[1] - 1))
        self._copy_up_to(event)

    def note_launch(self, kernel, arguments):
        """Remember what a kernel uses."""
        self.launched.append(kernel)
        self.operations.append(("launch", kernel))
        for argument in arguments:
            if isinstance(argument, _Tracked):
                self._last_use[root(argument)] = len(self.launched)

    def _copy_up_to(self, event):
        while event[0] == "copy" and self._sent and self._sent[0][0] <= event[1]:
            _, target, values = self._sent.pop(0)
            target[...] = values

    def check(self, kernel, arguments, shared):
        """A launch has the arguments of the kernel, with the types of C."""
        assert shared <= self.shared_bytes
        if kernel not in self._signatures:
            self._signatures[kernel] = signature(kernel)
        expected = self._signatures[kernel]
        assert len(expected) == len(arguments), f"{kernel}: {len(expected)} parameters, {len(arguments)} arguments"
        for i, ((c_type, is_pointer), argument) in enumerate(zip(expected, arguments)):
            kind = argument.dtype
            assert kind == C_TYPES[c_type], f"{kernel}: argument {i} is {kind}, expected {c_type}"
            assert is_pointer == isinstance(argument, _Tracked), f"{kernel}: argument {i}, pointer or not"

    def _library(self, family):
        if not isinstance(self._libraries.get(family), ctypes.CDLL):
            self._libraries[family] = ctypes.CDLL(str(self._libraries.get(family) or build(family)))
        return self._libraries[family]

    def free_bytes(self):
        return self.limit - self.used

    def release(self):
        pass


def root(array):
    """The allocation that an array is a part of."""
    while hasattr(array, "base"):
        array = array.base
    return array


class _Tracked:
    """An array of the device: only the device looks at its values."""

    def __init__(self, values, device, size):
        self.values, self.shape, self.dtype, self.size = values, values.shape, values.dtype, values.size
        self.ndim, self._device, self._bytes = values.ndim, device, size
        device.used += size
        device.largest = max(device.largest, device.used)

    def __len__(self):
        return self.shape[0]

    def view(self, values):
        out = _Tracked(values, self._device, 0)
        out.base = self
        return out

    def reshape(self, *shape):
        return self.view(self.values.reshape(*shape))

    def __del__(self):
        self._device.used -= self._bytes
