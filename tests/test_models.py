"""Clinical models against worked examples that others printed, and against scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpuvox.study.models import (
    adjust_p,
    bootstrap,
    hierarchical_regression,
    partial_correlation,
    regression_statistic,
    sample_size_correlation,
    sample_size_groups,
)

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
    "const": (-3482258.63459582, 890420.383607373),
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
        ({"x": [[1.0], [1], [1], [1], [1]]}, "constant"),
        ({"x": [[1.0, 2], [2, 4], [3, 6], [4, 8], [5, 10]]}, "combination"),
        ({"x": [[1.0], [np.nan], [1], [2], [3]]}, "number in every row"),
        ({"x": np.random.default_rng(0).normal(size=(5, 4))}, "more than 5 subjects"),
        ({"x": [[1.0], [2], [4], [3], [1]], "y": [[1.0], [2], [4], [3], [1]]}, "already"),
    ],
)
def test_regressions_that_cannot_be(blocks, says):
    blocks = {name: pd.DataFrame(values).add_prefix("p") for name, values in blocks.items()}
    with pytest.raises(ValueError, match=says):
        hierarchical_regression([1.0, 2, 3, 5, 4], blocks)


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
    with pytest.raises(ValueError, match="no degree of freedom"):
        partial_correlation(x[:4], y[:4], z[:4])


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
        mean = stats.bootstrap((x,), np.mean, n_resamples=20_000, method=method, rng=2).confidence_interval
        r = stats.bootstrap(
            (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
            method=method, rng=2,
        ).confidence_interval  # fmt: skip
        np.testing.assert_allclose(found[0], (mean.low, mean.high), atol=0.03)
        np.testing.assert_allclose(found[1], (r.low, r.high), atol=0.03)
    np.testing.assert_array_equal(ours.samples, bootstrap(both, 40, 20_000, seed=1).samples)


def test_bootstrap_of_a_regression():
    """Each resample is a regression of its own."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 2, (30, 3))
    y = X @ [1.0, 0, -1] + rng.normal(size=30)
    statistic = regression_statistic(y, X, n_first=2)
    rows = rng.integers(0, 30, (20, 30))
    found = statistic(rows)
    for i, chosen in enumerate(rows):
        frame = pd.DataFrame(X[chosen]).add_prefix("p")
        *_, last = hierarchical_regression(y[chosen], {"1": frame[["p0", "p1"]], "2": frame[["p2"]]})
        np.testing.assert_allclose(found[i, :3], last.coefficients["B"].to_numpy()[1:], rtol=1e-8)
        assert found[i, 3] == pytest.approx(last.r2_change)
    assert np.isnan(statistic(np.zeros((1, 30), dtype=int))).all()
    whole = bootstrap(statistic, 30, 2000, seed=3)
    assert (whole.percentile[0, 0], whole.percentile[0, 1]) == pytest.approx((0.8, 1.2), abs=0.3)
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap(statistic, 1)


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
    """Two-sided 5 %, 80 %: d .2, .5, .8 → 394, 64, 26 (Cohen 1988, table 2.4.1, has 393, 64, 26); r .28 → 98."""
    assert [sample_size_groups(d) for d in (0.2, 0.5, 0.8)] == [394, 64, 26]
    assert sample_size_correlation(0.28) == 98
    assert sample_size_correlation(-0.28) == 98
    assert sample_size_groups(0.5, r2=0.75) == sample_size_groups(1.0)
    assert sample_size_groups(8, power=0.83, alpha=0.01) == 3  # two subjects a group have a power of 0.48
    for n, d in ((64, 0.5), (26, 0.8)):
        draws = np.random.default_rng(0).normal(size=(2, n, 20_000))
        t = stats.ttest_ind(draws[0] + d, draws[1]).pvalue < 0.05
        assert t.mean() == pytest.approx(0.80, abs=0.015)
    for bad in (
        lambda: sample_size_groups(0),
        lambda: sample_size_correlation(1),
        lambda: sample_size_groups(1, power=1),
    ):
        with pytest.raises(ValueError, match=r"must|expected"):
            bad()
