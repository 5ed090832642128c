"""Volumes of FreeSurfer and FSL, and a study that consists of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from gpuvox.cli.main import main

ASEG = """# Title Segmentation Statistics
# subjectname sub-01
# Measure BrainSeg, BrainSegVol, Brain Segmentation Volume, 1150000.000000, mm^3
# Measure BrainSegVol-to-eTIV, BrainSegVol-to-eTIV, Ratio of BrainSegVol to eTIV, 0.75, unitless
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange
  1  10  7600  7600.5  Left-Thalamus  80.1 9.0 30 120 90
  2  49  7400  7400.0  Right-Thalamus  80.1 9.0 30 120 90
  3  16  21000  21000.0  Brain-Stem  80.1 9.0 30 120 90
"""
SIENAX = """tissue             volume    unnormalised-volume
pgrey              623000.0  480000.0 (peripheral grey)
vcsf               40000.0   31000.0 (ventricular CSF)
GREY               800000.0  615000.0
WHITE              700000.0  540000.0
BRAIN              1500000.0 1155000.0
VSCALING 1.299
"""


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    n = 24
    ids = [f"sub-{i:02d}" for i in range(1, n + 1)]
    table = pd.DataFrame(
        {"participant_id": ids, "group": ["MS", "HC"] * (n // 2), "age": rng.normal(40, 9, n).round(1)}
    )
    table["sienax"] = [f"{name}/report.sienax" for name in ids]
    table["siena"] = [f"{name}/report.siena" if i else "n/a" for i, name in enumerate(ids)]
    for i, name in enumerate(ids):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.sienax").write_text(SIENAX.replace("1155000.0", f"{1155000 + 1000 * i}.0"))
        (tmp_path / name / "report.siena").write_text(f"some text\nfinalPBVC {-0.1 * i:.2f} %\n")
    left, right = rng.normal(8000, 500, (2, n)).round(1)
    stats = pd.DataFrame({"Measure:volume": [f"/data/{name}/" for name in ids], "Left-Thalamus": left,
                          "Right-Thalamus": right, "BrainSegVol-to-eTIV": 0.75})  # fmt: skip
    stats[::-1].to_csv(tmp_path / "aseg.tsv", sep="\t", index=False)
    table.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    return tmp_path


def volumes(folder, *options):
    return main(["volumes", "--table", str(folder / "people.tsv"), "--out", str(folder / "v.tsv"), *options])


def test_volumes_are_joined_by_participant(folder, capsys):
    options = ["--stats", f"aseg={folder / 'aseg.tsv'}", "--file", "sienax=sienax", "--file", "siena=siena"]
    assert volumes(folder, *options) == 0
    table = pd.read_csv(folder / "v.tsv", sep="\t", na_values="n/a")
    stats = pd.read_csv(folder / "aseg.tsv", sep="\t")[::-1].reset_index(drop=True)
    np.testing.assert_allclose(table["aseg.left_thalamus"], stats["Left-Thalamus"] / 1000)
    both = (stats["Left-Thalamus"] + stats["Right-Thalamus"]) / 1000
    np.testing.assert_allclose(table["aseg.thalamus"], both, rtol=1e-6)
    assert (table["aseg.brain_seg_vol_to_e_tiv"] == 0.75).all()
    np.testing.assert_allclose(table["sienax.brain"], 1155 + np.arange(24))
    assert (table["sienax.brain_normalised"] == 1500).all()
    assert (table["sienax.vscaling"] == 1.299).all()
    assert np.isnan(table["siena.pbvc"][0])
    np.testing.assert_allclose(table["siena.pbvc"][1:], -0.1 * np.arange(1, 24), atol=1e-9)


def test_files_of_freesurfer_and_fslstats(folder, capsys):
    people = pd.read_csv(folder / "people.tsv", sep="\t")[:1]
    (folder / "aseg.stats").write_text(ASEG)
    (folder / "putamen.txt").write_text("4210 4210.500000 \n")
    people.assign(aseg="aseg.stats", first="putamen.txt").to_csv(folder / "people.tsv", sep="\t", index=False)
    assert volumes(folder, "--file", "aseg=aseg", "--file", "putamen=first") == 0
    row = pd.read_csv(folder / "v.tsv", sep="\t").iloc[0]
    assert row["aseg.thalamus"] == pytest.approx(15.0005)
    assert (row["aseg.brain_seg_vol"], row["aseg.brain_stem"], row["putamen.volume"]) == (1150, 21, 4.2105)
    assert "aseg.brain_seg_vol_to_e_tiv" not in row
    capsys.readouterr()
    (folder / "aseg.stats").write_text(ASEG.replace("sub-01", "sub-02"))
    assert volumes(folder, "--file", "aseg=aseg") == 2
    assert "is of sub-02; sub-01 expected" in capsys.readouterr().err
    (folder / "putamen.txt").write_text("nothing of the kind")
    assert volumes(folder, "--file", "putamen=first") == 2
    assert "is neither aseg.stats" in capsys.readouterr().err
    (folder / "aseg.tsv").write_text((folder / "aseg.tsv").read_text().replace("/sub-01/", "/sub-99/"))
    assert volumes(folder, "--stats", f"aseg={folder / 'aseg.tsv'}") == 2
    assert "has no row of sub-01" in capsys.readouterr().err


def test_a_study_of_volumes_needs_no_map(folder, capsys):
    (folder / "study.toml").write_text("""
