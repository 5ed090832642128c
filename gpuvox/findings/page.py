"""The report of a run as a page: what its template shows, gathered from what was found."""

from __future__ import annotations

import base64
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from gpuvox import __version__, files
from gpuvox.errors import FileError
from gpuvox.files.text import as_number
from gpuvox.findings import figures, mosaics, references, sentences, tables
from gpuvox.findings.figures import Picture, Saved
from gpuvox.findings.html import render
from gpuvox.findings.listings import cluster_table, contrast_table, link_cell, size_cell
from gpuvox.findings.methods import paragraphs
from gpuvox.findings.runs import Run, RunTest
from gpuvox.findings.scene import Scene, VoxelwiseTest
from gpuvox.findings.sentences import Finding, level_text
from gpuvox.findings.tables import Heading, Table
from gpuvox.findings.tested import ClusterOptions
from gpuvox.findings.viewer import viewer_data
from gpuvox.plain import several
from gpuvox.types import Float64

MOST_STRIPS = 20
"""Clusters of a test whose slices are shown."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A test, or a pair of tests in opposite directions, that pictures show together."""

    tests: tuple[VoxelwiseTest, ...]
    saved: list[Saved]

    @property
    def anchor(self) -> str:
        """Where the page shows it."""
        return self.tests[0].anchor

    @property
    def title(self) -> str:
        """Names of the tests."""
        return " and ".join(test.contrast for test in self.tests)

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures."""
        return [each.picture for each in self.saved]


@dataclass(frozen=True, eq=False)
class Shown:
    """One test as the page shows it.

    Attributes
    ----------
    test : VoxelwiseTest
    of_run : RunTest
    rows : DataFrame
        Clusters; see `clusters.to_table`.
    strips : list of Picture
        Slices of clusters.
    values : Picture or None
        Values of clusters.
    null : Picture or None
    """

    test: VoxelwiseTest
    of_run: RunTest
    rows: pd.DataFrame
    strips: list[Picture]
    values: Picture | None
    null: Picture | None
    level: float
    extent: int

    @property
    def texts(self) -> list[dict[str, str]]:
        """The rows as text, as in a file."""
        return [
            {str(name): "n/a" if pd.isna(value) else str(value) for name, value in row.items()}
            for row in self.rows.astype(object).to_dict("records")
        ]

    @property
    def is_listed(self) -> bool:
        """Whether clusters were sought."""
        return bool(self.of_run.corrected)

    @property
    def clusters(self) -> Table | None:
        """The table of clusters; None without any."""
        if self.rows.empty:
            return None
        filled = self.rows.dropna(axis=1, how="all").columns
        return cluster_table(self.test, [str(name) for name in filled], self.texts, self.level)

    @property
    def finding(self) -> Finding:
        """The finding of the test."""
        if not self.is_listed:
            text = f"p-values were not computed; the largest {self.test.kind} is {self.test.statistic.max():.2f}."
            return Finding(self.test.label, sentences.capital(text), False, self.test.anchor)
        first = [row for row in self.texts if row["voxels"] != "n/a"]
        return sentences.finding(self.test, first, self.level, self.extent, sentences.regions_as_named)

    @property
    def further(self) -> str:
        """What is not shown of many clusters."""
        more = int(self.rows["cluster"].nunique()) - len(self.strips)
        return f"Slices of {several(more, 'smaller cluster')} are not shown." if more > 0 else ""


@dataclass(frozen=True, eq=False)
class RunPage:
    """A report before it is HTML.

    Attributes
    ----------
    run : Run
    scene : Scene
    shown : list of Shown
    units : list of Unit
    corrections : DataFrame
        What survives each correction of each test.
    options : ClusterOptions
    vmax : dict of str to float
        Statistic at the upper end of the colours, by its kind.
    notes : list of str
    atlas_note : str
    out : Path
        The page, for links to files.
    written : list of Path
    """

    run: Run
    scene: Scene
    shown: list[Shown]
    units: list[Unit]
    corrections: pd.DataFrame
    options: ClusterOptions
    vmax: dict[str, float]
    notes: list[str]
    atlas_note: str
    out: Path
    written: list[Path]

    def html(self) -> str:
        """The page."""
        with figures.own_style():
            return render("run.html.j2", self._variables())

    def _variables(self) -> dict[str, Any]:
        tests = [each.test for each in self.shown]
        level, run = self.options.p, self.run
        about = f"{self.atlas_note}." if self.atlas_note else ""
        text, cited = references.cited(paragraphs(run, self.options, [about] if about else []))
        found = [each.finding for each in self.shown]
        overall = sentences.overall(found, tests, level) if any(each.is_listed for each in self.shown) else ""
        design, with_null = self._design(), any(each.null for each in self.shown)
        listed = any(each.is_listed for each in self.shown)
        sections = [
            ("findings", "Findings", True), ("design", "Design", design is not None), ("maps", "Maps", True),
            ("viewer", "Viewer", True), ("clusters", "Clusters", listed), ("nulls", "Null distributions", with_null),
            ("notes", "Notes", bool(self.notes)), ("methods", "Methods", True), ("record", "Record and files", True),
        ]  # fmt: skip
        return {
            "title": run.title, "created": "", "gpuvox": __version__, "maker": run.maker,
            "images": several(len(run.design), "image") if run.design is not None else "",
            "sections": [section for section in sections if section[2]],
            "level": level_text(level), "extent": self.options.extent, "oriented": self.scene.oriented,
            "overall": overall, "findings": found, "corrections": self._corrections(), "design": design,
            "mask": about_mask(self.scene), "kinds": sentences.kinds(tests), "units": self.units, "shown": self.shown,
            "listed": listed, "bars": {kind: figures.colour_bar(top, kind) for kind, top in self.vmax.items()},
            "viewer": viewer_data(self.scene, tests, self.vmax, level), "notes": self.notes,
            "methods": text, "references": cited, "bibtex": references.bibtex([key for key, _ in cited]),
            "command": shlex.join(map(str, run.record.get("command", ()))), "files": self._files(),
        }  # fmt: skip

    def _corrections(self) -> Table | None:
        """What survives each correction, if a test has several."""
        if self.corrections.groupby("test").size().max() < 2:
            return None
        rows = [
            {str(key): str(value) for key, value in row.items()} for row in self.corrections.to_dict("records")
        ]
        names = ["test", "correction", "smallest_p", "voxels", "clusters"]
        return tables.make_table("corrections", "All corrections", names, rows, level=self.options.p)

    def _design(self) -> dict[str, Any] | None:
        run = self.run
        if run.design is None or any(test.weights is None for test in run.tests) or np.isnan(run.design).any():
            return None
        names = run.column_names
        rows, titles = [], []
        for test in run.tests:
            assert test.weights is not None
            for number, row in enumerate(test.weights, start=1):
                rows.append(row)
                titles.append(test.name if len(test.weights) == 1 else f"{test.name} ({number})")
        matrix = files.Matrix(np.array(rows), row_names=tuple(titles))
        return {"picture": figures.design_matrix(run.design, names), "contrasts": contrast_table(matrix, names)}

    def _files(self) -> Table:
        """Maps of the run and files of the report."""
        paths = list(self.written)
        for test in self.run.tests:
            paths += [test.statistic, *(each.path for each in test.corrected.values()), *test.effects.values()]
        rows = []
        for path in paths:
            name = Path(os.path.relpath(path, self.out.parent)).as_posix()
            rows.append([link_cell(name, name), size_cell(path.stat().st_size)])
        heads = (Heading(Markup("File"), "", False), Heading(Markup("Size")))
        return Table("file-index", "Files of the report, and maps", heads, rows)


def about_mask(scene: Scene) -> dict[str, str]:
    """Number of voxels, volume in mL, shape and voxel size in mm of the mask of an analysis."""
    grid = scene.grid
    return {
        "voxels": f"{grid.n_voxels:,}".replace(",", "\u202f"),
        "volume": tables.significant(grid.n_voxels * float(np.prod(grid.voxel_size)) / 1000),
        "shape": " × ".join(map(str, grid.shape)),
        "size": " × ".join(f"{mm:g}" for mm in grid.voxel_size),
    }


def read_null(path: Path) -> Float64:
    """The largest statistic of each permutation, the unpermuted data first.

    Raises
    ------
    FileError
        It is not a column of finite numbers.
    """
    values = np.array([as_number(line) for line in files.read_bytes(path).decode("latin-1").split()])
    if not (values.size and np.isfinite(values).all()):
        raise FileError(f"{path} is not a column of finite numbers")
    return values


def strips(
    scene: Scene, test: VoxelwiseTest, rows: pd.DataFrame, vmax: float, label: str, level: float
) -> list[Picture]:
    """Slices through the peak of each cluster."""
    layers = mosaics.statistic_layers([test], vmax)
    first = rows.drop_duplicates("cluster").head(MOST_STRIPS)
    if first.empty:
        return []
    bar = mosaics.bar_strip(scene, layers)
    pictures = []
    for row in first.to_dict("records"):
        place = tuple(float(row[axis]) for axis in "xyz")
        voxel = scene.voxel_at((place[0], place[1], place[2]))
        where = ", ".join(figures.signed(value) for value in place)
        region = row.get("peak_region")
        caption = f"Cluster {row['cluster']} of {test.contrast}: peak at ({where}) mm" + (
            f", {region}" if isinstance(region, str) else ""
        )
        image = mosaics.cluster_strip(scene, layers, voxel, bar)
        pictures.append(_of_pixels(image, f"{caption}; {test.kind}, opaque where corrected p < {level_text(level)}",
                                   caption, f"{label}_cluster-{row['cluster']}"))  # fmt: skip
    return pictures


def _of_pixels(image: NDArray[np.uint8], alt: str, caption: str, name: str) -> Picture:
    uri = f"data:image/png;base64,{base64.b64encode(figures.png_of(image)).decode()}"
    return Picture(uri, alt, image.shape[1], image.shape[0], caption, name)
