"""Correlations and partial correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError, InputError, OptionError, UsageError
from gpuvox.study.statistics import least_squares
from gpuvox.study.statistics.ancova import check_correction
from gpuvox.study.statistics.reference_group import adjustment_lines, adjustment_record, z_scored
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
    read_data,
    record_of,
    strata_of,
    undetermined_message,
    without_interval,
)
from gpuvox.tables.columns import indicators
from gpuvox.types import Float64


@dataclass(frozen=True, kw_only=True)
class Correlations(Source):
    """A family of (partial) correlations; ``gpuvox models correlation``.

    Attributes
    ----------
    x, y : sequence of str
        Variables (or patterns); each of x with each of y, each pair once. Text with two values is coded as 0 and 1.
    paired : bool
        The first of x with the first of y, the second with the second, and so on; names, not patterns.
    given : sequence of str
        Covariates.
    adjust, reference, adjusted
        Variables as z-scores of the residuals of a group; see `regression.Regression`. With `adjust` or `reference`,
        `adjusted` names them.
    method : {"pearson", "spearman"}
    bootstrap, seed : int
        Number of resamples; 0 for none.
    strata : sequence of str
        Variables (or patterns) within whose combinations of values participants are resampled.
    correction : {"fdr_bh", "bonferroni", "none"}
        Correction over all correlations.
    """

    x: Sequence[str]
    y: Sequence[str]
    paired: bool = False
    given: Sequence[str] = ()
    adjust: Sequence[str] = ()
    reference: str = ""
    adjusted: Sequence[str] = ()
    method: str = "pearson"
    bootstrap: int = 0
    strata: Sequence[str] = ()
    seed: int = 0
    correction: str = "fdr_bh"


CORRELATION_COLUMNS = {
    "x": "variable; name[value] is 1 for this value of a text and 0 for the other",
    "y": "variable",
    "given": "covariates",
    "method": "pearson, or spearman (of ranks, of the covariates too)",
    "n": "participants of the subset with known values of both variables and the covariates",
    "r": "(partial) correlation",
    "low": "lower end of the 95 % confidence interval: Fisher's z, standard error 1/sqrt(n - k - 3) for k covariates; "
    "of spearman sqrt(1 + r^2/2)/sqrt(n - k - 3) (Bonett & Wright 2000)",
    "high": "upper end of the 95 % confidence interval",
    **interval_columns("r"),
    "df": "degrees of freedom: n - 2 - k",
    "p": "two-sided P by t, not corrected",
    "p_corrected": "P corrected over the rows of the table",
}


DATA_COLUMNS = {
    "participant_id": "participant",
    "x": "variable",
    "y": "variable",
    "value_x": "value of x as analysed: transformed, adjusted",
    "value_y": "value of y as analysed",
    "residual_x": "residual of x given the covariates; of spearman, of the ranks",
    "residual_y": "residual of y given the covariates; of spearman, of the ranks",
}


def correlations(command: Correlations) -> Result:
    """(Partial) correlations of every variable of x with every variable of y.

    Parameters
    ----------
    command : Correlations

    Returns
    -------
    Result
        One table with one row per pair.

    Raises
    ------
    FileError
        Something is wrong with the files or the command; the message is one sentence.
    """
    check_correction(command.correction)
    check_strata(command.strata, command.bootstrap)
    data = read_data(command, command.reference)
    pairs = _pairs(command, data.table)
    options = {"given": command.given, "adjust": command.adjust}
    covariates = [name for how, names in options.items() for name in find_columns(data.table, names, how, command)]
    data, groups = z_scored(command, data, list(dict.fromkeys(name for pair in pairs for name in pair)))
    lines, about, without, values = [], {}, [], []
    for x, y in pairs:
        line, excluded, boot, points = _correlated(command, data, x, y)
        lines.append(line)
        values.append(points)
        without += without_interval([f"{line['x']} ~ {line['y']}"], boot)
        undetermined = 0 if boot is None else int(np.isnan(boot.samples).sum())
        about[f"{line['x']} ~ {line['y']}"] = {
            "n": line["n"],
            "excluded": excluded,
            "resamples_not_determined": undetermined if command.bootstrap else None,
        }
    table = pd.DataFrame(lines, columns=list(CORRELATION_COLUMNS))
    table["p_corrected"] = corrected_p(table["p"].to_list(), command.correction)
    record = {
        **record_of(command, data),
        "analysis": f"{'partial ' if command.given else ''}correlation, {command.method}",
        "adjustment": adjustment_record(command, groups) if groups else None,
        "bootstrap": bootstrap_record(command.bootstrap, command.seed, command.strata, without),
        "correction": {"method": command.correction, "family": count_of(len(lines), "correlation")},
        "correlations": about,
        "columns": {"": CORRELATION_COLUMNS, "_data": DATA_COLUMNS},
    }
    message = count_of(len(lines), "correlation")
    if command.correction != "none":
        count = int((table["p_corrected"] < 0.05).sum())
        message += f"; corrected P < .05 in {count} ({command.correction})"
    said = [*data.out.lines(), message, *adjustment_lines(command, groups)]
    tables = {"_data": pd.concat(values, ignore_index=True)[list(DATA_COLUMNS)], "": table}
    messages = [*said, *undetermined_message(command.bootstrap, without)]
    return Result(tables, record, messages, data.doubts([*table["x"], *table["y"], *covariates]))


def _pairs(command: Correlations, table: pd.DataFrame) -> list[tuple[str, str]]:
    x, y = (_named(command, table, option) for option in ("x", "y"))
    covariates = find_columns(table, command.given, "given", command)
    for option, names in (("x", x), ("y", y)):
        if not names:
            raise UsageError(f"--{option} is missing: a correlation needs variables")
        for name in names:
            if name in covariates:
                raise OptionError(f"--{option}", f"{name} is already a covariate (--given)")
    if command.paired:
        return _one_by_one(x, y)
    pairs: dict[tuple[str, str], None] = {}
    for a in x:
        for b in y:
            if a != b and (b, a) not in pairs:
                pairs[a, b] = None
    if not pairs:
        raise OptionError("--y", f"{x[0]} is also the only variable of --x; two variables are needed")
    return list(pairs)


def _one_by_one(x: Sequence[str], y: Sequence[str]) -> list[tuple[str, str]]:
    """The first of x with the first of y, and so on."""
    if len(x) != len(y):
        raise OptionError("--y", f"has {len(y)} variables, and --x {len(x)}; pairs need as many of both")
    for a, b in zip(x, y):
        if a == b:
            raise OptionError("--y", f"{a} is paired with itself")
    return list(zip(x, y))


def _named(command: Correlations, table: pd.DataFrame, option: str) -> list[str]:
    """Variables of one side; of pairs, each name one variable, which may occur again."""
    names: Sequence[str] = getattr(command, option)
    if not command.paired:
        return find_columns(table, names, option, command)
    of = [find_columns(table, [name], option, command) for name in names]
    for name, variables in zip(names, of):
        if len(variables) != 1:
            raise OptionError(f"--{option}", f"{name!r} matches {len(variables)} variables; a pair needs one")
    return [variables[0] for variables in of]


def _correlated(
    command: Correlations, data: Data, x: str, y: str
) -> tuple[dict[str, Any], dict[str, list[str]], least_squares.Bootstrap | None, pd.DataFrame]:
    """Row of a pair, the excluded participants, the bootstrap, and the values of the pair."""
    what = f"{command.origin}, {x} with {y}"
    covariates = find_columns(data.table, command.given, "given", command)
    rows, excluded = complete_cases(data, [x, y, *covariates], what)
    (x_name, a), (y_name, b) = (_one_column(rows, name, what) for name in (x, y))
    Z = indicators(rows, covariates, command.origin).to_numpy()
    strata = strata_of(data, rows, command.strata, command)
    boot = None
    try:
        correlation = least_squares.partial_correlation(a, b, Z, command.method)
        if command.bootstrap:
            statistic = least_squares.correlation_statistic(a, b, Z, command.method)
            boot = least_squares.bootstrap(statistic, len(rows), command.bootstrap, command.seed, strata=strata)
    except InputError as error:
        raise FileError(f"{what}: {error}") from None
    line = {
        "x": x_name, "y": y_name, "given": ", ".join(covariates) or None, "method": command.method, "n": len(rows),
        **asdict(correlation), **dict(zip(BOOTSTRAP, bootstrap_columns(boot, 1)[0])),
    }  # fmt: skip
    residuals = least_squares.residuals_of(a, b, Z, command.method)
    points = pd.DataFrame(
        {"participant_id": rows["participant_id"], "x": x_name, "y": y_name, "value_x": a, "value_y": b,
         "residual_x": residuals[:, 0], "residual_y": residuals[:, 1]}
    )  # fmt: skip
    return line, excluded, boot, points


def _one_column(rows: pd.DataFrame, name: str, what: str) -> tuple[str, Float64]:
    """A variable as numbers; text with two values is coded as 0 and 1."""
    column = indicators(rows, [name], what)
    if column.shape[1] != 1:
        raise FileError(
            f"{what}: {name} is text with {column.shape[1] + 1} values; numbers or two values are needed"
        )
    return str(column.columns[0]), column.iloc[:, 0].to_numpy()
