"""The application ``gpuvox ironmyelin``: QSM and R1 (or other contrasts) of a cohort in, iron and myelin images out.

One participant is in memory at a time; `qmri` and `tissue_models` do the arithmetic. The images are read twice if maps
are referenced to CSF, because its mean must be known before the first map is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import __version__, files, participants, private, qmri
from gpuvox.cuda import resolve
from gpuvox.device import Device
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.files import locks
from gpuvox.files.targets import check_targets
from gpuvox.grid import Grid
from gpuvox.reporter import Reporter
from gpuvox.runtime.pool import Pool
from gpuvox.subject_images import (
    Cohort,
    Subject,
    Units,
    check_cohort,
    check_jacobian,
    shared_images,
    subjects,
)
from gpuvox.tables.reading import read_visit_rows
from gpuvox.tissue_models import Contrast, LeastSquares, LinearModel
from gpuvox.types import AnyArray, Bools, Float32, Float64, Ints, MapBatch

KINDS = ("qsm", "r1", "csf", "jacobian")
"""Images that have an option of their own."""
FIELDS = (0.05, 25.0)
"""Accepted field strengths in tesla."""
USUAL = (0.2, 12.0)
"""Field strengths that are suggested if another unit was used."""
OTHER_FIELDS = {"megahertz": 42.577, "millitesla": 1e3, "gauss": 1e4}
"""Other units of a field strength (and of the resonance of hydrogen), as multiples of its value in tesla."""


@dataclass(frozen=True)
class Command:
    """A ``gpuvox ironmyelin`` command with its options parsed.

    Either `table`, or `qsm` and `r1` (4D images) with optional `csf` and `jacobian`. With `visit`, a column, the table
    has a row for each visit of each participant. The table has a column for each contrast of the `model`. Empty units
    are taken from the sidecars, or else are ppm and 1/s; `from_field` None means that of the sidecars of R1, and
    `to_field` None that of the model. With `uncertainty`, standard deviations of iron and myelin are written: those of
    the `noise` of each contrast, by default the model's, and those of its coefficients, whose standard errors are the
    model's, or `coefficient_error` as a share of each.
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
    uncertainty: bool = False
    noise: Mapping[str, float] = field(default_factory=dict)
    coefficient_error: float = 0.0

    @property
    def units(self) -> Units:
        """The units of the images."""
        return Units(self.qsm_units, self.r1_units)


# -- reading --------------------------------------------------------------------------------------------------------


