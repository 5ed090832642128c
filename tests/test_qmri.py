"""Iron and myelin: the published law and model written out, round trips, and refusals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from gpuvox.errors import FileError, InputError
from gpuvox.qmri import (
    FieldConversion,
    Inversion,
    Share,
    TissueModel,
    check_jacobian,
    modulate,
    shares,
    smooth,
    tissue_r1,
    voxelwise_conversion,
)
from tests.cuda_on_cpu.shim import CXX, ShimDevice

MODEL = TissueModel.default()


def cohort(n=5000, seed=0):
    """Iron and myelin of deep gray matter, and what is measured: QSM, and R1 at 3 T."""
    rng = np.random.default_rng(seed)
    iron, myelin = rng.uniform(-200, 1200, n), rng.uniform(-0.05, 0.5, n)
    qsm, r1 = MODEL.relative_to(-0.02, 1 / 4.329).forward(iron, myelin)
    conversion = FieldConversion(7, 3, "curve")
    return iron, myelin, qsm, conversion(r1)


# -- the model ------------------------------------------------------------------------------------------------------


def test_the_default_model_is_the_published_one():
    iron, myelin = np.array([0.0, 300, 800]), np.array([0.0, 0.2, 0.4])
    qsm, r1 = MODEL.forward(iron, myelin)
    np.testing.assert_allclose(qsm, 1.43e-4 * iron - 6.85e-2 * myelin - 2.5e-2)
    np.testing.assert_allclose(r1, 2.23e-4 * iron + 1.07 * myelin - 1.13)
    assert MODEL.field == 7
    assert "NeuroImage 2014" in MODEL.citation
    assert np.linalg.cond(np.array([MODEL.qsm[:2], MODEL.r1[:2]])) == pytest.approx(6.8e3, rel=0.02)


@pytest.mark.parametrize("constants", [(0, 0), (-0.02, 0.231)])
def test_round_trip(constants):
    model = MODEL.relative_to(*constants)
    iron, myelin = np.random.default_rng(0).uniform([[-500], [-1]], [[2000], [1]], (2, 1000))
    again = model.inverse(*model.forward(iron, myelin))
    np.testing.assert_allclose(again[0], iron, atol=1e-6 * 2000)
    np.testing.assert_allclose(again[1], myelin, atol=1e-6)


def test_every_r1_of_tissue_relative_to_csf_is_plausible():
    """The constants as printed give negative rates; CSF's own do not."""
    iron, myelin = np.meshgrid([0, 300, 800, 1200], [0, 0.2, 0.4])
    assert (MODEL.forward(iron, myelin)[1] < 0).all()
    r1 = MODEL.relative_to(0, tissue_r1("csf", 7)).forward(iron, myelin)[1]
    assert ((r1 > 0.2) & (r1 < 2)).all()


def test_intercepts_cancel_after_referencing():
    """Whatever the model's constants, iron and myelin relative to CSF are the same."""
    iron, myelin, qsm, r1 = cohort()
    csf = np.zeros(len(qsm), dtype=np.uint8)
    csf[:50] = 1
    found = []
    for model in (MODEL, MODEL.relative_to(0.3, -2.0)):
        inversion = Inversion(model, FieldConversion(3, 7, "curve"))
        qsm32, r1_32 = qsm.astype(np.float32), r1.astype(np.float32)
        mean, count = inversion.means(qsm32, r1_32, csf)
        assert count == 50
        found.append(inversion.invert(qsm32, r1_32, tuple(mean)))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6 * 1200)
    np.testing.assert_allclose(found[0][0], iron - iron[:50].mean(), atol=0.05)  # float32 of the images
    np.testing.assert_allclose(found[0][1], myelin - myelin[:50].mean(), atol=1e-5)


