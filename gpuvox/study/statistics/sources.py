"""Common parts of the clinical models: variables, participants, results and their record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gpuvox import __version__, files, private
from gpuvox.errors import FileError, InputError, OptionError
from gpuvox.study.statistics import least_squares
from gpuvox.study.statistics.transforms import FORMULAS, transformed
from gpuvox.tables.codes import codes_of_missing
from gpuvox.tables.columns import matching
from gpuvox.tables.conditions import LeftOut, left_out, select
from gpuvox.tables.reading import gather, label
from gpuvox.types import Bools, Float64

INTERVALS = ("bootstrap_low", "bootstrap_high", "bca_low", "bca_high")
MOMENTS = ("bootstrap_bias", "bootstrap_se", "bootstrap_p")
DETERMINED = "bootstrap_resamples"
BOOTSTRAP = (*INTERVALS, *MOMENTS, DETERMINED)
"""Columns of a bootstrap."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files with the variables, and the participants to analyse.

    Attributes
    ----------
    table, rois : str
        Files; see `tables.gather`.
    clusters : dict of str to str
        Name → file.
    subset : str
        Condition on the variables as in the files; empty for all participants.
    log, sqrt, rank : sequence of str
        Variables (or patterns) that are transformed: natural logarithm, square root, rank among those analysed.
    """

    table: str
    rois: str = ""
    clusters: Mapping[str, str] = field(default_factory=dict)
    subset: str = ""
    log: Sequence[str] = ()
    sqrt: Sequence[str] = ()
    rank: Sequence[str] = ()

    @property
    def inputs(self) -> list[str]:
        """The input files."""
        return [self.table, *([self.rois] if self.rois else []), *self.clusters.values()]

    @property
    def origin(self) -> str:
        """Description of the files, for messages."""
        return " with ".join(self.inputs)


@dataclass(frozen=True, eq=False)
class Result:
    """The results of a command.

    Attributes
    ----------
    tables : dict of str to DataFrame
        Suffix of the file name → table.
    record : dict
        The record for the JSON file.
    messages : list of str
        Summary for the user.
    warnings : list of str
        What may be a mistake.
    """

    tables: dict[str, pd.DataFrame]
    record: dict[str, Any]
    messages: list[str]
    warnings: list[str]


def write(result: Result, out: str) -> None:
    """Write the tables, and last the JSON file.

    Raises
    ------
    FileError
        A file cannot be written.
    """
    for suffix, table in result.tables.items():
        files.write_table(f"{out}{suffix}.tsv", table)
    files.write_json(f"{out}.json", private.record(result.record, os.path.dirname(out)))


@dataclass(frozen=True, eq=False)
class Data:
    """Variables, transformed where requested, and as in the files; the subset, excluded rows, the reference group."""

    table: pd.DataFrame
    raw: pd.DataFrame
    chosen: Bools
    reference: Bools
    out: LeftOut

    def doubts(self, names: Iterable[str]) -> list[str]:
        """Numbers of some variables that may be codes of missing values, of those analysed."""
        used = self.raw[self.chosen | self.reference]
        used.attrs = dict(self.raw.attrs)
        return codes_of_missing(used, [name for name in names if name in used.columns])


def read_data(source: Source, reference: str = "") -> Data:
    """Variables of a command, and participants who fulfil its conditions."""
    table = gather(source.table, source.rois or None, source.clusters)
    chosen = rows_of(table, source.subset, "subset", source.table)
    out = left_out(table, source.subset)
    # Conditions apply to the variables as in the files, before logarithms.
    inside = (
        rows_of(table, reference, "reference", source.table) if reference else np.zeros(len(table), dtype=bool)
    )
    raw = table.copy()
    transform(table, chosen, inside, source)
    return Data(table, raw, chosen, inside, out)


def transform(table: pd.DataFrame, chosen: Bools, inside: Bools, source: Source) -> None:
    """Replace variables by their logarithms, roots or ranks; see `transforms.transformed`."""
    done: dict[str, str] = {}
    for how in FORMULAS:
        for name in find_columns(table, getattr(source, how), how, source):
            if name in done:
                raise OptionError(f"--{how}", f"{name} is transformed already (--{done[name]})")
            done[name] = how
            values, who = numbers_of(table, name, source), table["participant_id"].tolist()
            try:
                table[name] = transformed(values, how, chosen, inside, who, name)
            except InputError as error:
                raise OptionError(f"--{how}", error.message) from None


def rows_of(table: pd.DataFrame, condition: str, option: str, origin: str, noun: str = "participant") -> Bools:
    """Rows that fulfil the condition of an option; `OptionError` if there are none."""
    try:
        rows = select(table, condition)
    except InputError as error:
        raise OptionError(f"--{option}", f"cannot be evaluated on {origin}: {error.message}") from None
    if not rows.any():
        raise OptionError(f"--{option}", f"no {noun} of {origin} fulfils {condition!r}")
    return rows


def find_columns(table: pd.DataFrame, patterns: Sequence[str], option: str, source: Source) -> list[str]:
    """Variables that an option names."""
    check_named_once(patterns, option)
    try:
        return matching([c for c in table.columns if c != "participant_id"], patterns, source.origin)
    except InputError as error:
        raise OptionError(f"--{option}", error.message) from None


def check_named_once(names: Sequence[str], option: str) -> None:
    """Raise `OptionError` if an option names the same twice."""
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise OptionError(f"--{option}", f"{twice[0]!r} is named twice")


def is_numeric(table: pd.DataFrame, name: str) -> bool:
    """Whether a variable is numeric."""
    return pd.api.types.is_numeric_dtype(table[name])


def numbers_of(table: pd.DataFrame, name: str, source: Source) -> Float64:
    """A variable as numbers; `FileError` if it is text."""
    if not is_numeric(table, name):
        raise FileError(f"{source.origin}: {name} is text; numbers are needed")
    return table[name].to_numpy(dtype=np.float64)


def complete_cases(data: Data, names: Sequence[str], what: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Participants of the subset who have every variable; the variables that the others lack.

    Raises `FileError` if fewer than three remain, or a variable is constant.
    """
    table = data.table[data.chosen]
    missing = table[list(names)].isna()
    whole = table[~missing.any(axis=1)]
    if len(whole) < 3:
        count = len(whole) or "none"
        raise FileError(f"{what}: {count} of {count_of(len(table), 'participant')} has all of {', '.join(names)}")
    for name in names:
        if whole[name].nunique() == 1:
            raise FileError(f"{what}: {name} is {whole[name].iloc[0]} in all {len(whole)} participants analysed")
    lacking = {
        str(table["participant_id"].loc[i]): [str(c) for c in missing.columns[row]]
        for i, row in zip(table.index, missing.to_numpy())
        if row.any()
    }
    return whole, lacking


