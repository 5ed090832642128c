"""Plots of the values of clusters: by group, or against a covariate, adjusted for the rest of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuvox.findings.figures import GROUP_COLOURS, GROUP_MARKS, INK, Axes, Figure, MaxNLocator, own_style, short
from gpuvox.findings.values import GroupValues, Slope

MOST = 12
"""Clusters of a test whose values are plotted."""
PER_ROW = 3


@dataclass(frozen=True, eq=False)
class Panel:
    """The values of one cluster.

    Attributes
    ----------
    title : str
    values : GroupValues or list of Slope
    """

    title: str
    values: GroupValues | list[Slope]


def value_figure(panels: Sequence[Panel], unit: str) -> Figure:
    """The panels of a test.

    Parameters
    ----------
    panels : sequence of Panel
    unit : str
        Name of the vertical axes.
    """
    columns = min(PER_ROW, len(panels))
    rows = -(-len(panels) // columns)
    width, height = 2.45 * columns + 0.1, 2.35 * rows + 0.1
    with own_style():
        figure = Figure(figsize=(width, height), facecolor="white")
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            left, bottom = column * 2.45 + 0.74, height - (row + 1) * 2.35 + 0.52
            ax = figure.add_axes((left / width, bottom / height, 1.63 / width, 1.5 / height))
            ax.set_title(short(panel.title, 34), fontsize=8.5, loc="left")
            if isinstance(panel.values, GroupValues):
                _draw_groups(ax, panel.values)
            else:
                _draw_slopes(ax, panel.values)
            ax.tick_params(labelsize=7.5)
            ax.yaxis.set_major_locator(MaxNLocator(5))
            if not column:
                ax.set_ylabel(unit, fontsize=8)
    return figure


def _draw_groups(ax: Axes, values: GroupValues) -> None:
    """Every participant as a point; the mean of the model with its 95 % confidence interval."""
    rng = np.random.default_rng(0)  # scatter of the points, not data
    for place, (name, of) in enumerate(values.values.items()):
        colour, mark = GROUP_COLOURS[place % len(GROUP_COLOURS)], GROUP_MARKS[place % len(GROUP_MARKS)]
        spread = place + rng.uniform(-0.16, 0.16, len(of))
        ax.plot(spread, of, mark, color=colour, markersize=3.2, alpha=0.55, markeredgewidth=0)
        mean, half = values.means[name]
        ax.errorbar(
            [place + 0.3], [mean], yerr=[[half], [half]] if np.isfinite(half) else None, fmt="D", color=INK,
            markersize=3.4, capsize=2.5, elinewidth=1,
        )  # fmt: skip
    names = [short(name, 18) for name in values.values]
    ax.set_xticks(range(len(names)), names, rotation=0 if len(names) < 4 else 30, ha="center")
    ax.set_xlim(-0.5, len(names) - 0.3)
    low, high = ax.get_ylim()
    if low < 0 < high:
        ax.axhline(0, color="#888888", linewidth=0.7, zorder=0)


def _draw_slopes(ax: Axes, slopes: Sequence[Slope]) -> None:
    """Every participant as a point; the line of the model with the 95 % confidence band of the mean."""
    for number, slope in enumerate(slopes):
        colour = GROUP_COLOURS[(number + 1) % 2 if len(slopes) <= 2 else number % len(GROUP_COLOURS)]
        mark = GROUP_MARKS[number % len(GROUP_MARKS)]
        label = short(slope.name, 24)
        ax.plot(slope.x, slope.y, mark, color=colour, markersize=3.2, alpha=0.55, markeredgewidth=0, label=label)
        if np.isfinite(slope.half).all():
            ax.fill_between(
                slope.at, slope.mean - slope.half, slope.mean + slope.half, color=colour, alpha=0.16, linewidth=0
            )
        ax.plot(slope.at, slope.mean, color=INK if len(slopes) == 1 else colour, linewidth=1.3)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    if len(slopes) == 1:
        ax.set_xlabel(short(slopes[0].name, 30), fontsize=8)
    else:
        ax.legend(fontsize=7, handletextpad=0.2, borderpad=0.1)
