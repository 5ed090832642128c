"""Volumes that are constant, or the same as another, are told by name."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import gpuvox
from gpuvox.cli import main_randomise
from gpuvox.errors import InputWarning
from gpuvox.scratch import as_tiles
from gpuvox.volume_checks import volume_warnings
from tests.conftest import save


@pytest.fixture
def rows():
    data = np.random.default_rng(0).normal(size=(11, 700)).astype(np.float32)
    data[2], data[4], data[7] = 0, 0, 3
    data[9] = data[1]
    return data


EXPECTED = [
    "v3 and v5 have the value 0 in all 700 voxels that are analysed",
    "v8 has the value 3 in all 700 voxels that are analysed",
    "v2 and v10 are identical in all 700 voxels that are analysed",
]


def test_sentences(rows, tmp_path):
    names = [f"v{i}" for i in range(1, 12)]
    assert list(volume_warnings(rows, names)) == EXPECTED
    assert list(volume_warnings(as_tiles(rows, str(tmp_path)), names)) == EXPECTED
    assert list(volume_warnings(rows[:, :1], names)) == []
    assert list(volume_warnings(np.random.default_rng(1).normal(size=(5, 9)).astype("f4"), names)) == []
    assert list(volume_warnings(np.zeros((11, 9), "f4"), names)) == [
        "v1, v2, v3, v4, v5, v6 and 5 more have the value 0 in all 9 voxels that are analysed"
    ]


def test_the_command_and_python_name_them(study, capsys):
    image = nib.load("data.nii.gz")
    values = image.get_fdata()
    values[..., 3], values[..., 6] = 0, values[..., 1]
    save(Path("odd.nii.gz"), values, image.affine)
    Path("odd.json").write_text(json.dumps({"Subjects": [f"sub-{i}" for i in range(1, 11)]}))
    line = "-i odd -o out -m mask -d design.mat -t design.con -n 2 -x --seed 1 --quiet"
    assert main_randomise(line.split()) == 0
    said = capsys.readouterr().err
    inside = int((nib.load("mask.nii.gz").get_fdata() > 0).sum())
    assert f"volume 4 (sub-4) has the value 0 in all {inside} voxels that are analysed" in said
    assert f"volume 2 (sub-2) and volume 7 (sub-7) are identical in all {inside} voxels" in said
    for i in range(10):
        save(Path(f"s{i}.nii.gz"), values[..., i], image.affine)
    listed = [f"s{i}.nii.gz" for i in range(10)]
    with pytest.warns(InputWarning) as caught:
        gpuvox.randomise(listed, np.c_[np.ones(10), np.arange(10)], [0, 1], mask="mask", n_permutations=2, seed=1)
    texts = [str(each.message) for each in caught]
    assert any(text.startswith("volume 4 (s3.nii.gz) has the value 0") for text in texts)
    assert any(text.startswith("volume 2 (s1.nii.gz) and volume 7 (s6.nii.gz) are ident") for text in texts)
