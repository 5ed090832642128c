"""``gpuvox voxelwise``: tasks of a group analyst, each in one command, against ``gpuvox randomise`` by hand."""

import errno
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq
from scipy.stats import nct, norm

import gpuvox
from gpuvox.cli.main import main
from gpuvox.cohort.table import read_cohort
from gpuvox.errors import SettingError
from gpuvox.files import read_mask
from gpuvox.findings.runs import read_run
from gpuvox.findings.values import find_images, value_table
from tests.front_door import (
    AFFINE,
    SHAPE,
    Cohort,
    centred,
    dummy,
    exceeding,
    exceeding_by_hand,
    make_two_groups,
    people,
    read,
    same,
)
from tests.palm.naive import bky


@pytest.fixture
def two_groups(tmp_path):
    return make_two_groups(tmp_path)


# -- the tasks ------------------------------------------------------------------------------------------------------


def test_vbm_of_two_groups_with_covariates(two_groups):
    t = two_groups.table
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age), dummy(t.sex, "M"), centred(t.tiv)]
    root = two_groups.by_hand(design, [[-1, 1, 0, 0, 0], [1, -1, 0, 0, 0]], "-T", "-x", "-c", "2.5", "-C", "2.5")
    words = ["--model", "group + age + sex + tiv", "--test", "MS - HC", "--test", "atrophy: HC - MS"]
    assert two_groups.voxelwise(*words, "-T", "--voxel", "--cluster-t", "2.5", "-C", "2.5") == 0
    out = two_groups.folder / "out"
    same(out, "MSMinusHC", root, "tstat1", ("tfce", "vox", "clustere", "clusterm"))
    same(out, "atrophy", root, "tstat2", ("tfce",))
    table = pd.read_csv(out / "design.tsv", sep="\t", float_precision="round_trip")
    assert list(table) == ["participant_id", "group[HC]", "group[MS]", "age", "sex[M]", "tiv"]
    assert_array_equal(table.to_numpy()[:, 1:].astype(float), design)


def test_tbss_of_a_4d_image_whose_table_is_in_another_order(two_groups):
    """The volumes are in the order of their companion table, in which there is one more."""
    t, rng = two_groups.table, np.random.default_rng(5)
    order = rng.permutation(len(t))
    extra = rng.normal(size=SHAPE).astype(np.float32)
    volumes = [*two_groups.values[order[:5]], extra, *two_groups.values[order[5:]]]
    ids = [*t.participant_id.iloc[order[:5]], "sub-99", *t.participant_id.iloc[order[5:]]]
    nib.save(nib.Nifti1Image(np.stack(volumes, axis=-1), AFFINE), two_groups.folder / "skeletons.nii.gz")
    pd.DataFrame({"participant_id": ids}).to_csv(two_groups.folder / "skeletons.tsv", sep="\t", index=False)
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age)][order]
    root = two_groups.by_hand(design, [1, -1, 0], "--T2", rows=order)
    words = ["--model", "group + age", "--test", "HC - MS", "--T2"]
    assert two_groups.voxelwise(*words, images="skeletons.nii.gz") == 0
    same(two_groups.folder / "out", "HCMinusMS", root, "tstat1")


def sessions(tmp_path, groups=("HC", "MS")):
    rng = np.random.default_rng(3)
    one = people(10, group=np.resize(groups, 10))
    table = pd.concat([one.assign(session=s) for s in ("pre", "post")]).sort_values(["participant_id", "session"])
    cohort = Cohort(tmp_path, table)
    order = cohort.table.sort_values(["session", "participant_id"], ascending=[False, True]).index
    cohort.table = cohort.table.loc[order].reset_index(drop=True)
    cohort.values += rng.normal(size=cohort.values.shape).astype(np.float32)
    cohort.values[(cohort.table["session"] == "post").to_numpy(), 2:5, 2:5, 2:4] += 2
    cohort.write()
    return cohort


def test_paired(tmp_path):
    cohort = sessions(tmp_path)
    t = cohort.table
    subjects = sorted(set(t.participant_id))
    design = np.column_stack(
        [dummy(t.session, "post"), dummy(t.session, "pre"), *(dummy(t.participant_id, s) for s in subjects[1:])]
    )
    contrast = [1, -1, *[0] * 9]
    blocks = t.participant_id.map(
        {s: i for i, s in enumerate(dict.fromkeys(t.participant_id), start=1)}
    ).to_numpy()
    root = cohort.by_hand(design, contrast, "-T", blocks=blocks)
    words = ["--model", "session", "--paired", "participant_id", "--test", "post - pre"]
    assert cohort.voxelwise(*words, images="maps/{participant_id}_{session}_gm.nii.gz") == 0
    same(tmp_path / "out", "postMinusPre", root, "tstat1")
    record = json.loads((tmp_path / "out" / "voxelwise.json").read_text())
    assert record["exchangeability"] == "rows are permuted within each participant_id only (10 blocks)"
    assert record["runs"][0]["tests"][0]["distinct"] == str(2**10)

    run = read_run(tmp_path / "out")  # for a report, which has two rows of each participant
    assert list(run.ids) == list(t.participant_id)
    values = find_images(run).read(read_mask(tmp_path / "mask"))
    table = value_table(values, np.ones(values.shape[1], np.int32), 1, run.ids)
    assert list(table.row) == list(range(1, 21))
    assert_allclose(table["mean"], values.mean(axis=1), rtol=1e-6)


