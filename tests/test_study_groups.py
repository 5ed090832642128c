"""Studies of three groups, of one, of a covariate and of pairs, with a map that is a column of the table."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from scipy import stats
from statsmodels.stats.power import TTestIndPower

import gpuvox
from gpuvox import files
from gpuvox.cli.main import main
from gpuvox.grid import Grid
from gpuvox.study.measures.image_series import on_grid
from gpuvox.tfce import Tfce

AFFINE = np.diag([2.0, 2, 2, 1])
STUDY = """\
[study]
table = "participants.tsv"
[groups]
column = "arm"
order = ["A", "B", "C"]
covariates = ["age"]
subset = "age < 90"
[maps.fa]
image = "fa"
[template]
mask = "mask.nii.gz"
[voxelwise]
permutations = 40
[clusters]
[demographics]
variables = ["age"]
"""


@pytest.fixture
def cohort(tmp_path):
    """Thirteen participants, of whom the subset excludes one."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"participant_id": [f"sub-{i:02d}" for i in range(13)], "arm": np.resize(["A", "B", "C"], 13)}
    )
    table["age"] = [*rng.integers(20, 60, 12), 95]
    table["fa"] = [f"images/{name}.nii.gz" for name in table.participant_id]
    values = rng.normal(size=(13, 6, 5, 4)).astype(np.float32)
    values[(table.arm == "C").to_numpy(), 1:3, 1:3, 1:3] += 5
    (tmp_path / "images").mkdir()
    for name, each in zip(table.fa, values):
        nib.save(nib.Nifti1Image(each, AFFINE), tmp_path / name)
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), AFFINE), tmp_path / "mask.nii.gz")
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path, table, values


def test_every_two_groups_are_compared_in_both_directions(cohort):
    folder, table, values = cohort
    assert main(["study", str(folder / "study.toml")]) == 0
    results, kept = folder / "results", table[:12]
    assert_array_equal(nib.load(results / "maps" / "fa.nii.gz").get_fdata(), np.moveaxis(values[:12], 0, -1))
    design = pd.DataFrame({level: (kept.arm == level).astype(float) for level in "ABC"})
    design["age"] = kept.age - kept.age.mean()
    pairs = ["A - B", "B - A", "A - C", "C - A", "B - C", "C - B"]
    by_hand = gpuvox.randomise(
        np.moveaxis(values[:12], 0, -1),
        design,
        pairs,
        mask=folder / "mask.nii.gz",
        n_permutations=40,
        seed=1,
        tfce=Tfce(delta="robust"),
    )
    tests = json.loads((results / "study.json").read_text())["tests"]
    names = ["fa_A_gt_B", "fa_A_lt_B", "fa_A_gt_C", "fa_A_lt_C", "fa_B_gt_C", "fa_B_lt_C"]
    assert [test["name"] for test in tests] == [*names, "fa_arm"]
    assert (tests[-1]["kind"], tests[-1]["df"]) == ("F", [2, 8])
    frame = design.assign(y=values[:12, 1, 1, 1])
    fit = smf.ols("y ~ A + B + C + age - 1", frame).fit().f_test("A = B, B = C")
    f = nib.load(results / "voxelwise" / "fa_fstat1.nii.gz").get_fdata()
    assert f[1, 1, 1] == pytest.approx(float(fit.fvalue), rel=1e-4)
    assert (results / "clusters" / "fa_arm.tsv").exists()
    for number, (pair, name) in enumerate(zip(pairs, names), start=1):
        mine = nib.load(results / "voxelwise" / f"fa_tstat{number}.nii.gz").get_fdata(dtype=np.float32)
        assert_array_equal(mine, by_hand.image(pair, "t").get_fdata(dtype=np.float32))
        p = nib.load(results / "voxelwise" / f"fa_tfce_corrp_tstat{number}.nii.gz").get_fdata(dtype=np.float32)
        assert_array_equal(p, by_hand.image(f"tfce_corrp_tstat{number}").get_fdata(dtype=np.float32))
        assert (results / "clusters" / f"{name}.tsv").exists()
    assert pd.read_csv(results / "clusters" / "fa_A_lt_C.tsv", sep="\t").voxels.sum() > 0
    figures = json.loads((results / "report_figures" / "figures.json").read_text())["files"]
    assert figures == [
        f"{name}_1-p.{end}" for name in ("fa_A_gt_C", "fa_B_gt_C", "fa_arm") for end in ("png", "svg")
    ]
    pixels = np.asarray(Image.open(results / "report_figures" / "fa_A_gt_C_1-p.png").convert("RGB")).reshape(-1, 3)
    blue = (pixels[:, 2] == 255) & (pixels[:, 0] == 0)
    assert blue.sum() > 500, "A < C survived: voxels in blue to light blue"
    page = (results / "report.html").read_text()
    assert "A &lt; C" in page
    assert (
        "1 − p of A &gt; C and A &lt; C, corrected, where p &lt; .05 (red to yellow, and blue to light blue)."
        in page
    )
    assert "“arm (F)” tests whether A, B and C differ in any way." in page


