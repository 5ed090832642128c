"""The report of any run: tables and figures as files, and a page.

`execute` is the command ``gpuvox report`` of a run of ``gpuvox voxelwise`` or of randomise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gpuvox import files
from gpuvox.errors import FileError, SettingError
from gpuvox.files.targets import check_targets
from gpuvox.findings import mosaics
from gpuvox.findings.atlas import Atlas, read_atlas
from gpuvox.findings.figures import Saved, null_distribution, saved
from gpuvox.findings.page import RunPage, Shown, Unit, read_null, strips
from gpuvox.findings.pictures import in_scene
from gpuvox.findings.runs import Run, RunTest, correction_title, read_run
from gpuvox.findings.scene import Scene, VoxelwiseTest, colour_ends
from gpuvox.findings.sentences import level_text
from gpuvox.findings.tested import ClusterOptions, TestedMaps, read_grid, read_p, read_tested
from gpuvox.findings.value_plots import MOST, Panel, value_figure
from gpuvox.findings.values import HeldImages, adjusted_values, find_images, value_table
from gpuvox.grid import Grid
from gpuvox.plain import several
from gpuvox.reporter import Reporter
from gpuvox.types import Float64, Floats, Int32

LIST = "files.json"
"""The files of a report in their folder."""
OURS = re.compile(r"[^/]*_(clusters|values|mosaic|1-p|glass)\.(tsv|png|svg|nii|nii\.gz|hdr|img|hdr\.gz|img\.gz)")
"""Their names: a list may come from others, and name anything."""


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows, and what it reads besides the run.

    Attributes
    ----------
    clusters : ClusterOptions
    correction : str
        ``tfceFWE``, ``voxFWE`` …; by default TFCE if the run has it, else the first of mass, size and voxels.
    mask, underlay, atlas, names, data, design, contrasts : str
        Images and files; empty for none. `data` may be images in memory, by set. `design` and `contrasts` are for a run
        that has no record of them.
    """

    clusters: ClusterOptions = field(default_factory=ClusterOptions)
    correction: str = ""
    mask: str = ""
    underlay: str = ""
    atlas: str = ""
    names: str = ""
    data: str | Mapping[str, HeldImages] = ""
    design: str = ""
    contrasts: str = ""


def setting_names() -> list[str]:
    """What `options_of` takes."""
    names = [each.name for each in (*fields(ClusterOptions), *fields(ReportOptions))]
    return [name for name in names if name != "clusters"]


def options_of(**settings: Any) -> ReportOptions:
    """`ReportOptions` from its fields and those of `ClusterOptions`.

    Raises
    ------
    SettingError
        An option does not exist.
    """
    unknown = next((name for name in settings if name not in setting_names()), None)
    if unknown is not None:
        raise SettingError(f"a report has no option {unknown!r}; it takes {', '.join(setting_names())}")
    of_clusters = {each.name for each in fields(ClusterOptions)}
    clusters = ClusterOptions(**{name: value for name, value in settings.items() if name in of_clusters})
    return ReportOptions(clusters, **{name: value for name, value in settings.items() if name not in of_clusters})


@dataclass(frozen=True, eq=False)
class _Analysed:
    """A test, its maps and its clusters; and the null distribution, the observed value first, if there is one."""

    of_run: RunTest
    maps: TestedMaps
    labels: Int32
    rows: pd.DataFrame
    null: Float64 | None

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max(initial=0))


