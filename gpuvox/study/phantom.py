"""A synthetic cohort with known ground truth: patients with multiple sclerosis (MS) and healthy controls (HC).

Means and SDs of volumes, iron and myelin are those printed by Pontillo et al. 2021 (AJNR, doi 10.3174/ajnr.A7093) for
caudate, putamen, pallidum and thalamus; within the thalamus, atrophy and loss of iron are concentrated in the pulvinar.
Structures are smooth surfaces (`anatomy`) on a grid around the deep gray matter (MNI-like coordinates, mm).

For every participant, a displacement field u is computed whose divergence shrinks or expands the structures and varies
smoothly elsewhere (u = ∇φ, ∇²φ = divergence, by FFT); the Jacobian map is det(I + ∇u), and the volume of a structure
is its sum over the structure. Iron and myelin, in template space, depend on group and age; QSM and R1 are computed by
the forward model relative to CSF at 7 T; R1 is converted to 3 T, and noise is added.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from gpuvox import files
from gpuvox.errors import FileError, InputError
from gpuvox.grid import Grid
from gpuvox.qmri import FieldConversion, TissueModel, tissue_r1
from gpuvox.reporter import Progress
from gpuvox.runtime.limits import default_threads
from gpuvox.runtime.pool import Pool
from gpuvox.study import anatomy
from gpuvox.study.pipeline.config import example
from gpuvox.types import Float32, Float64

N_PATIENTS, N_CONTROLS = 91, 55
N_PROGRESSIVE = 20
SCALES = {"full": 1.0, "small": 3.0, "tiny": 4.0}
"""Voxel size in mm; tiny is for tests of calibration."""
BOX = ((-45.0, 45.0), (-42.0, 36.0), (-22.0, 34.0))
"""Extent of the grid, mm."""

STRUCTURES = ("caudate", "putamen", "pallidum", "thalamus")
NUCLEI = ("anterior", "lateral", "medial", "midline", "pulvinar", "lamina")
"""Subnuclei of the thalamus; lamina is the internal medullary lamina."""

# Volume (mL, both sides), iron (mg/kg) and myelin (volume fraction): mean and SD, of MS and of HC, as printed.
PRINTED = {
    "thalamus": {
        "volume": ((19.2, 2.8), (21.7, 1.9)), "iron": ((5, 59), (38, 51)), "myelin": ((0.24, 0.06), (0.22, 0.08)),
    },
    "caudate": {
        "volume": ((8.7, 1.5), (9.7, 1.3)), "iron": ((310, 103), (271, 76)), "myelin": ((0.19, 0.06), (0.20, 0.08)),
    },
    "putamen": {
        "volume": ((12.6, 1.9), (13.8, 1.6)), "iron": ((276, 112), (243, 94)), "myelin": ((0.23, 0.06), (0.22, 0.08)),
    },
    "pallidum": {
        "volume": ((4.5, 0.6), (4.9, 0.4)), "iron": ((786, 135), (697, 128)), "myelin": ((0.21, 0.06), (0.20, 0.08)),
    },
}  # fmt: skip
# Of the nuclei, relative to the thalamus: loss of volume in MS; iron in HC and its change in MS; change of myelin.
# They are shifted so that the whole thalamus has the printed means. ▸ our choice; the paper prints only the pattern.
PATTERN = {
    "anterior": {"volume": -0.04, "iron": -20.0, "iron_change": -8.0, "myelin_change": 0.003},
    "lateral": {"volume": -0.04, "iron": -25.0, "iron_change": -4.0, "myelin_change": 0.003},
    "medial": {"volume": -0.14, "iron": 0.0, "iron_change": -45.0, "myelin_change": 0.0},
    "midline": {"volume": -0.10, "iron": -5.0, "iron_change": -30.0, "myelin_change": 0.0},
    "pulvinar": {"volume": -0.26, "iron": 50.0, "iron_change": -75.0, "myelin_change": -0.006},
    "lamina": {"volume": -0.06, "iron": -15.0, "iron_change": -10.0, "myelin_change": 0.0},
}
VOLUME_SLOPE = -0.004
"""Share of the volume per year of age."""
IRON_SLOPES = {"thalamus": 0.3, "caudate": 1.5, "putamen": 2.5, "pallidum": 1.0}
"""mg/kg per year of age."""
LOCAL = {"iron": 35.0, "myelin": 0.2, "volume": 0.04}
"""SD of the smooth variation within a participant: of iron, and of the logarithms of myelin and J. Within a
participant, iron therefore explains three quarters of the variance of QSM, not nine tenths as in the paper."""
VOLUME_ERROR = 0.005
"""Relative error of the volumes, at most."""
BACKGROUND = {"iron": 40.0, "myelin": 0.30}
NOISE = {"qsm": 0.004, "r1": 0.006}
"""SD of the noise of a voxel, ppm and 1/s."""
CSF_QSM = -0.02
"""Susceptibility of CSF, ppm."""
AGES = ((38.3, 11.1), (41.6, 13.9))
FEMALE = (54, 27)
CORRELATION = 0.5
"""Correlation of a quantity between the structures of one participant."""


# -- template -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """The space of the maps.

    Parameters
    ----------
    voxel_size : float
        mm, isotropic.
    """

    voxel_size: float = 1.0

    @cached_property
    def axes(self) -> list[Float64]:
        """Coordinates along x, y, z, mm; x is symmetric."""
        axes: list[Float64] = []
        for low, high in BOX:
            n = int((high - low) / self.voxel_size) + 1
            axes.append(
                np.asarray((low + high) / 2 + self.voxel_size * (np.arange(n) - (n - 1) / 2), dtype=np.float64)
            )
        return axes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        x, y, z = (len(axis) for axis in self.axes)
        return x, y, z

    @property
    def affine(self) -> Float64:
        """Voxel to mm."""
        affine = np.diag([self.voxel_size] * 3 + [1.0])
        affine[:3, 3] = [axis[0] for axis in self.axes]
        return affine

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the labels 1, 2, …: structures and nuclei, left then right, and the ventricles."""
        parts = ["caudate", "putamen", "pallidum", *(f"thalamus_{n}" for n in NUCLEI), "ventricle"]
        return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))

    @cached_property
    def labels(self) -> NDArray[np.int16]:
        """(nx, ny, nz) Labels; 0 is other tissue."""
        x, y, z = np.meshgrid(*self.axes, indexing="ij")
        shapes = anatomy.inside(x, y, z)
        across, along, _ = anatomy.thalamus_axes(np.abs(x), y, z)
        parts = {name: shapes[name] for name in ("caudate", "putamen", "pallidum", "ventricle")}
        parts |= {f"thalamus_{n}": shapes["thalamus"] & part for n, part in _nuclei(across, along).items()}
        labels = np.zeros(self.shape, dtype=np.int16)
        for name, inside in parts.items():
            for side, here in (("left", x < 0), ("right", x >= 0)):
                labels[inside & here] = self.names.index(f"{side}_{name}") + 1
        return labels

    def where(self, part: str) -> NDArray[np.bool_]:
        """Voxels of a part on both sides: ``caudate``, ``thalamus``, ``thalamus_pulvinar`` …"""
        chosen = [i + 1 for i, name in enumerate(self.names) if name.split("_", 1)[1].startswith(part)]
        return np.isin(self.labels, chosen)

    @cached_property
    def parts(self) -> dict[str, NDArray[np.bool_]]:
        """Parts with a volume, an iron and a myelin of their own."""
        names = ["caudate", "putamen", "pallidum", *(f"thalamus_{n}" for n in NUCLEI)]
        return {name: self.where(name) for name in names}

    @cached_property
    def gray(self) -> NDArray[np.bool_]:
        """Mask of the deep gray matter."""
        return np.any(list(self.parts.values()), axis=0)

    @property
    def grid(self) -> Grid:
        """Every voxel."""
        return Grid(np.ones(self.shape, dtype=bool), (self.voxel_size,) * 3, self.affine)

    def millilitres(self, part: str) -> float:
        """Volume of a part in the template."""
        return float(self.where(part).sum()) * self.voxel_size**3 / 1000


