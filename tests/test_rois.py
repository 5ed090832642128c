"""Tables of regions: every number against direct computation, names of labels, and refusals."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gpuvox.cli import main
from gpuvox.findings.labels import AS_FREESURFER, Region, read_regions
from gpuvox.study.measures.rois import measure, members
from gpuvox.study.phantom import SCALES, Template
from gpuvox.tables.reading import gather
from tests.conftest import overriding, save

SHAPE, N = (12, 10, 9), 3
AFFINE = np.diag([1.0, 2, 1.5, 1])


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "structure", "side"),
    [
        ("Left-Caudate", "caudate", "left"),
        ("R_Thal", "thal", "right"),
        ("left_thalamus_pulvinar", "thalamus_pulvinar", "left"),
        ("putamen_right", "putamen", "right"),
        ("ctx-lh-insula", "ctx_insula", "left"),
        ("Brain-Stem", "brain_stem", "none"),
        ("L", "l", "none"),
        ("Red.Nucleus", "red_nucleus", "none"),
    ],
)
def test_names_are_taken_apart(name, structure, side):
    assert Region.named(name) == Region(structure, side)


def test_freesurfer_and_first_are_known():
    regions = read_regions(None)
    assert regions[10] == Region("thalamus", "left")
    assert regions[52] == Region("pallidum", "right")
    assert len(regions) == len(AS_FREESURFER)
    both = members(regions)
    assert both["caudate", "both"] == [11, 50]
    assert ("brainstem", "both") not in both


def test_tables_of_names(tmp_path):
    (tmp_path / "a_dseg.tsv").write_text(
        "index\tname\tcolor\n0\tBackground\t#000\n3\tLeft-Caudate\t#fff\n4\tR_Puta\t#fff\n"
    )
    (tmp_path / "lut.txt").write_text(
        "# FreeSurfer\n#No. Label R G B A\n0 Unknown 0 0 0 0\n\n11 Left-Caudate 122 186 220 0\n"
    )
    assert read_regions(tmp_path / "a_dseg.tsv") == {3: Region("caudate", "left"), 4: Region("puta", "right")}
    assert read_regions(tmp_path / "lut.txt") == {11: Region("caudate", "left")}
    for text, says in (
        ("index\tname\nx\ta\n", "'x'"),
        ("index\tname\n1\ta\n1\tb\n", "twice"),
        ("hello world\n", "not a table"),
    ):
        (tmp_path / "bad.tsv").write_text(text)
        with pytest.raises(ValueError, match=says) as raised:
            read_regions(tmp_path / "bad.tsv")
        assert "bad.tsv" in str(raised.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_regions(tmp_path / "none.tsv")


def test_merged_structures():
    regions = {1: Region("thalamus_a", "left"), 2: Region("thalamus_b", "left"), 3: Region("thalamus_a", "right")}
    found = members(regions, {"thalamus": "thalamus_*"})
    assert found["thalamus", "left"] == [1, 2]
    assert found["thalamus", "both"] == [1, 2, 3]
    with pytest.raises(ValueError, match="no structure matches 'x\\*'; there are thalamus_a, thalamus_b"):
        members(regions, {"x": "x*"})
    with pytest.raises(ValueError, match="already"):
        members(regions, {"thalamus_a": "thalamus_*"})


# -- numbers --------------------------------------------------------------------------------------------------------


def test_measures_by_hand():
    labels = np.zeros((5, 5, 5), dtype=int)
    labels[1:4, 1:4, 1:4] = 7
    values, lesion = np.arange(125.0).reshape(5, 5, 5), np.zeros((5, 5, 5), dtype=bool)
    lesion[1, 1, 1] = True
    values[3, 3, 3] = np.nan
    inside = [v for v in values[1:4, 1:4, 1:4].ravel()[1:] if np.isfinite(v)]
    (row,) = measure(labels, {"iron": values}, {("a", "left"): [7]}, 2.0, exclude=lesion)
    assert (row.n, row.volume) == (25, 27 * 2 / 1000)
    assert row.mean == pytest.approx(np.mean(inside))
    assert row.median == pytest.approx(np.median(inside))
    assert row.sd == pytest.approx(np.std(inside, ddof=1))
    assert row.mass == pytest.approx(np.mean(inside) * 0.054 / 1000)  # mg of iron: mg/kg, 1 g/mL
    (row,) = measure(labels, {"myelin": values}, {("a", "left"): [7]}, 2.0, erosion=1)
    assert (row.n, row.mean, row.volume) == (1, values[2, 2, 2], 0.054)
    assert np.isnan(row.sd)
    assert row.mass == pytest.approx(values[2, 2, 2] * 0.054)
    (row,) = measure(
        labels, {"qsm": values}, {("a", "left"): [7]}, 2.0, jacobian=np.full((5, 5, 5), 1.5), erosion=3
    )
    assert row.n == 0
    assert np.isnan(row.mean)
    assert np.isnan(row.mass)
    assert row.volume == pytest.approx(1.5 * 0.054)
    assert measure(labels, {"qsm": values}, {("b", "left"): [8]}, 2.0) == []


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Three subjects: native label images, maps as 4D files, lesions, Jacobians."""
    rng = np.random.default_rng(0)
    labels = np.zeros((N, *SHAPE))
    for i in range(N):
        labels[i, 1:4, 2 : 5 + i, 2:6] = 11
        labels[i, 8:11, 2:6, 2:6] = 50
        save(tmp_path / f"seg{i}.nii.gz", labels[i], AFFINE)
        save(tmp_path / f"lesion{i}.nii.gz", rng.random(SHAPE) < 0.1, AFFINE)
    iron = rng.normal(300, 50, (N, *SHAPE)).astype(np.float32)
    save(tmp_path / "iron.nii.gz", np.moveaxis(iron, 0, -1), AFFINE)
    rows = "".join(f"s{i}\tseg{i}.nii.gz\tlesion{i}.nii.gz\t{1.2 + i / 10}\n" for i in range(N))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tseg\tlesion\tvscale\n{rows}")
    monkeypatch.chdir(tmp_path)
    return labels, iron


