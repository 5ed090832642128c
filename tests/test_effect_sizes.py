"""Effect sizes and their confidence limits, against root finding on scipy's noncentral t and against their formulas."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

import gpuvox
from gpuvox.effect_sizes import cohens_d, partial_eta_squared, partial_r


@pytest.mark.parametrize("df", [3, 15, 200])
def test_limits_of_d_are_those_of_the_noncentral_t(df):
    t = np.array([-5.2, -1.1, 0.0, 0.3, 2.4, 6.1])
    d, lower, upper = cohens_d(t, df, (8, 9))
    factor = np.sqrt(1 / 8 + 1 / 9)
    assert_allclose(d, t * factor)
    for limits, share in ((lower, 0.975), (upper, 0.025)):
        expected = [
            optimize.brentq(lambda delta, x, p: stats.nct.cdf(x, df, delta) - p, x - 8, x + 8, (x, share), 1e-12)
            for x in t
        ]
        assert_allclose(limits, np.array(expected) * factor, atol=1e-6)


def test_limits_of_d_are_monotone_and_finite_for_any_t():
    t = np.linspace(-300, 300, 20001)
    for df in (1, 4, 60):
        d, lower, upper = cohens_d(t, df, (12,))
        assert (np.diff(lower) > 0).all()
        assert (np.diff(upper) > 0).all()
        assert (lower < d).all()
        assert (d < upper).all()
        assert np.isfinite(cohens_d(np.array([1e15, -1e15]), df, (12,))).all()


def test_partial_r_is_the_correlation_of_residuals_with_the_interval_of_fisher():
    rng = np.random.default_rng(1)
    x, y, z = rng.normal(size=(3, 30))
    residuals = [each - np.polyval(np.polyfit(z, each, 1), z) for each in (x, y)]
    expected = np.corrcoef(*residuals)[0, 1]
    df = 27
    t = expected * np.sqrt(df / (1 - expected**2))
    r, lower, upper = partial_r(np.array([t]), df)
    assert_allclose(r, expected)
    half = 1.959963984540054 / np.sqrt(30 - 1 - 3)
    assert_allclose(np.arctanh([lower[0], upper[0]]), np.arctanh(expected) + np.array([-half, half]))


def test_partial_eta_squared_is_a_share_of_sums_of_squares():
    groups = np.random.default_rng(2).normal(size=(3, 10)) + np.arange(3)[:, None]
    between = 10 * ((groups.mean(axis=1) - groups.mean()) ** 2).sum()
    within = ((groups - groups.mean(axis=1, keepdims=True)) ** 2).sum()
    f = stats.f_oneway(*groups).statistic
    assert_allclose(partial_eta_squared(np.array([f]), 2, 27), between / (between + within))


def test_effects_do_not_depend_on_the_units_of_covariates():
    """Cubes of volumes in mm³ and in litres are one model, whose t, estimates and d are the same."""
    rng = np.random.default_rng(0)
    litres, group = rng.normal(1.5, 0.12, 24), np.where(np.arange(24) % 2, "MS", "HC")
    images = (rng.normal(size=(2, 2, 2, 24)) + (group == "MS")).astype(np.float32)
    settings = {"mask": np.ones((2, 2, 2)), "n_permutations": 20, "seed": 1, "tfce": False, "voxel": True}
    maps = []
    for tiv in (litres, litres * 1e6):
        table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(24)], "group": group, "tiv": tiv})
        maps.append(gpuvox.voxelwise(images, table, "group + I(tiv**3)", "MS - HC", **settings).maps)
    for kind in ("t", "effect", "se", "d"):
        assert_allclose(maps[1]["MS - HC", kind], maps[0]["MS - HC", kind], rtol=1e-4)
    assert_allclose(maps[0]["MS - HC", "d"], maps[0]["MS - HC", "t"] * np.sqrt(1 / 12 + 1 / 12), rtol=1e-4)