def test_two_by_two_mixed(tmp_path):
    """The interaction of group and session: series of subjects are permuted, on a design with their means."""
    cohort = sessions(tmp_path)
    t = cohort.table
    subjects = sorted(set(t.participant_id))
    later = dummy(t.session, "post")
    design = np.column_stack(
        [
            *(dummy(t.participant_id, s) for s in subjects),
            later * dummy(t.group, "MS"),
            later * dummy(t.group, "HC"),
        ]
    )
    blocks = t.participant_id.map(
        {s: i for i, s in enumerate(dict.fromkeys(t.participant_id), start=1)}
    ).to_numpy()
    root = cohort.by_hand(design, [*[0] * 10, 1, -1], "-T", "--permuteBlocks", blocks=blocks)
    words = ["--model", "participant_id + session + session:group", "--whole", "participant_id"]
    words += ["--test", "change: MS:post - MS:pre - HC:post + HC:pre"]
    assert cohort.voxelwise(*words, images="maps/{participant_id}_{session}_gm.nii.gz") == 0
    out = tmp_path / "out"
    # The model is the same, its columns are others: t agrees but for rounding.
    assert_allclose(read(out / "contrast-change_stat-t_statmap"), read(f"{root}_tstat1"), atol=1e-5)
    mine = read(out / "contrast-change_stat-logp_desc-tfceFWE_statmap")
    assert (exceeding(mine) == exceeding_by_hand(f"{root}_tfce_corrp_tstat1")).mean() > 0.99


def test_group_by_age(two_groups):
    t = two_groups.table
    age = centred(t.age)
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), age, dummy(t.group, "MS") * age]
    root = two_groups.by_hand(design, [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0.5]], "-T")
    words = ["--model", "group * age", "--test", "age[MS] - age[HC]", "--test", "age[HC]", "--test", "age"]
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    for label, test in (("ageMSMinusAgeHC", "tstat1"), ("ageHC", "tstat2"), ("age", "tstat3")):
        same(out, label, root, test)


def test_one_way_anova_with_pairs(tmp_path):
    table = people(18, group=np.resize(["A", "B", "C"], 18), age=np.random.default_rng(2).integers(20, 60, 18))
    cohort = Cohort(tmp_path, table)
    cohort.write()
    t = cohort.table
    design = np.column_stack([dummy(t.group, "A"), dummy(t.group, "B"), dummy(t.group, "C"), centred(t.age)])
    words = ["--model", "group + age", "--test", "group", "--test", "B - A", "--test", "C - A", "-x", "-T"]
    assert cohort.voxelwise(*words) == 0
    out = tmp_path / "out"
    root = cohort.by_hand(design, [[-1, 1, 0, 0], [-1, 0, 1, 0]], "-T", "-x", f_tests=[[1, 1]])
    same(out, "group", root, "fstat1", ("tfce", "vox"))
    root = cohort.by_hand(design, [[-1, 1, 0, 0], [-1, 0, 1, 0]], "-T", "-x")
    same(out, "BMinusA", root, "tstat1", ("tfce", "vox"))
    same(out, "CMinusA", root, "tstat2", ("tfce", "vox"))


def test_a_continuous_effect_in_both_directions(two_groups):
    t = two_groups.table
    design = np.column_stack([dummy(t.sex, "F"), dummy(t.sex, "M"), centred(t.age)])
    root = two_groups.by_hand(design, [[0, 0, 1], [0, 0, -1]], "-T", "--uncorrp")
    assert two_groups.voxelwise("--model", "sex + age", "--test", "age", "--test", "-age", "--uncorrp") == 0
    out = two_groups.folder / "out"
    same(out, "age", root, "tstat1")
    same(out, "minusAge", root, "tstat2")
    mine = read(out / "contrast-age_stat-logp_desc-tfceUnc_statmap")
    assert_array_equal(exceeding(mine), exceeding_by_hand(f"{root}_tfce_p_tstat1"))


def test_one_sample(two_groups):
    root = two_groups.by_hand(None, None, "-1", "-T")
    assert two_groups.voxelwise() == 0
    same(two_groups.folder / "out", "mean", root, "tstat1")
    record = json.loads((two_groups.folder / "out" / "voxelwise.json").read_text())
    assert record["exchangeability"] == "the signs of all 16 rows are flipped freely"


