"""Pictures of the pages, drawn whenever the site is built, from the tables, rules and code that they illustrate."""

from __future__ import annotations

import itertools
import re
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpuvox.block_tree import Node, build_tree, shuffler_of
from gpuvox.shuffle import Permutations

ROOT = Path(__file__).resolve().parents[1]
BLUE, RED, GREY = "#2166ac", "#b2182b", "0.55"
ACCEPTED = (3.8, 6.3)
"""Per cent: the 99 % interval of a rate of 5 % among 2,000 data sets, as docs/validation.md says."""
TREES = {
    "-1 b i: rows within each block": [[-1, 1, 1], [-1, 1, 2], [-1, 1, 3], [-1, 2, 1], [-1, 2, 2], [-1, 2, 3]],
    "1 -b i: whole blocks": [[1, -1, 1], [1, -1, 2], [1, -1, 3], [1, -2, 1], [1, -2, 2], [1, -2, 3]],
    "1 b i: whole blocks, and rows within": [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]],
}
"""The same six observations in two blocks, under three rules: columns of the file of exchangeability blocks."""
SHOWN = 3
"""Permutations beside each tree, besides the order of the file."""


def write(folder: Path) -> None:
    """Draw all of them into a folder."""
    error_rates((ROOT / "docs" / "validation.md").read_text(encoding="utf-8")).savefig(folder / "error_rates.svg")
    layers((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")).savefig(folder / "layers.svg")
    trees().savefig(folder / "trees.svg")


def rates_of(page: str) -> list[tuple[str, str, list[float], list[float]]]:
    """Data, shuffles, and per cent of uncorrected and family-wise errors, of the first table about error rates."""
    table = page.split("## Error rates")[1].split("|---|---|---|---|\n")[1].split("\n\n")[0]
    rows, data = [], ""
    for line in table.splitlines():
        of, shuffles, *cells = (cell.strip(" ") for cell in re.sub("[*`]", "", line).strip("|").split("|"))
        data = of or data
        uncorrected, familywise = ([float(x) for x in re.findall(r"[\d.]+", cell)] for cell in cells)
        rows.append((data, shuffles, uncorrected, familywise))
    return rows


def error_rates(page: str) -> Figure:
    """The measured error rates, with the interval in which those of a valid test lie."""
    rows = rates_of(page)
    figure = Figure(figsize=(7.4, 0.42 * len(rows) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(*ACCEPTED, color="0.9", label="99 % of valid tests")
    axes.axvline(5, color="0.6", linewidth=0.8)
    for y, (_, _, uncorrected, familywise) in enumerate(rows):
        for rates, marker, shift in ((uncorrected, "o", -0.13), (familywise, "D", 0.13)):
            for rate in rates:
                fits = ACCEPTED[0] <= rate <= ACCEPTED[1]
                axes.plot(rate, y + shift, marker, color=BLUE if fits else RED, markersize=5)
    for marker, label in (("o", "uncorrected"), ("D", "family-wise")):
        axes.plot([], [], marker, color=GREY, label=label)
    labels, before = [], ""
    for data, shuffles, *_ in rows:
        label = shuffles if data == before else f"{data}:\n{shuffles}"
        labels.append("\n".join(each for line in label.split("\n") for each in textwrap.wrap(line, 48)))
        before = data
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set(
        xscale="log", xlim=(3, 70), ylim=(len(rows) - 0.4, -0.6), xlabel="false positives at a level of 5 % (%)"
    )
    axes.set_xticks([3, 5, 10, 20, 50], ["3", "5", "10", "20", "50"])
    axes.minorticks_off()
    axes.legend(loc="lower right", fontsize=8)
    return figure


def modules_of(page: str) -> list[tuple[str, list[str]]]:
    """The groups of modules of the page on the architecture, from the top, and the modules of each."""
    parts = re.split(r"^### ", page.split("## Modules")[1].split("\n## ")[0], flags=re.MULTILINE)[1:]
    return [(part.split("\n")[0], re.findall(r"^\| `([\w/]+)(?:\.py)?` \|", part, re.MULTILINE)) for part in parts]


def layers(page: str) -> Figure:
    """The groups of modules, each above those from which it may import."""
    groups = [
        (title, textwrap.wrap("  ".join(names), 98, break_on_hyphens=False)) for title, names in modules_of(page)
    ]
    height = sum(len(lines) + 0.6 for _, lines in groups)
    figure = Figure(figsize=(7.4, 0.19 * height))
    axes = figure.add_axes((0, 0, 1, 1))
    top = height
    for title, lines in groups:
        bottom = top - len(lines) - 0.3
        axes.barh((top + bottom) / 2, 1, height=top - bottom, color="#e3edf6", edgecolor="none")
        axes.text(0.012, top - 0.65, title, va="center", fontsize=9, weight="bold")
        for k, line in enumerate(lines):
            axes.text(0.17, top - 0.65 - k, line, va="center", fontsize=7, family="monospace")
        top = bottom - 0.3
    axes.set(xlim=(0, 1), ylim=(0, height))
    axes.axis("off")
    return figure


def trees() -> Figure:
    """Trees of exchangeability blocks, and orders of the observations that each of them allows."""
    figure = Figure(figsize=(7.4, 2.8), layout="constrained")
    for column, (title, blocks) in zip(figure.subfigures(1, len(TREES)), TREES.items()):
        above, below = column.subplots(2, 1, height_ratios=[1.2, 1])
        draw_tree(above, build_tree(blocks, len(blocks)))
        shuffler = shuffler_of(np.arange(len(blocks))[:, None], Permutations(0, blocks=blocks))
        orders = shuffler.shuffles(0, shuffler.n)
        shown = np.unique(np.linspace(0, len(orders) - 1, SHOWN + 1).astype(int))
        draw_orders(below, orders[shown])
        above.set_title(f"{title}\n{shuffler.n} permutations", fontsize=8)
    return figure


def colour(row: int) -> tuple[float, float, float]:
    """Blue for the observations of the first block, red for those of the second, the later ones lighter."""
    base = np.array([33, 102, 172] if row < 3 else [178, 24, 43]) / 255
    red, green, blue = base + (1 - base) * 0.3 * (row % 3)
    return float(red), float(green), float(blue)


def draw_tree(axes: Axes, tree: Node) -> None:
    """The tree with its root above; children that may trade places hang on double-headed arrows."""

    def draw(node: Node, depth: int) -> float:
        if not node.children:
            axes.plot(node.row, -depth, "s", color=colour(node.row), markersize=13)
            axes.text(node.row, -depth, str(node.row + 1), color="white", ha="center", va="center", fontsize=8)
            return node.row
        places = [draw(child, depth + 1) for child in node.children]
        middle = float(np.mean(places))
        for place in places:
            axes.plot([middle, place], [-depth, -depth - 1], color="0.7", linewidth=1, zorder=0)
        if node.trades:
            for a, b in itertools.pairwise(places):
                arrow = {"arrowstyle": "<->", "color": "black", "shrinkA": 9, "shrinkB": 9}
                axes.annotate("", (a, -depth - 1), (b, -depth - 1), arrowprops=arrow)
        axes.plot(middle, -depth, "o", color="0.35", markersize=9)
        return middle

    draw(tree, 0)
    axes.set(xlim=(-0.6, 5.6), ylim=(-2.4, 0.3))
    axes.axis("off")


def draw_orders(axes: Axes, orders: np.ndarray) -> None:
    """A line of coloured cells for each order; the first one is that of the file."""
    for y, order in enumerate(orders):
        for x, row in enumerate(order):
            axes.plot(x, -y, "s", color=colour(row), markersize=10)
            axes.text(x, -y, str(row + 1), color="white", ha="center", va="center", fontsize=7)
    axes.set(xlim=(-0.6, 5.6), ylim=(-SHOWN - 0.5, 0.5))
    axes.axis("off")
