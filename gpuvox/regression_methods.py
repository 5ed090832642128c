"""Regression and permutation methods: what is permuted, what is fitted, and what is done with the nuisance.

A contrast splits the model into effects of interest X and nuisance Z. R forms residuals of Z, P permutes rows and flips
signs, Y are the data. Each method fits other data to another model (Winkler et al. 2014, NeuroImage 92:381, table 2;
the shuffles act on the model, which is to shuffle the data the other way):

    ================  ===========  ===============  ==========================================
    method            data         model            degrees of freedom
    ================  ===========  ===============  ==========================================
    Freedman–Lane     RY           P[X Z]           n − rank [X Z], as for all
    Draper–Stoneman   Y            [PX Z]
    Dekker            Y            [P RX, Z]
    Manly             Y            P[X Z]
    ter Braak         residuals    P[X Z]           residuals of [X Z]; unpermuted as Freedman–Lane
    Kennedy           RY           P RX
    Still–White       RY           PX
    Huh–Jhun          QᵀY          P QᵀX            P acts on n − rank Z values, QQᵀ = R
    ================  ===========  ===============  ==========================================

Beckmann's partition has X orthogonal to Z, Guttman's takes the columns of the design that the contrast weighs as X and
all others as Z. Nuisance that is a combination of columns of X (the mean of two groups that are compared) is permuted
with them. A mean that is removed (``demean``) is nuisance, and counts as a degree of freedom. Flips of signs leave
columns without it with one: it is therefore shuffled with the rest of the model or, by Draper and Stoneman's and
Dekker's method, stays in place with the other nuisance. Without it they would find too many effects (5.9 % at a level
of 5 %, 12 subjects).

**Products.** Whatever is fitted has orthonormal rows w, so that the statistic is that of `glm`: products wᵀy with unit
residuals y. Where the whole model is permuted the rows are permuted ones, and the method is a `Glm` with other bases.
Where nuisance stays in place (Draper–Stoneman, Dekker) the permuted columns are residualised on it and made orthonormal
in every shuffle, in float64 (`RefittedGlm`).

**Huh and Jhun's** Q is not unique: any rotation of its columns is another one. It is the one whose columns are what
Gram–Schmidt makes of the columns of R in order, so that it does not depend on software. A row of QᵀY is no longer a
subject: exchangeability blocks have no meaning there and are refused.

References
----------
Freedman & Lane 1983 J Bus Econ Stat 1:292; Draper & Stoneman 1966 Technometrics 8:695; Dekker et al. 2007 Psychometrika
72:563; Manly 1986 Res Popul Ecol 28:201; ter Braak 1992 in Bootstrapping and related techniques, 79; Kennedy 1995 J Bus
Econ Stat 13:85; Still & White 1981 Br J Math Stat Psychol 34:243; Huh & Jhun 2001 Commun Stat Theory Methods 30:2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.device import Device, Outcomes, blocks_for, settled
from gpuvox.errors import InputError
from gpuvox.glm import DeviceModel, Glm, GlmOnDevice, Nuisance
from gpuvox.glm_loops import ZERO_RESIDUAL
from gpuvox.jit import inner, loop
from gpuvox.partitioning import (
    PartitionedDesign,
    demean_columns,
    invariant_part,
    orthonormal_basis,
    partition,
    standardised,
)
from gpuvox.reductions import DeviceItems
from gpuvox.scratch import Data, Tiles, pieces
from gpuvox.shuffle import Permutations
from gpuvox.signed_rows import DeviceShuffles, on_device
from gpuvox.types import AnyArray, Bools, DeviceArray, Float64, Int32, MapBatch, ShuffleBatch, Shuffles

LOST = 1e-10
"""A permuted column with less than this share outside the rest of the model counts as part of the rest."""


class Method(Enum):
    """What is permuted and fitted; the values are PALM's names."""

    FREEDMAN_LANE = "Freedman-Lane"
    DRAPER_STONEMAN = "Draper-Stoneman"
    DEKKER = "Dekker"
    MANLY = "Manly"
    TER_BRAAK = "terBraak"
    KENNEDY = "Kennedy"
    STILL_WHITE = "Still-White"
    HUH_JHUN = "Huh-Jhun"


class Partitioning(Enum):
    """How a contrast splits the design into effects of interest and nuisance."""

    BECKMANN = "Beckmann"
    GUTTMAN = "Guttman"


