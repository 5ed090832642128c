"""Hierarchical regression, linear or logistic, on raw predictors or adjusted z-scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.study.statistics import least_squares
from gpuvox.study.statistics.adjustment import residuals_given
from gpuvox.study.statistics.ancova import check_correction
from gpuvox.study.statistics.diagnostics import DIAGNOSTICS, Influence, diagnose
from gpuvox.study.statistics.logistic import LogisticBlock, hierarchical_logistic, logistic_statistic
from gpuvox.study.statistics.reference_group import Groups, adjustment_lines, adjustment_record, z_scored
from gpuvox.study.statistics.sources import (
    BOOTSTRAP,
    Data,
    Result,
    Source,
    bootstrap_columns,
    bootstrap_record,
    check_strata,
    complete_cases,
    corrected_p,
    count_of,
    find_columns,
    interval_columns,
    numbers_of,
    read_data,
    record_of,
    strata_of,
    undetermined_message,
    without_interval,
)
from gpuvox.study.statistics.terms import Model, binary, columns_of_terms, plan
from gpuvox.study.statistics.transforms import LADDER, ladder_table
from gpuvox.types import Float64

KINDS = ("linear", "logistic")


@dataclass(frozen=True, kw_only=True)
class Regression(Source):
    """A family of hierarchical regressions; ``gpuvox models regression``.

    Attributes
    ----------
    outcome : str or sequence of str
        One variable, or several: a model for each, in one family.
    blocks : dict of str to sequence of str
        Name → variables (or patterns) of each block, in order of entry; ``a:b`` is an interaction.
    each : sequence of str
        Variables (or patterns): one model for each, as its last block. None: a single model for each outcome. If
        ``{each}`` occurs in outcomes or blocks, these are words instead that replace it, one model for each.
    model : {"linear", "logistic"}
        Logistic: an outcome with two values.
    event : str
        The value whose odds a logistic model describes; the second in order if it is empty.
    errors : {"ols", "hc3"}
        Standard errors of a linear model; see `least_squares.hierarchical_regression`.
    ladder : sequence of str
        Variables (or patterns) whose ladder of powers is tabulated, as in the files.
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

    outcome: str | Sequence[str]
    blocks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    each: Sequence[str] = ()
    model: str = "linear"
    event: str = ""
    errors: str = "ols"
    ladder: Sequence[str] = ()
    adjust: Sequence[str] = ()
    reference: str = ""
    adjusted: Sequence[str] = ()
    bootstrap: int = 0
    strata: Sequence[str] = ()
    seed: int = 0
    correction: str = "fdr_bh"

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes, also where there is one."""
        return (self.outcome,) if isinstance(self.outcome, str) else tuple(self.outcome)


ABOUT = {
    "model": "the variable of the last block, or the item of {each}; with several outcomes, also the outcome",
    "outcome": "dependent variable",
    "block": "step of the hierarchical regression; each includes the predictors of earlier blocks",
    "predictors": "predictors that the block adds; name[value] is 1 for this value of a text and 0 for others; a:b is "
    "an interaction",
    "n": "participants of the subset with known values of every variable of the model",
}
MODEL_COLUMNS = {
    **ABOUT,
    "r2": "R2 of this block and the earlier ones",
    "r2_adjusted": "R2 adjusted for the number of predictors",
    "r2_change": "R2 that the block adds",
    **{name: text for name, text in interval_columns("R2 change").items() if name != "bootstrap_p"},
    "f_change": "F of the block given the earlier ones",
    "df1": "degrees of freedom of F, numerator",
    "df2": "degrees of freedom of F, denominator",
    "p_change": "P of F, not corrected",
    "p_corrected": "P of the last block's F, corrected over the models",
    "f_model": "F of the whole model: all predictors up to this block",
    "df_model": "its degrees of freedom, numerator (denominator: df2)",
    "p_model": "P of the whole model",
}
COEFFICIENT_COLUMNS = {
    "model": ABOUT["model"],
    "block": "step of the hierarchical regression",
    "predictor": "predictor of this block or an earlier one",
    "B": "coefficient",
    "se": "its standard error",
    "beta": "standardised coefficient: B times the SD of the predictor over that of the outcome",
    "beta_low": "lower end of the 95 % confidence interval of B, times the same ratio",
    "beta_high": "upper end of the 95 % confidence interval of B, times the same ratio",
    "t": "B over its standard error",
    "p": "two-sided P of t, not corrected; if the last block has one predictor, it equals the P of the F change",
    "low": "lower end of the 95 % confidence interval of B, by t",
    "high": "upper end of the 95 % confidence interval of B, by t",
    "vif": "variance inflation factor",
    **interval_columns("B"),
}
LOGISTIC_COLUMNS = {
    **ABOUT,
    "event": "value of the outcome whose odds are modelled",
    "r2_nagelkerke": "Nagelkerke's R2 of this block and the earlier ones",
    "r2_mcfadden": "McFadden's R2",
    "auc": "area under the ROC curve of the fitted probabilities, in the same participants",
    "chi2_change": "likelihood ratio of the block given the earlier ones",
    "df1": "its degrees of freedom",
    "p_change": "its P, not corrected",
    "p_corrected": "P of the last block, corrected over the models",
    "chi2_model": "likelihood ratio of the whole model: all predictors up to this block",
    "df_model": "its degrees of freedom",
    "p_model": "its P",
}
LOGISTIC_COEFFICIENTS = {
    "model": ABOUT["model"],
    "block": "step of the hierarchical regression",
    "predictor": "predictor of this block or an earlier one",
    "odds_ratio": "exp(B): odds ratio of one unit of the predictor",
    "odds_ratio_low": "lower end of its 95 % confidence interval, by Wald's z",
    "odds_ratio_high": "upper end of its 95 % confidence interval",
    "B": "coefficient: logarithm of the odds ratio",
    "se": "its standard error",
    "z": "B over its standard error (Wald)",
    "p": "two-sided P of z, not corrected",
    "low": "lower end of the 95 % confidence interval of B",
    "high": "upper end of the 95 % confidence interval of B",
    **interval_columns("B"),
}
DATA_COLUMNS = {
    "model": ABOUT["model"],
    "participant_id": "participant",
    "role": "outcome, predictor, fitted (what the whole model predicts), and of linear models studentised (residual, "
    "without the participant), cook (Cook's distance), leverage",
    "block": "block of a predictor",
    "variable": "name",
    "value": "value as analysed: transformed, adjusted",
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
    _check(command)
    data = read_data(command, command.reference)
    models = plan(data.table, command.outcomes, command.blocks, command.each, command)
    variables = list(dict.fromkeys(name for model in models for name in model.variables))
    adjusted_for = find_columns(data.table, command.adjust, "adjust", command)
    data, groups = z_scored(command, data, variables)
    fit = _Logistic.of if command.model == "logistic" else _Linear.of
    fitted = [fit(command, data, model) for model in models]
    columns = fitted[0].columns
    overview = pd.DataFrame([row for one in fitted for row in one.overview()], columns=list(columns[""]))
    is_last = ~overview["model"].duplicated(keep="last")
    overview["p_corrected"] = np.nan
    last = [one.p_of_last_block for one in fitted]
    overview.loc[is_last, "p_corrected"] = corrected_p(last, command.correction)
    tables = {
        "_data": pd.concat([one.data() for one in fitted], ignore_index=True)[list(DATA_COLUMNS)],
        "_coefficients": pd.concat([one.coefficients() for one in fitted])[list(columns["_coefficients"])],
    }
    diagnosed = [one.diagnosis[0] for one in fitted if isinstance(one, _Linear)]
    if diagnosed:
        tables["_diagnostics"] = pd.DataFrame(diagnosed, columns=list(DIAGNOSTICS))
    if command.ladder:
        tables["_ladder"] = _ladder(command, data)
    explained = {**columns, "_diagnostics": DIAGNOSTICS, "_ladder": LADDER, "_data": DATA_COLUMNS}
    return Result(
        {**tables, "": overview},
        _regression_record(command, data, fitted, groups)
        | {"columns": {suffix: text for suffix, text in explained.items() if suffix in ("", *tables)}},
        [*data.out.lines(), *_regression_messages(command, fitted, groups, overview["p_corrected"][is_last])],
        data.doubts([*(model.outcome for model in models), *variables, *adjusted_for]),
    )


def _check(command: Regression) -> None:
    check_correction(command.correction)
    check_strata(command.strata, command.bootstrap)
    if command.model not in KINDS:
        raise InputError(f"the model {command.model!r} is unknown; expected {' or '.join(KINDS)}")
    if command.errors not in least_squares.ERRORS:
        raise InputError(
            f"the errors {command.errors!r} are unknown; expected {' or '.join(least_squares.ERRORS)}"
        )
    if command.event and command.model != "logistic":
        raise OptionError("--event", "is for logistic models (--model logistic)")
    if command.model == "logistic" and command.errors != "ols":
        raise OptionError("--errors", "is for linear models")


def _ladder(command: Regression, data: Data) -> pd.DataFrame:
    """Powers of variables as they are in the files, among the participants analysed."""
    names = find_columns(data.raw, command.ladder, "ladder", command)
    for name in names:
        numbers_of(data.raw, name, command)
    return ladder_table(data.raw[data.chosen], names)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A model with the participants whom it includes."""

    model: Model
    rows: pd.DataFrame
    y: Float64
    frames: dict[str, pd.DataFrame]
    boot: least_squares.Bootstrap | None
    excluded: dict[str, list[str]]
    blocks: Sequence[least_squares.Block | LogisticBlock]

    columns: ClassVar = {"": MODEL_COLUMNS, "_coefficients": COEFFICIENT_COLUMNS}

    @property
    def X(self) -> Float64:
        """(n, p) Predictors of all blocks."""
        return np.column_stack([frame.to_numpy() for frame in self.frames.values()])

    @property
    def p_of_last_block(self) -> float:
        """P of its change, not corrected."""
        return self.blocks[-1].p_change

    @property
    def titles(self) -> list[str]:
        """What each statistic of the bootstrap is."""
        raise NotImplementedError

    @property
    def undetermined(self) -> int:
        """Number of resamples that do not determine a statistic."""
        return 0 if self.boot is None else int(np.isnan(self.boot.samples).any(axis=1).sum())

    def about(self, block: str) -> dict[str, Any]:
        """What every row of the overview begins with."""
        predictors = ", ".join(self.frames[block].columns)
        return {"model": self.model.name, "outcome": self.model.outcome, "block": block, "predictors": predictors,
                "n": len(self.rows)}  # fmt: skip

    def overview(self) -> list[dict[str, Any]]:
        """One row per block."""
        raise NotImplementedError

    def coefficients(self) -> pd.DataFrame:
        """One row per block and predictor."""
        raise NotImplementedError

    def with_intervals(self, extra: int) -> tuple[pd.DataFrame, Float64]:
        """Coefficients of every block with the columns of the bootstrap, and those of the statistics after each."""
        m = sum(len(block.coefficients) + extra for block in self.blocks)
        ends, parts, after, start = bootstrap_columns(self.boot, m), [], [], 0
        for block in self.blocks:
            stop = start + len(block.coefficients)
            part = block.coefficients.rename_axis("predictor").reset_index()
            part[list(BOOTSTRAP)] = ends[start:stop]
            parts.append(part.assign(model=self.model.name, block=block.name))
            after.append(ends[stop : stop + extra])
            start = stop + extra
        return pd.concat(parts), np.concatenate(after) if extra else np.zeros((0, len(BOOTSTRAP)))

    def data(self) -> pd.DataFrame:
        """One row per participant and variable."""
        *before, last = self.frames
        X = np.column_stack([np.ones(len(self.y)), self.X])
        known = X[:, : X.shape[1] - self.frames[last].shape[1]]
        columns: list[tuple[str, str | None, str, Float64, Float64 | float]]
        columns = [("outcome", None, self.model.outcome, self.y, self.residual(self.y, known))]
        for block in [*before, last]:
            for name, column in self.frames[block].items():
                values = column.to_numpy(dtype=np.float64)
                residual = self.residual(values, known) if block == last else np.nan
                columns.append(("predictor", block, str(name), values, residual))
        columns += [
            (role, None, self.model.outcome, values, np.nan) for role, values in self.fitted_values().items()
        ]
        parts = [
            pd.DataFrame(
                {"participant_id": self.rows["participant_id"], "role": role, "block": block, "variable": variable,
                 "value": value, "residual": residual}
            )
            for role, block, variable, value, residual in columns
        ]  # fmt: skip
        return pd.concat(parts, ignore_index=True).assign(model=self.model.name)

    def residual(self, values: Float64, known: Float64) -> Float64 | float:
        """Residuals given the earlier blocks; NaN where there is no added-variable plot."""
        return residuals_given(values, known)

    def fitted_values(self) -> dict[str, Float64]:
        """What is written beside outcome and predictors, by role."""
        raise NotImplementedError


