"""Images of `gpuvox.voxelwise` that are in memory: joined by id where they have ids, else by the rows of the table."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

import gpuvox
from gpuvox import files
from gpuvox.cohort.in_memory import join_in_memory, select_in_memory
from gpuvox.cohort.table import as_cohort
from gpuvox.reporter import Reporter
from tests.front_door import make_two_groups

SILENT = Reporter.silent()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_two_groups(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def expected(cohort):
    """Of the files by a template."""
    return analyse(cohort, f"{cohort.folder}/maps/{{participant_id}}_gm.nii.gz")


def analyse(cohort, images, **settings):
    settings = {"mask": cohort.folder / "mask.nii.gz", "n_permutations": 20, "seed": 1, **settings}
    return gpuvox.voxelwise(images, cohort.table, "group + age", ["MS - HC", "group"], **settings)


def grid_of(cohort):
    return files.read_mask(cohort.folder / "mask.nii.gz")


class Masker:
    """What is used of a fitted nilearn masker; its voxels are in numpy's order."""

    def __init__(self, path):
        self.mask_img_ = nib.load(path)

    def transform(self, values):
        return values[:, self.mask_img_.get_fdata() > 0]

    def inverse_transform(self, rows):
        inside = self.mask_img_.get_fdata() > 0
        volumes = np.zeros((*inside.shape, len(rows)), dtype=np.float32)
        volumes[inside] = rows.T
        return nib.Nifti1Image(volumes, self.mask_img_.affine)


def test_who_is_dropped_is_told_by_name(cohort):
    images = [None if row in (2, 5) else values for row, values in enumerate(cohort.values)]
    result = analyse(cohort, images, missing="drop", voxel=True, tfce=False)
    without = ", ".join(cohort.table.participant_id[[2, 5]])
    assert result.headline.startswith(f"voxelwise: 14 rows (without {without}), ")


def test_volumes_of_a_loaded_image_join_by_the_column_of_visits_of_the_table(tmp_path):
    table = pd.DataFrame({"participant_id": ["a", "a", "b", "b"], "visit": ["1", "2", "1", "2"]})
    order = [3, 0, 2, 1]
    table.iloc[order].assign(session="mri").to_csv(tmp_path / "maps.tsv", sep="\t", index=False)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 4), np.float32), np.eye(4)), tmp_path / "maps.nii.gz")
    joined = join_in_memory(nib.load(tmp_path / "maps.nii.gz"), as_cohort(table), SILENT)
    assert joined.volumes == {row: order.index(row) for row in range(4)}


def in_every_form(cohort):
    """The same images, however they are held, with the settings that go with them."""
    affine, grid = nib.load(cohort.folder / "mask.nii.gz").affine, grid_of(cohort)
    stack = np.moveaxis(cohort.values, 0, -1)
    rows = np.stack([grid.to_vector(values) for values in cohort.values])
    masker = Masker(cohort.folder / "mask.nii.gz")
    by_id = pd.DataFrame(rows, index=cohort.table.participant_id).iloc[::-1]
    return {
        "nibabel images": ([nib.Nifti1Image(values, affine) for values in cohort.values], {}),
        "4D nibabel image": (nib.Nifti1Image(stack, affine), {}),
        "4D array": (stack, {}),
        "3D arrays": (list(cohort.values), {}),
        "rows on a grid": (rows, {"mask": grid}),
        "rows by id": (by_id, {"mask": grid}),
        "nilearn masker": (masker.transform(cohort.values), {"mask": masker}),
    }


@pytest.mark.parametrize(
    "form",
    [
        "nibabel images",
        "4D nibabel image",
        "4D array",
        "3D arrays",
        "rows on a grid",
        "rows by id",
        "nilearn masker",
    ],
)
def test_every_form_gives_the_maps_of_the_files(cohort, expected, form):
    images, settings = in_every_form(cohort)[form]
    result = analyse(cohort, images, **settings)
    for kind in ("t", "tfceFWE"):
        mine, theirs = (each.image("MS - HC", kind).get_fdata() for each in (result, expected))
        assert_array_equal(mine, theirs)  # maps of a masker are in its order
    if form == "4D nibabel image":
        result.save(cohort.folder / "saved")
        assert list(pd.read_csv(cohort.folder / "saved" / "participants.tsv", sep="\t")) == list(cohort.table)