@dataclass(frozen=True, eq=False)
class _Fit:
    """What a method fits: bases of the model, of what is taken from the data, and of what stays in place."""

    effect: Float64
    nuisance: Float64
    removed: Float64
    kept: Float64


@dataclass(frozen=True, eq=False)
class Parts:
    """A design split by a contrast.

    Attributes
    ----------
    whole : PartitionedDesign
        Effect residualised on all nuisance; all nuisance, including what is made of columns of X.
    X_effect : (n, r) float64
        The contrast's combinations of the columns of X.
    X_rest : (n, k) float64
        The other combinations of the columns of X.
    Z : (n, q) float64
        Orthonormal basis of the nuisance.
    """

    whole: PartitionedDesign
    X_effect: Float64
    X_rest: Float64
    Z: Float64


def split(design: Float64, contrast: Float64, whole: PartitionedDesign, how: Partitioning) -> Parts:
    """X and Z of a design, in the coordinates of the contrast.

    Parameters
    ----------
    design : (n, p) float64
        Demeaned, if the model is.
    contrast : (rows, p) float64
    whole : PartitionedDesign
        Of `partitioning.partition`.
    how : Partitioning
    """
    if how is Partitioning.BECKMANN:
        return Parts(whole, whole.effect, whole.effect[:, :0], whole.nuisance)
    M, scale = standardised(design)
    C = contrast / scale
    C = C / np.linalg.norm(C, axis=1, keepdims=True)
    weighed = C.any(axis=0)
    X, C = M[:, weighed], C[:, weighed]
    _, s, vt = np.linalg.svd(C)
    rest = vt[int((s > 1e-10 * s[0]).sum()) :].T
    return Parts(whole, X @ np.linalg.pinv(C), X @ rest, orthonormal_basis(M[:, ~weighed]))


def _residuals(basis: Float64, columns: Float64) -> Float64:
    """Columns less their projections on an orthonormal basis, which are taken twice."""
    for _ in range(2):
        columns = columns - basis @ (basis.T @ columns)
    return columns


def _ordered(effect: Float64, rest: Float64, is_f: bool) -> tuple[Float64, Float64]:
    """Orthonormal bases of the rest, and of the effect residualised on it; for t its sign is kept."""
    size = float(max(np.linalg.norm(effect, 2), np.linalg.norm(rest, 2) if rest.size else 0.0))
    basis = orthonormal_basis(rest, size) if rest.size else rest[:, :0]
    residualised = _residuals(basis, effect)
    if is_f:
        return orthonormal_basis(residualised, size), basis
    norm = np.linalg.norm(residualised)
    return (residualised / norm if norm > LOST * size else residualised[:, :0]), basis


def residual_rotation(nuisance: Float64) -> Float64:
    """Q (n, n − q) of Huh and Jhun: QᵀQ is the identity, QQᵀ forms residuals of the nuisance (n, q; orthonormal)."""
    n, q = nuisance.shape
    R = np.eye(n) - nuisance @ nuisance.T
    Q = np.zeros((n, n - q))
    found = 0
    for i in range(n):
        column = _residuals(Q[:, :found], _residuals(nuisance, R[:, i]))
        norm = np.linalg.norm(column)
        if found < n - q and norm > 1e-7:
            Q[:, found] = column / norm
            found += 1
    return Q[:, :found]


