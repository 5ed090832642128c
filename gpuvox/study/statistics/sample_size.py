"""Sample sizes from the differences of groups, two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError, InputError, OptionError, UsageError
from gpuvox.plain import several
from gpuvox.study.statistics import power
from gpuvox.study.statistics.sources import (
    Result,
    Source,
    complete_cases,
    find_columns,
    numbers_of,
    read_data,
    record_of,
)
from gpuvox.tables.columns import indicators, require
from gpuvox.tables.reading import labels
from gpuvox.types import Bools


@dataclass(frozen=True, kw_only=True)
class SampleSizes(Source):
    """Sample sizes from the difference of every two groups; ``gpuvox models samplesize``.

    Attributes
    ----------
    group : str
        Column.
    order : sequence of str
        Its values, two or more: differences are the first minus the second of every two.
    variables : sequence of str
        Variables (or patterns).
    covariates : sequence of str
        Covariates of an ANCOVA.
    reduction : float
        The effect to detect, as a share of the observed difference.
    power, alpha : float
        Power and two-sided level.
    """

    group: str
    order: Sequence[str]
    variables: Sequence[str]
    covariates: Sequence[str] = ()
    reduction: float = 1.0
    power: float = 0.8
    alpha: float = 0.05


PAIR = {"groups": "the two groups: the first minus the second"}
"""Further column where there are more than two groups."""
SAMPLE_SIZE_COLUMNS = {
    "variable": "variable",
    "n_first": "participants of the first group",
    "n_second": "participants of the second group",
    "mean_first": "mean of the first group",
    "mean_second": "mean of the second group",
    "sd": "SD within the groups, pooled",
    "d": "Cohen's d: first mean minus second, divided by the SD",
    "d_adjusted": "the same for the means adjusted for the covariates",
    "r2_covariates": "share of the variance within groups that the covariates explain: 1 minus the ratio of the two "
    "residual variances (an adjusted R2; not below 0)",
    "effect": "difference to detect, in SD: d times the reduction",
    "n_t_test": "participants in each of two equal arms, t test",
    "effect_adjusted": "difference to detect given the covariates, in SD: d_adjusted times the reduction",
    "n_ancova": "participants in each of two equal arms, ANCOVA with these covariates",
}


def sample_sizes(command: SampleSizes) -> Result:
    """Participants in each arm of a trial whose effect is a share of the difference between two groups.

    Parameters
    ----------
    command : SampleSizes

    Returns
    -------
    Result
        One table with one row per variable, and pair of groups if there are more than two.

    Raises
    ------
    InputError
        Something is wrong with the files or the command; the message is one sentence.
    """
    data = read_data(command)
    pairs = _pairs_of_groups(command, data.table)
    names = find_columns(data.table, command.variables, "variables", command)
    covariates = find_columns(data.table, command.covariates, "covariates", command)
    if not (names and np.isfinite(command.reduction) and command.reduction):
        raise UsageError("sample sizes need --variables, and a --reduction other than 0")
    for name in names:
        if name in (command.group, *covariates):
            raise OptionError("--variables", f"{name} is the group or a covariate")
    lines: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for pair, (first, second) in pairs.items():
        both = replace(data, chosen=data.chosen & (first | second))
        found = about if len(pairs) == 1 else about.setdefault(pair, {})
        for name in names:
            rows, excluded = complete_cases(both, [name, command.group, *covariates], f"{command.origin}, {name}")
            of_first = pd.Series(first).loc[rows.index].to_numpy()
            lines.append({"groups": pair} | _sample_size(command, rows, name, of_first, covariates))
            found[name] = {"n": len(rows), "excluded": excluded}
    columns = (PAIR if len(pairs) > 1 else {}) | SAMPLE_SIZE_COLUMNS
    table = pd.DataFrame(lines)[list(columns)]
    everyone = np.any([either for pair in pairs.values() for either in pair], axis=0)
    record = {
        **record_of(command, replace(data, chosen=data.chosen & everyone)),
        "analysis": f"participants in each of two equal arms; power {command.power:g}, two-sided {command.alpha:g}",
        "variables": about,
        "columns": {"": columns},
    }
    messages = [*data.out.lines(), *_sample_size_messages(command, table)]
    return Result({"": table}, record, messages, data.doubts([*names, *covariates]))


def _pairs_of_groups(command: SampleSizes, table: pd.DataFrame) -> dict[str, tuple[Bools, Bools]]:
    """The rows of both groups of every pair, by the names of the pairs."""
    require(table, [command.group], command.origin)
    if len(set(command.order)) != len(command.order) or len(command.order) < 2:
        raise OptionError(
            "--order",
            f"{several(len(command.order), 'group')}; two different groups or more are needed, such as MS,HC",
        )
    text = labels(table[command.group])
    for value in command.order:
        if not (text == value).any():
            there = ", ".join(sorted(set(text.dropna())))
            raise OptionError("--order", f"{command.origin} has no {command.group} {value!r}; there are {there}")
    of = {value: (text == value).to_numpy() for value in command.order}
    return {f"{a} - {b}": (of[a], of[b]) for a, b in combinations(command.order, 2)}


def _sample_size(
    command: SampleSizes, rows: pd.DataFrame, name: str, first: Bools, covariates: Sequence[str]
) -> dict[str, Any]:
    values = numbers_of(rows, name, command)
    Z = indicators(rows, covariates, command.origin).to_numpy()
    try:
        difference = power.group_difference(values, first, Z)
        effect, adjusted_effect = difference.d * command.reduction, difference.d_adjusted * command.reduction
        t_test = power.sample_size_groups(effect, command.power, command.alpha)
        ancova = power.sample_size_groups(
            adjusted_effect, command.power, command.alpha, difference.r2_covariates, Z.shape[1]
        )
    except InputError as error:
        raise FileError(f"{command.origin}, {name}: {error}") from None
    return {
        "variable": name,
        "n_first": int(first.sum()),
        "n_second": int((~first).sum()),
        "mean_first": difference.means[0],
        "mean_second": difference.means[1],
        "sd": difference.sd,
        "d": difference.d,
        "d_adjusted": difference.d_adjusted if covariates else None,
        "r2_covariates": difference.r2_covariates if covariates else None,
        "effect": effect,
        "n_t_test": t_test,
        "effect_adjusted": adjusted_effect if covariates else None,
        "n_ancova": ancova if covariates else None,
    }


def _sample_size_messages(command: SampleSizes, table: pd.DataFrame) -> list[str]:
    share = "the difference" if command.reduction == 1 else f"{command.reduction:g} of the difference"
    of = " and ".join(command.order) if len(command.order) == 2 else f"every two of {', '.join(command.order)}"
    lines = [
        f"participants in each arm to detect {share} of {of} with power {command.power:g}, two-sided "
        f"{command.alpha:g}"
    ]
    if "groups" in table:
        table = table.assign(variable=table["groups"] + ", " + table["variable"])
    width = max(len("variable"), *(len(name) for name in table["variable"]))
    ancova = f"  {'adjusted':>8}  {'R2':>5}  {'ANCOVA':>8}" if command.covariates else ""
    lines.append(f"{'variable':<{width}}  {'d':>6}  {'t test':>8}{ancova}")
    for row in table.itertuples(index=False):
        line = f"{row.variable:<{width}}  {row.d:>6.2f}  {row.n_t_test:>8}"
        if command.covariates:
            line += f"  {row.d_adjusted:>8.2f}  {row.r2_covariates:>5.2f}  {row.n_ancova:>8}"
        lines.append(line)
    return lines
