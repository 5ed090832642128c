"""Clinical models against worked examples that others printed, and against scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpuvox.errors import InputError
from gpuvox.study.statistics.least_squares import (
    _corrected,
    adjust_p,
    bootstrap,
    correlation_statistic,
    hierarchical_regression,
    partial_correlation,
    regression_statistic,
)
from gpuvox.study.statistics.power import group_difference, sample_size_correlation, sample_size_groups
from gpuvox.study.statistics.terms import binary

# NIST Statistical Reference Datasets, Longley (1967): deflator, GNP, unemployed, armed, population, year; employed.
LONGLEY = np.array(
    [
        [83.0, 234289, 2356, 1590, 107608, 1947, 60323],
        [88.5, 259426, 2325, 1456, 108632, 1948, 61122],
        [88.2, 258054, 3682, 1616, 109773, 1949, 60171],
        [89.5, 284599, 3351, 1650, 110929, 1950, 61187],
        [96.2, 328975, 2099, 3099, 112075, 1951, 63221],
        [98.1, 346999, 1932, 3594, 113270, 1952, 63639],
        [99.0, 365385, 1870, 3547, 115094, 1953, 64989],
        [100.0, 363112, 3578, 3350, 116219, 1954, 63761],
        [101.2, 397469, 2904, 3048, 117388, 1955, 66019],
        [104.6, 419180, 2822, 2857, 118734, 1956, 67857],
        [108.4, 442769, 2936, 2798, 120445, 1957, 68169],
        [110.8, 444546, 4681, 2637, 121950, 1958, 66513],
        [112.6, 482704, 3813, 2552, 123366, 1959, 68655],
        [114.2, 502601, 3931, 2514, 125368, 1960, 69564],
        [115.7, 518173, 4806, 2572, 127852, 1961, 69331],
        [116.9, 554894, 4007, 2827, 130081, 1962, 70551],
    ]
)
NAMES = ["deflator", "gnp", "unemployed", "armed", "population", "year"]
CERTIFIED = {
    "(intercept)": (-3482258.63459582, 890420.383607373),
    "deflator": (15.0618722713733, 84.9149257747669),
    "gnp": (-0.0358191792925910, 0.0334910077722432),
    "unemployed": (-2.02022980381683, 0.488399681651699),
    "armed": (-1.03322686717359, 0.214274163161675),
    "population": (-0.0511041056535807, 0.226073200069370),
    "year": (1829.15146461355, 455.478499142212),
}


def longley():
    return pd.DataFrame(LONGLEY[:, :6], columns=NAMES), LONGLEY[:, 6]


def test_regression_gives_nists_certified_values():
    X, y = longley()
    *_, last = hierarchical_regression(y, {"first": X[NAMES[:2]], "second": X[NAMES[2:]]})
    for name, (b, se) in CERTIFIED.items():
        assert last.coefficients.loc[name, "B"] == pytest.approx(b, rel=1e-6)
        assert last.coefficients.loc[name, "se"] == pytest.approx(se, rel=1e-6)
    assert last.r2 == pytest.approx(0.995479004577296, rel=1e-10)
    (whole,) = hierarchical_regression(y, {"all": X})
    assert whole.f_change == pytest.approx(330.285339234588, rel=1e-6)
    assert whole.df_change == (6, 9)
    t = last.coefficients["B"] / last.coefficients["se"]
    np.testing.assert_allclose(last.coefficients["t"], t)
    np.testing.assert_allclose(last.coefficients["p"], 2 * stats.t.sf(abs(t), 9), rtol=1e-9)
    half = stats.t.ppf(0.975, 9) * last.coefficients["se"]
    np.testing.assert_allclose(last.coefficients["high"] - last.coefficients["B"], half, rtol=1e-9)


# NIST Statistical Reference Datasets, Norris: y, x; and Wampler4: y of x = 0 … 20, a polynomial of degree 5.
NORRIS = np.array(
    """0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6 778.9 777.0
    559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 556.0 228.3 228.1
    998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2 998.5 999.0 778.9 779.0
    10.2 11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5""".split(),
    dtype=float,
).reshape(-1, 2)
WAMPLER4 = np.array(
    """75901 -204794 204863 -204436 253665 -200894 214131 -185192 221249 -138370 315911 -27644 455253 197434 783995
    608816 1370781 1303798 2205519 2408860 3444321""".split(),
    dtype=float,
)


def test_other_certified_values_of_nist():
    (block,) = hierarchical_regression(NORRIS[:, 0], {"": pd.DataFrame({"x": NORRIS[:, 1]})})
    assert block.coefficients["B"].to_list() == pytest.approx([-0.262323073774029, 1.00211681802045], rel=1e-11)
    assert block.coefficients["se"].to_list() == pytest.approx([0.232818234301152, 0.429796848199937e-3], rel=1e-9)
    assert block.r2 == pytest.approx(0.999993745883712, rel=1e-13)
    assert block.f_change == pytest.approx(5436385.54079785, rel=1e-8)
    powers = pd.DataFrame({f"x{k}": np.arange(21.0) ** k for k in range(1, 6)})
    *_, block = hierarchical_regression(WAMPLER4, {"1": powers[["x1", "x2"]], "2": powers[["x3", "x4", "x5"]]})
    se = [
        215232.624678170,
        236355.173469681,
        77934.3524331583,
        10147.5507550350,
        564.566512170752,
        11.2324854679312,
    ]
    assert block.coefficients["se"].to_list() == pytest.approx(se, rel=1e-9)
    assert block.coefficients["B"].to_list() == pytest.approx([1] * 6, rel=1e-6)
    assert block.r2 == pytest.approx(0.957478440825662, rel=1e-12)


# R's data sets: stackloss (air flow, water temperature, acid concentration, stack loss) and cars (speed, dist).
STACKLOSS = np.array(
    [
        [80, 80, 75, 62, 62, 62, 62, 62, 58, 58, 58, 58, 58, 58, 50, 50, 50, 50, 50, 56, 70],
        [27, 27, 25, 24, 22, 23, 24, 24, 23, 18, 18, 17, 18, 19, 18, 18, 19, 19, 20, 20, 20],
        [89, 88, 90, 87, 87, 87, 93, 93, 87, 80, 89, 88, 82, 93, 89, 86, 72, 79, 80, 82, 91],
        [42, 37, 37, 28, 18, 18, 19, 20, 15, 14, 14, 13, 11, 12, 8, 7, 8, 8, 9, 15, 15],
    ]
).T.astype(float)
SPEED = [
    4,
    4,
    7,
    7,
    8,
    9,
    10,
    10,
    10,
    11,
    11,
    12,
    12,
    12,
    12,
    13,
    13,
    13,
    13,
    14,
    14,
    14,
    14,
    15,
    15,
    15,
    16,
    16,
    17,
]
SPEED += [17, 17, 18, 18, 18, 18, 19, 19, 19, 20, 20, 20, 20, 20, 22, 23, 24, 24, 24, 24, 25]
DIST = [
    2,
    10,
    4,
    22,
    16,
    10,
    18,
    26,
    34,
    17,
    28,
    14,
    20,
    24,
    28,
    26,
    34,
    34,
    46,
    26,
    36,
    60,
    80,
    20,
    26,
    54,
    32,
    40,
    32,
]
DIST += [40, 50, 42, 56, 76, 84, 36, 46, 68, 32, 48, 52, 56, 64, 66, 54, 70, 92, 93, 120, 85]


def test_regressions_as_r_prints_them():
    """summary, anova and car::vif of lm(stack.loss ~ .); summary and confint of lm(dist ~ speed, cars)."""
    X = pd.DataFrame(STACKLOSS[:, :3], columns=["air", "water", "acid"])
    air, water, acid = hierarchical_regression(STACKLOSS[:, 3], {name: X[[name]] for name in X})
    table = acid.coefficients
    assert table["B"].round(4).to_list() == [-39.9197, 0.7156, 1.2953, -0.1521]
    assert table["se"].round(4).to_list() == [11.8960, 0.1349, 0.3680, 0.1563]
    assert table["t"].round(3).to_list() == [-3.356, 5.307, 3.520, -0.973]
    assert table["p"].to_list() == pytest.approx([0.00375, 5.8e-05, 0.00263, 0.34405], rel=2e-3)
    assert (round(acid.r2, 4), round(acid.r2_adjusted, 4)) == (0.9136, 0.8983)
    (whole,) = hierarchical_regression(STACKLOSS[:, 3], {"": X})
    assert (round(whole.f_change, 1), whole.df_change) == (59.9, (3, 17))
    assert whole.p_change == pytest.approx(3.016e-09, rel=1e-3)
    total = STACKLOSS[:, 3].var() * 21
    assert [round(b.r2_change * total, 2) for b in (air, water, acid)] == [1750.12, 130.32, 9.97]
    # anova's F of each row has the residuals of the whole model: of the last block it is the F change.
    assert (round(acid.f_change, 4), round(acid.p_change, 5)) == (0.9473, 0.34405)
    assert table["vif"].iloc[1:].round(5).to_list() == [2.90648, 2.57263, 1.33359]
    (cars,) = hierarchical_regression(DIST, {"": pd.DataFrame({"speed": SPEED})})
    assert cars.coefficients["B"].round(4).to_list() == [-17.5791, 3.9324]
    assert cars.coefficients["low"].round(6).to_list() == [-31.167850, 3.096964]
    assert cars.coefficients["high"].round(6).to_list() == [-3.990340, 4.767853]
    assert round(cars.f_change, 2) == 89.57
    assert cars.p_change == pytest.approx(1.49e-12, rel=1e-2)


def test_variance_inflation_of_longley():
    """As car::vif prints it for R's data set longley."""
    X, y = longley()
    (block,) = hierarchical_regression(y, {"": X})
    expected = [135.53244, 1788.51348, 33.61889, 3.58893, 399.15102, 758.98060]
    assert block.coefficients["vif"].to_list()[1:] == pytest.approx(expected, rel=1e-6)


