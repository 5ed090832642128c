"""What `bench.device.machine.Cuda` is to the bench, without a GPU: kernels on the CPU, and a stopwatch for events."""

from __future__ import annotations

import ctypes
import os
import time
from time import perf_counter

import numpy as np

from bench.device import machine
from gpuvox.cuda import FAMILY
from tests.cuda_on_cpu.shim import ShimDevice, build


class Stopwatch:
    """The machine of the tests."""

    def __init__(self):
        self.device = ShimDevice()

    def capped(self, limit):
        return self.device if limit is None else ShimDevice(limit=limit)

    def synchronise(self):
        pass

    def timed(self, work):
        start = perf_counter()
        work()
        return 1e3 * (perf_counter() - start)

    def facts(self):
        return {"device": "Kernels on the CPU"}

    def architecture(self):
        return "cpu"

    def clocks(self):
        return {}

    def compile(self):
        return {}

    def transfers(self, n_bytes, repeats):
        source, target = np.zeros(n_bytes, np.uint8), np.ones(n_bytes, np.uint8)
        copied = machine.rate(self, lambda: np.copyto(target, source), n_bytes, repeats)
        return {"page_locked_to_device": copied, "launch_us": machine.call_us(self, lambda: None)}

    def copy_rate(self, n_bytes, repeats):
        source, target = np.zeros(n_bytes, np.uint8), np.ones(n_bytes, np.uint8)
        return machine.rate(self, lambda: np.copyto(target, source), 2 * n_bytes, repeats)

    def fma_rate(self, repeats):
        x = np.ones(100_000, np.float32)
        return machine.rate(self, lambda: x * x + x, 2 * x.size, repeats)

    def tuned(self, tuning):
        device = ShimDevice()
        device.tuning = tuning
        return device

    def substituted(self, kernel, old, new):
        machine.with_substitution(kernel, old, new)  # launch bounds mean nothing here
        assert kernel in FAMILY
        return ShimDevice()

    def profiled(self):
        library = build("tfce", flags=("-DGPUVOX_PROFILE", "-O0"))
        phases = (ctypes.c_uint64 * 16).in_dll(ctypes.CDLL(str(library)), "gpuvox_phases")

        def read():
            ticks = list(phases)
            ctypes.memset(phases, 0, ctypes.sizeof(phases))
            return ticks

        return ShimDevice(libraries={"tfce": library}), read


class Hanging(Stopwatch):
    """A kernel never ends."""

    def copy_rate(self, n_bytes, repeats):
        time.sleep(1000)


class Crashing(Stopwatch):
    """A fault ends the process."""

    def copy_rate(self, n_bytes, repeats):
        os.abort()
