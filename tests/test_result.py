"""What `gpuvox.randomise` and `gpuvox.voxelwise` return: maps by test and kind, text, and a card for notebooks."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpuvox

SHAPE = (7, 6, 5)
AFFINE = np.diag([2.0, 2, 2, 1])
DESIGN = pd.DataFrame({"HC": np.repeat([1.0, 0], 6), "MS": np.repeat([0, 1.0], 6), "age": np.arange(12) % 5 - 2.0})


@pytest.fixture(scope="module")
def values():
    data = np.random.default_rng(0).normal(size=(*SHAPE, 12)).astype(np.float32)
    data[2:4, 2:4, 2:4, 6:] += 4
    return data


@pytest.fixture(scope="module")
def randomised(values):
    contrasts = pd.DataFrame([[-1, 1, 0], [0, 0, 1]], columns=list(DESIGN), index=["MS - HC", "<age>"])
    return gpuvox.randomise(
        nib.Nifti1Image(values, AFFINE), DESIGN, contrasts, tfce=True, n_permutations=40, seed=1
    )


@pytest.fixture(scope="module")
def voxelwise(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(12)]})
    table["group"], table["age"] = np.repeat(["HC", "MS"], 6), DESIGN.age
    for i, name in enumerate(table.participant_id):
        nib.save(nib.Nifti1Image(values[..., i], AFFINE), folder / f"{name}.nii.gz")
    return gpuvox.voxelwise(
        f"{folder}/{{participant_id}}.nii.gz", table, "group + age", ["MS - HC", "age"], n_permutations=40, seed=1
    )


def test_maps_are_found_by_test_and_kind(randomised, voxelwise):
    """A kind has the same values from either function, and is −log10 of what FSL's name holds as 1 − p."""
    t, log_p = randomised.maps["MS - HC", "t"], randomised.maps["MS - HC", "tfceFWE"]
    assert_array_equal(t, randomised.maps["tstat1"])
    assert_array_equal(t, randomised.maps["tstat1", "t"])
    assert_allclose(10.0**-log_p, 1 - randomised.maps["tfce_corrp_tstat1"], atol=1e-6)
    assert_allclose(voxelwise.maps["MS - HC", "t"], t, rtol=1e-5)
    assert_allclose(voxelwise.maps["MS - HC", "tfceFWE"], log_p, rtol=1e-6)
    assert_array_equal(randomised.image("MS - HC", "t").get_fdata(), randomised.image("tstat1").get_fdata())
    assert all(isinstance(name, str) for name in randomised.maps)
    assert ("MS - HC", "t") in randomised.maps
    assert randomised.maps.get(("MS - HC", "clusterSizeFWE")) is None


def test_what_is_not_there_is_refused_with_what_is(randomised, voxelwise):
    with pytest.raises(KeyError, match=r"there is no test 'MS'; there are 'MS - HC', '<age>'"):
        randomised.maps["MS", "t"]
    with pytest.raises(ValueError, match="has no map 'voxFWE'; it has t, tfce, tfceFWE, effect"):
        voxelwise.map("age", "voxFWE")
    with pytest.raises(KeyError, match="there is no map 'tstat3'; there are tstat1, "):
        randomised.maps["tstat3"]


def test_a_result_is_printed_in_a_few_lines(randomised, voxelwise):
    lines = repr(voxelwise).splitlines()
    assert lines[0] == "voxelwise: 12 rows, 210 voxels, model group + age (9 degrees of freedom), seed 1"
    assert lines[1] == "MS - HC: the mean of MS is larger than the mean of HC; adjusted for age"
    assert re.fullmatch(r"  largest t \d+\.\d\d at \(\d, \d, \d\) mm, df 9", lines[2])
    assert re.search(
        r"TFCE: \d+ voxels in 1 cluster survive at p < 0.05, corrected \(smallest p 0.025\)", lines[4]
    )
    assert len(lines) == 9
    assert "TFCE: nothing survives" in lines[-1]
    lines = repr(randomised).splitlines()
    assert lines[0] == "randomise: 12 volumes, 210 voxels, design of 3 columns, seed 1"
    assert lines[1] == "MS - HC"
    assert len(lines) == 9


def test_the_card_of_a_notebook_holds_the_same_and_no_markup_of_others(randomised):
    card = randomised._repr_html_()
    assert "randomise: 12 volumes" in card
    assert "TFCE: nothing survives" in card
    assert "&lt;age&gt;" in card
    assert "<age>" not in card


def test_rows_of_voxels_have_no_clusters():
    """Where voxels are unknown, their number is all that can be said."""
    data = np.random.default_rng(1).normal(size=(10, 5))
    data[:, 3] += 9
    assert "voxelwise: 1 voxel survives at p < 0.05" in repr(gpuvox.randomise(data, n_permutations=200, seed=1))
