"""References in cerebrospinal fluid: their difference, as found by two inversions, and what is said of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from gpuvox.cli.main import main
from gpuvox.reporter import Reporter
from gpuvox.study import phantom

STUDY = """
[study]
table = "participants.tsv"
[groups]
order = ["MS", "HC"]
covariates = ["age", "sex"]
[ironmyelin]
from_field = 3
reference = "{reference}"
[template]
mask = "template/deepgray.nii.gz"
labels = "template/labels.nii.gz"
names = "template/labels.tsv"
[rois]
merge = {{ thalamus = "thalamus_*" }}
jacobian = "jacobian"
[[group_table]]
title = "all"
variables = ["thalamus.iron", "thalamus.iron.mass", "pallidum.iron", "pallidum.myelin", "caudate.volume"]
"""
NAMES = ["thalamus.iron", "thalamus.iron.mass", "pallidum.iron", "pallidum.myelin"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Offsets with an SD of 10 ppb, and a study with each reference; what each said."""
    folder, said = tmp_path_factory.mktemp("csf") / "cohort", {}
    phantom.write(folder, seed=0, scale="tiny", offset=10)
    rows = (folder / "participants.tsv").read_text().splitlines()
    (folder / "participants.tsv").write_text("\n".join(rows[:61]) + "\n")
    for reference in ("cohort", "subject"):
        (folder / "study.toml").write_text(STUDY.format(reference=reference))
        assert main(["study", str(folder / "study.toml"), "--quiet"]) == 0
        (folder / "results").rename(folder / reference)
        said[reference] = json.loads((folder / reference / "study.json").read_text())["checks"]
    return folder, {k: " ".join(each["what"] for each in v if each["kind"] == "warning") for k, v in said.items()}


def table(path):
    return pd.read_csv(path, sep="\t", na_values="n/a")


@pytest.mark.long
def test_offsets_are_what_is_told(studies):
    folder, _ = studies
    offsets = table(folder / "truth" / "offsets.tsv")["qsm_offset"]
    assert len(offsets) == 146
    offsets, csf = offsets[:60], table(folder / "cohort" / "maps" / "csf_reference.tsv")
    assert offsets.std() == pytest.approx(0.010, rel=0.25)
    # 1.43e-4 Fe - 6.85e-2 My = offset, and R1 is as it was: 6.4 mg/kg for 1 ppb
    slope = np.polyfit(offsets, csf["iron"], 1)[0]
    assert len(csf) == 60
    assert slope == pytest.approx(1.07 / (1.43e-4 * 1.07 + 6.85e-2 * 2.23e-4), rel=0.02)


@pytest.mark.long
def test_both_references_as_two_inversions_give_them(studies):
    """Each of the two studies inverted with its own reference, and tabulated both."""
    folder, _ = studies
    both = {
        name: table(folder / name / "csf" / "sensitivity.tsv").set_index("variable")
        for name in ("cohort", "subject")
    }
    features = {name: table(folder / name / "features.tsv") for name in both}
    for name, rows in both.items():
        assert list(rows.index) == NAMES  # a volume has no reference
        for how, data in features.items():
            for variable in NAMES:
                y = data[variable]
                fit = smf.ols("y ~ C(group, Treatment('HC')) + age + sex", data.assign(y=y)).fit()
                row, term = rows.loc[variable], "C(group, Treatment('HC'))[T.MS]"
                assert row[f"difference_{how}"] == pytest.approx(fit.params[term], rel=2e-3, abs=1e-4), (name, how)
                assert row[f"p_{how}"] == pytest.approx(fit.pvalues[term], rel=0.01, abs=1e-9)
                d = 2 * fit.tvalues[term] / np.sqrt(fit.df_resid)
                assert row[f"d_{how}"] == pytest.approx(d, rel=2e-3, abs=1e-4)
    share = both["cohort"].loc["thalamus.iron", "csf_share"]
    data = features["cohort"]
    csf = table(folder / "cohort" / "maps" / "csf_reference.tsv").set_index("participant_id")
    data = data.assign(c=csf.loc[data["participant_id"], "iron"].to_numpy(), y=data["thalamus.iron"])
    parts = [smf.ols(f"{name} ~ group + age + sex", data).fit().ssr for name in ("c", "y")]
    assert share == pytest.approx(parts[0] / parts[1], rel=1e-6)