def _nuclei(u: Float64, v: Float64) -> dict[str, NDArray[np.bool_]]:
    """Nuclei by position across (u, medial to lateral) and along (v, back to front) the thalamus."""
    pulvinar, anterior = v < -0.3, v > 0.6
    between = ~pulvinar & ~anterior
    return {
        "pulvinar": pulvinar,
        "anterior": anterior,
        "midline": between & (u < -0.6),
        "medial": between & (u >= -0.6) & (u < -0.05),
        "lamina": between & (u >= -0.05) & (u < 0.1),
        "lateral": between & (u >= 0.1),
    }


# -- cohort --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cohort:
    """The participants, and the ground truth of each part of each participant.

    Attributes
    ----------
    table : dict of str to (n,) arrays
        Columns of ``participants.tsv``.
    truth : dict of str to dict of str to (n,) float64
        ``volume`` (mL), ``iron``, ``myelin`` → part → value of each subject.
    """

    table: dict[str, NDArray]
    truth: dict[str, dict[str, Float64]]
    offsets: Float64
    """(n,) What the reconstruction adds to the susceptibility of each participant, ppm."""

    @property
    def n(self) -> int:
        """Number of subjects."""
        return len(self.table["participant_id"])


def draw_cohort(template: Template, seed: int, null: bool = False, offset: float = 0.0) -> Cohort:
    """Draw subjects and their truth.

    Parameters
    ----------
    template : Template
        The nuclei's share of the thalamus is taken from it.
    seed : int
    null : bool
        Patients are drawn as controls are, but for age and sex.
    offset : float
        SD of the participants' offsets of susceptibility, ppb; they come from a generator of their own.
    """
    rng = np.random.default_rng([seed, 0])
    n = N_PATIENTS + N_CONTROLS
    patient = np.arange(n) < N_PATIENTS
    age = np.where(patient, *(rng.normal(mean, sd, n) for mean, sd in AGES)).clip(18, 75)
    female = np.concatenate(
        [rng.permutation(np.arange(size) < f) for size, f in zip((N_PATIENTS, N_CONTROLS), FEMALE)]
    )
    like_patient = np.zeros(n, dtype=bool) if null else patient
    years = age - np.where(like_patient, AGES[0][0], AGES[1][0])
    truth = {kind: _draw(rng, template, kind, like_patient, years) for kind in ("volume", "iron", "myelin")}
    table = {
        "participant_id": np.array([f"sub-{i + 1:03d}" for i in range(n)]),
        "group": np.where(patient, "MS", "HC"),
        "age": age.round(1),
        "sex": np.where(female, "F", "M"),
        **_clinical(rng, template, patient, like_patient, age, truth),
    }
    order = rng.permutation(n)
    return Cohort(
        {name: values[order] if name != "participant_id" else values for name, values in table.items()},
        {kind: {part: values[order] for part, values in parts.items()} for kind, parts in truth.items()},
        np.random.default_rng([seed, 2]).normal(0, 1e-3 * offset, n),
    )


