"""What is odd about a design: columns that do nothing, that almost repeat each other, means that nobody models.

Nothing here changes a number. A `DesignFinding` is a fact about arrays; `describe_finding` says it in a sentence,
with the columns by number and name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpuvox.partitioning import CONSTANT, RANK_TOLERANCE, orthonormal_basis, standardised
from gpuvox.scratch import Data, take
from gpuvox.types import Float64

ZERO_SUM = 1e-4
"""FSL takes a column for one of zero mean if the magnitude of its sum is at most this."""
NEARLY = 1e-3
"""Share of a column's variation, beyond what the others explain, below which the rounding of a text file decides it."""
INSIDE = 1e-8
"""Share of a column of ones, beyond the design, that is rounding."""
MOST_VOXELS = 4096
"""Voxels whose means are looked at."""


@dataclass(frozen=True)
class DesignFinding:
    """A fact about a design.

    Attributes
    ----------
    kind : str
        ``zero_mean``: all columns have zero mean, and nothing is demeaned; FSL warns then. ``demeaned``: the data are
        demeaned, and columns of the design that have a mean are so too; FSL warns then. ``empty``: 0 in all rows.
        ``constants``: several columns are constant; ``constant_demeaned``: constant columns, of which demeaning leaves
        nothing. ``one_row``: the same in all rows but one. ``collinear``: a combination of columns is zero up to
        about the rounding of a text file. ``unmodelled_mean``: the data are far from zero, and neither the design nor
        demeaning takes their mean away.
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
    """What is odd about a design.

    Parameters
    ----------
    design : (n, p) array_like
    demean : bool
        Data and design are demeaned (``-D``).
    flip : bool
        Signs are flipped (``-1``): a mean that nobody models is then what is tested.
    voxelwise : collection of int
        Columns that are replaced voxel by voxel; they say nothing here but of their own means.
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
    """The one row that differs, where all others are the same."""
    if len(column) < 3:
        return None
    usual = np.sort(column)[len(column) // 2]
    different = np.flatnonzero(column != usual)
    return int(different[0]) if len(different) == 1 else None


def _collinear(M: Float64, fixed: Sequence[int], demean: bool) -> Iterator[DesignFinding]:
    """Columns whose combination is zero but for rounding; exact dependence is in order, contrasts are checked for it.

    With the mean in the model, columns are less their means: a year of birth is no multiple of the constant. A singular
    value of columns of length 1 is the length of the combination that its right vector weighs.
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
    """Whether the data are far from zero while neither the design nor demeaning takes their mean away.

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


# -- words ----------------------------------------------------------------------------------------------------------


def describe_finding(
    finding: DesignFinding, names: Sequence[str] = (), origin: str | os.PathLike[str] = "the design"
) -> str:
    """A finding as a sentence.

    Parameters
    ----------
    finding : DesignFinding
    names : sequence of str
        Of the columns of the design, as far as they have any.
    origin : path
        The file of the design.
    """
    columns = [_named(j, names) for j in finding.columns]
    said: Any = WORDS[finding.kind](finding, columns)
    return f"{os.fspath(origin)}: {said}" if finding.kind != "unmodelled_mean" else said


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


def _empty(finding: DesignFinding, columns: Sequence[str]) -> str:
    return f"{_listed(columns)} {'is' if len(columns) == 1 else 'are'} 0 in all rows, and explains nothing"


def _constants(finding: DesignFinding, columns: Sequence[str]) -> str:
    return f"{_listed(columns)} are constant, all of them; one column of ones models the mean"


def _constant_demeaned(finding: DesignFinding, columns: Sequence[str]) -> str:
    return f"{_listed(columns)} {'is' if len(columns) == 1 else 'are'} constant; demeaning leaves nothing of it"


def _one_row(finding: DesignFinding, columns: Sequence[str]) -> str:
    pairs = [f"{column} but row {row + 1}" for column, row in zip(columns, finding.rows)]
    verb = "is" if len(columns) == 1 else "are"
    return f"{_listed(pairs)} {verb} the same in all rows; that takes the volume of this row out of the model"


def _collinear_said(finding: DesignFinding, columns: Sequence[str]) -> str:
    if len(columns) == 2:
        size = f"their correlation is 1 - {finding.value**2:.1g} in magnitude"
    else:
        size = f"their smallest singular value is {finding.value:.1g} of their size"
    return (
        f"{_listed(columns)} are collinear but for about the rounding of numbers in a text file ({size}); what they "
        "explain apart from each other is noise: leave one out, or give more digits"
    )


def _unmodelled(finding: DesignFinding, columns: Sequence[str]) -> str:
    return (
        f"the data are far from zero (the mean is {finding.value:.3g} standard deviations in half of the voxels), and "
        f"neither {_listed(columns, 'design column')} nor -D (demean=True from Python) takes their mean away, which is "
        "then tested with the design: add a column of ones (an intercept), or -D"
    )


WORDS = {
    "zero_mean": _zero_mean,
    "demeaned": _demeaned,
    "empty": _empty,
    "constants": _constants,
    "constant_demeaned": _constant_demeaned,
    "one_row": _one_row,
    "collinear": _collinear_said,
    "unmodelled_mean": _unmodelled,
}
