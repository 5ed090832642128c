"""What is written of a test, and of tests that are corrected together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import ndtr

from gpuvox.application.palm.contrasts import Correction, PalmTest
from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.application.palm.models import Tester, whole_design
from gpuvox.application.palm.outputs import Writer
from gpuvox.application.palm.results import Tested, Unit, approximate, at_least
from gpuvox.estimates import parameter_estimates
from gpuvox.prepared import AnyShuffler, Inputs
from gpuvox.pvalues import FALSE_DISCOVERY_RATES
from gpuvox.types import Float64

ALONE = Correction("", False, False)


def write_test(description: PalmDescription, writer: Writer, tested: Tested) -> None:
    """Write the statistics of a test, and its p by themselves."""
    saved, test, kind = description.saved, tested.test, _kind(description, tested)
    for unit in tested.units.values():
        writer.statistic(writer.name(unit.name, kind, test), _shown(description, tested, unit), test)
        if saved.maxima and unit.maxima is not None:
            writer.numbers(writer.name(unit.name, kind, test, "max"), unit.maxima)
        if saved.uncorrected and unit.uncorrected is not None:
            writer.p(writer.name(unit.name, kind, test, "uncp"), unit.uncorrected, test, _label(tested))
    write_family(description, writer, [tested], ALONE)
    if saved.parametric:
        _write_parametric(description, writer, tested, kind)
    if saved.dof:
        _write_dof(description, writer, tested, kind)


def _label(tested: Tested) -> str | None:
    """What headers say of p: that of the run, but nothing where p are counted all the same."""
    return "" if tested.is_counted else None


def _kind(description: PalmDescription, tested: Tested) -> str:
    return f"z{tested.kind}" if description.statistic.z else tested.kind


def _shown(description: PalmDescription, tested: Tested, unit: Unit) -> Float64:
    if unit.name != description.unit:
        return unit.values
    return tested.z if description.statistic.z else tested.statistic


def _write_parametric(description: PalmDescription, writer: Writer, tested: Tested, kind: str) -> None:
    two = description.statistic.two_tailed and tested.test.contrast.is_t
    p = 2 * ndtr(-np.abs(tested.z)) if two else ndtr(-tested.z)
    if not tested.test.contrast.is_t:
        p[tested.statistic == 0] = 1.0  # also where nothing can be tested, whose z is 0 in every shuffling
    writer.p(writer.name(description.unit, kind, tested.test, "uncparap"), p, tested.test, "parametric p")
    if description.false_discovery:
        rate = _rate(description, p)
        writer.p(writer.name(description.unit, kind, tested.test, "fdrparap"), rate, tested.test, "parametric p")


def _write_dof(description: PalmDescription, writer: Writer, tested: Tested, kind: str) -> None:
    name = writer.name(description.unit, kind, tested.test)
    if np.ndim(tested.dof):
        writer.statistic(f"{name}_dof", np.asarray(tested.dof), tested.test)
        writer.numbers(f"{name}_meandof", np.array([0, np.mean(tested.dof)]), ".txt")
    else:
        writer.numbers(f"{name}_dof", np.array([0, tested.dof]), ".txt")


def write_permuted(
    description: PalmDescription, writer: Writer, tested: Tested, tester: Tester, shuffler: AnyShuffler
) -> None:
    """Write the statistic of each shuffling."""
    name = writer.name(description.unit, _kind(description, tested), tested.test)
    for number in range(shuffler.n):
        shuffle = shuffler.shuffles(number, number + 1)[0]
        values = tester.z(shuffle) if description.statistic.z else tester.statistic(shuffle)
        writer.statistic(f"{name}_perm{number + 1:06d}", values, tested.test)


def write_estimates(
    description: PalmDescription, inputs: PalmInputs, writer: Writer, tests: Sequence[PalmTest]
) -> None:
    """Write Cᵀb, its variance and Cᵀb / σ of the t contrasts, by ordinary least squares."""
    for test in tests:
        if test.contrast.is_t:
            design, weights, regressors = whole_design(description, inputs, test)
            modality = inputs.modalities[test.modality]
            fitted = parameter_estimates(
                Inputs(modality.data, modality.grid, design, weights, np.zeros((0, 1)), evs=regressors),
                description.statistic.demean,
            )
            sigma = np.sqrt(fitted["sigmasqr"][0])
            cohen = np.divide(fitted["cope"][0], sigma, out=np.zeros_like(sigma), where=sigma > 0)
            cope, varcope = fitted["cope"][0] * modality.unit, fitted["varcope"][0] * modality.unit**2
            for kind, values in (("cope", cope), ("varcope", varcope), ("cohen", cohen)):
                writer.statistic(writer.name(description.unit, kind, test), values, test)


def write_family(
    description: PalmDescription, writer: Writer, family: Sequence[Tested], correction: Correction
) -> None:
    """Write p that are corrected over tests: by the null of their largest maxima, and for the false discovery rate."""
    for name in family[0].units:
        units = [tested.units[name] for tested in family]
        for tested, p in zip(family, _family_wise(description, units)):
            kind = _kind(description, tested)
            writer.p(writer.name(name, kind, tested.test, f"{correction.prefix}fwep"), p, tested.test)
        if description.false_discovery and units[0].uncorrected is not None:
            for tested, p in zip(family, _false_discoveries(description, units)):
                kind = _kind(description, tested)
                name_of_map = writer.name(name, kind, tested.test, f"{correction.prefix}fdrp")
                writer.p(name_of_map, p, tested.test, _label(tested))


def _family_wise(description: PalmDescription, units: Sequence[Unit]) -> Iterator[Float64]:
    nulls = [unit.maxima for unit in units if unit.maxima is not None]
    if len(nulls) < len(units):
        return
    null = np.max(nulls, axis=0)
    for unit in units:
        p = at_least(null, unit.least_ties)
        yield approximate(description, null, unit, p)


def _false_discoveries(description: PalmDescription, units: Sequence[Unit]) -> list[Float64]:
    parts = [unit.uncorrected for unit in units if unit.uncorrected is not None]
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(_rate(description, np.concatenate(parts)), ends)


def _rate(description: PalmDescription, p: Float64) -> Float64:
    return FALSE_DISCOVERY_RATES[description.false_discovery.lower()](p)


def names_of(description: PalmDescription, writer: Writer, tests: Sequence[PalmTest]) -> Iterator[str]:
    """The longest names that will be written, for checking before anything is computed."""
    for test in tests:
        yield writer.name("clustere", "zrsqstat", test, "mcfwep", ".nii.gz")
        if description.saved.permutations:
            yield writer.name("vox", "zrsqstat", test, "", "_perm000001.nii.gz")