def _draw(
    rng: np.random.Generator, template: Template, kind: str, patient: NDArray[np.bool_], years: Float64
) -> dict[str, Float64]:
    """Values of every part: means and SDs as printed, equal correlations between structures."""
    shared = rng.standard_normal(len(patient))
    values_of = {}
    for structure in STRUCTURES:
        (mean_ms, sd_ms), (mean_hc, sd_hc) = PRINTED[structure][kind]
        mean, sd = np.where(patient, mean_ms, mean_hc), np.where(patient, sd_ms, sd_hc)
        slope = {"volume": VOLUME_SLOPE * mean_hc, "iron": IRON_SLOPES[structure], "myelin": 0.0}[kind]
        unexplained_sd = np.sqrt(sd**2 - (slope * np.where(patient, AGES[0][1], AGES[1][1])) ** 2)
        own = rng.standard_normal(len(patient))
        deviation = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * own
        value = mean + slope * years + unexplained_sd * deviation
        if kind != "iron":
            value = np.maximum(value, 0.1 * mean)
        if structure != "thalamus":
            values_of[structure] = value
            continue
        values_of |= _over_nuclei(template, kind, patient, value)
    return values_of


def _over_nuclei(template: Template, kind: str, patient: NDArray[np.bool_], whole: Float64) -> dict[str, Float64]:
    """Values of the nuclei, such that their sum (volume) or mean (iron, myelin) over the thalamus is as given."""
    size = {n: template.millilitres(f"thalamus_{n}") for n in NUCLEI}
    if kind == "volume":
        parts = {n: size[n] * np.where(patient, 1 + PATTERN[n]["volume"], 1.0) for n in NUCLEI}
        total = np.sum(list(parts.values()), axis=0)
        return {f"thalamus_{n}": whole * part / total for n, part in parts.items()}
    base = {n: PATTERN[n].get(kind, 0.0) + patient * PATTERN[n][f"{kind}_change"] for n in NUCLEI}
    mean = sum(size[n] * base[n] for n in NUCLEI) / sum(size.values())
    return {f"thalamus_{n}": whole + base[n] - mean for n in NUCLEI}


