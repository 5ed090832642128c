"""What is odd about somebody's maps is told by participant."""

from __future__ import annotations

import numpy as np

from gpuvox.study.measures.map_checks import check_maps, warnings_about_maps
from tests.conftest import save


def test_constant_and_identical_maps(tmp_path):
    """All zero, one value, and one file under two names; a missing value is told as before."""
    rng = np.random.default_rng(0)
    maps = {name: rng.normal(5, 1, size=(4, 4, 4, 7)) for name in ("iron", "myelin")}
    maps["iron"][..., 1], maps["iron"][..., 4], maps["iron"][..., 5] = 0, maps["iron"][..., 2], 3
    maps["myelin"][1, 1, 1, 3] = np.nan
    for name, values in maps.items():
        save(tmp_path / f"{name}.nii.gz", values)
    mask = np.zeros((4, 4, 4))
    mask[1:] = 1
    save(tmp_path / "mask.nii.gz", mask)
    images = {name: str(tmp_path / f"{name}.nii.gz") for name in maps}
    found = check_maps(images, str(tmp_path / "mask.nii.gz"), [f"s{i}" for i in range(7)])
    assert found.loc[found["map"] == "iron", "constant"].tolist() == [0, 1, 0, 0, 0, 1, 0]
    assert found["same_as"].notna().sum() == 1
    texts = [text for text in warnings_about_maps(found) if "robust" not in text]
    assert texts == [
        "iron of s1 is 0 in every voxel of the mask",
        "iron of s4 equals that of s2 in every voxel of the mask",
        "iron of s5 is 3 in every voxel of the mask",
        "myelin of s3 is not finite in 1 voxels of the mask",
    ]
