"""Tests by words: weights by hand, against statsmodels, and what is refused."""

import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpuvox.cohort.hypotheses import read_hypotheses, read_hypothesis
from gpuvox.cohort.model import build_model
from gpuvox.cohort.table import as_cohort
from gpuvox.errors import DesignError

RNG = np.random.default_rng(16)
N = 36
TABLE = pd.DataFrame(
    {
        "participant_id": [f"sub-{i:02d}" for i in range(N)],
        "group": np.resize(["HC", "RRMS", "SPMS", "HC", "RRMS"], N),
        "sex": np.resize(["F", "M", "M", "F", "F", "F", "M"], N),
        "time": np.resize(["pre", "post-op"], N),
        "age": RNG.normal(45, 9, N),
        "tiv": RNG.normal(1.5, 0.1, N),
        "site": np.resize([1, 2, 3, 2], N),
        "dose 1": RNG.normal(size=N),
    }
)
COHORT = as_cohort(TABLE)
Y = RNG.normal(size=N)


def weights(test, formula):
    """By the name of the column, without those of 0."""
    model = build_model(formula, COHORT)
    (row,) = read_hypothesis(test, model).weights
    return {name: value for name, value in zip(model.names, row) if value}


@pytest.mark.parametrize(
    ("formula", "test", "expected"),
    [
        ("group + age", "RRMS - HC", {"group[HC]": -1, "group[RRMS]": 1}),
        ("group + age", "HC-RRMS", {"group[HC]": 1, "group[RRMS]": -1}),
        ("group + age", "RRMS + SPMS - 2*HC", {"group[HC]": -2, "group[RRMS]": 1, "group[SPMS]": 1}),
        ("group + age", "(RRMS + SPMS)/2 - HC", {"group[HC]": -1, "group[RRMS]": 0.5, "group[SPMS]": 0.5}),
        ("group + age", "HC*2 - (RRMS + SPMS)", {"group[HC]": 2, "group[RRMS]": -1, "group[SPMS]": -1}),
        ("group + age", "0.5*RRMS + .5*SPMS - HC", {"group[HC]": -1, "group[RRMS]": 0.5, "group[SPMS]": 0.5}),
        ("group + age", "group[RRMS] - group[HC]", {"group[HC]": -1, "group[RRMS]": 1}),
        ("group + age", "age", {"age": 1}),
        ("group + age", "-age", {"age": -1}),
        ("group + sex", "M - F", {"sex[M]": 1}),
        ("group * sex", "M - F", {"sex[M]": 1, "group[RRMS]:sex[M]": 1 / 3, "group[SPMS]:sex[M]": 1 / 3}),
        ("group * sex", "RRMS - HC", {"group[HC]": -1, "group[RRMS]": 1, "group[RRMS]:sex[M]": 0.5}),
        ("group * sex", "RRMS:M - HC:M", {"group[HC]": -1, "group[RRMS]": 1, "group[RRMS]:sex[M]": 1}),
        ("group * sex", "RRMS:M - RRMS:F - HC:M + HC:F", {"group[RRMS]:sex[M]": 1}),
        ("group * age", "age[RRMS] - age[HC]", {"group[RRMS]:age": 1}),
        ("group * age", "age[HC]", {"age": 1}),
        ("group * age", "age", {"age": 1, "group[RRMS]:age": 1 / 3, "group[SPMS]:age": 1 / 3}),
        ("group * age", "RRMS - HC", {"group[HC]": -1, "group[RRMS]": 1}),
        ("group * sex * age", "age[RRMS, M] - age[HC, M]", {"group[RRMS]:age": 1, "group[RRMS]:sex[M]:age": 1}),
        ("C(site)", "1 - 2", {"site[1]": 1, "site[2]": -1}),
        ("C(site)", "2*1 - 2 - 3", {"site[1]": 2, "site[2]": -1, "site[3]": -1}),
        ("C(site)", "(1 + 3)/2 - 2", {"site[1]": 0.5, "site[2]": -1, "site[3]": 0.5}),
        ("group + C(site)", "(RRMS + SPMS)/2 - HC", {"group[HC]": -1, "group[RRMS]": 0.5, "group[SPMS]": 0.5}),
        ("group + C(site)", "HC*2 - RRMS - SPMS", {"group[HC]": 2, "group[RRMS]": -1, "group[SPMS]": -1}),
        ("group + C(site)", "1/2*RRMS + 1/2*SPMS - HC", {"group[HC]": -1, "group[RRMS]": 0.5, "group[SPMS]": 0.5}),
        ("group + C(site)", "1.5*RRMS + SPMS/2 - 2*HC", {"group[HC]": -2, "group[RRMS]": 1.5, "group[SPMS]": 0.5}),
        ("time", "post-op - pre", {"time[post-op]": 1, "time[pre]": -1}),
        ("time", "'post-op'-`pre`", {"time[post-op]": 1, "time[pre]": -1}),
        ("group + `dose 1`", "dose 1", {"dose 1": 1}),
        ("log(tiv) + group", "log(tiv)", {"log(tiv)": 1}),
        ("log(tiv) + group", "-log( tiv )", {"log(tiv)": -1}),
        ("log(tiv) + group", "tiv", {"log(tiv)": 1}),
        ("age * tiv", "age:tiv", {"age:tiv": 1}),
        ("age * tiv", "age", {"age": 1}),
        ("age", "mean", {"mean": 1}),
        ("group + sex", "HC", {"group[HC]": 1, "sex[M]": 0.5}),
        ("group + age", "mean", {"group[HC]": 1 / 3, "group[RRMS]": 1 / 3, "group[SPMS]": 1 / 3}),
    ],
)
def test_weights_by_hand(formula, test, expected):
    found = weights(test, formula)
    assert found.keys() == expected.keys()
    assert_allclose(list(found.values()), [expected[name] for name in found], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "formula", ["group + sex + age", "group * sex + age", "group * age + sex", "age + sex * group"]
)
@pytest.mark.parametrize("test", ["RRMS - HC", "M - F", "(RRMS + SPMS)/2 - HC"])
def test_differences_are_those_of_adjusted_means_of_statsmodels(formula, test):
    """Means of its predictions over the grid of all levels, at the mean age: emmeans by hand."""
    import statsmodels.formula.api as smf

    fitted = smf.ols(f"y ~ {formula}", TABLE.assign(y=Y)).fit()
    grid = pd.MultiIndex.from_product([["HC", "RRMS", "SPMS"], ["F", "M"]], names=["group", "sex"]).to_frame(
        index=False
    )
    at = grid.assign(value=fitted.predict(grid.assign(age=TABLE["age"].mean())))
    mean = {**at.groupby("group")["value"].mean(), **at.groupby("sex")["value"].mean()}
    expected = eval(test, {}, mean)
    model = build_model(formula, COHORT)
    beta = np.linalg.lstsq(model.matrix, Y, rcond=None)[0]
    assert read_hypothesis(test, model).weights @ beta == pytest.approx([expected])


