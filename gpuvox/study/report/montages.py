"""Montages of corrected p: both directions of a test in one picture, on the underlay, as files and in the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuvox.findings import mosaics
from gpuvox.findings.figures import Saved, saved
from gpuvox.findings.scene import Scene
from gpuvox.findings.sentences import level_text
from gpuvox.study.report.volumes import StudyTest
from gpuvox.tables.columns import as_name


def montages(scene: Scene, tests: Sequence[StudyTest], level: float) -> dict[int, Saved]:
    """1 − p of every test, or of both directions, of which anything survived.

    Parameters
    ----------
    scene : Scene
    tests : sequence of StudyTest
    level : float
        Of corrected p.

    Returns
    -------
    dict of int to Saved
        By the number of the last test that a montage shows.
    """
    made = {}
    for members in mosaics.in_pairs(tests, is_opposite):
        shown = [tests[i] for i in members]
        if any(each.survivors for each in shown):
            made[shown[-1].number] = _montage(scene, shown, level)
    return made


def is_opposite(first: StudyTest, second: StudyTest) -> bool:
    """Whether two tests are of one map and contrast, in both directions."""
    if first.map != second.map or {first.kind, second.kind} != {"t"}:
        return False
    return np.array_equal(first.statistic, -second.statistic)


def _montage(scene: Scene, tests: Sequence[StudyTest], level: float) -> Saved:
    peaks = [test.peak for test in tests if test.survivors]
    slices = mosaics.slices_through(scene, tests, peaks)
    names = " and ".join(test.contrast for test in tests)
    colours = "red to yellow, and blue to light blue" if len(tests) > 1 else "red to yellow"
    what = f"1 − p of {names}, corrected, where p < {level_text(level)}"
    figure = mosaics.mosaic(scene, mosaics.p_layers(tests, level), slices)
    return saved(figure, f"{as_name(tests[0].name)}_1-p", f"{tests[0].title}: {what}", f"{what} ({colours}).")