def record_of(command: Source, data: Data) -> dict[str, Any]:
    """Common entries of the JSON files: versions, options, inputs."""
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
        "subset_leaves_out": data.out.record(),
        "log": "natural" if command.log else None,
        "transforms": {name: formula for name, formula in FORMULAS.items() if getattr(command, name)},
    }


def bootstrap_record(
    resamples: int, seed: int, strata: Sequence[str], without_interval: Sequence[str]
) -> dict[str, Any] | None:
    """Entries of the JSON file about a bootstrap."""
    if not resamples:
        return None
    return {
        "resamples": resamples, "seed": seed, "level": 0.95, "intervals": ["percentile", "BCa"],
        "resampled": "participants, with replacement", "within": list(strata),
        "minimum_share_determined": least_squares.MINIMUM_DETERMINED, "without_interval": list(without_interval),
    }  # fmt: skip


def check_strata(strata: Sequence[str], resamples: int) -> None:
    """Raise `OptionError` if there are strata but no bootstrap."""
    if strata and not resamples:
        raise OptionError("--strata", "requires --bootstrap, the number of resamples")


def strata_of(data: Data, rows: pd.DataFrame, names: Sequence[str], command: Source) -> NDArray[np.int64] | None:
    """The stratum of each participant: the combination of values of some variables; None if there are none.

    Raises `OptionError` if a value is missing or a stratum has a single participant: resampling would always draw the
    same one, and confidence intervals would be too narrow.
    """
    columns = find_columns(data.table, names, "strata", command)
    if not columns:
        return None
    values = rows[columns]
    if values.isna().to_numpy().any():
        row, column = np.argwhere(values.isna().to_numpy())[0]
        who = rows["participant_id"].iloc[row]
        raise OptionError("--strata", f"{columns[column]} of {who} is missing")
    groups = values.groupby(columns, sort=True)
    alone = np.flatnonzero(groups[columns[0]].transform("size") == 1)
    if len(alone):
        cell = ", ".join(f"{name} {label(values[name].iloc[alone[0]])}" for name in columns)
        raise OptionError(
            "--strata",
            f"{rows['participant_id'].iloc[alone[0]]} is the only participant with {cell}, "
            "and cannot be resampled; at least 2 are needed in each stratum",
        )
    return np.asarray(groups.ngroup(), dtype=np.int64)


def undetermined_message(resamples: int, names: Sequence[str]) -> list[str]:
    """A line that names the statistics without a bootstrap interval; nothing if there are none."""
    if not names:
        return []
    share = f"{least_squares.MINIMUM_DETERMINED * 100:.0f} %"
    return [
        f"no bootstrap interval of {', '.join(names)}: fewer than {share} of {resamples} resamples determine it; "
        "resampling within strata keeps every category"
    ]


def bootstrap_columns(boot: least_squares.Bootstrap | None, m: int) -> Float64:
    """(m, 8) `BOOTSTRAP` of each statistic; NaN without a bootstrap."""
    if boot is None:
        return np.full((m, len(BOOTSTRAP)), np.nan)
    return np.hstack([boot.percentile, boot.bca, boot.moments, boot.determined[:, None]])


def without_interval(titles: Iterable[str], boot: least_squares.Bootstrap | None) -> list[str]:
    """Those of the statistics that have a bootstrap, but too few resamples for an interval."""
    if boot is None:
        return []
    return [title for title, ends in zip(titles, boot.percentile) if np.isnan(ends[0])]


def corrected_p(p: Sequence[float], correction: str) -> Float64:
    """P-values corrected for their number; NaN without correction."""
    return np.full(len(p), np.nan) if correction == "none" else least_squares.adjust_p(p, correction)


def count_of(n: int, noun: str) -> str:
    """``1 participant``, ``2 participants``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def interval_columns(what: str) -> dict[str, str]:
    """Descriptions of the columns of a bootstrap."""
    kinds = ("percentile", "percentile", "bias-corrected and accelerated", "bias-corrected and accelerated")
    ends = ("lower", "upper") * 2
    columns = {
        name: f"{end} end of the 95 % interval of {what} by bootstrap, {kind}"
        for name, end, kind in zip(INTERVALS, ends, kinds)
    }
    share = f"{least_squares.MINIMUM_DETERMINED * 100:.0f} %"
    return {
        **columns,
        "bootstrap_bias": f"mean of the resamples minus {what}",
        "bootstrap_se": f"standard error of {what}: SD of the resamples",
        "bootstrap_p": "two-sided P by bootstrap: (1 + resamples that deviate from the estimate by at least its "
        "size) / (1 + resamples)",
        DETERMINED: f"bootstrap resamples that determine {what}; no intervals if they are fewer than {share} of all",
    }
