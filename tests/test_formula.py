"""The model matrix of a formula: against matrices by hand and statsmodels; and that formulas run nothing."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpuvox.cohort.formula import FUNCTIONS, columns_of_formula
from gpuvox.cohort.model import build_model
from gpuvox.cohort.table import as_cohort
from gpuvox.errors import DesignError, FileError

RNG = np.random.default_rng(15)
AGE = [30.0, 41, 52, 36, 44, 51, 33, 40]
TABLE = pd.DataFrame(
    {
        "participant_id": [f"sub-{i}" for i in range(8)],
        "group": ["HC", "MS", "MS", "HC", "MS", "HC", "MS", "HC"],
        "sex": list("FMFFMMMF"),
        "age": AGE,
        "tiv": [1.5, 1.4, 1.6, 1.45, 1.52, 1.38, 1.41, 1.55],
        "site": [1, 2, 3, 1, 2, 3, 1, 2],
        "time since onset": [0.0, 4, 9, 0, 2, 0, 7, 0],
        "class": [1.0, 3, 2, 5, 4, 7, 6, 9],
        "größe": [170.0, 165, 180, 175, 168, 182, 177, 169],
    }
)
COHORT = as_cohort(TABLE)
MS = (TABLE["group"] == "MS").to_numpy(float)
M = (TABLE["sex"] == "M").to_numpy(float)


def centred(values):
    values = np.asarray(values, dtype=float)
    return values - values.mean()


def same_space(a, b):
    joined = np.linalg.matrix_rank(np.c_[a, b])
    return joined == np.linalg.matrix_rank(a) == np.linalg.matrix_rank(b)


def test_two_groups_and_a_covariate_are_the_classical_design():
    model = build_model("group + age", COHORT)
    assert model.names == ("group[HC]", "group[MS]", "age")
    assert_array_equal(model.matrix, np.c_[1 - MS, MS, centred(AGE)])
    assert any("age (mean 40.875): the mean over the rows is removed" in note for note in model.notes)


@pytest.mark.parametrize(
    ("formula", "names", "matrix"),
    [
        ("group + sex", ("group[HC]", "group[MS]", "sex[M]"), np.c_[1 - MS, MS, M]),
        ("age + tiv", ("mean", "age", "tiv"), np.c_[np.ones(8), centred(AGE), centred(TABLE["tiv"])]),
        ("age - 1", ("age",), np.c_[AGE]),
        ("group * age", ("group[HC]", "group[MS]", "age", "group[MS]:age"),
         np.c_[1 - MS, MS, centred(AGE), MS * centred(AGE)]),
        ("group * sex", ("group[HC]", "group[MS]", "sex[M]", "group[MS]:sex[M]"), np.c_[1 - MS, MS, M, MS * M]),
        ("(group + sex)**2", ("group[HC]", "group[MS]", "sex[M]", "group[MS]:sex[M]"), np.c_[1 - MS, MS, M, MS * M]),
        ("C(group, Treatment('MS'))", ("group[MS]", "group[HC]"), np.c_[MS, 1 - MS]),
        ("sex + C(group, contr.treatment('MS'))", ("sex[F]", "sex[M]", "group[HC]"), np.c_[1 - M, M, 1 - MS]),
        ("I(age ** 2)", ("mean", "I(age ** 2)"), np.c_[np.ones(8), centred(np.square(AGE))]),
        ("sqrt(tiv)", ("mean", "sqrt(tiv)"), np.c_[np.ones(8), centred(np.sqrt(TABLE["tiv"]))]),
        ("center(age)", ("mean", "age"), np.c_[np.ones(8), centred(AGE)]),
        ("`time since onset`", ("mean", "time since onset"), np.c_[np.ones(8), centred(TABLE["time since onset"])]),
        ("class + größe", ("mean", "class", "größe"),
         np.c_[np.ones(8), centred(TABLE["class"]), centred(TABLE["größe"])]),
        ("1", ("mean",), np.ones((8, 1))),
    ],
)  # fmt: skip
def test_columns_and_their_names(formula, names, matrix):
    model = build_model(formula, COHORT)
    assert model.names == names
    assert_allclose(model.matrix, matrix, atol=1e-14)


@pytest.mark.parametrize(
    "formula",
    ["group + age", "group * age + sex", "group * sex", "group:age", "poly(age, 2) + group", "bs(age, df=4)",
     "group/sex", "group - 1", "0 + age + group", "log(tiv) * group"],
)  # fmt: skip
def test_the_space_is_that_of_R_up_to_the_centring(formula):
    from formulaic import model_matrix

    theirs = model_matrix(formula, TABLE).to_numpy(dtype=float)
    if formula == "group:age":  # an interaction alone changes with the centring, which is said
        theirs = np.c_[np.ones(8), (1 - MS) * centred(AGE), MS * centred(AGE)]
    assert same_space(build_model(formula, COHORT).matrix, theirs)


def test_columns_have_names_of_their_own():
    assert build_model("age + center(age) - 1", COHORT).names == ("age", "center(age)")


def test_numbers_become_categories_when_asked_or_declared():
    assert build_model("C(site)", COHORT).names == ("site[1]", "site[2]", "site[3]")
    model = build_model("site", COHORT)
    assert model.names == ("mean", "site")
    assert (
        "site has the values 1, 2, 3 and is used as a number; C(site) makes categories of them" in model.warnings
    )
    declared = as_cohort(TABLE.astype({"site": "category"}))
    assert build_model("site", declared).names == ("site[1]", "site[2]", "site[3]")


def test_terms_know_their_columns():
    model = build_model("age + group + sex + group:sex", COHORT)
    assert {term.name: term.columns for term in model.terms} == {
        "age": (0,), "group": (1, 2), "sex": (3,), "group:sex": (4,),
    }  # fmt: skip
    assert model.columns_of("sex") == (3, 4)
    assert columns_of_formula("age + group:log(tiv)", COHORT) == ["age", "group", "tiv"]


def test_expected_rows_are_means_with_equal_weights():
    model = build_model("group * sex + age", COHORT)
    by_hand = np.mean([[0, 1, m, m, 0] for m in (0, 1)], axis=0)[[0, 1, 2, 4, 3]]
    assert_allclose(model.expected({"group": "MS"}), by_hand)
    assert_allclose(model.expected({"group": "MS", "sex": "F"}, {"age": 2.0}), [0, 1, 0, 2, 0])


def test_adjusted_means_are_those_of_statsmodels():
    import statsmodels.formula.api as smf

    y = RNG.normal(size=8)
    data = TABLE.assign(y=y)
    fitted = smf.ols("y ~ group + sex + age", data).fit()
    model = build_model("group + sex + age", COHORT)
    beta = np.linalg.lstsq(model.matrix, y, rcond=None)[0]
    for group in ("HC", "MS"):
        grid = pd.DataFrame({"group": [group] * 2, "sex": ["F", "M"], "age": np.mean(AGE)})
        assert model.expected({"group": group}) @ beta == pytest.approx(fitted.predict(grid).mean())


def test_collinear_columns_are_named():
    model = build_model("group + phase + age", as_cohort(TABLE.assign(phase=TABLE["group"])))
    assert [model.describe_dependency(columns) for columns, _ in model.dependencies] == [
        "group[MS] and phase[MS] are collinear"
    ]
    empty = build_model("group * stage", as_cohort(TABLE.assign(stage=list("aabbacbc"))))
    assert any("is 0 in every row" in empty.describe_dependency(columns) for columns, _ in empty.dependencies)
    assert not build_model("group * age", COHORT).dependencies


RUN = [
    "__import__('os').system('touch ran')", "I(__import__('os').system('touch ran'))", "open('ran', 'w')",
    "I(open('ran', 'w'))", "{open('ran', 'w')}", "I(age.__class__)", "age.mean()", "np.exp(age)", "I(np.exp(age))",
    "bs(age, df=open('ran', 'w'))", "I((lambda: 1)())", "I([x for x in age])", "I(age if tiv else 1)", "Q('age')",
    "hashed(group)", "lag(age)", "C(site, contr.sum)", "C(open('ran', 'w'))", "C(site, Treatment(open('ran', 'w')))",
    "poly(age, 2)[0]", "I(age @ tiv)", "log(age, out=age)", "I(age := 3)", "I(age ** 99)", "I(9 ** age ** 9)",
    "f'{age}'", "I(f'{age}')", "exp(exec('1'))", "eval('1')", "I(age); age", "age\nage", "center(age, *tiv)",
    "scale(age, **{'ddof': 1})", "I('age')", "contr.treatment('x')", "age[0]", "I(age and tiv)", "I(not age)",
]  # fmt: skip


@pytest.mark.parametrize("formula", RUN)
def test_nothing_but_known_functions_is_run(formula, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((DesignError, FileError)):
        build_model(formula, COHORT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("y ~ group", "the images are what is modelled"),
        ("group + gruop", "has no column 'gruop'"),
        ("Group + age", "did you mean 'group'?"),
        ("age**2", r"poly\(age, 2\)"),
        ("age^2 + group", r"poly\(age, 2\)"),
        ("group + (age", "cannot be read"),
        ("group +", "cannot be read"),
        ("2 * age", "cannot be read"),
        ("0", "has no term"),
        ("log(group)", "group in log\\(group\\) is text"),
        ("sin(age)", "sin\\(\\) is not known; there are I, center"),
        ("C(site) + site", "both a category and a number"),
        ("C(group, Treatment('PD'))", "the reference level of group is PD; it has HC, MS"),
        ("log(`time since onset`)", "rename that column"),
        ("log(class)", "cannot be read"),
        ("log(zero)", "is no number"),
        ("same + group", "same is 3 in all 8 rows"),
        ("one", "one is x in all 8 rows"),
        ("age * center(age)", r"age and center\(age\) are the same in it"),
        ("group + C(group)", r"group and C\(group\) are the same in it"),
    ],
)
def test_refused_with_the_reason(formula, said):
    table = TABLE.assign(zero=TABLE["time since onset"], same=3.0, one="x")
    with pytest.raises((DesignError, FileError), match=said):
        build_model(formula, as_cohort(table))


def test_names_of_functions_are_no_columns():
    with pytest.raises(DesignError, match="the column scale has the name of a function"):
        build_model("scale", as_cohort(TABLE.assign(scale=AGE)))


def test_levels_that_are_slips_are_refused():
    table = TABLE.assign(group=["HC", "MS", "MS", "HC", "ms", "HC", "MS", "HC"])
    with pytest.raises(FileError, match="one spelling"):
        build_model("group", as_cohort(table))


def test_functions_of_the_list_all_work():
    arguments = {"poly": "age, 2", "bs": "age, df=4", "cr": "age, df=3", "cs": "age, df=3", "cc": "age, df=3"}
    for name in FUNCTIONS:
        model = build_model(f"group + {name}({arguments.get(name, 'tiv')})", COHORT)
        assert np.isfinite(model.matrix).all(), name
        assert model.names[:2] == ("group[HC]", "group[MS]")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {2: -999, 5: -999},
            ["age is -999 in sub-2, sub-5, and half of the other values are from 43.75 to 53.75; if"],
        ),
        ({1: 9999}, ["age is 9999 in sub-1, and"]),
        ({1: 9999, 2: -9}, ["age is 9999 in sub-1", "age is -9 in sub-2"]),
        ({1: 512.5, 2: 512.5}, ["age is 512.5 in sub-1, sub-2"]),
        ({1: 512.5}, []),
        ({1: 88}, []),
        (dict.fromkeys(range(7), 0) | {7: 9}, []),
        (dict.fromkeys(range(6), 0) | {6: 1, 7: 1}, []),
        (dict.fromkeys(range(6), 0) | {6: 1, 7: -99}, ["age is -99 in sub-7"]),
    ],
)
def test_codes_of_missing_values_are_doubted(values, said):
    table = TABLE.assign(age=[values.get(row, 40.0 + 2.5 * row) for row in range(8)])
    warnings = [each for each in build_model("group + age", as_cohort(table)).warnings if "missing value" in each]
    assert len(warnings) == len(said)
    assert all(text in " ".join(warnings) for text in said)
