"""Warnings about a design: columns without effect, columns that are nearly collinear, means that are not modelled.

Nothing here changes a result. A `DesignFinding` is a fact about arrays; `describe_finding` puts it into a sentence that
names the columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.partitioning import CONSTANT, RANK_TOLERANCE, orthonormal_basis, standardised
from gpuvox.scratch import Data, take
from gpuvox.types import Float64

ZERO_SUM = 1e-4
"""FSL treats a column as having zero mean if the magnitude of its sum is at most this."""
NEARLY = 1e-3
"""Share of a column's variation that the others do not explain, below which it may be rounding in a text file."""
INSIDE = 1e-8
"""Share of a column of ones that the design does not explain, up to which it is rounding."""
MOST_VOXELS = 4096
"""Number of voxels whose means are examined."""


@dataclass(frozen=True)
class DesignFinding:
    """A fact about a design.

    Attributes
    ----------
    kind : str
        ``zero_mean``: all columns have zero mean, and nothing is demeaned; FSL warns then. ``demeaned``: the data are
        demeaned, and so are the columns of the design that have a mean; FSL warns then. ``empty``: 0 in all rows.
        ``constants``: several columns are constant; ``constant_demeaned``: constant columns, which demeaning makes 0.
        ``flipped``: the data are demeaned and signs are flipped, but not the error of the mean.
        ``one_row``: constant except in one row. ``collinear``: a combination of columns is zero to within about the
        rounding of a text file. ``unmodelled_mean``: the data are far from zero, and neither the design nor
        demeaning removes their mean.
    columns : tuple of int
        Columns of the design, from 0.
    rows : tuple of int
        Of ``one_row``: the row of each column, from 0.
    value : float
        Of ``collinear``: the smallest singular value of the columns, each of length 1; of ``unmodelled_mean``: the
        median over voxels of the mean's magnitude over the standard deviation.
    """

    kind: str
    columns: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    value: float = 0.0


def check_design(
    design: ArrayLike, *, demean: bool = False, flip: bool = False, voxelwise: Collection[int] = ()
) -> list[DesignFinding]:
    """Warnings that a design deserves.

    Parameters
    ----------
    design : (n, p) array_like
    demean : bool
        Data and design are demeaned (``-D``).
    flip : bool
        Signs are flipped (``-1``): a mean that is not modelled is then what is tested.
    voxelwise : collection of int
        Columns that are replaced voxel by voxel; of these only the means are checked.
    """
    M = np.asarray(design, dtype=np.float64)
    if M.ndim != 2 or not M.size or not np.isfinite(M).all():
        return []
    fixed = [j for j in range(M.shape[1]) if j not in voxelwise]
    return [*_of_means(M, demean, flip), *_of_columns(M, fixed, demean), *_collinear(M, fixed, demean)]


def _of_means(M: Float64, demean: bool, flip: bool) -> Iterator[DesignFinding]:
    with_mean = np.flatnonzero(np.abs(M.sum(axis=0)) > ZERO_SUM)
    if demean and len(with_mean):
        yield DesignFinding("demeaned", tuple(with_mean.tolist()))
    if demean and flip:
        yield DesignFinding("flipped", tuple(range(M.shape[1])))
    if not (demean or flip or len(with_mean)):
        yield DesignFinding("zero_mean", tuple(range(M.shape[1])))


def _of_columns(M: Float64, fixed: Sequence[int], demean: bool) -> Iterator[DesignFinding]:
    empty = [j for j in fixed if not M[:, j].any()]
    constant = [j for j in fixed if j not in empty and _is_constant(M[:, j])]
    if empty:
        yield DesignFinding("empty", tuple(empty))
    if constant and demean:
        yield DesignFinding("constant_demeaned", tuple(constant))
    elif len(constant) > 1:
        yield DesignFinding("constants", tuple(constant))
    single = {j: row for j in fixed if (row := _only_row(M[:, j])) is not None}
    if single:
        yield DesignFinding("one_row", tuple(single), tuple(single.values()))


def _is_constant(column: Float64) -> bool:
    return bool(np.ptp(column) <= CONSTANT * np.abs(column).max())


