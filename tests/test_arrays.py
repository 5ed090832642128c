"""Data and masks from Python: the same answers from whatever holds them, one sentence for what cannot be meant."""

from __future__ import annotations

import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import gpuvox
from gpuvox.application.arrays import as_cohort
from gpuvox.errors import FileError, InputWarning
from tests.conftest import save

SHAPE, N = (6, 5, 4), 12
AFFINE = np.diag([2.0, 2, 3, 1])
DESIGN = np.c_[np.arange(N) < 6, np.arange(N) >= 6].astype(float)


@pytest.fixture
def data():
    return np.random.default_rng(0).normal(size=(*SHAPE, N)).astype(np.float32)


def analysed(values, mask=None, **settings):
    settings = {"n_permutations": 5, "seed": 1, "device": "cpu"} | settings
    return gpuvox.randomise(values, DESIGN, [1, -1], mask=mask, **settings)


def ring(value=-1e-3):
    """A mask with what splines leave around it, and NaN elsewhere."""
    mask = np.full(SHAPE, np.nan)
    mask[:, :4, :3] = value
    mask[1:4, 1:4, 1:3] = 1
    return mask


def test_a_mask_is_the_same_in_whatever_holds_it(tmp_path, monkeypatch, data):
    """NaN, negative and tiny values are outside, as of a file (repro 4)."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "m.nii.gz", ring(), AFFINE)
    save(tmp_path / "d.nii.gz", data, AFFINE)
    image = nib.load("m.nii.gz")
    for given in (data, nib.load("d.nii.gz"), "d.nii.gz"):
        for mask in (
            "m.nii.gz",
            image,
            ring(),
            ring(1e-9),
            ring() > 0.5,
            nib.Nifti1Image(ring()[..., None], AFFINE),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)
                grid = as_cohort(given, mask)[1]
            np.testing.assert_array_equal(grid.mask, ring() > 0.5)
    with pytest.warns(
        InputWarning, match="the mask given holds values other than 0 and 1 .* its 18 voxels above 0.5"
    ):
        as_cohort(data, ring())
    with pytest.raises(FileError, match=r"the mask given is empty: none of its 120 voxels is above 0\.5"):
        as_cohort(data, np.zeros(SHAPE))


def test_a_mask_that_lies_elsewhere_is_refused(tmp_path, monkeypatch, data):
    """Whatever holds it and the data (repro 5); voxelwise EVs too."""
    monkeypatch.chdir(tmp_path)
    other = AFFINE.copy()
    other[0] = [-2, 0, 0, 10]
    mask = np.ones(SHAPE)
    save(tmp_path / "m.nii.gz", mask, other)
    save(tmp_path / "d.nii.gz", data, AFFINE)
    shifted = other + np.eye(4, k=3) * 2
    save(tmp_path / "s.nii.gz", mask, shifted)
    for given in (nib.Nifti1Image(data, AFFINE), "d.nii.gz"):
        of_files = ("s.nii.gz",) if isinstance(given, str) else ("s.nii.gz", "m.nii.gz")  # files are reoriented
        for elsewhere in (*of_files, nib.load("m.nii.gz"), gpuvox.Grid(mask > 0, (2, 2, 3), other)):
            with pytest.raises(ValueError, match="have different affines, "):
                as_cohort(given, elsewhere)
        with pytest.raises(ValueError, match="have different affines"):
            analysed(given, voxelwise={0: nib.Nifti1Image(data, other)})
    with pytest.raises(
        ValueError, match=r"mask has 6 × 5 × 3 voxels, .* 6 × 5 × 4; they must be on the same grid"
    ):
        as_cohort(data, mask[..., :3])


def test_a_mask_without_a_place_takes_that_of_the_data(tmp_path, monkeypatch, data):
    """Millimetres: smoothing of the variance, sizes of clusters."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "d.nii.gz", data, AFFINE)
    mask = ring() > 0.5
    for given in (
        nib.Nifti1Image(data, AFFINE),
        "d.nii.gz",
        [nib.Nifti1Image(data[..., i], AFFINE) for i in range(N)],
    ):
        for plain in (mask, nib.Nifti1Image(mask.astype("u1"), None), gpuvox.Grid(mask)):
            grid = as_cohort(given, plain)[1]
            assert grid.voxel_size == (2, 2, 3)
            np.testing.assert_array_equal(grid.affine, AFFINE)
    truth = analysed("d.nii.gz", nib.Nifti1Image(mask.astype("u1"), AFFINE), variance_mm=3.0)
    np.testing.assert_array_equal(analysed("d.nii.gz", mask, variance_mm=3.0)["tstat1"], truth["tstat1"])
    assert as_cohort(data, gpuvox.Grid(mask, (1, 2, 2)))[1].voxel_size == (1, 2, 2)


