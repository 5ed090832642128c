"""Pictures of maps: slices through all clusters, projections in a glass brain, and slices of one cluster.

Every picture has its colour bar inside. A pair of tests in opposite directions is shown in one map, one in warm and one
in cool colours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuvox.findings.figures import (
    COOL,
    FADED,
    INK,
    Axes,
    Colormap,
    Figure,
    FigureCanvasAgg,
    LinearSegmentedColormap,
    edges,
    outline,
    own_style,
    short,
    signed,
    statistic_colours,
)
from gpuvox.findings.scene import Scalar, Scene, VoxelwiseTest
from gpuvox.types import Bools, Float64, Floats

WIDTH = 7.2
"""Inches of a picture, as wide as a page."""
BAR = 0.95
"""Inches of the strip with the colour bars."""
MOST_SLICES = 18
PER_ROW = 6
DPI = 300
RED_YELLOW = LinearSegmentedColormap.from_list("red-yellow", ["#ff0000", "#ffff00"])
BLUE_LIGHT_BLUE = LinearSegmentedColormap.from_list("blue-lightblue", ["#0000ff", "#00ffff"])
ON_WHITE = LinearSegmentedColormap.from_list("warm", ["#fdbb6c", "#e8622c", "#8d0d1f"])
COOL_ON_WHITE = LinearSegmentedColormap.from_list("cool", ["#9ccbea", "#3c82c4", "#12305f"])


@dataclass(frozen=True, eq=False)
class Layer:
    """One test in a picture.

    Attributes
    ----------
    colours : Colormap
    low, high : float
        Values at the ends of the colours.
    values : (nx, ny, nz) array
    opacity : (nx, ny, nz) array
        0 to 1.
    label : str
        At the colour bar.
    """

    colours: Colormap
    low: float
    high: float
    values: Floats
    opacity: Floats
    label: str


@dataclass(frozen=True, eq=False)
class Side:
    """One direction of a test, as positive values: a one-sided test, or one sign of a two-sided one."""

    values: Floats
    significant: Bools
    corrected: Floats
    label: str


Test = TypeVar("Test")


def in_pairs(tests: Sequence[Test], are_opposite: Callable[[Test, Test], bool]) -> list[list[int]]:
    """Places of tests that are shown together: a test and the first after it that is its opposite, or it alone."""
    pairs, done = [], set[int]()
    for i, test in enumerate(tests):
        if i in done:
            continue
        other = next((j for j in range(i + 1, len(tests)) if are_opposite(test, tests[j])), None)
        pairs.append([i] if other is None else [i, other])
        done.update(pairs[-1])
    return pairs


def sides_of(tests: Sequence[VoxelwiseTest]) -> list[Side]:
    """The directions that a picture shows, in warm and in cool colours: of one test, or of a pair of tests."""
    (first, *_) = tests
    if not first.two_sided:
        return [
            Side(np.maximum(test.statistic, 0), test.significant, test.corrected, short(test.contrast, 24))
            for test in tests
        ]
    return [
        Side(
            np.maximum(sign * first.statistic, 0), first.significant & (sign * first.statistic > 0), first.corrected,
            f"{short(first.contrast, 20)} {'>' if sign > 0 else '<'} 0",
        )
        for sign in (1, -1)
    ]  # fmt: skip


def statistic_layers(tests: Sequence[VoxelwiseTest], vmax: float) -> list[Layer]:
    """The statistic of a test, or of both directions: opaque where p survives, elsewhere faded."""
    layers = []
    for side, colours in zip(sides_of(tests), (statistic_colours(), COOL)):
        opacity = np.where(side.significant, 1.0, FADED * np.clip(side.values / vmax, 0, 1))
        layers.append(Layer(colours, 0, vmax, side.values, opacity, f"{tests[0].kind}, {side.label}"))
    return layers


def p_layers(tests: Sequence[VoxelwiseTest], level: float) -> list[Layer]:
    """1 − p of a test, or of both directions, where p survives."""
    return [
        Layer(colours, 1 - level, 1, side.corrected, side.significant.astype(np.float64), f"1 − p, {side.label}")
        for side, colours in zip(sides_of(tests), (RED_YELLOW, BLUE_LIGHT_BLUE))
    ]


def blended(scene: Scene, layers: Sequence[Layer], axis: int, at: int) -> Float64:
    """(height, width, 3) A slice with its layers over the underlay; upwards is the first row."""
    grey = np.take(scene.underlay, at, axis).T[::-1, :, None] / 300
    image: Float64 = np.repeat(grey, 3, axis=2)
    for layer in layers:
        share = (np.take(layer.values, at, axis).T[::-1] - layer.low) / (layer.high - layer.low)
        opacity = np.take(layer.opacity, at, axis).T[::-1, :, None]
        image = (1 - opacity) * image + opacity * layer.colours(np.clip(share, 0, 1))[..., :3]
    return image


def slices_through(
    scene: Scene, tests: Sequence[VoxelwiseTest], peaks: Sequence[tuple[int, int, int]]
) -> list[int]:
    """Axial slices to show: through every peak, as far as there is room, and evenly between the first and the last.

    Without survivors: evenly through the mask.
    """
    significant = np.any([test.significant.any(axis=(0, 1)) for test in tests], axis=0)
    inside = np.flatnonzero(significant if significant.any() else scene.mask.any(axis=(0, 1)))
    chosen = list(dict.fromkeys(z for _, _, z in peaks))[:MOST_SLICES]
    wanted = min(MOST_SLICES, max(PER_ROW, len(inside))) if significant.any() else 2 * PER_ROW
    even = inside[np.linspace(0, len(inside) - 1, min(wanted, len(inside))).round().astype(int)].tolist()
    # Even slices fill up, those farthest from a chosen one first.
    while len(chosen) < min(wanted, len(inside)):
        left = [z for z in even if z not in chosen] or [z for z in inside.tolist() if z not in chosen]
        chosen.append(max(left, key=lambda z: min((abs(z - other) for other in chosen), default=0)))
    return sorted(chosen)


def mosaic(scene: Scene, layers: Sequence[Layer], slices: Sequence[int]) -> Figure:
    """Axial slices in rows, from below to above, with the colour bars."""
    rows, columns = -(-len(slices) // PER_ROW), min(PER_ROW, len(slices))
    width, height = (scene.mask.shape[a] * scene.voxel_size[a] for a in (0, 1))
    cell = (WIDTH - BAR) / PER_ROW
    tall = cell * height / width
    size = round(tall * DPI), round(cell * DPI)
    canvas = np.full((rows * size[0], columns * size[1], 4), (0, 0, 0, 255), dtype=np.uint8)
    total = columns * cell + BAR, max(rows * tall, 1.15 * len(layers))
    top = (total[1] + rows * tall) / 2
    with own_style():
        figure, ax = _inches(total, "black")
        for number, z in enumerate(slices):
            row, column = divmod(number, PER_ROW)
            part = canvas[row * size[0] : (row + 1) * size[0], column * size[1] : (column + 1) * size[1]]
            part[..., :3] = _enlarged(_pixels(blended(scene, layers, 2, z)), size)
            where = f"z = {signed(scene.millimetres((0, 0, z))[2])}" if scene.oriented else f"slice {z}"
            left, bottom = column * cell, top - (row + 1) * tall
            outline(ax.text(left + 0.04, bottom + 0.03, where, color="white", fontsize=7.5, va="bottom"))
            if scene.oriented and number == 0:
                _letters(ax, ("L", "R"), (left, left + cell), bottom + tall, "white")
        extent = (0, columns * cell, top - rows * tall, top)
        ax.imshow(canvas, interpolation="none", aspect="auto", extent=extent)
        ax.set(xlim=(0, total[0]), ylim=(0, total[1]))
        _bars(figure, layers, "white", BAR / total[0])
    return figure


def _inches(size: tuple[float, float], colour: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, in inches, over all of it."""
    figure = Figure(figsize=size, dpi=DPI, facecolor=colour)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    return figure, ax


