"""The clinical models of a study: tables of participants in, tables of regressions, correlations, sample sizes out.

Variables are columns of the table of participants, of regions (`gpuvox rois`) and of clusters (`gpuvox clusters`); see
`tables.gather` for their names. What is computed stands in `gpuvox.study.models`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import __version__, files
from gpuvox.files import FileError
from gpuvox.study import models, tables
from gpuvox.study.clusters import adjusted

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
CORRECTIONS = ("fdr_bh", "bonferroni", "none")
INTERVALS = ("bootstrap_low", "bootstrap_high", "bca_low", "bca_high")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where variables come from, and who is analysed.

    Attributes
    ----------
    table, rois : str
        Files; see `tables.gather`.
    clusters : dict of str to str
        Name → file.
    subset : str
        Condition on the variables as they are in the files; empty for everyone.
    log : sequence of str
        Variables (or patterns) of which the natural logarithm is analysed.
    """

    table: str
    rois: str = ""
    clusters: Mapping[str, str] = field(default_factory=dict)
    subset: str = ""
    log: Sequence[str] = ()

    @property
    def inputs(self) -> list[str]:
        """Files that are read."""
        return [self.table, *([self.rois] if self.rois else []), *self.clusters.values()]

    @property
    def origin(self) -> str:
        """For messages."""
        return " with ".join(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Regression(Source):
    """A family of hierarchical regressions; ``gpuvox models regression``.

    Attributes
    ----------
    outcome : str
    blocks : dict of str to sequence of str
        Name → variables (or patterns) of each block, in their order.
    each : sequence of str
        Variables (or patterns): one model for each, in which it is the last block. None: one model.
    adjust : sequence of str
        Covariates for which predictors are adjusted: each becomes the z of a group's residuals.
    reference : str
        Condition: the group in which this is estimated. The subset if empty, and for predictors that are missing
        there in everyone or the same.
    adjusted : sequence of str
        Predictors (or patterns) that are adjusted; by default those that are numbers of more than two kinds, and no
        covariate of the adjustment.
    bootstrap, seed : int
        Number of resamples; 0 for none.
    correction : {"fdr_bh", "bonferroni", "none"}
        Over the models, of the P of the last block's F change.
    """

    outcome: str
    blocks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    each: Sequence[str] = ()
    adjust: Sequence[str] = ()
    reference: str = ""
    adjusted: Sequence[str] = ()
    bootstrap: int = 0
    seed: int = 0
    correction: str = "fdr_bh"


@dataclass(frozen=True, kw_only=True)
class Correlations(Source):
    """A family of (partial) correlations; ``gpuvox models correlation``.

    Attributes
    ----------
    x, y : sequence of str
        Variables (or patterns); each of x with each of y, a pair once. Text with two values is 0 and 1.
    given : sequence of str
        Covariates.
    method : {"pearson", "spearman"}
    bootstrap, seed : int
        Number of resamples; 0 for none.
    correction : {"fdr_bh", "bonferroni", "none"}
        Over all of them.
    """

    x: Sequence[str]
    y: Sequence[str]
    given: Sequence[str] = ()
    method: str = "pearson"
    bootstrap: int = 0
    seed: int = 0
    correction: str = "fdr_bh"


@dataclass(frozen=True, kw_only=True)
class SampleSizes(Source):
    """Sample sizes from the difference of two groups; ``gpuvox models samplesize``.

    Attributes
    ----------
    group : str
        Column.
    order : sequence of str
        Its two values: the difference is the first less the second.
    variables : sequence of str
        Variables (or patterns).
    covariates : sequence of str
        Of an ANCOVA.
    reduction : float
        The effect to be found, as a share of the observed difference.
    power, alpha : float
        Two-sided.
    """

    group: str
    order: Sequence[str]
    variables: Sequence[str]
    covariates: Sequence[str] = ()
    reduction: float = 1.0
    power: float = 0.8
    alpha: float = 0.05


@dataclass(frozen=True, eq=False)
class Result:
    """What a command found.

    Attributes
    ----------
    tables : dict of str to DataFrame
        End of the name of a file → table.
    record : dict
        What was done, for the JSON file.
    messages : list of str
        For people.
    """

    tables: dict[str, pd.DataFrame]
    record: dict[str, Any]
    messages: list[str]


def write(result: Result, out: str) -> None:
    """Write the tables, and last the JSON file.

    Raises
    ------
    FileError
        A file cannot be written.
    """
    for suffix, table in result.tables.items():
        files.write_table(f"{out}{suffix}.tsv", table)
    files.write_json(f"{out}.json", result.record)


# -- variables ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Data:
    """Variables, logarithms taken; who is in the subset and who in the reference group."""

    table: pd.DataFrame
    chosen: Bool
    reference: Bool


def _read(source: Source, reference: str = "") -> _Data:
    table = tables.gather(source.table, source.rois or None, source.clusters)
    chosen = _group(table, source.subset, "subset", source)
    # Conditions are on the variables as they are in the files: before logarithms.
    inside = _group(table, reference, "reference", source) if reference else np.zeros(len(table), dtype=bool)
    for name in _columns(table, source.log, "log", source):
        values = _numbers(table, name, source)
        # A reference group that has none of it (no lesions) is not one for this variable; one that lacks some is wrong.
        bad = np.flatnonzero((chosen | (inside & (values[inside] > 0).any())) & (values <= 0))
        if len(bad):
            who = table["participant_id"].iloc[bad[0]]
            raise FileError(f"--log: {name} of {who} is {values[bad[0]]:g}; a logarithm needs positive values")
        table[name] = np.log(np.where(values > 0, values, np.nan))
    return _Data(table, chosen, inside)


def _group(table: pd.DataFrame, condition: str, option: str, source: Source) -> Bool:
    try:
        rows = tables.select(table, condition)
    except FileError as error:
        raise FileError(f"--{option}: {error}") from None
    if not rows.any():
        raise FileError(f"--{option}: no participant of {source.table} fits {condition!r}")
    return rows


def _columns(table: pd.DataFrame, patterns: Sequence[str], option: str, source: Source) -> list[str]:
    """Variables that an option names."""
    twice = [name for i, name in enumerate(patterns) if name in patterns[:i]]
    if twice:
        raise FileError(f"--{option} names {twice[0]!r} twice")
    try:
        return tables.matching([c for c in table.columns if c != "participant_id"], patterns, source.origin)
    except FileError as error:
        raise FileError(f"--{option}: {error}") from None


def _numeric(table: pd.DataFrame, name: str) -> bool:
    return pd.api.types.is_numeric_dtype(table[name])


def _numbers(table: pd.DataFrame, name: str, source: Source) -> Float64:
    if not _numeric(table, name):
        raise FileError(f"{source.origin}: {name} is text; numbers are needed")
    return table[name].to_numpy(dtype=np.float64)


def _complete(data: _Data, names: Sequence[str], what: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Participants of the subset who have every variable; what the others lack.

    Raises `FileError` if fewer than three are left, or one variable is the same in all.
    """
    table = data.table[data.chosen]
    missing = table[list(names)].isna()
    whole = table[~missing.any(axis=1)]
    if len(whole) < 3:
        count = len(whole) or "none"
        raise FileError(f"{what}: {count} of {_counted(len(table), 'participant')} has all of {', '.join(names)}")
    for name in names:
        if whole[name].nunique() == 1:
            raise FileError(f"{what}: {name} is {whole[name].iloc[0]} in all {len(whole)} participants analysed")
    lacking = {
        str(table["participant_id"].loc[i]): [str(c) for c in missing.columns[row]]
        for i, row in zip(table.index, missing.to_numpy())
        if row.any()
    }
    return whole, lacking


# -- adjustment -----------------------------------------------------------------------------------------------------


def _adjust(
    command: Regression, data: _Data, predictors: Sequence[str]
) -> tuple[_Data, dict[str, tuple[str, int]]]:
    """Predictors as z of a group's residuals; in which group, of how many, by predictor."""
    if not (command.adjust or command.adjusted):
        if command.reference:
            raise FileError("--reference needs --adjust or --adjusted: covariates, or what is to be a z-score")
        return data, {}
    covariates = _columns(data.table, command.adjust, "adjust", command)
    table, people = data.table.copy(), data.chosen | data.reference
    known = people & table[covariates].notna().all(axis=1).to_numpy()
    design = tables.indicators(table[known], covariates, command.origin).reindex(table.index).to_numpy()
    groups = {}
    for name in _to_adjust(command, data, predictors, covariates):
        values = _numbers(table, name, command)
        rows = known & np.isfinite(values)
        group, inside = command.reference, rows & data.reference
        if not inside.any() or (inside.sum() > 1 and np.ptp(values[inside]) == 0):
            group, inside = command.subset, rows & data.chosen
        z = np.full(len(table), np.nan)
        z[rows] = _z(name, values[rows], design[rows], inside[rows], covariates)
        table[name], groups[name] = z, (group or "all participants", int(inside.sum()))
    return _Data(table, data.chosen, data.reference), groups


def _to_adjust(
    command: Regression, data: _Data, predictors: Sequence[str], covariates: Sequence[str]
) -> list[str]:
    if not command.adjusted:
        analysed = data.table[data.chosen]
        return [
            name
            for name in predictors
            if name not in covariates and _numeric(analysed, name) and analysed[name].nunique() > 2
        ]
    try:
        found = tables.matching(predictors, command.adjusted, "the list of predictors")
    except FileError as error:
        raise FileError(f"--adjusted: {error}") from None
    for name in found:
        if name in covariates:
            raise FileError(f"--adjusted: {name} cannot be adjusted for itself")
    return found


def _z(name: str, values: Float64, design: Float64, inside: Bool, covariates: Sequence[str]) -> Float64:
    what = f"{name} cannot be {'adjusted for ' + ', '.join(covariates) if covariates else 'a z-score'}"
    try:
        return adjusted(values, design, inside)
    except ValueError as error:
        raise FileError(f"{what}: {error}") from None


# -- regression -----------------------------------------------------------------------------------------------------


def _intervals(what: str) -> dict[str, str]:
    """Descriptions of the columns of a bootstrap."""
    kinds = ("percentile", "percentile", "bias-corrected and accelerated", "bias-corrected and accelerated")
    ends = ("lower", "upper") * 2
    return {
        name: f"{end} end of the 95 % interval of {what} by bootstrap, {kind}"
        for name, end, kind in zip(INTERVALS, ends, kinds)
    }


MODEL_COLUMNS = {
    "model": "the variable that is the last block; with one model, the outcome",
    "outcome": "dependent variable",
    "block": "step of the hierarchical regression; each has the predictors of the blocks before it too",
    "predictors": "predictors that the block adds; name[value] is 1 for this value of a text and 0 for others",
    "n": "participants of the subset in whom every variable of the model is known",
    "r2": "R2 of this block and those before",
    "r2_adjusted": "R2 adjusted for the number of predictors",
    "r2_change": "R2 that the block adds",
    **_intervals("R2 change"),
    "f_change": "F of the block given those before",
    "df1": "degrees of freedom of F, numerator",
    "df2": "degrees of freedom of F, denominator",
    "p_change": "P of F, not corrected",
    "p_corrected": "P of the last block's F, corrected over the models",
}
COEFFICIENT_COLUMNS = {
    "model": MODEL_COLUMNS["model"],
    "block": "step of the hierarchical regression",
    "predictor": "predictor of this block or one before",
    "B": "coefficient",
    "se": "its standard error",
    "beta": "standardised coefficient: B times the SD of the predictor over that of the outcome",
    "t": "B over its standard error",
    "p": "two-sided P of t, not corrected; of a last block of one predictor it is the P of the F change",
    "low": "lower end of the 95 % confidence interval of B, by t",
    "high": "upper end of the 95 % confidence interval of B, by t",
    "vif": "variance inflation factor",
    **_intervals("B"),
}
DATA_COLUMNS = {
    "model": MODEL_COLUMNS["model"],
    "participant_id": "participant",
    "role": "outcome, predictor, or fitted: what the whole model predicts",
    "block": "block of a predictor",
    "variable": "name",
    "value": "as analysed: logarithm taken, adjusted",
    "residual": "outcome and predictors of the last block: what the blocks before leave (for added-variable plots)",
}


def regression(command: Regression) -> Result:
    """Hierarchical regressions: one, or one for each of several variables.

    Parameters
    ----------
    command : Regression

    Returns
    -------
    Result
        Tables ``""`` (a row for each model and block), ``"_coefficients"`` and ``"_data"`` (the values analysed).

    Raises
    ------
    FileError
        One sentence that says what is wrong with the files or the command.
    """
    _check_correction(command.correction)
    data = _read(command, command.reference)
    plan = _plan(command, data.table)
    predictors = list(dict.fromkeys(name for blocks in plan.values() for b in blocks.values() for name in b))
    data, groups = _adjust(command, data, predictors)
    fitted = [_Fitted.of(command, data, model, blocks) for model, blocks in plan.items()]
    last = [one.blocks[-1].p_change for one in fitted]
    overview = pd.DataFrame([row for one in fitted for row in one.overview()], columns=list(MODEL_COLUMNS))
    is_last = ~overview["model"].duplicated(keep="last")
    overview["p_corrected"] = np.nan
    overview.loc[is_last, "p_corrected"] = _corrected(last, command.correction)
    return Result(
        {
            "_data": pd.concat([one.data() for one in fitted], ignore_index=True)[list(DATA_COLUMNS)],
            "_coefficients": pd.concat([one.coefficients() for one in fitted])[list(COEFFICIENT_COLUMNS)],
            "": overview,
        },
        _regression_record(command, data, fitted, groups),
        _regression_messages(command, fitted, groups, overview["p_corrected"][is_last]),
    )


def _plan(command: Regression, table: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Variables of every block of every model."""
    tables.require(table, [command.outcome], command.origin)
    _numbers(table, command.outcome, command)
    place: dict[str, str] = {command.outcome: "the outcome"}
    blocks = {n: _columns(table, c, f"block {n}", command) for n, c in command.blocks.items()}
    each = _columns(table, command.each, "each", command)
    if not (each or blocks):
        raise FileError("a regression needs predictors: --block NAME=COLUMNS, or --each COLUMNS")
    for block, names in [*((f"--block {n}", names) for n, names in blocks.items()), ("--each", each)]:
        for name in names:
            if name in place:
                raise FileError(f"{block}: {name} is {place[name]} already")
            place[name] = f"a predictor of {block}"
    for name in each:
        if name in blocks:
            raise FileError(f"--block {name}: --each makes a block of this name; choose another")
    return {name: {**blocks, name: [name]} for name in each} or {command.outcome: blocks}


@dataclass(frozen=True, eq=False)
class _Fitted:
    """One model."""

    model: str
    outcome: str
    rows: pd.DataFrame
    frames: dict[str, pd.DataFrame]
    blocks: list[models.Block]
    boot: models.Bootstrap | None
    excluded: dict[str, list[str]]

    @classmethod
    def of(cls, command: Regression, data: _Data, model: str, blocks: Mapping[str, Sequence[str]]) -> _Fitted:
        """Fit it."""
        what = f"{command.origin}, model {model}"
        rows, excluded = _complete(data, [command.outcome, *(c for names in blocks.values() for c in names)], what)
        frames = {block: tables.indicators(rows, names, command.origin) for block, names in blocks.items()}
        y, boot = rows[command.outcome].to_numpy(dtype=np.float64), None
        try:
            found = models.hierarchical_regression(y, frames)
            if command.bootstrap:
                X = np.column_stack([frame.to_numpy() for frame in frames.values()])
                statistic = models.regression_statistic(y, X, [frame.shape[1] for frame in frames.values()])
                boot = models.bootstrap(statistic, len(y), command.bootstrap, command.seed)
        except ValueError as error:
            raise FileError(f"{what}: {error}") from None
        return cls(model, command.outcome, rows, frames, found, boot, excluded)

    @property
    def undetermined(self) -> int:
        """Resamples in which a coefficient or ΔR² is not determined."""
        return 0 if self.boot is None else int(np.isnan(self.boot.samples).any(axis=1).sum())

    def _intervals(self) -> list[tuple[Float64, Float64]]:
        """Of each block, (m, 4) intervals of the coefficients and (4,) of ΔR²; NaN without a bootstrap."""
        found, start = [], 0
        for block in self.blocks:
            stop = start + len(block.coefficients)
            ends = np.full((stop + 1 - start, 4), np.nan)
            if self.boot is not None:
                ends = np.hstack([self.boot.percentile, self.boot.bca])[start : stop + 1]
            found.append((ends[:-1], ends[-1]))
            start = stop + 1
        return found

    def overview(self) -> list[dict[str, Any]]:
        """A row for each block."""
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
                **dict(zip(INTERVALS, change)),
                "f_change": block.f_change,
                "df1": block.df_change[0],
                "df2": block.df_change[1],
                "p_change": block.p_change,
            }
            for block, (_, change) in zip(self.blocks, self._intervals())
        ]

    def coefficients(self) -> pd.DataFrame:
        """A row for each block and predictor."""
        parts = []
        for block, (ends, _) in zip(self.blocks, self._intervals()):
            part = block.coefficients.rename_axis("predictor").reset_index()
            part[list(INTERVALS)] = ends
            parts.append(part.assign(model=self.model, block=block.name))
        return pd.concat(parts)

    def data(self) -> pd.DataFrame:
        """A row for each participant and variable."""
        *before, last = self.frames
        y = self.rows[self.outcome].to_numpy(dtype=np.float64)
        X = np.column_stack([np.ones(len(y)), *(frame.to_numpy() for frame in self.frames.values())])
        known = X[:, : X.shape[1] - self.frames[last].shape[1]]
        columns: list[tuple[str, str | None, str, Float64, Float64 | float]]
        columns = [("outcome", None, self.outcome, y, _left(y, known))]
        for block in [*before, last]:
            for name, column in self.frames[block].items():
                values = column.to_numpy(dtype=np.float64)
                left = _left(values, known) if block == last else np.nan
                columns.append(("predictor", block, str(name), values, left))
        columns.append(("fitted", None, self.outcome, y - _left(y, X), np.nan))
        parts = [
            pd.DataFrame(
                {"participant_id": self.rows["participant_id"], "role": role, "block": block, "variable": variable,
                 "value": value, "residual": residual}
            )
            for role, block, variable, value, residual in columns
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True).assign(model=self.model)


def _left(values: Float64, X: Float64) -> Float64:
    """Residuals of a regression."""
    scale = np.abs(X).max(axis=0)
    return values - (X / scale) @ np.linalg.lstsq(X / scale, values, rcond=None)[0]


def _regression_record(
    command: Regression, data: _Data, fitted: Sequence[_Fitted], groups: Mapping[str, tuple[str, int]]
) -> dict[str, Any]:
    adjustment = {
        "covariates": list(command.adjust),
        "unit": "SD of the residuals of the group in which the covariates' coefficients are estimated",
        "group_by_predictor": {name: group for name, (group, _) in groups.items()},
        "n_by_predictor": {name: n for name, (_, n) in groups.items()},
    }
    return {
        **_record(command, data),
        "analysis": "hierarchical linear regression, ordinary least squares",
        "adjustment": adjustment if groups else None,
        "bootstrap": _bootstrap_record(command.bootstrap, command.seed),
        "correction": {
            "method": command.correction,
            "family": f"P of the last block's F change, {_counted(len(fitted), 'model')}",
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
    found = [f"{_counted(len(fitted), 'model')} of {command.outcome}, n = {n}"]
    if command.correction != "none":
        found[0] += (
            f"; corrected P of the last block < .05 in {int((corrected < 0.05).sum())} ({command.correction})"
        )
    for where in dict.fromkeys(groups.values()):
        names = [name for name, place in groups.items() if place == where]
        place = f"{where[0]} (n = {where[1]})"
        how = f"adjusted for {', '.join(command.adjust)}" if command.adjust else "z-scores"
        found.append(f"{how} in {place}: {', '.join(names)}")
    weak = {one.model: one.undetermined for one in fitted if one.undetermined}
    if weak:
        counts = ", ".join(f"{model} {count}" for model, count in weak.items())
        found.append(f"of {command.bootstrap} resamples, those that do not determine the model: {counts}")
    return found


# -- correlation ----------------------------------------------------------------------------------------------------

CORRELATION_COLUMNS = {
    "x": "variable; name[value] is 1 for this value of a text and 0 for the other",
    "y": "variable",
    "given": "covariates",
    "method": "pearson, or spearman (of ranks, of the covariates too)",
    "n": "participants of the subset in whom both variables and the covariates are known",
    "r": "(partial) correlation",
    "low": "lower end of the 95 % confidence interval: Fisher's z, standard error 1/sqrt(n - k - 3) for k covariates; "
    "of spearman sqrt(1 + r^2/2)/sqrt(n - k - 3) (Bonett & Wright 2000)",
    "high": "upper end of the 95 % confidence interval",
    **_intervals("r"),
    "df": "degrees of freedom: n - 2 - k",
    "p": "two-sided P by t, not corrected",
    "p_corrected": "P corrected over the rows of the table",
}


def correlations(command: Correlations) -> Result:
    """(Partial) correlations of each of some variables with each of others.

    Parameters
    ----------
    command : Correlations

    Returns
    -------
    Result
        One table, a row for each pair.

    Raises
    ------
    FileError
        One sentence that says what is wrong with the files or the command.
    """
    _check_correction(command.correction)
    data = _read(command)
    lines, about = [], {}
    for x, y in _pairs(command, data.table):
        line, excluded, undetermined = _correlated(command, data, x, y)
        lines.append(line)
        about[f"{line['x']} ~ {line['y']}"] = {
            "n": line["n"],
            "excluded": excluded,
            "resamples_not_determined": undetermined if command.bootstrap else None,
        }
    table = pd.DataFrame(lines, columns=list(CORRELATION_COLUMNS))
    table["p_corrected"] = _corrected(table["p"].to_list(), command.correction)
    record = {
        **_record(command, data),
        "analysis": f"{'partial ' if command.given else ''}correlation, {command.method}",
        "bootstrap": _bootstrap_record(command.bootstrap, command.seed),
        "correction": {"method": command.correction, "family": _counted(len(lines), "correlation")},
        "correlations": about,
        "columns": {"": CORRELATION_COLUMNS},
    }
    message = _counted(len(lines), "correlation")
    if command.correction != "none":
        count = int((table["p_corrected"] < 0.05).sum())
        message += f"; corrected P < .05 in {count} ({command.correction})"
    return Result({"": table}, record, [message])


def _pairs(command: Correlations, table: pd.DataFrame) -> list[tuple[str, str]]:
    x, y = (_columns(table, getattr(command, option), option, command) for option in ("x", "y"))
    given = _columns(table, command.given, "given", command)
    for option, names in (("x", x), ("y", y)):
        if not names:
            raise FileError(f"a correlation needs --{option}: the variables")
        for name in names:
            if name in given:
                raise FileError(f"--{option}: {name} is a covariate of --given already")
    pairs: dict[tuple[str, str], None] = {}
    for a in x:
        for b in y:
            if a != b and (b, a) not in pairs:
                pairs[a, b] = None
    if not pairs:
        raise FileError(f"--x and --y are the same variable, {x[0]}; two are needed")
    return list(pairs)


def _correlated(
    command: Correlations, data: _Data, x: str, y: str
) -> tuple[dict[str, Any], dict[str, list[str]], int]:
    """Row of a pair; who is excluded; number of resamples that do not determine it."""
    what = f"{command.origin}, {x} with {y}"
    given = _columns(data.table, command.given, "given", command)
    rows, excluded = _complete(data, [x, y, *given], what)
    (x_name, a), (y_name, b) = (_one_column(rows, name, what) for name in (x, y))
    Z = tables.indicators(rows, given, command.origin).to_numpy()
    ends, undetermined = np.full(4, np.nan), 0
    try:
        found = models.partial_correlation(a, b, Z, command.method)
        if command.bootstrap:
            statistic = models.correlation_statistic(a, b, Z, command.method)
            boot = models.bootstrap(statistic, len(rows), command.bootstrap, command.seed)
            ends = np.concatenate([boot.percentile[0], boot.bca[0]])
            undetermined = int(np.isnan(boot.samples).sum())
    except ValueError as error:
        raise FileError(f"{what}: {error}") from None
    line = {
        "x": x_name, "y": y_name, "given": ", ".join(given) or None, "method": command.method, "n": len(rows),
        **asdict(found), **dict(zip(INTERVALS, ends)),
    }  # fmt: skip
    return line, excluded, undetermined


def _one_column(rows: pd.DataFrame, name: str, what: str) -> tuple[str, Float64]:
    """A variable as numbers; text of two values as 0 and 1."""
    column = tables.indicators(rows, [name])
    if column.shape[1] != 1:
        raise FileError(
            f"{what}: {name} is text with {column.shape[1] + 1} values; numbers or two values are needed"
        )
    return str(column.columns[0]), column.iloc[:, 0].to_numpy()


# -- sample size ----------------------------------------------------------------------------------------------------

SAMPLE_SIZE_COLUMNS = {
    "variable": "variable",
    "n_first": "participants of the first group",
    "n_second": "participants of the second group",
    "mean_first": "mean of the first group",
    "mean_second": "mean of the second group",
    "sd": "SD within the groups, pooled",
    "d": "Cohen's d: the first mean less the second over the SD",
    "d_adjusted": "the same of the means adjusted for the covariates",
    "r2_covariates": "share of the variance within groups that the covariates explain: 1 less the ratio of the two "
    "residual variances (an adjusted R2; not below 0)",
    "effect": "difference to be found, in SD: d times the reduction",
    "n_t_test": "participants in each of two equal arms, t test",
    "effect_adjusted": "difference to be found given the covariates, in SD: d_adjusted times the reduction",
    "n_ancova": "participants in each of two equal arms, ANCOVA with these covariates",
}


def sample_sizes(command: SampleSizes) -> Result:
    """Participants in each arm of a trial whose effect is a share of the difference of two groups.

    Parameters
    ----------
    command : SampleSizes

    Returns
    -------
    Result
        One table, a row for each variable.

    Raises
    ------
    FileError, ValueError
        One sentence that says what is wrong with the files or the command.
    """
    data = _read(command)
    first, second = _two_groups(command, data.table)
    names = _columns(data.table, command.variables, "variables", command)
    covariates = _columns(data.table, command.covariates, "covariates", command)
    if not (names and np.isfinite(command.reduction) and command.reduction):
        raise FileError("sample sizes need --variables, and a --reduction other than 0")
    for name in names:
        if name in (command.group, *covariates):
            raise FileError(f"--variables: {name} is the group, or a covariate")
    both = _Data(data.table, data.chosen & (first | second), data.reference)
    lines, about = [], {}
    for name in names:
        rows, excluded = _complete(both, [name, command.group, *covariates], f"{command.origin}, {name}")
        lines.append(_sample_size(command, rows, name, pd.Series(first).loc[rows.index].to_numpy(), covariates))
        about[name] = {"n": len(rows), "excluded": excluded}
    table = pd.DataFrame(lines, columns=list(SAMPLE_SIZE_COLUMNS))
    record = {
        **_record(command, both),
        "analysis": f"participants in each of two equal arms; power {command.power:g}, two-sided {command.alpha:g}",
        "variables": about,
        "columns": {"": SAMPLE_SIZE_COLUMNS},
    }
    return Result({"": table}, record, _sample_size_messages(command, table))


def _two_groups(command: SampleSizes, table: pd.DataFrame) -> tuple[Bool, Bool]:
    tables.require(table, [command.group], command.origin)
    if len(set(command.order)) != 2 or len(command.order) != 2:
        raise FileError(f"--order names {len(command.order)} groups; two different ones are needed, such as MS,HC")
    text = tables.labels(table[command.group])
    for value in command.order:
        if not (text == value).any():
            there = ", ".join(sorted(set(text.dropna())))
            raise FileError(f"--order: {command.origin} has no {command.group} {value!r}; there are {there}")
    return (text == command.order[0]).to_numpy(), (text == command.order[1]).to_numpy()


def _sample_size(
    command: SampleSizes, rows: pd.DataFrame, name: str, first: Bool, covariates: Sequence[str]
) -> dict[str, Any]:
    values = _numbers(rows, name, command)
    Z = tables.indicators(rows, covariates, command.origin).to_numpy()
    try:
        found = models.group_difference(values, first, Z)
        effect, given = found.d * command.reduction, found.d_adjusted * command.reduction
        t_test = models.sample_size_groups(effect, command.power, command.alpha)
        ancova = models.sample_size_groups(given, command.power, command.alpha, found.r2_covariates, Z.shape[1])
    except ValueError as error:
        raise FileError(f"{command.origin}, {name}: {error}") from None
    return {
        "variable": name,
        "n_first": int(first.sum()),
        "n_second": int((~first).sum()),
        "mean_first": found.means[0],
        "mean_second": found.means[1],
        "sd": found.sd,
        "d": found.d,
        "d_adjusted": found.d_adjusted if covariates else None,
        "r2_covariates": found.r2_covariates if covariates else None,
        "effect": effect,
        "n_t_test": t_test,
        "effect_adjusted": given if covariates else None,
        "n_ancova": ancova if covariates else None,
    }


def _sample_size_messages(command: SampleSizes, table: pd.DataFrame) -> list[str]:
    share = "the difference" if command.reduction == 1 else f"{command.reduction:g} of the difference"
    found = [
        f"participants in each arm to find {share} of {' and '.join(command.order)} with power {command.power:g}, "
        f"two-sided {command.alpha:g}"
    ]
    width = max(len("variable"), *(len(name) for name in table["variable"]))
    ancova = f"  {'adjusted':>8}  {'R2':>5}  {'ANCOVA':>8}" if command.covariates else ""
    found.append(f"{'variable':<{width}}  {'d':>6}  {'t test':>8}{ancova}")
    for row in table.itertuples(index=False):
        line = f"{row.variable:<{width}}  {row.d:>6.2f}  {row.n_t_test:>8}"
        if command.covariates:
            line += f"  {row.d_adjusted:>8.2f}  {row.r2_covariates:>5.2f}  {row.n_ancova:>8}"
        found.append(line)
    return found


# -- common to all --------------------------------------------------------------------------------------------------


def execute(command: Regression | Correlations | SampleSizes, out: str, say: Callable[[str], None]) -> None:
    """Run a command and write what it finds: ``OUT.tsv`` and other tables, ``OUT.json``.

    Parameters
    ----------
    command : Regression, Correlations or SampleSizes
    out : str
        Root of the files; empty: nothing is written.
    say : callable
        Takes lines for people.

    Raises
    ------
    FileError, ValueError
        One sentence that says what is wrong; nothing is written then.
    """
    if out:
        files.check_output_root(out)
    if isinstance(command, Regression):
        result = regression(command)
    elif isinstance(command, Correlations):
        result = correlations(command)
    else:
        result = sample_sizes(command)
    if out:
        write(result, out)
    for line in result.messages:
        say(line)


def _record(command: Source, data: _Data) -> dict[str, Any]:
    import scipy
    import statsmodels

    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "statsmodels": statsmodels.__version__}
    return {
        "software": {
            "gpuvox": __version__,
            "python": platform.python_version(),
            "pandas": pd.__version__,
            **versions,
        },
        "options": asdict(command),
        "inputs": {path: files.hash_file(path) for path in command.inputs},
        "n_subset": int(data.chosen.sum()),
        "log": "natural" if command.log else None,
    }


def _bootstrap_record(resamples: int, seed: int) -> dict[str, Any] | None:
    if not resamples:
        return None
    return {
        "resamples": resamples, "seed": seed, "level": 0.95, "intervals": ["percentile", "BCa"],
        "resampled": "participants, with replacement",
    }  # fmt: skip


def _check_correction(correction: str) -> None:
    if correction not in CORRECTIONS:
        raise FileError(f"there is no correction {correction!r}; expected {', '.join(CORRECTIONS)}")


def _corrected(p: Sequence[float], correction: str) -> Float64:
    return np.full(len(p), np.nan) if correction == "none" else models.adjust_p(p, correction)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