def test_lesion_symptom_mapping_with_missing_data(two_groups):
    t = two_groups.table
    score = np.round(np.random.default_rng(8).normal(20, 5, 16), 1)
    t["score"] = score
    t.loc[3, "score"] = np.nan
    two_groups.write()
    Path(two_groups.folder / "maps" / f"{two_groups.names[9]}.nii.gz").unlink()
    words = ["--model", "score + age", "--test", "-score"]
    assert two_groups.voxelwise(*words) == 2
    assert not (two_groups.folder / "out").exists()
    assert two_groups.voxelwise(*words, "--missing", "drop") == 0
    rows = [i for i in range(16) if i not in (3, 9)]
    design = np.c_[np.ones(14), centred(score[rows]), centred(t.age[rows])]
    root = two_groups.by_hand(design, [0, -1, 0], "-T", rows=rows)
    out = two_groups.folder / "out"
    same(out, "minusScore", root, "tstat1")
    record = json.loads((out / "voxelwise.json").read_text())
    assert record["rows"] == 14
    assert record["rows_of_table"] == 16
    assert list(record["dropped"]) == [t.participant_id[3], t.participant_id[9]]
    assert record["dropped"][t.participant_id[3]] == "no score"
    assert record["dropped"][t.participant_id[9]] == f"no image matches ../maps/{t.participant_id[9]}_gm.nii.gz"
    assert str(two_groups.folder) not in (out / "voxelwise.json").read_text()
    assert len(pd.read_csv(out / "participants.tsv", sep="\t")) == 14


def test_a_full_disk_leaves_nothing_half_written(two_groups, monkeypatch, capsys):
    replace, full_at = os.replace, ""

    def full(source, target):
        if Path(target).name == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    earlier = two_groups.folder / "earlier"
    earlier.mkdir()
    (earlier / "notes.txt").write_text("mine")
    for out, full_at in (("new/out", "contrast-MSMinusHC_stat-t_statmap.json"), ("earlier", "design.tsv")):
        assert two_groups.voxelwise("--model", "group", "--test", "MS - HC", "-x", "-n", "5", out=out) == 2
        assert f"{full_at} cannot be written: No space left on device" in capsys.readouterr().err
    full_at, image = "", two_groups.folder / "maps" / f"{two_groups.names[2]}.nii.gz"
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), AFFINE), image)
    assert two_groups.voxelwise("--model", "group", "--test", "MS - HC", "-x", out="new/out") == 2
    assert f"volume 1 of {image.resolve()} (participant 3)" in capsys.readouterr().err
    assert not (two_groups.folder / "new").exists()
    assert [path.name for path in earlier.rglob("*")] == ["notes.txt"]


def test_blocks_of_several_sites(two_groups):
    t = two_groups.table
    sites = dict.fromkeys(t.site)
    blocks = t.site.map({s: i for i, s in enumerate(sites, start=1)}).to_numpy()
    design = np.column_stack([dummy(t.group, "HC"), dummy(t.group, "MS"), dummy(t.site, "b")])
    root = two_groups.by_hand(design, [-1, 1, 0], "-T", blocks=blocks)
    assert two_groups.voxelwise("--model", "group + site", "--test", "MS - HC", "--blocks", "site") == 0
    same(two_groups.folder / "out", "MSMinusHC", root, "tstat1")


def test_means_are_tested_by_flips_beside_differences(two_groups):
    t = two_groups.table
    design = np.column_stack([dummy(t.group, "HC"), dummy(t.group, "MS")])
    words = ["--model", "group", "--test", "MS", "--test", "MS - HC", "--test", "mean"]
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    root = two_groups.by_hand(design, [[0, 1], [0.5, 0.5]], "-T", "-1")
    same(out, "MS", root, "tstat1")
    same(out, "mean", root, "tstat2")
    root = two_groups.by_hand(design, [[-1, 1]], "-T")
    same(out, "MSMinusHC", root, "tstat1")
    record = json.loads((out / "voxelwise.json").read_text())
    said = "all 16 rows are permuted freely; for means, the signs of all 16 rows are flipped freely"
    assert record["exchangeability"] == said


def test_thresholds_by_p_follow_the_degrees_of_freedom(two_groups):
    from scipy import stats

    t = two_groups.table
    design = np.column_stack([dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age)])
    words = ["--model", "group + age", "--test", "MS - HC", "--test", "group", "--cluster-p", "0.01"]
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    root = two_groups.by_hand(design, [-1, 1, 0], "-c", repr(float(stats.t.isf(0.01, 13))))
    same(out, "MSMinusHC", root, "tstat1", ("clustere",))
    root = two_groups.by_hand(design, [-1, 1, 0], "-F", repr(float(stats.f.isf(0.01, 1, 13))), f_tests=[[1]])
    same(out, "group", root, "fstat1", ("clustere",))


