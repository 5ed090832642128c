"""Checks of what PALM has beside t and F: other methods, correlations, missing data, variance groups, z of all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from bench.device.checks.compare import Check
from bench.device.checks.models import ModelCase, model_results
from bench.device.checks.runs import engine
from bench.device.lab import Lab
from gpuvox.correlation import CorrelationScale, correlation
from gpuvox.device import Device
from gpuvox.glm import Glm
from gpuvox.grid import Grid
from gpuvox.missing import MissingGlm
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.permtest import PermutationTest
from gpuvox.regression_methods import Method, Partitioning, RegressionTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from gpuvox.variance_groups import VarianceGroupsGlm
from gpuvox.voxelwise_methods import voxelwise_model

CASES = (ModelCase(21, 3, shuffles=9), ModelCase(30, 3, 2, True, flip=True, data="constant", shuffles=9))


def method_checks(lab: Lab) -> Iterator[Check]:
    """Methods whose rows are made on the device, r and R², v and G, and z of all, with TFCE by PALM's rule."""
    grid = lab.grid(lab.sizes.coarse_mm)
    for case, method in product(CASES, (Method.DEKKER, Method.TER_BRAAK)):
        yield Check(f"{case.name}, {method.value}", partial(method_results, case, method, grid), seconds=8)
    for case, method in product(CASES, (Method.DEKKER, Method.KENNEDY)):
        results = partial(voxelwise_method_results, case, method, grid)
        yield Check(f"{case.name}, voxelwise EV, {method.value}", results, seconds=8)
    for case in CASES:
        yield Check(f"{case.name}, correlation", partial(correlation_results, case, grid), seconds=8)
        yield Check(f"{case.name}, missing data", partial(missing_results, case, grid), seconds=8)
        yield Check(f"{case.name}, variance groups", partial(variance_group_results, case, grid), seconds=8)
        yield Check(f"{case.name}, z and TFCE by PALM's rule", partial(score_results, case, grid), seconds=8)


def method_results(case: ModelCase, method: Method, grid: Grid, device: Device | None) -> dict:
    """Like `models.glm_results`, of a method after Guttman's partition."""
    test = RegressionTest(*case.design(), method, Partitioning.GUTTMAN, case.is_f)
    shuffler = Shuffler(test.regressors, Permutations(case.shuffles + 1, 5, flip=case.flip))
    model = test.model(case.values(grid.n_voxels), shuffler.invariant, device=device)
    return model_results(model, shuffler.shuffles(0, case.shuffles))


def voxelwise_method_results(case: ModelCase, method: Method, grid: Grid, device: Device | None) -> dict:
    """The same with a voxelwise EV, which is constant at some voxels."""
    design, contrast = case.design()
    ev = np.random.default_rng(8).normal(size=(case.n, grid.n_voxels)).astype(np.float32)
    ev[:, ::13] = 1
    shuffler = Shuffler(design, Permutations(case.shuffles + 1, 5, flip=case.flip))
    model = voxelwise_model(
        case.values(grid.n_voxels), design, contrast, {0: ev}, method, demean=True, is_f=case.is_f, device=device,
        keeps_mean=case.flip,
    )  # fmt: skip
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


def variance_group_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """z of v or G, and v or G themselves, of three groups, one of which varies more than the others."""
    design, contrast = case.design()
    shuffler = Shuffler(design, Permutations(case.shuffles + 1, 5, flip=case.flip))
    data, groups = case.values(grid.n_voxels), np.arange(case.n) % 3
    data[groups == 2] *= 4
    parts, shuffles = partition(design, contrast, is_f=case.is_f), shuffler.shuffles(0, case.shuffles)
    model = VarianceGroupsGlm(data, parts, shuffler.invariant, groups, device=device)
    raw = model.raw_maps(shuffles[-1])
    return {"raw": list(raw), **model_results(model, shuffles)}


def score_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """z of t or F; and a test of |z| of t, or of z of F, with TFCE in steps of each map's own maximum."""
    design, contrast = case.design()
    shuffler = Shuffler(design, Permutations(case.shuffles + 1, 5, flip=case.flip))
    parts = partition(design, contrast, is_f=case.is_f)

    def model() -> ZScale:
        return ZScale(Glm(case.values(grid.n_voxels), parts, shuffler.invariant, device=device))

    wanted = Statistics(True, Tfce(rule="palm"), 0.7, 0.7, uncorrected=True)
    test = PermutationTest(model() if case.is_f else Magnitude(model()), grid, shuffler, wanted)
    return {
        "z": model_results(model(), shuffler.shuffles(0, case.shuffles)),
        "test": engine(test, case.shuffles),
    }