@dataclass(frozen=True, eq=False)
class RegressionTest:
    """One contrast of a design, and how it is tested.

    Parameters
    ----------
    design : (n, p) array_like
    contrast : (p,) or (rows, p) array_like
        A t contrast, or the stacked t contrasts of an F.
    method : Method
    partitioning : Partitioning
    is_f : bool
        F, or R²; otherwise `contrast` must have one row.
    demean : bool
        Remove the mean of data and design.
    count_mean : bool
        Whether the mean that `demean` removes takes a degree of freedom, as it does, and is nuisance of models whose
        signs are flipped. False: as PALM has it.

    Raises
    ------
    DesignError
        The contrast is zero, has the wrong length or is not estimable; no residual degrees of freedom.

    Examples
    --------
    ::

        test = RegressionTest(design, contrast, Method.DEKKER, Partitioning.GUTTMAN)
        shuffler = Shuffler(test.regressors, test.exchangeable(Permutations(5000)))
        model = test.model(data, shuffler.invariant)       # t; `normal_scores.ZScale(model)` for z
    """

    design: ArrayLike
    contrast: ArrayLike
    method: Method = Method.FREEDMAN_LANE
    partitioning: Partitioning = Partitioning.BECKMANN
    is_f: bool = False
    demean: bool = False
    count_mean: bool = True

    def __post_init__(self) -> None:
        _ = self.parts  # raises errors now

    @cached_property
    def _matrices(self) -> tuple[Float64, Float64]:
        M = np.asarray(self.design, dtype=np.float64)
        C = np.atleast_2d(np.asarray(self.contrast, dtype=np.float64))
        return (demean_columns(M) if self.demean else M), C

    @cached_property
    def parts(self) -> Parts:
        """The design split by the contrast."""
        whole = partition(self.design, self.contrast, demean=self.demean, is_f=self.is_f)
        return split(*self._matrices, whole, self.partitioning)

    @property
    def df(self) -> int:
        """Residual degrees of freedom of the whole model."""
        return self.parts.whole.df + (1 if self.demean and not self.count_mean else 0)

    @property
    def n_rows(self) -> int:
        """Number of rows that shuffles act on: n, or n − rank Z for Huh and Jhun's method."""
        return self.parts.whole.n_rows if self.method is not Method.HUH_JHUN else self.rotation.shape[1]

    @cached_property
    def rotation(self) -> Float64:
        """(n, n − q) Q of Huh and Jhun's method."""
        removed = self.parts.Z
        if self.demean:
            removed = orthonormal_basis(np.hstack([np.ones((len(removed), 1)), removed]))
        return residual_rotation(removed)

    @property
    def regressors(self) -> Float64:
        """(n_rows, k) Rows that are equal in these are interchangeable: shuffles that exchange them are the same."""
        M, C = self._matrices
        weighed = M[:, C.any(axis=0)]
        return weighed if self.method is not Method.HUH_JHUN else self.rotation.T @ weighed

    def exchangeable(self, options: Permutations) -> Permutations:
        """Options of a run that suit the method.

        Raises
        ------
        InputError
            Exchangeability blocks with Huh and Jhun's method.
        """
        if self.method is Method.HUH_JHUN and options.blocks is not None:
            raise InputError(
                "Huh and Jhun's method permutes rotated residuals, which belong to no subject: exchangeability blocks "
                "cannot be kept; use another method or no blocks"
            )
        return options

    def model(
        self, data: Data, invariant: Float64, *, device: Device | None = None, scratch: str = ""
    ) -> Glm | TerBraak:
        """Maps of t or F.

        Parameters
        ----------
        data : (n, V) float32, array or `scratch.Tiles`
        invariant : (n_rows, k) float64
            Orthonormal basis of the vectors that no shuffle moves (`Shuffler.invariant`).
        device : Device, optional
            Where maps are computed and kept; the CPU by default.
        scratch : str
            Folder for residuals; "" keeps them in memory.
        """
        if self.method is Method.HUH_JHUN:
            data = rotated(data, self.rotation, scratch)
        elif self.method is Method.TER_BRAAK:
            fits = self._fit(invariant, Method.FREEDMAN_LANE), self._fit(invariant, Method.TER_BRAAK)
            return TerBraak(*(self._glm(data, invariant, fit, device, scratch) for fit in fits))
        return self._glm(data, invariant, self._fit(invariant, self.method), device, scratch)

    def _glm(self, data: Data, invariant: Float64, fit: _Fit, device: Device | None, scratch: str) -> Glm:
        design = PartitionedDesign(fit.effect, fit.nuisance, self.df, is_f=self.is_f)
        how = Nuisance.FREEDMAN_LANE, None, device, scratch, np.ascontiguousarray(fit.removed)
        if fit.kept.shape[1]:
            return RefittedGlm(data, design, invariant, *how, np.ascontiguousarray(fit.kept))
        return Glm(data, design, invariant, *how)

    def _fit(self, invariant: Float64, method: Method) -> _Fit:
        """What a method fits."""
        whole, Z, none = self.parts.whole, self.parts.Z, self.parts.Z[:, :0]
        effect, rest = self.parts.X_effect, self.parts.X_rest
        if method is Method.HUH_JHUN:
            empty = np.zeros((self.n_rows, 0))
            return _Fit(*_ordered(self.rotation.T @ effect, self.rotation.T @ rest, self.is_f), empty, empty)
        mean = np.full((whole.n_rows, int(self.demean)), whole.n_rows**-0.5)
        is_moved = np.linalg.norm(mean - invariant @ (invariant.T @ mean)) > LOST
        lasting = mean if self.count_mean and is_moved else none  # flips leave shuffled columns with a mean
        if method in (Method.FREEDMAN_LANE, Method.MANLY, Method.TER_BRAAK):
            removed, removable = {
                Method.FREEDMAN_LANE: (Z, Z),
                Method.MANLY: (none, whole.nuisance),
                Method.TER_BRAAK: (np.hstack([whole.effect, whole.nuisance]), whole.nuisance),
            }[method]
            fixed, moving = invariant_part(removable, invariant)
            if removable is not whole.nuisance:
                moving = orthonormal_basis(_residuals(fixed, whole.nuisance), 1.0)
            taken = fixed if method is Method.MANLY else removed
            return _Fit(whole.effect, np.hstack([lasting, moving]), np.hstack([mean, taken]), none)
        if method in (Method.DEKKER, Method.KENNEDY):
            effect, rest = _residuals(Z, effect), _residuals(Z, rest)
        removed = np.hstack([mean, Z])
        if method in (Method.DRAPER_STONEMAN, Method.DEKKER):
            return _Fit(*_ordered(effect, rest, self.is_f), removed, np.hstack([lasting, Z]))
        return _Fit(*_ordered(effect, np.hstack([lasting, rest]), self.is_f), removed, none)


