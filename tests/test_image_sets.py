"""Several sets of images, p-values over all tests, and two-sided tests of ``gpuvox voxelwise``."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import gpuvox
from gpuvox.cli.main import main
from gpuvox.files import write_vest
from gpuvox.findings.runs import read_run
from gpuvox.findings.tested import read_grid, read_tested
from tests.front_door import AFFINE, centred, dummy, exceeding, exceeding_by_hand, make_two_groups, read

COMPONENTS = ("ic00", "ic01", "ic02")
TESTS = ["--test", "MS - HC", "--test", "HC - MS", "--test", "age"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Beside the maps of a cohort three components: one 4D image in another order for each, as of dual regression."""
    cohort = make_two_groups(tmp_path_factory.mktemp("cohort"))
    rng = np.random.default_rng(4)
    cohort.components = {}
    for i, name in enumerate(COMPONENTS):
        values = rng.normal(size=cohort.values.shape).astype(np.float32)
        values[(cohort.table["group"] == "MS").to_numpy(), 2:5, 2:5, 2:4] += i
        cohort.components[name] = values
        order = rng.permutation(len(values))
        nib.save(nib.Nifti1Image(np.moveaxis(values[order], 0, -1), AFFINE), cohort.folder / f"{name}.nii.gz")
        ids = pd.DataFrame({"participant_id": cohort.table.participant_id[order]})
        ids.to_csv(cohort.folder / f"{name}.tsv", sep="\t", index=False)
    return cohort


def voxelwise(cohort, out, *words, images=("maps/{participant_id}_gm.nii.gz",)):
    sources = [word for each in images for word in ("--images", each)]
    return main(
        ["voxelwise", "--no-report", str(cohort.folder / "participants.tsv"), *sources,
            "--mask", str(cohort.folder / "mask"),
         "--out", str(cohort.folder / out), "-n", "60", "--seed", "7", "--quiet", *words]
    )  # fmt: skip


@pytest.fixture(scope="module")
def tested(cohort):
    """The three components, corrected over all tests; and the same by hand."""
    source = f"ic{{00..02}}={cohort.folder}/ic{{00..02}}.nii.gz"
    words = ["--model", "group + age", *TESTS, "-T", "-x", "-c", "2", "--across-tests"]
    assert voxelwise(cohort, "sets", *words, images=[source]) == 0
    return cohort.folder / "sets"


def by_hand(cohort, name, order, *options):
    """``gpuvox randomise`` of one component with null distributions; its design and labels are written here."""
    t = cohort.table.iloc[order]
    design = np.c_[dummy(t.group, "HC"), dummy(t.group, "MS"), centred(t.age)]
    # Rows that are equal for all three contrasts: those of one group and of one age.
    write_vest(cohort.folder / "labels.mat", np.c_[design[:, :1], t.age])
    values, cohort.values = cohort.values, cohort.components[name]
    try:
        return cohort.by_hand(
            design, [[-1, 1, 0], [1, -1, 0], [0, 0, 1]], "-x", "-c", "2", "-N", *options, rows=order
        )
    finally:
        cohort.values = values


def test_ten_components_by_hand(cohort, tested):
    """The joint null is the largest value of any test and component in each permutation; all have the same ones."""
    order = pd.read_csv(cohort.folder / "ic00.tsv", sep="\t").participant_id
    order = [cohort.table.participant_id.tolist().index(who) for who in order]  # that of the first set
    nulls, observed = {"vox": [], "clustere": []}, {}
    for name in COMPONENTS:
        root = by_hand(cohort, name, order, "--effective_design", str(cohort.folder / "labels.mat"), "-R")
        for i, label in enumerate(("MSMinusHC", "HCMinusMS", "age"), start=1):
            stat = read(f"{root}_tstat{i}")
            assert_array_equal(read(tested / f"map-{name}_contrast-{label}_stat-t_statmap"), stat)
            for kind, desc in (("vox", "voxFWE"), ("clustere", "clusterSizeFWE")):
                nulls[kind].append(np.loadtxt(f"{root}_{kind}_corrp_tstat{i}.txt").astype(np.float32))
                mine = read(tested / f"map-{name}_contrast-{label}_stat-logp_desc-{desc}_statmap")
                assert_array_equal(exceeding(mine), exceeding_by_hand(f"{root}_{kind}_corrp_tstat{i}"))
            observed[name, label, "vox"] = stat
            observed[name, label, "clustere"] = read(f"{root}_clustere_tstat{i}")
    inside = read(cohort.folder / "mask") > 0
    for (name, label, kind), stat in observed.items():
        desc = {"vox": "voxFWEacross", "clustere": "clusterSizeFWEacross"}[kind]
        mine = exceeding(read(tested / f"map-{name}_contrast-{label}_stat-logp_desc-{desc}_statmap"))
        null = np.max(nulls[kind], axis=0)
        naive = (null[:, None] >= stat[inside][None]).sum(axis=0)
        assert_array_equal(mine[inside], naive, err_msg=f"{name} {label} {kind}")