def test_whole_maps_are_the_formula_in_float64():
    _, _, qsm, r1 = cohort()
    conversion, jacobian = (
        FieldConversion(3, 7),
        np.random.default_rng(1).uniform(0.5, 2, len(qsm)).astype(np.float32),
    )
    qsm32, r1_32 = qsm.astype(np.float32), r1.astype(np.float32)
    maps = Inversion(MODEL, conversion).invert(qsm32, r1_32, (10.0, -0.5), jacobian)
    iron, myelin = MODEL.inverse(qsm32, conversion(r1_32))
    expected = [iron - 10, myelin + 0.5, (iron - 10) * jacobian, (myelin + 0.5) * jacobian]
    for ours, theirs in zip(maps, expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())
    np.testing.assert_array_equal(
        modulate(maps[0], jacobian), (maps[0].astype(float) * jacobian).astype(np.float32)
    )


def test_background_stays_background():
    nan, inf = np.nan, np.inf
    qsm = np.array([0.1, nan, 0.1, 0.0, 0.0, inf, 0.1, 0.1], dtype=np.float32)
    r1 = np.array([0.0, 0.5, nan, 0.5, 0.0, 0.5, inf, -0.1], dtype=np.float32)
    jacobian = np.where(np.arange(8) == 3, 2.0, [nan, inf] * 4).astype(np.float32)
    maps = Inversion(MODEL).invert(qsm, r1, (1.0, 1.0), jacobian)
    assert (maps[:, [0, 1, 2, 4, 5, 6, 7]] == 0).all()
    assert (maps[:, 3] != 0).all()  # to the arithmetic a susceptibility of 0 is a measurement
    mean, count = Inversion(MODEL).means(qsm, r1, np.ones(8, dtype=np.uint8))
    assert count == 1
    np.testing.assert_allclose(mean, MODEL.inverse(0.0, 0.5))
    assert np.isnan(Inversion(MODEL).means(qsm, r1, np.zeros(8, dtype=np.uint8))[0]).all()


def test_propagated_variances_are_those_of_many_draws():
    rng = np.random.default_rng(0)
    inversion = Inversion(MODEL, FieldConversion(3, 7, "curve"))
    r1, sd = 0.9, (0.004, 0.01)
    qsm_draws, r1_draws = rng.normal(0.05, sd[0], 200_000), rng.normal(r1, sd[1], 200_000)
    iron, myelin = MODEL.inverse(qsm_draws, inversion.conversion(r1_draws))
    expected = inversion.variances(r1, sd[0] ** 2, sd[1] ** 2)
    np.testing.assert_allclose([iron.var(), myelin.var()], np.ravel(expected), rtol=0.02)


# -- field strengths ------------------------------------------------------------------------------------------------


def test_the_published_law():
    """Rooney et al. 2007, by hand: T1 of gray matter 1.29 s at 3 T, 1.78 s at 7 T with their coefficients."""
    for field in (1.5, 3.0, 7.0):
        hertz = 42.577478518e6 * field
        assert 1 / tissue_r1("gray", field) == pytest.approx(0.00116 * math.exp(0.376 * math.log(hertz)))
        assert 1 / tissue_r1("white", field) == pytest.approx(0.00071 * math.exp(0.382 * math.log(hertz)))
        assert tissue_r1("csf", field) == pytest.approx(0.231, abs=5e-4)


@pytest.mark.parametrize(("start", "end"), [(3, 7), (1.5, 3), (7, 3), (3, 3)])
def test_conversions(start, end):
    curve, power = FieldConversion(start, end, "curve"), FieldConversion(start, end, "power")
    for tissue in ("csf", "gray", "white"):
        assert curve(tissue_r1(tissue, start)) == pytest.approx(tissue_r1(tissue, end))
    assert power(tissue_r1("gray", start)) == pytest.approx(tissue_r1("gray", end))
    np.testing.assert_allclose(power(np.array([0.5, 2.0])), np.array([0.5, 2.0]) * (start / end) ** 0.376)
    r1 = np.linspace(0.1, 3, 50)
    for there, back in (
        (curve, FieldConversion(end, start, "curve")),
        (power, FieldConversion(end, start, "power")),
    ):
        np.testing.assert_allclose(back(there(r1)), r1)
    # End segments are extended, not flat.
    assert np.ptp(np.diff(curve(np.array([0.01, 0.06, 0.11])))) < 1e-12
    np.testing.assert_allclose(curve.slope(r1)[:-1], np.diff(curve(r1)) / np.diff(r1), atol=0.1)
    assert FieldConversion(start, end, "power", 1.0)(1.0) == pytest.approx(start / end)


