"""`gpuvox.nilearn` against nilearn itself: the same statistics, and where permutations can be listed the same p."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpuvox.nilearn as ours

pytest.importorskip("nilearn")
from nilearn.glm import second_level
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_least_squares as theirs

SHAPE = (7, 6, 5)
AFFINE = np.diag([3.0, 3, 3, 1])
pytestmark = pytest.mark.filterwarnings("ignore")


class Listed:
    """In place of the random numbers of nilearn: all permutations, or flips, but the first."""

    def __init__(self, n, flips=False):
        rows = itertools.product((1, -1), repeat=n) if flips else itertools.permutations(range(n))
        self.rows, self.before = [np.array(row) for row in rows][1:], None
        self.place = 0

    @property
    def n_perm(self):
        return len(self.rows)

    def __call__(self, seed):
        return self

    def permutation(self, n):
        """nilearn permutes what it permuted before."""
        before = np.arange(n) if self.place == 0 else self.rows[self.place - 1]
        wanted = self.rows[self.place]
        self.place += 1
        return np.argsort(before)[wanted]

    def randint(self, low, high=None, size=None):
        if size is None:
            return 1
        before = np.ones(len(self.rows[0])) if self.place == 0 else self.rows[self.place - 1]
        wanted = self.rows[self.place]
        self.place += 1
        return ((before * wanted)[:, None] > 0).astype(int)


@pytest.fixture
def listed(monkeypatch):
    def begin(n, flips=False):
        rng = Listed(n, flips)
        monkeypatch.setattr(theirs, "check_random_state", rng)
        return rng.n_perm

    return begin


@pytest.fixture(scope="module")
def masker():
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:6, 1:5, 1:5] = 1
    mask[2, 2, 2] = 0
    return NiftiMasker(mask_img=nib.Nifti1Image(mask, AFFINE), standardize=None).fit()


def data_of(n, V, seed=0, effect=None):
    values = np.random.default_rng(seed).normal(size=(n, V))
    if effect is not None:
        values[:, : V // 3] += 2 * np.asarray(effect)[:, None]
    return values.astype(np.float32).astype(float)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("confounds", [0, 1])
def test_all_permutations_of_a_regressor(listed, two_sided, confounds):
    rng = np.random.default_rng(1)
    x, Z = rng.normal(size=6), rng.normal(size=(6, confounds)) if confounds else None
    Y = data_of(6, 30, effect=x)
    settings = {"n_perm": listed(6), "two_sided_test": two_sided}
    expected = theirs.permuted_ols(x, Y, Z, **settings)
    found = ours.permuted_ols(x, Y, Z, **settings)
    assert_allclose(found["t"], expected["t"], rtol=1e-5)
    assert_allclose(found["logp_max_t"], expected["logp_max_t"], atol=1e-9)
    assert_allclose(found["h0_max_t"], np.sort(expected["h0_max_t"]), rtol=1e-4)


@pytest.mark.parametrize("two_sided", [True, False])
def test_all_flips_of_a_constant(listed, two_sided):
    Y, ones = data_of(6, 30, seed=3) + 0.6, np.ones((6, 1))
    settings = {"n_perm": listed(6, flips=True), "two_sided_test": two_sided}
    expected = theirs.permuted_ols(ones, Y, **settings)
    found = ours.permuted_ols(ones, Y, **settings)
    assert_allclose(found["t"], expected["t"], rtol=1e-5)
    assert_allclose(found["logp_max_t"], expected["logp_max_t"], atol=1e-9)


@pytest.mark.parametrize("two_sided", [True, False])
def test_clusters_and_tfce_of_the_unpermuted_map(masker, two_sided):
    x = np.repeat([0.0, 1], 8)
    Y = data_of(16, 79, seed=5, effect=x)
    settings = {"masker": masker, "tfce": True, "threshold": 0.02, "n_perm": 40, "two_sided_test": two_sided}
    expected = theirs.permuted_ols(x, Y, random_state=1, **settings)
    found = ours.permuted_ols(x, Y, random_state=1, **settings)
    assert set(found) == set(expected)
    for key in ("t", "size", "mass", "tfce"):
        assert found[key].shape == expected[key].shape
        assert_allclose(found[key], expected[key], rtol=2e-5, atol=1e-5, err_msg=key)
    assert found["size"].max() > 5
    assert found["size"].dtype == expected["size"].dtype
    for key in ("logp_max_t", "logp_max_size", "logp_max_mass", "logp_max_tfce"):
        assert found[key].shape == (1, 79)
        assert found[key].max() == pytest.approx(np.log10(41))


def test_the_nulls_of_clusters_are_those_of_all_permutations(listed, masker):
    """Sizes and masses of every permutation; the p of both count the unpermuted data, which nilearn's do not."""
    x = np.random.default_rng(8).normal(size=6)
    Y = data_of(6, 79, seed=7, effect=x)
    settings = {"masker": masker, "threshold": 0.1, "n_perm": listed(6), "two_sided_test": True}
    expected, found = theirs.permuted_ols(x, Y, **settings), ours.permuted_ols(x, Y, **settings)
    for key in ("size", "mass"):
        assert_allclose(found[f"h0_max_{key}"], np.sort(expected[f"h0_max_{key}"]), rtol=1e-4, atol=1e-4)
        null, values = expected[f"h0_max_{key}"][0], found[key][0]
        above = (null[None] >= values[:, None] * (1 - 1e-6)).sum(axis=1) + 1
        assert_allclose(found[f"logp_max_{key}"][0], -np.log10(above / 720), atol=1e-9)


