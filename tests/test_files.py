"""Files: what is read is what nibabel reads, what is written is what FSL writes, what is wrong is said."""

import gzip
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from gpuvox import files
from gpuvox.errors import FileError, InputWarning
from gpuvox.grid import Grid

CASES = Path(__file__).parent / "data" / "fsl"
DESIGNS = sorted(CASES.glob("*/design.*"))
PERMUTATIONS = sorted(CASES.glob("*/fsl*perm_*.txt"))
NULLS = sorted(CASES.glob("*/fsl*corrp_*.txt")) + sorted(CASES.glob("*/fslpstat*.txt"))
AFFINE = np.array([[-2.0, 0, 0, 26], [0, 3, 0, -30], [0, 0, 4, -20], [0, 0, 0, 1]])
SHAPE = (5, 6, 4)


def save(path, data, affine=AFFINE, *, dtype=None, scale=None, endian="<", kind=nib.Nifti1Image):
    """An image written by nibabel; `scale` = (slope, intercept) leaves `data` to be the stored integers."""
    data = np.asarray(data)
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(np.dtype(dtype or data.dtype).newbyteorder(endian))
    image = kind(data, affine, header)
    if scale is not None:
        image.header.set_slope_inter(*scale)
        nifti = image.header.copy()
        nifti["vox_offset"] = 352
        raw = data.astype(image.get_data_dtype()).tobytes(order="F")
        opener = gzip.open if str(path).endswith(".gz") else open
        with opener(path, "wb") as file:
            file.write(nifti.binaryblock + bytes(4) + raw)
    else:
        nib.save(image, path)
    return path


@pytest.fixture
def rng():
    return np.random.default_rng(20)


@pytest.fixture
def grid(rng):
    mask = rng.random(SHAPE) < 0.6
    return Grid(mask, (2, 3, 4), AFFINE)


def expected(path, mask):
    """(n, V): the oracle, the image read whole by nibabel, voxels picked one by one, x fastest."""
    data = nib.load(path).get_fdata()
    nx, ny, nz = mask.shape
    inside = [(x, y, z) for z in range(nz) for y in range(ny) for x in range(nx) if mask[x, y, z]]
    return np.array([[data[(*voxel, i)] for voxel in inside] for i in range(data.shape[3])])


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr", ".hdr.gz"])
@pytest.mark.parametrize("asked", ["", ".nii", ".nii.gz", ".img", ".hdr"])
def test_find_image_with_any_or_no_extension(tmp_path, suffix, asked):
    for name in {suffix, suffix.replace("hdr", "img")}:
        (tmp_path / f"sub.01{name}").touch()
    assert files.find_image(tmp_path / f"sub.01{asked}") == tmp_path / f"sub.01{suffix}"


def test_find_image_takes_the_exact_name_first(tmp_path):
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).touch()
    assert files.find_image(tmp_path / "a.nii") == tmp_path / "a.nii"
    assert files.find_image(str(tmp_path / "a.nii.gz")) == tmp_path / "a.nii.gz"
    with pytest.raises(FileError, match=r"image name .*/a is ambiguous: there are .*a\.nii\.gz and .*a\.nii"):
        files.find_image(tmp_path / "a")


def test_find_image_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match=r"no image .*/a: looked for .*/a with \.nii\.gz, \.nii"):
        files.find_image(tmp_path / "a")


@pytest.mark.parametrize(("there", "missing"), [("a.hdr", "a.img"), ("a.img", "a.hdr"), ("a.img.gz", "a.hdr.gz")])
def test_half_a_pair(tmp_path, there, missing):
    (tmp_path / there).touch()
    with pytest.raises(FileError, match=f"half of a pair: .*{re.escape(missing)} is missing"):
        files.find_image(tmp_path / there)


def test_image_files(tmp_path):
    for name in ("a.hdr.gz", "a.img.gz", "b.nii"):
        (tmp_path / name).touch()
    assert files.image_files(tmp_path / "a") == (tmp_path / "a.hdr.gz", tmp_path / "a.img.gz")
    assert files.image_files(tmp_path / "b") == (tmp_path / "b.nii",)


def test_image_names_from_list_pattern_and_text(tmp_path):
    for name in ("s1.nii", "s2.hdr", "s2.img", "s10.nii.gz", "s3.json"):
        (tmp_path / name).touch()
    s1, s2, s10 = (tmp_path / name for name in ("s1.nii", "s2.hdr", "s10.nii.gz"))
    assert files.image_names([tmp_path / "s2", s1]) == [s2, s1]
    assert files.image_names(tmp_path / "s*") == [s1, s10, s2]
    (tmp_path / "list.txt").write_text("# the cohort\ns2\n\n  s1.nii \r\ns10\n")
    assert files.image_names(tmp_path / "list.txt") == [s2, s1, s10]
    (tmp_path / "odd[1].nii").touch()
    assert files.image_names(tmp_path / "odd[1].nii") == [tmp_path / "odd[1].nii"]


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    folder = tmp_path / "Smith [2023]"
    folder.mkdir()
    for name in ("d.nii.gz", "s1.nii", "s2.nii"):
        (folder / name).touch()
    assert files.image_names(folder / "d") == [folder / "d.nii.gz"]
    assert files.image_names(folder / "s?") == [folder / "s1.nii", folder / "s2.nii"]
    assert files.image_names(tmp_path / "Smith*" / "s[12].nii") == [folder / "s1.nii", folder / "s2.nii"]
    with pytest.raises(FileError, match=r"no image .*Smith \[2023\]/e"):
        files.image_names(folder / "e")


def test_two_stars_are_folders_of_any_depth(tmp_path):
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    deep, high = tmp_path / "sub-1" / "anat" / "a_map.nii", tmp_path / "b_map.nii"
    deep.touch(), high.touch()
    assert files.image_names(tmp_path / "**" / "*_map.nii") == sorted([deep, high])


@pytest.mark.parametrize(
    ("there", "asked", "said"),
    [
        ("a.NII.GZ", "a", r"no image '.*/a', but 'a\.NII\.GZ' in .*give the name in this spelling$"),
        ("a.NII.GZ", "a.nii.gz", r"but 'a\.NII\.GZ' in"),
        ("A.nii", "a", r"but 'A\.nii' in"),
        ("a.nii ", "a.nii", r"but 'a\.nii ' in .*including a blank at the end"),
        ("a.nii", "a.nii ", r"but 'a\.nii' in .*including a blank at the end"),
        (
            "a.nii.bz2",
            "a",
            r"no image .*/a, but a\.nii\.bz2 in .* not in a supported format: NIfTI images end in",
        ),
        ("a.mgz", "a", r"but a\.mgz in"),
        ("a.mgz", "a.mgz", r"a\.mgz is not in a supported format"),
        ("a.nii/b", "a.nii", r"a\.nii is a folder; the name of an image"),
        ("a/b", "a", r"/a is a folder"),
        ("a", "a/b/c", r"no image .*/a/b/c: .*/a is not a folder"),
        ("b", "x/y/c", r"no image .*/x/y/c: there is no folder .*/x$"),
    ],
)
def test_what_is_there_in_place_of_an_image_is_said(tmp_path, there, asked, said):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    with pytest.raises(FileError, match=said):
        files.find_image(f"{tmp_path}/{asked}")