COMMAND = [
    "rois",
    "--table",
    "participants.tsv",
    "--labels",
    "seg",
    "--map",
    "iron=iron.nii.gz",
    "--out",
    "rois.tsv",
]


def test_a_cohort_in_native_space(cohort):
    labels, iron = cohort
    assert main(overriding(COMMAND, ["--head-size", "vscale", "--quiet"])) == 0
    table = pd.read_csv("rois.tsv", sep="\t")
    assert len(table) == N * 3  # left, right, both
    for i in range(N):
        for side, numbers in (("left", [11]), ("right", [50]), ("both", [11, 50])):
            row = table[(table.participant_id == f"s{i}") & (table.side == side)].iloc[0]
            chosen = iron[i][np.isin(labels[i], numbers)]
            assert (row.structure, row["map"], row.n) == ("caudate", "iron", len(chosen))
            assert row["mean"] == pytest.approx(chosen.mean(), rel=1e-6)
            assert row["median"] == pytest.approx(np.median(chosen), rel=1e-6)
            assert row["sd"] == pytest.approx(chosen.std(ddof=1), rel=1e-5)
            assert row.volume == pytest.approx(len(chosen) * 3 / 1000)
            assert row.volume_normalised == pytest.approx(row.volume * (1.2 + i / 10))
            assert row.mass == pytest.approx(row["mean"] * row.volume_normalised / 1000, rel=1e-6)
            assert row.mass_raw == pytest.approx(row["mean"] * row.volume / 1000, rel=1e-6)


