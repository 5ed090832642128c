"""Group tables: against least squares written out, printed worked examples, and the phantom's truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpuvox import files
from gpuvox.cli import main
from gpuvox.cli.groups import run
from gpuvox.cli.main import guarded
from gpuvox.study.statistics.ancova import (
    ANCOVA,
    Multiplicity,
    ancova,
    assign_families,
    check_assumptions,
    compare_groups,
)
from gpuvox.study.statistics.contingency import exact_p
from gpuvox.study.statistics.demographics import DEMOGRAPHICS, demographics
from gpuvox.study.statistics.effects import cohens_d, interval_of_d, partial_eta_squared
from gpuvox.tables.groups import assign_groups
from tests.conftest import overriding


def command(*arguments):
    return guarded("groups", lambda: run(list(arguments)))


def cohort(seed=0, n=60, levels=("MS", "HC")):
    """Groups of unequal size and age, and variables that depend on both."""
    rng = np.random.default_rng(seed)
    group = rng.choice(levels, n, p=np.arange(len(levels), 0, -1) / sum(range(len(levels) + 1)))
    age = rng.normal(40, 10, n) + 4 * (group == levels[0])
    sex = rng.choice(["F", "M"], n)
    y = 100 - 0.3 * age + 2 * (sex == "M") - 3 * (group == levels[0]) + rng.normal(0, 4, n)
    return pd.DataFrame(
        {
            "participant_id": [f"s{i}" for i in range(n)], "group": group, "age": age, "sex": sex,
            "y": y, "z": rng.normal(size=n), "w": rng.normal(5, 1, n),
        }
    )  # fmt: skip


def sse(y, *columns):
    X = np.column_stack(columns)
    return float(((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum())


# -- analysis of covariance -----------------------------------------------------------------------------------------

# Snedecor & Cochran (1967, p. 422): leprosy bacilli before and after treatment with A, D or F, as given in the SAS/STAT
# User's Guide, PROC GLM, example "Analysis of Covariance", whose printed results these are.
LEPROSY = {
    "A": "11 6 8 0 5 2 14 8 19 11 6 4 10 13 6 1 11 8 3 0",
    "D": "6 0 6 2 7 3 8 1 18 18 8 4 19 14 8 9 5 1 15 9",
    "F": "16 13 13 10 11 18 9 5 21 23 16 12 12 5 12 16 7 1 12 20",
}


def leprosy():
    parts = [(drug, np.array(text.split(), dtype=float).reshape(-1, 2)) for drug, text in LEPROSY.items()]
    return pd.concat([pd.DataFrame(v, columns=["before", "after"]).assign(drug=drug) for drug, v in parts])


def test_ancova_as_sas_prints_it():
    row = ancova(leprosy(), ["after"], "drug", covariates=["before"]).iloc[0]
    assert (row.n, row.n_A, row.df_group, row.df_residual) == (30, 10, 2, 26)
    assert row.f == pytest.approx(2.14, abs=0.005)
    assert row.f == pytest.approx(
        (68.5537106 / 2) / (417.2025974 / 26), rel=1e-8
    )  # type III sum of squares; error
    assert row.p == pytest.approx(0.1384, abs=5e-5)
    for drug, mean, se in (
        ("A", 6.7149635, 1.2884943),
        ("D", 6.8239348, 1.2724690),
        ("F", 10.1611017, 1.3159234),
    ):
        assert row[f"adjusted_mean_{drug}"] == pytest.approx(mean, abs=5e-8)
        assert row[f"adjusted_se_{drug}"] == pytest.approx(se, abs=5e-8)
    assert [row[f"mean_{drug}"] for drug in "ADF"] == pytest.approx([5.3, 6.1, 12.3])
    assert np.isnan([row.difference, row.d]).all()  # of three groups there is no one difference


def test_every_number_of_two_groups():
    table = cohort()
    first, age, male = table.group == "MS", table.age.to_numpy(), (table.sex == "M").to_numpy(dtype=float)
    y, one, n = table.y.to_numpy(), np.ones(60), 60
    row = ancova(table, ["y"], order=["MS", "HC"], covariates=["age", "sex"]).iloc[0]
    full, reduced = sse(y, one, first, age, male), sse(y, one, age, male)
    f, df = (reduced - full) / (full / (n - 4)), n - 4
    assert (row.n, row.n_MS, row.n_HC, row.df_group, row.df_residual) == (60, first.sum(), (~first).sum(), 1, df)
    assert (row.f, row.p) == pytest.approx((f, stats.f.sf(f, 1, df)), rel=1e-9)
    # The adjusted mean by its textbook formula: the group's mean, moved along the slopes to the mean of the covariates.
    X = np.column_stack([one, first, age, male])
    b = np.linalg.lstsq(X, y, rcond=None)[0]
    covariance = full / df * np.linalg.inv(X.T @ X)
    half = stats.t.ppf(0.975, df)
    for level, inside in (("MS", first), ("HC", ~first)):
        moved = b[2] * (age.mean() - age[inside].mean()) + b[3] * (male.mean() - male[inside].mean())
        at = np.array([1, level == "MS", age.mean(), male.mean()])
        se = np.sqrt(at @ covariance @ at)
        assert row[f"adjusted_mean_{level}"] == pytest.approx(y[inside].mean() + moved, rel=1e-9)
        assert row[f"adjusted_se_{level}"] == pytest.approx(se, rel=1e-9)
        assert row[f"adjusted_low_{level}"] == pytest.approx(at @ b - half * se, rel=1e-9)
        assert row[f"adjusted_high_{level}"] == pytest.approx(at @ b + half * se, rel=1e-9)
        assert row[f"mean_{level}"] == pytest.approx(y[inside].mean())
        assert row[f"sd_{level}"] == pytest.approx(np.std(y[inside], ddof=1))
    se = np.sqrt(covariance[1, 1])
    assert (row.difference, row.difference_se) == pytest.approx((b[1], se), rel=1e-9)
    assert (row.difference_low, row.difference_high) == pytest.approx((b[1] - half * se, b[1] + half * se))
    assert row.difference == pytest.approx(row.adjusted_mean_MS - row.adjusted_mean_HC)
    assert row.d == pytest.approx(-2 * np.sqrt(f) / np.sqrt(df))
    # Homogeneity of slopes: both interactions at once.
    larger = sse(y, X, first * age, first * male)
    slopes = ((full - larger) / 2) / (larger / (n - 6))
    assert (row.slopes_f, row.slopes_df, row.slopes_p) == pytest.approx((slopes, 2, stats.f.sf(slopes, 2, 54)))
    # Levene's test as an analysis of variance of the distances from the medians; the residuals' skewness, G1.
    distance = [abs(y[g] - np.median(y[g])) for g in (first, ~first)]
    levene = stats.f_oneway(*distance)
    assert (row.levene_f, row.levene_p) == pytest.approx((levene.statistic, levene.pvalue))
    e = y - X @ b
    g1 = np.sqrt(n * (n - 1)) / (n - 2) * (e**3).mean() / (e**2).mean() ** 1.5
    assert (row.skewness, row.skewness_before) == pytest.approx((g1, g1))
    z = np.sort(e / e.std(ddof=1))
    steps = stats.norm.cdf(z)
    assert row.lilliefors_d == pytest.approx(
        max((np.arange(1, n + 1) / n - steps).max(), (steps - np.arange(n) / n).max())
    )


def test_three_groups_and_slopes():
    table = cohort(1, 90, ("A", "B", "C"))
    G = np.column_stack([table.group == level for level in "ABC"]).astype(float)
    y, age = table.y.to_numpy(), table.age.to_numpy()
    row = ancova(table, ["y"], covariates=["age"]).iloc[0]
    full = sse(y, G, age)
    f = ((sse(y, np.ones(90), age) - full) / 2) / (full / 86)
    assert (row.f, row.df_group, row.df_residual, row.p) == pytest.approx((f, 2, 86, stats.f.sf(f, 2, 86)))
    larger = sse(y, G, G * age[:, None])
    slopes = ((full - larger) / 2) / (larger / 84)
    assert (row.slopes_f, row.slopes_df) == pytest.approx((slopes, 2))
    # Without covariates: the analysis of variance; and no slopes.
    plain = ancova(table, ["y"]).iloc[0]
    expected = stats.f_oneway(*(y[table.group == level] for level in "ABC"))
    assert (plain.f, plain.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert np.isnan(plain.slopes_f)
    assert plain.adjusted_mean_B == pytest.approx(plain.mean_B)


def test_cohens_d():
    """Without covariates F = t²; in groups of equal size this d is that of means and pooled SD, but for √(n/df)."""
    assert cohens_d(9, 144) == 0.5
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
    table = pd.DataFrame({"group": ["a"] * 30 + ["b"] * 30, "y": np.r_[a, b]})
    row = ancova(table, ["y"]).iloc[0]
    assert row.d == pytest.approx(2 * stats.ttest_ind(a, b).statistic / np.sqrt(58))
    pooled = (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    assert row.d == pytest.approx(pooled * np.sqrt(60 / 58))
    assert ancova(table, ["y"], order=["b", "a"]).iloc[0].d == pytest.approx(-row.d)


def test_what_must_not_matter():
    table = cohort(3)
    table["small"] = np.where(table.index < 20, np.nan, table.y)
    options = {"covariates": ["age", "sex"], "order": ["MS", "HC"]}
    names = ["y", "z", "small"]
    there = ancova(table, names, **options)
    shuffled = ancova(table.sample(frac=1, random_state=1), names, **options)
    pd.testing.assert_frame_equal(there, shuffled)
    numbers = ["f", "p", "d", "slopes_f", "levene_p", "lilliefors_d", "skewness"]
    # Units, and covariates of another coding or so large that their squares lose digits.
    other = table.assign(y=7 * table.y + 1e6, age=1e7 + 1e-3 * table.age, sex=table.sex.map({"F": 3.0, "M": 1.0}))
    moved = ancova(other, names, **options)
    np.testing.assert_allclose(moved[numbers], there[numbers], rtol=1e-5)
    assert moved.adjusted_mean_MS[0] == pytest.approx(7 * there.adjusted_mean_MS[0] + 1e6)
    backwards = ancova(table, names, covariates=["sex", "age"], order=["HC", "MS"])
    np.testing.assert_allclose(backwards[["f", "p"]], there[["f", "p"]], rtol=1e-9)
    np.testing.assert_allclose(backwards["difference"], -there["difference"], rtol=1e-9)


@pytest.mark.long
def test_under_the_null_p_is_uniform():
    rng = np.random.default_rng(0)
    table = cohort(4)
    slopes = rng.normal(size=250)
    data = table.age.to_numpy()[:, None] * slopes + rng.normal(size=(60, 250))  # age differs between the groups
    wide = pd.concat([table, pd.DataFrame(data).add_prefix("v")], axis=1)
    found = ancova(wide, [f"v{i}" for i in range(250)], covariates=["age", "sex"])
    for column in ("p", "slopes_p"):
        assert stats.kstest(found[column], "uniform").pvalue > 0.001
    noise = ancova(wide.assign(**{f"v{i}": rng.normal(size=60) for i in range(250)}), list(found.variable))
    assert (noise.levene_p < 0.05).mean() == pytest.approx(0.045, abs=0.03)
    assert (noise.lilliefors_p < 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (
        stats.kstest(ancova(wide, list(found.variable))["p"], "uniform").pvalue < 1e-6
    )  # what age does, without it


def test_missing_values_are_left_out_of_their_analysis():
    table = cohort(5)
    table.loc[:6, "y"] = np.nan
    table.loc[50:, "sex"] = np.nan
    table.loc[20, "group"] = np.nan
    table["nothing"] = np.nan
    table["patients"] = table.z.where(table.group == "MS")
    table["same"], table["age2"] = 3.0, 2 * table.age + 1
    names = ["y", "z", "nothing", "patients", "same", "age2"]
    found = ancova(table, names, covariates=["age", "sex"], order=["MS", "HC"]).set_index("variable")
    whole = table.dropna(subset=["group", "sex", "y"])
    direct = ancova(whole, ["y"], covariates=["age", "sex"], order=["MS", "HC"]).iloc[0]
    assert (found.n["y"], found.n["z"], direct.n) == (42, 49, 42)
    assert found.n_MS["y"] == (whole.group == "MS").sum()
    assert (found.f["y"], found.difference["y"]) == pytest.approx((direct.f, direct.difference))
    notes = found.note.fillna("")
    assert notes["nothing"] == "0 participants of MS with all values; at least 2 are needed"
    assert notes["patients"] == "0 participants of HC with all values; at least 2 are needed"
    assert notes["same"] == "same value in all participants"
    assert notes["age2"] == "no variance remains within the groups, given the covariates"
    assert (notes[["y", "z"]] == "").all()
    # They do not count in the family.
    assert (found.family_size == 2).all()
    assert found.loc[["nothing", "patients", "same", "age2"], ["f", "p", "p_corrected", "d"]].isna().all(axis=None)
    assert found.mean_MS["patients"] == pytest.approx(
        table.patients[table.sex.notna() & table.group.notna()].mean()
    )


def test_a_covariate_that_is_constant_within_a_group():
    """It has no slope there; the test of slopes is that of the rest."""
    table = cohort(6)
    table["dose"] = np.where(table.group == "MS", table.w, 0.0)
    first = (table.group == "MS").to_numpy(dtype=float)
    y, age, dose = (table[name].to_numpy() for name in ("y", "age", "dose"))
    row = ancova(table, ["y"], covariates=["age", "dose"]).iloc[0]
    full, larger = (sse(y, np.ones(60), first, age, dose, *extra) for extra in ((), (first * age,)))
    assert row.slopes_df == 1
    assert row.slopes_f == pytest.approx((full - larger) / (larger / 55))


def test_families():
    table = cohort(7)
    names = ["y", "z", "w"]
    p = ancova(table, names).p.to_numpy()
    together = ancova(table, names, correction="bonferroni")
    np.testing.assert_allclose(together.p_corrected, np.minimum(3 * p, 1))
    assert set(together.family) == {"all"}
    order = np.argsort(p)
    stepped = np.minimum.accumulate((p[order] * 3 / np.arange(1, 4))[::-1])[::-1]
    np.testing.assert_allclose(ancova(table, names).p_corrected[order], stepped)
    two = ancova(table, names, families={"one": ["y"], "rest": ["[zw]"]}, correction="bonferroni")
    np.testing.assert_allclose(two.p_corrected, np.minimum(p * [1, 2, 2], 1))
    assert list(two.family_size) == [1, 2, 2]
    assert ancova(table, names, correction="none").p_corrected.isna().all()
    for families, says in (
        ({"a": ["y"], "b": ["*"]}, "y is in two families, a and b"),
        ({"a": ["y", "z"]}, "w is in no family; each variable must be in one of a"),
        ({"a": ["*"], "b": ["x*"]}, "family b has nothing named 'x"),
    ):
        with pytest.raises(ValueError, match=says):
            assign_families(names, families)


def test_logarithms():
    table = cohort(8, 80)
    rng = np.random.default_rng(0)
    table["load"] = np.exp(rng.normal(1, 1, 80))
    table["zeros"] = np.where(np.arange(80) < 3, 0.0, table["load"])
    table["mirror"] = -table["load"]
    table["worse"] = np.where(np.arange(80) == 5, 1e-9, rng.exponential(size=80))
    table["left"] = table["load"].max() + 1 - table["load"]
    options = {"covariates": ["age"], "order": ["MS", "HC"]}
    names = ["y", "load", "zeros", "mirror", "left", "worse"]
    plain = ancova(table, names, **options).set_index("variable")
    auto = ancova(table, names, log=["auto"], **options).set_index("variable")
    c = table.zeros[table.zeros > 0].min() / 2
    assert dict(auto["transform"]) == {
        "y": "none", "load": "log(x)", "zeros": f"log(x + {c:.8g})", "mirror": "none", "left": "none",
        "worse": "none",
    }  # fmt: skip
    assert (plain["transform"] == "none").all()
    pd.testing.assert_frame_equal(
        auto.loc[["y", "mirror", "left", "worse"]].drop(columns="p_corrected"),
        plain.loc[["y", "mirror", "left", "worse"]].drop(columns="p_corrected"),
    )
    by_hand = table.assign(load=np.log(table.load), zeros=np.log(table.zeros + c))
    logged = ancova(by_hand, names, **options).set_index("variable")
    same = [name for name in auto.columns if name.split("_")[0] not in ("transform", "mean", "sd")]
    same.remove("skewness_before")
    pd.testing.assert_frame_equal(auto.loc[["load", "zeros"], same], logged.loc[["load", "zeros"], same])
    # Described as they are; the skewness that was the reason is kept.
    assert auto.mean_MS["load"] == pytest.approx(table["load"][table.group == "MS"].mean())
    assert auto.skewness_before["load"] == pytest.approx(plain.skewness["load"])
    assert plain.skewness["load"] > 1 > abs(auto.skewness["load"])
    assert plain.skewness["worse"] > 1
    assert plain.lilliefors_p["worse"] < 0.05
    # Its constant scales with the unit.
    other = ancova(table.assign(zeros=table.zeros * 1000), ["zeros"], log=["zeros"], **options).iloc[0]
    assert (other.f, other.difference) == pytest.approx((auto.f["zeros"], auto.difference["zeros"]))
    forced = ancova(table, ["y", "w"], log=["y"], **options)
    assert list(forced["transform"]) == ["log(x)", "none"]
    with pytest.raises(ValueError, match="mirror has negative values"):
        ancova(table, ["mirror"], log=["mirror"], **options)


@pytest.mark.parametrize(
    ("options", "change", "says"),
    [
        ({"group": "team"}, {}, "no column 'team'"),
        ({"variables": ["x"]}, {}, "no column 'x'"),
        ({"variables": ["sex"]}, {}, "'sex' is text"),
        ({"variables": ["y", "y"]}, {}, "already"),
        ({"covariates": ["y"]}, {}, "y cannot be a variable"),
        ({"covariates": ["height"]}, {}, "no column 'height'"),
        ({"covariates": ["group"]}, {}, "list each once, without the group"),
        ({"covariates": ["age", "age"]}, {}, "each once"),
        ({"order": ["MS", "CIS"]}, {}, "no participant has group 'CIS'; the groups are HC, MS"),
        ({"order": ["MS"]}, {}, "two different"),
        ({"order": ["MS", "MS"]}, {}, "two different"),
        ({}, {"group": "MS"}, "two different"),
        ({}, {"group": ["HC"] + ["MS"] * 59}, "HC has one participant"),
        ({"covariates": ["age"]}, {"age": 40.0}, "covariate age has the same value in all participants"),
        ({"covariates": ["sex"]}, {"sex": "F"}, "covariate sex has the same value in all participants"),
        ({"covariates": ["age", "z"]}, {"z": "twice"}, "z is determined by the group and the other covariates"),
        ({"covariates": ["z"]}, {"z": "group"}, "z is determined by the group"),
        ({"covariates": ["z"]}, {"z": "patients"}, "0 participants of HC"),
        ({"covariates": ["participant_id"]}, {}, "60 participants are too few for 61 coefficients"),
        ({"covariates": ["z"]}, {"z": np.inf}, "'z' has an infinite value"),
        ({}, {"y": np.inf}, "'y' has an infinite value"),
        ({"correction": "holm"}, {}, "correction 'holm'"),
        ({"log": ["q*"]}, {}, "nothing named 'q"),
    ],
)
def test_analyses_that_cannot_be(options, change, says):
    table = cohort()
    special = {
        "twice": 2 * table.age - 3,
        "group": (table.group == "MS") * 1.0,
        "patients": table.z.where(table.group == "MS"),
    }
    table = table.assign(
        **{name: special[v] if isinstance(v, str) and v in special else v for name, v in change.items()}
    )
    options = {"variables": ["y"], **options}
    with pytest.raises(ValueError, match=says):
        ancova(table, options.pop("variables"), options.pop("group", "group"), **options)


# -- assumptions ----------------------------------------------------------------------------------------------------

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.10: gear diameters of ten batches; W = 1.705910.
GEAR = """
1.006 0.996 0.998 1.000 0.992 0.993 1.002 0.999 0.994 1.000 0.998 1.006 1.000 1.002 0.997 0.998 0.996 1.000 1.006 0.988
0.991 0.987 0.997 0.999 0.995 0.994 1.000 0.999 0.996 0.996 1.005 1.002 0.994 1.000 0.995 0.994 0.998 0.996 1.002 0.996
0.998 0.998 0.982 0.990 1.002 0.984 0.996 0.993 0.980 0.996 1.009 1.013 1.009 0.997 0.988 1.002 0.995 0.998 0.981 0.996
0.990 1.004 0.996 1.001 0.998 1.000 1.018 1.010 0.996 1.002 0.998 1.000 1.006 1.000 1.002 0.996 0.998 0.996 1.002 1.006
1.002 0.998 0.996 0.995 0.996 1.004 1.004 0.998 0.999 0.991 0.991 0.995 0.984 0.994 0.997 0.997 0.991 0.998 1.004 0.997
"""


def test_levene_as_nist_prints_it():
    gear, batch = np.array(GEAR.split(), dtype=float), np.repeat(np.arange(10), 10)
    assert check_assumptions(gear, batch, gear - gear.mean()).levene_f == pytest.approx(1.705910, abs=1e-5)


def test_normality():
    rng = np.random.default_rng(0)
    group = np.repeat(["a", "b"], 50)
    normal = check_assumptions(np.arange(100), group, stats.norm.ppf((np.arange(100) + 0.5) / 100))
    assert normal.lilliefors_p > 0.2
    assert not normal.skewed
    assert abs(normal.skewness) < 1e-9
    # Lilliefors (1967), table 1, the level .05: .886/√n for large n.
    d = np.array(
        [check_assumptions(rng.normal(size=100), group, rng.normal(size=100)).lilliefors_d for _ in range(300)]
    )
    assert (d > 0.886 / 10).mean() == pytest.approx(0.05, abs=0.03)
    assert check_assumptions(np.arange(100), group, rng.exponential(size=100)).skewed
    seven = np.array([0, 0.4, 0.5, 0.9, 1.2, 1.4, 3.2])
    chance = check_assumptions(seven, group[:7], seven - seven.mean())
    assert chance.skewness > 1
    assert chance.lilliefors_p > 0.05
    assert not chance.skewed  # so few values may look like that
    few = check_assumptions([1.0, 2, 3], ["a", "a", "b"], [0.0, 1, -1])
    assert np.isnan([few.levene_f, few.levene_p, few.lilliefors_d, few.lilliefors_p, few.skewness]).all()
    assert not few.skewed


# -- demographics ---------------------------------------------------------------------------------------------------


def described(test="", **samples):
    """Demographics of one variable from its values in each group."""
    table = pd.DataFrame({"group": np.repeat(list(samples), [len(v) for v in samples.values()])})
    table["x"] = np.concatenate([np.asarray(v) for v in samples.values()])
    return demographics(table, ["x"], order=list(samples), tests={"x": test} if test else None)


def test_tests_as_r_prints_them():
    """Examples of R's help pages, their data and output: t.test, wilcox.test, fisher.test, chisq.test."""
    sleep = {
        "a": [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0, 2],
        "b": [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
    }
    row = described("welch", **sleep).iloc[0]
    assert (row.statistic, row.df, row.p) == pytest.approx((-1.8608, 17.776, 0.07939), abs=5e-4)
    row = described("student", **sleep).iloc[0]
    assert (row.statistic, row.df, row.p) == pytest.approx((-1.8608, 18, 0.07919), abs=5e-5)
    permeability = {
        "at": [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46], "between": [1.15, 0.88, 0.90, 0.74, 1.21],
    }  # fmt: skip
    row = described("mannwhitney", **permeability).iloc[0]
    assert (row.statistic, row.p) == pytest.approx((35, 2 * 0.1272), abs=1e-4)  # R prints the one-sided p
    assert row.summary_between == "median 0.90 (0.88–1.15)"
    tea = described(Milk=["Milk"] * 3 + ["Tea"], Tea=["Milk"] + ["Tea"] * 3)
    assert list(tea.test) == ["fisher", "fisher"]
    assert tea.p[0] == pytest.approx(34 / 70)  # of 70 ways to choose four cups, 34 are as likely or less
    convictions = described(
        dizygotic=["convicted"] * 2 + ["not"] * 15, monozygotic=["convicted"] * 10 + ["not"] * 3
    )
    assert convictions.p[0] == pytest.approx(0.0005367, abs=5e-8)
    assert convictions.statistic[0] == pytest.approx(2 * 3 / (15 * 10))
    parties = ["Democrat", "Independent", "Republican"]
    gender = described(F=np.repeat(parties, [762, 327, 468]), M=np.repeat(parties, [484, 239, 477]))
    assert list(gender.level) == parties
    assert list(gender.test) == ["chi2"] * 3
    assert (gender.statistic[0], gender.df[0]) == pytest.approx((30.07, 2), abs=5e-3)
    assert gender.p[0] == pytest.approx(2.954e-07, abs=5e-11)
    assert gender.summary_F[1] == "327 of 1557 (21 %)"
    assert gender.note.isna().all()


@pytest.mark.parametrize(
    ("test", "shown"), [("student", r"\d+\.(\d+) \(\d+\.(\d+)\)"), ("mannwhitney", r"\.(\d+)")]
)
def test_groups_of_a_row_have_the_same_decimals(test, shown):
    """Two digits of the root mean square of the groups' SDs or interquartile ranges, whichever group is the wider."""
    x = np.arange(40.0)
    for scale in (0.003, 0.3):
        row = described(test, A=x * scale, B=x * scale / 50 + 1).iloc[0]
        found = {len(d) for text in (row.summary_A, row.summary_B) for each in re.findall(shown, text) for d in
                 ([each] if isinstance(each, str) else each)}  # fmt: skip
        spreads = [x.std(ddof=1) * scale, x.std(ddof=1) * scale / 50]
        if test == "mannwhitney":
            spreads = [np.subtract(*np.quantile(x, [0.75, 0.25])) * s for s in (scale, scale / 50)]
        assert found == {max(1, 1 - int(np.floor(np.log10(np.sqrt(np.mean(np.square(spreads)))))))}


def test_the_test_fits_the_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(38.3, 11, 91), rng.normal(41.6, 11, 55)
    row = described(MS=a, HC=b).iloc[0]
    expected = stats.ttest_ind(a, b)
    assert row.test == "student"
    assert (row.statistic, row.df, row.p) == pytest.approx((expected.statistic, 144, expected.pvalue))
    assert row.summary_MS == f"{a.mean():.1f} ({a.std(ddof=1):.1f})"
    assert (row.n_HC, row.mean_HC, row.sd_HC) == pytest.approx((55, b.mean(), b.std(ddof=1)))
    assert (row.q1_MS, row.median_MS, row.q3_MS) == pytest.approx(tuple(np.quantile(a, [0.25, 0.5, 0.75])))
    assert described(MS=a, HC=41.6 + 0.2 * (b - 41.6)).test[0] == "welch"
    skewed = described(MS=np.exp(a / 11), HC=np.exp(b / 11)).iloc[0]
    ranks = stats.rankdata(np.r_[a, b])
    assert skewed.test == "mannwhitney"
    assert skewed.statistic == pytest.approx(ranks[:91].sum() - 91 * 92 / 2)
    edss = described(MS=[1, 1.5, 2, 3.5, 4, 6, 6.5], HC=[0, 0, 1, 1, 1.5, 0, 2]).iloc[0]
    assert (edss.test, edss.summary_MS) == ("mannwhitney", "median 3.5 (1.8–5.0)")
    assert edss.p == pytest.approx(stats.mannwhitneyu([1, 1.5, 2, 3.5, 4, 6, 6.5], [0, 0, 1, 1, 1.5, 0, 2]).pvalue)
    # 0 and 1 are counted; a test of means may be wanted all the same.
    female = described(MS=[1.0] * 54 + [0] * 37, HC=[1.0] * 27 + [0] * 28)
    assert list(female.level) == ["0", "1"]
    assert list(female.summary_MS) == ["37 of 91 (41 %)", "54 of 91 (59 %)"]
    assert female.p[0] == pytest.approx(stats.fisher_exact([[37, 54], [28, 27]]).pvalue)
    # Pearson's formula for four counts, n (ad - bc)² / (product of the margins), without Yates' correction.
    chi2 = described("chi2", MS=[1.0] * 54 + [0] * 37, HC=[1.0] * 27 + [0] * 28).iloc[0]
    assert (chi2.test, chi2.df) == ("chi2", 1)
    assert chi2.statistic == pytest.approx(146 * (54 * 28 - 37 * 27) ** 2 / (91 * 55 * 81 * 65))
    # Whole numbers of many values are no ordinal scale.
    assert described(MS=np.rint(a), HC=np.rint(b)).test[0] == "student"
    assert described("student", MS=[1.0, 0, 1], HC=[1.0, 0, 0]).test[0] == "student"


def test_three_groups_described():
    rng = np.random.default_rng(2)
    samples = {level: rng.normal(i, 1, 20 + i) for i, level in enumerate("abc")}
    row, expected = described(**samples).iloc[0], stats.f_oneway(*samples.values())
    assert row.test == "anova"
    assert (row.statistic, row.df, row.df_residual, row.p) == pytest.approx(
        (expected.statistic, 2, 60, expected.pvalue)
    )
    row, expected = described("kruskal", **samples).iloc[0], stats.kruskal(*samples.values())
    assert (row.statistic, row.df, row.p) == pytest.approx((expected.statistic, 2, expected.pvalue))
    # Welch (1951, Biometrika 38:330), written out.
    row = described("welch_anova", **samples).iloc[0]
    n, m, v = (np.array([f(x) for x in samples.values()]) for f in (len, np.mean, lambda x: np.var(x, ddof=1)))
    w = n / v
    grand = (w * m).sum() / w.sum()
    lack = ((1 - w / w.sum()) ** 2 / (n - 1)).sum()
    f = ((w * (m - grand) ** 2).sum() / 2) / (1 + 2 * 1 / 8 * lack)
    assert (row.statistic, row.df, row.df_residual) == pytest.approx((f, 2, 8 / (3 * lack)))
    assert row.p == pytest.approx(stats.f.sf(f, 2, 8 / (3 * lack)))
    wide = {"a": samples["a"], "b": samples["b"], "c": 20 * samples["c"]}
    assert described(**wide).test[0] == "welch_anova"
    few = described(a=["x", "y"], b=["x", "x", "y"], c=["y"] * 9)
    assert few.note[0] == "5 of 6 expected counts below 5"


def test_values_that_are_not_compared():
    table = cohort(9)
    patients = table.group == "MS"
    table["edss"] = np.where(patients, np.arange(60) % 9 / 2, np.nan)
    table["course"] = np.where(patients, np.where(np.arange(60) % 4, "RRMS", "PMS"), None)
    table["site"], table["scanner"], table["nothing"] = "here", 3.0, np.nan
    table["one"] = np.where(patients | (table.index == np.flatnonzero(~patients)[0]), table.z, np.nan)
    names = ["edss", "course", "site", "scanner", "nothing", "one"]
    found = demographics(table, names, order=["MS", "HC"])
    assert found.test.isna().all()
    assert found.p.isna().all()
    notes = found.drop_duplicates("variable").set_index("variable").note
    assert dict(notes) == {
        "edss": "values in MS only", "course": "values in MS only", "site": "same value in all participants",
        "scanner": "same value in all participants", "nothing": "no values", "one": "one value in HC",
    }  # fmt: skip
    edss = found.iloc[0]
    assert edss.summary_MS.startswith("median ")
    assert edss.n_HC == 0
    assert pd.isna(edss.summary_HC)
    course = found[found.variable == "course"]
    assert list(course.level) == ["PMS", "RRMS"]
    assert list(course.count_MS) == [int((table.course == v).sum()) for v in ("PMS", "RRMS")]
    # Of three groups, those that have values are compared.
    three = pd.DataFrame({"group": list("aaabbbccc"), "x": [1.1, 2.3, 3.2, 4.4, 5.1, 6.7, *[np.nan] * 3]})
    row = demographics(three, ["x"], tests={"x": "student"}).iloc[0]
    assert row.note == "values in a, b only"
    assert row.p == pytest.approx(stats.ttest_ind([1.1, 2.3, 3.2], [4.4, 5.1, 6.7]).pvalue)


@pytest.mark.parametrize(
    ("variables", "tests", "says"),
    [
        (["height"], {}, "no column 'height'"),
        (["group"], {}, "group cannot be described"),
        (["age"], {"age": "anova"}, "age: the test anova does not compare 2 groups; expected student, welch"),
        (["age"], {"age": "t"}, "the test 't'"),
        (["age"], {"sex": "fisher"}, "sex, which is not among"),
        (["sex"], {"sex": "student"}, "sex: the test student is for numbers"),
        (
            ["age"],
            {"age": "fisher"},
            "age: Fisher's exact test is for at most 20 categories; these are 2 × 60 counts",
        ),
    ],
)
def test_demographics_that_cannot_be(variables, tests, says):
    with pytest.raises(ValueError, match=says):
        demographics(cohort(), variables, tests=tests)


def test_groups_of_a_table():
    table = pd.DataFrame({"group": [2.0, 10, 2, 10, np.nan, 1, 1]})
    assert assign_groups(table, "group").levels == ("1", "2", "10")
    some = assign_groups(table, "group", ["10", "2"])
    assert list(some.codes) == [1, 0, 1, 0, -1, -1, -1]
    assert some.counts() == {"10": 2, "2": 2}


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    table = cohort(11)
    table.loc[3, "group"], table.loc[7, "z"] = np.nan, np.nan
    table.to_csv(tmp_path / "people.tsv", sep="\t", index=False, na_rep="n/a")
    monkeypatch.chdir(tmp_path)
    return pd.read_csv("people.tsv", sep="\t")


COMMAND = ["--table", "people.tsv", "--group", "group", "--order", "MS,HC", "--out", "found"]
FAMILIES = ["--covariates", "age,sex", "--family", "first=y", "--family", "rest=z,w"]


def test_the_command(folder, capsys):
    assert command(*COMMAND, *FAMILIES, "--demographics", "age,sex", "--test", "age=welch") == 0
    said = capsys.readouterr().out.splitlines()
    table = pd.read_csv("found.tsv", sep="\t")
    expected = ancova(
        folder, ["y", "z", "w"], order=["MS", "HC"], covariates=["age", "sex"],
        families={"first": ["y"], "rest": ["z", "w"]},
    )  # fmt: skip
    pd.testing.assert_frame_equal(table, expected, rtol=1e-6, check_dtype=False)
    people = pd.read_csv("found_demographics.tsv", sep="\t")
    assert list(people.variable) == ["age", "sex", "sex"]
    assert list(people.test) == ["welch", "fisher", "fisher"]
    record = json.loads(Path("found.json").read_text())
    assert record["order"] == ["MS", "HC"]
    assert record["n"] == {level: int((folder.group == level).sum()) for level in ("MS", "HC")}
    assert record["n_left_out"] == {"group_missing": 1, "other_group": 0}
    assert record["ancova"]["families"] == {"first": ["y"], "rest": ["z", "w"]}
    assert record["ancova"]["difference"] == "MS - HC"
    assert record["demographics"]["tests"] == {"age": "welch", "sex": "fisher"}
    assert len(record["inputs"]["people.tsv"]) == 64
    assert set(record["ancova"]["columns"]) == set(table.columns)
    assert set(record["demographics"]["columns"]) == set(people.columns)
    assert said[0] == "1 excluded: no group, or one other than MS, HC"
    assert said[1] == "values or covariates are missing: 58 participants in the smallest analysis"
    low = int((expected.p_corrected < 0.05).sum())
    assert said[2].endswith(f": {low} of 3 variables differ with corrected p (fdr_bh) < 0.05")


def test_subsets_and_parts(folder, capsys):
    assert (
        command(*COMMAND, "--variables", "*", "--covariates", "age", "--subset", "age <= 42 and sex == 'F'") == 0
    )
    chosen = folder[(folder.age <= 42) & (folder.sex == "F")]
    table = pd.read_csv("found.tsv", sep="\t")
    assert list(table.variable) == ["y", "z", "w"]  # neither text, nor the covariate
    expected = ancova(chosen, ["y", "z", "w"], order=["MS", "HC"], covariates=["age"])
    np.testing.assert_allclose(table.f, expected.f, rtol=1e-6)
    assert not Path("found_demographics.tsv").exists()
    assert command(*COMMAND[:-1], "people_only", "--demographics", "age") == 0
    assert not Path("people_only.tsv").exists()
    assert command(*COMMAND, "--variables", "w", "--log", "w", "--correction", "none") == 0
    assert json.loads(Path("found.json").read_text())["ancova"]["transforms"] == {"w": "log(x)"}
    assert "differ with p < 0.05" in capsys.readouterr().out


def test_whom_a_subset_leaves_out_is_told(folder, capsys):
    """Those for whom it is false, and those who lack a value: of three older than 50, one may be."""
    folder["years"] = 40.0
    folder.loc[[0, 1], "years"], folder.loc[5, "years"] = 60, np.nan
    folder.to_csv("people.tsv", sep="\t", index=False, na_rep="n/a")
    for condition in ("years <= 50", "not years > 50  # young"):
        assert command(*COMMAND, "--variables", "w", "--subset", condition) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"the condition {condition!r} excludes 3 of 60 rows: false for 2, missing values in 1"
        assert json.loads(Path("found.json").read_text())["subset_leaves_out"] == {"false": 2, "value_missing": 1}
    assert command(*COMMAND, "--variables", "w", "--subset", "years > 0 or age > 0") == 0
    assert "excludes" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--table", "none.tsv"], ["none.tsv"]),
        (["--group", "team"], ["people.tsv", "'team'"]),
        (["--order", "MS,CIS"], ["people.tsv", "'CIS'", "HC, MS"]),
        (["--covariates", "weight"], ["people.tsv", "'weight'"]),
        (["--variables", "sex"], ["people.tsv", "'sex' is text"]),
        (["--variables", "q*"], ["people.tsv", "'q*'"]),
        (["--variables", "age", "--covariates", "age"], ["people.tsv", "age cannot be a variable"]),
        (["--family", "a=y"], ["z is in no family", "of a"]),
        (["--family", "a=y,z", "--family", "b=z,w"], ["z is in two families, a and b"]),
        (["--family", "a=y,z,w", "--family", "b=q"], ["family b", "'q'"]),
        (["--family", "a"], ["--family", "NAME=VALUE"]),
        (["--family", "a=y", "--family", "a=z"], ["--family a is given twice"]),
        (["--subset", "agee > 3"], ["--subset", "people.tsv", "agee"]),
        (["--subset", "age > 300"], ["--subset", "age > 300", "no participant"]),
        (["--subset", "group == 'MS'"], ["people.tsv", "subset", "'HC'"]),
        (["--subset", "sex == 'F'", "--covariates", "sex"], ["subset", "sex", "same value in all participants"]),
        (["--log", "z"], ["--log", "z has negative values"]),
        (["--correction", "holm"], ["holm"]),
        (
            ["--table", "slip.tsv", "--covariates", "age,sex"],
            ["slip.tsv: age of p4 is 'forty'; expected a number"],
        ),
        (["--demographics", "height"], ["people.tsv", "'height'"]),
        (["--demographics", "age", "--test", "age=anova"], ["people.tsv", "anova"]),
        (["--test", "age=welch"], ["age", "not among the demographics"]),
        (["--rois", "none.tsv"], ["none.tsv"]),
        (["--clusters", "iron=none.tsv"], ["none.tsv"]),
        (["--out", "none/x"], ["none"]),
        (["--out", "people"], ["people.tsv", "overwrite"]),
        (["--out", "people", "--rois", "other.tsv"], ["people.tsv", "overwrite"]),
    ],
)
def test_refusals(extra, says, folder, capsys):
    slip = folder.astype({"age": object}).assign(participant_id=[f"p{i}" for i in range(len(folder))])
    slip.loc[4, "age"] = "forty"
    slip.to_csv("slip.tsv", sep="\t", index=False, na_rep="n/a")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert command(*overriding([*COMMAND, "--variables", "y,z,w"], extra)) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuvox groups: ")
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_missing_options_and_nothing_to_do(folder, capsys):
    for name in ("table", "out"):
        at = COMMAND.index(f"--{name}")
        assert command(*COMMAND[:at], *COMMAND[at + 2 :]) == 2
        assert f"--{name} is missing" in capsys.readouterr().err
    assert command(*COMMAND) == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_text_of_several_lines_is_written_so_that_it_is_read(folder):
    folder["x"] = np.where(np.arange(60) % 3, 'a\n\t"b', "c")
    folder.to_csv("people.tsv", index=False, na_rep="n/a")
    assert command(*COMMAND, "--variables", "y", "--demographics", "x") == 0
    assert files.read_table("found_demographics.tsv")["level"].tolist() == ['a\n\t"b', "c"]


