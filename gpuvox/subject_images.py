"""Quantitative images of participants, one in memory at a time: units, background, and whether they can be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpuvox import files, participants, qmri
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.grid import Grid
from gpuvox.participants import Rows
from gpuvox.plain import several
from gpuvox.types import Bools, Float32

QSM_UNITS = {"ppm": 1.0, "ppb": 1e-3}
R1_UNITS = ("1/s", "1/ms", "s", "ms")
SAME_UNITS = {
    "s^-1": "1/s",
    "s-1": "1/s",
    "s⁻¹": "1/s",
    "1/sec": "1/s",
    "hz": "1/s",
    "ms^-1": "1/ms",
    "ms-1": "1/ms",
}
SAME_UNITS |= {"ms⁻¹": "1/ms", "sec": "s", "seconds": "s", "msec": "ms", "milliseconds": "ms"}
QSM_RANGE = (0.003, 3.0)
"""Accepted range of the 99th percentile of |QSM| in ppm; in tissue it is 0.03 to 0.3."""
R1_RANGE = (0.03, 20.0)
"""Accepted range of the median of R1 in 1/s; in tissue it is 0.4 to 2."""
CSF_R1 = 0.6
"""Largest accepted median of R1 in CSF, 1/s."""


@dataclass(frozen=True)
class Units:
    """What units images are in; empty for those of the sidecars, or else ppm and 1/s.

    Attributes
    ----------
    qsm, r1 : str
    of_model : dict of str to str
        Of other contrasts, the units that their model expects.
    """

    qsm: str = ""
    r1: str = ""
    of_model: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Images of a cohort.

    Attributes
    ----------
    names : tuple of str
        participant_id of each row.
    images : dict of str to list of str
        By kind: one file per participant; a single 4D file; or, for CSF, one 3D file for all.
    header : ImageHeader
        Header of the first image; all images are on its grid.
    numbered : bool
        The participants are unknown, and `names` are numbers.
    visits : tuple of str
        Visit of each row; empty if every participant has one row.
    """

    names: tuple[str, ...]
    images: dict[str, list[str]]
    header: files.ImageHeader
    numbered: bool = False
    visits: tuple[str, ...] = ()

    @property
    def rows(self) -> list[str]:
        """What each row is called in messages."""
        return [f"{name}, {visit}" for name, visit in zip(self.names, self.visits)] or list(self.names)

    def volumes(self, kind: str) -> Iterator[tuple[str, Float32]]:
        """(file, values of all voxels) of each participant."""
        images = self.images[kind]
        if len(images) == len(self.names):
            for image in images:
                yield image, next(files.read_volumes(image))
            return
        volumes = files.read_volumes(images[0])
        if files.read_header(images[0]).shape[3] == 1:
            only = next(volumes)
            volumes = iter([only] * len(self.names))
        for volume in volumes:
            yield images[0], volume


def check_cohort(names: Sequence[str], images: dict[str, list[str]], *, of_subjects: bool = False) -> Cohort:
    """Check that images belong together; `of_subjects`: one image per participant, not one for all.

    Raises
    ------
    FileError
        As for `read_cohort`.
    """
    header = files.read_header(next(iter(images.values()))[0])
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    for kind, listed in images.items():
        for image in dict.fromkeys(listed):  # one mask of CSF may be that of everyone
            _check_image(files.read_header(image), grid, header, kind, 1 if of_subjects else len(names))
    return Cohort(tuple(names), images, header)


def shared_images(cohort: Cohort) -> list[str]:
    """Warnings about images that two participants share, except a common CSF mask."""
    who = Rows(cohort.names, "the table", visits=cohort.visits)
    listed = [
        names
        for kind, names in cohort.images.items()
        if len(names) == len(cohort.names) and (kind != "csf" or len(set(names)) > 1)
    ]
    return [text for text in (participants.shared(names, who) for names in listed) if text]


