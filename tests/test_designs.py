"""Designs of groups, change and repeated measures: matrices by hand, p by enumeration, rates of false positives."""

from __future__ import annotations

import gzip
import json
import shlex
from dataclasses import replace
from importlib import import_module
from itertools import combinations, permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import gpuvox
from gpuvox.cli import main
from gpuvox.cli.main import guarded
from gpuvox.errors import DesignError, FileError
from gpuvox.files import read_named_matrix
from gpuvox.study.designs.cross_sectional import centred, group_design
from gpuvox.study.designs.longitudinal import (
    between_design,
    find_change,
    interaction_design,
    visit_design,
)
from gpuvox.study.designs.visits import read_visits
from tests.conftest import overriding, save

SHAPE = (4, 3, 2)
V = 24


def call(line, *rest):
    """Exit status of a command, as from the shell."""
    command, *words = [*shlex.split(line), *rest]
    return guarded(command, lambda: import_module(f"gpuvox.cli.{command}").run(words))


def shuffled(design, Y, number=0):
    """Name of each test → statistic, uncorrected p, number of shuffles (0: all that there are)."""
    f_tests = design.f_tests if len(design.f_tests) else None
    done = gpuvox.randomise(
        Y, design.matrix, design.contrasts, f_tests=f_tests, blocks=design.blocks, whole_blocks=design.whole_blocks,
        flip=design.flip, n_permutations=number, seed=1, uncorrected=True, device="cpu",
    )  # fmt: skip
    names = [*design.f_names, *design.contrast_names]
    return {
        name: (result.maps["stat"], 1 - result.maps["vox_p"].astype(float), result.shuffler.n)
        for name, result in zip(names, done.tests)
    }


def weights(design, name):
    """EV → weight of a contrast, without the zeros."""
    row = design.contrasts[design.contrast_names.index(name)]
    return {ev: weight for ev, weight in zip(design.names, row) if weight}


def ols_t(X, y, contrast):
    """t of a contrast, from the definition."""
    beta, *_ = np.linalg.lstsq(X, y, rcond=None)
    df = len(X) - np.linalg.matrix_rank(X)
    variance = ((y - X @ beta) ** 2).sum(axis=0) / df
    return contrast @ beta / np.sqrt(variance * (contrast @ np.linalg.pinv(X.T @ X) @ contrast))


def sse(X, y):
    return ((y - X @ np.linalg.lstsq(X, y, rcond=None)[0]) ** 2).sum(axis=0)


# -- groups ---------------------------------------------------------------------------------------------------------

PEOPLE = pd.DataFrame(
    {
        "participant_id": ["a", "b", "c", "d", "e", "f", "g", "h"],
        "group": ["MS", "HC", "MS", "HC", "MS", "HC", "MS", "HC"],
        "course": ["RR", "HC", "PP", "HC", "RR", "HC", "PP", "HC"],
        "age": [30.0, 40, 50, 60, 34, 44, 52, 50],
        "sex": ["F", "F", "M", "F", "F", "M", "M", "F"],
        "site": ["x", "y", "z", "x", "y", "z", "x", "y"],
        "scanner": [1.0] * 8,
    }
)