def test_a_test_without_p_values_is_warned_of(two_groups, capsys):
    """A threshold of t alone leaves F without a statistic, and the reverse."""
    for given, said in (
        ("-c", "'group': no p-values, since -c and -C"),
        ("-F", "'MS - HC': no p-values, since -F"),
    ):
        words = ["--model", "group", "--test", "MS - HC", "--test", "group", given, "2.3", "--plan"]
        assert two_groups.voxelwise(*words) == 0
        assert said in capsys.readouterr().err


def test_false_discovery_rate(two_groups):
    from scipy.stats import false_discovery_control

    words = ["--model", "group + age", "--test", "MS - HC", "-T", "-x", "--fdr", "--fsl-names", "-c", "2.3"]
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    inside = nib.load(two_groups.folder / "mask.nii.gz").get_fdata() > 0
    for kind in ("tfce", "vox"):
        p = exceeding_by_hand(out / "randomise" / f"t_{kind}_p_tstat1")[inside] / 60
        q = 10.0 ** -read(out / f"contrast-MSMinusHC_stat-logp_desc-{kind}FDR_statmap")[inside].astype(float)
        assert_allclose(q, false_discovery_control(p), rtol=1e-6)
    assert not list(out.glob("*clusterSizeFDR*"))
    sidecar = json.loads((out / "contrast-MSMinusHC_stat-logp_desc-voxFDR_statmap.json").read_text())
    assert sidecar["Correction"].startswith("false discovery rate")
    source = f"{two_groups.folder}/maps/{{participant_id}}_gm.nii.gz"
    settings = {"mask": two_groups.folder / "mask.nii.gz", "n_permutations": 60, "seed": 7}
    result = gpuvox.voxelwise(source, two_groups.table, "group + age", "MS - HC", fdr=True, **settings)
    mine = read(out / "contrast-MSMinusHC_stat-logp_desc-tfceFDR_statmap")
    assert_array_equal(result.image("MS - HC", "tfceFDR").get_fdata(dtype=np.float32)[inside], mine[inside])
    assert "false discovery rate" in repr(result)
    adaptive = gpuvox.voxelwise(source, two_groups.table, "group + age", "MS - HC", fdr="bky", **settings)
    p = exceeding_by_hand(out / "randomise" / "t_tfce_p_tstat1")[inside] / 60
    q = 10.0 ** -adaptive.maps["MS - HC", "tfceFDR"].astype(float)
    assert_allclose(np.sort(q), np.sort(bky(p)), rtol=1e-6)
    with pytest.raises(SettingError, match="'bh' or 'bky' is expected"):
        gpuvox.voxelwise(source, two_groups.table, "group + age", "MS - HC", fdr="BY", **settings)


def test_effects_are_those_of_statsmodels(two_groups):
    import statsmodels.api as sm

    t = two_groups.table
    age = centred(t.age)
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), age, dummy(t.group, "MS") * age]
    words = ["--model", "group * age", "--test", "MS - HC", "--test", "age[MS] - age[HC]", "--test", "group"]
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    fit = sm.OLS(two_groups.values[:, 3, 3, 3].astype(float), design).fit()
    for label, contrast, size in (
        ("MSMinusHC", [-1, 1, 0, 0], "d"),
        ("ageMSMinusAgeHC", [0, 0, 0, 1], "partialr"),
    ):
        expected = fit.t_test(contrast)
        value = expected.tvalue.item()
        in_size = value * np.sqrt(2 / 8) if size == "d" else value / np.sqrt(value**2 + 12)
        for stat, number in (("effect", expected.effect.item()), ("se", expected.sd.item()), (size, in_size)):
            assert read(out / f"contrast-{label}_stat-{stat}_statmap")[3, 3, 3] == pytest.approx(number, rel=1e-4)
        sidecar = json.loads((out / f"contrast-{label}_stat-{size}_desc-CI95lower_statmap.json").read_text())
        assert sidecar["ConfidenceLevel"] == 0.95
        assert sidecar["SampleSize"] == 16
    f = fit.f_test([[-1, 1, 0, 0]]).fvalue
    eta = read(out / "contrast-group_stat-partialetasq_statmap")[3, 3, 3]
    assert eta == pytest.approx(f / (f + 12), rel=1e-4)
    assert not list((out / "randomise").glob("*glm*"))


def independent_limits(t, df, factor):
    """Confidence limits of d from the noncentral t distribution of scipy, by a root finder of its own."""
    lower, upper = (
        brentq(lambda delta, share=share: nct.cdf(t, df, delta) - share, t - 12, t + 12)
        for share in (0.975, 0.025)
    )
    return lower * factor, upper * factor


