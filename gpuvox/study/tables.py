"""Tables of participants: numbers and text, subsets by a condition, covariates, and values measured elsewhere.

A condition is a comparison of columns with numbers or text, ``age <= 50 and phenotype == 'RRMS'``: ``and``, ``or``,
``not``, ``in ('a', 'b')``, parentheses, arithmetic. It is read, not executed. A comparison with a missing value is
neither true nor false, so a participant with one is in neither a subset nor its negation.
"""

from __future__ import annotations

import ast
import fnmatch
import math
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files.text import as_number
from gpuvox.study.levels import alike, check_categories, is_declared

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
MISSING = ("", "n/a", "N/A", "#N/A", "NA", "<NA>", "NaN", "nan", "null", "NULL")
"""Cells that hold nothing: as BIDS, R, pandas and spreadsheets write it."""


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of text as numbers where all that is there are numbers; missing cells (`MISSING`) as NaN.

    Parameters
    ----------
    table : DataFrame of str
        See `files.read_table`.
    """
    columns = table.to_numpy(dtype=object).T.tolist()
    found = pd.DataFrame(
        {name: _typed(name, column) for name, column in zip(table.columns, columns)}, index=table.index
    )
    found.attrs = dict(table.attrs)
    return found


def _typed(name: Any, column: list[str]) -> list[Any] | Float64:
    cells = [cell.strip() for cell in column]
    given: list[Any] = [np.nan if is_missing(cell) else cell for cell in cells]
    if name == "participant_id":
        return given
    numbers = [cell if cell is np.nan else as_number(cell) for cell in given]
    # A column of nothing but n/a is a column of numbers that are missing.
    if all(value == value or cell is np.nan for value, cell in zip(numbers, given)):
        return np.array(numbers, dtype=np.float64)
    return given


def is_missing(text: str) -> bool:
    """Whether a cell holds nothing: one of `MISSING`, or NaN however it is spelled."""
    return text in MISSING or text.lstrip("+-").lower() == "nan"


def labels(column: pd.Series) -> pd.Series:
    """Values of a column as text, as they name groups: 1 is ``1``, not ``1.0``; missing stays missing."""
    return column.map(label, na_action="ignore")


def label(value: Any) -> str:
    """One of them."""
    return f"{value:.15g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def read_participants(path: str | os.PathLike[str], required: Sequence[str] = ()) -> pd.DataFrame:
    """Table of participants, a row each.

    Parameters
    ----------
    path : path
        TSV or CSV with the column ``participant_id``.
    required : sequence of str
        Columns that there must be; cells may be missing.

    Raises
    ------
    FileError
        It is no such table, a column is missing, or a participant occurs twice.
    """
    table = files.read_table(path, ["participant_id"])
    require(table, required, path)
    return typed(table)


def require(table: pd.DataFrame, names: Iterable[str], origin: str | os.PathLike[str]) -> None:
    """Raise `FileError` if a column is missing; it names those that look alike, or all."""
    for name in names:
        if name not in table.columns:
            raise FileError(f"{os.fspath(origin)} has no column {name!r}; {_there_are(table.columns, name)}")


def _there_are(names: Iterable[str], wanted: str) -> str:
    import difflib

    known = [str(name) for name in names]
    alike = [name for name in known if name.lower() == wanted.lower()]
    if alike:
        return f"did you mean {alike[0]!r}?"
    if len(known) <= 20:
        return f"it has {', '.join(known)}"
    close = difflib.get_close_matches(wanted, known, 5, 0.5) if len(known) <= MOST_COMPARED else []
    return f"it has {', '.join(close) if close else ', '.join(known[:12])} and others ({len(known)} in all)"


MOST_COMPARED = 5000
"""Names among which those that look alike are sought."""


# -- conditions -----------------------------------------------------------------------------------------------------

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
LOGIC: dict[type, str] = {ast.And: "and", ast.BitAnd: "and", ast.Or: "or", ast.BitOr: "or"}


def select(table: pd.DataFrame, condition: str) -> Bool:
    """Rows for which a condition is true.

    Parameters
    ----------
    table : DataFrame
        See `typed`.
    condition : str
        See the head of this module; empty for everyone. Names may have dots; others stand in `` `backticks` ``.

    Returns
    -------
    (n,) bool

    Raises
    ------
    FileError
        It is no condition on these columns.
    """
    if not condition.strip():
        return np.ones(len(table), dtype=bool)
    try:
        return _Condition(table, condition).rows()
    except FileError as error:
        raise FileError(f"the condition {condition!r}: {error}") from None


class _Condition:
    """A condition, evaluated in three-valued logic: a truth is a pair of masks, true and false."""

    def __init__(self, table: pd.DataFrame, text: str) -> None:
        self.table = table
        self.quoted: dict[str, str] = {}
        self.spelled: set[Any] = set()
        self.text = re.sub(r"`([^`]*)`", self._quote, text.strip())

    def _quote(self, found: re.Match[str]) -> str:
        name = f"quoted_{len(self.quoted)}_"
        self.quoted[name] = found[1]
        return name

    def rows(self) -> Bool:
        try:
            tree = ast.parse(self.text, mode="eval").body
            self.spelled = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            return self._truth(tree)[0]
        except FileError:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FileError("not of the form age <= 50 and group == 'MS'") from None

    def _truth(self, node: ast.AST) -> tuple[Bool, Bool]:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            yes, no = self._truth(node.operand)
            return no, yes
        if isinstance(node, ast.BoolOp):
            return self._joined(LOGIC[type(node.op)], [self._truth(value) for value in node.values])
        if isinstance(node, ast.BinOp) and type(node.op) in LOGIC:
            return self._joined(LOGIC[type(node.op)], [self._truth(node.left), self._truth(node.right)])
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            return self._joined("and", [self._compared(*each) for each in zip(sides, node.ops, sides[1:])])
        raise FileError(f"{ast.unparse(node)} is no comparison")

    @staticmethod
    def _joined(kind: str, parts: Sequence[tuple[Bool, Bool]]) -> tuple[Bool, Bool]:
        yes, no = np.array([part[0] for part in parts]), np.array([part[1] for part in parts])
        every, some = np.logical_and.reduce, np.logical_or.reduce
        return (every(yes), some(no)) if kind == "and" else (some(yes), every(no))

    def _compared(self, left: ast.AST, how: ast.cmpop, right: ast.AST) -> tuple[Bool, Bool]:
        if isinstance(how, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List | ast.Set):
                raise FileError(f"in needs a list such as ('a', 'b'), not {ast.unparse(right)}")
            if not right.elts:
                raise FileError("in needs a list that is not empty")
            yes, no = self._joined("or", [self._compared(left, ast.Eq(), value) for value in right.elts])
            return (yes, no) if isinstance(how, ast.In) else (no, yes)
        if type(how) not in COMPARISONS:
            raise FileError("expected ==, !=, <, <=, >, >= or in")
        a, b = self._value(left), self._value(right)
        if (a.dtype == object) != (b.dtype == object):
            text = left if a.dtype == object else right
            raise FileError(f"{ast.unparse(text)} is text, and is compared with a number")
        known = ~(pd.isna(a) | pd.isna(b))
        if isinstance(how, ast.Eq | ast.NotEq) and a.dtype == object:
            self._check_spelling(left, a[known], right, b[known])
        answer = np.zeros(len(known), dtype=bool)
        answer[known] = COMPARISONS[type(how)](a[known], b[known]).astype(bool)
        return answer, known & ~answer

    def _check_spelling(self, left: ast.AST, a: NDArray, right: ast.AST, b: NDArray) -> None:
        """Raise `FileError` if text that is asked for differs from a value in capitals or blanks only."""
        for asked, node, values in ((left, right, b), (right, left, a)):
            if (
                not isinstance(asked, ast.Constant)
                or not isinstance(asked.value, str)
                or isinstance(node, ast.Constant)
            ):
                continue
            name = self._name(node)
            if is_declared(self.table, name):
                continue
            for value in dict.fromkeys(values.tolist()):
                if value not in self.spelled and alike(value) == alike(asked.value):
                    raise FileError(
                        f"{name} is {value!r} in a row, which differs from {asked.value!r} in capitals or blanks only"
                    )

    def _name(self, node: ast.AST) -> str:
        name = ast.unparse(node)
        return self.quoted.get(name, name)

    def _value(self, node: ast.AST) -> NDArray:
        n = len(self.table)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return np.full(n, node.value, dtype=object)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return np.full(n, _as_float(node.value))
        if isinstance(node, ast.Name | ast.Attribute):
            name = self._name(node)
            require(self.table, [name], "the table")
            column = self.table[name]
            numeric = pd.api.types.is_numeric_dtype(column)
            return column.to_numpy(dtype=np.float64 if numeric else object)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            with np.errstate(all="ignore"):
                return ARITHMETIC[type(node.op)](self._number(node.left), self._number(node.right))
        raise FileError(f"{ast.unparse(node)} is neither a column, a number nor text in quotes")

    def _number(self, node: ast.AST) -> Float64:
        value = self._value(node)
        if value.dtype == object:
            raise FileError(f"{ast.unparse(node)} is text; a number is needed")
        return value


def _as_float(value: float) -> float:
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise FileError("a number in it is too large")
    return found


# -- covariates and variables ---------------------------------------------------------------------------------------


def indicators(
    table: pd.DataFrame, names: Sequence[str], origin: str | os.PathLike[str] = "the table"
) -> pd.DataFrame:
    """Columns of a design: numbers as they are, text as a column of 0 and 1 for each value but the first.

    Parameters
    ----------
    table : DataFrame
        See `typed`.
    names : sequence of str
        Columns of it. ``sex`` with the values F and M becomes ``sex[M]``.
    origin : path
        For messages.

    Raises
    ------
    FileError
        A column or a value is missing, a number is not finite, or text is no categories (`check_categories`).
    """
    require(table, names, origin)
    columns: dict[str, Any] = {}
    for name in names:
        column = table[name]
        complete(table, [name], origin)
        if pd.api.types.is_numeric_dtype(column):
            columns[name] = finite(table, name, origin)
            continue
        check_categories(table, name, origin)
        for level in sorted(set(column))[1:]:
            columns[f"{name}[{level}]"] = (column == level).to_numpy(dtype=np.float64)
    return pd.DataFrame(columns, index=table.index)


def finite(table: pd.DataFrame, name: str, origin: str | os.PathLike[str] = "the table") -> Float64:
    """(n,) A column of numbers; `FileError` for an infinite one, with its participant. Missing ones are in order."""
    values = table[name].to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        row = int(np.flatnonzero(np.isinf(values))[0])
        raise FileError(
            f"{os.fspath(origin)}: {name} of {_whose(table, row)} is {values[row]:g}; a finite number expected"
        )
    return values


def _whose(table: pd.DataFrame, row: int) -> str:
    return str(table["participant_id"].iloc[row]) if "participant_id" in table.columns else f"row {row + 1}"


def complete(table: pd.DataFrame, names: Iterable[str], origin: str | os.PathLike[str] = "the table") -> None:
    """Raise `FileError` if a value is missing; it names the first participant."""
    for name in names:
        missing = table[name].isna().to_numpy()
        if missing.any():
            who = _whose(table, int(np.flatnonzero(missing)[0]))
            raise FileError(f"{os.fspath(origin)} has no {name} of {who}")


def matching(
    columns: Iterable[str], patterns: Sequence[str], origin: str | os.PathLike[str] = "the table"
) -> list[str]:
    """Columns that fit the patterns, in the order of the patterns, each once.

    ``*`` stands for anything but a dot: ``*.iron`` is the mean iron of every structure, both sides together, but
    neither ``left.putamen.iron`` nor ``putamen.iron.median``.

    Raises
    ------
    FileError
        A pattern fits none.
    """
    known, found = list(columns), dict[str, None]()
    for pattern in patterns:
        # fnmatch has no notion of dots: a segment at a time.
        named = fitting(known, pattern)
        if not named:
            raise FileError(f"{os.fspath(origin)} has nothing named {pattern!r}; {_there_are(known, pattern)}")
        found.update(dict.fromkeys(named))
    return list(found)


def fitting(columns: Iterable[str], pattern: str) -> list[str]:
    """Columns that fit a pattern; see `matching`."""
    known = list(columns)
    wanted = [re.compile(fnmatch.translate(part)) for part in pattern.split(".")]
    return [name for name in known if name == pattern] or [name for name in known if _fits(name, wanted)]


def _fits(name: str, wanted: Sequence[re.Pattern[str]]) -> bool:
    parts = str(name).split(".")
    return len(parts) == len(wanted) and all(pattern.match(part) for pattern, part in zip(wanted, parts))


def as_name(text: str) -> str:
    """A value of a table as a part of a name: letters, digits and ``_``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_") or "_"