def test_a_link_to_nothing_is_told(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    for name in ("a", "a.nii.gz"):
        with pytest.raises(FileError, match=r"a\.nii\.gz is a link to .*gone\.nii\.gz, which does not exist"):
            files.find_image(tmp_path / name)


def test_a_pattern_that_fits_other_files_says_so(tmp_path):
    (tmp_path / "s1.mgz").touch()
    with pytest.raises(
        FileError, match=r"no image matches .*s\*; .*s1\.mgz does, which is not in a supported format"
    ):
        files.image_names(tmp_path / "s*")


def test_image_names_of_nothing(tmp_path):
    with pytest.raises(FileError, match=r"no image matches .*s\*"):
        files.image_names(tmp_path / "s*")
    (tmp_path / "list.txt").write_text("# none\n")
    with pytest.raises(FileError, match=r"list\.txt names no image"):
        files.image_names(tmp_path / "list.txt")
    with pytest.raises(FileError, match="list of images is empty"):
        files.image_names([])


# --------------------------------------------------------------------------------------------------- header


def test_read_header_of_a_case():
    header = files.read_header(CASES / "no_mask" / "data")
    assert header.shape == (14, 16, 12, 16)
    assert header.zooms == (2, 2, 2, 1)
    assert header.oriented
    assert header.voxel_size == (2, 2, 2)
    np.testing.assert_array_equal(header.affine[:, 3], [26, -30, -20, 1])


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((5, 6), (5, 6, 1, 1)),
        ((5, 6, 4), (5, 6, 4, 1)),
        ((5, 6, 4, 3), (5, 6, 4, 3)),
        ((5, 6, 4, 3, 1), (5, 6, 4, 3)),
    ],
)
def test_read_header_has_four_dimensions(tmp_path, shape, read):
    assert files.read_header(save(tmp_path / "a.nii", np.zeros(shape, "i2"))).shape == read


def test_read_header_does_not_read_the_data(tmp_path):
    path = save(tmp_path / "a.nii", np.zeros((*SHAPE, 3), "f4"))
    os.truncate(path, 352)
    assert files.read_header(path).shape == (*SHAPE, 3)


@pytest.mark.parametrize("kind", [nib.Nifti2Image, nib.Spm99AnalyzeImage])
def test_read_header_of_other_kinds(tmp_path, kind, rng):
    name = "a.nii" if kind is nib.Nifti2Image else "a.img"
    path = save(tmp_path / name, rng.normal(size=(*SHAPE, 3)).astype("f4"), kind=kind)
    grid = Grid(np.ones(SHAPE, bool))
    np.testing.assert_array_equal(files.read_cohort(path, grid), expected(path, grid.mask))
    assert files.read_header(path).voxel_size == (2, 3, 4)


def test_read_header_without_orientation(tmp_path):
    path = save(tmp_path / "a.nii", np.ones(SHAPE, "u1"), None)
    header = files.read_header(path)
    assert not header.oriented
    assert files.read_mask(path).affine is None


def test_read_header_refuses(tmp_path):
    with pytest.raises(FileError, match=r"five\.nii has dimensions \(2, 2, 2, 1, 3\); three are expected"):
        files.read_header(save(tmp_path / "five.nii", np.zeros((2, 2, 2, 1, 3), "f4")))
    with pytest.raises(FileError, match=r"c\.nii holds values of type complex64; real numbers are expected"):
        files.read_header(save(tmp_path / "c.nii", np.zeros(SHAPE, "c8")))
    (tmp_path / "text.nii").write_text("not an image" * 50)
    with pytest.raises(FileError, match=r"text\.nii cannot be read as an image"):
        files.read_header(tmp_path / "text.nii")
    (tmp_path / "none.nii.gz").touch()
    with pytest.raises(FileError, match=r"none\.nii\.gz cannot be read as an image"):
        files.read_header(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii.gz").write_text("not an image" * 50)
    with pytest.raises(FileError, match=r"text\.nii\.gz cannot be read as an image"):
        files.read_header(tmp_path / "text.nii.gz")


def test_voxel_size_is_absolute_and_positive(tmp_path):
    path = save(tmp_path / "a.nii", np.ones(SHAPE, "u1"))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([2, -3, 4], "<f4").tobytes()
    path.write_bytes(raw)
    assert files.read_mask(path).voxel_size == (2, 3, 4)
    raw[80:92] = np.array([2, np.nan, 1], "<f4").tobytes()
    path.write_bytes(raw)
    with pytest.raises(FileError, match=r"a\.nii has voxels of 2 × nan × 1 mm; sizes must be positive"):
        files.read_mask(path)


# ----------------------------------------------------------------------------------------------------- mask


def test_read_mask_of_a_case():
    grid = files.read_mask(CASES / "two_group_ancova" / "mask")
    np.testing.assert_array_equal(grid.mask, nib.load(CASES / "two_group_ancova" / "mask.nii.gz").get_fdata() > 0)
    assert grid.n_voxels == 888
    assert grid.voxel_size == (2, 2, 2)
    np.testing.assert_array_equal(grid.affine[0], [-2, 0, 0, 26])


def test_a_mask_has_infinity_and_neither_nan_nor_negative_values(tmp_path):
    values = np.zeros(SHAPE, "f4")
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0], values[3, 0, 0] = np.nan, np.inf, -0.5, 7
    for data in (values, values[..., None]):
        with pytest.warns(InputWarning, match="other than 0 and 1"):
            grid = files.read_mask(save(tmp_path / "m.nii", data))
        np.testing.assert_array_equal(np.argwhere(grid.mask), [[1, 0, 0], [3, 0, 0]])


def test_read_mask_refuses(tmp_path):
    with pytest.raises(FileError, match=r"mask .*m\.nii is empty: none of its 120 voxels"):
        files.read_mask(save(tmp_path / "m.nii", np.zeros(SHAPE, "u1")))
    with pytest.raises(FileError, match=r"none of its \d+ voxels is above 0.5; its largest value is 0.5"):
        files.read_mask(save(tmp_path / "m.nii", np.full(SHAPE, 0.5)))
    with pytest.raises(FileError, match="is empty"):
        files.read_mask(save(tmp_path / "m.nii", np.full(SHAPE, np.nan)))


def test_read_mask_takes_in_what_is_above_a_half(tmp_path):
    values = np.zeros(SHAPE)
    values[0, 0, :3] = 1
    assert files.read_mask(save(tmp_path / "m.nii", values)).n_voxels == 3
    values[1, 1, :3] = -1, np.nan, np.inf
    values[2, 2, :3] = 0.5, 0.50001, 0.3
    with pytest.warns(
        InputWarning, match=r"m\.nii holds values other than 0 and 1 \(-1 to inf and NaN\); its 5 voxels"
    ):
        mask = files.read_mask(save(tmp_path / "m.nii", values)).mask
    assert mask[1, 1].tolist()[:3] == [False, False, True]
    assert mask[2, 2].tolist()[:3] == [False, True, False]


