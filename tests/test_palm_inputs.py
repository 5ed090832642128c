"""Inputs of ``gpuvox palm`` that do not fit each other are refused; voxels that cannot be tested leave the mask."""

from __future__ import annotations

import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from gpuvox.cli import main

N, SHAPE = 10, (4, 3, 2)
TABLE, IMAGE = "-i data.csv", "-i data.nii"
TESTS = "-d design.csv -t con.csv -n 20"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Good inputs and bad ones; the image has a voxel that is not finite, one that is constant, and a mask."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(8)
    table, image = rng.normal(size=(N, 4)).round(4), rng.normal(size=(*SHAPE, N)).astype(np.float32)
    image[1, 1, 0, 3], image[2, 1, 0] = np.nan, 5
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:3] = 1
    still, gone = np.ones_like(image), np.isnan(image).astype(np.uint8)
    for name, values in {
        "data": image,
        "mask": mask,
        "all": np.ones(SHAPE, np.uint8),
        "still": still,
        "missing": gone,
    }.items():
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii")
    design = np.c_[np.ones(N), rng.normal(size=N).round(4)]
    matrices = {
        "data": table, "flat": np.c_[table, np.full(N, 3)], "short": table[:-1], "design": design,
        "con": [[0, 1], [1, 0]], "wide": [[0, 1, 0, 0]],
        "f": [[1, 1]], "f_empty": [[1, 1], [0, 0]], "design_short": design[:-1],
        "eb": np.repeat([1, 2], 5), "eb_short": np.repeat([1, 2], 4), "eb_half": np.r_[np.ones(N - 1), 1.5],
        "groups": np.c_[np.ones(N), np.ones(N)], "some": [1, 2, 3, 4, 5, 6], "twice": [1, 2, 2], "far": [1, 2, 3, 11],
        "missing": np.zeros((N, 3)),
    }  # fmt: skip
    for name, matrix in matrices.items():
        np.savetxt(folder / f"{name}.csv", np.asarray(matrix), delimiter=",", fmt="%g")
    return folder


def palm(folder: Path, line: str) -> int:
    words = [str(folder / word) if word.endswith((".csv", ".nii")) else word for word in shlex.split(line)]
    return main(["palm", "-o", str(folder / "o"), "--device", "cpu", "-quiet", *words])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{IMAGE} {IMAGE} {IMAGE} -m mask.nii -m mask.nii {TESTS}", ["2 masks", "3 inputs"]),
        (f"{TABLE} -d design.csv -t con.csv -f f.csv -f f.csv -n 20", ["2 files of F contrasts", "1 designs"]),
        (f"{TABLE} {TABLE} {TESTS} -designperinput", ["-designperinput", "1 designs", "2 inputs"]),
        (f"{TABLE} {IMAGE} {TESTS}", ["data.csv is a table", "data.nii an image"]),
        (f"{TABLE} -i short.csv {TESTS}", ["short.csv has 9 observations", "10"]),
        (f"{TABLE} -d design_short.csv -t con.csv -n 20", ["design_short.csv has 9 rows", "10 observations"]),
        (f"{TABLE} -d design.csv -t wide.csv -n 20", ["wide.csv has 4 columns", "design.csv 2"]),
        (f"{TABLE} {TESTS} -f f_empty.csv", ["f_empty.csv: row 2 stacks no t contrast"]),
        (f"{TABLE} -d design.csv -t con.csv -fonly -n 20", ["-fonly", "-f"]),
        (f"{TABLE} {TESTS} -eb eb_short.csv", ["eb_short.csv has 8 rows", "10 observations"]),
        (f"{TABLE} {TESTS} -eb eb_half.csv", ["eb_half.csv: 1.5 in row 10, column 1", "whole number"]),
        (f"{TABLE} {TESTS} -vg groups.csv", ["groups.csv has 2 columns", "one number"]),
        (f"{TABLE} {TESTS} -subjidx twice.csv", ["twice.csv: different whole numbers from 1"]),
        (f"{TABLE} {TESTS} -subjidx far.csv", ["far.csv: there is no observation 11 among 10"]),
        (f"{TABLE} {TESTS} -imiss missing.csv -mcar", ["missing.csv has 10 observations of 3 values", "4"]),
        (f"-i still.nii -m all.nii {TESTS}", ["still.nii: no voxel of the mask is finite and varies"]),
        (f"{TABLE} {TESTS} -accel tail -accel gamma", ["-accel"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(line, words, folder, capsys):
    before = sorted(folder.iterdir())
    assert palm(folder, line) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert all(word in said for word in words), said
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("missing", "left_out", "counts"),
    [
        ("", {(1, 1, 0), (2, 1, 0)}, "2 of 12 voxels of the mask are left out: 1 are not finite in every observation"),
        ("-imiss missing.nii -mcar", {(2, 1, 0)}, "1 of 12 voxels of the mask are left out: 0 are not finite"),
    ],
)  # fmt: skip
def test_voxels_that_cannot_be_tested_leave_the_mask(missing, left_out, counts, folder, capsys):
    """A value that is said to be missing need not be finite; t is that of the observations that are there."""
    assert palm(folder, f"{IMAGE} -m mask.nii {TESTS} -savemask {missing}") == 0
    assert counts in capsys.readouterr().err
    mask = nib.load(folder / "mask.nii").get_fdata() != 0
    for voxel in left_out:
        mask[voxel] = False
    np.testing.assert_array_equal(np.asarray(nib.load(folder / "o_mask.nii.gz").dataobj), mask)
    image, design = nib.load(folder / "data.nii").get_fdata(), np.loadtxt(folder / "design.csv", delimiter=",")
    found = nib.load(folder / "o_vox_tstat_c1.nii.gz").get_fdata()
    assert not found[~mask].any()
    for voxel in np.argwhere(mask):
        y = image[tuple(voxel)]
        there = np.isfinite(y)
        expected = stats.linregress(design[there, 1], y[there])
        assert found[tuple(voxel)] == pytest.approx(expected.slope / expected.stderr, rel=1e-4)


def test_a_constant_column_is_told(folder, capsys):
    assert palm(folder, f"-i flat.csv {TESTS}") == 0
    assert "flat.csv: column 5 is constant; its statistic is 0 and its p 1" in capsys.readouterr().err
    assert np.loadtxt(folder / "o_dat_tstat_c1.csv", delimiter=",")[4] == 0
    assert np.loadtxt(folder / "o_dat_tstat_uncp_c1.csv", delimiter=",")[4] == 1
