"""What the reference in cerebrospinal fluid (CSF) does to comparisons of groups.

Each participant's maps are known up to an offset that the reconstruction of susceptibility leaves open: 1 ppb is
6.4 mg/kg of iron. Subtracting the mean of the cohort keeps the offsets between participants, subtracting each
participant's own mean in CSF removes them, with the error of that mean. Means over regions change by the difference of
the two, so both references can be compared without inverting anything again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gpuvox.errors import FileError
from gpuvox.findings.tables import p_text
from gpuvox.study.statistics.adjustment import residuals_given
from gpuvox.study.statistics.ancova import LEVEL, ancova
from gpuvox.tables.columns import indicators
from gpuvox.tables.groups import assign_groups
from gpuvox.tables.reading import with_columns
from gpuvox.types import Bools, Float64

COMPARISON, SENSITIVITY_TABLE, RECORD = "csf/comparison.tsv", "csf/sensitivity.tsv", "csf/csf.json"
"""Files of a study, relative to its results."""
DEPENDENCE, DEPENDENCE_RECORD = "csf/coefficients.tsv", "csf/coefficients.json"
"""Files of the dependence on the model's coefficients."""
KINDS = ("iron", "myelin")
MASS_UNITS = {"iron": 1e-3, "myelin": 1.0}
"""Mass of a mean times a volume in mL: mg of iron, mL of myelin."""
LARGE_SHARE = 0.2
"""Share of a variable's variance from which the spread of CSF is reported: without it, t would be 12 % larger."""
HALF = 0.5
"""Share of a difference between groups from which that of CSF is reported."""
REFERENCED = re.compile(r"(?P<place>.+)\.(?P<kind>iron|myelin)(?P<of>|\.median|\.mass|\.mass_raw)")
SENSITIVITY = {
    "variable": "variable compared, not transformed",
    "difference_cohort": "difference of the groups given the covariates, maps referenced to the cohort's mean CSF",
    "difference_cohort_low": "lower end of its 95 % confidence interval",
    "difference_cohort_high": "upper end of its 95 % confidence interval",
    "d_cohort": "its Cohen's d",
    "p_cohort": "its p, not corrected",
    "difference_subject": "the same, maps referenced to each participant's own CSF",
    "difference_subject_low": "lower end of its 95 % confidence interval",
    "difference_subject_high": "upper end of its 95 % confidence interval",
    "d_subject": "its Cohen's d",
    "p_subject": "its p, not corrected",
    "csf_share": "variance that CSF contributes as share of the variable's, both given groups and covariates, maps "
    "referenced to the cohort's mean CSF",
}
"""Columns of the table of `sensitivity`, with descriptions."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two groups and their covariates.

    Attributes
    ----------
    table : DataFrame
        Participants with their variables; see `tables.typed`.
    group : str
    order : sequence of str
        The two groups; differences are the first minus the second.
    covariates : sequence of str
    """

    table: pd.DataFrame
    group: str
    order: Sequence[str]
    covariates: Sequence[str]

    def of(self, columns: Mapping[str, Float64]) -> pd.DataFrame:
        """Analyses of covariance of other variables of the same participants, without correction."""
        kept = self.table[[self.group, *self.covariates]]
        table = with_columns(kept, pd.DataFrame(columns, index=kept.index))
        result = ancova(
            table, list(columns), self.group, order=self.order, covariates=self.covariates, correction="none"
        )
        return result.set_index("variable", drop=False)

    def residuals(self, values: Float64) -> Float64:
        """Residuals given groups and covariates of the participants who have all of them; NaN for others."""
        rows, X = self._design(values)
        out = np.full(len(values), np.nan)
        out[rows] = residuals_given(values[rows], X)
        return out

    def residual_sd(self, values: Float64) -> float:
        """SD of the residuals; NaN without degrees of freedom."""
        rows, X = self._design(values)
        residuals, df = residuals_given(values[rows], X), len(X) - X.shape[1]
        return float(np.sqrt((residuals**2).sum() / df)) if df > 0 else float("nan")

    def _design(self, values: Float64) -> tuple[Bools, Float64]:
        """The participants who have groups, covariates and values, and the columns of their groups and covariates."""
        codes = assign_groups(self.table, self.group, self.order).codes
        rows = (
            (codes >= 0) & self.table[list(self.covariates)].notna().all(axis=1).to_numpy() & np.isfinite(values)
        )
        C = indicators(self.table[rows], self.covariates).to_numpy()
        return rows, np.column_stack([codes[rows] == 0, codes[rows] == 1, C]).astype(np.float64)