def test_two_groups_by_hand():
    design = group_design(PEOPLE, "group", ["MS", "HC"], ["age", "sex", "scanner"])
    assert design.names == ("MS", "HC", "age", "sex[M]")
    patient = np.array([1.0, 0, 1, 0, 1, 0, 1, 0])
    male = np.array([0.0, 0, 1, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(design.matrix[:, 0], patient)
    np.testing.assert_array_equal(design.matrix[:, 1], 1 - patient)
    np.testing.assert_allclose(design.matrix[:, 2], PEOPLE["age"] - 45)
    np.testing.assert_allclose(design.matrix[:, 3], male - 3 / 8)
    assert design.contrast_names == ("MS > HC", "MS < HC")
    np.testing.assert_array_equal(design.contrasts, [[1, -1, 0, 0], [-1, 1, 0, 0]])
    assert design.f_tests.shape == (0, 2)
    assert (design.blocks, design.whole_blocks, design.flip) == (None, False, False)
    assert group_design(PEOPLE, "group").contrast_names == ("HC > MS", "HC < MS")


def test_three_groups_by_hand():
    design = group_design(PEOPLE, "course", ["RR", "PP", "HC"])
    assert design.contrast_names == ("RR > PP", "RR < PP", "RR > HC", "RR < HC", "PP > HC", "PP < HC")
    np.testing.assert_array_equal(design.contrasts[::2], [[1, -1, 0], [1, 0, -1], [0, 1, -1]])
    np.testing.assert_array_equal(design.f_tests, [[1, 0, 1, 0, 0, 0]])
    Y = np.random.default_rng(0).normal(size=(8, V))
    F, _, _ = shuffled(design, Y, 20)["course"]
    groups = [Y[PEOPLE["course"] == name] for name in ("RR", "PP", "HC")]
    np.testing.assert_allclose(F, stats.f_oneway(*groups).statistic, rtol=1e-4)


def test_slopes_by_hand():
    design = group_design(PEOPLE, "group", ["MS", "HC"], ["sex"], interactions=["age"], effects=["age", "sex"])
    assert design.names == ("MS", "HC", "sex[M]", "age:MS", "age:HC")
    age, patient = PEOPLE["age"] - 45, PEOPLE["group"] == "MS"
    np.testing.assert_allclose(design.matrix[:, 3], age * patient)
    np.testing.assert_allclose(design.matrix[:, 4], age * ~patient)
    assert weights(design, "age: MS > HC") == {"age:MS": 1, "age:HC": -1}
    assert weights(design, "age: MS < HC") == {"age:MS": -1, "age:HC": 1}
    assert weights(design, "age +") == {"age:MS": 0.5, "age:HC": 0.5}
    assert weights(design, "sex[M] -") == {"sex[M]": -1}
    assert weights(design, "MS > HC") == {"MS": 1, "HC": -1}
    # The difference of slopes, from separate regressions in the groups.
    Y = np.random.default_rng(1).normal(size=(8, V))
    alone = group_design(PEOPLE, "group", ["MS", "HC"], interactions=["age"])
    beta = np.linalg.lstsq(alone.matrix, Y, rcond=None)[0]
    fits = [stats.linregress(PEOPLE["age"][rows], Y[rows, 0]) for rows in (patient, ~patient)]
    found = alone.contrasts[alone.contrast_names.index("age: MS > HC")] @ beta[:, 0]
    assert found == pytest.approx(fits[0].slope - fits[1].slope)
    at_mean = [fit.intercept + 45 * fit.slope for fit in fits]
    assert alone.contrasts[0] @ beta[:, 0] == pytest.approx(at_mean[0] - at_mean[1])


def test_an_effect_alone_is_a_correlation():
    design = group_design(PEOPLE, effects=["age"])
    assert design.names == ("mean", "age")
    assert design.contrast_names == ("age +", "age -")
    assert not design.flip
    Y = np.random.default_rng(2).normal(size=(8, V))
    t = shuffled(design, Y, 20)["age +"][0]
    r = np.array([stats.pearsonr(PEOPLE["age"], y).statistic for y in Y.T])
    np.testing.assert_allclose(t, r * np.sqrt(6 / (1 - r**2)), rtol=1e-4)


def test_an_effect_of_text_has_an_f():
    design = group_design(PEOPLE, effects=["site"], covariates=["age"])
    assert design.names == ("mean", "age", "site[y]", "site[z]")
    assert design.f_names == ("site",)
    np.testing.assert_array_equal(design.f_tests, [[1, 0, 1, 0]])
    two = group_design(PEOPLE, "group", interactions=["site"])
    assert two.f_names == ("site x group",)
    assert [two.contrast_names[i] for i in np.flatnonzero(two.f_tests[0])] == [
        "site[y]: HC > MS",
        "site[z]: HC > MS",
    ]


def test_one_sample():
    design = group_design(PEOPLE, covariates=["age"])
    assert design.names == ("mean", "age")
    assert design.contrast_names == ("mean +", "mean -")
    assert design.flip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": "grp"}, "no column 'grp'"),
        ({"group": "scanner"}, "scanner is 1 in all 8 rows"),
        ({"group": "group", "order": ["MS"]}, "the order of the groups is MS; group in the table is HC, MS"),
        ({"group": "group", "covariates": ["group"]}, "cannot be a covariate"),
        ({"group": "group", "covariates": ["weight"]}, "no column 'weight'"),
        ({"interactions": ["age"]}, "needs groups"),
        ({"effects": ["scanner"]}, "scanner has the same value in all 8 rows"),
        ({"group": "group", "covariates": ["course"]}, r"the covariate course\[RR\] is determined by the group"),
        ({"group": "age"}, "age has 7 different numbers in 8 rows, so it does not define groups; give covariates"),
        ({"group": "participant_id"}, "no residual degrees of freedom"),
    ],
)
def test_designs_that_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        group_design(PEOPLE, **options)
    missing = PEOPLE.assign(age=[np.nan, *PEOPLE["age"][1:]])
    with pytest.raises(FileError, match="no age of a"):
        group_design(missing, "group", covariates=["age"])


# -- visits ---------------------------------------------------------------------------------------------------------


