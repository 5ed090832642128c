"""Hierarchical linear regression on raw predictors or adjusted z-scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError, InputError, OptionError, UsageError
from gpuvox.study.statistics import least_squares
from gpuvox.study.statistics.adjustment import adjusted
from gpuvox.study.statistics.sources import (
    DETERMINED,
    INTERVALS,
    Data,
    Result,
    Source,
    bootstrap_record,
    check_correction,
    check_strata,
    complete_cases,
    corrected_p,
    count_of,
    find_columns,
    interval_columns,
    is_numeric,
    numbers_of,
    read_data,
    record_of,
    strata_of,
    undetermined_message,
)
from gpuvox.tables.columns import indicators, matching, require
from gpuvox.types import Bools, Float64

BOOTSTRAP = (*INTERVALS, DETERMINED)


@dataclass(frozen=True, kw_only=True)
class Regression(Source):
    """A family of hierarchical regressions; ``gpuvox models regression``.

    Attributes
    ----------
    outcome : str
    blocks : dict of str to sequence of str
        Name → variables (or patterns) of each block, in order of entry.
    each : sequence of str
        Variables (or patterns): one model for each, as its last block. None: a single model.
    adjust : sequence of str
        Covariates for which predictors are adjusted: they become z-scores of a group's residuals.
    reference : str
        Condition for the group in which the adjustment is estimated. The subset is used if it is empty, and for
        predictors that are missing or constant in that group.
    adjusted : sequence of str
        Predictors (or patterns) that are adjusted; by default numeric ones with more than two values that are not
        covariates of the adjustment.
    bootstrap, seed : int
        Number of resamples; 0 for none.
    strata : sequence of str
        Variables (or patterns) within whose combinations of values participants are resampled.
    correction : {"fdr_bh", "bonferroni", "none"}
        Correction over the models, of the P of the last block's F change.
    """

    outcome: str
    blocks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    each: Sequence[str] = ()
    adjust: Sequence[str] = ()
    reference: str = ""
    adjusted: Sequence[str] = ()
    bootstrap: int = 0
    strata: Sequence[str] = ()
    seed: int = 0
    correction: str = "fdr_bh"


MODEL_COLUMNS = {
    "model": "the variable of the last block; with a single model, the outcome",
    "outcome": "dependent variable",
    "block": "step of the hierarchical regression; each includes the predictors of earlier blocks",
    "predictors": "predictors that the block adds; name[value] is 1 for this value of a text and 0 for others",
    "n": "participants of the subset with known values of every variable of the model",
    "r2": "R2 of this block and the earlier ones",
    "r2_adjusted": "R2 adjusted for the number of predictors",
    "r2_change": "R2 that the block adds",
    **interval_columns("R2 change"),
    "f_change": "F of the block given the earlier ones",
    "df1": "degrees of freedom of F, numerator",
    "df2": "degrees of freedom of F, denominator",
    "p_change": "P of F, not corrected",
    "p_corrected": "P of the last block's F, corrected over the models",
}
COEFFICIENT_COLUMNS = {
    "model": MODEL_COLUMNS["model"],
    "block": "step of the hierarchical regression",
    "predictor": "predictor of this block or an earlier one",
    "B": "coefficient",
    "se": "its standard error",
    "beta": "standardised coefficient: B times the SD of the predictor over that of the outcome",
    "t": "B over its standard error",
    "p": "two-sided P of t, not corrected; if the last block has one predictor, it equals the P of the F change",
    "low": "lower end of the 95 % confidence interval of B, by t",
    "high": "upper end of the 95 % confidence interval of B, by t",
    "vif": "variance inflation factor",
    **interval_columns("B"),
}
DATA_COLUMNS = {
    "model": MODEL_COLUMNS["model"],
    "participant_id": "participant",
    "role": "outcome, predictor, or fitted: what the whole model predicts",
    "block": "block of a predictor",
    "variable": "name",
    "value": "value as analysed: log-transformed, adjusted",
    "residual": "outcome and predictors of the last block: residuals given the earlier blocks (added-variable plots)",
}


def regression(command: Regression) -> Result:
    """Hierarchical regressions: one, or one for each of several variables.

    Parameters
    ----------
    command : Regression

    Returns
    -------
    Result
        Tables ``""`` (one row per model and block), ``"_coefficients"`` and ``"_data"`` (the values analysed).

    Raises
    ------
    FileError
        Something is wrong with the files or the command; the message is one sentence.
    """
    check_correction(command.correction)
    check_strata(command.strata, command.bootstrap)
    data = read_data(command, command.reference)
    plan = _plan(command, data.table)
    predictors = list(dict.fromkeys(name for blocks in plan.values() for b in blocks.values() for name in b))
    data, groups = _adjust(command, data, predictors)
    fitted = [_Fitted.of(command, data, model, blocks) for model, blocks in plan.items()]
    last = [one.blocks[-1].p_change for one in fitted]
    overview = pd.DataFrame([row for one in fitted for row in one.overview()], columns=list(MODEL_COLUMNS))
    is_last = ~overview["model"].duplicated(keep="last")
    overview["p_corrected"] = np.nan
    overview.loc[is_last, "p_corrected"] = corrected_p(last, command.correction)
    return Result(
        {
            "_data": pd.concat([one.data() for one in fitted], ignore_index=True)[list(DATA_COLUMNS)],
            "_coefficients": pd.concat([one.coefficients() for one in fitted])[list(COEFFICIENT_COLUMNS)],
            "": overview,
        },
        _regression_record(command, data, fitted, groups),
        [*data.out.lines(), *_regression_messages(command, fitted, groups, overview["p_corrected"][is_last])],
    )


def _plan(command: Regression, table: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Variables of each block of each model."""
    require(table, [command.outcome], command.origin)
    numbers_of(table, command.outcome, command)
    place: dict[str, str] = {command.outcome: "the outcome"}
    blocks = {n: find_columns(table, c, f"block {n}", command) for n, c in command.blocks.items()}
    each = find_columns(table, command.each, "each", command)
    if not (each or blocks):
        raise UsageError("a regression needs predictors: --block NAME=COLUMNS, or --each COLUMNS")
    for block, names in [*((f"--block {n}", names) for n, names in blocks.items()), ("--each", each)]:
        for name in names:
            if name in place:
                raise OptionError(block, f"{name} is already {place[name]}")
            place[name] = f"a predictor of {block}"
    for name in each:
        if name in blocks:
            raise OptionError(f"--block {name}", "--each makes a block of this name; choose another")
    return {name: {**blocks, name: [name]} for name in each} or {command.outcome: blocks}


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A model to fit."""

    model: str
    outcome: str
    rows: pd.DataFrame
    frames: dict[str, pd.DataFrame]
    blocks: list[least_squares.Block]
    boot: least_squares.Bootstrap | None
    excluded: dict[str, list[str]]

    @classmethod
    def of(cls, command: Regression, data: Data, model: str, blocks: Mapping[str, Sequence[str]]) -> _Fitted:
        """Fit the model."""
        what = f"{command.origin}, model {model}"
        rows, excluded = complete_cases(
            data, [command.outcome, *(c for names in blocks.values() for c in names)], what
        )
        frames = {block: indicators(rows, names, command.origin) for block, names in blocks.items()}
        y, boot = rows[command.outcome].to_numpy(dtype=np.float64), None
        strata = strata_of(data, rows, command.strata, command)
        try:
            fitted = least_squares.hierarchical_regression(y, frames)
            if command.bootstrap:
                X = np.column_stack([frame.to_numpy() for frame in frames.values()])
                statistic = least_squares.regression_statistic(y, X, [frame.shape[1] for frame in frames.values()])
                boot = least_squares.bootstrap(statistic, len(y), command.bootstrap, command.seed, strata=strata)
        except InputError as error:
            raise FileError(f"{what}: {error}") from None
        return cls(model, command.outcome, rows, frames, fitted, boot, excluded)

    @property
    def undetermined(self) -> int:
        """Number of resamples that do not determine a coefficient or ΔR²."""
        return 0 if self.boot is None else int(np.isnan(self.boot.samples).any(axis=1).sum())

    def _intervals(self) -> list[tuple[Float64, Float64]]:
        """For each block, (m, 5) `BOOTSTRAP` columns of the coefficients and (5,) of ΔR²; NaN without a bootstrap."""
        intervals, start = [], 0
        for block in self.blocks:
            stop = start + len(block.coefficients)
            ends = np.full((stop + 1 - start, len(BOOTSTRAP)), np.nan)
            if self.boot is not None:
                parts = [self.boot.percentile, self.boot.bca, self.boot.determined[:, None]]
                ends = np.hstack(parts)[start : stop + 1]
            intervals.append((ends[:-1], ends[-1]))
            start = stop + 1
        return intervals

    def overview(self) -> list[dict[str, Any]]:
        """One row per block."""
        return [
            {
                "model": self.model,
                "outcome": self.outcome,
                "block": block.name,
                "predictors": ", ".join(self.frames[block.name].columns),
                "n": len(self.rows),
                "r2": block.r2,
                "r2_adjusted": block.r2_adjusted,
                "r2_change": block.r2_change,
                **dict(zip(BOOTSTRAP, change)),
                "f_change": block.f_change,
                "df1": block.df_change[0],
                "df2": block.df_change[1],
                "p_change": block.p_change,
            }
            for block, (_, change) in zip(self.blocks, self._intervals())
        ]

    def coefficients(self) -> pd.DataFrame:
        """One row per block and predictor."""
        parts = []
        for block, (ends, _) in zip(self.blocks, self._intervals()):
            part = block.coefficients.rename_axis("predictor").reset_index()
            part[list(BOOTSTRAP)] = ends
            parts.append(part.assign(model=self.model, block=block.name))
        return pd.concat(parts)

    def data(self) -> pd.DataFrame:
        """One row per participant and variable."""
        *before, last = self.frames
        y = self.rows[self.outcome].to_numpy(dtype=np.float64)
        X = np.column_stack([np.ones(len(y)), *(frame.to_numpy() for frame in self.frames.values())])
        known = X[:, : X.shape[1] - self.frames[last].shape[1]]
        columns: list[tuple[str, str | None, str, Float64, Float64 | float]]
        columns = [("outcome", None, self.outcome, y, _residuals(y, known))]
        for block in [*before, last]:
            for name, column in self.frames[block].items():
                values = column.to_numpy(dtype=np.float64)
                residual = _residuals(values, known) if block == last else np.nan
                columns.append(("predictor", block, str(name), values, residual))
        columns.append(("fitted", None, self.outcome, y - _residuals(y, X), np.nan))
        parts = [
            pd.DataFrame(
                {"participant_id": self.rows["participant_id"], "role": role, "block": block, "variable": variable,
                 "value": value, "residual": residual}
            )
            for role, block, variable, value, residual in columns
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True).assign(model=self.model)


def _residuals(values: Float64, X: Float64) -> Float64:
    """Residuals of a regression."""
    scale = np.abs(X).max(axis=0)
    return values - (X / scale) @ np.linalg.lstsq(X / scale, values, rcond=None)[0]


def _regression_record(
    command: Regression, data: Data, fitted: Sequence[_Fitted], groups: Mapping[str, tuple[str, int]]
) -> dict[str, Any]:
    adjustment = {
        "covariates": list(command.adjust),
        "unit": "SD of the residuals of the group in which the covariates' coefficients are estimated",
        "group_by_predictor": {name: group for name, (group, _) in groups.items()},
        "n_by_predictor": {name: n for name, (_, n) in groups.items()},
    }
    return {
        **record_of(command, data),
        "analysis": "hierarchical linear regression, ordinary least squares",
        "adjustment": adjustment if groups else None,
        "bootstrap": bootstrap_record(command.bootstrap, command.seed, command.strata, _without_interval(fitted)),
        "correction": {
            "method": command.correction,
            "family": f"P of the last block's F change, {count_of(len(fitted), 'model')}",
        },
        "models": {
            one.model: {
                "n": len(one.rows),
                "excluded": one.excluded,
                "resamples_not_determined": one.undetermined if command.bootstrap else None,
            }
            for one in fitted
        },
        "columns": {"": MODEL_COLUMNS, "_coefficients": COEFFICIENT_COLUMNS, "_data": DATA_COLUMNS},
    }


def _regression_messages(
    command: Regression, fitted: Sequence[_Fitted], groups: Mapping[str, tuple[str, int]], corrected: pd.Series
) -> list[str]:
    sizes = [len(one.rows) for one in fitted]
    n = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    messages = [f"{count_of(len(fitted), 'model')} of {command.outcome}, n = {n}"]
    if command.correction != "none":
        messages[0] += (
            f"; corrected P of the last block < .05 in {int((corrected < 0.05).sum())} ({command.correction})"
        )
    for where in dict.fromkeys(groups.values()):
        names = [name for name, place in groups.items() if place == where]
        place = f"{where[0]} (n = {where[1]})"
        how = f"adjusted for {', '.join(command.adjust)}" if command.adjust else "z-scores"
        messages.append(f"{how} in {place}: {', '.join(names)}")
    weak = {one.model: one.undetermined for one in fitted if one.undetermined}
    if weak:
        counts = ", ".join(f"{model} {count}" for model, count in weak.items())
        messages.append(f"of {command.bootstrap} resamples, those that do not determine the model: {counts}")
    return messages + undetermined_message(command.bootstrap, _without_interval(fitted))


def _without_interval(fitted: Sequence[_Fitted]) -> list[str]:
    """Predictors, and blocks' ΔR², whose bootstrap has too few resamples."""
    titles = []
    for one in fitted:
        if one.boot is None:
            continue
        names = [
            name
            for block in one.blocks
            for name in (*map(str, block.coefficients.index), f"R2 change of {block.name}")
        ]
        titles += [f"{name} ({one.model})" for name, ends in zip(names, one.boot.percentile) if np.isnan(ends[0])]
    return list(dict.fromkeys(titles))


def _adjust(command: Regression, data: Data, predictors: Sequence[str]) -> tuple[Data, dict[str, tuple[str, int]]]:
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
    groups = {}
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


def _to_adjust(command: Regression, data: Data, predictors: Sequence[str], covariates: Sequence[str]) -> list[str]:
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
