"""Correlations and partial correlations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError, InputError, OptionError, UsageError
from gpuvox.study.statistics import least_squares
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
    read_data,
    record_of,
    strata_of,
    undetermined_message,
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
    given : sequence of str
        Covariates.
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
    given: Sequence[str] = ()
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
    data = read_data(command)
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
    table["p_corrected"] = corrected_p(table["p"].to_list(), command.correction)
    missing = table[table[DETERMINED].notna() & table[INTERVALS[0]].isna()]
    without = [f"{x} ~ {y}" for x, y in zip(missing["x"], missing["y"])]
    record = {
        **record_of(command, data),
        "analysis": f"{'partial ' if command.given else ''}correlation, {command.method}",
        "bootstrap": bootstrap_record(command.bootstrap, command.seed, command.strata, without),
        "correction": {"method": command.correction, "family": count_of(len(lines), "correlation")},
        "correlations": about,
        "columns": {"": CORRELATION_COLUMNS},
    }
    message = count_of(len(lines), "correlation")
    if command.correction != "none":
        count = int((table["p_corrected"] < 0.05).sum())
        message += f"; corrected P < .05 in {count} ({command.correction})"
    return Result(
        {"": table}, record, [*data.out.lines(), message, *undetermined_message(command.bootstrap, without)]
    )


def _pairs(command: Correlations, table: pd.DataFrame) -> list[tuple[str, str]]:
    x, y = (find_columns(table, getattr(command, option), option, command) for option in ("x", "y"))
    covariates = find_columns(table, command.given, "given", command)
    for option, names in (("x", x), ("y", y)):
        if not names:
            raise UsageError(f"--{option} is missing: a correlation needs variables")
        for name in names:
            if name in covariates:
                raise OptionError(f"--{option}", f"{name} is already a covariate (--given)")
    pairs: dict[tuple[str, str], None] = {}
    for a in x:
        for b in y:
            if a != b and (b, a) not in pairs:
                pairs[a, b] = None
    if not pairs:
        raise OptionError("--y", f"{x[0]} is also the only variable of --x; two variables are needed")
    return list(pairs)


def _correlated(
    command: Correlations, data: Data, x: str, y: str
) -> tuple[dict[str, Any], dict[str, list[str]], int]:
    """Row of a pair, the excluded participants, and the number of resamples that do not determine it."""
    what = f"{command.origin}, {x} with {y}"
    covariates = find_columns(data.table, command.given, "given", command)
    rows, excluded = complete_cases(data, [x, y, *covariates], what)
    (x_name, a), (y_name, b) = (_one_column(rows, name, what) for name in (x, y))
    Z = indicators(rows, covariates, command.origin).to_numpy()
    strata = strata_of(data, rows, command.strata, command)
    ends, undetermined = np.full(5, np.nan), 0
    try:
        correlation = least_squares.partial_correlation(a, b, Z, command.method)
        if command.bootstrap:
            statistic = least_squares.correlation_statistic(a, b, Z, command.method)
            boot = least_squares.bootstrap(statistic, len(rows), command.bootstrap, command.seed, strata=strata)
            ends = np.array([*boot.percentile[0], *boot.bca[0], boot.determined[0]])
            undetermined = int(np.isnan(boot.samples).sum())
    except InputError as error:
        raise FileError(f"{what}: {error}") from None
    line = {
        "x": x_name, "y": y_name, "given": ", ".join(covariates) or None, "method": command.method, "n": len(rows),
        **asdict(correlation), **dict(zip((*INTERVALS, DETERMINED), ends)),
    }  # fmt: skip
    return line, excluded, undetermined


def _one_column(rows: pd.DataFrame, name: str, what: str) -> tuple[str, Float64]:
    """A variable as numbers; text with two values is coded as 0 and 1."""
    column = indicators(rows, [name], what)
    if column.shape[1] != 1:
        raise FileError(
            f"{what}: {name} is text with {column.shape[1] + 1} values; numbers or two values are needed"
        )
    return str(column.columns[0]), column.iloc[:, 0].to_numpy()
