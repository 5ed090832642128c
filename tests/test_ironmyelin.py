"""``gpuvox ironmyelin``: whole cohorts on disk, units, and one sentence for everything that is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gpuvox import ironmyelin
from gpuvox.cli import main
from gpuvox.qmri import FieldConversion, TissueModel, smooth
from gpuvox.reporter import Reporter
from tests.conftest import overriding, save
from tests.cuda_on_cpu.shim import CXX, ShimDevice

SHAPE, N = (8, 7, 6), 4
MODEL = TissueModel.default().relative_to(-0.02, 1 / 4.329)
AFFINE = np.diag([1.0, 1, 2, 1])


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Four subjects on disk, R1 at 3 T; the truth is returned."""
    rng = np.random.default_rng(0)
    iron, myelin = rng.uniform(0, 900, (N, *SHAPE)), rng.uniform(0.05, 0.4, (N, *SHAPE))
    csf = np.zeros(SHAPE)
    csf[:2, :3] = 1
    iron[:, csf > 0], myelin[:, csf > 0] = 0, 0
    jacobian = rng.uniform(0.6, 1.5, (N, *SHAPE))
    qsm, r1 = MODEL.forward(iron, myelin)
    r1 = FieldConversion(7, 3, "curve")(r1)
    brain = np.ones(SHAPE)
    brain[-1] = 0
    lines = ["participant_id\tage\tqsm\tr1\tcsf\tjacobian"]
    (tmp_path / "maps").mkdir()
    for i in range(N):
        for name, values in (("qsm", qsm[i] * brain), ("r1", r1[i] * brain), ("csf", csf), ("jac", jacobian[i])):
            save(tmp_path / "maps" / f"{name}{i}.nii.gz", values, AFFINE)
        lines.append(
            f"sub-{i:02d}\t{30 + i}\tmaps/qsm{i}.nii.gz\tmaps/r1{i}.nii.gz\tmaps/csf{i}.nii.gz\tmaps/jac{i}.nii.gz"
        )
    (tmp_path / "participants.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return iron * brain, myelin * brain, jacobian, csf


COMMAND = [
    "ironmyelin",
    "--table",
    "participants.tsv",
    "--out",
    "out",
    "--from-field",
    "3",
    "--field-method",
    "curve",
    "--quiet",
]


def read(name):
    return np.moveaxis(np.asarray(nib.load(f"{name}.nii.gz").dataobj), -1, 0)


def test_the_truth_is_recovered(cohort):
    iron, myelin, jacobian, _ = cohort
    assert main(COMMAND) == 0
    for name, truth in (
        ("iron", iron),
        ("myelin", myelin),
        ("ironmass", iron * jacobian),
        ("myelinmass", myelin * jacobian),
    ):
        found = read(f"out/{name}")
        assert found.shape == (N, *SHAPE)
        np.testing.assert_allclose(found, truth, atol=2e-4 * np.abs(truth).max())
        assert not found[:, -1].any()  # background
        about = json.loads(Path(f"out/{name}.json").read_text())
        assert about["Subjects"] == [f"sub-{i:02d}" for i in range(N)]
        assert about["FieldConversion"]["method"] == "curve"
        assert about["Model"]["name"] == "stueber2014"
        assert about["Reference"] == "cohort"
    assert np.abs(nib.load("out/iron.nii.gz").affine - AFFINE).max() == 0
    assert json.loads(Path("out/iron.json").read_text())["Units"] == "mg/kg"
    assert json.loads(Path("out/ironmass.json").read_text())["Units"] == "mg/kg × J"


def test_references(cohort):
    """CSF is 0 on average over the cohort, or in each subject; without reference the constants stay."""
    csf = cohort[3] > 0
    means = {}
    for reference in ("none", "cohort", "subject"):
        assert main(overriding(COMMAND, ["--reference", reference])) == 0
        means[reference] = read("out/iron")[:, csf].mean(axis=1)
    assert abs(means["cohort"].mean()) < 0.01
    assert np.abs(means["subject"]).max() < 0.01
    rows = [line.split("\t") for line in Path("out/csf_reference.tsv").read_text().splitlines()]
    assert rows[0] == ["participant_id", "n_voxels", "iron", "myelin"]
    assert [row[0] for row in rows[1:]] == [f"sub-{i:02d}" for i in range(N)]
    assert int(rows[1][1]) == csf.sum()
    np.testing.assert_allclose([float(row[2]) for row in rows[1:]], means["none"], atol=0.01)


def test_4d_files_and_units(cohort):
    """The same from 4D files, in other units, T1 in place of R1, one CSF mask for all."""
    assert main(overriding(COMMAND, ["--fwhm", "2"])) == 0
    expected = read("out/iron")
    images = {k: [np.asarray(nib.load(f"maps/{k}{i}.nii.gz").dataobj) for i in range(N)] for k in ("qsm", "r1")}
    t1 = [np.divide(1000, r1, out=np.zeros_like(r1), where=r1 != 0) for r1 in images["r1"]]
    save("t1.nii.gz", np.stack(t1, axis=-1), AFFINE)
    save("qsm.nii.gz", 1000 * np.stack(images["qsm"], axis=-1), AFFINE)
    shutil.copy("maps/csf0.nii.gz", "csf.nii.gz")
    command = [
        "ironmyelin",
        "--qsm",
        "qsm.nii.gz",
        "--r1",
        "t1.nii.gz",
        "--csf",
        "csf.nii.gz",
        *COMMAND[3:],
        "--fwhm",
        "2",
    ]
    assert main(overriding(command, ["--qsm-units", "ppb", "--r1-units", "ms", "--out", "four"])) == 0
    np.testing.assert_allclose(read("four/iron"), expected, atol=0.05)
    assert not Path("four/csf_reference.tsv").read_text().startswith("sub")
    Path("qsm.json").write_text('{"Units": "ppb"}')
    Path("t1.json").write_text('{"Units": "ms"}')
    assert main(overriding(command, ["--out", "sidecars"])) == 0
    np.testing.assert_array_equal(read("sidecars/iron"), read("four/iron"))
    assert not os.path.exists("four/ironmass.nii.gz")


def test_smoothing_and_mask(cohort):
    mask = np.zeros(SHAPE)
    mask[2:6, 1:6, 1:5] = 1
    save("mask.nii.gz", mask, AFFINE)
    assert main(COMMAND) == 0
    sharp = read("out/iron")
    for extra, inside in (([], None), (["--mask", "mask.nii.gz"], mask > 0)):
        assert main(overriding(COMMAND, [*extra, "--fwhm", "1.5"])) == 0
        found = read("out/iron")
        for i in range(N):
            np.testing.assert_allclose(found[i], smooth(sharp[i], 1.5, (1, 1, 2), inside), atol=0.01)


def test_a_mask_stored_the_other_way_round_is_read_exactly(cohort):
    mask = np.zeros(SHAPE)
    mask[2:5, 1:6, 1:5] = 1
    save("mask.nii.gz", mask, AFFINE)
    save("mirrored.nii.gz", mask[::-1], AFFINE @ np.array(
        [[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    ))  # fmt: skip
    found = []
    for name in ("mask", "mirrored"):
        assert main([*COMMAND, "--mask", name]) == 0
        found.append(read("out/iron"))
        assert (found[-1] != 0).any(axis=0).sum() == mask.sum()
    np.testing.assert_array_equal(*found)


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
def test_on_a_device(cohort, monkeypatch):
    assert main(COMMAND) == 0
    monkeypatch.setattr(ironmyelin, "resolve", lambda name: ShimDevice())
    assert main(overriding(COMMAND, ["--out", "device", "--device", "cuda"])) == 0
    for name in ("iron", "myelin", "ironmass", "myelinmass"):
        here, there = read(f"out/{name}"), read(f"device/{name}")
        np.testing.assert_allclose(there, here, rtol=0, atol=1e-6 * np.abs(here).max())


def edit(old, new):
    def change():
        text = Path("participants.tsv").read_text()
        assert old in text
        Path("participants.tsv").write_text(text.replace(old, new, 1))

    return change


def scale(name, factor):
    def change():
        image = nib.load(f"maps/{name}.nii.gz")
        save(f"maps/{name}.nii.gz", np.asarray(image.dataobj) * factor, AFFINE)

    return change


def invert():
    r1 = np.asarray(nib.load("maps/r11.nii.gz").dataobj)
    save("maps/r11.nii.gz", np.divide(1, r1, out=np.zeros_like(r1), where=r1 != 0), AFFINE)


def replace(name, values):
    return lambda: save(f"maps/{name}.nii.gz", values, AFFINE)


@pytest.mark.parametrize(
    ("change", "extra", "says"),
    [
        (edit("qsm\tr1", "chi\tr1"), [], ["participants.tsv", "no column 'qsm'", "chi"]),
        (edit("sub-02", "sub-01"), [], ["participants.tsv", "sub-01 twice"]),
        (edit("maps/r11.nii.gz", ""), [], ["participants.tsv", "'r1' of row 2 (sub-01)"]),
        (edit("maps/r11.nii.gz", "maps/none.nii.gz"), [], ["none"]),
        (scale("qsm2", 1000), [], ["qsm2", "sub-02", "ppm", "--qsm-units"]),
        (scale("qsm2", 1e-3), [], ["qsm2", "ppm"]),
        (scale("r12", 1e-3), [], ["r12", "sub-02", "1/s", "--r1-units"]),
        (invert, [], ["r11", "sub-01", "lowest in CSF", "T1"]),
        (scale("jac3", -1), [], ["jac3", "sub-03", "not positive numbers"]),
        (replace("csf1", np.zeros(SHAPE)), [], ["sub-01", "CSF mask", "no voxel"]),
        (replace("r11", np.zeros(SHAPE)), [], ["sub-01", "no voxel"]),
        (replace("qsm3", np.ones((3, 3, 3))), [], ["qsm3", "3 × 3 × 3"]),
        (
            replace("csf2", np.linspace(0, 100, np.prod(SHAPE)).reshape(SHAPE)),
            [],
            ["csf2", "sub-02", "probabilities"],
        ),
        (scale("csf1", -1), [], ["csf1", "probabilities"]),
        (
            lambda: Path("maps/r12.json").write_text('{"MagneticFieldStrength": 1.5}'),
            [],
            ["r12", "1.5 T", "3.0 T"],
        ),
        (lambda: None, ["--field-method", "curve", "--exponent", "0.3"], ["--exponent", "power"]),
        (lambda: None, ["--from-field", "0"], ["--from-field"]),
        (
            lambda: None,
            ["--from-field", "30000"],
            [
                "--from-field: the field strength of R1 is 30000; a field strength ",
                "T expected; is it in gauss, 3 T?",
            ],
        ),
        (
            lambda: None,
            ["--from-field", "100000000"],
            ["--from-field: the field strength of R1 is 1e+08; a field strength between 0.05 and"],
        ),
        *(
            (
                lambda said=said: Path("maps/r12.json").write_text(f'{{"MagneticFieldStrength": {said}}}'),
                [],
                ["MagneticFieldStrength beside ", "r12", f" is {shown}; {expected}"],
            )
            for said, shown, expected in (
                ("30000", "30000", "a field strength between 0.05 and 25 T expected; is it in gauss, 3 T?"),
                ("1500", "1500", "a field strength between 0.05 and 25 T expected; is it in millitesla, 1.5 T?"),
                (
                    "127.731",
                    "127.731",
                    "a field strength between 0.05 and 25 T expected; is it in megahertz, 3 T?",
                ),
                ("true", "True", "expected a number, the field strength in tesla"),
                ('"3T"', "'3T'", "expected a number, the field strength in tesla"),
                ("NaN", "nan", "a field strength between 0.05 and 25 T expected"),
                ("-3", "-3", "a field strength between 0.05 and 25 T expected"),
            )
        ),
        (lambda: None, ["--to-field", "3"], ["3 T", "stueber2014", "7 T"]),
        (lambda: None, ["--fwhm", "-1"], ["--fwhm"]),
        (lambda: None, ["--qsm", "x.nii"], ["--table", "--qsm"]),
        (lambda: None, ["--model", "participants.tsv"], ["participants.tsv", "model"]),
        (lambda: None, ["--out", "participants.tsv/x"], ["participants.tsv/x"]),
        (lambda: None, ["--frm", "1"], ["--frm"]),
        (lambda: None, ["--device", "tpu"], ["tpu"]),
    ],
)
def test_refusals(change, extra, says, cohort, capsys):
    change()
    assert main(overriding(COMMAND, [*extra])) == 2
    error = capsys.readouterr().err
    assert error.startswith("gpuvox ironmyelin: ")
    assert error.count("\n") == 1
    for part in says:
        assert part in error
    assert not Path("out").exists()


def test_a_run_that_fails_while_it_writes_leaves_no_folder(cohort, monkeypatch):
    """Folders that were there stay."""

    def fails(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(ironmyelin, "_write", fails)
    for out in ("new/deep/maps", "maps"):
        with pytest.raises(ValueError, match="no space"):
            ironmyelin.execute(
                ironmyelin.Command(out=out, table="participants.tsv", from_field=3), Reporter.silent()
            )
    assert not Path("new").exists()
    assert len(list(Path("maps").glob("*"))) == 4 * N


def test_missing_options(cohort, capsys):
    assert main(["ironmyelin", "--table", "participants.tsv"]) == 2
    assert main(["ironmyelin", "--out", "x"]) == 2
    table = Path("participants.tsv").read_text().replace("\tcsf", "\tother")
    Path("participants.tsv").write_text(table)
    assert main(COMMAND) == 2
    assert "no column 'csf'" in capsys.readouterr().err
    assert main(overriding(COMMAND, ["--reference", "none"])) == 0


def test_the_field_is_taken_from_the_sidecars(cohort, capsys):
    command = [argument for argument in COMMAND if argument not in ("--from-field", "3")]
    assert main(command) == 2
    assert "--from-field" in capsys.readouterr().err
    for i in range(N):
        Path(f"maps/r1{i}.json").write_text('\ufeff{"MagneticFieldStrength": 3, "Units": null}')
    assert main(command) == 0
    found = read("out/iron")
    assert json.loads(Path("out/iron.json").read_text())["FieldConversion"]["from"] == 3
    assert main(COMMAND) == 0
    np.testing.assert_array_equal(read("out/iron"), found)


def test_background_of_many_kinds(cohort):
    """T1 whose background became infinite; QSM that is 0 outside its mask; Jacobians that are none there."""
    iron = cohort[0]
    for name, value in (("r10", np.inf), ("qsm1", 0.0), ("jac2", np.nan), ("r13", -0.2)):
        values = np.asarray(nib.load(f"maps/{name}.nii.gz").dataobj).copy()
        values[3, :, 2] = value
        save(f"maps/{name}.nii.gz", values, AFFINE)
        if name == "jac2":
            r1 = np.asarray(nib.load("maps/r12.nii.gz").dataobj).copy()
            r1[3, :, 2] = 0
            save("maps/r12.nii.gz", r1, AFFINE)
    assert main(COMMAND) == 0
    for kind in ("iron", "myelin", "ironmass", "myelinmass"):
        found = read(f"out/{kind}")
        assert np.isfinite(found).all()
        assert not found[:, 3, :, 2].any()
    np.testing.assert_allclose(read("out/iron")[:, 4], iron[:, 4], atol=0.3)


def test_nothing_of_an_earlier_run_is_left(cohort, monkeypatch):
    assert main(COMMAND) == 0
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI")
    Path("participants.tsv").write_text(Path("participants.tsv").read_text().replace("\tjacobian", "\tother", 1))
    Path("out/mine.txt").write_text("mine")
    assert main(overriding(COMMAND, ["--reference", "none"])) == 0
    expected = ["iron.json", "iron.nii", "mine.txt", "myelin.json", "myelin.nii"]
    assert sorted(path.name for path in Path("out").iterdir()) == expected
