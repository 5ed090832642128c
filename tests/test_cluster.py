"""Clusters against flood fill: extent, mass, labels; thresholds are inclusive."""

from __future__ import annotations

import numpy as np
import pytest
from naive import naive_components

from gpuvox.cluster import cluster_lists, cluster_maps, cluster_maxima, label
from gpuvox.errors import InputError
from gpuvox.grid import Grid


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_random_maps(connectivity):
    rng = np.random.default_rng(connectivity)
    for trial in range(60):
        grid = Grid(rng.random(rng.integers(1, 7, 3)) < 0.85)
        if not grid.n_voxels:
            continue
        t = rng.normal(size=(2, grid.n_voxels)).astype(np.float32) * 2
        if trial % 3 == 0:
            t = np.round(t)
        extent, mass = cluster_maps(t, grid, 1.0, connectivity)
        top_extent, top_mass = cluster_maxima(t, grid, 1.0, connectivity)
        for b in range(2):
            for row, sign in enumerate((1, -1)):
                image = grid.to_volume(sign * t[b])
                labels, n = naive_components(image >= 1, connectivity)
                sizes = np.bincount(labels.ravel(), minlength=n + 1)
                sums = np.bincount(labels.ravel(), image.ravel().astype(float), minlength=n + 1)
                sizes[0] = sums[0] = 0
                np.testing.assert_array_equal(np.maximum(sign * extent[b], 0), grid.to_vector(sizes[labels]))
                np.testing.assert_allclose(np.maximum(sign * mass[b], 0), grid.to_vector(sums[labels]), rtol=1e-12)
                assert top_extent[row, b] == sizes.max()
                np.testing.assert_allclose(top_mass[row, b], sums.max(), rtol=1e-12)


@pytest.mark.parametrize("threshold", [0.25, 1.0, 9.0])  # nearly all voxels, some, none
def test_counts_without_maps_are_those_of_the_maps(threshold):
    rng = np.random.default_rng(0)
    grid = Grid(rng.random((8, 7, 6)) < 0.9)
    t = np.round(rng.normal(size=(9, grid.n_voxels)) * 4).astype(np.float32) / 4
    lists = cluster_lists(t, grid, threshold, 6)
    for values, maps in zip((lists.extent, lists.mass), cluster_maps(t, grid, threshold, 6)):
        observed = maps[2]
        maxima, below = lists.maxima_and_below(values, observed)
        assert maxima.dtype == maps.dtype
        for row, sign in enumerate((1, -1)):
            signed, target = np.maximum(sign * maps, 0), np.maximum(sign * observed, 0)
            np.testing.assert_array_equal(maxima[row], signed.max(axis=1))
            np.testing.assert_array_equal(below[row], (signed < target).sum(axis=0))
        assert below.any() == (threshold < 9)


def test_labels_are_numbered_by_size():
    grid = Grid(np.ones((9, 1, 1), bool))
    labels, n = label(np.array([1, 0, 1, 1, 0, 1, 1, 0, -1.0]), grid, 1.0)
    assert n == 3
    np.testing.assert_array_equal(labels, [3, 0, 1, 1, 0, 2, 2, 0, 0])


def test_the_threshold_is_inclusive_in_float32():
    grid = Grid(np.ones((3, 1, 1), bool))
    t = np.array([[np.float32(2.3), np.nextafter(np.float32(2.3), np.float32(0)), 0]], np.float32)
    # float32(2.3) is below 2.3 itself.
    assert cluster_maxima(t, grid, float(np.float32(2.3)))[0][0, 0] == 1
    assert cluster_maxima(t, grid, 2.0)[0][0, 0] == 2


def test_empty_mask_and_refusals():
    empty = Grid(np.zeros((2, 2, 2), bool))
    extent, mass = cluster_maxima(np.zeros((3, 0), np.float32), empty, 1.0)
    assert not extent.any()
    assert not mass.any()
    with pytest.raises(InputError, match="positive"):
        cluster_maxima(np.zeros((1, 0), np.float32), empty, 0.0)
