"""The findings of a study, as sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gpuvox.findings.sentences import Finding, capital, finding, level_text, listed, number_word, plural
from gpuvox.findings.tables import (
    Transforms,
    analysed_name,
    fixed,
    measure_and_structure,
    number,
    read_rows,
    variable_name,
)
from gpuvox.study.report.contents import Contents
from gpuvox.study.report.volumes import StudyTest


def of_test(test: StudyTest, study: Contents) -> Finding:
    """The finding of a test, with its table of clusters if there is one."""
    clusters = cluster_rows(test)
    return finding(test, clusters[1] if clusters else None, study.get("level", 0.05), study.get("extent", 1))


def of_group_table(
    title: str, rows: Sequence[Mapping[str, str]], order: Sequence[str], level: float
) -> Finding | None:
    """Which variables differ between the groups, by corrected p, or by p if none was corrected; None without p."""
    known = {c: [row for row in rows if not math.isnan(number(row.get(c, "")))] for c in ("p_corrected", "p")}
    column, name = ("p_corrected", "corrected p") if known["p_corrected"] else ("p", "uncorrected p")
    tested = known[column]
    if not tested:
        return None
    low = [row for row in tested if number(row[column]) < level]
    constant = tested[0].get("against", "")  # of one group, described
    what = f"from {number(constant):g} on average" if constant else "between the groups"
    limit = f"{what} with {name}\u00a0<\u00a0{level_text(level)}"
    if len(tested) == 1:
        text = f"The only variable {'differs' if low else 'does not differ'} {limit}"
    else:
        count = f"{number_word(len(low)).capitalize()} of {plural(len(tested), 'variable')}"
        text = f"{count} {'differs' if len(low) == 1 else 'differ'} {limit}"
    parts = []
    for sign, word in ((1, "higher"), (-1, "lower")):
        names = [row["variable"] for row in low if number(row.get("d", "")) * sign > 0]
        if names and (order or constant):
            parts.append(f"{word}{'' if constant else f' in {order[0]}'}: {_by_measure(names)}")
    return Finding(
        title, f"{text}{'. ' if parts else ''}{'. '.join(capital(part) for part in parts)}.", bool(low), "groups"
    )


def _by_measure(names: Sequence[str]) -> str:
    """``iron of caudate, pallidum; volume of thalamus``."""
    structures_of: dict[str, list[str]] = {}
    for name in names:
        measure, structure = measure_and_structure(name)
        structures_of.setdefault(measure, []).append(structure)
    return "; ".join(
        f"{measure} of {', '.join(of)}" if measure else ", ".join(of) for measure, of in structures_of.items()
    )


def of_regression(
    title: str, rows: Sequence[Mapping[str, str]], level: float, log: Transforms = ()
) -> Finding | None:
    """In which models the last block is significant; None if there is no corrected p. `log`: see
    `tables.analysed_name`.
    """
    tested = [row for row in rows if not math.isnan(number(row.get("p_corrected", "")))]
    if not tested:
        return None
    low = [row for row in tested if number(row["p_corrected"]) < level]
    names = "; ".join(
        f"{_last_block(row, len(tested))} (ΔR² {fixed(number(row['r2_change']), 3).removeprefix('0')})"
        for row in low
    )
    outcome, limit = (
        analysed_name(tested[0].get("outcome", "the outcome"), log),
        f"p\u00a0<\u00a0{level_text(level)}",
    )
    if len({row.get("outcome") for row in tested}) > 1:
        outcome = "their outcomes"
    if len(tested) == 1:
        how = "explains" if low else "does not explain"
        text = f"The last block of the only model {how} additional variance of {outcome}, with corrected {limit}"
    else:
        count = f"{number_word(len(low))} of {plural(len(tested), 'model')}"
        text = f"The last block explains additional variance of {outcome}, with corrected {limit}, in {count}"
    return Finding(title, f"{text}{f': {names}' if names else ''}.", bool(low), "models")


def _last_block(row: Mapping[str, str], count: int) -> str:
    """The last block of a model, with the model's name where there are several and the block's does not tell."""
    block, model = row["block"], row.get("model", "")
    if count == 1 or not model or model == block:
        return variable_name(block)
    # A model of several outcomes is called by the outcome and the block.
    names = model.split(": ") if model.endswith(f": {block}") else [model, block]
    return ": ".join(variable_name(name) for name in names)


def left_out(cohort: Contents) -> str:
    """How many participants are excluded, and why; empty if none are, or if it is not recorded."""
    others, of = cohort.part("left_out"), cohort.part("of")
    fails, undecided = others.get("subset", 0), others.get("undecided", 0)
    if not fails + undecided:
        return ""
    whys = []
    if fails:
        whys.append(f"{plural(fails, 'participant')} {'does' if fails == 1 else 'do'} not fulfil the condition")
    if undecided:
        whys.append(f"for {plural(undecided, 'participant')} it cannot be evaluated, because a value is missing")
    total = of.get("rows", 0)
    where = f"Of {total} in {of.get('table', '') or 'the table'}, " if total else "Of the table, "
    verb = "is" if fails + undecided == 1 else "are"
    return f"{where}{fails + undecided} {verb} not included: {listed(whys)}."


def cluster_rows(test: StudyTest) -> tuple[list[str], list[dict[str, str]]] | None:
    """Columns and rows of a test's table of clusters; None if clusters were not extracted.

    Raises
    ------
    FileError
        The table is missing, or lacks a column.
    """
    contents: Contents = test.contents
    path = contents.file("clusters")
    if path is None:
        return None
    with contents.reading("clusters"):
        columns, rows = read_rows(path)
    for name in ("cluster", "voxels", "mm3", "p", "x", "y", "z"):
        if name not in columns:
            raise contents.error("clusters", f"names {path}, which has no column {name!r}")
    return columns, rows
