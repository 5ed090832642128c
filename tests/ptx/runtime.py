"""The machine, compiled by the C++ compiler once for all kernels, and launches on it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from tests.cuda_on_cpu.shim import compiled
from tests.ptx.instructions import cpp
from tests.ptx.parser import bits_of
from tests.ptx.translator import INSTRUCTION, Encoded

HERE = Path(__file__).parent
FLAGS = ("-std=c++20", "-O2", "-ftree-vectorize", "-march=native", "-ffp-contract=off", "-fwrapv",
         "-fno-strict-aliasing", "-fPIC", "-shared", "-w")  # fmt: skip
COUNTS = (
    "warp_instructions",
    "thread_instructions",
    "float64",
    "requests",
    "sectors",
    "atomics",
    "shared",
    "barriers",
)
"""`Counts` of machine.hpp."""


class EmulationError(Exception):
    """A kernel did what no kernel may do; the message has its line in the source and in the PTX."""


class _Program(ctypes.Structure):
    _fields_ = (
        ("instructions", ctypes.c_void_p), ("n_instructions", ctypes.c_int32), ("constants", ctypes.c_void_p),
        ("n_registers", ctypes.c_int32), ("shared_bytes", ctypes.c_int32), ("local_bytes", ctypes.c_int32),
    )  # fmt: skip


class _Launch(ctypes.Structure):
    _fields_ = (
        ("blocks_x", ctypes.c_uint32), ("blocks_y", ctypes.c_uint32), ("threads", ctypes.c_uint32),
        ("dynamic_bytes", ctypes.c_int64), ("parameters", ctypes.c_char_p), ("allocations", ctypes.c_void_p),
        ("n_allocations", ctypes.c_int64), ("seed", ctypes.c_uint32), ("find_races", ctypes.c_int32),
        ("most_instructions", ctypes.c_int64), ("counts", ctypes.c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How the machine runs.

    Attributes
    ----------
    seed : int
        Of the order in which warps run; with 0 they take turns.
    find_races : bool
        Refuse two accesses of one word by different threads that nothing orders.
    most_instructions : int
        Of the warps of a launch, beyond which it is taken for endless.
    """

    seed: int = 0
    find_races: bool = False
    most_instructions: int = 1 << 40


@cache
def machine() -> ctypes.CDLL:
    """The machine with the whole table of instructions."""
    text = f"{(HERE / 'lanes.hpp').read_text()}\n{cpp()}\n{(HERE / 'machine.hpp').read_text()}"
    library = ctypes.CDLL(str(compiled(text.replace("#pragma once", ""), "ptx_machine", ".so", FLAGS)))
    assert library.instruction_bytes() == INSTRUCTION.itemsize
    return library


def launch(
    kernel: Encoded,
    blocks: tuple[int, int],
    threads: int,
    arguments: Sequence[int | float],
    allocations: np.ndarray,
    dynamic_bytes: int = 0,
    settings: Settings = Settings(),
) -> np.ndarray:
    """Run a kernel.

    Parameters
    ----------
    arguments : sequence of numbers
        Addresses for pointers.
    allocations : (n, 2) uint64
        Start and end of all memory that the kernel may use, ascending.

    Returns
    -------
    counts : (phases, len(COUNTS)) int64

    Raises
    ------
    EmulationError
    """
    if kernel.most_threads and threads > kernel.most_threads:
        raise EmulationError(f"{threads} threads, compiled for {kernel.most_threads} at most")
    counts = np.zeros((len(kernel.phases), len(COUNTS)), np.int64)
    program = _Program(
        kernel.instructions.ctypes.data, len(kernel.instructions), kernel.constants.ctypes.data,
        kernel.n_registers, kernel.shared_bytes, kernel.local_bytes,
    )  # fmt: skip
    allocations = np.ascontiguousarray(allocations, np.uint64)
    what = _Launch(
        *blocks, threads, dynamic_bytes, packed(kernel, arguments), allocations.ctypes.data, len(allocations),
        settings.seed, settings.find_races, settings.most_instructions, counts.ctypes.data,
    )  # fmt: skip
    at, text = ctypes.c_int32(), ctypes.create_string_buffer(400)
    status = machine().run_kernel(ctypes.byref(program), ctypes.byref(what), ctypes.byref(at), text, len(text))
    if status:
        place = " in ".join(kernel.places[at.value])
        line = kernel.instructions["line"][at.value]
        raise EmulationError(f"{kernel.name}, {place}, line {line} of the PTX: {text.value.decode()}")
    return counts


def packed(kernel: Encoded, arguments: Sequence[int | float]) -> bytes:
    """The arguments as they lie in the memory of parameters."""
    formats = {"f32": "<f", "f64": "<d"}
    out = bytearray(4096)
    for (kind, offset), value in zip(kernel.parameters, arguments, strict=True):
        if kind in formats:
            struct.pack_into(formats[kind], out, offset, value)
        else:
            size = bits_of(kind) // 8
            out[offset : offset + size] = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    return bytes(out)
