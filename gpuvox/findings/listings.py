"""Tables of a report that are not files themselves: contrasts, clusters and lists of files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from markupsafe import Markup

from gpuvox import files
from gpuvox.findings import figures, tables
from gpuvox.findings.scene import VoxelwiseTest
from gpuvox.findings.tables import Cell, Heading, Table


def contrast_table(matrix: files.Matrix, names: Sequence[str]) -> Table:
    """Contrasts, a row each: the weights of the design's columns."""
    rows = []
    for i, weights in enumerate(matrix.values):
        name = (matrix.row_names[i] if matrix.row_names else "") or f"contrast {i + 1}"
        cells = [
            Cell(Markup('<data value="{:g}">{}</data>').format(w, f"{w:g}".replace("-", "−")), f"{w:g}")
            for w in weights
        ]
        rows.append([text_cell(name), *cells])
    heads = (Heading(Markup("Contrast"), "", False), *(Heading(Markup.escape(name)) for name in names))
    return Table("contrasts", "Contrast weights of the columns", heads, rows)


def text_cell(text: str) -> Cell:
    """A cell with a text as it is."""
    return Cell(Markup.escape(text), text)


def link_cell(name: str, link: str) -> Cell:
    """A cell with the name of a file that links to it."""
    # "./" keeps a name that looks like an address from being one.
    return Cell(Markup('<a href="{}">{}</a>').format(quote(f"./{link}"), name), name)


def size_cell(size: int) -> Cell:
    """A cell with the size of a file in bytes."""
    return Cell(Markup.escape(f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"), str(size))


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
    if any(map(math.isnan, values)):
        return Cell(Markup(tables.DASH))
    parts = [Markup('<data value="{}">{}</data>').format(t, figures.signed(v)) for t, v in zip(texts, values)]
    shown = Markup(", ").join(parts)
    if is_peak:
        shown = Markup(
            '<button type="button" class="peak" data-test="{}" data-mm="{}" title="Show in the viewer">{}</button>'
        ).format(test.number, " ".join(texts), shown)
    return Cell(shown, texts[0])


def _regions(text: str) -> str:
    """Shares of regions, without those under half a percent."""
    parts = [part.strip() for part in text.split(";")]
    kept = "; ".join(part for part in parts if part and not part.endswith(" 0 %"))
    return kept.replace("_", " ").replace(" %", "\u00a0%") or tables.DASH