def visits(n, k, *, lacking=(), covariate=None):
    """n subjects, the first half MS, k visits; some of (subject, visit) are missing."""
    rows = [(i, v) for i in range(n) for v in range(k) if (i, v) not in lacking]
    table = pd.DataFrame(
        {
            "who": [f"s{i}" for i, _ in rows],
            "when": [f"ses-{v + 1}" for _, v in rows],
            "group": ["MS" if i < n // 2 else "HC" for i, _ in rows],
            "x": [str(covariate[i]) if covariate is not None else "0" for i, _ in rows],
        }
    )
    return read_visits(table, "who", "when")


def test_repeated_measures_by_hand():
    found = visits(4, 2, covariate=[1.0, 2, 4, 5])
    design = visit_design(found, "group", ["MS", "HC"], ["x"])
    assert design.names == (
        "subject s0",
        "subject s1",
        "subject s2",
        "subject s3",
        "ses-2:MS",
        "ses-2:HC",
        "ses-2:x",
    )
    by_hand = [
        [1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 1, 0, -2],
        [0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0, -1],
        [0, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1, 1],
        [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1, 2],
    ]  # fmt: skip
    np.testing.assert_array_equal(design.matrix, by_hand)
    assert design.contrast_names == ("ses-2 > ses-1", "ses-2 < ses-1")
    np.testing.assert_array_equal(design.contrasts[0], [0, 0, 0, 0, 0.5, 0.5, 0])
    np.testing.assert_array_equal(design.blocks, [1, 1, 2, 2, 3, 3, 4, 4])
    assert (design.whole_blocks, design.flip) == (False, False)
    other = interaction_design(found, "group", ["MS", "HC"], ["x"])
    np.testing.assert_array_equal(other.matrix, design.matrix)
    assert other.contrast_names == ("ses-2 - ses-1: MS > HC", "ses-2 - ses-1: MS < HC")
    np.testing.assert_array_equal(other.contrasts[0], [0, 0, 0, 0, 1, -1, 0])
    assert (other.whole_blocks, other.flip) == (True, False)
    between = between_design(found, "group", ["MS", "HC"], ["x"])
    assert between.names == ("MS", "HC", "ses-2", "x")
    by_hand = [[1, 0, 0, -2], [1, 0, 1, -2], [1, 0, 0, -1], [1, 0, 1, -1]]
    by_hand += [[0, 1, 0, 1], [0, 1, 1, 1], [0, 1, 0, 2], [0, 1, 1, 2]]
    np.testing.assert_array_equal(between.matrix, by_hand)
    assert (between.whole_blocks, between.flip) == (True, False)


def test_three_visits_by_hand():
    design = visit_design(visits(6, 3))
    assert design.names[6:] == ("ses-2", "ses-3")
    np.testing.assert_array_equal(design.matrix[:3, 6:], [[0, 0], [1, 0], [0, 1]])
    assert design.contrast_names[::2] == ("ses-2 > ses-1", "ses-3 > ses-1", "ses-3 > ses-2")
    np.testing.assert_array_equal(design.contrasts[::2, 6:], [[1, 0], [0, 1], [-1, 1]])
    assert [design.contrast_names[i] for i in np.flatnonzero(design.f_tests[0])] == [
        "ses-2 > ses-1",
        "ses-3 > ses-1",
    ]
    assert (design.whole_blocks, design.flip) == (True, True)
    fewer = visit_design(visits(6, 3, lacking=[(5, 1)]))
    assert (fewer.whole_blocks, fewer.flip) == (False, False)
    inter = interaction_design(visits(6, 3), "group")
    assert inter.contrast_names[::2] == ("ses-2 - ses-1: HC > MS", "ses-3 - ses-1: HC > MS")
    assert inter.f_names == ("group x visit",)
    np.testing.assert_array_equal(inter.f_tests, [[1, 0, 1, 0]])


def test_visits_are_sorted_and_remembered():
    table = pd.DataFrame(
        {"id": ["b", "a", "b", "a", "b"], "t": ["M12", "M0", "M3", "M12", "M0"], "x": list("13524")}
    )
    found = read_visits(table, "id", "t")
    assert (found.subjects, found.names) == (("b", "a"), ("M0", "M3", "M12"))
    np.testing.assert_array_equal(found.rows, [4, 2, 0, 1, 3])
    np.testing.assert_array_equal(found.table["x"], [4, 5, 1, 3, 2])
    assert found.missing() == "a has no M3"
    change = find_change(found.only(("M0", "M12")))
    np.testing.assert_array_equal(change.before, [4, 1])
    np.testing.assert_array_equal(change.after, [0, 3])
    np.testing.assert_array_equal(change.table["x_change"], [-3, -1])
    assert read_visits(table, "id", "t", ["M12", "M0"]).names == ("M12", "M0")


# -- the same t -----------------------------------------------------------------------------------------------------


def test_two_visits_are_a_paired_test():
    Y = np.random.default_rng(3).normal(size=(14, V)) + 5 * np.repeat(np.arange(7), 2)[:, None]
    expected = stats.ttest_rel(Y[1::2], Y[::2]).statistic
    np.testing.assert_allclose(
        shuffled(visit_design(visits(7, 2)), Y, 50)["ses-2 > ses-1"][0], expected, rtol=1e-4
    )
    one = group_design(pd.DataFrame({"participant_id": list("abcdefg")}))
    np.testing.assert_allclose(shuffled(one, Y[1::2] - Y[::2], 50)["mean +"][0], expected, rtol=1e-4)


@pytest.mark.parametrize("covariates", [[], ["x"]])
def test_interaction_of_two_visits_is_the_test_of_change(covariates):
    rng = np.random.default_rng(4)
    x = rng.normal(size=10)
    found = visits(10, 2, covariate=x)
    Y = rng.normal(size=(20, V)) + 5 * np.repeat(rng.normal(size=10), 2)[:, None]
    change = Y[1::2] - Y[::2]
    inter = shuffled(interaction_design(found, "group", ["MS", "HC"], covariates), Y, 40)["ses-2 - ses-1: MS > HC"]
    people = find_change(found, "group", covariates).people
    scores = shuffled(group_design(people, "group", ["MS", "HC"], covariates), change, 40)["MS > HC"]
    patient = np.arange(10) < 5
    X = np.column_stack([patient, ~patient, *([x] if covariates else [])]).astype(float)
    expected = ols_t(X, change, np.array([1.0, -1, 0][: X.shape[1]]))
    if not covariates:
        np.testing.assert_allclose(expected, stats.ttest_ind(change[:5], change[5:]).statistic)
    np.testing.assert_allclose(scores[0], expected, rtol=2e-4)
    np.testing.assert_allclose(inter[0], expected, rtol=2e-4)
    visit = shuffled(visit_design(found, "group", ["MS", "HC"], covariates), Y, 40)["ses-2 > ses-1"][0]
    X[:, 2:] -= X[:, 2:].mean(axis=0)
    mean = ols_t(X, change, np.array([0.5, 0.5, 0][: X.shape[1]]))
    np.testing.assert_allclose(visit, mean, rtol=2e-4)


def enumerated(statistics):
    """Share of rearrangements that are no smaller than the first, by voxel."""
    return np.mean([s >= statistics[0] - 1e-9 * np.abs(statistics[0]) for s in statistics], axis=0)


def test_visit_p_by_enumeration_of_two_visits():
    Y = np.random.default_rng(5).normal(size=(10, V)) + 9 * np.repeat(np.arange(5), 2)[:, None] + 0.5
    difference = Y[1::2] - Y[::2]
    signs = [np.array(s)[:, None] for s in product([1, -1], repeat=5)]
    brute = enumerated([stats.ttest_1samp(s * difference, 0).statistic for s in signs])
    _, p, n = shuffled(visit_design(visits(5, 2)), Y)["ses-2 > ses-1"]
    assert n == 32
    np.testing.assert_allclose(p, brute, atol=1e-6)


def test_visit_p_by_enumeration_of_signs():
    """Four subjects, three visits: F and t of the 16 flips of whole subjects, subjects' means removed."""
    Y = np.random.default_rng(6).normal(size=(12, V))
    Y[1::3] += 1
    flipped = []
    for signs in product([1, -1], repeat=4):
        y = Y.reshape(4, 3, V)
        flipped.append((y - y.mean(axis=1, keepdims=True)) * np.array(signs)[:, None, None])

    def f_and_t(y):
        # Two-way analysis of variance without replication, (n − 1)(k − 1) = 6.
        mean = y.mean(axis=0)
        error = ((y - mean) ** 2).sum(axis=(0, 1)) / 6
        return 4 * (mean**2).sum(axis=0) / 2 / error, (mean[2] - mean[0]) / np.sqrt(error * 2 / 4)

    found = shuffled(visit_design(visits(4, 3)), Y)
    F, t = zip(*map(f_and_t, flipped))
    np.testing.assert_allclose(found["visit"][0], F[0], rtol=1e-4)
    np.testing.assert_allclose(found["ses-3 > ses-1"][0], t[0], rtol=1e-4, atol=1e-5)
    assert found["visit"][2] == 16
    np.testing.assert_allclose(found["visit"][1], enumerated(F), atol=1e-6)


def test_visit_p_by_enumeration_where_a_visit_is_missing():
    """Three subjects with 3, 3 and 2 visits: F of the 6 · 6 · 2 rearrangements within subjects, refitted."""
    Y = np.random.default_rng(7).normal(size=(8, V))
    design = visit_design(visits(3, 3, lacking=[(2, 1)]))
    orders = [
        [*a, *b, *c] for a, b, c in product(permutations([0, 1, 2]), permutations([3, 4, 5]), permutations([6, 7]))
    ]
    subjects, everything = design.matrix[:, :3], design.matrix
    F = [(sse(subjects, Y[o]) - sse(everything, Y[o])) / sse(everything, Y[o]) for o in orders]
    _, p, n = shuffled(design, Y)["visit"]
    assert n == len(orders) == 72
    np.testing.assert_allclose(p, enumerated(F), atol=1e-6)


def relabelled(n):
    """Rows of subjects, MS first, for each choice of who is MS; the first choice leaves all in place."""
    for chosen in combinations(range(n), n // 2):
        yield [*chosen, *(i for i in range(n) if i not in chosen)]


def test_interaction_p_by_enumeration():
    Y = np.random.default_rng(8).normal(size=(12, V)) + 4 * np.repeat(np.arange(6), 2)[:, None]
    change = Y[1::2] - Y[::2]
    brute = enumerated([stats.ttest_ind(change[o[:3]], change[o[3:]]).statistic for o in relabelled(6)])
    _, p, n = shuffled(interaction_design(visits(6, 2), "group", ["MS", "HC"]), Y)["ses-2 - ses-1: MS > HC"]
    assert n == 20
    np.testing.assert_allclose(p, brute, atol=1e-6)


def test_interaction_p_by_enumeration_of_three_visits():
    Y = np.random.default_rng(9).normal(size=(6, 3, V)) + 4 * np.arange(6)[:, None, None]
    design = interaction_design(visits(6, 3), "group", ["MS", "HC"])
    common = np.column_stack([np.repeat(np.eye(6), 3, axis=0), np.tile(np.eye(3), (6, 1))])
    F = []
    for order in relabelled(6):
        y = Y[order].reshape(18, V)
        F.append((sse(common, y) - sse(design.matrix, y)) / sse(design.matrix, y))
    statistic, p, n = shuffled(design, Y.reshape(18, V))["group x visit"]
    assert n == 20
    np.testing.assert_allclose(statistic, F[0] / 2 * 8, rtol=1e-3)
    np.testing.assert_allclose(p, enumerated(F), atol=1e-6)


def test_between_p_is_that_of_the_means_of_subjects():
    Y = np.random.default_rng(10).normal(size=(6, 3, V)) + np.random.default_rng(11).normal(size=(6, 1, V))
    mean = Y.mean(axis=1)
    brute = enumerated([stats.ttest_ind(mean[o[:3]], mean[o[3:]]).statistic for o in relabelled(6)])
    _, p, n = shuffled(between_design(visits(6, 3), "group", ["MS", "HC"]), Y.reshape(18, V))["MS > HC"]
    assert n == 20
    np.testing.assert_allclose(p, brute, atol=1e-6)


# -- false positives ------------------------------------------------------------------------------------------------

DATA_SETS = 2000
LOW, HIGH = stats.binom.ppf([0.005, 0.995], DATA_SETS, 0.05) / DATA_SETS
N, K = 16, 3


def rate(design, Y, name):
    """Share of data sets with p ≤ .05, of 400 shuffles."""
    _, p, n = shuffled(design, Y, 400)[name]
    assert n == 400
    return (p <= 0.05 + 1e-6).mean()


@pytest.fixture(scope="module")
def null():
    """Parts of data of 16 subjects and three visits: errors, levels, slopes, a covariate."""
    rng = np.random.default_rng(12)
    level, slope = (np.repeat(rng.normal(size=(N, DATA_SETS)), K, axis=0) for _ in range(2))
    x = rng.normal(size=N)
    x -= x.mean()  # the visit is tested at the mean of the covariate
    return {
        "error": rng.normal(size=(N * K, DATA_SETS)),
        "level": 5 * level,
        "slope": slope * np.tile([0, 1, 2], N)[:, None],
        "time": np.tile([0.0, 1, 3], N)[:, None],
        "x": np.repeat(x, K)[:, None],
        "visits": visits(N, K, covariate=x),
    }


@pytest.mark.parametrize("covariates", [[], ["x"]])
@pytest.mark.parametrize("name", ["visit", "ses-3 > ses-1", "ses-2 < ses-1"])
def test_visits_when_subjects_change_at_their_own_pace(null, name, covariates):
    design = visit_design(null["visits"], covariates=covariates)
    Y = null["error"] + null["level"] + null["slope"] + (null["x"] * null["time"] if covariates else 0)
    assert LOW <= rate(design, Y, name) <= HIGH


def test_exchanging_the_visits_is_then_wrong(null):
    """Why signs of subjects are flipped: errors whose variance grows are not exchangeable between visits."""
    design = visit_design(null["visits"])
    within = replace(design, whole_blocks=False, flip=False)
    assert LOW <= rate(within, null["level"] + null["error"], "ses-3 > ses-1") <= HIGH
    Y = null["level"] + null["error"] * np.tile([0.3, 1, 2], N)[:, None]
    assert LOW <= rate(design, Y, "ses-3 > ses-2") <= HIGH
    assert rate(within, Y, "ses-3 > ses-2") > HIGH
    assert rate(within, Y, "ses-2 > ses-1") < LOW


def test_visits_that_are_missing(null):
    lacking = [(1, 1), (4, 2), (9, 0), (10, 2)]
    kept = [i * K + v for i in range(N) for v in range(K) if (i, v) not in lacking]
    Y = (null["error"] + null["level"])[kept]
    design = visit_design(visits(N, K, lacking=lacking))
    for name in ("visit", "ses-3 > ses-1"):
        assert LOW <= rate(design, Y, name) <= HIGH


def test_visits_fail_without_their_subjects(null):
    design = visit_design(null["visits"])
    ignored = replace(
        design, matrix=np.column_stack([np.ones(N * K), design.matrix[:, N:]]), names=("mean", *design.names[N:]),
        contrasts=np.column_stack([np.zeros(len(design.contrasts)), design.contrasts[:, N:]]), blocks=None,
        whole_blocks=False, flip=False,
    )  # fmt: skip
    assert rate(ignored, null["error"] + null["level"], "ses-3 > ses-1") < LOW


@pytest.mark.parametrize("covariates", [[], ["x"]])
@pytest.mark.parametrize("name", ["group x visit", "ses-3 - ses-1: MS > HC"])
def test_interaction_beside_change_and_levels(null, name, covariates):
    design = interaction_design(null["visits"], "group", ["MS", "HC"], covariates)
    Y = null["error"] + null["level"] + null["slope"] + null["time"]
    Y = Y + (null["x"] * null["time"] if covariates else 0)
    assert LOW <= rate(design, Y, name) <= HIGH


def test_interaction_fails_if_rows_are_exchanged_freely(null):
    design = interaction_design(null["visits"], "group", ["MS", "HC"])
    free = replace(design, blocks=None, whole_blocks=False)
    Y = null["error"] * np.tile([0.3, 1, 2], N)[:, None] + null["level"] + 2 * null["slope"]
    assert LOW <= rate(design, Y, "ses-3 - ses-1: MS > HC") <= HIGH
    assert not LOW <= rate(free, Y, "ses-3 - ses-1: MS > HC") <= HIGH


@pytest.mark.parametrize("covariates", [[], ["x"]])
def test_between_subjects(null, covariates):
    design = between_design(null["visits"], "group", ["MS", "HC"], covariates)
    Y = null["error"] + 0.4 * null["level"] + null["slope"] + null["time"] + (2 * null["x"] if covariates else 0)
    assert LOW <= rate(design, Y, "MS > HC") <= HIGH
    assert rate(replace(design, blocks=None, whole_blocks=False), Y, "MS > HC") > HIGH


@pytest.mark.parametrize("group", ["", "group"])
def test_change_beside_a_covariate(null, group):
    people = null["visits"].people("group", ["x"])
    Y = (null["error"] + null["level"] + null["x"] * null["time"])[2::K] - (null["error"] + null["level"])[::K]
    design = group_design(people, group, covariates=["x"])
    assert LOW <= rate(design, Y, design.contrast_names[0]) <= HIGH


# -- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """A table of visits in no order, a 4D image in its order and an image for each visit."""
    rng = np.random.default_rng(13)
    rows = [(f"s{i:02d}", f"ses-{v}") for i in range(10) for v in (1, 2)]
    order = rng.permutation(len(rows))
    table = pd.DataFrame([rows[i] for i in order], columns=["participant_id", "session"])
    number = table["participant_id"].str[1:].astype(int)
    follow_up = table["session"] == "ses-2"
    table["group"] = np.where(number < 5, "MS", "HC")
    table["sex"] = np.where(number % 3 == 0, "F", "M")
    table["years"] = np.where(follow_up, 2 + number / 10, 0.0)
    table["age"] = 40 + number * 1.5 + 0.1 * (number % 4) + table["years"]
    table["edss"] = np.where(number < 5, number / 2 + follow_up, np.nan)
    table["myelin"] = [
        f"images/{who}_{when}.nii.gz" for who, when in zip(table["participant_id"], table["session"])
    ]
    table.to_csv(tmp_path / "visits.tsv", sep="\t", index=False, na_rep="n/a")
    iron = rng.normal(size=(len(rows), *SHAPE)).astype(np.float32) + 300
    save(tmp_path / "iron.nii.gz", np.moveaxis(iron, 0, -1))
    (tmp_path / "images").mkdir()
    for path, values in zip(table["myelin"], iron):
        save(tmp_path / path, values / 1000)
    monkeypatch.chdir(tmp_path)
    images = dict(zip(zip(table["participant_id"], table["session"]), iron.astype(float)))
    return table, images


LONG = (
    "longitudinal --table visits.tsv --visit session --group group --order MS,HC --map iron=iron "
    "--map myelin=myelin --out long"
)


def test_change_images(cohort):
    table, images = cohort
    assert call(f"{LONG} --quiet --covariates age,sex") == 0
    listed = pd.read_csv("long_change.tsv", sep="\t")
    assert list(listed["participant_id"]) == list(dict.fromkeys(table["participant_id"]))
    expected = np.array([images[who, "ses-2"] - images[who, "ses-1"] for who in listed["participant_id"]])
    for name, scale in (("iron", 1), ("myelin", 1000)):
        image = nib.load(f"long_{name}_change.nii.gz")
        np.testing.assert_allclose(np.moveaxis(image.get_fdata(), -1, 0) * scale, expected, atol=1e-3)
        np.testing.assert_array_equal(image.affine, nib.load("iron.nii.gz").affine)
    first = table[table["session"] == "ses-1"].set_index("participant_id").loc[listed["participant_id"]]
    np.testing.assert_allclose(listed["age"], first["age"])
    np.testing.assert_allclose(listed["age_change"], 2 + listed["participant_id"].str[1:].astype(int) / 10)
    np.testing.assert_array_equal(listed["edss_change"].notna(), listed["group"] == "MS")
    assert "myelin" not in listed
    matrix = read_named_matrix("long_change.mat").values
    np.testing.assert_allclose(matrix[:, 2], listed["age"] - listed["age"].mean())
    assert read_named_matrix("long_change.con").row_names == ("MS > HC", "MS < HC")
    done = gpuvox.randomise(
        "long_iron_change", "long_change.mat", "long_change.con", n_permutations=20, device="cpu"
    )
    X = np.column_stack([listed["group"] == "MS", listed["group"] == "HC", listed["age"], listed["sex"] == "M"])
    t = ols_t(X.astype(float), expected.reshape(10, -1), np.array([1.0, -1, 0, 0]))
    np.testing.assert_allclose(done.volume("tstat1"), t.reshape(SHAPE), rtol=1e-3, atol=1e-4)


def test_covariates_that_are_constant_are_said_to_be_left_out(cohort, capsys):
    table, _ = cohort
    table.assign(site="A", field=3).to_csv("visits.tsv", sep="\t", index=False, na_rep="n/a")
    said = "the covariate {} has the same value in all rows and is left out"
    for line in (
        "longitudinal --table visits.tsv --visit session --covariates site,age,field --out l",
        "design --table visits.tsv --subset years==0 --covariates site,age,field --out d",
    ):
        assert call(line) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [text for text in lines if "left out" in text] == [said.format("site"), said.format("field")]


def test_times_that_contradict_the_order_of_visits_are_refused(cohort, capsys):
    table, _ = cohort
    between = table[table["session"] == "ses-2"].assign(session="ses-1.5", years=9.0)
    pd.concat([table, between]).to_csv("visits.tsv", sep="\t", index=False, na_rep="n/a")
    line = "longitudinal --table visits.tsv --visit session --visits ses-1,ses-1.5,ses-2 --out l"
    assert call(line) == 0
    assert call(f"{line} --years years") == 2
    said = capsys.readouterr().err
    assert "according to years, ses-1.5 of s" in said
    assert "(9 years) is not before ses-2 (2" in said


def test_change_per_year_and_one_sample(cohort, capsys):
    _, images = cohort
    line = (
        "longitudinal --table visits.tsv --visit session --years years --map iron=iron --out rate --designs change"
    )
    assert call(line) == 0
    said = capsys.readouterr().out
    assert "per year (images and columns, time from years)" in said
    assert "-i rate_iron_change_per_year " in said
    assert not Path("rate_iron_change.nii.gz").exists()
    listed = pd.read_csv("rate_change.tsv", sep="\t")
    # The unit of the columns is that of the images, and the name says so; the interval itself stays in years.
    visits = pd.read_csv("visits.tsv", sep="\t").set_index(["session", "participant_id"]).sort_index()
    first, last = (visits.loc[name].loc[listed["participant_id"]].reset_index() for name in ("ses-1", "ses-2"))
    years = last["years"] - first["years"]
    for name in ("edss", "age"):
        assert f"{name}_change" not in listed
        np.testing.assert_allclose(
            listed[f"{name}_change_per_year"], (last[name] - first[name]) / years, rtol=1e-6
        )
    np.testing.assert_allclose(listed["years_change"], years, rtol=1e-6)
    assert "years_change_per_year" not in listed
    rates = np.array([
        (images[who, "ses-2"] - images[who, "ses-1"]) / (2 + int(who[1:]) / 10) for who in listed["participant_id"]
    ])  # fmt: skip
    np.testing.assert_allclose(
        np.moveaxis(nib.load("rate_iron_change_per_year.nii.gz").get_fdata(), -1, 0), rates, atol=1e-4
    )
    assert not Path("rate_visits.tsv").exists()
    done = gpuvox.randomise(
        "rate_iron_change_per_year", "rate_change.mat", "rate_change.con", n_permutations=0, flip=True
    )
    expected = stats.ttest_1samp(rates, 0).statistic
    np.testing.assert_allclose(done.volume("tstat1"), expected, rtol=1e-3, atol=1e-4)


def test_change_of_raw_images_is_a_paired_test(cohort):
    _, images = cohort
    assert call("longitudinal --table visits.tsv --visit session --map iron=iron --out long --quiet") == 0
    who = pd.read_csv("long_change.tsv", sep="\t")["participant_id"]
    pairs = [np.array([images[name, visit] for name in who]) for visit in ("ses-2", "ses-1")]
    done = gpuvox.randomise("long_iron_change", "long_change.mat", "long_change.con", n_permutations=0, flip=True)
    np.testing.assert_allclose(done.volume("tstat1"), stats.ttest_rel(*pairs).statistic, rtol=1e-3, atol=1e-4)


def test_visits_images_and_their_order(cohort):
    table, images = cohort
    assert call(f"{LONG} --quiet") == 0
    listed = pd.read_csv("long_visits.tsv", sep="\t")
    who = list(dict.fromkeys(table["participant_id"]))
    assert list(listed["participant_id"]) == [name for name in who for _ in range(2)]
    assert list(listed["session"]) == ["ses-1", "ses-2"] * 10
    expected = np.array([images[pair] for pair in zip(listed["participant_id"], listed["session"])])
    found = nib.load("long_iron_visits.nii.gz").get_fdata()
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), expected, rtol=1e-6)
    for kind in ("visit", "interaction", "between"):
        np.testing.assert_array_equal(
            read_named_matrix(f"long_{kind}.grp").values[:, 0], np.repeat(np.arange(10), 2) + 1
        )