def test_a_mask_of_one_label_is_as_clear_as_one_of_ones(tmp_path, recwarn):
    values = np.zeros((4, 3, 2))
    values[1:3] = 255
    save(tmp_path / "m.nii", values)
    assert files.read_mask(tmp_path / "m.nii").n_voxels == 12
    assert not recwarn.list


def test_read_mask_takes_the_first_volume(tmp_path):
    values = np.zeros((*SHAPE, 2), "u1")
    values[0, 0, 0, 0], values[1, ..., 1] = 1, 1
    with pytest.warns(InputWarning, match=r"m\.nii has 2 volumes; the first is used as the mask"):
        assert np.argwhere(files.read_mask(save(tmp_path / "m.nii", values)).mask).tolist() == [[0, 0, 0]]


# --------------------------------------------------------------------------------------------------- cohort


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "i8", "f4", "f8"])
def test_read_cohort_of_any_type(tmp_path, rng, grid, dtype, endian, suffix):
    stored = rng.integers(0, 100, size=(*SHAPE, 3)).astype(dtype)
    path = save(tmp_path / f"d{suffix}", stored, endian=endian, scale=(1, 0))
    data = files.read_cohort(path, grid)
    assert data.dtype == np.float32
    assert data.flags.c_contiguous
    np.testing.assert_array_equal(data, expected(path, grid.mask))
    np.testing.assert_array_equal(data[1], stored[..., 1].ravel("F")[grid.mask.ravel("F")])


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_read_cohort_with_slope_and_intercept(tmp_path, rng, grid, dtype, endian):
    stored = rng.integers(-3000, 3000, size=(*SHAPE, 3)).astype(dtype)
    path = save(tmp_path / "d.nii.gz", stored, scale=(0.0137, -12.5), endian=endian)
    data = files.read_cohort(path, grid)
    np.testing.assert_array_equal(data, expected(path, grid.mask).astype(np.float32))
    assert abs(data[0, 0] - (stored[..., 0].ravel("F")[grid.index[0]] * 0.0137 - 12.5)) < 1e-5


@pytest.mark.parametrize("name", ["d.hdr", "d.img.gz"])
def test_read_cohort_of_a_pair(tmp_path, rng, grid, name):
    path = save(tmp_path / name, rng.normal(size=(*SHAPE, 3)).astype("f4"), kind=nib.Nifti1Pair)
    np.testing.assert_array_equal(files.read_cohort(tmp_path / "d", grid), expected(path, grid.mask))


@pytest.mark.parametrize("case", ["two_group_ancova", "voxelwise_covariate", "one_sample_random"])
def test_read_cohort_of_a_case(case):
    grid = files.read_mask(CASES / case / "mask.nii.gz")
    np.testing.assert_array_equal(
        files.read_cohort(CASES / case / "data", grid), expected(CASES / case / "data.nii.gz", grid.mask)
    )


def test_read_cohort_of_several_images_keeps_their_order(tmp_path, rng, grid):
    volumes = rng.normal(size=(*SHAPE, 3)).astype("f4")
    save(tmp_path / "b.nii", volumes[..., 0])
    save(tmp_path / "a.nii.gz", volumes[..., 1])
    save(tmp_path / "c.nii", volumes[..., 2:])
    names = [tmp_path / name for name in "bac"]
    rows = volumes.reshape(-1, 3, order="F")[grid.index].T
    np.testing.assert_array_equal(files.read_cohort(names, grid), rows)
    np.testing.assert_array_equal(files.read_cohort(tmp_path / "?.nii*", grid), rows[[1, 0, 2]])


