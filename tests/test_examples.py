"""The studies in examples/: run on the phantom, with the columns that it lacks, and recomputed from features.tsv."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from gpuvox import files
from gpuvox.cli.main import main
from gpuvox.study import phantom

EXAMPLES = Path(__file__).parent.parent / "examples"
FEW = 64


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """The phantom's first participants, with what the studies need beside its columns."""
    folder = tmp_path_factory.mktemp("examples") / "cohort"
    phantom.write(folder, seed=0, scale="tiny")
    table = pd.read_csv(folder / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)[:FEW]
    rng = np.random.default_rng(0)
    patient = (table["group"] == "MS").to_numpy()
    table.loc[~patient, "phenotype"] = "HC"
    table["head_size"] = rng.normal(1.3, 0.1, FEW).round(4)
    table["cortex_volume"] = rng.normal(500, 40, FEW).round(1)
    table["treatment"] = np.where(patient, rng.choice(["none", "first line", "second line"], FEW), "n/a")
    table["sdmt"] = rng.normal(0, 1, FEW).round(2)
    table["impaired"] = rng.choice(["no", "yes"], FEW)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    header = files.read_header(folder / "sub-001" / "qsm")
    grid = header.grid(np.ones(header.shape[:3], dtype=bool))
    with files.open_map(folder / "qsm", grid, header, FEW) as (_, write):
        for name in table["participant_id"]:
            write(files.read_map(folder / name / "qsm", grid))
    return folder


def study(cohort, name, **changes):
    """The results of an example with other numbers."""
    text = (EXAMPLES / f"{name}.toml").read_text()
    for key, value in {"bootstrap": "40", **changes}.items():
        text = re.sub(rf"(?m)^{key} = [1-9].*$", f"{key} = {value}", text)
    (cohort / f"{name}.toml").write_text(text)
    assert main(["study", str(cohort / f"{name}.toml"), "--quiet"]) == 0
    return cohort / f"results-{name.replace('_', '-')}"


def table(path):
    return pd.read_csv(path, sep="\t", na_values="n/a")


def features_of(folder):
    data = table(folder / "features.tsv")
    return data.rename(columns=lambda name: name.replace(".", "_"))


@pytest.mark.long
def test_determinants_by_phenotype(cohort):
    folder = study(cohort, "determinants")
    data = features_of(folder)
    row = (
        table(folder / "groups" / "volumes_by_phenotype.tsv")
        .set_index("variable")
        .loc["thalamus.volume_normalised"]
    )
    fit = smf.ols("thalamus_volume_normalised ~ C(phenotype) + age + sex", data).fit()
    test = fit.f_test("C(phenotype)[T.PMS] = 0, C(phenotype)[T.RRMS] = 0")
    assert (row["f"], row["p"]) == pytest.approx((float(test.fvalue), float(test.pvalue)), rel=1e-4)
    pairs = table(folder / "groups" / "volumes_by_phenotype_pairs.tsv")
    pair = pairs[(pairs["variable"] == row.name) & (pairs["first"] == "PMS") & (pairs["second"] == "HC")].iloc[0]
    assert pair["difference"] == pytest.approx(fit.params["C(phenotype)[T.PMS]"], rel=1e-4)
    assert pair["p_adjusted"] == pytest.approx(min(1, 3 * fit.pvalues["C(phenotype)[T.PMS]"]), rel=1e-3)
    described = table(folder / "groups" / "progressive_patients.tsv").set_index("variable")
    assert described.loc["edss", "median"] == data.loc[data["phenotype"] == "PMS", "edss"].median()
    models = folder / "models" / "volumes_in_relapsing_remitting_ms"
    patients = data[data["phenotype"] == "RRMS"].assign(load=lambda d: np.log(d["lesion_load"]))
    formula = "thalamus_volume_normalised ~ age + sex + disease_duration + edss + load + cortex_volume"
    whole = smf.ols(f"{formula} + thalamus_iron + thalamus_myelin", patients).fit()
    overview = table(models / "regression.tsv")
    last = overview[(overview["model"] == "thalamus") & (overview["block"] == "tissue")].iloc[0]
    assert (last["r2"], last["f_model"]) == pytest.approx((whole.rsquared, whole.fvalue), rel=1e-4)
    change, p, _ = whole.compare_f_test(smf.ols(formula, patients).fit())
    assert (last["f_change"], last["p_change"]) == pytest.approx((change, p), rel=1e-3)
    assert len(overview["p_corrected"].dropna()) == 4
    robust = table(folder / "models" / "volumes_in_progressive_ms" / "regression_coefficients.tsv")
    pms = data[data["phenotype"] == "PMS"].assign(load=lambda d: np.log(d["lesion_load"]))
    pms["edss"] = stats.rankdata(pms["edss"])
    fit = smf.ols("caudate_volume_normalised ~ age + edss + load + caudate_iron", pms).fit(
        cov_type="HC3", use_t=True
    )
    row = robust[(robust["model"] == "caudate") & (robust["predictor"] == "caudate.iron")].iloc[0]
    assert (row["B"], row["p"]) == pytest.approx(
        (fit.params["caudate_iron"], fit.pvalues["caudate_iron"]), rel=1e-3
    )
    course = table(folder / "models" / "progressive_course" / "regression.tsv").iloc[-1]
    ms = data[data["group"] == "MS"].assign(y=lambda d: (d["phenotype"] == "PMS") * 1.0)
    logit = smf.logit("y ~ age * thalamus_volume_normalised + disease_duration", ms).fit(disp=0)
    assert course["chi2_model"] == pytest.approx(logit.llr, rel=1e-4)
    assert course["event"] == "PMS"
    page = (folder / "report.html").read_text()
    for text in (
        "Volumes by phenotype: pairs of groups",
        "Odds ratio",
        "Diagnostics of the model",
        "HC3",
        "rank of EDSS",
    ):
        assert text in page, text


