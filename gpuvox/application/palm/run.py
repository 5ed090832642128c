"""From tests to results: the shufflings of every test, and p of its units."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gpuvox.application.palm.contrasts import PalmTest
from gpuvox.application.palm.description import PalmDescription, Spatial
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.application.palm.models import Tester, make_tester
from gpuvox.application.palm.results import Tested, Unit
from gpuvox.device import Device
from gpuvox.executors import Finished
from gpuvox.executors import run as run_permutations
from gpuvox.permtest import PermutationTest
from gpuvox.prepared import AnyShuffler
from gpuvox.reporter import Reporter
from gpuvox.statistics import Statistics
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
        uncorrected=description.saved.uncorrected or bool(description.false_discovery),
    )


def _tfce(space: Spatial) -> Tfce:
    chosen = {"H": space.H, "E": space.E, "connectivity": space.connectivity, "delta": space.step or None}
    changes: Any = {name: value for name, value in chosen.items() if value is not None}
    return (
        Tfce(rule="palm", **changes) if space.dimensions == 3 else Tfce.of_dimension(space.dimensions, **changes)
    )


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
    grid = inputs.modalities[test.modality].grid
    title = f"{test.contrast.title}" + (f", input {test.modality + 1}" if len(inputs.modalities) > 1 else "")
    finished = run_permutations(
        PermutationTest(tester.model, grid, shuffler, statistics_of(description)),
        threads=machine.threads,
        progress=lambda done: machine.reporter.progress(title, done, shuffler.n),
        workers=machine.team,
    )
    in_place = shuffler.shuffles(0, 1)[0]
    tested = Tested(
        test, tester.kind, tester.statistic(in_place), tester.z(in_place),
        {unit.name: unit for unit in _units(description, finished)}, tester.dof(in_place), shuffler.n,
    )  # fmt: skip
    return tested, tester


def _units(description: PalmDescription, finished: Finished) -> list[Unit]:
    observed, tally = finished.observed, finished.tally
    units = []
    for name, statistic in observed.statistics.items():
        values = statistic.of_sign(observed.observed[name][0], 0)
        below = tally.below.get(name)
        units.append(
            Unit(
                description.unit if statistic.info.is_image else name,
                _as_float(statistic.in_units(values, 0)),
                _as_float(statistic.in_units(statistic.least_tie(values), 0)),
                _as_float(statistic.in_units(tally.maxima[name][0], 0)),
                None if below is None or name.startswith("cluster") else (tally.n - below[0]) / tally.n,
            )
        )
    return units


def _as_float(values: object) -> Float64:
    return np.asarray(values, dtype=np.float64)