def test_read_cohort_reports_its_progress(tmp_path, grid):
    path = save(tmp_path / "d.nii", np.zeros((*SHAPE, 3), "i2"))
    seen = []
    files.read_cohort(path, grid, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_read_cohort_refuses_a_single_volume(tmp_path, grid):
    for data in (np.zeros(SHAPE, "f4"), np.zeros((*SHAPE, 1), "f4")):
        with pytest.raises(FileError, match=r"d\.nii has one volume; a 4D image with one volume per participant"):
            files.read_cohort(save(tmp_path / "d.nii", data), grid)


def test_read_cohort_refuses_several_4d_images(tmp_path, grid):
    names = [
        save(tmp_path / "a.nii", np.zeros(SHAPE, "f4")),
        save(tmp_path / "b.nii", np.zeros((*SHAPE, 2), "f4")),
    ]
    with pytest.raises(FileError, match=r"b\.nii has 2 volumes; of several images \(2 here\) each must have one"):
        files.read_cohort(names, grid)


def test_read_cohort_refuses_another_grid(tmp_path, grid):
    with pytest.raises(FileError, match=r"d\.nii has 5 × 6 × 5 voxels, the mask 5 × 6 × 4; .* same grid"):
        files.read_cohort(save(tmp_path / "d.nii", np.zeros((5, 6, 5, 2), "f4")), grid)


def test_read_cohort_refuses_absurd_headers(tmp_path, grid):
    path = save(tmp_path / "d.nii", np.ones((*SHAPE, 2), "f4"))
    good = path.read_bytes()
    for offset, number, match in (
        (108, 2.0**96, r"d\.nii (is truncated or damaged|is not an image)"),  # vox_offset
        (280, np.nan, r"d\.nii and the mask have different affines"),  # srow_x
        (70, 0, r"d\.nii cannot be read as an image"),  # datatype, of no image
    ):
        field = np.array(number, "<i2" if offset == 70 else "<f4").tobytes()
        path.write_bytes(good[:offset] + field + good[offset + len(field) :])
        with pytest.raises(FileError, match=match):
            files.read_cohort(path, grid)


def test_read_cohort_compares_affines_to_a_thousandth_of_a_voxel(tmp_path, grid):
    data = np.ones((*SHAPE, 2), "f4")
    shifted = AFFINE.copy()
    shifted[1, 3] += 0.0019  # voxels of 2 × 3 × 4 mm
    files.read_cohort(save(tmp_path / "d.nii", data, shifted), grid)
    shifted[1, 3] += 0.0002
    with pytest.raises(FileError, match="have different affines"):
        files.read_cohort(save(tmp_path / "d.nii", data, shifted), grid)
    shifted[1, 3] = -29.5
    path = save(tmp_path / "d.nii", data, shifted)
    match = (
        r"d\.nii and the mask have different affines, \[-2 0 0 26; 0 3 0 -29\.5; 0 0 4 -20\] and \[.* 0 3 0 -30;"
    )
    with pytest.raises(FileError, match=match):
        files.read_cohort(path, grid)
    files.read_cohort(path, Grid(grid.mask, grid.voxel_size))  # a mask that does not say where it lies
    files.read_cohort(save(tmp_path / "e.nii", data, None), grid)  # data that do not


def test_read_cohort_says_where_data_are_not_finite(tmp_path, grid):
    data = np.zeros((*SHAPE, 4), "f4")
    inside, outside = np.argwhere(grid.mask), np.argwhere(~grid.mask)
    data[(*outside[0], 0)] = np.nan
    assert files.read_cohort(save(tmp_path / "d.nii", data), grid).shape == (4, grid.n_voxels)
    data[(*inside[3], 2)], data[(*inside[9], 3)] = np.nan, -np.inf
    match = (
        rf"in 2 of the {grid.n_voxels} voxels that are analysed, first in volume 3 of .*d\.nii \(participant 3\)"
    )
    with pytest.raises(FileError, match=match):
        files.read_cohort(save(tmp_path / "d.nii", data), grid)
    names = [save(tmp_path / f"s{i}.nii", data[..., i]) for i in range(4)]
    with pytest.raises(
        FileError, match=r"in 2 of .*, first in volume 1 of .*s2\.nii \(participant 3\).*--missing vox"
    ):
        files.read_cohort(names, grid)


def test_read_cohort_refuses_what_float32_cannot_hold(tmp_path, grid):
    data = np.zeros((*SHAPE, 2))
    data[(*np.argwhere(grid.mask)[0], 1)] = 1e39
    with pytest.raises(FileError, match=r"not finite in 1 of .* volume 2.* or mend the image$"):
        files.read_cohort(save(tmp_path / "d.nii", data), grid)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_image(tmp_path, rng, grid, suffix):
    path = save(tmp_path / f"d{suffix}", rng.normal(size=(*SHAPE, 8)).astype("f4"))
    os.truncate(path, path.stat().st_size * 3 // 4)
    with pytest.raises(FileError, match=rf"d{suffix} is truncated or damaged: volume [67] of 8 cannot"):
        files.read_cohort(path, grid)


def test_a_damaged_gzip_file(tmp_path, rng, grid):
    path = save(tmp_path / "d.nii.gz", rng.normal(size=(*SHAPE, 99)).astype("f4"))
    good = path.read_bytes()
    half = len(good) // 2
    flipped, checksum = bytearray(good), bytearray(good)
    flipped[half] ^= 0x55
    checksum[-6] ^= 0x55
    overwritten = good[:half] + bytes([255]) * 2000 + good[half + 2000 :]
    for bad in (flipped, checksum, overwritten, good[:-8]):  # in the last, all the data are there
        path.write_bytes(bad)
        with pytest.raises(FileError, match=r"d\.nii\.gz is truncated or damaged: volume \d+ of 99 cannot"):
            files.read_cohort(path, grid)


@pytest.mark.parametrize("after", [b"trailing bytes", b"\0" * 700, b"\0\0x", b"\x1f", b"\x1f\x00" * 300000])
def test_what_follows_a_gzip_file_is_ignored(tmp_path, rng, grid, after):
    """Padding, as gzip and zlib do; members are one file, whole or refused."""
    path = save(tmp_path / "d.nii.gz", rng.normal(size=(*SHAPE, 9)).astype("f4"))
    truth, content = files.read_cohort(path, grid), gzip.decompress(path.read_bytes())
    half = len(content) // 2
    members = [gzip.compress(content[:half]), gzip.compress(content[half:])]
    for packed in ([gzip.compress(content)], members, [members[0], b"\0" * 5, members[1]]):
        path.write_bytes(b"".join(packed) + after)
        np.testing.assert_array_equal(files.read_cohort(path, grid), truth)
    path.write_bytes(members[0] + after)
    with pytest.raises(FileError, match=r"d\.nii\.gz is truncated or damaged: volume \d of 9 cannot"):
        files.read_cohort(path, grid)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_plain_file_called_gz_is_read(tmp_path, rng, grid, kind):
    path = save(tmp_path / "d.nii", rng.normal(size=(*SHAPE, 3)).astype("f4"), kind=kind)
    truth = files.read_cohort(path, grid)
    path.rename(tmp_path / "d.nii.gz")
    np.testing.assert_array_equal(files.read_cohort(tmp_path / "d", grid), truth)
    np.testing.assert_array_equal(files.read_header(tmp_path / "d").affine, AFFINE)


@pytest.mark.parametrize(
    ("kind", "offset", "least"),
    [
        (nib.Nifti1Image, 0, 352),
        (nib.Nifti1Image, 348, 352),
        (nib.Nifti1Image, -4, 352),
        (nib.Nifti2Image, 0, 544),
    ],
)
def test_data_within_the_header_are_refused(tmp_path, kind, offset, least):
    """nibabel takes an offset of 0 at its word, so that the header's bytes become voxels."""
    path = save(tmp_path / "d.nii", np.ones((*SHAPE, 2), "f4"), kind=kind)
    raw = bytearray(path.read_bytes())
    at, number = (108, np.array(offset, "<f4")) if least == 352 else (168, np.array(offset, "<i8"))
    raw[at : at + number.nbytes] = number.tobytes()
    path.write_bytes(raw)
    match = rf"d\.nii (has a vox_offset of {offset}.*byte {least} or|cannot be read as an image)"
    with pytest.raises(FileError, match=match):
        files.read_header(path)
    pair = save(tmp_path / "p.img", np.ones((*SHAPE, 2), "f4"), kind=nib.Nifti1Pair)
    assert files.read_cohort(pair, Grid(np.ones(SHAPE, bool))).all()  # in a pair they begin at 0


@pytest.mark.parametrize(("slope", "inter"), [(0, 5), (np.nan, 5), (np.nan, np.nan), (np.inf, 0), (0, 0)])
def test_a_slope_that_is_none_scales_nothing(tmp_path, grid, slope, inter):
    """As NIfTI-1 defines it for 0; what is not finite is taken for none."""
    path = save(tmp_path / "d.nii", np.arange(240, dtype="i2").reshape((*SHAPE, 2)), scale=(1, 0))
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, inter], "<f4").tobytes()
    path.write_bytes(raw)
    np.testing.assert_array_equal(files.read_cohort(path, grid), expected(path, grid.mask))
    assert files.read_cohort(path, Grid(np.ones(SHAPE, bool))).max() == 239
    raw[112:120] = np.array([2, np.nan], "<f4").tobytes()
    path.write_bytes(raw)
    with pytest.raises(FileError, match=r"d\.nii cannot be read as an image: Valid slope but invalid"):
        files.read_header(path)


def test_voxel_sizes_that_contradict_each_other_are_told(tmp_path):
    """nibabel reads a pixdim of 0 as 1, and millimetres follow pixdim."""
    path = save(tmp_path / "m.nii", np.ones(SHAPE, "u1"))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([0, 3, 4], "<f4").tobytes()
    path.write_bytes(raw)
    match = r"voxels of .*m\.nii are 1 × 3 × 4 mm by pixdim, 2 × 3 × 4 mm by its affine; pixdim is used"
    with pytest.warns(InputWarning, match=match):
        assert files.read_mask(path).voxel_size == (1, 3, 4)
    raw[80:92] = np.array([2.001, 3, 4], "<f4").tobytes()
    path.write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.read_mask(path)


@pytest.mark.parametrize(
    ("code", "units"), [(0, ""), (2, ""), (10, ""), (8, ""), (1, "metres"), (11, "micrometres")]
)
def test_units_other_than_millimetres_are_refused(tmp_path, code, units):
    path = save(tmp_path / "m.nii", np.ones(SHAPE, "u1"))
    raw = bytearray(path.read_bytes())
    raw[123] = code
    path.write_bytes(raw)
    if not units:
        assert files.read_mask(path).voxel_size == (2, 3, 4)
        return
    with pytest.raises(
        FileError, match=rf"m\.nii says that its voxels of 2 × 3 × 4 are in {units} \(xyzt_units\)"
    ):
        files.read_mask(path)


