"""Checks of t and F maps, with and without voxelwise EVs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.device.checks.compare import Check
from bench.device.checks.runs import EVERYTHING, engine
from bench.device.lab import Lab, host, there
from gpuvox.device import Device
from gpuvox.glm import Glm, Nuisance
from gpuvox.grid import Grid
from gpuvox.partitioning import effective_regressor, partition
from gpuvox.permtest import PermutationTest
from gpuvox.shuffle import Permutations, Shuffler
from gpuvox.smooth import MaskedGaussian
from gpuvox.voxelwise_evs import VoxelwiseGlm


@dataclass(frozen=True)
class ModelCase:
    """A model to be checked.

    `covariates` beside the effects; `data`: ``noise``, ``constant`` (some voxels are) or ``high mean`` (100 SD, with
    effects near constant, so that little is left of the sum of squares).
    """

    n: int
    covariates: int = 0
    effects: int = 1
    is_f: bool = False
    flip: bool = False
    data: str = "noise"
    nuisance: Nuisance = Nuisance.FREEDMAN_LANE
    demean: bool = False
    sigma_mm: float = 0.0
    shuffles: int = 20

    @property
    def name(self) -> str:
        """In words."""
        words = [f"{'F' if self.is_f else 't'} maps, n {self.n}", f"{self.covariates} covariates"]
        words += [f"{self.effects} effects"] if self.effects > 1 else []
        words += ["flips"] if self.flip else []
        words += [self.data] if self.data != "noise" else []
        words += [self.nuisance.name.lower()] if self.nuisance != Nuisance.FREEDMAN_LANE else []
        words += ["demeaned"] if self.demean else []
        words += [f"variance smoothed {self.sigma_mm:g} mm"] if self.sigma_mm else []
        return ", ".join(words)

    def design(self) -> tuple[NDArray, NDArray]:
        """Design and contrast."""
        rng = np.random.default_rng(self.n + 7 * self.covariates)
        effects = rng.normal(size=(self.n, self.effects))
        if self.data == "high mean":
            effects = 1 + 0.03 * effects
        covariates = rng.normal(size=(self.n, self.covariates))
        if self.covariates and self.data != "high mean" and not self.demean:
            covariates[:, 0] = 1  # most designs have a mean
        return np.hstack([effects, covariates]), np.eye(self.effects, self.effects + self.covariates)

    def values(self, n_voxels: int) -> NDArray[np.float32]:
        """Data."""
        rng = np.random.default_rng(self.n)
        data = rng.normal(size=(self.n, n_voxels)).astype(np.float32)
        if self.data == "high mean":
            data += 100
        if self.data == "constant":
            data[:, ::7] = 3
            data[:, ::11] = 0
        return data


MODELS = (
    ModelCase(20),
    ModelCase(20, flip=True),
    ModelCase(21, 1),
    ModelCase(33, 3),
    ModelCase(40, 8, shuffles=33),
    ModelCase(146, 3, shuffles=70),
    ModelCase(146, 8),
    ModelCase(77, 2, flip=True),
    ModelCase(30, 2, data="constant"),
    ModelCase(30, data="high mean"),
    ModelCase(90, 2, data="high mean"),
    ModelCase(30, 2, 3, True, data="high mean"),
    ModelCase(25, 2, 2, True),
    ModelCase(146, 8, 3, True),
    ModelCase(64, 0, 3, True, flip=True),
    ModelCase(146, 70),
    ModelCase(146, 3, 70, True),
    ModelCase(50, 3, nuisance=Nuisance.KENNEDY),
    ModelCase(50, 3, nuisance=Nuisance.NONE),
    ModelCase(50, 3, nuisance=Nuisance.TER_BRAAK),
    ModelCase(41, 3, demean=True),
    ModelCase(40, 3, sigma_mm=10.0),
    ModelCase(40, 2, flip=True, data="constant", sigma_mm=10.0),
    ModelCase(30, data="high mean", sigma_mm=10.0),
)

VOXELWISE = (
    ModelCase(20, 1, shuffles=9),
    ModelCase(60, 4, shuffles=9),
    ModelCase(33, 2, flip=True, shuffles=9),
    ModelCase(40, 2, 2, True, shuffles=9),
    ModelCase(40, 3, demean=True, shuffles=9),
    ModelCase(30, 2, data="constant", shuffles=9),
    ModelCase(30, 2, data="high mean", shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.KENNEDY, shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.NONE, shuffles=9),
    ModelCase(40, 3, nuisance=Nuisance.TER_BRAAK, shuffles=9),
    ModelCase(40, 3, sigma_mm=10.0, shuffles=9),
)


def glm_checks(lab: Lab) -> Iterator[Check]:
    """t and F maps, and float64 where float32 is not enough."""
    coarse, brain = lab.grid(lab.sizes.coarse_mm), lab.grid(lab.sizes.mm)
    for case in MODELS:
        yield Check(case.name, partial(glm_results, case, coarse))
    for case in (ModelCase(lab.sizes.n, 3, shuffles=10), ModelCase(40, 3, sigma_mm=5.0, shuffles=4)):
        yield Check(f"{case.name}, {lab.sizes.mm:g} mm", partial(glm_results, case, brain), seconds=10)
    case = ModelCase(33, 3)
    yield Check(f"{case.name}, everything, both signs", partial(test_results, case, coarse), seconds=10)


def glm_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """Maps of a batch and of one shuffle, float64 of pairs and of a map."""
    design, contrast = case.design()
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(case.shuffles + 1, 5, flip=case.flip))
    smoother = MaskedGaussian(grid, case.sigma_mm) if case.sigma_mm else None
    model = partition(design, contrast, is_f=case.is_f, demean=case.demean)
    data = case.values(grid.n_voxels)
    return model_results(
        Glm(data, model, shuffler.invariant, case.nuisance, smoother, device), shuffler.shuffles(0, case.shuffles)
    )


def test_results(case: ModelCase, grid: Grid, device: Device | None) -> dict:
    """A permutation test of both signs."""
    design, contrast = case.design()
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(case.shuffles, 5, flip=case.flip))
    model = Glm(
        case.values(grid.n_voxels), partition(design, contrast, is_f=case.is_f), shuffler.invariant, device=device
    )
    return engine(PermutationTest(model, grid, shuffler, EVERYTHING, 1 if case.is_f else 2), case.shuffles)


def model_results(model: Any, shuffles: NDArray) -> dict:
    """Maps of a batch and of one shuffle, float64 of pairs and of a map."""
    rng = np.random.default_rng(6)
    found = {
        "maps": host(model.device, model.statistic_maps(shuffles)),
        "one": host(model.device, model.statistic_maps(shuffles[-1:])),
        "float64 map": model.exact_map(shuffles[-1]),
    }
    if model.has_exact:
        number, voxels = rng.integers(0, len(shuffles), 3000), rng.integers(0, model.n_voxels, 3000)
        found["float64"] = model.exact(shuffles, number, voxels)
    if model.f_dfs is not None:
        found["z of F"] = host(model.device, model.to_z(there(model.device, found["maps"])))
    model.release()
    return found


def voxelwise_checks(lab: Lab) -> Iterator[Check]:
    """Models with voxelwise EVs: in the last covariate, and in the effect."""
    for case, in_effect in product(VOXELWISE, (False, True)):
        where = "effect" if in_effect else "covariate"
        results = partial(voxelwise_results, case, in_effect, lab.grid(lab.sizes.coarse_mm))
        yield Check(f"{case.name}, voxelwise {where}", results, seconds=8)


def voxelwise_results(case: ModelCase, in_effect: bool, grid: Grid, device: Device | None) -> dict:
    """Like `glm_results`; the EV is constant at some voxels."""
    design, contrast = case.design()
    column = 0 if in_effect else design.shape[1] - 1
    ev = np.random.default_rng(8).normal(size=(case.n, grid.n_voxels)).astype(np.float32)
    ev[:, ::13] = 1
    shuffler = Shuffler(effective_regressor(design, contrast), Permutations(case.shuffles + 1, 5, flip=case.flip))
    smoother = MaskedGaussian(grid, case.sigma_mm) if case.sigma_mm else None
    evs = {column: ev, -1 - design.shape[1]: (ev > 1.5).astype(np.float32)}  # some subjects are left out
    results = {}
    for name, given in (("all", {column: ev}), ("left out", evs)):
        model = VoxelwiseGlm(
            case.values(grid.n_voxels), design, contrast, given, case.nuisance, case.demean, case.is_f, smoother,
            device,
        )  # fmt: skip
        results[name] = model_results(model, shuffler.shuffles(0, case.shuffles))
    return results
