"""The tests of a run, which of them belong together, and what their files are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gpuvox.application.palm.description import PalmDescription
from gpuvox.application.palm.inputs import PalmInputs
from gpuvox.types import Float64


@dataclass(frozen=True, eq=False)
class Contrast:
    """A contrast of a design, which every modality of the design is tested with.

    Attributes
    ----------
    design : int
        Number of the design, from 0.
    number : int
        Number among the contrasts of the design, as in names of files: t contrasts first, from 1.
    weights : (s, p) float64
        One row for t; the stacked t contrasts of an F.
    is_t : bool
    suffix : str
        ``_d1_c2``, with what is needed to tell the tests of the run apart.
    """

    design: int
    number: int
    weights: Float64
    is_t: bool
    suffix: str = ""

    @property
    def title(self) -> str:
        """For messages."""
        return f"contrast {self.number} of design {self.design + 1}"


@dataclass(frozen=True, eq=False)
class PalmTest:
    """A contrast in a modality.

    Attributes
    ----------
    modality : int
        From 0.
    contrast : Contrast
    suffix : str
        ``_m1_d1_c2``.
    """

    modality: int
    contrast: Contrast
    suffix: str


@dataclass(frozen=True)
class Correction:
    """A correction over several tests: ``c`` over contrasts and designs, ``m`` over modalities, ``mc`` over both."""

    prefix: str
    over_contrasts: bool
    over_modalities: bool


def list_contrasts(description: PalmDescription, inputs: PalmInputs) -> list[Contrast]:
    """The contrasts of all designs, t before F in each."""
    chosen, found = description.statistic, []
    for number, design in enumerate(inputs.designs):
        of_t = [] if chosen.f_only else [(row[None], True) for row in design.contrasts]
        of_f = [] if chosen.t_only else [(design.contrasts[rows], False) for rows in design.f_contrasts]
        for place, (weights, is_t) in enumerate([*of_t, *of_f]):
            found.append((number, place + description.saved.first_contrast, weights, is_t))
    several_designs = len(inputs.designs) > 1 or description.saved.all_numbers
    several = len({number for _, number, _, _ in found}) > 1 or description.saved.all_numbers
    several = several or description.saved.first_contrast > 1
    return [
        Contrast(
            design, number, weights, is_t,
            (f"_d{design + 1}" if several_designs else "") + (f"_c{number}" if several else ""),
        )
        for design, number, weights, is_t in found
    ]  # fmt: skip


def list_tests(description: PalmDescription, contrasts: list[Contrast]) -> list[PalmTest]:
    """Every contrast in every modality that it is for."""
    several = len(description.inputs) > 1 or description.saved.all_numbers
    return [
        PalmTest(modality, contrast, (f"_m{modality + 1}" if several else "") + contrast.suffix)
        for modality in range(len(description.inputs))
        for contrast in contrasts
        if not description.design_per_input or contrast.design == modality
    ]


def corrections(description: PalmDescription) -> Iterator[Correction]:
    """The corrections over tests that are asked for."""
    if description.over_contrasts:
        yield Correction("c", True, False)
    if description.over_modalities:
        yield Correction("m", False, True)
    if description.over_contrasts and description.over_modalities:
        yield Correction("mc", True, True)


def families(
    description: PalmDescription, tests: Sequence[PalmTest], correction: Correction
) -> Iterator[list[PalmTest]]:
    """The tests that are corrected together. With a design for each input, contrasts correspond by their number."""
    groups: dict[tuple[int | None, tuple[int, int] | None], list[PalmTest]] = {}
    for test in tests:
        design = 0 if description.design_per_input else test.contrast.design
        key = (
            None if correction.over_modalities else test.modality,
            None if correction.over_contrasts else (design, test.contrast.number),
        )
        groups.setdefault(key, []).append(test)
    yield from groups.values()


def columns_of(contrast: Contrast) -> np.ndarray:
    """The columns of the design that have a weight in the contrast."""
    return np.flatnonzero(contrast.weights.any(axis=0))