# --------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("endian", ["<", ">"])
def test_labels_are_whole_numbers_in_full_precision(tmp_path, endian):
    """Allen's atlas goes beyond what float32 tells apart, 2^24."""
    labels = np.zeros((*SHAPE, 2), "i4")
    labels[0], labels[1], labels[2] = 16777216, 16777217, 312782566
    for dtype in ("i4", "u4", "i8", "f8"):
        path = save(tmp_path / "l.nii.gz", labels.astype(dtype), endian=endian)
        read = list(files.read_labels(path))
        assert [volume.dtype for volume in read] == [np.int64] * 2
        np.testing.assert_array_equal(read[1], labels[..., 1].ravel("F"))
    assert (
        next(files.read_labels(save(tmp_path / "s.nii", np.full(SHAPE, 3, "i2"), scale=(2, 1)))).tolist()[0] == 7
    )


@pytest.mark.parametrize(
    ("dtype", "value", "match"),
    [
        ("f4", 0.5, "has values that are not whole numbers; labels are expected"),
        ("f4", np.nan, "has values that are not whole numbers; labels are expected"),
        ("f4", 312782566, "has labels up to 312782560; those from 16777216 on cannot be distinguished in it"),
        ("f4", -np.inf, "has labels up to inf; those from 16777216"),
        ("f8", 2.0**53, "has labels up to 9007199254740992; those from 9007199254740992 on"),
        ("u8", 2**63, "has labels up to 9223372036854775808; those from 9223372036854775808 on"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, dtype, value, match):
    path = save(tmp_path / "l.nii", np.full(SHAPE, value, dtype))
    with pytest.raises(FileError, match=rf"l\.nii {match}"):
        next(files.read_labels(path))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_cohort_is_never_held_whole(tmp_path, suffix):
    shape, n = (64, 64, 128), 60  # int16: 1 MiB a volume
    header = nib.Nifti1Header()
    header.set_data_dtype("<i2")
    header.set_data_shape((*shape, n))
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + np.arange(math.prod(shape), dtype="<i2").tobytes() * n
    path = tmp_path / f"d{suffix}"
    path.write_bytes(content if suffix == ".nii" else gzip.compress(content, 1))
    del content
    mask = np.zeros(shape, bool)
    mask[10:20, 10:20, 10:20] = True
    tracemalloc.start()
    data = files.read_cohort(path, Grid(mask))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.shape == (n, 1000)
    assert (data == data[0]).all()
    assert peak < 6 * 2**20


# ------------------------------------------------------------------------------------ automatic mask, maps


def test_automatic_mask_of_the_case_is_fsls():
    grid = files.automatic_mask(CASES / "no_mask" / "data")
    np.testing.assert_array_equal(grid.mask, nib.load(CASES / "no_mask" / "fsl_tstat1.nii.gz").get_fdata() != 0)
    assert grid.voxel_size == (2, 2, 2)
    np.testing.assert_array_equal(grid.affine[2], [0, 0, 2, -20])


def test_automatic_mask_drops_constant_voxels(tmp_path):
    data = np.zeros((*SHAPE, 3), "f4")
    data[1, 0, 0] = 5  # constant
    data[2, 0, 0] = 0, 0, 1e-20  # varies
    data[3, 0, 0] = -1, 1, 0  # varies about zero
    data[4, 0, 0] = np.nan  # constant
    data[0, 1, 0] = np.nan, np.nan, 1  # for read_cohort to complain about
    data[1, 1, 0] = 1, np.nan, 1
    seen = []
    grid = files.automatic_mask(save(tmp_path / "d.nii", data), progress=lambda *done: seen.append(done))
    assert grid.index.tolist() == [2, 3, 5, 6]
    assert seen[-1] == (3, 3)
    names = [save(tmp_path / f"s{i}.nii", data[..., i]) for i in range(3)]
    assert files.automatic_mask(names).index.tolist() == [2, 3, 5, 6]


def test_automatic_mask_refuses(tmp_path):
    path = save(tmp_path / "d.nii", np.ones((*SHAPE, 3), "f4"))
    with pytest.raises(FileError, match=r"no voxel of .*d\.nii varies over the 3 volumes"):
        files.automatic_mask(path)
    names = [
        save(tmp_path / "a.nii", np.ones(SHAPE, "f4")),
        save(tmp_path / "b.nii", np.ones((5, 6, 5), "f4")),
    ]
    with pytest.raises(FileError, match=r"b\.nii has 5 × 6 × 5 voxels, .*a\.nii 5 × 6 × 4"):
        files.automatic_mask(names)


def test_read_map(tmp_path, rng, grid):
    volume = rng.normal(size=SHAPE).astype("f4")
    np.testing.assert_array_equal(
        files.read_map(save(tmp_path / "a.nii", volume), grid), volume.ravel("F")[grid.index]
    )
    volume[tuple(np.argwhere(grid.mask)[4])] = np.nan
    with pytest.raises(FileError, match=rf"a\.nii is not finite in 1 of the {grid.n_voxels} voxels"):
        files.read_map(save(tmp_path / "a.nii", volume), grid)
    with pytest.raises(FileError, match=r"a\.nii has 5 × 6 × 1 voxels"):
        files.read_map(save(tmp_path / "a.nii", volume[..., :1]), grid)


# ------------------------------------------------------------------------------------------- writing images


@pytest.mark.parametrize("file_type", files.FILE_TYPES)
@pytest.mark.parametrize("volumes", [None, 3])
def test_write_and_read_again(tmp_path, rng, grid, file_type, volumes, monkeypatch):
    monkeypatch.setenv("FSLOUTPUTTYPE", file_type)
    values = rng.normal(size=(grid.n_voxels,) if volumes is None else (volumes, grid.n_voxels)).astype("f4")
    path = files.write_map(tmp_path / "out_tstat1", values, grid)
    header_suffix, data_suffix = files.FILE_TYPES[file_type]
    assert path == tmp_path / f"out_tstat1{header_suffix}"
    assert {p.name for p in tmp_path.iterdir()} == {f"out_tstat1{header_suffix}", f"out_tstat1{data_suffix}"}
    image = nib.load(path)
    assert image.get_data_dtype() == np.dtype("<f4")
    np.testing.assert_array_equal(image.affine, AFFINE)
    written = image.get_fdata()
    assert written.shape == (SHAPE if volumes is None else (*SHAPE, volumes))
    assert (written[~grid.mask] == 0).all()
    read = files.read_map if volumes is None else files.read_cohort
    np.testing.assert_array_equal(read(tmp_path / "out_tstat1", grid), values)


def test_headers_are_fsls_bit_by_bit(tmp_path):
    case = CASES / "two_group_ancova"
    header, grid = files.read_header(case / "data"), files.read_mask(case / "mask")
    label = files.Label("your_build_string_here")  # all that FSL says of itself
    for name in ("fsl_tstat1", "fsl_tfce_corrp_tstat2", "fsl_vox_p_tstat1", "fsl_glm_pe", "fsl_glm_varcope"):
        with gzip.open(case / f"{name}.nii.gz") as file:
            fsls = file.read()
        volumes = nib.load(case / f"{name}.nii.gz").get_fdata()
        values = grid.to_vector(volumes)
        with gzip.open(files.write_map(tmp_path / name, values, grid, header, label=label)) as file:
            assert file.read() == fsls


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_qform_and_sform_are_kept_with_their_codes(tmp_path, grid, kind):
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([-2, 3, 4]), [9, 8, 7])
    image = kind(np.ones((*SHAPE, 2), "f4"), None)
    image.set_qform(oblique, 1)
    image.set_sform(AFFINE, 4)
    nib.save(image, tmp_path / "d.nii")
    source = nib.load(tmp_path / "d.nii").header
    written = nib.load(files.write_map(tmp_path / "o", grid.index, grid, files.read_header(tmp_path / "d"))).header
    for key in files.GEOMETRY:
        np.testing.assert_array_equal(written[key], source[key].astype(written[key].dtype))
    assert (int(written["qform_code"]), int(written["sform_code"])) == (1, 4)
    np.testing.assert_allclose(written.get_qform(), oblique, atol=1e-5)


def test_without_header_the_grid_says_where_the_map_lies(tmp_path, grid):
    header = nib.load(files.write_map(tmp_path / "a", grid.index, grid)).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 2)
    header = nib.load(files.write_map(tmp_path / "b", grid.index, Grid(grid.mask, (2, 3, 4)))).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
    assert header.get_zooms() == (2, 3, 4)


