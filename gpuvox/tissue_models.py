"""Iron and myelin from two or more contrasts that are linear in both, by weighted least squares, and how sure they are.

A contrast j has y_j = a_j·Fe + b_j·My + c_j with noise of standard deviation σ_j. With A the rows (a_j, b_j) and
W = diag(1/σ²), (Fe, My) = G (y − c), G = (AᵀWA)⁻¹AᵀW (Aitken 1936, Proc R Soc Edinb 55:42–48). Two contrasts are solved
exactly, whatever their weights; then G = A⁻¹.

* Noise: the variances of iron and myelin are those of G diag(σ²) Gᵀ.
* Coefficients: to first order an error δA changes the solution by −G·δA·(Fe, My), if the contrasts fit so that
  A·(Fe, My) is the measurement; with residuals there is a further term, which is left out. With covariances V_j of
  (a_j, b_j), independent between contrasts, the variance is Σ_j G_ij² (Fe, My) V_j (Fe, My)ᵀ. Fe and My are relative to
  cerebrospinal fluid, in which the constants and their errors cancel. These errors are the same in all voxels and
  participants.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import InputError
from gpuvox.qmri import FieldConversion, TissueModel, read_model
from gpuvox.types import Bools, Float32, Float64

UNITS = {"qsm": "ppm", "r1": "1/s"}
"""Units of these contrasts in all models."""
NOT_NAMES = ("csf", "jacobian", "participant_id", "iron", "myelin")
"""Columns of the table, and maps, whose names contrasts cannot have."""


@dataclass(frozen=True)
class Contrast:
    """A contrast that is linear in iron and myelin.

    Parameters
    ----------
    name : str
        The column of the table with its images: ``qsm``, ``r1``, ``r2star``.
    iron, myelin, constant : float
        Coefficients, in `units` per unit of iron or of myelin; the value without either.
    units : str
    noise : float
        SD of the noise of a voxel, in `units`; 0 if it is not known.
    iron_error, myelin_error : float
        Standard errors of the coefficients; 0 if they are not known.
    error_correlation : float
        Correlation of the two errors.
    field : float, optional
        Tesla at which the coefficients hold, if the contrast depends on the field.
    """

    name: str
    iron: float
    myelin: float
    constant: float
    units: str
    noise: float = 0.0
    iron_error: float = 0.0
    myelin_error: float = 0.0
    error_correlation: float = 0.0
    field: float | None = None

    def __post_init__(self) -> None:
        numbers = (self.iron, self.myelin, self.constant, self.noise, self.iron_error, self.myelin_error)
        if not np.isfinite(numbers).all() or min(numbers[3:]) < 0 or abs(self.error_correlation) > 1:
            raise InputError(
                f"the contrast {self.name!r} has a coefficient that is not a number, a negative noise or error, or a "
                "correlation beyond 1"
            )

    @property
    def covariance(self) -> Float64:
        """(2, 2) Covariance of the coefficients of iron and of myelin."""
        product = self.error_correlation * self.iron_error * self.myelin_error
        return np.array([[self.iron_error**2, product], [product, self.myelin_error**2]])


@dataclass(frozen=True)
class LinearModel:
    """Contrasts, and iron and myelin from them.

    Parameters
    ----------
    contrasts : tuple of Contrast
        Two or more; of more than two, the noise of each must be known, because it is the weight.
    name, citation : str
    iron_units, myelin_units : str

    Raises
    ------
    InputError
        There are fewer than two contrasts, they do not tell iron from myelin, or a noise is missing.
    """

    contrasts: tuple[Contrast, ...]
    name: str = ""
    citation: str = ""
    iron_units: str = "mg/kg"
    myelin_units: str = "1"

    def __post_init__(self) -> None:
        if len(self.contrasts) < 2:
            raise InputError(f"the model {self.name!r} has {len(self.contrasts)} contrast; two or more are needed")
        without = [each.name for each in self.contrasts if not each.noise]
        if len(self.contrasts) > 2 and without:
            raise InputError(
                f"the model {self.name!r} has no noise of {without[0]}; with more than two contrasts their noise is "
                "their weight"
            )
        scaled = self.design / self.sds[:, None]
        norms = np.linalg.norm(scaled, axis=0)
        if not norms.all() or np.linalg.svd(scaled / norms, compute_uv=False)[-1] < 1e-6:
            raise InputError(f"the model {self.name!r} is singular: it cannot tell iron from myelin")

    @classmethod
    def of(cls, model: TissueModel) -> LinearModel:
        """QSM and R1 as contrasts."""
        qsm = Contrast("qsm", *model.qsm, units=UNITS["qsm"])
        r1 = Contrast("r1", *model.r1, units=UNITS["r1"], field=model.field)
        return cls((qsm, r1), model.name, model.citation, model.iron_units, model.myelin_units)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LinearModel:
        """Read a model from a TOML file of version 1 (QSM and R1) or 2 (any contrasts).

        docs/ironmyelin.md has an example.

        Raises
        ------
        FileError
            The file is not such a model.
        """
        return read_model(path, cls._of_toml)

    @classmethod
    def _of_toml(cls, content: Mapping[str, Any]) -> LinearModel:
        if content.get("version") != 2:
            return cls.of(TissueModel.of_toml(content))
        known = {"version", "name", "citation", "iron", "myelin", "contrasts"}
        unknown = sorted(set(content) - known)
        if unknown:
            raise InputError(f"the key {unknown[0]!r} is unknown; there are {', '.join(sorted(known))}")
        if not str(content["citation"]).strip():
            raise InputError("the citation is empty; it says where the coefficients come from")
        contrasts = tuple(_contrast(name, keys) for name, keys in content["contrasts"].items())
        return cls(
            contrasts, str(content["name"]), str(content["citation"]), str(content["iron"]), str(content["myelin"])
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the contrasts."""
        return tuple(each.name for each in self.contrasts)

    @property
    def field(self) -> float | None:
        """Tesla, of R1; None if it is not among the contrasts or does not say."""
        return next((each.field for each in self.contrasts if each.name == "r1"), None)

    @property
    def is_qsm_and_r1(self) -> bool:
        """Whether it is of the two contrasts that `qmri.TissueModel` has."""
        return self.names == ("qsm", "r1") and self.field is not None

    @property
    def tissue_model(self) -> TissueModel:
        """The same model of QSM and R1; see `is_qsm_and_r1`."""
        qsm, r1 = ((each.iron, each.myelin, each.constant) for each in self.contrasts)
        assert self.field is not None
        return TissueModel(qsm, r1, self.field, self.name, self.citation, self.iron_units, self.myelin_units)

    @property
    def design(self) -> Float64:
        """(k, 2) Coefficients of iron and of myelin."""
        return np.array([[each.iron, each.myelin] for each in self.contrasts])

    @property
    def has_errors(self) -> bool:
        """Whether it has standard errors of its own."""
        return any(each.covariance.any() for each in self.contrasts)

    @property
    def sds(self) -> Float64:
        """(k,) Noise, the inverse root of the weights; 1 where it does not matter."""
        noise = np.array([each.noise for each in self.contrasts])
        return noise if noise.all() else np.ones(len(noise))

    @cached_property
    def gain(self) -> Float64:
        """(2, k) What turns contrasts less their constants into iron and myelin."""
        return self.gains(self.design)

    def gains(self, designs: Float64) -> Float64:
        """(…, 2, k) What does so under other coefficients (…, k, 2), with the same noise."""
        scaled = designs / self.sds[:, None]
        # Columns of equal length: iron and myelin differ by three orders of magnitude.
        norms = np.linalg.norm(scaled, axis=-2, keepdims=True)
        return np.asarray(np.linalg.pinv(scaled / norms) / np.swapaxes(norms, -1, -2) / self.sds)

    def solve(self, values: Sequence[NDArray[Any]]) -> Float64:
        """(2, …) Iron and myelin of contrasts of any shape, float64."""
        constants = [each.constant for each in self.contrasts]
        above = np.stack([np.asarray(y, dtype=np.float64) - c for y, c in zip(values, constants)])
        return np.tensordot(self.gain, above, axes=1)

    def noise_variance(self, noise: Sequence[Any]) -> Float64:
        """(2, …) Variances of iron and of myelin, from independent noise of the contrasts (SD, of any shape)."""
        sds = np.stack(np.broadcast_arrays(*(np.asarray(sd, dtype=np.float64) for sd in noise)))
        return np.tensordot(self.gain**2, sds**2, axes=1)

    def coefficient_variance(self, tissue: Float64, covariances: Sequence[Float64] | None = None) -> Float64:
        """(2, …) Variances of iron and of myelin from the errors of the coefficients.

        Parameters
        ----------
        tissue : (2, …) float64
            Iron and myelin relative to CSF.
        covariances : sequence of (2, 2) float64, optional
            Of each contrast's coefficients; by default those of the model.
        """
        of = [each.covariance for each in self.contrasts] if covariances is None else covariances
        spread = np.stack([np.einsum("i...,ij,j...->...", tissue, V, tissue) for V in of])
        return np.tensordot(self.gain**2, spread, axes=1)

    def relative_errors(self, share: float) -> list[Float64]:
        """Covariances of coefficients with independent standard errors that are a share of each."""
        return [np.diag([(share * each.iron) ** 2, (share * each.myelin) ** 2]) for each in self.contrasts]


