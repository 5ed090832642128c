"""Small files for the examples in docstrings and pages, in a temporary folder that becomes the current one.

Sphinx runs this before the examples of each page (``make docs``).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import gpuvox

__all__ = ["gpuvox", "np", "pd"]

N, SHAPE = 12, (6, 5, 4)
"""Participants, and voxels of an image."""


def write_files(folder: Path) -> None:
    """Images of two groups, that differ in a corner; a table, a design, contrasts and a mask."""
    rng = np.random.default_rng(0)
    group, age = np.repeat(["HC", "MS"], N // 2), rng.integers(25, 60, N)
    ids = [f"sub-{i:02d}" for i in range(1, N + 1)]
    data = rng.normal(size=(*SHAPE, N)).astype(np.float32)
    data[:3, :3, :2, : N // 2] += 4
    affine = np.diag([2.0, 2, 2, 1])
    (folder / "vbm").mkdir()
    for i, name in enumerate(ids):
        nib.save(nib.Nifti1Image(data[..., i], affine), folder / "vbm" / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(data, affine), folder / "maps.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), affine), folder / "gm.nii.gz")
    table = pd.DataFrame({"participant_id": ids, "group": group, "age": age})
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    design = pd.DataFrame({"HC": group == "HC", "MS": group == "MS", "age": age - age.mean()}).astype(float)
    design.to_csv(folder / "design.csv", index=False)
    pd.DataFrame([[1, -1, 0]], columns=design.columns).to_csv(folder / "contrasts.csv", index=False)


_folder = Path(tempfile.mkdtemp(prefix="gpuvox-doctest-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
write_files(_folder)
os.chdir(_folder)
