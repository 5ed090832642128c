"""Subjects excluded at some voxels: the columns of a design that exclude them (``--vxl=-N --vxf=MASKS``).

As FSL has it, columns N … N + n − 1 of the design of n subjects are, at each voxel, the diagonal matrix of the values
of the n volumes of an image: one that is not 0, a lesion say, gives its subject a parameter of its own there. What
these columns hold in the design file is not used; the contrasts are 0 there. The model of `voxelwise` needs no such
columns, only the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.errors import DesignError
from gpuvox.partitioning import CONSTANT, pseudoinverses
from gpuvox.types import AnyArray, Bools, Float64


@dataclass(frozen=True, eq=False)
class Columns:
    """A design and its contrasts without the columns that exclude subjects.

    Attributes
    ----------
    design : (n, q) float64
    contrasts : (k, q) float64
    number : dict of int to int
        Column from 1, or −N, as given → column of `design` from 0, or −N.
    kept : (p,) bool
        Columns of the whole design that remain.
    """

    design: Float64
    contrasts: Float64
    number: Mapping[int, int]
    kept: Bools


def split(design: Float64, contrasts: Float64, columns: Sequence[int]) -> Columns:
    """Remove the columns that exclude subjects from a design.

    Parameters
    ----------
    design : (n, p) float64
    contrasts : (k, p) float64
    columns : sequence of int
        Of ``--vxl``: columns with voxelwise EVs, from 1; −N for columns N … N + n − 1, which may be missing if
        N = p + 1.

    Returns
    -------
    Columns

    Raises
    ------
    DesignError
        A column that does not exist or is named twice; a contrast that is not 0 in a column that excludes a subject.
    """
    n, p = design.shape
    named = f"--vxl {','.join(map(str, columns))}"
    taken, out = np.zeros(p, dtype=int), np.zeros(p, dtype=bool)
    for column in columns:
        first, width = abs(column) - 1, n if column < 0 else 1
        if column < 0 and first != p and first + n > p:
            raise DesignError(
                f"{named}: the design has {p} columns and lacks some of {-column} to {-column + n - 1}, one for "
                f"each of {n} participants; --vxl=-{p + 1} excludes participants without such columns"
            )
        if column == 0 or (column > 0 and first >= p):
            raise DesignError(f"{named}: expected different columns from 1 to {p}")
        taken[first : first + width] += 1
        out[first : first + width] |= column < 0
    if (taken > 1).any() or len(set(columns)) < len(columns):
        raise DesignError(f"{named}: expected different columns from 1 to {p}")
    if contrasts.shape[1] == p:
        _check_zero(contrasts, out, named)
        contrasts = contrasts[:, ~out]
    place = np.cumsum(~out) - 1
    number = {column: int(place[column - 1]) if column > 0 else column for column in columns}
    return Columns(design[:, ~out], contrasts, number, ~out)


def _check_zero(contrasts: Float64, out: Bools, named: str) -> None:
    wrong = np.argwhere((contrasts != 0) & out)
    if len(wrong):
        raise DesignError(
            f"{named}: t contrast {wrong[0][0] + 1} is not 0 in column {wrong[0][1] + 1}, which excludes a participant "
            "and cannot be tested"
        )


def with_columns(estimates: Float64, residuals: Float64, masks: Mapping[int, ArrayLike]) -> Float64:
    """Estimates of all columns of a design, from those of the columns that remain.

    Parameters
    ----------
    estimates : (q, V) float64
    residuals : (n, V) float64
        Of all subjects, including excluded ones.
    masks : dict of int to (n, V) array
        −N → values that exclude a subject where they are not 0.

    Returns
    -------
    (p, V) float64
        The parameter of a subject is the residual over the mask's value, 0 where the subject is not excluded.
    """
    for column in sorted(masks, reverse=True):
        mask = np.asarray(masks[column], dtype=np.float64)
        own = np.divide(residuals, mask, out=np.zeros_like(residuals), where=mask != 0)
        estimates = np.insert(estimates, min(-column - 1, len(estimates)), own, axis=0)
    return estimates


def fit(Y: Float64, M: Float64, gone: Bools, demean: bool) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
    """Least squares at each voxel without the subjects who are excluded there.

    Parameters
    ----------
    Y : (n, V) float64
    M : (V, n, q) float64
        Design at each voxel.
    gone : (n, V) bool
    demean : bool
        Remove the mean, of those who remain, from data and design.

    Returns
    -------
    pinv : (V, q, n) float64
        Pseudoinverse of the design, 0 for excluded subjects.
    estimates : (q, V) float64
    residuals : (n, V) float64
        Of all subjects.
    variance : (V,) float64
        Of the residuals of those who remain; their number less the rank of the design is its degrees of freedom.
    """
    stay = ~gone
    within = M * stay.T[:, :, None]
    if demean:
        count, size = np.maximum(stay.sum(axis=0), 1), np.abs(within).max(axis=1, keepdims=True)
        Y = Y - (Y * stay).sum(axis=0) / count
        M = M - (within.sum(axis=1) / count[:, None])[:, None, :]
        within = M * stay.T[:, :, None]
        # What rounding leaves of a constant is 0.
        within *= np.abs(within).max(axis=1, keepdims=True) > CONSTANT * size
    pinv, rank = pseudoinverses(within)
    estimates = np.einsum("vpn,nv->pv", pinv, Y)
    residuals = Y - np.einsum("vnp,pv->nv", M, estimates)
    df = stay.sum(axis=0) - rank
    squares = (residuals**2 * stay).sum(axis=0)
    return pinv, estimates, residuals, np.divide(squares, df, out=np.zeros(len(df)), where=df > 0)
