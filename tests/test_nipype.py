"""The nipype interface, and nipype's own interface of FSL run on our command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gpuvox import files

os.environ["NO_ET"] = "1"  # nipype asks for its latest version over the network
nipype = pytest.importorskip("nipype")
from nipype.interfaces import fsl  # noqa: E402

from gpuvox.interfaces.nipype import Randomise  # noqa: E402

OUTPUTS = (
    "tstat_files", "fstat_files", "t_p_files", "f_p_files", "t_corrected_p_files", "f_corrected_p_files"
)  # fmt: skip


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A group comparison of twelve small images, and the command under FSL's name on the path."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    nib.Nifti1Image(rng.normal(size=(5, 5, 5, 12)).astype(np.float32), np.eye(4)).to_filename("data.nii.gz")
    group = np.repeat([1.0, 0.0], 6)
    files.write_vest("design.mat", np.column_stack([group, 1 - group]), "mat")
    files.write_vest("design.con", np.array([[1.0, -1.0], [-1.0, 1.0]]), "con")
    files.write_vest("design.fts", np.array([[1.0, 0.0]]), "fts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "randomise").symlink_to(Path(sys.executable).parent / "gpuvox-randomise")
    paths = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(paths))
    monkeypatch.setenv("FSLOUTPUTTYPE", "NIFTI_GZ")
    return {
        "in_file": str(tmp_path / "data.nii.gz"), "design_mat": str(tmp_path / "design.mat"),
        "tcon": str(tmp_path / "design.con"), "fcon": str(tmp_path / "design.fts"), "tfce": True, "vox_p_values": True,
        "num_perm": 40, "seed": 3,
    }  # fmt: skip


def test_both_interfaces_run_and_find_the_same_files(inputs, tmp_path):
    theirs = fsl.Randomise(base_name="theirs", output_type="NIFTI_GZ", raw_stats_imgs=True, **inputs).run().outputs
    ours = Randomise(base_name="ours", raw_stats_imgs=True, **inputs).run().outputs
    assert Path(ours.record).name == "ours_randomise.json"
    assert len(ours.tstat_files) == 2
    assert isinstance(ours.fstat_files, str) or len(ours.fstat_files) == 1
    assert {Path(path).name for path in ours.t_corrected_p_files} == {
        f"ours_{kind}_corrp_tstat{number}.nii.gz" for kind in ("tfce", "vox") for number in (1, 2)
    }
    compared = 0
    for name in OUTPUTS:
        for path in as_list(getattr(theirs, name)):
            twin = Path(path).with_name(Path(path).name.replace("theirs", "ours"))
            assert str(twin) in as_list(getattr(ours, name))
            np.testing.assert_array_equal(nib.load(path).get_fdata(), nib.load(twin).get_fdata())
            compared += 1
    assert compared >= 5


def as_list(paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def test_it_has_what_nipypes_own_has():
    theirs = set(fsl.Randomise().inputs.copyable_trait_names())
    ours = set(Randomise().inputs.copyable_trait_names())
    only_printing = {"show_total_perms", "show_info_parallel_mode"}
    assert theirs - ours == only_printing | {"output_type"}


def test_numbers_are_not_rounded(inputs):
    node = Randomise(c_thresh=2.345, tfce_H=1.875, tfce_exact=True, tfce_C=18, **inputs)
    words = node.cmdline.split()
    assert words[0] == "gpuvox-randomise"
    assert words[words.index("-c") + 1] == "2.345"
    assert "--tfce_H=1.875" in words
    assert "--tfce_C=18" in words
    assert fsl.Randomise(c_thresh=2.345, **inputs).cmdline.count("-c 2.3 ") == 1, "which is why"