@pytest.mark.long
def test_thalamic_iron(cohort):
    folder = study(cohort, "thalamic_iron")
    data = features_of(folder)
    chi = 1000 * (data["thalamus_qsm"] - data["ventricle_qsm"])
    np.testing.assert_allclose(data["thalamus_chi"], chi, rtol=1e-5)
    np.testing.assert_allclose(data["thalamus_chi_per_volume"], chi / data["thalamus_volume"], rtol=1e-5)
    row = table(folder / "groups" / "susceptibility_relative_to_csf.tsv").set_index("variable").loc["thalamus.chi"]
    fit = smf.ols("thalamus_chi ~ C(group) + age + sex", data).fit()
    assert row["p"] == pytest.approx(fit.pvalues["C(group)[T.MS]"], rel=1e-4)
    rrms = data[data["phenotype"] == "RRMS"].assign(load=lambda d: np.sqrt(d["lesion_load"]))
    overview = table(folder / "models" / "cognition_and_disability" / "regression.tsv")
    models = ["sdmt: thalamus.chi", "sdmt: pulvinar.chi", "edss: thalamus.chi", "edss: pulvinar.chi"]
    assert overview["model"].drop_duplicates().tolist() == models
    terms = "age + sex + disease_duration + load + thalamus_volume + pulvinar_chi"
    fit = smf.ols(f"edss ~ {terms}", rrms).fit()
    last = overview[overview["model"] == models[3]].iloc[-1]
    assert last["p_change"] == pytest.approx(fit.pvalues["pulvinar_chi"], rel=1e-3)
    ladder = table(folder / "models" / "cognition_and_disability" / "regression_ladder.tsv")
    test = stats.normaltest(np.sqrt(rrms["lesion_load"].dropna()))
    rung = ladder[(ladder["variable"] == "lesion_load") & (ladder["transformation"] == "square root")].iloc[0]
    assert rung["p"] == pytest.approx(test.pvalue, rel=1e-4)
    pairs = table(folder / "models" / "susceptibility_and_volume" / "correlation.tsv")
    assert pairs["y"].tolist() == ["thalamus.volume", "thalamus_pulvinar.volume"]
    controls = data[data["group"] == "HC"]
    z = {}
    for name in ("thalamus_chi", "thalamus_volume"):
        fit = smf.ols(f"{name} ~ age + sex", controls).fit()
        z[name] = (rrms[name] - fit.predict(rrms)) / np.sqrt(fit.scale)
    assert pairs["r"][0] == pytest.approx(np.corrcoef(z["thalamus_chi"], z["thalamus_volume"])[0, 1], rel=1e-4)
    clinic = table(folder / "models" / "susceptibility_and_the_clinic" / "correlation.tsv")
    ranks = rrms[["thalamus_chi", "sdmt", "age"]].rank().assign(male=(rrms["sex"] == "M") * 1.0)
    left = [smf.ols(f"{name} ~ age + male", ranks).fit().resid for name in ("thalamus_chi", "sdmt")]
    assert clinic["r"][0] == pytest.approx(np.corrcoef(*left)[0, 1], rel=1e-4)
    assert "ladder of powers" in (folder / "report.html").read_text()


def test_the_main_study_is_planned(cohort, capsys):
    shutil.copy(EXAMPLES / "main.toml", cohort)
    assert main(["study", str(cohort / "main.toml"), "--plan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "run   voxelwise ironmass: design runs" in lines
    assert any(line.startswith("run   regression edss_given_the_volume: ") for line in lines)


@pytest.mark.long
def test_the_main_study(cohort):
    folder = study(cohort, "main", permutations="100", extent="2")
    data = features_of(folder)
    overview = table(folder / "models" / "edss_given_the_volume" / "regression.tsv")
    assert overview["block"].tolist() == ["global", "volume", "iron"] * 3
    ms = data[data["group"] == "MS"].assign(load=lambda d: np.log(d["lesion_load"]))
    terms = ("brain_volume", "load", "pallidum_volume", "pallidum_iron")
    for name in terms:
        group = ms if name == "load" else data[data["group"] == "HC"]
        fit = smf.ols(f"{name} ~ age + sex", group).fit()
        ms[name] = (ms[name] - fit.predict(ms)) / np.sqrt(fit.scale)
    fit = smf.ols(f"edss ~ {' + '.join(terms)}", ms).fit()
    assert overview.iloc[-1]["p_change"] == pytest.approx(fit.pvalues["pallidum_iron"], rel=1e-3)