def _contrast(name: str, keys: Mapping[str, Any]) -> Contrast:
    """A contrast of a file."""
    known = {
        "iron", "myelin", "constant", "units", "noise", "iron_error", "myelin_error", "error_correlation", "field",
    }  # fmt: skip
    unknown = sorted(set(keys) - known)
    if unknown:
        raise InputError(
            f"the key {unknown[0]!r} of the contrast {name} is unknown; there are {', '.join(sorted(known))}"
        )
    if not name.isidentifier() or name in NOT_NAMES:
        raise InputError(f"{name!r} cannot name a contrast, which is a column of the table; a word is expected")
    units = str(keys["units"])
    if UNITS.get(name, units) != units:
        raise InputError(f"the contrast {name} is in {units!r}; in models it is in {UNITS[name]!r}")
    if name == "r1" and "field" not in keys:
        raise InputError("the contrast r1 has no field, the tesla at which its coefficients hold")
    for each in ("iron", "myelin", "constant"):
        _ = keys[each]
    numbers: dict[str, Any] = {each: float(value) for each, value in keys.items() if each != "units"}
    return Contrast(name=name, units=units, **numbers)


@dataclass(frozen=True)
class LeastSquares:
    """Iron and myelin of whole maps by a `LinearModel`; the counterpart of `qmri.Inversion`.

    Parameters
    ----------
    model : LinearModel
    conversion : FieldConversion, optional
        Of R1, if it is among the contrasts, to the field of the model.
    """

    model: LinearModel
    conversion: FieldConversion | None = None

    def solve(self, contrasts: Mapping[str, Float32], inside: Bools) -> Float64:
        """(2, V) Iron and myelin of every voxel; 0 outside."""
        values: list[NDArray[Any]] = [contrasts[name][inside] for name in self.model.names]
        at = {name: i for i, name in enumerate(self.model.names)}
        if self.conversion is not None and "r1" in at:
            values[at["r1"]] = self.conversion(values[at["r1"]])
        out = np.zeros((2, inside.size))
        out[:, inside] = self.model.solve(values)
        return out

    def means(self, contrasts: Mapping[str, Float32], inside: Bools) -> tuple[Float64, int]:
        """Mean iron and myelin over voxels, and their number; NaN if there is none."""
        n = int(np.count_nonzero(inside))
        return (self.solve(contrasts, inside)[:, inside].mean(axis=1) if n else np.full(2, math.nan)), n
