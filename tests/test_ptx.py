"""The kernels as NVIDIA's compilers emit them, run by an emulator of PTX, against the CPU's own loops.

`tests/test_kernels.py` runs the sources; here it is what the compiler makes of them: every kernel with the block sizes
that are shipped, in several orders of its warps, equal to the CPU bit for bit. The emulator notices faults that are
planted in the kernels, and it counts what they cost (`tests/ptx/counts.py`).
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pytest

from gpuvox.analysis import analyse, prepare
from gpuvox.cuda import FAMILY
from tests.cuda_on_cpu.shim import CXX
from tests.ptx import compilers
from tests.ptx.device import PtxDevice
from tests.ptx.runs import RUNS
from tests.ptx.runtime import Settings
from tests.test_device import assert_same, study

pytestmark = [
    pytest.mark.skipif(CXX is None, reason="no C++ compiler to build the emulator"),
    pytest.mark.skipif(compilers.nvrtc() is None, reason="the package nvidia-cuda-nvrtc is not installed"),
]

SEEDS = (1, 2, 3)
"""Orders in which warps run."""
STUDIES = (0, 10, 11)
"""Analyses that launch the kernels that no run launches."""
SHAPE = (9, 9, 9)
"""Of their images: more voxels than a block has threads."""


# -- every kernel against the CPU -----------------------------------------------------------------------------------


@cache
def expected(name):
    """What the CPU computes."""
    return RUNS[name].results(None)


@cache
def run_on(name: str, device_settings: Settings) -> frozenset[str]:
    """A run on the emulator, which must agree with the CPU; the kernels that it launched."""
    device = PtxDevice(device_settings, n_processors=1)
    for ours, theirs in zip(RUNS[name].results(device), expected(name), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RUNS[name].tolerance, atol=0, strict=True)
    return frozenset(device.launched)


@cache
def analysed_on(number: int, device_settings: Settings) -> frozenset[str]:
    """A whole analysis through the host's code, likewise."""
    inputs, options = study(number, SHAPE)
    options = dataclasses.replace(options, n_permutations=8)
    device = PtxDevice(device_settings)
    ours = list(analyse(prepare(inputs, dataclasses.replace(options, device=device))))
    assert_same(list(analyse(prepare(inputs, options))), ours)
    return frozenset(device.launched)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", RUNS)
def test_compiled_kernels_give_the_bits_of_the_cpu(name, seed):
    run_on(name, Settings(seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("number", STUDIES)
def test_whole_analyses_give_the_bits_of_the_cpu(number, seed):
    analysed_on(number, Settings(seed))


@pytest.mark.long
@pytest.mark.parametrize("number", sorted({*range(24)} - {*STUDIES}))
def test_every_option_gives_the_bits_of_the_cpu(number):
    analysed_on(number, Settings(number + 1, find_races=True))


def test_every_kernel_is_among_them():
    runs = [run_on(name, Settings(SEEDS[0])) for name in RUNS]
    analyses = [analysed_on(number, Settings(SEEDS[0])) for number in STUDIES]
    assert frozenset().union(*runs, *analyses) == set(FAMILY)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_races(name):
    """No two threads of a block touch one word between two barriers, unless both do so by helpers of common.cuh."""
    run_on(name, Settings(SEEDS[0], find_races=True))
