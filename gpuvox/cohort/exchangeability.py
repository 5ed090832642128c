"""Exchangeability blocks from columns of the table: what is permuted under the null hypothesis.

``--blocks site``
    Rows are permuted within each site only: sites may differ in mean, variance and distribution.
``--within family``
    The same for families, twins or any other group of rows.
``--paired subject``
    Rows are permuted within each subject only, and the model has a mean for each subject: paired tests.
``--whole family``
    Families are permuted as wholes, with all of their rows in the order of the table; visits of participants in the
    order of the first whole, see `in_order_of_visits`.
``--whole family --blocks site``
    The same, within each site only.

Several columns are nested: rows are permuted only where all of them are equal (Winkler et al. 2015,
NeuroImage 123:253).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuvox.block_tree import is_multi_level
from gpuvox.cohort.table import ID, Cohort
from gpuvox.errors import DesignError
from gpuvox.participants import VISIT_COLUMNS
from gpuvox.plain import composed, listed, several

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """The columns that define exchangeability; see the docstring of this module."""

    paired: str = ""
    within: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    whole: str = ""

    def __post_init__(self) -> None:
        for name in ("paired", "whole"):
            object.__setattr__(self, name, composed(getattr(self, name)))
        for name in ("within", "blocks"):
            object.__setattr__(self, name, tuple(map(composed, getattr(self, name))))

    @property
    def names(self) -> list[str]:
        """All of them."""
        given = [self.paired, *self.blocks, *self.within, self.whole]
        return list(dict.fromkeys(name for name in given if name))


@dataclass(frozen=True, eq=False)
class Exchangeability:
    """Exchangeability blocks, as the engine has them.

    Attributes
    ----------
    blocks : (n,) or (n, 4) int64, or None
        Block of each row, from 1; multi-level blocks, see `gpuvox.block_tree`, for wholes within other blocks; None if
        all rows are exchangeable.
    whole : bool
        Blocks are permuted as wholes, instead of the rows within each.
    sentence : str
        What is permuted.
    of_means : str
        Whose signs are flipped in tests of a mean, or in all.
    warnings : tuple of str
    """

    blocks: Ints | None
    whole: bool
    sentence: str
    of_means: str
    warnings: tuple[str, ...] = ()

    def exchanged(self, flips: Collection[bool], both: bool = False) -> str:
        """What is permuted, or whose signs are flipped.

        Parameters
        ----------
        flips : collection of bool
            Of each test: it flips signs, in place of permuting.
        both : bool
            All tests permute and flip.
        """
        if both:
            return f"{self.sentence}, and the signs of {self.of_means}"
        if all(flips):
            return f"the signs of {self.of_means}"
        return f"{self.sentence}; for means, the signs of {self.of_means}" if any(flips) else self.sentence

    @property
    def multi_level(self) -> bool:
        """Whether the blocks say themselves which of them are permuted as wholes."""
        return is_multi_level(self.blocks)


def in_order_of_visits(columns: Columns, cohort: Cohort) -> list[int]:
    """An order of the rows in which blocks that are permuted as wholes have their visits in the same order.

    Rows trade places within a block whose visits are those of the first block of its kind in another order; they are
    matched by the names of visits, where a column of `participants.VISIT_COLUMNS` has them, and, in blocks of several
    participants, by who comes first. All other rows stay where they are.

    Parameters
    ----------
    columns : Columns
    cohort : Cohort
        The rows that are analysed.
    """
    order, visit = list(range(len(cohort))), cohort.visit_column
    if not columns.whole or not visit or visit == columns.whole:
        return order
    visits = cohort.cells(visit)
    outer = list(zip(*(cohort.categories(name)[0] for name in columns.blocks + columns.within))) or [()] * len(
        cohort
    )
    blocks: dict[str | None, list[int]] = {}
    for row, level in enumerate(cohort.categories(columns.whole)[0]):
        blocks.setdefault(level, []).append(row)
    firsts: dict[tuple[str | None, ...], list[tuple[int, str]]] = {}
    for rows in blocks.values():
        people = list(dict.fromkeys(cohort.ids[row] for row in rows))
        names = [(people.index(cohort.ids[row]), visits[row]) for row in rows]
        first = firsts.setdefault(outer[rows[0]], names)
        same_sequence = [at for _, at in names] == [at for _, at in first]
        if same_sequence or sorted(names) != sorted(first) or len(set(names)) < len(names):
            continue
        of_name = dict(zip(names, rows))
        for row, name in zip(rows, first):
            order[row] = of_name[name]
    return order


def find_blocks(columns: Columns, cohort: Cohort) -> Exchangeability:
    """Exchangeability blocks of the rows of a table.

    Parameters
    ----------
    columns : Columns
    cohort : Cohort
        The rows that are analysed, none of which lacks a value in these columns.

    Raises
    ------
    DesignError
        Columns that cannot be combined; blocks that are to be exchanged as wholes and differ in their rows.
    FileError
        The table has no such column.
    """
    inner = list(dict.fromkeys(name for name in (*columns.blocks, columns.paired, *columns.within) if name))
    if columns.whole and columns.paired:
        raise DesignError(
            f"--paired permutes rows within {columns.paired}, and --whole {columns.whole} keeps rows together; one of "
            "them is expected",
            option="--whole",
        )
    if columns.whole and columns.whole in inner:
        raise DesignError(
            f"{columns.whole} is permuted as a whole, so it cannot be among the blocks within which it is permuted",
            option="--whole",
        )
    rows = several(len(cohort), "row")
    freely = f"all {rows} are flipped freely"
    if columns.whole and inner:
        return _as_wholes_within(columns.whole, inner, cohort)
    if columns.whole:
        return _as_wholes(columns.whole, cohort)
    if not inner:
        return Exchangeability(None, False, f"all {rows} are permuted freely", freely)
    keys = list(zip(*(cohort.categories(name)[0] for name in inner)))
    numbers, sizes = _numbered(keys), Counter(keys)
    single = [key for key, count in sizes.items() if count == 1]
    if len(single) == len(sizes):
        raise DesignError(
            f"every row has {_and(inner)} of its own, so nothing can be permuted",
            option="--within",
        )
    warnings = []
    if single:
        names = [_spelled(key) for key in single]
        warnings.append(f"{_and(inner)}: {listed(names)} occurs in one row only, which is never permuted")
    if columns.paired and max(sizes.values()) > 2:
        warnings.append(
            f"{columns.paired} has more than two rows: permuting them assumes that all have the same variance and "
            "any two the same correlation"
        )
    sentence = f"rows are permuted within each {_and(inner)} only ({several(len(sizes), 'block')})"
    return Exchangeability(numbers, False, sentence, freely, tuple(warnings))


def _numbered(keys: Sequence[object]) -> Ints:
    """Blocks from 1, by their first row."""
    seen: dict[object, int] = {}
    return np.array([seen.setdefault(key, len(seen) + 1) for key in keys], dtype=np.int64)


def _as_wholes(name: str, cohort: Cohort) -> Exchangeability:
    levels = cohort.categories(name)[0]
    sizes = Counter(levels)
    if max(sizes.values()) == 1:
        rows, each = several(len(cohort), "row"), f"freely, one for each {name}"
        return Exchangeability(None, False, f"all {rows} are permuted {each}", f"all {rows} are flipped {each}")
    usual = _check_sizes(name, levels, "")
    _check_sequence(name, levels, cohort)
    blocks, of_each = f"the {len(sizes)} blocks of {name} are", f"each with its {several(usual, 'row')}"
    return Exchangeability(
        _numbered(levels), True, f"{blocks} permuted as wholes, {of_each}", f"{blocks} flipped, {of_each}",
        tuple(_unnamed_rows(name, cohort)),
    )  # fmt: skip


def _unnamed_rows(name: str, cohort: Cohort) -> list[str]:
    """A warning if nothing tells the rows of a participant apart, so that those of two blocks are matched by order."""
    if cohort.visit_column or not cohort.text[ID].duplicated().any():
        return []
    return [
        f"no column such as {VISIT_COLUMNS[1]} names the rows of a participant, so the rows of each {name} are matched "
        "with those of others in the order of the table"
    ]


def _as_wholes_within(name: str, outer: Sequence[str], cohort: Cohort) -> Exchangeability:
    """Wholes that trade places within other blocks only, as multi-level blocks."""
    levels, keys = cohort.categories(name)[0], list(zip(*(cohort.categories(each)[0] for each in outer)))
    of_level: dict[object, tuple[str | None, ...]] = {}
    for level, key in zip(levels, keys):
        if of_level.setdefault(level, key) != key:
            raise DesignError(
                f"{name} {level} is permuted as a whole within {_and(outer)}, but its rows are in {_spelled(key)} and "
                f"{_spelled(of_level[level])}",
                option="--whole",
            )
    for key in dict.fromkeys(keys):
        inside = [level for level, other in zip(levels, keys) if other == key]
        _check_sizes(name, inside, f" in {_spelled(key)}")
        _check_sequence(name, inside, cohort.at(row for row, other in enumerate(keys) if other == key))
    wholes = Counter(of_level.values())
    alone = [_spelled(key) for key, count in wholes.items() if count == 1]
    if len(alone) == len(wholes):
        raise DesignError(f"every {_and(outer)} has one {name} only, so nothing can be permuted", option="--whole")
    warnings = [f"{listed(alone)} has one {name} only, which is never permuted"] if alone else []
    warnings += _unnamed_rows(name, cohort)
    n = len(levels)
    tree = np.column_stack([np.full(n, -1), _numbered(keys), -_numbered(levels), np.arange(1, n + 1)])
    sentence = (
        f"the {len(of_level)} blocks of {name} are permuted as wholes, each with its rows, within each {_and(outer)} "
        f"only ({several(len(wholes), 'block')})"
    )
    of_means = f"the {len(of_level)} blocks of {name} are flipped, each with its rows"
    return Exchangeability(tree.astype(np.int64), True, sentence, of_means, tuple(warnings))


def _check_sizes(name: str, levels: Sequence[str | None], where: str) -> int:
    """The rows of each block; `DesignError` unless all have the same number."""
    sizes = Counter(levels)
    usual = sizes.most_common(1)[0][1]
    odd = [str(level) for level, count in sizes.items() if count != usual]
    if odd:
        raise DesignError(
            f"{name} is permuted as a whole, so all of its blocks{where} must have the same number of rows; most have "
            f"{usual}, unlike {listed(odd)}; a column of their sizes in --blocks permutes those of one size only",
            option="--whole",
        )
    return usual


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _spelled(key: Sequence[str | None]) -> str:
    return " ".join(map(str, key))


def _check_sequence(name: str, levels: Sequence[str | None], cohort: Cohort) -> None:
    """Raise `DesignError` unless all blocks have the same visits in the same order."""
    visit = cohort.visit_column
    if not visit or visit == name:
        return
    visits = cohort.cells(visit)
    sequences: dict[str | None, list[str]] = {}
    for level, at in zip(levels, visits):
        sequences.setdefault(level, []).append(at)
    first = next(iter(sequences))
    for level, sequence in sequences.items():
        if sequence != sequences[first]:
            order = " in the same order" if sorted(sequence) == sorted(sequences[first]) else ""
            raise DesignError(
                f"{name} is permuted as a whole, so all of its blocks need the same {visit}{order}; {first} "
                f"has {listed(sequences[first])}, {level} has {listed(sequence)}",
                option="--whole",
            )