def test_the_underlay_may_be_on_another_grid(tmp_path):
    """A template of 1 mm below maps of 2 mm: a linear image is interpolated exactly."""
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = [-1, -2, -1]
    x, y, z = np.meshgrid(range(20), range(20), range(16), indexing="ij")
    nib.save(nib.Nifti1Image((x + 2 * y - z).astype(np.float32), affine), tmp_path / "template.nii.gz")
    grid = Grid(np.ones((6, 5, 4), bool), (2, 2, 2), AFFINE)
    found = grid.to_volume(on_grid(str(tmp_path / "template.nii.gz"), grid))
    i, j, k = np.meshgrid(range(6), range(5), range(4), indexing="ij")
    assert_allclose(found, (2 * i + 1) + 2 * (2 * j + 2) - (2 * k + 1), atol=1e-4)


def test_a_column_of_images_is_checked_before_anything_runs(cohort, capsys):
    folder, table, _ = cohort
    for wrong, said in (
        ({1: "images/sub-02.nii.gz"}, "is the image both of sub-01 and of sub-02"),
        ({1: "images/sub-02.nii.gz", 2: "images/sub-01.nii.gz"}, "row 2 of"),
        ({3: "n/a"}, "no fa of sub-03"),
    ):
        changed = table.copy()
        for row, name in wrong.items():
            changed.loc[row, "fa"] = name
        changed.to_csv(folder / "participants.tsv", sep="\t", index=False)
        assert main(["study", str(folder / "study.toml")]) == 2
        message = capsys.readouterr().err
        assert said in message
        assert "maps.fa.image" in message
        assert not (folder / "results").exists()


def rewrite(folder, **sections):
    """The study with other sections, and without the groups' tables."""
    head, _, rest = STUDY.replace('[demographics]\nvariables = ["age"]\n', "").partition("[groups]")
    parts = {"groups": 'covariates = ["age"]', "voxelwise": "permutations = 40"} | sections
    maps = rest[rest.index("[maps.fa]") : rest.index("[voxelwise]")]
    tail = parts.pop("tail", "")
    text = head + maps + "".join(f"[{name}]\n{keys}\n" for name, keys in parts.items())
    (folder / "study.toml").write_text(f"{text}[clusters]\n{tail}")


def image(path):
    return nib.load(path).get_fdata(dtype=np.float32)


def test_a_covariate_and_a_mean_of_one_group_are_tested_as_by_voxelwise(cohort, tmp_path):
    """Without a column of groups, everybody is in one."""
    folder, table, values = cohort
    table["score"] = np.random.default_rng(1).normal(size=13).round(3)
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    tests = ["score", "falls: -score", "mean"]
    rewrite(
        folder,
        voxelwise=f'model = "score + age"\ntests = {json.dumps(tests)}\nagainst = {{ fa = 0.5 }}\npermutations = 40',
        tail='[[group_table]]\ntitle = "one"\nvariables = ["score"]\nagainst = 0.25\n'
             '[demographics]\nvariables = ["age"]\n[report]\nzscores = ["score"]\n',
    )  # fmt: skip
    assert main(["study", str(folder / "study.toml")]) == 0
    results = folder / "results"
    voxelwise = {"mask": folder / "mask.nii.gz", "n_permutations": 40, "seed": 1, "tfce": Tfce(delta="robust")}
    slopes = gpuvox.voxelwise("fa", folder / "participants.tsv", "score + age", tests=tests[:2], **voxelwise)
    for number, name in enumerate(("score", "falls"), start=1):
        mine = image(results / "voxelwise" / f"fa_t_tstat{number}.nii.gz")
        assert_array_equal(mine, slopes.image(name, "t").get_fdata(dtype=np.float32))
        p = 1 - image(results / "voxelwise" / f"fa_t_tfce_corrp_tstat{number}.nii.gz").astype(float)
        assert_allclose(
            10 ** -slopes.image(name, "tfceFWE").get_fdata()[values[0] != 0], p[values[0] != 0], rtol=1e-5
        )
    frame = table.assign(y=values[:, 2, 2, 2] - 0.5, centred=table.age - table.age.mean())
    fit = smf.ols("y ~ score + centred", frame.assign(score=table.score - table.score.mean())).fit()
    assert image(results / "voxelwise" / "fa_mean_tstat1.nii.gz")[2, 2, 2] == pytest.approx(
        fit.tvalues.iloc[0], rel=1e-4
    )
    about = json.loads((results / "study.json").read_text())
    assert [test["contrast"] for test in about["tests"]] == ["score", "falls", "mean, against 0.5"]
    assert [test["name"] for test in about["tests"]] == ["fa_score", "fa_falls", "fa_mean"]
    assert about["cohort"]["n"] == {"all": 13}
    row = pd.read_csv(results / "groups" / "one.tsv", sep="\t").iloc[0]
    by_hand = stats.ttest_1samp(table.score, 0.25)
    assert (row.t, row.p, row.df) == pytest.approx((by_hand.statistic, by_hand.pvalue, 12))
    assert row.d == pytest.approx((table.score.mean() - 0.25) / table.score.std())
    page = (results / "report.html").read_text()
    assert "flips of signs (tests of means)" in page
    assert "The only variable does not differ from 0.25 on average" in page
    assert "<h2>Descriptions</h2>" in page
    assert (
        "Variables of one group were described. Means were compared with 0.25 by Student’s t test of one" in page
    )
    assert "“mean, against 0.5” tests whether the mean is above 0.5; adjusted for score and age." in page
    assert "“score” tests whether the values rise with score; adjusted for age." in page
    assert "Demographic variables were compared" not in page, "one group is described"