def test_label(tmp_path, grid):
    label = files.Label("t, contrast 1", "t test", (17,), "patients > ctrl")
    header = nib.load(files.write_map(tmp_path / "a", grid.index, grid, label=label)).header
    assert header["descrip"].item() == b"t, contrast 1"
    assert header.get_intent() == ("t test", (17.0,), "patients > ctrl")
    files.Label("d" * 79, intent_name="i" * 15)
    with pytest.raises(ValueError, match=r"takes 80 bytes in a header; at most 79 are possible"):
        files.Label("−log₁₀ p" + "d" * 66)
    with pytest.raises(ValueError, match=r"takes 16 bytes in a header; at most 15 are possible"):
        files.Label(intent_name="i" * 16)
    cut = files.Label.cut("−log₁₀ p" + "d" * 66, "t test", (17,))  # of letters whole, as some take several bytes
    assert cut == files.Label("−log₁₀ p" + "d" * 65, "t test", (17,))
    assert files.Label.cut("d" * 78 + "−").descrip == "d" * 78
    with pytest.raises(ValueError, match=r"cannot store shape .*intent 'guess'"):
        files.write_map(tmp_path / "a", grid.index, grid, label=files.Label(intent="guess"))


def test_the_same_map_gives_the_same_bytes(tmp_path, rng, grid, monkeypatch):
    values = rng.normal(size=grid.n_voxels)
    first = files.write_map(tmp_path / "a", values, grid).read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert files.write_map(tmp_path / "b.nii.gz", values, grid).read_bytes() == first
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.nii.gz", "b.nii.gz"]


def test_write_map_refuses(tmp_path, grid, monkeypatch):
    with pytest.raises(ValueError, match=rf"values of shape \(3,\) are not on the {grid.n_voxels} voxels"):
        files.write_map(tmp_path / "a", np.zeros(3), grid)
    with pytest.raises(FileError, match=r"nowhere/a\.nii\.gz cannot be written: No such file or directory"):
        files.write_map(tmp_path / "nowhere" / "a", grid.index, grid)
    monkeypatch.setenv("FSLOUTPUTTYPE", "ANALYZE")
    with pytest.raises(FileError, match="FSLOUTPUTTYPE is ANALYZE; it must be one of NIFTI, NIFTI_GZ,"):
        files.write_map(tmp_path / "a", grid.index, grid)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("FSLOUTPUTTYPE", "")
    assert files.output_type() == "NIFTI_GZ"


