"""Masked Gaussian smoothing against scipy in float64, and the variance smoothing of FSL randomise.

The oracle smooths dense volumes with scipy.ndimage, kernel written out here, and knows nothing of gpuvox.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from gpuvox.errors import InputError
from gpuvox.grid import Grid
from gpuvox.smooth import MaskedGaussian, gaussian_weights, half_width

CASE = Path(__file__).parent / "data" / "fsl" / "variance_smoothing"


def dense(volume, sigmas, widths):
    """Separable truncated Gaussian of a float64 volume, zero outside."""
    for axis, (sigma, width) in enumerate(zip(sigmas, widths)):
        x = np.arange(-width, width + 1)
        volume = correlate1d(volume, np.exp(-(x**2) / (2 * sigma**2)), axis=axis, mode="constant", cval=0.0)
    return volume


def oracle(volume, mask, voxel_size, sigma_mm, widths=None):
    """Smoothed values of the voxels of the mask, as a volume with zero outside."""
    sigmas = [sigma_mm / size for size in voxel_size]
    if widths is None:
        widths = [2 * int(sigma - 0.001) + 3 for sigma in sigmas]
    smoothed = dense(np.where(mask, volume, 0.0), sigmas, widths)
    return np.where(mask, smoothed / np.where(mask, dense(mask.astype(float), sigmas, widths), 1.0), 0.0)


def random_mask(rng, shape, share):
    mask = rng.random(shape) < share
    mask[tuple(rng.integers(0, n) for n in shape)] = True
    return mask


@pytest.mark.parametrize(
    ("sigma_voxels", "width"),
    [(0.2, 3), (0.9, 3), (1.0, 3), (1.002, 5), (1.5, 5), (2.0, 5), (2.5, 7), (4.2, 11)],
)
def test_half_width(sigma_voxels, width):
    assert half_width(sigma_voxels) == width
    weights = gaussian_weights(sigma_voxels)
    assert weights.shape == (width + 1,)
    assert weights[0] + 2 * weights[1:].sum() == pytest.approx(1, abs=1e-6)
    assert weights[2] / weights[1] == pytest.approx(np.exp(-1.5 / sigma_voxels**2), rel=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 11)] * 3),
    share=st.sampled_from([0.02, 0.3, 0.9, 1.0]),
    voxel_size=st.tuples(*[st.sampled_from([0.8, 1.0, 2.0, 3.3])] * 3),
    sigma_mm=st.sampled_from([0.5, 1.5, 3.0, 8.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_dense_smoothing(shape, share, voxel_size, sigma_mm, seed):
    rng = np.random.default_rng(seed)
    grid = Grid(random_mask(rng, shape, share), voxel_size)
    maps = rng.chisquare(3, (2, grid.n_voxels)).astype(np.float32)
    got = MaskedGaussian(grid, sigma_mm)(maps)
    assert got.dtype == np.float32
    for values, smoothed in zip(maps, got):
        want = oracle(grid.to_volume(values.astype(float)), grid.mask, voxel_size, sigma_mm)
        np.testing.assert_allclose(smoothed, grid.to_vector(want), rtol=1e-6)


def test_mask_that_fills_the_grid_and_a_kernel_wider_than_it():
    rng = np.random.default_rng(1)
    mask = np.ones((4, 3, 5), dtype=bool)
    values = rng.chisquare(3, 60).astype(np.float32)
    grid = Grid(mask, (1.0, 2.0, 0.5))
    want = oracle(grid.to_volume(values.astype(float)), mask, grid.voxel_size, 6.0)
    np.testing.assert_allclose(MaskedGaussian(grid, 6.0)(values), grid.to_vector(want), rtol=1e-6)


def test_signed_maps():
    rng = np.random.default_rng(2)
    grid = Grid(random_mask(rng, (12, 9, 10), 0.6), (2.0, 1.0, 1.5))
    values = rng.normal(size=grid.n_voxels).astype(np.float32)
    want = oracle(grid.to_volume(values.astype(float)), grid.mask, grid.voxel_size, 2.5)
    np.testing.assert_allclose(MaskedGaussian(grid, 2.5)(values), grid.to_vector(want), atol=1e-6)


@pytest.mark.parametrize("value", [1.0, 0.1, 3e-20, 7e8])
def test_a_constant_stays_constant(value):
    grid = Grid(random_mask(np.random.default_rng(3), (14, 13, 12), 0.4), (1.0, 1.2, 3.0))
    smoothed = MaskedGaussian(grid, 2.0)(np.full(grid.n_voxels, value))
    np.testing.assert_allclose(smoothed, value, rtol=5e-7)


def test_mass_is_kept_far_from_the_edge_of_the_mask():
    grid = Grid(np.ones((23, 23, 23), dtype=bool), (1.0, 1.0, 1.0))
    impulse = np.zeros((23, 23, 23))
    impulse[11, 11, 11] = 5.0
    smoothed = MaskedGaussian(grid, 1.5)(grid.to_vector(impulse))
    assert smoothed.sum(dtype=float) == pytest.approx(5.0, rel=1e-6)
    volume = grid.to_volume(smoothed)
    assert volume[11, 11, 16] > 0  # half-width 5
    assert volume[11, 11, 17] == 0
    assert volume[11, 11, 16] == volume[11, 11, 6] == pytest.approx(volume[16, 11, 11], rel=1e-6)


def test_no_wrap_around():
    """The end of a row and the start of the next are neighbours in memory only."""
    mask = np.zeros((40, 3, 3), dtype=bool)
    mask[[0, 39]] = True
    grid = Grid(mask)
    values = np.where(grid.to_vector(np.indices(mask.shape)[0]) == 0, 1.0, 100.0)
    np.testing.assert_allclose(MaskedGaussian(grid, 3.0)(values), values, rtol=1e-6)


def test_one_map_or_several_and_threads_give_the_same_bits():
    rng = np.random.default_rng(4)
    grid = Grid(random_mask(rng, (20, 21, 19), 0.7), (2.0, 2.0, 2.0))
    maps = rng.chisquare(5, (12, grid.n_voxels))
    before = maps.copy()
    smooth = MaskedGaussian(grid, 3.0)
    together = smooth(maps)
    with ThreadPoolExecutor(4) as pool:
        apart = list(pool.map(smooth, maps))
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(maps, before)
    assert smooth(maps[0]).shape == (grid.n_voxels,)
    assert smooth(maps[:0]).shape == (0, grid.n_voxels)


def test_empty_mask():
    assert MaskedGaussian(Grid(np.zeros((3, 3, 3), dtype=bool)), 2.0)(np.zeros((2, 0))).shape == (2, 0)


@pytest.mark.parametrize("sigma_mm", [0, -1.0, np.nan, np.inf])
def test_standard_deviation_must_be_positive(sigma_mm):
    with pytest.raises(InputError, match="standard deviation"):
        MaskedGaussian(Grid(np.ones((2, 2, 2), dtype=bool)), sigma_mm)


def test_voxel_size_must_be_positive():
    with pytest.raises(InputError, match="voxel size"):
        MaskedGaussian(Grid(np.ones((2, 2, 2), dtype=bool), (1.0, 0.0, 1.0)), 1.0)


@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 1, 8), ()])
def test_maps_must_fit_the_mask(shape):
    with pytest.raises(ValueError, match="8 voxels"):
        MaskedGaussian(Grid(np.ones((2, 2, 2), dtype=bool)), 1.0)(np.zeros(shape))


def vest(path):
    return np.loadtxt(path.read_text().split("/Matrix")[1].splitlines(), ndmin=2)


def fsl_case():
    """Contrast 1 by a textbook GLM: t, residual variance; FSL's t with ``-v 3``; mask, voxel size."""
    mask_image = nib.load(CASE / "mask.nii.gz")
    mask = np.asarray(mask_image.dataobj) > 0
    Y = np.asarray(nib.load(CASE / "data.nii.gz").dataobj, dtype=float)[mask].T
    M, c = vest(CASE / "design.mat"), vest(CASE / "design.con")[0]
    beta = np.linalg.pinv(M) @ Y
    variance = ((Y - M @ beta) ** 2).sum(0) / (len(M) - np.linalg.matrix_rank(M))
    t = (c @ beta) / np.sqrt(variance * (c @ np.linalg.inv(M.T @ M) @ c))
    fsl = np.asarray(nib.load(CASE / "fsl_tstat1.nii.gz").dataobj, dtype=float)
    return t, variance, fsl[mask], mask, [float(size) for size in mask_image.header.get_zooms()[:3]]