def test_sets_are_said_and_recorded(tested, cohort, capsys):
    record = json.loads((tested / "voxelwise.json").read_text())
    assert [each["name"] for each in record["tests"]][:4] == [
        "ic00: MS - HC", "ic00: HC - MS", "ic00: age", "ic01: MS - HC"
    ]  # fmt: skip
    assert [test.name for test in read_run(tested).tests[:2]] == ["ic00: MS - HC", "ic00: HC - MS"]
    survived = {each["name"]: each["finding"]["survivals"] for each in record["tests"]}
    assert survived["ic02: MS - HC"]["tfceFWEacross"]["voxels"] > 0
    assert not survived["ic00: MS - HC"]["tfceFWEacross"]["voxels"]
    sidecar = json.loads((tested / "map-ic02_contrast-age_stat-logp_desc-tfceFWEacross_statmap.json").read_text())
    assert (sidecar["Contrast"], sidecar["Images"]) == ("age", "ic02")
    assert sidecar["Correction"] == "family-wise error over the voxels of all tests of this analysis"
    assert set(pd.read_csv(tested / "participants.tsv", sep="\t")) >= {"ic00", "ic01", "ic02", "ic02_volume"}
    assert {str(p.name) for p in tested.glob("map-*")} == set(record["files"])
    assert sorted(path.name for path in (tested / "randomise").glob("ic00*")) == [
        "ic00_t.con", "ic00_t.mat", "ic00_t_design.json", "ic00_t_effective.mat"
    ]  # fmt: skip


def test_python_takes_sets_by_name(cohort, tested):
    result = gpuvox.voxelwise(
        {name: cohort.folder / f"{name}.nii.gz" for name in COMPONENTS}, cohort.table, "group + age",
        ["MS - HC", "HC - MS", "age"], mask=cohort.folder / "mask.nii.gz", n_permutations=60, seed=7,
        voxel=True, tfce=True, cluster_extent=2.0, across_tests=True,
    )  # fmt: skip
    result.save(cohort.folder / "python")
    for path in sorted(tested.glob("map-*")):
        assert path.read_bytes() == (cohort.folder / "python" / path.name).read_bytes(), path.name
    assert result.maps["ic01: age", "tfceFWEacross"].shape == result.maps["ic01: age", "t"].shape
    assert "corrected over all tests" in repr(result)


def test_what_has_no_common_scale_is_refused(cohort, capsys):
    words = ["--model", "group + age", "--across-tests", "--test"]
    for tests, said in (
        (
            ["MS - HC", "--test", "group"],
            "'MS - HC' is a t test and 'group' an F test, which have no common scale",
        ),
        (["MS - HC", "--test", "MS"], "'MS' is tested by sign flips and 'MS - HC' by permutations"),
        (["MS - HC", "--detectNull"], "--across-tests needs the same permutations of all tests"),
    ):
        assert voxelwise(cohort, "no", *words, *tests, images=[f"{cohort.folder}/maps/{{participant_id}}_gm"]) == 2
        assert said in capsys.readouterr().err
    template = f"{cohort.folder}/maps/{{participant_id}}_gm"
    for images, said in (
        ([template, template], "is one of several sets of images, so it needs a name"),
        ([f"a={template}", f"a={template}"], "--images a is given twice"),
        ([f"a.b={template}"], "'a.b' cannot name a set of images"),
        ([f"ic{{3..1}}={template}"], "one range such as {00..09} is expected in it"),
    ):
        assert voxelwise(cohort, "no", *words, "MS - HC", images=images) == 2
        assert said in capsys.readouterr().err
    assert not (cohort.folder / "no").exists()


