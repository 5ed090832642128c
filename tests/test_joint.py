"""One null distribution for both signs, or for several tests, against naive functions written from the definitions."""

import numpy as np
import oracle
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpuvox.analysis import Inputs, Options, analyse, prepare
from gpuvox.grid import Grid
from gpuvox.joint import JointNull
from gpuvox.shuffle import effective_labels
from gpuvox.signed_rows import to_one
from gpuvox.statistics import Statistics
from gpuvox.tfce import Tfce
from tests.cuda_on_cpu.shim import CXX, ShimDevice

SHAPE = (5, 4, 4)
GRID = Grid(np.ones(SHAPE, dtype=bool))
KINDS = Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True)


def problem(kind, seed=0):
    """Design and contrast of few permutations that negate the effect, of a covariate with nuisance, or of flips."""
    rng = np.random.default_rng(seed)
    if kind == "balanced groups":
        design, contrast = np.kron(np.eye(2), np.ones((3, 1))), [[1.0, -1]]
    elif kind == "covariate and nuisance":
        design, contrast = np.c_[np.ones(9), rng.normal(size=(9, 2))], [[0.0, 1, 0]]
    else:
        design, contrast = np.ones((6, 1)), [[1.0]]
    data = rng.normal(size=(len(design), GRID.n_voxels)).astype(np.float32)
    data[: len(design) // 2, :20] += 1.2
    data[: len(design) // 2, 40:60] -= 1.5
    return data, design, np.array(contrast)


def results_of(data, design, contrasts, effective=None, **options):
    contrasts = np.asarray(contrasts)
    inputs = Inputs(data, GRID, design, contrasts, np.zeros((0, len(contrasts))), effective_design=effective)
    return list(analyse(prepare(inputs, Options(**{"threads": 1, "seed": 3, **options}))))


def maps_of(result, data, design):
    shuffles = to_one(result.shuffler.shuffles(0, result.shuffler.n))
    return oracle.statistic_maps(data, design, result.test.contrast, shuffles)


def values_of(kind, t, step):
    """(V,) Naive values of one direction."""
    if kind == "vox":
        return t
    if kind == "clustere":
        return oracle.cluster_extent(t, GRID.mask, 1.5)
    if kind == "clusterm":
        return oracle.cluster_mass(t, GRID.mask, 1.5)
    return step * oracle.tfce(t, GRID.mask, step)


def share_below(null, observed, slack=2e-5):
    """1 − p; float32 and float64 round values apart, which must not decide."""
    null, observed = np.sort(null), np.asarray(observed)
    return np.searchsorted(null, observed - slack * np.abs(observed), side="left") / len(null)


@pytest.mark.parametrize("kind", ["balanced groups", "covariate and nuisance", "flips"])
def test_two_sided_p_is_that_of_the_larger_of_both_signs(kind):
    data, design, contrast = problem(kind)
    statistics = Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True, two_sided=True)
    (result,) = results_of(data, design, contrast, statistics=statistics, n_permutations=100, flip=kind == "flips")
    maps = maps_of(result, data, design)
    assert_allclose(result.maps["stat"], maps[0], rtol=1e-4, atol=1e-5)
    step = float(np.float32(np.abs(maps[0]).max() / 100))
    for name in ("vox", "clustere", "clusterm", "tfce"):
        larger = np.array([np.maximum(values_of(name, t, step), values_of(name, -t, step)) for t in maps])
        expected = share_below(larger.max(axis=1), larger[0])
        assert_allclose(result.maps[f"{name}_corrp"], expected, atol=1e-6, err_msg=name)
        uncorrected = (larger < larger[0] * (1 - 2e-5)).mean(axis=0)
        assert_allclose(result.maps[f"{name}_p"], uncorrected, atol=1e-6, err_msg=name)
        if name != "vox":
            signed = values_of(name, maps[0], step) - values_of(name, -maps[0], step)
            weight = step if name == "tfce" else 1
            assert_allclose(result.maps[name] * weight, signed, rtol=1e-4, atol=1e-4, err_msg=name)
    assert result.two_sided
    if kind == "balanced groups":  # exchanging the groups negates every map, and ties
        counts = np.round((1 - result.maps["tfce_corrp"].astype(float)) * 20)
        assert_array_equal(counts % 2, 0)


def test_two_sided_equals_correction_over_a_contrast_and_its_negative():
    data, design, contrast = problem("covariate and nuisance")
    both = np.vstack([contrast, -contrast])
    pair = results_of(data, design, both, statistics=KINDS, n_permutations=80, joint_steps=True)
    two_sided = Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True, two_sided=True)
    (single,) = results_of(data, design, contrast, statistics=two_sided, n_permutations=80)
    joint = JointNull(pair)
    for name in ("vox", "clustere", "clusterm", "tfce"):
        up, down = (joint.corrected(result)[name] for result in pair)
        assert_array_equal(single.maps[f"{name}_corrp"], np.maximum(up, down), err_msg=name)