@pytest.mark.parametrize("visits", [2, 3])
def test_the_commands_that_are_written_run(cohort, visits):
    """Every line of OUT.txt, and t of the interaction of two visits is that of change."""
    table, _ = cohort
    if visits == 3:
        again = table[table["session"] == "ses-2"].assign(session="ses-3")
        again["myelin"] = [path.replace("ses-2", "ses-3") for path in again["myelin"]]
        for path in again["myelin"]:
            save(Path(path), np.random.default_rng(14).normal(size=SHAPE))
        pd.concat([table, again]).to_csv("visits.tsv", sep="\t", index=False, na_rep="n/a")
    line = LONG.replace("--map iron=iron ", "")
    assert call(f"{line} --covariates sex --quiet") == 0
    lines = [line for line in Path("long.txt").read_text().splitlines() if line.startswith("gpuvox randomise")]
    assert len(lines) == 4
    for line in lines:
        assert main([*shlex.split(line)[1:], "-n", "20", "--quiet", "--seed", "1"]) == 0
    assert ("-1" in lines[1].split()) == (visits == 3)
    about = json.loads(Path("long_visit_myelin_randomise.json").read_text())["tests"][-1]
    assert (about["method"], about["distinct"]) == ("sign-flips" if visits == 3 else "permutations", "1024")
    assert all("--permuteBlocks" in line for line in lines[2:])
    t = [nib.load(f"long_{kind}_myelin_tstat1.nii.gz").get_fdata() for kind in ("change", "interaction")]
    if visits == 2:
        np.testing.assert_allclose(*t, rtol=1e-3, atol=1e-4)