def shift_of(name: str, table: pd.DataFrame, offsets: Mapping[str, Float64]) -> Float64 | None:
    """What a variable is larger by if it is referenced to the cohort's CSF instead of each participant's own.

    Parameters
    ----------
    name : str
        ``thalamus.iron``, ``thalamus.iron.median``, ``left.caudate.myelin.mass`` …
    table : DataFrame
        With the volumes of masses, ``thalamus.volume`` and, if masses are normalised, ``.volume_normalised``.
    offsets : dict of str to (n,) float64
        Mean iron and myelin in each participant's CSF.

    Returns
    -------
    (n,) float64 or None
        None for variables that the reference does not shift, or whose volume is not in the table.
    """
    match = REFERENCED.fullmatch(name)
    if match is None:
        return None
    kind, measure = match["kind"], match["of"]
    deviations = offsets[kind] - offsets[kind].mean()
    if measure in ("", ".median"):
        return deviations
    volumes = [f"{match['place']}.volume_normalised", f"{match['place']}.volume"]
    volume = next((v for v in volumes[measure == ".mass_raw" :] if v in table.columns), None)
    return None if volume is None else deviations * table[volume].to_numpy(dtype=np.float64) * MASS_UNITS[kind]


def offsets_of(csf: pd.DataFrame, participants: Iterable[str], origin: str) -> dict[str, Float64]:
    """Mean iron and myelin in the CSF of each participant, in the order of the participants.

    Raises
    ------
    FileError
        A participant is missing.
    """
    by_id = csf.set_index("participant_id")
    names = list(participants)
    for name in names:
        if name not in by_id.index:
            raise FileError(f"{origin} has no CSF of {name}")
    return {kind: by_id.loc[names, kind].to_numpy(dtype=np.float64) for kind in KINDS}


def sensitivity(
    comparison: Comparison, variables: Sequence[str], offsets: Mapping[str, Float64], reference: str
) -> pd.DataFrame:
    """The difference of two groups under both references.

    Parameters
    ----------
    comparison : Comparison
    variables : sequence of str
        Those that the reference does not shift are omitted.
    offsets : dict of str to (n,) float64
        See `shift_of`.
    reference : {"cohort", "subject"}
        The reference of the variables in the table.

    Returns
    -------
    DataFrame
        One row per variable; `SENSITIVITY` describes the columns.
    """
    shifts = {name: shift_of(name, comparison.table, offsets) for name in variables}
    values: dict[str, dict[str, Float64]] = {"cohort": {}, "subject": {}}
    for name, shift in shifts.items():
        if shift is not None:
            measured = comparison.table[name].to_numpy(dtype=np.float64)
            values["cohort"][name] = measured if reference == "cohort" else measured + shift
            values["subject"][name] = measured if reference == "subject" else measured - shift
    if not values["cohort"]:
        return pd.DataFrame(columns=list(SENSITIVITY))
    rows = pd.DataFrame({"variable": list(values["cohort"])}).set_index("variable", drop=False)
    for how, columns in values.items():
        found = comparison.of(columns)
        rows[f"difference_{how}"] = found["difference"]
        rows[f"difference_{how}_low"], rows[f"difference_{how}_high"] = (
            found["difference_low"],
            found["difference_high"],
        )
        rows[f"d_{how}"], rows[f"p_{how}"] = found["d"], found["p"]
    rows["csf_share"] = [
        _share(comparison, shifts[name], values["cohort"][name])  # type: ignore[arg-type]
        for name in rows["variable"]
    ]
    return rows.reset_index(drop=True)[list(SENSITIVITY)]


def _share(comparison: Comparison, shift: Float64, values: Float64) -> float:
    there = np.isfinite(values)
    own, of_csf = comparison.residuals(values), comparison.residuals(np.where(there, shift, np.nan))
    total = float(np.nansum(own**2))
    return float(np.nansum(of_csf**2)) / total if total > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class References:
    """Both references in CSF, for two groups.

    Attributes
    ----------
    compared : DataFrame
        `Comparison.of` the mean in CSF, rows ``iron`` and ``myelin``.
    sensitivity : DataFrame
        See `sensitivity`.
    spread : dict of str to float
        SD of CSF given groups and covariates, of iron and myelin.
    """

    compared: pd.DataFrame
    sensitivity: pd.DataFrame
    spread: Mapping[str, float]