[study]
table = "people.tsv"
[groups]
order = ["MS", "HC"]
covariates = ["age"]
[volumes.aseg]
file = "aseg.tsv"
[volumes.sienax]
column = "sienax"
[derived]
"thalamus.normalised" = "aseg.thalamus * sienax.vscaling"
[[group_table]]
title = "volumes"
variables = ["aseg.thalamus", "thalamus.normalised", "sienax.brain"]
""")
    assert main(["study", str(folder / "study.toml"), "--quiet"]) == 0
    data = pd.read_csv(folder / "results" / "features.tsv", sep="\t")
    y = data["aseg.thalamus"] * 1.299
    np.testing.assert_allclose(data["thalamus.normalised"], y, rtol=1e-6)
    row = (
        pd.read_csv(folder / "results" / "groups" / "volumes.tsv", sep="\t")
        .set_index("variable")
        .loc["thalamus.normalised"]
    )
    fit = smf.ols("y ~ C(group) + age", data.assign(y=y)).fit()
    assert row["p"] == pytest.approx(fit.pvalues["C(group)[T.MS]"], rel=1e-4)
    text = (folder / "study.toml").read_text()
    for old, new, says in (
        ('"aseg.tsv"', '"asge.tsv"', "asge.tsv"),
        ('"aseg.thalamus", ', '"aseg.thalamos", ', "no variable 'aseg.thalamos'; did you mean 'aseg.thalamus'"),
        ("aseg.thalamus * ", "aseg.thalamas * ", "no column 'aseg.thalamas'"),
        ('column = "sienax"', "", "needs a file, or the column"),
        ("aseg.thalamus * ", "1 / 0 * ", "is infinite"),
        ("aseg.thalamus * ", "__import__('os') * ", "is neither a column, a number nor text"),
    ):
        capsys.readouterr()
        (folder / "study.toml").write_text(text.replace(old, new))
        assert main(["study", str(folder / "study.toml"), "--quiet"]) == 2, new
        assert says in capsys.readouterr().err


def test_a_template_without_anything_to_show_on_it(folder):
    """Neither maps nor R1 nor an underlay: the report has none."""
    import nibabel as nib

    mask = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), np.eye(4))
    labels = nib.Nifti1Image(np.full((4, 4, 4), 10, dtype=np.int16), np.eye(4))
    nib.save(mask, folder / "mask.nii.gz")
    nib.save(labels, folder / "labels.nii.gz")
    (folder / "study.toml").write_text(
        '[study]\ntable = "people.tsv"\n[groups]\norder = ["MS", "HC"]\n[template]\nmask = "mask.nii.gz"\n'
        'labels = "labels.nii.gz"\n[rois]\n[demographics]\nvariables = ["age"]\n'
    )
    assert main(["study", str(folder / "study.toml"), "--quiet"]) == 0
    assert (folder / "results" / "report.html").exists()
    assert (pd.read_csv(folder / "results" / "features.tsv", sep="\t")["left.thalamus.volume"] == 0.064).all()