def _only_row(column: Float64) -> int | None:
    """The one row that differs from all others, which are equal."""
    if len(column) < 3:
        return None
    usual = np.sort(column)[len(column) // 2]
    different = np.flatnonzero(column != usual)
    return int(different[0]) if len(different) == 1 else None


def _collinear(M: Float64, fixed: Sequence[int], demean: bool) -> Iterator[DesignFinding]:
    """Columns with a combination that is zero up to rounding; exact dependence is allowed, as contrasts are checked.

    If the model includes the mean, columns are demeaned first: a year of birth is not a multiple of the constant. A
    singular value of columns of length 1 is the length of the combination that its right singular vector defines.
    """
    columns = [j for j in fixed if M[:, j].any()]
    X = M[:, columns]
    if demean or _spans_mean(X):
        moving = [k for k in range(X.shape[1]) if not _is_constant(X[:, k])]
        columns, X = [columns[k] for k in moving], X[:, moving]
        X = X - X.mean(axis=0)
    if X.shape[1] < 2:
        return
    scaled, _ = standardised(X)
    _, s, vt = np.linalg.svd(scaled / np.linalg.norm(scaled, axis=0), full_matrices=False)
    for k in np.flatnonzero((s > RANK_TOLERANCE * s[0]) & (s < NEARLY)):
        weights = np.abs(vt[k])
        named = np.flatnonzero(weights > 0.05 * weights.max())
        yield DesignFinding("collinear", tuple(columns[j] for j in named), value=float(s[k]))


def _spans_mean(M: Float64) -> bool:
    """Whether a column of ones is a combination of the columns."""
    if not M.shape[1]:
        return False
    basis = orthonormal_basis(standardised(M)[0])
    ones = np.ones(len(M))
    return float(np.square(ones - basis @ (basis.T @ ones)).sum()) <= INSIDE * len(M)


def check_data_mean(
    data: Data, design: ArrayLike, *, demean: bool = False, voxelwise: Collection[int] = ()
) -> list[DesignFinding]:
    """Whether the data are far from zero although neither the design nor demeaning removes their mean.

    Parameters
    ----------
    data : (n, V) float32, array or `scratch.Tiles`
    design : (n, p) array_like
    demean, voxelwise
        As of `check_design`.
    """
    M = np.asarray(design, dtype=np.float64)
    fixed = [j for j in range(M.shape[1]) if j not in voxelwise]
    if demean or not data.shape[1] or len(M) < 2 or not np.isfinite(M).all() or _spans_mean(M[:, fixed]):
        return []
    chosen = np.unique(np.linspace(0, data.shape[1] - 1, MOST_VOXELS).astype(np.int64))
    values = take(data, chosen).astype(np.float64)
    sd = values.std(axis=0, ddof=1)
    ratio = np.abs(values.mean(axis=0))[sd > 0] / sd[sd > 0]
    if not len(ratio) or np.median(ratio) < 1:
        return []
    return [DesignFinding("unmodelled_mean", tuple(range(M.shape[1])), value=float(np.median(ratio)))]


# -- sentences ------------------------------------------------------------------------------------------------------


def describe_finding(
    finding: DesignFinding, names: Sequence[str] = (), origin: str | os.PathLike[str] = "the design"
) -> str:
    """A finding as a sentence.

    Parameters
    ----------
    finding : DesignFinding
    names : sequence of str
        Names of the columns of the design; those without a name are empty or missing.
    origin : path
        The file of the design.
    """
    columns = [_named(j, names) for j in finding.columns]
    sentence = WORDS[finding.kind](finding, columns)
    return f"{os.fspath(origin)}: {sentence}" if finding.kind != "unmodelled_mean" else sentence


def _named(column: int, names: Sequence[str]) -> str:
    name = names[column] if column < len(names) else ""
    return f"{column + 1} ({name})" if name else str(column + 1)


def _listed(columns: Sequence[str], kind: str = "column") -> str:
    """``columns 1 (age) and 2 (sex)``."""
    shown = [*columns[:8], "others"] if len(columns) > 9 else list(columns)
    text = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{kind} {text}" if len(shown) == 1 else f"{kind}s {text}"


def _zero_mean(finding: DesignFinding, columns: Sequence[str]) -> str:
    return (
        f"all design columns have zero mean ({_listed(columns)}) - consider using the -D option to demean your data "
        "(demean=True from Python), or a column of ones"
    )


def _demeaned(finding: DesignFinding, columns: Sequence[str]) -> str:
    have = "has" if len(columns) == 1 else "have"
    return (
        f"data demeaning selected, but {_listed(columns)} {have} a non-zero mean - so the design is demeaned too"
    )


def _flipped(finding: DesignFinding, columns: Sequence[str]) -> str:
    return (
        f"data demeaning selected with sign flips ({_listed(columns, 'design column')}): the error of the mean is not "
        "flipped, and p-values are a little too small in small samples, as in FSL - consider a column of ones instead"
    )


def _empty(finding: DesignFinding, columns: Sequence[str]) -> str:
    verbs = ("is", "explains") if len(columns) == 1 else ("are", "explain")
    return f"{_listed(columns)} {verbs[0]} 0 in all rows and {verbs[1]} nothing"


def _constants(finding: DesignFinding, columns: Sequence[str]) -> str:
    return f"{_listed(columns)} are all constant; a single column of ones models the mean"


def _constant_demeaned(finding: DesignFinding, columns: Sequence[str]) -> str:
    return f"{_listed(columns)} {'is' if len(columns) == 1 else 'are'} constant, and so 0 after demeaning"


def _one_row(finding: DesignFinding, columns: Sequence[str]) -> str:
    pairs = [f"{column} (except in row {row + 1})" for column, row in zip(columns, finding.rows)]
    verb = "is" if len(columns) == 1 else "are"
    return f"{_listed(pairs)} {verb} constant; this excludes the volume of that row from the rest of the model"


def _collinear_columns(finding: DesignFinding, columns: Sequence[str]) -> str:
    if len(columns) == 2:
        size = f"their correlation is 1 - {finding.value**2:.1g} in magnitude"
    else:
        size = f"their smallest singular value is {finding.value:.1g} of their size"
    return (
        f"{_listed(columns)} are collinear to within about the rounding of numbers in a text file ({size}); what "
        "distinguishes them is noise: remove one of them, or give more digits"
    )


def _unmodelled(finding: DesignFinding, columns: Sequence[str]) -> str:
    return (
        f"the data are far from zero (the mean exceeds {finding.value:.3g} standard deviations in half of the voxels), "
        f"and neither {_listed(columns, 'design column')} nor -D (demean=True from Python) removes their mean, "
        "which is then tested together with the design: add a column of ones (an intercept), or use -D"
    )


WORDS: dict[str, Callable[[DesignFinding, Sequence[str]], str]] = {
    "zero_mean": _zero_mean,
    "demeaned": _demeaned,
    "flipped": _flipped,
    "empty": _empty,
    "constants": _constants,
    "constant_demeaned": _constant_demeaned,
    "one_row": _one_row,
    "collinear": _collinear_columns,
    "unmodelled_mean": _unmodelled,
}
