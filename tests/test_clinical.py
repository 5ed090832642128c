"""The clinical models of a study: every number against direct computation, findings of the phantom, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gpuvox.cli.main import guarded
from gpuvox.cli.models import run
from gpuvox.study.phantom import SCALES, Template, draw_cohort
from gpuvox.study.statistics.clinical import (
    Correlations,
    Regression,
    SampleSizes,
    correlations,
    regression,
    sample_sizes,
)

STRUCTURES = ("thalamus", "caudate")
MS = "group == 'MS'"
HC = "group == 'HC'"


def models(*argv):
    """Exit status of ``gpuvox models``."""
    return guarded("models", lambda: run([str(word) for word in argv]))


def read(path):
    return pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)


def rois_table(ids, values):
    """What gpuvox rois writes: ``values`` by (structure, map), each (n,); volumes by (structure, "volume")."""
    rows = []
    for structure in dict.fromkeys(structure for structure, _ in values):
        for kind in (kind for s, kind in values if s == structure and kind != "volume"):
            for i, who in enumerate(ids):
                volume = values.get((structure, "volume"), np.ones(len(ids)))[i]
                mean = values[structure, kind][i]
                rows.append([who, structure, "both", kind, 9, mean, mean, 1, volume, "n/a", "n/a"])
    columns = "participant_id structure side map n mean median sd volume volume_normalised mass".split()
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """40 patients and 20 controls; participants.tsv, rois.tsv, iron_subjects.tsv in the current folder."""
    rng = np.random.default_rng(0)
    n, patient = 60, np.arange(60) < 40
    age, female = rng.normal(40, 10, n).round(1), rng.random(n) < 0.6
    thalamus = 10 - 0.05 * age + female - patient + rng.normal(size=n)
    iron = 200 + 2 * age + 10 * rng.normal(size=n)
    lesions = np.exp(rng.normal(1, 0.8, n)).round(2)
    edss = 6 - 0.5 * thalamus + 0.4 * np.log(lesions) + rng.normal(size=n)
    table = pd.DataFrame(
        {
            "participant_id": [f"s{i:02d}" for i in range(n)],
            "group": np.where(patient, "MS", "HC"),
            "age": age,
            "sex": np.where(female, "F", "M"),
            "phenotype": np.where(patient, np.where(rng.random(n) < 0.3, "PMS", "RRMS"), "n/a"),
            "center": rng.choice(["a", "b", "c"], n),
            "edss": [f"{v:.3f}" if p else "n/a" for v, p in zip(edss, patient)],
            "lesion_load": [f"{v}" if p else "n/a" for v, p in zip(lesions, patient)],
            "brain_volume": (1500 - 3 * age + 60 * rng.normal(size=n)).round(2),
        }
    )
    table.loc[3, "brain_volume"] = np.nan
    table.loc[5, "edss"] = "n/a"
    monkeypatch.chdir(tmp_path)
    table.to_csv("participants.tsv", sep="\t", index=False, na_rep="n/a")
    values = {
        ("thalamus", "volume"): thalamus,
        ("thalamus", "iron"): iron,
        ("caudate", "iron"): rng.normal(size=n),
    }
    rois_table(table["participant_id"], values).to_csv("rois.tsv", sep="\t", index=False)
    clusters = pd.DataFrame(
        {"participant_id": table["participant_id"], "cluster": 1, "mean": iron, "eigenvariate": -iron}
    )
    clusters.to_csv("iron_subjects.tsv", sep="\t", index=False)
    wide = read("participants.tsv").assign(volume=thalamus, iron=iron, caudate=values["caudate", "iron"])
    return wide


def adjusted_by_hand(values, table, inside):
    """z of the residuals of a group: age and sex by normal equations."""
    X = np.column_stack([np.ones(len(table)), table["age"], table["sex"] == "M"])
    fit = np.linalg.lstsq(X[inside], values[inside], rcond=None)[0]
    left = values - X @ fit
    return left / np.sqrt((left[inside] ** 2).sum() / (inside.sum() - 3))


def least_squares(X, y):
    X = np.column_stack([np.ones(len(y)), X])
    b, *_ = np.linalg.lstsq(X, y, rcond=None)
    error = ((y - X @ b) ** 2).sum()
    return b, error, X


# -- regression -----------------------------------------------------------------------------------------------------


def test_the_regression_of_the_paper(cohort, capsys):
    """EDSS on adjusted brain volume and lesion load, then one adjusted feature: each number computed directly."""
    assert (
        models(
            "regression", "--table", "participants.tsv", "--rois", "rois.tsv", "--outcome", "edss", "--subset", MS,
            "--block", "volumes=brain_volume,lesion_load", "--log", "lesion_load", "--each", "thalamus.volume,*.iron",
            "--adjust", "age,sex", "--reference", HC, "--bootstrap", "200", "--seed", "3", "--out", "edss",
        )
        == 0
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "3 models of edss, n = 38" in said
    assert "adjusted for age, sex in group == 'MS' (n = 40): lesion_load" in said
    patient = (cohort["group"] == "MS").to_numpy()
    control = ~patient
    brain = cohort["brain_volume"].to_numpy()
    inside = patient & np.isfinite(brain) & cohort["edss"].notna().to_numpy()
    log = np.log(np.where(patient, cohort["lesion_load"].to_numpy(), 1))
    z = {
        "brain_volume": adjusted_by_hand(brain, cohort, control),
        "lesion_load": adjusted_by_hand(log, cohort, patient),
        "thalamus.volume": adjusted_by_hand(cohort["volume"].to_numpy(), cohort, control),
        "thalamus.iron": adjusted_by_hand(cohort["iron"].to_numpy(), cohort, control),
        "caudate.iron": adjusted_by_hand(cohort["caudate"].to_numpy(), cohort, control),
    }
    y = cohort["edss"].to_numpy()[inside]
    overview, coefficients, values = read("edss.tsv"), read("edss_coefficients.tsv"), read("edss_data.tsv")
    assert overview["model"].tolist() == [m for m in list(z)[2:] for _ in range(2)]
    ps = []
    for model in list(z)[2:]:
        first, second = overview[overview["model"] == model].to_dict("records")
        X = np.column_stack([z[name][inside] for name in ("brain_volume", "lesion_load", model)])
        _, error1, _ = least_squares(X[:, :2], y)
        b, error2, A = least_squares(X, y)
        total = ((y - y.mean()) ** 2).sum()
        assert (first["n"], first["block"], first["predictors"]) == (38, "volumes", "brain_volume, lesion_load")
        assert first["r2"] == pytest.approx(1 - error1 / total, rel=1e-6)
        assert second["r2_change"] == pytest.approx((error1 - error2) / total, rel=1e-6)
        assert second["r2_adjusted"] == pytest.approx(1 - (error2 / 34) / (total / 37), rel=1e-6)
        f = (error1 - error2) / (error2 / 34)
        assert (second["f_change"], second["df1"], second["df2"]) == pytest.approx((f, 1, 34), rel=1e-6)
        assert second["p_change"] == pytest.approx(stats.f.sf(f, 1, 34), rel=1e-6)
        assert np.isnan(first["p_corrected"])
        ps.append(second["p_change"])
        table = coefficients[(coefficients["model"] == model) & (coefficients["block"] == model)]
        assert table["predictor"].tolist() == ["(intercept)", "brain_volume", "lesion_load", model]
        np.testing.assert_allclose(table["B"], b, rtol=1e-6)
        se = np.sqrt(np.diag(np.linalg.inv(A.T @ A)) * error2 / 34)
        np.testing.assert_allclose(table["se"], se, rtol=1e-6)
        np.testing.assert_allclose(table["high"], b + stats.t.ppf(0.975, 34) * se, rtol=1e-6)
        np.testing.assert_allclose(table["beta"].iloc[1:], (b[1:] * X.std(axis=0) / y.std()), rtol=1e-6)
    order = np.argsort(ps)
    expected = np.minimum.accumulate((np.array(ps)[order] * 3 / np.arange(1, 4))[::-1])[::-1]
    np.testing.assert_allclose(overview["p_corrected"].dropna().to_numpy()[order], expected, rtol=1e-6)
    _check_data(values, cohort, inside, z, y)
    _check_bootstrap(overview, coefficients, z, inside, y)


def _check_data(values, cohort, inside, z, y):
    model = "thalamus.volume"
    part = values[values["model"] == model]
    assert part["participant_id"].nunique() == 38
    by = dict(list(part.groupby(["role", "variable"])))
    np.testing.assert_allclose(by["outcome", "edss"]["value"], y, rtol=1e-6)
    np.testing.assert_allclose(by["predictor", model]["value"], z[model][inside], rtol=1e-6)
    assert by["predictor", "lesion_load"]["residual"].isna().all()
    assert by["predictor", "lesion_load"]["participant_id"].tolist() == cohort["participant_id"][inside].tolist()
    b, _, X = least_squares(np.column_stack([z[k][inside] for k in ("brain_volume", "lesion_load", model)]), y)
    np.testing.assert_allclose(by["fitted", "edss"]["value"], X @ b, rtol=1e-6)
    # The slope of the added-variable plot is the coefficient.
    slope = stats.linregress(by["predictor", model]["residual"], by["outcome", "edss"]["residual"]).slope
    assert slope == pytest.approx(b[3], rel=1e-6)


def _check_bootstrap(overview, coefficients, z, inside, y):
    model = "thalamus.volume"
    X = np.column_stack([z[name][inside] for name in ("brain_volume", "lesion_load", model)])

    def last(rows):
        b, error, _ = least_squares(X[rows], y[rows])
        _, before, _ = least_squares(X[rows][:, :2], y[rows])
        return [b[3], (before - error) / ((y[rows] - y[rows].mean()) ** 2).sum()]

    drawn = np.array([last(rows) for rows in np.random.default_rng(3).integers(0, 38, (200, 38))])
    jack = np.array([last(np.delete(np.arange(38), i)) for i in range(38)])
    off = jack.mean(axis=0) - jack
    a = (off**3).sum(axis=0) / (6 * (off**2).sum(axis=0) ** 1.5)
    z0 = stats.norm.ppf((drawn < last(np.arange(38))).mean(axis=0))
    rows = [
        coefficients[(coefficients["block"] == model) & (coefficients["predictor"] == model)].iloc[0],
        overview[overview["block"] == model].iloc[0],
    ]
    for j, row in enumerate(rows):
        ends = np.quantile(drawn[:, j], [0.025, 0.975])
        assert (row["bootstrap_low"], row["bootstrap_high"]) == pytest.approx(tuple(ends), rel=1e-5)
        at = [
            stats.norm.cdf(z0[j] + (z0[j] + q) / (1 - a[j] * (z0[j] + q))) for q in stats.norm.ppf([0.025, 0.975])
        ]
        ends = np.quantile(drawn[:, j], at)
        assert (row["bca_low"], row["bca_high"]) == pytest.approx(tuple(ends), rel=1e-5)


def test_what_the_json_file_says(cohort):
    assert (
        models(
            "regression", "--table", "participants.tsv", "--outcome", "edss", "--subset", MS,
            "--block", "clinical=phenotype,center", "--block", "volumes=brain_volume", "--bootstrap", "100",
            "--correction", "bonferroni", "--out", "one",
        )
        == 0
    )  # fmt: skip
    about, overview = json.loads(Path("one.json").read_text()), read("one.tsv")
    assert overview["model"].tolist() == ["edss", "edss"]
    assert overview["predictors"].tolist() == ["phenotype[RRMS], center[b], center[c]", "brain_volume"]
    assert overview["p_corrected"].iloc[1] == pytest.approx(overview["p_change"].iloc[1])
    assert about["models"]["edss"]["n"] == 38
    assert about["models"]["edss"]["excluded"] == {"s03": ["brain_volume"], "s05": ["edss"]}
    assert about["models"]["edss"]["resamples_not_determined"] == 0
    assert about["n_subset"] == 40
    assert about["adjustment"] is None
    assert about["bootstrap"]["resamples"] == 100
    assert about["correction"]["method"] == "bonferroni"
    assert len(about["inputs"]["participants.tsv"]) == 64
    assert about["options"]["blocks"] == {"clinical": ["phenotype", "center"], "volumes": ["brain_volume"]}
    for suffix in ("", "_coefficients", "_data"):
        assert set(about["columns"][suffix]) == set(read(f"one{suffix}.tsv").columns)
    # The same command gives the same files.
    first = {name: Path(name).read_text() for name in ("one.tsv", "one_coefficients.tsv", "one.json")}
    assert models(
        "regression", "--table", "participants.tsv", "--outcome", "edss", "--subset", MS, "--block",
        "clinical=phenotype,center", "--block", "volumes=brain_volume", "--bootstrap", "100", "--correction",
        "bonferroni", "--out", "two",
    ) == 0  # fmt: skip
    assert first == {name: Path(name.replace("one", "two")).read_text() for name in first}


def test_a_rare_category_and_no_correction(cohort, capsys):
    table = cohort.drop(columns=["volume", "iron", "caudate"])
    table["center"] = np.where(np.arange(60) == 7, "b", "a")
    table.to_csv("rare.tsv", sep="\t", index=False, na_rep="n/a")
    command = Regression(
        table="rare.tsv", outcome="edss", subset=MS, blocks={"a": ["age"]}, each=["center", "brain_volume"],
        bootstrap=300, correction="none",
    )  # fmt: skip
    found = regression(command)
    weak = found.record["models"]["center"]["resamples_not_determined"]
    assert 60 < weak < 160  # 37 %
    assert found.record["models"]["brain_volume"]["resamples_not_determined"] == 0
    assert f"of 300 resamples, those that do not determine the model: center {weak}" in found.messages
    row = found.tables["_coefficients"].query("predictor == 'center[b]'").iloc[0]
    assert row["bootstrap_resamples"] == 300 - weak
    intervals = ["bootstrap_low", "bootstrap_high", "bca_low", "bca_high"]
    assert np.isnan(row[intervals].astype(float)).all()
    whole = found.tables["_coefficients"].query("block in ('a', 'brain_volume') and model == 'brain_volume'")
    assert (whole["bootstrap_resamples"] == 300).all()
    assert np.isfinite(whole[intervals].to_numpy(dtype=float)).all()
    without = found.record["bootstrap"]["without_interval"]
    assert without == [f"{name} (center)" for name in ("(intercept)", "age", "center[b]", "R2 change of center")]
    assert found.record["bootstrap"]["minimum_share_determined"] == 0.9
    said = next(line for line in found.messages if line.startswith("no bootstrap interval of"))
    assert "age (center), center[b] (center)" in said
    assert "fewer than 90 % of 300 resamples" in said
    assert found.tables[""]["p_corrected"].isna().all()
    # A category of one participant cannot be resampled within itself.
    with pytest.raises(ValueError, match="--strata: s07 is the only participant with center b"):
        regression(replace(command, strata=["center"]))


def test_resampling_within_categories(cohort):
    """A category of four keeps its four in every resample, and so every resample determines its coefficient."""
    table = cohort.drop(columns=["volume", "iron", "caudate"])
    known = (table["group"] == "MS") & table["edss"].notna()
    rare = [i for sex in "FM" for i in np.flatnonzero(known & (table["sex"] == sex))[:2]]
    table["center"] = np.where(np.isin(np.arange(60), rare), "b", "a")
    table.to_csv("rare.tsv", sep="\t", index=False, na_rep="n/a")
    base = ("regression", "--table", "rare.tsv", "--outcome", "edss", "--subset", MS, "--block", "a=center,age")
    assert models(*base, "--bootstrap", "200", "--seed", "4", "--strata", "center,sex", "--out", "within") == 0
    about, found = json.loads(Path("within.json").read_text()), read("within_coefficients.tsv")
    assert about["bootstrap"]["within"] == ["center", "sex"]
    assert about["bootstrap"]["without_interval"] == []
    rows = table[known].reset_index(drop=True)
    rng, draws = np.random.default_rng(4), np.empty((200, len(rows)), dtype=int)
    for _, cell in rows.groupby(["center", "sex"]):
        places = cell.index.to_numpy()
        draws[:, places] = places[rng.integers(0, len(places), (200, len(places)))]
    X, y = np.column_stack([rows["center"] == "b", rows["age"]]).astype(float), rows["edss"].to_numpy()
    drawn = np.array([least_squares(X[i], y[i])[0] for i in draws])
    np.testing.assert_allclose(found["bootstrap_low"], np.quantile(drawn, 0.025, axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["bootstrap_high"], np.quantile(drawn, 0.975, axis=0), rtol=1e-6)
    assert (found["bootstrap_resamples"] == 200).all()
    # A correlation too; strata need a bootstrap, and values.
    pair = Correlations(table="rare.tsv", x=["edss"], y=["age"], subset=MS, bootstrap=100, strata=["center"])
    assert correlations(pair).record["bootstrap"]["within"] == ["center"]
    assert correlations(pair).tables[""]["bootstrap_resamples"].tolist() == [100]
    with pytest.raises(ValueError, match="--strata: requires --bootstrap"):
        correlations(replace(pair, bootstrap=0))
    table.loc[1, "center"] = np.nan
    table.to_csv("rare.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(ValueError, match="--strata: center of s01 is missing"):
        correlations(pair)


def test_who_is_adjusted_in_whom(cohort):
    """Numbers of more than two kinds; in the subset without a reference, or where the reference has only one value."""
    table = cohort.drop(columns=["volume", "iron", "caudate"])
    table["lesion_load"] = table["lesion_load"].fillna(0)
    table["treated"] = np.arange(60) % 2
    table.to_csv("zero.tsv", sep="\t", index=False, na_rep="n/a")
    blocks = {"a": ["treated", "brain_volume", "lesion_load", "phenotype", "age"]}
    plain = {"table": "zero.tsv", "outcome": "edss", "subset": MS, "blocks": blocks, "adjust": ["age", "sex"]}

    def where(**options):
        return regression(Regression(**plain, **options)).record["adjustment"]["group_by_predictor"]

    assert where(reference=HC) == {"brain_volume": HC, "lesion_load": MS}
    assert where(reference=HC, log=["lesion_load"]) == {"brain_volume": HC, "lesion_load": MS}
    assert where() == {"brain_volume": MS, "lesion_load": MS}
    assert where(reference=HC, adjusted=["brain*"]) == {"brain_volume": HC}
    with pytest.raises(ValueError, match="--adjusted: age cannot be adjusted for itself"):
        where(adjusted=["age"])
    with pytest.raises(ValueError, match="phenotype is text"):
        where(adjusted=["phenotype"])
    with pytest.raises(ValueError, match="the list of predictors has nothing named 'edss'"):
        where(adjusted=["edss"])
    # In the sample, the slope is that of a regression with the covariates as predictors, times the residuals' SD.
    whole = table[table["edss"].notna() & table["brain_volume"].notna()]
    whole.to_csv("whole.tsv", sep="\t", index=False, na_rep="n/a")
    one = Regression(table="whole.tsv", outcome="edss", blocks={"a": ["brain_volume"]}, adjust=["age", "sex"])
    all_of_it = Regression(table="whole.tsv", outcome="edss", blocks={"a": ["brain_volume", "age", "sex"]})
    slope, expected = (regression(each).tables["_coefficients"]["B"].iloc[1] for each in (one, all_of_it))
    assert slope == pytest.approx(expected * brain_residual_sd(whole), rel=1e-6)


def brain_residual_sd(table):
    _, error, _ = least_squares(
        np.column_stack([table["age"], table["sex"] == "M"]), table["brain_volume"].to_numpy()
    )
    return np.sqrt(error / (len(table) - 3))


def test_clusters_and_conditions_on_values_before_logarithms(cohort):
    command = Regression(
        table="participants.tsv", clusters={"iron": "iron_subjects.tsv"}, outcome="edss", each=["iron.1"],
        subset="lesion_load > 1 and age <= 50", log=["lesion_load"],
    )  # fmt: skip
    overview = regression(command).tables[""]
    rows = (cohort["lesion_load"] > 1) & (cohort["age"] <= 50) & cohort["edss"].notna()
    theirs = stats.linregress(-cohort["iron"][rows], cohort["edss"][rows])
    assert overview["n"].tolist() == [rows.sum()]
    assert overview["r2"].iloc[0] == pytest.approx(theirs.rvalue**2)
    assert overview["p_change"].iloc[0] == pytest.approx(theirs.pvalue)


# -- correlation ----------------------------------------------------------------------------------------------------


def test_correlations_against_scipy(cohort):
    assert (
        models(
            "correlation", "--table", "participants.tsv", "--rois", "rois.tsv", "--x", "*.iron,thalamus.volume",
            "--y", "edss,phenotype,thalamus.volume", "--bootstrap", "100", "--out", "r",
        )
        == 0
    )  # fmt: skip
    found = read("r.tsv")
    assert list(zip(found["x"], found["y"])) == [
        (x, y)
        for x, ys in (
            ("thalamus.iron", ("edss", "phenotype[RRMS]", "thalamus.volume")),
            ("caudate.iron", ("edss", "phenotype[RRMS]", "thalamus.volume")),
            ("thalamus.volume", ("edss", "phenotype[RRMS]")),
        )
        for y in ys
    ]
    rows = cohort["edss"].notna()
    theirs = stats.pearsonr(cohort["iron"][rows], cohort["edss"][rows])
    row = found.iloc[0]
    assert row["n"] == 39
    assert (row["r"], row["p"]) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-6)
    assert (row["low"], row["high"]) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-6)
    x, y = cohort["iron"][rows].to_numpy(), cohort["edss"][rows].to_numpy()
    drawn = [np.corrcoef(x[i], y[i])[0, 1] for i in np.random.default_rng(0).integers(0, 39, (100, 39))]
    assert (row["bootstrap_low"], row["bootstrap_high"]) == pytest.approx(
        tuple(np.quantile(drawn, [0.025, 0.975])), rel=1e-6
    )
    rows = (cohort["group"] == "MS").to_numpy()
    theirs = stats.pointbiserialr(cohort["phenotype"][rows] == "RRMS", cohort["iron"][rows])
    assert found["r"].iloc[1] == pytest.approx(theirs.statistic, rel=1e-6)
    np.testing.assert_allclose(
        found["p_corrected"], stats.false_discovery_control(found["p"].to_numpy()), rtol=1e-5
    )
    about = json.loads(Path("r.json").read_text())
    assert set(about["columns"][""]) == set(found.columns)
    assert about["correlations"]["thalamus.iron ~ edss"]["excluded"]["s05"] == ["edss"]


def test_partial_rank_correlations_in_a_subset(cohort):
    found = correlations(
        Correlations(
            table="participants.tsv", x=["brain_volume"], y=["edss"], given=["age", "sex"], method="spearman",
            subset="age < 50", correction="none",
        )
    ).tables[""]  # fmt: skip
    rows = cohort["edss"].notna() & cohort["brain_volume"].notna() & (cohort["age"] < 50)
    part = cohort[rows].assign(male=(cohort["sex"] == "M").astype(float))
    precision = np.linalg.inv(part[["brain_volume", "edss", "age", "male"]].rank().corr().to_numpy())
    row = found.iloc[0]
    assert row["r"] == pytest.approx(-precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1]))
    assert (row["n"], row["df"], row["given"]) == (rows.sum(), rows.sum() - 4, "age, sex")
    assert np.isnan(row["p_corrected"])
    assert np.isnan(row["bca_low"])


def test_each_pair_once(cohort):
    names = ["age", "brain_volume", "edss"]
    found = correlations(Correlations(table="participants.tsv", x=names, y=names)).tables[""]
    assert list(zip(found["x"], found["y"])) == [
        ("age", "brain_volume"),
        ("age", "edss"),
        ("brain_volume", "edss"),
    ]


# -- sample size ----------------------------------------------------------------------------------------------------


def test_sample_sizes_from_a_table(cohort, capsys):
    import statsmodels.api as sm

    arguments = [
        "samplesize", "--table", "participants.tsv", "--rois", "rois.tsv", "--group", "group", "--order", "MS,HC",
        "--variables", "thalamus.*", "--reduction", "0.3",
    ]  # fmt: skip
    assert models(*arguments, "--covariates", "age,sex", "--out", "trial") == 0
    said, found = capsys.readouterr().out, read("trial.tsv").set_index("variable")
    assert list(found.index) == ["thalamus.iron", "thalamus.volume"]
    assert f"{found['n_ancova'].iloc[1]}" in said.splitlines()[-1]
    first = cohort["group"] == "MS"
    design = np.column_stack([np.ones(60), first, cohort["age"], cohort["sex"] == "M"]).astype(float)
    for name, y in (("thalamus.iron", cohort["iron"]), ("thalamus.volume", cohort["volume"])):
        row = found.loc[name]
        d = stats.ttest_ind(y[first], y[~first]).statistic * np.sqrt(1 / 40 + 1 / 20)
        assert row["d"] == pytest.approx(d, rel=1e-6)
        assert (row["n_first"], row["n_second"]) == (40, 20)
        groups, all_of_it = sm.OLS(y, design[:, :2]).fit(), sm.OLS(y, design).fit()
        r2 = 1 - all_of_it.mse_resid / groups.mse_resid
        assert row["r2_covariates"] == pytest.approx(r2, rel=1e-6)
        assert row["sd"] == pytest.approx(np.sqrt(groups.mse_resid), rel=1e-6)
        given = all_of_it.params.iloc[1] / np.sqrt(groups.mse_resid)
        assert row["d_adjusted"] == pytest.approx(given, rel=1e-6)
        for n, effect, share, k in ((row["n_t_test"], d, 0, 0), (row["n_ancova"], given, r2, 2)):
            assert power(0.3 * effect / np.sqrt(1 - share), n, k) >= 0.8
            assert power(0.3 * effect / np.sqrt(1 - share), n - 1, k) < 0.8
    assert set(json.loads(Path("trial.json").read_text())["columns"][""]) == set(read("trial.tsv").columns)
    assert models(*arguments) == 0
    assert "ANCOVA" not in capsys.readouterr().out
    plain = sample_sizes(
        SampleSizes(table="participants.tsv", group="group", order=["HC", "MS"], variables=["age"], alpha=0.01)
    ).tables[""]
    assert plain["n_ancova"].tolist() == [None]


def power(effect, n, k):
    df = 2 * n - 2 - k
    critical = stats.t.ppf(0.975, df)
    shift = abs(effect) * np.sqrt(n / 2)
    return stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift)


def test_whom_a_subset_leaves_out_is_told(cohort, capsys):
    found = ["correlation", "--table", "participants.tsv", "--x", "age", "--y", "brain_volume", "--out", "found"]
    assert models(*found, "--subset", "edss > 0 and age > 30") == 0
    table = pd.read_csv("participants.tsv", sep="\t")
    missing = int((table["edss"].isna() & (table["age"] > 30)).sum())
    false = int(((table["edss"] <= 0) | (table["age"] <= 30)).sum())
    assert missing
    assert false
    assert (
        f"excludes {missing + false} of 60 rows: false for {false}, missing values in {missing}"
        in capsys.readouterr().out
    )
    record = json.loads(Path("found.json").read_text())["subset_leaves_out"]
    assert record == {"false": false, "value_missing": missing}


def test_sample_sizes_that_are_printed(capsys):
    assert models("samplesize", "--r", "0.28") == 0
    end = "(power 0.8, two-sided 0.05)\n"
    assert capsys.readouterr().out == f"95 participants for a correlation of 0.28, t test of the slope {end}"
    assert models("samplesize", "--r", "0.28", "--method", "fisher") == 0
    assert capsys.readouterr().out == f"98 participants for a correlation of 0.28, Fisher's z {end}"
    assert models("samplesize", "--d", "0.5") == 0
    assert capsys.readouterr().out.startswith("64 participants in each group for 0.5 SD")
    assert models("samplesize", "--d", "1", "--power", "0.9", "--r2", "0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("23 ")
    n = int(lines[1].split()[0])
    assert lines[1].endswith("ANCOVA with a covariate of R2 0.5 within groups")
    assert power(np.sqrt(2), n, 1) >= 0.9 > power(np.sqrt(2), n - 1, 1)


# -- the phantom ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Tables of ten phantom cohorts and of a null one: clinical variables, and the truth of the regions."""
    folder, template = tmp_path_factory.mktemp("phantoms"), Template(SCALES["tiny"])
    for seed in range(11):
        cohort = draw_cohort(template, seed, null=seed == 10)
        ids = cohort.table["participant_id"]
        names = ["participant_id", "group", "age", "sex", "phenotype", "edss", "disease_duration", "lesion_load"]
        table = pd.DataFrame({name: cohort.table[name] for name in [*names, "brain_volume"]})
        table.to_csv(folder / f"participants{seed}.tsv", sep="\t", index=False)
        volume = sum(v for part, v in cohort.truth["volume"].items() if part.startswith("thalamus"))
        values = {
            ("thalamus", "volume"): volume,
            ("thalamus", "iron"): cohort.truth["iron"]["thalamus_lateral"],
            ("pulvinar", "iron"): cohort.truth["iron"]["thalamus_pulvinar"],
            ("putamen", "myelin"): cohort.truth["myelin"]["putamen"],
        }
        rois_table(ids, values).to_csv(folder / f"rois{seed}.tsv", sep="\t", index=False)
    return folder


