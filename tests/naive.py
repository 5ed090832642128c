"""Definitions written out as plainly as possible, on images: what the fast code is measured against.

Nothing here comes from gpuvox. Connected components by flood fill; threshold-free cluster enhancement as the
sum of Smith & Nichols (NeuroImage 44:83-98, 2009, eq. 1) over steps of height delta, as FSL takes it: the
thresholds 0, delta, 2 delta, ... are summed in float32, a voxel above a threshold adds extent^E * height^H,
and there is no factor delta.
"""

from __future__ import annotations

import itertools

import numpy as np


def naive_steps(connectivity):
    """Steps to the neighbours that share a face (6), an edge too (18), a corner too (26)."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    cube = itertools.product((-1, 0, 1), repeat=3)
    return [step for step in cube if 0 < sum(abs(s) for s in step) <= reach]


def naive_components(inside, connectivity=26):
    """(labels, n): components 1 ... n of a boolean image by their first voxel, x fastest; 0 outside."""
    labels = np.zeros(inside.shape, dtype=int)
    steps = naive_steps(connectivity)
    n = 0
    for z, y, x in itertools.product(*(range(size) for size in inside.shape[::-1])):
        if not inside[x, y, z] or labels[x, y, z]:
            continue
        n += 1
        labels[x, y, z] = n
        stack = [(x, y, z)]
        while stack:
            here = stack.pop()
            for step in steps:
                there = tuple(h + s for h, s in zip(here, step))
                if any(t < 0 or t >= size for t, size in zip(there, inside.shape)):
                    continue
                if inside[there] and not labels[there]:
                    labels[there] = n
                    stack.append(there)
    return labels, n


def naive_extent(inside, connectivity=26):
    """Number of voxels of the component of each voxel; 0 outside."""
    labels, n = naive_components(inside, connectivity)
    sizes = np.bincount(labels.ravel(), minlength=n + 1)
    sizes[0] = 0
    return sizes[labels]


def naive_tfce(image, delta, H=2.0, E=0.5, connectivity=6):
    """TFCE of the positive part of an image, in steps of delta. Voxels outside a mask must be <= 0."""
    image = np.asarray(image, dtype=np.float32)
    enhanced = np.zeros(image.shape)
    if not delta or image.size == 0:
        return enhanced
    delta, height = np.float32(delta), np.float32(0)
    while (image > height).any():
        above = image > height
        extent = naive_extent(above, connectivity)[above].astype(float)
        enhanced[above] += extent**E * float(height) ** H
        height = np.float32(height + delta)
    return enhanced


def naive_integral(image, H=2.0, E=0.5, connectivity=6, steps=4000):
    """The same with delta → 0 and the factor delta: the integral of extent(h)^E h^H dh by the midpoint rule.

    Between two neighbouring values of the image the extent does not change: each such stretch is cut into its
    share of `steps` slices.
    """
    image = np.asarray(image, dtype=float)
    enhanced = np.zeros(image.shape)
    knots = np.unique(np.append(image[image > 0], 0.0))
    for low, high in itertools.pairwise(knots):
        slices = max(20, int(steps * (high - low) / knots[-1]))
        heights = low + (np.arange(slices) + 0.5) * (high - low) / slices
        above = image > low
        extent = naive_extent(above, connectivity)[above].astype(float)
        enhanced[above] += extent**E * (heights**H).sum() * (high - low) / slices
    return enhanced
