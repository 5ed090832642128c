"""Iron and myelin from quantitative MRI: relaxation rates between field strengths, and inversion of a linear model.

Susceptibility χ (QSM, ppm) and longitudinal relaxation rate R1 (1/s) are modelled as linear in iron and myelin,

    χ  = a₁·Fe + a₂·My + a₀        R1 = b₁·Fe + b₂·My + b₀

(Stüber et al. 2014, NeuroImage 93:95, ex vivo at 7 T: `TissueModel.default`). R1 measured at another field is first
converted (`FieldConversion`, after Rooney et al. 2007, MRM 57:308); χ does not depend on the field. Iron and myelin are
then referenced to cerebrospinal fluid (CSF), where the intercepts cancel, and become *content* maps when multiplied by
the Jacobian determinant of the template → subject map.

Arrays in, arrays out. Storage is float32, arithmetic float64: the condition number of the default model is 6.8e3.
``kernels/inversion.cu`` does the same on a GPU.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter1d

from gpuvox.device import Device, blocks_for
from gpuvox.errors import FileError, InputError
from gpuvox.jit import loop
from gpuvox.types import AnyArray, Float32, Float64, MapBatch

GYROMAGNETIC_RATIO = 42.577478518e6
"""Of the proton, Hz/T (CODATA 2018)."""
ROONEY = {"gray": (0.00116, 0.376), "white": (0.00071, 0.382)}
"""T1 = a·(γB₀)^b in seconds, γB₀ in Hz: a and b of a tissue (Rooney et al. 2007)."""
CSF_T1 = 4.329
"""T1 of cerebrospinal fluid in seconds at every field (Rooney et al. 2007)."""
DEFAULT_MODEL = Path(__file__).parent / "relaxation" / "stueber2014.toml"
"""The file of the default model, Stüber et al. 2014."""
METHODS = ("power", "curve")
FWHM_PER_SIGMA: float = 2 * float(np.sqrt(2 * np.log(2)))


# -- field strengths ------------------------------------------------------------------------------------------------


def tissue_r1(tissue: str, field: float) -> float:
    """R1 of a tissue at a field strength (Rooney et al. 2007).

    Parameters
    ----------
    tissue : {"gray", "white", "csf"}
    field : float
        Tesla.

    Returns
    -------
    float
        1/s.
    """
    if tissue == "csf":
        return 1 / CSF_T1
    a, b = ROONEY[tissue]
    return 1 / float(a * (GYROMAGNETIC_RATIO * field) ** b)


@dataclass(frozen=True)
class FieldConversion:
    """R1 at one field strength from R1 at another.

    Parameters
    ----------
    from_field, to_field : float
        Tesla.
    method : {"power", "curve"}
        ``curve``: piecewise linear through the points (R1 at one field, R1 at the other) of CSF, gray and white
        matter, its end segments extended. ``power``: R1 · (from/to)^exponent. The latter scales CSF too, whose R1
        does not depend on the field: relative to CSF, iron and myelin then come out too high.
    exponent : float
        Of the power law; by default gray matter's.

    Raises
    ------
    InputError
        A field is not positive, or there is no such method.
    """

    from_field: float
    to_field: float
    method: str = "curve"
    exponent: float = ROONEY["gray"][1]

    def __post_init__(self) -> None:
        for option, field in (("--from-field", self.from_field), ("--to-field", self.to_field)):
            if not (field > 0 and np.isfinite(field)):
                raise InputError(f"a field strength is {field} T; it must be positive", option=option)
        if self.method not in METHODS:
            raise InputError(
                f"field conversion {self.method!r}; expected {' or '.join(METHODS)}", option="--field-method"
            )
        if not np.isfinite(self.exponent):
            raise InputError(
                f"the exponent of the field conversion is {self.exponent}; it must be a number",
                option="--exponent",
            )

    @property
    def pieces(self) -> tuple[float, float, float, float, float]:
        """(break, slope, offset, slope, offset): the line below a break in R1, and that from it on."""
        if self.method == "power":
            factor = (self.from_field / self.to_field) ** self.exponent
            return 0.0, factor, 0.0, factor, 0.0
        x, y = (
            [tissue_r1(t, field) for t in ("csf", "gray", "white")] for field in (self.from_field, self.to_field)
        )
        low, high = ((y[i + 1] - y[i]) / (x[i + 1] - x[i]) for i in (0, 1))
        return x[1], low, y[1] - low * x[1], high, y[1] - high * x[1]

    def __call__(self, r1: ArrayLike) -> Float64:
        """R1 at `to_field`, 1/s; any shape."""
        r1 = np.asarray(r1, dtype=np.float64)
        at, low, low_offset, high, high_offset = self.pieces
        return np.where(r1 < at, low * r1 + low_offset, high * r1 + high_offset)

    def slope(self, r1: ArrayLike) -> Float64:
        """Derivative of the conversion."""
        at, low, _, high, _ = self.pieces
        return np.where(np.asarray(r1, dtype=np.float64) < at, low, high)


def voxelwise_conversion(
    r1: ArrayLike, tissue: ArrayLike, exponents: Mapping[int, float], from_field: float, to_field: float
) -> Float64:
    """R1 at another field by a power law whose exponent depends on the tissue.

    Parameters
    ----------
    r1 : array
        1/s.
    tissue : int array of the same shape
        Label of each voxel.
    exponents : dict of int to float
        Exponent of every label that occurs.
    from_field, to_field : float
        Tesla.

    Raises
    ------
    InputError
        A label has no exponent.
    """
    tissue = np.asarray(tissue)
    labels, place = np.unique(tissue, return_inverse=True)
    missing = [int(label) for label in labels if label not in exponents]
    if missing:
        raise InputError(f"the tissue map has label {missing[0]}, for which there is no exponent")
    factors = np.array([(from_field / to_field) ** exponents[int(label)] for label in labels])
    converted: Float64 = np.asarray(r1, dtype=np.float64) * factors[place].reshape(tissue.shape)
    return converted


# -- the model ------------------------------------------------------------------------------------------------------

Model = TypeVar("Model")


def read_model(path: str | os.PathLike[str], of_toml: Callable[[dict[str, Any]], Model]) -> Model:
    """A model of iron and myelin, made of the content of a TOML file.

    Raises
    ------
    FileError
        The file cannot be read or is not TOML, or `of_toml` finds that it is not such a model.
    """
    try:
        with open(path, "rb") as file:
            return of_toml(tomllib.load(file))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}", file=path) from None
    except KeyError as error:
        raise FileError(
            f"{path} is not a model of iron and myelin: {error.args[0]!r} is missing", file=path
        ) from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} is not a model of iron and myelin: {error}", file=path) from None


@dataclass(frozen=True)
class TissueModel:
    """QSM and R1 as linear functions of iron and myelin.

    Parameters
    ----------
    qsm, r1 : (float, float, float)
        Coefficients of iron and of myelin, and the constant; QSM in ppm, R1 in 1/s.
    field : float
        Tesla, of R1.
    name, citation : str
    iron_units, myelin_units : str

    Raises
    ------
    InputError
        The two contrasts do not tell iron from myelin (a singular model).
    """

    qsm: tuple[float, float, float]
    r1: tuple[float, float, float]
    field: float = 7.0
    name: str = ""
    citation: str = ""
    iron_units: str = "mg/kg"
    myelin_units: str = "1"

    def __post_init__(self) -> None:
        (a, b, _), (c, d, _) = self.qsm, self.r1
        if not np.isfinite([*self.qsm, *self.r1]).all():
            raise InputError(f"the model {self.name!r} has a coefficient that is not a number")
        if abs(a * d - b * c) <= 1e-12 * (abs(a * d) + abs(b * c)):
            raise InputError(f"the model {self.name!r} is singular: it cannot tell iron from myelin")

    @classmethod
    def default(cls) -> TissueModel:
        """Stüber et al. 2014."""
        return cls.read(DEFAULT_MODEL)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TissueModel:
        """Read a model from a TOML file like ``gpuvox/relaxation/stueber2014.toml``.

        Raises
        ------
        FileError
            The file is not such a model.
        """
        return read_model(path, cls.of_toml)

    @classmethod
    def of_toml(cls, content: Mapping[str, Any]) -> TissueModel:
        """The model of a file's content; errors as for `read_model`."""
        if content["version"] != 1:
            raise InputError(f"version {content['version']!r} is not known; this reads version 1")
        rows = [[float(content[c][k]) for k in ("iron", "myelin", "constant")] for c in ("qsm", "r1")]
        texts = {k: str(content.get(k, "")) for k in ("name", "citation")}
        units = {f"{k}_units": str(content[k]) for k in ("iron", "myelin")}
        (a, b, a0), (c, d, c0) = rows
        return cls((a, b, a0), (c, d, c0), float(content["field"]), **texts, **units)

    def relative_to(self, qsm: float, r1: float) -> TissueModel:
        """The same model with other constants: QSM and R1 where there is neither iron nor myelin (CSF)."""
        return replace(self, qsm=(*self.qsm[:2], qsm), r1=(*self.r1[:2], r1))

    @property
    def inverse_rows(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Coefficients of QSM and of R1, and the constant, for iron and for myelin (closed form)."""
        (a, b, a0), (c, d, c0) = self.qsm, self.r1
        determinant = a * d - b * c
        iron, myelin = (d / determinant, -b / determinant), (-c / determinant, a / determinant)
        return (*iron, -iron[0] * a0 - iron[1] * c0), (*myelin, -myelin[0] * a0 - myelin[1] * c0)

    def forward(self, iron: ArrayLike, myelin: ArrayLike) -> tuple[Float64, Float64]:
        """(QSM, R1) of iron and myelin; any shape, float64."""
        iron, myelin = np.asarray(iron, dtype=np.float64), np.asarray(myelin, dtype=np.float64)
        qsm, r1 = (row[0] * iron + row[1] * myelin + row[2] for row in (self.qsm, self.r1))
        return qsm, r1

    def inverse(self, qsm: ArrayLike, r1: ArrayLike) -> tuple[Float64, Float64]:
        """(iron, myelin) of QSM and R1 at the model's field; any shape, float64."""
        qsm, r1 = np.asarray(qsm, dtype=np.float64), np.asarray(r1, dtype=np.float64)
        iron, myelin = (row[0] * qsm + row[1] * r1 + row[2] for row in self.inverse_rows)
        return iron, myelin

    def inverse_variance(self, qsm: ArrayLike, r1: ArrayLike) -> tuple[Float64, Float64]:
        """Variances of iron and of myelin, from independent ones of QSM and of R1 at the model's field."""
        qsm, r1 = np.asarray(qsm, dtype=np.float64), np.asarray(r1, dtype=np.float64)
        iron, myelin = (row[0] ** 2 * qsm + row[1] ** 2 * r1 for row in self.inverse_rows)
        return iron, myelin


# -- whole maps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inversion:
    """From QSM and R1 at the scanner's field to iron and myelin.

    Parameters
    ----------
    model : TissueModel
    conversion : FieldConversion, optional
        By default R1 is at the model's field already.
    """

    model: TissueModel
    conversion: FieldConversion | None = None

    @property
    def coefficients(self) -> Float64:
        """(11,) What the loops need: pieces of the conversion, rows of the inverse."""
        pieces = self.conversion.pieces if self.conversion else (0.0, 1.0, 0.0, 1.0, 0.0)
        return np.array([*pieces, *self.model.inverse_rows[0], *self.model.inverse_rows[1]])

    def invert(
        self,
        qsm: MapBatch,
        r1: MapBatch,
        reference: tuple[float, float] = (0.0, 0.0),
        jacobian: MapBatch = None,
        device: Device | None = None,
    ) -> MapBatch:
        """Iron and myelin of every voxel, less a reference.

        Parameters
        ----------
        qsm, r1 : (V,) float32
            ppm and 1/s, on the device if there is one. A voxel is background where R1 is not positive or
            one of them is not finite.
        reference : (float, float)
            Iron and myelin to subtract.
        jacobian : (V,) float32, optional
            Determinants of the template → subject map.
        device : Device, optional

        Returns
        -------
        (2, V) float32, or (4, V) with `jacobian`, on the device if there is one
            Concentration of iron and of myelin; their content. Background is 0.
        """
        n_voxels = qsm.shape[0]
        coefficients = np.append(self.coefficients, reference)
        n_out = 2 if jacobian is None else 4
        if device is None:
            out = np.empty((n_out, n_voxels), dtype=np.float32)
            _maps(qsm, r1, qsm if jacobian is None else jacobian, coefficients, out)
            return out
        there = device.empty((n_out, n_voxels), np.float32)
        device.launch(
            "inversion_maps", blocks_for(n_voxels, 256, device), 256, qsm, r1, qsm if jacobian is None else jacobian,
            np.int32(n_out == 4), np.int64(n_voxels), device.upload(coefficients), there,
        )  # fmt: skip
        return there

    def means(
        self, qsm: MapBatch, r1: MapBatch, mask: MapBatch, device: Device | None = None
    ) -> tuple[Float64, int]:
        """Mean iron and myelin over a mask, and the number of voxels; background is left out.

        Parameters
        ----------
        qsm, r1 : (V,) float32
            On the device if there is one.
        mask : (V,) uint8
            Likewise.

        Returns
        -------
        (2,) float64
            NaN if there is no voxel.
        int
        """
        n_voxels = qsm.shape[0]
        coefficients = np.append(self.coefficients, (0.0, 0.0))
        if device is None:
            sums = _sums(qsm, r1, mask, coefficients)
        else:
            blocks = blocks_for(n_voxels, 256, device)
            out = device.empty((3, blocks), np.float64)
            device.launch(
                "inversion_sums", blocks, 256, qsm, r1, mask, np.int64(n_voxels), device.upload(coefficients), out,
                shared=3 * 8 * 256,
            )  # fmt: skip
            sums = device.download(out).sum(axis=1)
        count = int(sums[2])
        return (sums[:2] / count if count else np.full(2, np.nan)), count

    def variances(self, r1: ArrayLike, qsm_variance: ArrayLike, r1_variance: ArrayLike) -> tuple[Float64, Float64]:
        """Variances of iron and myelin, from independent variances of QSM and of R1 as measured."""
        slope = np.ones(1) if self.conversion is None else self.conversion.slope(r1)
        return self.model.inverse_variance(qsm_variance, slope**2 * np.asarray(r1_variance, dtype=np.float64))


@loop
def _maps(qsm: Float32, r1: Float32, jacobian: Float32, c: Float64, out: Float32) -> None:
    content = len(out) == 4
    for v in range(len(qsm)):
        x, y = np.float64(qsm[v]), np.float64(r1[v])
        iron, myelin = 0.0, 0.0
        inside = y > 0.0 and np.isfinite(x) and np.isfinite(y)
        if inside:
            y = c[1] * y + c[2] if y < c[0] else c[3] * y + c[4]
            iron = c[5] * x + c[6] * y + c[7] - c[11]
            myelin = c[8] * x + c[9] * y + c[10] - c[12]
        out[0, v] = iron
        out[1, v] = myelin
        if content:
            j = np.float64(jacobian[v]) if inside else 0.0
            out[2, v] = iron * j
            out[3, v] = myelin * j


@loop
def _sums(qsm: Float32, r1: Float32, mask: AnyArray, c: Float64) -> Float64:
    sums = np.zeros(3)
    for v in range(len(qsm)):
        x, y = np.float64(qsm[v]), np.float64(r1[v])
        if mask[v] and y > 0.0 and np.isfinite(x) and np.isfinite(y):
            y = c[1] * y + c[2] if y < c[0] else c[3] * y + c[4]
            sums[0] += c[5] * x + c[6] * y + c[7]
            sums[1] += c[8] * x + c[9] * y + c[10]
            sums[2] += 1.0
    return sums


def modulate(concentration: ArrayLike, jacobian: ArrayLike) -> Float32:
    """Content: concentration times the determinant J of the template → subject map.

    J > 1 where the subject's structure is larger than the template's, so that the sum of J over a label is the
    subject's volume.

    Raises
    ------
    InputError
        A determinant is not positive: the logarithm was given, or the map folds.
    """
    check_jacobian(jacobian)
    content: Float64 = np.asarray(concentration, dtype=np.float64) * np.asarray(jacobian)
    return content.astype(np.float32)


def check_jacobian(jacobian: ArrayLike, where: str = "the Jacobian determinants") -> None:
    """Refuse determinants that are not positive numbers.

    Raises
    ------
    InputError
    """
    jacobian = np.asarray(jacobian)
    finite = np.isfinite(jacobian)
    bad = int(np.count_nonzero(~(finite & (jacobian > 0))))
    if bad:
        least = float(jacobian[finite].min()) if finite.any() else float("nan")
        raise InputError(
            f"{where} are not positive numbers in {bad} of {jacobian.size} voxels (least {least:.4g}); expected "
            "determinants of the template-to-subject map, not their logarithms"
        )


def smooth(image: ArrayLike, fwhm: ArrayLike, voxel_size: ArrayLike, mask: ArrayLike | None = None) -> Float32:
    """Gaussian smoothing of an image.

    Parameters
    ----------
    image : (nx, ny, nz) array
    fwhm : float or (3,) floats
        Full width at half maximum along each axis, mm; 0 leaves an axis as it is.
    voxel_size : (3,) floats
        mm.
    mask : (nx, ny, nz) bool, optional
        Smooth within it only: (g * mf) / (g * m), and 0 outside. Without one, the image continues as 0, and its sum is
        preserved as far as the image goes.

    Returns
    -------
    (nx, ny, nz) float32

    Raises
    ------
    InputError
        A width is negative or not a number.
    """
    widths = np.broadcast_to(np.asarray(fwhm, dtype=np.float64), 3)
    if not (np.isfinite(widths) & (widths >= 0)).all():
        raise InputError(
            f"the full width at half maximum is {widths.tolist()} mm; it must be at least 0", option="--fwhm"
        )
    sigmas = widths / FWHM_PER_SIGMA / np.asarray(voxel_size, dtype=np.float64)
    values = np.asarray(image, dtype=np.float64)
    if mask is None:
        return _blurred(values, sigmas).astype(np.float32)
    inside = np.asarray(mask, dtype=bool)
    weight = _blurred(inside.astype(np.float64), sigmas)
    blurred = _blurred(np.where(inside, values, 0.0), sigmas)
    return np.divide(blurred, weight, out=np.zeros_like(blurred), where=inside).astype(np.float32)


def _blurred(values: Float64, sigmas: Float64) -> Float64:
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            values = gaussian_filter1d(values, sigma, axis=axis, mode="constant")
    return values


@dataclass(frozen=True)
class Share:
    """What a contrast owes to iron and to myelin within a label.

    Attributes
    ----------
    by_mean : (float, float)
        Of iron and of myelin, linear: ``|a·mean Fe|`` and ``|b·mean My|`` over their sum.
    by_variance : (float, float)
        Squared: a²·Var(Fe) and b²·Var(My) over their sum, the variances those over the voxels.
    """

    by_mean: tuple[float, float]
    by_variance: tuple[float, float]

    @classmethod
    def of(cls, row: Sequence[float], means: Sequence[float], variances: Sequence[float]) -> Share:
        """Shares in the contrast with these coefficients of iron and of myelin.

        Parameters
        ----------
        row : sequence of float
            `TissueModel.qsm` or `TissueModel.r1`.
        means, variances : (float, float)
            Of iron and of myelin, referenced to CSF. NaN gives shares that are NaN.
        """
        coefficients = np.asarray(row[:2], dtype=np.float64)
        return cls(
            _fractions(np.abs(coefficients * np.asarray(means, dtype=np.float64))),
            _fractions(np.square(coefficients) * np.asarray(variances, dtype=np.float64)),
        )


def shares(
    iron: ArrayLike, myelin: ArrayLike, labels: ArrayLike, model: TissueModel
) -> dict[int, dict[str, Share]]:
    """Share of each contrast that is due to iron and to myelin, by label.

    Parameters
    ----------
    iron, myelin : arrays of one shape
        Referenced to CSF.
    labels : int array of the same shape
        0 is left out.
    model : TissueModel

    Returns
    -------
    dict of label to dict of {"qsm", "r1"} to Share
    """
    iron, myelin, labels = np.asarray(iron, float), np.asarray(myelin, float), np.asarray(labels)
    by_label = {}
    for label in np.unique(labels[labels != 0]):
        inside = labels == label
        parts = np.stack([iron[inside], myelin[inside]])
        by_label[int(label)] = {
            name: Share.of(row, parts.mean(axis=1).tolist(), parts.var(axis=1).tolist())
            for name, row in (("qsm", model.qsm), ("r1", model.r1))
        }
    return by_label


def _fractions(parts: Float64) -> tuple[float, float]:
    total = float(parts.sum())
    return (0.0, 0.0) if total == 0 else (float(parts[0]) / total, float(parts[1]) / total)