def test_maps_of_effects_and_their_limits_are_those_of_other_programs(two_groups):
    """One sample and a slope against statsmodels, limits of d against scipy's noncentral t, at many voxels."""
    import statsmodels.api as sm

    t, folder = two_groups.table, two_groups.folder
    common = {"mask": folder / "mask.nii.gz", "n_permutations": 2, "seed": 1, "voxel": True, "tfce": False}
    images = f"{folder}/maps/{{participant_id}}_gm.nii.gz"
    one = gpuvox.voxelwise(images, t, **common)
    slope = gpuvox.voxelwise(images, t, "sex + age", ["age"], **common)
    groups = gpuvox.voxelwise(images, t, "group", ["MS - HC"], **common)
    inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    rows = np.stack([one.grid.to_vector(values) for values in two_groups.values]).astype(float)
    assert rows.shape[1] == inside.sum()
    designs = {
        "mean": (one, np.ones((16, 1)), [1]),
        "age": (slope, np.column_stack([dummy(t.sex, "F"), dummy(t.sex, "M"), centred(t.age)]), [0, 0, 1]),
        "MS - HC": (groups, np.column_stack([dummy(t.group, "HC"), dummy(t.group, "MS")]), [-1, 1]),
    }
    for name, (result, design, contrast) in designs.items():
        df, maps = 16 - design.shape[1], {kind: values for (_, kind), values in result.maps.items()}
        for voxel in range(0, inside.sum(), 7):
            expected = sm.OLS(rows[:, voxel], design).fit().t_test(contrast)
            value = expected.tvalue.item()
            got = {kind: float(values[voxel]) for kind, values in maps.items()}
            assert got["effect"] == pytest.approx(expected.effect.item(), rel=1e-4, abs=1e-6)
            assert got["se"] == pytest.approx(expected.sd.item(), rel=1e-4)
            if name == "age":
                r = value / np.sqrt(value**2 + df)
                z = np.arctanh(r) + np.array([-1, 1]) * norm.isf(0.025) / np.sqrt(df - 1)
                limits = (r, *np.tanh(z))
                size = "partialr"
            else:
                factor, size = np.sqrt(1 / 16 if name == "mean" else 2 / 8), "d"
                limits = (value * factor, *independent_limits(value, df, factor))
            mine = (got[size], got[f"{size}CI95lower"], got[f"{size}CI95upper"])
            assert_allclose(mine, limits, rtol=2e-4, atol=2e-5, err_msg=f"{name} {voxel}")


# -- the folder -----------------------------------------------------------------------------------------------------


def test_the_folder_is_a_derivative_that_says_what_it_is(two_groups):
    assert two_groups.voxelwise("--model", "group + age", "--test", "MS - HC", "--fsl-names") == 0
    out = two_groups.folder / "out"
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"] == [{"Name": "gpuvox", "Version": gpuvox.__version__}]
    sidecar = json.loads((out / "contrast-MSMinusHC_stat-logp_desc-tfceFWE_statmap.json").read_text())
    assert sidecar["Test"] == "MS - HC"
    assert sidecar["Weights"] == [[-1, 1, 0]]
    assert sidecar["Columns"] == ["group[HC]", "group[MS]", "age"]
    assert (sidecar["Scale"], sidecar["Permutations"], sidecar["Seed"]) == ("-log10(p)", 60, 7)
    assert sidecar["SmallestPossibleP"] == pytest.approx(1 / 60)
    assert not [path for path in out.rglob("*.json") if str(two_groups.folder) in path.read_text()]
    record = json.loads((out / "voxelwise.json").read_text())
    assert {str(p.name) for p in out.glob("contrast-*")} == set(record["files"])
    assert record["tests"][0]["finding"]["survivals"]["tfceFWE"]["voxels"] > 0
    mine = read(out / "contrast-MSMinusHC_stat-logp_desc-tfceFWE_statmap")
    assert_array_equal(exceeding(mine), exceeding_by_hand(out / "randomise" / "t_tfce_corrp_tstat1"))


def test_the_design_in_the_folder_repeats_the_run(two_groups):
    assert two_groups.voxelwise("--model", "group + age", "--test", "MS - HC") == 0
    out = two_groups.folder / "out"
    root, base = two_groups.folder / "again", out / "randomise" / "t"
    words = [
        "randomise",
        "-i",
        f"{out}/participants.tsv:image",
        "-d",
        f"{base}.mat",
        "-t",
        f"{base}.con",
        "-o",
        str(root),
    ]
    assert main([*words, "-m", str(two_groups.folder / "mask"), "-T", "-n", "60", "--seed", "7", "--quiet"]) == 0
    same(out, "MSMinusHC", root, "tstat1")


def test_what_an_earlier_analysis_left_is_removed(two_groups):
    assert (
        two_groups.voxelwise("--model", "group + age", "--test", "MS - HC", "--test", "group", "--fsl-names") == 0
    )
    out = two_groups.folder / "out"
    (out / "contrast-mine_stat-t_statmap.nii.gz").write_bytes(b"")
    (out / "randomise" / "notes.txt").write_text("mine")
    assert two_groups.voxelwise("--model", "age", "--test", "age") == 0
    assert {path.name.split("_")[0] for path in out.glob("contrast-*")} == {"contrast-age", "contrast-mine"}
    left = {path.name for path in (out / "randomise").iterdir()}
    assert left == {"t.mat", "t.con", "t_design.json", "notes.txt"}