# -- the phantom ----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_studys_findings(tmp_path, monkeypatch):
    """Which structures, which sign; the truth's own table gives the same within the error of measurement."""
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "c", "--scale", "small", "--quiet"]) == 0
    assert main(["ironmyelin", "--table", "c/participants.tsv", "--out", "m", "--quiet"]) == 0
    rois = "rois --table c/participants.tsv --labels c/template/labels --names c/template/labels.tsv --map iron=m/iron"
    rois += " --map myelin=m/myelin --jacobian jacobian --merge thalamus=thalamus_* --out r.tsv --quiet"
    assert main(rois.split()) == 0
    families = [
        part for name in ("volume", "iron", "myelin", "iron.mass") for part in ("--family", f"{name}=*.{name}")
    ]
    assert command(
        "--table", "c/participants.tsv", "--group", "group", "--order", "MS,HC", "--rois", "r.tsv", "--out", "g",
        "--covariates", "age,sex", "--demographics", "age,sex,edss,phenotype,brain_volume", *families,
    ) == 0  # fmt: skip
    found = pd.read_csv("g.tsv", sep="\t").set_index("variable")
    assert (found.df_residual == 142).all()
    np.testing.assert_allclose(abs(found.d), 2 * np.sqrt(found.f) / np.sqrt(142), rtol=1e-6)
    clear = found.d.where(found.p_corrected < 0.05, 0)
    for structure in ("thalamus", "caudate", "putamen", "pallidum"):
        assert clear[f"{structure}.volume"] < 0
    for structure in ("caudate", "putamen", "pallidum"):
        assert clear[f"{structure}.iron"] > 0
    assert clear["thalamus.iron"] < 0
    assert clear["thalamus_medial.iron"] < 0
    iron = found[found.family == "iron"]
    assert iron.d.idxmin() == "thalamus_pulvinar.iron"
    assert clear["thalamus_pulvinar.iron.mass"] < 0
    people, truth = pd.read_csv("c/participants.tsv", sep="\t"), pd.read_csv("c/truth/parts.tsv", sep="\t")
    for name, kind in (("thalamus_pulvinar", "volume"), ("pallidum", "iron")):
        true = truth[truth.part == name].set_index("participant_id").loc[people.participant_id, kind].to_numpy()
        X = np.column_stack([np.ones(146), people.group == "MS", people.age, people.sex == "M"]).astype(float)
        difference = np.linalg.lstsq(X, true, rcond=None)[0][1]
        row = found.loc[f"{name}.{kind}"]
        assert row.difference == pytest.approx(difference, abs=row.difference_se)
    cohort_table = pd.read_csv("g_demographics.tsv", sep="\t").set_index("variable")
    assert cohort_table.loc["sex", "summary_MS"].iloc[0] == "54 of 91 (59 %)"
    assert cohort_table.loc["edss", "note"] == "values in MS only"
    assert cohort_table.loc["brain_volume", "p"] < 0.001


