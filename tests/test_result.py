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


def test_two_tests_of_one_name_are_told_apart(values):
    contrasts = pd.DataFrame([[-1, 1, 0], [1, -1, 0]], columns=list(DESIGN), index=["a", "a"])
    result = gpuvox.randomise(values, DESIGN, contrasts, n_permutations=10, seed=1)
    with pytest.raises(KeyError, match=r"2 tests are called 'a': tstat1 \(a\), tstat2 \(a\)"):
        result.maps["a", "t"]
    assert_array_equal(result.maps["tstat2", "t"], -result.maps["tstat1"])


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
    result = gpuvox.randomise(data, n_permutations=200, seed=1)
    assert "voxelwise: 1 voxel survives at p < 0.05" in repr(result)
    with pytest.raises(ValueError, match="it is not known where the voxels of this result are"):
        result.clusters("tstat1")


# -- clusters, pictures, reports ------------------------------------------------------------------------------------


def test_clusters_of_a_test(randomised, voxelwise):
    table = voxelwise.clusters("MS - HC", subpeaks=0)
    log_p, t = voxelwise.maps["MS - HC", "tfceFWE"], voxelwise.maps["MS - HC", "t"]
    assert table.voxels.sum() == (log_p > -np.log10(0.05)).sum()
    assert table.statistic[0] == pytest.approx(t.max())
    assert table.d[0] == pytest.approx(voxelwise.maps["MS - HC", "d"][t.argmax()])
    assert len(voxelwise.clusters("age")) == 0
    assert len(voxelwise.clusters("MS - HC", extent=1000)) == 0
    of_voxels = randomised.clusters("MS - HC", correction="voxFWE", subpeaks=0)
    assert of_voxels.voxels.sum() == (randomised.maps["vox_corrp_tstat1"] > 0.95).sum()
    with pytest.raises(ValueError, match="has no p-values 'clusterSizeFWE'; it has voxFWE, tfceFWE"):
        randomised.clusters("MS - HC", correction="clusterSizeFWE")
    with pytest.raises(TypeError, match="unknown option 'size'; there are p, extent"):
        randomised.clusters("MS - HC", size=3)


def test_regions_of_an_atlas(voxelwise, tmp_path):
    labels = np.ones(SHAPE, dtype=np.int16)
    labels[4:] = 2
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "atlas.nii.gz")
    (tmp_path / "names.tsv").write_text("index\tname\n1\tleft half\n2\tright half\n")
    table = voxelwise.clusters("MS - HC", atlas=tmp_path / "atlas.nii.gz", names=tmp_path / "names.tsv")
    assert table.peak_region[0] == "left half"


def test_a_picture(voxelwise, tmp_path):
    figure = voxelwise.plot("MS - HC", underlay=nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE))
    figure.savefig(tmp_path / "slices.png")
    assert (tmp_path / "slices.png").stat().st_size > 5000
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32), AFFINE), tmp_path / "anatomy.nii.gz")
    assert voxelwise.plot("age", underlay=tmp_path / "anatomy.nii.gz").axes


def test_the_report_of_a_result_has_the_values_of_participants(randomised, voxelwise, tmp_path):
    page = voxelwise.report(tmp_path / "vbm.html", subpeaks=0)
    assert "MS - HC" in page.read_text()
    values = pd.read_csv(tmp_path / "vbm" / "MSMinusHC_values.tsv", sep="\t")
    inside = voxelwise.maps["MS - HC", "tfceFWE"] > -np.log10(0.05)
    data = voxelwise.runs[0][1].inputs.data[:, inside]
    assert_allclose(values["mean"], data.mean(axis=1), rtol=1e-5)
    randomised.save(tmp_path / "run")
    assert gpuvox.report(tmp_path / "run").name == "run_report.html"
    found = gpuvox.clusters(tmp_path / "run_tfce_corrp_tstat1", tmp_path / "run_tstat1", subpeaks=0)
    expected = randomised.clusters("MS - HC", subpeaks=0)
    assert_allclose(found[["voxels", "p", "x"]].astype(float), expected[["voxels", "p", "x"]].astype(float))
    with pytest.raises(ValueError, match="1 - p is expected"):
        gpuvox.clusters(tmp_path / "run_tstat1")
    with pytest.raises(TypeError, match="unknown option 'size'; there are p, extent"):
        gpuvox.clusters(tmp_path / "run_tfce_corrp_tstat1", size=3)


def test_what_the_package_shows():
    assert {"voxelwise", "randomise", "study", "clusters", "report", "nilearn"} <= set(dir(gpuvox))
    assert all(getattr(gpuvox, name) is not None for name in dir(gpuvox))


# -- what randomise takes --------------------------------------------------------------------------------------------


def in_numbers(values, contrasts, **settings):
    return gpuvox.randomise(values, DESIGN.to_numpy(), contrasts, n_permutations=10, seed=1, **settings)