def test_rows_without_places_are_tested_by_voxel_only(cohort, expected):
    rows = np.stack([grid_of(cohort).to_vector(values) for values in cohort.values])
    with pytest.raises(ValueError, match="no mask defines the positions of the 120 voxels, which TFCE needs"):
        analyse(cohort, rows, mask=None)
    result = analyse(cohort, rows, mask=None, voxel=True, tfce=False)
    assert_array_equal(result.maps["MS - HC", "t"], expected.maps["MS - HC", "t"])


def test_a_subset_takes_the_images_of_its_rows(cohort):
    affine = np.eye(4)
    stack = np.moveaxis(cohort.values, 0, -1)
    rows = np.flatnonzero(cohort.table.sex == "F").tolist()
    table = as_cohort(cohort.table)
    for held in (nib.Nifti1Image(stack, affine), stack, stack.reshape(-1, len(table)).T, list(cohort.values)):
        images = join_in_memory(held, table, SILENT).at(rows)
        chosen = select_in_memory(images, range(len(rows)))
        if isinstance(chosen, list):
            values = np.stack(chosen, axis=-1)
        else:
            values = np.asanyarray(chosen.dataobj) if hasattr(chosen, "dataobj") else chosen
        values = values.T if values.ndim == 2 else values
        assert_array_equal(values.reshape(stack[..., rows].shape), stack[..., rows])


def test_what_has_ids_is_joined_by_them(cohort):
    table = as_cohort(cohort.table)
    rows = cohort.values.reshape(len(table), -1)
    frame = pd.DataFrame(rows, index=[name.removeprefix("sub-") for name in table.ids]).iloc[::-1].iloc[3:]
    images = join_in_memory(frame, table, SILENT)
    assert len(images.missing) == 3
    there = images.ordered(sorted(images.volumes))
    assert_array_equal(select_in_memory(images, there), rows[there])
    with pytest.raises(ValueError, match="have no participant in common"):
        join_in_memory(frame.rename(index=lambda name: f"patient-{name}"), table, SILENT)
    counted = join_in_memory(pd.DataFrame(rows), table, SILENT)  # 0, 1, 2 … are no ids
    assert_array_equal(select_in_memory(counted, range(16)), rows)
    loaded = [nib.load(cohort.folder / "maps" / f"{name}.nii.gz") for name in cohort.names]
    assert not join_in_memory([*loaded[:-1], None], table, SILENT).paths
    with pytest.raises(ValueError, match="row 1 of the table is"):
        join_in_memory(loaded[::-1], table, SILENT)
    made = nib.Nifti1Image(cohort.values[-1], loaded[-1].affine)  # of no file
    with pytest.raises(ValueError, match="row 1 of the table is"):
        join_in_memory([*loaded[:-1][::-1], made], table, SILENT)
    with pytest.raises(ValueError, match="there are 15 images, and 16 rows in the table"):
        join_in_memory(loaded[:-1], table, SILENT)
    with pytest.raises(ValueError, match=r"the images have shape \(8, 7, 6\)"):
        join_in_memory(cohort.values[0], table, SILENT)


def test_images_are_read_once_whatever_the_number_of_runs(cohort, monkeypatch):
    """t tests, F tests and means are three runs of randomise on the same images."""
    calls = []
    original = files.read_cohort
    monkeypatch.setattr(files, "read_cohort", lambda *a, **k: calls.append(a) or original(*a, **k))
    images = f"{cohort.folder}/maps/{{participant_id}}_gm.nii.gz"
    common = {"mask": cohort.folder / "mask.nii.gz", "n_permutations": 5, "seed": 1}
    gpuvox.voxelwise(images, cohort.table, "group", ["MS - HC", "group", "MS"], **common)
    assert len(calls) == 1


def test_a_volume_without_weight_may_be_nan():
    values = np.float32([[1, 2], [np.nan, np.inf], [3, 5]])
    weights = np.array([[0.5, 0, 0.5], [1, 0, 0]])
    assert_array_equal(files.weighted_sums(values, weights), [[2, 3.5], [1, 2]])
    stack = np.moveaxis(values.reshape(3, 2, 1, 1), 0, 3)
    image = files.combined_volumes(nib.Nifti1Image(stack, np.eye(4)), weights)
    assert_array_equal(np.asanyarray(image.dataobj), np.float32([[2, 1], [3.5, 2]]).reshape(2, 1, 1, 2))
