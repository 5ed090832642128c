"""From Python: arrays, images and paths give the command's maps."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import gpuvox
from gpuvox.cli import main_randomise
from gpuvox.errors import InputWarning


def matrices(folder):
    M = np.loadtxt(folder / "design.mat", skiprows=4)
    return M, np.array([[1.0, -1, 0], [-1, 1, 0]])


def test_arrays_images_and_paths_agree_with_the_command(study):
    M, C = matrices(study)
    settings = {"n_permutations": 30, "seed": 4, "tfce": True, "uncorrected": True}
    from_paths = gpuvox.randomise("data", "design.mat", C, mask="mask", **settings)
    image = nib.load("data.nii.gz")
    from_images = gpuvox.randomise(image, M, C, mask=nib.load("mask.nii.gz"), **settings)
    mask = nib.load("mask.nii.gz").get_fdata() > 0
    frame = pd.DataFrame(M, columns=["a", "b", "age"])
    from_arrays = gpuvox.randomise(image.get_fdata(), frame, C, mask=mask, **settings)
    line = "-i data -o out -m mask -d design.mat -t two.con -n 30 --seed 4 -T -x --uncorrp -N -R --quiet"
    gpuvox_vest(study / "two.con", C)
    assert main_randomise(line.split()) == 0
    for name in (
        "tstat1",
        "vox_corrp_tstat2",
        "tfce_corrp_tstat1",
        "vox_p_tstat1",
        "tfce_p_tstat2",
        "tfce_tstat1",
    ):
        theirs = nib.load(f"out_{name}.nii.gz").get_fdata()
        for result in (from_paths, from_images, from_arrays):
            np.testing.assert_array_equal(result.volume(name), theirs)
    np.testing.assert_allclose(from_paths.nulls["tfce_tstat1"], np.loadtxt("out_tfce_corrp_tstat1.txt"), rtol=1e-6)
    assert from_paths.df == {"tstat1": 7, "tstat2": 7}
    np.testing.assert_array_equal(from_paths.image("tstat1").affine, image.affine)
    np.testing.assert_array_equal(from_paths["tstat1"], from_paths.maps["tstat1"])
    from_paths.save(study / "saved")
    np.testing.assert_array_equal(
        nib.load("saved_tfce_corrp_tstat1.nii.gz").get_fdata(), from_paths.volume("tfce_corrp_tstat1")
    )
    theirs, ours = (json.loads(Path(f"{name}_randomise.json").read_text()) for name in ("out", "saved"))
    assert {"data", "mask", "design", "contrasts"} <= set(ours.pop("inputs"))
    of_command = {name.replace("out", "saved", 1): about for name, about in theirs.pop("maps").items()}
    saved = ours.pop("maps")
    assert ours.pop("files") == sorted(path.name for path in study.glob("saved_*") if path.suffix != ".json")
    assert theirs.pop("files") == sorted(path.name for path in study.glob("out_*") if path.suffix != ".json")
    assert saved == {name: of_command[name] for name in saved}
    assert len(saved) == len(list(study.glob("saved*.nii.gz")))
    for record in (ours, theirs):
        for test in record["tests"]:
            del test["seconds"]
    del theirs["command"], theirs["inputs"]
    assert ours == theirs


def gpuvox_vest(path, rows):
    from gpuvox.files import write_vest

    write_vest(path, rows, "con")


def test_one_sample_and_rows_of_voxels():
    rng = np.random.default_rng(0)
    result = gpuvox.randomise(rng.normal(size=(8, 20)) + 1, n_permutations=0, seed=1)
    assert result.tests[0].shuffler.flips
    assert len(result.nulls["vox_tstat1"]) == 256
    assert result["vox_corrp_tstat1"].max() <= 255 / 256


def test_voxelwise_images_along_other_axes_are_reoriented(study):
    M, C = matrices(study)
    ev = nib.Nifti1Image(
        np.random.default_rng(0).normal(size=nib.load("data.nii.gz").shape), np.diag([2.0, 2, 2, 1])
    )
    nib.save(ev, "ev.nii.gz")
    nib.save(ev.as_reoriented(np.array([[2, -1], [0, 1], [1, -1.0]])), "turned.nii.gz")
    settings = {"mask": "mask", "n_permutations": 5, "seed": 1}
    expected = gpuvox.randomise("data", M, C, voxelwise={2: "ev.nii.gz"}, **settings)
    for scratch in ("", "."):
        with pytest.warns(
            UserWarning, match="turned.nii.gz has the voxels of the mask along exchanged or reversed axes"
        ):
            found = gpuvox.randomise("data", M, C, voxelwise={2: "turned.nii.gz"}, scratch=scratch, **settings)
        np.testing.assert_array_equal(found["tstat1"], expected["tstat1"])


def test_voxelwise_ev_and_f(study):
    M, _ = matrices(study)
    rng = np.random.default_rng(1)
    ev = rng.normal(size=(7, 6, 5, 10)).astype(np.float32)
    result = gpuvox.randomise(
        "data", M, np.eye(3)[1:], mask="mask", f_tests=[[1, 1]], voxelwise={2: ev}, n_permutations=10, seed=1
    )
    assert set(result.df) == {"fstat1", "tstat1", "tstat2"}
    assert result["fstat1"].min() >= 0


def test_a_seed_is_drawn_and_kept():
    data = np.random.default_rng(0).normal(size=(10, 15))
    design = np.c_[np.ones(10), np.arange(10)]
    first = gpuvox.randomise(data, design, [0, 1], n_permutations=50)
    again = gpuvox.randomise(data, design, [0, 1], n_permutations=50, seed=first.options.seed)
    np.testing.assert_array_equal(first.nulls["vox_tstat1"], again.nulls["vox_tstat1"])


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "words"),
    [
        ((np.zeros((4, 3, 2)),), {}, ValueError, "shape"),
        ((np.ones((8, 20)), np.ones((7, 1)), [1]), {}, ValueError, "8 volumes"),
        ((np.ones((8, 20)), np.ones((8, 1))), {}, ValueError, "contrasts"),
        ((np.full((8, 20), np.nan),), {}, ValueError, "finite"),
        ((np.ones((8, 20)),), {"n_perm": 3}, TypeError, "n_perm"),
    ],
)
def test_refusals(arguments, settings, error, words):
    with pytest.raises(error, match=words):
        gpuvox.randomise(*arguments, **settings)


def test_the_engine_alone():
    """PermutationTest with one's own loop, as docs/python.md shows."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 60)).astype(np.float32)
    design = np.c_[np.repeat([1.0, 0], 6), np.repeat([0, 1.0], 6)]
    shuffler = gpuvox.Shuffler(design @ [[1.0], [-1]], gpuvox.Permutations(100, seed=1))
    model = gpuvox.Glm(data, gpuvox.partition(design, [1, -1]), shuffler.invariant)
    grid = gpuvox.Grid(np.ones((5, 4, 3), bool))
    test = gpuvox.PermutationTest(model, grid, shuffler, gpuvox.Statistics(tfce=gpuvox.Tfce()))
    observed = test.observe()
    mine = np.concatenate([observed.run(i, i + 10).maxima["tfce"][0] for i in range(0, 100, 10)])
    np.testing.assert_array_equal(mine, gpuvox.run(test).tally.maxima["tfce"][0])
    with pytest.raises(AttributeError):
        _ = gpuvox.nothing


