"""A picture of a design and of the correlations of its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuvox.findings.figures import INK, Axes, Figure, Saved, draw_design, own_style, saved
from gpuvox.plain import escaped
from gpuvox.types import Float64

MOST_WITH_NUMBERS = 12
"""Columns up to which correlations are printed in their cells."""
MOST_NAMED = 60
"""Columns up to which all have their names."""


def correlations(matrix: Float64) -> Float64:
    """(p, p) Pearson correlations of the columns of a design; NaN for constant columns."""
    centred = matrix - matrix.mean(axis=0)
    size = np.sqrt((centred**2).sum(axis=0))
    size[size <= 1e-9 * np.sqrt((matrix**2).sum(axis=0))] = np.nan
    r: Float64 = np.clip((centred / size).T @ (centred / size), -1, 1)
    return r


def design_picture(matrix: Float64, names: Sequence[str], rows: str) -> Saved:
    """The design, a row for each image, and beside it the correlations of its columns.

    Parameters
    ----------
    matrix : (n, p) float64
    names : sequence of str
        Of the columns.
    rows : str
        What the rows are, for the axis: ``16 rows``.
    """
    p, full = matrix.shape[1], names
    names = [_end_of(name) for name in names] if p <= MOST_NAMED else [""] * p
    letters = max(map(len, names))
    # Inches: of a panel, of the room for names below it and on its left, and between the panels.
    width, height = min(max(0.42 * p, 1.6), 6.0), min(max(0.42 * p, 3.2), 6.0)
    below, left, gap = 0.3 + 0.055 * letters, max(0.35, 0.06 * letters), 0.35 + 0.072 * letters
    total = left + 2 * width + gap + 0.9, below + height + 0.45
    r = correlations(matrix)
    with own_style():
        figure = Figure(figsize=total, facecolor="white")
        first = figure.add_axes((left / total[0], below / total[1], width / total[0], height / total[1]))
        place = (left + width + gap) / total[0]
        second = figure.add_axes((place, below / total[1], width / total[0], height / total[1]))
        bar = figure.add_axes(
            (place + (width + 0.15) / total[0], below / total[1], 0.12 / total[0], height / total[1])
        )
        draw_design(first, matrix, names, rows)
        first.set_title("design", fontsize=9, loc="left")
        shown = second.imshow(r, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        second.set_title("correlations of its columns", fontsize=9, loc="left")
        _name_cells(second, r, names)
        figure.colorbar(shown, cax=bar, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.tick_params(labelsize=7.5)
    return saved(figure, "design", _describe(r, full), vector=True)


def _end_of(name: str, length: int = 18) -> str:
    """The end of a name, by which the levels of one factor differ."""
    text = escaped(name)
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _name_cells(ax: Axes, r: Float64, names: Sequence[str]) -> None:
    p = len(names)
    ax.set_xticks(range(p), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
    ax.set_yticks(range(p), names, fontsize=7.5)
    ax.set_facecolor("#dddddd")  # constant columns have no correlation
    for spine in ax.spines.values():
        spine.set_visible(True)
    if p <= MOST_WITH_NUMBERS:
        for i, j in np.argwhere(np.isfinite(r)).tolist():
            colour = "white" if abs(r[i, j]) > 0.6 else INK
            text = f"{r[i, j]:.2f}".replace("-", "−")
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)


def _describe(r: Float64, names: Sequence[str]) -> str:
    """The alternative text: the columns, and the two that are most alike."""
    text = f"Design with the columns {', '.join(names)}, and their correlations"
    apart = np.abs(np.where(np.isfinite(r), np.triu(r, 1), 0.0))
    if not apart.any():
        return text
    i, j = divmod(int(np.argmax(apart)), len(names))
    return f"{text}; the largest is {r[i, j]:.2f}, of {names[i]} and {names[j]}"