def _prepared(
    command: Regression, data: Data, model: Model, what: str
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], dict[str, list[str]]]:
    rows, excluded = complete_cases(data, [model.outcome, *model.variables], what)
    frames = {name: columns_of_terms(rows, terms, command.origin) for name, terms in model.blocks.items()}
    return rows, frames, excluded


def _resampled(
    command: Regression, data: Data, rows: pd.DataFrame, statistic: least_squares.Statistic
) -> least_squares.Bootstrap | None:
    strata = strata_of(data, rows, command.strata, command)
    if not command.bootstrap:
        return None
    return least_squares.bootstrap(statistic, len(rows), command.bootstrap, command.seed, strata=strata)


@dataclass(frozen=True, eq=False)
class _Linear(_Fitted):
    """A linear model."""

    blocks: Sequence[least_squares.Block]
    diagnosis: tuple[dict[str, Any], Influence]

    @classmethod
    def of(cls, command: Regression, data: Data, model: Model) -> _Linear:
        """Fit the model."""
        what = f"{command.origin}, model {model.name}"
        rows, frames, excluded = _prepared(command, data, model, what)
        y = numbers_of(rows, model.outcome, command)
        X, sizes = np.column_stack([f.to_numpy() for f in frames.values()]), [f.shape[1] for f in frames.values()]
        try:
            blocks = least_squares.hierarchical_regression(y, frames, command.errors)
            boot = _resampled(command, data, rows, least_squares.regression_statistic(y, X, sizes))
        except OptionError:
            raise
        except InputError as error:
            raise FileError(f"{what}: {error}") from None
        row, influence = diagnose(y, X, rows["participant_id"].astype(str).tolist())
        return cls(model, rows, y, frames, boot, excluded, blocks, ({"model": model.name} | row, influence))

    @property
    def titles(self) -> list[str]:
        return [
            name for block in self.blocks for name in (*block.coefficients.index, f"R2 change of {block.name}")
        ]

    def overview(self) -> list[dict[str, Any]]:
        _, changes = self.with_intervals(1)
        return [
            {
                **self.about(block.name),
                "r2": block.r2,
                "r2_adjusted": block.r2_adjusted,
                "r2_change": block.r2_change,
                **dict(zip(BOOTSTRAP, change)),
                "f_change": block.f_change,
                "df1": block.df_change[0],
                "df2": block.df_change[1],
                "p_change": block.p_change,
                "f_model": block.f,
                "df_model": block.df[0],
                "p_model": block.p,
            }
            for block, change in zip(self.blocks, changes)
        ]

    def coefficients(self) -> pd.DataFrame:
        return self.with_intervals(1)[0]

    def fitted_values(self) -> dict[str, Float64]:
        X, influence = np.column_stack([np.ones(len(self.y)), self.X]), self.diagnosis[1]
        return {
            "fitted": self.y - residuals_given(self.y, X),
            "studentised": influence.studentised,
            "cook": influence.cook,
            "leverage": influence.leverage,
        }


