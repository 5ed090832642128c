"""The findings of a study, as sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuvox.study.measures.labels import Region
from gpuvox.study.report.contents import Contents
from gpuvox.study.report.tables import (
    analysed_name,
    fixed,
    measure_and_structure,
    number,
    p_phrase,
    read_rows,
    significant,
    variable_name,
)
from gpuvox.study.report.volumes import VoxelwiseTest, readable

SHARE = re.compile(r"\s*(.+?) (\d+) %")
LEAST = 0.02
"""Smallest share of a test's significant volume for which a structure is named."""
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Finding:
    """The finding of one test.

    Attributes
    ----------
    subject : str
        Map and contrast.
    sentence : str
        The finding.
    survived : bool
        Whether anything survived.
    anchor : str
        Where it is shown.
    """

    subject: str
    sentence: str
    survived: bool
    anchor: str


def finding(
    test: VoxelwiseTest, clusters: Sequence[Mapping[str, str]] | None, level: float, extent: int
) -> Finding:
    """Describe the finding of a test.

    Parameters
    ----------
    test : VoxelwiseTest
    clusters : sequence of dict, optional
        Rows of its table of clusters.
    level : float
    extent : int
        Smallest cluster that is kept.
    """
    smallest = p_phrase(test.p, level)
    if test.permutations and 1 / test.permutations >= level:
        few = plural(test.permutations, "permutation")
        text = (
            f"no result could be significant: with {few}, p cannot be below {significant(1 / test.permutations)}."
        )
    elif not test.survivors:
        text = f"nothing survived correction; the smallest corrected {smallest}."
    elif clusters is None:
        text = f"{plural(test.survivors, 'voxel')} survived correction; the smallest corrected {smallest}."
    elif not clusters:
        text = (
            f"{plural(test.survivors, 'voxel')} had corrected p\u00a0<\u00a0{level_text(level)}, but no cluster "
            f"reached {extent} voxels; the smallest corrected {smallest}."
        )
    else:
        volume = sum(number(row["mm3"]) for row in clusters) / 1000
        where = structures(clusters)
        text = (
            f"{plural(len(clusters), 'cluster')}, {significant(volume)} mL{' in total' if len(clusters) > 1 else ''}"
            f"{f', in {where}' if where else ''}; the smallest corrected {smallest}."
        )
    survived = bool(test.survivors and (clusters is None or clusters))
    return Finding(test.label, capital(text), survived, test.anchor)


def of_test(test: VoxelwiseTest, study: Contents) -> Finding:
    """The finding of a test, with its table of clusters if there is one."""
    clusters = cluster_rows(test)
    return finding(test, clusters[1] if clusters else None, study.get("level", 0.05), study.get("extent", 1))


def kinds(tests: Sequence[VoxelwiseTest], word: str = "or") -> str:
    """The kinds of statistic of the tests: ``t``, ``F``, or both in the order of the tests."""
    return f" {word} ".join(dict.fromkeys(test.kind for test in tests))


def level_text(level: float) -> str:
    """A significance level, written like p."""
    return f"{level:g}".removeprefix("0")


def plural(n: int, noun: str) -> str:
    """Number and noun; numbers up to ten in words."""
    return f"{number_word(n)} {noun}{'' if n == 1 else 's'}"


def number_word(n: int) -> str:
    """Up to ten in words."""
    return WORDS[n] if n < len(WORDS) else str(n)


def structures(clusters: Sequence[Mapping[str, str]]) -> str:
    """The structures that contain the clusters, largest share first; both sides of a structure together."""
    voxels: dict[tuple[str, str], float] = {}
    for row in clusters:
        for part in row.get("regions", "").split(";"):
            match = SHARE.fullmatch(part)
            if match:
                region = Region.named(match[1])
                key = (readable(Region(region.structure, "none")), region.side)
                voxels[key] = voxels.get(key, 0.0) + number(row["voxels"]) * float(match[2]) / 100
    total = sum(voxels.values())
    sides_of: dict[str, dict[str, float]] = {}
    for (structure, side), size in voxels.items():
        if size >= LEAST * total and structure != "elsewhere":
            sides_of.setdefault(structure, {})[side] = size
    ordered = sorted(sides_of, key=lambda structure: -sum(sides_of[structure].values()))
    return listed([_sided(structure, sides_of[structure]) for structure in ordered])


def _sided(structure: str, sides: Mapping[str, float]) -> str:
    if {"left", "right"} <= set(sides):
        return f"{structure} (both sides)"
    side = next(iter(sides))
    return f"the {side} {structure}" if side in ("left", "right") else structure


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def overall(test_findings: Sequence[Finding], tests: Sequence[VoxelwiseTest], level: float) -> str:
    """One sentence about all tests."""
    if not test_findings:
        return "Voxelwise tests were not part of this study."
    limit = f"corrected p\u00a0<\u00a0{level_text(level)}"
    with_any = sum(each.survived for each in test_findings)
    if with_any and len(test_findings) == 1:
        return f"The only voxelwise test found a difference with {limit}."
    if with_any:
        count = f"{number_word(with_any).capitalize()} of {plural(len(test_findings), 'voxelwise test')}"
        return f"{count} found a difference with {limit}."
    best = min(tests, key=lambda test: test.p)
    what = "no cluster was large enough" if any(test.survivors for test in tests) else f"no voxel had {limit}"
    n = len(test_findings)
    where = f"in any of {plural(n, 'voxelwise test')}" if n > 1 else "in one voxelwise test"
    smallest = f"The smallest corrected {p_phrase(best.p, level)} ({best.label})."
    return f"Nothing survived: {what} {where}. {smallest}"


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
    limit = f"between the groups with {name}\u00a0<\u00a0{level_text(level)}"
    if len(tested) == 1:
        text = f"The only variable {'differs' if low else 'does not differ'} {limit}"
    else:
        count = f"{number_word(len(low)).capitalize()} of {plural(len(tested), 'variable')}"
        text = f"{count} {'differs' if len(low) == 1 else 'differ'} {limit}"
    parts = []
    for sign, word in ((1, "higher"), (-1, "lower")):
        names = [row["variable"] for row in low if number(row.get("d", "")) * sign > 0]
        if names and order:
            parts.append(f"{word} in {order[0]}: {_by_measure(names)}")
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
    title: str, rows: Sequence[Mapping[str, str]], level: float, log: Sequence[str] = ()
) -> Finding | None:
    """In which models the last block is significant; None if there is no corrected p. `log`: see
    `tables.analysed_name`.
    """
    tested = [row for row in rows if not math.isnan(number(row.get("p_corrected", "")))]
    if not tested:
        return None
    low = [row for row in tested if number(row["p_corrected"]) < level]
    names = "; ".join(
        f"{variable_name(row['block'])} (ΔR² {fixed(number(row['r2_change']), 3).removeprefix('0')})"
        for row in low
    )
    outcome, limit = (
        analysed_name(tested[0].get("outcome", "the outcome"), log),
        f"p\u00a0<\u00a0{level_text(level)}",
    )
    if len(tested) == 1:
        how = "explains" if low else "does not explain"
        text = f"The last block of the only model {how} additional variance of {outcome}, with corrected {limit}"
    else:
        count = f"{number_word(len(low))} of {plural(len(tested), 'model')}"
        text = f"The last block explains additional variance of {outcome}, with corrected {limit}, in {count}"
    return Finding(title, f"{text}{f': {names}' if names else ''}.", bool(low), "models")


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


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def cluster_rows(test: VoxelwiseTest) -> tuple[list[str], list[dict[str, str]]] | None:
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