def test_columns_of_very_different_size():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(91, 2)) * [1e5, 1e-11] + [1.5e6, 0]
    y = X @ [1e-5, 1e11] + rng.normal(size=91)
    (block,) = hierarchical_regression(y, {"": pd.DataFrame(X, columns=["volume", "share"])})
    z = (X - X.mean(axis=0)) / X.std(axis=0)
    slopes = np.linalg.lstsq(z, y - y.mean(), rcond=None)[0] / X.std(axis=0)
    np.testing.assert_allclose(block.coefficients["B"].to_numpy()[1:], slopes, rtol=1e-10)


def test_p_of_a_block_is_uniform_where_nothing_is_added():
    rng = np.random.default_rng(5)
    X = pd.DataFrame(rng.normal(size=(40, 4)), columns=list("abcd"))
    blocks = {"1": X[["a", "b"]], "2": X[["c", "d"]]}
    p = [hierarchical_regression(X["a"] + rng.normal(size=40), blocks)[1].p_change for _ in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_blocks_and_standardised_coefficients():
    rng = np.random.default_rng(0)
    n = 80
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    X["d"] += X["a"]
    y = X @ [1, 0, 0.5, 0.3] + rng.normal(size=n)
    one, two, three = hierarchical_regression(y, {"1": X[["a"]], "2": X[["b", "c"]], "3": X[["d"]]})
    assert (one.df_change, two.df_change, three.df_change) == ((1, 78), (2, 76), (1, 75))
    assert one.r2_change + two.r2_change + three.r2_change == pytest.approx(three.r2)
    assert one.r2 == pytest.approx(np.corrcoef(X["a"], y)[0, 1] ** 2)
    f = (two.r2_change / 2) / ((1 - two.r2) / 76)
    assert two.f_change == pytest.approx(f)
    assert two.p_change == pytest.approx(stats.f.sf(f, 2, 76))
    # Adding one predictor: F is its t squared.
    assert three.f_change == pytest.approx(three.coefficients.loc["d", "t"] ** 2)
    z = (X - X.mean()) / X.std()
    beta = np.linalg.lstsq(z.to_numpy(), ((y - y.mean()) / y.std()).to_numpy(), rcond=None)[0]
    np.testing.assert_allclose(three.coefficients["beta"].to_numpy()[1:], beta, rtol=1e-9)
    for name in "abcd":
        others = [c for c in "abcd" if c != name]
        (fit,) = hierarchical_regression(X[name], {"": X[others]})
        assert three.coefficients.loc[name, "vif"] == pytest.approx(1 / (1 - fit.r2))


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ({"x": [[1.0], [2], [4], [3], [1]], "y": np.zeros((5, 0))}, "'y' has no predictor"),
        ({"x": [[2.0], [4], [6], [10], [8]]}, "exact combination of the predictors"),
        ({"x": [[1.0], [1], [1], [1], [1]]}, "constant"),
        ({"x": [[1.0, 2], [2, 4], [3, 6], [4, 8], [5, 10]]}, "combination"),
        ({"x": [[1.0], [np.nan], [1], [2], [3]]}, "number in every row"),
        ({"x": np.random.default_rng(0).normal(size=(5, 4))}, "more than 5 participants"),
        ({"x": [[1.0], [2], [4], [3], [1]], "y": [[1.0], [2], [4], [3], [1]]}, "already"),
    ],
)
def test_regressions_that_cannot_be(blocks, says):
    blocks = {name: pd.DataFrame(values).add_prefix("p") for name, values in blocks.items()}
    with pytest.raises(ValueError, match=says):
        hierarchical_regression([1.0, 2, 3, 5, 4], blocks)


