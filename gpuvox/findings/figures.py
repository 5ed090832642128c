"""Figures as data URIs: slices (PNG) and plots (SVG with text as outlines), the same bytes for the same numbers."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from gpuvox.files.writing import atomic
from gpuvox.findings.scene import Scene, VoxelwiseTest
from gpuvox.findings.tables import significant
from gpuvox.partitioning import standardised
from gpuvox.plain import escaped
from gpuvox.runtime.elsewhere import ignoring_local_file
from gpuvox.types import Bools, Float64, Floats


def ignoring() -> AbstractContextManager[None]:
    """Imports of matplotlib that ignore the user's own settings and a file in the current folder."""
    return ignoring_local_file("matplotlibrc", MATPLOTLIBRC=os.devnull, MPLBACKEND=None)


with ignoring():
    from matplotlib import colormaps, rc_context, rcdefaults, rcParams
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvasAgg  # for the other pictures
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import imsave
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.ticker import MaxNLocator


COOL = LinearSegmentedColormap.from_list("cool", ["#123a7a", "#2f7fd0", "#7cc8f2", "#e6fbff"])
"""Of the other direction of a test: dark blue to pale blue, with increasing lightness."""
GROUP_COLOURS = ("#c4510a", "#0f6ba8", "#6b6b6b", "#8f3b76")
"""Orange and blue that colour-blind readers can distinguish, dark enough on white."""
GROUP_MARKS = ("o", "^", "s", "D")
INK = "#222222"
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "axes.linewidth": 0.7, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "svg.hashsalt": "gpuvox", "svg.fonttype": "path",
    "axes.unicode_minus": True, "text.color": INK, "text.parse_math": False, "legend.frameon": False,
    "legend.fontsize": 8,
}  # fmt: skip
PIXELS = 2100
"""Width of three slices side by side, in pixels."""
FADED = 0.55
"""Opacity of the largest statistic where corrected p is not below the level."""


@dataclass(frozen=True)
class Picture:
    """An image of the report.

    Attributes
    ----------
    uri : str
        ``data:`` …
    alt : str
        Description of the image.
    width, height : float
        CSS pixels.
    caption : str
    name : str
        Of the file that the page saves.
    """

    uri: str
    alt: str
    width: float
    height: float
    caption: str = ""
    name: str = "figure"


def statistic_colours() -> Colormap:
    """Dark red to pale yellow, with increasing lightness."""
    return ListedColormap(colormaps["inferno"](np.linspace(0.35, 0.98, 256)), name="statistic")


def _png(figure: Figure, alt: str, scale: float = 2.0) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    width, height = figure.get_size_inches() * figure.dpi / scale
    return Picture(_uri("image/png", buffer), alt, round(width, 1), round(height, 1))


def _svg(figure: Figure, alt: str, caption: str = "") -> Picture:
    for text in figure.findobj(Text):
        text.set_text(escaped(text.get_text()))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None, "Creator": None})
    width, height = figure.get_size_inches() * 96
    return Picture(_uri("image/svg+xml", buffer), alt, round(width, 1), round(height, 1), caption)


def _uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Saved:
    """A figure as files, and as a picture of the page.

    Attributes
    ----------
    name : str
        Of the files, without extension.
    png, svg : bytes
        At 300 dots per inch, and with letters as outlines.
    picture : Picture
    """

    name: str
    png: bytes
    svg: bytes
    picture: Picture

    def write(self, folder: Path) -> list[Path]:
        """Write both files, and return their names."""
        contents = {folder / f"{self.name}.png": self.png, folder / f"{self.name}.svg": self.svg}
        for path, content in contents.items():
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        return list(contents)