def gather(
    table: str | os.PathLike[str],
    rois: str | os.PathLike[str] | None = None,
    clusters: Mapping[str, str | os.PathLike[str]] | None = None,
) -> pd.DataFrame:
    """Participants with what was measured in them, a column for every value.

    Parameters
    ----------
    table : path
        Participants.
    rois : path, optional
        What ``gpuvox rois`` wrote: adds ``thalamus.volume`` (mL), ``thalamus.volume_normalised``, and for each map
        ``thalamus.iron`` (mean), ``thalamus.iron.median``, ``thalamus.iron.sd``, ``thalamus.iron.mass`` (with a
        head-size factor that of the normalised volume, and ``thalamus.iron.mass_raw``); those of one side are
        called ``left.thalamus.iron``.
    clusters : dict of str to path, optional
        Name → what ``gpuvox clusters`` wrote as ``OUT_subjects.tsv``: adds ``name.1``, the eigenvariate of cluster 1
        (its z where there is one), and ``name.1.mean``.

    Returns
    -------
    DataFrame
        A row for each participant, in the order of the table.

    Raises
    ------
    FileError
        A file is no such table, or lacks a participant.
    """
    found = read_participants(table)
    attributes = dict(found.attrs)
    parts = [(rois, _from_rois(rois))] if rois else []
    parts += [(path, _from_clusters(name, path)) for name, path in (clusters or {}).items()]
    for path, part in parts:
        if not len(part.columns):
            continue
        for name in found["participant_id"]:
            if name not in part.index:
                raise FileError(f"{os.fspath(path)} has nothing of {name}, who is in {os.fspath(table)}")
        found = pd.concat([found, part.reindex(found["participant_id"]).reset_index(drop=True)], axis=1)
    if found.columns.duplicated().any():
        raise FileError(f"{found.columns[found.columns.duplicated()][0]} is the name of two variables")
    found.attrs = attributes
    return found