@pytest.mark.parametrize(
    ("contrasts", "weights", "names"),
    [
        (["MS - HC", "age"], [[-1, 1, 0], [0, 0, 1]], ["MS - HC", "age"]),
        ("(MS + HC)/2", [[0.5, 0.5, 0]], ["(MS + HC)/2"]),
        (["atrophy: HC - 2 * MS"], [[1, -2, 0]], ["atrophy"]),
        ({"slope": "-age", "weights": [0, 1, 0]}, [[0, 0, -1], [0, 1, 0]], ["slope", "weights"]),
    ],
)
def test_contrasts_in_the_names_of_the_columns(values, contrasts, weights, names):
    named = gpuvox.randomise(values, DESIGN, contrasts, n_permutations=10, seed=1)
    numbers = in_numbers(values, weights)
    assert [each.name for each in named.tested] == names
    for name, expected in numbers.maps.items():
        assert_array_equal(named.maps[name], expected)


def test_a_column_whose_name_is_no_word(values):
    frame = DESIGN.rename(columns={"MS": "group: MS", "HC": "3T-HC"})
    named = gpuvox.randomise(values, frame, ["group: MS", "`group: MS` - `3T-HC`"], n_permutations=10, seed=1)
    assert_array_equal(named.maps["tstat2"], in_numbers(values, [[0, 1, 0], [-1, 1, 0]]).maps["tstat2"])