FULL = """
import resource, sys
import numpy as np
from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.grid import Grid
folder, file_type = sys.argv[1:]
grid = Grid(np.ones((40, 40, 40), bool))
values = np.random.default_rng(0).normal(size=grid.n_voxels)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write = lambda: files.write_map(folder + "/a", values, grid, file_type=file_type)
if file_type == "text":
    write = lambda: files.write_column(folder + "/a.txt", values)
try:
    write()
except FileError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.parametrize("file_type", [*files.FILE_TYPES, "text"])
def test_a_full_disk_leaves_what_was_there(tmp_path, file_type):
    names = {"a.txt"} if file_type == "text" else {f"a{suffix}" for suffix in files.FILE_TYPES[file_type]}
    for name in names:
        (tmp_path / name).write_text("before")
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", FULL, str(tmp_path), file_type]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    data = "a.txt" if file_type == "text" else f"a{files.FILE_TYPES[file_type][1]}"
    assert run.stdout == f"{tmp_path / data} cannot be written: File too large"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(names, "before")


# ------------------------------------------------------------------------------------------------- matrices


@pytest.mark.parametrize(
    "path", sorted(CASES.glob("*/design.*")), ids=lambda path: f"{path.parent.name}{path.suffix}"
)
def test_read_matrix_of_the_cases(path):
    lines = path.read_text().split("/Matrix\n")[1].splitlines()
    matrix = files.read_matrix(path)
    assert matrix.dtype == np.float64
    assert matrix.tolist() == [[float(field) for field in line.split()] for line in lines]


@pytest.mark.parametrize(
    ("kind", "key"), [("mat", "Points"), ("con", "Contrasts"), ("fts", "Contrasts"), ("grp", "Points")]
)
def test_vest_round_trip(tmp_path, rng, kind, key):
    matrix = rng.normal(size=(5, 3)) * 10.0 ** rng.integers(-12, 12, size=(5, 3))
    matrix[0] = 0, -1, 1 / 3
    files.write_vest(tmp_path / "a", matrix, kind)
    np.testing.assert_array_equal(files.read_matrix(tmp_path / "a"), matrix)
    assert (
        (tmp_path / "a").read_text().startswith(f"/NumWaves 3\n/Num{key} 5\n\n/Matrix\n0 -1 0.3333333333333333\n")
    )


def test_write_vest_of_a_column_and_of_a_wrong_kind(tmp_path):
    files.write_vest(tmp_path / "a", [1, 1, 2], "grp")
    assert (tmp_path / "a").read_text() == "/NumWaves 1\n/NumPoints 3\n\n/Matrix\n1\n1\n2\n"
    with pytest.raises(ValueError, match="kind is 'txt'; it must be"):
        files.write_vest(tmp_path / "a", [[1]], "txt")


def test_contrast_names_and_other_lines_of_the_header(tmp_path):
    path = tmp_path / "design.con"
    path.write_bytes(
        b"/ContrastName1\tpatients > controls\r\n/ContrastName2  \r\n/NumWaves\t2\r\n/NumContrasts\t2\r\n"
        b"/PPheights\t\t1.0e+00\t1.0e+00\r\n/RequiredEffect\t1.2\t0.9\r\n\r\n"
        b"/Matrix\r\n1.0e+00 -1 \r\n\r\n-1\t+1.0\r\n"
    )
    matrix = files.read_named_matrix(path)
    assert matrix.values.tolist() == [[1, -1], [-1, 1]]
    assert matrix.row_names == ("patients > controls", "")
    assert matrix.column_names == ()
    files.write_vest(path, matrix.values, "con", names=["A > B", "B > A"])
    assert files.read_named_matrix(path).row_names == ("A > B", "B > A")


def test_participants_of_the_rows_of_a_design(tmp_path):
    path = tmp_path / "design.mat"
    files.write_vest(path, [[1, 0], [0, 1]], names=["sub-01", "MS  2"])
    matrix = files.read_named_matrix(path)
    assert matrix.row_names == ("sub-01", "MS 2")
    assert matrix.values.tolist() == [[1, 0], [0, 1]]
    path.write_text(path.read_text().replace("/NumPoints 2", "/NumPoints 1").replace("\n0 1\n", "\n"))
    with pytest.raises(FileError, match="has 1 rows, and names 2 participants"):
        files.read_matrix(path)


HEAD = "/NumWaves 2\n/NumPoints 3\n/Matrix\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("/NumWaves 2\n/NumPoints 3\n1 2\n", r"design\.mat has no /Matrix; a VEST file is expected"),
        (HEAD + "1 2\n3 x4\n5 6\n", r"design\.mat, line 5: 'x4' is not a finite number"),
        (HEAD + "1 2\n\n3 nan\n5 6\n", r"design\.mat, line 6: 'nan' is not a finite number"),
        (HEAD + "1 2\n3 1_0\n5 6\n", r"line 5: '1_0' is not a finite number"),
        (HEAD + "1 2\n3 1e999\n5 6\n", r"line 5: '1e999' is not a finite number"),
        (HEAD + "1,2\n3,4\n5,6\n", r"line 4: 1 numbers in the row; /NumWaves says 2"),
        (HEAD + "1 2\n3 4 7\n5 6\n", r"line 5: 3 numbers in the row; /NumWaves says 2"),
        (HEAD + "1 2\n3 4\n", r"design\.mat has 2 rows after /Matrix; /NumPoints says 3"),
        (HEAD, r"design\.mat has 0 rows after /Matrix; /NumPoints says 3"),
        ("/NumPoints 3\n/Matrix\n1\n", r"design\.mat has no /NumWaves before /Matrix"),
        ("/NumWaves 3\n/Matrix\n1\n", r"has neither /NumPoints nor /NumContrasts before /Matrix"),
        ("/NumWaves two\n/NumPoints 3\n/Matrix\n1\n", r"/NumWaves is 'two'; it must be a whole number"),
        ("/NumWaves 1\n/NumContrasts 0\n/Matrix\n", r"/NumContrasts is '0'; it must be a whole number"),
        ("/NumWaves 1\n/NumContrasts\n/Matrix\n1\n", r"/NumContrasts is ''; it must be a whole number"),
        ("", r"design\.mat is empty; a VEST matrix, or a table"),
        ("\0\1\2", r"design\.mat is not a text file"),
    ],
)
def test_read_matrix_refuses_vest(tmp_path, text, match):
    path = tmp_path / "design.mat"
    path.write_text(text)
    with pytest.raises(FileError, match=match):
        files.read_matrix(path)


def test_read_matrix_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match=r"design\.mat cannot be read: No such file or directory"):
        files.read_matrix(tmp_path / "design.mat")


@pytest.mark.parametrize(
    "text",
    [
        "age,sex\n1.5,-1\n2e3,+1\n",
        "\ufeffage, sex\r\n1.5, -1\r\n\r\n2000,1\r\n",
        'age\t"sex"\n1.5\t-1\n2000\t1\n',
    ],
)
def test_read_a_table(tmp_path, text):
    path = tmp_path / "design.csv"
    path.write_text(text, newline="", encoding="utf-8")
    matrix = files.read_named_matrix(path)
    assert matrix.values.tolist() == [[1.5, -1], [2000, 1]]
    assert matrix.column_names == ("age", "sex")
    assert matrix.row_names == ()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"design\.csv is empty; a VEST matrix, or a table"),
        (" \n\n", r"design\.csv is empty"),
        ("1,2\n3,4\n", r"starts with the numbers '1,2'; a table needs a header row"),
        ("age,age\n3,4\n", r"columns are called \['age', 'age'\]; the names must be unique and not empty"),
        (",age\n0,4\n", r"columns are called \['', 'age'\]; the names must be unique and not empty"),
        ("age,sex\n", r"design\.csv has a header row but no numbers"),
        ("age,sex\n1,2\n3\n", r"design\.csv, line 3: 1 numbers in the row; the header says 2"),
        ("age,sex\n1,2,3\n", r"design\.csv, line 2: 3 numbers in the row; the header says 2"),
        ("age,sex\n1,2\n\n3,\n", r"design\.csv, line 4: '' is not a finite number"),
        ("age,sex\n1,F\n", r"design\.csv, line 2: 'F' is not a finite number"),
        ("age,sex\n1,NA\n", r"design\.csv, line 2: 'NA' is not a finite number"),
    ],
)
def test_read_a_table_refuses(tmp_path, text, match):
    (tmp_path / "design.csv").write_text(text)
    with pytest.raises(FileError, match=match):
        files.read_matrix(tmp_path / "design.csv")


# ------------------------------------------------------------------------------ permutations, null maxima


@pytest.mark.parametrize("path", sorted(CASES.glob("*/fsl*perm_*.txt")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_permutations_of_the_cases(tmp_path, path):
    permutations = files.read_permutations(path)
    assert permutations.tolist() == [[float(field) for field in line.split()] for line in path.open()]
    files.write_permutations(tmp_path / "p.txt", permutations)
    assert (tmp_path / "p.txt").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", NULLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_null_maxima_of_the_cases(tmp_path, path):
    values = np.array([float(line) for line in path.open()])
    files.write_column(tmp_path / "n.txt", values)
    assert (tmp_path / "n.txt").read_bytes() == path.read_bytes()


def test_the_cases_are_there():
    assert min(len(DESIGNS), len(PERMUTATIONS), len(NULLS)) > 40


def test_plain_integers_and_flips(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("1 2 3\n3 1 2\n\n")
    assert files.read_permutations(path).tolist() == [[1, 2, 3], [3, 1, 2]]
    path.write_text("1 1 1\n-1 1.000000 -1\n")
    assert files.read_permutations(path).tolist() == [[1, 1, 1], [-1, 1, -1]]
    files.write_permutations(path, np.array([[1, -1]], dtype=np.int8))
    assert path.read_text() == "1.000000 -1.000000 \n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", r"p\.txt is empty; one permutation or sign flip per line is expected"),
        ("1 2 3\n1 2.5 3\n", r"p\.txt, line 2: 1 2\.5 3 is not a row of the numbers 1 to 3, each once"),
        ("1 2 3\n\n1 2 2\n", r"p\.txt, line 3: 1 2 2 is not a row of the numbers 1 to 3, each once"),
        ("0 1 2\n", r"p\.txt, line 1: 0 1 2 is not a row of the numbers 1 to 3"),
        ("1 1 1\n1 -1 1\n1 2 3\n", r"p\.txt, line 3: 1 2 3 is not a row of 1 and -1 only"),
        ("1 2 3\n1 2\n", r"p\.txt, line 2: 2 numbers in the row; the first row says 3"),
        ("1 2 3\n1 x 3\n", r"p\.txt, line 2: 'x' is not a finite number"),
    ],
)
def test_read_permutations_refuses(tmp_path, text, match):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(FileError, match=match):
        files.read_permutations(tmp_path / "p.txt")


# ------------------------------------------------------------------------------------------- writing, hashing


def overwrite(path, failure=None):
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        if failure is not None:
            raise failure


def test_atomic_leaves_the_old_file_on_failure(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for failure in (RuntimeError("stop"), KeyboardInterrupt()):
        with pytest.raises(type(failure)):
            overwrite(path, failure)
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]
    overwrite(path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "new")]


def test_write_json(tmp_path):
    path = tmp_path / "run.json"
    content = {
        "n": np.int64(3),
        "p": np.float32(0.5),
        "a": np.arange(2),
        "in": Path("x/y"),
        "ü": (1, None, True),
    }
    files.write_json(path, content)
    assert json.loads(path.read_text("utf-8")) == {
        "n": 3,
        "p": 0.5,
        "a": [0, 1],
        "in": "x/y",
        "ü": [1, None, True],
    }
    assert path.read_text("utf-8").startswith('{\n  "a": [\n')
    with pytest.raises(FileError, match=r"run\.json cannot be written: Out of range float values"):
        files.write_json(path, {"p": math.nan})
    with pytest.raises(FileError, match=r"run\.json cannot be written: .* cannot be represented in JSON"):
        files.write_json(path, {"p": object()})
    with pytest.raises(FileError, match=r"nowhere/run\.json cannot be written: No such file or directory"):
        files.write_json(tmp_path / "nowhere" / "run.json", {})


def test_hash_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.hash_file(tmp_path / "abc") == digest
    with pytest.raises(FileError, match=r"nothing cannot be read: No such file or directory"):
        files.hash_file(tmp_path / "nothing")


def test_check_output_root(tmp_path, monkeypatch):
    files.check_output_root(tmp_path / "fsl")
    assert not list(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    files.check_output_root("fsl")
    with pytest.raises(FileError, match=r"output .*none/fsl cannot be written: there is no folder .*none"):
        files.check_output_root(tmp_path / "none" / "fsl")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(FileError, match=r"no file can be created in \. \(Permission denied\)"):
        files.check_output_root("fsl")


def test_file_errors_are_value_errors():
    assert issubclass(FileError, ValueError)


# -- axes in another order or direction ----------------------------------------------------------------------------


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_images_of_the_same_voxels_are_read_in_the_order_of_the_mask(axes, flips, tmp_path):
    """nibabel reorients the same way; the data, the automatic mask of several images, single maps and labels."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, 2.5, 0.1, 7], [-2, 0, 0, 3], [0.1, 0, 3, -5], [0, 0, 0, 1.0]])
    shape = (3, 4, 5)
    mask = nib.Nifti1Image((rng.random(shape) < 0.7).astype("u1"), affine)
    data = nib.Nifti1Image(rng.normal(size=(*shape, 3)).astype("f4"), affine)
    labels = nib.Nifti1Image(rng.integers(0, 9, shape).astype("i2"), affine)
    turn = np.stack([axes, flips], axis=1).astype(float)
    for name, image in (("data", data), ("labels", labels)):
        nib.save(image.as_reoriented(turn), tmp_path / f"{name}.nii")
    nib.save(mask, tmp_path / "mask.nii")
    grid = files.read_mask(tmp_path / "mask.nii", files.read_header(tmp_path / "data.nii"))
    expected = grid.to_vector(data.get_fdata())
    same = axes == (0, 1, 2) and flips == (1, 1, 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(files.read_cohort(tmp_path / "data.nii", grid), expected)
        found = files.first_volumes(tmp_path / "data.nii", 2, grid.index) if same else expected[:2]
        np.testing.assert_array_equal(found, expected[:2])
        np.testing.assert_array_equal(
            files.read_map(tmp_path / "labels.nii", grid), grid.to_vector(labels.dataobj)
        )
        np.testing.assert_array_equal(
            files.read_label_map(tmp_path / "labels.nii", grid), grid.to_vector(labels.dataobj)
        )
    said = [str(one.message) for one in told if "reoriented exactly" in str(one.message)]
    assert len(said) == (0 if same else 3)


def test_several_images_take_the_place_of_the_first(tmp_path):
    rng = np.random.default_rng(0)
    first = nib.Nifti1Image(rng.normal(size=(3, 4, 5)), np.diag([-2, 2, 2, 1.0]))
    other = nib.Nifti1Image(rng.normal(size=(3, 4, 5)), np.diag([-2, 2, 2, 1.0]))
    nib.save(first, tmp_path / "a.nii")
    nib.save(other.as_reoriented(np.array([[2, 1], [0, -1], [1, 1.0]])), tmp_path / "b.nii")
    names = [tmp_path / "a.nii", tmp_path / "b.nii"]
    with pytest.warns(InputWarning, match=r"b\.nii has the voxels of .*a\.nii along exchanged or reversed axes"):
        grid = files.automatic_mask(names)
    assert grid.shape == (3, 4, 5)
    with pytest.warns(InputWarning):
        rows = files.read_cohort(names, grid)
    np.testing.assert_allclose(rows, [grid.to_vector(i.get_fdata()) for i in (first, other)], rtol=1e-6)


@pytest.mark.parametrize("wrong", ["shifted", "half a voxel", "rotated", "other size"])
def test_other_grids_are_refused_though_axes_are_turned(wrong, tmp_path):
    affine = np.diag([-2.0, 2, 2, 1])
    image = nib.Nifti1Image(np.ones((3, 4, 5), "f4"), affine)
    grid = Grid(np.ones((3, 4, 5), bool), (2.0, 2, 2), affine)
    turned = image.as_reoriented(np.array([[0, -1], [1, 1], [2, 1.0]]))
    place = turned.affine.copy()
    if wrong == "shifted":
        place[0, 3] += 2
    elif wrong == "half a voxel":
        place[1, 3] += 1
    elif wrong == "rotated":
        place[:2, :2] = np.array([[1.6, -1.2], [1.2, 1.6]])
    else:
        place[:3, :3] *= 1.1
    nib.save(nib.Nifti1Image(turned.get_fdata(), place), tmp_path / "a.nii")
    with pytest.raises(FileError, match="have different affines"):
        files.read_map(tmp_path / "a.nii", grid)


def test_maps_may_be_float64_with_another_value_outside(tmp_path):
    mask = np.zeros((2, 3, 1), dtype=bool)
    mask[1, 1:] = True
    path = files.write_map(tmp_path / "p.nii.gz", np.array([[0.1, 1e-300]]), Grid(mask), dtype="<f8", outside=1)
    image = nib.load(path)
    assert (image.shape, image.get_data_dtype()) == ((2, 3, 1, 1), np.float64)
    assert np.asarray(image.dataobj)[..., 0].tolist() == [[[1], [1], [1]], [[1], [0.1], [1e-300]]]
