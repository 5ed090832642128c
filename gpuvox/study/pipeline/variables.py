"""Variables named in the file of a study, checked before any stage runs: that they exist and have the right type.

The values of columns of the table are known. Of measures of regions and clusters only the names are known in
advance; their values are checked when they exist.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox.errors import FileError
from gpuvox.files.text import as_number
from gpuvox.study.pipeline.config import (
    Config,
    Correlation,
    Demographics,
    GroupTable,
    Regression,
    SampleSize,
    covariates_of,
    order_of,
)
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.study.statistics.ancova import AUTO, analysed, assign_families, check_finite
from gpuvox.study.statistics.demographics import COUNTS, demographics
from gpuvox.study.statistics.terms import EACH, parts_of
from gpuvox.study.statistics.transforms import FORMULAS
from gpuvox.tables.columns import MOST_COMPARED, fitting, indicators, matching
from gpuvox.tables.conditions import evaluate, select
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.reading import label
from gpuvox.types import Bools

ROOTS = {"log": "logarithm", "sqrt": "square root"}
Where = tuple[str | int, ...]
"""A key in the file."""


@dataclass(frozen=True, eq=False)
class Variables:
    """The variables of a study.

    Attributes
    ----------
    config : Config
    columns : DataFrame
        The table of the study's participants; see `tables.typed`.
    measured : sequence of str
        Names of the measures of regions.
    clusters : sequence of str
        Names of the comparisons whose clusters are measured.
    """

    config: Config
    columns: pd.DataFrame
    measured: Sequence[str]
    clusters: Sequence[str]

    @cached_property
    def names(self) -> list[str]:
        """Every variable; for each comparison the first cluster and those that the file names."""
        names = [name for name in self.columns.columns if name != "participant_id"] + list(self.measured)
        for name in self.clusters:
            numbers = dict.fromkeys(["1", *re.findall(rf"\b{re.escape(name)}\.(\d+)", self.config.text)])
            names += [f"{name}.{number}{mean}" for number in numbers for mean in ("", ".mean")]
        return list(dict.fromkeys([*names, *self.config.derived]))

    @property
    def table(self) -> str:
        """The file of the table, for messages."""
        return self.config.file(self.config.study.table)

    # -- one key ------------------------------------------------------------------------------------------------

    def find(self, where: Where, patterns: Sequence[str], names: Sequence[str] | None = None) -> list[str]:
        """Variables that match patterns, each once; `FileError` if a pattern matches none."""
        known = self.names if names is None else names
        matches: dict[str, None] = {}
        for pattern in patterns:
            named = fitting(known, pattern)
            if not named:
                near = difflib.get_close_matches(pattern, known[:MOST_COMPARED], 1, 0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise self.config.error(where, f"there is no variable {pattern!r}{hint}")
            matches.update(dict.fromkeys(named))
        return list(matches)

    def is_known(self, name: str) -> bool:
        """Whether the values of a variable are known already."""
        return name in self.columns.columns

    def is_text(self, name: str) -> bool:
        """Whether a variable is a text column."""
        return self.is_known(name) and not pd.api.types.is_numeric_dtype(self.columns[name])

    def numbers(self, where: Where, names: Sequence[str]) -> None:
        """Raise `FileError` for text; the message states the first cell that is not a number."""
        for name in names:
            if self.is_text(name):
                cells = self.columns[name].dropna()
                odd = next(i for i, cell in enumerate(cells) if np.isnan(as_number(cell)))
                who = self.columns["participant_id"].loc[cells.index[odd]]
                raise self.config.error(
                    where, f"{name} is text ({cells.iloc[odd]!r} of {who}); numbers are needed"
                )

    def rows(self, where: Where, condition: str) -> Bools | None:
        """Participants who fulfil a condition; None if that depends on measures that do not exist yet."""
        later = pd.DataFrame(np.nan, index=self.columns.index, columns=self.names)
        later[self.columns.columns] = self.columns
        with self.config.reading(where):
            select(later, condition)
        try:
            fulfils = select(self.columns, condition)
        except FileError:
            return None
        if not fulfils.any():
            raise self.config.error(where, f"no participant of the study fulfils {condition!r}")
        return fulfils

    def positive(
        self,
        where: Where,
        names: Sequence[str],
        rows: Bools | None,
        *,
        or_zero: bool = False,
        of: str = "logarithm",
    ) -> None:
        """Raise `FileError` for a value that has no logarithm, or no square root (`of`)."""
        self.numbers(where, names)
        for name in names:
            if rows is None or not self.is_known(name):
                continue
            values = self.columns[name].to_numpy(dtype=np.float64)
            bad = np.flatnonzero(rows & ((values < 0) if or_zero else (values <= 0)))
            if len(bad):
                who = self.columns["participant_id"].iloc[bad[0]]
                expected = "values that are not negative" if or_zero else "positive values"
                raise self.config.error(where, f"{name} of {who} is {values[bad[0]]:g}; a {of} needs {expected}")

    def complete(self, where: Where, names: Sequence[str], rows: Bools | None) -> pd.DataFrame | None:
        """Participants with values of the known variables; `FileError` if too few, or if a variable is constant."""
        if rows is None:
            return None
        chosen, known = self.columns[rows], [name for name in names if self.is_known(name)]
        whole = chosen[chosen[known].notna().all(axis=1)]
        if len(whole) < 3:
            raise self.config.error(
                where, f"{len(whole) or 'none'} of {len(chosen)} participants has all of {', '.join(known)}"
            )
        for name in known:
            if whole[name].nunique() == 1:
                value = label(whole[name].iloc[0])
                raise self.config.error(where, f"{name} is {value} in all {len(whole)} participants analysed")
        return whole

    # -- sections -----------------------------------------------------------------------------------------------

    def check(self, reference: str) -> None:
        """Raise `FileError` for the first error, with its key and line."""
        config = self.config
        for name in self.columns.columns:
            if name in self.measured:
                raise config.error(
                    ("study", "table"), f"the column {name!r} of {self.table} is a measure of a region"
                )
        self._check_derived()
        inside = self._check_groups(reference)
        self._check_demographics()
        for number, table in enumerate(config.group_table):
            self._check_group_table(("group_table", number), table)
        for number, regression in enumerate(config.regression):
            self._check_regression(("regression", number), regression, inside)
        for number, correlation in enumerate(config.correlation):
            self._check_correlation(("correlation", number), correlation, inside)
        for number, size in enumerate(config.sample_size):
            self._check_sample_size(("sample_size", number), size)
        self.find(("report", "zscores"), config.report.zscores)
        self.numbers(("report", "zscores"), [name for name in config.report.zscores if self.is_known(name)])

    def _check_derived(self) -> None:
        """Names that are not taken, and expressions of variables that there are by then."""
        taken = [name for name in self.names if name not in self.config.derived]
        later = pd.DataFrame(np.nan, index=self.columns.index, columns=[*taken, *self.config.derived])
        known = [name for name in self.columns.columns if name not in self.config.derived]
        later[known] = self.columns[known]
        for number, (name, expression) in enumerate(self.config.derived.items()):
            where: Where = ("derived", name)
            if name in self.measured or name in known:
                raise self.config.error(where, "there is a variable of this name already")
            there = later[["participant_id", *taken, *list(self.config.derived)[:number]]]
            with self.config.reading(where):
                evaluate(there, expression)

    def _check_groups(self, reference: str) -> Bools:
        """The reference group, which must allow the covariates to be estimated if clusters are measured."""
        with self.config.reading(("groups", "covariates")):
            _ = self.design
        with self.config.reading(("groups", "reference")):
            inside = select(self.columns, reference)
            if not inside.any():
                raise FileError(f"no participant of the study fulfils {reference!r}")
            if self.config.clusters is not None:
                adjusted(self.any_values, self.design, inside)
        return inside

    @cached_property
    def design(self) -> NDArray[np.float64]:
        """Covariates of the groups."""
        return indicators(self.columns, self.config.groups.covariates, self.table).to_numpy()

    @property
    def any_values(self) -> NDArray[np.float64]:
        """Check the covariates of a variable that is not measured yet."""
        return np.random.default_rng(0).normal(size=len(self.columns))

    def _check_demographics(self) -> None:
        settings, groups = self.config.demographics, self.config.groups
        if settings is None:
            return
        where: Where = ("demographics", "variables")
        described = self.find(where, settings.variables)
        for name in described:
            if groups.order and name == groups.column:
                raise self.config.error(where, f"{name} is the group")
            if self.is_known(name):
                with self.config.reading(where):
                    check_finite(self.columns[name])
        self._check_comparisons(settings)
        for name, test in settings.tests.items():
            if test not in COUNTS:
                self.numbers(("demographics", "tests", name), [name])
            with self.config.reading(("demographics", "tests", name)):
                if name not in described:
                    raise FileError(f"{name} is not among the variables of the demographics")
                if self.is_known(name):
                    demographics(self.columns, [name], groups.column, order=groups.order, tests={name: test})

    def _check_comparisons(self, settings: Demographics) -> None:
        for name, comparison in settings.comparisons.items():
            key: Where = ("demographics", "comparisons", name)
            self._exact((*key, "group"), comparison.group)
            if self.is_known(comparison.group):
                with self.config.reading(key):
                    assign_groups(self.columns, comparison.group, comparison.order)

    def _check_group_table(self, where: Where, group_table: GroupTable) -> None:
        groups, own = self.config.groups, group_table.covariates is not None
        covariates, order = covariates_of(groups, group_table), order_of(groups, group_table)
        group = group_table.group or (groups.column if groups.order else "")
        if not group:
            self._compared(where, group_table, [])
            self.rows((*where, "subset"), group_table.subset)
            return
        self._exact((*where, "group"), group)
        of_covariates: Where = (*where, "covariates") if own else where
        for name in covariates:
            self._exact(of_covariates, name)
        variables = self._compared(where, group_table, [group, *covariates])
        rows = self.rows((*where, "subset"), group_table.subset)
        if rows is not None and all(map(self.is_known, [group, *covariates])):
            part = self.columns[rows]
            with self.config.reading((*where, "order") if group_table.group or group_table.order else where):
                members = assign_groups(part, group, order, least=1 if len(order) == 1 else 2).codes
            if len(order) == 1:
                rows[rows] = members == 0
            else:
                with self.config.reading(of_covariates):
                    rows[rows] = analysed(part, group, order, covariates)[0]
        logs = self.find((*where, "log"), [name for name in group_table.log if name != AUTO], variables)
        self.positive((*where, "log"), logs, rows, or_zero=True)

    def _compared(self, where: Where, group_table: GroupTable, taken: Sequence[str]) -> list[str]:
        """Variables of a group table, each in one family."""
        patterns = {(*where, "variables"): group_table.variables}
        if not group_table.variables:
            patterns = {(*where, "families", name): each for name, each in group_table.families.items()}
        variables: list[str] = []
        for key, each in patterns.items():
            # A name selects a column of any kind; a pattern selects those that can be compared.
            names = [n for n in self.names if n in each or not (n in taken or self.is_text(n))]
            matches = self.find(key, each, names)
            for name in matches:
                if name in taken:
                    raise self.config.error(key, f"{name} is the group, or a covariate")
                if self.is_known(name):
                    with self.config.reading(key):
                        check_finite(self.columns[name])
            self.numbers(key, matches)
            variables = list(dict.fromkeys([*variables, *matches]))
        with self.config.reading((*where, "families")):
            assign_families(variables, group_table.families)
        return variables

    def _exact(self, where: Where, name: str) -> None:
        """Raise `FileError` unless this is the name of a variable, not a pattern."""
        if name not in self.names:
            self.find(where, [name])
            raise self.config.error(where, f"is {name!r}; expected the name of one variable")

    def _check_regression(self, where: Where, model: Regression, inside: Bools) -> None:
        rows = self.rows((*where, "subset"), model.subset)
        predictors: dict[str, None] = {}
        words = model.each if model.has_words else ("",)
        if model.has_words and not model.each:
            raise self.config.error(where, "the key 'each' is missing; {each} stands for its items")
        for outcome in model.outcomes:
            for word in words:
                filled = {name: [term.replace(EACH, word) for term in of] for name, of in model.blocks.items()}
                last = () if model.has_words else model.each
                found = self._check_model(where, model, outcome.replace(EACH, word), filled, last, rows)
                predictors |= dict.fromkeys(found)
        for name in self._adjusted((*where, "adjusted"), model.adjusted, list(predictors)):
            if rows is not None:
                self._adjustable((*where, "adjusted"), name, inside, rows | inside)
        self._check_transforms(where, model, rows, inside if model.adjusted else None)
        self.numbers((*where, "ladder"), self.find((*where, "ladder"), model.ladder))
        self._check_strata(where, model)

    def _check_model(
        self,
        where: Where,
        model: Regression,
        outcome: str,
        blocks: Mapping[str, Sequence[str]],
        last: Sequence[str],
        rows: Bools | None,
    ) -> list[str]:
        """The predictors of the models of an outcome; `last` are those of which each is the last block of one."""
        self._exact((*where, "outcome"), outcome)
        if model.model == "linear":
            self.numbers((*where, "outcome"), [outcome])
        keys: dict[Where, Sequence[str]] = {(*where, "blocks", n): each for n, each in blocks.items()}
        keys[(*where, "each")] = last
        predictors_of = {key: self._terms(key, each) for key, each in keys.items()}
        place = {outcome: "the outcome"}
        for key, names in predictors_of.items():
            for name in names:
                if name in place:
                    raise self.config.error(key, f"{name} is {place[name]} already")
                place[name] = f"a predictor of {key[-1]}"
        each = predictors_of.pop((*where, "each"))
        for name in set(model.blocks).intersection(each):
            raise self.config.error((*where, "blocks"), f"each makes a block {name}; choose another name")
        common = [outcome, *(name for names in predictors_of.values() for name in names)]
        for names in [[*common, name] for name in each] or [common]:
            whole = self.complete(where, [part for name in names for part in parts_of(name)], rows)
            if whole is not None:
                self._indicators(where, [name for name in names if name in self.names], whole)
        return [name for name in place if name != outcome and name in self.names]

    def _terms(self, where: Where, terms: Sequence[str]) -> list[str]:
        """Variables, and interactions of variables as they are."""
        names: list[str] = []
        for term in terms:
            if ":" in term and term not in self.names:
                for part in parts_of(term):
                    self._exact(where, part)
                names.append(term)
            else:
                names += [name for name in self.find(where, [term]) if name not in names]
        return names

    def _indicators(self, where: Where, names: Sequence[str], whole: pd.DataFrame) -> None:
        """Raise `FileError` for text that appears to be numeric with typing errors."""
        with self.config.reading(where):
            indicators(whole, [name for name in names if self.is_known(name)], self.table)

    def _adjusted(self, where: Where, patterns: Sequence[str], predictors: Sequence[str]) -> list[str]:
        """Predictors that are adjusted for the covariates of the groups."""
        self.find(where, patterns)
        with self.config.reading(where):
            chosen = matching(predictors, patterns, "the list of predictors")
        self.numbers(where, chosen)
        for name in chosen:
            if name in self.config.groups.covariates:
                raise self.config.error(where, f"{name} cannot be adjusted for itself")
        return chosen

    def _adjustable(self, where: Where, name: str, inside: Bools, people: Bools) -> None:
        """Raise `FileError` if the covariates cannot be estimated in the reference group of a model's participants."""
        values = self.any_values
        column_values = self.columns[name].to_numpy() if self.is_known(name) else values
        values[np.isnan(column_values)] = np.nan
        there = column_values[inside & np.isfinite(column_values)]
        # If the reference group has no values or constant ones, the model's participants are used instead.
        if len(there) == 1 or np.ptp(there if len(there) else [0]) > 0:
            with self.config.reading(where):
                design = indicators(self.columns[people], self.config.groups.covariates, self.table)
                adjusted(values[people], design.to_numpy(), inside[people])

    def _check_transforms(
        self, where: Where, model: Regression | Correlation, rows: Bools | None, inside: Bools | None = None
    ) -> None:
        """Check logarithms and roots, also in the reference group unless a variable is missing there."""
        for how in FORMULAS:
            key = (*where, how)
            for name in self.find(key, getattr(model, how)):
                self.numbers(key, [name])
                checked_rows = rows
                if rows is not None and inside is not None and self.is_known(name):
                    has_some = bool((self.columns[name].to_numpy(dtype=np.float64)[inside] > 0).any())
                    checked_rows = rows | (inside & has_some)
                if how != "rank":
                    self.positive(key, [name], checked_rows, or_zero=how == "sqrt", of=ROOTS[how])

    def _check_correlation(self, where: Where, model: Correlation, inside: Bools) -> None:
        x, y, others = (self.find((*where, key), getattr(model, key)) for key in ("x", "y", "given"))
        for key, names in (("x", x), ("y", y)):
            for name in names:
                if name in others:
                    raise self.config.error((*where, "given"), f"{name} is of {key} already")
        self._check_paired(where, model)
        if x == y and len(x) == 1:
            raise self.config.error((*where, "y"), f"{x[0]} is x already; another variable is needed")
        rows = self.rows((*where, "subset"), model.subset)
        for a, b in zip(model.x, model.y) if model.paired else [(a, b) for a in x for b in y if a != b]:
            whole = self.complete(where, [a, b, *others], rows)
            self._two_values((*where, "x"), a, whole)
            self._two_values((*where, "y"), b, whole)
            if whole is not None:
                self._indicators((*where, "given"), others, whole)
        for name in self._adjusted((*where, "adjusted"), model.adjusted, [*x, *y]):
            if rows is not None:
                self._adjustable((*where, "adjusted"), name, inside, rows | inside)
        self._check_transforms(where, model, rows, inside if model.adjusted else None)
        self._check_strata(where, model)

    def _check_paired(self, where: Where, model: Correlation) -> None:
        """Raise `FileError` unless pairs are as many of x as of y, each the name of one variable."""
        if model.paired and len(model.x) != len(model.y):
            message = f"has {len(model.y)} variables, and x {len(model.x)}; pairs need as many of both"
            raise self.config.error((*where, "y"), message)
        for name in (*model.x, *model.y) if model.paired else ():
            self._exact((*where, "x" if name in model.x else "y"), name)

    def _check_strata(self, where: Where, model: Regression | Correlation) -> None:
        """Raise `FileError` for strata of a bootstrap that is not requested, or that are unknown."""
        self.find((*where, "strata"), model.strata)
        if model.strata and not model.bootstrap:
            raise self.config.error((*where, "strata"), "bootstrap is 0; a number of resamples expected")

    def _two_values(self, where: Where, name: str, whole: pd.DataFrame | None) -> None:
        if whole is None or not self.is_text(name):
            return
        with self.config.reading(where):
            n = indicators(whole, [name], self.table).shape[1] + 1
        if n > 2:
            raise self.config.error(where, f"{name} is text with {n} values; numbers or two values are needed")

    def _check_sample_size(self, where: Where, model: SampleSize) -> None:
        groups, key = self.config.groups, (*where, "variables")
        outcomes = self.find(key, model.variables)
        for name in outcomes:
            if name in (groups.column, *groups.covariates):
                raise self.config.error(key, f"{name} is the group, or a covariate")
        self.numbers(key, outcomes)
        everyone = np.ones(len(self.columns), dtype=bool)
        for name in outcomes:
            self.complete(key, [name, groups.column, *groups.covariates], everyone)