def test_columns_are_documented():
    text = (Path(__file__).parent.parent / "docs" / "groups.md").read_text()
    for name in (*ANCOVA, *DEMOGRAPHICS):
        assert f"`{name.format(group='<group>')}`" in text


# -- pairs, effect sizes, one group alone, several comparisons ---------------------------------------------------------

# R's warpbreaks (Tippett 1950): breaks by wool and tension. TukeyHSD(aov(breaks ~ wool + tension), "tension") prints:
WARPBREAKS = {
    ("A", "L"): "26 30 54 25 70 52 51 26 67", ("A", "M"): "18 21 29 17 12 18 35 30 36",
    ("A", "H"): "36 21 24 18 10 43 28 15 26", ("B", "L"): "27 14 29 19 29 31 41 20 44",
    ("B", "M"): "42 26 19 16 39 28 21 39 29", ("B", "H"): "20 21 24 17 13 15 15 16 28",
}  # fmt: skip
TUKEY = {
    ("M", "L"): (-10.000000, -19.35342, -0.6465793, 0.0336262),
    ("H", "L"): (-14.722222, -24.07564, -5.3688015, 0.0011218),
    ("H", "M"): (-4.722222, -14.07564, 4.6311985, 0.4474210),
}


def warpbreaks():
    rows = [(*key, float(value)) for key, text in WARPBREAKS.items() for value in text.split()]
    return pd.DataFrame(rows, columns=["wool", "tension", "breaks"])