def test_nothing_is_written_over_what_is_read(two_groups, capsys):
    assert two_groups.voxelwise("--model", "group", "--test", "MS - HC", out=".") == 2
    assert "would overwrite" in capsys.readouterr().err


def test_an_interrupted_analysis_is_resumed(two_groups, monkeypatch):
    """Also where it has several runs, of which the first was done."""
    words = ["--model", "group + age", "--test", "MS - HC", "--test", "group"]
    assert two_groups.voxelwise(*words, out="whole") == 0
    monkeypatch.setattr("gpuvox.application.execute.LONG_RUN", 0.0)
    calls = []

    def interrupt(self, task, done, total):
        calls.append(task)
        if task.startswith(("f-test", "fstat")) and 0 < done < total:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gpuvox.cli.console.ProgressBar.__call__", interrupt)
        options = ["--mask", str(two_groups.folder / "mask"), "--out", str(two_groups.folder / "out"), "-n", "60"]
        images = str(two_groups.folder / "maps/{participant_id}_gm.nii.gz")
        line = [
            "voxelwise",
            "--no-report",
            str(two_groups.folder / "participants.tsv"),
            "--images",
            images,
            *options,
            *words,
        ]
        assert main([*line, "--seed", "7", "--threads", "1"]) == 130
    assert calls
    assert (two_groups.folder / "out" / "randomise" / "f_checkpoint.tally").exists()
    assert main([*line, "--resume", "--quiet"]) == 0
    for path in (two_groups.folder / "whole").glob("contrast-*"):
        assert path.read_bytes() == (two_groups.folder / "out" / path.name).read_bytes(), path.name
    assert not list((two_groups.folder / "out").rglob("*.tally"))


def test_a_short_analysis_saves_its_progress_if_it_may_be_resumed(two_groups, monkeypatch, capsys):
    def interrupted(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpuvox.application.execute.analyse", interrupted)
    words = ["--model", "group", "--test", "MS - HC"]
    assert two_groups.voxelwise(*words) == 130
    assert "no progress of this run was saved; with --resume, an interrupted run" in capsys.readouterr().err
    assert two_groups.voxelwise(*words, "--resume") == 130
    assert "no progress" not in capsys.readouterr().err


def test_names_with_odd_letters_are_written_and_read_back(two_groups):
    t = two_groups.table
    t["group"] = t["group"].map({"HC": "control group", "MS": 'the "MS" group'})
    t["image"], t["volume"] = "a", "b"
    two_groups.write()
    words = ["--model", "group", "--test", 'the "MS" group - `control group`']
    assert two_groups.voxelwise(*words) == 0
    out = two_groups.folder / "out"
    label = "theMSGroupMinusControlGroup"
    assert (out / f"contrast-{label}_stat-t_statmap.nii.gz").exists()
    design = read_cohort(out / "design.tsv").text
    assert list(design) == ["participant_id", "group[control group]", 'group[the "MS" group]']
    assert list(pd.read_csv(out / "participants.tsv", sep="\t"))[-3:] == ["image", "volume", "image_"]


def test_the_plan_writes_nothing(two_groups, capsys):
    before = sorted(two_groups.folder.rglob("*"))
    words = ["voxelwise", "--no-report", str(two_groups.folder / "participants.tsv"), "--images"]
    words += [str(two_groups.folder / "maps/{participant_id}_gm.nii.gz"), "--out", str(two_groups.folder / "out")]
    assert main([*words, "--model", "group + age", "--test", "MS - HC", "-n", "60", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "12,870 distinct permutations" in said
    assert "time: about" in said
    assert sorted(two_groups.folder.rglob("*")) == before


def test_what_is_said(two_groups, capsys):
    words = ["voxelwise", "--no-report", str(two_groups.folder / "participants.tsv"), "--images"]
    words += [str(two_groups.folder / "maps/{participant_id}_gm.nii.gz"), "--out", str(two_groups.folder / "out")]
    assert (
        main([*words, "--model", "group + age", "--test", "MS - HC", "--test", "-age", "-n", "60", "--seed", "7"])
        == 0
    )
    said = capsys.readouterr().out
    assert "16 rows of 16 of " in said
    assert "test 'MS - HC' (t, one-sided): the mean of MS is larger than the mean of HC; adjusted for age" in said
    assert "  -1 group[HC] + 1 group[MS]\n" in said
    assert "exchangeability: all 16 rows are permuted freely" in said
    assert " survive at p < 0.05, corrected" in said
    assert "TFCE: nothing survives at p < 0.05, corrected (smallest p " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "group"], "--test is missing"),
        (["--model", "group", "--test", "MS - XX"], "'XX' is not known here"),
        (["--model", "group + nonsense", "--test", "MS - HC"], "no column 'nonsense'"),
        (["--model", "group + participant_id", "--test", "MS - HC"], "as many independent columns"),
        (["--model", "group", "--test", "MS - HC", "--blocks", "group"], "cannot be made by permutation"),
        (["--model", "group", "--test", "MS - HC", "--subset", "age > 200"], "no row of"),
        (["--model", "group", "--test", "MS - HC", "--cluster-mass"], "--cluster-mass needs"),
        (["--model", "group", "--test", "MS - HC", "--shard", "3/2"], "is not I/N with I from 1 to N"),
        (["--model", "import os", "--test", "MS - HC"], "cannot be read"),
        (["--model", "group", "--test", "MS - HC", "--paired", "participant_id"], "nothing can be permuted"),
        (["--test", "MS - HC"], "'MS' is not known here; the model has a mean"),
    ],
)
def test_refused_in_a_sentence(two_groups, words, said, capsys):
    assert two_groups.voxelwise(*words) == 2
    assert said in capsys.readouterr().err
    assert not (two_groups.folder / "out").exists()


