"""The application ``gpuvox ironmyelin``: QSM and R1 images of a cohort in, iron and myelin images out.

One participant is in memory at a time; `qmri` does the arithmetic. The images are read twice if maps are
referenced to CSF, because its mean must be known before the first map is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import __version__, files, participants, private, qmri
from gpuvox.cuda import resolve
from gpuvox.device import Device
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.grid import Grid
from gpuvox.participants import Rows
from gpuvox.plain import several
from gpuvox.reporter import Reporter
from gpuvox.runtime.pool import Pool
from gpuvox.tables.reading import read_visit_rows
from gpuvox.types import Bools, Float32, Float64, Ints, MapBatch

KINDS = ("qsm", "r1", "csf", "jacobian")
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
FIELDS = (0.05, 25.0)
"""Accepted field strengths in tesla."""
USUAL = (0.2, 12.0)
"""Field strengths that are suggested if another unit was used."""
OTHER_FIELDS = {"megahertz": 42.577, "millitesla": 1e3, "gauss": 1e4}
"""Other units of a field strength (and of the resonance of hydrogen), as multiples of its value in tesla."""
CSF_R1 = 0.6
"""Largest accepted median of R1 in CSF, 1/s."""


@dataclass(frozen=True)
class Command:
    """A ``gpuvox ironmyelin`` command with its options parsed.

    Either `table`, or `qsm` and `r1` (4D images) with optional `csf` and `jacobian`. With `visit`, a column, the table
    has a row for each visit of each participant. Empty units are taken from the
    sidecars, or else are ppm and 1/s; `from_field` None means that of the sidecars of R1, and `to_field` None
    that of the model.
    """

    out: str
    table: str = ""
    qsm: str = ""
    r1: str = ""
    csf: str = ""
    jacobian: str = ""
    mask: str = ""
    model: str = ""
    from_field: float | None = None
    to_field: float | None = None
    field_method: str = "curve"
    exponent: float = qmri.ROONEY["gray"][1]
    reference: str = "cohort"
    fwhm: float = 0.0
    qsm_units: str = ""
    r1_units: str = ""
    device: str = "auto"
    line: tuple[str, ...] = ()
    visit: str = ""


# -- reading --------------------------------------------------------------------------------------------------------


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


def read_cohort(command: Command) -> Cohort:
    """Find the images and check that they belong together.

    Raises
    ------
    FileError
        A file is missing or not an image; images are not on the same grid; numbers of volumes differ.
    """
    if not command.table:
        images = {kind: [getattr(command, kind)] for kind in KINDS if getattr(command, kind)}
        n = files.count_volumes(command.qsm)
        known = [participants.of_volumes(names[0]) for names in images.values()]
        participants.compare_all(known)
        ids = next((each.ids for each in known if each), ())
        return replace(check_cohort(ids or [str(i + 1) for i in range(n)], images), numbered=not ids)
    needed = ["participant_id", *needed_kinds(command)]
    table = _read_rows(command, needed)
    folder = Path(command.table).parent
    if "jacobian" in table.columns:
        needed.append("jacobian")
        table = _read_rows(command, needed)
    kinds = [kind for kind in KINDS if kind in needed]
    columns = {kind: [os.fspath(folder / name.strip()) for name in table[kind]] for kind in kinds}
    visits = tuple(table[command.visit].str.strip()) if command.visit else ()
    return replace(check_cohort(list(table["participant_id"]), columns, of_subjects=True), visits=visits)


def _read_rows(command: Command, needed: Sequence[str]) -> pd.DataFrame:
    """The table: a row for each participant, or for each visit of each."""
    if command.visit in ("iron", "myelin", "n_voxels"):
        raise OptionError(
            "--visit", f"{command.visit!r} is a column of csf_reference.tsv, which is written; choose another name"
        )
    if command.visit:
        return read_visit_rows(command.table, command.visit, needed[1:])
    return files.read_table(command.table, needed)


def needed_kinds(command: Command) -> tuple[str, ...]:
    """Image columns that a table must have."""
    return ("qsm", "r1", "csf") if command.reference != "none" else ("qsm", "r1")


def check_cohort(names: Sequence[str], images: dict[str, list[str]], *, of_subjects: bool = False) -> Cohort:
    """Check that images belong together; `of_subjects`: one image per participant, not one for all.

    Raises
    ------
    FileError
        As for `read_cohort`.
    """
    header = files.read_header(images["qsm"][0])
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


def qsm_factor(command: Command, image: str) -> float:
    """Factor from the unit of a file to ppm.

    Raises
    ------
    FileError
        The units are not known.
    """
    units = command.qsm_units or str(files.sidecar(image).get("Units") or "ppm").strip().casefold()
    if units not in QSM_UNITS:
        raise OptionError("--qsm-units", f"{image} is in {units!r}; QSM must be in {' or '.join(QSM_UNITS)}")
    return QSM_UNITS[units]


def to_r1(values: Float32, command: Command, image: str) -> Float32:
    """R1 in 1/s from the values of a file; 0 where they are 0.

    Raises
    ------
    FileError
        The units are not known.
    """
    units = command.r1_units or str(files.sidecar(image).get("Units") or "1/s").strip().casefold()
    units = SAME_UNITS.get(units, units)
    if units not in R1_UNITS:
        raise OptionError("--r1-units", f"{image} is in {units!r}; R1 must be in 1/s or 1/ms, or T1 in ms or s")
    if units in ("s", "ms"):
        values = np.divide(1, values, out=np.zeros_like(values), where=values != 0)
    return values * np.float32(1000) if units in ("1/ms", "ms") else values


@dataclass(frozen=True, eq=False)
class Subject:
    """The images of one participant, in ppm and 1/s, over all voxels."""

    name: str
    qsm: Float32
    r1: Float32
    csf: NDArray[np.uint8] | None
    jacobian: Float32 | None

    @cached_property
    def tissue(self) -> Bools:
        """Voxels that are not background."""
        return (self.r1 > 0) & np.isfinite(self.r1) & np.isfinite(self.qsm)


def subjects(cohort: Cohort, command: Command, requested: Sequence[str], check: bool = True) -> Iterator[Subject]:
    """The participants one by one with the requested kinds of images; checked unless they were before.

    Raises
    ------
    FileError
        Values are implausible for their kind of image.
    """
    kinds = [kind for kind in KINDS if kind in requested and kind in cohort.images]
    for name, *volumes in zip(cohort.rows, *(cohort.volumes(kind) for kind in kinds)):
        images = dict(zip(kinds, volumes))
        (qsm_file, qsm), (r1_file, r1) = images["qsm"], images["r1"]
        qsm = qsm * np.float32(qsm_factor(command, qsm_file))
        r1 = to_r1(r1, command, r1_file)
        if files.read_header(qsm_file).proxy.dtype.kind == "f":
            qsm[qsm == 0] = np.nan  # outside the mask of the reconstruction; a measured value is never exactly 0
        csf = to_mask(images["csf"][0], images["csf"][1], name) if "csf" in images else None
        subject = Subject(name, qsm, r1, csf, images["jacobian"][1] if "jacobian" in images else None)
        if check:
            check_plausible(subject, qsm_file, r1_file)
        yield subject


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


def check_plausible(subject: Subject, qsm_file: str, r1_file: str) -> None:
    """Refuse values that are wrong by a factor of a thousand, and T1 instead of R1.

    Raises
    ------
    FileError
        The message states the values.
    """
    tissue = subject.tissue
    if not tissue.any():
        raise FileError(f"{r1_file} (participant {subject.name}) and {qsm_file} have no voxel with values in both")
    extent = float(np.percentile(np.abs(subject.qsm[tissue]), 99))
    if not QSM_RANGE[0] <= extent <= QSM_RANGE[1]:
        raise OptionError(
            "--qsm-units",
            f"the 99th percentile of |QSM| in {qsm_file} (participant {subject.name}) is {extent:.4g} ppm; between "
            f"{QSM_RANGE[0]:g} and {QSM_RANGE[1]:g} is expected: are these the units of the file?",
        )
    median = float(np.median(subject.r1[tissue]))
    if not R1_RANGE[0] <= median <= R1_RANGE[1]:
        raise OptionError(
            "--r1-units",
            f"the median of R1 in {r1_file} (participant {subject.name}) is {median:.4g} 1/s; between "
            f"{R1_RANGE[0]:g} and {R1_RANGE[1]:g} is expected: are these the units of the file?",
        )
    if subject.csf is not None:
        fluid, solid = tissue & (subject.csf > 0), tissue & (subject.csf == 0)
        if fluid.any() and solid.any():
            in_csf, outside = float(np.median(subject.r1[fluid])), float(np.median(subject.r1[solid]))
            if in_csf > min(outside, CSF_R1):
                raise OptionError(
                    "--r1-units",
                    f"the median in {r1_file} (participant {subject.name}) is {in_csf:.4g} in CSF and {outside:.4g} "
                    "elsewhere; R1 is lowest in CSF, about 0.23: is this T1 (in s or ms), or is the mask not of CSF?",
                )


# -- the run --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """Means of iron and myelin in CSF.

    Attributes
    ----------
    means : (n, 2) float64
    counts : (n,) int
        Voxels.
    participants : tuple of str
        Of the rows.
    """

    means: Float64
    counts: Ints
    participants: tuple[str, ...]

    @cached_property
    def cohort(self) -> Float64:
        """(2,) Mean over the participants, each with the mean of all visits."""
        if len(set(self.participants)) == len(self.participants):
            return np.asarray(self.means.mean(axis=0))
        _, person = np.unique(self.participants, return_inverse=True)
        sums = np.stack([np.bincount(person, column) for column in self.means.T], axis=1)
        return np.asarray((sums / np.bincount(person)[:, None]).mean(axis=0))

    def of(self, i: int, method: str) -> tuple[float, float]:
        """The value that is subtracted for row i."""
        iron, myelin = self.cohort if method == "cohort" else self.means[i]
        return float(iron), float(myelin)


@dataclass(frozen=True, eq=False)
class Run:
    """A command with everything that it needs."""

    command: Command
    cohort: Cohort
    inversion: qmri.Inversion
    grid: Grid
    device: Device | None
    outputs: dict[str, str]


OUTPUTS = {
    "iron": ("iron concentration", 0),
    "myelin": ("myelin concentration", 1),
    "ironmass": ("iron content", 2),
    "myelinmass": ("myelin content", 3),
}


def execute(command: Command, reporter: Reporter) -> None:
    """Run a command: write maps, sidecars and the table of CSF.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    with _without_empty_folder(command.out):
        _execute(command, reporter)