def _clinical(
    rng: np.random.Generator,
    template: Template,
    patient: NDArray[np.bool_],
    like_patient: NDArray[np.bool_],
    age: Float64,
    truth: dict[str, dict[str, Float64]],
) -> dict[str, NDArray]:
    """Clinical variables: EDSS follows the volume and the iron of the thalamus, and the lesion load."""
    n = len(patient)
    volume = np.sum([truth["volume"][f"thalamus_{k}"] for k in NUCLEI], axis=0)
    iron = truth["iron"]["thalamus_pulvinar"]

    def z(values: Float64) -> Float64:
        return (values - values[patient].mean()) / values[patient].std()

    duration = rng.gamma(2.3, 5.4, n)
    while (early := duration > age - 12).any():  # nobody falls ill before 12
        duration[early] = rng.gamma(2.3, 5.4, int(early.sum()))
    lesions = np.exp(1.9 + 0.35 * z(duration) - 0.45 * z(volume) + 0.85 * rng.standard_normal(n))
    latent = -0.45 * z(volume) - 0.30 * z(iron) + 0.25 * z(np.log(lesions)) + 0.25 * z(duration)
    latent = latent + 0.2 * z(age) + 0.75 * rng.standard_normal(n)
    edss = np.clip(np.round(2 * (3.6 + 1.5 * z(latent))) / 2, 0, 9.0)
    brain = np.where(like_patient, 1485.8, 1552.9) - 2.5 * (age - np.where(like_patient, *[a[0] for a in AGES]))
    brain = brain + 35 * z(volume) * patient + 70 * rng.standard_normal(n)
    course = np.where(patient, "RRMS", "n/a").astype(object)
    course[np.flatnonzero(patient)[np.argsort(-(latent + 0.8 * z(duration))[patient])[:N_PROGRESSIVE]]] = "PMS"

    def of_patients(values: Float64, decimals: int) -> NDArray:
        return np.array([f"{v:.{decimals}f}" if p else "n/a" for v, p in zip(values, patient)], dtype=object)

    return {
        "phenotype": course,
        "edss": of_patients(edss, 1),
        "disease_duration": of_patients(duration, 1),
        "lesion_load": of_patients(lesions, 2),
        "brain_volume": brain.round(1),
    }


# -- maps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Images:
    """Maps of one participant in template space, (nx, ny, nz) float32."""

    qsm: NDArray[np.float32]
    r1: NDArray[np.float32]
    jacobian: NDArray[np.float32]


