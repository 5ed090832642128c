"""Tables of a study that are not files themselves: its stages and its files."""

from __future__ import annotations

import re

from markupsafe import Markup

from gpuvox.findings import tables
from gpuvox.findings.listings import link_cell, size_cell, text_cell
from gpuvox.findings.tables import Cell, Heading, Table
from gpuvox.study.report.contents import Contents

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
    (r"csf/coefficients\.tsv", "differences between the groups with other coefficients of the tissue model"),
    (r"csf/comparison\.tsv", "mean value in cerebrospinal fluid, compared between the groups"),
    (r"csf/sensitivity\.tsv", "differences between the groups with both references in cerebrospinal fluid"),
    (r"maps/.*\.json", "how the map was computed"),
    (r"maps/.*\.nii", "map of all participants, one volume each"),
    (r"volumes\.tsv", "volumes that other software measured"),
    (r"rois\.tsv", "measurements of every region, participant and map"),
    (r"features\.tsv", "all variables, one row per participant"),
    (r"zscores\.tsv|features_z\.tsv", "regional values as z-scores of the reference group"),
    (r"participants\.tsv", "participants in the analysis"),
    (r"checks\.tsv", "summary of every participant’s maps within the mask"),
    (r"design\.mat", "design matrix"),
    (r"design\.con", "contrasts"),
    (r"underlay\.nii", "anatomical underlay of the maps"),
    (r"_demographics\.tsv", "demographics: description and comparison of the groups"),
    (r"groups/.*\.tsv", "comparisons of groups, or descriptions of one"),
    (r"(groups|models|csf)/.*\.json", "how the table was computed, and its columns"),
    (r"_coefficients\.tsv", "coefficients of the models"),
    (r"_diagnostics\.tsv", "residuals and influence in the models"),
    (r"_ladder\.tsv", "ladder of powers: which transformation is closest to normal"),
    (r"_pairs\.tsv", "pairs of groups"),
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
        rows.append([link_cell(name, f"{links}/{name}"), text_cell(describe(name)), size_cell(size)])
    heads = [Heading(Markup(text), "", text == "Size") for text in ("File", "Contents", "Size")]
    return Table("file-index", "Files of the study", tuple(heads), rows) if rows else None


def stage_table(contents: Contents) -> Table | None:
    """The duration of each stage."""
    rows = []
    for part in contents.parts("stages"):
        seconds = part.need("seconds", float)
        shown = Markup('<data value="{}">{}</data>').format(seconds, tables.fixed(seconds, 1))
        rows.append([text_cell(part.need("name", str)), Cell(shown, str(seconds))])
    heads = (Heading(Markup("Stage"), "", False), Heading(Markup("Seconds")))
    return Table("stages", "Duration of each stage", heads, rows) if rows else None