def _long(path: str | os.PathLike[str], needed: Sequence[str]) -> pd.DataFrame:
    table = files.read_table(path, ["participant_id", *needed], long=True)
    return typed(table)


def _from_rois(path: str | os.PathLike[str]) -> pd.DataFrame:
    long = _long(path, ["structure", "side", "map"])
    require(long, ("mean", "median", "sd", "volume", "volume_normalised", "mass"), path)
    sided = long["side"].isin(["left", "right"])
    place = long["structure"].where(~sided, long["side"] + "." + long["structure"])
    parts = []
    kinds = {"mean": "", "median": ".median", "sd": ".sd", "mass": ".mass"}
    if "mass_raw" in long and long["volume_normalised"].notna().any():
        kinds["mass_raw"] = ".mass_raw"
    for value, suffix in kinds.items():
        parts.append(long.assign(variable=place + "." + long["map"] + suffix, value=long[value]))
    for value in ("volume", "volume_normalised"):
        # The same in the rows of all maps.
        rows = ~pd.DataFrame({"who": long["participant_id"], "where": place}).duplicated()
        parts.append(long.assign(variable=place + "." + value, value=long[value])[rows])
    return _wide(pd.concat(parts), path)


def _wide(long: pd.DataFrame, path: str | os.PathLike[str]) -> pd.DataFrame:
    twice = long.duplicated(["participant_id", "variable"])
    if twice.any():
        row = long[twice].iloc[0]
        raise FileError(f"{os.fspath(path)} has {row['variable']} of {row['participant_id']} twice")
    order = long["variable"].unique()
    wide = long.pivot(index="participant_id", columns="variable", values="value")[order].astype(float)
    wide.columns.name = None
    return wide.dropna(axis=1, how="all")