def test_importing_costs_nothing():
    code = (
        "import sys, gpuvox; heavy = {'numba', 'nibabel', 'scipy', 'pandas', 'numpy'} & set(sys.modules);"
        "assert 'randomise' in dir(gpuvox); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_blocks_flips_and_permutations_from_python(study):
    """The settings are the command's options."""
    M, C = matrices(study)
    blocks = np.loadtxt(study / "design.grp", skiprows=4)
    result = gpuvox.randomise("data", M, C, mask="mask", blocks=blocks, n_permutations=0, seed=1)
    assert (
        main_randomise("-i data -o out -m mask -d design.mat -t design.con -e design.grp -x -n 0 --quiet".split())
        == 0
    )
    np.testing.assert_array_equal(
        result.volume("vox_corrp_tstat1"), nib.load("out_vox_corrp_tstat1.nii.gz").get_fdata()
    )
    table = np.array([np.arange(1, 11), np.arange(10, 0, -1)])
    mine = gpuvox.randomise("data", M, C[:1], mask="mask", permutations={"tstat1": table})
    assert len(mine.nulls["vox_tstat1"]) == 2
    whole = gpuvox.randomise("data", M, C[:1], mask="mask", blocks=blocks, whole_blocks=True, n_permutations=0)
    assert whole.tests[0].shuffler.n_distinct < 120
    with pytest.raises(ValueError, match="at most 100,000,000"):
        gpuvox.randomise(np.zeros((30, 4)), np.c_[np.ones(30), np.arange(30)], [0, 1], n_permutations=0)


def test_effective_design_from_python():
    """Which rows may be exchanged is taken from it, as by the command's option."""
    rng = np.random.default_rng(0)
    data, design = rng.normal(size=(6, 8)), np.c_[np.ones(6), rng.normal(size=6)]
    effective = np.c_[np.ones(6), [0, 0, 0, 1, 1, 1.0]]
    result = gpuvox.randomise(data, design, [[0, 1.0]], effective_design=effective, n_permutations=1000, seed=1)
    assert result.tests[0].shuffler.n == 20  # 6 choose 3
    in_one = gpuvox.randomise(
        data, design, [[0, 1.0]], effective_design=effective[:, 1], n_permutations=1000, seed=1
    )
    np.testing.assert_array_equal(in_one["vox_corrp_tstat1"], result["vox_corrp_tstat1"])
    with pytest.raises(ValueError, match="there is no test 2"):
        gpuvox.randomise(data, design, [[0, 1.0]], only_test=2)
    with pytest.raises(ValueError, match="the effective design has 5 rows; there are 6 volumes in the data"):
        gpuvox.randomise(data, design, [[0, 1.0]], effective_design=effective[:5])


def test_lists_of_images_of_subjects(study):
    """Paths, images and arrays, one a subject: as nilearn takes them."""
    M, C = matrices(study)
    image = nib.load("data.nii.gz")
    values = np.asarray(image.dataobj)
    single = [nib.Nifti1Image(values[..., i], image.affine, image.header) for i in range(10)]
    for i, each in enumerate(single):
        nib.save(each, f"s{i}.nii.gz")
    settings = {"n_permutations": 5, "seed": 1, "device": "cpu"}
    expected = gpuvox.randomise("data", M, C, mask="mask", **settings)
    arrays = [values[..., i] for i in range(10)]
    for data in ([f"s{i}.nii.gz" for i in range(10)], tuple(Path(f"s{i}") for i in range(10)), single, arrays):
        result = gpuvox.randomise(data, M, C, mask="mask", **settings)
        np.testing.assert_array_equal(result["tstat1"], expected["tstat1"])
    other = nib.Nifti1Image(values[..., 9], image.affine + np.eye(4), image.header)
    with pytest.raises(ValueError, match="image 10 of the data is on another grid"):
        gpuvox.randomise([*single[:9], other], M, C, **settings)
    with pytest.raises(ValueError, match="a list that mixes images with something else"):
        gpuvox.randomise([*single[:9], "s9.nii.gz"], M, C, **settings)
    with pytest.raises(ValueError, match=r"image 1 of the data has the shape \(7, 6, 5, 10\)"):
        gpuvox.randomise([image, *single[1:]], M, C, **settings)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_voxelwise_ev_whose_column_says_nothing_is_told_of(value):
    """Rows that are equal in the design are interchangeable, and signs are flipped though permutations were wanted."""
    rng = np.random.default_rng(0)
    data, ev = rng.normal(size=(2, 6, 3))
    design, tests = np.c_[np.ones(6), np.full(6, value)], {"f_tests": [[1, 0], [1, 1]]}
    with pytest.warns(InputWarning, match="voxelwise EV") as told:
        result = gpuvox.randomise(data, design, np.eye(2)[::-1], voxelwise={1: ev}, n_permutations=0, **tests)
    said = [str(each.message) for each in told if "voxelwise EV" in str(each.message)]
    assert [sentence.split(",")[0] for sentence in said] == [
        "f-test 1: there is nothing to permute", "f-test 2: there is nothing to permute",
        "t-test 1: signs are flipped",
    ]  # fmt: skip
    assert len(result.nulls["vox_tstat1"]) == 2**6
    design[:, 1] = rng.permutation(6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*voxelwise EV")
        result = gpuvox.randomise(data, design, [[0, 1]], voxelwise={1: ev}, n_permutations=0)
    assert len(result.nulls["vox_tstat1"]) == 720


def test_few_shuffles_are_no_bound_of_approximations():
    data = np.random.default_rng(0).normal(size=(3, 4))
    with pytest.warns(UserWarning, match="8 distinct sign-flips: approximations of p are crude") as told:
        gpuvox.randomise(data, np.ones((3, 1)), [[1.0]], tail="gamma", n_permutations=0)
    assert not any("nothing can reach" in str(each.message) for each in told)