def in_volume(values, mask):
    volume = np.zeros(mask.shape)
    volume[mask] = values
    return volume


def test_variance_smoothing_is_that_of_fsl():
    t, variance, fsl, mask, voxel_size = fsl_case()
    grid = Grid(mask, tuple(voxel_size))
    smoothed = MaskedGaussian(grid, 3.0)(grid.to_vector(in_volume(variance, mask)))
    pseudo_t = t / np.sqrt(grid.to_volume(smoothed.astype(float))[mask] / variance)
    assert np.abs(pseudo_t - fsl).max() < 5e-7 * np.abs(fsl).max()


def test_fsl_case_tells_half_widths_apart():
    """Establishes the kernel: 5 voxels on either side (11 taps) at σ = 1.5 voxels, neither 4 nor 6."""
    t, variance, fsl, mask, voxel_size = fsl_case()
    error = {}
    for width in (2, 4, 5, 6, 12):
        smoothed = oracle(in_volume(variance, mask), mask, voxel_size, 3.0, widths=[width] * 3)[mask]
        error[width] = np.abs(t / np.sqrt(smoothed / variance) - fsl).max() / np.abs(fsl).max()
    assert error.pop(5) < 2e-7
    assert min(error.values()) > 5e-5


def test_a_kernel_wider_than_the_grid_costs_no_more_than_the_grid():
    """And weighs all voxels alike."""
    grid = Grid(np.random.default_rng(0).random((5, 4, 6)) < 0.8)
    values = np.random.default_rng(1).random(grid.n_voxels).astype(np.float32)
    smooth = MaskedGaussian(grid, 1e12)
    for smoothed in (smooth(values), smooth.exact(values)):
        np.testing.assert_allclose(smoothed, values.mean(dtype=np.float64), rtol=1e-5)