def read_cohort(command: Command) -> Cohort:
    """Find the images and check that they belong together.

    Raises
    ------
    FileError
        A file is missing or not an image; images are not on the same grid; numbers of volumes differ.
    """
    if not command.table:
        images = {kind: [getattr(command, kind)] for kind in KINDS if getattr(command, kind)}
        lacking = [name for name in read_model(command).names if name not in images]
        if lacking:
            raise OptionError("--table", f"is needed for a model of {lacking[0]}, which has no option of its own")
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
    columns = {kind: [os.fspath(folder / name.strip()) for name in table[kind]] for kind in needed[1:]}
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
    return (*read_model(command).names, *(["csf"] if command.reference != "none" else []))


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
    """A command with everything that it needs.

    Attributes
    ----------
    inversion : Inversion or LeastSquares
        QSM and R1 are inverted in closed form, also on a device; other contrasts by least squares.
    outputs : dict of str to str
        Map → unit.
    uncertainty : Uncertainty, optional
    """

    command: Command
    cohort: Cohort
    model: LinearModel
    inversion: qmri.Inversion | LeastSquares
    grid: Grid
    device: Device | None
    outputs: dict[str, str]
    uncertainty: Uncertainty | None = None

    @property
    def units(self) -> Units:
        """The units of the images, and those that the model expects."""
        return replace(self.command.units, of_model={each.name: each.units for each in self.model.contrasts})


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What is known of errors.

    Attributes
    ----------
    noise : tuple of float, optional
        SD of each contrast as measured.
    covariances : tuple of (2, 2) float64, optional
        Of the coefficients of each contrast.
    """

    noise: tuple[float, ...] | None
    covariances: tuple[Float64, ...] | None

    @property
    def parts(self) -> list[str]:
        """Ends of the names of the maps."""
        known = {"_sd_noise": self.noise, "_sd_coefficients": self.covariances}
        return [name for name, value in known.items() if value is not None]


OUTPUTS = {
    "iron": "iron concentration",
    "myelin": "myelin concentration",
    "ironmass": "iron content",
    "myelinmass": "myelin content",
    "iron_sd_noise": "standard deviation of iron due to noise",
    "myelin_sd_noise": "standard deviation of myelin due to noise",
    "iron_sd_coefficients": "standard deviation of iron due to errors of the coefficients",
    "myelin_sd_coefficients": "standard deviation of myelin due to errors of the coefficients",
}
"""Maps and what they are, in their order among those of a participant."""


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
            label = files.Label(f"gpuvox: {OUTPUTS[name]}")
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
    uncertainty = _uncertainty(command, model)
    cohort = read_cohort(command)
    inversion, grid = prepare_inversion(command, cohort, model)
    try:
        os.makedirs(command.out, exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {command.out} cannot be made: {error.strerror}") from None
    kinds = ["iron", "myelin", *(["ironmass", "myelinmass"] if "jacobian" in cohort.images else [])]
    kinds += [
        f"{kind}{part}" for part in (uncertainty.parts if uncertainty else ()) for kind in ("iron", "myelin")
    ]
    texts = ["csf_reference.tsv", *(f"{kind}.json" for kind in kinds)]
    check_targets(os.path.join(command.out, ""), texts, maps=kinds)
    units = {"iron": model.iron_units, "myelin": model.myelin_units}
    outputs = {name: units[name.split("_")[0].removesuffix("mass")] + " × J" * ("mass" in name) for name in kinds}
    return Run(command, cohort, model, inversion, grid, device, outputs, uncertainty)


def _uncertainty(command: Command, model: LinearModel) -> Uncertainty | None:
    """What is known of the errors of noise and coefficients.

    Raises
    ------
    InputError
        Nothing is known, or it would not be the uncertainty of the maps.
    """
    if not command.uncertainty:
        for option, value in (("--noise", command.noise), ("--coefficient-error", command.coefficient_error)):
            if value:
                raise OptionError(option, "is for --uncertainty, which is not requested")
        return None
    for option, wrong, why in (
        ("--reference", command.reference == "none", "the errors of the constants cancel only relative to CSF"),
        ("--fwhm", command.fwhm, "smoothing changes the uncertainty of noise"),
    ):
        if wrong:
            raise OptionError(option, f"{why}, so --uncertainty is of maps with a reference, and not smoothed")
    for name, sd in command.noise.items():
        if name not in model.names or not (np.isfinite(sd) and sd > 0):
            raise OptionError("--noise", f"{name}={sd:g} is not a positive SD of {' or '.join(model.names)}")
    noise = tuple(command.noise.get(each.name, each.noise) for each in model.contrasts)
    errors = model.relative_errors(command.coefficient_error) if command.coefficient_error else None
    covariances = errors or [each.covariance for each in model.contrasts]
    known = Uncertainty(
        noise if all(noise) else None, tuple(covariances) if any(V.any() for V in covariances) else None
    )
    if not known.parts:
        missing = [each.name for each, sd in zip(model.contrasts, noise) if not sd]
        raise OptionError(
            "--uncertainty", f"the noise of {missing[0]} is not known, nor are errors of the coefficients; expected "
            "--noise NAME=SD of every contrast, or --coefficient-error, or a model that has them",
        )  # fmt: skip
    return known


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
    inversion, grid = prepare_inversion(command, cohort, model)
    run = Run(command, cohort, model, inversion, grid, None, {})
    first = next(subjects(cohort, run.units, model.names, ("csf", "jacobian")))
    if "jacobian" in images:
        check_jacobian(first, images["jacobian"][0], grid)


def read_model(command: Command) -> LinearModel:
    """The model at the requested field strength."""
    model = LinearModel.read(command.model or qmri.DEFAULT_MODEL)
    if model.field is not None:
        check_field(model.field, f"the field of the model {model.name}")
    if command.to_field not in (None, model.field):
        there = f"{model.field:g} T" if model.field is not None else "no field strength of R1"
        raise OptionError(
            "--to-field",
            f"R1 would be at {command.to_field:g} T; the model {model.name} is for {there}: expected that "
            "field, or a model of the other",
        )
    return model


def prepare_inversion(
    command: Command, cohort: Cohort, model: LinearModel
) -> tuple[qmri.Inversion | LeastSquares, Grid]:
    """The inversion for these images, and the voxels to write."""
    conversion = None
    if "r1" in model.names and model.field is not None:
        field_of_r1 = find_field(command, cohort)
        if field_of_r1 != model.field:
            conversion = qmri.FieldConversion(field_of_r1, model.field, command.field_method, command.exponent)
    for contrast in model.contrasts:
        if contrast.field is not None and contrast.name != "r1":
            _check_same_field(contrast, cohort)
    if command.reference != "none" and "csf" not in cohort.images:
        raise OptionError(
            "--reference", "masks of CSF are needed (--csf, or a column csf), except for the reference none"
        )
    grid = cohort.header.grid(np.ones(cohort.header.shape[:3], dtype=bool))
    if command.mask:
        grid = files.read_mask_on(command.mask, cohort.header)
    if model.is_qsm_and_r1:
        return qmri.Inversion(model.tissue_model, conversion), grid
    return LeastSquares(model, conversion), grid


def _check_same_field(contrast: Contrast, cohort: Cohort) -> None:
    """Raise `FileError` for an image of another field; only R1 is converted."""
    for image, tesla in _recorded_fields(cohort.images[contrast.name]):
        if contrast.field is not None and abs(tesla - contrast.field) > 0.1 * contrast.field:
            raise FileError(
                f"{image} was acquired at {tesla:g} T, and the coefficients of {contrast.name} are for "
                f"{contrast.field:g} T; only R1 is converted between fields"
            )


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
    for image, said in _recorded_fields(cohort.images["r1"]):
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


def _recorded_fields(images: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Images whose sidecars say at which field, in tesla, they were acquired."""
    for image in images:
        said = files.sidecar(image).get("MagneticFieldStrength")
        if said is not None:
            yield image, check_field(said, f"MagneticFieldStrength beside {image}")