@pytest.mark.long
def test_what_is_said_of_a_large_spread(studies):
    """With the cohort's reference; each participant's own removes it."""
    folder, said = studies
    assert "the spread of iron in CSF between participants (SD 6" in said["cohort"]
    assert "% of thalamus.iron" in said["cohort"]
    assert "spread" not in said["subject"]
    page = (folder / "cohort" / "report.html").read_text()
    assert "Sensitivity to the CSF reference" in page
    assert "pseudo-quantitative" in page
    assert re.search(r"with the other reference", page)
    d = table(folder / "cohort" / "csf" / "sensitivity.tsv").set_index("variable")
    assert abs(d.loc["pallidum.iron", "d_subject"]) > abs(d.loc["pallidum.iron", "d_cohort"])


def test_differences_of_csf_itself_are_warned_of():
    from gpuvox.study.statistics.csf import Comparison, References, compare_references, concerns

    rng = np.random.default_rng(0)
    group = np.repeat(["MS", "HC"], 30)
    offsets = {"iron": rng.normal(0, 5, 60) + 40 * (group == "MS"), "myelin": rng.normal(0, 0.001, 60)}
    people = pd.DataFrame({"participant_id": [f"s{i}" for i in range(60)], "group": group})
    people["putamen.iron"] = 200 + rng.normal(0, 20, 60) + offsets["iron"]
    people["putamen.volume"] = 12.0
    comparison = Comparison(people, "group", ("MS", "HC"), ())
    found = compare_references(comparison, ["putamen.iron", "putamen.volume"], offsets, "cohort")
    said = " ".join(concerns(found, "cohort", {"iron": "mg/kg", "myelin": ""}))
    assert "mean iron in CSF differs between the groups by 38 mg/kg" in said
    assert "at least half of the difference in putamen.iron is that of iron in CSF" in said
    assert "the difference in putamen.iron depends on the CSF reference: p < .001" in said
    assert "myelin" not in said
    close = References(found.compared, found.sensitivity.assign(p_cohort=0.0461, p_subject=0.0502), found.spread)
    said_of = concerns(close, "subject", {"iron": "mg/kg", "myelin": ""})
    assert "p .046 with that of the cohort, .0502 with each participant's own" in said_of[0]
    assert "by 38 µg/g given" in " ".join(concerns(found, "cohort", {"iron": "µg/g", "myelin": ""}))
    within = [offsets["iron"][group == g] for g in ("MS", "HC")]
    pooled = np.sqrt(sum(((v - v.mean()) ** 2).sum() for v in within) / 58)
    assert found.spread["iron"] == pytest.approx(pooled)


def test_every_two_of_three_groups(tmp_path):
    """The stages of a study with three groups: each pair as if it were the whole study."""
    from gpuvox.study.pipeline.config import read_config
    from gpuvox.study.pipeline.inputs import StudyInputs
    from gpuvox.study.pipeline.steps.csf import coefficient_stages, csf_stages

    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {"participant_id": [f"s{i:02d}" for i in range(60)], "arm": np.repeat(["A", "B", "C"], 20)}
    )
    people["age"] = rng.normal(40, 9, 60).round(1)
    people["putamen.iron"] = 200 + rng.normal(0, 20, 60) + 30 * (people["arm"] == "B")
    people["putamen.myelin"] = rng.normal(0.2, 0.02, 60)
    (tmp_path / "results" / "maps").mkdir(parents=True)
    people.to_csv(tmp_path / "results" / "features.tsv", sep="\t", index=False)
    people[["participant_id", "arm", "age"]].to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    reference = people[["participant_id"]].assign(iron=rng.normal(0, 8, 60), myelin=rng.normal(0, 0.01, 60))
    reference.to_csv(tmp_path / "results" / "maps" / "csf_reference.tsv", sep="\t", index=False)
    (tmp_path / "study.toml").write_text(
        '[study]\ntable = "participants.tsv"\n[groups]\ncolumn = "arm"\norder = ["A", "B", "C"]\ncovariates = ["age"]\n'
        '[ironmyelin]\n[rois]\nlabels = "labels.nii"\nmaps = ["iron", "myelin"]\n[[group_table]]\ntitle = "t"\n'
        'variables = ["putamen.*"]\n'
    )
    inputs = StudyInputs(read_config(tmp_path / "study.toml"))
    for stage in (*csf_stages(inputs), *coefficient_stages(inputs)):
        stage.work(Reporter.silent())
    rows = table(tmp_path / "results" / "csf" / "sensitivity.tsv")
    pairs = ["A - B", "A - C", "B - C"]
    assert rows["groups"].tolist() == [pair for pair in pairs for _ in range(2)]
    for row in rows[rows["variable"] == "putamen.iron"].to_dict("records"):
        first, _, second = row["groups"].split()
        both = people[people["arm"].isin([first, second])].rename(columns={"putamen.iron": "y"})
        fit = smf.ols(f"y ~ C(arm, Treatment('{second}')) + age", both).fit()
        assert row["difference_cohort"] == pytest.approx(fit.params.iloc[1], rel=1e-4)
        assert row["p_cohort"] == pytest.approx(fit.pvalues.iloc[1], rel=1e-4)
    drawn = table(tmp_path / "results" / "csf" / "coefficients.tsv")
    assert drawn["groups"].drop_duplicates().tolist() == pairs
    assert (
        table(tmp_path / "results" / "csf" / "comparison.tsv")["n_C"].isna().tolist() == [True] * 2 + [False] * 4
    )