def three_groups(seed=1):
    rng = np.random.default_rng(seed)
    design = np.kron(np.eye(3), np.ones((4, 1)))
    data = rng.normal(size=(12, GRID.n_voxels)).astype(np.float32)
    data[:4, :25] += 1.5
    pairs = np.array([[1.0, -1, 0], [1, 0, -1], [0, 1, -1]])
    return data, design, np.vstack([pairs, -pairs])


def test_across_tests_p_is_that_of_the_largest_of_all():
    data, design, contrasts = three_groups()
    labels = np.column_stack([effective_labels(design @ np.linalg.pinv(c[None])) for c in contrasts]).astype(float)
    results = results_of(data, design, contrasts, labels, statistics=KINDS, n_permutations=60, joint_steps=True)
    shuffles = results[0].shuffler.shuffles(0, 60)
    assert all((result.shuffler.shuffles(0, 60) == shuffles).all() for result in results)
    maps = [maps_of(result, data, design) for result in results]
    step = float(np.float32(max(each[0].max() for each in maps) / 100))
    joint = JointNull(results)
    for name in ("vox", "clustere", "clusterm", "tfce"):
        values = np.array(
            [[values_of(name, t, step) for t in each] for each in maps]
        )  # tests, permutations, voxels
        null = np.maximum(values.max(axis=(0, 2)), 0 if name != "vox" else -np.inf)
        for result, own in zip(results, values[:, 0]):
            assert_allclose(joint.corrected(result)[name], share_below(null, own), atol=1e-6, err_msg=name)
            assert (joint.corrected(result)[name] <= result.maps[f"{name}_corrp"]).all()


def test_tests_of_several_images_are_compared_on_one_scale():
    """TFCE of FSL is larger the smaller its steps are; the joint null multiplies it by the step."""
    data, design, contrasts = three_groups()
    large = results_of(data + 8 * design[:, :1], design, contrasts[:2], statistics=KINDS, n_permutations=40)
    small = results_of(data, design, contrasts[:2], statistics=KINDS, n_permutations=40)
    for result in (*large, *small):
        assert result.weights == {
            "vox": 1.0, "clustere": 1.0, "clusterm": 1.0, "tfce": pytest.approx(result.maps["stat"].max() / 100)
        }  # fmt: skip
    joint = JointNull([*large, *small])
    highest = max((result.nulls["tfce"] * result.weights["tfce"]).max() for result in (*large, *small))
    assert joint.maxima["tfce"].max() == highest


def test_tests_of_other_numbers_of_permutations_have_no_joint_null():
    data, design, contrasts = three_groups()
    first, second = (
        results_of(data, design, contrasts[:1], statistics=Statistics(), n_permutations=n) for n in (5, 6)
    )
    with pytest.raises(ValueError, match="has 6 permutations, and other tests 5"):
        JointNull([*first, *second])


def test_the_step_of_all_tests_is_that_of_the_largest():
    data, design, contrasts = three_groups()
    data[:, :3] += 300 * design[:, 2:]
    with_tfce = {"statistics": Statistics(False, Tfce()), "n_permutations": 5}
    apart = results_of(data, design, contrasts, **with_tfce)
    joint = results_of(data, design, contrasts, joint_steps=True, **with_tfce)
    steps = [result.records["tfce_step"] for result in joint]
    largest = max(result.maps["stat"].max() for result in apart)
    assert steps == [pytest.approx(largest / 100)] * 6
    assert any("of all tests is about" in warning for result in joint for warning in result.warnings)


@pytest.mark.long
@pytest.mark.skipif(CXX is None, reason="no C++ compiler to run the kernels on the CPU")
@pytest.mark.parametrize("kind", ["balanced groups", "covariate and nuisance"])
def test_two_sided_has_the_same_bits_on_a_device(kind):
    data, design, contrast = problem(kind)
    statistics = Statistics(True, Tfce(), 1.5, 1.5, uncorrected=True, two_sided=True)
    options = {"statistics": statistics, "n_permutations": 40, "joint_steps": True}
    (cpu,), (device,) = (
        results_of(data, design, contrast, device=each, **options) for each in (None, ShimDevice())
    )
    assert cpu.maps.keys() == device.maps.keys()
    for name, values in cpu.maps.items():
        assert_array_equal(device.maps[name], values, err_msg=name)