def test_images_and_mask_are_checked_before_anything_is_written(two_groups, capsys):
    words = ["--model", "group", "--test", "MS - HC"]
    assert two_groups.voxelwise(*words, images="gmm") == 2
    assert "nor is it a column of" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), AFFINE), two_groups.folder / "mask.nii.gz")
    assert two_groups.voxelwise(*words) == 2
    assert "mask" in capsys.readouterr().err
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE), two_groups.folder / "mask.nii.gz")
    (two_groups.folder / "maps" / f"{two_groups.names[4]}.nii.gz").write_bytes(b"no image")
    assert two_groups.voxelwise(*words) == 2
    assert two_groups.names[4] in capsys.readouterr().err
    assert not (two_groups.folder / "out").exists()


def test_rows_of_one_participant_need_exchangeability(tmp_path, capsys):
    cohort = sessions(tmp_path)
    template = "maps/{participant_id}_{session}_gm.nii.gz"
    assert cohort.voxelwise("--model", "session", "--test", "post - pre", images=template) == 2
    assert "has several rows, which are not independent" in capsys.readouterr().err
    assert cohort.voxelwise("--test", "mean", "--within", "participant_id", images=template) == 2
    assert "tests a mean, for which the rows of a participant are not independent" in capsys.readouterr().err


# -- Python ---------------------------------------------------------------------------------------------------------


def test_python_finds_the_same(two_groups):
    folder = two_groups.folder
    assert (
        two_groups.voxelwise("--model", "group + age", "--test", "MS - HC", "--test", "group", "--test", "MS") == 0
    )
    result = gpuvox.voxelwise(
        f"{folder}/maps/{{participant_id}}_gm.nii.gz", folder / "participants.tsv", "group + age",
        ["MS - HC", "group", "MS"], mask=folder / "mask.nii.gz", n_permutations=60, seed=7,
    )  # fmt: skip
    result.save(folder / "python")
    for path in sorted((folder / "out").glob("contrast-*")):
        other = folder / "python" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name
    inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    mine = read(folder / "out" / "contrast-MSMinusHC_stat-logp_desc-tfceFWE_statmap")
    assert_array_equal(result.image("MS - HC", "tfceFWE").get_fdata()[inside], mine[inside])
    kinds = {"MS - HC": "t", "group": "F", "MS": "t"}
    of_t = ("effect", "se", "d", "dCI95lower", "dCI95upper")
    effects = {"MS - HC": of_t, "group": ("partialetasq",), "MS": of_t}
    assert set(result.maps) == {
        (test, kind) for test, stat in kinds.items() for kind in (stat, "tfce", "tfceFWE", *effects[test])
    }
    assert "the mean of MS is larger than the mean of HC" in repr(result)
    assert result.findings[0].survivals["tfceFWE"].voxels == int((exceeding(mine) < 3).sum())