def test_t_is_that_of_statsmodels_for_a_slope_difference():
    import statsmodels.formula.api as smf

    fitted = smf.ols("y ~ group * age + sex", TABLE.assign(y=Y)).fit()
    model = build_model("group * age + sex", COHORT)
    (row,) = read_hypothesis("age[SPMS] - age[HC]", model).weights
    beta, sse, *_ = np.linalg.lstsq(model.matrix, Y, rcond=None)
    variance = sse[0] / (N - model.matrix.shape[1]) * row @ np.linalg.inv(model.matrix.T @ model.matrix) @ row
    assert row @ beta / np.sqrt(variance) == pytest.approx(fitted.tvalues["group[T.SPMS]:age"])


@pytest.mark.parametrize(
    ("formula", "test", "rows"),
    [
        ("group + age", "group", 2), ("group * age", "group:age", 2), ("group * age", "age:group", 2),
        ("group * sex", "group:sex", 2), ("sex + age", "sex", 1), ("group + poly(age, 2)", "poly(age,2)", 2),
        ("group + poly(age, 2)", "age", 2), ("group * sex", "group", 2), ("bs(age, df=4)", "age", 4),
        ("group * poly(age, 2)", "group:poly(age, 2)", 4),
    ],
)  # fmt: skip
def test_f_tests_are_comparisons_of_models(formula, test, rows):
    """F of the weights = F of the model without what is tested, by the definition, where that is a model."""
    model = build_model(formula, COHORT)
    hypothesis = read_hypothesis(test, model)
    assert hypothesis.is_f
    assert len(hypothesis.weights) == rows
    beta, sse, *_ = np.linalg.lstsq(model.matrix, Y, rcond=None)
    # the reduced model: parameters in the null space of the weights
    null = np.linalg.svd(hypothesis.weights)[2][rows:].T
    reduced = np.linalg.lstsq(model.matrix @ null, Y, rcond=None)[1][0]
    C, inverse = hypothesis.weights, np.linalg.inv(model.matrix.T @ model.matrix)
    wald = (C @ beta) @ np.linalg.solve(C @ inverse @ C.T, C @ beta)
    assert wald == pytest.approx(reduced - sse[0])


