"""The model of each test: its statistic, and the same as a normal score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gpuvox.application.palm.contrasts import Contrast, PalmTest
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.correlation import CorrelationScale, correlation
from gpuvox.device import Device
from gpuvox.errors import DesignError, UsageError
from gpuvox.missing import MissingGlm
from gpuvox.normal_scores import Magnitude, ZScale
from gpuvox.partitioning import partition
from gpuvox.prepared import AnyShuffler
from gpuvox.regression_methods import Method, Partitioning, RegressionTest
from gpuvox.types import Float32, Float64, Shuffles
from gpuvox.variance_groups import VarianceGroupsGlm
from gpuvox.voxelwise_methods import voxelwise_model

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Tester:
    """What tests every element of a modality with one contrast: t or F.

    Attributes
    ----------
    kind : str
        ``tstat``, ``fstat``, ``vstat``, ``gstat``, ``rstat`` or ``rsqstat``.
    signed : StatisticModel
        Its maps are z, with their sign.
    model : StatisticModel
        Its maps are what is compared: z, or |z| of two-tailed tests.
    """

    kind: str
    signed: Any
    model: Any

    def statistic(self, shuffle: Shuffles) -> Float64:
        """(V,) The statistic itself, for one shuffling."""
        values: Float64 = self.signed.model.exact_map(shuffle)
        return values

    def z(self, shuffle: Shuffles) -> Float64:
        """(V,) The statistic as a normal score, with its sign."""
        values: Float64 = self.signed.exact_map(shuffle)
        return values

    def dof(self, shuffle: Shuffles) -> float | Float64:
        """Error degrees of freedom of all elements, or of each."""
        del shuffle
        return float(self.signed.model.df)


class GroupsTester(Tester):
    """The same of v and G, whose degrees of freedom depend on element and shuffling."""

    def statistic(self, shuffle: Shuffles) -> Float64:
        """See `Tester.statistic`."""
        values: Float64 = self.signed.raw_maps(shuffle).statistic
        return values

    def dof(self, shuffle: Shuffles) -> float | Float64:
        """See `Tester.dof`."""
        values: Float64 = self.signed.raw_maps(shuffle).df
        return values


class MissingTester(GroupsTester):
    """The same of t and F where data are missing; one number if all elements have the same degrees of freedom."""

    def dof(self, shuffle: Shuffles) -> float | Float64:
        """See `Tester.dof`."""
        values: Float64 = self.signed.raw_maps(shuffle).df
        return float(values[0]) if len(np.unique(values)) == 1 else values


class VoxelwiseTester(Tester):
    """The same of t and F with regressors that have values for each voxel, whose rank may depend on it."""

    def dof(self, shuffle: Shuffles) -> float | Float64:
        """See `Tester.dof`; 0 where the contrast cannot be tested."""
        del shuffle
        effect, left = self.signed.model.dfs
        values = np.where(effect > 0, np.maximum(left, 0), 0).astype(np.float64)
        return float(values[0]) if len(np.unique(values)) == 1 else values


class CorrelationTester(Tester):
    """The same of r and R², which have no degrees of freedom of their own."""

    def statistic(self, shuffle: Shuffles) -> Float64:
        """See `Tester.statistic`."""
        values: Float64 = self.signed.model.from_maps(self.signed.model.exact_map(shuffle))
        return values

    def dof(self, shuffle: Shuffles) -> float:
        """See `Tester.dof`."""
        del shuffle
        return float("nan")


def make_tester(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> Tester:
    """The model of a test.

    Raises
    ------
    DesignError
        The contrast cannot be tested with this design; the sentence names it.
    InputError
        Another setting does not fit the design.
    """
    is_t = test.contrast.is_t
    make: Any
    kept: type[Tester]
    if description.statistic.pearson:
        make, kind, kept = _of_correlation, "r" if is_t else "rsq", CorrelationTester
    elif inputs.groups is not None and len(np.unique(inputs.groups)) > 1:
        make, kind, kept = _of_groups, "v" if is_t else "g", GroupsTester
    elif any(each.design == test.contrast.design + 1 for each in description.regressors):
        make, kind, kept = _of_regressors, "t" if is_t else "f", VoxelwiseTester
    elif description.missing:
        make, kind, kept = _of_missing, "t" if is_t else "f", MissingTester
    else:
        make, kind, kept = _of_one_variance, "t" if is_t else "f", Tester
    signed = named(test.contrast, lambda: make(description, inputs, test, shuffler, device))
    two_tailed = description.statistic.two_tailed and is_t
    return kept(f"{kind}stat", signed, Magnitude(signed) if two_tailed else signed)


def named(contrast: Contrast, work: Callable[[], Result]) -> Result:
    """Do something for a contrast, which a `DesignError` then names."""
    try:
        return work()
    except DesignError as error:
        raise DesignError(f"{contrast.title}: {error}") from None


def _of_correlation(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> CorrelationScale:
    """r or R², as z."""
    design, weights, _ = padded_design(description, inputs, test.contrast)
    data, demean = inputs.modalities[test.modality].data, description.statistic.demean
    return CorrelationScale(
        correlation(
            data, design, weights, shuffler.invariant, is_f=not test.contrast.is_t, demean=demean, device=device
        )
    )


def _of_missing(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> MissingGlm:
    """t or F of the data that are there, as z; with an intercept, if the design has none."""
    modality, contrast, chosen = inputs.modalities[test.modality], test.contrast, description.statistic
    design, weights = inputs.designs[contrast.design].matrix, contrast.weights
    unknown = inputs.designs[contrast.design].missing
    if unknown.any() and not unknown.all():
        # What stands there takes no part, but should not determine what counts as zero.
        design = np.where(unknown[:, None], design[~unknown].mean(axis=0), design)
    with_mean = np.hstack([design, np.ones((inputs.n, 1))])
    if not chosen.demean and np.linalg.matrix_rank(with_mean) > np.linalg.matrix_rank(design):
        design, weights = with_mean, np.hstack([weights, np.zeros((len(weights), 1))])
    parts = partition(design, weights, demean=chosen.demean, is_f=not contrast.is_t)
    return MissingGlm(modality.with_gaps, parts, shuffler.invariant, device, unknown)


def _of_groups(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> VarianceGroupsGlm:
    """v or G, as z."""
    parts = regression_test(description, inputs, test.contrast).parts.whole
    data, palm_dof = inputs.modalities[test.modality].data, description.statistic.palm_dof
    assert inputs.groups is not None
    return VarianceGroupsGlm(data, parts, shuffler.invariant, inputs.groups, palm_dof, device)


def _of_one_variance(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> ZScale:
    """t or F, as z."""
    tested = regression_test(description, inputs, test.contrast)
    return ZScale(tested.model(inputs.modalities[test.modality].data, shuffler.invariant, device=device))


def _of_regressors(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, device: Device | None
) -> ZScale:
    """t or F, as z, where regressors have values for each voxel."""
    design, weights, regressors = whole_design(description, inputs, test)
    chosen = description.statistic
    model = voxelwise_model(
        inputs.modalities[test.modality].data, design, weights, regressors, Method(chosen.regression),
        demean=chosen.demean, is_f=not test.contrast.is_t, device=device, keeps_mean=shuffler.flips,
    )  # fmt: skip
    if not np.any(model.dfs[0]):
        raise DesignError(
            "the contrast is not estimable at any voxel: its effect is a combination of the nuisance"
        )
    return ZScale(model)


def regression_test(description: PalmDescription, inputs: PalmInputs, contrast: Contrast) -> RegressionTest:
    """How t or F of a contrast are made, without regressors that have values for each voxel; raises `DesignError`."""
    design, weights, _ = padded_design(description, inputs, contrast)
    chosen, is_f = description.statistic, not contrast.is_t
    method, partitioning = Method(chosen.regression), Partitioning(chosen.partition)
    return RegressionTest(design, weights, method, partitioning, is_f, chosen.demean, not chosen.palm_dof)


def padded_design(
    description: PalmDescription, inputs: PalmInputs, contrast: Contrast
) -> tuple[Float64, Float64, dict[int, str]]:
    """The design and the weights of a contrast, with a column for each regressor that has values for each voxel.

    Returns
    -------
    design : (n, p) float64
    weights : (s, p) float64
    files : dict of str
        The files of those regressors, by their column.
    """
    own = inputs.designs[contrast.design]
    mine = [each for each in description.regressors if each.design == contrast.design + 1]
    width = max([own.matrix.shape[1], *(each.column for each in mine)])
    added = {each.column for each in mine if each.column > own.matrix.shape[1]}
    if len(added) < width - own.matrix.shape[1]:
        raise UsageError(
            f"-evperdat: column {width} is not the next one after the {own.matrix.shape[1]} of {own.name}, and no "
            "file is given for one between them", option="-evperdat",
        )  # fmt: skip
    design = np.hstack([own.matrix, np.zeros((inputs.n, width - own.matrix.shape[1]))])
    weights = np.zeros((len(contrast.weights), width))
    weights[:, : contrast.weights.shape[1]] = contrast.weights
    return design, weights, {each.column - 1: each.file for each in mine}


def whole_design(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest
) -> tuple[Float64, Float64, dict[int, Float32]]:
    """The same of a test, with the values (n, V) of those regressors."""
    design, weights, names = padded_design(description, inputs, test.contrast)
    return design, weights, {column: inputs.regressors[name, test.modality] for column, name in names.items()}