def test_python_takes_a_data_frame(two_groups):
    folder = two_groups.folder
    common = {"mask": folder / "mask.nii.gz", "n_permutations": 20, "seed": 1}
    images = f"{folder}/maps/{{participant_id}}_gm.nii.gz"
    a = gpuvox.voxelwise(images, two_groups.table, "group + age", "MS - HC", **common)
    b = gpuvox.voxelwise(images, folder / "participants.tsv", "group + age", "MS - HC", **common)
    assert_array_equal(a.maps["MS - HC", "t"], b.maps["MS - HC", "t"])
    files = [folder / "maps" / f"{name}.nii.gz" for name in two_groups.names]
    c = gpuvox.voxelwise(files, two_groups.table, "group + age", "MS - HC", **common)
    assert_array_equal(a.maps["MS - HC", "tfceFWE"], c.maps["MS - HC", "tfceFWE"])
    c.save(folder / "listed")
    saved = pd.read_csv(folder / "listed" / "participants.tsv", sep="\t")
    assert list(saved) == [*two_groups.table, "image"]
    assert saved.image[0] == f"../maps/{two_groups.names[0]}.nii.gz"
    with pytest.raises(ValueError, match="row 1 of the table is"):
        gpuvox.voxelwise(files[::-1], two_groups.table, "group + age", "MS - HC", **common)
    with pytest.raises(TypeError, match="it takes paired, within"):
        gpuvox.voxelwise(files, two_groups.table, "group", "MS - HC", exchangeability={"block": "site"}, **common)
    with pytest.raises(ValueError, match="no column 'nonsense'"):
        gpuvox.voxelwise(images, two_groups.table, "nonsense", "nonsense", **common)


def test_a_voxelwise_covariate(two_groups):
    """Grey matter at every voxel: as a nuisance of a difference between groups, and as what is tested."""
    t, folder, rng = two_groups.table, two_groups.folder, np.random.default_rng(6)
    maps = rng.normal(size=two_groups.values.shape).astype(np.float32)
    (folder / "gm").mkdir()
    for who, values in zip(t.participant_id, maps):
        nib.save(nib.Nifti1Image(values, AFFINE), folder / "gm" / f"{who}_gm.nii.gz")
    template = f"gm={folder}/gm/{{participant_id}}_gm.nii.gz"
    words = ["--model", "group + age + gm", "--test", "MS - HC", "--test", "gm", "-T", "-x"]
    assert two_groups.voxelwise(*words, "--voxelwise-covariate", template) == 0
    # The column of the design only holds the place: its numbers, which decide nothing, are others here.
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age), rng.normal(size=16)]
    nib.save(nib.Nifti1Image(np.moveaxis(maps, 0, -1), AFFINE), folder / "evs.nii.gz")
    evs = ["--vxl", "4", "--vxf", str(folder / "evs.nii.gz")]
    root = two_groups.by_hand(design, [[-1, 1, 0, 0], [0, 0, 0, 1]], "-T", "-x", *evs)
    out = folder / "out"
    same(out, "MSMinusHC", root, "tstat1", ("tfce", "vox"))
    same(out, "gm", root, "tstat2", ("tfce", "vox"))
    table = pd.read_csv(out / "design.tsv", sep="\t", float_precision="round_trip")
    assert list(table) == ["participant_id", "group[HC]", "group[MS]", "age", "gm"]
    assert table.gm.isna().all()
    assert pd.read_csv(out / "participants.tsv", sep="\t").gm[0].endswith(f"/gm/{t.participant_id[0]}_gm.nii.gz")
    result = gpuvox.voxelwise(
        f"{folder}/maps/{{participant_id}}_gm.nii.gz", t, "group + age + gm", ["MS - HC", "gm"], voxel=True, tfce=True,
        mask=folder / "mask.nii.gz", n_permutations=60, seed=7,
        voxelwise_covariates={"gm": [nib.Nifti1Image(values, AFFINE) for values in maps]},
    )  # fmt: skip
    inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    for kind, stem in (("tfceFWE", "stat-logp_desc-tfceFWE"), ("effect", "stat-effect"), ("d", "stat-d")):
        mine = read(out / f"contrast-MSMinusHC_{stem}_statmap")
        assert_array_equal(result.image("MS - HC", kind).get_fdata(dtype=np.float32)[inside], mine[inside])


def test_what_a_voxelwise_covariate_cannot_be(two_groups, capsys):
    template = f"{two_groups.folder}/maps/{{participant_id}}_gm.nii.gz"
    for model, test, name, said in (
        ("group * gm", "MS - HC", "gm", "gm has a value for every voxel, so it is a term by itself"),
        ("group + poly(gm, 2)", "MS - HC", "gm", "without a function or an interaction"),
        ("group", "MS - HC", "gm", "does not have the voxelwise covariate gm"),
        ("group + gm", "MS", "gm", "would be that where the voxelwise covariate gm is 0"),
        ("group + age", "MS - HC", "age", "the voxelwise covariate age has the name of a column"),
        ("group + gm", "MS - HC", "g-m", "'g-m' cannot name a voxelwise covariate"),
    ):
        words = ["--model", model, "--test", test, "--voxelwise-covariate", f"{name}={template}"]
        assert two_groups.voxelwise(*words) == 2
        assert said in capsys.readouterr().err
    (two_groups.folder / "other").mkdir()
    words = ["--model", "group + gm", "--test", "gm", "--voxelwise-covariate"]
    assert two_groups.voxelwise(*words, f"gm={two_groups.folder}/other/{{participant_id}}.nii.gz") == 2
    assert "no image matches" in capsys.readouterr().err