def test_two_sided(cohort, capsys):
    """One map of p for both directions: that of the pair, corrected over the two."""
    images = [f"{cohort.folder}/maps/{{participant_id}}_gm.nii.gz"]
    common = ["--model", "group + age", "-T", "-x", "-c", "2"]
    assert voxelwise(cohort, "two", *common, "--test", "HC - MS", "--two-sided", images=images) == 0
    pair = ["--test", "HC - MS", "--test", "MS - HC", "--across-tests"]
    assert voxelwise(cohort, "pair", *common, *pair, images=images) == 0
    two, pair = cohort.folder / "two", cohort.folder / "pair"
    for desc in ("tfceFWE", "voxFWE", "clusterSizeFWE"):
        mine = read(two / f"contrast-HCMinusMS_stat-logp_desc-{desc}_statmap")
        each = [
            read(pair / f"contrast-{label}_stat-logp_desc-{desc}across_statmap")
            for label in ("HCMinusMS", "MSMinusHC")
        ]
        assert_array_equal(mine, np.maximum(*each), err_msg=desc)
    stat = read(two / "contrast-HCMinusMS_stat-t_statmap")
    assert_array_equal(stat, read(pair / "contrast-HCMinusMS_stat-t_statmap"))
    record = json.loads((two / "voxelwise.json").read_text())
    (test,) = record["tests"]
    assert test["meaning"] == "the mean of HC differs from the mean of MS; adjusted for age"
    assert test["finding"]["largest"]["value"] == stat.min() == -np.abs(stat).max()
    assert test["finding"]["survivals"]["tfceFWE"]["peak"]["value"] < 0
    assert test["finding"]["effect"]["value"] < 0
    run = read_run(two)
    labels, table = read_tested(run.tests[0], read_grid(run)).clusters()
    assert run.tests[0].two_sided
    assert table["statistic"][0] == pytest.approx(stat.min())
    inside = read_grid(run).to_vector(stat)
    assert all(len(set(np.sign(inside[labels == number]))) == 1 for number in range(1, labels.max() + 1))
    sidecar = json.loads((two / "contrast-HCMinusMS_stat-logp_desc-tfceFWE_statmap.json").read_text())
    assert sidecar["Tail"] == "two-sided, large sizes of either sign"
    result = gpuvox.voxelwise(
        images[0], cohort.table, "group + age", "HC - MS", mask=cohort.folder / "mask.nii.gz", two_sided=True,
        n_permutations=60, seed=7, voxel=True, tfce=True, cluster_extent=2.0,
    )  # fmt: skip
    result.save(cohort.folder / "two_python")
    for path in sorted(two.glob("contrast-*")):
        assert path.read_bytes() == (cohort.folder / "two_python" / path.name).read_bytes(), path.name


def test_shards_are_merged_into_what_one_run_writes(cohort, tmp_path, monkeypatch, capsys):
    """Also p-values over all tests, from two runs of randomise on two sets of images."""
    monkeypatch.chdir(tmp_path)
    images = [f"{name}={cohort.folder}/{name}.nii.gz" for name in COMPONENTS[1:]]
    words = ["--model", "group", "--test", "MS - HC", "--across-tests", "-x", "-T"]
    sources = [word for each in images for word in ("--images", each)]
    line = ["voxelwise", "--no-report", str(cohort.folder / "participants.tsv"), *sources,
            "--mask", str(cohort.folder / "mask"),
            "-n", "30", "--seed", "7", *words]  # fmt: skip
    assert main([*line, "--out", "whole"]) == 0
    for part in (1, 2):
        assert main([*line, "--out", "parts", "--shard", f"{part}/2"]) == 0
    assert "gpuvox merge parts/randomise/*.tally makes the maps" in capsys.readouterr().out
    assert not list((tmp_path / "parts").glob("map-*"))
    tallies = sorted(map(str, (tmp_path / "parts" / "randomise").glob("*.tally")))
    assert len(tallies) == 4
    assert main(["merge", *tallies[:3]]) == 2
    assert "tstat1: permutations 16 to 30 of 30 are missing" in capsys.readouterr().err
    assert main(["merge", *tallies[:2]]) == 2
    assert "there are no tallies of ic02_t, one of the 2 runs" in capsys.readouterr().err
    assert main(["merge", *tallies]) == 0
    for path in sorted((tmp_path / "whole").glob("map-*")):
        assert path.read_bytes() == (tmp_path / "parts" / path.name).read_bytes(), path.name
    record = json.loads((tmp_path / "parts" / "voxelwise.json").read_text())
    assert record["command"][1] == "merge"
    assert "--shard" in record["runs"][0]["command_of_shards"]
    assert main([*line, "--out", "parts", "--shard", "1/2", "--test", "HC - MS", "--resume"]) == 2