def test_an_outcome_that_is_constant_and_a_predictor_called_as_the_intercept():
    with pytest.raises(ValueError, match="the same value in all participants"):
        hierarchical_regression([0.1] * 5, {"x": pd.DataFrame({"a": [1.0, 2, 4, 3, 1]})})
    with pytest.raises(ValueError, match="already"):
        hierarchical_regression([1.0, 2, 3, 5, 4], {"x": pd.DataFrame({"(intercept)": [1.0, 2, 4, 3, 1]})})


def test_partial_correlations():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(40, 2))
    x, y = z @ [1, 2] + rng.normal(size=40), z @ [2, -1] + rng.normal(size=40)
    # From the inverse of the correlation matrix, another definition of the same.
    precision = np.linalg.inv(np.corrcoef(np.column_stack([x, y, z]), rowvar=False))
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    found = partial_correlation(x, y, z)
    assert found.r == pytest.approx(expected)
    assert found.df == 36
    table = hierarchical_regression(y, {"": pd.DataFrame(np.column_stack([x, z])).add_prefix("p")})[0].coefficients
    assert found.p == pytest.approx(table.loc["p0", "p"])  # the t of x in the regression
    plain, theirs = partial_correlation(x, y), stats.pearsonr(x, y)
    assert (plain.r, plain.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    interval = theirs.confidence_interval()
    assert (plain.low, plain.high) == pytest.approx((interval.low, interval.high))
    ranked, theirs = partial_correlation(x, y, method="spearman"), stats.spearmanr(x, y)
    assert (ranked.r, ranked.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    for bad, says in (
        (np.ones(40), "does not vary"),
        (z[:, 0] * 3, "does not vary"),
        (np.full(40, np.nan), "not a number"),
    ):
        with pytest.raises(ValueError, match=says):
            partial_correlation(bad, y, z)
    with pytest.raises(ValueError, match="kendall"):
        partial_correlation(x, y, method="kendall")
    for given in (np.column_stack([z, z[:, 0]]), np.ones(40)):
        with pytest.raises(ValueError, match="a covariate of the correlation is constant, or a combination"):
            partial_correlation(x, y, given)
    with pytest.raises(ValueError, match="no degrees of freedom"):
        partial_correlation(x[:4], y[:4], z[:4])


def test_partial_correlations_as_printed():
    """ppcor's example (Kim 2015, Commun Stat Appl Methods 22:665): each of four given the other two."""
    data = np.array(
        [
            [7, 15, 19, 15, 21, 22, 57, 15, 20, 18],
            [0, 0.964, 0, 0, 0.921, 0, 0, 1.006, 0, 1.011],
            [9, 2, 3, 4, 1, 3, 1, 3, 6, 1],
            [1.78e-2, 1.05e-6, 1.37e-5, 7.18e-3, 0, 0, 0, 4.48e-3, 2.1e-6, 0],
        ]
    )
    for pair, r in (
        ((0, 1), -0.6720863), ((0, 2), -0.6161163), ((0, 3), 0.1148459), ((1, 2), -0.7215522), ((1, 3), 0.2855420),
        ((2, 3), 0.6940953),
    ):  # fmt: skip
        others = data[[i for i in range(4) if i not in pair]].T
        found = partial_correlation(data[pair[0]], data[pair[1]], others)
        assert abs(found.r) == pytest.approx(abs(r), abs=5e-8)
        assert found.df == 6
    assert partial_correlation(data[0], data[1], data[2:].T).p == pytest.approx(0.06789202, abs=5e-8)


def test_partial_spearman_with_ties_is_that_of_the_ranks():
    rng = np.random.default_rng(2)
    x, y, z = rng.integers(0, 6, (3, 50)).astype(float)
    ranks = [stats.rankdata(v) for v in (x, y, z)]
    precision = np.linalg.inv(np.corrcoef(ranks))
    found = partial_correlation(x, y, z, method="spearman")
    assert found.r == pytest.approx(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]))
    t = found.r * np.sqrt(47 / (1 - found.r**2))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(t), 47))
    half = stats.norm.ppf(0.975) * np.sqrt((1 + found.r**2 / 2) / 46)
    assert np.arctanh([found.low, found.high]) == pytest.approx(np.arctanh(found.r) + np.array([-half, half]))