def test_incomplete_visits(cohort):
    table, _ = cohort
    again = table[(table["session"] == "ses-2") & (table["participant_id"] < "s08")].assign(session="ses-3")
    table = pd.concat([table, again])
    table.drop(index=table.index[(table["participant_id"] == "s03") & (table["session"] == "ses-1")]).to_csv(
        "visits.tsv", sep="\t", index=False, na_rep="n/a"
    )
    line = LONG.replace("--map iron=iron ", "") + " --quiet"
    assert call(line) == 2
    assert call(f"{line} --incomplete drop") == 0
    assert set(pd.read_csv("long_visits.tsv", sep="\t")["participant_id"]) == {
        f"s{i:02d}" for i in (0, 1, 2, 4, 5, 6, 7)
    }
    assert "excluded because of too few visits: " in Path("long.txt").read_text()
    assert call(f"{line} --incomplete keep".replace("--out long", "--out kept")) == 0
    visits = pd.read_csv("kept_visits.tsv", sep="\t")
    assert len(visits) == 27
    assert len(pd.read_csv("kept_change.tsv", sep="\t")) == 7  # ses-1 and ses-3
    assert not Path("kept_between.mat").exists()
    text = Path("kept.txt").read_text()
    assert "no design 'interaction': participants are permuted with all their visits, but s" in text
    assert "assumes errors of equal variance and equal correlation" in text
    assert nib.load("kept_myelin_visits.nii.gz").shape == (*SHAPE, 27)
    # Change between the first two, of everyone who has them.
    assert call(f"{line} --designs change --baseline ses-1 --follow-up ses-2 --incomplete drop") == 0
    assert len(pd.read_csv("long_change.tsv", sep="\t")) == 9