def test_masses_are_those_that_are_printed(tmp_path, monkeypatch):
    """Caudate of controls in Pontillo et al. 2021: 310 mg/kg in a normalised 8.7 mL are 2.70 mg."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((20, 20, 20), dtype=np.float32)
    labels.ravel()[:6000] = 11
    save(tmp_path / "seg.nii.gz", labels, np.eye(4))
    save(tmp_path / "iron.nii.gz", np.full(labels.shape, 310), np.eye(4))
    Path("participants.tsv").write_text("participant_id\tseg\tiron\tvscale\ns\tseg.nii.gz\tiron.nii.gz\t1.45\n")
    command = ["rois", "--table", "participants.tsv", "--labels", "seg", "--map", "iron=iron", "--out", "r.tsv"]
    assert main([*command, "--head-size", "vscale", "--quiet"]) == 0
    row = pd.read_csv("r.tsv", sep="\t").iloc[0]
    assert (row.volume, row.volume_normalised) == pytest.approx((6.0, 8.7))
    assert (row.mass, row.mass_raw) == pytest.approx((310 * 8.7 / 1000, 310 * 6.0 / 1000))
    assert main([*command, "--quiet"]) == 0
    row = pd.read_csv("r.tsv", sep="\t").iloc[0]
    assert (row.mass, row.mass_raw) == pytest.approx((1.86, 1.86))
    Path("m.toml").write_text(
        'version = 1\nname = "m"\ncitation = "none"\nfield = 7\niron = "g/kg"\nmyelin = "1"\n'
        "[qsm]\niron = 0.1\nmyelin = 0.1\nconstant = 0\n[r1]\niron = 0.2\nmyelin = 2\nconstant = 0\n"
    )
    assert main([*command, "--model", "m.toml", "--quiet"]) == 0
    row = pd.read_csv("r.tsv", sep="\t").iloc[0]
    assert np.isnan([row.mass, row.mass_raw]).all(), "iron is in g/kg, so mg are another number"


def test_shares_of_iron_by_hand(tmp_path, monkeypatch):
    """Of the means and of the variances, in the rows of iron; with another model, its coefficients."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)
    labels = np.zeros((6, 6, 6), dtype=np.float32)
    labels[:3], labels[3:] = 10, 49  # the thalamus, left and right
    iron, myelin = rng.normal(40, 50, labels.shape), rng.normal(0.23, 0.07, labels.shape)
    for name, values in (("seg", labels), ("iron", iron), ("myelin", myelin)):
        save(tmp_path / f"{name}.nii.gz", values, np.eye(4))
    Path("participants.tsv").write_text(
        "participant_id\tseg\tiron\tmyelin\ns\tseg.nii.gz\tiron.nii.gz\tmyelin.nii.gz\n"
    )
    base = [
        "rois",
        "--table",
        "participants.tsv",
        "--labels",
        "seg",
        "--map",
        "iron=iron",
        "--out",
        "r.tsv",
        "--quiet",
    ]
    assert main([*base, "--map", "myelin=myelin"]) == 0
    table = pd.read_csv("r.tsv", sep="\t")
    names = ["qsm_share", "r1_share", "qsm_variance_share", "r1_variance_share"]
    assert table.loc[table["map"] == "myelin", names].isna().all(axis=None)

    def expected(inside, a, b):
        linear = abs(a * iron[inside].mean()), abs(b * myelin[inside].mean())
        squared = a**2 * iron[inside].var(), b**2 * myelin[inside].var()
        return linear[0] / sum(linear), squared[0] / sum(squared)

    for side, inside in (("left", labels == 10), ("right", labels == 49), ("both", labels > 0)):
        row = table[(table["map"] == "iron") & (table["side"] == side)].iloc[0]
        (qsm, qsm_var), (r1, r1_var) = expected(inside, 1.43e-4, -6.85e-2), expected(inside, 2.23e-4, 1.07)
        assert row[names].tolist() == pytest.approx([qsm, r1, qsm_var, r1_var], rel=1e-5)
    found = gather("participants.tsv", "r.tsv")
    assert found["left.thalamus.iron.qsm_share"].tolist() == pytest.approx(
        [expected(labels == 10, 1.43e-4, 6.85e-2)[0]]
    )
    assert "thalamus.myelin.qsm_share" not in found
    Path("m.toml").write_text(
        'version = 1\nfield = 7\niron = "mg/kg"\nmyelin = "1"\n[qsm]\niron = 1e-4\nmyelin = 0.1\nconstant = 0\n'
        "[r1]\niron = 2e-4\nmyelin = 2\nconstant = 0\n"
    )
    assert main([*base, "--map", "myelin=myelin", "--model", "m.toml"]) == 0
    row = pd.read_csv("r.tsv", sep="\t").query("map == 'iron' and side == 'both'").iloc[0]
    assert row["r1_share"] == pytest.approx(expected(labels > 0, 2e-4, 2)[0], rel=1e-5)
    # Without myelin there is nothing to share with.
    assert main(base) == 0
    assert pd.read_csv("r.tsv", sep="\t")[names].isna().all(axis=None)
    assert main([*base, "--model", "participants.tsv"]) == 2