def test_spearmans_interval_covers():
    """Normal variables of correlation ρ have a Spearman correlation of 6/π asin(ρ/2).

    With Fisher's own standard error 93 % of the intervals would hold it.
    """
    rng = np.random.default_rng(3)
    rho, n, draws = 0.8, 40, 1200
    x = rng.normal(size=(draws, n))
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=(draws, n))
    found = [partial_correlation(a, b, method="spearman") for a, b in zip(x, y)]
    covered = np.mean([one.low < 6 / np.pi * np.arcsin(rho / 2) < one.high for one in found])
    assert 0.94 <= covered <= 0.975


def test_perfect_and_minimal_correlations():
    x = np.arange(5.0)
    found = partial_correlation(x, -2 * x)
    assert (found.r, found.p) == (pytest.approx(-1), pytest.approx(0, abs=1e-12))
    assert (partial_correlation(x[:3], [1.0, 3, 2]).low, partial_correlation(x[:3], [1.0, 3, 2]).high) == (-1, 1)


def test_the_bootstrap_is_scipys():
    """Percentile and BCa intervals of a mean and of a correlation, within the noise of resampling."""
    rng = np.random.default_rng(0)
    x = rng.exponential(size=40)
    y = x + rng.normal(size=40)

    def both(rows):
        a, b = x[rows], y[rows]
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        return np.column_stack(
            [x[rows].mean(axis=1), (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))]
        )

    ours = bootstrap(both, 40, 20_000, seed=1)
    for method, found in (("percentile", ours.percentile), ("BCa", ours.bca)):
        mean = stats.bootstrap(
            (x,), np.mean, n_resamples=20_000, method=method, random_state=2
        ).confidence_interval
        r = stats.bootstrap(
            (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
            method=method, random_state=2,
        ).confidence_interval  # fmt: skip
        np.testing.assert_allclose(found[0], (mean.low, mean.high), atol=0.03)
        np.testing.assert_allclose(found[1], (r.low, r.high), atol=0.03)
    np.testing.assert_array_equal(ours.samples, bootstrap(both, 40, 20_000, seed=1).samples)


def test_the_bootstrap_of_efron_and_tibshirani():
    """Their example, the plug-in variance of a spatial test in 26 children (1993, chapter 14).

    Printed: 171.5; a = 0.061; of 2,000 resamples z₀ = 0.146, 90 % BCa 115.8 … 259.6, percentile 100.8 … 233.9.
    """
    scores = "48 36 20 29 42 42 20 42 22 41 45 14 6 0 33 28 34 4 32 24 47 41 24 26 30 41"
    x = np.array(scores.split(), dtype=float)
    found = bootstrap(lambda rows: x[rows].var(axis=1)[:, None], 26, 20_000, seed=0, level=0.9)
    assert round(found.observed[0], 1) == 171.5
    assert round(found.acceleration[0], 3) == 0.061
    assert found.bias[0] == pytest.approx(0.146, abs=0.06)
    assert found.bca[0] == pytest.approx([115.8, 259.6], abs=5)
    assert found.percentile[0] == pytest.approx([100.8, 233.9], abs=5)


def test_bca_from_its_definition():
    """Efron 1987, formula 2.3: one statistic at a time, in a loop; with resamples that equal what is observed."""
    x = np.array([0.0, 0, 1, 1, 1, 2, 3, 7, 9, 30])

    def median_and_mean(rows):
        return np.column_stack([np.median(x[rows], axis=1), x[rows].mean(axis=1)])

    found = bootstrap(median_and_mean, 10, 3000, seed=7)
    for j, f in enumerate((np.median, np.mean)):
        drawn, theta = found.samples[:, j], f(x)
        below = sum(1 if value < theta else 0.5 if value == theta else 0 for value in drawn) / 3000
        z0 = stats.norm.ppf(below)
        jack = [f(np.delete(x, i)) for i in range(10)]
        up = sum((np.mean(jack) - value) ** 3 for value in jack)
        a = up / (6 * sum((np.mean(jack) - value) ** 2 for value in jack) ** 1.5)
        for end, z in enumerate(stats.norm.ppf([0.025, 0.975])):
            at = stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
            assert found.bca[j, end] == pytest.approx(np.quantile(drawn, at))
    assert (found.samples[:, 0] == 1.5).any()  # ties there are


def test_bca_beyond_its_pole_ends_with_the_resamples():
    """Where 1 − a(z₀ + z) is not positive the formula would turn back; the corrected point is at infinity."""
    tails = np.array([0.025, 0.975])
    assert _corrected(tails, 4.4, 0.166)[1] == 1
    assert _corrected(tails, -4.4, -0.166)[0] == 0
    np.testing.assert_allclose(_corrected(tails, 0.0, 0.0), tails)


def test_bootstrap_of_a_regression():
    """Each resample is a hierarchical regression of its own."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 2, (30, 4)) * [1, 1e6, 1e-3, 1]
    y = X @ [1.0, 0, -1e3, 0.2] + rng.normal(size=30) + 100
    statistic = regression_statistic(y, X, [2, 1, 1])
    rows = rng.integers(0, 30, (20, 30))
    found = statistic(rows)
    assert found.shape == (20, 4 + 5 + 6)
    for i, chosen in enumerate(rows):
        frame = pd.DataFrame(X[chosen], columns=list("abcd"))
        blocks = hierarchical_regression(y[chosen], {"1": frame[["a", "b"]], "2": frame[["c"]], "3": frame[["d"]]})
        expected = [v for block in blocks for v in (*block.coefficients["B"], block.r2_change)]
        np.testing.assert_allclose(found[i], expected, rtol=1e-7, atol=1e-12)
    assert np.isnan(statistic(np.zeros((1, 30), dtype=int))).all()
    whole = bootstrap(statistic, 30, 2000, seed=3)
    last = whole.percentile[10]  # the first slope of the last block
    assert last == pytest.approx([0.8, 1.2], abs=0.2)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(statistic, 1)


def test_resamples_that_do_not_determine_a_coefficient():
    """A category of two subjects is missing from some resamples: intervals are of the others, if they are enough."""
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.normal(size=20), np.arange(20) < 2])
    y = X @ [1.0, 2.0] + rng.normal(size=20)
    statistic = regression_statistic(y, X, [1, 1])
    refused = bootstrap(statistic, 20, 1000, seed=0, minimum=0.95)
    found = bootstrap(statistic, 20, 1000, seed=0, minimum=0.8)
    drawn = np.random.default_rng(0).integers(0, 20, (1000, 20))
    without = ~(drawn < 2).any(axis=1)
    assert 80 < without.sum() < 160  # (18/20)²⁰ = 12 %
    np.testing.assert_array_equal(np.isnan(found.samples).any(axis=1), without)
    assert np.isfinite(found.samples[:, :3]).all()
    assert found.determined.tolist() == [1000] * 3 + [1000 - without.sum()] * 4
    # Fewer than 95 % determine what belongs to the second block: no interval of any kind.
    assert np.isnan(refused.percentile[3:]).all()
    assert np.isnan(refused.bca[3:]).all()
    np.testing.assert_array_equal(refused.percentile[:3], found.percentile[:3])
    np.testing.assert_array_equal(refused.bca[:3], found.bca[:3])
    b = found.samples[~without, 5]
    np.testing.assert_allclose(found.percentile[5], np.quantile(b, [0.025, 0.975]))
    z0 = stats.norm.ppf((b < found.observed[5]).mean())
    assert found.bias[5] == pytest.approx(z0)
    assert np.isfinite(found.bca).all()
    # With one subject in it, leaving that one out leaves nothing: no acceleration, no BCa.
    X[1, 1] = 0
    found = bootstrap(regression_statistic(y, X, [1, 1]), 20, 1000, seed=0, minimum=0.5)
    assert np.isnan(found.bca[3:]).all()
    assert np.isfinite(found.bca[:3]).all()
    assert np.isfinite(found.percentile).all()


def test_the_share_of_resamples_that_an_interval_needs():
    """Exactly 90 % of the resamples are enough, and one fewer is not."""
    values = np.arange(10.0)
    for few, enough in ((100, True), (101, False)):

        def statistic(rows, few=few):
            means = values[rows].mean(axis=1)[:, None]
            if len(rows) == 1000:
                means[:few] = np.nan
            return means

        found = bootstrap(statistic, 10, 1000)
        assert found.determined == 1000 - few
        assert np.isfinite(found.percentile).all() == np.isfinite(found.bca).all() == enough


def test_bootstrap_within_strata():
    """Every resample has as many of each stratum; the acceleration is that of several samples."""
    rng = np.random.default_rng(5)
    strata = np.array(["b", "a", "c", "a", "b", "a"] * 4)
    y = rng.exponential(size=24) + (strata == "c")

    def difference(rows):
        assert rows.shape[1] < 24 or all(sorted(strata[row]) == sorted(strata) for row in rows)
        inside = strata[rows] == "c"
        return ((y[rows] * inside).sum(axis=1) / inside.sum(axis=1) - y[rows].mean(axis=1))[:, None]

    found = bootstrap(difference, 24, 4000, seed=2, strata=strata)
    assert found.determined == 4000
    # Within strata of size m, the variance of a mean is that of the values, with divisor m, over m.
    weights = {"a": -1 / 24, "b": -1 / 24, "c": 1 / 4 - 1 / 24}
    variance = sum(w**2 * (strata == s).sum() * y[strata == s].var() for s, w in weights.items())
    assert found.samples.std() == pytest.approx(np.sqrt(variance), rel=0.04)
    # For an estimate that is linear in the means of strata, the influence is the weight times the deviation. The
    # jackknife changes the size of a stratum too, so here the strata are weighted by fixed numbers.
    share = {"a": 0.5, "b": -1.0, "c": 2.0}

    def weighted(rows):
        sums = [w * (y[rows] * (strata[rows] == s)).sum(axis=1) / (strata[rows] == s).sum(axis=1)
                for s, w in share.items()]  # fmt: skip
        return sum(sums)[:, None]

    found = bootstrap(weighted, 24, 500, seed=2, strata=strata)
    cubes = squares = 0.0
    for s, w in share.items():
        part = y[strata == s]
        off = w * (part - part.mean()) / len(part)
        cubes, squares = cubes + (off**3).sum(), squares + (off**2).sum()
    assert found.acceleration[0] == pytest.approx(cubes / (6 * squares**1.5), rel=1e-9)
    # A single stratum changes nothing; a stratum of one participant is refused.
    mean = lambda rows: y[rows].mean(axis=1)[:, None]  # noqa: E731
    plain, one = (bootstrap(mean, 24, 100, strata=s) for s in (None, np.zeros(24)))
    np.testing.assert_array_equal(plain.samples, one.samples)
    with pytest.raises(InputError, match="a stratum of the bootstrap has one participant"):
        bootstrap(difference, 24, 100, strata=np.arange(24) == 3)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_bootstrap_of_a_correlation(method):
    """Each resample is a correlation of its own, ranked anew."""
    rng = np.random.default_rng(6)
    z = np.column_stack([rng.normal(1e6, 1, 40), np.arange(40) < 20])
    x, y = z @ [1, 1] + rng.normal(size=40), z @ [1, 0] + rng.normal(size=40).round(1)
    rows = rng.integers(0, 40, (15, 40))
    for given in (None, z):
        found = correlation_statistic(x, y, given, method)(rows)
        for i, chosen in enumerate(rows):
            one = partial_correlation(x[chosen], y[chosen], None if given is None else given[chosen], method)
            assert found[i, 0] == pytest.approx(one.r, rel=1e-7)
        # Nothing varies; a covariate does not.
        degenerate = np.array([[3] * 40, [*range(20)] * 2])
        assert np.isnan(correlation_statistic(x, y, given, method)(degenerate)).ravel().tolist() == [
            True,
            given is not None,
        ]


def test_multiple_testing_as_printed_by_benjamini_and_hochberg():
    """Their example (1995, section 3): 15 p-values, of which four are significant by FDR and three by Bonferroni."""
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert (adjust_p(p) <= 0.05).sum() == 4
    assert (adjust_p(p, "bonferroni") <= 0.05).sum() == 3
    np.testing.assert_allclose(adjust_p([0.01, 0.04]), [0.02, 0.04])
    assert adjust_p([]).size == 0
    with pytest.raises(ValueError, match="holm"):
        adjust_p(p, "holm")
    with pytest.raises(ValueError, match="between 0 and 1"):
        adjust_p([1.2])


def test_sample_sizes_as_printed():
    """Two-sided 5 %, 80 %: d .2, .5, .8 → 394, 64, 26 (Cohen 1988, table 2.4.1, has 393, 64, 26)."""
    assert [sample_size_groups(d) for d in (0.2, 0.5, 0.8)] == [394, 64, 26]
    assert sample_size_groups(0.5, r2=0.75) == sample_size_groups(1.0)
    # R's help of power.t.test: delta = 1, power = .90 need 22.02. By Fisher's z r .1, .3, .5: 782.7, 84.9, 29.01.
    assert sample_size_groups(1, power=0.9) == 23
    assert [sample_size_correlation(r, method="fisher") for r in (0.1, 0.3, 0.5)] == [783, 85, 30]
    assert sample_size_correlation(0.5, power=0.01, method="fisher") == 4  # Fisher's z needs four
    assert sample_size_groups(8, power=0.83, alpha=0.01) == 3  # two subjects a group have a power of 0.48
    for n, d in ((64, 0.5), (26, 0.8)):
        draws = np.random.default_rng(0).normal(size=(2, n, 20_000))
        t = stats.ttest_ind(draws[0] + d, draws[1]).pvalue < 0.05
        assert t.mean() == pytest.approx(0.80, abs=0.015)
    for k in (0, 1, 6):  # a degree of freedom for each covariate
        n = sample_size_groups(2.0, n_covariates=k)
        reached = [
            stats.nct.sf(stats.t.ppf(0.975, df := 2 * m - 2 - k), df, 2 * np.sqrt(m / 2)) for m in (n - 1, n)
        ]
        assert reached[0] < 0.8 <= reached[1]
    n = sample_size_groups(0.6, r2=0.5, n_covariates=1)
    assert n < sample_size_groups(0.6)
    rng = np.random.default_rng(1)
    z, noise = rng.normal(size=(2, 2 * n, 5000)) * np.sqrt(0.5)
    group = np.repeat([1.0, 0.0], n)
    p = _p_of_ancova(z + noise + 0.6 * group[:, None], z, group)
    assert (p < 0.05).mean() == pytest.approx(0.80, abs=0.025)
    for bad in (
        lambda: sample_size_groups(1, n_covariates=-1),
        lambda: sample_size_groups(1, r2=1),
        lambda: sample_size_groups(0),
        lambda: sample_size_correlation(1),
        lambda: sample_size_correlation(0.5, method="exact"),
        lambda: sample_size_groups(1, power=1),
    ):
        with pytest.raises(ValueError, match=r"must|expected"):
            bad()


def test_the_sample_size_of_a_correlation():
    """r .28: 95 by the noncentral t, as the thalamic study prints; 98 by Fisher's z."""
    assert [sample_size_correlation(sign * 0.28) for sign in (1, -1)] == [95, 95]
    assert [sample_size_correlation(sign * 0.28, method="fisher") for sign in (1, -1)] == [98, 98]
    # The power of the F test of a regression on one given variable, from the noncentral F.
    for r, power, alpha in ((0.28, 0.8, 0.05), (0.1, 0.8, 0.05), (0.5, 0.9, 0.01), (0.95, 0.8, 0.05)):
        n = sample_size_correlation(r, power, alpha)
        f2 = r**2 / (1 - r**2)
        reached = [stats.ncf.sf(stats.f.ppf(1 - alpha, 1, m - 2), 1, m - 2, f2 * m) for m in (n - 1, n)]
        assert reached[0] < power <= reached[1]
    assert round(stats.ncf.sf(stats.f.ppf(0.95, 1, 92), 1, 92, 0.28**2 / (1 - 0.28**2) * 94), 3) == 0.799
    # Simulated, with given values of one variable.
    x = stats.zscore(np.arange(95.0))
    y = 0.28 * x + np.sqrt(1 - 0.28**2) * np.random.default_rng(2).normal(size=(20_000, 95))
    r = (y - y.mean(axis=1, keepdims=True)) @ x / (95 * y.std(axis=1))
    t = r * np.sqrt(93 / (1 - r**2))
    assert (abs(t) > stats.t.ppf(0.975, 93)).mean() == pytest.approx(0.8033, abs=0.01)
    assert sample_size_correlation(0.9999) == 3


def test_differences_of_two_groups():
    y, first = np.array([4.0, 6, 8, 1, 3, 5, 3]), np.arange(7) < 3
    found = group_difference(y, first)
    assert found.means == (6, 3)
    assert found.sd == pytest.approx(np.sqrt((8 + 8) / 5))
    assert found.d == pytest.approx(3 / np.sqrt(16 / 5))
    assert found.r2_covariates == 0
    # Within the groups z is -1, 1, 0 and -1, 0, 1, 0: it explains (2 + 4)² / 4 of 16, in one of five degrees.
    z = np.array([-1.0, 1, 0, 9, 10, 11, 10])
    assert group_difference(y, first, z[:, None]).r2_covariates == pytest.approx(1 - (1 - 9 / 16) * 5 / 4)
    for values, rows, covariates, says in (
        (y, np.arange(7) < 1, None, "groups of 1 and 6 with 0 covariates"),
        (y, first, np.random.default_rng(0).normal(size=(7, 5)), "with 5 covariates are too small"),
        (first * 1.0, first, None, "it does not vary"),
        (y, first, first[:, None] * 2.0, "a covariate does not vary"),
        (y, first, np.column_stack([z, z + 3]), "combination of others"),
        (y, first, (2 * y + first)[:, None], "explain all of it"),
    ):
        with pytest.raises(ValueError, match=says):
            group_difference(values, rows, covariates)


def _p_of_ancova(y, z, group):
    """Two-sided P of the group in a regression on it and a covariate; a study a column."""
    n = len(group)
    centred = [v - v.mean(axis=0) for v in (y, z, np.broadcast_to(group[:, None], y.shape))]
    r = {(i, j): (centred[i] * centred[j]).sum(axis=0) for i in range(3) for j in range(3)}
    partial = (r[0, 2] * r[1, 1] - r[0, 1] * r[1, 2]) / np.sqrt(
        (r[0, 0] * r[1, 1] - r[0, 1] ** 2) * (r[2, 2] * r[1, 1] - r[1, 2] ** 2)
    )
    return 2 * stats.t.sf(abs(partial) * np.sqrt((n - 3) / (1 - partial**2)), n - 3)


@pytest.mark.parametrize("values", [(1234567, 1234568), (100000.5, 100001.5), (0.1, 0.1 + 2**-56), (0, 1)])
def test_values_of_an_outcome_are_named_with_all_their_digits(values):
    rows = pd.DataFrame({"stage": np.array(values * 3, dtype=float)})
    names = [binary(rows, "stage", "t.tsv", event)[1] for event in ("", *map(str, values))]
    assert names == [str(values[1]), *map(str, values)]
    for event, value in zip(names[1:], values):
        np.testing.assert_array_equal(binary(rows, "stage", "t.tsv", event)[0], rows["stage"] == value)
