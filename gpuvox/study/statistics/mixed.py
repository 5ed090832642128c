"""Linear mixed models of repeated measurements: change per year, in each group and between two, and trials of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gpuvox import files
from gpuvox.errors import DesignError, FileError, InputError, OptionError
from gpuvox.study.statistics.ancova import check_correction
from gpuvox.study.statistics.power import check_power
from gpuvox.study.statistics.restricted_likelihood import restricted_fit
from gpuvox.study.statistics.sources import (
    Data,
    Result,
    Source,
    corrected_p,
    count_of,
    find_columns,
    numbers_of,
    record_of,
    rows_of,
    transform,
)
from gpuvox.tables.columns import indicators, require
from gpuvox.tables.conditions import left_out
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.reading import labels, measures_of_visits, typed, with_columns
from gpuvox.types import Float64

EFFECTS = {"slope": "intercept and slope", "intercept": "intercept"}


@dataclass(frozen=True, kw_only=True)
class Mixed(Source):
    """Linear mixed models; ``gpuvox models mixed``. `table` has a row for each visit.

    Attributes
    ----------
    outcome : sequence of str
        Variables (or patterns): a model for each.
    time : str
        Column with the time of each visit, in years; 0 is the baseline.
    group : str
        Column with groups; empty for none.
    order : sequence of str
        One or two groups; with two, change is compared: the first minus the second.
    covariates : sequence of str
    visit : str
        Column of the visits, by which the table of regions (`rois`) is joined.
    random : {"slope", "intercept"}
        Random intercept and slope of time, or random intercept alone.
    correction : {"fdr_bh", "bonferroni", "none"}
        Over the outcomes.
    visits : sequence of float
        Years of the visits of a trial; none for no sample sizes.
    reduction : float
        Effect of the treatment, as a share of the change (of the first group, less that of the second if there are
        two).
    power, alpha : float
        Power and two-sided level of the trial.
    """

    outcome: Sequence[str]
    time: str
    group: str = ""
    order: Sequence[str] = ()
    covariates: Sequence[str] = ()
    visit: str = ""
    random: str = "slope"
    correction: str = "fdr_bh"
    visits: Sequence[float] = ()
    reduction: float = 1.0
    power: float = 0.8
    alpha: float = 0.05


COLUMNS = {
    "outcome": "dependent variable",
    "effect": "change of a group, or the difference of two groups (the first minus the second)",
    "n": "participants",
    "n_visits": "visits with all values",
    "change": "change per year",
    "se": "its standard error",
    "low": "lower end of its 95 % confidence interval, by z",
    "high": "upper end of its 95 % confidence interval",
    "z": "change over its standard error (Wald)",
    "p": "two-sided p of z, not corrected",
    "p_corrected": "p corrected over the outcomes, for each effect",
    "baseline": "value of the group at time 0 and the covariates' means",
    "percent": "change in percent of the baseline per year (of a logarithm: that of the value itself, 100 "
    "(exp(change) - 1); none of a square root, and none where the 95 % interval of the baseline includes 0); of a "
    "difference, the difference of the percentages",
    "percent_low": "lower end of its 95 % confidence interval (delta method)",
    "percent_high": "upper end of its 95 % confidence interval",
    "sd_intercept": "SD of the participants' intercepts",
    "sd_slope": "SD of the participants' changes per year",
    "correlation": "correlation of intercepts and slopes",
    "sd_residual": "SD of the residuals",
    "note": "if the fit did not converge, or a variance or correlation is at its limit",
}
SIZE_COLUMNS = {
    "outcome": "outcome of the trial",
    "effect": "change per year that the treatment removes",
    "sd_change": "SD of a participant's change per year, as estimated by least squares from these visits",
    "n_two_arms": "participants in each of two arms, difference of changes",
    "n_one_arm": "participants in one arm, its change compared with the untreated change, taken as known",
    "note": "if the numbers are not determined, uncertain, or bounds",
}


def mixed(command: Mixed) -> Result:
    """Change per year by linear mixed models (restricted maximum likelihood), one for each outcome.

    Returns
    -------
    Result
        Tables ``""`` (one row per outcome and effect) and, with `visits`, ``"_trial"``.

    Raises
    ------
    InputError
        Something is wrong with the files or the command; the message is one sentence.
    """
    check_correction(command.correction)
    if command.random not in EFFECTS:
        raise InputError(f"the random effects {command.random!r} are unknown; expected {' or '.join(EFFECTS)}")
    if command.visits and command.random == "intercept":
        raise InputError(
            "the size of a trial needs random slopes (random effects slope); without them it would be too small where "
            "participants change differently"
        )
    data, outcomes = _read(command)
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    for name in outcomes:
        fit, found = _fitted(command, data, name)
        rows += found
        if command.visits:
            sizes.append({"outcome": name} | _trial(command, fit, found))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for effect in table["effect"].unique():
        inside = table["effect"] == effect
        table.loc[inside, "p_corrected"] = corrected_p(table.loc[inside, "p"].to_list(), command.correction)
    tables, columns = {"": table}, {"": COLUMNS}
    if sizes:
        trial = pd.DataFrame(sizes, columns=list(SIZE_COLUMNS))
        tables = {"_trial": trial.astype({"n_two_arms": "Int64", "n_one_arm": "Int64"}), "": table}
        columns["_trial"] = SIZE_COLUMNS
    record = {
        **record_of(command, data),
        "analysis": f"linear mixed models, restricted maximum likelihood, random {EFFECTS[command.random]}",
        "correction": {"method": command.correction, "family": count_of(len(outcomes), "outcome")},
        "columns": columns,
    }
    messages = [*data.out.lines(), *_messages(table), *_trial_messages(sizes)]
    return Result(tables, record, messages, data.doubts([*outcomes, command.time, *command.covariates]))


def _messages(table: pd.DataFrame) -> list[str]:
    lines = []
    for row in table.to_dict("records"):
        percent = f"{row['percent']:.2f} % per year, " if math.isfinite(row["percent"]) else ""
        lines.append(
            f"{row['outcome']}, {row['effect']}: {row['change']:.4g} per year [{row['low']:.4g}, {row['high']:.4g}], "
            f"{percent}p {row['p']:.3g}"
        )
        if isinstance(row["note"], str):
            lines.append(f"{row['outcome']}: {row['note']}")
    return list(dict.fromkeys(lines))


def _trial_messages(sizes: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for size in sizes:
        if "n_one_arm" in size:
            needed = f"{size['n_two_arms']} participants in each of two arms, or {size['n_one_arm']} in one arm"
            text = f"{size['outcome']}: a trial needs {needed}"
            lines.append(f"{text}; {size['note']}" if size["note"] else text)
        else:
            lines.append(f"{size['outcome']}: the number of participants that a trial needs is {size['note']}")
    return lines


def _read(command: Mixed) -> tuple[Data, list[str]]:
    table = _with_regions(command, typed(files.read_table(command.table, ["participant_id"], long=True)))
    require(table, [command.time, *([command.group] if command.group else []), *command.covariates], command.table)
    twice = table[["participant_id", command.time]].dropna()
    if twice.duplicated().any():
        row = twice[twice.duplicated()].iloc[0]
        raise FileError(
            f"{command.table} has {row['participant_id']} twice at {command.time} {row[command.time]:g}"
        )
    # As in the files, before logarithms.
    chosen = rows_of(table, command.subset, "subset", command.table, "visit")
    nobody = np.zeros(len(table), dtype=bool)
    out = left_out(table, command.subset)
    numbers_of(table, command.time, command)
    if command.clusters:
        raise OptionError(
            "--clusters", "has a row for each participant, not for each visit; put visits in --table"
        )
    if command.rank:
        raise OptionError("--rank", "is for models of one visit")
    raw = table.copy()
    transform(table, chosen, nobody, command)
    outcomes = find_columns(table, command.outcome, "outcome", command)
    for name in outcomes:
        numbers_of(table, name, command)
    return Data(table, raw, chosen, nobody, out), outcomes


def _with_regions(command: Mixed, table: pd.DataFrame) -> pd.DataFrame:
    """The table of visits with the measures of regions; a visit without regions has missing values."""
    if bool(command.rois) != bool(command.visit):
        raise OptionError("--visit", "and --rois need each other: regions are joined by participant and visit")
    if not command.rois:
        return table
    require(table, [command.visit], command.table)
    measures = measures_of_visits(command.rois, command.visit)
    keys = pd.MultiIndex.from_arrays([table["participant_id"], labels(table[command.visit])])
    for who, visit in measures.index.difference(keys):
        raise FileError(f"{command.rois} has {who} at {command.visit} {visit}, which {command.table} has not")
    taken = [name for name in measures.columns if name in table.columns]
    if taken:
        raise FileError(f"{taken[0]} is the name of two variables")
    return with_columns(table, measures.reindex(keys).reset_index(drop=True))


def _fitted(command: Mixed, data: Data, name: str) -> tuple[_Fit, list[dict[str, Any]]]:
    """The model of one outcome, and its rows."""
    needed = [name, command.time, *command.covariates]
    part = data.table[data.chosen & data.table[needed].notna().all(axis=1).to_numpy()]
    part.attrs = dict(data.table.attrs)
    levels: tuple[str, ...] = ("everyone",)
    codes = np.zeros(len(part), dtype=np.int64)
    if command.group:
        groups = assign_groups(part, command.group, command.order, least=1)
        part, codes, levels = part[groups.codes >= 0], groups.codes[groups.codes >= 0], groups.levels
        if len(levels) > 2:
            raise OptionError("--order", f"{len(levels)} groups; one or two are needed")
    _check_visits(command, part, codes, levels, name)
    X = _fixed_effects(command, part, codes, len(levels), name)
    fit = _fit(command, part, name, X, len(levels))
    fit = replace(fit, scale=_scale(command, data.table, name))
    common = {"outcome": name, "n": part["participant_id"].nunique(), "n_visits": len(part), "note": _note(fit)}
    rows = [common | _change(fit, i, len(levels), level) | _variances(fit) for i, level in enumerate(levels)]
    for i, row in enumerate(rows):
        own = codes == i
        row |= {"n": part["participant_id"][own].nunique(), "n_visits": int(own.sum())}
    if len(levels) == 2:
        rows.append(common | _difference(fit, levels) | _variances(fit))
    return fit, rows


def _fixed_effects(command: Mixed, part: pd.DataFrame, codes: np.ndarray, k: int, name: str) -> Float64:
    """Columns of k groups, of their changes per year, and of standardised covariates."""
    covariates = indicators(part, command.covariates, command.table)
    C, time = covariates.to_numpy(dtype=np.float64), part[command.time].to_numpy(dtype=np.float64)
    constant = C.std(axis=0) <= 1e-12 * np.abs(C).max(axis=0, initial=0)
    if constant.any():
        which = covariates.columns[int(np.argmax(constant))]
        raise FileError(
            f"{command.table}, {name}: the covariate {which} has the same value at all visits analysed"
        )
    G = (codes[:, None] == np.arange(k)).astype(np.float64)
    X = np.column_stack([G, G * time[:, None], (C - C.mean(axis=0)) / C.std(axis=0)])
    if np.linalg.matrix_rank(X) < X.shape[1]:
        raise FileError(f"{command.table}, {name}: the groups, times and covariates are collinear")
    return X


def _check_visits(command: Mixed, part: pd.DataFrame, codes: np.ndarray, levels: Sequence[str], name: str) -> None:
    """Raise `FileError` without repeated visits, for a group of one, or for a participant in two groups."""
    repeated = part.groupby("participant_id").size()
    if (repeated > 1).sum() < 3:
        raise FileError(f"{command.table}, {name}: fewer than three participants have two visits with all values")
    for code, level in enumerate(levels):
        if part["participant_id"][codes == code].nunique() < 2:
            raise FileError(
                f"{command.table}, {name}: one participant of {command.group} {level} has all values; two are needed"
            )
    groups = pd.Series(codes, index=part.index).groupby(part["participant_id"]).nunique()
    if (groups > 1).any():
        raise FileError(
            f"{command.table}: {command.group} of {groups.index[groups > 1][0]} changes between visits"
        )


@dataclass(frozen=True, eq=False)
class _Fit:
    """Fixed effects with their covariance, and the variances; in the units of the outcome.

    `scale` is ``log`` or ``sqrt`` if that of the outcome was modelled.
    """

    effects: Float64
    covariance: Float64
    random: Float64
    residual: float
    at_limit: bool
    converged: bool
    scale: str = ""


def _scale(command: Mixed, table: pd.DataFrame, name: str) -> str:
    """Which transformation the outcome had; empty for none."""
    used = (how for how in ("log", "sqrt") if name in find_columns(table, getattr(command, how), how, command))
    return next(used, "")


def _fit(command: Mixed, part: pd.DataFrame, name: str, X: Float64, k: int) -> _Fit:
    """Restricted maximum likelihood; the first k columns of X are those of the groups."""
    y, time = (part[column].to_numpy(dtype=np.float64) for column in (name, command.time))
    centre, unit = y.mean(), y.std()
    if unit <= 1e-12 * np.abs(y).max():
        raise FileError(f"{command.table}, {name}: the outcome has the same value at all visits")
    Z = np.column_stack([np.ones(len(y)), time] if command.random == "slope" else [np.ones(len(y))])
    try:
        fit = restricted_fit((y - centre) / unit, X, Z, part["participant_id"].to_list())
    except DesignError as error:
        hint = "; random intercepts alone need two visits" if command.random == "slope" else ""
        raise FileError(f"{command.table}, {name}: {error}{hint}") from None
    effects = fit.effects * unit
    effects[:k] += centre
    return _Fit(effects, fit.covariance * unit**2, fit.random * unit**2, fit.residual * unit**2,
                fit.at_limit, fit.converged)  # fmt: skip


def _note(fit: _Fit) -> str | None:
    """What a reader of the estimates must know."""
    variances = np.diag(fit.random)
    if not fit.converged:
        return "the fit did not converge"
    if len(variances) == 2 and variances[1] == 0:
        return "the variance of the changes is estimated as 0"
    if variances[0] == 0:
        return "the variance of the intercepts is estimated as 0"
    return "intercepts and changes are estimated to correlate perfectly" if fit.at_limit else None


def _row(effect: str, change: float, se: float) -> dict[str, Any]:
    z, half = change / se, float(stats.norm.ppf(0.975)) * se
    return {"effect": effect, "change": change, "se": se, "low": change - half, "high": change + half, "z": z,
            "p": 2 * float(stats.norm.sf(abs(z)))}  # fmt: skip


def _percent(fit: _Fit, i: int, k: int) -> tuple[float, Float64]:
    """Percentage per year, and its gradient with respect to the fixed effects; NaN where it has no meaning.

    Of logarithms it is that of the value itself: a ratio to the baseline is the same every year. It has none of
    square roots, nor where the baseline may be 0, as that of a score.
    """
    baseline, change = fit.effects[i], fit.effects[k + i]
    gradient = np.zeros(len(fit.effects))
    if fit.scale == "log":
        gradient[k + i] = 100 * math.exp(change)
        return 100 * math.expm1(change), gradient
    if fit.scale == "sqrt" or abs(baseline) <= stats.norm.ppf(0.975) * math.sqrt(fit.covariance[i, i]):
        return math.nan, np.full(len(gradient), math.nan)
    gradient[i], gradient[k + i] = -100 * change / baseline**2, 100 / baseline
    return 100 * change / baseline, gradient


def _percentages(fit: _Fit, value: float, gradient: Float64) -> dict[str, float]:
    half = float(stats.norm.ppf(0.975)) * math.sqrt(float(gradient @ fit.covariance @ gradient))
    return {"percent": value, "percent_low": value - half, "percent_high": value + half}


def _change(fit: _Fit, i: int, k: int, level: str) -> dict[str, Any]:
    row = _row(level, float(fit.effects[k + i]), math.sqrt(fit.covariance[k + i, k + i]))
    return row | {"baseline": float(fit.effects[i])} | _percentages(fit, *_percent(fit, i, k))


def _difference(fit: _Fit, levels: Sequence[str]) -> dict[str, Any]:
    contrast = np.zeros(len(fit.effects))
    contrast[2], contrast[3] = 1, -1
    row = _row(" - ".join(levels), float(contrast @ fit.effects), math.sqrt(contrast @ fit.covariance @ contrast))
    (first, a), (second, b) = _percent(fit, 0, 2), _percent(fit, 1, 2)
    return row | _percentages(fit, first - second, a - b)


def _variances(fit: _Fit) -> dict[str, float]:
    spread = np.sqrt(np.diag(fit.random))
    row = {"sd_intercept": float(spread[0]), "sd_residual": math.sqrt(fit.residual)}
    if len(spread) == 2:
        product = float(spread.prod())
        row |= {"sd_slope": float(spread[1])}
        row |= {"correlation": max(-1.0, min(1.0, float(fit.random[0, 1]) / product)) if product > 0 else math.nan}
    return row


# -- trials ------------------------------------------------------------------------------------------------------------


def trial_sizes(
    effect: float,
    sd_slope: float,
    sd_residual: float,
    visits: Sequence[float],
    power: float = 0.8,
    alpha: float = 0.05,
) -> tuple[float, float, float]:
    """SD of a change per year, and the participants per arm of a trial with two arms and with one.

    Parameters
    ----------
    effect : float
        Difference of the changes per year.
    sd_slope, sd_residual : float
        SD of the participants' true changes, and of the residuals.
    visits : sequence of float
        Years of the visits.
    power, alpha : float
        Power and two-sided level.

    Returns
    -------
    sd, two_arms, one_arm : float
        SD² = sd_slope² + sd_residual² / Σ(t − t̄)²; n = 2 (z₁₋α/₂ + z_power)² SD² / effect² in each of two arms, and
        half of it in one (Diggle, Heagerty, Liang & Zeger 2002, Analysis of Longitudinal Data, section 2.4).

    Raises
    ------
    InputError
        The effect is 0, or there are fewer than two different visits.
    """
    times = np.asarray(visits, dtype=np.float64)
    spread = float(((times - times.mean()) ** 2).sum()) if len(times) else 0.0
    if spread <= 0:
        raise InputError("a trial needs visits at two different times")
    if not (effect and math.isfinite(effect)):
        raise InputError("the change that a treatment would remove is 0")
    check_power(power, alpha)
    variance = sd_slope**2 + sd_residual**2 / spread
    total = float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power))
    one = max(total, 0.0) ** 2 * variance / effect**2
    return math.sqrt(variance), 2 * one, one


def _trial(command: Mixed, fit: _Fit, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row of an outcome in the table of trials; without numbers where the fit did not converge."""
    of = rows[-1 if len(rows) == 3 else 0]
    effect = command.reduction * of["change"]
    if not fit.converged:
        return {"effect": effect, "note": "not determined: the fit did not converge"}
    sd, two, one = trial_sizes(
        effect, rows[0]["sd_slope"], rows[0]["sd_residual"], command.visits, command.power, command.alpha
    )
    notes = []
    if rows[0]["sd_slope"] == 0:
        notes.append("lower bounds: the variance of the changes is estimated as 0, and may be larger")
    elif fit.at_limit:
        notes.append(f"uncertain: {_note(fit)}")
    if of["low"] <= 0 <= of["high"]:
        notes.append("no upper bounds: the 95 % interval of the change includes 0")
    return {"effect": effect, "sd_change": sd, "n_two_arms": math.ceil(two), "n_one_arm": math.ceil(one),
            "note": "; ".join(notes) or None}  # fmt: skip
