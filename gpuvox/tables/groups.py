"""Groups of participants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.tables.columns import require
from gpuvox.tables.levels import check_categories
from gpuvox.tables.reading import labels


@dataclass(frozen=True, eq=False)
class Groups:
    """Group membership of the participants.

    Attributes
    ----------
    levels : tuple of str
        The groups, in order.
    codes : (n,) int64
        Index into `levels`; -1 if excluded, because the group is missing or not in the order.
    """

    levels: tuple[str, ...]
    codes: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Participants of each group."""
        return {level: int((self.codes == i).sum()) for i, level in enumerate(self.levels)}


def assign_groups(table: pd.DataFrame, group: str, order: Sequence[str] = (), least: int = 2) -> Groups:
    """Groups of a table.

    Parameters
    ----------
    table : DataFrame
        See `tables.typed`.
    group : str
        Column with the group of each participant; participants without a group are excluded.
    order : sequence of str, optional
        The groups to compare (differences are the first minus the second); others are excluded. By default all,
        sorted.
    least : int
        Number of groups that are needed.

    Raises
    ------
    FileError
        The column or a group does not exist, there are too few groups, or a group has one participant.
    """
    require(table, [group], "")
    check_categories(table, group, "")
    there = dict(zip(labels(table[group].dropna()), table[group].dropna().tolist()))
    levels = tuple(order) or tuple(name for name, value in sorted(there.items(), key=lambda pair: pair[1]))
    for level in levels:
        if level not in there:
            raise FileError(
                f"no participant has {group} {level!r}; the groups are {', '.join(sorted(there)) or 'none'}"
            )
    if len(set(levels)) < max(len(levels), least):
        raise FileError(f"the groups are {', '.join(levels) or 'none'}; at least two different groups are needed")
    names = labels(table[group])
    numbers = {level: i for i, level in enumerate(levels)}
    codes = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
    groups = Groups(levels, codes)
    for level, n in groups.counts().items():
        if n < 2:
            raise FileError(f"the {group} {level} has one participant; at least 2 are needed")
    return groups