def test_the_same_data_in_any_form(tmp_path, data):
    """Types, byte orders, layouts; lesion masks as booleans (repro 20)."""
    truth = analysed(data)["tstat1"]
    mapped = np.memmap(tmp_path / "d", dtype="<f4", mode="w+", shape=data.shape)
    mapped[:] = data
    locked = data.copy()
    locked.flags.writeable = False
    forms = [data.astype(">f4"), np.asfortranarray(data), data[::1], data.astype("f8"), mapped, locked]
    forms += [np.ma.MaskedArray(data), [data[..., i] for i in range(N)], nib.Nifti1Image(data, AFFINE)]
    for form in forms:
        np.testing.assert_array_equal(analysed(form)["tstat1"], truth)
    lesions = data > 0.5
    of_numbers = analysed(lesions.astype("f4"))
    for form in (lesions, lesions.astype("u1"), lesions.astype("i8"), lesions.astype("f2")):
        np.testing.assert_array_equal(analysed(form)["tstat1"], of_numbers["tstat1"])
    rows = data.reshape(-1, N).T
    columns = analysed(pd.DataFrame(rows))["tstat1"]
    np.testing.assert_array_equal(columns, analysed(rows)["tstat1"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d + 1j, "the data hold values of type complex64; real numbers are expected"),
        (lambda d: d.astype(object), "the data hold values of type object; real numbers"),
        (lambda d: d.astype(str), "the data hold values of type <U32; real numbers"),
        (lambda d: np.ma.masked_greater(d, 2), "the data are a masked array, of which .* values are masked"),
        (lambda d: [np.ma.masked_greater(d[..., i], 1) for i in range(N)], "are a masked array, of which"),
        (lambda d: d[..., 0], r"the data have shape \(6, 5, 4\); expected \(nx, ny, nz, n\) or \(n, V\)"),
        (lambda d: [d[..., 0], d[1:, ..., 1]], r"have shapes \(6, 5, 4\) and \(5, 5, 4\); one shape"),
        (lambda d: 3.0, r"the data have shape \(\); expected"),
        (lambda d: np.ones_like(d), "no voxel of the data varies over the 12 volumes"),
    ],
)
def test_what_is_no_data_is_refused(data, change, words):
    with pytest.raises(ValueError, match=words):
        as_cohort(change(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_what_is_not_finite_is_told_where(data, value):
    """A number that is missing in one subject does not leave the voxel out, as it does not in files."""
    wrong = data.astype("f8")
    wrong[2, 3, 1, 4], wrong[3, 3, 1, 7] = value, value
    match = rf"not finite in 2 of the 120 voxels .* first in volume 5, voxel \(2, 3, 1\): {value}".replace(
        "+", r"\+"
    )
    for given in (wrong, nib.Nifti1Image(wrong, AFFINE)):
        with pytest.raises(ValueError, match=match):
            as_cohort(given)
    rows = wrong.reshape(-1, N).T
    with pytest.raises(ValueError, match=r"not finite in 2 of the 120 .* volume 5, column 53"):
        as_cohort(rows)
    wrong[2:4, 3, 1] = np.nan  # in everyone: no data there
    assert as_cohort(wrong)[1].n_voxels == 118


def test_places_are_needed_for_what_hangs_on_neighbours():
    """(n, V) data have none (repro 45)."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(N, 60)).astype("f4")
    grid = gpuvox.Grid(np.ones((5, 4, 3), bool))
    assert len(analysed(values)["tstat1"]) == 60
    for wanted in ({"tfce": True}, {"cluster_extent": 2.0}, {"cluster_mass": 2}, {"variance_mm": 3}):
        with pytest.raises(
            ValueError, match=r"the data have shape \(12, 60\), but no mask defines the positions of the 60 voxels"
        ):
            analysed(values, **wanted)
        assert len(analysed(values, grid, **wanted)["tstat1"]) == 60
    with pytest.raises(ValueError, match="does not define the order of its voxels"):
        analysed(values, grid.mask)
    with pytest.raises(ValueError, match="the data have 60 voxels; the mask has 48"):
        analysed(values, gpuvox.Grid(np.ones((4, 4, 3), bool)))
    volumes = grid.to_volume(values)
    truth = analysed(volumes, tfce=True)["tfce_corrp_tstat1"]
    np.testing.assert_array_equal(analysed(values, grid, tfce=True)["tfce_corrp_tstat1"], truth)


@pytest.mark.parametrize("kind", ["array", "image", "file", "files"])
def test_what_float32_loses_is_told(tmp_path, data, kind):
    """Values far from zero beside their differences; integers that are exact are not."""
    given = data.astype("f8")
    given[:, :, 0] += 1e7

    def form(values):
        image = nib.Nifti1Image(values, AFFINE)
        if kind == "file":
            nib.save(image, tmp_path / "d.nii")
            return tmp_path / "d.nii"
        if kind == "files":
            for i in range(N):
                nib.save(nib.Nifti1Image(values[..., i], AFFINE), tmp_path / f"s{i:02d}.nii")
            return [tmp_path / f"s{i:02d}.nii" for i in range(N)]
        return image if kind == "image" else values

    with pytest.warns(
        InputWarning, match="held as float32, and in 30 of 120 voxels that changes values by more than a hun"
    ):
        as_cohort(form(given), np.ones(SHAPE))
    whole = np.rint(data * 3).astype("i4") + 10_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_cohort(form(whole), np.ones(SHAPE))
        as_cohort(form(data.astype("f8") + 100), np.ones(SHAPE))
    with pytest.warns(InputWarning, match="in 120 of 120 voxels"):
        as_cohort(form(whole + 90_000_000), np.ones(SHAPE))


def test_units_of_an_image_in_memory(data):
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("micron")
    with pytest.raises(FileError, match=r"the data says that its voxels of 2 × 2 × 3 are in micrometres"):
        as_cohort(image)
    other = nib.MGHImage(data, AFFINE)  # a format without forms, units or codes
    np.testing.assert_array_equal(as_cohort(other)[1].affine, AFFINE)


def test_columns_of_numbers_of_any_type(data):
    """A DataFrame put together row by row has columns of objects."""
    frame = pd.DataFrame(DESIGN, columns=["a", "b"]).astype(object)
    found = gpuvox.randomise(data, frame, [1, -1], n_permutations=5, seed=1)
    np.testing.assert_array_equal(found["tstat1"], analysed(data)["tstat1"])
    frame.iloc[3, 1] = "1"
    with pytest.raises(ValueError, match="column 'b' of the DataFrame is not of numbers"):
        gpuvox.randomise(data, frame, [1, -1], n_permutations=5, seed=1)