def execute(
    path: str | os.PathLike[str], out: str | os.PathLike[str] | None, options: ReportOptions, reporter: Reporter
) -> Path:
    """Write the report of a run, and say where it is.

    Parameters
    ----------
    path : path
        See `runs.read_run`.
    out : path, optional
        The page; ``report.html`` in the folder of voxelwise, ``ROOT_report.html`` of a root. Tables and figures are
        written into a folder of its name without ``.html``.
    options : ReportOptions
    reporter : Reporter

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        One sentence: there is no run, or it is not finished; a file cannot be read or written.
    """
    run = _with_design(read_run(path), options)
    page = Path(out) if out is not None else run.beside("report.html")
    folder = page.with_suffix("")
    check_targets(page)
    _check_outputs(page, folder, options)
    text, notes = _write(run, page, folder, options)
    for note in notes:
        reporter.warn(note)
    reporter.say(f"{page} ({len(text.encode()) / 1e6:.1f} MB), with tables and figures in {folder}")
    return page


def _check_outputs(page: Path, folder: Path, options: ReportOptions) -> None:
    if page.suffix.casefold() not in (".html", ".htm"):
        raise FileError(f"the report {page} is not a name of HTML; report.html is expected", option="--out")
    data = options.data if isinstance(options.data, str) else ""
    read = [each for each in (options.names, data, options.design, options.contrasts) if each]
    files.check_not_read([page], read)
    if folder.exists() and not folder.is_dir():
        raise FileError(f"tables and figures of the report cannot be written: {folder} is not a folder")


def _with_design(run: Run, options: ReportOptions) -> Run:
    """A run of FSL with the design that the user names."""
    if not options.design:
        if options.contrasts:
            raise FileError(
                "--contrasts need --design, the matrix whose columns they weight", option="--contrasts"
            )
        return run
    if run.design is not None:
        raise FileError(
            f"{run.origin} has a record of its design, so that --design is not needed", option="--design"
        )
    matrix = files.read_named_matrix(options.design)
    tests = run.tests
    if options.contrasts:
        contrasts = files.read_named_matrix(options.contrasts)
        if contrasts.values.shape[1] != matrix.values.shape[1]:
            raise FileError(
                f"{options.contrasts} has {several(contrasts.values.shape[1], 'column')}, {options.design} "
                f"{matrix.values.shape[1]}"
            )
        tests = tuple(_with_weights(test, contrasts, options.contrasts) for test in tests)
    return replace(run, design=matrix.values, columns=tuple(matrix.column_names), tests=tests)


def _with_weights(test: RunTest, contrasts: files.Matrix, name: str) -> RunTest:
    number = int(re.sub(r"\D", "", test.label))
    if test.kind == "F":
        return test
    if number > len(contrasts.values):
        raise FileError(f"{name} has {several(len(contrasts.values), 'contrast')}, and there is {test.label}")
    title = (contrasts.row_names[number - 1] if contrasts.row_names else "") or test.name
    return replace(test, weights=contrasts.values[number - 1 : number], name=title)


def _write(run: Run, out: Path, folder: Path, options: ReportOptions) -> tuple[str, list[str]]:
    """Write everything; the page and what the user should know."""
    for test in run.tests:
        test.correction(options.correction)
    grid = read_grid(run, options.mask)
    atlas = read_atlas(options.atlas, grid, options.names or None) if options.atlas else None
    analysed = [_analyse(test, grid, atlas, options) for test in run.tests]
    corrections = _corrections(analysed, options)
    values, why = _values(run, analysed, grid, options.data)
    scene = _scene(grid, options.underlay)
    tests = [_shown_test(i, each, scene, options) for i, each in enumerate(analysed)]
    notes = _notes(run, why)
    vmax = colour_ends(tests)
    units = _units(analysed, tests, scene, vmax, options)
    plots = [_value_picture(run, each, of) for each, of in zip(analysed, values)]
    written = _write_files(folder, analysed, values, [*(s for u in units for s in u.saved), *filter(None, plots)])
    shown = [
        Shown(
            test, each.of_run, each.rows, strips(scene, test, each.rows, vmax[test.kind], each.of_run.label, level),
            plot.picture if plot else None,
            None if each.null is None else null_distribution(test, each.null, level), level, options.clusters.extent,
        )
        for level in [options.clusters.p]
        for test, each, plot in zip(tests, analysed, plots)
    ]  # fmt: skip
    note = atlas.note if atlas else ""
    page = RunPage(
        run,
        scene,
        shown,
        units,
        corrections,
        options.clusters,
        vmax,
        list(dict.fromkeys(notes)),
        note,
        out,
        written,
    )
    text = page.html()
    files.write_text(out, text)
    return text, [*notes[: bool(why)], *filter(None, [note])]