def test_pairs_as_r_prints_them():
    options = {"order": ["H", "M", "L"], "covariates": ["wool"]}
    pairs = compare_groups(warpbreaks(), ["breaks"], "tension", Multiplicity(pairs="tukey"), **options)[
        1
    ].set_index(["first", "second"])
    for key, (difference, low, high, p) in TUKEY.items():
        row = pairs.loc[key]
        assert row["difference"] == pytest.approx(difference, abs=1e-6)
        assert [row["difference_low"], row["difference_high"]] == pytest.approx([low, high], abs=2e-5)
        assert row["p_adjusted"] == pytest.approx(p, abs=2e-5)
    t = pairs["t"].to_numpy()
    np.testing.assert_allclose(pairs["p"], 2 * stats.t.sf(abs(t), 50), rtol=1e-9)
    p = pairs["p"].to_numpy()
    steps = np.empty(3)
    steps[np.argsort(p)] = np.maximum.accumulate(np.sort(p) * [3, 2, 1]).clip(max=1)
    expected = {"bonferroni": np.minimum(3 * p, 1), "sidak": 1 - (1 - p) ** 3, "holm": steps, "none": p}
    ends = {"bonferroni": 0.05 / 3, "sidak": 1 - 0.95 ** (1 / 3), "holm": 0.05, "none": 0.05}
    for method, adjusted in expected.items():
        other = compare_groups(warpbreaks(), ["breaks"], "tension", Multiplicity(pairs=method), **options)[1]
        np.testing.assert_allclose(other["p_adjusted"], adjusted, rtol=1e-9)
        half = stats.t.isf(ends[method] / 2, 50) * other["difference_se"]
        np.testing.assert_allclose(other["difference_high"] - other["difference"], half, rtol=1e-9)


