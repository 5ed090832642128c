"""Names of EVs, contrasts and F tests. Columns of two matrices are matched by name, not only by order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import digits

import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import DesignError


@dataclass(frozen=True)
class Names:
    """Names of the columns of a design, of its contrasts and of its F tests; empty if unknown.

    Attributes
    ----------
    evs : tuple of str
        Names of the columns of the design.
    contrasts : tuple of str
        Names of the t contrasts; "" for one without a name.
    f_tests : tuple of str
        Names of the F tests; "" for one without a name.
    """

    evs: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()
    f_tests: tuple[str, ...] = ()

    def of_columns(self, kept: NDArray[np.bool_]) -> Names:
        """These names without those of columns that are dropped."""
        return replace(self, evs=tuple(name for name, keep in zip(self.evs, kept) if keep))

    def of_test(self, test: str) -> str:
        """Name of ``tstat1``, ``fstat2`` and so on; "" if it has none."""
        names, number = self.f_tests if test.startswith("f") else self.contrasts, int(test[5:])
        return names[number - 1] if number <= len(names) else ""


def by_name(
    values: NDArray[np.float64], names: Sequence[str], other_names: Sequence[str], origin: str, other: str
) -> NDArray[np.float64]:
    """Put the columns of a matrix into the order of the names of another.

    Parameters
    ----------
    values : (rows, columns) array
    names : sequence of str
        Names of its columns; may be empty.
    other_names : sequence of str
        Names in the other matrix; may be empty.
    origin, other : str
        Descriptions of the two matrices, for messages.

    Returns
    -------
    (rows, columns) array
        Unchanged if either has no names, or if the names only count the columns (``c1``, ``c2``, …).

    Raises
    ------
    DesignError
        A name occurs in only one of the two matrices.
    """
    if not names or not other_names or "" in other_names:
        return values
    if not set(names) & set(other_names) and _only_count(names):
        return values
    twice = [name for name in other_names if list(other_names).count(name) > 1]
    if twice:
        raise DesignError(f"{other} has the name {twice[0]!r} twice, so the columns of {origin} cannot be matched")
    for name in names:
        if name not in other_names:
            raise DesignError(
                f"{origin} has a column {name!r}, which {other} does not have; its columns are {_listed(other_names)}"
            )
    for name in other_names:
        if name not in names:
            raise DesignError(
                f"{origin} has no column {name!r}, which {other} has; add a column of 0 if it is not tested"
            )
    return values[:, [list(names).index(name) for name in other_names]]


def _only_count(names: Sequence[str]) -> bool:
    """Whether names are 1, 2, 3, … after a common word, and so only count the columns."""
    words = [name.rstrip(digits) for name in names]
    places = [name[len(word) :].lstrip("0") for name, word in zip(names, words)]
    return len(set(words)) == 1 and places == [str(i) for i in range(1, len(names) + 1)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" … ({len(names)} in total)" if len(names) > 12 else "")
