"""Variables of a model as z-scores of the residuals of a reference group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.study.statistics.sources import Data, find_columns, is_numeric, numbers_of
from gpuvox.tables.columns import indicators, matching
from gpuvox.types import Bools, Float64

Groups = Mapping[str, tuple[str, int]]
"""Variable → condition of the group in which it was adjusted, and its size."""


class Adjusting(Protocol):
    """A command that adjusts variables; see `regression.Regression`."""

    @property
    def adjust(self) -> Sequence[str]:
        """Covariates."""

    @property
    def reference(self) -> str:
        """Condition of the reference group."""

    @property
    def adjusted(self) -> Sequence[str]:
        """Variables that are adjusted."""

    @property
    def subset(self) -> str:
        """Condition of the participants analysed."""

    @property
    def origin(self) -> str:
        """Description of the files."""


def adjustment_record(command: Adjusting, groups: Groups) -> dict[str, Any]:
    """Entries of the JSON file."""
    return {
        "covariates": list(command.adjust),
        "unit": "SD of the residuals of the group in which the covariates' coefficients are estimated",
        "group_by_predictor": {name: group for name, (group, _) in groups.items()},
        "n_by_predictor": {name: n for name, (_, n) in groups.items()},
    }


def adjustment_lines(command: Adjusting, groups: Groups) -> list[str]:
    """Which variables were adjusted in which group, a line for each group."""
    lines = []
    for where in dict.fromkeys(groups.values()):
        names = [name for name, place in groups.items() if place == where]
        place = f"{where[0]} (n = {where[1]})"
        how = f"adjusted for {', '.join(command.adjust)}" if command.adjust else "z-scores"
        lines.append(f"{how} in {place}: {', '.join(names)}")
    return lines


def z_scored(command: Any, data: Data, predictors: Sequence[str]) -> tuple[Data, Groups]:
    """Predictors as z-scores of a group's residuals; the group and its size, by predictor."""
    if not (command.adjust or command.adjusted):
        if command.reference:
            raise OptionError(
                "--reference", "requires --adjust (covariates) or --adjusted (predictors to be z-scores)"
            )
        return data, {}
    covariates = find_columns(data.table, command.adjust, "adjust", command)
    table, people = data.table.copy(), data.chosen | data.reference
    known = people & table[covariates].notna().all(axis=1).to_numpy()
    design = indicators(table[known], covariates, command.origin).reindex(table.index).to_numpy()
    groups: dict[str, tuple[str, int]] = {}
    for name in _to_adjust(command, data, predictors, covariates):
        values = numbers_of(table, name, command)
        rows = known & np.isfinite(values)
        group, inside = command.reference, rows & data.reference
        if not inside.any() or (inside.sum() > 1 and np.ptp(values[inside]) == 0):
            group, inside = command.subset, rows & data.chosen
        z = np.full(len(table), np.nan)
        z[rows] = _z(name, values[rows], design[rows], inside[rows], covariates)
        table[name], groups[name] = z, (group or "all participants", int(inside.sum()))
    return replace(data, table=table), groups


def _to_adjust(command: Adjusting, data: Data, predictors: Sequence[str], covariates: Sequence[str]) -> list[str]:
    if not command.adjusted:
        analysed = data.table[data.chosen]
        return [
            name
            for name in predictors
            if name not in covariates and is_numeric(analysed, name) and analysed[name].nunique() > 2
        ]
    try:
        chosen = matching(predictors, command.adjusted, "the list of predictors")
    except InputError as error:
        raise OptionError("--adjusted", error.message) from None
    for name in chosen:
        if name in covariates:
            raise OptionError("--adjusted", f"{name} cannot be adjusted for itself")
    return chosen


def _z(name: str, values: Float64, design: Float64, inside: Bools, covariates: Sequence[str]) -> Float64:
    what = f"{name} cannot be {'adjusted for ' + ', '.join(covariates) if covariates else 'a z-score'}"
    try:
        return adjusted(values, design, inside)
    except InputError as error:
        raise FileError(f"{what}: {error}") from None