def test_subsets_of_visits(cohort):
    """The condition counts at the first visit: nobody is lost for growing older."""
    assert call(f"{LONG} --quiet --subset 'age <= 50'") == 0
    listed = pd.read_csv("long_visits.tsv", sep="\t")
    assert sorted(set(listed["participant_id"])) == [f"s{i:02d}" for i in range(7)]
    assert listed["age"].max() > 50


def test_design_of_a_subset_with_its_images(cohort, capsys):
    table, images = cohort
    line = "design --table visits.tsv --effect edss --covariates age,sex --out edss --select iron=ms "
    assert call(line + "--select myelin=ms_myelin --subset", "group == 'MS' and session == 'ses-1'") == 0
    printed = capsys.readouterr().out
    assert printed == Path("edss.txt").read_text()
    assert "gpuvox randomise -i ms -o edss_ms -d edss.mat -t edss.con -T" in printed
    chosen = table[(table["group"] == "MS") & (table["session"] == "ses-1")]
    listed = pd.read_csv("edss_participants.tsv", sep="\t")
    assert list(listed["participant_id"]) == list(chosen["participant_id"])
    expected = np.array([images[who, "ses-1"] for who in listed["participant_id"]])
    np.testing.assert_allclose(np.moveaxis(nib.load("ms.nii.gz").get_fdata(), -1, 0), expected, rtol=1e-6)
    stacked = np.moveaxis(nib.load("ms_myelin.nii.gz").get_fdata(), -1, 0)
    np.testing.assert_allclose(stacked * 1000, expected, rtol=1e-4)
    assert read_named_matrix("edss.con").row_names == ("edss +", "edss -")
    np.testing.assert_allclose(
        read_named_matrix("edss.mat").values[:, 1:],
        np.column_stack([each for name in ("age", "sex", "edss") for each in centred(chosen, name).values()]),
    )