def test_lesions_and_erosion(cohort):
    assert main(overriding(COMMAND, ["--quiet"])) == 0
    whole = pd.read_csv("rois.tsv", sep="\t")
    assert main(overriding(COMMAND, ["--lesions", "lesion", "--erosion", "1", "--quiet"])) == 0
    less = pd.read_csv("rois.tsv", sep="\t")
    assert (less.n < whole.n).all()
    np.testing.assert_array_equal(less.volume, whole.volume)
    assert whole.volume_normalised.isna().all()


def test_determinants_that_are_logarithms_give_no_volumes(tmp_path, monkeypatch, capsys):
    """Of zero outside regions, nothing is said."""
    monkeypatch.chdir(tmp_path)
    labels, J = np.zeros((5, 5, 5), np.uint8), np.zeros((2, 5, 5, 5), np.float32)
    labels[1:4, 1:4, 1:4] = 10
    J[:, 1:4, 1:4, 1:4] = 1.1
    nib.save(nib.Nifti1Image(labels, np.eye(4)), "labels.nii")
    line = [
        "rois",
        "--table",
        "t.tsv",
        "--labels",
        "labels.nii",
        "--jacobian",
        "jacobian",
        "--out",
        "r.tsv",
        "--quiet",
    ]
    Path("t.tsv").write_text("participant_id\tjacobian\n01\t0.nii\n1\t1.nii\n")
    for wrong in (False, True):
        J[1, 2, 2, 2] = -0.2 if wrong else 0.9
        for i, values in enumerate(J):
            nib.save(nib.Nifti1Image(values, np.eye(4)), f"{i}.nii")
        assert main(line) == 2 * wrong
    said = capsys.readouterr().err
    assert (
        "1.nii: the determinants of 1 in regions are not positive numbers in 1 of 27 voxels (least -0.2)" in said
    )


@pytest.mark.long
def test_the_phantom_in_template_space(tmp_path, monkeypatch):
    """The truth of every part: volumes from Jacobians, iron, and their product."""
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "c", "--scale", "small", "--quiet"]) == 0
    assert main(["ironmyelin", "--table", "c/participants.tsv", "--out", "m", "--quiet"]) == 0
    command = [
        "rois",
        "--table",
        "c/participants.tsv",
        "--labels",
        "c/template/labels",
        "--names",
        "c/template/labels.tsv",
    ]
    command += ["--map", "iron=m/iron", "--map", "myelin=m/myelin", "--jacobian", "jacobian", "--out", "r.tsv"]
    assert main([*command, "--merge", "thalamus=thalamus_*", "--quiet"]) == 0
    table = pd.read_csv("r.tsv", sep="\t")
    both = table[table.side == "both"].set_index(["participant_id", "structure", "map"])
    truth = pd.read_csv("c/truth/parts.tsv", sep="\t")
    for part in ("caudate", "pallidum", "thalamus_pulvinar"):
        true = truth[truth.part == part].set_index("participant_id")
        for kind in ("iron", "myelin"):
            found = both.xs((part, kind), level=("structure", "map")).loc[true.index]
            np.testing.assert_allclose(found.volume, true.volume, rtol=0.006)
            assert np.corrcoef(found["mean"], true[kind])[0, 1] > 0.99
            mass = true[kind] * true.volume * (1e-3 if kind == "iron" else 1)
            assert np.corrcoef(found.mass, mass)[0, 1] > 0.99
    nuclei = [name for name in Template(SCALES["small"]).parts if name.startswith("thalamus")]
    volumes = both.xs("iron", level="map").volume.unstack()
    np.testing.assert_allclose(volumes["thalamus"], volumes[nuclei].sum(axis=1), rtol=1e-6)


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "extra", "says"),
    [
        (None, ["--labels", "nothing"], ["nothing"]),
        (None, ["--map", "x"], ["--map", "NAME=VALUE"]),
        (None, ["--map", "iron=seg"], ["twice", "iron"]),
        (None, ["--merge", "x=y*"], ["y*", "caudate"]),
        (None, ["--head-size", "age"], ["participants.tsv", "'age'"]),
        (
            None,
            ["--head-size", "seg"],
            ["participants.tsv: seg of s0 is 'seg0.nii.gz'; expected a positive number"],
        ),
        (
            ("participants.tsv", "\t1.3", "\tn/a"),
            ["--head-size", "vscale"],
            ["vscale of s1 is 'n/a'; expected a positive number"],
        ),
        (
            ("participants.tsv", "\t1.3", "\t-2"),
            ["--head-size", "vscale"],
            ["vscale of s1 is '-2'; expected a positive number"],
        ),
        (None, ["--out", "none/rois.tsv"], ["none"]),
        (("participants.tsv", "s1", "s0"), [], ["s0 twice"]),
        (("participants.tsv", "seg2.nii.gz", "n/a"), [], ["participants.tsv", "seg", "s2"]),
        (
            ("participants.tsv", "s2\tseg2.nii.gz\tlesion2.nii.gz\t1.4\n", ""),
            [],
            ["iron", "3 volumes", "2 rows"],
        ),
        ("other grid", [], ["seg1", "on the same grid"]),
        ("no labels", [], ["none of the labels"]),
        ("fractions", [], ["seg1", "whole numbers"]),
    ],
)
def test_refusals(change, extra, says, cohort, capsys):
    if isinstance(change, tuple):
        path, old, new = change
        text = Path(path).read_text()
        assert old in text
        Path(path).write_text(text.replace(old, new, 1))
    elif change == "other grid":
        save(Path("seg1.nii.gz"), np.ones((3, 3, 3)), AFFINE)
    elif change == "fractions":
        save(Path("seg1.nii.gz"), np.full(SHAPE, 0.5), AFFINE)
    elif change == "no labels":
        for i in range(N):
            save(Path(f"seg{i}.nii.gz"), np.full(SHAPE, 999), AFFINE)
    assert main(overriding(COMMAND, ["--quiet", *extra])) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuvox rois: ")
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert not Path("rois.tsv").exists()