class Scanner:
    """Simulates the maps of the participants of a cohort."""

    def __init__(self, template: Template, cohort: Cohort, seed: int) -> None:
        self.template, self.cohort, self.seed = template, cohort, seed
        self.model = TissueModel.default().relative_to(CSF_QSM, tissue_r1("csf", 7))
        self.to_3_tesla = FieldConversion(7, 3, "curve")
        edge = 0.7 / template.voxel_size  # the border between two tissues belongs to both
        self._weights = {
            part: gaussian_filter(where.astype(np.float32), edge) for part, where in template.parts.items()
        }
        self._fluid = gaussian_filter(template.where("ventricle").astype(np.float32), edge)
        self._csf = template.where("ventricle")
        self._sizes = {part: template.millilitres(part) for part in template.parts}
        # The local field of a Gaussian of this width has to be scaled to unit variance.
        self._width = 2.5 / template.voxel_size

    def _smooth_noise(self, rng: np.random.Generator) -> Float32:
        noise = gaussian_filter(
            rng.standard_normal(self.template.shape, dtype=np.float32), self._width, mode="wrap"
        )
        return noise / noise.std()

    def images(self, i: int) -> Images:
        """Maps of participant i."""
        rng = np.random.default_rng([self.seed, 1, i])
        jacobian = self._warp(rng, i)
        iron, myelin = (self._tissue(rng, kind, i) for kind in ("iron", "myelin"))
        qsm, r1 = self.model.forward(iron, myelin)
        qsm += np.float32(self.cohort.offsets[i])
        qsm += NOISE["qsm"] * rng.standard_normal(qsm.shape, dtype=np.float32)
        r1 = self.to_3_tesla(r1) + NOISE["r1"] * rng.standard_normal(r1.shape, dtype=np.float32)
        return Images(qsm.astype(np.float32), r1.astype(np.float32), jacobian.astype(np.float32))

    def _tissue(self, rng: np.random.Generator, kind: str, i: int) -> Float32:
        """Iron or myelin: the ground truth of the parts, blurred into their surroundings, with local variation."""
        truth, local = self.cohort.truth[kind], self._smooth_noise(rng)
        values = np.float32(BACKGROUND[kind]) * np.clip(1 - sum(self._weights.values()) - self._fluid, 0, 1)
        for part, w in self._weights.items():
            values += w * np.float32(truth[part][i])
        if kind == "iron":
            values += np.float32(LOCAL[kind]) * local * (1 - self._fluid)
            for part, where in self.template.parts.items():
                values[where] += truth[part][i] - values[where].mean()
        else:  # never negative
            values *= np.exp(np.float32(LOCAL[kind]) * local)
            for part, where in self.template.parts.items():
                values[where] *= truth[part][i] / values[where].mean()
        values[self._csf] = 0.0
        return values

    def _warp(self, rng: np.random.Generator, i: int) -> Float32:
        """Jacobian determinants whose sum over each part is the part's volume."""
        template = self.template
        noise = np.float32(LOCAL["volume"]) * self._smooth_noise(rng)
        target_ratios = {
            part: self.cohort.truth["volume"][part][i] / size for part, size in self._sizes.items() if size
        }
        strength = {part: np.float32(np.log(ratio)) for part, ratio in target_ratios.items()}
        jacobian = np.ones(template.shape, dtype=np.float32)
        for _ in range(12):
            divergence = noise + sum(strength[part] * self._weights[part] for part in strength)
            jacobian = _determinants(_displacement(divergence))
            excess = {
                part: target_ratios[part] / jacobian[template.parts[part]].mean(dtype=np.float64)
                for part in strength
            }
            if all(abs(ratio - 1) < VOLUME_ERROR for ratio in excess.values()):
                break
            for part, ratio in excess.items():
                strength[part] += np.float32(np.log(ratio))
        return jacobian