def rotated(data: Data, rotation: Float64, scratch: str = "") -> Data:
    """(n − q, V) float32 QᵀY; 0 where nothing but rounding is left, and where the data are one number.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    rotation : (n, n − q) float64
    scratch : str
        Folder for the result; "" keeps it in memory.
    """
    rows, n_voxels = rotation.shape[1], data.shape[1]
    out = Tiles(rows, n_voxels, scratch)
    width = out.values.shape[2]
    for start, values in pieces(data):
        made = rotation.T @ values.astype(np.float64)
        norm = np.sqrt((values.astype(np.float64) ** 2).sum(axis=0))
        none = (np.linalg.norm(made, axis=0) <= ZERO_RESIDUAL * norm) | (np.ptp(values, axis=0) == 0)
        made = np.where(none, 0, made).astype(np.float32)
        for first in range(0, values.shape[1], width):
            part = made[:, first : first + width]
            out.values[(start + first) // width, :, : part.shape[1]] = part
            out.values[(start + first) // width, :, part.shape[1] :] = 0
    return out


# -- nuisance that stays in place -----------------------------------------------------------------------------------


@inner
def _project_out(column: Float64, other: Float64) -> None:
    """Column less its projection on a unit vector."""
    coefficient = 0.0
    for i in range(len(column)):
        coefficient += other[i] * column[i]
    for i in range(len(column)):
        column[i] -= other[i] * coefficient


@inner
def _scale(column: Float64) -> None:
    """Column to unit norm; to 0 if only rounding is left."""
    norm = 0.0
    for i in range(len(column)):
        norm += column[i] * column[i]
    norm = np.sqrt(norm)
    scale = 1.0 / norm if norm > LOST else 0.0
    for i in range(len(column)):
        column[i] *= scale


@loop
def _refit_rows(columns: Float64, kept: Float64, rank: int, shuffles: Int32, out: Float64) -> None:
    """out (B, m, n): permuted columns, residualised on `kept` and made orthonormal: the rest, then the effect.

    columns (n, m): effect (rank), rest. A column that lies in the span of those before it becomes 0.
    """
    n, m = columns.shape
    for b in range(len(shuffles)):
        for step in range(m):
            c = (rank + step) % m
            for i in range(n):
                s = shuffles[b, i]
                out[b, c, i] = columns[s, c] if s >= 0 else -columns[~s, c]
            for _ in range(2):
                for a in range(kept.shape[1]):
                    _project_out(out[b, c], kept[:, a])
                for before in range(step):
                    _project_out(out[b, c], out[b, (rank + before) % m])
            _scale(out[b, c])


@dataclass(frozen=True, eq=False)
class RefittedGlm(Glm):
    """A `Glm` some of whose nuisance stays in place while the rest of the model is permuted.

    Parameters
    ----------
    kept : (n, k) float64
        Orthonormal basis of the nuisance that stays; its span must be part of that of `removed`.
    """

    kept: Float64 = field(default_factory=lambda: np.zeros((0, 0)))

    @cached_property
    def _columns(self) -> Float64:
        """(n, m) Effect and nuisance that moves."""
        return np.ascontiguousarray(np.hstack([self.model.effect, self._moving]))

    def _rows(self, shuffles: Shuffles) -> Float64:
        """(B, m, n) Rows of each shuffle: orthonormal, and orthogonal to what stays."""
        out = np.empty((len(shuffles), *self._columns.shape[::-1]))
        held = np.ascontiguousarray(shuffles, dtype=np.int32)
        _refit_rows(self._columns, self.kept, self.model.rank_effect, held, out)
        return out

    def equivalent(self, shuffles: Shuffles) -> Bools:
        """(B,) Shuffles under which any data have the unpermuted statistic, up to the sign of t."""
        r, q = self.model.rank_effect, self._moving.shape[1]
        rows, unpermuted = self._rows(shuffles), self._rows(np.arange(self.model.n_rows, dtype=np.int32)[None])[0]
        effect = ((rows[:, :r] @ unpermuted[:r].T) ** 2).sum(axis=(1, 2))
        rest = ((rows[:, r:] @ unpermuted[r:].T) ** 2).sum(axis=(1, 2))
        whole: Bools = (effect > r - LOST) & (rest > q - LOST)
        return whole

    @cached_property
    def _on_device(self) -> GlmOnDevice:
        return _RefittedOnDevice(self, self._own_device)


class _RefittedOnDevice(GlmOnDevice):
    """Maps of a `RefittedGlm` on a device: the rows of all shuffles are made there, as if they were one long basis."""

    glm: RefittedGlm

    def __init__(self, glm: RefittedGlm, device: Device) -> None:
        super().__init__(glm, device)
        self.n, self.m = glm._columns.shape
        self.identity = np.arange(self.n, dtype=np.int32)
        self.places: dict[int, Int32] = {}  # by number of shuffles; kept, because a device keeps them by identity
        self.made: tuple[DeviceArray, DeviceArray] | None = None  # shuffles and their rows

    def _orthonormal(self, shuffles: DeviceShuffles) -> DeviceArray:
        """(B + 1, n, m) Rows, those of the unpermuted model first."""
        array = shuffles.array
        if self.made is None or self.made[0] is not array:
            glm, device = self.glm, self.device
            rows = device.empty((len(shuffles) + 1, self.n, self.m), np.float64)
            device.launch(
                "regression_rows", blocks_for(len(shuffles) + 1, 32, device), 32, device.keep(glm._columns),
                device.keep(glm.kept), array, device.keep(self.identity), np.int32(self.n), np.int32(len(shuffles)),
                np.int32(self.m), np.int32(glm.kept.shape[1]), np.int32(glm.model.rank_effect), rows,
            )  # fmt: skip
            self.made = array, rows
        return self.made[1]

    def permuted(self, shuffles: DeviceShuffles) -> tuple[DeviceArray, DeviceArray]:
        """See `GlmOnDevice.permuted`."""
        rows = np.arange(self.n, (len(shuffles) + 1) * self.n, dtype=np.int32).reshape(-1, self.n)
        places = self.places.setdefault(len(shuffles), rows)
        return self._orthonormal(shuffles), self.device.keep(places)

    def equivalent(self, shuffles: DeviceShuffles) -> DeviceArray:
        """(B,) int32 1 where `RefittedGlm.equivalent` is true; on the device."""
        device, whole = self.device, self.device.empty(len(shuffles), np.int32)
        rank = self.glm.model.rank_effect
        device.launch(
            "regression_equivalent", blocks_for(len(shuffles), 128, device), 128, self._orthonormal(shuffles),
            np.int32(self.n), np.int32(len(shuffles)), np.int32(rank), np.int32(self.m - rank), whole,
        )  # fmt: skip
        return whole


# -- ter Braak ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TerBraak(DeviceModel):
    """ter Braak's method: residuals of the whole model are permuted, and the unpermuted map is that of the data.

    Parameters
    ----------
    data : Glm, or a model with its interface
        Of the data, as Freedman and Lane's method has it: for shuffles that leave all rows in place.
    residuals : the same
        Of the residuals of the whole model: for all other shuffles.
    """

    data: Any
    residuals: Any

    @property
    def device(self) -> Device | None:  # type: ignore[override]
        """Where maps are made; None is the CPU."""
        where: Device | None = self.data.device
        return where

    @property
    def smoother(self) -> None:  # type: ignore[override]
        """None: variances are not smoothed."""
        return

    @property
    def n_voxels(self) -> int:
        """Number of voxels."""
        return int(self.data.n_voxels)

    @property
    def df(self) -> int:
        """Residual degrees of freedom."""
        return int(self.data.df)

    @property
    def n_rows(self) -> int:
        """Number of subjects."""
        return int(self.data.n_rows)

    @property
    def dfs(self) -> tuple[AnyArray | int, AnyArray | int]:
        """Rank of the effect, and residual degrees of freedom; (V,) arrays if they depend on the voxel."""
        both: tuple[AnyArray | int, AnyArray | int] = self.data.dfs
        return both

    @property
    def f_dfs(self) -> tuple[int, int] | None:
        """Numerator and denominator degrees of freedom of an F; None for t."""
        both: tuple[int, int] | None = self.data.f_dfs
        return both

    @property
    def streamed(self) -> bool:
        """Whether every batch reads from a file."""
        return bool(self.data.streamed)

    def to_z(self, statistic: MapBatch) -> MapBatch:
        """The z equivalent of F maps, where they are."""
        z: MapBatch = self.data.to_z(statistic)
        return z

    def on(self, device: Device | None) -> TerBraak:
        """The same model on another device."""
        return TerBraak(self.data.on(device), self.residuals.on(device))

    def release(self) -> None:
        """Release the memory that the model takes on its device."""
        self.data.release()
        self.residuals.release()

    def equivalent(self, shuffles: Shuffles) -> Bools:
        """(B,) Shuffles that leave all rows in place."""
        still: Bools = (shuffles == np.arange(shuffles.shape[1])).all(axis=1)
        return still

    def statistic_maps(self, shuffles: ShuffleBatch, outcomes: Outcomes | None = None) -> MapBatch:
        """Statistic maps, see `glm.Glm.statistic_maps`."""
        if outcomes is None:
            return settled(self.device, lambda outcomes: self._maps(shuffles, outcomes))
        return self._maps(shuffles, outcomes)

    def _maps(self, shuffles: ShuffleBatch, outcomes: Outcomes) -> MapBatch:
        maps: MapBatch = self.residuals.statistic_maps(shuffles, outcomes)
        if self.device is None:
            self.settle(shuffles, maps, self.equivalent(shuffles), outcomes)
            return maps
        device, held = self.device, on_device(shuffles, self.device)
        still = device.empty(len(held), np.int32)
        device.launch(
            "regression_moves_nothing", blocks_for(len(held), 128, device), 128, held.array,
            np.int32(held.array.shape[1]), np.int32(len(held)), still,
        )  # fmt: skip
        self.settle(held, maps, still, outcomes)
        return maps

    def exact_map(self, shuffle: Shuffles) -> Float64:
        """(V,) Statistic map of one shuffle in float64, on the host."""
        model = self.data if self.equivalent(shuffle[None])[0] else self.residuals
        values: Float64 = model.exact_map(shuffle)
        return values

    def exact(self, shuffles: Shuffles, number: AnyArray, voxels: AnyArray) -> Float64:
        """(m,) Statistic in float64 for pairs of a shuffle and a voxel, on the host."""
        still = self.equivalent(shuffles)[number]
        out = np.empty(len(number))
        for chosen, model in ((still, self.data), (~still, self.residuals)):
            if chosen.any():
                out[chosen] = model.exact(shuffles, number[chosen], voxels[chosen])
        return out

    def exact_on(self, shuffles: ShuffleBatch, items: DeviceItems) -> DeviceArray:
        """(room,) float64 The same for a list on the device."""
        device = self._own_device
        n_items = min(int(device.download(items.count)[0]), items.room)
        out = np.zeros(items.room)
        if n_items:
            number, voxels = (device.download(values)[:n_items] for values in (items.map, items.voxel))
            out[:n_items] = self.exact(on_device(shuffles, device).on_host(), number, voxels)
        return device.upload(out)
