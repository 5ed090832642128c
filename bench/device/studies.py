"""Designs and tests that are both checked and timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.device.lab import GB, Lab
from gpuvox.device import Device
from gpuvox.glm import Glm
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import LevelOverflow, ObservedTest, PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics


def design_of(n: int) -> tuple[NDArray, NDArray]:
    """Two groups, a mean and three covariates; the contrast is that of the groups."""
    rng = np.random.default_rng(n)
    group = np.where(np.arange(n) < n // 2, 0.5, -0.5)
    return np.column_stack([group, np.ones(n), rng.normal(size=(n, 3))]), np.array([1.0, 0, 0, 0, 0])


def make_test(
    lab: Lab, device: Device | None, mm: float, n: int, number: int, wanted: Statistics
) -> PermutationTest:
    """Test of both signs on smooth noise with three covariates."""
    design, contrast = design_of(n)
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(number, 1))
    model = Glm(lab.data(mm, n), partition(design, contrast), shuffler.invariant, device=device)
    return PermutationTest(model, lab.grid(mm), shuffler, wanted, signs=2)


def levelled(test: PermutationTest, attempt: Callable[[ObservedTest], Any]) -> ObservedTest:
    """The observed test, with levels enough for what is attempted."""
    while True:
        observed = test.observe()
        try:
            attempt(observed)
            return observed
        except LevelOverflow as overflow:
            test = test.with_cap(overflow.needed)


def in_bytes(limit: int | None) -> str:
    """``4 GB``."""
    return "no limit" if limit is None else f"{limit / GB:g} GB" if limit >= GB // 4 else f"{limit >> 20} MB"
