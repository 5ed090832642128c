"""The model of one test: a design and a contrast, split into effect of interest and nuisance.

For a design M (n × p) and a contrast C (one row for t; the stacked rows of an F) the partitioned model is
``X = M·pinv(C)`` for the effect and ``Z = M − M·Cᵀ·pinv(Cᵀ)`` for the nuisance (Winkler et al. 2014,
NeuroImage 92:381, appendix A; this is the partition that FSL randomise uses). Everything that a permutation
needs of it are two orthonormal bases: of the effect residualised on the nuisance, and of the nuisance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.errors import DesignError
from gpuvox.types import AnyArray, Bools, Float64

RANK_TOLERANCE = 1e-10
"""Singular values under this share of the largest count as zero."""
CONSTANT = 1e-14
"""Numbers that differ by less than this share of the largest are one number."""


def orthonormal_basis(matrix: Float64, scale: float | None = None) -> Float64:
    """Orthonormal basis of the column space.

    Parameters
    ----------
    matrix : (n, p) float64
        Columns that span the space.
    scale : float, optional
        Singular values under ``RANK_TOLERANCE * scale`` are dropped; the largest one by default.

    Returns
    -------
    (n, rank) float64
    """
    if not matrix.size:
        return np.zeros((matrix.shape[0], 0))
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    largest = s[0] if scale is None else scale
    return u[:, s > RANK_TOLERANCE * largest] if largest > 0 else u[:, :0]


def demean_columns(design: Float64) -> Float64:
    """Columns less their means; what rounding leaves of a constant is 0. Of one design, or of a stack (…, n, p)."""
    centred = design - design.mean(axis=-2, keepdims=True)
    constant = np.ptp(design, axis=-2) <= CONSTANT * np.abs(design).max(axis=-2, initial=0.0)
    return np.where(constant[..., None, :], 0.0, centred)


def standardised(design: Float64) -> tuple[Float64, Float64]:
    """Columns scaled to a largest absolute entry of 1, and the scales (1 for an empty column).

    A covariate in units that make it 1e6 times larger than its neighbours must not decide what counts as
    zero. Of a stack of designs, (…, n, p), the scales are (…, p).
    """
    scale = np.abs(design).max(axis=-2, initial=0.0)
    scale = np.where(scale > 0, scale, 1.0)
    return design / scale[..., None, :], scale


def pseudoinverses(designs: Float64) -> tuple[Float64, AnyArray]:
    """Pseudoinverses (V, p, n) of a stack of designs (V, n, p), and their ranks (V,).

    Of independent columns they do not depend on the units, so the columns are brought to one scale first: the cube of
    a volume in mm³ beside a constant would have no digits left.
    """
    scaled, scale = standardised(designs)
    rank = np.linalg.matrix_rank(scaled)
    units = np.where((rank == designs.shape[2])[:, None], scale, 1.0)
    return np.linalg.pinv(designs / units[:, None, :]) / units[:, :, None], rank


@dataclass(frozen=True, eq=False)
class PartitionedDesign:
    """One test: orthonormal bases of effect and nuisance, and the degrees of freedom.

    Attributes
    ----------
    effect : (n, r) float64
        Orthonormal basis of the effect residualised on the nuisance. For t, r = 1 and the sign is that of the
        contrast.
    nuisance : (n, q) float64
        Orthonormal basis of the nuisance.
    df : int
        Residual degrees of freedom.
    demean : bool
        Whether the mean of each voxel is removed first.
    is_f : bool
        Whether the statistic is F.
    """

    effect: Float64
    nuisance: Float64
    df: int
    demean: bool = False
    is_f: bool = False

    @property
    def n_rows(self) -> int:
        """Number of rows of the design."""
        return len(self.effect)

    @property
    def rank_effect(self) -> int:
        """Rank of the effect: the numerator degrees of freedom of an F."""
        return int(self.effect.shape[1])

    @property
    def rank_nuisance(self) -> int:
        """Rank of the nuisance."""
        return int(self.nuisance.shape[1])


def split(design: Float64, contrast: Float64) -> tuple[Float64, Float64]:
    """Effect ``X = M·pinv(C)`` and nuisance ``Z = M − M·Cᵀ·pinv(Cᵀ)``.

    Returns
    -------
    X : (n, rows of C)
    Z : (n, p)
    """
    pinv = np.linalg.pinv(contrast)
    return design @ pinv, design - design @ (pinv @ contrast)


def is_estimable(design: Float64, contrast: Float64) -> bool:
    """Whether every row of the contrast lies in the row space of the design."""
    scaled, scale = standardised(design)
    rows = contrast / scale
    _, s, vt = np.linalg.svd(scaled, full_matrices=False)
    basis = vt[s > RANK_TOLERANCE * max(s[0], np.finfo(float).tiny)]
    outside = rows - (rows @ basis.T) @ basis
    return bool(np.linalg.norm(outside) <= 1e-7 * np.linalg.norm(rows))


def check_estimable(design: Float64, contrast: Float64, *, demean: bool = False) -> None:
    """Raise `DesignError` unless `is_estimable`; with `demean`, the design is one whose columns are demeaned."""
    if not is_estimable(design, contrast):
        raise DesignError(
            "the contrast is not estimable with this design"
            + (" once its columns are demeaned" if demean else "")
            + ": it asks for a combination of parameters that the design cannot tell apart"
        )


def partition(
    design: ArrayLike,
    contrast: ArrayLike,
    *,
    demean: bool = False,
    is_f: bool = False,
    check: bool = True,
) -> PartitionedDesign:
    """Partition a design for one contrast.

    Parameters
    ----------
    design : (n, p) array_like
        Design matrix M.
    contrast : (p,) or (rows, p) array_like
        t contrast, or the stacked t contrasts of an F.
    demean : bool
        Remove the mean of the design's columns (and of the data), which costs one degree of freedom.
    is_f : bool
        F statistic; otherwise `contrast` must have one row.
    check : bool
        Refuse contrasts that are not estimable and models without degrees of freedom. A design whose columns
        are replaced voxel by voxel is not checked on its placeholders.

    Returns
    -------
    PartitionedDesign

    Raises
    ------
    DesignError
        Contrast zero, of the wrong length, or not estimable; no residual degrees of freedom.

    Examples
    --------
    >>> design = np.column_stack([np.repeat([1.0, 0], 5), np.repeat([0, 1.0], 5), np.arange(10.0)])
    >>> parts = gpuvox.partition(design, [1, -1, 0])
    >>> parts.df
    7
    """
    M = np.asarray(design, dtype=np.float64)
    C = np.atleast_2d(np.asarray(contrast, dtype=np.float64))
    _check_contrast(M, C, is_f)
    if demean:
        M = demean_columns(M)
    if check:
        check_estimable(M, C, demean=demean)
    # A change of unit of a column (M → M/s, C → C/s) or of a contrast tests the same hypothesis; with columns and
    # rows of like size the numerical rank is the true one.
    M, scale = standardised(M)
    C = C / scale
    X, Z = split(M, C / np.linalg.norm(C, axis=1, keepdims=True))
    size = float(max(np.linalg.norm(X, 2), np.linalg.norm(Z, 2)))
    nuisance = orthonormal_basis(Z, size)
    residualised = X - nuisance @ (nuisance.T @ X)
    residualised -= nuisance @ (nuisance.T @ residualised)
    effect = _effect_basis(residualised, float(np.linalg.norm(X, 2)), is_f)
    df = M.shape[0] - nuisance.shape[1] - effect.shape[1] - int(demean)
    if check and df < 1:
        raise DesignError(
            f"no residual degrees of freedom: {M.shape[0]} volumes, a design of rank "
            f"{nuisance.shape[1] + effect.shape[1]}" + (" and the mean removed" if demean else "")
        )
    return PartitionedDesign(effect, nuisance, df, demean, is_f)


def _check_contrast(M: Float64, C: Float64, is_f: bool) -> None:
    if M.ndim != 2 or not M.shape[0]:
        raise DesignError(f"the design must be a matrix of volumes × EVs; this one has shape {M.shape}")
    if C.shape[1] != M.shape[1]:
        raise DesignError(f"the contrast has {C.shape[1]} columns; the design has {M.shape[1]}")
    if not is_f and C.shape[0] != 1:
        raise DesignError(f"a t contrast has one row; this one has {C.shape[0]}")
    if not np.isfinite(M).all() or not np.isfinite(C).all():
        raise DesignError("design and contrast must be finite numbers")
    if not (np.abs(C).max(axis=1, initial=0.0) > 0).all():
        raise DesignError("the contrast is zero")


def _effect_basis(X: Float64, scale: float, is_f: bool) -> Float64:
    """Orthonormal basis of the residualised effect; for t its direction, sign kept."""
    if is_f:
        return orthonormal_basis(X, scale)
    norm = np.linalg.norm(X)
    return X / norm if norm > RANK_TOLERANCE * scale else X[:, :0]


def effective_regressor(design: ArrayLike, contrast: ArrayLike) -> Float64:
    """Demeaned design times contrast: rows equal in it are interchangeable.

    Returns
    -------
    (n, rows of the contrast) float64
    """
    M = demean_columns(np.asarray(design, dtype=np.float64))
    return M @ np.atleast_2d(np.asarray(contrast, dtype=np.float64)).T


def null_rows(design: ArrayLike, contrast: ArrayLike) -> Bools:
    """Rows that the effect does not touch (``--detectNull``).

    A row of the demeaned effective regressor whose entries sum to less than 1e-10 in magnitude.
    """
    untouched: Bools = np.abs(effective_regressor(design, contrast).sum(axis=1)) < 1e-10
    return untouched


def invariant_part(nuisance: Float64, invariant: Float64) -> tuple[Float64, Float64]:
    """Split a nuisance basis into the part that no shuffle moves and the rest.

    Parameters
    ----------
    nuisance : (n, q)
        Orthonormal basis Q.
    invariant : (n, k)
        Orthonormal basis of the vectors left alone by every shuffle (see `Shuffler.invariant`).

    Returns
    -------
    fixed, moving : (n, q1), (n, q − q1)
        Orthonormal; together they span the nuisance.
    """
    if not nuisance.shape[1] or not invariant.shape[1]:
        return nuisance[:, :0], nuisance
    u, s, _ = np.linalg.svd(nuisance.T @ invariant, full_matrices=True)
    n_fixed = int((s > 1 - 1e-12).sum())
    rotated = nuisance @ u
    return rotated[:, :n_fixed], rotated[:, n_fixed:]
