"""Names of EVs, contrasts and F tests: where two matrices meet, columns are matched by name, never by order alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import digits

import numpy as np
from numpy.typing import NDArray

from gpuvox.errors import DesignError


@dataclass(frozen=True)
class Names:
    """What the columns of a design, its contrasts and its F tests are called; empty where nobody says.

    Attributes
    ----------
    evs : tuple of str
        Of the columns of the design.
    contrasts : tuple of str
        Of the t contrasts; "" for one without a name.
    f_tests : tuple of str
        Of the F tests; "" for one without a name.
    """

    evs: tuple[str, ...] = ()
    contrasts: tuple[str, ...] = ()
    f_tests: tuple[str, ...] = ()

    def of_columns(self, kept: NDArray[np.bool_]) -> Names:
        """Without the names of columns that are not kept."""
        return replace(self, evs=tuple(name for name, keep in zip(self.evs, kept) if keep))

    def of_test(self, test: str) -> str:
        """Name of ``tstat1``, ``fstat2`` …; "" if it has none."""
        names, number = self.f_tests if test.startswith("f") else self.contrasts, int(test[5:])
        return names[number - 1] if number <= len(names) else ""


def by_name(
    values: NDArray[np.float64], given: Sequence[str], wanted: Sequence[str], origin: str, other: str
) -> NDArray[np.float64]:
    """Columns of a matrix in the order of the names that another has.

    Parameters
    ----------
    values : (rows, columns) array
    given : sequence of str
        Names of its columns, or none.
    wanted : sequence of str
        Names in the other, or none.
    origin, other : str
        What the two are, for messages.

    Returns
    -------
    (rows, columns) array
        As it was where either has no names, or where the names of `given` only count the columns (``c1``, ``c2``, …).

    Raises
    ------
    DesignError
        A name is missing, or is not in the other.
    """
    if not given or not wanted or "" in wanted:
        return values
    if not set(given) & set(wanted) and _only_count(given):
        return values
    twice = [name for name in wanted if list(wanted).count(name) > 1]
    if twice:
        raise DesignError(f"{other} has the name {twice[0]!r} twice; which of them {origin} means cannot be told")
    for name in given:
        if name not in wanted:
            raise DesignError(f"{origin} has a column {name!r}, which {other} has not; it has {_listed(wanted)}")
    for name in wanted:
        if name not in given:
            raise DesignError(
                f"{origin} has no column {name!r}, which {other} has; a column of 0 says that it plays no part"
            )
    return values[:, [list(given).index(name) for name in wanted]]


def _only_count(names: Sequence[str]) -> bool:
    """Whether names are 1, 2, 3 … with the same word before them: they then stand for places."""
    words = [name.rstrip(digits) for name in names]
    places = [name[len(word) :].lstrip("0") for name, word in zip(names, words)]
    return len(set(words)) == 1 and places == [str(i) for i in range(1, len(names) + 1)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" … ({len(names)} in all)" if len(names) > 12 else "")
