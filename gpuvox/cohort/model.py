"""The model matrix of a formula for the rows of a table, and rows of it for any values of its variables.

Two things differ from R. Where the model has an intercept and a factor by itself, the first such factor has a column
for each of its levels, which takes the place of the intercept: the space of the model is the same, and the columns are
those of the classical design of two groups and a covariate. And columns of numbers have their mean over the rows
removed wherever the model holds the intercept (as ``center()`` does), so that the levels of a factor are compared at
the mean of the covariates also if these interact with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from keyword import iskeyword
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.cohort.formula import FUNCTIONS, Factor, no_formula, parse
from gpuvox.cohort.table import Cohort
from gpuvox.errors import DesignError
from gpuvox.partitioning import orthonormal_basis, standardised
from gpuvox.plain import listed, several
from gpuvox.tables.codes import codes_of_missing

Float64 = NDArray[np.float64]

CENTRED = ("center", "scale", "standardize", "poly", "bs", "cr", "cs", "cc")
"""Functions whose columns are left as they are: their means are 0, or they are a basis."""
CONTEXT = {"sqrt": np.sqrt}
"""Functions of formulas that formulaic does not have."""
COLLINEAR = 1e-7
"""A column is collinear with others if less than this share of it is left without them."""
SOME_LEVELS = 6
"""A column of at most so many whole numbers may be one of categories."""
MOST_CELLS = 100_000
"""Combinations of levels over which adjusted means are taken."""


@dataclass(frozen=True)
class Variable:
    """A column of the table that a model uses.

    Attributes
    ----------
    name : str
    levels : tuple of str
        Of a factor, the reference first; empty for a covariate.
    mean : float
        Of a covariate, over the rows of the model.
    linear : bool
        A covariate that the model takes as it is, without a function.
    """

    name: str
    levels: tuple[str, ...] = ()
    mean: float = 0.0
    linear: bool = True

    @property
    def is_factor(self) -> bool:
        """Whether its values are categories."""
        return bool(self.levels)


@dataclass(frozen=True)
class Term:
    """A term of a formula: its name, the variables in it, and the columns it has in the matrix."""

    name: str
    variables: tuple[str, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A model matrix, and how rows of it are made for any values of its variables.

    Attributes
    ----------
    formula : str
    matrix : (n, p) float64
    names : tuple of str
        Of the columns: ``group[HC]``, ``age``, ``group[MS]:age``.
    variables : dict of str to Variable
    terms : tuple of Term
    notes : tuple of str
        What was done with the columns, in sentences.
    warnings : tuple of str
        What may be a mistake.
    voxelwise : dict of int to str
        Columns whose values differ from voxel to voxel, with the names of their covariates; their numbers in the matrix
        only hold the place.
    """

    formula: str
    matrix: Float64
    names: tuple[str, ...]
    variables: Mapping[str, Variable]
    terms: tuple[Term, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    voxelwise: Mapping[int, str] = field(default_factory=dict)
    _spec: Any = None

    @property
    def factors(self) -> dict[str, Variable]:
        """The variables that are categories."""
        return {name: variable for name, variable in self.variables.items() if variable.is_factor}

    @property
    def covariates(self) -> dict[str, Variable]:
        """The variables that are numbers."""
        return {name: variable for name, variable in self.variables.items() if not variable.is_factor}

    def columns_of(self, name: str) -> tuple[int, ...]:
        """Columns of the matrix in which a variable takes part."""
        return tuple(sorted({column for term in self.terms if name in term.variables for column in term.columns}))

    def expected(self, levels: Mapping[str, str], shifts: Mapping[str, float] | None = None) -> Float64:
        """(p,) The row of the matrix that belongs to an adjusted mean.

        Parameters
        ----------
        levels : dict of str to str
            Factor → level. The mean is taken over all combinations of the levels of the other factors, with equal
            weights, whatever the number of rows in each.
        shifts : dict of str to float, optional
            Covariate → what is added to its mean over the rows; others are at their mean.

        Raises
        ------
        DesignError
            There are too many combinations of levels.
        """
        if self._spec is None:  # an intercept and nothing else
            return np.ones(1)
        cells = self._cells(levels)
        frame: dict[str, Any] = {
            name: pd.Categorical(column, self.variables[name].levels) for name, column in cells.items()
        }
        n = max((len(column) for column in cells.values()), default=1)
        for name, variable in self.covariates.items():
            frame[name] = np.full(n, variable.mean + (shifts or {}).get(name, 0.0))
        table = pd.DataFrame(frame, index=range(n)).rename(columns=_safe_names(self.variables))
        matrix = self._spec.get_model_matrix(table, context=CONTEXT, na_action="ignore")
        row: Float64 = np.asarray(matrix, dtype=np.float64).mean(axis=0)
        return row

    def _cells(self, levels: Mapping[str, str]) -> dict[str, list[str]]:
        """Factor → its level in each combination."""
        choices = {name: [levels[name]] if name in levels else list(f.levels) for name, f in self.factors.items()}
        if int(np.prod([len(each) for each in choices.values()], dtype=float)) > MOST_CELLS:
            raise DesignError(
                f"the factors {listed(list(choices))} have too many combinations of levels to take means over"
            )
        grids = np.meshgrid(*choices.values(), indexing="ij") if choices else []
        return {name: grid.reshape(-1).tolist() for name, grid in zip(choices, grids)}

    @cached_property
    def df(self) -> int:
        """Residual degrees of freedom."""
        return len(self.matrix) - orthonormal_basis(standardised(self.matrix)[0]).shape[1]

    @cached_property
    def dependencies(self) -> tuple[tuple[tuple[int, ...], Float64], ...]:
        """Sets of columns that are collinear: their numbers, and (p,) a combination of them that is 0 in every row.

        One for each column that is a linear combination of those before it.
        """
        scaled, scale = standardised(self.matrix)
        basis: list[int] = []
        found = []
        for column in range(scaled.shape[1]):
            weights = np.zeros(scaled.shape[1])
            weights[column] = -1
            residual = scaled[:, column]
            if basis:
                solution = np.linalg.lstsq(scaled[:, basis], residual, rcond=None)[0]
                residual = residual - scaled[:, basis] @ solution
                weights[basis] = np.where(np.abs(solution) > 1e-9, solution, 0.0)
            size = float(np.linalg.norm(scaled[:, column]))
            if float(np.linalg.norm(residual)) <= COLLINEAR * size:
                found.append((tuple(np.flatnonzero(weights).tolist()), weights / scale))
            else:
                basis.append(column)
        return tuple(found)

    def describe_dependency(self, columns: Sequence[int]) -> str:
        """Which columns are collinear, in words."""
        names = [self.names[column] for column in columns]
        if len(names) == 1:
            return f"{names[0]} is 0 in every row"
        return f"{listed(names[:-1], 6)} and {names[-1]} are collinear"


def one_sample(n: int) -> Model:
    """The model of one sample: an intercept."""
    return Model("1", np.ones((n, 1)), ("mean",), {}, (Term("1", (), (0,)),), (), ())


# -- the matrix -----------------------------------------------------------------------------------------------------


def build_model(formula: str, cohort: Cohort) -> Model:
    """The model matrix of a formula for the rows of a table, none of which lacks a value.

    Raises
    ------
    DesignError
        It is no formula; a column is the same in every row, or has no number where a function needs one.
    FileError
        The table has no such column, or a column of categories has numbers with slips.
    """
    terms, intercept = parse(formula, cohort)
    _check_voxelwise(terms, formula, cohort)
    if not terms:
        return one_sample(len(cohort))
    variables = _variables(terms, formula, cohort)
    centre = intercept or any(all(factor.category for factor in term) for term in terms)
    _check_distinct(terms, centre, formula)
    matrix, spec, slices = _materialise(terms, intercept, centre, cohort, variables)
    names = _readable_names(matrix.columns, _safe_names(variables))
    listed_terms = tuple(
        Term(
            ":".join(factor.name for factor in term), tuple(dict.fromkeys(c for f in term for c in f.columns)), at
        )
        for term, at in zip(terms, slices)
    )
    values = np.ascontiguousarray(matrix.to_numpy(dtype=np.float64))
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DesignError(
            f"{names[column]} of {cohort.who.named(int(row))} is no number in the model {formula!r}",
            option="--model",
        )
    notes = _notes(terms, variables, centre, cohort.voxelwise)
    doubts = _doubts(terms, variables, cohort)
    voxelwise = {term.columns[0]: term.name for term in listed_terms if term.name in cohort.voxelwise}
    return Model(formula, values, names, variables, listed_terms, notes, doubts, voxelwise, spec)


def _check_voxelwise(terms: Sequence[tuple[Factor, ...]], formula: str, cohort: Cohort) -> None:
    """Raise `DesignError` for a voxelwise covariate that is not a term by itself, or that the model does not have."""
    alone = {term[0].text for term in terms if len(term) == 1}
    for name in cohort.voxelwise:
        inside = [factor.text for term in terms for factor in term if name in factor.columns]
        if not inside:
            raise DesignError(
                f"the model {formula!r} does not have the voxelwise covariate {name}; add it, as in "
                f"'{formula} + {name}'",
                option="--model",
            )
        if name not in alone or len(inside) > 1:
            raise no_formula(
                formula,
                f"{name} has a value for every voxel, so it is a term by itself, without a function or an interaction",
            )


def _variables(terms: Sequence[tuple[Factor, ...]], formula: str, cohort: Cohort) -> dict[str, Variable]:
    factors = [factor for term in terms for factor in term]
    variables: dict[str, Variable] = {}
    for factor in factors:
        for name in factor.columns:
            as_category = {other.category for other in factors if name in other.columns}
            if len(as_category) > 1:
                raise no_formula(formula, f"{name} is both a category and a number in it")
            if name in variables:
                continue
            if name in (*FUNCTIONS, "C"):
                raise no_formula(formula, f"the column {name} has the name of a function; rename it in the table")
            if factor.category:
                references = {other.reference for other in factors if name in other.columns} - {""}
                variables[name] = _category(name, references, cohort)
            else:
                values = cohort.table[name].to_numpy(dtype=np.float64)
                _check_varies(name, len(np.unique(values)), f"{values[0]:g}", cohort)
                linear = all(other.linear for other in factors if name in other.columns)
                variables[name] = Variable(name, (), float(values.mean()), linear)
    return variables


def _category(name: str, references: set[str], cohort: Cohort) -> Variable:
    _, levels = cohort.categories(name)
    _check_varies(name, len(levels), levels[0], cohort)
    if len(references) > 1 or not references <= set(levels):
        raise DesignError(
            f"the reference level of {name} is {' and '.join(sorted(references))}; it has {listed(levels)}",
            option="--model",
        )
    ordered = (*references, *(level for level in levels if level not in references))
    return Variable(name, ordered)


def _check_varies(name: str, count: int, value: str, cohort: Cohort) -> None:
    if count < 2:
        raise DesignError(
            f"{name} is {value} in all {several(len(cohort), 'row')} that are analysed; take it out of the model",
            option="--model",
        )


def _check_distinct(terms: Sequence[tuple[Factor, ...]], centre: bool, formula: str) -> None:
    """``age * center(age)`` would be ``age`` alone, since means are removed anyhow."""
    seen: dict[str, str] = {}
    for factor in (factor for term in terms for factor in term):
        first = seen.setdefault(_expression(factor, centre, {}), factor.text)
        if first != factor.text:
            square = "" if factor.category else f"; a square is I({factor.columns[0]} ** 2)"
            raise no_formula(
                formula, f"{first} and {factor.text} are the same in it, so write one of them{square}"
            )


def _frame(variables: Mapping[str, Variable], cohort: Cohort) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name, variable in variables.items():
        if variable.is_factor:
            columns[name] = pd.Categorical(cohort.categories(name)[0], variable.levels)
        else:
            columns[name] = cohort.table[name].to_numpy(dtype=np.float64)
    return pd.DataFrame(columns)


def _safe_names(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Column → the name by which formulaic is told of it: that of a column which is no name in Python is replaced."""
    return {name: f"column_{i}_" for i, name in enumerate(variables) if not _is_python_name(name)}


def _is_python_name(name: str) -> bool:
    """Whether it names a variable in Python, which reads some letters as others: the micro sign as the Greek letter."""
    return name.isidentifier() and not iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _materialise(
    terms: Sequence[tuple[Factor, ...]],
    intercept: bool,
    centre: bool,
    cohort: Cohort,
    variables: Mapping[str, Variable],
) -> tuple[pd.DataFrame, Any, list[tuple[int, ...]]]:
    """The matrix, what makes further rows of it, and the columns of each term."""
    from formulaic import Formula

    safe = _safe_names(variables)
    parts = [[_expression(factor, centre, safe) for factor in term] for term in terms]
    cell_means = any(len(term) == 1 and term[0].category for term in terms)
    first = "0" if cell_means or not intercept else "1"
    parsed = Formula(" + ".join([first, *(":".join(each) for each in parts)]))
    with np.errstate(all="ignore"):  # what is no number is refused by name
        matrix = parsed.get_model_matrix(
            _frame(variables, cohort).rename(columns=safe),
            context=CONTEXT,
            na_action="ignore",
            ensure_full_rank=True,
        )
    spec = matrix.model_spec
    by_term = {
        frozenset(factor.expr for factor in term.factors): tuple(at) for term, at in spec.term_indices.items()
    }
    return pd.DataFrame(matrix), spec, [by_term[frozenset(each)] for each in parts]


def _expression(factor: Factor, centre: bool, safe: Mapping[str, str]) -> str:
    """A factor as formulaic evaluates it: a column of categories, or numbers less their mean."""
    text = factor.columns[0] if factor.category else factor.text
    text = safe.get(text, text)
    called = re.match(r"(\w+)\(", factor.text)
    if factor.category or not centre or (called and called[1] in CENTRED):
        return text
    return f"center({text})"


def _readable_names(columns: Iterable[str], safe: Mapping[str, str]) -> tuple[str, ...]:
    """Names of columns, all different: ``age`` and ``center(age)`` keep theirs where both are there."""
    given = [str(name) for name in columns]
    names = [_readable(name, safe) for name in given]
    return tuple(short if names.count(short) == 1 else name for short, name in zip(names, given))


def _readable(name: str, safe: Mapping[str, str]) -> str:
    """``group[T.MS]:center(age)`` → ``group[MS]:age``."""
    if name == "Intercept":
        return "mean"
    return ":".join(_readable_part(part, safe) for part in _split_name(name))


def _readable_part(part: str, safe: Mapping[str, str]) -> str:
    part = re.sub(r"^center\((.*)\)$", r"\1", part)
    part = re.sub(r"\[T\.(.*)\]$", r"[\1]", part)
    return next(
        (column + part.removeprefix(short) for column, short in safe.items() if part.startswith(short)), part
    )


def _split_name(name: str) -> list[str]:
    """Parts of the name of a column, at the colons outside of brackets."""
    parts, depth = [""], 0
    for letter in name:
        depth += (letter in "([") - (letter in ")]")
        if letter == ":" and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _notes(
    terms: Sequence[tuple[Factor, ...]],
    variables: Mapping[str, Variable],
    centre: bool,
    voxelwise: Sequence[str],
) -> tuple[str, ...]:
    """What was done with the columns."""
    notes = [
        f"{name}: {listed(v.levels)} (reference {v.levels[0]})" for name, v in variables.items() if v.is_factor
    ]
    notes += [f"{name}: an image for each row, with values of its own at every voxel" for name in voxelwise]
    every = (f for term in terms for f in term)
    numbers = list(dict.fromkeys(f for f in every if not f.category and f.text not in voxelwise))
    centred = [f for f in numbers if _expression(f, centre, {}) != f.text]
    if centred:
        means = [
            f"{f.name} (mean {variables[f.columns[0]].mean:.6g})" if f.name == f.columns[0] else f.name
            for f in centred
        ]
        notes.append(f"{listed(means)}: the mean over the rows is removed")
    elif numbers and not centre:
        notes.append(f"{listed([f.name for f in numbers])}: as in the table, since the model has no intercept")
    return tuple(notes)


def _doubts(
    terms: Sequence[tuple[Factor, ...]], variables: Mapping[str, Variable], cohort: Cohort
) -> tuple[str, ...]:
    """Possible mistakes: codes of categories or missing values that are read as numbers; levels with a single row."""
    doubts = []
    for name, variable in variables.items():
        if variable.is_factor:
            levels = cohort.categories(name)[0]
            single = [level for level in variable.levels if levels.count(level) == 1]
            if single and len(single) < len(variable.levels):
                doubts.append(f"{name} is {listed(single, 4)} in one row only, so that row is fitted exactly")
            continue
        if name not in cohort.voxelwise:
            doubts += codes_of_missing(cohort.table, [name], cohort.who.named)
        values = np.unique(cohort.table[name].to_numpy(dtype=np.float64))
        if 2 < len(values) <= SOME_LEVELS and (values == np.round(values)).all():
            doubts.append(
                f"{name} has the values {listed([f'{value:g}' for value in values])} and is used as a number; "
                f"C({name}) makes categories of them"
            )
    return tuple(doubts)
