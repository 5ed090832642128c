"""TFCE against the naive sum of Smith & Nichols on random maps, and against FSL's own maps."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from naive import naive_extent, naive_integral, naive_tfce

from gpuvox.errors import InputError
from gpuvox.grid import Grid
from gpuvox.tfce import (
    CODE_LEVELS,
    Enhancer,
    LevelOverflow,
    Tfce,
    level_table,
    most_levels,
    robust_peak,
    step_size,
)
from tests.selection import few

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
@pytest.mark.parametrize("kind", few(["ties", "one sign", "continuous", "plateaus"], 2))
@pytest.mark.parametrize("trials", [range(30), pytest.param(range(30, 90), marks=pytest.mark.long)])
def test_random_maps(trials, connectivity, kind):
    """1,080 maps in all: holes, masks at the edge of the grid, slabs, lines and single voxels."""
    rng = np.random.default_rng([connectivity, trials.start])
    for trial in trials:
        shape = rng.integers(1, 6, 3)
        mask = rng.random(shape) < rng.choice([0.5, 0.8, 1.0])
        mask.flat[0] = True
        grid = Grid(mask)
        H, E = POWERS[trial % len(POWERS)]
        options = Tfce(H, E, connectivity)
        t = random_map(rng, kind, grid.n_voxels)
        make, steps = enhancer(grid, t, options)
        scores, maxima = make.enhance(t[None])[0], make.maxima(t[None])[:, 0]
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
    whole = make.enhance(maps)
    for one, scores in zip(maps, whole):
        np.testing.assert_array_equal(make.enhance(one[None])[0], scores)
    np.testing.assert_array_equal(make.enhance(-maps), -whole)
    np.testing.assert_array_equal(make.maxima(maps), [whole.max(axis=1), (-whole).max(axis=1)])


def below_one_by_one(maps, observed):
    """(2, V) Maps below the observed value: of either sign, what is of the other sign is 0."""
    pairs = [(np.maximum(sign * maps, 0), np.maximum(sign * observed, 0)) for sign in (1, -1)]
    return np.stack([(values < target).sum(axis=0) for values, target in pairs])


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_counts_without_maps_are_those_of_the_maps(connectivity):
    """Plateaus and ties with the observed map; one map above the tables, which is finished on its own."""
    rng = np.random.default_rng(connectivity)
    grid = Grid(rng.random((11, 10, 9)) < 0.8)
    maps = np.round(rng.normal(size=(12, grid.n_voxels)) * 8).astype(np.float32) / 4
    maps[3, :] *= 40
    maps[7] = maps[0]
    for steps, cap in (((0.05, 0.07), 512), ((0.05, 0.0), 512), ((0.0005, 0.0007), 1 << 17)):
        make = Enhancer(grid, Tfce(connectivity=connectivity), steps, cap, most=cap)
        scores, maxima = make.enhance(maps), make.maxima(maps)
        counted, below = make.maxima_and_below(maps, scores[0])
        np.testing.assert_array_equal(counted, maxima)
        np.testing.assert_array_equal(below, below_one_by_one(scores, scores[0]))
        assert below.max() > 3


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
        low.enhance(t)
    with pytest.raises(LevelOverflow):
        low.maxima_and_below(t, np.ones(64, np.int64))
    high = Enhancer(grid, Tfce(), (0.01, 0.01), caught.value.needed)
    assert high.maxima(t).min() > 0


@pytest.mark.long
def test_more_levels_than_int16_holds():
    grid = Grid(np.ones((3, 3, 2), bool))
    t = np.random.default_rng(2).normal(size=(1, 18)).astype(np.float32)
    make = Enhancer(grid, Tfce(), (5e-5, 5e-5), 1 << 17)
    expected = naive_like(grid, t[0], 5e-5, 6)
    np.testing.assert_allclose(make.to_float(np.maximum(make.enhance(t)[0], 0), 0), expected, rtol=1e-4)


def test_too_many_levels_are_refused():
    with pytest.raises(InputError, match="larger delta"):
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
    scores = make.enhance(t[None])[0]
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
        ours = make.to_float(np.maximum(make.enhance(t[None])[0], 0), 0)
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * theirs.max())


@pytest.mark.parametrize(
    "wrong", [{"H": -1}, {"E": -0.5}, {"connectivity": 8}, {"delta": 0.0}, {"delta": np.inf}, {"delta": "fine"}]
)
def test_refusals(wrong):
    with pytest.raises(InputError, match=r"TFCE") as raised:
        Tfce(**wrong)
    names = {"H": "--tfce_H", "E": "--tfce_E", "connectivity": "--tfce_C", "delta": "--tfce_D"}
    assert [raised.value.option] == [names[name] for name in wrong]


def test_exponents_may_be_integers():
    grid, stat = Grid(np.ones((3, 3, 3), dtype=bool)), np.arange(27, dtype=np.float32)[None]
    for exact in (False, True):
        one, other = (Enhancer(grid, Tfce(H=h, E=e, exact=exact), (1.0, 1.0)) for h, e in ((2, 1), (2.0, 1.0)))
        np.testing.assert_array_equal(one.enhance(stat), other.enhance(stat))


# -- statistics of any size -----------------------------------------------------------------------------------------


def spiked(rng, shape, height):
    """A smooth map of both signs, with voxels far above the others."""
    grid = Grid(rng.random(shape) < 0.9)
    t = rng.normal(size=grid.n_voxels).astype(np.float32)
    high = rng.choice(grid.n_voxels, 9, replace=False)
    t[high] = height * np.float32([1, 1, 0.5, 0.999, 1, -1, -0.3, 1, -1])
    return grid, t


@pytest.mark.parametrize("connectivity", [6, pytest.param(26, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("H", "E"),
    [(2.0, 0.5), *(pytest.param(*each, marks=pytest.mark.long) for each in ((1.0, 1.0), (0.0, 0.5), (1.5, 0.67)))],
)
def test_a_map_far_above_the_tables_has_the_naive_sum(H, E, connectivity):
    """In steps that the naive sum can still take one by one; all other voxels are as in a map that has no spikes."""
    rng = np.random.default_rng(connectivity)
    for trial in range(4):
        grid, t = spiked(rng, (6, 5, 4), 90.0)
        options, steps = Tfce(H, E, connectivity), (0.05, 0.0 if trial == 3 else 0.07)
        make = Enhancer(grid, options, steps, 512, most=512)
        scores, maxima = make.enhance(np.stack([t, t / 50]))[0], make.maxima(np.stack([t, t / 50]))
        ordinary = make.enhance((t / 50)[None])  # beside a map that is not
        np.testing.assert_array_equal(ordinary.max(), maxima[0, 1])
        for row, sign in enumerate((1, -1)):
            expected = grid.to_vector(naive_tfce(grid.to_volume(sign * t), steps[row], H, E, connectivity))
            tolerance = 5e-5 if H == 1.5 else 1e-5
            np.testing.assert_allclose(
                make.to_float(np.maximum(sign * scores, 0), row), expected, rtol=tolerance, atol=1e-9
            )
            assert maxima[row, 0] == max((sign * scores).max(), 0)
        large = Enhancer(grid, options, steps, 2048)
        np.testing.assert_allclose(make.to_float(scores), large.to_float(large.enhance(t[None])[0]), rtol=2e-5)


@pytest.mark.parametrize("height", [3e4, 4e7, 1e12, 1e30])
def test_enormous_statistics_finish_and_leave_the_others_alone(height):
    rng = np.random.default_rng(1)
    grid, t = spiked(rng, (7, 6, 5), height)
    make = Enhancer(grid, Tfce(), (0.05, 0.05), most=512)
    quiet = np.where(np.abs(t) > 10, np.sign(t) * np.float32(10), t).astype(np.float32)  # joined in the same way
    scores, usual = make.enhance(t[None])[0], make.enhance(quiet[None])[0]
    ordinary = np.abs(t) < 10
    np.testing.assert_array_equal(scores[ordinary], usual[ordinary])
    assert (scores[t > 10] > usual.max()).all()
    order = np.argsort(t[t > 10])
    worth = make.to_float(scores[t > 10])[order]
    assert np.isfinite(worth).all()
    assert (np.diff(worth)[np.diff(t[t > 10][order]) > 0] > 0).all()
    # A voxel by itself, in closed form.
    alone = Grid(np.ones((1, 1, 1), bool))
    one = Enhancer(alone, Tfce(), (0.05, 0.05), most=512)
    if height < 1e5:
        level = height / 0.05
        expected = 0.05**2 * level**3 / 3
        assert one.to_float(one.maxima(np.array([[height]], np.float32)))[0, 0] == pytest.approx(
            expected, rel=2e-2
        )
    more = np.array([[height], [np.nextafter(np.float32(height), np.float32(np.inf)) * 1.01]], np.float32)
    low, high = one.maxima(more)[0]
    assert low < high


def test_the_largest_table_keeps_ordinary_maps_exact():
    """2^22 levels would leave no bits for heights under 4,000 steps: an ordinary map would be 0 everywhere."""
    coarse = level_table(0.05, Tfce(), 235_000, 1 << 22)
    assert not coarse.weights[1000]
    for n_voxels in (50, 20_000, 235_000, 2_000_000):
        cap = most_levels(Tfce(), n_voxels)
        assert 2048 <= cap <= CODE_LEVELS
        table = level_table(0.05, Tfce(), n_voxels, cap)
        n = np.arange(1, n_voxels + 1, max(1, n_voxels // 1000))
        np.testing.assert_allclose(table.sizes[n] / table.sizes[1], np.sqrt(n), rtol=2e-6)
        k = np.arange(1, 200)
        np.testing.assert_allclose(np.diff(table.weights[:200]), k**2 * table.unit, rtol=1e-6)


def test_a_map_exactly_as_high_as_the_table_is_no_overflow():
    grid = Grid(np.ones((4, 4, 1), bool))
    table = level_table(0.1, Tfce(), 16, 512)
    for edge in (table.thresholds[-1], np.nextafter(table.thresholds[-1], np.float32(0))):
        t = np.linspace(0, edge, 16, dtype=np.float32)[None]
        scores = Enhancer(grid, Tfce(), (0.1, 0.1)).enhance(t)[0]
        assert scores[-1] > scores[-2] > 0
    with pytest.raises(LevelOverflow):
        Enhancer(grid, Tfce(), (0.1, 0.1)).enhance(np.nextafter(t, np.float32(np.inf)) * np.float32(1.001))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("options", [Tfce(), Tfce(exact=True)])
def test_values_that_are_not_finite_are_refused(wrong, options):
    grid = Grid(np.ones((4, 4, 4), bool))
    t = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    t[1, 30] = wrong
    make = Enhancer(grid, options, (0.1, 0.1))
    for call in (make.enhance, make.maxima):
        with pytest.raises(InputError, match="finite"):
            call(t)


def tree_of_fractions(grid, t, connectivity, E, H):
    """The exact integral by components at every height: sums of positive terms, in rational arithmetic for H."""
    image = grid.to_volume(t)
    heights = sorted({Fraction(float(v)) for v in t if v > 0}, reverse=True)
    total = np.zeros(image.shape, dtype=object) + Fraction(0)
    for high, low in zip(heights, [*heights[1:], Fraction(0)]):
        extent = naive_extent(image >= float(high), connectivity)
        gain = (high ** (H + 1) - low ** (H + 1)) / (H + 1)
        for at in zip(*np.nonzero(extent)):
            total[at] += Fraction(float(extent[at]) ** E) * gain
    return grid.to_vector(total.astype(float))


@pytest.mark.parametrize(("top", "low"), [(30.0, 1e-4), (100.0, 1e-5), (1000.0, 1e-6), (4e7, 1e-3)])
def test_the_exact_integral_of_low_voxels_beside_high_peaks(top, low):
    """Every voxel to 1e-9, whatever it is joined to."""
    rng = np.random.default_rng(0)
    x = np.full((5, 5, 4), low) * (1 + rng.random((5, 5, 4)))
    x[1:4, 1:4, 1:3] = top * np.linspace(0.5, 1, 18).reshape(3, 3, 2)
    x[:, 0] *= -1
    grid = Grid(np.ones(x.shape, bool))
    t = grid.to_vector(x.astype(np.float32))
    scores = Enhancer(grid, Tfce(exact=True, connectivity=26), (1.0, 1.0)).enhance(t[None])[0]
    for sign in (1, -1):
        expected = tree_of_fractions(grid, sign * t, 26, 0.5, 2)
        np.testing.assert_allclose(np.maximum(sign * scores, 0), expected, rtol=1e-9, atol=0)


# -- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_voxels", [30, 500, 200_000])
def test_the_robust_step_is_fsls_on_ordinary_maps(n_voxels):
    rng = np.random.default_rng(n_voxels)
    noise = rng.standard_t(20, n_voxels)
    effects = {"none": noise, "strong": noise + 12 * (np.arange(n_voxels) < n_voxels // 20)}
    focal = noise.copy()
    focal[:3] = 45
    everywhere = noise * 5 + 70 * (np.arange(n_voxels) < n_voxels // 3)
    for name, t in (effects | {"focal": focal, "very strong": everywhere}).items():
        assert step_size(robust_peak(t), Tfce(delta="robust")) == step_size(t.max(), Tfce()), name
    assert robust_peak(-np.abs(noise)) <= 0


@pytest.mark.parametrize("n_voxels", [12, 30, 500, 200_000])
@pytest.mark.parametrize("n_outliers", [1, 3])
def test_the_robust_step_is_not_led_by_outliers(n_voxels, n_outliers):
    t = np.random.default_rng(n_voxels).standard_t(20, n_voxels)
    usual = max(50.0, t.max())
    t[:n_outliers] = 4e7
    assert robust_peak(t) <= usual
    assert step_size(robust_peak(t), Tfce(delta="robust")) == np.float32(0.5)


@pytest.mark.parametrize("options", [Tfce(H=60.0), Tfce(H=60.0, exact=True)])
def test_what_double_precision_cannot_hold_is_refused(options):
    grid = Grid(np.ones((3, 3, 3), bool))
    t = np.full((1, 27), 1e7, np.float32)
    with pytest.raises(InputError, match=r"H = 60 and E = 0\.5 of a map this high is beyond double precision"):
        Enhancer(grid, options, (1e-3, 1e-3), most=512).maxima(t)
