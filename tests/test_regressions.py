"""Families, interactions, transformations, robust errors, diagnostics, logistic models: against statsmodels and R."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats

from gpuvox.cli.main import guarded
from gpuvox.cli.models import run
from gpuvox.errors import InputError
from gpuvox.study.statistics.correlation import Correlations, correlations
from gpuvox.study.statistics.logistic import hierarchical_logistic, logistic_statistic
from gpuvox.study.statistics.regression import Regression, regression


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    rng = np.random.default_rng(5)
    n = 80
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:02d}" for i in range(n)], "age": rng.normal(40, 10, n),
            "sex": rng.choice(["F", "M"], n), "group": np.repeat(["MS", "HC"], n // 2),
            "load": np.exp(rng.normal(1, 0.7, n)), "site": rng.choice(["a", "b", "c"], n),
        }
    )  # fmt: skip
    for name in ("thalamus", "caudate"):
        table[f"{name}.iron"] = rng.normal(100, 20, n)
        table[f"{name}.volume"] = 10 - 0.03 * table["age"] + 0.01 * table[f"{name}.iron"] + rng.normal(0, 0.5, n)
    spread = 1 + 0.1 * np.abs(table["age"] - 40)
    table["edss"] = np.round(2 * (3 + 0.05 * (table["age"] - 40) + 0.5 * spread * rng.normal(size=n))).clip(0) / 2
    chance = 1 / (1 + np.exp(-(0.08 * (table["age"] - 40) + 0.8 * (table["sex"] == "M"))))
    table["course"] = np.where(rng.random(n) < chance, "PMS", "RRMS")
    path = tmp_path_factory.mktemp("models") / "people.tsv"
    table.to_csv(path, sep="\t", index=False)
    return table, str(path)


def fitted(people, **options):
    table, path = people
    return table, regression(Regression(table=path, **options)).tables


def test_several_outcomes_and_words_are_one_family(people):
    words = {"outcome": ["{each}.volume", "{each}.iron"], "blocks": {"first": ["age"], "second": ["sex"]}}
    table, tables = fitted(people, each=["thalamus", "caudate"], **words)
    names = ["thalamus.volume", "thalamus.iron", "caudate.volume", "caudate.iron"]
    overview = tables[""]
    assert overview["model"].drop_duplicates().tolist() == names
    last = overview[overview["block"] == "second"].set_index("model")
    for name in names:
        fit = smf.ols("y ~ age + sex", table.assign(y=table[name])).fit()
        assert last.loc[name, "f_model"] == pytest.approx(fit.fvalue)
        assert last.loc[name, "p_model"] == pytest.approx(fit.f_pvalue)
        assert last.loc[name, "p_change"] == pytest.approx(fit.pvalues["sex[T.M]"])
    np.testing.assert_allclose(last["p_corrected"], stats.false_discovery_control(last["p_change"]))
    blocks = {"blocks": {"iron": ["{each}.iron"]}, "each": ["thalamus", "caudate"]}
    _, tables = fitted(people, outcome="{each}.volume", **blocks)
    assert tables[""]["predictors"].tolist() == ["thalamus.iron", "caudate.iron"]
    assert tables[""]["model"].tolist() == ["thalamus", "caudate"]
    _, tables = fitted(people, outcome=["edss", "load"], blocks={"a": ["age"]}, each=["thalamus.iron"])
    assert tables[""]["model"].drop_duplicates().tolist() == ["edss: thalamus.iron", "load: thalamus.iron"]


def test_standardised_coefficients_and_robust_errors(people):
    table, tables = fitted(people, outcome="edss", blocks={"a": ["age"], "b": ["sex", "load"]}, errors="hc3")
    fit = smf.ols("edss ~ age + sex + load", table).fit(cov_type="HC3", use_t=True)
    rows = tables["_coefficients"]
    rows = rows[rows["block"] == "b"].set_index("predictor")
    for ours, theirs in (("(intercept)", "Intercept"), ("age", "age"), ("sex[M]", "sex[T.M]"), ("load", "load")):
        row = rows.loc[ours]
        low, high = fit.conf_int().loc[theirs]
        expected = [fit.params[theirs], fit.bse[theirs], fit.tvalues[theirs], fit.pvalues[theirs], low, high]
        np.testing.assert_allclose(row[["B", "se", "t", "p", "low", "high"]].astype(float), expected, rtol=1e-8)
    wald = fit.f_test("sex[T.M] = 0, load = 0")
    last = tables[""].iloc[-1]
    assert (last["f_change"], last["p_change"]) == pytest.approx((float(wald.fvalue), float(wald.pvalue)))
    assert last["f_model"] == pytest.approx(fit.fvalue)
    _, plain = fitted(people, outcome="edss", blocks={"a": ["age", "load"]})
    z = table[["edss", "age", "load"]].apply(stats.zscore, ddof=1)
    standard = smf.ols("edss ~ age + load", z).fit()
    rows = plain["_coefficients"].set_index("predictor")
    for name in ("age", "load"):
        assert rows.loc[name, "beta"] == pytest.approx(standard.params[name])
        ends = rows.loc[name, ["beta_low", "beta_high"]].astype(float)
        np.testing.assert_allclose(ends, standard.conf_int().loc[name], rtol=1e-8)


def test_interactions_are_of_centred_numbers(people):
    table, tables = fitted(
        people, outcome="edss", blocks={"a": ["age", "sex", "site"], "b": ["age:sex", "sex:site"]}
    )
    assert tables[""].iloc[1]["predictors"] == "age:sex[M], sex[M]:site[b], sex[M]:site[c]"
    centred = table.assign(c=table["age"] - table["age"].mean())
    fit = smf.ols("edss ~ c + sex + site + c:sex + sex:site", centred).fit()
    rows = tables["_coefficients"]
    rows = rows[rows["block"] == "b"].set_index("predictor")
    for ours, theirs in (
        ("sex[M]", "sex[T.M]"),
        ("age:sex[M]", "c:sex[T.M]"),
        ("sex[M]:site[c]", "sex[T.M]:site[T.c]"),
    ):
        assert rows.loc[ours, "B"] == pytest.approx(fit.params[theirs])
        assert rows.loc[ours, "p"] == pytest.approx(fit.pvalues[theirs])
    for block, says in (
        (["age:sex"], "needs age as a predictor"),
        (["age", "age:nobody"], "no variable 'nobody'"),
    ):
        with pytest.raises(InputError, match=says):
            fitted(people, outcome="edss", blocks={"a": block})


def test_transformations_and_the_ladder(people):
    options = {"blocks": {"a": ["load", "age"]}, "sqrt": ["load"], "rank": ["edss"], "ladder": ["load"]}
    table, tables = fitted(people, outcome="edss", subset="age > 30", **options)
    part = table[table["age"] > 30]
    part = part.assign(r=stats.rankdata(part["edss"]), s=np.sqrt(part["load"]))
    fit = smf.ols("r ~ s + age", part).fit()
    assert tables["_coefficients"].set_index("predictor").loc["load", "B"] == pytest.approx(fit.params["s"])
    rungs = tables["_ladder"].set_index("transformation")
    for name, y in (("log", np.log(part["load"])), ("identity", part["load"]), ("1/square", part["load"] ** -2.0)):
        test = stats.normaltest(y)
        assert (rungs.loc[name, "chi2"], rungs.loc[name, "p"]) == pytest.approx(
            (test.statistic, test.pvalue), rel=1e-6
        )
    assert rungs["lilliefors_d"].idxmin() in ("log", "1/(square root)")
    with pytest.raises(InputError, match="transformed already"):
        fitted(people, outcome="edss", blocks={"a": ["load"]}, sqrt=["load"], log=["load"])


def test_diagnostics_by_their_definitions(people):
    table, tables = fitted(people, outcome="edss", blocks={"a": ["age", "load"]})
    row = tables["_diagnostics"].iloc[0]
    fit = smf.ols("edss ~ age + load", table).fit()
    again = sm.OLS(fit.resid**2, sm.add_constant(table[["age", "load"]])).fit()
    assert row["breusch_pagan"] == pytest.approx(len(table) * again.rsquared)
    assert row["breusch_pagan_p"] == pytest.approx(stats.chi2.sf(len(table) * again.rsquared, 2))
    X = sm.add_constant(table[["age", "load"]]).to_numpy()
    h = np.diag(X @ np.linalg.inv(X.T @ X) @ X.T)
    s2 = fit.ssr / fit.df_resid
    cook = fit.resid**2 / (3 * s2) * h / (1 - h) ** 2
    assert row["cook_largest"] == pytest.approx(cook.max())
    assert row["cook_participant"] == table["participant_id"][cook.idxmax()]
    assert row["cook_large"] == (cook > 4 / len(table)).sum()
    data = tables["_data"].set_index("role")
    np.testing.assert_allclose(data.loc["cook", "value"], cook)
    without = [smf.ols("edss ~ age + load", table.drop(i)).fit().mse_resid for i in table.index]
    np.testing.assert_allclose(data.loc["studentised", "value"], fit.resid / np.sqrt(np.array(without) * (1 - h)))


def test_p_of_the_bootstrap_by_its_definition(people):
    table, tables = fitted(people, outcome="edss", blocks={"a": ["age"]}, bootstrap=199, seed=4)
    drawn = np.random.default_rng(4).integers(0, 80, (199, 80))
    x, y = table["age"].to_numpy(), table["edss"].to_numpy()
    slope, samples = np.polyfit(x, y, 1)[0], np.array([np.polyfit(x[rows], y[rows], 1)[0] for rows in drawn])
    row = tables["_coefficients"].set_index("predictor").loc["age"]
    assert row["bootstrap_bias"] == pytest.approx(samples.mean() - slope, rel=1e-6)
    assert row["bootstrap_se"] == pytest.approx(samples.std(ddof=1), rel=1e-6)
    assert row["bootstrap_p"] == (1 + (abs(samples - slope) >= abs(slope)).sum()) / 200


# -- logistic models ---------------------------------------------------------------------------------------------------

# Launches of the space shuttle before Challenger: temperature (F), and whether an O-ring was damaged (Dalal et al.
# 1989, J Am Stat Assoc 84:945). R prints for glm(damage ~ temperature, binomial): 15.0429 (7.3786), -0.2322 (0.1082),
# p 0.0320; null deviance 28.267, residual deviance 20.315.
TEMPERATURE = [66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58]
DAMAGE = [0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1]


def test_a_logistic_model_as_r_prints_it():
    X = pd.DataFrame({"temperature": TEMPERATURE})
    (block,) = hierarchical_logistic(DAMAGE, {"a": X})
    row = block.coefficients.loc["temperature"]
    assert block.coefficients["B"].tolist() == pytest.approx([15.0429, -0.2322], abs=6e-5)
    assert block.coefficients["se"].tolist() == pytest.approx([7.3786, 0.1082], abs=6e-5)
    assert row["p"] == pytest.approx(0.0320, abs=6e-5)
    assert block.chi2_change == pytest.approx(28.267 - 20.315, abs=1.1e-3)
    assert row["odds_ratio"] == pytest.approx(np.exp(-0.2322), abs=1e-4)
    assert block.r2_mcfadden == pytest.approx(1 - 20.315 / 28.267, abs=1e-4)
    cox = 1 - np.exp(-(28.267 - 20.315) / 23)
    assert block.r2_nagelkerke == pytest.approx(cox / (1 - np.exp(-28.267 / 23)), abs=1e-4)
    damage, x = np.array(DAMAGE), -np.array(TEMPERATURE)
    pairs = x[damage == 1][:, None] - x[damage == 0]
    assert block.auc == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    with pytest.raises(InputError, match="separate"):
        hierarchical_logistic(np.arange(10) > 4, {"a": pd.DataFrame({"x": np.arange(10.0)})})


def test_logistic_blocks_and_their_bootstrap(people):
    options = {"blocks": {"a": ["age"], "b": ["sex"]}, "model": "logistic", "bootstrap": 50}
    table, tables = fitted(people, outcome="course", **options)
    y = (table["course"] == "RRMS").astype(float)
    whole = smf.logit("y ~ age + sex", table.assign(y=y)).fit(disp=0)
    first = smf.logit("y ~ age", table.assign(y=y)).fit(disp=0)
    row = tables[""].iloc[1]
    assert (row["event"], row["df1"], row["df_model"]) == ("RRMS", 1, 2)
    assert row["chi2_change"] == pytest.approx(2 * (whole.llf - first.llf), rel=1e-6)
    assert row["p_change"] == pytest.approx(stats.chi2.sf(2 * (whole.llf - first.llf), 1), rel=1e-6)
    assert row["r2_mcfadden"] == pytest.approx(whole.prsquared)
    rows = tables["_coefficients"]
    rows = rows[rows["block"] == "b"].set_index("predictor")
    assert rows.loc["sex[M]", "B"] == pytest.approx(whole.params["sex[T.M]"], rel=1e-5)
    assert rows.loc["sex[M]", "p"] == pytest.approx(whole.pvalues["sex[T.M]"], rel=1e-4)
    X = np.column_stack([table["age"], table["sex"] == "M"]).astype(float)
    drawn = np.random.default_rng(0).integers(0, 80, (50, 80))
    ours = logistic_statistic(y, X, [1, 1])(drawn[:5])
    for sample, rows_of in zip(ours, drawn[:5]):
        fit = sm.Logit(y.to_numpy()[rows_of], sm.add_constant(X[rows_of])).fit(disp=0)
        np.testing.assert_allclose(sample[2:], fit.params, rtol=1e-5)
    assert np.isnan(
        logistic_statistic(np.arange(10.0) > 4, np.arange(10.0)[:, None], [1])(np.arange(10)[None])
    ).all()
    with pytest.raises(InputError, match="an outcome with two"):
        fitted(people, outcome="site", blocks={"a": ["age"]}, model="logistic")


def test_the_event_of_a_logistic_model_is_chosen(people):
    options = {"outcome": "course", "blocks": {"a": ["age"]}}
    table, tables = fitted(people, model="logistic", event="PMS", **options)
    whole = smf.logit("y ~ age", table.assign(y=(table["course"] == "PMS").astype(float))).fit(disp=0)
    rows = tables["_coefficients"].set_index("predictor")
    assert rows.loc["age", "B"] == pytest.approx(whole.params["age"], rel=1e-5)
    assert tables[""]["event"].tolist() == ["PMS"]
    with pytest.raises(InputError, match="no course is 'SPMS', the event; there are PMS and RRMS"):
        fitted(people, model="logistic", event="SPMS", **options)
    with pytest.raises(InputError, match="is for logistic models"):
        fitted(people, event="PMS", **options)


# -- correlations ------------------------------------------------------------------------------------------------------


def test_pairs_and_z_scores_of_a_reference_group(people, tmp_path, capsys):
    table, path = people
    names = {"x": ["thalamus.iron", "caudate.iron"], "y": ["thalamus.volume", "caudate.volume"]}
    found = correlations(Correlations(table=path, paired=True, **names)).tables
    assert list(zip(found[""]["x"], found[""]["y"])) == list(zip(names["x"], names["y"]))
    assert len(found["_data"]) == 160
    z = {"adjust": ["age", "sex"], "reference": "group == 'HC'", "subset": "group == 'MS'"}
    row = correlations(Correlations(table=path, paired=True, adjusted=["*.iron"], **z, **names)).tables[""].iloc[0]
    controls = table[table["group"] == "HC"].rename(columns={"thalamus.iron": "iron"})
    fit = smf.ols("iron ~ age + sex", controls).fit()
    patients = table[table["group"] == "MS"].rename(columns={"thalamus.iron": "iron"})
    r = np.corrcoef((patients["iron"] - fit.predict(patients)) / np.sqrt(fit.scale), patients["thalamus.volume"])[
        0, 1
    ]
    assert row["r"] == pytest.approx(r)
    with pytest.raises(InputError, match="pairs need as many"):
        correlations(Correlations(table=path, paired=True, x=["age"], y=names["y"]))
    out = tmp_path / "c"
    line = ["correlation", "--table", path, "--x", "age", "--y", "edss,load", "--given", "sex", "--out", str(out)]
    assert guarded("models", lambda: run(line)) == 0
    data = pd.read_csv(f"{out}_data.tsv", sep="\t")
    part = data[data["y"] == "edss"]
    r = np.corrcoef(part["residual_x"], part["residual_y"])[0, 1]
    assert pd.read_csv(f"{out}.tsv", sep="\t")["r"][0] == pytest.approx(r, rel=1e-6)
    assert json.loads((tmp_path / "c.json").read_text())["columns"]["_data"]


def test_names_of_families_and_of_interactions():
    from gpuvox.findings.tables import analysed_name

    assert analysed_name("age:thalamus.iron", [("√(x)", "age")]) == "√(age) × thalamus, iron"
    assert analysed_name("sdmt: thalamus.iron", []) == "sdmt: thalamus, iron"
    assert analysed_name("edss", [("log(x)", "load"), ("rank of x", "edss")]) == "rank of EDSS"
