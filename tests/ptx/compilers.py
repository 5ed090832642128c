"""CUDA → PTX by NVIDIA's own compilers: NVRTC from PyPI, which needs neither a GPU nor a driver, and nvcc."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gpuvox import cuda
from gpuvox.cuda import KERNELS, compile_options, kernel_directory
from tests.cuda_on_cpu.shim import cache_folder

PTX_OPTIONS = ("-ftz=true", "-lineinfo")
"""CuPy appends the first one to the options of every kernel; the other one names the line of each instruction."""


class CompilationError(Exception):
    """The compiler refuses a kernel; the message is its log."""


@dataclass(frozen=True)
class Module:
    """What a compiler made of a family of kernels.

    Attributes
    ----------
    ptx : str
    names : dict
        Name in the PTX of every kernel, which are named as in `gpuvox.cuda.KERNELS`.
    """

    ptx: str
    names: dict[str, str]


@cache
def nvrtc() -> ctypes.CDLL | None:
    """NVIDIA's run-time compiler from the package nvidia-cuda-nvrtc; None if it is not installed."""
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            if "builtins" not in library.name and "alt" not in library.name:
                return ctypes.CDLL(str(library))
    return None


def nvrtc_version() -> str:
    """Version of the package, down to the build: `13.5.37`."""
    from importlib.metadata import distributions

    versions = [d.version for d in distributions() if (d.metadata["Name"] or "").startswith("nvidia-cuda-nvrtc")]
    return versions[0] if versions else "none"


class Program:
    """A compilation by NVRTC."""

    def __init__(self, text: str, name: str, kernels: tuple[str, ...], options: tuple[str, ...]):
        self._library = nvrtc()
        self._handle = ctypes.c_void_p()
        create = self._library.nvrtcCreateProgram
        assert not create(ctypes.byref(self._handle), text.encode(), f"{name}.cu".encode(), 0, None, None)
        for kernel in kernels:
            assert not self._library.nvrtcAddNameExpression(self._handle, kernel.encode())
        encoded = [option.encode() for option in options]
        arguments = (ctypes.c_char_p * len(encoded))(*encoded)
        self.status = self._library.nvrtcCompileProgram(self._handle, len(encoded), arguments)
        self._kernels = kernels

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.nvrtcDestroyProgram(ctypes.byref(self._handle))

    def log(self) -> str:
        """Warnings and errors."""
        return self._text("ProgramLog")

    def ptx(self) -> str:
        """The result, if a virtual architecture was asked for."""
        return self._text("PTX")

    def names(self) -> dict[str, str]:
        """Mangled names of the kernels; those that the compiler does not know are left out."""
        names = {}
        for kernel in self._kernels:
            name = ctypes.c_char_p()
            status = self._library.nvrtcGetLoweredName(self._handle, kernel.encode(), ctypes.byref(name))
            if not status and name.value:
                names[kernel] = name.value.decode()
        return names

    def _text(self, what: str) -> str:
        size = ctypes.c_size_t()
        assert not getattr(self._library, f"nvrtcGet{what}Size")(self._handle, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        assert not getattr(self._library, f"nvrtcGet{what}")(self._handle, text)
        return text.value.decode()


def compiled(
    family: str,
    *,
    source: str | None = None,
    options: tuple[str, ...] | None = None,
    architecture: int = 90,
    compiler: str = "nvrtc",
) -> Module:
    """PTX of a family of kernels. Made once per content, in the folder of temporary files.

    Parameters
    ----------
    family : str
    source : str, optional
        In place of the shipped text.
    options : tuple of str, optional
        In place of the shipped ones.
    architecture : int
        Compute capability, times 10.
    compiler : str
        ``nvrtc`` or ``nvcc``.

    Raises
    ------
    CompilationError
    """
    text = cuda.source(family) if source is None else source
    options = (*(compile_options() if options is None else options), *PTX_OPTIONS)
    version = nvrtc_version() if compiler == "nvrtc" else nvcc_version()
    content = repr((text, options, architecture, compiler, version, KERNELS[family]))
    path = cache_folder() / f"{family}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.ptx.json"
    if not path.exists():
        make = by_nvrtc if compiler == "nvrtc" else by_nvcc
        module = make(family, text, options, architecture)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump([module.ptx, module.names], file)
        Path(file.name).replace(path)
    return Module(*json.loads(path.read_text()))


def by_nvrtc(family: str, text: str, options: tuple[str, ...], architecture: int) -> Module:
    """What CuPy does on a GPU, up to the PTX."""
    options = (*options, f"--gpu-architecture=compute_{architecture}")
    with Program(text, family, KERNELS[family], options) as program:
        names = {} if program.status else program.names()
        if program.status or len(names) < len(KERNELS[family]):
            raise CompilationError(f"{sorted(set(KERNELS[family]) - set(names))}\n{program.log()}")
        return Module(program.ptx(), names)


@cache
def nvcc_version() -> str:
    """Its last line about itself; an empty string if nvcc is not on the PATH."""
    if shutil.which("nvcc") is None:
        return ""
    return subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout.strip().splitlines()[-1]


def instantiations(family: str) -> str:
    """Lines that make nvcc compile the templates among the kernels."""
    templates = [kernel for kernel in KERNELS[family] if "<" in kernel]
    return "".join(f"template __global__ decltype({kernel}) {kernel};\n" for kernel in templates)


def by_nvcc(family: str, text: str, options: tuple[str, ...], architecture: int) -> Module:
    """The same by nvcc; the names are those that c++filt reads."""
    with tempfile.TemporaryDirectory() as folder:
        unit, made = Path(folder) / f"{family}.cu", Path(folder) / f"{family}.ptx"
        unit.write_text(f"{text}\n{instantiations(family)}")
        command = ["nvcc", *options, f"-I{kernel_directory()}", f"-arch=compute_{architecture}", "-ptx"]
        done = subprocess.run([*command, "-o", str(made), str(unit)], capture_output=True, text=True)
        if done.returncode:
            raise CompilationError(done.stderr)
        ptx = made.read_text()
    mangled = re.findall(r"\.entry (\w+)", ptx)
    plain = subprocess.run(["c++filt", *mangled], capture_output=True, text=True, check=True).stdout.splitlines()
    names = {name.split("(")[0].removeprefix("void ").strip(): entry for name, entry in zip(plain, mangled)}
    return Module(ptx, {kernel: names[kernel] for kernel in KERNELS[family]})