def test_several_regressors_share_their_permutations():
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(12, 2)), data_of(12, 20)
    expected = theirs.permuted_ols(X, Y, n_perm=500, random_state=0)
    found = ours.permuted_ols(X, Y, n_perm=500, random_state=0)
    assert_allclose(found["t"], expected["t"], rtol=1e-5)
    assert found["h0_max_t"].shape == (2, 500)
    p, q = 10 ** -found["logp_max_t"], 10 ** -expected["logp_max_t"]
    assert np.abs(p - q).max() < 5 * np.sqrt(2 * 0.25 / 500)


def test_without_permutations_and_the_older_form():
    Y, x = data_of(10, 9), np.arange(10.0)
    assert set(ours.permuted_ols(x, Y, n_perm=0)) == {"t"}
    log_p, t, null = ours.permuted_ols(x, Y, n_perm=20, output_type="legacy", random_state=3)
    again = ours.permuted_ols(x, Y, n_perm=20, random_state=3, n_jobs=-1)
    assert_array_equal(log_p, again["logp_max_t"])
    assert_array_equal(t, again["t"])
    assert_array_equal(null, again["h0_max_t"])


# -- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Twelve images, a design of two groups and age, and a mask."""
    folder, rng = tmp_path_factory.mktemp("nilearn"), np.random.default_rng(0)
    group = np.repeat([0.0, 1], 6)
    design = pd.DataFrame({"HC": 1 - group, "MS": group, "age": rng.normal(size=12)})
    paths = []
    for i in range(12):
        values = rng.normal(size=SHAPE) + 2
        values[2:4, 2:4, 2:4] += 3 * group[i]
        paths.append(str(folder / f"sub-{i:02d}_con.nii.gz"))
        nib.save(nib.Nifti1Image(values.astype(np.float32), AFFINE), paths[-1])
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:6, 1:5, 1:4] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "mask.nii.gz")
    return paths, design, str(folder / "mask.nii.gz")


def both(*arguments, **settings):
    found = ours.non_parametric_inference(*arguments, n_perm=10, threshold=0.05, **settings)
    return found, second_level.non_parametric_inference(*arguments, n_perm=10, threshold=0.05, **settings)


@pytest.mark.parametrize("contrast", ["age", "MS - HC"])
@pytest.mark.parametrize("fwhm", [None, 5.0])
def test_images_of_a_design(cohort, contrast, fwhm):
    """The statistic of one weight, and of a difference of groups whose indicators span the constant."""
    paths, design, mask = cohort
    settings = {"design_matrix": design, "second_level_contrast": contrast, "mask": mask, "smoothing_fwhm": fwhm}
    if contrast == "age":
        settings["design_matrix"] = design.drop(columns="HC")
    found, expected = both(paths, **settings)
    assert list(found) == list(expected)
    for key in ("t", "size", "mass"):
        assert_allclose(found[key].get_fdata(), expected[key].get_fdata(), rtol=1e-4, atol=1e-5, err_msg=key)
        assert_array_equal(found[key].affine, expected[key].affine)


