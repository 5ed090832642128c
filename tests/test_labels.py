"""Names of labels: every form is read for what it is, and none for another."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuvox.cli import main
from gpuvox.findings.labels import read_regions
from tests.conftest import save

ITK_SNAP = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
   10   255    0    0        1  1  1    "Left Thalamus"
   49     0  255    0      0.5  1  0    "Right Thalamus; part 1"
"""
FREESURFER = (
    "#No. Label Name:  R G B A\n0 Unknown 0 0 0 0\n10  Left-Thalamus  0 118 14 0\n49 BA44_exvivo 0 118 14\n"
)
PLAIN = '10 Left Thalamus\n\n  49\t"BA44 R"\n'
DSEG = "index\tname\tabbreviation\tcolor\n10\tLeft Thalamus\tTh\t#ff0000\n49.0\tBA44\tB\t#00ff00\n"
XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<atlas version="1.0"><header><name>Some</name><type>{}</type></header>
<data><label index="0" x="1" y="2" z="3">Frontal Pole</label><label index="9">L Insula &amp; more</label></data></atlas>
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (ITK_SNAP, {10: "Left Thalamus", 49: "Right Thalamus; part 1"}),
        (FREESURFER, {10: "Left-Thalamus", 49: "BA44_exvivo"}),
        (PLAIN, {10: "Left Thalamus", 49: "BA44 R"}),
        ("10,Left Thalamus\r\n49,BA44\r\n", {10: "Left Thalamus", 49: "BA44"}),
        (DSEG, {10: "Left Thalamus", 49: "BA44"}),
        ('"index","name"\n10,"Thalamus, left"\n', {10: "Thalamus, left"}),
        (XML.format("Probabilistic"), {1: "Frontal Pole", 10: "L Insula & more"}),
        (XML.format("Label"), {9: "L Insula & more"}),
    ],
)
def test_names_are_those_of_the_file(tmp_path, text, names):
    (tmp_path / "names").write_text(text, newline="")
    regions = read_regions(tmp_path / "names")
    assert {number: region.title for number, region in regions.items()} == names


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "1 Precentral_L 2001\n2 Precentral_R 2002\n",
            "is not a table of labels: expected columns index and name",
        ),  # AAL
        ("10 255 0 0 1 1 1\n", "is not a table of labels"),
        ("10 255 0 0 1\n", "is not a table of labels"),
        ("Thalamus\nCaudate\n", "is not a table of labels"),
        ("", "is not a table of labels"),
        (ITK_SNAP + "50 0 0 0 1 1 1 Caudate\n", "is not a table of labels"),
        ("index\tname\n1e3\ta\n", "has the index '1e3'; expected a whole number"),
        ("index\tname\n1.5\ta\n", "has the index '1.5'; expected a whole number"),
        ("index\tname\n-1\ta\n", "has the index '-1'; expected a whole number"),
        ("index\tname\n²\ta\n", "has the index '²'; expected a whole number"),
        (f"index\tname\n{'9' * 5000}\ta\n", "expected a whole number"),
        (PLAIN + "10 again\n", "has the index 10 twice"),
        (ITK_SNAP.replace("Left Thalamus", " "), "has no name for the index 10"),
        ("<atlas><data>", "is not XML"),
        ("<html></html>", "has no label; expected an FSL atlas in XML"),
        (XML.format("Statistic"), "is an atlas of type 'statistic'; expected Label or Probabilistic"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><atlas/>', "declares entities"),
        (XML.format("Label").replace('"9"', '"x"'), "has the index 'x'; expected a whole number"),
    ],
)
def test_what_is_no_table_of_labels_is_refused(tmp_path, text, says):
    (tmp_path / "names").write_text(text)
    with pytest.raises(ValueError, match="names ") as raised:
        read_regions(tmp_path / "names")
    assert says in str(raised.value)


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((8, 8, 8), "i4")
    labels[1:4], labels[4:7] = 10, 49
    nib.save(nib.Nifti1Image(labels, np.eye(4)), "lab.nii.gz")
    save(Path("m.nii.gz"), np.where(labels == 10, 2.0, 5.0), np.eye(4))
    Path("p.tsv").write_text("participant_id\tm\ns1\tm.nii.gz\n")
    return ["rois", "--table", "p.tsv", "--labels", "lab", "--map", "m=m", "--out", "r.tsv", "--names", "names"]


def test_structures_of_an_itk_snap_file(cohort):
    """They are called after their names, not their amount of red (repro 11)."""
    Path("names").write_text(ITK_SNAP)
    assert main([*cohort, "--quiet"]) == 0
    table = pd.read_csv("r.tsv", sep="\t")
    assert list(zip(table.structure, table.side, table["mean"])) == [
        ("thalamus", "left", 2), ("thalamus;_part_1", "right", 5),
    ]  # fmt: skip


def test_names_that_become_one_structure_are_told(cohort, capsys):
    Path("names").write_text("10 IA\n49 Ia\n")
    assert main([*cohort, "--quiet"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Warning: labels 10 (IA), 49 (Ia) are measured together, as ia (none): their names differ only in case or "
        "punctuation"
    ]
    assert pd.read_csv("r.tsv", sep="\t")["n"].tolist() == [3 * 64 * 2]
    Path("names").write_text("10 IA\n49 IA\n")
    assert main([*cohort, "--quiet"]) == 0
    assert not capsys.readouterr().err


def test_clusters_keep_the_names_of_an_atlas(cohort):
    corrected = np.zeros((8, 8, 8))
    corrected[2:5, 2:4, 2:4] = 0.99
    save(Path("c.nii.gz"), corrected, np.eye(4))
    Path("names").write_text("10 L Area_TE 1.2a\n49 BA44-R; x\n")
    assert main(["clusters", "--corrected", "c", "--out", "o", "--atlas", "lab", "--names", "names"]) == 0
    assert pd.read_csv("o.tsv", sep="\t").regions[0] == "L Area_TE 1.2a 67 %; BA44-R, x 33 %"