def test_f_of_a_group_in_an_interaction_is_of_type_three():
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    fitted = smf.ols("y ~ C(group, Sum) * C(sex, Sum)", TABLE.assign(y=Y)).fit()
    theirs = anova_lm(fitted, typ=3)["F"]
    model = build_model("group * sex", COHORT)
    beta, sse, *_ = np.linalg.lstsq(model.matrix, Y, rcond=None)
    inverse = np.linalg.inv(model.matrix.T @ model.matrix) * sse[0] / (N - 6)
    for test, key in (
        ("group", "C(group, Sum)"),
        ("sex", "C(sex, Sum)"),
        ("group:sex", "C(group, Sum):C(sex, Sum)"),
    ):
        C = read_hypothesis(test, model).weights
        f = (C @ beta) @ np.linalg.solve(C @ inverse @ C.T, C @ beta) / len(C)
        assert f == pytest.approx(theirs[key])


@pytest.mark.parametrize(
    ("text", "name", "test"),
    [
        ("atrophy: HC - RRMS", "atrophy", "HC - RRMS"),
        ("atrophy:HC - RRMS", "atrophy", "HC - RRMS"),
        ("age: RRMS - HC", "age", "RRMS - HC"),
        ("group:sex", "group:sex", "group:sex"),
        ("group: sex", "group: sex", "group: sex"),
        ("C(group):C(sex, Treatment('M'))", "group:sex", "group:sex"),
        ("RRMS:M - HC:M", "RRMS:M - HC:M", "RRMS:M - HC:M"),
        ("a b (c): RRMS:M - HC:M", "a b (c)", "RRMS:M - HC:M"),
    ],
)
def test_names_stand_before_a_colon(text, name, test):
    hypothesis = read_hypothesis(text, build_model("group * sex + age", COHORT))
    assert (hypothesis.name, hypothesis.text) == (name, test)


@pytest.mark.parametrize(
    ("formula", "test", "sentence"),
    [
        ("group + age", "RRMS - HC", "the mean of RRMS is larger than the mean of HC; adjusted for age"),
        ("group + age", "age", "the values rise with age; adjusted for group"),
        ("group + age", "-age", "the values fall with age; adjusted for group"),
        ("group + age", "group", "the mean differs between any of HC, RRMS and SPMS; adjusted for age"),
        ("group * age", "age[RRMS] - age[HC]", "the slope of age in RRMS is larger than the slope of age in HC"),
        ("group * age", "group:age", "the slope of age differs between any of HC, RRMS and SPMS"),
        (
            "group * age + sex",
            "RRMS - HC",
            "the mean of RRMS is larger than the mean of HC, at the mean of age; adjusted for sex",
        ),
        ("group * age + sex", "age", "the values rise with age, averaged over group; adjusted for sex"),
        (
            "group * sex * age",
            "RRMS - HC",
            "the mean of RRMS is larger than the mean of HC, averaged over sex and at the mean of age",
        ),
        ("age", "mean", "the mean is above 0; adjusted for age"),
        ("1", "-mean", "the mean is below 0"),
        ("group", "-HC", "the mean of HC is below 0"),
        ("group * sex", "group:sex", "the mean depends on the combination of group and sex: any interaction"),
        ("tiv + log(age)", "log(age)", "the values rise with log(age); adjusted for tiv"),
        ("tiv + age + I(age ** 2)", "I(age ** 2)", "the values rise with I(age ** 2); adjusted for tiv and age"),
        (
            "group + C(site)",
            "RRMS/2 - HC/2",
            "0.5 times the mean of RRMS is larger than 0.5 times the mean of HC; adjusted for site",
        ),
    ],
)
def test_each_has_a_sentence(formula, test, sentence):
    assert read_hypothesis(test, build_model(formula, COHORT)).sentence == sentence