@dataclass(frozen=True, eq=False)
class _Logistic(_Fitted):
    """A logistic model."""

    blocks: Sequence[LogisticBlock]
    event: str

    columns: ClassVar = {"": LOGISTIC_COLUMNS, "_coefficients": LOGISTIC_COEFFICIENTS}

    @classmethod
    def of(cls, command: Regression, data: Data, model: Model) -> _Logistic:
        """Fit the model."""
        what = f"{command.origin}, model {model.name}"
        rows, frames, excluded = _prepared(command, data, model, what)
        y, event = binary(rows, model.outcome, what, command.event)
        X, sizes = np.column_stack([f.to_numpy() for f in frames.values()]), [f.shape[1] for f in frames.values()]
        try:
            blocks = hierarchical_logistic(y, frames)
            boot = _resampled(command, data, rows, logistic_statistic(y, X, sizes))
        except OptionError:
            raise
        except InputError as error:
            raise FileError(f"{what}: {error}") from None
        return cls(model, rows, y, frames, boot, excluded, blocks, event)

    @property
    def titles(self) -> list[str]:
        return [name for block in self.blocks for name in block.coefficients.index]

    def overview(self) -> list[dict[str, Any]]:
        return [
            {
                **self.about(block.name),
                "event": self.event,
                "r2_nagelkerke": block.r2_nagelkerke,
                "r2_mcfadden": block.r2_mcfadden,
                "auc": block.auc,
                "chi2_change": block.chi2_change,
                "df1": block.df_change,
                "p_change": block.p_change,
                "chi2_model": block.chi2,
                "df_model": block.df,
                "p_model": block.p,
            }
            for block in self.blocks
        ]

    def coefficients(self) -> pd.DataFrame:
        return self.with_intervals(0)[0]

    def residual(self, values: Float64, known: Float64) -> Float64 | float:
        return np.nan

    def fitted_values(self) -> dict[str, Float64]:
        return {"fitted": self.blocks[-1].probabilities}