def test_exponents_by_tissue():
    r1, tissue = np.array([[1.0, 0.8], [0.5, 0.23]]), np.array([[1, 2], [2, 0]])
    found = voxelwise_conversion(r1, tissue, {0: 0.0, 1: 0.376, 2: 0.5}, 3, 7)
    np.testing.assert_allclose(found, r1 * (3 / 7) ** np.array([[0.376, 0.5], [0.5, 0.0]]))
    with pytest.raises(InputError, match="label 2"):
        voxelwise_conversion(r1, tissue, {0: 0.0, 1: 0.376}, 3, 7)


# -- smoothing, modulation, shares ----------------------------------------------------------------------------------


def test_smoothing_is_scipys_and_keeps_the_mass():
    image = np.zeros((21, 23, 25))
    image[8:13, 9:14, 10:15] = np.random.default_rng(0).random((5, 5, 5))
    fwhm, voxel = (1.0, 2.0, 3.0), (1.0, 1.0, 1.5)
    sigma = np.array(fwhm) / 2.3548200450309493 / voxel
    ours = smooth(image, fwhm, voxel)
    np.testing.assert_allclose(ours, gaussian_filter(image, sigma, mode="constant"), atol=1e-6)
    assert ours.sum() == pytest.approx(image.sum(), rel=1e-6)
    np.testing.assert_array_equal(smooth(image, 0, voxel), image.astype(np.float32))
    mask = image > 0
    inside = smooth(np.where(mask, 7.0, 100.0), fwhm, voxel, mask)
    np.testing.assert_allclose(inside[mask], 7, rtol=1e-6)
    assert not inside[~mask].any()


def test_the_sum_of_determinants_is_the_volume():
    """A subject twice as large as the template along one axis: content doubles, concentration does not."""
    concentration = np.full(100, 3.0, dtype=np.float32)
    jacobian = np.full(100, 2.0)
    assert modulate(concentration, jacobian).sum() == pytest.approx(2 * concentration.sum())


def test_shares_by_hand():
    iron, myelin, labels = np.array([100.0, 300, 0, 0]), np.array([0.1, 0.3, 5, 5]), np.array([4, 4, 0, 0])
    found = shares(iron, myelin, labels, MODEL)
    assert list(found) == [4]
    a, b = (1.43e-4 * 100) ** 2, (6.85e-2 * 0.1) ** 2  # SDs are 100 and 0.1
    assert found[4]["qsm"].by_variance == pytest.approx((a / (a + b), b / (a + b)))
    a, b = 2.23e-4 * 200, 1.07 * 0.2
    assert found[4]["r1"].by_mean == pytest.approx((a / (a + b), b / (a + b)))


def test_the_published_shares_are_linear():
    """Thalamus, Pontillo et al. 2021: iron makes 88 % of QSM and 42 % of R1, of one ratio x of iron to myelin.

    The printed QSM share, with its rounding, bounds x; the shares of R1 that follow must include the printed one.
    """
    (a, b), (c, d) = (1.43e-4, 6.85e-2), (2.23e-4, 1.07)

    def implied(power):
        ratios = [(s / (1 - s)) ** (1 / power) * b / a for s in (0.875, 0.885)]
        return ratios, [(c * x) ** power / ((c * x) ** power + d**power) for x in ratios]

    ratios, (low, high) = implied(1)
    assert low < 0.42 < high
    assert high - low < 0.025
    assert implied(2)[1][1] < 0.08  # nowhere near
    for x, qsm, r1 in zip(ratios, (0.875, 0.885), (low, high)):
        for myelin in (0.24, -0.24):  # signs do not matter
            means = (x * myelin, abs(myelin))
            assert Share.of(MODEL.qsm, means, (0, 0)).by_mean[0] == pytest.approx(qsm)
            assert Share.of(MODEL.r1, means, (0, 0)).by_mean[0] == pytest.approx(r1)
    squared = Share.of(MODEL.r1, (0, 0), (ratios[0] ** 2, 1))
    assert squared.by_variance[0] == pytest.approx(implied(1)[1][0] ** 2 / (low**2 + (1 - low) ** 2))
    assert squared.by_mean == (0, 0)
    assert np.isnan(Share.of(MODEL.r1, (np.nan, 1), (1, 1)).by_mean).all()