def _letters(ax: Axes, letters: tuple[str, str], ends: tuple[float, float], top: float, ink: str) -> None:
    for x, letter, align in zip((ends[0] + 0.04, ends[1] - 0.04), letters, ("left", "right")):
        drawn = ax.text(x, top - 0.03, letter, color=ink, fontsize=9, weight="bold", ha=align, va="top")
        if ink == "white":
            outline(drawn)


def _enlarged(image: NDArray[Scalar], size: tuple[int, int]) -> NDArray[Scalar]:
    """An image of another size, by nearest neighbour."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, image.shape[:2]))
    return image[rows][:, columns]


def _pixels(image: Float64) -> NDArray[np.uint8]:
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


def _bars(figure: Figure, layers: Sequence[Layer], ink: str, width: float) -> None:
    """Colour bars one above the other, in a strip at the right."""
    share = 1 / len(layers)
    for number, layer in enumerate(layers):
        low = 1 - (number + 1) * share
        ax = figure.add_axes((1 - 0.72 * width, low + 0.12 * share, 0.13 * width, 0.76 * share))
        ax.imshow(
            layer.colours(np.linspace(1, 0, 256))[:, None, :3], aspect="auto", extent=(0, 1, layer.low, layer.high)
        )
        ax.set_xticks([])
        ax.yaxis.tick_right()
        ticks = [layer.low, (layer.low + layer.high) / 2, layer.high]
        ax.set_yticks(ticks, [f"{tick:.4g}" for tick in ticks], color=ink, fontsize=7.5)
        ax.tick_params(axis="y", colors=ink, length=2, pad=2)
        for spine in ax.spines.values():
            spine.set(visible=True, color=ink, linewidth=0.5)
        ax.set_ylabel(layer.label, color=ink, fontsize=7.5, labelpad=3)
        ax.yaxis.set_label_position("left")


# -- glass brain ----------------------------------------------------------------------------------------------------

VIEWS = ((0, (1, 2), ("P", "A")), (1, (0, 2), ("L", "R")), (2, (0, 1), ("L", "R")))
"""Axis of projection, axes that run right and up, and the letters of the edges."""


def glass_brain(scene: Scene, tests: Sequence[VoxelwiseTest], vmax: float) -> Figure:
    """The largest statistic of the surviving voxels along each axis, over the outline of the mask."""
    sizes = [[scene.mask.shape[a] * scene.voxel_size[a] for a in across] for _, across, _ in VIEWS]
    scale = (WIDTH - BAR) / (sum(width for width, _ in sizes) * 1.03)
    tall = max(height for _, height in sizes) * scale
    with own_style():
        figure, ax = _inches((WIDTH, tall), "white")
        left = 0.0
        for (axis, across, letters), (width, height) in zip(VIEWS, sizes):
            right, bottom = left + width * scale, (tall - height * scale) / 2
            extent = (left, right, bottom, bottom + height * scale)
            image = _pixels(_projection(scene, tests, axis, vmax))
            ax.imshow(image, interpolation="none", aspect="auto", extent=extent)
            pixel = (scene.voxel_size[across[0]] * scale, scale * scene.voxel_size[across[1]])
            ax.add_collection(edges(np.asarray(scene.mask.any(axis=axis)).T, pixel, (left, bottom), INK))
            if scene.oriented:
                _letters(ax, letters, (left, right), bottom + height * scale, INK)
            left = right + 0.03 * width * scale
        ax.set(xlim=(0, WIDTH), ylim=(0, tall))
        layers = [
            Layer(colours, 0, vmax, side.values, side.values, f"{tests[0].kind}, {side.label}")
            for side, colours in zip(sides_of(tests), (ON_WHITE, COOL_ON_WHITE))
        ]
        _bars(figure, layers, INK, BAR / WIDTH)
    return figure


def _projection(scene: Scene, tests: Sequence[VoxelwiseTest], axis: int, vmax: float) -> Float64:
    """Over the thickness of the mask, in pale grey; of two tests the larger statistic counts."""
    depth = scene.mask.sum(axis=axis).T[::-1]
    image: Float64 = np.repeat(1 - 0.16 * (depth / max(depth.max(), 1))[..., None], 3, axis=2)
    tops = [np.where(side.significant, side.values, 0).max(axis=axis).T[::-1] for side in sides_of(tests)]
    largest = np.max(tops, axis=0)
    for top, colours in zip(tops, (ON_WHITE, COOL_ON_WHITE)):
        there = (top > 0) & (top == largest)
        image[there] = colours(np.clip(top[there] / vmax, 0, 1))[..., :3]
    return image


# -- one cluster ----------------------------------------------------------------------------------------------------

GAP = 6
PIXELS = 1080
"""Pixels of the three slices of a cluster, side by side."""


def cluster_strip(
    scene: Scene, layers: Sequence[Layer], at: tuple[int, int, int], bar: Float64
) -> NDArray[np.uint8]:
    """(height, width, 3) The three slices through a voxel, with marks at their edges, and the colour bar.

    Parameters
    ----------
    scene : Scene
    layers : sequence of Layer
    at : (int, int, int)
        Voxel of the scene.
    bar : (height, width, 3) float64
        See `bar_strip`.
    """
    per_mm = strip_scale(scene)
    parts = []
    for axis in range(3):
        across, up = (a for a in range(3) if a != axis)
        rows, columns = (round(scene.mask.shape[a] * scene.voxel_size[a] * per_mm) for a in (up, across))
        image = _enlarged(blended(scene, layers, axis, at[axis]), (rows, columns))
        x = int((at[across] + 0.5) / scene.mask.shape[across] * columns)
        y = rows - 1 - int((at[up] + 0.5) / scene.mask.shape[up] * rows)
        if scene.oriented:
            _stamp(image, VIEWS[axis][2])
        for piece in (image[:8, x], image[-8:, x], image[y, :8], image[y, -8:]):
            piece[:] = 1
        parts.append(image)
    parts.append(bar)
    height = max(part.shape[0] for part in parts)
    canvas = np.zeros((height, sum(part.shape[1] for part in parts) + GAP * (len(parts) - 1), 3))
    left = 0
    for part in parts:
        top = (height - part.shape[0]) // 2
        canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
        left += part.shape[1] + GAP
    return _pixels(canvas)


def _stamp(image: Float64, letters: tuple[str, str]) -> None:
    """Letters into the upper corners of an image."""
    for letter, left in zip(letters, (True, False)):
        glyph = _glyph(letter)
        height, width = glyph.shape[:2]
        corner = image[6 : 6 + height, 6 : 6 + width] if left else image[6 : 6 + height, -6 - width : -6]
        corner[:] = np.maximum(corner, glyph[: corner.shape[0], : corner.shape[1]])


@lru_cache
def _glyph(letter: str) -> Float64:
    """A white letter on black, of 20 pixels."""
    figure = Figure(figsize=(0.16, 0.2), dpi=100, facecolor="black")
    figure.text(0.5, 0.5, letter, color="white", fontsize=13, weight="bold", ha="center", va="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0


def strip_scale(scene: Scene) -> float:
    """Pixels per mm of the slices of a cluster."""
    x, y, _ = (scene.mask.shape[a] * scene.voxel_size[a] for a in range(3))
    return PIXELS / (2 * x + y)


def bar_strip(scene: Scene, layers: Sequence[Layer]) -> Float64:
    """The colour bar as pixels, as tall as the slices of a cluster."""
    height = round(max(scene.mask.shape[a] * scene.voxel_size[a] for a in (1, 2)) * strip_scale(scene))
    with own_style():
        figure = Figure(figsize=(BAR, height / 150), dpi=150, facecolor="black")
        _bars(figure, layers, "white", 1.0)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3] / 255.0