ANALYSES = {
    ("linear", "ols"): "hierarchical linear regression, ordinary least squares",
    ("linear", "hc3"): "hierarchical linear regression, ordinary least squares with robust (HC3) standard errors",
    ("logistic", "ols"): "hierarchical logistic regression, maximum likelihood",
}


def _regression_record(
    command: Regression, data: Data, fitted: Sequence[_Fitted], groups: Groups
) -> dict[str, Any]:
    return {
        **record_of(command, data),
        "analysis": ANALYSES[command.model, command.errors],
        "adjustment": adjustment_record(command, groups) if groups else None,
        "bootstrap": bootstrap_record(command.bootstrap, command.seed, command.strata, _lacking(fitted)),
        "correction": {
            "method": command.correction,
            "family": f"P of the last block's change, {count_of(len(fitted), 'model')}",
        },
        "models": {
            one.model.name: {
                "n": len(one.rows),
                "excluded": one.excluded,
                "resamples_not_determined": one.undetermined if command.bootstrap else None,
            }
            for one in fitted
        },
    }


def _regression_messages(
    command: Regression, fitted: Sequence[_Fitted], groups: Groups, corrected: pd.Series
) -> list[str]:
    sizes, outcomes = [len(one.rows) for one in fitted], dict.fromkeys(one.model.outcome for one in fitted)
    n = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    messages = [f"{count_of(len(fitted), 'model')} of {', '.join(outcomes)}, n = {n}"]
    if command.correction != "none":
        messages[0] += (
            f"; corrected P of the last block < .05 in {int((corrected < 0.05).sum())} ({command.correction})"
        )
    messages += adjustment_lines(command, groups)
    weak = {one.model.name: one.undetermined for one in fitted if one.undetermined}
    if weak:
        counts = ", ".join(f"{model} {count}" for model, count in weak.items())
        messages.append(f"of {command.bootstrap} resamples, those that do not determine the model: {counts}")
    return messages + undetermined_message(command.bootstrap, _lacking(fitted))


def _lacking(fitted: Sequence[_Fitted]) -> list[str]:
    """Predictors, and blocks' ΔR², whose bootstrap has too few resamples."""
    titles = [
        title for one in fitted
        for title in without_interval([f"{name} ({one.model.name})" for name in one.titles], one.boot)
    ]  # fmt: skip
    return list(dict.fromkeys(titles))