def test_cohens_d_of_pairs_is_in_units_of_the_sd_within_groups():
    table = warpbreaks().iloc[:-3]
    pairs = compare_groups(table, ["breaks"], "tension", Multiplicity(pairs="tukey"), order=["H", "M", "L"])[1]
    pairs = pairs.set_index(["first", "second"])
    y = {level: part["breaks"].to_numpy() for level, part in table.groupby("tension")}
    df = len(table) - 3
    sd = np.sqrt(sum(((x - x.mean()) ** 2).sum() for x in y.values()) / df)
    for (first, second), row in pairs.iterrows():
        assert row["d"] == pytest.approx((y[first].mean() - y[second].mean()) / sd)
        factor = np.sqrt(1 / len(y[first]) + 1 / len(y[second]))
        assert stats.nct.sf(row["t"], df, row["d_low"] / factor) == pytest.approx(0.025, abs=1e-6)
        assert stats.nct.cdf(row["t"], df, row["d_high"] / factor) == pytest.approx(0.025, abs=1e-6)


def test_intervals_of_effect_sizes_are_where_the_tails_are():
    for t, df in ((2.5, 40), (-0.3, 8), (9.0, 142)):
        low, high = np.array(interval_of_d(t, df)) * np.sqrt(df) / 2
        assert stats.nct.sf(t, df, low) == pytest.approx(0.025, abs=1e-6)
        assert stats.nct.cdf(t, df, high) == pytest.approx(0.025, abs=1e-6)
    for f, a, b in ((11.2, 4, 45), (6.0, 1, 142), (0.2, 2, 20)):
        eta, low, high = partial_eta_squared(f, a, b)
        assert eta == pytest.approx(1 / (1 + b / (a * f)))
        for limit, share in ((low, 0.975), (high, 0.025)):
            noncentrality = limit * (a + b + 1) / (1 - limit)
            below = stats.ncf.cdf(f, a, b, noncentrality) if limit else min(share, stats.f.cdf(f, a, b))
            assert below == pytest.approx(share if limit else below, abs=1e-6)
    assert partial_eta_squared(0.2, 2, 20)[1] == 0
    row = ancova(warpbreaks(), ["breaks"], "tension", covariates=["wool"]).iloc[0]
    assert row.eta2_partial == pytest.approx(
        2034.3 / (2034.3 + 6747.9), abs=1e-4
    )  # R: anova(aov(breaks ~ wool + tension))
    two = ancova(cohort(), ["y"], order=["MS", "HC"], covariates=["age"]).iloc[0]
    assert (two.d_low, two.d_high) == pytest.approx(
        interval_of_d(two.d * np.sqrt(two.df_residual) / 2, two.df_residual)
    )


