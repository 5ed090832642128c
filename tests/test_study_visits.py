"""A study with a table of visits: iron and myelin of each, regions, mixed models, and the size of a trial."""

import json
import math

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from gpuvox.cli.main import main
from gpuvox.qmri import TissueModel

AFFINE = np.diag([2.0, 2, 2, 1])
MODEL = TissueModel.default().relative_to(-0.02, 1 / 4.329)
SHAPE = (6, 5, 4)
STUDY = """\
[study]
table = "participants.tsv"
[groups]
column = "arm"
order = ["MS", "HC"]
covariates = ["age"]
[ironmyelin]
from_field = 7
coefficient_error = 0
[rois]
labels = "labels.nii.gz"
names = "labels.tsv"
[visits]
table = "visits.tsv"
column = "session"
time = "years"
[[mixed]]
title = "Iron over time"
outcome = ["caudate.iron", "score"]
trial = [0, 1, 2]
reduction = 0.5
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve participants and one who is not in the study, at three visits; a visit is missing."""
    folder, rng = tmp_path_factory.mktemp("visits"), np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 1:4, 1:3], labels[5] = 1, 2
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / "labels.nii.gz")
    nib.save(nib.Nifti1Image((labels == 2).astype(np.uint8), AFFINE), folder / "csf.nii.gz")
    (folder / "labels.tsv").write_text("index\tname\n1\tcaudate\n2\tventricle\n")
    people, rows = [], []
    for i in range(13):
        arm, base, slope = ("MS", "HC")[i % 2], rng.normal(300, 40), rng.normal(20 * (i % 2 == 0), 6)
        for visit, years in ((1, 0.0), (2, 1.1), (3, 2.0)):
            iron = np.full(SHAPE, base + slope * years + rng.normal(0, 4))
            myelin = np.full(SHAPE, 0.2)
            iron[labels == 2], myelin[labels == 2] = 0, 0
            for name, values in zip(("qsm", "r1"), MODEL.forward(iron, myelin)):
                nib.save(
                    nib.Nifti1Image(values.astype(np.float32), AFFINE),
                    folder / f"sub-{i:02d}_ses-{visit}_{name}.nii.gz",
                )
            row = {
                "participant_id": f"sub-{i:02d}",
                "session": f"ses-{visit}",
                "years": years,
                "score": rng.normal(years),
            }
            row |= {name: f"sub-{i:02d}_ses-{visit}_{name}.nii.gz" for name in ("qsm", "r1")} | {
                "csf": "csf.nii.gz"
            }
            rows += [row] * (i != 3 or visit != 2)
            if visit == 1:
                people.append({"participant_id": f"sub-{i:02d}", "arm": arm, "age": rng.integers(20, 60)} | row)
    pd.DataFrame(people[:12]).drop(columns=["session", "years", "score"]).to_csv(
        folder / "participants.tsv", sep="\t", index=False
    )
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / "visits.tsv", sep="\t", index=False)
    (folder / "study.toml").write_text(STUDY)
    assert main(["study", str(folder / "study.toml"), "--quiet"]) == 0
    return folder


def table(path):
    return pd.read_csv(path, sep="\t", na_values="n/a")


def test_iron_of_every_visit_is_relative_to_the_mean_of_participants(study):
    results = study / "results" / "visits"
    about = json.loads((results / "iron.json").read_text())
    visits = table(results / "visits.tsv")
    assert about["Subjects"] == visits["participant_id"].tolist()
    assert about["Visits"] == visits["session"].tolist()
    assert len(visits) == 35
    csf = table(results / "csf_reference.tsv")
    assert csf["session"].tolist() == visits["session"].tolist()
    mean = csf.groupby("participant_id")["iron"].mean().mean()
    assert about["ReferenceValue"]["iron"] == pytest.approx(mean, rel=1e-4)
    volumes = nib.load(results / "iron.nii.gz").get_fdata()
    for row in (0, 17, 34):
        qsm, r1 = (
            nib.load(study / f"{about['Subjects'][row]}_{about['Visits'][row]}_{kind}.nii.gz").get_fdata()
            for kind in ("qsm", "r1")
        )
        assert volumes[2, 2, 1, row] == pytest.approx(
            TissueModel.default().inverse(qsm, r1)[0][2, 2, 1] - mean, abs=0.1
        )


def test_mixed_models_and_trials_are_those_of_statsmodels(study):
    results = study / "results"
    wide = table(results / "visits" / "rois.tsv").query("map == 'iron' and structure == 'caudate'")
    data = table(results / "visits" / "visits.tsv").merge(wide, on=["participant_id", "session"])
    fit = smf.mixedlm(
        "mean ~ years * C(arm, Treatment('HC')) + age", data, groups="participant_id", re_formula="~years"
    ).fit(reml=True, method=["bfgs", "nm"])
    rows = table(results / "models" / "iron_over_time" / "mixed.tsv").set_index(["outcome", "effect"])
    row = rows.loc["caudate.iron", "MS - HC"]
    name = "years:C(arm, Treatment('HC'))[T.MS]"
    assert (row["change"], row["se"]) == pytest.approx((fit.params[name], fit.bse[name]), rel=2e-3)
    assert rows.loc[("caudate.iron", "MS"), "n"] == 6
    trial = (
        table(results / "models" / "iron_over_time" / "mixed_trial.tsv").set_index("outcome").loc["caudate.iron"]
    )
    variance = row["sd_slope"] ** 2 + row["sd_residual"] ** 2 / 2
    z = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    per_arm = 2 * z**2 * variance / (0.5 * row["change"]) ** 2
    assert (trial["n_two_arms"], trial["n_one_arm"]) == (math.ceil(per_arm), math.ceil(per_arm / 2))
    page = (results / "report.html").read_text()
    assert "Iron over time: participants that a trial needs" in page
    assert "trial with visits at 0, 1 and 2 years, which removes 0.5 of the difference of the changes" in page


def test_what_visits_cannot_be(study, capsys):
    text = (study / "study.toml").read_text()
    for old, new, said in (
        ('time = "years"', 'time = "csf"', "visits.time: csf of"),
        (
            '"caudate.iron", "score"',
            '"putamen.iron"',
            "mixed[1].outcome: there is no variable 'putamen.iron' of visits",
        ),
        ('outcome = ["', 'order = ["MS", "HC", "CIS"]\noutcome = ["', "mixed[1].order: 3 groups; one or two"),
        ("trial = [0, 1, 2]", "trial = [1]", "mixed[1].trial: years of two visits or more are expected"),
        (
            "trial = [0, 1, 2]",
            'trial = [0, 1]\nrandom = "intercept"',
            "mixed[1].trial: is for models with random =",
        ),
        (
            '[visits]\ntable = "visits.tsv"\ncolumn = "session"\ntime = "years"\n',
            "",
            "mixed[1]: needs the section [visits]",
        ),
    ):
        assert old in text
        (study / "wrong.toml").write_text(text.replace(old, new))
        assert main(["study", str(study / "wrong.toml"), "--plan"]) == 2
        assert said in capsys.readouterr().err