def _check_image(
    header: files.ImageHeader, grid: Grid, first: files.ImageHeader, kind: str, n_volumes: int
) -> None:
    files.check_grid(header, grid, first.path)
    allowed = {n_volumes, 1} if kind == "csf" else {n_volumes}
    if header.shape[3] not in allowed:
        raise FileError(f"{header.path} has {several(header.shape[3], 'volume')}; expected {n_volumes}")


def qsm_factor(units: Units, image: str) -> float:
    """Factor from the unit of a file to ppm.

    Raises
    ------
    FileError
        The units are not known.
    """
    said = units.qsm or str(files.sidecar(image).get("Units") or "ppm").strip().casefold()
    if said not in QSM_UNITS:
        raise OptionError("--qsm-units", f"{image} is in {said!r}; QSM must be in {' or '.join(QSM_UNITS)}")
    return QSM_UNITS[said]


def to_r1(values: Float32, units: Units, image: str) -> Float32:
    """R1 in 1/s from the values of a file; 0 where they are 0.

    Raises
    ------
    FileError
        The units are not known.
    """
    said = units.r1 or str(files.sidecar(image).get("Units") or "1/s").strip().casefold()
    said = SAME_UNITS.get(said, said)
    if said not in R1_UNITS:
        raise OptionError("--r1-units", f"{image} is in {said!r}; R1 must be in 1/s or 1/ms, or T1 in ms or s")
    if said in ("s", "ms"):
        values = np.divide(1, values, out=np.zeros_like(values), where=values != 0)
    return values * np.float32(1000) if said in ("1/ms", "ms") else values


def in_units_of_model(name: str, values: Float32, units: Units, image: str) -> Float32:
    """Another contrast in the units of its model; those of the file are in its sidecar, or else the same.

    Raises
    ------
    FileError
        The units are others.
    """
    wanted = units.of_model[name]
    said = str(files.sidecar(image).get("Units") or wanted).strip()
    same = {SAME_UNITS.get(each.casefold(), each.casefold()) for each in (said, wanted)}
    if len(same) > 1:
        raise FileError(f"{image} is in {said!r}; the model has {name} in {wanted!r}")
    return values


@dataclass(frozen=True, eq=False)
class Subject:
    """The images of one participant, over all voxels.

    Attributes
    ----------
    name : str
        For messages.
    contrasts : dict of str to float32
        QSM in ppm, R1 in 1/s, others in the units of their model.
    csf : uint8, optional
    jacobian : float32, optional
    """

    name: str
    contrasts: Mapping[str, Float32]
    csf: NDArray[np.uint8] | None
    jacobian: Float32 | None

    @cached_property
    def tissue(self) -> Bools:
        """Voxels that are not background."""
        inside = np.logical_and.reduce([np.isfinite(values) for values in self.contrasts.values()])
        return inside & (self.contrasts["r1"] > 0) if "r1" in self.contrasts else inside


def subjects(
    cohort: Cohort, units: Units, contrasts: Sequence[str], others: Sequence[str] = (), check: bool = True
) -> Iterator[Subject]:
    """The participants one by one; checked unless they were before.

    Parameters
    ----------
    cohort : Cohort
    units : Units
    contrasts : sequence of str
    others : sequence of str
        ``csf`` and ``jacobian``, as requested; a cohort need not have them.
    check : bool

    Raises
    ------
    FileError
        Values are implausible for their kind of image.
    """
    kinds = [*contrasts, *(kind for kind in others if kind in cohort.images)]
    for name, *volumes in zip(cohort.rows, *(cohort.volumes(kind) for kind in kinds)):
        images = dict(zip(kinds, volumes))
        values = {kind: _converted(kind, images[kind][0], images[kind][1], units) for kind in contrasts}
        csf = to_mask(images["csf"][0], images["csf"][1], name) if "csf" in images else None
        subject = Subject(name, values, csf, images["jacobian"][1] if "jacobian" in images else None)
        if check:
            check_plausible(subject, {kind: images[kind][0] for kind in contrasts})
        yield subject