def _from_clusters(name: str, path: str | os.PathLike[str]) -> pd.DataFrame:
    lines = files.read_table(path, [], long=True, may_be_empty=True)
    require(lines, ("participant_id", "cluster", "mean", "eigenvariate"), path)
    if not len(lines):
        return pd.DataFrame()
    long = typed(lines)
    place = name + "." + long["cluster"].astype(int).astype(str)
    best = "eigenvariate_z" if "eigenvariate_z" in long.columns else "eigenvariate"
    parts = [
        long.assign(variable=place, value=long[best]),
        long.assign(variable=place + ".mean", value=long["mean"]),
    ]
    return _wide(pd.concat(parts), path)


@dataclass(frozen=True, eq=False)
class Groups:
    """Who belongs to which group.

    Attributes
    ----------
    levels : tuple of str
        The groups, in their order.
    codes : (n,) int64
        Index into `levels`; -1 for those who are left out: their group is missing, or not in the order.
    """

    levels: tuple[str, ...]
    codes: NDArray[np.int64]

    def counts(self) -> dict[str, int]:
        """Participants of each group."""
        return {level: int((self.codes == i).sum()) for i, level in enumerate(self.levels)}


def assign_groups(table: pd.DataFrame, group: str, order: Sequence[str] = ()) -> Groups:
    """Groups of a table.

    Parameters
    ----------
    table : DataFrame
        See `tables.typed`.
    group : str
        Column with the group of each participant; who has none is left out.
    order : sequence of str, optional
        The groups that are compared, differences being the first less the second; others are left out. By default
        all, sorted.

    Raises
    ------
    ValueError
        No such column or group, fewer than two groups, or a group of one participant.
    """
    require(table, [group], "the table")
    check_categories(table, group, "the table")
    there = dict(zip(labels(table[group].dropna()), table[group].dropna().tolist()))
    levels = tuple(order) or tuple(name for name, value in sorted(there.items(), key=lambda pair: pair[1]))
    for level in levels:
        if level not in there:
            raise FileError(f"nobody has {group} {level!r}; there are {', '.join(sorted(there)) or 'none'}")
    if len(set(levels)) < max(len(levels), 2):
        raise FileError(f"the groups are {', '.join(levels) or 'none'}; two different ones at least are needed")
    names = labels(table[group])
    numbers = {level: i for i, level in enumerate(levels)}
    codes = np.array([numbers.get(name, -1) for name in names], dtype=np.int64)
    groups = Groups(levels, codes)
    for level, n in groups.counts().items():
        if n < 2:
            raise FileError(f"the {group} {level} has one participant; at least 2 are needed")
    return groups