def test_the_exact_test_of_larger_tables():
    # Agresti (2002), Categorical Data Analysis, p. 57, as in R's help of fisher.test: p-value = 0.7827
    job = np.array([[1, 2, 1, 0], [3, 3, 6, 1], [10, 10, 14, 9], [6, 7, 12, 11]])
    p, exact = exact_p(job)
    assert not exact
    assert p == pytest.approx(0.7827, abs=0.005)
    for table in ([[3, 1], [2, 9]], [[8, 2, 5], [1, 6, 4]], [[2, 3, 1], [0, 4, 2], [5, 1, 1]]):
        counts = np.array(table)
        assert exact_p(counts) == (pytest.approx(every_table(counts), rel=1e-9), True)
        assert exact_p(counts.T[::-1])[0] == pytest.approx(exact_p(counts)[0], rel=1e-9)
    assert exact_p(np.array([[3, 1], [2, 9]]))[0] == pytest.approx(stats.fisher_exact([[3, 1], [2, 9]])[1])
    table = pd.DataFrame({"group": list("aaabbbbccc"), "x": list("uuvvwwwvuu"), "participant_id": range(10)})
    row = demographics(table, ["x"], tests={"x": "fisher"}).iloc[0]
    counts = pd.crosstab(table["group"], table["x"]).to_numpy()
    assert row.p == pytest.approx(every_table(counts), rel=1e-6)