def test_change_against_a_clinical_change(cohort):
    """The table of change is one of participants: what changes with EDSS."""
    assert call(f"{LONG} --quiet --subset", "group == 'MS'") == 2  # one group only
    line = "longitudinal --table visits.tsv --visit session --map iron=iron --out ms --designs change --quiet --subset"
    assert call(line, "group == 'MS'") == 0
    table = pd.read_csv("ms_change.tsv", sep="\t")
    table["edss_change"] = [1.0, 0, 2, 1, 0.5]
    table.to_csv("ms_change.tsv", sep="\t", index=False)
    assert call("design --table ms_change.tsv --effect edss_change --out with_edss --quiet") == 0
    line = "randomise -i ms_iron_change -d with_edss.mat -t with_edss.con -o r -n 10 -x --quiet"
    assert main(line.split()) == 0


@pytest.mark.parametrize(
    ("edit", "extra", "says"),
    [
        (None, "--visit visit", ["visits.tsv", "no column 'visit'"]),
        (None, "--subject id", ["visits.tsv", "no column 'id'"]),
        (None, "--group grp", ["visits.tsv", "no column 'grp'"]),
        (None, "--order MS,XX", ["the order of the groups is MS, XX", "HC, MS"]),
        (None, "--covariates weight", ["visits.tsv", "no column 'weight'"]),
        (None, "--covariates edss", ["visits.tsv", "no edss of s"]),
        (None, "--years sex", ["visits.tsv", "sex is text"]),
        (None, "--years edss", ["visits.tsv", "according to edss, the time of s", "unknown"]),
        (None, "--visits ses-1,ses-9", ["no session is ses-9", "ses-1, ses-2"]),
        (None, "--visits ses-1", ["the only session is ses-1"]),
        (None, "--follow-up ses-3", ["--follow-up: ses-3"]),
        (None, "--baseline ses-2", ["--baseline ses-2", "--follow-up ses-2"]),
        (None, "--subset 'age > 99'", ["no participant", "age > 99"]),
        (None, "--designs change,mixed", ["--designs", "'mixed'"]),
        (None, "--map ferritin=ferritin", ["there is no image ferritin"]),
        (None, "--map a/b=iron", ["--map", "'a/b'"]),
        (None, "--map iron=myelin", ["--map iron is given twice"]),
        (None, "--out none/long", ["there is no folder none"]),
        (("visits.tsv", "s03\tses-2", "s03\tses-1"), "", ["visits.tsv has ses-1 of s03 twice"]),
        (("visits.tsv", "s03\tses-2", "s03\tn/a"), "", ["is empty in column 'session'"]),
        (("visits.tsv", "s03\tses-2", "s99\tses-2"), "", ["s03 has no ses-2 (2 of 11", "--incomplete drop"]),
        (("visits.tsv", "s03\tses-2\tMS", "s03\tses-2\tHC"), "", ["group of s03 is", "HC", "the same at all"]),
        (("visits.tsv", "images/s03_ses-2.nii.gz", "n/a"), "", ["no myelin of s03 at ses-2"]),
        (("visits.tsv", "images/s03_ses-2.nii.gz", "iron.nii.gz"), "", ["20 volumes", "s03 at ses-2"]),
        (("visits.tsv", "ses-2", "later"), "", ["the order of session later, ses-1 is unknown"]),
        ("grid", "", ["images/s03_ses-2.nii.gz", "same grid"]),
        ("volumes", "", ["iron", "19 volumes", "20 rows"]),
        ("truncated", "", ["s03_ses-2.nii", "truncated"]),
        ("column", "", ["a column age_change"]),
        ("column", "--years years", ["a column age_change_per_year"]),
    ],
)  # fmt: skip
def test_refusals(edit, extra, says, cohort, capsys):
    if isinstance(edit, tuple):
        path, old, new = edit
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new))
    elif edit == "grid":
        save(Path("images/s03_ses-2.nii.gz"), np.ones(SHAPE), np.diag([1.0, 2, 2, 1]))
    elif edit == "volumes":
        save(Path("iron.nii.gz"), np.ones((*SHAPE, 19)))
    elif edit == "truncated":
        path = Path("images/s03_ses-2.nii.gz")
        raw = gzip.decompress(path.read_bytes())
        path.write_bytes(gzip.compress(raw[:-30]))
    elif edit == "column":
        pd.read_csv("visits.tsv", sep="\t").assign(age_change=1, age_change_per_year=1).to_csv(
            "visits.tsv", sep="\t", index=False
        )
    before = sorted(Path().rglob("*"))
    assert call(shlex.join(overriding(shlex.split(LONG), shlex.split(extra)))) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuvox longitudinal: ")
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("line", ["design --table visits.tsv --subset \"session == 'ses-1'\"", LONG])
def test_a_covariate_within_the_groups_is_named(line, cohort, capsys):
    """As `gpuvox groups` says it, whatever the design."""
    table = cohort[0]
    table["course"] = np.where(table["group"] == "MS", np.where(table["sex"] == "F", "PMS", "RRMS"), "none")
    table.to_csv("visits.tsv", sep="\t", index=False, na_rep="n/a")
    designs = [""] if line != LONG else [f"--designs {name}" for name in ("change", "interaction", "between")]
    for options in designs:
        more = f"--group group --covariates course --out d {options}"
        assert call(shlex.join(overriding(shlex.split(line), more.split()))) == 2
        error = capsys.readouterr().err
        assert "visits.tsv: the covariate course[none] is determined by the group and the other" in error