def _notes(run: Run, why: str) -> list[str]:
    """Why there are no values, if so, and the warnings of the run."""
    notes = [f"Values of participants are not shown: {why}."] if why else []
    return notes + [
        str(note) for each in run.records for test in each.get("tests", ()) for note in test.get("warnings", ())
    ]


def _analyse(test: RunTest, grid: Grid, atlas: Atlas | None, options: ReportOptions) -> _Analysed:
    maps = read_tested(test, grid, options.correction)
    labels, rows = maps.clusters(options.clusters, atlas)
    null = test.nulls.get(test.correction(options.correction))
    return _Analysed(test, maps, labels, rows, None if null is None else read_null(null))


def _corrections(analysed: Sequence[_Analysed], options: ReportOptions) -> pd.DataFrame:
    """What survives each correction of each test."""
    rows = []
    for each in analysed:
        test, reported = each.of_run, each.of_run.correction(options.correction)
        for desc, corrected in test.corrected.items():
            p, n_clusters = each.maps.p, each.n_clusters
            if desc != reported:
                p = read_p(corrected, each.maps.grid, test.multiples_of(desc))
                n_clusters = int(replace(each.maps, p=p).labels(options.clusters).max(initial=0))
            rows.append(
                {"test": test.name, "correction": correction_title(desc), "smallest_p": float(p.min()),
                 "voxels": int((p < options.clusters.p).sum()), "clusters": n_clusters}
            )  # fmt: skip
    return pd.DataFrame(rows, columns=["test", "correction", "smallest_p", "voxels", "clusters"])


# -- values of participants -----------------------------------------------------------------------------------------


def _values(
    run: Run, analysed: Sequence[_Analysed], grid: Grid, data: str | Mapping[str, HeldImages]
) -> tuple[list[tuple[pd.DataFrame, Floats] | None], str]:
    """Of each test: mean and eigenvariate of every participant in every cluster, and the means, (n, clusters).

    And why there are none, if the images are not there.
    """
    found: list[tuple[pd.DataFrame, Floats] | None] = [None] * len(analysed)
    for name in dict.fromkeys(each.of_run.images for each in analysed):
        members = [i for i, each in enumerate(analysed) if each.of_run.images == name]
        union = np.any([analysed[i].labels > 0 for i in members], axis=0)
        if not union.any() and not data:
            continue
        images = find_images(run, data, name)
        if isinstance(images, str):
            return found, images
        part = Grid(grid.to_volume(union).astype(bool), grid.voxel_size, grid.affine)
        values = images.read(part)
        ids = run.ids or images.participants(len(values))
        for i in members:
            each = analysed[i]
            table = value_table(values, each.labels[union], each.n_clusters, ids)
            means = table["mean"].to_numpy(dtype=np.float64).reshape(each.n_clusters, len(values)).T
            found[i] = (table, means) if each.n_clusters else None
    return found, ""