def test_matched_pairs_are_permuted_within_each(cohort):
    folder, table, values = cohort
    table = table.assign(arm=np.resize(["A", "B"], 13), match=[f"m{i // 2}" for i in range(13)])
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    rewrite(
        folder,
        groups='column = "arm"\norder = ["A", "B"]\nsubset = "age < 90"',
        voxelwise='paired = "match"\npermutations = 40',
    )
    assert main(["study", str(folder / "study.toml")]) == 0
    results = folder / "results"
    difference = values[:12:2, 1, 2, 3] - values[1:12:2, 1, 2, 3]
    t = stats.ttest_1samp(difference, 0).statistic
    assert image(results / "voxelwise" / "fa_tstat1.nii.gz")[1, 2, 3] == pytest.approx(t, rel=1e-4)
    assert image(results / "voxelwise" / "fa_tstat2.nii.gz")[1, 2, 3] == pytest.approx(-t, rel=1e-4)
    assert [test["name"] for test in json.loads((results / "study.json").read_text())["tests"]] == [
        "fa_A_gt_B",
        "fa_A_lt_B",
    ]
    assert files.read_named_matrix(results / "design.grp").values.ravel().tolist() == [
        1 + i // 2 for i in range(12)
    ]
    assert "Rows are permuted within each match only (6 blocks)." in (results / "report.html").read_text()


def test_what_one_group_cannot_have_is_refused(cohort, capsys):
    folder, _, _ = cohort
    sample_size = '[[sample_size]]\ntitle = "n"\nvariables = ["age"]\n'
    for changes, said in (
        ({}, "voxelwise.tests: is needed with one group"),
        ({"voxelwise": 'tests = ["age"]', "tail": sample_size}, "compares two groups; groups.order has fewer"),
        ({"voxelwise": 'tests = ["agee"]'}, "voxelwise.tests: the test 'agee'"),
        ({"voxelwise": 'tests = ["age"]\nagainst = { fa = 1 }'}, "is for tests of a mean, and there is none"),
        ({"voxelwise": 'tests = ["mean"]\nagainst = { md = 1 }'}, "names 'md'"),
        ({"voxelwise": 'tests = ["age", "a.g: age", "a g: age"]'}, "two tests would have files called 'a_g'"),
    ):
        rewrite(folder, **changes)
        assert main(["study", str(folder / "study.toml")]) == 2
        assert said in capsys.readouterr().err


def test_sample_sizes_are_of_every_two_groups(cohort):
    folder, table, _ = cohort
    rewrite(
        folder,
        groups='column = "arm"\norder = ["A", "B", "C"]',
        tail='[[sample_size]]\ntitle = "n"\nvariables = ["age"]\n',
    )
    text = (folder / "study.toml").read_text()
    (folder / "study.toml").write_text(text.replace("[voxelwise]\npermutations = 40\n[clusters]\n", ""))
    assert main(["study", str(folder / "study.toml")]) == 0
    found = pd.read_csv(folder / "results" / "models" / "n" / "samplesize.tsv", sep="\t")
    assert found.groups.tolist() == ["A - B", "A - C", "B - C"]
    a, c = (table.age[table.arm == level] for level in "AC")
    sd = np.sqrt((4 * a.var() + 3 * c.var()) / 7)
    assert found.d[1] == pytest.approx((a.mean() - c.mean()) / sd)
    power = TTestIndPower().power(found.d[1], found.n_t_test[1], 0.05)
    assert power >= 0.8 > TTestIndPower().power(found.d[1], found.n_t_test[1] - 1, 0.05)