@pytest.mark.parametrize("line", ["design --table visits.tsv --out d", LONG])
def test_the_way_to_leave_out_a_group_is_named(line, cohort, capsys):
    table = cohort[0]
    table["group"] = np.where(table["participant_id"] == "s09", "CIS", table["group"])
    table.to_csv("visits.tsv", sep="\t", index=False, na_rep="n/a")
    once = "session == 'ses-1' and " if line != LONG else ""
    assert call(f"{line} --group group --order MS,HC", *(["--subset", once[:-5]] if once else [])) == 2
    error = capsys.readouterr().err
    assert "the order of the groups is MS, HC; group in visits.tsv is CIS, HC, MS; " in error
    way = error.split('--subset "')[1].split('" excludes the others')[0]
    assert way == "group in ('MS', 'HC')"
    assert call(f"{line} --group group --order MS,HC", "--subset", once + way) == 0
    assert "excludes" in capsys.readouterr().out


def test_whom_a_subset_leaves_out_is_told(cohort, capsys):
    assert call("design --table visits.tsv --out d", "--subset", "edss >= 1 and session == 'ses-1'") == 0
    # Another session is false whatever the EDSS is; of the others two patients have less, and controls none.
    line = "excludes 17 of 20 rows: false for 12, missing values in 5"
    assert line in capsys.readouterr().out
    assert line in Path("d.txt").read_text()
    assert call(f"{LONG} --quiet --designs change --subset 'age <= 50'") == 0
    assert "excludes 3 of 10 rows" in Path("long.txt").read_text()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("design --table visits.tsv --group group --out d", ["participant_id s", "twice", "--subset"]),
        (
            "design --table visits.tsv --group group --out d --subset \"session == 'x'\"",
            ["no row of visits.tsv fulfils"],
        ),
        (
            "design --table visits.tsv --out d --order MS,HC",
            ["--order is the order of the groups, and needs --group"],
        ),
        ("design --table visits.tsv", ["--out is missing"]),
        ("design --table none.tsv --out d", ["none.tsv cannot be read"]),
        ("design --table visits.tsv --out d --select iron", ["--select", "NAME=VALUE"]),
        (
            "design --table visits.tsv --out d --select iron=a --select myelin=a",
            ["--select is given the same output twice"],
        ),
        (
            "design --table visits.tsv --out d --subset \"session == 'ses-1'\" --select iron=iron",
            ["would be replaced"],
        ),
        ("longitudinal --table visits.tsv --out d", ["--visit is missing"]),
        ("longitudinal --table visits.tsv --visit session --out d --designs between", ["'between'", "--group"]),
    ],
)
def test_other_refusals(line, says, cohort, capsys):
    before = sorted(Path().rglob("*"))
    assert call(line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert sorted(Path().rglob("*")) == before


def test_whole_blocks_need_all_visits():
    found = visits(6, 3, lacking=[(2, 1)])
    for make in (interaction_design, between_design):
        with pytest.raises(FileError, match="permuting participants with all their visits, but s2 has no ses-2"):
            make(found, "group")
    with pytest.raises(DesignError, match="not estimable"):
        visit_design(visits(4, 3, lacking=[(2, 1), (3, 1)]), "group")