def _displacement(divergence: Float32) -> Float32:
    """(3, nx, ny, nz) Curl-free displacement field in voxels with a given divergence."""
    shape = divergence.shape
    # Central differences have the symbol i·sin(k): with it the divergence comes out as given.
    symbols = [np.sin(2 * np.pi * fft.fftfreq(n)) for n in shape[:2]] + [
        np.sin(2 * np.pi * fft.rfftfreq(shape[2]))
    ]
    kx, ky, kz = np.meshgrid(*symbols, indexing="ij", sparse=True)
    square = kx**2 + ky**2 + kz**2
    potential = fft.rfftn(divergence)
    square[square <= 1e-12] = np.inf
    potential /= square.astype(np.float32)
    return np.stack(
        [fft.irfftn(np.complex64(-1j) * k.astype(np.float32) * potential, s=shape) for k in (kx, ky, kz)]
    )


def _determinants(u: Float32) -> Float32:
    """det(I + ∇u) by central differences, periodic."""
    d = [
        [(np.roll(u[a], -1, axis=b) - np.roll(u[a], 1, axis=b)) / 2 + (a == b) for b in range(3)] for a in range(3)
    ]
    return (
        d[0][0] * (d[1][1] * d[2][2] - d[1][2] * d[2][1])
        - d[0][1] * (d[1][0] * d[2][2] - d[1][2] * d[2][0])
        + d[0][2] * (d[1][0] * d[2][1] - d[1][1] * d[2][0])
    )


# -- on disk --------------------------------------------------------------------------------------------------------


def write(
    out: str | os.PathLike[str],
    seed: int = 0,
    scale: str = "full",
    null: bool = False,
    progress: Progress | None = None,
    offset: float = 0.0,
) -> None:
    """Write a cohort to a folder, organised like a study; the ground truth is in its folder ``truth``.

    Parameters
    ----------
    out : path
        A folder that does not exist or is empty.
    seed : int
    scale : {"full", "small", "tiny"}
        Voxels of 1, 3 or 4 mm.
    null : bool
        No difference between the groups.
    progress : callable, optional
        Receives ("phantom", participants done, participants in total).
    offset : float
        SD of the participants' offsets of susceptibility, ppb, which a reconstruction leaves open.

    Raises
    ------
    FileError
        The folder is not empty, or cannot be written.
    InputError
        There is no such scale, or the SD is negative.
    """
    if not (math.isfinite(offset) and offset >= 0):
        raise InputError(f"the offsets have an SD of {offset} ppb; expected a number of at least 0")
    if scale not in SCALES:
        raise InputError(f"there is no scale {scale!r}; expected {', '.join(SCALES)}")
    template = Template(SCALES[scale])
    cohort = draw_cohort(template, seed, null, offset)
    scanner = Scanner(template, cohort, seed)
    with _new_folder(os.fspath(out)) as folder, Pool(default_threads()) as pool:
        _write_template(folder, template)
        jobs = [pool.submit(_write_subject, folder, scanner, i) for i in range(cohort.n)]
        try:
            for i, job in enumerate(jobs):
                job.result()
                if progress:
                    progress("phantom", i + 1, cohort.n)
        finally:
            for job in jobs:
                job.cancel()
        _write_tables(folder, template, cohort)


def _write_subject(out: str, scanner: Scanner, i: int) -> None:
    """Images of a participant and their JSON files."""
    folder = os.path.join(out, str(scanner.cohort.table["participant_id"][i]))
    os.makedirs(folder)
    images, grid = scanner.images(i), scanner.template.grid
    for kind, units in (("qsm", "ppm"), ("r1", "1/s"), ("jacobian", "1")):
        # Noise does not compress.
        values = grid.to_vector(getattr(images, kind))
        files.write_map(os.path.join(folder, kind), values, grid, file_type="NIFTI")
        sidecar = {"Units": units} | ({"MagneticFieldStrength": 3} if kind != "jacobian" else {})
        files.write_json(os.path.join(folder, f"{kind}.json"), sidecar)