def measure_csf(run: Run, reporter: Reporter) -> Reference | None:
    """Mean iron and myelin in the CSF of each participant."""
    if run.command.reference == "none":
        return None
    n = len(run.cohort.names)
    means, counts = np.empty((n, 2)), np.empty(n, dtype=np.int64)
    for i, subject in enumerate(subjects(run.cohort, run.units, run.model.names, ("csf",))):
        means[i], counts[i] = _csf_of(run, subject)
        if not counts[i]:
            whose = " and ".join(name.upper() for name in run.model.names)
            raise FileError(f"the CSF mask of participant {subject.name} has no voxel with {whose}")
        reporter.progress("CSF", i + 1, n)
    return Reference(means, counts, run.cohort.names)


def _csf_of(run: Run, subject: Subject) -> tuple[Float64, int]:
    """Mean iron and myelin in a participant's CSF, and the number of voxels."""
    assert subject.csf is not None
    if isinstance(run.inversion, LeastSquares):
        return run.inversion.means(subject.contrasts, subject.tissue & (subject.csf > 0))
    arrays: list[AnyArray] = [subject.contrasts["qsm"], subject.contrasts["r1"], subject.csf]
    there = [a if run.device is None else run.device.upload(a) for a in arrays]
    return run.inversion.means(there[0], there[1], there[2], run.device)