def test_missing_options(cohort, capsys):
    for name in ("table", "labels", "out"):
        at = COMMAND.index(f"--{name}")
        assert main(COMMAND[:at] + COMMAND[at + 2 :]) == 2
        assert f"--{name} is missing" in capsys.readouterr().err


def test_without_maps_the_volumes_are_the_same(cohort, capsys):
    assert main(COMMAND) == 0
    out = COMMAND[COMMAND.index("--out") + 1]
    before = pd.read_csv(out, sep="\t").drop_duplicates(["participant_id", "structure", "side"])
    command = [word for i, word in enumerate(COMMAND) if "--map" not in (word, COMMAND[i - 1])]
    assert main(command) == 0
    alone = pd.read_csv(out, sep="\t")
    assert len(alone) == len(before)
    assert alone["volume"].tolist() == before["volume"].tolist()
    assert set(alone["map"]) == {"none"}


def measured(folder, labels, values):
    """The table of two participants, a and b, of 4D images."""
    for name, array in (("labels", labels), ("iron", values)):
        save(folder / f"{name}.nii.gz", array)
    (folder / "p.tsv").write_text("participant_id\na\nb\n")
    at = [f"{folder}/{name}" for name in ("p.tsv", "labels", "iron", "rois.tsv")]
    command = ["rois", "--table", at[0], "--labels", at[1], "--map", f"iron={at[2]}", "--out", at[3], "--quiet"]
    assert main(command) == 0
    return at[3]


def test_half_a_structure_is_no_structure(tmp_path, capsys):
    """Who lacks a label that others have is left out of what it makes up, with a word."""
    labels = np.zeros((4, 4, 4, 2), dtype=np.float32)
    labels[0, ..., :], labels[3, ..., :] = 11, 50
    labels[3, ..., 1] = 0
    values = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    table = measured(tmp_path, labels, values)
    assert capsys.readouterr().err.splitlines() == [
        "Warning: no voxel of label 50 in b: caudate (both), caudate (right) omitted for them"
    ]
    rows = pd.read_csv(table, sep="\t")
    assert set(zip(rows["participant_id"], rows["side"])) == {
        ("a", "left"), ("a", "right"), ("a", "both"), ("b", "left"),
    }  # fmt: skip