def test_what_makes_edss_in_the_phantom_is_found(phantoms):
    """Its latent score is −.45 volume −.30 iron +.25 log lesions +.25 duration +.20 age: β in that proportion."""
    names = ["thalamus.volume", "pulvinar.iron", "lesion_load", "disease_duration", "age"]
    truth = np.array([-0.45, -0.30, 0.25, 0.25, 0.20])
    betas, increments = [], []
    for seed in range(10):
        command = Regression(
            table=str(phantoms / f"participants{seed}.tsv"), rois=str(phantoms / f"rois{seed}.tsv"), outcome="edss",
            subset=MS, log=["lesion_load"], blocks={"clinical": names[2:], "imaging": names[:2]},
        )  # fmt: skip
        found = regression(command).tables
        last = found["_coefficients"].query("block == 'imaging'").set_index("predictor")
        betas.append(last.loc[names, "beta"])
        increments.append(found[""]["p_change"].iloc[1])
    mean = np.mean(betas, axis=0)
    np.testing.assert_allclose(mean / np.linalg.norm(mean), truth / np.linalg.norm(truth), atol=0.12)
    assert np.max(increments) < 0.01


def test_the_adjusted_volume_adds_and_myelin_does_not(phantoms):
    found = regression(
        Regression(
            table=str(phantoms / "participants0.tsv"), rois=str(phantoms / "rois0.tsv"), outcome="edss", subset=MS,
            blocks={"volumes": ["brain_volume", "lesion_load"]}, log=["lesion_load"],
            each=["thalamus.volume", "putamen.myelin"], adjust=["age", "sex"], reference=HC, bootstrap=1000,
        )
    )  # fmt: skip
    last = found.tables[""].query("block == model").set_index("model")
    assert last.loc["thalamus.volume", "p_corrected"] < 0.05 < last.loc["putamen.myelin", "p_corrected"]
    row = found.tables["_coefficients"].query("predictor == 'thalamus.volume'").iloc[0]
    assert row["bca_low"] < row["B"] < row["bca_high"] < 0
    sizes = sample_sizes(
        SampleSizes(
            table=str(phantoms / "participants0.tsv"), rois=str(phantoms / "rois0.tsv"), group="group",
            order=["MS", "HC"], variables=["thalamus.volume"], covariates=["age", "sex"],
        )
    ).tables[""].iloc[0]  # fmt: skip
    assert sizes["d"] < -0.6
    assert sizes["n_ancova"] < sizes["n_t_test"] < 60


