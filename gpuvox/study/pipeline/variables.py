"""Variables named in the file of a study, checked before any stage runs: that they exist and have the right type.

The values of columns of the table are known. Of measures of regions and clusters only the names are known in
advance; their values are checked when they exist.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
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
from gpuvox.tables.columns import MOST_COMPARED, fitting, indicators, matching
from gpuvox.tables.conditions import select
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.reading import label
from gpuvox.types import Bools

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
        return names

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

    def positive(self, where: Where, names: Sequence[str], rows: Bools | None, *, or_zero: bool = False) -> None:
        """Raise `FileError` for a value that has no logarithm."""
        self.numbers(where, names)
        for name in names:
            if rows is None or not self.is_known(name):
                continue
            values = self.columns[name].to_numpy(dtype=np.float64)
            bad = np.flatnonzero(rows & ((values < 0) if or_zero else (values <= 0)))
            if len(bad):
                who = self.columns["participant_id"].iloc[bad[0]]
                expected = "values that are not negative" if or_zero else "positive values"
                raise self.config.error(
                    where, f"{name} of {who} is {values[bad[0]]:g}; a logarithm needs {expected}"
                )

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
        inside = self._check_groups(reference)
        self._check_demographics()
        for number, table in enumerate(config.group_table):
            self._check_group_table(("group_table", number), table)
        for number, regression in enumerate(config.regression):
            self._check_regression(("regression", number), regression, inside)
        for number, correlation in enumerate(config.correlation):
            self._check_correlation(("correlation", number), correlation)
        for number, size in enumerate(config.sample_size):
            self._check_sample_size(("sample_size", number), size)
        self.find(("report", "zscores"), config.report.zscores)
        self.numbers(("report", "zscores"), [name for name in config.report.zscores if self.is_known(name)])

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
            if name == groups.column:
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
        group = group_table.group or groups.column
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
        self._exact((*where, "outcome"), model.outcome)
        self.numbers((*where, "outcome"), [model.outcome])
        keys: dict[Where, Sequence[str]] = {(*where, "blocks", n): each for n, each in model.blocks.items()}
        keys[(*where, "each")] = model.each
        predictors_of = {key: self.find(key, each) for key, each in keys.items()}
        place = {model.outcome: "the outcome"}
        for key, names in predictors_of.items():
            for name in names:
                if name in place:
                    raise self.config.error(key, f"{name} is {place[name]} already")
                place[name] = f"a predictor of {key[-1]}"
        each = predictors_of.pop((*where, "each"))
        for name in set(model.blocks).intersection(each):
            raise self.config.error((*where, "blocks"), f"each makes a block {name}; choose another name")
        rows = self.rows((*where, "subset"), model.subset)
        common = [model.outcome, *(name for names in predictors_of.values() for name in names)]
        for names in [[*common, name] for name in each] or [common]:
            whole = self.complete(where, names, rows)
            if whole is not None:
                self._indicators(where, names, whole)
        predictors = [name for name in place if name != model.outcome]
        for name in self._adjusted((*where, "adjusted"), model.adjusted, predictors):
            if rows is not None:
                self._adjustable((*where, "adjusted"), name, inside, rows | inside)
        self._check_log(where, model.log, rows, inside if model.adjusted else None)
        self._check_strata(where, model)

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

    def _check_log(
        self, where: Where, patterns: Sequence[str], rows: Bools | None, inside: Bools | None = None
    ) -> None:
        """Check the logarithms of a model, also in the reference group unless a variable is missing there."""
        key = (*where, "log")
        for name in self.find(key, patterns):
            self.numbers(key, [name])
            checked_rows = rows
            if rows is not None and inside is not None and self.is_known(name):
                has_some = bool((self.columns[name].to_numpy(dtype=np.float64)[inside] > 0).any())
                checked_rows = rows | (inside & has_some)
            self.positive(key, [name], checked_rows)

    def _check_correlation(self, where: Where, model: Correlation) -> None:
        x, y, others = (self.find((*where, key), getattr(model, key)) for key in ("x", "y", "given"))
        for key, names in (("x", x), ("y", y)):
            for name in names:
                if name in others:
                    raise self.config.error((*where, "given"), f"{name} is of {key} already")
        if x == y and len(x) == 1:
            raise self.config.error((*where, "y"), f"{x[0]} is x already; another variable is needed")
        rows = self.rows((*where, "subset"), model.subset)
        for a in x:
            for b in y:
                if a != b:
                    whole = self.complete(where, [a, b, *others], rows)
                    self._two_values((*where, "x"), a, whole)
                    self._two_values((*where, "y"), b, whole)
                    if whole is not None:
                        self._indicators((*where, "given"), others, whole)
        self._check_log(where, model.log, rows)
        self._check_strata(where, model)

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