def write_maps(
    run: Run,
    reference: Reference | None,
    writers: dict[str, Callable[[Float32], None]],
    pool: Pool,
    reporter: Reporter,
) -> None:
    """Iron and myelin of every participant, smoothed if requested."""
    others = ("jacobian",) if reference is not None else ("csf", "jacobian")
    for i, subject in enumerate(subjects(run.cohort, run.units, run.model.names, others, reference is None)):
        if subject.jacobian is not None:
            names = run.cohort.images["jacobian"]
            check_jacobian(subject, names[i if len(names) > 1 else 0], run.grid)
        subtract = reference.of(i, run.command.reference) if reference is not None else (0.0, 0.0)
        maps = _maps_of(run, subject, subtract)
        jobs = [pool.submit(_write, run, maps[name], write) for name, write in writers.items()]
        for job in jobs:
            job.result()
        reporter.progress("maps", i + 1, len(run.cohort.names))


def _maps_of(run: Run, subject: Subject, subtract: tuple[float, float]) -> dict[str, Float32]:
    """All maps of a participant, by name, at the voxels that are written."""
    inside = subject.tissue[run.grid.index]
    contrasts = {name: values[run.grid.index] for name, values in subject.contrasts.items()}
    jacobian = None if subject.jacobian is None else subject.jacobian[run.grid.index]
    if isinstance(run.inversion, LeastSquares):
        tissue = run.inversion.solve(contrasts, inside) - np.where(inside, np.array(subtract)[:, None], 0.0)
        content = [] if jacobian is None else list(tissue * np.where(inside, jacobian, 0.0))
        maps = np.array([*tissue, *content], dtype=np.float32)
    else:
        arrays: list[MapBatch] = [contrasts["qsm"], contrasts["r1"], jacobian]
        if run.device is not None:
            arrays = [a if a is None else run.device.upload(a) for a in arrays]
        maps = run.inversion.invert(arrays[0], arrays[1], subtract, arrays[2], run.device)
        maps = maps if run.device is None else run.device.download(maps)
    names = list(OUTPUTS)[: len(maps)]
    return dict(zip(names, maps)) | _deviations(run, contrasts, maps[:2].astype(np.float64), inside)


def _deviations(run: Run, contrasts: Mapping[str, Float32], tissue: Float64, inside: Bools) -> dict[str, Float32]:
    """Standard deviations of iron and myelin."""
    known, variances = run.uncertainty, dict[str, Float64]()
    if known is None:
        return {}
    if known.noise is not None:
        sds: list[Any] = list(known.noise)
        if run.inversion.conversion is not None:
            at = run.model.names.index("r1")
            sds[at] = sds[at] * run.inversion.conversion.slope(contrasts["r1"])
        variances["_sd_noise"] = np.broadcast_to(run.model.noise_variance(sds).reshape(2, -1), tissue.shape)
    if known.covariances is not None:
        variances["_sd_coefficients"] = run.model.coefficient_variance(tissue, known.covariances)
    return {
        f"{kind}{part}": np.where(inside, np.sqrt(of[i]), 0).astype(np.float32)
        for part, of in variances.items()
        for i, kind in enumerate(("iron", "myelin"))
    }


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
    command, model, conversion = run.command, run.model, run.inversion.conversion
    sidecar: dict[str, Any] = {
        "Description": OUTPUTS[name],
        "Units": run.outputs[name],
        **({} if run.cohort.numbered else {participants.SUBJECTS: list(run.cohort.names)}),
        **({participants.VISITS: list(run.cohort.visits)} if run.cohort.visits else {}),
        "Model": {
            "name": model.name,
            "citation": model.citation,
            **{each.name: (each.iron, each.myelin, each.constant) for each in model.contrasts},
            "field": model.field,
        },
        **_record_of_uncertainty(run, name),
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


def _record_of_uncertainty(run: Run, name: str) -> dict[str, Any]:
    """What a map of standard deviations is based on."""
    known = run.uncertainty
    if known is None or "_sd_" not in name:
        return {}
    if name.endswith("_sd_noise"):
        return {"Noise": dict(zip(run.model.names, known.noise or ()))}
    covariances = zip(run.model.names, known.covariances or ())
    return {"CoefficientCovariance": {each: V.tolist() for each, V in covariances}}


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