@contextlib.contextmanager
def _new_folder(out: str) -> Iterator[str]:
    """A temporary folder beside `out` that is renamed to `out` when complete, and removed if anything fails."""
    try:
        if os.path.lexists(out) and os.listdir(out):
            raise FileError(f"the folder {out} is not empty: it has {sorted(os.listdir(out))[0]}")
        parent = os.path.dirname(os.path.abspath(out))
        os.makedirs(parent, exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=".gpuvox-", dir=parent)
    except OSError as error:
        raise FileError(f"the folder {out} cannot be written: {error.strerror}") from None
    try:
        os.makedirs(os.path.join(temporary, "truth"))
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_template(out: str, template: Template) -> None:
    """Labels with their names, masks of deep gray matter and of CSF."""
    folder, grid = os.path.join(out, "template"), template.grid
    os.makedirs(folder)
    images = {"labels": template.labels, "deepgray": template.gray, "csf": template.where("ventricle")}
    for name, image in images.items():
        files.write_map(
            os.path.join(folder, name), grid.to_vector(image.astype(np.float32)), grid, file_type="NIFTI_GZ"
        )
    rows = "\n".join(f"{i + 1}\t{name}" for i, name in enumerate(template.names))
    files.write_text(os.path.join(folder, "labels.tsv"), f"index\tname\n{rows}\n")


def _write_tables(out: str, template: Template, cohort: Cohort) -> None:
    """The table of participants with their images, the design of the voxelwise tests, and the ground truth."""
    ids = cohort.table["participant_id"]
    table = dict(cohort.table)
    for kind in ("qsm", "r1", "jacobian"):
        table[kind] = np.array([f"{name}/{kind}.nii" for name in ids])
    table["csf"] = np.full(cohort.n, "template/csf.nii.gz")
    lines = ["\t".join(table), *("\t".join(map(str, row)) for row in zip(*table.values()))]
    files.write_text(os.path.join(out, "participants.tsv"), "\n".join(lines) + "\n")
    files.write_text(os.path.join(out, "study.toml"), _study(template))
    design, contrasts = design_of(cohort)
    files.write_vest(os.path.join(out, "design.mat"), design, names=list(ids))
    files.write_vest(os.path.join(out, "design.con"), contrasts, "con", names=("MS > HC", "MS < HC"))
    lines = ["participant_id\tpart\tvolume\tiron\tmyelin"]
    for part in template.parts:
        rows = zip(ids, *(cohort.truth[kind][part] for kind in ("volume", "iron", "myelin")))
        lines += [f"{name}\t{part}\t{v:.6g}\t{fe:.6g}\t{my:.6g}" for name, v, fe, my in rows]
    files.write_text(os.path.join(out, "truth", "parts.tsv"), "\n".join(lines) + "\n")
    lines = ["participant_id\tqsm_offset", *(f"{name}\t{value:.6g}" for name, value in zip(ids, cohort.offsets))]
    files.write_text(os.path.join(out, "truth", "offsets.tsv"), "\n".join(lines) + "\n")


def _study(template: Template) -> str:
    """The example configuration, which fits this cohort; the cluster extent is adapted to 0.1 mL."""
    extent = max(1, round(100 / template.voxel_size**3))
    return example().replace("extent = 100 ", f"extent = {extent:<3} ")


def design_of(cohort: Cohort) -> tuple[Float64, Float64]:
    """Design (MS, HC, age, sex; the last two centred) and the contrasts MS > HC and MS < HC."""
    patient = (cohort.table["group"] == "MS").astype(float)
    age, female = cohort.table["age"].astype(float), (cohort.table["sex"] == "F").astype(float)
    design = np.column_stack([patient, 1 - patient, age - age.mean(), female - female.mean()])
    return design, np.array([[1.0, -1, 0, 0], [-1.0, 1, 0, 0]])