@pytest.mark.parametrize(
    ("formula", "test", "columns", "df"),
    [
        ("group + cr(age, df=4)", "cr(age, df=4)", "cr", 3),
        ("cr(age, df=4) + group", "age", "cr", 3),
        ("group + age + cs(age, df=4)", "age", "age", 3),
        ("group * cr(age, df=3)", "group:cr(age, df=3)", r"group.*cr", 4),
        ("cc(age, df=4) - 1", "age", "cc", 4),
    ],
)
def test_splines_that_hold_the_constant_are_tested_without_it(formula, test, columns, df):
    """F is that of the model with the term against the model without it."""
    model = build_model(formula, COHORT)
    hypothesis = read_hypothesis(test, model)
    without = model.matrix[:, [re.search(columns, name) is None for name in model.names]]
    errors = [Y - X @ np.linalg.pinv(X) @ Y for X in (model.matrix, without)]
    sse = [error @ error for error in errors]
    X, L = model.matrix, hypothesis.weights
    estimates = L @ np.linalg.pinv(X) @ Y
    mine = estimates @ np.linalg.pinv(L @ np.linalg.pinv(X.T @ X) @ L.T) @ estimates
    assert hypothesis.is_f
    assert len(L) == df
    assert_allclose(mine, sse[1] - sse[0], rtol=1e-9)


def test_a_factor_whose_levels_are_named_like_those_tested_is_adjusted_for():
    table = TABLE.assign(lesions=np.resize(["yes", "no", "no"], N), smokes=np.resize(["no", "yes"], N))
    model = build_model("lesions + smokes", as_cohort(table))
    assert read_hypothesis("lesions[yes] - lesions[no]", model).adjusted_for == ("smokes",)


def test_sentences_of_two_sided_tests_have_no_direction():
    model = build_model("group * age", COHORT)
    sentence = read_hypothesis("age[RRMS] - age[HC]", model, two_sided=True).sentence
    assert sentence == "the slope of age in RRMS differs from the slope of age in HC"


def test_rows_of_weights_are_readable():
    model = build_model("group + age", COHORT)
    assert read_hypothesis("RRMS + SPMS - 2*HC", model).rows(model.names) == [
        "-2 group[HC] + 1 group[RRMS] + 1 group[SPMS]"
    ]


def test_means_are_known_as_such():
    model = build_model("group + age", COHORT)
    found = read_hypotheses(["RRMS - HC", "mean", "HC", "age", "group"], model)
    assert [each.is_mean for each in found] == [False, True, True, False, False]
    assert read_hypothesis("-mean", build_model("1", COHORT)).groups == ({},), "one sample has a Cohen's d"
    assert [each.name for each in read_hypotheses([], build_model("1", COHORT))] == ["mean"]