def _value_picture(run: Run, each: _Analysed, values: tuple[pd.DataFrame, Floats] | None) -> Saved | None:
    """Values of the clusters of a test, if its columns are groups or covariates that are the same at every voxel."""
    weights = each.of_run.weights
    if values is None or run.design is None or weights is None or not np.isfinite(run.design).all():
        return None
    design, shifts, columns = run.design, _shifts(run), run.column_names
    if any(record.get("demeaned") for record in run.records):
        # A constant beside the columns does the same as subtracting means from the data and the design.
        design, weights = np.column_stack([design, np.ones(len(design))]), np.pad(weights, ((0, 0), (0, 1)))
        columns += ["constant"]
    panels = []
    for number in range(1, min(each.n_clusters, MOST) + 1):
        adjusted = adjusted_values(values[1][:, number - 1].astype(np.float64), design, columns, weights, shifts)
        if adjusted is None:
            return None
        panels.append(Panel(f"Cluster {number}", adjusted))
    others = bool((~np.any(each.of_run.weights != 0, axis=0)).any())
    what = f"Mean of each participant in the clusters of {each.of_run.name}"
    what += ", adjusted for the other columns of the design" if others else ""
    caption = (
        f"{what}. Diamonds and lines are those of the model, with 95 % confidence intervals. Because clusters were "
        "selected by this test, differences within them are overestimated."
    )
    more = each.n_clusters - len(panels)
    caption += f" {several(more, 'smaller cluster')} not shown." if more else ""
    return saved(value_figure(panels, "mean"), f"{each.of_run.label}_values", what, caption, vector=True)


def _shifts(run: Run) -> dict[str, float]:
    """Means that were removed from columns of the design, of those that the table of participants has."""
    path = run.folder / "participants.tsv"
    if run.maker != "gpuvox voxelwise" or not path.is_file() or run.design is None:
        return {}
    table = files.read_table(path, ["participant_id"], long=True)
    shifts = {}
    for j, name in enumerate(run.columns):
        if name in table.columns:
            values = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
            shift = values - run.design[:, j]
            if np.isfinite(shift).all() and np.ptp(shift) < 1e-6 * max(1.0, float(np.abs(values).max())):
                shifts[name] = float(shift.mean())
    return shifts


# -- pictures -------------------------------------------------------------------------------------------------------


def _scene(grid: Grid, underlay: str) -> Scene:
    scene = Scene.around(grid)
    if not underlay:
        return scene
    whole = Grid(np.ones(grid.shape, dtype=bool), grid.voxel_size, grid.affine)
    header = files.read_header(underlay)
    if header.shape[3] != 1:
        raise FileError(f"{header.path} has {several(header.shape[3], 'volume')}; an underlay has one")
    try:
        values = files.read_map(underlay, whole)
    except FileError as error:
        raise FileError(f"the underlay cannot be shown: {error}", option="--underlay") from None
    return scene.holding(scene.shown(whole.to_volume(values)), None, {})


def _shown_test(number: int, each: _Analysed, scene: Scene, options: ReportOptions) -> VoxelwiseTest:
    test, desc = each.of_run, each.of_run.correction(options.correction)
    observed = None if each.null is None else float(each.null[0])
    return replace(
        in_scene(each.maps, scene, test.name, test.kind, options.clusters.p),
        number=number, method=correction_title(desc) if desc else "",
        critical=_critical(test, desc, each.null, options.clusters.p), observed=observed,
    )  # fmt: skip


def _critical(test: RunTest, desc: str, null: Float64 | None, level: float) -> float | None:
    """The value that the largest statistic must exceed; that of the record is of p < 0.05."""
    if null is None:
        return test.critical.get(desc) if level == 0.05 else None
    values = np.sort(null)
    # p < level: fewer than level·N permutations reach a value above this one.
    place = len(values) - int(np.ceil(level * len(values) - 1e-9))
    return float(values[max(place, 0)])


def _units(
    analysed: Sequence[_Analysed],
    tests: Sequence[VoxelwiseTest],
    scene: Scene,
    vmax: dict[str, float],
    options: ReportOptions,
) -> list[Unit]:
    """The pictures: of pairs of tests in opposite directions together, of other tests each alone."""
    units = []
    for members in mosaics.in_pairs(analysed, lambda a, b: _opposite(a.of_run, b.of_run)):
        chosen = tuple(tests[j] for j in members)
        peaks = [scene.voxel_at(place) for j in members for place in _peaks(analysed[j])]
        label = "_and_".join(analysed[j].of_run.label for j in members)
        units.append(
            Unit(chosen, _pictures(chosen, scene, peaks, vmax[chosen[0].kind], label, options.clusters.p))
        )
    return units