def every_table(counts):
    """Freeman and Halton's p: every table with these totals, filled in cell by cell."""
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)

    def filled(row, rest):
        if row == len(rows) - 1:
            yield (tuple(rest),)
            return
        for first in np.ndindex(*(rest + 1)):
            if sum(first) == rows[row]:
                for others in filled(row + 1, rest - first):
                    yield (first, *others)

    def probability(table):
        from scipy.special import gammaln

        return np.exp(sum(gammaln(m + 1).sum() for m in (rows, columns)) - gammaln(rows.sum() + 1)
                      - gammaln(np.array(table) + 1).sum())  # fmt: skip

    every = [probability(table) for table in filled(0, columns)]
    assert sum(every) == pytest.approx(1)
    return sum(p for p in every if p <= probability(counts) * (1 + 1e-7))


def test_one_group_alone_and_several_comparisons(tmp_path, capsys):
    table = cohort(3, 90, ("RR", "PP", "HC"))
    table["ms"] = np.where(table["group"] == "HC", "HC", "MS")
    table.to_csv(tmp_path / "people.csv", index=False)
    base = ["--table", str(tmp_path / "people.csv"), "--out", str(tmp_path / "g")]
    assert command(*base, "--group", "group", "--order", "PP", "--variables", "y,age") == 0
    row = pd.read_csv(tmp_path / "g.tsv", sep="\t").set_index("variable").loc["y"]
    y = table.loc[table["group"] == "PP", "y"]
    expected = [len(y), y.mean(), y.std(), y.min(), y.max(), y.median(), *y.quantile([0.25, 0.75])]
    names = ["n", "mean", "sd", "minimum", "maximum", "median", "q1", "q3"]
    np.testing.assert_allclose(row[names].astype(float), expected, rtol=1e-6)
    low, high = stats.t.interval(0.95, len(y) - 1, y.mean(), y.sem())
    np.testing.assert_allclose(row[["low", "high"]].astype(float), [low, high], rtol=1e-6)
    assert command(*base, "--variables", "y") == 0
    assert pd.read_csv(tmp_path / "g.tsv", sep="\t")["n"].tolist() == [90]
    assert "90: 1 variable described" in capsys.readouterr().out
    assert command(*base, "--variables", "y", "--covariates", "age") == 2
    assert "one group is described" in capsys.readouterr().err
    further = [
        "--group",
        "ms",
        "--order",
        "MS,HC",
        "--demographics",
        "age,sex,group",
        "--also",
        "course=group:RR,PP",
    ]
    assert command(*base, *further) == 0
    merged = pd.read_csv(tmp_path / "g_demographics.tsv", sep="\t", na_values="n/a").set_index("variable")
    alone = demographics(table, ["age", "sex"], order=["RR", "PP"]).set_index("variable")
    assert merged.loc["age", "summary_RR"] == alone.loc["age", "summary_RR"]
    assert merged.loc["age", "p_course"] == pytest.approx(alone.loc["age", "p"], rel=1e-6)
    assert merged.loc["sex", "p"].iloc[0] == pytest.approx(
        demographics(table, ["sex"], "ms", order=["MS", "HC"])["p"].iloc[0], rel=1e-6
    )
    assert merged.loc["group", "p_course"].isna().all()
    assert command(*base, "--group", "ms", "--order", "MS,HC", "--demographics", "age", "--also", "x=sex:F,Q") == 2
    assert "the comparison x: no participant has sex 'Q'" in capsys.readouterr().err
    assert command(*base, "--group", "group", "--variables", "y", "--posthoc", "holm") == 0
    pairs = pd.read_csv(tmp_path / "g_pairs.tsv", sep="\t")
    assert list(zip(pairs["first"], pairs["second"])) == [("HC", "PP"), ("HC", "RR"), ("PP", "RR")]