def test_the_null_phantom_has_no_difference_to_find(phantoms):
    table = sample_sizes(
        SampleSizes(
            table=str(phantoms / "participants10.tsv"), rois=str(phantoms / "rois10.tsv"), group="group",
            order=["MS", "HC"], variables=["thalamus.volume", "pulvinar.iron"],
        )
    ).tables[""]  # fmt: skip
    assert (table["d"].abs() < 0.5).all()


# -- refusals -------------------------------------------------------------------------------------------------------

REGRESSION = ["regression", "--table", "participants.tsv", "--rois", "rois.tsv", "--out", "x"]
BLOCK = ["--block", "a=brain_volume,lesion_load"]
SIZES = ["samplesize", "--table", "participants.tsv", "--group", "group"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "the model is missing"),
        (["regresion"], "models: 'regresion' is none of regression, correlation, mixed and samplesize; see"),
        (["correlation", "--method", "kendall"], "models: --method is 'kendall'; expected pearson or spearman; see"),
        (REGRESSION, "--outcome is missing"),
        ([*REGRESSION, "--outcome", "edss"], "needs predictors"),
        ([*REGRESSION, "--outcome", "eds", *BLOCK], "participants.tsv with rois.tsv has no column 'eds'"),
        ([*REGRESSION, "--outcome", "phenotype", *BLOCK], "phenotype is text; numbers are needed"),
        ([*REGRESSION, "--outcome", "edss", "--block", "volumes"], "'volumes' is not NAME=VALUE"),
        ([*REGRESSION, "--outcome", "edss", "--block", "volumes=,"], "',' names no column"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, *BLOCK], "--block a is given twice"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--block", "b=brian"], "--block b: .* has nothing named 'brian'"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--block", "b=age,brain_volume"],
         "--block b: brain_volume is already a predictor of --block a"),
        ([*REGRESSION, "--outcome", "edss", "--block", "a=age,age"], "--block a: 'age' is named twice"),
        ([*REGRESSION, "--outcome", "edss", "--block", "a=age,edss"], "edss is already the outcome"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--each", "thalamus.*,lesion_load"], "already a predictor"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--each", "nothing*"], "--each: .* has nothing named 'nothing\\*'"),
        ([*REGRESSION, "--outcome", "edss", "--block", "age=sex", "--each", "age"], "choose another"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--subset", "age > 200"], "--subset: no participant"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--subset", "ages > 20"], "--subset: cannot be evaluated on part"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--subset", HC], "model edss: none of 20 participants has all of"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--subset", "participant_id in ('s01', 's02', 's04')"],
         "2 predictors need more than 3 participants"),
        ([*REGRESSION, "--outcome", "edss", "--block", "a=age,double"], "a predictor is constant, or a combination"),
        ([*REGRESSION, "--outcome", "edss", "--block", "a=same"], "same is 1.0 in all 39 participants analysed"),
        ([*REGRESSION, "--outcome", "same", "--block", "a=age"], "same is 1.0 in all 60 participants analysed"),
        ([*REGRESSION, "--outcome", "double", "--block", "a=age"], "exact combination of the predictors"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--adjust", "age", "--reference", "age > 200"], "--reference: no"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--adjust", "sexe"], "--adjust: .* has nothing named 'sexe'"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--adjust", "age,sex", "--reference", "group=='HC' and sex=='M'"],
         "brain_volume cannot be adjusted for age, sex: the covariates are collinear"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--adjust", "age,sex", "--reference", "participant_id=='s41'"],
         "brain_volume cannot be adjusted for age, sex: the reference group has 1 participant"),
        ([*REGRESSION, "--outcome", "edss", "--block", "a=double,iron_load", "--adjust", "age"],
         "double cannot be adjusted for age: the covariates explain all"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--reference", HC], "--reference: requires --adjust"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--log", "iron_load"], "iron_load of s00 is -1; a logarithm"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--bootstrap", "1"], "at least 2"),
        ([*REGRESSION, "--outcome", "edss", *BLOCK, "--bootstrap", "-5"], "-5 is negative"),
        (["correlation", "--table", "participants.tsv", "--x", "age", "--out", "x"], "--y is missing"),
        (["correlation", "--table", "participants.tsv", "--x", "age", "--y", "age", "--out", "x"], "two variables"),
        (["correlation", "--table", "participants.tsv", "--x", "age", "--y", "center", "--out", "x"], "3 values"),
        (["correlation", "--table", "participants.tsv", "--x", "age", "--y", "edss", "--given", "age", "--out", "x"],
         "--x: age is already a covariate"),
        (["correlation", "--table", "participants.tsv", "--x", "age", "--y", "edss", "--given", "double", "--out",
          "x"], "does not vary, given the covariates"),
        (["samplesize"], "--table is missing, or --r or --d"),
        ([*SIZES, "--order", "MS,HC"], "--variables is missing"),
        ([*SIZES, "--order", "MS", "--variables", "age"], "--order: 1 group; two different groups"),
        ([*SIZES, "--order", "MS,XX", "--variables", "age"], "has no group 'XX'; there are HC, MS"),
        ([*SIZES, "--order", "MS,HC", "--variables", "age", "--covariates", "age"], "age is the group or a cov"),
        ([*SIZES, "--order", "MS,HC", "--variables", "age", "--covariates", "double"], "age: the cov.* explain all"),
        ([*SIZES, "--order", "MS,HC", "--variables", "age", "--power", "2"], "must lie between 0 and 1"),
        ([*SIZES, "--order", "MS,HC", "--variables", "sex"], "sex is text"),
        (["samplesize", "--r", "2"], "must lie between"),
        (["samplesize", "--d", "1", "--method", "fisher"], "--method is for the sample size of a correlation"),
        (["samplesize", "--r", "0.2", "--d", "1"], "is for --r, or for --d"),
        (["samplesize", "--d", "1", "--table", "participants.tsv"], "--table is for a sample size from a table"),
    ],
)  # fmt: skip
def test_refusals(cohort, tmp_path, capsys, argv, says):
    """One sentence, exit status 2, nothing written."""
    table = pd.read_csv("participants.tsv", sep="\t", keep_default_na=False, dtype=str)
    table["double"] = 2 * table["age"].astype(float)
    table["same"], table["iron_load"] = 1.0, np.where(np.arange(60) == 0, -1, np.arange(60))
    table.to_csv("participants.tsv", sep="\t", index=False)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert models(*argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert re.search(says, said.err), said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_that_is_not_there(cohort, capsys):
    assert (
        models(
            "regression", "--table", "participants.tsv", "--outcome", "edss", "--block", "a=age", "--out", "n/x"
        )
        == 2
    )
    assert "there is no folder n" in capsys.readouterr().err


def test_help_of_each(capsys):
    for kind in ("regression", "correlation", "samplesize"):
        with pytest.raises(SystemExit) as left:
            run([kind, "--help"])
        assert left.value.code == 0
        assert f"gpuvox models {kind} --table" in capsys.readouterr().out
