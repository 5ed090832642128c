"""The results of voxelwise tests as sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpuvox.findings.labels import Region
from gpuvox.findings.scene import VoxelwiseTest, readable
from gpuvox.findings.tables import number, p_phrase, significant

SHARE = re.compile(r"\s*(.+?) (\d+) %")
LEAST = 0.02
"""Smallest share of a test's significant volume for which a structure is named."""
MOST_NAMED = 6
"""Regions that a sentence names."""
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
    test: VoxelwiseTest,
    clusters: Sequence[Mapping[str, str]] | None,
    level: float,
    extent: int,
    located: Callable[[Sequence[Mapping[str, str]]], str] | None = None,
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
    located : callable, optional
        Says in which regions clusters are; `structures` by default.
    """
    smallest = p_phrase(test.p, level)
    if test.permutations and 1 / test.permutations >= level and not test.survivors:  # approximated p can be below
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
        where = (located or structures)(clusters)
        text = (
            f"{plural(len(clusters), 'cluster')}, {significant(volume)} mL{' in total' if len(clusters) > 1 else ''}"
            f"{f', in {where}' if where else ''}; the smallest corrected {smallest}."
        )
    survived = bool(test.survivors and (clusters is None or clusters))
    return Finding(test.label, capital(text), survived, test.anchor)


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
    for name, size in _sizes(clusters):
        region = Region.named(name)
        key = (readable(Region(region.structure, "none")), region.side)
        voxels[key] = voxels.get(key, 0.0) + size
    total = sum(voxels.values())
    sides_of: dict[str, dict[str, float]] = {}
    for (structure, side), size in voxels.items():
        if size >= LEAST * total and structure != "elsewhere":
            sides_of.setdefault(structure, {})[side] = size
    ordered = sorted(sides_of, key=lambda structure: -sum(sides_of[structure].values()))
    return listed([_sided(structure, sides_of[structure]) for structure in ordered])


def regions_as_named(clusters: Sequence[Mapping[str, str]]) -> str:
    """The regions that contain the clusters, largest share first, under the names that their atlas gives them."""
    voxels: dict[str, float] = {}
    for name, size in _sizes(clusters):
        if name != "elsewhere":
            voxels[name] = voxels.get(name, 0.0) + size
    total = sum(voxels.values())
    names = sorted((name for name in voxels if voxels[name] >= LEAST * total), key=lambda name: -voxels[name])
    more = len(names) - MOST_NAMED
    return listed(names if more <= 0 else [*names[:MOST_NAMED], f"{plural(more, 'more region')}"])


def _sizes(clusters: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, float]]:
    """Every region of every cluster, with the number of the cluster's voxels in it."""
    for row in clusters:
        for part in row.get("regions", "").split(";"):
            match = SHARE.fullmatch(part)
            if match:
                yield match[1], number(row["voxels"]) * float(match[2]) / 100


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
        return f"The only voxelwise test found an effect with {limit}."
    if with_any:
        count = f"{number_word(with_any).capitalize()} of {plural(len(test_findings), 'voxelwise test')}"
        return f"{count} found an effect with {limit}."
    best = min(tests, key=lambda test: test.p)
    what = "no cluster was large enough" if any(test.survivors for test in tests) else f"no voxel had {limit}"
    n = len(test_findings)
    where = f"in any of {plural(n, 'voxelwise test')}" if n > 1 else "in one voxelwise test"
    smallest = f"The smallest corrected {p_phrase(best.p, level)} ({best.label})."
    return f"Nothing survived: {what} {where}. {smallest}"


def capital(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