def saved(figure: Figure, name: str, alt: str, caption: str = "", *, vector: bool = False) -> Saved:
    """A figure as PNG and SVG, its texts valid in XML; the page shows the PNG, or the SVG of a plot (`vector`)."""
    with own_style():
        png, svg = io.BytesIO(), io.BytesIO()
        colour = figure.get_facecolor()
        figure.savefig(
            png,
            format="png",
            dpi=300,
            metadata={"Software": None},
            facecolor=colour,
            pil_kwargs={"compress_level": 2},
        )
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, facecolor=colour)
    width, height = figure.get_size_inches() * 96
    uri = _uri("image/svg+xml", svg) if vector else _uri("image/png", png)
    return Saved(
        name, png.getvalue(), svg.getvalue(), Picture(uri, alt, round(width, 1), round(height, 1), caption, name)
    )


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """(height, width, 3) pixels as a PNG."""
    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png", pil_kwargs={"compress_level": 2})
    return buffer.getvalue()


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Context with the style of the report, independent of the user's matplotlib settings."""
    with rc_context():
        rcdefaults()
        rcParams.update(STYLE)
        yield


@contextlib.contextmanager
def _plot(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    with own_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


# -- slices ---------------------------------------------------------------------------------------------------------

PLANES = ("sagittal", "coronal", "axial")
"""By the axis through the slice."""
EDGES = (("L", "R"), ("P", "A"))
"""Labels of the left and right edge, by the axis that runs to the right: left is on the left (neurological)."""


def slices(scene: Scene, test: VoxelwiseTest, vmax: float, level: float) -> list[Picture]:
    """Three slices through the peak of a test: its statistic over the anatomy, with an outline of significant voxels.

    Parameters
    ----------
    scene : Scene
    test : VoxelwiseTest
    vmax : float
        Statistic at the upper end of the colours.
    level : float

    Returns
    -------
    list of Picture
        Sagittal, coronal, axial; all at the same scale.
    """
    extents = np.multiply(scene.mask.shape, scene.voxel_size)
    per_mm = PIXELS / (extents[0] * 2 + extents[1])
    position = scene.millimetres(test.peak)
    pictures = []
    for axis, name in enumerate(PLANES):
        where = f"{'xyz'[axis]} = {signed(position[axis])} mm"
        outlined = "outlined voxels" if test.survivors else "no voxel"
        what = f"{test.kind} of {test.label}; {outlined} with corrected p < {level:g}"
        alt = f"{name.capitalize()} slice, {where}: {what}"
        figure = _slice(scene, test, axis, vmax, per_mm)
        if scene.oriented:
            _letters(figure, EDGES[0 if axis else 1])
        picture = _png(figure, alt)
        pictures.append(Picture(picture.uri, alt, picture.width, picture.height, f"{name.capitalize()}, {where}"))
    return pictures


def on_lines(text: str, width: int) -> str:
    """The label of an axis, on two lines if it is long, and shortened if it is longer than these."""
    first, *rest = textwrap.wrap(escaped(text), width) or [""]
    return "\n".join([first, short(" ".join(rest), width)]) if rest else first


def short(text: str, length: int = 30) -> str:
    """A name shortened for a figure; characters that are invalid in XML are shown in escaped form."""
    text = escaped(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def signed(value: float) -> str:
    """Millimetres as a whole number or with one decimal, with a true minus sign."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text.replace("-", "−")


def _slice(scene: Scene, test: VoxelwiseTest, axis: int, vmax: float, per_mm: float) -> Figure:
    across, up = (a for a in range(3) if a != axis)
    at = test.peak[axis]
    take = lambda volume: np.take(volume, at, axis).T  # noqa: E731
    size = [scene.mask.shape[a] * scene.voxel_size[a] for a in (across, up)]
    # 200 dots per inch; text sizes are in points of 1/72 inch.
    figure = Figure(figsize=(size[0] * per_mm / 200, size[1] * per_mm / 200), dpi=200, facecolor="black")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    shared: Any = {"origin": "lower", "extent": (0, size[0], 0, size[1]), "interpolation": "nearest"}
    ax.imshow(take(scene.underlay), cmap="gray", vmin=0, vmax=300, aspect="auto", **shared)
    ax.imshow(_overlay(take(test.statistic), take(test.significant), vmax), aspect="auto", **shared)
    pixel = (scene.voxel_size[across], scene.voxel_size[up])
    ax.add_collection(LineCollection(_edges(take(scene.mask), pixel), colors="#8fb8dc", linewidths=0.5))
    outline, width = _edges(take(test.significant), pixel), _outline_width(min(pixel) * per_mm)
    ax.add_collection(LineCollection(outline, colors="black", linewidths=width + 0.6, capstyle="projecting"))
    ax.add_collection(LineCollection(outline, colors="white", linewidths=width, capstyle="projecting"))
    centre = [(test.peak[a] + 0.5) * scene.voxel_size[a] for a in (across, up)]
    _ticks(ax, centre, size)
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]))
    return figure


def _outline_width(voxel: float) -> float:
    """Width of the outline in points, from the pixels per voxel: still white at half the size, at which a page shows
    it, and less than half a voxel.
    """
    return min(max(0.4 * voxel, 2.0), 6.0) * 72 / 200


def _overlay(statistic: Floats, significant: Bools, vmax: float) -> Floats:
    """Colours of positive values: opaque where significant, elsewhere fading with smaller values."""
    share = np.clip(statistic / vmax, 0, 1)
    colours = statistic_colours()(share)
    colours[..., 3] = np.where(significant, 1.0, FADED * share)
    return colours


def _edges(inside: NDArray[np.bool_], pixel: tuple[float, float]) -> list[list[tuple[float, float]]]:
    """Borders between voxels inside and outside: (rows, columns) → segments in mm."""
    padded = np.pad(inside, 1)
    dx, dy = pixel
    segments = []
    for row, column in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        segments.append([(column * dx, row * dy), (column * dx, (row + 1) * dy)])
    for row, column in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        segments.append([(column * dx, row * dy), ((column + 1) * dx, row * dy)])
    return segments


def edges(
    inside: NDArray[np.bool_], pixel: tuple[float, float], origin: tuple[float, float], colour: str
) -> LineCollection:
    """Borders between pixels inside and outside, (rows, columns), from an origin on; see `_edges`."""
    segments = np.array(_edges(inside, pixel)).reshape(-1, 2, 2) + np.array(origin)
    return LineCollection(list(segments), colors=colour, linewidths=0.7)


def _ticks(ax: Axes, centre: Sequence[float], size: Sequence[float]) -> None:
    """Marks at the edges that point to the peak without covering it."""
    x, y, reach = centre[0], centre[1], 3.0
    marks = [[(x, 0), (x, reach)], [(x, size[1] - reach), (x, size[1])]]
    marks += [[(0, y), (reach, y)], [(size[0] - reach, y), (size[0], y)]]
    ax.add_collection(LineCollection(marks, colors="#ffffff", linewidths=0.8))


def _letters(figure: Figure, edges: tuple[str, str]) -> None:
    for x, text, align in zip((0.015, 0.985), edges, ("left", "right")):
        outline(figure.text(x, 0.97, text, color="white", fontsize=12, weight="bold", ha=align, va="top"))


def outline(text: Text) -> None:
    """White letters with a black outline, readable on light and dark anatomy."""
    text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])


def colour_bar(vmax: float, label: str) -> Picture:
    """The colour bar of the slices."""
    with own_style():
        figure = Figure(figsize=(2.6, 0.52))
        ax = figure.add_axes((0.04, 0.62, 0.92, 0.3))
        bar = figure.colorbar(
            ScalarMappable(Normalize(0, vmax), statistic_colours()), cax=ax, orientation="horizontal"
        )
        bar.set_label(label, labelpad=1)
        bar.outline.set_linewidth(0.5)
        return _svg(figure, f"Colour bar of {label} from 0 to {vmax:g}")


# -- plots ----------------------------------------------------------------------------------------------------------


def design_matrix(values: Float64, names: Sequence[str]) -> Picture:
    """Image of a design: rows are participants, each column scaled to its largest magnitude."""
    with _plot(0.75 + 0.5 * values.shape[1], 3.2) as (figure, ax):
        draw_design(ax, values, names, f"{len(values)} participants")
        alt = f"Design matrix: {len(values)} rows, columns {', '.join(names)}; black is negative, white positive"
        return _svg(figure, alt)


def draw_design(ax: Axes, values: Float64, names: Sequence[str], rows: str) -> None:
    """Draw a design: black is negative, white positive, each column scaled to its largest magnitude."""
    ax.imshow(standardised(values)[0], cmap="gray", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_xticks(
        range(len(names)), [short(name, 18) for name in names], rotation=40, ha="right", rotation_mode="anchor"
    )
    ax.set_ylabel(rows)
    ax.set_yticks([])
    for edge in np.arange(0.5, values.shape[1] - 1):
        ax.axvline(edge, color="#888888", linewidth=0.6)
    for spine in ax.spines.values():
        spine.set_visible(True)


def null_distribution(test: VoxelwiseTest, null: Float64, level: float) -> Picture:
    """Histogram of the maxima over permutations, with the critical and the observed value.

    If these are far beyond most permutations, the axis ends before them, and the caption says so.
    """
    critical, observed = test.critical, test.observed
    low, high = histogram_range(null, critical, observed)
    beyond = int((null > high).sum())
    parts = [f"Null distribution of the largest statistic of {test.label}: {len(null)} permutations"]
    with _plot(4.4, 2.2) as (figure, ax):
        count = min(60, max(10, len(null) // 20))
        bins = np.linspace(low, high, count + 1).tolist() if high > low else count
        ax.hist(null[null <= high], bins=bins, color="#9aa5b1", edgecolor="white", linewidth=0.2)
        if critical is not None:
            said = f"{100 * level:g} % critical value"
            ax.axvline(critical, color=INK, linestyle="--", linewidth=1.1, label=said)
            parts.append(f"{said} {critical:.4g}")
        if observed is not None:
            _mark_observed(ax, observed, high)
            parts.append(f"observed maximum {observed:.4g}")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set(xlabel=f"largest {short(test.method) or 'statistic'} in the mask", ylabel="permutations")
        if ax.get_legend_handles_labels()[0]:
            # Above the axes, where it covers nothing.
            figure.legend(loc="outside upper right", ncols=2, handlelength=1.4, columnspacing=1.2)
        return _svg(figure, "; ".join(parts), test.label + _beyond_axis(beyond, len(null), observed, high))


def histogram_range(null: Float64, critical: float | None, observed: float | None) -> tuple[float, float]:
    """Limits of the axis of a null distribution: all values, or most of them if extreme values would compress it.

    The axis then ends a quarter above the critical value or the 99.5th percentile, whichever is larger.
    """
    low = float(null.min())
    usual = max(float(np.quantile(null, 0.995)), low if critical is None else critical)
    end, whole = low + 1.25 * (usual - low), max(float(null.max()), usual, low if observed is None else observed)
    return (low, end) if low < end and whole - low > 2 * (end - low) else (low, whole)


def _mark_observed(ax: Axes, observed: float, high: float) -> None:
    """A line, or an arrow at the end of the axis if the value is beyond it."""
    colour = GROUP_COLOURS[0]
    if observed <= high:
        ax.axvline(observed, color=colour, linewidth=1.6, label="observed")
        return
    label, place = f"observed: {significant(observed, 4)}", ax.transAxes
    ax.plot([0.93, 1.0], [0.5, 0.5], transform=place, color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.plot([1.0], [0.5], ">", transform=place, color=colour, markersize=7, clip_on=False, label=label)


def _beyond_axis(beyond: int, n: int, observed: float | None, high: float) -> str:
    """Note for the caption about values beyond the axis."""
    what = [f"{beyond} of {n} permutations"] if beyond else []
    what += ["the observed maximum"] if observed is not None and observed > high else []
    return f"; beyond the axis: {' and '.join(what)}" if what else ""


def stars(p: float) -> str:
    """Asterisks of a p-value: below .05, .01 and .001."""
    return "*" * sum(p < limit for limit in (0.05, 0.01, 0.001))


def box_plots(
    title: str, values: Mapping[str, Mapping[str, Float64]], p: Mapping[str, float] | None = None
) -> Picture:
    """Horizontal box plots of structures by group, with every participant as a point.

    Parameters
    ----------
    title : str
        The measure.
    values : dict
        Structure → group → values.
    p : dict of str to float, optional
        Structure → p of the difference of the groups, shown as asterisks beside it.
    """
    groups = list(next(iter(values.values())))
    height = 0.8 + len(values) * (0.12 + 0.24 * len(groups))
    with _plot(4.6, height) as (figure, ax):
        for i, group in enumerate(groups):
            _boxes(ax, [values[name][group] for name in values], i, len(groups), group)
        ax.axvline(0, color="#888888", linewidth=0.7, zorder=0)
        ax.set_yticks(range(len(values)), [short(name) for name in values])
        ax.set_ylim(len(values) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("z of the reference group")
        marks = {name: stars((p or {}).get(name, 1.0)) for name in values}
        for i, mark in enumerate(marks.values()):
            # The glyph stands high in its line: its middle is below the text's.
            ax.text(1.015, i + 0.12, mark, transform=ax.get_yaxis_transform(), va="center", fontsize=10)
        figure.legend(loc="outside upper right", ncols=len(groups), handletextpad=0.2, columnspacing=1.2)
        medians = "; ".join(
            f"{name}{marks[name]}: "
            + ", ".join(f"{group} median {signed(np.median(v))}" for group, v in of.items() if len(v))
            for name, of in values.items()
        )
        return _svg(figure, f"Box plots of {title} by group. {medians}", title)


def flow_chart(top: str, excluded: str, groups: Sequence[str], analyses: Sequence[str]) -> Picture:
    """Who is in a study: rows of the table, exclusions, groups, and the participants of each analysis.

    Parameters
    ----------
    top, excluded : str
        Text of the first box, and of that beside it; empty for none.
    groups : sequence of str
        Text of a box for each group.
    analyses : sequence of str
        A line for each analysis, in the last box.
    """
    below = 0.14 * excluded.count("\n") if excluded else 0.0  # its box stays above the line to the groups
    width, height = max(6.4, 1.7 * len(groups)), 1.9 + below + 0.17 * len(analyses)
    middle, line = width / 2, -0.85 - below
    box: Any = {"boxstyle": "square,pad=0.5", "facecolor": "white", "edgecolor": INK, "linewidth": 0.8}
    arrow: Any = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    with own_style():
        figure = Figure(figsize=(width, height))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set(xlim=(0, width), ylim=(-height, 0))
        ax.text(middle, -0.3, top, ha="center", va="center", bbox=box)
        if excluded:
            beside = -0.66 - below / 2
            ax.annotate("", (middle + 1, beside), (middle, beside), arrowprops=arrow)
            ax.text(middle + 1.05, beside, excluded, ha="left", va="center", bbox=box, fontsize=7.5)
        places = middle + 1.7 * (np.arange(len(groups)) - (len(groups) - 1) / 2)
        ax.plot([middle, middle], [-0.45, line], color=INK, linewidth=0.8)
        ax.plot([places[0], places[-1]], [line, line], color=INK, linewidth=0.8)
        for place, text in zip(places, groups):
            ax.annotate("", (place, line - 0.18), (place, line), arrowprops=arrow)
            ax.text(place, line - 0.35, text, ha="center", va="center", bbox=box)
            ax.plot([place, place], [line - 0.52, line - 0.65], color=INK, linewidth=0.8)
        ax.plot([places[0], places[-1]], [line - 0.65, line - 0.65], color=INK, linewidth=0.8)
        if analyses:
            ax.annotate("", (middle, line - 0.83), (middle, line - 0.65), arrowprops=arrow)
            ax.text(
                middle, line - 0.91, "\n".join(analyses), ha="center", va="top", bbox=box, fontsize=7.5,
                linespacing=1.35,
            )  # fmt: skip
        alt = "Flow chart: " + "; ".join(filter(None, [top, excluded, *groups, *analyses])).replace("\n", ", ")
        return _svg(figure, alt, "Participants of the study and of its analyses")


def _boxes(ax: Axes, values: Sequence[Float64], i: int, n: int, group: str) -> None:
    colour, mark = GROUP_COLOURS[i % len(GROUP_COLOURS)], GROUP_MARKS[i % len(GROUP_MARKS)]
    places = np.arange(len(values)) + (i - (n - 1) / 2) * 0.8 / n
    width = 0.56 / n
    rng = np.random.default_rng(0)  # scatter of the points, not data
    for place, of in zip(places, values):
        spread = place + rng.uniform(-width / 2, width / 2, len(of))
        ax.plot(of, spread, mark, color=colour, markersize=2.8, alpha=0.55, markeredgewidth=0, rasterized=True)
    ax.plot([], [], mark, color=colour, markersize=5, label=short(group), linestyle="none")
    line = {"color": INK, "linewidth": 0.9}
    ax.boxplot(
        [of if len(of) else [np.nan] for of in values], positions=places, orientation="horizontal", widths=width,
        showfliers=False, manage_ticks=False, patch_artist=True, whiskerprops=line, capprops=line,
        medianprops={"color": INK, "linewidth": 1.8},
        boxprops={"facecolor": "none", "edgecolor": INK, "linewidth": 0.9},
    )  # fmt: skip


def scatter(x: Float64, y: Float64, names: tuple[str, str], spent: int = 0, caption: str = "") -> Picture:
    """Points, least-squares line and the 95 % confidence band of the mean.

    Parameters
    ----------
    x, y : (n,) float64
        Finite.
    names : (str, str)
        Names of the axes.
    spent : int
        Degrees of freedom used by other predictors, if x and y are residuals.
    caption : str
    """
    with _plot(3.1, 2.7) as (figure, ax):
        ax.plot(x, y, "o", color=GROUP_COLOURS[1], markersize=3.6, alpha=0.6, markeredgewidth=0)
        slope = _line(ax, x, y, spent)
        ax.set(xlabel=on_lines(names[0], 44), ylabel=on_lines(names[1], 34))
        alt = f"Scatter plot of {names[1]} against {names[0]}, {len(x)} participants{slope}"
        return _svg(figure, alt, caption)


def diagnostics(values: Mapping[str, Float64], name: str) -> Picture:
    """Residuals against fitted values, normal quantiles of the residuals, and Cook's distances of a linear model.

    Parameters
    ----------
    values : dict of str to (n,) float64
        ``outcome``, ``fitted``, ``studentised`` and ``cook``.
    name : str
        The model.
    """
    fitted, cook = values["fitted"], values["cook"]
    residuals, n = values["outcome"] - fitted, len(fitted)
    studentised = np.sort(values["studentised"][np.isfinite(values["studentised"])])
    at = special.ndtri((np.arange(len(studentised)) + 0.5) / max(len(studentised), 1))
    with own_style():
        figure = Figure(figsize=(6.6, 2.3), layout="constrained")
        one, two, three = figure.subplots(1, 3)
        dots: Any = {"color": GROUP_COLOURS[1], "markersize": 3.2, "alpha": 0.6, "markeredgewidth": 0}
        one.plot(fitted, residuals, "o", **dots)
        one.axhline(0, color="#888888", linewidth=0.7)
        one.set(xlabel="fitted", ylabel="residual")
        two.plot(at, studentised, "o", **dots)
        ends = [float(at[0]), float(at[-1])] if len(at) else [-1.0, 1.0]
        two.plot(ends, ends, color="#888888", linewidth=0.7)
        two.set(xlabel="normal quantile", ylabel="studentised residual")
        three.vlines(np.arange(1, n + 1), 0, cook, color=GROUP_COLOURS[1], linewidth=0.9)
        three.axhline(4 / n, color=GROUP_COLOURS[0], linewidth=0.9, linestyle="--")
        three.set(xlabel="participant", ylabel="Cook’s distance")
        alt = (
            f"Diagnostics of the model {name}: residuals against fitted values, normal quantiles of the studentised "
            f"residuals, and Cook’s distances, the largest {significant(float(np.nanmax(cook)))} (dashed: 4/n)"
        )
        return _svg(figure, alt, f"Diagnostics of the model {short(name, 60)}; dashed: 4/n")


def scatter_matrix(pairs: Mapping[tuple[str, str], Float64], note: str = "", spent: int = 0) -> Picture:
    """Scatter plots of pairs of variables, a column for each x and a row for each y, with lines and bands.

    Parameters
    ----------
    pairs : dict of (str, str) to (n, 2) float64
        Names of x and y → values.
    note : str
        What the values are, for the caption.
    spent : int
        Degrees of freedom of covariates; see `scatter`.
    """
    xs, ys = (list(dict.fromkeys(pair[i] for pair in pairs)) for i in (0, 1))
    lonely = len(pairs) > 1 and len(xs) * len(ys) >= 2 * len(
        pairs
    )  # pairs one by one: in rows, not in a table with holes
    places = list(pairs) if lonely else [(x, y) for y in ys for x in xs]
    columns = min(4, len(pairs)) if lonely else len(xs)
    rows = -(-len(places) // columns)
    with own_style():
        figure = Figure(figsize=(1.85 * columns + 0.5, 1.7 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for i, ax in enumerate(axes.flat):
            pair = places[i] if i < len(places) else None
            if pair is None or pair not in pairs:
                ax.set_axis_off()
                continue
            values = pairs[pair]
            ax.plot(
                values[:, 0],
                values[:, 1],
                "o",
                color=GROUP_COLOURS[1],
                markersize=2.6,
                alpha=0.6,
                markeredgewidth=0,
            )
            _line(ax, values[:, 0], values[:, 1], spent)
            ax.tick_params(labelsize=6.5)
            if lonely or i >= len(places) - columns:
                ax.set_xlabel(short(pair[0], 26), fontsize=7.5)
            if lonely or i % columns == 0:
                ax.set_ylabel(short(pair[1], 26), fontsize=7.5)
        alt = "Scatter plots with least-squares lines of " + "; ".join(f"{y} against {x}" for x, y in pairs)
        return _svg(figure, alt, f"Least-squares lines with 95 % bands{'; ' + note if note else ''}")


def _line(ax: Axes, x: Float64, y: Float64, spent: int) -> str:
    """Draw the line and its band, and return a description of its slope."""
    band = regression_band(x, y, spent)
    if band is None:
        return ""
    at, mean, half, slope = band
    ax.fill_between(at, mean - half, mean + half, color="#555555", alpha=0.18, linewidth=0)
    ax.plot(at, mean, color=INK, linewidth=1.4)
    return f"; slope {slope:.3g}".replace("-", "−")


def regression_band(x: Float64, y: Float64, spent: int = 0) -> tuple[Float64, Float64, Float64, float] | None:
    """Least-squares line and the half-width of the 95 % confidence interval of the mean.

    ``t(.975, df)·s·√(1/n + (x₀ − x̄)²/Σ(x − x̄)²)``, df = n − 2 − spent, s² the residuals' sum of squares divided by
    df. If x and y are residuals of other predictors, the slope and its interval are those of the whole model (Frisch,
    Waugh, Lovell).

    Returns
    -------
    at, mean, half : (100,) float64
    slope : float
        None if x is constant or there are no degrees of freedom.
    """
    n, centred = len(x), x - x.mean()
    square, df = float(centred @ centred), n - 2 - spent
    if df < 1 or square <= 1e-20 * float(x @ x):
        return None
    slope = float(centred @ y) / square
    residuals = y - y.mean() - slope * centred
    s = np.sqrt(residuals @ residuals / df)
    at = np.linspace(x.min(), x.max(), 100)
    half = special.stdtrit(df, 0.975) * s * np.sqrt(1 / n + (at - x.mean()) ** 2 / square)
    return at, y.mean() + slope * (at - x.mean()), half, slope
