"""Tables of the report that are not files themselves: contrasts, clusters, stages, files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from markupsafe import Markup

from gpuvox import files
from gpuvox.study.report import figures, tables
from gpuvox.study.report.contents import Contents
from gpuvox.study.report.tables import Cell, Heading, Table
from gpuvox.study.report.volumes import VoxelwiseTest

DESCRIPTIONS = (
    (r"tfce_corrp_fstat(\d+)\.nii", "1 − p of F test {}, TFCE, corrected"),
    (r"corrp_fstat(\d+)\.nii", "1 − p of F test {}, corrected"),
    (r"_fstat(\d+)\.nii", "F of F test {}"),
    (r"_corrp_fstat(\d+)\.txt", "largest statistic of each permutation, F test {}"),
    (r"tfce_corrp_tstat(\d+)\.nii", "1 − p of contrast {}, TFCE, corrected"),
    (r"corrp_tstat(\d+)\.nii", "1 − p of contrast {}, corrected"),
    (r"_tstat(\d+)\.nii", "t of contrast {}"),
    (r"_corrp_tstat(\d+)\.txt", "largest statistic of each permutation, contrast {}"),
    (r"_randomise\.json", "settings, seed and software of a voxelwise test"),
    (r"clusters/.*_subjects\.tsv", "values of every cluster, by participant"),
    (r"clusters/.*\.tsv", "clusters: size, p, peak, regions"),
    (r"clusters/.*\.nii", "cluster labels"),
    (r"csf_reference\.tsv", "mean value in cerebrospinal fluid, by participant"),
    (r"maps/.*\.json", "how the map was computed"),
    (r"maps/.*\.nii", "map of all participants, one volume each"),
    (r"rois\.tsv", "measurements of every region, participant and map"),
    (r"features\.tsv", "all variables, one row per participant"),
    (r"zscores\.tsv|features_z\.tsv", "regional values as z-scores of the reference group"),
    (r"participants\.tsv", "participants in the analysis"),
    (r"checks\.tsv", "summary of every participant’s maps within the mask"),
    (r"design\.mat", "design matrix"),
    (r"design\.con", "contrasts"),
    (r"underlay\.nii", "anatomical underlay of the maps"),
    (r"_demographics\.tsv", "demographics: description and comparison of the groups"),
    (r"groups/.*\.tsv", "analyses of covariance"),
    (r"(groups|models)/.*\.json", "how the table was computed, and its columns"),
    (r"_coefficients\.tsv", "coefficients of the models"),
    (r"_data\.tsv", "values to which the models were fitted"),
    (r"models/.*\.tsv", "clinical models"),
    (r"study\.json", "the record from which this report was made"),
    (r"\.toml", "configuration of the study"),
)


def describe(name: str) -> str:
    """The contents of a file of a study, from its name."""
    for pattern, text in DESCRIPTIONS:
        match = re.search(pattern, name)
        if match:
            return text.format(*match.groups())
    return tables.DASH


def file_table(contents: Contents, links: str) -> Table | None:
    """Every file of the study, its contents and its size.

    Parameters
    ----------
    contents : Contents
    links : str
        From the report to the folder of the results.
    """
    rows = []
    for name in contents.texts("files"):
        size = contents.located("files", name).stat().st_size
        # "./" keeps a name that looks like an address from being one.
        link = Markup('<a href="{}">{}</a>').format(quote(f"./{links}/{name}"), name)
        shown = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"
        rows.append([Cell(link, name), _text(describe(name)), Cell(Markup.escape(shown), str(size))])
    heads = [Heading(Markup(text), "", text == "Size") for text in ("File", "Contents", "Size")]
    return Table("file-index", "Files of the study", tuple(heads), rows) if rows else None


def stage_table(contents: Contents) -> Table | None:
    """The duration of each stage."""
    rows = []
    for part in contents.parts("stages"):
        seconds = part.need("seconds", float)
        shown = Markup('<data value="{}">{}</data>').format(seconds, tables.fixed(seconds, 1))
        rows.append([_text(part.need("name", str)), Cell(shown, str(seconds))])
    heads = (Heading(Markup("Stage"), "", False), Heading(Markup("Seconds")))
    return Table("stages", "Duration of each stage", heads, rows) if rows else None


def contrast_table(matrix: files.Matrix, names: Sequence[str]) -> Table:
    """Contrasts, a row each: the weights of the design's columns."""
    rows = []
    for i, weights in enumerate(matrix.values):
        name = (matrix.row_names[i] if matrix.row_names else "") or f"contrast {i + 1}"
        cells = [
            Cell(Markup('<data value="{:g}">{}</data>').format(w, f"{w:g}".replace("-", "−")), f"{w:g}")
            for w in weights
        ]
        rows.append([_text(name), *cells])
    heads = (Heading(Markup("Contrast"), "", False), *(Heading(Markup.escape(name)) for name in names))
    return Table("contrasts", "Contrast weights of the columns", heads, rows)


def _text(text: str) -> Cell:
    return Cell(Markup.escape(text), text)


# -- clusters -------------------------------------------------------------------------------------------------------

PLACES = (("Peak (mm)", ("x", "y", "z")), ("Centre (mm)", ("centre_x", "centre_y", "centre_z")))


def cluster_table(
    test: VoxelwiseTest, names: Sequence[str], rows: Sequence[Mapping[str, str]], level: float
) -> Table:
    """Clusters of a test; the coordinates of a peak are a button that moves the viewer there."""
    apart = {"regions", *(key for _, keys in PLACES for key in keys)}
    plain = [name for name in names if name not in apart]
    made = tables.make_table(f"clusters-{test.number}", test.label, plain, rows, level=level)
    heads = [
        Heading(Markup("<i>{}</i>").format(test.kind)) if head.html == "Value" else head for head in made.headings
    ]
    body = [list(row) for row in made.rows]
    for title, keys in PLACES:
        if set(keys) <= set(names):
            heads.append(Heading(Markup.escape(title)))
            for cells, row in zip(body, rows):
                cells.append(_place(test, [row[key] for key in keys], keys[0] == "x"))
    if "regions" in names:
        heads.append(Heading(Markup("Regions"), "share of the cluster’s voxels", False))
        for cells, row in zip(body, rows):
            cells.append(Cell(Markup.escape(_regions(row["regions"])), row["regions"]))
    return Table(made.id, made.caption, tuple(heads), body)


def _place(test: VoxelwiseTest, texts: Sequence[str], is_peak: bool) -> Cell:
    values = [tables.number(text) for text in texts]
    parts = [Markup('<data value="{}">{}</data>').format(t, figures.signed(v)) for t, v in zip(texts, values)]
    shown = Markup(", ").join(parts)
    if is_peak:
        shown = Markup(
            '<button type="button" class="peak" data-test="{}" data-mm="{}" title="Show in the viewer">{}</button>'
        ).format(test.number, " ".join(texts), shown)
    return Cell(shown, texts[0])


def _regions(text: str) -> str:
    """Shares of regions, without those under half a percent."""
    parts = [part.strip().replace("_", " ") for part in text.split(";")]
    kept = "; ".join(part for part in parts if part and not part.endswith(" 0 %"))
    return kept.replace(" %", "\u00a0%") or tables.DASH
