"""Shapes of the deep gray matter and the ventricles, as smooth surfaces given by formulas; mm, MNI-like coordinates.

x points right, y anterior, z superior; each shape is that of the right side, and its mirror image that of the left.
A shape is a function of (|x|, y, z) that is below 1 inside:

* the thalamus: an egg whose axis runs from the front near the midline back and outwards, with its thick end, the
  pulvinar, behind; the third ventricle lies along its medial wall;
* the caudate: a tube that tapers from the head beside the frontal horn, along the body on the wall of the lateral
  ventricle above the thalamus, to the tail that curves down, outwards and forwards again;
* the putamen: a lens, convex outwards, whose medial face is hollow; the pallidum: a wedge in that hollow, which
  points inwards;
* the lateral ventricle: a tube from the frontal horn over the thalamus to the atrium; the third ventricle: a slit.

`SIZES` scales them to the volumes of healthy controls that Pontillo et al. 2021 print.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.interpolate import CubicSpline

from gpuvox.types import Bools, Float64

# Points of the middle of a tube with its radius, mm, from front to back.
CAUDATE = (
    (10.5, 21.0, 0.0, 4.6), (12.5, 17.5, 5.5, 7.2), (14.0, 11.0, 10.0, 6.8), (15.8, 3.0, 14.6, 5.4),
    (18.2, -7.0, 19.4, 4.2), (20.6, -17.0, 21.0, 3.3), (24.2, -27.0, 18.4, 2.7), (28.6, -33.4, 11.0, 2.3),
    (31.6, -34.0, 2.4, 2.1), (32.6, -29.0, -5.6, 2.0), (31.6, -20.5, -11.4, 2.0), (29.6, -11.5, -14.6, 1.9),
)  # fmt: skip
VENTRICLE = (
    (4.6, 28.0, 3.0, 1.6), (5.2, 22.0, 8.0, 3.2), (5.4, 13.0, 14.5, 3.7), (6.0, 2.0, 20.2, 3.5),
    (8.0, -10.0, 23.6, 3.6), (12.2, -21.0, 24.0, 4.0), (18.6, -31.0, 19.6, 4.8), (23.4, -37.0, 11.6, 4.6),
    (25.6, -40.0, 3.6, 3.6),
)  # fmt: skip
SIZES = {"thalamus": 1.019, "caudate": 0.911, "putamen": 1.0985, "pallidum": 1.0133}
"""Factor of the radii of each shape."""


@cache
def _spline(points: tuple[tuple[float, float, float, float], ...]) -> Float64:
    """(samples, 4) A smooth curve through points, with its radius: one sample for every 0.8 mm, roughly."""
    through = np.array(points)
    steps = np.append(0, np.cumsum(np.linalg.norm(np.diff(through[:, :3], axis=0), axis=1)))
    return np.asarray(CubicSpline(steps, through)(np.arange(0, steps[-1], 0.8)))


def _tube(points: tuple[tuple[float, float, float, float], ...], x: Float64, y: Float64, z: Float64) -> Float64:
    """Squared distance from a curve over its squared radius there, the least over the curve."""
    least = np.full(x.shape, np.inf)
    for cx, cy, cz, radius in _spline(points):
        reach = 3 * radius
        near = (np.abs(x - cx) < reach) & (np.abs(y - cy) < reach) & (np.abs(z - cz) < reach)
        d = ((x[near] - cx) ** 2 + (y[near] - cy) ** 2 + (z[near] - cz) ** 2) / radius**2
        least[near] = np.minimum(least[near], d)
    return least


def thalamus_axes(x: Float64, y: Float64, z: Float64) -> tuple[Float64, Float64, Float64]:
    """Coordinates in the thalamus, −1 to 1: across (medial to lateral), along (back to front), and up."""
    angle = np.deg2rad(20.0)
    dx, dy = x - 13.2, y + 18.6
    along = (dy * np.cos(angle) - dx * np.sin(angle)) / 19.0
    across = dx * np.cos(angle) + dy * np.sin(angle)
    behind = np.clip(-along, -1.2, 1.2)
    width = 10.6 * (1 + 0.16 * behind - 0.10 * behind**2)
    height = 12.8 * (1 + 0.06 * behind - 0.12 * behind**2)
    return across / width, along, (z - 7.4 - 2.2 * along) / height


def _thalamus(x: Float64, y: Float64, z: Float64) -> Float64:
    across, along, up = thalamus_axes(x, y, z)
    return across**2 + along**2 + up**2


def _putamen(x: Float64, y: Float64, z: Float64) -> Float64:
    """A lens that leans outwards at its back, less the hollow in which the pallidum lies."""
    angle = np.deg2rad(14.0)
    dx, dy, dz = x - 29.2, y - 2.6, z - 1.4
    along = (dy * np.cos(angle) - dx * np.sin(angle)) / 19.6
    across = dx * np.cos(angle) + dy * np.sin(angle)
    up = (dz - 0.6) / (12.4 - 2.2 * along**2)
    # The surfaces of a lens: both faces bend outwards with the distance from the middle.
    bend = 2.6 * along**2 + 2.2 * up**2
    return ((across + bend) / 6.2) ** 2 + along**2 + up**2


def _pallidum(x: Float64, y: Float64, z: Float64) -> Float64:
    """A wedge whose base lies on the medial face of the putamen, and which points inwards."""
    angle = np.deg2rad(26.0)
    dx, dy, dz = x - 21.4, y - 1.0, z + 0.6
    along = (dy * np.cos(angle) - dx * np.sin(angle)) / 10.6
    across = (dx * np.cos(angle) + dy * np.sin(angle)) / 6.0
    narrow = 1 + 0.34 * np.clip(across, -1.2, 1.2)
    return across**2 + (along / narrow) ** 2 + (dz / (8.6 * narrow)) ** 2


def inside(x: Float64, y: Float64, z: Float64) -> dict[str, Bools]:
    """Where each shape is; earlier ones have a voxel where they meet.

    Parameters
    ----------
    x, y, z : (…) float64
        mm.

    Returns
    -------
    dict of str to (…) bool
        ``ventricle``, ``thalamus``, ``caudate``, ``pallidum``, ``putamen``, of both sides.
    """
    right = np.abs(x)
    third = ((right / 2.4) ** 2 + ((y + 11.0) / 15.5) ** 2 + ((z - 1.5) / 11.0) ** 2) <= 1
    values = {"thalamus": _thalamus(right, y, z), "caudate": _tube(CAUDATE, right, y, z),
              "pallidum": _pallidum(right, y, z), "putamen": _putamen(right, y, z)}  # fmt: skip
    found = {"ventricle": third | (_tube(VENTRICLE, right, y, z) <= 1)}
    taken = found["ventricle"].copy()
    taken |= right < 1.2  # the midline belongs to neither side
    for name, value in values.items():
        found[name] = (value <= SIZES[name] ** 2) & ~taken
        taken = taken | found[name]
    return found
