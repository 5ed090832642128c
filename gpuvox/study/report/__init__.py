"""The report of a study: one HTML file that needs no other files and no network.

`build` makes it from ``study.json``, which a study writes about itself; `execute` is the command ``gpuvox report``. The
template and the scripts for the browser (sortable tables, the viewer) are in ``templates/``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files.targets import check_targets
from gpuvox.findings.figures import Saved, own_style
from gpuvox.findings.html import render
from gpuvox.reporter import Reporter
from gpuvox.study.report import findings
from gpuvox.study.report.contents import Contents, read_contents
from gpuvox.study.report.own import own_ledger
from gpuvox.study.report.page import Page
from gpuvox.study.report.volumes import read_scene, read_tests

__all__ = ["build", "execute", "headlines"]


def execute(
    study: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    reporter: Reporter,
    within: str | os.PathLike[str] | None = None,
) -> None:
    """Write the report of a study.

    Parameters
    ----------
    study : path
        ``study.json``; other paths in it are relative to its folder.
    out : path, optional
        ``report.html`` beside it by default. Montages of corrected p are in a folder beside it, ``report_figures``.
    reporter : Reporter
        Receives a line: where the report is.
    within : path, optional
        Folder that must contain every file that the study names, after resolving links: a study from someone else
        must not pull private files into its report. By default the folder of `study`; for a study that this user ran
        here and that has not changed since, also all of its inputs.

    Raises
    ------
    FileError
        One sentence that names the file and the key that is wrong; nothing is written then.
    """
    study = Path(study)
    out = study.with_name("report.html") if out is None else Path(out)
    check_targets(out)
    with own_style():
        page = Page.of(_source(study, within), Path(os.path.relpath(study.parent, out.parent)).as_posix())
        text = render("report.html.j2", page.variables(), "gpuvox.study.report")
    _write_figures(page.montages.values(), out.with_name(f"{out.stem}_figures"))
    files.write_text(out, text)
    reporter.say(f"{out} ({len(text.encode()) / 1e6:.1f} MB)")


LIST = "figures.json"
"""The list of the figures that are files."""


def _write_figures(figures: Collection[Saved], folder: Path) -> None:
    """Write figures as PNG and SVG, and their list; those of an earlier report that are no longer made are removed."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise FileError(f"the folder {folder} cannot be made: {error.strerror}") from None
    earlier = files.read_json(folder / LIST).get("files", []) if (folder / LIST).is_file() else []
    names = [path.name for figure in figures for path in figure.write(folder)]
    for name in set(earlier) - set(names):
        if name == Path(name).name:
            (folder / name).unlink(missing_ok=True)
    files.write_json(folder / LIST, {"files": names})


def build(
    contents: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    origin: str = "study.json",
    relative_to: str | os.PathLike[str] | None = None,
    within: str | os.PathLike[str] | None = None,
) -> str:
    """The report of a study as HTML.

    Parameters
    ----------
    contents : dict
        What ``study.json`` holds.
    folder : path
        That its paths are relative to.
    origin : str
        Its name, for messages.
    relative_to : path, optional
        Folder of the report, for links to files; `folder` by default.
    within : path, optional
        Folder that must contain every file, after resolving links; `folder` by default.

    Raises
    ------
    FileError
        A key or a file is missing or wrong; the sentence names both.
    """
    links = os.path.relpath(folder, relative_to) if relative_to is not None else "."
    return _html(Contents(contents, Path(folder), origin=origin, within=Path(within) if within else None), links)


def _source(study: Path, within: str | os.PathLike[str] | None) -> Contents:
    """``study.json``, with the folders from which it may read files."""
    contents = read_contents(study)
    return Contents(
        contents, study.parent, origin=study.name, within=Path(within) if within else None,
        own=None if within else own_ledger(study),
    )  # fmt: skip


def _html(source: Contents, links: str) -> str:
    with own_style():
        page = Page.of(source, Path(links).as_posix())
        return render("report.html.j2", page.variables(), "gpuvox.study.report")


def headlines(study: str | os.PathLike[str], within: str | os.PathLike[str] | None = None) -> list[str]:
    """What the voxelwise tests of a study found, a line each.

    Parameters
    ----------
    study : path
        ``study.json``.
    within : path, optional
        See `execute`.

    Raises
    ------
    FileError
        A key or a file is missing or wrong.
    """
    source = _source(Path(study), within)
    lines = []
    for test in read_tests(source, read_scene(source)):
        finding = findings.of_test(test, source)
        lines.append(f"{finding.subject}: {finding.sentence}")
    return lines