def compare_references(
    comparison: Comparison, variables: Sequence[str], offsets: Mapping[str, Float64], reference: str
) -> References:
    """Both references, for two groups; see `sensitivity`."""
    rows = sensitivity(comparison, variables, offsets, reference)
    return References(comparison.of(offsets), rows, spread_of(comparison, offsets))


def concerns(found: References, reference: str, units: Mapping[str, str]) -> list[str]:
    """Warnings if CSF could explain a difference between the groups, or hide one.

    Parameters
    ----------
    found : References
    reference : {"cohort", "subject"}
        That of the maps.
    units : dict of str to str
        Those of iron and of myelin in the tissue model; empty for a fraction.
    """
    compared, rows, spread = found.compared, found.sensitivity, found.spread
    texts = []
    for kind in KINDS if reference == "cohort" else ():
        row = compared.loc[kind].to_dict()
        if row["p"] < LEVEL:
            texts.append(
                f"mean {kind} in CSF differs between the groups by {_measured(row['difference'], units[kind])} "
                f"given the covariates (p {_p(row['p'])}), and the cohort's reference leaves this difference in "
                "the maps"
            )
        own = [_kind(name) == kind for name in rows["variable"]]
        texts += _of_kind(rows.loc[own], kind, _measured(spread[kind], units[kind]))
    for each in rows.to_dict("records"):
        if (each["p_cohort"] < LEVEL) != (each["p_subject"] < LEVEL):
            texts.append(
                f"the difference in {each['variable']} depends on the CSF reference: p {_p(each['p_cohort'])} with "
                f"that of the cohort, {_p(each['p_subject'])} with each participant's own"
            )
    return texts


def _of_kind(rows: pd.DataFrame, kind: str, spread: str) -> list[str]:
    """Warnings about the variables of iron, or of myelin, that are referenced to the cohort."""
    texts = []
    moved = (rows["difference_cohort"] - rows["difference_subject"]).abs()
    explained = rows[(rows["p_cohort"] < LEVEL) & (moved >= HALF * rows["difference_cohort"].abs())]
    if len(explained):
        texts.append(
            f"at least half of the difference in {', '.join(explained['variable'])} is that of {kind} in CSF, and "
            'could be an offset between the participants; compare reference = "subject"'
        )
    noisy = rows[rows["csf_share"] >= LARGE_SHARE]
    if len(noisy):
        top = max(noisy.to_dict("records"), key=lambda row: row["csf_share"])
        texts.append(
            f"the spread of {kind} in CSF between participants (SD {spread}) is at least "
            f"{100 * LARGE_SHARE:.0f} % of the variance of {', '.join(noisy['variable'])} (largest: "
            f"{100 * top['csf_share']:.0f} % of {top['variable']}), which can hide or imitate differences; compare "
            'reference = "subject"'
        )
    return texts


def _measured(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip()


def _kind(name: str) -> str:
    match = REFERENCED.fullmatch(name)
    return match["kind"] if match else ""


def _p(p: float) -> str:
    return p_text(p, LEVEL).replace("\u00a0", " ")


def spread_of(comparison: Comparison, offsets: Mapping[str, Float64]) -> dict[str, float]:
    """SD of iron and of myelin in CSF, given groups and covariates."""
    return {kind: comparison.residual_sd(offsets[kind]) for kind in KINDS}


PAIR = "groups"
"""Column of the two groups, where there are more."""


def by_pair(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of pairs of groups below each other; with three groups or more, the pair is the first column."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    parts = [table.assign(**{PAIR: pair}) for pair, table in tables.items()]
    names: list[str] = []
    for table in tables.values():  # the columns of a further group stand beside those of the others
        following = len(names)
        for name in reversed(table.columns):
            if name not in names:
                names.insert(following, name)
            following = names.index(name)
    return pd.concat(parts, ignore_index=True)[[PAIR, *names]]


def columns_by_pair(columns: Mapping[str, str], pairs: Sequence[object]) -> dict[str, str]:
    """Descriptions of the columns of `by_pair`."""
    first = {PAIR: "the two groups; differences are the first minus the second"} if len(pairs) > 1 else {}
    return first | dict(columns)


def record_of(reference: str, spread: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The record for the JSON file beside the tables; `spread` is by pair of groups, see `References`."""
    of_pairs = {pair: dict(sds) for pair, sds in spread.items()}
    (pair, *more) = of_pairs
    return {
        "reference": reference,
        "sd_of_csf": of_pairs if more else of_pairs[pair],
        "difference": list(of_pairs) if more else pair,
        "columns": {"sensitivity": columns_by_pair(SENSITIVITY, list(of_pairs))},
    }