def _opposite(first: RunTest, second: RunTest) -> bool:
    """Whether two t tests are of one contrast in both directions."""
    a, b = first.weights, second.weights
    return first.kind == second.kind == "t" and a is not None and b is not None and bool(np.array_equal(a, -b))


def _peaks(each: _Analysed) -> list[tuple[float, float, float]]:
    first = each.rows.drop_duplicates("cluster")
    return [(float(x), float(y), float(z)) for x, y, z in first[["x", "y", "z"]].to_numpy(dtype=np.float64)]


def _pictures(
    tests: tuple[VoxelwiseTest, ...],
    scene: Scene,
    peaks: Sequence[tuple[int, int, int]],
    vmax: float,
    label: str,
    level: float,
) -> list[Saved]:
    """A mosaic of the statistic and, if anything survived, one of 1 − p and a glass brain."""
    slices = mosaics.slices_through(scene, tests, peaks)
    names, kind = " and ".join(test.contrast for test in tests), tests[0].kind
    layers = mosaics.statistic_layers(tests, vmax)
    through = "through all clusters" if any(test.survivors for test in tests) else "through the mask"
    made = [
        saved(
            mosaics.mosaic(scene, layers, slices), f"{label}_mosaic", f"Axial slices {through}: {kind} of {names}",
            f"Axial slices {through}: {kind} of {names}.",
        )
    ]  # fmt: skip
    if through == "through the mask":
        return made
    p = mosaics.mosaic(scene, mosaics.p_layers(tests, level), slices)
    colours = "red to yellow and blue to light blue" if len(mosaics.sides_of(tests)) > 1 else "red to yellow"
    what = f"1 − p of {names}, corrected, where p < {level_text(level)}"
    made.append(saved(p, f"{label}_1-p", what, f"{what} ({colours})."))
    what = f"Glass brain: the largest {kind} of {names} along each axis, of voxels that survived"
    made.append(saved(mosaics.glass_brain(scene, tests, vmax), f"{label}_glass", what, f"{what}."))
    return made


# -- files ----------------------------------------------------------------------------------------------------------


def _write_files(
    folder: Path,
    analysed: Sequence[_Analysed],
    values: Sequence[tuple[pd.DataFrame, Floats] | None],
    pictures: Sequence[Saved],
) -> list[Path]:
    """Tables, cluster images and figures; those of an earlier report are removed."""
    _clear(folder)
    written = []
    for each, of in zip(analysed, values):
        stem = folder / each.of_run.label
        rows = each.rows.astype(object)
        files.write_table(f"{stem}_clusters.tsv", rows.where(rows.notna(), None))
        written.append(Path(f"{stem}_clusters.tsv"))
        if each.n_clusters:
            header = files.read_header(each.of_run.statistic)
            label, numbers = files.Label("gpuvox: clusters", "label"), each.labels.astype(np.float32)
            written.append(files.write_map(f"{stem}_clusters", numbers, each.maps.grid, header, label=label))
        if of is not None:
            files.write_table(f"{stem}_values.tsv", of[0])
            written.append(Path(f"{stem}_values.tsv"))
    for picture in pictures:
        written += picture.write(folder)
    files.write_json(folder / LIST, {"files": [path.name for path in written]})
    return written


def _clear(folder: Path) -> None:
    """Make the folder, or remove the files from it that the list of an earlier report has."""
    listed = files.read_json(folder / LIST).get("files", [])
    try:
        folder.mkdir(exist_ok=True)
        for name in listed:
            if isinstance(name, str) and OURS.fullmatch(name):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"the folder {folder} cannot be written: {error.strerror}", file=folder) from error
