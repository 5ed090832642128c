"""TFCE against the naive sum of Smith & Nichols on random maps, and against FSL's own maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from naive import naive_integral, naive_tfce

from gpuvox.grid import Grid
from gpuvox.tfce import Enhancer, LevelOverflow, Tfce, level_table, step_size

CASES = Path(__file__).parent / "data" / "fsl"
POWERS = [(2.0, 0.5), (1.0, 1.0), (0.0, 0.5), (2.0, 0.0), (1.5, 0.67), (0.0, 0.0)]


def enhancer(grid, t, options, cap=1024):
    steps = (step_size(t.max(initial=0), options), step_size((-t).max(initial=0), options))
    return Enhancer(grid, options, steps, cap), steps


def random_map(rng, kind, size):
    t = rng.normal(size=size) * 2
    if kind == "ties":
        t = np.round(t)
    elif kind == "plateaus":
        t = np.repeat(rng.integers(-2, 3, -(-size // 4)), 4)[:size].astype(float)
    elif kind == "one sign":
        t = -np.abs(t)
    return t.astype(np.float32)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("kind", ["continuous", "ties", "plateaus", "one sign"])
def test_random_maps(connectivity, kind):
    """1,080 maps in all: holes, masks at the edge of the grid, slabs, lines and single voxels."""
    rng = np.random.default_rng(connectivity)
    for trial in range(90):
        shape = rng.integers(1, 6, 3)
        mask = rng.random(shape) < rng.choice([0.5, 0.8, 1.0])
        mask.flat[0] = True
        grid = Grid(mask)
        H, E = POWERS[trial % len(POWERS)]
        options = Tfce(H, E, connectivity)
        t = random_map(rng, kind, grid.n_voxels)
        make, steps = enhancer(grid, t, options)
        scores, maxima = make.maps(t[None])[0], make.maxima(t[None])[:, 0]
        for row, sign in enumerate((1, -1)):
            image = grid.to_volume(np.where(np.ones_like(t), sign * t, 0))
            expected = grid.to_vector(naive_tfce(image, np.float32(steps[row]), H, E, connectivity))
            ours = make.to_float(np.maximum(sign * scores, 0), row)
            # The weights take h/δ for the whole number it stands for; FSL's running sum is off by rounding.
            tolerance = 5e-5 if (H, E) == (1.5, 0.67) else 1e-5
            np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=1e-9)
            assert maxima[row] == max((sign * scores).max(initial=0), 0)


def test_a_batch_is_its_maps_one_by_one_and_the_negative_mirrors():
    rng = np.random.default_rng(0)
    grid = Grid(rng.random((12, 11, 10)) < 0.8)
    maps = rng.normal(size=(7, grid.n_voxels)).astype(np.float32) * 2
    make = Enhancer(grid, Tfce(), (0.05, 0.05), 1024)
    whole = make.maps(maps)
    for one, scores in zip(maps, whole):
        np.testing.assert_array_equal(make.maps(one[None])[0], scores)
    np.testing.assert_array_equal(make.maps(-maps), -whole)
    np.testing.assert_array_equal(make.maxima(maps), [whole.max(axis=1), (-whole).max(axis=1)])


def test_noise_in_many_peaks():
    """A map with more peaks than any buffer starts with room for."""
    rng = np.random.default_rng(1)
    grid = Grid(np.ones((24, 23, 22), bool))
    t = rng.normal(size=grid.n_voxels).astype(np.float32)
    for connectivity in (6, 26):
        make, steps = enhancer(grid, t, Tfce(connectivity=connectivity))
        expected = naive_like(grid, t, steps[0], connectivity)
        np.testing.assert_allclose(make.to_float(make.maxima(t[None])[0], 0), expected.max(), rtol=1e-5)


def naive_like(grid, t, delta, connectivity):
    from oracle import tfce

    return tfce(t, grid.mask, np.float32(delta), connectivity=connectivity)


def test_levels_beyond_the_cap_are_reported():
    grid = Grid(np.ones((4, 4, 4), bool))
    t = np.linspace(-3, 3, 64, dtype=np.float32)[None]
    low = Enhancer(grid, Tfce(), (0.01, 0.01), 100)
    with pytest.raises(LevelOverflow) as caught:
        low.maxima(t)
    assert caught.value.needed >= 299
    with pytest.raises(LevelOverflow):
        low.maps(t)
    high = Enhancer(grid, Tfce(), (0.01, 0.01), caught.value.needed)
    assert high.maxima(t).min() > 0


def test_more_levels_than_int16_holds():
    grid = Grid(np.ones((3, 3, 2), bool))
    t = np.random.default_rng(2).normal(size=(1, 18)).astype(np.float32)
    make = Enhancer(grid, Tfce(), (5e-5, 5e-5), 1 << 17)
    expected = naive_like(grid, t[0], 5e-5, 6)
    np.testing.assert_allclose(make.to_float(np.maximum(make.maps(t)[0], 0), 0), expected, rtol=1e-4)


def test_too_many_levels_are_refused():
    with pytest.raises(ValueError, match="larger delta"):
        level_table(1e-9, Tfce(), 100, 1 << 23)


def test_precision_of_the_integers_at_brain_size():
    table = level_table(0.05, Tfce(), 235_000, 512)
    n = np.arange(1, 235_001)
    relative = np.abs(table.sizes[1:235_001] / table.sizes[1] - np.sqrt(n)) / np.sqrt(n)
    assert relative.max() < 2e-9


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize(("H", "E"), [(2.0, 0.5), (1.0, 1.0), (1.5, 0.67)])
def test_exact_integral(connectivity, H, E):
    rng = np.random.default_rng(3)
    grid = Grid(rng.random((5, 4, 4)) < 0.8)
    t = rng.normal(size=grid.n_voxels).astype(np.float32)
    make, _ = enhancer(grid, t, Tfce(H, E, connectivity, exact=True))
    scores = make.maps(t[None])[0]
    for row, sign in enumerate((1, -1)):
        expected = grid.to_vector(naive_integral(grid.to_volume(sign * t), H, E, connectivity))
        np.testing.assert_allclose(np.maximum(sign * scores, 0), expected, rtol=2e-3, atol=1e-6)
        assert make.maxima(t[None])[row, 0] == max((sign * scores).max(), 0)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("two_group_ancova", Tfce()),
        ("tfce_delta", Tfce(delta=0.1)),
        ("tfce_2d_tbss", Tfce(2, 1, 26)),
        ("tfce_c26_h1_e1", Tfce(1, 1, 26)),
    ],
)
def test_fsl_maps(case, options):
    folder = CASES / case
    grid = Grid(nib.load(folder / "mask.nii.gz").get_fdata() > 0)
    for i in (1, 2):
        t = grid.to_vector(nib.load(folder / f"fsl_tstat{i}.nii.gz").get_fdata()).astype(np.float32)
        theirs = grid.to_vector(nib.load(folder / f"fsl_tfce_tstat{i}.nii.gz").get_fdata())
        make, _ = enhancer(grid, t, options)
        ours = make.to_float(np.maximum(make.maps(t[None])[0], 0), 0)
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * theirs.max())


@pytest.mark.parametrize("wrong", [{"H": -1}, {"E": -0.5}, {"connectivity": 8}, {"delta": 0.0}, {"delta": np.inf}])
def test_refusals(wrong):
    with pytest.raises(ValueError, match=r"TFCE|connectivity|delta|H|E"):
        Tfce(**wrong)


def test_exponents_may_be_integers():
    grid, stat = Grid(np.ones((3, 3, 3), dtype=bool)), np.arange(27, dtype=np.float32)[None]
    for exact in (False, True):
        one, other = (Enhancer(grid, Tfce(H=h, E=e, exact=exact), (1.0, 1.0)) for h, e in ((2, 1), (2.0, 1.0)))
        np.testing.assert_array_equal(one.maps(stat), other.maps(stat))
