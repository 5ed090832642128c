"""From tests to results: the shufflings of every test, and p of its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from gpuvox.application.palm.contrasts import Contrast, PalmTest
from gpuvox.application.palm.description import PalmDescription, Spatial
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.application.palm.models import Tester, make_tester, named, regression_test
from gpuvox.application.palm.results import TAILS, Tested, Unit
from gpuvox.device import Device
from gpuvox.executors import run as run_permutations
from gpuvox.permtest import ObservedTest, PermutationTest
from gpuvox.prepared import AnyShuffler
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
from gpuvox.tail_runs import run_approximated, run_negative_binomial
from gpuvox.tails import check_moments, without_permutations
from gpuvox.tally import Tally
from gpuvox.team import DeviceTeam
from gpuvox.tfce import Tfce
from gpuvox.types import Float64


@dataclass(frozen=True, eq=False)
class Machine:
    """Where permutations run, and where their progress is told.

    Attributes
    ----------
    devices : tuple of Device
        None for the CPU.
    threads : int, optional
    reporter : Reporter
    """

    devices: tuple[Device, ...]
    threads: int | None
    reporter: Reporter

    @property
    def device(self) -> Device | None:
        """The first device."""
        return self.devices[0] if self.devices else None

    @cached_property
    def team(self) -> DeviceTeam | None:
        """All devices, if there are several."""
        return DeviceTeam(self.devices, self.reporter.warn) if len(self.devices) > 1 else None


def statistics_of(description: PalmDescription) -> Statistics:
    """The statistics of space that are asked for, and the maximum of the elements themselves."""
    space = description.spatial
    return Statistics(
        voxel=True,
        tfce=_tfce(space) if space.tfce else None,
        extent=None if space.mass else space.threshold,
        mass=space.threshold if space.mass else None,
        uncorrected=description.saved.uncorrected or bool(description.false_discovery or description.acceleration),
    )


def _tfce(space: Spatial) -> Tfce:
    chosen = {"H": space.H, "E": space.E, "connectivity": space.connectivity, "delta": space.step}
    changes: Any = {name: value for name, value in chosen.items() if value is not None}
    return (
        Tfce(rule="palm", **changes) if space.dimensions == 3 else Tfce.of_dimension(space.dimensions, **changes)
    )


def check_tests(
    description: PalmDescription,
    inputs: PalmInputs,
    tests: Sequence[PalmTest],
    sets: Mapping[Contrast, AnyShuffler],
) -> None:
    """Find contrasts that cannot be tested before anything is run or written.

    Raises
    ------
    DesignError
        The sentence names the contrast.
    """
    depends_on_data = description.statistic.pearson or description.regressors or description.missing
    for test in tests:
        if depends_on_data or inputs.groups is not None:
            make_tester(description, inputs, test, sets[test.contrast], None)
        else:
            named(test.contrast, partial(_check_design, description, inputs, test.contrast))


def _check_design(description: PalmDescription, inputs: PalmInputs, contrast: Contrast) -> None:
    tested = regression_test(description, inputs, contrast)
    if description.acceleration == "noperm":
        check_moments(tested.parts.whole)


def run_test(
    description: PalmDescription, inputs: PalmInputs, test: PalmTest, shuffler: AnyShuffler, machine: Machine
) -> tuple[Tested, Tester]:
    """Run the shufflings of a test.

    Raises
    ------
    InputError
        The contrast cannot be tested.
    """
    tester = make_tester(description, inputs, test, shuffler, machine.device)
    wanted = PermutationTest(
        tester.model, inputs.modalities[test.modality].grid, shuffler, statistics_of(description)
    )
    title = test.contrast.title + (f", input {test.modality + 1}" if len(inputs.modalities) > 1 else "")
    how: Any = {
        "threads": machine.threads,
        "workers": machine.team,
        "progress": lambda done: machine.reporter.progress(title, done, shuffler.n),
    }
    if description.acceleration == "negbin":
        observed, p, _ = run_negative_binomial(wanted, description.exceedances, **how)
        units = _units(description, observed, p)
    elif description.acceleration:
        run = run_approximated(wanted, TAILS[description.acceleration], **how)
        approximate = {name: found.p for name, found in run.uncorrected.items()}
        units = _units(description, run.finished.observed, approximate, run.finished.tally)
    else:
        finished = run_permutations(wanted, **how)
        units = _units(description, finished.observed, {}, finished.tally)
    in_place = shuffler.shuffles(0, 1)[0]
    tested = Tested(
        test, tester.kind, tester.statistic(in_place), tester.z(in_place), units, tester.dof(in_place), shuffler.n,
        description.acceleration == "negbin" and not shuffler.in_random_order,
    )  # fmt: skip
    return tested, tester


def test_without_shufflings(description: PalmDescription, inputs: PalmInputs, test: PalmTest) -> Tested:
    """p from the moments over all permutations: of the partial correlation (two-tailed: of its square), or of R².

    Raises
    ------
    DesignError
        The contrast cannot be tested, or the moments are not known; the sentence names the contrast.
    """
    is_t = test.contrast.is_t

    def tested() -> tuple[Float64, Float64]:
        parts = regression_test(description, inputs, test.contrast).parts.whole
        two_tailed = description.statistic.two_tailed and is_t
        return without_permutations(inputs.modalities[test.modality].data, parts, two_tailed)

    values, p = named(test.contrast, tested)
    unit = Unit(description.unit, values, values, None, p)
    return Tested(test, "rstat" if is_t else "rsqstat", values, values, {unit.name: unit})


def _units(
    description: PalmDescription,
    observed: ObservedTest,
    approximate: dict[str, Float64],
    tally: Tally | None = None,
) -> dict[str, Unit]:
    """The units of a test by name; without a tally, with approximate p and no maxima."""
    units = {}
    for name, statistic in observed.statistics.items():
        values = statistic.of_sign(observed.observed[name][0], 0)
        p = approximate.get(name)
        if p is None and tally is not None and name in tally.below and not name.startswith("cluster"):
            p = (tally.n - tally.below[name][0]) / tally.n
        unit = Unit(
            description.unit if statistic.info.is_image else name,
            _as_float(statistic.in_units(values, 0)),
            _as_float(statistic.in_units(statistic.least_tie(values), 0)),
            None if tally is None else _as_float(statistic.in_units(tally.maxima[name][0], 0)),
            p,
        )
        units[unit.name] = unit
    return units


def _as_float(values: object) -> Float64:
    return np.asarray(values, dtype=np.float64)