@pytest.mark.parametrize(
    ("formula", "test", "said"),
    [
        ("group + age", "RRMS + SPMS - HC", r"sum to 1; .* as in '\(RRMS \+ SPMS\)/2 - HC'"),
        ("group + age", "PPMS - HC", r"'PPMS' is not known here; the model has group \(HC, RRMS, SPMS\), age"),
        ("group + age", "tiv", "'tiv' is not known here"),
        ("group + age", "age + HC", "a slope and a mean"),
        ("group + age", "HC:RRMS", "one level of group"),
        ("group + age", "HC * RRMS", "a weight is a number"),
        ("group + age", "HC - 1", "a number stands by itself"),
        ("group + age", "2", "names neither a level nor a covariate: the model has group"),
        ("group + age", "HC - HC", "0 for whatever data"),
        ("group + age", "HC/0", "other than 0"),
        ("group + age", "(HC - RRMS", "not closed"),
        ("group + age", "HC - ", "ends where a level"),
        ("group + age", "", "empty"),
        ("group + age", "(" * 80 + "HC", "nested too deep"),
        ("group + age", "age[RRMS] - age[HC]", "no such difference"),
        ("group + age", "group:age", "no such difference"),
        ("group + age", "group - HC", "its levels are compared by their names: HC, RRMS, SPMS"),
        ("group + age", "2*group", "an F test is of a term"),
        ("group + age", "__import__('os')", "not known here"),
        ("group * poly(age, 2)", "age", "name the term"),
        ("group * poly(age, 2)", "age[HC]", "name the term"),
        (
            "group + phase",
            "group[RRMS] - group[HC]",
            r"cannot be estimated, since group\[RRMS\] and phase\[RRMS\] are",
        ),
        ("group + phase", "RRMS - HC", r"RRMS is a level of group and phase: write group\[RRMS\]"),
        ("group + age + double", "age", "cannot be estimated, since .* collinear"),
    ],
)
def test_refused_with_the_reason(formula, test, said):
    cohort = as_cohort(TABLE.assign(phase=TABLE["group"], double=2 * TABLE["age"]))
    with pytest.raises(DesignError, match=said) as caught:
        read_hypothesis(test, build_model(formula, cohort))
    assert caught.value.option == "--test"


def test_what_is_estimable_of_a_collinear_model_is_tested():
    cohort = as_cohort(TABLE.assign(phase=TABLE["group"]))
    model = build_model("group + phase + age", cohort)
    assert_array_equal(read_hypothesis("age", model).weights, [[0, 0, 0, 0, 0, 1]])


def test_two_tests_have_two_names():
    model = build_model("group + age", COHORT)
    with pytest.raises(DesignError, match="two tests are called 'a'"):
        read_hypotheses(["a: RRMS - HC", "a: HC - RRMS"], model)
    with pytest.raises(DesignError, match="--test 'RRMS - HC'"):
        read_hypotheses([], model)


def test_a_colon_inside_a_level_is_part_of_it():
    table = TABLE.assign(group=np.resize(["HC", "MS:a", "MS: b"], N))
    model = build_model("group + sex", as_cohort(table))
    for text in ("MS:a - HC", "'MS:a' - HC", "`MS:a` - HC", "group[MS:a] - group[HC]", "more iron: MS:a - HC"):
        found = read_hypothesis(text, model)
        assert dict(zip(model.names, found.weights[0])) == {
            "group[HC]": -1, "group[MS: b]": 0, "group[MS:a]": 1, "sex[M]": 0,
        }  # fmt: skip
        assert found.name == ("more iron" if text.startswith("more") else text)
        assert found.sentence == "the mean of MS:a is larger than the mean of HC; adjusted for sex"
    assert read_hypothesis("HC - MS: b", model).name == "HC - MS: b"
    assert read_hypothesis("MS: b - HC", model).sentence.startswith(
        "the mean of MS: b is larger than the mean of HC"
    )
    crossed = table.assign(arm=np.repeat(["MS", "x"], N // 2), other=np.resize(["a", "y", "y", "a", "y"], N))
    model = build_model("group + arm + other", as_cohort(crossed))
    with pytest.raises(DesignError, match="MS:a may be one name or several: write `MS:a` or `MS`:`a`"):
        read_hypothesis("MS:a - HC", model)
    assert "the mean of MS:a" in read_hypothesis("`MS:a` - HC", model).sentence
    cell = read_hypothesis("`MS`:`a` - x:a", model)
    assert cell.sentence.startswith("the mean of MS and a is larger than the mean of x and a")
