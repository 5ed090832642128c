"""Checks of maps of other permutation methods, of correlations, and of data that are missing at some voxels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from bench.device.checks.compare import Check
from bench.device.checks.models import ModelCase, model_results
from bench.device.lab import Lab
from gpuvox.correlation import CorrelationScale, correlation
from gpuvox.device import Device
from gpuvox.grid import Grid
from gpuvox.missing import MissingGlm
from gpuvox.partitioning import partition
from gpuvox.regression_methods import Method, Partitioning, RegressionTest
from gpuvox.shuffle import Permutations, Shuffler

CASES = (ModelCase(21, 3, shuffles=9), ModelCase(30, 3, 2, True, flip=True, data="constant", shuffles=9))


def method_checks(lab: Lab) -> Iterator[Check]:
    """Methods whose rows are made on the device, r and R² with their z, and z where data are missing."""
    grid = lab.grid(lab.sizes.coarse_mm)
    for case, method in product(CASES, (Method.DEKKER, Method.TER_BRAAK)):
        yield Check(f"{case.name}, {method.value}", partial(method_results, case, method, grid), seconds=8)
    for case in CASES:
        yield Check(f"{case.name}, correlation", partial(correlation_results, case, grid), seconds=8)
        yield Check(f"{case.name}, missing data", partial(missing_results, case, grid), seconds=8)


def method_results(case: ModelCase, method: Method, grid: Grid, device: Device | None) -> dict:
    """Like `models.glm_results`, of a method after Guttman's partition."""
    test = RegressionTest(*case.design(), method, Partitioning.GUTTMAN, case.is_f)
    shuffler = Shuffler(test.regressors, Permutations(case.shuffles + 1, 5, flip=case.flip))
    model = test.model(case.values(grid.n_voxels), shuffler.invariant, device=device)
    return model_results(model, shuffler.shuffles(0, case.shuffles))


def correlation_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """r or R², and its z."""
    design, contrast = case.design()
    shuffler = Shuffler(design, Permutations(case.shuffles + 1, 5, flip=case.flip))
    data, shuffles = case.values(grid.n_voxels), shuffler.shuffles(0, case.shuffles)
    model = correlation(data, design, contrast, shuffler.invariant, is_f=case.is_f, device=device)
    return {"r": model_results(model, shuffles), "z": model_results(CorrelationScale(model), shuffles)}


def missing_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """z where a fifth of the data are missing, and all of a subject's regressors."""
    design, contrast = case.design()
    shuffler = Shuffler(design, Permutations(case.shuffles + 1, 5, flip=case.flip))
    data = case.values(grid.n_voxels)
    sets = np.random.default_rng(9).random((case.n, 12)) < 0.2
    data[sets[:, np.arange(grid.n_voxels) % 12]] = np.nan
    parts = partition(design, contrast, is_f=case.is_f)
    model = MissingGlm(data, parts, shuffler.invariant, device, np.arange(case.n) == 4)
    return model_results(model, shuffler.shuffles(0, case.shuffles))