@pytest.mark.long
def test_other_coefficients_as_other_inversions_give_them(studies):
    """Each draw inverted with its own model, and compared by statsmodels."""
    from dataclasses import replace

    from gpuvox.qmri import TissueModel
    from gpuvox.study.statistics.coefficients import concerns, dependence, drawn_models, error_roots
    from gpuvox.study.statistics.csf import Comparison
    from gpuvox.tables.reading import read_participants
    from gpuvox.tissue_models import LinearModel

    folder, _ = studies
    people, model = read_participants(folder / "cohort" / "features.tsv"), TissueModel.default()
    comparison = Comparison(people, "group", ("MS", "HC"), ("age", "sex"))
    linear = LinearModel.of(model)
    models = drawn_models(linear, error_roots(linear, 0.3), 12, seed=2)
    rows = dependence(comparison, ["pallidum.iron", "pallidum.myelin", "caudate.volume"], linear, models)
    assert rows["variable"].tolist() == ["pallidum.iron", "pallidum.myelin"]
    qsm, r1 = model.relative_to(0, 0).forward(people["pallidum.iron"], people["pallidum.myelin"])
    d, p = [], []
    for (a, b), (c, e) in models:
        other = replace(model, qsm=(a, b, 0.0), r1=(c, e, 0.0))
        (i, j, _), _ = other.inverse_rows
        fit = smf.ols("y ~ C(group, Treatment('HC')) + age + sex", people.assign(y=i * qsm + j * r1)).fit()
        t = fit.tvalues["C(group, Treatment('HC'))[T.MS]"]
        d.append(2 * t / np.sqrt(fit.df_resid))
        p.append(fit.pvalues["C(group, Treatment('HC'))[T.MS]"])
    row = rows.iloc[0]
    assert (row["d_low"], row["d_high"]) == pytest.approx(tuple(np.quantile(d, [0.025, 0.975])), rel=1e-6)
    assert row["significant"] == pytest.approx(np.mean(np.array(p) < 0.05))
    assert row["same_sign"] == pytest.approx(np.mean(np.sign(d) == np.sign(row["d"])))
    assert "fewer than 90 %" in " ".join(concerns(rows.assign(decided=0.5), "a standard error of 30 %"))
    table_of_study = table(folder / "cohort" / "csf" / "coefficients.tsv").set_index("variable")
    assert table_of_study.loc["pallidum.iron", "d"] == pytest.approx(row["d"], rel=1e-5)
    assert "Dependence on the coefficients" in (folder / "cohort" / "report.html").read_text()


def test_columns_of_a_third_group_stand_beside_those_of_the_others():
    from gpuvox.study.statistics.csf import by_pair

    def row(*groups):
        return pd.DataFrame(
            [[1.0] * 6], columns=["n", *(f"{what}_{g}" for what in ("mean", "sd") for g in groups), "p"]
        )

    found = by_pair({"A - B": row("A", "B"), "A - C": row("A", "C"), "B - C": row("B", "C")})
    assert list(found.columns) == ["groups", "n", "mean_A", "mean_B", "mean_C", "sd_A", "sd_B", "sd_C", "p"]
    assert found["groups"].tolist() == ["A - B", "A - C", "B - C"]
    assert found["mean_C"].isna().tolist() == [True, False, False]