# -- on a device ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
@pytest.mark.parametrize("threads", [1, 3])
def test_the_kernel_gives_the_same(threads):
    _, _, qsm, r1 = cohort(3000)
    qsm, r1 = qsm.astype(np.float32), r1.astype(np.float32)
    qsm[5], r1[6], r1[7], qsm[8], r1[9], r1[10] = np.nan, np.nan, 0, np.inf, -np.inf, -1
    jacobian = np.random.default_rng(1).uniform(0.5, 2, len(qsm)).astype(np.float32)
    mask = (np.arange(len(qsm)) < 400).astype(np.uint8)
    device = ShimDevice(max_threads=threads)
    on_device = [device.upload(array) for array in (qsm, r1, jacobian, mask)]
    for conversion in (None, FieldConversion(3, 7, "power"), FieldConversion(3, 7)):
        inversion = Inversion(MODEL, conversion)
        ours, n = inversion.means(*on_device[:2], on_device[3], device)
        expected, count = inversion.means(qsm, r1, mask)
        assert n == count == 394
        np.testing.assert_allclose(ours, expected, rtol=1e-12)
        for j, j_device in ((None, None), (jacobian, on_device[2])):
            theirs = inversion.invert(qsm, r1, (3.0, 0.1), j)
            np.testing.assert_array_equal(
                device.download(inversion.invert(*on_device[:2], (3.0, 0.1), j_device, device)), theirs
            )


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: FieldConversion(0, 7), "0 T"),
        (lambda: FieldConversion(3, float("nan")), "nan T"),
        (lambda: FieldConversion(3, 7, "linear"), "power or curve"),
        (lambda: FieldConversion(3, 7, exponent=float("inf")), "exponent"),
        (lambda: TissueModel((1, 2, 0), (2, 4, 0)), "singular"),
        (lambda: TissueModel((1, float("nan"), 0), (2, 4, 0)), "not a number"),
        (lambda: modulate([1.0, 1.0], [0.5, -0.1]), "not positive numbers in 1 of 2 voxels"),
        (lambda: check_jacobian([np.inf, 1.0]), "not positive numbers in 1"),
        (lambda: check_jacobian([np.nan, 1.0]), "not positive numbers in 1"),
        (lambda: smooth(np.zeros((2, 2, 2)), -1, (1, 1, 1)), "at least 0"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(InputError, match=says):
        make()


GOOD = (Path(__file__).parent.parent / "gpuvox" / "relaxation" / "stueber2014.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("version = 1", "version = 2", "version 2"),
        ("constant = -1.13", "", "'constant' is missing"),
        ("iron = 1.43e-4", 'iron = "much"', "could not convert"),
        ("[r1]", "[r2]", "'r1' is missing"),
        ("[qsm]", "[qsm", "not a model"),
        ("field = 7.0", "field = [7]", "not a model"),
    ],
)
def test_models_of_ones_own(old, new, says, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert TissueModel.read(path) == MODEL
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(FileError, match=says) as raised:
        TissueModel.read(path)
    assert raised.value.file == str(path)
    assert "mine.toml" in str(raised.value)
    with pytest.raises(FileError, match="cannot be read"):
        TissueModel.read(tmp_path / "none.toml")