@pytest.mark.parametrize(
    ("contrasts", "message"),
    [
        (["MS - PD"], "the contrast 'MS - PD' has 'PD', which is no column of the design; there are HC, MS, age"),
        (["MS * HC"], "cannot be read"),
        (["MS -"], "cannot be read"),
        (["MS = 2"], "is not a single sum of columns that is compared with 0"),
        (["MS - HC, age"], "is not a single sum"),
        (["a: MS", "a: HC"], "two contrasts have the same name"),
        ({"a": [1, 2]}, "has shape (2,); the design has 3 columns"),
        (["MS - MS"], "t-test 1"),
    ],
)
def test_contrasts_that_cannot_be_read(values, contrasts, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gpuvox.randomise(values, DESIGN, contrasts, n_permutations=10, seed=1)


def test_contrasts_in_names_need_a_design_that_has_them(values):
    with pytest.raises(ValueError, match="the columns of the design have no names"):
        in_numbers(values, ["MS - HC"])


def test_progress(values, capsys):
    seen = []
    gpuvox.randomise(values, DESIGN, "age", n_permutations=30, seed=1, progress=lambda *told: seen.append(told))
    assert seen[-1] == ("t-test 1", 30, 30)
    gpuvox.randomise(values, DESIGN, "age", n_permutations=30, seed=1, progress=True)
    assert "30/30" in capsys.readouterr().err
    with pytest.raises(TypeError, match="progress is 'yes'"):
        gpuvox.randomise(values, DESIGN, "age", progress="yes")


class Masker:
    """What nilearn's NiftiMasker does: voxels of a mask in the order of its array, z fastest."""

    def __init__(self, mask, scale=1.0):
        self.mask, self.scale, self.mask_img_ = mask, scale, None

    def fit(self, images=None):
        self.mask_img_ = nib.Nifti1Image(self.mask.astype(np.uint8), AFFINE)
        return self

    def transform(self, images):
        if isinstance(images, list):
            return np.stack([nib.load(each).get_fdata()[self.mask] for each in images]) * self.scale
        return images.get_fdata()[self.mask].T * self.scale

    def inverse_transform(self, rows):
        out = np.zeros((*SHAPE, len(rows)))
        out[self.mask] = rows.T
        return nib.Nifti1Image(out, AFFINE)


@pytest.fixture
def masker():
    return Masker(np.random.default_rng(4).random(SHAPE) > 0.3)


def test_a_masker_with_its_output(values, masker):
    """The maps are in the order of the masker, and its inverse makes the images of them that the result makes."""
    image, settings = nib.Nifti1Image(values, AFFINE), {"tfce": True, "n_permutations": 20, "seed": 1}
    rows = masker.fit().transform(image)
    result = gpuvox.randomise(rows, DESIGN, ["MS - HC"], mask=masker, **settings)
    plain = gpuvox.randomise(
        image, DESIGN, ["MS - HC"], mask=nib.Nifti1Image(masker.mask.astype(np.uint8), AFFINE), **settings
    )
    for name in ("tstat1", "tfce_corrp_tstat1", "tfce_tstat1"):
        expected = plain.volume(name)
        assert_array_equal(masker.inverse_transform(result.maps[name][None]).get_fdata()[..., 0], expected)
        assert_array_equal(result.volume(name), expected)
        assert_array_equal(result.image(name).get_fdata(), expected)
    of_kind = result.maps["MS - HC", "tfceFWE"]
    assert_array_equal(
        masker.inverse_transform(of_kind[None]).get_fdata()[..., 0],
        result.image("MS - HC", "tfceFWE").get_fdata(),
    )
    assert repr(result) == repr(plain)


def test_rows_of_voxelwise_covariates_are_in_the_order_of_the_masker(values, masker):
    """As images and as rows, of which the masker's order is another than that of the grid."""
    masker, rng, settings = (
        masker.fit(),
        np.random.default_rng(6),
        {"n_permutations": 2, "seed": 1, "mask": masker},
    )
    image, thickness = nib.Nifti1Image(values, AFFINE), nib.Nifti1Image(rng.normal(size=values.shape), AFFINE)
    rows, covariate = masker.transform(image), masker.transform(thickness)
    design, contrast = np.column_stack([DESIGN.to_numpy(float)[:, :2], np.zeros(12)]), np.array([[-1.0, 1, 0]])
    expected = gpuvox.randomise(image, design, contrast, voxelwise={2: thickness}, **settings).maps["tstat1"]
    mine = gpuvox.randomise(rows, design, contrast, voxelwise={2: covariate}, **settings).maps["tstat1"]
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(12)], "group": np.repeat(["MS", "HC"], 6)})
    frame = pd.DataFrame(covariate, index=table.participant_id)
    of_group = np.column_stack([table.group == "HC", table.group == "MS", np.zeros(12)]).astype(float)
    expected = gpuvox.randomise(rows, of_group, contrast, voxelwise={2: covariate}, **settings).maps["tstat1"]
    for given in (covariate, frame.iloc[::-1], thickness):
        result = gpuvox.voxelwise(
            rows, table, "group + gm", "MS - HC", voxelwise_covariates={"gm": given}, voxel=True, **settings
        )
        np.testing.assert_allclose(result.maps["MS - HC", "t"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="the voxelwise covariate 2 has 3 columns, and the masker"):
        gpuvox.randomise(rows, design, contrast, voxelwise={2: covariate[:, :3]}, **settings)


def test_a_masker_is_applied_to_images(values, tmp_path):
    masker = Masker(np.ones(SHAPE, dtype=bool), scale=3.0)
    names = [tmp_path / f"sub-{i:02d}.nii.gz" for i in range(12)]
    for i, name in enumerate(names):
        nib.save(nib.Nifti1Image(values[..., i], AFFINE), name)
    frame = DESIGN.set_axis([f"sub-{i:02d}" for i in range(12)])
    result = gpuvox.randomise(names, frame, "age", mask=masker, n_permutations=10, seed=1)
    assert_array_equal(
        result.inputs.data, 3 * gpuvox.randomise(names, frame, "age", n_permutations=2, seed=1).inputs.data
    )
    with pytest.raises(ValueError, match="row 1 of the design is sub-00"):
        gpuvox.randomise(names[::-1], frame, "age", mask=masker, n_permutations=10, seed=1)


def test_maskers_that_do_not_fit(values, masker):
    with pytest.raises(ValueError, match="the masker is not fitted"):
        gpuvox.randomise(np.ones((12, 5)), DESIGN, "age", mask=masker)
    rows = masker.fit().transform(nib.Nifti1Image(values, AFFINE))
    with pytest.raises(ValueError, match="cannot turn a row of 3 columns into an image"):
        gpuvox.randomise(rows[:, :3], DESIGN, "age", mask=masker)
    masker.inverse_transform = lambda rows: nib.Nifti1Image(np.ones((*SHAPE, 1)), AFFINE)
    with pytest.raises(ValueError, match="are not the voxels of its mask"):
        gpuvox.randomise(rows, DESIGN, "age", mask=masker)


def test_voxelwise_takes_a_masker_with_its_output(values, masker):
    rows = masker.fit().transform(nib.Nifti1Image(values, AFFINE))
    table = pd.DataFrame({"participant_id": [f"sub-{i:02d}" for i in range(12)]})
    table["group"] = np.repeat(["HC", "MS"], 6)
    result = gpuvox.voxelwise(rows, table, "group", "MS - HC", mask=masker, n_permutations=10, seed=1)
    for kind in ("t", "tfceFWE", "d"):
        mine = result.maps["MS - HC", kind]
        assert_array_equal(mine, result.map("MS - HC", kind))
        assert_array_equal(
            masker.inverse_transform(mine[None]).get_fdata()[..., 0], result.image("MS - HC", kind).get_fdata()
        )
    plain = gpuvox.randomise(values, DESIGN[["HC", "MS"]], "MS - HC", mask=masker.mask, n_permutations=10, seed=1)
    assert_array_equal(result.image("MS - HC", "t").get_fdata(), plain.image("MS - HC", "t").get_fdata())