def test_half_the_values_are_no_mean(tmp_path, capsys):
    """The other side's mean is not that of both; their volume is known."""
    labels = np.zeros((4, 4, 4, 2), dtype=np.float32)
    labels[0, ..., :], labels[3, ..., :] = 11, 50
    values = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    values[3, ..., 1] = np.nan
    values[0, 0, 0, 1] = np.inf
    table = measured(tmp_path, labels, values)
    assert capsys.readouterr().err.splitlines() == [
        "Warning: iron has no finite value in label 50 of b: no mean of caudate (both), caudate (right) for them"
    ]
    rows = pd.read_csv(table, sep="\t").set_index(["participant_id", "side"])
    assert rows["n"].tolist() == [16, 16, 32, 15, 0, 0]
    assert rows["mean"].isna().tolist() == [False] * 4 + [True] * 2
    assert rows["mass"].isna().tolist() == [False] * 4 + [True] * 2
    assert rows.loc["b", "volume"].tolist() == rows.loc["a", "volume"].tolist()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "labels 50, 8120 of labels excluded, without a name in the numbers of FreeSurfer"),
        ("index\tname\n11\tL_caudate\n8120\tred\n", "label 50 of labels excluded, without a name in names.tsv"),
    ],
)
def test_labels_without_a_name_are_told_once(table, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if not table:
        monkeypatch.delitem(AS_FREESURFER, 50)
    labels = np.zeros((4, 4, 4, 3), dtype=np.float32)
    labels[0], labels[2], labels[3, ..., 1:] = 11, 8120, 50
    save(tmp_path / "labels.nii.gz", labels)
    save(tmp_path / "iron.nii.gz", np.ones_like(labels))
    Path("p.tsv").write_text("participant_id\na\nb\nc\n")
    Path("names.tsv").write_text(table)
    command = ["rois", "--table", "p.tsv", "--labels", "labels", "--map", "iron=iron", "--out", "r.tsv", "--quiet"]
    assert main([*command, *(["--names", "names.tsv"] if table else [])]) == 0
    assert capsys.readouterr().err.splitlines() == [f"Warning: {says}"]


def test_who_lacks_a_label_is_told_in_a_line(tmp_path, capsys, monkeypatch):
    """Not for each participant, nor for each structure that the label is part of."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((4, 4, 4, 4), dtype=np.float32)
    labels[0], labels[1], labels[3] = 11, 12, 50
    labels[3, ..., 1:3] = 0
    labels[1, ..., 3] = 0
    save(tmp_path / "labels.nii.gz", labels)
    save(tmp_path / "iron.nii.gz", np.ones_like(labels))
    Path("p.tsv").write_text("participant_id\na\nb\nc\nd\n")
    command = ["rois", "--table", "p.tsv", "--labels", "labels", "--map", "iron=iron", "--out", "r.tsv", "--quiet"]
    assert main([*command, "--merge", "striatum=*"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Warning: no voxel of label 50 in b, c: caudate (both), caudate (right), striatum (both), striatum (right) "
        "omitted for them",
        "Warning: no voxel of label 12 in d: putamen (both), putamen (left), striatum (both), striatum (left) "
        "omitted for them",
    ]


def test_a_region_that_erosion_empties_is_told_once(cohort, capsys):
    """A slab one voxel thick has nothing but border."""
    labels, _ = cohort
    for i in range(N):
        labels[i, 1:4][labels[i, 1:4] == 11] = 0
        labels[i, 2, 2:5, 2:6] = 11
        save(Path(f"seg{i}.nii.gz"), labels[i], AFFINE)
    assert main(overriding(COMMAND, ["--erosion", "1", "--quiet"])) == 0
    assert capsys.readouterr().err.splitlines() == [
        "Warning: erosion: no voxel of caudate (left) remains in 3 of 3 participants, so there is no mean"
    ]
    rows = pd.read_csv("rois.tsv", sep="\t").set_index("side")
    assert (rows.loc["left", "n"] == 0).all()
    assert (rows.loc["right", "n"] > 0).all()