def _execute(command: Command, reporter: Reporter) -> None:
    run = prepare(command)
    for text in shared_images(run.cohort):
        reporter.warn(text)
    with locks.output(os.path.join(command.out, "ironmyelin"), reporter.warn):
        _write_cohort(run, reporter)


def _write_cohort(run: Run, reporter: Reporter) -> None:
    command, reference = run.command, measure_csf(run, reporter)
    with contextlib.ExitStack() as stack:
        writers = {}
        pool = stack.enter_context(Pool(len(run.outputs)))  # compression takes longest
        for name in run.outputs:
            label = files.Label(f"gpuvox {__version__}: {OUTPUTS[name][0]}")
            target = os.path.join(command.out, name)
            opened = files.open_map(target, run.grid, run.cohort.header, len(run.cohort.names), label=label)
            _, writers[name] = stack.enter_context(opened)
        write_maps(run, reference, writers, pool, reporter)
    for name in run.outputs:
        files.write_json(os.path.join(command.out, f"{name}.json"), map_sidecar(run, reference, name))
    remove_stale(run)
    if reference is not None:
        write_reference(os.path.join(command.out, "csf_reference.tsv"), run, reference)


def prepare(command: Command) -> Run:
    """Check everything that can be checked without reading an image."""
    device, model = resolve(command.device), read_model(command)
    cohort = read_cohort(command)
    inversion, grid = prepare_inversion(command, cohort, model)
    try:
        os.makedirs(command.out, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {command.out} cannot be made: {error.strerror}") from None
    kinds = OUTPUTS if "jacobian" in cohort.images else list(OUTPUTS)[:2]
    texts = ["csf_reference.tsv", *(f"{kind}.json" for kind in kinds)]
    check_targets(os.path.join(command.out, ""), texts, maps=kinds)
    units = {"iron": model.iron_units, "myelin": model.myelin_units}
    outputs = {name: units[name.removesuffix("mass")] + (" × J" if "mass" in name else "") for name in kinds}
    return Run(command, cohort, inversion, grid, device, outputs)


def check(command: Command, names: Sequence[str], images: dict[str, list[str]]) -> None:
    """Check a command as far as possible from headers and the first participant's values; writes nothing.

    Parameters
    ----------
    command : Command
        A command without a table.
    names : sequence of str
        Participants.
    images : dict of str to list of str
        By kind, one file per participant.

    Raises
    ------
    InputError
        As for `execute`.
    """
    model, cohort = read_model(command), check_cohort(names, images, of_subjects=True)
    _, grid = prepare_inversion(command, cohort, model)
    first = next(subjects(cohort, command, KINDS))
    if "jacobian" in images:
        check_jacobian(first, images["jacobian"][0], grid)


def read_model(command: Command) -> qmri.TissueModel:
    """The model at the requested field strength."""
    model = qmri.TissueModel.read(command.model) if command.model else qmri.TissueModel.default()
    check_field(model.field, f"the field of the model {model.name}")
    if command.to_field not in (None, model.field):
        raise OptionError(
            "--to-field",
            f"R1 would be at {command.to_field:g} T; the model {model.name} is for {model.field:g} T: expected that "
            "field, or a model of the other",
        )
    return model


def prepare_inversion(command: Command, cohort: Cohort, model: qmri.TissueModel) -> tuple[qmri.Inversion, Grid]:
    """The inversion for these images, and the voxels to write."""
    field_of_r1, conversion = find_field(command, cohort), None
    if field_of_r1 != model.field:
        conversion = qmri.FieldConversion(field_of_r1, model.field, command.field_method, command.exponent)
    if command.reference != "none" and "csf" not in cohort.images:
        raise OptionError(
            "--reference", "masks of CSF are needed (--csf, or a column csf), except for the reference none"
        )
    grid = cohort.header.grid(np.ones(cohort.header.shape[:3], dtype=bool))
    if command.mask:
        grid = files.read_mask_on(command.mask, cohort.header)
    return qmri.Inversion(model, conversion), grid


@contextlib.contextmanager
def _without_empty_folder(path: str) -> Iterator[None]:
    """Create folders, and remove new ones again if the work fails and leaves them empty."""
    folder = Path(path).absolute()
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        for each in new:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def check_field(field: Any, origin: str, option: str = "") -> float:
    """A field strength in tesla.

    Raises
    ------
    FileError
        The value is not a number, or not a field strength in tesla; an `OptionError` if `option` is given.
    """

    def error(message: str) -> InputError:
        return OptionError(option, message) if option else FileError(message)

    if isinstance(field, bool) or not isinstance(field, int | float):
        raise error(f"{origin} is {field!r}; expected a number, the field strength in tesla")
    low, high = FIELDS
    if low <= field <= high:
        return float(field)
    units = next((name for name, factor in OTHER_FIELDS.items() if USUAL[0] <= field / factor <= USUAL[1]), "")
    hint = f"; is it in {units}, {field / OTHER_FIELDS[units]:g} T?" if units else ""
    raise error(f"{origin} is {field:g}; a field strength between {low:g} and {high:g} T expected{hint}")


def find_field(command: Command, cohort: Cohort) -> float:
    """Field strength of R1 in tesla: as given, or from the sidecars.

    Raises
    ------
    FileError
        It is unknown, or the two contradict each other.
    """
    known = command.from_field
    if known is not None:
        known = check_field(known, "the field strength of R1", option="--from-field")
    for image in cohort.images["r1"]:
        said = files.sidecar(image).get("MagneticFieldStrength")
        if said is None:
            continue
        said = check_field(said, f"MagneticFieldStrength beside {image}")
        if known is not None and abs(said - known) > 0.1 * known:
            raise OptionError(
                "--from-field", f"{image} was acquired at {said} T according to its sidecar; expected {known} T"
            )
        known = said if known is None else known
    if known is None:
        raise OptionError(
            "--from-field",
            f"the field strength of {cohort.images['r1'][0]} is unknown; expected here in tesla, or as "
            "MagneticFieldStrength in the JSON file beside the image",
        )
    return known


def measure_csf(run: Run, reporter: Reporter) -> Reference | None:
    """Mean iron and myelin in the CSF of each participant."""
    if run.command.reference == "none":
        return None
    n = len(run.cohort.names)
    means, counts = np.empty((n, 2)), np.empty(n, dtype=np.int64)
    for i, subject in enumerate(subjects(run.cohort, run.command, ("qsm", "r1", "csf"))):
        arrays = [
            a if run.device is None or a is None else run.device.upload(a)
            for a in (subject.qsm, subject.r1, subject.csf)
        ]
        means[i], counts[i] = run.inversion.means(arrays[0], arrays[1], arrays[2], run.device)
        if not counts[i]:
            raise FileError(f"the CSF mask of participant {subject.name} has no voxel with QSM and R1")
        reporter.progress("CSF", i + 1, n)
    return Reference(means, counts, run.cohort.names)


def write_maps(
    run: Run,
    reference: Reference | None,
    writers: dict[str, Callable[[Float32], None]],
    pool: Pool,
    reporter: Reporter,
) -> None:
    """Iron and myelin of every participant, smoothed if requested."""
    kinds = ("qsm", "r1", "jacobian") if reference is not None else KINDS
    for i, subject in enumerate(subjects(run.cohort, run.command, kinds, reference is None)):
        if subject.jacobian is not None:
            names = run.cohort.images["jacobian"]
            check_jacobian(subject, names[i if len(names) > 1 else 0], run.grid)
        subtract = reference.of(i, run.command.reference) if reference is not None else (0.0, 0.0)
        arrays: list[MapBatch] = [
            a if a is None else a[run.grid.index] for a in (subject.qsm, subject.r1, subject.jacobian)
        ]
        if run.device is not None:
            arrays = [a if a is None else run.device.upload(a) for a in arrays]
        maps = run.inversion.invert(arrays[0], arrays[1], subtract, arrays[2], run.device)
        maps = maps if run.device is None else run.device.download(maps)
        jobs = [pool.submit(_write, run, maps[OUTPUTS[name][1]], write) for name, write in writers.items()]
        for job in jobs:
            job.result()
        reporter.progress("maps", i + 1, len(run.cohort.names))


def _write(run: Run, values: Float32, write: Callable[[Float32], None]) -> None:
    write(smoothed(run, values))


def smoothed(run: Run, values: Float32) -> Float32:
    """A map after smoothing; within the mask, if one is given."""
    if not run.command.fwhm:
        return values
    mask = run.grid.mask if run.command.mask else None
    image = qmri.smooth(run.grid.to_volume(values), run.command.fwhm, run.grid.voxel_size, mask)
    return run.grid.to_vector(image)


def map_sidecar(run: Run, reference: Reference | None, name: str) -> dict[str, Any]:
    """Sidecar of a map."""
    command, model, conversion = run.command, run.inversion.model, run.inversion.conversion
    sidecar: dict[str, Any] = {
        "Description": OUTPUTS[name][0],
        "Units": run.outputs[name],
        **({} if run.cohort.numbered else {participants.SUBJECTS: list(run.cohort.names)}),
        **({participants.VISITS: list(run.cohort.visits)} if run.cohort.visits else {}),
        "Model": {
            "name": model.name,
            "citation": model.citation,
            "qsm": model.qsm,
            "r1": model.r1,
            "field": model.field,
        },
        "FieldConversion": None,
        "Reference": command.reference,
        "SmoothingFWHM": command.fwhm,
        "Mask": private.brief(command.mask, command.out) or None,
        "Sources": private.record(dict(run.cohort.images), command.out),
        "GeneratedBy": {
            "Name": "gpuvox",
            "Version": __version__,
            "Command": private.words(command.line, command.out),
        },
    }
    if conversion is not None:
        sidecar["FieldConversion"] = {
            "from": conversion.from_field, "to": conversion.to_field, "method": conversion.method,
            "exponent": conversion.exponent if conversion.method == "power" else None,
            "citation": "Rooney WD, Johnson G, Li X, et al. Magn Reson Med 2007;57:308-318",
        }  # fmt: skip
    if reference is not None and command.reference == "cohort":
        iron, myelin = reference.of(0, "cohort")
        sidecar["ReferenceValue"] = {"iron": iron, "myelin": myelin}
    return sidecar


def remove_stale(run: Run) -> None:
    """Remove files of an earlier run that this run has not written, because they would not belong together."""
    now = set(files.FILE_TYPES[files.output_type()])
    every = {suffix for pair in files.FILE_TYPES.values() for suffix in pair}
    stale = [name + suffix for name in run.outputs for suffix in every - now]
    stale += [name + suffix for name in OUTPUTS if name not in run.outputs for suffix in (*every, ".json")]
    stale += ["csf_reference.tsv"]  # written next, if at all
    for name in stale:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(run.command.out, name))


def write_reference(path: str, run: Run, reference: Reference) -> None:
    """Table of the CSF of each participant."""
    iron, myelin = np.transpose(reference.means)
    visits = {run.command.visit: run.cohort.visits} if run.cohort.visits else {}
    measured = {"n_voxels": reference.counts, "iron": iron, "myelin": myelin}
    table = {"participant_id": run.cohort.names, **visits, **measured}
    files.write_table(path, pd.DataFrame(table))