def test_forms_of_the_images(cohort, masker):
    paths, design, mask = cohort
    settings = {"design_matrix": design, "second_level_contrast": "MS - HC", "n_perm": 20, "random_state": 2}
    expected = ours.non_parametric_inference(paths, mask=mask, **settings).get_fdata()
    table = pd.DataFrame(
        {"subject_label": [f"{i:02d}" for i in range(12)], "map_name": "con", "effects_map_path": paths}
    )
    other = table.assign(map_name="other")
    loaded = [nib.load(path) for path in paths]
    forms = {
        "images": (loaded, {}), "series": (pd.Series(paths), {}), "4D": (nib.concat_images(loaded), {}),
        "table": (pd.concat([table, other]).iloc[::-1], {"first_level_contrast": "con"}),
    }  # fmt: skip
    for name, (source, more) in forms.items():
        found = ours.non_parametric_inference(source, mask=mask, **settings, **more)
        assert_array_equal(found.get_fdata(), expected, err_msg=name)
    found = ours.non_parametric_inference(paths, mask=NiftiMasker(mask, standardize=None), **settings)
    assert_allclose(found.get_fdata(), expected, atol=1e-6)
    smooth = {"design_matrix": design, "second_level_contrast": "age", "n_perm": 0, "smoothing_fwhm": 6.0}
    by_masker = ours.non_parametric_inference(paths, mask=NiftiMasker(mask, standardize=None), **smooth)["t"]
    by_gpuvox = ours.non_parametric_inference(paths, mask=mask, **smooth)["t"]
    assert_allclose(by_gpuvox.get_fdata(), by_masker.get_fdata(), atol=1e-4)


def test_images_that_are_stored_along_other_axes_than_the_mask_are_smoothed_where_they_are(cohort, tmp_path):
    paths, design, mask = cohort
    turned, step = [], np.diag([-1.0, 1, 1, 1])
    step[0, 3] = SHAPE[0] - 1
    for path in paths:
        image = nib.load(path)
        turned.append(str(tmp_path / f"turned_{len(turned)}.nii.gz"))
        nib.Nifti1Image(image.get_fdata()[::-1], image.affine @ step).to_filename(turned[-1])
    settings = {"design_matrix": design, "second_level_contrast": "age", "mask": mask, "n_perm": 0}
    found = [ours.non_parametric_inference(each, smoothing_fwhm=6.0, **settings)["t"] for each in (paths, turned)]
    assert_allclose(found[1].get_fdata(), found[0].get_fdata(), atol=1e-6)


def test_images_in_another_order_than_the_design(cohort):
    paths, design, mask = cohort
    design = design.set_axis([f"sub-{i:02d}" for i in range(12)])
    with pytest.raises(ValueError, match="row 1 of design_matrix is sub-00"):
        ours.non_parametric_inference(
            paths[::-1], design_matrix=design, second_level_contrast="age", mask=mask, n_perm=5
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"second_level_contrast": "MS"}, "cannot be estimated"),
        ({"second_level_contrast": "PD"}, "no column of the design; there are HC, MS, age"),
        ({}, "second_level_contrast is needed"),
        ({"second_level_contrast": "age", "confounds": pd.DataFrame()}, "confounds are columns of design_matrix"),
        ({"second_level_contrast": [0, 0, 0]}, "all weights"),
        ({"second_level_contrast": "age", "threshold": 2.3}, "threshold is 2.3; a p-value"),
        ({"second_level_contrast": "age", "n_jobs": 0}, "n_jobs"),
        ({"second_level_contrast": "age", "design_matrix": None}, "design_matrix is NoneType"),
    ],
)
def test_refused_in_a_sentence(cohort, settings, message):
    paths, design, mask = cohort
    with pytest.raises(ValueError, match=message):
        ours.non_parametric_inference(paths, **{"design_matrix": design, "mask": mask, "n_perm": 5, **settings})


# -- where nilearn is wrong -----------------------------------------------------------------------------------------


def test_a_contrast_of_several_weights_is_tested_as_what_it_says():
    """Two covariates with the same slope: nilearn leaves their sum out of the model, and finds a difference."""
    rng = np.random.default_rng(0)
    n, V = 40, 50
    a, b = rng.normal(size=n), 3 * rng.normal(size=n)
    Y = np.outer(a + b, np.ones(V)) + rng.normal(size=(n, V))
    wrong = theirs.permuted_ols(a - b, Y, n_perm=99, random_state=0, two_sided_test=True)
    masker = NiftiMasker(nib.Nifti1Image(np.ones((V, 1, 1), np.uint8), np.eye(4)), standardize=None).fit()
    image = masker.inverse_transform(Y)
    right = ours.non_parametric_inference(
        image, design_matrix=pd.DataFrame({"a": a, "b": b}), second_level_contrast="a - b",
        mask=masker, n_perm=99, random_state=0, two_sided_test=True,
    )  # fmt: skip
    assert wrong["logp_max_t"].min() == pytest.approx(2)
    assert right.get_fdata().max() < 1.3
