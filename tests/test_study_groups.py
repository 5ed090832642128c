"""A study of three groups, with a map that is a column of the table."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import gpuvox
from gpuvox.cli.main import main

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
        np.moveaxis(values[:12], 0, -1), design, pairs, mask=folder / "mask.nii.gz", n_permutations=40, seed=1
    )
    tests = json.loads((results / "study.json").read_text())["tests"]
    names = ["fa_A_gt_B", "fa_A_lt_B", "fa_A_gt_C", "fa_A_lt_C", "fa_B_gt_C", "fa_B_lt_C"]
    assert [test["name"] for test in tests] == names
    for number, (pair, name) in enumerate(zip(pairs, names), start=1):
        mine = nib.load(results / "voxelwise" / f"fa_tstat{number}.nii.gz").get_fdata(dtype=np.float32)
        assert_array_equal(mine, by_hand.image(pair, "t").get_fdata(dtype=np.float32))
        assert (results / "clusters" / f"{name}.tsv").exists()
    assert pd.read_csv(results / "clusters" / "fa_A_lt_C.tsv", sep="\t").voxels.sum() > 0
    assert "A &lt; C" in (results / "report.html").read_text()


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


def test_sample_sizes_are_of_two_groups(cohort, capsys):
    folder, _, _ = cohort
    (folder / "study.toml").write_text(STUDY + '[[sample_size]]\ntitle = "n"\nvariables = ["age"]\n')
    assert main(["study", str(folder / "study.toml")]) == 2
    assert "compares two groups; groups.order has more" in capsys.readouterr().err