def _converted(kind: str, image: str, values: Float32, units: Units) -> Float32:
    """A contrast in the units of the model; NaN outside the mask of its reconstruction."""
    if kind == "r1":
        return to_r1(values, units, image)
    if kind == "qsm":
        values = values * np.float32(qsm_factor(units, image))
    else:
        values = in_units_of_model(kind, values, units, image).copy()
    if files.read_header(image).proxy.dtype.kind == "f":
        values[values == 0] = np.nan  # a measured value is never exactly 0
    return values


def to_mask(image: str, values: Float32, name: str) -> NDArray[np.uint8]:
    """Voxels of a mask, or of a probability map above 0.5.

    Raises
    ------
    FileError
        The image is neither.
    """
    values = np.nan_to_num(values)
    high = float(values.max(initial=0))
    if values.min(initial=0) < 0 or (high > 1 and np.unique(values[values > 0]).size > 1):
        raise FileError(
            f"{image} (participant {name}) has values from {values.min():.4g} to {high:.4g}; a mask, or probabilities "
            "between 0 and 1, expected"
        )
    return (values > 0.5 * min(high, 1.0)).astype(np.uint8)


def check_jacobian(subject: Subject, image: str, grid: Grid) -> None:
    """Refuse implausible Jacobians at the voxels that are written.

    Raises
    ------
    FileError
    """
    if subject.jacobian is None:
        return
    try:
        qmri.check_jacobian(subject.jacobian[grid.index][subject.tissue[grid.index]])
    except InputError as error:
        raise FileError(f"{image} (participant {subject.name}): {error}") from None


def check_plausible(subject: Subject, images: Mapping[str, str]) -> None:
    """Refuse values that are wrong by a factor of a thousand, and T1 instead of R1.

    Parameters
    ----------
    subject : Subject
    images : dict of str to str
        The file of each contrast.

    Raises
    ------
    FileError
        The message states the values.
    """
    if not subject.tissue.any():
        first, *rest = reversed(list(images.values()))
        others, what = " and ".join(rest), "both" if len(rest) == 1 else "all of them"
        raise FileError(f"{first} (participant {subject.name}) and {others} have no voxel with values in {what}")
    if "qsm" in images:
        _check_qsm(subject, images["qsm"])
    if "r1" in images:
        _check_r1(subject, images["r1"])


def _check_qsm(subject: Subject, image: str) -> None:
    extent = float(np.percentile(np.abs(subject.contrasts["qsm"][subject.tissue]), 99))
    if not QSM_RANGE[0] <= extent <= QSM_RANGE[1]:
        raise OptionError(
            "--qsm-units",
            f"the 99th percentile of |QSM| in {image} (participant {subject.name}) is {extent:.4g} ppm; between "
            f"{QSM_RANGE[0]:g} and {QSM_RANGE[1]:g} is expected: are these the units of the file?",
        )


def _check_r1(subject: Subject, image: str) -> None:
    r1, tissue = subject.contrasts["r1"], subject.tissue
    median = float(np.median(r1[tissue]))
    if not R1_RANGE[0] <= median <= R1_RANGE[1]:
        raise OptionError(
            "--r1-units",
            f"the median of R1 in {image} (participant {subject.name}) is {median:.4g} 1/s; between "
            f"{R1_RANGE[0]:g} and {R1_RANGE[1]:g} is expected: are these the units of the file?",
        )
    if subject.csf is None:
        return
    fluid, solid = tissue & (subject.csf > 0), tissue & (subject.csf == 0)
    if fluid.any() and solid.any():
        in_csf, outside = float(np.median(r1[fluid])), float(np.median(r1[solid]))
        if in_csf > min(outside, CSF_R1):
            raise OptionError(
                "--r1-units",
                f"the median in {image} (participant {subject.name}) is {in_csf:.4g} in CSF and {outside:.4g} "
                "elsewhere; R1 is lowest in CSF, about 0.23: is this T1 (in s or ms), or is the mask not of CSF?",
            )
